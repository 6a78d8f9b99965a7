//! `/d/<id>`: the page that the link in a refusal leads to.
//!
//! Whoever holds the id may read it: it is drawn at random with 80 bits, printed in the refusal alone,
//! and the page tells of no client. It is read from the record's disk by an index, a few at a time, so
//! that asking for it never slows pulls down.

use std::time::Duration;

use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
    REFERRER_POLICY, RETRY_AFTER, USER_AGENT, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Method, Request, StatusCode};
use serde_json::json;
use tokio::sync::Semaphore;
use ulid::Ulid;

use super::reply::{self, Body, Reply};
use crate::audit::{self, Entry};
use crate::console::{self, Redacted};
use crate::gate::Gate;
use crate::policy::Help;

/// Pages read at once; whoever comes beyond is asked to come again.
const READERS: usize = 4;
/// A disk that takes longer is in trouble, and the page can wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers for pages.
#[derive(Debug)]
pub(super) struct Pages {
    slots: Semaphore,
}

/// In which form a page is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Form {
    Html,
    Json,
    Text,
}

impl Default for Pages {
    fn default() -> Self {
        Self { slots: Semaphore::new(READERS) }
    }
}

impl Pages {
    /// Whether a path is that of a page, existing or not.
    pub(super) fn has(path: &str) -> bool {
        path == "/d" || path.starts_with("/d/")
    }

    pub(super) async fn answer(&self, request: &Request<()>, gate: &Gate) -> Reply {
        let form = Form::wanted(request.headers());
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut reply = form.notice(StatusCode::METHOD_NOT_ALLOWED, "Pages are read with GET.");
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return reply;
        }
        let id = request.uri().path().strip_prefix("/d/").unwrap_or_default();
        let Some(id) = id_of(id) else {
            let sentence = "This is no id of a refusal: those are the 26 letters and digits after \
                            \"blocked by policy\" in the message.";
            return form.notice(StatusCode::NOT_FOUND, sentence);
        };
        let rules = gate.rules();
        self.look(form, gate.record().written(&id), rules.policy().help()).await
    }

    /// Shows what reading comes to, if there is a place to read.
    async fn look(
        &self,
        form: Form,
        read: impl Future<Output = Result<Option<Entry>, audit::Error>>,
        help: &Help,
    ) -> Reply {
        let Ok(_slot) = self.slots.try_acquire() else {
            return form.later("1", "Too many pages are being read at this moment. Try again in a second.");
        };
        let entry = match tokio::time::timeout(PATIENCE, read).await {
            Ok(Ok(entry)) => entry,
            Ok(Err(error)) => {
                tracing::warn!(%error, "a page could not be read");
                return form.later("10", "The record cannot be read at this moment. Try again later.");
            }
            Err(_) => return form.later("10", "The record takes too long to read. Try again later."),
        };
        let Some(refusal) = entry.and_then(|entry| Redacted::of(&entry, help)) else {
            let sentence = "No refusal with this id is on record here. The id may be cut off, another \
                            gateway's, or older than what the record keeps.";
            return form.notice(StatusCode::NOT_FOUND, sentence);
        };
        let body = match form {
            Form::Html => refusal.page(),
            Form::Json => refusal.json(),
            Form::Text => refusal.text(),
        };
        form.reply(StatusCode::OK, body)
    }
}

/// The id, of 26 characters in either case.
fn id_of(text: &str) -> Option<Ulid> {
    (text.len() == ulid::ULID_LEN).then(|| Ulid::from_string(text).ok()).flatten()
}

impl Form {
    /// The form the client likes best; a page where it does not say, plain text for a terminal.
    fn wanted(headers: &HeaderMap) -> Self {
        let mut best = None;
        for line in headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()) {
            for range in line.split(',') {
                let mut parts = range.split(';').map(str::trim);
                let form = match parts.next().unwrap_or_default().to_ascii_lowercase().as_str() {
                    "application/json" => Self::Json,
                    "text/html" => Self::Html,
                    "text/plain" => Self::Text,
                    _ => continue,
                };
                let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok());
                let weight = weight.unwrap_or(1.0);
                if weight > 0.0 && best.is_none_or(|(_, known)| weight > known) {
                    best = Some((form, weight));
                }
            }
        }
        let agent = headers.get(USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let terminal = ["curl/", "Wget/"].iter().any(|product| agent.starts_with(product));
        best.map_or(if terminal { Self::Text } else { Self::Html }, |(form, _)| form)
    }

    fn reply(self, status: StatusCode, body: String) -> Reply {
        let mut reply = reply::reply(status, Body::whole(body));
        let media_type = match self {
            Self::Html => "text/html; charset=utf-8",
            Self::Json => "application/json",
            Self::Text => "text/plain; charset=utf-8",
        };
        let headers = reply.headers_mut();
        let mut set = |name: HeaderName, value: &'static str| {
            headers.insert(name, HeaderValue::from_static(value));
        };
        set(CONTENT_TYPE, media_type);
        set(CACHE_CONTROL, "no-store, private");
        set(REFERRER_POLICY, "no-referrer");
        set(VARY, "Accept, User-Agent");
        set(X_CONTENT_TYPE_OPTIONS, "nosniff");
        set(X_FRAME_OPTIONS, "DENY");
        headers.insert(CONTENT_SECURITY_POLICY, reply::header_text(&console::PAGE_SECURITY));
        reply
    }

    /// A reply of one sentence.
    fn notice(self, status: StatusCode, sentence: &str) -> Reply {
        let title = status.canonical_reason().unwrap_or("Not served");
        let body = match self {
            Self::Html => console::notice(title, sentence),
            Self::Json => json!({ "error": sentence }).to_string(),
            Self::Text => format!("{sentence}\n"),
        };
        self.reply(status, body)
    }

    fn later(self, seconds: &'static str, sentence: &str) -> Reply {
        let mut reply = self.notice(StatusCode::SERVICE_UNAVAILABLE, sentence);
        reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(seconds));
        reply
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn form(pairs: &[(HeaderName, &'static str)]) -> Form {
        let pairs = pairs.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        Form::wanted(&pairs.collect())
    }

    #[test]
    fn each_reader_gets_the_form_it_can_show() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        assert_eq!(form(&[(ACCEPT, browser)]), Form::Html);
        assert_eq!(form(&[]), Form::Html);
        assert_eq!(form(&[(ACCEPT, "application/json")]), Form::Json);
        assert_eq!(form(&[(ACCEPT, "text/html;q=0.1, application/json; q=0.5")]), Form::Json);
        assert_eq!(form(&[(ACCEPT, "application/json;q=0, text/plain")]), Form::Text);
        assert_eq!(form(&[(ACCEPT, "*/*"), (USER_AGENT, "curl/8.5.0")]), Form::Text);
        assert_eq!(form(&[(ACCEPT, "text/html"), (USER_AGENT, "curl/8.5.0")]), Form::Html);
        assert_eq!(form(&[(ACCEPT, ";;q=,,=;q=x")]), Form::Html);
    }

    #[test]
    fn an_id_is_a_whole_ulid() {
        assert!(id_of("01M83W5BVMKMHGZY2KHVNP8D1Z").is_some());
        assert_eq!(id_of("01m83w5bvmkmhgzy2khvnp8d1z"), id_of("01M83W5BVMKMHGZY2KHVNP8D1Z"));
        for wrong in [
            "",
            "01M83W5BVMKMHGZY2KHVNP8D1",
            "01M83W5BVMKMHGZY2KHVNP8D1Z/",
            "../../../../../etc/passwd.",
            "ö1M83W5BVMKMHGZY2KHVNP8D1",
        ] {
            assert_eq!(id_of(wrong), None, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_few_pages_are_read_at_once_and_the_next_reader_is_asked_to_come_again() {
        let (pages, help) = (Pages::default(), Help::default());
        let look = |read| Box::pin(pages.look(Form::Text, read, &help));
        let mut waiting: Vec<_> =
            (0..READERS).map(|_| look(futures_util::future::pending().boxed())).collect();
        for page in &mut waiting {
            assert!(page.as_mut().now_or_never().is_none());
        }
        let turned = look(futures_util::future::ready(Ok(None)).boxed()).await;
        assert_eq!((turned.status().as_u16(), &turned.headers()[RETRY_AFTER]), (503, &HeaderValue::from(1)));
        waiting.pop();
        assert_eq!(look(futures_util::future::ready(Ok(None)).boxed()).await.status(), 404);
        let failed = futures_util::future::ready(Err(audit::Error::Closed));
        let failed = look(failed.boxed()).await;
        assert_eq!((failed.status().as_u16(), &failed.headers()[RETRY_AFTER]), (503, &HeaderValue::from(10)));
    }
}
