//! A security engineer's day in the console.

use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use pullgate::oci::Digest;
use serde_json::json;

use super::driver::Browser;
use super::expect_sound;
use crate::door::Pair;
use crate::support::gateway::{Gateway, until};
use crate::support::image::{Image, random_bytes};

const REFUSED: &str = "docker.io/acme/app:latest";

fn console(gateway: &Gateway, path: &str) -> String {
    format!("http://{}{path}", gateway.running.admin_address())
}

/// The inbox, once the review pages have counted this many groups.
async fn open_inbox(browser: &Browser, gateway: &Gateway, groups: usize) {
    let tab = format!("New ({groups})");
    until("the inbox has counted what was blocked", async || {
        browser.go(&console(gateway, "/inbox")).await;
        browser.text("nav.tabs").await.contains(&tab)
    })
    .await;
}

#[tokio::test]
async fn a_blocked_pull_is_found_acknowledged_with_a_note_and_answered_with_a_patch() {
    let Some(browser) = Browser::open().await else { return };
    let pair = Pair::start().await;
    let gateway = &pair.gateway;
    Image::new("linux/amd64").layer(random_bytes(1, 100)).build().push(&pair.hub, "acme/app", "1.0.0");
    let allowed = gateway.get("/v2/docker.io/acme/app/manifests/1.0.0").await;
    assert_eq!(allowed.status, 200);
    gateway.get("/v2/docker.io/acme/app/manifests/latest").await.expect_denied("tag.denied");
    gateway.get("/v2/docker.io/acme/app/manifests/3.11").await.expect_denied("tag.not_allowed");

    open_inbox(&browser, gateway, 2).await;
    expect_sound(&browser, "inbox").await;
    browser.follow(REFUSED).await;
    assert!(browser.title().await.starts_with(REFUSED), "{}", browser.title().await);
    expect_sound(&browser, "group").await;

    browser.fill("Note", "Told the team; they pin it <b>this week</b>.").await;
    browser.push("Acknowledge").await;
    let shown = browser.text("main").await;
    for words in
        ["Done and put on record: acknowledge", "Told the team; they pin it <b>this week</b>.", "local"]
    {
        assert!(shown.contains(words), "no {words} in: {shown}");
    }
    expect_sound(&browser, "group-acknowledged").await;
    let event = gateway.event(|event| event["kind"] == "admin").await;
    assert_eq!((&event["action"], &event["actor"]["via"]), (&"acknowledge".into(), &"console".into()));
    assert_eq!(event["subject"]["reference"], REFUSED);

    open_inbox(&browser, gateway, 1).await;
    browser.follow("docker.io/acme/app:3.11").await;
    browser.follow("Allow").await;
    expect_sound(&browser, "patch-form").await;
    browser.push("Make the patch").await;
    let patch = browser.text("pre").await;
    for line in ["+++ ", "+tags  = { allow = [\"#.#.#\", \"3.11\"] }", "+[[test]]", "docker.io/acme/app:3.11"]
    {
        assert!(patch.contains(line), "no {line} in: {patch}");
    }
    let forecast = browser.text("main").await;
    assert!(forecast.contains("would have allowed 1 pulls of 1 clients"), "{forecast}");
    // Copied by keyboard, as people do, and pasted elsewhere.
    browser.run("getSelection().selectAllChildren(document.querySelector('pre'))", json!([])).await;
    let copied = browser.run("return getSelection().toString()", json!([])).await;
    assert_eq!(copied.as_str().unwrap().trim_end(), patch.trim_end());
    expect_sound(&browser, "patch").await;
    browser.close().await;
}

#[tokio::test]
async fn every_page_is_sound_with_content_and_without() {
    let Some(browser) = Browser::open().await else { return };
    let pair = Pair::start().await;
    let pages = [
        "/",
        "/inbox",
        "/log",
        "/drift",
        "/recalls",
        "/exceptions",
        "/clients",
        "/upstreams",
        "/search?q=acme",
    ];
    let name = |page: &str, when: &str| {
        let word: String = page.chars().filter(char::is_ascii_alphabetic).collect();
        format!("{}-{when}", if word.is_empty() { "overview" } else { &word })
    };
    for page in pages {
        browser.go(&console(&pair.gateway, page)).await;
        expect_sound(&browser, &name(page, "empty")).await;
    }
    Image::new("linux/amd64").layer(random_bytes(1, 100)).build().push(&pair.hub, "acme/app", "1.0.0");
    pair.gateway.get("/v2/docker.io/acme/app/manifests/1.0.0").await;
    let hostile =
        [("user-agent", "<img src=x onerror=alert(1)>\u{202e}"), ("x-forwarded-for", "=cmd|' /C calc'!A0")];
    for tag in ["latest", "3.11", "edge"] {
        let path = format!("/v2/docker.io/acme/app/manifests/{tag}");
        pair.gateway.send("GET", &path, &hostile).await;
    }
    let refused = pair.gateway.get("/v2/docker.io/evil%3Cscript%3E/x/manifests/1").await;
    let id = refused.json()["errors"][0]["detail"]["id"].as_str().unwrap().to_owned();
    open_inbox(&browser, &pair.gateway, 4).await;
    for page in pages {
        browser.go(&console(&pair.gateway, page)).await;
        assert_eq!(browser.count("script, img, [onerror]").await, 0, "{page}");
        expect_sound(&browser, &name(page, "filled")).await;
    }
    browser.go(&console(&pair.gateway, &format!("/d/{id}"))).await;
    expect_sound(&browser, "decision").await;
    browser.close().await;
}

#[tokio::test]
async fn filters_make_links_to_keep() {
    let Some(browser) = Browser::open().await else { return };
    let pair = Pair::start().await;
    for (repository, tag) in [("acme/app", "latest"), ("acme/app", "3.11"), ("acme/other", "latest")] {
        pair.gateway.get(&format!("/v2/docker.io/{repository}/manifests/{tag}")).await;
    }
    open_inbox(&browser, &pair.gateway, 3).await;
    browser.choose("Reason", "tag.denied").await;
    browser.fill("Text", "other").await;
    browser.push("Filter").await;
    assert_eq!(browser.count("tbody tr").await, 1);
    assert!(browser.text("tbody").await.contains("docker.io/acme/other:latest"));
    let link = browser.address().await;
    assert!(link.contains("reason=tag.denied") && link.contains("text=other"), "{link}");
    browser.follow("Clear filters").await;
    assert_eq!(browser.count("tbody tr").await, 3);
    browser.go(&link).await;
    assert_eq!(browser.count("tbody tr").await, 1, "the link shows the same again");
    expect_sound(&browser, "inbox-filtered").await;
    browser.close().await;
}

#[tokio::test]
async fn ten_thousand_blocked_references_are_paged_through_without_gap_or_double() {
    const ROWS: usize = 10_000;
    let Some(browser) = Browser::open().await else { return };
    let pair = Pair::with(|site| site.with("limits.refusals", "1000000/min")).await;
    let gateway = &pair.gateway;
    futures_util::stream::iter(0..ROWS)
        .for_each_concurrent(64, |number| async move {
            let answer = gateway.get2(&format!("/v2/docker.io/acme/app/manifests/x{number}")).await;
            assert_eq!(answer.status, 403);
        })
        .await;
    open_inbox(&browser, gateway, ROWS).await;
    let mut seen = BTreeSet::new();
    let mut pages = 0;
    loop {
        let script = "return [[...document.querySelectorAll('tbody th')].map(cell => cell.textContent), \
                      document.querySelector('a[rel=next]') !== null]";
        let page = browser.run(script, json!([])).await;
        for row in page[0].as_array().unwrap() {
            assert!(seen.insert(row.as_str().unwrap().to_owned()), "{row} twice");
        }
        pages += 1;
        if page[1] == false {
            break;
        }
        browser.follow("Next page").await;
    }
    assert_eq!(seen.len(), ROWS, "{pages} pages");
    expect_sound(&browser, "inbox-last-page").await;
    browser.follow("Previous page").await;
    assert!(browser.count("tbody tr").await > 0);
    browser.close().await;
}

#[tokio::test]
async fn who_has_a_token_logs_in_and_a_viewer_finds_no_buttons() {
    let Some(browser) = Browser::open().await else { return };
    let user = |name: &str, token: &str, role: &str| {
        let hash = Digest::sha256(token.as_bytes()).hex();
        let pairs = [("name", name), ("role", role), ("token_sha256", &hash)];
        toml::Value::from(toml::Table::from_iter(pairs.map(|(key, value)| (key.to_owned(), value.into()))))
    };
    let users =
        vec![user("vera", "t-viewer-0123456789", "viewer"), user("rea", "t-reviewer-0123456789", "reviewer")];
    let pair = Pair::with(|site| site.with("admin.user", users)).await;
    pair.gateway.get("/v2/docker.io/acme/app/manifests/latest").await;
    browser.go(&console(&pair.gateway, "/inbox")).await;
    assert!(browser.title().await.starts_with("Log in"), "{}", browser.title().await);
    // The page itself answers 401 where nobody is logged in.
    browser.complaints().await;
    expect_sound(&browser, "login").await;
    browser.fill("Token", "t-nobody").await;
    browser.push("Log in").await;
    assert!(browser.title().await.starts_with("Log in"), "a wrong token lets nobody in");
    browser.fill("Token", "t-viewer-0123456789").await;
    browser.push("Log in").await;
    browser.complaints().await;
    open_inbox(&browser, &pair.gateway, 1).await;
    assert!(browser.text("header").await.contains("vera (viewer)"));
    browser.follow(REFUSED).await;
    assert_eq!(browser.count("main button").await, 0, "a viewer only looks");
    expect_sound(&browser, "group-viewer").await;
    browser.push("Log out").await;
    browser.go(&console(&pair.gateway, "/inbox")).await;
    assert!(browser.title().await.starts_with("Log in"));
    browser.fill("Token", "t-reviewer-0123456789").await;
    browser.push("Log in").await;
    browser.go(&console(&pair.gateway, "/inbox")).await;
    browser.follow(REFUSED).await;
    assert!(browser.count("main button").await > 0);
    browser.close().await;
}
