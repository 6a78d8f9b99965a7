//! What a manifest must be like, whoever asks for it.

use super::{Code, Image, Reason};
use crate::oci::{Kind, Manifest};

/// The most manifests an index may list.
pub const CHILDREN_MAX: usize = 1000;

/// The most indexes that may lie below one another.
pub(super) const DEPTH_MAX: u8 = 2;
/// The most indexes that an index may list: each has to be read before it is judged.
pub const NESTED_MAX: usize = 16;

/// One content check that ran.
pub(super) struct Finding {
    pub(super) id: &'static str,
    pub(super) observed: String,
    pub(super) expected: &'static str,
    pub(super) refusal: Option<Reason>,
}

/// Runs the content checks of this version.
pub(super) fn judge(image: &Image) -> impl Iterator<Item = Finding> {
    let manifest = &image.manifest;
    [Some(media(manifest)), (manifest.kind == Kind::Index).then(|| index(image))].into_iter().flatten()
}

fn media(manifest: &Manifest) -> Finding {
    let foreign = manifest.edges.iter().find(|(_, edge)| !edge.urls.is_empty());
    let refusal = if manifest.kind == Kind::Schema1 {
        Some(Reason::new(
            Code::MediaRefused,
            "it is a Docker schema 1 image, whose layers no digest protects",
            Some("push it again with a current client, or use a newer tag".to_owned()),
        ))
    } else {
        foreign.map(|(_, edge)| {
            Reason::new(
                Code::MediaRefused,
                format!(
                    "it sends clients elsewhere for {} (a foreign layer)",
                    super::decide::short(&edge.digest)
                ),
                Some("use an image whose layers are all in its registry".to_owned()),
            )
        })
    };
    let observed = if foreign.is_some() {
        format!("{} with urls", manifest.media_type)
    } else {
        manifest.media_type.clone()
    };
    Finding { id: "media", observed, expected: "not schema 1, no descriptors with urls", refusal }
}

fn index(image: &Image) -> Finding {
    let children = image.manifest.children().count();
    let nested = image.manifest.children().filter(|child| child.is_index()).count();
    let excess = if children > CHILDREN_MAX {
        Some(format!("its index lists {children} manifests; at most {CHILDREN_MAX} are accepted"))
    } else if nested > NESTED_MAX {
        Some(format!("its index lists {nested} other indexes; at most {NESTED_MAX} are accepted"))
    } else if image.depth > DEPTH_MAX {
        Some("its index lists indexes of indexes; an index of indexes of manifests is accepted".to_owned())
    } else {
        None
    };
    let refusal = excess.map(|excess| {
        let remedy = "name the manifest of your platform by digest".to_owned();
        Reason::new(Code::IndexTooLarge, excess, Some(remedy))
    });
    let observed = match nested {
        0 => format!("{children} manifests"),
        _ => format!("{children} manifests, {nested} of them indexes, {} deep", image.depth),
    };
    Finding { id: "index", observed, expected: "at most 1000 manifests, 16 indexes, 2 deep", refusal }
}
