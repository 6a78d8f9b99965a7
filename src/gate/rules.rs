//! The rules in force: policy, identity, and what the request parser must know of them.

use std::collections::HashSet;
use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::audit::{Judgement, PolicyStamp};
use crate::identity::Identity;
use crate::oci::{Naming, Registry};
use crate::policy::Policy;
use crate::telemetry::Metrics;

/// One consistent set of rules: a decision is made under one of them, never under two halves.
#[derive(Debug)]
pub struct Rules {
    policy: Policy,
    identity: Arc<Identity>,
    naming: Naming,
    stamp: Arc<PolicyStamp>,
    generation: u64,
}

impl Rules {
    /// Joins a policy with who is who. `declared` are the registries of `[[upstream]]` tables.
    pub fn new(
        policy: Policy,
        identity: Arc<Identity>,
        default_registry: Registry,
        declared: HashSet<Registry>,
    ) -> Self {
        let mut known = declared;
        known.extend(policy.registries());
        let stamp = Arc::new(PolicyStamp {
            name: policy.name().to_owned(),
            revision: policy.revision().to_owned(),
            sha256: policy.sha256().hex(),
        });
        Self { policy, identity, naming: Naming { default_registry, known }, stamp, generation: 0 }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Who is who.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// What the request parser must know.
    pub fn naming(&self) -> &Naming {
        &self.naming
    }

    /// How the policy is named in the log.
    pub fn stamp(&self) -> &Arc<PolicyStamp> {
        &self.stamp
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn with_generation(self, generation: u64) -> Self {
        Self { generation, ..self }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DecisionLabels {
    verdict: &'static str,
    reason: &'static str,
    source: String,
}

/// `pullgate_decisions_total`: its labels are closed, for sources are named by the policy alone.
#[derive(Debug)]
pub(super) struct Decisions(Family<DecisionLabels, Counter>);

impl Decisions {
    pub(super) fn register(metrics: &mut Metrics) -> Self {
        let family = Family::default();
        let help = "Decisions on requests, by verdict, reason and source";
        metrics.registry().register("decisions", help, family.clone());
        Self(family)
    }

    pub(super) fn counter(&self, judgement: &Judgement) -> Counter {
        let labels = DecisionLabels {
            verdict: judgement.verdict.as_str(),
            reason: judgement.reasons.first().map_or("none", |reason| reason.code.as_str()),
            source: judgement.trace.source.as_deref().unwrap_or("none").to_owned(),
        };
        self.0.get_or_create(&labels).clone()
    }
}
