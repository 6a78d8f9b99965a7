//! `pullgate pin …`: the tags that are locked, and changing what they are locked to.

use std::io::{Read as _, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::control::{self, CHANGES_MAX, Changed};
use super::{Exit, Failure};
use crate::catalog::{Catalog, HistoryRow, LockChange, LockRow, Whence};
use crate::clock::Clock;
use crate::oci::{Digest, Name, NameError, Reference, Tag};
use crate::policy::{Moved, Pin, Policy};
use crate::settings::diagnostic::{FileError, Problem};
use crate::settings::gateway::{self, Gateway};
use crate::settings::policy;

/// The most bytes of a file of pins that are read.
const FILE_MAX: u64 = 8 << 20;

/// Shows and changes tag locks: which digest each tag was first served as, and goes on being served as.
///
/// Works while the gateway runs (through control.sock in its data folder, as the user it runs as) and
/// when it does not. Each change is on record before it is in force, and in force for the next pull. A
/// [[pin]] of the policy file outranks a lock.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate pin list --moved                       which tags moved upstream since they were locked
  pullgate pin accept ghcr.io/acme/app:v1.2.3     after review: where it leads now becomes the lock
  pullgate pin export > locks.toml                every lock as [[pin]] tables

Exit status: 0 done, 1 refused (nothing moved, not locked), 2 wrong usage or a bad file, 70 failed.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Accept(Accept),
    Export(Export),
    History(History),
    Import(Import),
    List(List),
    Rm(Rm),
    Set(Set),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The gateway's configuration; its [storage] path is where the locks are
    #[arg(long, value_name = "FILE", default_value = gateway::DEFAULT_PATH)]
    config: PathBuf,

    /// JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Lists the locked tags: digest, since when, where they lead by now when that is elsewhere.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate pin list
  pullgate pin list --moved --json | jq -r '[.image, .digest, .moved_to] | @tsv'
  pullgate pin list docker.io/library/python

Exit status: 0 shown, also when there is none; 2 a file or the catalog cannot be read.")]
struct List {
    #[command(flatten)]
    common: Common,

    /// Only those that lead elsewhere upstream
    #[arg(long)]
    moved: bool,

    /// Only this repository or tag
    image: Option<String>,
}

/// Accepts that a tag moved: where it leads upstream becomes the lock.
///
/// Without a tag, every tag of the repository that moved. With --digest exactly that digest, which the
/// tag must have had here or upstream: it cannot be another one than was reviewed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate pin accept ghcr.io/acme/app:v1.2.3
  pullgate pin accept ghcr.io/acme/app:v1.2.3 --digest sha256:0375050ce6c4…
  pullgate pin accept docker.io/library/python

Exit status: 0 accepted, 1 it did not move or is not locked, 2 malformed.")]
struct Accept {
    #[command(flatten)]
    common: Common,

    /// registry/repository[:tag]
    image: String,

    /// What was reviewed
    #[arg(long, value_name = "DIGEST")]
    digest: Option<Digest>,
}

/// Locks a tag to a digest, seen before or not.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate pin set ghcr.io/acme/app:v1.2.3 sha256:0375050ce6c49adff74939a655237c9f32791fb87dc8b8714c919754a4900422

Exit status: 0 locked, 2 malformed.")]
struct Set {
    #[command(flatten)]
    common: Common,

    /// registry/repository:tag
    image: String,

    /// What it shall be served as
    digest: Digest,
}

/// Forgets the lock of a tag: its next pull locks anew what the registry says then.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate pin rm ghcr.io/acme/app:v1.2.3

Exit status: 0 forgotten, 1 it was not locked, 2 malformed.")]
struct Rm {
    #[command(flatten)]
    common: Common,

    /// registry/repository:tag
    image: String,
}

/// Prints every lock as a [[pin]] table, sorted: for the policy file, or for another gateway.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate pin export > locks.toml
  pullgate pin export --json | jq '.pin | length'

Exit status: 0 printed, 2 a file or the catalog cannot be read.")]
struct Export {
    /// The gateway's configuration; its [storage] path is where the locks are
    #[arg(long, value_name = "FILE", default_value = gateway::DEFAULT_PATH)]
    config: PathBuf,

    /// JSON instead of TOML
    #[arg(long)]
    json: bool,
}

/// Locks every tag of a file that `pin export` wrote: all of them or none.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate pin import locks.toml
  ssh other-gateway pullgate pin export | pullgate pin import -

Exit status: 0 all are locked as in the file, 2 the file is bad and nothing was changed.")]
struct Import {
    #[command(flatten)]
    common: Common,

    /// TOML or JSON as of `pin export`; - is standard input
    file: PathBuf,
}

/// Shows every digest that a tag had: first and last seen, and whence.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate pin history docker.io/library/python:3.11.9

Exit status: 0 shown, 1 the tag was never seen here, 2 malformed.")]
struct History {
    #[command(flatten)]
    common: Common,

    /// registry/repository:tag
    image: String,
}

/// What a person wrote cannot be used.
#[derive(Debug, thiserror::Error)]
enum Usage {
    #[error("{0:?} names no image: {1}")]
    Name(String, NameError),
    #[error("{0} names no tag; locks belong to tags: registry/repository:tag")]
    Tag(String),
    #[error("{0} names a digest; give registry/repository:tag, and the digest by itself")]
    Digest(String),
    #[error("{0} names no tag, and --digest is about one; give registry/repository:tag --digest …")]
    DigestOfMany(String),
}

impl From<Usage> for Failure {
    fn from(usage: Usage) -> Self {
        Self::usage(usage)
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::Accept(arguments) => {
            let (name, tag) = image(&arguments.image)?;
            if tag.is_none() && arguments.digest.is_some() {
                return Err(Usage::DigestOfMany(arguments.image.clone()).into());
            }
            let change = LockChange::Accept { name, tag, digest: arguments.digest };
            self::change(&arguments.common, vec![change], out)
        }
        Command::Export(arguments) => export(arguments, out),
        Command::History(arguments) => history(arguments, out),
        Command::Import(arguments) => import(arguments, out),
        Command::List(arguments) => list(arguments, out),
        Command::Rm(arguments) => {
            let (name, tag) = tagged(&arguments.image)?;
            change(&arguments.common, vec![LockChange::Remove { name, tag }], out)
        }
        Command::Set(arguments) => {
            let (name, tag) = tagged(&arguments.image)?;
            let set = LockChange::Set { name, tag, digest: arguments.digest, whence: Whence::Pin };
            change(&arguments.common, vec![set], out)
        }
    }
}

fn image(text: &str) -> Result<(Name, Option<Tag>), Usage> {
    let reference: Reference = text.parse().map_err(|error| Usage::Name(text.to_owned(), error))?;
    if reference.digest.is_some() {
        return Err(Usage::Digest(text.to_owned()));
    }
    // A tag that is not written is `latest` to a pull, and all of them here.
    let written = text.rsplit('/').next().is_some_and(|last| last.contains(':'));
    Ok((reference.name, reference.tag.filter(|_| written)))
}

fn tagged(text: &str) -> Result<(Name, Tag), Usage> {
    let (name, tag) = image(text)?;
    Ok((name, tag.ok_or_else(|| Usage::Tag(text.to_owned()))?))
}

fn load(config: &Path) -> Result<Gateway, Failure> {
    gateway::load(config).map_err(Failure::unjudged)
}

/// What the policy file says of locks; a file that cannot be read says so and outranks nothing here.
fn policy_of(settings: &Gateway) -> Option<Policy> {
    let clients = settings.client_names();
    policy::load_for(&settings.policy.file, &clients)
        .map_err(|error| {
            let _ = writeln!(anstream::stderr(), "the policy's [[pin]] tables are not shown: {error}");
        })
        .ok()
}

fn file_pin<'a>(policy: Option<&'a Policy>, name: &Name, tag: &Tag) -> Option<&'a Pin> {
    policy?.pin_of(name, tag)
}

fn change(common: &Common, changes: Vec<LockChange>, out: &mut dyn Write) -> Result<Exit, Failure> {
    let settings = load(&common.config)?;
    let changed = super::block_on(control::change(&settings, changes))??;
    let policy = policy_of(&settings);
    for Changed { image, previous, digest } in &changed {
        if common.json {
            writeln!(out, "{}", json!({ "image": image, "previous": previous, "digest": digest }))?;
            continue;
        }
        match (previous, digest) {
            (previous, Some(digest)) if previous.as_ref() == Some(digest) => {
                writeln!(out, "{image}  is locked to {digest} already")?;
            }
            (None, Some(digest)) => writeln!(out, "{image}  locked to {digest}")?,
            (Some(previous), Some(digest)) => writeln!(out, "{image}  {previous} → {digest}")?,
            (Some(previous), None) => {
                writeln!(out, "{image}  no longer locked to {previous}; its next pull locks anew")?;
            }
            (None, None) => {}
        }
        if let Some(caveat) = caveat(policy.as_ref(), image) {
            writeln!(out, "    {caveat}")?;
        }
    }
    Ok(Exit::Done)
}

/// Why a lock has less effect than one might think.
fn caveat(policy: Option<&Policy>, image: &str) -> Option<String> {
    let (name, tag) = tagged(image).ok()?;
    if let Some(pin) = file_pin(policy, &name, &tag) {
        return Some(format!("the [[pin]] at {} outranks it: {}", pin.at, pin.digest));
    }
    let source = policy?.source_of(&name)?;
    (source.moved() == Moved::Follow).then(|| {
        format!(
            "source {:?} follows the registry (moved = \"follow\"): the next pull may lock anew; a [[pin]] would not",
            source.id()
        )
    })
}

fn reading<T>(
    settings: &Gateway,
    work: impl AsyncFnOnce(Catalog) -> Result<T, crate::catalog::Error>,
) -> Result<T, Failure> {
    super::block_on(async {
        let catalog = Catalog::open_read_only(&settings.storage.path, Clock::system()).await?;
        let result = work(catalog.clone()).await;
        catalog.close().await;
        result
    })?
    .map_err(Failure::usage)
}

async fn all_locks(catalog: Catalog) -> Result<Vec<LockRow>, crate::catalog::Error> {
    let mut locks: Vec<LockRow> = Vec::new();
    loop {
        let after = locks.last().map(|lock| (lock.name.clone(), lock.tag.clone()));
        let page = catalog.locks(after.as_ref()).await?;
        if page.is_empty() {
            return Ok(locks);
        }
        locks.extend(page);
    }
}

fn list(arguments: &List, out: &mut dyn Write) -> Result<Exit, Failure> {
    let wanted = arguments.image.as_deref().map(image).transpose()?;
    let settings = load(&arguments.common.config)?;
    let policy = policy_of(&settings);
    let locks = reading(&settings, all_locks)?;
    let shown = locks.iter().filter(|lock| {
        (!arguments.moved || lock.moved.is_some())
            && wanted.as_ref().is_none_or(|(name, tag)| {
                lock.name == *name && tag.as_ref().is_none_or(|tag| lock.tag == *tag)
            })
    });
    let mut count = 0;
    for lock in shown {
        count += 1;
        let pin = file_pin(policy.as_ref(), &lock.name, &lock.tag);
        if arguments.common.json {
            writeln!(out, "{}", lock_object(lock, pin))?;
        } else {
            print_lock(lock, pin, out)?;
        }
    }
    if count == 0 && !arguments.common.json {
        writeln!(out, "no locks{}", if arguments.moved { " that moved" } else { "" })?;
    }
    Ok(Exit::Done)
}

fn lock_object(lock: &LockRow, pin: Option<&Pin>) -> Value {
    json!({
        "image": format!("{}:{}", lock.name, lock.tag),
        "digest": lock.digest.to_string(),
        "since": lock.since.map(|since| since.to_string()),
        "whence": lock.whence.as_str(),
        "moved": lock.moved.is_some(),
        "moved_to": lock.moved.flatten().map(|digest| digest.to_string()),
        "pin": pin.map(|pin| json!({ "digest": pin.digest.to_string(), "at": &*pin.at })),
    })
}

fn print_lock(lock: &LockRow, pin: Option<&Pin>, out: &mut dyn Write) -> std::io::Result<()> {
    let since = lock.since.map_or_else(|| "unknown".to_owned(), moment);
    writeln!(out, "{}:{}  {}  {} since {since}", lock.name, lock.tag, lock.digest, lock.whence.as_str())?;
    match &lock.moved {
        Some(Some(digest)) => writeln!(out, "    {} upstream to {digest}", "moved".yellow())?,
        Some(None) => writeln!(out, "    {} upstream", "gone".yellow())?,
        None => {}
    }
    if let Some(pin) = pin {
        writeln!(out, "    outranked by the [[pin]] at {}: {}", pin.at, pin.digest)?;
    }
    Ok(())
}

fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

fn history(arguments: &History, out: &mut dyn Write) -> Result<Exit, Failure> {
    let (name, tag) = tagged(&arguments.image)?;
    let settings = load(&arguments.common.config)?;
    let rows = reading(&settings, async |catalog| catalog.tag_history(&name, &tag).await)?;
    if rows.is_empty() {
        if !arguments.common.json {
            writeln!(out, "{name}:{tag} was never seen here")?;
        }
        return Ok(Exit::No);
    }
    for row in &rows {
        if arguments.common.json {
            writeln!(out, "{}", history_object(row))?;
            continue;
        }
        let digest = row.digest.map_or_else(|| "gone".to_owned(), |digest| digest.to_string());
        let mut marks = Vec::from_iter([row.whence.as_str()]);
        marks.extend(
            [(row.served, "served"), (row.locked, "locked"), (row.current, "current")]
                .iter()
                .filter_map(|(holds, word)| (*holds && *word != row.whence.as_str()).then_some(*word)),
        );
        let (first, last) = (moment(row.first), moment(row.last));
        writeln!(out, "{digest}  first {first}  last {last}  {}", marks.join(", "))?;
    }
    Ok(Exit::Done)
}

fn history_object(row: &HistoryRow) -> Value {
    json!({
        "digest": row.digest.map(|digest| digest.to_string()),
        "first_seen": row.first.to_string(),
        "last_seen": row.last.to_string(),
        "whence": row.whence.as_str(),
        "served": row.served,
        "locked": row.locked,
        "current": row.current,
    })
}

/// A file of pins: what `pin export` writes and a policy file holds.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PinFile {
    #[serde(default)]
    pin: Vec<PinTable>,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct PinTable {
    image: String,
    digest: String,
}

fn export(arguments: &Export, out: &mut dyn Write) -> Result<Exit, Failure> {
    let settings = load(&arguments.config)?;
    let locks = reading(&settings, all_locks)?;
    let tables = locks.iter().map(|lock| PinTable {
        image: format!("{}:{}", lock.name, lock.tag),
        digest: lock.digest.to_string(),
    });
    if arguments.json {
        let file = PinFile { pin: tables.collect() };
        serde_json::to_writer_pretty(&mut *out, &file).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(Exit::Done);
    }
    for (at, PinTable { image, digest }) in tables.enumerate() {
        // Names and digests need no escapes.
        let gap = if at == 0 { "" } else { "\n" };
        writeln!(out, "{gap}[[pin]]\nimage  = \"{image}\"\ndigest = \"{digest}\"")?;
    }
    Ok(Exit::Done)
}

/// What is wrong with a file of pins.
#[derive(Debug, thiserror::Error)]
enum BadFile {
    #[error("{0} names no locks: it has no [[pin]] table")]
    Empty(String),
    #[error("{file}: pin {at}: {text}; nothing was changed")]
    Entry { file: String, at: usize, text: String },
    #[error("{0} holds {1} pins; at most {CHANGES_MAX} are imported at once: split it")]
    Many(String, usize),
    #[error("{0} cannot be read: {1}")]
    Unreadable(String, std::io::Error),
    #[error("{0}: {1}; nothing was changed")]
    Json(String, serde_json::Error),
}

fn import(arguments: &Import, out: &mut dyn Write) -> Result<Exit, Failure> {
    let shown = arguments.file.display().to_string();
    let read = || {
        let mut text = String::new();
        if arguments.file.as_os_str() == "-" {
            std::io::stdin().lock().take(FILE_MAX).read_to_string(&mut text)?;
        } else {
            std::fs::File::open(&arguments.file)?.take(FILE_MAX).read_to_string(&mut text)?;
        }
        Ok(text)
    };
    let text = read().map_err(|error| Failure::usage(BadFile::Unreadable(shown.clone(), error)))?;
    let file: PinFile = if text.trim_start().starts_with('{') {
        serde_json::from_str(&text).map_err(|error| Failure::usage(BadFile::Json(shown.clone(), error)))?
    } else {
        toml::from_str(&text).map_err(|error| {
            let problems = vec![Problem::from_toml(&error)];
            Failure::unjudged(FileError::invalid(&arguments.file, &text, problems))
        })?
    };
    let changes = changes_of(&shown, file).map_err(Failure::usage)?;
    change(&arguments.common, changes, out)
}

fn changes_of(shown: &str, file: PinFile) -> Result<Vec<LockChange>, BadFile> {
    let (file, shown) = (file.pin, shown.to_owned());
    if file.is_empty() {
        return Err(BadFile::Empty(shown));
    }
    if file.len() > CHANGES_MAX {
        return Err(BadFile::Many(shown, file.len()));
    }
    let mut seen = std::collections::HashSet::new();
    file.iter()
        .enumerate()
        .map(|(at, table)| {
            let bad = |text: String| BadFile::Entry { file: shown.clone(), at: at + 1, text };
            let (name, tag) = tagged(&table.image).map_err(|error| bad(error.to_string()))?;
            let digest =
                table.digest.parse().map_err(|error: crate::oci::DigestError| bad(error.to_string()))?;
            if !seen.insert((name.clone(), tag.clone())) {
                return Err(bad(format!("{name}:{tag} is there twice")));
            }
            Ok(LockChange::Set { name, tag, digest, whence: Whence::Import })
        })
        .collect()
}
