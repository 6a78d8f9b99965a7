//! A full disk: right bytes or none, refusals stay refusals.

use std::path::Path;
use std::process::Command;

use pullgate::oci::Digest;

use super::{Pair, image};
use crate::support::gateway::{Form, until};

const APP: &str = "acme/app";

/// A file system of so many bytes; it goes with the value.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(size: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder.path())
            .output();
        mounted.is_ok_and(|output| output.status.success()).then_some(Self(folder))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the space that is left.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.path().join("filler")).unwrap();
        for piece in [1 << 20, 1 << 12, 1] {
            while file.write_all(&vec![0; piece]).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}

fn path(rest: &str) -> String {
    Form::Prefix.path("docker.io", APP, rest)
}

#[tokio::test]
async fn on_a_full_disk_blobs_pass_through_and_refusals_stay_refusals() {
    let Some(disk) = Small::mount(24 << 20) else {
        println!("skipped: a small file system cannot be mounted here");
        return;
    };
    let data = disk.path().join("data").display().to_string();
    let pair = Pair::with(|site| site.with("storage.path", data).with("audit.max_size", "4MiB")).await;
    let (kept, large) = (image(1, 100_000), image(2, 30 << 20));
    let cold = image(3, 3_000_000);
    kept.push(&pair.hub, APP, "1.0.0");
    large.push(&pair.hub, APP, "1.0.1");
    cold.push(&pair.hub, APP, "1.0.2");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &kept).await;
    // More than the disk has room for.
    for _ in 0..2 {
        pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.1", &large).await;
    }
    pair.gateway.get(&path("manifests/1.0.2")).await.expect_bytes(&cold.manifest);

    disk.fill();
    let mut answered = Vec::new();
    for number in 0..200 {
        let answer = pair.gateway.get(&path(&format!("manifests/bad-{number}"))).await;
        match answer.status.as_u16() {
            403 => answered.push(answer.expect_denied("tag.not_allowed")["detail"]["id"].clone()),
            503 => assert!(answer.has("retry-after"), "{answer:?}"),
            other => panic!("{other} for a refused tag on a full disk: {answer:?}"),
        }
    }
    for blob in kept.blobs.iter().chain(&cold.blobs) {
        let answer = pair.gateway.get(&path(&format!("blobs/{}", Digest::sha256(blob)))).await;
        match answer.status.as_u16() {
            503 => assert!(answer.has("retry-after")),
            _ => answer.expect_bytes(blob),
        }
    }
    assert_eq!(pair.gateway.admin("/livez").await.0, 200);

    disk.empty();
    let well = async || pair.gateway.get(&path("manifests/latest")).await.status == 403;
    until("refusals are recorded again", well).await;
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.2", &cold).await;
    let site = pair.gateway.stop().await;
    let events = site.events().await;
    let recorded: u64 = events
        .iter()
        .filter(|event| ["decision", "flood"].contains(&event["kind"].as_str().unwrap()))
        .filter(|event| event["verdict"] == "deny" || event["kind"] == "flood")
        .map(|event| event["count"].as_u64().unwrap())
        .sum();
    assert!(recorded >= answered.len() as u64, "{} were answered, {recorded} are on record", answered.len());
}
