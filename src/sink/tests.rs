mod schema;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use ulid::Ulid;

use super::{Format, Sinks, Start, Target, Timing, Wanted};
use crate::audit::{
    Action, Actor, Draft, Event, ExceptionResult, Http, Image, Judged, Judgement, Kind, Log, OnFull,
    PolicyStamp, RecallResult, Sentence, Settings, Subject, Written,
};
use crate::clock::Clock;
use crate::identity::{Attribution, Caller, Class};
use crate::oci::{Ask, Digest, Fault, What};
use crate::policy::{Code, Reason, Trace, Verdict};

use schema::faults;

fn caller(agent: &str) -> Caller {
    Caller {
        class: Class::Client("ci".into()),
        attribution: Attribution::Address,
        address: "10.0.0.1".parse().unwrap(),
        proxy: Some("10.0.0.2".parse().unwrap()),
        certificate: None,
        user_agent: Some(agent.into()),
    }
}

fn judged(tag: &str, verdict: Verdict, enforced: bool) -> Arc<Judged> {
    let ask =
        Ask { name: "docker.io/library/python".parse().unwrap(), what: What::Tag(tag.parse().unwrap()) };
    let reason = Reason {
        code: Code::TagNotAllowed,
        text: "not pinned".to_owned(),
        remedy: Some("pin it".to_owned()),
    };
    Judged::new(Judgement {
        verdict,
        enforced,
        reasons: if verdict == Verdict::Allow { Vec::new() } else { vec![reason] },
        policy: Arc::new(PolicyStamp::default()),
        trace: Arc::new(Trace::default()),
        image: Image::asked(&ask),
        shadow: None,
    })
}

/// One event of every kind that is recorded here, as written by a real log.
async fn every_kind() -> (TempDir, Vec<Written>) {
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        path: folder.path().to_owned(),
        max_size: 64 << 20,
        on_full: OnFull::Serve,
        refusals_per_minute: 3,
    };
    let clock = Clock::manual("2026-11-23T08:00:00Z".parse().unwrap());
    let log = Log::open(settings, clock.clone()).await.unwrap();
    let hostile = caller("=1+1\u{202e}\u{9b}\n\"]");
    let http = Http {
        method: "GET",
        path: "/v2/library/python/manifests/3",
        ns: Some("docker.io"),
        status: Some(403),
    };
    let say = |id: &Ulid| Sentence { message: format!("blocked by policy {id}"), phrase: String::new() };
    for number in 0..8 {
        for _ in 0..2 {
            let judged = judged(&format!("3.{number}"), Verdict::Deny, true);
            log.refused(Draft { caller: &hostile, judged: &judged, http }, say).await.unwrap();
        }
    }
    for (verdict, enforced) in [(Verdict::Allow, true), (Verdict::Deny, false), (Verdict::Warn, true)] {
        let judged = judged(verdict.as_str(), verdict, enforced);
        let http = Http { status: None, ..http };
        let mut receipt = log.allowed(Draft { caller: &hostile, judged: &judged, http }).unwrap();
        receipt.served(1000);
        receipt.status(200);
        drop(receipt);
    }
    clock.advance(Duration::from_secs(7200));
    log.flush().await.unwrap();
    let name: crate::oci::Name = "docker.io/library/python".parse().unwrap();
    let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
    let subject = Subject { reference: "docker.io/library/python:3".to_owned(), reason: Some(Code::Recall) };
    let actor = Actor { name: "root".to_owned(), via: "cli".to_owned() };
    let tag: crate::oci::Tag = "3".parse().unwrap();
    let mut events = vec![
        Event::Admin {
            action: Action::Resolve,
            actor: actor.clone(),
            subject: Some(subject.clone()),
            note: Some("done".to_owned()),
        },
        Event::Alert {
            rule: "many".to_owned(),
            text: "more than 3".to_owned(),
            count: 4,
            of: Some(Ulid::nil()),
            subject: Some(subject),
        },
        Event::Exception {
            exception: "EX-1".to_owned(),
            result: ExceptionResult::Used,
            image: name.to_string(),
            waive: vec!["tag".to_owned()],
            expires: Some("2026-12-01".to_owned()),
            needed: Some(true),
            of: Some(Ulid::nil()),
        },
        Event::PolicyAdopted {
            previous: Some(PolicyStamp::default()),
            policy: PolicyStamp::default(),
            changes: vec!["more".to_owned()],
        },
        Event::PolicyRefused { policy: PolicyStamp::default(), error: "line 3".to_owned() },
        Event::Recall {
            recall: "RC-1".to_owned(),
            result: RecallResult::Created,
            reason: "malware".to_owned(),
            names: vec![one.to_string()],
            replace: Some(name.to_string()),
        },
        Event::Upstream {
            registry: name.registry().clone(),
            name: Some(name.clone()),
            digest: Some(one),
            fault: Some(Fault::Unreachable("down".into())),
        },
        Event::Upstream { registry: name.registry().clone(), name: None, digest: None, fault: None },
    ];
    for granted in [true, false] {
        events.push(Event::Auth {
            via: "admin",
            granted,
            address: "::1".parse().unwrap(),
            name: granted.then(|| "ann".to_owned()),
            text: (!granted).then(|| "no such token".to_owned()),
            count: 2,
        });
    }
    for current in [Some(two), None] {
        events.push(Event::Drift { name: name.clone(), tag: tag.clone(), locked: one, current });
        events.push(Event::Pin {
            name: name.clone(),
            tag: tag.clone(),
            previous: Some(one),
            digest: current,
            actor: actor.clone(),
        });
    }
    for event in events {
        log.record(event).await.unwrap();
    }
    let written = log.reader().after(0, 1000).await.unwrap();
    log.close().await;
    (folder, written)
}

fn schema(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn expect(format: Format, schema: &Value, events: &[Written]) -> Vec<Value> {
    let mut lines = Vec::new();
    for event in events {
        let native: Value = serde_json::from_str(&event.body).unwrap();
        let line = format.line(event, &native);
        assert!(!line.contains(|one: char| one.is_control() || one == '\u{202e}'), "{line:?}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(faults(schema, &value), Vec::<String>::new(), "{value:#}");
        lines.push(value);
    }
    lines
}

#[tokio::test]
async fn every_event_is_what_its_schema_says_in_every_form() {
    let (_folder, events) = every_kind().await;
    let kinds: BTreeSet<&str> = events.iter().map(|event| &*event.kind).collect();
    let all: BTreeSet<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    let missing: Vec<_> = all.difference(&kinds).filter(|kind| **kind != "checkpoint").collect();
    assert!(missing.is_empty(), "no event of {missing:?}");
    let native = schema(include_str!("../../docs/schema/event-1.json"));
    let named: BTreeSet<&str> =
        native["properties"]["kind"]["enum"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(named, all, "the schema names every kind");
    expect(Format::Native, &native, &events);
    let ocsf = schema(include_str!("../../tests/it/files/schema/ocsf-1.4.json"));
    let ocsf = expect(Format::Ocsf, &ocsf, &events);
    let ecs = schema(include_str!("../../tests/it/files/schema/ecs-8.11.json"));
    let ecs = expect(Format::Ecs, &ecs, &events);
    let of = |all: &[Value], kind: &str, verdict: &str| {
        let place = events.iter().position(|event| {
            event.kind == kind && event.body.contains(&format!("\"verdict\":\"{verdict}\""))
        });
        all[place.unwrap()].clone()
    };
    let denied = of(&ocsf, "decision", "deny");
    assert_eq!((&denied["class_uid"], &denied["type_uid"]), (&json!(6003), &json!(600_302)));
    assert_eq!((&denied["action_id"], &denied["disposition_id"]), (&json!(2), &json!(2)));
    assert_eq!((&denied["status_id"], &denied["status_code"]), (&json!(2), &json!("tag.not_allowed")));
    assert_eq!(denied["src_endpoint"]["ip"], "10.0.0.1");
    assert_eq!(denied["resources"][0]["name"], "docker.io/library/python:3.0");
    let denied = of(&ecs, "decision", "deny");
    assert_eq!(denied["event"]["type"], json!(["access", "denied"]));
    assert_eq!(
        (&denied["event"]["outcome"], &denied["event"]["action"]),
        (&json!("failure"), &json!("pull-deny"))
    );
    assert_eq!(denied["container"]["image"], json!({"name": "docker.io/library/python", "tag": ["3.0"]}));
    assert_eq!(
        (&denied["source"]["ip"], &denied["rule"]["name"]),
        (&json!("10.0.0.1"), &json!("tag.not_allowed"))
    );
    // Policy refused it and its mode let it through: no block, and no plain allow either.
    let observed = ocsf.iter().find(|event| event["unmapped"]["enforced"] == false).unwrap();
    assert_eq!((&observed["action_id"], &observed["disposition_id"]), (&json!(1), &json!(17)));
    for (kind, class) in [("alert", 2004), ("auth", 3002), ("drift", 6003)] {
        let place = events.iter().position(|event| event.kind == kind).unwrap();
        assert_eq!(ocsf[place]["class_uid"], class);
    }
}

#[test]
fn the_check_of_a_schema_can_fail() {
    let native = schema(include_str!("../../docs/schema/event-1.json"));
    let good = json!({"schema": "pullgate.event/1", "seq": 1, "id": Ulid::nil().to_string(), "time": "2026-11-23T08:00:00.000Z", "kind": "alert", "alert": {"rule": "a", "text": "b", "count": 1}});
    assert_eq!(faults(&native, &good), Vec::<String>::new());
    for (place, value) in [
        ("seq", json!(0)),
        ("id", json!("x")),
        ("time", json!("noon")),
        ("kind", json!("drift")),
        ("new", json!(1)),
        ("alert", json!({"rule": "a"})),
    ] {
        let mut bad = good.clone();
        bad[place] = value;
        assert!(!faults(&native, &bad).is_empty(), "{place}");
    }
}

#[tokio::test]
async fn a_file_that_takes_nothing_more_does_not_hold_up_the_stop() {
    use std::io::Read as _;
    let folder = tempfile::tempdir().unwrap();
    let settings = Settings {
        path: folder.path().to_owned(),
        max_size: 64 << 20,
        on_full: OnFull::Serve,
        refusals_per_minute: 60,
    };
    let clock = Clock::manual("2026-11-23T08:00:00Z".parse().unwrap());
    let log = Log::open(settings, clock.clone()).await.unwrap();
    // More than a pipe holds.
    for _ in 0..100 {
        let actor = Actor { name: "root".to_owned(), via: "cli".to_owned() };
        let note = Some("x".repeat(1800));
        log.record(Event::Admin { action: Action::Resolve, actor, subject: None, note }).await.unwrap();
    }
    let path = folder.path().join("pipe");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &path,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
        0,
    )
    .unwrap();
    let sink = super::Settings {
        name: "pipe".to_owned(),
        target: Target::File { path: path.clone(), max_size: 64 << 20, keep: 1 },
        format: Format::Native,
        events: vec![Wanted::All],
        from: Start::Beginning,
    };
    let timing = Timing { write: Duration::from_millis(50), ..Timing::default() };
    let sinks = Sinks::start(vec![sink], folder.path(), &log, &clock, &timing).await.unwrap();
    let begun = tokio::task::spawn_blocking(move || {
        let mut pipe = std::fs::File::open(path).unwrap();
        pipe.read_exact(&mut [0]).unwrap();
        pipe
    });
    // Its first byte came, and nobody reads the rest.
    let mut pipe = begun.await.unwrap();
    let stopped = tokio::time::timeout(Duration::from_secs(20), sinks.stop()).await;
    // The thread that writes ends, or the test would not.
    tokio::task::spawn_blocking(move || pipe.read_to_end(&mut Vec::new()).unwrap()).await.unwrap();
    assert!(stopped.is_ok(), "the stop waits for the file");
    log.close().await;
}
