//! policy.md, "What must come out of config/policy.toml", as far as names decide.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::identity::{Attribution, Caller, Class};
use crate::oci::{
    Ask, Descriptor, Digest, ImageConfig, Kind, Manifest, Name, Platform, Reference, Tag, What,
};
use crate::policy::{
    Code, Content, Decision, Facts, Given, Image, Known, Lack, Outcome, Policy, Root, Roots, Target, Verdict,
};

fn shipped() -> Policy {
    crate::settings::policy::parse(
        Path::new("config/policy.toml"),
        include_str!("../../../../config/policy.toml"),
    )
    .expect("the shipped policy")
}

fn digest(seed: &str) -> Digest {
    Digest::sha256(seed.as_bytes())
}

fn tag(text: &str) -> Tag {
    text.parse().expect(text)
}

fn name(text: &str) -> Name {
    text.parse().expect(text)
}

fn anyone() -> Caller {
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

fn roots(target: Option<Descriptor>, mut roots: Vec<Root>) -> Known<Roots> {
    if let Some(target) = target {
        for root in &mut roots {
            root.parts.push((0, target.clone()));
        }
    }
    is(Roots { size: None, roots })
}

fn root(seed: &str, tag: &str) -> Root {
    Root { digest: digest(seed), tags: vec![self::tag(tag)], levels: 0, parts: Vec::new() }
}

fn image(seed: &str) -> Known<Image> {
    let manifest = Manifest {
        digest: digest(seed),
        size: 1000,
        media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
        kind: Kind::Image,
        artifact_type: None,
        subject: None,
        edges: Vec::new(),
        annotations: BTreeMap::new(),
    };
    is(Image { manifest: Arc::new(manifest), depth: 1 })
}

/// The same image looked into: for linux/amd64.
fn contents(seed: &str) -> BTreeMap<Digest, Known<Content>> {
    let Known::Is(image) = image(seed) else { panic!("no image") };
    let platform = Platform {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        variant: None,
        os_version: None,
    };
    let config = ImageConfig {
        platform,
        created: None,
        user: "10001".to_owned(),
        labels: BTreeMap::new(),
        diff_ids: Vec::new(),
    };
    let manifest = image.manifest.clone();
    let content = Content { manifest, sha256: digest(seed), first_seen: None, config: is(config) };
    [(digest(seed), is(content))].into()
}

fn layer(seed: &str) -> Descriptor {
    Descriptor {
        media_type: "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
        digest: digest(seed),
        size: 9,
        urls: Vec::new(),
        platform: None,
        artifact_type: None,
        annotations: None,
    }
}

fn need(decision: &Decision) -> &Lack {
    match &decision.outcome {
        Outcome::Need(need) => need.lack(),
        _ => panic!("nothing needed: {decision:?}"),
    }
}

fn refused(decision: &Decision) -> Vec<Code> {
    match &decision.outcome {
        Outcome::Refuse(refusal) => refusal.reasons.iter().map(|reason| reason.code).collect(),
        _ => panic!("not refused: {decision:?}"),
    }
}

/// The codes that refuse a reference offline; none when it is allowed.
fn judged(reference: &str) -> Vec<&'static str> {
    let policy = shipped();
    let reference: Reference = reference.parse().expect(reference);
    let now = "2026-11-23T08:00:00Z".parse().expect("a time");
    let offline = policy.offline(None, &reference, &Given::default(), now);
    assert_eq!(offline.verdict == Verdict::Deny, !offline.reasons.is_empty());
    offline.reasons.iter().map(|reason| reason.code.as_str()).collect()
}

const SHA: &str = "sha256:1111111111111111111111111111111111111111111111111111111111111111";

#[test]
fn what_the_table_allows_is_allowed() {
    for reference in [
        "docker.io/library/python:3.11-slim-bookworm",
        "index.docker.io/library/python:3.11.9",
        "python:3.11.9",
        "docker.io/library/postgres:16.4",
        "docker.io/library/postgres:16.4-bookworm",
        "docker.io/pgvector/pgvector:0.8.0-pg16",
        "ghcr.io/makercorn/nbedr:v1.0.0",
        &format!("gcr.io/distroless/static-debian12@{SHA}"),
    ] {
        assert_eq!(judged(reference), Vec::<&str>::new(), "{reference}");
    }
}

#[test]
fn what_the_table_denies_is_denied_for_its_reason() {
    let digest = |name: &str| format!("{name}@{SHA}");
    for (reference, because) in [
        ("docker.io/library/python:3.11", "tag.not_allowed"),
        ("docker.io/library/python:latest", "tag.denied"),
        ("docker.io/library/python", "tag.denied"),
        ("docker.io/library/python:1.2.3-latest", "tag.denied"),
        ("docker.io/library/python:1.2.3-Latest", "tag.denied"),
        ("docker.io/library/python:3.14-rc-trixie", "tag.denied"),
        ("docker.io/library/python:1.2.3-rc1", "tag.denied"),
        ("docker.io/bitnami/redis:7.2.5", "source.unknown"),
        ("docker.io/library/evil/x:1.2.3", "source.unknown"),
        ("docker.io.evil.com/library/python:3.11.9", "source.unknown"),
        (&digest("gcr.io/distroless-evil/static"), "source.unknown"),
        ("gcr.io/distroless/static-debian12:nonroot", "tag.not_allowed"),
        ("docker.io/pgvector/pgvector:latest", "tag.denied"),
        (&digest("docker.io/pgvector/pgvector"), "digest.unknown"),
        ("quay.io/prometheus/node-exporter:v1.9.0", "source.unknown"),
    ] {
        assert_eq!(judged(reference).first(), Some(&because), "{reference}");
    }
}

/// Asks the shipped policy with the facts a gateway would have.
fn pgvector(what: What, facts: &Facts) -> Decision {
    let ask = Ask { name: name("docker.io/pgvector/pgvector"), what };
    shipped().decide(&anyone(), &ask, facts, Timestamp::UNIX_EPOCH)
}

#[test]
fn the_digest_of_an_allowed_tag_is_allowed_on_a_cold_gateway_by_one_sweep() {
    let wanted = What::Digest(digest("good"));
    let mut facts = Facts::default();
    assert_eq!(need(&pgvector(wanted.clone(), &facts)), &Lack::Roots(digest("good")));
    facts.roots = roots(None, vec![]);
    let literals = vec![tag("0.8.0-pg16"), tag("0.8.1-pg16")];
    assert_eq!(need(&pgvector(wanted.clone(), &facts)), &Lack::Listed(literals));
    facts.listed = is(());
    facts.roots = Known::Unasked;
    assert_eq!(need(&pgvector(wanted.clone(), &facts)), &Lack::Roots(digest("good")));
    facts.roots = roots(None, vec![root("good", "0.8.0-pg16")]);
    assert_eq!(need(&pgvector(wanted.clone(), &facts)), &Lack::Image(digest("good")));
    facts.image = image("good");
    assert_eq!(need(&pgvector(wanted.clone(), &facts)), &Lack::Contents(vec![digest("good")]));
    facts.contents = contents("good");
    let decision = pgvector(wanted, &facts);
    let Outcome::Permit(permit) = &decision.outcome else { panic!("not permitted: {decision:?}") };
    assert!(matches!(permit.target(), Target::Manifest(manifest) if manifest.digest == digest("good")));
}

#[test]
fn the_digest_of_a_refused_tag_stays_refused_even_where_it_is_held() {
    let facts = Facts {
        listed: is(()),
        roots: roots(None, vec![root("bad", "latest")]),
        image: image("bad"),
        ..Facts::default()
    };
    assert_eq!(refused(&pgvector(What::Digest(digest("bad")), &facts)), [Code::DigestUnknown]);
}

#[test]
fn a_blob_that_only_a_refused_image_contains_is_outside() {
    let target = Some(layer("blob"));
    for known in [roots(target, vec![root("bad", "latest")]), roots(None, vec![])] {
        let facts = Facts { listed: is(()), roots: known, possession: is(true), ..Facts::default() };
        assert_eq!(refused(&pgvector(What::Blob(digest("blob")), &facts)), [Code::ClosureOutside]);
    }
    let ask = Ask { name: name("docker.io/library/python"), what: What::Blob(digest("blob")) };
    let facts = Facts { roots: roots(None, vec![]), possession: is(true), ..Facts::default() };
    let decision = shipped().decide(&anyone(), &ask, &facts, Timestamp::UNIX_EPOCH);
    assert_eq!(refused(&decision), [Code::ClosureOutside]);
}

#[test]
fn an_unknown_registry_is_refused_before_anything_is_asked() {
    for image in ["docker.io.evil.com/library/python", "quay.io/prometheus/node-exporter"] {
        for what in [
            What::Blob(digest("x")),
            What::Digest(digest("x")),
            What::Referrers(digest("x")),
            What::Tag(tag("1.2.3")),
            What::Tags,
        ] {
            let ask = Ask { name: name(image), what };
            let decision = shipped().decide(&anyone(), &ask, &Facts::default(), Timestamp::UNIX_EPOCH);
            assert_eq!(refused(&decision), [Code::SourceUnknown]);
            let Outcome::Refuse(refusal) = decision.outcome else { panic!("not refused") };
            assert!(!refusal.reasons[0].text.contains("ghcr.io"), "the allow list is not printed");
        }
    }
}

#[test]
fn the_refusal_reads_as_the_contract_shows_it() {
    let policy = shipped();
    let reference: Reference = "docker.io/library/python:3.11".parse().expect("a reference");
    let ask = Ask { name: reference.name, what: What::Tag(tag("3.11")) };
    let decision = policy.decide(&anyone(), &ask, &Facts::default(), Timestamp::UNIX_EPOCH);
    let Outcome::Refuse(refusal) = decision.outcome else { panic!("not refused") };
    let held = [tag("3.11-slim-bookworm"), tag("3.12.4"), tag("latest")];
    let nearest = policy.suggest(&anyone(), &ask.name, &tag("3.11"), held.iter()).expect("a suggestion");
    let said = refusal.sentence(
        "01JD9Z3KAAAAAAAAAAAAAAAAAA",
        &ask.reference(),
        Some(&format!("try {nearest}")),
        policy.help(),
    );
    assert_eq!(
        said,
        "blocked by policy 01JD9Z3KAAAAAAAAAAAAAAAAAA: docker.io/library/python:3.11: tag \"3.11\" is not pinned \
         (allowed: #.#.#, v#.#.#, #.#.#-*, v#.#.#-*, …); try 3.11-slim-bookworm. \
         Why: https://pullgate.example/d/01JD9Z3KAAAAAAAAAAAAAAAAAA  #platform-security"
    );
    let phrase = refusal.phrase("01JD9Z3KAAAAAAAAAAAAAAAAAA", &ask.reference());
    assert!(
        phrase
            .starts_with("blocked by policy 01JD9Z3KAAAAAAAAAAAAAAAAAA: docker.io/library/python:3.11: tag")
    );
}
