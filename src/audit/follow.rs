//! Reading the record as it grows: what sinks, alerts and review pages are fed from.

use sqlx::Row as _;
use tokio::sync::watch;

use super::error::Error;
use super::query::Reader;

/// So many events are handed over at a time, at most.
const BATCH: i64 = 256;

/// One event as it was written: nothing joined to it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Written {
    /// Its place in the log.
    pub seq: i64,
    /// The word of its kind; skip those you do not know.
    pub kind: String,
    /// The event, one JSON object without line breaks.
    pub body: String,
}

/// Reads events in their order from disk, those yet to come too. Whoever is slow, or was away, reads
/// on from where they were: nothing is held for them in memory and nothing is dropped.
#[derive(Clone, Debug)]
pub struct Follow {
    reader: Reader,
    committed: watch::Receiver<i64>,
    after: i64,
}

impl Follow {
    pub(crate) fn new(reader: Reader, committed: watch::Receiver<i64>, after: i64) -> Self {
        Self { reader, committed, after }
    }

    /// The place of the last event handed over.
    pub fn after(&self) -> i64 {
        self.after
    }

    /// The next events, at least one, in the order of their places; waits until there are some.
    /// `None`: the log was closed and everything was handed over. Cancelling it loses nothing.
    ///
    /// # Errors
    /// `Read` when the database fails; the next call tries again from the same place.
    pub async fn next(&mut self) -> Result<Option<Vec<Written>>, Error> {
        loop {
            let after = self.after;
            let committed = self.committed.wait_for(|last| *last > after).await.map(|last| *last);
            let batch = self.reader.after(self.after, BATCH).await?;
            if let Some(last) = batch.last() {
                self.after = last.seq;
                return Ok(Some(batch));
            }
            // Committed and gone again: retention was quicker. What was committed since is yet to be read.
            let Ok(committed) = committed else { return Ok(None) };
            self.after = committed;
        }
    }
}

impl Reader {
    /// At most so many events after this place, as they were written and in their order. Places may be
    /// missing: what retention removed.
    ///
    /// # Errors
    /// `Read` when the database fails.
    pub async fn after(&self, seq: i64, limit: i64) -> Result<Vec<Written>, Error> {
        let rows = sqlx::query("SELECT seq, kind, body FROM event WHERE seq > $1 ORDER BY seq LIMIT $2")
            .bind(seq)
            .bind(limit)
            .fetch_all(self.pool())
            .await
            .map_err(|error| self.failed(&error))?;
        rows.iter()
            .map(|row| Ok(Written { seq: row.try_get(0)?, kind: row.try_get(1)?, body: row.try_get(2)? }))
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|error| self.failed(&error))
    }

    /// The place of the last event; 0: there is none.
    ///
    /// # Errors
    /// `Read` when the database fails.
    pub async fn last(&self) -> Result<i64, Error> {
        sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM event")
            .fetch_one(self.pool())
            .await
            .map_err(|error| self.failed(&error))
    }
}
