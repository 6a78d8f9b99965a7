//! The closed words of a verdict: log field, metric label, error word and docs anchor in one.

use std::fmt;

/// Why a pull is refused, in table order (policy.md, "Codes"): of several, the first is *the* reason.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "docs/policy.md explains each under the word as_str gives")]
pub enum Code {
    NameInvalid,
    NameConflict,
    MethodUnsupported,
    ClientUnknown,
    ClientNotAllowed,
    ClientRate,
    SourceUnknown,
    Recall,
    TagDenied,
    TagNotAllowed,
    DigestUnknown,
    DigestNotListed,
    ClosureOutside,
    PossessionMissing,
    TagMoved,
    Hold,
    MediaRefused,
    IndexTooLarge,
    PlatformNotAllowed,
    Size,
    Label,
    Age,
    UserMinUid,
    UserNamed,
    ArtifactNotAllowed,
    BaseNotAllowed,
    FactsUnavailable,
}

/// How many codes there are.
const CODES: usize = 27;

impl Code {
    /// Every code, in table order.
    pub const ALL: [Self; CODES] = [
        Self::NameInvalid,
        Self::NameConflict,
        Self::MethodUnsupported,
        Self::ClientUnknown,
        Self::ClientNotAllowed,
        Self::ClientRate,
        Self::SourceUnknown,
        Self::Recall,
        Self::TagDenied,
        Self::TagNotAllowed,
        Self::DigestUnknown,
        Self::DigestNotListed,
        Self::ClosureOutside,
        Self::PossessionMissing,
        Self::TagMoved,
        Self::Hold,
        Self::MediaRefused,
        Self::IndexTooLarge,
        Self::PlatformNotAllowed,
        Self::Size,
        Self::Label,
        Self::Age,
        Self::UserMinUid,
        Self::UserNamed,
        Self::ArtifactNotAllowed,
        Self::BaseNotAllowed,
        Self::FactsUnavailable,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NameInvalid => "name.invalid",
            Self::NameConflict => "name.conflict",
            Self::MethodUnsupported => "method.unsupported",
            Self::ClientUnknown => "client.unknown",
            Self::ClientNotAllowed => "client.not_allowed",
            Self::ClientRate => "client.rate",
            Self::SourceUnknown => "source.unknown",
            Self::Recall => "recall",
            Self::TagDenied => "tag.denied",
            Self::TagNotAllowed => "tag.not_allowed",
            Self::DigestUnknown => "digest.unknown",
            Self::DigestNotListed => "digest.not_listed",
            Self::ClosureOutside => "closure.outside",
            Self::PossessionMissing => "possession.missing",
            Self::TagMoved => "tag.moved",
            Self::Hold => "hold",
            Self::MediaRefused => "media.refused",
            Self::IndexTooLarge => "index.too_large",
            Self::PlatformNotAllowed => "platform.not_allowed",
            Self::Size => "size",
            Self::Label => "label",
            Self::Age => "age",
            Self::UserMinUid => "user.min_uid",
            Self::UserNamed => "user.named",
            Self::ArtifactNotAllowed => "artifact.not_allowed",
            Self::BaseNotAllowed => "base.not_allowed",
            Self::FactsUnavailable => "facts.unavailable",
        }
    }

    /// What it amounts to where nothing softens it.
    pub fn verdict(self) -> Verdict {
        match self {
            Self::Hold => Verdict::Hold,
            _ => Verdict::Deny,
        }
    }

    /// The code a word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
    }
}

/// A check that a mode may soften and an exception may waive; others hold whatever anybody writes.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[expect(missing_docs, reason = "docs/policy.md explains each under the word as_str gives")]
pub enum Softenable {
    Age,
    Artifact,
    Base,
    Digest,
    Hold,
    Label,
    Media,
    Platform,
    Size,
    Tag,
    TagMoved,
    User,
    UserMinUid,
    UserNamed,
}

impl Softenable {
    /// Every such check, in the order of their words.
    pub const ALL: [Self; 14] = [
        Self::Age,
        Self::Artifact,
        Self::Base,
        Self::Digest,
        Self::Hold,
        Self::Label,
        Self::Media,
        Self::Platform,
        Self::Size,
        Self::Tag,
        Self::TagMoved,
        Self::User,
        Self::UserMinUid,
        Self::UserNamed,
    ];

    /// The word that `modes` and `waive` know it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Artifact => "artifact.not_allowed",
            Self::Base => "base.not_allowed",
            Self::Digest => "digest",
            Self::Hold => "hold",
            Self::Label => "label",
            Self::Media => "media",
            Self::Platform => "platform.not_allowed",
            Self::Size => "size",
            Self::Tag => "tag",
            Self::TagMoved => "tag.moved",
            Self::User => "user",
            Self::UserMinUid => "user.min_uid",
            Self::UserNamed => "user.named",
        }
    }

    /// The check of a word; the key of its rule is taken for it too (`platforms`, `labels`).
    pub fn parse(word: &str) -> Option<Self> {
        match word {
            "artifact" | "artifacts" => Some(Self::Artifact),
            "base" => Some(Self::Base),
            "labels" => Some(Self::Label),
            "platform" | "platforms" => Some(Self::Platform),
            _ => Self::ALL.into_iter().find(|check| check.as_str() == word),
        }
    }

    /// The codes it may end in.
    pub fn codes(self) -> &'static [Code] {
        match self {
            Self::Age => &[Code::Age],
            Self::Artifact => &[Code::ArtifactNotAllowed],
            Self::Base => &[Code::BaseNotAllowed],
            Self::Digest => &[Code::DigestUnknown, Code::DigestNotListed],
            Self::Hold => &[Code::Hold],
            Self::Label => &[Code::Label],
            Self::Media => &[Code::MediaRefused, Code::IndexTooLarge],
            Self::Platform => &[Code::PlatformNotAllowed],
            Self::Size => &[Code::Size],
            Self::Tag => &[Code::TagDenied, Code::TagNotAllowed],
            Self::TagMoved => &[Code::TagMoved],
            Self::User => &[Code::UserMinUid, Code::UserNamed],
            Self::UserMinUid => &[Code::UserMinUid],
            Self::UserNamed => &[Code::UserNamed],
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the policy says of a pull, mildest first: the worst of all checks counts.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Verdict {
    /// Served.
    Allow,
    /// Served, with a `Warning` or silently (`observe`), because a mode softens the refusal.
    Warn,
    /// Refused for now.
    Hold,
    /// Refused.
    Deny,
}

impl Verdict {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Hold => "hold",
            Self::Warn => "warn",
        }
    }
}
