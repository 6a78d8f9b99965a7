//! `pullgate policy replay`: the recorded pulls, judged by another policy.

use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use super::given::{Given, given};
use super::{Exit, Failure};
use crate::audit::{Reader, printable, printable_json};
use crate::catalog::{self, Catalog};
use crate::cli::check;
use crate::cli::log::Since;
use crate::clock::Clock;
use crate::policy::{Changed, Count, Facts, Need, Policy, Replay, Replayed};
use crate::pull::CatalogFacts;
use crate::review::{Read, read_pulls};
use crate::settings::gateway;

/// So many references of one kind are shown to a person.
const SHOWN: usize = 30;
/// So many clients of one reference.
const CLIENTS: usize = 5;

/// Judges the pulls on record by another policy: whose verdict would change.
///
/// It reads the record, and what the gateway holds of the images, and asks nobody. Ages and
/// holds count to now. What takes facts that are not held is counted and named. Works while the gateway
/// runs and when it does not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate policy replay --since 30d --policy policy-next.toml
  pullgate policy replay --policy policy-next.toml --json | jq -r '.refused[] | [.pulls, .reference] | @tsv'

Exit status: 0 nothing would be newly refused, 1 something would, 2 it cannot be judged (a bad file, no
record).")]
pub(super) struct Arguments {
    /// The policy to judge by
    #[arg(long, value_name = "FILE")]
    policy: PathBuf,

    /// The gateway's configuration; its [storage] path is where the record is
    #[arg(long, value_name = "FILE", default_value = gateway::DEFAULT_PATH)]
    config: PathBuf,

    /// Pulls since: 90m, 1h, 30d, 2026-11-01, 2026-11-01T10:00 (UTC), or RFC 3339
    #[arg(long, value_name = "WHEN", default_value = "30d", value_parser = Since::parse)]
    since: Since,

    /// One JSON object
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
    let mut replay = Replay::default();
    let read = read_pulls(&Reader::open(folder).await?, since, None, |pull| replay.add(pull)).await?;
    let held = match Catalog::open_read_only(folder, Clock::system()).await {
        Ok(catalog) => Some(CatalogFacts::new(catalog, folder.join("content"))),
        Err(catalog::Error::Absent(_)) => None,
        Err(error) => return Err(Failure::usage(error)),
    };
    let gather = async |need: &Need, facts: &mut Facts| match &held {
        Some(held) => held.gather(need, facts).await,
        None => Ok(false),
    };
    let replayed = replay.judge(policy, now, gather).await.map_err(Failure::usage)?;
    if arguments.json {
        let object = object(policy, since, &read, &replayed);
        writeln!(out, "{}", printable_json(object.to_string()))?;
    } else {
        print(since, &read, &replayed, out)?;
    }
    Ok(if replayed.refused.is_empty() { Exit::Done } else { Exit::No })
}

fn print(since: Timestamp, read: &Read, replayed: &Replayed, out: &mut dyn Write) -> std::io::Result<()> {
    let lists = [
        ("would be refused".red().bold().to_string(), &replayed.refused),
        ("would be allowed".green().to_string(), &replayed.allowed),
        ("would be served otherwise".yellow().to_string(), &replayed.altered),
    ];
    for (title, list) in lists {
        if list.is_empty() {
            continue;
        }
        writeln!(out, "{title}")?;
        for changed in list.iter().take(SHOWN) {
            print_changed(changed, out)?;
        }
        if list.len() > SHOWN {
            writeln!(out, "  … and {} more; --json shows them", list.len() - SHOWN)?;
        }
        writeln!(out)?;
    }
    if !replayed.unjudged.is_empty() || !read.unread.is_empty() {
        writeln!(
            out,
            "{}",
            "cannot be judged: the gateway does not hold what these checks ask for".yellow()
        )?;
        for (check, open) in &replayed.unjudged {
            writeln!(out, "  {check}: {}, such as {}", words(open.count), printable(&open.example))?;
        }
        for (why, count) in &read.unread {
            writeln!(out, "  {why}: {} pulls", count.pulls)?;
        }
        writeln!(out)?;
    }
    match read.begins {
        None => writeln!(out, "the record is empty")?,
        Some(begins) if begins > since => writeln!(out, "the record begins at {begins:.0}")?,
        Some(_) => {}
    }
    let pulls = |list: &[Changed]| list.iter().map(|changed| changed.span.pulls).sum::<u64>();
    writeln!(
        out,
        "{} since {since:.0}: {} would be refused ({} pulls), {} allowed ({} pulls), {} unchanged",
        words(replayed.all),
        replayed.refused.len(),
        pulls(&replayed.refused),
        replayed.allowed.len(),
        pulls(&replayed.allowed),
        replayed.unchanged.references,
    )
}

fn print_changed(changed: &Changed, out: &mut dyn Write) -> std::io::Result<()> {
    let span = &changed.span;
    writeln!(out, "  {}  {} pulls", printable(&changed.reference), span.pulls)?;
    let code = changed.old.1.map(|code| format!(" {code}")).unwrap_or_default();
    write!(out, "        {}{code} → {}", changed.old.0.as_str(), changed.new.as_str())?;
    for reason in &changed.reasons {
        write!(out, " {}: {}", reason.code, printable(&reason.text))?;
    }
    if !changed.needs.is_empty() {
        write!(out, "  needs: {}", changed.needs.join(", "))?;
    }
    let mut clients: Vec<String> =
        span.clients.iter().take(CLIENTS).map(|client| printable(client).into_owned()).collect();
    if span.clients.len() > CLIENTS {
        clients.push(format!("{} more", span.clients.len() - CLIENTS));
    }
    let (first, last) = (span.first, span.last);
    writeln!(out, "\n        by {}; {first:.0} to {last:.0}", clients.join(", "))
}

fn words(count: Count) -> String {
    format!("{} references ({} pulls)", count.references, count.pulls)
}

fn object(policy: &Policy, since: Timestamp, read: &Read, replayed: &Replayed) -> Value {
    let count = |count: &Count| json!({ "references": count.references, "pulls": count.pulls });
    let list = |list: &[Changed]| list.iter().map(changed).collect::<Vec<_>>();
    let open = |(check, open): (&&str, &crate::policy::Unjudged)| {
        let value = json!({
            "references": open.count.references,
            "pulls": open.count.pulls,
            "example": open.example,
        });
        ((*check).to_owned(), value)
    };
    let unread = |(why, number): (&&str, &Count)| ((*why).to_owned(), json!(number.pulls));
    json!({
        "policy": { "name": policy.name(), "revision": policy.revision(), "sha256": policy.sha256().hex() },
        "since": since.to_string(),
        "record_begins": read.begins.map(|begins| begins.to_string()),
        "all": count(&replayed.all),
        "refused": list(&replayed.refused),
        "allowed": list(&replayed.allowed),
        "altered": list(&replayed.altered),
        "unchanged": count(&replayed.unchanged),
        "unjudged": replayed.unjudged.iter().map(open).collect::<serde_json::Map<_, _>>(),
        "unread": read.unread.iter().map(unread).collect::<serde_json::Map<_, _>>(),
    })
}

fn changed(changed: &Changed) -> Value {
    json!({
        "reference": changed.reference,
        "pulls": changed.span.pulls,
        "first": changed.span.first.to_string(),
        "last": changed.span.last.to_string(),
        "clients": changed.span.clients,
        "old": { "verdict": changed.old.0.as_str(), "code": changed.old.1.map(|code| code.as_str()) },
        "new": {
            "verdict": changed.new.as_str(),
            "reasons": changed.reasons.iter().map(check::reason).collect::<Vec<_>>(),
            "needs": changed.needs,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Code;
    use crate::review::record::tests::{NOW, folder};

    const HEAD: &str =
        "name = \"t\"\nrevision = \"1\"\n[[source]]\nid = \"hub\"\nmatch = \"docker.io/library/*\"\n";

    async fn replayed(folder: &Path, policy: &str, json: bool) -> (String, Exit) {
        let file = folder.join("next.toml");
        std::fs::write(&file, policy).unwrap();
        let arguments = Arguments {
            policy: file.clone(),
            config: folder.join("pullgate.toml"),
            since: Since::parse("2026-11-01").unwrap(),
            json,
        };
        let policy = crate::settings::policy::load(&file).unwrap();
        let mut out = anstream::StripStream::new(Vec::new());
        let exit = show(&arguments, &policy, folder, NOW.parse().unwrap(), &mut out).await.unwrap();
        (String::from_utf8(out.into_inner()).unwrap(), exit)
    }

    #[tokio::test]
    async fn it_names_whose_pulls_would_be_refused_and_whose_allowed() {
        let folder = folder(&[
            ("python:3.11.9", Some("ci"), None, 3),
            ("python:3.11.9", None, None, 1),
            ("python:3.11", Some("ci"), Some(Code::TagNotAllowed), 2),
            ("quay.io/a/b:1", None, Some(Code::SourceUnknown), 1),
        ])
        .await;
        let policy = format!("{HEAD}tags = {{ allow = [\"#.#\"] }}\n");
        let (said, exit) = replayed(folder.path(), &policy, true).await;
        let object: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(exit, Exit::No);
        let refused: Vec<&str> = object["refused"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["reference"].as_str().unwrap())
            .collect();
        assert_eq!(refused, ["docker.io/library/python:3.11.9"; 2], "{said}");
        assert_eq!(object["refused"][0]["new"]["reasons"][0]["code"], "tag.not_allowed");
        let clients: Vec<&Value> =
            object["refused"].as_array().unwrap().iter().map(|one| &one["clients"][0]).collect();
        assert!(clients.contains(&&json!("ci")) && clients.contains(&&json!("10.0.0.1")), "{said}");
        assert_eq!(object["allowed"][0]["reference"], "docker.io/library/python:3.11");
        assert_eq!(
            (&object["allowed"][0]["pulls"], &object["allowed"][0]["new"]["needs"]),
            (&json!(2), &json!(["media"]))
        );
        assert_eq!(object["unchanged"], json!({ "references": 1, "pulls": 1 }));
        let (said, _) = replayed(folder.path(), &policy, false).await;
        assert!(said.starts_with("would be refused\n  docker.io/library/python:3.11.9  "), "{said}");
        assert!(said.contains("        by ci; 2026-11-20T10:00:00Z to 2026-11-20T10:00:00Z\n"), "{said}");
        assert!(said.contains("the record begins at 2026-11-20T10:00:00Z\n"), "{said}");
    }

    #[tokio::test]
    async fn the_same_rules_change_nothing_and_end_with_0() {
        let folder = folder(&[
            ("python:3.11.9", None, None, 1),
            ("python:latest", None, Some(Code::TagNotAllowed), 1),
        ])
        .await;
        let (said, exit) =
            replayed(folder.path(), &format!("{HEAD}tags = {{ allow = [\"#.#.#\"] }}\n"), false).await;
        assert!(
            said.contains(": 0 would be refused (0 pulls), 0 allowed (0 pulls), 2 unchanged\n"),
            "{said}"
        );
        assert_eq!(exit, Exit::Done);
    }

    #[tokio::test]
    async fn a_digest_is_known_by_a_tag_on_record_and_open_without_one() {
        let tagged = crate::oci::Digest::sha256(b"docker.io/library/python:3.11.9");
        let other = crate::oci::Digest::sha256(b"other");
        let folder = folder(&[
            ("python:3.11.9", None, None, 1),
            (&format!("python@{tagged}"), Some("ci"), None, 1),
            (&format!("python@{other}"), None, None, 1),
        ])
        .await;
        let policy = format!("{HEAD}tags = {{ allow = [\"#.#.#\"] }}\ndigests = \"known\"\n");
        let (said, exit) = replayed(folder.path(), &policy, true).await;
        let object: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(exit, Exit::Done, "{said}");
        assert_eq!(object["unjudged"]["digest"]["references"], 1, "{said}");
        assert_eq!(object["unjudged"]["digest"]["example"], format!("docker.io/library/python@{other}"));
        let none = policy.replace("\"#.#.#\"", "").replace("known", "listed");
        let (said, exit) = replayed(folder.path(), &none, true).await;
        let object: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((object["refused"].as_array().unwrap().len(), exit), (3, Exit::No), "{said}");
    }

    #[tokio::test]
    async fn what_a_client_called_itself_cannot_paint_the_terminal() {
        let folder = folder(&[("python:3.11.9", Some("ci\u{1b}[2J"), None, 1)]).await;
        for json in [true, false] {
            let (said, _) = replayed(folder.path(), HEAD, json).await;
            assert!(!said.contains('\u{1b}'), "{said:?}");
        }
    }

    #[test]
    fn without_a_record_it_ends_with_2() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("pullgate.toml");
        std::fs::write(&config, format!("[storage]\npath = \"{}\"\n", folder.path().display())).unwrap();
        let arguments = Arguments {
            policy: "config/policy.toml".into(),
            config,
            since: Since::parse("30d").unwrap(),
            json: false,
        };
        assert_eq!(run(&arguments, &mut Vec::new()).unwrap_err().exit, Exit::Unjudged);
    }
}
