//! Ways out of the record: what is on record arrives, in order, whatever befalls the receiver.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pullgate::sink::Timing;
use serde_json::Value;

use super::POLICY;
use crate::support::gateway::{Gateway, Site, until};
use crate::support::process::Process;
use crate::support::registry::Registry;

/// Waits that a test can sit out.
fn quick() -> Timing {
    Timing {
        first: Duration::from_millis(5),
        most: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        linger: Duration::from_millis(20),
        settle: Duration::from_millis(100),
        grace: Duration::from_millis(100),
    }
}

fn site(hub: &Registry) -> Site {
    let mut site = Site::new(POLICY).with_upstream("docker.io", hub).with("limits.refusals", "100000/min");
    site.options.sinks = quick();
    site
}

fn file(path: &Path, more: &str) -> toml::Table {
    format!("name = \"lines\"\nkind = \"file\"\npath = \"{}\"\n{more}", path.display()).parse().unwrap()
}

async fn refuse(gateway: &Gateway, tag: &str) -> String {
    let answer = gateway.get(&format!("/v2/docker.io/acme/app/manifests/{tag}")).await;
    answer.expect_denied("tag.not_allowed")["detail"]["id"].as_str().unwrap().to_owned()
}

/// Every line of these files, one after another, each of which must be whole.
fn lines(paths: &[PathBuf]) -> Vec<Value> {
    let mut events = Vec::new();
    for path in paths {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        assert!(text.is_empty() || text.ends_with('\n'), "half a line at the end of {}", path.display());
        for line in text.lines() {
            assert!(!line.chars().any(char::is_control), "{line:?}");
            events.push(serde_json::from_str(line).unwrap());
        }
    }
    events
}

fn seqs(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["seq"].as_i64().unwrap()).collect()
}

/// Everything came at least once, and the first of each in the order of the record.
fn expect_gapless(events: &[Value]) {
    let mut seen = 0;
    for seq in seqs(events) {
        assert!(seq <= seen + 1, "after {seen} came {seq}");
        seen = seen.max(seq);
    }
}

async fn has(path: &Path, id: &str) {
    let (path, id) = (path.to_owned(), id.to_owned());
    until("the event comes", || {
        let found = |text: String| text.ends_with('\n') && text.contains(&id);
        let found = std::fs::read_to_string(&path).is_ok_and(found);
        async move { found }
    })
    .await;
}

#[tokio::test]
async fn a_refused_pull_is_a_line_in_the_file_as_it_is_on_record() {
    let hub = Registry::plain();
    let site = site(&hub);
    let path = site.path("events.ndjson");
    let gateway = site.with_sink(file(&path, "")).start().await;
    let id = refuse(&gateway, "1.0").await;
    has(&path, &id).await;
    let events = lines(std::slice::from_ref(&path));
    assert_eq!(seqs(&events), (1..=events.len() as i64).collect::<Vec<_>>());
    assert_eq!(events[0]["kind"], "policy", "what the gateway began with came first");
    let event = events.iter().find(|event| event["id"] == *id).unwrap();
    assert_eq!(event["schema"], "pullgate.event/1");
    assert_eq!(event["image"]["reference"], "docker.io/acme/app:1.0");
    let (_, ready) = gateway.admin("/readyz").await;
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let condition =
        ready["conditions"].as_array().unwrap().iter().find(|one| one["name"] == "sink lines").unwrap();
    assert_eq!((&condition["ok"], &condition["required"]), (&true.into(), &false.into()));
    let (_, metrics) = gateway.admin("/metrics").await;
    assert!(metrics.contains("pullgate_sink_delivered_total{kind=\"file\"} "), "{metrics}");
    assert!(metrics.contains("pullgate_sink_lag_events{kind=\"file\"} 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_restart_goes_on_where_the_file_ended_and_a_cut_line_is_mended() {
    let hub = Registry::plain();
    let site = site(&hub);
    let path = site.path("events.ndjson");
    let gateway = site.with_sink(file(&path, "")).start().await;
    let id = refuse(&gateway, "1.0").await;
    has(&path, &id).await;
    let site = gateway.stop().await;
    // As a kill in the middle of a write leaves it.
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("{\"schema\":\"pullgate.ev");
    std::fs::write(&path, text).unwrap();
    let gateway = site.start().await;
    let id = refuse(&gateway, "1.1").await;
    has(&path, &id).await;
    let events = lines(&[path]);
    assert_eq!(seqs(&events), (1..=events.len() as i64).collect::<Vec<_>>(), "none twice, none missing");
}

#[tokio::test]
async fn only_what_is_wanted_is_carried() {
    let hub = Registry::plain();
    let site = site(&hub);
    let (blocked, drift) = (site.path("blocked.ndjson"), site.path("drift.ndjson"));
    let mut second = file(&drift, "events = [\"drift\", \"policy\"]");
    second.insert("name".to_owned(), "others".into());
    let gateway = site.with_sink(file(&blocked, "events = [\"blocked\"]")).with_sink(second).start().await;
    let id = refuse(&gateway, "1.0").await;
    has(&blocked, &id).await;
    has(&drift, "\"kind\":\"policy\"").await;
    let kinds = |path: PathBuf| lines(&[path]).iter().map(|event| event["kind"].clone()).collect::<Vec<_>>();
    assert_eq!(kinds(blocked), ["decision"]);
    assert_eq!(kinds(drift), ["policy"]);
}

#[tokio::test]
async fn a_sink_that_begins_now_leaves_out_what_was_before() {
    let hub = Registry::plain();
    let gateway = site(&hub).start().await;
    let before = refuse(&gateway, "1.0").await;
    let site = gateway.stop().await;
    let path = site.path("events.ndjson");
    let gateway = site.with_sink(file(&path, "from = \"now\"")).start().await;
    let id = refuse(&gateway, "1.1").await;
    has(&path, &id).await;
    assert!(!std::fs::read_to_string(&path).unwrap().contains(&before));
}

#[tokio::test]
async fn a_full_file_is_set_aside_and_no_line_is_lost_on_the_way() {
    let hub = Registry::plain();
    let site = site(&hub);
    let path = site.path("events.ndjson");
    let gateway = site.with_sink(file(&path, "max_size = \"64KiB\"\nkeep = 20")).start().await;
    let mut last = String::new();
    for number in 0..120 {
        last = refuse(&gateway, &format!("tag-{number}-{}", "x".repeat(60))).await;
    }
    let paths: Vec<PathBuf> = (1..=20)
        .rev()
        .map(|number| PathBuf::from(format!("{}.{number}", path.display())))
        .chain([path.clone()])
        .collect();
    has(&path, &last).await;
    assert!(paths[paths.len() - 2].exists(), "it was never set aside");
    for path in paths.iter().filter(|path| path.exists()) {
        assert!(std::fs::metadata(path).unwrap().len() <= 64 << 10, "{}", path.display());
    }
    let events = lines(&paths);
    assert_eq!(seqs(&events), (1..=events.len() as i64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_begun_anew() {
    let hub = Registry::plain();
    let site = site(&hub);
    let (path, moved) = (site.path("events.ndjson"), site.path("events.old"));
    let gateway = site.with_sink(file(&path, "")).start().await;
    let first = refuse(&gateway, "1.0").await;
    has(&path, &first).await;
    std::fs::rename(&path, &moved).unwrap();
    let second = refuse(&gateway, "1.1").await;
    has(&path, &second).await;
    expect_gapless(&lines(&[moved, path]));
}

#[tokio::test]
async fn a_full_disk_of_a_file_delays_nobody_and_loses_nothing() {
    let hub = Registry::plain();
    let site = site(&hub);
    let path = site.path("events.ndjson");
    // Every write to it says that no space is left.
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let gateway = site.with_sink(file(&path, "")).start().await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(refuse(&gateway, &format!("bad-{number}")).await);
    }
    let trouble = || async { gateway.admin("/readyz").await.1.contains("No space left") };
    until("it is told", trouble).await;
    let (status, _) = gateway.admin("/readyz").await;
    assert_eq!(status, 200, "a sink in trouble does not make the gateway unready");
    std::fs::remove_file(&path).unwrap();
    has(&path, ids.last().unwrap()).await;
    let events = lines(std::slice::from_ref(&path));
    assert_eq!(seqs(&events), (1..=events.len() as i64).collect::<Vec<_>>());
    until("it is well again", || async { !gateway.admin("/readyz").await.1.contains("No space left") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kill_leaves_a_gap_or_half_a_line_in_the_file() {
    let hub = Registry::plain();
    let site = site(&hub);
    let path = site.path("events.ndjson");
    let site = site.with_sink(file(&path, ""));
    let mut random = fastrand::Rng::with_seed(4);
    let mut answered = Vec::new();
    for round in 0..6 {
        let process = Process::start(&site).await;
        for number in 0..random.u32(5..60) {
            let url = process.url(&format!("/v2/docker.io/acme/app/manifests/bad-{round}-{number}"));
            let answer = process.client.get(url).send().await.unwrap();
            let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
            answered.push(body["errors"][0]["detail"]["id"].as_str().unwrap().to_owned());
        }
        process.kill().await;
    }
    let process = Process::start(&site).await;
    has(&path, answered.last().unwrap()).await;
    let events = lines(&[path]);
    expect_gapless(&events);
    for id in &answered {
        assert!(events.iter().any(|event| event["id"] == *id), "{id} is missing");
    }
    process.kill().await;
}
