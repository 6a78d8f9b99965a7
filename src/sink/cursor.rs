//! How far a receiver has taken the record.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::settings::{Settings, Start};
use crate::audit::Log;

/// The last event that was dealt with. The id tells a record that was replaced from the one it was
/// written for.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub(super) struct Place {
    pub(super) seq: i64,
    pub(super) id: String,
}

/// A place that survives: one small file, replaced in one step.
#[derive(Debug)]
pub(super) struct Cursor {
    path: PathBuf,
    place: Place,
    saved: Place,
}

impl Cursor {
    /// Reads the cursor of a sink, or makes it. A damaged one, or one of another record, begins anew
    /// at the first event: twice is better than never.
    pub(super) async fn open(folder: PathBuf, settings: &Settings, log: &Log) -> Result<Self, Error> {
        let path = folder.join(format!("{}.cursor", settings.name));
        let fail = |error: io::Error| Error::File {
            name: settings.name.clone(),
            path: path.clone(),
            detail: error.to_string(),
        };
        fs::create_dir_all(&folder).map_err(fail)?;
        let place = match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Place>(&bytes) {
                Ok(place) => checked(place, &settings.name, log).await?,
                Err(error) => {
                    tracing::warn!(
                        sink = settings.name,
                        "its cursor {} cannot be read ({error}); it begins with the first event on record",
                        path.display()
                    );
                    Place::default()
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => match settings.from {
                Start::Beginning => Place::default(),
                Start::Now => last(log).await?,
            },
            Err(error) => return Err(fail(error)),
        };
        write(&path, &place).map_err(fail)?;
        Ok(Self { path, saved: place.clone(), place })
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Moves on. What is not saved is seen again after a crash.
    pub(super) fn pass(&mut self, place: Place) {
        self.place = place;
    }

    /// How many events a crash would show again.
    pub(super) fn unsaved(&self) -> i64 {
        self.place.seq.saturating_sub(self.saved.seq)
    }

    /// Durable on return.
    pub(super) async fn save(&mut self) -> io::Result<()> {
        if self.place == self.saved {
            return Ok(());
        }
        let (path, place) = (self.path.clone(), self.place.clone());
        let written = tokio::task::spawn_blocking(move || write(&path, &place).map(|()| place));
        self.saved = written.await.map_err(io::Error::other)??;
        Ok(())
    }
}

async fn last(log: &Log) -> Result<Place, Error> {
    let seq = log.reader().last().await?;
    place_at(seq, log).await.map(Option::unwrap_or_default)
}

async fn place_at(seq: i64, log: &Log) -> Result<Option<Place>, Error> {
    let found = log.reader().after(seq.saturating_sub(1), 1).await?;
    Ok(found.first().filter(|event| event.seq == seq).map(|event| Place { seq, id: id_of(&event.body) }))
}

/// The place, if it is one of this record.
async fn checked(place: Place, name: &str, log: &Log) -> Result<Place, Error> {
    let last = log.reader().last().await?;
    let is_ours = match place_at(place.seq, log).await? {
        Some(found) => found.id == place.id,
        // Retention may have removed it.
        None => place.seq <= last,
    };
    if is_ours {
        return Ok(place);
    }
    tracing::warn!(
        sink = name,
        "the record is not the one its cursor was written for; it begins with the first event on record"
    );
    Ok(Place::default())
}

pub(super) fn id_of(body: &str) -> String {
    #[derive(Deserialize)]
    struct Id {
        #[serde(default)]
        id: String,
    }
    serde_json::from_str::<Id>(body).map(|event| event.id).unwrap_or_default()
}

fn write(path: &Path, place: &Place) -> io::Result<()> {
    let new = path.with_extension("cursor.new");
    let mut file = File::create(&new)?;
    let mut text = serde_json::to_vec(place)?;
    text.push(b'\n');
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}
