//! One verified copy of everything: fetched once, never wrong, there when the upstream is not.

use std::time::Duration;

use bytes::Bytes;
use oci_distribution::secrets::RegistryAuth;
use pullgate::clock::Clock;
use pullgate::oci::Digest;
use serde_json::{Value, json};

use super::{POLICY, Pair, image};
use crate::support::fault::{Fault, Gate};
use crate::support::gateway::{Answer, Form, morning, until};
use crate::support::image::{Fixture, Index};

const APP: &str = "acme/app";
const BLOB: usize = 4 << 20;
const PIECE: usize = 64 << 10;

fn path(rest: impl AsRef<str>) -> String {
    Form::Prefix.path("docker.io", APP, rest.as_ref())
}

fn blob_path(blob: &Bytes) -> String {
    path(format!("blobs/{}", Digest::sha256(blob)))
}

/// A gateway that holds the image's manifest and none of its layers.
async fn with_manifest(image: &Fixture) -> Pair {
    let pair = Pair::start().await;
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&image.manifest);
    pair
}

async fn timed() -> (Pair, Clock) {
    timed_under(POLICY).await
}

async fn timed_under(policy: &str) -> (Pair, Clock) {
    let clock = Clock::manual(morning());
    let pair = Pair::with(|site| {
        site.write_policy(policy);
        site.with_clock(&clock).with("cache.tag_ttl", "15m")
    });
    (pair.await, clock)
}

/// Whether a reply is what a client takes for the content.
fn is_whole(answer: &Answer) -> bool {
    answer.complete && (answer.status == 200 || answer.status == 206)
}

#[tokio::test]
async fn twenty_clients_of_one_cold_blob_cause_one_upstream_get() {
    let image = image(1, BLOB);
    let pair = with_manifest(&image).await;
    let layer = image.layer(1).clone();
    let digest = Digest::sha256(&layer).to_string();
    let gate = Gate::new();
    pair.hub.on("GET", &digest).always(Fault::SlowGate(PIECE, gate.clone()));
    let path = blob_path(&layer);

    // Ten come while the upstream has sent nothing: one of them for a range.
    let early: Vec<_> = (0..10)
        .map(|number| {
            let (client, url) = (pair.gateway.h1.clone(), pair.gateway.url(&path));
            tokio::spawn(async move {
                let request = client.get(url);
                let request =
                    if number == 0 { request.header("range", "bytes=1000000-1999999") } else { request };
                request.send().await.unwrap()
            })
        })
        .collect();
    pair.hub.wait_for(|log| log.hits("GET", &digest) > 0).await;
    gate.release(8);
    pair.hub.wait_for(|log| log.bytes_sent(&digest) >= 8 * PIECE as u64).await;
    let mut replies = Vec::new();
    for client in early {
        replies.push(client.await.unwrap());
    }
    // Ten come late: one for a range; and of the early ones one hangs up in the middle.
    for number in 0..10 {
        let range: &[(&str, &str)] = if number == 0 { &[("range", "bytes=-100000")] } else { &[] };
        replies.push(pair.gateway.open("GET", &path, range).await);
    }
    let mut leaver = replies.remove(1);
    assert!(leaver.chunk().await.unwrap().is_some());
    drop(leaver);

    gate.open();
    let reading = replies.into_iter().map(|reply| tokio::spawn(Answer::read(reply)));
    for (number, reading) in reading.collect::<Vec<_>>().into_iter().enumerate() {
        let answer = reading.await.unwrap();
        match number {
            0 => assert!(is_whole(&answer) && answer.body == layer.slice(1_000_000..2_000_000)),
            9 => assert!(is_whole(&answer) && answer.body == layer.slice(BLOB - 100_000..)),
            _ => answer.expect_bytes(&layer),
        }
    }
    assert_eq!(pair.hub.hits("GET", &digest), 1);
    assert_eq!(pair.hub.bytes_sent(&digest), BLOB as u64);
}

#[tokio::test]
async fn a_blob_whose_only_client_hangs_up_is_finished_and_never_fetched_again() {
    let image = image(2, BLOB);
    let pair = with_manifest(&image).await;
    let layer = image.layer(1).clone();
    let digest = Digest::sha256(&layer).to_string();
    let gate = Gate::new();
    pair.hub.on("GET", &digest).once(Fault::SlowGate(PIECE, gate.clone()));
    gate.release(4);
    let mut leaver = pair.gateway.open("GET", &blob_path(&layer), &[]).await;
    assert!(leaver.chunk().await.unwrap().is_some());
    drop(leaver);
    gate.open();
    pair.hub.wait_for(|log| log.matching("GET", &digest).all(|request| request.ended)).await;
    pair.gateway.get(&blob_path(&layer)).await.expect_bytes(&layer);
    assert_eq!(pair.hub.hits("GET", &digest), 1);
}

#[tokio::test]
async fn twenty_clients_of_one_cold_tag_cause_one_head_and_one_get() {
    let pair = Pair::start().await;
    let image = image(3, 100);
    image.push(&pair.hub, APP, "1.0.0");
    let gate = Gate::new();
    pair.hub.on("*", "/manifests/").always(Fault::Delay(gate.clone()));
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let (client, url) = (pair.gateway.h1.clone(), pair.gateway.url(&path("manifests/1.0.0")));
            tokio::spawn(async move { Answer::read(client.get(url).send().await.unwrap()).await })
        })
        .collect();
    pair.hub.wait_for(|log| log.hits("HEAD", "/manifests/1.0.0") > 0).await;
    gate.open();
    for client in clients {
        client.await.unwrap().expect_bytes(&image.manifest);
    }
    assert_eq!((pair.hub.hits("HEAD", "/manifests/"), pair.hub.hits("GET", "/manifests/")), (1, 1));
}

#[tokio::test]
async fn the_head_of_a_cold_blob_fetches_nothing() {
    let image = image(4, 100_000);
    let pair = with_manifest(&image).await;
    let head = pair.gateway.head(&blob_path(image.layer(1))).await;
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "100000"));
    assert_eq!(pair.hub.hits("GET", "/blobs/"), 0);
}

#[tokio::test]
async fn a_forged_blob_never_completes_and_the_next_request_fetches_it_anew() {
    for (seed, size) in [(5, 70_000), (6, 1_000_000), (7, BLOB)] {
        let image = image(seed, size);
        let pair = with_manifest(&image).await;
        let layer = image.layer(1).clone();
        let digest = Digest::sha256(&layer).to_string();
        let gate = Gate::new();
        pair.hub.on("GET", &digest).once([Fault::WrongBytes, Fault::SlowGate(PIECE, gate.clone())]);
        let path = blob_path(&layer);
        let ranges: [&[(&str, &str)]; 4] =
            [&[], &[("range", "bytes=0-9")], &[("range", "bytes=-10")], &[("range", "bytes=0-")]];
        let clients: Vec<_> = ranges
            .into_iter()
            .map(|headers| {
                let (client, url) = (pair.gateway.h1.clone(), pair.gateway.url(&path));
                tokio::spawn(async move {
                    Answer::read(crate::support::client::send(&client, "GET", url, headers).await).await
                })
            })
            .collect();
        pair.hub.wait_for(|log| log.hits("GET", &digest) > 0).await;
        gate.open();
        let slices = [layer.clone(), layer.slice(..10), layer.slice(size - 10..), layer.clone()];
        let mut broken = 0;
        for (client, slice) in clients.into_iter().zip(slices) {
            let answer = client.await.unwrap();
            // Who comes after the mismatch has it fetched anew already.
            let right = answer.body == slice;
            assert!(!is_whole(&answer) || right, "{size}: a forged blob ended as {}", answer.status);
            broken += usize::from(!is_whole(&answer));
        }
        assert!(broken > 0, "who began the forged fetch cannot end well");
        pair.gateway.get(&path).await.expect_bytes(&layer);
        assert_eq!(pair.hub.hits("GET", &digest), 2);
        let event = pair.gateway.event(|event| event["kind"] == "upstream").await;
        assert_eq!(event["image"]["digest"], digest, "{event:#}");
        assert_eq!(event["image"]["repository"], APP);
    }
}

#[tokio::test]
async fn a_forged_small_blob_is_a_clean_502() {
    let image = image(8, 60_000);
    let pair = with_manifest(&image).await;
    let layer = image.layer(1);
    let digest = Digest::sha256(layer).to_string();
    for method in ["once", "again"] {
        pair.hub.on("GET", &digest).once(Fault::WrongBytes);
        let answer = pair.gateway.get(&blob_path(layer)).await;
        assert_eq!(answer.status, 502, "{method}");
        answer.expect_error(502, "DIGEST_INVALID");
    }
    pair.gateway.get(&blob_path(layer)).await.expect_bytes(layer);
    assert_eq!(pair.hub.hits("GET", &digest), 3);
}

#[tokio::test]
async fn a_blob_of_another_length_than_its_manifest_says_is_never_served() {
    for (seed, fault) in (9..).zip([
        Fault::WrongContentLength(99_999),
        Fault::WrongContentLength(100_001),
        Fault::HugeBody { length: 50 << 20, declared: true },
        Fault::HugeBody { length: 50 << 20, declared: false },
    ]) {
        let image = image(seed, 100_000);
        let pair = with_manifest(&image).await;
        let layer = image.layer(1);
        let digest = Digest::sha256(layer).to_string();
        pair.hub.on("GET", &digest).always(fault);
        let answer = pair.gateway.get(&blob_path(layer)).await;
        assert!(
            !is_whole(&answer) || answer.body == *layer,
            "{seed}: {} {:?}",
            answer.status,
            answer.headers
        );
        pair.hub.clear_faults();
        pair.gateway.get(&blob_path(layer)).await.expect_bytes(layer);
    }
}

#[tokio::test]
async fn a_blob_without_announced_length_is_served_with_the_length_of_its_manifest() {
    let image = image(14, 300_000);
    let pair = with_manifest(&image).await;
    pair.hub.on("GET", "/blobs/").always(Fault::NoContentLength);
    pair.gateway.get(&blob_path(image.layer(1))).await.expect_bytes(image.layer(1));
}

#[tokio::test]
async fn a_manifest_that_lies_about_a_blobs_size_gets_nobody_the_blob() {
    let pair = Pair::start().await;
    let image = image(15, 100_000);
    image.push(&pair.hub, APP, None);
    for (tag, size) in [("1.0.1", "100001"), ("1.0.2", "99999"), ("1.0.3", "5")] {
        let lie = String::from_utf8(image.manifest.to_vec())
            .unwrap()
            .replace("\"size\":100000", &format!("\"size\":{size}"));
        pair.hub.push_manifest(APP, Some(tag), image.media_type, lie);
    }
    pair.gateway.get(&path("manifests/1.0.1")).await;
    let answer = pair.gateway.get(&blob_path(image.layer(1))).await;
    assert!(!is_whole(&answer), "{answer:?}");
}

#[tokio::test]
async fn a_blob_that_breaks_off_upstream_is_resumed_where_it_broke() {
    let image = image(16, BLOB);
    let pair = with_manifest(&image).await;
    let layer = image.layer(1);
    let digest = Digest::sha256(layer).to_string();
    pair.hub.on("GET", &digest).once(Fault::CutAfter(1_000_000));
    pair.gateway.get(&blob_path(layer)).await.expect_bytes(layer);
    assert_eq!(pair.hub.hits("GET", &digest), 2);
    let resumed = pair.hub.last("GET", &digest);
    let range = resumed.header("range").unwrap();
    let from: usize = range.strip_prefix("bytes=").unwrap().trim_end_matches('-').parse().unwrap();
    assert!(from <= 1_000_000 && from > 0, "{range}");
    assert_eq!(resumed.status.unwrap(), 206);
}

#[tokio::test]
async fn a_resumption_that_is_not_exact_never_reaches_a_client_as_content() {
    for (seed, fault) in (17..).zip([
        Fault::IgnoreRange,
        Fault::WrongContentRange("bytes 5-4194303/4194304"),
        Fault::WrongContentRange("bytes 1000000-4194303/9999999"),
        Fault::status(416),
    ]) {
        let image = image(seed, BLOB);
        let pair = with_manifest(&image).await;
        let layer = image.layer(1);
        let digest = Digest::sha256(layer).to_string();
        pair.hub.on("GET", &digest).once(Fault::CutAfter(1_000_000));
        pair.hub.on("GET", &digest).times(10, fault);
        let answer = pair.gateway.get(&blob_path(layer)).await;
        assert!(!is_whole(&answer) || answer.body == *layer, "{seed}: {}", answer.status);
        pair.hub.clear_faults();
        pair.gateway.get(&blob_path(layer)).await.expect_bytes(layer);
    }
}

#[tokio::test]
async fn a_blob_that_always_breaks_off_fails_and_is_fetched_again_later() {
    let image = image(21, BLOB);
    let pair = with_manifest(&image).await;
    let layer = image.layer(1);
    pair.hub.on("GET", "/blobs/").always([Fault::CutAfter(200_000), Fault::IgnoreRange]);
    let answer = pair.gateway.get(&blob_path(layer)).await;
    assert!(!is_whole(&answer));
    pair.hub.clear_faults();
    pair.gateway.get(&blob_path(layer)).await.expect_bytes(layer);
}

#[tokio::test]
async fn a_second_pull_needs_no_upstream_by_tag_and_digest_also_after_a_restart() {
    let pair = Pair::start().await;
    let index = Index::platforms(&["linux/amd64", "linux/arm64"], 22);
    let single = image(122, 5000);
    index.push(&pair.hub, APP, "1.0.0");
    index.push(&pair.hub, "acme/literal", "1.0.0");
    single.push(&pair.hub, APP, "1.0.1");
    let types = vec!["application/vnd.oci.image.layer.v1.tar"];
    let pull = async |pair: &Pair| {
        let reference = pair.gateway.reference(APP, "1.0.1");
        let client = pair.gateway.oci_client();
        let pulled = client.pull(&reference, &RegistryAuth::Anonymous, types.clone()).await.unwrap();
        assert_eq!(pulled.digest.unwrap(), single.digest().to_string());
    };
    pull(&pair).await;
    for repository in [APP, "acme/literal"] {
        pair.gateway.pull(Form::Ns, "docker.io", repository, "1.0.0", &index).await;
    }
    pair.hub.stop().await;
    pair.ghcr.stop().await;
    let mut pair = pair;
    for _ in ["the same process", "after a restart"] {
        for form in [Form::Ns, Form::Prefix, Form::Bare] {
            for repository in [APP, "acme/literal"] {
                pair.gateway.pull(form, "docker.io", repository, "1.0.0", &index).await;
                pair.gateway.pull_digest(form, "docker.io", repository, &index).await;
            }
        }
        pull(&pair).await;
        pair = pair.restart().await;
    }
}

#[tokio::test]
async fn cached_tags_go_on_long_after_their_time_while_the_upstream_is_away() {
    for moved in ["keep", "follow"] {
        let (pair, clock) = timed_under(&POLICY.replace("\"keep\"", &format!("\"{moved}\""))).await;
        let image = image(23, 5000);
        image.push(&pair.hub, APP, "1.0.0");
        pair.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &image).await;
        pair.hub.stop().await;
        clock.advance(Duration::from_secs(7 * 24 * 3600));
        pair.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &image).await;
        let pair = pair.restart().await;
        pair.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &image).await;
    }
}

#[tokio::test]
async fn stale_answers_end_when_the_settings_say_so() {
    let clock = Clock::manual(morning());
    let pair = Pair::with(|site| {
        site.write_policy(&POLICY.replace("\"keep\"", "\"follow\""));
        site.with_clock(&clock).with("cache.tag_ttl", "15m").with("cache.stale_if_error", "1h")
    })
    .await;
    let image = image(24, 5000);
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    pair.hub.stop().await;
    clock.advance(Duration::from_secs(50 * 60));
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&image.manifest);
    clock.advance(Duration::from_secs(3600));
    let answer = pair.gateway.get(&path("manifests/1.0.0")).await;
    assert_eq!(answer.status, 503);
    assert!(answer.has("retry-after"));
    pair.gateway.pull_digest(Form::Prefix, "docker.io", APP, &image).await;
}

fn drifts(events: &[Value]) -> Vec<&Value> {
    events.iter().filter(|event| event["kind"] == "drift").collect()
}

#[tokio::test]
async fn a_moved_tag_keeps_its_locked_digest_and_the_drift_is_recorded_once() {
    let (pair, clock) = timed().await;
    let (old, new) = (image(25, 100), image(26, 100));
    old.push(&pair.hub, APP, "1.0.0");
    pair.gateway.pull(Form::Ns, "docker.io", APP, "1.0.0", &old).await;
    new.push(&pair.hub, APP, "1.0.0");
    for times in 2..5 {
        // The upstream's last answer may be noted after the clock was moved: then it moves on.
        let asked = async || {
            clock.advance(Duration::from_secs(16 * 60));
            pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&old.manifest);
            pair.hub.hits("HEAD", "/manifests/1.0.0") >= times
        };
        until("the upstream is asked again", asked).await;
    }
    let drift = pair.gateway.event(|event| event["kind"] == "drift").await;
    assert_eq!(drift["image"]["previous_digest"], old.digest().to_string(), "{drift:#}");
    assert_eq!(drift["image"]["digest"], new.digest().to_string());
    assert_eq!(drift["image"]["reference"], "docker.io/acme/app:1.0.0");
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&old.manifest);
    let pair = pair.restart().await;
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&old.manifest);
    let site = pair.gateway.stop().await;
    assert_eq!(drifts(&site.events().await).len(), 1);
    assert_eq!(pair.hub.hits("GET", &new.digest().to_string()), 0, "what nobody may have is not fetched");
}

#[tokio::test]
async fn a_tag_that_is_gone_upstream_keeps_its_locked_digest_and_the_drift_says_null() {
    let (pair, clock) = timed().await;
    let image = image(27, 100);
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&image.manifest);
    pair.hub.delete_tag(APP, "1.0.0");
    clock.advance(Duration::from_secs(16 * 60));
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&image.manifest);
    let drift = pair.gateway.event(|event| event["kind"] == "drift").await;
    assert_eq!(drift["image"]["digest"], Value::Null, "{drift:#}");
    assert_eq!(drift["image"]["previous_digest"], image.digest().to_string());
}

#[tokio::test]
async fn with_moved_deny_a_moved_tag_is_refused() {
    let (pair, clock) = timed_under(&POLICY.replace("\"keep\"", "\"deny\"")).await;
    let (old, new) = (image(28, 100), image(29, 100));
    old.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&old.manifest);
    new.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&old.manifest);
    clock.advance(Duration::from_secs(16 * 60));
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_denied("tag.moved");
    pair.hub.move_tag(APP, "1.0.0", old.digest());
    clock.advance(Duration::from_secs(16 * 60));
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&old.manifest);
}

#[tokio::test]
async fn with_moved_follow_the_new_digest_is_served_once_the_time_is_up() {
    let (pair, clock) = timed_under(&POLICY.replace("\"keep\"", "\"follow\"")).await;
    let (old, new) = (image(30, 100), image(31, 100));
    old.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&old.manifest);
    new.push(&pair.hub, APP, "1.0.0");
    clock.advance(Duration::from_secs(14 * 60));
    for _ in 0..3 {
        pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&old.manifest);
    }
    assert_eq!(pair.hub.hits("HEAD", "/manifests/1.0.0"), 1, "within its time a tag is not asked about");
    clock.advance(Duration::from_secs(2 * 60));
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&new.manifest);
    assert_eq!(pair.hub.hits("HEAD", "/manifests/1.0.0"), 2);
    pair.gateway.pull_digest(Form::Prefix, "docker.io", APP, &old).await;
}

#[tokio::test]
async fn a_tag_whose_content_was_never_served_is_not_locked() {
    let (pair, clock) = timed().await;
    let (forged, good) = (image(32, 100), image(33, 100));
    forged.push(&pair.hub, APP, "1.0.0");
    pair.hub.on("GET", "/manifests/").once(Fault::WrongBytes);
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_error(502, "MANIFEST_INVALID");
    good.push(&pair.hub, APP, "1.0.0");
    clock.advance(Duration::from_secs(16 * 60));
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&good.manifest);
}

fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").parse().unwrap()
}

#[tokio::test]
async fn a_throttling_upstream_is_429_with_its_time_and_cached_content_goes_on() {
    let pair = Pair::start().await;
    let (cached, cold) = (image(34, 100), image(35, 100));
    cached.push(&pair.hub, APP, "1.0.0");
    cold.push(&pair.hub, APP, "1.0.1");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &cached).await;
    pair.hub.on("*", "/").always(Fault::throttled("120"));
    for _ in 0..2 {
        let answer = pair.gateway.get(&path("manifests/1.0.1")).await;
        answer.expect_error(429, "TOOMANYREQUESTS");
        assert!((1..=120).contains(&retry_after(&answer)), "{}", retry_after(&answer));
        assert_eq!(pair.gateway.head(&path("manifests/1.0.1")).await.status, 429);
    }
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &cached).await;
}

#[tokio::test]
async fn a_failing_upstream_is_503_and_nothing_of_it_is_remembered() {
    let pair = Pair::start().await;
    let image = image(36, 100_000);
    image.push(&pair.hub, APP, "1.0.0");
    pair.hub.on("*", "/manifests/").always(Fault::status(500));
    for access in ["manifests/1.0.0".to_owned(), format!("manifests/{}", image.digest())] {
        let answer = pair.gateway.get(&path(access)).await;
        answer.expect_error(503, "TOOMANYREQUESTS");
        assert!(retry_after(&answer) >= 1);
    }
    pair.hub.clear_faults();
    let served = async || pair.gateway.get(&path("manifests/1.0.0")).await.status == 200;
    until("the upstream is asked again", served).await;
    pair.hub.on("*", "/blobs/").always(Fault::status(502));
    let answer = pair.gateway.get(&blob_path(image.layer(1))).await;
    assert_eq!(answer.status, 503);
    assert!(retry_after(&answer) >= 1);
    pair.hub.clear_faults();
    let served = async || pair.gateway.get(&blob_path(image.layer(1))).await.status == 200;
    until("the upstream is asked again", served).await;
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    assert_eq!(pair.gateway.blocked().await, [Value::Null; 0], "a failure is no refusal");
}

#[tokio::test]
async fn an_upstream_that_cannot_be_reached_is_503() {
    let pair = Pair::start().await;
    let image = image(37, 100);
    image.push(&pair.hub, APP, "1.0.0");
    pair.hub.stop().await;
    for rest in
        ["manifests/1.0.0".to_owned(), format!("manifests/{}", image.digest()), "tags/list".to_owned()]
    {
        let answer = pair.gateway.get(&path(rest)).await;
        answer.expect_error(503, "TOOMANYREQUESTS");
        assert!(retry_after(&answer) >= 1);
    }
    pair.hub.restart();
    let served = async || pair.gateway.get(&path("manifests/1.0.0")).await.status == 200;
    until("the upstream is asked again", served).await;
}

#[tokio::test]
async fn an_upstream_whose_certificate_is_another_cas_is_503_and_gets_no_request() {
    let stranger = crate::support::registry::Registry::plain();
    let honest = crate::support::registry::Registry::plain();
    let site = crate::support::gateway::Site::new(POLICY).with_upstream("docker.io", &stranger);
    std::fs::write(site.path("docker.io.pem"), honest.ca_pem()).unwrap();
    image(38, 100).push(&stranger, APP, "1.0.0");
    let gateway = site.start().await;
    gateway.get(&path("manifests/1.0.0")).await.expect_error(503, "TOOMANYREQUESTS");
    assert!(stranger.requests().is_empty());
}

#[tokio::test]
async fn a_manifest_of_twenty_mebibytes_is_502_and_loses_nothing() {
    let pair = Pair::start().await;
    let good = image(39, 100);
    good.push(&pair.hub, APP, "1.0.0");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &good).await;
    let padded = json!({"schemaVersion": 2, "mediaType": good.media_type, "layers": [], "annotations": {"x": "y".repeat(20 << 20)}});
    let huge = pair.hub.push_manifest(APP, Some("1.0.1"), good.media_type, padded.to_string());
    for rest in ["manifests/1.0.1".to_owned(), format!("manifests/{huge}")] {
        let answer = pair.gateway.get(&path(rest)).await;
        assert_eq!(answer.status, 502);
        answer.expect_error(502, "MANIFEST_INVALID");
    }
    for declared in [true, false] {
        pair.hub.on("GET", "/manifests/").once(Fault::HugeBody { length: 20 << 20, declared });
        image(40, 100).push(&pair.hub, APP, "1.0.2");
        assert_eq!(pair.gateway.get(&path("manifests/1.0.2")).await.status, 502);
    }
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &good).await;
}

#[tokio::test]
async fn a_manifest_with_other_bytes_than_its_digest_is_502_and_an_event() {
    let pair = Pair::start().await;
    let image = image(41, 100);
    image.push(&pair.hub, APP, "1.0.0");
    let by_digest = path(format!("manifests/{}", image.digest()));
    for rest in [path("manifests/1.0.0"), by_digest.clone()] {
        pair.hub.on("GET", "/manifests/").once(Fault::WrongBytes);
        pair.gateway.get(&rest).await.expect_error(502, "MANIFEST_INVALID");
    }
    let event = pair.gateway.event(|event| event["kind"] == "upstream").await;
    assert_eq!(event["image"]["digest"], image.digest().to_string(), "{event:#}");
    assert_eq!(event["image"]["registry"], "docker.io");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
}

#[tokio::test]
async fn a_manifest_that_is_none_is_502() {
    let pair = Pair::start().await;
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let bodies = ["", "null", "[]", "{", "<html>captive portal</html>", "{\"schemaVersion\":2}"];
    for (number, body) in bodies.into_iter().enumerate() {
        pair.hub.push_manifest(APP, Some(&format!("1.0.{number}")), media_type, body);
        let answer = pair.gateway.get(&path(format!("manifests/1.0.{number}"))).await;
        assert_eq!(answer.status, 502, "{body:?}: {}", String::from_utf8_lossy(&answer.body));
    }
    assert_eq!(pair.gateway.get("/v2/").await.status, 200);
}

#[tokio::test]
async fn a_blob_too_large_for_the_store_passes_through_with_the_right_bytes() {
    let pair = Pair::with(|site| site.with("storage.max_size", "1MiB")).await;
    let image = image(42, BLOB);
    image.push(&pair.hub, APP, "1.0.0");
    for _ in 0..2 {
        pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    }
    let layer = image.layer(1);
    pair.hub.on("GET", &Digest::sha256(layer).to_string()).once(Fault::WrongBytes);
    let answer = pair.gateway.get(&blob_path(layer)).await;
    assert!(!is_whole(&answer), "a forged blob never completes, cached or not");
}

#[tokio::test]
async fn a_small_store_forgets_blobs_and_never_serves_wrong_ones() {
    let pair = Pair::with(|site| site.with("storage.max_size", "1MiB")).await;
    let images: Vec<_> = (50..60).map(|seed| image(seed, 250_000)).collect();
    for (number, image) in images.iter().enumerate() {
        image.push(&pair.hub, APP, format!("1.0.{number}").as_str());
    }
    for _ in 0..2 {
        for (number, image) in images.iter().enumerate() {
            pair.gateway.pull(Form::Prefix, "docker.io", APP, &format!("1.0.{number}"), image).await;
        }
    }
    // Not `tmp`: the last blob is renamed after its reader is done, and a walk could meet it twice.
    assert!(folder_size(&pair.gateway.site.data().join("content/blobs")) <= 1 << 20);
}

fn folder_size(folder: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries
        .map(|entry| match entry.file_type().unwrap().is_dir() {
            true => folder_size(&entry.path()),
            false => entry.metadata().unwrap().len(),
        })
        .sum()
}

#[tokio::test]
async fn a_blob_that_rotted_on_disk_is_not_served() {
    let image = image(43, 300_000);
    let pair = with_manifest(&image).await;
    let layer = image.layer(1);
    pair.gateway.get(&blob_path(layer)).await.expect_bytes(layer);
    let hex = Digest::sha256(layer).hex();
    let site = pair.gateway.stop().await;
    let file = find(&site.data(), &hex).expect("the blob lies under its digest");
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[1000] ^= 1;
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, bytes).unwrap();
    let gateway = site.start().await;
    let first = gateway.get(&blob_path(layer)).await;
    assert!(!is_whole(&first) || first.body == *layer);
    gateway.get(&blob_path(layer)).await.expect_bytes(layer);
}

fn find(folder: &std::path::Path, hex: &str) -> Option<std::path::PathBuf> {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap()).find_map(|entry| {
        if entry.file_type().unwrap().is_dir() {
            return find(&entry.path(), hex);
        }
        let name = entry.file_name().to_string_lossy().into_owned();
        (name.contains(hex) || hex.ends_with(&name)).then(|| entry.path())
    })
}

#[tokio::test]
async fn what_upstreams_get_is_never_the_clients_credentials() {
    let pair = Pair::start().await;
    let image = image(44, 1000);
    image.push(&pair.hub, APP, "1.0.0");
    let secret = [("authorization", "Basic dXNlcjpodW50ZXIy"), ("cookie", "session=hunter2")];
    for rest in [path("manifests/1.0.0"), blob_path(image.layer(1))] {
        assert_eq!(pair.gateway.send("GET", &rest, &secret).await.status, 200);
    }
    for request in pair.hub.requests() {
        assert_eq!(request.authorization(), None);
        assert_eq!(request.header("cookie"), None);
    }
}

#[tokio::test]
async fn the_first_header_comes_within_its_time_though_the_upstream_hangs() {
    let pair = Pair::with(|mut site| {
        site.options.first_header = Duration::from_millis(200);
        site
    })
    .await;
    let (by_tag, by_digest, blobs) = (image(45, 100), image(46, 100), image(47, 200_000));
    by_tag.push(&pair.hub, APP, "1.0.0");
    by_digest.push(&pair.hub, APP, None);
    blobs.push(&pair.hub, APP, "1.0.2");
    pair.gateway.get(&path("manifests/1.0.2")).await.expect_bytes(&blobs.manifest);
    let rows = [
        ("HEAD", "manifests/1.0.0".to_owned()),
        ("GET", format!("manifests/{}", by_digest.digest())),
        ("GET", format!("blobs/{}", Digest::sha256(blobs.layer(1)))),
    ];
    for (method, rest) in rows {
        pair.hub.reset_log();
        pair.hub.on(method, &rest).always(Fault::Hang);
        for form in [Form::Ns, Form::Prefix] {
            let answer = pair.gateway.get(&form.path("docker.io", APP, &rest)).await;
            answer.expect_error(503, "TOOMANYREQUESTS");
            assert!(retry_after(&answer) >= 1);
        }
        assert_eq!(pair.hub.hits(method, &rest), 1, "who gives up neither ends nor repeats the fetch");
        pair.hub.stop().await;
        pair.hub.clear_faults();
        pair.hub.restart();
        until("the upstream is asked again", async || pair.gateway.get(&path(&rest)).await.status == 200)
            .await;
    }
    pair.gateway.pull(Form::Ns, "docker.io", APP, "1.0.2", &blobs).await;
    assert_eq!(pair.gateway.blocked().await, [Value::Null; 0]);
}
