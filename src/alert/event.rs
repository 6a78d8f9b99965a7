//! What rules look at in an event.

use jiff::Timestamp;
use serde_json::Value;

use crate::oci::Reference;

/// One event, or for a `repeat` the decision it repeats with the repeat's own id, time and count.
#[derive(Clone, Debug, Default)]
pub(super) struct Met {
    pub(super) id: String,
    /// Milliseconds since 1970.
    pub(super) time: i64,
    pub(super) what: What,
    /// How many requests it stands for.
    pub(super) count: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) enum What {
    Drift {
        reference: String,
        digest: Option<String>,
        previous: Option<String>,
    },
    #[default]
    Other,
    Refusal(Refusal),
    Upstream {
        registry: String,
        state: String,
        text: String,
    },
}

#[derive(Clone, Debug, Default)]
pub(super) struct Refusal {
    /// *The* reason.
    pub(super) reason: String,
    /// All of them.
    pub(super) reasons: Vec<String>,
    /// The reference; of a flood its samples.
    pub(super) references: Vec<String>,
    pub(super) registries: Vec<String>,
    pub(super) client: Option<String>,
    pub(super) address: Option<String>,
}

impl Refusal {
    pub(super) fn who(&self) -> &str {
        self.client.as_deref().or(self.address.as_deref()).unwrap_or("many clients")
    }
}

pub(super) fn text(event: &Value, path: &[&str]) -> Option<String> {
    Some(path.iter().try_fold(event, |value, key| value.get(*key))?.as_str()?.to_owned())
}

fn millis(event: &Value, key: &str) -> Option<i64> {
    Some(text(event, &[key])?.parse::<Timestamp>().ok()?.as_millisecond())
}

/// The decision that a `repeat` repeats.
pub(super) fn repeated(event: &Value) -> Option<String> {
    (event.get("kind").and_then(Value::as_str) == Some("repeat")).then(|| text(event, &["of"])).flatten()
}

impl Met {
    pub(super) fn of(event: &Value) -> Self {
        let kind = event.get("kind").and_then(Value::as_str).unwrap_or_default();
        let count = match kind {
            "flood" | "repeat" => event.get("count").and_then(Value::as_u64).unwrap_or(1),
            _ => 1,
        };
        let what = match kind {
            "drift" => What::Drift {
                reference: text(event, &["image", "reference"]).unwrap_or_default(),
                digest: text(event, &["image", "digest"]),
                previous: text(event, &["image", "previous_digest"]),
            },
            "decision" | "flood" => refusal(event, kind).map_or(What::Other, What::Refusal),
            "upstream" => What::Upstream {
                registry: text(event, &["upstream", "registry"]).unwrap_or_default(),
                state: text(event, &["upstream", "state"]).unwrap_or_default(),
                text: text(event, &["upstream", "text"]).unwrap_or_default(),
            },
            _ => What::Other,
        };
        let time = millis(event, "last").or_else(|| millis(event, "time")).unwrap_or(0);
        Self { id: text(event, &["id"]).unwrap_or_default(), time, what, count }
    }

    /// The same event met again, as this `repeat` says.
    pub(super) fn again(&self, repeat: Self) -> Self {
        Self { what: self.what.clone(), ..repeat }
    }
}

/// What was stopped: a pull that a mode let through is none.
fn refusal(event: &Value, kind: &str) -> Option<Refusal> {
    let stopped = matches!(event.get("verdict").and_then(Value::as_str), Some("deny" | "hold"))
        && event.get("enforced").and_then(Value::as_bool) != Some(false);
    if !stopped {
        return None;
    }
    let list = |key: &str| event.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let references: Vec<String> = match kind {
        "flood" => list("sample").iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => text(event, &["image", "reference"]).into_iter().collect(),
    };
    let mut registries: Vec<String> = match kind {
        "flood" => references
            .iter()
            .filter_map(|reference| reference.parse::<Reference>().ok())
            .map(|reference| reference.name.registry().to_string())
            .collect(),
        _ => text(event, &["image", "registry"]).into_iter().collect(),
    };
    registries.dedup();
    Some(Refusal {
        reason: text(event, &["reason", "code"]).unwrap_or_default(),
        reasons: list("reasons").iter().filter_map(|reason| text(reason, &["code"])).collect(),
        references,
        registries,
        client: text(event, &["client", "name"]),
        address: text(event, &["client", "address"]),
    })
}
