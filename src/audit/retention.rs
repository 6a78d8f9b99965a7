//! What is removed when the log grows old or large, and how it stays provable: in whole segments, with a
//! list of what is gone, and a signed event that vouches for the list.

use serde::Serialize;
use serde_json::{Map, Value};
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};
use ulid::Ulid;

use super::canonical::GENESIS;
use super::error::Error;
use super::note::{Checkpoint, NoteError, Removal, Signer, VerifierKey};
use super::query::Reader;
use super::row::{Kind, Row};
use crate::oci::{Algorithm, Hasher};

/// So many places are one segment: what one small transaction can empty.
pub(crate) const SEGMENT: i64 = 256;
/// A segment of which less can be removed is left for a later level: the event that vouches for it
/// takes room as well.
const WORTH: usize = 8;
/// By which way retention acts, in the `actor` of its events.
pub(crate) const VIA: &str = "retention";

/// What goes, in the order in which it goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Level {
    /// What belongs to allowed pulls.
    Allowed,
    /// Refusals that somebody acknowledged or resolved since.
    Reviewed,
    /// All refusals.
    Refused,
    /// Everything, from the beginning on.
    All,
}

impl Level {
    pub(crate) const BY_SIZE: [Self; 4] = [Self::Allowed, Self::Reviewed, Self::Refused, Self::All];

    fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Allowed => "allowed",
            Self::Refused => "refused",
            Self::Reviewed => "reviewed",
        }
    }

    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Allowed => 1,
            Self::Reviewed => 2,
            Self::Refused => 3,
            Self::All => 4,
        }
    }

    /// The condition for an event `e`.
    fn condition(self) -> String {
        const ALLOWED: &str = "(e.kind = 'decision' AND e.verdict IN ('allow', 'warn')) OR e.kind = 'transfer' \
             OR (e.kind = 'repeat' AND NOT EXISTS (SELECT 1 FROM event p WHERE p.id = e.parent \
                 AND p.verdict IN ('deny', 'hold')))";
        match self {
            Self::All => "TRUE".to_owned(),
            Self::Allowed => ALLOWED.to_owned(),
            Self::Refused => format!("{ALLOWED} OR e.verdict IN ('deny', 'hold') OR e.kind = 'repeat'"),
            Self::Reviewed => format!("{ALLOWED} OR ({REVIEWED})"),
        }
    }
}

/// A refusal whose subject somebody acknowledged or resolved after it.
const REVIEWED: &str = "e.parent IS NULL AND e.verdict IN ('deny', 'hold') AND EXISTS (SELECT 1 FROM event a \
     WHERE a.parent IS NULL AND a.repository IS NULL AND a.reference = e.reference AND a.kind = 'admin' \
     AND a.seq > e.seq AND a.reason IS e.reason AND a.body ->> '$.action' IN ('acknowledge', 'resolve'))";

/// What one transaction removes.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) level: Level,
    /// Between which places.
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// Everything that will be gone between them, what was removed before included.
    pub(crate) runs: Vec<Run>,
    /// How many events go.
    rows: usize,
}

#[derive(Serialize)]
struct RemovedBody {
    action: &'static str,
    actor: ActorBody,
    removed: ListBody,
}

#[derive(Serialize)]
struct ActorBody {
    name: &'static str,
    via: &'static str,
}

#[derive(Serialize)]
struct ListBody {
    what: &'static str,
    first: i64,
    last: i64,
    events: usize,
    runs: usize,
    sha256: String,
    note: String,
}

impl Plan {
    /// The event that vouches for it, signed, after the one given.
    pub(crate) fn row(&self, id: Ulid, time: i64, before: Checkpoint, signer: &Signer) -> Row {
        let mut list = RunsHasher::default();
        self.runs.iter().for_each(|run| list.add(run));
        let (first, last, sha256) = (self.first, self.last, list.finish());
        let note = signer.removal(&Removal { first, last, sha256: sha256.clone(), before });
        let removed = ListBody {
            what: self.level.as_str(),
            first,
            last,
            events: self.rows,
            runs: self.runs.len(),
            sha256,
            note,
        };
        let actor = ActorBody { name: "pullgate", via: VIA };
        Row::new(id, time, Kind::Admin, &RemovedBody { action: "remove", actor, removed })
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows as u64
    }
}

/// A place that is taken, or a run of such that were emptied.
struct Item {
    run: Run,
    /// `None`: it is gone already.
    goes: Option<bool>,
}

impl Reader {
    /// The oldest segment of which this level removes something, and what. Only what a checkpoint covers
    /// is ever removed.
    pub(crate) async fn removable(&self, level: Level, after: i64) -> Result<Option<Plan>, Error> {
        let covered = self.covered().await?;
        let mut after = after;
        while let Some(first) = self.first_of(level, after).await? {
            let (start, end) = segment(first);
            if end >= covered {
                return Ok(None);
            }
            let plan = self.plan(level, start, end).await?;
            if plan.rows >= WORTH || (level == Level::All && plan.rows > 0) {
                return Ok(Some(plan));
            }
            after = end;
        }
        Ok(None)
    }

    /// When the last event of the oldest segment happened; `None`: it is not signed yet, or there is none.
    pub(crate) async fn oldest(&self) -> Result<Option<i64>, Error> {
        let Some(first) = self.first_of(Level::All, 0).await? else { return Ok(None) };
        let (start, end) = segment(first);
        if end >= self.covered().await? {
            return Ok(None);
        }
        sqlx::query_scalar(
            "SELECT MAX(MAX(time, COALESCE(last, time))) FROM event WHERE seq BETWEEN $1 AND $2",
        )
        .bind(start)
        .bind(end)
        .fetch_one(self.pool())
        .await
        .map_err(|error| self.failed(&error))
    }

    /// The oldest segment, if all of it happened before this time.
    pub(crate) async fn aged(&self, before: i64) -> Result<Option<Plan>, Error> {
        let latest = self.oldest().await?;
        let Some(first) = self.first_of(Level::All, 0).await? else { return Ok(None) };
        let (start, end) = segment(first);
        if latest.is_none_or(|latest| latest >= before) {
            return Ok(None);
        }
        self.plan(Level::All, start, end).await.map(Some)
    }

    /// How far a level came before.
    pub(crate) async fn through(&self, level: Level) -> Result<i64, Error> {
        sqlx::query_scalar("SELECT COALESCE(MAX(through), 0) FROM retention WHERE level = $1")
            .bind(level.number())
            .fetch_one(self.pool())
            .await
            .map_err(|error| self.failed(&error))
    }

    /// The place of the last checkpoint: all before it is signed.
    async fn covered(&self) -> Result<i64, Error> {
        sqlx::query_scalar(
            "SELECT COALESCE(MAX(seq), 0) FROM event WHERE parent IS NULL AND kind <> 'decision' AND kind = 'checkpoint'",
        )
        .fetch_one(self.pool())
        .await
        .map_err(|error| self.failed(&error))
    }

    /// The first place where this level may find something.
    async fn first_of(&self, level: Level, after: i64) -> Result<Option<i64>, Error> {
        let reviewed;
        let sql = if level == Level::Reviewed {
            reviewed = format!(
                "SELECT MIN(seq) FROM (SELECT e.seq FROM event e NOT INDEXED WHERE e.seq > $1 AND {REVIEWED} \
                 ORDER BY e.seq LIMIT 1)"
            );
            &reviewed
        } else {
            "SELECT MIN(seq) FROM event WHERE seq > $1"
        };
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned()))
            .bind(after)
            .fetch_one(self.pool())
            .await
            .map_err(|error| self.failed(&error))
    }

    async fn plan(&self, level: Level, first: i64, last: i64) -> Result<Plan, Error> {
        let sql = format!(
            "SELECT e.seq, e.body ->> '$.integrity.previous' AS previous, e.body ->> '$.integrity.hash' AS hash, \
             ({}) AS goes FROM event e WHERE e.seq BETWEEN $1 AND $2 ORDER BY e.seq",
            level.condition()
        );
        let failed = |error: sqlx::Error| self.failed(&error);
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(first).bind(last).fetch_all(self.pool()).await;
        let gone = sqlx::query("SELECT * FROM removed WHERE first BETWEEN $1 AND $2").bind(first).bind(last);
        let gone = gone.fetch_all(self.pool()).await.map_err(failed)?;
        let mut items = Vec::new();
        for row in rows.map_err(failed)? {
            items.push(item(&row).map_err(failed)?);
        }
        for row in gone {
            items.push(Item { run: Run::of(&row).map_err(failed)?, goes: None });
        }
        items.sort_by_key(|item| item.run.first);
        let rows = items.iter().filter(|item| item.goes == Some(true)).count();
        let mut runs: Vec<Run> = Vec::new();
        for Item { run, .. } in items.into_iter().filter(|item| item.goes != Some(false)) {
            match runs.last_mut() {
                Some(before) if before.last + 1 == run.first => {
                    before.last = run.last;
                    before.hash = run.hash;
                }
                _ => runs.push(run),
            }
        }
        if level != Level::All {
            return Ok(Plan { level, first, last, runs, rows });
        }
        // From the beginning on nothing is left: one run says so.
        let hash = runs.pop().map_or_else(|| GENESIS.to_owned(), |run| run.hash);
        let runs = vec![Run { first: 1, last, previous: GENESIS.to_owned(), hash }];
        Ok(Plan { level, first: 1, last, runs, rows })
    }
}

/// The segment that a place is in.
fn segment(place: i64) -> (i64, i64) {
    let number = (place - 1).div_euclid(SEGMENT);
    (number * SEGMENT + 1, (number + 1) * SEGMENT)
}

fn item(row: &SqliteRow) -> Result<Item, sqlx::Error> {
    let seq: i64 = row.try_get("seq")?;
    // Events from before there was a chain have no hash.
    let hash = |column| {
        row.try_get::<Option<String>, _>(column).map(|hash| hash.unwrap_or_else(|| GENESIS.to_owned()))
    };
    let run = Run { first: seq, last: seq, previous: hash("previous")?, hash: hash("hash")? };
    Ok(Item { run, goes: Some(row.try_get("goes")?) })
}

/// Consecutive places that were emptied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Run {
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// The hash that the first of them named as the one before.
    pub(crate) previous: String,
    /// The hash of the last of them.
    pub(crate) hash: String,
}

impl Run {
    pub(crate) fn of(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            first: row.try_get("first")?,
            last: row.try_get("last")?,
            previous: row.try_get("previous")?,
            hash: row.try_get("hash")?,
        })
    }
}

/// The hash of a list of runs: SHA-256 over a line `first last previous hash` for each, in their order.
#[derive(Clone)]
pub(crate) struct RunsHasher(Hasher);

impl Default for RunsHasher {
    fn default() -> Self {
        Self(Hasher::new(Algorithm::Sha256))
    }
}

impl RunsHasher {
    pub(crate) fn add(&mut self, Run { first, last, previous, hash }: &Run) {
        self.0.update(format!("{first} {last} {previous} {hash}\n").as_bytes());
    }

    pub(crate) fn finish(self) -> String {
        self.0.finish().hex()
    }
}

/// What an event of retention vouches for: between these places exactly the runs of this list are gone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Vouched {
    /// The place of the event.
    pub(crate) seq: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) sha256: String,
    note: String,
}

impl Vouched {
    /// Whether one of the keys signed this, after the event of this hash; `Ok(false)`: it signed something
    /// else.
    pub(crate) fn is_signed(&self, previous: &str, keys: &[VerifierKey]) -> Result<bool, NoteError> {
        let Removal { first, last, sha256, before } = Removal::open(&self.note, keys)?;
        let list = first == self.first && last == self.last && sha256 == self.sha256;
        Ok(list && before.size == self.seq - 1 && before.hash == previous)
    }

    pub(crate) fn of(seq: i64, event: &Map<String, Value>) -> Option<Self> {
        let via = event.get("actor")?.get("via")?.as_str()?;
        let removed = event.get("removed").filter(|_| via == VIA)?;
        Some(Self {
            seq,
            first: removed.get("first")?.as_i64()?,
            last: removed.get("last")?.as_i64()?,
            sha256: removed.get("sha256")?.as_str()?.to_owned(),
            note: removed.get("note").and_then(Value::as_str).unwrap_or_default().to_owned(),
        })
    }
}
