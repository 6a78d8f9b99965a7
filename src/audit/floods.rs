//! A client that asks for too many different refused references writes one row a minute for all of
//! the rest: made-up names can neither fill the log nor push others out of it (promise 13).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use ulid::Ulid;

use crate::identity::{Attribution, Caller, Class};
use crate::policy::Code;

use super::refusals::Settled;
use super::row::{CodeBody, FloodBody, FloodClient, Kind, Row, Text, Time};
use super::text::{SHORT, clip};

/// So many clients are counted apart within one minute; all further ones share one count.
const CLIENTS: usize = 4096;
/// So many references are kept of a flood.
pub(crate) const SAMPLE: usize = 32;
const MINUTE: i64 = 60_000;

/// By what clients are told apart here. An IPv6 client owns its /64: it could take a new address for
/// every request.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Who {
    /// Shown by certificate or token.
    Named(Arc<str>),
    /// By address: with the client's name where a range gives one.
    Network(Option<Arc<str>>, IpAddr),
    /// All that there was no room for.
    Others,
}

impl Who {
    pub(crate) fn of(caller: &Caller) -> Self {
        let name = match &caller.class {
            Class::Client(name) => Some(Arc::clone(name)),
            Class::Anonymous | Class::Unknown => None,
        };
        match (name, caller.attribution) {
            (Some(name), Attribution::Certificate | Attribution::Token) => Self::Named(name),
            (name, _) => Self::Network(name, network(caller.address)),
        }
    }

    pub(crate) fn name(&self) -> Option<&str> {
        match self {
            Self::Named(name) | Self::Network(Some(name), _) => Some(name),
            Self::Network(None, _) | Self::Others => None,
        }
    }

    pub(crate) fn address(&self) -> Option<String> {
        match self {
            Self::Network(_, address @ IpAddr::V6(_)) => Some(format!("{address}/64")),
            Self::Network(_, address) => Some(address.to_string()),
            Self::Named(_) | Self::Others => None,
        }
    }
}

fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        address => address,
    }
}

/// One client's flood under one reason within one minute.
#[derive(Debug)]
pub(crate) struct Flood {
    pub(crate) id: Ulid,
    pub(crate) settled: Settled,
    who: Who,
    code: Option<Code>,
    more: Mutex<More>,
}

#[derive(Debug, Default)]
struct More {
    count: u64,
    first: i64,
    last: i64,
    sample: Vec<String>,
}

impl Flood {
    fn add(&self, reference: &str, now: i64) {
        let mut more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
        if more.count == 0 {
            more.first = now;
        }
        more.count += 1;
        more.last = more.last.max(now);
        if more.sample.len() < SAMPLE && !more.sample.iter().any(|known| known == reference) {
            more.sample.push(clip(reference, SHORT).into_owned());
        }
    }

    fn close(&self, now: i64, new_id: &dyn Fn() -> Ulid) -> Option<Row> {
        let more = std::mem::take(&mut *self.more.lock().unwrap_or_else(PoisonError::into_inner));
        let void = self.settled.borrow().as_ref().is_some_and(Result::is_err);
        (more.count > 0 && !void)
            .then(|| flood_row(new_id(), now, Some(self.id), &self.who, self.code.map(Code::as_str), more))
    }
}

fn flood_row(id: Ulid, now: i64, of: Option<Ulid>, who: &Who, code: Option<&'static str>, more: More) -> Row {
    let address = who.address();
    let body = FloodBody {
        of: of.map(Text),
        verdict: "deny",
        enforced: true,
        reason: CodeBody { code: code.unwrap_or("unknown") },
        client: FloodClient { name: who.name(), address: address.as_deref() },
        count: more.count,
        first: Time(more.first),
        last: Time(more.last),
        sample: more.sample,
    };
    Row::new(id, now, Kind::Flood, &body)
}

/// A flood that just began: its row, and who waits for it.
#[derive(Debug)]
pub(crate) struct Begun {
    pub(crate) row: Row,
    pub(crate) done: watch::Sender<Option<Result<(), super::Error>>>,
}

/// How many new refusals each client wrote in this minute. Bounded.
#[derive(Debug)]
pub(crate) struct Floods {
    limit: u32,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    minute: i64,
    clients: HashMap<Who, Bucket>,
}

#[derive(Debug, Default)]
struct Bucket {
    distinct: u32,
    floods: Vec<Arc<Flood>>,
}

impl Floods {
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, table: Mutex::default() }
    }

    /// Counts a refusal that would open a fold. `Err`: the limit is passed, and the flood it belongs
    /// to; with its row when this is its first.
    pub(crate) fn admit(
        &self,
        caller: &Caller,
        code: Option<Code>,
        reference: &str,
        now: i64,
        new_id: &dyn Fn() -> Ulid,
    ) -> Result<(), (Arc<Flood>, Option<Box<Begun>>)> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let mut who = Who::of(caller);
        if table.clients.len() >= CLIENTS && !table.clients.contains_key(&who) {
            who = Who::Others;
        }
        let bucket = table.clients.entry(who.clone()).or_default();
        if bucket.distinct < self.limit {
            bucket.distinct += 1;
            return Ok(());
        }
        bucket.floods.retain(|flood| flood.settled.borrow().as_ref().is_none_or(Result::is_ok));
        if let Some(flood) = bucket.floods.iter().find(|flood| flood.code == code) {
            flood.add(reference, now);
            return Err((Arc::clone(flood), None));
        }
        let (done, settled) = watch::channel(None);
        let flood = Arc::new(Flood { id: new_id(), settled, who: who.clone(), code, more: Mutex::default() });
        let more =
            More { count: 1, first: now, last: now, sample: vec![clip(reference, SHORT).into_owned()] };
        let row = flood_row(flood.id, now, None, &who, code.map(Code::as_str), more);
        bucket.floods.push(Arc::clone(&flood));
        Err((flood, Some(Box::new(Begun { row, done }))))
    }

    /// Closes the floods of a minute that is over (or, `all`, of this one too).
    pub(crate) fn tick(&self, now: i64, all: bool, new_id: &dyn Fn() -> Ulid) -> Vec<Row> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let minute = now.div_euclid(MINUTE);
        if minute == table.minute && !all {
            return Vec::new();
        }
        table.minute = minute;
        let clients = std::mem::take(&mut table.clients);
        clients
            .values()
            .flat_map(|bucket| &bucket.floods)
            .filter_map(|flood| flood.close(now, new_id))
            .collect()
    }
}

/// A flood row made from a counter that stood in for the database.
pub(crate) fn counted_row(id: Ulid, slot: &super::spill::Slot) -> Row {
    let body = FloodBody {
        of: None,
        verdict: "deny",
        enforced: true,
        reason: CodeBody { code: slot.code() },
        client: FloodClient { name: None, address: Some(&slot.client) },
        count: slot.count,
        first: Time(slot.first),
        last: Time(slot.last),
        sample: Vec::new(),
    };
    Row::new(id, slot.first, Kind::Flood, &body)
}
