//! A stop in order: what is under way may finish, what cannot is cut, and then nothing writes any more.

use std::path::{Path, PathBuf};

use pullgate::oci::Digest;
use tokio::net::TcpStream;

use super::{POLICY, Pair, image};
use crate::support::PATIENCE;
use crate::support::fault::{Fault, Gate};
use crate::support::gateway::{Form, Gateway, Site, until};
use crate::support::image::Fixture;

const APP: &str = "acme/app";
const TAG: &str = "/v2/docker.io/acme/app/manifests/1.0.0";

fn layer(image: &Fixture) -> String {
    Form::Prefix.path("docker.io", APP, &format!("blobs/{}", Digest::sha256(image.layer(1))))
}

/// Everything below a folder, with what shows whether it was written to.
fn written(folder: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = std::fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            found.extend(written(&path));
        }
        found.push((path, meta.len(), meta.modified().unwrap()));
    }
    found.sort();
    found
}

fn unfinished(site: &Site) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(site.data().join("content/tmp")).unwrap();
    folder.map(|entry| entry.unwrap().path()).collect()
}

/// A layer that is half here, and whose client went away.
async fn half(pair: &Pair, image: &Fixture) -> Gate {
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(TAG).await.expect_bytes(&image.manifest);
    let gate = Gate::new();
    pair.hub.on("GET", "/blobs/").once(Fault::SlowGate(65_536, gate.clone()));
    gate.release(8);
    let mut reply = pair.gateway.open("GET", &layer(image), &[]).await;
    reply.chunk().await.unwrap().unwrap();
    drop(reply);
    gate
}

async fn stop(gateway: Gateway) -> Site {
    tokio::time::timeout(PATIENCE, gateway.stop()).await.expect("it stops")
}

#[tokio::test]
async fn a_blob_that_nobody_waits_for_may_arrive_while_the_drain_lasts() {
    let pair = Pair::start().await;
    let image = image(1, 2_000_000);
    let gate = half(&pair, &image).await;
    let address = pair.gateway.running.address();
    let stopping = tokio::spawn(stop(pair.gateway));
    until("nobody new is taken", async || TcpStream::connect(address).await.is_err()).await;
    assert!(!stopping.is_finished());
    gate.open();
    let site = stopping.await.unwrap();
    assert_eq!(unfinished(&site), [""; 0].map(PathBuf::from));
    pair.hub.stop().await;
    let gateway = site.start().await;
    gateway.get(&layer(&image)).await.expect_bytes(image.layer(1));
}

#[tokio::test]
async fn a_blob_that_does_not_arrive_in_time_is_cut_and_leaves_nothing() {
    let pair = Pair::with(|site| site.with("limits.drain", "500ms")).await;
    let image = image(2, 2_000_000);
    let gate = half(&pair, &image).await;
    let site = stop(pair.gateway).await;
    assert_eq!(unfinished(&site), [""; 0].map(PathBuf::from));
    let before = written(&site.data());
    gate.open();
    // Nothing is left that could write; the next start, at once, finds a folder that is free.
    assert_eq!(written(&site.data()), before);
    let gateway = site.start().await;
    gateway.get(&layer(&image)).await.expect_bytes(image.layer(1));
}

#[tokio::test]
async fn a_fetch_that_nobody_waits_for_ends_with_the_gateway() {
    let pair = Pair::start().await;
    image(3, 100).push(&pair.hub, APP, "1.0.0");
    pair.hub.on("*", "/manifests/").once(Fault::Hang);
    let request = tokio::spawn(pair.gateway.h1.get(pair.gateway.url(TAG)).send());
    pair.hub.wait_for(|log| log.hits("*", "/manifests/") == 1).await;
    request.abort();
    // Well within the drain of 30 s: nobody waits.
    let site = stop(pair.gateway).await;
    let before = written(&site.data());
    let gateway = site.start().await;
    let site = stop(gateway).await;
    assert!(written(&site.data()) != before, "the start is on record, or this test sees nothing");
    assert!(!site.data().join("audit.db-wal").exists() && !site.data().join("catalog.db-wal").exists());
}

#[tokio::test]
async fn a_stopped_gateway_can_be_followed_at_once_however_it_was_asked() {
    let mut site = Site::new(POLICY).with("limits.drain", "200ms");
    for _ in 0..5 {
        let gateway = site.start().await;
        for path in [TAG, "/v2/docker.io/acme/app/manifests/latest", "/v2/docker.io/acme/app/tags/list"] {
            gateway.get(path).await;
            gateway.get2(path).await;
        }
        site = stop(gateway).await;
    }
}
