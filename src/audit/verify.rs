//! Proof that the log is what was written: every event's hash, the chain between them, the columns that
//! filters go by, the signatures over the chain, and what retention says it removed.

use std::collections::BTreeMap;
use std::path::Path;

use futures_util::TryStreamExt as _;
use serde_json::{Map, Value};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};

use super::canonical::{self, GENESIS, Integrity};
use super::error::Error;
use super::fields::Fields;
use super::note::{Checkpoint, NoteError, VerifierKey};
use super::query::Reader;
use super::retention::{Run, RunsHasher, Vouched};

/// Events read at a time.
const PAGE: i64 = 512;

/// What the log is held against.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// Whose signatures count; empty: the keys that lie beside the log.
    pub keys: Vec<VerifierKey>,
    /// Signed notes kept elsewhere: the log must still hold all they cover.
    pub notes: Vec<String>,
}

/// What is wrong with a place of the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fault {
    /// A checkpoint in the log does not say what the log says, or is not signed by a known key.
    Checkpoint,
    /// A column that filters go by says something else than the event.
    Column,
    /// The log ends before what a checkpoint given covers.
    Cut,
    /// The event's hash is not that of what it says.
    Edited,
    /// A checkpoint given covers another event in this place.
    Forked,
    /// Events are gone, and retention does not say that it removed them.
    Missing,
    /// The event stands in another place than it says.
    Moved,
    /// Retention's list of what it removed is not the one that it put on record, or not signed by a known
    /// key.
    Removed,
    /// The event after it names another hash: it, or all from there on, was written anew.
    Replaced,
    /// It is no event, or not in canonical form.
    Unreadable,
    /// It names no event before it, although the chain had begun.
    Unchained,
}

impl Fault {
    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Column => "column",
            Self::Cut => "cut",
            Self::Edited => "edited",
            Self::Forked => "forked",
            Self::Missing => "missing",
            Self::Moved => "moved",
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::Unreadable => "unreadable",
            Self::Unchained => "unchained",
        }
    }
}

/// The first place that is not what it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Finding {
    /// The place.
    pub seq: i64,
    /// The event that stands there, where one does.
    pub id: Option<String>,
    /// What is wrong.
    pub fault: Fault,
    /// The same for people.
    pub text: String,
}

/// What was found.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Proof {
    /// Events read.
    pub events: u64,
    /// Of those, events from before there was a chain: nothing proves them.
    pub unchained: u64,
    /// Places that retention emptied and vouches for.
    pub removed: u64,
    /// Valid checkpoints, those given included.
    pub checkpoints: u64,
    /// Up to this place the log is complete and what it was; 0: no checkpoint says so.
    pub proven: i64,
    /// Chained events after that place: none was edited or left out between them, but whether some are
    /// missing at the end, or all were made anew, only a later checkpoint tells.
    pub unproven: u64,
    /// Checkpoints given that cover the log up to a place that retention emptied: they say nothing.
    pub incomparable: u64,
    /// The last place.
    pub last: i64,
    /// What is wrong, if anything is.
    pub finding: Option<Finding>,
}

/// Reads the whole log of a data folder, beside a running gateway or without one, and changes nothing.
///
/// # Errors
/// `Missing` and `Read` when there is nothing to read; `Key` without any key; `Note` when a note given
/// is not signed by a known key.
pub async fn verify(folder: &Path, evidence: &Evidence) -> Result<Proof, Error> {
    let reader = Reader::open(folder).await?;
    let keys = match &*evidence.keys {
        [] => super::note::published(folder)?,
        keys => keys.to_vec(),
    };
    let mut given: BTreeMap<i64, String> = BTreeMap::new();
    for note in &evidence.notes {
        let Checkpoint { size, hash } = Checkpoint::open(note, &keys).map_err(Error::Note)?;
        if given.get(&size).is_some_and(|other| *other != hash) {
            // Whatever the log says now: the key signed two histories, and one of them is gone.
            let text = "two checkpoints that were given sign different events in this place: the log was rolled \
                        back or made anew before it, and went on";
            let finding = finding(size, None, Fault::Forked, text);
            return Ok(Proof { finding: Some(*finding), ..Proof::default() });
        }
        given.insert(size, hash);
    }
    let failed = |error: sqlx::Error| reader.failed(&error);
    let mut connection = reader.pool().acquire().await.map_err(failed)?;
    // One look at the log, whatever is written or removed meanwhile.
    let mut transaction = connection.begin().await.map_err(failed)?;
    let mut walk = Walk::new(&keys, given);
    let found = walk.all(&mut transaction).await.map_err(failed)?;
    let mut proof = walk.proof;
    proof.unproven = if proof.proven == 0 { walk.chained } else { walk.since };
    proof.incomparable = walk.given.len() as u64;
    proof.finding = found;
    Ok(proof)
}

/// What retention removed between two places.
async fn runs(
    connection: &mut SqliteConnection,
    first: i64,
    last: i64,
) -> Result<BTreeMap<i64, Run>, sqlx::Error> {
    let rows = sqlx::query("SELECT * FROM removed WHERE first >= $1 AND first <= $2")
        .bind(first)
        .bind(last)
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Run::of(row).map(|run| (run.first, run))).collect()
}

struct Walk<'a> {
    keys: &'a [VerifierKey],
    given: BTreeMap<i64, String>,
    proof: Proof,
    /// The event before, as `(seq, id)`.
    before: (i64, Option<String>),
    /// Its hash.
    head: String,
    begun: bool,
    chained: u64,
    /// Chained events after the last valid checkpoint's.
    since: u64,
    vouched: BTreeMap<i64, Vouched>,
}

type Found = Result<(), Box<Finding>>;

fn finding(seq: i64, id: Option<&str>, fault: Fault, text: impl Into<String>) -> Box<Finding> {
    Box::new(Finding { seq, id: id.map(ToOwned::to_owned), fault, text: text.into() })
}

impl<'a> Walk<'a> {
    fn new(keys: &'a [VerifierKey], given: BTreeMap<i64, String>) -> Self {
        Self {
            keys,
            given,
            proof: Proof::default(),
            before: (0, None),
            head: GENESIS.to_owned(),
            begun: false,
            chained: 0,
            since: 0,
            vouched: BTreeMap::new(),
        }
    }

    async fn all(&mut self, connection: &mut SqliteConnection) -> Result<Option<Finding>, sqlx::Error> {
        let mut after = i64::MIN;
        loop {
            let rows = sqlx::query("SELECT * FROM event WHERE seq > $1 ORDER BY seq LIMIT $2")
                .bind(after)
                .bind(PAGE)
                .fetch_all(&mut *connection)
                .await?;
            for row in &rows {
                after = row.try_get("seq")?;
                let place = self.before.0 + 1;
                let empty = match place < after {
                    true => runs(&mut *connection, place, after).await?,
                    false => BTreeMap::new(),
                };
                let (fields, body): (Fields, String) = (columns(row)?, row.try_get("body")?);
                if let Err(found) = self.judge(after, &fields, &body, &empty) {
                    return Ok(Some(*found));
                }
            }
            if rows.is_empty() {
                break;
            }
        }
        let mut lists = BTreeMap::new();
        let mut rows = sqlx::query("SELECT * FROM removed ORDER BY first").fetch(&mut *connection);
        while let Some(row) = rows.try_next().await? {
            if let Err(found) = self.list(&Run::of(&row)?, &mut lists) {
                return Ok(Some(*found));
            }
        }
        Ok(self.end(lists).err().map(|found| *found))
    }

    fn judge(&mut self, seq: i64, columns: &Fields, body: &str, runs: &BTreeMap<i64, Run>) -> Found {
        let id = Some(&*columns.id);
        let Ok(event) = serde_json::from_str::<Map<String, Value>>(body) else {
            return Err(finding(seq, id, Fault::Unreadable, "it is no JSON object"));
        };
        let integrity = Integrity::of(&event);
        self.gap(seq, integrity.as_ref(), runs)?;
        let Some(integrity) = integrity else {
            if self.begun {
                return Err(finding(
                    seq,
                    id,
                    Fault::Unchained,
                    "it names no event before it, as those before do",
                ));
            }
            // A checkpoint over events without a chain has no hash to sign.
            if let Some(hash) = self.given.remove(&seq) {
                self.hold(seq, &columns.id, &hash)?;
            }
            self.proof.unchained += 1;
            return self.stands(seq, columns, &event);
        };
        if event.get("seq").and_then(Value::as_i64) != Some(seq) {
            let says = event.get("seq").map(ToString::to_string).unwrap_or_default();
            return Err(finding(seq, id, Fault::Moved, format!("by its own words its place is {says}")));
        }
        if canonical::hash(&event) != integrity.hash {
            return Err(finding(seq, id, Fault::Edited, "its hash is not that of what it says"));
        }
        if serde_json::to_string(&event).ok().as_deref() != Some(body) {
            return Err(finding(seq, id, Fault::Unreadable, "it is not in canonical form"));
        }
        if integrity.previous != self.head {
            let (before, id) = &self.before;
            return Err(match id {
                Some(_) => finding(
                    *before,
                    id.as_deref(),
                    Fault::Replaced,
                    format!("the event after it, at {seq}, names another one before it"),
                ),
                None => finding(
                    seq,
                    Some(&columns.id),
                    Fault::Missing,
                    "it names an event before it that is gone",
                ),
            });
        }
        self.begun = true;
        self.chained += 1;
        self.since += 1;
        self.head = integrity.hash;
        self.stands(seq, columns, &event)?;
        if columns.kind == "checkpoint" {
            self.checkpoint(seq, &columns.id, &event, &integrity.previous)?;
        }
        if let Some(hash) = self.given.remove(&seq) {
            self.hold(seq, &columns.id, &hash)?;
        }
        if let Some(vouched) = Vouched::of(seq, &event) {
            self.removal(&columns.id, &vouched, &integrity.previous)?;
            self.vouched.retain(|first, older| *first < vouched.first || older.last > vouched.last);
            self.vouched.insert(vouched.first, vouched);
        }
        Ok(())
    }

    /// The event is whole: do its columns say what it says?
    fn stands(&mut self, seq: i64, columns: &Fields, event: &Map<String, Value>) -> Found {
        let says = Fields::of(event);
        if let Some(name) = differing(columns, &says).filter(|_| self.begun) {
            let text =
                format!("its column {name} is not what it says: filters would miss it, or show it wrongly");
            return Err(finding(seq, Some(&says.id), Fault::Column, text));
        }
        self.proof.events += 1;
        self.proof.last = seq;
        self.before = (seq, Some(says.id));
        Ok(())
    }

    /// Places between the event before and this one must be empty by retention's own word.
    fn gap(&mut self, seq: i64, integrity: Option<&Integrity>, runs: &BTreeMap<i64, Run>) -> Found {
        let mut place = self.before.0 + 1;
        while place < seq {
            let Some(run) = runs.get(&place) else {
                // Before there was a chain, places could stay empty.
                let legacy = !self.begun && integrity.is_none_or(|integrity| integrity.previous == GENESIS);
                if legacy && self.proof.unchained > 0 {
                    return Ok(());
                }
                let text = format!("{} to {} are gone, and retention did not remove them", place, seq - 1);
                return Err(finding(place, None, Fault::Missing, text));
            };
            if run.previous != self.head {
                let (before, id) = &self.before;
                let text =
                    format!("what retention removed after it, from {place} on, names another one before it");
                return Err(finding(*before, id.as_deref(), Fault::Replaced, text));
            }
            if run.last >= seq {
                let text = "it stands where retention says that it removed what stood there";
                return Err(finding(seq, None, Fault::Removed, text));
            }
            if let Some(hash) = self.given.remove(&run.last) {
                self.head.clone_from(&run.hash);
                self.hold(run.last, "", &hash)?;
            }
            self.proof.removed += u64::try_from(run.last - run.first + 1).unwrap_or(0);
            self.begun |= run.hash != GENESIS;
            self.head.clone_from(&run.hash);
            self.before = (run.last, None);
            place = run.last + 1;
        }
        Ok(())
    }

    fn checkpoint(&mut self, seq: i64, id: &str, event: &Map<String, Value>, previous: &str) -> Found {
        let note = event.get("checkpoint").and_then(|body| body.get("note")).and_then(Value::as_str);
        let signed = Checkpoint::open(note.unwrap_or_default(), self.keys);
        let signed = signed.map_err(|error| {
            let more = match error {
                NoteError::Unknown => "; if the log had another key once, give both",
                NoteError::Malformed | NoteError::Signature => "",
            };
            finding(seq, Some(id), Fault::Checkpoint, format!("{error}{more}"))
        })?;
        if signed.size != seq - 1 || signed.hash != previous {
            let text = "it signs another log than the one that stands before it";
            return Err(finding(seq, Some(id), Fault::Checkpoint, text));
        }
        self.proof.checkpoints += 1;
        self.proof.proven = self.proof.proven.max(signed.size);
        self.since = 1;
        Ok(())
    }

    /// Anybody can write that something was removed, but only the gateway can sign it.
    fn removal(&self, id: &str, vouched: &Vouched, previous: &str) -> Found {
        let text = match vouched.is_signed(previous, self.keys) {
            Ok(true) => return Ok(()),
            Ok(false) => {
                "it says that retention removed events, and what is signed in it is something else".to_owned()
            }
            Err(NoteError::Malformed) => {
                "it says that retention removed events, and is not signed".to_owned()
            }
            Err(error) => format!("it says that retention removed events, but {error}"),
        };
        Err(finding(vouched.seq, Some(id), Fault::Removed, text))
    }

    /// A checkpoint from elsewhere covers up to here.
    fn hold(&mut self, seq: i64, id: &str, hash: &str) -> Found {
        if hash != self.head {
            let text = "a checkpoint that was given signs another event in this place: the log was rolled back \
                        or made anew before it";
            return Err(finding(seq, Some(id), Fault::Forked, text));
        }
        self.proof.checkpoints += 1;
        self.proof.proven = self.proof.proven.max(seq);
        self.since = 0;
        Ok(())
    }

    /// Does an event vouch for this run?
    fn list(&mut self, run: &Run, lists: &mut BTreeMap<i64, RunsHasher>) -> Found {
        let range = self.vouched.range(..=run.first).next_back().map(|(_, vouched)| vouched);
        let Some(range) = range.filter(|range| run.last <= range.last) else {
            let text =
                format!("{} to {} were removed, and no event of retention says so", run.first, run.last);
            return Err(finding(run.first, None, Fault::Removed, text));
        };
        lists.entry(range.first).or_default().add(run);
        Ok(())
    }

    /// All was read: are the lists those on record, and is the end where it should be?
    fn end(&mut self, mut lists: BTreeMap<i64, RunsHasher>) -> Found {
        for vouched in self.vouched.values() {
            let list = lists.remove(&vouched.first).unwrap_or_default().finish();
            if list != vouched.sha256 {
                let text = format!(
                    "between {} and {} something else was removed than retention put on record at {}",
                    vouched.first, vouched.last, vouched.seq
                );
                return Err(finding(vouched.first, None, Fault::Removed, text));
            }
        }
        // What lies behind the end is gone.
        if let Some((size, _)) = self.given.iter().next_back().filter(|(size, _)| **size > self.before.0) {
            let text = format!(
                "the log ends at {}, and a checkpoint that was given covers it up to {size}: its end was cut off, \
                 or an older copy was put in its place",
                self.before.0
            );
            return Err(finding(self.before.0 + 1, None, Fault::Cut, text));
        }
        // What lies in the middle of a removed run can be compared with nothing. Retention removes only what is
        // signed and keeps the last signature, so the log itself still proves that place, unless all was made anew.
        if let Some((size, _)) = self.given.iter().next_back().filter(|(size, _)| **size > self.proof.proven)
        {
            let text = format!(
                "a checkpoint that was given covers the log up to {size}, where no event stands any more, and no \
                 later checkpoint in the log says that retention removed it: what stands here is another log"
            );
            return Err(finding(*size, None, Fault::Forked, text));
        }
        Ok(())
    }
}

fn columns(row: &SqliteRow) -> Result<Fields, sqlx::Error> {
    Ok(Fields {
        id: row.try_get("id")?,
        time: row.try_get("time")?,
        kind: row.try_get("kind")?,
        parent: row.try_get("parent")?,
        pull_id: row.try_get("pull_id")?,
        verdict: row.try_get("verdict")?,
        reason: row.try_get("reason")?,
        registry: row.try_get("registry")?,
        repository: row.try_get("repository")?,
        tag: row.try_get("tag")?,
        digest: row.try_get("digest")?,
        client: row.try_get("client")?,
        address: row.try_get("address")?,
        reference: row.try_get("reference")?,
        last: row.try_get("last")?,
    })
}

/// The first column that says something else than the event.
fn differing(columns: &Fields, event: &Fields) -> Option<&'static str> {
    let pairs = [
        ("id", columns.id == event.id),
        ("time", columns.time == event.time),
        ("kind", columns.kind == event.kind),
        ("parent", columns.parent == event.parent),
        ("pull_id", columns.pull_id == event.pull_id),
        ("verdict", columns.verdict == event.verdict),
        ("reason", columns.reason == event.reason),
        ("registry", columns.registry == event.registry),
        ("repository", columns.repository == event.repository),
        ("tag", columns.tag == event.tag),
        ("digest", columns.digest == event.digest),
        ("client", columns.client == event.client),
        ("address", columns.address == event.address),
        ("reference", columns.reference == event.reference),
        ("last", columns.last == event.last),
    ];
    pairs.into_iter().find(|(_, same)| !same).map(|(name, _)| name)
}
