//! Groups, and who met them.

use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::error::Error;
use super::event::network;
use super::rows::{GroupRow, group_key};
use super::schema::moment;
use super::store::Review;
use super::values::{Cursor, Group, GroupKind, InboxFilter, InboxOrder, Met, Page, State, Totals};
use crate::audit::Subject;
use crate::policy::Code;

/// The most rows of one page.
const PAGE_MAX: u32 = 1000;

impl Review {
    /// The groups that pass the filter, from `after` on, at most `limit` and at most 1000.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn inbox(
        &self,
        filter: &InboxFilter,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<Group>, Error> {
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT * FROM refused r WHERE ");
        conditions(&mut sql, filter);
        if let Some(state) = filter.state {
            sql.push(" AND r.state = ").push_bind(state.as_str());
        }
        let column = match filter.order {
            InboxOrder::Count => "count",
            InboxOrder::FirstSeen => "first",
            InboxOrder::LastSeen => "last",
        };
        let limit = beyond(&mut sql, column, "id", after, limit);
        let rows = sql.build().fetch_all(&*self.readers()).await.map_err(|error| self.failed(&error))?;
        let read: Result<Vec<GroupRow>, _> = rows.iter().map(GroupRow::read).collect();
        let read = read.map_err(|error| self.failed(&error))?;
        let place = |row: &GroupRow| Cursor {
            value: match filter.order {
                InboxOrder::Count => row.count,
                InboxOrder::FirstSeen => row.first,
                InboxOrder::LastSeen => row.last,
            },
            id: row.id,
        };
        Ok(page(read, limit, place, Group::from))
    }

    /// How many groups pass the filter, whatever state it asks for.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn totals(&self, filter: &InboxFilter) -> Result<Totals, Error> {
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT r.state, COUNT(*) FROM refused r WHERE ");
        conditions(&mut sql, filter);
        sql.push(" GROUP BY r.state");
        let rows: Vec<(String, i64)> =
            sql.build_query_as().fetch_all(&*self.readers()).await.map_err(|error| self.failed(&error))?;
        let mut totals = Totals::default();
        for (state, count) in rows {
            let count = unsigned(count);
            match State::parse(&state) {
                Some(State::Acknowledged) => totals.acknowledged = count,
                Some(State::New) => totals.new = count,
                Some(State::Resolved) => totals.resolved = count,
                None => {}
            }
        }
        Ok(totals)
    }

    /// The group of a reference and a reason; of several kinds the one that was refused.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn group(&self, subject: &Subject) -> Result<Option<Group>, Error> {
        let reason = subject.reason.map_or("", Code::as_str);
        for kind in [GroupKind::Refused, GroupKind::Flood, GroupKind::Warned] {
            let found = self.group_by_key(&group_key(kind, &subject.reference, reason)).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The group with this key.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn group_by_key(&self, key: &str) -> Result<Option<Group>, Error> {
        let row = sqlx::query("SELECT * FROM refused WHERE key = $1")
            .bind(key)
            .fetch_optional(&*self.readers())
            .await
            .map_err(|error| self.failed(&error))?;
        let row = row.as_ref().map(GroupRow::read).transpose().map_err(|error| self.failed(&error))?;
        Ok(row.map(Group::from))
    }

    /// Who met the group with this key, the latest first.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn clients_of(
        &self,
        key: &str,
        after: Option<&Cursor>,
        limit: u32,
    ) -> Result<Page<Met>, Error> {
        let mut sql = QueryBuilder::<Sqlite>::new(
            "SELECT m.client, c.who, c.name, c.address, m.runtime, m.count, m.first, m.last FROM met m \
             JOIN client c ON c.id = m.client WHERE m.refused = (SELECT id FROM refused WHERE key = ",
        );
        sql.push_bind(key).push(")");
        let limit = beyond(&mut sql, "m.last", "m.client", after, limit);
        let rows = sql.build().fetch_all(&*self.readers()).await.map_err(|error| self.failed(&error))?;
        let read = rows.iter().map(|row| {
            let met = Met {
                who: row.try_get("who")?,
                name: row.try_get("name")?,
                address: row.try_get("address")?,
                runtime: row.try_get("runtime")?,
                count: unsigned(row.try_get("count")?),
                first: moment(row.try_get("first")?),
                last: moment(row.try_get("last")?),
            };
            Ok((Cursor { value: row.try_get("last")?, id: row.try_get("client")? }, met))
        });
        let read = read.collect::<Result<Vec<_>, sqlx::Error>>().map_err(|error| self.failed(&error))?;
        Ok(page(read, limit, |(cursor, _)| cursor.clone(), |(_, met)| met))
    }
}

/// Everything a filter asks for but the state.
fn conditions(sql: &mut QueryBuilder<Sqlite>, filter: &InboxFilter) {
    match filter.kind {
        Some(kind) => sql.push("r.kind = ").push_bind(kind.as_str()),
        None => sql.push("r.kind <> ").push_bind(GroupKind::Warned.as_str()),
    };
    for (column, value) in
        [("r.reason", &filter.reason), ("r.registry", &filter.registry), ("r.tag", &filter.tag)]
    {
        if let Some(value) = value {
            sql.push(" AND ").push(column).push(" = ").push_bind(value.clone());
        }
    }
    if let Some(repository) = &filter.repository {
        sql.push(" AND (r.repository = ").push_bind(repository.clone());
        sql.push(" OR r.registry || '/' || r.repository = ").push_bind(repository.clone()).push(")");
    }
    if let Some(client) = &filter.client {
        sql.push(
            " AND EXISTS (SELECT 1 FROM met m JOIN client c ON c.id = m.client WHERE m.refused = r.id AND (c.who = ",
        );
        sql.push_bind(network(client)).push(" OR c.who = ").push_bind(client.clone());
        sql.push(" OR c.name = ").push_bind(client.clone());
        sql.push("))");
    }
    if let Some(text) = &filter.text {
        let words = like(text);
        sql.push(" AND (r.latest = ").push_bind(text.trim().to_ascii_uppercase());
        for column in ["r.reference", "r.digest", "r.message", "r.note", "r.sample"] {
            sql.push(" OR ").push(column).push(" LIKE ").push_bind(words.clone()).push(r" ESCAPE '\'");
        }
        sql.push(")");
    }
    if let Some(since) = filter.since {
        sql.push(" AND r.last >= ").push_bind(since.as_millisecond());
    }
    if let Some(until) = filter.until {
        sql.push(" AND r.first < ").push_bind(until.as_millisecond());
    }
    if let Some(since) = filter.new_since {
        sql.push(" AND r.newly > ").push_bind(since.as_millisecond());
    }
}

/// Words that may stand anywhere, for LIKE.
pub(super) fn like(text: &str) -> String {
    let escaped: String = text
        .chars()
        .flat_map(|character| match character {
            '%' | '_' | '\\' => vec!['\\', character],
            other => vec![other],
        })
        .collect();
    format!("%{escaped}%")
}

/// The rows behind a place, the greatest first, and one more than wanted: whether there are others.
pub(super) fn beyond(
    sql: &mut QueryBuilder<Sqlite>,
    value: &'static str,
    id: &'static str,
    after: Option<&Cursor>,
    limit: u32,
) -> usize {
    let limit = limit.clamp(1, PAGE_MAX);
    if let Some(after) = after {
        sql.push(" AND (").push(value).push(", ").push(id).push(") < (");
        sql.push_bind(after.value).push(", ").push_bind(after.id).push(")");
    }
    sql.push(" ORDER BY ").push(value).push(" DESC, ").push(id).push(" DESC LIMIT ");
    sql.push_bind(i64::from(limit) + 1);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// A page out of what [`beyond`] found.
pub(super) fn page<R, T>(
    mut rows: Vec<R>,
    limit: usize,
    place: impl Fn(&R) -> Cursor,
    show: impl FnMut(R) -> T,
) -> Page<T> {
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(place);
    Page { items: rows.into_iter().map(show).collect(), next }
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}

impl From<GroupRow> for Group {
    fn from(row: GroupRow) -> Self {
        let reason = Code::parse(&row.reason);
        Self {
            key: row.key,
            kind: row.kind,
            subject: Subject { reference: row.reference, reason },
            reason: row.reason,
            reasons: row.reasons,
            verdict: row.verdict,
            registry: row.registry,
            repository: row.repository,
            tag: row.tag,
            digest: row.digest,
            source: row.source,
            count: unsigned(row.count),
            first: moment(row.first),
            last: moment(row.last),
            clients: unsigned(row.clients),
            latest: row.latest,
            latest_message: row.message,
            remedy: row.remedy,
            sample: row.sample,
            state: row.state,
            note: row.note,
            by: row.changed_by,
            changed: row.changed.map(moment),
            resolved_before: row.reopened,
            since_change: unsigned(row.since_change),
        }
    }
}
