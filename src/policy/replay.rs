//! What a policy would have said of the pulls that were recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;

use super::offline::{TURNS, caller};
use super::recorded::{Asked, Count, Recorded, Span};
use super::{
    Code, Facts, Given, IndexRule, Known, Lack, Moved, Need, Outcome, Policy, Reason, TagFact, Verdict,
};
use crate::oci::{Ask, Digest, Fault, Name, Reference, Tag, What};

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
    /// What cannot be judged, by the check for which a fact is not held.
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
    Changed(New),
    Open(&'static str),
    Same,
}

/// What would be decided.
struct New {
    verdict: Verdict,
    reasons: Vec<Reason>,
    needs: Vec<&'static str>,
}

/// What the facts at hand decide.
enum Judged {
    /// All that it takes is known.
    Decided(New),
    /// A fact is not held: the check that asks for it; none where it is one that nothing depends on.
    Lacking(Option<&'static str>),
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

    /// Judges everything under `policy` at `now`, which is what age and hold count to.
    ///
    /// `gather` fills in the fact a decision lacks and says whether it is held in full; what is held of
    /// several contents or recalled tags it may fill in either way. Where a tag led and what was let
    /// through is taken from the record.
    pub async fn judge<E>(
        &self,
        policy: &Policy,
        now: Timestamp,
        mut gather: impl AsyncFnMut(&Need, &mut Facts) -> Result<bool, E>,
    ) -> Result<Replayed, E> {
        let mut replayed = Replayed::default();
        for group in self.groups.values() {
            let one = Count { references: 1, pulls: group.span.pulls };
            add(&mut replayed.all, one);
            match self.fate(policy, &group.pull, now, &mut gather).await? {
                Fate::Same => add(&mut replayed.unchanged, one),
                Fate::Open(check) => {
                    let open = replayed.unjudged.entry(check).or_default();
                    add(&mut open.count, one);
                    if open.example.is_empty() {
                        open.example = group.pull.reference();
                    }
                }
                Fate::Changed(New { verdict, reasons, needs }) => {
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
        Ok(replayed)
    }

    async fn fate<E>(
        &self,
        policy: &Policy,
        pull: &Recorded,
        now: Timestamp,
        gather: &mut impl AsyncFnMut(&Need, &mut Facts) -> Result<bool, E>,
    ) -> Result<Fate, E> {
        // No policy has a say in these.
        if matches!(
            pull.code,
            Some(Code::ClientUnknown | Code::NameInvalid | Code::NameConflict | Code::MethodUnsupported)
        ) {
            return Ok(Fate::Same);
        }
        let new = match decided(policy, pull, now, gather).await? {
            Judged::Decided(new) => new,
            Judged::Lacking(check) => return Ok(self.supposed(policy, pull, now, check)),
        };
        let (served, refused) = (pull.verdict < Verdict::Hold, new.verdict >= Verdict::Hold);
        Ok(match (served, refused, pull.code) {
            // No facts about an image tell whether these would come again.
            (false, false, Some(code @ (Code::ClientRate | Code::FactsUnavailable))) => {
                Fate::Open(code.as_str())
            }
            _ if served == refused || new.verdict != pull.verdict => Fate::Changed(new),
            _ => Fate::Same,
        })
    }

    /// The same without the fact that this check asks for, and without all others.
    fn supposed(
        &self,
        policy: &Policy,
        pull: &Recorded,
        now: Timestamp,
        lacking: Option<&'static str>,
    ) -> Fate {
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
            // What was served passed it, and what it judges never changes.
            offline.needs.retain(|need| *need != "media");
        }
        let refused = offline.verdict >= Verdict::Hold;
        let known = matches!(pull.asked, Asked::Digest(_)) && !given.tags.is_empty();
        match (served, refused, lacking) {
            (true, true, _) if may_be_known(policy, pull, &given, &offline.reasons) => Fate::Open("digest"),
            (true, false, Some(check)) if !(known && check == "digest") => Fate::Open(check),
            (true, false, _) if !offline.needs.is_empty() => {
                Fate::Open(offline.needs.first().copied().unwrap_or("facts"))
            }
            (false, false, _) if is_of_facts(pull.code) => {
                Fate::Open(pull.code.map_or("facts", Code::as_str))
            }
            (false, false, _) if matches!(pull.asked, Asked::Blob(_)) => Fate::Open("closure"),
            _ if served == refused || offline.verdict != pull.verdict => {
                let (verdict, reasons) = (offline.verdict, offline.reasons);
                Fate::Changed(New { verdict, reasons, needs: offline.needs })
            }
            _ => Fate::Same,
        }
    }
}

/// Decides as a gateway does, from what `gather` holds.
async fn decided<E>(
    policy: &Policy,
    pull: &Recorded,
    now: Timestamp,
    gather: &mut impl AsyncFnMut(&Need, &mut Facts) -> Result<bool, E>,
) -> Result<Judged, E> {
    let what = match &pull.asked {
        Asked::Blob(digest) => What::Blob(*digest),
        Asked::Digest(digest) => What::Digest(*digest),
        Asked::Tag(tag) => What::Tag(tag.clone()),
    };
    let (caller, ask) = (caller(pull.client.as_ref()), Ask { name: pull.name.clone(), what });
    let (mut facts, mut lacking) = (Facts::default(), None);
    for _ in 0..TURNS {
        let decision = policy.decide(&caller, &ask, &facts, now);
        let mut reasons = match decision.outcome {
            Outcome::Need(need) => {
                let held = gather(&need, &mut facts).await?;
                if !complete(policy, pull, need.lack(), held, &mut facts) {
                    let check = check_of(policy, pull, need.lack());
                    match need.lack() {
                        Lack::Contents(_) | Lack::Recalled { .. } => lacking = lacking.or(check),
                        _ => return Ok(Judged::Lacking(lacking.or(check))),
                    }
                }
                continue;
            }
            Outcome::Fail(_) => return Ok(Judged::Lacking(Some("facts"))),
            Outcome::Permit(_) => decision.softened,
            Outcome::Refuse(refusal) => refusal.reasons,
        };
        if lacking.is_some() {
            reasons.retain(|reason| is_certain(policy, pull, reason.code));
            if reasons.is_empty() || decision.verdict < Verdict::Hold {
                return Ok(Judged::Lacking(lacking));
            }
        }
        return Ok(Judged::Decided(New { verdict: decision.verdict, reasons, needs: Vec::new() }));
    }
    Ok(Judged::Lacking(Some("facts")))
}

/// Adds to a fact what the record tells; whether it is known in full.
fn complete(policy: &Policy, pull: &Recorded, lack: &Lack, held: bool, facts: &mut Facts) -> bool {
    let served = pull.verdict < Verdict::Hold;
    match lack {
        Lack::Contents(digests) => {
            for digest in digests {
                let none = || Known::Failed(Fault::Storage("the catalog does not hold it".into()));
                facts.contents.entry(*digest).or_insert_with(none);
            }
            held
        }
        // What was served was had; its repository is still the one that had it.
        Lack::Possession { .. } if served => {
            facts.possession = Known::Is(Arc::new(true));
            true
        }
        // A catalog that does not know what was served once is a younger one.
        Lack::Roots(_) => {
            held && !(served && matches!(&facts.roots, Known::Is(roots) if roots.roots.is_empty()))
        }
        Lack::Tag { .. } => {
            let row = match &facts.tag {
                Known::Is(row) if held => Some(TagFact::clone(row)),
                _ => None,
            };
            let denies = policy.owner_of(&pull.name).is_some_and(|source| source.moved() == Moved::Deny);
            let lock = match row.as_ref().map(|row| row.lock) {
                Some(None) => None,
                Some(lock) if denies || !served => lock,
                Some(_) => pull.digest,
                None => pull.digest.filter(|_| served),
            };
            let current = match row {
                Some(row) if denies => row.current,
                row => pull.digest.or(row.and_then(|row| row.current)),
            };
            let known = lock.is_some() || current.is_some();
            facts.tag = Known::Is(Arc::new(TagFact { lock, current, stale: false }));
            known
        }
        _ => held,
    }
}

/// The check that cannot be judged without a fact.
fn check_of(policy: &Policy, pull: &Recorded, lack: &Lack) -> Option<&'static str> {
    let recall = (!policy.recalls.is_empty()).then_some("recall");
    match lack {
        Lack::Bindings => Some("exception"),
        Lack::Contents(_) | Lack::Image(_) => {
            let source = policy.owner_of(&pull.name);
            let needs = source.map(|source| source.content.needs()).unwrap_or_default();
            needs.first().copied().or(recall)
        }
        Lack::Listed(_) | Lack::Roots(_) => match pull.asked {
            Asked::Blob(_) => Some("closure"),
            Asked::Digest(_) | Asked::Tag(_) => Some("digest"),
        },
        Lack::Possession { .. } => Some("possession"),
        Lack::Recalled { .. } => recall,
        Lack::Seen(_) => Some("hold"),
        Lack::Tag { .. } => Some("tag"),
        Lack::Unseen { .. } => recall,
    }
}

/// Whether a reason stands whatever is in the manifests that are not held: that of another one in the
/// same image does, unless one that passes is enough, or another image may lead there as well.
fn is_certain(policy: &Policy, pull: &Recorded, code: Code) -> bool {
    let every = policy.owner_of(&pull.name).is_some_and(|source| source.content.index == IndexRule::All);
    matches!(pull.asked, Asked::Tag(_)) && (every || code == Code::Recall) && code != Code::FactsUnavailable
}

/// Whether the gateway may know an allowed tag that leads to it, which the record does not tell.
fn may_be_known(policy: &Policy, pull: &Recorded, given: &Given, reasons: &[Reason]) -> bool {
    let of_digest = |reason: &Reason| matches!(reason.code, Code::DigestNotListed | Code::DigestUnknown);
    matches!(pull.asked, Asked::Digest(_))
        && given.tags.is_empty()
        && reasons.iter().all(of_digest)
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
