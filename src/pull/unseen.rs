//! Recalled manifests that nobody pulled here yet: what they list is recalled with them, and only an
//! upstream can tell.

use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;

use super::Puller;
use crate::oci::{Digest, Fault, Name};
use crate::policy::Unseen;

/// How many manifests one request asks for, of a registry of usual speed within its 25 s; answers are kept as
/// they come, and the next request goes on with the rest.
const ASKED_MAX: usize = 2048;
/// How many at once.
const AT_ONCE: usize = 16;
/// How long an answer stands.
const STANDS: Duration = Duration::from_secs(24 * 3600);
/// How long content that the repository came by before goes without an answer, once there was none.
const AGAIN: Duration = Duration::from_secs(60);
/// How long such content waits for one.
const PATIENCE: Duration = Duration::from_secs(3);

/// What came of asking a repository's upstream for a manifest.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    until: Timestamp,
    /// Why there is none.
    fault: Option<Fault>,
}

impl Puller {
    /// Asks the repository's upstream, once each, for recalled manifests that no repository came by here.
    /// The second answer is whether something was learnt about any.
    ///
    /// Content that the repository came by before is held up by no upstream: without an answer it stands
    /// as it is known. What it did not come by must come from that upstream anyway, and waits for all
    /// answers; it is asked for first, so that names that were made up make nobody ask for more.
    pub(super) async fn unseen(
        &self,
        name: &Name,
        digest: &Digest,
        recalled: &[Digest],
    ) -> Result<(Unseen, bool), Fault> {
        let inner = &self.0;
        let now = inner.clock.now();
        let standing = |wanted: &Digest| inner.unseen.get(&(name.clone(), *wanted));
        let stands = |answer: &Answer| now < answer.until;
        let open: Vec<Digest> = recalled
            .iter()
            .filter(|wanted| {
                !standing(wanted).is_some_and(|answer| answer.fault.is_none() && stands(&answer))
            })
            .copied()
            .collect();
        let mut open = inner.catalog.lacking(&open).await?;
        if open.is_empty() {
            let until = recalled.iter().filter_map(standing).map(|answer| answer.until).min();
            return Ok((Unseen { until, unanswered: None }, false));
        }
        let possessed = inner.catalog.possesses(name, digest).await?;
        let again = now.checked_add(AGAIN).unwrap_or(now);
        if possessed {
            open.retain(|wanted| !standing(wanted).is_some_and(|answer| stands(&answer)));
        } else if !inner.upstreams.has_manifest(name, digest).await? {
            return Err(Fault::Absent(format!("{name}@{digest}").into()));
        }
        let left = open.len().saturating_sub(ASKED_MAX);
        open.truncate(ASKED_MAX);
        let asking = futures_util::stream::iter(open.clone())
            .map(|wanted| self.ask_unseen(name, wanted))
            .buffer_unordered(AT_ONCE)
            .collect::<Vec<_>>();
        let outcomes = if possessed {
            // Fetches that take longer go on without whoever waits.
            let outcomes = tokio::time::timeout(PATIENCE, asking).await;
            if outcomes.is_err() {
                // Those who come within the next minute do not wait again.
                for wanted in
                    open.into_iter().filter(|wanted| !standing(wanted).is_some_and(|it| stands(&it)))
                {
                    let fault = Some(Fault::Unreachable("it took too long".into()));
                    inner.unseen.insert((name.clone(), wanted), Answer { until: again, fault });
                }
            }
            outcomes.unwrap_or_default()
        } else {
            asking.await
        };
        let learnt = possessed || outcomes.iter().any(|outcome| matches!(outcome, Ok(true)));
        if possessed {
            return Ok((Unseen { until: Some(again), unanswered: None }, learnt));
        }
        let unanswered = outcomes.into_iter().find_map(Result::err).or_else(|| {
            let text = format!("{left} more recalled manifests have to be asked for");
            (left > 0).then(|| Fault::Unreachable(text.into()))
        });
        Ok((Unseen { until: Some(again), unanswered }, learnt))
    }

    /// Whether the upstream has a manifest; then it is kept, with what it lists.
    async fn ask_unseen(&self, name: &Name, wanted: Digest) -> Result<bool, Fault> {
        let inner = &self.0;
        let outcome = match self.judged(name, &wanted).await {
            Ok(_) => Ok(true),
            // What is no manifest lists nothing.
            Err(Fault::Absent(_) | Fault::Invalid(_)) => Ok(false),
            Err(fault) => Err(fault),
        };
        let now = inner.clock.now();
        let fault = outcome.as_ref().err().cloned();
        let stands = if fault.is_some() { AGAIN } else { STANDS };
        let until = now.checked_add(stands).unwrap_or(now);
        inner.unseen.insert((name.clone(), wanted), Answer { until, fault });
        outcome
    }
}
