//! The door: request in, gate asked, content fetched, reply out. Everything HTTP is here and nothing else.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, IF_RANGE, LINK,
    RANGE, RETRY_AFTER, USER_AGENT, WARNING,
};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use moka::sync::Cache;
use serde_json::{Value, json};

use super::listener::Peer;
use super::page::Pages;
use super::refuse::{Manners, Refuser, denial, envelope};
use super::reply::{self, Body, Reply, Span};
use crate::audit::{self, Http};
use crate::clock::Clock;
use crate::gate::{Gate, Pass, Turned};
use crate::identity::{Caller, Evidence};
use crate::oci::{self, Access, Descriptor, Digest, ErrorCode, Fault, Pull, Tag, What};
use crate::policy::Target;
use crate::pull::{self, Puller, Stored};

/// The first header is on its way within this time, or an error that says when to come again:
/// containerd from 2.3 on gives up after 30 s.
pub const FIRST_HEADER: Duration = Duration::from_secs(25);

/// Answers pulls. One for all connections; cloning shares it.
#[derive(Clone, Debug)]
pub struct Door(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gate: Gate,
    puller: Puller,
    refuser: Refuser,
    pages: Pages,
    prepared: Cache<Digest, Arc<Prepared>, foldhash::quality::RandomState>,
    first_header: Duration,
    clock: Clock,
}

/// The reply that a manifest makes: the same for everybody who is permitted to have it.
#[derive(Debug)]
struct Prepared {
    headers: HeaderMap,
    bytes: Bytes,
}

/// How many bytes of manifests are kept ready.
const PREPARED: u64 = 64 << 20;

impl Prepared {
    fn new(stored: &Stored) -> Self {
        let mut headers = HeaderMap::with_capacity(8);
        reply::name_content(&mut headers, &stored.manifest.digest);
        headers.insert(CONTENT_TYPE, reply::header_text(&stored.manifest.media_type));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(stored.manifest.size));
        headers.insert(reply::API_VERSION, HeaderValue::from_static(reply::REGISTRY_2));
        Self { headers, bytes: stored.bytes.clone() }
    }

    fn reply(&self, pull: &Pull, headers: &HeaderMap) -> Reply {
        let body = match pull.access {
            Access::Get => Body::whole(self.bytes.clone()),
            Access::Head => Body::empty(),
        };
        let mut reply = reply::reply(StatusCode::OK, body);
        *reply.headers_mut() = self.headers.clone();
        if is_known_to_client(headers, reply.headers()) { not_modified(reply) } else { reply }
    }
}

/// What was understood of a request that has to wait for something.
enum Understood {
    /// That it is for the page of a refusal.
    Page,
    /// That it cannot be read; the refusal has to be recorded.
    Nothing { caller: Caller, error: oci::RequestError },
    /// All of it, from a client that asks too often.
    TooOften { pull: Pull, caller: Caller, wait: Duration },
    /// All of it; the permit may be there already.
    Pull { pull: Pull, caller: Caller, renewed: Option<Result<Pass, Turned>> },
}

fn http<'a>(request: &'a Request<()>, pull: &'a Pull) -> Http<'a> {
    Http {
        method: request.method().as_str(),
        path: request.uri().path(),
        ns: pull.ns.as_ref().map(oci::Registry::as_str),
        status: None,
    }
}

/// Tells the client which registry it was answered for, where it named one (distribution-spec,
/// "Registry Proxying").
fn name_registry(mut reply: Reply, pull: &Pull) -> Reply {
    if let Some(ns) = &pull.ns {
        reply.headers_mut().insert(reply::OCI_NAMESPACE, reply::header_text(ns.as_str()));
    }
    reply
}

/// Lets the receipt ride along with the reply, and the warning of a softened rule.
fn settle(mut reply: Reply, pass: Pass) -> Reply {
    if let Some(warning) = pass.permit().warning() {
        let text = format!("299 - \"{}\"", warning.replace(['"', '\\'], "'"));
        reply.headers_mut().insert(WARNING, reply::header_text(&text));
    }
    let mut receipt = pass.into_receipt();
    receipt.status(reply.status().as_u16());
    let (parts, body) = reply.into_parts();
    Reply::from_parts(parts, body.with_receipt(receipt))
}

/// The door as one connection sees it.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    door: Door,
    peer: Arc<Peer>,
}

impl Door {
    /// A door before this gate, whose replies begin within `first_header`.
    pub fn new(gate: Gate, puller: Puller, manners: Manners, first_header: Duration, clock: Clock) -> Self {
        let prepared = Cache::builder()
            .max_capacity(PREPARED)
            .weigher(|_, prepared: &Arc<Prepared>| {
                u32::try_from(prepared.bytes.len() + 1024).unwrap_or(u32::MAX)
            })
            .build_with_hasher(foldhash::quality::RandomState::default());
        let (refuser, pages) = (Refuser::new(manners), Pages::default());
        Self(Arc::new(Inner { gate, puller, refuser, pages, prepared, first_header, clock }))
    }

    pub(super) fn visitor(&self, peer: Peer) -> Visitor {
        Visitor { door: self.clone(), peer: Arc::new(peer) }
    }

    /// Answers what needs no waiting; for everything else, what was understood of the request so far.
    ///
    /// A cached manifest under a renewed permit is answered here: the path that must keep up with a
    /// static file, so it makes no future and takes no timer.
    fn begin(&self, request: &Request<()>, peer: &Peer) -> Result<Reply, Box<Understood>> {
        let path = request.uri().path();
        if path != "/v2" && !path.starts_with("/v2/") {
            return if Pages::has(path) { Err(Box::new(Understood::Page)) } else { Ok(not_served(path)) };
        }
        let forwarded_for = forwarded_for(request.headers());
        let user_agent =
            request.headers().get(USER_AGENT).map(|value| String::from_utf8_lossy(value.as_bytes()));
        let evidence = evidence(request.headers(), forwarded_for.as_deref(), user_agent.as_deref(), peer);
        let method = request.method().as_str();
        let (caller, parsed) = self.0.gate.with_rules(|rules| {
            let parsed = oci::Request::parse(method, path, request.uri().query(), rules.naming());
            (rules.identity().identify(&evidence), parsed)
        });
        match parsed {
            Ok(oci::Request::Ping) => Ok(ping()),
            Ok(oci::Request::Pull(pull)) => self.begin_pull(pull, caller, request),
            Err(oci::RequestError::Unknown(_)) => Ok(not_served(path)),
            Err(error) => Err(Box::new(Understood::Nothing { caller, error })),
        }
    }

    fn begin_pull(
        &self,
        pull: Pull,
        caller: Caller,
        request: &Request<()>,
    ) -> Result<Reply, Box<Understood>> {
        // What follows a firm refusal gets the same one, also from whoever asks too often: a mirror's
        // client goes to the upstream on 429.
        if let Some(echo) = self.0.refuser.echo(&pull, &caller) {
            return Ok(name_registry(echo, &pull));
        }
        if let Some(wait) = self.0.gate.wait(&caller) {
            return Err(Box::new(Understood::TooOften { pull, caller, wait }));
        }
        let renewed = self.0.gate.renew(&caller, &pull.ask, http(request, &pull));
        if let Some(Ok(pass)) = renewed {
            let Target::Manifest(manifest) = pass.permit().target() else {
                return Err(Box::new(Understood::Pull { pull, caller, renewed: Some(Ok(pass)) }));
            };
            let Some(prepared) = self.0.prepared.get(&manifest.digest) else {
                return Err(Box::new(Understood::Pull { pull, caller, renewed: Some(Ok(pass)) }));
            };
            let reply = prepared.reply(&pull, request.headers());
            return Ok(name_registry(settle(reply, pass), &pull));
        }
        Err(Box::new(Understood::Pull { pull, caller, renewed }))
    }

    async fn answer(&self, understood: Understood, request: &Request<()>) -> Reply {
        match understood {
            Understood::Page => self.0.pages.answer(request, &self.0.gate).await,
            Understood::Nothing { caller, error } => {
                let (method, path) = (request.method().as_str(), request.uri().path());
                let http = Http { method, path, ns: None, status: None };
                match self.0.gate.turn_away(&caller, &error, http).await {
                    Turned::Refused(refused) => denial(&refused, envelope(&refused, code_of(&error))),
                    turned => self.turned(turned, None, &caller),
                }
            }
            Understood::TooOften { pull, caller, wait } => {
                let turned = self.0.gate.slow_down(&caller, &pull.ask, http(request, &pull), wait).await;
                name_registry(self.turned(turned, Some(&pull), &caller), &pull)
            }
            Understood::Pull { pull, caller, renewed } => {
                let work = async {
                    let admitted = match renewed {
                        Some(renewed) => renewed,
                        None => self.0.gate.admit(&caller, &pull.ask, http(request, &pull)).await,
                    };
                    match admitted {
                        Ok(pass) => self.serve(&pull, pass, &caller, request.headers()).await,
                        Err(turned) => self.turned(turned, Some(&pull), &caller),
                    }
                };
                let reply = match tokio::time::timeout(self.0.first_header, work).await {
                    Ok(reply) => reply,
                    Err(_) => too_slow(),
                };
                name_registry(reply, &pull)
            }
        }
    }

    async fn serve(&self, pull: &Pull, mut pass: Pass, caller: &Caller, headers: &HeaderMap) -> Reply {
        let served = match pass.permit().target() {
            Target::Blob { .. } => self.blob(pull, &mut pass, headers).await,
            Target::Manifest(_) => self.manifest(pull, &pass, headers).await,
            Target::Referrers(_) => self.referrers(pull, &pass).await,
            Target::Tags => self.tags(pull, &pass, caller).await,
        };
        let reply = served.unwrap_or_else(|fault| reply::fault(&fault, &pull.ask.what, self.0.clock.now()));
        settle(reply, pass)
    }

    async fn manifest(&self, pull: &Pull, pass: &Pass, headers: &HeaderMap) -> Result<Reply, Fault> {
        let Target::Manifest(manifest) = pass.permit().target() else {
            return Err(Fault::Invalid("this permit is for no manifest".into()));
        };
        let stored = self.0.puller.manifest(pass.permit()).await?;
        let prepared = Arc::new(Prepared::new(&stored));
        self.0.prepared.insert(manifest.digest, prepared.clone());
        Ok(prepared.reply(pull, headers))
    }

    async fn blob(&self, pull: &Pull, pass: &mut Pass, headers: &HeaderMap) -> Result<Reply, Fault> {
        let Target::Blob { digest, size } = *pass.permit().target() else {
            return Err(Fault::Invalid("this permit is for no blob".into()));
        };
        let mut reply = reply::reply(StatusCode::OK, Body::empty());
        reply::describe_blob(reply.headers_mut(), &digest, size);
        if is_known_to_client(headers, reply.headers()) {
            return Ok(not_modified(reply));
        }
        if pull.access == Access::Head {
            return Ok(reply);
        }
        // A range is meant for the version the client has seen; this blob has one version only.
        let range = headers
            .get(RANGE)
            .filter(|_| headers.get(IF_RANGE).is_none_or(|tag| reply.headers().get(ETAG) == Some(tag)));
        let span = Span::parse(range, size);
        if span == Span::Unsatisfiable {
            return Ok(reply::unsatisfiable(size));
        }
        let fetched = self.0.puller.blob(pass.permit()).await?;
        pass.receipt().cache(match fetched.cache {
            pull::Cache::Hit => audit::Cache::Hit,
            pull::Cache::Miss => audit::Cache::Miss,
        });
        let range = match span {
            Span::Part(range) => {
                *reply.status_mut() = StatusCode::PARTIAL_CONTENT;
                reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(range.end - range.start));
                reply::content_range(reply.headers_mut(), &range, size);
                Some(range)
            }
            Span::Unsatisfiable | Span::Whole => None,
        };
        Ok(reply.map(|_| Body::blob(fetched.blob.body(range))))
    }

    async fn tags(&self, pull: &Pull, pass: &Pass, caller: &Caller) -> Result<Reply, Fault> {
        let all = self.0.puller.tags(pass.permit()).await?;
        let rules = self.0.gate.rules();
        let name = &pull.ask.name;
        let mut shown: Vec<&Tag> =
            all.iter().filter(|tag| rules.policy().admits_tag(caller, name, tag)).collect();
        // The spec asks for lexical order; `last` is a place in it whether or not that tag exists.
        shown.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        shown.dedup();
        if let Some(last) = &pull.page.last {
            shown.retain(|tag| tag.as_str() > last.as_str());
        }
        let more = pull.page.n.is_some_and(|n| n < shown.len());
        shown.truncate(pull.page.n.unwrap_or(usize::MAX));
        let body = json!({
            "name": name.repository().as_str(),
            "tags": shown.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(),
        });
        let mut reply = json_reply(&body, "application/json", pull.access);
        if let (true, Some(last), Some(n)) = (more, shown.last(), pull.page.n) {
            let ns = pull.ns.as_ref().map_or(String::new(), |ns| format!("&ns={ns}"));
            let prefix = match pull.form {
                oci::Form::Prefix => format!("{}/", name.registry()),
                oci::Form::Bare | oci::Form::Ns => String::new(),
            };
            let link =
                format!("</v2/{prefix}{}/tags/list?n={n}&last={last}{ns}>; rel=\"next\"", name.repository());
            reply.headers_mut().insert(LINK, reply::header_text(&link));
        }
        Ok(reply)
    }

    async fn referrers(&self, pull: &Pull, pass: &Pass) -> Result<Reply, Fault> {
        let all = self.0.puller.referrers(pass.permit()).await?;
        let wanted = |referrer: &&Descriptor| {
            pull.artifact_type.as_ref().is_none_or(|wanted| referrer.artifact_type.as_ref() == Some(wanted))
        };
        let body = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": all.iter().filter(wanted).collect::<Vec<_>>(),
        });
        let mut reply = json_reply(&body, "application/vnd.oci.image.index.v1+json", pull.access);
        if pull.artifact_type.is_some() {
            reply.headers_mut().insert(reply::OCI_FILTERS_APPLIED, HeaderValue::from_static("artifactType"));
        }
        Ok(reply)
    }

    fn turned(&self, turned: Turned, pull: Option<&Pull>, caller: &Caller) -> Reply {
        match (turned, pull) {
            // Only a 403 has other forms: whoever is to come again is told so.
            (Turned::Refused(refused), Some(pull)) if refused.status() == 403 => {
                self.0.refuser.refuse(pull, caller, &refused)
            }
            (Turned::Refused(refused), _) => {
                let mut reply = denial(&refused, envelope(&refused, ErrorCode::TooManyRequests));
                reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(refused.again()));
                reply
            }
            (Turned::Failed(fault), pull) => {
                let what = pull.map_or(&What::Tags, |pull| &pull.ask.what);
                reply::fault(&fault, what, self.0.clock.now())
            }
            (Turned::Unrecorded(error), _) => {
                tracing::error!(%error, "a decision could not be recorded");
                let mut reply = reply::error(
                    StatusCode::SERVICE_UNAVAILABLE,
                    ErrorCode::TooManyRequests,
                    "the audit log cannot record this pull, so it is not served; tell the operators of this gateway",
                    &Value::Null,
                );
                reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("60"));
                reply
            }
        }
    }
}

/// What a request that cannot be read is called in the spec's words.
fn code_of(error: &oci::RequestError) -> ErrorCode {
    match error {
        oci::RequestError::Digest(_) => ErrorCode::DigestInvalid,
        oci::RequestError::Method(_) => ErrorCode::Unsupported,
        oci::RequestError::Conflict(_)
        | oci::RequestError::Name(_)
        | oci::RequestError::Tag(_)
        | oci::RequestError::Unknown(_) => ErrorCode::NameInvalid,
    }
}

impl tower::Service<Request<Incoming>> for Visitor {
    type Response = Reply;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Answering {
        // No request has a body worth reading; hyper discards what is sent.
        let (parts, _) = request.into_parts();
        let request = Request::from_parts(parts, ());
        match self.door.begin(&request, &self.peer) {
            Ok(reply) => Answering::Ready(Some(complete(reply, request.method()))),
            Err(understood) => {
                let door = self.door.clone();
                Answering::Waiting(Box::pin(async move {
                    complete(door.answer(*understood, &request).await, request.method())
                }))
            }
        }
    }
}

/// An answer: there at once, or after waiting for the disk or an upstream.
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the hot one, and a box would cost it an allocation"
)]
pub(super) enum Answering {
    Ready(Option<Reply>),
    Waiting(Pin<Box<dyn Future<Output = Reply> + Send>>),
}

impl Future for Answering {
    type Output = Result<Reply, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(reply) => reply.take().map_or(Poll::Pending, |reply| Poll::Ready(Ok(reply))),
            Self::Waiting(answer) => answer.as_mut().poll(cx).map(Ok),
        }
    }
}

fn complete(mut reply: Reply, method: &Method) -> Reply {
    reply.headers_mut().insert(reply::API_VERSION, HeaderValue::from_static(reply::REGISTRY_2));
    if method == Method::HEAD { reply::without_bytes(reply) } else { reply }
}

fn evidence<'a>(
    headers: &'a HeaderMap,
    forwarded_for: Option<&'a str>,
    user_agent: Option<&'a str>,
    peer: &'a Peer,
) -> Evidence<'a> {
    Evidence {
        peer: peer.address.ip(),
        proxy: peer.proxy,
        forwarded_for,
        authorization: headers.get(AUTHORIZATION).map(HeaderValue::as_bytes),
        certificate_sans: &peer.certificate_names,
        user_agent,
    }
}

/// All `X-Forwarded-For` lines as the one list they mean (RFC 9110, 5.3).
fn forwarded_for(headers: &HeaderMap) -> Option<String> {
    // What is no text stays in its place: dropping the line would drop what the proxy appended to it.
    let lines: Vec<_> = headers
        .get_all("x-forwarded-for")
        .iter()
        .map(|value| String::from_utf8_lossy(value.as_bytes()))
        .collect();
    (!lines.is_empty()).then(|| lines.join(", "))
}

fn ping() -> Reply {
    json_reply(&json!({}), "application/json", Access::Get)
}

fn json_reply(body: &Value, media_type: &'static str, access: Access) -> Reply {
    let bytes = body.to_string();
    let length = bytes.len() as u64;
    let body = match access {
        Access::Get => Body::whole(bytes),
        Access::Head => Body::empty(),
    };
    let mut reply = reply::reply(StatusCode::OK, body);
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    reply.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    reply
}

fn not_served(path: &str) -> Reply {
    let path: String = path.chars().take(80).collect();
    let message = format!(
        "{path:?} is not served; a pull gateway answers /v2/<name>/manifests, blobs, tags/list and referrers, for GET and HEAD"
    );
    reply::error(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, &message, &Value::Null)
}

fn too_slow() -> Reply {
    let mut reply = reply::error(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::TooManyRequests,
        "the upstream has not answered within 25 s; the fetch goes on, ask again",
        &Value::Null,
    );
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    reply
}

fn is_known_to_client(request: &HeaderMap, reply: &HeaderMap) -> bool {
    let Some(etag) = reply.get(ETAG).and_then(|value| value.to_str().ok()) else { return false };
    request.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(|tag| tag.trim().trim_start_matches("W/")).any(|tag| tag == etag || tag == "*")
    })
}

fn not_modified(mut reply: Reply) -> Reply {
    *reply.status_mut() = StatusCode::NOT_MODIFIED;
    *reply.body_mut() = Body::empty();
    reply.headers_mut().remove(CONTENT_LENGTH);
    reply.headers_mut().remove(CONTENT_TYPE);
    reply
}
