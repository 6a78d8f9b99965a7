//! How far a recall reaches: what contains it, who pulled that, who pulls its replacement.

use std::collections::{BTreeMap, BTreeSet};

use crate::audit::{self, Entry, Filter, Pattern, Reader};
use crate::catalog::{self, Catalog, Holder};
use crate::oci::{Digest, Name};
use crate::policy::{Code, Recall};

/// What is known here about a recall.
#[derive(Debug, Default)]
pub struct RecallReport {
    /// The manifests and indexes that it covers, with the tags that lead to them.
    pub holders: Vec<Holder>,
    /// Who pulled any of them.
    pub pulled: Vec<Pulls>,
    /// Who asked for any of it after the recall, and was refused.
    pub refused: Vec<Pulls>,
    /// Who pulled the replacement; none where the recall names none.
    pub replaced: Option<Vec<Pulls>>,
}

/// The pulls of one reference by one client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pulls {
    /// The client's name; its address where no `[[client]]` matched.
    pub client: String,
    /// What it asked for.
    pub reference: String,
    /// How often.
    pub count: u64,
    /// When first, as in the record.
    pub first: String,
    /// When last.
    pub last: String,
}

/// Why a report cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The catalog cannot be read.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    /// The record cannot be read.
    #[error(transparent)]
    Record(#[from] audit::Error),
}

/// Reads catalog and record; changes nothing and asks no upstream. Pulls older than the record keeps are
/// not in it.
pub async fn recall_report(
    recall: &Recall,
    catalog: &Catalog,
    reader: &Reader,
) -> Result<RecallReport, ReportError> {
    let named = named(recall, catalog).await?;
    let mut holders = BTreeSet::new();
    for digest in &named {
        holders.extend(catalog.holders(digest).await?);
    }
    let mut covered: BTreeSet<Digest> = named;
    covered.extend(holders.iter().map(|holder| holder.digest));
    let covered: BTreeSet<String> = covered.iter().map(Digest::to_string).collect();
    let mut names: BTreeSet<&Name> = holders.iter().map(|holder| &holder.name).collect();
    names.extend(recall.images.iter().map(|(name, _)| name));
    let (mut pulled, mut refused) = (Tally::default(), Tally::default());
    let about = format!("({}: ", recall.id);
    for name in names {
        each(reader, &name.to_string(), |entry| {
            let digest = |key| entry.text(&["image", key]).is_some_and(|digest| covered.contains(digest));
            let served = matches!(entry.text(&["verdict"]), Some("allow" | "warn"));
            let recalled = entry.text(&["reason", "code"]) == Some(Code::Recall.as_str())
                && entry.text(&["reason", "text"]).is_some_and(|text| text.contains(&about));
            if served && (digest("digest") || digest("root_digest")) {
                pulled.add(entry);
            } else if recalled {
                refused.add(entry);
            }
        })
        .await?;
    }
    let replaced = match &recall.replace {
        None => None,
        Some(replace) => {
            let mut tally = Tally::default();
            let digest = replace.digest.map(|digest| digest.to_string());
            each(reader, &replace.name.to_string(), |entry| {
                let is_it = match (&digest, &replace.tag) {
                    (Some(digest), _) => ["digest", "root_digest"]
                        .into_iter()
                        .any(|key| entry.text(&["image", key]) == Some(digest)),
                    (None, Some(tag)) => entry.text(&["image", "tag"]) == Some(tag.as_str()),
                    (None, None) => true,
                };
                if is_it && matches!(entry.text(&["verdict"]), Some("allow" | "warn")) {
                    tally.add(entry);
                }
            })
            .await?;
            Some(tally.pulls())
        }
    };
    Ok(RecallReport {
        holders: holders.into_iter().collect(),
        pulled: pulled.pulls(),
        refused: refused.pulls(),
        replaced,
    })
}

/// The digests that a recall names, directly and by what its images had here.
async fn named(recall: &Recall, catalog: &Catalog) -> Result<BTreeSet<Digest>, catalog::Error> {
    let mut named: BTreeSet<Digest> = recall.digests.iter().chain(&recall.layers).copied().collect();
    for diff_id in &recall.diff_ids {
        named.extend(catalog.configs_with(diff_id).await?);
    }
    for (name, tag) in &recall.images {
        match tag {
            Some(tag) => named.extend(catalog.history(name, tag).await?),
            None => named.extend(catalog.contents_of(name).await?),
        }
    }
    Ok(named)
}

/// Looks at every entry of the record about a repository.
async fn each(reader: &Reader, name: &str, mut look: impl FnMut(&Entry)) -> Result<(), audit::Error> {
    let filter = Filter { image: Some(Pattern::words(name)), ..Filter::default() };
    let mut entries = reader.entries(filter);
    while let Some(entry) = entries.next().await? {
        look(&entry);
    }
    Ok(())
}

/// Pulls by client and reference.
#[derive(Debug, Default)]
struct Tally(BTreeMap<(String, String), Pulls>);

impl Tally {
    fn add(&mut self, entry: &Entry) {
        let text = |path: &[&str]| entry.text(path).unwrap_or_default().to_owned();
        let client = ["name", "address"].into_iter().find_map(|key| entry.text(&["client", key]));
        let (client, reference) = (client.unwrap_or("unknown").to_owned(), text(&["image", "reference"]));
        let (first, last) = (text(&["first"]), text(&["last"]));
        let count = entry.number(&["count"]).unwrap_or(1);
        let pulls = self.0.entry((client.clone(), reference.clone())).or_insert_with(|| Pulls {
            client,
            reference,
            count: 0,
            first: first.clone(),
            last: last.clone(),
        });
        pulls.count = pulls.count.saturating_add(count);
        // Times of the record are of one length, so that they sort as text.
        pulls.first = first.min(std::mem::take(&mut pulls.first));
        pulls.last = last.max(std::mem::take(&mut pulls.last));
    }

    /// The latest first.
    fn pulls(self) -> Vec<Pulls> {
        let mut pulls: Vec<Pulls> = self.0.into_values().collect();
        pulls.sort_by(|a, b| b.last.cmp(&a.last));
        pulls
    }
}
