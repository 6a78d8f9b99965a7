//! What a policy would have said of the pulls that were recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::recorded::{Asked, Count, Recorded, Span};
use super::{Code, Given, Offline, Policy, Reason, Verdict};
use crate::oci::{Digest, Name, Reference, Tag};

/// Recorded pulls of one reference by one class of client with one verdict.
#[derive(Debug)]
struct Group {
    pull: Recorded,
    span: Span,
}

/// Repository, question, client, and whether it was served.
type Key = (Name, Asked, Option<Arc<str>>, bool);

/// Collects recorded pulls and judges them.
#[derive(Debug, Default)]
pub struct Replay {
    groups: BTreeMap<Key, Group>,
    /// The tags under which a digest was served: what makes it known.
    tags: BTreeMap<(Name, Digest), BTreeSet<Tag>>,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Everything that was read.
    pub all: Count,
    /// What was refused and would be allowed, the most pulled first.
    pub allowed: Vec<Changed>,
    /// What was served and would be refused, the most pulled first.
    pub refused: Vec<Changed>,
    /// What would be served as before, with a warning more or less.
    pub altered: Vec<Changed>,
    /// What keeps its verdict.
    pub unchanged: Count,
    /// What cannot be judged from the record alone, by the check that takes facts.
    pub unjudged: BTreeMap<&'static str, Unjudged>,
}

/// What a check that takes facts leaves open.
#[derive(Debug, Default)]
pub struct Unjudged {
    /// How much.
    pub count: Count,
    /// One of the references.
    pub example: String,
}

/// A reference whose verdict changes.
#[derive(Debug)]
pub struct Changed {
    /// Which.
    pub reference: String,
    /// When and by whom it was pulled.
    pub span: Span,
    /// What was decided.
    pub old: (Verdict, Option<Code>),
    /// What would be.
    pub new: Verdict,
    /// Why.
    pub reasons: Vec<Reason>,
    /// Checks that would still have to pass, because they take facts.
    pub needs: Vec<&'static str>,
}

/// How a recorded pull would fare.
enum Fate {
    Changed(Box<Offline>),
    Open(&'static str),
    Same,
}

impl Replay {
    /// Takes one entry of the record.
    pub fn add(&mut self, pull: Recorded) {
        let served = pull.verdict < Verdict::Hold;
        if let (Asked::Tag(tag), Some(digest), true) = (&pull.asked, pull.digest, served) {
            self.tags.entry((pull.name.clone(), digest)).or_default().insert(tag.clone());
        }
        let key = (pull.name.clone(), pull.asked.clone(), pull.client.clone(), served);
        match self.groups.get_mut(&key) {
            Some(group) => {
                group.span.add(&pull);
                // The latest of several digests and verdicts stands for them.
                if pull.last >= group.pull.last {
                    group.pull = pull;
                }
            }
            None => {
                let span = Span::of(&pull);
                self.groups.insert(key, Group { pull, span });
            }
        }
    }

    /// Judges everything under `policy` at `now`.
    pub fn judge(&self, policy: &Policy, now: Timestamp) -> Replayed {
        let mut replayed = Replayed::default();
        for group in self.groups.values() {
            let one = Count { references: 1, pulls: group.span.pulls };
            add(&mut replayed.all, one);
            match self.fate(policy, &group.pull, now) {
                Fate::Same => add(&mut replayed.unchanged, one),
                Fate::Open(check) => {
                    let open = replayed.unjudged.entry(check).or_default();
                    add(&mut open.count, one);
                    if open.example.is_empty() {
                        open.example = group.pull.reference();
                    }
                }
                Fate::Changed(offline) => {
                    let Offline { verdict, reasons, needs, .. } = *offline;
                    let old = group.pull.verdict;
                    let list = match (old >= Verdict::Hold, verdict >= Verdict::Hold) {
                        (true, false) => &mut replayed.allowed,
                        (false, true) => &mut replayed.refused,
                        _ => &mut replayed.altered,
                    };
                    list.push(Changed {
                        reference: group.pull.reference(),
                        span: group.span.clone(),
                        old: (old, group.pull.code),
                        new: verdict,
                        reasons,
                        needs,
                    });
                }
            }
        }
        for list in [&mut replayed.allowed, &mut replayed.refused, &mut replayed.altered] {
            list.sort_by(|one, other| {
                other.span.pulls.cmp(&one.span.pulls).then_with(|| one.reference.cmp(&other.reference))
            });
        }
        replayed
    }

    fn fate(&self, policy: &Policy, pull: &Recorded, now: Timestamp) -> Fate {
        // No policy has a say in these.
        if matches!(
            pull.code,
            Some(Code::ClientUnknown | Code::NameInvalid | Code::NameConflict | Code::MethodUnsupported)
        ) {
            return Fate::Same;
        }
        let served = pull.verdict < Verdict::Hold;
        let mut given = Given::default();
        let mut reference = Reference { name: pull.name.clone(), tag: None, digest: None };
        match &pull.asked {
            // Of a blob the reference alone tells who owns it and who may ask.
            Asked::Blob(_) => {}
            Asked::Digest(digest) => {
                let root = pull.root.unwrap_or(*digest);
                let known = self.tags.get(&(pull.name.clone(), root));
                given.tags = known.into_iter().flatten().cloned().collect();
                reference.digest = Some(root);
            }
            Asked::Tag(tag) => {
                reference.tag = Some(tag.clone());
                given.digest = pull.digest;
                given.locked = pull.digest;
            }
        }
        let mut offline = policy.offline(pull.client.as_ref(), &reference, &given, now);
        if served {
            // What was served passed these, and what they judge never changes.
            offline.needs.retain(|need| !matches!(*need, "media" | "tag.moved"));
        }
        let refused = offline.verdict >= Verdict::Hold;
        match (served, refused) {
            (true, true) if may_be_known(policy, pull, &given, &offline) => Fate::Open("digest"),
            (true, false) if !offline.needs.is_empty() => {
                Fate::Open(offline.needs.first().copied().unwrap_or("facts"))
            }
            (false, false) if is_of_facts(pull.code) => Fate::Open(pull.code.map_or("facts", Code::as_str)),
            (false, false) if matches!(pull.asked, Asked::Blob(_)) => Fate::Open("closure"),
            _ if served == refused || offline.verdict != pull.verdict => Fate::Changed(Box::new(offline)),
            _ => Fate::Same,
        }
    }
}

/// Whether the gateway may know an allowed tag that leads to it, which the record does not tell.
fn may_be_known(policy: &Policy, pull: &Recorded, given: &Given, offline: &Offline) -> bool {
    let of_digest = |reason: &Reason| matches!(reason.code, Code::DigestNotListed | Code::DigestUnknown);
    matches!(pull.asked, Asked::Digest(_))
        && given.tags.is_empty()
        && offline.reasons.iter().all(of_digest)
        && policy.owner_of(&pull.name).is_some_and(|source| !source.allow().is_empty())
}

/// Refusals that came from facts, which a reference does not hold.
fn is_of_facts(code: Option<Code>) -> bool {
    !matches!(
        code,
        Some(
            Code::ClientNotAllowed
                | Code::SourceUnknown
                | Code::TagDenied
                | Code::TagNotAllowed
                | Code::DigestUnknown
                | Code::DigestNotListed
        )
    )
}

fn add(total: &mut Count, one: Count) {
    total.references += one.references;
    total.pulls = total.pulls.saturating_add(one.pulls);
}
