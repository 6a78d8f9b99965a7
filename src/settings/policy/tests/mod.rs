//! Reading policy files.

mod contract;

use std::path::Path;

use super::*;
use crate::oci::Registry;
use crate::policy::{Digests, Moved};

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
fn the_keys_of_content_hold_recall_and_exception_are_read() {
    let text = format!(
        r##"{HEAD}[require]
platforms = ["linux/amd64", "linux/arm/v7"]
labels = ["team"]
{SOURCE}age = {{ max = "45d" }}
artifacts = ["application/vnd.cncf.helm.config.v1+json"]
base = {{ names = ["gcr.io/distroless/*"] }}
index = "any"
labels = {{ "org.opencontainers.image.source" = "https://github.com/a/*" }}
modes = {{ age = "warn", platforms = "observe", user = "warn", "user.named" = "enforce" }}
size = {{ max = "1GiB", layer = "500MiB", layers = 40 }}
tags = {{ allow = ["#"], hold = "72h", hold_first = "serve" }}
user = {{ min_uid = 10_001, names = ["nonroot"] }}
[[recall]]
id = "RC-1"
reason = "CVE"
digests = ["sha256:{hex}"]
layers = ["sha256:{hex}"]
diff_ids = ["sha256:{hex}"]
images = ["ghcr.io/a/b:1", "ghcr.io/a/c"]
replace = "ghcr.io/a/b:2"
[[exception]]
id = "EX-1"
image = "ghcr.io/a/b:1"
waive = ["user.min_uid", "age", "platform.not_allowed"]
reason = "r"
ticket = "T-1"
requested_by = "a"
approved_by = "b"
approved = 2026-11-20
expires = "2027-01-31"
[[test]]
pull = "ghcr.io/a/b:1"
expect = "hold"
because = ["hold", "user.named"]
facts = {{ created = "2026-11-10", user = "10001", layers = ["sha256:{hex}"], first_seen = "2026-11-10", platform = "linux/amd64", labels = {{ a = "b" }}, size = "1MiB", artifact = "x/y", diff_ids = [], annotations = {{ k = "v" }} }}
"##,
        hex = "1".repeat(64)
    );
    let policy = read(&text).unwrap();
    let source = policy.sources().next().unwrap();
    let told = source.content_words();
    assert_eq!(told["age"], "at most 45d by annotation, config, first_seen, dates from 2000-01-01 on");
    assert_eq!(told["platforms"], "linux/amd64, linux/arm/v7", "a leaf of [require] stays");
    assert_eq!(
        told["labels"], "org.opencontainers.image.source=https://github.com/a/*",
        "a written one replaces"
    );
    assert_eq!(
        told["size"],
        "at most 1073741824 bytes, layers of at most 524288000 bytes, at most 40 layers"
    );
    assert_eq!(told["user"], "uid 10001 to 2147483647, or nonroot");
    assert_eq!((told["base"].as_str(), told["index"].as_str()), ("built on gcr.io/distroless/*", "any"));
    assert_eq!(told["artifacts"], "application/vnd.cncf.helm.config.v1+json");
    let modes = [Code::Age, Code::PlatformNotAllowed, Code::UserMinUid, Code::UserNamed, Code::Label];
    let modes = modes.map(|code| source.mode_for(code).as_str());
    assert_eq!(modes, ["warn", "observe", "warn", "enforce", "enforce"]);
    let [recall] = policy.recalls() else { panic!("one recall") };
    assert_eq!(
        (recall.images.len(), recall.images[0].1.is_some(), recall.images[1].1.is_some()),
        (2, true, false)
    );
    assert_eq!((&*recall.id, &*recall.at), ("RC-1", "policy.toml:18"));
    let [exception] = policy.exceptions() else { panic!("one exception") };
    assert_eq!((exception.waive.len(), exception.expires.to_string().as_str()), (3, "2027-01-31"));
    let given = &policy.tests()[0].facts;
    assert_eq!((given.user.as_deref(), given.size, given.layers.len()), (Some("10001"), Some(1 << 20), 1));
    assert!(given.created.is_some() && given.first_seen.is_some() && given.platform.is_some());
    assert_eq!(given.labels.as_ref().map(std::collections::BTreeMap::len), Some(1));
}

#[test]
fn a_recall_or_an_exception_with_a_mistake_is_a_load_error() {
    let exception = |change: &dyn Fn(&str) -> String| {
        let whole = "[[exception]]\nid = \"EX-1\"\nimage = \"ghcr.io/a/b:1\"\nwaive = [\"age\"]\nreason = \"r\"\nticket = \"t\"\nrequested_by = \"a\"\napproved_by = \"b\"\napproved = 2026-11-20\nexpires = 2027-01-31\n";
        first(&format!("{HEAD}{}", change(whole))).1
    };
    let replaced = |from: &'static str, to: &'static str| move |whole: &str| whole.replace(from, to);
    for (from, to, says) in [
        ("b:1\"", "*:1\"", "holds a wildcard"),
        ("b:1\"", "b\"", "names a repository"),
        ("[\"age\"]", "[\"recall\"]", "cannot be waived by anybody"),
        ("[\"age\"]", "[\"media.refused\"]", "is waived as \"media\""),
        ("[\"age\"]", "[\"agee\"]", "did you mean \"age\"?"),
        ("[\"age\"]", "[]", "waives nothing"),
        ("ticket = \"t\"\n", "", "[[exception]] lacks `ticket`"),
        ("approved_by = \"b\"", "approved_by = \"A\"", "asked for the exception and approved it"),
        ("expires = 2027-01-31", "expires = 2027-02-19", "longer than 90 days"),
        ("expires = 2027-01-31", "expires = 2027-01-31T00:00:00Z", "is no date"),
        ("expires = 2027-01-31", "", "[[exception]] lacks `expires`"),
    ] {
        let message = exception(&replaced(from, to));
        assert!(message.contains(says), "{message}");
    }
    for (text, says) in [
        ("[[recall]]\nid = \"R\"\nreason = \"r\"\n", "names nothing"),
        ("[[recall]]\nid = \"R\"\nimages = [\"ghcr.io/a/b\"]\n", "[[recall]] lacks `reason`"),
        ("[[recall]]\nid = \"R\"\nreason = \"r\"\nlayers = [\"sha256:12\"]\n", "malformed digest"),
        ("[[recall]]\nid = \"R\"\nreason = \"r\"\nimage = \"x\"\n", "unknown key `image` in [[recall]]"),
    ] {
        let (line, message, _) = first(&format!("{HEAD}{text}"));
        assert!(message.contains(says) && line >= 3, "{line}: {message}");
    }
}

#[test]
fn a_misspelt_key_or_word_is_shown_with_what_was_meant() {
    let (line, message, help) = first(&format!("{HEAD}{SOURCE}tgas = {{ allow = [] }}\n"));
    assert_eq!((line, message.as_str()), (6, "unknown key `tgas` in [[source]]"));
    assert_eq!(help, "did you mean `tags`?");
    let (_, message, help) = first(&format!("{HEAD}{SOURCE}zebra = 1\n"));
    assert_eq!(message, "unknown key `zebra` in [[source]]");
    assert!(help.starts_with("[[source]] takes age, artifacts, base, clients"), "{help}");
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
        ("modes = { tag.moved = \"warn\" }", "in quotes, as \"tag.moved\""),
        ("modes = { closure = \"warn\" }", "unknown key `closure` in modes"),
        ("age = { clock = [\"config\"] }", "age lacks `max`"),
        ("age = { max = \"soon\" }", "is no duration"),
        ("age = { max = \"0s\" }", "no image is younger"),
        ("age = { max = \"1d\", clock = [\"moon\"] }", "one of annotation, config, first_seen"),
        ("age = { max = \"1d\", clock = [] }", "without a clock"),
        ("user = { min_uid = -1 }", "a number from 0 on"),
        ("user = { min_uid = 2147483648 }", "is a uid"),
        ("user = { uid = 1 }", "unknown key `uid` in user"),
        ("user = 10001", "`user` is a table"),
        ("platforms = [\"amd64\"]", "is no platform"),
        ("platforms = [\"linux/amd64/v1/x\"]", "is no platform"),
        ("labels = [1]", "`labels` is a list of texts"),
        ("labels = { team = 1 }", "`team` is a text"),
        ("size = \"big\"", "is no size"),
        ("size = { layers = \"3\" }", "`layers` is a number"),
        ("artifacts = \"some\"", "\"allow\", \"deny\" or a list"),
        ("artifacts = [\"helm\"]", "is no media type"),
        ("index = \"none\"", "one of all, any"),
        ("tags = { hold = \"3 days\" }", "is no duration"),
        ("tags = { hold_first = \"no\" }", "one of refuse, serve"),
        ("base = { digests = [\"x\"] }", "malformed digest"),
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
    let error = read(&format!("{HEAD}{SOURCE}age = {{ maxx = \"45d\", max = \"1d\" }}\n")).unwrap_err();
    assert_eq!(error.to_string(), "config/policy.toml:6: unknown key `maxx` in age");
    let theme = miette::GraphicalTheme::unicode_nocolor();
    let mut shown = String::new();
    miette::GraphicalReportHandler::new_themed(theme).render_report(&mut shown, &error).unwrap();
    assert!(shown.contains("config/policy.toml:6:9") && shown.contains("age = { maxx = \"45d\""), "{shown}");
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
