//! An HTTPS server on loopback that records everything and fails where it is told to.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{self, Body, Meter, Metered, Outgoing};
use super::fault::{self, Rules, When};
use super::log::{Book, Log, Request};

pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What a server answers when nothing goes wrong.
pub(crate) type Handler = Box<dyn Fn(&Request) -> Reply + Send + Sync>;

/// A whole answer. `Content-Length` is added from the body; HEAD loses the body afterwards.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    pub(crate) fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::new() }
    }

    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK).header(header::CONTENT_TYPE, "application/json").body(body)
    }

    pub(crate) fn error(status: StatusCode, code: &str, message: &str) -> Self {
        Self { status, ..Self::json(envelope(code, message)) }
    }

    pub(crate) fn header(mut self, name: impl Into<HeaderName>, value: &str) -> Self {
        self.headers.append(name.into(), HeaderValue::from_str(value).unwrap());
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }
}

/// The OCI error body (distribution-spec, "Error Codes").
pub(crate) fn envelope(code: &str, message: &str) -> String {
    serde_json::json!({"errors": [{"code": code, "message": message, "detail": {}}]}).to_string()
}

/// A running server; it ends when it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    tls: TlsAcceptor,
    inner: Arc<Inner>,
    state: Mutex<State>,
}

struct Inner {
    book: Book,
    handler: Handler,
    rules: Rules,
}

enum State {
    Running(CancellationToken, TaskTracker),
    /// Bound and not listening: connections are refused, and nobody else gets the port.
    Stopped(TcpSocket),
}

impl Server {
    /// Listens on a free port of 127.0.0.1.
    pub(crate) fn start(tls: TlsAcceptor, handler: Handler) -> Self {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into());
        let address = socket.local_addr().unwrap();
        let inner = Arc::new(Inner { book: Book::new(), handler, rules: Rules::default() });
        let server = Self { address, tls, inner, state: Mutex::new(State::Stopped(socket)) };
        server.restart();
        server
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL under this host name.
    pub(crate) fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.address.port())
    }

    /// Breaks every connection and refuses new ones.
    pub(crate) async fn stop(&self) {
        let running = match &*self.state.lock().unwrap() {
            State::Running(cancel, tasks) => Some((cancel.clone(), tasks.clone())),
            State::Stopped(_) => None,
        };
        if let Some((cancel, tasks)) = running {
            cancel.cancel();
            tasks.close();
            tasks.wait().await;
            *self.state.lock().unwrap() = State::Stopped(bind(self.address));
        }
    }

    /// Listens again on the same port, with the same content, log and faults.
    pub(crate) fn restart(&self) {
        let mut state = self.state.lock().unwrap();
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let running = State::Running(cancel.clone(), tasks.clone());
        if let State::Stopped(socket) = std::mem::replace(&mut *state, running) {
            let listener = socket.listen(1024).unwrap();
            let (tls, inner) = (self.tls.clone(), Arc::clone(&self.inner));
            let accepting = accept(listener, tls, inner, cancel.clone(), tasks.clone());
            tasks.spawn(cancel.run_until_cancelled_owned(accepting));
        } else {
            panic!("the server runs already");
        }
    }

    /// Says what befalls requests with this method (`*`: any) whose path contains this text.
    pub(crate) fn on<'rules>(&'rules self, method: &'rules str, path: &'rules str) -> When<'rules> {
        When { rules: &self.inner.rules, method, path }
    }

    /// Forgets all faults; requests already befallen stay so.
    pub(crate) fn clear_faults(&self) {
        self.inner.rules.clear();
    }

    /// How many requests with this method (`*`: any) came for a path that contains this text.
    pub(crate) fn hits(&self, method: &str, path: &str) -> usize {
        self.inner.book.read(|log| log.hits(method, path))
    }

    /// Body bytes sent for all paths that contain this text.
    pub(crate) fn bytes_sent(&self, path: &str) -> u64 {
        self.inner.book.read(|log| log.bytes_sent(path))
    }

    /// TCP connections accepted, also those that never became a request.
    pub(crate) fn connections(&self) -> usize {
        self.inner.book.read(|log| log.connections)
    }

    /// Every request, in order of arrival.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.inner.book.read(|log| log.requests.clone())
    }

    /// The latest request with this method (`*`: any) whose path contains this text.
    pub(crate) fn last(&self, method: &str, path: &str) -> Request {
        let last = self.inner.book.read(|log| log.matching(method, path).last().cloned());
        last.expect("no such request was made")
    }

    /// Forgets the requests and connections so far.
    pub(crate) fn reset_log(&self) {
        self.inner.book.reset();
    }

    /// Returns once the log satisfies the condition; driven by events, and a failed test after a while.
    pub(crate) async fn wait_for(&self, condition: impl FnMut(&Log) -> bool) {
        self.inner.book.wait_for(condition).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(State::Running(cancel, _)) = self.state.get_mut() {
            cancel.cancel();
        }
    }
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    inner: Arc<Inner>,
    cancel: CancellationToken,
    tasks: TaskTracker,
) {
    while let Ok((stream, _)) = listener.accept().await {
        inner.book.connected();
        let serving = serve(stream, tls.clone(), Arc::clone(&inner));
        tasks.spawn(cancel.clone().run_until_cancelled_owned(serving));
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, inner: Arc<Inner>) {
    // A peer that breaks the handshake or the connection is no failure of the fake.
    let _ = stream.set_nodelay(true);
    let Ok(stream) = tls.accept(stream).await else { return };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let meter = Meter::new(http2);
    let stream = TokioIo::new(Metered { stream, meter: Arc::clone(&meter) });
    let service = service_fn(move |request| {
        let (inner, meter) = (Arc::clone(&inner), Arc::clone(&meter));
        async move { Ok::<_, Infallible>(inner.answer(request, meter).await) }
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(stream, service).await;
}

impl Inner {
    async fn answer(&self, request: http::Request<Incoming>, meter: Arc<Meter>) -> http::Response<Body> {
        let mut request = read(request).await;
        let entry = self.book.enter(request.clone());
        let faults = self.rules.take(&request);
        let reply = fault::before(&faults, &mut request).await;
        let mut reply = reply.unwrap_or_else(|| (self.handler)(&request));
        reply.headers.insert(header::CONTENT_LENGTH, reply.body.len().into());
        fault::bend(&faults, &mut reply);
        entry.answered(reply.status);
        let body = if request.method == http::Method::HEAD {
            body::empty()
        } else {
            Outgoing::new(reply.body, &faults, entry, meter).stream()
        };
        let mut response = http::Response::new(body);
        *response.status_mut() = reply.status;
        *response.headers_mut() = reply.headers;
        response
    }
}

async fn read(request: http::Request<Incoming>) -> Request {
    let (head, body) = request.into_parts();
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let authority = head.uri.authority().map(|authority| authority.as_str()).or(host);
    Request {
        authority: authority.unwrap_or_default().to_owned(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        method: head.method,
        version: head.version,
        headers: head.headers,
        body: body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default(),
        status: None,
        sent: 0,
        ended: false,
    }
}
