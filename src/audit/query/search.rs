//! From a filter to a page of rows: which index leads there, and how far it may be followed.

use std::sync::{Arc, Weak};

use jiff::{SignedDuration, Timestamp};
use sqlx::sqlite::SqliteConnection;
use sqlx::{QueryBuilder, Sqlite};

use super::filter::{Filter, Order, Pattern};
use super::{Raw, Reader, raw};
use crate::audit::error::Error;
use crate::audit::row::Kind;
use crate::oci::Reference;

/// No repeat or transfer is younger than its decision by more: refusals and pulls are folded for an
/// hour, and a transfer is written an hour after the last request at the latest.
const FOLDED: SignedDuration = SignedDuration::from_hours(3);
/// Ways are compared up to so many rows each.
const PROBE: i64 = 2_000;
/// So many digests may begin as asked for each of them to be looked up.
const DIGESTS: usize = 64;
/// About what SQLite does for one row that it looks at, in its own instructions.
const STEPS: u64 = 24;
/// So many instructions between two looks at what is left of the budget.
const STRIDE: i32 = 4_800;

/// One look into an index: the rows of one value, in the order of their places.
#[derive(Clone, Debug)]
struct Branch {
    index: &'static str,
    column: &'static str,
    value: String,
    /// What the index leaves out, in the words of its definition.
    only: &'static str,
}

impl Branch {
    fn of(index: &'static str, column: &'static str, value: impl Into<String>) -> Self {
        Self { index, column, value: value.into(), only: "" }
    }
}

/// Branches that hold between them all rows wanted.
type Way = Vec<Branch>;

/// The part of the log that is searched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) first: i64,
    pub(super) last: i64,
}

/// A search under way. Its connection serves searches alone: whoever takes it next sets a budget anew.
#[derive(Debug)]
struct Leash(#[expect(dead_code, reason = "held, not read")] Arc<()>);

impl Leash {
    /// Lets a connection work for as long as the budget lasts and this value lives: a search that
    /// nobody waits for any more ends too.
    async fn put(connection: &mut SqliteConnection, rows: Option<u64>) -> Result<Self, sqlx::Error> {
        let alive = Arc::new(());
        let waited: Weak<()> = Arc::downgrade(&alive);
        let mut left =
            rows.map_or(u64::MAX, |rows| rows.saturating_mul(STEPS) / STRIDE.unsigned_abs() as u64 + 1);
        connection.lock_handle().await?.set_progress_handler(STRIDE, move || {
            left = left.saturating_sub(1);
            left > 0 && waited.strong_count() > 0
        });
        Ok(Self(alive))
    }
}

impl Reader {
    /// Between which places everything stands that the filter's times, places and id allow.
    pub(super) async fn span(&self, filter: &Filter) -> Result<Span, Error> {
        let mut span = Span {
            first: filter.after.map_or(0, |seq| seq.saturating_add(1)),
            last: filter.before.map_or(i64::MAX, |seq| seq.saturating_sub(1)),
        };
        // Times are nearly in the order of places: writers of a few moments overtake each other.
        if let Some(since) = filter.since {
            let cut = since.checked_sub(FOLDED).unwrap_or(Timestamp::UNIX_EPOCH).as_millisecond();
            let first = "SELECT MIN(seq) FROM (SELECT seq FROM event WHERE parent IS NULL AND time >= $1 \
                         ORDER BY time LIMIT 4096)";
            span.first = span.first.max(self.place(first, cut).await?.unwrap_or(i64::MAX));
        }
        if let Some(until) = filter.until {
            let last = "SELECT MAX(seq) FROM (SELECT seq FROM event WHERE parent IS NULL AND time <= $1 \
                        ORDER BY time DESC LIMIT 4096)";
            let until = until.as_millisecond();
            span.last = span.last.min(self.place(last, until).await?.unwrap_or(-1));
        }
        Ok(span)
    }

    async fn place(&self, sql: &'static str, time: i64) -> Result<Option<i64>, Error> {
        sqlx::query_scalar(sql).bind(time).fetch_one(self.pool()).await.map_err(|error| self.failed(&error))
    }

    /// The next rows that pass, their JSON unread.
    pub(super) async fn page(&self, filter: &Filter, span: Span, rows: usize) -> Result<Vec<Raw>, Error> {
        if span.first > span.last {
            return Ok(Vec::new());
        }
        let failed = |error: sqlx::Error| match filter.budget {
            Some(looked) if is_interrupted(&error) => Error::Broad { looked },
            _ => self.failed(&error),
        };
        let mut connection = self.searches.acquire().await.map_err(|error| self.failed(&error))?;
        let leash = Leash::put(&mut connection, filter.budget).await.map_err(failed)?;
        let digests = match &filter.digest {
            Some(text) => Some(digests(&mut connection, text).await.map_err(failed)?),
            None => None,
        };
        let ways = ways(filter, digests.as_ref());
        let way = narrowest(&mut connection, ways, span).await.map_err(failed)?;
        let rows = i64::try_from(rows).unwrap_or(i64::MAX);
        let mut sql = QueryBuilder::<Sqlite>::new(
            "SELECT seq, id, kind, reference, registry, repository, body FROM event WHERE seq IN (",
        );
        let along: Vec<Option<&Branch>> = match &way {
            Some(way) => way.iter().map(Some).collect(),
            None => vec![None],
        };
        if along.is_empty() {
            return Ok(Vec::new());
        }
        let order = match filter.order {
            Order::NewestFirst => " DESC LIMIT ",
            Order::OldestFirst => " LIMIT ",
        };
        for (place, branch) in along.into_iter().enumerate() {
            sql.push(if place == 0 { "" } else { " UNION " });
            sql.push("SELECT seq FROM (SELECT e.seq FROM event e ");
            match branch {
                Some(Branch { index, column, value, only }) => {
                    sql.push("INDEXED BY ").push(*index).push(" WHERE e.parent IS NULL AND e.").push(*column);
                    sql.push(" = ").push_bind(value.clone()).push(*only);
                }
                None => {
                    sql.push("NOT INDEXED WHERE e.parent IS NULL");
                }
            }
            conditions(&mut sql, filter, span, digests.as_ref());
            sql.push(" ORDER BY e.seq").push(order).push_bind(rows).push(")");
        }
        sql.push(" ORDER BY seq").push(order).push_bind(rows).push(") ORDER BY seq");
        sql.push(order).push_bind(rows);
        let found = sql.build().fetch_all(&mut *connection).await.map_err(failed)?;
        drop(leash);
        Ok(found.iter().map(raw).collect())
    }
}

/// What a digest's beginning stands for.
#[derive(Debug)]
enum Digests {
    /// These digests.
    These(Vec<String>),
    /// More than are worth naming: those between two texts.
    Within(Vec<(String, String)>),
}

/// Looks the digests up that begin like this, from one to the next: however often each was pulled, it
/// costs one look into the index.
async fn digests(connection: &mut SqliteConnection, text: &str) -> Result<Digests, sqlx::Error> {
    let text = text.to_ascii_lowercase();
    let starts = if text.contains(':') {
        vec![text]
    } else {
        ["sha256:", "sha512:"].iter().map(|algorithm| format!("{algorithm}{text}")).collect()
    };
    let mut found = Vec::new();
    for start in &starts {
        let end = format!("{start}\u{7f}");
        let mut from = start.clone();
        loop {
            let next: Option<String> = sqlx::query_scalar(
                "SELECT digest FROM event INDEXED BY event_digest WHERE parent IS NULL AND digest IS NOT NULL \
                 AND digest >= $1 AND digest < $2 ORDER BY digest LIMIT 1",
            )
            .bind(&from)
            .bind(&end)
            .fetch_optional(&mut *connection)
            .await?;
            let Some(next) = next else { break };
            from = format!("{next}\u{1}");
            found.push(next);
            if found.len() > DIGESTS {
                let within = starts.iter().map(|start| (start.clone(), format!("{start}\u{7f}")));
                return Ok(Digests::Within(within.collect()));
            }
        }
    }
    Ok(Digests::These(found))
}

/// All indexes that lead to what is wanted, the likeliest to be narrow first.
fn ways(filter: &Filter, digests: Option<&Digests>) -> Vec<Way> {
    let mut ways = Vec::new();
    if let Some(id) = filter.id {
        ways.push(vec![Branch::of("event_id", "id", id.to_string())]);
    }
    if let Some(Digests::These(digests)) = digests {
        ways.push(digests.iter().map(|digest| Branch::of("event_digest", "digest", digest)).collect());
    }
    if let Some(image) = filter.image.as_ref().and_then(Pattern::exact) {
        ways.push(image_way(image));
    }
    if let Some(repository) = &filter.repository {
        ways.push(vec![Branch::of("event_repository", "repository", repository)]);
    }
    if let Some(client) = filter.client.as_ref().and_then(Pattern::exact) {
        let either = |name: &String| {
            [Branch::of("event_client", "client", name), Branch::of("event_address", "address", name)]
        };
        ways.push(client.iter().flat_map(either).collect());
    }
    if let Some(tag) = &filter.tag {
        ways.push(vec![Branch::of("event_tag", "tag", tag)]);
    }
    if let Some(reason) = filter.reason {
        ways.push(vec![Branch::of("event_reason", "reason", reason.as_str())]);
    }
    if !filter.kinds.is_empty() && !filter.kinds.contains(&Kind::Decision) {
        ways.push(filter.kinds.iter().map(|kind| of_kind(*kind)).collect());
    }
    if let Some(verdict) = filter.verdict {
        ways.push(vec![Branch::of("event_verdict", "verdict", verdict.as_str())]);
    }
    if filter.blocked {
        ways.push(["deny", "hold"].map(|verdict| Branch::of("event_verdict", "verdict", verdict)).into());
    }
    if let Some(registry) = &filter.registry {
        ways.push(vec![Branch::of("event_registry", "registry", registry)]);
    }
    ways
}

fn of_kind(kind: Kind) -> Branch {
    Branch { only: " AND e.kind <> 'decision'", ..Branch::of("event_kind", "kind", kind.as_str()) }
}

/// Where an image written in full can stand: as a repository, as words that are no name, in the sample
/// of a flood.
fn image_way(forms: &[String]) -> Way {
    let mut way = vec![of_kind(Kind::Flood)];
    for form in forms {
        let mut repositories = vec![form.clone()];
        if let Ok(reference) = form.parse::<Reference>() {
            repositories.push(reference.name.repository().to_string());
        }
        for repository in repositories {
            if !way.iter().any(|known| known.value == repository) {
                way.push(Branch::of("event_repository", "repository", repository));
            }
        }
        way.push(Branch {
            only: " AND e.repository IS NULL",
            ..Branch::of("event_reference", "reference", form)
        });
    }
    way
}

/// The way with the fewest rows, counted as far as it is worth it.
async fn narrowest(
    connection: &mut SqliteConnection,
    mut ways: Vec<Way>,
    span: Span,
) -> Result<Option<Way>, sqlx::Error> {
    if ways.len() < 2 {
        return Ok(ways.pop());
    }
    let mut best: Option<(i64, Way)> = None;
    for way in ways {
        let mut count = 0;
        for Branch { index, column, value, only } in &way {
            let mut sql =
                QueryBuilder::<Sqlite>::new("SELECT COUNT(*) FROM (SELECT 1 FROM event e INDEXED BY ");
            sql.push(*index).push(" WHERE e.parent IS NULL AND e.").push(*column).push(" = ");
            sql.push_bind(value.clone()).push(*only);
            sql.push(" AND e.seq >= ").push_bind(span.first).push(" AND e.seq <= ").push_bind(span.last);
            sql.push(" LIMIT ").push_bind(PROBE).push(")");
            count += sql.build_query_scalar::<i64>().fetch_one(&mut *connection).await?;
        }
        if best.as_ref().is_none_or(|(least, _)| count.min(PROBE) < *least) {
            best = Some((count.min(PROBE), way));
        }
    }
    Ok(best.map(|(_, way)| way))
}

/// Everything the filter says, for each branch.
fn conditions(sql: &mut QueryBuilder<Sqlite>, filter: &Filter, span: Span, digests: Option<&Digests>) {
    if span.first > 0 {
        sql.push(" AND e.seq >= ").push_bind(span.first);
    }
    if span.last < i64::MAX {
        sql.push(" AND e.seq <= ").push_bind(span.last);
    }
    // A unary plus keeps a condition from leading SQLite to another index than the one chosen.
    let mut equal = |column: &'static str, value: Option<&str>| {
        if let Some(value) = value {
            sql.push(" AND +e.").push(column).push(" = ").push_bind(value.to_owned());
        }
    };
    equal("id", filter.id.map(|id| id.to_string()).as_deref());
    equal("registry", filter.registry.as_deref());
    equal("repository", filter.repository.as_deref());
    equal("tag", filter.tag.as_deref());
    equal("reason", filter.reason.map(crate::policy::Code::as_str));
    equal("verdict", filter.verdict.map(crate::policy::Verdict::as_str));
    if filter.blocked {
        sql.push(" AND +e.verdict IN ('deny', 'hold')");
    }
    if let Some(Digests::Within(ranges)) = digests {
        sql.push(" AND (FALSE");
        for (start, end) in ranges {
            sql.push(" OR (+e.digest >= ").push_bind(start.clone());
            sql.push(" AND +e.digest < ").push_bind(end.clone()).push(")");
        }
        sql.push(")");
    }
    if let Some(Digests::These(digests)) = digests {
        sql.push(" AND +e.digest IN (");
        let mut list = sql.separated(", ");
        for digest in digests {
            list.push_bind(digest.clone());
        }
        sql.push(")");
    }
    if filter.kinds.is_empty() {
        sql.push(" AND +e.kind <> 'checkpoint'");
    } else {
        sql.push(" AND +e.kind IN (");
        let mut list = sql.separated(", ");
        for kind in &filter.kinds {
            list.push_bind(kind.as_str());
        }
        sql.push(")");
    }
    if let Some(client) = &filter.client {
        fits(sql, client, &["e.client", "e.address"], false);
    }
    if let Some(image) = &filter.image {
        fits(sql, image, &["e.reference", "e.registry || '/' || e.repository", "e.repository"], true);
    }
    if let Some(since) = filter.since {
        let since = since.as_millisecond();
        sql.push(" AND (+e.time >= ").push_bind(since);
        sql.push(" OR e.last >= ").push_bind(since);
        sql.push(" OR EXISTS (SELECT 1 FROM event r WHERE r.parent = e.id AND r.last >= ").push_bind(since);
        sql.push("))");
    }
    if let Some(until) = filter.until {
        sql.push(" AND +e.time <= ").push_bind(until.as_millisecond());
    }
}

fn fits(sql: &mut QueryBuilder<Sqlite>, pattern: &Pattern, columns: &[&'static str], floods: bool) {
    sql.push(if floods { " AND (+e.kind = 'flood'" } else { " AND (FALSE" });
    match pattern.exact() {
        Some(forms) => {
            for form in forms {
                for column in columns {
                    sql.push(" OR +").push(*column).push(" = ").push_bind(form.clone());
                }
            }
        }
        None => {
            for words in pattern.likes() {
                for column in columns {
                    sql.push(" OR ").push(*column).push(" LIKE ").push_bind(words.clone());
                    sql.push(r" ESCAPE '\'");
                }
            }
        }
    }
    sql.push(")");
}

/// Whether the budget was used up (`SQLITE_INTERRUPT`).
fn is_interrupted(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "9")
}
