//! The log as the gate sees it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use ulid::Ulid;

use crate::clock::Clock;

use super::draft::{Draft, Refused, Sentence};
use super::error::Error;
use super::event::Event;
use super::floods::{Begun, Flood, Floods};
use super::follow::Follow;
use super::metrics::Served;
use super::note::VerifierKey;
use super::pulls::{Pulls, Receipt};
use super::query::Reader;
use super::refusals::{Fold, Key, Opened, Refusals, settle};
use super::retention::{Level, Plan};
use super::row::Row;
use super::writer::{Count, Order, QUEUE, Shared, Writer};

/// How often the log looks for counts that are due.
const TICK: Duration = Duration::from_secs(15);

/// In milliseconds.
const DAY: i64 = 86_400_000;

/// `[audit]`, and what of `[storage]` and `[limits]` concerns the record.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The data folder; the log is `audit.db` in it.
    pub path: PathBuf,
    /// The log's own quota in bytes, its reserve included. At least 1 MiB.
    pub max_size: u64,
    /// What happens to allowed pulls when the quota is used up.
    pub on_full: OnFull,
    /// So many different refused references may one client write within a minute; the rest share a row.
    pub refusals_per_minute: u32,
}

/// How long the record is kept, and how often it is signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Keeping {
    /// What was written since the last checkpoint is signed after so long.
    pub checkpoint: Duration,
    /// Events are removed when they are older; `None`: only when room is needed.
    pub max_age: Option<Duration>,
}

impl Default for Keeping {
    fn default() -> Self {
        Self { checkpoint: Duration::from_secs(600), max_age: None }
    }
}

/// What happens to allowed pulls when the log is full. Refusals stay refusals either way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OnFull {
    /// They are refused.
    Refuse,
    /// They are served, and only counted.
    Serve,
}

/// How the log is doing, for `/readyz` and metrics.
#[derive(Clone, Debug)]
pub struct Status {
    /// Bytes in the database.
    pub used: u64,
    /// `[audit] max_size`.
    pub max: u64,
    /// Rows ever written.
    pub rows: u64,
    /// Transactions since the start.
    pub commits: u64,
    /// Allowed pulls are not recorded any more.
    pub full: bool,
    /// Refusals are only counted: the database takes nothing.
    pub spilling: bool,
    /// Events of allowed pulls that were not recorded.
    pub unrecorded: u64,
    /// Refusals that stand in the counter file, or went through it.
    pub counted: u64,
    /// Events that retention removed since the start.
    pub removed: u64,
    /// Refusals that are being folded.
    pub folds: usize,
    /// Pulls that requests can still join.
    pub pulls: usize,
    /// What went wrong last.
    pub last_error: Option<Error>,
}

/// The audit log. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    keeping: Keeping,
    key: VerifierKey,
    /// When the log was last signed, or opened.
    signed: AtomicI64,
    /// Held by whoever removes what is old.
    removing: tokio::sync::Mutex<()>,
    /// Before which time events could go by age, and when that was found.
    aged: Mutex<Option<(i64, Instant)>>,
    clock: Clock,
    refusals: Refusals,
    floods: Floods,
    pulls: Pulls,
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    reader: Reader,
    committed: watch::Receiver<i64>,
}

impl Log {
    /// Opens or makes `audit.db` in the data folder and starts its writer. Needs a tokio runtime.
    ///
    /// # Errors
    /// `Open` when the folder or the file cannot be used, `Key` when the signing key cannot, `TooSmall`
    /// when the quota cannot work.
    pub async fn open(settings: Settings, clock: Clock) -> Result<Self, Error> {
        Self::open_keeping(settings, Keeping::default(), clock).await
    }

    /// The same with a word on how long the record is kept and how often it is signed.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub async fn open_keeping(settings: Settings, keeping: Keeping, clock: Clock) -> Result<Self, Error> {
        if settings.max_size < 1 << 20 {
            return Err(Error::TooSmall(settings.max_size));
        }
        let shared = Arc::new(Shared::default());
        let (orders, inbox) = mpsc::channel(QUEUE);
        let writer = Writer::open(&settings.path, settings.max_size, Arc::clone(&shared), inbox).await?;
        let reader = Reader::open(&settings.path).await?;
        let (committed, key) = (writer.committed(), writer.key());
        let refusals_per_minute = settings.refusals_per_minute;
        let inner = Arc::new(Inner {
            settings,
            keeping,
            key,
            signed: AtomicI64::new(clock.now().as_millisecond()),
            removing: tokio::sync::Mutex::default(),
            aged: Mutex::default(),
            clock,
            refusals: Refusals::new(),
            floods: Floods::new(refusals_per_minute),
            pulls: Pulls::new(),
            shared,
            orders,
            reader,
            committed,
        });
        tokio::spawn(writer.run());
        tokio::spawn(tick_on(Arc::downgrade(&inner), Arc::clone(&inner.shared)));
        Ok(Self(inner))
    }

    /// Records a refusal; durable on return.
    ///
    /// Refusals equal in client, attribution, user agent, reference, reason and policy are one
    /// decision: the first is committed, whoever comes while that happens waits for the same commit,
    /// and later ones get the first one's id and words at once and are counted. `sentence` makes the
    /// words for an id; it may be called twice when the database fails in between.
    ///
    /// # Errors
    /// `Full` when neither the database nor the counters take it (answer 503), `Closed` after
    /// [`Log::close`].
    pub async fn refused(
        &self,
        draft: Draft<'_>,
        sentence: impl Fn(&Ulid) -> Sentence,
    ) -> Result<Refused, Error> {
        let inner = &*self.0;
        let now = inner.now();
        let key = Key::of(&draft);
        if let Some(fold) = inner.refusals.meet(&key, now) {
            return match inner.settled(&key, &fold).await {
                Some(refused) => Ok(refused),
                None => inner.counted(&draft, &sentence).await,
            };
        }
        if inner.shared.spilling.load(Ordering::Relaxed) {
            return inner.counted(&draft, &sentence).await;
        }
        inner.push(inner.floods.tick(now, false, &|| inner.id()));
        // The place in the queue comes first: from opening the fold to queueing its row nothing may
        // be cancelled.
        let place = inner.orders.reserve().await.map_err(|_| Error::Closed)?;
        let (done, settled) = watch::channel(None);
        let reference = &draft.judged.judgement.image.reference;
        let opened = inner.refusals.open(key.clone(), now, &|| inner.id(), || {
            let code = draft.judged.code();
            inner.floods.admit(draft.caller, code, reference, now, &|| inner.id())?;
            let id = inner.id();
            let pull = inner.pulls.led(&draft, now).map_or(id, |(pull, _)| pull);
            Ok(Fold::new(id, pull, now, settled))
        });
        match opened {
            Opened::Met(fold) => {
                drop(place);
                match inner.settled(&key, &fold).await {
                    Some(refused) => Ok(refused),
                    None => inner.counted(&draft, &sentence).await,
                }
            }
            Opened::New(fold, evicted) => {
                let words = Arc::new(sentence(&fold.id));
                let led = inner.pulls.led(&draft, now);
                let root =
                    led.and_then(|(_, root)| root).or(draft.judged.judgement.image.roots.first().copied());
                let root = root.map(|digest| digest.to_string());
                let row = Row::decision(&draft, fold.id, fold.pull(), root, now, Some(&words.message));
                let _ = fold.sentence.set(words);
                let mut rows = vec![row];
                rows.extend(evicted);
                place.send(Order::Write { rows, done });
                match inner.settled(&key, &fold).await {
                    Some(refused) => Ok(refused),
                    None => inner.counted(&draft, &sentence).await,
                }
            }
            Opened::Turned((flood, begun)) => inner.flooded(&flood, begun, place, &draft, &sentence).await,
        }
    }

    /// Records an allowed pull: in memory, without waiting. What the receipt gathers follows when it
    /// is dropped.
    ///
    /// Requests of one client for one repository join: HEAD and GET of a tag, then its manifests and
    /// blobs by digest, are one decision; the same pull again within the minute is counted.
    ///
    /// # Errors
    /// `Full` when the log is full and `[audit] on_full = "refuse"`: answer 503.
    pub fn allowed(&self, draft: Draft<'_>) -> Result<Receipt, Error> {
        let inner = &*self.0;
        let full = inner.shared.full.load(Ordering::Relaxed);
        if full && inner.settings.on_full == OnFull::Refuse {
            return Err(inner.full());
        }
        let now = inner.now();
        let met = inner.pulls.meet(&draft, now, full, &|| inner.id());
        let receipt = Receipt::new(Arc::clone(&met.open), inner.clock.clone());
        if met.open.is_silent() {
            inner.shared.unrecorded.fetch_add(1, Ordering::Relaxed);
        } else if met.fresh {
            let root = met.root.map(|digest| digest.to_string());
            let row = Row::decision(&draft, met.open.id, met.open.pull, root, now, None);
            if inner.shared.push([row]) > 0 {
                met.open.silence();
                inner.shared.unrecorded.fetch_add(1, Ordering::Relaxed);
                if inner.settings.on_full == OnFull::Refuse {
                    return Err(inner.full());
                }
            }
        }
        inner.push(met.rows);
        Ok(receipt)
    }

    /// Records something no request caused; durable on return.
    ///
    /// # Errors
    /// `Full` or `Write` when it could not be committed, `Closed` after [`Log::close`].
    pub async fn record(&self, event: Event) -> Result<Ulid, Error> {
        let inner = &*self.0;
        let id = inner.id();
        self.write(vec![event.row(id, inner.now())]).await?;
        Ok(id)
    }

    /// Records several such things in one commit: all of them or none; durable on return.
    ///
    /// # Errors
    /// As [`Log::record`].
    pub async fn record_all(&self, events: Vec<Event>) -> Result<(), Error> {
        let inner = &*self.0;
        self.write(events.iter().map(|event| event.row(inner.id(), inner.now())).collect()).await
    }

    async fn write(&self, rows: Vec<Row>) -> Result<(), Error> {
        let (done, settled) = watch::channel(None);
        self.0.orders.send(Order::Write { rows, done }).await.map_err(|_| Error::Closed)?;
        settle(settled).await
    }

    /// Writes the counts that are due now, signs and removes what is due, and returns when that is done.
    /// The log does so by itself every 15 s; tests with a manual clock call it.
    ///
    /// # Errors
    /// What the commit of the counts came to.
    pub async fn tick(&self) -> Result<(), Error> {
        let counted = self.0.tick(false).await;
        let alone = self.0.removing.lock().await;
        self.0.retain(&alone).await;
        counted
    }

    /// Nothing is removed while somebody has this.
    #[cfg(test)]
    pub(crate) async fn keep_all(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.removing.lock().await
    }

    /// Writes all counts, however young, and returns when that is done.
    ///
    /// # Errors
    /// What the commit came to.
    pub async fn flush(&self) -> Result<(), Error> {
        self.0.tick(true).await
    }

    /// Writes everything, leaves one tidy file, and ends the log.
    pub async fn close(&self) {
        let _ = self.0.tick(true).await;
        self.0.checkpoint().await;
        // The last connection to close tidies up, and only the writer's may.
        self.0.reader.close().await;
        let (done, closed) = oneshot::channel();
        if self.0.orders.send(Order::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }

    /// Signs the chain now, unless nothing was written since it was last signed; says whether. The log
    /// does so by itself, as [`Keeping`] says, and when it is closed.
    pub async fn checkpoint(&self) -> bool {
        self.0.checkpoint().await
    }

    /// By which key others verify its checkpoints.
    pub fn key(&self) -> &VerifierKey {
        &self.0.key
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        let inner = &*self.0;
        let shared = &inner.shared;
        Status {
            used: shared.used.load(Ordering::Relaxed),
            max: inner.settings.max_size,
            rows: shared.rows.load(Ordering::Relaxed),
            commits: shared.commits.load(Ordering::Relaxed),
            full: shared.full.load(Ordering::Relaxed),
            spilling: shared.spilling.load(Ordering::Relaxed),
            unrecorded: shared.unrecorded.load(Ordering::Relaxed),
            counted: shared.counted.load(Ordering::Relaxed),
            removed: shared.removed.load(Ordering::Relaxed),
            folds: inner.refusals.len(),
            pulls: inner.pulls.len(),
            last_error: shared.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    /// Every event after this place, those yet to be written too; 0: from the beginning.
    ///
    /// Follow it from a task of its own, and stop that task before [`Log::close`]: once the log is
    /// closed there is nothing left to read from.
    pub fn follow(&self, after: i64) -> Follow {
        Follow::new(self.0.reader.clone(), self.0.committed.clone(), after)
    }

    pub(crate) fn served(&self) -> &Served {
        &self.0.pulls.served
    }

    /// The place of the last event committed.
    pub fn last(&self) -> i64 {
        *self.0.committed.borrow()
    }

    /// Reads what is on disk, beside the writer.
    pub fn reader(&self) -> &Reader {
        &self.0.reader
    }
}

impl Inner {
    fn now(&self) -> i64 {
        self.clock.now().as_millisecond()
    }

    fn id(&self) -> Ulid {
        let mut random = [0; 10];
        if aws_lc_rs::rand::fill(&mut random).is_err() {
            fastrand::fill(&mut random);
        }
        let random = random.iter().fold(0, |number, byte| number << 8 | u128::from(*byte));
        Ulid::from_parts(u64::try_from(self.now()).unwrap_or(0), random)
    }

    fn full(&self) -> Error {
        Error::Full { used: self.shared.used.load(Ordering::Relaxed), max: self.settings.max_size }
    }

    fn push(&self, rows: Vec<Row>) {
        if !rows.is_empty() {
            let left = self.shared.push(rows);
            self.shared.unrecorded.fetch_add(left, Ordering::Relaxed);
        }
    }

    /// Waits for a fold's commit; `None`: it failed, and the fold is forgotten.
    async fn settled(&self, key: &Key, fold: &Arc<Fold>) -> Option<Refused> {
        match settle(fold.settled.clone()).await {
            Ok(()) => {
                let sentence = Arc::clone(fold.sentence.get()?);
                Some(Refused { id: fold.id, sentence })
            }
            Err(_) => {
                self.refusals.forget(key, fold);
                None
            }
        }
    }

    /// A refusal beyond its client's limit: it gets the id of the flood, durable like any other.
    async fn flooded(
        &self,
        flood: &Arc<Flood>,
        begun: Option<Box<Begun>>,
        place: mpsc::Permit<'_, Order>,
        draft: &Draft<'_>,
        sentence: &impl Fn(&Ulid) -> Sentence,
    ) -> Result<Refused, Error> {
        match begun {
            Some(begun) => {
                let Begun { row, done } = *begun;
                place.send(Order::Write { rows: vec![row], done });
            }
            None => drop(place),
        }
        match settle(flood.settled.clone()).await {
            Ok(()) => Ok(Refused { id: flood.id, sentence: Arc::new(sentence(&flood.id)) }),
            Err(_) => self.counted(draft, sentence).await,
        }
    }

    /// A refusal that the database cannot take is counted in the file.
    async fn counted(
        &self,
        draft: &Draft<'_>,
        sentence: &impl Fn(&Ulid) -> Sentence,
    ) -> Result<Refused, Error> {
        let (done, counted) = oneshot::channel();
        let who = super::floods::Who::of(draft.caller);
        let client = who.name().map(ToOwned::to_owned).or_else(|| who.address()).unwrap_or_default();
        let count = Count { client, code: draft.judged.code(), id: self.id(), now: self.now(), done };
        self.orders.send(Order::Count(count)).await.map_err(|_| Error::Closed)?;
        let id = counted.await.map_err(|_| Error::Closed)??;
        Ok(Refused { id, sentence: Arc::new(sentence(&id)) })
    }

    /// Removes what is too old, and what has to make room: one small transaction after another.
    async fn retain(&self, _alone: &tokio::sync::MutexGuard<'_, ()>) {
        let before = self.shared.removed.load(Ordering::Relaxed);
        if let Err(error) = self.remove_due().await
            && !matches!(error, Error::Closed)
        {
            tracing::warn!(%error, "what is old in the audit log could not be removed");
        }
        if self.shared.removed.load(Ordering::Relaxed) != before {
            // Until that is signed, nobody can tell it from what somebody else removed.
            self.checkpoint().await;
        }
    }

    async fn remove_due(&self) -> Result<(), Error> {
        if let Some(age) = self.keeping.max_age {
            let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
            let mut before = self.now().saturating_sub(age);
            if let Some(latest) = self.reader.oldest().await?.filter(|latest| *latest < before) {
                before = before.min(self.age_at_most(latest));
            }
            while let Some(plan) = self.reader.aged(before).await? {
                self.remove(plan).await?;
            }
        }
        let room = super::writer::room(self.settings.max_size);
        let used = || self.shared.used.load(Ordering::Relaxed);
        if used() < room / 10 * 9 {
            return Ok(());
        }
        // Only what is signed may go, and the next signature may be due too late.
        self.checkpoint().await;
        for level in Level::BY_SIZE {
            // Who reviewed what changes; the other levels find nothing new in what they went through.
            let mut after = if level == Level::Reviewed { 0 } else { self.reader.through(level).await? };
            while used() >= room / 10 * 8 {
                let Some(plan) = self.reader.removable(level, after).await? else { break };
                after = plan.last;
                self.remove(plan).await?;
            }
        }
        Ok(())
    }

    /// Before which time events may be too old, whatever the clock says: one that jumped ahead must leave
    /// people the time to notice. Beyond the oldest segment it is a day's events, and then a day's an hour.
    fn age_at_most(&self, latest: i64) -> i64 {
        let now = Instant::now();
        let mut aged = self.aged.lock().unwrap_or_else(PoisonError::into_inner);
        let most = latest.saturating_add(DAY);
        let limit = aged.map_or(most, |(limit, at)| {
            let passed = i64::try_from(now.duration_since(at).as_millis()).unwrap_or(i64::MAX);
            most.min(limit.saturating_add(passed.saturating_mul(24)))
        });
        *aged = Some((limit, now));
        limit
    }

    async fn remove(&self, plan: Plan) -> Result<(), Error> {
        let (done, removed) = oneshot::channel();
        let order = Order::Remove { plan: Box::new(plan), id: self.id(), now: self.now(), done };
        self.orders.send(order).await.map_err(|_| Error::Closed)?;
        removed.await.map_err(|_| Error::Closed)?
    }

    async fn checkpoint(&self) -> bool {
        let now = self.now();
        let (done, signed) = oneshot::channel();
        let order = Order::Checkpoint { id: self.id(), now, done };
        let written = self.orders.send(order).await.is_ok() && signed.await.unwrap_or(false);
        self.signed.store(now, Ordering::Relaxed);
        written
    }

    async fn tick(&self, all: bool) -> Result<(), Error> {
        let now = self.now();
        let new_id = || self.id();
        let mut rows = self.refusals.tick(now, all, &new_id);
        rows.extend(self.floods.tick(now, all, &new_id));
        rows.extend(self.pulls.tick(now, all, &new_id));
        self.push(rows);
        let (done, passed) = oneshot::channel();
        self.orders.send(Order::Barrier(done)).await.map_err(|_| Error::Closed)?;
        let passed = passed.await.map_err(|_| Error::Closed)?;
        let interval = i64::try_from(self.keeping.checkpoint.as_millis()).unwrap_or(i64::MAX);
        if !all && now.saturating_sub(self.signed.load(Ordering::Relaxed)) >= interval {
            self.checkpoint().await;
        }
        passed
    }
}

async fn tick_on(log: Weak<Inner>, shared: Arc<Shared>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let due = tokio::select! {
            _ = interval.tick() => true,
            () = shared.crowded.notified() => false,
        };
        let Some(log) = log.upgrade() else { return };
        if due && matches!(log.tick(false).await, Err(Error::Closed)) {
            return;
        }
        // Refusals and counts do not wait for it.
        tokio::spawn(async move {
            if let Ok(alone) = log.removing.try_lock() {
                log.retain(&alone).await;
            }
        });
    }
}
