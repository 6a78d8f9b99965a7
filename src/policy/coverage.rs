//! Which rules anybody met.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::compiled::Owner;
use super::recorded::{Asked, Recorded, Span};
use super::{Policy, Verdict};

/// What a rule is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum RuleKind {
    /// An entry of `tags.allow`.
    Allow,
    /// An entry of `tags.deny`.
    Deny,
    /// An `[[exception]]`: met when a check passed by it alone.
    Exception,
    /// A `[[pin]]`.
    Pin,
    /// A `[[source]]`.
    Source,
}

impl RuleKind {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Exception => "exception",
            Self::Pin => "pin",
            Self::Source => "source",
        }
    }
}

/// One rule and what met it.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it is.
    pub kind: RuleKind,
    /// Where: `policy.toml:41`.
    pub at: Arc<str>,
    /// Its words.
    pub words: String,
    /// The pulls that met it; none when nobody did.
    pub met: Option<Span>,
}

/// Collects recorded pulls and sorts them to the rules that they meet under this policy.
#[derive(Debug)]
pub struct Coverage<'a> {
    policy: &'a Policy,
    rules: BTreeMap<(usize, RuleKind, Arc<str>, String), Option<Span>>,
}

impl<'a> Coverage<'a> {
    /// Nothing is met yet.
    pub fn new(policy: &'a Policy) -> Self {
        let mut coverage = Self { policy, rules: BTreeMap::new() };
        for source in policy.sources() {
            coverage.rule(RuleKind::Source, &source.at, source.id().to_owned());
            for pattern in source.allow() {
                coverage.rule(RuleKind::Allow, &source.allow.at, pattern.to_string());
            }
            for pattern in source.deny() {
                coverage.rule(RuleKind::Deny, &source.deny.at, pattern.to_string());
            }
        }
        for exception in policy.exceptions() {
            coverage.rule(RuleKind::Exception, &exception.at, exception.id.to_string());
        }
        for pin in policy.pins() {
            coverage.rule(RuleKind::Pin, &pin.at, pin_words(pin));
        }
        coverage
    }

    fn rule(&mut self, kind: RuleKind, at: &Arc<str>, words: String) {
        self.rules.entry(key(kind, at, words)).or_default();
    }

    fn meet(&mut self, kind: RuleKind, at: &Arc<str>, words: String, pull: &Recorded) {
        match self.rules.get_mut(&key(kind, at, words)) {
            Some(Some(span)) => span.add(pull),
            Some(none) => *none = Some(Span::of(pull)),
            None => {}
        }
    }

    /// Takes one entry of the record. What counts is which rules of *this* policy it meets, so that a
    /// file whose lines moved since is covered as well.
    pub fn add(&mut self, pull: &Recorded) {
        let policy = self.policy;
        let Owner::Source(source) = policy.owner(&pull.name) else { return };
        self.meet(RuleKind::Source, &source.at, source.id().to_owned(), pull);
        if let Asked::Tag(tag) = &pull.asked {
            for pattern in source.allow().iter().filter(|pattern| pattern.admits(tag)) {
                self.meet(RuleKind::Allow, &source.allow.at, pattern.to_string(), pull);
            }
            for pattern in source.deny().iter().filter(|pattern| pattern.denies(tag)) {
                self.meet(RuleKind::Deny, &source.deny.at, pattern.to_string(), pull);
            }
        }
        for exception in policy.exceptions().iter().filter(|one| pull.exceptions.contains(&one.id)) {
            self.meet(RuleKind::Exception, &exception.at, exception.id.to_string(), pull);
        }
        let served = pull.verdict < Verdict::Hold;
        for pin in policy.pins_of(&pull.name) {
            let by_tag = matches!((&pull.asked, &pin.tag), (Asked::Tag(tag), Some(pinned)) if tag == pinned);
            let digests = [pull.digest, pull.root];
            let by_digest =
                served && !matches!(pull.asked, Asked::Tag(_)) && digests.contains(&Some(pin.digest));
            if by_tag || by_digest {
                self.meet(RuleKind::Pin, &pin.at, pin_words(pin), pull);
            }
        }
    }

    /// Every rule, in file order.
    pub fn rules(self) -> Vec<Rule> {
        let rule = |((_, kind, at, words), met)| Rule { kind, at, words, met };
        self.rules.into_iter().map(rule).collect()
    }
}

fn pin_words(pin: &super::Pin) -> String {
    match &pin.tag {
        Some(tag) => format!("{}:{tag}", pin.name),
        None => format!("{}@{}", pin.name, pin.digest),
    }
}

fn key(kind: RuleKind, at: &Arc<str>, words: String) -> (usize, RuleKind, Arc<str>, String) {
    let line = at.rsplit(':').next().and_then(|line| line.parse().ok()).unwrap_or(0);
    (line, kind, at.clone(), words)
}
