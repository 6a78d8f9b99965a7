//! From memory to disk, and what is not kept for good.

use sqlx::sqlite::SqliteConnection;
use sqlx::{QueryBuilder, Sqlite};

use super::{DAY, DAY_TALLIES_KEPT, Gain, HOUR, HOUR_TALLIES_KEPT, HOURS_KEPT, Projector, Result, horizon};

/// So many rows are written by one statement: each takes a way to SQLite's thread and back.
const ROWS: usize = 500;
/// So many rows of the lists are kept.
const LISTED: i64 = 100_000;

impl Projector {
    /// Writes what was changed in memory.
    pub(super) async fn flush(&mut self, work: &mut SqliteConnection) -> Result<()> {
        for slot in self.groups.values_mut().filter(|slot| slot.dirty) {
            slot.row.save(work).await?;
            slot.dirty = false;
        }
        for slot in self.clients.values_mut().filter(|slot| slot.dirty) {
            slot.row.save(work).await?;
            slot.dirty = false;
        }
        let dirty: Vec<_> = self.met.iter_mut().filter(|(_, slot)| slot.dirty).collect();
        for rows in dirty.chunks(ROWS) {
            let mut sql = QueryBuilder::<Sqlite>::new(
                "REPLACE INTO met (refused, client, runtime, count, first, last) ",
            );
            sql.push_values(rows, |mut row, (pair, slot)| {
                row.push_bind(pair.0).push_bind(pair.1).push_bind(slot.row.runtime.clone());
                row.push_bind(slot.row.count).push_bind(slot.row.first).push_bind(slot.row.last);
            });
            sql.build().persistent(false).execute(&mut *work).await?;
        }
        dirty.into_iter().for_each(|(_, slot)| slot.dirty = false);
        for ((step, at), gain) in self.buckets.drain() {
            gain.save(work, step, at).await?;
        }
        let tallies: Vec<_> = self.tallies.drain().collect();
        for rows in tallies.chunks(ROWS) {
            let mut sql = QueryBuilder::<Sqlite>::new("INSERT INTO tally (what, step, at, id, count) ");
            sql.push_values(rows, |mut row, ((what, step, at, id), count)| {
                row.push_bind(*what).push_bind(*step).push_bind(*at).push_bind(*id).push_bind(*count);
            });
            sql.push(" ON CONFLICT (what, step, at, id) DO UPDATE SET count = count + excluded.count");
            sql.build().persistent(false).execute(&mut *work).await?;
        }
        Ok(())
    }

    /// Removes what is older than it is kept.
    pub(super) async fn prune(&self, work: &mut SqliteConnection) -> Result<()> {
        sqlx::query("DELETE FROM bucket WHERE step = $1 AND at < $2")
            .bind(HOUR)
            .bind(horizon(self.newest, HOURS_KEPT))
            .execute(&mut *work)
            .await?;
        for (step, kept) in [(HOUR, HOUR_TALLIES_KEPT), (DAY, DAY_TALLIES_KEPT)] {
            for what in [0, 1] {
                sqlx::query("DELETE FROM tally WHERE what = $1 AND step = $2 AND at < $3")
                    .bind(what)
                    .bind(step)
                    .bind(horizon(self.newest, kept))
                    .execute(&mut *work)
                    .await?;
            }
        }
        for sql in [
            "DELETE FROM drift WHERE seq <= (SELECT seq FROM drift ORDER BY seq DESC LIMIT 1 OFFSET $1)",
            "DELETE FROM upstream WHERE seq <= (SELECT seq FROM upstream ORDER BY seq DESC LIMIT 1 OFFSET $1)",
            "DELETE FROM alert WHERE seq <= (SELECT seq FROM alert ORDER BY seq DESC LIMIT 1 OFFSET $1)",
        ] {
            sqlx::query(sql).bind(LISTED).execute(&mut *work).await?;
        }
        Ok(())
    }
}

impl Gain {
    async fn save(&self, work: &mut SqliteConnection, step: i64, at: i64) -> Result<()> {
        sqlx::query(
            "INSERT INTO bucket (step, at, allow, warn, hold, deny, hits, misses, stale, offline, \
             bytes_cached, bytes_fetched) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (step, at) DO UPDATE SET allow = allow + excluded.allow, \
             warn = warn + excluded.warn, hold = hold + excluded.hold, deny = deny + excluded.deny, \
             hits = hits + excluded.hits, misses = misses + excluded.misses, \
             stale = stale + excluded.stale, offline = offline + excluded.offline, \
             bytes_cached = bytes_cached + excluded.bytes_cached, \
             bytes_fetched = bytes_fetched + excluded.bytes_fetched",
        )
        .bind(step)
        .bind(at)
        .bind(self.allow)
        .bind(self.warn)
        .bind(self.hold)
        .bind(self.deny)
        .bind(self.hits)
        .bind(self.misses)
        .bind(self.stale)
        .bind(self.offline)
        .bind(self.bytes_cached)
        .bind(self.bytes_fetched)
        .execute(work)
        .await?;
        Ok(())
    }
}
