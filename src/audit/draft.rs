//! What the gate hands in: who asked, what was judged, how the request looked.

use std::sync::Arc;

use jiff::Timestamp;

use crate::identity::{Attribution, Caller, Class};
use crate::oci::{Ask, Digest, Hasher, Name, Tag, What};
use crate::policy::{Code, Reason, Trace, Verdict};

use super::text::Runtime;

/// One request that was judged. It borrows everything, so that a cache hit copies nothing.
#[derive(Clone, Copy, Debug)]
pub struct Draft<'a> {
    /// Who asked.
    pub caller: &'a Caller,
    /// What was decided; one value serves all requests that meet the same memoised decision.
    pub judged: &'a Arc<Judged>,
    /// How it was asked.
    pub http: Http<'a>,
}

/// The request, without headers. A query string in `path` is cut off, never stored.
#[derive(Clone, Copy, Debug)]
pub struct Http<'a> {
    /// `GET`, `HEAD`.
    pub method: &'a str,
    /// The path as sent.
    pub path: &'a str,
    /// The `ns` parameter.
    pub ns: Option<&'a str>,
    /// The status answered, where it is known already (refusals).
    pub status: Option<u16>,
}

/// A decision as it is recorded.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// What policy said.
    pub verdict: Verdict,
    /// Whether that was done: false when a mode (`warn`, `observe`) let the pull pass all the same.
    pub enforced: bool,
    /// All reasons, *the* reason first; empty for a plain allow.
    pub reasons: Vec<Reason>,
    /// The policy that decided.
    pub policy: Arc<PolicyStamp>,
    /// Every check that ran.
    pub trace: Arc<Trace>,
    /// What was asked for and what it resolved to.
    pub image: Image,
    /// What a policy that is only tried says of it.
    pub shadow: Option<Shadow>,
}

/// The word of a policy that is judged beside the one in force and decides nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Shadow {
    /// Its revision.
    pub revision: String,
    /// `allow`, `warn`, `hold`, `deny`; `unknown` where it could not tell.
    pub verdict: &'static str,
    /// *The* reason, where there is one.
    pub code: Option<Code>,
}

/// Which policy decided.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct PolicyStamp {
    /// Its `name`.
    pub name: String,
    /// Its `revision`.
    pub revision: String,
    /// SHA-256 of the file, lower-case hex.
    pub sha256: String,
}

/// What was asked for, and what is known of it.
#[derive(Clone, Debug)]
pub struct Image {
    /// The normal form `registry/repository[:tag][@digest]`, or the words as sent when they have none.
    pub reference: String,
    /// The question, when it could be read.
    pub ask: Option<Ask>,
    /// The digest it resolved to.
    pub digest: Option<Digest>,
    /// The manifests of this repository that lead to `digest`, `digest` itself included where it is
    /// one; the one that permitted the pull first. They join a pull's requests together.
    pub roots: Vec<Digest>,
    /// The media type of `digest`.
    pub media_type: Option<Arc<str>>,
    /// The size of `digest` in bytes.
    pub size: Option<u64>,
    /// What the tag was locked to, where it leads elsewhere by now.
    pub previous: Option<Digest>,
    /// Where it runs: `linux/arm64`. An index runs nowhere itself.
    pub platform: Option<String>,
    /// When it was made, by its own word.
    pub created: Option<Timestamp>,
    /// When its repository first came by it here.
    pub first_seen: Option<Timestamp>,
    /// SHA-256 over the lock and the pin that it was decided by, lower-case hex; none of both: `None`.
    pub state: Option<String>,
}

impl Image {
    /// What an ask says by itself; the caller adds what was resolved.
    pub fn asked(ask: &Ask) -> Self {
        let digest = match ask.what {
            What::Blob(digest) | What::Digest(digest) => Some(digest),
            What::Referrers(_) | What::Tag(_) | What::Tags => None,
        };
        Self { digest, ask: Some(ask.clone()), ..Self::unreadable(&ask.reference()) }
    }

    /// A request whose name could not be read (`name.invalid`, `name.conflict`).
    pub fn unreadable(words: &str) -> Self {
        Self {
            reference: words.to_owned(),
            ask: None,
            digest: None,
            roots: Vec::new(),
            media_type: None,
            size: None,
            previous: None,
            platform: None,
            created: None,
            first_seen: None,
            state: None,
        }
    }

    pub(crate) fn name(&self) -> Option<&Name> {
        self.ask.as_ref().map(|ask| &ask.name)
    }

    pub(crate) fn tag(&self) -> Option<&Tag> {
        match &self.ask.as_ref()?.what {
            What::Tag(tag) => Some(tag),
            _ => None,
        }
    }

    pub(crate) fn digest_requested(&self) -> Option<Digest> {
        match self.ask.as_ref()?.what {
            What::Blob(digest) | What::Digest(digest) | What::Referrers(digest) => Some(digest),
            What::Tag(_) | What::Tags => None,
        }
    }

    pub(crate) fn is_blob(&self) -> bool {
        matches!(self.ask.as_ref().map(|ask| &ask.what), Some(What::Blob(_)))
    }
}

/// A decision ready to be recorded again and again: what folds compare is computed once.
#[derive(Debug)]
pub struct Judged {
    pub(crate) judgement: Judgement,
    /// Half of a SHA-256 over everything that makes two decisions the same one.
    pub(crate) fingerprint: u128,
    /// The same over registry and repository alone.
    pub(crate) place: u128,
}

impl Judged {
    /// Prepares a decision. Costs a hash or two: once for each memoised decision, not once a request.
    pub fn new(judgement: Judgement) -> Arc<Self> {
        let image = &judgement.image;
        let place = image.name().map(ToString::to_string).unwrap_or_default();
        let mut hasher = Hasher::new(crate::oci::Algorithm::Sha256);
        let mut part = |text: &str| {
            hasher.update(&(text.len() as u64).to_be_bytes());
            hasher.update(text.as_bytes());
        };
        part(judgement.verdict.as_str());
        part(if judgement.enforced { "enforced" } else { "softened" });
        part(judgement.reasons.first().map_or("", |reason| reason.code.as_str()));
        part(&judgement.policy.revision);
        part(&judgement.policy.sha256);
        part(&image.reference);
        part(if image.is_blob() { "blob" } else { "manifest" });
        part(&image.digest.map(|digest| digest.to_string()).unwrap_or_default());
        if let Some(Shadow { revision, verdict, code }) = &judgement.shadow {
            part(revision);
            part(verdict);
            part(code.map_or("", Code::as_str));
        }
        let fingerprint = half(&hasher.finish());
        Arc::new(Self { judgement, fingerprint, place: half(&Digest::sha256(place.as_bytes())) })
    }

    /// The decision.
    pub fn judgement(&self) -> &Judgement {
        &self.judgement
    }

    pub(crate) fn code(&self) -> Option<Code> {
        self.judgement.reasons.first().map(|reason| reason.code)
    }
}

fn half(digest: &Digest) -> u128 {
    digest.bytes().iter().take(16).fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// What a refusal tells the person (policy.md, "What the person sees").
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sentence {
    /// The `message` of the OCI error: stands alone, at most 300 characters, holds the id.
    pub message: String,
    /// The HTTP/1.1 reason phrase: ASCII, at most 120 characters.
    pub phrase: String,
}

/// A refusal that is on disk.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The id under which it is recorded: its own, its fold's first one's, or its flood's.
    pub id: ulid::Ulid,
    /// What to tell the client. The same words for all refusals of one fold.
    pub sentence: Arc<Sentence>,
}

/// Where the bytes came from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Cache {
    /// From the store.
    Hit,
    /// Through the store, from upstream.
    Miss,
    /// From the store, as the upstream could not be reached.
    Offline,
    /// From the store, past its time to live.
    Stale,
}

impl Cache {
    /// All of them.
    pub(crate) const ALL: [Self; 4] = [Self::Hit, Self::Miss, Self::Offline, Self::Stale];

    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Miss => "miss",
            Self::Offline => "offline",
            Self::Stale => "stale",
        }
    }

    /// Each its own bit, so that a pull can gather them in one atomic.
    pub(crate) fn bit(self) -> u8 {
        match self {
            Self::Hit => 1,
            Self::Stale => 2,
            Self::Offline => 4,
            Self::Miss => 8,
        }
    }

    /// What to say of a pull whose requests had these: the highest bit is the farthest source.
    pub(crate) fn farthest(bits: u8) -> Option<Self> {
        [Self::Miss, Self::Offline, Self::Stale, Self::Hit].into_iter().find(|cache| bits & cache.bit() != 0)
    }

    /// The word's meaning.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cache| cache.as_str() == word)
    }
}

/// How sure it is that requests belong to one pull of one machine.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Join {
    /// The client showed a certificate or a token.
    Exact,
    /// By address and `User-Agent`: behind NAT that may be several machines.
    Guessed,
    /// Several tags led to the same digest at the time.
    Ambiguous,
}

impl Join {
    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::Exact => "exact",
            Self::Guessed => "guessed",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Ambiguous, Self::Exact, Self::Guessed].into_iter().find(|join| join.as_str() == word)
    }
}

/// Who a fold belongs to. Two requests of one `Client` may be one machine's.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Client {
    class: Class,
    attribution: Attribution,
    address: std::net::IpAddr,
    user_agent: Option<Arc<str>>,
}

impl Client {
    pub(crate) fn of(caller: &Caller) -> Self {
        Self {
            class: caller.class.clone(),
            attribution: caller.attribution,
            address: caller.address,
            user_agent: caller.user_agent.clone(),
        }
    }
}

/// The name of the `[[client]]`, where one matched.
pub(crate) fn client_name(caller: &Caller) -> Option<&str> {
    match &caller.class {
        Class::Client(name) => Some(name),
        Class::Anonymous | Class::Unknown => None,
    }
}

/// How sure the joining can be at best.
pub(crate) fn best_join(caller: &Caller) -> Join {
    match caller.attribution {
        Attribution::Certificate | Attribution::Token => Join::Exact,
        Attribution::Address | Attribution::None => Join::Guessed,
    }
}

/// What kind of client it is.
pub(crate) fn runtime(caller: &Caller) -> Runtime {
    Runtime::of(caller.user_agent.as_deref())
}
