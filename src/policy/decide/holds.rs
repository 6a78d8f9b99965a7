//! Cooldown: a digest is served once this gateway has known it long enough.

use std::time::Duration;

use jiff::Timestamp;

use super::{Judge, Stop};
use crate::oci::{Digest, Tag};
use crate::policy::content::span;
use crate::policy::{Code, HoldFirst, Known, Lack, Moved, Reason, Seen, TagFact, Written};

/// How long a digest is known, against its hold.
struct Aging {
    over: bool,
    since: Option<Timestamp>,
    /// When it will be over if nothing changes; none when it never will.
    until: Option<Timestamp>,
}

impl Aging {
    fn of(seen: &Seen, hold: Duration, now: Timestamp) -> Self {
        let end = |since: Timestamp| since.checked_add(hold).unwrap_or(Timestamp::MAX);
        if seen.sights.is_empty() {
            let since = seen.first.unwrap_or(now);
            return Self { over: now >= end(since), since: Some(since), until: Some(end(since)) };
        }
        // What a tag names counts for as long as the upstream confirmed it: a digest that was replaced
        // within its hold stays held for ever.
        let over = seen.sights.iter().any(|sight| sight.served || sight.last >= end(sight.since));
        let waiting = || seen.sights.iter().filter(|sight| sight.current).map(|sight| sight.since);
        let since = seen.sights.iter().map(|sight| sight.since).min();
        Self { over, since, until: waiting().map(end).min() }
    }
}

impl<'a> Judge<'a> {
    fn seen(&self, digest: Digest) -> Result<&'a Seen, Stop> {
        match self.facts.seen.get(&digest) {
            Some(Known::Failed(fault)) => Err(Stop::Fail(fault.clone())),
            Some(Known::Is(seen)) => Ok(seen),
            Some(Known::Unasked) | None => Err(Stop::Need(Lack::Seen(digest))),
        }
    }

    /// A digest that is asked for as such, or a blob by what leads to it.
    pub(super) fn hold_digest(&mut self, digest: Digest) -> Result<(), Stop> {
        let Some(hold) = &self.source.hold else { return Ok(()) };
        if !self.policy.pins_of(self.name).is_empty() {
            // Somebody vouches for it, or for what leads to it.
            let roots = self.roots(digest)?;
            let pinned = |digest: &Digest| self.policy.pinned(self.name, digest).is_some();
            if pinned(&digest) || roots.roots.iter().any(|root| root.levels == 0 && pinned(&root.digest)) {
                return Ok(());
            }
        }
        let seen = self.seen(digest)?;
        let aging = Aging::of(seen, hold.value, self.now);
        // What a tag is served as at once is pulled by digest next, whether or not that locked the tag.
        let first = self.source.hold_first == HoldFirst::Serve
            && seen.sights.iter().any(|sight| {
                sight.first && sight.current && self.policy.passes(self.source, self.name, &sight.tag)
            });
        if !aging.over && first {
            self.check("hold", true, "the first digest of a tag", "hold_first = serve", &hold.at);
            return Ok(());
        }
        self.hold_check(&aging, hold);
        if !aging.over {
            self.hold(&aging, hold, &format!("digest {}", super::short(&digest)));
        }
        Ok(())
    }

    /// The digest that a tag is served as: the one it names now, unless that is held.
    pub(super) fn hold_tag(&mut self, tag: &Tag, fact: &TagFact, served: Digest) -> Result<Digest, Stop> {
        let Some(hold) = &self.source.hold else { return Ok(served) };
        if fact.lock == Some(served) {
            return Ok(served);
        }
        let seen = self.seen(served)?;
        let aging = Aging::of(seen, hold.value, self.now);
        let first = fact.lock.is_none() && seen.sights.iter().any(|sight| sight.tag == *tag && sight.first);
        if !aging.over && first && self.source.hold_first == HoldFirst::Serve {
            self.check("hold", true, "the first digest of this tag", "hold_first = serve", &hold.at);
            return Ok(served);
        }
        if let (Moved::Follow, Some(lock), false, None) =
            (self.source.moved.value, fact.lock, aging.over, self.excuse(Code::Hold))
        {
            let observed = format!("{} is held until {}", super::short(&served), moment(aging.until));
            self.check(
                "hold",
                true,
                observed,
                format!("the digest before it for {}", span(hold.value)),
                &hold.at,
            );
            if let Some(until) = aging.until {
                self.holds_until(until);
            }
            return Ok(lock);
        }
        self.hold_check(&aging, hold);
        if !aging.over {
            self.hold(&aging, hold, &format!("tag \"{tag}\""));
        }
        Ok(served)
    }

    fn hold_check(&mut self, aging: &Aging, hold: &Written<Duration>) {
        let observed = format!("known here since {}", moment(aging.since));
        self.check("hold", aging.over, observed, format!("for {}", span(hold.value)), &hold.at);
    }

    fn hold(&mut self, aging: &Aging, hold: &Written<Duration>, what: &str) {
        let (text, remedy) = match aging.until {
            Some(until) => (
                format!(
                    "{what} is known here since {} only and held for {}, until {}",
                    moment(aging.since),
                    span(hold.value),
                    moment(Some(until))
                ),
                "use an older version, or try again then",
            ),
            None => (
                format!("{what} was replaced upstream while it was held for {}", span(hold.value)),
                "use what the tag names now",
            ),
        };
        self.held_until = self.held_until.into_iter().chain(aging.until).min();
        self.fail(Reason::new(Code::Hold, text, Some(remedy.to_owned())));
    }
}

fn moment(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| time.strftime("%Y-%m-%d %H:%MZ").to_string())
}
