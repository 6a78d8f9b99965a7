//! The one writer: takes whatever waits, commits it in one transaction, then tells those who wait.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, QueryBuilder, Sqlite};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use ulid::Ulid;

use crate::policy::Code;

use super::canonical::{GENESIS, Integrity};
use super::error::Error;
use super::note::{Checkpoint, Signer, VerifierKey};
use super::retention::{Plan, Run};
use super::row::{CheckpointBody, Kind, Row, SignedBody};
use super::spill::{Counters, Reserve};

/// So many refusals may wait for the writer; further ones wait for a place.
pub(crate) const QUEUE: usize = 1024;
/// So many rows that nobody waits for may be kept in memory while the disk does not take them.
const BACKLOG: usize = 8192;
/// Rows of one INSERT: halves the CPU against single ones, and a group of no more needs no transaction
/// around it.
const CHUNK: usize = 64;
/// While the database takes nothing it is tried so often, beside the ticks.
const RETRY: Duration = Duration::from_secs(5);
const PAGE: u64 = 4096;
/// So many pages beyond the quota are for what signs the log and makes room in it: both take room first.
const SPARE: u64 = 256;
/// Pages are counted again after so many bytes at the latest.
const SLACK: u64 = 1 << 20;
const COLUMNS: &str = "seq, id, time, kind, parent, pull_id, verdict, reason, registry, repository, tag, \
                       digest, client, address, reference, last, body";
const WIDTH: usize = 17;
/// A log of more bytes takes a while to be brought up to date.
const LARGE: i64 = 64 << 20;

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("src/audit/migrations");

/// What is asked of the writer.
#[derive(Debug)]
pub(crate) enum Order {
    /// Answer once everything before it, the backlog included, was tried.
    Barrier(oneshot::Sender<Result<(), Error>>),
    /// Sign what was written since the last signature, if anything was; answers whether.
    Checkpoint { id: Ulid, now: i64, done: oneshot::Sender<bool> },
    /// Write everything, tidy up, end.
    Close(oneshot::Sender<()>),
    /// Count a refusal in the file of counters.
    Count(Count),
    /// Remove what the plan says, and put that on record.
    Remove { plan: Box<Plan>, id: Ulid, now: i64, done: oneshot::Sender<Result<(), Error>> },
    /// Commit these and say so.
    Write { rows: Vec<Row>, done: watch::Sender<Option<Result<(), Error>>> },
}

/// A refusal to be counted.
#[derive(Debug)]
pub(crate) struct Count {
    pub(crate) client: String,
    pub(crate) code: Option<Code>,
    /// The id it gets if it is the first of its client and reason.
    pub(crate) id: Ulid,
    pub(crate) now: i64,
    pub(crate) done: oneshot::Sender<Result<Ulid, Error>>,
}

/// What writer and callers share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) notify: Notify,
    /// Told when the log is so full that room should be made at once.
    pub(crate) crowded: Notify,
    backlog: Mutex<VecDeque<Row>>,
    /// Over the soft limit: rows of allowed pulls are no longer written.
    pub(crate) full: AtomicBool,
    /// The database takes nothing: refusals are counted in the file.
    pub(crate) spilling: AtomicBool,
    pub(crate) used: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) unrecorded: AtomicU64,
    pub(crate) counted: AtomicU64,
    /// Events that retention removed.
    pub(crate) removed: AtomicU64,
    pub(crate) last_error: Mutex<Option<Error>>,
}

impl Shared {
    /// Hands rows over that nobody waits for; returns how many did not fit.
    pub(crate) fn push(&self, rows: impl IntoIterator<Item = Row>) -> u64 {
        let mut left = 0;
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            if backlog.len() < BACKLOG {
                backlog.push_back(row);
            } else {
                left += 1;
            }
        }
        drop(backlog);
        self.notify.notify_one();
        left
    }

    fn take(&self) -> Vec<Row> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Puts rows back whose commit failed, before what came since.
    fn put_back(&self, rows: Vec<Row>) {
        let mut backlog = self.backlog.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows.into_iter().rev() {
            if backlog.len() < BACKLOG {
                backlog.push_front(row);
            } else {
                self.unrecorded.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn failed(&self, error: &Error) {
        *self.last_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
    }
}

const REMOVED: &str = "it was removed or replaced while pullgate writes to it; put it back, or restart pullgate to begin a new one";

/// How the database file is opened for writing.
fn options(file: &Path, pages: u64) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(Duration::from_secs(1))
        .pragma("max_page_count", pages.to_string())
        .pragma("journal_size_limit", "4194304")
        .disable_statement_logging()
}

#[derive(Debug)]
pub(crate) struct Writer {
    file: PathBuf,
    max_size: u64,
    connection: Option<SqliteConnection>,
    /// Which file the connection writes to.
    opened: Option<(u64, u64)>,
    counters: Option<Counters>,
    reserve: Reserve,
    next: i64,
    /// The hash of the last event: what the next one names as the one before.
    head: String,
    /// Whether a commit that was reported as failed may have reached the disk all the same: what is
    /// tried again may stand there already.
    doubtful: bool,
    signer: Signer,
    /// The place of the last checkpoint in the log; 0: there is none.
    signed: i64,
    /// Whether the order at hand may use the spare pages.
    spare: bool,
    /// Whether the file has grown into the spare pages: SQLite no longer keeps others out of them.
    overrun: bool,
    /// Whether room should be made, and who does that was told.
    crowded: bool,
    /// So many bytes may be written before the pages must be counted again.
    slack: u64,
    retried: Instant,
    statements: Vec<Option<Arc<str>>>,
    shared: Arc<Shared>,
    /// The place of the last event on disk, for those who follow.
    committed: watch::Sender<i64>,
    orders: mpsc::Receiver<Order>,
}

impl Writer {
    /// Opens the database and brings it up to date.
    pub(crate) async fn open(
        folder: &Path,
        max_size: u64,
        shared: Arc<Shared>,
        orders: mpsc::Receiver<Order>,
    ) -> Result<Self, Error> {
        let file = folder.join(super::FILE);
        let failed = |detail: String| Error::Open { path: file.clone(), detail: detail.into() };
        let old = rustix::fs::stat(&file).map_or(0, |stat| stat.st_size);
        let mut connection =
            options(&file, max_size / PAGE).connect().await.map_err(|error| failed(error.to_string()))?;
        let known =
            sqlx::query_scalar::<_, i64>("SELECT COUNT(*) FROM _sqlx_migrations").fetch_one(&mut connection);
        let known = known.await.unwrap_or(0);
        if old > LARGE && usize::try_from(known).unwrap_or(0) < MIGRATOR.iter().count() {
            tracing::warn!(
                file = %file.display(),
                mebibytes = old >> 20,
                "bringing the audit log up to date: this takes about a minute for each 2 GiB, and nothing is \
                 served until it is done"
            );
        }
        MIGRATOR.run(&mut connection).await.map_err(|error| failed(error.to_string()))?;
        let (next, head) = end(&mut connection).await.map_err(|error| failed(error.to_string()))?;
        let signed = sqlx::query_scalar(
            "SELECT COALESCE(MAX(seq), 0) FROM event WHERE parent IS NULL AND kind <> 'decision' AND kind = 'checkpoint'",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(|error| failed(error.to_string()))?;
        let signer = Signer::open(folder)?;
        let reserve = Reserve::take(folder.join("audit.reserve"), reserve(max_size));
        let counters = Counters::open(&folder.join("audit.counters"));
        if let Err(error) = &counters {
            shared.failed(&failed(format!("audit.counters: {error}")));
        }
        let mut writer = Self {
            opened: identity(&file),
            file,
            max_size,
            connection: Some(connection),
            counters: counters.ok(),
            reserve,
            next,
            head,
            doubtful: false,
            signer,
            signed,
            spare: false,
            overrun: false,
            crowded: false,
            slack: 0,
            retried: Instant::now(),
            statements: vec![None; CHUNK + 1],
            shared,
            committed: watch::Sender::new(next - 1),
            orders,
        };
        writer.shared.rows.store(u64::try_from(next - 1).unwrap_or(0), Ordering::Relaxed);
        writer.measure().await;
        writer.bring_counts_home().await;
        Ok(writer)
    }

    /// By which key others verify what it signs.
    pub(crate) fn key(&self) -> VerifierKey {
        self.signer.key().clone()
    }

    /// Tells the place of the last event on disk; it ends with the writer.
    pub(crate) fn committed(&self) -> watch::Receiver<i64> {
        self.committed.subscribe()
    }

    /// Serves until told to close, or until nobody is left who could ask.
    pub(crate) async fn run(mut self) {
        let mut inbox = Vec::with_capacity(QUEUE);
        let shared = Arc::clone(&self.shared);
        loop {
            tokio::select! {
                received = self.orders.recv_many(&mut inbox, QUEUE) => if received == 0 { break },
                () = shared.notify.notified() => {}
            }
            self.gather(&mut inbox).await;
            if let Some(closed) = self.serve(&mut inbox).await {
                self.finish().await;
                let _ = closed.send(());
                return;
            }
        }
        self.serve(&mut inbox).await;
        self.finish().await;
    }

    /// Waits one turn of the scheduler: whoever the last commit woke gets into this group too, instead
    /// of waiting for a disk sync that is made for the fastest of them alone.
    async fn gather(&mut self, inbox: &mut Vec<Order>) {
        tokio::task::yield_now().await;
        while inbox.len() < QUEUE
            && let Ok(order) = self.orders.try_recv()
        {
            inbox.push(order);
        }
    }

    /// One group. Returns who asked to close, if anybody did.
    async fn serve(&mut self, inbox: &mut Vec<Order>) -> Option<oneshot::Sender<()>> {
        let (mut awaited, mut barriers, mut counts, mut close) = (Vec::new(), Vec::new(), Vec::new(), None);
        let (mut waiters, mut checkpoints, mut removals) = (Vec::new(), Vec::new(), Vec::new());
        for order in inbox.drain(..) {
            match order {
                Order::Barrier(done) => barriers.push(done),
                Order::Checkpoint { id, now, done } => checkpoints.push((id, now, done)),
                Order::Close(done) => close = Some(done),
                Order::Count(count) => counts.push(count),
                Order::Remove { plan, id, now, done } => removals.push((plan, id, now, done)),
                Order::Write { rows, done } => {
                    awaited.extend(rows);
                    waiters.push(done);
                }
            }
        }
        let mut backlog = self.shared.take();
        if self.shared.full.load(Ordering::Relaxed) {
            let before = backlog.len();
            backlog.retain(|row| !row.allowed);
            self.shared.unrecorded.fetch_add((before - backlog.len()) as u64, Ordering::Relaxed);
        }
        let result = self.commit(&awaited, &backlog).await;
        for waiter in waiters {
            waiter.send_replace(Some(result.clone()));
        }
        if result.is_err() {
            self.shared.put_back(backlog);
        }
        let counted = !counts.is_empty();
        self.count(counts);
        if counted && self.shared.spilling.load(Ordering::Relaxed) && self.retried.elapsed() >= RETRY {
            self.bring_counts_home().await;
            self.retried = Instant::now();
        }
        for (id, now, done) in checkpoints {
            let _ = done.send(self.checkpoint(id, now).await);
        }
        let removing = !removals.is_empty();
        for (plan, id, now, done) in removals {
            let _ = done.send(self.remove(&plan, id, now).await);
        }
        let waits = self.shared.spilling.load(Ordering::Relaxed) || !self.reserve.is_held();
        if removing && waits && self.used() + self.reserve.size() < self.max_size {
            self.bring_counts_home().await;
        }
        if !barriers.is_empty() || close.is_some() {
            self.measure().await;
            self.bring_counts_home().await;
        }
        for barrier in barriers {
            let _ = barrier.send(result.clone());
        }
        close
    }

    /// Writes the rows in one transaction, letting go of the reserve if that is what it takes.
    async fn commit(&mut self, awaited: &[Row], backlog: &[Row]) -> Result<(), Error> {
        if awaited.is_empty() && backlog.is_empty() {
            return Ok(());
        }
        let bytes = awaited.iter().chain(backlog).map(Row::weight).sum::<u64>();
        if !self.spare && self.keeps_out(bytes).await {
            self.make_room().await;
            return Err(self.take_no_more());
        }
        let mut outcome = self.insert(awaited, backlog).await;
        if outcome.is_err() {
            // SQLite may have rolled back by itself, which leaves sqlx counting wrongly: start afresh.
            self.disconnect().await;
        }
        if outcome.as_ref().is_err_and(is_full) && self.make_room().await {
            outcome = self.insert(awaited, backlog).await;
            if outcome.is_err() {
                self.disconnect().await;
            }
        }
        if outcome.is_ok() && identity(&self.file) != self.opened {
            // What was written can be found by nobody: it is in a file without a name.
            self.disconnect().await;
            let error = Error::Write { path: self.file.clone(), detail: REMOVED.into() };
            self.shared.spilling.store(true, Ordering::Relaxed);
            self.shared.failed(&error);
            return Err(error);
        }
        match outcome {
            Ok(rows) => {
                self.committed.send_replace(self.next - 1);
                self.shared.rows.fetch_add(rows as u64, Ordering::Relaxed);
                self.shared.commits.fetch_add(1, Ordering::Relaxed);
                if !self.spare {
                    self.shared.spilling.store(false, Ordering::Relaxed);
                }
                self.slack = self.slack.saturating_sub(bytes);
                if self.slack == 0 {
                    self.measure().await;
                }
                Ok(())
            }
            Err(error) => {
                if is_full(&error) {
                    return Err(self.take_no_more());
                }
                let error = self.write_error(&error);
                self.shared.spilling.store(true, Ordering::Relaxed);
                self.shared.failed(&error);
                Err(error)
            }
        }
    }

    /// Notes that the database takes no more, and says so.
    fn take_no_more(&mut self) -> Error {
        let error = Error::Full { used: self.used(), max: self.max_size };
        self.shared.full.store(true, Ordering::Relaxed);
        if !self.shared.spilling.swap(true, Ordering::Relaxed) {
            self.shared.crowded.notify_one();
        }
        self.shared.failed(&error);
        error
    }

    /// Whether so many bytes more would go into the spare pages of a file that holds some already.
    async fn keeps_out(&mut self, bytes: u64) -> bool {
        if !self.overrun || self.used() + bytes + 2 * SLACK < self.max_size {
            return false;
        }
        self.measure().await;
        self.used() + bytes > self.max_size
    }

    fn used(&self) -> u64 {
        self.shared.used.load(Ordering::Relaxed)
    }

    /// So many pages may the file have now.
    fn pages(&self) -> u64 {
        self.max_size / PAGE + if self.spare { SPARE } else { 0 }
    }

    /// Opens the spare pages to what follows, or closes them.
    async fn set_spare(&mut self, spare: bool) {
        self.spare = spare;
        let sql = format!("PRAGMA max_page_count = {}", self.pages());
        if let Some(connection) = &mut self.connection
            && sqlx::query(AssertSqlSafe(sql)).execute(connection).await.is_err()
        {
            self.disconnect().await;
        }
    }

    /// Signs the chain as it stands. Whatever cannot be written now is signed by the next one.
    async fn checkpoint(&mut self, id: Ulid, now: i64) -> bool {
        // Where the chain ends is only known with a connection.
        if self.connected().await.is_err() || self.signed + 1 >= self.next {
            return false;
        }
        let note = self.signer.note(self.next - 1, &self.head);
        let size = self.next - 1;
        let row = Row::new(id, now, Kind::Checkpoint, &CheckpointBody { checkpoint: SignedBody { note } });
        self.set_spare(true).await;
        let written = self.commit(&[row], &[]).await.is_ok();
        self.set_spare(false).await;
        // A connection made anew meanwhile found another end: what was signed is not what stands there.
        if written && self.next == size + 2 {
            self.signed = size + 1;
        }
        written
    }

    /// Removes a segment's events, or some of them, in one transaction with what vouches for it.
    async fn remove(&mut self, plan: &Plan, id: Ulid, now: i64) -> Result<(), Error> {
        self.set_spare(true).await;
        let outcome = self.remove_with(plan, id, now).await;
        self.set_spare(false).await;
        match outcome {
            Ok(head) => {
                self.next += 1;
                self.head = head;
                self.committed.send_replace(self.next - 1);
                self.shared.rows.fetch_add(1, Ordering::Relaxed);
                self.shared.removed.fetch_add(plan.rows(), Ordering::Relaxed);
                self.measure().await;
                Ok(())
            }
            Err(error) => {
                self.disconnect().await;
                let error = self.write_error(&error);
                self.shared.failed(&error);
                Err(error)
            }
        }
    }

    async fn remove_with(&mut self, plan: &Plan, id: Ulid, now: i64) -> Result<String, sqlx::Error> {
        // What is signed is the end of the chain, which is known once there is a connection.
        self.connected().await?;
        let (mut seq, mut head) = (self.next, self.head.clone());
        let row = plan.row(id, now, Checkpoint { size: seq - 1, hash: head.clone() }, &self.signer);
        let mut transaction = self.connected().await?.begin_with("BEGIN IMMEDIATE").await?;
        for run in &plan.runs {
            // A run from the beginning on is empty already but for its end.
            sqlx::query("DELETE FROM event WHERE seq BETWEEN $1 AND $2")
                .bind(run.first)
                .bind(run.last)
                .execute(&mut *transaction)
                .await?;
        }
        sqlx::query("DELETE FROM removed WHERE first BETWEEN $1 AND $2")
            .bind(plan.first)
            .bind(plan.last)
            .execute(&mut *transaction)
            .await?;
        for Run { first, last, previous, hash } in &plan.runs {
            sqlx::query("INSERT INTO removed (first, last, previous, hash) VALUES ($1, $2, $3, $4)")
                .bind(first)
                .bind(last)
                .bind(previous)
                .bind(hash)
                .execute(&mut *transaction)
                .await?;
        }
        sqlx::query(
            "INSERT INTO retention (level, through) VALUES ($1, $2) \
             ON CONFLICT (level) DO UPDATE SET through = excluded.through",
        )
        .bind(plan.level.number())
        .bind(plan.last)
        .execute(&mut *transaction)
        .await?;
        insert_rows(&mut transaction, &mut [], &[&row], &mut seq, &mut head).await?;
        transaction.commit().await?;
        Ok(head)
    }

    async fn connected(&mut self) -> Result<&mut SqliteConnection, sqlx::Error> {
        let pages = self.pages();
        match &mut self.connection {
            Some(connection) => Ok(connection),
            empty => {
                // One that was removed is not begun anew unseen: that takes a restart.
                let options = options(&self.file, pages).create_if_missing(false);
                let mut connection = options.connect().await?;
                self.opened = identity(&self.file);
                (self.next, self.head) = end(&mut connection).await?;
                Ok(empty.insert(connection))
            }
        }
    }

    async fn disconnect(&mut self) {
        self.doubtful = true;
        if let Some(connection) = self.connection.take() {
            let _ = connection.close_hard().await;
        }
    }

    /// Lets go of the reserve; false if that was done before. On a full disk the write-ahead log is
    /// worth more than the reserve, once its pages are moved into the database.
    async fn make_room(&mut self) -> bool {
        let released = self.reserve.release();
        self.shared.full.store(true, Ordering::Relaxed);
        if released && let Ok(connection) = self.connected().await {
            let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(connection).await;
        }
        released
    }

    /// Writes the rows at the end of the chain; returns how many there were to write.
    async fn insert(&mut self, awaited: &[Row], backlog: &[Row]) -> Result<usize, sqlx::Error> {
        let mut statements = std::mem::take(&mut self.statements);
        let outcome = self.insert_with(&mut statements, awaited, backlog).await;
        self.statements = statements;
        let (rows, head) = outcome?;
        self.next += i64::try_from(rows).unwrap_or(0);
        self.head = head;
        self.doubtful = false;
        Ok(rows)
    }

    async fn insert_with(
        &mut self,
        statements: &mut [Option<Arc<str>>],
        awaited: &[Row],
        backlog: &[Row],
    ) -> Result<(usize, String), sqlx::Error> {
        // The end of the chain is known once there is a connection.
        self.connected().await?;
        let (mut seq, mut head, doubtful) = (self.next, self.head.clone(), self.doubtful);
        let connection = self.connected().await?;
        let mut all: Vec<&Row> = awaited.iter().chain(backlog).collect();
        if doubtful {
            let known = known(connection, &all).await?;
            all.retain(|row| !known.contains(&row.fields.id));
        }
        if all.len() <= CHUNK {
            if !all.is_empty() {
                insert_rows(connection, statements, &all, &mut seq, &mut head).await?;
            }
            return Ok((all.len(), head));
        }
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        for rows in all.chunks(CHUNK) {
            insert_rows(&mut transaction, statements, rows, &mut seq, &mut head).await?;
        }
        transaction.commit().await?;
        Ok((all.len(), head))
    }

    /// Counts refusals that cannot be rows; one sync for all of them. It blocks this task for that
    /// long: there is nothing else left for it to do.
    fn count(&mut self, counts: Vec<Count>) {
        if counts.is_empty() {
            return;
        }
        let full = Error::Full { used: self.shared.used.load(Ordering::Relaxed), max: self.max_size };
        let mut results = Vec::with_capacity(counts.len());
        for Count { client, code, id, now, done } in counts {
            let id = self.counters.as_mut().and_then(|counters| counters.count(&client, code, id, now));
            results.push((id, done));
        }
        let synced = self.counters.as_ref().is_some_and(|counters| counters.sync().is_ok());
        for (id, done) in results {
            let result = id.filter(|_| synced).ok_or_else(|| full.clone());
            self.shared.counted.fetch_add(u64::from(result.is_ok()), Ordering::Relaxed);
            let _ = done.send(result);
        }
    }

    /// Moves what the counters hold into the database, as soon as it takes rows again.
    async fn bring_counts_home(&mut self) {
        if !self.reserve.is_held()
            && self.shared.used.load(Ordering::Relaxed) + self.reserve.size() < self.max_size
        {
            self.reserve.retake();
            self.measure().await;
        }
        let Some(counters) = &self.counters else { return };
        if counters.slots().is_empty() {
            if self.shared.spilling.load(Ordering::Relaxed) && self.probe().await {
                self.shared.spilling.store(false, Ordering::Relaxed);
            }
            return;
        }
        let mut rows = Vec::new();
        for slot in &counters.slots().to_vec() {
            let Some(id) = slot.id() else { continue };
            // A crash between commit and clearing leaves both: the row counts.
            match self.knows(id).await {
                Ok(false) => rows.push(super::floods::counted_row(id, slot)),
                Ok(true) => {}
                Err(_) => return,
            }
        }
        if self.commit(&rows, &[]).await.is_ok()
            && let Some(counters) = &mut self.counters
            && let Err(error) = counters.clear()
        {
            self.shared.failed(&Error::Write {
                path: self.file.with_file_name("audit.counters"),
                detail: error.to_string().into(),
            });
        }
    }

    async fn knows(&mut self, id: Ulid) -> Result<bool, sqlx::Error> {
        let connection = self.connected().await?;
        let found: Option<i64> = sqlx::query_scalar("SELECT seq FROM event WHERE id = $1")
            .bind(id.to_string())
            .fetch_optional(connection)
            .await?;
        Ok(found.is_some())
    }

    /// Whether a write transaction can be had, and there is room left below the limit.
    async fn probe(&mut self) -> bool {
        self.measure().await;
        let room = self.shared.used.load(Ordering::Relaxed) + PAGE <= self.max_size;
        let begun = match self.connected().await {
            Ok(connection) => connection.begin_with("BEGIN IMMEDIATE").await.map(drop).is_ok(),
            Err(_) => false,
        };
        if !begun {
            self.disconnect().await;
        }
        room && begun
    }

    /// Compares what is used with the limits.
    async fn measure(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        // What was removed leaves pages free for what comes.
        let pages: Result<(i64, i64), _> =
            sqlx::query_as("SELECT page_count, freelist_count FROM pragma_page_count, pragma_freelist_count")
                .fetch_one(connection)
                .await;
        let Ok((pages, free)) = pages else { return };
        let used = u64::try_from(pages - free).unwrap_or(0) * PAGE;
        self.shared.used.store(used, Ordering::Relaxed);
        self.overrun = u64::try_from(pages).unwrap_or(0) > self.max_size / PAGE;
        let crowded = used >= room(self.max_size) / 20 * 19;
        if crowded && !std::mem::replace(&mut self.crowded, crowded) {
            self.shared.crowded.notify_one();
        }
        self.crowded = crowded;
        if used + self.reserve.size() >= self.max_size {
            self.reserve.release();
        }
        self.shared.full.store(!self.reserve.is_held(), Ordering::Relaxed);
        let room = self.max_size.saturating_sub(used + self.reserve.size());
        self.slack = (room / 8).min(SLACK);
    }

    fn write_error(&self, error: &sqlx::Error) -> Error {
        Error::Write { path: self.file.clone(), detail: error.to_string().into() }
    }

    /// Leaves one tidy file behind.
    async fn finish(&mut self) {
        if let Some(mut connection) = self.connection.take() {
            let _ = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await;
            let _ = connection.close().await;
        }
    }
}

/// How large the reserve is under a quota.
pub(crate) fn reserve(max_size: u64) -> u64 {
    (max_size / 4).min(1 << 20)
}

/// What of a quota is for all events; the reserve is for refusals.
pub(crate) fn room(max_size: u64) -> u64 {
    max_size - reserve(max_size)
}

/// Device and number of the file that has this name now.
fn identity(file: &Path) -> Option<(u64, u64)> {
    rustix::fs::stat(file).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

/// The first free place in the order, and the hash that what stands there names as the one before.
async fn end(connection: &mut SqliteConnection) -> Result<(i64, String), sqlx::Error> {
    let last: Option<(i64, String)> = sqlx::query_as("SELECT seq, body FROM event ORDER BY seq DESC LIMIT 1")
        .fetch_optional(connection)
        .await?;
    let Some((seq, body)) = last else { return Ok((1, GENESIS.to_owned())) };
    let event = serde_json::from_str(&body).unwrap_or_default();
    let hash = Integrity::of(&event).map_or_else(|| GENESIS.to_owned(), |integrity| integrity.hash);
    Ok((seq + 1, hash))
}

/// Which of these stand in the database already.
async fn known(connection: &mut SqliteConnection, rows: &[&Row]) -> Result<HashSet<String>, sqlx::Error> {
    let mut known = HashSet::new();
    for rows in rows.chunks(256) {
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT id FROM event WHERE id IN (");
        let mut list = sql.separated(", ");
        for row in rows {
            list.push_bind(&row.fields.id);
        }
        sql.push(")");
        known.extend(sql.build_query_scalar::<String>().fetch_all(&mut *connection).await?);
    }
    Ok(known)
}

/// One INSERT at the end of the chain, which moves on.
async fn insert_rows(
    connection: &mut SqliteConnection,
    statements: &mut [Option<Arc<str>>],
    rows: &[&Row],
    seq: &mut i64,
    head: &mut String,
) -> Result<(), sqlx::Error> {
    let mut query = sqlx::query(AssertSqlSafe(statement(statements, rows.len())));
    for row in rows {
        let (body, hash) = row.place(*seq, head);
        let fields = &row.fields;
        query = query
            .bind(*seq)
            .bind(&fields.id)
            .bind(fields.time)
            .bind(&fields.kind)
            .bind(fields.parent.as_deref())
            .bind(fields.pull_id.as_deref())
            .bind(fields.verdict.as_deref())
            .bind(fields.reason.as_deref())
            .bind(fields.registry.as_deref())
            .bind(fields.repository.as_deref())
            .bind(fields.tag.as_deref())
            .bind(fields.digest.as_deref())
            .bind(fields.client.as_deref())
            .bind(fields.address.as_deref())
            .bind(fields.reference.as_deref())
            .bind(fields.last)
            .bind(body);
        *seq += 1;
        *head = hash;
    }
    query.execute(connection).await.map(|_| ())
}

/// The INSERT for so many rows, made once for each number. Its marks have no numbers: SQLite keeps
/// those as names, and binding a thousand of them takes a search through all of them each.
fn statement(made: &mut [Option<Arc<str>>], rows: usize) -> Arc<str> {
    let make = || -> Arc<str> {
        let group = format!("({})", vec!["?"; WIDTH].join(","));
        let groups = vec![group; rows];
        format!("INSERT INTO event ({COLUMNS}) VALUES {}", groups.join(",")).into()
    };
    match made.get_mut(rows) {
        Some(slot) => Arc::clone(slot.get_or_insert_with(make)),
        None => make(),
    }
}

/// Whether quota or disk is used up (`SQLITE_FULL`).
fn is_full(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code).is_some_and(|code| code == "13")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Evidence, verify};

    fn row(number: u128) -> Row {
        Row::new(Ulid::from_parts(1, number), 1, Kind::Upstream, &serde_json::json!({"number": number}))
    }

    #[tokio::test]
    async fn what_a_commit_reported_as_failed_left_on_disk_is_neither_written_twice_nor_breaks_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let (_orders, inbox) = mpsc::channel(1);
        let shared = Arc::new(Shared::default());
        let mut writer = Writer::open(folder.path(), 64 << 20, shared, inbox).await.unwrap();
        let rows: Vec<Row> = (0..100).map(row).collect();
        writer.commit(&rows, &[]).await.unwrap();
        // As if the answer to that commit had been lost.
        writer.disconnect().await;
        let again: Vec<Row> = (50..150).map(row).collect();
        writer.commit(&again, &[row(7)]).await.unwrap();
        assert!(writer.checkpoint(Ulid::from_parts(1, 999), 1).await);
        writer.finish().await;
        let proof = verify(folder.path(), &Evidence::default()).await.unwrap();
        assert_eq!((proof.finding, proof.events, proof.proven), (None, 151, 150));
    }
}
