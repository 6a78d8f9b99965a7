//! What the upstream holds: a real Debian, made once for all runs, and images made by hand.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use pullgate::oci::{Algorithm, Digest, Hasher};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::process::{Scratch, note, run};
use super::registry::Registry;

/// Allowed by the tests' policy; a whole Debian.
pub(crate) const DEBIAN: &str = "docker.io/library/debian:12.5-slim-bookworm";
/// Refused by its tag, though the upstream has it: the same layer under another config.
pub(crate) const DEBIAN_LATEST: &str = "docker.io/library/debian:latest";
/// Allowed as a literal tag; an index over linux/amd64 and linux/arm64.
pub(crate) const PGVECTOR: &str = "docker.io/pgvector/pgvector:0.8.0-pg16";
/// Refused by its tag; its digest is one that no allowed tag leads to.
pub(crate) const PGVECTOR_LATEST: &str = "docker.io/pgvector/pgvector:latest";
/// No source of the policy owns it, though the upstream has it.
pub(crate) const REDIS: &str = "docker.io/bitnami/redis:7.2.5";

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const ARCHITECTURES: [&str; 2] = ["amd64", "arm64"];

/// The folder in Cargo's own temporary one; another number wherever what it holds changes.
const KEPT: &str = "clients-1";

/// The storage folder of a registry that holds the images above, and what to compare pulls with.
pub(crate) struct Stock {
    folder: PathBuf,
    /// The upstream's own test CA and its server certificate for `localhost`.
    pub(crate) tls: Tls,
    pub(crate) facts: Facts,
}

/// What is true of the images.
#[derive(Deserialize, Serialize)]
pub(crate) struct Facts {
    pub(crate) debian: Digest,
    /// What `/etc/debian_version` says in the image.
    pub(crate) debian_version: String,
    pub(crate) pgvector: Digest,
    pub(crate) pgvector_latest: Digest,
    /// Every blob that an all-platforms pull of the index must bring.
    pub(crate) pgvector_blobs: Vec<Digest>,
}

/// PEM files of one server.
pub(crate) struct Tls {
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

/// The stock, made at the first call and kept between runs because a Debian takes half a minute; or the
/// reason why it cannot be made here.
pub(crate) fn stock() -> Result<&'static Stock, &'static str> {
    static STOCK: OnceLock<Result<Stock, String>> = OnceLock::new();
    STOCK.get_or_init(Stock::open).as_ref().map_err(String::as_str)
}

impl Stock {
    fn open() -> Result<Self, String> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(KEPT);
        if !folder.is_dir() {
            let work = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            fill(work.path())?;
            // Renamed whole, so that neither a killed run nor one beside this leaves half of it.
            if fs::rename(work.path(), &folder).is_ok() {
                _ = work.keep();
            }
        }
        let facts = serde_json::from_slice(&fs::read(folder.join("facts.json")).unwrap()).unwrap();
        Ok(Self { tls: Tls::in_folder(&folder), folder, facts })
    }

    /// Root folder for the registry's file system driver; nobody writes to it any more.
    pub(crate) fn storage(&self) -> PathBuf {
        self.folder.join("storage")
    }
}

fn fill(folder: &Path) -> Result<(), String> {
    let scratch = Scratch::new();
    let debian = Debian::bootstrap(&scratch.folder("debian"))?;
    let layout = Layout::new(scratch.folder("layout"));
    let layer = layout.keep_file(&debian.layer, &format!("{LAYER}+gzip"));
    let allowed = layout.image("amd64", &layer, &debian.diff_id, &json!({}));
    let refused = layout.image("amd64", &layer, &debian.diff_id, &json!({ "tag": "latest" }));
    layout.name("debian", &allowed);
    layout.name("debian-latest", &refused);

    let mut blobs = Vec::new();
    let mut children = Vec::new();
    for architecture in ARCHITECTURES {
        let (layer, diff_id) = layout.layer(scratch.path(), &format!("pgvector for {architecture}"));
        let mut child = layout.image(architecture, &layer, &diff_id, &json!({}));
        blobs.extend([digest(&layer), digest(&child), layout.config_of(&child)]);
        child["platform"] = json!({ "os": "linux", "architecture": architecture });
        children.push(child);
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children });
    let index = layout.keep(index.to_string().as_bytes(), INDEX);
    layout.name("pgvector", &index);
    let (layer, diff_id) = layout.layer(scratch.path(), "whatever was pushed last");
    let latest = layout.image("amd64", &layer, &diff_id, &json!({}));
    layout.name("pgvector-latest", &latest);

    let registry = Registry::start(&scratch, &folder.join("storage"), &Tls::make(folder));
    for (name, image) in [
        ("debian", DEBIAN),
        ("debian-latest", DEBIAN_LATEST),
        ("pgvector", PGVECTOR),
        ("pgvector-latest", PGVECTOR_LATEST),
        ("pgvector-latest", REDIS),
    ] {
        registry.push(&layout.folder, name, image);
    }
    let facts = Facts {
        debian: digest(&allowed),
        debian_version: debian.version,
        pgvector: digest(&index),
        pgvector_latest: digest(&latest),
        pgvector_blobs: blobs,
    };
    fs::write(folder.join("facts.json"), serde_json::to_vec(&facts).unwrap()).unwrap();
    Ok(())
}

fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

impl Tls {
    /// The CA alone in its folder: skopeo takes that folder whole and wants a certificate to each key.
    fn in_folder(folder: &Path) -> Self {
        Self {
            ca: folder.join("tls/ca.crt"),
            certificate: folder.join("tls/server/server.crt"),
            key: folder.join("tls/server/server.key"),
        }
    }

    fn make(folder: &Path) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.distinguished_name.push(rcgen::DnType::CommonName, "upstream test CA");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let authority_key = KeyPair::generate().unwrap();
        let authority_certificate = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let certificate = leaf.signed_by(&key, &issuer).unwrap();
        let tls = Self::in_folder(folder);
        fs::create_dir_all(tls.key.parent().unwrap()).unwrap();
        fs::write(&tls.ca, authority_certificate.pem()).unwrap();
        fs::write(&tls.certificate, certificate.pem()).unwrap();
        fs::write(&tls.key, key.serialize_pem()).unwrap();
        tls
    }
}

/// A Debian root file system from the distribution's mirror, compressed.
struct Debian {
    layer: PathBuf,
    diff_id: Digest,
    version: String,
}

impl Debian {
    fn bootstrap(folder: &Path) -> Result<Self, String> {
        note("making a Debian image with mmdebstrap (once, about half a minute)");
        let limit = Duration::from_secs(600);
        let tar = folder.join("layer.tar");
        let mut mmdebstrap = Command::new("mmdebstrap");
        mmdebstrap.args(["--quiet", "--variant=essential"]);
        for folder in ["doc", "info", "locale", "man"] {
            mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"));
        }
        let said = run(mmdebstrap.arg("bookworm").arg(&tar), limit);
        if !said.succeeded {
            let why = said.words.lines().last().unwrap_or("no reason given").to_owned();
            return Err(format!("mmdebstrap could not make a Debian image here: {why}"));
        }
        let diff_id = hash_of(&tar);
        let mut version = Command::new("tar");
        let version = run(version.arg("-xOf").arg(&tar).arg("./etc/debian_version"), limit).or_fail("tar");
        run(Command::new("gzip").args(["-1", "--no-name"]).arg(&tar), limit).or_fail("gzip");
        Ok(Self { layer: folder.join("layer.tar.gz"), diff_id, version: version.trim().to_owned() })
    }
}

fn hash_of(path: &Path) -> Digest {
    let mut file = File::open(path).unwrap();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut piece = vec![0; 256 * 1024];
    loop {
        match file.read(&mut piece).unwrap() {
            0 => return hasher.finish(),
            count => hasher.update(&piece[..count]),
        }
    }
}

/// An OCI layout written by hand: what skopeo pushes from.
struct Layout {
    folder: PathBuf,
}

impl Layout {
    fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let index = json!({ "schemaVersion": 2, "manifests": [] });
        fs::write(folder.join("index.json"), index.to_string()).unwrap();
        Self { folder }
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.hex())
    }

    /// Stores bytes and returns their descriptor.
    fn keep(&self, bytes: &[u8], media_type: &str) -> Value {
        let digest = Digest::sha256(bytes);
        fs::write(self.path(&digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    fn keep_file(&self, path: &Path, media_type: &str) -> Value {
        let digest = hash_of(path);
        let size = fs::copy(path, self.path(&digest)).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": size })
    }

    /// A layer with one file, `/hello`: its descriptor and its diff id.
    fn layer(&self, scratch: &Path, text: &str) -> (Value, Digest) {
        fs::write(scratch.join("hello"), text).unwrap();
        let tar = scratch.join("layer.tar");
        let mut command = Command::new("tar");
        command.arg("-cf").arg(&tar).args(["--mtime=@0", "--owner=0", "--group=0"]).arg("-C").arg(scratch);
        run(command.arg("hello"), Duration::from_secs(60)).or_fail("tar");
        let descriptor = self.keep_file(&tar, LAYER);
        (descriptor, hash_of(&tar))
    }

    /// An image of one layer; returns its manifest's descriptor.
    fn image(&self, architecture: &str, layer: &Value, diff_id: &Digest, labels: &Value) -> Value {
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "created": "2026-11-01T00:00:00Z",
            "config": { "Cmd": ["/bin/sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "Labels": labels },
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
        });
        let config = self.keep(config.to_string().as_bytes(), CONFIG);
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        self.keep(manifest.to_string().as_bytes(), MANIFEST)
    }

    fn config_of(&self, manifest: &Value) -> Digest {
        let manifest = fs::read(self.path(&digest(manifest))).unwrap();
        digest(&serde_json::from_slice::<Value>(&manifest).unwrap()["config"])
    }

    fn name(&self, name: &str, descriptor: &Value) {
        let path = self.folder.join("index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut entry = descriptor.clone();
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        index["manifests"].as_array_mut().unwrap().push(entry);
        fs::write(path, index.to_string()).unwrap();
    }
}
