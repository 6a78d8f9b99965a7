//! What `deploy/monitoring` asks for exists, and Prometheus understands it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::clients::process::{Scratch, installed, run};
use crate::door::{POLICY, Pair};
use crate::support::gateway::until;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/monitoring")
}

fn read(name: &str) -> String {
    std::fs::read_to_string(folder().join(name)).unwrap()
}

/// Every name in a text that begins as our metrics do, with the labels that follow it in braces.
fn metrics(text: &str) -> Vec<(String, Vec<String>)> {
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut found = Vec::new();
    for rest in text.split("pullgate_").skip(1) {
        let (name, rest) = rest.split_at(rest.find(|character| !is_word(character)).unwrap_or(rest.len()));
        let labels = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let labels = labels.map_or_else(Vec::new, |(labels, _)| {
            labels.split(',').map(|label| label.chars().take_while(|c| is_word(*c)).collect()).collect()
        });
        found.push((format!("pullgate_{name}"), labels));
    }
    found
}

/// The metrics that docs/operations.md lists, each with its labels.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `pullgate_"));
    let cells: Vec<&str> = rows.filter_map(|line| line.split(" | ").next()).collect();
    metrics(&cells.join("\n"))
        .into_iter()
        .map(|(name, labels)| (name, labels.into_iter().collect()))
        .collect()
}

/// The queries of the dashboard, its variables replaced.
fn queries() -> Vec<String> {
    fn collect(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
            Value::Object(map) => {
                found.extend(map.get("expr").and_then(Value::as_str).map(ToOwned::to_owned));
                map.values().for_each(|item| collect(item, found));
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    collect(&serde_json::from_str(&read("grafana.json")).unwrap(), &mut found);
    assert!(found.len() > 20, "the dashboard was not read: {}", found.len());
    found
        .iter()
        .map(|query| {
            query.replace("$__rate_interval", "5m").replace("$__range", "1h").replace("$instance", ".*")
        })
        .collect()
}

#[tokio::test]
async fn the_documented_metrics_are_those_that_a_gateway_shows() {
    let alert = "name = \"strange\"\nwhen = \"first_registry\"";
    let pair = Pair::with(|site| site.with_alert(alert)).await;
    // Families with labels show themselves from their first value on.
    pair.gateway.get("/v2/docker.io/acme/app/manifests/latest").await.expect_denied("tag.denied");
    pair.gateway.get("/v2/evil.example/x/y/manifests/1.0").await.expect_denied("source.unknown");
    pair.gateway.site.write_policy(&POLICY.replace("revision = \"1\"", "revision = \"2\""));
    let metrics = async || pair.gateway.admin("/metrics").await.1;
    until("the policy is read again", async || metrics().await.contains("result=\"adopted\"")).await;
    until("the alert is told", async || metrics().await.contains("pullgate_alerts_total{")).await;
    let shown = metrics().await;
    let mut names = BTreeSet::new();
    for line in shown.lines() {
        if let Some(line) = line.strip_prefix("# TYPE ") {
            let (name, kind) = line.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            names.insert(format!("{name}{suffix}"));
        }
    }
    let documented: BTreeSet<String> = documented().into_keys().collect();
    assert_eq!(names, documented);
}

#[test]
fn dashboard_and_alerts_ask_for_metrics_and_labels_that_exist() {
    let known = documented();
    // Prometheus adds it to everything it scrapes.
    let given = "instance".to_owned();
    let mut asked = metrics(&queries().join("\n"));
    asked.extend(metrics(&read("alerts.yml")));
    asked.extend(metrics(&read("alerts.test.yml")));
    for (name, labels) in asked {
        let Some(of) = known.get(&name) else { panic!("{name} is not a metric of docs/operations.md") };
        for label in labels {
            assert!(of.contains(&label) || label == given, "{name} has no label {label}, only {of:?}");
        }
    }
}

#[test]
fn prometheus_accepts_the_alerts_and_every_query_of_the_dashboard() {
    if !installed(&["promtool"]) {
        return;
    }
    let limit = Duration::from_secs(60);
    run(Command::new("promtool").args(["check", "rules", "alerts.yml"]).current_dir(folder()), limit)
        .or_fail("checking the alerts");
    run(Command::new("promtool").args(["test", "rules", "alerts.test.yml"]).current_dir(folder()), limit)
        .or_fail("trying the alerts");
    // As rules, for promtool checks no other form of query.
    let rules: Vec<Value> = queries()
        .iter()
        .enumerate()
        .map(|(number, query)| serde_json::json!({ "record": format!("query_{number}"), "expr": query }))
        .collect();
    let scratch = Scratch::new();
    let file = scratch.path().join("queries.yml");
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    std::fs::write(&file, groups.to_string()).unwrap();
    run(Command::new("promtool").args(["check", "rules"]).arg(&file), limit)
        .or_fail("checking the dashboard's queries");
}
