//! How an endpoint has been doing, and whether it may be asked now.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::HeaderMap;

use crate::clock::Clock;
use crate::oci::{Fault, Registry};

/// So many connections must fail in a row before the endpoint is left alone.
const TRIP_AFTER: u32 = 3;
/// For so long; then the next request tries again.
const REST: Duration = Duration::from_secs(5);
/// A 429 that names no time stops that kind of request for so long.
const HOLD: Duration = Duration::from_secs(5);
/// The longest that a 429 is obeyed before the endpoint is asked again, whatever it named.
const HOLD_MAX: Duration = Duration::from_secs(300);

/// How one endpoint of a registry has been doing since the start.
#[derive(Clone, Debug)]
pub struct Health {
    /// Of which registry.
    pub registry: Registry,
    /// The endpoint's host and port, or the layout's folder.
    pub endpoint: String,
    /// Whether it stands in the settings, rather than being where the registry is known to be.
    pub declared: bool,
    /// When it last answered what was asked, "not found" included.
    pub last_success: Option<Timestamp>,
    /// When and how it last failed.
    pub last_failure: Option<(Timestamp, Fault)>,
    /// Until when some kind of request is held back, because the upstream said 429.
    pub throttled_until: Option<Timestamp>,
    /// Until when nothing is asked, because connecting failed again and again.
    pub resting_until: Option<Timestamp>,
    /// What it last said about its limit (Docker Hub's `ratelimit-*`).
    pub rate_limit: Option<RateLimit>,
    /// Requests sent to it: retries, redirect targets and token requests included.
    pub requests: u64,
    /// Questions that it refused to answer (401, 403, credentials that cannot be had).
    pub denied: u64,
}

impl Health {
    /// What it fails with, until it answers again.
    pub fn failure(&self) -> Option<&Fault> {
        let (at, fault) = self.last_failure.as_ref()?;
        self.last_success.is_none_or(|success| success < *at).then_some(fault)
    }
}

/// Docker Hub's `ratelimit-limit` and `ratelimit-remaining`: manifests in a window.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct RateLimit {
    /// Manifest GETs that the window allows.
    pub limit: Option<u64>,
    /// How many of them are left.
    pub remaining: Option<u64>,
}

/// Kinds of request that registries limit apart: Docker Hub counts GETs of manifests only.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Class {
    Blob,
    Head,
    List,
    Manifest,
    Token,
}

#[derive(Default)]
struct State {
    last_success: Option<Timestamp>,
    last_failure: Option<(Timestamp, Fault)>,
    holds: [Option<Timestamp>; 5],
    failed_connections: u32,
    connection_error: String,
    resting_until: Option<Timestamp>,
    rate_limit: Option<RateLimit>,
    requests: u64,
    denied: u64,
}

/// The record behind [`Health`].
pub(super) struct Record {
    clock: Clock,
    state: Mutex<State>,
}

impl Record {
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request of this kind may be sent now.
    pub(super) fn admit(&self, class: Class, host: &str) -> Result<(), Fault> {
        let now = self.clock.now();
        let state = self.state();
        if let Some(until) = state.resting_until.filter(|until| now < *until) {
            return Err(Fault::Unreachable(
                format!("{host}: {}; it is tried again after {until:.0}", state.connection_error).into(),
            ));
        }
        if let Some(until) = state.holds[class as usize].filter(|until| now < *until) {
            let detail = format!("{host} asked us to wait until {until:.0}").into();
            return Err(Fault::Throttled { until: Some(until), detail });
        }
        Ok(())
    }

    pub(super) fn count_request(&self) {
        self.state().requests += 1;
    }

    pub(super) fn connected(&self) {
        let mut state = self.state();
        state.failed_connections = 0;
        state.resting_until = None;
    }

    pub(super) fn connection_failed(&self, error: &str) {
        let mut state = self.state();
        error.clone_into(&mut state.connection_error);
        state.failed_connections = state.failed_connections.saturating_add(1);
        if state.failed_connections >= TRIP_AFTER {
            state.resting_until = Some(self.clock.now() + REST);
        }
    }

    pub(super) fn throttled(&self, class: Class, until: Option<Timestamp>) {
        let now = self.clock.now();
        let until = until.unwrap_or(now + HOLD).min(now + HOLD_MAX);
        self.state().holds[class as usize] = Some(until);
    }

    pub(super) fn limits(&self, headers: &HeaderMap) {
        // `100;w=21600`: the number, then the window.
        let number = |name: &str| headers.get(name)?.to_str().ok()?.split(';').next()?.trim().parse().ok();
        let seen = RateLimit { limit: number("ratelimit-limit"), remaining: number("ratelimit-remaining") };
        if seen.limit.is_some() || seen.remaining.is_some() {
            self.state().rate_limit = Some(seen);
        }
    }

    /// "Not found" is an answer; everything else that failed is a failure.
    pub(super) fn outcome<T>(&self, outcome: &Result<T, Fault>) {
        let now = self.clock.now();
        let mut state = self.state();
        match outcome {
            Ok(_) | Err(Fault::Absent(_)) => state.last_success = Some(now),
            Err(fault) => {
                state.denied += u64::from(matches!(fault, Fault::Denied(_)));
                state.last_failure = Some((now, fault.clone()));
            }
        }
    }

    pub(super) fn report(&self, registry: &Registry, endpoint: String, declared: bool) -> Health {
        let now = self.clock.now();
        let state = self.state();
        Health {
            registry: registry.clone(),
            endpoint,
            declared,
            last_success: state.last_success,
            last_failure: state.last_failure.clone(),
            throttled_until: state.holds.iter().flatten().copied().filter(|until| now < *until).max(),
            resting_until: state.resting_until.filter(|until| now < *until),
            rate_limit: state.rate_limit,
            requests: state.requests,
            denied: state.denied,
        }
    }
}

/// The time a `Retry-After` names: seconds or an HTTP date.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Timestamp> {
    let text = headers.get(reqwest::header::RETRY_AFTER)?.to_str().ok()?.trim();
    match text.parse::<u32>() {
        Ok(seconds) => now.checked_add(Duration::from_secs(seconds.into())).ok(),
        Err(_) => jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_after_is_seconds_or_a_date() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", text.parse().unwrap());
            retry_after(&headers, Timestamp::UNIX_EPOCH).map(Timestamp::as_second)
        };
        assert_eq!(read("120"), Some(120));
        assert_eq!(read("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        for text in ["", "-1", "soon", "99999999999999999999"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_hold_stops_only_its_own_kind_of_request_and_ends() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let record = Record::new(clock.clone());
        record.throttled(Class::Manifest, Some(Timestamp::from_second(60).unwrap()));
        assert!(matches!(record.admit(Class::Manifest, "x"), Err(Fault::Throttled { until: Some(_), .. })));
        assert!(record.admit(Class::Head, "x").is_ok());
        clock.advance(Duration::from_secs(60));
        assert!(record.admit(Class::Manifest, "x").is_ok());
    }

    #[test]
    fn an_endless_hold_is_obeyed_for_minutes_only() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let record = Record::new(clock.clone());
        record.throttled(Class::Head, Some(Timestamp::MAX));
        clock.advance(HOLD_MAX);
        assert!(record.admit(Class::Head, "x").is_ok());
    }

    #[test]
    fn after_three_failed_connections_an_endpoint_rests_until_one_succeeds() {
        let clock = Clock::manual(Timestamp::UNIX_EPOCH);
        let record = Record::new(clock.clone());
        for _ in 0..TRIP_AFTER {
            assert!(record.admit(Class::Blob, "x").is_ok());
            record.connection_failed("refused");
        }
        assert!(matches!(record.admit(Class::Blob, "x"), Err(Fault::Unreachable(_))));
        clock.advance(REST);
        assert!(record.admit(Class::Blob, "x").is_ok());
        record.connection_failed("refused");
        assert!(record.admit(Class::Blob, "x").is_err(), "one more failure and it rests again");
        clock.advance(REST);
        record.connected();
        record.connection_failed("refused");
        assert!(record.admit(Class::Blob, "x").is_ok());
    }
}
