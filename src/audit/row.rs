//! One row of the log, and the JSON it holds (schema `pullgate.event/1`).

use jiff::Timestamp;
use serde::Serialize;
use ulid::Ulid;

use crate::identity::Caller;
use crate::policy::{Reason, Verdict};

use super::draft::{Cache, Draft, Join, Judged, best_join, client_name, runtime};
use super::text::{LONG, SHORT, clip};

/// The schema every event names.
pub const SCHEMA: &str = "pullgate.event/1";

/// What an event tells. Readers skip words they do not know.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// A reviewer or an administrator did something.
    Admin,
    /// A rule for alerts was met.
    Alert,
    /// Somebody was let in, or turned away.
    Auth,
    /// A signature over everything before it.
    Checkpoint,
    /// One logical pull, allowed or refused.
    Decision,
    /// A tag leads elsewhere upstream than here.
    Drift,
    /// An exception came into force, was used, ran out or was taken away.
    Exception,
    /// Refusals beyond what one client may write.
    Flood,
    /// A tag was locked by hand.
    Pin,
    /// A policy was adopted or refused.
    Policy,
    /// A recall came into force, changed or was taken away.
    Recall,
    /// More of an earlier decision.
    Repeat,
    /// Bytes that a pull moved.
    Transfer,
    /// An upstream misbehaved.
    Upstream,
}

impl Kind {
    /// Every kind, by its word.
    pub const ALL: [Self; 14] = [
        Self::Admin,
        Self::Alert,
        Self::Auth,
        Self::Checkpoint,
        Self::Decision,
        Self::Drift,
        Self::Exception,
        Self::Flood,
        Self::Pin,
        Self::Policy,
        Self::Recall,
        Self::Repeat,
        Self::Transfer,
        Self::Upstream,
    ];

    /// The kind a word names.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Alert => "alert",
            Self::Auth => "auth",
            Self::Checkpoint => "checkpoint",
            Self::Decision => "decision",
            Self::Drift => "drift",
            Self::Exception => "exception",
            Self::Flood => "flood",
            Self::Pin => "pin",
            Self::Policy => "policy",
            Self::Recall => "recall",
            Self::Repeat => "repeat",
            Self::Transfer => "transfer",
            Self::Upstream => "upstream",
        }
    }
}

/// An event on its way to disk.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) id: Ulid,
    pub(crate) time: i64,
    pub(crate) kind: Kind,
    pub(crate) parent: Option<Ulid>,
    pub(crate) pull: Option<Ulid>,
    pub(crate) verdict: Option<&'static str>,
    pub(crate) reason: Option<&'static str>,
    pub(crate) registry: Option<String>,
    pub(crate) repository: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) digest: Option<String>,
    pub(crate) client: Option<String>,
    pub(crate) address: Option<String>,
    pub(crate) reference: Option<String>,
    pub(crate) last: Option<i64>,
    /// The JSON object without its opening `{`, `schema` and `seq`, which the writer puts before it.
    pub(crate) tail: String,
    /// Whether it belongs to an allowed pull: first to go when the log is full.
    pub(crate) allowed: bool,
}

impl Row {
    pub(crate) fn new(id: Ulid, time: i64, kind: Kind, body: &impl Serialize) -> Self {
        let json =
            serde_json::to_string(&Envelope { id: Text(id), time: Time(time), kind: kind.as_str(), body })
                .unwrap_or_else(|_| "{}".to_owned());
        Self {
            id,
            time,
            kind,
            parent: None,
            pull: None,
            verdict: None,
            reason: None,
            registry: None,
            repository: None,
            tag: None,
            digest: None,
            client: None,
            address: None,
            reference: None,
            last: None,
            tail: json.strip_prefix('{').unwrap_or(&json).to_owned(),
            allowed: false,
        }
    }

    /// The whole event, once its place in the order is known.
    pub(crate) fn body(&self, seq: i64) -> String {
        format!("{{\"schema\":\"{SCHEMA}\",\"seq\":{seq},{}", self.tail)
    }

    /// About what it takes on disk at most, its places in the indexes included.
    pub(crate) fn weight(&self) -> u64 {
        (self.tail.len() as u64).saturating_mul(2).saturating_add(1024)
    }

    pub(crate) fn under(mut self, parent: Ulid, pull: Option<Ulid>) -> Self {
        self.parent = Some(parent);
        self.pull = pull;
        self
    }

    pub(crate) fn until(mut self, last: i64) -> Self {
        self.last = Some(last);
        self
    }

    pub(crate) fn by(mut self, caller: &Caller) -> Self {
        self.client = client_name(caller).map(|name| clip(name, SHORT).into_owned());
        self.address = Some(caller.address.to_string());
        self
    }

    /// The row of a decision: its text is what the client got, or for an allowed pull nothing.
    pub(crate) fn decision(
        draft: &Draft<'_>,
        id: Ulid,
        pull: Ulid,
        root: Option<String>,
        time: i64,
        sentence: Option<&str>,
    ) -> Self {
        let judged = &draft.judged.judgement;
        let image = ImageBody::of(draft.judged, root);
        let tag = image.tag.map(ToOwned::to_owned);
        let digest = image.digest.clone();
        let reference = image.reference.to_string();
        let body = DecisionBody {
            pull_id: Text(pull),
            verdict: judged.verdict.as_str(),
            enforced: judged.enforced,
            reason: judged.reasons.first().map(|reason| ReasonBody::of(reason, sentence)),
            reasons: judged.reasons.iter().map(|reason| ReasonBody::of(reason, None)).collect(),
            policy: PolicyBody {
                name: clip(&judged.policy.name, SHORT).into_owned(),
                revision: clip(&judged.policy.revision, SHORT).into_owned(),
                sha256: &judged.policy.sha256,
                state: judged.image.state.as_deref(),
                source: judged.trace.source.as_deref(),
                mode: judged.trace.mode,
            },
            shadow: judged.shadow.as_ref().map(|shadow| ShadowBody {
                revision: &shadow.revision,
                verdict: shadow.verdict,
                code: shadow.code.map(crate::policy::Code::as_str),
            }),
            checks: judged
                .trace
                .checks
                .iter()
                .map(|check| CheckBody {
                    id: check.id,
                    result: if check.pass { "pass" } else { "fail" },
                    observed: clip(&check.observed, LONG).into_owned(),
                    expected: clip(&check.expected, LONG).into_owned(),
                    at: check.at.as_deref(),
                    exception: check.exception.as_deref(),
                })
                .collect(),
            image,
            client: ClientBody::of(draft.caller),
            http: HttpBody {
                method: clip(draft.http.method, 32).into_owned(),
                path: clip(draft.http.path.split(['?', '#']).next().unwrap_or_default(), LONG).into_owned(),
                ns: draft.http.ns.map(|ns| clip(ns, SHORT).into_owned()),
                status: draft.http.status,
            },
        };
        let mut row = Self::new(id, time, Kind::Decision, &body).by(draft.caller);
        let name = judged.image.name();
        row.pull = Some(pull);
        row.verdict = Some(judged.verdict.as_str());
        row.reason = draft.judged.code().map(crate::policy::Code::as_str);
        row.registry = name.map(|name| name.registry().to_string());
        row.repository = name.map(|name| name.repository().to_string());
        row.tag = tag;
        row.digest = digest;
        row.reference = Some(reference);
        row.last = Some(time);
        row.allowed = matches!(judged.verdict, Verdict::Allow | Verdict::Warn);
        row
    }
}

/// A `Ulid` as its 26 characters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Text(pub(crate) Ulid);

impl Serialize for Text {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC, always with three decimals.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Time(pub(crate) i64);

impl Serialize for Time {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:.3}", moment(self.0)))
    }
}

/// The moment `millis` after 1970.
pub(crate) fn moment(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[derive(Serialize)]
struct Envelope<'a, T> {
    id: Text,
    time: Time,
    kind: &'static str,
    #[serde(flatten)]
    body: &'a T,
}

#[derive(Serialize)]
struct DecisionBody<'a> {
    pull_id: Text,
    verdict: &'static str,
    enforced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<ReasonBody<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reasons: Vec<ReasonBody<'a>>,
    policy: PolicyBody<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<ShadowBody<'a>>,
    checks: Vec<CheckBody<'a>>,
    image: ImageBody<'a>,
    client: ClientBody<'a>,
    http: HttpBody,
}

#[derive(Serialize)]
struct ReasonBody<'a> {
    code: &'static str,
    text: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<std::borrow::Cow<'a, str>>,
}

impl<'a> ReasonBody<'a> {
    fn of(reason: &'a Reason, sentence: Option<&'a str>) -> Self {
        Self {
            code: reason.code.as_str(),
            text: clip(sentence.unwrap_or(&reason.text), LONG),
            remedy: reason.remedy.as_deref().map(|remedy| clip(remedy, LONG)),
        }
    }
}

#[derive(Serialize)]
struct PolicyBody<'a> {
    name: String,
    revision: String,
    sha256: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    mode: &'a str,
}

#[derive(Serialize)]
struct ShadowBody<'a> {
    revision: &'a str,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
}

#[derive(Serialize)]
struct CheckBody<'a> {
    id: &'static str,
    result: &'static str,
    observed: String,
    expected: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exception: Option<&'a str>,
}

#[derive(Serialize)]
struct ImageBody<'a> {
    reference: std::borrow::Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    registry: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tag: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest_requested: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_seen: Option<String>,
}

impl<'a> ImageBody<'a> {
    fn of(judged: &'a Judged, root: Option<String>) -> Self {
        let image = &judged.judgement.image;
        Self {
            reference: clip(&image.reference, LONG),
            registry: image.name().map(|name| name.registry().as_str()),
            repository: image.name().map(|name| name.repository().as_str()),
            tag: image.tag().map(crate::oci::Tag::as_str),
            digest_requested: image.digest_requested().map(|digest| digest.to_string()),
            digest: image.digest.map(|digest| digest.to_string()),
            root_digest: root,
            previous_digest: image.previous.map(|digest| digest.to_string()),
            media_type: image.media_type.as_deref().map(|media_type| clip(media_type, SHORT)),
            size: image.size,
            platform: image.platform.as_deref().map(|platform| clip(platform, SHORT)),
            created: image.created.map(|moment| moment.to_string()),
            first_seen: image.first_seen.map(|moment| format!("{moment:.3}")),
        }
    }
}

/// Who asked, as every kind of event tells it.
#[derive(Serialize)]
pub(crate) struct ClientBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<std::borrow::Cow<'a, str>>,
    address: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarded_for: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    proxy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<std::borrow::Cow<'a, str>>,
    runtime: &'static str,
    attribution: &'static str,
    join: &'static str,
}

impl<'a> ClientBody<'a> {
    pub(crate) fn of(caller: &'a Caller) -> Self {
        Self {
            name: client_name(caller).map(|name| clip(name, SHORT)),
            address: caller.address.to_string(),
            forwarded_for: caller.proxy.map(|_| caller.address.to_string()),
            proxy: caller.proxy.map(|proxy| proxy.to_string()),
            certificate: caller.certificate.as_deref().map(|name| clip(name, SHORT)),
            user_agent: caller.user_agent.as_deref().map(|agent| clip(agent, SHORT)),
            runtime: runtime(caller).as_str(),
            attribution: caller.attribution.as_str(),
            join: best_join(caller).as_str(),
        }
    }
}

#[derive(Serialize)]
struct HttpBody {
    method: String,
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    ns: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
}

/// `repeat`: the decision was met `count` more times.
#[derive(Serialize)]
pub(crate) struct RepeatBody {
    pub(crate) of: Text,
    pub(crate) count: u64,
    pub(crate) first: Time,
    pub(crate) last: Time,
}

/// `transfer`: what a pull moved since its last `transfer`.
#[derive(Serialize)]
pub(crate) struct TransferBody {
    pub(crate) pull_id: Text,
    pub(crate) of: Text,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<String>,
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) duration_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cache: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) status: Option<u16>,
    pub(crate) join: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) candidates: Vec<String>,
}

impl TransferBody {
    pub(crate) fn word(bits: u8) -> Option<&'static str> {
        Cache::farthest(bits).map(Cache::as_str)
    }

    pub(crate) fn join(join: Join) -> &'static str {
        join.as_str()
    }
}

/// `flood`: opened by the first refusal beyond the limit, closed by a second row `of` the first.
#[derive(Serialize)]
pub(crate) struct FloodBody<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<Text>,
    pub(crate) verdict: &'static str,
    pub(crate) enforced: bool,
    pub(crate) reason: CodeBody,
    pub(crate) client: FloodClient<'a>,
    pub(crate) count: u64,
    pub(crate) first: Time,
    pub(crate) last: Time,
    pub(crate) sample: Vec<String>,
}

#[derive(Serialize)]
pub(crate) struct CodeBody {
    pub(crate) code: &'static str,
}

/// Who flooded; `address` may be a network (`2001:db8::/64`) or absent, when there were too many.
#[derive(Serialize)]
pub(crate) struct FloodClient<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<&'a str>,
}
