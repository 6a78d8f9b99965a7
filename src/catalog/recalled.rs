//! What contains something, in any repository: the reach of a recall.

use std::collections::BTreeSet;

use super::rows::parse;
use super::{Catalog, DEPTH, Error};
use crate::oci::{Digest, Name, Tag};

/// Manifests that one question answers with at most.
const MAX: i64 = 10_000;

/// A manifest in a repository, and the tags that led to it there.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Holder {
    /// The repository.
    pub name: Name,
    /// The manifest or index.
    pub digest: Digest,
    /// Its media type; none where only its digest was seen here.
    pub media_type: Option<String>,
    /// Every tag that ever named it here or upstream.
    pub tags: Vec<Tag>,
}

impl Catalog {
    /// The manifests and indexes that are, contain, or are contained as platform manifests in, this
    /// content, in any repository.
    pub async fn holders(&self, digest: &Digest) -> Result<Vec<Holder>, Error> {
        let rows: Vec<(String, String, Option<String>, Option<String>)> = sqlx::query_as(
            "WITH RECURSIVE up (name, digest, depth) AS ( \
                 SELECT name, digest, 0 FROM possession WHERE digest = $1 \
                 UNION SELECT name, digest, 0 FROM sight WHERE digest = $1 \
                 UNION SELECT name, parent, 1 FROM edge WHERE child = $1 \
                 UNION SELECT e.name, e.parent, up.depth + 1 FROM up \
                     JOIN edge e ON e.name = up.name AND e.child = up.digest WHERE up.depth < $2 \
             ), reach (name, digest) AS ( \
                 SELECT name, digest FROM up \
                 UNION SELECT name, child FROM edge WHERE parent = $1 AND role = 'child') \
             SELECT r.name, r.digest, m.media_type, s.tag FROM reach r \
             LEFT JOIN manifest m ON m.digest = r.digest \
             LEFT JOIN sight s ON s.name = r.name AND s.digest = r.digest \
             WHERE m.digest IS NOT NULL OR s.tag IS NOT NULL ORDER BY r.name, r.digest, s.tag LIMIT $3",
        )
        .bind(digest.to_string())
        .bind(DEPTH)
        .bind(MAX)
        .fetch_all(&self.0.readers)
        .await?;
        let mut holders: Vec<Holder> = Vec::new();
        for (name, digest, media_type, tag) in rows {
            let (name, digest): (Name, Digest) = (parse(&name)?, parse(&digest)?);
            let tag: Option<Tag> = tag.as_deref().map(parse).transpose()?;
            match holders.last_mut() {
                Some(last) if last.name == name && last.digest == digest => last.tags.extend(tag),
                _ => holders.push(Holder { name, digest, media_type, tags: tag.into_iter().collect() }),
            }
        }
        Ok(holders)
    }

    /// Those of these digests under which no manifest is kept, whoever brought it.
    pub async fn lacking(&self, digests: &[Digest]) -> Result<Vec<Digest>, Error> {
        if digests.is_empty() {
            return Ok(Vec::new());
        }
        let texts: Vec<String> = digests.iter().map(Digest::to_string).collect();
        let texts = serde_json::to_string(&texts).map_err(|error| Error::Corrupt(error.to_string()))?;
        let rows: Vec<(String,)> =
            sqlx::query_as("SELECT digest FROM manifest WHERE digest IN (SELECT value FROM json_each($1))")
                .bind(texts)
                .fetch_all(&self.0.readers)
                .await?;
        let kept = rows.iter().map(|(digest,)| parse(digest)).collect::<Result<BTreeSet<Digest>, _>>()?;
        Ok(digests.iter().filter(|digest| !kept.contains(digest)).copied().collect())
    }

    /// The image configs that name this uncompressed layer.
    pub async fn configs_with(&self, diff_id: &Digest) -> Result<Vec<Digest>, Error> {
        let rows: Vec<(String,)> =
            sqlx::query_as("SELECT digest FROM config WHERE instr(facts, $1) > 0 LIMIT $2")
                .bind(diff_id.to_string())
                .bind(MAX)
                .fetch_all(&self.0.readers)
                .await?;
        rows.iter().map(|(digest,)| parse(digest)).collect()
    }

    /// Every manifest that a repository came by, and every digest its tags had.
    pub async fn contents_of(&self, name: &Name) -> Result<BTreeSet<Digest>, Error> {
        let rows: Vec<(String,)> = sqlx::query_as(
            "SELECT p.digest FROM possession p JOIN manifest m ON m.digest = p.digest WHERE p.name = $1 \
             UNION SELECT digest FROM sight WHERE name = $1 AND digest <> 'gone' LIMIT $2",
        )
        .bind(name.to_string())
        .bind(MAX)
        .fetch_all(&self.0.readers)
        .await?;
        rows.iter().map(|(digest,)| parse(digest)).collect()
    }
}
