//! Who logged in with a browser, and for how long that holds.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};

/// A session that is not used for so long is over.
const IDLE: SignedDuration = SignedDuration::from_mins(30);
/// A session is over after so long, used or not.
pub(super) const LIFE: SignedDuration = SignedDuration::from_hours(12);
/// Sessions of one user at once; the one used longest ago makes room.
const EACH: usize = 10;

/// The sessions in force. They are in memory alone: a restart ends them.
#[derive(Debug, Default)]
pub(super) struct Sessions(Mutex<HashMap<Key, Session>>);

/// The hash of a session's id: neither a look at the memory nor how long a look-up takes tells an id.
type Key = [u8; 32];

#[derive(Debug)]
struct Session {
    /// Whose: the place in the list of users.
    user: usize,
    begun: Timestamp,
    used: Timestamp,
}

impl Session {
    fn holds(&self, now: Timestamp) -> bool {
        now.duration_since(self.begun) < LIFE && now.duration_since(self.used) < IDLE
    }
}

impl Sessions {
    /// Begins a session of this user; the answer is its id, 256 random bits. `None`: the machine has no
    /// random bits to give.
    pub(super) fn begin(&self, user: usize, now: Timestamp) -> Option<String> {
        let mut random = [0; 32];
        aws_lc_rs::rand::fill(&mut random).ok()?;
        let id = URL_SAFE_NO_PAD.encode(random);
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.retain(|_, session| session.holds(now));
        if sessions.values().filter(|session| session.user == user).count() >= EACH {
            let idle = sessions
                .iter()
                .filter(|(_, session)| session.user == user)
                .min_by_key(|(_, session)| session.used);
            if let Some(key) = idle.map(|(key, _)| *key) {
                sessions.remove(&key);
            }
        }
        sessions.insert(key(&id), Session { user, begun: now, used: now });
        Some(id)
    }

    /// Whose session this is, as long as it holds; it counts as used.
    pub(super) fn user(&self, id: &str, now: Timestamp) -> Option<usize> {
        let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = key(id);
        let session = sessions.get_mut(&key)?;
        if !session.holds(now) {
            sessions.remove(&key);
            return None;
        }
        session.used = now;
        Some(session.user)
    }

    /// Ends a session.
    pub(super) fn end(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(id));
    }
}

fn key(id: &str) -> Key {
    let mut key = Key::default();
    key.copy_from_slice(digest(&SHA256, id.as_bytes()).as_ref());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_ends_when_it_is_not_used_and_when_its_life_is_over_and_when_it_is_ended() {
        let sessions = Sessions::default();
        let at = |minutes: i64| Timestamp::from_second(1_000_000 + minutes * 60).unwrap();
        let id = sessions.begin(3, at(0)).unwrap();
        assert_eq!(id.len(), 43);
        assert_eq!(sessions.user(&id, at(29)), Some(3));
        assert_eq!(sessions.user(&id, at(59)), None, "30 minutes without use");
        assert_eq!(sessions.user(&id, at(59)), None);
        let id = sessions.begin(3, at(0)).unwrap();
        for minutes in (0..720).step_by(20) {
            assert_eq!(sessions.user(&id, at(minutes)), Some(3), "{minutes}");
        }
        assert_eq!(sessions.user(&id, at(720)), None, "twelve hours");
        let id = sessions.begin(3, at(0)).unwrap();
        sessions.end(&id);
        assert_eq!(sessions.user(&id, at(0)), None);
        assert_eq!(sessions.user("", at(0)), None);
    }

    #[test]
    fn a_user_has_so_many_sessions_and_the_one_used_longest_ago_makes_room() {
        let sessions = Sessions::default();
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
        let other = sessions.begin(1, at(0)).unwrap();
        let ids: Vec<String> = (0..10).map(|second| sessions.begin(2, at(second)).unwrap()).collect();
        sessions.user(&ids[0], at(20)).unwrap();
        let last = sessions.begin(2, at(21)).unwrap();
        assert_eq!(sessions.user(&ids[1], at(22)), None);
        for id in [&ids[0], &ids[2], &last] {
            assert_eq!(sessions.user(id, at(22)), Some(2));
        }
        assert_eq!(sessions.user(&other, at(22)), Some(1));
    }
}
