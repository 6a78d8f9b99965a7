//! What was recalled is refused, by whatever road it is asked for.

use super::*;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn recalls(change: impl FnOnce(&mut Recall)) -> Policy {
    with(rules(allows(&["#.#"])), change)
}

fn with(mut rules: Rules, change: impl FnOnce(&mut Recall)) -> Policy {
    let mut recall = recall("RC-1");
    change(&mut recall);
    rules.recalls = vec![recall];
    policy(rules)
}

/// A recalled look that found nothing above these.
fn nothing_above(seeds: &[&str]) -> Known<Recalled> {
    is(Recalled { above: seeds.iter().map(|seed| (digest(seed), vec![])).collect(), tagged: BTreeMap::new() })
}

fn tagged(image: Manifest) -> Facts {
    Facts {
        tag: fact(None, Some("d")),
        image: of(image),
        recalled: nothing_above(&["d"]),
        unseen: nothing_unseen(),
        ..Facts::default()
    }
}

/// All that is recalled is known here, or nobody has it.
fn nothing_unseen() -> Known<Unseen> {
    is(Unseen::default())
}

fn layered(layer: &str) -> Manifest {
    manifest(digest("d"), vec![edge(Role::Config, "config", CONFIG, 5), edge(Role::Layer, layer, LAYER, 5)])
}

const ONE: [Code; 1] = [Code::Recall];

#[test]
fn a_recalled_digest_is_refused_before_anything_is_asked() {
    let policy = recalls(|recall| recall.digests = vec![digest("d")]);
    for what in [What::Digest(digest("d")), What::Blob(digest("d")), What::Referrers(digest("d"))] {
        assert_eq!(refused(&decide(&policy, what, &Facts::default())), ONE);
    }
}

#[test]
fn the_words_of_a_recall_are_its_id_its_reason_and_what_to_use_instead() {
    let policy = recalls(|recall| {
        recall.digests = vec![digest("d")];
        recall.replace = Some("r.io/a/x:2.0".parse().unwrap());
    });
    let decision = decide(&policy, What::Digest(digest("d")), &Facts::default());
    let Outcome::Refuse(refusal) = &decision.outcome else { panic!("not refused") };
    assert!(refusal.reasons[0].text.ends_with("is recalled (RC-1: CVE-2026-12345)"), "{refusal:?}");
    assert_eq!(refusal.reasons[0].remedy.as_deref(), Some("use r.io/a/x:2.0"));
    let check = decision.trace.checks.iter().find(|check| check.id == "recall").unwrap();
    assert_eq!((check.pass, check.at.as_deref()), (false, Some("policy.toml:7")));
}

#[test]
fn a_recalled_index_covers_its_children_in_every_repository() {
    let policy = recalls(|recall| recall.digests = vec![digest("index")]);
    let ask = What::Digest(digest("d"));
    let need_of = decide(&policy, ask.clone(), &Facts::default());
    assert_eq!(need(&need_of), &Lack::Recalled { digests: vec![digest("d")], tags: vec![] });
    let above =
        is(Recalled { above: [(digest("d"), vec![digest("index")])].into(), tagged: BTreeMap::new() });
    let facts = Facts { recalled: above, image: image("d"), ..Facts::default() };
    assert_eq!(refused(&decide(&policy, ask.clone(), &facts)), ONE);
    let facts = Facts {
        recalled: nothing_above(&["d"]),
        unseen: nothing_unseen(),
        image: image("d"),
        ..Facts::default()
    };
    assert_eq!(served(&decide(&policy, ask, &facts)), digest("d"));
}

#[test]
fn what_a_recalled_manifest_lists_that_nobody_saw_here_is_asked_for_before_anything_is_served() {
    let policy = recalls(|recall| recall.digests = vec![digest("index")]);
    let wanted = Lack::Unseen { digest: digest("d"), recalled: [digest("index")].into() };
    let facts = Facts { recalled: nothing_above(&["d"]), tag: fact(None, Some("d")), ..Facts::default() };
    for ask in [What::Digest(digest("d")), What::Referrers(digest("d")), What::Tag(tag("1.0"))] {
        assert_eq!(need(&decide(&policy, ask.clone(), &facts)), &wanted);
        let image = image("d");
        let unanswered = is(Unseen { until: None, unanswered: Some(unreachable()) });
        let facts = Facts { unseen: unanswered, image: image.clone(), ..facts.clone() };
        assert_eq!(refused(&decide(&policy, ask.clone(), &facts)), [Code::FactsUnavailable]);
        let facts = Facts { unseen: Known::Failed(Fault::Absent("d".into())), image, ..facts };
        match (decide(&policy, ask.clone(), &facts).outcome, ask) {
            // An unknown subject has no referrers.
            (Outcome::Permit(_), What::Referrers(_)) | (Outcome::Fail(Fault::Absent(_)), _) => {}
            (outcome, ask) => panic!("{ask:?}: {outcome:?}"),
        }
    }
    // What is refused by its name asks nobody.
    let listed = Leaves { digests: Some(written(Digests::Listed)), ..allows(&["#.#"]) };
    let policy = with(rules(listed), |recall| recall.digests = vec![digest("index")]);
    let facts = Facts { roots: is(Roots::default()), ..facts };
    assert_eq!(refused(&decide(&policy, What::Digest(digest("d")), &facts)), [Code::DigestNotListed]);
}

#[test]
fn a_recalled_child_covers_every_index_that_would_hand_it_out() {
    let policy = recalls(|recall| recall.digests = vec![digest("child")]);
    let index = manifest(digest("d"), vec![child("child", Some(("linux", "s390x"))), child("other", None)]);
    assert_eq!(refused(&decide(&policy, What::Tag(tag("1.0")), &tagged(index))), ONE);
}

#[test]
fn a_recalled_tag_covers_every_digest_it_had() {
    let policy = recalls(|recall| recall.images = vec![(name("r.io/a/x"), Some(tag("1.0")))]);
    assert_eq!(refused(&decide(&policy, What::Tag(tag("1.0")), &Facts::default())), ONE);
    let ask = What::Tag(tag("1.1"));
    let had =
        is(Recalled { above: [(digest("d"), vec![])].into(), tagged: [(digest("d"), tag("1.0"))].into() });
    let facts = Facts { recalled: had, ..tagged(layered("l")) };
    let decision = decide(&policy, ask.clone(), &Facts { tag: fact(None, Some("d")), ..Facts::default() });
    assert_eq!(need(&decision), &Lack::Recalled { digests: vec![digest("d")], tags: vec![tag("1.0")] });
    assert_eq!(refused(&decide(&policy, ask.clone(), &facts)), ONE, "the same under another tag");
    let index = manifest(digest("i"), vec![child("d", None)]);
    let facts = Facts {
        tag: fact(None, Some("i")),
        image: of(index),
        recalled: is(Recalled {
            above: [(digest("i"), vec![])].into(),
            tagged: [(digest("d"), tag("1.0"))].into(),
        }),
        ..Facts::default()
    };
    assert_eq!(refused(&decide(&policy, ask.clone(), &facts)), ONE, "and in an index");
    let permitted = decide(&policy, ask, &tagged(layered("l")));
    permit(&permitted);
    assert!(permitted.until.is_some(), "where the recalled tag leads is asked about again");
    assert!(!policy.admits_tag(&anyone(), &name("r.io/a/x"), &tag("1.0")), "it is not listed");
}

#[test]
fn a_recalled_repository_is_refused_whole_and_others_are_not() {
    let policy = recalls(|recall| recall.images = vec![(name("r.io/a/x"), None)]);
    for what in [
        What::Tag(tag("1.0")),
        What::Digest(digest("d")),
        What::Blob(digest("b")),
        What::Referrers(digest("d")),
        What::Tags,
    ] {
        assert_eq!(refused(&decide(&policy, what, &Facts::default())), ONE);
    }
    let other = Ask { name: name("r.io/a/y"), what: What::Tag(tag("1.0")) };
    permit(&policy.decide(&anyone(), &other, &tagged(layered("l")), now()));
}

#[test]
fn a_recalled_layer_covers_every_image_that_contains_it_and_itself() {
    let policy = recalls(|recall| recall.layers = vec![digest("bad")]);
    assert_eq!(refused(&decide(&policy, What::Blob(digest("bad")), &Facts::default())), ONE);
    assert_eq!(refused(&decide(&policy, What::Tag(tag("1.0")), &tagged_with(layered("bad")))), ONE);
    permit(&decide(&policy, What::Tag(tag("1.0")), &tagged_with(layered("good"))));
}

/// The same with the image looked into.
fn tagged_with(image: Manifest) -> Facts {
    Facts { contents: [content(image.clone(), is(config("1")))].into(), ..tagged(image) }
}

#[test]
fn a_recalled_layer_in_one_platform_covers_the_index() {
    let policy = recalls(|recall| recall.layers = vec![digest("bad")]);
    let index = manifest(digest("d"), vec![child("amd", Some(("linux", "amd64")))]);
    let mut facts = tagged(index);
    assert_eq!(need(&decide(&policy, What::Tag(tag("1.0")), &facts)), &Lack::Contents(vec![digest("amd")]));
    let mut inner = layered("bad");
    inner.digest = digest("amd");
    facts.contents = [content(inner, is(config("1")))].into();
    assert_eq!(refused(&decide(&policy, What::Tag(tag("1.0")), &facts)), ONE);
}

#[test]
fn a_layer_is_known_by_its_diff_id_however_it_is_compressed() {
    let policy = recalls(|recall| recall.diff_ids = vec![digest("plain")]);
    let with = |diff_id: &str| {
        let image = layered("compressed anew");
        let config = ImageConfig { diff_ids: vec![digest(diff_id)], ..config("1") };
        Facts { contents: [content(image.clone(), is(config))].into(), ..tagged(image) }
    };
    assert_eq!(refused(&decide(&policy, What::Tag(tag("1.0")), &with("plain"))), ONE);
    permit(&decide(&policy, What::Tag(tag("1.0")), &with("other")));
    let mut unknown = with("other");
    unknown.contents = [content(layered("compressed anew"), Known::Failed(unreachable()))].into();
    assert_eq!(refused(&decide(&policy, What::Tag(tag("1.0")), &unknown)), [Code::FactsUnavailable]);
}

#[test]
fn content_asked_for_by_sha512_is_known_by_its_sha256() {
    let policy = recalls(|recall| recall.digests = vec![digest("bytes")]);
    let long = Digest::of(crate::oci::Algorithm::Sha512, b"bytes");
    let mut image = layered("l");
    image.digest = long;
    let mut facts = Facts {
        image: of(image.clone()),
        recalled: is(Recalled { above: [(long, vec![])].into(), tagged: BTreeMap::new() }),
        unseen: nothing_unseen(),
        ..Facts::default()
    };
    assert_eq!(need(&decide(&policy, What::Digest(long), &facts)), &Lack::Contents(vec![long]));
    let found = Content {
        manifest: Arc::new(image),
        sha256: digest("bytes"),
        first_seen: None,
        config: Known::Unasked,
    };
    facts.contents = [(long, is(found))].into();
    assert_eq!(refused(&decide(&policy, What::Digest(long), &facts)), ONE);

    // A layer under such a name may be any layer.
    let policy = recalls(|recall| recall.layers = vec![digest("bad")]);
    let mut layer = edge(Role::Layer, "x", LAYER, 5);
    layer.1.digest = long;
    let image = manifest(digest("d"), vec![layer]);
    assert_eq!(
        refused(&decide(&policy, What::Tag(tag("1.0")), &tagged_with(image))),
        [Code::FactsUnavailable]
    );
}

#[test]
fn nothing_softens_or_excuses_a_recall() {
    let softened = Leaves { mode: Some(Mode::Observe), ..allows(&["#.#"]) };
    let mut rules = rules(softened);
    rules.mode = Mode::Observe;
    rules.exceptions = vec![exception(&format!("r.io/a/x@{}", digest("d")), &Softenable::ALL)];
    rules.pins = vec![pin("r.io/a/x", Some("1.0"), digest("d"))];
    let policy = with(rules, |recall| recall.digests = vec![digest("d")]);
    assert_eq!(refused(&decide(&policy, What::Tag(tag("1.0")), &tagged(layered("l")))), ONE);
    assert_eq!(refused(&decide(&policy, What::Digest(digest("d")), &Facts::default())), ONE);
}

#[test]
fn a_recalled_lock_is_refused_and_not_replaced() {
    for moved in [Moved::Keep, Moved::Deny] {
        let rules = rules(Leaves { moved: Some(written(moved)), ..allows(&["#.#"]) });
        let policy = with(rules, |recall| recall.digests = vec![digest("d")]);
        let facts =
            Facts { tag: fact(Some("d"), Some("new")), recalled: nothing_above(&[]), ..tagged(layered("l")) };
        let codes = refused(&decide(&policy, What::Tag(tag("1.0")), &facts));
        assert!(codes == ONE || codes == [Code::TagMoved], "{codes:?}");
    }
}

#[test]
fn the_blobs_of_a_recalled_image_are_refused_and_shared_ones_are_not() {
    let policy = recalls(|recall| recall.digests = vec![digest("img")]);
    let target = Some(descriptor("blob", LAYER, 5));
    let facts = |seeds: &[&str]| Facts {
        roots: roots(target.clone(), seeds.iter().map(|seed| root(seed, &["1.0"], 0)).collect()),
        recalled: nothing_above(&["other"]),
        possession: is(true),
        ..Facts::default()
    };
    assert_eq!(refused(&decide(&policy, What::Blob(digest("blob")), &facts(&["img"]))), ONE);
    permit(&decide(&policy, What::Blob(digest("blob")), &facts(&["img", "other"])));
}

#[test]
fn the_signature_of_a_recalled_image_goes_with_it() {
    let policy = recalls(|recall| recall.digests = vec![digest("img")]);
    let what = What::Tag(tag(&format!("sha256-{}.sig", digest("img").hex())));
    let codes = refused(&decide(&policy, what, &Facts::default()));
    assert_eq!(codes, [Code::TagNotAllowed], "it belongs to no image that is permitted");
}

fn invalid(change: impl FnOnce(&mut Vec<Recall>)) -> Invalid {
    let mut rules = rules(allows(&["#.#"]));
    let mut all = vec![Recall { digests: vec![digest("d")], ..recall("RC-1") }];
    change(&mut all);
    rules.recalls = all;
    Policy::new(rules).expect_err("invalid recalls")
}

#[test]
fn a_recall_names_something_by_sha256_and_has_its_own_id() {
    let error = invalid(|all| all.push(recall("RC-2")));
    assert_eq!(error.item, Item::Recall(1));
    assert!(error.message.contains("names nothing"), "{error}");
    let error = invalid(|all| all.push(Recall { layers: vec![digest("l")], ..recall("RC-1") }));
    assert!(error.message.contains("used twice"), "{error}");
    let long = Digest::of(crate::oci::Algorithm::Sha512, b"x");
    let error = invalid(|all| all[0].layers = vec![long]);
    assert!(error.message.contains("is no sha256"), "{error}");
}
