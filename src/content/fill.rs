//! Filling: from a source to a verified file.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::coming::{Coming, Fill, Passing, Progress, vanished};
use super::folder::{Stored, Temporary};
use super::pass::{cut, too_long, verify};
use super::source::{AnySource, Source, SourceBody};
use super::stats::Counters;
use super::{Store, closing, on_disk};
use crate::oci::{Digest, Fault, Hasher};

/// Readers see new bytes after this many, or after [`PATIENCE`], whichever comes first.
const BATCH: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_millis(20);
/// Chunks between network and disk. Sources send chunks of some 16 KiB.
const QUEUE: usize = 16;
/// Dirty bytes that a fill leaves to the kernel at most.
const SYNC_EVERY: u64 = 32 << 20;
/// A broken stream is taken up again this often, unless it brings [`HEADWAY`] in between.
const RESUMES: u32 = 3;
const HEADWAY: u64 = 8 << 20;
const PAUSE: Duration = Duration::from_millis(100);
/// A source may be waited for so long in all until it has brought [`PACE`]: about 8 KiB a second, below
/// which it only holds the space that was reserved for it.
const WINDOW: Duration = Duration::from_secs(60);
const PACE: u64 = 512 << 10;

/// The sole right to bring a blob that the store lacks. Whoever asks for the blob meanwhile waits for
/// its owner; dropping it breaks them and frees the place.
#[derive(Debug)]
pub struct Slot {
    store: Store,
    fill: Arc<Fill>,
    progress: watch::Sender<Progress>,
    /// A file that may be this blob but is not as it was verified.
    suspect: Option<Arc<Stored>>,
    /// Last, so that a fill counts as under way until it holds nothing any more.
    _running: Running,
}

/// One fill in [`Stats::fills`](super::Stats::fills), for which [`Store::close`] waits.
#[derive(Debug)]
struct Running {
    counters: Arc<Counters>,
    _waited_for: TaskTrackerToken,
}

impl Running {
    fn new(store: &Store) -> Self {
        let counters = store.counters().clone();
        counters.fills.fetch_add(1, Ordering::Relaxed);
        Self { counters, _waited_for: store.0.running.token() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.counters.fills.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slot {
    pub(super) fn new(
        store: Store,
        digest: Digest,
        size: u64,
        suspect: Option<Arc<Stored>>,
    ) -> (Self, Arc<Fill>) {
        let (sender, progress) = watch::channel(Progress::Opening);
        let fill = Arc::new(Fill { digest, size, stored: std::sync::OnceLock::new(), progress });
        let running = Running::new(&store);
        (Self { store, fill: fill.clone(), progress: sender, suspect, _running: running }, fill)
    }

    /// Starts bringing the blob, on the runtime, for as long as it takes: nobody needs to wait for it.
    /// The source is asked once; again only to take up a broken stream at the exact byte, or when
    /// there is no space and each reader needs a stream of its own. It is not asked at all when a file
    /// that somebody touched turns out to be intact.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub fn fill(self, source: impl Source) -> Coming {
        let coming = Coming::new(self.fill.clone(), self.store.counters().clone());
        tokio::spawn(async move {
            if let Err(fault) = self.run(Box::new(source)).await {
                self.store.counters().fault(&self.fill.digest, &fault);
                // In this order: who hears of the failure may claim again at once.
                self.leave();
                self.progress.send_replace(Progress::Broken(fault));
            }
        });
        coming
    }

    async fn run(&self, mut source: Box<dyn AnySource>) -> Result<(), Fault> {
        let Fill { digest, size, .. } = *self.fill;
        if let Some(suspect) = self.suspect.clone() {
            let store = self.store.clone();
            if blocking(move || store.recheck(&digest, size, &suspect)).await?? {
                if let Some(suspect) = self.suspect.clone() {
                    let _ = self.fill.stored.set(suspect);
                }
                self.progress.send_replace(Progress::Verified);
                return Ok(());
            }
        }
        let body = self.until_cut(source.reopen(0)).await?;
        body.check_whole(size)?;
        let store = self.store.clone();
        let Some((temporary, stored)) = blocking(move || store.room(size)).await?? else {
            self.leave();
            self.progress.send_replace(Progress::Passing(Arc::new(Passing::new(body, source))));
            return Ok(());
        };
        let _ = self.fill.stored.set(stored.clone());
        self.progress.send_replace(Progress::Flowing(0));

        let (chunks, queue) = mpsc::channel(QUEUE);
        // What arrived before the source failed is still written: the fill ends with nothing under way.
        let receive = async { Ok(self.until_cut(self.receive(source, body, chunks)).await) };
        let (received, hasher) = tokio::try_join!(receive, self.write(stored.clone(), queue))?;
        received?;
        verify(&digest, hasher)?;
        self.progress.send_replace(Progress::Verified);
        self.keep(temporary, stored).await;
        Ok(())
    }

    /// Waits for the source, unless the store cannot wait any longer. What the disk does is never cut:
    /// a fill has ended when nothing of it is under way.
    async fn until_cut<T>(&self, work: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
        self.store.0.cut.run_until_cancelled(work).await.unwrap_or_else(|| Err(closing()))
    }

    /// Moves the verified file to its place. When that fails its readers are served all the same.
    async fn keep(&self, temporary: Temporary, stored: Arc<Stored>) {
        let (store, digest) = (self.store.clone(), self.fill.digest);
        let kept = blocking(move || {
            stored.sync()?;
            store.keep(temporary, &digest, &stored)
        })
        .await;
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%digest, %error, "a verified blob could not be kept"),
            Err(fault) => tracing::error!(%digest, %fault, "a verified blob could not be kept"),
        }
    }

    /// Network to queue, with resumption.
    async fn receive(
        &self,
        mut source: Box<dyn AnySource>,
        body: SourceBody,
        chunks: mpsc::Sender<Bytes>,
    ) -> Result<(), Fault> {
        let size = self.fill.size;
        let mut total_known = body.total.is_some();
        let mut stream = body.bytes;
        let mut pace = Pace::new(self.window());
        let (mut received, mut resumes, mut resumed_at) = (0, 0, 0);
        // A source that stated the length has nothing to say after it; another must show its end.
        while received < size || !total_known {
            let fault = match pace.next(&mut stream).await {
                Some(Ok(chunk)) => {
                    received += chunk.len() as u64;
                    if received > size {
                        return Err(too_long(size));
                    }
                    if !chunk.is_empty() && chunks.send(chunk).await.is_err() {
                        // The writer failed and says why.
                        return Ok(());
                    }
                    continue;
                }
                _ if received == size => return Ok(()),
                Some(Err(fault @ Fault::Unreachable(_))) => fault,
                Some(Err(fault)) => return Err(fault),
                None => cut(received, size),
            };
            if received - resumed_at >= HEADWAY {
                resumes = 0;
            }
            resumed_at = received;
            stream = self.resume(&mut *source, received, &mut resumes, fault).await?;
            pace = Pace::new(self.window());
            total_known = true;
        }
        // One more look, without waiting: an HTTP client frees its connection at the end it has seen.
        match stream.next().now_or_never() {
            Some(Some(Ok(chunk))) if !chunk.is_empty() => Err(too_long(size)),
            _ => Ok(()),
        }
    }

    /// Takes a broken stream up at exactly this byte. Never from the start: readers have seen bytes of
    /// this generation, and two answers may differ.
    async fn resume(
        &self,
        source: &mut dyn AnySource,
        received: u64,
        resumes: &mut u32,
        mut fault: Fault,
    ) -> Result<BoxStream<'static, Result<Bytes, Fault>>, Fault> {
        while *resumes < RESUMES {
            tokio::time::sleep(PAUSE * (1 << *resumes)).await;
            *resumes += 1;
            match source.reopen(received).await {
                Ok(body) if body.start == received && body.total == Some(self.fill.size) => {
                    return Ok(body.bytes);
                }
                Ok(_) => return Err(fault),
                Err(next @ Fault::Unreachable(_)) => fault = next,
                Err(next) => return Err(next),
            }
        }
        Err(fault)
    }

    /// Queue to file. Bytes are announced only once they can be read back.
    async fn write(&self, stored: Arc<Stored>, mut queue: mpsc::Receiver<Bytes>) -> Result<Hasher, Fault> {
        let mut writer = Writer { stored, hasher: Hasher::new(self.fill.digest.algorithm()), at: 0 };
        let mut synced = 0;
        let mut syncing: Option<JoinHandle<io::Result<()>>> = None;
        while let Some(chunk) = queue.recv().await {
            let mut len = chunk.len();
            let mut batch = vec![chunk];
            let deadline = Instant::now() + PATIENCE;
            while len < BATCH
                && let Ok(Some(chunk)) = tokio::time::timeout_at(deadline, queue.recv()).await
            {
                len += chunk.len();
                batch.push(chunk);
            }
            #[cfg(test)]
            if writer.at + len as u64 > self.store.counters().disk_ends_at.load(Ordering::Relaxed) {
                return Err(on_disk("writing", &io::ErrorKind::StorageFull.into()));
            }
            writer = blocking(move || writer.write(&batch)).await?.map_err(|e| on_disk("writing", &e))?;
            self.store.counters().filled_bytes.fetch_add(len as u64, Ordering::Relaxed);
            self.progress.send_replace(Progress::Flowing(writer.at));
            if writer.at - synced >= SYNC_EVERY {
                // Beside the next writes; waited for only when the disk falls a whole step behind.
                settle(syncing.take()).await?;
                synced = writer.at;
                let stored = writer.stored.clone();
                syncing = Some(tokio::task::spawn_blocking(move || stored.sync()));
            }
        }
        settle(syncing).await?;
        Ok(writer.hasher)
    }

    fn window(&self) -> Duration {
        #[cfg(test)]
        if let Some(window) = self.store.counters().window.get() {
            return *window;
        }
        WINDOW
    }

    /// Frees the place, so that the next claim starts a new generation.
    fn leave(&self) {
        self.store.leave(&self.fill);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Whether a source brings enough. Only waiting for it counts: a slow disk is not its fault.
struct Pace {
    window: Duration,
    waited: Duration,
    brought: u64,
}

impl Pace {
    fn new(window: Duration) -> Self {
        Self { window, waited: Duration::ZERO, brought: 0 }
    }

    /// The next chunk; [`Fault::Unreachable`] when the window closes before enough came.
    async fn next(
        &mut self,
        stream: &mut BoxStream<'static, Result<Bytes, Fault>>,
    ) -> Option<Result<Bytes, Fault>> {
        let from = Instant::now();
        let left = self.window.saturating_sub(self.waited);
        let Ok(next) = tokio::time::timeout(left, stream.next()).await else {
            let text = format!("it sent {} bytes in {} s", self.brought, self.window.as_secs());
            return Some(Err(Fault::Unreachable(text.into())));
        };
        self.waited += from.elapsed();
        if let Some(Ok(chunk)) = &next {
            self.brought += chunk.len() as u64;
        }
        if self.brought >= PACE {
            *self = Self::new(self.window);
        }
        next
    }
}

struct Writer {
    stored: Arc<Stored>,
    hasher: Hasher,
    at: u64,
}

impl Writer {
    fn write(mut self, batch: &[Bytes]) -> io::Result<Self> {
        for chunk in batch {
            self.stored.write_all_at(chunk, self.at)?;
            self.hasher.update(chunk);
            self.at += chunk.len() as u64;
        }
        Ok(self)
    }
}

async fn settle(syncing: Option<JoinHandle<io::Result<()>>>) -> Result<(), Fault> {
    let Some(job) = syncing else { return Ok(()) };
    job.await.map_err(|_| vanished())?.map_err(|e| on_disk("syncing", &e))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|_| vanished())
}
