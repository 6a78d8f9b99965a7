//! Exceptions: exact, agreed by two, ended by a date, bound to one digest.

use super::*;

fn excepted(leaves: Leaves, exception: Exception) -> Policy {
    let mut rules = rules(leaves);
    rules.exceptions = vec![exception];
    policy(rules)
}

fn bound(seed: Option<&str>) -> Known<BTreeMap<Arc<str>, Digest>> {
    is(seed.map(|seed| ("EX-1".into(), digest(seed))).into_iter().collect())
}

fn facts(bindings: Option<&str>) -> Facts {
    Facts {
        bindings: bound(bindings),
        tag: fact(None, Some("d")),
        image: image("d"),
        roots: roots(None, vec![root("d", &["latest"], 0)]),
        listed: is(()),
        ..Facts::default()
    }
}

fn latest() -> What {
    What::Tag(tag("latest"))
}

fn on_latest() -> Policy {
    excepted(allows(&["1.0"]), exception("r.io/a/x:latest", &[Softenable::Tag]))
}

#[test]
fn an_exception_waives_what_it_names_and_is_bound_at_its_first_use() {
    assert_eq!(need(&decide(&on_latest(), latest(), &Facts::default())), &Lack::Bindings);
    let decision = decide(&on_latest(), latest(), &facts(None));
    assert_eq!((served(&decision), decision.verdict), (digest("d"), Verdict::Allow));
    assert_eq!(permit(&decision).binds(), [Arc::from("EX-1")]);
    assert_eq!((permit(&decision).lock(), permit(&decision).warning()), (None, None));
    assert_eq!(decision.until, Some(time("2026-12-01T00:00:00Z")), "a permit ends with it");
    let used = decision.trace.checks.iter().find(|check| check.id == "exception").unwrap();
    assert_eq!((used.observed.as_str(), used.exception.as_deref()), ("needed", Some("EX-1")));
    let waived: Vec<_> = decision.trace.checks.iter().filter(|check| !check.pass).collect();
    assert!(!waived.is_empty() && waived.iter().all(|check| check.exception.as_deref() == Some("EX-1")));
}

#[test]
fn once_bound_it_is_for_that_digest_alone() {
    let decision = decide(&on_latest(), latest(), &facts(Some("d")));
    assert_eq!(served(&decision), digest("d"));
    assert!(permit(&decision).binds().is_empty());
    let both = [Code::TagDenied, Code::TagNotAllowed];
    assert_eq!(refused(&decide(&on_latest(), latest(), &facts(Some("former")))), both);
    // By digest: the bound one, and what it leads to.
    let by_digest = What::Digest(digest("d"));
    assert_eq!(served(&decide(&on_latest(), by_digest.clone(), &facts(Some("d")))), digest("d"));
    assert_eq!(
        refused(&decide(&on_latest(), by_digest.clone(), &facts(Some("former")))),
        [Code::DigestUnknown]
    );
    assert_eq!(refused(&decide(&on_latest(), by_digest, &facts(None))), [Code::DigestUnknown]);
}

#[test]
fn its_parts_follow() {
    let mut facts = facts(Some("img"));
    facts.roots = roots(Some(descriptor("blob", LAYER, 5)), vec![root("img", &["latest"], 0)]);
    facts.possession = is(true);
    permit(&decide(&on_latest(), What::Blob(digest("blob")), &facts));
    facts.bindings = bound(Some("former"));
    assert_eq!(refused(&decide(&on_latest(), What::Blob(digest("blob")), &facts)), [Code::ClosureOutside]);
}

#[test]
fn an_exception_that_waives_nothing_that_failed_was_not_needed() {
    let policy = excepted(allows(&["1.0"]), exception("r.io/a/x:1.0", &[Softenable::Tag, Softenable::User]));
    let decision = decide(&policy, What::Tag(tag("1.0")), &facts(None));
    permit(&decision);
    assert!(permit(&decision).binds().is_empty() && permit(&decision).lock().is_some());
    let used = decision.trace.checks.iter().find(|check| check.id == "exception").unwrap();
    assert_eq!(used.observed, "not needed");
}

#[test]
fn it_waives_no_other_check_and_no_other_image() {
    let policy = excepted(allows(&["1.0"]), exception("r.io/a/x:latest", &[Softenable::User]));
    assert_eq!(refused(&decide(&policy, latest(), &facts(None))), [Code::TagDenied, Code::TagNotAllowed]);
    assert_eq!(
        refused(&decide(&on_latest(), What::Tag(tag("rc1")), &facts(None))),
        [Code::TagDenied, Code::TagNotAllowed]
    );
    let other = Ask { name: name("r.io/a/y"), what: latest() };
    let decision = on_latest().decide(&anyone(), &other, &facts(None), now());
    assert_eq!(refused(&decision), [Code::TagDenied, Code::TagNotAllowed]);
}

#[test]
fn an_exception_on_a_digest_is_for_it_by_whatever_name() {
    let image = format!("r.io/a/x@{}", digest("d"));
    let policy = excepted(allows(&["1.0"]), exception(&image, &[Softenable::Digest]));
    let mut known = facts(None);
    known.roots = roots(None, vec![]);
    assert_eq!(served(&decide(&policy, What::Digest(digest("d")), &known)), digest("d"));
    known.image = super::image("e");
    assert_eq!(refused(&decide(&policy, What::Digest(digest("e")), &known)), [Code::DigestUnknown]);
}

#[test]
fn it_holds_from_its_first_day_to_its_last_in_utc() {
    for (at, active) in [
        ("2026-10-31T23:59:59Z", false),
        ("2026-11-01T00:00:00Z", true),
        ("2026-11-30T23:59:59Z", true),
        ("2026-12-01T00:00:00Z", false),
    ] {
        let ask = Ask { name: name("r.io/a/x"), what: latest() };
        let decision = on_latest().decide(&anyone(), &ask, &facts(None), time(at));
        assert_eq!(matches!(decision.outcome, Outcome::Permit(_)), active, "{at}");
    }
    let exception = exception("r.io/a/x:1", &[Softenable::Tag]);
    assert!(!exception.ends_soon(time("2026-11-16T23:59:59Z")));
    assert!(exception.ends_soon(time("2026-11-17T00:00:00Z")));
    assert!(!exception.ends_soon(time("2026-12-01T00:00:00Z")), "it is over");
}

fn invalid(change: impl FnOnce(&mut Exception)) -> String {
    let mut rules = rules(allows(&["1.0"]));
    let mut one = exception("r.io/a/x:1", &[Softenable::Tag]);
    change(&mut one);
    rules.exceptions = vec![one];
    let error = Policy::new(rules).expect_err("an invalid exception");
    assert_eq!(error.item, Item::Exception(0));
    error.message
}

#[test]
fn two_people_agree_for_at_most_ninety_days() {
    let date = |text: &str| text.parse().unwrap();
    assert!(
        invalid(|it| it.requested_by = "Security@Example.com ".into()).contains("asked for the exception")
    );
    assert!(invalid(|it| it.expires = date("2026-10-31")).contains("before it was approved"));
    assert!(invalid(|it| it.expires = date("2027-01-31")).contains("ends on 2027-01-30 at the latest"));
    assert!(invalid(|it| it.waive.clear()).contains("waives nothing"));
    let mut rules = rules(allows(&["1.0"]));
    let mut longest = exception("r.io/a/x:1", &[Softenable::Tag]);
    longest.expires = date("2027-01-30");
    rules.exceptions = vec![longest.clone()];
    assert!(Policy::new(rules.clone()).is_ok());
    rules.exceptions.push(longest);
    assert!(Policy::new(rules).unwrap_err().message.contains("used twice"));
}
