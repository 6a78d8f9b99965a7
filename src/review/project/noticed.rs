//! What no request caused: kept as it is told.

use sqlx::sqlite::SqliteConnection;

use super::{Result, number};
use crate::review::event::Body;
use crate::review::rows::json;

pub(super) async fn drift(work: &mut SqliteConnection, seq: i64, body: &Body) -> Result<()> {
    let Some(image) = &body.image else { return Ok(()) };
    sqlx::query(
        "INSERT OR IGNORE INTO drift (seq, id, time, registry, repository, tag, locked, current) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(seq)
    .bind(&body.id)
    .bind(body.time())
    .bind(image.registry.as_deref().unwrap_or_default())
    .bind(image.repository.as_deref().unwrap_or_default())
    .bind(image.tag.as_deref().unwrap_or_default())
    .bind(&image.previous_digest)
    .bind(&image.digest)
    .execute(work)
    .await?;
    Ok(())
}

pub(super) async fn upstream(work: &mut SqliteConnection, seq: i64, body: &Body) -> Result<()> {
    let Some(upstream) = &body.upstream else { return Ok(()) };
    let image = body.image.as_ref();
    sqlx::query(
        "INSERT OR IGNORE INTO upstream (seq, id, time, registry, state, text, repository, digest) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(seq)
    .bind(&body.id)
    .bind(body.time())
    .bind(&upstream.registry)
    .bind(&upstream.state)
    .bind(&upstream.text)
    .bind(image.and_then(|image| image.repository.as_deref()))
    .bind(image.and_then(|image| image.digest.as_deref()))
    .execute(work)
    .await?;
    Ok(())
}

pub(super) async fn alert(work: &mut SqliteConnection, seq: i64, body: &Body) -> Result<()> {
    let Some(alert) = &body.alert else { return Ok(()) };
    sqlx::query(
        "INSERT OR IGNORE INTO alert (seq, id, time, rule, text, count, of, reference) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(seq)
    .bind(&body.id)
    .bind(body.time())
    .bind(&alert.rule)
    .bind(&alert.text)
    .bind(number(Some(alert.count)))
    .bind(&alert.of)
    .bind(body.subject.as_ref().map(|subject| &*subject.reference))
    .execute(work)
    .await?;
    Ok(())
}

pub(super) async fn exception(work: &mut SqliteConnection, body: &Body) -> Result<()> {
    let Some(exception) = &body.exception else { return Ok(()) };
    let (time, used) = (body.time(), exception.result == "used");
    sqlx::query(
        "INSERT INTO exception (id, image, waive, expires, result, changed, last_used, last_decision, used, \
         needed, unneeded) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (id) DO UPDATE SET image = excluded.image, waive = excluded.waive, \
         expires = COALESCE(excluded.expires, expires), result = COALESCE(excluded.result, result), \
         changed = COALESCE(excluded.changed, changed), \
         last_used = COALESCE(excluded.last_used, last_used), \
         last_decision = COALESCE(excluded.last_decision, last_decision), used = used + excluded.used, \
         needed = needed + excluded.needed, unneeded = unneeded + excluded.unneeded",
    )
    .bind(&exception.id)
    .bind(body.image.as_ref().map(|image| &*image.reference).unwrap_or_default())
    .bind(json(&exception.waive))
    .bind(&exception.expires)
    .bind((!used).then_some(&exception.result))
    .bind((!used).then_some(time))
    .bind(used.then_some(time))
    .bind(&exception.of)
    .bind(i64::from(used))
    .bind(i64::from(used && exception.needed == Some(true)))
    .bind(i64::from(used && exception.needed == Some(false)))
    .execute(work)
    .await?;
    Ok(())
}

pub(super) async fn recall(work: &mut SqliteConnection, body: &Body) -> Result<()> {
    let Some(recall) = &body.recall else { return Ok(()) };
    sqlx::query(
        "INSERT INTO recall (id, reason, names, replaced, result, first, changed) \
         VALUES ($1, $2, $3, $4, $5, $6, $6) \
         ON CONFLICT (id) DO UPDATE SET reason = excluded.reason, names = excluded.names, \
         replaced = excluded.replaced, result = excluded.result, changed = excluded.changed",
    )
    .bind(&recall.id)
    .bind(&recall.reason)
    .bind(json(&recall.names))
    .bind(&recall.replace)
    .bind(&recall.result)
    .bind(body.time())
    .execute(work)
    .await?;
    Ok(())
}
