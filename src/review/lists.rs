//! Everything else the pages list, and the overview.

use std::ops::Range;

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::error::Error;
use super::inbox::{beyond, like, page, unsigned};
use super::project::{DAY, HOUR, HOUR_TALLIES_KEPT};
use super::rows::{ClientRow, words_of};
use super::schema::moment;
use super::store::Review;
use super::values::{
    Alert, Bucket, Client, ClientFilter, ClientOrder, Cursor, Drift, ExceptionUse, Overview, Page, Recall,
    Step, Tally, UpstreamChange,
};

/// So many buckets of a range at most: the oldest are left out.
const BUCKETS_MAX: i64 = 3000;
/// So many are named of what was refused most.
const TOP: i64 = 10;

type Rows<T> = Result<T, sqlx::Error>;

impl Review {
    /// A range at a glance: the steps that begin in it or contain its beginning. What was refused most
    /// is told by whole days where the range begins more than a week ago.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn overview(&self, range: Range<Timestamp>, step: Step) -> Result<Overview, Error> {
        self.read_overview(range, step).await.map_err(|error| self.failed(&error))
    }

    async fn read_overview(&self, range: Range<Timestamp>, step: Step) -> Rows<Overview> {
        let length = match step {
            Step::Day => DAY,
            Step::Hour => HOUR,
        };
        let end = range.end.as_millisecond();
        let floor = |at: i64, step: i64| at - at.rem_euclid(step);
        let begin =
            floor(range.start.as_millisecond(), length).max(floor(end, length) - BUCKETS_MAX * length);
        let rows = sqlx::query("SELECT * FROM bucket WHERE step = $1 AND at >= $2 AND at < $3 ORDER BY at")
            .bind(length)
            .bind(begin)
            .bind(end)
            .fetch_all(&*self.readers())
            .await?;
        let read = rows.iter().map(bucket).collect::<Rows<Vec<Bucket>>>()?;
        let mut read = read.into_iter().peekable();
        let (mut buckets, mut total) = (Vec::new(), Bucket { at: moment(begin), ..Bucket::default() });
        let mut at = begin;
        while at < end {
            let found = read.next_if(|bucket| bucket.at == moment(at));
            let bucket = found.unwrap_or_else(|| Bucket { at: moment(at), ..Bucket::default() });
            total.add(&bucket);
            buckets.push(bucket);
            at += length;
        }
        // Hours are kept for a while only; days tell the same.
        let recent = self.now().as_millisecond() - begin <= HOUR_TALLIES_KEPT - DAY;
        let tallied = if recent { HOUR } else { DAY };
        let span = (tallied, floor(begin, tallied), end);
        Ok(Overview {
            buckets,
            total,
            references: self.top(span, REFERENCES).await?,
            registries: self.top(span, REGISTRIES).await?,
            clients: self.top(span, CLIENTS).await?,
        })
    }

    async fn top(&self, (step, begin, end): (i64, i64, i64), sql: &'static str) -> Rows<Vec<Tally>> {
        let rows =
            sqlx::query(sql).bind(step).bind(begin).bind(end).bind(TOP).fetch_all(&*self.readers()).await?;
        let tally = |row: &SqliteRow| {
            Ok(Tally {
                key: row.try_get(0)?,
                name: row.try_get(1)?,
                reason: row.try_get(2)?,
                count: unsigned(row.try_get(3)?),
            })
        };
        rows.iter().map(tally).collect()
    }

    /// All clients that were ever seen; those longest away are one row once there are 20,000.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn clients(
        &self,
        filter: &ClientFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<Client>, Error> {
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT * FROM client WHERE TRUE");
        if let Some(text) = &filter.text {
            let words = like(text);
            sql.push(r" AND (who LIKE ").push_bind(words.clone()).push(r" ESCAPE '\'");
            sql.push(r" OR name LIKE ").push_bind(words.clone()).push(r" ESCAPE '\'");
            sql.push(r" OR address LIKE ").push_bind(words).push(r" ESCAPE '\')");
        }
        if let Some(since) = filter.since {
            sql.push(" AND last >= ").push_bind(since.as_millisecond());
        }
        let column = match filter.order {
            ClientOrder::LastSeen => "last",
            ClientOrder::Pulls => "pulls",
            ClientOrder::Refusals => "refusals",
        };
        let limit = beyond(&mut sql, column, "id", after, limit);
        let rows = sql.build().fetch_all(&*self.readers()).await.map_err(|error| self.failed(&error))?;
        let read = rows.iter().map(ClientRow::read).collect::<Rows<Vec<_>>>();
        let read = read.map_err(|error| self.failed(&error))?;
        let place = |row: &ClientRow| Cursor {
            value: match filter.order {
                ClientOrder::LastSeen => row.last,
                ClientOrder::Pulls => row.pulls,
                ClientOrder::Refusals => row.refusals,
            },
            id: row.id,
        };
        Ok(page(read, limit, place, Client::from))
    }

    /// Tags that moved upstream, the latest first.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn drifts(&self, after: Option<&Cursor>, limit: u32) -> Result<Page<Drift>, Error> {
        self.list("SELECT * FROM drift WHERE TRUE", after, limit, |row| {
            Ok(Drift {
                id: row.try_get("id")?,
                time: moment(row.try_get("time")?),
                registry: row.try_get("registry")?,
                repository: row.try_get("repository")?,
                tag: row.try_get("tag")?,
                locked: row.try_get("locked")?,
                current: row.try_get("current")?,
            })
        })
        .await
    }

    /// What happened to upstreams, the latest first.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn upstreams(&self, after: Option<&Cursor>, limit: u32) -> Result<Page<UpstreamChange>, Error> {
        self.list("SELECT * FROM upstream WHERE TRUE", after, limit, |row| {
            Ok(UpstreamChange {
                id: row.try_get("id")?,
                time: moment(row.try_get("time")?),
                registry: row.try_get("registry")?,
                state: row.try_get("state")?,
                text: row.try_get("text")?,
                repository: row.try_get("repository")?,
                digest: row.try_get("digest")?,
            })
        })
        .await
    }

    /// Alerts that went off, the latest first.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn alerts(&self, after: Option<&Cursor>, limit: u32) -> Result<Page<Alert>, Error> {
        self.list("SELECT * FROM alert WHERE TRUE", after, limit, |row| {
            Ok(Alert {
                id: row.try_get("id")?,
                time: moment(row.try_get("time")?),
                rule: row.try_get("rule")?,
                text: row.try_get("text")?,
                count: unsigned(row.try_get("count")?),
                of: row.try_get("of")?,
                reference: row.try_get("reference")?,
            })
        })
        .await
    }

    async fn list<T>(
        &self,
        sql: &'static str,
        after: Option<&Cursor>,
        limit: u32,
        read: impl Fn(&SqliteRow) -> Rows<T>,
    ) -> Result<Page<T>, Error> {
        let mut sql = QueryBuilder::<Sqlite>::new(sql);
        let limit = beyond(&mut sql, "seq", "seq", after, limit);
        let rows = sql.build().fetch_all(&*self.readers()).await.map_err(|error| self.failed(&error))?;
        let read = rows.iter().map(|row| Ok((row.try_get::<i64, _>("seq")?, read(row)?)));
        let read = read.collect::<Rows<Vec<_>>>().map_err(|error| self.failed(&error))?;
        Ok(page(read, limit, |(seq, _)| Cursor { value: *seq, id: *seq }, |(_, item)| item))
    }

    /// What is on record of exceptions, by id.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn exceptions(&self) -> Result<Vec<ExceptionUse>, Error> {
        let read = |row: &SqliteRow| {
            let changed: Option<i64> = row.try_get("changed")?;
            let last_used: Option<i64> = row.try_get("last_used")?;
            Ok(ExceptionUse {
                id: row.try_get("id")?,
                image: row.try_get("image")?,
                waive: words_of(row.try_get("waive")?),
                expires: row.try_get("expires")?,
                result: row.try_get("result")?,
                changed: changed.map(moment),
                last_used: last_used.map(moment),
                last_decision: row.try_get("last_decision")?,
                used: unsigned(row.try_get("used")?),
                needed: unsigned(row.try_get("needed")?),
                unneeded: unsigned(row.try_get("unneeded")?),
            })
        };
        self.all("SELECT * FROM exception ORDER BY id", read).await
    }

    /// What is on record of recalls, the latest first.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn recalls(&self) -> Result<Vec<Recall>, Error> {
        let read = |row: &SqliteRow| {
            Ok(Recall {
                id: row.try_get("id")?,
                reason: row.try_get("reason")?,
                names: words_of(row.try_get("names")?),
                replace: row.try_get("replaced")?,
                result: row.try_get("result")?,
                first: moment(row.try_get("first")?),
                changed: moment(row.try_get("changed")?),
            })
        };
        self.all("SELECT * FROM recall ORDER BY changed DESC, id", read).await
    }

    async fn all<T>(&self, sql: &'static str, read: impl Fn(&SqliteRow) -> Rows<T>) -> Result<Vec<T>, Error> {
        let rows = sqlx::query(sql).fetch_all(&*self.readers()).await.map_err(|error| self.failed(&error))?;
        rows.iter().map(read).collect::<Rows<_>>().map_err(|error| self.failed(&error))
    }
}

const REFERENCES: &str = "SELECT r.key, r.reference, r.reason, SUM(t.count) AS n FROM tally t \
     JOIN refused r ON r.id = t.id WHERE t.what = 0 AND t.step = $1 AND t.at >= $2 AND t.at < $3 \
     GROUP BY r.id ORDER BY n DESC, r.reference LIMIT $4";
const REGISTRIES: &str = "SELECT NULL, r.registry, NULL, SUM(t.count) AS n FROM tally t \
     JOIN refused r ON r.id = t.id WHERE t.what = 0 AND t.step = $1 AND t.at >= $2 AND t.at < $3 \
     AND r.registry IS NOT NULL GROUP BY r.registry ORDER BY n DESC, r.registry LIMIT $4";
const CLIENTS: &str = "SELECT NULL, c.who, NULL, SUM(t.count) AS n FROM tally t \
     JOIN client c ON c.id = t.id WHERE t.what = 1 AND t.step = $1 AND t.at >= $2 AND t.at < $3 \
     GROUP BY c.id ORDER BY n DESC, c.who LIMIT $4";

fn bucket(row: &SqliteRow) -> Rows<Bucket> {
    let number = |column| row.try_get(column).map(unsigned);
    Ok(Bucket {
        at: moment(row.try_get("at")?),
        allow: number("allow")?,
        warn: number("warn")?,
        hold: number("hold")?,
        deny: number("deny")?,
        hits: number("hits")?,
        misses: number("misses")?,
        stale: number("stale")?,
        offline: number("offline")?,
        bytes_cached: number("bytes_cached")?,
        bytes_fetched: number("bytes_fetched")?,
    })
}

impl Bucket {
    fn add(&mut self, other: &Self) {
        self.allow += other.allow;
        self.warn += other.warn;
        self.hold += other.hold;
        self.deny += other.deny;
        self.hits += other.hits;
        self.misses += other.misses;
        self.stale += other.stale;
        self.offline += other.offline;
        self.bytes_cached += other.bytes_cached;
        self.bytes_fetched += other.bytes_fetched;
    }
}

impl From<ClientRow> for Client {
    fn from(row: ClientRow) -> Self {
        Self {
            who: row.who,
            name: row.name,
            address: row.address,
            attribution: row.attribution,
            runtimes: row.runtimes,
            pulls: unsigned(row.pulls),
            refusals: unsigned(row.refusals),
            bytes: unsigned(row.bytes),
            first: moment(row.first),
            last: moment(row.last),
            last_refused: row.last_refused.map(moment),
        }
    }
}
