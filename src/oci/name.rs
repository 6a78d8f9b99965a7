//! Names: one normal form, one parser for every input.
//!
//! `registry/repository[:tag][@digest]`. The registry is lower-case, without `:443` (which only a host
//! that is a single label keeps), and Docker Hub's other spellings are `docker.io`; only there a
//! single-component repository means `library/…`.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use super::{Digest, DigestError};

/// Docker Hub, the registry of names that carry none.
pub const DOCKER_HUB: &str = "docker.io";
const REPOSITORY_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// Why a text is no name. Shown to people; the code is `name.invalid` for all of them.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NameError {
    /// The part after `@` is no digest.
    #[error("{0}")]
    Digest(#[from] DigestError),
    /// An address instead of a name, and nobody configured it as a registry.
    #[error("registry {0:?} is an IP address; only a registry configured by that address may be asked so")]
    IpLiteral(String),
    /// The registry's host or port is malformed.
    #[error("malformed registry {0:?}; expected a lower-case host name, with a port where it is not 443")]
    Registry(String),
    /// The repository is malformed.
    #[error(
        "malformed repository {0:?}; expected lower-case letters, digits and single separators (. _ __ -) between slashes, at most 255 characters"
    )]
    Repository(String),
    /// The tag is malformed.
    #[error(
        "malformed tag {0:?}; expected a letter, digit or _ and then letters, digits, . _ or -, at most 128 characters"
    )]
    Tag(String),
}

/// Shortens hostile text before it is quoted in a message.
pub(super) fn quote(text: &str) -> String {
    let mut short: String = text.chars().take(80).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A registry: `host[:port]` in its normal form.
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Registry(Arc<str>);

impl Registry {
    /// Docker Hub.
    pub fn docker_hub() -> Self {
        Self(DOCKER_HUB.into())
    }

    /// `host[:port]`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without its port; an IPv6 address keeps its brackets.
    pub fn host(&self) -> &str {
        split_port(&self.0).0
    }

    /// Whether the host is an IP address rather than a name.
    pub fn is_ip(&self) -> bool {
        is_ip(self.host())
    }

    /// Whether the first component of a reference names a registry rather than a repository:
    /// it contains a dot or a colon, or is `localhost` (the rule all clients share).
    pub fn looks_like_one(component: &str) -> bool {
        component.contains(['.', ':']) || component == "localhost"
    }
}

fn split_port(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    }
}

fn is_ip(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
    // Resolvers and URL parsers take 127.1, 2130706433 and 0x7f.1 for addresses as well.
    let number = |label: &str| match label.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    };
    bare.parse::<IpAddr>().is_ok() || bare.split('.').all(number)
}

impl FromStr for Registry {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let malformed = || NameError::Registry(quote(text));
        if text.len() > 261 || !text.is_ascii() {
            return Err(malformed());
        }
        let lower = match text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(text.to_ascii_lowercase()),
            false => Cow::Borrowed(text),
        };
        let (host, port) = split_port(&lower);
        let label = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        let bracketed = host.starts_with('[');
        if (bracketed && !is_ip(host)) || (!bracketed && !host.split('.').all(label)) || host.len() > 253 {
            return Err(malformed());
        }
        let port = match port {
            None | Some("443") => None,
            Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) && !port.starts_with('0') => {
                Some(port.parse::<u16>().map_err(|_| malformed())?)
            }
            Some(_) => return Err(malformed()),
        };
        Ok(Self(match (host, port) {
            ("docker.io" | "index.docker.io" | "registry-1.docker.io", None) => DOCKER_HUB.into(),
            (host, None) if Self::looks_like_one(host) => host.into(),
            // Without its port a single label would read as a repository of Docker Hub.
            (host, None) => format!("{host}:443").into(),
            (host, Some(port)) => format!("{host}:{port}").into(),
        }))
    }
}

impl fmt::Display for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A repository's path within its registry (distribution-spec, `<name>`).
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Repository(Arc<str>);

impl Repository {
    /// The path, components separated by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Repository {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text.len() > REPOSITORY_MAX || !text.split('/').all(is_component) {
            return Err(NameError::Repository(quote(text)));
        }
        Ok(Self(text.into()))
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(alphanumeric) && bytes.last().is_some_and(alphanumeric);
    ends && bytes.split(alphanumeric).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
    })
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A tag (distribution-spec: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`).
#[derive(Clone, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Tag(Arc<str>);

impl Tag {
    /// What a reference without a tag means.
    pub fn latest() -> Self {
        Self("latest".into())
    }

    /// The tag's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        let sound = text.len() <= TAG_MAX
            && text.bytes().next().is_some_and(word)
            && text.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-');
        if sound { Ok(Self(text.into())) } else { Err(NameError::Tag(quote(text))) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A repository and the registry it lives in: what sources match and possession is counted by.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Name {
    registry: Registry,
    repository: Repository,
}

impl Name {
    /// Joins the two; on Docker Hub a single component becomes `library/…`.
    pub fn new(registry: Registry, repository: &str) -> Result<Self, NameError> {
        let official = registry.as_str() == DOCKER_HUB && !repository.contains('/');
        let repository = match official {
            // The error quotes what was written.
            true if !is_component(repository) => return Err(NameError::Repository(quote(repository))),
            true => format!("library/{repository}").parse()?,
            false => repository.parse()?,
        };
        Ok(Self { registry, repository })
    }

    /// Its registry.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Its repository.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// `[registry/]repository`; without a registry, Docker Hub.
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((first, rest)) if Registry::looks_like_one(first) => Self::new(first.parse()?, rest),
            _ => Self::new(Registry::docker_hub(), text),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

/// What a person writes: `[registry/]repository[:tag][@digest]`.
///
/// Neither tag nor digest means the tag `latest`, and [`Reference::tag`] says so.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Reference {
    /// Registry and repository.
    pub name: Name,
    /// The tag written, or `latest` when there is no digest either.
    pub tag: Option<Tag>,
    /// The digest written.
    pub digest: Option<Digest>,
}

impl FromStr for Reference {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse()?)),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag.parse()?)),
            _ => (rest, None),
        };
        let tag = tag.or_else(|| digest.is_none().then(Tag::latest));
        Ok(Self { name: name.parse()?, tag, digest })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> Result<String, NameError> {
        text.parse::<Reference>().map(|reference| reference.to_string())
    }

    #[test]
    fn every_spelling_of_a_docker_hub_image_has_one_normal_form() {
        for text in [
            "python:3.11.9",
            "library/python:3.11.9",
            "docker.io/python:3.11.9",
            "index.docker.io/library/python:3.11.9",
            "registry-1.docker.io/library/python:3.11.9",
            "Docker.IO:443/library/python:3.11.9",
        ] {
            assert_eq!(normal(text).as_deref(), Ok("docker.io/library/python:3.11.9"), "{text}");
        }
    }

    #[test]
    fn other_registries_keep_their_single_names_and_ports() {
        assert_eq!(normal("quay.io/x:1").as_deref(), Ok("quay.io/x:1"));
        assert_eq!(normal("localhost:5000/x:1").as_deref(), Ok("localhost:5000/x:1"));
        assert_eq!(normal("localhost:5000/x").as_deref(), Ok("localhost:5000/x:latest"));
    }

    #[test]
    fn a_registry_of_one_label_keeps_its_port_so_that_it_stays_a_registry() {
        assert_eq!(normal("registry:443/x:1").as_deref(), Ok("registry:443/x:1"));
        assert_eq!("registry".parse::<Registry>(), "registry:443".parse());
    }

    #[test]
    fn a_name_that_only_begins_like_a_known_one_stays_another() {
        assert_eq!(
            normal("docker.io.evil.com/library/python:3.11.9").as_deref(),
            Ok("docker.io.evil.com/library/python:3.11.9")
        );
    }

    #[test]
    fn malformed_names_are_refused() {
        let long_tag = format!("python:{}", "a".repeat(129));
        let long_name = format!("ghcr.io/{}", "a".repeat(256));
        for text in [
            "",
            "/",
            ":",
            "@",
            "python:",
            "python@",
            "Python:1",
            "ghcr.io/Org/x:1",
            "ghcr.io/a//b",
            "ghcr.io/../b",
            "ghcr.io/a/..",
            "ghcr.io/.",
            "ghcr.io./a",
            "ghcr.io:0/a",
            "ghcr.io:99999/a",
            "ghcr..io/a",
            "-a.io/b",
            "ghcr.io/a%2fb",
            "ghcr.io/a___b",
            "ghcr.io/a._b",
            "ghcr.io/-a",
            "ghcr.io/a-",
            "ghcr.io/é",
            "għcr.io/a",
            "python:-x",
            "python:a/b:",
            "python@sha256:00",
            "ghcr.io/a b",
            "ghcr.io/a\n",
            "a@b@c",
            "ghcr.io/",
            long_tag.as_str(),
            long_name.as_str(),
        ] {
            assert!(normal(text).is_err(), "{text:?} -> {:?}", normal(text));
        }
    }

    #[test]
    fn ip_addresses_are_recognised_in_every_spelling_a_resolver_would_take() {
        for text in ["127.0.0.1", "[::1]:5000", "10.1", "2130706433", "0x7f.1", "127.0.0.1:5000"] {
            let registry: Registry = text.parse().expect(text);
            assert!(registry.is_ip(), "{text}");
        }
        assert!(!"ghcr.io".parse::<Registry>().expect("a registry").is_ip());
    }
}
