//! The pages in a real browser: Debian's Chromium, and the accessibility checker axe-core.
//!
//! Where Chromium is not installed its tests say `skipped: …` and end. axe-core is one script from the npm
//! registry; `PULLGATE_AXE=PATH` names its `axe.min.js`. `.ci/run` brings both.

mod console;
mod driver;
mod refusal;

use driver::Browser;

use crate::clients::process::skip;

/// The page is well formed, usable by everybody and quiet, in light and in dark; pictures of both are kept.
async fn expect_sound(browser: &Browser, name: &str) {
    for scheme in ["light", "dark"] {
        browser.prefer(scheme).await;
        let picture = browser.keep_picture(&format!("{name}-{scheme}")).await;
        let bytes = std::fs::metadata(&picture).unwrap().len();
        assert!(bytes > 2_000, "the picture of {name} is empty: {bytes} bytes");
        if let Some(axe) = axe() {
            let barriers = browser.barriers(&axe).await;
            assert!(barriers.is_empty(), "{name}, {scheme}: {barriers:#?}");
        }
    }
    browser.prefer("light").await;
    assert_eq!(
        browser.run("return document.documentElement.lang", serde_json::json!([])).await,
        "en",
        "{name}"
    );
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{name}: {complaints:#?}");
}

/// The script of axe-core; without it that part is left out, and told.
fn axe() -> Option<String> {
    let Some(path) = std::env::var_os("PULLGATE_AXE") else {
        skip("axe-core not installed (PULLGATE_AXE names its axe.min.js)");
        return None;
    };
    Some(std::fs::read_to_string(path).unwrap())
}
