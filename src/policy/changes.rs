//! The semantic difference of two policies: what a reviewer of a reload wants to read.

use std::collections::BTreeMap;

use super::{Pattern, Policy, Source};

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
        changes
    }
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
