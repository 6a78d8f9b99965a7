use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use ulid::Ulid;

use super::{Alerts, FILE, Settings, When};
use crate::audit::{self, Draft, Event, Http, Image, Judged, Judgement, Log, OnFull, PolicyStamp, Sentence};
use crate::clock::Clock;
use crate::identity::{Attribution, Caller, Class};
use crate::oci::{Ask, Digest, Fault, Reference, What};
use crate::policy::{Code, Reason, Trace, Verdict};

const HOUR: Duration = Duration::from_secs(3600);
const PATIENCE: Duration = Duration::from_secs(20);

struct Place {
    folder: TempDir,
    clock: Clock,
    log: Log,
    ends: u32,
}

fn rule(name: &str, when: When) -> Settings {
    Settings { name: name.to_owned(), when, quiet: HOUR }
}

fn refusals(more_than: u64, client: Option<&str>, registry: Option<&str>) -> When {
    When::Refusals {
        reason: Some(Code::TagNotAllowed),
        client: client.map(str::to_owned),
        registry: registry.map(str::to_owned),
        more_than,
        within: Duration::from_secs(600),
    }
}

impl Place {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual("2026-11-23T08:00:00Z".parse().unwrap());
        let log = open(folder.path(), &clock, 1_000_000).await;
        Self { folder, clock, log, ends: 0 }
    }

    /// The rules, with one more that [`Place::told`] waits for.
    async fn start(&self, mut rules: Vec<Settings>) -> Alerts {
        rules.push(rule("end", When::Upstream));
        Alerts::start(rules, self.folder.path(), &self.log).await.unwrap()
    }

    async fn refuse(&self, reference: &str, code: Code, client: &str) {
        let reference: Reference = reference.parse().unwrap();
        let ask = Ask { name: reference.name.clone(), what: What::Tag(reference.tag.clone().unwrap()) };
        let caller = Caller {
            class: Class::Client(client.into()),
            attribution: Attribution::Address,
            address: "10.0.0.1".parse().unwrap(),
            proxy: None,
            certificate: None,
            user_agent: None,
        };
        let judged = Judged::new(Judgement {
            verdict: Verdict::Deny,
            enforced: true,
            reasons: vec![Reason { code, text: "no".to_owned(), remedy: None }],
            policy: Arc::new(PolicyStamp::default()),
            trace: Arc::new(Trace::default()),
            image: Image::asked(&ask),
            shadow: None,
        });
        let http = Http { method: "GET", path: "/v2/", ns: None, status: Some(403) };
        let say = |_: &Ulid| Sentence { message: String::new(), phrase: String::new() };
        self.log.refused(Draft { caller: &caller, judged: &judged, http }, say).await.unwrap();
    }

    /// The alerts so far, once the rules have seen everything so far.
    async fn told(&mut self) -> Vec<Value> {
        self.log.flush().await.unwrap();
        self.ends += 1;
        let registry = format!("end-{}.example", self.ends);
        let fault = Some(Fault::Unreachable("down".into()));
        let event = Event::Upstream { registry: registry.parse().unwrap(), name: None, digest: None, fault };
        self.log.record(event).await.unwrap();
        let mut follow = self.log.follow(0);
        let mut told = Vec::new();
        let reading = async {
            loop {
                for event in follow.next().await.unwrap().unwrap() {
                    let value: Value = serde_json::from_str(&event.body).unwrap();
                    match value["alert"]["rule"].as_str() {
                        Some("end") if value["subject"]["reference"] == *registry => return,
                        Some("end") | None => {}
                        Some(_) => told.push(value),
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, reading).await.expect("the rules see everything");
        told
    }
}

async fn open(folder: &Path, clock: &Clock, refusals_per_minute: u32) -> Log {
    let settings = audit::Settings {
        path: folder.to_owned(),
        max_size: 64 << 20,
        on_full: OnFull::Serve,
        refusals_per_minute,
    };
    Log::open(settings, clock.clone()).await.unwrap()
}

fn rules(told: &[Value]) -> Vec<&str> {
    told.iter().map(|alert| alert["alert"]["rule"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn each_thing_looked_out_for_calls_once_until_the_quiet_is_over() {
    let mut place = Place::new().await;
    let all = vec![
        rule("moved", When::Drift),
        rule("strange", When::FirstRegistry),
        rule("poison", When::Recalled),
    ];
    let alerts = place.start(all).await;
    let drift = |current| Event::Drift {
        name: "docker.io/library/python".parse().unwrap(),
        tag: "3.11".parse().unwrap(),
        locked: Digest::sha256(b"1"),
        current,
    };
    place.log.record(drift(Some(Digest::sha256(b"2")))).await.unwrap();
    for tag in ["1.0", "1.1"] {
        place.refuse(&format!("evil.example/x/y:{tag}"), Code::SourceUnknown, "ci").await;
    }
    for _ in 0..3 {
        place.refuse("docker.io/library/bad:1", Code::Recall, "ci").await;
    }
    let told = place.told().await;
    assert_eq!(rules(&told), ["moved", "strange", "poison"]);
    assert_eq!(told[0]["subject"]["reference"], "docker.io/library/python:3.11");
    assert_eq!(told[1]["subject"]["reference"], "evil.example");
    assert_eq!(told[2]["subject"]["reason"], "recall");
    assert!(told[2]["alert"]["text"].as_str().unwrap().contains("ci asked for docker.io/library/bad:1"));
    assert!(told[2]["alert"]["of"].is_string());
    // Once the quiet is over the same image calls again; a registry was seen for ever.
    place.clock.advance(HOUR * 2);
    place.refuse("docker.io/library/bad:1", Code::Recall, "ci").await;
    place.refuse("evil.example/x/y:2", Code::SourceUnknown, "ci").await;
    place.log.record(drift(None)).await.unwrap();
    assert_eq!(rules(&place.told().await), ["moved", "strange", "poison", "poison", "moved"]);
    alerts.stop().await;
    place.log.close().await;
}

#[tokio::test]
async fn refusals_are_counted_with_their_repeats_and_by_what_the_rule_names() {
    let mut place = Place::new().await;
    let all = vec![
        rule("many", refusals(5, None, None)),
        rule("ours", refusals(5, Some("c*"), Some("docker.io"))),
        rule("theirs", refusals(5, Some("other"), None)),
    ];
    let alerts = place.start(all).await;
    for _ in 0..6 {
        place.refuse("docker.io/library/python:latest", Code::TagNotAllowed, "ci").await;
    }
    place.refuse("docker.io/library/python:latest", Code::TagDenied, "other").await;
    let told = place.told().await;
    assert_eq!(rules(&told), ["many", "ours"]);
    assert_eq!(told[0]["alert"]["count"], 6, "{told:#?}");
    // What is older than the window does not count any more.
    place.clock.advance(HOUR * 2);
    place.refuse("docker.io/library/python:3", Code::TagNotAllowed, "ci").await;
    assert_eq!(place.told().await.len(), 2);
    alerts.stop().await;
    place.log.close().await;
}

#[tokio::test]
async fn a_flood_counts_for_as_many_as_it_stands_for() {
    let mut place = Place::new().await;
    place.log.close().await;
    place.log = open(place.folder.path(), &place.clock, 2).await;
    let alerts = place.start(vec![rule("many", refusals(50, None, None))]).await;
    for number in 0..60 {
        place.refuse(&format!("docker.io/library/python:{number}"), Code::TagNotAllowed, "ci").await;
    }
    place.clock.advance(Duration::from_secs(61));
    let told = place.told().await;
    assert_eq!(rules(&told), ["many"]);
    assert_eq!(told[0]["alert"]["count"], 60);
    alerts.stop().await;
    place.log.close().await;
}

#[tokio::test]
async fn neither_a_restart_nor_a_crash_repeats_an_alert_or_loses_one() {
    let mut place = Place::new().await;
    let all = || vec![rule("many", refusals(3, None, None))];
    let alerts = place.start(all()).await;
    for number in 0..2 {
        place.refuse(&format!("docker.io/library/python:{number}"), Code::TagNotAllowed, "ci").await;
    }
    assert!(place.told().await.is_empty());
    alerts.stop().await;
    let before = std::fs::read(place.folder.path().join(FILE)).unwrap();
    // While nobody looked.
    for number in 2..5 {
        place.refuse(&format!("docker.io/library/python:{number}"), Code::TagNotAllowed, "ci").await;
    }
    let alerts = place.start(all()).await;
    let told = place.told().await;
    assert_eq!(rules(&told), ["many"]);
    assert_eq!(told[0]["alert"]["count"], 4);
    alerts.stop().await;
    // As a kill between recording an alert and saving what was counted leaves it.
    std::fs::write(place.folder.path().join(FILE), before).unwrap();
    let alerts = place.start(all()).await;
    assert_eq!(place.told().await, told);
    alerts.stop().await;
    // And with nothing left of it: what was before is not told again.
    std::fs::remove_file(place.folder.path().join(FILE)).unwrap();
    let alerts = place.start(all()).await;
    assert_eq!(place.told().await, told);
    alerts.stop().await;
    place.log.close().await;
}

#[tokio::test]
async fn made_up_names_make_neither_a_thousand_alerts_nor_a_large_file() {
    let mut place = Place::new().await;
    let alerts = place.start(vec![rule("strange", When::FirstRegistry)]).await;
    for number in 0..500 {
        let reference = format!("made-up-{number}.example/x/y:1");
        place.refuse(&reference, Code::SourceUnknown, "ci").await;
    }
    let told = place.told().await;
    assert_eq!(told.len(), 31);
    assert!(told[30]["alert"]["text"].as_str().unwrap().contains("more than 30 different subjects"));
    let size = std::fs::metadata(place.folder.path().join(FILE)).unwrap().len();
    assert!(size < 16 << 10, "{size}");
    // The next hour is a new one, and what was not told was not seen.
    place.clock.advance(HOUR);
    place.refuse("made-up-400.example/x/y:2", Code::SourceUnknown, "ci").await;
    assert_eq!(place.told().await.len(), 32);
    alerts.stop().await;
    place.log.close().await;
}
