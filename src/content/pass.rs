//! Passing a blob through without keeping it: one reader, one stream, nothing on disk.

use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use super::HOLD;
use super::source::SourceBody;
use super::stats::Counters;
use crate::oci::{Digest, Fault, Hasher};

/// The whole blob goes through the hash, whatever range is asked for; the reply's tail waits in memory
/// for the verdict.
#[derive(Debug)]
pub(super) struct Pass {
    body: SourceBody,
    digest: Digest,
    size: u64,
    /// Where in the blob the next byte of the source stands.
    position: u64,
    range: Range<u64>,
    /// From here on bytes are held back.
    held_from: u64,
    held: BytesMut,
    /// None: the verdict is in.
    hasher: Option<Hasher>,
    /// Once failed, it stays so: what is held back must never be handed out.
    failed: Option<Fault>,
    counters: Arc<Counters>,
}

impl Pass {
    pub(super) fn new(body: SourceBody, digest: Digest, size: u64, counters: Arc<Counters>) -> Self {
        Self {
            body,
            digest,
            size,
            position: 0,
            range: 0..size,
            held_from: size.saturating_sub(HOLD),
            held: BytesMut::new(),
            hasher: Some(Hasher::new(digest.algorithm())),
            failed: None,
            counters,
        }
    }

    /// The same, for a part of the reply. The range lies within the blob.
    pub(super) fn ranged(mut self, range: Range<u64>) -> Self {
        self.held_from = range.end.saturating_sub(HOLD).max(range.start);
        self.range = range;
        self
    }

    /// All of a small blob, verified.
    pub(super) async fn collect(mut self) -> Result<Bytes, Fault> {
        self.held_from = 0;
        self.range = 0..self.size;
        Ok(std::future::poll_fn(|cx| self.poll_next(cx)).await?.unwrap_or_default())
    }

    /// The next bytes of the reply; none at its verified end.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        if let Some(fault) = &self.failed {
            return Poll::Ready(Err(fault.clone()));
        }
        let next = ready!(self.poll_unchecked(cx));
        if let Err(fault) = &next {
            self.counters.fault(&self.digest, fault);
            self.failed = Some(fault.clone());
        }
        Poll::Ready(next)
    }

    fn poll_unchecked(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        while let Some(hasher) = &mut self.hasher {
            let chunk = match ready!(self.body.bytes.poll_next_unpin(cx)) {
                None => break,
                Some(chunk) => chunk?,
            };
            hasher.update(&chunk);
            let start = self.position;
            self.position += chunk.len() as u64;
            if self.position > self.size {
                return Poll::Ready(Err(too_long(self.size)));
            }
            let late = part(&chunk, start, self.held_from..self.range.end);
            self.held.extend_from_slice(&late);
            let now = part(&chunk, start, self.range.start..self.held_from);
            if !now.is_empty() {
                return Poll::Ready(Ok(Some(now)));
            }
        }
        if let Some(hasher) = self.hasher.take() {
            if self.position < self.size {
                return Poll::Ready(Err(cut(self.position, self.size)));
            }
            verify(&self.digest, hasher)?;
        }
        let held = std::mem::take(&mut self.held).freeze();
        Poll::Ready(Ok((!held.is_empty()).then_some(held)))
    }
}

/// The bytes of a chunk that begins at `start` which lie within this range.
fn part(chunk: &Bytes, start: u64, range: Range<u64>) -> Bytes {
    let end = start + chunk.len() as u64;
    let (from, to) = (range.start.clamp(start, end), range.end.clamp(start, end));
    let index = |at: u64| usize::try_from(at - start).unwrap_or(chunk.len());
    if from < to { chunk.slice(index(from)..index(to)) } else { Bytes::new() }
}

pub(super) fn verify(digest: &Digest, hasher: Hasher) -> Result<(), Fault> {
    let found = hasher.finish();
    if found == *digest {
        Ok(())
    } else {
        Err(Fault::Invalid(format!("asked for {digest}, the bytes that came are {found}").into()))
    }
}

pub(super) fn too_long(size: u64) -> Fault {
    Fault::Invalid(format!("the descriptor says {size} bytes, more than that came").into())
}

pub(super) fn cut(position: u64, size: u64) -> Fault {
    Fault::Unreachable(format!("the stream ended after {position} of {size} bytes").into())
}
