//! Connections: accepted, shaken hands with, bounded in number and time, drained in the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::reply::Body;

/// What one listener lets a client do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; further ones wait in the backlog.
    pub connections: usize,
    /// How long a drain waits for replies under way.
    pub drain: Duration,
    /// How long a TLS handshake may take.
    pub handshake: Duration,
    /// Bytes of all headers of a request together.
    pub header_bytes: usize,
    /// How long the headers of a request may take.
    pub header_timeout: Duration,
}

/// More header lines than any client sends; beyond it hyper answers 431.
const HEADER_LINES: usize = 128;
/// How much a reply may be ahead of the network: with the pieces of `content`, what a stalled reader
/// costs.
const REPLY_BUFFER: usize = 128 << 10;

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// The address it came from.
    pub(super) address: SocketAddr,
    /// The names of its client certificate, when it showed one that was verified.
    pub(super) certificate_names: Vec<Arc<str>>,
}

/// One listening socket and everything that was accepted from it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    limits: Limits,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Listener {
    pub(super) fn new(socket: TcpListener, limits: Limits, stop: CancellationToken) -> Self {
        Self { socket, limits, tracker: TaskTracker::new(), stop }
    }

    /// Accepts until stopped, then waits for replies under way as long as the drain lasts.
    /// `service` makes the service of one connection out of its peer.
    pub(super) async fn run<S, F>(self, tls: Option<Arc<ArcSwap<ServerConfig>>>, service: F)
    where
        F: Fn(Peer) -> S + Clone + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = std::convert::Infallible>
            + Clone
            + Send
            + 'static,
        S::Future: Send,
    {
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let cut = CancellationToken::new();
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = accept(&self.socket, &slots) => accepted,
            };
            let Some((stream, address, slot)) = accepted else { continue };
            let (tls, service, limits, stop) = (tls.clone(), service.clone(), self.limits, self.stop.clone());
            let cut = cut.clone();
            self.tracker.spawn(async move {
                // Errors of one connection are the client's affair; they are told apart at debug level only.
                let conversation = converse(stream, address, tls, service, limits, stop);
                if let Some(Err(error)) = cut.run_until_cancelled(conversation).await {
                    tracing::debug!(%address, %error, "a connection ended early");
                }
                drop(slot);
            });
        }
        drop(self.socket);
        self.tracker.close();
        if tokio::time::timeout(self.limits.drain, self.tracker.wait()).await.is_err() {
            tracing::warn!(
                connections = self.tracker.len(),
                "the drain is over; replies under way are cut off"
            );
            // Their receipts are settled before the record is closed.
            cut.cancel();
            self.tracker.wait().await;
        }
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn accept(
    socket: &TcpListener,
    slots: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.ok()?;
    match socket.accept().await {
        Ok((stream, address)) => {
            // A reply is written whole; waiting to join small segments only delays its end.
            let _ = stream.set_nodelay(true);
            Some((stream, address, slot))
        }
        Err(error) => {
            // Out of file descriptors: accepting again at once would spin.
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

async fn converse<S, F>(
    stream: TcpStream,
    address: SocketAddr,
    tls: Option<Arc<ArcSwap<ServerConfig>>>,
    service: F,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), Failure>
where
    F: Fn(Peer) -> S,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = std::convert::Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    let Some(tls) = tls else {
        let peer = Peer { address, certificate_names: Vec::new() };
        return speak(stream, false, service(peer), limits, stop).await;
    };
    let acceptor = TlsAcceptor::from(tls.load_full());
    let stream = tokio::time::timeout(limits.handshake, acceptor.accept(stream)).await??;
    let certificate_names = match stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
        Some(certificate) => super::certificates::subject_names(certificate),
        None => Vec::new(),
    };
    let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    speak(stream, h2, service(Peer { address, certificate_names }), limits, stop).await
}

async fn speak<I, S>(
    io: I,
    h2: bool,
    service: S,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), Failure>
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<Body>, Error = std::convert::Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    // By what TLS agreed on, never by the first bytes: waiting for those has no time limit.
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if h2 { builder.http2_only() } else { builder.http1_only() };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_headers(HEADER_LINES)
        .max_buf_size(limits.header_bytes.max(REPLY_BUFFER));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(128)
        .max_header_list_size(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX))
        .max_send_buf_size(REPLY_BUFFER)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let connection = builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(service));
    tokio::pin!(connection);
    tokio::select! {
        outcome = connection.as_mut() => return outcome,
        () = stop.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
