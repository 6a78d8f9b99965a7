//! Pulls by digest and referrers.

use super::*;

fn ask() -> What {
    What::Digest(digest("d"))
}

fn with_digests(digests: Digests, allow: &[&str]) -> Policy {
    policy(rules(Leaves { digests: Some(written(digests)), ..allows(allow) }))
}

#[test]
fn the_default_follows_from_the_tags() {
    let digests = |allow: &[&str]| policy(rules(allows(allow))).sources().next().unwrap().digests();
    assert_eq!(digests(&["#.#", "1.0"]), Digests::Any);
    assert_eq!(digests(&["1.0", "1.1"]), Digests::Known);
    assert_eq!(digests(&[]), Digests::Listed);
    assert_eq!(policy(rules(Leaves::default())).sources().next().unwrap().digests(), Digests::Listed);
}

#[test]
fn any_needs_only_the_manifest() {
    let policy = with_digests(Digests::Any, &[]);
    assert_eq!(need(&decide(&policy, ask(), &Facts::default())), &Lack::Image(digest("d")));
    let decision = decide(&policy, ask(), &Facts { image: image("d"), ..Facts::default() });
    assert_eq!((served(&decision), permit(&decision).lock()), (digest("d"), None));
    let absent = Facts { image: Known::Failed(Fault::Absent("d".into())), ..Facts::default() };
    assert!(matches!(fault(&decide(&policy, ask(), &absent)), Fault::Absent(_)));
}

#[test]
fn a_digest_that_nothing_can_lead_to_is_refused_before_anything_is_asked() {
    for (digests, code) in [(Digests::Listed, Code::DigestNotListed), (Digests::Known, Code::DigestUnknown)] {
        let policy = with_digests(digests, &[]);
        assert_eq!(refused(&decide(&policy, ask(), &Facts::default())), [code]);
    }
}

#[test]
fn a_child_of_an_admitted_index_is_admitted() {
    let facts =
        Facts { roots: roots(None, vec![root("index", &["1.0"], 0)]), image: image("d"), ..Facts::default() };
    let decision = decide(&policy(rules(allows(&["1.0"]))), ask(), &facts);
    assert_eq!(served(&decision), digest("d"));
}

#[test]
fn pattern_tags_count_as_far_as_they_were_seen_and_cause_no_sweep() {
    let policy = with_digests(Digests::Known, &["#.#"]);
    let mut facts =
        Facts { roots: roots(None, vec![root("d", &["1.0"], 0)]), image: image("d"), ..Facts::default() };
    assert_eq!(served(&decide(&policy, ask(), &facts)), digest("d"));
    facts.roots = roots(None, vec![root("d", &["x"], 0)]);
    assert_eq!(refused(&decide(&policy, ask(), &facts)), [Code::DigestUnknown]);
}

#[test]
fn a_sweep_leaves_out_literals_that_are_denied() {
    let policy = policy(rules(allows(&["1.0", "latest"])));
    let facts = Facts { roots: roots(None, vec![]), ..Facts::default() };
    assert_eq!(need(&decide(&policy, ask(), &facts)), &Lack::Listed(vec![tag("1.0")]));
}

#[test]
fn an_upstream_that_cannot_say_whether_a_tag_leads_there_fails_closed() {
    let policy = policy(rules(allows(&["1.0"])));
    let mut facts =
        Facts { roots: roots(None, vec![]), listed: Known::Failed(unreachable()), ..Facts::default() };
    let decision = decide(&policy, ask(), &facts);
    assert_eq!(refused(&decision), [Code::FactsUnavailable]);
    let Outcome::Refuse(refusal) = decision.outcome else { panic!("not refused") };
    assert_eq!(refusal.fault, Some(unreachable()));
    facts.listed = Known::Failed(Fault::Absent("no such repository".into()));
    assert_eq!(refused(&decide(&policy, ask(), &facts)), [Code::DigestUnknown]);
    facts.listed = Known::Failed(unreachable());
    facts.roots = roots(None, vec![root("d", &["1.0"], 0)]);
    facts.image = image("d");
    assert_eq!(served(&decide(&policy, ask(), &facts)), digest("d"), "what is known needs no upstream");
}

#[test]
fn a_pin_admits_its_digest_in_its_repository_alone() {
    for digests in Digests::ALL {
        let mut rules = rules(Leaves { digests: Some(written(digests)), ..allows(&[]) });
        rules.pins = vec![pin("r.io/a/x", None, digest("d"))];
        let policy = policy(rules);
        assert_eq!(need(&decide(&policy, ask(), &Facts::default())), &Lack::Image(digest("d")));
        if digests != Digests::Any {
            let elsewhere = Ask { name: name("r.io/a/y"), what: ask() };
            let decision = policy.decide(&anyone(), &elsewhere, &Facts::default(), Timestamp::UNIX_EPOCH);
            assert!(matches!(decision.outcome, Outcome::Refuse(_)));
        }
    }
}

#[test]
fn listed_admits_what_a_pin_leads_to_and_nothing_else() {
    let mut rules = rules(allows(&[]));
    rules.pins = vec![pin("r.io/a/x", None, digest("index"))];
    let policy = policy(rules);
    assert_eq!(need(&decide(&policy, ask(), &Facts::default())), &Lack::Roots(digest("d")));
    let mut facts =
        Facts { roots: roots(None, vec![root("index", &[], 0)]), image: image("d"), ..Facts::default() };
    assert_eq!(served(&decide(&policy, ask(), &facts)), digest("d"));
    facts.roots = roots(None, vec![root("other", &["1.0"], 0)]);
    assert_eq!(refused(&decide(&policy, ask(), &facts)), [Code::DigestNotListed]);
}

#[test]
fn a_companion_by_digest_is_admitted_as_a_leaf_within_two_levels() {
    let policy = policy(rules(allows(&["1.0"])));
    let leaf = of(manifest(digest("d"), vec![edge(Role::Layer, "l", "application/vnd.in-toto+json", 5)]));
    let facts = |levels, image| Facts {
        roots: roots(None, vec![root("img", &["1.0"], levels)]),
        listed: is(()),
        image,
        ..Facts::default()
    };
    for levels in [1, 2] {
        assert_eq!(served(&decide(&policy, ask(), &facts(levels, leaf.clone()))), digest("d"));
        assert_eq!(refused(&decide(&policy, ask(), &facts(levels, image("d")))), [Code::DigestUnknown]);
    }
    assert_eq!(refused(&decide(&policy, ask(), &facts(3, leaf))), [Code::DigestUnknown]);
}

#[test]
fn the_referrers_of_a_refused_subject_are_refused() {
    let policy = policy(rules(allows(&["1.0"])));
    let facts = Facts { roots: roots(None, vec![]), listed: is(()), ..Facts::default() };
    assert_eq!(refused(&decide(&policy, What::Referrers(digest("d")), &facts)), [Code::DigestUnknown]);
}

#[test]
fn the_referrers_of_an_admitted_or_absent_subject_are_permitted() {
    let policy = with_digests(Digests::Any, &[]);
    for image in [image("d"), Known::Failed(Fault::Absent("d".into()))] {
        let decision = decide(&policy, What::Referrers(digest("d")), &Facts { image, ..Facts::default() });
        assert!(matches!(permit(&decision).target(), Target::Referrers(subject) if *subject == digest("d")));
    }
    let down = Facts { image: Known::Failed(unreachable()), ..Facts::default() };
    assert_eq!(fault(&decide(&policy, What::Referrers(digest("d")), &down)), &unreachable());
}
