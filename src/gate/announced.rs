//! Exceptions and recalls on record: that they came, changed, were used, ran out and went.
//!
//! What the record was told is noted in the catalog afterwards: a crash in between tells it twice rather
//! than never.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::Gate;
use crate::audit::{self, Event, ExceptionResult, Judgement, PolicyStamp, RecallResult};
use crate::catalog::Announced;
use crate::oci::{Ask, Digest, What};
use crate::policy::{Exception, Policy, Recall, Trace};

const EXCEPTION: &str = "exception";
const RECALL: &str = "recall";
/// The check that names an exception in a trace, and how it says that it was needed.
const NEEDED: &str = "needed";
/// How long what could not be recorded waits.
const AGAIN: Duration = Duration::from_secs(60);

/// A use of an exception: which, of what, whether it was needed, on which day.
pub(super) type Use = (Arc<str>, Option<Digest>, bool, Date);

/// What an exception says, as it is kept to tell its end.
#[derive(Debug, Default, Deserialize, Serialize)]
struct ExceptionWords {
    image: String,
    waive: Vec<String>,
    expires: String,
    reason: String,
    ticket: String,
    people: [String; 2],
    approved: String,
}

/// What a recall says.
#[derive(Debug, Default, Deserialize, Serialize)]
struct RecallWords {
    reason: String,
    names: Vec<String>,
    replace: Option<String>,
}

/// What differs between what was told and what holds.
#[derive(Debug, Default)]
struct News {
    events: Vec<Event>,
    stand: Vec<Announced>,
    gone: Vec<Announced>,
}

impl Gate {
    /// Puts on record which policy is in force, what it replaced, and which exceptions and recalls came,
    /// changed and went since the record was last told.
    pub async fn record_policy(
        &self,
        previous: Option<&PolicyStamp>,
        changes: Vec<String>,
    ) -> Result<(), audit::Error> {
        let _one_at_a_time = self.0.announcing.lock().await;
        let rules = self.rules();
        let policy = PolicyStamp::clone(rules.stamp());
        let mut events = vec![Event::PolicyAdopted { previous: previous.cloned(), policy, changes }];
        let news = match self.0.catalog.announced().await {
            Ok(told) => news(rules.policy(), told),
            Err(error) => {
                tracing::error!(%error, "exceptions and recalls are put on record at the next change of policy");
                News::default()
            }
        };
        events.extend(news.events);
        self.0.log.record_all(events).await?;
        if let Err(error) = self.0.catalog.announce(&news.stand, &news.gone).await {
            tracing::error!(%error, "exceptions and recalls of this policy may be put on record again");
        }
        Ok(())
    }

    /// Puts on record, once each, that exceptions of the policy in force ran out; looks for them so often,
    /// until the end is called.
    pub async fn record_expiries(self, every: Duration, end: CancellationToken) {
        let mut interval = tokio::time::interval(every);
        let mut told = (self.rules().generation(), HashSet::new());
        while end.run_until_cancelled(interval.tick()).await.is_some() {
            let generation = self.rules().generation();
            if told.0 != generation {
                told = (generation, HashSet::new());
            }
            if let Err(error) = self.record_expired(&mut told.1).await {
                tracing::error!(%error, "that an exception ran out could not be recorded; it is tried again");
                end.run_until_cancelled(tokio::time::sleep(AGAIN)).await;
            }
        }
    }

    async fn record_expired(&self, told: &mut HashSet<Arc<str>>) -> Result<(), audit::Error> {
        let (rules, now) = (self.rules(), self.0.clock.now());
        let over = |exception: &&Exception| exception.ends().is_some_and(|ends| ends <= now);
        let over = rules.policy().exceptions().iter().filter(over);
        let new: Vec<&Exception> = over.filter(|exception| !told.contains(&exception.id)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.0.announcing.lock().await;
        let announced = match self.0.catalog.announced().await {
            Ok(announced) => announced,
            Err(error) => {
                tracing::error!(%error, "whether an exception's end is on record cannot be read");
                return Ok(());
            }
        };
        for exception in new {
            let row = announced.iter().find(|row| row.kind == EXCEPTION && *row.id == *exception.id);
            // One that came just now is announced first.
            let Some(row) = row.filter(|row| row.content == content(&exception_words(exception))) else {
                continue;
            };
            if !row.ended {
                tracing::warn!(exception = %exception.id, image = %exception.image, "an exception ran out");
                let event = exception_event(exception, ExceptionResult::Expired, None, None);
                self.0.log.record(event).await?;
                let ended = Announced { ended: true, ..row.clone() };
                if let Err(error) = self.0.catalog.announce(&[ended], &[]).await {
                    tracing::error!(%error, "an exception's end may be put on record again");
                }
            }
            told.insert(exception.id.clone());
        }
        Ok(())
    }

    /// Puts on record the first use on each day of the exceptions that a decision met: of an image, not of
    /// each of its parts.
    pub(super) async fn record_uses(&self, ask: &Ask, judgement: &Judgement, policy: &Policy, of: Ulid) {
        if !meets_exceptions(&judgement.trace) {
            return;
        }
        let roots = &judgement.image.roots;
        let image = match &ask.what {
            What::Digest(digest) => roots.last().copied().or(Some(*digest)),
            What::Tag(_) => judgement.image.digest.or(roots.last().copied()),
            What::Blob(_) | What::Referrers(_) | What::Tags => return,
        };
        let today = day(self.0.clock.now());
        for (id, needed) in uses(&judgement.trace) {
            let key = (id.clone(), image, needed, today);
            // What a tag needed it for is pulled by digest next, and needs it no more.
            let told = self.0.uses.contains_key(&(id.clone(), image, true, today));
            let exception = policy.exceptions().iter().find(|exception| exception.id == *id);
            let (Some(exception), false) = (exception, told || self.0.uses.contains_key(&key)) else {
                continue;
            };
            self.0.uses.insert(key.clone(), ());
            let event = exception_event(exception, ExceptionResult::Used, Some(needed), Some(of));
            if let Err(error) = self.0.log.record(event).await {
                tracing::error!(%error, exception = %id, "the use of an exception could not be recorded");
                self.0.uses.invalidate(&key);
            }
        }
    }
}

/// Whether exceptions have to do with a decision.
pub(super) fn meets_exceptions(trace: &Trace) -> bool {
    uses(trace).next().is_some()
}

/// The exceptions that a decision met, and whether each was needed.
fn uses(trace: &Trace) -> impl Iterator<Item = (&Arc<str>, bool)> {
    let met = trace.checks.iter().filter(|check| check.id == EXCEPTION);
    met.filter_map(|check| Some((check.exception.as_ref()?, check.observed == NEEDED)))
}

/// The next midnight: from then on a use is the first of its day.
pub(super) fn tomorrow(now: Timestamp) -> Option<Timestamp> {
    let day = day(now).checked_add(1.day()).ok()?;
    day.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

fn day(now: Timestamp) -> Date {
    now.to_zoned(TimeZone::UTC).date()
}

fn news(policy: &Policy, told: Vec<Announced>) -> News {
    let mut told: BTreeMap<(String, String), Announced> =
        told.into_iter().map(|row| ((row.kind.clone(), row.id.clone()), row)).collect();
    let mut news = News::default();
    let mut differ = |kind: &str, id: &str, content: String| {
        let row = told.remove(&(kind.to_owned(), id.to_owned()));
        let known = row.as_ref().map(|row| row.content == content);
        if known != Some(true) {
            let (kind, id) = (kind.to_owned(), id.to_owned());
            news.stand.push(Announced { kind, id, content, ended: false });
        }
        known
    };
    for exception in policy.exceptions() {
        if differ(EXCEPTION, &exception.id, content(&exception_words(exception))) != Some(true) {
            news.events.push(exception_event(exception, ExceptionResult::Created, None, None));
        }
    }
    for recall in policy.recalls() {
        let words = recall_words(recall);
        let result = match differ(RECALL, &recall.id, content(&words)) {
            None => RecallResult::Created,
            Some(false) => RecallResult::Changed,
            Some(true) => continue,
        };
        news.events.push(words.event(&recall.id, result));
    }
    for row in told.into_values() {
        let event = match row.kind.as_str() {
            EXCEPTION => {
                let words: ExceptionWords = serde_json::from_str(&row.content).unwrap_or_default();
                words.event(&row.id, ExceptionResult::Removed, None, None)
            }
            _ => {
                let words: RecallWords = serde_json::from_str(&row.content).unwrap_or_default();
                words.event(&row.id, RecallResult::Removed)
            }
        };
        news.events.push(event);
        news.gone.push(row);
    }
    news
}

fn content(words: &impl Serialize) -> String {
    // Texts and lists of texts: nothing of that fails.
    serde_json::to_string(words).unwrap_or_default()
}

fn exception_event(
    exception: &Exception,
    result: ExceptionResult,
    needed: Option<bool>,
    of: Option<Ulid>,
) -> Event {
    exception_words(exception).event(&exception.id, result, needed, of)
}

fn exception_words(exception: &Exception) -> ExceptionWords {
    ExceptionWords {
        image: exception.image.to_string(),
        waive: exception.waive.iter().map(|check| check.as_str().to_owned()).collect(),
        expires: exception.expires.to_string(),
        reason: exception.reason.to_string(),
        ticket: exception.ticket.to_string(),
        people: [exception.requested_by.to_string(), exception.approved_by.to_string()],
        approved: exception.approved.to_string(),
    }
}

fn recall_words(recall: &Recall) -> RecallWords {
    let digests = [&recall.digests, &recall.layers, &recall.diff_ids];
    let mut names: Vec<String> = digests.into_iter().flatten().map(Digest::to_string).collect();
    names.extend(recall.images.iter().map(|(name, tag)| match tag {
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_string(),
    }));
    RecallWords {
        reason: recall.reason.to_string(),
        names,
        replace: recall.replace.as_ref().map(ToString::to_string),
    }
}

impl ExceptionWords {
    fn event(self, id: &str, result: ExceptionResult, needed: Option<bool>, of: Option<Ulid>) -> Event {
        let Self { image, waive, expires, .. } = self;
        Event::Exception {
            exception: id.to_owned(),
            result,
            image,
            waive,
            expires: Some(expires),
            needed,
            of,
        }
    }
}

impl RecallWords {
    fn event(self, id: &str, result: RecallResult) -> Event {
        let Self { reason, names, replace } = self;
        Event::Recall { recall: id.to_owned(), result, reason, names, replace }
    }
}
