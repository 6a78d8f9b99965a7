//! A gateway at work: reloads, certificates, drain, health, and starts that must fail clearly.

use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use pullgate::oci::Digest;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{POLICY, Pair, image};
use crate::support::PATIENCE;
use crate::support::fault::{Fault, Gate};
use crate::support::gateway::{Answer, Form, Gateway, Site, dial, replace, until};
use crate::support::tls::Ca;

const APP: &str = "acme/app";
const ALLOWED: &str = "/v2/docker.io/acme/app/manifests/1.0.0";
const REFUSED: &str = "/v2/docker.io/acme/app/manifests/latest";

/// One connection, held open.
struct KeptAlive(SendRequest<Empty<Bytes>>);

impl KeptAlive {
    async fn to(gateway: &Gateway) -> Self {
        let (sender, connection) = handshake(TokioIo::new(gateway.dial().await)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn status(&mut self, path: &str) -> u16 {
        self.0.ready().await.expect("the connection stays open");
        let request = http::Request::get(path).header("host", "localhost").body(Empty::new()).unwrap();
        let response = self.0.send_request(request).await.expect("the connection stays open");
        let status = response.status().as_u16();
        response.into_body().collect().await.expect("a whole body");
        status
    }
}

fn revision(number: u8, allow_latest: bool) -> String {
    let policy = POLICY.replace("revision = \"1\"", &format!("revision = \"{number}\""));
    if allow_latest {
        policy.replace("deny  = [\"latest\"]", "deny  = []").replace("[\"#.#.#\"]", "[\"latest\"]")
    } else {
        policy
    }
}

async fn adopted(gateway: &Gateway, revision: &str) {
    gateway.event(|event| event["kind"] == "policy" && event["policy"]["revision"] == revision).await;
}

#[tokio::test]
async fn a_changed_policy_turns_refused_into_allowed_and_back_on_an_open_connection() {
    let pair = Pair::start().await;
    let image = image(1, 100);
    image.push(&pair.hub, APP, "1.0.0");
    image.push(&pair.hub, APP, "latest");
    let mut connection = KeptAlive::to(&pair.gateway).await;
    assert_eq!((connection.status(ALLOWED).await, connection.status(REFUSED).await), (200, 403));
    pair.gateway.site.write_policy(&revision(2, true));
    adopted(&pair.gateway, "2").await;
    assert_eq!((connection.status(ALLOWED).await, connection.status(REFUSED).await), (403, 200));
    pair.gateway.site.write_policy(&revision(3, false));
    adopted(&pair.gateway, "3").await;
    assert_eq!((connection.status(ALLOWED).await, connection.status(REFUSED).await), (200, 403));
}

#[tokio::test]
async fn a_download_under_way_outlives_a_change_of_policy() {
    let pair = Pair::start().await;
    let image = image(2, 2_000_000);
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(ALLOWED).await.expect_bytes(&image.manifest);
    let gate = Gate::new();
    pair.hub.on("GET", "/blobs/").once(Fault::SlowGate(65_536, gate.clone()));
    gate.release(4);
    let path = Form::Prefix.path("docker.io", APP, &format!("blobs/{}", Digest::sha256(image.layer(1))));
    let reply = pair.gateway.open("GET", &path, &[]).await;
    pair.gateway.site.write_policy(&revision(2, true));
    adopted(&pair.gateway, "2").await;
    gate.open();
    Answer::read(reply).await.expect_bytes(image.layer(1));
}

async fn condition(gateway: &Gateway, name: &str) -> Value {
    let (_, text) = gateway.admin("/readyz").await;
    let ready: Value = serde_json::from_str(&text).unwrap();
    let conditions = ready["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["name"] == name).unwrap().clone()
}

#[tokio::test]
async fn a_broken_policy_file_keeps_the_old_policy_and_says_so() {
    let pair = Pair::start().await;
    image(3, 100).push(&pair.hub, APP, "1.0.0");
    assert_eq!(condition(&pair.gateway, "policy").await["ok"], true);
    for broken in
        ["colour = \"red\"", "mode = 7", "[[source]", "[[source]]\nid = \"acme\"\nmatch = \"**\"", ""]
    {
        let text =
            if broken.is_empty() { String::new() } else { format!("{}\n{broken}\n", revision(2, true)) };
        pair.gateway.site.write_policy(&text);
        let says_so = async || condition(&pair.gateway, "policy").await["ok"] == false;
        until("readyz says that the policy file is broken", says_so).await;
        let detail = condition(&pair.gateway, "policy").await["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains("policy.toml"), "{detail}");
        let (status, _) = pair.gateway.admin("/readyz").await;
        assert_eq!(status, 200, "the old policy serves");
        assert_eq!(pair.gateway.get(ALLOWED).await.status, 200);
        pair.gateway.get(REFUSED).await.expect_denied("tag.denied");
        pair.gateway.site.write_policy(POLICY);
        let well = async || condition(&pair.gateway, "policy").await["ok"] == true;
        until("readyz says that all is well", well).await;
    }
    let refused = pair.gateway.event(|event| event["kind"] == "policy" && event["result"] == "refused").await;
    assert_eq!(refused["policy"]["revision"], "1");
    assert!(refused["error"].is_string());
}

#[tokio::test]
async fn a_policy_file_that_is_gone_changes_nothing() {
    let pair = Pair::start().await;
    std::fs::remove_file(pair.gateway.site.path("policy.toml")).unwrap();
    let says_so = async || condition(&pair.gateway, "policy").await["ok"] == false;
    until("readyz says that the policy file is gone", says_so).await;
    pair.gateway.get(REFUSED).await.expect_denied("tag.denied");
}

#[tokio::test]
async fn certificates_replaced_on_disk_are_served_to_new_connections_and_old_ones_go_on() {
    let ca = Ca::new();
    let site = Site::new(POLICY);
    std::fs::create_dir(site.path("certs")).unwrap();
    let write = |site: &Site, names: &[&str]| {
        let (certificate, key) = ca.issue(names);
        replace(&site.path("certs/server.crt"), &certificate);
        replace(&site.path("certs/server.key"), &key);
        certificate
    };
    std::fs::write(site.path("certs/ca.crt"), ca.pem()).unwrap();
    let first = write(&site, &["localhost"]);
    let gateway = site.start().await;
    let shown = async || {
        let stream = dial(gateway.running.address(), ca.pem()).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let before = shown().await;
    let mut connection = KeptAlive::to(&gateway).await;
    assert_eq!(
        std::fs::read_to_string(gateway.site.path("certs/server.crt")).unwrap(),
        first,
        "yours are not touched"
    );
    let second = write(&gateway.site, &["localhost", "gateway.example"]);
    until("the new certificate is served", async || shown().await != before).await;
    assert_eq!(connection.status(REFUSED).await, 403);
    assert_eq!(std::fs::read_to_string(gateway.site.path("certs/server.crt")).unwrap(), second);

    // A pair that does not match changes nothing, and readyz says so.
    let now = shown().await;
    let (stray, _) = ca.issue(&["localhost"]);
    replace(&gateway.site.path("certs/server.crt"), &stray);
    let says_so = async || condition(&gateway, "certificates").await["ok"] == false;
    until("readyz says that the certificates do not match", says_so).await;
    assert_eq!(shown().await, now);
}

#[tokio::test]
async fn certificates_of_its_own_are_private_and_kept_across_restarts() {
    let pair = Pair::start().await;
    let mode = std::fs::metadata(pair.gateway.site.path("certs/server.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    for entry in std::fs::read_dir(pair.gateway.site.path("certs")).unwrap() {
        let path = entry.unwrap().path();
        if std::fs::read_to_string(&path).unwrap().contains("PRIVATE KEY") {
            assert_eq!(
                std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
                0o600,
                "{}",
                path.display()
            );
        }
    }
    let ca = pair.gateway.ca.clone();
    let pair = pair.restart().await;
    assert_eq!(pair.gateway.ca, ca);
}

#[tokio::test]
async fn a_drain_lets_a_slow_download_finish_and_takes_nobody_new() {
    let pair = Pair::start().await;
    let image = image(4, 2_000_000);
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(ALLOWED).await.expect_bytes(&image.manifest);
    let gate = Gate::new();
    pair.hub.on("GET", "/blobs/").once(Fault::SlowGate(65_536, gate.clone()));
    gate.release(4);
    let path = Form::Prefix.path("docker.io", APP, &format!("blobs/{}", Digest::sha256(image.layer(1))));
    let mut reply = pair.gateway.open("GET", &path, &[]).await;
    let idle = KeptAlive::to(&pair.gateway).await;
    let mut body = bytes::BytesMut::new();
    body.extend_from_slice(&reply.chunk().await.unwrap().unwrap());
    let (address, admin) = (pair.gateway.running.address(), pair.gateway.running.admin_address());
    let stopping = tokio::spawn(pair.gateway.stop());
    until("nobody new is taken", async || TcpStream::connect(address).await.is_err()).await;
    let ready = reqwest::Client::builder().no_proxy().build().unwrap();
    let ready = ready.get(format!("http://{admin}/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), 503, "load balancers are told");
    assert!(!stopping.is_finished());
    gate.open();
    while let Some(piece) = reply.chunk().await.expect("the download goes on") {
        body.extend_from_slice(&piece);
    }
    assert!(body == *image.layer(1));
    tokio::time::timeout(PATIENCE, stopping).await.expect("the drain ends").unwrap();
    drop(idle);
}

#[tokio::test]
async fn a_drain_ends_when_its_time_is_up() {
    let pair = Pair::with(|site| site.with("limits.drain", "1s")).await;
    let image = image(5, 2_000_000);
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(ALLOWED).await.expect_bytes(&image.manifest);
    let gate = Gate::new();
    pair.hub.on("GET", "/blobs/").once(Fault::SlowGate(65_536, gate.clone()));
    gate.release(4);
    let path = Form::Prefix.path("docker.io", APP, &format!("blobs/{}", Digest::sha256(image.layer(1))));
    let reply = pair.gateway.open("GET", &path, &[]).await;
    tokio::time::timeout(Duration::from_secs(15), pair.gateway.stop()).await.expect("the drain ends");
    assert!(!Answer::read(reply).await.complete, "what was cut off does not look whole");
}

#[tokio::test]
async fn health_and_metrics_are_on_the_admin_listener_alone() {
    let pair = Pair::start().await;
    let image = image(6, 100);
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    pair.gateway.get(REFUSED).await.expect_denied("tag.denied");
    let (status, text) = pair.gateway.admin("/livez").await;
    assert_eq!((status.as_u16(), text.trim()), (200, "ok"));
    let (status, text) = pair.gateway.admin("/readyz").await;
    assert_eq!(status, 200, "{text}");
    let ready: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(ready["ready"], true);
    let (status, _) = pair.gateway.admin("/elsewhere").await;
    assert_eq!(status, 404);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(pair.gateway.get(path).await.status, 404, "{path} on the pull listener");
    }
    let (status, _) = pair.gateway.admin(ALLOWED).await;
    assert_eq!(status, 404);

    let (status, text) = pair.gateway.admin("/metrics").await;
    assert_eq!(status, 200);
    for line in text.lines().filter(|line| !line.is_empty() && *line != "# EOF") {
        let name = line
            .strip_prefix("# HELP ")
            .or(line.strip_prefix("# TYPE "))
            .or(line.strip_prefix("# UNIT "))
            .unwrap_or(line);
        assert!(name.starts_with("pullgate_"), "{line}");
        for word in ["acme/app", "1.0.0", "latest", "sha256:"] {
            assert!(line.starts_with('#') || !line.contains(word), "labels come from closed enums: {line}");
        }
    }
    let sample = |wanted: &[&str]| {
        let found = text.lines().find(|line| wanted.iter().all(|word| line.contains(word)));
        let line = found.unwrap_or_else(|| panic!("no {wanted:?} in {text}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let name = "pullgate_decisions_total{";
    assert_eq!(sample(&[name, "verdict=\"deny\"", "reason=\"tag.denied\"", "source=\"acme\""]), 1.0);
    assert!(sample(&[name, "verdict=\"allow\"", "source=\"acme\""]) >= 4.0);
}

#[tokio::test]
async fn head_on_the_admin_listener_is_get_without_the_bytes() {
    let pair = Pair::start().await;
    let ask = async |method: &str, path: &str| {
        let mut stream = TcpStream::connect(pair.gateway.running.admin_address()).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        let (head, body) = reply.split_once("\r\n\r\n").unwrap();
        let mut lines: Vec<_> = head.lines().filter(|line| !line.starts_with("date: ")).collect();
        lines.sort_unstable();
        (lines.join("\n"), body.to_owned())
    };
    for path in ["/livez", "/readyz", "/elsewhere"] {
        let (get, head) = (ask("GET", path).await, ask("HEAD", path).await);
        assert_eq!(head, (get.0, String::new()), "{path}");
        assert!(head.0.contains(&format!("content-length: {}", get.1.len())), "{head:?}");
    }
    let (head, body) = ask("HEAD", "/metrics").await;
    assert!(head.contains(" 200 ") && body.is_empty(), "{head}");
    let (head, _) = ask("POST", "/livez").await;
    assert!(head.contains(" 405 ") && head.contains("allow: GET, HEAD"), "{head}");
}

#[tokio::test]
async fn upstream_trouble_shows_in_readyz_and_leaves_the_gateway_ready() {
    let pair = Pair::start().await;
    pair.hub.stop().await;
    assert_eq!(pair.gateway.get(ALLOWED).await.status, 503);
    assert_eq!(condition(&pair.gateway, "upstream docker.io").await["ok"], false);
    assert_eq!(pair.gateway.admin("/readyz").await.0, 200);
    assert_eq!(pair.gateway.admin("/livez").await.0, 200);
}

#[tokio::test]
async fn a_start_needs_no_upstream_and_asks_for_no_name() {
    let pair = Pair::start().await;
    pair.hub.stop().await;
    pair.ghcr.stop().await;
    let pair = pair.restart().await;
    assert_eq!(pair.gateway.get("/v2/").await.status, 200);
    pair.gateway.get(REFUSED).await.expect_denied("tag.denied");
    assert_eq!(pair.gateway.admin("/readyz").await.0, 200);
    assert_eq!(pair.gateway.site.names.asked(), [""; 0]);
}

#[tokio::test]
async fn a_second_gateway_on_the_same_folder_is_turned_away_and_harms_nothing() {
    let pair = Pair::start().await;
    let data = pair.gateway.site.data().display().to_string();
    let error = Site::new(POLICY).with("storage.path", data.as_str()).try_start().await.err().unwrap();
    assert!(error.contains(&data) && error.contains("in use by another pullgate"), "{error}");
    pair.gateway.get(REFUSED).await.expect_denied("tag.denied");
    assert_eq!(pair.gateway.blocked().await.len(), 1);
}

#[tokio::test]
async fn a_certificate_that_does_not_match_its_key_is_named() {
    let ca = Ca::new();
    let site = Site::new(POLICY);
    std::fs::create_dir(site.path("certs")).unwrap();
    std::fs::write(site.path("certs/ca.crt"), ca.pem()).unwrap();
    std::fs::write(site.path("certs/server.crt"), ca.issue(&["localhost"]).0).unwrap();
    std::fs::write(site.path("certs/server.key"), ca.issue(&["localhost"]).1).unwrap();
    let error = site.try_start().await.err().unwrap();
    assert!(error.contains("server.crt") && error.contains("server.key"), "{error}");
}

#[tokio::test]
async fn a_listening_address_that_is_taken_is_named_with_its_key() {
    let pair = Pair::start().await;
    let taken = pair.gateway.running.address().to_string();
    for key in ["listen.address", "admin.address"] {
        let error = Site::new(POLICY).with(key, taken.as_str()).try_start().await.err().unwrap();
        assert!(error.contains(&taken), "{error}");
        assert!(error.contains(key.split('.').next().unwrap()), "{error}");
    }
}

/// What `pullgate serve` says of this site, which it must refuse.
fn refusal_to_serve(site: &Site, change: impl FnOnce(String) -> String) -> (Option<i32>, String) {
    let path = site.write();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(text)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pullgate"));
    command.args(["serve", "--config"]).arg(&path).env("NO_COLOR", "1").env_remove("RUST_BACKTRACE");
    let output = command.output().unwrap();
    assert!(!output.status.success());
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn an_unknown_key_in_the_configuration_is_shown_with_file_and_line() {
    let site = Site::new(POLICY);
    let (code, text) = refusal_to_serve(&site, |config| format!("# a comment\ncolour = \"red\"\n{config}"));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("colour"), "{text}");
    assert!(text.replace(['\n', ' ', '│'], "").contains("pullgate.toml:2"), "{text}");
}

#[test]
fn an_unknown_key_in_the_policy_is_shown_with_file_and_line() {
    let site = Site::new(&format!("# a comment\ncolour = \"red\"\n{POLICY}"));
    let (code, text) = refusal_to_serve(&site, |config| config);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("colour"), "{text}");
    assert!(text.replace(['\n', ' ', '│'], "").contains("policy.toml:2"), "{text}");
}

#[test]
fn a_rule_that_nobody_knows_or_in_the_wrong_place_is_not_silently_accepted() {
    for rule in ["hold = \"72h\"\n", "users = { min_uid = 10001 }\n", "signature = { keys = [] }\n"] {
        let site = Site::new(&POLICY.replace("id    = \"acme\"\n", &format!("id    = \"acme\"\n{rule}")));
        let (code, text) = refusal_to_serve(&site, |config| config);
        assert_eq!(code, Some(2), "{rule}: {text}");
        assert!(text.contains(rule.split(' ').next().unwrap()), "{text}");
    }
}

#[test]
fn an_upstream_without_tls_does_not_exist() {
    let site = Site::new(POLICY);
    let upstream = "\n[[upstream]]\nregistry = \"docker.io\"\nendpoint = \"http://localhost:5000\"\n";
    let (code, text) = refusal_to_serve(&site, |config| format!("{config}{upstream}"));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("https"), "{text}");
}
