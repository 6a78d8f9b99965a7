//! Review pages: what the record says, for people in a browser and for programs.
//!
//! It reads the record and judges nothing; what reviewers do here is put on record. What it shows was
//! chosen by others (names, tags, paths, the words of a policy), so every value is escaped: against
//! markup by maud, against characters that reorder or hide text by [`crate::audit::printable`]. There is
//! no script on any page.

mod answer;
mod chart;
mod decision;
mod events;
mod filters;
mod frame;
mod group;
mod inbox;
mod listing;
mod outcomes;
mod overview;
mod page;
mod places;
mod query;
mod redacted;
mod rulings;
mod search;

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use maud::html;
use serde_json::json;

use crate::audit::{Log, Reader, printable};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::gate::Gate;
use crate::review::{self, Judge, Review};

pub use answer::{Answer, Media};
pub use frame::{CONSOLE_SECURITY, Role, Visitor, asset, login, onward, outside};
pub use page::{PAGE_SECURITY, notice};
pub use query::Fields;
pub use redacted::Redacted;

use answer::Trouble;
use inbox::Visits;

/// What the console is made of.
#[derive(Clone)]
pub struct Sources {
    /// The rules in force, and the history of tags.
    pub gate: Gate,
    /// Where reviewers' actions are put on record.
    pub log: Log,
    /// The record, read by connections of the console's own: pulls never wait for a page.
    pub reader: Reader,
    /// What is held of images, for the reach of a recall.
    pub catalog: Catalog,
    /// The review pages' projection of it, or why there is none.
    pub review: Result<Review, review::Error>,
    /// The policy file.
    pub judge: Arc<dyn Judge>,
    /// How the gateway is doing.
    pub conditions: Arc<dyn Fn() -> Vec<Condition> + Send + Sync>,
    /// How its upstreams are doing.
    pub upstreams: Arc<dyn Fn() -> Vec<Upstream> + Send + Sync>,
    /// What time it is.
    pub clock: Clock,
}

/// One thing that readiness depends on, or that a reader should know.
#[derive(Clone, Debug)]
pub struct Condition {
    /// `policy`, `audit`, `storage`, `upstream docker.io`.
    pub name: String,
    /// Whether it is as it should be.
    pub ok: bool,
    /// What is wrong, or how it stands.
    pub detail: String,
}

/// How one endpoint of an upstream is doing.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Of which registry.
    pub registry: String,
    /// Host and port, or a folder.
    pub endpoint: String,
    /// Whether it stands in the settings.
    pub declared: bool,
    /// What it fails with now.
    pub failure: Option<String>,
    /// When it last answered.
    pub last_success: Option<Timestamp>,
    /// When it last failed.
    pub last_failure: Option<Timestamp>,
    /// Until when it is left alone.
    pub resting_until: Option<Timestamp>,
    /// Until when it said not to be asked.
    pub throttled_until: Option<Timestamp>,
    /// How many manifests its limit leaves.
    pub remaining: Option<u64>,
    /// How many that limit is.
    pub limit: Option<u64>,
    /// Requests sent to it since the start.
    pub requests: u64,
    /// Those of them that it refused to answer.
    pub denied: u64,
}

/// The console. Cloning shares it.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

struct Inner {
    sources: Sources,
    visits: Visits,
}

impl std::fmt::Debug for Console {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").finish_non_exhaustive()
    }
}

impl std::ops::Deref for Console {
    type Target = Sources;

    fn deref(&self) -> &Sources {
        &self.0.sources
    }
}

impl Console {
    /// A console over these.
    pub fn new(sources: Sources) -> Self {
        Self(Arc::new(Inner { sources, visits: Visits::default() }))
    }

    /// The page at a path, or a sentence that says why there is none.
    pub async fn get(&self, visitor: &Visitor, path: &str, query: &str) -> Answer {
        let answer = match parts(path).as_deref() {
            Some([]) => self.overview(visitor, query).await,
            Some(["clients"]) => self.clients(visitor, query).await,
            Some(["d", id]) => self.decision(visitor, id, query).await,
            Some(["drift"]) => self.drift(visitor, query).await,
            Some(["exceptions"]) => self.exceptions(visitor, query).await,
            Some(["inbox"]) => self.inbox(visitor, query).await,
            Some(["inbox", key]) => self.group(visitor, key, query).await,
            Some(["inbox", key, outcome]) => self.outcome(visitor, key, outcome, query).await,
            Some(["log"]) => self.events(visitor, query).await,
            Some(["recalls"]) => self.recalls(visitor, query).await,
            Some(["recalls", id]) => {
                let id = percent_decoded(id);
                self.recall(visitor, &id, query).await
            }
            Some(["search"]) => self.search(visitor, query).await,
            Some(["upstreams"]) => self.upstreams(visitor, query).await,
            _ => Err(nothing_here()),
        };
        settle(answer, visitor, query)
    }

    /// What a form came to.
    pub async fn post(&self, visitor: &Visitor, path: &str, fields: &Fields) -> Answer {
        let answer = match parts(path).as_deref() {
            Some(["inbox", key]) => self.act(visitor, key, fields).await,
            Some(["inbox", key, outcome]) => self.make_patch(visitor, key, outcome, fields).await,
            _ => Err(nothing_here()),
        };
        settle(answer, visitor, "")
    }

    /// The projection that most pages are made of.
    fn review(&self) -> Result<&Review, Trouble> {
        self.review.as_ref().map_err(|error| error.clone().into())
    }

    /// The answer in place of one that took too long.
    pub fn late(visitor: &Visitor, query: &str) -> Answer {
        let text = "This page takes too long to make. Narrow the filter, for instance to the last day. Pulls are \
                    judged as before.";
        settle(Err(Trouble::Unavailable(text.to_owned())), visitor, query)
    }

    /// The answer to a form that does not show that its sender saw it.
    pub fn unmeant(visitor: &Visitor) -> Answer {
        let body = html! {
            h1 { "Not done" }
            p { "This form was not sent from a page of this console, or the page is from before the gateway's last start. Nothing was changed. Open the page again and repeat it there." }
        };
        frame::page(visitor, "", "Not done", &body).with_status(StatusCode::FORBIDDEN)
    }

    /// Closes its connections to the record; before the log is closed.
    pub async fn close(&self) {
        self.reader.close().await;
    }
}

/// The parts of a path; none where it is not written as the links here are.
fn parts(path: &str) -> Option<Vec<&str>> {
    let path = path.strip_prefix('/')?;
    if path.is_empty() {
        return Some(Vec::new());
    }
    Some(path.split('/').collect())
}

fn percent_decoded(text: &str) -> String {
    // A plus sign is one in a path.
    let query = format!("x={}", text.replace('+', "%2B"));
    url::form_urlencoded::parse(query.as_bytes())
        .next()
        .map(|(_, value)| value.into_owned())
        .unwrap_or_default()
}

fn nothing_here() -> Trouble {
    Trouble::Missing("There is no such page. The navigation leads to all there are.".to_owned())
}

/// An answer, in the form that was wanted also where it is a trouble.
fn settle(answer: Result<Answer, Trouble>, visitor: &Visitor, query: &str) -> Answer {
    let trouble = match answer {
        Ok(answer) => return answer,
        Err(trouble) => trouble,
    };
    let status = trouble.status();
    let wants_values = url::form_urlencoded::parse(query.as_bytes())
        .any(|(key, value)| key == "format" && matches!(&*value, "csv" | "json"));
    if wants_values {
        return listing::answer_json(&json!({ "error": trouble.to_string() })).with_status(status);
    }
    let title = match status {
        StatusCode::BAD_REQUEST => "This cannot be shown",
        StatusCode::FORBIDDEN => "Not allowed",
        StatusCode::NOT_FOUND => "Not found",
        _ => "Not now",
    };
    let body = html! { h1 { (title) } p.notice { (shown(&trouble.to_string())) } };
    frame::page(visitor, "", title, &body).with_status(status)
}

/// Text for a field of a form: what does not show is left out, and the rest stays as it was entered.
fn entered(text: &str) -> String {
    text.chars()
        .filter(|c| *c == '\\' || printable(c.encode_utf8(&mut [0; 4])).len() == c.len_utf8())
        .collect()
}

/// Text without characters that reorder or hide others; maud escapes it when it is put in.
fn shown(text: &str) -> String {
    printable(text).into_owned()
}
