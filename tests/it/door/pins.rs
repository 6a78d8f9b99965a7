//! `pullgate pin …` as a process of its own, beside a gateway that runs and on the folder of one that
//! does not: what is served, what is on record, how it ends.

use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Output, Stdio};

use pullgate::clock::Clock;
use pullgate::oci::Digest;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::POLICY;
use crate::support::gateway::{Answer, Gateway, Site, morning, until};
use crate::support::image::{Fixture, Image, random_bytes};
use crate::support::process::Process;
use crate::support::registry::Registry;

const APP: &str = "acme/app";
const TAG: &str = "docker.io/acme/app:1.0.0";

fn image(seed: u64) -> Fixture {
    Image::new("linux/amd64").layer(random_bytes(seed, 500)).user("10001").build()
}

/// What a command said and how it ended.
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) code: Option<i32>,
}

pub(crate) async fn pullgate(config: &Path, words: &[&str]) -> Said {
    let output: Output = tokio::process::Command::new(env!("CARGO_BIN_EXE_pullgate"))
        .args(words)
        .arg("--config")
        .arg(config)
        .env("USER", "reviewer")
        .env_remove("SUDO_USER")
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    // Errors are broken into lines for people.
    let err = text(output.stderr).replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ");
    Said { out: text(output.stdout), err, code: output.status.code() }
}

impl Said {
    #[track_caller]
    pub(crate) fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }

    pub(crate) fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
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
        let site = site.with("cache.tag_ttl", "1m");
        Self { gateway: site.start().await, hub, clock }
    }

    async fn pin(&self, words: &[&str]) -> Said {
        pullgate(&self.gateway.site.path("pullgate.toml"), &[&["pin"], words].concat()).await
    }

    async fn get(&self, rest: &str) -> Answer {
        self.gateway.get(&format!("/v2/docker.io/{APP}/manifests/{rest}")).await
    }

    /// The tag is locked to the first and named the second upstream, and the gateway knows.
    async fn drift(&self, first: &Fixture, second: &Fixture) {
        first.push(&self.hub, APP, "1.0.0");
        self.get("1.0.0").await.expect_bytes(&first.manifest);
        second.push(&self.hub, APP, "1.0.0");
        self.clock.advance(std::time::Duration::from_secs(120));
        self.get("1.0.0").await;
        self.gateway.event(|event| event["kind"] == "drift").await;
    }
}

#[tokio::test]
async fn an_accepted_drift_is_served_at_once_and_is_on_record_with_who_did_it() {
    let bench = Bench::start(POLICY).await;
    let (old, new) = (image(1), image(2));
    bench.drift(&old, &new).await;
    bench.get("1.0.0").await.expect_bytes(&old.manifest);
    let moved = bench.pin(&["list", "--moved", "--json"]).await.ended(0).json();
    assert_eq!(moved.len(), 1);
    assert_eq!(moved[0]["image"], TAG);
    assert_eq!(moved[0]["digest"], old.digest().to_string());
    assert_eq!(moved[0]["moved_to"], new.digest().to_string());
    assert_eq!(moved[0]["whence"], "served");
    assert_eq!(moved[0]["since"], "2026-11-23T08:00:00Z");

    // What was reviewed is what is accepted, or nothing.
    let other = image(3).digest().to_string();
    let said = bench.pin(&["accept", TAG, "--digest", &other]).await.ended(1);
    assert!(said.err.contains("was never seen at"), "{}", said.err);
    bench.get("1.0.0").await.expect_bytes(&old.manifest);

    let said = bench.pin(&["accept", TAG]).await.ended(0);
    assert_eq!(said.out, format!("{TAG}  {} → {}\n", old.digest(), new.digest()));
    // It was on record before the command said so.
    let events = bench.gateway.events().await;
    let pins: Vec<&Value> = events.iter().filter(|event| event["kind"] == "pin").collect();
    assert_eq!(pins.len(), 1, "{pins:#?}");
    assert_eq!(pins[0]["image"]["previous_digest"], old.digest().to_string());
    assert_eq!(pins[0]["image"]["digest"], new.digest().to_string());
    assert_eq!(pins[0]["actor"]["via"], "cli");
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(pins[0]["actor"]["name"], format!("reviewer (uid {uid})"));
    bench.get("1.0.0").await.expect_bytes(&new.manifest);

    let said = bench.pin(&["accept", TAG]).await.ended(1);
    assert!(said.err.contains("has not moved"), "{}", said.err);
    let said = bench.pin(&["list", "--moved"]).await.ended(0);
    assert_eq!(said.out, "no locks that moved\n");
}

#[tokio::test]
async fn a_tag_that_may_not_move_is_served_again_once_its_move_is_accepted() {
    let bench = Bench::start(&POLICY.replace("moved = \"keep\"", "moved = \"deny\"")).await;
    let (old, new) = (image(1), image(2));
    bench.drift(&old, &new).await;
    bench.get("1.0.0").await.expect_denied("tag.moved");
    let said = bench.pin(&["accept", "docker.io/acme/app", "--json"]).await.ended(0);
    assert_eq!(said.json()[0]["digest"], new.digest().to_string());
    bench.get("1.0.0").await.expect_bytes(&new.manifest);
}

#[tokio::test]
async fn a_lock_set_by_hand_holds_and_one_taken_away_is_made_anew() {
    let bench = Bench::start(POLICY).await;
    let (old, new) = (image(1), image(2));
    old.push(&bench.hub, APP, None);
    new.push(&bench.hub, APP, "1.0.0");
    let digest = old.digest().to_string();
    bench.pin(&["set", TAG, &digest]).await.ended(0);
    bench.get("1.0.0").await.expect_bytes(&old.manifest);
    let said = bench.pin(&["set", TAG, &digest]).await.ended(0);
    assert!(said.out.contains("already"), "{}", said.out);
    bench.pin(&["rm", TAG]).await.ended(0);
    bench.get("1.0.0").await.expect_bytes(&new.manifest);
    let events = bench.gateway.events().await;
    let locks: Vec<(&Value, &Value)> = events
        .iter()
        .filter(|event| event["kind"] == "pin")
        .map(|event| (&event["image"]["previous_digest"], &event["image"]["digest"]))
        .collect();
    assert_eq!(locks, [(&Value::Null, &Value::from(&*digest)), (&Value::from(&*digest), &Value::Null)]);

    bench.pin(&["rm", TAG]).await.ended(0);
    assert!(bench.pin(&["rm", TAG]).await.ended(1).err.contains("is not locked"));
    let history = bench.pin(&["history", TAG, "--json"]).await.ended(0).json();
    let of = |digest: &Digest| {
        history.iter().find(|row| row["digest"] == digest.to_string()).expect("it is in the history")
    };
    assert_eq!(of(&old.digest())["whence"], "pin");
    assert_eq!(of(&new.digest())["whence"], "upstream");
    assert_eq!((&of(&new.digest())["served"], &of(&new.digest())["locked"]), (&true.into(), &false.into()));
    bench.pin(&["history", "docker.io/acme/app:9.9.9"]).await.ended(1);
}

#[tokio::test]
async fn locks_are_exported_in_order_and_imported_all_or_not_at_all() {
    let bench = Bench::start(POLICY).await;
    let (one, two) = (image(1), image(2));
    two.push(&bench.hub, APP, "1.0.1");
    one.push(&bench.hub, APP, "1.0.0");
    bench.get("1.0.1").await;
    bench.get("1.0.0").await;
    let exported = bench.pin(&["export"]).await.ended(0).out;
    assert_eq!(
        exported,
        format!(
            "[[pin]]\nimage  = \"{TAG}\"\ndigest = \"{}\"\n\n[[pin]]\nimage  = \"docker.io/acme/app:1.0.1\"\ndigest = \"{}\"\n",
            one.digest(),
            two.digest()
        )
    );
    let file = bench.gateway.site.path("locks.toml");
    let file_name = file.display().to_string();
    let swapped = exported.replacen(&one.digest().to_string(), &two.digest().to_string(), 1);
    for (text, words) in [
        (swapped.replace("1.0.1\"", "1.0.1 \""), "pin 2"),
        (
            swapped.replace("[[pin]]\nimage  = \"docker.io/acme/app:1.0.1", "[[pim]]\nimage  = \"x:1"),
            "locks.toml:5",
        ),
        (format!("{swapped}{swapped}"), "is there twice"),
        (String::new(), "names no locks"),
    ] {
        std::fs::write(&file, text).unwrap();
        let said = bench.pin(&["import", &file_name]).await.ended(2);
        assert!(said.err.contains(words), "{words}: {}", said.err);
    }
    assert_eq!(bench.pin(&["export"]).await.out, exported, "nothing was changed");
    std::fs::write(&file, &swapped).unwrap();
    bench.pin(&["import", &file_name]).await.ended(0);
    assert_eq!(bench.pin(&["export"]).await.out, swapped);
    bench.get("1.0.0").await.expect_bytes(&two.manifest);
    // JSON says the same.
    let json = bench.pin(&["export", "--json"]).await.ended(0).out;
    std::fs::write(&file, json.replace(&two.digest().to_string(), &one.digest().to_string())).unwrap();
    bench.pin(&["import", &file_name]).await.ended(0);
    bench.get("1.0.1").await.expect_bytes(&one.manifest);
}

#[tokio::test]
async fn without_a_gateway_the_folder_is_written_and_recorded_and_the_next_start_goes_by_it() {
    let bench = Bench::start(POLICY).await;
    let (old, new) = (image(1), image(2));
    bench.drift(&old, &new).await;
    let Bench { gateway, hub, .. } = bench;
    let site = gateway.stop().await;
    assert!(!site.data().join("control.sock").exists(), "it went with its gateway");
    let config = site.path("pullgate.toml");
    pullgate(&config, &["pin", "accept", TAG]).await.ended(0);
    let events = site.events().await;
    let pin = events.iter().rfind(|event| event["kind"] == "pin").expect("it is on record");
    assert_eq!(pin["image"]["digest"], new.digest().to_string());
    let gateway = site.start().await;
    gateway.get(&format!("/v2/docker.io/{APP}/manifests/1.0.0")).await.expect_bytes(&new.manifest);
    drop(hub);
}

#[tokio::test]
async fn what_cannot_be_read_ends_with_2_and_makes_no_folder() {
    let site = Site::new(POLICY);
    let config = site.write();
    let digest = image(1).digest().to_string();
    for words in [
        &["pin", "list"][..],
        &["pin", "export"],
        &["pin", "set", TAG, &digest],
        &["pin", "set", "docker.io/acme/app", &digest],
        &["pin", "rm", "Docker.io/UPPER:1"],
        &["pin", "accept", "docker.io/acme/app@sha256:00"],
        &["pin", "accept", "docker.io/acme/app", "--digest", &digest],
        &["pin", "import", "/no/such/file"],
    ] {
        pullgate(&config, words).await.ended(2);
    }
    assert!(!site.data().exists());
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_takes_the_place_of_one_left_by_a_kill() {
    let hub = Registry::plain();
    let site = Site::new(POLICY).with_upstream("docker.io", &hub);
    let process = Process::start(&site).await;
    let socket = site.data().join("control.sock");
    let metadata = std::fs::metadata(&socket).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    process.kill().await;
    assert!(socket.exists(), "nobody was left to remove it");
    // What is left by the dead stops nobody, neither a command nor the next gateway.
    let config = site.path("pullgate.toml");
    let digest = image(1).digest().to_string();
    pullgate(&config, &["pin", "set", TAG, &digest]).await.ended(0);
    let mut process = Process::start(&site).await;
    let said = pullgate(&config, &["pin", "list", "--json"]).await.ended(0);
    assert_eq!(said.json()[0]["digest"], digest);
    pullgate(&config, &["pin", "rm", TAG]).await.ended(0);
    process.signal(rustix::process::Signal::TERM);
    process.child.wait().await.unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn nonsense_at_the_socket_is_answered_and_harms_nobody() {
    let bench = Bench::start(POLICY).await;
    let socket = bench.gateway.site.data().join("control.sock");
    for (line, answer) in [
        ("{}\n", "malformed"),
        ("\n", "malformed"),
        ("{\"actor\":\"x\",\"changes\":[]}\n", "malformed"),
        ("{\"actor\":\"x\",\"changes\":[{\"do\":\"rm -rf\"}]}\n", "malformed"),
        (
            "{\"actor\":\"x\",\"changes\":[{\"do\":\"remove\",\"name\":\"docker.io/../x\",\"tag\":\"1\"}]}\n",
            "malformed",
        ),
        (
            "{\"actor\":\"x\",\"changes\":[{\"do\":\"remove\",\"name\":\"docker.io/a/b\",\"tag\":\"1\"}]}\n",
            "refused",
        ),
    ] {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with(&format!("{{\"{answer}\":")) && reply.ends_with('\n'), "{line}: {reply}");
    }
    // Whoever connects and says nothing takes a place, not the gateway.
    let _silent = UnixStream::connect(&socket).await.unwrap();
    bench.pin(&["list"]).await.ended(0);
    let broken = UnixStream::connect(&socket).await.unwrap();
    drop(broken);
    until("the next request is answered", async || bench.pin(&["rm", TAG]).await.code == Some(1)).await;
    bench.gateway.stop().await;
}

#[tokio::test]
async fn a_folder_too_long_for_its_socket_is_said_at_the_start() {
    let mut site = Site::new(POLICY);
    let long = site.path(&"x".repeat(120));
    site.set("storage.path", long.display().to_string());
    let error = site.try_start().await.err().expect("it does not start");
    assert!(error.contains("too long for the control socket") && error.contains("107"), "{error}");
}

#[tokio::test]
async fn tools_read_the_tags_of_a_repository_at_the_admin_listener() {
    let bench = Bench::start(&POLICY.replace(
        "match = \"docker.io/acme/*\"",
        "match = \"docker.io/acme/*\"\ntags = { hold = \"72h\", hold_first = \"serve\", moved = \"follow\" }",
    ))
    .await;
    let (old, new) = (image(1), image(2));
    bench.drift(&old, &new).await;
    image(3).push(&bench.hub, APP, "1.0.1");
    bench.get("1.0.1").await;
    let path = format!("/api/v1/tags/docker.io/{APP}");
    let read = async |path: &str| {
        let (status, body) = bench.gateway.admin(path).await;
        (status.as_u16(), serde_json::from_str::<Value>(&body).unwrap())
    };
    let (status, page) = read(&path).await;
    assert_eq!(status, 200, "{page:#}");
    let release = &page["releases"][0];
    assert_eq!(release["version"], "1.0.0");
    // The new digest is on hold, so that a pull gets the old one.
    assert_eq!(release["digest"], old.digest().to_string(), "{page:#}");
    assert_eq!(release["movedTo"], new.digest().to_string());
    assert_eq!(release["releaseTimestamp"], "2026-11-23T08:00:00Z");
    assert_eq!((&release["isStable"], &release["locked"]), (&true.into(), &true.into()));
    assert_eq!(page["releases"][1]["version"], "1.0.1");
    assert_eq!(page["next"], Value::Null);

    let (_, first) = read(&format!("{path}?limit=1")).await;
    assert_eq!((&first["releases"][1], &first["next"]), (&Value::Null, &"1.0.0".into()));
    let (_, rest) = read(&format!("{path}?limit=1&after=1.0.0")).await;
    assert_eq!(rest["releases"][0]["version"], "1.0.1");

    let (_, history) = read(&format!("{path}?tag=1.0.0")).await;
    let digests: Vec<&Value> =
        history["history"].as_array().unwrap().iter().map(|row| &row["digest"]).collect();
    assert_eq!(digests, [&Value::from(new.digest().to_string()), &old.digest().to_string().into()]);
    assert_eq!(history["history"][1]["locked"], true);
    for (path, expected) in [
        ("/api/v1/tags/docker.io/acme/none", 404),
        ("/api/v1/tags/docker.io/acme/app?tag=9.9.9", 404),
        ("/api/v1/tags/docker.io/acme/app?limit=0", 400),
        ("/api/v1/tags/docker.io/acme/app?limit=100000", 400),
        ("/api/v1/tags/docker.io/acme/app?page=2", 400),
        ("/api/v1/tags/docker.io/acme/app?after=a%20b", 400),
        ("/api/v1/tags/docker.io/acme/%2Fapp", 400),
        ("/api/v1/tags/", 400),
    ] {
        let (status, body) = read(path).await;
        assert_eq!(status, expected, "{path}: {body}");
        assert!(body["error"].is_string(), "{path}");
    }
}

#[tokio::test]
async fn a_tag_whose_first_digest_is_on_hold_is_shown_with_its_end() {
    let bench =
        Bench::start(&POLICY.replace(
            "match = \"docker.io/acme/*\"",
            "match = \"docker.io/acme/*\"\ntags = { hold = \"72h\" }",
        ))
        .await;
    image(1).push(&bench.hub, APP, "1.0.0");
    bench.get("1.0.0").await.expect_denied("hold");
    let (_, body) = bench.gateway.admin("/api/v1/tags/docker.io/acme/app").await;
    let page: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(page["releases"][0]["heldUntil"], "2026-11-26T08:00:00Z", "{page:#}");
    assert_eq!(page["releases"][0]["isStable"], false);
    // Somebody who vouches for it ends the wait, by tag and by digest.
    let digest = image(1).digest().to_string();
    bench.pin(&["set", TAG, &digest]).await.ended(0);
    bench.get("1.0.0").await.expect_bytes(&image(1).manifest);
    bench.get(&digest).await.expect_bytes(&image(1).manifest);
}
