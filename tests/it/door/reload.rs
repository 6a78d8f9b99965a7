//! Files read again: by themselves, at SIGHUP, and what is said of those that cannot be used.

use std::time::Duration;

use rustix::process::Signal;

use super::{POLICY, Pair, image};
use crate::support::gateway::{Answer, Site, replace, until};
use crate::support::process::Process;
use crate::support::registry::Registry;

const ALLOWED: &str = "/v2/docker.io/acme/app/manifests/1.0.0";
const REFUSED: &str = "/v2/docker.io/acme/app/manifests/latest";

/// [`POLICY`], with `latest` in the place of versions.
fn turned(revision: &str) -> String {
    POLICY
        .replace("revision = \"1\"", &format!("revision = \"{revision}\""))
        .replace("deny  = [\"latest\"]", "deny  = []")
        .replace("[\"#.#.#\"]", "[\"latest\"]")
}

async fn status(process: &Process, path: &str) -> u16 {
    let reply = process.client.get(process.url(path)).send().await.unwrap();
    Answer::read(reply).await.status.as_u16()
}

async fn start() -> (Process, Site, Registry) {
    let hub = Registry::plain();
    for tag in ["1.0.0", "latest"] {
        image(1, 100).push(&hub, "acme/app", tag);
    }
    let site = Site::new(POLICY).with_upstream("docker.io", &hub);
    (Process::start(&site).await, site, hub)
}

#[tokio::test]
async fn a_changed_policy_file_takes_effect_by_itself() {
    let (process, site, _hub) = start().await;
    assert_eq!((status(&process, ALLOWED).await, status(&process, REFUSED).await), (200, 403));
    site.write_policy(&turned("2"));
    until("the new policy is in force", async || status(&process, REFUSED).await == 200).await;
    assert_eq!(status(&process, ALLOWED).await, 403);
    assert!(process.logged(&["a new policy is in force", "\"revision\":\"2\""]));
    assert!(!process.logged(&["certificates were read again"]), "nobody asked for that");
    process.kill().await;
}

#[tokio::test]
async fn sighup_reads_policy_and_certificates_again() {
    let (process, site, _hub) = start().await;
    // Nothing changed: that it is read all the same can only be the signal's doing.
    process.signal(Signal::HUP);
    until("certificates are read", async || process.logged(&["the certificates were read again"])).await;
    let unchanged = "pullgate_reloads_total{what=\"policy\",result=\"unchanged\"} 1\n";
    until("the policy is read", async || process.admin("/metrics").await.contains(unchanged)).await;
    site.write_policy(&turned("2"));
    process.signal(Signal::HUP);
    until("the new policy is in force", async || status(&process, REFUSED).await == 200).await;
    assert_eq!(status(&process, ALLOWED).await, 403);
    process.kill().await;
}

#[tokio::test]
async fn a_bad_file_keeps_the_old_policy_and_says_so_in_log_metric_and_readyz() {
    let (process, site, _hub) = start().await;
    assert!(process.admin("/metrics").await.contains("pullgate_reload_ok{what=\"policy\"} 1\n"));
    site.write_policy(&format!("{}\ncolour = \"red\"\n", turned("2")));
    process.signal(Signal::HUP);
    let not_ok = "pullgate_reload_ok{what=\"policy\"} 0\n";
    until("the metric says so", async || process.admin("/metrics").await.contains(not_ok)).await;
    assert!(process.logged(&["the policy file cannot be used", "policy.toml:", "colour"]));
    let ready = process.admin("/readyz").await;
    assert!(ready.contains("policy.toml:") && ready.contains("colour"), "{ready}");
    assert!(process.admin("/metrics").await.contains("{what=\"policy\",result=\"refused\"}"));
    assert_eq!((status(&process, ALLOWED).await, status(&process, REFUSED).await), (200, 403));
    site.write_policy(&turned("2"));
    until("a good file takes its place", async || status(&process, REFUSED).await == 200).await;
    let ok = "pullgate_reload_ok{what=\"policy\"} 1\n";
    until("the metric says so", async || process.admin("/metrics").await.contains(ok)).await;
    process.kill().await;
}

#[tokio::test]
async fn a_forced_reload_waits_for_no_poll() {
    let pair = Pair::with(|mut site| {
        site.options.poll = Duration::from_secs(3600);
        site
    })
    .await;
    image(2, 100).push(&pair.hub, "acme/app", "latest");
    pair.gateway.get(REFUSED).await.expect_denied("tag.denied");
    pair.gateway.site.write_policy(&turned("2"));
    pair.gateway.running.reload();
    until("the new policy is in force", async || pair.gateway.get(REFUSED).await.status == 200).await;
}

#[tokio::test]
async fn a_client_that_no_table_declares_is_an_error_at_the_start_and_at_a_reload() {
    let naming =
        |name: &str| POLICY.replace("id    = \"acme\"", &format!("id    = \"acme\"\nclients = [\"{name}\"]"));
    let line = naming("cj").lines().position(|line| line.starts_with("clients")).unwrap() + 1;
    let with_client = |site: Site| site.with_client("name = \"ci\"\nranges = [\"10.0.0.0/8\"]");
    let error = with_client(Site::new(&naming("cj"))).try_start().await.err().unwrap();
    assert!(error.contains(&format!("policy.toml:{line}: ")), "{error}");
    assert!(error.contains("\"cj\"; did you mean \"ci\"?"), "{error}");

    let pair = Pair::with(with_client).await;
    pair.gateway.site.write_policy(&naming("cj"));
    let ready = async || pair.gateway.admin("/readyz").await.1;
    until("readyz names the client", async || ready().await.contains("cj")).await;
    pair.gateway.get(REFUSED).await.expect_denied("tag.denied");
    pair.gateway.site.write_policy(&naming("ci"));
    until("the right name is adopted", async || !ready().await.contains("cj")).await;
    pair.gateway.get(REFUSED).await.expect_denied("client.not_allowed");
    // `pullgate check` knows no gateway file, and so no clients.
    let file = pair.gateway.site.path("other.toml");
    replace(&file, &naming("cj"));
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_pullgate"));
    check.args(["check", "--policy"]).arg(&file).arg("ghcr.io/other/app:1.0.0");
    assert_eq!(check.output().unwrap().status.code(), Some(0));
}
