//! The console at the admin listener: who is let in, what pages hold, what reviewers' actions come to.

use std::time::Duration;

use pullgate::clock::Clock;
use pullgate::oci::Digest;
use reqwest::redirect::Policy;
use reqwest::{Client, Identity, Method};
use serde_json::Value;

use super::{POLICY, Pair};
use crate::support::gateway::{Answer, Gateway, Site, morning};
use crate::support::tls::Ca;

const REVIEWER: &str = "t-reviewer-0123456789";
const VIEWER: &str = "t-viewer-0123456789";
const PAGES: [&str; 9] =
    ["/", "/inbox", "/log", "/drift", "/recalls", "/exceptions", "/clients", "/upstreams", "/search?q=acme"];
const HTML: (&str, &str) = ("accept", "text/html");

/// A browser, as far as it keeps nothing and follows nothing.
struct Browser {
    client: Client,
    origin: String,
}

impl Browser {
    fn new(gateway: &Gateway) -> Self {
        let client = Client::builder().no_proxy().redirect(Policy::none()).build().unwrap();
        Self { client, origin: format!("http://{}", gateway.running.admin_address()) }
    }

    /// Over TLS, trusting the gateway's own CA, perhaps with a certificate.
    fn tls(gateway: &Gateway, identity: Option<&(String, String)>) -> Self {
        let ca = reqwest::Certificate::from_pem(gateway.ca.as_bytes()).unwrap();
        let mut client =
            Client::builder().no_proxy().redirect(Policy::none()).tls_certs_only([ca]);
        if let Some((certificate, key)) = identity {
            client = client.identity(Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap());
        }
        let origin = format!("https://localhost:{}", gateway.running.admin_address().port());
        Self { client: client.build().unwrap(), origin }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<String>) -> Answer {
        let mut request = self.client.request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{}{path}", self.origin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            if !headers.iter().any(|(name, _)| *name == "content-type") {
                request = request.header("content-type", "application/x-www-form-urlencoded");
            }
            request = request.body(body);
        }
        Answer::read(request.send().await.unwrap()).await
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.send("GET", path, headers, None).await
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], fields: &[(&str, &str)]) -> Answer {
        self.send("POST", path, headers, Some(form(fields))).await
    }

    /// Logs in with a token; the cookie as it is sent back.
    async fn log_in(&self, token: &str) -> String {
        let page = self.get("/login?to=/log", &[HTML]).await;
        let fields = [("csrf", &*csrf(&page)), ("to", "/log"), ("token", token)];
        let answer = self.post("/login", &[], &fields).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/log"), "{}", text(&answer));
        answer.header("set-cookie").split(';').next().unwrap().to_owned()
    }
}

fn form(fields: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish()
}

fn text(answer: &Answer) -> &str {
    std::str::from_utf8(&answer.body).unwrap()
}

/// The token of a page's forms.
fn csrf(page: &Answer) -> String {
    let (_, rest) = text(page).split_once("name=\"csrf\" value=\"").unwrap_or_else(|| panic!("no form in {}", text(page)));
    rest.split('"').next().unwrap().to_owned()
}

#[track_caller]
fn expect_strict(answer: &Answer, path: &str) {
    let policy = answer.header("content-security-policy");
    for wanted in ["default-src 'none'", "form-action 'self'", "frame-ancestors 'none'", "base-uri 'none'"] {
        assert!(policy.contains(wanted), "{path}: {policy}");
    }
    assert!(!policy.contains("unsafe") && !policy.contains("script-src"), "{path}: {policy}");
    assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
    assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
    assert!(answer.header("cache-control").contains("no-store"), "{path}");
}

fn hash(token: &str) -> String {
    Digest::sha256(token.as_bytes()).hex()
}

/// Two users, by tokens.
fn with_users(site: Site) -> Site {
    let users = format!(
        "[[user]]\nname = \"eva\"\nrole = \"reviewer\"\ntoken_sha256 = \"{}\"\n\
         [[user]]\nname = \"vic\"\nrole = \"viewer\"\ntoken_sha256 = [\"{}\"]\n",
        hash(REVIEWER),
        hash(VIEWER),
    );
    let table: toml::Table = users.parse().unwrap();
    site.with("admin.user", table["user"].clone())
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn whoever_reaches_loopback_is_a_reviewer_where_nobody_is_named() {
    let pair = Pair::start().await;
    let browser = Browser::new(&pair.gateway);
    for path in PAGES {
        let page = browser.get(path, &[HTML]).await;
        assert_eq!(page.status, 200, "{path}: {}", text(&page));
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        expect_strict(&page, path);
        for wanted in ["<html lang=\"en\">", "local (reviewer)", "Skip to content", "<main", "<h1>"] {
            assert!(text(&page).contains(wanted), "{path}: no {wanted} in {}", text(&page));
        }
        let titles: Vec<&str> = text(&page).matches("<title>").collect();
        assert_eq!(titles.len(), 1, "{path}");
        assert!(!text(&page).contains("<script") && !text(&page).contains(" style="), "{path}");
        let head = browser.send("HEAD", path, &[HTML], None).await;
        assert_eq!((head.status, head.body.len()), (page.status, 0), "{path}");
    }
    let page = browser.get("/", &[HTML]).await;
    let (_, style) = text(&page).split_once("rel=\"stylesheet\" href=\"").unwrap();
    let style = browser.get(style.split('"').next().unwrap(), &[]).await;
    assert_eq!((style.status.as_u16(), style.header("content-type")), (200, "text/css; charset=utf-8"));
    assert!(style.header("cache-control").contains("immutable"));
    assert_eq!(browser.get("/login", &[HTML]).await.status, 404, "there is nobody to log in");
    for path in ["/nothing", "/inbox/", "/d/", "/d/x", "/inbox/a/b/c", "//", "/log/x", "/inbox/0123456789abcdef"] {
        let page = browser.get(path, &[HTML]).await;
        assert_eq!(page.status, 404, "{path}");
        expect_strict(&page, path);
    }
    for method in ["PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer = browser.send(method, "/inbox", &[], None).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "GET, HEAD, POST"), "{method}");
    }
}

#[tokio::test]
async fn a_foreign_name_reaches_no_page() {
    let pair = Pair::with(|site| site.with("admin.hosts", vec!["console.example.com"])).await;
    let browser = Browser::new(&pair.gateway);
    for host in ["evil.example", "127.0.0.1.evil.example", "console.example.com.evil.example:80", "10.1.2.3"] {
        for path in ["/", "/inbox", "/log?format=json", "/style.css"] {
            let answer = browser.get(path, &[("host", host)]).await;
            assert_eq!(answer.status, 421, "{host}{path}");
            expect_strict(&answer, path);
        }
        let answer = browser.post("/inbox/0123456789abcdef", &[("host", host)], &[("action", "resolve")]).await;
        assert_eq!(answer.status, 421, "{host}");
        assert_eq!(browser.get("/livez", &[("host", host)]).await.status, 200, "probes call by any name");
    }
    for host in ["localhost", "localhost:9443", "[::1]", "CONSOLE.example.com"] {
        assert_eq!(browser.get("/log", &[("host", host)]).await.status, 200, "{host}");
    }
}

#[tokio::test]
async fn a_form_counts_only_when_it_was_sent_from_a_page_that_its_sender_saw() {
    let pair = Pair::start().await;
    pair.gateway.get("/v2/docker.io/acme/app/manifests/latest").await.expect_denied("tag.denied");
    let browser = Browser::new(&pair.gateway);
    let key = "0123456789abcdef";
    let path = format!("/inbox/{key}");
    let before = pair.gateway.events().await.len();
    let fields = [("action", "resolve"), ("note", "x")];
    // Any web page can make a browser send these to 127.0.0.1.
    for headers in [
        &[][..],
        &[("sec-fetch-site", "cross-site")],
        &[("origin", "http://evil.example")],
        &[("origin", "null")],
    ] {
        let answer = browser.post(&path, headers, &fields).await;
        assert_eq!(answer.status, 403, "{headers:?}");
        expect_strict(&answer, &path);
        let wrong = [fields[0], fields[1], ("csrf", "wrong")];
        assert_eq!(browser.post(&path, headers, &wrong).await.status, 403, "{headers:?}");
    }
    assert_eq!(pair.gateway.events().await.len(), before);
    let plain = [("content-type", "text/plain")];
    assert_eq!(browser.post(&path, &plain, &fields).await.status, 415);
    let long = browser.post(&path, &[], &[("note", &"x".repeat(70 << 10))]).await;
    assert_eq!(long.status, 413);
}

#[tokio::test]
async fn programs_show_a_token_and_browsers_log_in_with_it() {
    let pair = Pair::with(with_users).await;
    let browser = Browser::new(&pair.gateway);
    for path in PAGES {
        let answer = browser.get(path, &[]).await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{path}");
        expect_strict(&answer, path);
        let answer = browser.get(path, &[("authorization", &bearer("wrong"))]).await;
        assert_eq!(answer.status, 401, "{path}");
        let answer = browser.get(path, &[HTML]).await;
        assert_eq!(answer.status, 303, "{path}");
        assert!(answer.header("location").starts_with("/login?to=%2F"), "{path}");
    }
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(browser.get(path, &[]).await.status, 200, "{path} is for everybody");
    }
    let tags = "/api/v1/tags/docker.io/acme/app";
    assert_eq!(browser.get(tags, &[]).await.status, 401);
}

#[tokio::test]
async fn a_session_is_a_cookie_that_ends_when_it_is_idle_or_logged_out() {
    let clock = Clock::manual(morning());
    let pair = Pair::with(|site| with_users(site).with_clock(&clock)).await;
    let browser = Browser::new(&pair.gateway);
    let page = browser.get("/login?to=/log", &[HTML]).await;
    let fields = [("csrf", &*csrf(&page)), ("to", "//evil.example"), ("token", REVIEWER)];
    let answer = browser.post("/login", &[], &fields).await;
    assert_eq!((answer.status.as_u16(), answer.header("location")), (303, "/"));
    let cookie = answer.header("set-cookie").to_owned();
    for wanted in ["pullgate=", "HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(cookie.contains(wanted), "{cookie}");
    }
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let with = [("cookie", &*cookie), HTML];
    let page = browser.get("/log", &with).await;
    assert!(text(&page).contains("eva (reviewer)") && text(&page).contains("Log out"), "{}", text(&page));
    clock.advance(Duration::from_secs(29 * 60));
    assert_eq!(browser.get("/log", &with).await.status, 200);
    clock.advance(Duration::from_secs(31 * 60));
    assert_eq!(browser.get("/log", &with).await.status, 303, "half an hour without use");

    let cookie = browser.log_in(VIEWER).await;
    let with = [("cookie", &*cookie), HTML];
    let token = csrf(&browser.get("/log", &with).await);
    assert_eq!(browser.post("/logout", &with, &[]).await.status, 403, "not by another site");
    assert_eq!(browser.get("/log", &with).await.status, 200);
    let out = browser.post("/logout", &with, &[("csrf", &token)]).await;
    assert_eq!((out.status.as_u16(), out.header("location")), (303, "/login"));
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(browser.get("/log", &with).await.status, 303);

    // A link in a chat brings no cookie along; the page it leads to does.
    let path = "/d/01JD9Z3KAAAAAAAAAAAAAAAAAA";
    let onward = browser.get(path, &[HTML, ("sec-fetch-site", "cross-site")]).await;
    assert_eq!(onward.status, 200);
    assert!(text(&onward).contains(&format!("content=\"0; url={path}\"")), "{}", text(&onward));
    expect_strict(&onward, path);

    let auth: Vec<Value> =
        pair.gateway.events().await.into_iter().filter(|event| event["kind"] == "auth").collect();
    assert_eq!(auth.len(), 2, "{auth:#?}");
    assert_eq!((&auth[0]["auth"]["result"], &auth[0]["client"]["name"]), (&"granted".into(), &"eva".into()));
}

#[tokio::test]
async fn wrong_tokens_are_slowed_down_and_fill_no_record() {
    let clock = Clock::manual(morning());
    let pair = Pair::with(|site| with_users(site).with_clock(&clock)).await;
    let browser = Browser::new(&pair.gateway);
    let page = browser.get("/login", &[HTML]).await;
    let token = csrf(&page);
    let mut statuses = Vec::new();
    for number in 0..40 {
        let wrong = format!("guess-{number}");
        let answer = browser.post("/login", &[], &[("csrf", &token), ("token", &wrong)]).await;
        expect_strict(&answer, "/login");
        statuses.push(answer.status.as_u16());
    }
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 10, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 429).count(), 30, "{statuses:?}");
    let right = browser.get("/log", &[("authorization", &bearer(REVIEWER))]).await;
    assert_eq!((right.status.as_u16(), right.header("retry-after")), (429, "60"));
    clock.advance(Duration::from_secs(60));
    assert_eq!(browser.get("/log", &[("authorization", &bearer(REVIEWER))]).await.status, 200);
    let site = pair.gateway.stop().await;
    let auth: Vec<Value> = site.events().await.into_iter().filter(|event| event["kind"] == "auth").collect();
    let counts: Vec<_> = auth.iter().map(|event| (&event["auth"]["result"], event["auth"]["count"].as_u64().unwrap())).collect();
    assert_eq!(counts.iter().filter(|(result, _)| *result == "refused").map(|(_, count)| count).sum::<u64>(), 10, "{auth:#?}");
    assert!(auth.len() <= 3, "{auth:#?}");
    assert!(!format!("{auth:?}").contains("guess-"), "no token is kept");
}

#[tokio::test]
async fn off_loopback_there_is_no_console_without_users_and_tls() {
    let pair = Pair::with(|site| site.with("admin.address", "0.0.0.0:0")).await;
    let port = pair.gateway.running.admin_address().port();
    let client = Client::builder().no_proxy().build().unwrap();
    let get = |path: &'static str| client.get(format!("http://127.0.0.1:{port}{path}"));
    assert_eq!(get("/livez").send().await.unwrap().status(), 200);
    assert_eq!(get("/metrics").send().await.unwrap().status(), 200);
    for path in ["/", "/inbox", "/log?format=json"] {
        let answer = get(path).send().await.unwrap();
        assert_eq!(answer.status(), 404, "{path}");
        let body = answer.text().await.unwrap();
        assert!(body.contains("the console is off") && body.contains("[[admin.user]]"), "{body}");
    }
    let site = with_users(Site::new(POLICY)).with("admin.address", "0.0.0.0:0");
    let error = site.try_start().await.err().unwrap();
    assert!(error.contains("clear text"), "{error}");
}

#[tokio::test]
async fn over_tls_a_certificate_is_a_user_too() {
    let ca = Ca::new();
    let pair = Pair::with(|site| {
        let file = site.path("users-ca.crt");
        std::fs::write(&file, ca.pem()).unwrap();
        let place = |name: &str| site.path(name).display().to_string();
        let (certificate, key, client_ca) =
            (place("certs/server.crt"), place("certs/server.key"), file.display().to_string());
        let users: toml::Table = format!(
            "[[user]]\nname = \"cora\"\nrole = \"viewer\"\ncertificate = \"cora.example.com\"\n\
             [[user]]\nname = \"eva\"\nrole = \"reviewer\"\ntoken_sha256 = \"{}\"\n",
            hash(REVIEWER)
        )
        .parse()
        .unwrap();
        site.with("admin.tls.certificate", certificate)
            .with("admin.tls.key", key)
            .with("admin.tls.client_ca", client_ca)
            .with("admin.user", users["user"].clone())
    })
    .await;
    let known = Browser::tls(&pair.gateway, Some(&ca.issue_client(&["CORA.example.com"], 2020..2100)));
    let page = known.get("/log", &[HTML]).await;
    assert_eq!(page.status, 200);
    assert!(text(&page).contains("cora (viewer)"), "{}", text(&page));
    // A browser shows it with each request, whoever made it send that.
    assert_eq!(known.post("/inbox/0123456789abcdef", &[], &[("action", "resolve")]).await.status, 403);
    let stranger = Browser::tls(&pair.gateway, Some(&ca.issue_client(&["other.example.com"], 2020..2100)));
    assert_eq!(stranger.get("/log", &[HTML]).await.status, 303);
    let nobody = Browser::tls(&pair.gateway, None);
    assert_eq!(nobody.get("/livez", &[]).await.status, 200);
    assert_eq!(nobody.get("/log", &[]).await.status, 401);
    let cookie = nobody.get("/login", &[HTML]).await;
    let fields = [("csrf", &*csrf(&cookie)), ("token", REVIEWER)];
    let answer = nobody.post("/login", &[], &fields).await;
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("__Host-pullgate=") && cookie.contains("; Secure"), "{cookie}");
    assert!(cookie.contains("Path=/") && !cookie.contains("Domain"), "{cookie}");
}
