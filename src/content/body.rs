//! Reading: a blob, and the reply body made of it.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::ReusableBoxFuture;

use super::HOLD;
use super::coming::{Progress, vanished};
use super::folder::Stored;
use super::pass::Pass;
use super::stats::Counters;
use crate::oci::{Digest, Fault};

/// The largest piece a body hands out. The more readers there are the smaller the pieces, so that a
/// stalled crowd stays cheap: 500 readers that each hold their piece hold 47 MiB together.
const PIECE: u64 = 256 << 10;
/// A read that had to wait for the disk asks for this much beyond, so that the next ones need not.
const READ_AHEAD: u64 = 1 << 20;

/// A blob whose bytes can be read: verified, or arriving and held back until it is.
#[derive(Debug)]
pub struct Blob {
    digest: Digest,
    size: u64,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    Memory(Bytes),
    Passing(Box<Pass>),
    Stored { stored: Arc<Stored>, follow: Option<watch::Receiver<Progress>>, counters: Arc<Counters> },
}

impl Blob {
    pub(super) fn in_memory(digest: Digest, bytes: Bytes) -> Self {
        Self { digest, size: bytes.len() as u64, origin: Origin::Memory(bytes) }
    }

    pub(super) fn passing(digest: Digest, size: u64, pass: Pass) -> Self {
        Self { digest, size, origin: Origin::Passing(Box::new(pass)) }
    }

    pub(super) fn stored(
        digest: Digest,
        stored: Arc<Stored>,
        follow: Option<watch::Receiver<Progress>>,
        counters: Arc<Counters>,
    ) -> Self {
        Self { digest, size: stored.size(), origin: Origin::Stored { stored, follow, counters } }
    }

    /// The digest it was asked for by.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its whole length in bytes: the `Content-Length` of a 200.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The same blob once more, for another reader; none where it is not kept and goes to one alone.
    pub fn shared(&self) -> Option<Self> {
        let origin = match &self.origin {
            Origin::Memory(bytes) => Origin::Memory(bytes.clone()),
            Origin::Passing(_) => return None,
            Origin::Stored { stored, follow, counters } => {
                Origin::Stored { stored: stored.clone(), follow: follow.clone(), counters: counters.clone() }
            }
        };
        Some(Self { digest: self.digest, size: self.size, origin })
    }

    /// The bytes, or a range of them (cut to the blob's length; an inverted one is empty).
    ///
    /// While the blob is unverified, the last 64 KiB of *this reply* wait for the verdict: a reply whose
    /// blob turns out forged never completes.
    pub fn body(self, range: Option<Range<u64>>) -> BlobBody {
        let range = range.map_or(0..self.size, |range| {
            let end = range.end.min(self.size);
            range.start.min(end)..end
        });
        let rest = range.end - range.start;
        let feed = match self.origin {
            Origin::Memory(bytes) => {
                let index = |at: u64| usize::try_from(at).unwrap_or(bytes.len());
                Feed::Memory(bytes.slice(index(range.start)..index(range.end)))
            }
            Origin::Passing(pass) => Feed::Passing(Box::new(pass.ranged(range))),
            Origin::Stored { stored, follow, counters } => {
                counters.readers.fetch_add(1, Ordering::Relaxed);
                Feed::Stored(Reading {
                    stored,
                    at: range.start,
                    end: range.end,
                    held_from: range.end.saturating_sub(HOLD).max(range.start),
                    follow: follow.map(Follow::new),
                    spare: None,
                    waiting: None,
                    counters,
                })
            }
        };
        BlobBody { rest, feed }
    }
}

/// A reply body. It yields exactly as many bytes as its size hint says, or fails; a forged blob always
/// fails. At most one piece (64 to 256 KiB) is in memory for a reader that takes its time.
#[derive(Debug)]
pub struct BlobBody {
    rest: u64,
    feed: Feed,
}

#[derive(Debug)]
enum Feed {
    Memory(Bytes),
    Passing(Box<Pass>),
    Stored(Reading),
}

impl Body for BlobBody {
    type Data = Bytes;
    type Error = Fault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        let this = &mut *self;
        let next = match &mut this.feed {
            Feed::Memory(bytes) => Ok(Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty())),
            Feed::Passing(pass) => ready!(pass.poll_next(cx)),
            Feed::Stored(reading) => ready!(reading.poll_next(cx)),
        };
        Poll::Ready(match next {
            Ok(None) => None,
            Ok(Some(bytes)) => {
                this.rest = this.rest.saturating_sub(bytes.len() as u64);
                Some(Ok(Frame::data(bytes)))
            }
            Err(fault) => Some(Err(fault)),
        })
    }

    fn is_end_stream(&self) -> bool {
        // Bytes are never all out before the verdict is in, but for an empty range of a blob in flight,
        // which promises nothing.
        self.rest == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest)
    }
}

/// Reading a file, maybe while it is written.
#[derive(Debug)]
struct Reading {
    stored: Arc<Stored>,
    at: u64,
    end: u64,
    held_from: u64,
    /// None: the blob is verified.
    follow: Option<Follow>,
    /// The last piece; when nobody else holds it any more, its memory serves the next.
    spare: Option<Bytes>,
    /// A read that had to wait for the disk.
    waiting: Option<JoinHandle<(BytesMut, io::Result<usize>)>>,
    counters: Arc<Counters>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.counters.readers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Reading {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        if let Some(job) = &mut self.waiting {
            let done = ready!(Pin::new(job).poll(cx));
            self.waiting = None;
            let (buffer, read) = done.map_err(|_| abandoned())?;
            return Poll::Ready(self.hand_out(buffer, read).map(Some));
        }
        if self.at >= self.end {
            return Poll::Ready(Ok(None));
        }
        let limit = ready!(self.poll_limit(cx))?;
        let piece = self.piece();
        let want = index(piece.min(limit - self.at));
        let mut buffer = self.buffer(index(piece.min(self.end - self.at)), index(piece));
        if !self.counters.uncachable.load(Ordering::Relaxed) {
            // A read that would wait goes to a thread that may; so does one that failed, to fail there.
            match buffer.get_mut(..want).map(|buffer| self.stored.read_cached(buffer, self.at)) {
                Some(Ok(read)) => return Poll::Ready(self.hand_out(buffer, Ok(read)).map(Some)),
                Some(Err(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    self.counters.uncachable.store(true, Ordering::Relaxed);
                }
                _ => {}
            }
        }
        let (stored, at) = (self.stored.clone(), self.at);
        let mut job = tokio::task::spawn_blocking(move || {
            let read = stored.read_at(buffer.get_mut(..want).unwrap_or_default(), at);
            stored.read_ahead(at + want as u64, READ_AHEAD);
            (buffer, read)
        });
        match Pin::new(&mut job).poll(cx) {
            Poll::Pending => {
                self.waiting = Some(job);
                Poll::Pending
            }
            Poll::Ready(done) => {
                let (buffer, read) = done.map_err(|_| abandoned())?;
                Poll::Ready(self.hand_out(buffer, read).map(Some))
            }
        }
    }

    /// Up to where this reply may be read now; always beyond `at`.
    fn poll_limit(&mut self, cx: &mut Context<'_>) -> Poll<Result<u64, Fault>> {
        let Some(follow) = &mut self.follow else { return Poll::Ready(Ok(self.end)) };
        loop {
            match follow.latest() {
                Some(Progress::Broken(fault)) => return Poll::Ready(Err(fault)),
                Some(Progress::Flowing(written)) => {
                    let limit = written.min(self.held_from);
                    if limit > self.at {
                        return Poll::Ready(Ok(limit));
                    }
                }
                Some(Progress::Verified) => {
                    self.follow = None;
                    return Poll::Ready(Ok(self.end));
                }
                Some(Progress::Opening | Progress::Passing(_)) | None => {}
            }
            // Nothing to hand out for a while: an idle reader holds no buffer.
            self.spare = None;
            if !ready!(follow.poll_changed(cx)) {
                return Poll::Ready(Err(vanished()));
            }
        }
    }

    fn piece(&self) -> u64 {
        match self.counters.readers.load(Ordering::Relaxed) {
            0..=64 => PIECE,
            65..=128 => PIECE / 2,
            _ => PIECE / 4,
        }
    }

    fn buffer(&mut self, len: usize, piece: usize) -> BytesMut {
        if let Some(spare) = self.spare.take()
            && (len..=piece).contains(&spare.len())
            && let Ok(buffer) = spare.try_into_mut()
        {
            return buffer;
        }
        BytesMut::zeroed(len)
    }

    fn hand_out(&mut self, buffer: BytesMut, read: io::Result<usize>) -> Result<Bytes, Fault> {
        let read = read.map_err(|error| Fault::Storage(format!("reading a blob: {error}").into()))?;
        if read == 0 {
            return Err(Fault::Storage("a blob's file is shorter than it was when it was verified".into()));
        }
        self.at += read as u64;
        let whole = buffer.freeze();
        let bytes = whole.slice(..read);
        if self.at < self.end {
            self.spare = Some(whole);
        }
        Ok(bytes)
    }
}

fn index(len: u64) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

fn abandoned() -> Fault {
    Fault::Storage("a read from disk was abandoned: the gateway is stopping".into())
}

/// A `watch` receiver that can be polled.
struct Follow {
    /// None: it is with `changed`.
    progress: Option<watch::Receiver<Progress>>,
    changed: Option<ReusableBoxFuture<'static, (watch::Receiver<Progress>, bool)>>,
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow").field("progress", &self.progress).finish_non_exhaustive()
    }
}

impl Follow {
    fn new(progress: watch::Receiver<Progress>) -> Self {
        Self { progress: Some(progress), changed: None }
    }

    /// The state now, unless a change is being waited for already.
    fn latest(&mut self) -> Option<Progress> {
        Some(self.progress.as_mut()?.borrow_and_update().clone())
    }

    /// Waits for a state other than the latest; false when none can come.
    fn poll_changed(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if let Some(mut progress) = self.progress.take() {
            let change = async move {
                let changed = progress.changed().await.is_ok();
                (progress, changed)
            };
            match &mut self.changed {
                Some(future) => future.set(change),
                None => self.changed = Some(ReusableBoxFuture::new(change)),
            }
        }
        let Some(future) = &mut self.changed else { return Poll::Ready(false) };
        let (progress, changed) = ready!(future.poll(cx));
        self.progress = Some(progress);
        Poll::Ready(changed)
    }
}
