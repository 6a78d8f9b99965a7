//! Ways out of the record: what is on record arrives, in order, whatever befalls the receiver.

use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use pullgate::sink::Timing;
use serde_json::Value;

use super::POLICY;
use crate::support::fault::Fault;
use crate::support::gateway::{Gateway, Site, until};
use crate::support::process::Process;
use crate::support::registry::Registry;
use crate::support::server::{Reply, Server};
use crate::support::syslog::{Mode, Syslog};
use crate::support::tls::Ca;

/// Waits that a test can sit out.
fn quick() -> Timing {
    Timing {
        first: Duration::from_millis(5),
        most: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        linger: Duration::from_millis(20),
        settle: Duration::from_millis(100),
        grace: Duration::from_millis(100),
        write: Duration::from_secs(10),
    }
}

fn site(hub: &Registry) -> Site {
    let mut site = Site::new(POLICY).with_upstream("docker.io", hub).with("limits.refusals", "100000/min");
    site.options.sinks = quick();
    site
}

fn file(path: &Path, more: &str) -> toml::Table {
    format!("name = \"lines\"\nkind = \"file\"\npath = \"{}\"\n{more}", path.display()).parse().unwrap()
}

async fn refuse(gateway: &Gateway, tag: &str) -> String {
    let answer = gateway.get(&format!("/v2/docker.io/acme/app/manifests/{tag}")).await;
    answer.expect_denied("tag.not_allowed")["detail"]["id"].as_str().unwrap().to_owned()
}

/// Every line of these files, one after another, each of which must be whole.
fn lines(paths: &[PathBuf]) -> Vec<Value> {
    let mut events = Vec::new();
    for path in paths {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        assert!(text.is_empty() || text.ends_with('\n'), "half a line at the end of {}", path.display());
        for line in text.lines() {
            assert!(!line.chars().any(char::is_control), "{line:?}");
            events.push(serde_json::from_str(line).unwrap());
        }
    }
    events
}

fn seqs(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["seq"].as_i64().unwrap()).collect()
}

/// Everything came at least once, and the first of each in the order of the record.
fn expect_gapless(events: &[Value]) {
    let mut seen = 0;
    for seq in seqs(events) {
        assert!(seq <= seen + 1, "after {seen} came {seq}");
        seen = seen.max(seq);
    }
}

async fn has(path: &Path, id: &str) {
    let (path, id) = (path.to_owned(), id.to_owned());
    until("the event comes", || {
        let found = |text: String| text.ends_with('\n') && text.contains(&id);
        let found = std::fs::read_to_string(&path).is_ok_and(found);
        async move { found }
    })
    .await;
}

#[tokio::test]
async fn a_refused_pull_is_a_line_in_the_file_as_it_is_on_record() {
    let hub = Registry::plain();
    let site = site(&hub);
    let path = site.path("events.ndjson");
    let gateway = site.with_sink(file(&path, "")).start().await;
    let id = refuse(&gateway, "1.0").await;
    has(&path, &id).await;
    let events = lines(std::slice::from_ref(&path));
    assert_eq!(seqs(&events), (1..=events.len() as i64).collect::<Vec<_>>());
    assert_eq!(events[0]["kind"], "policy", "what the gateway began with came first");
    let event = events.iter().find(|event| event["id"] == *id).unwrap();
    assert_eq!(event["schema"], "pullgate.event/1");
    assert_eq!(event["image"]["reference"], "docker.io/acme/app:1.0");
    let (_, ready) = gateway.admin("/readyz").await;
    let ready: Value = serde_json::from_str(&ready).unwrap();
    let condition =
        ready["conditions"].as_array().unwrap().iter().find(|one| one["name"] == "sink lines").unwrap();
    assert_eq!((&condition["ok"], &condition["required"]), (&true.into(), &false.into()));
    let (_, metrics) = gateway.admin("/metrics").await;
    assert!(metrics.contains("pullgate_sink_delivered_total{kind=\"file\"} "), "{metrics}");
    assert!(metrics.contains("pullgate_sink_lag_events{kind=\"file\"} 0\n"), "{metrics}");
}

#[tokio::test]
async fn a_restart_goes_on_where_the_file_ended_and_a_cut_line_is_mended() {
    let hub = Registry::plain();
    let site = site(&hub);
    let path = site.path("events.ndjson");
    let gateway = site.with_sink(file(&path, "")).start().await;
    let id = refuse(&gateway, "1.0").await;
    has(&path, &id).await;
    let site = gateway.stop().await;
    // As a kill in the middle of a write leaves it.
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str("{\"schema\":\"pullgate.ev");
    std::fs::write(&path, text).unwrap();
    let gateway = site.start().await;
    let id = refuse(&gateway, "1.1").await;
    has(&path, &id).await;
    let events = lines(&[path]);
    assert_eq!(seqs(&events), (1..=events.len() as i64).collect::<Vec<_>>(), "none twice, none missing");
}

#[tokio::test]
async fn only_what_is_wanted_is_carried() {
    let hub = Registry::plain();
    let site = site(&hub);
    let (blocked, drift) = (site.path("blocked.ndjson"), site.path("drift.ndjson"));
    let mut second = file(&drift, "events = [\"drift\", \"policy\"]");
    second.insert("name".to_owned(), "others".into());
    let gateway = site.with_sink(file(&blocked, "events = [\"blocked\"]")).with_sink(second).start().await;
    let id = refuse(&gateway, "1.0").await;
    has(&blocked, &id).await;
    has(&drift, "\"kind\":\"policy\"").await;
    let kinds = |path: PathBuf| lines(&[path]).iter().map(|event| event["kind"].clone()).collect::<Vec<_>>();
    assert_eq!(kinds(blocked), ["decision"]);
    assert_eq!(kinds(drift), ["policy"]);
}

#[tokio::test]
async fn a_sink_that_begins_now_leaves_out_what_was_before() {
    let hub = Registry::plain();
    let gateway = site(&hub).start().await;
    let before = refuse(&gateway, "1.0").await;
    let site = gateway.stop().await;
    let path = site.path("events.ndjson");
    let gateway = site.with_sink(file(&path, "from = \"now\"")).start().await;
    let id = refuse(&gateway, "1.1").await;
    has(&path, &id).await;
    assert!(!std::fs::read_to_string(&path).unwrap().contains(&before));
}

#[tokio::test]
async fn a_full_file_is_set_aside_and_no_line_is_lost_on_the_way() {
    let hub = Registry::plain();
    let site = site(&hub);
    let path = site.path("events.ndjson");
    let gateway = site.with_sink(file(&path, "max_size = \"64KiB\"\nkeep = 20")).start().await;
    let mut last = String::new();
    for number in 0..120 {
        last = refuse(&gateway, &format!("tag-{number}-{}", "x".repeat(60))).await;
    }
    let paths: Vec<PathBuf> = (1..=20)
        .rev()
        .map(|number| PathBuf::from(format!("{}.{number}", path.display())))
        .chain([path.clone()])
        .collect();
    has(&path, &last).await;
    assert!(paths[paths.len() - 2].exists(), "it was never set aside");
    for path in paths.iter().filter(|path| path.exists()) {
        assert!(std::fs::metadata(path).unwrap().len() <= 64 << 10, "{}", path.display());
    }
    let events = lines(&paths);
    assert_eq!(seqs(&events), (1..=events.len() as i64).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_file_that_was_moved_away_is_begun_anew() {
    let hub = Registry::plain();
    let site = site(&hub);
    let (path, moved) = (site.path("events.ndjson"), site.path("events.old"));
    let gateway = site.with_sink(file(&path, "")).start().await;
    let first = refuse(&gateway, "1.0").await;
    has(&path, &first).await;
    std::fs::rename(&path, &moved).unwrap();
    let second = refuse(&gateway, "1.1").await;
    has(&path, &second).await;
    expect_gapless(&lines(&[moved, path]));
}

#[tokio::test]
async fn a_full_disk_of_a_file_delays_nobody_and_loses_nothing() {
    let hub = Registry::plain();
    let site = site(&hub);
    let path = site.path("events.ndjson");
    // Every write to it says that no space is left.
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let gateway = site.with_sink(file(&path, "")).start().await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(refuse(&gateway, &format!("bad-{number}")).await);
    }
    let trouble = || async { gateway.admin("/readyz").await.1.contains("No space left") };
    until("it is told", trouble).await;
    let (status, _) = gateway.admin("/readyz").await;
    assert_eq!(status, 200, "a sink in trouble does not make the gateway unready");
    std::fs::remove_file(&path).unwrap();
    has(&path, ids.last().unwrap()).await;
    let events = lines(std::slice::from_ref(&path));
    assert_eq!(seqs(&events), (1..=events.len() as i64).collect::<Vec<_>>());
    until("it is well again", || async { !gateway.admin("/readyz").await.1.contains("No space left") }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_kill_leaves_a_gap_or_half_a_line_in_the_file() {
    let hub = Registry::plain();
    let site = site(&hub);
    let path = site.path("events.ndjson");
    let site = site.with_sink(file(&path, ""));
    let mut random = fastrand::Rng::with_seed(4);
    let mut answered = Vec::new();
    for round in 0..6 {
        let process = Process::start(&site).await;
        for number in 0..random.u32(5..60) {
            let url = process.url(&format!("/v2/docker.io/acme/app/manifests/bad-{round}-{number}"));
            let answer = process.client.get(url).send().await.unwrap();
            let body: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
            answered.push(body["errors"][0]["detail"]["id"].as_str().unwrap().to_owned());
        }
        process.kill().await;
    }
    let process = Process::start(&site).await;
    has(&path, answered.last().unwrap()).await;
    let events = lines(&[path]);
    expect_gapless(&events);
    for id in &answered {
        assert!(events.iter().any(|event| event["id"] == *id), "{id} is missing");
    }
    process.kill().await;
}

const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A receiver of webhooks and the table of a sink that posts there.
fn hook(site: &Site, more: &str) -> (Server, toml::Table) {
    let ca = Ca::new();
    let server = Server::start(
        ca.acceptor(&["localhost".to_owned()], false),
        Box::new(|_| Reply::new(StatusCode::NO_CONTENT)),
    );
    std::fs::write(site.path("hook.pem"), ca.pem()).unwrap();
    std::fs::write(site.path("hook.key"), format!("{SECRET}\n")).unwrap();
    let table = format!(
        "name = \"hook\"\nkind = \"webhook\"\nurl = \"{}/hook\"\nca = \"{}\"\nsecret_file = \"{}\"\n{more}",
        server.url("localhost"),
        site.path("hook.pem").display(),
        site.path("hook.key").display(),
    );
    (server, table.parse().unwrap())
}

/// What the receiver said yes to, in order; every signature is checked.
fn taken(server: &Server) -> Vec<Value> {
    let mut events = Vec::new();
    for request in server.requests().iter().filter(|request| request.status == Some(StatusCode::NO_CONTENT)) {
        assert_eq!((request.method.as_str(), &*request.path), ("POST", "/hook"));
        assert_eq!(request.header("content-type"), Some("application/json"));
        let (id, time) =
            (request.header("webhook-id").unwrap(), request.header("webhook-timestamp").unwrap());
        let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap()).unwrap();
        let signed = [format!("{id}.{time}.").as_bytes(), &request.body].concat();
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &signed);
        let expected = format!("v1,{}", STANDARD.encode(signature));
        assert_eq!(request.header("webhook-signature"), Some(&*expected));
        let batch: Vec<Value> = serde_json::from_slice(&request.body).unwrap();
        let (first, last) = (&batch[0]["id"], &batch[batch.len() - 1]["id"]);
        assert_eq!(id, format!("{}-{}", first.as_str().unwrap(), last.as_str().unwrap()));
        events.extend(batch);
    }
    events
}

async fn was_taken(server: &Server, id: &str) {
    until("the receiver has it", || async { taken(server).iter().any(|event| event["id"] == *id) }).await;
}

#[tokio::test]
async fn a_refused_pull_is_posted_with_a_signature() {
    let hub = Registry::plain();
    let site = site(&hub);
    let (server, table) = hook(&site, "");
    let gateway = site.with_sink(table).start().await;
    let id = refuse(&gateway, "1.0").await;
    was_taken(&server, &id).await;
    expect_gapless(&taken(&server));
}

#[tokio::test]
async fn a_webhook_that_is_down_in_every_way_loses_nothing_and_delays_nobody() {
    let hub = Registry::plain();
    let site = site(&hub);
    let (server, table) = hook(&site, "batch = 7");
    server.stop().await;
    let gateway = site.with_sink(table).start().await;
    let mut ids = Vec::new();
    for number in 0..30 {
        ids.push(refuse(&gateway, &format!("down-{number}")).await);
    }
    until("it is told", || async { gateway.admin("/readyz").await.1.contains("cannot be reached") }).await;
    server.on("POST", "/hook").times(2, Fault::status(500));
    server.on("POST", "/hook").once(Fault::throttled("0"));
    server.on("POST", "/hook").once(Fault::Hang);
    server.on("POST", "/hook").once(Fault::status(400));
    server.restart();
    // The gateway itself goes away and comes back in between.
    let site = gateway.stop().await;
    let gateway = site.start().await;
    for number in 0..10 {
        ids.push(refuse(&gateway, &format!("later-{number}")).await);
    }
    was_taken(&server, ids.last().unwrap()).await;
    let events = taken(&server);
    expect_gapless(&events);
    for id in &ids {
        assert!(events.iter().any(|event| event["id"] == **id), "{id} is missing");
    }
    let largest = server
        .requests()
        .iter()
        .map(|request| serde_json::from_slice::<Vec<Value>>(&request.body).unwrap().len())
        .max();
    assert_eq!(largest, Some(7));
    let (_, metrics) = gateway.admin("/metrics").await;
    assert!(metrics.contains("pullgate_sink_failures_total{kind=\"webhook\"} "), "{metrics}");
}

#[tokio::test]
async fn a_webhook_that_will_not_have_an_event_is_asked_again_and_told_of() {
    let hub = Registry::plain();
    let site = site(&hub);
    let (server, table) = hook(&site, "events = [\"decision\"]");
    server.on("POST", "/hook").always(Fault::status(400));
    let gateway = site.with_sink(table).start().await;
    let id = refuse(&gateway, "1.0").await;
    until("it is told", || async { gateway.admin("/readyz").await.1.contains("400 Bad Request") }).await;
    server.clear_faults();
    was_taken(&server, &id).await;
    assert_eq!(taken(&server).len(), 1);
}

#[tokio::test]
async fn a_chat_gets_sentences_that_call_nobody() {
    let hub = Registry::plain();
    let site = site(&hub);
    let (server, table) = hook(&site, "format = \"slack\"\nevents = [\"blocked\"]");
    let gateway = site.with_sink(table).start().await;
    gateway.send("GET", "/v2/docker.io/acme/app/manifests/1.0", &[("user-agent", "<!channel>")]).await;
    server.wait_for(|log| log.hits("POST", "/hook") > 0).await;
    let body: Value = serde_json::from_slice(&server.last("POST", "/hook").body).unwrap();
    let text = body["text"].as_str().unwrap();
    assert!(text.starts_with("DENY  docker.io/acme/app:1.0  tag.not_allowed  127.0.0.1: "), "{text}");
    assert!(!text.contains('<') && body["mrkdwn"] == false, "{body}");
}

fn syslog(site: &Site, server: &Syslog, ca: Option<&Ca>) -> toml::Table {
    let mut table = format!("name = \"siem\"\nkind = \"syslog\"\naddress = \"{}\"\n", server.url());
    if let Some(ca) = ca {
        std::fs::write(site.path("siem.pem"), ca.pem()).unwrap();
        table.push_str(&format!("ca = \"{}\"\n", site.path("siem.pem").display()));
    }
    table.parse().unwrap()
}

#[tokio::test]
async fn a_refused_pull_is_a_frame_at_a_tls_syslog_receiver() {
    let hub = Registry::plain();
    let site = site(&hub);
    let ca = Ca::new();
    let server = Syslog::down(Some(ca.acceptor(&["localhost".to_owned()], true)));
    server.up(Mode::Take).await;
    let table = syslog(&site, &server, Some(&ca));
    let gateway = site.with_sink(table).start().await;
    let id = refuse(&gateway, "1.0").await;
    server.wait_for(&id).await;
    let message = server.messages().into_iter().find(|message| message.json["id"] == *id).unwrap();
    assert_eq!((message.priority, &*message.kind), (13 * 8 + 4, "decision"));
    assert!(message.data.starts_with(&format!("pullgate@32473 id=\"{id}\" seq=\"")), "{}", message.data);
    assert!(message.data.contains(" verdict=\"deny\" reason=\"tag.not_allowed\" "), "{}", message.data);
    let events: Vec<Value> = server.messages().into_iter().map(|message| message.json).collect();
    expect_gapless(&events);
    until("nothing is behind", || async {
        gateway.admin("/metrics").await.1.contains("pullgate_sink_lag_events{kind=\"syslog\"} 0\n")
    })
    .await;
}

#[tokio::test]
async fn a_syslog_receiver_that_is_down_in_every_way_loses_nothing() {
    let hub = Registry::plain();
    let site = site(&hub);
    let server = Syslog::down(None);
    let table = syslog(&site, &server, None);
    let gateway = site.with_sink(table).start().await;
    let mut ids = Vec::new();
    for number in 0..20 {
        ids.push(refuse(&gateway, &format!("refused-{number}")).await);
    }
    until("it is told", || async { gateway.admin("/readyz").await.1.contains("cannot be reached") }).await;
    server.up(Mode::Close).await;
    for number in 0..20 {
        ids.push(refuse(&gateway, &format!("closed-{number}")).await);
    }
    until("it is told", || async { gateway.admin("/readyz").await.1.contains("broke") }).await;
    server.up(Mode::Take).await;
    let last = refuse(&gateway, "taken").await;
    server.wait_for(&last).await;
    let events: Vec<Value> = server.messages().into_iter().map(|message| message.json).collect();
    expect_gapless(&events);
    for id in &ids {
        assert!(events.iter().any(|event| event["id"] == **id), "{id} is missing");
    }
}

#[tokio::test]
async fn a_tls_receiver_that_never_answers_is_given_up_and_tried_again() {
    let hub = Registry::plain();
    let site = site(&hub);
    let ca = Ca::new();
    let server = Syslog::down(Some(ca.acceptor(&["localhost".to_owned()], true)));
    server.up(Mode::Hang).await;
    let table = syslog(&site, &server, Some(&ca));
    let gateway = site.with_sink(table).start().await;
    let id = refuse(&gateway, "1.0").await;
    until("it is told", || async { gateway.admin("/readyz").await.1.contains("did not answer") }).await;
    server.up(Mode::Take).await;
    server.wait_for(&id).await;
}

#[tokio::test]
async fn words_that_clients_choose_break_no_way_out() {
    let hub = Registry::plain();
    let site = site(&hub).with("listen.trusted_proxies", vec!["127.0.0.1"]);
    let path = site.path("events.ndjson");
    let server = Syslog::down(None);
    server.up(Mode::Take).await;
    let table = syslog(&site, &server, None);
    let gateway = site.with_sink(file(&path, "")).with_sink(table).start().await;
    let agent = "=HYPERLINK(\"http://x\")\u{9b}2J\u{202e},\"]; <165>1 forged";
    let headers = [("user-agent", agent), ("x-forwarded-for", "=cmd|'/C calc'!A1, \u{202e}@x")];
    for path in [
        "/v2/docker.io/acme/app/manifests/latest",
        "/v2/docker.io/acme/%1b%5b2J%0aforged/manifests/1.0",
        "/v2/=1+1/manifests/@SUM(1)",
    ] {
        let answer = gateway.send("GET", path, &headers).await;
        assert!(answer.status.is_client_error(), "{answer:?}");
    }
    let last = refuse(&gateway, "1.0").await;
    has(&path, &last).await;
    server.wait_for(&last).await;
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains("HYPERLINK"), "the agent is on record: {text}");
    expect_gapless(&lines(&[path]));
    assert!(!text.contains(['\u{9b}', '\u{202e}', '\u{1b}']));
    for message in server.messages() {
        assert!(message.raw.is_ascii() && !message.raw.chars().any(char::is_control), "{}", message.raw);
    }
    let site = gateway.stop().await;
    for form in ["--csv", "--json", "--blocked"] {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_pullgate"));
        command.args(["log", form, "--config"]).arg(site.path("pullgate.toml"));
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(!text.contains(['\u{9b}', '\u{202e}', '\u{1b}']), "{text:?}");
        assert!(!text.replace("\r\n", "").replace('\n', "").chars().any(char::is_control), "{text:?}");
        assert!(text.contains("SUM(1)") || form == "--blocked", "{text}");
        if form == "--csv" {
            assert!(text.contains("\"'=HYPERLINK(\"\"http://x\"\")\\x9b2J"), "{text}");
            assert!(!text.contains(",=") && !text.contains(",@") && !text.contains(",\"="), "{text}");
        }
    }
}
