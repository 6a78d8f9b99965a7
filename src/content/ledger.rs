//! What the store holds, in memory: entries, their order of use, and the fills under way.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::sync::{Arc, Weak};

use super::coming::Fill;
use super::folder::{Folder, Stamp, Stored};
use crate::oci::Digest;

/// A file under `blobs/`.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) size: u64,
    /// What it was when its bytes were last verified; none: never by us.
    pub(super) stamp: Option<Stamp>,
    /// Its place in the order of use.
    pub(super) used: i64,
    /// The file, while somebody reads it.
    pub(super) open: Weak<Stored>,
}

/// Everything behind the store's one lock.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    entries: HashMap<Digest, Entry>,
    order: BTreeMap<i64, Digest>,
    tick: i64,
    bytes: u64,
    pub(super) fills: HashMap<(Digest, u64), Arc<Fill>>,
}

impl Ledger {
    /// The sum of all entries.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entry(&self, digest: &Digest) -> Option<&Entry> {
        self.entries.get(digest)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&Digest, &Entry)> {
        self.entries.iter()
    }

    /// The next place in the order of use.
    pub(super) fn tick(&self) -> i64 {
        self.tick
    }

    /// Those used at or after this place, oldest first.
    pub(super) fn used_since(&self, tick: i64) -> impl Iterator<Item = (i64, Digest)> {
        self.order.range(tick..).map(|(used, digest)| (*used, *digest))
    }

    /// Enters a file as the most recently used, in place of an older entry.
    pub(super) fn insert(&mut self, digest: Digest, size: u64, stamp: Option<Stamp>, open: Weak<Stored>) {
        let used = self.tick;
        self.insert_at(digest, Entry { size, stamp, used, open });
    }

    /// Enters a file nobody remembers using, as the least recently used.
    pub(super) fn adopt(&mut self, digest: Digest, size: u64) {
        let used = self.order.first_key_value().map_or(self.tick, |(first, _)| first - 1);
        self.insert_at(digest, Entry { size, stamp: None, used, open: Weak::new() });
    }

    /// Enters a file at its remembered place in the order of use, or the nearest free one.
    pub(super) fn insert_at(&mut self, digest: Digest, mut entry: Entry) {
        self.remove(&digest);
        while self.order.contains_key(&entry.used) {
            entry.used += 1;
        }
        self.tick = self.tick.max(entry.used + 1);
        self.order.insert(entry.used, digest);
        self.bytes = self.bytes.saturating_add(entry.size);
        self.entries.insert(digest, entry);
    }

    /// Marks as the most recently used and remembers the open file.
    pub(super) fn touch(&mut self, digest: &Digest, open: Weak<Stored>) {
        let used = self.tick;
        if let Some(entry) = self.entries.get_mut(digest) {
            self.order.remove(&entry.used);
            self.order.insert(used, *digest);
            entry.used = used;
            entry.open = open;
            self.tick += 1;
        }
    }

    /// Forgets an entry. Bytes that somebody still reads go on counting by themselves.
    pub(super) fn remove(&mut self, digest: &Digest) -> Option<Entry> {
        let entry = self.entries.remove(digest)?;
        self.order.remove(&entry.used);
        self.bytes = self.bytes.saturating_sub(entry.size);
        Some(entry)
    }

    /// Deletes the least recently used files until `wanted` bytes are free; deletes none if that
    /// cannot be reached. Files that are being read stay: deleting them would free nothing.
    ///
    /// The deleted files are handed back open, so that the disk's work of freeing them happens when
    /// the caller drops them, outside the lock.
    pub(super) fn evict(&mut self, wanted: u64, folder: &Folder) -> Evicted {
        let mut reachable = 0_u64;
        let mut victims = Vec::new();
        for digest in self.order.values() {
            if reachable >= wanted {
                break;
            }
            if let Some(entry) = self.entries.get(digest)
                && entry.open.strong_count() == 0
            {
                reachable = reachable.saturating_add(entry.size);
                victims.push(*digest);
            }
        }
        let mut evicted = Evicted { enough: reachable >= wanted, blobs: Vec::new() };
        if !evicted.enough {
            return evicted;
        }
        for digest in victims {
            let file = folder.open_blob(&digest).ok();
            match std::fs::remove_file(folder.blob(&digest)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%digest, %error, "a blob could not be evicted");
                    evicted.enough = false;
                }
                _ => {
                    self.remove(&digest);
                    evicted.blobs.push((digest, file));
                }
            }
        }
        evicted
    }
}

/// What [`Ledger::evict`] did.
#[derive(Debug)]
pub(super) struct Evicted {
    /// Whether as much as was wanted is free now.
    pub(super) enough: bool,
    pub(super) blobs: Vec<(Digest, Option<File>)>,
}
