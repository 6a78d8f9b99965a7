//! What is known of the tags of a repository, for tools that propose updates.

use jiff::Timestamp;

use super::Gate;
use crate::catalog::{self, HistoryRow, KnownTag};
use crate::oci::{Digest, Name, Tag};
use crate::policy::{HoldFirst, Moved, Policy};

/// A tag as a pull would get it now, as far as is known without asking anybody.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Release {
    /// The tag.
    pub tag: Tag,
    /// What it is, or will be, served as.
    pub digest: Digest,
    /// When that digest was first seen under the tag here.
    pub first_seen: Option<Timestamp>,
    /// Whether the tag rules let it pass, no hold runs, and it did not move where it may not.
    pub stable: bool,
    /// Whether it is locked to this digest.
    pub locked: bool,
    /// Until when `tags.hold` keeps it waiting.
    pub held_until: Option<Timestamp>,
    /// Where it leads upstream, when that is elsewhere.
    pub moved_to: Option<Digest>,
}

impl Gate {
    /// The tags of a repository that are known here, in order, behind this one. Asks no upstream.
    pub async fn releases(
        &self,
        name: &Name,
        after: Option<&Tag>,
        limit: u16,
    ) -> Result<Vec<Release>, catalog::Error> {
        let tags = self.0.catalog.known_tags(name, after, limit).await?;
        let (rules, now) = (self.rules(), self.0.clock.now());
        Ok(tags.into_iter().filter_map(|tag| release(rules.policy(), name, tag, now)).collect())
    }

    /// Every digest that a tag had here or upstream, the latest first.
    pub async fn history(&self, name: &Name, tag: &Tag) -> Result<Vec<HistoryRow>, catalog::Error> {
        self.0.catalog.tag_history(name, tag).await
    }
}

fn release(policy: &Policy, name: &Name, known: KnownTag, now: Timestamp) -> Option<Release> {
    let KnownTag { tag, locked, locked_first, current, first } = known;
    let source = policy.source_of(name);
    let moved = source.map_or(Moved::Keep, crate::policy::Source::moved);
    // When what the upstream names now has been known long enough.
    let held_until = current.as_ref().and_then(|current| {
        let source = source?;
        let end = current.since.checked_add(source.hold()?).unwrap_or(Timestamp::MAX);
        let exempt = locked.is_none() && first && source.hold_first() == HoldFirst::Serve;
        let over = exempt || current.served || current.last >= end || locked == Some(current.digest);
        // One whose time is up and that was not confirmed since is asked about by the next pull.
        (!over).then_some(end.max(now))
    });
    let named = current.as_ref().map(|current| current.digest);
    let pin = policy.pin_of(name, &tag).map(|pin| pin.digest);
    let (digest, held_until) = match (pin, locked, named) {
        (Some(pin), ..) => (pin, None),
        (None, Some(_), Some(named)) if moved == Moved::Follow && held_until.is_none() => (named, None),
        (None, Some(lock), _) => (lock, None),
        (None, None, named) => (named?, held_until),
    };
    let elsewhere = named.filter(|named| *named != digest);
    let blocked = moved == Moved::Deny && pin.is_none() && elsewhere.is_some();
    let first_seen = match &current {
        _ if locked == Some(digest) => locked_first,
        Some(current) if current.digest == digest => Some(current.first),
        _ => None,
    };
    Some(Release {
        stable: policy.passes_tag(name, &tag) && held_until.is_none() && !blocked,
        locked: locked == Some(digest),
        moved_to: elsewhere,
        tag,
        digest,
        first_seen,
        held_until,
    })
}
