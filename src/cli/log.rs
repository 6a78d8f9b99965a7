//! `pullgate log`: the record, for people and for programs.

mod block;
mod follow;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use self::block::block;
use super::{Exit, Failure};
use crate::audit::{self, Entry, Filter, Order, Pattern, csv, printable_json};
use crate::clock::Clock;
use crate::policy::{Code, Verdict};
use crate::settings::gateway;

/// So many entries are shown to a person who set no limit.
const SHOWN: usize = 50;
/// And so many before those that come.
const FOLLOWED: usize = 10;

/// Shows the audit log: what was pulled, what was refused and why.
///
/// Works while the gateway runs and when it does not. A refused pull and its repeats are one entry;
/// so are the requests of one allowed pull.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate log --blocked --since 1h           what was refused in the last hour
  pullgate log --image 'docker.io/library/*'  everything about Docker Hub's official images
  pullgate log --image python:3.11            one reference
  pullgate log --client ci --limit 10         the ten latest pulls of a client
  pullgate log --follow --blocked             refusals as they come, until Ctrl-C
  pullgate log --csv --since 30d > month.csv  a table for a spreadsheet
  pullgate log --json --blocked | jq -r '[.time, .image.reference, .reason.code, .count] | @tsv'

Exit status: 0 shown (also when nothing matches), 2 the configuration or the log cannot be read.")]
pub(super) struct Arguments {
    /// The gateway's configuration; its [storage] path is where the log is
    #[arg(long, value_name = "FILE", default_value = "config/pullgate.toml")]
    config: PathBuf,

    /// One JSON event a line, with its repeats and transfers joined (count, first, last, bytes)
    #[arg(long)]
    json: bool,

    /// A table: a line of names, then a line an entry; nothing in it is run as a formula
    #[arg(long, conflicts_with = "json")]
    csv: bool,

    /// Goes on with what comes, each entry once and as it is first recorded, until Ctrl-C
    #[arg(long, short, conflicts_with = "until")]
    follow: bool,

    /// Only refused pulls
    #[arg(long)]
    blocked: bool,

    /// Only what happened since: 90m, 1h, 2d, 2026-11-01, 2026-11-01T10:00 (UTC), or RFC 3339
    #[arg(long, value_name = "WHEN", value_parser = Since::parse)]
    since: Option<Since>,

    /// Only what happened until then, in the same forms
    #[arg(long, value_name = "WHEN", value_parser = Since::parse)]
    until: Option<Since>,

    /// Only this image: reference, registry/repository or repository; * is any run of characters
    #[arg(long, value_name = "PATTERN")]
    image: Option<String>,

    /// Only this client: its name or address; * is any run of characters
    #[arg(long, value_name = "NAME")]
    client: Option<String>,

    /// Only this reason: tag.denied, source.unknown, …
    #[arg(long, value_name = "CODE", value_parser = reason)]
    reason: Option<Code>,

    /// Only this verdict
    #[arg(long, value_name = "VERDICT", value_parser = ["allow", "deny", "hold", "warn"])]
    verdict: Option<String>,

    /// The latest N entries; without it all of them as JSON and CSV, the latest 50 otherwise (10 with
    /// --follow)
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// The start of `--since`.
#[derive(Clone, Debug)]
pub(super) enum Since {
    Ago(Span),
    At(Timestamp),
}

impl Since {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Ok(Self::At(moment));
        }
        // DateTime also reads a bare date, as its midnight.
        if let Ok(moment) = text.parse::<DateTime>() {
            return TimeZone::UTC.to_timestamp(moment).map(Self::At).map_err(|error| error.to_string());
        }
        match text.parse::<Span>() {
            Ok(span) => Ok(Self::Ago(span.abs())),
            Err(_) => Err("expected a duration (90m, 1h, 2d), a date (2026-11-01) or a time in RFC 3339 \
                           (2026-11-01T10:00:00Z)"
                .to_owned()),
        }
    }

    pub(super) fn moment(&self, now: Timestamp) -> Timestamp {
        match self {
            Self::Ago(span) => now
                .to_zoned(TimeZone::UTC)
                .checked_sub(*span)
                .map_or(Timestamp::UNIX_EPOCH, |moment| moment.timestamp()),
            Self::At(moment) => *moment,
        }
    }
}

fn reason(word: &str) -> Result<Code, String> {
    Code::parse(word).ok_or_else(|| {
        let words: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
        format!("expected one of {}", words.join(", "))
    })
}

/// Runs the command: entries to standard output, remarks to standard error.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let settings = gateway::load(&arguments.config).map_err(Failure::unjudged)?;
    let now = Clock::system().now();
    let shown = super::block_on(show(arguments, &settings.storage.path, now, out))??;
    if let Some(remark) = shown.remark(arguments).filter(|_| !arguments.follow) {
        // Where standard error is gone, nobody is left to tell.
        let _ = writeln!(anstream::stderr(), "{remark}");
    }
    Ok(Exit::Done)
}

impl From<audit::Error> for Failure {
    fn from(error: audit::Error) -> Self {
        Self::usage(error)
    }
}

/// What was shown.
#[derive(Debug)]
struct Shown {
    entries: usize,
    limited: bool,
}

impl Shown {
    /// What a person may want to know besides.
    fn remark(&self, args: &Arguments) -> Option<String> {
        if args.json || args.csv {
            return None;
        }
        if self.entries == 0 {
            return Some("no entries match".to_owned());
        }
        (self.limited && args.limit.is_none())
            .then(|| format!("the latest {} entries; --limit N shows more", self.entries))
    }
}

async fn show(
    args: &Arguments,
    folder: &Path,
    now: Timestamp,
    out: &mut dyn Write,
) -> Result<Shown, Failure> {
    let few = if args.follow { FOLLOWED } else { SHOWN };
    let limit = args.limit.or((!args.json && !args.csv || args.follow).then_some(few));
    let filter = Filter {
        after: None,
        blocked: args.blocked,
        client: args.client.as_deref().map(Pattern::words),
        image: args.image.as_deref().map(Pattern::image),
        limit,
        order: if limit.is_some() { Order::NewestFirst } else { Order::OldestFirst },
        reason: args.reason,
        since: args.since.as_ref().map(|since| since.moment(now)),
        until: args.until.as_ref().map(|until| until.moment(now)),
        verdict: args.verdict.as_deref().and_then(verdict),
    };
    if args.csv {
        out.write_all(csv(Entry::columns()).as_bytes())?;
    }
    let begun = if args.follow { Some(follow::Following::begin(folder).await?) } else { None };

    let mut entries = audit::query(folder, filter.clone()).await?;
    let mut shown = 0;
    if limit.is_some() {
        // The latest are wanted, and people read downwards.
        let mut latest = Vec::new();
        while let Some(entry) = entries.next().await? {
            latest.push(entry);
        }
        // What came while it was read comes again, from the place where following begins.
        let end = begun.as_ref().map_or(i64::MAX, follow::Following::after);
        for entry in latest.iter().rev().filter(|entry| entry.seq <= end) {
            print(args, entry, out)?;
        }
        shown += latest.len();
    } else {
        while let Some(entry) = entries.next().await? {
            print(args, &entry, out)?;
            shown += 1;
        }
    }
    out.flush()?;
    if let Some(following) = begun {
        following.go_on(args, filter, out).await?;
    }
    Ok(Shown { entries: shown, limited: limit.is_some_and(|limit| shown >= limit) })
}

fn verdict(word: &str) -> Option<Verdict> {
    [Verdict::Allow, Verdict::Deny, Verdict::Hold, Verdict::Warn]
        .into_iter()
        .find(|verdict| verdict.as_str() == word)
}

fn print(args: &Arguments, entry: &Entry, out: &mut dyn Write) -> io::Result<()> {
    if args.csv {
        out.write_all(csv(entry.values()).as_bytes())
    } else if args.json {
        let line = serde_json::to_string(&entry.event).map_err(io::Error::other)?;
        writeln!(out, "{}", printable_json(line))
    } else {
        out.write_all(block(entry).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use clap::Parser;
    use tempfile::TempDir;

    use super::*;
    use crate::audit::{Draft, Http, Image, Judged, Judgement, Log, OnFull, PolicyStamp, Sentence, Settings};
    use crate::identity::{Attribution, Caller, Class};
    use crate::oci::{Ask, What};
    use crate::policy::{Reason, Trace};

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Arguments,
    }

    fn args(words: &[&str]) -> Arguments {
        Command::try_parse_from([&["log"], words].concat()).unwrap().args
    }

    fn now() -> Timestamp {
        "2026-11-01T10:00:00Z".parse().unwrap()
    }

    async fn shown(folder: &TempDir, words: &[&str]) -> String {
        let mut out = anstream::StripStream::new(Vec::new());
        show(&args(words), folder.path(), now(), &mut out).await.unwrap();
        String::from_utf8(out.into_inner()).unwrap()
    }

    /// A log with two equal refusals, whose client chose its words with care.
    async fn log() -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            path: folder.path().to_owned(),
            max_size: 64 << 20,
            on_full: OnFull::Serve,
            refusals_per_minute: 60,
        };
        let log = Log::open(settings, Clock::manual(now())).await.unwrap();
        let caller = Caller {
            class: Class::Client("ci\x1b[31m".into()),
            attribution: Attribution::Address,
            address: "10.0.0.1".parse().unwrap(),
            proxy: None,
            certificate: None,
            user_agent: Some("docker/27 \x1b]0;owned\x07\nforged line".into()),
        };
        let ask = Ask {
            name: "docker.io/library/python".parse().unwrap(),
            what: What::Tag("3.11".parse().unwrap()),
        };
        let judged = Judged::new(Judgement {
            verdict: Verdict::Deny,
            enforced: true,
            reasons: vec![Reason { code: Code::TagNotAllowed, text: "not pinned".to_owned(), remedy: None }],
            policy: Arc::new(PolicyStamp::default()),
            trace: Arc::new(Trace::default()),
            image: Image::asked(&ask),
            shadow: None,
        });
        for _ in 0..2 {
            let http = Http { method: "GET", path: "/v2/", ns: None, status: Some(403) };
            let draft = Draft { caller: &caller, judged: &judged, http };
            let say = |id: &ulid::Ulid| Sentence {
                message: format!("blocked by policy {id}: \x1b[2Jnot pinned\nALLOW everything"),
                phrase: String::new(),
            };
            log.refused(draft, say).await.unwrap();
        }
        log.close().await;
        folder
    }

    #[tokio::test]
    async fn json_is_one_event_a_line_with_its_repeats_joined() {
        let folder = log().await;
        let json = shown(&folder, &["--json", "--blocked", "--since", "1h"]).await;
        assert_eq!(json.lines().count(), 1);
        assert!(!json.trim_end().chars().any(char::is_control));
        let event: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(event["schema"], "pullgate.event/1");
        assert_eq!(event["verdict"], "deny");
        assert_eq!(event["count"], 2);
        assert_eq!(event["image"]["reference"], "docker.io/library/python:3.11");
        assert_eq!(event["client"]["user_agent"], "docker/27 \x1b]0;owned\x07\nforged line");
    }

    #[tokio::test]
    async fn a_table_names_its_columns_and_nothing_in_it_is_run_or_breaks_a_line() {
        let folder = log().await;
        let table = shown(&folder, &["--csv"]).await;
        let lines: Vec<&str> = table.split_terminator("\r\n").collect();
        assert_eq!(lines.len(), 2, "{table}");
        assert!(lines[0].starts_with("time,kind,id,seq,pull_id,verdict,enforced,reason,text,"), "{table}");
        assert!(!table.replace("\r\n", "").chars().any(char::is_control), "{table:?}");
        assert!(lines[1].starts_with("2026-11-01T10:00:00.000Z,decision,01"), "{table}");
        assert!(
            lines[1].contains(r",docker/27 \x1b]0;owned\x07\x0aforged line,")
                || lines[1].contains(r#","docker/27 \x1b]0;owned\x07\x0aforged line","#),
            "{table}"
        );
        let until = ["--csv", "--until", "2026-11-01T09:00"];
        assert_eq!(shown(&folder, &until).await.lines().count(), 1, "only the names of the columns");
    }

    #[tokio::test]
    async fn a_person_sees_what_who_why_and_how_often_and_nothing_a_client_painted() {
        let folder = log().await;
        let mut raw = Vec::new();
        show(&args(&[]), folder.path(), now(), &mut raw).await.unwrap();
        let raw = String::from_utf8(raw).unwrap();
        assert!(!raw.contains("\x1b[2J") && !raw.contains("\x1b]0"), "{raw:?}");
        let text = shown(&folder, &[]).await;
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert_eq!(
            lines[0],
            r"2026-11-01 10:00:00Z  DENY   docker.io/library/python:3.11  tag.not_allowed  ci\x1b[31m (10.0.0.1) docker  ×2"
        );
        assert!(lines[1].starts_with("      blocked by policy 01"), "{text}");
        assert!(lines[1].ends_with(r": \x1b[2Jnot pinned\x0aALLOW everything"), "{text}");
    }

    #[tokio::test]
    async fn what_matches_nothing_is_empty_and_no_error() {
        let folder = log().await;
        for words in [
            &["--image", "docker.io/library/node"][..],
            &["--client", "other"],
            &["--verdict", "allow"],
            &["--reason", "tag.denied"],
            &["--since", "2026-11-02"],
        ] {
            assert_eq!(shown(&folder, words).await, "", "{words:?}");
            let json = [words, &["--json"]].concat();
            assert_eq!(shown(&folder, &json).await, "", "{words:?}");
        }
        for words in [&["--image", "python"][..], &["--client", "10.0.0.*"], &["--reason", "tag.not_allowed"]]
        {
            assert_ne!(shown(&folder, words).await, "", "{words:?}");
        }
    }

    #[test]
    fn since_is_a_duration_a_date_or_a_moment() {
        for (text, moment) in [
            ("1h", "2026-11-01T09:00:00Z"),
            ("90m", "2026-11-01T08:30:00Z"),
            ("2d", "2026-10-30T10:00:00Z"),
            ("1 week", "2026-10-25T10:00:00Z"),
            ("PT5M", "2026-11-01T09:55:00Z"),
            ("2026-11-01", "2026-11-01T00:00:00Z"),
            ("2026-11-01T08:00", "2026-11-01T08:00:00Z"),
            ("2026-11-01T10:00:00+02:00", "2026-11-01T08:00:00Z"),
        ] {
            let expected: Timestamp = moment.parse().unwrap();
            assert_eq!(Since::parse(text).unwrap().moment(now()), expected, "{text}");
        }
        for text in ["", "yesterday", "1", "2026-13-01", "h"] {
            assert!(Since::parse(text).unwrap_err().contains("2026-11-01"), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_exit_status_two_and_says_which_file() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("pullgate.toml");
        let ended = || {
            let failure = run(&args(&["--config", config.to_str().unwrap()]), &mut Vec::new()).unwrap_err();
            assert_eq!(failure.exit, Exit::Unjudged);
            failure.report.unwrap().to_string()
        };
        assert!(ended().contains("pullgate.toml"), "no configuration");
        std::fs::write(&config, format!("[storage]\npath = \"{}\"\n", folder.path().display())).unwrap();
        assert!(ended().contains("there is no audit log at"), "no log");
        std::fs::write(folder.path().join(audit::FILE), "not a database").unwrap();
        assert!(ended().contains("audit.db"), "no database");
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_ends_it_quietly() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let folder = log().await;
        let ended = show(&args(&["--json"]), folder.path(), now(), &mut Gone).await;
        assert_eq!(ended.unwrap_err().exit, Exit::Unread);
    }
}
