//! What was withdrawn, ready to be looked up.

use std::collections::HashMap;
use std::sync::Arc;

use super::rules::{Invalid, Item, Recall};
use super::{Code, Reason};
use crate::oci::{Algorithm, Digest, Name, Tag};

/// All `[[recall]]`s of a policy.
#[derive(Debug, Default)]
pub(super) struct Recalls {
    all: Vec<Recall>,
    digests: HashMap<Digest, usize>,
    /// The keys of `digests`, in order.
    manifests: Arc<[Digest]>,
    layers: HashMap<Digest, usize>,
    diff_ids: HashMap<Digest, usize>,
    images: HashMap<Name, Vec<(Option<Tag>, usize)>>,
}

impl Recalls {
    /// Ids are unique, each recalls something, and contents are named by their sha256.
    pub(super) fn new(all: Vec<Recall>) -> Result<Self, Invalid> {
        let mut recalls = Self::default();
        for (at, recall) in all.iter().enumerate() {
            let invalid = |message, help| Err(Invalid { item: Item::Recall(at), message, help });
            if let Some(other) = all.iter().take(at).find(|other| other.id == recall.id) {
                return invalid(
                    format!("the recall id {:?} is used twice (first at {})", &*recall.id, other.at),
                    "give each recall its own id: logs and refusals name it",
                );
            }
            let contents = [&recall.digests, &recall.layers, &recall.diff_ids];
            if let Some(digest) =
                contents.into_iter().flatten().find(|digest| digest.algorithm() != Algorithm::Sha256)
            {
                return invalid(
                    format!("{digest} is no sha256; contents are recalled by the sha256 of their bytes"),
                    "name it by its sha256: it is refused under any other name as well",
                );
            }
            if contents.iter().all(|digests| digests.is_empty()) && recall.images.is_empty() {
                return invalid(
                    format!("recall {:?} names nothing", &*recall.id),
                    "give it `digests`, `layers`, `diff_ids` or `images`, or remove it",
                );
            }
            for (table, digests) in [
                (&mut recalls.digests, &recall.digests),
                (&mut recalls.layers, &recall.layers),
                (&mut recalls.diff_ids, &recall.diff_ids),
            ] {
                for digest in digests {
                    table.entry(*digest).or_insert(at);
                }
            }
            for (name, tag) in &recall.images {
                recalls.images.entry(name.clone()).or_default().push((tag.clone(), at));
            }
        }
        let mut manifests: Vec<Digest> = recalls.digests.keys().copied().collect();
        manifests.sort();
        recalls.manifests = manifests.into();
        recalls.all = all;
        Ok(recalls)
    }

    pub(super) fn all(&self) -> &[Recall] {
        &self.all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether images must be looked into to find what was recalled.
    pub(super) fn looks_inside(&self) -> bool {
        !self.layers.is_empty() || !self.diff_ids.is_empty()
    }

    /// Whether manifests are recalled by their own digest.
    pub(super) fn names_manifests(&self) -> bool {
        !self.digests.is_empty()
    }

    /// The manifests that are recalled by their own digest.
    pub(super) fn manifests(&self) -> &Arc<[Digest]> {
        &self.manifests
    }

    pub(super) fn names_layers(&self) -> bool {
        !self.layers.is_empty()
    }

    /// The recall of all of a repository.
    pub(super) fn repository(&self, name: &Name) -> Option<&Recall> {
        let (_, at) = self.images.get(name)?.iter().find(|(tag, _)| tag.is_none())?;
        self.all.get(*at)
    }

    /// The recall of a tag or of all its repository.
    pub(super) fn tag(&self, name: &Name, tag: &Tag) -> Option<&Recall> {
        let images = self.images.get(name)?;
        let (_, at) =
            images.iter().find(|(recalled, _)| recalled.as_ref().is_none_or(|recalled| recalled == tag))?;
        self.all.get(*at)
    }

    /// The tags of a repository that were recalled.
    pub(super) fn tags(&self, name: &Name) -> Vec<Tag> {
        self.images.get(name).into_iter().flatten().filter_map(|(tag, _)| tag.clone()).collect()
    }

    /// The recall of a manifest; a layer's or a config's digest put there by mistake counts too.
    pub(super) fn digest(&self, digest: &Digest) -> Option<&Recall> {
        self.all.get(*self.digests.get(digest)?)
    }

    /// The recall of a blob by the digest of its stored bytes.
    pub(super) fn blob(&self, digest: &Digest) -> Option<&Recall> {
        let at = self.layers.get(digest).or_else(|| self.digests.get(digest))?;
        self.all.get(*at)
    }

    pub(super) fn diff_id(&self, digest: &Digest) -> Option<&Recall> {
        self.all.get(*self.diff_ids.get(digest)?)
    }
}

impl Recall {
    /// The refusal of something this recall covers; `what` is that thing in a few words.
    pub(super) fn refusal(&self, what: &str) -> Reason {
        let remedy = match &self.replace {
            Some(replace) => format!("use {replace}"),
            None => "use another image".to_owned(),
        };
        Reason::new(Code::Recall, format!("{what} is recalled ({}: {})", self.id, self.reason), Some(remedy))
    }
}

/// What is shown of a recall in a difference of two policies.
pub(super) fn summary(recall: &Recall) -> Arc<str> {
    let mut parts: Vec<String> = recall
        .digests
        .iter()
        .chain(&recall.layers)
        .chain(&recall.diff_ids)
        .map(super::decide::short)
        .collect();
    parts.extend(recall.images.iter().map(|(name, tag)| match tag {
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_string(),
    }));
    parts.join(", ").into()
}
