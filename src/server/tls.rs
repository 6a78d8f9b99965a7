//! The TLS configuration in force, and who must go when it is replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

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
    /// Called when the configuration is no longer in force.
    pub(super) retirement: Arc<Retirement>,
}

/// Whether a configuration is no longer in force: to be looked at with every request, or waited for.
#[derive(Debug, Default)]
pub(super) struct Retirement {
    /// Beside the token, which looks behind a lock that all connections share.
    called: AtomicBool,
    token: CancellationToken,
}

impl Retirement {
    pub(super) fn call(&self) {
        self.called.store(true, Ordering::Release);
        self.token.cancel();
    }

    pub(super) fn is_called(&self) -> bool {
        self.called.load(Ordering::Acquire)
    }

    /// Returns once it is called.
    pub(super) async fn called(&self) {
        self.token.cancelled().await;
    }
}

impl Generation {
    fn new(config: ServerConfig) -> Self {
        Self { config: Arc::new(config), retirement: Arc::default() }
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
        self.0.swap(Arc::new(Generation::new(config))).retirement.call();
    }

    pub(super) fn generation(&self) -> Arc<Generation> {
        self.0.load_full()
    }
}
