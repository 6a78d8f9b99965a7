//! The TLS configuration in force, and who must go when it is replaced.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

/// The TLS configuration of new connections.
#[derive(Debug)]
pub struct Tls(ArcSwap<Generation>);

/// A configuration and the connections that were judged by it.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) config: Arc<ServerConfig>,
    /// Cancelled when the configuration is no longer in force.
    pub(super) retired: CancellationToken,
}

impl Generation {
    fn new(config: ServerConfig) -> Self {
        Self { config: Arc::new(config), retired: CancellationToken::new() }
    }
}

impl Tls {
    /// New connections begin with this.
    pub fn new(config: ServerConfig) -> Self {
        Self(ArcSwap::from_pointee(Generation::new(config)))
    }

    /// New connections begin with this from now on. Those of before finish the requests under way and
    /// are closed: who their clients are was judged by what is in force no more. Their sessions
    /// cannot be resumed, for the new configuration has keys of its own.
    pub fn replace(&self, config: ServerConfig) {
        self.0.swap(Arc::new(Generation::new(config))).retired.cancel();
    }

    pub(super) fn generation(&self) -> Arc<Generation> {
        self.0.load_full()
    }
}
