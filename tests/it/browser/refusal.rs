//! What the developer sees whose pull was refused.

use super::driver::Browser;
use super::expect_sound;
use crate::door::Pair;

#[tokio::test]
async fn the_link_of_a_refusal_opens_a_readable_page() {
    let Some(browser) = Browser::open().await else { return };
    let pair = Pair::start().await;
    let refused = pair.gateway.get("/v2/docker.io/acme/app/manifests/latest").await;
    let id = refused.expect_denied("tag.denied")["detail"]["id"].as_str().unwrap().to_owned();

    browser.go(&pair.gateway.url(&format!("/d/{id}"))).await;
    assert_eq!(browser.title().await, "This pull was blocked by policy: docker.io/acme/app:latest");
    let shown = browser.text("main").await;
    for words in ["docker.io/acme/app:latest", "tag.denied", "#platform-security", &id] {
        assert!(shown.contains(words), "no {words} in: {shown}");
    }
    expect_sound(&browser, "refusal").await;

    browser.go(&pair.gateway.url("/d/00000000000000000000000000")).await;
    let complaints = browser.complaints().await;
    assert!(matches!(&*complaints, [page] if page.contains("a status of 404")), "{complaints:?}");
    expect_sound(&browser, "refusal-unknown").await;
    browser.close().await;
}

#[tokio::test]
async fn names_that_are_markup_are_shown_and_not_run() {
    let Some(browser) = Browser::open().await else { return };
    let pair = Pair::start().await;
    let path = "/v2/docker.io/acme/app/manifests/%3Cscript%3Edocument.title='run'%3C%2Fscript%3E";
    let refused = pair.gateway.get(path).await;
    let id = refused.json()["errors"][0]["detail"]["id"].as_str().unwrap().to_owned();
    browser.go(&pair.gateway.url(&format!("/d/{id}"))).await;
    assert_ne!(browser.title().await, "run");
    assert_eq!(browser.count("script").await, 0);
    assert!(browser.text("main").await.contains("script"), "{}", browser.source().await);
    expect_sound(&browser, "refusal-markup").await;
    browser.close().await;
}
