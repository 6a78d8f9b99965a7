//! Where tags lead: what the upstream said, what was served first, and every digest in between.

use jiff::Timestamp;
use sqlx::Connection;

use super::rows::parse;
use super::{Catalog, Error};
use crate::oci::{Digest, Name, Tag};

/// A tag as the gateway knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TagRow {
    /// The digest it was first served as.
    pub locked: Option<Digest>,
    /// Where the upstream last said it leads; `None`: the upstream said that it is gone.
    pub current: Option<Digest>,
    /// When the upstream last answered.
    pub asked: Timestamp,
}

/// A tag that leads elsewhere than it was locked to, seen for the first time: to be put on record,
/// then acknowledged with [`Catalog::drift_recorded`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Moved {
    /// The repository.
    pub name: Name,
    /// The tag.
    pub tag: Tag,
    /// What it is locked to.
    pub old: Digest,
    /// Where it leads now; `None`: it is gone upstream.
    pub new: Option<Digest>,
}

/// How a tag that is gone stands in `sight`.
pub(super) const GONE: &str = "gone";

impl Catalog {
    /// What is known of a tag.
    pub async fn tag(&self, name: &Name, tag: &Tag) -> Result<Option<TagRow>, Error> {
        let row: Option<(Option<String>, Option<String>, i64)> =
            sqlx::query_as("SELECT locked, current, asked FROM tag WHERE name = $1 AND tag = $2")
                .bind(name.to_string())
                .bind(tag.as_str())
                .fetch_optional(&self.0.readers)
                .await?;
        let Some((locked, current, asked)) = row else { return Ok(None) };
        Ok(Some(TagRow {
            locked: locked.as_deref().map(parse).transpose()?,
            current: current.as_deref().map(parse).transpose()?,
            asked: Timestamp::from_millisecond(asked).map_err(|_| Error::Corrupt(format!("time {asked}")))?,
        }))
    }

    /// Notes what the upstream said of a tag just now, and returns the drift if that is a new one.
    pub async fn saw_tag(
        &self,
        name: &Name,
        tag: &Tag,
        current: Option<&Digest>,
    ) -> Result<Option<Moved>, Error> {
        let now = self.0.clock.now().as_millisecond();
        let text = current.map(ToString::to_string);
        let mut writer = self.writer().await?;
        let mut work = writer.begin_with("BEGIN IMMEDIATE").await?;
        // What it named before counts no longer as known without a break once it named another.
        let former: Option<(Option<String>,)> =
            sqlx::query_as("SELECT current FROM tag WHERE name = $1 AND tag = $2")
                .bind(name.to_string())
                .bind(tag.as_str())
                .fetch_optional(&mut *work)
                .await?;
        let unbroken = former.is_some_and(|(former,)| former == text);
        sqlx::query(
            "INSERT INTO tag (name, tag, current, asked) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (name, tag) DO UPDATE SET current = excluded.current, asked = excluded.asked",
        )
        .bind(name.to_string())
        .bind(tag.as_str())
        .bind(&text)
        .bind(now)
        .execute(&mut *work)
        .await?;
        let seen = text.as_deref().unwrap_or(GONE);
        sqlx::query(
            "INSERT INTO sight (name, tag, digest, first_seen, since, last) VALUES ($1, $2, $3, $4, $4, $4) \
             ON CONFLICT (name, tag, digest) DO UPDATE SET last = excluded.last, \
             since = CASE WHEN $5 THEN COALESCE(since, first_seen) ELSE excluded.since END",
        )
        .bind(name.to_string())
        .bind(tag.as_str())
        .bind(seen)
        .bind(now)
        .bind(unbroken)
        .execute(&mut *work)
        .await?;
        let (locked, recorded): (Option<String>, i64) = sqlx::query_as(
            "SELECT t.locked, s.recorded FROM tag t JOIN sight s ON s.name = t.name AND s.tag = t.tag \
             WHERE t.name = $1 AND t.tag = $2 AND s.digest = $3",
        )
        .bind(name.to_string())
        .bind(tag.as_str())
        .bind(seen)
        .fetch_one(&mut *work)
        .await?;
        work.commit().await?;
        drop(writer);
        self.touch(name);
        match locked {
            Some(old) if old != seen && recorded == 0 => Ok(Some(Moved {
                name: name.clone(),
                tag: tag.clone(),
                old: parse(&old)?,
                new: current.copied(),
            })),
            _ => Ok(None),
        }
    }

    /// Locks a tag to the digest it is about to be served as, and returns what it is locked to:
    /// another digest when somebody was faster. With `follow` the new digest replaces the lock.
    pub async fn lock_tag(
        &self,
        name: &Name,
        tag: &Tag,
        digest: &Digest,
        follow: bool,
    ) -> Result<Digest, Error> {
        let now = self.0.clock.now().as_millisecond();
        let text = digest.to_string();
        let mut writer = self.writer().await?;
        let mut work = writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "INSERT INTO tag (name, tag, locked, current, asked, locked_at, locked_by) \
             VALUES ($1, $2, $3, $3, $4, $4, 'served') ON CONFLICT (name, tag) DO UPDATE SET \
             locked_at = CASE WHEN ($5 AND locked IS NOT excluded.locked) OR locked IS NULL \
                 THEN excluded.locked_at ELSE locked_at END, \
             locked_by = CASE WHEN ($5 AND locked IS NOT excluded.locked) OR locked IS NULL \
                 THEN excluded.locked_by ELSE locked_by END, \
             locked = CASE WHEN $5 THEN excluded.locked ELSE COALESCE(locked, excluded.locked) END",
        )
        .bind(name.to_string())
        .bind(tag.as_str())
        .bind(&text)
        .bind(now)
        .bind(follow)
        .execute(&mut *work)
        .await?;
        let (locked,): (String,) = sqlx::query_as("SELECT locked FROM tag WHERE name = $1 AND tag = $2")
            .bind(name.to_string())
            .bind(tag.as_str())
            .fetch_one(&mut *work)
            .await?;
        if locked == text {
            sqlx::query(
                "INSERT INTO sight (name, tag, digest, first_seen, since, last, served, whence) \
                 VALUES ($1, $2, $3, $4, $4, $4, 1, 'served') ON CONFLICT (name, tag, digest) DO UPDATE SET served = 1",
            )
            .bind(name.to_string())
            .bind(tag.as_str())
            .bind(&text)
            .bind(now)
            .execute(&mut *work)
            .await?;
        }
        work.commit().await?;
        drop(writer);
        self.touch(name);
        parse(&locked)
    }

    /// Notes that a drift is on record, so that it is recorded once.
    pub async fn drift_recorded(&self, moved: &Moved) -> Result<(), Error> {
        let seen = moved.new.map_or_else(|| GONE.to_owned(), |digest| digest.to_string());
        let mut writer = self.writer().await?;
        sqlx::query("UPDATE sight SET recorded = 1 WHERE name = $1 AND tag = $2 AND digest = $3")
            .bind(moved.name.to_string())
            .bind(moved.tag.as_str())
            .bind(seen)
            .execute(&mut *writer)
            .await?;
        Ok(())
    }

    /// Whether a drift was acknowledged already.
    pub async fn is_drift_recorded(&self, moved: &Moved) -> Result<bool, Error> {
        let seen = moved.new.map_or_else(|| GONE.to_owned(), |digest| digest.to_string());
        let recorded: Option<(i64,)> =
            sqlx::query_as("SELECT recorded FROM sight WHERE name = $1 AND tag = $2 AND digest = $3")
                .bind(moved.name.to_string())
                .bind(moved.tag.as_str())
                .bind(seen)
                .fetch_optional(&self.0.readers)
                .await?;
        Ok(recorded.is_some_and(|(recorded,)| recorded != 0))
    }

    /// Drifts that were seen and are not on record, because the process ended in between.
    pub async fn unrecorded_drifts(&self) -> Result<Vec<Moved>, Error> {
        let rows: Vec<(String, String, String, String)> = sqlx::query_as(
            "SELECT s.name, s.tag, t.locked, s.digest FROM sight s JOIN tag t ON t.name = s.name AND t.tag = s.tag \
             WHERE t.locked IS NOT NULL AND s.digest <> t.locked AND s.served = 0 AND s.recorded = 0 \
             AND s.digest = COALESCE(t.current, 'gone')",
        )
        .fetch_all(&self.0.readers)
        .await?;
        rows.iter()
            .map(|(name, tag, old, new)| {
                Ok(Moved {
                    name: parse(name)?,
                    tag: parse(tag)?,
                    old: parse(old)?,
                    new: if new == GONE { None } else { Some(parse(new)?) },
                })
            })
            .collect()
    }

    /// The tags of a repository that were served here: what a refusal may suggest instead.
    pub async fn served_tags(&self, name: &Name) -> Result<Vec<Tag>, Error> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT tag FROM tag WHERE name = $1 AND locked IS NOT NULL ORDER BY tag LIMIT 1000",
        )
        .bind(name.to_string())
        .fetch_all(&self.0.readers)
        .await?;
        rows.iter().map(|(tag,)| parse(tag)).collect()
    }
}
