//! Ways out of the record: files, syslog receivers and webhooks that get every event, or those wanted.
//!
//! Each sink reads the record from disk and remembers in a small file how far its receiver has taken
//! it. A receiver that is down, slow or full therefore delays nobody and misses nothing: what it did
//! not take is still on disk. Events arrive in their order and at least once.

mod courier;
mod cursor;
mod file;
mod format;
mod metrics;
mod settings;
mod syslog;
mod tls;
mod unsent;
mod webhook;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, Log};
use crate::clock::Clock;

use courier::Courier;
use cursor::Cursor;

pub(crate) use cursor::{Place, checked, last, replace};
pub use format::Format;
pub use settings::{KindWord, Settings, Start, Target, Timing, Wanted};

/// The folder of the cursors within the data folder.
pub const FOLDER: &str = "sinks";

/// Why a sink cannot be set up. Once it runs nothing ends it: trouble is told, and tried again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that it needs cannot be used.
    #[error("sink {name:?}: {} cannot be used: {detail}; correct the path or what is there", path.display())]
    File {
        /// The sink.
        name: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// The record cannot be read.
    #[error("sinks cannot start: {0}")]
    Log(#[from] audit::Error),
}

/// How one sink is doing, for `/readyz` and metrics.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// What kind of receiver it feeds.
    pub kind: KindWord,
    /// Events that its receiver took since the start.
    pub delivered: u64,
    /// Attempts that failed since the start.
    pub failures: u64,
    /// Events that retention removed before it came to them.
    pub missed: u64,
    /// Events on record that it has not dealt with yet.
    pub behind: u64,
    /// What is wrong now; `None`: all is well.
    pub trouble: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    delivered: u64,
    failures: u64,
    missed: u64,
    position: i64,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Told {
    name: String,
    kind: KindWord,
    state: Arc<Mutex<State>>,
}

/// All sinks of a gateway.
#[derive(Debug)]
pub struct Sinks {
    log: Log,
    told: Arc<Vec<Told>>,
    stop: CancellationToken,
    couriers: Vec<JoinHandle<()>>,
}

impl Sinks {
    /// Starts a task for each. `folder` is the data folder.
    ///
    /// # Errors
    /// The folder for the cursors, a secret or a CA cannot be used, or the record cannot be read.
    pub async fn start(
        settings: Vec<Settings>,
        folder: &Path,
        log: &Log,
        clock: &Clock,
        timing: &Timing,
    ) -> Result<Self, Error> {
        let stop = CancellationToken::new();
        let (mut told, mut couriers) = (Vec::new(), Vec::new());
        for settings in settings {
            let cursor = Cursor::open(folder.join(FOLDER), &settings, log).await?;
            let state = Arc::new(Mutex::new(State { position: cursor.place().seq, ..State::default() }));
            told.push(Told {
                name: settings.name.clone(),
                kind: settings.target.kind(),
                state: state.clone(),
            });
            let courier = Courier::new(settings, cursor, log.clone(), clock.clone(), timing.clone(), state)?;
            couriers.push(tokio::spawn(courier.run(stop.clone())));
        }
        Ok(Self { log: log.clone(), told: Arc::new(told), stop, couriers })
    }

    /// Ends them all: a delivery under way may finish within a moment, the rest stays on record for
    /// the next start. A disk that does not answer holds up only its thread. To be called before the
    /// log is closed.
    pub async fn stop(self) {
        self.stop.cancel();
        for courier in self.couriers {
            let _ = courier.await;
        }
    }

    /// A view of how they are doing that outlives this value.
    pub fn watcher(&self) -> Watcher {
        Watcher { log: self.log.clone(), told: self.told.clone() }
    }
}

/// How the sinks are doing. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Watcher {
    log: Log,
    told: Arc<Vec<Told>>,
}

impl Watcher {
    /// One status a sink, in the order of the settings.
    pub fn status(&self) -> Vec<Status> {
        let last = self.log.last();
        self.told
            .iter()
            .map(|told| {
                let state = told.state.lock().unwrap_or_else(PoisonError::into_inner);
                Status {
                    name: told.name.clone(),
                    kind: told.kind,
                    delivered: state.delivered,
                    failures: state.failures,
                    missed: state.missed,
                    behind: u64::try_from(last.saturating_sub(state.position)).unwrap_or(0),
                    trouble: state.trouble.clone(),
                }
            })
            .collect()
    }
}
