//! The database and its one writer.

use std::ops::Range;
use std::path::Path;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::Error;
use super::values::{
    Alert, Client, ClientFilter, Cursor, Drift, ExceptionUse, Group, InboxFilter, Met, Overview, Page,
    Recall, Status, Step, Totals, UpstreamChange,
};
use crate::audit::{Log, Subject};
use crate::clock::Clock;

/// The projection. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Review(Clock);

impl Review {
    /// Opens `review.db` in the data folder; makes it anew when it is absent, damaged or of another
    /// version.
    ///
    /// # Errors
    /// `Database` when the folder or the file cannot be used.
    pub async fn open(_folder: &Path, clock: Clock) -> Result<Self, Error> {
        Ok(Self(clock))
    }

    /// Follows the record until `stop`; end it before the log is closed. What fails is tried again from
    /// the same place.
    pub async fn run(&self, _log: Log, stop: CancellationToken) {
        stop.cancelled().await;
    }

    /// Waits until everything up to this place of the record is counted.
    ///
    /// # Errors
    /// `Closed` when it will not be: nothing follows the record any more.
    pub async fn caught_up(&self, _seq: i64) -> Result<(), Error> {
        Ok(())
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// The groups that pass the filter, from `after` on, at most `limit`.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn inbox(
        &self,
        _filter: &InboxFilter,
        _after: Option<&Cursor>,
        _limit: u32,
    ) -> Result<Page<Group>, Error> {
        Ok(Page { items: Vec::new(), next: None })
    }

    /// How many groups pass the filter, whatever state it asks for.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn totals(&self, _filter: &InboxFilter) -> Result<Totals, Error> {
        Ok(Totals::default())
    }

    /// The group of a reference and a reason; of several kinds the one that was refused.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn group(&self, _subject: &Subject) -> Result<Option<Group>, Error> {
        Ok(None)
    }

    /// The group with this key.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn group_by_key(&self, _key: &str) -> Result<Option<Group>, Error> {
        Ok(None)
    }

    /// Who met a group, the latest first.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn clients_of(
        &self,
        _key: &str,
        _after: Option<&Cursor>,
        _limit: u32,
    ) -> Result<Page<Met>, Error> {
        Ok(Page { items: Vec::new(), next: None })
    }

    /// A range at a glance, in whole steps.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn overview(&self, _range: Range<Timestamp>, _step: Step) -> Result<Overview, Error> {
        Ok(Overview::default())
    }

    /// All clients that were ever seen.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn clients(
        &self,
        _filter: &ClientFilter,
        _after: Option<&Cursor>,
        _limit: u32,
    ) -> Result<Page<Client>, Error> {
        Ok(Page { items: Vec::new(), next: None })
    }

    /// Tags that moved upstream, the latest first.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn drifts(&self, _after: Option<&Cursor>, _limit: u32) -> Result<Page<Drift>, Error> {
        Ok(Page { items: Vec::new(), next: None })
    }

    /// What happened to upstreams, the latest first.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn upstreams(
        &self,
        _after: Option<&Cursor>,
        _limit: u32,
    ) -> Result<Page<UpstreamChange>, Error> {
        Ok(Page { items: Vec::new(), next: None })
    }

    /// Alerts that went off, the latest first.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn alerts(&self, _after: Option<&Cursor>, _limit: u32) -> Result<Page<Alert>, Error> {
        Ok(Page { items: Vec::new(), next: None })
    }

    /// What is on record of exceptions, by id.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn exceptions(&self) -> Result<Vec<ExceptionUse>, Error> {
        Ok(Vec::new())
    }

    /// What is on record of recalls, the latest first.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn recalls(&self) -> Result<Vec<Recall>, Error> {
        Ok(Vec::new())
    }

    /// When this user looked last, as far as it was marked.
    ///
    /// # Errors
    /// `Database` when it cannot be read.
    pub async fn visit(&self, _user: &str) -> Result<Option<Timestamp>, Error> {
        Ok(None)
    }

    /// Marks that this user looked now. It is not on record: a projection made anew forgets it.
    ///
    /// # Errors
    /// `Database` when it cannot be written.
    pub async fn mark_visit(&self, _user: &str, _now: Timestamp) -> Result<(), Error> {
        Ok(())
    }

    /// Closes the database: one tidy file is left.
    pub async fn close(&self) {
        let _ = self.0.now();
    }
}
