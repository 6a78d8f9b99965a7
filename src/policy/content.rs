//! What a manifest must be like, whoever asks for it.

use super::{Code, Reason};
use crate::oci::{Kind, Manifest};

/// The most manifests an index may list.
pub const CHILDREN_MAX: usize = 1000;

/// One content check that ran.
pub(super) struct Finding {
    pub(super) id: &'static str,
    pub(super) observed: String,
    pub(super) expected: &'static str,
    pub(super) refusal: Option<Reason>,
}

/// Runs the content checks of this version.
pub(super) fn judge(manifest: &Manifest) -> impl Iterator<Item = Finding> {
    [Some(media(manifest)), (manifest.kind == Kind::Index).then(|| index(manifest))].into_iter().flatten()
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

fn index(manifest: &Manifest) -> Finding {
    let children = manifest.children().count();
    let refusal = (children > CHILDREN_MAX).then(|| {
        Reason::new(
            Code::IndexTooLarge,
            format!("its index lists {children} manifests; at most {CHILDREN_MAX} are accepted"),
            Some("name the manifest of your platform by digest".to_owned()),
        )
    });
    Finding {
        id: "index",
        observed: format!("{children} manifests"),
        expected: "at most 1000 manifests",
        refusal,
    }
}
