//! How the record is doing, as metrics.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter as Count;
use prometheus_client::metrics::family::Family;

use super::{Cache, Log};
use crate::telemetry::Figure::{Counter, Gauge};
use crate::telemetry::Metrics;

#[derive(Clone, Debug, Eq, Hash, PartialEq, EncodeLabelSet)]
struct From {
    cache: &'static str,
}

/// What was served to permitted requests, by where it came from.
#[derive(Debug, Default)]
pub(crate) struct Served {
    replies: Family<From, Count>,
    bytes: Family<From, Count>,
    known: [(Count, Count); 4],
}

impl Served {
    pub(crate) fn new() -> Self {
        let mut served = Self::default();
        served.known = Cache::ALL.map(|cache| {
            let labels = From { cache: cache.as_str() };
            (served.replies.get_or_create(&labels).clone(), served.bytes.get_or_create(&labels).clone())
        });
        served
    }

    /// Counts one reply; replies without content have no source.
    pub(crate) fn count(&self, cache: Option<Cache>, bytes: u64) {
        let place = cache.and_then(|cache| Cache::ALL.iter().position(|known| *known == cache));
        if let Some((replies, sent)) = place.and_then(|place| self.known.get(place)) {
            replies.inc();
            sent.inc_by(bytes);
        }
    }

    pub(crate) fn register(&self, metrics: &mut Metrics) {
        let help = "Replies to permitted requests, by where their content came from";
        metrics.registry().register("served", help, self.replies.clone());
        let help = "Bytes of such replies";
        metrics.registry().register("served_bytes", help, self.bytes.clone());
    }
}

impl Log {
    /// Adds `pullgate_audit_*` and `pullgate_served_*`, read whenever metrics are.
    pub fn register(&self, metrics: &mut Metrics) {
        self.served().register(metrics);
        let log = self.clone();
        metrics.read(move || {
            let status = log.status();
            let full = u64::from(status.full);
            [
                Gauge("audit_bytes", "Bytes the record uses", status.used),
                Gauge("audit_max_bytes", "Bytes the record may use", status.max),
                Gauge("audit_full", "1 when allowed pulls are not recorded any more", full),
                Gauge("audit_spilling", "1 when refusals are only counted", u64::from(status.spilling)),
                Counter("audit_rows", "Rows written to the record", status.rows),
                Counter(
                    "audit_unrecorded",
                    "Events of allowed pulls that were not recorded",
                    status.unrecorded,
                ),
            ]
        });
    }
}
