//! What an operator says about a sink.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::format::Format;
use crate::audit::Kind;

/// One `[[sink]]`.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its name: of its cursor file, in `/readyz` and in log lines. Lower-case letters, digits, `-`.
    pub name: String,
    /// Where events go.
    pub target: Target,
    /// In which form.
    pub format: Format,
    /// Which events; any of these.
    pub events: Vec<Wanted>,
    /// Where it begins when it has never run before.
    pub from: Start,
}

/// Where events go.
#[derive(Clone, Debug)]
pub enum Target {
    /// To a file of lines.
    File {
        /// The file; the older ones are `PATH.1`, `PATH.2`, … beside it.
        path: PathBuf,
        /// So many bytes at most, unless a single batch is larger.
        max_size: u64,
        /// So many older files are kept.
        keep: u32,
    },
    /// To a syslog receiver (RFC 5424 in RFC 6587 octet counting; with TLS RFC 5425).
    Syslog {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// Whether the connection is TLS.
        tls: bool,
        /// A CA trusted besides the system's.
        ca: Option<PathBuf>,
    },
    /// To an HTTPS address.
    Webhook {
        /// Where to; `https` only.
        url: Url,
        /// Where the key of the signature is; without it nothing is signed.
        secret_file: Option<PathBuf>,
        /// A CA trusted besides the system's.
        ca: Option<PathBuf>,
        /// So many events in one request at most.
        batch: usize,
        /// Whether the environment's proxies count.
        proxied: bool,
    },
}

impl Target {
    pub(super) fn kind(&self) -> KindWord {
        match self {
            Self::File { .. } => KindWord::File,
            Self::Syslog { .. } => KindWord::Syslog,
            Self::Webhook { .. } => KindWord::Webhook,
        }
    }
}

/// What kind of receiver a sink feeds, as a closed word.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum KindWord {
    /// `file`.
    File,
    /// `syslog`.
    Syslog,
    /// `webhook`.
    Webhook,
}

impl KindWord {
    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Syslog => "syslog",
            Self::Webhook => "webhook",
        }
    }
}

/// Which events a sink carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// Every one, of kinds this version does not know too.
    All,
    /// Decisions that deny or hold, and floods of refusals.
    Blocked,
    /// Those of one kind.
    Kind(Kind),
}

/// Where a sink begins that has no cursor yet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Start {
    /// With the first event on record.
    Beginning,
    /// With what is recorded from now on.
    Now,
}

/// How long things take. Tests give their own.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The wait after a first failure; it doubles with each further one.
    pub first: Duration,
    /// The longest wait, and the wait after a receiver said that it will not have the events.
    pub most: Duration,
    /// For connecting, and for one delivery.
    pub timeout: Duration,
    /// How long a webhook waits for more events before it sends.
    pub linger: Duration,
    /// How long a syslog connection must stay whole after a write for it to count as received.
    pub settle: Duration,
    /// How long a delivery under way may go on when the gateway stops.
    pub grace: Duration,
    /// The same for a write to a file: longer, for what is cut off there comes twice.
    pub write: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            first: Duration::from_millis(500),
            most: Duration::from_secs(60),
            timeout: Duration::from_secs(15),
            linger: Duration::from_secs(1),
            settle: Duration::from_secs(2),
            grace: Duration::from_secs(2),
            write: Duration::from_secs(10),
        }
    }
}
