//! Pulls by digest: roots, closure, possession, referrers.

use std::sync::Arc;

use super::{Grant, Judge, Stop, short};
use crate::oci::{Digest, Fault};
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
        let rank = |standing: &Standing| match standing {
            Standing::Root(None) => 4,
            Standing::Leaf(None) => 3,
            Standing::Root(Some(_)) => 2,
            Standing::Leaf(Some(_)) => 1,
            Standing::Outside => 0,
        };
        let mut best = Standing::Outside;
        for root in roots.roots.iter().filter(|root| root.levels <= reach) {
            let reason = match self.root(root) {
                Verdicts::Clean => None,
                Verdicts::Refused => continue,
                Verdicts::Softened(reason) => Some(reason),
            };
            let standing = if root.levels == 0 { Standing::Root(reason) } else { Standing::Leaf(reason) };
            if rank(&standing) > rank(&best) {
                best = standing;
            }
        }
        best
    }

    /// One root by the same rules as if it had been asked for.
    fn root(&self, root: &Root) -> Verdicts {
        let source = self.source;
        let admitted = source.digests.value == Digests::Any
            || self.policy.pinned(self.name, &root.digest).is_some()
            || root.tags.iter().any(|tag| self.policy.passes(source, self.name, tag));
        if admitted {
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
        let standing = self.best(roots, LEVELS_MAX);
        self.sweep(&standing)?;
        let rule = &self.source.digests;
        let (reason, mut target) = match standing {
            Standing::Leaf(reason) => {
                (reason, roots.target.as_ref().filter(|target| companion::is_leaf_blob(target)))
            }
            Standing::Root(reason) => (reason, roots.target.as_ref()),
            // A softened digest rule admits every manifest of this repository, and so its closure.
            Standing::Outside if rule.value != Digests::Any && self.source.modes.digest != Mode::Enforce => {
                let root = roots.roots.iter().find(|root| root.levels == 0);
                let reason = root.map(|root| self.digest_refused(root.digest));
                let target = roots.target.as_ref().filter(|_| reason.is_some());
                (reason, target)
            }
            Standing::Outside => (None, None),
        };
        let found = roots.roots.iter().find(|root| root.levels == 0);
        self.check(
            "closure",
            target.is_some() && reason.is_none(),
            found.map_or_else(|| "in no known image".to_owned(), |root| format!("in {}", root.digest)),
            "in the closure of a permitted image of this repository",
            &rule.at,
        );
        let Some(target) = target.take() else {
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
