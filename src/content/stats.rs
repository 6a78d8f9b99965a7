//! What the store counts.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use crate::oci::{Digest, Fault};

/// Figures of a store at one moment. Totals count since it was opened.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Stats {
    /// Blobs kept.
    pub blobs: u64,
    /// Bytes that count against `max_size`: kept, reserved by running fills, or removed but still read.
    pub bytes: u64,
    /// Whether files that the index did not know are counted by now: a walk in the background after opening.
    pub counted: bool,
    /// Total of blobs deleted to make space.
    pub evictions: u64,
    /// Total of bytes that arrived from sources and were written, whatever became of them.
    pub filled_bytes: u64,
    /// Fills under way.
    pub fills: u64,
    /// Total of readers served past the store because there was no space.
    pub passes: u64,
    /// Reply bodies that exist now.
    pub readers: u64,
    /// Total of files read again because they were not as they had been verified.
    pub rehashes: u64,
    /// Total of fills and passes that brought other bytes or another length than asked for.
    pub verification_failures: u64,
}

#[derive(Debug)]
pub(super) struct Counters {
    pub(super) evictions: AtomicU64,
    pub(super) filled_bytes: AtomicU64,
    pub(super) fills: AtomicU64,
    pub(super) passes: AtomicU64,
    pub(super) readers: AtomicUsize,
    pub(super) rehashes: AtomicU64,
    pub(super) verification_failures: AtomicU64,
    /// The file system cannot tell what is in the page cache.
    pub(super) uncachable: AtomicBool,
    /// The fault that tests inject: no byte of a blob can be written at or beyond this offset.
    #[cfg(test)]
    pub(super) disk_ends_at: AtomicU64,
    /// How long tests wait for a source that brings too little.
    #[cfg(test)]
    pub(super) window: std::sync::OnceLock<std::time::Duration>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            evictions: AtomicU64::new(0),
            filled_bytes: AtomicU64::new(0),
            fills: AtomicU64::new(0),
            passes: AtomicU64::new(0),
            readers: AtomicUsize::new(0),
            rehashes: AtomicU64::new(0),
            verification_failures: AtomicU64::new(0),
            uncachable: AtomicBool::new(false),
            #[cfg(test)]
            disk_ends_at: AtomicU64::new(u64::MAX),
            #[cfg(test)]
            window: std::sync::OnceLock::new(),
        }
    }
}

impl Counters {
    pub(super) fn pass(&self) {
        self.passes.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts and logs a fault if it is one of content.
    pub(super) fn fault(&self, digest: &Digest, fault: &Fault) {
        if let Fault::Invalid(detail) = fault {
            self.verification_failures.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%digest, %detail, "a blob did not verify and was thrown away");
        }
    }
}
