//! Refusals that hold (clients.md), and what stays refused whatever the cache holds.

use pullgate::oci::Digest;
use serde_json::Value;

use super::{POLICY, Pair, image};
use crate::support::fault::{Fault, Gate};
use crate::support::gateway::{Answer, Form, Gateway, Site, until};
use crate::support::image::{Fixture, Index};
use crate::support::registry::Registry;

const APP: &str = "acme/app";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const LITERAL: &str = "acme/literal";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER: (&str, &str) =
    ("user-agent", "docker/20.10.24 go/go1.19.8 git-commit/5d6db84 kernel/6.1 os/linux arch/amd64");

fn path(form: Form, repository: &str, rest: impl AsRef<str>) -> String {
    form.path("docker.io", repository, rest.as_ref())
}

fn message(error: &Value) -> &str {
    error["message"].as_str().unwrap()
}

/// Refusals on record, without what folding counts.
async fn ids(gateway: &Gateway) -> Vec<String> {
    gateway.blocked().await.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_containerd_asks_after_a_refusal_gets_the_same_words_and_no_row_of_its_own() {
    let pair = Pair::start().await;
    let unknown = image(1, 100);
    unknown.push(&pair.hub, LITERAL, "latest");
    let by_digest = format!("manifests/{}", unknown.digest());
    for (rest, reason) in [("manifests/latest", "tag.denied"), (by_digest.as_str(), "digest.unknown")] {
        let first = path(Form::Ns, LITERAL, rest);
        assert_eq!(pair.gateway.head(&first).await.status, 200);
        let refused = pair.gateway.get(&first).await;
        let error = refused.expect_denied(reason);
        let rows = ids(&pair.gateway).await;
        assert_eq!(rows.last().unwrap(), error["detail"]["id"].as_str().unwrap());
        let hash = Digest::sha256(&refused.body);
        let mut later = vec![format!("manifests/{hash}"), format!("blobs/{hash}")];
        if let Some(digest) = rest.strip_prefix("manifests/sha256:") {
            later.push(format!("blobs/sha256:{digest}"));
        }
        for rest in later {
            let next = path(Form::Ns, LITERAL, &rest);
            let again = pair.gateway.get(&next).await;
            assert_eq!(again.status, 403);
            assert_eq!(again.body, refused.body, "{rest}");
            assert_eq!(again.phrase, refused.phrase);
            let head = pair.gateway.head(&next).await;
            assert_eq!((head.status.as_u16(), &head.phrase), (403, &refused.phrase));
        }
        assert_eq!(ids(&pair.gateway).await, rows, "one row for one refused pull");
    }
    assert_eq!(pair.hub.hits("GET", &unknown.digest().to_string()), 0);
}

#[tokio::test]
async fn the_hash_of_a_refusal_means_nothing_in_another_repository() {
    let pair = Pair::start().await;
    let refused = pair.gateway.get(&path(Form::Ns, APP, "manifests/latest")).await;
    refused.expect_denied("tag.denied");
    let hash = Digest::sha256(&refused.body);
    let other = pair.gateway.get(&path(Form::Ns, "acme/other", format!("blobs/{hash}"))).await;
    assert_ne!(other.body, refused.body);
    other.expect_denied("closure.outside");
}

fn expect_refusal_manifest(answer: &Answer, reason: &str) -> (Digest, Digest) {
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), "application/vnd.oci.image.manifest.v1+json");
    let digest = answer.header("docker-content-digest").parse::<Digest>().unwrap();
    let manifest = answer.json();
    assert_eq!(digest, Digest::sha256(&answer.body));
    assert_eq!(manifest["schemaVersion"], 2);
    assert_eq!(manifest["layers"], serde_json::json!([]));
    let media_type = manifest["config"]["mediaType"].as_str().unwrap();
    let words = media_type.strip_prefix("application/vnd.blocked-by-policy.").unwrap();
    let (id, word) = words.split_once('.').unwrap();
    assert_eq!(id.len(), 26);
    assert_eq!(word, reason);
    (digest, manifest["config"]["digest"].as_str().unwrap().parse().unwrap())
}

#[tokio::test]
async fn dockers_mirror_gets_a_manifest_that_no_client_can_run() {
    let pair = Pair::start().await;
    let first = path(Form::Bare, APP, "manifests/latest");
    let answer = pair.gateway.send("GET", &first, &[DOCKER]).await;
    let (digest, config) = expect_refusal_manifest(&answer, "tag-denied");
    let head = pair.gateway.send("HEAD", &first, &[DOCKER]).await;
    assert_eq!(head.status, 200);
    assert_eq!(head.header("docker-content-digest"), digest.to_string());
    assert_eq!(head.header("content-length"), answer.body.len().to_string());
    let again =
        pair.gateway.send("GET", &path(Form::Bare, APP, format!("manifests/{digest}")), &[DOCKER]).await;
    assert_eq!(again.body, answer.body);
    for blob in [digest, config] {
        let blob = path(Form::Bare, APP, format!("blobs/{blob}"));
        pair.gateway.send("GET", &blob, &[DOCKER]).await.expect_denied("tag.denied");
    }
    assert_eq!(ids(&pair.gateway).await.len(), 1);
    assert_eq!(pair.hub.connections(), 0);
}

#[tokio::test]
async fn a_refused_digest_and_other_bare_clients_get_the_plain_refusal() {
    let pair = Pair::start().await;
    let unknown = image(2, 100);
    unknown.push(&pair.hub, LITERAL, "latest");
    let by_digest = path(Form::Bare, LITERAL, format!("manifests/{}", unknown.digest()));
    pair.gateway.send("GET", &by_digest, &[DOCKER]).await.expect_denied("digest.unknown");
    let by_tag = path(Form::Bare, APP, "manifests/latest");
    pair.gateway.send("GET", &by_tag, &[("user-agent", "curl/8")]).await.expect_denied("tag.denied");
    assert_eq!(pair.gateway.send("HEAD", &by_tag, &[("user-agent", "curl/8")]).await.status, 403);
}

#[tokio::test]
async fn each_form_of_refusal_can_be_set() {
    let pair = Pair::with(|site| {
        site.with("deny.ns", "plain").with("deny.bare", "plain").with("deny.prefix", "firm")
    })
    .await;
    let ns = path(Form::Ns, APP, "manifests/latest");
    pair.gateway.get(&ns).await.expect_denied("tag.denied");
    assert_eq!(pair.gateway.head(&ns).await.status, 403);
    let bare = path(Form::Bare, APP, "manifests/latest");
    pair.gateway.send("GET", &bare, &[DOCKER]).await.expect_denied("tag.denied");
    let prefix = path(Form::Prefix, APP, "manifests/latest");
    let answer = pair.gateway.get(&prefix).await;
    let (digest, config) = expect_refusal_manifest(&answer, "tag-denied");
    let again = pair.gateway.get(&path(Form::Prefix, APP, format!("manifests/{digest}"))).await;
    assert_eq!(again.body, answer.body);
    pair.gateway.get(&path(Form::Prefix, APP, format!("blobs/{config}"))).await.expect_denied("tag.denied");
}

#[tokio::test]
async fn a_refused_digest_stays_refused_when_another_repository_cached_it() {
    let pair = Pair::start().await;
    let (allowed, refused) = (image(3, 5000), image(4, 5000));
    allowed.push(&pair.hub, LITERAL, "1.0.0");
    refused.push(&pair.hub, LITERAL, "latest");
    refused.push(&pair.hub, APP, "1.0.0");
    pair.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &refused).await;
    pair.gateway.pull(Form::Ns, "docker.io", LITERAL, "1.0.0", &allowed).await;
    for form in [Form::Ns, Form::Prefix, Form::Bare] {
        let manifest = path(form, LITERAL, format!("manifests/{}", refused.digest()));
        pair.gateway.get(&manifest).await.expect_denied("digest.unknown");
        pair.gateway.get2(&manifest).await.expect_denied("digest.unknown");
        for blob in &refused.blobs {
            let blob = path(form, LITERAL, format!("blobs/{}", Digest::sha256(blob)));
            let plain = pair.gateway.get(&blob).await;
            plain.expect_denied("closure.outside");
            let part = pair.gateway.send("GET", &blob, &[("range", "bytes=0-9")]).await;
            part.expect_denied("closure.outside");
            let known = [("if-none-match", "*")];
            pair.gateway.send("GET", &blob, &known).await.expect_denied("closure.outside");
            assert_eq!(pair.gateway.head(&blob).await.status, 403);
        }
        pair.gateway.get(&path(form, LITERAL, "manifests/latest")).await.expect_denied("tag.denied");
    }
}

#[tokio::test]
async fn what_was_cached_while_it_was_allowed_is_refused_from_the_moment_it_is_not() {
    let pair = Pair::start().await;
    let image = image(5, 5000);
    image.push(&pair.hub, LITERAL, "1.0.1");
    pair.gateway.pull(Form::Prefix, "docker.io", LITERAL, "1.0.1", &image).await;
    pair.gateway
        .site
        .write_policy(&POLICY.replace(r#"["1.0.0", "1.0.1"]"#, r#"["1.0.0"]"#).replace("\"1\"", "\"2\""));
    pair.gateway.event(|event| event["kind"] == "policy" && event["policy"]["revision"] == "2").await;
    pair.gateway.get(&path(Form::Prefix, LITERAL, "manifests/1.0.1")).await.expect_denied("tag.not_allowed");
    let manifest = path(Form::Prefix, LITERAL, format!("manifests/{}", image.digest()));
    pair.gateway.get(&manifest).await.expect_denied("digest.unknown");
    for blob in &image.blobs {
        let blob = path(Form::Prefix, LITERAL, format!("blobs/{}", Digest::sha256(blob)));
        pair.gateway.get(&blob).await.expect_denied("closure.outside");
    }
    // Also in a gateway that remembers nothing but what it stored.
    let pair = pair.restart().await;
    pair.gateway.get(&manifest).await.expect_denied("digest.unknown");
    let blob = path(Form::Prefix, LITERAL, format!("blobs/{}", image.config()));
    pair.gateway.get(&blob).await.expect_denied("closure.outside");
}

#[tokio::test]
async fn a_blob_outside_every_permitted_image_is_refused_though_the_upstream_has_it() {
    let pair = Pair::start().await;
    let image = image(6, 100);
    image.push(&pair.hub, APP, "1.0.0");
    let stray = pair.hub.push_blob(APP, "stray bytes");
    let blob = path(Form::Prefix, APP, format!("blobs/{stray}"));
    pair.gateway.get(&blob).await.expect_denied("closure.outside");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    pair.gateway.get(&blob).await.expect_denied("closure.outside");
    assert_eq!(pair.hub.hits("*", &stray.to_string()), 0);
}

#[tokio::test]
async fn a_permitted_blob_that_neither_upstream_nor_store_has_is_404_and_no_refusal() {
    let pair = Pair::start().await;
    let image = image(6, 100);
    pair.hub.push_manifest(APP, Some("1.0.0"), image.media_type, image.manifest.clone());
    pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await.expect_bytes(&image.manifest);
    let layer = path(Form::Prefix, APP, format!("blobs/{}", Digest::sha256(image.layer(0))));
    pair.gateway.get(&layer).await.expect_error(404, "BLOB_UNKNOWN");
    assert_eq!(ids(&pair.gateway).await, [""; 0]);
}

#[tokio::test]
async fn a_manifest_is_no_blob_and_a_blob_no_manifest() {
    let pair = Pair::start().await;
    let image = image(7, 100);
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    let answer = pair.gateway.get(&path(Form::Prefix, APP, format!("blobs/{}", image.digest()))).await;
    assert!([403, 404].contains(&answer.status.as_u16()), "{answer:?}");
    let answer = pair.gateway.get(&path(Form::Prefix, APP, format!("manifests/{}", image.config()))).await;
    assert!([403, 404].contains(&answer.status.as_u16()), "{answer:?}");
}

#[tokio::test]
async fn blobs_can_be_pulled_first_by_a_gateway_that_knows_nothing_yet() {
    let pair = Pair::start().await;
    let index = Index::platforms(&["linux/amd64", "linux/arm64"], 8);
    index.push(&pair.hub, LITERAL, "1.0.0");
    let layer = index.children[1].layer(0);
    let blob = path(Form::Prefix, LITERAL, format!("blobs/{}", Digest::sha256(layer)));
    pair.gateway.get(&blob).await.expect_bytes(layer);
    let child = path(Form::Prefix, LITERAL, format!("manifests/{}", index.children[0].digest()));
    pair.gateway.get(&child).await.expect_bytes(&index.children[0].manifest);
}

#[tokio::test]
async fn an_index_of_indexes_can_be_pulled_and_a_deeper_one_is_refused_at_its_tag() {
    let pair = Pair::start().await;
    let one = Index::platforms(&["linux/amd64"], 70);
    let two = Index::of([one.clone()]);
    let three = Index::of([two.clone()]);
    two.push(&pair.hub, LITERAL, "1.0.0");
    three.push(&pair.hub, LITERAL, "1.0.1");
    let by_tag = path(Form::Prefix, LITERAL, "manifests/1.0.1");
    assert_eq!(pair.gateway.head(&by_tag).await.status, 403);
    pair.gateway.get(&by_tag).await.expect_denied("index.too_large");
    pair.gateway.pull(Form::Prefix, "docker.io", LITERAL, "1.0.0", &two).await;
    pair.gateway.pull_digest(Form::Prefix, "docker.io", LITERAL, &one).await;
}

#[tokio::test]
async fn an_index_of_more_children_than_anybody_needs_is_refused() {
    let pair = Pair::start().await;
    for (count, tag) in [(1000, "1.0.0"), (1001, "1.0.1")] {
        let child = |number: u32| {
            let digest = Digest::sha256(&number.to_be_bytes());
            let platform = serde_json::json!({"os": "linux", "architecture": format!("a{number}")});
            serde_json::json!({"mediaType": MANIFEST, "digest": digest, "size": 500, "platform": platform})
        };
        let manifests: Vec<Value> = (0..count).map(child).collect();
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests});
        pair.hub.push_manifest(APP, Some(tag), INDEX, index.to_string());
    }
    assert_eq!(pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await.status, 200);
    let larger = path(Form::Prefix, APP, "manifests/1.0.1");
    pair.gateway.get(&larger).await.expect_denied("index.too_large");
    assert_eq!(pair.gateway.head(&larger).await.status, 403);
}

#[tokio::test]
async fn a_layer_two_repositories_share_is_served_in_both_and_vouched_for_once() {
    let pair = Pair::start().await;
    let image = image(9, 200_000);
    image.push(&pair.hub, APP, "1.0.0");
    image.push(&pair.ghcr, "other/app", "1.0.0");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    for _ in 0..2 {
        pair.gateway.pull(Form::Prefix, "ghcr.io", "other/app", "1.0.0", &image).await;
    }
    for blob in &image.blobs {
        let digest = Digest::sha256(blob).to_string();
        assert_eq!(pair.ghcr.hits("GET", &digest), 0, "the bytes are here already");
        assert_eq!(pair.ghcr.hits("HEAD", &digest), 1, "its own upstream vouches for them, once");
    }
}

#[tokio::test]
async fn possession_is_kept_across_a_restart_with_the_upstream_gone() {
    let pair = Pair::start().await;
    let image = image(10, 20_000);
    image.push(&pair.hub, APP, "1.0.0");
    image.push(&pair.ghcr, "other/app", "1.0.0");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    pair.gateway.pull(Form::Prefix, "ghcr.io", "other/app", "1.0.0", &image).await;
    let pair = pair.restart().await;
    pair.hub.stop().await;
    pair.ghcr.stop().await;
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    pair.gateway.pull(Form::Prefix, "ghcr.io", "other/app", "1.0.0", &image).await;
}

#[tokio::test]
async fn whether_a_repository_holds_a_layer_is_not_guessed_while_its_upstream_is_away() {
    let pair = Pair::start().await;
    let image = image(11, 20_000);
    image.push(&pair.hub, APP, "1.0.0");
    image.push(&pair.ghcr, "other/app", "1.0.0");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    let manifest = Form::Prefix.path("ghcr.io", "other/app", "manifests/1.0.0");
    pair.gateway.get(&manifest).await.expect_bytes(&image.manifest);
    pair.ghcr.stop().await;
    let layer =
        Form::Prefix.path("ghcr.io", "other/app", &format!("blobs/{}", Digest::sha256(image.layer(1))));
    let answer = pair.gateway.get(&layer).await;
    assert_eq!(answer.status, 503);
    assert!(answer.has("retry-after"));
    pair.ghcr.restart();
    until("the upstream is asked again", async || pair.gateway.get(&layer).await.status == 200).await;
    pair.gateway.get(&layer).await.expect_bytes(image.layer(1));
}

async fn under(policy: &str) -> (Gateway, Registry) {
    let hub = Registry::plain();
    (Site::new(policy).with_upstream("docker.io", &hub).start().await, hub)
}

#[tokio::test]
async fn warn_mode_serves_what_rules_refuse_with_a_warning_and_nothing_else_softens() {
    let (gateway, hub) = under(&POLICY.replace("\"enforce\"", "\"warn\"")).await;
    let image = image(12, 100);
    image.push(&hub, APP, "latest");
    image.push(&hub, APP, "1.0.0");
    let warned = gateway.get(&path(Form::Prefix, APP, "manifests/latest")).await;
    warned.expect_bytes(&image.manifest);
    let warning = warned.header("warning");
    assert!(warning.starts_with("299 - \"") && warning.ends_with('"'), "{warning}");
    assert!(!gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await.has("warning"));
    let event = gateway.event(|event| event["image"]["tag"] == "latest").await;
    assert_eq!((&event["verdict"], &event["enforced"]), (&"warn".into(), &false.into()), "{event:#}");
    gateway.get("/v2/docker.io/library/python/manifests/1.0.0").await.expect_denied("source.unknown");
    let stray = hub.push_blob(APP, "stray bytes");
    gateway.get(&path(Form::Prefix, APP, format!("blobs/{stray}"))).await.expect_denied("closure.outside");
}

#[tokio::test]
async fn observe_mode_serves_without_a_warning_and_records() {
    let (gateway, hub) = under(&POLICY.replace("\"enforce\"", "\"observe\"")).await;
    let image = image(13, 100);
    image.push(&hub, APP, "latest");
    let answer = gateway.get(&path(Form::Prefix, APP, "manifests/latest")).await;
    answer.expect_bytes(&image.manifest);
    assert!(!answer.has("warning"));
    let event = gateway.event(|event| event["image"]["tag"] == "latest").await;
    assert_eq!(event["enforced"], false, "{event:#}");
    assert_eq!(event["reasons"][0]["code"], "tag.denied", "{event:#}");
}

#[tokio::test]
async fn unlisted_registries_are_served_in_observe_mode_only() {
    let listed = |mode: &str| {
        POLICY.replace("\"enforce\"", mode).replace("[help]", "unlisted = [\"docker.io\"]\n[help]")
    };
    let image = image(14, 100);
    let (gateway, hub) = under(&listed("\"observe\"")).await;
    image.push(&hub, "library/python", "3.11");
    gateway.get("/v2/docker.io/library/python/manifests/3.11").await.expect_bytes(&image.manifest);
    gateway.get("/v2/ghcr.io/library/python/manifests/3.11").await.expect_denied("source.unknown");
    let (gateway, hub) = under(&listed("\"enforce\"")).await;
    image.push(&hub, "library/python", "3.11");
    gateway.get("/v2/docker.io/library/python/manifests/3.11").await.expect_denied("source.unknown");
}

#[tokio::test]
async fn a_pin_outranks_the_upstream_and_admits_its_tag() {
    let (pinned, moved) = (image(15, 100), image(16, 100));
    let pin = |tag: &str| {
        format!("{POLICY}\n[[pin]]\nimage = \"docker.io/{APP}:{tag}\"\ndigest = \"{}\"\n", pinned.digest())
    };
    let (gateway, hub) = under(&pin("1.0")).await;
    pinned.push(&hub, APP, None);
    moved.push(&hub, APP, "1.0");
    let answer = gateway.get(&path(Form::Prefix, APP, "manifests/1.0")).await;
    answer.expect_bytes(&pinned.manifest);
    assert_eq!(answer.header("docker-content-digest"), pinned.digest().to_string());
    gateway.get(&path(Form::Prefix, APP, "manifests/1.1")).await.expect_denied("tag.not_allowed");
}

#[tokio::test]
async fn listed_digests_are_those_of_pins_alone() {
    let (pinned, other) = (image(17, 100), image(18, 100));
    let policy = format!(
        "{POLICY}\n[[source]]\nid = \"listed\"\nmatch = \"docker.io/listed/*\"\ntags = {{ allow = [] }}\n\
         [[pin]]\nimage = \"docker.io/listed/app:1.0.0\"\ndigest = \"{}\"\n",
        pinned.digest()
    );
    let (gateway, hub) = under(&policy).await;
    pinned.push(&hub, "listed/app", "1.0.0");
    other.push(&hub, "listed/app", "1.0.1");
    gateway.pull(Form::Prefix, "docker.io", "listed/app", "1.0.0", &pinned).await;
    gateway.pull_digest(Form::Prefix, "docker.io", "listed/app", &pinned).await;
    let unlisted = path(Form::Prefix, "listed/app", format!("manifests/{}", other.digest()));
    gateway.get(&unlisted).await.expect_denied("digest.not_listed");
}

#[tokio::test]
async fn the_words_stay_short_however_long_the_reference_is() {
    let pair = Pair::start().await;
    let repository = format!("acme/{}", "a".repeat(200));
    let tag = "b".repeat(128);
    for form in [Form::Ns, Form::Prefix] {
        let answer = pair.gateway.get(&path(form, &repository, format!("manifests/{tag}"))).await;
        let error = answer.expect_denied("tag.not_allowed");
        let id = error["detail"]["id"].as_str().unwrap();
        assert!(message(&error).contains(&format!("https://pullgate.example/d/{id}")), "{}", message(&error));
        assert!(answer.phrase.unwrap().len() <= 120);
    }
}

#[tokio::test]
async fn a_remedy_comes_from_policy_and_cache_and_asks_nobody() {
    let pair = Pair::start().await;
    let image: Fixture = image(19, 100);
    image.push(&pair.hub, APP, "1.0.3");
    pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.3")).await.expect_bytes(&image.manifest);
    pair.hub.reset_log();
    let error =
        pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0")).await.expect_denied("tag.not_allowed");
    assert!(message(&error).contains("try 1.0.3"), "{}", message(&error));
    assert!(pair.hub.requests().is_empty());
}

#[tokio::test]
async fn schema_1_and_layers_that_live_elsewhere_are_refused() {
    let pair = Pair::start().await;
    let schema1 = r#"{"schemaVersion":1,"name":"acme/app","tag":"1.0.0","fsLayers":[],"history":[]}"#;
    pair.hub.push_manifest(
        APP,
        Some("1.0.0"),
        "application/vnd.docker.distribution.manifest.v1+json",
        schema1,
    );
    let config = pair.hub.push_blob(APP, "{}").to_string();
    let layer = pair.hub.push_blob(APP, "a layer").to_string();
    let foreign = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar",
            "digest": layer,
            "size": 7,
            "urls": ["https://elsewhere.example/layer"],
        }],
    });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    pair.hub.push_manifest(APP, Some("1.0.1"), media_type, foreign.to_string());
    for tag in ["1.0.0", "1.0.1"] {
        let manifest = path(Form::Prefix, APP, format!("manifests/{tag}"));
        pair.gateway.get(&manifest).await.expect_denied("media.refused");
    }
}

#[tokio::test]
async fn a_layer_that_is_just_arriving_for_one_repository_is_not_given_to_another() {
    let pair = Pair::start().await;
    let image = image(20, 1_000_000);
    image.push(&pair.hub, APP, "1.0.0");
    // The thief's upstream has the manifest alone.
    pair.ghcr.push_manifest("other/thief", Some("1.0.0"), image.media_type, image.manifest.clone());
    pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await.expect_bytes(&image.manifest);
    let stolen = Form::Prefix.path("ghcr.io", "other/thief", "manifests/1.0.0");
    pair.gateway.get(&stolen).await.expect_bytes(&image.manifest);
    let layer = Digest::sha256(image.layer(1));
    let gate = Gate::new();
    pair.hub.on("GET", "/blobs/").once(Fault::SlowGate(65_536, gate.clone()));
    gate.release(4);
    let owner = pair.gateway.open("GET", &path(Form::Prefix, APP, format!("blobs/{layer}")), &[]).await;
    let thief = Form::Prefix.path("ghcr.io", "other/thief", &format!("blobs/{layer}"));
    for headers in [&[][..], &[("range", "bytes=0-9")]] {
        let answer = pair.gateway.send("GET", &thief, headers).await;
        assert!([403, 404].contains(&answer.status.as_u16()), "{answer:?}");
    }
    gate.open();
    Answer::read(owner).await.expect_bytes(image.layer(1));
    // While it arrives it is "not found upstream"; once it is here it is a refusal, and on record.
    until("it is a refusal", async || pair.gateway.get(&thief).await.status == 403).await;
    pair.gateway.get(&thief).await.expect_denied("possession.missing");
    assert_eq!(pair.gateway.blocked().await.len(), 1);
}

#[tokio::test]
async fn a_cached_manifest_is_not_given_to_a_repository_that_does_not_have_it() {
    let pair = Pair::start().await;
    let (image, index) = (image(21, 1000), Index::platforms(&["linux/amd64"], 22));
    for (private, tag) in [(&image, "1.0.0"), (&index, "1.0.1")] {
        private.push(&pair.hub, APP, tag);
        pair.gateway.pull(Form::Prefix, "docker.io", APP, tag, private).await;
        for repository in ["acme/thief", "acme/literal"] {
            pair.hub.push_blob(repository, "something of its own");
            let manifest = path(Form::Prefix, repository, format!("manifests/{}", private.digest()));
            let answer = pair.gateway.get(&manifest).await;
            assert!([403, 404].contains(&answer.status.as_u16()), "{answer:?}");
            assert_ne!(pair.gateway.head(&manifest).await.status, 200);
        }
    }
}

#[tokio::test]
async fn a_manifest_that_can_be_read_in_two_ways_is_not_served() {
    let pair = Pair::start().await;
    let image = image(23, 1000);
    image.push(&pair.hub, APP, "1.0.0");
    let text = String::from_utf8(image.manifest.to_vec()).unwrap();
    let both = text.replacen('{', r#"{"manifests":[],"#, 1);
    let other_type = text.replace("image.manifest.v1+json", "image.index.v1+json");
    let twice = text.replacen('{', r#"{"layers":[],"#, 1);
    for (number, ambiguous) in [both, other_type, twice].into_iter().enumerate() {
        let tag = format!("2.0.{number}");
        pair.hub.push_manifest(APP, Some(&tag), image.media_type, ambiguous.clone());
        let answer = pair.gateway.get(&path(Form::Prefix, APP, format!("manifests/{tag}"))).await;
        assert_eq!(answer.status, 502, "{ambiguous}");
    }
}

#[tokio::test]
async fn an_upstreams_wrong_content_type_does_not_become_the_gateways() {
    let pair = Pair::start().await;
    let image = image(24, 1000);
    image.push(&pair.hub, APP, "1.0.0");
    pair.hub.on("*", "/manifests/").always(Fault::ContentType("text/html"));
    let answer = pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await;
    match answer.status.as_u16() {
        200 => assert_eq!(answer.header("content-type"), image.media_type),
        other => assert_eq!(other, 502),
    }
}
