//! The semantic difference of two policies: what a reviewer of a reload wants to read.

use std::collections::{BTreeMap, BTreeSet};

use super::content::span;
use super::recalls::summary;
use super::{Exception, Pattern, Policy, Recall, Softenable, Source};

impl Policy {
    /// What `newer` says differently, a sentence each, in a stable order: the policy's own keys, then
    /// sources by id, then pins. Empty when the files differ in comments and tests only.
    pub fn changes(&self, newer: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        let mut differ = |what: &str, old: String, new: String| {
            if old != new {
                changes.push(format!("{what}: {old} → {new}"));
            }
        };
        differ("revision", self.revision().to_owned(), newer.revision().to_owned());
        differ("mode", self.mode().as_str().to_owned(), newer.mode().as_str().to_owned());
        let (old, new) = (by_id(self), by_id(newer));
        for (id, source) in &old {
            let Some(later) = new.get(id) else {
                changes.push(format!("source {id} removed ({})", place(source)));
                continue;
            };
            let mut differ = |key: &str, old: String, new: String| {
                if old != new {
                    changes.push(format!("source {id}: {key}: {old} → {new}"));
                }
            };
            differ("match", place(source), place(later));
            differ("tags.allow", words(source.allow()), words(later.allow()));
            differ("tags.deny", words(source.deny()), words(later.deny()));
            differ("tags.moved", source.moved().as_str().into(), later.moved().as_str().into());
            differ("digests", source.digests().as_str().into(), later.digests().as_str().into());
            differ("mode", source.mode().as_str().into(), later.mode().as_str().into());
            differ("clients", clients(source), clients(later));
            differ("tags.hold", hold(source), hold(later));
            differ("tags.hold_first", source.hold_first.as_str().into(), later.hold_first.as_str().into());
            let (old, new) = (source.content.describe(), later.content.describe());
            let keys: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
            for key in keys {
                let words = |rules: &BTreeMap<&str, String>| {
                    rules.get(key).cloned().unwrap_or_else(|| "not judged".to_owned())
                };
                differ(key, words(&old), words(&new));
            }
            for check in Softenable::ALL {
                let mode = |source: &Source| check.codes().first().map(|code| source.mode_of(*code).as_str());
                let words = |mode: Option<&str>| mode.unwrap_or_default().to_owned();
                // The source's own mode was told already.
                if source.mode() == later.mode() {
                    let key = format!("modes.{}", check.as_str());
                    differ(&key, words(mode(source)), words(mode(later)));
                }
            }
        }
        for (id, source) in new.iter().filter(|(id, _)| !old.contains_key(*id)) {
            changes.push(format!("source {id} added ({})", place(source)));
        }
        let (old, new) = (pins(self), pins(newer));
        for (image, digests) in &old {
            match new.get(image) {
                None => changes.push(format!("pin {image} removed ({digests})")),
                Some(later) if later != digests => {
                    changes.push(format!("pin {image}: {digests} → {later}"));
                }
                Some(_) => {}
            }
        }
        for (image, digests) in new.iter().filter(|(image, _)| !old.contains_key(*image)) {
            changes.push(format!("pin {image} added ({digests})"));
        }
        let recalls = |policy: &Policy| -> BTreeMap<String, String> {
            let words = |recall: &Recall| (format!("recall {}", recall.id), summary(recall).to_string());
            policy.recalls().iter().map(words).collect()
        };
        tables(&mut changes, &recalls(self), &recalls(newer));
        let exceptions = |policy: &Policy| -> BTreeMap<String, String> {
            let words = |exception: &Exception| {
                let waives: Vec<&str> = exception.waive.iter().map(|check| check.as_str()).collect();
                let words = format!("{}: {} until {}", exception.image, waives.join(", "), exception.expires);
                (format!("exception {}", exception.id), words)
            };
            policy.exceptions().iter().map(words).collect()
        };
        tables(&mut changes, &exceptions(self), &exceptions(newer));
        changes
    }
}

impl Policy {
    /// What this policy recalls and `newer` does not, in words: taking back a recall takes a new
    /// revision, so that nobody does it by a slip of the hand.
    pub fn recalls_dropped(&self, newer: &Self) -> Vec<String> {
        let all = |policy: &Self| -> BTreeSet<String> {
            let items = |recall: &Recall| {
                let digests =
                    [("digest", &recall.digests), ("layer", &recall.layers), ("diff_id", &recall.diff_ids)];
                let digests = digests
                    .into_iter()
                    .flat_map(|(kind, digests)| digests.iter().map(move |digest| format!("{kind} {digest}")));
                let images = recall.images.iter().map(|(name, tag)| match tag {
                    Some(tag) => format!("image {name}:{tag}"),
                    None => format!("image {name}"),
                });
                digests.chain(images).collect::<Vec<_>>()
            };
            policy.recalls().iter().flat_map(items).collect()
        };
        all(self).difference(&all(newer)).cloned().collect()
    }
}

/// What came, went and changed among tables that have names.
fn tables(changes: &mut Vec<String>, old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) {
    for (name, words) in old {
        match new.get(name) {
            None => changes.push(format!("{name} removed ({words})")),
            Some(later) if later != words => changes.push(format!("{name}: {words} → {later}")),
            Some(_) => {}
        }
    }
    for (name, words) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
        changes.push(format!("{name} added ({words})"));
    }
}

fn hold(source: &Source) -> String {
    source.hold.as_ref().map_or_else(|| "none".to_owned(), |hold| span(hold.value))
}

fn by_id(policy: &Policy) -> BTreeMap<&str, &Source> {
    policy.sources().map(|source| (source.id(), source)).collect()
}

fn place(source: &Source) -> String {
    source.pattern().map_or_else(|| "unlisted registries".to_owned(), ToString::to_string)
}

fn words(patterns: &[Pattern]) -> String {
    let words: Vec<&str> = patterns.iter().map(Pattern::as_str).collect();
    format!("[{}]", words.join(", "))
}

fn clients(source: &Source) -> String {
    source.clients().map_or_else(|| "anybody".to_owned(), |names| format!("[{}]", names.join(", ")))
}

fn pins(policy: &Policy) -> BTreeMap<String, String> {
    let mut pins: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pin in policy.pins() {
        let image =
            pin.tag.as_ref().map_or_else(|| pin.name.to_string(), |tag| format!("{}:{tag}", pin.name));
        pins.entry(image).or_default().push(pin.digest.to_string());
    }
    pins.into_iter()
        .map(|(image, mut digests)| {
            digests.sort();
            (image, digests.join(", "))
        })
        .collect()
}
