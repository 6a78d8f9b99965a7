//! The folder on disk: its lock, its layout, and files that are open in it.

use std::fs::{self, File};
use std::io::{self, IoSliceMut, Read as _};
use std::num::NonZeroU64;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::fs::{Advice, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::Error;
use crate::oci::{Algorithm, Digest, Hasher};

/// Both trees of finished blobs.
pub(super) const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];

/// The store's folder, ours alone until it is released or this value goes.
///
/// ```text
/// lock                     held exclusively by flock(2)
/// index, index.new         what was verified and when it was last used: a hint, never the truth
/// tmp/<number>             blobs that are arriving; emptied when the folder is opened
/// blobs/sha256/ab/<hex>    whole blobs; only a rename puts a file here
/// ```
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    next: AtomicU64,
    lock: File,
}

/// The lock of a store's folder, held without opening the store.
#[derive(Debug)]
pub struct FolderLock {
    _lock: File,
}

impl FolderLock {
    /// Takes the folder, making it if need be. It is free again when this value goes.
    ///
    /// # Errors
    ///
    /// [`Error::Locked`] when a store has the folder, [`Error::Folder`] when it cannot be used.
    pub fn take(path: &Path) -> Result<Self, Error> {
        Ok(Self { _lock: take(path)? })
    }
}

/// The bytes of a blob in the folder of a store that may be open elsewhere, verified; none where it is
/// not kept there, has more than `most` bytes, or is not what its name says.
///
/// # Errors
///
/// What the system said, where the file is there and cannot be read.
pub fn read_kept(path: &Path, digest: &Digest, most: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match open_blob(&blob(path, digest)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if file.metadata()?.len() > most {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(most).read_to_end(&mut bytes)?;
    let mut hasher = Hasher::new(digest.algorithm());
    hasher.update(&bytes);
    Ok((hasher.finish() == *digest).then_some(bytes))
}

/// Where a blob lives once it is whole.
fn blob(path: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    let shard = hex.get(..2).unwrap_or_default();
    path.join("blobs").join(digest.algorithm().as_str()).join(shard).join(&hex)
}

fn open_blob(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a regular file")) }
}

fn take(path: &Path) -> Result<File, Error> {
    let failed = |source| Error::Folder { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let lock = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"))
        .map_err(failed)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(Errno::WOULDBLOCK) => Err(Error::Locked { path: path.to_owned() }),
        Err(errno) => Err(failed(errno.into())),
    }
}

impl Folder {
    /// Takes the folder (making it if need be) and throws away what was arriving when the last owner ended.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Folder { path: path.to_owned(), source };
        let lock = take(path)?;
        let tmp = path.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        fs::create_dir(&tmp).map_err(failed)?;
        for algorithm in ALGORITHMS {
            fs::create_dir_all(path.join("blobs").join(algorithm.as_str())).map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), next: AtomicU64::new(0), lock })
    }

    /// Lets go of the folder before this value goes. Nothing may be written afterwards.
    pub(super) fn release(&self) {
        if let Err(error) = rustix::fs::flock(&self.lock, FlockOperation::Unlock) {
            tracing::warn!(%error, "the lock of the blob folder could not be let go; it goes with the process");
        }
    }

    /// Where the index lives.
    pub(super) fn index(&self) -> PathBuf {
        self.path.join("index")
    }

    /// The folder of all finished blobs of this algorithm.
    pub(super) fn tree(&self, algorithm: Algorithm) -> PathBuf {
        self.path.join("blobs").join(algorithm.as_str())
    }

    /// Where this blob lives once it is whole.
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        blob(&self.path, digest)
    }

    /// Opens a finished blob for reading. A link or anything but a regular file is an error.
    pub(super) fn open_blob(&self, digest: &Digest) -> io::Result<File> {
        open_blob(&self.blob(digest))
    }

    /// A new, empty file for a blob that is about to arrive.
    pub(super) fn temporary(&self) -> io::Result<(Temporary, File)> {
        let path = self.path.join("tmp").join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        let file = fs::OpenOptions::new().create_new(true).read(true).write(true).open(&path)?;
        Ok((Temporary { path: Some(path) }, file))
    }

    /// Puts a verified and synced file in its final place, durably.
    pub(super) fn publish(&self, mut temporary: Temporary, digest: &Digest) -> io::Result<()> {
        let to = self.blob(digest);
        let Some(shard) = to.parent() else { return Err(io::ErrorKind::InvalidInput.into()) };
        match fs::create_dir(shard) {
            Ok(()) => File::open(self.tree(digest.algorithm()))?.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
        let Some(from) = temporary.path.as_deref() else { return Err(io::ErrorKind::NotFound.into()) };
        fs::rename(from, &to)?;
        temporary.path = None;
        File::open(shard)?.sync_all()
    }
}

/// A file in `tmp/` that is deleted unless it is published.
#[derive(Debug)]
pub(super) struct Temporary {
    path: Option<PathBuf>,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if let Some(path) = &self.path
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!(path = %path.display(), %error, "an unfinished blob could not be deleted");
        }
    }
}

/// What a file was when its bytes were verified. Whoever changes or replaces the file afterwards
/// also changes this; only rot beneath the file system does not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    pub(super) size: u64,
    pub(super) inode: u64,
    pub(super) changed: (i64, i64),
}

/// An open file of blob bytes, shared by everyone who reads it.
#[derive(Debug)]
pub(super) struct Stored {
    file: File,
    size: u64,
    weight: Weight,
}

impl Stored {
    pub(super) fn new(file: File, size: u64, weight: Weight) -> Self {
        Self { file, size, weight }
    }

    /// The length it has, or will have once the blob is whole.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn weight(&self) -> &Weight {
        &self.weight
    }

    pub(super) fn stamp(&self) -> io::Result<Stamp> {
        let meta = self.file.metadata()?;
        Ok(Stamp { size: meta.len(), inode: meta.ino(), changed: (meta.ctime(), meta.ctime_nsec()) })
    }

    /// Whether the file still has a name.
    pub(super) fn is_linked(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() > 0)
    }

    /// Claims the disk space for the whole blob now, so that a full disk is met before the first byte.
    /// File systems that cannot do it find out later.
    pub(super) fn preallocate(&self) -> io::Result<()> {
        if self.size == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, self.size) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Reads without waiting for the disk. `WouldBlock`: the page cache lacks it; `Unsupported`: this
    /// file system cannot say.
    pub(super) fn read_cached(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            let mut slices = [IoSliceMut::new(buffer)];
            match rustix::io::preadv2(&self.file, &mut slices, offset, ReadWriteFlags::NOWAIT) {
                Err(Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    return Err(io::ErrorKind::Unsupported.into());
                }
                done => return Ok(done?),
            }
        }
    }

    /// Asks for bytes that will be read soon; a hint, without effect when the file ends before.
    pub(super) fn read_ahead(&self, offset: u64, len: u64) {
        if offset < self.size {
            let _ = rustix::fs::fadvise(&self.file, offset, NonZeroU64::new(len), Advice::WillNeed);
        }
    }

    /// Reads until the buffer is full or the file ends; may wait for the disk.
    pub(super) fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while let Some(rest) = buffer.get_mut(done..)
            && !rest.is_empty()
        {
            match self.file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    /// Whether the file, read again from end to end, is this digest and stood still meanwhile.
    pub(super) fn rehash(&self, digest: &Digest) -> io::Result<Option<Stamp>> {
        let before = self.stamp()?;
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = vec![0; 1 << 20];
        let mut offset = 0;
        loop {
            let read = self.read_at(&mut buffer, offset)?;
            hasher.update(&buffer[..read]);
            offset += read as u64;
            if read < buffer.len() {
                break;
            }
        }
        let sound = hasher.finish() == *digest && offset == self.size && self.stamp()? == before;
        Ok(sound.then_some(before))
    }
}

/// The bytes that an open file takes from the store's budget by itself: while its blob arrives, and
/// again when the blob was removed but somebody still reads it. In between, the ledger's entry counts it.
#[derive(Debug)]
pub(super) struct Weight {
    total: Arc<AtomicU64>,
    own: AtomicBool,
    size: u64,
}

impl Weight {
    /// Counted here from now on.
    pub(super) fn carried(total: &Arc<AtomicU64>, size: u64) -> Self {
        total.fetch_add(size, Ordering::SeqCst);
        Self { total: total.clone(), own: AtomicBool::new(true), size }
    }

    /// Counted by an entry of the ledger.
    pub(super) fn entered(total: &Arc<AtomicU64>, size: u64) -> Self {
        Self { total: total.clone(), own: AtomicBool::new(false), size }
    }

    /// The entry is gone, the open file is not.
    pub(super) fn pick_up(&self) {
        if !self.own.swap(true, Ordering::SeqCst) {
            self.total.fetch_add(self.size, Ordering::SeqCst);
        }
    }

    /// An entry counts it from now on.
    pub(super) fn hand_over(&self) {
        if self.own.swap(false, Ordering::SeqCst) {
            self.total.fetch_sub(self.size, Ordering::SeqCst);
        }
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.hand_over();
    }
}
