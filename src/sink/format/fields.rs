//! Looking into events, and leaving out what is not there.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::Value;

/// An event as it is on record.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a>(pub(super) &'a Value);

impl<'a> Fields<'a> {
    pub(super) fn value(self, path: &[&str]) -> Option<&'a Value> {
        path.iter().try_fold(self.0, |value, key| value.get(*key)).filter(|value| !value.is_null())
    }

    pub(super) fn text(self, path: &[&str]) -> Option<&'a str> {
        self.value(path)?.as_str().filter(|text| !text.is_empty())
    }

    pub(super) fn number(self, path: &[&str]) -> Option<u64> {
        self.value(path)?.as_u64()
    }

    pub(super) fn kind(self) -> &'a str {
        self.text(&["kind"]).unwrap_or_default()
    }

    /// The first of these that has a text.
    pub(super) fn first(self, paths: &[&[&str]]) -> Option<&'a str> {
        paths.iter().find_map(|path| self.text(path))
    }

    pub(super) fn millis(self, path: &[&str]) -> Option<i64> {
        Some(self.text(path)?.parse::<Timestamp>().ok()?.as_millisecond())
    }

    /// The client's address, where it is one address and no network.
    pub(super) fn ip(self) -> Option<&'a str> {
        self.text(&["client", "address"]).filter(|text| text.parse::<IpAddr>().is_ok())
    }

    /// Whether it tells of something that was stopped here.
    pub(super) fn is_denied(self) -> bool {
        let refused = matches!(self.text(&["verdict"]), Some("deny" | "hold"));
        refused && self.value(&["enforced"]).and_then(Value::as_bool) != Some(false)
    }

    /// Whether it tells of something that went wrong.
    pub(super) fn is_failure(self) -> bool {
        self.is_denied()
            || self.text(&["auth", "result"]) == Some("refused")
            || self.kind() == "policy" && self.text(&["result"]) == Some("refused")
            || self.text(&["upstream", "state"]).is_some_and(|state| state != "healthy")
    }
}

/// Without nulls, empty lists and empty objects: an absent field is left out in both schemas.
pub(super) fn pruned(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| (key, pruned(value)))
                .filter(|(_, value)| is_there(value))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.into_iter().map(pruned).filter(is_there).collect()),
        other => other,
    }
}

fn is_there(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}
