//! Locks as people see and change them, and every digest that tags had.

use jiff::Timestamp;
use sqlx::{Connection, SqliteConnection};

use super::images::time;
use super::rows::parse;
use super::{Catalog, Error};
use crate::oci::{Digest, Name, Tag};

/// Rows of one page of locks or tags at most.
const PAGE: i64 = 1000;

/// Whence a tag has a digest. The words are those of `pin list`, `pin history` and the admin listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whence {
    /// From a file of pins.
    Import,
    /// Somebody set or accepted it.
    Pin,
    /// It was served here first, and locked by that.
    Served,
    /// The upstream named it.
    Upstream,
}

impl Whence {
    const ALL: [Self; 4] = [Self::Import, Self::Pin, Self::Served, Self::Upstream];

    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Import => "import",
            Self::Pin => "pin",
            Self::Served => "served",
            Self::Upstream => "upstream",
        }
    }

    fn parse(word: Option<&str>, otherwise: Self) -> Self {
        Self::ALL.into_iter().find(|whence| Some(whence.as_str()) == word).unwrap_or(otherwise)
    }
}

/// A locked tag.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LockRow {
    /// The repository.
    pub name: Name,
    /// The tag.
    pub tag: Tag,
    /// What it is locked to.
    pub digest: Digest,
    /// Since when.
    pub since: Option<Timestamp>,
    /// By what.
    pub whence: Whence,
    /// Where it leads upstream by now, when that is elsewhere; `Some(None)`: it is gone there.
    pub moved: Option<Option<Digest>>,
}

/// A digest that a tag had.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HistoryRow {
    /// The digest; `None`: the upstream said that the tag is gone.
    pub digest: Option<Digest>,
    /// When it was first seen.
    pub first: Timestamp,
    /// When it was last confirmed by the upstream, or set.
    pub last: Timestamp,
    /// How it first came to the tag.
    pub whence: Whence,
    /// Whether it was served as that tag.
    pub served: bool,
    /// Whether the tag is locked to it now.
    pub locked: bool,
    /// Whether the upstream named it when last asked.
    pub current: bool,
}

/// A tag with what it is locked to and what the upstream last named.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct KnownTag {
    /// The tag.
    pub tag: Tag,
    /// What it is locked to.
    pub locked: Option<Digest>,
    /// When that was first seen under the tag.
    pub locked_first: Option<Timestamp>,
    /// What the upstream last named.
    pub current: Option<CurrentRow>,
    /// Whether that is the first digest the tag was ever seen at here.
    pub first: bool,
}

/// What the upstream last named as a tag.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CurrentRow {
    /// The digest.
    pub digest: Digest,
    /// When it was first seen under the tag.
    pub first: Timestamp,
    /// Since when the tag names it without a break.
    pub since: Timestamp,
    /// When the upstream last said so.
    pub last: Timestamp,
    /// Whether it was served as that tag.
    pub served: bool,
}

/// A change of locks that somebody wants.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum LockChange {
    /// Where the upstream leads by now becomes the lock.
    Accept {
        /// The repository.
        name: Name,
        /// The tag; without one, every tag of the repository that moved.
        tag: Option<Tag>,
        /// This digest, which the tag had at some time, instead of what it names now.
        digest: Option<Digest>,
    },
    /// The lock is forgotten; the next pull locks anew.
    Remove {
        /// The repository.
        name: Name,
        /// The tag.
        tag: Tag,
    },
    /// This digest becomes the lock, seen before or not.
    Set {
        /// The repository.
        name: Name,
        /// The tag.
        tag: Tag,
        /// The digest.
        digest: Digest,
        /// How it came: [`Whence::Pin`] or [`Whence::Import`].
        whence: Whence,
    },
}

/// A lock that is about to change, or that a change finds as it should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LockChanged {
    /// The repository.
    pub name: Name,
    /// The tag.
    pub tag: Tag,
    /// The lock before.
    pub previous: Option<Digest>,
    /// The lock after.
    pub digest: Option<Digest>,
}

/// Why locks are not changed. Either all changes are made or none.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LockError {
    /// The catalog failed.
    #[error(transparent)]
    Catalog(#[from] Error),
    /// There is nothing to accept.
    #[error(
        "{0} has not moved: what is locked is what the registry last said; `pullgate pin set` locks it to another digest"
    )]
    NotMoved(String),
    /// There is no lock.
    #[error("{0} is not locked; `pullgate pin list` shows what is")]
    NotLocked(String),
    /// A digest to be accepted was never seen.
    #[error(
        "{image} was never seen at {digest} here; `pullgate pin history` shows what it had, and `pullgate pin set` locks it to a digest that was not seen"
    )]
    NeverSeen {
        /// The tag.
        image: String,
        /// The digest.
        digest: Digest,
    },
}

impl Catalog {
    /// The locked tags in order of name and tag, a page of them behind this one.
    pub async fn locks(&self, after: Option<&(Name, Tag)>) -> Result<Vec<LockRow>, Error> {
        type Row = (String, String, String, Option<String>, i64, Option<i64>, Option<String>);
        let (name, tag) =
            after.map_or_else(Default::default, |(name, tag)| (name.to_string(), tag.to_string()));
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT t.name, t.tag, t.locked, t.current, t.asked, COALESCE(t.locked_at, s.first_seen), t.locked_by \
             FROM tag t LEFT JOIN sight s ON s.name = t.name AND s.tag = t.tag AND s.digest = t.locked \
             WHERE t.locked IS NOT NULL AND (t.name, t.tag) > ($1, $2) ORDER BY t.name, t.tag LIMIT $3",
        )
        .bind(name)
        .bind(tag)
        .bind(PAGE)
        .fetch_all(&self.0.readers)
        .await?;
        rows.into_iter()
            .map(|(name, tag, locked, current, asked, since, by)| {
                let digest: Digest = parse(&locked)?;
                let current: Option<Digest> = current.as_deref().map(parse).transpose()?;
                Ok(LockRow {
                    name: parse(&name)?,
                    tag: parse(&tag)?,
                    digest,
                    since: since.map(time).transpose()?,
                    whence: Whence::parse(by.as_deref(), Whence::Served),
                    moved: (asked > 0 && current != Some(digest)).then_some(current),
                })
            })
            .collect()
    }

    /// The tags of a repository that are known here, in order, behind this one and at most so many.
    pub async fn known_tags(
        &self,
        name: &Name,
        after: Option<&Tag>,
        limit: u16,
    ) -> Result<Vec<KnownTag>, Error> {
        type Row = (
            String,
            Option<String>,
            Option<i64>,
            Option<String>,
            Option<i64>,
            Option<i64>,
            Option<i64>,
            Option<i64>,
            bool,
        );
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT t.tag, t.locked, l.first_seen, t.current, c.first_seen, COALESCE(c.since, c.first_seen), \
             COALESCE(c.last, c.first_seen), c.served, \
             NOT EXISTS (SELECT 1 FROM sight o WHERE o.name = t.name AND o.tag = t.tag \
                 AND o.digest <> t.current AND o.digest <> 'gone' AND o.first_seen <= c.first_seen) \
             FROM tag t LEFT JOIN sight l ON l.name = t.name AND l.tag = t.tag AND l.digest = t.locked \
             LEFT JOIN sight c ON c.name = t.name AND c.tag = t.tag AND c.digest = t.current \
             WHERE t.name = $1 AND t.tag > $2 AND (t.locked IS NOT NULL OR t.current IS NOT NULL) \
             ORDER BY t.tag LIMIT $3",
        )
        .bind(name.to_string())
        .bind(after.map(Tag::as_str).unwrap_or_default())
        .bind(i64::from(limit).min(PAGE))
        .fetch_all(&self.0.readers)
        .await?;
        rows.into_iter()
            .map(|(tag, locked, locked_first, current, seen, since, last, served, first)| {
                let current = match (current, seen, since, last) {
                    (Some(digest), Some(seen), Some(since), Some(last)) => Some(CurrentRow {
                        digest: parse(&digest)?,
                        first: time(seen)?,
                        since: time(since)?,
                        last: time(last)?,
                        served: served == Some(1),
                    }),
                    _ => None,
                };
                Ok(KnownTag {
                    tag: parse(&tag)?,
                    locked: locked.as_deref().map(parse).transpose()?,
                    locked_first: locked_first.map(time).transpose()?,
                    current,
                    first,
                })
            })
            .collect()
    }

    /// Every digest that a tag had here or upstream, the latest first; the latest thousand of them.
    pub async fn tag_history(&self, name: &Name, tag: &Tag) -> Result<Vec<HistoryRow>, Error> {
        type Row = (String, i64, i64, Option<String>, i64, bool, bool);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT s.digest, s.first_seen, COALESCE(s.last, s.first_seen), s.whence, s.served, \
             COALESCE(t.locked = s.digest, 0), COALESCE(t.asked > 0 AND COALESCE(t.current, 'gone') = s.digest, 0) \
             FROM sight s LEFT JOIN tag t ON t.name = s.name AND t.tag = s.tag \
             WHERE s.name = $1 AND s.tag = $2 ORDER BY s.first_seen DESC, s.digest LIMIT $3",
        )
        .bind(name.to_string())
        .bind(tag.as_str())
        .bind(PAGE)
        .fetch_all(&self.0.readers)
        .await?;
        rows.into_iter()
            .map(|(digest, first, last, whence, served, locked, current)| {
                Ok(HistoryRow {
                    digest: if digest == super::tags::GONE { None } else { Some(parse(&digest)?) },
                    first: time(first)?,
                    last: time(last)?,
                    whence: Whence::parse(whence.as_deref(), Whence::Upstream),
                    served: served != 0,
                    locked,
                    current,
                })
            })
            .collect()
    }

    /// Changes locks, all or none. `record` is told what changes before that is committed, and when it
    /// fails nothing is. When the commit fails although it was told, it is told the way back, to the locks
    /// that hold: what it was told last is always so. What is locked already as it should be is answered,
    /// but neither recorded nor written.
    pub async fn change_locks<E, F>(
        &self,
        changes: &[LockChange],
        record: impl Fn(Vec<LockChanged>) -> F + Send + Sync,
    ) -> Result<Vec<LockChanged>, E>
    where
        E: From<LockError>,
        F: Future<Output = Result<(), E>> + Send,
    {
        let now = self.0.clock.now();
        let failed = |error: Error| E::from(LockError::Catalog(error));
        let mut writer = self.writer().await.map_err(failed)?;
        let mut work = writer.begin_with("BEGIN IMMEDIATE").await.map_err(|error| failed(error.into()))?;
        let mut done = Vec::new();
        for change in changes {
            done.extend(apply(&mut work, change, now).await.map_err(E::from)?);
        }
        let changed: Vec<LockChanged> =
            done.iter().filter(|one| one.previous != one.digest).cloned().collect();
        if changed.is_empty() {
            return Ok(done);
        }
        record(changed.clone()).await?;
        if let Err(error) = work.commit().await {
            // Nobody else changes a lock before the record says again what holds.
            let back = self.still(&changed).await;
            if !back.is_empty() && record(back).await.is_err() {
                tracing::error!(
                    "the record shows changes of locks that are not in force, and takes no correction"
                );
            }
            return Err(failed(error.into()));
        }
        drop(writer);
        for one in &changed {
            self.touch(&one.name);
        }
        Ok(done)
    }
}

impl Catalog {
    /// The way back from changes that may not have been committed: from what they wanted to what holds.
    async fn still(&self, changed: &[LockChanged]) -> Vec<LockChanged> {
        let mut back = Vec::new();
        for one in changed {
            let holds = match self.tag(&one.name, &one.tag).await {
                Ok(row) => row.and_then(|row| row.locked),
                Err(error) => {
                    tracing::error!(%error, name = %one.name, tag = %one.tag, "a lock cannot be read");
                    one.previous
                }
            };
            if holds != one.digest {
                back.push(LockChanged { previous: one.digest, digest: holds, ..one.clone() });
            }
        }
        back
    }
}

async fn apply(
    work: &mut SqliteConnection,
    change: &LockChange,
    now: Timestamp,
) -> Result<Vec<LockChanged>, LockError> {
    match change {
        LockChange::Accept { name, tag: Some(tag), digest } => {
            let (locked, current) = locked(work, name, tag).await?;
            let image = || format!("{name}:{tag}");
            let previous = locked.ok_or_else(|| LockError::NotLocked(image()))?;
            let accepted = match digest {
                Some(digest) if !sighted(work, name, tag, digest).await? => {
                    return Err(LockError::NeverSeen { image: image(), digest: *digest });
                }
                Some(digest) => *digest,
                None => current
                    .filter(|current| *current != previous)
                    .ok_or_else(|| LockError::NotMoved(image()))?,
            };
            Ok(vec![set(work, name, tag, Some(previous), accepted, Whence::Pin, now).await?])
        }
        LockChange::Accept { name, tag: None, digest: _ } => {
            let rows: Vec<(String, String, String)> = sqlx::query_as(
                "SELECT tag, locked, current FROM tag WHERE name = $1 AND locked <> current ORDER BY tag",
            )
            .bind(name.to_string())
            .fetch_all(&mut *work)
            .await
            .map_err(Error::from)?;
            if rows.is_empty() {
                return Err(LockError::NotMoved(name.to_string()));
            }
            let mut changed = Vec::new();
            for (tag, previous, digest) in rows {
                let (tag, previous, digest) = (parse(&tag)?, Some(parse(&previous)?), parse(&digest)?);
                changed.push(set(work, name, &tag, previous, digest, Whence::Pin, now).await?);
            }
            Ok(changed)
        }
        LockChange::Remove { name, tag } => {
            let (locked, _) = locked(work, name, tag).await?;
            let previous = locked.ok_or_else(|| LockError::NotLocked(format!("{name}:{tag}")))?;
            sqlx::query(
                "UPDATE tag SET locked = NULL, locked_at = NULL, locked_by = NULL WHERE name = $1 AND tag = $2",
            )
            .bind(name.to_string())
            .bind(tag.as_str())
            .execute(work)
            .await
            .map_err(Error::from)?;
            Ok(vec![LockChanged {
                name: name.clone(),
                tag: tag.clone(),
                previous: Some(previous),
                digest: None,
            }])
        }
        LockChange::Set { name, tag, digest, whence } => {
            let (previous, _) = locked(work, name, tag).await?;
            Ok(vec![set(work, name, tag, previous, *digest, *whence, now).await?])
        }
    }
}

/// What a tag is locked to, and what the upstream last said.
async fn locked(
    work: &mut SqliteConnection,
    name: &Name,
    tag: &Tag,
) -> Result<(Option<Digest>, Option<Digest>), Error> {
    let row: Option<(Option<String>, Option<String>)> =
        sqlx::query_as("SELECT locked, current FROM tag WHERE name = $1 AND tag = $2")
            .bind(name.to_string())
            .bind(tag.as_str())
            .fetch_optional(work)
            .await?;
    let (locked, current) = row.unwrap_or_default();
    Ok((locked.as_deref().map(parse).transpose()?, current.as_deref().map(parse).transpose()?))
}

async fn sighted(
    work: &mut SqliteConnection,
    name: &Name,
    tag: &Tag,
    digest: &Digest,
) -> Result<bool, Error> {
    let row: Option<(i64,)> =
        sqlx::query_as("SELECT 1 FROM sight WHERE name = $1 AND tag = $2 AND digest = $3")
            .bind(name.to_string())
            .bind(tag.as_str())
            .bind(digest.to_string())
            .fetch_optional(work)
            .await?;
    Ok(row.is_some())
}

async fn set(
    work: &mut SqliteConnection,
    name: &Name,
    tag: &Tag,
    previous: Option<Digest>,
    digest: Digest,
    whence: Whence,
    now: Timestamp,
) -> Result<LockChanged, Error> {
    let changed = LockChanged { name: name.clone(), tag: tag.clone(), previous, digest: Some(digest) };
    if previous == Some(digest) {
        return Ok(changed);
    }
    // A tag that nobody asked about yet counts as asked about long ago.
    sqlx::query(
        "INSERT INTO tag (name, tag, locked, asked, locked_at, locked_by) VALUES ($1, $2, $3, 0, $4, $5) \
         ON CONFLICT (name, tag) DO UPDATE SET \
         locked = excluded.locked, locked_at = excluded.locked_at, locked_by = excluded.locked_by",
    )
    .bind(name.to_string())
    .bind(tag.as_str())
    .bind(digest.to_string())
    .bind(now.as_millisecond())
    .bind(whence.as_str())
    .execute(&mut *work)
    .await?;
    // By its sight the tag leads to the digest; it was not served yet.
    sqlx::query(
        "INSERT INTO sight (name, tag, digest, first_seen, since, last, whence) VALUES ($1, $2, $3, $4, $4, $4, $5) \
         ON CONFLICT (name, tag, digest) DO NOTHING",
    )
    .bind(name.to_string())
    .bind(tag.as_str())
    .bind(digest.to_string())
    .bind(now.as_millisecond())
    .bind(whence.as_str())
    .execute(work)
    .await?;
    Ok(changed)
}
