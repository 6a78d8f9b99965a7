//! Replies: bodies, headers, and the one translation of faults to HTTP.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER,
};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::ext::ReasonPhrase;
use jiff::Timestamp;
use serde_json::Value;

use crate::audit::Receipt;
use crate::content::BlobBody;
use crate::oci::{Digest, ErrorCode, Fault, What};

/// Names the distribution spec and Docker gave their headers.
pub(super) const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(super) const OCI_NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");
pub(super) const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
pub(super) const REGISTRY_2: &str = "registry/2.0";
pub(super) const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// A reply as the door hands it to hyper.
pub(super) type Reply = Response<Body>;

/// The body of a reply. The receipt of a permitted pull rides along and is settled when the reply
/// ends, however it ends.
#[derive(Debug)]
pub struct Body {
    feed: Feed,
    receipt: Option<Receipt>,
}

#[derive(Debug)]
enum Feed {
    Blob(BlobBody),
    Whole(Bytes),
}

impl Body {
    pub(super) fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self { feed: Feed::Whole(bytes.into()), receipt: None }
    }

    pub(super) fn blob(body: BlobBody) -> Self {
        Self { feed: Feed::Blob(body), receipt: None }
    }

    pub(super) fn with_receipt(mut self, receipt: Receipt) -> Self {
        self.receipt = Some(receipt);
        self
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        let frame = match &mut this.feed {
            Feed::Blob(body) => std::task::ready!(Pin::new(body).poll_frame(cx)),
            Feed::Whole(bytes) if bytes.is_empty() => None,
            Feed::Whole(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
        };
        if let (Some(receipt), Some(Ok(frame))) = (&mut this.receipt, &frame)
            && let Some(data) = frame.data_ref()
        {
            receipt.served(data.len() as u64);
        }
        if let Some(Err(fault)) = &frame {
            tracing::warn!(%fault, "a reply was cut off");
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.feed {
            Feed::Blob(body) => body.is_end_stream(),
            Feed::Whole(bytes) => bytes.is_empty(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.feed {
            Feed::Blob(body) => body.size_hint(),
            Feed::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
        }
    }
}

/// A reply of this status and body; `Content-Length` is the body's.
pub(super) fn reply(status: StatusCode, body: Body) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply
}

/// The reply to HEAD: length and headers of the reply to GET, and no byte of it. hyper drops the bytes
/// itself for HTTP/1.1 only; over HTTP/2 they would break the stream.
pub(super) fn without_bytes(reply: Reply) -> Reply {
    let length = reply.body().size_hint().exact().filter(|length| *length > 0);
    let mut reply = reply.map(|body| Body { feed: Feed::Whole(Bytes::new()), receipt: body.receipt });
    if let Some(length) = length {
        reply.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
    reply
}

/// An error in the spec's envelope. The body goes with HEAD too as far as its length is concerned.
pub(super) fn error(status: StatusCode, code: ErrorCode, message: &str, detail: &Value) -> Reply {
    let body = code.envelope(message, detail);
    let mut reply = reply(status, Body::whole(body));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// What a fault is called on the wire. It says whose fault it is and whether to come again.
pub(super) fn fault(fault: &Fault, what: &What, now: Timestamp) -> Reply {
    let unknown = match what {
        What::Blob(_) => ErrorCode::BlobUnknown,
        What::Digest(_) | What::Referrers(_) | What::Tag(_) => ErrorCode::ManifestUnknown,
        What::Tags => ErrorCode::NameUnknown,
    };
    let (status, code, wait) = match fault {
        Fault::Absent(_) => (StatusCode::NOT_FOUND, unknown, None),
        Fault::Denied(_) => (StatusCode::FORBIDDEN, ErrorCode::Denied, None),
        Fault::Invalid(_) => (
            StatusCode::BAD_GATEWAY,
            if matches!(what, What::Blob(_)) { ErrorCode::DigestInvalid } else { ErrorCode::ManifestInvalid },
            None,
        ),
        Fault::Storage(_) => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TooManyRequests, Some(5)),
        Fault::Throttled { until, .. } => {
            let seconds = until.map_or(60, |until| until.duration_since(now).as_secs().clamp(1, 3600));
            (StatusCode::TOO_MANY_REQUESTS, ErrorCode::TooManyRequests, Some(seconds))
        }
        Fault::Unreachable(_) => (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::TooManyRequests, Some(10)),
    };
    let mut reply = error(status, code, &fault.to_string(), &Value::Null);
    if let Some(seconds) = wait {
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    // As with a refusal: all that an older containerd shows of a 403 to HEAD.
    let phrase = header_text(&fault.to_string());
    if let Fault::Denied(_) = fault
        && let Ok(phrase) =
            ReasonPhrase::try_from(phrase.as_bytes().get(..PHRASE_MAX).unwrap_or(phrase.as_bytes()))
    {
        reply.extensions_mut().insert(phrase);
    }
    reply
}

/// The most characters of a reason phrase that older containerds show whole.
const PHRASE_MAX: usize = 120;

/// A header value out of text that may hold anything: what a header cannot carry becomes `?`.
pub(super) fn header_text(text: &str) -> HeaderValue {
    let safe: Vec<u8> =
        text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c as u8 } else { b'?' }).collect();
    HeaderValue::from_bytes(&safe).unwrap_or(HeaderValue::from_static("?"))
}

/// `Docker-Content-Digest` and the `ETag` made of it.
pub(super) fn name_content(headers: &mut HeaderMap, digest: &Digest) {
    let text = digest.to_string();
    if let Ok(etag) = HeaderValue::from_maybe_shared(Bytes::from(format!("\"{text}\""))) {
        headers.insert(ETAG, etag);
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(Bytes::from(text)) {
        headers.insert(DOCKER_CONTENT_DIGEST, value);
    }
}

/// What a `Range` header asks of a blob of this size (RFC 9110, 14).
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Span {
    /// One satisfiable range, its end exclusive.
    Part(std::ops::Range<u64>),
    /// A malformed or unsatisfiable one: 416.
    Unsatisfiable,
    /// Everything: no range, several ranges, or a unit other than bytes.
    Whole,
}

impl Span {
    pub(super) fn parse(header: Option<&HeaderValue>, size: u64) -> Self {
        let Some(text) = header.and_then(|value| value.to_str().ok()) else { return Self::Whole };
        let Some(spec) = text.trim().strip_prefix("bytes=") else { return Self::Whole };
        if spec.contains(',') {
            return Self::Whole;
        }
        let Some((first, last)) = spec.trim().split_once('-') else { return Self::Unsatisfiable };
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            // A number too large for u64 lies past any end.
            true => Some(text.parse().unwrap_or(u64::MAX)),
            false => None,
        };
        let range = match (first.is_empty(), last.is_empty()) {
            (true, true) => None,
            (true, false) => number(last).filter(|n| *n > 0).map(|n| size.saturating_sub(n)..size),
            (false, true) => number(first).map(|first| first..size),
            (false, false) => number(first)
                .zip(number(last))
                .filter(|(first, last)| first <= last)
                .map(|(first, last)| first..last.saturating_add(1).min(size)),
        };
        range.filter(|range| range.start < range.end).map_or(Self::Unsatisfiable, Self::Part)
    }
}

/// Adds `Content-Range` of a 206.
pub(super) fn content_range(headers: &mut HeaderMap, range: &std::ops::Range<u64>, size: u64) {
    let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
    headers.insert(CONTENT_RANGE, header_text(&text));
}

/// The 416 of a range that cannot be served.
pub(super) fn unsatisfiable(size: u64) -> Reply {
    let message = format!("the range cannot be satisfied: the blob has {size} bytes");
    let mut reply = error(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::SizeInvalid, &message, &Value::Null);
    reply.headers_mut().insert(CONTENT_RANGE, header_text(&format!("bytes */{size}")));
    reply
}

/// Headers of every blob reply.
pub(super) fn describe_blob(headers: &mut HeaderMap, digest: &Digest, length: u64) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    name_content(headers, digest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str, size: u64) -> Span {
        Span::parse(Some(&HeaderValue::from_str(text).expect("a header")), size)
    }

    #[test]
    fn a_reply_to_head_keeps_its_length_and_loses_its_bytes() {
        let head = without_bytes(reply(StatusCode::FORBIDDEN, Body::whole("words")));
        assert_eq!((head.status().as_u16(), &head.headers()[CONTENT_LENGTH]), (403, &HeaderValue::from(5)));
        assert!(head.body().is_end_stream());
        // The firm form of a refusal has no length, and must not get one.
        let head = without_bytes(reply(StatusCode::OK, Body::empty()));
        assert_eq!(head.headers().get(CONTENT_LENGTH), None);
    }

    #[test]
    fn a_range_is_served_cut_to_the_blob_or_refused() {
        for (text, expected) in [
            ("bytes=0-", Span::Part(0..10)),
            ("bytes=0-3", Span::Part(0..4)),
            ("bytes=9-99999999999999999999999", Span::Part(9..10)),
            ("bytes=-3", Span::Part(7..10)),
            ("bytes=-30", Span::Part(0..10)),
            ("bytes=10-", Span::Unsatisfiable),
            ("bytes=-0", Span::Unsatisfiable),
            ("bytes=5-4", Span::Unsatisfiable),
            ("bytes=-", Span::Unsatisfiable),
            ("bytes=x-3", Span::Unsatisfiable),
            ("bytes=+1-3", Span::Unsatisfiable),
            ("bytes=0-1,3-4", Span::Whole),
            ("items=0-1", Span::Whole),
        ] {
            assert_eq!(span(text, 10), expected, "{text}");
        }
        assert_eq!(span("bytes=0-", 0), Span::Unsatisfiable);
        assert_eq!(Span::parse(None, 10), Span::Whole);
    }

    #[test]
    fn whose_fault_it_is_shows_in_the_status() {
        let what = What::Tags;
        let now = Timestamp::UNIX_EPOCH;
        let status = |f: Fault| fault(&f, &what, now).status().as_u16();
        assert_eq!(status(Fault::Absent("x".into())), 404);
        assert_eq!(status(Fault::Denied("x".into())), 403);
        assert_eq!(status(Fault::Invalid("x".into())), 502);
        assert_eq!(status(Fault::Unreachable("x".into())), 503);
        let throttled = fault(&Fault::Throttled { until: None, detail: "x".into() }, &what, now);
        assert_eq!(throttled.status().as_u16(), 429);
        assert_eq!(throttled.headers()[RETRY_AFTER], "60");
    }
}
