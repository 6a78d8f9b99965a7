//! policy.md, "What must come out of config/policy.toml", with skopeo: each row as a person types it, by
//! way of a `registries.conf` that sends every registry through the gateway, and with the gateway named.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use pullgate::oci::Digest;
use serde_json::Value;

use super::process::{Said, Scratch, installed, run};
use crate::door::table::{Fleet, PYTHON, VECTOR, image};
use crate::support::gateway::{shipped_policy, until};
use crate::support::image::{Fixture, Image, random_bytes};

const LIMIT: Duration = Duration::from_secs(60);
const NBEDR: &str = "makercorn/nbedr";
const REGISTRIES: [&str; 5] = ["docker.io", "docker.io.evil.com", "gcr.io", "ghcr.io", "quay.io"];
const STATIC: &str = "distroless/static-debian12";

/// The gateway of the shipped policy with skopeo before it.
struct Stage {
    fleet: Fleet,
    scratch: Scratch,
    trusted: PathBuf,
    registries: PathBuf,
    copies: Cell<u32>,
}

impl Stage {
    /// `None`, and a line that says why, where there is no skopeo.
    async fn open() -> Option<Self> {
        if !installed(&["skopeo"]) {
            return None;
        }
        let (fleet, scratch) = (Fleet::start().await, Scratch::new());
        let trusted = scratch.folder("trusted");
        fs::write(trusted.join("ca.crt"), &fleet.gateway.ca).unwrap();
        let registries = scratch.path().join("registries.conf");
        let authority = fleet.gateway.authority();
        let rewritten = REGISTRIES
            .map(|name| format!("[[registry]]\nprefix = \"{name}\"\nlocation = \"{authority}/{name}\"\n"));
        fs::write(&registries, format!("unqualified-search-registries = []\n{}", rewritten.concat()))
            .unwrap();
        Some(Self { fleet, scratch, trusted, registries, copies: Cell::new(0) })
    }

    /// The two ways to name an image: as everybody does, and with the gateway in front.
    fn names(&self, image: &str) -> [String; 2] {
        [format!("docker://{image}"), format!("docker://{}/{image}", self.fleet.gateway.authority())]
    }

    async fn inspect(&self, name: &str) -> Said {
        let mut command = self.skopeo();
        command.args(["inspect", "--raw", "--cert-dir"]).arg(&self.trusted).arg(name);
        finish(command).await
    }

    /// Copies it whole; the folder holds what came.
    async fn copy(&self, name: &str) -> (Said, PathBuf) {
        self.copies.set(self.copies.get() + 1);
        let folder = self.scratch.path().join(format!("copy-{}", self.copies.get()));
        let mut command = self.skopeo();
        command.args(["copy", "--all", "--preserve-digests", "--src-cert-dir"]).arg(&self.trusted);
        command.arg(name).arg(format!("dir:{}", folder.display()));
        (finish(command).await, folder)
    }

    fn skopeo(&self) -> Command {
        let mut command = Command::new("skopeo");
        command.env("HOME", self.scratch.path()).arg("--registries-conf").arg(&self.registries);
        command
    }

    /// A refused row: skopeo fails in every way of asking, says why, and the refusal it names is on record
    /// under this reference.
    async fn refuses(&self, image: &str, reference: &str, code: &str) {
        for name in self.names(image) {
            let event = self.told(&self.inspect(&name).await, reference, code).await;
            assert_eq!(event["image"]["reference"], reference, "{event:#}");
            assert_eq!((&event["enforced"], &event["verdict"]), (&Value::Bool(true), &"deny".into()));
            let (said, folder) = self.copy(&name).await;
            self.told(&said, reference, code).await;
            assert!(!folder.join("manifest.json").exists(), "{name} was copied");
        }
    }

    /// The refusal on record that the person was told, word for word.
    async fn told(&self, said: &Said, image: &str, code: &str) -> Value {
        assert!(!said.succeeded, "{image} was served though policy refuses it:\n{}", said.words);
        let blocked = self.fleet.gateway.blocked().await;
        // Both skopeo's log and JSON escape quotation marks.
        let plain = said.words.replace('\\', "");
        let told = |event: &&Value| event["reason"]["text"].as_str().is_some_and(|text| plain.contains(text));
        let event = blocked.iter().find(told);
        let event = event.unwrap_or_else(|| panic!("{image}: {plain}\non record: {blocked:#?}"));
        let opening = format!("blocked by policy {}: ", event["id"].as_str().unwrap());
        assert!(event["reason"]["text"].as_str().unwrap().starts_with(&opening), "{event:#}");
        assert_eq!(event["reason"]["code"], code, "{image}: {event:#}");
        event.clone()
    }

    /// An allowed row: the upstream's bytes, by tag or digest as written and then by digest, and on record.
    async fn serves(&self, image: &str, reference: &str, content: &Fixture) {
        for name in self.names(image) {
            let said = self.inspect(&name).await;
            assert!(said.succeeded, "{name}: {}", said.words);
            assert_eq!(Digest::sha256(said.output.as_bytes()), content.digest(), "{name}");
            let by_digest = format!("{}@{}", repository_of(&name), content.digest());
            for name in [name, by_digest] {
                let (said, folder) = self.copy(&name).await;
                assert!(said.succeeded, "{name}: {}", said.words);
                assert_eq!(fs::read(folder.join("manifest.json")).unwrap(), content.manifest, "{name}");
                for blob in &content.blobs {
                    let file = folder.join(Digest::sha256(blob).hex());
                    assert!(fs::read(file).unwrap() == **blob, "{name}: other bytes than the upstream's");
                }
            }
        }
        let digest = content.digest().to_string();
        let wanted = |event: &Value| {
            event["image"]["reference"] == reference && event["image"]["digest"] == digest.as_str()
        };
        let event = self.fleet.gateway.event(wanted).await;
        assert_eq!(event["verdict"], "allow", "{event:#}");
    }
}

/// The name without its tag or digest.
fn repository_of(name: &str) -> &str {
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    // A colon before the last slash is a port's.
    name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(name, _)| name)
}

async fn finish(mut command: Command) -> Said {
    tokio::task::spawn_blocking(move || run(&mut command, LIMIT)).await.unwrap()
}

#[tokio::test]
async fn skopeo_is_refused_what_the_table_refuses_by_name_and_nobody_is_asked() {
    let Some(stage) = Stage::open().await else { return };
    for tag in ["3.11", "latest", "1.2.3-latest", "1.2.3-Latest", "3.14-rc-trixie", "1.2.3-rc1"] {
        image(1).push(&stage.fleet.hub, PYTHON, tag);
    }
    image(2).push(&stage.fleet.hub, VECTOR, "latest");
    let evil_digest = format!("gcr.io/distroless-evil/static@{}", image(1).digest());
    let rows = [
        ("docker.io/library/python:3.11", "tag.not_allowed"),
        ("docker.io/library/python:latest", "tag.denied"),
        ("docker.io/library/python:1.2.3-latest", "tag.denied"),
        ("docker.io/library/python:1.2.3-Latest", "tag.denied"),
        ("docker.io/library/python:3.14-rc-trixie", "tag.denied"),
        ("docker.io/library/python:1.2.3-rc1", "tag.denied"),
        ("docker.io/bitnami/redis:7.2.5", "source.unknown"),
        ("docker.io/library/evil/x:1.2.3", "source.unknown"),
        ("docker.io.evil.com/library/python:3.11.9", "source.unknown"),
        (&evil_digest, "source.unknown"),
        ("gcr.io/distroless/static-debian12:nonroot", "tag.not_allowed"),
        ("docker.io/pgvector/pgvector:latest", "tag.denied"),
        ("quay.io/prometheus/node-exporter:v1.9.0", "source.unknown"),
    ];
    for (image, code) in rows {
        stage.refuses(image, image, code).await;
    }
    // No tag is latest.
    let latest = "docker.io/library/python:latest";
    stage.refuses("docker.io/library/python", latest, "tag.denied").await;
    assert_eq!(stage.fleet.traces(), [""; 0], "refused names reach no upstream and no resolver");
}

#[tokio::test]
async fn skopeo_copies_what_the_table_allows_byte_for_byte() {
    let Some(stage) = Stage::open().await else { return };
    let Fleet { hub, gcr, ghcr, .. } = &stage.fleet;
    let rows = [
        (hub, "docker.io", PYTHON, "3.11-slim-bookworm"),
        (hub, "docker.io", "library/postgres", "16.4"),
        (hub, "docker.io", "library/postgres", "16.4-bookworm"),
        (hub, "docker.io", VECTOR, "0.8.0-pg16"),
        (ghcr, "ghcr.io", NBEDR, "v1.0.0"),
    ];
    for ((registry, host, repository, tag), seed) in rows.into_iter().zip(30..) {
        let image = image(seed);
        image.push(registry, repository, tag);
        let reference = format!("{host}/{repository}:{tag}");
        stage.serves(&reference, &reference, &image).await;
    }
    let python = image(40);
    python.push(hub, PYTHON, "3.11.9");
    for spelling in ["index.docker.io/library/python:3.11.9", "python:3.11.9"] {
        stage.serves(spelling, "docker.io/library/python:3.11.9", &python).await;
    }
    assert_eq!(hub.hits("GET", &format!("/{PYTHON}/manifests/")), 2, "two images, each fetched once");
    // Distroless has no tag that passes; its digests do.
    let distroless = image(41);
    distroless.push(gcr, STATIC, "nonroot");
    let by_digest = format!("gcr.io/{STATIC}@{}", distroless.digest());
    stage.serves(&by_digest, &by_digest, &distroless).await;
    assert_eq!(stage.fleet.gateway.blocked().await, [Value::Null; 0]);
}

#[tokio::test]
async fn skopeo_gets_the_digests_that_an_allowed_tag_leads_to_also_from_a_cold_gateway() {
    let Some(stage) = Stage::open().await else { return };
    let (allowed, latest) = (image(5), image(6));
    allowed.push(&stage.fleet.hub, VECTOR, "0.8.0-pg16");
    latest.push(&stage.fleet.hub, VECTOR, "latest");
    let refused = format!("docker.io/{VECTOR}@{}", latest.digest());
    stage.refuses(&refused, &refused, "digest.unknown").await;
    assert_eq!(stage.fleet.hub.hits("GET", &latest.digest().to_string()), 0);
    let Some(stage) = Stage::open().await else { return };
    allowed.push(&stage.fleet.hub, VECTOR, "0.8.0-pg16");
    let by_digest = format!("docker.io/{VECTOR}@{}", allowed.digest());
    stage.serves(&by_digest, &by_digest, &allowed).await;
}

#[tokio::test]
async fn skopeo_gets_no_cached_layer_by_way_of_a_hostile_repository() {
    let Some(stage) = Stage::open().await else { return };
    let (private, hostile) = (image(9), "evil/thief");
    private.push(&stage.fleet.hub, PYTHON, "3.11.9");
    stage.serves("python:3.11.9", "docker.io/library/python:3.11.9", &private).await;
    // It serves a manifest that names the layer, and does not have the layer.
    let ghcr = &stage.fleet.ghcr;
    ghcr.push_blob(hostile, private.blobs[0].clone());
    ghcr.push_manifest(hostile, Some("v1.0.0"), private.media_type, private.manifest.clone());
    let layer = Digest::sha256(private.layer(0));
    for name in stage.names("ghcr.io/evil/thief:v1.0.0") {
        let (said, folder) = stage.copy(&name).await;
        // Of a blob's refusal skopeo 1.9 prints the status alone.
        assert!(!said.succeeded && said.words.contains("403"), "{name}: {}", said.words);
        assert!(!folder.join(layer.hex()).exists(), "the layer was given away");
    }
    let wanted = format!("ghcr.io/{hostile}@{layer}");
    let blocked = stage.fleet.gateway.blocked().await;
    let event = blocked.iter().find(|event| event["image"]["reference"] == wanted.as_str());
    let event = event.unwrap_or_else(|| panic!("{wanted} is not on record: {blocked:#?}"));
    assert_eq!(event["reason"]["code"], "possession.missing", "{event:#}");
    assert_eq!(ghcr.hits("GET", &layer.to_string()), 0);
}

#[tokio::test]
async fn curl_gets_no_blob_that_only_a_refused_tag_contains() {
    if !installed(&["curl"]) {
        return;
    }
    let Some(stage) = Stage::open().await else { return };
    let (allowed, latest) = (image(7), image(8));
    allowed.push(&stage.fleet.hub, VECTOR, "0.8.0-pg16");
    latest.push(&stage.fleet.hub, VECTOR, "latest");
    stage
        .serves("docker.io/pgvector/pgvector:0.8.0-pg16", "docker.io/pgvector/pgvector:0.8.0-pg16", &allowed)
        .await;
    let layer = Digest::sha256(latest.layer(0));
    for repository in [VECTOR, PYTHON] {
        let mut command = Command::new("curl");
        command.args(["--silent", "--show-error", "--fail-with-body", "--noproxy", "*", "--cacert"]);
        command.arg(stage.trusted.join("ca.crt"));
        command.arg(stage.fleet.gateway.url(&format!("/v2/docker.io/{repository}/blobs/{layer}")));
        let said = finish(command).await;
        let event = stage.told(&said, repository, "closure.outside").await;
        assert!(event["image"].to_string().contains(repository), "{event:#}");
    }
    assert_eq!(stage.fleet.hub.hits("*", &layer.to_string()), 0);
}

#[tokio::test]
async fn skopeo_is_told_that_the_user_of_an_image_is_refused() {
    let Some(stage) = Stage::open().await else { return };
    let app = |seed, user: Option<&str>| {
        let image = Image::new("linux/amd64").layer(random_bytes(seed, 3000));
        match user {
            Some(user) => image.user(user).build(),
            None => image.build(),
        }
    };
    let allowed = app(50, Some("10001:10001"));
    allowed.push(&stage.fleet.ghcr, NBEDR, "v1.0.0");
    let reference = format!("ghcr.io/{NBEDR}:v1.0.0");
    stage.serves(&reference, &reference, &allowed).await;
    for (seed, user, code) in [
        (51, Some("10000"), "user.min_uid"),
        (52, Some("0"), "user.min_uid"),
        (53, None, "user.min_uid"),
        (54, Some("root"), "user.named"),
        (55, Some("app"), "user.named"),
        (56, Some("4294967296"), "user.named"),
    ] {
        let image = app(seed, user);
        let tag = format!("v1.0.{seed}");
        let digest = image.push(&stage.fleet.ghcr, NBEDR, tag.as_str());
        for reference in [format!("ghcr.io/{NBEDR}:{tag}"), format!("ghcr.io/{NBEDR}@{digest}")] {
            stage.refuses(&reference, &reference, code).await;
        }
        let layer = Digest::sha256(image.layer(0)).to_string();
        assert_eq!(stage.fleet.ghcr.hits("GET", &layer), 0, "a refused image's layer is not fetched");
    }
}

#[tokio::test]
async fn skopeo_is_refused_every_image_that_contains_a_recalled_layer() {
    let Some(stage) = Stage::open().await else { return };
    let shared = random_bytes(60, 3000);
    let with = |more: u64| {
        let layers = Image::new("linux/amd64").layer(random_bytes(more, 100)).layer(shared.clone());
        layers.user("10001").build()
    };
    let (python, nbedr, cold) = (with(61), with(62), with(63));
    python.push(&stage.fleet.hub, PYTHON, "3.11.9");
    nbedr.push(&stage.fleet.ghcr, NBEDR, "v1.0.0");
    cold.push(&stage.fleet.hub, VECTOR, "0.8.0-pg16");
    let rows = [(format!("docker.io/{PYTHON}:3.11.9"), &python), (format!("ghcr.io/{NBEDR}:v1.0.0"), &nbedr)];
    for (reference, image) in &rows {
        stage.serves(reference, reference, image).await;
    }
    let layer = Digest::sha256(&shared);
    let recall = format!("[[recall]]\nid = \"RC-1\"\nreason = \"CVE-2026-12345\"\nlayers = [\"{layer}\"]\n");
    let policy = format!("{}\n{recall}", shipped_policy().replace("\"2026.11\"", "\"2026.12\""));
    stage.fleet.gateway.site.write_policy(&policy);
    until("the recall is in force", async || {
        let events = stage.fleet.gateway.events().await;
        events.iter().any(|event| event["kind"] == "policy" && event["policy"]["revision"] == "2026.12")
    })
    .await;
    for (reference, image) in &rows {
        stage.refuses(reference, reference, "recall").await;
        let by_digest = format!("{}@{}", repository_of(reference), image.digest());
        stage.refuses(&by_digest, &by_digest, "recall").await;
    }
    let reference = format!("docker.io/{VECTOR}:0.8.0-pg16");
    stage.refuses(&reference, &reference, "recall").await;
}
