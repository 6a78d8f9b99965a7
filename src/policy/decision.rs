//! What comes out of deciding.

use std::sync::Arc;

use jiff::Timestamp;

use super::{Code, Need, Verdict};
use crate::oci::{Digest, Fault, Manifest, Name, Tag};

/// The answer to one [`crate::oci::Ask`], with the facts known so far.
#[derive(Debug)]
#[must_use]
pub struct Decision {
    /// What to do.
    pub outcome: Outcome,
    /// What policy says; meaningless for `Need` and `Fail`.
    pub verdict: Verdict,
    /// Reasons that a mode softened, in table order: why `verdict` is `Warn`.
    pub softened: Vec<Reason>,
    /// Every check that ran, for the log and for `explain`.
    pub trace: Arc<Trace>,
    /// When the answer may change by time alone.
    pub until: Option<Timestamp>,
}

/// What to do.
#[derive(Debug)]
pub enum Outcome {
    /// The facts cannot be had and no rule was broken: 404, 429, 502 or 503.
    Fail(Fault),
    /// Get this fact and ask again.
    Need(Need),
    /// Serve this.
    Permit(Permit),
    /// Refuse.
    Refuse(Refusal),
}

/// Leave to serve one thing out of one repository.
///
/// Only `policy` makes one, it is not `Clone`, and serving takes one: nothing is served unjudged.
///
/// ```
/// use pullgate::oci::Name;
/// use pullgate::policy::{Permit, Target};
///
/// fn read(permit: Permit) -> (Name, Target) {
///     (permit.name().clone(), permit.target().clone())
/// }
/// ```
///
/// The same the other way round does not compile, neither from parts nor by a copy:
///
/// ```compile_fail
/// use pullgate::oci::Name;
/// use pullgate::policy::{Permit, Target};
///
/// fn forge(name: Name, target: Target) -> Permit {
///     Permit { name, target, binds: Vec::new(), lock: None, warning: None }
/// }
/// ```
///
/// ```compile_fail
/// use pullgate::oci::Name;
/// use pullgate::policy::{Permit, Target};
///
/// fn forge(name: Name, target: Target) -> Permit {
///     Permit::new(&name, target, Vec::new(), None, None)
/// }
/// ```
///
/// ```compile_fail
/// use pullgate::policy::Permit;
///
/// fn copy(permit: &Permit) -> Permit {
///     Permit::clone(permit)
/// }
/// ```
#[derive(Debug)]
pub struct Permit {
    name: Name,
    target: Target,
    binds: Vec<Arc<str>>,
    lock: Option<Tag>,
    warning: Option<Arc<str>>,
}

/// What may be served.
#[derive(Clone, Debug)]
pub enum Target {
    /// A blob of this repository.
    Blob {
        /// Its digest.
        digest: Digest,
        /// Its size, from the descriptor that led to it.
        size: u64,
    },
    /// A manifest.
    Manifest(Arc<Manifest>),
    /// The referrers of this manifest, themselves still to be filtered.
    Referrers(Digest),
    /// The tags, still to be filtered by `Policy::admits_tag`.
    Tags,
}

impl Permit {
    pub(super) fn new(
        name: &Name,
        target: Target,
        binds: Vec<Arc<str>>,
        lock: Option<Tag>,
        warning: Option<Arc<str>>,
    ) -> Self {
        Self { name: name.clone(), target, binds, lock, warning }
    }

    /// Out of which repository.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The exceptions, by id, to be bound to the manifest before it is served: their first use.
    pub fn binds(&self) -> &[Arc<str>] {
        &self.binds
    }

    /// The tag to be locked to the manifest before it is served: its first time here, or (`follow`)
    /// a new digest.
    pub fn lock(&self) -> Option<&Tag> {
        self.lock.as_ref()
    }

    /// The text of `Warning: 299`, in warn mode.
    pub fn warning(&self) -> Option<&Arc<str>> {
        self.warning.as_ref()
    }
}

/// A refusal, before it has an id.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// *The* reason: the first in table order among the worst.
    pub code: Code,
    /// All reasons, in table order; never empty.
    pub reasons: Vec<Reason>,
    /// What the upstream's fault was, when that is why facts are unavailable.
    pub fault: Option<Fault>,
    /// When it will be allowed if nothing changes (`hold`); none when time alone changes nothing.
    pub until: Option<Timestamp>,
}

/// One reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Reason {
    /// Its closed word.
    pub code: Code,
    /// What happened and why, in words: `tag "3.11" is not pinned (allowed: #.#.#, …)`.
    pub text: String,
    /// What to do, where the policy alone knows: `pin it by digest`.
    pub remedy: Option<String>,
}

/// What was judged, check by check.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// The id of the source that owns the repository.
    pub source: Option<Arc<str>>,
    /// The mode that applied, as a word: enforce, warn, observe.
    pub mode: &'static str,
    /// Every check that ran, in order.
    pub checks: Vec<Check>,
}

/// One check.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Check {
    /// Which: `source`, `recall`, `tag`, `digest`, `closure`, `possession`, `tag.moved`, `hold`, `media`,
    /// `age`, `user`, ….
    pub id: &'static str,
    /// Whether it passed.
    pub pass: bool,
    /// What was found.
    pub observed: String,
    /// What was required.
    pub expected: String,
    /// Where that is written: `policy.toml:41`.
    pub at: Option<Arc<str>>,
    /// The id of the exception that waives it, where it failed and was waived.
    pub exception: Option<Arc<str>>,
}
