//! Bad input gets a clear error and loses nothing.

use std::time::Duration;

use pullgate::oci::Digest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::{Pair, SPEC_CODES, image};
use crate::support::PATIENCE;
use crate::support::gateway::{Form, Gateway};

const APP: &str = "acme/app";

/// Whatever comes back for these bytes until the gateway closes; a broken connection ends it too.
async fn say(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = gateway.dial().await;
    // The gateway may answer and close before everything was written.
    let _ = stream.write_all(bytes).await;
    read(&mut stream).await
}

async fn read(stream: &mut TlsStream<TcpStream>) -> String {
    let mut reply = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("the gateway closes");
    String::from_utf8_lossy(&reply).into_owned()
}

async fn ask(gateway: &Gateway, method: &str, target: &str) -> (u16, String) {
    let request = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let reply = say(gateway, request.as_bytes()).await;
    (status(&reply), reply)
}

fn status(reply: &str) -> u16 {
    let line = reply.lines().next().unwrap_or_default();
    line.strip_prefix("HTTP/1.1 ")
        .and_then(|line| line.get(..3))
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

/// It still serves what it should and refuses what it should.
async fn expect_alive(pair: &Pair) {
    let path = |rest: &str| Form::Prefix.path("docker.io", APP, rest);
    pair.gateway.get(&path("manifests/1.0.0")).await.expect_bytes(&image(1, 100).manifest);
    pair.gateway.get(&path("manifests/latest")).await.expect_denied("tag.denied");
}

async fn start() -> Pair {
    let pair = Pair::start().await;
    image(1, 100).push(&pair.hub, APP, "1.0.0");
    pair
}

#[tokio::test]
async fn malformed_names_are_400_and_reach_nobody() {
    let pair = start().await;
    let long = format!("/v2/docker.io/acme/{}/manifests/1.0.0", "a".repeat(300));
    let targets = [
        "/v2/docker.io/acme/App/manifests/1.0.0",
        "/v2/docker.io/acme/-app/manifests/1.0.0",
        "/v2/docker.io/acme/app-/manifests/1.0.0",
        "/v2/docker.io/acme/a..b/manifests/1.0.0",
        "/v2/docker.io/acme//app/manifests/1.0.0",
        "/v2/docker.io//acme/app/manifests/1.0.0",
        "/v2//docker.io/acme/app/manifests/1.0.0",
        "/v2/docker.io./acme/app/manifests/1.0.0",
        "/v2/docker.io/acme/app%2Fx/manifests/1.0.0",
        "/v2/docker.io/acme/%61pp/manifests/1.0.0",
        "/v2/docker.io/acme/app%00/manifests/1.0.0",
        "/v2/docker.io/acme/app%0d%0aX-Evil:%201/manifests/1.0.0",
        "/v2/docker.io/acme/%C3%A4pp/manifests/1.0.0",
        "/v2/docker.io/acme/app;x=1/manifests/1.0.0",
        "/v2/docker.io/acme/app@1/manifests/1.0.0",
        "/v2/docker.io:99999/acme/app/manifests/1.0.0",
        "/v2/docker.io:0x50/acme/app/manifests/1.0.0",
        "/v2/10.0.0.1/acme/app/manifests/1.0.0",
        "/v2/127.0.0.1:5000/acme/app/manifests/1.0.0",
        "/v2/[::1]:5000/acme/app/manifests/1.0.0",
        "/v2/acme/app/manifests/1.0.0?ns=169.254.169.254",
        "/v2/acme/app/manifests/1.0.0?ns=2130706433",
        "/v2/acme/app/manifests/1.0.0?ns=",
        "/v2/acme/app/manifests/1.0.0?ns=docker.io.",
        "/v2/acme/app/manifests/1.0.0?ns=docker.io/acme",
        "/v2/acme/app/manifests/1.0.0?ns=https://docker.io",
        "/v2/acme/app/manifests/1.0.0?ns=user@docker.io",
        "/v2/acme/app/manifests/1.0.0?ns=docker.io&ns=docker.io",
        "/v2/acme/app/manifests/1.0.0?ns=docker.io&ns=ghcr.io",
        "/v2/ghcr.io/acme/app/manifests/1.0.0?ns=docker.io",
        &long,
    ];
    for target in targets {
        for method in ["GET", "HEAD"] {
            let (status, reply) = ask(&pair.gateway, method, target).await;
            assert_eq!(status, 400, "{method} {target}: {reply}");
            assert_eq!(reply.contains("\"NAME_INVALID\""), method == "GET", "{target}: {reply}");
            assert!(!reply.to_lowercase().contains("\nx-evil"), "{reply}");
        }
    }
    assert_eq!(pair.hub.connections() + pair.ghcr.connections(), 0);
    assert_eq!(pair.gateway.site.names.asked(), [""; 0]);
    expect_alive(&pair).await;
}

#[tokio::test]
async fn dots_lead_nowhere_in_any_place() {
    let pair = start().await;
    for target in [
        "/..",
        "/../../etc/passwd",
        "/v2/..",
        "/v2/../v2/docker.io/acme/app/manifests/1.0.0",
        "/v2/../docker.io/acme/app/manifests/1.0.0",
        "/v2/./docker.io/acme/app/manifests/1.0.0",
        "/v2/docker.io/../acme/app/manifests/1.0.0",
        "/v2/docker.io/acme/../app/manifests/1.0.0",
        "/v2/docker.io/acme/./app/manifests/1.0.0",
        "/v2/docker.io/acme/app/../manifests/1.0.0",
        "/v2/docker.io/acme/app/../../other/app/manifests/1.0.0",
        "/v2/docker.io/acme/app/manifests/..",
        "/v2/docker.io/acme/app/manifests/.",
        "/v2/docker.io/acme/app/manifests/../1.0.0",
        "/v2/docker.io/acme/app/manifests/../../../../etc/passwd",
        "/v2/docker.io/acme/app/blobs/..",
        "/v2/docker.io/acme/app/blobs/sha256:../../audit.db",
        "/v2/docker.io/acme/app/blobs/../../../data/audit.db",
        "/v2/docker.io/acme/%2e%2e/app/manifests/1.0.0",
        "/v2/docker.io/acme/app/manifests/%2e%2e",
        "/v2/docker.io/acme/app/..%2f..%2fmanifests/1.0.0",
        "/v2/acme/../../app/manifests/1.0.0?ns=docker.io",
        "/v2/acme/app/manifests/1.0.0?ns=..",
        "/v2/acme/app/manifests/1.0.0?ns=docker.io/..",
        "/v2/..docker.io/acme/app/manifests/1.0.0",
    ] {
        let (status, reply) = ask(&pair.gateway, "GET", target).await;
        assert!([400, 404].contains(&status), "{target}: {reply}");
        let body = reply.split_once("\r\n\r\n").unwrap().1;
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(SPEC_CODES.contains(&json["errors"][0]["code"].as_str().unwrap()), "{reply}");
    }
    assert_eq!(pair.hub.connections() + pair.ghcr.connections(), 0);
    expect_alive(&pair).await;
}

#[tokio::test]
async fn malformed_tags_and_digests_are_400() {
    let pair = start().await;
    let good = Digest::sha256(b"x").to_string();
    let tags = [
        "a".repeat(129),
        "-a".to_owned(),
        ".a".to_owned(),
        "a+b".to_owned(),
        "a%20b".to_owned(),
        "%61".to_owned(),
    ];
    let digests = [
        "sha256:".to_owned(),
        "sha256:abc".to_owned(),
        good.to_uppercase().replace("SHA256", "sha256"),
        good.replace("sha256", "SHA256"),
        good.replace("sha256", "md5"),
        good.replace("sha256", "sha512"),
        format!("{good}0"),
        good.replace(':', "::"),
        format!("{good}%00"),
        good.replace(':', "%253A"),
    ];
    let rest = tags.iter().map(|tag| format!("manifests/{tag}"));
    let rest = rest.chain(digests.iter().map(|digest| format!("manifests/{digest}")));
    let rest = rest.chain(digests.iter().map(|digest| format!("blobs/{digest}")));
    let rest = rest.chain(digests.iter().map(|digest| format!("referrers/{digest}")));
    let rest = rest.chain(["blobs/latest".to_owned(), "referrers/latest".to_owned()]);
    for rest in rest {
        for form in [Form::Prefix, Form::Ns, Form::Bare] {
            let target = form.path("docker.io", APP, &rest);
            let (status, reply) = ask(&pair.gateway, "GET", &target).await;
            assert_eq!(status, 400, "{target}: {reply}");
            assert!(reply.contains("_INVALID\""), "{reply}");
            assert!(reply.contains("\"name.invalid\""), "{reply}");
        }
    }
    let longest = Form::Prefix.path("docker.io", APP, &format!("manifests/{}", "a".repeat(128)));
    pair.gateway.get(&longest).await.expect_denied("tag.not_allowed");
    assert_eq!(pair.hub.connections(), 0);
    expect_alive(&pair).await;
}

#[tokio::test]
async fn malformed_ranges_and_pages_are_answered_sensibly() {
    let pair = start().await;
    let image = image(1, 100);
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    let layer = image.layer(1);
    let blob = Form::Prefix.path("docker.io", APP, &format!("blobs/{}", Digest::sha256(layer)));
    for range in [
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=5-1",
        "bytes=--5",
        "bytes=1-2-3",
        "bytes= 1 - 2",
        "0-5",
        "bytes=18446744073709551616-",
        "bytes=0-18446744073709551616",
    ] {
        let answer = pair.gateway.send("GET", &blob, &[("range", range)]).await;
        match answer.status.as_u16() {
            200 => assert_eq!(answer.body, *layer, "{range}"),
            206 => assert!(layer.starts_with(&answer.body), "{range}"),
            other => assert_eq!(other, 416, "{range}"),
        }
    }
    for query in ["n=-1", "n=1.5", "n=a", "n=", "n=99999999999999999999999"] {
        let answer =
            pair.gateway.get(&Form::Prefix.path("docker.io", APP, &format!("tags/list?{query}"))).await;
        assert_eq!(answer.status, 400, "{query}");
        answer.expect_error(400, "NAME_INVALID");
    }
    for query in ["last=../../x", "last=%00", "n=5&last=zzz&ns=docker.io", "x=y"] {
        let answer =
            pair.gateway.get(&Form::Prefix.path("docker.io", APP, &format!("tags/list?{query}"))).await;
        assert_eq!(answer.status, 200, "{query}");
    }
    expect_alive(&pair).await;
}

#[tokio::test]
async fn ten_thousand_header_lines_are_431() {
    let pair = start().await;
    let mut request = "GET /v2/ HTTP/1.1\r\nHost: localhost\r\n".to_owned();
    for number in 0..10_000 {
        request.push_str(&format!("x{number}: 1\r\n"));
    }
    request.push_str("\r\n");
    let reply = say(&pair.gateway, request.as_bytes()).await;
    assert_eq!(status(&reply), 431, "{reply}");
    expect_alive(&pair).await;
}

#[tokio::test]
async fn ten_thousand_header_lines_over_http2_harm_nobody() {
    let pair = start().await;
    let mut request = pair.gateway.h2.get(pair.gateway.url("/v2/"));
    for number in 0..10_000 {
        request = request.header(format!("x{number}"), "some value");
    }
    if let Ok(response) = request.send().await {
        assert_eq!(response.status(), 431);
    }
    let path = Form::Prefix.path("docker.io", APP, "manifests/1.0.0");
    pair.gateway.get2(&path).await.expect_bytes(&image(1, 100).manifest);
    expect_alive(&pair).await;
}

#[tokio::test]
async fn a_huge_header_and_a_huge_uri_are_refused() {
    let pair = start().await;
    let header = format!("GET /v2/ HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let reply = say(&pair.gateway, header.as_bytes()).await;
    assert_eq!(status(&reply), 431, "{reply:.200}");
    let uri = format!("GET /v2/{}/manifests/1.0.0 HTTP/1.1\r\nHost: localhost\r\n\r\n", "a/".repeat(1 << 19));
    let reply = say(&pair.gateway, uri.as_bytes()).await;
    assert!([400, 414, 431].contains(&status(&reply)), "{reply:.200}");
    let (status, reply) =
        ask(&pair.gateway, "GET", &format!("/v2/{}/manifests/1.0.0", "a/".repeat(15_000))).await;
    assert!([400, 404, 414, 431].contains(&status), "{reply:.200}");
    expect_alive(&pair).await;
}

#[tokio::test]
async fn what_is_no_http_ends_the_connection_alone() {
    let pair = start().await;
    for bytes in [
        &b"\r\n\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET /v2/ HTTP/9.9\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nHost: a\r\nX\x00: b\r\n\r\n",
        b"GET /v2/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v2/ HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET /v2/ HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\xff\xff\xff",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        let mut stream = pair.gateway.dial().await;
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let reply = read(&mut stream).await;
        assert!(!(200..300).contains(&status(&reply)), "{reply}");
    }
    expect_alive(&pair).await;
}

#[tokio::test]
async fn what_is_no_tls_ends_the_connection_alone() {
    let pair = start().await;
    let mut random = vec![0; 70_000];
    fastrand::Rng::with_seed(7).fill(&mut random);
    for bytes in [&b"GET /v2/ HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], b"\x16\x03\x01\xff\xff", &random, b""]
    {
        let mut stream = TcpStream::connect(pair.gateway.running.address()).await.unwrap();
        let _ = stream.write_all(bytes).await;
        let _ = stream.shutdown().await;
        let mut reply = Vec::new();
        let _ =
            tokio::time::timeout(PATIENCE, stream.read_to_end(&mut reply)).await.expect("the gateway closes");
        assert!(!reply.starts_with(b"HTTP/1.1 200"));
    }
    expect_alive(&pair).await;
}

#[tokio::test]
async fn whoever_is_slow_to_shake_hands_or_to_ask_is_hung_up_on() {
    let pair =
        Pair::with(|site| site.with("limits.handshake", "1s").with("limits.header_timeout", "1s")).await;
    image(1, 100).push(&pair.hub, APP, "1.0.0");
    let mut silent = TcpStream::connect(pair.gateway.running.address()).await.unwrap();
    let mut half = TcpStream::connect(pair.gateway.running.address()).await.unwrap();
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    let mut slow = pair.gateway.dial().await;
    slow.write_all(b"GET /v2/ HTTP/1.1\r\nHost: local").await.unwrap();
    expect_alive(&pair).await;
    let mut rest = Vec::new();
    for stream in [&mut silent, &mut half] {
        let _ =
            tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the gateway closes");
    }
    let reply = read(&mut slow).await;
    assert!([0, 408].contains(&status(&reply)), "{reply}");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let pair = Pair::with(|site| site.with("limits.connections", 2)).await;
    image(1, 100).push(&pair.hub, APP, "1.0.0");
    let (first, second) = (pair.gateway.dial().await, pair.gateway.dial().await);
    let url = pair.gateway.url("/v2/");
    let third = tokio::spawn(pair.gateway.h1.get(url).send());
    drop(first);
    assert_eq!(tokio::time::timeout(PATIENCE, third).await.unwrap().unwrap().unwrap().status(), 200);
    drop(second);
    expect_alive(&pair).await;
}

#[tokio::test]
async fn hostile_user_agents_change_nothing_but_their_own_field() {
    let pair = start().await;
    let agents: [&[u8]; 8] = [
        b"\"}],\"verdict\":\"allow\",\"x\":\"",
        b"'; DROP TABLE event; --",
        b"\xff\xfe\xfd",
        b"\xc3\xa4 latin and \xe2\x80\xae bidi \xf0\x9f\x92\xa9",
        b"%s%n{}{id}{0}",
        b"docker/",
        b"",
        &[b'a'; 20_000],
    ];
    for agent in agents {
        let value = http::HeaderValue::from_bytes(agent).unwrap();
        let url = pair.gateway.url("/v2/docker.io/acme/app/manifests/latest");
        let response = pair.gateway.h1.get(url).header("user-agent", value).send().await.unwrap();
        assert_eq!(response.status(), 403);
    }
    let blocked = pair.gateway.blocked().await;
    assert_eq!(blocked.len(), agents.len(), "each agent is told apart");
    for event in blocked {
        assert_eq!(event["verdict"], "deny");
        assert_eq!(event["image"]["reference"], "docker.io/acme/app:latest");
        let agent = event["client"]["user_agent"].as_str().unwrap_or_default();
        assert!(agent.chars().count() <= 300, "{} characters", agent.chars().count());
    }
    expect_alive(&pair).await;
}

#[tokio::test]
async fn clients_that_leave_at_every_moment_cost_the_next_ones_nothing() {
    let pair = start().await;
    let image = image(1, 100);
    let request = b"GET /v2/docker.io/acme/app/manifests/1.0.0 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for length in 0..=request.len() {
        let mut stream = pair.gateway.dial().await;
        stream.write_all(&request[..length]).await.unwrap();
        stream.flush().await.unwrap();
        drop(stream);
    }
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    tokio::time::timeout(Duration::from_secs(30), pair.gateway.stop()).await.expect("nobody is waited for");
}
