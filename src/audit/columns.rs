//! An entry as a row of a table.

use serde_json::Value;

use super::query::Entry;

/// A column: its name, and where its value stands; of several places the first that has one.
type Column = (&'static str, &'static [&'static [&'static str]]);

/// The columns of a table of entries, in their order. New ones come last: programs may count.
const COLUMNS: [Column; 32] = [
    ("time", &[&["time"]]),
    ("kind", &[&["kind"]]),
    ("id", &[&["id"]]),
    ("seq", &[&["seq"]]),
    ("pull_id", &[&["pull_id"]]),
    (
        "verdict",
        &[
            &["verdict"],
            &["result"],
            &["auth", "result"],
            &["upstream", "state"],
            &["exception", "result"],
            &["recall", "result"],
            &["action"],
        ],
    ),
    ("enforced", &[&["enforced"]]),
    ("reason", &[&["reason", "code"], &["subject", "reason"]]),
    (
        "text",
        &[
            &["reason", "text"],
            &["alert", "text"],
            &["auth", "text"],
            &["upstream", "text"],
            &["recall", "reason"],
            &["error"],
            &["note"],
        ],
    ),
    ("remedy", &[&["reason", "remedy"]]),
    ("reference", &[&["image", "reference"], &["subject", "reference"]]),
    ("registry", &[&["image", "registry"], &["upstream", "registry"]]),
    ("repository", &[&["image", "repository"]]),
    ("tag", &[&["image", "tag"]]),
    ("digest", &[&["image", "digest"]]),
    ("digest_requested", &[&["image", "digest_requested"]]),
    ("previous_digest", &[&["image", "previous_digest"]]),
    ("client", &[&["client", "name"], &["actor", "name"]]),
    ("address", &[&["client", "address"]]),
    ("attribution", &[&["client", "attribution"]]),
    ("user_agent", &[&["client", "user_agent"]]),
    ("forwarded_for", &[&["client", "forwarded_for"]]),
    ("policy", &[&["policy", "name"]]),
    ("revision", &[&["policy", "revision"]]),
    ("source", &[&["policy", "source"]]),
    ("rule", &[&["alert", "rule"], &["exception", "id"], &["recall", "id"]]),
    ("status", &[&["http", "status"]]),
    ("count", &[&["count"], &["alert", "count"], &["auth", "count"]]),
    ("first", &[&["first"]]),
    ("last", &[&["last"]]),
    ("bytes", &[&["bytes"]]),
    ("cache", &[&["cache"]]),
];

impl Entry {
    /// The names of the columns of a table of entries.
    pub fn columns() -> impl Iterator<Item = &'static str> {
        COLUMNS.iter().map(|(name, _)| *name)
    }

    /// Its values, as many as there are columns; empty where it has none.
    pub fn values(&self) -> impl Iterator<Item = String> {
        COLUMNS.iter().map(|(_, places)| {
            places.iter().find_map(|path| self.value(path)).map_or_else(String::new, |value| match value {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            })
        })
    }
}
