//! Content checks: what is in an image, and in the images of an index.

use std::time::Duration;

use super::*;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn users(min_uid: u32, names: &[&str]) -> Leaves {
    let names = names.iter().map(|name| (*name).into()).collect();
    Leaves { user: Some(written(UserRule { min_uid, names })), ..allows(&["#.#"]) }
}

fn one_image(seed: &str, layer: &str, size: u64) -> Manifest {
    manifest(
        digest(seed),
        vec![edge(Role::Config, "config", CONFIG, 500), edge(Role::Layer, layer, LAYER, size)],
    )
}

/// An image with this config, ready to be judged.
fn facts(config: ImageConfig) -> Facts {
    let image = one_image("d", "layer", 1000);
    Facts {
        tag: fact(None, Some("d")),
        contents: [content(image.clone(), is(config))].into(),
        image: of(image),
        ..Facts::default()
    }
}

fn ask() -> What {
    What::Tag(tag("1.0"))
}

fn codes(leaves: Leaves, facts: &Facts) -> Vec<Code> {
    let decision = decide(&policy(rules(leaves)), ask(), facts);
    match &decision.outcome {
        Outcome::Permit(_) => Vec::new(),
        _ => refused(&decision),
    }
}

#[test]
fn an_image_is_looked_into_only_where_a_rule_asks_and_after_its_manifest() {
    let facts = Facts { tag: fact(None, Some("d")), image: image("d"), ..Facts::default() };
    let decision = decide(&policy(rules(users(10_001, &[]))), ask(), &facts);
    assert_eq!(need(&decision), &Lack::Contents(vec![digest("d")]));
    permit(&decide(&policy(rules(allows(&["#.#"]))), ask(), &facts));
    // What its shape forbids is not looked into.
    let mut old = manifest(digest("d"), vec![]);
    old.kind = Kind::Schema1;
    let facts = Facts { image: of(old), ..facts };
    assert_eq!(refused(&decide(&policy(rules(users(1, &[]))), ask(), &facts)), [Code::MediaRefused]);
}

#[test]
fn the_user_is_a_number_from_min_uid_on_or_an_accepted_name() {
    for (user, expected) in [
        ("10001", None),
        ("10001:10001", None),
        ("10001:0", None),
        ("2147483647", None),
        ("nonroot", None),
        ("nonroot:nonroot", None),
        ("10000", Some(Code::UserMinUid)),
        ("0", Some(Code::UserMinUid)),
        ("", Some(Code::UserMinUid)),
        (":10001", Some(Code::UserMinUid)),
        ("root", Some(Code::UserNamed)),
        ("app", Some(Code::UserNamed)),
        ("4294967296", Some(Code::UserNamed)),
        ("2147483648", Some(Code::UserNamed)),
        ("010001", Some(Code::UserNamed)),
        ("+10001", Some(Code::UserNamed)),
        (" 10001", Some(Code::UserNamed)),
        ("10001\u{0}", Some(Code::UserNamed)),
        ("${uid}", Some(Code::UserNamed)),
    ] {
        let found = codes(users(10_001, &["nonroot"]), &facts(config(user)));
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{user:?}");
    }
}

fn aged(clocks: &[AgeClock]) -> Leaves {
    let max = Duration::from_secs(45 * 86_400);
    let rule = AgeRule { max, clocks: clocks.to_vec(), ignore_before: time("2000-01-01T00:00:00Z") };
    Leaves { age: Some(written(rule)), ..allows(&["#.#"]) }
}

fn created(annotation: Option<&str>, config_says: Option<&str>) -> Facts {
    let mut image = one_image("d", "layer", 1000);
    if let Some(annotation) = annotation {
        image.annotations.insert("org.opencontainers.image.created".to_owned(), annotation.to_owned());
    }
    let config = ImageConfig { created: config_says.map(time), ..config("1") };
    let (at, found) = content(image.clone(), is(config));
    let Known::Is(found) = found else { panic!("no content") };
    let found = Content { first_seen: Some(time("2026-11-20T00:00:00Z")), ..Content::clone(&found) };
    Facts {
        tag: fact(None, Some("d")),
        contents: [(at, is(found))].into(),
        image: of(image),
        ..Facts::default()
    }
}

#[test]
fn the_first_clock_that_knows_tells_the_age() {
    use AgeClock::{Annotation, Config, FirstSeen};
    let (young, old) = ("2026-11-01T00:00:00Z", "2026-01-01T00:00:00Z");
    type Case<'a> = (&'a [AgeClock], Option<&'a str>, Option<&'a str>, &'a [Code]);
    let cases: [Case<'_>; 10] = [
        (&[Annotation, Config], Some(young), Some(old), &[]),
        (&[Annotation, Config], Some(old), Some(young), &[Code::Age]),
        (&[Config, Annotation], Some(old), Some(young), &[]),
        (&[Annotation, Config], None, Some(old), &[Code::Age]),
        (&[Annotation, Config], Some("1970-01-01T00:00:00Z"), Some(young), &[]),
        (&[Annotation, Config], Some("soon"), Some(young), &[]),
        (&[Annotation, Config], Some("2026-11-25T00:00:00Z"), Some(old), &[Code::Age]),
        (&[Annotation, Config], Some("2026-11-24T00:00:00Z"), Some(old), &[]),
        (&[Config], None, Some("1970-01-01T00:00:00Z"), &[Code::Age]),
        (&[Annotation, Config, FirstSeen], None, None, &[]),
    ];
    for (clocks, annotation, config, expected) in cases {
        assert_eq!(codes(aged(clocks), &created(annotation, config)), expected, "{annotation:?} {config:?}");
    }
}

#[test]
fn an_image_that_is_young_enough_now_is_asked_about_again_when_it_is_not() {
    let facts = created(None, Some("2026-11-01T00:00:00Z"));
    let decision = decide(&policy(rules(aged(&[AgeClock::Config]))), ask(), &facts);
    permit(&decision);
    assert_eq!(decision.until, Some(time("2026-12-16T00:00:00Z")));
}

#[test]
fn platforms_labels_sizes_and_bases_are_judged_together_and_all_that_fail_are_told() {
    let platform = |os: &str| PlatformRule { os: os.into(), architecture: "amd64".into(), variant: None };
    let leaves = |os, label: &str, size| Leaves {
        platforms: Some(written(vec![platform(os)])),
        labels: Some(written(vec![LabelRule { key: "team".into(), value: label.into() }])),
        size: Some(written(size)),
        base: Some(written(BaseRule::default())),
        ..allows(&["#.#"])
    };
    let small = SizeRule { max: Some(1500), layer: Some(1000), layers: Some(1) };
    let mut config = config("1");
    config.labels.insert("team".to_owned(), "a-team".to_owned());
    let mut known = facts(config);
    let all = [Code::PlatformNotAllowed, Code::Size, Code::Label, Code::BaseNotAllowed];
    let tiny = SizeRule { layer: Some(999), ..SizeRule::default() };
    assert_eq!(codes(leaves("windows", "b*", tiny), &known), all);

    let mut image = one_image("d", "layer", 1000);
    image.annotations.insert("org.opencontainers.image.base.digest".to_owned(), digest("base").to_string());
    image
        .annotations
        .insert("org.opencontainers.image.base.name".to_owned(), "gcr.io/distroless/static:1".to_owned());
    let Some(Known::Is(before)) = known.contents.get(&digest("d")).cloned() else { panic!("no content") };
    let found = Content { manifest: Arc::new(image.clone()), ..Content::clone(&before) };
    known.contents = [(digest("d"), is(found))].into();
    known.image = of(image);
    assert_eq!(codes(leaves("linux", "a-*", small), &known), []);
    for (size, refused) in [
        (SizeRule { max: Some(1499), ..SizeRule::default() }, true),
        (SizeRule { layers: Some(0), ..SizeRule::default() }, true),
        (SizeRule::default(), false),
    ] {
        let expected: &[Code] = if refused { &[Code::Size] } else { &[] };
        assert_eq!(codes(leaves("linux", "*", size), &known), expected, "{size:?}");
    }
    let based = |names: &[&str], digests: Vec<Digest>| Leaves {
        base: Some(written(BaseRule {
            digests,
            names: names.iter().map(|name| Match::parse(name).unwrap()).collect(),
        })),
        ..allows(&["#.#"])
    };
    assert_eq!(codes(based(&["gcr.io/distroless/*"], vec![digest("base")]), &known), []);
    assert_eq!(codes(based(&["docker.io/library/*"], vec![]), &known), [Code::BaseNotAllowed]);
    assert_eq!(codes(based(&[], vec![digest("other")]), &known), [Code::BaseNotAllowed]);
}

fn index_of(children: Vec<(Role, Descriptor)>, contents: Vec<(Manifest, Known<ImageConfig>)>) -> Facts {
    Facts {
        tag: fact(None, Some("index")),
        image: of(manifest(digest("index"), children)),
        contents: contents.into_iter().map(|(manifest, config)| content(manifest, config)).collect(),
        ..Facts::default()
    }
}

fn two(amd: &str, arm: &str) -> Facts {
    let on = |architecture: &str, user: &str| {
        let mut config = config(user);
        config.platform.architecture = architecture.to_owned();
        is(config)
    };
    let children = vec![
        child("amd", Some(("linux", "amd64"))),
        child("arm", Some(("linux", "arm64"))),
        child("s390x", Some(("linux", "s390x"))),
        child("attestation", Some(("unknown", "unknown"))),
    ];
    let contents =
        vec![(one_image("amd", "l1", 1), on("amd64", amd)), (one_image("arm", "l2", 1), on("arm64", arm))];
    index_of(children, contents)
}

fn platforms(index: IndexRule) -> Leaves {
    let platform = |architecture: &str| PlatformRule {
        os: "linux".into(),
        architecture: architecture.into(),
        variant: None,
    };
    Leaves {
        index: Some(written(index)),
        platforms: Some(written(vec![platform("amd64"), platform("arm64")])),
        ..users(10_001, &[])
    }
}

#[test]
fn an_index_passes_when_every_platform_that_is_judged_passes() {
    let facts = Facts { contents: BTreeMap::new(), ..two("1", "1") };
    let decision = decide(&policy(rules(platforms(IndexRule::All))), ask(), &facts);
    assert_eq!(need(&decision), &Lack::Contents(vec![digest("amd"), digest("arm")]), "those of `platforms`");
    assert_eq!(codes(platforms(IndexRule::All), &two("10001", "10001")), []);
    assert_eq!(codes(platforms(IndexRule::All), &two("10001", "0")), [Code::UserMinUid]);
    assert_eq!(codes(platforms(IndexRule::Any), &two("10001", "0")), []);
    assert_eq!(codes(platforms(IndexRule::Any), &two("app", "0")), [Code::UserMinUid, Code::UserNamed][1..]);
}

#[test]
fn the_platform_that_fails_is_named() {
    let decision = decide(&policy(rules(platforms(IndexRule::All))), ask(), &two("10001", "0"));
    let Outcome::Refuse(refusal) = &decision.outcome else { panic!("not refused") };
    assert!(refusal.reasons[0].text.starts_with("linux/arm64: it runs as uid 0"), "{refusal:?}");
    let check = decision.trace.checks.iter().find(|check| check.id == "user").unwrap();
    assert_eq!((check.pass, check.observed.as_str()), (false, "linux/amd64: 10001; linux/arm64: 0"));
    assert_eq!(check.at.as_deref(), Some("policy.toml:1"));
}

#[test]
fn what_an_index_claims_of_a_child_is_checked_against_the_child() {
    let mut lying = two("10001", "10001");
    let mut windows = config("10001");
    windows.platform.os = "windows".to_owned();
    lying.contents.extend([content(one_image("arm", "l2", 1), is(windows))]);
    assert_eq!(codes(platforms(IndexRule::All), &lying), [Code::PlatformNotAllowed]);
}

#[test]
fn an_index_for_other_platforms_and_a_child_of_one_are_refused() {
    let facts = index_of(vec![child("s390x", Some(("linux", "s390x")))], vec![]);
    assert_eq!(codes(platforms(IndexRule::All), &facts), [Code::PlatformNotAllowed]);
    let mut config = config("10001");
    config.platform.architecture = "s390x".to_owned();
    let image = one_image("d", "l", 1);
    let facts =
        Facts { contents: [content(image.clone(), is(config))].into(), image: of(image), ..Facts::default() };
    let decision = decide(&policy(rules(platforms(IndexRule::All))), What::Digest(digest("d")), &facts);
    assert_eq!(refused(&decision), [Code::PlatformNotAllowed]);
}

#[test]
fn a_child_that_the_registry_does_not_carry_is_served_to_nobody_and_hinders_nobody() {
    let mut facts = two("10001", "0");
    facts.contents.insert(digest("arm"), Known::Failed(Fault::Absent("arm".into())));
    assert_eq!(codes(platforms(IndexRule::All), &facts), []);
    facts.contents.insert(digest("amd"), Known::Failed(Fault::Absent("amd".into())));
    assert_eq!(codes(platforms(IndexRule::All), &facts), [Code::FactsUnavailable]);
}

#[test]
fn facts_that_cannot_be_had_refuse_and_say_whose_fault_it_is() {
    for (fault, upstream) in [
        (unreachable(), true),
        (Fault::Denied("401".into()), true),
        (Fault::Throttled { until: None, detail: "429".into() }, true),
        (Fault::Invalid("no JSON".into()), false),
        (Fault::Absent("config".into()), false),
    ] {
        let mut known = facts(config("10001"));
        known.contents = [content(one_image("d", "layer", 5), Known::Failed(fault.clone()))].into();
        let decision = decide(&policy(rules(users(1, &[]))), ask(), &known);
        assert_eq!(refused(&decision), [Code::FactsUnavailable]);
        let Outcome::Refuse(refusal) = &decision.outcome else { panic!("not refused") };
        assert_eq!(refusal.fault.is_some(), upstream, "{fault:?}");
        let softened = Leaves { mode: Some(Mode::Observe), ..users(1, &[]) };
        assert_eq!(codes(softened, &known), [Code::FactsUnavailable], "no mode softens it");
    }
}

#[test]
fn indexes_of_indexes_are_judged_to_the_second_level() {
    let nested = |seed: &str, inner: &str| {
        let mut edge = child(inner, None);
        edge.1.media_type = INDEX.to_owned();
        manifest(digest(seed), vec![edge])
    };
    let leaf = manifest(digest("inner"), vec![child("amd", Some(("linux", "amd64")))]);
    let facts = |user: &str| {
        index_of(
            nested("index", "inner").edges,
            vec![(leaf.clone(), Known::Unasked), (one_image("amd", "l", 1), is(config(user)))],
        )
    };
    assert_eq!(codes(platforms(IndexRule::All), &facts("10001")), []);
    assert_eq!(codes(platforms(IndexRule::All), &facts("0")), [Code::UserMinUid]);
    let mut deeper = facts("10001");
    deeper.contents.extend([content(nested("inner", "innermost"), Known::Unasked)]);
    deeper
        .contents
        .extend([content(manifest(digest("innermost"), vec![child("amd", None)]), Known::Unasked)]);
    assert_eq!(codes(platforms(IndexRule::All), &deeper), [Code::IndexTooLarge]);
}

#[test]
fn what_is_no_image_follows_artifacts() {
    let chart = || {
        let config = edge(Role::Config, "config", "application/vnd.cncf.helm.config.v1+json", 5);
        let chart = manifest(digest("d"), vec![config, edge(Role::Layer, "chart", "application/gzip", 5)]);
        Facts {
            tag: fact(None, Some("d")),
            contents: [content(chart.clone(), Known::Unasked)].into(),
            image: of(chart),
            ..Facts::default()
        }
    };
    let artifacts = |rule| Leaves { artifacts: Some(written(rule)), ..users(10_001, &[]) };
    assert_eq!(codes(users(10_001, &[]), &chart()), [], "a user is asked of images only");
    assert_eq!(codes(artifacts(Artifacts::Allow), &chart()), []);
    assert_eq!(codes(artifacts(Artifacts::Deny), &chart()), [Code::ArtifactNotAllowed]);
    let types = |text: &str| artifacts(Artifacts::Types(vec![text.into()]));
    assert_eq!(codes(types("application/vnd.cncf.helm.config.v1+json"), &chart()), []);
    assert_eq!(codes(types("application/vnd.wasm.config.v1+json"), &chart()), [Code::ArtifactNotAllowed]);
}

#[test]
fn what_borrows_an_image_config_and_says_that_it_runs_nowhere_is_no_image_and_all_else_is_one() {
    let attestation = "application/vnd.in-toto+json";
    let (mut nowhere, mut silent) = (config(""), config(""));
    nowhere.platform.os = "unknown".to_owned();
    nowhere.platform.architecture = "unknown".to_owned();
    silent.platform.os = String::new();
    let known = |media: &str, config: &ImageConfig| {
        let image = manifest(
            digest("d"),
            vec![edge(Role::Config, "config", CONFIG, 5), edge(Role::Layer, "payload", media, 5)],
        );
        Facts {
            tag: fact(None, Some("d")),
            contents: [content(image.clone(), is(config.clone()))].into(),
            image: of(image),
            ..Facts::default()
        }
    };
    assert_eq!(codes(users(10_001, &[]), &known(attestation, &nowhere)), []);
    for (media, config, why) in [
        (LAYER, &nowhere, "it has layers"),
        (attestation, &silent, "a runtime may take it for its own"),
        (attestation, &config(""), "it runs somewhere"),
    ] {
        assert_eq!(codes(users(10_001, &[]), &known(media, config)), [Code::UserMinUid], "{why}");
    }
}

#[test]
fn the_blobs_of_an_image_that_is_refused_for_its_content_are_refused_for_the_same() {
    let ask = What::Blob(digest("layer"));
    let image = one_image("img", "layer", 77);
    let known = |user: &str| Facts {
        roots: roots(Some(descriptor("layer", LAYER, 77)), vec![root("img", &["1.0"], 0)]),
        contents: [content(image.clone(), is(config(user)))].into(),
        possession: is(true),
        ..Facts::default()
    };
    let policy = policy(rules(users(10_001, &[])));
    permit(&decide(&policy, ask.clone(), &known("10001")));
    assert_eq!(refused(&decide(&policy, ask.clone(), &known("0"))), [Code::UserMinUid]);
    // Another image that passes has it too.
    let mut both = known("0");
    both.roots = roots(
        Some(descriptor("layer", LAYER, 77)),
        vec![root("img", &["1.0"], 0), root("good", &["1.1"], 0)],
    );
    both.contents.extend([content(one_image("good", "layer", 77), is(config("10001")))]);
    permit(&decide(&policy, ask.clone(), &both));
    // One that passes, but does not have it, does not help.
    both.contents.extend([content(one_image("good", "other", 77), is(config("10001")))]);
    assert_eq!(refused(&decide(&policy, ask, &both)), [Code::UserMinUid]);
}

#[test]
fn a_child_that_only_a_refused_index_leads_to_is_refused() {
    let known = |arm: &str| {
        let mut facts = two("10001", arm);
        facts.contents.extend([content(
            manifest(
                digest("index"),
                vec![child("amd", Some(("linux", "amd64"))), child("arm", Some(("linux", "arm64")))],
            ),
            Known::Unasked,
        )]);
        facts.roots = roots(None, vec![root("amd", &[], 0), root("index", &["1.0"], 0)]);
        facts.listed = is(());
        facts.image = of(one_image("amd", "l1", 1));
        facts
    };
    let leaves = Leaves { digests: Some(written(Digests::Known)), ..platforms(IndexRule::All) };
    let policy = policy(rules(leaves));
    let ask = What::Digest(digest("amd"));
    assert_eq!(served(&decide(&policy, ask.clone(), &known("10001"))), digest("amd"));
    assert_eq!(refused(&decide(&policy, ask, &known("0"))), [Code::UserMinUid]);
}
