//! What an HTTP/2 connection is doing: hyper closes idle connections of HTTP/1.1 itself, but keeps
//! those of HTTP/2 as long as pings are answered.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::reply::Body;
use crate::oci::Fault;

/// Replies under way on one connection, and how many there ever were.
#[derive(Debug, Default)]
pub(super) struct Activity {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// A request under way; over when it is dropped.
#[derive(Debug)]
pub(super) struct Request(Arc<Activity>);

impl Activity {
    pub(super) fn begin(self: &Arc<Self>) -> Request {
        self.begun.fetch_add(1, Ordering::Relaxed);
        Request(self.clone())
    }

    /// How many requests there were, when none is under way.
    pub(super) fn at_rest(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::Acquire);
        (self.begun.load(Ordering::Acquire) == ended).then_some(ended)
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Release);
    }
}

/// A reply's body, whose end is the request's.
#[derive(Debug)]
pub(super) struct Tracked {
    body: Body,
    _request: Option<Request>,
}

impl Tracked {
    pub(super) fn new(body: Body, request: Option<Request>) -> Self {
        Self { body, _request: request }
    }
}

impl HttpBody for Tracked {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
