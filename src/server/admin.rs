//! The admin listener: is it alive, is it ready, what does it count. Plain HTTP, loopback by default.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use http::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::reply::{self, Body, Reply};
use super::tags::{self, Tags};
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

type Probe = dyn Fn() -> Vec<Condition> + Send + Sync;

/// Answers `/livez`, `/readyz`, `/metrics` and `/api/v1/tags/…`.
#[derive(Clone)]
pub struct Admin {
    metrics: Arc<Metrics>,
    probe: Arc<Probe>,
    draining: Arc<AtomicBool>,
    tags: Tags,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// `probe` is asked on each `/readyz`; it must not wait.
    pub fn new(
        metrics: Arc<Metrics>,
        gate: Gate,
        probe: impl Fn() -> Vec<Condition> + Send + Sync + 'static,
    ) -> Self {
        Self { metrics, probe: Arc::new(probe), draining: Arc::default(), tags: Tags::new(gate) }
    }

    /// From now on `/readyz` says no, so that load balancers turn away before the listener closes.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    async fn answer(&self, method: &Method, path: &str, query: &str) -> Reply {
        if method != Method::GET && method != Method::HEAD {
            let mut reply = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return reply;
        }
        let reply = match path.strip_prefix(tags::PREFIX) {
            Some(path) => self.tags.answer(path, query).await,
            None => self.look_up(path),
        };
        if method == Method::HEAD { reply::without_bytes(reply) } else { reply }
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
            _ => text(
                StatusCode::NOT_FOUND,
                "here are /livez, /readyz, /metrics and /api/v1/tags/REGISTRY/REPOSITORY\n",
            ),
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

impl tower::Service<Request<Incoming>> for Admin {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let uri = request.uri();
            Ok(this.answer(request.method(), uri.path(), uri.query().unwrap_or_default()).await)
        })
    }
}

fn text(status: StatusCode, text: &str) -> Reply {
    let mut reply = reply::reply(status, Body::whole(text.to_owned()));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    reply
}
