//! Two policies compared by what they do: examples judged under both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Code, Given, Offline, Policy, Source, Verdict, samples};
use crate::oci::{Digest, Name, Reference, Tag};

/// More examples than this are never judged.
const EXAMPLES_MAX: usize = 50_000;

/// Tags as publishers write them, so that there is one that no pattern names.
const PLAIN: [&str; 5] = ["1", "1.2", "1.2.3", "latest", "v1.2.3"];

/// What `newer` does differently.
#[derive(Debug, Default)]
pub struct Difference {
    /// What it says differently, a sentence each: [`Policy::changes`].
    pub changes: Vec<String>,
    /// Examples that were refused and are allowed now.
    pub allowed: Vec<Witness>,
    /// Examples that were allowed and are refused now.
    pub refused: Vec<Witness>,
    /// Examples with another verdict or other reasons, refused or allowed before and after.
    pub altered: Vec<Witness>,
    /// How many examples were judged under both.
    pub judged: usize,
    /// Whether there were more to judge than are judged at once.
    pub cut: bool,
}

impl Difference {
    /// Whether the policies say and do the same.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.allowed.is_empty()
            && self.refused.is_empty()
            && self.altered.is_empty()
    }
}

/// An example that the two policies judge differently.
#[derive(Clone, Debug)]
pub struct Witness {
    /// What is pulled.
    pub reference: Reference,
    /// Who pulls; nobody in particular when absent.
    pub client: Option<Arc<str>>,
    /// What is supposed about the world, in words; empty where nothing is.
    pub given: &'static str,
    /// What came of it.
    pub old: Judged,
    /// What comes of it.
    pub new: Judged,
}

/// A verdict and its reasons.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// Why, in table order.
    pub codes: Vec<Code>,
    /// Whose rules applied.
    pub source: Option<Arc<str>>,
}

impl Judged {
    fn of(offline: &Offline) -> Self {
        Self {
            verdict: offline.verdict,
            codes: offline.reasons.iter().map(|reason| reason.code).collect(),
            source: offline.decision.trace.source.clone(),
        }
    }

    fn refuses(&self) -> bool {
        self.verdict >= Verdict::Hold
    }
}

/// What is supposed about the world of an example.
struct World {
    words: &'static str,
    given: Given,
}

impl Policy {
    /// What `newer` does differently. Examples are made of everything that either policy names: its
    /// matches, patterns, pins, tests and clients. Examples that differ in the same way, in the same
    /// repository, are told once.
    pub fn difference(&self, newer: &Self, now: Timestamp) -> Difference {
        let mut difference = Difference { changes: self.changes(newer), ..Difference::default() };
        let both = [self, newer];
        let clients: BTreeSet<Option<Arc<str>>> = std::iter::once(None)
            .chain(both.iter().flat_map(|policy| policy.clients_named().into_iter().map(Some)))
            .collect();
        let mut told: BTreeSet<(Name, &'static str, bool, Judged, Judged)> = BTreeSet::new();
        for (name, tags) in examples(both) {
            let pinned = both.iter().flat_map(|policy| policy.pins_of(&name)).map(|pin| pin.digest);
            let digests: BTreeSet<Digest> = pinned.chain([Digest::sha256(b"example")]).collect();
            let tagged = tags.iter().map(|tag| (Some(tag.clone()), None));
            let by_digest = digests.iter().map(|digest| (None, Some(*digest)));
            for (tag, digest) in tagged.chain(by_digest) {
                let worlds = worlds(tag.is_some(), &tags, both, &name, now);
                let reference = Reference { name: name.clone(), tag, digest };
                for (client, world) in
                    clients.iter().flat_map(|client| worlds.iter().map(move |world| (client, world)))
                {
                    if difference.judged >= EXAMPLES_MAX {
                        difference.cut = true;
                        return difference;
                    }
                    difference.judged += 1;
                    let judge = |policy: &Self| {
                        Judged::of(&policy.offline(client.as_ref(), &reference, &world.given, now))
                    };
                    let (old, new) = (judge(self), judge(newer));
                    let same = old.verdict == new.verdict && old.codes == new.codes;
                    // What happens to everybody, whatever is supposed, is not told again of each client.
                    let key = |words: &'static str, by_client: bool| {
                        (name.clone(), words, by_client, old.clone(), new.clone())
                    };
                    let broader = [key("", false), key(world.words, false), key("", client.is_some())];
                    if same || broader.iter().any(|key| told.contains(key)) {
                        continue;
                    }
                    if !told.insert(key(world.words, client.is_some())) {
                        continue;
                    }
                    let list = match (old.refuses(), new.refuses()) {
                        (true, false) => &mut difference.allowed,
                        (false, true) => &mut difference.refused,
                        _ => &mut difference.altered,
                    };
                    list.push(Witness {
                        reference: reference.clone(),
                        client: client.clone(),
                        given: world.words,
                        old,
                        new,
                    });
                }
            }
        }
        difference
    }

    fn clients_named(&self) -> BTreeSet<Arc<str>> {
        let sources = self.sources().flat_map(|source| source.clients().unwrap_or_default().iter().cloned());
        sources.chain(self.tests().iter().filter_map(|test| test.client.clone())).collect()
    }
}

/// What is worth supposing about a pull.
fn worlds(by_tag: bool, tags: &BTreeSet<Tag>, both: [&Policy; 2], name: &Name, now: Timestamp) -> Vec<World> {
    let mut worlds = vec![World { words: "", given: Given::default() }];
    let user = |user: &str| Given { user: Some(user.to_owned()), ..Given::default() };
    worlds.push(World { words: "it runs as root", given: user("0") });
    worlds.push(World { words: "it runs as uid 1000", given: user("1000") });
    worlds.push(World { words: "it runs as a named user", given: user("app") });
    let year = now.checked_sub(SignedDuration::from_hours(24 * 365)).unwrap_or(Timestamp::UNIX_EPOCH);
    worlds.push(World {
        words: "it was built a year ago",
        given: Given { created: Some(year), first_seen: Some(year), ..Given::default() },
    });
    worlds.push(World {
        words: "this gateway met it just now",
        given: Given { first_seen: Some(now), ..Given::default() },
    });
    if by_tag {
        worlds.push(World {
            words: "the tag moved since it was locked",
            given: Given {
                digest: Some(Digest::sha256(b"moved")),
                locked: Some(Digest::sha256(b"locked")),
                ..Given::default()
            },
        });
        return worlds;
    }
    let allowed = |tag: &&Tag| {
        both.iter().any(|policy| policy.owner_of(name).is_some_and(|source| policy.passes(source, name, tag)))
    };
    if let Some(tag) = tags.iter().find(allowed) {
        worlds.push(World {
            words: "an allowed tag leads to it",
            given: Given { tags: vec![tag.clone()], ..Given::default() },
        });
    }
    worlds
}

/// Names with the tags that mean something there.
fn examples(both: [&Policy; 2]) -> BTreeMap<Name, BTreeSet<Tag>> {
    let mut names: BTreeMap<Name, BTreeSet<Tag>> = BTreeMap::new();
    for policy in both {
        for source in policy.sources() {
            for name in source.pattern().map(samples::names).unwrap_or_default() {
                names.entry(name).or_default();
            }
        }
        for pin in policy.pins() {
            names.entry(pin.name.clone()).or_default().extend(pin.tag.clone());
        }
        for test in policy.tests() {
            names.entry(test.pull.name.clone()).or_default().extend(test.pull.tag.clone());
        }
    }
    for (name, tags) in &mut names {
        tags.extend(PLAIN.iter().filter_map(|tag| tag.parse().ok()));
        for source in both.iter().filter_map(|policy| policy.owner_of(name)) {
            tags.extend(tags_of(source));
        }
    }
    names
}

/// Tags that a source's rules tell apart.
fn tags_of(source: &Source) -> Vec<Tag> {
    let mut tags = Vec::new();
    let denied: Vec<Tag> = source.deny().iter().flat_map(samples::tags).collect();
    for pattern in source.allow() {
        for tag in samples::tags(pattern) {
            // What deny is for: an allowed form with a denied word in it.
            tags.extend(denied.iter().filter_map(|word| format!("{tag}-{word}").parse::<Tag>().ok()));
            tags.push(tag);
        }
    }
    tags.retain(|tag| source.allowed(tag).is_some());
    tags.extend(denied);
    tags
}
