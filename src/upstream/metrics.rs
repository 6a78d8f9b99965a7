//! How the upstreams are doing, as metrics.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::Upstreams;
use crate::telemetry::Metrics;

impl Upstreams {
    /// Adds `pullgate_upstream_*`, read whenever metrics are. Registries that no `[[upstream]]`
    /// declares are no label: sources with patterns could name any number of them.
    pub fn register(self: &Arc<Self>, metrics: &mut Metrics) {
        metrics.registry().register_collector(Box::new(Figures(self.clone())));
    }
}

struct Figures(Arc<Upstreams>);

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Figures").finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    registry: String,
    endpoint: String,
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (requests, up) = (Family::<Labels, Counter>::default(), Family::<Labels, Gauge>::default());
        let (remaining, denied) = (Family::<Labels, Gauge>::default(), Family::<Labels, Counter>::default());
        for health in self.0.health() {
            if !health.declared {
                // Where credentials are missing there may be no [[upstream]] at all.
                let others = Labels { registry: "undeclared".to_owned(), endpoint: "undeclared".to_owned() };
                denied.get_or_create(&others).inc_by(health.denied);
                continue;
            }
            let labels = Labels { registry: health.registry.to_string(), endpoint: health.endpoint.clone() };
            requests.get_or_create(&labels).inc_by(health.requests);
            denied.get_or_create(&labels).inc_by(health.denied);
            up.get_or_create(&labels).set(i64::from(health.failure().is_none()));
            if let Some(left) = health.rate_limit.as_ref().and_then(|limit| limit.remaining) {
                remaining.get_or_create(&labels).set(i64::try_from(left).unwrap_or(i64::MAX));
            }
        }
        let help = "Requests sent to the upstream";
        requests.encode(encoder.encode_descriptor(
            "upstream_requests",
            help,
            None,
            requests.metric_type(),
        )?)?;
        let help = "Questions that the upstream refused to answer";
        denied.encode(encoder.encode_descriptor("upstream_denied", help, None, denied.metric_type())?)?;
        let help = "1 when the upstream's last answer was one";
        up.encode(encoder.encode_descriptor("upstream_up", help, None, up.metric_type())?)?;
        let help = "Pulls left of the upstream's rate limit, as it last said";
        remaining.encode(encoder.encode_descriptor(
            "upstream_ratelimit_remaining",
            help,
            None,
            remaining.metric_type(),
        )?)
    }
}
