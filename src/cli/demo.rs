//! `pullgate demo`: the whole gateway in seconds, without a network.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use miette::{IntoDiagnostic as _, WrapErr as _, miette};
use oci_distribution::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use oci_distribution::secrets::RegistryAuth;
use oci_distribution::{Client, Reference};
use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use super::serve::{Options, Running};
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
pub struct Demo {}

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

impl Demo {
    /// Runs all of it; fails where a step does not do what it shows.
    pub async fn run(self) -> miette::Result<ExitCode> {
        let folder = tempfile::tempdir().into_diagnostic().wrap_err("no temporary folder can be made")?;
        let layout = folder.path().join("layout");
        let made = Layout::write(&layout).into_diagnostic().wrap_err("the demo image cannot be written")?;
        step("1", &format!("made {IMAGE}:1.0.0 for linux/amd64 and linux/arm64 in an OCI layout folder"))?;

        let settings = settings(folder.path(), layout)?;
        let running = Running::start(&settings, Options::default()).await?;
        let gateway = format!("localhost:{}", running.address().port());
        step("2", &format!("started the gateway over it at https://{gateway}"))?;

        let client = client(&settings.listen.tls.ca)?;
        let outcome = pull(&client, &gateway, &made).await;
        let shown = show(outcome, &settings.storage.path, &running).await;
        running.stop().await;
        shown?;
        say("")?;
        say("Next: `pullgate init` writes a configuration, `pullgate serve` starts it; docs/clients.md points")?;
        say("containerd, docker and podman at it.")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What the pulls brought: bytes of the allowed image, and the words of the refusal.
struct Pulled {
    bytes: usize,
    refusal: String,
}

async fn pull(client: &Client, gateway: &str, made: &Layout) -> miette::Result<Pulled> {
    let reference = |tag: &str| -> miette::Result<Reference> {
        format!("{gateway}/{IMAGE}:{tag}").parse().into_diagnostic()
    };
    let accepted = vec![LAYER];
    let image = client
        .pull(&reference("1.0.0")?, &RegistryAuth::Anonymous, accepted.clone())
        .await
        .into_diagnostic()
        .wrap_err("the allowed image could not be pulled")?;
    let layer = image.layers.first().ok_or_else(|| miette!("the pulled image has no layer"))?;
    if Digest::sha256(&layer.data) != made.layer {
        return Err(miette!("the pulled layer is not the one that was made"));
    }
    match client.pull(&reference("latest")?, &RegistryAuth::Anonymous, accepted).await {
        Ok(_) => Err(miette!("the tag `latest` was served although the demo policy refuses it")),
        Err(error) => Ok(Pulled { bytes: layer.data.len(), refusal: error.to_string() }),
    }
}

async fn show(outcome: miette::Result<Pulled>, data: &Path, running: &Running) -> miette::Result<()> {
    let Pulled { bytes, refusal } = outcome?;
    step("3", &format!("pulled {IMAGE}:1.0.0 through it: {bytes} bytes of layer, verified"))?;
    step("4", &format!("asked for {IMAGE}:latest, and was told:"))?;
    say(&format!("   {}", refusal.red()))?;
    running.flush_log().await.into_diagnostic()?;
    let filter = Filter { blocked: true, ..Filter::default() };
    let mut entries = audit::query(data, filter).await.into_diagnostic()?;
    let entry = entries
        .next()
        .await
        .into_diagnostic()?
        .ok_or_else(|| miette!("the audit log does not hold the refusal"))?;
    step("5", "found it in the audit log (`pullgate log --blocked --json`):")?;
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
        say(&format!("   {line}"))?;
    }
    Ok(())
}

fn settings(folder: &Path, layout: PathBuf) -> miette::Result<Gateway> {
    let policy = folder.join("policy.toml");
    fs::write(&policy, POLICY).into_diagnostic().wrap_err("the demo policy cannot be written")?;
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
        registry: "registry.example".parse().into_diagnostic()?,
        origin: Origin::Layout(layout),
        ca: None,
        auth: None,
        auth_hosts: Vec::new(),
        blob_hosts: None,
    });
    Ok(settings)
}

fn client(ca: &Path) -> miette::Result<Client> {
    let data = fs::read(ca).into_diagnostic().wrap_err("the gateway's CA cannot be read")?;
    Client::try_from(ClientConfig {
        protocol: ClientProtocol::Https,
        extra_root_certificates: vec![Certificate { encoding: CertificateEncoding::Pem, data }],
        // The demo's image is the same on every machine.
        platform_resolver: Some(Box::new(|manifests| manifests.first().map(|entry| entry.digest.clone()))),
        ..ClientConfig::default()
    })
    .into_diagnostic()
    .wrap_err("the OCI client cannot be set up")
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
        let content: Vec<u8> = (0..256_u32 << 10).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let layer = blob(LAYER, &content)?;
        let mut children = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let config = json!({
                "architecture": architecture, "os": "linux", "config": { "User": "10001" },
                "rootfs": { "type": "layers", "diff_ids": [Digest::sha256(&content)] },
            });
            let config = blob(CONFIG, config.to_string().as_bytes())?;
            let manifest =
                json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer.clone()] });
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

fn step(number: &str, text: &str) -> miette::Result<()> {
    say(&format!("{} {text}", format!("{number}.").bold()))
}

fn say(line: &str) -> miette::Result<()> {
    writeln!(anstream::stdout(), "{line}").into_diagnostic()
}
