//! One sink at work: read, send, remember.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cursor::{Cursor, Place, id_of};
use super::file::Lines;
use super::format::Format;
use super::settings::{Settings, Target, Timing, Wanted};
use super::syslog::Syslog;
use super::webhook::{Address, Webhook};
use super::{Error, State};
use crate::audit::{Log, Written};
use crate::clock::Clock;

/// So many bytes leave at a time, about.
const BYTES: usize = 256 << 10;
/// So many events that nobody wants may pass before the cursor is saved.
const UNSAVED: i64 = 4096;
/// So many sentences are one message of a chat.
const SENTENCES: usize = 20;
/// Longer than this no receiver may make us wait.
const AFTER_MOST: Duration = Duration::from_secs(3600);

/// What went wrong with a delivery.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) text: String,
    /// The receiver will not have it as it is: no use in asking often.
    pub(super) rejected: bool,
    /// When the receiver wants to be asked again.
    pub(super) after: Option<Duration>,
}

impl Failure {
    pub(super) fn network(text: impl Into<String>) -> Self {
        Self { text: text.into(), rejected: false, after: None }
    }
}

/// Events that leave together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    items: Vec<Item>,
    bytes: usize,
    last: Place,
}

#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: String,
    pub(super) value: Value,
    pub(super) line: String,
}

impl Batch {
    #[cfg(test)]
    pub(super) fn of(items: Vec<Item>) -> Self {
        Self { items, ..Self::default() }
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.items.iter().map(|item| &*item.line)
    }
}

/// Whom it brings them to.
#[derive(Debug)]
enum Receiver {
    File(Lines),
    Syslog(Box<Syslog>),
    Webhook(Box<Webhook>),
}

/// Why it stopped carrying.
enum Over {
    Failed(Failure),
    Stopped,
}

impl From<Failure> for Over {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

#[derive(Debug)]
pub(super) struct Courier {
    settings: Settings,
    cursor: Cursor,
    log: Log,
    timing: Timing,
    state: Arc<Mutex<State>>,
    receiver: Receiver,
    /// What retention removed up to here is counted and told.
    looked: i64,
    /// Written, and not yet taken for received.
    unsettled: VecDeque<(Instant, Place, u64)>,
    most_items: usize,
    linger: Duration,
}

impl Courier {
    pub(super) fn new(
        settings: Settings,
        cursor: Cursor,
        log: Log,
        clock: Clock,
        timing: Timing,
        state: Arc<Mutex<State>>,
    ) -> Result<Self, Error> {
        let (receiver, most_items, linger) = match &settings.target {
            Target::File { path, max_size, keep } => {
                (Receiver::File(Lines::new(path.clone(), *max_size, *keep)), 1024, Duration::ZERO)
            }
            Target::Syslog { host, port, tls, ca } => {
                let times = (timing.timeout, timing.settle);
                let syslog = Syslog::new(host, *port, *tls, ca.as_deref(), times)
                    .map_err(|wrong| named(&settings, wrong))?;
                (Receiver::Syslog(Box::new(syslog)), 256, Duration::ZERO)
            }
            Target::Webhook { url, secret_file, ca, batch, proxied } => {
                let address = Address {
                    url,
                    ca: ca.as_deref(),
                    secret_file: secret_file.as_deref(),
                    proxied: *proxied,
                };
                let webhook = Webhook::new(&address, settings.format, timing.timeout, clock)
                    .map_err(|wrong| named(&settings, wrong))?;
                let most = if settings.format == Format::Slack { (*batch).min(SENTENCES) } else { *batch };
                (Receiver::Webhook(Box::new(webhook)), most, timing.linger)
            }
        };
        let unsettled = VecDeque::new();
        let looked = cursor.place().seq;
        Ok(Self { settings, cursor, log, timing, state, receiver, looked, unsettled, most_items, linger })
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut failed: u32 = 0;
        loop {
            let before = self.cursor.place().seq;
            let failure = match self.carry(&stop).await {
                Ok(()) | Err(Over::Stopped) => break,
                Err(Over::Failed(failure)) => failure,
            };
            self.unsettled.clear();
            if let Receiver::Syslog(syslog) = &mut self.receiver {
                syslog.reset();
            }
            if self.cursor.place().seq > before {
                failed = 0;
            }
            let wait = self.backoff(failed, &failure);
            failed = failed.saturating_add(1);
            if failed == 1 || failure.rejected {
                tracing::warn!(
                    sink = self.settings.name,
                    "{}; the events stay on record, next attempt in {} s",
                    failure.text,
                    wait.as_secs()
                );
            }
            self.tell(|state| {
                state.failures += 1;
                state.trouble = Some(failure.text);
            });
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        self.save().await;
    }

    /// Doubling waits, each somewhere in its upper half, so that many gateways do not come at once.
    fn backoff(&self, failed: u32, failure: &Failure) -> Duration {
        let Timing { first, most, .. } = self.timing;
        let wait = if failure.rejected {
            most
        } else {
            first.saturating_mul(1_u32.checked_shl(failed.min(20)).unwrap_or(u32::MAX)).min(most)
        };
        let wait = wait.mul_f64(0.5 + fastrand::f64() / 2.0);
        failure.after.map_or(wait, |after| wait.max(after.min(AFTER_MOST)))
    }

    /// Reads from the cursor on and brings what is wanted, until something fails or the end comes.
    async fn carry(&mut self, stop: &CancellationToken) -> Result<(), Over> {
        let mut follow = self.log.follow(self.cursor.place().seq);
        let mut batch = Batch::default();
        let mut due = Instant::now();
        loop {
            let settled = self.unsettled.front().map(|(at, ..)| *at);
            let next = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(Over::Stopped),
                held = self.receiver.watch(settled) => {
                    held?;
                    self.confirm().await;
                    continue;
                }
                () = tokio::time::sleep_until(due), if !batch.items.is_empty() => None,
                next = follow.next() => Some(next),
            };
            match next {
                None => self.bring(&mut batch, stop).await?,
                Some(Err(error)) => return Err(Failure::network(error.to_string()).into()),
                Some(Ok(None)) => return Ok(()),
                Some(Ok(Some(events))) => {
                    for event in events {
                        if batch.items.is_empty() {
                            due = Instant::now() + self.linger;
                        }
                        self.take(&mut batch, &event);
                        if batch.items.len() >= self.most_items || batch.bytes >= BYTES {
                            self.bring(&mut batch, stop).await?;
                        }
                    }
                    if !batch.items.is_empty() && self.linger.is_zero() {
                        self.bring(&mut batch, stop).await?;
                    }
                    if batch.items.is_empty() && self.unsettled.is_empty() {
                        self.passed(batch.last.clone());
                        if self.cursor.unsaved() > UNSAVED {
                            self.save().await;
                        }
                    }
                }
            }
        }
    }

    fn take(&mut self, batch: &mut Batch, event: &Written) {
        // A retry reads from the cursor on, over a gap that was told before.
        let before = batch.last.seq.max(self.cursor.place().seq).max(self.looked);
        if before > 0 && event.seq > before + 1 {
            let missed = event.seq - before - 1;
            self.looked = event.seq - 1;
            tracing::warn!(
                sink = self.settings.name,
                "{missed} events were removed by retention before they were delivered"
            );
            self.tell(|state| state.missed += missed.unsigned_abs());
        }
        let value: Value = serde_json::from_str(&event.body).unwrap_or_default();
        let id = value.get("id").and_then(Value::as_str).map_or_else(|| id_of(&event.body), str::to_owned);
        batch.last = Place { seq: event.seq, id: id.clone() };
        if self.settings.events.iter().any(|wanted| wanted.holds(&event.kind, &value)) {
            let line = self.settings.format.line(event, &value);
            batch.bytes += line.len();
            batch.items.push(Item { id, value, line });
        }
    }

    /// Delivers a batch; empty afterwards.
    async fn bring(&mut self, batch: &mut Batch, stop: &CancellationToken) -> Result<(), Over> {
        let grace = match self.receiver {
            // A write to disk is not left half-way, unless the disk does not answer.
            Receiver::File(_) => self.timing.write,
            Receiver::Syslog(_) | Receiver::Webhook(_) => self.timing.grace,
        };
        let over = async {
            stop.cancelled().await;
            tokio::time::sleep(grace).await;
        };
        let settles = match &mut self.receiver {
            Receiver::File(lines) => tokio::select! {
                written = lines.deliver(batch) => {
                    written?;
                    None
                }
                () = over => {
                    tracing::warn!(
                        sink = self.settings.name,
                        "the file did not take what was being written within {} s; it is written again after \
                         the next start",
                        grace.as_secs()
                    );
                    return Err(Over::Stopped);
                }
            },
            Receiver::Syslog(syslog) => tokio::select! {
                written = syslog.deliver(batch) => Some(written?),
                () = over => return Err(Over::Stopped),
            },
            Receiver::Webhook(webhook) => tokio::select! {
                taken = webhook.deliver(batch) => {
                    taken?;
                    None
                }
                () = over => return Err(Over::Stopped),
            },
        };
        let place = batch.last.clone();
        let count = batch.items.len() as u64;
        *batch = Batch { last: place.clone(), ..Batch::default() };
        match settles {
            Some(at) => self.unsettled.push_back((at, place, count)),
            None => self.delivered(place, count).await,
        }
        Ok(())
    }

    /// What was written long enough ago was received.
    async fn confirm(&mut self) {
        let now = Instant::now();
        while let Some((_, place, count)) = self.unsettled.pop_front_if(|(at, ..)| *at <= now) {
            self.delivered(place, count).await;
        }
    }

    async fn delivered(&mut self, place: Place, count: u64) {
        self.passed(place);
        let recovered = self.tell(|state| {
            state.delivered += count;
            state.trouble.take().is_some()
        });
        if recovered {
            tracing::info!(sink = self.settings.name, "delivers again");
        }
        self.save().await;
    }

    fn passed(&mut self, place: Place) {
        if place.seq > self.cursor.place().seq {
            self.tell(|state| state.position = place.seq);
            self.cursor.pass(place);
        }
    }

    /// Where the cursor cannot be saved, a crash repeats events; that is no reason to stop.
    async fn save(&mut self) {
        if let Err(error) = self.cursor.save().await {
            tracing::warn!(sink = self.settings.name, "its cursor cannot be saved: {error}");
        }
    }

    fn tell<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn named(settings: &Settings, (path, detail): (std::path::PathBuf, String)) -> Error {
    Error::File { name: settings.name.clone(), path, detail }
}

impl Receiver {
    /// Returns when what was written until then counts as received, or when it broke before.
    /// Cancelling it loses nothing.
    async fn watch(&mut self, settled: Option<Instant>) -> Result<(), Failure> {
        match self {
            Self::File(_) | Self::Webhook(_) => std::future::pending().await,
            Self::Syslog(syslog) => syslog.watch(settled).await,
        }
    }
}

impl Wanted {
    fn holds(self, kind: &str, event: &Value) -> bool {
        match self {
            Self::All => true,
            Self::Blocked => match kind {
                "decision" => {
                    matches!(event.get("verdict").and_then(Value::as_str), Some("deny" | "hold"))
                }
                kind => kind == "flood",
            },
            Self::Kind(wanted) => kind == wanted.as_str(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::{Start, Wanted};
    use super::*;
    use crate::audit::{self, OnFull};

    #[tokio::test]
    async fn what_retention_removed_is_counted_once_however_often_it_is_tried() {
        let folder = tempfile::tempdir().unwrap();
        let settings = audit::Settings {
            path: folder.path().to_owned(),
            max_size: 64 << 20,
            on_full: OnFull::Serve,
            refusals_per_minute: 60,
        };
        let clock = Clock::manual("2026-11-23T08:00:00Z".parse().unwrap());
        let log = Log::open(settings, clock.clone()).await.unwrap();
        let settings = Settings {
            name: "lines".to_owned(),
            target: Target::File { path: folder.path().join("lines"), max_size: 1 << 20, keep: 1 },
            format: Format::Native,
            events: vec![Wanted::All],
            from: Start::Beginning,
        };
        let mut cursor = Cursor::open(folder.path().to_owned(), &settings, &log).await.unwrap();
        cursor.pass(Place { seq: 5, id: String::new() });
        let state = Arc::new(Mutex::new(State::default()));
        let mut courier =
            Courier::new(settings, cursor, log.clone(), clock, Timing::default(), state.clone()).unwrap();
        let missed = |seqs: &[i64], courier: &mut Courier| {
            let mut batch = Batch::default();
            for &seq in seqs {
                let event = Written { seq, kind: "admin".to_owned(), body: "{}".to_owned() };
                courier.take(&mut batch, &event);
            }
            state.lock().unwrap().missed
        };
        assert_eq!(missed(&[10, 11, 14], &mut courier), 4 + 2);
        assert_eq!(missed(&[10, 11, 14], &mut courier), 6, "the same gaps once more");
        assert_eq!(missed(&[21], &mut courier), 6 + 7, "14 was read and not delivered");
        log.close().await;
    }
}
