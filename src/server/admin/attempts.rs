//! Who tried to get in: bounded per address, and put on record without filling it.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::super::addresses;
use crate::audit::{Event, Log};
use crate::clock::Clock;

/// So many wrong tokens may come from one address within [`WINDOW`]; more are not looked at.
const WRONG: u32 = 10;
/// Within what time attempts are counted, and those that were turned away are one row.
const WINDOW: SignedDuration = SignedDuration::from_mins(1);
/// Within what time a user who is let in again and again from one address is one row.
const STAY: SignedDuration = SignedDuration::from_hours(1);
/// Addresses that are counted apart at once; those beyond share one count.
const ADDRESSES: usize = 256;
/// How often counts that are due are looked for.
const TICK: Duration = Duration::from_secs(15);

/// Attempts to get in.
#[derive(Debug)]
pub(super) struct Attempts {
    log: Log,
    clock: Clock,
    folds: Mutex<HashMap<Fold, Count>>,
}

/// Attempts that are one row: from where, and as whom they were let in.
type Fold = (IpAddr, Option<Arc<str>>);

#[derive(Debug)]
struct Count {
    since: Timestamp,
    /// All since then.
    all: u32,
    /// Those that are not on record yet.
    left: u64,
}

/// Too many wrong tokens came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Wait {
    pub(super) seconds: u64,
    /// They came from all the addresses that are not counted apart.
    pub(super) shared: bool,
}

impl Attempts {
    pub(super) fn new(log: Log, clock: Clock) -> Self {
        Self { log, clock, folds: Mutex::default() }
    }

    /// How long an address has to wait that sent too many wrong tokens.
    pub(super) fn wait(&self, address: IpAddr) -> Option<Wait> {
        let now = self.clock.now();
        let folds = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
        let apart = folds.get(&(addresses::key(address), None));
        // Whoever has no count of its own while all are taken shares one.
        let shared = apart.is_none();
        let count = match apart {
            None if folds.len() >= ADDRESSES => folds.get(&(NOBODY, None))?,
            apart => apart?,
        };
        let left = WINDOW - now.duration_since(count.since);
        let seconds = left.as_secs().unsigned_abs().max(1);
        (count.all >= WRONG && left.is_positive()).then_some(Wait { seconds, shared })
    }

    /// Somebody was let in as this user.
    pub(super) async fn granted(&self, address: IpAddr, name: &Arc<str>) {
        self.note(address, Some(name.clone())).await;
    }

    /// Somebody showed what proves nothing.
    pub(super) async fn refused(&self, address: IpAddr) {
        self.note(address, None).await;
    }

    async fn note(&self, address: IpAddr, name: Option<Arc<str>>) {
        let now = self.clock.now();
        let events = {
            let mut folds = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
            let mut fold = (addresses::key(address), name);
            if folds.len() >= ADDRESSES && !folds.contains_key(&fold) {
                fold.0 = NOBODY;
            }
            let window = window(&fold);
            let mut events = Vec::new();
            match folds.get_mut(&fold) {
                Some(count) if now.duration_since(count.since) < window => {
                    count.all = count.all.saturating_add(1);
                    count.left += 1;
                }
                _ => {
                    if let Some(count) = folds.insert(fold.clone(), Count { since: now, all: 1, left: 0 }) {
                        events.extend(event(&fold, count.left));
                    }
                    events.extend(event(&fold, 1));
                }
            }
            events
        };
        self.record(events).await;
    }

    async fn record(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        // Whoever looks after a record that is full must still get in.
        if let Err(error) = self.log.record_all(events).await {
            tracing::warn!(%error, "attempts to use the console could not be recorded");
        }
    }

    /// Puts on record what is due, or all of it.
    async fn settle(&self, all: bool) {
        let now = self.clock.now();
        let events = {
            let mut folds = self.folds.lock().unwrap_or_else(PoisonError::into_inner);
            let mut events = Vec::new();
            folds.retain(|fold, count| {
                let over = now.duration_since(count.since) >= window(fold);
                if all || over {
                    events.extend(event(fold, std::mem::take(&mut count.left)));
                }
                !over
            });
            events
        };
        self.record(events).await;
    }

    /// Puts on record what is due, until it is stopped; then all that is left.
    pub(super) async fn keep(&self, stop: impl Future<Output = ()>) {
        let mut interval = tokio::time::interval(TICK);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut stop = std::pin::pin!(stop);
        loop {
            tokio::select! {
                () = stop.as_mut() => break,
                _ = interval.tick() => self.settle(false).await,
            }
        }
        self.settle(true).await;
    }
}

/// Stands for all addresses that are not counted apart.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn window(fold: &Fold) -> SignedDuration {
    if fold.1.is_some() { STAY } else { WINDOW }
}

fn event((address, name): &Fold, count: u64) -> Option<Event> {
    let text = match (name, *address == NOBODY) {
        (Some(_), _) => None,
        (None, false) => Some("what was shown proves nobody".to_owned()),
        (None, true) => Some("what was shown proves nobody; from many addresses".to_owned()),
    };
    (count > 0).then(|| Event::Auth {
        via: "admin",
        granted: name.is_some(),
        address: *address,
        name: name.as_deref().map(ToOwned::to_owned),
        text,
        count,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Filter, OnFull, Settings};

    async fn attempts(folder: &std::path::Path, clock: &Clock) -> Attempts {
        let settings = Settings {
            path: folder.to_owned(),
            max_size: 16 << 20,
            on_full: OnFull::Serve,
            refusals_per_minute: 60,
        };
        Attempts::new(Log::open(settings, clock.clone()).await.unwrap(), clock.clone())
    }

    async fn rows(log: &Log) -> Vec<(String, u64)> {
        let mut entries = log.reader().entries(Filter::default());
        let mut rows = Vec::new();
        while let Some(entry) = entries.next().await.unwrap() {
            let result = entry.text(&["auth", "result"]).unwrap().to_owned();
            rows.push((result, entry.number(&["auth", "count"]).unwrap()));
        }
        rows
    }

    #[tokio::test]
    async fn ten_wrong_tokens_a_minute_are_looked_at_and_are_two_rows() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual("2026-11-23T08:00:00Z".parse().unwrap());
        let attempts = attempts(folder.path(), &clock).await;
        let from: IpAddr = "192.0.2.1".parse().unwrap();
        for _ in 0..10 {
            assert_eq!(attempts.wait(from), None);
            attempts.refused(from).await;
        }
        assert_eq!(attempts.wait(from), Some(Wait { seconds: 60, shared: false }));
        assert_eq!(attempts.wait("192.0.2.2".parse().unwrap()), None);
        clock.advance(Duration::from_secs(60));
        assert_eq!(attempts.wait(from), None);
        attempts.settle(false).await;
        let refused = |count| ("refused".to_owned(), count);
        assert_eq!(rows(&attempts.log).await, [refused(1), refused(9)]);
        attempts.refused(from).await;
        attempts.refused(from).await;
        attempts.settle(true).await;
        assert_eq!(rows(&attempts.log).await, [refused(1), refused(9), refused(1), refused(1)]);
        attempts.log.close().await;
    }

    #[tokio::test]
    async fn a_thousand_addresses_do_not_fill_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual("2026-11-23T08:00:00Z".parse().unwrap());
        let attempts = attempts(folder.path(), &clock).await;
        for number in 0..600_u32 {
            attempts.refused(Ipv4Addr::from(0xc000_0200 + number).into()).await;
        }
        attempts.settle(true).await;
        let rows = rows(&attempts.log).await;
        assert!(rows.len() <= ADDRESSES + 2, "{}", rows.len());
        assert_eq!(rows.iter().map(|(_, count)| count).sum::<u64>(), 600);
        attempts.log.close().await;
    }
}
