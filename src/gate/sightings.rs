//! What was noticed without a request goes on record here: drifts, forged content, upstreams that
//! refuse us.

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::audit::{Event, Log};
use crate::catalog::{Catalog, Moved};
use crate::pull::Sighting;

/// Records sightings until `pull` is gone, or until the end was called and all that came before it
/// are recorded; first those that an earlier process saw and could not record any more.
pub async fn record_sightings(
    mut sightings: mpsc::Receiver<Sighting>,
    catalog: Catalog,
    log: Log,
    end: CancellationToken,
) {
    match catalog.unrecorded_drifts().await {
        Ok(drifts) => {
            for moved in drifts {
                record_drift(&moved, &catalog, &log).await;
            }
        }
        Err(error) => tracing::error!(%error, "drifts of an earlier run could not be read"),
    }
    loop {
        let sighting = tokio::select! {
            sighting = sightings.recv() => sighting,
            () = end.cancelled(), if !sightings.is_closed() => {
                sightings.close();
                continue;
            }
        };
        let Some(sighting) = sighting else { return };
        match sighting {
            Sighting::Denied { registry, name, fault } => {
                tracing::warn!(%registry, ?name, %fault, "an upstream refused access");
                let event = Event::Upstream { registry, name, digest: None, fault: Some(fault) };
                if let Err(error) = log.record(event).await {
                    tracing::error!(%error, "that an upstream refused access could not be recorded");
                }
            }
            Sighting::Forged { name, digest, fault } => {
                tracing::warn!(%name, %digest, %fault, "an upstream sent something else than was asked for");
                let event = Event::Upstream {
                    registry: name.registry().clone(),
                    name: Some(name),
                    digest: Some(digest),
                    fault: Some(fault),
                };
                if let Err(error) = log.record(event).await {
                    tracing::error!(%error, "a digest mismatch could not be recorded");
                }
            }
            Sighting::Moved(moved) => record_drift(&moved, &catalog, &log).await,
        }
    }
}

/// First on record, then acknowledged: a crash in between records it twice rather than never.
async fn record_drift(moved: &Moved, catalog: &Catalog, log: &Log) {
    // It may have been seen again before it was acknowledged.
    match catalog.is_drift_recorded(moved).await {
        Ok(true) => return,
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "a drift may be recorded again"),
    }
    let Moved { name, tag, old, new } = moved;
    tracing::warn!(%name, %tag, locked = %old, upstream = ?new, "a locked tag leads elsewhere upstream");
    let event = Event::Drift { name: name.clone(), tag: tag.clone(), locked: *old, current: *new };
    match log.record(event).await {
        Ok(_) => {
            if let Err(error) = catalog.drift_recorded(moved).await {
                tracing::error!(%error, "a recorded drift could not be acknowledged; it may be recorded again");
            }
        }
        Err(error) => {
            tracing::error!(%error, "a drift could not be recorded; it is tried again at the next start");
        }
    }
}
