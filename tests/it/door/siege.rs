//! What one client may do to the others: nothing.

use std::time::Duration;

use bytes::Bytes;
use pullgate::clock::Clock;
use pullgate::oci::Digest;

use super::{Pair, image};
use crate::support::gateway::{Form, morning};
use crate::support::image::{Fixture, Index};

const APP: &str = "acme/app";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[tokio::test]
async fn a_refusal_of_one_client_is_never_the_answer_to_another() {
    let pair = Pair::with(|site| site.with("listen.trusted_proxies", vec!["127.0.0.0/8"])).await;
    let image = image(30, 1000);
    image.push(&pair.hub, APP, "1.0.0");
    let layer = Digest::sha256(image.layer(0));
    let blob = path(Form::Ns, APP, format!("blobs/{layer}"));
    let as_manifest = path(Form::Ns, APP, format!("manifests/{layer}"));
    let attacker = [("x-forwarded-for", "10.1.1.1"), ("authorization", "Bearer nobody's")];
    pair.gateway.send("GET", &path(Form::Ns, APP, "manifests/1.0.0"), &[]).await;
    pair.gateway.send("GET", &as_manifest, &attacker).await.expect_denied("client.unknown");
    for address in ["10.1.1.1", "10.2.2.2"] {
        let answer = pair.gateway.send("GET", &blob, &[("x-forwarded-for", address)]).await;
        assert_eq!(answer.status, 200, "{address}");
    }
}

#[tokio::test]
async fn a_header_does_not_make_a_manifest_another_thing_for_other_repositories() {
    let pair = Pair::start().await;
    let image = image(31, 1000);
    image.push(&pair.hub, "acme/first", "1.0.0");
    image.push(&pair.hub, APP, "1.0.0");
    let lie = crate::support::fault::Fault::ContentType(
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    );
    pair.hub.on("*", "/acme/first/manifests/").always(lie);
    pair.gateway.get(&path(Form::Prefix, "acme/first", "manifests/1.0.0")).await;
    let answer = pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], OCI_MANIFEST);
}

/// The image with other sizes for its config and layers: what anybody may push who may push at all.
fn lie(image: &Fixture, seed: u64) -> Bytes {
    let mut manifest: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
    let wrong = |size: &mut serde_json::Value| *size = (size.as_u64().unwrap() + seed).into();
    wrong(&mut manifest["config"]["size"]);
    manifest["layers"].as_array_mut().unwrap().iter_mut().for_each(|layer| wrong(&mut layer["size"]));
    manifest.to_string().into()
}

#[tokio::test]
async fn a_manifest_that_names_a_shared_layer_with_another_size_disturbs_no_other_image() {
    let pair = Pair::start().await;
    let image = image(33, 200_000);
    image.push(&pair.hub, APP, "1.0.0");
    // Enough of them that the good manifest is neither the first nor the last of any order.
    let lies: Vec<Bytes> = (1..9).map(|seed| lie(&image, seed)).collect();
    for (tag, lie) in lies.iter().enumerate() {
        let tag = format!("6.6.{tag}");
        pair.hub.push_manifest(APP, Some(tag.as_str()), image.media_type, lie.clone());
        pair.gateway.get(&path(Form::Prefix, APP, format!("manifests/{tag}"))).await.expect_bytes(lie);
    }
    let layer = path(Form::Prefix, APP, format!("blobs/{}", Digest::sha256(image.layer(0))));
    // Only lies are known yet; that is on nobody's record once the good image is.
    assert_eq!(pair.gateway.get(&layer).await.status, 502);
    pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await.expect_bytes(&image.manifest);
    let told = pair.gateway.head(&layer).await;
    assert_eq!(told.header("content-length"), image.layer(0).len().to_string());
    for _ in 0..2 {
        pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    }
    let digest = Digest::sha256(image.layer(0)).to_string();
    assert_eq!(pair.hub.hits("GET", &digest), 2, "once for the lies, once for the image");
    let pair = pair.restart().await;
    pair.hub.stop().await;
    pair.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &image).await;
}

#[tokio::test]
async fn a_false_size_by_digest_alone_gives_way_to_a_tag_where_the_upstream_tells_no_length() {
    let pair = Pair::start().await;
    let image = image(34, 200_000);
    image.push(&pair.hub, APP, "1.0.0");
    pair.hub.on("HEAD", "/blobs/").always(crate::support::fault::Fault::status(503));
    for seed in 1..9 {
        let lie = lie(&image, seed);
        let digest = pair.hub.push_manifest(APP, None, image.media_type, lie);
        pair.gateway.get(&path(Form::Prefix, APP, format!("manifests/{digest}"))).await;
    }
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
}

#[tokio::test]
async fn a_false_size_that_was_believed_is_doubted_as_soon_as_the_upstream_can_tell() {
    let pair = Pair::start().await;
    let image = image(36, 200_000);
    image.push(&pair.hub, APP, "1.0.0");
    let digests: Vec<Digest> = (1..30)
        .map(|seed| pair.hub.push_manifest(APP, None, image.media_type, lie(&image, seed)))
        .chain([image.digest()])
        .collect();
    for digest in digests {
        pair.gateway.get(&path(Form::Prefix, APP, format!("manifests/{digest}"))).await;
    }
    pair.hub.on("HEAD", "/blobs/").always(crate::support::fault::Fault::status(503));
    let layer = path(Form::Prefix, APP, format!("blobs/{}", Digest::sha256(image.layer(0))));
    // No tag leads anywhere, nobody tells the length, and the good one is not the first by digest.
    assert_eq!(pair.gateway.get(&layer).await.status, 502);
    pair.hub.clear_faults();
    pair.gateway.get(&layer).await.expect_bytes(image.layer(0));
}

#[tokio::test]
async fn made_up_blobs_make_the_upstream_work_once_a_minute_at_most() {
    let clock = Clock::manual(morning());
    let pair = Pair::with(|site| site.with_clock(&clock)).await;
    let index = Index::platforms(&["linux/amd64", "linux/arm64", "linux/s390x"], 37);
    index.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await;
    // Not in any image, yet the upstream has it: the children are looked into, all of them, once.
    let stray = pair.hub.push_blob(APP, "stray");
    pair.hub.reset_log();
    for _ in 0..3 {
        pair.gateway
            .get(&path(Form::Prefix, APP, format!("blobs/{stray}")))
            .await
            .expect_denied("closure.outside");
    }
    let asked = pair.hub.requests().len();
    assert_eq!((asked, pair.hub.hits("GET", "/manifests/")), (4, 3));

    let second = Index::platforms(&["linux/amd64", "linux/arm64"], 38);
    second.push(&pair.hub, APP, "2.0.0");
    pair.gateway.get(&path(Form::Prefix, APP, "manifests/2.0.0")).await;
    pair.hub.reset_log();
    let made_up =
        |number: u64| path(Form::Prefix, APP, format!("blobs/{}", Digest::sha256(&number.to_be_bytes())));
    for number in 0..20 {
        pair.gateway.get(&made_up(number)).await.expect_denied("closure.outside");
    }
    assert_eq!((pair.hub.requests().len(), pair.hub.hits("HEAD", "/blobs/")), (1, 1));
    clock.advance(Duration::from_secs(61));
    for number in 20..40 {
        pair.gateway.get(&made_up(number)).await.expect_denied("closure.outside");
    }
    assert_eq!(pair.hub.requests().len(), 2);
    // What is in an image is found as soon as the repository is looked into again.
    clock.advance(Duration::from_secs(61));
    let layer = second.children[1].layer(0);
    let blob = path(Form::Prefix, APP, format!("blobs/{}", Digest::sha256(layer)));
    pair.gateway.get(&blob).await.expect_bytes(layer);
}

#[tokio::test]
async fn children_that_the_upstream_lost_hide_no_others() {
    let clock = Clock::manual(morning());
    let pair = Pair::with(|site| site.with_clock(&clock)).await;
    let lost: Vec<_> = (0..70).map(|seed| image(1000 + seed, 10)).collect();
    let kept = image(39, 1000);
    let index = Index::of(lost.into_iter().chain([kept.clone()]));
    kept.push(&pair.hub, APP, None);
    pair.hub.push_manifest(APP, Some("1.0.0"), index.media_type, index.manifest.clone());
    pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await;
    let blob = path(Form::Prefix, APP, format!("blobs/{}", Digest::sha256(kept.layer(0))));
    let mut answer = pair.gateway.get(&blob).await;
    if answer.status == 403 {
        clock.advance(Duration::from_secs(61));
        answer = pair.gateway.get(&blob).await;
    }
    answer.expect_bytes(kept.layer(0));
}

#[tokio::test]
async fn a_child_of_an_index_is_not_to_be_had_as_a_blob() {
    let pair = Pair::start().await;
    let index = Index::platforms(&["linux/amd64", "linux/arm64"], 32);
    index.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await;
    let child: Digest = index.children[0].digest();
    pair.gateway
        .get(&path(Form::Prefix, APP, format!("blobs/{child}")))
        .await
        .expect_denied("closure.outside");
    assert_eq!(pair.hub.hits("GET", &format!("/blobs/{child}")), 0);
}

fn path(form: Form, repository: &str, rest: impl AsRef<str>) -> String {
    form.path("docker.io", repository, rest.as_ref())
}
