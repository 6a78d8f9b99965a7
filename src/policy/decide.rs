//! One judgement: the phases in order, all checks of a phase, and a need where a fact is lacking.

mod content;
mod digests;
mod exceptions;
mod holds;
mod recalls;
mod tags;

use std::sync::Arc;

use jiff::Timestamp;

use self::exceptions::Excuse;
use super::compiled::{Owner, Policy, Source};
use super::content::Finding;
use super::{
    Check, Code, Decision, Facts, Fresh, Image, Known, Lack, Mode, Need, Outcome, Permit, Reason, Refusal,
    Roots, TagFact, Target, Trace, Verdict,
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

pub(super) struct Judge<'a> {
    policy: &'a Policy,
    caller: &'a Caller,
    name: &'a Name,
    ask: &'a Ask,
    facts: &'a Facts,
    now: Timestamp,
    source: &'a Source,
    trace: Trace,
    broken: Vec<Reason>,
    softened: Vec<(Mode, Reason)>,
    excuses: Vec<Excuse<'a>>,
    waived: Vec<(usize, Reason)>,
    fault: Option<Fault>,
    /// When what was found to pass may fail, or pass otherwise.
    until: Option<Timestamp>,
    /// When what is held will be let go.
    held_until: Option<Timestamp>,
}

impl<'a> Judge<'a> {
    pub(super) fn decide(
        policy: &'a Policy,
        caller: &'a Caller,
        ask: &'a Ask,
        facts: &'a Facts,
        now: Timestamp,
    ) -> Decision {
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
            now,
            source,
            trace: Trace {
                source: owned.then(|| source.id.clone()),
                mode: source.mode.as_str(),
                checks: Vec::with_capacity(8),
            },
            broken: Vec::new(),
            softened: Vec::new(),
            excuses: Vec::new(),
            waived: Vec::new(),
            fault: None,
            until: None,
            held_until: None,
        };
        let end = judge.judge(&owner);
        judge.finish(end)
    }

    fn judge(&mut self, owner: &Owner<'_>) -> Result<Grant, Stop> {
        self.names(owner)?;
        self.recalled_by_name()?;
        self.excuses()?;
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
                let clean = self.softened.is_empty() && self.waived.is_empty();
                let lock = grant.lock.filter(|_| clean);
                let (warning, binds) = (self.warning(), self.binds());
                (Outcome::Permit(Permit::new(self.name, grant.target, binds, lock, warning)), softened)
            }
            Err(Stop::Fail(fault)) => (Outcome::Fail(fault), softened),
            Err(Stop::Need(lack)) => (Outcome::Need(Need::new(self.name, lack)), softened),
            Err(Stop::Refuse) => {
                // The worst first, and among the worst the first in table order.
                self.broken.sort_by_key(|reason| (std::cmp::Reverse(reason.code.verdict()), reason.code));
                self.broken.dedup_by(|a, b| a == b);
                // A refusal always names a reason: `end_of_phase` is the only way here.
                let code = self.broken.first().map_or(Code::FactsUnavailable, |reason| reason.code);
                let (verdict, fault) = (code.verdict(), self.fault.take());
                let until = self.held_until.filter(|_| verdict == Verdict::Hold);
                let fault = fault.filter(|_| code == Code::FactsUnavailable);
                let reasons = std::mem::take(&mut self.broken);
                (Outcome::Refuse(Refusal { code, reasons, fault, until }), verdict)
            }
        };
        self.tell_excuses();
        let mut softened: Vec<Reason> = self.softened.into_iter().map(|(_, reason)| reason).collect();
        softened.sort_by_key(|reason| reason.code);
        softened.dedup();
        Decision { outcome, verdict, softened, trace: Arc::new(self.trace), until: self.until }
    }

    fn warning(&self) -> Option<Arc<str>> {
        let mut texts: Vec<&str> = Vec::new();
        for (mode, reason) in &self.softened {
            if *mode == Mode::Warn && !texts.contains(&reason.text.as_str()) {
                texts.push(&reason.text);
            }
        }
        (!texts.is_empty()).then(|| {
            format!("{} would be blocked by policy: {}", self.ask.reference(), texts.join("; ")).into()
        })
    }

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
            exception: None,
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
            exception: None,
        });
    }

    fn mode_of(&self, code: Code) -> Mode {
        match code {
            Code::ClientNotAllowed
            | Code::ClientRate
            | Code::ClientUnknown
            | Code::ClosureOutside
            | Code::FactsUnavailable
            | Code::MethodUnsupported
            | Code::NameConflict
            | Code::NameInvalid
            | Code::PossessionMissing
            | Code::Recall
            | Code::SourceUnknown => Mode::Enforce,
            Code::Age
            | Code::ArtifactNotAllowed
            | Code::BaseNotAllowed
            | Code::DigestNotListed
            | Code::DigestUnknown
            | Code::Hold
            | Code::IndexTooLarge
            | Code::Label
            | Code::MediaRefused
            | Code::PlatformNotAllowed
            | Code::Size
            | Code::TagDenied
            | Code::TagMoved
            | Code::TagNotAllowed
            | Code::UserMinUid
            | Code::UserNamed => self.source.mode_of(code),
        }
    }

    fn fail(&mut self, reason: Reason) {
        if let Some(at) = self.excuse(reason.code) {
            self.waived.push((at, reason));
            return;
        }
        match self.mode_of(reason.code) {
            Mode::Enforce => self.broken.push(reason),
            mode => self.softened.push((mode, reason)),
        }
    }

    /// Whether a broken rule would refuse here: no exception waives it, no mode softens it.
    fn refuses(&self, code: Code) -> bool {
        self.excuse(code).is_none() && self.mode_of(code) == Mode::Enforce
    }

    /// Takes findings over into the record and the verdict.
    fn take(&mut self, findings: Vec<Finding>) {
        for finding in findings {
            let Finding { id, observed, expected, at, refusal, fault, until } = finding;
            self.trace.checks.push(Check {
                id,
                pass: refusal.is_none(),
                observed,
                expected,
                at,
                exception: None,
            });
            if let Some(reason) = refusal {
                self.fault = self.fault.take().or(fault.filter(is_upstream_s));
                self.fail(reason);
            } else if let Some(until) = until {
                self.holds_until(until);
            }
        }
    }

    /// Notes that time alone may change the answer then.
    fn holds_until(&mut self, until: Timestamp) {
        self.until = Some(self.until.map_or(until, |earlier| earlier.min(until)));
    }

    fn end_of_phase(&self) -> Result<(), Stop> {
        if self.broken.is_empty() { Ok(()) } else { Err(Stop::Refuse) }
    }

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

    fn soften(&mut self, reason: Option<Reason>) {
        if let Some(reason) = reason {
            self.fail(reason);
        }
    }

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
    fn image(&self, digest: Digest) -> Result<&'a Image, Stop> {
        match &self.facts.image {
            Known::Failed(fault) => Err(Stop::Fail(fault.clone())),
            Known::Is(image) if image.manifest.digest == digest => Ok(image),
            Known::Is(_) | Known::Unasked => Err(Stop::Need(Lack::Image(digest))),
        }
    }
}

impl Reason {
    pub(super) fn new(code: Code, text: impl Into<String>, remedy: Option<String>) -> Self {
        Self { code, text: text.into(), remedy }
    }
}

/// Whether asking again later may help, because it is not the image that is at fault.
fn is_upstream_s(fault: &Fault) -> bool {
    fault.is_transient() || matches!(fault, Fault::Denied(_))
}

/// A digest as people recognise it.
pub(super) fn short(digest: &Digest) -> String {
    let mut text = digest.to_string();
    text.truncate(digest.algorithm().as_str().len() + 1 + 12);
    text.push('…');
    text
}
