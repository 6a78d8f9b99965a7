//! Pulls that were recorded, as far as a policy can judge them again.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;

use super::{Code, Verdict};
use crate::oci::{Digest, Name, Tag};

/// One recorded decision with its repeats.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// What was asked for.
    pub asked: Asked,
    /// Out of which repository.
    pub name: Name,
    /// The `[[client]]` that asked, when one was recognised.
    pub client: Option<Arc<str>>,
    /// Who asked, as people know them: the client's name or an address.
    pub who: Arc<str>,
    /// What was decided then.
    pub verdict: Verdict,
    /// Why, when it was not plainly allowed.
    pub code: Option<Code>,
    /// The digest it resolved to.
    pub digest: Option<Digest>,
    /// The manifest at the top of what was asked for, where it was another one.
    pub root: Option<Digest>,
    /// The exceptions, by id, that let a check pass.
    pub exceptions: Vec<Arc<str>>,
    /// How many pulls.
    pub pulls: u64,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
}

/// What was asked for.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Asked {
    /// A blob.
    Blob(Digest),
    /// A manifest by its digest.
    Digest(Digest),
    /// A manifest by tag.
    Tag(Tag),
}

/// Some references and the pulls of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Count {
    /// Distinct references.
    pub references: usize,
    /// Pulls.
    pub pulls: u64,
}

/// When and by whom.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Span {
    /// How many pulls.
    pub pulls: u64,
    /// The first.
    pub first: Timestamp,
    /// The last.
    pub last: Timestamp,
    /// Who pulled.
    pub clients: BTreeSet<Arc<str>>,
}

impl Span {
    pub(super) fn of(pull: &Recorded) -> Self {
        let clients = BTreeSet::from([pull.who.clone()]);
        Self { pulls: pull.pulls, first: pull.first, last: pull.last, clients }
    }

    pub(super) fn add(&mut self, pull: &Recorded) {
        self.pulls = self.pulls.saturating_add(pull.pulls);
        self.first = self.first.min(pull.first);
        self.last = self.last.max(pull.last);
        self.clients.insert(pull.who.clone());
    }
}

impl Recorded {
    /// `registry/repository:tag`, or `@digest`.
    pub fn reference(&self) -> String {
        match &self.asked {
            Asked::Blob(digest) | Asked::Digest(digest) => format!("{}@{digest}", self.name),
            Asked::Tag(tag) => format!("{}:{tag}", self.name),
        }
    }
}
