//! What an operator says about upstreams, and what is wrong with it.

use std::fmt;
use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

use super::address::Resolver;
use crate::oci::Registry;

/// Everything this room is told. [`Settings::default`] asks every registry where it is known to be,
/// anonymously.
#[derive(Clone, Debug)]
pub struct Settings {
    /// One per `[[upstream]]`; several of one registry are tried in their order.
    pub upstreams: Vec<UpstreamSettings>,
    /// No registry is ever contacted; layout folders, which are local, are still read.
    pub sealed: bool,
    /// Where names become addresses; tests give their own.
    pub resolver: Resolver,
    /// Whether `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` count. What goes through a proxy is resolved
    /// by the proxy: then only targets written as an IP address can be checked here.
    pub proxy_from_environment: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            sealed: false,
            resolver: Resolver::system(),
            proxy_from_environment: true,
        }
    }
}

/// One `[[upstream]]`.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    /// The registry it answers for, as it stands in image names.
    pub registry: Registry,
    /// Where its content is.
    pub source: SourceSettings,
}

/// Where the content of a registry is.
#[derive(Clone, Debug)]
pub enum SourceSettings {
    /// A registry that speaks the distribution spec.
    Endpoint(EndpointSettings),
    /// A folder in the OCI image layout.
    Layout(PathBuf),
}

/// A registry that speaks the distribution spec.
#[derive(Clone, Debug)]
pub struct EndpointSettings {
    /// `https://host[:port][/path]`. `/v2/` is appended to the path, unless the path already holds a
    /// `v2` segment (`https://harbor.example/v2/hub-proxy`): then repositories are appended as they are.
    pub url: Url,
    /// Trusted besides the system's roots.
    pub ca: Option<Ca>,
    /// Who the gateway is there; `None`: anonymous.
    pub auth: Option<Auth>,
    /// Hosts, exact or `*.suffix`, that may receive the credentials besides the endpoint's own
    /// registrable domain, on any port. They may have private addresses.
    pub auth_hosts: Vec<String>,
    /// Hosts, exact or `*.suffix`. When set, redirects go nowhere else (but to the endpoint's own
    /// host), and these may have private addresses; when empty, anywhere public over HTTPS.
    pub blob_hosts: Vec<String>,
}

impl EndpointSettings {
    /// Anonymous access to this address, trusting the system's roots.
    pub fn new(url: Url) -> Self {
        Self { url, ca: None, auth: None, auth_hosts: Vec::new(), blob_hosts: Vec::new() }
    }
}

/// Certificates of a private authority.
#[derive(Clone, Debug)]
pub enum Ca {
    /// A PEM file, read once at the start.
    File(PathBuf),
    /// PEM text.
    Pem(Vec<u8>),
}

/// Who the gateway is at an upstream.
#[derive(Clone, Debug)]
pub enum Auth {
    /// A name and password, for Basic and for the token service.
    Basic {
        /// The name; it holds no colon.
        username: String,
        /// The password or access token.
        password: Secret,
    },
    /// Docker's `config.json`, with its credential helpers; read again for every token.
    DockerConfig(PathBuf),
    /// An identity token (an OAuth2 refresh token), exchanged by POST.
    Token(Secret),
}

/// Where a secret is kept. It is read when needed, never at the start, so that it may be rotated.
#[derive(Clone)]
pub enum Secret {
    /// An environment variable.
    Env(String),
    /// A file; white space at its end is dropped.
    File(PathBuf),
    /// The secret itself.
    Value(SecretString),
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "Env({name:?})"),
            Self::File(path) => write!(f, "File({path:?})"),
            Self::Value(_) => f.write_str("Value(…)"),
        }
    }
}

/// What is wrong with the settings; found before anything is contacted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The CA file cannot be read, or holds no certificate.
    #[error(
        "upstream {registry}: the CA certificates {origin} cannot be used: {cause}; give a PEM file with the certificate of the authority that signed the registry's certificate"
    )]
    Ca {
        /// Of which upstream.
        registry: Registry,
        /// The file, or `given in place`.
        origin: String,
        /// What went wrong.
        cause: String,
    },
    /// The endpoint is not one that can be asked.
    #[error("upstream {registry}: endpoint {url:?} {problem}; write https://host[:port]")]
    Endpoint {
        /// Of which upstream.
        registry: Registry,
        /// As written, without any password in it.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An entry of `auth_hosts` or `blob_hosts` is no host.
    #[error(
        "upstream {registry}: {host:?} is no host; write a host name without scheme, port or path, or *.suffix"
    )]
    Host {
        /// Of which upstream.
        registry: Registry,
        /// As written.
        host: String,
    },
    /// The HTTP client cannot be set up.
    #[error("the HTTPS client cannot be set up: {0}")]
    Tls(String),
    /// A name that would be read as another name and password.
    #[error(
        "upstream {registry}: the user name holds a colon, which Basic authentication cannot carry; write the name alone"
    )]
    Username {
        /// Of which upstream.
        registry: Registry,
    },
}
