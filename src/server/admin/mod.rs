//! The admin listener: is it alive, is it ready, what does it count, and the console.

mod access;
mod attempts;
mod desk;
mod sessions;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::listener::Peer;
use super::reply::{self, Body, Reply};
use super::tags::{self, Tags};
use crate::audit::Log;
use crate::clock::Clock;
use crate::console::Console;
use crate::gate::Gate;
use crate::telemetry::{METRICS_TYPE, Metrics};

/// One thing readiness depends on, or that a reader of `/readyz` should know.
#[derive(Clone, Debug)]
pub struct Condition {
    /// `policy`, `audit`, `storage`, `upstream docker.io`.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether the gateway is not ready without it.
    pub required: bool,
    /// What is wrong, or how it stands.
    pub detail: String,
}

pub use access::{AccessSettings, UserSettings};

use access::Access;
use desk::Desk;

type Probe = dyn Fn() -> Vec<Condition> + Send + Sync;

/// Answers `/livez`, `/readyz`, `/metrics`, `/api/v1/tags/…`, and the console's pages.
#[derive(Clone)]
pub struct Admin {
    metrics: Arc<Metrics>,
    probe: Arc<Probe>,
    draining: Arc<AtomicBool>,
    tags: Tags,
    desk: Desk,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

/// The admin listener as one client sees it.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    admin: Admin,
    peer: Arc<Peer>,
}

impl Admin {
    /// `probe` is asked on each `/readyz`; it must not wait.
    ///
    /// # Errors
    /// The machine has no random bits for the console's secrets.
    pub fn new(
        metrics: Arc<Metrics>,
        gate: Gate,
        probe: impl Fn() -> Vec<Condition> + Send + Sync + 'static,
        (console, settings, log, clock): (Console, AccessSettings, Log, Clock),
    ) -> Result<Self, NoRandomness> {
        let access = Access::new(settings, log, clock).map_err(|_| NoRandomness)?;
        if let Some(why) = access.closed() {
            tracing::info!("{why}");
        }
        Ok(Self {
            metrics,
            probe: Arc::new(probe),
            draining: Arc::default(),
            tags: Tags::new(gate),
            desk: Desk::new(access, console),
        })
    }

    /// From now on `/readyz` says no, so that load balancers turn away before the listener closes.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn visit(&self, peer: Peer) -> Visit {
        Visit { admin: self.clone(), peer: Arc::new(peer) }
    }

    /// Puts on record who tried to get in, until it is stopped.
    pub(super) async fn keep(&self, stop: impl Future<Output = ()>) {
        self.desk.keep(stop).await;
    }

    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Reply {
        let method = request.method().clone();
        let path = request.uri().path();
        let reply = match path {
            "/livez" | "/metrics" | "/readyz" if !is_read(&method) => refuse_method("GET, HEAD"),
            "/livez" | "/metrics" | "/readyz" => self.look_up(path),
            _ if path.starts_with(tags::PREFIX) => self.list_tags(&request, peer).await,
            _ => self.desk.answer(request, peer).await,
        };
        if method == Method::HEAD { reply::without_bytes(reply) } else { reply }
    }

    /// Programs ask for tags: they are open where nobody logs in, and else to every user.
    async fn list_tags(&self, request: &Request<Incoming>, peer: &Peer) -> Reply {
        if !is_read(request.method()) {
            return refuse_method("GET, HEAD");
        }
        if let Err(reply) = self.desk.admit_program(request, peer).await {
            return reply;
        }
        let uri = request.uri();
        let path = uri.path().strip_prefix(tags::PREFIX).unwrap_or_default();
        self.tags.answer(path, uri.query().unwrap_or_default()).await
    }

    fn look_up(&self, path: &str) -> Reply {
        match path {
            "/livez" => text(StatusCode::OK, "ok\n"),
            "/metrics" => {
                let mut reply = text(StatusCode::OK, &self.metrics.encode());
                reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(METRICS_TYPE));
                reply
            }
            "/readyz" => self.ready(),
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    fn ready(&self) -> Reply {
        let mut conditions = (self.probe)();
        if self.draining.load(Ordering::Acquire) {
            conditions.push(Condition {
                name: "drain".to_owned(),
                ok: false,
                required: true,
                detail: "the gateway is shutting down".to_owned(),
            });
        }
        let is_ready = conditions.iter().all(|condition| condition.ok || !condition.required);
        let body = json!({
            "ready": is_ready,
            "conditions": conditions.iter().map(|condition| json!({
                "name": condition.name, "ok": condition.ok, "required": condition.required, "detail": condition.detail,
            })).collect::<Vec<Value>>(),
        });
        let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let mut reply = text(status, &format!("{body:#}\n"));
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        reply
    }
}

impl tower::Service<Request<Incoming>> for Visit {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let Self { admin, peer } = self.clone();
        Box::pin(async move { Ok(admin.answer(request, &peer).await) })
    }
}

/// The machine has no random bits to give.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the machine gives no random bits for the console's secrets")]
pub struct NoRandomness;

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

fn refuse_method(allow: &'static str) -> Reply {
    let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, &format!("{allow} only\n"));
    reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    reply
}

fn text(status: StatusCode, text: &str) -> Reply {
    let mut reply = reply::reply(status, Body::whole(text.to_owned()));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}
