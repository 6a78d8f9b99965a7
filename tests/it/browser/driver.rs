//! Chromium, driven through its own `chromedriver` (W3C WebDriver), without a window.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use reqwest::{Client, Method};
use serde_json::{Value, json};

use crate::clients::process::{Daemon, Scratch, installed};
use crate::support::PATIENCE;
use crate::support::gateway::until;

/// The key under which WebDriver hands an element over.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser without a window and without a past.
pub(super) struct Browser {
    client: Client,
    session: String,
    // The driver goes before the folder the browser lives in.
    driver: Daemon,
    scratch: Scratch,
}

/// An element of the page that is shown.
pub(super) struct Element(String);

impl Browser {
    /// Starts it; `None`, and a line that says why, where it is not installed.
    pub(super) async fn open() -> Option<Self> {
        if !installed(&["chromium", "chromedriver"]) {
            return None;
        }
        let scratch = Scratch::new();
        // What it writes home to goes with the test.
        let mut command = Command::new("env");
        command.arg(format!("HOME={}", scratch.path().display())).args(["chromedriver", "--port=0"]);
        let mut driver = Daemon::start("chromedriver", &command, scratch.path().join("chromedriver.log"));
        let port = driver.until(|driver| {
            let log = driver.log();
            let (_, rest) = log.split_once("started successfully on port ")?;
            let (port, _) = rest.split_once('.')?;
            port.parse::<u16>().ok()
        });
        let client = Client::builder().no_proxy().timeout(PATIENCE * 3).build().unwrap();
        let base = format!("http://127.0.0.1:{port}/session");
        let profile = format!("--user-data-dir={}", scratch.folder("profile").display());
        let options = json!({ "capabilities": { "alwaysMatch": {
            // The gateway's CA is its own; what TLS must prove is tested elsewhere.
            "acceptInsecureCerts": true,
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "binary": "/usr/bin/chromium", "args": [
                "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                // It ends with the pipe: nothing is left of it when the driver is killed.
                "--remote-debugging-pipe", "--window-size=1280,1600", "--no-first-run",
                "--disable-breakpad", "--disable-crash-reporter",
                "--disable-background-networking", "--disable-component-update", profile,
            ] },
        } } });
        let answer = send(&client, Method::POST, &base, &options).await.unwrap();
        let session = format!("{base}/{}", answer["sessionId"].as_str().unwrap());
        Some(Self { client, session, driver, scratch })
    }

    async fn ask(&self, method: Method, path: &str, body: &Value) -> Result<Value, String> {
        send(&self.client, method, &format!("{}{path}", self.session), body).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        match self.ask(Method::POST, path, &body).await {
            Ok(answer) => answer,
            Err(error) => panic!("{path} {body}: {error}\nthe page:\n{}", self.source().await),
        }
    }

    /// Goes to an address and waits until the page is there.
    pub(super) async fn go(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await;
    }

    /// The title of the page.
    pub(super) async fn title(&self) -> String {
        self.text_of("/title").await
    }

    /// The page as markup, as the browser understood it.
    pub(super) async fn source(&self) -> String {
        self.ask(Method::GET, "/source", &Value::Null)
            .await
            .map_or_else(|error| error, |source| source.as_str().unwrap_or_default().to_owned())
    }

    async fn text_of(&self, path: &str) -> String {
        let answer = self.ask(Method::GET, path, &Value::Null).await.unwrap();
        answer.as_str().unwrap().to_owned()
    }

    async fn find(&self, using: &str, value: &str) -> Element {
        let answer = self.post("/element", json!({ "using": using, "value": value })).await;
        Element(answer[ELEMENT].as_str().unwrap().to_owned())
    }

    /// How many elements this CSS selector finds.
    pub(super) async fn count(&self, selector: &str) -> usize {
        let body = json!({ "using": "css selector", "value": selector });
        self.post("/elements", body).await.as_array().unwrap().len()
    }

    /// What people can read in the first element of this CSS selector.
    pub(super) async fn text(&self, selector: &str) -> String {
        let element = self.find("css selector", selector).await;
        self.text_of(&format!("/element/{}/text", element.0)).await
    }

    /// What a script of the driver's (no page's policy holds it back) returns.
    pub(super) async fn run(&self, script: &str, arguments: Value) -> Value {
        self.post("/execute/sync", json!({ "script": script, "args": arguments })).await
    }

    /// Whether the person prefers dark pages.
    pub(super) async fn prefer(&self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        let params = json!({ "features": features });
        let body = json!({ "cmd": "Emulation.setEmulatedMedia", "params": params });
        self.post("/goog/cdp/execute", body).await;
    }

    /// Everything the browser complained about since it was last asked: scripts that failed, things that
    /// could not be loaded or that the page's policy forbade.
    pub(super) async fn complaints(&self) -> Vec<String> {
        let log = self.post("/se/log", json!({ "type": "browser" })).await;
        log.as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap().to_owned()).collect()
    }

    /// Keeps a picture of the page among the build's output.
    pub(super) async fn keep_picture(&self, name: &str) -> PathBuf {
        let picture = self.text_of("/screenshot").await;
        let bytes = base64::engine::general_purpose::STANDARD.decode(picture).unwrap();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pictures");
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(format!("{name}.png"));
        std::fs::write(&file, bytes).unwrap();
        file
    }

    /// What the accessibility checker finds on the page that is shown, serious and critical, a line each;
    /// `source` is the script of axe-core.
    pub(super) async fn barriers(&self, source: &str) -> Vec<String> {
        self.run(source, json!([])).await;
        let script = "const done = arguments[arguments.length - 1]; axe.run(document).then(r => done(r.violations), e => done(String(e)));";
        let found = self.post("/execute/async", json!({ "script": script, "args": [] })).await;
        let violations = found.as_array().unwrap_or_else(|| panic!("axe-core failed: {found}"));
        violations
            .iter()
            .filter(|rule| matches!(rule["impact"].as_str(), Some("serious" | "critical")))
            .map(|rule| {
                let nodes = rule["nodes"].as_array().unwrap();
                let first = nodes.first().map(|node| node["html"].to_string()).unwrap_or_default();
                format!("{}: {} ({} times), such as {first}", rule["id"], rule["help"], nodes.len())
            })
            .collect()
    }

    /// Ends the browser in good order, and waits until it writes to its folder no more.
    pub(super) async fn close(mut self) {
        self.ask(Method::DELETE, "", &Value::Null).await.unwrap();
        let lock = self.scratch.path().join("profile/SingletonLock");
        self.driver.until(|_| lock.symlink_metadata().is_err().then_some(()));
    }
}

impl Browser {
    /// Where it is.
    pub(super) async fn address(&self) -> String {
        self.text_of("/url").await
    }

    /// Follows the first link with these words.
    pub(super) async fn follow(&self, words: &str) {
        let link = self.find("xpath", &format!("//a[normalize-space()='{words}']")).await;
        self.leave_by(&link).await;
    }

    /// Presses the first button with these words, one that leads to another page.
    pub(super) async fn push(&self, words: &str) {
        let button = self.find("xpath", &format!("//button[normalize-space()='{words}']")).await;
        self.leave_by(&button).await;
    }

    /// Presses what leads to another page, and waits until that one is there: a press may return while
    /// the old one still stands, or neither does.
    async fn leave_by(&self, element: &Element) {
        self.run("window.left = true", json!([])).await;
        self.press(element).await;
        let script = "return window.left === undefined && document.readyState === 'complete'";
        let body = json!({ "script": script, "args": [] });
        until("the next page is there", async || {
            self.ask(Method::POST, "/execute/sync", &body).await.is_ok_and(|there| there == true)
        })
        .await;
    }

    async fn press(&self, element: &Element) {
        self.post(&format!("/element/{}/click", element.0), json!({})).await;
    }

    /// The field that carries this label.
    async fn field(&self, label: &str) -> Element {
        let path = format!(
            "//*[@id=//label[normalize-space()='{label}']/@for] | //label[contains(normalize-space(),'{label}')]//*[self::input or self::select or self::textarea]"
        );
        self.find("xpath", &path).await
    }

    /// Types into the field that carries this label, in place of what was there.
    pub(super) async fn fill(&self, label: &str, text: &str) {
        let field = self.field(label).await;
        self.post(&format!("/element/{}/clear", field.0), json!({})).await;
        self.post(&format!("/element/{}/value", field.0), json!({ "text": text })).await;
    }

    /// Chooses an option by its words in the field that carries this label.
    pub(super) async fn choose(&self, label: &str, words: &str) {
        let field = self.field(label).await;
        let path = format!("/element/{}/element", field.0);
        let value = format!(".//option[normalize-space()='{words}']");
        let option = self.post(&path, json!({ "using": "xpath", "value": value })).await;
        self.press(&Element(option[ELEMENT].as_str().unwrap().to_owned())).await;
    }
}

/// One command; the answer's value, or what the driver says went wrong.
async fn send(client: &Client, method: Method, url: &str, body: &Value) -> Result<Value, String> {
    let mut request = client.request(method.clone(), url);
    if method == Method::POST {
        request = request.header("content-type", "application/json").body(body.to_string());
    }
    let answer = request.send().await.map_err(|error| error.to_string())?;
    let succeeded = answer.status().is_success();
    let bytes = answer.bytes().await.map_err(|error| error.to_string())?;
    let mut answer: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    let value = answer["value"].take();
    if succeeded { Ok(value) } else { Err(format!("{}: {}", value["error"], value["message"])) }
}
