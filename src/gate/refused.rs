//! A refusal that is on record, ready to be put to the client.

use std::sync::Arc;

use jiff::Timestamp;
use ulid::Ulid;

use crate::audit::{self, Sentence};
use crate::policy::{Code, Reason, Refusal};

/// For how many seconds not to ask again where an upstream is at fault.
const AGAIN: u64 = 10;

/// A refusal that is on disk.
#[derive(Clone, Debug)]
pub struct Refused {
    id: Ulid,
    sentence: Arc<Sentence>,
    code: Code,
    reasons: Vec<Reason>,
    status: u16,
    until: Option<Timestamp>,
    again: u64,
}

impl Refused {
    pub(super) fn new(recorded: audit::Refused, refusal: &Refusal, status: u16) -> Self {
        Self {
            id: recorded.id,
            sentence: recorded.sentence,
            code: refusal.code,
            reasons: refusal.reasons.clone(),
            status,
            until: refusal.until,
            again: AGAIN,
        }
    }

    /// With another time to wait, in seconds.
    pub(super) fn again_in(&self, seconds: u64) -> Self {
        Self { again: seconds, ..self.clone() }
    }

    /// For how many seconds not to ask again, where asking again helps (429, 503).
    pub fn again(&self) -> u64 {
        self.again
    }

    /// The id in the log.
    pub fn id(&self) -> Ulid {
        self.id
    }

    /// What the client is told: what, why, what to do, where to ask.
    pub fn message(&self) -> &str {
        &self.sentence.message
    }

    /// The same in the few words of an HTTP/1.1 reason phrase.
    pub fn phrase(&self) -> &str {
        &self.sentence.phrase
    }

    /// *The* reason.
    pub fn code(&self) -> Code {
        self.code
    }

    /// All reasons.
    pub fn reasons(&self) -> &[Reason] {
        &self.reasons
    }

    /// When it will be allowed if nothing changes (`hold`).
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// The status of the code table (policy.md, "Codes").
    pub fn status(&self) -> u16 {
        self.status
    }
}

pub(super) fn status(refusal: &Refusal) -> u16 {
    match refusal.code {
        Code::NameInvalid | Code::NameConflict => 400,
        Code::MethodUnsupported => 405,
        Code::ClientRate => 429,
        Code::FactsUnavailable if refusal.fault.is_some() => 503,
        _ => 403,
    }
}
