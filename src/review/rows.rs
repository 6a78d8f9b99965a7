//! Rows of groups, clients and who met what, as they are changed in memory and written once a batch.

use serde_json::Value;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::values::{GroupKind, State};
use crate::oci::Digest;

/// Who stands for all clients that there is no room for.
pub(super) const OTHERS: &str = "(others)";

type Result<T> = std::result::Result<T, sqlx::Error>;

/// A row of `refused`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct GroupRow {
    pub(super) id: i64,
    pub(super) key: String,
    pub(super) kind: GroupKind,
    pub(super) reference: String,
    pub(super) reason: String,
    pub(super) reasons: Vec<String>,
    pub(super) verdict: String,
    pub(super) registry: Option<String>,
    pub(super) repository: Option<String>,
    pub(super) tag: Option<String>,
    pub(super) digest: Option<String>,
    pub(super) source: Option<String>,
    pub(super) count: i64,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) clients: i64,
    pub(super) latest: String,
    pub(super) message: String,
    pub(super) remedy: Option<String>,
    pub(super) sample: Vec<String>,
    pub(super) state: State,
    pub(super) note: Option<String>,
    pub(super) changed_by: Option<String>,
    pub(super) changed: Option<i64>,
    pub(super) reopened: bool,
    pub(super) since_change: i64,
    /// When it became new: at first, or met again after it was resolved.
    pub(super) newly: i64,
}

/// The key of a group: the same whenever and wherever it is made.
pub(super) fn group_key(kind: GroupKind, reference: &str, reason: &str) -> String {
    let text = format!("{} {} {reason}{reference}", kind.as_str(), reason.len());
    let mut hex = Digest::sha256(text.as_bytes()).hex();
    hex.truncate(32);
    hex
}

impl GroupRow {
    pub(super) fn read(row: &SqliteRow) -> Result<Self> {
        let (words, reasons): (String, String) = (row.try_get("sample")?, row.try_get("reasons")?);
        let (kind, state): (String, String) = (row.try_get("kind")?, row.try_get("state")?);
        Ok(Self {
            id: row.try_get("id")?,
            key: row.try_get("key")?,
            kind: GroupKind::parse(&kind).unwrap_or(GroupKind::Refused),
            reference: row.try_get("reference")?,
            reason: row.try_get("reason")?,
            reasons: words_of(&reasons),
            verdict: row.try_get("verdict")?,
            registry: row.try_get("registry")?,
            repository: row.try_get("repository")?,
            tag: row.try_get("tag")?,
            digest: row.try_get("digest")?,
            source: row.try_get("source")?,
            count: row.try_get("count")?,
            first: row.try_get("first")?,
            last: row.try_get("last")?,
            clients: row.try_get("clients")?,
            latest: row.try_get("latest")?,
            message: row.try_get("message")?,
            remedy: row.try_get("remedy")?,
            sample: words_of(&words),
            state: State::parse(&state).unwrap_or(State::New),
            note: row.try_get("note")?,
            changed_by: row.try_get("changed_by")?,
            changed: row.try_get("changed")?,
            reopened: row.try_get("reopened")?,
            since_change: row.try_get("since_change")?,
            newly: row.try_get("newly")?,
        })
    }

    pub(super) async fn load(connection: &mut SqliteConnection, key: &str) -> Result<Option<Self>> {
        let row =
            sqlx::query("SELECT * FROM refused WHERE key = $1").bind(key).fetch_optional(connection).await?;
        row.as_ref().map(Self::read).transpose()
    }

    pub(super) async fn save(&self, connection: &mut SqliteConnection) -> Result<()> {
        sqlx::query(
            "REPLACE INTO refused (id, key, kind, reference, reason, reasons, verdict, registry, repository, tag, \
             digest, source, count, first, last, clients, latest, message, remedy, sample, state, note, \
             changed_by, changed, reopened, since_change, newly) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(self.id)
        .bind(&self.key)
        .bind(self.kind.as_str())
        .bind(&self.reference)
        .bind(&self.reason)
        .bind(json(&self.reasons))
        .bind(&self.verdict)
        .bind(&self.registry)
        .bind(&self.repository)
        .bind(&self.tag)
        .bind(&self.digest)
        .bind(&self.source)
        .bind(self.count)
        .bind(self.first)
        .bind(self.last)
        .bind(self.clients)
        .bind(&self.latest)
        .bind(&self.message)
        .bind(&self.remedy)
        .bind(json(&self.sample))
        .bind(self.state.as_str())
        .bind(&self.note)
        .bind(&self.changed_by)
        .bind(self.changed)
        .bind(self.reopened)
        .bind(self.since_change)
        .bind(self.newly)
        .execute(connection)
        .await
        .map(|_| ())
    }

    /// Counts pulls that met it between these moments.
    pub(super) fn meet(&mut self, count: i64, first: i64, last: i64) {
        self.count = self.count.saturating_add(count);
        self.first = self.first.min(first);
        self.last = self.last.max(last);
        // Counts lag: what happened before somebody looked is nothing they have not seen.
        if self.changed.is_some_and(|changed| last > changed) {
            self.since_change = self.since_change.saturating_add(count);
            if self.state == State::Resolved {
                self.state = State::New;
                self.reopened = true;
                self.newly = last;
            }
        }
    }
}

/// A row of `client`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ClientRow {
    pub(super) id: i64,
    pub(super) who: String,
    pub(super) name: Option<String>,
    pub(super) address: String,
    pub(super) attribution: String,
    pub(super) runtimes: Vec<String>,
    pub(super) pulls: i64,
    pub(super) refusals: i64,
    pub(super) bytes: i64,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) last_refused: Option<i64>,
}

impl ClientRow {
    pub(super) fn read(row: &SqliteRow) -> Result<Self> {
        let runtimes: String = row.try_get("runtimes")?;
        Ok(Self {
            id: row.try_get("id")?,
            who: row.try_get("who")?,
            name: row.try_get("name")?,
            address: row.try_get("address")?,
            attribution: row.try_get("attribution")?,
            runtimes: words_of(&runtimes),
            pulls: row.try_get("pulls")?,
            refusals: row.try_get("refusals")?,
            bytes: row.try_get("bytes")?,
            first: row.try_get("first")?,
            last: row.try_get("last")?,
            last_refused: row.try_get("last_refused")?,
        })
    }

    pub(super) async fn load(connection: &mut SqliteConnection, who: &str) -> Result<Option<Self>> {
        let row =
            sqlx::query("SELECT * FROM client WHERE who = $1").bind(who).fetch_optional(connection).await?;
        row.as_ref().map(Self::read).transpose()
    }

    pub(super) async fn save(&self, connection: &mut SqliteConnection) -> Result<()> {
        sqlx::query(
            "REPLACE INTO client (id, who, name, address, attribution, runtimes, pulls, refusals, bytes, \
             first, last, last_refused) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(self.id)
        .bind(&self.who)
        .bind(&self.name)
        .bind(&self.address)
        .bind(&self.attribution)
        .bind(json(&self.runtimes))
        .bind(self.pulls)
        .bind(self.refusals)
        .bind(self.bytes)
        .bind(self.first)
        .bind(self.last)
        .bind(self.last_refused)
        .execute(connection)
        .await
        .map(|_| ())
    }
}

/// A row of `met`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct MetRow {
    pub(super) runtime: String,
    pub(super) count: i64,
    pub(super) first: i64,
    pub(super) last: i64,
}

impl MetRow {
    pub(super) async fn load(
        connection: &mut SqliteConnection,
        (refused, client): (i64, i64),
    ) -> Result<Option<Self>> {
        let row =
            sqlx::query("SELECT runtime, count, first, last FROM met WHERE refused = $1 AND client = $2")
                .bind(refused)
                .bind(client)
                .fetch_optional(connection)
                .await?;
        row.map(|row| {
            Ok(Self {
                runtime: row.try_get(0)?,
                count: row.try_get(1)?,
                first: row.try_get(2)?,
                last: row.try_get(3)?,
            })
        })
        .transpose()
    }
}

/// A list of words as it is stored.
pub(super) fn json(words: &[String]) -> String {
    Value::from(words.to_vec()).to_string()
}

/// A stored list of words.
pub(super) fn words_of(text: &str) -> Vec<String> {
    serde_json::from_str(text).unwrap_or_default()
}
