//! `[[alert]]`: what calls somebody.

use std::time::Duration;

use serde::Deserialize;

use super::super::value;
use super::sinks::check_name;
use crate::oci::Registry;
use crate::policy::Code;

/// One `[[alert]]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "RawAlert")]
pub struct Alert {
    /// Its name; no two alerts share one.
    pub name: String,
    /// What it looks out for.
    pub when: AlertWhen,
    /// So long it does not call again about the same subject.
    pub quiet: Duration,
}

/// What an alert looks out for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum AlertWhen {
    /// A locked tag leads elsewhere upstream.
    Drift,
    /// A registry that no source covers is asked for, for the first time.
    FirstRegistry,
    /// A recalled image was asked for.
    Recalled,
    /// More refusals than so many within a time.
    Refusals {
        /// Only those for this reason.
        reason: Option<Code>,
        /// Only those of this client.
        client: Option<String>,
        /// Only those of this registry's images.
        registry: Option<Registry>,
        /// Met when there are more; at least 1.
        more_than: u32,
        /// Within this time; 1 s to a week.
        within: Duration,
    },
    /// An upstream does not answer as it should.
    Upstream,
}

#[derive(Clone, Copy, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
enum RawWhen {
    Drift,
    FirstRegistry,
    Recalled,
    Refusals,
    Upstream,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAlert {
    name: String,
    when: RawWhen,
    reason: Option<String>,
    client: Option<String>,
    #[serde(default, deserialize_with = "value::some_registry")]
    registry: Option<Registry>,
    more_than: Option<u32>,
    #[serde(default, deserialize_with = "value::some_timeout")]
    within: Option<Duration>,
    #[serde(default, deserialize_with = "value::some_timeout")]
    quiet: Option<Duration>,
}

impl TryFrom<RawAlert> for Alert {
    type Error = String;

    fn try_from(raw: RawAlert) -> Result<Self, String> {
        let RawAlert { name, when, reason, client, registry, more_than, within, quiet } = raw;
        check_name("alert", &name)?;
        let narrowed = reason.is_some()
            || client.is_some()
            || registry.is_some()
            || more_than.is_some()
            || within.is_some();
        if narrowed && when != RawWhen::Refusals {
            return Err(format!(
                "alert {name:?}: `reason`, `client`, `registry`, `more_than` and `within` belong to when = \"refusals\""
            ));
        }
        let when = match when {
            RawWhen::Drift => AlertWhen::Drift,
            RawWhen::FirstRegistry => AlertWhen::FirstRegistry,
            RawWhen::Recalled => AlertWhen::Recalled,
            RawWhen::Upstream => AlertWhen::Upstream,
            RawWhen::Refusals => {
                let reason = match reason {
                    None => None,
                    Some(word) => Some(Code::parse(&word).ok_or_else(|| {
                        format!("alert {name:?}: {word:?} is no reason; docs/policy.md lists the codes")
                    })?),
                };
                let (Some(more_than), Some(within)) = (more_than, within) else {
                    return Err(format!(
                        "alert {name:?} needs `more_than` and `within`, such as more_than = 20, within = \"10m\""
                    ));
                };
                let week = Duration::from_secs(7 * 86_400);
                if more_than == 0 || within < Duration::from_secs(1) || within > week {
                    return Err(format!(
                        "alert {name:?}: `more_than` is at least 1 and `within` is 1s to 1w"
                    ));
                }
                AlertWhen::Refusals { reason, client, registry, more_than, within }
            }
        };
        Ok(Self { name, when, quiet: quiet.unwrap_or(Duration::from_secs(3600)) })
    }
}
