//! The store's figures as metrics.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Store;
use crate::telemetry::Metrics;

impl Store {
    /// Adds `pullgate_store_*`, read whenever metrics are.
    pub fn register(&self, metrics: &mut Metrics) {
        metrics.registry().register_collector(Box::new(Figures(self.clone())));
    }
}

#[derive(Debug)]
struct Figures(Store);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let stats = self.0.stats();
        let gauges = [
            ("store_blobs", "Blobs kept", stats.blobs),
            ("store_bytes", "Bytes of blobs kept, arriving, or removed and still read", stats.bytes),
        ];
        for (name, help, value) in gauges {
            let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let counters = [
            ("store_evictions", "Blobs deleted to make space", stats.evictions),
            ("store_filled_bytes", "Bytes brought into the store", stats.filled_bytes),
            ("store_fills", "Blobs that began to arrive", stats.fills),
            ("store_passes", "Replies passed through because there was no space", stats.passes),
            ("store_rehashes", "Files read again because they were touched", stats.rehashes),
            (
                "store_verification_failures",
                "Blobs that were not what they should be",
                stats.verification_failures,
            ),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        Ok(())
    }
}
