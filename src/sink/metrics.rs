//! How the sinks are doing, as metrics: by kind of receiver, for names are the operator's own.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Watcher;
use crate::telemetry::Metrics;

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    kind: &'static str,
}

impl Watcher {
    /// Adds `pullgate_sink_*`, read whenever metrics are.
    pub fn register(&self, metrics: &mut Metrics) {
        metrics.registry().register_collector(Box::new(self.clone()));
    }
}

impl Collector for Watcher {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let delivered = Family::<Labels, Counter>::default();
        let (failures, missed) = (Family::<Labels, Counter>::default(), Family::<Labels, Counter>::default());
        let lag = Family::<Labels, Gauge>::default();
        for status in self.status() {
            let labels = Labels { kind: status.kind.as_str() };
            delivered.get_or_create(&labels).inc_by(status.delivered);
            failures.get_or_create(&labels).inc_by(status.failures);
            missed.get_or_create(&labels).inc_by(status.missed);
            // Of several sinks of a kind, the one that is farthest behind.
            let behind = i64::try_from(status.behind).unwrap_or(i64::MAX);
            let worst = lag.get_or_create(&labels);
            worst.set(worst.get().max(behind));
        }
        let counters = [
            ("sink_delivered", "Events that receivers took", &delivered),
            ("sink_failures", "Deliveries that failed and are tried again", &failures),
            ("sink_missed", "Events that retention removed before they were delivered", &missed),
        ];
        for (name, help, family) in counters {
            family.encode(encoder.encode_descriptor(name, help, None, family.metric_type())?)?;
        }
        let help = "Events on record that the slowest sink of this kind has not delivered";
        lag.encode(encoder.encode_descriptor("sink_lag_events", help, None, lag.metric_type())?)
    }
}
