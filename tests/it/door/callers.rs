//! Who asks, how often, and what a policy that is only tried says of it.

use std::time::Duration;

use pullgate::clock::Clock;
use pullgate::oci::Digest;
use serde_json::Value;

use super::{POLICY, image};
use crate::support::gateway::{Answer, Form, Gateway, Site, morning, replace, until};
use crate::support::registry::Registry;

const APP: &str = "acme/app";

fn path(rest: &str) -> String {
    Form::Prefix.path("docker.io", APP, rest)
}

fn hash(token: &str) -> String {
    Digest::sha256(token.as_bytes()).hex()
}

/// A gateway whose clients may ask three times a minute, and ci six times.
async fn limited(hub: &Registry, clock: &Clock) -> Gateway {
    let ci = format!("name = \"ci\"\ntoken_sha256 = [\"{}\"]\nrate = \"6/min\"\n", hash("t-ci"));
    let site = Site::new(POLICY).with_upstream("docker.io", hub).with_clock(clock);
    site.with("limits.requests", "3/min").with_client(&ci).start().await
}

fn expect_too_often(answer: &Answer) -> u64 {
    let error = answer.expect_error(429, "TOOMANYREQUESTS");
    assert_eq!(error["detail"]["reason"], "client.rate");
    assert!(error["message"].as_str().unwrap().starts_with("blocked by policy "), "{error}");
    answer.header("retry-after").parse().unwrap()
}

#[tokio::test]
async fn a_client_that_asks_too_often_is_told_when_to_come_again_and_folds_in_the_record() {
    let (hub, clock) = (Registry::plain(), Clock::manual(morning()));
    let app = image(1, 100);
    app.push(&hub, APP, "1.0.0");
    let gateway = limited(&hub, &clock).await;
    let ask = path("manifests/1.0.0");
    for _ in 0..3 {
        gateway.get(&ask).await.expect_bytes(&app.manifest);
    }
    for _ in 0..5 {
        assert_eq!(expect_too_often(&gateway.get(&ask).await), 20);
    }
    assert_eq!(gateway.head(&ask).await.status, 429);
    let blocked = gateway.blocked().await;
    assert_eq!(blocked.len(), 1, "{blocked:#?}");
    assert_eq!(
        (&blocked[0]["reason"]["code"], &blocked[0]["http"]["status"]),
        (&"client.rate".into(), &429.into())
    );
    // By its token another one, with a rate of its own.
    for _ in 0..6 {
        let answer = gateway.send("GET", &ask, &[("authorization", "Bearer t-ci")]).await;
        answer.expect_bytes(&app.manifest);
    }
    expect_too_often(&gateway.send("GET", &ask, &[("authorization", "Bearer t-ci")]).await);
    clock.advance(Duration::from_secs(20));
    gateway.get(&ask).await.expect_bytes(&app.manifest);
    expect_too_often(&gateway.get(&ask).await);
    assert_eq!(hub.hits("GET", "/manifests/"), 1);
}

#[tokio::test]
async fn a_source_serves_its_clients_alone_and_a_token_of_nobody_gets_nothing() {
    let hub = Registry::plain();
    let app = image(2, 100);
    app.push(&hub, APP, "1.0.0");
    let policy =
        POLICY.replace("match = \"docker.io/acme/*\"", "match = \"docker.io/acme/*\"\nclients = [\"ci\"]");
    let ci = format!("name = \"ci\"\ntoken_sha256 = [\"{}\"]\n", hash("t-ci"));
    let gateway = Site::new(&policy).with_upstream("docker.io", &hub).with_client(&ci).start().await;
    let ask = path("manifests/1.0.0");
    let with = async |header: &str| gateway.send("GET", &ask, &[("authorization", header)]).await;
    with("Bearer t-ci").await.expect_bytes(&app.manifest);
    gateway.get(&ask).await.expect_denied("client.not_allowed");
    with("Basic dXNlcjpwYXNz").await.expect_denied("client.not_allowed");
    with("Bearer wrong").await.expect_denied("client.unknown");
    let rows = gateway.blocked().await;
    assert!(!format!("{rows:?}").contains("wrong"), "no token is on record");
    let blob = path(&format!("blobs/{}", Digest::sha256(app.layer(0))));
    gateway.get(&blob).await.expect_denied("client.not_allowed");
}

#[tokio::test]
async fn a_shadow_policy_is_judged_on_live_traffic_and_decides_nothing() {
    let hub = Registry::plain();
    let (app, root) = (image(3, 100), crate::support::image::Image::new("linux/amd64").user("0").build());
    app.push(&hub, APP, "1.0.0");
    root.push(&hub, APP, "1.0.1");
    let stricter = POLICY
        .replace("revision = \"1\"", "revision = \"next\"")
        .replace("match = \"docker.io/acme/*\"", "match = \"docker.io/acme/*\"\nuser = { min_uid = 10001 }");
    let looser = stricter.replace("deny  = [\"latest\"]", "").replace("[\"#.#.#\"]", "[\"*\"]");
    let mut site = Site::new(POLICY).with_upstream("docker.io", &hub);
    let file = site.path("next.toml");
    std::fs::write(&file, &looser).unwrap();
    site.set("policy.shadow", file.display().to_string());
    let gateway = site.start().await;
    let shadow_of = async |reference: &str| {
        let wanted = format!("docker.io/{APP}:{reference}");
        gateway.event(|event| event["image"]["reference"] == wanted.as_str()).await["shadow"].clone()
    };
    gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&app.manifest);
    assert_eq!(shadow_of("1.0.0").await, serde_json::json!({"revision": "next", "verdict": "allow"}));
    gateway.get(&path("manifests/1.0.1")).await.expect_bytes(&root.manifest);
    let expected = serde_json::json!({"revision": "next", "verdict": "deny", "code": "user.min_uid"});
    assert_eq!(shadow_of("1.0.1").await, expected);
    // What is refused is not asked about for the shadow's sake.
    let hits = hub.hits("*", "");
    gateway.get(&path("manifests/latest")).await.expect_denied("tag.denied");
    assert_eq!(shadow_of("latest").await, serde_json::json!({"revision": "next", "verdict": "unknown"}));
    assert_eq!(hub.hits("*", ""), hits);
    // A shadow that cannot be read is none, and nothing else happens.
    replace(&file, "nonsense");
    until("the shadow is gone", async || {
        gateway.get(&path("manifests/1.0.2-x")).await.expect_denied("tag.not_allowed");
        let last: Option<Value> = gateway.blocked().await.into_iter().rfind(|event| {
            event["image"]["reference"] == format!("docker.io/{APP}:1.0.2-x").as_str()
                && event["shadow"].is_null()
        });
        last.is_some()
    })
    .await;
    assert_eq!(gateway.admin("/readyz").await.0, 200);
    gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&app.manifest);
}
