//! Asking upstreams, and noticing when one refuses us.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{Sighting, tags};
use crate::clock::Clock;
use crate::oci::{Descriptor, Digest, Fault, Name, Registry, Tag};
use crate::upstream::{BlobStream, Fetched, Presence, Upstreams};

/// A refusal by an upstream is noticed once for each repository within this time.
const WINDOW: Duration = Duration::from_secs(3600);
/// So many repositories of one registry are named within it; one more sighting stands for the rest.
/// Registries answer 401 for names that do not exist, and anybody may make those up.
const NAMED: usize = 16;

/// The upstreams, as the puller asks them.
#[derive(Debug)]
pub(super) struct Asked {
    upstreams: Arc<Upstreams>,
    denials: Mutex<Denials>,
    sightings: mpsc::Sender<Sighting>,
    clock: Clock,
}

impl Asked {
    pub(super) fn new(upstreams: Arc<Upstreams>, sightings: mpsc::Sender<Sighting>, clock: Clock) -> Self {
        Self { upstreams, denials: Mutex::default(), sightings, clock }
    }

    pub(super) async fn resolve(&self, name: &Name, tag: &Tag) -> Result<Digest, Fault> {
        self.noticed(name, self.upstreams.resolve(name, tag).await)
    }

    pub(super) async fn manifest(&self, name: &Name, digest: &Digest) -> Result<Fetched, Fault> {
        self.noticed(name, self.upstreams.manifest(name, digest).await)
    }

    pub(super) async fn has_manifest(&self, name: &Name, digest: &Digest) -> Result<bool, Fault> {
        self.noticed(name, self.upstreams.has_manifest(name, digest).await)
    }

    pub(super) async fn has_blob(&self, name: &Name, digest: &Digest) -> Result<Presence, Fault> {
        self.noticed(name, self.upstreams.has_blob(name, digest).await)
    }

    pub(super) async fn blob(&self, name: &Name, digest: &Digest, offset: u64) -> Result<BlobStream, Fault> {
        self.noticed(name, self.upstreams.blob(name, digest, offset).await)
    }

    pub(super) async fn tags(&self, name: &Name) -> Result<Vec<Tag>, Fault> {
        self.noticed(name, self.upstreams.tags(name).await)
    }

    pub(super) async fn referrers(&self, name: &Name, digest: &Digest) -> Result<Vec<Descriptor>, Fault> {
        self.noticed(name, self.upstreams.referrers(name, digest).await)
    }

    fn noticed<T>(&self, name: &Name, outcome: Result<T, Fault>) -> Result<T, Fault> {
        if let Err(fault @ Fault::Denied(_)) = &outcome {
            let now = self.clock.now();
            let notice = self.denials.lock().unwrap_or_else(PoisonError::into_inner).notice(name, now);
            let sighting = notice.map(|notice| Sighting::Denied {
                registry: name.registry().clone(),
                name: (notice == Notice::Named).then(|| name.clone()),
                fault: fault.clone(),
            });
            if let Some(sighting) = sighting
                && self.sightings.try_send(sighting).is_err()
            {
                tracing::warn!(%name, %fault, "an upstream refused us, and that cannot be recorded now");
            }
        }
        outcome
    }
}

/// What is to be said of one refusal by an upstream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Notice {
    Named,
    Others,
}

/// Which refusals were noticed lately. Registries are those of the policy: few.
#[derive(Debug, Default)]
struct Denials(HashMap<Registry, Window>);

#[derive(Debug)]
struct Window {
    opened: Timestamp,
    names: HashSet<Name>,
    others: bool,
}

impl Denials {
    /// Whether this one is to be put on record; `None` when it is, or is counted among the others.
    fn notice(&mut self, name: &Name, now: Timestamp) -> Option<Notice> {
        let fresh = || Window { opened: now, names: HashSet::new(), others: false };
        let window = self.0.entry(name.registry().clone()).or_insert_with(fresh);
        if tags::past(now, window.opened) >= WINDOW {
            *window = fresh();
        }
        if window.names.contains(name) || window.others {
            return None;
        }
        if window.names.len() < NAMED {
            window.names.insert(name.clone());
            return Some(Notice::Named);
        }
        window.others = true;
        Some(Notice::Others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Name {
        format!("docker.io/acme/app-{number}").parse().expect("a name")
    }

    #[test]
    fn refusals_by_an_upstream_are_noticed_once_each_and_made_up_names_share_one() {
        let (mut denials, start) = (Denials::default(), Timestamp::UNIX_EPOCH);
        assert_eq!(denials.notice(&name(0), start), Some(Notice::Named));
        assert_eq!(denials.notice(&name(0), start), None);
        let noticed = (1..1000).filter_map(|number| denials.notice(&name(number), start));
        assert_eq!(noticed.filter(|notice| *notice == Notice::Others).count(), 1);
        assert_eq!(denials.notice(&"ghcr.io/acme/app".parse().expect("a name"), start), Some(Notice::Named));
        let later = start + WINDOW;
        assert_eq!(denials.notice(&name(0), later), Some(Notice::Named));
        assert_eq!(denials.0.values().map(|window| window.names.len()).max(), Some(1));
    }
}
