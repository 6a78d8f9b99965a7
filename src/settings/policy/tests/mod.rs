//! Reading policy files.

mod contract;

use std::path::Path;

use super::*;
use crate::oci::Registry;

const HEAD: &str = "name = \"t\"\nrevision = \"1\"\n";
const SOURCE: &str = "[[source]]\nid = \"a\"\nmatch = \"ghcr.io/a/*\"\n";

fn read(text: &str) -> Result<Policy, FileError> {
    parse(Path::new("config/policy.toml"), text)
}

/// What is wrong with a text: line, message and help of each problem.
fn wrong(text: &str) -> Vec<(usize, String, String)> {
    let error = read(text).expect_err(text);
    let line = |problem: &Problem| {
        problem.span.as_ref().map_or(0, |span| crate::settings::diagnostic::line_of(text, span.start))
    };
    error
        .problems()
        .iter()
        .map(|problem| (line(problem), problem.message.clone(), problem.help.clone().unwrap_or_default()))
        .collect()
}

fn first(text: &str) -> (usize, String, String) {
    wrong(text).into_iter().next().unwrap()
}

#[test]
fn a_policy_needs_a_name_and_a_revision_and_nothing_else() {
    let policy = read(HEAD).unwrap();
    assert_eq!((policy.name(), policy.revision(), policy.mode()), ("t", "1", Mode::Enforce));
    assert_eq!(policy.sha256(), Digest::sha256(HEAD.as_bytes()));
    assert!(policy.registries().is_empty());
    let messages: Vec<String> = wrong("").into_iter().map(|(_, message, _)| message).collect();
    assert_eq!(messages, ["the policy lacks `name`", "the policy lacks `revision`"]);
}

#[test]
fn every_key_of_this_version_is_read_with_its_line() {
    let text = format!(
        r##"{HEAD}mode = "warn"
unlisted = ["index.docker.io"]
[help]
contact = "#us"
url = "https://x.example/{{id}}"
[require]
digests = "any"
mode = "observe"
modes = {{ "tag.moved" = "warn", digest = "enforce", media = "warn", tag = "observe" }}
tags = {{ allow = ["#.#"], deny = ["rc*"], moved = "deny" }}
clients = ["ci"]
{SOURCE}tags.moved = "follow"
clients = ["ci", "dev"]
[[pin]]
image = "ghcr.io/a/b:1.0"
digest = "sha256:{hex}"
[[pin]]
image = "ghcr.io/a/c"
digest = "sha256:{hex}"
[[test]]
pull = "ghcr.io/a/b:2.0"
expect = "warn"
because = ["tag.moved"]
facts = {{ digest = "sha256:{hex}", locked = "sha256:{hex}", tags = ["1.0"] }}
client = "ci"
at = 2026-11-20
"##,
        hex = "1".repeat(64)
    );
    let policy = read(&text).unwrap();
    assert_eq!(policy.mode(), Mode::Warn);
    assert_eq!(policy.help().url.as_deref(), Some("https://x.example/{id}"));
    assert!(policy.registries().contains(&Registry::docker_hub()));
    let source = policy.sources().next().unwrap();
    assert_eq!((source.id(), source.at(), source.mode()), ("a", "policy.toml:14", Mode::Observe));
    assert_eq!((source.moved(), source.digests()), (Moved::Follow, Digests::Any));
    assert_eq!(source.clients().unwrap().len(), 2);
    assert_eq!(source.pattern().unwrap().to_string(), "ghcr.io/a/*");
    let mut pins: Vec<_> = policy.pins().map(|pin| (pin.tag.as_ref().map(Tag::as_str), &*pin.at)).collect();
    pins.sort_unstable();
    assert_eq!(pins, [(None, "policy.toml:22"), (Some("1.0"), "policy.toml:19")]);
    let [test] = policy.tests() else { panic!("one test") };
    assert_eq!(test.time.unwrap().to_string(), "2026-11-20T00:00:00Z");
    assert_eq!((test.expect, test.because.as_slice()), (Verdict::Warn, &[Code::TagMoved][..]));
    assert_eq!((test.client.as_deref(), &*test.at), (Some("ci"), "policy.toml:25"));
    assert!(test.facts.digest.is_some() && test.facts.locked.is_some() && test.facts.tags.len() == 1);
}

#[test]
fn a_rule_of_a_later_version_is_refused_by_name_wherever_it_stands() {
    let cases = [
        ("age = { max = \"45d\" }", "age"),
        ("user = { min_uid = 10001 }", "user"),
        ("platforms = [\"linux/amd64\"]", "platforms"),
        ("labels = {}", "labels"),
        ("size = \"1GiB\"", "size"),
        ("artifacts = \"deny\"", "artifacts"),
        ("index = \"any\"", "index"),
        ("tags = { hold = \"72h\" }", "hold"),
        ("tags = { hold_first = \"serve\" }", "hold_first"),
        ("modes = { age = \"warn\" }", "age"),
    ];
    for (line, key) in cases {
        for text in [format!("{HEAD}{SOURCE}{line}\n"), format!("{HEAD}\n\n[require]\n{line}\n")] {
            let (at, message, _) = first(&text);
            assert_eq!(message, format!("`{key}` is not enforced by this version; remove it"));
            assert_eq!(at, 6, "{text}");
        }
    }
    for (text, key) in [
        (format!("{HEAD}[[recall]]\nid = \"RC-1\"\n"), "recall"),
        (format!("{HEAD}[[exception]]\nid = \"EX-1\"\n"), "exception"),
        (format!("{HEAD}[[test]]\npull = \"x\"\nexpect = \"deny\"\nfacts = {{ user = \"root\" }}\n"), "user"),
        (format!("{HEAD}[[test]]\npull = \"x\"\nexpect = \"deny\"\nbecause = [\"recall\"]\n"), "recall"),
    ] {
        assert_eq!(first(&text).1, format!("`{key}` is not enforced by this version; remove it"));
    }
}

#[test]
fn a_misspelt_key_or_word_is_shown_with_what_was_meant() {
    let (line, message, help) = first(&format!("{HEAD}{SOURCE}tgas = {{ allow = [] }}\n"));
    assert_eq!((line, message.as_str()), (6, "unknown key `tgas` in [[source]]"));
    assert_eq!(help, "did you mean `tags`?");
    let (_, message, help) = first(&format!("{HEAD}{SOURCE}zebra = 1\n"));
    assert_eq!(message, "unknown key `zebra` in [[source]]");
    assert!(help.starts_with("[[source]] takes clients, digests, id"), "{help}");
    let (_, message, help) = first(&format!("{HEAD}mode = \"enforced\"\n"));
    assert_eq!(message, "`mode` is one of enforce, observe, warn, not \"enforced\"");
    assert_eq!(help, "did you mean \"enforce\"?");
    let test = "[[test]]\npull = \"x\"\nexpect = \"deny\"\nbecause = [\"tag.deny\"]\n";
    assert_eq!(
        first(&format!("{HEAD}{test}")).1,
        "\"tag.deny\" is no reason code; did you mean \"tag.denied\"?"
    );
}

#[test]
fn wrong_values_are_load_errors_on_their_line() {
    for (line, says) in [
        ("tags = { allow = [\"a b\"] }", "is no tag"),
        ("tags = { allow = \"#\" }", "`allow` is a list of texts"),
        ("tags = { allow = [1] }", "not a value of type integer"),
        ("tags = []", "`tags` is a table"),
        ("tags = { moved = \"stay\" }", "one of deny, follow, keep"),
        ("digests = \"none\"", "one of any, known, listed"),
        ("mode = 1", "`mode` is one of enforce, observe, warn, not a value of type integer"),
        ("modes = { tag.moved = \"warn\" }", "write \"tag.moved\" in quotes"),
        ("clients = [\"\"]", "printable"),
    ] {
        let (at, message, _) = first(&format!("{HEAD}{SOURCE}{line}\n"));
        assert_eq!(at, 6, "{message}");
        assert!(message.contains(says), "{message}");
    }
    for (text, says) in [
        ("[[source]]\nid = \"a\"\nmatch = \"library/x\"\n", "names no registry"),
        ("[[source]]\nid = \"a b\"\nmatch = \"ghcr.io/x\"\n", "does not fit"),
        ("[[source]]\nmatch = \"ghcr.io/x\"\n", "[[source]] lacks `id`"),
        ("[source]\nid = \"a\"\n", "written as [[source]]"),
        ("unlisted = [\"docker.io/library\"]\n", "malformed registry"),
        ("[help]\nurl = \"javascript:x\"\n", "no web address"),
        ("[help]\ncontact = \"a\\u0007b\"\n", "printable"),
        ("[[pin]]\nimage = \"ghcr.io/a/b:1\"\n", "[[pin]] lacks `digest`"),
        ("[[pin]]\nimage = \"ghcr.io/a/b:1@sha256:00\"\ndigest = \"sha256:00\"\n", "malformed digest"),
        ("[[test]]\npull = \"x\"\n", "[[test]] lacks `expect`"),
        ("[[test]]\npull = \"x\"\nexpect = \"deny\"\nat = \"soon\"\n", "is no time"),
        ("name = \"again\"\n", "duplicate key"),
        ("mode = \n", ""),
    ] {
        let (_, message, _) = first(&format!("{HEAD}{text}"));
        assert!(message.contains(says), "{message}");
    }
}

#[test]
fn all_mistakes_are_shown_at_once() {
    let text = format!("{HEAD}mode = \"off\"\n{SOURCE}age = 1\ndigest = \"any\"\n");
    let lines: Vec<usize> = wrong(&text).into_iter().map(|(line, ..)| line).collect();
    assert_eq!(lines, [3, 7, 8]);
}

#[test]
fn what_only_the_whole_can_tell_points_at_its_item() {
    let text = format!("{HEAD}{SOURCE}[[source]]\nid = \"b\"\nmatch = \"ghcr.io/*/x\"\n");
    let (line, message, help) = first(&text);
    assert_eq!(line, 6);
    assert!(message.contains("equally specific"), "{message}");
    assert!(help.contains("narrower"), "{help}");
    let text = format!("{HEAD}[[pin]]\nimage = \"ghcr.io/b/x:1\"\ndigest = \"sha256:{}\"\n", "1".repeat(64));
    assert_eq!(first(&text).0, 3);
}

#[test]
fn the_wrong_line_is_shown_with_file_and_place() {
    let error = read(&format!("{HEAD}{SOURCE}age = {{ max = \"45d\" }}\n")).unwrap_err();
    assert_eq!(error.to_string(), "config/policy.toml:6: `age` is not enforced by this version; remove it");
    let theme = miette::GraphicalTheme::unicode_nocolor();
    let mut shown = String::new();
    miette::GraphicalReportHandler::new_themed(theme).render_report(&mut shown, &error).unwrap();
    assert!(shown.contains("config/policy.toml:6:1") && shown.contains("age = { max = \"45d\" }"), "{shown}");
}

#[test]
fn a_file_that_cannot_be_read_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.toml");
    assert!(load(&file).unwrap_err().to_string().contains("policy.toml"));
    std::fs::write(&file, b"name = \"\xff\"").unwrap();
    assert!(load(&file).unwrap_err().to_string().contains("policy.toml"));
    std::fs::write(&file, HEAD).unwrap();
    assert_eq!(load(&file).unwrap().name(), "t");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "(name|\\[\\[source\\]\\]|\\[help\\]|tags|=|\\.|\"|\\[|\\]|\\{|\\}|\n|[a-z#*]{1,3}){0,40}") {
        let _ = read(&text);
    }
}
