//! Events that no single request causes.

use std::borrow::Cow;
use std::net::IpAddr;

use serde::Serialize;
use ulid::Ulid;

use crate::oci::{Digest, Fault, Name, Registry, Tag};
use crate::policy::Code;

use super::draft::PolicyStamp;
use super::row::{Kind, Row, Text};
use super::text::{LONG, SHORT, clip};

mod word;

pub use word::{Action, ExceptionResult, RecallResult};

/// Something to be recorded that is not an answer to one request.
#[derive(Clone, Debug)]
pub enum Event {
    /// A reviewer or an administrator did something here.
    Admin {
        /// What.
        action: Action,
        /// Who.
        actor: Actor,
        /// Which group of blocked pulls it is about, when it is about one.
        subject: Option<Subject>,
        /// What they wrote to it.
        note: Option<String>,
    },
    /// A rule for alerts was met.
    Alert {
        /// The rule's name.
        rule: String,
        /// The sentence for people.
        text: String,
        /// How many events met it within its window.
        count: u64,
        /// The event that tipped it.
        of: Option<Ulid>,
        /// What the events were about, where that is one thing.
        subject: Option<Subject>,
    },
    /// Somebody was let in to the admin listener, or was turned away; or a client named a token that
    /// matches nothing. Folded by address: `count` of them since the last one.
    Auth {
        /// By which door: `admin`, `pull`.
        via: &'static str,
        /// Whether they were let in.
        granted: bool,
        /// From where.
        address: IpAddr,
        /// As whom, when they were let in.
        name: Option<String>,
        /// Why they were turned away.
        text: Option<String>,
        /// How many equal ones this stands for.
        count: u64,
    },
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
    /// An exception came into force, was used, ran out, or was taken away.
    Exception {
        /// Its id in the policy file.
        exception: String,
        /// What happened to it.
        result: ExceptionResult,
        /// The image it is about.
        image: String,
        /// The checks it waives.
        waive: Vec<String>,
        /// When it ends.
        expires: Option<String>,
        /// Whether the pull would have been refused without it; known when it was used.
        needed: Option<bool>,
        /// The decision it was used in.
        of: Option<Ulid>,
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
    /// A recall came into force, changed, or was taken away.
    Recall {
        /// Its id in the policy file.
        recall: String,
        /// What happened to it.
        result: RecallResult,
        /// Why it was made.
        reason: String,
        /// What it names: digests, layers, images.
        names: Vec<String>,
        /// What to pull instead.
        replace: Option<String>,
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

/// What blocked pulls are grouped by: a reference and the reason it was refused for.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Subject {
    /// The reference in its normal form, or the words as sent.
    pub reference: String,
    /// The reason's code.
    pub reason: Option<Code>,
}

#[derive(Serialize)]
struct SubjectBody<'a> {
    reference: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

#[derive(Serialize)]
struct AdminBody<'a> {
    action: &'static str,
    actor: Actor,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<SubjectBody<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<Cow<'a, str>>,
}

#[derive(Serialize)]
struct AlertBody<'a> {
    alert: AlertState<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<SubjectBody<'a>>,
}

#[derive(Serialize)]
struct AlertState<'a> {
    rule: Cow<'a, str>,
    text: Cow<'a, str>,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<Text>,
}

#[derive(Serialize)]
struct AuthBody<'a> {
    auth: AuthState<'a>,
    client: AuthClient<'a>,
}

#[derive(Serialize)]
struct AuthState<'a> {
    via: &'static str,
    result: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
    count: u64,
}

#[derive(Serialize)]
struct AuthClient<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<Cow<'a, str>>,
    address: IpAddr,
}

#[derive(Serialize)]
struct ExceptionBody<'a> {
    exception: ExceptionState<'a>,
    image: Named<'a>,
}

#[derive(Serialize)]
struct ExceptionState<'a> {
    id: Cow<'a, str>,
    result: &'static str,
    waive: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    needed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<Text>,
}

#[derive(Serialize)]
struct Named<'a> {
    reference: Cow<'a, str>,
}

#[derive(Serialize)]
struct RecallBody<'a> {
    recall: RecallState<'a>,
}

#[derive(Serialize)]
struct RecallState<'a> {
    id: Cow<'a, str>,
    result: &'static str,
    reason: Cow<'a, str>,
    names: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replace: Option<Cow<'a, str>>,
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

/// At most this many changes of a policy, or names of a recall, are listed.
const CHANGES: usize = 200;

impl Event {
    pub(crate) fn row(&self, id: Ulid, time: i64) -> Row {
        match self {
            Self::Admin { action, actor, subject, note } => {
                let body = AdminBody {
                    action: action.as_str(),
                    actor: clipped(actor),
                    subject: subject.as_ref().map(SubjectBody::of),
                    note: note.as_deref().map(|note| clip(note, LONG)),
                };
                Row::new(id, time, Kind::Admin, &body)
            }
            Self::Alert { rule, text, count, of, subject } => {
                let body = AlertBody {
                    alert: AlertState {
                        rule: clip(rule, SHORT),
                        text: clip(text, LONG),
                        count: *count,
                        of: of.map(Text),
                    },
                    subject: subject.as_ref().map(SubjectBody::of),
                };
                Row::new(id, time, Kind::Alert, &body)
            }
            Self::Auth { via, granted, address, name, text, count } => {
                let body = AuthBody {
                    auth: AuthState {
                        via,
                        result: if *granted { "granted" } else { "refused" },
                        text: text.as_deref().map(|text| clip(text, LONG)),
                        count: *count,
                    },
                    client: AuthClient {
                        name: name.as_deref().map(|name| clip(name, SHORT)),
                        address: *address,
                    },
                };
                Row::new(id, time, Kind::Auth, &body)
            }
            Self::Drift { name, tag, locked, current } => {
                let image = image(name, Some(tag), *current, Some(*locked));
                Row::new(id, time, Kind::Drift, &DriftBody { image })
            }
            Self::Exception { exception, result, image, waive, expires, needed, of } => {
                let body = ExceptionBody {
                    exception: ExceptionState {
                        id: clip(exception, SHORT),
                        result: result.as_str(),
                        waive,
                        expires: expires.as_deref(),
                        needed: *needed,
                        of: of.map(Text),
                    },
                    image: Named { reference: clip(image, LONG) },
                };
                Row::new(id, time, Kind::Exception, &body)
            }
            Self::Pin { name, tag, previous, digest, actor } => {
                let actor = clipped(actor);
                let image = image(name, Some(tag), *digest, *previous);
                Row::new(id, time, Kind::Pin, &PinBody { actor, image })
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
            Self::Recall { recall, result, reason, names, replace } => {
                let body = RecallBody {
                    recall: RecallState {
                        id: clip(recall, SHORT),
                        result: result.as_str(),
                        reason: clip(reason, LONG),
                        names: names.iter().take(CHANGES).map(|name| clip(name, LONG)).collect(),
                        replace: replace.as_deref().map(|replace| clip(replace, LONG)),
                    },
                };
                Row::new(id, time, Kind::Recall, &body)
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
                Row::new(id, time, Kind::Upstream, &body)
            }
        }
    }
}

impl<'a> SubjectBody<'a> {
    fn of(subject: &'a Subject) -> Self {
        Self { reference: clip(&subject.reference, LONG), reason: subject.reason.map(Code::as_str) }
    }
}

fn clipped(actor: &Actor) -> Actor {
    Actor { name: clip(&actor.name, SHORT).into_owned(), via: clip(&actor.via, SHORT).into_owned() }
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

fn stamp(policy: &PolicyStamp) -> StampBody<'_> {
    StampBody { name: &policy.name, revision: &policy.revision, sha256: &policy.sha256 }
}
