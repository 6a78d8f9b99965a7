//! The same facts without asking anybody: what the catalog of a gateway holds of them.

use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::{Ancestor, Catalog, Error, SeenRow};
use crate::content::read_kept;
use crate::oci::{Algorithm, CONFIG_MAX, Descriptor, Digest, ImageConfig, Kind, Manifest, Name};
use crate::policy::{
    Content, Facts, Image, Known, Lack, NESTED_MAX, Need, Recalled, Root, Roots, Seen, Sight, TagFact, Unseen,
};

/// Reads facts from a catalog, and configs it did not read yet from the blobs beside it, for judging
/// offline.
#[derive(Clone, Debug)]
pub struct CatalogFacts {
    catalog: Catalog,
    blobs: PathBuf,
}

impl CatalogFacts {
    /// Reads this catalog, which may be open to be read only, and the folder of a blob store, which may
    /// be open elsewhere.
    pub fn new(catalog: Catalog, blobs: PathBuf) -> Self {
        Self { catalog, blobs }
    }

    /// Fills in the fact a decision lacks as far as the catalog holds it. The answer is whether it
    /// holds all of it; what is held of contents is filled in either way.
    pub async fn gather(&self, need: &Need, facts: &mut Facts) -> Result<bool, Error> {
        let (catalog, name) = (&self.catalog, need.name());
        match need.lack() {
            Lack::Bindings => facts.bindings = is(catalog.bindings(name).await?),
            Lack::Contents(digests) => {
                let mut all = true;
                for digest in digests {
                    match self.content(name, digest).await? {
                        Some(content) => drop(facts.contents.insert(*digest, is(content))),
                        None => all = false,
                    }
                }
                return Ok(all);
            }
            Lack::Image(digest) => match self.image(digest).await? {
                Some(image) => facts.image = is(image),
                None => return Ok(false),
            },
            Lack::Listed(tags) => {
                for tag in tags {
                    if catalog.tag(name, tag).await?.is_none() {
                        return Ok(false);
                    }
                }
                facts.listed = is(());
                facts.roots = Known::Unasked;
            }
            Lack::Possession { digest, size: _ } => {
                // What it did not come by it may still come by.
                if !catalog.possesses(name, digest).await? {
                    return Ok(false);
                }
                facts.possession = is(true);
            }
            Lack::Recalled { digests, tags } => {
                let mut recalled = match &facts.recalled {
                    Known::Is(before) => Recalled::clone(before),
                    Known::Failed(_) | Known::Unasked => Recalled::default(),
                };
                for digest in digests {
                    recalled.above.insert(*digest, catalog.above(digest).await?);
                }
                let mut all = true;
                for tag in tags {
                    let history = catalog.history(name, tag).await?;
                    all &= !history.is_empty();
                    recalled.tagged.extend(history.into_iter().map(|digest| (digest, tag.clone())));
                }
                facts.recalled = is(recalled);
                return Ok(all);
            }
            Lack::Roots(digest) => facts.roots = is(roots(catalog.lineage(name, digest).await?)),
            Lack::Seen(digest) => {
                let row = catalog.seen(name, digest).await?;
                if row == SeenRow::default() {
                    return Ok(false);
                }
                facts.seen.insert(*digest, is(seen(row)));
            }
            Lack::Tag { tag, fresh: _ } => match catalog.tag(name, tag).await? {
                Some(row) => {
                    facts.tag = is(TagFact { lock: row.locked, current: row.current, stale: false });
                }
                None => return Ok(false),
            },
            // What was never seen here says nothing.
            Lack::Unseen { .. } => facts.unseen = is(Unseen::default()),
        }
        Ok(true)
    }

    async fn image(&self, digest: &Digest) -> Result<Option<Image>, Error> {
        let Some(stored) = self.catalog.manifest(digest).await? else { return Ok(None) };
        let depth = self.depth(&stored.manifest).await?;
        Ok(depth.map(|depth| Image { manifest: stored.manifest.clone(), depth }))
    }

    /// How many indexes lie below one another; `None` where one of them is not held.
    async fn depth(&self, manifest: &Manifest) -> Result<Option<u8>, Error> {
        if manifest.kind != Kind::Index {
            return Ok(Some(0));
        }
        let mut depth = 1;
        for child in manifest.children().filter(|child| child.is_index()).take(NESTED_MAX) {
            let Some(stored) = self.catalog.manifest(&child.digest).await? else { return Ok(None) };
            if stored.manifest.children().any(Descriptor::is_index) {
                return Ok(Some(3));
            }
            depth = 2;
        }
        Ok(Some(depth))
    }

    async fn content(&self, name: &Name, digest: &Digest) -> Result<Option<Content>, Error> {
        let Some(stored) = self.catalog.manifest(digest).await? else { return Ok(None) };
        let config = match stored.manifest.image_config() {
            Some(config) => match self.config(&config.digest).await? {
                Some(config) => Known::Is(config),
                None => return Ok(None),
            },
            None => Known::Unasked,
        };
        let sha256 = match digest.algorithm() {
            Algorithm::Sha256 => *digest,
            Algorithm::Sha512 => Digest::sha256(&stored.bytes),
        };
        let first_seen = self.catalog.first_seen(name, digest).await?;
        Ok(Some(Content { manifest: stored.manifest.clone(), sha256, first_seen, config }))
    }

    async fn config(&self, digest: &Digest) -> Result<Option<Arc<ImageConfig>>, Error> {
        if let Some(config) = self.catalog.config(digest).await? {
            return Ok(Some(config));
        }
        let (blobs, digest) = (self.blobs.clone(), *digest);
        let read = tokio::task::spawn_blocking(move || read_kept(&blobs, &digest, CONFIG_MAX)).await;
        let bytes = match read {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                tracing::debug!(%digest, %error, "a kept config cannot be read");
                None
            }
            Err(_) => None,
        };
        Ok(bytes.and_then(|bytes| ImageConfig::parse(&bytes).ok()).map(Arc::new))
    }
}

/// What leads to a digest, as the catalog tells it.
pub(super) fn roots(ancestors: Vec<Ancestor>) -> Roots {
    let root = |Ancestor { digest, tags, levels, parts }| Root { digest, tags, levels, parts };
    Roots { size: None, roots: ancestors.into_iter().map(root).collect() }
}

/// Since when a digest is known, as the catalog tells it.
pub(super) fn seen(row: SeenRow) -> Seen {
    let sights = row.sights.into_iter().map(|sight| Sight {
        tag: sight.tag,
        first: sight.first,
        served: sight.served,
        since: sight.since,
        last: sight.last,
        current: sight.current,
    });
    Seen { first: row.first, sights: sights.collect() }
}

fn is<T>(value: T) -> Known<T> {
    Known::Is(Arc::new(value))
}
