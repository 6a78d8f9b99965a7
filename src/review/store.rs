//! The database and its one writer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnection, SqlitePool, SqlitePoolOptions};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::project::{Bounds, Failed, Projector, place};
use super::schema::{self, moment};
use super::values::Status;
use crate::audit::{Log, Written};
use crate::clock::Clock;

/// After a failure it is tried again so much later.
const RETRY: Duration = Duration::from_secs(5);

/// While it is behind, so many events are counted in one transaction, at least.
const BEHIND: usize = 2048;

/// The projection. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Review(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    clock: Clock,
    bounds: Bounds,
    /// None once closed.
    writer: AsyncMutex<Option<SqliteConnection>>,
    readers: ArcSwap<SqlitePool>,
    progress: watch::Sender<Progress>,
    last_error: Mutex<Option<Error>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    seq: i64,
    /// Up to where the record must be counted before everything is shown that was there at the start.
    goal: i64,
    ended: bool,
}

impl Review {
    /// Opens `review.db` in the data folder; makes it anew when it is absent, damaged or of another
    /// version.
    ///
    /// # Errors
    /// `Database` when the folder or the file cannot be used.
    pub async fn open(folder: &Path, clock: Clock) -> Result<Self, Error> {
        Self::open_bounded(folder, clock, Bounds::default()).await
    }

    pub(super) async fn open_bounded(folder: &Path, clock: Clock, bounds: Bounds) -> Result<Self, Error> {
        let path = folder.join(super::FILE);
        let failed = |error: sqlx::Error| database(&path, &error);
        let mut writer = schema::open(&path).await.map_err(failed)?;
        place(&mut writer).await.map_err(failed)?;
        let readers = readers(&path).await.map_err(failed)?;
        Ok(Self(Arc::new(Inner {
            clock,
            bounds,
            writer: AsyncMutex::new(Some(writer)),
            readers: ArcSwap::from_pointee(readers),
            progress: watch::Sender::new(Progress { seq: 0, goal: i64::MAX, ended: false }),
            last_error: Mutex::default(),
            path,
        })))
    }

    /// Follows the record until `stop`; end it before the log is closed. What fails is tried again from
    /// the same place; a projection that is not of this record begins anew.
    pub async fn run(&self, log: Log, stop: CancellationToken) {
        let inner = &*self.0;
        while !stop.is_cancelled() {
            let failed = tokio::select! {
                () = stop.cancelled() => break,
                ended = self.follow(&log) => match ended {
                    Ok(()) => break,
                    Err(failed) => failed,
                },
            };
            let error = match failed {
                Failed::Record(error) => Error::Record(error),
                Failed::Database(error) => {
                    if schema::is_damaged(&error) {
                        self.begin_anew().await;
                    }
                    database(&inner.path, &error)
                }
            };
            tracing::warn!(%error, "the review pages lag behind the audit log; it is tried again");
            inner.fail(Some(error));
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        inner.progress.send_modify(|progress| progress.ended = true);
    }

    /// Counts batch after batch until the log is closed. A batch that is cut off is counted later.
    async fn follow(&self, log: &Log) -> Result<(), Failed> {
        let inner = &*self.0;
        let mut projector = {
            let mut guard = inner.writer.lock().await;
            let writer = match guard.take() {
                Some(writer) => writer,
                // A damaged file could not be replaced the last time.
                None => schema::open(&inner.path).await?,
            };
            let writer = guard.insert(writer);
            settled(writer, &inner.path).await?;
            if !is_of(writer, log).await? {
                tracing::info!("the review pages are made anew from the audit log");
                schema::reset(writer).await?;
            }
            Projector::load(writer, inner.bounds).await?
        };
        let goal = log.reader().last().await.map_err(Failed::Record)?;
        inner
            .progress
            .send_modify(|progress| *progress = Progress { seq: projector.seq(), goal, ended: false });
        let mut follow = log.follow(projector.seq());
        while let Some(mut batch) = follow.next().await.map_err(Failed::Record)? {
            // Far behind, more of it at once changes the same rows less often.
            while follow.after() < goal && batch.len() < BEHIND {
                let Some(more) = follow.next().await.map_err(Failed::Record)? else { break };
                batch.extend(more);
            }
            self.count(&mut projector, log, &batch).await?;
        }
        Ok(())
    }

    async fn count(&self, projector: &mut Projector, log: &Log, batch: &[Written]) -> Result<(), Failed> {
        let inner = &*self.0;
        let mut guard = inner.writer.lock().await;
        let Some(writer) = guard.as_mut() else { return Err(Failed::Database(sqlx::Error::PoolClosed)) };
        projector.apply(writer, log.reader(), batch).await?;
        drop(guard);
        inner.fail(None);
        inner.progress.send_modify(|progress| progress.seq = projector.seq());
        Ok(())
    }

    /// Replaces a damaged file. Pages that are being read from it fail.
    async fn begin_anew(&self) {
        let inner = &*self.0;
        let mut guard = inner.writer.lock().await;
        inner.readers.load().close().await;
        if let Some(writer) = guard.take() {
            let _ = writer.close().await;
        }
        schema::remove(&inner.path);
        match (schema::open(&inner.path).await, readers(&inner.path).await) {
            (Ok(writer), Ok(readers)) => {
                *guard = Some(writer);
                inner.readers.store(Arc::new(readers));
            }
            (Err(error), _) | (_, Err(error)) => inner.fail(Some(database(&inner.path, &error))),
        }
    }

    /// Waits until everything up to this place of the record is counted.
    ///
    /// # Errors
    /// `Closed` when it will not be: nothing follows the record any more.
    pub async fn caught_up(&self, seq: i64) -> Result<(), Error> {
        let mut progress = self.0.progress.subscribe();
        match progress.wait_for(|progress| progress.seq >= seq || progress.ended).await {
            Ok(progress) if progress.seq >= seq => Ok(()),
            _ => Err(Error::Closed),
        }
    }

    /// Waits until everything is counted that is on record now: after something was recorded that the
    /// next page must show.
    ///
    /// # Errors
    /// `Record` when the record cannot be read, `Closed` as [`Review::caught_up`].
    pub async fn settled(&self, log: &Log) -> Result<(), Error> {
        let last = log.reader().last().await?;
        self.caught_up(last).await
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        let progress = *self.0.progress.borrow();
        Status {
            seq: progress.seq,
            behind: progress.seq < progress.goal,
            last_error: self.0.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// When this user looked last, as far as it was marked.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn visit(&self, user: &str) -> Result<Option<Timestamp>, Error> {
        let at: Option<i64> = sqlx::query_scalar("SELECT at FROM visit WHERE user = $1")
            .bind(user)
            .fetch_optional(&*self.readers())
            .await
            .map_err(|error| self.failed(&error))?;
        Ok(at.map(moment))
    }

    /// Marks that this user looked now. It is not on record: a database that was deleted or damaged
    /// forgets it.
    ///
    /// # Errors
    /// `Database` when it cannot be written, `Closed` once it is closed.
    pub async fn mark_visit(&self, user: &str, now: Timestamp) -> Result<(), Error> {
        let mut guard = self.0.writer.lock().await;
        let writer = guard.as_mut().ok_or(Error::Closed)?;
        let marked = async {
            settled(writer, &self.0.path).await?;
            sqlx::query(
                "INSERT INTO visit (user, at) VALUES ($1, $2) ON CONFLICT (user) DO UPDATE SET at = excluded.at",
            )
            .bind(user)
            .bind(now.as_millisecond())
            .execute(writer)
            .await
        };
        marked.await.map(drop).map_err(|error| self.failed(&error))
    }

    /// Closes the database: one tidy file is left.
    pub async fn close(&self) {
        self.readers().close().await;
        if let Some(writer) = self.0.writer.lock().await.take()
            && let Err(error) = writer.close().await
        {
            tracing::warn!(%error, "the review database could not be closed tidily; the next start tidies up");
        }
    }

    pub(super) fn readers(&self) -> Arc<SqlitePool> {
        self.0.readers.load_full()
    }

    pub(super) fn failed(&self, error: &sqlx::Error) -> Error {
        database(&self.0.path, error)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.0.clock.now()
    }
}

impl Inner {
    fn fail(&self, error: Option<Error>) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = error;
    }
}

async fn readers(path: &Path) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(2)
        .test_before_acquire(false)
        .connect_with(schema::options(path).read_only(true).create_if_missing(false))
        .await
}

/// A transaction that was dropped is rolled back behind our back: by now it is, or the connection is
/// replaced.
async fn settled(writer: &mut SqliteConnection, path: &Path) -> Result<(), sqlx::Error> {
    if writer.is_in_transaction() {
        writer.ping().await?;
    }
    if writer.is_in_transaction() {
        *writer = schema::open(path).await?;
    }
    Ok(())
}

/// Whether what is counted is of this record: the place reached is there, with the same event, unless
/// retention removed it.
async fn is_of(writer: &mut SqliteConnection, log: &Log) -> Result<bool, Failed> {
    let (seq, event) = place(writer).await?;
    if seq == 0 {
        return Ok(true);
    }
    if log.reader().last().await.map_err(Failed::Record)? < seq {
        return Ok(false);
    }
    let there = log.reader().after(seq - 1, 1).await.map_err(Failed::Record)?;
    Ok(there.first().is_none_or(|written| {
        let body: super::event::Body = serde_json::from_str(&written.body).unwrap_or_default();
        written.seq != seq || body.id == event
    }))
}

fn database(path: &Path, error: &sqlx::Error) -> Error {
    Error::Database { path: path.to_owned(), detail: error.to_string().into() }
}
