//! One reference judged: offline, with what a gateway's catalog knows where one was named.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use super::super::Failure;
use crate::catalog::{self, Catalog};
use crate::clock::Clock;
use crate::identity::{Attribution, Caller, Class};
use crate::oci::{Digest, Name, NameError, Reference, Tag};
use crate::policy::{Given, Offline, Policy, Verdict};

/// What judges.
pub(super) struct Judge {
    pub(super) policy: Policy,
    client: Option<Arc<str>>,
    now: Timestamp,
    known: Option<Known>,
}

/// What a gateway knows of the references at hand.
#[derive(Debug, Default)]
struct Known {
    /// The tags that lead to a digest.
    leading: HashMap<(Name, Digest), Vec<Tag>>,
    /// The digests tags are locked to.
    locks: HashMap<(Name, Tag), Digest>,
    /// The tags that were served.
    served: HashMap<Name, Vec<Tag>>,
}

/// A reference with its verdict.
pub(super) struct Judged {
    pub(super) reference: Reference,
    pub(super) offline: Offline,
    /// The nearest allowed tag, where one is known.
    pub(super) nearest: Option<Tag>,
}

impl Judged {
    /// Whether it would not be served.
    pub(super) fn is_refused(&self) -> bool {
        self.offline.verdict >= Verdict::Hold
    }
}

impl Judge {
    pub(super) fn new(policy: Policy, client: Option<&str>) -> Self {
        Self { policy, client: client.map(Into::into), now: Clock::system().now(), known: None }
    }

    /// Reads what the gateway whose data folder this is knows of these references.
    pub(super) fn ask(&mut self, folder: &Path, texts: &[&str]) -> Result<(), Failure> {
        let references: HashSet<Reference> = texts.iter().filter_map(|text| self.read(text).ok()).collect();
        let known = super::super::block_on(gather(folder, &references))?.map_err(Failure::usage)?;
        self.known = Some(known);
        Ok(())
    }

    /// The reference a text stands for.
    pub(super) fn read(&self, text: &str) -> Result<Reference, NameError> {
        let reference: Reference = text.parse()?;
        let registry = reference.name.registry();
        if registry.is_ip() && !self.policy.registries().contains(registry) {
            return Err(NameError::IpLiteral(registry.to_string()));
        }
        Ok(reference)
    }

    /// The verdict on a text.
    pub(super) fn judge(&self, text: &str) -> Result<Judged, NameError> {
        let reference = self.read(text)?;
        let offline = self.offline(&reference, None);
        let nearest = match (&reference.tag, &reference.digest) {
            (Some(tag), None) if offline.verdict > Verdict::Allow => {
                let served = self.known.as_ref().and_then(|known| known.served.get(&reference.name));
                self.policy.suggest(&self.caller(), &reference.name, tag, served.into_iter().flatten())
            }
            _ => None,
        };
        Ok(Judged { reference, offline, nearest })
    }

    /// The verdict on a reference as if, besides what is known, this tag led to its digest.
    pub(super) fn offline(&self, reference: &Reference, leading: Option<&Tag>) -> Offline {
        let known = self.known.as_ref().zip(reference.digest);
        let known = known.and_then(|(known, digest)| known.leading.get(&(reference.name.clone(), digest)));
        let tags = known.into_iter().flatten().chain(leading).cloned().collect();
        let given = Given { tags, ..Given::default() };
        self.policy.offline(self.client.as_ref(), reference, &given, self.now)
    }

    /// The digest a tag is locked to by the gateway.
    pub(super) fn lock(&self, reference: &Reference) -> Option<Digest> {
        let tag = reference.tag.clone()?;
        self.known.as_ref()?.locks.get(&(reference.name.clone(), tag)).copied()
    }

    /// Somebody who asks from nowhere.
    fn caller(&self) -> Caller {
        Caller {
            class: self.client.clone().map_or(Class::Anonymous, Class::Client),
            attribution: Attribution::None,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            proxy: None,
            certificate: None,
            user_agent: None,
        }
    }
}

async fn gather(folder: &Path, references: &HashSet<Reference>) -> Result<Known, catalog::Error> {
    let catalog = Catalog::open_read_only(folder, Clock::system()).await?;
    let mut known = Known::default();
    for Reference { name, tag, digest } in references {
        if let Some(digest) = digest {
            let lineage = catalog.lineage(name, digest).await?;
            let tags = lineage.into_iter().filter(|ancestor| ancestor.levels == 0);
            known.leading.insert((name.clone(), *digest), tags.flat_map(|ancestor| ancestor.tags).collect());
        } else if let Some(tag) = tag {
            let row = catalog.tag(name, tag).await?;
            if let Some(locked) = row.and_then(|row| row.locked) {
                known.locks.insert((name.clone(), tag.clone()), locked);
            }
            if !known.served.contains_key(name) {
                known.served.insert(name.clone(), catalog.served_tags(name).await?);
            }
        }
    }
    Ok(known)
}
