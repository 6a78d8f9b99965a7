//! `kill -9` at any moment: no answered refusal is lost, no wrong byte is served afterwards.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Arc, Mutex};

use pullgate::oci::Digest;
use reqwest::Client;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::{POLICY, image};
use crate::support::PATIENCE;
use crate::support::fault::{Fault, Gate};
use crate::support::gateway::{Answer, Form, Site};
use crate::support::image::Fixture;
use crate::support::process::Process;
use crate::support::registry::Registry;

const APP: &str = "acme/app";
const KILLS: u64 = 20;

/// GET, as far as it comes; `None` when the gateway died before the reply's head.
async fn get(client: &Client, url: String) -> Option<Answer> {
    Some(Answer::read(client.get(url).send().await.ok()?).await)
}

fn path(rest: &str) -> String {
    Form::Prefix.path("docker.io", APP, rest)
}

async fn expect_image(process: &Process, tag: &str, image: &Fixture) {
    let url = process.url(&path(&format!("manifests/{tag}")));
    get(&process.client, url).await.unwrap().expect_bytes(&image.manifest);
    for blob in &image.blobs {
        let url = process.url(&path(&format!("blobs/{}", Digest::sha256(blob))));
        get(&process.client, url).await.unwrap().expect_bytes(blob);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kill_loses_an_answered_refusal_or_leaves_a_wrong_byte() {
    let hub = Registry::plain();
    let site = Site::new(POLICY).with_upstream("docker.io", &hub).with("limits.refusals", "1000000/min");
    let answered: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut random = fastrand::Rng::with_seed(20_261_123);
    let mut images: Vec<(String, Fixture)> = Vec::new();
    for round in 0..KILLS {
        let process = Process::start(&site).await;
        // One blob is always in the middle of its fetch when the end comes.
        let gate = Gate::new();
        let slow = image(10_000 + round, 1_000_000);
        slow.push(&hub, APP, format!("2.0.{round}").as_str());
        let slow_layer = Digest::sha256(slow.layer(1)).to_string();
        hub.on("GET", &slow_layer).once(Fault::SlowGate(65_536, gate.clone()));
        gate.release(random.usize(0..12));
        for number in 0..3 {
            let (seed, tag) = (round * 10 + number, format!("1.{round}.{number}"));
            let image = image(seed, random.usize(1000..400_000));
            image.push(&hub, APP, tag.as_str());
            images.push((tag, image));
        }
        images.push((format!("2.0.{round}"), slow));

        let replies = Arc::new(Semaphore::new(0));
        let mut clients = JoinSet::new();
        for refuser in 0..4 {
            let (client, url) = (process.client.clone(), process.url(""));
            let (answered, replies) = (answered.clone(), replies.clone());
            clients.spawn(async move {
                for number in 0.. {
                    let path = path(&format!("manifests/bad-{round}-{refuser}-{number}"));
                    let Some(answer) = get(&client, format!("{url}{path}")).await else { return };
                    if !answer.complete {
                        return;
                    }
                    let error = answer.expect_denied("tag.not_allowed");
                    answered.lock().unwrap().insert(error["detail"]["id"].as_str().unwrap().to_owned());
                    replies.add_permits(1);
                }
            });
        }
        for _ in 0..2 {
            let (client, url, replies, images) =
                (process.client.clone(), process.url(""), replies.clone(), images.clone());
            clients.spawn(async move {
                for (tag, image) in images.into_iter().rev() {
                    let manifest = get(&client, format!("{url}{}", path(&format!("manifests/{tag}")))).await;
                    if manifest.is_none() {
                        return;
                    }
                    for blob in image.blobs {
                        let path = path(&format!("blobs/{}", Digest::sha256(&blob)));
                        let Some(answer) = get(&client, format!("{url}{path}")).await else { return };
                        if answer.complete {
                            answer.expect_bytes(&blob);
                        }
                        replies.add_permits(1);
                    }
                }
            });
        }
        let moment = random.u32(0..150);
        let came = tokio::time::timeout(PATIENCE, replies.acquire_many(moment)).await;
        came.expect("replies keep coming").unwrap().forget();
        process.kill().await;
        gate.open();
        while let Some(client) = clients.join_next().await {
            client.unwrap();
        }
    }

    let process = Process::start(&site).await;
    for (tag, image) in &images {
        expect_image(&process, tag, image).await;
    }
    let recorded: BTreeSet<String> =
        site.events().await.iter().filter_map(|event| event["id"].as_str().map(str::to_owned)).collect();
    let answered = answered.lock().unwrap().clone();
    assert!(answered.len() > 100, "the kills came too early to show anything: {}", answered.len());
    let lost: Vec<_> = answered.difference(&recorded).collect();
    assert!(
        lost.is_empty(),
        "{} of {} answered refusals are not on record: {lost:?}",
        lost.len(),
        answered.len()
    );

    // The command reads the same record, beside the running gateway.
    let mut command = Command::new(env!("CARGO_BIN_EXE_pullgate"));
    command.args(["log", "--json", "--blocked", "--config"]).arg(site.path("pullgate.toml"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed: BTreeSet<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    assert!(answered.is_subset(&printed));
    process.kill().await;
}

#[tokio::test]
async fn a_sigterm_ends_the_process_in_order() {
    let hub = Registry::plain();
    let site = Site::new(POLICY).with_upstream("docker.io", &hub);
    let mut process = Process::start(&site).await;
    for _ in 0..3 {
        let url = process.url(&path("manifests/latest"));
        get(&process.client, url).await.unwrap().expect_denied("tag.denied");
    }
    process.signal(rustix::process::Signal::TERM);
    let status = tokio::time::timeout(PATIENCE, process.child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(0));
    let events = site.events().await;
    let refused = events.iter().find(|event| event["kind"] == "decision").unwrap();
    assert_eq!(refused["count"], 3, "what was counted is written at the end");
}
