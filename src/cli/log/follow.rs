//! `pullgate log --follow`: what comes, read from disk.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Arguments, print};
use crate::audit::{self, Filter, Order, Reader};
use crate::cli::Failure;

/// How often the files are looked at: a `stat` each, and a query only when they changed.
const LOOK: Duration = Duration::from_millis(250);

/// A record that is being followed. Between looks nothing of it is open: its gateway may close it,
/// start again, or begin a new one.
#[derive(Debug)]
pub(super) struct Following {
    folder: PathBuf,
    after: i64,
    files: Files,
}

/// What tells that a file changed: device, inode, size, and when it was written.
type Seen = Option<(u64, u64, i64, i64, i64)>;
type Files = [Seen; 2];

fn look(folder: &Path) -> Files {
    let seen = |name: &str| {
        let stat = rustix::fs::stat(folder.join(name)).ok()?;
        let nanos = i64::try_from(stat.st_mtime_nsec).unwrap_or(0);
        Some((stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, nanos))
    };
    [seen(audit::FILE), seen(&format!("{}-wal", audit::FILE))]
}

impl Following {
    /// Remembers where the record ends now.
    pub(super) async fn begin(folder: &Path) -> Result<Self, Failure> {
        let files = look(folder);
        let reader = Reader::open(folder).await?;
        let after = reader.last().await?;
        reader.close().await;
        Ok(Self { folder: folder.to_owned(), after, files })
    }

    /// The place up to which entries are shown before those that come.
    pub(super) fn after(&self) -> i64 {
        self.after
    }

    /// Prints what comes until the reader goes away or Ctrl-C.
    pub(super) async fn go_on(
        mut self,
        args: &Arguments,
        filter: Filter,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let interrupted = tokio::signal::ctrl_c();
        tokio::pin!(interrupted);
        loop {
            tokio::select! {
                _ = &mut interrupted => return Ok(()),
                () = tokio::time::sleep(LOOK) => {}
            }
            let files = look(&self.folder);
            if files == self.files {
                continue;
            }
            // Where it cannot be read just now (a gateway is opening it), the next look tells.
            if self.catch_up(args, &filter, out).await? {
                self.files = files;
            }
        }
    }

    /// Prints what is new; whether the record could be read.
    async fn catch_up(
        &mut self,
        args: &Arguments,
        filter: &Filter,
        out: &mut dyn Write,
    ) -> Result<bool, Failure> {
        let Ok(reader) = Reader::open(&self.folder).await else { return Ok(false) };
        let caught = self.read_on(&reader, args, filter, out).await;
        reader.close().await;
        caught
    }

    async fn read_on(
        &mut self,
        reader: &Reader,
        args: &Arguments,
        filter: &Filter,
        out: &mut dyn Write,
    ) -> Result<bool, Failure> {
        let Ok(last) = reader.last().await else { return Ok(false) };
        if last < self.after {
            // Another record than before.
            self.after = 0;
        }
        let filter =
            Filter { after: Some(self.after), limit: None, order: Order::OldestFirst, ..filter.clone() };
        let mut entries = reader.entries(filter);
        loop {
            match entries.next().await {
                Ok(Some(entry)) => {
                    self.after = self.after.max(entry.seq);
                    print(args, &entry, out)?;
                }
                Ok(None) => break,
                Err(_) => return Ok(false),
            }
        }
        out.flush()?;
        self.after = self.after.max(last);
        Ok(true)
    }
}
