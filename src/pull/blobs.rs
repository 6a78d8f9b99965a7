//! Blobs: from the store when they are there, into it when they are not, and never to a repository
//! that did not come by them itself.

use super::{Puller, Sighting};
use crate::content::{Blob, Claim, Coming, Slot, Source, SourceBody};
use crate::oci::{Digest, Fault, Name};
use crate::policy::{Permit, Roots, Target};
use crate::upstream::Presence;

/// Where the bytes of a reply came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cache {
    /// The store had them, or somebody else was already bringing them.
    Hit,
    /// This request brought them.
    Miss,
}

/// A blob that may be served, and where it came from.
#[derive(Debug)]
pub struct Fetched {
    /// The bytes, verified or held back until they are.
    pub blob: Blob,
    /// Where they came from.
    pub cache: Cache,
}

impl Puller {
    /// The bytes of a permitted blob. Each is asked for upstream once, whoever joins and whenever.
    pub async fn blob(&self, permit: &Permit) -> Result<Fetched, Fault> {
        let Target::Blob { digest, size } = *permit.target() else {
            return Err(Fault::Invalid("this permit is for no blob".into()));
        };
        let name = permit.name();
        let fetched = match self.fetch_blob(name, digest, size).await {
            Ok(fetched) => fetched,
            Err(fault) => {
                self.doubt(name, &digest, &fault).await;
                return Err(fault);
            }
        };
        if self.possesses(name, &digest).await? {
            self.learn(&fetched.blob);
            return Ok(fetched);
        }
        // It was not in the store when it was permitted; from now on this is a question of possession.
        self.0.catalog.touch(name);
        Err(Fault::Absent(format!("{name}@{digest}: its upstream does not have it").into()))
    }

    async fn fetch_blob(&self, name: &Name, digest: Digest, size: u64) -> Result<Fetched, Fault> {
        Ok(match self.0.store.claim(&digest, size) {
            Claim::Here(blob) => Fetched { blob, cache: Cache::Hit },
            Claim::Coming(coming) => Fetched { blob: coming.opened().await?, cache: Cache::Hit },
            Claim::Vacant(slot) => {
                Fetched { blob: self.bring(slot, name, digest).opened().await?, cache: Cache::Miss }
            }
        })
    }

    /// Begins to fetch a blob from its repository's upstream into the store.
    pub(super) fn bring(&self, slot: Slot, name: &Name, digest: Digest) -> Coming {
        let coming = slot.fill(UpstreamBlob { puller: self.clone(), name: name.clone(), digest });
        self.watch_for_forgery(name, digest, coming.clone());
        coming
    }

    /// Where manifests disagree about a blob and the descriptor it was permitted by proved wrong, the
    /// next ask is decided anew: its length may be known by then.
    async fn doubt(&self, name: &Name, digest: &Digest, fault: &Fault) {
        if matches!(fault, Fault::Invalid(_))
            && self.roots(name, digest).await.is_ok_and(|roots| is_disputed(&roots))
        {
            self.0.catalog.touch(name);
        }
    }

    /// How long a blob is whatever its descriptors say: as it was verified, else by the word of its
    /// repository's upstream. `None` where neither can tell.
    pub(super) async fn blob_size(&self, name: &Name, digest: &Digest) -> Option<u64> {
        if let Some(size) = self.0.store.size(digest) {
            return Some(size);
        }
        match self.0.upstreams.has_blob(name, digest).await {
            Ok(Presence::Present { size }) => size,
            Ok(Presence::Absent) | Err(_) => None,
        }
    }

    /// Whether the repository came by the blob, or will by fetching it now: what is not in the store
    /// can only be brought through its own upstream.
    pub(super) async fn may_possess(&self, name: &Name, digest: &Digest) -> Result<bool, Fault> {
        if !self.0.store.has(digest) {
            return Ok(true);
        }
        self.possesses(name, digest).await
    }

    /// Asks the repository's own upstream, once, when nobody came by the blob through it yet.
    async fn possesses(&self, name: &Name, digest: &Digest) -> Result<bool, Fault> {
        let inner = &self.0;
        if inner.catalog.possesses(name, digest).await? {
            return Ok(true);
        }
        let (puller, key) = (self.clone(), (name.clone(), *digest));
        let work = async move {
            let (name, digest) = (&key.0, &key.1);
            let held = puller.0.upstreams.has_blob(name, digest).await? != Presence::Absent;
            if held {
                puller.0.catalog.possess(name, digest).await?;
            }
            Ok(held)
        };
        inner.possessions.join((name.clone(), *digest), work).await
    }

    fn watch_for_forgery(&self, name: &Name, digest: Digest, coming: Coming) {
        let (puller, name) = (self.clone(), name.clone());
        self.0.tasks.spawn(async move {
            if let Err(fault @ Fault::Invalid(_)) = coming.verified().await {
                puller.sight(Sighting::Forged { name, digest, fault });
            }
        });
    }
}

/// Whether manifests of a repository disagree about how long a blob is.
pub(super) fn is_disputed(roots: &Roots) -> bool {
    let mut sizes = roots.roots.iter().flat_map(|root| &root.parts).map(|(_, part)| part.size);
    sizes.next().is_some_and(|first| sizes.any(|size| size != first))
}

/// A blob as its repository's upstream has it.
struct UpstreamBlob {
    puller: Puller,
    name: Name,
    digest: Digest,
}

impl Source for UpstreamBlob {
    async fn open(&mut self, offset: u64) -> Result<SourceBody, Fault> {
        let inner = &self.puller.0;
        let stream = inner.upstreams.blob(&self.name, &self.digest, offset).await?;
        // It answered for the blob; whether the bytes are right is the store's question.
        inner.catalog.possess(&self.name, &self.digest).await?;
        Ok(SourceBody { start: stream.start, total: stream.total, bytes: stream.body })
    }
}
