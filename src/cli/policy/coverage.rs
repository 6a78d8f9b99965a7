//! `pullgate policy coverage`: which rules nobody met.

use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde_json::json;

use super::given::{Given, given};
use super::{Exit, Failure};
use crate::audit::{Reader, printable, printable_json};
use crate::cli::log::Since;
use crate::policy::{Coverage, Policy, Rule};
use crate::review::{Read, read_pulls};
use crate::settings::{gateway, policy};

/// Shows which sources, tag patterns, pins and exceptions nobody met for a while: candidates for removal.
///
/// What counts is which rules of this policy the recorded pulls meet, whichever policy judged them
/// then.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate policy coverage --since 90d
  pullgate policy coverage --all                                 with what was met, how often and when
  pullgate policy coverage --json | jq -r 'select(.pulls == 0) | .at'

Exit status: 0 shown, 2 it cannot be judged (a bad file, no record).")]
pub(super) struct Arguments {
    /// The policy file
    #[arg(long, value_name = "FILE", default_value = policy::DEFAULT_PATH)]
    policy: PathBuf,

    /// The gateway's configuration; its [storage] path is where the record is
    #[arg(long, value_name = "FILE", default_value = gateway::DEFAULT_PATH)]
    config: PathBuf,

    /// Pulls since: 90m, 1h, 90d, 2026-11-01, 2026-11-01T10:00 (UTC), or RFC 3339
    #[arg(long, value_name = "WHEN", default_value = "90d", value_parser = Since::parse)]
    since: Since,

    /// Show what was met too
    #[arg(long)]
    all: bool,

    /// One JSON object a line and rule, met or not
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let Given { policy, folder, now } = given(&arguments.policy, &arguments.config)?;
    crate::cli::block_on(show(arguments, &policy, &folder, now, out))?
}

async fn show(
    arguments: &Arguments,
    policy: &Policy,
    folder: &Path,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let since = arguments.since.moment(now);
    let mut coverage = Coverage::new(policy);
    let read = read_pulls(&Reader::open(folder).await?, since, None, |pull| coverage.add(&pull)).await?;
    let rules = coverage.rules();
    if arguments.json {
        for rule in &rules {
            writeln!(out, "{}", object(rule))?;
        }
    } else {
        print(arguments, since, &read, &rules, out)?;
    }
    Ok(Exit::Done)
}

fn print(
    arguments: &Arguments,
    since: Timestamp,
    read: &Read,
    rules: &[Rule],
    out: &mut dyn Write,
) -> std::io::Result<()> {
    for rule in rules {
        let words = format!("{:9}  {}", rule.kind.as_str(), printable(&rule.words));
        match &rule.met {
            None => writeln!(out, "{}  {}  {words}", "never".yellow(), rule.at)?,
            Some(met) if arguments.all => {
                let (pulls, last) = (met.pulls, met.last);
                writeln!(out, "{}  {}  {words}  {pulls} pulls, last {last:.0}", "met  ".green(), rule.at)?;
            }
            Some(_) => {}
        }
    }
    match read.begins {
        None => writeln!(out, "the record is empty, so nothing follows from this")?,
        Some(begins) if begins > since => {
            writeln!(out, "the record begins at {begins:.0}: what was met before is not in it")?;
        }
        Some(_) => {}
    }
    let unmet = rules.iter().filter(|rule| rule.met.is_none()).count();
    writeln!(out, "{} rules, {unmet} not met since {since:.0}", rules.len())
}

fn object(rule: &Rule) -> String {
    let met = rule.met.as_ref();
    let object = json!({
        "kind": rule.kind.as_str(),
        "at": rule.at,
        "rule": rule.words,
        "pulls": met.map_or(0, |met| met.pulls),
        "first": met.map(|met| met.first.to_string()),
        "last": met.map(|met| met.last.to_string()),
    });
    printable_json(object.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Code;
    use crate::review::record::tests::{NOW, folder};

    async fn shown(folder: &Path, text: &str, all: bool, json: bool) -> String {
        let file = folder.join("policy.toml");
        std::fs::write(&file, text).unwrap();
        let arguments = Arguments {
            policy: file.clone(),
            config: folder.join("pullgate.toml"),
            since: Since::parse("2026-11-01").unwrap(),
            all,
            json,
        };
        let policy = crate::settings::policy::load(&file).unwrap();
        let mut out = anstream::StripStream::new(Vec::new());
        let exit = show(&arguments, &policy, folder, NOW.parse().unwrap(), &mut out).await.unwrap();
        assert_eq!(exit, Exit::Done);
        String::from_utf8(out.into_inner()).unwrap()
    }

    #[tokio::test]
    async fn rules_that_nobody_met_are_shown_with_their_line() {
        let digest = crate::oci::Digest::sha256(b"pinned");
        let text = format!(
            "name = \"t\"\nrevision = \"1\"\n[require.tags]\nallow = [\"#.#.#\", \"v#\"]\ndeny = [\"latest\", \"dev\"]\n\
            [[source]]\nid = \"hub\"\nmatch = \"docker.io/library/*\"\n[[source]]\nid = \"own\"\nmatch = \"ghcr.io/acme/*\"\n\
            [[pin]]\nimage = \"docker.io/library/debian\"\ndigest = \"{digest}\"\n[[pin]]\nimage = \"docker.io/library/debian:12-slim\"\ndigest = \"{digest}\"\n\
            [[exception]]\nid = \"E\"\nimage = \"ghcr.io/acme/b:1\"\nwaive = [\"tag\"]\nreason = \"r\"\nticket = \"T\"\n\
            requested_by = \"x\"\napproved_by = \"y\"\napproved = 2026-10-01\nexpires = 2026-12-01\n"
        );
        let folder = folder(&[
            ("python:3.11.9", None, None, 1),
            ("python:3.11-latest", None, Some(Code::TagDenied), 1),
            (&format!("debian@{digest}"), None, None, 1),
        ])
        .await;
        let said = shown(folder.path(), &text, false, false).await;
        assert_eq!(
            said,
            "never  policy.toml:4  allow      v#\n\
            never  policy.toml:5  deny       dev\n\
            never  policy.toml:9  source     own\n\
            never  policy.toml:18  exception  E\n\
            the record begins at 2026-11-20T10:00:00Z: what was met before is not in it\n\
            9 rules, 4 not met since 2026-11-01T00:00:00Z\n"
        );
        let all = shown(folder.path(), &text, true, false).await;
        assert!(
            all.contains("met    policy.toml:5  deny       latest  1 pulls, last 2026-11-20T10:00:00Z\n"),
            "{all}"
        );
        let json = shown(folder.path(), &text, false, true).await;
        let lines: Vec<serde_json::Value> =
            json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines.len(), &lines[0]["kind"], &lines[0]["pulls"]), (9, &json!("allow"), &json!(1)));
    }

    #[test]
    fn without_a_record_it_ends_with_2() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("pullgate.toml");
        std::fs::write(&config, format!("[storage]\npath = \"{}\"\n", folder.path().display())).unwrap();
        let arguments = Arguments {
            policy: "config/policy.toml".into(),
            config,
            since: Since::parse("90d").unwrap(),
            all: false,
            json: false,
        };
        assert_eq!(run(&arguments, &mut Vec::new()).unwrap_err().exit, Exit::Unjudged);
    }
}
