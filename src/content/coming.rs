//! A blob on its way, and how far it is.

use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use tokio::sync::watch;

use super::HOLD;
use super::body::Blob;
use super::folder::Stored;
use super::pass::Pass;
use super::source::{AnySource, SourceBody};
use super::stats::Counters;
use crate::oci::{Digest, Fault};

/// How far a fill is. The last value stands when its sender goes; unless that is `Broken`, `Passing`
/// or `Verified`, a sender that went means that the fill is lost.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// It failed; nothing of this generation may be believed.
    Broken(Fault),
    /// So many bytes can be read from the file. Nothing is verified yet.
    Flowing(u64),
    /// The source has not answered yet.
    Opening,
    /// There is no space to keep it: every reader streams from the source.
    Passing(Arc<Passing>),
    /// The digest is right.
    Verified,
}

/// What readers of a blob that cannot be kept share: the right to ask the source.
pub(super) struct Passing {
    first: Mutex<Option<SourceBody>>,
    source: tokio::sync::Mutex<Box<dyn AnySource>>,
}

impl fmt::Debug for Passing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passing")
    }
}

impl Passing {
    pub(super) fn new(first: SourceBody, source: Box<dyn AnySource>) -> Self {
        Self { first: Mutex::new(Some(first)), source: tokio::sync::Mutex::new(source) }
    }

    async fn open(&self, size: u64) -> Result<SourceBody, Fault> {
        if let Some(body) = self.first.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Ok(body);
        }
        let body = self.source.lock().await.reopen(0).await?;
        body.check_whole(size)?;
        Ok(body)
    }
}

/// One generation of one blob's arrival.
#[derive(Debug)]
pub(super) struct Fill {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Set before `Flowing` is first published.
    pub(super) stored: OnceLock<Arc<Stored>>,
    pub(super) progress: watch::Receiver<Progress>,
}

/// A blob that is arriving; any number of these follow one fill, from any moment on.
#[derive(Clone, Debug)]
pub struct Coming {
    fill: Arc<Fill>,
    counters: Arc<Counters>,
}

impl Coming {
    pub(super) fn new(fill: Arc<Fill>, counters: Arc<Counters>) -> Self {
        Self { fill, counters }
    }

    /// One that is broken from the start.
    pub(super) fn refused(digest: Digest, size: u64, fault: Fault, counters: Arc<Counters>) -> Self {
        let (_, progress) = watch::channel(Progress::Broken(fault));
        Self::new(Arc::new(Fill { digest, size, stored: OnceLock::new(), progress }), counters)
    }

    /// Waits until the source has answered, so that a failure can still become an error reply; a blob
    /// of up to 64 KiB is waited for until it is verified.
    ///
    /// # Errors
    ///
    /// The source's fault; [`Fault::Invalid`] when it offers other bytes or another length than asked
    /// for; [`Fault::Storage`] when this machine failed. Ask the store again to start anew.
    pub async fn opened(self) -> Result<Blob, Fault> {
        let mut progress = self.fill.progress.clone();
        let passing = loop {
            match &*progress.borrow_and_update() {
                Progress::Broken(fault) => return Err(fault.clone()),
                Progress::Passing(passing) => break passing.clone(),
                Progress::Verified => return self.blob(None),
                Progress::Flowing(_) if self.fill.size > HOLD => {
                    return self.blob(Some(self.fill.progress.clone()));
                }
                Progress::Flowing(_) | Progress::Opening => {}
            }
            if progress.changed().await.is_err() {
                return Err(vanished());
            }
        };
        let body = passing.open(self.fill.size).await?;
        self.counters.pass();
        let pass = Pass::new(body, self.fill.digest, self.fill.size, self.counters.clone());
        let Fill { digest, size, .. } = *self.fill;
        if size > HOLD {
            return Ok(Blob::passing(digest, size, pass));
        }
        Ok(Blob::in_memory(digest, pass.collect().await?))
    }

    /// Waits for the end, without reading: what a prefetch waits for, and what tells of a forged blob
    /// when every reader has hung up.
    ///
    /// # Errors
    ///
    /// As [`Coming::opened`]; [`Fault::Storage`] too when there is no space to keep the blob.
    pub async fn verified(self) -> Result<(), Fault> {
        let mut progress = self.fill.progress.clone();
        loop {
            match &*progress.borrow_and_update() {
                Progress::Broken(fault) => return Err(fault.clone()),
                Progress::Passing(_) => {
                    return Err(Fault::Storage("there is no space to keep the blob".into()));
                }
                Progress::Verified => return Ok(()),
                Progress::Flowing(_) | Progress::Opening => {}
            }
            if progress.changed().await.is_err() {
                return Err(vanished());
            }
        }
    }

    fn blob(&self, follow: Option<watch::Receiver<Progress>>) -> Result<Blob, Fault> {
        let stored = self.fill.stored.get().ok_or_else(vanished)?;
        Ok(Blob::stored(self.fill.digest, stored.clone(), follow, self.counters.clone()))
    }
}

pub(super) fn vanished() -> Fault {
    Fault::Storage("the fetch of this blob was abandoned before it finished; ask again".into())
}
