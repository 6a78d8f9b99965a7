//! Client certificates: who is known by one, who is turned away, and what becomes of both when the CA
//! changes.

use pullgate::clock::Clock;
use pullgate::oci::Digest;
use rustls::HandshakeKind;
use serde_json::Value;

use super::connections::{closed, closed_for, working};
use super::{POLICY, Pair, image};
use crate::support::dial::{Dialer, Reply};
use crate::support::fault::{Fault, Gate};
use crate::support::gateway::{Form, Gateway, Site, dial, replace, until};
use crate::support::tls::Ca;

const APP: &str = "acme/app";
const ALLOWED: &str = "/v2/docker.io/acme/app/manifests/1.0.0";
const REFUSED: &str = "/v2/docker.io/acme/app/manifests/latest";
const NOW: std::ops::Range<i32> = 2020..2100;

/// A gateway whose clients may show certificates of this CA; one of them is known by its name.
async fn start(ca: &Ca) -> Pair {
    Pair::with(|site| trusting(site, ca)).await
}

fn trusting(site: Site, ca: &Ca) -> Site {
    let file = site.path("clients-ca.crt");
    std::fs::write(&file, ca.pem()).unwrap();
    site.with("listen.client_ca", file.display().to_string())
        .with_client("name = \"ci\"\ncertificate = [\"ci.example.com\"]")
}

async fn asked(gateway: &Gateway, dialer: &Dialer) -> Value {
    let reply = dialer.get(REFUSED).await.unwrap();
    assert_eq!(reply.status, 403);
    let error: Value = serde_json::from_slice(&reply.body).unwrap();
    let id = &error["errors"][0]["detail"]["id"];
    let event = gateway.blocked().await.into_iter().find(|event| event["id"] == *id).unwrap();
    event["client"].clone()
}

#[tokio::test]
async fn a_client_is_known_by_the_name_in_its_certificate_and_needs_none() {
    let ca = Ca::new();
    let pair = start(&ca).await;
    let known = ca.issue_client(&["spiffe.example.com", "CI.example.com"], NOW);
    for dialer in [Dialer::showing(&pair.gateway, &known), Dialer::showing(&pair.gateway, &known).http2()] {
        let client = asked(&pair.gateway, &dialer).await;
        assert_eq!(client["name"], "ci", "{client}");
        assert_eq!(client["attribution"], "certificate", "{client}");
        assert_eq!(client["certificate"], "CI.example.com", "{client}");
    }
    let stranger = Dialer::showing(&pair.gateway, &ca.issue_client(&["other.example.com"], NOW));
    let client = asked(&pair.gateway, &stranger).await;
    assert_eq!((&client["name"], &client["attribution"]), (&Value::Null, &"none".into()), "{client}");
    assert_eq!(client["certificate"], "other.example.com", "kept for the record");
    // From elsewhere: refusals of one address fold, whatever certificate comes to nothing there.
    let client = asked(&pair.gateway, &Dialer::new(&pair.gateway).from("127.0.0.2")).await;
    assert_eq!((&client["name"], &client["attribution"]), (&Value::Null, &"none".into()), "{client}");
    assert_eq!(client["certificate"], Value::Null, "{client}");
}

#[tokio::test]
async fn a_source_for_one_client_is_served_to_its_certificate_alone() {
    let ca = Ca::new();
    let policy =
        POLICY.replace("match = \"docker.io/acme/*\"", "match = \"docker.io/acme/*\"\nclients = [\"ci\"]");
    let pair = Pair::with(|site| {
        site.write_policy(&policy);
        trusting(site, &ca)
    })
    .await;
    image(1, 100).push(&pair.hub, APP, "1.0.0");
    let status = async |dialer: Dialer| dialer.get(ALLOWED).await.unwrap().status.as_u16();
    let showing = |name| Dialer::showing(&pair.gateway, &ca.issue_client(&[name], NOW));
    assert_eq!(status(showing("ci.example.com")).await, 200);
    assert_eq!(status(showing("ci.example.com.evil.com")).await, 403);
    assert_eq!(status(Dialer::new(&pair.gateway)).await, 403);
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_ends_the_handshake() {
    let ca = Ca::new();
    let pair = start(&ca).await;
    let name = ["ci.example.com"];
    for (what, identity) in [
        ("another CA's", Ca::new().issue_client(&name, NOW)),
        ("expired", ca.issue_client(&name, 2020..2021)),
        ("not valid yet", ca.issue_client(&name, 2090..2100)),
    ] {
        let dialer = Dialer::showing(&pair.gateway, &identity);
        assert!(dialer.get(REFUSED).await.is_err(), "{what}");
        assert!(dialer.http2().get(REFUSED).await.is_err(), "{what}");
    }
    closed_for(&pair.gateway, "handshake", 6).await;
    assert_eq!(pair.gateway.blocked().await, [Value::Null; 0]);
}

/// Puts this CA in the place of the former, and waits until it is in force.
async fn change_ca(gateway: &Gateway, ca: &Ca) {
    replace(&gateway.site.path("clients-ca.crt"), ca.pem());
    let name = ca.issue_client(&["ci.example.com"], NOW);
    until("the new client CA is in force", async || {
        Dialer::showing(gateway, &name).get("/v2/").await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn a_changed_client_ca_closes_the_connections_that_were_judged_by_the_old_one() {
    let (old, new) = (Ca::new(), Ca::new());
    let pair = start(&old).await;
    let image = image(2, 2_000_000);
    image.push(&pair.hub, APP, "1.0.0");
    let identity = old.issue_client(&["ci.example.com"], NOW);
    let dialer = Dialer::showing(&pair.gateway, &identity);
    let (mut idle, mut idle2) = (dialer.open().await.unwrap(), dialer.clone().http2().open().await.unwrap());
    for line in [&mut idle, &mut idle2] {
        assert_eq!(line.get(ALLOWED).await.unwrap().body, image.manifest);
    }
    let (mut busy, mut busy2) = (dialer.open().await.unwrap(), dialer.clone().http2().open().await.unwrap());
    let gate = Gate::new();
    pair.hub.on("GET", "/blobs/").once(Fault::SlowGate(65_536, gate.clone()));
    gate.release(4);
    let blob = format!("blobs/{}", Digest::sha256(image.layer(1)));
    let blob = Form::Prefix.path("docker.io", APP, &blob);
    let reply = busy.begin("GET", &blob, &[]).await.unwrap();
    let reply2 = busy2.begin("GET", &blob, &[]).await.unwrap();

    change_ca(&pair.gateway, &new).await;
    // Idle ones go at once; those at work finish, and take nothing new.
    idle.ended().await;
    idle2.ended().await;
    assert!(dialer.get(REFUSED).await.is_err(), "what the old CA signed is refused");
    gate.open();
    for reply in [reply, reply2] {
        assert!(Reply::read(reply).await.unwrap().body == *image.layer(1), "the reply under way is whole");
    }
    busy.ended().await;
    busy2.ended().await;
    assert_eq!(closed(&pair.gateway, "client_ca").await, 4);
    assert_eq!(pair.gateway.blocked().await, [Value::Null; 0]);
    let renewed = Dialer::showing(&pair.gateway, &new.issue_client(&["ci.example.com"], NOW));
    assert_eq!(asked(&pair.gateway, &renewed).await["attribution"], "certificate");
}

#[tokio::test]
async fn a_handshake_that_began_under_the_old_ca_gets_no_request_through() {
    for h2 in [false, true] {
        let (old, new) = (Ca::new(), Ca::new());
        let pair = start(&old).await;
        let dialer = Dialer::showing(&pair.gateway, &old.issue_client(&["ci.example.com"], NOW));
        let dialer = if h2 { dialer.http2() } else { dialer };
        let stream = dialer.bare().await.unwrap();
        let open = async || pair.gateway.admin("/metrics").await.1.contains("pullgate_connections_open 1\n");
        until("it is accepted", open).await;
        change_ca(&pair.gateway, &new).await;
        let asked = async { dialer.open_on(dialer.tls_on(stream).await?).await?.get(REFUSED).await };
        assert!(asked.await.is_err());
        closed_for(&pair.gateway, "client_ca", 1).await;
        assert_eq!(pair.gateway.blocked().await, [Value::Null; 0]);
    }
}

#[tokio::test]
async fn a_session_of_before_the_client_ca_changed_is_not_resumed() {
    let (old, new) = (Ca::new(), Ca::new());
    let pair = start(&old).await;
    let dialer = Dialer::showing(&pair.gateway, &old.issue_client(&["ci.example.com"], NOW));
    dialer.get("/v2/").await.unwrap();
    let again = dialer.tls().await.unwrap();
    assert_eq!(again.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed), "before, it is");
    drop(again);
    change_ca(&pair.gateway, &new).await;
    assert!(dialer.get(REFUSED).await.is_err());
    assert_eq!(pair.gateway.blocked().await, [Value::Null; 0]);
}

#[tokio::test]
async fn a_client_ca_that_says_the_same_or_cannot_be_read_closes_nothing() {
    let ca = Ca::new();
    let pair = start(&ca).await;
    let identity = ca.issue_client(&["ci.example.com"], NOW);
    let mut line = Dialer::showing(&pair.gateway, &identity).open().await.unwrap();
    let file = pair.gateway.site.path("clients-ca.crt");
    replace(&file, &format!("# the same\n{}", ca.pem()));
    let reloads = "pullgate_reloads_total{what=\"certificates\",result=\"adopted\"} 1\n";
    let read = async || pair.gateway.admin("/metrics").await.1.contains(reloads);
    until("the file was read again", read).await;
    assert_eq!(line.get(REFUSED).await.unwrap().status, 403);

    replace(&file, "no certificate");
    let refused = "pullgate_reload_ok{what=\"certificates\"} 0\n";
    let says_so = async || pair.gateway.admin("/metrics").await.1.contains(refused);
    until("metrics say that the file cannot be used", says_so).await;
    let (_, ready) = pair.gateway.admin("/readyz").await;
    assert!(ready.contains("clients-ca.crt"), "{ready}");
    assert_eq!(line.get(REFUSED).await.unwrap().status, 403);
    assert_eq!(asked(&pair.gateway, &Dialer::showing(&pair.gateway, &identity)).await["name"], "ci");
    assert_eq!(closed(&pair.gateway, "client_ca").await, 0);
}

#[tokio::test]
async fn a_connection_outlives_its_certificate_no_more_than_a_session_does() {
    let (ca, own) = (Ca::new(), Ca::new());
    // The gateway's time is shortly before the certificate ends; TLS verifies by the machine's.
    let clock = Clock::manual("2099-12-31T23:59:57Z".parse().unwrap());
    let pair = Pair::with(|site| {
        let (certificate, key) = own.issue(&["localhost"]);
        std::fs::create_dir(site.path("certs")).unwrap();
        for (name, text) in [("server.crt", &*certificate), ("server.key", &key), ("ca.crt", own.pem())] {
            std::fs::write(site.path("certs").join(name), text).unwrap();
        }
        trusting(site, &ca).with_clock(&clock)
    })
    .await;
    let dialer = Dialer::showing(&pair.gateway, &ca.issue_client(&["ci.example.com"], NOW));
    working(&dialer).await.ended().await;
    working(&dialer.clone().http2()).await.ended().await;
    let before = closed(&pair.gateway, "certificate_expired").await;
    assert!(before >= 2, "{before}");
    clock.advance(std::time::Duration::from_secs(4));
    assert!(dialer.get("/v2/").await.is_err());
    closed_for(&pair.gateway, "certificate_expired", before + 1).await;
    assert_eq!(Dialer::new(&pair.gateway).get("/v2/").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_client_ca_that_cannot_be_read_leaves_the_former_certificate_in_force_as_well() {
    let (ca, clients) = (Ca::new(), Ca::new());
    let site = trusting(Site::new(POLICY), &clients);
    std::fs::create_dir(site.path("certs")).unwrap();
    std::fs::write(site.path("certs/ca.crt"), ca.pem()).unwrap();
    let write = |site: &Site| {
        let (certificate, key) = ca.issue(&["localhost"]);
        replace(&site.path("certs/server.key"), &key);
        replace(&site.path("certs/server.crt"), &certificate);
    };
    write(&site);
    let gateway = site.start().await;
    let shown = async || {
        let stream = dial(gateway.running.address(), ca.pem()).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let before = shown().await;
    replace(&gateway.site.path("clients-ca.crt"), "no certificate");
    let refused = async || {
        let (_, ready) = gateway.admin("/readyz").await;
        let ready: Value = serde_json::from_str(&ready).unwrap();
        ready.to_string().contains("clients-ca.crt")
    };
    until("the client CA is refused", refused).await;
    let metric = "pullgate_reloads_total{what=\"certificates\",result=\"refused\"} ";
    let refusals = async || {
        let (_, metrics) = gateway.admin("/metrics").await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(metric)).unwrap().to_owned();
        line.parse::<u32>().unwrap()
    };
    let count = refusals().await;
    write(&gateway.site);
    until("the new pair is looked at", async || refusals().await > count).await;
    assert_eq!(shown().await, before);
    replace(&gateway.site.path("clients-ca.crt"), clients.pem());
    until("both are in force", async || shown().await != before).await;
}
