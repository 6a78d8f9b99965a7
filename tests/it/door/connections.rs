//! Connections: how many one address may have, when idle ones end, what a proxy may say before TLS.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Pair, image};
use crate::support::PATIENCE;
use crate::support::dial::{Dialer, Line, Reply};
use crate::support::fault::{Fault, Gate};
use crate::support::gateway::{Form, Gateway, Site, until};

const APP: &str = "acme/app";
const REFUSED: &str = "/v2/docker.io/acme/app/manifests/latest";

/// How many connections were closed for this reason.
pub(crate) async fn closed(gateway: &Gateway, reason: &str) -> u64 {
    let (_, text) = gateway.admin("/metrics").await;
    let name = format!("pullgate_connections_closed_total{{reason=\"{reason}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

pub(crate) async fn closed_for(gateway: &Gateway, reason: &str, times: u64) {
    until(&format!("{times} × {reason}"), async || closed(gateway, reason).await == times).await;
}

/// A connection on which a request was answered just now. Under a short limit a machine that stalls may
/// lose some before that: then another is opened.
pub(crate) async fn working(dialer: &Dialer) -> Line {
    let opened = async {
        loop {
            if let Ok(mut line) = dialer.open().await
                && line.get("/v2/").await.is_ok_and(|reply| reply.status == 200)
            {
                return line;
            }
        }
    };
    tokio::time::timeout(PATIENCE, opened).await.expect("a connection that works")
}

/// Waits until the gateway closes; what came before that.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes));
    let _ = read.await.expect("the gateway closes");
    bytes
}

#[tokio::test]
async fn one_address_cannot_take_all_the_connections() {
    let pair = Pair::with(|site| site.with("limits.connections_per_address", 2)).await;
    let (here, elsewhere) = (Dialer::new(&pair.gateway).from("127.0.0.2"), Dialer::new(&pair.gateway));
    let (first, second) = (here.tls().await.unwrap(), here.tls().await.unwrap());
    assert_eq!(rest(&mut here.bare().await.unwrap()).await, b"");
    assert!(here.tls().await.is_err());
    assert_eq!(closed(&pair.gateway, "address_limit").await, 2);
    assert_eq!(elsewhere.get("/v2/").await.unwrap().status, 200, "others are served");
    drop(first);
    until("a place that was left is free", async || here.get("/v2/").await.is_ok()).await;
    drop(second);
}

#[tokio::test]
async fn a_trusted_proxy_speaks_for_many_and_has_no_bound() {
    let pair = Pair::with(|site| {
        let site = site.with("limits.connections_per_address", 1);
        site.with("listen.trusted_proxies", vec!["127.0.0.2"])
    })
    .await;
    let (proxy, client) = (Dialer::new(&pair.gateway).from("127.0.0.2"), Dialer::new(&pair.gateway));
    let mut open = Vec::new();
    for _ in 0..5 {
        open.push(proxy.tls().await.unwrap());
    }
    // For whom it speaks is counted all the same.
    let speaking = |source| proxy.clone().after(line(source));
    let _one = speaking("203.0.113.7").tls().await.unwrap();
    assert!(speaking("203.0.113.7").tls().await.is_err());
    assert!(speaking("203.0.113.8").tls().await.is_ok());
    let _other = client.tls().await.unwrap();
    assert!(client.tls().await.is_err());
    closed_for(&pair.gateway, "address_limit", 2).await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_reply_under_way_is_not() {
    let pair = Pair::with(|site| site.with("limits.idle_timeout", "1s")).await;
    let image = image(1, 2_000_000);
    image.push(&pair.hub, APP, "1.0.0");
    let dialer = Dialer::new(&pair.gateway).http2();
    let manifest = Form::Prefix.path("docker.io", APP, "manifests/1.0.0");
    assert_eq!(pair.gateway.get(&manifest).await.body, image.manifest);
    let gate = Gate::new();
    pair.hub.on("GET", "/blobs/").once(Fault::SlowGate(65_536, gate.clone()));
    gate.release(4);
    let blob = format!("blobs/{}", pullgate::oci::Digest::sha256(image.layer(1)));
    let blob = Form::Prefix.path("docker.io", APP, &blob);
    let begun = async {
        loop {
            let mut busy = working(&dialer).await;
            if let Ok(reply) = busy.begin("GET", &blob, &[]).await {
                return (busy, reply);
            }
        }
    };
    let (busy, reply) = tokio::time::timeout(PATIENCE, begun).await.expect("a reply begins");
    let before = closed(&pair.gateway, "idle").await;
    // Idle after a request, and from the beginning: both come later and go before the reply ends.
    working(&dialer).await.ended().await;
    let mut silent = dialer.tls().await.unwrap();
    let _ = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await.expect("it is closed");
    until("both are counted", async || closed(&pair.gateway, "idle").await >= before + 2).await;
    gate.open();
    assert!(Reply::read(reply).await.unwrap().body == *image.layer(1));
    busy.ended().await;
}

#[tokio::test]
async fn an_idle_connection_of_http1_is_closed_when_the_time_for_headers_is_up() {
    let pair = Pair::with(|site| site.with("limits.header_timeout", "1s")).await;
    working(&Dialer::new(&pair.gateway)).await.ended().await;
}

/// A header of version 1.
fn line(source: &str) -> String {
    let (family, here) = if source.contains(':') { ("TCP6", "::1") } else { ("TCP4", "127.0.0.1") };
    format!("PROXY {family} {source} {here} 51000 8443\r\n")
}

/// A header of version 2, with some values after the addresses.
fn binary(command: u8, source: &str) -> Vec<u8> {
    let source: SocketAddr = source.parse().unwrap();
    let (family, mut block) = match source.ip() {
        std::net::IpAddr::V4(address) => (0x11, [address.octets(), [127, 0, 0, 1]].concat()),
        std::net::IpAddr::V6(address) => (0x21, [address.octets(), [1; 16]].concat()),
    };
    block.extend(source.port().to_be_bytes());
    block.extend(8443_u16.to_be_bytes());
    block.extend(*b"\x04\x00\x05hello");
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &length, &block].concat()
}

fn behind_a_proxy(site: Site) -> Site {
    site.with("listen.trusted_proxies", vec!["127.0.0.1", "192.0.2.0/24"])
        .with_client("name = \"rack\"\nranges = [\"10.20.0.0/16\", \"2001:db8::/32\"]")
}

/// Who asked, according to the record, when this came first.
async fn asked(gateway: &Gateway, before: impl Into<Vec<u8>>, headers: &[(&str, &str)]) -> Value {
    let mut line = Dialer::new(gateway).after(before).open().await.unwrap();
    let reply = line.send("GET", REFUSED, headers).await.unwrap();
    assert_eq!(reply.status, 403);
    let error: Value = serde_json::from_slice(&reply.body).unwrap();
    let id = &error["errors"][0]["detail"]["id"];
    let event = gateway.blocked().await.into_iter().find(|event| event["id"] == *id).unwrap();
    event["client"].clone()
}

#[tokio::test]
async fn what_a_trusted_proxys_header_says_is_the_clients_address() {
    let pair = Pair::with(behind_a_proxy).await;
    let rows: [(Vec<u8>, &str); 4] = [
        (line("10.20.0.1").into(), "10.20.0.1"),
        (line("2001:db8::2").into(), "2001:db8::2"),
        (binary(0x21, "10.20.0.3:51000"), "10.20.0.3"),
        (binary(0x21, "[2001:db8::4]:51000"), "2001:db8::4"),
    ];
    for (header, address) in rows {
        let client = asked(&pair.gateway, header, &[]).await;
        assert_eq!(client["address"], address, "{client}");
        assert_eq!(client["forwarded_for"], address, "{client}");
        assert_eq!(client["proxy"], "127.0.0.1", "{client}");
        assert_eq!((&client["name"], &client["attribution"]), (&"rack".into(), &"address".into()));
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_for_nobody_is_taken_for_itself() {
    let pair = Pair::with(behind_a_proxy).await;
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), binary(0x20, "10.20.0.1:51000"), Vec::new()] {
        let client = asked(&pair.gateway, header, &[]).await;
        assert_eq!(client["address"], "127.0.0.1", "{client}");
        assert_eq!(client["proxy"], Value::Null, "{client}");
    }
}

#[tokio::test]
async fn forwarded_for_counts_behind_a_proxy_header_only_if_its_source_is_trusted_too() {
    let pair = Pair::with(behind_a_proxy).await;
    let forwarded = [("x-forwarded-for", "10.20.0.9")];
    for (source, address, proxy) in
        [("203.0.113.7", "203.0.113.7", "127.0.0.1"), ("192.0.2.5", "10.20.0.9", "192.0.2.5")]
    {
        let client = asked(&pair.gateway, line(source), &forwarded).await;
        assert_eq!(client["address"], address, "{client}");
        assert_eq!(client["proxy"], proxy, "{client}");
    }
}

#[tokio::test]
async fn a_proxy_header_of_anybody_else_is_no_tls() {
    let pair = Pair::with(|site| site.with("listen.trusted_proxies", vec!["192.0.2.0/24"])).await;
    for header in [line("10.20.0.1").into_bytes(), binary(0x21, "10.20.0.1:51000")] {
        assert!(Dialer::new(&pair.gateway).after(header).get(REFUSED).await.is_err());
    }
    closed_for(&pair.gateway, "handshake", 2).await;
    assert_eq!(pair.gateway.blocked().await, [Value::Null; 0]);
}

#[tokio::test]
async fn a_proxy_header_may_arrive_in_pieces_but_not_for_ever() {
    let pair = Pair::with(|site| behind_a_proxy(site).with("limits.handshake", "2s")).await;
    for header in [line("10.20.0.1").into_bytes(), binary(0x21, "10.20.0.1:51000")] {
        let (_, but_the_last) = header.split_last().unwrap();
        let mut stalled = Dialer::new(&pair.gateway).bare().await.unwrap();
        for byte in but_the_last {
            if stalled.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
        assert_eq!(rest(&mut stalled).await, b"");
    }
    closed_for(&pair.gateway, "handshake_timeout", 2).await;
    let pair = Pair::with(behind_a_proxy).await;
    // The same pieces, and the last one: followed by what is no TLS, so that the gateway answers at once.
    let mut whole = Dialer::new(&pair.gateway).bare().await.unwrap();
    for byte in line("10.20.0.1").bytes().chain(*b"no TLS") {
        whole.write_all(&[byte]).await.unwrap();
    }
    rest(&mut whole).await;
    closed_for(&pair.gateway, "handshake", 1).await;
    assert_eq!(asked(&pair.gateway, line("10.20.0.1"), &[]).await["name"], "rack");
}

#[tokio::test]
async fn a_malformed_proxy_header_ends_the_connection_and_is_counted() {
    let pair = Pair::with(behind_a_proxy).await;
    let oversized = [&binary(0x21, "10.20.0.1:1")[..14], &[0xff, 0xff]].concat();
    let headers: [&[u8]; 6] = [
        b"PROXY TCP4 10.20.0.1 127.0.0.1 51000\r\n",
        b"PROXY TCP4 10.20.0.999 127.0.0.1 51000 8443\r\n",
        &[b'P'; 200],
        b"\r\n\r\n\0\r\nQUIT\r\x21\x11\0\0",
        &binary(0x2f, "10.20.0.1:51000"),
        &oversized,
    ];
    for header in headers {
        let error = Dialer::new(&pair.gateway).after(header).get(REFUSED).await;
        assert!(error.is_err(), "{}", String::from_utf8_lossy(header));
    }
    // And the proxy that goes away in the middle.
    let mut gone = Dialer::new(&pair.gateway).bare().await.unwrap();
    gone.write_all(b"PROXY TCP4 10.20").await.unwrap();
    gone.shutdown().await.unwrap();
    rest(&mut gone).await;
    closed_for(&pair.gateway, "proxy_header", 7).await;
    assert_eq!(pair.gateway.blocked().await, [Value::Null; 0]);
    assert_eq!(asked(&pair.gateway, "", &[]).await["address"], "127.0.0.1", "the others are served");
}
