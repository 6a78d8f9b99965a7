//! What can go wrong with content that comes from elsewhere.

use std::sync::Arc;

use jiff::Timestamp;

/// Why content could not be had. Cheap to clone, so that everyone who waits for one fetch gets the
/// same answer.
///
/// It says whose fault it is: the HTTP translation in `server` follows from the variant alone.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The upstream says that it does not exist (404).
    #[error("not found upstream: {0}")]
    Absent(Arc<str>),
    /// The upstream refuses us: its 401 or 403, our credentials are missing or wrong.
    #[error("the upstream denied access: {0}")]
    Denied(Arc<str>),
    /// What arrived is not what was asked for: digest, size, media type or syntax.
    #[error("the upstream sent something invalid: {0}")]
    Invalid(Arc<str>),
    /// This gateway's own disk or database failed; the upstream is not to blame.
    #[error("local storage failed: {0}")]
    Storage(Arc<str>),
    /// The upstream asks us to wait (429), until the given time when it named one.
    #[error("the upstream limits our requests: {detail}")]
    Throttled {
        /// When it may be asked again.
        until: Option<Timestamp>,
        /// What it said.
        detail: Arc<str>,
    },
    /// No answer: DNS, connection, TLS, time-out, 5xx.
    #[error("the upstream cannot be reached: {0}")]
    Unreachable(Arc<str>),
}

impl Fault {
    /// The closed word for logs and metric labels.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Absent(_) => "absent",
            Self::Denied(_) => "denied",
            Self::Invalid(_) => "invalid",
            Self::Storage(_) => "storage",
            Self::Throttled { .. } => "throttled",
            Self::Unreachable(_) => "unreachable",
        }
    }

    /// Whether the same request may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Storage(_) | Self::Throttled { .. } | Self::Unreachable(_))
    }
}
