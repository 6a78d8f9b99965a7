//! Rules as a whole: owners, ties, inheritance, modes, clients.

use super::*;

#[test]
fn the_most_specific_source_owns_a_repository() {
    let mut rules = rules(Leaves::default());
    rules.sources = ["r.io/**", "r.io/a/*", "r.io/*/*", "r.io/a/x"]
        .iter()
        .map(|text| source(text, text, Leaves::default()))
        .collect();
    let policy = policy(rules);
    let owner = |image: &str| {
        let ask = Ask { name: name(image), what: What::Tags };
        let decision = policy.decide(&anyone(), &ask, &Facts::default(), Timestamp::UNIX_EPOCH);
        decision.trace.source.as_deref().map(str::to_owned)
    };
    assert_eq!(owner("r.io/a/x").as_deref(), Some("r.io/a/x"));
    assert_eq!(owner("r.io/a/y").as_deref(), Some("r.io/a/*"));
    assert_eq!(owner("r.io/b/y").as_deref(), Some("r.io/*/*"));
    assert_eq!(owner("r.io/b").as_deref(), Some("r.io/**"));
    assert_eq!(owner("r.io/a/b/c").as_deref(), Some("r.io/**"));
    assert_eq!(owner("s.io/a/b"), None);
}

fn invalid(change: impl FnOnce(&mut Rules)) -> Invalid {
    let mut rules = rules(allows(&["#.#"]));
    change(&mut rules);
    Policy::new(rules).expect_err("invalid rules")
}

#[test]
fn two_sources_that_could_both_own_a_name_are_an_error() {
    for (one, two) in [("r.io/*/x", "r.io/y/*"), ("r.io/a/*", "r.io/a/**"), ("r.io/a/x", "r.io/a/x")] {
        let error = invalid(|rules| {
            rules.sources =
                vec![source("one", one, Leaves::default()), source("two", two, Leaves::default())];
        });
        assert_eq!(error.item, Item::Source(1), "{error}");
        assert!(error.message.contains("equally specific"), "{error}");
    }
    let mut fine = rules(Leaves::default());
    fine.sources =
        vec![source("one", "r.io/*/x", Leaves::default()), source("two", "r.io/*/y", Leaves::default())];
    assert!(Policy::new(fine).is_ok(), "a tie that no name can match is none");
}

#[test]
fn ids_and_pins_are_unique_and_pins_are_owned() {
    let error = invalid(|rules| rules.sources.push(source("a", "r.io/b", Leaves::default())));
    assert!(error.message.contains("used twice"), "{error}");
    let error = invalid(|rules| rules.sources.push(source("unlisted", "r.io/b", Leaves::default())));
    assert!(error.message.contains("reserved"), "{error}");
    let error = invalid(|rules| rules.pins = vec![pin("s.io/a/x", Some("1"), digest("d"))]);
    assert_eq!(error.item, Item::Pin(0));
    let error = invalid(|rules| {
        let pin = |seed| pin("r.io/a/x", Some("1"), digest(seed));
        rules.pins = vec![pin("d"), pin("e")];
    });
    assert_eq!(error.item, Item::Pin(1));
    assert!(error.message.contains("pinned twice"), "{error}");
}

#[test]
fn a_written_leaf_replaces_that_of_require_and_others_stay() {
    let mut rules = rules(Leaves { moved: Some(written(Moved::Follow)), ..Leaves::default() });
    rules.require = Leaves {
        allow: patterns(&["#.#"]),
        deny: patterns(&["latest"]),
        moved: Some(written(Moved::Deny)),
        ..Leaves::default()
    };
    rules.sources.push(source("b", "r.io/b", allows(&[])));
    let policy = policy(rules);
    let of = |id: &str| policy.sources().find(|source| source.id() == id).unwrap();
    assert_eq!(of("a").moved(), Moved::Follow);
    assert_eq!(of("a").allow()[0].as_str(), "#.#");
    assert_eq!(of("b").moved(), Moved::Deny);
    assert!(of("b").allow().is_empty());
    assert_eq!(of("b").deny()[0].as_str(), "latest");
}

#[test]
fn clients_are_checked_together_with_the_source() {
    let only = Leaves { clients: Some(written(vec!["ci".into()])), ..allows(&["#.#"]) };
    let policy = policy(rules(only));
    let codes = |class, image: &str| {
        let ask = Ask { name: name(image), what: What::Tag(tag("1.0")) };
        refused(&policy.decide(&caller(class), &ask, &Facts::default(), Timestamp::UNIX_EPOCH))
    };
    assert_eq!(codes(Class::Anonymous, "r.io/a/x"), [Code::ClientNotAllowed]);
    assert_eq!(codes(Class::Client("dev".into()), "r.io/a/x"), [Code::ClientNotAllowed]);
    assert_eq!(codes(Class::Unknown, "s.io/a/x"), [Code::ClientUnknown, Code::SourceUnknown]);
    let ask = Ask { name: name("r.io/a/x"), what: What::Tag(tag("1.0")) };
    let decision =
        policy.decide(&caller(Class::Client("ci".into())), &ask, &Facts::default(), Timestamp::UNIX_EPOCH);
    assert!(matches!(need(&decision), Lack::Tag { .. }));
}

#[test]
fn a_softened_tag_is_served_with_a_warning_and_never_locked() {
    for (mode, warns) in [(Mode::Warn, true), (Mode::Observe, false)] {
        let leaves = Leaves { mode: Some(mode), ..allows(&["1.0"]) };
        let policy = policy(rules(leaves));
        let facts = Facts { tag: fact(None, Some("d")), image: image("d"), ..Facts::default() };
        let decision = decide(&policy, What::Tag(tag("latest")), &facts);
        assert_eq!((served(&decision), decision.verdict), (digest("d"), Verdict::Warn));
        assert_eq!(permit(&decision).lock(), None);
        assert_eq!(permit(&decision).warning().is_some(), warns);
        let codes: Vec<Code> = decision.softened.iter().map(|reason| reason.code).collect();
        assert_eq!(codes, [Code::TagDenied, Code::TagNotAllowed]);
        let decision = decide(&policy, What::Tag(tag("1.0")), &facts);
        assert_eq!((decision.verdict, permit(&decision).warning()), (Verdict::Allow, None));
    }
}

#[test]
fn what_a_softened_tag_leads_to_is_served_too() {
    let modes = Modes::default().with(Softenable::Tag, Mode::Warn);
    let policy = policy(rules(Leaves { modes, ..allows(&["1.0"]) }));
    let mut facts = Facts {
        roots: roots(Some(descriptor("blob", LAYER, 5)), vec![root("img", &["latest"], 0)]),
        listed: is(()),
        image: image("d"),
        possession: is(true),
        ..Facts::default()
    };
    for what in [What::Digest(digest("d")), What::Blob(digest("blob"))] {
        let decision = decide(&policy, what, &facts);
        assert_eq!(decision.verdict, Verdict::Warn);
        permit(&decision);
        assert_eq!(decision.softened[0].code, Code::TagDenied);
    }
    facts.roots = roots(Some(descriptor("blob", LAYER, 5)), vec![root("img", &[], 0)]);
    assert_eq!(refused(&decide(&policy, What::Digest(digest("d")), &facts)), [Code::DigestUnknown]);
    assert_eq!(refused(&decide(&policy, What::Blob(digest("blob")), &facts)), [Code::ClosureOutside]);
}

#[test]
fn each_check_that_has_a_mode_is_softened_by_it_alone() {
    let deny = |modes| Leaves { modes, moved: Some(written(Moved::Deny)), ..allows(&["1.0"]) };
    let moved = Facts { tag: fact(Some("old"), Some("new")), image: image("old"), ..Facts::default() };
    let mut foreign = edge(Role::Layer, "l", LAYER, 5);
    foreign.1.urls.push("https://elsewhere.example".to_owned());
    let media = Facts {
        tag: fact(None, Some("d")),
        image: of(manifest(digest("d"), vec![foreign])),
        ..Facts::default()
    };
    let unknown = Facts { roots: roots(None, vec![]), listed: is(()), image: image("d"), ..Facts::default() };
    let warn = |check| Modes::default().with(check, Mode::Warn);
    let one = What::Tag(tag("1.0"));
    let cases = [
        (warn(Softenable::TagMoved), one.clone(), &moved, Code::TagMoved),
        (warn(Softenable::Media), one, &media, Code::MediaRefused),
        (warn(Softenable::Digest), What::Digest(digest("d")), &unknown, Code::DigestUnknown),
    ];
    for (modes, what, facts, code) in cases {
        assert_eq!(refused(&decide(&policy(rules(deny(Modes::default()))), what.clone(), facts)), [code]);
        let softened = policy(rules(deny(modes)));
        let decision = decide(&softened, what, facts);
        permit(&decision);
        assert_eq!((decision.verdict, decision.softened[0].code), (Verdict::Warn, code));
        let hard = refused(&decide(&softened, What::Tag(tag("latest")), facts));
        assert_eq!(hard, [Code::TagDenied, Code::TagNotAllowed], "another check stays hard");
    }
}

#[test]
fn a_check_s_mode_beats_the_source_s_and_that_the_policy_s() {
    let mut rules = rules(Leaves { mode: Some(Mode::Enforce), ..allows(&["1.0"]) });
    rules.mode = Mode::Observe;
    rules.require.modes = Modes::default().with(Softenable::Media, Mode::Warn);
    rules.sources.push(source("b", "r.io/b/*", allows(&["1.0"])));
    let policy = policy(rules);
    let asks = |image: &str| Ask { name: name(image), what: What::Tag(tag("latest")) };
    let verdict = |image: &str| {
        let facts = Facts { tag: fact(None, Some("d")), image: image_of_schema1(), ..Facts::default() };
        policy.decide(&anyone(), &asks(image), &facts, Timestamp::UNIX_EPOCH)
    };
    refused(&verdict("r.io/a/x"));
    let softened = verdict("r.io/b/x");
    assert!(permit(&softened).warning().unwrap().contains("schema 1"), "media warns");
    assert!(!permit(&softened).warning().unwrap().contains("latest\" is denied"), "tags are only observed");
}

fn image_of_schema1() -> Known<Image> {
    let mut old = manifest(digest("d"), vec![]);
    old.kind = Kind::Schema1;
    of(old)
}

#[test]
fn closure_and_possession_are_never_softened() {
    let policy = policy(rules(Leaves { mode: Some(Mode::Observe), ..allows(&["1.0"]) }));
    let what = What::Blob(digest("blob"));
    let mut facts =
        Facts { roots: roots(None, vec![]), listed: is(()), possession: is(true), ..Facts::default() };
    assert_eq!(refused(&decide(&policy, what.clone(), &facts)), [Code::ClosureOutside]);
    facts.roots = roots(Some(descriptor("blob", LAYER, 5)), vec![root("img", &["1.0"], 0)]);
    facts.possession = is(false);
    assert_eq!(refused(&decide(&policy, what.clone(), &facts)), [Code::PossessionMissing]);
    facts.roots = roots(Some(descriptor("blob", LAYER, 5)), vec![root("img", &[], 0)]);
    facts.possession = is(true);
    let decision = decide(&policy, what, &facts);
    permit(&decision);
    assert_eq!(decision.softened[0].code, Code::DigestUnknown, "its root is softened");
}

#[test]
fn unlisted_registries_are_served_only_while_the_policy_is_softened() {
    let ask = Ask { name: name("u.io/z"), what: What::Tag(tag("1.0")) };
    let facts = Facts { tag: fact(None, Some("d")), image: image("d"), ..Facts::default() };
    for mode in Mode::ALL {
        let mut rules = rules(allows(&["#.#"]));
        rules.mode = mode;
        rules.unlisted = vec!["u.io".parse().unwrap()];
        let policy = policy(rules);
        assert!(policy.registries().contains(ask.name.registry()));
        let decision = policy.decide(&anyone(), &ask, &facts, Timestamp::UNIX_EPOCH);
        if mode == Mode::Enforce {
            assert_eq!(refused(&decision), [Code::SourceUnknown]);
            continue;
        }
        assert_eq!((served(&decision), decision.verdict), (digest("d"), Verdict::Warn));
        assert_eq!(decision.softened[0].code, Code::SourceUnknown);
        assert_eq!((permit(&decision).lock(), &decision.trace.source), (None, &None));
        let other = Ask { name: name("v.io/z"), what: ask.what.clone() };
        let decision = policy.decide(&anyone(), &other, &facts, Timestamp::UNIX_EPOCH);
        assert_eq!(refused(&decision), [Code::SourceUnknown]);
    }
}

#[test]
fn the_trace_shows_every_check_with_its_line() {
    let facts = Facts { tag: fact(None, Some("d")), image: image("d"), ..Facts::default() };
    let decision = decide(&policy(rules(allows(&["#.#"]))), What::Tag(tag("1.0")), &facts);
    let ids: Vec<&str> = decision.trace.checks.iter().map(|check| check.id).collect();
    assert_eq!(ids, ["client", "source", "tag", "tag", "media"]);
    assert!(decision.trace.checks.iter().all(|check| check.pass));
    assert_eq!(decision.trace.checks[1].at.as_deref(), Some("policy.toml:9"));
    assert_eq!(decision.trace.source.as_deref(), Some("a"));
    assert_eq!(decision.trace.mode, "enforce");
}

#[test]
fn the_difference_of_two_policies_names_what_changed_and_nothing_else() {
    let mut former = rules(Leaves::default());
    former.sources =
        vec![source("a", "ghcr.io/a/*", allows(&["#.#.#"])), source("b", "ghcr.io/b/*", allows(&["#.#"]))];
    let mut later = rules(Leaves::default());
    later.sources =
        vec![source("a", "ghcr.io/a/*", allows(&["#.#"])), source("c", "ghcr.io/c/*", allows(&["#.#"]))];
    let (former, later) = (policy(former), policy(later));
    assert_eq!(
        former.changes(&later),
        [
            "source a: tags.allow: [#.#.#] → [#.#]",
            "source b removed (ghcr.io/b/*)",
            "source c added (ghcr.io/c/*)",
        ]
    );
    assert!(former.changes(&former).is_empty());
}
