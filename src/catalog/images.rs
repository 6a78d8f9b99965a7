//! What rules ask of images: what their configs say, since when they are known, what leads to them
//! anywhere, and what exceptions are bound to.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use sqlx::Connection;

use super::rows::parse;
use super::{Catalog, DEPTH, Error};
use crate::oci::{Digest, ImageConfig, Name, Tag, is_config_type};

/// A digest under a tag, or what leads to the digest.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct SightRow {
    /// The tag.
    pub tag: Tag,
    /// Whether it is the first digest this tag was ever seen at here.
    pub first: bool,
    /// Whether it was served as that tag, or somebody locked the tag to it.
    pub served: bool,
    /// Since when the tag names it without a break.
    pub since: Timestamp,
    /// When the upstream last said so.
    pub last: Timestamp,
    /// Whether the tag named it when the upstream was last asked.
    pub current: bool,
}

/// Since when a digest is known to a repository.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SeenRow {
    /// When the repository first came by it, or by a manifest above it.
    pub first: Option<Timestamp>,
    /// The tags that named it or a manifest above it.
    pub sights: Vec<SightRow>,
}

pub(super) fn time(millis: i64) -> Result<Timestamp, Error> {
    Timestamp::from_millisecond(millis).map_err(|_| Error::Corrupt(format!("time {millis}")))
}

impl Catalog {
    /// What an image config says, where it was read before.
    pub async fn config(&self, digest: &Digest) -> Result<Option<Arc<ImageConfig>>, Error> {
        if let Some(config) = self.0.configs.get(digest) {
            return Ok(Some(config));
        }
        let row: Option<(String,)> = sqlx::query_as("SELECT facts FROM config WHERE digest = $1")
            .bind(digest.to_string())
            .fetch_optional(&self.0.readers)
            .await?;
        let Some((facts,)) = row else { return Ok(None) };
        let config: ImageConfig = serde_json::from_str(&facts)
            .map_err(|error| Error::Corrupt(format!("config {digest}: {error}")))?;
        let config = Arc::new(config);
        self.0.configs.insert(*digest, config.clone());
        Ok(Some(config))
    }

    /// Whether a manifest of any repository names this blob as an image's config, and what it says was
    /// not read yet.
    pub async fn is_unread_config(&self, digest: &Digest) -> Result<bool, Error> {
        if self.0.configs.contains_key(digest) {
            return Ok(false);
        }
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT DISTINCT media_type FROM edge WHERE child = $1 AND role = 'config' \
             AND NOT EXISTS (SELECT 1 FROM config WHERE digest = $1) LIMIT 100",
        )
        .bind(digest.to_string())
        .fetch_all(&self.0.readers)
        .await?;
        Ok(rows.iter().any(|(media_type,)| is_config_type(media_type)))
    }

    /// Keeps what an image config says; its bytes are the store's.
    pub async fn keep_config(&self, digest: &Digest, config: ImageConfig) -> Result<Arc<ImageConfig>, Error> {
        let facts = serde_json::to_string(&config).map_err(|error| Error::Corrupt(error.to_string()))?;
        let mut writer = self.writer().await?;
        sqlx::query("INSERT OR IGNORE INTO config (digest, facts) VALUES ($1, $2)")
            .bind(digest.to_string())
            .bind(facts)
            .execute(&mut *writer)
            .await?;
        drop(writer);
        let config = Arc::new(config);
        self.0.configs.insert(*digest, config.clone());
        Ok(config)
    }

    /// When this repository first came by a content here.
    pub async fn first_seen(&self, name: &Name, digest: &Digest) -> Result<Option<Timestamp>, Error> {
        let row: Option<(Option<i64>,)> =
            sqlx::query_as("SELECT first_seen FROM possession WHERE name = $1 AND digest = $2")
                .bind(name.to_string())
                .bind(digest.to_string())
                .fetch_optional(&self.0.readers)
                .await?;
        row.and_then(|(millis,)| millis).map(time).transpose()
    }

    /// Since when a digest is known here, by itself and by the manifests above it; companions do not
    /// count for what they are about.
    pub async fn seen(&self, name: &Name, digest: &Digest) -> Result<SeenRow, Error> {
        const UP: &str = "WITH RECURSIVE up (digest, depth) AS ( \
             SELECT $2, 0 UNION \
             SELECT e.parent, up.depth + 1 FROM up JOIN edge e ON e.name = $1 AND e.child = up.digest \
             WHERE up.depth < $3)";
        let first: (Option<i64>,) = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{UP} SELECT MIN(p.first_seen) FROM up JOIN possession p ON p.name = $1 AND p.digest = up.digest \
             JOIN manifest m ON m.digest = up.digest"
        )))
        .bind(name.to_string())
        .bind(digest.to_string())
        .bind(DEPTH)
        .fetch_one(&self.0.readers)
        .await?;
        let rows: Vec<(String, i64, i64, i64, bool, bool)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{UP} SELECT s.tag, COALESCE(s.since, s.first_seen), COALESCE(s.last, s.first_seen), \
             (s.served = 1 OR COALESCE(t.locked = s.digest, 0)), \
             NOT EXISTS (SELECT 1 FROM sight o WHERE o.name = s.name AND o.tag = s.tag \
                 AND o.digest <> s.digest AND o.digest <> 'gone' AND o.first_seen <= s.first_seen), \
             COALESCE(t.current = s.digest, 0) \
             FROM (SELECT DISTINCT digest FROM up) u \
             JOIN sight s ON s.name = $1 AND s.digest = u.digest \
             LEFT JOIN tag t ON t.name = s.name AND t.tag = s.tag ORDER BY s.tag, s.digest LIMIT 1000"
        )))
        .bind(name.to_string())
        .bind(digest.to_string())
        .bind(DEPTH)
        .fetch_all(&self.0.readers)
        .await?;
        let sights = rows
            .into_iter()
            .map(|(tag, since, last, served, first, current)| {
                Ok(SightRow {
                    tag: parse(&tag)?,
                    first,
                    served: served != 0,
                    since: time(since)?,
                    last: time(last)?,
                    current,
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(SeenRow { first: first.0.map(time).transpose()?, sights })
    }

    /// The manifests above a digest in any repository, companions aside.
    pub async fn above(&self, digest: &Digest) -> Result<Vec<Digest>, Error> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "WITH RECURSIVE up (digest, depth) AS ( \
                 SELECT $1, 0 UNION \
                 SELECT e.parent, up.depth + 1 FROM up JOIN edge e ON e.child = up.digest WHERE up.depth < $2) \
             SELECT DISTINCT digest FROM up WHERE depth > 0",
        )
        .bind(digest.to_string())
        .bind(DEPTH)
        .fetch_all(&self.0.readers)
        .await?;
        rows.iter().map(|(digest,)| parse(digest)).collect()
    }

    /// Every digest that a tag was seen at here.
    pub async fn history(&self, name: &Name, tag: &Tag) -> Result<Vec<Digest>, Error> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT digest FROM sight WHERE name = $1 AND tag = $2 AND digest <> 'gone' \
             UNION SELECT locked FROM tag WHERE name = $1 AND tag = $2 AND locked IS NOT NULL",
        )
        .bind(name.to_string())
        .bind(tag.as_str())
        .fetch_all(&self.0.readers)
        .await?;
        rows.iter().map(|(digest,)| parse(digest)).collect()
    }

    /// What exceptions on tags of this repository are bound to, by the exception's id.
    pub async fn bindings(&self, name: &Name) -> Result<BTreeMap<Arc<str>, Digest>, Error> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT exception, digest FROM binding WHERE name = $1")
                .bind(name.to_string())
                .fetch_all(&self.0.readers)
                .await?;
        rows.into_iter().map(|(exception, digest)| Ok((exception.into(), parse(&digest)?))).collect()
    }

    /// Binds exceptions on a tag to the digest they are about to be used for. The answer is whether
    /// all of them are bound to it now: somebody may have been faster.
    pub async fn bind(
        &self,
        name: &Name,
        tag: &Tag,
        exceptions: &[Arc<str>],
        digest: &Digest,
    ) -> Result<bool, Error> {
        let mut writer = self.writer().await?;
        let mut work = writer.begin_with("BEGIN IMMEDIATE").await?;
        let mut bound = true;
        for exception in exceptions {
            sqlx::query(
                "INSERT OR IGNORE INTO binding (name, exception, tag, digest) VALUES ($1, $2, $3, $4)",
            )
            .bind(name.to_string())
            .bind(&**exception)
            .bind(tag.as_str())
            .bind(digest.to_string())
            .execute(&mut *work)
            .await?;
            let (found,): (String,) =
                sqlx::query_as("SELECT digest FROM binding WHERE name = $1 AND exception = $2 AND tag = $3")
                    .bind(name.to_string())
                    .bind(&**exception)
                    .bind(tag.as_str())
                    .fetch_one(&mut *work)
                    .await?;
            bound &= found == digest.to_string();
        }
        work.commit().await?;
        drop(writer);
        self.touch(name);
        Ok(bound)
    }
}
