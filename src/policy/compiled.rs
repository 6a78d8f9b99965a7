//! The policy in force: rules checked as a whole, merged with `[require]` and ready to be asked.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::companion::Companion;
use super::content::ContentRules;
use super::decide::Judge;
use super::exceptions::Exceptions;
use super::recalls::Recalls;
use super::rules::{
    Exception, Help, HoldFirst, Invalid, Item, Leaves, Mode, Modes, Moved, Pin, PolicyTest, Recall, Rules,
    SourceRule, Written,
};
use super::{Code, Decision, Digests, Facts, Match, Pattern};
use crate::identity::{Caller, Class};
use crate::oci::{Ask, Digest, Name, Registry, Tag};

/// What a refusal or a trace shows of a longer list.
const SHOWN: usize = 4;

/// A checked policy. Deciding reads nothing but it and its arguments.
#[derive(Debug)]
pub struct Policy {
    name: Arc<str>,
    revision: Arc<str>,
    sha256: Digest,
    mode: Mode,
    help: Help,
    unlisted: HashSet<Registry>,
    /// Most specific first.
    sources: Vec<Source>,
    by_registry: HashMap<Registry, Vec<usize>>,
    /// The rules of `[require]` alone, for repositories that only `unlisted` lets through.
    stray: Source,
    pins: HashMap<Name, Vec<Pin>>,
    pub(super) recalls: Recalls,
    pub(super) exceptions: Exceptions,
    tests: Vec<PolicyTest>,
}

/// A `[[source]]` merged with `[require]`.
#[derive(Debug)]
pub struct Source {
    pub(super) id: Arc<str>,
    pub(super) pattern: Option<Match>,
    pub(super) at: Arc<str>,
    pub(super) allow: Written<Vec<Pattern>>,
    pub(super) deny: Written<Vec<Pattern>>,
    pub(super) moved: Written<Moved>,
    pub(super) digests: Written<Digests>,
    pub(super) clients: Option<Written<Vec<Arc<str>>>>,
    pub(super) hold: Option<Written<Duration>>,
    pub(super) hold_first: HoldFirst,
    pub(super) content: ContentRules,
    pub(super) mode: Mode,
    modes: Modes,
    required_modes: Modes,
    /// Literal allow patterns that no deny pattern refuses: what one sweep resolves.
    pub(super) literals: Vec<Tag>,
    /// `allow` and `deny` in words, made once because every decision shows them.
    pub(super) allow_words: String,
    pub(super) deny_words: String,
}

/// Who answers for a repository.
pub(super) enum Owner<'a> {
    /// Nobody.
    None,
    /// This source.
    Source(&'a Source),
    /// No source, but the mode and `unlisted` let it through.
    Unlisted(&'a Source),
}

impl Policy {
    /// Checks the rules against each other: ids are unique, no two sources that can own one name are
    /// equally specific, no tag is pinned twice, every pin has an owner.
    pub fn new(rules: Rules) -> Result<Self, Invalid> {
        let unlisted: HashSet<Registry> = rules.unlisted.into_iter().collect();
        let softened = rules.mode != Mode::Enforce;
        check_sources(&rules.sources)?;
        let stray = Source::merge(
            "unlisted".into(),
            None,
            "[require]".into(),
            Leaves::default(),
            &rules.require,
            rules.mode,
        );
        let mut sources: Vec<Source> = rules
            .sources
            .into_iter()
            .map(|rule| {
                Source::merge(rule.id, Some(rule.pattern), rule.at, rule.leaves, &rules.require, rules.mode)
            })
            .collect();
        sources.sort_by_key(|source| std::cmp::Reverse(source.pattern.as_ref().map(Match::specificity)));
        let mut by_registry: HashMap<Registry, Vec<usize>> = HashMap::new();
        for (at, source) in sources.iter().enumerate() {
            if let Some(pattern) = &source.pattern {
                by_registry.entry(pattern.registry().clone()).or_default().push(at);
            }
        }
        let mut policy = Self {
            name: rules.name,
            revision: rules.revision,
            sha256: rules.sha256,
            mode: rules.mode,
            help: rules.help,
            unlisted,
            sources,
            by_registry,
            stray,
            pins: HashMap::new(),
            recalls: Recalls::new(rules.recalls)?,
            exceptions: Exceptions::new(rules.exceptions)?,
            tests: rules.tests,
        };
        for (at, pin) in rules.pins.into_iter().enumerate() {
            let invalid = |message, help| Err(Invalid { item: Item::Pin(at), message, help });
            let reachable = policy.source(&pin.name).is_some()
                || softened && policy.unlisted.contains(pin.name.registry());
            if !reachable {
                return invalid(
                    format!("no source owns {}, so this pin admits nothing", pin.name),
                    "add a [[source]] whose match owns the repository, or remove the pin",
                );
            }
            let pins = policy.pins.entry(pin.name.clone()).or_default();
            if pins.iter().any(|other| match &pin.tag {
                Some(tag) => other.tag.as_ref() == Some(tag),
                None => other.tag.is_none() && other.digest == pin.digest,
            }) {
                return invalid(
                    format!(
                        "{} is pinned twice",
                        pin.tag.as_ref().map_or_else(
                            || format!("{}@{}", pin.name, pin.digest),
                            |tag| format!("{}:{tag}", pin.name),
                        )
                    ),
                    "keep one of the two pins",
                );
            }
            pins.push(pin);
        }
        Ok(policy)
    }

    /// May `caller` have this? A pure function: the same arguments get the same answer.
    ///
    /// It asks for what it lacks by [`super::Outcome::Need`]; fill that fact in and ask again.
    pub fn decide(&self, caller: &Caller, ask: &Ask, facts: &Facts, now: Timestamp) -> Decision {
        Judge::decide(self, caller, ask, facts, now)
    }

    /// The registries the policy knows: those of its sources and `unlisted`.
    pub fn registries(&self) -> HashSet<Registry> {
        self.by_registry.keys().chain(&self.unlisted).cloned().collect()
    }

    /// Whether `tags/list` shows this tag to this caller: client, recall and tag rules alone, no facts.
    /// Companion tags are hidden; a tag whose refusal a mode softens is shown.
    pub fn admits_tag(&self, caller: &Caller, name: &Name, tag: &Tag) -> bool {
        let (Owner::Source(source) | Owner::Unlisted(source)) = self.owner(name) else { return false };
        Companion::of(tag).is_none()
            && caller.class != Class::Unknown
            && source.serves(&caller.class)
            && self.recalls.tag(name, tag).is_none()
            && (source.mode_of(Code::TagNotAllowed) != Mode::Enforce || self.passes(source, name, tag))
    }

    /// The policy's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its revision, as written.
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The sha256 of the file it was read from.
    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    /// Its mode, where neither source nor check says otherwise.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whom refusals tell to ask.
    pub fn help(&self) -> &Help {
        &self.help
    }

    /// Its sources, most specific first.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter()
    }

    /// Its tests, in file order.
    pub fn tests(&self) -> &[PolicyTest] {
        &self.tests
    }

    /// Its recalls, in file order.
    pub fn recalls(&self) -> &[Recall] {
        self.recalls.all()
    }

    /// Its exceptions, in file order, whether in force or not.
    pub fn exceptions(&self) -> &[Exception] {
        self.exceptions.all()
    }

    /// Its pins, in no order.
    pub fn pins(&self) -> impl Iterator<Item = &Pin> {
        self.pins.values().flatten()
    }

    pub(super) fn owner(&self, name: &Name) -> Owner<'_> {
        match self.source(name) {
            Some(source) => Owner::Source(source),
            None if self.mode != Mode::Enforce && self.unlisted.contains(name.registry()) => {
                Owner::Unlisted(&self.stray)
            }
            None => Owner::None,
        }
    }

    /// The rules a decision shows where nobody owns the repository.
    pub(super) fn stray(&self) -> &Source {
        &self.stray
    }

    /// The source that owns a repository.
    pub fn source_of(&self, name: &Name) -> Option<&Source> {
        self.source(name)
    }

    /// Whether the tag rules alone let a tag pass: allowed or pinned, not denied, not recalled.
    pub fn passes_tag(&self, name: &Name, tag: &Tag) -> bool {
        let (Owner::Source(source) | Owner::Unlisted(source)) = self.owner(name) else { return false };
        Companion::of(tag).is_none()
            && self.recalls.tag(name, tag).is_none()
            && self.passes(source, name, tag)
    }

    /// The `[[pin]]` of a tag.
    pub fn pin_of(&self, name: &Name, tag: &Tag) -> Option<&Pin> {
        self.pin(name, tag)
    }

    fn source(&self, name: &Name) -> Option<&Source> {
        self.by_registry
            .get(name.registry())?
            .iter()
            .filter_map(|at| self.sources.get(*at))
            .find(|source| source.pattern.as_ref().is_some_and(|pattern| pattern.matches(name)))
    }

    pub(super) fn pins_of(&self, name: &Name) -> &[Pin] {
        self.pins.get(name).map_or(&[], Vec::as_slice)
    }

    pub(super) fn pin(&self, name: &Name, tag: &Tag) -> Option<&Pin> {
        self.pins_of(name).iter().find(|pin| pin.tag.as_ref() == Some(tag))
    }

    pub(super) fn pinned(&self, name: &Name, digest: &Digest) -> Option<&Pin> {
        self.pins_of(name).iter().find(|pin| pin.digest == *digest)
    }

    /// The tag rules alone: allowed or pinned, and not denied.
    pub(super) fn passes(&self, source: &Source, name: &Name, tag: &Tag) -> bool {
        source.denied(tag).is_none() && (source.allowed(tag).is_some() || self.pin(name, tag).is_some())
    }
}

fn check_sources(sources: &[SourceRule]) -> Result<(), Invalid> {
    for (at, source) in sources.iter().enumerate() {
        let invalid = |message, help| Err(Invalid { item: Item::Source(at), message, help });
        if &*source.id == "unlisted" {
            return invalid(
                "the id \"unlisted\" is reserved for repositories without a source".to_owned(),
                "give the source another id",
            );
        }
        for other in sources.iter().take(at) {
            if other.id == source.id {
                return invalid(
                    format!("the source id {:?} is used twice (first at {})", &*source.id, other.at),
                    "give each source its own id: logs and refusals name it",
                );
            }
            let tie = other.pattern.specificity() == source.pattern.specificity();
            if tie && other.pattern.overlaps(&source.pattern) {
                return invalid(
                    format!(
                        "{} and {} ({}) are equally specific and can match one name, so neither owns it",
                        source.pattern, other.pattern, other.at
                    ),
                    "make one match narrower, with more literal segments, or remove one source",
                );
            }
        }
    }
    Ok(())
}

impl Source {
    fn merge(
        id: Arc<str>,
        pattern: Option<Match>,
        at: Arc<str>,
        own: Leaves,
        require: &Leaves,
        mode: Mode,
    ) -> Self {
        fn leaf<T: Clone>(own: Option<Written<T>>, require: Option<&Written<T>>) -> Option<Written<T>> {
            own.or_else(|| require.cloned())
        }
        let allow = leaf(own.allow.clone(), require.allow.as_ref())
            .unwrap_or_else(|| Written { value: Vec::new(), at: at.clone() });
        let deny = leaf(own.deny.clone(), require.deny.as_ref())
            .unwrap_or_else(|| Written { value: Vec::new(), at: at.clone() });
        let moved = leaf(own.moved.clone(), require.moved.as_ref())
            .unwrap_or_else(|| Written { value: Moved::default(), at: at.clone() });
        let digests = leaf(own.digests.clone(), require.digests.as_ref()).unwrap_or_else(|| {
            // What the tags are is what the digests default to.
            let value = if allow.value.is_empty() {
                Digests::Listed
            } else if allow.value.iter().all(Pattern::is_literal) {
                Digests::Known
            } else {
                Digests::Any
            };
            Written { value, at: allow.at.clone() }
        });
        let mode = own.mode.or(require.mode).unwrap_or(mode);
        let content = ContentRules::merge(&own, require);
        let denied = |tag: &Tag| deny.value.iter().any(|pattern| pattern.denies(tag));
        let literals = allow.value.iter().filter_map(Pattern::literal).filter(|tag| !denied(tag)).collect();
        Self {
            allow_words: words(&allow.value, usize::MAX),
            deny_words: words(&deny.value, usize::MAX),
            id,
            pattern,
            at,
            allow,
            deny,
            moved,
            digests,
            clients: leaf(own.clients, require.clients.as_ref()),
            hold: leaf(own.hold, require.hold.as_ref()).filter(|hold| !hold.value.is_zero()),
            hold_first: leaf(own.hold_first, require.hold_first.as_ref())
                .map_or(HoldFirst::default(), |first| first.value),
            content,
            mode,
            modes: own.modes,
            required_modes: require.modes.clone(),
            literals,
        }
    }

    /// Its name in logs and refusals.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Which repositories it owns; none for the rules of unlisted ones.
    pub fn pattern(&self) -> Option<&Match> {
        self.pattern.as_ref()
    }

    /// Where it begins: `policy.toml:41`.
    pub fn at(&self) -> &str {
        &self.at
    }

    /// `tags.allow` in force.
    pub fn allow(&self) -> &[Pattern] {
        &self.allow.value
    }

    /// `tags.deny` in force.
    pub fn deny(&self) -> &[Pattern] {
        &self.deny.value
    }

    /// `tags.moved` in force.
    pub fn moved(&self) -> Moved {
        self.moved.value
    }

    /// `tags.hold` in force.
    pub fn hold(&self) -> Option<Duration> {
        self.hold.as_ref().map(|hold| hold.value)
    }

    /// `tags.hold_first` in force.
    pub fn hold_first(&self) -> HoldFirst {
        self.hold_first
    }

    /// `digests` in force, written or by default.
    pub fn digests(&self) -> Digests {
        self.digests.value
    }

    /// The clients it serves, when it names any.
    pub fn clients(&self) -> Option<&[Arc<str>]> {
        self.clients.as_ref().map(|clients| clients.value.as_slice())
    }

    /// Its mode, where no check says otherwise.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Its content rules in words, by key; what it does not judge is absent.
    pub fn content_words(&self) -> BTreeMap<&'static str, String> {
        self.content.describe()
    }

    /// What is done where this code's rule is broken and a mode may soften it.
    pub fn mode_for(&self, code: Code) -> Mode {
        self.mode_of(code)
    }

    /// What is done where this code's rule is broken; a mode of the check goes before one of the source.
    pub(super) fn mode_of(&self, code: Code) -> Mode {
        self.modes.of(code).or_else(|| self.required_modes.of(code)).unwrap_or(self.mode)
    }

    pub(super) fn serves(&self, class: &Class) -> bool {
        match (&self.clients, class) {
            (None, _) => true,
            (Some(clients), Class::Client(name)) => clients.value.contains(name),
            (Some(_), Class::Anonymous | Class::Unknown) => false,
        }
    }

    pub(super) fn allowed(&self, tag: &Tag) -> Option<&Pattern> {
        self.allow.value.iter().find(|pattern| pattern.admits(tag))
    }

    pub(super) fn denied(&self, tag: &Tag) -> Option<&Pattern> {
        self.deny.value.iter().find(|pattern| pattern.denies(tag))
    }

    /// The allow list as a refusal shows it.
    pub(super) fn allow_short(&self) -> String {
        words(&self.allow.value, SHOWN)
    }
}

fn words(patterns: &[Pattern], shown: usize) -> String {
    if patterns.is_empty() {
        return "none".to_owned();
    }
    let mut text = String::new();
    for pattern in patterns.iter().take(shown) {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(pattern.as_str());
    }
    if patterns.len() > shown {
        text.push_str(", …");
    }
    text
}
