//! What filters and joins need of an event without reading it: taken from the event itself, when it
//! is written and when the log is verified, so that a filter can say nothing that the event does not.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// The columns of a row beside its place and its body.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Fields {
    pub(crate) id: String,
    /// Milliseconds since 1970, as `last`.
    pub(crate) time: i64,
    pub(crate) kind: String,
    /// The decision or flood that this is more of.
    pub(crate) parent: Option<String>,
    pub(crate) pull_id: Option<String>,
    pub(crate) verdict: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) registry: Option<String>,
    pub(crate) repository: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
    pub(crate) client: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) reference: Option<String>,
    /// When it last happened.
    pub(crate) last: Option<i64>,
}

impl Fields {
    pub(crate) fn of(event: &Map<String, Value>) -> Self {
        let text = |key: &str| event.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        let within = |object: &str, key: &str| {
            event
                .get(object)
                .and_then(|object| object.get(key))
                .and_then(Value::as_str)
                .map(ToOwned::to_owned)
        };
        let moment = |key: &str| event.get(key).and_then(Value::as_str).and_then(millis);
        let kind = text("kind").unwrap_or_default();
        let time = moment("time").unwrap_or_default();
        Self {
            id: text("id").unwrap_or_default(),
            time,
            parent: text("of"),
            pull_id: text("pull_id"),
            verdict: text("verdict"),
            reason: within("reason", "code").or_else(|| within("subject", "reason")),
            registry: within("image", "registry").or_else(|| within("upstream", "registry")),
            repository: within("image", "repository"),
            tag: within("image", "tag"),
            digest: within("image", "digest"),
            client: within("client", "name"),
            address: within("client", "address"),
            reference: within("image", "reference").or_else(|| within("subject", "reference")),
            last: moment("last").or((kind == "decision").then_some(time)),
            kind,
        }
    }
}

fn millis(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}
