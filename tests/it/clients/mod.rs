//! Real clients pull through the gateway: containerd, dockerd, podman and skopeo against Debian's
//! docker-registry as upstream, all of them processes of this machine.
//!
//! A client that is not installed, or needs root and has none, makes its test say `skipped: …` on
//! standard error and end; `.ci/run` installs them all and takes no skip for a pass.
//!
//! - `PULLGATE_TEST_UPSTREAM_ONLY=1` leaves the gateway out: the clients pull the allowed images from the
//!   upstream itself, which proves the surroundings.
//! - `PULLGATE_TEST_PROGRAM=PATH` tests another build of the gateway than the one just compiled.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod containerd;
mod dockerd;
mod gateway;
mod podman;
pub(crate) mod process;
mod registry;
mod skopeo;
mod stock;
mod table;

use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use gateway::Gateway;
use process::{Said, Scratch, installed, skip};
use registry::{PASSWORD, Registry, USER};
use serde_json::Value;
use stock::{DEBIAN, DEBIAN_LATEST, PGVECTOR, PGVECTOR_LATEST, REDIS, Stock, stock};

/// One kind of client with its own storage. Images are named in full: `docker.io/library/debian:12.5`.
trait Client {
    /// Pulls as a person would, and tells what that person saw.
    fn pull(&self, image: &str) -> Said;

    /// A file of a pulled image, read by running the image or, where the machine forbids that, unpacking it.
    fn read(&self, image: &str, path: &str) -> String;

    /// Forgets every image and every byte of it.
    fn wipe(&self);
}

/// Where a client is told to pull from.
struct Door {
    /// `<host>:<port>`
    authority: String,
    ca: PathBuf,
    /// Whether the registry is named in the path; the upstream itself has no such prefix.
    prefixed: bool,
    /// What the client must log in with: nothing at the gateway.
    login: Option<(&'static str, &'static str)>,
}

impl Door {
    fn gateway(gateway: &Gateway) -> Self {
        let ca = gateway.ca.clone();
        Self { authority: gateway.authority.clone(), ca, prefixed: true, login: None }
    }

    fn upstream(upstream: &Registry) -> Self {
        Self {
            authority: upstream.authority.clone(),
            ca: upstream.ca.clone(),
            prefixed: false,
            login: Some((USER, PASSWORD)),
        }
    }

    /// The image as a client names it that has no notion of mirrors.
    fn name(&self, image: &str) -> String {
        let image = if self.prefixed { image } else { image.strip_prefix("docker.io/").unwrap() };
        format!("{}/{image}", self.authority)
    }

    /// The folder of the CA, in the form `--cert-dir` and `certs.d` want: one file, `ca.crt`.
    fn certificates(&self, scratch: &Scratch) -> PathBuf {
        let folder = scratch.folder("trusted");
        std::fs::copy(&self.ca, folder.join("ca.crt")).unwrap();
        folder
    }
}

/// An upstream of the test's own, and the gateway in front of it.
struct Scene {
    // Fields drop in this order: servers before the folder they live in.
    gateway: Option<Gateway>,
    upstream: Registry,
    stock: &'static Stock,
    scratch: Scratch,
}

impl Scene {
    /// Sets it up with the gateway listening on `host`; `None`, and a line that says why, when something
    /// is missing on this machine.
    fn open(host: &str, programs: &[&str], more: &str) -> Option<Self> {
        let mut scene = Self::without_gateway(programs)?;
        if std::env::var_os("PULLGATE_TEST_UPSTREAM_ONLY").is_none() {
            scene.gateway = Some(Gateway::start(&scene.scratch, host, &scene.upstream, more));
        }
        Some(scene)
    }

    /// The upstream alone.
    fn without_gateway(programs: &[&str]) -> Option<Self> {
        if !installed(programs)
            || !installed(&["docker-registry", "mmdebstrap", "skopeo", "tar", "gzip", "setpriv"])
        {
            return None;
        }
        let stock = stock().inspect_err(|why| skip(why)).ok()?;
        let scratch = Scratch::new();
        let upstream = Registry::start(&scratch, &stock.storage(), &stock.tls);
        Some(Self { gateway: None, upstream, stock, scratch })
    }

    fn door(&self) -> Door {
        self.gateway.as_ref().map_or_else(|| Door::upstream(&self.upstream), Door::gateway)
    }

    fn debian_by_digest(&self) -> String {
        format!("docker.io/library/debian@{}", self.stock.facts.debian)
    }

    fn pgvector_latest_by_digest(&self) -> String {
        format!("docker.io/pgvector/pgvector@{}", self.stock.facts.pgvector_latest)
    }

    /// What every client must live through: allowed pulls, refusals, and an upstream that goes away.
    fn play(&mut self, client: &dyn Client) {
        client.pull(DEBIAN).or_fail("the allowed tag");
        assert_eq!(client.read(DEBIAN, "/etc/debian_version").trim(), self.stock.facts.debian_version);
        client.wipe();
        client.pull(&self.debian_by_digest()).or_fail("the allowed digest");
        client.pull(PGVECTOR).or_fail("the multi-platform tag");
        let index = format!("docker.io/pgvector/pgvector@{}", self.stock.facts.pgvector);
        client.wipe();
        client.pull(&index).or_fail("the multi-platform digest");
        let Some(gateway) = &self.gateway else { return };

        let asked = self.upstream.requests().len();
        let digest = self.pgvector_latest_by_digest();
        let refusals = [
            (DEBIAN_LATEST, "tag.denied"),
            (PGVECTOR_LATEST, "tag.denied"),
            (REDIS, "source.unknown"),
            (digest.as_str(), "digest.unknown"),
        ];
        for (image, code) in refusals {
            assert_refused(&client.pull(image), image);
            assert_recorded(gateway, image, code);
        }

        self.upstream.stop();
        assert_unasked(&self.upstream, asked, &refusals.map(|(image, _)| image));
        for image in [DEBIAN, &self.debian_by_digest(), PGVECTOR, &index] {
            client.wipe();
            client.pull(image).or_fail("a second pull with the upstream stopped");
        }
        assert_refused(&client.pull(DEBIAN_LATEST), DEBIAN_LATEST);
    }
}

/// The pull failed, and the person who asked for it was told that policy did it.
fn assert_refused(said: &Said, image: &str) {
    assert!(!said.succeeded, "{image} was pulled though policy refuses it:\n{}", said.words);
    assert!(said.words.contains("blocked by policy"), "{image}: the reason was lost:\n{}", said.words);
}

/// The log holds a refusal of this image for this reason.
fn assert_recorded(gateway: &Gateway, image: &str, code: &str) {
    let events = gateway.blocked();
    let found = events.iter().any(|event| {
        event["image"]["reference"].as_str() == Some(image)
            && event["reason"]["code"].as_str() == Some(code)
            && event["verdict"].as_str() == Some("deny")
    });
    let shown: Vec<_> = events.iter().map(Value::to_string).collect();
    assert!(found, "no event for {image} with {code}; the log holds:\n{}", shown.join("\n"));
}

/// Since its first `asked` requests the upstream was not asked for any of these images.
fn assert_unasked(upstream: &Registry, asked: usize, images: &[&str]) {
    for request in upstream.requests().iter().skip(asked) {
        for image in images {
            assert!(!request.names(image), "the upstream was asked for {image}: {request:?}");
        }
    }
}

/// An address of this machine that is not loopback, if it has one: some clients do not verify TLS on
/// loopback and would prove nothing about the CA there. (Connecting a datagram socket sends nothing.)
fn own_address() -> String {
    let address = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    address.map_or_else(|_| "localhost".to_owned(), |address| address.ip().to_string())
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}
