//! A file of lines, one event each, that is set aside when it is full.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::courier::{Batch, Failure};

/// Where the lines go. Whoever moves or deletes the file (logrotate) finds the next lines in a new
/// one, without any signal.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Mutex<Writer>>);

impl Lines {
    pub(super) fn new(path: PathBuf, max_size: u64, keep: u32) -> Self {
        Self(Arc::new(Mutex::new(Writer { path, max_size, keep, open: None })))
    }

    /// On disk when it returns, every line whole.
    pub(super) async fn deliver(&self, batch: &Batch) -> Result<(), Failure> {
        let mut text = String::new();
        for line in batch.lines() {
            text.push_str(line);
            text.push('\n');
        }
        let writer = self.0.clone();
        let written = tokio::task::spawn_blocking(move || {
            let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
            let result = writer.append(text.as_bytes());
            if result.is_err() {
                // The next attempt looks at the file anew.
                writer.open = None;
            }
            result.map_err(|error| format!("{} cannot be written: {error}", writer.path.display()))
        });
        match written.await {
            Ok(result) => result.map_err(Failure::network),
            Err(error) => Err(Failure::network(error.to_string())),
        }
    }
}

#[derive(Debug)]
struct Writer {
    path: PathBuf,
    max_size: u64,
    keep: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    /// Where its last whole line ends.
    length: u64,
    /// Device and inode: whether the path still leads to it.
    place: (u64, u64),
}

impl Writer {
    fn append(&mut self, text: &[u8]) -> io::Result<()> {
        let there = fs::metadata(&self.path).ok();
        let same = |open: &Open| {
            there.as_ref().is_some_and(|there| {
                // Somebody who emptied it (copytruncate) left it shorter.
                (there.dev(), there.ino()) == open.place && (there.len() == open.length || !there.is_file())
            })
        };
        let mut open = match self.open.take().filter(same) {
            Some(open) => open,
            None => open_at(&self.path)?,
        };
        if open.length > 0 && open.length.saturating_add(text.len() as u64) > self.max_size {
            drop(open);
            self.rotate()?;
            open = open_at(&self.path)?;
        }
        if let Err(error) = open.file.write_all(text).and_then(|()| open.file.sync_data()) {
            // Half a batch must not stay; where even this fails, opening it again cuts half a line.
            let _ = open.file.set_len(open.length);
            return Err(error);
        }
        open.length = open.length.saturating_add(text.len() as u64);
        self.open = Some(open);
        Ok(())
    }

    /// `PATH` becomes `PATH.1`, `PATH.1` becomes `PATH.2`; the oldest goes.
    fn rotate(&self) -> io::Result<()> {
        for number in (1..self.keep).rev() {
            match fs::rename(self.numbered(number), self.numbered(number.saturating_add(1))) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))?;
        sync_folder(&self.path)
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(self.path.as_os_str());
        name.push(format!(".{number}"));
        name.into()
    }
}

fn open_at(path: &Path) -> io::Result<Open> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
    let metadata = file.metadata()?;
    let mut length = metadata.len();
    if metadata.is_file() {
        let whole = whole_lines(&mut file, length)?;
        if whole < length {
            // A crash in the middle of a write. Its cursor did not move, so the line comes again.
            file.set_len(whole)?;
            length = whole;
        }
        if length == 0 {
            sync_folder(path)?;
        }
    }
    Ok(Open { file, length, place: (metadata.dev(), metadata.ino()) })
}

/// Where the last line break is, seen from the end.
fn whole_lines(file: &mut File, length: u64) -> io::Result<u64> {
    const PIECE: u64 = 64 << 10;
    let mut end = length;
    let mut piece = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(PIECE);
        piece.clear();
        file.seek(SeekFrom::Start(start))?;
        file.take(end - start).read_to_end(&mut piece)?;
        if let Some(place) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + place as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if folder.as_os_str().is_empty() => File::open(".")?.sync_all(),
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
