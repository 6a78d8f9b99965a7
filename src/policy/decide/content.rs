//! The content phase: what is in a manifest, and in the manifests of an index.

use super::{Judge, Stop};
use crate::oci::{Descriptor, Digest, Fault, Kind, Manifest};
use crate::policy::content::{self, Finding, JUDGED_MAX};
use crate::policy::{Code, Content, Image, IndexRule, Known, Lack};

/// What was found in a manifest.
pub(super) struct Look<'a> {
    /// Its images: itself, or those of an index that are judged, each with the index it was in.
    pub(super) images: Vec<(String, &'a Content, Option<&'a Manifest>)>,
    /// What could not be looked into, and what nobody should.
    pub(super) failed: Vec<Finding>,
}

impl<'a> Judge<'a> {
    /// Whether rules or recalls ask for more than a manifest says.
    pub(super) fn looks_inside(&self) -> bool {
        self.source.content.look_inside() || self.policy.recalls.looks_inside()
    }

    /// Judges what is to be served; a leaf is no image, so that only what holds for anything counts.
    pub(super) fn content(&mut self, image: &'a Image, leaf: bool) -> Result<(), Stop> {
        let findings = self.findings(&image.manifest, image.depth, leaf)?;
        self.take(findings);
        self.end_of_phase()
    }

    /// Everything that is found in a manifest; `depth` as of [`Image`], 0 where looking will tell.
    pub(super) fn findings(
        &self,
        manifest: &'a Manifest,
        depth: u8,
        leaf: bool,
    ) -> Result<Vec<Finding>, Stop> {
        let mut findings = content::judge_manifest(manifest, depth, &self.source.at);
        let sound = findings.iter().all(|finding| finding.refusal.is_none());
        let mut recalled: Vec<Finding> = self.recalled_edges(manifest).into_iter().collect();
        // What must not be served for its shape alone is not looked into.
        if sound && self.looks_inside() {
            let look = self.look(manifest)?;
            recalled.extend(look.images.iter().filter_map(|(_, content, _)| self.recalled_content(content)));
            if !leaf {
                findings.extend(self.judged(manifest, &look));
            }
            findings.extend(look.failed);
        } else if self.policy.recalls.names_manifests() && !is_sha256(&manifest.digest) {
            let contents = self.contents(&[manifest.digest])?;
            recalled.extend(contents.iter().filter_map(|(_, known)| match known {
                Known::Is(content) => self.recalled_content(content),
                Known::Failed(fault) => Some(Finding::unavailable(&super::short(&manifest.digest), fault)),
                Known::Unasked => None,
            }));
        }
        recalled.truncate(1);
        recalled.extend(findings);
        Ok(recalled)
    }

    /// Whether a manifest passes everything that refuses here; a need where that cannot be told yet.
    pub(super) fn passes_content(&self, findings: &[Finding]) -> bool {
        findings
            .iter()
            .filter_map(|finding| finding.refusal.as_ref())
            .all(|reason| !self.refuses(reason.code))
    }

    /// The contents of these, all of them; lacking ones are needed together.
    pub(super) fn contents(&self, digests: &[Digest]) -> Result<Vec<(Digest, &'a Known<Content>)>, Stop> {
        let mut missing = Vec::new();
        let mut found = Vec::with_capacity(digests.len());
        for digest in digests {
            match self.facts.contents.get(digest) {
                Some(known @ (Known::Failed(_) | Known::Is(_))) => found.push((*digest, known)),
                Some(Known::Unasked) | None => missing.push(*digest),
            }
        }
        if missing.is_empty() { Ok(found) } else { Err(Stop::Need(Lack::Contents(missing))) }
    }

    fn look(&self, manifest: &'a Manifest) -> Result<Look<'a>, Stop> {
        let mut look = Look { images: Vec::new(), failed: Vec::new() };
        match manifest.kind {
            Kind::Schema1 => {}
            Kind::Image => {
                let contents = self.contents(&[manifest.digest])?;
                for (digest, known) in contents {
                    match known {
                        Known::Is(content) => look.images.push((String::new(), content, None)),
                        Known::Failed(fault) => {
                            look.failed.push(Finding::unavailable(&super::short(&digest), fault));
                        }
                        Known::Unasked => {}
                    }
                }
            }
            Kind::Index => self.look_into_index(manifest, 1, &mut look)?,
        }
        Ok(look)
    }

    fn look_into_index(&self, index: &'a Manifest, depth: u8, look: &mut Look<'a>) -> Result<(), Stop> {
        let covered: Vec<&Descriptor> =
            index.children().filter(|child| self.source.content.covers(child.platform.as_ref())).collect();
        if look.images.len() + covered.len() > JUDGED_MAX {
            look.failed.push(
                Finding::new(
                    "index",
                    format!("{} to be judged", covered.len()),
                    "at most 128 that are judged",
                )
                .refused(
                    Code::IndexTooLarge,
                    format!(
                        "its index lists {} images to be judged; at most {JUDGED_MAX} are",
                        covered.len()
                    ),
                    "name the manifest of your platform by digest",
                ),
            );
            return Ok(());
        }
        let digests: Vec<Digest> = covered.iter().map(|child| child.digest).collect();
        let contents = self.contents(&digests)?;
        let mut missing = Vec::new();
        let (mut absent, mut carried) = (None, false);
        for (child, (digest, known)) in covered.iter().zip(contents) {
            let content = match known {
                Known::Is(content) => content,
                // An index may name more than its registry carries: that is served to nobody.
                Known::Failed(fault @ Fault::Absent(_)) => {
                    absent = Some(fault);
                    continue;
                }
                Known::Failed(fault) => {
                    carried = true;
                    look.failed.push(Finding::unavailable(&super::short(&digest), fault));
                    continue;
                }
                Known::Unasked => continue,
            };
            carried = true;
            if content.manifest.kind != Kind::Index {
                let platform = match (&child.platform, &content.config) {
                    (Some(platform), _) => platform.to_string(),
                    (None, Known::Is(config)) => config.platform.to_string(),
                    (None, _) => super::short(&digest),
                };
                look.images.push((platform, content, Some(index)));
            } else if depth >= 2 {
                look.failed.push(
                    Finding::new("index", "an index in an index in an index", "at most two levels").refused(
                        Code::IndexTooLarge,
                        "its index holds indexes of indexes; two levels are accepted",
                        "name the manifest of your platform by digest",
                    ),
                );
            } else {
                match self.look_into_index(&content.manifest, depth + 1, look) {
                    Err(Stop::Need(Lack::Contents(more))) => missing.extend(more),
                    outcome => outcome?,
                }
            }
        }
        if let (Some(fault), false) = (absent, carried) {
            look.failed.push(Finding::unavailable("what its index lists", fault));
        }
        if missing.is_empty() { Ok(()) } else { Err(Stop::Need(Lack::Contents(missing))) }
    }

    /// The content rules over what was found; for an index, those of its images together.
    fn judged(&self, manifest: &Manifest, look: &Look<'_>) -> Vec<Finding> {
        let rules = &self.source.content;
        let judged: Vec<(&str, Vec<Finding>)> = look
            .images
            .iter()
            .map(|(platform, content, index)| (platform.as_str(), rules.judge(content, *index, self.now)))
            .collect();
        if manifest.kind != Kind::Index {
            return judged.into_iter().flat_map(|(_, findings)| findings).collect();
        }
        if judged.is_empty() && look.failed.is_empty() {
            return rules.nothing_judged(manifest).into_iter().collect();
        }
        let passing = judged.iter().position(|(_, findings)| self.passes_content(findings));
        match (rules.index, passing) {
            (IndexRule::Any, Some(passing)) => together(judged.into_iter().skip(passing).take(1).collect()),
            _ => together(judged),
        }
    }
}

/// One finding for each check, of all the images of an index.
fn together(judged: Vec<(&str, Vec<Finding>)>) -> Vec<Finding> {
    /// How many platforms are told in words.
    const TOLD: usize = 8;
    let mut all: Vec<(usize, Finding)> = Vec::new();
    for (platform, findings) in judged {
        for mut finding in findings {
            finding.observed = format!("{platform}: {}", finding.observed);
            if let Some(reason) = &mut finding.refusal {
                reason.text = format!("{platform}: {}", reason.text);
            }
            let Some((count, known)) = all.iter_mut().find(|(_, known)| known.id == finding.id) else {
                all.push((1, finding));
                continue;
            };
            *count += 1;
            match *count {
                ..=TOLD => {
                    known.observed.push_str("; ");
                    known.observed.push_str(&finding.observed);
                }
                more if more == TOLD + 1 => known.observed.push_str("; …"),
                _ => {}
            }
            known.refusal = known.refusal.take().or(finding.refusal);
            known.fault = known.fault.take().or(finding.fault);
            known.until = known.until.into_iter().chain(finding.until).min();
        }
    }
    all.into_iter().map(|(_, finding)| finding).collect()
}

fn is_sha256(digest: &Digest) -> bool {
    digest.algorithm() == crate::oci::Algorithm::Sha256
}
