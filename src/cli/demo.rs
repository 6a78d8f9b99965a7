//! `pullgate demo`: the whole gateway in seconds, without a network.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_distribution::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Client, Reference};
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use super::serve::{Options, Running};
use super::{Exit, Failure};
use crate::audit::{self, Filter};
use crate::oci::Digest;
use crate::settings::gateway::{Gateway, Origin, Upstream};

/// Shows a pull, a refusal and the record of it, on loopback and in a temporary folder.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
It needs no network and leaves nothing behind. What it does:
  1. makes a small image for two platforms in an OCI layout folder
  2. starts the gateway over that folder on free loopback ports
  3. pulls an allowed tag with the OCI client library, byte for byte
  4. asks for a refused tag, and shows the words its user would see
  5. shows the entry in the audit log

Example:
  pullgate demo")]
pub(crate) struct Arguments {}

const IMAGE: &str = "registry.example/team/app";
const POLICY: &str = r##"
name = "demo"
revision = "1"

[help]
contact = "#platform-security"
url = "https://pullgate.example/d/{id}"

[[source]]
id = "team"
match = "registry.example/team/*"
tags = { allow = ["#.#.#"], deny = ["latest"] }
"##;

/// Runs all of it; fails where a step does not do what it shows.
pub(crate) fn run(_: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    super::block_on(demonstrate(out))?.map(|()| Exit::Done)
}

async fn demonstrate(out: &mut dyn Write) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let layout = folder.path().join("layout");
    let made = Layout::write(&layout)?;
    step(out, 1, &format!("made {IMAGE}:1.0.0 for linux/amd64 and linux/arm64 in an OCI layout folder"))?;

    let settings = settings(folder.path(), layout)?;
    let running = Running::start(&settings, Options::default()).await?;
    let gateway = format!("localhost:{}", running.address().port());
    step(out, 2, &format!("started the gateway over it at https://{gateway}"))?;

    let shown = match pull(&settings.listen.tls.ca, &gateway, &made).await {
        Ok(pulled) => show(&pulled, &settings.storage.path, &running, out).await,
        Err(error) => Err(error),
    };
    running.stop().await;
    shown?;
    writeln!(out)?;
    writeln!(
        out,
        "Next: `pullgate init` writes a configuration, `pullgate serve` starts it; docs/clients.md points"
    )?;
    writeln!(out, "containerd, docker and podman at it.")?;
    Ok(())
}

/// A step of the demo that did not do what it shows.
#[derive(Debug, thiserror::Error)]
#[error("the demo failed: {0}")]
struct Broken(String);

fn broken(what: &str, error: impl std::fmt::Display) -> Failure {
    Failure::internal(Broken(format!("{what}: {error}")))
}

/// What the pulls brought: bytes of the allowed image, and the words of the refusal.
struct Pulled {
    bytes: usize,
    refusal: String,
}

async fn pull(ca: &Path, gateway: &str, made: &Layout) -> Result<Pulled, Failure> {
    let client = client(ca)?;
    let reference = |tag: &str| -> Result<Reference, Failure> {
        format!("{gateway}/{IMAGE}:{tag}").parse().map_err(|error| broken("the image's name", error))
    };
    let accepted = vec![LAYER];
    let image = client
        .pull(&reference("1.0.0")?, &RegistryAuth::Anonymous, accepted.clone())
        .await
        .map_err(|error| broken("the allowed image could not be pulled", error))?;
    let bytes = match image.layers.first() {
        Some(layer) if Digest::sha256(&layer.data) == made.layer => layer.data.len(),
        _ => return Err(broken("the pulled image", "its layer is not the one that was made")),
    };
    match client.pull(&reference("latest")?, &RegistryAuth::Anonymous, accepted).await {
        Ok(_) => Err(broken("the refused tag", "it was served although the demo policy denies it")),
        Err(error) => {
            // The library's own words come first; the gateway's are what its user reads.
            let text = error.to_string();
            let refusal = text.find("blocked by policy").and_then(|at| text.get(at..)).unwrap_or(&text);
            Ok(Pulled { bytes, refusal: refusal.trim_end_matches(']').to_owned() })
        }
    }
}

async fn show(pulled: &Pulled, data: &Path, running: &Running, out: &mut dyn Write) -> Result<(), Failure> {
    step(out, 3, &format!("pulled {IMAGE}:1.0.0 through it: {} bytes of layer, verified", pulled.bytes))?;
    step(out, 4, &format!("asked for {IMAGE}:latest, and was told:"))?;
    writeln!(out, "   {}", pulled.refusal.red())?;
    running.flush_log().await.map_err(Failure::internal)?;
    let filter = Filter { blocked: true, ..Filter::default() };
    let mut entries = audit::query(data, filter).await.map_err(Failure::internal)?;
    let Some(entry) = entries.next().await.map_err(Failure::internal)? else {
        return Err(broken("the audit log", "it does not hold the refusal"));
    };
    step(out, 5, "found it in the audit log (`pullgate log --blocked --json`):")?;
    let chosen = json!({
        "id": entry.text(&["id"]),
        "time": entry.text(&["time"]),
        "verdict": entry.text(&["verdict"]),
        "reason": { "code": entry.text(&["reason", "code"]), "text": entry.text(&["reason", "text"]) },
        "image": { "reference": entry.text(&["image", "reference"]) },
        "client": { "address": entry.text(&["client", "address"]), "user_agent": entry.text(&["client", "user_agent"]) },
        "count": entry.number(&["count"]),
    });
    for line in format!("{chosen:#}").lines() {
        writeln!(out, "   {line}")?;
    }
    Ok(())
}

fn settings(folder: &Path, layout: PathBuf) -> Result<Gateway, Failure> {
    let policy = folder.join("policy.toml");
    fs::write(&policy, POLICY)?;
    let registry = "registry.example".parse().map_err(|error| broken("the demo's registry", error))?;
    let mut settings = Gateway::default();
    settings.listen.address = ([127, 0, 0, 1], 0).into();
    settings.listen.tls.certificate = folder.join("certs/server.crt");
    settings.listen.tls.key = folder.join("certs/server.key");
    settings.listen.tls.ca = folder.join("certs/ca.crt");
    settings.admin.address = ([127, 0, 0, 1], 0).into();
    settings.storage.path = folder.join("data");
    settings.policy.file = policy;
    settings.limits.drain = Duration::from_secs(2);
    settings.upstreams.push(Upstream {
        registry,
        origin: Origin::Layout(layout),
        ca: None,
        auth: None,
        auth_hosts: Vec::new(),
        blob_hosts: None,
    });
    Ok(settings)
}

fn client(ca: &Path) -> Result<Client, Failure> {
    let data = fs::read(ca)?;
    Client::try_from(ClientConfig {
        protocol: ClientProtocol::Https,
        extra_root_certificates: vec![Certificate { encoding: CertificateEncoding::Pem, data }],
        // The demo's image is the same on every machine.
        platform_resolver: Some(Box::new(|manifests| manifests.first().map(|entry| entry.digest.clone()))),
        ..ClientConfig::default()
    })
    .map_err(|error| broken("the OCI client cannot be set up", error))
}

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// The demo's image on disk.
struct Layout {
    layer: Digest,
}

impl Layout {
    fn write(folder: &Path) -> std::io::Result<Self> {
        fs::create_dir_all(folder.join("blobs/sha256"))?;
        let blob = |media_type: &str, bytes: &[u8]| -> std::io::Result<Value> {
            let digest = Digest::sha256(bytes);
            fs::write(folder.join("blobs/sha256").join(digest.hex()), bytes)?;
            Ok(json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() }))
        };
        let content: Vec<u8> =
            (0..256_u32 << 10).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let layer = blob(LAYER, &content)?;
        let mut children = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let config = json!({
                "architecture": architecture, "os": "linux", "config": { "User": "10001" },
                "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(&content)] },
            });
            let config = blob(CONFIG, config.to_string().as_bytes())?;
            let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer.clone()] });
            let mut child = blob(MANIFEST, manifest.to_string().as_bytes())?;
            child["platform"] = json!({ "architecture": architecture, "os": "linux" });
            children.push(child);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
        let mut entries = Vec::new();
        for tag in ["1.0.0", "latest"] {
            let mut entry = blob(INDEX, index.to_string().as_bytes())?;
            entry["annotations"] = json!({
                "org.opencontainers.image.ref.name": tag,
                "io.containerd.image.name": format!("{IMAGE}:{tag}"),
            });
            entries.push(entry);
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        fs::write(folder.join("index.json"), index.to_string())?;
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(Self { layer: Digest::sha256(&content) })
    }
}

fn step(out: &mut dyn Write, number: u8, text: &str) -> Result<(), Failure> {
    writeln!(out, "{} {text}", format!("{number}.").bold())?;
    Ok(())
}
