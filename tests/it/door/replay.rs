//! What was recorded, judged by another policy with what the gateway's catalog holds of the images.

use std::collections::BTreeSet;
use std::process::Command;

use jiff::{Timestamp, ToSpan as _};
use pullgate::catalog::Catalog;
use pullgate::clock::Clock;
use pullgate::oci::Digest;
use serde_json::{Value, json};

use crate::support::gateway::{Form, Gateway, Site, until};
use crate::support::image::{Fixture, Image, Index, random_bytes};
use crate::support::registry::Registry;

const APP: &str = "acme/app";

/// What the gateway runs by, as the shipped policy does: platforms are required.
fn policy(keys: &str, tables: &str) -> String {
    format!(
        "name = \"replay\"\nrevision = \"1\"\n[require]\nplatforms = [\"linux/amd64\", \"linux/arm64\"]\n\
        [require.tags]\nallow = [\"#.#.#\"]\n[[source]]\nid = \"all\"\nmatch = \"docker.io/**\"\n{keys}\n{tables}\n"
    )
}

/// An index that everybody accepts, but for its user, its age and its first layer.
fn image(seed: u64, user: &str, created: Timestamp) -> Fixture {
    let one = |target: &str, seed| {
        let image = Image::new(target).created(&created.to_string()).user(user);
        image.layer(random_bytes(seed, 2000)).build()
    };
    Index::of([one("linux/amd64", seed), one("linux/arm64", seed + 1)])
}

struct Bench {
    gateway: Gateway,
    /// The digest of a layer of 1.0.3.
    layer: Digest,
}

impl Bench {
    /// A gateway that runs, and served four images: one of them as root, one of 2001; `ci` pulled 1.0.1
    /// too. It refused a tag and an image for Windows.
    async fn start() -> Self {
        let hub = Registry::plain();
        let now = Clock::system().now() - 1.hour();
        let old = "2001-02-03T00:00:00Z".parse().unwrap();
        let images = [
            ("1.0.0", image(10, "10001", now)),
            ("1.0.1", image(20, "0", now)),
            ("1.0.2", image(30, "10001", old)),
            ("1.0.3", image(40, "10001", now)),
        ];
        let token = Digest::sha256(b"t-ci").hex();
        let client = format!("name = \"ci\"\ntoken_sha256 = [\"{token}\"]\n");
        let site = Site::new(&policy("", "")).with_upstream("docker.io", &hub).with_client(&client);
        let gateway = site.start().await;
        for (tag, image) in &images {
            image.push(&hub, APP, *tag);
            gateway.pull(Form::Prefix, "docker.io", APP, tag, image).await;
        }
        let path = Form::Prefix.path("docker.io", APP, "manifests/1.0.1");
        let answer = gateway.send("GET", &path, &[("authorization", "Bearer t-ci")]).await;
        answer.expect_bytes(&images[1].1.manifest);
        Image::new("windows/amd64").layer(random_bytes(50, 100)).build().push(&hub, APP, "1.0.4");
        for (tag, code) in [("latest", "tag.not_allowed"), ("1.0.4", "platform.not_allowed")] {
            let path = Form::Prefix.path("docker.io", APP, &format!("manifests/{tag}"));
            gateway.get(&path).await.expect_denied(code);
        }
        let layer = Digest::sha256(images[3].1.children[0].layer(0));
        Self { gateway, layer }
    }

    async fn replay(&self, policy: &str) -> (Value, i32) {
        replay(&self.gateway.site, policy).await
    }
}

/// What the command says, and how it ends.
async fn replay(site: &Site, policy: &str) -> (Value, i32) {
    let file = site.path("next.toml");
    std::fs::write(&file, policy).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pullgate"));
    command.args(["policy", "replay", "--json", "--policy"]).arg(file).arg("--config").arg(site.write());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = serde_json::from_str(&said)
        .unwrap_or_else(|_| panic!("{said}\n{}", String::from_utf8_lossy(&output.stderr)));
    (value, output.status.code().unwrap())
}

/// The tags of a list, and the codes of its reasons.
fn told(list: &Value) -> (BTreeSet<&str>, BTreeSet<&str>) {
    let list = list.as_array().unwrap();
    let reasons = list.iter().flat_map(|one| one["new"]["reasons"].as_array().unwrap());
    let codes = reasons.map(|reason| reason["code"].as_str().unwrap()).collect();
    let tagged = list.iter().filter_map(|one| one["reference"].as_str().unwrap().split_once("app:"));
    (tagged.map(|(_, tag)| tag).collect(), codes)
}

#[tokio::test]
async fn the_policy_in_force_changes_nothing_and_leaves_nothing_open() {
    let bench = Bench::start().await;
    let (said, exit) = bench.replay(&policy("", "")).await;
    assert_eq!((&said["refused"], &said["allowed"], &said["altered"]), (&json!([]), &json!([]), &json!([])));
    assert_eq!((&said["unjudged"], exit), (&json!({}), 0), "{said}");
    assert_eq!(said["unchanged"], said["all"]);
    assert!(said["all"]["references"].as_u64().unwrap() >= 6, "{said}");
}

#[tokio::test]
async fn exactly_the_pulls_that_a_stricter_policy_refuses_are_found_with_counts_and_clients() {
    let bench = Bench::start().await;
    let recall = format!("[[recall]]\nid = \"RC\"\nreason = \"bad\"\nlayers = [\"{}\"]\n", bench.layer);
    let stricter = [
        (policy("user = { min_uid = 10001 }", ""), "1.0.1", "user.min_uid"),
        (policy("age = { max = \"3650d\", clock = [\"config\"] }", ""), "1.0.2", "age"),
        (policy("", &recall), "1.0.3", "recall"),
    ];
    for (policy, tag, code) in stricter {
        let (said, exit) = bench.replay(&policy).await;
        assert_eq!(told(&said["refused"]), (BTreeSet::from([tag]), BTreeSet::from([code])), "{said:#}");
        assert_eq!((&said["unjudged"], &said["allowed"], exit), (&json!({}), &json!([]), 1), "{said:#}");
    }
    let (said, _) = bench.replay(&policy("user = { min_uid = 10001 }", "")).await;
    let refused = said["refused"].as_array().unwrap();
    let by_ci = refused.iter().find(|one| one["clients"] == json!(["ci"])).unwrap();
    assert_eq!((&by_ci["reference"], &by_ci["pulls"]), (&json!("docker.io/acme/app:1.0.1"), &json!(1)));
    assert_eq!((by_ci["old"]["verdict"].as_str(), refused.len()), (Some("allow"), 2), "{said:#}");
}

#[tokio::test]
async fn what_was_refused_for_its_content_is_found_to_be_allowed() {
    let bench = Bench::start().await;
    let wider = policy("platforms = [\"linux/amd64\", \"windows/amd64\"]", "");
    let (said, exit) = bench.replay(&wider).await;
    assert_eq!(told(&said["allowed"]).0, BTreeSet::from(["1.0.4"]), "{said:#}");
    assert_eq!(said["allowed"][0]["new"]["needs"], json!([]));
    assert_eq!((&said["refused"], exit), (&json!([]), 0), "{said:#}");
}

#[tokio::test]
async fn facts_that_the_catalog_does_not_hold_are_named_and_no_pull_is_called_refused_for_them() {
    let bench = Bench::start().await;
    let site = bench.gateway.stop().await;
    // Nobody ever asked for this tag: what it leads to is not known here.
    let unknown = "[[recall]]\nid = \"RC\"\nreason = \"bad\"\nimages = [\"docker.io/acme/app:9.9.9\"]\n";
    let (said, exit) = replay(&site, &policy("", unknown)).await;
    let open: Vec<_> = said["unjudged"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!((open, &said["refused"], exit), (vec!["recall"], &json!([]), 0), "{said:#}");
    for file in ["catalog.db", "catalog.db-wal", "catalog.db-shm"] {
        let _ = std::fs::remove_file(site.data().join(file));
    }
    let (said, exit) = replay(&site, &policy("user = { min_uid = 10001 }", "")).await;
    let open = &said["unjudged"];
    assert_eq!(open["platform"]["pulls"], 5, "{said:#}");
    assert_eq!((&said["refused"], exit), (&json!([]), 0), "{said:#}");
}

/// A policy that asks nothing of contents.
fn undemanding(keys: &str) -> String {
    format!(
        "name = \"replay\"\nrevision = \"1\"\n[require.tags]\nallow = [\"#.#.#\"]\n\
        [[source]]\nid = \"all\"\nmatch = \"docker.io/**\"\n{keys}\n"
    )
}

/// A gateway that asked nothing of contents and served one image of root and one of 10001.
async fn undemanded() -> (Gateway, Registry, [Fixture; 2]) {
    let hub = Registry::plain();
    let gateway = Site::new(&undemanding("")).with_upstream("docker.io", &hub).start().await;
    let now = Clock::system().now() - 1.hour();
    let images = [image(60, "10001", now), image(70, "0", now)];
    for (tag, image) in ["1.0.0", "1.0.1"].iter().zip(&images) {
        image.push(&hub, APP, *tag);
        gateway.pull(Form::Prefix, "docker.io", APP, tag, image).await;
    }
    (gateway, hub, images)
}

/// Whether the catalog holds what these images' configs say.
async fn are_learnt(site: &Site, images: &[Fixture]) -> bool {
    let catalog = Catalog::open_read_only(&site.data(), Clock::system()).await.unwrap();
    for child in images.iter().flat_map(|image| &image.children) {
        if catalog.config(&child.config()).await.unwrap().is_none() {
            return false;
        }
    }
    true
}

#[tokio::test]
async fn what_a_config_says_is_kept_at_first_sight_though_no_rule_asks_and_no_upstream_is_asked_for_it() {
    let (gateway, hub, images) = undemanded().await;
    let asked = hub.requests().len();
    until("the configs are read", async || are_learnt(&gateway.site, &images).await).await;
    assert_eq!(hub.requests().len(), asked);
    let site = gateway.stop().await;
    // Neither the blobs nor the upstream are needed any more.
    std::fs::remove_dir_all(site.data().join("content")).unwrap();
    drop(hub);
    let (said, exit) = replay(&site, &undemanding("user = { min_uid = 10001 }")).await;
    assert_eq!(
        told(&said["refused"]),
        (BTreeSet::from(["1.0.1"]), BTreeSet::from(["user.min_uid"])),
        "{said:#}"
    );
    assert_eq!((&said["unjudged"], exit), (&json!({}), 1), "{said:#}");
}

#[tokio::test]
async fn a_replay_reads_the_configs_that_the_catalog_lacks_from_the_kept_blobs() {
    let (gateway, _hub, images) = undemanded().await;
    let site = gateway.stop().await;
    let database = sqlx::sqlite::SqliteConnectOptions::new().filename(site.data().join("catalog.db"));
    let mut database = sqlx::ConnectOptions::connect(&database).await.unwrap();
    sqlx::query("DELETE FROM config").execute(&mut database).await.unwrap();
    sqlx::Connection::close(database).await.unwrap();
    assert!(!are_learnt(&site, &images).await);
    let demanding = undemanding("user = { min_uid = 10001 }");
    let (said, exit) = replay(&site, &demanding).await;
    assert_eq!(told(&said["refused"]).0, BTreeSet::from(["1.0.1"]), "{said:#}");
    assert_eq!((&said["unjudged"], exit), (&json!({}), 1), "{said:#}");
    // One that was edited on disk is no config of this name.
    for child in images.iter().flat_map(|image| &image.children) {
        let hex = child.config().hex();
        let file = site.data().join("content/blobs/sha256").join(&hex[..2]).join(&hex);
        std::fs::write(file, b"{}").unwrap();
    }
    let (said, exit) = replay(&site, &demanding).await;
    assert_eq!((&said["refused"], exit), (&json!([]), 0), "{said:#}");
    assert_ne!(said["unjudged"], json!({}));
}

/// The references of a list, with the codes of their reasons.
fn references(list: &Value) -> BTreeSet<(String, String)> {
    let one = |one: &Value| {
        let code = one["new"]["reasons"][0]["code"].as_str().unwrap_or("none");
        (one["reference"].as_str().unwrap().to_owned(), code.to_owned())
    };
    list.as_array().unwrap().iter().map(one).collect()
}

fn found(reference: String, code: &str) -> BTreeSet<(String, String)> {
    BTreeSet::from([(reference, code.to_owned())])
}

#[tokio::test]
async fn a_hold_refuses_the_digests_that_are_known_for_a_short_time_and_no_tag_that_was_served() {
    let (gateway, hub, _) = undemanded().await;
    let new = image(80, "10001", Clock::system().now());
    new.push(&hub, APP, None);
    let path = Form::Prefix.path("docker.io", APP, &format!("manifests/{}", new.digest()));
    gateway.get(&path).await.expect_bytes(&new.manifest);
    let (said, exit) = replay(&gateway.site, &undemanding("tags = { hold = \"72h\" }")).await;
    let expected = found(format!("docker.io/{APP}@{}", new.digest()), "hold");
    assert_eq!((references(&said["refused"]), exit), (expected, 1), "{said:#}");
    assert_eq!(said["refused"][0]["new"]["verdict"], "hold");
    let (said, exit) = replay(&gateway.site, &undemanding("tags = { hold = \"1ms\" }")).await;
    assert_eq!((&said["refused"], &said["unjudged"], exit), (&json!([]), &json!({}), 0), "{said:#}");
}

#[tokio::test]
async fn what_was_held_and_never_looked_into_stays_open_without_the_hold() {
    let hub = Registry::plain();
    let held = undemanding("tags = { hold = \"72h\" }");
    let gateway = Site::new(&held).with_upstream("docker.io", &hub).start().await;
    image(80, "10001", Clock::system().now()).push(&hub, APP, "1.0.0");
    let path = Form::Prefix.path("docker.io", APP, "manifests/1.0.0");
    gateway.get(&path).await.expect_denied("hold");
    let (said, exit) = replay(&gateway.site, &undemanding("")).await;
    let open = json!({ "references": 1, "pulls": 1, "example": format!("docker.io/{APP}:1.0.0") });
    assert_eq!(
        (&said["unjudged"], &said["allowed"], exit),
        (&json!({ "hold": open }), &json!([]), 0),
        "{said:#}"
    );
    let (said, _) = replay(&gateway.site, &held).await;
    assert_eq!((&said["allowed"], &said["unchanged"]["references"]), (&json!([]), &json!(1)), "{said:#}");
}

#[tokio::test]
async fn a_tag_that_moved_would_be_refused_where_moves_are_denied() {
    let hub = Registry::plain();
    let site = Site::new(&undemanding("")).with_upstream("docker.io", &hub).with("cache.tag_ttl", "1ms");
    let gateway = site.start().await;
    let now = Clock::system().now() - 1.hour();
    let [old, new, still] = [60, 70, 80].map(|seed| image(seed, "10001", now));
    old.push(&hub, APP, "1.0.0");
    still.push(&hub, APP, "1.0.1");
    gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &old).await;
    gateway.pull(Form::Prefix, "docker.io", APP, "1.0.1", &still).await;
    let denies = undemanding("tags = { moved = \"deny\" }");
    let (said, exit) = replay(&gateway.site, &denies).await;
    assert_eq!((&said["refused"], exit), (&json!([]), 0), "{said:#}");
    new.push(&hub, APP, "1.0.0");
    let path = Form::Prefix.path("docker.io", APP, "manifests/1.0.0");
    until("the move is seen", async || {
        gateway.get(&path).await.expect_bytes(&old.manifest);
        gateway.events().await.iter().any(|event| event["kind"] == "drift")
    })
    .await;
    let (said, exit) = replay(&gateway.site, &denies).await;
    let expected = found(format!("docker.io/{APP}:1.0.0"), "tag.moved");
    assert_eq!((references(&said["refused"]), exit), (expected, 1), "{said:#}");
}

#[tokio::test]
async fn an_exception_keeps_what_a_new_rule_would_refuse_and_one_for_something_else_does_not() {
    let (gateway, _hub, images) = undemanded().await;
    let today = Clock::system().now().to_zoned(jiff::tz::TimeZone::UTC).date();
    let exception = |image: &str| {
        format!(
            "user = {{ min_uid = 10001 }}\n[[exception]]\nid = \"EX-1\"\nimage = \"docker.io/acme/app{image}\"\n\
            waive = [\"user.min_uid\"]\nreason = \"r\"\nticket = \"T\"\nrequested_by = \"a\"\napproved_by = \"b\"\n\
            approved = {today}\nexpires = {}\n",
            today + 30.days()
        )
    };
    for image in [":1.0.1".to_owned(), format!("@{}", images[1].digest())] {
        let (said, exit) = replay(&gateway.site, &undemanding(&exception(&image))).await;
        assert_eq!((&said["refused"], exit), (&json!([]), 0), "{image}: {said:#}");
        assert_eq!(said["unjudged"], json!({}), "{image}: {said:#}");
    }
    for image in [":1.0.0".to_owned(), format!("@{}", images[0].digest())] {
        let (said, exit) = replay(&gateway.site, &undemanding(&exception(&image))).await;
        assert_eq!((told(&said["refused"]).0, exit), (BTreeSet::from(["1.0.1"]), 1), "{image}: {said:#}");
    }
}

#[tokio::test]
async fn a_pull_of_a_blob_alone_is_judged_by_the_images_that_contain_it() {
    let (gateway, _hub, images) = undemanded().await;
    let [good, root] = images.map(|image| Digest::sha256(image.children[0].layer(0)));
    let mut gateway = gateway;
    for layer in [good, root] {
        // While it runs, a blob is joined to the pull before it.
        gateway = gateway.stop().await.start().await;
        let path = Form::Prefix.path("docker.io", APP, &format!("blobs/{layer}"));
        assert_eq!(gateway.get(&path).await.status, 200);
    }
    let blob = |layer: Digest| format!("docker.io/{APP}@{layer}");
    let of_blobs = |said: &Value| -> BTreeSet<(String, String)> {
        let blobs = [blob(good), blob(root)];
        references(&said["refused"]).into_iter().filter(|(reference, _)| blobs.contains(reference)).collect()
    };
    let (said, _) = replay(&gateway.site, &undemanding("")).await;
    assert_eq!((&said["refused"], &said["unjudged"]), (&json!([]), &json!({})), "{said:#}");
    let (said, exit) = replay(&gateway.site, &undemanding("user = { min_uid = 10001 }")).await;
    assert_eq!((of_blobs(&said), exit), (found(blob(root), "user.min_uid"), 1), "{said:#}");
    let recall = format!("[[recall]]\nid = \"RC\"\nreason = \"bad\"\nlayers = [\"{good}\"]\n");
    let (said, exit) = replay(&gateway.site, &undemanding(&recall)).await;
    assert_eq!((of_blobs(&said), exit), (found(blob(good), "recall"), 1), "{said:#}");
}
