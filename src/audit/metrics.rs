//! How the record is doing, as metrics.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use super::Log;
use crate::telemetry::Metrics;

impl Log {
    /// Adds `pullgate_audit_*`, read whenever metrics are.
    pub fn register(&self, metrics: &mut Metrics) {
        metrics.registry().register_collector(Box::new(Figures(self.clone())));
    }
}

#[derive(Debug)]
struct Figures(Log);

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let status = self.0.status();
        let gauges = [
            ("audit_bytes", "Bytes the record uses", status.used),
            ("audit_max_bytes", "Bytes the record may use", status.max),
            ("audit_full", "1 when allowed pulls are not recorded any more", u64::from(status.full)),
            ("audit_spilling", "1 when refusals are only counted", u64::from(status.spilling)),
        ];
        for (name, help, value) in gauges {
            let metric = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        let counters = [
            ("audit_rows", "Rows written to the record", status.rows),
            ("audit_unrecorded", "Events of allowed pulls that were not recorded", status.unrecorded),
        ];
        for (name, help, value) in counters {
            let metric = ConstCounter::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)?;
        }
        Ok(())
    }
}
