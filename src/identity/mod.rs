//! Who asks: certificate, token or address become a [`Caller`]. It never decides.

use std::net::IpAddr;
use std::sync::Arc;

mod attribute;

pub(crate) use attribute::bearer;
pub use attribute::{ClientSettings, Evidence, Identity, IdentitySettings};

/// What decisions may depend on: callers of one class get the same answers.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Class {
    /// No `[[client]]` matches.
    Anonymous,
    /// The name of the `[[client]]` that matches.
    Client(Arc<str>),
    /// A Bearer token was shown that belongs to nobody: refused under `client.unknown`.
    Unknown,
}

/// How sure the attribution is, best first in the order certificate, token, address.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Attribution {
    /// By its address range.
    Address,
    /// By its client certificate.
    Certificate,
    /// Nothing matched.
    None,
    /// By its token.
    Token,
}

impl Attribution {
    /// The closed word of the audit log.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Certificate => "certificate",
            Self::None => "none",
            Self::Token => "token",
        }
    }
}

/// Who is asking.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caller {
    /// What decisions may depend on.
    pub class: Class,
    /// How the class was found.
    pub attribution: Attribution,
    /// The client's address: the peer's, or what a trusted proxy said.
    pub address: IpAddr,
    /// The proxy's address, where `address` came from one.
    pub proxy: Option<IpAddr>,
    /// The SAN of the client certificate that was verified.
    pub certificate: Option<Arc<str>>,
    /// `User-Agent`, at most 256 characters, as sent.
    pub user_agent: Option<Arc<str>>,
}
