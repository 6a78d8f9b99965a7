//! Pulls by digest: roots, closure, possession, referrers.

use super::{Grant, Judge, Stop, short};
use crate::oci::{Descriptor, Digest, Fault, Kind, Manifest, Platform};
use crate::policy::companion::{self, LEVELS_MAX};
use crate::policy::content::Finding;
use crate::policy::{Code, Digests, Image, Known, Lack, Mode, Reason, Root, Roots, Target};

/// How many of the manifests that lead to a digest are looked into to find one that is permitted: so many
/// that nobody hides a permitted one behind refused ones by asking for those.
const ROOTS_MAX: usize = 512;
/// How many contents are asked for in one turn.
const TOGETHER: usize = 64;

/// How a digest stands in its repository.
pub(super) enum Standing {
    /// A companion of an admitted digest; of a softened one when a reason is given.
    Leaf(Option<Reason>),
    /// Nothing admitted leads to it; what leads to it is refused for this.
    Outside(Vec<Finding>),
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
            Self::Outside(_) => 0,
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

/// How one root is judged by its names.
enum Verdicts {
    Clean,
    Refused,
    Softened(Reason),
}

impl<'a> Judge<'a> {
    pub(super) fn manifest(&mut self, digest: Digest) -> Result<Grant, Stop> {
        let image = self.admitted(digest)?;
        Ok(Grant::of(Target::Manifest(image.manifest.clone())))
    }

    /// The manifest of a digest that may be asked for as a root, its content judged as well.
    fn admitted(&mut self, digest: Digest) -> Result<&'a Image, Stop> {
        let leaf = self.digest_rules(digest)?;
        self.recalled_unseen(digest)?;
        let image = self.image(digest)?;
        if leaf {
            self.leaf_rules(digest, image);
        }
        self.content(image, leaf)?;
        Ok(image)
    }

    /// Runs the reference phase for a digest; says whether it is admitted as a companion only.
    fn digest_rules(&mut self, digest: Digest) -> Result<bool, Stop> {
        let standing = self.standing(digest, LEVELS_MAX)?;
        let rule = &self.source.digests;
        let outside = matches!(standing, Standing::Outside(_));
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
            Standing::Outside(findings) if findings.is_empty() => {
                let reason = self.digest_refused(digest);
                self.fail(reason);
                false
            }
            Standing::Outside(findings) => {
                self.take(findings);
                false
            }
        };
        if !leaf && self.broken.is_empty() {
            self.hold_digest(digest)?;
        }
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
        if let (Known::Failed(fault), false, true) =
            (&self.facts.listed, literals.is_empty(), self.refuses(Code::DigestUnknown))
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
            return Ok(Standing::Outside(Vec::new()));
        }
        let roots = self.roots(digest)?;
        let standing = self.best(roots, reach, |root| {
            // Its own content is judged when it is served.
            if root.digest == digest { Ok(Some(Vec::new())) } else { self.stands(root) }
        })?;
        self.sweep(&standing)?;
        Ok(standing)
    }

    /// Whether nothing here can lead to any digest, so that upstream is left unasked.
    fn is_hopeless(&self) -> bool {
        self.source.digests.value != Digests::Any
            && self.source.allow.value.is_empty()
            && self.policy.pins_of(self.name).is_empty()
            && self.source.mode_of(Code::TagNotAllowed) == Mode::Enforce
            && !self.is_excused()
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

    /// The best root of all that are admitted by name and that `content` lets stand. Facts that
    /// several lack are needed together; what one of them decides needs no more.
    fn best(
        &self,
        roots: &'a Roots,
        reach: u8,
        content: impl Fn(&'a Root) -> Result<Option<Vec<Finding>>, Stop>,
    ) -> Result<Standing, Stop> {
        let mut best = Standing::Outside(Vec::new());
        let mut missing = Vec::new();
        for (root, reason) in self.named(roots).into_iter().filter(|(root, _)| root.levels <= reach) {
            if missing.len() >= TOGETHER {
                break;
            }
            match content(root) {
                Ok(Some(findings)) if self.passes_content(&findings) => {
                    let standing =
                        if root.levels == 0 { Standing::Root(reason) } else { Standing::Leaf(reason) };
                    if standing.rank() > best.rank() {
                        best = standing;
                    }
                    if best.rank() == 4 {
                        break;
                    }
                }
                Ok(None) => {}
                Ok(Some(findings)) => {
                    if let Standing::Outside(told) = &mut best
                        && told.is_empty()
                    {
                        *told = findings;
                    }
                }
                Err(Stop::Need(Lack::Contents(more))) => missing.extend(more),
                Err(stop) => return Err(stop),
            }
        }
        if best.rank() < 4 {
            together(missing)?;
        }
        Ok(best)
    }

    /// The roots that are admitted by their names, nearest first; those whose refusal a mode softens
    /// or an exception waives with its reason. Where they must be looked into, not too many.
    fn named(&self, roots: &'a Roots) -> Vec<(&'a Root, Option<Reason>)> {
        let most = if self.looks_inside() { ROOTS_MAX } else { usize::MAX };
        let named = roots.roots.iter().filter_map(|root| match self.root(root) {
            Verdicts::Clean => Some((root, None)),
            Verdicts::Refused => None,
            Verdicts::Softened(reason) => Some((root, Some(reason))),
        });
        named.take(most).collect()
    }

    /// What is found in a root other than the one to be served; none where it cannot be had.
    fn stands(&self, root: &Root) -> Result<Option<Vec<Finding>>, Stop> {
        if let Some(recalled) = self.recalled_digest(root.digest)? {
            return Ok(Some(vec![recalled]));
        }
        if !self.looks_inside() {
            return Ok(Some(Vec::new()));
        }
        match self.contents(&[root.digest])?.first() {
            Some((_, Known::Is(content))) => Ok(Some(self.findings(&content.manifest, 0, false)?)),
            Some((_, Known::Failed(fault))) => {
                Ok(Some(vec![Finding::unavailable(&short(&root.digest), fault)]))
            }
            Some((_, Known::Unasked)) | None => Ok(None),
        }
    }

    /// One root by the same rules as if it had been asked for.
    fn root(&self, root: &Root) -> Verdicts {
        let source = self.source;
        if source.digests.value == Digests::Any || self.is_named(root) {
            return Verdicts::Clean;
        }
        let refused = |tag: &crate::oci::Tag| match source.denied(tag) {
            Some(pattern) => self.tag_denied(tag, pattern.as_str()),
            None => self.tag_not_allowed(tag, false),
        };
        // It was served under that tag with a warning, or excused, so its closure follows.
        let softened = root.tags.iter().map(refused).find(|reason| !self.refuses(reason.code));
        softened.map_or(Verdicts::Refused, Verdicts::Softened)
    }

    /// Whether the policy itself names what leads to this root: a pin, or a tag that passes.
    fn is_named(&self, root: &Root) -> bool {
        self.policy.pinned(self.name, &root.digest).is_some()
            || root.tags.iter().any(|tag| self.policy.passes(self.source, self.name, tag))
    }

    pub(super) fn blob(&mut self, digest: Digest) -> Result<Grant, Stop> {
        if self.is_hopeless() && self.refuses(Code::DigestUnknown) {
            let reason = self.outside(digest);
            self.fail(reason);
            return Err(Stop::Refuse);
        }
        let roots = self.roots(digest)?;
        if roots.roots.iter().any(|root| root.digest == digest) {
            // It is a manifest of this repository: by whatever road it is asked for, it is judged as one.
            let image = self.image(digest)?;
            self.content(image, false)?;
        }
        let (part, told) = self.best_part(roots, digest)?;
        self.sweep(part.as_ref().map_or(&Standing::Outside(Vec::new()), |part| &part.standing))?;
        let rule = &self.source.digests;
        if part.is_none() && !told.is_empty() {
            self.check("closure", false, "in images that are refused", EXPECTED, &rule.at);
            self.take(told);
            return Err(Stop::Refuse);
        }
        // A softened digest rule admits every manifest of this repository, and so its closure.
        let part = match part {
            None if rule.value != Digests::Any && !self.refuses(Code::DigestUnknown) => {
                self.softened_part(roots, digest)?
            }
            part => part,
        };
        let leaf = matches!(&part, Some(Part { standing: Standing::Leaf(_), .. }));
        let (reason, target) = match part {
            Some(Part { standing: Standing::Leaf(reason) | Standing::Root(reason), target, .. }) => {
                (reason, Some(target))
            }
            Some(Part { standing: Standing::Outside(_), .. }) | None => (None, None),
        };
        let found = roots.roots.iter().find(|root| root.levels == 0);
        self.check(
            "closure",
            target.is_some() && reason.is_none(),
            found.map_or_else(|| "in no known image".to_owned(), |root| format!("in {}", root.digest)),
            EXPECTED,
            &rule.at,
        );
        let Some(target) = target else {
            let reason = self.outside(digest);
            self.fail(reason);
            return Err(Stop::Refuse);
        };
        self.soften(reason);
        if !leaf {
            self.hold_digest(digest)?;
        }
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
    /// one that is known to be true, then the one that stands best, then the one a tag leads to. Where
    /// none does, what was found in the nearest that is admitted by name.
    fn best_part(&self, roots: &'a Roots, blob: Digest) -> Result<(Option<Part<'a>>, Vec<Finding>), Stop> {
        let mut best: Option<Part<'a>> = None;
        let (mut told, mut missing) = (Vec::new(), Vec::new());
        for (root, reason) in self.named(roots) {
            if missing.len() >= TOGETHER {
                break;
            }
            let named = self.is_named(root);
            let parts = root.parts.iter().filter_map(|(levels, target)| {
                let standing = match levels {
                    0 => Standing::Root(reason.clone()),
                    1..=LEVELS_MAX if companion::is_leaf_blob(target) => Standing::Leaf(reason.clone()),
                    _ => return None,
                };
                Some(Part { standing, target, named, holds: holds(roots, target) })
            });
            // The first among equals: `max_by_key` takes the last.
            let parts: Vec<Part<'a>> = parts.collect();
            let Some(part) = parts.into_iter().rev().max_by_key(Part::rank) else { continue };
            if best.as_ref().is_some_and(|best| best.rank() >= part.rank()) {
                continue;
            }
            match self.leads(root, roots, blob) {
                Ok(Some(findings)) if self.passes_content(&findings) => best = Some(part),
                Ok(Some(findings)) if told.is_empty() => told = findings,
                Ok(_) => {}
                Err(Stop::Need(Lack::Contents(more))) => missing.extend(more),
                Err(stop) => return Err(stop),
            }
        }
        if best.as_ref().is_none_or(|best| !best.holds || best.standing.rank() < 4) {
            together(missing)?;
        }
        Ok((best, told))
    }

    /// The same where every manifest of the repository counts, with a warning.
    fn softened_part(&mut self, roots: &'a Roots, blob: Digest) -> Result<Option<Part<'a>>, Stop> {
        let most = if self.looks_inside() { ROOTS_MAX } else { usize::MAX };
        let mut best: Option<(Digest, &'a Descriptor)> = None;
        let mut missing = Vec::new();
        for root in roots.roots.iter().take(most) {
            let own = root.parts.iter().filter(|(levels, _)| *levels == 0).map(|(_, target)| target);
            let Some(target) = own.rev().max_by_key(|target| holds(roots, target)) else { continue };
            if best.is_some_and(|(_, best)| holds(roots, best) || !holds(roots, target)) {
                continue;
            }
            match self.leads(root, roots, blob) {
                Ok(Some(findings)) if self.passes_content(&findings) => best = Some((root.digest, target)),
                Ok(_) => {}
                Err(Stop::Need(Lack::Contents(more))) => missing.extend(more),
                Err(stop) => return Err(stop),
            }
            if missing.len() >= TOGETHER {
                break;
            }
        }
        if best.is_none_or(|(_, best)| !holds(roots, best)) {
            together(missing)?;
        }
        let Some((root, target)) = best else { return Ok(None) };
        let reason = self.digest_refused(root);
        let standing = Standing::Root(Some(reason));
        Ok(Some(Part { standing, target, named: false, holds: holds(roots, target) }))
    }

    /// What is found in a root on the way to a blob: its own content, and that the manifest which
    /// names the blob is one that is handed out. None where it does not lead there that way.
    fn leads(&self, root: &'a Root, roots: &'a Roots, blob: Digest) -> Result<Option<Vec<Finding>>, Stop> {
        let recalls = !self.policy.recalls.is_empty();
        if !self.looks_inside() {
            if !recalls {
                return Ok(Some(Vec::new()));
            }
            // Whatever lies between is recalled with what is above it.
            return Ok(Some(self.recalled_digest(root.digest)?.into_iter().collect()));
        }
        let near = self.between(root, roots, blob)?;
        let mut wanted: Vec<Digest> = near.iter().map(|root| root.digest).collect();
        wanted.push(root.digest);
        let contents = self.contents(&wanted)?;
        let content = |digest: &Digest| {
            let (_, known) = contents.iter().find(|(found, _)| found == digest)?;
            match known {
                Known::Is(content) => Some(&**content),
                Known::Failed(_) | Known::Unasked => None,
            }
        };
        let Some(above) = self.stands(root)? else { return Ok(None) };
        if !self.passes_content(&above) {
            return Ok(Some(above));
        }
        if content(&root.digest).is_some_and(|own| own.manifest.blobs().any(|edge| edge.digest == blob)) {
            return Ok(Some(above));
        }
        // Through an index or a subject: the manifest in between must be one that may be had itself.
        let mut refused = None;
        for parent in near.iter().filter(|parent| parent.digest != root.digest) {
            let Some(found) = content(&parent.digest) else { continue };
            let manifest = &found.manifest;
            let names = manifest.kind == Kind::Image && manifest.blobs().any(|edge| edge.digest == blob);
            let inside = root.levels > 0 || self.reaches(root.digest, parent.digest, &content);
            if !names || !inside {
                continue;
            }
            let leaf = root.levels > 0
                || companion::excess(manifest).is_none()
                    && self.is_attestation(root.digest, parent.digest, &content);
            let own = match self.recalled_digest(parent.digest)? {
                Some(recalled) => vec![recalled],
                None => self.findings(manifest, 0, leaf)?,
            };
            if self.passes_content(&own) {
                return Ok(Some(above));
            }
            refused = refused.or(Some(own));
        }
        Ok(refused)
    }

    /// What may lie between a root and a blob: what the root lists, or, above a companion, whatever leads
    /// to the blob by itself.
    fn between(&self, root: &Root, roots: &'a Roots, blob: Digest) -> Result<Vec<&'a Root>, Stop> {
        let below = roots.roots.iter().filter(|found| found.levels == 0);
        if root.levels > 0 {
            return Ok(below.take(TOGETHER).collect());
        }
        let Some((_, Known::Is(own))) = self.contents(&[root.digest])?.into_iter().next() else {
            return Ok(Vec::new());
        };
        if own.manifest.blobs().any(|edge| edge.digest == blob) {
            return Ok(Vec::new());
        }
        let listed = |manifest: &Manifest| manifest.children().map(|child| child.digest).collect::<Vec<_>>();
        let mut all = listed(&own.manifest);
        let leads = |digest: &Digest| roots.roots.iter().any(|found| found.digest == *digest);
        let inner: Vec<Digest> = own
            .manifest
            .children()
            .filter(|child| child.is_index() && leads(&child.digest))
            .map(|child| child.digest)
            .collect();
        for (_, known) in self.contents(&inner)? {
            if let Known::Is(inner) = known {
                all.extend(listed(&inner.manifest));
            }
        }
        Ok(below.filter(|found| all.contains(&found.digest)).collect())
    }

    /// Whether an index lists a manifest, itself or by an index it lists.
    fn reaches<'c>(
        &self,
        index: Digest,
        manifest: Digest,
        content: &impl Fn(&Digest) -> Option<&'c crate::policy::Content>,
    ) -> bool {
        let Some(index) = content(&index) else { return false };
        index.manifest.children().any(|child| {
            child.digest == manifest
                || content(&child.digest)
                    .is_some_and(|inner| inner.manifest.children().any(|child| child.digest == manifest))
        })
    }

    /// Whether an index lists a manifest as one for no platform.
    fn is_attestation<'c>(
        &self,
        index: Digest,
        manifest: Digest,
        content: &impl Fn(&Digest) -> Option<&'c crate::policy::Content>,
    ) -> bool {
        let Some(index) = content(&index) else { return false };
        index.manifest.children().any(|child| {
            child.digest == manifest && child.platform.as_ref().is_some_and(Platform::is_unknown)
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

/// What several lack, each once.
fn together(mut missing: Vec<Digest>) -> Result<(), Stop> {
    missing.sort();
    missing.dedup();
    if missing.is_empty() { Ok(()) } else { Err(Stop::Need(Lack::Contents(missing))) }
}

const EXPECTED: &str = "in the closure of a permitted image of this repository";
