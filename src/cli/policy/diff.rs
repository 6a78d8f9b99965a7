//! `pullgate policy diff`: two policies compared by what they do.

use std::io::Write;
use std::path::PathBuf;

use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use super::{Exit, Failure};
use crate::audit::{printable, printable_json};
use crate::clock::Clock;
use crate::policy::{Code, Difference, Judged, Witness};
use crate::settings::policy;

/// So many examples of one kind are shown to a person.
const SHOWN: usize = 30;

/// Compares two policies by what they do: what becomes allowed, what refused, with examples.
///
/// The examples are made of everything that either policy names (matches, patterns, pins, tests,
/// clients) and judged under both, offline. What is not among them may differ too; what nobody pulls
/// any more is told by `pullgate policy replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate policy diff config/policy.toml policy-next.toml
  pullgate policy diff <(git show main:config/policy.toml) config/policy.toml
  pullgate policy diff --json old.toml new.toml | jq -r '.refused[].reference'

Exit status: 0 they say and do the same, 1 they differ, 2 one of them cannot be read.")]
pub(super) struct Arguments {
    /// The policy in force
    #[arg(value_name = "OLD")]
    old: PathBuf,

    /// The policy that shall follow it
    #[arg(value_name = "NEW")]
    new: PathBuf,

    /// One JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let old = policy::load(&arguments.old).map_err(Failure::unjudged)?;
    let new = policy::load(&arguments.new).map_err(Failure::unjudged)?;
    let difference = old.difference(&new, Clock::system().now());
    if arguments.json {
        writeln!(out, "{}", printable_json(object(&difference).to_string()))?;
    } else {
        print(&difference, out)?;
    }
    Ok(if difference.is_empty() { Exit::Done } else { Exit::No })
}

fn print(difference: &Difference, out: &mut dyn Write) -> std::io::Result<()> {
    if !difference.changes.is_empty() {
        writeln!(out, "what the files say")?;
        for change in &difference.changes {
            writeln!(out, "  {}", printable(change))?;
        }
        writeln!(out)?;
    }
    let lists = [
        ("becomes allowed".green().to_string(), &difference.allowed),
        ("becomes refused".red().bold().to_string(), &difference.refused),
        ("differs otherwise".yellow().to_string(), &difference.altered),
    ];
    for (title, list) in lists {
        if list.is_empty() {
            continue;
        }
        writeln!(out, "{title}")?;
        for witness in list.iter().take(SHOWN) {
            writeln!(out, "  {}{}", witness.reference, supposed(witness))?;
            writeln!(out, "        {} → {}", words(&witness.old), words(&witness.new))?;
        }
        if list.len() > SHOWN {
            writeln!(out, "  … and {} more; --json shows them", list.len() - SHOWN)?;
        }
        writeln!(out)?;
    }
    let cut = if difference.cut { ", and there are more" } else { "" };
    writeln!(
        out,
        "{} changes; of {} examples{cut}: {} become allowed, {} refused, {} differ otherwise",
        difference.changes.len(),
        difference.judged,
        difference.allowed.len(),
        difference.refused.len(),
        difference.altered.len(),
    )
}

/// What the example supposes.
fn supposed(witness: &Witness) -> String {
    let client = witness.client.as_deref().map(|client| format!("for client {}", printable(client)));
    let given = (!witness.given.is_empty()).then(|| witness.given.to_owned());
    let parts: Vec<String> = client.into_iter().chain(given).collect();
    if parts.is_empty() { String::new() } else { format!("  ({})", parts.join("; ")) }
}

fn words(judged: &Judged) -> String {
    let codes: Vec<&str> = judged.codes.iter().map(|code| code.as_str()).collect();
    let source = judged.source.as_deref().map(|source| format!(" [{source}]")).unwrap_or_default();
    match codes.as_slice() {
        [] => format!("{}{source}", judged.verdict.as_str()),
        codes => format!("{} {}{source}", judged.verdict.as_str(), codes.join(", ")),
    }
}

fn object(difference: &Difference) -> Value {
    let judged = |judged: &Judged| {
        json!({
            "verdict": judged.verdict.as_str(),
            "reasons": judged.codes.iter().copied().map(Code::as_str).collect::<Vec<_>>(),
            "source": judged.source,
        })
    };
    let list = |list: &[Witness]| {
        let item = |witness: &Witness| {
            json!({
                "reference": witness.reference.to_string(),
                "client": witness.client,
                "supposed": witness.given,
                "old": judged(&witness.old),
                "new": judged(&witness.new),
            })
        };
        list.iter().map(item).collect::<Vec<_>>()
    };
    json!({
        "changes": difference.changes,
        "allowed": list(&difference.allowed),
        "refused": list(&difference.refused),
        "altered": list(&difference.altered),
        "judged": difference.judged,
        "cut": difference.cut,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "name = \"t\"\nrevision = \"1\"\n[require.tags]\nallow = [\"#.#.#\"]\ndeny = [\"latest\"]\n[[source]]\nid = \"a\"\nmatch = \"ghcr.io/a/*\"\n";

    fn compared(old: &str, new: &str, json: bool) -> (String, Exit) {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (folder.path().join("old.toml"), folder.path().join("new.toml"));
        std::fs::write(&one, old).unwrap();
        std::fs::write(&other, new).unwrap();
        let mut out = anstream::StripStream::new(Vec::new());
        let exit = run(&Arguments { old: one, new: other, json }, &mut out).unwrap();
        (String::from_utf8(out.into_inner()).unwrap(), exit)
    }

    fn references(old: &str, new: &str) -> [Vec<String>; 3] {
        let object: Value = serde_json::from_str(&compared(old, new, true).0).unwrap();
        ["allowed", "refused", "altered"].map(|key| {
            let list = object[key].as_array().unwrap();
            let words = |witness: &Value| {
                let client = witness["client"].as_str().map(|client| format!(" as {client}"));
                let supposed = witness["supposed"].as_str().filter(|words| !words.is_empty());
                format!(
                    "{}{}{}",
                    witness["reference"].as_str().unwrap(),
                    client.unwrap_or_default(),
                    supposed.map(|words| format!(" ({words})")).unwrap_or_default()
                )
            };
            list.iter().map(words).collect()
        })
    }

    #[test]
    fn equal_policies_end_with_0_whatever_their_comments_say() {
        let (said, exit) = compared(OLD, &format!("# a comment\n{OLD}"), false);
        assert!(said.starts_with("0 changes; of "), "{said}");
        assert_eq!(exit, Exit::Done);
        let shipped = include_str!("../../../config/policy.toml");
        assert_eq!(compared(shipped, shipped, true).1, Exit::Done);
    }

    #[test]
    fn a_wider_tag_pattern_is_shown_by_a_tag_that_becomes_allowed() {
        let (said, exit) = compared(OLD, &OLD.replace("\"#.#.#\"", "\"#.#.#\", \"#.#\""), false);
        assert_eq!(exit, Exit::No);
        assert!(said.contains("  source a: tags.allow: [#.#.#] → [#.#.#, #.#]\n"), "{said}");
        assert!(
            said.contains(
                "becomes allowed\n  ghcr.io/a/example:1.1\n        deny tag.not_allowed [a] → allow [a]\n"
            ),
            "{said}"
        );
        assert!(!said.contains("becomes refused"), "{said}");
    }

    #[test]
    fn each_kind_of_change_has_an_example() {
        let tag = "ghcr.io/a/example:1.1.1";
        let [allowed, refused, _] = references(OLD, &OLD.replace("ghcr.io/a/*", "quay.io/a/*"));
        assert!(allowed.contains(&"quay.io/a/example:1.1.1".to_owned()), "{allowed:?}");
        assert!(refused.contains(&tag.to_owned()), "{refused:?}");
        let [_, refused, _] = references(OLD, &OLD.replace("[\"latest\"]", "[\"latest\", \"rc*\"]"));
        assert_eq!(refused, Vec::<String>::new());
        let suffixed = OLD.replace("\"#.#.#\"", "\"#.#.#-*\"");
        let [_, refused, _] =
            references(&suffixed, &suffixed.replace("[\"latest\"]", "[\"latest\", \"rc*\"]"));
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].starts_with("ghcr.io/a/example:") && refused[0].contains("-rc"), "{refused:?}");
        let [_, refused, _] = references(OLD, &format!("{OLD}digests = \"known\"\n"));
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].starts_with("ghcr.io/a/example@sha256:"), "{refused:?}");
        let [_, refused, _] = references(OLD, &format!("{OLD}tags = {{ moved = \"deny\" }}\n"));
        assert_eq!(refused.len(), 1, "{refused:?}");
        assert!(refused[0].ends_with(" (the tag moved since it was locked)"), "{refused:?}");
        let [allowed, refused, altered] = references(OLD, &format!("{OLD}clients = [\"ci\"]\n"));
        assert_eq!((allowed.len(), altered.len()), (0, 2), "{allowed:?} {altered:?}");
        assert!(refused.contains(&tag.to_owned()), "{refused:?}");
        let [allowed, _, _] =
            references(OLD, &OLD.replace("revision = \"1\"\n", "revision = \"1\"\nmode = \"warn\"\n"));
        assert_eq!(allowed.len(), 2, "{allowed:?}");
        let pin =
            format!("{OLD}[[pin]]\nimage = \"ghcr.io/a/b:stable\"\ndigest = \"sha256:{}\"\n", "1".repeat(64));
        let [allowed, _, _] = references(OLD, &pin);
        assert_eq!(allowed, ["ghcr.io/a/b:stable"]);
    }

    #[test]
    fn a_file_that_cannot_be_read_ends_with_2() {
        let arguments =
            Arguments { old: "config/policy.toml".into(), new: "no/such.toml".into(), json: false };
        assert_eq!(run(&arguments, &mut Vec::new()).unwrap_err().exit, Exit::Unjudged);
    }
}
