//! How often each client may ask: one that runs wild must not stop the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use crate::audit::Who;
use crate::identity::{Caller, Class};

/// So many clients are counted apart; the memory of this is bounded, whoever asks.
const CLIENTS: usize = 65_536;
const SHARDS: usize = 16;

/// So many requests in a period.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// How many; at least one.
    pub count: u32,
    /// In which period; longer than nothing.
    pub per: Duration,
}

impl Rate {
    /// How long one request takes of it, in microseconds; at least one.
    fn cost(self) -> i64 {
        micros(self.per / self.count.max(1)).max(1)
    }
}

/// How often clients may ask.
#[derive(Clone, Debug, Default)]
pub struct RateSettings {
    /// Any client, by its name or else its address; as often as it likes when absent.
    pub each: Option<Rate>,
    /// These clients, by name.
    pub named: HashMap<Arc<str>, Rate>,
}

/// What each client has used up: when it would have asked, had it asked evenly.
#[derive(Debug)]
pub(super) struct Rates {
    settings: RateSettings,
    shards: Vec<Mutex<HashMap<Who, i64>>>,
    hasher: std::hash::RandomState,
}

impl Rates {
    pub(super) fn new(settings: RateSettings) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { settings, shards, hasher: std::hash::RandomState::new() }
    }

    /// Whether anybody is limited at all.
    pub(super) fn are_set(&self) -> bool {
        self.settings.each.is_some() || !self.settings.named.is_empty()
    }

    /// Counts a request. The answer is how long to wait, where it is one too many.
    pub(super) fn wait(&self, caller: &Caller, now: Timestamp) -> Option<Duration> {
        let named = match &caller.class {
            Class::Client(name) => self.settings.named.get(name),
            Class::Anonymous | Class::Unknown => None,
        };
        let rate = *named.or(self.settings.each.as_ref())?;
        let (now, cost, burst) = (now.as_microsecond(), rate.cost(), micros(rate.per));
        let who = Who::of(caller);
        let mut shard = self.shard(&who)?.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= CLIENTS / SHARDS && !shard.contains_key(&who) {
            // Whoever has used up nothing is as good as new.
            shard.retain(|_, due| *due > now);
        }
        let who =
            if shard.len() >= CLIENTS / SHARDS && !shard.contains_key(&who) { Who::Others } else { who };
        let due = shard.entry(who).or_insert(now);
        let next = (*due).max(now).saturating_add(cost);
        let over = next.saturating_sub(now).saturating_sub(burst);
        if over > 0 {
            return Some(Duration::from_micros(u64::try_from(over).unwrap_or_default()));
        }
        *due = next;
        None
    }

    fn shard(&self, who: &Who) -> Option<&Mutex<HashMap<Who, i64>>> {
        use std::hash::BuildHasher as _;
        #[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
        let hash = self.hasher.hash_one(who) as usize;
        self.shards.get(hash % SHARDS)
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::identity::Attribution;

    fn caller(address: &str, name: Option<&str>) -> Caller {
        Caller {
            class: name.map_or(Class::Anonymous, |name| Class::Client(name.into())),
            attribution: if name.is_some() { Attribution::Token } else { Attribution::None },
            address: address.parse::<IpAddr>().unwrap(),
            proxy: None,
            certificate: None,
            user_agent: None,
        }
    }

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn rate(count: u32, seconds: u64) -> Rate {
        Rate { count, per: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_client_may_ask_so_often_at_once_and_then_evenly() {
        let rates = Rates::new(RateSettings { each: Some(rate(10, 60)), named: HashMap::new() });
        let one = caller("10.0.0.1", None);
        assert!((0..10).all(|_| rates.wait(&one, at(0)).is_none()));
        assert_eq!(rates.wait(&one, at(0)), Some(Duration::from_secs(6)));
        assert_eq!(rates.wait(&one, at(5_000)), Some(Duration::from_secs(1)));
        assert_eq!(rates.wait(&one, at(6_000)), None);
        assert!(rates.wait(&one, at(6_000)).is_some());
        assert!(
            (0..10).all(|_| rates.wait(&one, at(600_000)).is_none()),
            "what was not used is not saved up"
        );
        assert!(rates.wait(&one, at(600_000)).is_some());
    }

    #[test]
    fn clients_do_not_use_up_each_others_and_a_name_may_have_its_own() {
        let named = HashMap::from([("ci".into(), rate(3, 1))]);
        let rates = Rates::new(RateSettings { each: Some(rate(1, 60)), named });
        assert_eq!(rates.wait(&caller("10.0.0.1", None), at(0)), None);
        assert_eq!(rates.wait(&caller("10.0.0.2", None), at(0)), None);
        assert!(rates.wait(&caller("10.0.0.1", None), at(0)).is_some());
        assert_eq!(rates.wait(&caller("2001:db8::1", None), at(0)), None);
        assert!(rates.wait(&caller("2001:db8::2", None), at(0)).is_some(), "one /64 is one client");
        for address in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
            assert_eq!(rates.wait(&caller(address, Some("ci")), at(0)), None, "by name, wherever it is");
        }
        assert!(rates.wait(&caller("10.0.0.4", Some("ci")), at(0)).is_some());
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let rates = Rates::new(RateSettings::default());
        assert!((0..1000).all(|_| rates.wait(&caller("10.0.0.1", None), at(0)).is_none()));
    }
}
