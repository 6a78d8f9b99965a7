//! Equal refusals: one decision on disk, the rest counted.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;
use ulid::Ulid;

use super::draft::{Client, Draft, Sentence};
use super::error::Error;
use super::row::{Kind, RepeatBody, Row, Text, Time};

/// An unrepeated refusal is forgotten after ten minutes: kubelet asks again every five at the slowest.
const IDLE: i64 = 10 * 60_000;
/// A refusal that goes on is written anew each hour, so that no decision is older than its repeats by more.
const LONGEST: i64 = 60 * 60_000;
/// Repeats are written when the oldest is this old: with a tick every 15 s none lags more than a minute.
pub(crate) const LAG: i64 = 45_000;
const SHARDS: usize = 16;
/// So many folds a shard; the one longest unmet makes room (its count is written, nothing is lost).
const SHARD_CAP: usize = 512;

/// What a commit came to, once it is known. A vanished sender is a failure.
pub(crate) type Settled = watch::Receiver<Option<Result<(), Error>>>;

/// Waits until the commit is through.
pub(crate) async fn settle(mut settled: Settled) -> Result<(), Error> {
    match settled.wait_for(Option::is_some).await {
        Ok(result) => result.clone().unwrap_or(Err(Error::Closed)),
        Err(_) => Err(Error::Closed),
    }
}

/// What makes two refusals equal: the fingerprint holds reference, reason and policy revision.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    client: Client,
    fingerprint: u128,
}

impl Key {
    pub(crate) fn of(draft: &Draft<'_>) -> Self {
        Self { client: Client::of(draft.caller), fingerprint: draft.judged.fingerprint }
    }
}

/// One refusal and how often it was met.
#[derive(Debug)]
pub(crate) struct Fold {
    pub(crate) id: Ulid,
    pub(crate) sentence: OnceLock<Arc<Sentence>>,
    pub(crate) settled: Settled,
    pull: Ulid,
    opened: i64,
    last: AtomicI64,
    repeats: AtomicU64,
    first_repeat: AtomicI64,
}

impl Fold {
    pub(crate) fn new(id: Ulid, pull: Ulid, now: i64, settled: Settled) -> Arc<Self> {
        Arc::new(Self {
            id,
            sentence: OnceLock::new(),
            settled,
            pull,
            opened: now,
            last: AtomicI64::new(now),
            repeats: AtomicU64::new(0),
            first_repeat: AtomicI64::new(i64::MAX),
        })
    }

    pub(crate) fn pull(&self) -> Ulid {
        self.pull
    }

    fn is_over(&self, now: i64) -> bool {
        now - self.last.load(Ordering::Relaxed) > IDLE || now - self.opened > LONGEST
    }

    /// Whether its commit failed, or nobody is left who could make it.
    fn is_void(&self) -> bool {
        match &*self.settled.borrow() {
            Some(result) => result.is_err(),
            None => self.settled.has_changed().is_err(),
        }
    }

    fn meet(&self, now: i64) {
        self.repeats.fetch_add(1, Ordering::Relaxed);
        self.first_repeat.fetch_min(now, Ordering::Relaxed);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    fn take_repeats(&self, now: i64, new_id: &dyn Fn() -> Ulid) -> Option<Row> {
        let count = self.repeats.swap(0, Ordering::Relaxed);
        // Whoever waited for a commit that failed is counted elsewhere.
        if count == 0 || self.is_void() {
            return None;
        }
        let last = self.last.load(Ordering::Relaxed);
        let first = self.first_repeat.swap(i64::MAX, Ordering::Relaxed).min(last);
        let body = RepeatBody {
            pull_id: Text(self.pull),
            of: Text(self.id),
            count,
            first: Time(first),
            last: Time(last),
        };
        Some(Row::new(new_id(), now, Kind::Repeat, &body))
    }

    fn is_due(&self, now: i64) -> bool {
        now.saturating_sub(self.first_repeat.load(Ordering::Relaxed)) >= LAG
    }
}

/// What became of a refusal that met no fold.
pub(crate) enum Opened<T> {
    /// Somebody else opened it meanwhile.
    Met(Arc<Fold>),
    /// It is a new fold; the rows are of folds that made room.
    New(Arc<Fold>, Vec<Row>),
    /// It may not open one.
    Turned(T),
}

/// All open folds of refusals. Bounded.
#[derive(Debug)]
pub(crate) struct Refusals {
    hasher: RandomState,
    shards: Vec<Mutex<HashMap<Key, Arc<Fold>>>>,
}

impl Refusals {
    pub(crate) fn new() -> Self {
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }

    fn shard(&self, key: &Key) -> Option<&Mutex<HashMap<Key, Arc<Fold>>>> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let hash = self.hasher.hash_one(key) as usize;
        self.shards.get(hash % SHARDS)
    }

    /// The open fold of an equal refusal, counted once more.
    pub(crate) fn meet(&self, key: &Key, now: i64) -> Option<Arc<Fold>> {
        let shard = self.shard(key)?.lock().unwrap_or_else(PoisonError::into_inner);
        let fold = shard.get(key).filter(|fold| !fold.is_over(now) && !fold.is_void())?;
        fold.meet(now);
        Some(Arc::clone(fold))
    }

    /// Opens a fold unless there is one by now, or `admit` turns it away.
    pub(crate) fn open<T>(
        &self,
        key: Key,
        now: i64,
        new_id: &dyn Fn() -> Ulid,
        admit: impl FnOnce() -> Result<Arc<Fold>, T>,
    ) -> Opened<T> {
        let mut rows = Vec::new();
        let Some(shard) = self.shard(&key) else {
            return match admit() {
                Ok(fold) => Opened::New(fold, rows),
                Err(turned) => Opened::Turned(turned),
            };
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(fold) = shard.get(&key) {
            if !fold.is_over(now) && !fold.is_void() {
                fold.meet(now);
                return Opened::Met(Arc::clone(fold));
            }
            rows.extend(fold.take_repeats(now, new_id));
            shard.remove(&key);
        }
        let fold = match admit() {
            Ok(fold) => fold,
            Err(turned) => return Opened::Turned(turned),
        };
        if shard.len() >= SHARD_CAP {
            let stalest = shard
                .iter()
                .min_by_key(|(_, fold)| fold.last.load(Ordering::Relaxed))
                .map(|(key, _)| key.clone());
            if let Some(gone) = stalest.and_then(|key| shard.remove(&key)) {
                rows.extend(gone.take_repeats(now, new_id));
            }
        }
        shard.insert(key, Arc::clone(&fold));
        Opened::New(fold, rows)
    }

    /// Forgets a fold whose commit failed.
    pub(crate) fn forget(&self, key: &Key, fold: &Arc<Fold>) {
        if let Some(shard) = self.shard(key) {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if shard.get(key).is_some_and(|known| Arc::ptr_eq(known, fold)) {
                shard.remove(key);
            }
        }
    }

    /// The repeats that are due, or (`all`) every one; forgets what is over.
    pub(crate) fn tick(&self, now: i64, all: bool, new_id: &dyn Fn() -> Ulid) -> Vec<Row> {
        let mut rows = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, fold| {
                let over = fold.is_over(now);
                if over || all || fold.is_due(now) {
                    rows.extend(fold.take_repeats(now, new_id));
                }
                !over && !fold.is_void()
            });
        }
        rows
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}
