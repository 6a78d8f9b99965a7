//! What rules ask of images beyond their manifests, each found out once and kept.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use jiff::Timestamp;

use super::tags::past;
use super::{Puller, held, known};
use crate::content::{Blob, Claim};
use crate::oci::{Algorithm, CONFIG_MAX, Descriptor, Digest, Fault, ImageConfig, Name, Tag};
use crate::policy::{Content, Fresh, Known, Permit, Recalled, Seen, Target};

/// How many manifests and configs are fetched at once for one decision.
const AT_ONCE: usize = 8;
/// How many tags are asked about to learn whether a digest is still theirs.
const TAGS_MAX: usize = 4;

impl Puller {
    /// Looks into manifests: each with its config, where that is an image's. Whoever asks for the same
    /// ones meanwhile shares the fetches.
    pub(super) async fn contents(&self, name: &Name, digests: &[Digest]) -> BTreeMap<Digest, Known<Content>> {
        futures_util::stream::iter(digests.iter().copied())
            .map(|digest| async move { (digest, known(self.content(name, &digest).await)) })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await
    }

    async fn content(&self, name: &Name, digest: &Digest) -> Result<Content, Fault> {
        let stored = self.image(name, digest).await?;
        let sha256 = match digest.algorithm() {
            Algorithm::Sha256 => *digest,
            Algorithm::Sha512 => Digest::sha256(&stored.bytes),
        };
        let config = match stored.manifest.image_config() {
            Some(config) => match self.config(name, config).await {
                Ok(config) => Known::Is(config),
                Err(fault) => Known::Failed(fault),
            },
            None => Known::Unasked,
        };
        let first_seen = self.0.catalog.first_seen(name, digest).await?;
        Ok(Content { manifest: stored.manifest.clone(), sha256, first_seen, config })
    }

    async fn config(&self, name: &Name, config: &Descriptor) -> Result<Arc<ImageConfig>, Fault> {
        let inner = &self.0;
        if let Some(config) = inner.catalog.config(&config.digest).await? {
            return Ok(config);
        }
        if config.size > CONFIG_MAX {
            return Err(Fault::Invalid(
                format!("{name}: its config has {} bytes; at most {CONFIG_MAX} are read", config.size).into(),
            ));
        }
        let (puller, name, digest, size) = (self.clone(), name.clone(), config.digest, config.size);
        let key = (name.clone(), digest);
        inner.configs.join(key, async move { puller.read_config(name, digest, size).await }).await
    }

    async fn read_config(&self, name: Name, digest: Digest, size: u64) -> Result<Arc<ImageConfig>, Fault> {
        let blob = match self.0.store.claim(&digest, size) {
            Claim::Here(blob) => blob,
            Claim::Coming(coming) => coming.opened().await?,
            Claim::Vacant(slot) => self.bring(slot, &name, digest).opened().await?,
        };
        self.read(blob).await.map_err(|fault| match fault {
            Fault::Invalid(text) => Fault::Invalid(format!("{name}: {text}").into()),
            fault => fault,
        })
    }

    async fn read(&self, blob: Blob) -> Result<Arc<ImageConfig>, Fault> {
        let digest = blob.digest();
        if blob.size() > CONFIG_MAX {
            return Err(Fault::Invalid(format!("its config {digest} is too large").into()));
        }
        let bytes = blob.body(None).collect().await?.to_bytes();
        let config = ImageConfig::parse(&bytes)
            .map_err(|error| Fault::Invalid(format!("{digest}: {error}").into()))?;
        Ok(self.0.catalog.keep_config(&digest, config).await?)
    }

    /// Keeps what an image config says, when its blob is served for the first time: later rules, recalls
    /// and replays ask for it, when it may be had no more. Nobody waits for it, and no upstream is asked.
    pub(super) fn learn(&self, blob: &Blob) {
        let (inner, digest) = (&self.0, blob.digest());
        if blob.size() > CONFIG_MAX || inner.learnt.contains_key(&digest) {
            return;
        }
        // Whoever finds all places taken leaves it to the next one that is served the same.
        let Ok(place) = inner.learning.clone().try_acquire_owned() else { return };
        let Some(blob) = blob.shared() else { return };
        inner.learnt.insert(digest, ());
        let puller = self.clone();
        inner.tasks.spawn(async move {
            let _place = place;
            let learnt = match puller.0.catalog.is_unread_config(&digest).await {
                Ok(true) => puller.read(blob).await.map(|_| ()),
                Ok(false) => Ok(()),
                Err(error) => Err(error.into()),
            };
            match learnt {
                // What cannot be read today cannot be read tomorrow.
                Ok(()) | Err(Fault::Invalid(_)) => {}
                Err(fault) => {
                    tracing::debug!(%digest, %fault, "what an image config says could not be kept");
                    puller.0.learnt.invalidate(&digest);
                }
            }
        });
    }

    /// What recalls must know: what is above these digests anywhere, and what recalled tags had here
    /// and have upstream. What was learnt before stands while the upstream does not answer.
    pub(super) async fn recalled(
        &self,
        name: &Name,
        digests: &[Digest],
        tags: &[Tag],
        before: &Known<Recalled>,
    ) -> Result<Recalled, Fault> {
        let inner = &self.0;
        let mut recalled = match before {
            Known::Is(before) => Recalled::clone(before),
            Known::Failed(_) | Known::Unasked => Recalled::default(),
        };
        for digest in digests {
            recalled.above.insert(*digest, inner.catalog.above(digest).await?);
        }
        for tag in tags {
            let asked = self.ask_recalled(name, tag).await;
            let history = inner.catalog.history(name, tag).await?;
            match asked {
                Err(fault) if history.is_empty() => return Err(fault),
                _ => recalled.tagged.extend(history.into_iter().map(|digest| (digest, tag.clone()))),
            }
        }
        Ok(recalled)
    }

    /// Asks the upstream where a recalled tag leads, at most once in `tag_ttl`.
    async fn ask_recalled(&self, name: &Name, tag: &Tag) -> Result<(), Fault> {
        let inner = &self.0;
        let (now, key) = (inner.clock.now(), (name.clone(), tag.clone()));
        if inner.recalled.get(&key).is_some_and(|asked: Timestamp| past(now, asked) <= inner.settings.tag_ttl)
        {
            return Ok(());
        }
        match self.tag(name, tag, Fresh::Ttl).await {
            Ok(_) | Err(Fault::Absent(_)) => {
                inner.recalled.insert(key, now);
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    /// Since when a digest is known. Tags that named it when they were last asked are asked again once
    /// `tag_ttl` is over: what was replaced meanwhile must show.
    pub(super) async fn seen(&self, name: &Name, digest: &Digest) -> Result<Seen, Fault> {
        let inner = &self.0;
        let mut row = inner.catalog.seen(name, digest).await?;
        let now = inner.clock.now();
        let stale: Vec<Tag> = row
            .sights
            .iter()
            .filter(|sight| sight.current && !sight.served && past(now, sight.last) > inner.settings.tag_ttl)
            .map(|sight| sight.tag.clone())
            .take(TAGS_MAX)
            .collect();
        if !stale.is_empty() {
            for tag in &stale {
                // One that cannot be asked stands as it was confirmed last.
                let _ = self.tag(name, tag, Fresh::Ttl).await;
            }
            row = inner.catalog.seen(name, digest).await?;
        }
        Ok(held::seen(row))
    }

    /// Binds the exceptions of a permit to what is about to be served. The answer is whether they are:
    /// when somebody was faster with another digest the ask is decided anew.
    pub async fn bind(&self, permit: &Permit, tag: &Tag) -> Result<bool, Fault> {
        let Target::Manifest(manifest) = permit.target() else {
            return Err(Fault::Invalid("only a manifest's tag can be excepted".into()));
        };
        Ok(self.0.catalog.bind(permit.name(), tag, permit.binds(), &manifest.digest).await?)
    }
}
