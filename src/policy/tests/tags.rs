//! Pulls by tag: locks, pins, companions, content.

use super::*;

fn with_moved(moved: Moved) -> Policy {
    policy(rules(Leaves { moved: Some(written(moved)), ..allows(&["#.#"]) }))
}

fn ask() -> What {
    What::Tag(tag("1.0"))
}

fn facts(tag: Known<TagFact>, seed: &str) -> Facts {
    Facts { tag, image: image(seed), ..Facts::default() }
}

#[test]
fn a_refused_tag_is_refused_before_anything_is_asked() {
    let policy = with_moved(Moved::Keep);
    let both = [Code::TagDenied, Code::TagNotAllowed];
    assert_eq!(refused(&decide(&policy, What::Tag(tag("latest")), &Facts::default())), both);
    assert_eq!(refused(&decide(&policy, What::Tag(tag("1.0.0")), &Facts::default())), [Code::TagNotAllowed]);
}

#[test]
fn deny_beats_a_literal_allow_and_a_pin() {
    let mut rules = rules(allows(&["latest"]));
    rules.pins = vec![pin("r.io/a/x", Some("latest"), digest("d"))];
    assert_eq!(
        refused(&decide(&policy(rules), What::Tag(tag("latest")), &Facts::default())),
        [Code::TagDenied]
    );
}

#[test]
fn a_new_tag_is_locked_to_what_the_upstream_names() {
    for (moved, fresh) in [(Moved::Keep, Fresh::Lock), (Moved::Deny, Fresh::Ttl), (Moved::Follow, Fresh::Ttl)]
    {
        let policy = with_moved(moved);
        assert_eq!(need(&decide(&policy, ask(), &Facts::default())), &Lack::Tag { tag: tag("1.0"), fresh });
        let resolved = Facts { tag: fact(None, Some("d")), ..Facts::default() };
        assert_eq!(need(&decide(&policy, ask(), &resolved)), &Lack::Image(digest("d")));
        let decision = decide(&policy, ask(), &facts(fact(None, Some("d")), "d"));
        assert_eq!(served(&decision), digest("d"));
        assert_eq!(permit(&decision).lock(), Some(&tag("1.0")));
        assert_eq!(decision.verdict, Verdict::Allow);
    }
}

#[test]
fn keep_serves_the_lock_wherever_the_tag_leads_now() {
    let policy = with_moved(Moved::Keep);
    for known in [fact(Some("old"), Some("new")), fact(Some("old"), None), stale(Some("old"), None)] {
        let decision = decide(&policy, ask(), &facts(known, "old"));
        assert_eq!(served(&decision), digest("old"));
        assert_eq!(permit(&decision).lock(), None);
    }
}

#[test]
fn deny_refuses_a_moved_or_vanished_tag_but_not_for_an_upstream_that_is_down() {
    let policy = with_moved(Moved::Deny);
    for known in [fact(Some("old"), Some("new")), fact(Some("old"), None), stale(Some("old"), Some("new"))] {
        let decision = decide(&policy, ask(), &facts(known, "old"));
        assert_eq!(refused(&decision), [Code::TagMoved]);
        let Outcome::Refuse(refusal) = &decision.outcome else { panic!("not refused") };
        assert!(refusal.reasons[0].remedy.as_deref().unwrap().contains("[[pin]]"));
    }
    for known in [fact(Some("old"), Some("old")), stale(Some("old"), None)] {
        assert_eq!(served(&decide(&policy, ask(), &facts(known, "old"))), digest("old"));
    }
}

#[test]
fn follow_serves_the_new_digest_and_locks_it() {
    let policy = with_moved(Moved::Follow);
    let decision = decide(&policy, ask(), &facts(fact(Some("old"), Some("new")), "new"));
    assert_eq!((served(&decision), permit(&decision).lock()), (digest("new"), Some(&tag("1.0"))));
    let decision = decide(&policy, ask(), &facts(fact(Some("same"), Some("same")), "same"));
    assert_eq!(permit(&decision).lock(), None);
    let decision = decide(&policy, ask(), &facts(stale(Some("old"), Some("new")), "old"));
    assert_eq!((served(&decision), permit(&decision).lock()), (digest("old"), None));
    assert!(matches!(
        fault(&decide(&policy, ask(), &facts(fact(Some("old"), None), "old"))),
        Fault::Absent(_)
    ));
}

#[test]
fn a_tag_that_does_not_exist_is_absent_and_one_that_cannot_be_asked_about_is_unreachable() {
    for moved in Moved::ALL {
        let policy = with_moved(moved);
        assert!(matches!(fault(&decide(&policy, ask(), &facts(fact(None, None), "d"))), Fault::Absent(_)));
        assert!(matches!(
            fault(&decide(&policy, ask(), &facts(stale(None, None), "d"))),
            Fault::Unreachable(_)
        ));
        let failed = facts(Known::Failed(unreachable()), "d");
        assert_eq!(fault(&decide(&policy, ask(), &failed)), &unreachable());
    }
}

#[test]
fn a_digest_that_the_upstream_no_longer_confirms_is_not_locked() {
    let decision = decide(&with_moved(Moved::Keep), ask(), &facts(stale(None, Some("d")), "d"));
    assert_eq!((served(&decision), permit(&decision).lock()), (digest("d"), None));
}

#[test]
fn a_pin_admits_its_tag_with_its_digest_and_outranks_the_lock() {
    let mut rules = rules(allows(&["#.#"]));
    rules.pins = vec![pin("r.io/a/x", Some("odd"), digest("p")), pin("r.io/a/x", Some("1.0"), digest("q"))];
    let policy = policy(rules);
    for (asked, seed) in [("odd", "p"), ("1.0", "q")] {
        let what = What::Tag(tag(asked));
        assert_eq!(need(&decide(&policy, what.clone(), &Facts::default())), &Lack::Image(digest(seed)));
        let decision = decide(&policy, what, &facts(fact(Some("lock"), Some("lock")), seed));
        assert_eq!((served(&decision), permit(&decision).lock()), (digest(seed), None));
    }
}

#[test]
fn another_manifest_than_the_one_to_be_served_is_asked_for_again() {
    let decision = decide(&with_moved(Moved::Keep), ask(), &facts(fact(None, Some("d")), "other"));
    assert_eq!(need(&decision), &Lack::Image(digest("d")));
}

fn with_image(edges: Vec<(Role, Descriptor)>) -> Facts {
    Facts { tag: fact(None, Some("d")), image: of(manifest(digest("d"), edges)), ..Facts::default() }
}

#[test]
fn schema_1_and_foreign_layers_are_refused() {
    let policy = with_moved(Moved::Keep);
    let mut layer = edge(Role::Layer, "l", LAYER, 5);
    layer.1.urls.push("https://elsewhere.example/l".to_owned());
    assert_eq!(refused(&decide(&policy, ask(), &with_image(vec![layer]))), [Code::MediaRefused]);
    let mut old = manifest(digest("d"), vec![]);
    old.kind = Kind::Schema1;
    let facts = Facts { image: of(old), ..with_image(vec![]) };
    assert_eq!(refused(&decide(&policy, ask(), &facts)), [Code::MediaRefused]);
}

#[test]
fn an_index_of_a_thousand_manifests_passes_and_one_more_does_not() {
    let policy = with_moved(Moved::Keep);
    let children = |count: usize| with_image((0..count).map(|at| child(&at.to_string(), None)).collect());
    assert_eq!(served(&decide(&policy, ask(), &children(CHILDREN_MAX))), digest("d"));
    let mut facts = children(CHILDREN_MAX + 1);
    assert_eq!(refused(&decide(&policy, ask(), &facts)), [Code::IndexTooLarge]);
    let mut edges: Vec<_> = (0..=CHILDREN_MAX).map(|at| child(&at.to_string(), None)).collect();
    edges[0].1.urls.push("https://elsewhere.example".to_owned());
    facts.image = of(manifest(digest("d"), edges));
    let all = [Code::MediaRefused, Code::IndexTooLarge];
    assert_eq!(refused(&decide(&policy, ask(), &facts)), all, "all checks of a phase are reported");
}

fn companion_of(seed: &str) -> What {
    What::Tag(tag(&format!("sha256-{}.sig", digest(seed).hex())))
}

fn signature(seed: &str) -> Known<Image> {
    let layer = edge(Role::Layer, "payload", "application/vnd.dev.cosign.simplesigning.v1+json", 250);
    of(manifest(digest(seed), vec![layer]))
}

fn literal() -> Policy {
    policy(rules(allows(&["1.0"])))
}

#[test]
fn the_signature_of_an_admitted_image_is_admitted_and_never_locked() {
    let what = companion_of("img");
    let mut facts = Facts::default();
    assert_eq!(need(&decide(&literal(), what.clone(), &facts)), &Lack::Roots(digest("img")));
    facts.roots = roots(None, vec![root("img", &["1.0"], 0)]);
    let Lack::Tag { fresh, .. } = need(&decide(&literal(), what.clone(), &facts)).clone() else {
        panic!("no tag")
    };
    assert_eq!(fresh, Fresh::Ttl);
    facts.tag = fact(None, Some("sig"));
    assert_eq!(need(&decide(&literal(), what.clone(), &facts)), &Lack::Image(digest("sig")));
    facts.image = signature("sig");
    let decision = decide(&literal(), what.clone(), &facts);
    assert_eq!((served(&decision), permit(&decision).lock()), (digest("sig"), None));
    facts.tag = fact(None, None);
    assert!(matches!(fault(&decide(&literal(), what, &facts)), Fault::Absent(_)), "a plain 404");
}

#[test]
fn the_signature_of_a_refused_image_is_refused() {
    let facts = Facts {
        roots: roots(None, vec![root("img", &["latest"], 0)]),
        listed: is(()),
        tag: fact(None, Some("sig")),
        image: signature("sig"),
        ..Facts::default()
    };
    assert_eq!(refused(&decide(&literal(), companion_of("img"), &facts)), [Code::TagNotAllowed]);
}

#[test]
fn companions_end_after_two_levels() {
    let facts = |levels| Facts {
        roots: roots(None, vec![root("img", &["1.0"], levels)]),
        listed: is(()),
        tag: fact(None, Some("sig")),
        image: signature("sig"),
        ..Facts::default()
    };
    assert_eq!(served(&decide(&literal(), companion_of("img"), &facts(1))), digest("sig"));
    assert_eq!(refused(&decide(&literal(), companion_of("img"), &facts(2))), [Code::TagNotAllowed]);
}

#[test]
fn a_companion_that_is_more_than_a_leaf_is_judged_as_an_ordinary_tag() {
    let big = vec![edge(Role::Layer, "l", "application/x", 32 << 20)];
    let layer = vec![edge(Role::Layer, "l", LAYER, 5)];
    let rootfs = vec![edge(Role::Layer, "l", "application/vnd.docker.image.rootfs.diff.tar.gzip", 5)];
    let platform = vec![child("c", Some(("linux", "amd64")))];
    // What docker and podman would unpack as an image, whatever its layers are called.
    let config = |media: &str| edge(Role::Config, "c", media, 5);
    let disguised = |media: &str| {
        vec![config("application/vnd.oci.image.config.v1+json"), edge(Role::Layer, "l", media, 5)]
    };
    let odd = vec![config("text/html; charset=utf-8"), edge(Role::Layer, "l", "application/gzip", 5)];
    let images = [disguised("application/gzip"), disguised("application/x-tar"), disguised(""), odd];
    for edges in [big, layer, rootfs, platform].into_iter().chain(images) {
        let mut facts = Facts {
            roots: roots(None, vec![root("img", &["1.0"], 0)]),
            tag: fact(None, Some("sig")),
            image: of(manifest(digest("sig"), edges)),
            ..Facts::default()
        };
        assert_eq!(refused(&decide(&literal(), companion_of("img"), &facts)), [Code::TagNotAllowed]);
        let open = policy(rules(allows(&["*"])));
        facts.roots = Known::Unasked;
        let decision = decide(&open, companion_of("img"), &facts);
        assert_eq!(served(&decision), digest("sig"));
        assert!(permit(&decision).lock().is_some(), "an ordinary tag is locked");
    }
    let attestation = vec![child("c", Some(("unknown", "unknown"))), child("d", None)];
    let sbom = vec![config("application/vnd.acme.sbom"), edge(Role::Layer, "l", "application/gzip", 5)];
    let texts = ["application/vnd.in-toto+json", "text/spdx", "application/vnd.cyclonedx+xml"];
    for edges in [attestation, sbom].into_iter().chain(texts.map(disguised)) {
        let facts = Facts {
            roots: roots(None, vec![root("img", &["1.0"], 0)]),
            tag: fact(None, Some("sig")),
            image: of(manifest(digest("sig"), edges)),
            ..Facts::default()
        };
        assert_eq!(served(&decide(&literal(), companion_of("img"), &facts)), digest("sig"));
    }
}

#[test]
fn an_index_of_indexes_is_served_and_a_deeper_one_refused() {
    let policy = policy(rules(allows(&["1.0"])));
    let facts = |nested: usize, depth| {
        let index = |at: usize| (Role::Child, descriptor(&at.to_string(), INDEX, 500));
        let manifest = Arc::new(manifest(digest("d"), (0..nested).map(index).collect()));
        Facts { tag: fact(None, Some("d")), image: is(Image { manifest, depth }), ..Facts::default() }
    };
    let ask = || What::Tag(tag("1.0"));
    assert_eq!(served(&decide(&policy, ask(), &facts(NESTED_MAX, 2))), digest("d"));
    for facts in [facts(1, 3), facts(NESTED_MAX + 1, 2)] {
        assert_eq!(refused(&decide(&policy, ask(), &facts)), [Code::IndexTooLarge]);
    }
}

#[test]
fn tag_lists_show_what_may_be_pulled_and_hide_companions() {
    let mut rules = rules(allows(&["#.#"]));
    rules.pins = vec![pin("r.io/a/x", Some("odd"), digest("p"))];
    rules.sources.push(source("digests", "r.io/b/*", allows(&[])));
    let closed = Leaves { clients: Some(written(vec!["ci".into()])), ..allows(&["*"]) };
    rules.sources.push(source("closed", "r.io/c/*", closed));
    let policy = policy(rules);
    let shows = |class, image: &str, text: &str| policy.admits_tag(&caller(class), &name(image), &tag(text));
    assert!(shows(Class::Anonymous, "r.io/a/x", "1.0"));
    assert!(shows(Class::Anonymous, "r.io/a/x", "odd"));
    assert!(!shows(Class::Anonymous, "r.io/a/y", "odd"));
    assert!(!shows(Class::Anonymous, "r.io/a/x", "latest"));
    assert!(!shows(Class::Unknown, "r.io/a/x", "1.0"));
    assert!(!shows(Class::Anonymous, "r.io/b/x", "1.0"));
    assert!(!shows(Class::Anonymous, "r.io/z/z/z", "1.0"));
    assert!(!shows(Class::Anonymous, "r.io/c/x", "1.0"));
    assert!(shows(Class::Client("ci".into()), "r.io/c/x", "1.0"));
    let companion = format!("sha256-{}.sig", digest("x").hex());
    assert!(!shows(Class::Client("ci".into()), "r.io/c/x", &companion));
}

#[test]
fn the_suggestion_is_the_nearest_allowed_tag() {
    let mut rules = rules(allows(&["#.#.#", "#.#-*", "9.9.9"]));
    rules.pins = vec![pin("r.io/a/x", Some("odd"), digest("p"))];
    let policy = policy(rules);
    let nearest = |asked: &str, held: &[&str]| {
        let held: Vec<Tag> = held.iter().map(|text| tag(text)).collect();
        policy.suggest(&anyone(), &name("r.io/a/x"), &tag(asked), held.iter()).map(|tag| tag.to_string())
    };
    assert_eq!(nearest("3.11", &["3.12.1", "3.11-slim", "3.9.1"]).as_deref(), Some("3.11-slim"));
    assert_eq!(nearest("3.11", &["3.11.2", "3.11.10", "3.11.9"]).as_deref(), Some("3.11.10"));
    assert_eq!(nearest("3.11-slim", &["3.12-slim", "3.12.4"]).as_deref(), Some("3.12-slim"));
    assert_eq!(nearest("9.9", &[]).as_deref(), Some("9.9.9"));
    assert_eq!(nearest("odd2", &["latest", "1.0.0-rc1"]).as_deref(), Some("odd"));
    let other = policy.suggest(&anyone(), &name("r.io/other/x/y"), &tag("1"), std::iter::empty());
    assert_eq!(other, None, "nobody's repository has no suggestion");
}
