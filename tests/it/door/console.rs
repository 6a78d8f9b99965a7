//! The console at the admin listener: who is let in, what pages hold, what reviewers' actions come to.

use std::time::Duration;

use pullgate::clock::Clock;
use pullgate::oci::Digest;
use reqwest::redirect::Policy;
use reqwest::{Client, Identity, Method};
use serde_json::Value;

use super::{POLICY, Pair};
use crate::support::PATIENCE;
use crate::support::gateway::{Answer, Gateway, Site, morning, until};
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
        let mut client = Client::builder().no_proxy().redirect(Policy::none()).tls_certs_only([ca]);
        if let Some((certificate, key)) = identity {
            client = client.identity(Identity::from_pem(format!("{certificate}{key}").as_bytes()).unwrap());
        }
        let origin = format!("https://localhost:{}", gateway.running.admin_address().port());
        Self { client: client.build().unwrap(), origin }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<String>) -> Answer {
        let mut request = self
            .client
            .request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{}{path}", self.origin));
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
    let (_, rest) = text(page)
        .split_once("name=\"csrf\" value=\"")
        .unwrap_or_else(|| panic!("no form in {}", text(page)));
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
    for path in
        ["/nothing", "/inbox/", "/d/", "/d/x", "/inbox/a/b/c", "//", "/log/x", "/inbox/0123456789abcdef"]
    {
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
    for host in ["evil.example", "127.0.0.1.evil.example", "console.example.com.evil.example:80", "10.1.2.3"]
    {
        for path in ["/", "/inbox", "/log?format=json", "/style.css"] {
            let answer = browser.get(path, &[("host", host)]).await;
            assert_eq!(answer.status, 421, "{host}{path}");
            expect_strict(&answer, path);
        }
        let answer =
            browser.post("/inbox/0123456789abcdef", &[("host", host)], &[("action", "resolve")]).await;
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
    let late = browser.post("/inbox/0123456789abcdef", &with, &[("action", "resolve")]).await;
    assert_eq!(late.status, 401);
    assert!(text(&late).contains("Your session is over"), "{}", text(&late));

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
async fn whoever_is_passed_on_by_a_proxy_or_called_by_a_foreign_name_is_not_local() {
    let pair = Pair::start().await;
    let browser = Browser::new(&pair.gateway);
    for name in ["forwarded", "via", "x-forwarded-for", "x-forwarded-host"] {
        let answer = browser.get("/inbox", &[HTML, (name, "192.0.2.7")]).await;
        assert_eq!(answer.status, 403, "{name}");
        assert!(text(&answer).contains("Passed on by a proxy"), "{}", text(&answer));
    }
    let tags = "/api/v1/tags/docker.io/acme/app";
    assert_eq!(browser.get(tags, &[("host", "rebind.evil.example")]).await.status, 421);
    assert_eq!(browser.get(tags, &[("sec-fetch-site", "cross-site")]).await.status, 421);
    assert_ne!(browser.get(tags, &[]).await.status, 421);
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
    let counts: Vec<_> = auth
        .iter()
        .map(|event| (&event["auth"]["result"], event["auth"]["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(
        counts.iter().filter(|(result, _)| *result == "refused").map(|(_, count)| count).sum::<u64>(),
        10,
        "{auth:#?}"
    );
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

/// What `pullgate health` says of this gateway.
async fn pullgate_health(gateway: &Gateway) -> String {
    let file = gateway.site.path("pullgate.toml");
    let mut config: toml::Table = std::fs::read_to_string(&file).unwrap().parse().unwrap();
    // The port that was free at the start.
    config["admin"]["address"] = gateway.running.admin_address().to_string().into();
    std::fs::write(&file, toml::to_string(&config).unwrap()).unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_pullgate"));
    let output = command.arg("health").arg("--config").arg(file).output().await.unwrap();
    String::from_utf8(output.stdout).unwrap()
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
    let health = pullgate_health(&pair.gateway).await;
    assert_eq!(health, "ready\n", "it trusts the certificate of the configuration");
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("__Host-pullgate=") && cookie.contains("; Secure"), "{cookie}");
    assert!(cookie.contains("Path=/") && !cookie.contains("Domain"), "{cookie}");
}

/// The inbox as values, once this holds of it.
async fn inbox(browser: &Browser, query: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let path = format!("/inbox?format=json&{query}");
    let wait = async {
        loop {
            let answer = browser.get(&path, &[]).await;
            assert_eq!(answer.status, 200, "{}", text(&answer));
            let items = answer.json()["items"].as_array().unwrap().clone();
            if wanted(&items) {
                return items;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.expect("the inbox shows it")
}

/// The link of the first group in the inbox's page.
fn first_group(page: &Answer) -> String {
    let (_, rest) = text(page)
        .split_once("<th scope=\"row\"><a href=\"")
        .unwrap_or_else(|| panic!("no group in {}", text(page)));
    rest.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn a_blocked_pull_is_found_acknowledged_with_a_note_resolved_and_reopened() {
    let pair = Pair::with(with_users).await;
    let refused =
        pair.gateway.get("/v2/docker.io/acme/app/manifests/latest").await.expect_denied("tag.denied");
    let id = refused["detail"]["id"].as_str().unwrap();
    let browser = Browser::new(&pair.gateway);
    let cookie = browser.log_in(REVIEWER).await;
    let eva = [("cookie", &*cookie), HTML];
    until("the group is there", async || {
        text(&browser.get("/inbox", &eva).await).contains("acme/app:latest")
    })
    .await;
    let path = first_group(&browser.get("/inbox", &eva).await);
    let page = browser.get(&path, &eva).await;
    for wanted in [
        "docker.io/acme/app:latest",
        "tag.denied",
        &format!("/d/{id}"),
        "Acknowledge",
        "Resolve",
        "<textarea name=\"note\"",
        "127.0.0.1",
    ] {
        assert!(text(&page).contains(wanted), "no {wanted} in {}", text(&page));
    }
    assert!(!text(&page).contains(">Reopen<"));

    let viewer = browser.log_in(VIEWER).await;
    let vic = [("cookie", &*viewer), HTML];
    let seen = browser.get(&path, &vic).await;
    for button in [">Acknowledge<", ">Resolve<", "<textarea"] {
        assert!(!text(&seen).contains(button), "a viewer has no {button}");
    }
    let token = csrf(&seen);
    let denied =
        browser.post(&path, &vic, &[("csrf", &token), ("action", "acknowledge"), ("note", "x")]).await;
    assert_eq!(denied.status, 403);
    assert!(text(&denied).contains("only a reviewer"), "{}", text(&denied));
    // Neither does somebody else's form count.
    assert_eq!(browser.post(&path, &eva, &[("csrf", &token), ("action", "acknowledge")]).await.status, 403);

    let token = csrf(&page);
    for (action, state, note) in [
        ("acknowledge", "acknowledged", "<b>looking</b> into it \u{202e}"),
        ("resolve", "resolved", "moved to 1.0.0"),
        ("reopen", "new", "not yet\nafter all"),
    ] {
        let fields = [("csrf", &*token), ("action", action), ("note", note)];
        let answer = browser.post(&path, &eva, &fields).await;
        assert_eq!(answer.status, 303, "{}", text(&answer));
        assert_eq!(answer.header("location"), format!("{path}?done={action}"));
        // The page that follows knows it already.
        let page = browser.get(answer.header("location"), &eva).await;
        let shown = text(&page);
        assert!(
            shown.contains("aria-hidden=\"true\">") && shown.contains(&format!("{state}</span> by eva")),
            "{action}: {shown}"
        );
        assert!(!shown.contains("<b>") && !shown.contains('\u{202e}'), "{shown}");
        let values = browser.get(&format!("{path}?format=json"), &eva).await.json();
        assert_eq!((&values["group"]["state"], &values["group"]["by"]), (&state.into(), &"eva".into()));
        assert_eq!(values["group"]["note"].as_str().unwrap().trim(), note.trim());
    }
    let events = pair.gateway.events().await;
    let admin: Vec<&Value> = events.iter().filter(|event| event["kind"] == "admin").collect();
    assert_eq!(
        admin.iter().map(|event| event["action"].as_str().unwrap()).collect::<Vec<_>>(),
        ["acknowledge", "resolve", "reopen"]
    );
    assert_eq!((&admin[0]["actor"]["name"], &admin[0]["actor"]["via"]), (&"eva".into(), &"console".into()));
    assert_eq!(admin[0]["subject"]["reference"], "docker.io/acme/app:latest");
    let fields = [("csrf", &*token), ("action", "nonsense")];
    assert_eq!(browser.post(&path, &eva, &fields).await.status, 400);
    let long = "x".repeat(1001);
    let fields = [("csrf", &*token), ("action", "resolve"), ("note", &long)];
    assert_eq!(browser.post(&path, &eva, &fields).await.status, 400);
    // A program needs no form.
    let bearer = bearer(REVIEWER);
    let program = [("authorization", &*bearer)];
    assert_eq!(browser.post(&path, &program, &[("action", "resolve")]).await.status, 303);
    let cross = [program[0], ("sec-fetch-site", "cross-site")];
    assert_eq!(browser.post(&path, &cross, &[("action", "reopen")]).await.status, 403);
}

#[tokio::test]
async fn hostile_words_break_no_page_and_no_table() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let pair = Pair::with(|site| {
        site.with("listen.trusted_proxies", vec!["127.0.0.0/8"]).with("limits.refusals", "1000/min")
    })
    .await;
    let agent = "=cmd|' /C calc'!A0 <script>alert(1)</script>\"'><img src=x onerror=alert(2)>";
    for (number, path) in [
        "/v2/docker.io/acme/<script>alert(3)</script>/manifests/latest",
        "/v2/docker.io/acme/%3Cscript%3Ealert(3)%3C%2Fscript%3E/manifests/latest",
        "/v2/docker.io/acme/app/manifests/%22%3E%3Cimg%20src=x%20onerror=alert(4)%3E",
        "/v2/docker.io/acme/app/manifests/\"><b>x",
        "/v2/ghcr.io/acme/app/manifests/1.0.0?ns=docker.io\"><script>alert(5)</script>",
        "/v2/acme/app/manifests/latest?ns=<script>alert(6)</script>",
        "/v2/acme/app/manifests/latest?ns==1+1",
        "/v2/docker.io/acme/app/manifests/latest",
        "/v2/docker.io/%E2%80%AE%00%1B[2J/manifests/latest",
        "/v2/=1+1/manifests/latest",
        "/v2/docker.io/acme/app/manifests/=HYPERLINK(1)",
    ]
    .into_iter()
    .enumerate()
    {
        // Written by hand: a client library would mend it.
        let mut stream = pair.gateway.dial().await;
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nuser-agent: {agent}\r\nx-forwarded-for: <b>{number}</b>, 10.0.0.{number}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let browser = Browser::new(&pair.gateway);
    let groups = inbox(&browser, "state=all", |items| items.len() >= 6).await;
    let mut pages: Vec<String> = PAGES.iter().map(|path| (*path).to_owned()).collect();
    let hostile = form(&[("q", "<script>alert(7)</script>\u{202e}"), ("text", "\"><b>")]);
    pages.push(format!("/search?{}", hostile.split('&').next().unwrap()));
    for key in ["text", "registry", "client", "reason"] {
        pages.push(format!("/inbox?state=all&{}", form(&[(key, "\"><script>alert(8)</script>\u{202e}")])));
    }
    pages.push(format!("/log?{}", form(&[("image", "\"><script>alert(9)</script>\u{1b}")])));
    pages.push(format!("/log?{}", form(&[("nonsense<b>", "x")])));
    pages.push("/inbox?state=all".to_owned());
    let listed = browser.get("/inbox?state=all", &[HTML]).await;
    for link in text(&listed).split("<a href=\"/inbox/").skip(1) {
        let key = link.split('"').next().unwrap();
        pages.push(format!("/inbox/{key}"));
        for outcome in ["allow", "except", "pin", "recall"] {
            pages.push(format!("/inbox/{key}/{outcome}"));
        }
    }
    for event in pair.gateway.events().await {
        pages.push(format!("/d/{}", event["id"].as_str().unwrap()));
    }
    assert!(pages.len() > 30, "{pages:?}");
    for path in &pages {
        let page = browser.get(path, &[HTML]).await;
        assert!([200, 400].contains(&page.status.as_u16()), "{path}: {} {}", page.status, text(&page));
        expect_strict(&page, path);
        let shown = text(&page);
        for tag in ["<script", "<img", "<b>", "\u{1b}", "\u{202e}", "\0", "javascript:"] {
            assert!(!shown.contains(tag), "{tag} of {path} in {shown}");
        }
        // A line end of ours is the only control character.
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{path}");
        assert_eq!(
            (shown.matches("<title").count(), shown.matches("</html>").count()),
            (shown.matches("</title>").count(), 1),
            "{path}"
        );
    }
    for path in ["/inbox?state=all", "/log", "/clients"] {
        let csv = browser
            .get(&format!("{path}{}format=csv", if path.contains('?') { '&' } else { '?' }), &[])
            .await;
        assert_eq!(csv.header("content-type"), "text/csv; charset=utf-8; header=present");
        assert!(csv.header("content-disposition").starts_with("attachment; filename=\""), "{path}");
        for field in text(&csv).split(['\n', ',']) {
            assert!(!field.starts_with(['=', '+', '@']) && !field.starts_with("\"="), "{path}: {field}");
        }
    }
    assert!(groups.iter().all(|group| group["reference"].is_string()));
}

#[tokio::test]
async fn what_is_kept_of_a_page_is_what_it_shows() {
    let pair = Pair::with(|site| site.with("limits.refusals", "1000/min")).await;
    for number in 0..7 {
        let path = format!("/v2/docker.io/acme/app-{number}/manifests/latest");
        pair.gateway.get(&path).await.expect_denied("tag.denied");
    }
    pair.gateway.get("/v2/quay.io/x/y/manifests/1.0.0").await.expect_denied("source.unknown");
    let browser = Browser::new(&pair.gateway);
    inbox(&browser, "", |items| items.len() == 8).await;
    for (path, count) in [
        ("/inbox?reason=tag.denied", 7),
        ("/inbox?registry=quay.io", 1),
        ("/inbox?text=app-3", 1),
        ("/inbox?state=resolved", 0),
        ("/inbox?since=1h&order=count", 8),
        ("/log?kind=decision&reason=tag.denied", 7),
        ("/log?image=docker.io/acme/app-*", 7),
        ("/log?verdict=allow", 0),
        ("/clients?", 1),
    ] {
        let page = browser.get(path, &[HTML]).await;
        assert_eq!(page.status, 200, "{path}: {}", text(&page));
        let values = browser.get(&format!("{path}&format=json"), &[]).await.json();
        let items = values["items"].as_array().unwrap();
        assert_eq!(items.len(), count, "{path}: {values:#}");
        let rows = text(&page).matches("<tr><th scope=\"row\">").count();
        assert_eq!(rows, count, "{path}");
        let csv = browser.get(&format!("{path}&format=csv"), &[]).await;
        let mut lines = text(&csv).lines();
        let keys: Vec<&str> = lines.next().unwrap().split(',').collect();
        assert_eq!(lines.clone().count(), count, "{path}");
        for (item, line) in items.iter().zip(lines) {
            let object = item.as_object().unwrap();
            assert!(
                keys.iter().all(|key| object.contains_key(*key)) && keys.len() == object.len(),
                "{path}: {item}"
            );
            // The first column holds no comma here.
            let first = line.split(',').next().unwrap();
            assert_eq!(object[keys[0]].as_str().unwrap(), first, "{path}");
            let shown = if first.starts_with("20") {
                first.get(..19).unwrap().replace('T', " ")
            } else {
                first.to_owned()
            };
            assert!(text(&page).contains(&shown), "{path}: no {shown}");
        }
    }
    for (path, part) in [
        ("/inbox?nonsense=1", "knows no filter"),
        ("/inbox?state=x", "state"),
        ("/inbox?since=soon", "no time"),
        ("/inbox?after=x", "no place"),
        ("/log?after=x", "no place"),
        ("/log?kind=x", "kind"),
        ("/?range=1y", "ranges"),
        ("/inbox?format=xml", "no format"),
    ] {
        let page = browser.get(path, &[HTML]).await;
        assert_eq!(page.status, 400, "{path}");
        assert!(text(&page).contains(part), "{path}: {}", text(&page));
    }
    let huge = format!("/inbox?text={}", "x".repeat(20_000));
    assert_eq!(browser.get(&huge, &[HTML]).await.status, 400);
    let answer = browser.get("/inbox?state=x&format=json", &[]).await;
    assert!(answer.json()["error"].is_string());
}

#[tokio::test]
async fn ten_thousand_rows_are_paged_through_without_gap_or_double() {
    use futures_util::StreamExt as _;
    const ROWS: usize = 10_000;
    let pair = Pair::with(|site| site.with("limits.refusals", "1000000/min")).await;
    let gateway = &pair.gateway;
    futures_util::stream::iter(0..ROWS)
        .for_each_concurrent(64, async |number| {
            let path = format!("/v2/docker.io/acme/app-{number}/manifests/latest");
            assert_eq!(gateway.get2(&path).await.status, 403);
        })
        .await;
    let browser = Browser::new(gateway);
    until("all are counted", async || {
        browser.get("/inbox?format=json", &[]).await.json()["totals"]["new"] == ROWS
    })
    .await;
    let mut seen = std::collections::HashSet::new();
    let (mut path, mut pages) = ("/inbox".to_owned(), Vec::new());
    loop {
        let page = browser.get(&path, &[HTML]).await;
        assert_eq!(page.status, 200, "{path}: {}", text(&page));
        let links = text(&page).split("<th scope=\"row\"><a href=\"/inbox/").skip(1);
        for key in links.map(|link| link.split('"').next().unwrap().to_owned()) {
            assert!(seen.insert(key), "twice: on {path}");
        }
        pages.push(path);
        let Some((_, rest)) = text(&page).split_once("<a rel=\"next\" href=\"") else { break };
        path = rest.split('"').next().unwrap().replace("&amp;", "&");
    }
    assert_eq!((seen.len(), pages.len()), (ROWS, ROWS / 100));
    // And back again, by the links of the pages.
    for (place, path) in pages.iter().enumerate().skip(1).rev().take(5) {
        let page = browser.get(path, &[HTML]).await;
        let (_, rest) = text(&page).split_once("<a rel=\"prev\" href=\"").unwrap();
        assert_eq!(rest.split('"').next().unwrap().replace("&amp;", "&"), pages[place - 1]);
    }
    let (mut path, mut ids) = ("/log?kind=decision&format=json".to_owned(), std::collections::HashSet::new());
    loop {
        let values = browser.get(&path, &[]).await.json();
        for item in values["items"].as_array().unwrap() {
            assert!(ids.insert(item["id"].as_str().unwrap().to_owned()), "twice: {item}");
        }
        let Some(next) = values["next"].as_str() else { break };
        path = next.to_owned();
    }
    assert_eq!(ids.len(), ROWS);
}

#[tokio::test]
async fn without_the_review_database_pulls_and_the_record_go_on_and_pages_say_why() {
    let site = Site::new(POLICY);
    let pair = Pair::with(|site| {
        std::fs::create_dir_all(site.data().join("review.db")).unwrap();
        site
    })
    .await;
    drop(site);
    let refused =
        pair.gateway.get("/v2/docker.io/acme/app/manifests/latest").await.expect_denied("tag.denied");
    let browser = Browser::new(&pair.gateway);
    for path in ["/", "/inbox", "/clients", "/drift", "/recalls", "/exceptions"] {
        let page = browser.get(path, &[HTML]).await;
        assert_eq!(page.status, 503, "{path}");
        expect_strict(&page, path);
        assert!(
            text(&page).contains("review.db") && text(&page).contains("Pulls and the record go on"),
            "{path}: {}",
            text(&page)
        );
    }
    let id = refused["detail"]["id"].as_str().unwrap();
    for path in [&format!("/d/{id}"), "/log", "/upstreams"] {
        assert_eq!(browser.get(path, &[HTML]).await.status, 200, "{path}");
    }
    let values = browser.get("/inbox?format=json", &[]).await;
    assert_eq!(values.status, 503);
    assert!(values.json()["error"].is_string());
}
