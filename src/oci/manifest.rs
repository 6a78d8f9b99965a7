//! Manifests: what they lead to, read once and without belief.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::spelling::Spelt;
use super::{Algorithm, Digest, Hasher};

/// The largest manifest accepted, in bytes (distribution-spec: registries must take at least 4 MiB).
pub const MANIFEST_MAX: usize = 4 << 20;
/// What one manifest may name: twice what the policy lets an index carry, and far more than any image.
const EDGES_MAX: usize = 2000;

/// The media types the gateway asks an upstream for, whatever its own client accepts, so that what is
/// resolved, stored and locked never depends on who asks.
pub const MANIFEST_ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.artifact.manifest.v1+json, \
application/vnd.docker.distribution.manifest.v1+prettyjws;q=0.5, \
application/vnd.docker.distribution.manifest.v1+json;q=0.5, */*;q=0.1";

/// A pointer to content (image-spec, descriptor.md).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// What it is called.
    pub digest: Digest,
    /// Its exact length in bytes.
    pub size: u64,
    /// Where else it could be fetched: a foreign layer, which would send the client past the gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// For a child of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// For a referrer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free text, never believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// Whether it points to an index, by its own word.
    pub fn is_index(&self) -> bool {
        is_index_type(&self.media_type)
    }
}

/// Where an image runs (image-spec, image-index.md).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Platform {
    /// GOARCH.
    pub architecture: String,
    /// GOOS.
    pub os: String,
    /// For instance `v7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// For Windows.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
}

impl Platform {
    /// Whether it says that what it describes runs nowhere: `unknown/unknown`, BuildKit's mark of an
    /// attestation in an index.
    pub fn is_unknown(&self) -> bool {
        self.os == "unknown" && self.architecture == "unknown"
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// What a manifest is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// An image or any other artifact: config and layers.
    Image,
    /// An index: other manifests.
    Index,
    /// Docker's schema 1, which no digest of layers protects: recognised in order to be refused.
    Schema1,
}

/// How a manifest leads to other content.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// A manifest in an index.
    Child,
    /// The config of an image.
    Config,
    /// A layer or artifact blob.
    Layer,
}

impl Role {
    /// The word it is stored under.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Child => "child",
            Self::Config => "config",
            Self::Layer => "layer",
        }
    }
}

/// A manifest that was parsed: its own name, and what it leads to.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The digest it was verified against.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The `Content-Type` it is served with: what the upstream said, checked against its own words.
    pub media_type: String,
    /// What it is.
    pub kind: Kind,
    /// What kind of artifact, where it says so.
    pub artifact_type: Option<String>,
    /// What it is about, for a referrer.
    pub subject: Option<Descriptor>,
    /// What it leads to, in its own order; each digest once.
    pub edges: Vec<(Role, Descriptor)>,
    /// Free text, never believed.
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are no manifest.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// Both an index and an image: two readers would see two things (CVE-2021-41190).
    #[error("the manifest is ambiguous: it has both `manifests` and `layers` or `config`")]
    Ambiguous,
    /// Its bytes have another digest.
    #[error("the manifest's bytes are {found}, not {expected}")]
    Digest {
        /// What was asked for.
        expected: Box<Digest>,
        /// What arrived.
        found: Box<Digest>,
    },
    /// No JSON, or not of the right shape.
    #[error("the manifest cannot be read: {0}")]
    Malformed(String),
    /// `Content-Type` and `mediaType` differ.
    #[error("the upstream called it {header:?}, it calls itself {body:?}")]
    MediaType {
        /// `Content-Type`.
        header: String,
        /// `mediaType`.
        body: String,
    },
    /// Over [`MANIFEST_MAX`].
    #[error("the manifest has {0} bytes; at most {MANIFEST_MAX} are accepted")]
    TooLarge(usize),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Verifies the bytes against `expected` (or names them by sha256) and reads them.
    ///
    /// `content_type` is what the upstream said; parameters after `;` are dropped. It is believed
    /// only where the manifest does not say what it is.
    pub fn parse(
        bytes: &[u8],
        content_type: Option<&str>,
        expected: Option<&Digest>,
    ) -> Result<Self, ManifestError> {
        if bytes.len() > MANIFEST_MAX {
            return Err(ManifestError::TooLarge(bytes.len()));
        }
        let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        let digest = hasher.finish();
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(ManifestError::Digest { expected: Box::new(*expected), found: Box::new(digest) });
        }
        let header =
            content_type.map(|text| text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
        let header = header.filter(|text| is_media_type(text));
        let malformed = |error: &dyn std::fmt::Display| {
            // A parser quotes what it read, and that may be megabytes.
            ManifestError::Malformed(error.to_string().chars().take(300).collect())
        };
        if is_schema1(header.as_deref(), bytes) {
            return Ok(Self {
                digest,
                size: bytes.len() as u64,
                media_type: header
                    .unwrap_or_else(|| "application/vnd.docker.distribution.manifest.v1+json".to_owned()),
                kind: Kind::Schema1,
                artifact_type: None,
                subject: None,
                edges: Vec::new(),
                annotations: BTreeMap::new(),
            });
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
        let Spelt = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
        if wire.schema_version.is_some_and(|version| version != 2) {
            return Err(malformed(&"schemaVersion must be 2"));
        }
        let is_index = wire.manifests.is_some();
        if is_index && (wire.layers.is_some() || wire.config.is_some() || wire.blobs.is_some()) {
            return Err(ManifestError::Ambiguous);
        }
        if !is_index && wire.layers.is_none() && wire.config.is_none() && wire.blobs.is_none() {
            return Err(malformed(&"it has neither `manifests` nor `config` and `layers`"));
        }
        let media_type = match (header, wire.media_type) {
            (Some(header), Some(body))
                if header != body.to_ascii_lowercase() && is_manifest_type(&header) =>
            {
                return Err(ManifestError::MediaType { header, body });
            }
            (_, Some(body)) => body,
            (_, None) if is_index => INDEX.to_owned(),
            (_, None) => IMAGE.to_owned(),
        };
        if is_schema1_type(&media_type.to_ascii_lowercase())
            || (is_manifest_type(&media_type) && is_index != is_index_type(&media_type))
        {
            return Err(malformed(&format!("it is no {media_type}")));
        }
        if !is_media_type(&media_type) {
            return Err(malformed(&"its mediaType is no media type"));
        }
        let mut edges: Vec<(Role, Descriptor)> = Vec::new();
        edges.extend(wire.manifests.into_iter().flatten().map(|child| (Role::Child, child)));
        edges.extend(wire.config.map(|config| (Role::Config, config)));
        edges.extend(wire.layers.into_iter().chain(wire.blobs).flatten().map(|layer| (Role::Layer, layer)));
        if edges.len() > EDGES_MAX {
            return Err(malformed(&format!(
                "it names {} things; at most {EDGES_MAX} are accepted",
                edges.len()
            )));
        }
        let mut first: BTreeMap<Digest, (u64, bool)> = BTreeMap::new();
        for (_, edge) in &edges {
            let (size, foreign) = (edge.size, !edge.urls.is_empty());
            let before = *first.entry(edge.digest).or_insert((size, foreign));
            if before.0 != size {
                return Err(malformed(&format!("it gives {} two sizes", edge.digest)));
            }
            // Each digest is kept once: the addresses of a second mention must not get lost with it.
            if before.1 != foreign {
                return Err(malformed(&format!("it gives {} with and without urls", edge.digest)));
            }
        }
        let mut seen = std::collections::HashSet::new();
        edges.retain(|(role, edge)| seen.insert((*role, edge.digest)));
        Ok(Self {
            digest,
            size: bytes.len() as u64,
            media_type,
            kind: if is_index { Kind::Index } else { Kind::Image },
            artifact_type: wire.artifact_type,
            subject: wire.subject,
            edges,
            annotations: wire.annotations.unwrap_or_default(),
        })
    }

    /// The manifests of an index, with their platforms.
    pub fn children(&self) -> impl Iterator<Item = &Descriptor> {
        self.edges.iter().filter(|(role, _)| *role == Role::Child).map(|(_, child)| child)
    }

    /// The config and layers of an image.
    pub fn blobs(&self) -> impl Iterator<Item = &Descriptor> {
        self.edges.iter().filter(|(role, _)| *role != Role::Child).map(|(_, blob)| blob)
    }

    /// The config, where it is an image's by its media type.
    pub fn image_config(&self) -> Option<&Descriptor> {
        let (_, config) = self.edges.iter().find(|(role, _)| *role == Role::Config)?;
        super::is_config_type(&config.media_type).then_some(config)
    }

    /// The pointer to this manifest.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest,
            size: self.size,
            urls: Vec::new(),
            platform: None,
            artifact_type: self.artifact_type.clone(),
            annotations: None,
        }
    }
}

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Whether it can be a `Content-Type`.
fn is_media_type(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_index_type(media_type: &str) -> bool {
    matches!(media_type, INDEX | "application/vnd.docker.distribution.manifest.list.v2+json")
}

/// Whether this media type is one of a manifest, so that a blob of it may be judged as one.
pub fn is_manifest_type(media_type: &str) -> bool {
    is_index_type(media_type)
        || matches!(
            media_type,
            IMAGE
                | "application/vnd.docker.distribution.manifest.v2+json"
                | "application/vnd.oci.artifact.manifest.v1+json"
        )
}

fn is_schema1(header: Option<&str>, bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: u64,
    }
    // The bytes decide where they say: one upstream's header must not make a manifest of version 2
    // look like another thing for every repository that has it.
    match serde_json::from_slice::<Version>(bytes) {
        Ok(version) => version.schema_version == 1,
        Err(_) => header.is_some_and(is_schema1_type),
    }
}

fn is_schema1_type(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.docker.distribution.manifest.v1+")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: &str = r#"{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":3,"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}"#;

    fn parse(text: &str, content_type: Option<&str>) -> Result<Manifest, ManifestError> {
        Manifest::parse(text.as_bytes(), content_type, None)
    }

    #[test]
    fn an_image_leads_to_its_config_and_layers() {
        let text = format!(r#"{{"schemaVersion":2,"config":{LAYER},"layers":[{LAYER},{LAYER}]}}"#);
        let manifest = parse(&text, None).expect("a manifest");
        assert_eq!(manifest.kind, Kind::Image);
        assert_eq!(manifest.media_type, IMAGE);
        assert_eq!(manifest.edges.len(), 2, "the same layer twice is one edge");
        assert_eq!(manifest.digest, Digest::sha256(text.as_bytes()));
    }

    #[test]
    fn a_manifest_that_two_readers_would_read_differently_is_refused() {
        let text = format!(r#"{{"schemaVersion":2,"manifests":[],"layers":[{LAYER}]}}"#);
        assert_eq!(parse(&text, None).err(), Some(ManifestError::Ambiguous));
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","layers":[{LAYER}]}}"#);
        assert!(matches!(parse(&text, None), Err(ManifestError::Malformed(_))));
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","layers":[{LAYER}]}}"#);
        assert!(matches!(parse(&text, Some(INDEX)), Err(ManifestError::MediaType { .. })));
        for layer in [",\"URLs\":[\"http://x\"]}", ",\"url\u{17f}\":[\"http://x\"]}"] {
            let text = format!(r#"{{"schemaVersion":2,"layers":[{}]}}"#, LAYER.replace('}', layer));
            assert!(matches!(parse(&text, None), Err(ManifestError::Malformed(_))), "{text}");
        }
        let text = format!(r#"{{"schemaVersion":2,"layers":[{LAYER}],"Layers":[]}}"#);
        assert!(matches!(parse(&text, None), Err(ManifestError::Malformed(_))));
        let foreign = LAYER.replace('}', ",\"urls\":[\"http://x\"]}");
        let text = format!(r#"{{"schemaVersion":2,"layers":[{LAYER},{foreign}]}}"#);
        assert!(matches!(parse(&text, None), Err(ManifestError::Malformed(_))));
        let other = LAYER.replace("\"size\":3", "\"size\":4");
        let text = format!(r#"{{"schemaVersion":2,"layers":[{LAYER},{other}]}}"#);
        assert!(matches!(parse(&text, None), Err(ManifestError::Malformed(_))));
    }

    #[test]
    fn annotations_may_be_called_like_keys() {
        let text = format!(r#"{{"schemaVersion":2,"layers":[{LAYER}],"annotations":{{"Layers":"1"}}}}"#);
        assert!(parse(&text, None).is_ok());
    }

    #[test]
    fn an_octet_stream_header_does_not_overrule_the_manifest() {
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","layers":[{LAYER}]}}"#);
        let manifest = parse(&text, Some("application/octet-stream; charset=utf-8")).expect("a manifest");
        assert_eq!(manifest.media_type, IMAGE);
    }

    #[test]
    fn schema_1_is_recognised_by_header_or_version() {
        assert_eq!(parse(r#"{"schemaVersion":1,"name":"x"}"#, None).map(|m| m.kind), Ok(Kind::Schema1));
        let header = Some("application/vnd.docker.distribution.manifest.v1+prettyjws");
        assert_eq!(parse("{}", header).map(|m| m.kind), Ok(Kind::Schema1));
    }

    #[test]
    fn other_bytes_than_the_digest_names_are_refused() {
        let expected = Digest::sha256(b"something else");
        assert!(matches!(Manifest::parse(b"{}", None, Some(&expected)), Err(ManifestError::Digest { .. })));
    }

    #[test]
    fn hostile_bytes_are_an_error_and_never_a_panic() {
        for text in
            ["", "[]", "null", "{", "{}", r#"{"schemaVersion":3,"layers":[]}"#, r#"{"layers":[{"size":-1}]}"#]
        {
            assert!(parse(text, None).is_err(), "{text}");
        }
        let deep = "[".repeat(200_000);
        assert!(parse(&deep, None).is_err());
        assert!(matches!(
            Manifest::parse(&vec![b' '; MANIFEST_MAX + 1], None, None),
            Err(ManifestError::TooLarge(_))
        ));
    }
}
