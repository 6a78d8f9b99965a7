//! The reading half of the distribution spec, as the fake's servers answer it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};
use pullgate::oci::Digest;
use serde_json::json;

use super::auth::{self, Auth, Tokens};
use super::content::{Content, Repository};
use super::log::Request;
use super::registry::Redirect;
use super::server::{CONTENT_DIGEST, Handler, Reply};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// The registry's own answers.
pub(crate) struct Distribution {
    pub(crate) auth: Auth,
    pub(crate) content: Arc<Content>,
    /// With the CDN's URL in place of its host name.
    pub(crate) location: Redirect,
    pub(crate) page: Option<usize>,
    /// The token endpoint's URL; `None`: here.
    pub(crate) realm: Option<String>,
    pub(crate) referrers_api: bool,
    pub(crate) tokens: Arc<Tokens>,
}

/// The CDN: any blob by digest, to whoever comes without credentials.
pub(crate) fn cdn(content: Arc<Content>) -> Handler {
    Box::new(move |request| {
        if request.authorization().is_some() {
            let message = "a signed URL and an Authorization header exclude each other";
            return Reply::error(StatusCode::BAD_REQUEST, "UNSUPPORTED", message);
        }
        let digest = request.path.strip_prefix("/cdn/").and_then(|text| text.parse().ok());
        match digest.and_then(|digest| content.blob(&digest)) {
            Some(bytes) => ranged(request, bytes),
            None => Reply::error(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", "no such object"),
        }
    })
}

/// The token endpoint alone.
pub(crate) fn issuer(auth: Auth, tokens: Arc<Tokens>) -> Handler {
    Box::new(move |request| match &auth {
        Auth::Bearer(bearer) if request.path == "/token" => tokens.endpoint(bearer, request),
        _ => Reply::new(StatusCode::NOT_FOUND),
    })
}

impl Distribution {
    pub(crate) fn answer(&self, request: &Request) -> Reply {
        if let (Auth::Bearer(bearer), "/token") = (&self.auth, request.path.as_str()) {
            return self.tokens.endpoint(bearer, request);
        }
        let Some(path) = request.path.strip_prefix("/v2/") else {
            return Reply::new(StatusCode::NOT_FOUND);
        };
        let asked = parse(path);
        let own = format!("https://{}/token", request.authority);
        let realm = self.realm.as_deref().unwrap_or(&own);
        let repository = asked.as_ref().map(|(repository, _)| *repository);
        let refusal = auth::challenge(&self.auth, &self.tokens, realm, request, repository);
        let reply = if let Some(refusal) = refusal {
            refusal
        } else if ![Method::GET, Method::HEAD].contains(&request.method) {
            Reply::error(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry is read-only")
        } else if let Some((repository, what)) = asked {
            let looked =
                self.content.read(repository, |content| self.look(request, repository, what, content));
            looked.unwrap_or_else(|| what.missing(false))
        } else if path.is_empty() {
            Reply::json("{}")
        } else {
            Reply::error(StatusCode::NOT_FOUND, "NAME_UNKNOWN", "no such thing in the API")
        };
        reply.header(API_VERSION, "registry/2.0")
    }

    fn look(&self, request: &Request, name: &str, what: What<'_>, content: &Repository) -> Reply {
        match what {
            What::Blob(digest) => {
                let Some(bytes) = digest.parse().ok().and_then(|digest: Digest| content.blob(&digest)) else {
                    return what.missing(true);
                };
                let location = match &self.location {
                    Redirect::Cdn(url) => format!("{url}/cdn/{digest}?signature=secret"),
                    Redirect::Loop => format!("https://{}{}", request.authority, request.path),
                    Redirect::None => return ranged(request, bytes).header(CONTENT_DIGEST, digest),
                    Redirect::To(url) => url.clone(),
                };
                Reply::new(StatusCode::TEMPORARY_REDIRECT).header(header::LOCATION, &location)
            }
            What::Manifest(reference) => match content.manifest(reference) {
                Some((media_type, bytes)) => {
                    let digest = reference.parse().unwrap_or_else(|_| Digest::sha256(&bytes));
                    Reply::new(StatusCode::OK)
                        .header(header::CONTENT_TYPE, &media_type)
                        .header(CONTENT_DIGEST, &digest.to_string())
                        .body(bytes)
                }
                None => what.missing(true),
            },
            What::Referrers(digest) => {
                let (true, Ok(digest)) = (self.referrers_api, digest.parse()) else {
                    return what.missing(true);
                };
                let filter = request.parameters("artifactType").pop();
                let mut reply = Reply::json(content.referrers(&digest, filter.as_deref()));
                reply.headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static(Repository::INDEX));
                match filter {
                    Some(_) => reply.header(FILTERS_APPLIED, "artifactType"),
                    None => reply,
                }
            }
            What::Tags => self.tags(request, name, content),
        }
    }

    fn tags(&self, request: &Request, name: &str, content: &Repository) -> Reply {
        let asked = request.parameters("n").pop().and_then(|n| n.parse().ok());
        let limit = asked.into_iter().chain(self.page).min().unwrap_or(usize::MAX);
        let last = request.parameters("last").pop().unwrap_or_default();
        let mut rest = content.tags.keys().filter(|tag| **tag > last);
        let page: Vec<_> = rest.by_ref().take(limit).collect();
        let reply = Reply::json(json!({"name": name, "tags": page}).to_string());
        match page.last() {
            Some(last) if rest.next().is_some() => {
                let link = format!(r#"</v2/{name}/tags/list?n={limit}&last={last}>; rel="next""#);
                reply.header(header::LINK, &link)
            }
            _ => reply,
        }
    }
}

#[derive(Clone, Copy)]
enum What<'path> {
    Blob(&'path str),
    Manifest(&'path str),
    Referrers(&'path str),
    Tags,
}

impl What<'_> {
    fn missing(self, repository_known: bool) -> Reply {
        let (code, message) = match self {
            Self::Blob(_) => ("BLOB_UNKNOWN", "blob unknown to registry"),
            Self::Manifest(_) if repository_known => ("MANIFEST_UNKNOWN", "manifest unknown"),
            Self::Referrers(_) if repository_known => ("UNSUPPORTED", "there is no referrers API here"),
            _ => ("NAME_UNKNOWN", "repository name not known to registry"),
        };
        Reply::error(StatusCode::NOT_FOUND, code, message)
    }
}

/// Splits what follows `/v2/` into the repository and what is asked of it.
fn parse(path: &str) -> Option<(&str, What<'_>)> {
    if let Some(repository) = path.strip_suffix("/tags/list") {
        return Some((repository, What::Tags));
    }
    let (rest, reference) = path.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    match kind {
        "blobs" => Some((repository, What::Blob(reference))),
        "manifests" => Some((repository, What::Manifest(reference))),
        "referrers" => Some((repository, What::Referrers(reference))),
        _ => None,
    }
}

/// A blob, or the one range of it that was asked for (RFC 9110, section 14). Several ranges are
/// answered whole.
fn ranged(request: &Request, bytes: Bytes) -> Reply {
    let total = bytes.len();
    let whole = Reply::new(StatusCode::OK)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ACCEPT_RANGES, "bytes");
    let wanted = request.header(header::RANGE).and_then(|range| range.strip_prefix("bytes="));
    let Some((first, last)) =
        wanted.and_then(|range| range.split_once('-')).filter(|(_, to)| !to.contains(','))
    else {
        return whole.body(bytes);
    };
    let (start, end) = match (first.parse::<usize>(), last.parse::<usize>()) {
        (Ok(start), Ok(last)) if start <= last => (start, last.saturating_add(1).min(total)),
        (Ok(start), Err(_)) if last.is_empty() => (start, total),
        (Err(_), Ok(length)) if first.is_empty() => (total.saturating_sub(length), total),
        _ => return whole.body(bytes),
    };
    if start >= end {
        let unsatisfiable =
            Reply::error(StatusCode::RANGE_NOT_SATISFIABLE, "UNSUPPORTED", "range not satisfiable");
        return unsatisfiable.header(header::CONTENT_RANGE, &format!("bytes */{total}"));
    }
    let range = format!("bytes {start}-{}/{total}", end - 1);
    Reply { status: StatusCode::PARTIAL_CONTENT, ..whole }
        .header(header::CONTENT_RANGE, &range)
        .body(bytes.slice(start..end))
}
