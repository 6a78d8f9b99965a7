//! The evaluator as a whole: rules in, facts in, decisions out.

mod blobs;
mod contents;
mod digests;
mod exceptions;
mod holds;
mod offline;
mod properties;
mod recalls;
mod rules;
mod tags;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::identity::{Attribution, Caller, Class};
use crate::oci::{
    Ask, Descriptor, Digest, Fault, ImageConfig, Kind, Manifest, Name, Platform, Role, Tag, What,
};

pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

pub(super) fn caller(class: Class) -> Caller {
    Caller {
        class,
        attribution: Attribution::None,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        proxy: None,
        certificate: None,
        user_agent: None,
    }
}

pub(super) fn anyone() -> Caller {
    caller(Class::Anonymous)
}

pub(super) fn digest(seed: &str) -> Digest {
    Digest::sha256(seed.as_bytes())
}

pub(super) fn tag(text: &str) -> Tag {
    text.parse().expect(text)
}

pub(super) fn name(text: &str) -> Name {
    text.parse().expect(text)
}

pub(super) fn written<T>(value: T) -> Written<T> {
    Written { value, at: "policy.toml:1".into() }
}

pub(super) fn patterns(list: &[&str]) -> Option<Written<Vec<Pattern>>> {
    Some(written(list.iter().map(|text| Pattern::parse(text).expect(text)).collect()))
}

/// A source that allows these patterns.
pub(super) fn allows(list: &[&str]) -> Leaves {
    Leaves { allow: patterns(list), ..Leaves::default() }
}

pub(super) fn source(id: &str, pattern: &str, leaves: Leaves) -> SourceRule {
    SourceRule {
        id: id.into(),
        pattern: Match::parse(pattern).expect(pattern),
        leaves,
        at: "policy.toml:9".into(),
    }
}

pub(super) fn pin(image: &str, tag: Option<&str>, digest: Digest) -> Pin {
    Pin { name: name(image), tag: tag.map(self::tag), digest, at: "policy.toml:5".into() }
}

/// Rules with this one source on `r.io/a/*`.
pub(super) fn rules(leaves: Leaves) -> Rules {
    Rules {
        name: "test".into(),
        revision: "1".into(),
        sha256: digest("the file"),
        mode: Mode::Enforce,
        unlisted: Vec::new(),
        help: Help::default(),
        require: Leaves { deny: patterns(&["latest", "rc*"]), ..Leaves::default() },
        sources: vec![source("a", "r.io/a/*", leaves)],
        pins: Vec::new(),
        recalls: Vec::new(),
        exceptions: Vec::new(),
        tests: Vec::new(),
    }
}

pub(super) fn policy(rules: Rules) -> Policy {
    Policy::new(rules).expect("valid rules")
}

pub(super) fn decide(policy: &Policy, what: What, facts: &Facts) -> Decision {
    let ask = Ask { name: name("r.io/a/x"), what };
    policy.decide(&anyone(), &ask, facts, now())
}

/// A Monday morning.
pub(super) fn now() -> Timestamp {
    time("2026-11-23T08:00:00Z")
}

pub(super) fn time(text: &str) -> Timestamp {
    text.parse().expect(text)
}

/// A recall that names nothing yet.
pub(super) fn recall(id: &str) -> Recall {
    Recall {
        id: id.into(),
        reason: "CVE-2026-12345".into(),
        digests: Vec::new(),
        layers: Vec::new(),
        diff_ids: Vec::new(),
        images: Vec::new(),
        replace: None,
        at: "policy.toml:7".into(),
    }
}

/// An exception on `r.io/a/x` in November 2026.
pub(super) fn exception(image: &str, waive: &[Softenable]) -> Exception {
    Exception {
        id: "EX-1".into(),
        image: image.parse().expect(image),
        waive: waive.to_vec(),
        reason: "being rebuilt".into(),
        ticket: "SEC-1".into(),
        requested_by: "app@example.com".into(),
        approved_by: "security@example.com".into(),
        approved: "2026-11-01".parse().expect("a date"),
        expires: "2026-11-30".parse().expect("a date"),
        at: "policy.toml:3".into(),
    }
}

/// What an image config says: for linux/amd64, run by this user.
pub(super) fn config(user: &str) -> ImageConfig {
    ImageConfig {
        platform: Platform {
            architecture: "amd64".to_owned(),
            os: "linux".to_owned(),
            variant: None,
            os_version: None,
        },
        created: Some(time("2026-11-01T00:00:00Z")),
        user: user.to_owned(),
        labels: BTreeMap::new(),
        diff_ids: Vec::new(),
    }
}

/// A manifest that was looked into.
pub(super) fn content(manifest: Manifest, config: Known<ImageConfig>) -> (Digest, Known<Content>) {
    let digest = manifest.digest;
    let content = Content { manifest: Arc::new(manifest), sha256: digest, first_seen: Some(now()), config };
    (digest, is(content))
}

pub(super) fn is<T>(value: T) -> Known<T> {
    Known::Is(Arc::new(value))
}

pub(super) fn unreachable() -> Fault {
    Fault::Unreachable("no route".into())
}

pub(super) fn edge(role: Role, seed: &str, media_type: &str, size: u64) -> (Role, Descriptor) {
    (role, descriptor(seed, media_type, size))
}

pub(super) fn descriptor(seed: &str, media_type: &str, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest: digest(seed),
        size,
        urls: Vec::new(),
        platform: None,
        artifact_type: None,
        annotations: None,
    }
}

pub(super) fn child(seed: &str, platform: Option<(&str, &str)>) -> (Role, Descriptor) {
    let mut child = descriptor(seed, MANIFEST, 500);
    child.platform = platform.map(|(os, architecture)| Platform {
        architecture: architecture.to_owned(),
        os: os.to_owned(),
        variant: None,
        os_version: None,
    });
    (Role::Child, child)
}

/// A manifest under this digest; an index when it has children.
pub(super) fn manifest(digest: Digest, edges: Vec<(Role, Descriptor)>) -> Manifest {
    let index = edges.iter().any(|(role, _)| *role == Role::Child);
    Manifest {
        digest,
        size: 1000,
        media_type: if index { INDEX } else { MANIFEST }.to_owned(),
        kind: if index { Kind::Index } else { Kind::Image },
        artifact_type: None,
        subject: None,
        edges,
        annotations: BTreeMap::new(),
    }
}

/// An ordinary image of one layer.
pub(super) fn image(seed: &str) -> Known<Image> {
    let layer = edge(Role::Layer, "layer", LAYER, 50 << 20);
    is(Image { manifest: Arc::new(manifest(digest(seed), vec![layer])), depth: 0 })
}

pub(super) fn of(manifest: Manifest) -> Known<Image> {
    is(Image { manifest: Arc::new(manifest), depth: 1 })
}

pub(super) fn fact(lock: Option<&str>, current: Option<&str>) -> Known<TagFact> {
    is(TagFact { lock: lock.map(digest), current: current.map(digest), stale: false })
}

pub(super) fn stale(lock: Option<&str>, current: Option<&str>) -> Known<TagFact> {
    is(TagFact { lock: lock.map(digest), current: current.map(digest), stale: true })
}

pub(super) fn root(seed: &str, tags: &[&str], levels: u8) -> Root {
    let tags = tags.iter().map(|text| tag(text)).collect();
    Root { digest: digest(seed), tags, levels, parts: Vec::new() }
}

/// Roots that all lead to the digest by this one descriptor.
pub(super) fn roots(target: impl Into<Option<Descriptor>>, mut roots: Vec<Root>) -> Known<Roots> {
    if let Some(target) = target.into() {
        for root in &mut roots {
            root.parts.push((root.levels, target.clone()));
        }
    }
    is(Roots { size: None, roots })
}

/// The codes of a refusal, the code first among them.
pub(super) fn refused(decision: &Decision) -> Vec<Code> {
    let Outcome::Refuse(refusal) = &decision.outcome else { panic!("not refused: {decision:?}") };
    assert_eq!(decision.verdict, Verdict::Deny);
    let codes: Vec<Code> = refusal.reasons.iter().map(|reason| reason.code).collect();
    assert_eq!(codes.first(), Some(&refusal.code), "the code is the first reason's");
    assert!(codes.is_sorted(), "reasons stand in table order");
    codes
}

pub(super) fn permit(decision: &Decision) -> &Permit {
    match &decision.outcome {
        Outcome::Permit(permit) => permit,
        _ => panic!("not permitted: {decision:?}"),
    }
}

pub(super) fn need(decision: &Decision) -> &Lack {
    match &decision.outcome {
        Outcome::Need(need) => need.lack(),
        _ => panic!("nothing needed: {decision:?}"),
    }
}

pub(super) fn fault(decision: &Decision) -> &Fault {
    match &decision.outcome {
        Outcome::Fail(fault) => fault,
        _ => panic!("no fault: {decision:?}"),
    }
}

/// The digest of the manifest that may be served.
pub(super) fn served(decision: &Decision) -> Digest {
    match permit(decision).target() {
        Target::Manifest(manifest) => manifest.digest,
        other => panic!("no manifest: {other:?}"),
    }
}
