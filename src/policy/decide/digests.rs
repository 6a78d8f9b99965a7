//! Pulls by digest: roots, closure, possession, referrers.

use std::sync::Arc;

use super::{Grant, Judge, Stop, short};
use crate::oci::{Descriptor, Digest, Fault};
use crate::policy::companion::{self, LEVELS_MAX};
use crate::policy::{Code, Digests, Image, Known, Lack, Mode, Reason, Root, Roots, Target};

/// How a digest stands in its repository.
pub(super) enum Standing {
    /// A companion of an admitted digest; of a softened one when a reason is given.
    Leaf(Option<Reason>),
    /// Nothing admitted leads to it.
    Outside,
    /// Itself admitted, or in the closure of something that is; softened when a reason is given.
    Root(Option<Reason>),
}

impl Standing {
    fn rank(&self) -> u8 {
        match self {
            Self::Root(None) => 4,
            Self::Leaf(None) => 3,
            Self::Root(Some(_)) => 2,
            Self::Leaf(Some(_)) => 1,
            Self::Outside => 0,
        }
    }
}

/// A descriptor of a blob, under a root that permits it.
struct Part<'r> {
    standing: Standing,
    target: &'r Descriptor,
    /// Whether a pin or a tag that passes leads to the root.
    named: bool,
    /// Whether nothing is known that contradicts it.
    holds: bool,
}

impl Part<'_> {
    fn rank(&self) -> (bool, u8, bool) {
        (self.holds, self.standing.rank(), self.named)
    }
}

fn holds(roots: &Roots, target: &Descriptor) -> bool {
    roots.size.is_none_or(|size| size == target.size)
}

/// How one root is judged.
enum Verdicts {
    Clean,
    Refused,
    Softened(Reason),
}

impl Judge<'_> {
    pub(super) fn manifest(&mut self, digest: Digest) -> Result<Grant, Stop> {
        let image = self.admitted(digest)?;
        Ok(Grant::of(Target::Manifest(image.manifest.clone())))
    }

    /// The manifest of a digest that may be asked for as a root, its content judged as well.
    fn admitted(&mut self, digest: Digest) -> Result<Arc<Image>, Stop> {
        let leaf = self.digest_rules(digest)?;
        let image = self.image(digest)?;
        if leaf {
            self.leaf_rules(digest, &image);
        }
        self.content(&image)?;
        Ok(image)
    }

    /// Runs the reference phase for a digest; says whether it is admitted as a companion only.
    fn digest_rules(&mut self, digest: Digest) -> Result<bool, Stop> {
        let standing = self.standing(digest, LEVELS_MAX)?;
        let rule = &self.source.digests;
        let outside = matches!(standing, Standing::Outside);
        match self.policy.pinned(self.name, &digest) {
            Some(pin) => self.check("digest", true, digest.to_string(), "pinned", &pin.at),
            None => self.check("digest", !outside, digest.to_string(), rule.value.as_str(), &rule.at),
        }
        let leaf = match standing {
            Standing::Leaf(reason) => {
                self.soften(reason);
                true
            }
            Standing::Root(reason) => {
                self.soften(reason);
                false
            }
            Standing::Outside => {
                let reason = self.digest_refused(digest);
                self.fail(reason);
                false
            }
        };
        self.end_of_phase()?;
        Ok(leaf)
    }

    fn leaf_rules(&mut self, digest: Digest, image: &Image) {
        let excess = companion::excess(&image.manifest);
        let at = &self.source.digests.at;
        self.check("companion", excess.is_none(), excess.as_deref().unwrap_or("a leaf"), "a leaf", at);
        if let Some(excess) = excess {
            let mut reason = self.digest_refused(digest);
            reason.text = format!("{}: it belongs to a permitted image, but {excess}", reason.text);
            self.fail(reason);
        }
    }

    fn digest_refused(&mut self, digest: Digest) -> Reason {
        let literals = &self.source.literals;
        if self.source.digests.value == Digests::Listed {
            return Reason::new(
                Code::DigestNotListed,
                format!("digest {} is not pinned in the policy", short(&digest)),
                Some("ask for a [[pin]] of it".to_owned()),
            );
        }
        // Whether an allowed tag leads to it could not be found out: that is another answer than "none does".
        if let (Known::Failed(fault), false, Mode::Enforce) =
            (&self.facts.listed, literals.is_empty(), self.source.modes.digest)
            && !matches!(fault, Fault::Absent(_))
        {
            self.fault = Some(fault.clone());
            return Reason::new(
                Code::FactsUnavailable,
                format!("whether an allowed tag leads to {} cannot be found out: {fault}", short(&digest)),
                Some("try again later".to_owned()),
            );
        }
        Reason::new(
            Code::DigestUnknown,
            format!(
                "no allowed tag leads to digest {} (allowed: {})",
                short(&digest),
                self.source.allow_short()
            ),
            Some("pull one of the allowed tags".to_owned()),
        )
    }

    /// How a digest stands, asking for the facts that takes. Within `reach` subject edges a digest is
    /// the companion of an admitted one.
    pub(super) fn standing(&self, digest: Digest, reach: u8) -> Result<Standing, Stop> {
        let source = self.source;
        if source.digests.value == Digests::Any || self.policy.pinned(self.name, &digest).is_some() {
            return Ok(Standing::Root(None));
        }
        if self.is_hopeless() {
            return Ok(Standing::Outside);
        }
        let roots = self.roots(digest)?;
        let standing = self.best(roots, reach);
        self.sweep(&standing)?;
        Ok(standing)
    }

    /// Whether nothing here can lead to any digest, so that upstream is left unasked.
    fn is_hopeless(&self) -> bool {
        self.source.digests.value != Digests::Any
            && self.source.allow.value.is_empty()
            && self.policy.pins_of(self.name).is_empty()
            && self.source.modes.tag == Mode::Enforce
    }

    /// Where literal tags alone say what is known, they are resolved before anything is refused.
    fn sweep(&self, standing: &Standing) -> Result<(), Stop> {
        let clean = matches!(standing, Standing::Leaf(None) | Standing::Root(None));
        let source = self.source;
        let sweeps = source.digests.value == Digests::Known && !source.literals.is_empty();
        match &self.facts.listed {
            Known::Unasked if sweeps && !clean => Err(Stop::Need(Lack::Listed(source.literals.clone()))),
            _ => Ok(()),
        }
    }

    fn best(&self, roots: &Roots, reach: u8) -> Standing {
        let mut best = Standing::Outside;
        for root in roots.roots.iter().filter(|root| root.levels <= reach) {
            let reason = match self.root(root) {
                Verdicts::Clean => None,
                Verdicts::Refused => continue,
                Verdicts::Softened(reason) => Some(reason),
            };
            let standing = if root.levels == 0 { Standing::Root(reason) } else { Standing::Leaf(reason) };
            if standing.rank() > best.rank() {
                best = standing;
            }
        }
        best
    }

    /// One root by the same rules as if it had been asked for.
    fn root(&self, root: &Root) -> Verdicts {
        let source = self.source;
        if source.digests.value == Digests::Any || self.is_named(root) {
            return Verdicts::Clean;
        }
        match root.tags.first() {
            // It was served under that tag with a warning, so its closure follows.
            Some(tag) if source.modes.tag != Mode::Enforce => Verdicts::Softened(match source.denied(tag) {
                Some(pattern) => self.tag_denied(tag, pattern.as_str()),
                None => self.tag_not_allowed(tag, false),
            }),
            _ => Verdicts::Refused,
        }
    }

    /// Whether the policy itself names what leads to this root: a pin, or a tag that passes.
    fn is_named(&self, root: &Root) -> bool {
        self.policy.pinned(self.name, &root.digest).is_some()
            || root.tags.iter().any(|tag| self.policy.passes(self.source, self.name, tag))
    }

    pub(super) fn blob(&mut self, digest: Digest) -> Result<Grant, Stop> {
        if self.is_hopeless() && self.source.modes.digest == Mode::Enforce {
            let reason = self.outside(digest);
            self.fail(reason);
            return Err(Stop::Refuse);
        }
        let roots = self.roots(digest)?;
        if roots.roots.iter().any(|root| root.digest == digest) {
            // It is a manifest of this repository: by whatever road it is asked for, it is judged as one.
            let image = self.image(digest)?;
            self.content(&image)?;
        }
        let part = self.best_part(roots);
        let standing = part.as_ref().map_or(&Standing::Outside, |part| &part.standing);
        self.sweep(standing)?;
        let rule = &self.source.digests;
        // A softened digest rule admits every manifest of this repository, and so its closure.
        let part = match part {
            None if rule.value != Digests::Any && self.source.modes.digest != Mode::Enforce => {
                self.softened_part(roots)
            }
            part => part,
        };
        let (reason, target) = match part {
            None => (None, None),
            Some(Part { standing: Standing::Leaf(reason) | Standing::Root(reason), target, .. }) => {
                (reason, Some(target))
            }
            Some(Part { standing: Standing::Outside, .. }) => (None, None),
        };
        let found = roots.roots.iter().find(|root| root.levels == 0);
        self.check(
            "closure",
            target.is_some() && reason.is_none(),
            found.map_or_else(|| "in no known image".to_owned(), |root| format!("in {}", root.digest)),
            "in the closure of a permitted image of this repository",
            &rule.at,
        );
        let Some(target) = target else {
            let reason = self.outside(digest);
            self.fail(reason);
            return Err(Stop::Refuse);
        };
        self.soften(reason);
        self.end_of_phase()?;
        let size = target.size;
        let possession = match &self.facts.possession {
            Known::Failed(fault) => return Err(Stop::Fail(fault.clone())),
            Known::Is(is) => **is,
            Known::Unasked => return Err(Stop::Need(Lack::Possession { digest, size })),
        };
        let observed = if possession { "it did" } else { "it did not" };
        self.check_unwritten("possession", possession, observed, "this repository itself came by it");
        if !possession {
            self.fail(Reason::new(
                Code::PossessionMissing,
                format!("{} names blob {} without ever having held it", self.name, short(&digest)),
                Some("pull the image from the repository that publishes it".to_owned()),
            ));
        }
        self.end_of_phase()?;
        Ok(Grant::of(Target::Blob { digest, size }))
    }

    /// The descriptor by which a blob is served: that of the root which permits it. Among several the
    /// one that is known to be true, then the one that stands best, then the one a tag leads to.
    fn best_part<'r>(&self, roots: &'r Roots) -> Option<Part<'r>> {
        let mut best: Option<Part<'r>> = None;
        for root in &roots.roots {
            let reason = match self.root(root) {
                Verdicts::Clean => None,
                Verdicts::Refused => continue,
                Verdicts::Softened(reason) => Some(reason),
            };
            let named = self.is_named(root);
            for (levels, target) in &root.parts {
                let standing = match levels {
                    0 => Standing::Root(reason.clone()),
                    1..=LEVELS_MAX if companion::is_leaf_blob(target) => Standing::Leaf(reason.clone()),
                    _ => continue,
                };
                let part = Part { standing, target, named, holds: holds(roots, target) };
                if best.as_ref().is_none_or(|best| part.rank() > best.rank()) {
                    best = Some(part);
                }
            }
        }
        best
    }

    /// The same where every manifest of the repository counts, with a warning.
    fn softened_part<'r>(&mut self, roots: &'r Roots) -> Option<Part<'r>> {
        let parts = roots.roots.iter().flat_map(|root| root.parts.iter().map(move |part| (root, part)));
        let own = parts.filter(|(_, (levels, _))| *levels == 0);
        // The first among equals: `max_by_key` takes the last.
        let (root, (_, target)) = own.rev().max_by_key(|(_, (_, target))| holds(roots, target))?;
        let reason = self.digest_refused(root.digest);
        Some(Part {
            standing: Standing::Root(Some(reason)),
            target,
            named: false,
            holds: holds(roots, target),
        })
    }

    fn outside(&mut self, digest: Digest) -> Reason {
        let literals = self.source.digests.value == Digests::Known && !self.source.literals.is_empty();
        if let Known::Failed(fault) = &self.facts.listed
            && literals
            && !matches!(fault, Fault::Absent(_))
        {
            self.fault = Some(fault.clone());
            return Reason::new(
                Code::FactsUnavailable,
                format!("whether a permitted image contains {} cannot be found out: {fault}", short(&digest)),
                Some("try again later".to_owned()),
            );
        }
        Reason::new(
            Code::ClosureOutside,
            format!("no permitted image of {} contains blob {}", self.name, short(&digest)),
            Some("pull an allowed image; its parts follow".to_owned()),
        )
    }

    pub(super) fn referrers(&mut self, subject: Digest) -> Result<Grant, Stop> {
        match self.admitted(subject) {
            // The spec answers an unknown subject with an empty index.
            Ok(_) | Err(Stop::Fail(Fault::Absent(_))) => Ok(Grant::of(Target::Referrers(subject))),
            Err(stop) => Err(stop),
        }
    }
}
