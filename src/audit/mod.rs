//! The record: every decision, written once and never changed, and what a reviewer reads of it.
//!
//! A refusal is on disk before it is answered; allowed pulls follow in the next group. Equal requests
//! fold into one decision and its counts, so that neither a retrying kubelet nor somebody making up
//! names can fill the disk. The log never judges.

mod columns;
mod csv;
mod draft;
mod error;
mod event;
mod floods;
mod follow;
mod log;
mod metrics;
mod pulls;
mod query;
mod refusals;
mod row;
mod spill;
mod text;
mod writer;

#[cfg(test)]
mod tests;

pub use csv::csv;
pub use draft::{Cache, Draft, Http, Image, Join, Judged, Judgement, PolicyStamp, Refused, Sentence, Shadow};
pub use error::Error;
pub use event::{Action, Actor, Event, ExceptionResult, RecallResult, Subject};
pub(crate) use floods::Who;
pub use follow::{Follow, Written};
pub use log::{Log, OnFull, Settings, Status};
pub use pulls::Receipt;
pub use query::{Entries, Entry, Filter, Order, Pattern, Reader, query};
pub use row::{Kind, SCHEMA};
pub use text::{Runtime, printable, printable_json};

/// The database's name within the data folder.
pub const FILE: &str = "audit.db";
