//! Where tags lead, and how fresh that is: locks, `tag_ttl`, stale when the upstream is away.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Puller, Sighting};
use crate::oci::{Descriptor, Digest, Fault, Name, Tag};
use crate::policy::{Fresh, Permit, TagFact, Target, companion_subject};

impl Puller {
    /// Where a tag leads. With [`Fresh::Lock`] a lock answers at once, and past `tag_ttl` the
    /// upstream is asked in the background; otherwise the upstream is asked unless it was within
    /// `tag_ttl`, and what it said before stands while it cannot be reached.
    pub(super) async fn tag(&self, name: &Name, tag: &Tag, fresh: Fresh) -> Result<TagFact, Fault> {
        let inner = &self.0;
        let row = inner.catalog.tag(name, tag).await?;
        let now = inner.clock.now();
        let age = row.as_ref().map(|row| past(now, row.asked));
        let fact = |current: Option<Digest>, stale: bool| TagFact {
            lock: row.as_ref().and_then(|row| row.locked),
            current,
            stale,
        };
        let within_ttl = age.is_some_and(|age| age <= inner.settings.tag_ttl);
        if let Some(row) = &row {
            if within_ttl && (row.current.is_some() || row.locked.is_some()) {
                return Ok(fact(row.current, false));
            }
            if fresh == Fresh::Lock && row.locked.is_some() {
                self.refresh(name, tag, now);
                return Ok(fact(row.current, true));
            }
        }
        match self.resolve(name, tag).await {
            Ok(None) if row.as_ref().is_none_or(|row| row.locked.is_none()) => {
                Err(Fault::Absent(format!("{name}:{tag}").into()))
            }
            Ok(current) => Ok(fact(current, false)),
            // A catalog that cannot note the answer goes on with the last one it could.
            Err(
                fault @ (Fault::Denied(_)
                | Fault::Storage(_)
                | Fault::Throttled { .. }
                | Fault::Unreachable(_)),
            ) => {
                let usable = row.as_ref().filter(|row| row.current.is_some() || row.locked.is_some());
                match usable {
                    Some(row) if self.still_usable(age.unwrap_or_default()) => Ok(fact(row.current, true)),
                    _ => Err(fault),
                }
            }
            Err(fault) => Err(fault),
        }
    }

    /// Locks the tag of a permit to the manifest that is about to be served. The answer is what the
    /// tag is locked to: another digest when somebody was faster, and then the ask is decided anew.
    pub async fn lock(&self, permit: &Permit, tag: &Tag, follow: bool) -> Result<Digest, Fault> {
        let Target::Manifest(manifest) = permit.target() else {
            return Err(Fault::Invalid("only a manifest's tag can be locked".into()));
        };
        Ok(self.0.catalog.lock_tag(permit.name(), tag, &manifest.digest, follow).await?)
    }

    /// How long the upstream's word on a tag stands.
    pub fn tag_ttl(&self) -> Duration {
        self.0.settings.tag_ttl
    }

    /// When the upstream's last word on a tag is to be asked for again; `None` when it never spoke.
    pub async fn fresh_until(&self, name: &Name, tag: &Tag) -> Option<Timestamp> {
        let row = self.0.catalog.tag(name, tag).await.ok().flatten()?;
        row.asked.checked_add(self.0.settings.tag_ttl).ok()
    }

    /// All tags of a repository, as its upstream lists them; not older than `tag_ttl` unless the
    /// upstream cannot be reached.
    pub async fn tags(&self, permit: &Permit) -> Result<Arc<Vec<Tag>>, Fault> {
        let (inner, name) = (&self.0, permit.name().clone());
        let held = inner.listed.get(&name);
        if let Some((asked, tags)) = &held
            && past(inner.clock.now(), *asked) <= inner.settings.tag_ttl
        {
            return Ok(tags.clone());
        }
        let (puller, key) = (self.clone(), name.clone());
        let work = async move {
            let tags = Arc::new(puller.0.upstreams.tags(&key).await?);
            puller.0.listed.insert(key, (puller.0.clock.now(), tags.clone()));
            Ok(tags)
        };
        self.or_stale(inner.lists.join(name, work).await, held)
    }

    /// The referrers of a subject, as its upstream lists them; each is noted as a companion.
    pub async fn referrers(&self, permit: &Permit) -> Result<Arc<Vec<Descriptor>>, Fault> {
        let Target::Referrers(subject) = *permit.target() else {
            return Err(Fault::Invalid("this permit is for no referrers".into()));
        };
        let (inner, key) = (&self.0, (permit.name().clone(), subject));
        let held = inner.referred.get(&key);
        if let Some((asked, referrers)) = &held
            && past(inner.clock.now(), *asked) <= inner.settings.tag_ttl
        {
            return Ok(referrers.clone());
        }
        let (puller, name) = (self.clone(), permit.name().clone());
        let work = async move {
            let referrers = Arc::new(puller.0.upstreams.referrers(&name, &subject).await?);
            let digests = referrers.iter().map(|referrer| &referrer.digest);
            puller.0.catalog.keep_companions(&name, digests, &subject).await?;
            puller.0.referred.insert((name, subject), (puller.0.clock.now(), referrers.clone()));
            Ok(referrers)
        };
        self.or_stale(inner.referrals.join(key, work).await, held)
    }

    /// The tags that were served here, for the remedy of a refusal. Asks nobody.
    pub async fn served_tags(&self, name: &Name) -> Vec<Tag> {
        self.0.catalog.served_tags(name).await.unwrap_or_default()
    }

    fn or_stale<T>(&self, outcome: Result<T, Fault>, held: Option<(Timestamp, T)>) -> Result<T, Fault> {
        match (outcome, held) {
            (Err(fault), Some((asked, held)))
                if fault.is_transient() && self.still_usable(past(self.0.clock.now(), asked)) =>
            {
                Ok(held)
            }
            (outcome, _) => outcome,
        }
    }

    fn still_usable(&self, age: Duration) -> bool {
        let settings = &self.0.settings;
        settings.stale_if_error.is_none_or(|limit| age <= settings.tag_ttl.saturating_add(limit))
    }

    /// Asks the upstream about a locked tag, at most once in `tag_ttl`, without anybody waiting.
    fn refresh(&self, name: &Name, tag: &Tag, now: Timestamp) {
        let (inner, key) = (&self.0, (name.clone(), tag.clone()));
        if inner.refreshed.get(&key).is_some_and(|asked| past(now, asked) <= inner.settings.tag_ttl) {
            return;
        }
        inner.refreshed.insert(key.clone(), now);
        let puller = self.clone();
        inner.resolutions.start(key.clone(), async move { puller.ask(key.0, key.1).await });
    }

    async fn resolve(&self, name: &Name, tag: &Tag) -> Result<Option<Digest>, Fault> {
        let (puller, key) = (self.clone(), (name.clone(), tag.clone()));
        self.0.resolutions.join(key.clone(), async move { puller.ask(key.0, key.1).await }).await
    }

    /// Asks the upstream, and notes what it said; a drift of a locked tag becomes a sighting.
    async fn ask(&self, name: Name, tag: Tag) -> Result<Option<Digest>, Fault> {
        let inner = &self.0;
        let current = match inner.upstreams.resolve(&name, &tag).await {
            Ok(digest) => Some(digest),
            Err(Fault::Absent(_)) => None,
            Err(fault) => return Err(fault),
        };
        // A tag that never was is not kept: anybody could ask for a million of them.
        if current.is_none() && inner.catalog.tag(&name, &tag).await?.is_none() {
            return Ok(None);
        }
        if let Some(moved) = inner.catalog.saw_tag(&name, &tag, current.as_ref()).await? {
            self.sight(Sighting::Moved(moved));
        }
        // Not every signature names its subject: its tag does, and its parts are asked for next.
        if let (Some(digest), Some(subject)) = (&current, companion_subject(&tag)) {
            inner.catalog.keep_companions(&name, [digest], &subject).await?;
        }
        Ok(current)
    }
}

pub(super) fn past(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}
