//! The page that the link in a refusal leads to.

use pullgate::clock::Clock;
use serde_json::Value;

use super::{POLICY, Pair, image};
use crate::support::gateway::{Answer, Gateway, morning};

const REFUSED: &str = "/v2/docker.io/acme/app/manifests/latest";
const BROWSER: (&str, &str) = ("accept", "text/html,application/xhtml+xml,*/*;q=0.8");
const JSON: (&str, &str) = ("accept", "application/json");

/// The path of the link in a refusal's message.
fn link(refused: &Answer) -> String {
    let message = refused.json()["errors"][0]["message"].as_str().unwrap().to_owned();
    let (_, link) = message.split_once("https://pullgate.example").unwrap();
    link.split(' ').next().unwrap().to_owned()
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

/// The headers without which a page of hostile words would be a way in.
#[track_caller]
fn expect_strict(answer: &Answer) {
    let security = answer.header("content-security-policy");
    assert!(security.starts_with("default-src 'none'; style-src 'sha256-"), "{security}");
    assert!(!security.contains("unsafe"), "{security}");
    assert!(security.contains("frame-ancestors 'none'"), "{security}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    assert_eq!(answer.header("referrer-policy"), "no-referrer");
    assert!(answer.header("cache-control").contains("no-store"));
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
}

async fn refuse(gateway: &Gateway, path: &str, headers: &[(&str, &str)]) -> Answer {
    gateway.send("GET", path, headers).await
}

#[tokio::test]
async fn the_link_in_a_refusal_leads_to_its_reasons_and_to_nobody_who_met_it() {
    let pair = Pair::with(|site| {
        let name = "name = \"rack-nine\"\nranges = [\"10.20.0.0/16\"]";
        site.with("listen.trusted_proxies", vec!["127.0.0.0/8"]).with_client(name)
    })
    .await;
    let met = [("x-forwarded-for", "10.20.30.40"), ("user-agent", "containerd/9.8.7")];
    let refused = refuse(&pair.gateway, REFUSED, &met).await;
    let error = refused.expect_denied("tag.denied");
    for _ in 0..41 {
        refuse(&pair.gateway, REFUSED, &met).await;
    }
    refuse(&pair.gateway, REFUSED, &[("x-forwarded-for", "10.77.66.55")]).await;
    let path = link(&refused);
    assert_eq!(path, format!("/d/{}", error["detail"]["id"].as_str().unwrap()));

    let page = pair.gateway.send("GET", &path, &[BROWSER]).await;
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    expect_strict(&page);
    let json = pair.gateway.send("GET", &path, &[JSON]).await;
    assert_eq!((json.status.as_u16(), json.header("content-type")), (200, "application/json"));
    expect_strict(&json);
    let plain = pair.gateway.send("GET", &path, &[("user-agent", "curl/8.5.0"), ("accept", "*/*")]).await;
    assert_eq!((plain.status.as_u16(), plain.header("content-type")), (200, "text/plain; charset=utf-8"));
    expect_strict(&plain);
    let time = json.json()["time"].as_str().unwrap().to_owned();
    for answer in [&page, &json, &plain] {
        let shown = text(answer);
        assert!(shown.contains(&time), "no {time} in {shown}");
        for wanted in [
            "docker.io/acme/app:latest",
            "tag.denied",
            "is denied (deny: latest)",
            error["detail"]["id"].as_str().unwrap(),
            "#platform-security",
        ] {
            let wanted = if answer.header("content-type").starts_with("text/html") {
                wanted.replace('"', "&quot;")
            } else {
                wanted.to_owned()
            };
            assert!(shown.contains(&wanted), "no {wanted} in {shown}");
        }
        for hidden in
            ["10.20.30.40", "10.77.66.55", "127.0.0.1", "rack-nine", "containerd/9.8.7", "count", "41", "42"]
        {
            // An id and a time may hold any two digits.
            let shown = shown.replace(error["detail"]["id"].as_str().unwrap(), "").replace(&time, "");
            assert!(!shown.contains(hidden), "{hidden} is shown in {shown}");
        }
    }
    for wanted in
        ["<html lang=\"en\">", "<title>", "<h1>", "<h2>", "<th scope=\"col\">", "color-scheme:light dark"]
    {
        assert!(text(&page).contains(wanted), "no {wanted} in {}", text(&page));
    }
    let json = json.json();
    assert_eq!((&json["verdict"], &json["enforced"]), (&"deny".into(), &true.into()));
    assert_eq!(json["policy"]["name"], "door");
    assert_eq!(json["policy"]["revision"], "1");
    let checks = json["checks"].as_array().unwrap();
    let tag = checks.iter().find(|check| check["id"] == "tag" && check["result"] == "fail").unwrap();
    assert!(tag["observed"].as_str().unwrap().contains("latest"), "{tag}");
    assert!(tag["at"].as_str().unwrap().starts_with("policy.toml:"), "{tag}");
    assert_eq!(json.as_object().unwrap().get("client"), None);
}

#[tokio::test]
async fn head_tells_of_the_page_without_it_and_http2_has_it_too() {
    let pair = Pair::start().await;
    let path = link(&pair.gateway.get(REFUSED).await);
    let page = pair.gateway.get(&path).await;
    let head = pair.gateway.head(&path).await;
    assert_eq!((head.status, head.body.len()), (page.status, 0));
    for name in ["content-length", "content-type", "content-security-policy"] {
        assert_eq!(head.header(name), page.header(name));
    }
    assert_eq!(pair.gateway.get2(&path).await.body, page.body);
    assert_eq!(pair.gateway.get(&path.to_ascii_lowercase()).await.body, page.body);
    assert_eq!(pair.gateway.get(&format!("{path}?lang=en")).await.body, page.body);
}

#[tokio::test]
async fn what_has_no_page_is_404_in_a_sentence() {
    let pair = Pair::start().await;
    let image = image(1, 100);
    image.push(&pair.hub, "acme/app", "1.0.0");
    pair.gateway.get("/v2/docker.io/acme/app/manifests/1.0.0").await.expect_bytes(&image.manifest);
    let started = pair.gateway.event(|event| event["kind"] == "policy").await;
    pair.gateway.running.flush_log().await.unwrap();
    let allowed = pair.gateway.event(|event| event["verdict"] == "allow").await;
    let of = |event: &Value| format!("/d/{}", event["id"].as_str().unwrap());
    let real = link(&pair.gateway.get(REFUSED).await);
    let paths = [
        of(&allowed),
        of(&started),
        "/d/01JD9Z3K00000000000000000A".to_owned(),
        "/d/ZZZZZZZZZZZZZZZZZZZZZZZZZZ".to_owned(),
        "/d/".to_owned(),
        "/d".to_owned(),
        "/d/1".to_owned(),
        "/d/%3Cscript%3E".to_owned(),
        format!("{real}/"),
        format!("{real}/x"),
        format!("{real}x"),
        format!("/d{real}"),
        "/d/' OR 1=1 --".replace(' ', "%20"),
        format!("/d/{}", "A".repeat(4000)),
    ];
    for path in paths {
        let answer = pair.gateway.send("GET", &path, &[BROWSER]).await;
        assert_eq!(answer.status, 404, "{path}: {}", text(&answer));
        expect_strict(&answer);
        assert!(text(&answer).contains("<h1>Not Found</h1>") && !text(&answer).contains("script"), "{path}");
        let answer = pair.gateway.send("GET", &path, &[JSON]).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.json()["error"].as_str().unwrap().ends_with('.'), "{path}");
        assert_eq!(pair.gateway.head(&path).await.status, 404, "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let answer = pair.gateway.send(method, &real, &[]).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "GET, HEAD"), "{method}");
    }
    assert_eq!(pair.gateway.blocked().await.len(), 1, "looking at pages is no pull");
}

#[tokio::test]
async fn hostile_names_and_user_agents_break_no_page() {
    let pair = Pair::start().await;
    let agent = ("user-agent", "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>");
    for path in [
        "/v2/docker.io/acme/<script>alert(3)</script>/manifests/latest",
        "/v2/docker.io/acme/%3Cscript%3Ealert(3)%3C%2Fscript%3E/manifests/latest",
        "/v2/docker.io/acme/app/manifests/%22%3E%3Cimg%20src=x%20onerror=alert(4)%3E",
        "/v2/docker.io/acme/app/manifests/\"><b>x",
        "/v2/ghcr.io/acme/app/manifests/1.0.0?ns=docker.io\"><script>alert(5)</script>",
        "/v2/acme/app/manifests/latest?ns=<script>alert(6)</script>",
        "/v2/docker.io/acme/app/manifests/latest",
        "/v2/docker.io/%E2%80%AE%00%1B[2J/manifests/latest",
    ] {
        // Written by hand: a client library would mend it.
        let answer = raw(&pair.gateway, path, agent).await;
        let id = answer.split_once("\"id\":\"").and_then(|(_, rest)| rest.split('"').next());
        let Some(id) = id else {
            assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
            continue;
        };
        let page = pair.gateway.send("GET", &format!("/d/{id}"), &[BROWSER]).await;
        assert_eq!(page.status, 200, "{path}: {answer}");
        expect_strict(&page);
        let shown = text(&page);
        for tag in ["<script", "<img", "<b>", "alert(1)", "\u{1b}", "\u{202e}", "\0"] {
            assert!(!shown.contains(tag), "{tag} of {path} in {shown}");
        }
        assert_eq!((shown.matches("<title>").count(), shown.matches("</html>").count()), (1, 1), "{shown}");
        pair.gateway.send("GET", &format!("/d/{id}"), &[JSON]).await.json();
    }
}

/// Sends a request line as it is, and reads the answer to its end.
async fn raw(gateway: &Gateway, path: &str, (name, value): (&str, &str)) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = gateway.dial().await;
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{name}: {value}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // The gateway may leave without a TLS farewell.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_flood_has_a_page_without_its_other_names() {
    // What is written down together is that of one minute.
    let clock = Clock::manual(morning());
    let pair = Pair::with(|site| site.with("limits.refusals", "2/min").with_clock(&clock)).await;
    let mut last = None;
    for number in 0..20 {
        let path = format!("/v2/docker.io/acme/secret-{number}/manifests/latest");
        last = Some(pair.gateway.get(&path).await);
    }
    let path = link(&last.unwrap());
    let page = pair.gateway.send("GET", &path, &[BROWSER]).await;
    assert_eq!(page.status, 200);
    assert!(text(&page).contains("tag.denied") && text(&page).contains("written down together"));
    assert!(!text(&page).contains("secret-") && !text(&page).contains("127.0.0.1"), "{}", text(&page));
}

#[tokio::test]
async fn a_warning_has_a_page_and_a_refused_clients_page_names_no_client() {
    let policy = POLICY
        .replace("mode     = \"enforce\"", "mode     = \"warn\"")
        .replace("match = \"docker.io/acme/*\"", "match = \"docker.io/acme/*\"\nclients = [\"ci-alpha\"]");
    let pair = Pair::with(|site| {
        site.write_policy(&policy);
        site.with_client("name = \"ci-alpha\"\nranges = [\"10.20.0.0/16\"]")
            .with_client("name = \"rack-beta\"\nranges = [\"10.30.0.0/16\"]")
            .with("listen.trusted_proxies", vec!["127.0.0.0/8"])
    })
    .await;
    image(2, 100).push(&pair.hub, "acme/app", "latest");
    let allowed = [("x-forwarded-for", "10.20.0.1")];
    assert_eq!(refuse(&pair.gateway, REFUSED, &allowed).await.status, 200);
    pair.gateway.running.flush_log().await.unwrap();
    let warned = pair.gateway.event(|event| event["verdict"] == "warn").await;
    let warned = format!("/d/{}", warned["id"].as_str().unwrap());
    let warned = pair.gateway.send("GET", &warned, &[JSON]).await.json();
    assert_eq!((&warned["verdict"], &warned["enforced"]), (&"warn".into(), &false.into()));
    assert_eq!(warned["reasons"][0]["code"], "tag.denied");

    let refused = refuse(&pair.gateway, REFUSED, &[("x-forwarded-for", "10.30.0.1")]).await;
    refused.expect_denied("client.not_allowed");
    for form in [BROWSER, JSON] {
        let page = pair.gateway.send("GET", &link(&refused), &[form]).await;
        assert!(text(&page).contains("client.not_allowed"));
        assert!(!text(&page).contains("alpha") && !text(&page).contains("beta"), "{}", text(&page));
    }
}
