//! The statements, and the way from rows to values.

use std::collections::HashMap;

use sqlx::{SqliteConnection, SqlitePool};

use super::{Ancestor, Error, Lineage};
use crate::oci::{Descriptor, Digest, Name, Role, Tag};

pub(super) fn parse<T: std::str::FromStr>(text: &str) -> Result<T, Error> {
    text.parse().map_err(|_| Error::Corrupt(format!("{text:?}")))
}

pub(super) async fn possess(work: &mut SqliteConnection, name: &Name, digest: &Digest) -> Result<(), Error> {
    sqlx::query("INSERT OR IGNORE INTO possession (name, digest) VALUES ($1, $2)")
        .bind(name.to_string())
        .bind(digest.to_string())
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
) -> Result<Vec<Digest>, Error> {
    let rows: Vec<(String,)> = sqlx::query_as(
        "SELECT DISTINCT child FROM edge e WHERE name = $1 AND role = 'child' AND NOT EXISTS \
         (SELECT 1 FROM possession p WHERE p.name = e.name AND p.digest = e.child) LIMIT $2",
    )
    .bind(name.to_string())
    .bind(i64::try_from(limit).unwrap_or(i64::MAX))
    .fetch_all(readers)
    .await?;
    rows.iter().map(|(digest,)| parse(digest)).collect()
}

pub(super) async fn lineage(
    readers: &SqlitePool,
    name: &Name,
    digest: &Digest,
    depth: i64,
) -> Result<Lineage, Error> {
    let target: Option<(String, i64)> = sqlx::query_as(
        "SELECT media_type, size FROM edge WHERE name = $1 AND child = $2 AND role <> 'child' LIMIT 1",
    )
    .bind(name.to_string())
    .bind(digest.to_string())
    .fetch_optional(readers)
    .await?;
    let target = match target {
        None => None,
        Some((media_type, size)) => Some(Descriptor {
            media_type,
            digest: *digest,
            size: u64::try_from(size).map_err(|_| Error::Corrupt(format!("size {size}")))?,
            urls: Vec::new(),
            platform: None,
            artifact_type: None,
            annotations: None,
        }),
    };
    // The digest itself counts only where the repository holds it as a manifest; a parent always
    // does, and a subject is named by a manifest the repository holds.
    let rows: Vec<(String, i64, Option<String>)> = sqlx::query_as(
        "WITH RECURSIVE up (digest, levels, depth) AS ( \
             SELECT $2, 0, 0 \
             UNION \
             SELECT e.parent, up.levels, up.depth + 1 FROM up JOIN edge e ON e.name = $1 AND e.child = up.digest \
                 WHERE up.depth < $3 \
             UNION \
             SELECT c.subject, up.levels + 1, up.depth + 1 FROM up \
                 JOIN companion c ON c.name = $1 AND c.digest = up.digest WHERE up.depth < $3 AND up.levels < 3 \
         ), nearest (digest, levels, depth) AS ( \
             SELECT digest, MIN(levels), MIN(depth) FROM up GROUP BY digest \
         ) \
         SELECT n.digest, n.levels, t.tag FROM nearest n \
         LEFT JOIN sight s ON s.name = $1 AND s.digest = n.digest \
         LEFT JOIN tag t ON t.name = $1 AND t.tag = s.tag \
             AND (s.served = 1 OR t.locked = n.digest OR (t.locked IS NULL AND t.current = n.digest)) \
         WHERE n.depth > 0 OR EXISTS \
             (SELECT 1 FROM possession p JOIN manifest m ON m.digest = p.digest \
              WHERE p.name = $1 AND p.digest = n.digest) \
         ORDER BY n.depth, n.digest, t.tag",
    )
    .bind(name.to_string())
    .bind(digest.to_string())
    .bind(depth)
    .fetch_all(readers)
    .await?;
    let mut ancestors: Vec<Ancestor> = Vec::new();
    let mut places: HashMap<Digest, usize> = HashMap::new();
    for (found, levels, tag) in rows {
        let found: Digest = parse(&found)?;
        let place = *places.entry(found).or_insert_with(|| {
            ancestors.push(Ancestor {
                digest: found,
                tags: Vec::new(),
                levels: u8::try_from(levels).unwrap_or(u8::MAX),
            });
            ancestors.len() - 1
        });
        if let (Some(ancestor), Some(tag)) = (ancestors.get_mut(place), tag) {
            ancestor.tags.push(parse::<Tag>(&tag)?);
        }
    }
    Ok(Lineage { target, ancestors })
}
