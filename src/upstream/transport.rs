//! One HTTPS request to an endpoint: TLS, time limits, redirects.
//!
//! Redirects are followed here rather than by the HTTP client, because every hop is judged: HTTPS only,
//! to declared or public hosts only, and without `Authorization` once the origin changes.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Client, Method, Response, StatusCode};
use tokio::time::Instant;
use url::Url;

use super::address::{Guard, Hosts, Private};
use super::health::Record;
use crate::oci::Fault;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(20);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 5;
const ERROR_BODY_MAX: usize = 8 << 10;
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTPS client of our own: aws-lc-rs, these roots, every address through the guard.
pub(super) fn client(
    roots: Arc<rustls::RootCertStore>,
    guard: Guard,
    proxied: bool,
) -> Result<Client, super::Error> {
    let fail = |error: &dyn std::fmt::Display| super::Error::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let mut builder = Client::builder()
        .tls_backend_preconfigured(tls)
        .https_only(true)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .user_agent(concat!("pullgate/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(IDLE_TIMEOUT)
        .tcp_keepalive(IDLE_TIMEOUT)
        .dns_resolver(guard);
    if !proxied {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| super::Error::Tls(cause(&error)))
}

/// What is sent; the headers every request has are added.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) form: Option<String>,
}

/// What came back: its header is here, its body may still be on the way.
pub(super) struct Reply {
    pub(super) response: Response,
    /// The host that answered, after redirects.
    pub(super) host: String,
    /// Whether no redirect led to another origin.
    pub(super) at_origin: bool,
}

/// Why a request failed, and whether trying again may help.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) fault: Fault,
    pub(super) retry: bool,
    /// How long the upstream asked us to wait before.
    pub(super) pause: Option<Duration>,
}

impl Failure {
    pub(super) fn last(fault: Fault) -> Self {
        Self { fault, retry: false, pause: None }
    }

    pub(super) fn passing(fault: Fault) -> Self {
        Self { fault, retry: true, pause: None }
    }
}

/// How the requests of one endpoint travel.
pub(super) struct Transport {
    client: Client,
    guard: Guard,
    /// The endpoint's own host, as in its URL.
    host: String,
    blob_hosts: Hosts,
    record: Arc<Record>,
}

impl Transport {
    pub(super) fn new(
        client: Client,
        guard: Guard,
        host: String,
        blob_hosts: Hosts,
        record: Arc<Record>,
    ) -> Self {
        Self { client, guard, host, blob_hosts, record }
    }

    /// Sends it and follows redirects until something else than a redirect answers, at the latest at
    /// the deadline. Every status is a reply; the body is not read.
    pub(super) async fn send(&self, outgoing: Outgoing, deadline: Instant) -> Result<Reply, Failure> {
        let Outgoing { method, mut url, headers, mut authorization, form } = outgoing;
        let origin = url.origin();
        let mut at_origin = true;
        for _ in 0..=REDIRECTS {
            let host = url.host_str().unwrap_or_default().to_owned();
            if let Some(literal) = url.host() {
                self.guard.check(&literal).map_err(|private| refused(&private))?;
            }
            let mut request = self.client.request(method.clone(), url.clone()).headers(headers.clone());
            if let Some(value) = &authorization {
                request = request.header(AUTHORIZATION, value.clone());
            }
            if let Some(form) = &form {
                request =
                    request.header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form.clone());
            }
            self.record.count_request();
            let until = deadline.min(Instant::now() + HEADER_TIMEOUT);
            let response = match tokio::time::timeout_at(until, request.send()).await {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return Err(self.failed(&error, &host)),
                Err(_) => {
                    let text = format!("{host} sent no answer in time");
                    return Err(Failure::passing(Fault::Unreachable(text.into())));
                }
            };
            if host == self.host {
                self.record.connected();
            }
            if form.is_some() || !is_redirect(response.status()) {
                return Ok(Reply { response, host, at_origin });
            }
            let next = self.target(&url, response.headers().get(LOCATION), &host)?;
            if next.origin() != origin {
                at_origin = false;
                authorization = None;
            }
            url = next;
        }
        let text = format!("{} redirects more than {REDIRECTS} times", self.host);
        Err(Failure::last(Fault::Invalid(text.into())))
    }

    /// Judges where a redirect leads. Addresses of names are judged when they are connected to.
    fn target(&self, from: &Url, location: Option<&HeaderValue>, host: &str) -> Result<Url, Failure> {
        let invalid = |what: &str| Failure::last(Fault::Invalid(format!("{host} redirects {what}").into()));
        let text = location.and_then(|value| value.to_str().ok()).ok_or_else(|| invalid("to nowhere"))?;
        let mut target = from.join(text).map_err(|_| invalid("to a malformed address"))?;
        if target.scheme() != "https" {
            return Err(invalid("away from https, which is never followed"));
        }
        if !target.username().is_empty() || target.password().is_some() {
            return Err(invalid("to an address with a password in it"));
        }
        target.set_fragment(None);
        let next = target.host_str().ok_or_else(|| invalid("to no host"))?;
        if !self.blob_hosts.is_empty() && next != self.host && !self.blob_hosts.contains(next) {
            let text = format!(
                "{host} redirects to {next}, which is not among the blob_hosts of this [[upstream]]; add it there if it is right"
            );
            return Err(Failure::last(Fault::Denied(text.into())));
        }
        Ok(target)
    }

    fn failed(&self, error: &reqwest::Error, host: &str) -> Failure {
        let mut source = error.source();
        while let Some(inner) = source {
            if let Some(private) = inner.downcast_ref::<Private>() {
                return refused(private);
            }
            source = inner.source();
        }
        let mut text = format!("{host}: {}", cause(error));
        if text.contains("UnknownIssuer") {
            text.push_str(
                "; if the registry has a certificate authority of its own, name it as ca in its [[upstream]]",
            );
        }
        if error.is_connect() && host == self.host {
            self.record.connection_failed(&cause(error));
        }
        Failure::passing(Fault::Unreachable(text.into()))
    }
}

fn refused(private: &Private) -> Failure {
    let text = format!(
        "{}: a registry may only lead to public addresses; if this one is right, declare the host: as endpoint of an [[upstream]], or in its auth_hosts or blob_hosts",
        private
    );
    Failure::last(Fault::Denied(text.into()))
}

fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// The innermost words of an error; reqwest's own name the URL, and with it signatures.
pub(super) fn cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    match inner.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_timeout() => "it took too long".to_owned(),
        Some(_) => "the request failed".to_owned(),
        None => quote(&inner.to_string()),
    }
}

/// Reads a body of at most `max` bytes; a longer one is [`Fault::Invalid`].
pub(super) async fn read_body(reply: Reply, max: usize, deadline: Instant) -> Result<Bytes, Failure> {
    let Reply { mut response, host, .. } = reply;
    let too_long = || Failure::last(Fault::Invalid(format!("{host} sent more than {max} bytes").into()));
    if response.content_length().is_some_and(|length| length > max as u64) {
        return Err(too_long());
    }
    let mut body = BytesMut::new();
    loop {
        let broken = |text: &str| Failure::passing(Fault::Unreachable(format!("{host}: {text}").into()));
        match tokio::time::timeout_at(deadline, response.chunk()).await {
            Ok(Ok(Some(piece))) if body.len() + piece.len() > max => return Err(too_long()),
            Ok(Ok(Some(piece))) => body.extend_from_slice(&piece),
            Ok(Ok(None)) => return Ok(body.freeze()),
            Ok(Err(error)) => return Err(broken(&cause(&error))),
            Err(_) => return Err(broken("its answer did not end in time")),
        }
    }
}

/// What an upstream's error says, safe to print; empty when it says nothing readable.
pub(super) async fn read_error(reply: Reply) -> String {
    let deadline = Instant::now() + ERROR_BODY_TIMEOUT;
    let mut response = reply.response;
    let mut body = BytesMut::new();
    while body.len() < ERROR_BODY_MAX {
        match tokio::time::timeout_at(deadline, response.chunk()).await {
            Ok(Ok(Some(piece))) => body.extend_from_slice(&piece),
            _ => break,
        }
    }
    body.truncate(ERROR_BODY_MAX);
    if let Ok(said) = serde_json::from_slice::<serde_json::Value>(&body) {
        // The distribution spec's envelope; else what token services say, OAuth2's or their own.
        let entry = &said["errors"][0];
        let words = ["code", "message"].map(|key| entry[key].as_str().unwrap_or_default()).join(" ");
        let plain =
            ["error_description", "details", "message", "error"].iter().find_map(|key| said[*key].as_str());
        return quote(if words.trim().is_empty() { plain.unwrap_or_default() } else { &words });
    }
    match std::str::from_utf8(&body) {
        Ok(text) if !text.trim_start().starts_with('<') => quote(text),
        _ => String::new(),
    }
}

/// Makes an upstream's words safe to print: one line, nothing that steers a terminal, 200 characters.
pub(super) fn quote(text: &str) -> String {
    const MAX: usize = 200;
    let steers = |c: char| matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let plain: String = text.chars().map(|c| if c.is_control() || steers(c) { ' ' } else { c }).collect();
    let words = plain.split_whitespace().collect::<Vec<_>>().join(" ");
    match words.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", words.get(..end).unwrap_or_default()),
        None => words,
    }
}
