//! What a reviewer looks at: a projection of the record, in a database of its own.
//!
//! `review.db` holds nothing that the record does not (but when each user looked last): groups of
//! blocked pulls, who met them, counts over time. It is made anew from the record whenever it is
//! absent, damaged or of another version. It never judges and never writes to the policy file: what it
//! offers are patches that somebody applies.

mod error;
mod event;
mod forecast;
mod inbox;
mod judge;
mod lists;
mod patch;
mod project;
pub(crate) mod record;
mod rows;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod values;

pub use error::Error;
pub use forecast::{Changed, Forecast, forecast};
pub use judge::{Compiled, Gathered, Judge, PolicyFile};
pub use patch::{Outcome, OutcomeKind, Patch, PatchError, outcomes, propose};
pub use record::{Read, read_pulls};
pub use store::Review;
pub use values::{
    Alert, Bucket, Client, ClientFilter, ClientOrder, Cursor, Drift, ExceptionUse, Group, GroupKind,
    InboxFilter, InboxOrder, Met, Overview, Page, Recall, State, Status, Step, Tally, Totals, UpstreamChange,
};

/// The database's name within the data folder.
pub const FILE: &str = "review.db";
