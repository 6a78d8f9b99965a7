//! Elastic Common Schema 8.11. What it has no field for is under `pullgate`.

use serde_json::{Value, json};

use super::fields::{Fields, pruned};
use super::sentence::sentence;

const VERSION: &str = "8.11.0";

/// The event in this form.
pub(super) fn event(native: &Value) -> Value {
    let event = Fields(native);
    let (category, kinds) = category(event);
    let user = event.first(&[&["client", "name"], &["actor", "name"]]);
    let digest = event.text(&["image", "digest"]);
    let name = match (event.text(&["image", "registry"]), event.text(&["image", "repository"])) {
        (Some(registry), Some(repository)) => Some(format!("{registry}/{repository}")),
        _ => event.first(&[&["image", "reference"], &["subject", "reference"]]).map(str::to_owned),
    };
    let address = event.text(&["client", "address"]);
    let method = event.text(&["http", "method"]);
    let failed = event.is_failure();
    pruned(json!({
        "@timestamp": event.text(&["time"]),
        "container": {"image": {
            "hash": {"all": digest.map(|digest| [digest])},
            "name": name,
            "tag": event.text(&["image", "tag"]).map(|tag| [tag]),
        }},
        "ecs": {"version": VERSION},
        "event": {
            "action": action(event),
            "category": [category],
            "code": event.first(&[&["reason", "code"], &["subject", "reason"]]),
            "dataset": "pullgate.audit",
            "duration": event.number(&["duration_ms"]).map(|millis| millis.saturating_mul(1_000_000)),
            "end": event.text(&["last"]),
            "id": event.text(&["id"]),
            "kind": if event.kind() == "alert" { "alert" } else { "event" },
            "module": "pullgate",
            "outcome": if failed { "failure" } else { "success" },
            "provider": "pullgate",
            "reason": event.first(&[&["reason", "text"], &["alert", "text"], &["auth", "text"], &["recall", "reason"], &["upstream", "text"], &["error"], &["note"]]),
            "sequence": event.value(&["seq"]),
            "start": event.text(&["first"]),
            "type": kinds,
        },
        "http": {
            "request": {"id": event.text(&["pull_id"]), "method": method},
            "response": {
                "body": {"bytes": event.number(&["bytes"])},
                "status_code": event.number(&["http", "status"]).or_else(|| event.number(&["status"])),
            },
        },
        "message": sentence(native),
        "observer": {"product": "pullgate", "type": "proxy", "vendor": "pullgate", "version": env!("CARGO_PKG_VERSION")},
        "pullgate": native,
        "related": {
            "hash": digest.map(|digest| [digest]),
            "ip": event.ip().map(|ip| [ip]),
            "user": user.map(|user| [user]),
        },
        "rule": {
            "id": event.first(&[&["policy", "source"], &["exception", "id"], &["recall", "id"]]),
            "name": event.first(&[&["reason", "code"], &["alert", "rule"]]),
            "ruleset": event.text(&["policy", "name"]),
            "version": event.text(&["policy", "revision"]),
        },
        "source": {"address": address, "ip": event.ip()},
        "url": {"path": event.text(&["http", "path"])},
        "user": {"name": user},
        "user_agent": {"original": event.text(&["client", "user_agent"])},
    }))
}

/// What was done, in words that are closed.
fn action(event: Fields<'_>) -> String {
    let kind = event.kind();
    let word = event.first(&[
        &["verdict"],
        &["action"],
        &["result"],
        &["auth", "result"],
        &["exception", "result"],
        &["recall", "result"],
        &["upstream", "state"],
    ]);
    match (kind, word) {
        ("decision", Some(verdict)) => format!("pull-{verdict}"),
        (kind, Some(word)) => format!("{kind}-{word}"),
        (kind, None) => kind.to_owned(),
    }
}

/// `event.category` and `event.type`, out of their allowed values and together as the schema expects.
fn category(event: Fields<'_>) -> (&'static str, Vec<&'static str>) {
    let change = |result: Option<&str>| match result {
        Some("created") => "creation",
        Some("removed" | "expired") => "deletion",
        Some("used") => "access",
        _ => "change",
    };
    match event.kind() {
        "alert" => ("intrusion_detection", vec!["info"]),
        "auth" => ("authentication", vec!["start"]),
        "decision" | "flood" => ("api", vec!["access", if event.is_denied() { "denied" } else { "allowed" }]),
        "drift" => ("package", vec!["change"]),
        "repeat" | "transfer" => ("api", vec!["access"]),
        "exception" => ("configuration", vec![change(event.text(&["exception", "result"]))]),
        "recall" => ("configuration", vec![change(event.text(&["recall", "result"]))]),
        "admin" | "pin" | "policy" => ("configuration", vec!["change"]),
        "upstream" => ("network", vec!["info"]),
        _ => ("configuration", vec!["info"]),
    }
}
