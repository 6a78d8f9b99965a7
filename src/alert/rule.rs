//! One rule: what it has met, and whether it calls.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Met, Refusal, What};
use super::{Settings, When};
use crate::audit::{Pattern, Subject};
use crate::oci::Digest;
use crate::policy::Code;

/// A window is counted in so many pieces.
const PIECES: i64 = 60;
/// So many subjects one rule calls about within an hour; then once about there being more.
const MOST: u32 = 30;
const HOUR: i64 = 3_600_000;
/// So many subjects are remembered as told.
const QUIET_MOST: usize = 1024;
/// So many registries are remembered as seen.
const SEEN_MOST: usize = 10_000;

/// What a rule keeps over restarts. Subjects are kept as hashes: their length is bounded, and a file
/// of names that strangers made up would be no use to anybody.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct State {
    /// Counts by piece of the window, oldest first.
    window: VecDeque<(i64, u64)>,
    /// When it called about a subject.
    told: BTreeMap<String, i64>,
    /// What it need never call about again.
    seen: BTreeSet<String>,
    /// When the present hour began, and how often it called in it.
    hour: (i64, u32),
}

/// What is to be told.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) text: String,
    pub(super) count: u64,
    pub(super) subject: Option<Subject>,
}

/// A subject that a rule might call about.
struct Candidate {
    key: String,
    once: bool,
    call: Call,
}

impl State {
    /// What the rule has to say to this event. A pure function of the state, the rule and the event: a
    /// restart that sees the same events says the same.
    pub(super) fn meet(&mut self, rule: &Settings, met: &Met) -> Vec<Call> {
        let candidates = self.candidates(rule, met);
        candidates.into_iter().filter_map(|candidate| self.call(rule, met, candidate)).collect()
    }

    fn candidates(&mut self, rule: &Settings, met: &Met) -> Vec<Candidate> {
        match (&rule.when, &met.what) {
            (When::Drift, What::Drift { reference, digest, previous }) => {
                let previous = previous.as_deref().unwrap_or("nothing");
                let text = match digest {
                    Some(digest) => {
                        format!("the locked tag {reference} moved upstream from {previous} to {digest}")
                    }
                    None => format!("the locked tag {reference}, {previous}, is gone upstream"),
                };
                let key = format!("{reference}@{}", digest.as_deref().unwrap_or_default());
                vec![about(key, text, reference, Some(Code::TagMoved), 1)]
            }
            (When::FirstRegistry, What::Refusal(refusal))
                if refusal.reason == Code::SourceUnknown.as_str() =>
            {
                let first = |registry: &String| {
                    let text = format!(
                        "{} asked for an image of {registry}, which no source of the policy covers; it was never asked for before",
                        refusal.who()
                    );
                    Candidate {
                        once: true,
                        ..about(registry.clone(), text, registry, Some(Code::SourceUnknown), 1)
                    }
                };
                refusal.registries.iter().map(first).collect()
            }
            (When::Recalled, What::Refusal(refusal)) if is_recalled(refusal) => {
                let asked = |reference: &String| {
                    let text = format!("{} asked for {reference}, which is recalled", refusal.who());
                    about(reference.clone(), text, reference, Some(Code::Recall), met.count)
                };
                refusal.references.iter().map(asked).collect()
            }
            (When::Refusals { reason, client, registry, more_than, within }, What::Refusal(refusal)) => {
                let fits = reason.is_none_or(|reason| refusal.reason == reason.as_str())
                    && client.as_deref().is_none_or(|client| is_of(refusal, client))
                    && registry.as_ref().is_none_or(|registry| refusal.registries.contains(registry));
                if !fits {
                    return Vec::new();
                }
                let count = self.count(met, *within);
                if count <= *more_than {
                    return Vec::new();
                }
                let latest = refusal.references.first().map_or("", String::as_str);
                let text = format!(
                    "{count} refusals within {}, more than {more_than}; the latest is {latest} for {} ({})",
                    spoken(*within),
                    refusal.who(),
                    refusal.reason
                );
                let call = Call { text, count, subject: None };
                vec![Candidate { key: String::new(), once: false, call }]
            }
            (When::Upstream, What::Upstream { registry, state, text }) if state != "healthy" => {
                let text = format!("the upstream of {registry} is {state}: {text}");
                vec![about(registry.clone(), text, registry, None, 1)]
            }
            _ => Vec::new(),
        }
    }

    /// Adds to the window; what it holds then.
    fn count(&mut self, met: &Met, within: Duration) -> u64 {
        let within = i64::try_from(within.as_millis()).unwrap_or(i64::MAX).max(1000);
        let piece = (within / PIECES).max(1000);
        let place = met.time.div_euclid(piece);
        match self.window.iter_mut().rfind(|(at, _)| *at == place) {
            Some((_, count)) => *count = count.saturating_add(met.count),
            None => {
                // Repeats are told up to a minute late.
                let after = self.window.iter().rposition(|(at, _)| *at < place).map_or(0, |found| found + 1);
                self.window.insert(after, (place, met.count));
            }
        }
        let newest = self.window.back().map_or(place, |(at, _)| *at);
        while self.window.front().is_some_and(|(at, _)| *at <= newest - within / piece) {
            self.window.pop_front();
        }
        self.window.iter().fold(0, |sum: u64, (_, count)| sum.saturating_add(*count))
    }

    fn call(&mut self, rule: &Settings, met: &Met, candidate: Candidate) -> Option<Call> {
        let key = short(&candidate.key);
        if candidate.once {
            if self.seen.contains(&key) || self.seen.len() >= SEEN_MOST {
                return None;
            }
        } else {
            let quiet = i64::try_from(rule.quiet.as_millis()).unwrap_or(i64::MAX);
            if self.told.get(&key).is_some_and(|told| met.time < told.saturating_add(quiet)) {
                return None;
            }
        }
        let (began, told) = self.hour;
        let (began, told) =
            if met.time.saturating_sub(began) >= HOUR { (met.time, 0) } else { (began, told) };
        self.hour = (began, told.saturating_add(1));
        match told {
            0..MOST => {}
            MOST => {
                let text = format!(
                    "more than {MOST} different subjects within an hour; the others of this hour are on record and not told"
                );
                return Some(Call { text, count: u64::from(MOST), subject: None });
            }
            _ => return None,
        }
        if candidate.once {
            self.seen.insert(key);
        } else {
            if self.told.len() >= QUIET_MOST {
                let oldest = self.told.iter().min_by_key(|(_, time)| **time).map(|(key, _)| key.clone());
                oldest.and_then(|key| self.told.remove(&key));
            }
            self.told.insert(key, met.time);
        }
        Some(candidate.call)
    }
}

fn about(key: String, text: String, reference: &str, reason: Option<Code>, count: u64) -> Candidate {
    let subject = Some(Subject { reference: reference.to_owned(), reason });
    Candidate { key, once: false, call: Call { text, count, subject } }
}

fn is_recalled(refusal: &Refusal) -> bool {
    let recall = Code::Recall.as_str();
    refusal.reason == recall || refusal.reasons.iter().any(|reason| reason == recall)
}

fn is_of(refusal: &Refusal, client: &str) -> bool {
    let pattern = Pattern::words(client);
    [&refusal.client, &refusal.address].into_iter().flatten().any(|name| pattern.matches(name))
}

fn short(subject: &str) -> String {
    Digest::sha256(subject.as_bytes()).hex().chars().take(24).collect()
}

/// `90m`, `10m`, `45s`.
fn spoken(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds % 3600, seconds % 60) {
        (0, _) => format!("{} h", seconds / 3600),
        (_, 0) => format!("{} min", seconds / 60),
        _ => format!("{seconds} s"),
    }
}
