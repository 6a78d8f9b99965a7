//! Judging without a gateway: `pullgate check` and `pullgate policy test`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use jiff::Timestamp;

use super::compiled::{Owner, Source};
use super::{
    Code, Content, Decision, Facts, Given, Image, Known, Lack, Moved, Outcome, Policy, PolicyTest, Reason,
    Recalled, Root, Roots, Seen, Sight, TagFact, Trace, Unseen, Verdict,
};
use crate::identity::{Attribution, Caller, Class};
use crate::oci::{
    Ask, Descriptor, Digest, ImageConfig, Kind, Manifest, Platform, Reference, Role, Tag, What,
};

/// More turns than any judgement takes.
pub(super) const TURNS: usize = 14;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What the reference and the policy alone decide.
#[derive(Debug)]
pub struct Offline {
    /// The last decision; what was only supposed is not in its trace.
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
    /// Decides from the reference, the policy and what is `given`. What is not given is supposed to be
    /// as the rules want it, and named in `needs`; but a digest about which nothing is given counts as
    /// one that no tag leads to. `repository:tag@digest` is judged by its digest alone, because that is
    /// all a gateway is ever asked for.
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
        let source = match self.owner(&ask.name) {
            Owner::Source(source) | Owner::Unlisted(source) => Some(source),
            Owner::None => None,
        };
        let supposed = Supposed { source, given, tag: reference.tag.as_ref(), now };
        let mut facts = Facts::default();
        let mut decision = self.decide(&caller, &ask, &facts, now);
        for _ in 0..TURNS {
            let Outcome::Need(need) = &decision.outcome else { break };
            supposed.supply(&mut facts, need.lack());
            decision = self.decide(&caller, &ask, &facts, now);
        }
        supposed.conclude(decision, &ask.what)
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

/// A world in which nothing is wrong but what is given.
struct Supposed<'a> {
    source: Option<&'a Source>,
    given: &'a Given,
    tag: Option<&'a Tag>,
    now: Timestamp,
}

impl Supposed<'_> {
    fn supply(&self, facts: &mut Facts, lack: &Lack) {
        let given = self.given;
        match lack {
            Lack::Bindings => facts.bindings = is(BTreeMap::new()),
            Lack::Contents(digests) => {
                facts.contents.extend(digests.iter().map(|digest| (*digest, is(self.content(*digest)))));
            }
            Lack::Image(digest) => {
                facts.image = is(Image { manifest: Arc::new(self.manifest(*digest)), depth: 0 });
            }
            Lack::Listed(_) => facts.listed = is(()),
            Lack::Possession { .. } => facts.possession = is(true),
            Lack::Recalled { digests, .. } => {
                let above = digests.iter().map(|digest| (*digest, Vec::new())).collect();
                facts.recalled = is(Recalled { above, tagged: BTreeMap::new() });
            }
            Lack::Roots(digest) => {
                let root = Root { digest: *digest, tags: given.tags.clone(), levels: 0, parts: Vec::new() };
                let roots = if given.tags.is_empty() { Vec::new() } else { vec![root] };
                facts.roots = is(Roots { size: None, roots });
            }
            Lack::Seen(digest) => drop(facts.seen.insert(*digest, is(self.seen()))),
            Lack::Tag { .. } => {
                let unknown = given.digest.is_none() && given.locked.is_none();
                let current = given.digest.or_else(|| unknown.then(|| Digest::sha256(b"supposed")));
                facts.tag = is(TagFact { lock: given.locked, current, stale: current.is_none() });
            }
            Lack::Unseen { .. } => facts.unseen = is(Unseen::default()),
        }
    }

    fn seen(&self) -> Seen {
        let since = self.given.first_seen.unwrap_or(Timestamp::UNIX_EPOCH);
        let tags: Vec<&Tag> = match self.tag {
            Some(tag) => vec![tag],
            None => self.given.tags.iter().collect(),
        };
        let sight = |tag: &Tag| Sight {
            tag: tag.clone(),
            first: self.given.locked.is_none(),
            // Nobody knows better: it was served before.
            served: self.given.first_seen.is_none(),
            since,
            last: self.now,
            current: true,
        };
        Seen { first: Some(since), sights: tags.into_iter().map(sight).collect() }
    }

    /// The checks about which something is given.
    fn told(&self) -> Vec<&'static str> {
        let Given {
            annotations,
            artifact_type,
            created,
            first_seen,
            labels,
            locked,
            platform,
            size,
            user,
            ..
        } = self.given;
        let annotated = |key: &str| annotations.contains_key(key);
        let told = [
            ("tag.moved", locked.is_some()),
            ("hold", first_seen.is_some()),
            ("platform", platform.is_some()),
            ("size", size.is_some()),
            ("label", labels.is_some()),
            (
                "age",
                created.is_some() || first_seen.is_some() || annotated("org.opencontainers.image.created"),
            ),
            ("user", user.is_some()),
            ("artifact", artifact_type.is_some()),
            ("base", annotated("org.opencontainers.image.base.digest")),
        ];
        told.into_iter().filter(|(_, told)| *told).map(|(id, _)| id).collect()
    }

    fn manifest(&self, digest: Digest) -> Manifest {
        let given = self.given;
        let descriptor = |media_type: &str, digest, size| Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            urls: Vec::new(),
            platform: None,
            artifact_type: None,
            annotations: None,
        };
        let (config, layer) = match &given.artifact_type {
            Some(artifact_type) => (artifact_type.as_str(), "application/octet-stream"),
            None => (CONFIG, LAYER),
        };
        let mut edges = vec![(Role::Config, descriptor(config, Digest::sha256(b"supposed config"), 2))];
        let mut layers = given.layers.clone();
        if layers.is_empty() {
            layers.push(Digest::sha256(b"supposed layer"));
        }
        // The bytes that are given are all in one layer.
        let sizes = given.size.into_iter().chain(std::iter::repeat(1));
        edges.extend(
            layers
                .into_iter()
                .zip(sizes)
                .map(|(layer_digest, size)| (Role::Layer, descriptor(layer, layer_digest, size))),
        );
        let mut annotations = given.annotations.clone();
        if let Some(source) = self.source
            && !self.told().contains(&"base")
        {
            annotations.extend(source.content.compliant_base());
        }
        Manifest {
            digest,
            size: 1000,
            media_type: IMAGE.to_owned(),
            kind: Kind::Image,
            artifact_type: given.artifact_type.clone(),
            subject: None,
            edges,
            annotations,
        }
    }

    fn content(&self, digest: Digest) -> Content {
        let given = self.given;
        let platform = given.platform.as_ref();
        let config = ImageConfig {
            platform: Platform {
                architecture: platform.map_or("amd64", |platform| &platform.architecture).to_owned(),
                os: platform.map_or("linux", |platform| &platform.os).to_owned(),
                variant: platform.and_then(|platform| platform.variant.as_deref()).map(str::to_owned),
                os_version: None,
            },
            created: given.created,
            user: given.user.clone().unwrap_or_default(),
            labels: given.labels.clone().unwrap_or_default(),
            diff_ids: given.diff_ids.clone(),
        };
        let config = match self.source {
            Some(source) => source.content.compliant(config, self.now, &self.told()),
            None => config,
        };
        let manifest = Arc::new(self.manifest(digest));
        Content {
            config: if given.artifact_type.is_some() { Known::Unasked } else { is(config) },
            first_seen: Some(given.first_seen.unwrap_or(self.now)),
            manifest,
            sha256: digest,
        }
    }

    fn conclude(&self, decision: Decision, what: &What) -> Offline {
        let mut needs = Vec::new();
        if let (Some(source), Outcome::Need(_) | Outcome::Permit(_)) = (self.source, &decision.outcome) {
            let told = self.told();
            let moved = matches!(what, What::Tag(_)) && source.moved() == Moved::Deny;
            needs.extend(moved.then_some("tag.moved"));
            needs.extend(source.hold.is_some().then_some("hold"));
            needs.push("media");
            needs.extend(source.content.needs());
            needs.retain(|need| !told.contains(need));
        }
        let reasons = match &decision.outcome {
            Outcome::Refuse(refusal) => refusal.reasons.clone(),
            Outcome::Fail(fault) => vec![Reason::new(Code::FactsUnavailable, fault.to_string(), None)],
            Outcome::Need(_) | Outcome::Permit(_) => decision.softened.clone(),
        };
        let verdict = match &decision.outcome {
            Outcome::Fail(_) => Verdict::Deny,
            Outcome::Need(_) | Outcome::Permit(_) | Outcome::Refuse(_) => decision.verdict,
        };
        // What was only supposed was not judged.
        let mut trace = Trace::clone(&decision.trace);
        trace.checks.retain(|check| !needs.contains(&check.id));
        Offline { decision: Decision { trace: Arc::new(trace), ..decision }, verdict, reasons, needs }
    }
}

fn is<T>(value: T) -> Known<T> {
    Known::Is(Arc::new(value))
}

/// Somebody who asks from nowhere.
pub(super) fn caller(client: Option<&Arc<str>>) -> Caller {
    Caller {
        class: client.map_or(Class::Anonymous, |name| Class::Client(name.clone())),
        attribution: Attribution::None,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        proxy: None,
        certificate: None,
        user_agent: None,
    }
}
