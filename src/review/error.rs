//! What can go wrong with the projection.

use std::path::PathBuf;
use std::sync::Arc;

/// Why the projection could not be opened, written or read. Pulls and the record never depend on it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The gateway is shutting down.
    #[error("the review pages are closed: the gateway is shutting down")]
    Closed,
    /// A cursor that no page handed out.
    #[error("{0:?} is no place in this list; begin at its first page")]
    Cursor(String),
    /// A statement failed.
    #[error("the review database {} failed: {detail}; check its disk, or delete it: it is made anew from the audit log at the next start", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What the system said.
        detail: Arc<str>,
    },
    /// The record it is made from cannot be read.
    #[error(transparent)]
    Record(#[from] crate::audit::Error),
}
