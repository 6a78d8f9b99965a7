//! How a refusal is put to each kind of client, so that it holds and its words arrive.
//!
//! A plain 403 is what the spec says. A client that was set up with the gateway as a *mirror* takes
//! any failure as leave to ask the upstream itself, so those get the firm forms: for `?ns=` (containerd)
//! a HEAD that succeeds without naming a digest and a GET that is refused; for dockerd's classic mirror
//! and podman's a tiny valid manifest that no client can run. Tried on real clients; see docs/clients.md.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use hyper::ext::ReasonPhrase;
use moka::sync::Cache;
use serde_json::json;

use super::reply::{self, Body, Reply};
use crate::gate::Refused;
use crate::identity::Caller;
use crate::oci::{Access, Digest, ErrorCode, Form, Name, Pull, What};
use crate::policy::Code;

/// How a refusal is put.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Manner {
    /// So that a client set up as a mirror stops.
    Firm,
    /// As the spec says.
    Plain,
}

/// One manner for each way of naming the registry.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Neither `ns` nor prefix, from a docker user agent.
    pub bare: Manner,
    /// `?ns=`.
    pub ns: Manner,
    /// The registry in the path.
    pub prefix: Manner,
}

/// For how long what a client may ask about a refusal is answered with that refusal.
const ECHO_FOR: Duration = Duration::from_secs(15 * 60);
const ECHOES: u64 = 20_000;
const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Puts refusals into words, and remembers them: a containerd up to 2.2 takes the body of the 403 for
/// the manifest and asks for its hash next, and its user reads the last answer it got.
#[derive(Debug)]
pub(super) struct Refuser {
    manners: Manners,
    /// By digests that exist only because of a refusal.
    echoes: Cache<Digest, Arc<Echo>>,
    /// By refused digests, which may be somebody else's content: answered to the address that was
    /// refused and to nobody else.
    refused: Cache<(Digest, Name, IpAddr), Arc<Refused>>,
}

#[derive(Debug)]
struct Echo {
    name: Name,
    refused: Arc<Refused>,
    answer: Answer,
}

/// What a request for a remembered digest is answered with.
#[derive(Clone, Debug)]
enum Answer {
    /// The refusal, however it is asked for: nothing else has this digest.
    Body,
    /// The refusal manifest; as a blob, the refusal.
    Manifest(Bytes),
}

impl Refuser {
    pub(super) fn new(manners: Manners) -> Self {
        Self {
            manners,
            echoes: Cache::builder().max_capacity(ECHOES).time_to_live(ECHO_FOR).build(),
            refused: Cache::builder().max_capacity(ECHOES).time_to_live(ECHO_FOR).build(),
        }
    }

    /// The reply to a request that was refused.
    pub(super) fn refuse(&self, pull: &Pull, caller: &Caller, refused: &Arc<Refused>) -> Reply {
        let docker = caller.user_agent.as_deref().is_some_and(|agent| agent.starts_with("docker/"));
        let manner = match pull.form {
            Form::Bare if docker => self.manners.bare,
            Form::Bare => Manner::Plain,
            Form::Ns => self.manners.ns,
            Form::Prefix => self.manners.prefix,
        };
        match (manner, pull.form, &pull.ask.what) {
            (Manner::Firm, Form::Ns, What::Tag(_) | What::Digest(_)) => {
                let body = envelope(refused, ErrorCode::Denied);
                self.remember(Digest::sha256(&body), &pull.ask.name, refused, Answer::Body);
                // containerd 1.6 asks for the refused manifest once more, as a blob. Who was refused
                // for who they are is not remembered: others behind their address may have it.
                let by_caller = matches!(refused.code(), Code::ClientNotAllowed | Code::ClientUnknown);
                if let (What::Digest(digest), false) = (&pull.ask.what, by_caller) {
                    self.refused.insert((*digest, pull.ask.name.clone(), caller.address), refused.clone());
                }
                match pull.access {
                    Access::Get => denial(refused, body),
                    Access::Head => head_without_digest(),
                }
            }
            (Manner::Firm, Form::Bare | Form::Prefix, What::Tag(_)) => {
                let (manifest, config) = refusal_manifest(refused);
                let digest = Digest::sha256(&manifest);
                self.remember(config, &pull.ask.name, refused, Answer::Body);
                self.remember(digest, &pull.ask.name, refused, Answer::Manifest(manifest.clone()));
                manifest_reply(manifest, &digest)
            }
            _ => denial(refused, envelope(refused, ErrorCode::Denied)),
        }
    }

    /// The answer to a request for something that exists only because a refusal was answered.
    pub(super) fn echo(&self, pull: &Pull, caller: &Caller) -> Option<Reply> {
        let (What::Blob(digest) | What::Digest(digest)) = &pull.ask.what else { return None };
        // As a manifest a refused digest is judged anew, for the policy may change.
        if let What::Blob(_) = &pull.ask.what
            && let Some(refused) = self.refused.get(&(*digest, pull.ask.name.clone(), caller.address))
        {
            return Some(denial(&refused, envelope(&refused, ErrorCode::Denied)));
        }
        let echo = self.echoes.get(digest).filter(|echo| echo.name == pull.ask.name)?;
        match (&echo.answer, &pull.ask.what) {
            (Answer::Manifest(manifest), What::Digest(_)) => Some(manifest_reply(manifest.clone(), digest)),
            _ => Some(denial(&echo.refused, envelope(&echo.refused, ErrorCode::Denied))),
        }
    }

    fn remember(&self, digest: Digest, name: &Name, refused: &Arc<Refused>, answer: Answer) {
        let echo = Echo { name: name.clone(), refused: refused.clone(), answer };
        self.echoes.insert(digest, Arc::new(echo));
    }
}

/// The plain refusal, with the reason phrase that is the one text containerd below 2.3.3 shows of a HEAD.
pub(super) fn denial(refused: &Refused, body: Bytes) -> Reply {
    let status = StatusCode::from_u16(refused.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut reply = reply::reply(status, Body::whole(body));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(phrase) = ReasonPhrase::try_from(refused.phrase().as_bytes()) {
        reply.extensions_mut().insert(phrase);
    }
    reply
}

/// The OCI error body of a refusal: the same bytes every time, so that its hash can be recognised.
pub(super) fn envelope(refused: &Refused, code: ErrorCode) -> Bytes {
    let mut detail = json!({
        "id": refused.id().to_string(),
        "reason": refused.code().as_str(),
        "reasons": refused.reasons().iter().map(|reason| json!({
            "code": reason.code.as_str(), "text": reason.text, "remedy": reason.remedy,
        })).collect::<Vec<_>>(),
    });
    if let Some(until) = refused.until() {
        detail["until"] = json!(until.to_string());
    }
    code.envelope(refused.message(), &detail).into()
}

/// "It exists": but no digest and no length, so the client must GET, and meets the refusal there.
fn head_without_digest() -> Reply {
    let mut reply = Response::new(Body::empty());
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(IMAGE_MANIFEST));
    reply
}

fn refusal_manifest(refused: &Refused) -> (Bytes, Digest) {
    let config = envelope(refused, ErrorCode::Denied);
    let digest = Digest::sha256(&config);
    let media_type = format!(
        "application/vnd.blocked-by-policy.{}.{}",
        refused.id(),
        refused.code().as_str().replace(['.', '_'], "-")
    );
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "config": { "mediaType": media_type, "digest": digest, "size": config.len() },
        "layers": [],
        "annotations": { "org.opencontainers.image.description": refused.message() },
    });
    (manifest.to_string().into(), digest)
}

fn manifest_reply(manifest: Bytes, digest: &Digest) -> Reply {
    let mut reply = reply::reply(StatusCode::OK, Body::whole(manifest));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(IMAGE_MANIFEST));
    reply::name_content(reply.headers_mut(), digest);
    reply
}
