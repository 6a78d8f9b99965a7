//! HTTP on one connection, until it is idle, no longer to be believed, or the gateway stops.

use std::convert::Infallible;
use std::future::{Future, Ready, pending, ready};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::Either;
use futures_util::stream::FuturesUnordered;
use http::header::{CONNECTION, HeaderValue, RETRY_AFTER};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::{Service, ServiceExt as _};

use super::activity::{Activity, Tracked};
use super::connections::{Connections, Reason};
use super::listener::Limits;
use super::reply::{self, Body, Reply};
use super::tls::Retirement;
use crate::oci::ErrorCode;

/// More header lines than any client sends; beyond it hyper answers 431.
const HEADER_LINES: usize = 128;
/// How much a reply may be ahead of the network: with the pieces of `content`, what a stalled reader
/// costs.
const REPLY_BUFFER: usize = 128 << 10;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What may end a conversation, each polled when it was woken and not with every request: a token looks
/// behind a lock that all connections share.
type Ends<'a> = FuturesUnordered<Pin<Box<dyn Future<Output = Option<Reason>> + Send + 'a>>>;

/// A service of ours, as hyper calls it over HTTP/1.1: they are ready always, so nothing is made to wait
/// for that. It is asked as long as what its client was judged by holds.
#[derive(Clone, Debug)]
struct AlwaysReady<S> {
    service: S,
    judged: Arc<Judged>,
}

impl<S> hyper::service::Service<Request<Incoming>> for AlwaysReady<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<S::Future, Ready<Result<Reply, Infallible>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        if self.judged.ended().is_none() {
            return Either::Left(self.service.clone().call(request));
        }
        let mut reply = come_anew(request.method());
        reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        Either::Right(ready(Ok(reply)))
    }
}

/// Spawns the streams of HTTP/2 where the drain waits for them.
#[derive(Clone, Debug)]
struct Streams(TaskTracker);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn(stream);
    }
}

/// How long what the handshake found out about the client holds.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Called when it was judged by what is in force no more.
    pub(super) retirement: Arc<Retirement>,
    /// When the client's certificate ends, where it showed one.
    pub(super) expiry: Option<Instant>,
}

/// One connection after its handshake.
pub(super) struct Conversation<'a> {
    pub(super) limits: &'a Limits,
    pub(super) connections: &'a Connections,
    pub(super) judged: Arc<Judged>,
    pub(super) stop: &'a CancellationToken,
    pub(super) streams: &'a TaskTracker,
}

impl Conversation<'_> {
    /// Idle connections are hyper's affair: the time for the headers begins with the wait for them.
    pub(super) async fn http1<I, S>(self, io: I, service: S) -> Result<(), Failure>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .max_headers(HEADER_LINES)
            .max_buf_size(self.limits.header_bytes.max(REPLY_BUFFER));
        let service = AlwaysReady { service, judged: self.judged.clone() };
        let mut connection = pin!(builder.serve_connection(TokioIo::new(io), service));
        let stopped = async {
            self.stop.cancelled().await;
            None
        };
        let judged = async { Some(self.judged.end().await) };
        let mut ends = Ends::new();
        ends.push(Box::pin(stopped));
        ends.push(Box::pin(judged));
        let reason = tokio::select! {
            biased;
            outcome = connection.as_mut() => {
                // It may have been the service that noticed.
                if let Some(reason) = self.judged.ended() {
                    self.connections.closed(reason);
                }
                return Ok(outcome?);
            }
            reason = ends.next() => reason.flatten(),
        };
        if let Some(reason) = reason {
            self.connections.closed(reason);
        }
        connection.as_mut().graceful_shutdown();
        Ok(connection.await?)
    }

    /// Whoever has no request under way for the idle time is told to go, and cut off if it stays.
    pub(super) async fn http2<I, S>(self, io: I, service: S) -> Result<(), Failure>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let mut builder = http2::Builder::new(Streams(self.streams.clone()));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(128)
            .max_header_list_size(u32::try_from(self.limits.header_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(REPLY_BUFFER)
            .keep_alive_interval(Some(Duration::from_secs(30)))
            .keep_alive_timeout(Duration::from_secs(20));
        let activity = Arc::new(Activity::default());
        let service = {
            let (activity, judged) = (activity.clone(), self.judged.clone());
            service_fn(move |request: Request<Incoming>| {
                // A client may open streams until it has heard that it is to go, or for ever.
                let begun = judged.ended().is_none().then(|| (activity.begin(), service.clone()));
                async move {
                    let Some((under_way, service)) = begun else {
                        return Ok(come_anew(request.method()).map(|body| Tracked::new(body, None)));
                    };
                    let reply = service.oneshot(request).await?;
                    Ok::<_, Infallible>(reply.map(|body| Tracked::new(body, Some(under_way))))
                }
            })
        };
        let connection = builder.serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        let half = (self.limits.idle_timeout / 2).max(Duration::from_millis(1));
        let mut looks = tokio::time::interval_at(Instant::now() + half, half);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut quiet, mut told, mut ended) = (None, 0, false, false);
        loop {
            let reason = tokio::select! {
                outcome = connection.as_mut() => return Ok(outcome?),
                () = self.stop.cancelled(), if !told => None,
                reason = self.judged.end(), if !ended => {
                    ended = true;
                    Some(reason)
                }
                _ = looks.tick() => {
                    let rest = activity.at_rest();
                    quiet = if rest.is_some() && rest == seen { quiet + 1 } else { 0 };
                    seen = rest;
                    match (quiet, told) {
                        (0 | 1, _) => continue,
                        (_, true) => return Ok(()),
                        (_, false) => Some(Reason::Idle),
                    }
                }
            };
            if let Some(reason) = reason {
                self.connections.closed(reason);
            }
            (quiet, told) = (0, true);
            connection.as_mut().graceful_shutdown();
        }
    }
}

impl Judged {
    /// Why what was found out holds no more, if so. Asked with every request.
    pub(super) fn ended(&self) -> Option<Reason> {
        if self.retirement.is_called() {
            return Some(Reason::ClientCa);
        }
        self.expiry.is_some_and(|end| end <= Instant::now()).then_some(Reason::CertificateExpired)
    }

    /// Returns when what was found out holds no more.
    async fn end(&self) -> Reason {
        let expired = async {
            match self.expiry {
                Some(end) => tokio::time::sleep_until(end).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = self.retirement.called() => Reason::ClientCa,
            () = expired => Reason::CertificateExpired,
        }
    }
}

/// The answer to a request on a connection whose client is to come on a new one.
fn come_anew(method: &Method) -> Reply {
    let mut reply = reply::error(
        StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::TooManyRequests,
        "this connection is being closed: what it was judged by has changed; ask again on a new one",
        &Value::Null,
    );
    reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    if method == Method::HEAD { reply::without_bytes(reply) } else { reply }
}
