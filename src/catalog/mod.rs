//! Facts: manifests, where tags lead, what leads to what, and who came by what.
//!
//! One SQLite file with one writer; the bytes of hot manifests and the possession of hot content are
//! kept in memory in front of it. It never judges: whether a fact permits anything is for `policy`.

mod announced;
mod images;
mod locks;
mod recalled;
mod rows;
mod tags;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use jiff::Timestamp;
use moka::sync::Cache;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection, SqlitePool};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

use crate::clock::Clock;
use crate::oci::{Descriptor, Digest, Fault, ImageConfig, Manifest, Name, Tag};

pub use announced::Announced;
pub use images::{SeenRow, SightRow};
pub use locks::{CurrentRow, HistoryRow, KnownTag, LockChange, LockChanged, LockError, LockRow, Whence};
pub use recalled::Holder;
pub use tags::{Moved, TagRow};

/// How many bytes of manifests are kept in memory, as they are and as they were read.
const HOT_MANIFESTS: u64 = 128 << 20;
/// How many (repository, digest) pairs are kept in memory.
const HOT_POSSESSIONS: u64 = 200_000;
/// How many image configs are kept in memory, as they were read.
const HOT_CONFIGS: u64 = 10_000;
/// Over how many counters the versions of repositories are spread.
const STRIPES: usize = 4096;
/// How far up from a digest its roots are looked for: index, platform manifest, blob, and companions.
const DEPTH: i64 = 8;

const SQLITE_FULL: &str = "13";
const PAGE_SIZE: u64 = 4096;
/// The least that a catalog may use, however small the store beside it is.
const QUOTA_MIN: u64 = 256 << 20;

/// How many bytes `catalog.db` may use beside a store of this size: a tenth, and 256 MiB at least.
pub fn quota(store_max: u64) -> u64 {
    (store_max / 10).max(QUOTA_MIN)
}

/// Why a fact could not be read or written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// There is none yet.
    #[error(
        "{0} does not exist: no gateway has run with this data folder; start one, or check [storage] path"
    )]
    Absent(String),
    /// A stored value is none that this version wrote.
    #[error(
        "the catalog holds something unreadable ({0}); restore it from a backup, or remove catalog.db to start anew"
    )]
    Corrupt(String),
    /// Its quota or its disk is full: what it knows goes on being served, and it learns nothing new.
    #[error(
        "the catalog is full: make room on its disk, or raise [storage] max_size, a tenth of which it may use; what it knows already goes on being served"
    )]
    Full,
    /// SQLite failed: file locked or damaged.
    #[error(
        "the catalog failed: {0}; check the disk that holds catalog.db, restore it from a backup, or move it away to start anew without tag locks"
    )]
    Sql(String),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error().and_then(|error| error.code()) {
            Some(code) if code == SQLITE_FULL => Self::Full,
            _ => Self::Sql(error.to_string()),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Storage(error.to_string().into())
    }
}

/// A manifest as it is served: the very bytes, and what they say.
#[derive(Debug)]
pub struct Stored {
    /// What it says.
    pub manifest: Arc<Manifest>,
    /// The bytes, as the upstream sent them.
    pub bytes: Bytes,
}

impl Stored {
    /// About what it holds in memory: the bytes, and what was read out of them in many small pieces.
    fn weight(&self) -> u32 {
        u32::try_from(self.bytes.len().saturating_mul(5).saturating_add(1024)).unwrap_or(u32::MAX)
    }
}

/// One manifest above a digest, or the digest itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ancestor {
    /// Its digest.
    pub digest: Digest,
    /// The tags that lead to it here (see [`Catalog::lineage`]).
    pub tags: Vec<Tag>,
    /// How many subject edges lie between it and the digest asked about, at least.
    pub levels: u8,
    /// How the manifests that contain the digest describe it, each as far as this ancestor leads to
    /// that manifest, with the subject edges on that way. Two manifests may describe it differently,
    /// and either may be wrong. Empty when it is contained as a child only.
    pub parts: Vec<(u8, Descriptor)>,
}

/// The facts. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Catalog(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    options: SqliteConnectOptions,
    /// None once closed, and where the catalog is only read.
    writer: Mutex<Option<SqliteConnection>>,
    readers: SqlitePool,
    manifests: Cache<Digest, Arc<Stored>>,
    possessions: Cache<(Name, Digest), ()>,
    configs: Cache<Digest, Arc<ImageConfig>>,
    /// A repository's version is that of its stripe: made-up names cost no memory.
    versions: Box<[Arc<AtomicU64>]>,
    stripes: RandomState,
}

impl Catalog {
    /// Opens or creates `catalog.db` in this folder. It grows to about `max_size` bytes; what does not
    /// fit is [`Error::Full`].
    pub async fn open(folder: &Path, max_size: u64, clock: Clock) -> Result<Self, Error> {
        let options = SqliteConnectOptions::new()
            .filename(folder.join("catalog.db"))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .page_size(u32::try_from(PAGE_SIZE).unwrap_or_default())
            .pragma("max_page_count", (max_size / PAGE_SIZE).max(1).to_string())
            .busy_timeout(std::time::Duration::from_secs(5))
            .disable_statement_logging();
        let mut writer = SqliteConnection::connect_with(&options).await?;
        sqlx::migrate!("src/catalog/migrations")
            .run(&mut writer)
            .await
            .map_err(|error| Error::Sql(error.to_string()))?;
        Self::assemble(Some(writer), options, clock).await
    }

    /// Opens the catalog in this folder to read it, also while a gateway writes it: nothing is created
    /// or changed, and whatever would write fails.
    pub async fn open_read_only(folder: &Path, clock: Clock) -> Result<Self, Error> {
        let path = folder.join("catalog.db");
        if rustix::fs::access(&path, rustix::fs::Access::EXISTS).is_err() {
            return Err(Error::Absent(path.display().to_string()));
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(std::time::Duration::from_secs(5))
            .disable_statement_logging();
        Self::assemble(None, options, clock).await
    }

    async fn assemble(
        writer: Option<SqliteConnection>,
        options: SqliteConnectOptions,
        clock: Clock,
    ) -> Result<Self, Error> {
        let readers = SqlitePoolOptions::new()
            .max_connections(2)
            .test_before_acquire(false)
            .connect_with(options.clone().read_only(true).create_if_missing(false))
            .await?;
        Ok(Self(Arc::new(Inner {
            clock,
            options,
            writer: Mutex::new(writer),
            readers,
            manifests: Cache::builder()
                .max_capacity(HOT_MANIFESTS)
                .weigher(|_, stored: &Arc<Stored>| stored.weight())
                .build(),
            possessions: Cache::new(HOT_POSSESSIONS),
            configs: Cache::new(HOT_CONFIGS),
            versions: (0..STRIPES).map(|_| Arc::default()).collect(),
            stripes: RandomState::new(),
        })))
    }

    /// A number that grows whenever a fact about this repository changes: a decision made at one
    /// version holds as long as the version does.
    pub fn version(&self, name: &Name) -> Arc<AtomicU64> {
        let Inner { versions, stripes, .. } = &*self.0;
        let stripe = usize::try_from(stripes.hash_one(name)).unwrap_or_default() % versions.len();
        versions[stripe].clone()
    }

    /// What was decided from facts about a repository before now is to be decided anew.
    pub fn touch(&self, name: &Name) {
        self.version(name).fetch_add(1, Ordering::Release);
    }

    /// The manifest of this digest, whoever brought it; who may have it is another question.
    pub async fn manifest(&self, digest: &Digest) -> Result<Option<Arc<Stored>>, Error> {
        if let Some(stored) = self.0.manifests.get(digest) {
            return Ok(Some(stored));
        }
        let row: Option<(String, Vec<u8>)> =
            sqlx::query_as("SELECT media_type, bytes FROM manifest WHERE digest = $1")
                .bind(digest.to_string())
                .fetch_optional(&self.0.readers)
                .await?;
        let Some((media_type, bytes)) = row else { return Ok(None) };
        // Verified again: what was edited on disk is not served.
        let manifest = Manifest::parse(&bytes, Some(&media_type), Some(digest))
            .map_err(|error| Error::Corrupt(format!("manifest {digest}: {error}")))?;
        let stored = Arc::new(Stored { manifest: Arc::new(manifest), bytes: bytes.into() });
        self.0.manifests.insert(*digest, stored.clone());
        Ok(Some(stored))
    }

    /// Keeps a verified manifest that this repository came by: bytes, edges, possession and what it
    /// is about, in one transaction.
    pub async fn keep_manifest(
        &self,
        name: &Name,
        manifest: Manifest,
        bytes: Bytes,
    ) -> Result<Arc<Stored>, Error> {
        let mut writer = self.writer().await?;
        let mut work = writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("INSERT OR IGNORE INTO manifest (digest, media_type, bytes) VALUES ($1, $2, $3)")
            .bind(manifest.digest.to_string())
            .bind(&manifest.media_type)
            .bind(bytes.as_ref())
            .execute(&mut *work)
            .await?;
        rows::possess(&mut work, name, &manifest.digest, self.0.clock.now()).await?;
        for (role, edge) in &manifest.edges {
            rows::insert_edge(&mut work, name, &manifest.digest, *role, edge).await?;
        }
        if let Some(subject) = &manifest.subject {
            rows::insert_companion(&mut work, name, &manifest.digest, &subject.digest).await?;
        }
        work.commit().await?;
        drop(writer);
        let stored = Arc::new(Stored { manifest: Arc::new(manifest), bytes });
        self.0.manifests.insert(stored.manifest.digest, stored.clone());
        self.0.possessions.insert((name.clone(), stored.manifest.digest), ());
        self.touch(name);
        Ok(stored)
    }

    /// Notes that these manifests are about another: a `sha256-…` tag or a referrers list says so. All
    /// of them, or none when that fails.
    pub async fn keep_companions(
        &self,
        name: &Name,
        digests: impl IntoIterator<Item = &Digest> + Send,
        subject: &Digest,
    ) -> Result<(), Error> {
        let digests: Vec<&Digest> = digests.into_iter().collect();
        if digests.is_empty() {
            return Ok(());
        }
        let mut writer = self.writer().await?;
        let mut work = writer.begin_with("BEGIN IMMEDIATE").await?;
        for digest in digests {
            rows::insert_companion(&mut work, name, digest, subject).await?;
        }
        work.commit().await?;
        drop(writer);
        self.touch(name);
        Ok(())
    }

    /// Notes that this repository itself came by this content.
    pub async fn possess(&self, name: &Name, digest: &Digest) -> Result<(), Error> {
        if self.0.possessions.contains_key(&(name.clone(), *digest)) {
            return Ok(());
        }
        let mut writer = self.writer().await?;
        rows::possess(&mut writer, name, digest, self.0.clock.now()).await?;
        drop(writer);
        self.0.possessions.insert((name.clone(), *digest), ());
        self.touch(name);
        Ok(())
    }

    /// Whether this repository itself came by this content.
    pub async fn possesses(&self, name: &Name, digest: &Digest) -> Result<bool, Error> {
        let key = (name.clone(), *digest);
        if self.0.possessions.get(&key).is_some() {
            return Ok(true);
        }
        let held = rows::possesses(&self.0.readers, name, digest).await?;
        if held {
            self.0.possessions.insert(key, ());
        }
        Ok(held)
    }

    /// What leads to a digest within a repository: the digest itself, where this repository holds it
    /// as a manifest, and everything above it, nearest first.
    ///
    /// A tag leads to a digest when it is locked to it, was served as it before, or is not locked
    /// and names it upstream.
    pub async fn lineage(&self, name: &Name, digest: &Digest) -> Result<Vec<Ancestor>, Error> {
        rows::lineage(&self.0.readers, name, digest, DEPTH).await
    }

    /// Children that indexes of this repository name and that it has not come by yet, at most `limit`:
    /// what they contain is unknown until they are fetched. Those found barren are left out.
    pub async fn unexpanded(&self, name: &Name, limit: usize) -> Result<Vec<Digest>, Error> {
        rows::unexpanded(&self.0.readers, name, limit, self.0.clock.now().as_millisecond()).await
    }

    /// Notes that a child cannot be fetched, so that it is not among the unexpanded until then.
    pub async fn keep_barren(&self, name: &Name, digest: &Digest, until: Timestamp) -> Result<(), Error> {
        let mut writer = self.writer().await?;
        sqlx::query(
            "INSERT INTO barren (name, digest, until) VALUES ($1, $2, $3) \
             ON CONFLICT (name, digest) DO UPDATE SET until = excluded.until",
        )
        .bind(name.to_string())
        .bind(digest.to_string())
        .bind(until.as_millisecond())
        .execute(&mut *writer)
        .await?;
        Ok(())
    }

    /// Closes the database: one tidy file is left, and whatever is asked or told from now on is an
    /// error.
    pub async fn close(&self) {
        self.0.readers.close().await;
        if let Some(writer) = self.0.writer.lock().await.take()
            && let Err(error) = writer.close().await
        {
            tracing::warn!(%error, "the catalog could not be closed tidily; the next start tidies up");
        }
    }

    /// The one connection that writes. When the disk or the quota is full SQLite ends a transaction by
    /// itself, which sqlx does not notice: such a connection begins no other, and is replaced.
    async fn writer(&self) -> Result<MappedMutexGuard<'_, SqliteConnection>, Error> {
        let writer = MutexGuard::try_map(self.0.writer.lock().await, Option::as_mut);
        let mut writer = writer.map_err(|_| sqlx::Error::PoolClosed)?;
        if writer.is_in_transaction() {
            // A transaction that was dropped is rolled back behind our back: by now it is.
            writer.ping().await?;
        }
        if writer.is_in_transaction() {
            *writer = SqliteConnection::connect_with(&self.0.options).await?;
        }
        Ok(writer)
    }
}

#[cfg(test)]
mod tests;
