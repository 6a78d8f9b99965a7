//! What a decision may need to know, and does not know yet.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::oci::{Descriptor, Digest, Fault, ImageConfig, Manifest, Name, Tag};

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
    /// The digests that exceptions on tags of this repository are bound to, by the exception's id.
    pub bindings: Known<BTreeMap<Arc<str>, Digest>>,
    /// What is in manifests, by the digest they are asked for under.
    pub contents: BTreeMap<Digest, Known<Content>>,
    /// The manifest of the digest that is to be served.
    pub image: Known<Image>,
    /// Whether the literal tags of a `known` source were resolved upstream within `tag_ttl`.
    pub listed: Known<()>,
    /// Whether the repository itself came by the digest that is to be served.
    pub possession: Known<bool>,
    /// What recalls must know of what is asked for.
    pub recalled: Known<Recalled>,
    /// What leads to the digest that was asked for (or, for a companion tag, to its subject).
    pub roots: Known<Roots>,
    /// Since when digests are known here.
    pub seen: BTreeMap<Digest, Known<Seen>>,
    /// Where the tag leads.
    pub tag: Known<TagFact>,
    /// Whether recalled manifests that nobody saw here yet list what is to be served. `Failed`: that
    /// itself cannot be had.
    pub unseen: Known<Unseen>,
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

/// The manifest that is to be served.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// How many indexes lie below one another, itself included: 0 for no index, 1 for one of manifests
    /// only, 3 for three or more.
    pub depth: u8,
}

/// A manifest that was looked into.
#[derive(Clone, Debug)]
pub struct Content {
    /// The manifest.
    pub manifest: Arc<Manifest>,
    /// The sha256 of its bytes, whatever digest it is asked for under: what a recall names.
    pub sha256: Digest,
    /// When this repository first came by it here.
    pub first_seen: Option<Timestamp>,
    /// What its config says; `Unasked` where it has none that is an image's.
    pub config: Known<ImageConfig>,
}

/// What recalls must know of what is asked for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Recalled {
    /// For each digest asked about, the manifests above it in any repository.
    pub above: BTreeMap<Digest, Vec<Digest>>,
    /// Every digest that a recalled tag of this repository had here or has upstream.
    pub tagged: BTreeMap<Digest, Tag>,
}

/// What came of asking the upstream for recalled manifests of which nothing was known here.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unseen {
    /// Until when the answers stand; none where they do for good.
    pub until: Option<Timestamp>,
    /// Why it cannot be told whether one of them lists what is to be served; never said of content that
    /// the repository came by before.
    pub unanswered: Option<Fault>,
}

/// Since when a digest is known to this gateway, by itself and by what leads to it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Seen {
    /// When this repository first came by it, or by a manifest above it.
    pub first: Option<Timestamp>,
    /// The tags of this repository that named it, or a manifest above it.
    pub sights: Vec<Sight>,
}

/// A digest under a tag.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sight {
    /// The tag.
    pub tag: Tag,
    /// Whether it is the first digest this tag was ever seen at here.
    pub first: bool,
    /// Whether it was served as that tag.
    pub served: bool,
    /// Since when the tag names it without a break.
    pub since: Timestamp,
    /// When the upstream last said so.
    pub last: Timestamp,
    /// Whether it said so when last asked: otherwise it names something else by now.
    pub current: bool,
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
    /// What the exceptions of this repository are bound to.
    Bindings,
    /// The manifests of these digests and their configs, to be judged. Adds to `contents`.
    Contents(Vec<Digest>),
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
    /// What recalls must know.
    Recalled {
        /// The manifests above these, in any repository.
        digests: Vec<Digest>,
        /// Every digest that these tags of this repository had or have.
        tags: Vec<Tag>,
    },
    /// What leads to this digest.
    Roots(Digest),
    /// Since when this digest is known. Adds to `seen`.
    Seen(Digest),
    /// Where a tag leads.
    Tag {
        /// Which.
        tag: Tag,
        /// Whether a lock answers, or the upstream must be asked once `tag_ttl` is over.
        fresh: Fresh,
    },
    /// What recalled manifests list of which nothing is known here. Filling it may empty `recalled`.
    Unseen {
        /// What is to be served.
        digest: Digest,
        /// All that are recalled.
        recalled: Arc<[Digest]>,
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
