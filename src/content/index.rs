//! The index: what was verified and when it was last used, kept across restarts so that opening a
//! store needs no scan.
//!
//! It is a hint and never the truth. A line that is lost costs one re-hash, a line too many one failed
//! `open`; bytes are believed only when the file still bears the stamp of its verification. So the
//! index is appended to without syncing, by a thread of its own, away from every request.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::folder::{ALGORITHMS, Folder, Stamp};
use super::ledger::{Entry, Ledger};
use crate::oci::{Algorithm, Digest};

/// How long a new last use may stay in memory only.
const FLUSH: Duration = Duration::from_secs(30);
/// Figures beyond these come from a damaged index.
const SIZE_LIMIT: u64 = 1 << 48;
const TICK_LIMIT: i64 = 1 << 60;

/// Something for the index to remember.
#[derive(Debug)]
pub(super) enum Note {
    Gone(Digest),
    Kept { digest: Digest, stamp: Stamp, used: i64 },
}

impl Note {
    fn write(&self, text: &mut String) {
        // Writing to a String cannot fail.
        let _ = match self {
            Self::Gone(digest) => writeln!(text, "- {digest}"),
            Self::Kept { digest, stamp, used } => {
                let Stamp { size, inode, changed: (seconds, nanos) } = stamp;
                writeln!(text, "+ {digest} {size} {inode} {seconds} {nanos} {used}")
            }
        };
    }
}

/// Fills the ledger from the index and rewrites the index compactly. No file of the store is touched.
pub(super) fn load(folder: &Folder) -> io::Result<(Ledger, Index)> {
    let mut ledger = Ledger::default();
    let text = match fs::read(folder.index()) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    for line in text.split(|byte| *byte == b'\n') {
        // A torn or damaged line is passed over: its blob will be verified anew.
        let _ = std::str::from_utf8(line).ok().and_then(|line| apply(&mut ledger, line));
    }
    let index = Snapshot::of(&ledger).write(folder)?;
    Ok((ledger, index))
}

fn apply(ledger: &mut Ledger, line: &str) -> Option<()> {
    let mut words = line.split(' ');
    let kind = words.next()?;
    let digest: Digest = words.next()?.parse().ok()?;
    let place = |word: Option<&str>| {
        word?.parse::<i64>().ok().filter(|used| (-TICK_LIMIT..TICK_LIMIT).contains(used))
    };
    match kind {
        "+" => {
            let size = words.next()?.parse().ok().filter(|size| *size < SIZE_LIMIT)?;
            let inode = words.next()?.parse().ok()?;
            let changed = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            let used = place(words.next())?;
            if words.next().is_some() {
                return None;
            }
            let stamp = Some(Stamp { size, inode, changed });
            ledger.insert_at(digest, Entry { size, stamp, used, open: Weak::new() });
        }
        "-" => {
            ledger.remove(&digest);
        }
        "u" => {
            let used = place(words.next())?;
            let mut entry = ledger.remove(&digest)?;
            entry.used = used;
            ledger.insert_at(digest, entry);
        }
        _ => {}
    }
    Some(())
}

/// The index file, open for appending.
#[derive(Debug)]
pub(super) struct Index {
    file: File,
    /// Lines in the file; many more than entries means that it is time to rewrite it.
    lines: usize,
    /// Uses from this place on are not on disk yet.
    flushed: i64,
}

/// The whole index as it should be, taken under the lock and written outside it.
struct Snapshot {
    text: String,
    lines: usize,
    tick: i64,
}

impl Snapshot {
    fn of(ledger: &Ledger) -> Self {
        let mut snapshot = Self { text: String::new(), lines: 0, tick: ledger.tick() };
        for (digest, entry) in ledger.entries() {
            if let Some(stamp) = entry.stamp {
                Note::Kept { digest: *digest, stamp, used: entry.used }.write(&mut snapshot.text);
                snapshot.lines += 1;
            }
        }
        snapshot
    }

    fn write(self, folder: &Folder) -> io::Result<Index> {
        let path = folder.index();
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(self.text.as_bytes())?;
        file.sync_data()?;
        fs::rename(&fresh, &path)?;
        Ok(Index { file, lines: self.lines, flushed: self.tick })
    }
}

impl Index {
    fn append(&mut self, notes: &[Note]) -> io::Result<()> {
        let mut text = String::new();
        for note in notes {
            note.write(&mut text);
        }
        self.lines += notes.len();
        self.file.write_all(text.as_bytes())
    }

    fn flush_uses(&mut self, ledger: &Mutex<Ledger>) -> io::Result<()> {
        let mut text = String::new();
        {
            let ledger = lock(ledger);
            for (used, digest) in ledger.used_since(self.flushed) {
                if ledger.entry(&digest).is_some_and(|entry| entry.stamp.is_some()) {
                    let _ = writeln!(text, "u {digest} {used}");
                    self.lines += 1;
                }
            }
            self.flushed = ledger.tick();
        }
        self.file.write_all(text.as_bytes())
    }
}

/// Locks the ledger. A panic elsewhere while it was held cannot leave it worse than a stale hint.
pub(super) fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that writes the index and, once after opening, looks for files the index lacks.
#[derive(Debug)]
pub(super) struct Keeper {
    walked: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    /// None once ended.
    work: Mutex<Option<Work>>,
}

#[derive(Debug)]
struct Work {
    notes: mpsc::Sender<Note>,
    thread: JoinHandle<()>,
}

impl Keeper {
    pub(super) fn start(folder: Arc<Folder>, ledger: Arc<Mutex<Ledger>>, index: Index) -> io::Result<Self> {
        let (notes, inbox) = mpsc::channel();
        let walked = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let work = {
            let (walked, stop) = (walked.clone(), stop.clone());
            move || {
                walk(&folder, &ledger, &stop);
                walked.store(true, Ordering::Release);
                keep(&folder, &ledger, index, &inbox);
            }
        };
        let thread = thread::Builder::new().name("content-index".to_owned()).spawn(work)?;
        Ok(Self { walked, stop, work: Mutex::new(Some(Work { notes, thread })) })
    }

    /// Remembers; never waits. Call it under the ledger's lock, so that notes keep the ledger's order.
    pub(super) fn note(&self, note: Note) {
        if let Some(work) = &*self.work() {
            // The thread is gone only when the store is.
            let _ = work.notes.send(note);
        }
    }

    /// Writes what is still to be remembered, and ends the thread; waits for the disk.
    pub(super) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let Some(Work { notes, thread }) = self.work().take() else { return };
        drop(notes);
        if thread.join().is_err() {
            tracing::error!("the index thread of the blob store panicked; blobs will be verified anew");
        }
    }

    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether files that the index lacked are counted by now.
    pub(super) fn has_walked(&self) -> bool {
        self.walked.load(Ordering::Acquire)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

fn keep(folder: &Folder, ledger: &Mutex<Ledger>, mut index: Index, inbox: &mpsc::Receiver<Note>) {
    loop {
        let (notes, done) = match inbox.recv_timeout(FLUSH) {
            Ok(note) => (std::iter::once(note).chain(inbox.try_iter()).collect(), false),
            Err(RecvTimeoutError::Timeout) => (Vec::new(), false),
            Err(RecvTimeoutError::Disconnected) => (Vec::new(), true),
        };
        let written = if notes.is_empty() { index.flush_uses(ledger) } else { index.append(&notes) };
        if let Err(error) = written {
            tracing::warn!(%error, "the blob index could not be written; blobs will be verified anew after a restart");
        }
        if index.lines > 4 * lock(ledger).len() + 4096 {
            // Notes that wait in the inbox are in the ledger already; appended after it they change nothing.
            let snapshot = Snapshot::of(&lock(ledger));
            match snapshot.write(folder) {
                Ok(fresh) => index = fresh,
                Err(error) => tracing::warn!(%error, "the blob index could not be rewritten"),
            }
        }
        if done {
            return;
        }
    }
}

/// Brings ledger and folder together: counts files that the index lacks, forgets entries without a file.
fn walk(folder: &Folder, ledger: &Mutex<Ledger>, stop: &AtomicBool) {
    let mut missing: HashSet<Digest> = lock(ledger).entries().map(|(digest, _)| *digest).collect();
    for algorithm in ALGORITHMS {
        if let Err(error) = walk_tree(folder, algorithm, ledger, stop, &mut missing) {
            tracing::warn!(%error, "the blob folder could not be read whole; its size is underestimated");
        }
    }
    for digest in missing {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let mut ledger = lock(ledger);
        let gone = fs::symlink_metadata(folder.blob(&digest))
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        if gone && ledger.entry(&digest).is_some_and(|entry| entry.open.strong_count() == 0) {
            ledger.remove(&digest);
        }
    }
}

fn walk_tree(
    folder: &Folder,
    algorithm: Algorithm,
    ledger: &Mutex<Ledger>,
    stop: &AtomicBool,
    missing: &mut HashSet<Digest>,
) -> io::Result<()> {
    for shard in fs::read_dir(folder.tree(algorithm))? {
        let shard = shard?;
        if !shard.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(shard.path())? {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            let path = file?.path();
            let Some(digest) = named(algorithm, &path).filter(|digest| folder.blob(digest) == path) else {
                continue;
            };
            if missing.remove(&digest) {
                continue;
            }
            // Looked at again under the lock: it may have been evicted since the folder was read.
            let mut ledger = lock(ledger);
            if ledger.entry(&digest).is_none()
                && let Ok(meta) = fs::symlink_metadata(&path)
                && meta.is_file()
            {
                ledger.adopt(digest, meta.len());
            }
        }
    }
    Ok(())
}

fn named(algorithm: Algorithm, path: &Path) -> Option<Digest> {
    format!("{}:{}", algorithm.as_str(), path.file_name()?.to_str()?).parse().ok()
}
