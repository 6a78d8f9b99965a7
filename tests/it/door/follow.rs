//! `pullgate log --follow` beside a gateway that comes and goes.

use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::POLICY;
use crate::support::PATIENCE;
use crate::support::gateway::Site;
use crate::support::process::Process;
use crate::support::registry::Registry;

fn follow(site: &Site, words: &[&str]) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_pullgate"))
        .args(["log", "--follow", "--config"])
        .arg(site.path("pullgate.toml"))
        .args(words)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
    line.expect("a line comes").unwrap().expect("it goes on")
}

async fn refuse(process: &Process, tag: &str) {
    let url = process.url(&format!("/v2/docker.io/acme/app/manifests/{tag}"));
    assert_eq!(process.client.get(url).send().await.unwrap().status(), 403);
}

#[tokio::test]
async fn what_comes_is_shown_once_over_kills_and_restarts_and_an_interrupt_ends_it() {
    let hub = Registry::plain();
    let site = Site::new(POLICY).with_upstream("docker.io", &hub);
    let process = Process::start(&site).await;
    refuse(&process, "before").await;
    let (mut child, mut lines) = follow(&site, &["--json", "--blocked"]);
    let mut shown = Vec::new();
    let mut next = async |shown: &mut Vec<String>| {
        let event: Value = serde_json::from_str(&line(&mut lines).await).unwrap();
        shown.push(event["image"]["tag"].as_str().unwrap().to_owned());
    };
    next(&mut shown).await;
    refuse(&process, "running").await;
    next(&mut shown).await;
    process.kill().await;
    let process = Process::start(&site).await;
    refuse(&process, "restarted").await;
    refuse(&process, "again").await;
    next(&mut shown).await;
    next(&mut shown).await;
    assert_eq!(shown, ["before", "running", "restarted", "again"]);
    let id = rustix::process::Pid::from_raw(child.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::INT).unwrap();
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(0));
    process.kill().await;
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_it() {
    let hub = Registry::plain();
    let site = Site::new(POLICY).with_upstream("docker.io", &hub);
    let process = Process::start(&site).await;
    let (mut child, mut lines) = follow(&site, &["--csv"]);
    assert!(line(&mut lines).await.starts_with("time,kind,id,"));
    assert!(line(&mut lines).await.contains(",policy,"), "what the gateway began with");
    drop(lines);
    refuse(&process, "unread").await;
    let status = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(141));
    process.kill().await;
}
