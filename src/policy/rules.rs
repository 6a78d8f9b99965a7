//! What the policy file says, typed but not yet judged as a whole: settings reads it, [`super::Policy`]
//! checks and compiles it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;

use super::{Code, Match, Pattern, Softenable, Verdict};
use crate::oci::{Digest, Name, Reference, Registry, Tag};

/// Whether a broken rule refuses.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Mode {
    /// Refuse.
    #[default]
    Enforce,
    /// Serve and record.
    Observe,
    /// Serve with `Warning: 299` and record.
    Warn,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Enforce, Self::Observe, Self::Warn];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
            Self::Warn => "warn",
        }
    }
}

/// What happens when a locked tag leads elsewhere upstream.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Moved {
    /// Refused until a person accepts the new digest.
    Deny,
    /// The new digest is served and becomes the lock.
    Follow,
    /// The locked digest goes on; the drift is recorded.
    #[default]
    Keep,
}

impl Moved {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Deny, Self::Follow, Self::Keep];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Follow => "follow",
            Self::Keep => "keep",
        }
    }
}

/// Which digests may be asked for as roots.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Digests {
    /// Any that the source's own repository holds.
    Any,
    /// Those an allowed tag leads to.
    Known,
    /// Those of `[[pin]]`s.
    Listed,
}

impl Digests {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Any, Self::Known, Self::Listed];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Known => "known",
            Self::Listed => "listed",
        }
    }
}

/// Whom to ask, printed in refusals. Neither holds control characters.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Help {
    /// A channel or address, at most 60 characters.
    pub contact: Option<String>,
    /// A web address, at most 120 characters; `{id}` becomes the decision's id.
    pub url: Option<String>,
}

/// A value and where it is written (`policy.toml:41`).
#[derive(Clone, Debug)]
pub struct Written<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub at: Arc<str>,
}

/// The modes of single checks, where they are written. The narrower word wins: `user.named` over `user`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Modes(BTreeMap<Softenable, Mode>);

impl Modes {
    /// With this check's mode.
    pub fn with(mut self, check: Softenable, mode: Mode) -> Self {
        self.0.insert(check, mode);
        self
    }

    /// The mode written for a code.
    pub fn of(&self, code: Code) -> Option<Mode> {
        let written = self.0.iter().filter(|(check, _)| check.codes().contains(&code));
        written.min_by_key(|(check, _)| check.codes().len()).map(|(_, mode)| *mode)
    }
}

/// A clock by which an image's age is told.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AgeClock {
    /// The manifest's annotation `org.opencontainers.image.created`, or the index's.
    Annotation,
    /// `created` of the image config.
    Config,
    /// When this gateway first met it in that repository: the one clock nobody else can set.
    FirstSeen,
}

impl AgeClock {
    /// Every clock.
    pub const ALL: [Self; 3] = [Self::Annotation, Self::Config, Self::FirstSeen];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Annotation => "annotation",
            Self::Config => "config",
            Self::FirstSeen => "first_seen",
        }
    }
}

/// `age`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AgeRule {
    /// The oldest an image may be.
    pub max: Duration,
    /// The clocks, first to last: the first that knows decides.
    pub clocks: Vec<AgeClock>,
    /// A date before this is none: builders write 1970 for "reproducible".
    pub ignore_before: Timestamp,
}

/// `artifacts`: what is done with what is no image.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Artifacts {
    /// It is served.
    #[default]
    Allow,
    /// It is refused.
    Deny,
    /// It is served where its type is one of these.
    Types(Vec<Arc<str>>),
}

/// `base`: the image must say what it was built on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BaseRule {
    /// The digests it may have been built on; any when empty.
    pub digests: Vec<Digest>,
    /// The repositories it may have been built on; any when empty.
    pub names: Vec<Match>,
}

/// `tags.hold_first`: what becomes of the very first digest of a tag.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum HoldFirst {
    /// It is held as any other.
    #[default]
    Refuse,
    /// It is served at once.
    Serve,
}

impl HoldFirst {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::Refuse, Self::Serve];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Serve => "serve",
        }
    }
}

/// `index`: how many of an index's platform manifests must pass.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum IndexRule {
    /// Each of `platforms` that it carries.
    #[default]
    All,
    /// One of them; the others are still refused by themselves.
    Any,
}

impl IndexRule {
    /// Every choice.
    pub const ALL: [Self; 2] = [Self::All, Self::Any];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Any => "any",
        }
    }
}

/// One entry of `labels`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LabelRule {
    /// The label.
    pub key: Arc<str>,
    /// What it must hold: literal but for `*`, any run of characters.
    pub value: Arc<str>,
}

/// One entry of `platforms`: `os/architecture[/variant]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PlatformRule {
    /// GOOS.
    pub os: Arc<str>,
    /// GOARCH.
    pub architecture: Arc<str>,
    /// Any when absent.
    pub variant: Option<Arc<str>>,
}

/// `size`, of one platform's image.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SizeRule {
    /// The most bytes, config and compressed layers together.
    pub max: Option<u64>,
    /// The most bytes of one layer.
    pub layer: Option<u64>,
    /// The most layers.
    pub layers: Option<usize>,
}

/// `user`: whom the image runs as.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserRule {
    /// The lowest number.
    pub min_uid: u32,
    /// Names that are accepted although a name says nothing about its number.
    pub names: Vec<Arc<str>>,
}

/// The keys a source and `[require]` share; a leaf that a source writes replaces that of `[require]`.
#[derive(Clone, Debug, Default)]
pub struct Leaves {
    /// `age`.
    pub age: Option<Written<AgeRule>>,
    /// `tags.allow`.
    pub allow: Option<Written<Vec<Pattern>>>,
    /// `artifacts`.
    pub artifacts: Option<Written<Artifacts>>,
    /// `base`.
    pub base: Option<Written<BaseRule>>,
    /// `clients`.
    pub clients: Option<Written<Vec<Arc<str>>>>,
    /// `tags.deny`.
    pub deny: Option<Written<Vec<Pattern>>>,
    /// `digests`.
    pub digests: Option<Written<Digests>>,
    /// `tags.hold`; zero holds nothing.
    pub hold: Option<Written<Duration>>,
    /// `tags.hold_first`.
    pub hold_first: Option<Written<HoldFirst>>,
    /// `index`.
    pub index: Option<Written<IndexRule>>,
    /// `labels`.
    pub labels: Option<Written<Vec<LabelRule>>>,
    /// `mode`.
    pub mode: Option<Mode>,
    /// `modes`.
    pub modes: Modes,
    /// `tags.moved`.
    pub moved: Option<Written<Moved>>,
    /// `platforms`; an empty list allows all.
    pub platforms: Option<Written<Vec<PlatformRule>>>,
    /// `size`.
    pub size: Option<Written<SizeRule>>,
    /// `user`.
    pub user: Option<Written<UserRule>>,
}

/// One `[[recall]]`: withdrawn, whatever else is written.
#[derive(Clone, Debug)]
pub struct Recall {
    /// Its name in logs and refusals.
    pub id: Arc<str>,
    /// Why.
    pub reason: Arc<str>,
    /// Manifests, by the sha256 of their bytes.
    pub digests: Vec<Digest>,
    /// Layers as they are stored, by the sha256 of their bytes.
    pub layers: Vec<Digest>,
    /// Layers uncompressed.
    pub diff_ids: Vec<Digest>,
    /// Tags, with every digest they ever had; without one, all of the repository.
    pub images: Vec<(Name, Option<Tag>)>,
    /// What to pull instead.
    pub replace: Option<Reference>,
    /// Where it begins.
    pub at: Arc<str>,
}

/// One `[[exception]]`: checks waived for one image, by two people, until a date.
#[derive(Clone, Debug)]
pub struct Exception {
    /// Its name in logs.
    pub id: Arc<str>,
    /// For which image: exactly one tag, or one digest.
    pub image: Reference,
    /// Which checks.
    pub waive: Vec<Softenable>,
    /// Why.
    pub reason: Arc<str>,
    /// Where that was decided.
    pub ticket: Arc<str>,
    /// Who asked.
    pub requested_by: Arc<str>,
    /// Who agreed; somebody else.
    pub approved_by: Arc<str>,
    /// From the beginning of this day, in UTC.
    pub approved: Date,
    /// To the end of this day, in UTC.
    pub expires: Date,
    /// Where it begins.
    pub at: Arc<str>,
}

/// One `[[source]]`.
#[derive(Clone, Debug)]
pub struct SourceRule {
    /// Its name in logs and refusals.
    pub id: Arc<str>,
    /// Which repositories it owns.
    pub pattern: Match,
    /// Its rules.
    pub leaves: Leaves,
    /// Where it begins.
    pub at: Arc<str>,
}

/// One `[[pin]]`: a digest that a person vouches for.
#[derive(Clone, Debug)]
pub struct Pin {
    /// In which repository.
    pub name: Name,
    /// The tag it answers for; without one it admits the digest only.
    pub tag: Option<Tag>,
    /// The digest.
    pub digest: Digest,
    /// Where it begins.
    pub at: Arc<str>,
}

/// What a `[[test]]` supposes about the world.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Given {
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// What kind of artifact it is; an image when absent.
    pub artifact_type: Option<String>,
    /// `created` of the image config.
    pub created: Option<Timestamp>,
    /// The uncompressed digests of its layers.
    pub diff_ids: Vec<Digest>,
    /// Where the tag leads upstream.
    pub digest: Option<Digest>,
    /// When this gateway first met the digest.
    pub first_seen: Option<Timestamp>,
    /// The labels of the image.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its layers.
    pub layers: Vec<Digest>,
    /// What the tag is locked to here.
    pub locked: Option<Digest>,
    /// The platform it runs on.
    pub platform: Option<PlatformRule>,
    /// The bytes of all its layers together.
    pub size: Option<u64>,
    /// The tags that lead to the digest that is pulled.
    pub tags: Vec<Tag>,
    /// `User` of the image config.
    pub user: Option<String>,
}

/// One `[[test]]`.
#[derive(Clone, Debug)]
pub struct PolicyTest {
    /// What is pulled.
    pub pull: Reference,
    /// The verdict it must get.
    pub expect: Verdict,
    /// Codes that must be among the reasons.
    pub because: Vec<Code>,
    /// What is supposed.
    pub facts: Given,
    /// The `[[client]]` that asks; nobody in particular when absent.
    pub client: Option<Arc<str>>,
    /// The time of judging, where the test fixes one.
    pub time: Option<Timestamp>,
    /// Where it begins.
    pub at: Arc<str>,
}

/// The whole file.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `name`.
    pub name: Arc<str>,
    /// `revision`.
    pub revision: Arc<str>,
    /// Of the file's bytes.
    pub sha256: Digest,
    /// `mode`.
    pub mode: Mode,
    /// `unlisted`.
    pub unlisted: Vec<Registry>,
    /// `[help]`.
    pub help: Help,
    /// `[require]`.
    pub require: Leaves,
    /// `[[source]]`, in file order.
    pub sources: Vec<SourceRule>,
    /// `[[pin]]`, in file order.
    pub pins: Vec<Pin>,
    /// `[[recall]]`, in file order.
    pub recalls: Vec<Recall>,
    /// `[[exception]]`, in file order.
    pub exceptions: Vec<Exception>,
    /// `[[test]]`, in file order.
    pub tests: Vec<PolicyTest>,
}

/// Which item of [`Rules`] is wrong, counted from 0 in file order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Item {
    /// An `[[exception]]`.
    Exception(usize),
    /// A `[[pin]]`.
    Pin(usize),
    /// A `[[recall]]`.
    Recall(usize),
    /// A `[[source]]`.
    Source(usize),
}

/// Why rules that are each well-formed are no policy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// Which.
    pub item: Item,
    /// What happened and why.
    pub message: String,
    /// What to do.
    pub help: &'static str,
}
