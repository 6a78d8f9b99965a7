//! Companions: signatures, attestations and other small things that belong to an image.

use crate::oci::{Algorithm, Descriptor, Digest, Kind, Manifest, Role, Tag, is_config_type};

/// The most subject edges between an admitted digest and its companion.
pub(super) const LEVELS_MAX: u8 = 2;
/// The most bytes a companion leads to.
pub(super) const SIZE_MAX: u64 = 32 << 20;

/// What a `sha256-<hex>[.sig|.att|.sbom]` tag belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Companion {
    /// Its subject; unknown under sha512, whose digest the tag holds only half of (128 characters
    /// are the most a tag may have, so the spec cuts it).
    pub(super) subject: Option<Digest>,
}

impl Companion {
    /// Reads a tag; none when it is an ordinary one.
    pub(super) fn of(tag: &Tag) -> Option<Self> {
        let text = tag.as_str();
        let (algorithm, rest) = if let Some(rest) = text.strip_prefix("sha256-") {
            (Algorithm::Sha256, rest)
        } else {
            (Algorithm::Sha512, text.strip_prefix("sha512-")?)
        };
        let hex = [".sig", ".att", ".sbom"].iter().find_map(|end| rest.strip_suffix(end)).unwrap_or(rest);
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if hex.len() != 64 || !hex.bytes().all(is_hex) {
            return None;
        }
        let subject = match algorithm {
            Algorithm::Sha256 => format!("sha256:{hex}").parse().ok(),
            Algorithm::Sha512 => None,
        };
        Some(Self { subject })
    }
}

/// The digest that a `sha256-<hex>[.sig|.att|.sbom]` tag belongs to; none for other tags, and for sha512, of
/// which such a tag holds half.
pub fn companion_subject(tag: &Tag) -> Option<Digest> {
    Companion::of(tag)?.subject
}

/// Why a manifest is more than a leaf; nothing when it is one.
pub(super) fn excess(manifest: &Manifest) -> Option<String> {
    let total = manifest.edges.iter().fold(manifest.size, |sum, (_, edge)| sum.saturating_add(edge.size));
    if manifest.kind == Kind::Schema1 {
        return Some("it is a schema 1 image".to_owned());
    }
    if total > SIZE_MAX {
        return Some(format!("it leads to {total} bytes; a companion leads to at most {SIZE_MAX}"));
    }
    if let Some((_, layer)) = manifest.edges.iter().find(|(_, edge)| is_layer(&edge.media_type)) {
        return Some(format!("it holds an image layer ({})", layer.digest));
    }
    if let Some((_, layer)) = unpackable(manifest) {
        return Some(format!(
            "it is an image by its config, and its layer {} ({}) is no text",
            layer.digest, layer.media_type
        ));
    }
    let child = manifest.children().find(|child| has_platform(child))?;
    Some(format!("it holds an image for a platform ({})", child.digest))
}

/// A layer that docker and podman would unpack whatever its media type: both go by the config's alone.
/// Signatures and attestations have an image's config as well, and layers of text.
fn unpackable(manifest: &Manifest) -> Option<&(Role, Descriptor)> {
    let mut edges = manifest.edges.iter();
    edges.find(|(role, edge)| *role == Role::Config && is_config_type(&edge.media_type))?;
    manifest.edges.iter().find(|(role, edge)| *role == Role::Layer && !is_text(&edge.media_type))
}

/// Whether a media type is that of a text: JSON, XML or `text/…`.
pub(super) fn is_text(media_type: &str) -> bool {
    let media_type = bare(media_type);
    media_type == "application/json"
        || media_type.starts_with("text/")
        || media_type.ends_with("+json")
        || media_type.ends_with("+xml")
}

/// Lower case, without parameters.
fn bare(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a blob is small enough and of no type that a runtime would unpack.
pub(super) fn is_leaf_blob(blob: &Descriptor) -> bool {
    blob.size <= SIZE_MAX && !is_layer(&blob.media_type)
}

fn is_layer(media_type: &str) -> bool {
    let media_type = media_type.to_ascii_lowercase();
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

/// BuildKit marks what is no image as `unknown/unknown`.
fn has_platform(child: &Descriptor) -> bool {
    child.platform.as_ref().is_some_and(|platform| !platform.is_unknown())
}
