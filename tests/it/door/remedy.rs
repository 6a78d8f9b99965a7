//! What a refusal says to pull instead: from the policy and what is held here, never from the network.

use std::time::Duration;

use pullgate::clock::Clock;
use serde_json::Value;

use crate::support::gateway::{Answer, Gateway, Site, morning};
use crate::support::image::{Fixture, Image, random_bytes};
use crate::support::registry::Registry;

const APP: &str = "acme/app";

fn policy(keys: &str, tables: &str) -> String {
    format!(
        "name = \"r\"\nrevision = \"1\"\n[help]\nurl = \"https://pullgate.example/d/{{id}}\"\n[require.tags]\nallow = [\"#.#.#\", \"#.#.#-*\"]\ndeny = [\"latest\"]\n[[source]]\nid = \"all\"\nmatch = \"docker.io/**\"\n{keys}\n{tables}\n"
    )
}

fn image(seed: u64, user: &str) -> Fixture {
    Image::new("linux/amd64").layer(random_bytes(seed, 300)).user(user).build()
}

struct Bench {
    gateway: Gateway,
    hub: Registry,
    clock: Clock,
}

impl Bench {
    async fn start(policy: &str) -> Self {
        let (hub, clock) = (Registry::plain(), Clock::manual(morning()));
        let site = Site::new(policy).with_upstream("docker.io", &hub).with_clock(&clock);
        Self { gateway: site.with("cache.tag_ttl", "1m").start().await, hub, clock }
    }

    async fn get(&self, rest: &str) -> Answer {
        self.gateway.get(&format!("/v2/docker.io/{APP}/manifests/{rest}")).await
    }

    async fn serve(&self, tags: &[&str]) {
        for (seed, tag) in (100..).zip(tags) {
            image(seed, "10001").push(&self.hub, APP, *tag);
            assert_eq!(self.get(tag).await.status, 200, "{tag}");
        }
    }

    /// What the refusal of this says to do, without the link.
    async fn remedy(&self, rest: &str, code: &str) -> String {
        let error: Value = self.get(rest).await.expect_denied(code);
        let message = error["message"].as_str().unwrap();
        let (said, _) = message.split_once(". Why: ").expect("the link is never cut");
        said.rsplit_once("; ").map(|(_, remedy)| remedy.to_owned()).unwrap_or_default()
    }
}

#[tokio::test]
async fn a_refused_tag_names_the_nearest_version_of_its_variant() {
    let bench = Bench::start(&policy("", "")).await;
    bench.serve(&["1.2.3", "1.2.9", "2.0.0", "1.2.3-alpine", "1.3.0-alpine"]).await;
    bench.hub.reset_log();
    assert_eq!(bench.remedy("latest", "tag.denied").await, "try 2.0.0");
    assert_eq!(bench.remedy("1.2", "tag.not_allowed").await, "try 1.2.9");
    assert_eq!(bench.remedy("1.2-alpine", "tag.not_allowed").await, "try 1.2.3-alpine");
    assert_eq!(bench.hub.hits("HEAD", "/manifests/") + bench.hub.hits("GET", "/"), 0, "nobody was asked");
}

#[tokio::test]
async fn an_image_refused_by_its_content_names_one_that_passed() {
    let bench = Bench::start(&policy("user = { min_uid = 10001 }", "")).await;
    image(1, "0").push(&bench.hub, APP, "1.2.4");
    assert!(!bench.remedy("1.2.4", "user.min_uid").await.contains("try "), "there is none yet");
    bench.serve(&["1.2.2", "1.1.0"]).await;
    bench.clock.advance(Duration::from_secs(3700));
    image(2, "0").push(&bench.hub, APP, "1.2.5");
    assert_eq!(bench.remedy("1.2.5", "user.min_uid").await, "try 1.2.2");
    let digest = image(2, "0").digest().to_string();
    assert_eq!(bench.remedy(&digest, "user.min_uid").await, "try 1.2.2");
}

#[tokio::test]
async fn a_tag_that_moved_names_the_digest_it_was_locked_to_and_that_is_served() {
    let bench = Bench::start(&policy("tags = { moved = \"deny\" }", "")).await;
    bench.serve(&["1.0.0"]).await;
    let old = image(100, "10001");
    image(2, "10001").push(&bench.hub, APP, "1.0.0");
    bench.clock.advance(Duration::from_secs(120));
    let remedy = bench.remedy("1.0.0", "tag.moved").await;
    assert_eq!(remedy, format!("try @{}", old.digest()));
    bench.get(&old.digest().to_string()).await.expect_bytes(&old.manifest);
}

#[tokio::test]
async fn a_held_tag_names_an_older_one_that_was_served() {
    let bench = Bench::start(&policy("tags = { hold = \"72h\" }", "")).await;
    image(100, "10001").push(&bench.hub, APP, "1.0.0");
    bench.get("1.0.0").await.expect_denied("hold");
    bench.clock.advance(Duration::from_secs(73 * 3600));
    assert_eq!(bench.get("1.0.0").await.status, 200);
    image(2, "10001").push(&bench.hub, APP, "1.0.1");
    assert_eq!(bench.remedy("1.0.1", "hold").await, "try 1.0.0");
}

#[tokio::test]
async fn a_recalled_tag_names_its_replacement_or_one_that_is_not_recalled() {
    let recall = "[[recall]]\nid = \"R1\"\nreason = \"bad\"\nimages = [\"docker.io/acme/app:1.0.0\"]\nreplace = \"docker.io/acme/app:1.0.5\"\n[[recall]]\nid = \"R2\"\nreason = \"bad\"\nimages = [\"docker.io/acme/app:1.0.1\", \"docker.io/acme/app:1.0.2\"]\n";
    let bench = Bench::start(&policy("", recall)).await;
    bench.serve(&["1.1.0"]).await;
    assert_eq!(bench.remedy("1.0.0", "recall").await, "use docker.io/acme/app:1.0.5");
    assert_eq!(bench.remedy("1.0.1", "recall").await, "try 1.1.0");
}

#[tokio::test]
async fn a_refused_digest_names_the_tag_that_leads_to_it_or_the_newest_that_is_held() {
    let bench = Bench::start(&policy("digests = \"listed\"", "")).await;
    bench.serve(&["1.0.0", "1.1.0"]).await;
    // It is what the registry names 1.0.0 by now, which is locked to another digest here.
    let new = image(2, "10001");
    new.push(&bench.hub, APP, "1.0.0");
    bench.clock.advance(Duration::from_secs(120));
    assert_eq!(bench.get("1.0.0").await.status, 200);
    bench.gateway.event(|event| event["kind"] == "drift").await;
    let digest = new.digest().to_string();
    assert_eq!(bench.remedy(&digest, "digest.not_listed").await, "try 1.0.0");
    let other = image(7, "10001").digest().to_string();
    assert_eq!(bench.remedy(&other, "digest.not_listed").await, "try 1.1.0");
}
