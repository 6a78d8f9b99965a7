//! The store's figures as metrics.

use super::Store;
use crate::telemetry::Figure::{Counter, Gauge};
use crate::telemetry::Metrics;

impl Store {
    /// Adds `pullgate_store_*`, read whenever metrics are.
    pub fn register(&self, metrics: &mut Metrics) {
        let store = self.clone();
        metrics.read(move || {
            let stats = store.stats();
            let forged = stats.verification_failures;
            [
                Gauge("store_blobs", "Blobs kept", stats.blobs),
                Gauge("store_bytes", "Bytes of blobs kept, arriving, or removed and still read", stats.bytes),
                Counter("store_evictions", "Blobs deleted to make space", stats.evictions),
                Counter("store_filled_bytes", "Bytes brought into the store", stats.filled_bytes),
                Counter("store_fills", "Blobs that began to arrive", stats.fills),
                Counter("store_passes", "Replies passed through because there was no space", stats.passes),
                Counter("store_rehashes", "Files read again because they were touched", stats.rehashes),
                Counter("store_verification_failures", "Blobs that were not what they should be", forged),
            ]
        });
    }
}
