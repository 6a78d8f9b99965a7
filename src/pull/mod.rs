//! Fetching: the facts that decisions need, and the content that permits allow.
//!
//! Every way to an upstream leads through here, and takes a [`Need`] or a [`Permit`] that only
//! `policy` can make. What is fetched is verified, kept and shared; it knows no HTTP and no callers.

mod asked;
mod blobs;
mod facts;
mod flight;
mod held;
mod roots;
mod tags;
mod tasks;
mod unseen;

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache as Memory;
use tokio::sync::{Semaphore, mpsc};

use crate::catalog::{Catalog, Moved};
use crate::clock::Clock;
use crate::content::Store;
use crate::oci::{Ask, Descriptor, Digest, Fault, ImageConfig, Kind, Manifest, Name, Registry, Tag, What};
use crate::policy::{Facts, Image, Known, Lack, NESTED_MAX, Need, Permit, Target};
use crate::upstream::Upstreams;

use asked::Asked;
use flight::Flights;
use tasks::Tasks;

pub use crate::catalog::Stored;
pub use blobs::{Cache, Fetched};
pub use held::CatalogFacts;

/// How old what was learnt from an upstream may get.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long an upstream's word on a tag or list is taken without asking again.
    pub tag_ttl: Duration,
    /// How long past that it is still taken when the upstream cannot be reached; `None`: for ever.
    pub stale_if_error: Option<Duration>,
}

/// Something that was noticed without anybody asking for it; `gate` puts it on record.
#[derive(Clone, Debug, PartialEq)]
pub enum Sighting {
    /// An upstream refused us: credentials are missing or wrong, or it leads where it may not. Each
    /// repository once an hour, and once for all that are too many to name.
    Denied {
        /// Which upstream.
        registry: Registry,
        /// Which repository; `None` for all further ones.
        name: Option<Name>,
        /// What it said, and what to check.
        fault: Fault,
    },
    /// Content did not verify.
    Forged {
        /// Where it came from.
        name: Name,
        /// What it should have been.
        digest: Digest,
        /// What was wrong.
        fault: Fault,
    },
    /// A locked tag leads elsewhere.
    Moved(Moved),
}

/// A list, and when the upstream gave it.
type Held<T> = (jiff::Timestamp, Arc<T>);

/// How many bytes of tag lists, and of lists of referrers, are kept in memory.
const HOT_LISTS: u64 = 64 << 20;
/// How many sightings may wait to be recorded; drifts beyond that are found in the catalog again.
const SIGHTINGS: usize = 1024;
/// How many blobs are read at once to learn what they say as configs; each may have 4 MiB.
const LEARNING: usize = 16;

/// Fetches. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Puller(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    settings: Settings,
    catalog: Catalog,
    store: Store,
    upstreams: Asked,
    clock: Clock,
    sightings: mpsc::Sender<Sighting>,
    tasks: Tasks,
    configs: Flights<(Name, Digest), Arc<ImageConfig>>,
    images: Flights<(Name, Digest), Arc<Stored>>,
    possessions: Flights<(Name, Digest), bool>,
    resolutions: Flights<(Name, Tag), Option<Digest>>,
    lists: Flights<Name, Arc<Vec<Tag>>>,
    referrals: Flights<(Name, Digest), Arc<Vec<Descriptor>>>,
    expansions: Flights<Name, ()>,
    /// When looking into the manifests of a repository last found nothing, and what was left to look
    /// into, as a hash.
    resting: Memory<Name, (jiff::Timestamp, u64)>,
    /// Lists as last fetched, with when.
    listed: Memory<Name, Held<Vec<Tag>>>,
    referred: Memory<(Name, Digest), Held<Vec<Descriptor>>>,
    /// Forgeries on record, each once in ten minutes: anybody may ask for one again and again.
    forged: Memory<(Name, Digest), ()>,
    /// When the literal tags of a repository were last all resolved.
    swept: Memory<(Name, Vec<Tag>), jiff::Timestamp>,
    /// When a recalled tag was last asked about.
    recalled: Memory<(Name, Tag), jiff::Timestamp>,
    /// What came of asking for recalled manifests, and until when that stands.
    unseen: Memory<(Name, Digest), unseen::Answer>,
    /// When a locked tag was last asked about in the background.
    refreshed: Memory<(Name, Tag), jiff::Timestamp>,
    /// Small blobs that were looked at for being configs.
    learnt: Memory<Digest, ()>,
    /// The places of those that are being looked at.
    learning: Arc<Semaphore>,
}

impl Puller {
    /// Joins the rooms it fetches with; what is noticed in passing arrives at the receiver.
    pub fn new(
        settings: Settings,
        catalog: Catalog,
        store: Store,
        upstreams: Arc<Upstreams>,
        clock: Clock,
    ) -> (Self, mpsc::Receiver<Sighting>) {
        let (sightings, receiver) = mpsc::channel(SIGHTINGS);
        let tasks = Tasks::default();
        let inner = Inner {
            settings,
            catalog,
            store,
            upstreams: Asked::new(upstreams, sightings.clone(), clock.clone()),
            clock,
            sightings,
            configs: Flights::on(&tasks),
            images: Flights::on(&tasks),
            possessions: Flights::on(&tasks),
            resolutions: Flights::on(&tasks),
            lists: Flights::on(&tasks),
            referrals: Flights::on(&tasks),
            expansions: Flights::on(&tasks),
            resting: Memory::new(10_000),
            tasks,
            listed: Memory::builder().max_capacity(HOT_LISTS).weigher(|_, held| weigh_tags(held)).build(),
            referred: Memory::builder()
                .max_capacity(HOT_LISTS)
                .weigher(|_, held| weigh_referrers(held))
                .build(),
            forged: Memory::builder().max_capacity(10_000).time_to_live(Duration::from_secs(600)).build(),
            swept: Memory::new(10_000),
            recalled: Memory::new(10_000),
            refreshed: Memory::new(100_000),
            unseen: Memory::new(200_000),
            learnt: Memory::new(100_000),
            learning: Arc::new(Semaphore::new(LEARNING)),
        };
        (Self(Arc::new(inner)), receiver)
    }

    /// Ends every fetch that runs on a task of its own, and waits until it has: who waits for one gets
    /// [`Fault::Storage`], and none starts any more. Blobs on their way are the store's
    /// ([`Store::close`]), which comes first: what was found wrong with them is still sighted.
    pub async fn close(&self) {
        self.0.tasks.end().await;
    }

    /// Forgets which recalled manifests the upstreams did not have: another policy asks anew.
    pub fn forget_unseen(&self) {
        self.0.unseen.invalidate_all();
    }

    /// Fills in the fact a decision lacks, or why it cannot be had. Fetching goes on if the caller
    /// gives up.
    pub async fn gather(&self, ask: &Ask, need: &Need, facts: &mut Facts) {
        let name = need.name();
        match need.lack() {
            Lack::Bindings => {
                facts.bindings = known(self.0.catalog.bindings(name).await.map_err(Fault::from));
            }
            Lack::Contents(digests) => facts.contents.extend(self.contents(name, digests).await),
            Lack::Image(digest) => {
                facts.image = known(self.judged(name, digest).await);
            }
            Lack::Listed(tags) => {
                facts.listed = known(self.sweep(name, tags).await);
                facts.roots = Known::Unasked;
            }
            Lack::Possession { digest, size: _ } => {
                facts.possession = known(self.may_possess(name, digest).await);
            }
            Lack::Recalled { digests, tags } => {
                facts.recalled = known(self.recalled(name, digests, tags, &facts.recalled).await);
            }
            // Only a blob may lie in a manifest that was never read; a refused digest asks nobody.
            Lack::Roots(digest) if matches!(ask.what, What::Blob(_)) => {
                facts.roots = known(self.blob_roots(name, digest).await);
            }
            Lack::Roots(digest) => facts.roots = known(self.roots(name, digest).await),
            Lack::Seen(digest) => drop(facts.seen.insert(*digest, known(self.seen(name, digest).await))),
            Lack::Tag { tag, fresh } => facts.tag = known(self.tag(name, tag, *fresh).await),
            Lack::Unseen { digest, recalled } => {
                let found = self.unseen(name, digest, recalled).await;
                // What was learnt may lie above the digest.
                if matches!(found, Ok((_, true))) {
                    facts.recalled = Known::Unasked;
                }
                facts.unseen = known(found.map(|(unseen, _)| unseen));
            }
        }
    }

    /// The bytes of a permitted manifest.
    pub async fn manifest(&self, permit: &Permit) -> Result<Arc<Stored>, Fault> {
        match permit.target() {
            Target::Manifest(manifest) => self.image(permit.name(), &manifest.digest).await,
            Target::Blob { .. } | Target::Referrers(_) | Target::Tags => {
                Err(Fault::Invalid("this permit is for no manifest".into()))
            }
        }
    }

    /// The manifest of this digest as this repository holds it: from the catalog when the repository
    /// came by it before, from its upstream otherwise.
    async fn image(&self, name: &Name, digest: &Digest) -> Result<Arc<Stored>, Fault> {
        let inner = &self.0;
        if let Some(stored) = inner.catalog.manifest(digest).await?
            && inner.catalog.possesses(name, digest).await?
        {
            return Ok(stored);
        }
        let (puller, key) = (self.clone(), (name.clone(), *digest));
        inner.images.join(key.clone(), async move { puller.fetch_image(key.0, key.1).await }).await
    }

    /// A manifest with what it takes to judge it.
    async fn judged(&self, name: &Name, digest: &Digest) -> Result<Image, Fault> {
        let manifest = self.image(name, digest).await?.manifest.clone();
        let depth = self.depth(name, &manifest).await?;
        Ok(Image { manifest, depth })
    }

    /// How many indexes lie below one another; the third is not looked into. An index that the upstream
    /// does not have leads nowhere.
    async fn depth(&self, name: &Name, manifest: &Manifest) -> Result<u8, Fault> {
        if manifest.kind != Kind::Index {
            return Ok(0);
        }
        let nested: Vec<&Descriptor> = manifest.children().filter(|child| child.is_index()).collect();
        if nested.is_empty() {
            return Ok(1);
        }
        // More of them are refused by their number.
        for child in nested.into_iter().take(NESTED_MAX) {
            match self.image(name, &child.digest).await {
                Ok(child) if child.manifest.children().any(Descriptor::is_index) => return Ok(3),
                Ok(_) => {}
                Err(fault) if fault.is_transient() => return Err(fault),
                Err(_) => {}
            }
        }
        Ok(2)
    }

    async fn fetch_image(&self, name: Name, digest: Digest) -> Result<Arc<Stored>, Fault> {
        let inner = &self.0;
        if let Some(stored) = inner.catalog.manifest(&digest).await? {
            // The bytes are here through another repository; this one's upstream must vouch for them.
            if !inner.upstreams.has_manifest(&name, &digest).await? {
                return Err(Fault::Absent(format!("{name}@{digest}").into()));
            }
            let manifest = Manifest::clone(&stored.manifest);
            return Ok(inner.catalog.keep_manifest(&name, manifest, stored.bytes.clone()).await?);
        }
        let fetched = inner.upstreams.manifest(&name, &digest).await?;
        let parsed = Manifest::parse(&fetched.bytes, fetched.media_type.as_deref(), Some(&digest));
        match parsed {
            Ok(manifest) => Ok(inner.catalog.keep_manifest(&name, manifest, fetched.bytes).await?),
            Err(error) => {
                let fault = Fault::Invalid(format!("{name}@{digest}: {error}").into());
                self.sight(Sighting::Forged { name, digest, fault: fault.clone() });
                Err(fault)
            }
        }
    }

    /// Resolves the literal tags of a source upstream and reads what they lead to, each at most once
    /// per `tag_ttl`: afterwards every digest that an allowed tag leads to has its roots.
    async fn sweep(&self, name: &Name, tags: &[Tag]) -> Result<(), Fault> {
        let inner = &self.0;
        let now = inner.clock.now();
        let key = (name.clone(), tags.to_vec());
        // Also covers tags that are absent: no row remembers those.
        if inner.swept.get(&key).is_some_and(|at| tags::past(now, at) <= inner.settings.tag_ttl) {
            return Ok(());
        }
        let mut failed = None;
        for tag in tags {
            let outcome = match self.tag(name, tag, crate::policy::Fresh::Ttl).await {
                Ok(fact) => match fact.lock.or(fact.current) {
                    Some(digest) => self.image(name, &digest).await.map(|_| ()),
                    None => Ok(()),
                },
                Err(fault) => Err(fault),
            };
            match outcome {
                Ok(()) | Err(Fault::Absent(_)) => {}
                Err(fault) => failed = Some(fault),
            }
        }
        if let Some(fault) = failed {
            return Err(fault);
        }
        inner.swept.insert(key, now);
        Ok(())
    }

    /// Puts something on record later; never waits.
    fn sight(&self, sighting: Sighting) {
        if let Sighting::Forged { name, digest, .. } = &sighting {
            let key = (name.clone(), *digest);
            if self.0.forged.contains_key(&key) {
                return;
            }
            self.0.forged.insert(key, ());
        }
        if self.0.sightings.try_send(sighting).is_err() {
            tracing::warn!(
                "too many sightings wait to be recorded; drifts among them are recorded at the next start"
            );
        }
    }
}

/// About what a tag list holds in memory.
fn weigh_tags((_, tags): &Held<Vec<Tag>>) -> u32 {
    let bytes = tags.iter().map(|tag| tag.as_str().len() + 48).sum::<usize>();
    u32::try_from(bytes + 1024).unwrap_or(u32::MAX)
}

/// About what a list of referrers holds in memory.
fn weigh_referrers((_, referrers): &Held<Vec<Descriptor>>) -> u32 {
    let texts = |referrer: &Descriptor| {
        let Descriptor { media_type, digest: _, size: _, urls, platform: _, artifact_type, annotations } =
            referrer;
        let annotations = annotations.iter().flatten().map(|(key, value)| key.len() + value.len() + 128);
        media_type.len()
            + artifact_type.as_ref().map_or(0, String::len)
            + urls.iter().map(|url| url.len() + 48).sum::<usize>()
            + annotations.sum::<usize>()
    };
    let bytes = referrers.iter().map(|referrer| texts(referrer) + 1024).sum::<usize>();
    u32::try_from(bytes + 1024).unwrap_or(u32::MAX)
}

fn known<T>(outcome: Result<T, Fault>) -> Known<T> {
    match outcome {
        Ok(fact) => Known::Is(Arc::new(fact)),
        Err(fault) => Known::Failed(fault),
    }
}
