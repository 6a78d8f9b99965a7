//! `config/pullgate.toml`: how this gateway listens, stores, records and reaches upstreams.
//!
//! Every key may be left out. Relative paths are relative to the working directory. Secrets are
//! never read here: only the paths and variable names that hold them.

mod keys;
mod sinks;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use url::Url;

use super::diagnostic::{FileError, Problem};
use super::value;
use crate::oci::Registry;
use crate::policy::Surroundings;

pub use super::value::{Lifetime, Rate};
pub use keys::{KEYS, Key};
pub use sinks::{Sink, SinkEvents, SinkFormat, SinkFrom, SinkTarget};

/// The file that `serve` reads unless told otherwise.
pub const DEFAULT_PATH: &str = "config/pullgate.toml";

/// The whole file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Gateway {
    /// For names without `?ns=` and without a registry prefix.
    #[serde(deserialize_with = "value::registry")]
    pub default_registry: Registry,
    /// Air gap: no upstream is ever contacted. `true` is a load error in this version.
    pub sealed: bool,
    /// The pull listener.
    pub listen: Listen,
    /// The admin listener.
    pub admin: Admin,
    /// The cache.
    pub storage: Storage,
    /// The record.
    pub audit: Audit,
    /// Where the policy is.
    pub policy: Policy,
    /// How long what is cached is good for.
    pub cache: Cache,
    /// How a refusal is put to each kind of client.
    pub deny: Deny,
    /// Limits that keep one client from hurting the others.
    pub limits: Limits,
    /// `[[upstream]]`, in file order: several of one registry are tried in that order.
    #[serde(rename = "upstream")]
    pub upstreams: Vec<Upstream>,
    /// `[[client]]`, in file order.
    #[serde(rename = "client")]
    pub clients: Vec<Client>,
    /// `[[sink]]`, in file order.
    #[serde(rename = "sink")]
    pub sinks: Vec<Sink>,
}

impl Gateway {
    /// What lint compares a policy with.
    pub fn surroundings(&self) -> Surroundings {
        let mut clients: Vec<Arc<str>> = self.client_names().into_iter().map(Into::into).collect();
        clients.sort();
        clients.dedup();
        let upstreams = self.upstreams.iter().filter(|upstream| upstream.auth.is_some());
        Surroundings { clients, credentials: upstreams.map(|upstream| upstream.registry.clone()).collect() }
    }

    /// The names of its `[[client]]` tables: those that a policy read for this gateway may use.
    pub fn client_names(&self) -> Vec<String> {
        self.clients.iter().map(|client| client.name.clone()).collect()
    }
}

/// `[listen]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// Where HTTPS is served.
    #[serde(deserialize_with = "value::address")]
    pub address: SocketAddr,
    /// DNS names and IP addresses in the generated certificate, lower-case; never empty.
    #[serde(deserialize_with = "value::hosts")]
    pub hosts: Vec<String>,
    /// The server certificate.
    pub tls: Tls,
    /// Whose `X-Forwarded-For` or PROXY header counts.
    #[serde(deserialize_with = "value::ranges")]
    pub trusted_proxies: Vec<IpNet>,
    /// The CA, or CAs, of client certificates; without it none is asked for.
    #[serde(deserialize_with = "value::some_path")]
    pub client_ca: Option<PathBuf>,
}

/// `[listen] tls`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    /// The server certificate and its chain, PEM.
    #[serde(deserialize_with = "value::path")]
    pub certificate: PathBuf,
    /// Its private key, PEM.
    #[serde(deserialize_with = "value::path")]
    pub key: PathBuf,
    /// The CA clients trust, PEM.
    #[serde(deserialize_with = "value::path")]
    pub ca: PathBuf,
}

/// `[admin]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[serde(deserialize_with = "value::address")]
    pub address: SocketAddr,
}

/// `[storage]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// The data folder.
    #[serde(deserialize_with = "value::path")]
    pub path: PathBuf,
    /// How many bytes of blobs are kept.
    #[serde(deserialize_with = "value::size")]
    pub max_size: u64,
}

/// `[audit]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// The record's own quota in bytes, apart from the cache.
    #[serde(deserialize_with = "value::size")]
    pub max_size: u64,
    /// What becomes of allowed pulls when the record is full.
    pub on_full: OnFull,
}

/// What becomes of allowed pulls when the record is full; refusals stay refusals.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// They are refused.
    Refuse,
    /// They are served, unrecorded.
    Serve,
}

/// `[policy]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// The policy in force.
    #[serde(deserialize_with = "value::path")]
    pub file: PathBuf,
    /// A policy that is judged beside it and decides nothing.
    #[serde(deserialize_with = "value::some_path")]
    pub shadow: Option<PathBuf>,
}

/// `[cache]`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Cache {
    /// How long a tag is answered without asking its upstream.
    pub tag_ttl: Lifetime,
    /// How much longer it is answered while the upstream fails.
    pub stale_if_error: Lifetime,
}

/// `[deny]`: clients.md, "A refusal that holds".
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Deny {
    /// Requests with `?ns=`.
    pub ns: Firmness,
    /// Docker's classic mirror: no `ns`, no registry prefix.
    pub bare: Firmness,
    /// The registry in the path.
    pub prefix: Firmness,
}

/// How a refusal is put.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum Firmness {
    /// In the form that keeps a mirror's client from going to the upstream itself.
    Firm,
    /// 403 with its words.
    Plain,
}

/// `[limits]`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Distinct refused references per client before they fold into a flood row.
    pub refusals: Rate,
    /// Requests of each client, by its name or else its address; as many as it likes when absent.
    pub requests: Option<Rate>,
    /// Open connections on the pull listener; at least 1.
    pub connections: u32,
    /// Open connections of one IPv4 address or IPv6 /64, trusted proxies aside; at least 1.
    pub connections_per_address: u32,
    /// Bytes of one request's headers, 8 KiB to 1 MiB.
    #[serde(deserialize_with = "value::size")]
    pub header_bytes: u64,
    /// From accept to the end of the TLS handshake, a PROXY header before it included.
    #[serde(deserialize_with = "value::timeout")]
    pub handshake: Duration,
    /// From the first byte of a request, or an idle connection's last reply, to the end of the headers.
    #[serde(deserialize_with = "value::timeout")]
    pub header_timeout: Duration,
    /// How long an HTTP/2 connection may be without a request.
    #[serde(deserialize_with = "value::timeout")]
    pub idle_timeout: Duration,
    /// How long a stopping gateway lets running transfers go on.
    #[serde(deserialize_with = "value::timeout")]
    pub drain: Duration,
}

/// One `[[upstream]]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "RawUpstream")]
pub struct Upstream {
    /// The registry whose repositories it holds.
    pub registry: Registry,
    /// Where it is.
    pub origin: Origin,
    /// A CA added to the system roots.
    pub ca: Option<PathBuf>,
    /// What it is told about who asks.
    pub auth: Option<Auth>,
    /// Hosts that credentials may go to besides the endpoint's own domain: `host[:port]` or `*.domain`.
    pub auth_hosts: Vec<String>,
    /// When set, the only redirect targets, in the same form; else public addresses over https.
    pub blob_hosts: Option<Vec<String>>,
}

/// Where an upstream is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Origin {
    /// At this https address.
    Endpoint(Url),
    /// In this OCI image layout folder.
    Layout(PathBuf),
    /// At the registry's own address.
    Registry,
}

/// Where credentials come from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Auth {
    /// A docker `config.json`, with credential helpers.
    DockerConfig(PathBuf),
    /// A file that holds an identity (refresh) token.
    IdentityTokenFile(PathBuf),
    /// A user name and a password from elsewhere.
    Password {
        /// The user.
        username: String,
        /// Where the password is.
        password: SecretFrom,
    },
}

/// Where a secret is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SecretFrom {
    /// In the environment variable of this name.
    Env(String),
    /// In this file; one trailing line break is not part of it.
    File(PathBuf),
}

/// One `[[client]]`: every key given must match.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "RawClient")]
pub struct Client {
    /// Its name in policy and log; several tables may share it.
    pub name: String,
    /// Its address is in one of these.
    pub ranges: Option<Vec<IpNet>>,
    /// Its certificate has one of these SANs.
    pub certificates: Option<Vec<String>>,
    /// It shows a Bearer token with one of these sha256 hashes.
    pub tokens: Option<Vec<[u8; 32]>>,
    /// How often it may ask, instead of `[limits] requests`.
    pub rate: Option<Rate>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            default_registry: Registry::docker_hub(),
            sealed: false,
            listen: Listen::default(),
            admin: Admin::default(),
            storage: Storage::default(),
            audit: Audit::default(),
            policy: Policy::default(),
            cache: Cache::default(),
            deny: Deny::default(),
            limits: Limits::default(),
            upstreams: Vec::new(),
            clients: Vec::new(),
            sinks: Vec::new(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: ([0, 0, 0, 0], 8443).into(),
            hosts: vec!["localhost".into(), "127.0.0.1".into()],
            tls: Tls::default(),
            trusted_proxies: Vec::new(),
            client_ca: None,
        }
    }
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            certificate: "certs/server.crt".into(),
            key: "certs/server.key".into(),
            ca: "certs/ca.crt".into(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { address: ([127, 0, 0, 1], 9443).into() }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self { path: "data".into(), max_size: 50 << 30 }
    }
}

impl Default for Audit {
    fn default() -> Self {
        Self { max_size: 5 << 30, on_full: OnFull::Serve }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self { file: "config/policy.toml".into(), shadow: None }
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self { tag_ttl: Lifetime::Limited(Duration::from_secs(900)), stale_if_error: Lifetime::Forever }
    }
}

impl Default for Deny {
    fn default() -> Self {
        Self { ns: Firmness::Firm, bare: Firmness::Firm, prefix: Firmness::Plain }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            refusals: Rate { count: 60, per: Duration::from_secs(60) },
            requests: None,
            connections: 4096,
            connections_per_address: 512,
            header_bytes: 64 << 10,
            handshake: Duration::from_secs(10),
            header_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            drain: Duration::from_secs(30),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUpstream {
    #[serde(deserialize_with = "value::registry")]
    registry: Registry,
    #[serde(default, deserialize_with = "value::endpoint")]
    endpoint: Option<Url>,
    #[serde(default, deserialize_with = "value::some_path")]
    layout: Option<PathBuf>,
    #[serde(default, deserialize_with = "value::some_path")]
    ca: Option<PathBuf>,
    auth: Option<RawAuth>,
    #[serde(default, deserialize_with = "value::patterns")]
    auth_hosts: Vec<String>,
    #[serde(default, deserialize_with = "value::some_patterns")]
    blob_hosts: Option<Vec<String>>,
}

impl TryFrom<RawUpstream> for Upstream {
    type Error = String;

    fn try_from(raw: RawUpstream) -> Result<Self, String> {
        let RawUpstream { registry, endpoint, layout, ca, auth, auth_hosts, blob_hosts } = raw;
        let origin = match (endpoint, layout) {
            (Some(_), Some(_)) => {
                return Err(format!("upstream {registry} has both `endpoint` and `layout`; keep one"));
            }
            (Some(url), None) => Origin::Endpoint(url),
            (None, Some(folder)) => Origin::Layout(folder),
            (None, None) => Origin::Registry,
        };
        if matches!(origin, Origin::Layout(_))
            && (ca.is_some() || auth.is_some() || !auth_hosts.is_empty() || blob_hosts.is_some())
        {
            return Err(format!(
                "upstream {registry} is a folder (`layout`): `ca`, `auth`, `auth_hosts` and `blob_hosts` belong to an endpoint; remove them"
            ));
        }
        let auth = auth.map(Auth::try_from).transpose()?;
        Ok(Self { registry, origin, ca, auth, auth_hosts, blob_hosts })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAuth {
    username: Option<String>,
    #[serde(default, deserialize_with = "value::some_path")]
    password_file: Option<PathBuf>,
    password_env: Option<String>,
    #[serde(default, deserialize_with = "value::some_path")]
    docker_config: Option<PathBuf>,
    #[serde(default, deserialize_with = "value::some_path")]
    identity_token_file: Option<PathBuf>,
}

impl TryFrom<RawAuth> for Auth {
    type Error = String;

    fn try_from(raw: RawAuth) -> Result<Self, String> {
        match raw {
            RawAuth {
                username: Some(username),
                password_file,
                password_env,
                docker_config: None,
                identity_token_file: None,
            } if !username.is_empty() && !username.contains(':') => {
                let password = match (password_file, password_env) {
                    (Some(file), None) => SecretFrom::File(file),
                    (None, Some(name)) if !name.is_empty() && !name.contains('=') => SecretFrom::Env(name),
                    _ => {
                        return Err(
                            "`auth` with `username` needs exactly one of `password_file` and `password_env`"
                                .into(),
                        );
                    }
                };
                Ok(Self::Password { username, password })
            }
            RawAuth {
                username: None,
                password_file: None,
                password_env: None,
                docker_config: Some(file),
                identity_token_file: None,
            } => Ok(Self::DockerConfig(file)),
            RawAuth {
                username: None,
                password_file: None,
                password_env: None,
                docker_config: None,
                identity_token_file: Some(file),
            } => Ok(Self::IdentityTokenFile(file)),
            _ => {
                Err("`auth` is one of: `username` (without a colon) with `password_file` or `password_env`; \
                      `docker_config`; `identity_token_file`"
                    .into())
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawClient {
    name: String,
    #[serde(default, deserialize_with = "value::some_ranges")]
    ranges: Option<Vec<IpNet>>,
    certificate: Option<Vec<String>>,
    #[serde(default, deserialize_with = "value::some_hashes")]
    token_sha256: Option<Vec<[u8; 32]>>,
    rate: Option<Rate>,
}

impl TryFrom<RawClient> for Client {
    type Error = String;

    fn try_from(raw: RawClient) -> Result<Self, String> {
        let RawClient { name, ranges, certificate, token_sha256, rate } = raw;
        if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
            return Err("a client's `name` is 1 to 64 printable characters".into());
        }
        if ranges.is_none() && certificate.is_none() && token_sha256.is_none() {
            return Err(format!(
                "client {name:?} would be everyone; give at least one of `ranges`, `certificate`, `token_sha256`"
            ));
        }
        let empty = [
            ("ranges", ranges.as_ref().is_some_and(Vec::is_empty)),
            ("certificate", certificate.as_ref().is_some_and(Vec::is_empty)),
            ("token_sha256", token_sha256.as_ref().is_some_and(Vec::is_empty)),
        ];
        if let Some((key, _)) = empty.iter().find(|(_, empty)| *empty) {
            return Err(format!(
                "client {name:?} has an empty `{key}` and would be nobody; fill it or remove it"
            ));
        }
        if certificate.iter().flatten().any(String::is_empty) {
            return Err(format!("client {name:?} has an empty name in `certificate`"));
        }
        Ok(Self { name, ranges, certificates: certificate, tokens: token_sha256, rate })
    }
}

/// Reads and checks a `pullgate.toml`.
///
/// # Errors
/// The file cannot be read, or something in it is wrong: then every unknown or unsupported key is
/// listed, or else the first wrong value.
pub fn load(path: &Path) -> Result<Gateway, FileError> {
    let text = std::fs::read_to_string(path).map_err(|error| FileError::unreadable(path, error))?;
    parse(path, &text)
}

/// Checks the text of a `pullgate.toml`; `path` is only named in errors.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str) -> Result<Gateway, FileError> {
    let wrong = |problems| FileError::invalid(path, &keys::mask_secrets(text), problems);
    let table = toml::de::DeTable::parse(text).map_err(|error| wrong(vec![Problem::from_toml(&error)]))?;
    let problems = keys::problems(table.get_ref());
    if !problems.is_empty() {
        return Err(wrong(problems));
    }
    let gateway: Gateway = toml::from_str(text).map_err(|error| {
        let mut problem = Problem::from_toml(&error);
        if let Some(key) = problem.span.as_ref().and_then(|span| keys::key_at(table.get_ref(), span)) {
            problem.message = format!("{key}: {}", problem.message);
        }
        wrong(vec![problem])
    })?;
    let at = |key: &str| keys::span_of(table.get_ref(), key);
    let mut problems = Vec::new();
    if gateway.listen.hosts.is_empty() {
        problems.push(
            Problem::new(at("listen.hosts"), "listen.hosts: a certificate needs at least one name")
                .help("name what clients dial, such as hosts = [\"localhost\", \"127.0.0.1\"]"),
        );
    }
    let port = gateway.admin.address.port();
    if port != 0 && gateway.listen.address == gateway.admin.address {
        problems.push(
            Problem::new(at("admin.address"), "admin.address: the pull listener has this address")
                .help("give the admin listener its own port"),
        );
    }
    let limits = &gateway.limits;
    for (key, most) in [
        ("limits.connections", limits.connections),
        ("limits.connections_per_address", limits.connections_per_address),
    ] {
        if most == 0 {
            problems
                .push(Problem::new(at(key), format!("{key}: none could connect")).help("give at least 1"));
        }
    }
    let names: Vec<&str> = gateway.sinks.iter().map(|sink| &*sink.name).collect();
    if let Some(name) = repeated(&names) {
        problems.push(
            Problem::new(at("sink.name"), format!("sink.name: {name:?} names two sinks"))
                .help("give each [[sink]] its own name: its place in the record is kept under it"),
        );
    }
    if !(8 << 10..=1 << 20).contains(&gateway.limits.header_bytes) {
        problems.push(
            Problem::new(at("limits.header_bytes"), "limits.header_bytes: out of range")
                .help("give 8 KiB to 1 MiB"),
        );
    }
    if problems.is_empty() { Ok(gateway) } else { Err(wrong(problems)) }
}

/// The first that stands there before.
fn repeated<'a>(names: &[&'a str]) -> Option<&'a str> {
    names
        .iter()
        .enumerate()
        .find(|(place, name)| names.iter().take(*place).any(|other| other == *name))
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests;
