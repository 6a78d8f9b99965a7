//! What leads to a digest: as far as it is known, and how far the upstream is asked to find out.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use super::tags::past;
use super::{Puller, blobs, held};
use crate::oci::{Digest, Fault, Name};
use crate::policy::Roots;
use crate::upstream::Presence;

/// How many children of indexes are fetched to find out which of them contains a blob.
const EXPAND_MAX: usize = 64;
/// How long a repository is not looked into again for a blob that nothing is known to contain, after
/// that was in vain: whoever makes up digests makes the upstream work once a minute at most.
const REST: Duration = Duration::from_secs(60);
/// How long a child is left out that the upstream does not have, does not give, or not as it should be.
const BARREN: Duration = Duration::from_secs(3600);
/// The same where the upstream could not answer.
const UNANSWERED: Duration = Duration::from_secs(60);
/// How often a request joins the search of another one before it gives up.
const JOINS: usize = 3;

impl Puller {
    /// What is known to lead to a digest. Asks nobody.
    pub(super) async fn roots(&self, name: &Name, digest: &Digest) -> Result<Roots, Fault> {
        Ok(held::roots(self.0.catalog.lineage(name, digest).await?))
    }

    /// What leads to a blob, and how long it is where the manifests of the repository disagree.
    pub(super) async fn blob_roots(&self, name: &Name, digest: &Digest) -> Result<Roots, Fault> {
        let mut roots = self.expanded_roots(name, digest).await?;
        if blobs::is_disputed(&roots) {
            roots.size = self.blob_size(name, digest).await;
        }
        Ok(roots)
    }

    /// What leads to a blob; when nothing is known to, the indexes of the repository are looked into.
    async fn expanded_roots(&self, name: &Name, digest: &Digest) -> Result<Roots, Fault> {
        for _ in 0..JOINS {
            let roots = self.roots(name, digest).await?;
            if !roots.roots.is_empty() {
                return Ok(roots);
            }
            let children = self.0.catalog.unexpanded(name, EXPAND_MAX).await?;
            if children.is_empty() || self.rests(name, &children) {
                return Ok(roots);
            }
            let (puller, owner, digest) = (self.clone(), name.clone(), *digest);
            let work = async move { puller.expand(&owner, &digest, children).await };
            self.0.expansions.join(name.clone(), work).await?;
        }
        self.roots(name, digest).await
    }

    /// Fetches children until one contains the blob.
    async fn expand(&self, name: &Name, digest: &Digest, children: Vec<Digest>) -> Result<(), Fault> {
        let inner = &self.0;
        // A HEAD costs nothing of an upstream's rate limit; the manifests below do.
        if inner.upstreams.has_blob(name, digest).await? == Presence::Absent {
            self.rest(name, &children);
            return Ok(());
        }
        for child in children {
            let pause = match self.image(name, &child).await {
                Ok(stored) if stored.manifest.edges.iter().any(|(_, edge)| edge.digest == *digest) => {
                    return Ok(());
                }
                Ok(_) => continue,
                Err(fault) if fault.is_transient() => UNANSWERED,
                Err(_) => BARREN,
            };
            let now = inner.clock.now();
            inner.catalog.keep_barren(name, &child, now.checked_add(pause).unwrap_or(now)).await?;
        }
        self.rest(name, &inner.catalog.unexpanded(name, EXPAND_MAX).await?);
        Ok(())
    }

    fn rest(&self, name: &Name, left: &[Digest]) {
        self.0.resting.insert(name.clone(), (self.0.clock.now(), hash(left)));
    }

    /// Whether the same children were there to be looked into when that was last in vain.
    fn rests(&self, name: &Name, children: &[Digest]) -> bool {
        let last = self.0.resting.get(name);
        last.is_some_and(|(at, left)| left == hash(children) && past(self.0.clock.now(), at) < REST)
    }
}

fn hash(digests: &[Digest]) -> u64 {
    let mut hasher = DefaultHasher::new();
    digests.hash(&mut hasher);
    hasher.finish()
}
