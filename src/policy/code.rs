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
    SourceUnknown,
    TagDenied,
    TagNotAllowed,
    DigestUnknown,
    DigestNotListed,
    ClosureOutside,
    PossessionMissing,
    TagMoved,
    MediaRefused,
    IndexTooLarge,
    FactsUnavailable,
}

impl Code {
    /// Every code, in table order.
    pub const ALL: [Self; 16] = [
        Self::NameInvalid,
        Self::NameConflict,
        Self::MethodUnsupported,
        Self::ClientUnknown,
        Self::ClientNotAllowed,
        Self::SourceUnknown,
        Self::TagDenied,
        Self::TagNotAllowed,
        Self::DigestUnknown,
        Self::DigestNotListed,
        Self::ClosureOutside,
        Self::PossessionMissing,
        Self::TagMoved,
        Self::MediaRefused,
        Self::IndexTooLarge,
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
            Self::SourceUnknown => "source.unknown",
            Self::TagDenied => "tag.denied",
            Self::TagNotAllowed => "tag.not_allowed",
            Self::DigestUnknown => "digest.unknown",
            Self::DigestNotListed => "digest.not_listed",
            Self::ClosureOutside => "closure.outside",
            Self::PossessionMissing => "possession.missing",
            Self::TagMoved => "tag.moved",
            Self::MediaRefused => "media.refused",
            Self::IndexTooLarge => "index.too_large",
            Self::FactsUnavailable => "facts.unavailable",
        }
    }

    /// The code a word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == word)
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
