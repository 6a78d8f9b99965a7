//! Rules over the record that call somebody: each that is met becomes an event itself, which the sinks
//! carry like any other.
//!
//! The rules read the record from disk and keep their counts in a small file, so that a restart
//! neither repeats an alert nor loses one. Time is that of the events. What clients make up cannot fill
//! the memory: counts are kept, not names, and each rule calls a bounded number of times an hour.

mod engine;
mod event;
mod rule;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::audit::{self, Log};
use crate::policy::Code;
use crate::telemetry::Metrics;

use engine::Engine;

/// The file of the counts within the data folder.
pub const FILE: &str = "alerts.json";

/// One `[[alert]]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name.
    pub name: String,
    /// What it looks out for.
    pub when: When,
    /// So long it does not call again about the same subject.
    pub quiet: Duration,
}

/// What a rule looks out for.
#[derive(Clone, Debug)]
pub enum When {
    /// A locked tag leads elsewhere upstream.
    Drift,
    /// A registry that no source of the policy covers is asked for, for the first time.
    FirstRegistry,
    /// A recalled image was asked for.
    Recalled,
    /// More refusals than this many within this time.
    Refusals {
        /// Only those for this reason.
        reason: Option<Code>,
        /// Only those of this client, by name or address; `*` stands for any run of characters.
        client: Option<String>,
        /// Only those of images of this registry.
        registry: Option<String>,
        /// Met when there are more.
        more_than: u64,
        /// Within this time; at least a second.
        within: Duration,
    },
    /// An upstream does not answer as it should.
    Upstream,
}

impl When {
    /// The closed word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Drift => "drift",
            Self::FirstRegistry => "first_registry",
            Self::Recalled => "recalled",
            Self::Refusals { .. } => "refusals",
            Self::Upstream => "upstream",
        }
    }
}

/// Why alerts cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of the counts cannot be used.
    #[error("alerts: {FILE} in the data folder cannot be used: {0}; check that this user may write there")]
    File(std::io::Error),
    /// The record cannot be read.
    #[error("alerts cannot start: {0}")]
    Log(#[from] audit::Error),
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    when: &'static str,
}

type Counts = Family<Labels, Counter>;
type Trouble = Arc<Mutex<Option<String>>>;

/// The rules at work.
#[derive(Debug)]
pub struct Alerts {
    counts: Counts,
    trouble: Trouble,
    stop: CancellationToken,
    task: Option<JoinHandle<()>>,
}

impl Alerts {
    /// Starts a task for all rules; none for no rule. `folder` is the data folder. Without a file of
    /// counts there it begins with what is recorded from now on.
    ///
    /// # Errors
    /// The file of the counts cannot be read or written, or the record cannot be read.
    pub async fn start(settings: Vec<Settings>, folder: &Path, log: &Log) -> Result<Self, Error> {
        let (counts, trouble, stop) = (Counts::default(), Trouble::default(), CancellationToken::new());
        for settings in &settings {
            // A rule that was never met is there with a zero.
            drop(counts.get_or_create(&Labels { when: settings.when.as_str() }));
        }
        let task = if settings.is_empty() {
            None
        } else {
            let path = folder.join(FILE);
            let engine = Engine::open(settings, path, log.clone(), counts.clone(), trouble.clone()).await?;
            Some(tokio::spawn(engine.run(stop.clone())))
        };
        Ok(Self { counts, trouble, stop, task })
    }

    /// Adds `pullgate_alerts_total{when}`.
    pub fn register(&self, metrics: &mut Metrics) {
        metrics.registry().register("alerts", "Alerts by what was looked out for", self.counts.clone());
    }

    /// A look at what is wrong that outlives this value; it gives `None` while all is well.
    pub fn watcher(&self) -> impl Fn() -> Option<String> + Send + Sync + 'static {
        let trouble = self.trouble.clone();
        move || trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the task. What it has not seen yet it sees after the next start. To be called before the log
    /// is closed.
    pub async fn stop(self) {
        self.stop.cancel();
        if let Some(task) = self.task {
            let _ = task.await;
        }
    }
}
