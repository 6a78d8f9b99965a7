//! The room against a TLS server of its own, over HTTP/2.

mod auth;
mod layout;
mod redirect;
mod server;
mod transfer;
mod trouble;

use jiff::Timestamp;

use super::{EndpointSettings, Settings, Upstreams};
use crate::clock::Clock;
use crate::oci::{Digest, Name, Tag};

fn clock() -> Clock {
    Clock::manual(Timestamp::from_second(1_800_000_000).unwrap())
}

fn upstreams(endpoint: EndpointSettings) -> Upstreams {
    with(server::settings(endpoint))
}

fn with(settings: Settings) -> Upstreams {
    Upstreams::new(settings, clock()).unwrap()
}

fn name() -> Name {
    "registry.test/team/app".parse().unwrap()
}

fn tag() -> Tag {
    "1.0".parse().unwrap()
}

fn digest() -> Digest {
    Digest::sha256(b"content")
}

const TAG: &str = "/v2/team/app/manifests/1.0";

fn blob_path() -> String {
    format!("/v2/team/app/blobs/{}", digest())
}
