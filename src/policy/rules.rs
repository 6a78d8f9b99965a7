//! What the policy file says, typed but not yet judged as a whole: settings reads it, [`super::Policy`]
//! checks and compiles it.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Code, Match, Pattern, Verdict};
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

/// The modes of single checks, where they are written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Modes {
    /// `digest.unknown`, `digest.not_listed`.
    pub digest: Option<Mode>,
    /// `media.refused`, `index.too_large`.
    pub media: Option<Mode>,
    /// `tag.denied`, `tag.not_allowed`.
    pub tag: Option<Mode>,
    /// `tag.moved`.
    pub tag_moved: Option<Mode>,
}

/// The keys a source and `[require]` share; a leaf that a source writes replaces that of `[require]`.
#[derive(Clone, Debug, Default)]
pub struct Leaves {
    /// `tags.allow`.
    pub allow: Option<Written<Vec<Pattern>>>,
    /// `clients`.
    pub clients: Option<Written<Vec<Arc<str>>>>,
    /// `tags.deny`.
    pub deny: Option<Written<Vec<Pattern>>>,
    /// `digests`.
    pub digests: Option<Written<Digests>>,
    /// `mode`.
    pub mode: Option<Mode>,
    /// `modes`.
    pub modes: Modes,
    /// `tags.moved`.
    pub moved: Option<Written<Moved>>,
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
    /// Where the tag leads upstream.
    pub digest: Option<Digest>,
    /// What the tag is locked to here.
    pub locked: Option<Digest>,
    /// The tags that lead to the digest that is pulled.
    pub tags: Vec<Tag>,
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
    /// `[[test]]`, in file order.
    pub tests: Vec<PolicyTest>,
}

/// Which item of [`Rules`] is wrong, counted from 0 in file order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Item {
    /// A `[[pin]]`.
    Pin(usize),
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
