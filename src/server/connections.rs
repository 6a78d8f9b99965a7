//! Connections in numbers: how many are open, and why the gateway closed others.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use crate::telemetry::Metrics;

/// Why the gateway, and not the client, ended a connection or its handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Reason {
    /// Its address has all the connections that one may have.
    AddressLimit,
    /// The client certificate it began with has expired.
    CertificateExpired,
    /// The client CA that it was judged by is no longer in force.
    ClientCa,
    /// The two do not understand, or do not trust, each other.
    Handshake,
    /// The handshake took too long.
    HandshakeTimeout,
    /// No request for too long.
    Idle,
    /// A trusted proxy sent something that is no PROXY header.
    ProxyHeader,
}

impl Reason {
    const ALL: [Self; 7] = [
        Self::AddressLimit,
        Self::CertificateExpired,
        Self::ClientCa,
        Self::Handshake,
        Self::HandshakeTimeout,
        Self::Idle,
        Self::ProxyHeader,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::AddressLimit => "address_limit",
            Self::CertificateExpired => "certificate_expired",
            Self::ClientCa => "client_ca",
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Idle => "idle",
            Self::ProxyHeader => "proxy_header",
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct Labels {
    reason: &'static str,
}

/// The connections of the pull listener, counted. Cloning shares the counts.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    closed: Family<Labels, Counter>,
    open: Gauge,
}

/// A connection that counts as open until it is dropped.
#[derive(Debug)]
pub(super) struct Open(Gauge);

impl Connections {
    /// Adds `pullgate_connections_open` and `pullgate_connections_closed_total`, every reason from zero on.
    pub fn register(metrics: &mut Metrics) -> Self {
        let this = Self::default();
        for reason in Reason::ALL {
            this.closed.get_or_create(&Labels { reason: reason.as_str() }).inc_by(0);
        }
        let registry = metrics.registry();
        registry.register("connections_open", "Open connections of the pull listener", this.open.clone());
        let help = "Connections of the pull listener that the gateway closed, by reason";
        registry.register("connections_closed", help, this.closed.clone());
        this
    }

    pub(super) fn opened(&self) -> Open {
        self.open.inc();
        Open(self.open.clone())
    }

    pub(super) fn closed(&self, reason: Reason) {
        self.closed.get_or_create(&Labels { reason: reason.as_str() }).inc();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
