//! How the record is doing, as metrics.

use super::Log;
use crate::telemetry::Figure::{Counter, Gauge};
use crate::telemetry::Metrics;

impl Log {
    /// Adds `pullgate_audit_*`, read whenever metrics are.
    pub fn register(&self, metrics: &mut Metrics) {
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
