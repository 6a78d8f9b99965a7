//! Reading the record: decisions with their repeats and transfers joined.

mod filter;
mod join;
mod search;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{ConnectOptions as _, QueryBuilder, Row as _, Sqlite};
use ulid::Ulid;

pub use filter::{Filter, Order, Pattern};
use join::{merge, sampled};
use search::Span;

use super::error::Error;

/// Entries read at a time.
const PAGE: usize = 256;

/// One event, a decision with its repeats and transfers joined.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place in the log.
    pub seq: i64,
    /// The event (audit.md), for decisions and floods with `count`, `first`, `last`, and for pulls
    /// that moved something `bytes`, `duration_ms` and `cache`.
    pub event: Map<String, Value>,
}

impl Entry {
    /// The text at a path of keys: `["image", "tag"]`.
    pub fn text(&self, path: &[&str]) -> Option<&str> {
        self.value(path)?.as_str()
    }

    /// The number at a path of keys.
    pub fn number(&self, path: &[&str]) -> Option<u64> {
        self.value(path)?.as_u64()
    }

    pub(super) fn value(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.event.get(*first)?, |value, key| value.get(key))
    }
}

/// Reads a log, of a running gateway or of one that ended. It never writes.
#[derive(Clone, Debug)]
pub struct Reader {
    path: PathBuf,
    pool: SqlitePool,
    /// Searches have connections of their own: each may be cut short, and however many are wanted,
    /// single events are still found at once.
    searches: SqlitePool,
}

impl Reader {
    /// Opens `audit.db` of a data folder.
    ///
    /// # Errors
    /// `Missing` when there is none, `Read` when it cannot be read.
    pub async fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(super::FILE);
        if rustix::fs::access(&path, rustix::fs::Access::EXISTS).is_err() {
            return Err(Error::Missing { path });
        }
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .read_only(true)
            .busy_timeout(Duration::from_secs(2))
            .disable_statement_logging();
        let pool = || SqlitePoolOptions::new().max_connections(2).test_before_acquire(false);
        let opened = match pool().connect_with(options.clone()).await {
            Ok(opened) if readable(&opened).await => Ok((opened, options)),
            first => {
                // Someone who may not write the folder cannot make the index a WAL needs; a log that
                // was closed has none to read, so it can be taken as it is.
                let wal = path.with_file_name(format!("{}-wal", super::FILE));
                let ended = rustix::fs::stat(&wal).map_or(true, |stat| stat.st_size == 0);
                if ended {
                    let options = options.immutable(true);
                    pool().connect_with(options.clone()).await.map(|opened| (opened, options))
                } else {
                    first.map(|opened| (opened, options))
                }
            }
        };
        match opened {
            Ok((opened, options)) => {
                Ok(Self { path, pool: opened, searches: pool().connect_lazy_with(options) })
            }
            Err(error) => Err(Error::Read { path, detail: error.to_string().into() }),
        }
    }

    /// The entries that pass the filter, read page by page: however long the log is, only a page of
    /// it is in memory.
    pub fn entries(&self, filter: Filter) -> Entries {
        let left = filter.limit.unwrap_or(usize::MAX);
        Entries { reader: self.clone(), filter, page: VecDeque::new(), span: None, left, over: false }
    }

    /// The event with this id, joined.
    ///
    /// # Errors
    /// `Read` when the database fails.
    pub async fn find(&self, id: &Ulid) -> Result<Option<Entry>, Error> {
        let row = sqlx::query(
            "SELECT seq, id, kind, reference, registry, repository, body FROM event WHERE id = $1",
        )
        .bind(id.to_string())
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| self.failed(&error))?;
        let Some(row) = row else { return Ok(None) };
        Ok(self.join(vec![raw(&row)]).await?.pop().map(|(_, entry)| entry))
    }

    /// The event with this id as it was written, without what was joined to it later: one look into an
    /// index.
    ///
    /// # Errors
    /// `Read` when the database fails.
    pub async fn written(&self, id: &Ulid) -> Result<Option<Entry>, Error> {
        let row: Option<(i64, String)> = sqlx::query_as("SELECT seq, body FROM event WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(&self.pool)
            .await
            .map_err(|error| self.failed(&error))?;
        Ok(row.map(|(seq, body)| Entry { seq, event: serde_json::from_str(&body).unwrap_or_default() }))
    }

    /// Closes its connections.
    pub(crate) async fn close(&self) {
        self.searches.close().await;
        self.pool.close().await;
    }

    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    pub(crate) fn failed(&self, error: &sqlx::Error) -> Error {
        Error::Read { path: self.path.clone(), detail: error.to_string().into() }
    }

    /// Adds to each what was written of it later.
    async fn join(&self, raws: Vec<Raw>) -> Result<Vec<(Raw, Entry)>, Error> {
        let mut later: HashMap<String, Vec<Map<String, Value>>> = HashMap::new();
        let ids: Vec<&str> = raws
            .iter()
            .filter(|raw| matches!(&*raw.kind, "decision" | "flood"))
            .map(|raw| &*raw.id)
            .collect();
        if !ids.is_empty() {
            let mut sql = QueryBuilder::<Sqlite>::new("SELECT parent, body FROM event WHERE parent IN (");
            let mut list = sql.separated(", ");
            for id in ids {
                list.push_bind(id);
            }
            sql.push(") ORDER BY seq");
            let rows = sql.build().fetch_all(&self.pool).await.map_err(|error| self.failed(&error))?;
            for row in rows {
                let (parent, body): (String, String) =
                    (row.try_get(0).unwrap_or_default(), row.try_get(1).unwrap_or_default());
                later.entry(parent).or_default().push(serde_json::from_str(&body).unwrap_or_default());
            }
        }
        Ok(raws
            .into_iter()
            .map(|raw| {
                let mut event: Map<String, Value> = serde_json::from_str(&raw.body).unwrap_or_default();
                if matches!(&*raw.kind, "decision" | "flood") {
                    merge(&mut event, later.get(&raw.id).map_or(&[], Vec::as_slice));
                }
                let seq = raw.seq;
                (raw, Entry { seq, event })
            })
            .collect())
    }
}

async fn readable(pool: &SqlitePool) -> bool {
    sqlx::query("SELECT seq FROM event LIMIT 1").fetch_optional(pool).await.is_ok()
}

/// A row before its JSON is looked at.
struct Raw {
    seq: i64,
    id: String,
    kind: String,
    reference: Option<String>,
    registry: Option<String>,
    repository: Option<String>,
    body: String,
}

fn raw(row: &SqliteRow) -> Raw {
    Raw {
        seq: row.try_get("seq").unwrap_or_default(),
        id: row.try_get("id").unwrap_or_default(),
        kind: row.try_get("kind").unwrap_or_default(),
        reference: row.try_get("reference").unwrap_or_default(),
        registry: row.try_get("registry").unwrap_or_default(),
        repository: row.try_get("repository").unwrap_or_default(),
        body: row.try_get("body").unwrap_or_default(),
    }
}

impl Raw {
    fn is_of(&self, pattern: &Pattern) -> bool {
        let place = match (&self.registry, &self.repository) {
            (Some(registry), Some(repository)) => Some(format!("{registry}/{repository}")),
            _ => None,
        };
        [self.reference.as_deref(), place.as_deref(), self.repository.as_deref()]
            .into_iter()
            .flatten()
            .any(|text| pattern.matches(text))
    }
}

/// Entries, one after another.
#[derive(Debug)]
pub struct Entries {
    reader: Reader,
    filter: Filter,
    page: VecDeque<Entry>,
    /// What is left to be searched; `None`: it has not begun.
    span: Option<Span>,
    left: usize,
    over: bool,
}

impl Entries {
    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// `Read` when the database fails, `Broad` when the filter's budget does not suffice.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        while self.page.is_empty() {
            if self.over {
                return Ok(None);
            }
            let mut span = match self.span {
                Some(span) => span,
                None => self.reader.span(&self.filter).await?,
            };
            let rows = self.left.min(PAGE);
            let mut raws = self.reader.page(&self.filter, span, rows).await?;
            self.over = raws.len() < rows;
            if let Some(last) = raws.last() {
                match self.filter.order {
                    Order::NewestFirst => span.last = last.seq - 1,
                    Order::OldestFirst => span.first = last.seq + 1,
                }
            }
            self.span = Some(span);
            if let Some(image) = &self.filter.image {
                raws.retain(|raw| raw.kind == "flood" || raw.is_of(image));
            }
            let joined = self.reader.join(raws).await?;
            self.page.extend(joined.into_iter().filter_map(|(raw, entry)| {
                let wanted = match &self.filter.image {
                    Some(image) if raw.kind == "flood" => sampled(&entry.event, image),
                    _ => true,
                };
                wanted.then_some(entry)
            }));
        }
        self.left -= 1;
        Ok(self.page.pop_front())
    }
}

/// Reads the log of a data folder, whether its gateway runs or not.
///
/// # Errors
/// `Missing` when there is no log, `Read` when it cannot be read.
pub async fn query(folder: &Path, filter: Filter) -> Result<Entries, Error> {
    Ok(Reader::open(folder).await?.entries(filter))
}
