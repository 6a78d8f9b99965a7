//! Checks waived for one image, by two people, until a date.

use std::collections::HashMap;
use std::time::Duration;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use super::Code;
use super::rules::{Exception, Invalid, Item};
use crate::oci::Name;

/// The most days between approval and expiry.
const DAYS_MAX: i64 = 90;
/// From when on an exception's end is worth a warning.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// All `[[exception]]`s of a policy.
#[derive(Debug, Default)]
pub(super) struct Exceptions {
    all: Vec<Exception>,
    by_name: HashMap<Name, Vec<usize>>,
}

impl Exceptions {
    /// Ids are unique, two people agreed, and each ends within 90 days.
    pub(super) fn new(all: Vec<Exception>) -> Result<Self, Invalid> {
        let mut by_name: HashMap<Name, Vec<usize>> = HashMap::new();
        for (at, exception) in all.iter().enumerate() {
            let invalid = |message, help| Err(Invalid { item: Item::Exception(at), message, help });
            if let Some(other) = all.iter().take(at).find(|other| other.id == exception.id) {
                return invalid(
                    format!("the exception id {:?} is used twice (first at {})", &*exception.id, other.at),
                    "give each exception its own id: the record names it",
                );
            }
            if exception.waive.is_empty() {
                return invalid(
                    format!("exception {:?} waives nothing", &*exception.id),
                    "name the checks in `waive`, or remove it",
                );
            }
            let same =
                exception.requested_by.trim().to_lowercase() == exception.approved_by.trim().to_lowercase();
            if same {
                return invalid(
                    format!("{} asked for the exception and approved it", exception.approved_by),
                    "somebody else has to approve it",
                );
            }
            if exception.expires < exception.approved {
                return invalid(
                    format!(
                        "it ends ({}) before it was approved ({})",
                        exception.expires, exception.approved
                    ),
                    "give a date on or after its approval",
                );
            }
            let last = exception.approved.checked_add(DAYS_MAX.days()).unwrap_or(Date::MAX);
            if exception.expires > last {
                return invalid(
                    format!(
                        "it lasts longer than {DAYS_MAX} days: approved {}, it ends on {last} at the latest",
                        exception.approved
                    ),
                    "let it end earlier, and approve it again if it is still needed",
                );
            }
            by_name.entry(exception.image.name.clone()).or_default().push(at);
        }
        Ok(Self { all, by_name })
    }

    pub(super) fn all(&self) -> &[Exception] {
        &self.all
    }

    /// Those of a repository that are in force at this time.
    pub(super) fn active(&self, name: &Name, now: Timestamp) -> Vec<&Exception> {
        let places = self.by_name.get(name).map_or(&[][..], Vec::as_slice);
        places
            .iter()
            .filter_map(|at| self.all.get(*at))
            .filter(|exception| exception.is_active(now))
            .collect()
    }
}

impl Exception {
    /// Whether it is in force: from the first moment of `approved` to the last of `expires`, in UTC.
    pub fn is_active(&self, now: Timestamp) -> bool {
        midnight(self.approved).is_some_and(|from| from <= now) && self.ends().is_some_and(|end| now < end)
    }

    /// The first moment at which it is over.
    pub fn ends(&self) -> Option<Timestamp> {
        midnight(self.expires.checked_add(1.day()).ok()?)
    }

    /// Whether it is in force and ends within 14 days.
    pub fn ends_soon(&self, now: Timestamp) -> bool {
        let left = self.ends().map(|end| Duration::try_from(end.duration_since(now)).unwrap_or_default());
        self.is_active(now) && left.is_some_and(|left| left <= SOON)
    }

    pub(super) fn waives(&self, code: Code) -> bool {
        self.waive.iter().any(|check| check.codes().contains(&code))
    }
}

pub(super) fn midnight(date: Date) -> Option<Timestamp> {
    date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}
