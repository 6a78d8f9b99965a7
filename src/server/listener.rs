//! Connections: accepted, shaken hands with, bounded in number and time, drained in the end.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{Request, Response};
use hyper::body::Incoming;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::addresses::{Addresses, Seat};
use super::connections::{Connections, Reason};
use super::conversation::{Conversation, Judged};
use super::proxy;
use super::reply::Body;
use super::tls::Tls;
use crate::clock::Clock;

/// What one listener lets a client do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once; further ones wait in the backlog.
    pub connections: usize,
    /// Connections at once of one IPv4 address or IPv6 /64; further ones are closed. At least one.
    pub connections_per_address: usize,
    /// How long a drain waits for replies under way.
    pub drain: Duration,
    /// How long a TLS handshake may take, a PROXY header before it included.
    pub handshake: Duration,
    /// Bytes of all headers of a request together.
    pub header_bytes: usize,
    /// How long the headers of a request may take; over HTTP/1.1 also how long none may come.
    pub header_timeout: Duration,
    /// How long an HTTP/2 connection may be without a request; it is closed at most half as long after.
    pub idle_timeout: Duration,
}

/// On what terms a listener takes connections.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What one client may do.
    pub limits: Limits,
    /// Whose PROXY header is believed. Their own connections do not count for their address, which is
    /// that of many clients.
    pub trusted_proxies: Vec<IpNet>,
    /// Where connections are counted.
    pub connections: Connections,
    /// By what time client certificates end.
    pub clock: Clock,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    /// The address it came from, or what the PROXY header of a trusted proxy says about that.
    pub(super) address: SocketAddr,
    /// The proxy whose PROXY header told the address.
    pub(super) proxy: Option<IpAddr>,
    /// The names of its client certificate, when it showed one that was verified.
    pub(super) certificate_names: Vec<Arc<str>>,
}

/// One listening socket and everything that was accepted from it.
#[derive(Debug)]
pub(super) struct Listener {
    socket: TcpListener,
    terms: Terms,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// Why a connection ended early.
#[derive(Debug)]
pub(super) struct Failure {
    /// When it was the gateway that ended it.
    reason: Option<Reason>,
    error: Box<dyn std::error::Error + Send + Sync>,
}

impl Failure {
    fn closed(reason: Reason, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { reason: Some(reason), error: error.into() }
    }

    fn timeout(_: tokio::time::error::Elapsed) -> Self {
        Self::closed(Reason::HandshakeTimeout, "the handshake took too long")
    }
}

impl From<Box<dyn std::error::Error + Send + Sync>> for Failure {
    fn from(error: Box<dyn std::error::Error + Send + Sync>) -> Self {
        Self { reason: None, error }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self { reason: None, error: error.into() }
    }
}

impl Listener {
    pub(super) fn new(socket: TcpListener, terms: Terms, stop: CancellationToken) -> Self {
        Self { socket, terms, tracker: TaskTracker::new(), stop }
    }

    /// Accepts until stopped, then waits for replies under way as long as the drain lasts.
    /// `service` makes the service of one connection out of its peer.
    pub(super) async fn run<S, F>(self, tls: Option<Arc<Tls>>, service: F)
    where
        F: Fn(Peer) -> S + Clone + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let limits = self.terms.limits;
        let slots = Arc::new(Semaphore::new(limits.connections));
        let house = Arc::new(House {
            addresses: Addresses::new(limits.connections_per_address),
            terms: self.terms,
            tls,
            stop: self.stop.clone(),
            streams: TaskTracker::new(),
        });
        let cut = CancellationToken::new();
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = accept(&self.socket, &slots) => accepted,
            };
            let Some((stream, address, slot)) = accepted else { continue };
            let trusted = house.trusts(address.ip());
            let seat = if trusted { None } else { house.addresses.seat(address.ip()) };
            if seat.is_none() && !trusted {
                tracing::debug!(%address, "a connection was closed: its address has all it may have");
                house.terms.connections.closed(Reason::AddressLimit);
                continue;
            }
            let (house, service, cut) = (house.clone(), service.clone(), cut.clone());
            self.tracker.spawn(async move {
                let open = house.terms.connections.opened();
                // Errors of one connection are the client's affair; they are told apart at debug level only.
                let visit = house.receive(stream, address, seat, service);
                if let Some(Err(Failure { reason, error })) = unless(cut.cancelled(), visit).await {
                    tracing::debug!(%address, %error, "a connection ended early");
                    if let Some(reason) = reason {
                        house.terms.connections.closed(reason);
                    }
                }
                drop((open, slot));
            });
        }
        drop(self.socket);
        self.tracker.close();
        house.streams.close();
        // A stream may begin as long as its connection is there, and not after.
        let ended = async {
            self.tracker.wait().await;
            house.streams.wait().await;
        };
        if tokio::time::timeout(limits.drain, ended).await.is_err() {
            tracing::warn!(
                connections = self.tracker.len(),
                "the drain is over; replies under way are cut off"
            );
            // Their receipts are settled before the record is closed.
            cut.cancel();
            self.tracker.wait().await;
            house.streams.wait().await;
        }
    }
}

/// What `work` comes to, or nothing once `end` is there. `end` is polled when it was woken, and not with
/// every request of a connection.
async fn unless<T>(end: impl Future<Output = ()>, work: impl Future<Output = T>) -> Option<T> {
    let mut end = FuturesUnordered::from_iter([end]);
    tokio::select! {
        biased;
        outcome = work => Some(outcome),
        _ = end.next() => None,
    }
}

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

/// What all connections of a listener share.
#[derive(Debug)]
struct House {
    addresses: Arc<Addresses>,
    terms: Terms,
    tls: Option<Arc<Tls>>,
    stop: CancellationToken,
    /// The tasks of HTTP/2 streams, which may outlive their connection by a moment.
    streams: TaskTracker,
}

impl House {
    fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.terms.trusted_proxies.iter().any(|net| net.contains(&address))
    }

    /// One connection, from its first byte to its last. `seat` is its own where it counts for its address.
    async fn receive<S, F>(
        &self,
        mut stream: TcpStream,
        address: SocketAddr,
        mut seat: Option<Seat>,
        service: F,
    ) -> Result<(), Failure>
    where
        F: Fn(Peer) -> S,
        S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let limits = &self.terms.limits;
        let deadline = Instant::now() + limits.handshake;
        let mut peer = Peer { address, proxy: None, certificate_names: Vec::new() };
        if seat.is_none() {
            let told = tokio::time::timeout_at(deadline, proxy::receive(&mut stream)).await;
            if let Some(source) = told.map_err(Failure::timeout)?.map_err(|error| {
                tracing::warn!(proxy = %address, %error, "a trusted proxy was not understood");
                Failure::closed(Reason::ProxyHeader, error)
            })? {
                peer = Peer { address: source, proxy: Some(address.ip().to_canonical()), ..peer };
                if !self.trusts(source.ip()) {
                    seat = self.addresses.seat(source.ip());
                    if seat.is_none() {
                        return Err(Failure::closed(Reason::AddressLimit, "its address has all it may have"));
                    }
                }
            }
        }
        let Some(tls) = &self.tls else {
            let conversation = self.conversation(Judged::default());
            return Ok(conversation.http1(stream, service(peer)).await?);
        };
        let generation = tls.generation();
        let acceptor = TlsAcceptor::from(generation.config.clone());
        let shaken = tokio::time::timeout_at(deadline, acceptor.accept(stream)).await;
        let stream = shaken.map_err(Failure::timeout)?.map_err(|error| match error.kind() {
            // What TLS itself objects to; the rest are clients that went away.
            std::io::ErrorKind::InvalidData => Failure::closed(Reason::Handshake, error),
            _ => error.into(),
        })?;
        let mut judged = Judged { retirement: generation.retirement.clone(), expiry: None };
        if let Some(certificate) = stream.get_ref().1.peer_certificates().and_then(<[_]>::first) {
            let shown = super::certificates::Shown::of(certificate);
            // A session that is resumed was verified when it began.
            let left = shown.not_after.duration_since(self.terms.clock.now());
            let left = Duration::try_from(left).map_err(|_| {
                Failure::closed(Reason::CertificateExpired, "the client certificate has expired")
            })?;
            judged.expiry = Instant::now().checked_add(left);
            peer.certificate_names = shown.names;
        }
        if let Some(reason) = judged.ended() {
            return Err(Failure::closed(
                reason,
                "what the client was judged by changed during the handshake",
            ));
        }
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let (conversation, service) = (self.conversation(judged), service(peer));
        // By what TLS agreed on, never by the first bytes: waiting for those has no time limit.
        if h2 {
            conversation.http2(stream, service).await?;
        } else {
            conversation.http1(stream, service).await?;
        }
        drop(seat);
        Ok(())
    }

    fn conversation(&self, judged: Judged) -> Conversation<'_> {
        let Terms { limits, connections, .. } = &self.terms;
        Conversation {
            limits,
            connections,
            judged: Arc::new(judged),
            stop: &self.stop,
            streams: &self.streams,
        }
    }
}
