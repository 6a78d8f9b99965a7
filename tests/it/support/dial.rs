//! Connections with everything a test may want to choose: what is sent before TLS, the certificate that
//! is shown, the protocol, the address they come from.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PATIENCE;
use super::gateway::Gateway;

/// How to connect to a gateway. Connections of one dialer, and of its clones, share TLS sessions.
#[derive(Clone)]
pub(crate) struct Dialer {
    to: SocketAddr,
    from: Option<IpAddr>,
    before: Vec<u8>,
    config: Arc<rustls::ClientConfig>,
}

impl Dialer {
    /// Without a certificate, offering HTTP/1.1.
    pub(crate) fn new(gateway: &Gateway) -> Self {
        Self::with(gateway, None)
    }

    /// Showing this certificate and proving it with this key, both PEM.
    pub(crate) fn showing(gateway: &Gateway, identity: &(String, String)) -> Self {
        Self::with(gateway, Some(identity))
    }

    fn with(gateway: &Gateway, identity: Option<&(String, String)>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(gateway.ca.as_bytes()).unwrap()).unwrap();
        let builder = rustls::ClientConfig::builder().with_root_certificates(roots);
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { to: gateway.running.address(), from: None, before: Vec::new(), config: Arc::new(config) }
    }

    /// Offering HTTP/2 instead.
    pub(crate) fn http2(mut self) -> Self {
        Arc::make_mut(&mut self.config).alpn_protocols = vec![b"h2".to_vec()];
        self
    }

    /// From this address of the machine.
    pub(crate) fn from(mut self, address: &str) -> Self {
        self.from = Some(address.parse().unwrap());
        self
    }

    /// Sending this before TLS.
    pub(crate) fn after(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.before = bytes.into();
        self
    }

    /// The bare connection, on which nothing was sent.
    pub(crate) async fn bare(&self) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(from) = self.from {
            socket.bind((from, 0).into())?;
        }
        let stream = socket.connect(self.to).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// TLS, as far as the client can tell: a refusal of its certificate arrives later.
    pub(crate) async fn tls(&self) -> io::Result<TlsStream<TcpStream>> {
        self.tls_on(self.bare().await?).await
    }

    /// TLS over a bare connection that was opened before.
    pub(crate) async fn tls_on(&self, mut stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        stream.write_all(&self.before).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let connecting = TlsConnector::from(self.config.clone()).connect(name, stream);
        tokio::time::timeout(PATIENCE, connecting).await.expect("the handshake ends")
    }

    /// One HTTP connection.
    pub(crate) async fn open(&self) -> Result<Line, Box<dyn std::error::Error>> {
        self.open_on(self.tls().await?).await
    }

    /// HTTP over TLS that was opened before.
    pub(crate) async fn open_on(
        &self,
        stream: TlsStream<TcpStream>,
    ) -> Result<Line, Box<dyn std::error::Error>> {
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        Ok(if h2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            Line { sender: Sender::H2(sender), ended: tokio::spawn(async { drop(connection.await) }) }
        } else {
            let (sender, connection) = http1::handshake(io).await?;
            Line { sender: Sender::H1(sender), ended: tokio::spawn(async { drop(connection.await) }) }
        })
    }

    /// The answer to one request on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Result<Reply, Box<dyn std::error::Error>> {
        self.open().await?.get(path).await
    }
}

enum Sender {
    H1(http1::SendRequest<Empty<Bytes>>),
    H2(http2::SendRequest<Empty<Bytes>>),
}

/// One HTTP connection, held open.
pub(crate) struct Line {
    sender: Sender,
    ended: JoinHandle<()>,
}

/// A reply, whole.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Line {
    /// Sends a request; the answer's head.
    pub(crate) async fn begin(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<http::Response<Incoming>, Box<dyn std::error::Error>> {
        let mut request = http::Request::builder().method(method);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = match &mut self.sender {
            Sender::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request.uri(path).header("host", "localhost").body(Empty::new())?).await
            }
            Sender::H2(sender) => {
                sender.ready().await?;
                let uri = format!("https://localhost{path}");
                sender.send_request(request.uri(uri).body(Empty::new())?).await
            }
        };
        Ok(sent?)
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Reply, Box<dyn std::error::Error>> {
        Reply::read(self.begin(method, path, headers).await?).await
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Reply, Box<dyn std::error::Error>> {
        self.send("GET", path, &[]).await
    }

    /// Returns when the connection is over; fails the test if it stays.
    pub(crate) async fn ended(self) {
        tokio::time::timeout(PATIENCE, self.ended).await.expect("the gateway closes").unwrap();
    }
}

impl Reply {
    pub(crate) async fn read(response: http::Response<Incoming>) -> Result<Self, Box<dyn std::error::Error>> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Self { status: parts.status, headers: parts.headers, body })
    }
}
