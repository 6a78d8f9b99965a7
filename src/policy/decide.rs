//! One judgement: the phases in order, all checks of a phase, and a need where a fact is lacking.

use std::sync::Arc;

use super::companion::{self, Companion, LEVELS_MAX};
use super::compiled::{Owner, Policy, Source};
use super::content;
use super::{
    Check, Code, Decision, Digests, Facts, Fresh, Image, Known, Lack, Mode, Moved, Need, Outcome, Permit,
    Reason, Refusal, Root, Roots, TagFact, Target, Trace, Verdict,
};
use crate::identity::{Caller, Class};
use crate::oci::{Ask, Digest, Fault, Name, Tag, What};

/// Why a judgement ends early.
pub(super) enum Stop {
    /// A fact cannot be had.
    Fail(Fault),
    /// A fact is lacking.
    Need(Lack),
    /// A rule of this phase is broken.
    Refuse,
}

/// What is granted when nothing stops it.
struct Grant {
    target: Target,
    lock: Option<Tag>,
}

impl Grant {
    fn of(target: Target) -> Self {
        Self { target, lock: None }
    }
}

/// How a digest stands in its repository.
enum Standing {
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

pub(super) struct Judge<'a> {
    policy: &'a Policy,
    caller: &'a Caller,
    name: &'a Name,
    ask: &'a Ask,
    facts: &'a Facts,
    source: &'a Source,
    trace: Trace,
    broken: Vec<Reason>,
    softened: Vec<(Mode, Reason)>,
    fault: Option<Fault>,
}

impl<'a> Judge<'a> {
    pub(super) fn decide(policy: &'a Policy, caller: &'a Caller, ask: &'a Ask, facts: &'a Facts) -> Decision {
        let owner = policy.owner(&ask.name);
        let (source, owned) = match &owner {
            Owner::None => (policy.stray(), false),
            Owner::Source(source) => (*source, true),
            Owner::Unlisted(source) => (*source, false),
        };
        let mut judge = Self {
            policy,
            caller,
            name: &ask.name,
            ask,
            facts,
            source,
            trace: Trace {
                source: owned.then(|| source.id.clone()),
                mode: source.mode.as_str(),
                checks: Vec::with_capacity(8),
            },
            broken: Vec::new(),
            softened: Vec::new(),
            fault: None,
        };
        let end = judge.judge(&owner);
        judge.finish(end)
    }

    fn judge(&mut self, owner: &Owner<'_>) -> Result<Grant, Stop> {
        self.names(owner)?;
        match &self.ask.what {
            What::Blob(digest) => self.blob(*digest),
            What::Digest(digest) => self.manifest(*digest),
            What::Referrers(digest) => self.referrers(*digest),
            What::Tag(tag) => self.tag(tag),
            What::Tags => Ok(Grant::of(Target::Tags)),
        }
    }

    fn finish(mut self, end: Result<Grant, Stop>) -> Decision {
        let softened = if self.softened.is_empty() { Verdict::Allow } else { Verdict::Warn };
        let (outcome, verdict) = match end {
            Ok(grant) => {
                // A lock is the first digest served with every check passed.
                let lock = grant.lock.filter(|_| self.softened.is_empty());
                let warning = self.warning();
                (Outcome::Permit(Permit::new(self.name, grant.target, lock, warning)), softened)
            }
            Err(Stop::Fail(fault)) => (Outcome::Fail(fault), softened),
            Err(Stop::Need(lack)) => (Outcome::Need(Need::new(self.name, lack)), softened),
            Err(Stop::Refuse) => {
                self.broken.sort_by_key(|reason| reason.code);
                // A refusal always names a reason: `end_of_phase` is the only way here.
                let code = self.broken.first().map_or(Code::FactsUnavailable, |reason| reason.code);
                (Outcome::Refuse(Refusal { code, reasons: self.broken, fault: self.fault }), Verdict::Deny)
            }
        };
        let mut softened: Vec<Reason> = self.softened.into_iter().map(|(_, reason)| reason).collect();
        softened.sort_by_key(|reason| reason.code);
        Decision { outcome, verdict, softened, trace: Arc::new(self.trace), until: None }
    }

    fn warning(&self) -> Option<Arc<str>> {
        let texts: Vec<&str> = self
            .softened
            .iter()
            .filter(|(mode, _)| *mode == Mode::Warn)
            .map(|(_, reason)| reason.text.as_str())
            .collect();
        (!texts.is_empty()).then(|| {
            format!("{} would be blocked by policy: {}", self.ask.reference(), texts.join("; ")).into()
        })
    }

    // The record.

    fn check(
        &mut self,
        id: &'static str,
        pass: bool,
        observed: impl Into<String>,
        expected: impl Into<String>,
        at: &Arc<str>,
    ) {
        self.trace.checks.push(Check {
            id,
            pass,
            observed: observed.into(),
            expected: expected.into(),
            at: Some(at.clone()),
        });
    }

    fn check_unwritten(
        &mut self,
        id: &'static str,
        pass: bool,
        observed: impl Into<String>,
        expected: impl Into<String>,
    ) {
        self.trace.checks.push(Check {
            id,
            pass,
            observed: observed.into(),
            expected: expected.into(),
            at: None,
        });
    }

    fn mode_of(&self, code: Code) -> Mode {
        let modes = &self.source.modes;
        match code {
            Code::TagDenied | Code::TagNotAllowed => modes.tag,
            Code::DigestNotListed | Code::DigestUnknown => modes.digest,
            Code::TagMoved => modes.tag_moved,
            Code::IndexTooLarge | Code::MediaRefused => modes.media,
            Code::ClientNotAllowed
            | Code::ClientUnknown
            | Code::ClosureOutside
            | Code::FactsUnavailable
            | Code::MethodUnsupported
            | Code::NameConflict
            | Code::NameInvalid
            | Code::PossessionMissing
            | Code::SourceUnknown => Mode::Enforce,
        }
    }

    fn fail(&mut self, reason: Reason) {
        match self.mode_of(reason.code) {
            Mode::Enforce => self.broken.push(reason),
            mode => self.softened.push((mode, reason)),
        }
    }

    fn end_of_phase(&self) -> Result<(), Stop> {
        if self.broken.is_empty() { Ok(()) } else { Err(Stop::Refuse) }
    }

    // The name phase.

    fn names(&mut self, owner: &Owner<'_>) -> Result<(), Stop> {
        let source = self.source;
        let known = self.caller.class != Class::Unknown;
        let class = match &self.caller.class {
            Class::Anonymous => "anonymous",
            Class::Client(name) => name,
            Class::Unknown => "a token that belongs to no client",
        };
        self.check_unwritten("client", known, class, "a known client or none");
        if !known {
            self.fail(Reason::new(
                Code::ClientUnknown,
                "the token shown belongs to no client of this gateway",
                Some("correct the Authorization header set for the gateway, or remove it".to_owned()),
            ));
        }
        let unowned = |name: &Name| {
            Reason::new(
                Code::SourceUnknown,
                format!("no source of the policy owns {name}"),
                Some("use an image from an approved source, or ask for this one to be added".to_owned()),
            )
        };
        match owner {
            Owner::Source(source) => {
                let pattern = source.pattern.as_ref().map(ToString::to_string).unwrap_or_default();
                self.check("source", true, self.name.to_string(), pattern, &source.at);
            }
            Owner::None => {
                self.check_unwritten("source", false, self.name.to_string(), "a source that owns it");
                self.fail(unowned(self.name));
            }
            Owner::Unlisted(_) => {
                self.check_unwritten("source", false, self.name.to_string(), "a source that owns it");
                self.softened.push((self.policy.mode(), unowned(self.name)));
            }
        }
        if let Some(clients) = &source.clients {
            let serves = source.serves(&self.caller.class);
            self.check("source.clients", serves, class, clients.value.join(", "), &clients.at);
            if !serves {
                self.fail(Reason::new(
                    Code::ClientNotAllowed,
                    format!("{} is served to certain clients only, and you are not one of them", self.name),
                    Some("pull it from a client that may, or ask to be one".to_owned()),
                ));
            }
        }
        self.end_of_phase()
    }

    // Tags.

    fn tag(&mut self, tag: &Tag) -> Result<Grant, Stop> {
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
                (pin.digest, false)
            }
            None => self.resolve(tag)?,
        };
        self.end_of_phase()?;
        let image = self.image(digest)?;
        self.content(&image)?;
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

    fn tag_denied(&self, tag: &Tag, pattern: &str) -> Reason {
        Reason::new(
            Code::TagDenied,
            format!("tag \"{tag}\" is denied (deny: {pattern}): what it names changes"),
            self.try_instead(tag).or_else(|| Some("name an exact version".to_owned())),
        )
    }

    fn tag_not_allowed(&self, tag: &Tag, companion: bool) -> Reason {
        let source = self.source;
        let text = if companion {
            format!("tag \"{tag}\" belongs to no image that is permitted here")
        } else if source.allow.value.is_empty() {
            format!("tag \"{tag}\" is not allowed: this repository is pulled by digest only")
        } else {
            format!("tag \"{tag}\" is not pinned (allowed: {})", source.allow_short())
        };
        let remedy = self.try_instead(tag).or_else(|| {
            (source.allow.value.is_empty() && !companion).then(|| match source.digests.value {
                Digests::Any => "name it by digest: @sha256:…".to_owned(),
                Digests::Known | Digests::Listed => "ask for its digest to be pinned".to_owned(),
            })
        });
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
                        Some(current) => format!("tag \"{tag}\" was {lock} and is now {current} upstream"),
                        None => format!("tag \"{tag}\" was {lock} and is gone upstream"),
                    },
                    Some("after review, accept it with a [[pin]] of its digest".to_owned()),
                ));
            }
        }
        Ok((served, fact.lock != Some(served) && !fact.stale))
    }

    fn absent(&self, tag: &Tag, fact: &TagFact) -> Stop {
        let what: Arc<str> = format!("{}:{tag}", self.name).into();
        Stop::Fail(if fact.stale { Fault::Unreachable(what) } else { Fault::Absent(what) })
    }

    /// A companion's grant; none when the tag has to stand as an ordinary one.
    fn companion_tag(&mut self, tag: &Tag, companion: Companion) -> Result<Option<Grant>, Stop> {
        let (standing, subject) = match (self.source.digests.value, companion.subject) {
            (Digests::Any, subject) => (Standing::Root(None), subject),
            (_, None) => return Ok(None),
            // One level is the tag's own, so its subject may be one level away at most.
            (_, Some(subject)) => (self.standing(subject, LEVELS_MAX - 1)?, Some(subject)),
        };
        let subject = subject.map_or_else(|| "a sha512 digest".to_owned(), |subject| subject.to_string());
        let at = &self.source.digests.at;
        let reason = match standing {
            Standing::Leaf(reason) | Standing::Root(reason) => reason,
            Standing::Outside => {
                self.check("companion", false, subject, "of an admitted digest", at);
                return Ok(None);
            }
        };
        let fact = self.tag_fact(tag, Fresh::Ttl)?;
        // Companions are never locked: a lock says that it was served as an ordinary tag, and it stays
        // one as long as the tag rules serve it.
        let ordinary =
            self.source.modes.tag != Mode::Enforce || self.policy.passes(self.source, self.name, tag);
        if fact.lock.is_some() && ordinary {
            return Ok(None);
        }
        let served = if fact.stale { fact.current.or(fact.lock) } else { fact.current };
        let Some(digest) = served else { return Err(self.absent(tag, fact)) };
        let image = self.image(digest)?;
        if let Some(excess) = companion::excess(&image.manifest) {
            self.check("companion", false, excess, "a leaf", at);
            return Ok(None);
        }
        self.check("companion", true, subject, "of an admitted digest", at);
        self.soften(reason);
        self.content(&image)?;
        Ok(Some(Grant::of(Target::Manifest(image.manifest.clone()))))
    }

    fn soften(&mut self, reason: Option<Reason>) {
        if let Some(reason) = reason {
            self.fail(reason);
        }
    }

    // Digests.

    fn manifest(&mut self, digest: Digest) -> Result<Grant, Stop> {
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
    fn standing(&self, digest: Digest, reach: u8) -> Result<Standing, Stop> {
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

    // Blobs and referrers.

    fn blob(&mut self, digest: Digest) -> Result<Grant, Stop> {
        if self.is_hopeless() && self.source.modes.digest == Mode::Enforce {
            let reason = self.outside(digest);
            self.fail(reason);
            return Err(Stop::Refuse);
        }
        let roots = self.roots(digest)?;
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

    fn referrers(&mut self, subject: Digest) -> Result<Grant, Stop> {
        match self.admitted(subject) {
            // The spec answers an unknown subject with an empty index.
            Ok(_) | Err(Stop::Fail(Fault::Absent(_))) => Ok(Grant::of(Target::Referrers(subject))),
            Err(stop) => Err(stop),
        }
    }

    // Content.

    fn content(&mut self, image: &Image) -> Result<(), Stop> {
        let source = self.source;
        for finding in content::judge(&image.manifest) {
            self.check(finding.id, finding.refusal.is_none(), finding.observed, finding.expected, &source.at);
            if let Some(reason) = finding.refusal {
                self.fail(reason);
            }
        }
        self.end_of_phase()
    }

    // Facts.

    fn tag_fact(&self, tag: &Tag, fresh: Fresh) -> Result<&'a TagFact, Stop> {
        match &self.facts.tag {
            Known::Failed(fault) => Err(Stop::Fail(fault.clone())),
            Known::Is(fact) => Ok(fact),
            Known::Unasked => Err(Stop::Need(Lack::Tag { tag: tag.clone(), fresh })),
        }
    }

    fn roots(&self, digest: Digest) -> Result<&'a Roots, Stop> {
        match &self.facts.roots {
            Known::Failed(fault) => Err(Stop::Fail(fault.clone())),
            Known::Is(roots) => Ok(roots),
            Known::Unasked => Err(Stop::Need(Lack::Roots(digest))),
        }
    }

    /// A manifest other than the one to be served (the policy changed between two turns) is none.
    fn image(&self, digest: Digest) -> Result<Arc<Image>, Stop> {
        match &self.facts.image {
            Known::Failed(fault) => Err(Stop::Fail(fault.clone())),
            Known::Is(image) if image.manifest.digest == digest => Ok(image.clone()),
            Known::Is(_) | Known::Unasked => Err(Stop::Need(Lack::Image(digest))),
        }
    }
}

impl Reason {
    pub(super) fn new(code: Code, text: impl Into<String>, remedy: Option<String>) -> Self {
        Self { code, text: text.into(), remedy }
    }
}

/// A digest as people recognise it.
pub(super) fn short(digest: &Digest) -> String {
    let mut text = digest.to_string();
    text.truncate(digest.algorithm().as_str().len() + 1 + 12);
    text.push('…');
    text
}
