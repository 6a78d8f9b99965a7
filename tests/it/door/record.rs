//! What is on record, and what is not.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pullgate::clock::Clock;
use pullgate::oci::Digest;
use serde_json::Value;

use super::{POLICY, Pair, image};
use crate::support::gateway::{Form, Site, morning};
use crate::support::image::Index;
use crate::support::registry::Registry;

const APP: &str = "acme/app";
const REFUSED: &str = "/v2/docker.io/acme/app/manifests/latest";

fn decisions(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|event| event["kind"] == "decision").collect()
}

#[tokio::test]
async fn a_pull_is_one_decision_with_tag_digest_and_bytes_together() {
    let pair = Pair::start().await;
    let index = Index::platforms(&["linux/amd64", "linux/arm64"], 1);
    index.push(&pair.hub, APP, "1.0.0");
    pair.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &index).await;
    let site = pair.gateway.stop().await;
    let events = site.events().await;
    let decisions = decisions(&events);
    assert_eq!(decisions.len(), 1, "{decisions:#?}");
    let event = decisions[0];
    assert_eq!((&event["verdict"], &event["enforced"]), (&"allow".into(), &true.into()));
    assert_eq!(event["image"]["tag"], "1.0.0");
    assert_eq!(event["image"]["digest"], index.digest().to_string());
    assert_eq!(event["image"]["reference"], "docker.io/acme/app:1.0.0");
    let manifests: usize =
        [&index].into_iter().chain(&index.children).map(|image| image.manifest.len()).sum();
    let blobs: usize = index.children.iter().flat_map(|child| &child.blobs).map(bytes::Bytes::len).sum();
    assert_eq!(event["bytes"], manifests + blobs, "{event:#}");
    assert_eq!(event["cache"], "miss", "{event:#}");
    assert!(event["client"]["join"].is_string(), "{event:#}");
}

#[tokio::test]
async fn a_decision_on_a_tag_names_the_digests_it_was_and_is_and_what_the_image_says_of_itself() {
    let clock = Clock::manual(morning());
    let policy = POLICY
        .replace("moved = \"keep\"", "moved = \"deny\"")
        .replace("[require.tags]", "[require]\nplatforms = [\"linux/amd64\"]\n\n[require.tags]");
    let (hub, ghcr) = (Registry::plain(), Registry::plain());
    let site = Site::new(&policy).with_clock(&clock).with_upstream("docker.io", &hub);
    let gateway = site.with_upstream("ghcr.io", &ghcr).start().await;
    let (old, new) = (image(1, 100), image(2, 100));
    old.push(&hub, APP, "1.0.0");
    gateway.get("/v2/docker.io/acme/app/manifests/1.0.0").await.expect_bytes(&old.manifest);
    new.push(&hub, APP, "1.0.0");
    clock.advance(Duration::from_secs(3600));
    gateway.get("/v2/docker.io/acme/app/manifests/1.0.0").await.expect_denied("tag.moved");

    let events = gateway.stop().await.events().await;
    let [allowed, refused] = decisions(&events)[..] else { panic!("{events:#?}") };
    let (was, is) = (old.digest().to_string(), new.digest().to_string());
    assert_eq!((&allowed["verdict"], &refused["verdict"]), (&"allow".into(), &"deny".into()));
    let seen = &allowed["image"];
    assert_eq!((&seen["digest"], &seen["previous_digest"]), (&was.as_str().into(), &Value::Null));
    assert_eq!(seen["platform"], "linux/amd64", "{seen:#}");
    assert_eq!(seen["created"], "2026-11-01T00:00:00Z", "{seen:#}");
    assert_eq!(seen["size"], old.manifest.len(), "{seen:#}");
    assert_eq!(allowed["policy"]["state"], Value::Null, "nothing was locked yet: {allowed:#}");
    let seen = &refused["image"];
    assert_eq!((&seen["digest"], &seen["previous_digest"]), (&is.as_str().into(), &was.as_str().into()));
    assert_eq!(refused["policy"]["state"].as_str().map(str::len), Some(64), "{refused:#}");
}

#[tokio::test]
async fn a_refusal_carries_everything_a_reviewer_needs() {
    let clock = Clock::manual(morning());
    let pair = Pair::with(|site| site.with_clock(&clock)).await;
    let answer = pair
        .gateway
        .send("GET", "/v2/acme/app/manifests/1.0?ns=docker.io", &[("user-agent", "containerd/1.7.34")])
        .await;
    let error = answer.expect_denied("tag.not_allowed");
    let blocked = pair.gateway.blocked().await;
    let [event] = &blocked[..] else { panic!("{blocked:#?}") };
    assert_eq!(event["schema"], "pullgate.event/1");
    assert_eq!(event["id"], error["detail"]["id"]);
    assert!(event["seq"].is_u64());
    assert_eq!(event["time"], "2026-11-23T08:00:00.000Z");
    assert_eq!(event["kind"], "decision");
    assert!(event["pull_id"].is_string());
    assert_eq!((&event["verdict"], &event["enforced"]), (&"deny".into(), &true.into()));
    assert_eq!(event["reason"]["code"], "tag.not_allowed");
    assert_eq!(event["reason"]["text"], error["message"], "the sentence the client got");
    assert_eq!(event["reasons"][0]["code"], "tag.not_allowed");
    let policy = &event["policy"];
    assert_eq!((&policy["name"], &policy["revision"]), (&"door".into(), &"1".into()));
    assert_eq!((&policy["source"], &policy["mode"]), (&"acme".into(), &"enforce".into()));
    let digest = Digest::sha256(POLICY.as_bytes());
    assert!(policy["sha256"].as_str().unwrap().ends_with(&digest.hex()), "{policy}");
    let checks = event["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["result"] == "fail").unwrap();
    assert!(check["observed"].as_str().unwrap().contains("1.0"), "{check}");
    assert!(check["expected"].as_str().unwrap().contains("#.#.#"), "{check}");
    let place = check["at"].as_str().unwrap();
    let line: usize = place.strip_prefix("policy.toml:").unwrap().parse().unwrap();
    assert!(POLICY.lines().nth(line - 1).unwrap().starts_with("allow"), "{place}");
    let image = &event["image"];
    assert_eq!(image["reference"], "docker.io/acme/app:1.0");
    assert_eq!(
        (&image["registry"], &image["repository"], &image["tag"]),
        (&"docker.io".into(), &APP.into(), &"1.0".into())
    );
    let client = &event["client"];
    assert_eq!((&client["address"], &client["attribution"]), (&"127.0.0.1".into(), &"none".into()));
    assert_eq!(
        (&client["user_agent"], &client["runtime"]),
        (&"containerd/1.7.34".into(), &"containerd".into())
    );
    let http = &event["http"];
    assert_eq!(
        (&http["method"], &http["ns"], &http["status"]),
        (&"GET".into(), &"docker.io".into(), &403.into())
    );
    assert_eq!(http["path"], "/v2/acme/app/manifests/1.0");
}

#[tokio::test]
async fn equal_refusals_fold_into_one_row_that_counts() {
    let pair = Pair::start().await;
    let mut ids = Vec::new();
    for _ in 0..12 {
        let error = pair.gateway.get(REFUSED).await.expect_denied("tag.denied");
        ids.push(error["detail"]["id"].clone());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1, "every repetition names the row that is on record");
    assert_eq!(pair.gateway.blocked().await.len(), 1);
    let site = pair.gateway.stop().await;
    let events = site.events().await;
    let decisions = decisions(&events);
    assert_eq!(decisions.len(), 1);
    assert_eq!(decisions[0]["count"], 12, "{:#}", decisions[0]);
    assert_eq!(decisions[0]["id"], ids[0]);
}

#[tokio::test]
async fn different_refusals_do_not_fold() {
    let pair = Pair::start().await;
    for path in [REFUSED, "/v2/docker.io/acme/app/manifests/1.0", "/v2/docker.io/acme/other/manifests/latest"]
    {
        pair.gateway.get(path).await;
    }
    pair.gateway.send("GET", REFUSED, &[("user-agent", "another")]).await;
    assert_eq!(pair.gateway.blocked().await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_equal_refusals_at_once_are_one_row() {
    let pair = Pair::start().await;
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let (client, url) = (pair.gateway.h1.clone(), pair.gateway.url(REFUSED));
            tokio::spawn(async move { client.get(url).send().await.unwrap().text().await.unwrap() })
        })
        .collect();
    let mut bodies = Vec::new();
    for client in clients {
        bodies.push(client.await.unwrap());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
    assert_eq!(pair.gateway.blocked().await.len(), 1);
    let site = pair.gateway.stop().await;
    assert_eq!(decisions(&site.events().await)[0]["count"], 40);
}

#[tokio::test]
async fn a_refusal_is_on_record_before_it_is_answered() {
    let pair = Pair::start().await;
    for number in 0..30 {
        let path = format!("/v2/docker.io/acme/app/manifests/bad-{number}");
        let error = pair.gateway.get(&path).await.expect_denied("tag.not_allowed");
        let blocked = pair.gateway.blocked().await;
        assert_eq!(blocked.last().unwrap()["id"], error["detail"]["id"]);
    }
}

#[tokio::test]
async fn a_flood_of_made_up_names_stays_bounded_and_counted() {
    let pair = Pair::with(|site| site.with("limits.refusals", "5/min")).await;
    let flood = 300;
    for number in 0..flood {
        let path = format!("/v2/docker.io/acme/app-{number}/manifests/latest");
        let error = pair.gateway.get(&path).await.expect_denied("tag.denied");
        assert!(error["detail"]["id"].is_string());
    }
    let site = pair.gateway.stop().await;
    let events = site.events().await;
    let rows: Vec<_> = events
        .iter()
        .filter(|event| ["decision", "flood"].contains(&event["kind"].as_str().unwrap()))
        .collect();
    // A minute may turn while the test runs.
    assert!(rows.len() <= 12, "{} rows", rows.len());
    let counted: u64 = rows.iter().map(|event| event["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, flood);
    let flooded = rows.iter().find(|event| event["kind"] == "flood").unwrap();
    let sample = flooded["sample"].as_array().unwrap();
    assert!(!sample.is_empty() && sample.len() <= 32, "{}", sample.len());
    assert_eq!(
        flooded["reason"]["code"].as_str().or(flooded["reason"].as_str()),
        Some("tag.denied"),
        "{flooded:#}"
    );
}

#[tokio::test]
async fn a_flood_of_one_client_does_not_fold_the_refusals_of_another() {
    let pair = Pair::with(|site| {
        site.with("limits.refusals", "5/min").with("listen.trusted_proxies", vec!["127.0.0.0/8"])
    })
    .await;
    for number in 0..50 {
        let path = format!("/v2/docker.io/acme/app-{number}/manifests/latest");
        pair.gateway.send("GET", &path, &[("x-forwarded-for", "10.1.1.1")]).await.expect_denied("tag.denied");
    }
    let answer = pair.gateway.send("GET", REFUSED, &[("x-forwarded-for", "10.2.2.2")]).await;
    let error = answer.expect_denied("tag.denied");
    let blocked = pair.gateway.blocked().await;
    let event = blocked.iter().find(|event| event["id"] == error["detail"]["id"]).unwrap();
    assert_eq!((&event["kind"], &event["client"]["address"]), (&"decision".into(), &"10.2.2.2".into()));
}

fn with_clients(site: Site) -> Site {
    let token = |word: &str| Digest::sha256(word.as_bytes()).hex();
    site.with_client(&format!("name = \"ci\"\ntoken_sha256 = [\"{}\"]", token("hunter2")))
        .with_client("name = \"rack\"\nranges = [\"10.20.0.0/16\"]")
        .with_client("name = \"row\"\nranges = [\"10.20.30.0/24\"]")
        .with("listen.trusted_proxies", vec!["127.0.0.0/8"])
}

type Headers<'a> = &'a [(&'a str, &'a str)];

#[tokio::test]
async fn clients_are_known_by_token_and_by_range() {
    let pair = Pair::with(with_clients).await;
    let rows: [(Headers<'_>, Value, &str); 5] = [
        (&[("authorization", "Bearer hunter2")], "ci".into(), "token"),
        (&[("authorization", "Bearer hunter2"), ("x-forwarded-for", "10.20.30.40")], "ci".into(), "token"),
        (&[("x-forwarded-for", "10.20.1.2")], "rack".into(), "address"),
        (&[("x-forwarded-for", "10.20.30.40")], "row".into(), "address"),
        (&[("authorization", "Basic dXNlcjpwYXNz"), ("x-forwarded-for", "192.0.2.1")], Value::Null, "none"),
    ];
    for (headers, name, attribution) in rows {
        let error = pair.gateway.send("GET", REFUSED, headers).await.expect_denied("tag.denied");
        let blocked = pair.gateway.blocked().await;
        let event = blocked.iter().find(|event| event["id"] == error["detail"]["id"]).unwrap();
        assert_eq!(event["client"]["name"], name, "{headers:?}");
        assert_eq!(event["client"]["attribution"], attribution, "{headers:?}");
    }
}

#[tokio::test]
async fn an_unknown_bearer_token_is_refused_and_foreign_basic_credentials_are_ignored() {
    let pair = Pair::with(with_clients).await;
    let image = image(2, 100);
    image.push(&pair.hub, APP, "1.0.0");
    let path = "/v2/docker.io/acme/app/manifests/1.0.0";
    for token in ["Bearer guess", "Bearer ", "bearer guess"] {
        let answer = pair.gateway.send("GET", path, &[("authorization", token)]).await;
        answer.expect_denied("client.unknown");
        assert!(!answer.has("www-authenticate"));
    }
    assert_eq!(pair.hub.connections(), 0);
    for good in ["Bearer hunter2", "Basic dXNlcjpwYXNz", "Negotiate abc", "nonsense"] {
        pair.gateway.send("GET", path, &[("authorization", good)]).await.expect_bytes(&image.manifest);
    }
}

#[tokio::test]
async fn a_source_may_be_for_some_clients_alone() {
    let policy =
        POLICY.replace("match = \"docker.io/acme/*\"", "match = \"docker.io/acme/*\"\nclients = [\"ci\"]");
    let pair = Pair::with(|site| {
        site.write_policy(&policy);
        with_clients(site)
    })
    .await;
    let image = image(3, 100);
    image.push(&pair.hub, APP, "1.0.0");
    let manifest = "/v2/docker.io/acme/app/manifests/1.0.0".to_owned();
    let config = format!("/v2/docker.io/acme/app/blobs/{}", image.config());
    for path in [&manifest, &config] {
        let ci = [("authorization", "Bearer hunter2")];
        assert_eq!(pair.gateway.send("GET", path, &ci).await.status, 200);
        pair.gateway.get(path).await.expect_denied("client.not_allowed");
        let rack = [("x-forwarded-for", "10.20.1.2")];
        pair.gateway.send("GET", path, &rack).await.expect_denied("client.not_allowed");
    }
    pair.gateway.get("/v2/docker.io/acme/app/tags/list").await.expect_denied("client.not_allowed");
}

#[tokio::test]
async fn forwarded_addresses_count_only_from_trusted_proxies() {
    for (trusted, address) in
        [(vec!["127.0.0.0/8"], "10.1.2.3"), (vec!["192.0.2.0/24"], "127.0.0.1"), (vec![], "127.0.0.1")]
    {
        let pair = Pair::with(|site| site.with("listen.trusted_proxies", trusted)).await;
        pair.gateway.send("GET", REFUSED, &[("x-forwarded-for", "203.0.113.7, 10.1.2.3")]).await;
        let blocked = pair.gateway.blocked().await;
        assert_eq!(blocked[0]["client"]["address"], address, "{:#}", blocked[0]);
    }
}

#[tokio::test]
async fn malformed_names_are_on_record() {
    let pair = Pair::start().await;
    for rest in ["App/manifests/1.0.0", "app/manifests/-x", "app/blobs/sha256:1"] {
        let path = format!("/v2/docker.io/acme/{rest}");
        let answer = pair.gateway.get(&path).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert_eq!(answer.json()["errors"][0]["detail"]["reason"], "name.invalid");
        let blocked = pair.gateway.blocked().await;
        let event = blocked.iter().find(|event| event["http"]["path"] == path.as_str());
        let event = event.unwrap_or_else(|| panic!("{path} is not on record: {blocked:#?}"));
        assert_eq!(event["reason"]["code"], "name.invalid");
        assert_eq!(event["http"]["status"], 400);
    }
}

#[tokio::test]
async fn names_in_conflict_are_on_record() {
    let pair = Pair::start().await;
    let answer = pair.gateway.get("/v2/ghcr.io/acme/app/manifests/1.0.0?ns=docker.io").await;
    let error = answer.expect_error(400, "NAME_INVALID");
    assert_eq!(error["detail"]["reason"], "name.conflict");
    let blocked = pair.gateway.blocked().await;
    assert_eq!(blocked.len(), 1);
    assert_eq!(blocked[0]["reason"]["code"], "name.conflict");
    assert_eq!(blocked[0]["http"]["status"], 400);
}

/// Everything traced while a test runs; the test's runtime has one thread.
#[derive(Clone, Default)]
struct Traced(Arc<Mutex<Vec<u8>>>);

impl Write for Traced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn no_secret_is_ever_written_down() {
    let traced = Traced::default();
    let writer = traced.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let pair = Pair::with(with_clients).await;
    let image = image(4, 1000);
    image.push(&pair.hub, APP, "1.0.0");
    pair.hub.on("GET", "/blobs/").once(crate::support::fault::Fault::status(500));
    let secrets = ["hunter2", "guess-hunter3", "dXNlcjpodW50ZXI0", "hunter5", "hunter6"];
    for authorization in ["Bearer hunter2", "Bearer guess-hunter3", "Basic dXNlcjpodW50ZXI0"] {
        let headers = [("authorization", authorization), ("cookie", "session=hunter5")];
        for path in [
            "/v2/docker.io/acme/app/manifests/1.0.0?token=hunter6".to_owned(),
            format!("{REFUSED}?token=hunter6"),
            format!("/v2/docker.io/acme/app/blobs/{}", image.config()),
            "/v2/docker.io/acme/APP/manifests/1.0.0?token=hunter6".to_owned(),
            "/elsewhere?token=hunter6".to_owned(),
        ] {
            pair.gateway.send("GET", &path, &headers).await;
        }
    }
    let (_, metrics) = pair.gateway.admin("/metrics").await;
    let (_, ready) = pair.gateway.admin("/readyz").await;
    let site = pair.gateway.stop().await;
    let mut written =
        vec![("metrics".to_owned(), metrics.into_bytes()), ("readyz".to_owned(), ready.into_bytes())];
    for path in files(&site.data()) {
        match std::fs::read(&path) {
            Ok(bytes) => written.push((path.display().to_string(), bytes)),
            // SQLite takes its side files away when the last reader closes.
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", path.display()),
        }
    }
    // What the client library traces of itself is not the gateway's doing.
    let lines = traced.0.lock().unwrap().clone();
    let lines = String::from_utf8_lossy(&lines);
    let own: Vec<&str> = lines.lines().filter(|line| line.contains("pullgate")).collect();
    assert!(!own.is_empty(), "the gateway says something");
    written.push(("tracing".to_owned(), own.join("\n").into_bytes()));
    for (place, bytes) in written {
        for secret in secrets {
            let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{secret} is in {place}");
        }
    }
}

#[tokio::test]
async fn cached_pulls_fold_and_count_without_waiting_for_the_disk() {
    let clock = Clock::manual(morning());
    let pair = Pair::with(|site| site.with_clock(&clock)).await;
    let image = image(5, 100);
    image.push(&pair.hub, APP, "1.0.0");
    for _ in 0..50 {
        pair.gateway.get("/v2/docker.io/acme/app/manifests/1.0.0").await.expect_bytes(&image.manifest);
    }
    clock.advance(Duration::from_secs(1));
    let site = pair.gateway.stop().await;
    let events = site.events().await;
    let decisions = decisions(&events);
    assert!(decisions.len() <= 2, "{} rows for one image", decisions.len());
}

#[tokio::test]
async fn what_fails_upstream_is_no_refusal_on_record() {
    let hub = Registry::plain();
    let gateway = Site::new(POLICY).with_upstream("docker.io", &hub).start().await;
    hub.stop().await;
    assert_eq!(gateway.get("/v2/docker.io/acme/app/manifests/1.0.0").await.status, 503);
    assert_eq!(gateway.blocked().await, [Value::Null; 0]);
}

#[tokio::test]
async fn the_start_and_every_change_of_policy_are_on_record() {
    let pair = Pair::start().await;
    let added = "[[source]]\nid = \"more\"\nmatch = \"quay.io/team/*\"\ntags = { allow = [\"#.#\"] }\n";
    let policy = POLICY.replace("revision = \"1\"", "revision = \"2\"");
    pair.gateway.site.write_policy(&format!("{policy}\n{added}"));
    let changed =
        pair.gateway.event(|event| event["kind"] == "policy" && event["policy"]["revision"] == "2").await;
    assert_eq!(changed["previous"]["revision"], "1");
    assert_eq!(
        changed["changes"],
        serde_json::json!(["revision: 1 → 2", "source more added (quay.io/team/*)"])
    );
    let events = pair.gateway.events().await;
    assert_eq!((&events[0]["kind"], &events[0]["policy"]["revision"]), (&"policy".into(), &"1".into()));
}
