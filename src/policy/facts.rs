//! What a decision may need to know, and does not know yet.

use std::sync::Arc;

use crate::oci::{Descriptor, Digest, Fault, Manifest, Name, Tag};

/// A fact in its three states; a decision that meets `Unasked` answers with a [`Need`].
#[derive(Clone, Debug, Default)]
pub enum Known<T> {
    /// It was asked for and could not be had.
    Failed(Fault),
    /// It is known.
    Is(Arc<T>),
    /// Nobody asked yet.
    #[default]
    Unasked,
}

/// Everything known about one ask. Starts empty; `pull` fills in what decisions need.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The manifest of the digest that is to be served.
    pub image: Known<Image>,
    /// Whether the literal tags of a `known` source were resolved upstream within `tag_ttl`.
    pub listed: Known<()>,
    /// Whether the repository itself came by the digest that is to be served.
    pub possession: Known<bool>,
    /// What leads to the digest that was asked for (or, for a companion tag, to its subject).
    pub roots: Known<Roots>,
    /// Where the tag leads.
    pub tag: Known<TagFact>,
}

/// A tag as the gateway knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TagFact {
    /// The digest it was locked to when it was first served here.
    pub lock: Option<Digest>,
    /// Where the upstream says it leads, when last asked; `None`: it said that the tag is gone, or
    /// it has not been asked (possible only where there is a lock).
    pub current: Option<Digest>,
    /// Whether `current` was meant to be fresh and is not, because the upstream cannot be reached.
    pub stale: bool,
}

/// The manifests of this repository that lead to a digest.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Roots {
    /// The length in bytes of the content, where descriptors disagree about it and it is known
    /// otherwise: from the verified blob, else by the word of the upstream.
    pub size: Option<u64>,
    /// The digest itself, where this repository came by it as a manifest, and every manifest above
    /// it, nearest first.
    pub roots: Vec<Root>,
}

/// One manifest from which the asked digest can be reached within the repository.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Root {
    /// The manifest's digest.
    pub digest: Digest,
    /// The tags that lead to it here: locked to it, once served as it, or, unlocked, naming it upstream.
    pub tags: Vec<Tag>,
    /// How many subject edges (referrer, `sha256-…` tag) lie between it and the asked digest:
    /// 0 means its own closure, more means a companion.
    pub levels: u8,
    /// How the manifests that contain the asked digest describe it, as far as this root leads to
    /// them, with the subject edges on that way. Whoever can push a manifest can describe content
    /// falsely in it: what a root permits goes by its own words, not by another's.
    pub parts: Vec<(u8, Descriptor)>,
}

/// A manifest, and in time what its config says.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// How many indexes lie below one another, itself included: 0 for no index, 1 for one of manifests
    /// only, 3 for three or more.
    pub depth: u8,
}

/// A fact that a decision lacks. Only `policy` makes one, and fetching anything takes one: so
/// nothing is fetched that no rule asked for.
///
/// ```
/// use pullgate::oci::Name;
/// use pullgate::policy::{Lack, Need};
///
/// fn read(need: Need) -> (Name, Lack) {
///     (need.name().clone(), need.lack().clone())
/// }
/// ```
///
/// ```compile_fail
/// use pullgate::oci::Name;
/// use pullgate::policy::{Lack, Need};
///
/// fn forge(name: Name, lack: Lack) -> Need {
///     Need { name, lack }
/// }
/// ```
///
/// ```compile_fail
/// use pullgate::oci::Name;
/// use pullgate::policy::{Lack, Need};
///
/// fn forge(name: Name, lack: Lack) -> Need {
///     Need::new(&name, lack)
/// }
/// ```
#[derive(Debug)]
pub struct Need {
    name: Name,
    lack: Lack,
}

impl Need {
    pub(super) fn new(name: &Name, lack: Lack) -> Self {
        Self { name: name.clone(), lack }
    }

    /// In which repository.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What.
    pub fn lack(&self) -> &Lack {
        &self.lack
    }
}

/// What is lacking; the variant names the field of [`Facts`] that it fills.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Lack {
    /// The manifest of this digest, held by this repository.
    Image(Digest),
    /// One sweep: where these literal tags lead upstream. Filling it empties `roots` again.
    Listed(Vec<Tag>),
    /// Whether this repository itself came by a blob.
    Possession {
        /// The blob.
        digest: Digest,
        /// Its size, from the descriptor that led to it.
        size: u64,
    },
    /// What leads to this digest.
    Roots(Digest),
    /// Where a tag leads.
    Tag {
        /// Which.
        tag: Tag,
        /// Whether a lock answers, or the upstream must be asked once `tag_ttl` is over.
        fresh: Fresh,
    },
}

/// How fresh a tag must be.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Fresh {
    /// A lock suffices; past `tag_ttl` the upstream is asked in the background.
    Lock,
    /// Within `tag_ttl`, as long as the upstream can be reached.
    Ttl,
}
