//! `pullgate log`: the record, for people and for programs.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};
use owo_colors::OwoColorize as _;

use super::{Exit, Failure};
use crate::audit::{self, Entry, Filter, Order, Pattern, printable, printable_json};
use crate::clock::Clock;
use crate::policy::{Code, Verdict};
use crate::settings::gateway;

/// So many entries are shown to a person who set no limit.
const SHOWN: usize = 50;

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
  pullgate log --json --blocked | jq -r '[.time, .image.reference, .reason.code, .count] | @tsv'

Exit status: 0 shown (also when nothing matches), 2 the configuration or the log cannot be read.")]
pub(super) struct Arguments {
    /// The gateway's configuration; its [storage] path is where the log is
    #[arg(long, value_name = "FILE", default_value = "config/pullgate.toml")]
    config: PathBuf,

    /// One JSON event a line, with its repeats and transfers joined (count, first, last, bytes)
    #[arg(long)]
    json: bool,

    /// Only refused pulls
    #[arg(long)]
    blocked: bool,

    /// Only what happened since: 90m, 1h, 2d, 2026-11-01, 2026-11-01T10:00 (UTC), or RFC 3339
    #[arg(long, value_name = "WHEN", value_parser = Since::parse)]
    since: Option<Since>,

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

    /// The latest N entries; without it all of them as JSON, the latest 50 otherwise
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
    if let Some(remark) = shown.remark(arguments) {
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
        if args.json {
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
    let limit = args.limit.or((!args.json).then_some(SHOWN));
    let filter = Filter {
        blocked: args.blocked,
        client: args.client.as_deref().map(Pattern::words),
        image: args.image.as_deref().map(Pattern::image),
        limit,
        order: if limit.is_some() { Order::NewestFirst } else { Order::OldestFirst },
        reason: args.reason,
        since: args.since.as_ref().map(|since| since.moment(now)),
        verdict: args.verdict.as_deref().and_then(verdict),
        ..Filter::default()
    };
    let mut entries = audit::query(folder, filter).await?;
    let mut shown = 0;
    if limit.is_some() {
        // The latest are wanted, and people read downwards.
        let mut latest = Vec::new();
        while let Some(entry) = entries.next().await? {
            latest.push(entry);
        }
        for entry in latest.iter().rev() {
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
    Ok(Shown { entries: shown, limited: limit.is_some_and(|limit| shown >= limit) })
}

fn verdict(word: &str) -> Option<Verdict> {
    [Verdict::Allow, Verdict::Deny, Verdict::Hold, Verdict::Warn]
        .into_iter()
        .find(|verdict| verdict.as_str() == word)
}

fn print(args: &Arguments, entry: &Entry, out: &mut dyn Write) -> io::Result<()> {
    if args.json {
        let line = serde_json::to_string(&entry.event).map_err(io::Error::other)?;
        writeln!(out, "{}", printable_json(line))
    } else {
        out.write_all(block(entry).as_bytes())
    }
}

/// One entry for a person: a line, and for what was refused its words below.
fn block(entry: &Entry) -> String {
    let text = |path: &[&str]| printable(entry.text(path).unwrap_or_default()).into_owned();
    let kind = text(&["kind"]);
    let mut lines = format!("{}  ", moment(&text(&["time"])).dimmed());
    let _ = match &*kind {
        "decision" => decision(entry, &mut lines),
        "flood" => flood(entry, &mut lines),
        "drift" | "pin" => {
            let (before, after) = (text(&["image", "previous_digest"]), text(&["image", "digest"]));
            let after = if after.is_empty() { "gone".to_owned() } else { short(&after) };
            let reference = text(&["image", "reference"]);
            writeln!(lines, "{:<5}  {reference}  {} → {after}", kind.to_uppercase().yellow(), short(&before))
        }
        "policy" => {
            let (result, error) = (text(&["result"]), text(&["error"]));
            let changes =
                entry.event.get("changes").and_then(serde_json::Value::as_array).map_or(0, Vec::len);
            let name = format!("{} {}", text(&["policy", "name"]), text(&["policy", "revision"]));
            let more = match (error.is_empty(), changes) {
                (false, _) => format!("  {error}"),
                (true, 0) => String::new(),
                (true, changes) => format!("  {changes} changes"),
            };
            writeln!(lines, "{}  {name} {result}{more}", "POLICY".cyan())
        }
        "upstream" => {
            let (state, said) = (text(&["upstream", "state"]), text(&["upstream", "text"]));
            writeln!(lines, "{}  {} {state}  {said}", "UPSTREAM".yellow(), text(&["upstream", "registry"]))
        }
        _ => writeln!(lines, "{}  {}", kind.to_uppercase(), text(&["id"])),
    };
    lines
}

fn decision(entry: &Entry, lines: &mut String) -> std::fmt::Result {
    let text = |path: &[&str]| printable(entry.text(path).unwrap_or_default()).into_owned();
    let verdict = text(&["verdict"]);
    let word = format!("{:<5}", verdict.to_uppercase());
    let word = match &*verdict {
        "allow" => word.green().to_string(),
        "deny" => word.red().bold().to_string(),
        _ => word.yellow().to_string(),
    };
    write!(lines, "{word}  {}", text(&["image", "reference"]).bold())?;
    let code = text(&["reason", "code"]);
    if !code.is_empty() {
        write!(lines, "  {code}")?;
    }
    let digest = text(&["image", "digest"]);
    if !digest.is_empty() && !text(&["image", "reference"]).contains(&*digest) {
        write!(lines, "  {}", short(&digest).dimmed())?;
    }
    write!(lines, "  {}", client(entry))?;
    let runtime = text(&["client", "runtime"]);
    if !matches!(&*runtime, "" | "other") {
        write!(lines, " {runtime}")?;
    }
    let bytes = entry.number(&["bytes"]).unwrap_or(0);
    if bytes > 0 {
        write!(lines, "  {}", bytesize::ByteSize(bytes))?;
    }
    let cache = text(&["cache"]);
    if !cache.is_empty() {
        write!(lines, "  {cache}")?;
    }
    writeln!(lines, "{}", count(entry))?;
    let said = text(&["reason", "text"]);
    if !said.is_empty() {
        writeln!(lines, "      {said}")?;
        if !said.contains(&text(&["id"])) {
            writeln!(lines, "      {}", text(&["id"]).dimmed())?;
        }
    }
    Ok(())
}

fn flood(entry: &Entry, lines: &mut String) -> std::fmt::Result {
    let text = |path: &[&str]| printable(entry.text(path).unwrap_or_default()).into_owned();
    let sample: Vec<String> = entry
        .event
        .get("sample")
        .and_then(serde_json::Value::as_array)
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .filter_map(serde_json::Value::as_str)
        .take(5)
        .map(|reference| printable(reference).into_owned())
        .collect();
    writeln!(
        lines,
        "{}  {} refusals  {}  {}{}",
        "FLOOD".red().bold(),
        entry.number(&["count"]).unwrap_or(0),
        text(&["reason", "code"]),
        client(entry),
        until(entry),
    )?;
    if !sample.is_empty() {
        writeln!(lines, "      such as {}", sample.join(", "))?;
    }
    writeln!(lines, "      {}", text(&["id"]).dimmed())
}

/// Name and address, as far as they are known.
fn client(entry: &Entry) -> String {
    let part = |key| entry.text(&["client", key]).map(|text| printable(text).into_owned());
    match (part("name"), part("address")) {
        (Some(name), Some(address)) => format!("{name} ({address})"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => "many clients".to_owned(),
    }
}

fn count(entry: &Entry) -> String {
    match entry.number(&["count"]) {
        Some(count) if count > 1 => format!("  ×{count}{}", until(entry)),
        _ => String::new(),
    }
}

fn until(entry: &Entry) -> String {
    match (entry.text(&["first"]), entry.text(&["last"])) {
        (Some(first), Some(last)) if first != last => format!(" until {}", moment(&printable(last))),
        _ => String::new(),
    }
}

/// `2026-11-01T10:00:00.000Z` as people read it.
fn moment(time: &str) -> String {
    let seconds = time.split('.').next().unwrap_or_default();
    format!("{}Z", seconds.trim_end_matches('Z').replace('T', " "))
}

/// Enough of a digest to tell it from others.
fn short(digest: &str) -> String {
    match digest.split_once(':') {
        Some((algorithm, hex)) => format!("{algorithm}:{}…", hex.chars().take(12).collect::<String>()),
        None => digest.to_owned(),
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
