//! An event as one sentence.

use serde_json::Value;

use crate::audit::printable;

/// The sentence as Slack takes it: what would be a link or a call to everybody is text there.
pub(super) fn slack(event: &Value) -> String {
    sentence(event).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// One line for people; whatever a client chose is escaped.
pub(super) fn sentence(event: &Value) -> String {
    let raw = |path: &[&str]| {
        path.iter().try_fold(event, |value, key| value.get(*key)).and_then(Value::as_str).unwrap_or_default()
    };
    let text = |path: &[&str]| printable(raw(path)).into_owned();
    let first = |paths: &[&[&str]]| {
        paths.iter().map(|path| text(path)).find(|text| !text.is_empty()).unwrap_or_default()
    };
    let kind = text(&["kind"]);
    let who = match (text(&["client", "name"]), text(&["client", "address"])) {
        (name, address) if name.is_empty() && address.is_empty() => text(&["actor", "name"]),
        (name, address) if name.is_empty() => address,
        (name, address) if address.is_empty() => name,
        (name, address) => format!("{name} ({address})"),
    };
    let word = first(&[
        &["verdict"],
        &["action"],
        &["result"],
        &["auth", "result"],
        &["exception", "result"],
        &["recall", "result"],
        &["upstream", "state"],
    ]);
    let about = first(&[
        &["image", "reference"],
        &["subject", "reference"],
        &["recall", "id"],
        &["upstream", "registry"],
        &["policy", "name"],
    ]);
    let said = first(&[
        &["reason", "text"],
        &["alert", "text"],
        &["recall", "reason"],
        &["upstream", "text"],
        &["auth", "text"],
        &["error"],
        &["note"],
    ]);
    let name = match &*kind {
        "decision" => String::new(),
        "alert" => format!("alert {}", text(&["alert", "rule"])),
        "drift" => format!("drift {} → {}", text(&["image", "previous_digest"]), text(&["image", "digest"])),
        kind => kind.to_owned(),
    };
    let count = match event.get("count").and_then(Value::as_u64) {
        Some(count) if count > 1 => format!("×{count}"),
        _ => String::new(),
    };
    let code = first(&[&["reason", "code"], &["subject", "reason"]]);
    let parts = [name, word.to_uppercase(), about, code, who, count];
    let parts: Vec<&str> = parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    let line = parts.join("  ");
    if said.is_empty() { line } else { format!("{line}: {said}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sentence_calls_nobody_and_is_one_line() {
        let event = json!({
            "kind": "decision", "verdict": "deny", "image": {"reference": "x\n<!channel>"},
            "reason": {"code": "tag.denied", "text": "no & never"}, "client": {"name": "ci", "address": "10.0.0.1"},
        });
        assert_eq!(slack(&event), r"DENY  x\x0a&lt;!channel&gt;  tag.denied  ci (10.0.0.1): no &amp; never");
    }
}
