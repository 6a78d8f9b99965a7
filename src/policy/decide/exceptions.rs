//! What exceptions excuse in one judgement, and whether they were needed.

use super::{Judge, Stop};
use crate::oci::{Digest, What};
use crate::policy::{Check, Code, Exception, Known, Lack};
use std::sync::Arc;

/// An exception of this repository that is in force now.
pub(super) struct Excuse<'a> {
    exception: &'a Exception,
    /// The digest it is for: written, or bound at its first use.
    digest: Option<Digest>,
    /// Whether it is for what is asked here, as far as is known.
    applies: bool,
    /// Whether a rule would have refused without it.
    needed: bool,
}

impl Judge<'_> {
    /// Finds the exceptions that are for what is asked.
    pub(super) fn excuses(&mut self) -> Result<(), Stop> {
        let active = self.policy.exceptions.active(self.name, self.now);
        if active.is_empty() {
            return Ok(());
        }
        // Only a tag's first use binds; everybody else must know what it was.
        let asks_for = |exception: &Exception| match &self.ask.what {
            What::Tag(tag) => exception.image.tag.as_ref() == Some(tag),
            What::Blob(_) | What::Digest(_) | What::Referrers(_) => true,
            What::Tags => false,
        };
        let unbound = |exception: &&&Exception| exception.image.digest.is_none() && asks_for(exception);
        let bindings = if active.iter().any(|exception| unbound(&exception)) {
            match &self.facts.bindings {
                Known::Failed(fault) => return Err(Stop::Fail(fault.clone())),
                Known::Is(bindings) => Some(bindings),
                Known::Unasked => return Err(Stop::Need(Lack::Bindings)),
            }
        } else {
            None
        };
        let bound = |exception: &Exception| {
            exception
                .image
                .digest
                .or_else(|| bindings.and_then(|bindings| bindings.get(&exception.id).copied()))
        };
        self.excuses = active
            .into_iter()
            .map(|exception| Excuse {
                exception,
                digest: bound(exception),
                applies: matches!(&self.ask.what, What::Tag(tag) if exception.image.tag.as_ref() == Some(tag)),
                needed: false,
            })
            .collect();
        // What is asked by its digest is excused with what leads to it.
        if let What::Blob(digest) | What::Digest(digest) | What::Referrers(digest) = self.ask.what
            && self.excuses.iter().any(|excuse| excuse.digest.is_some())
        {
            let roots = self.roots(digest)?;
            let mut scope: Vec<Digest> =
                roots.roots.iter().filter(|root| root.levels == 0).map(|root| root.digest).collect();
            scope.push(digest);
            self.excuse_those_of(&scope);
        }
        Ok(())
    }

    fn excuse_those_of(&mut self, scope: &[Digest]) {
        for excuse in &mut self.excuses {
            excuse.applies = excuse.digest.is_some_and(|digest| scope.contains(&digest));
        }
    }

    /// Now that a tag's digest is known: an exception that is bound to another one excuses nothing.
    pub(super) fn resolved(&mut self, digest: Digest) {
        let What::Tag(tag) = &self.ask.what else { return };
        for excuse in &mut self.excuses {
            let this_tag = excuse.exception.image.tag.as_ref() == Some(tag);
            excuse.applies = excuse.digest.map_or(this_tag, |bound| bound == digest);
        }
        for (_, reason) in std::mem::take(&mut self.waived) {
            self.fail(reason);
        }
    }

    /// The exception that waives a code here.
    pub(super) fn excuse(&self, code: Code) -> Option<usize> {
        self.excuses.iter().position(|excuse| excuse.applies && excuse.exception.waives(code))
    }

    /// Whether anything here is excused at all.
    pub(super) fn is_excused(&self) -> bool {
        self.excuses.iter().any(|excuse| excuse.applies)
    }

    /// The exceptions on this tag that were needed and are bound to nothing yet.
    pub(super) fn binds(&self) -> Vec<Arc<str>> {
        let first = |(at, excuse): &(usize, &Excuse<'_>)| {
            excuse.digest.is_none() && self.waived.iter().any(|(used, _)| used == at)
        };
        self.excuses.iter().enumerate().filter(first).map(|(_, excuse)| excuse.exception.id.clone()).collect()
    }

    /// Writes into the trace which exceptions were met, what each waived, and whether it was needed.
    pub(super) fn tell_excuses(&mut self) {
        for (at, reason) in &self.waived {
            let Some(excuse) = self.excuses.get_mut(*at) else { continue };
            excuse.needed = true;
            let id = check_of(reason.code);
            let failed = self.trace.checks.iter_mut().filter(|check| !check.pass && check.id == id);
            for check in failed {
                check.exception = Some(excuse.exception.id.clone());
            }
        }
        let mut ends = None;
        for excuse in self.excuses.iter().filter(|excuse| excuse.applies) {
            let exception = excuse.exception;
            let waives: Vec<&str> = exception.waive.iter().map(|check| check.as_str()).collect();
            self.trace.checks.push(Check {
                id: "exception",
                pass: true,
                observed: if excuse.needed { "needed" } else { "not needed" }.to_owned(),
                expected: format!("waives {} until {}", waives.join(", "), exception.expires),
                at: Some(exception.at.clone()),
                exception: Some(exception.id.clone()),
            });
            ends = exception.ends().into_iter().chain(ends).min();
        }
        if let Some(ends) = ends {
            self.holds_until(ends);
        }
    }
}

/// The check that ends in this code.
fn check_of(code: Code) -> &'static str {
    match code {
        Code::Age => "age",
        Code::ArtifactNotAllowed => "artifact",
        Code::BaseNotAllowed => "base",
        Code::DigestNotListed | Code::DigestUnknown => "digest",
        Code::Hold => "hold",
        Code::IndexTooLarge => "index",
        Code::Label => "label",
        Code::MediaRefused => "media",
        Code::PlatformNotAllowed => "platform",
        Code::Size => "size",
        Code::TagDenied | Code::TagNotAllowed => "tag",
        Code::TagMoved => "tag.moved",
        Code::UserMinUid | Code::UserNamed => "user",
        _ => "",
    }
}
