//! Verified blobs by digest: claimed, filled once, read while they arrive, evicted when space is short.
//!
//! The store promises that no reply body of it ever completes with bytes that are not the digest they
//! were asked for by, and that a blob is fetched once, whoever asks and whenever. A fill belongs to
//! the store, not to the client that caused it.
//!
//! ```text
//! claim ─┬─ Here(Blob)       on disk and as it was verified
//!        ├─ Coming(Coming)   somebody brings it; join
//!        └─ Vacant(Slot)     yours to bring: Slot::fill(source) -> Coming
//! ```
//!
//! It knows neither registries nor HTTP; bytes come from a [`Source`] and leave by a [`BlobBody`].

mod body;
mod coming;
mod fill;
mod folder;
mod index;
mod ledger;
mod metrics;
mod pass;
mod source;
mod stats;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

pub use body::{Blob, BlobBody};
pub use coming::Coming;
pub use fill::Slot;
pub use folder::{FolderLock, read_kept};
pub use source::{Source, SourceBody};
pub use stats::Stats;

use coming::Fill;
use folder::{Folder, Stored, Temporary, Weight};
use index::{Keeper, Note};
use ledger::{Evicted, Ledger};
use stats::Counters;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::oci::{Digest, Fault};

/// What each reply holds back until the digest verifies. Blobs up to this size are waited for whole.
const HOLD: u64 = 64 << 10;

/// The largest blob that is kept is this part of the store.
const SHARE: u64 = 4;

/// Where the store lives and how large it may grow.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder, made when absent; it belongs to one open store at a time.
    pub path: PathBuf,
    /// Bytes of blobs to keep at most. With 0 every blob is passed through; otherwise one of more than
    /// a quarter of it is, so that no single one drives out all others.
    pub max_size: u64,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder cannot be used.
    #[error(
        "the blob folder {path} cannot be used: {source}; check that it exists, is writable and on a working disk"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else has it open.
    #[error(
        "the blob folder {path} is in use by another pullgate; stop that one, or give this one a folder of its own"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
    },
}

/// A store of verified blobs. Clones share it; its folder is free again when it is closed, or when the
/// last clone, and the last fill, is gone.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    max_size: u64,
    folder: Arc<Folder>,
    ledger: Arc<Mutex<Ledger>>,
    /// Bytes that count though no entry of the ledger counts them: arriving, or removed but still read.
    loose: Arc<AtomicU64>,
    counters: Arc<Counters>,
    keeper: Keeper,
    /// No blob is claimed any more. Changed under the ledger's lock.
    closed: AtomicBool,
    /// Every slot, from the claim to the end of its fill.
    running: TaskTracker,
    /// Fills are not waited for any longer.
    cut: CancellationToken,
}

/// What a claim found.
#[derive(Debug)]
pub enum Claim {
    /// Somebody is bringing it.
    Coming(Coming),
    /// It is here.
    Here(Blob),
    /// It is yours to bring. Everybody who claims it from now on gets [`Claim::Coming`].
    Vacant(Slot),
}

/// What the disk has under a digest.
enum Found {
    Absent,
    /// As it was when it was verified.
    Sound(Arc<Stored>),
    /// To be read again before anybody may have it.
    Suspect(Arc<Stored>),
}

impl Store {
    /// Opens the store in this folder: takes its lock, throws away what was arriving when it was last
    /// open, reads the index. No blob is touched; files that the index lacks are counted in the background.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when another store has the folder, [`Error::Folder`] when it cannot be used.
    pub fn open(settings: Settings) -> Result<Self, Error> {
        let Settings { path, max_size } = settings;
        let folder = Arc::new(Folder::open(&path)?);
        let failed = |source| Error::Folder { path: path.clone(), source };
        let (ledger, index) = index::load(&folder).map_err(failed)?;
        let ledger = Arc::new(Mutex::new(ledger));
        let keeper = Keeper::start(folder.clone(), ledger.clone(), index).map_err(failed)?;
        Ok(Self(Arc::new(Inner {
            max_size,
            folder,
            ledger,
            loose: Arc::default(),
            counters: Arc::default(),
            keeper,
            closed: AtomicBool::new(false),
            running: TaskTracker::new(),
            cut: CancellationToken::new(),
        })))
    }

    /// Looks for the blob, once, under one lock: of all who claim an absent blob exactly one gets the
    /// [`Slot`]. `size` is the length its descriptor states; when it is not the length of the verified
    /// blob the descriptor is wrong, and the answer a [`Coming`] that fails with [`Fault::Invalid`].
    pub fn claim(&self, digest: &Digest, size: u64) -> Claim {
        let counters = self.counters();
        let mut ledger = self.ledger();
        if let Some(fill) = ledger.fills.get(&(*digest, size)) {
            return Claim::Coming(Coming::new(fill.clone(), counters.clone()));
        }
        let refused = |fault| Claim::Coming(Coming::refused(*digest, size, fault, counters.clone()));
        if self.0.closed.load(Ordering::Relaxed) {
            return refused(closing());
        }
        let suspect = match self.find(&mut ledger, digest) {
            Ok(Found::Absent) => None,
            Ok(Found::Sound(stored)) if stored.size() == size => {
                return Claim::Here(Blob::stored(*digest, stored, None, counters.clone()));
            }
            Ok(Found::Sound(stored)) => return refused(wrong_size(size, stored.size())),
            Ok(Found::Suspect(stored)) => Some(stored),
            Err(error) => return refused(on_disk("opening", &error)),
        };
        let (slot, fill) = Slot::new(self.clone(), *digest, size, suspect);
        ledger.fills.insert((*digest, size), fill);
        // The slot locks the ledger when it is dropped.
        drop(ledger);
        Claim::Vacant(slot)
    }

    /// Whether the blob is kept, without opening it: a claim may still find that its file was changed.
    pub fn has(&self, digest: &Digest) -> bool {
        let ledger = self.ledger();
        ledger.entry(digest).is_some() || fs::symlink_metadata(self.0.folder.blob(digest)).is_ok()
    }

    /// The length in bytes of the blob as it was verified; none when it is not kept, or has to be
    /// verified anew.
    pub fn size(&self, digest: &Digest) -> Option<u64> {
        self.ledger().entry(digest).filter(|entry| entry.stamp.is_some()).map(|entry| entry.size)
    }

    /// Deletes the blob; true if there was one. Who reads it may finish. A fill under way goes on.
    ///
    /// # Errors
    ///
    /// [`Fault::Storage`] when the file cannot be deleted.
    pub fn remove(&self, digest: &Digest) -> Result<bool, Fault> {
        let mut ledger = self.ledger();
        if self.0.closed.load(Ordering::Relaxed) {
            return Err(closing());
        }
        let (removed, open) = self.unlink(&mut ledger, digest)?;
        drop(ledger);
        drop(open);
        Ok(removed)
    }

    /// Ends the store, whoever still holds a clone of it: nothing more is claimed, fills under way may
    /// finish until the deadline and are cut off then. On return nothing of it writes any more, no
    /// unfinished blob is left, and the folder can be opened again. Who reads a blob may finish.
    pub async fn close(&self, deadline: Instant) {
        let Inner { closed, running, cut, .. } = &*self.0;
        {
            let _ledger = self.ledger();
            closed.store(true, Ordering::Relaxed);
        }
        running.close();
        if tokio::time::timeout_at(deadline, running.wait()).await.is_err() {
            tracing::warn!(fills = running.len(), "blobs that are still arriving are given up");
            cut.cancel();
            running.wait().await;
        }
        let store = self.clone();
        let ended = tokio::task::spawn_blocking(move || {
            store.0.keeper.end();
            store.0.folder.release();
        });
        // It does not panic, and is never aborted.
        let _ = ended.await;
    }

    /// The figures now.
    pub fn stats(&self) -> Stats {
        let (blobs, entered) = {
            let ledger = self.ledger();
            (ledger.len() as u64, ledger.bytes())
        };
        let Inner { counters, keeper, loose, .. } = &*self.0;
        Stats {
            blobs,
            bytes: entered.saturating_add(loose.load(Ordering::SeqCst)),
            counted: keeper.has_walked(),
            evictions: counters.evictions.load(Ordering::Relaxed),
            filled_bytes: counters.filled_bytes.load(Ordering::Relaxed),
            fills: counters.fills.load(Ordering::Relaxed),
            passes: counters.passes.load(Ordering::Relaxed),
            readers: counters.readers.load(Ordering::Relaxed) as u64,
            rehashes: counters.rehashes.load(Ordering::Relaxed),
            verification_failures: counters.verification_failures.load(Ordering::Relaxed),
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        index::lock(&self.0.ledger)
    }

    fn counters(&self) -> &Arc<Counters> {
        &self.0.counters
    }

    /// Opens a blob's file and compares it with what was verified.
    fn find(&self, ledger: &mut Ledger, digest: &Digest) -> io::Result<Found> {
        let stamp = ledger.entry(digest).and_then(|entry| entry.stamp);
        let shared = ledger.entry(digest).and_then(|entry| entry.open.upgrade());
        if let Some(stored) = shared
            && let Some(stamp) = stamp
            && stored.stamp()? == stamp
        {
            ledger.touch(digest, Arc::downgrade(&stored));
            return Ok(Found::Sound(stored));
        }
        let file = match self.0.folder.open_blob(digest) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if ledger.remove(digest).is_some() {
                    self.0.keeper.note(Note::Gone(*digest));
                }
                return Ok(Found::Absent);
            }
            Err(error) => return Err(error),
        };
        let size = file.metadata()?.len();
        let stored = Arc::new(Stored::new(file, size, Weight::entered(&self.0.loose, size)));
        if stamp.is_some() && stamp == Some(stored.stamp()?) {
            ledger.touch(digest, Arc::downgrade(&stored));
            return Ok(Found::Sound(stored));
        }
        // Entered anew, with the size it has now; without a stamp nobody gets it unread.
        ledger.insert(*digest, size, None, Arc::downgrade(&stored));
        Ok(Found::Suspect(stored))
    }

    /// Reads a suspect file again: true when it is the blob after all. Otherwise it is deleted.
    fn recheck(&self, digest: &Digest, size: u64, suspect: &Arc<Stored>) -> Result<bool, Fault> {
        self.counters().rehashes.fetch_add(1, Ordering::Relaxed);
        let stamp = suspect.rehash(digest).map_err(|e| on_disk("verifying", &e))?;
        let mut ledger = self.ledger();
        let Some(stamp) = stamp else {
            tracing::warn!(%digest, "a kept blob was changed on disk; it is thrown away and fetched anew");
            let (_, open) = self.unlink(&mut ledger, digest)?;
            drop(ledger);
            drop(open);
            return Ok(false);
        };
        if suspect.is_linked().is_ok_and(|linked| linked) {
            ledger.insert(*digest, suspect.size(), Some(stamp), Arc::downgrade(suspect));
            self.0.keeper.note(Note::Kept { digest: *digest, stamp, used: ledger.tick() - 1 });
        }
        if suspect.size() == size { Ok(true) } else { Err(wrong_size(size, suspect.size())) }
    }

    /// Deletes a file and its entry. The open file, if any, counts by itself from now on; drop it after the lock.
    fn unlink(&self, ledger: &mut Ledger, digest: &Digest) -> Result<(bool, Option<Arc<Stored>>), Fault> {
        let removed = match fs::remove_file(self.0.folder.blob(digest)) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(on_disk("deleting", &error)),
        };
        let Some(entry) = ledger.remove(digest) else { return Ok((removed, None)) };
        self.0.keeper.note(Note::Gone(*digest));
        let open = entry.open.upgrade();
        if let Some(open) = &open {
            open.weight().pick_up();
        }
        Ok((removed, open))
    }

    /// Reserves space for a blob and makes the file it will arrive in; none when there is no space.
    fn room(&self, size: u64) -> Result<Option<(Temporary, Arc<Stored>)>, Fault> {
        let Some(weight) = self.reserve(size) else { return Ok(None) };
        let (temporary, file) = match self.0.folder.temporary() {
            Ok(made) => made,
            Err(error) if is_full(&error) => return Ok(None),
            Err(error) => return Err(on_disk("making room", &error)),
        };
        let stored = Stored::new(file, size, weight);
        loop {
            match stored.preallocate() {
                Ok(()) => return Ok(Some((temporary, Arc::new(stored)))),
                // The disk is smaller than `max_size`, or others fill it: give back what we can.
                Err(error) if is_full(&error) => {
                    let evicted = self.evict(&mut self.ledger(), size.max(1));
                    if !evicted.enough {
                        return Ok(None);
                    }
                }
                Err(error) => return Err(on_disk("making room", &error)),
            }
        }
    }

    fn reserve(&self, size: u64) -> Option<Weight> {
        let Inner { max_size, loose, .. } = &*self.0;
        if size > *max_size / SHARE || *max_size == 0 {
            return None;
        }
        let mut ledger = self.ledger();
        let total = ledger.bytes().saturating_add(loose.load(Ordering::SeqCst)).saturating_add(size);
        let mut evicted = Evicted { enough: true, blobs: Vec::new() };
        if total > *max_size {
            evicted = self.evict(&mut ledger, total - max_size);
        }
        let weight = evicted.enough.then(|| Weight::carried(loose, size));
        drop(ledger);
        drop(evicted);
        weight
    }

    /// Frees space, if enough can be freed. The disk does its part when the result is dropped: after the lock.
    fn evict(&self, ledger: &mut Ledger, wanted: u64) -> Evicted {
        let evicted = ledger.evict(wanted, &self.0.folder);
        for (digest, _) in &evicted.blobs {
            self.counters().evictions.fetch_add(1, Ordering::Relaxed);
            self.0.keeper.note(Note::Gone(*digest));
        }
        evicted
    }

    /// Publishes a verified, synced file and enters it.
    fn keep(&self, temporary: Temporary, digest: &Digest, stored: &Arc<Stored>) -> io::Result<()> {
        self.0.folder.publish(temporary, digest)?;
        let mut ledger = self.ledger();
        // It may have been removed the moment it had its name.
        if !stored.is_linked()? {
            return Ok(());
        }
        // Taken after the rename, which changes it.
        let stamp = stored.stamp()?;
        ledger.insert(*digest, stored.size(), Some(stamp), Arc::downgrade(stored));
        self.0.keeper.note(Note::Kept { digest: *digest, stamp, used: ledger.tick() - 1 });
        stored.weight().hand_over();
        Ok(())
    }

    fn leave(&self, fill: &Arc<Fill>) {
        let key = (fill.digest, fill.size);
        let mut ledger = self.ledger();
        let left = match ledger.fills.get(&key) {
            Some(current) if Arc::ptr_eq(current, fill) => ledger.fills.remove(&key),
            _ => None,
        };
        drop(ledger);
        drop(left);
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn closing() -> Fault {
    Fault::Storage("the gateway is stopping; ask again".into())
}

fn on_disk(doing: &str, error: &io::Error) -> Fault {
    Fault::Storage(format!("{doing} a blob: {error}").into())
}

fn wrong_size(stated: u64, actual: u64) -> Fault {
    Fault::Invalid(
        format!("the descriptor says {stated} bytes, the content of this digest has {actual}").into(),
    )
}
