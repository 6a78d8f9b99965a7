//! One decision as everybody may see it who holds its id.

use std::fmt::Write as _;

use serde::Serialize;
use serde_json::{Map, Value};

use crate::audit::{Entry, printable, printable_json};
use crate::policy::{Help, Verdict};

/// So many reasons and checks are shown; an image of a thousand platforms has more.
const SHOWN: usize = 100;

/// A refusal, a hold or a warning, without who met it: the page that the link in a refusal's message
/// leads to, where whoever pulled reads why and what to do.
///
/// It tells nothing of clients: neither names nor addresses, neither how often nor by whom it was met.
#[derive(Clone, Debug, Serialize)]
pub struct Redacted {
    id: String,
    time: String,
    verdict: String,
    /// False when a mode let the pull pass all the same.
    enforced: bool,
    /// True when the client asked for more refused images than are written down one by one.
    folded: bool,
    /// *The* reason's code.
    reason: Option<String>,
    /// What the client was told.
    message: Option<String>,
    image: Option<String>,
    reasons: Vec<Reason>,
    checks: Vec<Check>,
    /// Checks beyond those shown.
    more_checks: usize,
    policy: Policy,
    /// Where to ask.
    contact: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Reason {
    pub(super) code: String,
    pub(super) text: String,
    pub(super) remedy: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Check {
    pub(super) id: String,
    pub(super) result: String,
    /// `None` where it would tell who the client is, or who the others are.
    pub(super) observed: Option<String>,
    pub(super) expected: Option<String>,
    pub(super) at: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Policy {
    pub(super) name: Option<String>,
    pub(super) revision: Option<String>,
}

impl Redacted {
    /// What may be shown of an entry; `None` when it is no refusal, hold or warning. Allowed pulls and
    /// what the gateway noticed by itself have no page.
    pub fn of(entry: &Entry, help: &Help) -> Option<Self> {
        let verdict = entry.text(&["verdict"])?;
        let told = [Verdict::Deny, Verdict::Hold, Verdict::Warn];
        let told = told.into_iter().find(|known| known.as_str() == verdict)?;
        let folded = match entry.text(&["kind"])? {
            "decision" => false,
            "flood" => true,
            _ => return None,
        };
        let checks = list(&entry.event, "checks");
        Some(Self {
            id: entry.text(&["id"])?.to_owned(),
            time: entry.text(&["time"])?.to_owned(),
            verdict: told.as_str().to_owned(),
            enforced: told != Verdict::Warn,
            folded,
            reason: owned(entry.text(&["reason", "code"])),
            message: owned(entry.text(&["reason", "text"])),
            image: owned(entry.text(&["image", "reference"])),
            reasons: list(&entry.event, "reasons").iter().take(SHOWN).filter_map(Reason::of).collect(),
            checks: checks.iter().take(SHOWN).filter_map(Check::of).collect(),
            more_checks: checks.len().saturating_sub(SHOWN),
            policy: Policy {
                name: owned(entry.text(&["policy", "name"])),
                revision: owned(entry.text(&["policy", "revision"])),
            },
            contact: help.contact.clone(),
        })
    }

    /// As a JSON object; control and direction characters are escaped.
    pub fn json(&self) -> String {
        printable_json(serde_json::to_string(self).unwrap_or_default())
    }

    /// As plain text for a terminal; control and direction characters are escaped.
    pub fn text(&self) -> String {
        let mut text = format!("{}\n\n", self.headline());
        let mut line = |label: &str, value: Option<&str>| {
            if let Some(value) = value {
                let _ = writeln!(text, "{:<9} {}", format!("{label}:"), printable(value));
            }
        };
        line("image", self.image.as_deref());
        line("when", Some(&self.time));
        line("policy", self.policy.words().as_deref());
        line("id", Some(&self.id));
        line("told", self.message.as_deref());
        for reason in &self.reasons {
            line("reason", Some(&format!("{}: {}", reason.code, reason.text)));
            line("do", reason.remedy.as_deref());
        }
        if self.reasons.is_empty() {
            line("reason", self.reason.as_deref());
        }
        for check in &self.checks {
            let mut words = format!("{} {}", check.id, check.result);
            if let (Some(observed), Some(expected)) = (&check.observed, &check.expected) {
                let _ = write!(words, ": found {observed}; required {expected}");
            }
            if let Some(at) = &check.at {
                let _ = write!(words, " ({at})");
            }
            line("check", Some(&words));
        }
        line("ask", self.contact.as_deref());
        if self.folded {
            let _ = writeln!(text, "\n{FOLDED}");
        }
        text
    }

    /// What happened, in a few words.
    pub(super) fn headline(&self) -> &'static str {
        match &*self.verdict {
            "hold" => "This pull is held back by policy",
            "warn" => "This pull was served, though the policy objects",
            _ => "This pull was blocked by policy",
        }
    }

    pub(super) fn is_folded(&self) -> bool {
        self.folded
    }

    pub(super) fn shown(&self) -> Shown<'_> {
        Shown {
            id: &self.id,
            time: &self.time,
            code: self.reason.as_deref(),
            message: self.message.as_deref(),
            image: self.image.as_deref(),
            reasons: &self.reasons,
            checks: &self.checks,
            more_checks: self.more_checks,
            policy: self.policy.words(),
            contact: self.contact.as_deref(),
        }
    }
}

/// What a page lays out.
pub(super) struct Shown<'a> {
    pub(super) id: &'a str,
    pub(super) time: &'a str,
    pub(super) code: Option<&'a str>,
    pub(super) message: Option<&'a str>,
    pub(super) image: Option<&'a str>,
    pub(super) reasons: &'a [Reason],
    pub(super) checks: &'a [Check],
    pub(super) more_checks: usize,
    pub(super) policy: Option<String>,
    pub(super) contact: Option<&'a str>,
}

/// Why a page of a flood says less than others.
pub(super) const FOLDED: &str = "So many different images were refused to one client within a minute that they are written down \
                                 together. The message you got says which one it was and why.";

impl Reason {
    fn of(value: &Value) -> Option<Self> {
        Some(Self { code: text(value, "code")?, text: text(value, "text")?, remedy: text(value, "remedy") })
    }
}

impl Check {
    fn of(value: &Value) -> Option<Self> {
        let id = text(value, "id")?;
        // Both compare names of clients.
        let about_clients = matches!(&*id, "client" | "source.clients");
        let shown = |key| text(value, key).filter(|_| !about_clients);
        Some(Self {
            result: text(value, "result")?,
            observed: shown("observed"),
            expected: shown("expected"),
            at: text(value, "at"),
            id,
        })
    }
}

impl Policy {
    fn words(&self) -> Option<String> {
        match (&self.name, &self.revision) {
            (Some(name), Some(revision)) => Some(format!("{name}, revision {revision}")),
            (name, revision) => name.clone().or_else(|| revision.clone()),
        }
    }
}

fn list<'a>(event: &'a Map<String, Value>, key: &str) -> &'a [Value] {
    event.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn text(value: &Value, key: &str) -> Option<String> {
    owned(value.get(key)?.as_str())
}

fn owned(text: Option<&str>) -> Option<String> {
    text.map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOSTILE: &str = "<script>alert('x')</script>\"&amp;\u{202e}\u{7}</title>";

    fn entry(event: Value) -> Entry {
        let Value::Object(event) = event else { panic!("an object") };
        Entry { seq: 1, event }
    }

    fn decision() -> Value {
        json!({
            "id": "01JD9Z3KAAAAAAAAAAAAAAAAAA", "time": "2026-11-23T09:35:29.000Z", "kind": "decision",
            "verdict": "deny", "enforced": true, "count": 17, "first": "x", "last": "y",
            "reason": { "code": "tag.denied", "text": HOSTILE },
            "reasons": [{ "code": "tag.denied", "text": HOSTILE, "remedy": HOSTILE }],
            "policy": { "name": HOSTILE, "revision": HOSTILE, "sha256": "00" },
            "checks": [
                { "id": "client", "result": "pass", "observed": "rack-9", "expected": "a known client" },
                { "id": "source.clients", "result": "fail", "observed": "rack-9", "expected": "ci, prod" },
                { "id": "tag", "result": "fail", "observed": HOSTILE, "expected": HOSTILE, "at": HOSTILE },
            ],
            "image": { "reference": HOSTILE },
            "client": { "name": "rack-9", "address": "10.1.2.3", "user_agent": "spy/1" },
            "http": { "path": "/v2/x", "method": "GET" },
        })
    }

    fn help() -> Help {
        Help { contact: Some(HOSTILE.to_owned()), url: None }
    }

    #[test]
    fn no_value_becomes_markup_or_moves_other_text_and_no_client_is_told() {
        let redacted = Redacted::of(&entry(decision()), &help()).expect("a refusal");
        for shown in [redacted.page(), redacted.json(), redacted.text()] {
            for hidden in ["rack-9", "10.1.2.3", "spy/1", "prod", "17", "\u{202e}", "\u{7}"] {
                assert!(!shown.contains(hidden), "{hidden:?} in {shown}");
            }
        }
        let page = redacted.page();
        assert!(!page.contains("<script") && !page.contains("\"&amp;\\u"), "{page}");
        assert_eq!(page.matches("</title>").count(), 1, "{page}");
        assert!(page.contains("&lt;script&gt;alert('x')&lt;/script&gt;&quot;&amp;amp;"), "{page}");
        let back: Value = serde_json::from_str(&redacted.json()).expect("JSON");
        assert_eq!(back["checks"][2]["observed"], HOSTILE);
        assert_eq!(back["checks"][0]["observed"], Value::Null);
    }

    #[test]
    fn only_what_policy_objects_to_has_a_page() {
        let of = |change: Value| {
            let mut event = decision();
            for (key, value) in change.as_object().expect("an object") {
                event[key] = value.clone();
            }
            Redacted::of(&entry(event), &help()).map(|redacted| redacted.headline())
        };
        assert_eq!(of(json!({})), Some("This pull was blocked by policy"));
        assert_eq!(of(json!({ "kind": "flood" })), Some("This pull was blocked by policy"));
        assert_eq!(of(json!({ "verdict": "hold" })), Some("This pull is held back by policy"));
        assert_eq!(of(json!({ "verdict": "warn" })), Some("This pull was served, though the policy objects"));
        assert_eq!(of(json!({ "verdict": "allow" })), None);
        assert_eq!(of(json!({ "verdict": Value::Null })), None);
        assert_eq!(of(json!({ "kind": "repeat" })), None);
        assert_eq!(of(json!({ "kind": "policy" })), None);
    }

    #[test]
    fn a_row_of_any_shape_makes_a_page_or_none() {
        for event in [
            json!({}),
            json!({ "verdict": "deny", "kind": "decision" }),
            json!({ "id": 7, "time": [], "verdict": "deny", "kind": "decision" }),
        ] {
            assert!(Redacted::of(&entry(event), &help()).is_none());
        }
        let mut event = decision();
        event["checks"] = json!([1, "x", { "id": "tag" }]);
        event["reasons"] = json!("none");
        event["policy"] = Value::Null;
        let redacted = Redacted::of(&entry(event), &help()).expect("a refusal");
        assert!(redacted.page().contains("This pull was blocked by policy"));
    }
}
