//! What was recalled is refused, whatever else is written.

use std::time::Duration;

use super::{Judge, Stop, short};
use crate::oci::{Algorithm, Digest, Manifest, Role, What};
use crate::policy::content::Finding;
use crate::policy::{Code, Content, Known, Lack, Reason, Recall, Recalled};

/// For how long a permit stands in a repository of which a tag was recalled.
const AGAIN: Duration = Duration::from_secs(60);

const EXPECTED: &str = "nothing that was recalled";

impl Judge<'_> {
    /// The first look: what the reference alone, or what leads to the digest, tells.
    pub(super) fn recalled_by_name(&mut self) -> Result<(), Stop> {
        let recalls = &self.policy.recalls;
        if recalls.is_empty() {
            return Ok(());
        }
        let name = self.name;
        if !recalls.tags(name).is_empty() {
            // Where a recalled tag leads may change without anybody's asking for it.
            self.holds_until(self.now.checked_add(AGAIN).unwrap_or(self.now));
        }
        let found = match &self.ask.what {
            What::Blob(digest) => recalls.blob(digest).map(|recall| told(recall, &short(digest))),
            What::Tag(tag) => recalls.tag(name, tag).map(|recall| told(recall, "it")),
            What::Digest(digest) | What::Referrers(digest) => self.recalled_digest(*digest)?,
            What::Tags => None,
        };
        let found = found.or_else(|| recalls.repository(name).map(|recall| told(recall, &name.to_string())));
        match found {
            Some(finding) => self.take(vec![finding]),
            None => self.check_unwritten("recall", true, "not recalled", EXPECTED),
        }
        self.end_of_phase()
    }

    /// A tag's digest, once it is known.
    pub(super) fn recalled_under_tag(&mut self, digest: Digest) -> Result<(), Stop> {
        let found = self.recalled_digest(digest)?;
        self.take(found.into_iter().collect());
        self.end_of_phase()?;
        self.recalled_unseen(digest)
    }

    /// What leads to a digest is known as far as it was seen here. A recalled manifest that never was may
    /// list it too: before anything of it is served the repository's upstream is asked for that manifest.
    pub(super) fn recalled_unseen(&mut self, digest: Digest) -> Result<(), Stop> {
        let recalled = self.policy.recalls.manifests();
        if recalled.is_empty() {
            return Ok(());
        }
        match &self.facts.unseen {
            Known::Failed(fault) => return Err(Stop::Fail(fault.clone())),
            Known::Is(unseen) => {
                if let Some(fault) = &unseen.unanswered {
                    let what = format!("whether {} is recalled", short(&digest));
                    self.take(vec![Finding::unavailable(&what, fault)]);
                }
                if let Some(until) = unseen.until {
                    self.holds_until(until);
                }
            }
            Known::Unasked => {
                return Err(Stop::Need(Lack::Unseen { digest, recalled: recalled.clone() }));
            }
        }
        self.end_of_phase()
    }

    /// A manifest's digest: recalled itself, had by a recalled tag, or in an index that is.
    pub(super) fn recalled_digest(&self, digest: Digest) -> Result<Option<Finding>, Stop> {
        let recalls = &self.policy.recalls;
        if let Some(recall) = recalls.digest(&digest) {
            return Ok(Some(told(recall, &short(&digest))));
        }
        let tags = recalls.tags(self.name);
        if tags.is_empty() && !recalls.names_manifests() {
            return Ok(None);
        }
        let known = match &self.facts.recalled {
            Known::Failed(fault) => {
                let what = format!("whether {} is recalled", short(&digest));
                return Ok(Some(Finding::unavailable(&what, fault)));
            }
            Known::Is(known) if known.above.contains_key(&digest) => known,
            Known::Is(_) | Known::Unasked => {
                return Err(Stop::Need(Lack::Recalled { digests: vec![digest], tags }));
            }
        };
        if let Some(recall) = self.recall_of(&digest, known) {
            return Ok(Some(told(recall, &short(&digest))));
        }
        let above = known.above.get(&digest).into_iter().flatten();
        Ok(above
            .filter_map(|above| {
                Some(told(
                    self.recall_of(above, known)?,
                    &format!("{} with {}", short(&digest), short(above)),
                ))
            })
            .next())
    }

    fn recall_of(&self, digest: &Digest, known: &Recalled) -> Option<&Recall> {
        let recalls = &self.policy.recalls;
        recalls.digest(digest).or_else(|| recalls.tag(self.name, known.tagged.get(digest)?))
    }

    /// What a manifest names and hands out.
    pub(super) fn recalled_edges(&self, manifest: &Manifest) -> Option<Finding> {
        let recalls = &self.policy.recalls;
        if recalls.is_empty() {
            return None;
        }
        manifest.edges.iter().find_map(|(role, edge)| {
            let recall = match role {
                Role::Child => match &self.facts.recalled {
                    Known::Is(known) => self.recall_of(&edge.digest, known),
                    Known::Failed(_) | Known::Unasked => recalls.digest(&edge.digest),
                },
                Role::Config | Role::Layer => recalls.blob(&edge.digest),
            }?;
            let what = match role {
                Role::Child => "its manifest",
                Role::Config => "its config",
                Role::Layer => "its layer",
            };
            Some(told(recall, &format!("{what} {}", short(&edge.digest))))
        })
    }

    /// A manifest that was looked into: by the sha256 of its bytes, its blobs, its uncompressed layers.
    pub(super) fn recalled_content(&self, content: &Content) -> Option<Finding> {
        let recalls = &self.policy.recalls;
        if recalls.is_empty() {
            return None;
        }
        if let Some(recall) = recalls.digest(&content.sha256) {
            return Some(told(recall, &short(&content.sha256)));
        }
        if let Some(finding) = self.recalled_edges(&content.manifest) {
            return Some(finding);
        }
        if let Known::Is(config) = &content.config
            && let Some((recall, id)) = config.diff_ids.iter().find_map(|id| Some((recalls.diff_id(id)?, id)))
        {
            return Some(told(recall, &format!("its layer {} (diff_id)", short(id))));
        }
        // Recalls name layers by sha256; under another name nobody can tell which layer it is.
        let unnamed = |edge: &Digest| recalls.names_layers() && edge.algorithm() != Algorithm::Sha256;
        let (_, layer) = content
            .manifest
            .edges
            .iter()
            .find(|(role, edge)| *role == Role::Layer && unnamed(&edge.digest))?;
        let text = format!(
            "whether its layer {} is recalled cannot be told: it is not named by sha256",
            short(&layer.digest)
        );
        Some(Finding::new("recall", layer.digest.to_string(), EXPECTED).refused(
            Code::FactsUnavailable,
            text,
            "use an image whose layers are named by sha256",
        ))
    }
}

fn told(recall: &Recall, what: &str) -> Finding {
    let mut finding = Finding::new("recall", what, EXPECTED).at(&recall.at);
    let reason: Reason = recall.refusal(what);
    finding.refusal = Some(reason);
    finding
}
