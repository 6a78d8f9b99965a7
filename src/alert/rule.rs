//! One rule: what it has met, and whether it calls.

use std::collections::{BTreeMap, VecDeque};
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
/// So many registries are remembered as seen, those asked for last.
const SEEN_MOST: usize = 10_000;
/// Events come so much out of their order: repeats are told up to a minute late. What is kept from
/// further ahead than this is of a clock that was set back since.
const ORDER: i64 = 300_000;

/// What a rule keeps over restarts. Subjects are kept as hashes: their length is bounded, and a file
/// of names that strangers made up would be no use to anybody.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
pub(super) struct State {
    /// Counts by piece of the window, oldest first.
    window: VecDeque<(i64, u64)>,
    /// When it called about a subject.
    told: BTreeMap<String, i64>,
    /// What it need not call about again, that met last at the end.
    seen: VecDeque<String>,
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
        let latest = met.time.saturating_add(ORDER).div_euclid(piece);
        let ahead: u64 = self.window.iter().filter(|(at, _)| *at > latest).map(|(_, count)| *count).sum();
        self.window.retain(|(at, _)| *at <= latest);
        let counted = met.count.saturating_add(ahead);
        match self.window.iter_mut().rfind(|(at, _)| *at == place) {
            Some((_, count)) => *count = count.saturating_add(counted),
            None => {
                // Repeats are told up to a minute late.
                let after = self.window.iter().rposition(|(at, _)| *at < place).map_or(0, |found| found + 1);
                self.window.insert(after, (place, counted));
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
        let latest = met.time.saturating_add(ORDER);
        if candidate.once {
            if let Some(known) = self.seen.iter().position(|seen| *seen == key) {
                self.seen.remove(known);
                self.seen.push_back(key);
                return None;
            }
        } else if let Some(told) = self.told.get_mut(&key) {
            if *told > latest {
                *told = met.time;
            }
            let quiet = i64::try_from(rule.quiet.as_millis()).unwrap_or(i64::MAX);
            if met.time < told.saturating_add(quiet) {
                return None;
            }
        }
        let (began, told) = self.hour;
        let began = if began > latest { met.time } else { began };
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
            if self.seen.len() >= SEEN_MOST {
                self.seen.pop_front();
            }
            self.seen.push_back(key);
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

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * HOUR;
    const MINUTE: i64 = 60_000;

    fn rule(when: When) -> Settings {
        Settings { name: "rule".to_owned(), when, quiet: Duration::from_secs(3600) }
    }

    fn refusal(time: i64, registry: &str, reason: Code) -> Met {
        let what = What::Refusal(Refusal {
            reason: reason.as_str().to_owned(),
            references: vec![format!("{registry}/a/b:1")],
            registries: vec![registry.to_owned()],
            ..Refusal::default()
        });
        Met { id: String::new(), time, what, count: 1 }
    }

    #[test]
    fn after_ten_thousand_registries_a_new_one_calls_and_those_asked_for_again_do_not() {
        let (rule, mut state) = (rule(When::FirstRegistry), State::default());
        let mut ask = |number: usize, of: &str| {
            let time = DAY + i64::try_from(number).unwrap() * HOUR;
            state.meet(&rule, &refusal(time, of, Code::SourceUnknown)).len()
        };
        for number in 0..SEEN_MOST {
            assert_eq!(ask(number, &format!("r{number}.example")), 1, "{number}");
        }
        assert_eq!(ask(SEEN_MOST, "r0.example"), 0, "known, and met last from now on");
        assert_eq!(ask(SEEN_MOST + 1, "new.example"), 1);
        assert_eq!(ask(SEEN_MOST + 2, "r0.example"), 0);
        assert_eq!(ask(SEEN_MOST + 3, "r1.example"), 1, "the oldest made room");
        let kept = serde_json::to_value(&state).unwrap();
        assert_eq!(kept["seen"].as_array().unwrap().len(), SEEN_MOST);
    }

    #[test]
    fn a_clock_that_ran_ahead_mutes_a_rule_for_no_longer_than_its_own_times() {
        let recalled = rule(When::Recalled);
        let mut state = State::default();
        let mut ask = |time: i64, of: &str| state.meet(&recalled, &refusal(time, of, Code::Recall)).len();
        let now = 1000 * DAY;
        assert_eq!(ask(now + 30 * DAY, "a.example"), 1);
        // More than the hour has room for, while the clock is ahead.
        let told: usize = (0..40).map(|number| ask(now + 30 * DAY, &format!("r{number}.example"))).sum();
        assert_eq!(told, 30);
        assert_eq!(ask(now, "a.example") + ask(now, "b.example"), 0, "quiet, and the hour is used up");
        assert_eq!(ask(now + HOUR, "a.example"), 1);
        assert_eq!(ask(now + HOUR, "b.example"), 1);
    }

    #[test]
    fn a_clock_that_ran_ahead_empties_no_window_for_what_comes_after_it() {
        let within = Duration::from_secs(600);
        let many = rule(When::Refusals { reason: None, client: None, registry: None, more_than: 3, within });
        let mut state = State::default();
        let mut ask = |time: i64| state.meet(&many, &refusal(time, "a.example", Code::TagDenied));
        let now = 1000 * DAY;
        assert!(ask(now + 30 * DAY).is_empty());
        let called: Vec<Call> = (0..3).flat_map(|minute| ask(now + minute * MINUTE)).collect();
        assert_eq!(called.iter().map(|call| call.count).collect::<Vec<_>>(), [4], "of them one while ahead");
        // Out of its order by a minute, as a repeat is, and no clock that was set back.
        assert!(ask(now + 90 * MINUTE).is_empty() && ask(now + 89 * MINUTE).is_empty());
        assert_eq!(state.window.len(), 2);
    }
}
