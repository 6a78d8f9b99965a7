//! Open Cybersecurity Schema Framework 1.4: API Activity (6003) with the Security Control profile for
//! what the gateway decides and does, Authentication (3002) for who came in, Detection Finding (2004)
//! for alerts. The event as it is on record is its `unmapped`.

use serde_json::{Value, json};

use super::fields::{Fields, pruned};
use super::sentence::sentence;

const VERSION: &str = "1.4.0";

#[derive(Clone, Copy)]
struct Class {
    category: (u32, &'static str),
    class: (u32, &'static str),
}

const API_ACTIVITY: Class = Class { category: (6, "Application Activity"), class: (6003, "API Activity") };
const AUTHENTICATION: Class =
    Class { category: (3, "Identity & Access Management"), class: (3002, "Authentication") };
const DETECTION_FINDING: Class = Class { category: (2, "Findings"), class: (2004, "Detection Finding") };

/// The event in this form.
pub(super) fn event(native: &Value) -> Value {
    let event = Fields(native);
    let class = match event.kind() {
        "alert" => DETECTION_FINDING,
        "auth" => AUTHENTICATION,
        _ => API_ACTIVITY,
    };
    let (activity, activity_name) = activity(event);
    let failed = event.is_failure();
    let (severity, severity_name) = severity(event);
    let mut out = json!({
        "activity_id": activity,
        "activity_name": activity_name,
        "category_name": class.category.1,
        "category_uid": class.category.0,
        "class_name": class.class.1,
        "class_uid": class.class.0,
        "type_name": format!("{}: {activity_name}", class.class.1),
        "type_uid": class.class.0 * 100 + activity,
        "count": event.number(&["count"]).or_else(|| event.number(&["alert", "count"])).or_else(|| event.number(&["auth", "count"])),
        "duration": event.number(&["duration_ms"]),
        "end_time": event.millis(&["last"]),
        "message": sentence(native),
        "metadata": {
            "correlation_uid": event.text(&["pull_id"]),
            "event_code": event.kind(),
            "log_name": "audit",
            "original_time": event.text(&["time"]),
            "product": {"name": "pullgate", "vendor_name": "pullgate", "version": env!("CARGO_PKG_VERSION")},
            "profiles": ["security_control"],
            "sequence": event.value(&["seq"]),
            "uid": event.text(&["id"]),
            "version": VERSION,
        },
        "severity": severity_name,
        "severity_id": severity,
        "start_time": event.millis(&["first"]),
        "status": if failed { "Failure" } else { "Success" },
        "status_code": event.first(&[&["reason", "code"], &["subject", "reason"]]),
        "status_detail": event.first(&[&["reason", "text"], &["auth", "text"], &["upstream", "text"], &["error"]]),
        "status_id": if failed { 2 } else { 1 },
        "time": event.millis(&["time"]).unwrap_or(0),
        "unmapped": native,
    });
    let more = match event.kind() {
        "alert" => finding(event),
        "auth" => authentication(event),
        _ => api_activity(event),
    };
    if let (Value::Object(out), Value::Object(more)) = (&mut out, more) {
        out.extend(more);
    }
    pruned(out)
}

/// `activity_id` and its caption.
fn activity(event: Fields<'_>) -> (u32, &'static str) {
    match event.kind() {
        "alert" => (1, "Create"),
        "auth" => (1, "Logon"),
        "decision" | "flood" | "repeat" | "transfer" => (2, "Read"),
        "admin" | "pin" | "policy" => (3, "Update"),
        "exception" | "recall" => match event.first(&[&["exception", "result"], &["recall", "result"]]) {
            Some("created") => (1, "Create"),
            Some("removed" | "expired") => (4, "Delete"),
            Some("changed") => (3, "Update"),
            _ => (2, "Read"),
        },
        _ => (99, "Other"),
    }
}

fn severity(event: Fields<'_>) -> (u32, &'static str) {
    const HIGH: (u32, &str) = (4, "High");
    const MEDIUM: (u32, &str) = (3, "Medium");
    const LOW: (u32, &str) = (2, "Low");
    match event.kind() {
        "alert" => HIGH,
        "decision" if event.text(&["reason", "code"]) == Some("recall") => HIGH,
        "drift" | "flood" => MEDIUM,
        "decision" => match event.text(&["verdict"]) {
            Some("deny") => MEDIUM,
            Some("hold" | "warn") => LOW,
            _ => (1, "Informational"),
        },
        _ if event.is_failure() => MEDIUM,
        _ => (1, "Informational"),
    }
}

fn endpoint(event: Fields<'_>) -> Value {
    match (event.ip(), event.text(&["client", "address"])) {
        (Some(ip), _) => json!({"ip": ip}),
        (None, Some(name)) => json!({"name": name}),
        // What the gateway does by itself.
        (None, None) => json!({"name": "pullgate"}),
    }
}

fn control(event: Fields<'_>) -> (Option<u32>, Option<u32>) {
    match (event.text(&["verdict"]), event.is_denied()) {
        (None, _) => (None, None),
        (Some(_), true) => (Some(2), Some(2)),
        // Refused by policy, and let through by its mode.
        (Some("deny" | "hold" | "warn"), false) => (Some(1), Some(17)),
        (Some(_), false) => (Some(1), Some(1)),
    }
}

fn api_activity(event: Fields<'_>) -> Value {
    let (action, disposition) = control(event);
    let name = event.first(&[&["client", "name"], &["actor", "name"]]);
    let app = event.text(&["client", "user_agent"]).or_else(|| name.is_none().then_some("pullgate"));
    let reference = event.first(&[&["image", "reference"], &["subject", "reference"]]);
    let status = event.number(&["http", "status"]).or_else(|| event.number(&["status"]));
    json!({
        "action": action.map(|id| if id == 2 { "Denied" } else { "Allowed" }),
        "action_id": action,
        "actor": {"app_name": app, "user": {"name": name}},
        "api": {
            "operation": match event.kind() { "decision" | "flood" | "repeat" | "transfer" => "pull", kind => kind },
            "request": {"uid": event.text(&["pull_id"])},
            "response": {"code": status, "error": event.text(&["reason", "code"]), "error_message": event.text(&["reason", "text"])},
            "service": {"name": "pullgate"},
        },
        "disposition": disposition.map(|id| match id { 1 => "Allowed", 2 => "Blocked", _ => "Logged" }),
        "disposition_id": disposition,
        "http_request": {
            "http_method": event.text(&["http", "method"]),
            "url": {"path": event.text(&["http", "path"])},
            "user_agent": event.text(&["client", "user_agent"]),
            "x_forwarded_for": event.text(&["client", "forwarded_for"]).map(|address| [address]),
        },
        "http_response": {"code": status},
        "policy": policy(event),
        "resources": reference.map(|reference| json!([{
            "name": reference,
            "type": "container image",
            "uid": event.text(&["image", "digest"]),
            "version": event.text(&["image", "tag"]),
        }])),
        "src_endpoint": endpoint(event),
    })
}

fn policy(event: Fields<'_>) -> Value {
    json!({
        "name": event.text(&["policy", "name"]),
        "uid": event.text(&["policy", "sha256"]),
        "version": event.text(&["policy", "revision"]),
    })
}

fn authentication(event: Fields<'_>) -> Value {
    let granted = event.text(&["auth", "result"]) == Some("granted");
    json!({
        "action": if granted { "Allowed" } else { "Denied" },
        "action_id": if granted { 1 } else { 2 },
        "disposition": if granted { "Allowed" } else { "Blocked" },
        "disposition_id": if granted { 1 } else { 2 },
        "is_remote": true,
        "service": {"name": "pullgate", "labels": event.text(&["auth", "via"]).map(|via| [via])},
        "src_endpoint": endpoint(event),
        "user": {"name": event.text(&["client", "name"]).unwrap_or("unknown")},
    })
}

fn finding(event: Fields<'_>) -> Value {
    json!({
        "action": "Allowed",
        "action_id": 1,
        "disposition": "Alert",
        "disposition_id": 19,
        "finding_info": {
            "analytic": {"name": event.text(&["alert", "rule"]), "type": "Rule", "type_id": 1},
            "created_time": event.millis(&["time"]),
            "desc": event.text(&["alert", "text"]),
            "related_events": event.text(&["alert", "of"]).map(|id| json!([{"uid": id}])),
            "related_events_count": event.number(&["alert", "count"]),
            "title": event.text(&["alert", "rule"]),
            "uid": event.text(&["id"]),
        },
        "is_alert": true,
        "resources": event.text(&["subject", "reference"]).map(|name| json!([{"name": name}])),
    })
}
