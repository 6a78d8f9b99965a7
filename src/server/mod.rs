//! The door: TLS, limits, requests in, replies out; the only translation of errors to HTTP.

mod activity;
mod addresses;
mod admin;
pub mod certificates;
mod connections;
mod conversation;
mod door;
mod listener;
mod page;
mod proxy;
mod refuse;
mod reply;
mod tags;
mod tls;

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use admin::{AccessSettings, Admin, Condition, NoRandomness, UserSettings};
pub use connections::Connections;
pub use door::{Door, FIRST_HEADER};
pub use listener::{Limits, Terms};
pub use refuse::{Manner, Manners};
pub use reply::Body;
pub use tls::Tls;

/// Serves pulls over TLS until stopped, then drains. The TLS configuration is taken anew for each
/// connection, so that it can be exchanged while running.
pub async fn serve_pulls(
    socket: TcpListener,
    tls: Arc<Tls>,
    door: Door,
    terms: Terms,
    stop: CancellationToken,
) {
    listener::Listener::new(socket, terms, stop).run(Some(tls), move |peer| door.visitor(peer)).await;
}

/// Serves the admin endpoints until stopped, in plain text where there is no TLS.
pub async fn serve_admin(
    socket: TcpListener,
    tls: Option<Arc<Tls>>,
    admin: Admin,
    terms: Terms,
    stop: CancellationToken,
) {
    let visited = admin.clone();
    let ended = CancellationToken::new();
    let serving = async {
        listener::Listener::new(socket, terms, stop).run(tls, move |peer| visited.visit(peer)).await;
        ended.cancel();
    };
    tokio::join!(serving, admin.keep(ended.cancelled()));
}
