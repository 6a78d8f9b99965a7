//! The gateway at its door: bytes, status, headers, what is on record, what upstreams saw.

mod alerts;
mod announced;
mod bypass;
mod cache;
mod callers;
mod client_certificates;
mod connections;
mod console;
mod coverage;
mod crash;
mod denied;
mod disk;
mod follow;
mod input;
mod page;
mod pins;
mod protocol;
mod recall;
mod record;
mod refusal;
mod reload;
mod remedy;
mod replay;
mod review;
mod rules;
mod running;
mod siege;
mod sinks;
mod stop;
pub(crate) mod table;

use crate::support::gateway::{Gateway, Site};
use crate::support::image::{Fixture, Image, random_bytes};
use crate::support::registry::Registry;

/// A policy whose rules need little room: version tags of everything under `docker.io/acme`, a second
/// registry, and one repository of literal tags.
pub(crate) const POLICY: &str = r##"
name     = "door"
revision = "1"
mode     = "enforce"

[help]
contact = "#platform-security"
url     = "https://pullgate.example/d/{id}"

[require.tags]
allow = ["#.#.#"]
deny  = ["latest"]
moved = "keep"

[[source]]
id    = "acme"
match = "docker.io/acme/*"

[[source]]
id    = "other"
match = "ghcr.io/other/*"

[[source]]
id    = "deep"
match = "ghcr.io/deep/**"

[[source]]
id    = "literal"
match = "docker.io/acme/literal"
tags  = { allow = ["1.0.0", "1.0.1"] }
"##;

/// The codes of the distribution spec ("Error Codes").
pub(crate) const SPEC_CODES: [&str; 14] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DENIED",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNSUPPORTED",
];

/// An image of two layers, the second of so many bytes.
pub(crate) fn image(seed: u64, size: usize) -> Fixture {
    let layers = [random_bytes(seed, 500), random_bytes(seed + 1_000_000, size)];
    let [first, second] = layers;
    Image::new("linux/amd64").layer(first).layer(second).user("10001").build()
}

/// A gateway under [`POLICY`] with a fake as docker.io and one as ghcr.io.
pub(crate) struct Pair {
    pub(crate) gateway: Gateway,
    pub(crate) hub: Registry,
    pub(crate) ghcr: Registry,
}

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::with(|site| site).await
    }

    /// With changes to the site before it starts.
    pub(crate) async fn with(change: impl FnOnce(Site) -> Site) -> Self {
        let (hub, ghcr) = (Registry::plain(), Registry::plain());
        let site = Site::new(POLICY).with_upstream("docker.io", &hub).with_upstream("ghcr.io", &ghcr);
        Self { gateway: change(site).start().await, hub, ghcr }
    }

    /// Stops the gateway and starts it again on the same folder.
    pub(crate) async fn restart(self) -> Self {
        let gateway = self.gateway.stop().await.start().await;
        Self { gateway, ..self }
    }
}
