//! The door: TLS, limits, requests in, replies out; the only translation of errors to HTTP.

mod admin;
pub mod certificates;
mod door;
mod listener;
mod page;
mod refuse;
mod reply;

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use admin::{Admin, Condition};
pub use door::{Door, FIRST_HEADER};
pub use listener::Limits;
pub use refuse::{Manner, Manners};
pub use reply::Body;

/// Serves pulls over TLS until stopped, then drains. The TLS configuration is taken anew for each
/// connection, so that it can be exchanged while running.
pub async fn serve_pulls(
    socket: TcpListener,
    tls: Arc<ArcSwap<ServerConfig>>,
    door: Door,
    limits: Limits,
    stop: CancellationToken,
) {
    listener::Listener::new(socket, limits, stop).run(Some(tls), move |peer| door.visitor(peer)).await;
}

/// Serves the admin endpoints in plain text until stopped.
pub async fn serve_admin(socket: TcpListener, admin: Admin, limits: Limits, stop: CancellationToken) {
    listener::Listener::new(socket, limits, stop).run(None, move |_| admin.clone()).await;
}
