//! Judging without a gateway: `pullgate check` and `pullgate policy test`.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Code, Decision, Facts, Given, Known, Lack, Moved, Outcome, Policy, PolicyTest, Reason, Root, Roots,
    TagFact, Verdict,
};
use crate::identity::{Attribution, Caller, Class};
use crate::oci::{Ask, Reference, What};

/// More turns than any judgement takes.
const TURNS: usize = 8;

/// What the reference and the policy alone decide.
#[derive(Debug)]
pub struct Offline {
    /// The last decision; a need in it means that the rest takes facts.
    pub decision: Decision,
    /// The verdict so far: what lacks facts counts as passed.
    pub verdict: Verdict,
    /// Why it is not allow, in table order.
    pub reasons: Vec<Reason>,
    /// The checks that were not judged, because they take facts.
    pub needs: Vec<&'static str>,
}

/// How a `[[test]]` came out.
#[derive(Debug)]
pub struct TestResult {
    /// What was decided.
    pub offline: Offline,
    /// What differs from the test's words; empty when it passed.
    pub differences: Vec<String>,
}

impl Policy {
    /// Decides from the reference, the policy and what is `given`. A digest about which nothing is
    /// given counts as one that no tag leads to. `repository:tag@digest` is judged by its digest
    /// alone, because that is all a gateway is ever asked for.
    pub fn offline(
        &self,
        client: Option<&Arc<str>>,
        reference: &Reference,
        given: &Given,
        now: Timestamp,
    ) -> Offline {
        let caller = caller(client);
        let what = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => What::Digest(*digest),
            (None, Some(tag)) => What::Tag(tag.clone()),
            (None, None) => What::Tags,
        };
        let ask = Ask { name: reference.name.clone(), what };
        let mut facts = Facts::default();
        let mut decision = self.decide(&caller, &ask, &facts, now);
        for _ in 0..TURNS {
            let Outcome::Need(need) = &decision.outcome else { break };
            if !supply(&mut facts, need.lack(), given) {
                break;
            }
            decision = self.decide(&caller, &ask, &facts, now);
        }
        self.conclude(decision, &reference.name)
    }

    fn conclude(&self, decision: Decision, name: &crate::oci::Name) -> Offline {
        let mut needs = Vec::new();
        let reasons = match &decision.outcome {
            Outcome::Refuse(refusal) => refusal.reasons.clone(),
            Outcome::Fail(fault) => vec![Reason::new(Code::FactsUnavailable, fault.to_string(), None)],
            Outcome::Need(need) => {
                let moved = self
                    .sources()
                    .find(|source| source.pattern().is_some_and(|pattern| pattern.matches(name)));
                let refuses = moved.is_some_and(|source| source.moved() == Moved::Deny);
                if refuses && matches!(need.lack(), Lack::Tag { .. }) {
                    needs.push("tag.moved");
                }
                needs.push("media");
                decision.softened.clone()
            }
            Outcome::Permit(_) => decision.softened.clone(),
        };
        let verdict = match &decision.outcome {
            Outcome::Fail(_) | Outcome::Refuse(_) => Verdict::Deny,
            Outcome::Need(_) | Outcome::Permit(_) => decision.verdict,
        };
        Offline { decision, verdict, reasons, needs }
    }

    /// Runs one test; `now` counts where it fixes no time.
    pub fn run(&self, test: &PolicyTest, now: Timestamp) -> TestResult {
        let offline = self.offline(test.client.as_ref(), &test.pull, &test.facts, test.time.unwrap_or(now));
        let mut differences = Vec::new();
        if offline.verdict != test.expect {
            differences.push(format!("expected {}, got {}", test.expect.as_str(), offline.verdict.as_str()));
        }
        let found: Vec<&str> = offline.reasons.iter().map(|reason| reason.code.as_str()).collect();
        for code in &test.because {
            if !found.contains(&code.as_str()) {
                let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
                differences.push(format!("expected {code} among the reasons, got {found}"));
            }
        }
        TestResult { offline, differences }
    }
}

/// Fills in a fact where it can be supposed.
fn supply(facts: &mut Facts, lack: &Lack, given: &Given) -> bool {
    match lack {
        Lack::Tag { .. } if given.digest.is_some() || given.locked.is_some() => {
            let fact = TagFact { lock: given.locked, current: given.digest, stale: given.digest.is_none() };
            facts.tag = Known::Is(Arc::new(fact));
        }
        Lack::Roots(digest) => {
            let root = Root { digest: *digest, tags: given.tags.clone(), levels: 0, parts: Vec::new() };
            let roots = if given.tags.is_empty() { Vec::new() } else { vec![root] };
            facts.roots = Known::Is(Arc::new(Roots { size: None, roots }));
        }
        Lack::Listed(_) => facts.listed = Known::Is(Arc::new(())),
        Lack::Image(_) | Lack::Possession { .. } | Lack::Tag { .. } => return false,
    }
    true
}

/// Somebody who asks from nowhere.
fn caller(client: Option<&Arc<str>>) -> Caller {
    Caller {
        class: client.map_or(Class::Anonymous, |name| Class::Client(name.clone())),
        attribution: Attribution::None,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        proxy: None,
        certificate: None,
        user_agent: None,
    }
}
