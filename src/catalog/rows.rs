//! The statements, and the way from rows to values.

use std::collections::HashMap;

use jiff::Timestamp;
use sqlx::{SqliteConnection, SqlitePool};

use super::{Ancestor, Error};
use crate::oci::{Descriptor, Digest, Name, Role, Tag};

pub(super) fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Corrupt(format!("{text:?}")))
}

pub(super) async fn possess(
    work: &mut SqliteConnection,
    name: &Name,
    digest: &Digest,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query("INSERT OR IGNORE INTO possession (name, digest, first_seen) VALUES ($1, $2, $3)")
        .bind(name.to_string())
        .bind(digest.to_string())
        .bind(now.as_millisecond())
        .execute(work)
        .await?;
    Ok(())
}

pub(super) async fn possesses(readers: &SqlitePool, name: &Name, digest: &Digest) -> Result<bool, Error> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT 1 FROM possession WHERE name = $1 AND digest = $2")
        .bind(name.to_string())
        .bind(digest.to_string())
        .fetch_optional(readers)
        .await?;
    Ok(row.is_some())
}

pub(super) async fn insert_edge(
    work: &mut SqliteConnection,
    name: &Name,
    parent: &Digest,
    role: Role,
    child: &Descriptor,
) -> Result<(), Error> {
    let size = i64::try_from(child.size).map_err(|_| Error::Corrupt(format!("size {}", child.size)))?;
    sqlx::query(
        "INSERT OR IGNORE INTO edge (name, child, parent, role, media_type, size) VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(name.to_string())
    .bind(child.digest.to_string())
    .bind(parent.to_string())
    .bind(role.as_str())
    .bind(&child.media_type)
    .bind(size)
    .execute(work)
    .await?;
    Ok(())
}

pub(super) async fn insert_companion(
    work: &mut SqliteConnection,
    name: &Name,
    digest: &Digest,
    subject: &Digest,
) -> Result<(), Error> {
    sqlx::query("INSERT OR IGNORE INTO companion (name, digest, subject) VALUES ($1, $2, $3)")
        .bind(name.to_string())
        .bind(digest.to_string())
        .bind(subject.to_string())
        .execute(work)
        .await?;
    Ok(())
}

pub(super) async fn unexpanded(
    readers: &SqlitePool,
    name: &Name,
    limit: usize,
    now: i64,
) -> Result<Vec<Digest>, Error> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT DISTINCT child FROM edge e WHERE name = $1 AND role = 'child' AND NOT EXISTS \
         (SELECT 1 FROM possession p WHERE p.name = e.name AND p.digest = e.child) AND NOT EXISTS \
         (SELECT 1 FROM barren b WHERE b.name = e.name AND b.digest = e.child AND b.until > $3) LIMIT $2",
    )
    .bind(name.to_string())
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .bind(now)
    .fetch_all(readers)
    .await?;
    rows.iter().map(|(digest,)| parse(digest)).collect()
}

/// One row of [`lineage`]: digest, levels, media type and size of a part, tag.
type Row = (String, i64, Option<String>, Option<i64>, Option<String>);

pub(super) async fn lineage(
    readers: &SqlitePool,
    name: &Name,
    digest: &Digest,
    depth: i64,
) -> Result<Vec<Ancestor>, Error> {
    // The digest itself counts only where the repository holds it as a manifest; a parent always
    // does, and a subject is named by a manifest the repository holds. How the first edge describes
    // the digest travels up with it: what another manifest says of it belongs to another way. Tags
    // join the first row of each ancestor only. An index of indexes is the deepest that leads anywhere.
    let rows: Vec<Row> = sqlx::query_as(
        "WITH RECURSIVE up (digest, levels, depth, indexes, media_type, size) AS ( \
             SELECT $2, 0, 0, 0, NULL, NULL \
             UNION \
             SELECT e.parent, up.levels, up.depth + 1, up.indexes + (e.role = 'child'), \
                 CASE WHEN up.depth = 0 AND e.role <> 'child' THEN e.media_type ELSE up.media_type END, \
                 CASE WHEN up.depth = 0 AND e.role <> 'child' THEN e.size ELSE up.size END \
                 FROM up JOIN edge e ON e.name = $1 AND e.child = up.digest \
                 WHERE up.depth < $3 AND (e.role <> 'child' OR up.indexes < 2) \
             UNION \
             SELECT c.subject, up.levels + 1, up.depth + 1, 0, up.media_type, up.size FROM up \
                 JOIN companion c ON c.name = $1 AND c.digest = up.digest WHERE up.depth < $3 AND up.levels < 3 \
         ), part (digest, levels, depth, media_type, size) AS ( \
             SELECT digest, MIN(levels), MIN(depth), media_type, size FROM up GROUP BY digest, media_type, size \
         ), placed AS ( \
             SELECT *, ROW_NUMBER() OVER (PARTITION BY digest ORDER BY depth, levels, media_type, size) AS place \
             FROM part \
         ) \
         SELECT n.digest, n.levels, n.media_type, n.size, t.tag FROM placed n \
         LEFT JOIN sight s ON n.place = 1 AND s.name = $1 AND s.digest = n.digest \
         LEFT JOIN tag t ON t.name = $1 AND t.tag = s.tag \
             AND (s.served = 1 OR t.locked = n.digest OR (t.locked IS NULL AND t.current = n.digest)) \
         WHERE n.depth > 0 OR EXISTS \
             (SELECT 1 FROM possession p JOIN manifest m ON m.digest = p.digest \
              WHERE p.name = $1 AND p.digest = n.digest) \
         ORDER BY n.depth, n.digest, n.place, t.tag",
    )
    .bind(name.to_string())
    .bind(digest.to_string())
    .bind(depth)
    .fetch_all(readers)
    .await?;
    let mut ancestors: Vec<Ancestor> = Vec::new();
    let mut places: HashMap<Digest, usize> = HashMap::new();
    let mut last: Option<Part> = None;
    for (found, levels, media_type, size, tag) in rows {
        let found: Digest = parse(&found)?;
        let levels = u8::try_from(levels).unwrap_or(u8::MAX);
        let place = *places.entry(found).or_insert_with(|| {
            ancestors.push(Ancestor { digest: found, tags: Vec::new(), levels, parts: Vec::new() });
            ancestors.len() - 1
        });
        let Some(ancestor) = ancestors.get_mut(place) else { continue };
        ancestor.levels = ancestor.levels.min(levels);
        if let Some(tag) = tag {
            ancestor.tags.push(parse::<Tag>(&tag)?);
        }
        if let (Some(media_type), Some(size)) = (media_type, size) {
            let part = (place, levels, media_type, size);
            // The same row comes once for each tag.
            if last.as_ref() != Some(&part) {
                ancestor.parts.push((levels, described(digest, &part.2, size)?));
                last = Some(part);
            }
        }
    }
    Ok(ancestors)
}

/// Ancestor, levels, media type, size.
type Part = (usize, u8, String, i64);

fn described(digest: &Digest, media_type: &str, size: i64) -> Result<Descriptor, Error> {
    Ok(Descriptor {
        media_type: media_type.to_owned(),
        digest: *digest,
        size: u64::try_from(size).map_err(|_| Error::Corrupt(format!("size {size}")))?,
        urls: Vec::new(),
        platform: None,
        artifact_type: None,
        annotations: None,
    })
}
