//! Files that changed: looked at every half second, read once they hold still.
//!
//! By `stat`, not by kernel events: those do not cross network file systems, and a Kubernetes config
//! map swaps a symbolic link that an event on the file would miss.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

/// How often files are looked at.
pub const INTERVAL: Duration = Duration::from_millis(500);

/// The largest file that is read; one that is larger is reported as an error.
const FILE_MAX: u64 = 64 << 20;

/// Some of the watched files changed, or somebody asked for all of them to be read again.
#[derive(Debug)]
pub struct Change {
    /// Every watched file, in the order given, changed or not: a certificate and its key belong together.
    pub files: Vec<File>,
    /// Whether this was asked for by [`Force::now`] rather than noticed.
    pub forced: bool,
}

/// A watched file, as it was when it held still.
#[derive(Debug)]
pub struct File {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds, or why that cannot be told.
    pub content: io::Result<Vec<u8>>,
}

/// Asks a watch to read its files again, changed or not: what SIGHUP does. Clones ask the same watch.
#[derive(Clone, Debug)]
pub struct Force(Arc<Notify>);

impl Force {
    /// Asks. The change arrives once the files hold still.
    pub fn now(&self) {
        self.0.notify_one();
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Stamp {
    Absent,
    Error(io::ErrorKind),
    Present { device: u64, inode: u64, size: u64, modified: (i64, i64), changed: (i64, i64) },
}

impl Stamp {
    fn of(path: &Path) -> Self {
        match std::fs::metadata(path) {
            Ok(data) => Self::Present {
                device: data.dev(),
                inode: data.ino(),
                size: data.size(),
                modified: (data.mtime(), data.mtime_nsec()),
                changed: (data.ctime(), data.ctime_nsec()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Absent,
            Err(error) => Self::Error(error.kind()),
        }
    }
}

/// Watches these files together, from their present state on: begin to watch before the first load,
/// or a change in between is lost.
///
/// A change is sent once two looks in a row found the same stamps and the bytes differ from those
/// last sent (or, at first, from those there now). The watch ends when the receiver is dropped. Must
/// be called within a tokio runtime.
pub fn watch(paths: Vec<PathBuf>, interval: Duration) -> (mpsc::Receiver<Change>, Force) {
    let (sender, receiver) = mpsc::channel(1);
    let notify = Arc::new(Notify::new());
    let force = Force(notify.clone());
    let mut state = State::new(paths);
    tokio::spawn(async move {
        loop {
            let forced = tokio::select! {
                () = sender.closed() => return,
                () = notify.notified() => true,
                () = tokio::time::sleep(interval) => false,
            };
            // A file system that hangs must hang here and nowhere else.
            let looked = tokio::task::spawn_blocking(move || {
                let change = state.look(forced);
                (state, change)
            });
            let Ok((next, change)) = looked.await else { return };
            state = next;
            if let Some(change) = change
                && sender.send(change).await.is_err()
            {
                return;
            }
        }
    });
    (receiver, force)
}

struct State {
    paths: Vec<PathBuf>,
    /// The stamps whose content was sent last.
    sent: Vec<Stamp>,
    /// The stamps of the last look.
    seen: Vec<Stamp>,
    /// What was sent last, by its hash; `None` where it could not be read.
    hashes: Vec<Option<crate::oci::Digest>>,
    forced: bool,
}

impl State {
    fn new(paths: Vec<PathBuf>) -> Self {
        let sent: Vec<_> = paths.iter().map(|path| Stamp::of(path)).collect();
        let hashes = paths.iter().map(|path| hash(&read(path))).collect();
        Self { seen: sent.clone(), sent, hashes, paths, forced: false }
    }

    /// One look; a change where there is one to tell.
    fn look(&mut self, forced: bool) -> Option<Change> {
        self.forced |= forced;
        let stamps: Vec<_> = self.paths.iter().map(|path| Stamp::of(path)).collect();
        let still = stamps == self.seen;
        self.seen.clone_from(&stamps);
        // Forced, there may be no second look to wait for: stamps around the reading must agree instead.
        if !self.forced && (!still || stamps == self.sent) {
            return None;
        }
        let files: Vec<File> =
            self.paths.iter().map(|path| File { path: path.clone(), content: read(path) }).collect();
        let after: Vec<_> = self.paths.iter().map(|path| Stamp::of(path)).collect();
        if after != stamps {
            self.seen = after;
            return None;
        }
        let hashes: Vec<_> = files.iter().map(|file| hash(&file.content)).collect();
        let differs = hashes != self.hashes;
        self.sent = stamps;
        self.hashes = hashes;
        let forced = std::mem::take(&mut self.forced);
        (differs || forced).then_some(Change { files, forced })
    }
}

fn hash(content: &io::Result<Vec<u8>>) -> Option<crate::oci::Digest> {
    content.as_ref().ok().map(|bytes| crate::oci::Digest::sha256(bytes))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(io::Error::other("the file is larger than 64 MiB"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(change: &Change) -> Vec<Option<&str>> {
        change
            .files
            .iter()
            .map(|file| file.content.as_ref().ok().map(|bytes| std::str::from_utf8(bytes).unwrap()))
            .collect()
    }

    #[test]
    fn a_change_is_told_once_after_the_file_held_still() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, "one").unwrap();
        let mut state = State::new(vec![path.clone()]);
        assert!(state.look(false).is_none(), "nothing changed");
        std::fs::write(&path, "two and").unwrap();
        assert!(state.look(false).is_none(), "perhaps still being written");
        std::fs::write(&path, "two and three").unwrap();
        assert!(state.look(false).is_none(), "it was");
        assert_eq!(contents(&state.look(false).unwrap()), [Some("two and three")]);
        assert!(state.look(false).is_none(), "told once");
    }

    #[test]
    fn the_same_bytes_written_again_are_no_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, "one").unwrap();
        let mut state = State::new(vec![path.clone()]);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "one").unwrap();
        assert!(state.look(false).is_none());
        assert!(state.look(false).is_none());
        assert!(state.look(false).is_none());
    }

    #[test]
    fn a_file_that_vanishes_is_told_with_its_error_and_its_return_with_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("crt"), folder.path().join("key"));
        std::fs::write(&certificate, "c").unwrap();
        std::fs::write(&key, "k").unwrap();
        let mut state = State::new(vec![certificate.clone(), key]);
        std::fs::remove_file(&certificate).unwrap();
        state.look(false);
        assert_eq!(contents(&state.look(false).unwrap()), [None, Some("k")]);
        std::fs::write(&certificate, "c2").unwrap();
        state.look(false);
        assert_eq!(contents(&state.look(false).unwrap()), [Some("c2"), Some("k")]);
    }

    #[test]
    fn a_swapped_symbolic_link_is_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("policy.toml");
        for name in ["a", "b"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("a", &link).unwrap();
        let mut state = State::new(vec![link.clone()]);
        std::os::unix::fs::symlink("b", folder.path().join("next")).unwrap();
        std::fs::rename(folder.path().join("next"), &link).unwrap();
        state.look(false);
        assert_eq!(contents(&state.look(false).unwrap()), [Some("b")]);
    }

    #[tokio::test]
    async fn being_asked_tells_the_files_changed_or_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        std::fs::write(&path, "one").unwrap();
        let (mut changes, force) = watch(vec![path.clone()], Duration::from_secs(3600));
        force.now();
        let change = changes.recv().await.unwrap();
        assert!(change.forced);
        assert_eq!(contents(&change), [Some("one")]);
    }

    #[tokio::test]
    async fn a_running_watch_tells_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("policy.toml");
        let (mut changes, _force) = watch(vec![path.clone()], Duration::from_millis(5));
        std::fs::write(&path, "new").unwrap();
        let change = changes.recv().await.unwrap();
        assert!(!change.forced);
        assert_eq!(contents(&change), [Some("new")]);
    }
}
