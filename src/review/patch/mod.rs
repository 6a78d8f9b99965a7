//! Outcomes of a review that are differences to the policy file. Nobody edits the file here: a patch is
//! shown, and somebody applies it where the file is kept.

use jiff::Timestamp;
use jiff::civil::Date;

use super::{Group, Judge};
use crate::oci::Digest;

/// What shall become of a group of blocked pulls.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The reference is allowed from now on.
    Allow {
        /// The pattern that allows its tag; the literal tag when absent.
        pattern: Option<String>,
    },
    /// Checks that it fails are waived until a date.
    Except {
        /// The last day, in UTC; at most 90 days from now.
        until: Date,
        /// Where that was decided.
        ticket: String,
        /// Who asked.
        requested_by: String,
        /// Who agreed; somebody else.
        approved_by: String,
        /// Why.
        reason: String,
    },
    /// A person vouches for a digest.
    Pin {
        /// Which; what the group's latest decision resolved to when absent.
        digest: Option<Digest>,
    },
    /// It is withdrawn, whatever else is written.
    Recall {
        /// Its name in logs and refusals; made from the date when absent.
        id: Option<String>,
        /// Why.
        reason: String,
        /// What to pull instead.
        replace: Option<String>,
    },
}

/// Which outcome, without its details.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum OutcomeKind {
    /// See [`Outcome::Allow`].
    Allow,
    /// See [`Outcome::Except`].
    Except,
    /// See [`Outcome::Pin`].
    Pin,
    /// See [`Outcome::Recall`].
    Recall,
}

impl OutcomeKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Allow, Self::Except, Self::Pin, Self::Recall];

    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Except => "except",
            Self::Pin => "pin",
            Self::Recall => "recall",
        }
    }

    /// The kind of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// A change of the policy file that was tried: it loads, lint finds no new error, and its test passes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Patch {
    /// The file it is for.
    pub file: String,
    /// The unified difference to the file as it is; its `[[test]]` is in it.
    pub diff: String,
    /// The `[[test]]` that goes with it.
    pub test: String,
    /// What the file says then.
    pub text: String,
    /// What else it opens, and what lint finds that it did not before.
    pub warnings: Vec<String>,
}

/// Why there is no patch.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatchError {
    /// Something entered does not fit.
    #[error("{0}")]
    Input(String),
    /// The policy file cannot be used as it is.
    #[error("the policy file cannot be patched: {0}")]
    Policy(String),
    /// This outcome does not help against this refusal.
    #[error("{why}; {instead}")]
    Unavailable {
        /// Why not.
        why: String,
        /// What to do instead.
        instead: String,
    },
}

/// Which outcomes may help against the group's refusal, and why the others cannot.
pub fn outcomes(_group: &Group) -> Vec<(OutcomeKind, Result<(), PatchError>)> {
    Vec::new()
}

/// The patch that brings an outcome about. It reads the policy file and judges: call it where blocking
/// is allowed.
///
/// # Errors
/// The outcome does not help, or what was entered does not fit: why, and what to do instead.
pub fn propose(
    _judge: &dyn Judge,
    _group: &Group,
    _outcome: &Outcome,
    _now: Timestamp,
) -> Result<Patch, PatchError> {
    Err(PatchError::Policy("not made yet".to_owned()))
}
