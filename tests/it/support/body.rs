//! Reply bodies that can be cut, held and made huge.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

use super::fault::{Fault, Gate};
use super::log::Entry;

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

const PIECE: usize = 64 * 1024;

enum Source {
    Bytes(Bytes),
    Zeros(u64),
}

/// A body on its way out.
pub(crate) struct Outgoing {
    source: Source,
    cut: Option<u64>,
    piece: usize,
    gate: Option<Gate>,
    entry: Entry,
    meter: Arc<Meter>,
    sent: u64,
    /// The connection's count that says that everything sent so far has left.
    target: u64,
}

impl Outgoing {
    /// The body with what the faults make of it.
    pub(crate) fn new(bytes: Bytes, faults: &[Fault], entry: Entry, meter: Arc<Meter>) -> Self {
        // A cut must not swallow the head, which may not have left yet.
        let target = meter.written() + 1;
        let source = Source::Bytes(bytes);
        let mut body = Self { source, cut: None, piece: PIECE, gate: None, entry, meter, sent: 0, target };
        for fault in faults {
            match fault {
                Fault::CutAfter(length) => body.cut = Some(*length),
                Fault::HugeBody { length, .. } => body.source = Source::Zeros(*length),
                Fault::SlowGate(piece, gate) => {
                    body.piece = (*piece).min(PIECE);
                    body.gate = Some(gate.clone());
                }
                _ => {}
            }
        }
        if body.cut.is_some_and(|cut| cut >= body.left()) {
            body.cut = None;
        }
        // hyper itself would lose some of a reply that is shorter than it announced.
        let left = body.left();
        if faults.iter().any(|fault| matches!(fault, Fault::WrongContentLength(length) if *length > left)) {
            body.cut = Some(left);
        }
        body
    }

    pub(crate) fn stream(self) -> Body {
        if self.left() == 0 {
            return empty();
        }
        let frames = stream::unfold(Some(self), async |body| {
            let mut body = body?;
            match body.next().await? {
                Ok(piece) => Some((Ok(Frame::data(piece)), Some(body))),
                Err(error) => Some((Err(error), None)),
            }
        });
        StreamBody::new(frames).boxed_unsync()
    }

    fn left(&self) -> u64 {
        match &self.source {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::Zeros(count) => *count,
        }
    }

    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let mut length = self.left().min(self.piece as u64);
        if let Some(cut) = self.cut {
            self.meter.flushed(self.target).await;
            length = length.min(cut - self.sent);
            if length == 0 {
                return Some(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        if length == 0 {
            return None;
        }
        if let Some(gate) = &self.gate {
            gate.pass().await;
        }
        let piece = match &mut self.source {
            Source::Bytes(bytes) => bytes.split_to(length as usize),
            Source::Zeros(count) => {
                *count -= length;
                Bytes::from_static(&[0; PIECE]).slice(..length as usize)
            }
        };
        self.sent += length;
        self.target = self.meter.written() + length;
        self.entry.sent(piece.len());
        Some(Ok(piece))
    }
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Counts what a connection wrote and flushed, so that a cut comes after the bytes before it: hyper
/// drops what it has buffered when a body fails.
///
/// It counts every byte of HTTP/1.1; of HTTP/2 the payload of DATA frames, and one for each HEADERS
/// frame. With several replies on one connection at once, a cut may come early.
pub(crate) struct Meter {
    frames: Option<Mutex<Frames>>,
    written: AtomicU64,
    flushed: watch::Sender<u64>,
}

impl Meter {
    pub(crate) fn new(http2: bool) -> Arc<Self> {
        let frames = http2.then(Mutex::default);
        Arc::new(Self { frames, written: AtomicU64::new(0), flushed: watch::Sender::new(0) })
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    fn write(&self, bytes: &[u8]) {
        let count = match &self.frames {
            Some(frames) => frames.lock().unwrap().count(bytes),
            None => bytes.len() as u64,
        };
        self.written.fetch_add(count, Ordering::AcqRel);
    }

    async fn flushed(&self, target: u64) {
        // The sender lives as long as we do.
        let _ = self.flushed.subscribe().wait_for(|flushed| *flushed >= target).await;
    }
}

/// Where an HTTP/2 connection is between its frames (RFC 9113, section 4.1).
#[derive(Default)]
struct Frames {
    header: Vec<u8>,
    payload: usize,
}

impl Frames {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;

    fn count(&mut self, mut bytes: &[u8]) -> u64 {
        let mut count = 0;
        while !bytes.is_empty() {
            if self.payload == 0 {
                self.header.push(bytes[0]);
                bytes = &bytes[1..];
                if let [high, middle, low, kind, _, _, _, _, _] = self.header[..] {
                    count += u64::from(kind == Self::HEADERS);
                    self.payload = u32::from_be_bytes([0, high, middle, low]) as usize;
                    if self.payload == 0 {
                        self.header.clear();
                    }
                }
                continue;
            }
            let (passed, rest) = bytes.split_at(self.payload.min(bytes.len()));
            if self.header[3] == Self::DATA {
                count += passed.len() as u64;
            }
            self.payload -= passed.len();
            if self.payload == 0 {
                self.header.clear();
            }
            bytes = rest;
        }
        count
    }
}

/// A stream under a [`Meter`].
pub(crate) struct Metered<S> {
    pub(crate) stream: S,
    pub(crate) meter: Arc<Meter>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            self.meter.write(&bytes[..count]);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if let Poll::Ready(Ok(())) = flushed {
            self.meter.flushed.send_replace(self.meter.written());
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
