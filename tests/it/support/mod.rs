//! What the integration tests share: registries that misbehave on request, and images to put in them.

pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod client;
pub(crate) mod content;
pub(crate) mod dial;
pub(crate) mod distribution;
pub(crate) mod fault;
pub(crate) mod gateway;
pub(crate) mod image;
pub(crate) mod layout;
pub(crate) mod log;
pub(crate) mod process;
pub(crate) mod registry;
pub(crate) mod server;
pub(crate) mod syslog;
pub(crate) mod tls;

use std::time::Duration;

/// How long a test waits for something that must happen. It is never slept, only run into by a test
/// that fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
