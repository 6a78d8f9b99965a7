//! Pulls by tag: the tag rules, the lock, companions by tag.

use std::sync::Arc;

use super::digests::Standing;
use super::{Grant, Judge, Stop};
use crate::oci::{Digest, Fault, Tag};
use crate::policy::companion::{self, Companion, LEVELS_MAX};
use crate::policy::{Code, Digests, Fresh, Mode, Moved, Reason, TagFact, Target};

impl<'a> Judge<'a> {
    pub(super) fn tag(&mut self, tag: &Tag) -> Result<Grant, Stop> {
        let companion = Companion::of(tag);
        let pin = self.policy.pin(self.name, tag);
        if let (Some(companion), None) = (companion, pin)
            && let Some(grant) = self.companion_tag(tag, companion)?
        {
            return Ok(grant);
        }
        self.tag_rules(tag, companion.is_some());
        self.end_of_phase()?;
        let (digest, lock) = match pin {
            Some(pin) => {
                self.check("pin", true, pin.digest.to_string(), pin.digest.to_string(), &pin.at);
                self.resolved(pin.digest);
                (pin.digest, false)
            }
            None => self.resolve(tag)?,
        };
        self.end_of_phase()?;
        self.recalled_under_tag(digest)?;
        let image = self.image(digest)?;
        self.content(image, false)?;
        Ok(Grant { target: Target::Manifest(image.manifest.clone()), lock: lock.then(|| tag.clone()) })
    }

    fn tag_rules(&mut self, tag: &Tag, companion: bool) {
        let source = self.source;
        let (allowed, denied) = (source.allowed(tag), source.denied(tag));
        let pin = self.policy.pin(self.name, tag);
        self.check(
            "tag",
            denied.is_none(),
            tag.as_str(),
            format!("none of {}", source.deny_words),
            &source.deny.at,
        );
        match (allowed, pin) {
            (None, Some(pin)) => self.check("tag", true, tag.as_str(), "pinned", &pin.at),
            (allowed, _) => {
                let expected = source.allow_words.as_str();
                self.check("tag", allowed.is_some(), tag.as_str(), expected, &source.allow.at);
            }
        }
        if let Some(pattern) = denied {
            let reason = self.tag_denied(tag, pattern.as_str());
            self.fail(reason);
        }
        if allowed.is_none() && pin.is_none() {
            let reason = self.tag_not_allowed(tag, companion);
            self.fail(reason);
        }
    }

    pub(super) fn tag_denied(&self, tag: &Tag, pattern: &str) -> Reason {
        Reason::new(
            Code::TagDenied,
            format!("tag \"{tag}\" is denied (deny: {pattern}): what it names changes"),
            self.try_instead(tag).or_else(|| Some("name an exact version".to_owned())),
        )
    }

    pub(super) fn tag_not_allowed(&self, tag: &Tag, companion: bool) -> Reason {
        let source = self.source;
        let text = if companion {
            format!("tag \"{tag}\" belongs to no image that is permitted here")
        } else if source.allow.value.is_empty() {
            format!("tag \"{tag}\" is not allowed: this repository is pulled by digest only")
        } else {
            format!("tag \"{tag}\" is not pinned (allowed: {})", source.allow_short())
        };
        let otherwise = || match source.digests.value {
            _ if companion => None,
            _ if !source.allow.value.is_empty() => Some("name a tag that matches".to_owned()),
            Digests::Any => Some("name it by digest: @sha256:…".to_owned()),
            Digests::Known | Digests::Listed => Some("ask for its digest to be pinned".to_owned()),
        };
        let remedy = self.try_instead(tag).or_else(otherwise);
        Reason::new(Code::TagNotAllowed, text, remedy)
    }

    /// What the policy itself names, without looking at what the gateway holds.
    fn try_instead(&self, tag: &Tag) -> Option<String> {
        let tag = self.policy.suggest(self.caller, self.name, tag, std::iter::empty())?;
        Some(format!("try {tag}"))
    }

    /// The digest an ordinary tag leads to here, and whether serving it locks the tag.
    fn resolve(&mut self, tag: &Tag) -> Result<(Digest, bool), Stop> {
        let moved = &self.source.moved;
        let fresh = match moved.value {
            Moved::Keep => Fresh::Lock,
            Moved::Deny | Moved::Follow => Fresh::Ttl,
        };
        let fact = self.tag_fact(tag, fresh)?;
        let served = match moved.value {
            Moved::Deny | Moved::Keep => fact.lock.or(fact.current),
            // What was served last is held here; what the upstream named meanwhile may not be.
            Moved::Follow if fact.stale => fact.lock.or(fact.current),
            Moved::Follow => fact.current,
        };
        let Some(served) = served else { return Err(self.absent(tag, fact)) };
        self.resolved(served);
        if let (Moved::Deny, Some(lock)) = (moved.value, fact.lock) {
            let elsewhere = match fact.current {
                Some(current) => current != lock,
                // An upstream that cannot be asked has moved nothing; one that was asked lost the tag.
                None => !fact.stale,
            };
            let observed = fact.current.map_or_else(
                || if fact.stale { "unknown: the upstream is unreachable" } else { "gone" }.to_owned(),
                |current| current.to_string(),
            );
            self.check("tag.moved", !elsewhere, observed.as_str(), lock.to_string(), &moved.at);
            if elsewhere {
                self.fail(Reason::new(
                    Code::TagMoved,
                    match fact.current {
                        Some(current) => format!(
                            "tag \"{tag}\" was {} and is now {} upstream",
                            super::short(&lock),
                            super::short(&current)
                        ),
                        None => format!("tag \"{tag}\" was {} and is gone upstream", super::short(&lock)),
                    },
                    Some("after review, accept it: `pullgate pin accept`, or a [[pin]]".to_owned()),
                ));
            }
        }
        let held = self.hold_tag(tag, fact, served)?;
        if held != served {
            self.resolved(held);
        }
        Ok((held, fact.lock != Some(held) && !fact.stale))
    }

    fn absent(&self, tag: &Tag, fact: &TagFact) -> Stop {
        let what: Arc<str> = format!("{}:{tag}", self.name).into();
        Stop::Fail(if fact.stale { Fault::Unreachable(what) } else { Fault::Absent(what) })
    }

    /// A companion's grant; none when the tag has to stand as an ordinary one.
    fn companion_tag(&mut self, tag: &Tag, companion: Companion) -> Result<Option<Grant>, Stop> {
        let (standing, subject) = match (self.source.digests.value, companion.subject) {
            (_, Some(subject)) if self.recalled_digest(subject)?.is_some() => return Ok(None),
            (Digests::Any, subject) => (Standing::Root(None), subject),
            (_, None) => return Ok(None),
            // One level is the tag's own, so its subject may be one level away at most.
            (_, Some(subject)) => (self.standing(subject, LEVELS_MAX - 1)?, Some(subject)),
        };
        let subject = subject.map_or_else(|| "a sha512 digest".to_owned(), |subject| subject.to_string());
        let at = &self.source.digests.at;
        let reason = match standing {
            Standing::Leaf(reason) | Standing::Root(reason) => reason,
            Standing::Outside(_) => {
                self.check("companion", false, subject, "of an admitted digest", at);
                return Ok(None);
            }
        };
        let fact = self.tag_fact(tag, Fresh::Ttl)?;
        // Companions are never locked: a lock says that it was served as an ordinary tag, and it stays
        // one as long as the tag rules serve it.
        let ordinary = self.source.mode_of(Code::TagNotAllowed) != Mode::Enforce
            || self.policy.passes(self.source, self.name, tag);
        if fact.lock.is_some() && ordinary {
            return Ok(None);
        }
        let served = if fact.stale { fact.current.or(fact.lock) } else { fact.current };
        let Some(digest) = served else { return Err(self.absent(tag, fact)) };
        self.recalled_under_tag(digest)?;
        let image = self.image(digest)?;
        if let Some(excess) = companion::excess(&image.manifest) {
            self.check("companion", false, excess, "a leaf", at);
            return Ok(None);
        }
        self.check("companion", true, subject, "of an admitted digest", at);
        self.soften(reason);
        self.content(image, true)?;
        Ok(Some(Grant::of(Target::Manifest(image.manifest.clone()))))
    }
}
