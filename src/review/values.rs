//! What the pages show.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use super::Error;
use crate::audit::Subject;

/// What a reviewer made of a group.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum State {
    /// Somebody is looking into it; it stays so when it is met again.
    Acknowledged,
    /// Nobody looked into it, or it was met again after it was resolved.
    New,
    /// Dealt with.
    Resolved,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Acknowledged, Self::New, Self::Resolved];

    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acknowledged => "acknowledged",
            Self::New => "new",
            Self::Resolved => "resolved",
        }
    }

    /// The state of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

/// What a group is of.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum GroupKind {
    /// Many names that one client asked for within a minute, counted together; its `sample` shows some.
    Flood,
    /// References met once long ago that were forgotten singly to bound the database. One row.
    Others,
    /// One reference refused or held for one reason.
    Refused,
    /// One reference served although the policy objects, for one reason.
    Warned,
}

impl GroupKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Flood, Self::Others, Self::Refused, Self::Warned];

    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flood => "flood",
            Self::Others => "others",
            Self::Refused => "refused",
            Self::Warned => "warned",
        }
    }

    /// The kind of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Blocked pulls of one reference for one reason.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Group {
    /// Its name in addresses: 32 hex digits that stay the same however often it is made anew.
    pub key: String,
    /// What it is of.
    pub kind: GroupKind,
    /// Reference and reason. Of a flood the reference names the client.
    pub subject: Subject,
    /// The reason's word, also one that this version does not know.
    pub reason: String,
    /// Everything the latest was refused for, *the* reason first.
    pub reasons: Vec<String>,
    /// `deny`, `hold` or `warn`: that of the latest.
    pub verdict: String,
    /// The registry, where the name could be read.
    pub registry: Option<String>,
    /// The repository without its registry, where the name could be read.
    pub repository: Option<String>,
    /// The tag, where it was asked for by one.
    pub tag: Option<String>,
    /// The digest, asked for or found out: that of the latest.
    pub digest: Option<String>,
    /// The id of the `[[source]]` that owned it at the latest.
    pub source: Option<String>,
    /// How many pulls, repeats included.
    pub count: u64,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
    /// How many clients met it; at most [`Group::CLIENTS_MAX`] are told apart.
    pub clients: u64,
    /// The id of the latest decision, which has a page of its own.
    pub latest: String,
    /// What the client was told then.
    pub latest_message: String,
    /// What to do about it.
    pub remedy: Option<String>,
    /// Some references of a flood.
    pub sample: Vec<String>,
    /// What a reviewer made of it.
    pub state: State,
    /// What they wrote.
    pub note: Option<String>,
    /// Who set state or note last; of a group that was resolved and met again, who resolved it.
    pub by: Option<String>,
    /// When.
    pub changed: Option<Timestamp>,
    /// Whether it was resolved before and is new only because it was met again since.
    pub resolved_before: bool,
    /// How many pulls since `changed`.
    pub since_change: u64,
}

impl Group {
    /// So many clients of one group are told apart; what others ask for is counted without them.
    pub const CLIENTS_MAX: u64 = 1000;
}

/// Which groups are wanted; everything given must hold.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct InboxFilter {
    /// Only of this kind; `None`: all that was blocked, which is every kind but [`GroupKind::Warned`].
    pub kind: Option<GroupKind>,
    /// Only in this state.
    pub state: Option<State>,
    /// Only for this reason.
    pub reason: Option<String>,
    /// Only of this registry.
    pub registry: Option<String>,
    /// Only of this repository, with or without its registry.
    pub repository: Option<String>,
    /// Only of this tag.
    pub tag: Option<String>,
    /// Only what this client met: its name or its address.
    pub client: Option<String>,
    /// These words occur in reference, digest, message, note or sample (ASCII case does not count), or are the id
    /// of the latest decision.
    pub text: Option<String>,
    /// Only what was met at or after this.
    pub since: Option<Timestamp>,
    /// Only what was first met before this.
    pub until: Option<Timestamp>,
    /// Only what was met after this for the first time, or again after it was resolved.
    pub new_since: Option<Timestamp>,
    /// Which come first.
    pub order: InboxOrder,
}

/// In which order groups come; the greatest first.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum InboxOrder {
    /// The most pulls.
    Count,
    /// The latest newcomers.
    FirstSeen,
    /// What was met last.
    #[default]
    LastSeen,
}

impl InboxOrder {
    /// Every order.
    pub const ALL: [Self; 3] = [Self::Count, Self::FirstSeen, Self::LastSeen];

    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::FirstSeen => "first",
            Self::LastSeen => "last",
        }
    }

    /// The order of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|order| order.as_str() == word)
    }
}

/// How many groups pass a filter, by state.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Those somebody looks into.
    pub acknowledged: u64,
    /// Those nobody looked into.
    pub new: u64,
    /// Those dealt with.
    pub resolved: u64,
}

/// A place in a list: behind the row it stands for. Safe to put into an address.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cursor {
    pub(super) value: i64,
    pub(super) id: i64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.value, self.id)
    }
}

impl FromStr for Cursor {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let read = || {
            let (value, id) = text.split_once('.')?;
            Some(Self { value: value.parse().ok()?, id: id.parse().ok()? })
        };
        read().ok_or_else(|| Error::Cursor(text.chars().take(64).collect()))
    }
}

/// Some rows of a list.
///
/// Paging on neither leaves out nor doubles a row, also while new ones arrive. A row that moves to the
/// front meanwhile (met again, in the order of last sight) is found there.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Page<T> {
    /// The rows.
    pub items: Vec<T>,
    /// Where the next page begins; `None`: this is the last.
    pub next: Option<Cursor>,
}

/// A client that met a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Met {
    /// By what it is told apart, and found by [`InboxFilter::client`].
    pub who: String,
    /// Its name, when it showed who it is.
    pub name: Option<String>,
    /// From where it asked last.
    pub address: String,
    /// What kind of client it is.
    pub runtime: String,
    /// How many pulls.
    pub count: u64,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
}

/// A client.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Client {
    /// By what it is told apart, and found by [`InboxFilter::client`]: name or address.
    pub who: String,
    /// Its name, when it showed who it is.
    pub name: Option<String>,
    /// From where it asked last.
    pub address: String,
    /// How it showed who it is: `certificate`, `token`, `address`, `none`.
    pub attribution: String,
    /// What kinds of client were seen.
    pub runtimes: Vec<String>,
    /// Pulls that were served.
    pub pulls: u64,
    /// Pulls that were refused or held.
    pub refusals: u64,
    /// Bytes it got.
    pub bytes: u64,
    /// When it was seen first.
    pub first: Timestamp,
    /// When it was seen last.
    pub last: Timestamp,
    /// When it was last refused something.
    pub last_refused: Option<Timestamp>,
}

/// Which clients are wanted.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ClientFilter {
    /// These words occur in its name or address.
    pub text: Option<String>,
    /// Seen at or after this.
    pub since: Option<Timestamp>,
    /// Which come first.
    pub order: ClientOrder,
}

/// In which order clients come; the greatest first.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ClientOrder {
    /// Seen last.
    #[default]
    LastSeen,
    /// The most pulls.
    Pulls,
    /// The most refusals.
    Refusals,
}

impl ClientOrder {
    /// Every order.
    pub const ALL: [Self; 3] = [Self::LastSeen, Self::Pulls, Self::Refusals];

    /// The closed word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LastSeen => "last",
            Self::Pulls => "pulls",
            Self::Refusals => "refusals",
        }
    }

    /// The order of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|order| order.as_str() == word)
    }
}

/// How long a bucket is.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    /// A day in UTC; kept for good.
    Day,
    /// An hour; kept for 90 days.
    Hour,
}

/// What happened within one hour or day.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Bucket {
    /// When it begins.
    pub at: Timestamp,
    /// Pulls allowed.
    pub allow: u64,
    /// Pulls served although the policy objects.
    pub warn: u64,
    /// Pulls held.
    pub hold: u64,
    /// Pulls denied, floods included.
    pub deny: u64,
    /// Transfers out of the cache.
    pub hits: u64,
    /// Transfers through the cache from upstream.
    pub misses: u64,
    /// Transfers out of the cache past their time to live.
    pub stale: u64,
    /// Transfers out of the cache because the upstream could not be reached.
    pub offline: u64,
    /// Bytes out of the cache: hits, stale, offline.
    pub bytes_cached: u64,
    /// Bytes that came from upstream.
    pub bytes_fetched: u64,
}

/// Something and how often it was met within a range.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tally {
    /// The group's key, where it is one group.
    pub key: Option<String>,
    /// A reference, a registry or a client.
    pub name: String,
    /// The reason, where it is one group.
    pub reason: Option<String>,
    /// How many refused or held pulls.
    pub count: u64,
}

/// A range at a glance.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Overview {
    /// Every step of the range, empty ones too, oldest first.
    pub buckets: Vec<Bucket>,
    /// All of them together; `at` is the beginning of the range.
    pub total: Bucket,
    /// The references refused most.
    pub references: Vec<Tally>,
    /// The registries refused most.
    pub registries: Vec<Tally>,
    /// The clients refused most.
    pub clients: Vec<Tally>,
}

/// A tag that leads elsewhere upstream than here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Drift {
    /// The event.
    pub id: String,
    /// When it was seen.
    pub time: Timestamp,
    /// The registry.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// The tag.
    pub tag: String,
    /// Where it is locked.
    pub locked: Option<String>,
    /// Where it leads upstream; `None`: it is gone there.
    pub current: Option<String>,
}

/// An upstream that failed, sent wrong bytes, or answers again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UpstreamChange {
    /// The event.
    pub id: String,
    /// When.
    pub time: Timestamp,
    /// The registry.
    pub registry: String,
    /// `healthy`, or the fault's word; `invalid` is a digest that did not match.
    pub state: String,
    /// What happened in words.
    pub text: Option<String>,
    /// The repository, when it was about one.
    pub repository: Option<String>,
    /// The digest, when it was about one.
    pub digest: Option<String>,
}

/// What is on record of an exception.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ExceptionUse {
    /// Its id in the policy file.
    pub id: String,
    /// The image it is about.
    pub image: String,
    /// The checks it waives.
    pub waive: Vec<String>,
    /// When it ends, as written in the policy.
    pub expires: Option<String>,
    /// What happened to it last, uses aside: `created`, `expired`, `removed`.
    pub result: Option<String>,
    /// When that was.
    pub changed: Option<Timestamp>,
    /// When a pull met it last.
    pub last_used: Option<Timestamp>,
    /// The decision it was last used in.
    pub last_decision: Option<String>,
    /// How many uses were recorded.
    pub used: u64,
    /// In how many the pull would have been refused without it.
    pub needed: u64,
    /// In how many it would have passed anyway.
    pub unneeded: u64,
}

/// What is on record of a recall.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Recall {
    /// Its id in the policy file.
    pub id: String,
    /// Why it was made.
    pub reason: String,
    /// What it names.
    pub names: Vec<String>,
    /// What to pull instead.
    pub replace: Option<String>,
    /// What happened to it last: `created`, `changed`, `removed`.
    pub result: String,
    /// When it was first seen.
    pub first: Timestamp,
    /// When that happened last.
    pub changed: Timestamp,
}

/// An alert that went off.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Alert {
    /// The event.
    pub id: String,
    /// When.
    pub time: Timestamp,
    /// The rule's name.
    pub rule: String,
    /// The sentence for people.
    pub text: String,
    /// How many events met the rule.
    pub count: u64,
    /// The event that tipped it.
    pub of: Option<String>,
    /// What it is about.
    pub reference: Option<String>,
}

/// How the projection is doing.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// The place in the record up to which everything is counted.
    pub seq: i64,
    /// Whether it is being made anew: not everything is shown yet.
    pub behind: bool,
    /// What went wrong last; `None` since it goes on.
    pub last_error: Option<Error>,
}
