//! Whence content comes: registries over HTTPS, and folders in the OCI image layout.
//!
//! [`Upstreams`] answers the distribution spec's questions for any registry. It believes nothing: bytes
//! are handed on as they came, bounded but unverified, and whoever asked verifies them. It knows no
//! caller: requests carry the gateway's own headers and credentials only, and these go to the endpoint's
//! own registrable domain or to hosts that were declared.

mod address;
mod challenge;
mod credentials;
mod endpoint;
mod health;
mod layout;
mod metrics;
mod preset;
mod registry;
mod settings;
#[cfg(test)]
mod tests;
mod tokens;
mod transport;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures_util::Stream;

use crate::clock::Clock;
use crate::oci::{Descriptor, Digest, Fault, Name, Registry, Tag};

pub use address::Resolver;
pub use health::{Health, RateLimit};
pub use preset::{PRESETS, Preset, default_endpoint, preset};
pub use settings::{Auth, Ca, EndpointSettings, Error, Secret, Settings, SourceSettings, UpstreamSettings};

use endpoint::{Endpoint, Parts};
use layout::Layout;

/// Registries without an `[[upstream]]` whose connections are kept.
const UNDECLARED_MAX: usize = 256;

/// A manifest as it came: at most [`crate::oci::MANIFEST_MAX`] bytes, not verified.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// Its bytes.
    pub bytes: Bytes,
    /// What the upstream called it, parameters included.
    pub media_type: Option<String>,
}

/// Whether an upstream has something.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Presence {
    /// It says that it has not.
    Absent,
    /// It has.
    Present {
        /// The length in bytes, where it told.
        size: Option<u64>,
    },
}

/// A blob on its way, not verified.
pub struct BlobStream {
    /// The offset of the first byte that comes: the one asked for, or 0 where the upstream does not
    /// serve parts.
    pub start: u64,
    /// The length of the whole blob, where the upstream told. The body then ends with an error unless
    /// exactly `total - start` bytes came.
    pub total: Option<u64>,
    /// The bytes. A transfer that breaks or stalls for 60 s ends with [`Fault::Unreachable`], and may
    /// be resumed by asking again from the byte that is missing.
    pub body: BlobBody,
}

/// The body of a [`BlobStream`].
pub type BlobBody = Pin<Box<dyn Stream<Item = Result<Bytes, Fault>> + Send>>;

impl fmt::Debug for BlobStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { start, total, body: _ } = self;
        f.debug_struct("BlobStream").field("start", start).field("total", total).finish_non_exhaustive()
    }
}

/// All upstreams of the gateway.
///
/// Every method asks the registry's endpoints in the order of the settings until one answers. When
/// none does, the gravest fault is told: one that may pass before one that will not, "not found" only
/// when all say so. A registry without `[[upstream]]` is asked where it is known to be ([`preset()`]),
/// else at `https://<registry>`; all it involves must then have public addresses.
///
/// A question is answered or fails within about 22 s (listings and bodies take longer). Connecting is
/// not part of [`Upstreams::new`]: an upstream that is down stops nobody from starting.
pub struct Upstreams {
    clock: Clock,
    declared: HashMap<Registry, Vec<Source>>,
    proxied: bool,
    resolver: Resolver,
    roots: rustls::RootCertStore,
    sealed: bool,
    undeclared: RwLock<HashMap<Registry, Arc<Endpoint>>>,
}

#[derive(Clone)]
enum Source {
    Endpoint(Arc<Endpoint>),
    Layout(Arc<Layout>),
}

impl fmt::Debug for Upstreams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstreams").field("declared", &self.declared.keys()).finish_non_exhaustive()
    }
}

impl Upstreams {
    /// Sets everything up and contacts nobody. Reads the system's root certificates (`SSL_CERT_FILE`
    /// and `SSL_CERT_DIR` count; having none is logged, not fatal) and each `ca`.
    pub fn new(settings: Settings, clock: Clock) -> Result<Self, Error> {
        let Settings { upstreams, sealed, resolver, proxy_from_environment: proxied } = settings;
        let mut roots = rustls::RootCertStore::empty();
        let native = rustls_native_certs::load_native_certs();
        let (trusted, _) = roots.add_parsable_certificates(native.certs);
        if trusted == 0 {
            let problems: Vec<String> = native.errors.iter().map(ToString::to_string).collect();
            tracing::warn!(
                problems = problems.join("; "),
                "the system has no root certificates; install ca-certificates, set SSL_CERT_FILE, or give each upstream its ca"
            );
        }
        let parts = Parts { roots: &roots, resolver: &resolver, proxied, clock: &clock };
        let mut declared: HashMap<Registry, Vec<Source>> = HashMap::new();
        for UpstreamSettings { registry, source } in upstreams {
            let source = match source {
                SourceSettings::Endpoint(endpoint) => {
                    Source::Endpoint(Arc::new(Endpoint::declared(&registry, &endpoint, &parts)?))
                }
                SourceSettings::Layout(folder) => {
                    Source::Layout(Arc::new(Layout::new(registry.clone(), folder, clock.clone())))
                }
            };
            declared.entry(registry).or_default().push(source);
        }
        Ok(Self { clock, declared, proxied, resolver, roots, sealed, undeclared: RwLock::default() })
    }

    /// The registries that have an `[[upstream]]`: those whose address may stand in a reference, and
    /// which are known as path prefixes.
    pub fn registries(&self) -> HashSet<Registry> {
        self.declared.keys().cloned().collect()
    }

    /// Whether no registry is ever contacted: then what is not held is not to be had.
    pub fn is_sealed(&self) -> bool {
        self.sealed
    }

    /// Where a tag leads now. By HEAD, which Docker Hub does not count; by GET and hashing where HEAD
    /// names no digest.
    pub async fn resolve(&self, name: &Name, tag: &Tag) -> Result<Digest, Fault> {
        let ask = |source| async move {
            match source {
                Source::Endpoint(endpoint) => endpoint.resolve(name, tag).await,
                Source::Layout(layout) => layout.resolve(name, tag).await,
            }
        };
        self.first(name, ask).await
    }

    /// The manifest of this digest. Its bytes are not verified: `oci::Manifest::parse` does.
    pub async fn manifest(&self, name: &Name, digest: &Digest) -> Result<Fetched, Fault> {
        let ask = |source| async move {
            match source {
                Source::Endpoint(endpoint) => endpoint.manifest(name, digest).await,
                Source::Layout(layout) => layout.manifest(name, digest).await,
            }
        };
        self.first(name, ask).await
    }

    /// Whether the repository holds a manifest of this digest.
    pub async fn has_manifest(&self, name: &Name, digest: &Digest) -> Result<bool, Fault> {
        let ask = |source| async move {
            match source {
                Source::Endpoint(endpoint) => endpoint.manifest_size(name, digest).await,
                Source::Layout(layout) => layout.size(name, digest).await,
            }
        };
        present(self.first(name, ask).await, |_| true, false)
    }

    /// Whether the repository holds a blob of this digest.
    pub async fn has_blob(&self, name: &Name, digest: &Digest) -> Result<Presence, Fault> {
        let ask = |source| async move {
            match source {
                Source::Endpoint(endpoint) => endpoint.blob_size(name, digest).await,
                Source::Layout(layout) => layout.size(name, digest).await,
            }
        };
        present(self.first(name, ask).await, |size| Presence::Present { size }, Presence::Absent)
    }

    /// A blob from this offset on, or from its start where the upstream does not serve parts: see
    /// [`BlobStream::start`].
    pub async fn blob(&self, name: &Name, digest: &Digest, offset: u64) -> Result<BlobStream, Fault> {
        let ask = |source| async move {
            match source {
                Source::Endpoint(endpoint) => endpoint.blob(name, digest, offset).await,
                Source::Layout(layout) => layout.blob(name, digest, offset).await,
            }
        };
        self.first(name, ask).await
    }

    /// All tags of a repository, in the order of the upstream; at most 100,000, more are
    /// [`Fault::Invalid`]. What is no tag by the spec is left out.
    pub async fn tags(&self, name: &Name) -> Result<Vec<Tag>, Fault> {
        let ask = |source| async move {
            match source {
                Source::Endpoint(endpoint) => endpoint.tags(name).await,
                Source::Layout(layout) => layout.tags(name).await,
            }
        };
        self.first(name, ask).await
    }

    /// What refers to a digest: by the referrers API, else by the tag schema; empty when nothing does.
    pub async fn referrers(&self, name: &Name, digest: &Digest) -> Result<Vec<Descriptor>, Fault> {
        let ask = |source| async move {
            match source {
                Source::Endpoint(endpoint) => endpoint.referrers(name, digest).await,
                Source::Layout(layout) => layout.referrers(name, digest).await,
            }
        };
        present(self.first(name, ask).await, |found| found, Vec::new())
    }

    /// Asks the sources of a registry in turn until one answers; otherwise the gravest fault.
    async fn first<T, F>(&self, name: &Name, ask: impl Fn(Source) -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let mut gravest = None;
        for source in self.sources(name)? {
            match ask(source).await {
                Ok(found) => return Ok(found),
                Err(fault) => {
                    gravest = Some(match gravest {
                        Some(other) if gravity(&other) >= gravity(&fault) => other,
                        _ => fault,
                    });
                }
            }
        }
        Err(gravest.unwrap_or_else(|| Fault::Absent(name.to_string().into())))
    }

    /// How every endpoint has been doing, ordered by registry: for metrics and `/readyz`.
    pub fn health(&self) -> Vec<Health> {
        let declared = self.declared.values().flatten().map(|source| match source {
            Source::Endpoint(endpoint) => endpoint.health(),
            Source::Layout(layout) => layout.health(),
        });
        let undeclared = self.undeclared.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<Health> =
            declared.chain(undeclared.values().map(|endpoint| endpoint.health())).collect();
        all.sort_by(|a, b| a.registry.cmp(&b.registry));
        all
    }

    fn sources(&self, name: &Name) -> Result<Vec<Source>, Fault> {
        let registry = name.registry();
        let mut sources = match self.declared.get(registry) {
            Some(sources) => sources.clone(),
            None if self.sealed => Vec::new(),
            None => vec![Source::Endpoint(self.undeclared(registry)?)],
        };
        if self.sealed {
            sources.retain(|source| matches!(source, Source::Layout(_)));
            if sources.is_empty() {
                let text = format!("this gateway is sealed, so {registry} is not contacted");
                return Err(Fault::Unreachable(text.into()));
            }
        }
        Ok(sources)
    }

    fn undeclared(&self, registry: &Registry) -> Result<Arc<Endpoint>, Fault> {
        if let Some(known) = self.undeclared.read().unwrap_or_else(PoisonError::into_inner).get(registry) {
            return Ok(Arc::clone(known));
        }
        let parts =
            Parts { roots: &self.roots, resolver: &self.resolver, proxied: self.proxied, clock: &self.clock };
        let fault = |text: String| Fault::Unreachable(text.into());
        let url =
            default_endpoint(registry).ok_or_else(|| fault(format!("{registry} cannot be addressed")))?;
        let made = Endpoint::undeclared(registry, url, &parts).map_err(|error| fault(error.to_string()))?;
        let mut all = self.undeclared.write().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= UNDECLARED_MAX {
            all.clear();
        }
        Ok(Arc::clone(all.entry(registry.clone()).or_insert_with(|| Arc::new(made))))
    }
}

/// "Not found" from all endpoints is believed; one that could not say makes the question open.
fn gravity(fault: &Fault) -> u8 {
    match fault {
        Fault::Absent(_) => 0,
        Fault::Denied(_) => 1,
        Fault::Invalid(_) => 2,
        Fault::Storage(_) | Fault::Throttled { .. } | Fault::Unreachable(_) => 3,
    }
}

/// Turns "not found" into an answer.
fn present<T, U>(found: Result<T, Fault>, there: impl FnOnce(T) -> U, absent: U) -> Result<U, Fault> {
    match found {
        Ok(found) => Ok(there(found)),
        Err(Fault::Absent(_)) => Ok(absent),
        Err(fault) => Err(fault),
    }
}
