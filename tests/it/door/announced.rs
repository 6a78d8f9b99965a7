//! Exceptions and recalls on record by themselves: that they came, changed, were used, ran out and went.

use std::time::Duration;

use pullgate::clock::Clock;
use serde_json::{Value, json};

use super::pins::pullgate;
use super::{POLICY, Pair, image};
use crate::support::gateway::{Form, Gateway, morning};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn recall(reason: &str) -> String {
    format!(
        "[[recall]]\nid = \"RC-1\"\nreason = \"{reason}\"\nimages = [\"docker.io/acme/old\"]\n\
        replace = \"docker.io/acme/new:1.0.0\"\n"
    )
}

fn exception(id: &str, image: &str, expires: &str) -> String {
    format!(
        "[[exception]]\nid = \"{id}\"\nimage = \"{image}\"\nwaive = [\"tag\"]\nreason = \"r\"\nticket = \"T-1\"\n\
        requested_by = \"a@example.com\"\napproved_by = \"b@example.com\"\napproved = 2026-11-01\nexpires = {expires}\n"
    )
}

fn policy(revision: &str, tables: &str) -> String {
    format!("{}{tables}", POLICY.replace("revision = \"1\"", &format!("revision = \"{revision}\"")))
}

async fn start(policy: &str, clock: &Clock) -> Pair {
    Pair::with(|site| {
        site.write_policy(policy);
        site.with_clock(clock)
    })
    .await
}

/// What is on record of these kinds: which, and what happened to it.
async fn told(gateway: &Gateway, kind: &str) -> Vec<Value> {
    gateway.events().await.into_iter().filter(|event| event["kind"] == kind).collect()
}

fn results(events: &[Value], kind: &str) -> Vec<String> {
    let text = |event: &Value, key: &str| event[kind][key].as_str().unwrap().to_owned();
    events.iter().map(|event| format!("{} {}", text(event, "id"), text(event, "result"))).collect()
}

#[tokio::test]
async fn recalls_and_exceptions_are_told_when_they_come_change_and_go_and_a_restart_tells_nothing_again() {
    let clock = Clock::manual(morning());
    let tables = recall("CVE-1") + &exception("EX-1", "docker.io/acme/app:latest", "2026-12-01");
    let pair = start(&policy("1", &tables), &clock).await.restart().await;
    let gateway = &pair.gateway;
    let recalls = told(gateway, "recall").await;
    assert_eq!(results(&recalls, "recall"), ["RC-1 created"]);
    let names = json!(["docker.io/acme/old"]);
    let recalled = &recalls[0]["recall"];
    assert_eq!((&recalled["reason"], &recalled["names"]), (&json!("CVE-1"), &names));
    assert_eq!(recalled["replace"], "docker.io/acme/new:1.0.0");
    let exceptions = told(gateway, "exception").await;
    assert_eq!(results(&exceptions, "exception"), ["EX-1 created"]);
    let excepted = &exceptions[0]["exception"];
    assert_eq!((&excepted["waive"], &excepted["expires"]), (&json!(["tag"]), &json!("2026-12-01")));
    assert_eq!(exceptions[0]["image"]["reference"], "docker.io/acme/app:latest");

    gateway.site.write_policy(&policy("2", &recall("CVE-1 and CVE-2")));
    gateway.event(|event| event["exception"]["result"] == "removed").await;
    gateway.site.write_policy(&policy("3", ""));
    gateway.event(|event| event["recall"]["result"] == "removed").await;
    let recalls = told(gateway, "recall").await;
    assert_eq!(results(&recalls, "recall"), ["RC-1 created", "RC-1 changed", "RC-1 removed"]);
    let reasons: Vec<&Value> = recalls.iter().map(|event| &event["recall"]["reason"]).collect();
    assert_eq!(reasons, ["CVE-1", "CVE-1 and CVE-2", "CVE-1 and CVE-2"]);
    let exceptions = told(gateway, "exception").await;
    assert_eq!(results(&exceptions, "exception"), ["EX-1 created", "EX-1 removed"]);
    assert_eq!(exceptions[1]["image"], exceptions[0]["image"]);

    let config = gateway.site.path("pullgate.toml");
    let shown = pullgate(&config, &["log", "--json"]).await.ended(0).json();
    for (kind, count) in [("recall", 3), ("exception", 2)] {
        assert_eq!(shown.iter().filter(|event| event["kind"] == kind).count(), count, "{kind}");
    }
}

#[tokio::test]
async fn that_an_exception_ran_out_is_told_once() {
    let clock = Clock::manual(morning());
    let tables = exception("EX-1", "docker.io/acme/app:latest", "2026-11-23")
        + &exception("EX-2", "docker.io/acme/app:stable", "2026-11-25");
    let pair = start(&policy("1", &tables), &clock).await;
    clock.advance(DAY);
    let over = pair.gateway.event(|event| event["exception"]["result"] == "expired").await;
    assert_eq!(
        (&over["exception"]["id"], &over["exception"]["expires"]),
        (&json!("EX-1"), &json!("2026-11-23"))
    );
    let pair = pair.restart().await;
    clock.advance(2 * DAY);
    pair.gateway
        .event(|event| event["exception"]["result"] == "expired" && event["exception"]["id"] == "EX-2")
        .await;
    let exceptions = told(&pair.gateway, "exception").await;
    let expected = ["EX-1 created", "EX-2 created", "EX-1 expired", "EX-2 expired"];
    assert_eq!(results(&exceptions, "exception"), expected);
}

#[tokio::test]
async fn the_first_use_of_an_exception_on_each_day_is_told_with_the_decision_and_whether_it_was_needed() {
    let clock = Clock::manual(morning());
    let tables = exception("EX-1", "docker.io/acme/app:latest", "2026-12-01")
        + &exception("EX-2", "docker.io/acme/app:1.0.0", "2026-12-01");
    let pair = start(&policy("1", &tables), &clock).await;
    let (gateway, latest, fixed) = (&pair.gateway, image(1, 100), image(2, 100));
    latest.push(&pair.hub, "acme/app", "latest");
    fixed.push(&pair.hub, "acme/app", "1.0.0");
    let pull = async || {
        for (tag, image) in [("latest", &latest), ("1.0.0", &fixed), ("latest", &latest)] {
            gateway.pull(Form::Prefix, "docker.io", "acme/app", tag, image).await;
        }
        gateway.running.flush_log().await.unwrap();
    };
    pull().await;
    pull().await;
    let uses = async || {
        let mut exceptions = told(gateway, "exception").await;
        exceptions.retain(|event| event["exception"]["result"] == "used");
        exceptions
    };
    let first = uses().await;
    let needed: Vec<(&Value, &Value)> =
        first.iter().map(|event| (&event["exception"]["id"], &event["exception"]["needed"])).collect();
    assert_eq!(needed, [(&json!("EX-1"), &json!(true)), (&json!("EX-2"), &json!(false))]);
    let decision = gateway.event(|event| event["id"] == first[0]["exception"]["of"]).await;
    assert_eq!((&decision["kind"], &decision["image"]["tag"]), (&json!("decision"), &json!("latest")));
    assert_eq!(decision["image"]["digest"], latest.digest().to_string());
    clock.advance(DAY);
    pull().await;
    let all = uses().await;
    assert_eq!(all.len(), 4, "{all:#?}");
}
