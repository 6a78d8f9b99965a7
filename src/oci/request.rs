//! A pull request, parsed once from method, path and query; no handler sees a string.

use std::borrow::Cow;
use std::collections::HashSet;

use super::name::quote;
use super::{Digest, Name, NameError, Registry, Tag};

/// What a caller wants of a repository.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum What {
    /// A blob: a config or a layer.
    Blob(Digest),
    /// A manifest by digest.
    Digest(Digest),
    /// The manifests that name this one as their subject.
    Referrers(Digest),
    /// A manifest by tag.
    Tag(Tag),
    /// The list of tags.
    Tags,
}

/// One question to the policy: may this be pulled?
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Ask {
    /// Where.
    pub name: Name,
    /// What.
    pub what: What,
}

impl Ask {
    /// `registry/repository[:tag|@digest]`, as people write it.
    pub fn reference(&self) -> String {
        match &self.what {
            What::Blob(digest) | What::Digest(digest) | What::Referrers(digest) => {
                format!("{}@{digest}", self.name)
            }
            What::Tag(tag) => format!("{}:{tag}", self.name),
            What::Tags => self.name.to_string(),
        }
    }
}

/// How the caller named the registry: what it was set up as (clients.md, "Requests to accept").
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Form {
    /// Neither `ns` nor a prefix: the default registry, as dockerd's classic mirror asks.
    Bare,
    /// `?ns=`: a mirror by definition (containerd, BuildKit).
    Ns,
    /// The registry is the first part of the path: the gateway was named on purpose.
    Prefix,
}

impl Form {
    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Ns => "ns",
            Self::Prefix => "prefix",
        }
    }
}

/// Whether the body is wanted.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Access {
    /// The content.
    Get,
    /// Its headers.
    Head,
}

/// A well-formed request below `/v2/`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Request {
    /// `/v2/`: is this a registry?
    Ping,
    /// Everything else.
    Pull(Pull),
}

/// A request for content.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pull {
    /// GET or HEAD.
    pub access: Access,
    /// The question to the policy.
    pub ask: Ask,
    /// How the registry was named.
    pub form: Form,
    /// The `ns` parameter in its normal form, to be echoed in `OCI-Namespace`.
    pub ns: Option<Registry>,
    /// Paging of a tag list.
    pub page: Page,
    /// The filter of a referrers list.
    pub artifact_type: Option<String>,
}

/// `n` and `last` of `tags/list`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page {
    /// At most this many tags.
    pub n: Option<usize>,
    /// Only tags after this one.
    pub last: Option<String>,
}

/// Why a request is none that the gateway answers.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RequestError {
    /// `ns` and the path name two registries, or `ns` is repeated: `name.conflict`.
    #[error("{0}")]
    Conflict(String),
    /// The digest of a blob, manifest or subject is malformed: `name.invalid`.
    #[error("{0}")]
    Digest(String),
    /// Not GET or HEAD, or an endpoint only pushes use: `method.unsupported`.
    #[error("{0} is not supported: this is a pull gateway, push to the registry itself")]
    Method(String),
    /// A malformed name: `name.invalid`.
    #[error("{0}")]
    Name(String),
    /// A malformed tag: `name.invalid`.
    #[error("{0}")]
    Tag(String),
    /// Nothing is served under that path.
    #[error("no such endpoint: {0}; the gateway serves /v2/<name>/manifests, blobs, tags/list and referrers")]
    Unknown(String),
}

impl From<NameError> for RequestError {
    fn from(error: NameError) -> Self {
        match error {
            NameError::Digest(_) => Self::Digest(error.to_string()),
            NameError::Tag(_) => Self::Tag(error.to_string()),
            _ => Self::Name(error.to_string()),
        }
    }
}

/// What the parser must know of the configuration.
#[derive(Clone, Debug)]
pub struct Naming {
    /// The registry of requests that name none.
    pub default_registry: Registry,
    /// Registries of sources and upstreams: an IP address is accepted only if it stands here, and
    /// a path prefix from here that differs from `ns` is a conflict.
    pub known: HashSet<Registry>,
}

impl Request {
    /// Parses what came on the wire. `path` and `query` are raw, still percent-encoded.
    pub fn parse(
        method: &str,
        path: &str,
        query: Option<&str>,
        naming: &Naming,
    ) -> Result<Self, RequestError> {
        let access = match method {
            "GET" => Access::Get,
            "HEAD" => Access::Head,
            _ => return Err(RequestError::Method(quote(method))),
        };
        let unknown = || RequestError::Unknown(quote(path));
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Self::Ping),
            Some(rest) => rest.strip_prefix('/').ok_or_else(unknown)?,
            None => return Err(unknown()),
        };
        let (path_name, endpoint) = Endpoint::split(rest).ok_or_else(unknown)?;
        let query = Query::parse(query.unwrap_or_default())?;
        let (name, form) = resolve(path_name, query.ns.as_ref(), naming)?;
        let mut pull = Pull {
            access,
            ask: Ask { name, what: What::Tags },
            form,
            ns: query.ns,
            page: Page::default(),
            artifact_type: None,
        };
        pull.ask.what = match endpoint {
            Endpoint::Blob(digest) => What::Blob(parse_digest(digest)?),
            Endpoint::Manifest(reference) => match unescape_colon(reference)? {
                text if text.contains(':') => What::Digest(parse_digest(&text)?),
                text => What::Tag(text.parse().map_err(RequestError::from)?),
            },
            Endpoint::Referrers(digest) => {
                pull.artifact_type = query.artifact_type;
                What::Referrers(parse_digest(digest)?)
            }
            Endpoint::Tags => {
                pull.page = query.page;
                What::Tags
            }
            Endpoint::Upload => return Err(RequestError::Method("uploading".to_owned())),
        };
        Ok(Self::Pull(pull))
    }
}

enum Endpoint<'a> {
    Blob(&'a str),
    Manifest(&'a str),
    Referrers(&'a str),
    Tags,
    Upload,
}

impl<'a> Endpoint<'a> {
    /// Splits at the end, because a repository may itself contain `manifests` or `blobs`.
    fn split(rest: &'a str) -> Option<(&'a str, Self)> {
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Some((name, Self::Tags));
        }
        let (head, last) = rest.rsplit_once('/')?;
        let (name, word) = head.rsplit_once('/')?;
        if word == "uploads" || last == "uploads" {
            // `<name>/blobs/uploads[/<session>]`
            let upload =
                rest.split_once("/blobs/uploads").filter(|(_, end)| !end.trim_matches('/').contains('/'));
            if let Some((name, _)) = upload {
                return Some((name, Self::Upload));
            }
        }
        match word {
            "blobs" => Some((name, Self::Blob(last))),
            "manifests" => Some((name, Self::Manifest(last))),
            "referrers" => Some((name, Self::Referrers(last))),
            _ => None,
        }
    }
}

fn parse_digest(text: &str) -> Result<Digest, RequestError> {
    unescape_colon(text)?.parse().map_err(|error: super::DigestError| RequestError::Digest(error.to_string()))
}

/// `%3A` is the one escape a reference may contain: clients encode the colon of a digest.
fn unescape_colon(text: &str) -> Result<Cow<'_, str>, RequestError> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let text = text.replace("%3A", ":").replace("%3a", ":");
    if text.contains('%') {
        return Err(RequestError::Tag(format!(
            "malformed reference {:?}: only %3A may be escaped",
            quote(&text)
        )));
    }
    Ok(Cow::Owned(text))
}

fn resolve(path: &str, ns: Option<&Registry>, naming: &Naming) -> Result<(Name, Form), RequestError> {
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let prefix: Option<Registry> = if Registry::looks_like_one(first) && !rest.is_empty() {
        match ns {
            // With ns the first component may as well be a repository's; only a known registry is a prefix.
            Some(_) => {
                first.parse().ok().filter(|registry| naming.known.contains(registry) || ns == Some(registry))
            }
            None => Some(first.parse()?),
        }
    } else {
        None
    };
    let (registry, repository, form) = match (ns, prefix) {
        (Some(ns), Some(prefix)) if *ns != prefix => {
            return Err(RequestError::Conflict(format!(
                "the path names registry {prefix} and ns names {ns}; name one registry"
            )));
        }
        (Some(ns), Some(_)) => (ns.clone(), rest, Form::Ns),
        (Some(ns), None) => (ns.clone(), path, Form::Ns),
        (None, Some(prefix)) => (prefix, rest, Form::Prefix),
        (None, None) => (naming.default_registry.clone(), path, Form::Bare),
    };
    if registry.is_ip() && !naming.known.contains(&registry) {
        return Err(NameError::IpLiteral(registry.to_string()).into());
    }
    Ok((Name::new(registry, repository)?, form))
}

#[derive(Default)]
struct Query {
    ns: Option<Registry>,
    page: Page,
    artifact_type: Option<String>,
}

impl Query {
    fn parse(text: &str) -> Result<Self, RequestError> {
        let mut query = Self::default();
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
            match &*key {
                "ns" if query.ns.is_some() => {
                    return Err(RequestError::Conflict(
                        "the parameter ns is repeated; name one registry".to_owned(),
                    ));
                }
                "ns" => query.ns = Some(value.parse()?),
                "n" => {
                    let n = value.parse().map_err(|_| {
                        RequestError::Name(format!(
                            "malformed page size n={:?}; expected a number",
                            quote(&value)
                        ))
                    })?;
                    query.page.n = Some(n);
                }
                "last" => query.page.last = Some(value.into_owned()),
                "artifactType" => query.artifact_type = Some(value.into_owned()),
                // Unknown parameters are ignored, as every registry does.
                _ => {}
            }
        }
        Ok(query)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn naming() -> Naming {
        let known = ["docker.io", "ghcr.io", "127.0.0.1:5000"];
        Naming {
            default_registry: Registry::docker_hub(),
            known: known.iter().map(|text| text.parse().expect("a registry")).collect(),
        }
    }

    fn pull(path: &str, query: Option<&str>) -> Result<(String, Form), RequestError> {
        match Request::parse("GET", path, query, &naming())? {
            Request::Ping => panic!("a ping"),
            Request::Pull(pull) => Ok((pull.ask.reference(), pull.form)),
        }
    }

    #[test]
    fn every_client_form_of_one_image_is_one_reference() {
        let nginx = "docker.io/library/nginx:1.27.3".to_owned();
        let cases = [
            ("/v2/library/nginx/manifests/1.27.3", Some("ns=docker.io"), Form::Ns),
            ("/v2/docker.io/library/nginx/manifests/1.27.3", Some("ns=docker.io"), Form::Ns),
            ("/v2/library/nginx/manifests/1.27.3", Some("ns=registry-1.docker.io"), Form::Ns),
            ("/v2/library/nginx/manifests/1.27.3", None, Form::Bare),
            ("/v2/nginx/manifests/1.27.3", None, Form::Bare),
            ("/v2/docker.io/library/nginx/manifests/1.27.3", None, Form::Prefix),
            ("/v2/docker.io/nginx/manifests/1.27.3", None, Form::Prefix),
        ];
        for (path, query, form) in cases {
            assert_eq!(pull(path, query), Ok((nginx.clone(), form)), "{path}?{query:?}");
        }
    }

    #[test]
    fn a_digest_may_come_with_its_colon_escaped() {
        let escaped = HEX.replace(':', "%3A");
        let expected = Ok((format!("ghcr.io/a/b@{HEX}"), Form::Prefix));
        assert_eq!(pull(&format!("/v2/ghcr.io/a/b/manifests/{escaped}"), None), expected);
        assert_eq!(pull(&format!("/v2/ghcr.io/a/b/blobs/{HEX}"), None), expected);
    }

    #[test]
    fn a_prefix_equal_to_ns_is_stripped_once_only() {
        let path = "/v2/docker.io/docker.io/x/manifests/1";
        assert_eq!(pull(path, Some("ns=docker.io")), Ok(("docker.io/docker.io/x:1".to_owned(), Form::Ns)));
    }

    #[test]
    fn two_registries_in_one_request_are_a_conflict() {
        for (path, query) in [
            ("/v2/ghcr.io/a/b/manifests/1", "ns=docker.io"),
            ("/v2/a/b/manifests/1", "ns=docker.io&ns=ghcr.io"),
            ("/v2/a/b/manifests/1", "ns=docker.io&ns=docker.io"),
        ] {
            assert!(matches!(pull(path, Some(query)), Err(RequestError::Conflict(_))), "{path}?{query}");
        }
    }

    #[test]
    fn an_ip_address_is_a_registry_only_where_it_is_configured() {
        assert!(pull("/v2/127.0.0.1:5000/a/manifests/1", None).is_ok());
        for path in ["/v2/127.0.0.1:5001/a/manifests/1", "/v2/169.254.169.254/a/manifests/1"] {
            assert!(matches!(pull(path, None), Err(RequestError::Name(_))), "{path}");
        }
        assert!(matches!(pull("/v2/a/manifests/1", Some("ns=10.0.0.1")), Err(RequestError::Name(_))));
        assert!(matches!(pull("/v2/a/manifests/1", Some("ns=2130706433")), Err(RequestError::Name(_))));
    }

    #[test]
    fn malformed_requests_say_which_part_is_wrong() {
        let tag = "a".repeat(129);
        for path in [
            "/v2/a/../b/manifests/1",
            "/v2/a/%2e%2e/manifests/1",
            "/v2/A/manifests/1",
            "/v2//manifests/1",
            "/v2/a//manifests/1",
            "/v2/a%2fb/manifests/1",
            "/v2/docker.io/manifests/1x/",
        ] {
            assert!(pull(path, None).is_err(), "{path}");
        }
        assert!(matches!(pull(&format!("/v2/a/manifests/{tag}"), None), Err(RequestError::Tag(_))));
        assert!(matches!(pull("/v2/a/manifests/%20", None), Err(RequestError::Tag(_))));
        assert!(matches!(pull("/v2/a/manifests/sha256:00", None), Err(RequestError::Digest(_))));
        assert!(matches!(pull("/v2/a/blobs/latest", None), Err(RequestError::Digest(_))));
        assert!(matches!(pull("/v2/a/manifests/1", Some("ns=")), Err(RequestError::Name(_))));
        assert!(matches!(pull("/v2/_catalog", None), Err(RequestError::Unknown(_))));
        assert!(matches!(pull("/v3/", None), Err(RequestError::Unknown(_))));
    }

    #[test]
    fn whatever_writes_is_unsupported() {
        for method in ["POST", "PUT", "PATCH", "DELETE", "get", "OPTIONS"] {
            let outcome = Request::parse(method, "/v2/a/manifests/1", None, &naming());
            assert!(matches!(outcome, Err(RequestError::Method(_))), "{method}");
        }
        assert!(matches!(pull("/v2/a/blobs/uploads/", None), Err(RequestError::Method(_))));
    }

    #[test]
    fn a_repository_may_be_called_like_an_endpoint() {
        assert_eq!(
            pull("/v2/ghcr.io/manifests/blobs/tags/manifests/1", None),
            Ok(("ghcr.io/manifests/blobs/tags:1".to_owned(), Form::Prefix))
        );
    }

    #[test]
    fn listings_carry_their_page_and_filter() {
        let Ok(Request::Pull(tags)) =
            Request::parse("GET", "/v2/a/tags/list", Some("n=5&last=1.0"), &naming())
        else {
            panic!("no pull");
        };
        assert_eq!(tags.page, Page { n: Some(5), last: Some("1.0".to_owned()) });
        let query = "artifactType=application%2Fspdx%2Bjson";
        let path = format!("/v2/a/referrers/{HEX}");
        let Ok(Request::Pull(referrers)) = Request::parse("GET", &path, Some(query), &naming()) else {
            panic!("no pull");
        };
        assert_eq!(referrers.artifact_type.as_deref(), Some("application/spdx+json"));
        assert!(Request::parse("GET", "/v2/a/tags/list", Some("n=-1"), &naming()).is_err());
    }
}
