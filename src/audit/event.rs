//! Events that no single request causes.

use serde::Serialize;
use ulid::Ulid;

use crate::oci::{Digest, Fault, Name, Registry, Tag};

use super::draft::PolicyStamp;
use super::row::{Kind, Row};
use super::text::{LONG, SHORT, clip};

/// Something to be recorded that is not an answer to one request.
#[derive(Clone, Debug)]
pub enum Event {
    /// A tag leads elsewhere upstream than where it is locked here.
    Drift {
        /// The repository.
        name: Name,
        /// The tag.
        tag: Tag,
        /// Where it is locked.
        locked: Digest,
        /// Where the upstream says it leads; `None`: it is gone there.
        current: Option<Digest>,
    },
    /// A tag was locked, or its lock changed or taken away, by somebody.
    Pin {
        /// The repository.
        name: Name,
        /// The tag.
        tag: Tag,
        /// Its lock before.
        previous: Option<Digest>,
        /// Its lock now.
        digest: Option<Digest>,
        /// Who did it.
        actor: Actor,
    },
    /// A policy file was adopted.
    PolicyAdopted {
        /// What held until now; `None` at start.
        previous: Option<PolicyStamp>,
        /// What holds from now on.
        policy: PolicyStamp,
        /// The semantic difference, a sentence each.
        changes: Vec<String>,
    },
    /// A policy file was refused and the former one goes on.
    PolicyRefused {
        /// What goes on.
        policy: PolicyStamp,
        /// What was wrong with the new one.
        error: String,
    },
    /// An upstream sent wrong bytes, or its health changed.
    Upstream {
        /// The registry.
        registry: Registry,
        /// The repository, when it was about one.
        name: Option<Name>,
        /// The digest, when it was about one.
        digest: Option<Digest>,
        /// What happened; `None`: it answers again.
        fault: Option<Fault>,
    },
}

/// Who did something.
#[derive(Clone, Debug, Serialize)]
pub struct Actor {
    /// Their name.
    pub name: String,
    /// By which way: `cli`, `console`.
    pub via: String,
}

#[derive(Serialize)]
struct ImageBody {
    reference: String,
    registry: String,
    repository: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    // Null is an answer here: the tag is gone, the lock is taken away.
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_digest: Option<String>,
}

#[derive(Serialize)]
struct DriftBody {
    image: ImageBody,
}

#[derive(Serialize)]
struct PinBody {
    actor: Actor,
    image: ImageBody,
}

#[derive(Serialize)]
struct PolicyBody<'a> {
    result: &'static str,
    policy: StampBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<StampBody<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changes: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct StampBody<'a> {
    name: &'a str,
    revision: &'a str,
    sha256: &'a str,
}

#[derive(Serialize)]
struct UpstreamBody {
    upstream: UpstreamState,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<ImageBody>,
}

#[derive(Serialize)]
struct UpstreamState {
    registry: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// At most this many changes of a policy are listed.
const CHANGES: usize = 200;

impl Event {
    pub(crate) fn row(&self, id: Ulid, time: i64) -> Row {
        match self {
            Self::Drift { name, tag, locked, current } => {
                let image = image(name, Some(tag), *current, Some(*locked));
                placed(Row::new(id, time, Kind::Drift, &DriftBody { image }), name, Some(tag), *current)
            }
            Self::Pin { name, tag, previous, digest, actor } => {
                let actor = Actor {
                    name: clip(&actor.name, SHORT).into_owned(),
                    via: clip(&actor.via, SHORT).into_owned(),
                };
                let image = image(name, Some(tag), *digest, *previous);
                placed(Row::new(id, time, Kind::Pin, &PinBody { actor, image }), name, Some(tag), *digest)
            }
            Self::PolicyAdopted { previous, policy, changes } => {
                let body = PolicyBody {
                    result: "adopted",
                    policy: stamp(policy),
                    previous: previous.as_ref().map(stamp),
                    changes: changes.iter().take(CHANGES).map(|one| clip(one, LONG).into_owned()).collect(),
                    error: None,
                };
                Row::new(id, time, Kind::Policy, &body)
            }
            Self::PolicyRefused { policy, error } => {
                let body = PolicyBody {
                    result: "refused",
                    policy: stamp(policy),
                    previous: None,
                    changes: Vec::new(),
                    error: Some(clip(error, LONG).into_owned()),
                };
                Row::new(id, time, Kind::Policy, &body)
            }
            Self::Upstream { registry, name, digest, fault } => {
                let body = UpstreamBody {
                    upstream: UpstreamState {
                        registry: registry.to_string(),
                        state: fault.as_ref().map_or("healthy", Fault::word),
                        text: fault.as_ref().map(|fault| clip(&fault.to_string(), LONG).into_owned()),
                    },
                    image: name.as_ref().map(|name| image(name, None, *digest, None)),
                };
                let mut row = Row::new(id, time, Kind::Upstream, &body);
                row.registry = Some(registry.to_string());
                match name {
                    Some(name) => placed(row, name, None, *digest),
                    None => row,
                }
            }
        }
    }
}

fn image(name: &Name, tag: Option<&Tag>, digest: Option<Digest>, previous: Option<Digest>) -> ImageBody {
    ImageBody {
        reference: reference(name, tag, digest),
        registry: name.registry().to_string(),
        repository: name.repository().to_string(),
        tag: tag.map(ToString::to_string),
        digest: digest.map(|digest| digest.to_string()),
        previous_digest: previous.map(|digest| digest.to_string()),
    }
}

fn reference(name: &Name, tag: Option<&Tag>, digest: Option<Digest>) -> String {
    match (tag, digest) {
        (Some(tag), _) => format!("{name}:{tag}"),
        (None, Some(digest)) => format!("{name}@{digest}"),
        (None, None) => name.to_string(),
    }
}

fn placed(mut row: Row, name: &Name, tag: Option<&Tag>, digest: Option<Digest>) -> Row {
    row.registry = Some(name.registry().to_string());
    row.repository = Some(name.repository().to_string());
    row.tag = tag.map(ToString::to_string);
    row.digest = digest.map(|digest| digest.to_string());
    row.reference = Some(reference(name, tag, digest));
    row
}

fn stamp(policy: &PolicyStamp) -> StampBody<'_> {
    StampBody { name: &policy.name, revision: &policy.revision, sha256: &policy.sha256 }
}
