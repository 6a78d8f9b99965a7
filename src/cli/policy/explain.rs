//! `pullgate policy explain`: one pull, check by check.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use super::{Exit, Failure};
use crate::audit::{printable, printable_json};
use crate::cli::check;
use crate::clock::Clock;
use crate::oci::{NameError, Reference};
use crate::policy::{Explanation, Given, Owned, Policy, Source, Verdict};
use crate::settings::policy;

/// Explains what the policy says of an image: every check, the line it comes from, which source owns
/// the name and why, and what would make it pass.
///
/// Offline, as `pullgate check`: no registry and no gateway is asked. Checks that take facts are named.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate policy explain docker.io/library/python:3.11
  pullgate policy explain --client ci ghcr.io/acme/app:v1.2.3
  pullgate policy explain --at 2027-02-01 ghcr.io/acme/app:v1.2.3     as it will be judged then
  pullgate policy explain --json python:3.11 | jq '.checks[] | select(.result == \"fail\")'

Exit status: 0 allowed, 1 refused, 2 it cannot be judged (a bad file, a malformed name).")]
pub(super) struct Arguments {
    /// The image: [registry/]repository[:tag][@digest]
    #[arg(value_name = "IMAGE")]
    image: String,

    /// The policy file
    #[arg(long, value_name = "FILE", default_value = policy::DEFAULT_PATH)]
    policy: PathBuf,

    /// Judge as this [[client]]; without it as a client that no table names
    #[arg(long, value_name = "NAME")]
    client: Option<String>,

    /// The time of judging: 2026-11-20 (UTC), or RFC 3339; now when absent
    #[arg(long, value_name = "TIME", value_parser = moment)]
    at: Option<Timestamp>,

    /// One JSON object
    #[arg(long)]
    json: bool,
}

fn moment(text: &str) -> Result<Timestamp, String> {
    let midnight = || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
    let moment = text.parse().ok().or_else(midnight);
    moment.ok_or_else(|| "expected 2026-11-20 or 2026-11-20T12:00:00Z".to_owned())
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let policy = policy::load(&arguments.policy).map_err(Failure::unjudged)?;
    let reference: Reference = arguments.image.parse().map_err(Failure::usage)?;
    let registry = reference.name.registry();
    if registry.is_ip() && !policy.registries().contains(registry) {
        return Err(Failure::usage(NameError::IpLiteral(registry.to_string())));
    }
    let client: Option<Arc<str>> = arguments.client.as_deref().map(Into::into);
    let now = arguments.at.unwrap_or_else(|| Clock::system().now());
    let explanation = policy.explain(client.as_ref(), &reference, &Given::default(), now);
    if arguments.json {
        let object = object(&policy, &arguments.image, &reference, &explanation);
        writeln!(out, "{}", printable_json(object.to_string()))?;
    } else {
        print(&reference, &explanation, out)?;
    }
    Ok(if explanation.offline.verdict >= Verdict::Hold { Exit::No } else { Exit::Done })
}

fn print(reference: &Reference, explanation: &Explanation<'_>, out: &mut dyn Write) -> std::io::Result<()> {
    let offline = &explanation.offline;
    writeln!(out, "{} {reference}", check::colour(offline.verdict, 7))?;
    match explanation.owner {
        Owned::Source(source) => {
            writeln!(out, "\nsource  {}  {}", source.id().bold(), place(source))?;
            if !explanation.others.is_empty() {
                writeln!(
                    out,
                    "        it owns the name because its match is the most specific; these fit too:"
                )?;
            }
        }
        Owned::Unlisted => {
            writeln!(out, "\nsource  none; its registry is in `unlisted`, and the mode is soft")?;
        }
        Owned::Nobody => writeln!(out, "\nsource  none owns {}", reference.name)?,
    }
    for other in &explanation.others {
        writeln!(out, "        {}  {}", other.id(), place(other))?;
    }
    writeln!(out, "\nchecks")?;
    for one in &offline.decision.trace.checks {
        let word = if one.pass { "pass".green().to_string() } else { "FAIL".red().bold().to_string() };
        let at = one.at.as_deref().map(|at| format!("  {at}")).unwrap_or_default();
        writeln!(out, "  {word}  {}{}", one.id, at.dimmed())?;
        writeln!(out, "        observed: {}", printable(&one.observed))?;
        writeln!(out, "        expected: {}", printable(&one.expected))?;
        if let Some(exception) = &one.exception {
            writeln!(out, "        exception: {}", printable(exception))?;
        }
    }
    for need in &offline.needs {
        writeln!(out, "  {}  {need}  takes facts, which only a gateway has", "open".yellow())?;
    }
    list(out, "why", offline.reasons.iter().map(|reason| format!("{}: {}", reason.code, reason.text)))?;
    list(out, "what to pull instead", explanation.instead.iter().cloned())?;
    list(out, "what the policy would need", explanation.changes.iter().cloned())
}

fn list(out: &mut dyn Write, title: &str, items: impl Iterator<Item = String>) -> std::io::Result<()> {
    for (at, item) in items.enumerate() {
        if at == 0 {
            writeln!(out, "\n{title}")?;
        }
        writeln!(out, "  {}", printable(&item))?;
    }
    Ok(())
}

fn place(source: &Source) -> String {
    match source.pattern() {
        Some(pattern) => format!("{pattern}  {}", source.at()),
        None => source.at().to_owned(),
    }
}

fn object(policy: &Policy, asked: &str, reference: &Reference, explanation: &Explanation<'_>) -> Value {
    let offline = &explanation.offline;
    let source = |source: &Source| json!({ "id": source.id(), "match": source.pattern().map(ToString::to_string), "at": source.at() });
    json!({
        "asked": asked,
        "reference": reference.to_string(),
        "verdict": offline.verdict.as_str(),
        "source": match explanation.owner {
            Owned::Source(owner) => source(owner),
            Owned::Nobody | Owned::Unlisted => Value::Null,
        },
        "unlisted": matches!(explanation.owner, Owned::Unlisted),
        "others": explanation.others.iter().map(|other| source(other)).collect::<Vec<_>>(),
        "checks": check::checks(&offline.decision.trace),
        "needs": offline.needs,
        "reasons": offline.reasons.iter().map(check::reason).collect::<Vec<_>>(),
        "instead": explanation.instead,
        "changes": explanation.changes,
        "policy": {
            "name": policy.name(),
            "revision": policy.revision(),
            "sha256": policy.sha256().hex(),
            "mode": offline.decision.trace.mode,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explained(image: &str, json: bool) -> (String, Exit) {
        let arguments = Arguments {
            image: image.to_owned(),
            policy: "config/policy.toml".into(),
            client: None,
            at: None,
            json,
        };
        let mut out = anstream::StripStream::new(Vec::new());
        let exit = run(&arguments, &mut out).unwrap();
        (String::from_utf8(out.into_inner()).unwrap(), exit)
    }

    #[test]
    fn a_refused_tag_shows_each_check_its_line_and_what_would_change_it() {
        let (said, exit) = explained("docker.io/library/postgres:latest", false);
        assert_eq!(exit, Exit::No);
        for part in [
            "deny    docker.io/library/postgres:latest\n",
            "\nsource  postgres  docker.io/library/postgres  policy.toml:",
            "its match is the most specific; these fit too:\n        docker-official  docker.io/library/*  policy.toml:",
            "  pass  source  policy.toml:",
            "  FAIL  tag  policy.toml:",
            "        observed: latest\n",
            "\nwhy\n  tag.denied: ",
            "\nwhat the policy would need\n  a tags.deny of its own",
        ] {
            assert!(said.contains(part), "{part:?}\n{said}");
        }
    }

    #[test]
    fn what_to_pull_instead_comes_from_the_policy() {
        let (said, _) = explained("docker.io/pgvector/pgvector:0.8.0", true);
        let object: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(object["instead"], json!(["try docker.io/pgvector/pgvector:0.8.0-pg16"]));
        assert_eq!(object["source"]["id"], "pgvector");
        let change = object["changes"][0].as_str().unwrap();
        assert!(change.starts_with("\"0.8.0\" in tags.allow (policy.toml:"), "{change}");
    }

    #[test]
    fn a_waived_check_names_the_exception() {
        let policy = "name = \"t\"\nrevision = \"1\"\n[[source]]\nid = \"a\"\nmatch = \"r.io/a/x\"\ntags = { allow = [\"1.0\"] }\n\
            [[exception]]\nid = \"EX-1\"\nimage = \"r.io/a/x:2.0\"\nwaive = [\"tag\"]\nreason = \"r\"\nticket = \"T\"\n\
            requested_by = \"a\"\napproved_by = \"b\"\napproved = 2026-11-01\nexpires = 2026-12-01\n";
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        std::fs::write(&file, policy).unwrap();
        let explained = |json| {
            let arguments = Arguments {
                image: "r.io/a/x:2.0".to_owned(),
                policy: file.clone(),
                client: None,
                at: Some(moment("2026-11-20").unwrap()),
                json,
            };
            let mut out = anstream::StripStream::new(Vec::new());
            assert_eq!(run(&arguments, &mut out).unwrap(), Exit::Done);
            String::from_utf8(out.into_inner()).unwrap()
        };
        let object: Value = serde_json::from_str(&explained(true)).unwrap();
        let waived = |check: &&Value| check["id"] == "tag" && check["result"] == "fail";
        let check = object["checks"].as_array().unwrap().iter().find(waived).unwrap();
        assert_eq!(check["exception"], "EX-1");
        assert!(explained(false).contains("        exception: EX-1\n"));
    }

    #[test]
    fn an_allowed_image_names_the_facts_that_are_still_needed() {
        let (said, exit) = explained("python:3.11.9", false);
        assert!(said.contains("  open  media  takes facts"), "{said}");
        assert_eq!(exit, Exit::Done);
    }

    #[test]
    fn a_name_without_a_source_is_told_which_table_is_missing() {
        let (said, exit) = explained("quay.io/a/b:1.0.0", false);
        assert!(said.contains("source  none owns quay.io/a/b"), "{said}");
        assert!(said.contains("  a [[source]] with match = \"quay.io/a/b\", or broader"), "{said}");
        assert_eq!(exit, Exit::No);
    }

    #[test]
    fn a_malformed_name_or_file_ends_with_2() {
        for (image, file) in [
            ("Python:1", "config/policy.toml"),
            ("127.0.0.1/x:1", "config/policy.toml"),
            ("x", "no/such.toml"),
        ] {
            let arguments = Arguments {
                image: image.to_owned(),
                policy: file.into(),
                client: None,
                at: None,
                json: false,
            };
            assert_eq!(run(&arguments, &mut Vec::new()).unwrap_err().exit, Exit::Unjudged, "{image}");
        }
        assert_eq!(moment("2026-11-20").unwrap(), "2026-11-20T00:00:00Z".parse().unwrap());
        assert!(moment("soon").is_err());
    }
}
