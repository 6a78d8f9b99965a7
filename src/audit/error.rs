//! What can go wrong with the record.

use std::path::PathBuf;
use std::sync::Arc;

/// Why the record could not be opened, written or read. Cheap to clone: everyone who waits for one
/// commit gets the same answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// A search was given up, as its filter leaves too much to be looked at.
    #[error(
        "the search was ended after about {looked} events without filling a page: narrow it by time, \
         registry, repository, tag, client or reason"
    )]
    Broad {
        /// About so many events were looked at.
        looked: u64,
    },
    /// [`super::Log::close`] was called, or the writer is gone.
    #[error("the audit log is closed: the gateway is shutting down")]
    Closed,
    /// Neither the database nor the counters that stand in for it can take another event.
    #[error(
        "the audit log is full ({used} of {max} bytes): raise [audit] max_size or free space on its disk"
    )]
    Full {
        /// Bytes the database uses.
        used: u64,
        /// `[audit] max_size`.
        max: u64,
    },
    /// The key that signs the log cannot be used.
    #[error("cannot use the audit log's key {}: {detail}", path.display())]
    Key {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        detail: Arc<str>,
    },
    /// There is no log to read.
    #[error("there is no audit log at {}: has `pullgate serve` run with this configuration?", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A checkpoint that was given proves nothing.
    #[error("the checkpoint that was given cannot be used: {0}")]
    Note(super::note::NoteError),
    /// The database cannot be opened or brought up to date.
    #[error("cannot open the audit log {}: {detail}; check that the folder exists and that this user may write to it", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        detail: Arc<str>,
    },
    /// A row could not be read.
    #[error("cannot read the audit log {}: {detail}", path.display())]
    Read {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        detail: Arc<str>,
    },
    /// The settings cannot work.
    #[error("[audit] max_size is {0} bytes; at least 1 MiB is needed")]
    TooSmall(u64),
    /// A commit failed; the next one is tried anew.
    #[error("cannot write the audit log {}: {detail}", path.display())]
    Write {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        detail: Arc<str>,
    },
}
