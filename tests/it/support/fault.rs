//! The ways a fake server can fail, and when.

use std::sync::{Arc, Mutex};

use http::{HeaderName, HeaderValue, StatusCode, header};
use tokio::sync::Semaphore;

use super::log::Request;
use super::server::Reply;
use pullgate::oci::Digest;

/// A door the test holds. Clones are the same door.
#[derive(Clone)]
pub(crate) struct Gate(Arc<Semaphore>);

impl Gate {
    /// A closed gate.
    pub(crate) fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets the next `count` through, whether they wait already or come later.
    pub(crate) fn release(&self, count: usize) {
        self.0.add_permits(count);
    }

    /// Lets everybody through, now and from now on.
    pub(crate) fn open(&self) {
        self.0.close();
    }

    pub(crate) async fn pass(&self) {
        if let Ok(permit) = self.0.acquire().await {
            permit.forget();
        }
    }
}

/// One way to fail.
#[derive(Clone)]
pub(crate) enum Fault {
    /// The right body under another `Content-Type`.
    ContentType(&'static str),
    /// The connection (HTTP/2: the stream) is aborted when exactly so many body bytes have left.
    /// A shorter body arrives whole.
    CutAfter(u64),
    /// The request is answered once the gate lets it through.
    Delay(Gate),
    /// The request is never answered.
    Hang,
    /// A 200 with so many zero bytes, with or without a `Content-Length`.
    HugeBody { length: u64, declared: bool },
    /// A `Range` is answered by the whole content and 200.
    IgnoreRange,
    /// A body of unannounced length (HTTP/1.1: chunked).
    NoContentLength,
    /// The body leaves in pieces of so many bytes, each when the gate lets it through.
    SlowGate(usize, Gate),
    /// This answer, in place of the right one.
    Status(StatusCode, Vec<(HeaderName, String)>, String),
    /// The right length, the last byte wrong.
    WrongBytes,
    /// Another `Content-Length`. A body shorter than that is aborted at its end; a longer one is
    /// truncated by HTTP/1.1 and against the protocol in HTTP/2.
    WrongContentLength(u64),
    /// Another `Content-Range`.
    WrongContentRange(&'static str),
    /// The right body, another `Docker-Content-Digest`.
    WrongDigestHeader,
}

impl Fault {
    /// A bare status with an OCI error body.
    pub(crate) fn status(code: u16) -> Self {
        let code = StatusCode::from_u16(code).unwrap();
        let word = match code {
            StatusCode::FORBIDDEN => "DENIED",
            StatusCode::TOO_MANY_REQUESTS => "TOOMANYREQUESTS",
            StatusCode::UNAUTHORIZED => "UNAUTHORIZED",
            _ => "UNKNOWN",
        };
        let json = (header::CONTENT_TYPE, "application/json".to_owned());
        Self::Status(code, vec![json], super::server::envelope(word, "the test wants it so"))
    }

    /// 429 with this `Retry-After`.
    pub(crate) fn throttled(retry_after: &str) -> Self {
        Self::status(429).with(header::RETRY_AFTER, retry_after)
    }

    /// The same status with one more header.
    pub(crate) fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Self::Status(_, headers, _) = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

/// Faults of one answer, all at once.
pub(crate) struct Faults(Vec<Fault>);

impl From<Fault> for Faults {
    fn from(fault: Fault) -> Self {
        Self(vec![fault])
    }
}

impl<const N: usize> From<[Fault; N]> for Faults {
    fn from(faults: [Fault; N]) -> Self {
        Self(faults.into())
    }
}

struct Rule {
    method: String,
    path: String,
    left: Option<usize>,
    faults: Vec<Fault>,
}

/// The faults still to come. The oldest matching rule that is not used up is the one that applies,
/// so rules added one after another make a sequence.
#[derive(Default)]
pub(crate) struct Rules(Mutex<Vec<Rule>>);

impl Rules {
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    /// What befalls this request; uses a rule up by one.
    pub(crate) fn take(&self, request: &Request) -> Vec<Fault> {
        let mut rules = self.0.lock().unwrap();
        let rule = rules.iter_mut().find(|rule| {
            (rule.method == "*" || request.method == *rule.method)
                && request.path.contains(&rule.path)
                && rule.left != Some(0)
        });
        let Some(rule) = rule else { return Vec::new() };
        rule.left = rule.left.map(|left| left - 1);
        rule.faults.clone()
    }
}

/// The start of a sentence: `registry.on("GET", "/blobs/").once(Fault::Hang)`.
#[must_use]
pub(crate) struct When<'rules> {
    pub(crate) rules: &'rules Rules,
    pub(crate) method: &'rules str,
    pub(crate) path: &'rules str,
}

impl When<'_> {
    /// Every such request, until the faults are cleared.
    pub(crate) fn always(&self, faults: impl Into<Faults>) {
        self.add(None, faults.into());
    }

    /// The next one.
    pub(crate) fn once(&self, faults: impl Into<Faults>) {
        self.add(Some(1), faults.into());
    }

    /// The next `count`.
    pub(crate) fn times(&self, count: usize, faults: impl Into<Faults>) {
        self.add(Some(count), faults.into());
    }

    fn add(&self, left: Option<usize>, faults: Faults) {
        let Self { method, path, .. } = *self;
        let rule = Rule { method: method.into(), path: path.into(), left, faults: faults.0 };
        self.rules.0.lock().unwrap().push(rule);
    }
}

/// What faults do before the right answer is known: it may be delayed, replaced, or never come.
pub(crate) async fn before(faults: &[Fault], request: &mut Request) -> Option<Reply> {
    let mut reply = None;
    for fault in faults {
        match fault {
            Fault::Delay(gate) => gate.pass().await,
            Fault::Hang => std::future::pending().await,
            Fault::IgnoreRange => drop(request.headers.remove(header::RANGE)),
            Fault::Status(code, headers, body) => {
                let mut status = Reply::new(*code).body(body.clone());
                for (name, value) in headers {
                    status = status.header(name, value);
                }
                reply = Some(status);
            }
            _ => {}
        }
    }
    reply
}

/// What faults do to the answer's head and bytes. `Content-Length` is set already.
pub(crate) fn bend(faults: &[Fault], reply: &mut Reply) {
    let mut set = |name: HeaderName, value: &str| {
        reply.headers.insert(name, HeaderValue::from_str(value).unwrap());
    };
    for fault in faults {
        match fault {
            Fault::ContentType(value) => set(header::CONTENT_TYPE, value),
            Fault::HugeBody { length, .. } => set(header::CONTENT_LENGTH, &length.to_string()),
            Fault::WrongContentLength(length) => set(header::CONTENT_LENGTH, &length.to_string()),
            Fault::WrongContentRange(value) => set(header::CONTENT_RANGE, value),
            Fault::WrongDigestHeader => {
                set(super::server::CONTENT_DIGEST, &Digest::sha256(b"something else").to_string());
            }
            _ => {}
        }
    }
    for fault in faults {
        match fault {
            Fault::HugeBody { declared: false, .. } | Fault::NoContentLength => {
                reply.headers.remove(header::CONTENT_LENGTH);
            }
            Fault::WrongBytes => {
                let mut bytes = reply.body.to_vec();
                if let Some(last) = bytes.last_mut() {
                    *last ^= 0x20;
                }
                reply.body = bytes.into();
            }
            _ => {}
        }
    }
}
