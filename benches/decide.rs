//! What one request costs before any byte is served: reading it, deciding it; and reading a policy.
//!
//! `cargo bench --bench decide`
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use divan::Bencher;
use jiff::Timestamp;
use pullgate::identity::{Attribution, Caller, Class};
use pullgate::oci::{Ask, Descriptor, Digest, Kind, Manifest, Naming, Registry, Request, Role, What};
use pullgate::policy::{Facts, Image, Known, Outcome, Policy, Root, Roots, TagFact};
use pullgate::settings::policy;

const TEXT: &str = include_str!("../config/policy.toml");
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

fn main() {
    divan::main();
}

fn shipped() -> Policy {
    policy::parse(Path::new("config/policy.toml"), TEXT).unwrap()
}

fn caller() -> Caller {
    Caller {
        class: Class::Anonymous,
        attribution: Attribution::None,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        proxy: None,
        certificate: None,
        user_agent: None,
    }
}

fn is<T>(value: T) -> Known<T> {
    Known::Is(Arc::new(value))
}

fn descriptor(seed: &str) -> Descriptor {
    Descriptor {
        media_type: LAYER.to_owned(),
        digest: Digest::sha256(seed.as_bytes()),
        size: 5 << 20,
        urls: Vec::new(),
        platform: None,
        artifact_type: None,
        annotations: None,
    }
}

fn image(digest: Digest) -> Known<Image> {
    let edges = (0..12).map(|at| (Role::Layer, descriptor(&at.to_string()))).collect();
    let manifest = Manifest {
        digest,
        size: 2000,
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        kind: Kind::Image,
        artifact_type: None,
        subject: None,
        edges,
        annotations: BTreeMap::new(),
    };
    is(Image { manifest: Arc::new(manifest), depth: 1 })
}

#[divan::bench]
fn parse_a_request(bencher: Bencher<'_, '_>) {
    let known = [Registry::docker_hub()].into();
    let naming = Naming { default_registry: Registry::docker_hub(), known };
    bencher.bench(|| {
        Request::parse(
            "HEAD",
            black_box("/v2/library/python/manifests/3.11-slim-bookworm"),
            Some("ns=docker.io"),
            &naming,
        )
    });
}

#[divan::bench]
fn parse_a_policy(bencher: Bencher<'_, '_>) {
    bencher.bench(|| policy::parse(Path::new("config/policy.toml"), black_box(TEXT)).unwrap());
}

#[divan::bench]
fn permit_a_tag_with_all_facts(bencher: Bencher<'_, '_>) {
    let (policy, caller) = (shipped(), caller());
    let digest = Digest::sha256(b"image");
    let name = "docker.io/library/python".parse().unwrap();
    let ask = Ask { name, what: What::Tag("3.11-slim-bookworm".parse().unwrap()) };
    let fact = TagFact { lock: Some(digest), current: Some(digest), stale: false };
    let facts = Facts { tag: is(fact), image: image(digest), ..Facts::default() };
    let permitted = policy.decide(&caller, &ask, &facts, Timestamp::UNIX_EPOCH);
    assert!(matches!(permitted.outcome, Outcome::Permit(_)));
    bencher.bench(|| policy.decide(&caller, black_box(&ask), &facts, Timestamp::UNIX_EPOCH));
}

#[divan::bench]
fn permit_a_blob_with_all_facts(bencher: Bencher<'_, '_>) {
    let (policy, caller) = (shipped(), caller());
    let target = descriptor("blob");
    let name = "docker.io/pgvector/pgvector".parse().unwrap();
    let ask = Ask { name, what: What::Blob(target.digest) };
    let root = Root {
        digest: Digest::sha256(b"image"),
        tags: vec!["0.8.0-pg16".parse().unwrap()],
        levels: 0,
        parts: vec![(0, target)],
    };
    let roots = is(Roots { size: None, roots: vec![root] });
    let facts = Facts { roots, possession: is(true), ..Facts::default() };
    let permitted = policy.decide(&caller, &ask, &facts, Timestamp::UNIX_EPOCH);
    assert!(matches!(permitted.outcome, Outcome::Permit(_)));
    bencher.bench(|| policy.decide(&caller, black_box(&ask), &facts, Timestamp::UNIX_EPOCH));
}

#[divan::bench]
fn refuse_a_tag(bencher: Bencher<'_, '_>) {
    let (policy, caller) = (shipped(), caller());
    let name = "docker.io/library/python".parse().unwrap();
    let ask = Ask { name, what: What::Tag("latest".parse().unwrap()) };
    let facts = Facts::default();
    bencher.bench(|| policy.decide(&caller, black_box(&ask), &facts, Timestamp::UNIX_EPOCH));
}
