//! Alerts at the door: a refusal too many is an event that a sink carries.

use std::path::Path;

use pullgate::clock::Clock;
use serde_json::Value;

use super::POLICY;
use crate::support::gateway::{Gateway, Site, morning, until};
use crate::support::registry::Registry;

const MANY: &str =
    "name = \"many\"\nwhen = \"refusals\"\nreason = \"tag.not_allowed\"\nmore_than = 3\nwithin = \"10m\"";
const STRANGE: &str = "name = \"strange\"\nwhen = \"first_registry\"";

fn alerts(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

async fn refuse(gateway: &Gateway, path: &str) {
    assert_eq!(gateway.get(path).await.status, 403);
}

#[tokio::test]
async fn a_refusal_too_many_is_told_once_over_restarts_and_carried_like_any_event() {
    let hub = Registry::plain();
    let clock = Clock::manual(morning());
    let site = Site::new(POLICY).with_upstream("docker.io", &hub).with_clock(&clock);
    let path = site.path("alerts.ndjson");
    let sink =
        format!("name = \"alerts\"\nkind = \"file\"\npath = \"{}\"\nevents = [\"alert\"]", path.display());
    let site = site.with_sink(sink.parse().unwrap()).with_alert(MANY).with_alert(STRANGE);
    let gateway = site.start().await;
    for number in 0..2 {
        refuse(&gateway, &format!("/v2/docker.io/acme/app/manifests/bad-{number}")).await;
    }
    let gateway = gateway.stop().await.start().await;
    for number in 2..6 {
        refuse(&gateway, &format!("/v2/docker.io/acme/app/manifests/bad-{number}")).await;
    }
    // The record is read in its order: with this one told, all before it were seen.
    refuse(&gateway, "/v2/evil.example/x/y/manifests/1.0").await;
    until("both are told", || async { alerts(&path).len() >= 2 }).await;
    let (_, metrics) = gateway.admin("/metrics").await;
    assert!(metrics.contains("pullgate_alerts_total{when=\"refusals\"} 1\n"), "{metrics}");
    let gateway = gateway.stop().await.start().await;
    refuse(&gateway, "/v2/evil.example/x/z/manifests/1.0").await;
    refuse(&gateway, "/v2/worse.example/x/y/manifests/1.0").await;
    until("the third is told", || async { alerts(&path).len() >= 3 }).await;
    let told = alerts(&path);
    let rules: Vec<&str> = told.iter().map(|alert| alert["alert"]["rule"].as_str().unwrap()).collect();
    assert_eq!(rules, ["many", "strange", "strange"]);
    assert_eq!(told[0]["alert"]["count"], 4);
    assert_eq!(told[1]["subject"]["reference"], "evil.example");
    assert_eq!(told[2]["subject"]["reference"], "worse.example");
    let (_, ready) = gateway.admin("/readyz").await;
    assert!(ready.contains("\"alerts\""), "{ready}");
}
