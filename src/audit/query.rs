//! Reading the record: decisions with their repeats and transfers joined.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{ConnectOptions as _, QueryBuilder, Row as _, Sqlite};
use ulid::Ulid;

use crate::oci::Reference;
use crate::policy::{Code, Verdict};

use super::draft::{Cache, Join};
use super::error::Error;
use super::floods::SAMPLE;

/// Entries read at a time.
const PAGE: usize = 256;
/// No repeat or transfer is younger than its decision by more: refusals and pulls are folded for an
/// hour, and a transfer is written an hour after the last request at the latest.
const FOLDED: SignedDuration = SignedDuration::from_hours(3);

/// Which entries are wanted; everything given must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only what stands after this place (`seq`).
    pub after: Option<i64>,
    /// Only refused pulls.
    pub blocked: bool,
    /// A client's name or address; `*` stands for any run of characters.
    pub client: Option<Pattern>,
    /// Reference, `registry/repository` or repository.
    pub image: Option<Pattern>,
    /// At most so many entries.
    pub limit: Option<usize>,
    /// Which come first.
    pub order: Order,
    /// *The* reason.
    pub reason: Option<Code>,
    /// Only what happened, or happened again, at or after this.
    pub since: Option<Timestamp>,
    /// Only what happened at or before this.
    pub until: Option<Timestamp>,
    /// What policy said.
    pub verdict: Option<Verdict>,
}

/// In which order entries come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Order {
    /// From the latest back.
    NewestFirst,
    /// As they happened.
    #[default]
    OldestFirst,
}

/// Words in which `*` stands for any run of characters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern(Vec<String>);

impl Pattern {
    /// Words as they are.
    pub fn words(text: &str) -> Self {
        Self(vec![text.to_owned()])
    }

    /// An image as people write it: `python`, `python:3.*`, `docker.io/library/*`, `*nginx*`. Short
    /// names mean Docker Hub; without tag or digest, all of them.
    pub fn image(text: &str) -> Self {
        let mut forms = vec![text.to_owned()];
        if !text.contains('*')
            && let Ok(reference) = text.parse::<Reference>()
        {
            let last = text.rsplit('/').next().unwrap_or_default();
            let written = last.contains(':') || last.contains('@');
            forms.push(if written { reference.to_string() } else { reference.name.to_string() });
        } else if !text.starts_with('*') {
            forms.push(format!("docker.io/{text}"));
            if !text.contains('/') {
                forms.push(format!("docker.io/library/{text}"));
            }
        }
        Self(forms)
    }

    /// Whether the whole text fits.
    pub fn matches(&self, text: &str) -> bool {
        self.0.iter().any(|form| fits(form, text))
    }

    /// The same for SQL's LIKE, which is less strict about case.
    fn likes(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|form| {
            form.chars()
                .flat_map(|character| match character {
                    '*' => vec!['%'],
                    '%' | '_' | '\\' => vec!['\\', character],
                    other => vec![other],
                })
                .collect()
        })
    }
}

/// Glob matching with `*` alone, in linear space and without recursion.
fn fits(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

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
            Ok(opened) if readable(&opened).await => Ok(opened),
            first => {
                // Someone who may not write the folder cannot make the index a WAL needs; a log that
                // was closed has none to read, so it can be taken as it is.
                let wal = path.with_file_name(format!("{}-wal", super::FILE));
                let ended = rustix::fs::stat(&wal).map_or(true, |stat| stat.st_size == 0);
                if ended { pool().connect_with(options.immutable(true)).await } else { first }
            }
        };
        match opened {
            Ok(pool) => Ok(Self { path, pool }),
            Err(error) => Err(Error::Read { path, detail: error.to_string().into() }),
        }
    }

    /// The entries that pass the filter, read page by page: however long the log is, only a page of
    /// it is in memory.
    pub fn entries(&self, filter: Filter) -> Entries {
        let left = filter.limit.unwrap_or(usize::MAX);
        Entries {
            reader: self.clone(),
            filter,
            page: VecDeque::new(),
            cursor: None,
            floor: None,
            left,
            over: false,
        }
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
        self.pool.close().await;
    }

    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    pub(crate) fn failed(&self, error: &sqlx::Error) -> Error {
        Error::Read { path: self.path.clone(), detail: error.to_string().into() }
    }

    /// Where to begin, so that nothing that may have happened since is missed.
    async fn floor(&self, since: Timestamp) -> Result<i64, Error> {
        let cut = since.checked_sub(FOLDED).unwrap_or(Timestamp::UNIX_EPOCH).as_millisecond();
        let first: Option<i64> = sqlx::query_scalar(
            "SELECT MIN(seq) FROM (SELECT seq FROM event WHERE time >= $1 ORDER BY time LIMIT 4096)",
        )
        .bind(cut)
        .fetch_one(&self.pool)
        .await
        .map_err(|error| self.failed(&error))?;
        Ok(first.unwrap_or(i64::MAX))
    }

    async fn page(&self, filter: &Filter, cursor: Option<i64>, floor: i64) -> Result<Vec<Raw>, Error> {
        let mut sql = QueryBuilder::<Sqlite>::new(
            "SELECT seq, id, kind, reference, registry, repository, body FROM event e WHERE e.parent IS NULL AND e.seq >= ",
        );
        sql.push_bind(floor.max(filter.after.map_or(0, |seq| seq.saturating_add(1))));
        if let Some(until) = filter.until {
            sql.push(" AND e.time <= ").push_bind(until.as_millisecond());
        }
        if filter.blocked {
            sql.push(" AND e.verdict IN ('deny', 'hold')");
        }
        if let Some(verdict) = filter.verdict {
            sql.push(" AND e.verdict = ").push_bind(verdict.as_str());
        }
        if let Some(reason) = filter.reason {
            sql.push(" AND e.reason = ").push_bind(reason.as_str());
        }
        if let Some(client) = &filter.client {
            like(&mut sql, client, &["e.client", "e.address"], false);
        }
        if let Some(image) = &filter.image {
            like(
                &mut sql,
                image,
                &["e.reference", "e.registry || '/' || e.repository", "e.repository"],
                true,
            );
        }
        if let Some(since) = filter.since {
            let since = since.as_millisecond();
            sql.push(" AND (e.time >= ").push_bind(since);
            sql.push(" OR e.last >= ").push_bind(since);
            sql.push(" OR EXISTS (SELECT 1 FROM event r WHERE r.parent = e.id AND r.last >= ")
                .push_bind(since);
            sql.push("))");
        }
        match (filter.order, cursor) {
            (Order::NewestFirst, Some(seq)) => {
                sql.push(" AND e.seq < ").push_bind(seq);
            }
            (Order::OldestFirst, Some(seq)) => {
                sql.push(" AND e.seq > ").push_bind(seq);
            }
            (_, None) => {}
        }
        sql.push(match filter.order {
            Order::NewestFirst => " ORDER BY e.seq DESC LIMIT ",
            Order::OldestFirst => " ORDER BY e.seq LIMIT ",
        });
        sql.push_bind(i64::try_from(PAGE).unwrap_or(i64::MAX));
        let rows = sql.build().fetch_all(&self.pool).await.map_err(|error| self.failed(&error))?;
        Ok(rows.iter().map(raw).collect())
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

fn like(sql: &mut QueryBuilder<Sqlite>, pattern: &Pattern, columns: &[&'static str], floods: bool) {
    sql.push(if floods { " AND (e.kind = 'flood'" } else { " AND (FALSE" });
    for words in pattern.likes() {
        for column in columns {
            sql.push(" OR ").push(*column).push(" LIKE ").push_bind(words.clone()).push(r" ESCAPE '\'");
        }
    }
    sql.push(")");
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

/// Whether a flood's sample shows the image. Its tag or digest may be left out of the pattern.
fn sampled(event: &Map<String, Value>, pattern: &Pattern) -> bool {
    let samples = event.get("sample").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    samples.iter().filter_map(Value::as_str).any(|reference| {
        pattern.matches(reference)
            || reference.parse::<Reference>().is_ok_and(|parsed| {
                pattern.matches(&parsed.name.to_string())
                    || pattern.matches(parsed.name.repository().as_str())
            })
    })
}

/// Folds repeats, transfers and a flood's closing rows into the event they belong to.
fn merge(event: &mut Map<String, Value>, later: &[Map<String, Value>]) {
    let number = |event: &Map<String, Value>, key: &str| event.get(key).and_then(Value::as_u64);
    let time = |event: &Map<String, Value>, key: &str| event.get(key).cloned();
    let mut count = number(event, "count").unwrap_or(1);
    let first = time(event, "first").or_else(|| time(event, "time")).unwrap_or_default();
    let mut last = time(event, "last").unwrap_or_else(|| first.clone());
    let (mut bytes, mut duration, mut status) = (None, 0, None);
    let mut cache = 0;
    let mut join = None;
    let mut candidates: Vec<Value> = Vec::new();
    for one in later {
        let kind = one.get("kind").and_then(Value::as_str).unwrap_or_default();
        match kind {
            "repeat" | "flood" => {
                count += number(one, "count").unwrap_or(0);
                if let Some(Value::String(moment)) = one.get("last")
                    && last.as_str().is_none_or(|known| known < moment.as_str())
                {
                    last = Value::String(moment.clone());
                }
                if let (Some(Value::Array(sample)), Some(Value::Array(all))) =
                    (one.get("sample"), event.get_mut("sample"))
                {
                    for reference in sample {
                        if all.len() < SAMPLE && !all.contains(reference) {
                            all.push(reference.clone());
                        }
                    }
                }
            }
            "transfer" => {
                bytes = Some(bytes.unwrap_or(0) + number(one, "bytes").unwrap_or(0));
                duration += number(one, "duration_ms").unwrap_or(0);
                status = status.max(number(one, "status"));
                cache |=
                    one.get("cache").and_then(Value::as_str).and_then(Cache::parse).map_or(0, Cache::bit);
                join = join.max(one.get("join").and_then(Value::as_str).and_then(Join::parse));
                if let Some(Value::Array(tags)) = one.get("candidates") {
                    candidates.extend(
                        tags.iter().filter(|tag| !candidates.contains(tag)).cloned().collect::<Vec<_>>(),
                    );
                }
            }
            _ => {}
        }
    }
    event.insert("count".to_owned(), json!(count));
    event.insert("first".to_owned(), first);
    event.insert("last".to_owned(), last);
    if let Some(bytes) = bytes {
        event.insert("bytes".to_owned(), json!(bytes));
        event.insert("duration_ms".to_owned(), json!(duration));
        if let Some(Value::Object(http)) = event.get_mut("http") {
            http.insert("bytes".to_owned(), json!(bytes));
            http.insert("duration_ms".to_owned(), json!(duration));
            if let Some(status) = status {
                http.insert("status".to_owned(), json!(status));
            }
        }
    }
    if let Some(cache) = Cache::farthest(cache) {
        event.insert("cache".to_owned(), json!(cache.as_str()));
    }
    if let (Some(join), Some(Value::Object(client))) = (join, event.get_mut("client")) {
        client.insert("join".to_owned(), json!(join.as_str()));
        if !candidates.is_empty() {
            client.insert("candidates".to_owned(), Value::Array(candidates));
        }
    }
}

/// Entries, one after another.
#[derive(Debug)]
pub struct Entries {
    reader: Reader,
    filter: Filter,
    page: VecDeque<Entry>,
    cursor: Option<i64>,
    floor: Option<i64>,
    left: usize,
    over: bool,
}

impl Entries {
    /// The next one; `None` at the end.
    ///
    /// # Errors
    /// `Read` when the database fails.
    pub async fn next(&mut self) -> Result<Option<Entry>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        while self.page.is_empty() {
            if self.over {
                return Ok(None);
            }
            let floor = match (self.floor, self.filter.since) {
                (Some(floor), _) => floor,
                (None, Some(since)) => self.reader.floor(since).await?,
                (None, None) => 0,
            };
            self.floor = Some(floor);
            let mut raws = self.reader.page(&self.filter, self.cursor, floor).await?;
            self.over = raws.len() < PAGE;
            self.cursor = raws.last().map(|raw| raw.seq).or(self.cursor);
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
