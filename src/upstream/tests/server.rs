//! A TLS server on loopback that answers to any name, by a function of what was asked.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::upstream::{Ca, EndpointSettings, Resolver, Settings, SourceSettings, UpstreamSettings};

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Without the port.
    pub(super) host: String,
    /// The server's, which all its names share.
    pub(super) port: u16,
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub(super) fn authorization(&self) -> Option<&str> {
        self.header("authorization")
    }
}

pub(super) type Reply = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

/// A reply with these headers and this body, of known length.
pub(super) fn reply(status: u16, headers: &[(&str, &str)], body: &[u8]) -> Reply {
    let full = http_body_util::Full::new(Bytes::copy_from_slice(body));
    with_body(status, headers, full.map_err(|never| match never {}).boxed_unsync())
}

/// A reply of unknown length; with `broken`, the connection breaks after the pieces.
pub(super) fn pieces(status: u16, headers: &[(&str, &str)], pieces: Vec<Vec<u8>>, broken: bool) -> Reply {
    let sound = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))));
    let end = broken.then(|| Err(std::io::Error::other("cut")));
    let stream = futures_util::stream::iter(sound.chain(end)).then(|frame| async {
        // What was given before goes out on the wire before it breaks.
        tokio::task::yield_now().await;
        frame
    });
    with_body(status, headers, UnsyncBoxBody::new(StreamBody::new(stream)))
}

fn with_body(status: u16, headers: &[(&str, &str)], body: UnsyncBoxBody<Bytes, std::io::Error>) -> Reply {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    for (name, value) in headers {
        let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
        response.headers_mut().append(name, value.parse().unwrap());
    }
    response
}

/// A running server; it ends with the test's runtime.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) ca: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Server {
    /// Its certificate is for `registry.test` and all names these tests use.
    pub(super) async fn start(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(&[b"h2", b"http/1.1"], answer).await
    }

    /// The same over HTTP/1.1 alone.
    pub(super) async fn http1(answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(&[b"http/1.1"], answer).await
    }

    async fn serve(protocols: &[&[u8]], answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (acceptor, ca) = certificate(protocols);
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (log, answer) = (Arc::clone(&seen), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, log, answer) = (acceptor.clone(), Arc::clone(&log), Arc::clone(&answer));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request: Request<Incoming>| {
                        let (log, answer) = (Arc::clone(&log), Arc::clone(&answer));
                        async move {
                            let seen = read(request, address.port()).await;
                            log.lock().unwrap().push(seen.clone());
                            Ok::<_, std::convert::Infallible>(answer(&seen))
                        }
                    });
                    let builder = auto::Builder::new(TokioExecutor::new());
                    let _ = builder.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, ca, seen }
    }

    /// What arrived so far.
    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// How many of the requests so far went to this path.
    pub(super) fn count(&self, path: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path == path).count()
    }

    /// `https://<host>:<its port>`.
    pub(super) fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.address.port())
    }

    /// The settings of `registry.test` as an upstream here, trusting its CA.
    pub(super) fn endpoint(&self) -> EndpointSettings {
        let mut endpoint = EndpointSettings::new(self.url("registry.test").parse().unwrap());
        endpoint.ca = Some(Ca::Pem(self.ca.clone().into_bytes()));
        endpoint
    }
}

/// One upstream, every name at loopback, no proxy.
pub(super) fn settings(endpoint: EndpointSettings) -> Settings {
    Settings {
        upstreams: vec![UpstreamSettings {
            registry: "registry.test".parse().unwrap(),
            source: SourceSettings::Endpoint(endpoint),
        }],
        ..offline()
    }
}

/// No upstream, every name at loopback, no proxy.
pub(super) fn offline() -> Settings {
    let resolver = Resolver::new(|_| async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) });
    Settings { resolver, proxy_from_environment: false, ..Settings::default() }
}

async fn read(request: Request<Incoming>, port: u16) -> Seen {
    let (parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(ToString::to_string);
    let host = authority.unwrap_or_else(|| parts.headers["host"].to_str().unwrap().to_owned());
    let body = body.collect().await.unwrap().to_bytes();
    Seen {
        host: host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host).to_owned(),
        port,
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: String::from_utf8(body.to_vec()).unwrap(),
    }
}

fn certificate(protocols: &[&[u8]]) -> (TlsAcceptor, String) {
    let mut authority = CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = authority.self_signed(&key).unwrap().pem();
    let issuer = Issuer::new(authority, key);

    let names = ["registry.test", "auth.registry.test", "cdn.test", "token.test", "localhost", "127.0.0.1"]
        .map(str::to_owned);
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    (TlsAcceptor::from(Arc::new(config)), ca)
}
