//! Small images, indexes and artifacts whose every byte is known.

use bytes::Bytes;
use pullgate::oci::Digest;
use serde_json::{Map, Value, json};

use super::content::Repository;
use super::registry::Registry;

const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Bytes that do not compress and are the same for the same seed.
pub(crate) fn random_bytes(seed: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes.into()
}

/// A manifest or an index with everything it names: built by [`Image`], [`Index`] and [`Artifact`].
#[derive(Clone, Debug)]
pub(crate) struct Fixture {
    /// The manifests of an index, in order.
    pub(crate) children: Vec<Fixture>,
    /// The config first, then the layers; none for an index.
    pub(crate) blobs: Vec<Bytes>,
    /// The manifest's bytes.
    pub(crate) manifest: Bytes,
    pub(crate) media_type: &'static str,
    /// What an index says of it besides type, digest and size.
    entry: Map<String, Value>,
}

impl Fixture {
    pub(crate) fn digest(&self) -> Digest {
        Digest::sha256(&self.manifest)
    }

    /// The digest of the config.
    pub(crate) fn config(&self) -> Digest {
        Digest::sha256(&self.blobs[0])
    }

    /// The bytes of a layer, counted from 0.
    pub(crate) fn layer(&self, index: usize) -> &Bytes {
        &self.blobs[index + 1]
    }

    /// The manifest that this one refers to.
    pub(crate) fn subject(&self) -> Option<Digest> {
        let manifest: Value = serde_json::from_slice(&self.manifest).unwrap();
        manifest["subject"]["digest"].as_str()?.parse().ok()
    }

    /// How an index or a `subject` names it.
    pub(crate) fn descriptor(&self) -> Value {
        let mut descriptor = descriptor(self.media_type, &self.manifest);
        for (key, value) in &self.entry {
            descriptor[key] = value.clone();
        }
        descriptor
    }

    /// Puts it into a registry with all its blobs and children.
    pub(crate) fn push<'tag>(
        &self,
        registry: &Registry,
        repository: &str,
        tag: impl Into<Option<&'tag str>>,
    ) -> Digest {
        for child in &self.children {
            child.push(registry, repository, None);
        }
        for blob in &self.blobs {
            registry.push_blob(repository, blob.clone());
        }
        registry.push_manifest(repository, tag.into(), self.media_type, self.manifest.clone())
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::sha256(bytes), "size": bytes.len()})
}

/// `os/architecture[/variant]` as the image-spec writes it.
fn platform(text: &str) -> Map<String, Value> {
    let keys = ["os", "architecture", "variant"];
    keys.iter().zip(text.split('/')).map(|(key, part)| ((*key).to_owned(), part.into())).collect()
}

/// An image for one platform, in the making.
#[must_use]
pub(crate) struct Image {
    annotations: Map<String, Value>,
    config: Map<String, Value>,
    docker: bool,
    labels: Map<String, Value>,
    layers: Vec<Bytes>,
    platform: Map<String, Value>,
    user: Option<String>,
}

impl Image {
    /// For `os/architecture[/variant]`, in OCI media types.
    pub(crate) fn new(target: &str) -> Self {
        let created = ("created".to_owned(), json!("2026-11-01T00:00:00Z"));
        Self {
            annotations: Map::new(),
            config: Map::from_iter([created]),
            docker: false,
            labels: Map::new(),
            layers: Vec::new(),
            platform: platform(target),
            user: None,
        }
    }

    /// An annotation of the manifest.
    pub(crate) fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// The config's `created`, RFC 3339; as written, sense or nonsense.
    pub(crate) fn created(mut self, time: &str) -> Self {
        self.config.insert("created".into(), time.into());
        self
    }

    /// Docker schema 2 media types.
    pub(crate) fn docker(mut self) -> Self {
        self.docker = true;
        self
    }

    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// One more layer; any bytes, no tar.
    pub(crate) fn layer(mut self, bytes: impl Into<Bytes>) -> Self {
        self.layers.push(bytes.into());
        self
    }

    /// The config's `User`.
    pub(crate) fn user(mut self, user: &str) -> Self {
        self.user = Some(user.into());
        self
    }

    pub(crate) fn build(self) -> Fixture {
        let (config_type, layer_type, media_type) = if self.docker {
            (DOCKER_CONFIG, DOCKER_LAYER, DOCKER_MANIFEST)
        } else {
            (OCI_CONFIG, OCI_LAYER, OCI_MANIFEST)
        };
        let diff_ids: Vec<_> = self.layers.iter().map(|layer| Digest::sha256(layer)).collect();
        let mut runtime = json!({"Labels": self.labels});
        if let Some(user) = self.user {
            runtime["User"] = user.into();
        }
        let mut config = self.config;
        config.extend(self.platform.clone());
        config.insert("config".into(), runtime);
        config.insert("rootfs".into(), json!({"type": "layers", "diff_ids": diff_ids}));
        let config = Bytes::from(Value::from(config).to_string());

        let layers: Vec<_> = self.layers.iter().map(|layer| descriptor(layer_type, layer)).collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": descriptor(config_type, &config),
            "layers": layers,
        });
        if !self.annotations.is_empty() {
            manifest["annotations"] = self.annotations.into();
        }
        let blobs = [config].into_iter().chain(self.layers).collect();
        let entry = Map::from_iter([("platform".to_owned(), self.platform.into())]);
        Fixture { children: Vec::new(), blobs, manifest: manifest.to_string().into(), media_type, entry }
    }
}

/// Several manifests under one digest.
pub(crate) struct Index;

impl Index {
    /// An OCI index of these.
    pub(crate) fn of(children: impl IntoIterator<Item = Fixture>) -> Fixture {
        Self::build(Repository::INDEX, children)
    }

    /// A docker manifest list of these.
    pub(crate) fn list_of(children: impl IntoIterator<Item = Fixture>) -> Fixture {
        Self::build(DOCKER_LIST, children)
    }

    /// An index with one small image for each platform; another seed makes other content.
    pub(crate) fn platforms(platforms: &[&str], seed: u64) -> Fixture {
        let image =
            |(target, seed): (&&str, u64)| Image::new(target).layer(random_bytes(seed, 2048)).user("10001");
        let seeds = (0..).map(|number| seed * 1000 + number);
        Self::of(platforms.iter().zip(seeds).map(|pair| image(pair).build()))
    }

    fn build(media_type: &'static str, children: impl IntoIterator<Item = Fixture>) -> Fixture {
        let children: Vec<_> = children.into_iter().collect();
        let manifests: Vec<_> = children.iter().map(Fixture::descriptor).collect();
        let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": manifests});
        let manifest = index.to_string().into();
        Fixture { children, blobs: Vec::new(), manifest, media_type, entry: Map::new() }
    }
}

/// Something that is no image: a signature, an attestation, an SBOM.
#[must_use]
pub(crate) struct Artifact {
    blobs: Vec<(String, Bytes)>,
    subject: Option<Value>,
    typ: String,
}

impl Artifact {
    pub(crate) fn new(artifact_type: &str) -> Self {
        Self { blobs: Vec::new(), subject: None, typ: artifact_type.into() }
    }

    pub(crate) fn blob(mut self, media_type: &str, bytes: impl Into<Bytes>) -> Self {
        self.blobs.push((media_type.into(), bytes.into()));
        self
    }

    /// What it refers to.
    pub(crate) fn subject(mut self, subject: &Fixture) -> Self {
        self.subject = Some(descriptor(subject.media_type, &subject.manifest));
        self
    }

    pub(crate) fn build(self) -> Fixture {
        let config = Bytes::from_static(b"{}");
        let layers: Vec<_> =
            self.blobs.iter().map(|(media_type, bytes)| descriptor(media_type, bytes)).collect();
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": self.typ,
            "config": descriptor(EMPTY, &config),
            "layers": layers,
        });
        if let Some(subject) = self.subject {
            manifest["subject"] = subject;
        }
        let blobs = [config].into_iter().chain(self.blobs.into_iter().map(|(_, bytes)| bytes)).collect();
        let entry = Map::from_iter([("artifactType".to_owned(), self.typ.into())]);
        let manifest = manifest.to_string().into();
        Fixture { children: Vec::new(), blobs, manifest, media_type: OCI_MANIFEST, entry }
    }
}
