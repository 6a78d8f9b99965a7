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

/// Changes locks, all or none, each as a `pin` event that is durable before the change is in force; when
/// it cannot be put in force then, another event leads back to what holds. The answer has what was locked as wanted already, too: there `previous` and `digest` are the same.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Filter, OnFull, Settings};
    use crate::catalog::Whence;
    use crate::clock::Clock;
    use crate::oci::Digest;

    #[tokio::test]
    async fn a_change_that_is_recorded_and_then_cannot_be_committed_is_taken_back_in_the_record() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual("2026-11-23T08:00:00Z".parse().unwrap());
        let settings = Settings {
            path: folder.path().to_owned(),
            max_size: 64 << 20,
            on_full: OnFull::Serve,
            refusals_per_minute: 60,
        };
        let log = Log::open(settings, clock.clone()).await.unwrap();
        let catalog = Catalog::open(folder.path(), 64 << 20, clock).await.unwrap();
        let actor = Actor { name: "somebody".to_owned(), via: "cli".to_owned() };
        let set = |digest: &[u8]| LockChange::Set {
            name: "docker.io/acme/app".parse().unwrap(),
            tag: "1.0.0".parse().unwrap(),
            digest: Digest::sha256(digest),
            whence: Whence::Pin,
        };
        change_locks(&catalog, &log, &[set(b"one")], &actor).await.unwrap();

        // A constraint that is looked at when a transaction is committed, and not before.
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("catalog.db"));
        let mut fault = sqlx::ConnectOptions::connect(&options).await.unwrap();
        for statement in [
            "CREATE TABLE nowhere (id INTEGER PRIMARY KEY)",
            "CREATE TABLE trap (id INTEGER REFERENCES nowhere (id) DEFERRABLE INITIALLY DEFERRED)",
            "CREATE TRIGGER snap AFTER UPDATE ON tag BEGIN INSERT INTO trap (id) VALUES (1); END",
        ] {
            sqlx::query(statement).execute(&mut fault).await.unwrap();
        }
        let error = change_locks(&catalog, &log, &[set(b"two")], &actor).await.unwrap_err();
        assert!(matches!(error, PinError::Lock(LockError::Catalog(_))), "{error}");

        sqlx::query("DROP TRIGGER snap").execute(&mut fault).await.unwrap();
        change_locks(&catalog, &log, &[set(b"three")], &actor).await.unwrap();
        let mut entries = log.reader().entries(Filter::default());
        let mut told = Vec::new();
        while let Some(entry) = entries.next().await.unwrap() {
            let digest = |key| entry.text(&["image", key]).map(ToOwned::to_owned);
            told.push((digest("previous_digest"), digest("digest")));
        }
        let [one, two, three] =
            [b"one".as_slice(), b"two", b"three"].map(|bytes| Some(Digest::sha256(bytes).to_string()));
        let expected = [(None, one.clone()), (one.clone(), two.clone()), (two, one.clone()), (one, three)];
        assert_eq!(told, expected);
    }
}
