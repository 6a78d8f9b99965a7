//! Cooldown: a digest is served once it is known long enough.

use std::time::Duration;

use super::*;

fn held(moved: Moved, first: HoldFirst) -> Policy {
    policy(rules(Leaves {
        hold: Some(written(Duration::from_secs(72 * 3600))),
        hold_first: Some(written(first)),
        moved: Some(written(moved)),
        ..allows(&["#.#"])
    }))
}

fn ask() -> What {
    What::Tag(tag("1.0"))
}

fn sight(since: &str) -> Sight {
    Sight { tag: tag("1.0"), first: true, served: false, since: time(since), last: now(), current: true }
}

fn seen(digests: &[(&str, Sight)]) -> BTreeMap<Digest, Known<Seen>> {
    let seen = |sight: &Sight| is(Seen { first: None, sights: vec![sight.clone()] });
    digests.iter().map(|(seed, sight)| (digest(seed), seen(sight))).collect()
}

fn facts(known: Known<TagFact>, served: &str, digests: &[(&str, Sight)]) -> Facts {
    Facts { tag: known, image: image(served), seen: seen(digests), ..Facts::default() }
}

#[test]
fn a_digest_is_held_until_it_is_known_long_enough() {
    let policy = held(Moved::Keep, HoldFirst::Refuse);
    let unknown = Facts { tag: fact(None, Some("d")), ..Facts::default() };
    assert_eq!(need(&decide(&policy, ask(), &unknown)), &Lack::Seen(digest("d")));
    let young = facts(fact(None, Some("d")), "d", &[("d", sight("2026-11-20T08:00:01Z"))]);
    let decision = decide(&policy, ask(), &young);
    let Outcome::Refuse(refusal) = &decision.outcome else { panic!("not refused: {decision:?}") };
    assert_eq!((refusal.code, decision.verdict), (Code::Hold, Verdict::Hold));
    assert_eq!(refusal.until, Some(time("2026-11-23T08:00:01Z")));
    assert!(refusal.reasons[0].text.contains("until 2026-11-23 08:00Z"), "{refusal:?}");
    let old = facts(fact(None, Some("d")), "d", &[("d", sight("2026-11-20T08:00:00Z"))]);
    let decision = decide(&policy, ask(), &old);
    assert_eq!((served(&decision), permit(&decision).lock()), (digest("d"), Some(&tag("1.0"))));
}

#[test]
fn the_very_first_digest_of_a_tag_may_be_served_at_once() {
    let policy = held(Moved::Follow, HoldFirst::Serve);
    let first = facts(fact(None, Some("d")), "d", &[("d", sight("2026-11-23T08:00:00Z"))]);
    let decision = decide(&policy, ask(), &first);
    assert_eq!((served(&decision), permit(&decision).lock()), (digest("d"), Some(&tag("1.0"))));
    // Another one was seen before it, though never served.
    let second = Sight { first: false, ..sight("2026-11-23T08:00:00Z") };
    let facts = facts(fact(None, Some("d")), "d", &[("d", second)]);
    assert!(
        matches!(&decide(&policy, ask(), &facts).outcome, Outcome::Refuse(refusal) if refusal.code == Code::Hold)
    );
}

#[test]
fn with_follow_the_old_digest_is_served_until_the_new_one_has_aged() {
    let policy = held(Moved::Follow, HoldFirst::Refuse);
    let moved = fact(Some("old"), Some("new"));
    let young = facts(moved.clone(), "old", &[("new", sight("2026-11-22T08:00:00Z"))]);
    let decision = decide(&policy, ask(), &young);
    assert_eq!((served(&decision), permit(&decision).lock()), (digest("old"), None));
    assert_eq!((decision.verdict, decision.until), (Verdict::Allow, Some(time("2026-11-25T08:00:00Z"))));
    let aged = facts(moved, "new", &[("new", sight("2026-11-20T08:00:00Z"))]);
    let decision = decide(&policy, ask(), &aged);
    assert_eq!((served(&decision), permit(&decision).lock()), (digest("new"), Some(&tag("1.0"))));
}

#[test]
fn a_locked_digest_was_held_before_and_is_not_held_again() {
    for moved in Moved::ALL {
        let policy = held(moved, HoldFirst::Refuse);
        let facts = facts(fact(Some("d"), Some("d")), "d", &[]);
        assert_eq!(served(&decide(&policy, ask(), &facts)), digest("d"));
    }
}

#[test]
fn what_was_replaced_within_its_hold_is_never_served() {
    let policy = held(Moved::Keep, HoldFirst::Refuse);
    let mut replaced = sight("2026-10-01T00:00:00Z");
    replaced.last = time("2026-10-02T00:00:00Z");
    replaced.current = false;
    let mut known = facts(fact(None, None), "d", &[("d", replaced.clone())]);
    known.roots = roots(None, vec![]);
    let decision = decide(&policy, What::Digest(digest("d")), &known);
    let Outcome::Refuse(refusal) = &decision.outcome else { panic!("not refused: {decision:?}") };
    assert_eq!((refusal.code, refusal.until), (Code::Hold, None));
    // Confirmed for as long as the hold it is served, whatever came after.
    replaced.last = time("2026-10-04T00:00:00Z");
    known.seen = seen(&[("d", replaced)]);
    assert_eq!(served(&decide(&policy, What::Digest(digest("d")), &known)), digest("d"));
}

#[test]
fn a_digest_that_no_tag_names_ages_from_when_it_was_first_met() {
    let policy = held(Moved::Keep, HoldFirst::Serve);
    let met = |at: &str| Facts {
        image: image("d"),
        seen: [(digest("d"), is(Seen { first: Some(time(at)), sights: vec![] }))].into(),
        ..Facts::default()
    };
    let ask = What::Digest(digest("d"));
    assert_eq!(served(&decide(&policy, ask.clone(), &met("2026-11-20T08:00:00Z"))), digest("d"));
    let decision = decide(&policy, ask, &met("2026-11-23T07:00:00Z"));
    let Outcome::Refuse(refusal) = &decision.outcome else { panic!("not refused") };
    assert_eq!(refusal.until, Some(time("2026-11-26T07:00:00Z")));
}

#[test]
fn a_pin_needs_no_hold_and_a_worse_verdict_goes_first() {
    let mut rules = rules(Leaves {
        hold: Some(written(Duration::from_secs(3600))),
        moved: Some(written(Moved::Deny)),
        ..allows(&["#.#"])
    });
    rules.pins = vec![pin("r.io/a/x", Some("1.0"), digest("d"))];
    let policy = policy(rules);
    let pinned = Facts { image: image("d"), roots: roots(None, vec![]), ..Facts::default() };
    assert_eq!(served(&decide(&policy, ask(), &pinned)), digest("d"));
    assert_eq!(served(&decide(&policy, What::Digest(digest("d")), &pinned)), digest("d"));
    let known = facts(fact(Some("old"), Some("new")), "old", &[]);
    let decision = decide(&policy, What::Tag(tag("1.1")), &known);
    assert_eq!(refused(&decision), [Code::TagMoved], "deny is worse than hold");
}

#[test]
fn a_hold_can_be_softened_and_excused() {
    let leaves = |mode| Leaves {
        hold: Some(written(Duration::from_secs(72 * 3600))),
        modes: Modes::default().with(Softenable::Hold, mode),
        ..allows(&["#.#"])
    };
    let young = || facts(fact(None, Some("d")), "d", &[("d", sight("2026-11-23T00:00:00Z"))]);
    let decision = decide(&policy(rules(leaves(Mode::Warn))), ask(), &young());
    assert_eq!((served(&decision), decision.verdict), (digest("d"), Verdict::Warn));
    assert_eq!(permit(&decision).lock(), None);
    let mut excused = rules(leaves(Mode::Enforce));
    excused.exceptions = vec![exception("r.io/a/x:1.0", &[Softenable::Hold])];
    let known = Facts { bindings: is(BTreeMap::new()), ..young() };
    assert_eq!(served(&decide(&policy(excused), ask(), &known)), digest("d"));
}
