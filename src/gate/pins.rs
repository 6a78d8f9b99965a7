//! Locks changed by somebody: on record before they hold, in force for the next pull.

use crate::audit::{self, Actor, Event, Log};
use crate::catalog::{Catalog, LockChange, LockChanged, LockError};

/// Why locks are not changed. None of them is.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PinError {
    /// The wish cannot be met, or the catalog failed.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It cannot be recorded, so it is not done.
    #[error("nothing was changed, because that could not be recorded: {0}")]
    Record(#[from] audit::Error),
}

impl PinError {
    /// Whether the answer is no, and nothing is broken.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Lock(LockError::Catalog(_)) | Self::Record(_))
    }
}

/// Changes locks, all or none, each as a `pin` event that is durable before the change is in force. The
/// answer has what was locked as wanted already, too: there `previous` and `digest` are the same.
pub async fn change_locks(
    catalog: &Catalog,
    log: &Log,
    changes: &[LockChange],
    actor: &Actor,
) -> Result<Vec<LockChanged>, PinError> {
    let record = |changed: Vec<LockChanged>| async move {
        let events = changed.into_iter().map(|LockChanged { name, tag, previous, digest }| Event::Pin {
            name,
            tag,
            previous,
            digest,
            actor: actor.clone(),
        });
        Ok(log.record_all(events.collect()).await?)
    };
    catalog.change_locks(changes, record).await
}
