//! Judging without a gateway: what is not given is supposed to be in order, and told.

use std::time::Duration;

use super::*;

fn strict() -> Policy {
    let platform = |architecture: &str| PlatformRule {
        os: "linux".into(),
        architecture: architecture.into(),
        variant: None,
    };
    policy(rules(Leaves {
        age: Some(written(AgeRule {
            max: Duration::from_secs(86_400),
            clocks: AgeClock::ALL.to_vec(),
            ignore_before: Timestamp::UNIX_EPOCH,
        })),
        base: Some(written(BaseRule { digests: vec![digest("base")], names: vec![] })),
        hold: Some(written(Duration::from_secs(3600))),
        labels: Some(written(vec![LabelRule { key: "team".into(), value: "a-*".into() }])),
        moved: Some(written(Moved::Deny)),
        platforms: Some(written(vec![platform("arm64")])),
        size: Some(written(SizeRule { max: Some(100), ..SizeRule::default() })),
        user: Some(written(UserRule { min_uid: 10_001, names: vec![] })),
        ..allows(&["#.#"])
    }))
}

fn offline(given: &Given) -> Offline {
    strict().offline(None, &"r.io/a/x:1.0".parse().unwrap(), given, now())
}

#[test]
fn what_takes_facts_counts_as_passed_and_is_told() {
    let offline = offline(&Given::default());
    assert_eq!((offline.verdict, offline.reasons.len()), (Verdict::Allow, 0), "{offline:?}");
    let all = ["tag.moved", "hold", "media", "platform", "size", "label", "age", "user", "base"];
    assert_eq!(offline.needs, all);
    let judged: Vec<&str> = offline.decision.trace.checks.iter().map(|check| check.id).collect();
    assert_eq!(judged, ["client", "source", "tag", "tag"], "what was supposed was not judged");
}

#[test]
fn what_is_given_is_judged() {
    let platform = PlatformRule { os: "linux".into(), architecture: "amd64".into(), variant: None };
    let cases: [(Given, Code); 8] = [
        (Given { user: Some("0".to_owned()), ..Given::default() }, Code::UserMinUid),
        (Given { user: Some("app".to_owned()), ..Given::default() }, Code::UserNamed),
        (Given { created: Some(time("2026-01-01T00:00:00Z")), ..Given::default() }, Code::Age),
        (Given { size: Some(1000), ..Given::default() }, Code::Size),
        (Given { labels: Some(BTreeMap::new()), ..Given::default() }, Code::Label),
        (Given { platform: Some(platform), ..Given::default() }, Code::PlatformNotAllowed),
        (Given { locked: Some(digest("a")), digest: Some(digest("b")), ..Given::default() }, Code::TagMoved),
        (
            Given {
                annotations: [("org.opencontainers.image.base.digest".to_owned(), digest("x").to_string())]
                    .into(),
                ..Given::default()
            },
            Code::BaseNotAllowed,
        ),
    ];
    for (given, code) in cases {
        let offline = offline(&given);
        let codes: Vec<Code> = offline.reasons.iter().map(|reason| reason.code).collect();
        assert_eq!((offline.verdict, codes), (Verdict::Deny, vec![code]), "{given:?}");
    }
    let held = offline(&Given { first_seen: Some(time("2026-11-23T07:30:00Z")), ..Given::default() });
    assert_eq!(held.verdict, Verdict::Hold);
}

#[test]
fn recalled_layers_are_met_in_a_test() {
    let mut rules = rules(allows(&["#.#"]));
    rules.recalls = vec![Recall { layers: vec![digest("bad")], ..recall("RC-1") }];
    let policy = policy(rules);
    let judged = |layer: &str| {
        let given = Given { layers: vec![digest(layer)], ..Given::default() };
        policy.offline(None, &"r.io/a/x:1.0".parse().unwrap(), &given, now()).verdict
    };
    assert_eq!((judged("bad"), judged("good")), (Verdict::Deny, Verdict::Allow));
}
