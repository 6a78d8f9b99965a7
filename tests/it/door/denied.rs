//! An upstream that refuses the gateway: no refusal by policy, yet found by whoever runs the gateway.

use std::time::Duration;

use pullgate::clock::Clock;
use serde_json::Value;

use super::{Pair, image};
use crate::support::fault::Fault;
use crate::support::gateway::{Form, morning};

fn about(events: &[Value], repository: &str) -> usize {
    let of = |event: &&Value| event["kind"] == "upstream" && event["image"]["repository"] == repository;
    events.iter().filter(of).count()
}

#[tokio::test]
async fn what_an_upstream_denies_is_no_blocked_pull_and_is_on_record_once() {
    let pair = Pair::start().await;
    image(1, 100).push(&pair.hub, "acme/app", "1.0.0");
    for status in [401, 403] {
        pair.hub.on("*", "/manifests/").times(6, Fault::status(status));
    }
    let path = |repository: &str| Form::Prefix.path("docker.io", repository, "manifests/1.0.0");
    for _ in 0..3 {
        let answer = pair.gateway.get(&path("acme/app")).await;
        let error = answer.expect_error(403, "DENIED");
        let message = error["message"].as_str().unwrap();
        assert!(message.starts_with("the upstream denied access: localhost"), "{message}");
        assert!(message.contains("[[upstream]]") || message.contains("log in"), "{message}");
        assert!(!message.contains("blocked by policy"), "{message}");
        let head = pair.gateway.head(&path("acme/app")).await;
        assert_eq!(head.status, 403);
        let phrase = head.phrase.expect("old containerds show nothing else");
        assert!(
            phrase.starts_with("the upstream denied access: localhost") && phrase.len() <= 120,
            "{phrase}"
        );
    }
    // The next repository is noticed after the first one: its event stands behind all of those.
    assert_eq!(pair.gateway.get(&path("acme/next")).await.status, 403);
    pair.gateway.event(|event| event["image"]["repository"] == "acme/next").await;
    let events = pair.gateway.events().await;
    assert_eq!(about(&events, "acme/app"), 1, "{events:#?}");
    let event = events.iter().find(|event| event["kind"] == "upstream").unwrap();
    assert_eq!(event["upstream"]["registry"], "docker.io");
    assert_eq!(event["upstream"]["state"], "denied");
    assert!(event["upstream"]["text"].as_str().unwrap().contains("answered 401"), "{event:#}");
    assert_eq!(pair.gateway.blocked().await, [Value::Null; 0]);
    let (_, metrics) = pair.gateway.admin("/metrics").await;
    let denied = metrics.lines().find(|line| {
        line.starts_with("pullgate_upstream_denied_total{") && line.contains("registry=\"docker.io\"")
    });
    let count: u64 = denied.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(count >= 7, "{count}");
}

#[tokio::test]
async fn made_up_names_that_an_upstream_denies_cannot_fill_the_record() {
    let pair = Pair::start().await;
    pair.hub.on("*", "/manifests/").always(Fault::status(401));
    for number in 0..60 {
        let path = format!("/v2/docker.io/acme/made-up-{number}/manifests/1.0.0");
        assert_eq!(pair.gateway.get(&path).await.status, 403);
    }
    // Another registry's stands behind all of docker.io's.
    pair.ghcr.on("*", "/manifests/").always(Fault::status(401));
    pair.gateway.get("/v2/ghcr.io/other/app/manifests/1.0.0").await.expect_error(403, "DENIED");
    pair.gateway.event(|event| event["upstream"]["registry"] == "ghcr.io").await;
    let events = pair.gateway.events().await;
    let of_hub: Vec<_> = events.iter().filter(|event| event["upstream"]["registry"] == "docker.io").collect();
    assert_eq!(of_hub.len(), 17, "{of_hub:#?}");
    assert_eq!(of_hub.iter().filter(|event| event["image"] == Value::Null).count(), 1);
    assert_eq!(pair.gateway.blocked().await, [Value::Null; 0]);
}

#[tokio::test]
async fn a_cached_tag_goes_on_when_its_upstream_denies_and_that_is_on_record() {
    let clock = Clock::manual(morning());
    let pair = Pair::with(|site| site.with_clock(&clock)).await;
    let image = image(2, 100);
    image.push(&pair.hub, "acme/app", "1.0.0");
    let path = "/v2/docker.io/acme/app/manifests/1.0.0";
    pair.gateway.get(path).await.expect_bytes(&image.manifest);
    pair.hub.on("*", "/manifests/").always(Fault::status(403));
    clock.advance(Duration::from_secs(3600));
    pair.gateway.get(path).await.expect_bytes(&image.manifest);
    let event = pair.gateway.event(|event| event["kind"] == "upstream").await;
    assert_eq!((&event["upstream"]["state"], &event["verdict"]), (&"denied".into(), &Value::Null));
}
