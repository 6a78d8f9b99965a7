//! What is left when the database can take no more: a reserve to let go of, and counters in a file
//! whose blocks are there already.
//!
//! The counter file is text, one slot of 256 bytes a line, so that an operator can read it with
//! `cat`. A slot never crosses a disk sector: a power cut leaves the old or the new one.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::policy::Code;

/// Bytes of one slot.
const SLOT: usize = 256;
/// So many pairs of client and reason can be counted.
const SLOTS: usize = 256;

/// A file whose only purpose is to be deleted when the disk or the quota is full.
#[derive(Debug)]
pub(crate) struct Reserve {
    path: PathBuf,
    size: u64,
    held: bool,
}

impl Reserve {
    /// Takes the space, if it can be had.
    pub(crate) fn take(path: PathBuf, size: u64) -> Self {
        let mut reserve = Self { path, size, held: false };
        reserve.hold();
        reserve
    }

    /// Takes the space again, once there is plenty: what was just let go of is not taken back.
    pub(crate) fn retake(&mut self) {
        let free = rustix::fs::statvfs(self.path.parent().unwrap_or(Path::new(".")))
            .map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        if !self.held && free >= self.size.saturating_mul(4) {
            self.hold();
        }
    }

    /// Whether there is something to let go of.
    pub(crate) fn is_held(&self) -> bool {
        self.held
    }

    fn hold(&mut self) {
        self.held = preallocate(&self.path, self.size).is_ok();
        if !self.held {
            let _ = rustix::fs::unlink(&self.path);
        }
    }

    /// Gives the space back to the file system; false if there was none.
    pub(crate) fn release(&mut self) -> bool {
        std::mem::take(&mut self.held) && rustix::fs::unlink(&self.path).is_ok()
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

fn preallocate(path: &Path, size: u64) -> Result<OwnedFd, Errno> {
    let file =
        rustix::fs::open(path, OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size) {
        // A file system that cannot promise blocks still gives the size.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => rustix::fs::ftruncate(&file, size)?,
        other => other?,
    }
    rustix::fs::fsync(&file)?;
    Ok(file)
}

/// One counter: refusals of one client for one reason that could not be written as rows.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Slot {
    id: String,
    code: String,
    pub(crate) client: String,
    pub(crate) count: u64,
    pub(crate) first: i64,
    pub(crate) last: i64,
}

impl Slot {
    pub(crate) fn id(&self) -> Option<Ulid> {
        Ulid::from_string(&self.id).ok()
    }

    pub(crate) fn code(&self) -> &'static str {
        Code::parse(&self.code).map_or("unknown", Code::as_str)
    }

    fn line(&self) -> Option<Vec<u8>> {
        let mut line = serde_json::to_vec(self).ok()?;
        if line.len() >= SLOT {
            return None;
        }
        line.resize(SLOT - 1, b' ');
        line.push(b'\n');
        Some(line)
    }
}

/// The counters.
#[derive(Debug)]
pub(crate) struct Counters {
    file: OwnedFd,
    slots: Vec<Slot>,
}

impl Counters {
    /// Opens or makes the file and reads what an earlier run left in it.
    pub(crate) fn open(path: &Path) -> Result<Self, Errno> {
        let file = preallocate(path, (SLOT * SLOTS) as u64)?;
        let mut bytes = vec![0; SLOT * SLOTS];
        let mut read = 0;
        while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
            match rustix::io::pread(&file, rest, read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        let slots = bytes
            .chunks(SLOT)
            .filter_map(|line| serde_json::from_slice::<Slot>(line).ok())
            .filter(|slot| slot.id().is_some() && slot.count > 0)
            .collect::<Vec<_>>();
        let mut counters = Self { file, slots };
        if !counters.slots.is_empty() {
            // Slot n of the file is slot n here, also where a torn one was skipped.
            counters.rewrite()?;
        }
        Ok(counters)
    }

    fn rewrite(&mut self) -> Result<(), Errno> {
        let mut bytes = vec![b' '; SLOT * SLOTS];
        for (chunk, slot) in bytes.chunks_mut(SLOT).zip(&self.slots) {
            if let Some(line) = slot.line() {
                chunk.copy_from_slice(&line);
            }
        }
        write_all(&self.file, &bytes, 0)?;
        rustix::fs::fdatasync(&self.file)
    }

    /// Counts one refusal; call [`Counters::sync`] before anybody is told. `None`: no slot is left.
    pub(crate) fn count(&mut self, client: &str, code: Option<Code>, id: Ulid, now: i64) -> Option<Ulid> {
        let code = code.map_or("unknown", Code::as_str);
        let client: String = client
            .chars()
            .filter(|character| character.is_ascii_graphic() && *character != '"' && *character != '\\')
            .take(64)
            .collect();
        let place = self.slots.iter().position(|slot| slot.client == client && slot.code == code);
        let place = match place {
            Some(place) => place,
            None if self.slots.len() < SLOTS => {
                let code = code.to_owned();
                self.slots.push(Slot { id: id.to_string(), code, client, count: 0, first: now, last: now });
                self.slots.len() - 1
            }
            None => return None,
        };
        let slot = self.slots.get_mut(place)?;
        slot.count += 1;
        slot.last = slot.last.max(now);
        let line = slot.line()?;
        let id = slot.id()?;
        write_all(&self.file, &line, (place * SLOT) as u64).ok()?;
        Some(id)
    }

    /// Makes the counts durable.
    pub(crate) fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fdatasync(&self.file)
    }

    pub(crate) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Empties the counters, once they stand in the database.
    pub(crate) fn clear(&mut self) -> Result<(), Errno> {
        self.slots.clear();
        self.rewrite()
    }
}

pub(crate) fn write_all(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = rustix::io::pwrite(file, bytes, offset)?;
        if written == 0 {
            return Err(Errno::IO);
        }
        bytes = bytes.get(written..).unwrap_or_default();
        offset += written as u64;
    }
    Ok(())
}
