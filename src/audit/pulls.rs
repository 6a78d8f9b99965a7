//! Open pulls: which requests of one client belong together, and what they moved.
//!
//! A hit costs one look into a sharded map and a handful of atomics; rows are made when a pull opens
//! and each time its counts are written.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::quality::RandomState;
use ulid::Ulid;

use crate::clock::Clock;
use crate::oci::Digest;
use crate::policy::Verdict;

use super::draft::{Cache, Draft, Join, Judged, best_join, runtime};
use super::metrics::Served;
use super::refusals::LAG;
use super::row::{Kind, RepeatBody, Row, Text, Time, TransferBody};
use super::text::Runtime;
use crate::identity::{Attribution, Caller, Class};

/// A later request joins a pull that was last active so long ago at most.
const WINDOW: i64 = 5 * 60_000;
/// No pull is joined for longer than this after it opened.
const LONGEST: i64 = 60 * 60_000;
/// A pull without requests for so long is taken to pause: what it moved so far is written.
const PAUSE: i64 = 5_000;
const SHARDS: usize = 64;
/// So many open pulls a client may have in one repository.
const SLOT_CAP: usize = 32;
/// So many clients and repositories a shard; beyond, the one longest idle makes room.
const SHARD_CAP: usize = 1024;
/// So many are compared when one has to go.
const ROOM_SAMPLE: usize = 16;

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Key {
    class: Class,
    attribution: Attribution,
    address: IpAddr,
    /// Not the user agent itself: a client may invent a new one for each request.
    runtime: Runtime,
    place: u128,
}

impl Key {
    fn of(draft: &Draft<'_>) -> Self {
        let Caller { class, attribution, address, .. } = draft.caller;
        Self {
            class: class.clone(),
            attribution: *attribution,
            address: *address,
            runtime: runtime(draft.caller),
            place: draft.judged.place,
        }
    }
}

/// One logical pull (or one more decision within it).
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) id: Ulid,
    pub(crate) pull: Ulid,
    judged: Arc<Judged>,
    method: Box<str>,
    join: Join,
    opened: i64,
    /// Nothing of it is written: the log was full when it opened.
    silent: AtomicBool,
    repeats: AtomicU64,
    first_repeat: AtomicI64,
    last_repeat: AtomicI64,
    requests: AtomicU64,
    live: AtomicU64,
    started: AtomicI64,
    last: AtomicI64,
    bytes: AtomicU64,
    cache: AtomicU8,
    status: AtomicU16,
    ambiguous: AtomicBool,
    candidates: Mutex<Vec<String>>,
    served: Arc<Served>,
}

impl Open {
    fn new(
        draft: &Draft<'_>,
        id: Ulid,
        pull: Ulid,
        now: i64,
        silent: bool,
        served: &Arc<Served>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            pull,
            judged: Arc::clone(draft.judged),
            method: draft.http.method.into(),
            join: best_join(draft.caller),
            opened: now,
            silent: AtomicBool::new(silent),
            repeats: AtomicU64::new(0),
            first_repeat: AtomicI64::new(i64::MAX),
            last_repeat: AtomicI64::new(i64::MIN),
            requests: AtomicU64::new(0),
            live: AtomicU64::new(0),
            started: AtomicI64::new(i64::MAX),
            last: AtomicI64::new(now),
            bytes: AtomicU64::new(0),
            cache: AtomicU8::new(0),
            status: AtomicU16::new(0),
            ambiguous: AtomicBool::new(false),
            candidates: Mutex::default(),
            served: Arc::clone(served),
        })
    }

    fn is_joinable(&self, now: i64) -> bool {
        let idle = now - self.last.load(Ordering::Relaxed);
        (idle <= WINDOW || self.live.load(Ordering::Relaxed) > 0) && now - self.opened <= LONGEST
    }

    fn is_idle(&self, now: i64) -> bool {
        self.live.load(Ordering::Relaxed) == 0 && now - self.last.load(Ordering::Relaxed) > WINDOW
    }

    fn root(&self) -> Option<Digest> {
        let image = &self.judged.judgement.image;
        image.digest.or_else(|| image.digest_requested())
    }

    /// Whether the request asks exactly as the pull did when it opened.
    fn is_opener(&self, draft: &Draft<'_>) -> bool {
        self.judged.fingerprint == draft.judged.fingerprint && *self.method == *draft.http.method
    }

    fn begin(&self, now: i64) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.live.fetch_add(1, Ordering::Relaxed);
        self.started.fetch_min(now, Ordering::Relaxed);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    fn repeat(&self, now: i64) {
        self.repeats.fetch_add(1, Ordering::Relaxed);
        self.first_repeat.fetch_min(now, Ordering::Relaxed);
        self.last_repeat.fetch_max(now, Ordering::Relaxed);
    }

    /// The rows that are due, or (`all`) all there is to write.
    fn take_rows(&self, now: i64, all: bool, new_id: &dyn Fn() -> Ulid, rows: &mut Vec<Row>) {
        if self.silent.load(Ordering::Relaxed) {
            return;
        }
        let since = |moment: &AtomicI64| now.saturating_sub(moment.load(Ordering::Relaxed));
        if all || since(&self.first_repeat) >= LAG {
            rows.extend(self.take_repeats(now, new_id));
        }
        let paused = self.live.load(Ordering::Relaxed) == 0 && since(&self.last) >= PAUSE;
        if all || paused || since(&self.started) >= LAG {
            rows.extend(self.take_transfer(now, new_id));
        }
    }

    fn take_repeats(&self, now: i64, new_id: &dyn Fn() -> Ulid) -> Option<Row> {
        let count = self.repeats.swap(0, Ordering::Relaxed);
        if count == 0 {
            return None;
        }
        let last = self.last_repeat.swap(i64::MIN, Ordering::Relaxed).max(self.opened);
        let first = self.first_repeat.swap(i64::MAX, Ordering::Relaxed).min(last);
        let body = RepeatBody { of: Text(self.id), count, first: Time(first), last: Time(last) };
        let mut row =
            Row::new(new_id(), now, Kind::Repeat, &body).under(self.id, Some(self.pull)).until(last);
        row.allowed = true;
        Some(row)
    }

    fn take_transfer(&self, now: i64, new_id: &dyn Fn() -> Ulid) -> Option<Row> {
        let (bytes, cache) = (self.bytes.swap(0, Ordering::Relaxed), self.cache.swap(0, Ordering::Relaxed));
        let status = self.status.swap(0, Ordering::Relaxed);
        if bytes == 0 && cache == 0 && status == 0 {
            return None;
        }
        let last = self.last.load(Ordering::Relaxed);
        // What still runs goes on counting from here.
        let fresh = if self.live.load(Ordering::Relaxed) > 0 { now } else { i64::MAX };
        let started = self.started.swap(fresh, Ordering::Relaxed).min(last);
        let ambiguous = self.ambiguous.load(Ordering::Relaxed);
        let body = TransferBody {
            pull_id: Text(self.pull),
            of: Text(self.id),
            digest: self.root().map(|digest| digest.to_string()),
            requests: self.requests.swap(0, Ordering::Relaxed),
            bytes,
            duration_ms: u64::try_from(last - started).unwrap_or(0),
            cache: TransferBody::word(cache),
            status: (status != 0).then_some(status),
            join: TransferBody::join(if ambiguous { Join::Ambiguous } else { self.join }),
            candidates: self.candidates.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        let mut row =
            Row::new(new_id(), now, Kind::Transfer, &body).under(self.id, Some(self.pull)).until(last);
        row.allowed = true;
        Some(row)
    }
}

/// What an allowed request came to.
pub(crate) struct Met {
    pub(crate) open: Arc<Open>,
    /// Whether the pull (or a decision of its own within it) was opened by this request.
    pub(crate) fresh: bool,
    /// The digest that joins it to others.
    pub(crate) root: Option<Digest>,
    /// What had to make room.
    pub(crate) rows: Vec<Row>,
}

/// All open pulls. Bounded.
#[derive(Debug)]
pub(crate) struct Pulls {
    hasher: RandomState,
    shards: Vec<Mutex<Shard>>,
    pub(crate) served: Arc<Served>,
}

type Shard = HashMap<Key, Vec<Arc<Open>>, RandomState>;

impl Pulls {
    pub(crate) fn new() -> Self {
        Self {
            hasher: RandomState::default(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            served: Arc::new(Served::new()),
        }
    }

    fn shard(&self, key: &Key) -> Option<&Mutex<Shard>> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let hash = self.hasher.hash_one(key) as usize;
        self.shards.get(hash % SHARDS)
    }

    /// Joins an allowed request to its pull, or opens one.
    pub(crate) fn meet(&self, draft: &Draft<'_>, now: i64, silent: bool, new_id: &dyn Fn() -> Ulid) -> Met {
        let key = Key::of(draft);
        let mut rows = Vec::new();
        let Some(shard) = self.shard(&key) else {
            let id = new_id();
            return Met {
                open: Open::new(draft, id, id, now, silent, &self.served),
                fresh: true,
                root: None,
                rows,
            };
        };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        let mut led = None;
        if let Some(slot) = shard.get(&key) {
            match find(slot, draft, now) {
                Found::Again(open) => {
                    open.repeat(now);
                    open.begin(now);
                    return Met { open: Arc::clone(open), fresh: false, root: None, rows };
                }
                Found::Joins(open) => {
                    open.begin(now);
                    return Met { open: Arc::clone(open), fresh: false, root: None, rows };
                }
                Found::Within(open) => led = Some((open.pull, open.root())),
                Found::Nothing => {}
            }
        }
        let id = new_id();
        let (pull, root) = led.unwrap_or_else(|| {
            let image = &draft.judged.judgement.image;
            (id, image.roots.first().copied().or(image.digest))
        });
        let open = Open::new(draft, id, pull, now, silent, &self.served);
        open.begin(now);
        if !shard.contains_key(&key) && shard.len() >= SHARD_CAP {
            make_room(&mut shard, now, new_id, &mut rows);
        }
        let slot = shard.entry(key).or_default();
        if slot.len() >= SLOT_CAP {
            let stalest = slot
                .iter()
                .enumerate()
                .filter(|(_, open)| open.live.load(Ordering::Relaxed) == 0)
                .min_by_key(|(_, open)| open.last.load(Ordering::Relaxed))
                .map(|(place, _)| place);
            if let Some(place) = stalest {
                slot.remove(place).take_rows(now, true, new_id, &mut rows);
            }
        }
        slot.push(Arc::clone(&open));
        Met { open, fresh: true, root, rows }
    }

    /// The open pull that a refused request belongs to, and the digest that led to it.
    pub(crate) fn led(&self, draft: &Draft<'_>, now: i64) -> Option<(Ulid, Option<Digest>)> {
        let key = Key::of(draft);
        let shard = self.shard(&key)?.lock().unwrap_or_else(PoisonError::into_inner);
        let image = &draft.judged.judgement.image;
        if image.tag().is_some() {
            return None;
        }
        let open = shard.get(&key)?.iter().rev().find(|open| open.is_joinable(now) && leads(open, draft))?;
        Some((open.pull, open.root()))
    }

    /// The rows that are due, or (`all`) all; forgets pulls that are over.
    pub(crate) fn tick(&self, now: i64, all: bool, new_id: &dyn Fn() -> Ulid) -> Vec<Row> {
        let mut rows = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            shard.retain(|_, slot| {
                slot.retain(|open| {
                    let idle = open.is_idle(now);
                    open.take_rows(now, all || idle, new_id, &mut rows);
                    !idle
                });
                !slot.is_empty()
            });
        }
        rows
    }

    pub(crate) fn len(&self) -> usize {
        let count = |shard: &Mutex<Shard>| {
            shard.lock().unwrap_or_else(PoisonError::into_inner).values().map(Vec::len).sum::<usize>()
        };
        self.shards.iter().map(count).sum()
    }
}

/// How a request relates to the open pulls of its client and repository.
enum Found<'a> {
    /// It opens the same pull once more within the minute.
    Again(&'a Arc<Open>),
    /// It is part of this one.
    Joins(&'a Arc<Open>),
    /// None of them.
    Nothing,
    /// It is part of this one, but was judged otherwise: a decision of its own.
    Within(&'a Arc<Open>),
}

fn find<'a>(slot: &'a [Arc<Open>], draft: &Draft<'_>, now: i64) -> Found<'a> {
    let image = &draft.judged.judgement.image;
    let minute = now.div_euclid(60_000);
    if let Some(open) = slot.iter().rev().find(|open| open.is_opener(draft)) {
        return if open.opened.div_euclid(60_000) == minute { Found::Again(open) } else { Found::Nothing };
    }
    // HEAD, then GET of the same reference.
    if let Some(open) = slot
        .iter()
        .rev()
        .find(|open| open.judged.fingerprint == draft.judged.fingerprint && open.is_joinable(now))
    {
        return Found::Joins(open);
    }
    if image.tag().is_some() || image.digest_requested().is_none() {
        return Found::Nothing;
    }
    let led = |open: &&Arc<Open>| open.is_joinable(now) && leads(open, draft);
    let open = slot.iter().rev().find(led).or_else(|| {
        // A layer may be reached from several images of one repository, and the gate names those it
        // found, not the one this client is pulling.
        image.is_blob().then(|| slot.iter().rev().find(|open| open.is_joinable(now))).flatten()
    });
    let Some(open) = open else { return Found::Nothing };
    note_candidates(slot, open, now);
    let (asked, opener) = (&draft.judged, &open.judged);
    let same = asked.judgement.verdict == Verdict::Allow
        || (asked.judgement.verdict == opener.judgement.verdict && asked.code() == opener.code());
    if same { Found::Joins(open) } else { Found::Within(open) }
}

/// Whether the pull's root is, or leads to, what is asked for.
fn leads(open: &Open, draft: &Draft<'_>) -> bool {
    let image = &draft.judged.judgement.image;
    let Some(root) = open.root() else { return false };
    image.digest_requested() == Some(root) || image.roots.contains(&root)
}

/// When several tags led to the same digest at this time, nobody can say whose request this is.
fn note_candidates(slot: &[Arc<Open>], joined: &Arc<Open>, now: i64) {
    if joined.ambiguous.load(Ordering::Relaxed) {
        return;
    }
    let tag = |open: &Arc<Open>| open.judged.judgement.image.tag().map(ToString::to_string);
    let others = slot.iter().any(|open| {
        !Arc::ptr_eq(open, joined)
            && open.root() == joined.root()
            && open.is_joinable(now)
            && open.judged.judgement.image.tag() != joined.judged.judgement.image.tag()
    });
    if !others {
        return;
    }
    let mut tags: Vec<String> = slot
        .iter()
        .filter(|open| open.root() == joined.root() && open.is_joinable(now))
        .filter_map(tag)
        .collect();
    tags.sort();
    tags.dedup();
    *joined.candidates.lock().unwrap_or_else(PoisonError::into_inner) = tags;
    joined.ambiguous.store(true, Ordering::Relaxed);
}

/// Writes out and forgets a client and repository that were long idle: the longest of a few, as
/// looking at all of them would let whoever fills the map slow everybody down. One with a reply under
/// way stays: connections are bounded elsewhere.
fn make_room(shard: &mut Shard, now: i64, new_id: &dyn Fn() -> Ulid, rows: &mut Vec<Row>) {
    let stalest = shard
        .iter()
        .filter(|(_, slot)| slot.iter().all(|open| open.live.load(Ordering::Relaxed) == 0))
        .take(ROOM_SAMPLE)
        .min_by_key(|(_, slot)| slot.iter().map(|open| open.last.load(Ordering::Relaxed)).max())
        .map(|(key, _)| key.clone());
    if let Some(slot) = stalest.and_then(|key| shard.remove(&key)) {
        for open in slot {
            open.take_rows(now, true, new_id, rows);
        }
    }
}

/// Rides with the reply to an allowed request; dropping it adds what was sent to the pull.
#[derive(Debug)]
#[must_use = "dropped at once, it says that nothing was sent"]
pub struct Receipt {
    open: Arc<Open>,
    clock: Clock,
    bytes: u64,
    status: u16,
    cache: u8,
}

impl Receipt {
    pub(crate) fn new(open: Arc<Open>, clock: Clock) -> Self {
        Self { open, clock, bytes: 0, status: 0, cache: 0 }
    }

    /// Adds bytes of the body that were handed to the connection.
    pub fn served(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// What was answered.
    pub fn status(&mut self, status: u16) {
        self.status = status;
    }

    /// Where it came from; the farthest source of a pull is the one recorded.
    pub fn cache(&mut self, cache: Cache) {
        self.cache |= cache.bit();
    }

    /// The id of the decision, for the structured log.
    pub fn id(&self) -> Ulid {
        self.open.id
    }

    /// The pull it belongs to.
    pub fn pull_id(&self) -> Ulid {
        self.open.pull
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        let open = &self.open;
        open.served.count(Cache::farthest(self.cache), self.bytes);
        open.last.fetch_max(self.clock.now().as_millisecond(), Ordering::Relaxed);
        open.bytes.fetch_add(self.bytes, Ordering::Relaxed);
        open.cache.fetch_or(self.cache, Ordering::Relaxed);
        open.status.fetch_max(self.status, Ordering::Relaxed);
        open.live.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Open {
    /// Whether its rows are kept back, and the next request of it counts as unrecorded.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Keeps its rows back from now on: its decision could not be written.
    pub(crate) fn silence(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }
}
