//! The forms in which events leave.

mod sentence;

use serde_json::Value;

use crate::audit::{Written, printable_json};

/// In which form events leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// Elastic Common Schema.
    Ecs,
    /// `pullgate.event/1`, as on record.
    Native,
    /// Open Cybersecurity Schema Framework.
    Ocsf,
    /// A sentence for people, as chat rooms take it.
    Slack,
}

impl Format {
    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ecs => "ecs",
            Self::Native => "native",
            Self::Ocsf => "ocsf",
            Self::Slack => "slack",
        }
    }

    /// One line without line breaks or anything that moves a cursor.
    pub(super) fn line(self, event: &Written, value: &Value) -> String {
        match self {
            Self::Ecs | Self::Ocsf | Self::Native => printable_json(event.body.clone()),
            Self::Slack => sentence::slack(value),
        }
    }
}
