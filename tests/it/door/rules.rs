//! Rules on content, recall, exceptions and cooldown, through HTTP: what is refused, what is on record,
//! and what upstreams were asked.

use std::time::Duration;

use pullgate::clock::Clock;
use pullgate::oci::Digest;
use serde_json::Value;

use crate::support::fault::Fault;
use crate::support::gateway::{Answer, Form, Gateway, Site, morning, until};
use crate::support::image::{Fixture, Image, Index, random_bytes};
use crate::support::registry::Registry;

const APP: &str = "acme/app";
const HOUR: Duration = Duration::from_secs(3600);

const HEAD: &str = r##"
name = "rules"
revision = "1"

[help]
url = "https://pullgate.example/d/{id}"
"##;

/// One source over everything of docker.io, with these keys.
fn policy(keys: &str, tables: &str) -> String {
    let source = "[[source]]\nid = \"all\"\nmatch = \"docker.io/**\"\n";
    format!("{HEAD}[require.tags]\nallow = [\"#.#.#\"]\ndeny = [\"latest\"]\n{source}{keys}\n{tables}\n")
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
        Self { gateway: site.start().await, hub, clock }
    }

    async fn get(&self, rest: &str) -> Answer {
        self.gateway.get(&Form::Prefix.path("docker.io", APP, rest)).await
    }

    async fn tag(&self, tag: &str) -> Answer {
        self.get(&format!("manifests/{tag}")).await
    }

    /// Writes another policy and waits until it is in force, or refused.
    async fn reload(&self, text: &str) {
        let before = self.gateway.events().await.len();
        self.gateway.site.write_policy(text);
        let kinds = |event: &Value| event["kind"] == "policy";
        until("the policy is read again", async || {
            self.gateway.events().await.iter().skip(before).any(kinds)
        })
        .await;
    }
}

fn image(seed: u64) -> Image {
    Image::new("linux/amd64").layer(random_bytes(seed, 2000)).user("10001")
}

fn platform(target: &str, seed: u64, user: &str) -> Fixture {
    Image::new(target).layer(random_bytes(seed, 2000)).user(user).build()
}

#[tokio::test]
async fn a_recall_refuses_at_once_what_is_cached_under_every_name() {
    let bench = Bench::start(&policy("", "")).await;
    let shared = random_bytes(1, 4000);
    let one = Image::new("linux/amd64").layer(shared.clone()).user("1").build();
    let other = Image::new("linux/amd64").layer(random_bytes(2, 10)).layer(shared.clone()).user("1").build();
    one.push(&bench.hub, APP, "1.0.0");
    other.push(&bench.hub, "acme/other", "2.0.0");
    bench.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &one).await;
    bench.gateway.pull(Form::Ns, "docker.io", "acme/other", "2.0.0", &other).await;
    let layer = Digest::sha256(&shared);
    let recall = format!(
        "[[recall]]\nid = \"RC-1\"\nreason = \"CVE-2026-12345\"\nlayers = [\"{layer}\"]\nreplace = \"docker.io/acme/app:1.0.1\"\n"
    );
    bench.hub.reset_log();
    bench.reload(&policy("", &recall)).await;
    let error = bench.tag("1.0.0").await.expect_denied("recall");
    let message = error["message"].as_str().unwrap();
    assert!(
        message.contains("RC-1: CVE-2026-12345") && message.contains("use docker.io/acme/app:1.0.1"),
        "{message}"
    );
    for (repository, image) in [(APP, &one), ("acme/other", &other)] {
        for rest in [format!("manifests/{}", image.digest()), format!("blobs/{layer}")] {
            let path = Form::Prefix.path("docker.io", repository, &rest);
            bench.gateway.get(&path).await.expect_denied("recall");
            assert_eq!(bench.gateway.head(&path).await.status, 403);
        }
    }
    assert_eq!(bench.hub.hits("GET", "/blobs/"), 0, "what is known needs no upstream");
    // Taking it back by a slip of the hand changes nothing.
    bench.reload(&policy("", "# nothing recalled")).await;
    bench.tag("1.0.0").await.expect_denied("recall");
    let (_, ready) = bench.gateway.admin("/readyz").await;
    assert!(ready.contains("no longer recalls layer"), "{ready}");
    bench.reload(&policy("", "").replace("revision = \"1\"", "revision = \"2\"")).await;
    bench.tag("1.0.0").await.expect_bytes(&one.manifest);
}

#[tokio::test]
async fn a_recalled_child_takes_its_index_with_it_and_a_recalled_index_its_children() {
    let bench = Bench::start(&policy("", "")).await;
    let children = || [platform("linux/amd64", 1, "1"), platform("linux/arm64", 2, "1")];
    let index = Index::of(children());
    index.push(&bench.hub, APP, "1.0.0");
    bench.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &index).await;
    let recall = |digest: Digest, revision: u8| {
        policy("", &format!("[[recall]]\nid = \"RC\"\nreason = \"bad\"\ndigests = [\"{digest}\"]\n"))
            .replace("revision = \"1\"", &format!("revision = \"r{revision}\""))
    };
    let [amd, arm] = children();
    bench.reload(&recall(arm.digest(), 1)).await;
    bench.tag("1.0.0").await.expect_denied("recall");
    assert_eq!(bench.gateway.head(&Form::Prefix.path("docker.io", APP, "manifests/1.0.0")).await.status, 403);
    bench.get(&format!("manifests/{}", amd.digest())).await.expect_bytes(&amd.manifest);
    bench.reload(&recall(index.digest(), 2)).await;
    for digest in [index.digest(), amd.digest(), arm.digest()] {
        bench.get(&format!("manifests/{digest}")).await.expect_denied("recall");
    }
    bench.get(&format!("blobs/{}", Digest::sha256(amd.layer(0)))).await.expect_denied("recall");
}

#[tokio::test]
async fn a_recalled_tag_takes_every_digest_it_had_and_never_moves_a_lock() {
    let bench = Bench::start(&policy("tags = { moved = \"keep\" }\ndigests = \"any\"", "")).await;
    let (old, new) = (image(1).build(), image(2).build());
    old.push(&bench.hub, APP, "1.0.0");
    old.push(&bench.hub, APP, "1.0.1");
    bench.tag("1.0.0").await.expect_bytes(&old.manifest);
    new.push(&bench.hub, APP, "1.0.0");
    let recall = "[[recall]]\nid = \"RC\"\nreason = \"bad\"\nimages = [\"docker.io/acme/app:1.0.0\"]\n";
    bench.clock.advance(HOUR);
    bench.reload(&policy("digests = \"any\"", recall)).await;
    bench.tag("1.0.0").await.expect_denied("recall");
    bench.tag("1.0.1").await.expect_denied("recall");
    for image in [&old, &new] {
        bench.get(&format!("manifests/{}", image.digest())).await.expect_denied("recall");
    }
    let tags = bench.get("tags/list").await.json();
    assert_eq!(tags["tags"], serde_json::json!(["1.0.1"]));
    // Taken back, the lock is what it was.
    bench.reload(&policy("digests = \"any\"", "").replace("revision = \"1\"", "revision = \"2\"")).await;
    bench.tag("1.0.0").await.expect_bytes(&old.manifest);
}

#[tokio::test]
async fn every_platform_that_is_judged_must_pass_and_others_are_refused_by_digest() {
    let keys = "platforms = [\"linux/amd64\", \"linux/arm64\"]\nuser = { min_uid = 10001 }";
    let bench = Bench::start(&policy(keys, "")).await;
    let good = Index::of([
        platform("linux/amd64", 1, "10001"),
        platform("linux/arm64", 2, "10001"),
        platform("linux/s390x", 3, "0"),
    ]);
    good.push(&bench.hub, APP, "1.0.0");
    bench.tag("1.0.0").await.expect_bytes(&good.manifest);
    let s390x = &good.children[2];
    assert_eq!(bench.hub.hits("GET", &s390x.digest().to_string()), 0, "what is not judged is not fetched");
    bench
        .get(&format!("manifests/{}", good.children[0].digest()))
        .await
        .expect_bytes(&good.children[0].manifest);
    bench.get(&format!("manifests/{}", s390x.digest())).await.expect_denied("platform.not_allowed");
    let bad = Index::of([platform("linux/amd64", 4, "10001"), platform("linux/arm64", 5, "0")]);
    bad.push(&bench.hub, APP, "1.0.1");
    let error = bench.tag("1.0.1").await.expect_denied("user.min_uid");
    assert!(error["message"].as_str().unwrap().contains("linux/arm64: it runs as uid 0"), "{error}");
    let only = Index::of([platform("linux/s390x", 6, "10001")]);
    only.push(&bench.hub, APP, "1.0.2");
    bench.tag("1.0.2").await.expect_denied("platform.not_allowed");
}

#[tokio::test]
async fn facts_are_gathered_once_and_a_stricter_policy_judges_what_is_cached() {
    let bench = Bench::start(&policy("user = { min_uid = 1000 }", "")).await;
    let image = image(1).user("2000").build();
    image.push(&bench.hub, APP, "1.0.0");
    let all = std::iter::repeat_with(|| bench.tag("1.0.0")).take(20);
    for answer in futures_util::future::join_all(all).await {
        answer.expect_bytes(&image.manifest);
    }
    bench.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    assert_eq!(bench.hub.hits("GET", "/manifests/"), 1);
    assert_eq!(
        bench.hub.hits("GET", &image.config().to_string()),
        1,
        "the config was fetched to be judged, and kept"
    );
    bench.hub.reset_log();
    bench.reload(&policy("user = { min_uid = 10001 }", "")).await;
    bench.tag("1.0.0").await.expect_denied("user.min_uid");
    bench.get(&format!("manifests/{}", image.digest())).await.expect_denied("user.min_uid");
    for blob in &image.blobs {
        bench.get(&format!("blobs/{}", Digest::sha256(blob))).await.expect_denied("user.min_uid");
    }
    assert_eq!(bench.hub.hits("GET", ""), 0, "no upstream is asked to judge what is known");
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_weakens_nothing() {
    let bench = Bench::start(&policy("user = { min_uid = 10001 }", "")).await;
    let image = image(1).user("0").build();
    image.push(&bench.hub, APP, "1.0.0");
    bench.tag("1.0.0").await.expect_denied("user.min_uid");
    for bad in [
        policy("user = { min_uid = 0", ""),
        policy("usr = { min_uid = 0 }", ""),
        policy("user = { min_uid = 0 }\nmode = \"off\"", ""),
        String::new(),
    ] {
        bench.reload(&bad).await;
        bench.tag("1.0.0").await.expect_denied("user.min_uid");
    }
}

#[tokio::test]
async fn facts_that_cannot_be_had_refuse_and_say_when_to_come_again() {
    let bench = Bench::start(&policy("user = { min_uid = 10001 }", "")).await;
    // The config is missing, and one that is no config.
    let image = image(1).build();
    bench.hub.push_manifest(APP, Some("1.0.0"), image.media_type, image.manifest.clone());
    let error = bench.tag("1.0.0").await.expect_denied("facts.unavailable");
    assert!(error["message"].as_str().unwrap().contains("cannot be looked into"), "{error}");
    for blob in &image.blobs {
        bench.hub.push_blob(APP, blob.clone());
    }
    bench.tag("1.0.0").await.expect_bytes(&image.manifest);
}

#[tokio::test]
async fn facts_that_an_upstream_cannot_give_now_are_503_and_say_when_to_come_again() {
    let bench = Bench::start(&policy("user = { min_uid = 10001 }", "")).await;
    let image = image(1).build();
    image.push(&bench.hub, APP, "1.0.0");
    bench.hub.on("*", &image.config().to_string()).always(Fault::status(500));
    let answer = bench.tag("1.0.0").await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(answer.json()["errors"][0]["detail"]["reason"], "facts.unavailable");
    bench.hub.clear_faults();
    until("the upstream is asked again", async || bench.tag("1.0.0").await.status == 200).await;
    bench.tag("1.0.0").await.expect_bytes(&image.manifest);
}

#[tokio::test]
async fn an_image_built_on_something_else_is_refused() {
    let bench = Bench::start(&policy("base = { names = [\"gcr.io/distroless/*\"] }", "")).await;
    let digest = Digest::sha256(b"base").to_string();
    let on = |seed, name: &str| {
        let image = image(seed).annotation("org.opencontainers.image.base.name", name);
        image.annotation("org.opencontainers.image.base.digest", &digest).build()
    };
    let good = on(1, "gcr.io/distroless/static-debian12:nonroot");
    good.push(&bench.hub, APP, "1.0.0");
    on(2, "gcr.io/distroless-evil/static-debian12:nonroot").push(&bench.hub, APP, "1.0.1");
    image(3).build().push(&bench.hub, APP, "1.0.2");
    bench.tag("1.0.0").await.expect_bytes(&good.manifest);
    for tag in ["1.0.1", "1.0.2"] {
        bench.tag(tag).await.expect_denied("base.not_allowed");
    }
}

#[tokio::test]
async fn a_check_that_only_warns_serves_with_its_words_and_is_on_record() {
    let keys =
        "age = { max = \"45d\" }\nuser = { min_uid = 10001 }\nmodes = { age = \"warn\", user = \"observe\" }";
    let bench = Bench::start(&policy(keys, "")).await;
    let old = image(1).created("2026-01-01T00:00:00Z").user("0").build();
    old.push(&bench.hub, APP, "1.0.0");
    let answer = bench.tag("1.0.0").await;
    answer.expect_bytes(&old.manifest);
    let warning = answer.header("warning");
    assert!(warning.starts_with("299 - \"") && warning.contains("it is 326 days old"), "{warning}");
    assert!(!warning.contains("uid 0"), "what is observed is not told: {warning}");
    let event = bench.gateway.event(|event| event["verdict"] == "warn").await;
    assert_eq!((&event["enforced"], &event["reason"]["code"]), (&Value::Bool(false), &"age".into()));
    let checks = event["checks"].as_array().unwrap();
    let failed: Vec<&str> = checks
        .iter()
        .filter(|check| check["result"] == "fail")
        .filter_map(|check| check["id"].as_str())
        .collect();
    assert_eq!(failed, ["age", "user"]);
    assert!(
        checks.iter().filter(|check| check["id"] == "age").all(|check| check["at"] == "policy.toml:13"),
        "{checks:?}"
    );
}

#[tokio::test]
async fn an_image_that_grows_too_old_is_refused_without_a_reload() {
    let bench = Bench::start(&policy("age = { max = \"30d\", clock = [\"config\"] }", "")).await;
    let image = image(1).created("2026-11-01T00:00:00Z").build();
    image.push(&bench.hub, APP, "1.0.0");
    bench.tag("1.0.0").await.expect_bytes(&image.manifest);
    bench.clock.advance(HOUR * 24 * 8);
    bench.tag("1.0.0").await.expect_denied("age");
}

fn hold(moved: &str, first: &str) -> String {
    policy(
        &format!(
            "digests = \"any\"\ntags = {{ hold = \"72h\", hold_first = \"{first}\", moved = \"{moved}\" }}"
        ),
        "",
    )
}

#[tokio::test]
async fn a_tag_is_held_until_its_digest_is_known_long_enough() {
    let bench = Bench::start(&hold("keep", "refuse")).await;
    let image = image(1).build();
    image.push(&bench.hub, APP, "1.0.0");
    let error = bench.tag("1.0.0").await.expect_denied("hold");
    assert_eq!(error["detail"]["until"], "2026-11-26T08:00:00Z");
    let event = bench.gateway.event(|event| event["verdict"] == "hold").await;
    assert_eq!(event["reason"]["code"], "hold");
    bench.clock.advance(HOUR * 71);
    bench.tag("1.0.0").await.expect_denied("hold");
    bench.clock.advance(HOUR);
    bench.tag("1.0.0").await.expect_bytes(&image.manifest);
    bench.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &image).await;
}

#[tokio::test]
async fn the_first_digest_may_be_served_at_once_and_the_next_one_waits_behind_it() {
    let bench = Bench::start(&hold("follow", "serve")).await;
    let (old, new) = (image(1).build(), image(2).build());
    old.push(&bench.hub, APP, "1.0.0");
    bench.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &old).await;
    new.push(&bench.hub, APP, "1.0.0");
    bench.clock.advance(HOUR);
    bench.tag("1.0.0").await.expect_bytes(&old.manifest);
    bench.get(&format!("manifests/{}", new.digest())).await.expect_denied("hold");
    bench.clock.advance(HOUR * 72);
    bench.tag("1.0.0").await.expect_bytes(&new.manifest);
    bench.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &new).await;
}

#[tokio::test]
async fn a_digest_that_is_replaced_while_it_is_held_is_never_served() {
    let bench = Bench::start(&hold("follow", "serve")).await;
    let (old, bad, mended) = (image(1).build(), image(2).build(), image(3).build());
    old.push(&bench.hub, APP, "1.0.0");
    bench.tag("1.0.0").await.expect_bytes(&old.manifest);
    bad.push(&bench.hub, APP, "1.0.0");
    bench.clock.advance(HOUR);
    bench.tag("1.0.0").await.expect_bytes(&old.manifest);
    bench.get(&format!("manifests/{}", bad.digest())).await.expect_denied("hold");
    mended.push(&bench.hub, APP, "1.0.0");
    bench.clock.advance(HOUR);
    bench.tag("1.0.0").await.expect_bytes(&old.manifest);
    bench.clock.advance(HOUR * 24 * 30);
    let error = bench.get(&format!("manifests/{}", bad.digest())).await.expect_denied("hold");
    assert!(error["message"].as_str().unwrap().contains("was replaced upstream"), "{error}");
    assert!(error["detail"]["until"].is_null(), "it is never served");
    bench.tag("1.0.0").await.expect_bytes(&mended.manifest);
    assert_eq!(bench.hub.hits("GET", &bad.digest().to_string()), 0, "nor is it fetched");
    bench.get(&format!("blobs/{}", Digest::sha256(bad.layer(0)))).await.expect_denied("closure.outside");
}

#[tokio::test]
async fn what_is_served_with_a_warning_as_the_first_of_its_tag_is_pulled_whole() {
    let keys = "digests = \"any\"\ntags = { hold = \"72h\", hold_first = \"serve\", moved = \"follow\" }\n\
                age = { max = \"45d\", clock = [\"config\"] }\nmodes = { age = \"warn\" }";
    let bench = Bench::start(&policy(keys, "")).await;
    let (old, next) = (image(1).created("2026-01-01T00:00:00Z").build(), image(2).build());
    old.push(&bench.hub, APP, "1.0.0");
    bench.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &old).await;
    // Once the tag names something else, only what was kept for it goes on.
    next.push(&bench.hub, APP, "1.0.0");
    bench.clock.advance(HOUR);
    bench.tag("1.0.0").await.expect_denied("hold");
    bench.get(&format!("manifests/{}", next.digest())).await.expect_denied("hold");
}

#[tokio::test]
async fn images_that_were_refused_do_not_hide_one_that_is_permitted_from_its_layers() {
    let bench = Bench::start(&policy("user = { min_uid = 10001 }", "")).await;
    let shared = random_bytes(7, 3000);
    let with = |seed, user: &str| {
        Image::new("linux/amd64").layer(shared.clone()).layer(random_bytes(seed, 10)).user(user).build()
    };
    let refused: Vec<Fixture> = (0..70).map(|seed| with(seed, "0")).collect();
    let last = refused.iter().map(|image| image.digest().to_string()).max().unwrap();
    // The one that would be looked at last.
    let good =
        (100..).map(|seed| with(seed, "10001")).find(|image| image.digest().to_string() > last).unwrap();
    for (number, image) in refused.iter().enumerate() {
        image.push(&bench.hub, APP, &*format!("1.0.{number}"));
        bench.tag(&format!("1.0.{number}")).await.expect_denied("user.min_uid");
    }
    good.push(&bench.hub, APP, "2.0.0");
    bench.gateway.pull(Form::Ns, "docker.io", APP, "2.0.0", &good).await;
}

fn exception(image: &str, waive: &str) -> String {
    format!(
        "[[exception]]\nid = \"EX-1\"\nimage = \"{image}\"\nwaive = [{waive}]\nreason = \"being rebuilt\"\nticket = \"SEC-1\"\nrequested_by = \"app\"\napproved_by = \"sec\"\napproved = 2026-11-20\nexpires = 2026-11-30\n"
    )
}

#[tokio::test]
async fn an_exception_is_bound_to_its_first_digest_recorded_and_over_in_time() {
    let text =
        policy("user = { min_uid = 10001 }", &exception("docker.io/acme/app:1.0.0", "\"user.min_uid\""));
    let bench = Bench::start(&text).await;
    let (first, second) = (image(1).user("0").build(), image(2).user("0").build());
    first.push(&bench.hub, APP, "1.0.0");
    second.push(&bench.hub, APP, "1.0.1");
    bench.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &first).await;
    bench.tag("1.0.1").await.expect_denied("user.min_uid");
    let event = bench
        .gateway
        .event(|event| {
            event["checks"]
                .as_array()
                .is_some_and(|checks| checks.iter().any(|check| check["id"] == "exception"))
        })
        .await;
    assert_eq!(event["verdict"], "allow");
    let used = event["checks"].as_array().unwrap().iter().find(|check| check["id"] == "exception").unwrap();
    assert_eq!((&used["exception"], &used["observed"]), (&"EX-1".into(), &"needed".into()));
    // The tag moves: the exception was for what it was.
    second.push(&bench.hub, APP, "1.0.0");
    bench.clock.advance(HOUR);
    bench.tag("1.0.0").await.expect_denied("user.min_uid");
    bench.get(&format!("manifests/{}", first.digest())).await.expect_bytes(&first.manifest);
    bench.clock.advance(HOUR * 24 * 8);
    bench.get(&format!("manifests/{}", first.digest())).await.expect_denied("user.min_uid");
}

#[tokio::test]
async fn an_expired_exception_admits_neither_the_cached_tag_nor_its_blobs_also_after_a_restart() {
    let text = policy("user = { min_uid = 10001 }", &exception("docker.io/acme/app:1.0.0", "\"user\""));
    let bench = Bench::start(&text).await;
    let image = image(1).user("0").build();
    image.push(&bench.hub, APP, "1.0.0");
    bench.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    // Its last day is 2026-11-30, to the end of it.
    bench.clock.advance(HOUR * (24 * 7 + 15));
    bench.tag("1.0.0").await.expect_bytes(&image.manifest);
    bench.clock.advance(HOUR);
    let Bench { gateway, hub, clock } = bench;
    let blob = format!("blobs/{}", Digest::sha256(image.layer(0)));
    let all = ["manifests/1.0.0".to_owned(), format!("manifests/{}", image.digest()), blob];
    for rest in &all {
        let path = Form::Prefix.path("docker.io", APP, rest);
        gateway.get(&path).await.expect_denied("user.min_uid");
    }
    let bench = Bench { gateway: gateway.stop().await.start().await, hub, clock };
    for rest in &all {
        bench.get(rest).await.expect_denied("user.min_uid");
    }
}

#[tokio::test]
async fn the_binding_of_an_exception_survives_a_restart() {
    let text = policy("user = { min_uid = 10001 }", &exception("docker.io/acme/app:1.0.0", "\"user\""));
    let Bench { gateway, hub, clock } = Bench::start(&text).await;
    let (first, second) = (image(1).user("0").build(), image(2).user("0").build());
    first.push(&hub, APP, "1.0.0");
    let path = Form::Prefix.path("docker.io", APP, "manifests/1.0.0");
    gateway.get(&path).await.expect_bytes(&first.manifest);
    second.push(&hub, APP, "1.0.0");
    clock.advance(HOUR);
    let gateway = gateway.stop().await.start().await;
    gateway.get(&path).await.expect_denied("user.min_uid");
}

#[tokio::test]
async fn the_referrers_of_an_image_that_is_refused_for_its_content_are_refused() {
    let bench = Bench::start(&policy("user = { min_uid = 10001 }\ndigests = \"any\"", "")).await;
    let image = image(1).user("0").build();
    image.push(&bench.hub, APP, "1.0.0");
    bench.get(&format!("referrers/{}", image.digest())).await.expect_denied("user.min_uid");
}

#[tokio::test]
async fn labels_sizes_and_artifacts_are_refused_under_their_codes() {
    let keys = "labels = [\"team\"]\nsize = { max = \"10KiB\", layers = 2 }\nartifacts = \"deny\"";
    let bench = Bench::start(&policy(keys, "")).await;
    let push = |image: &Fixture, tag: &str| image.push(&bench.hub, APP, tag);
    let good = image(1).label("team", "a").build();
    push(&good, "1.0.0");
    bench.tag("1.0.0").await.expect_bytes(&good.manifest);
    push(&image(2).build(), "1.0.1");
    bench.tag("1.0.1").await.expect_denied("label");
    push(&image(3).label("team", "a").layer(random_bytes(9, 20_000)).build(), "1.0.2");
    bench.tag("1.0.2").await.expect_denied("size");
    let chart = crate::support::image::Artifact::new("application/vnd.cncf.helm.config.v1+json")
        .blob("application/gzip", random_bytes(4, 100))
        .build();
    push(&chart, "1.0.3");
    bench.tag("1.0.3").await.expect_denied("artifact.not_allowed");
}
