//! What is removed when the log grows old or large, and how it stays provable: in whole segments, with a
//! list of what is gone, and an event that vouches for the list.

use serde_json::{Map, Value};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use crate::oci::{Algorithm, Hasher};

/// By which way retention acts, in the `actor` of its events.
pub(crate) const VIA: &str = "retention";

/// Consecutive places that were emptied.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Run {
    pub(crate) first: i64,
    pub(crate) last: i64,
    /// The hash that the first of them named as the one before.
    pub(crate) previous: String,
    /// The hash of the last of them.
    pub(crate) hash: String,
}

impl Run {
    pub(crate) fn of(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            first: row.try_get("first")?,
            last: row.try_get("last")?,
            previous: row.try_get("previous")?,
            hash: row.try_get("hash")?,
        })
    }
}

/// The hash of a list of runs: SHA-256 over a line `first last previous hash` for each, in their order.
#[derive(Clone)]
pub(crate) struct RunsHasher(Hasher);

impl Default for RunsHasher {
    fn default() -> Self {
        Self(Hasher::new(Algorithm::Sha256))
    }
}

impl RunsHasher {
    pub(crate) fn add(&mut self, Run { first, last, previous, hash }: &Run) {
        self.0.update(format!("{first} {last} {previous} {hash}\n").as_bytes());
    }

    pub(crate) fn finish(self) -> String {
        self.0.finish().hex()
    }
}

/// What an event of retention vouches for: between these places exactly the runs of this list are gone.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Vouched {
    /// The place of the event.
    pub(crate) seq: i64,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) sha256: String,
}

impl Vouched {
    pub(crate) fn of(seq: i64, event: &Map<String, Value>) -> Option<Self> {
        let via = event.get("actor")?.get("via")?.as_str()?;
        let removed = event.get("removed").filter(|_| via == VIA)?;
        Some(Self {
            seq,
            first: removed.get("first")?.as_i64()?,
            last: removed.get("last")?.as_i64()?,
            sha256: removed.get("sha256")?.as_str()?.to_owned(),
        })
    }
}
