//! What each event changes. Rows are read once, changed in memory in the order of the events, and
//! written together with the place reached: one transaction a batch.

mod noticed;
mod room;
mod write;

use std::collections::HashMap;
use std::hash::Hash;

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};
use ulid::Ulid;

use super::event::{Body, Client, Reason};
use super::rows::{ClientRow, GroupRow, MetRow, OTHERS, group_key};
use super::values::{Group, GroupKind, State};
use crate::audit::{Action, Reader, Written};

pub(super) const HOUR: i64 = 3_600_000;
pub(super) const DAY: i64 = 24 * HOUR;
/// For how long hours are kept.
const HOURS_KEPT: i64 = 90 * DAY;
/// For how long it is kept which group or client was refused in which hour, and on which day.
pub(super) const HOUR_TALLIES_KEPT: i64 = 8 * DAY;
const DAY_TALLIES_KEPT: i64 = 400 * DAY;
/// So many references of a flood are shown.
const SAMPLE: usize = 32;
/// So many rows are kept in memory between batches.
const CACHED: usize = 8192;
/// So many decisions are remembered, twice: repeats of an older one look it up in the record.
const PARENTS: usize = 32_768;

/// Limits that bound the database, whatever names are made up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// So many groups; those met once that nobody reviewed make room.
    pub(super) groups: i64,
    /// So many clients; those longest away make room.
    pub(super) clients: i64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { groups: 50_000, clients: 20_000 }
    }
}

/// Why a batch was not counted.
#[derive(Debug)]
pub(super) enum Failed {
    Database(sqlx::Error),
    Record(crate::audit::Error),
}

impl From<sqlx::Error> for Failed {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

type Result<T> = std::result::Result<T, Failed>;

/// A row in memory, and whether it differs from the one on disk.
#[derive(Debug)]
struct Slot<T> {
    row: T,
    dirty: bool,
}

/// A decision that later events belong to.
#[derive(Clone, Debug)]
struct Parent {
    verdict: Verdict,
    group: Option<String>,
    client: String,
    runtime: String,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    Allow,
    Deny,
    Hold,
    Warn,
}

impl Verdict {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "allow" => Some(Self::Allow),
            "deny" => Some(Self::Deny),
            "hold" => Some(Self::Hold),
            "warn" => Some(Self::Warn),
            _ => None,
        }
    }

    fn refuses(self) -> bool {
        matches!(self, Self::Deny | Self::Hold)
    }
}

/// What a bucket gains.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Gain {
    allow: i64,
    warn: i64,
    hold: i64,
    deny: i64,
    hits: i64,
    misses: i64,
    stale: i64,
    offline: i64,
    bytes_cached: i64,
    bytes_fetched: i64,
}

/// What counts the events.
#[derive(Debug)]
pub(super) struct Projector {
    bounds: Bounds,
    seq: i64,
    newest: i64,
    next_group: i64,
    next_client: i64,
    groups_held: i64,
    clients_held: i64,
    groups: HashMap<String, Slot<GroupRow>>,
    clients: HashMap<String, Slot<ClientRow>>,
    met: HashMap<(i64, i64), Slot<MetRow>>,
    buckets: HashMap<(i64, i64), Gain>,
    tallies: HashMap<(i64, i64, i64, i64), i64>,
    parents: HashMap<Ulid, Parent>,
    older: HashMap<Ulid, Parent>,
}

impl Projector {
    /// Goes on from what is on disk.
    pub(super) async fn load(
        connection: &mut SqliteConnection,
        bounds: Bounds,
    ) -> std::result::Result<Self, sqlx::Error> {
        let (seq, newest): (i64, i64) =
            sqlx::query_as("SELECT seq, newest FROM place").fetch_one(&mut *connection).await?;
        let (groups_held, last_group): (i64, i64) =
            sqlx::query_as("SELECT COUNT(*), COALESCE(MAX(id), 0) FROM refused")
                .fetch_one(&mut *connection)
                .await?;
        let (clients_held, last_client): (i64, i64) =
            sqlx::query_as("SELECT COUNT(*), COALESCE(MAX(id), 0) FROM client")
                .fetch_one(&mut *connection)
                .await?;
        Ok(Self {
            bounds,
            seq,
            newest,
            next_group: last_group + 1,
            next_client: last_client + 1,
            groups_held,
            clients_held,
            groups: HashMap::new(),
            clients: HashMap::new(),
            met: HashMap::new(),
            buckets: HashMap::new(),
            tallies: HashMap::new(),
            parents: HashMap::new(),
            older: HashMap::new(),
        })
    }

    /// The place up to which everything is counted.
    pub(super) fn seq(&self) -> i64 {
        self.seq
    }

    /// Counts a batch, all of it or nothing. After an error begin again from [`Projector::load`].
    pub(super) async fn apply(
        &mut self,
        connection: &mut SqliteConnection,
        reader: &Reader,
        batch: &[Written],
    ) -> Result<()> {
        let mut work = connection.begin_with("BEGIN IMMEDIATE").await?;
        let (before, reached) = (self.newest, self.seq);
        let mut event = None;
        for written in batch.iter().filter(|written| written.seq > reached) {
            // What cannot be read says nothing that can be counted.
            let body: Body = serde_json::from_str(&written.body).unwrap_or_default();
            self.newest = self.newest.max(body.time());
            self.count(&mut work, reader, written, &body).await?;
            event = Some(body.id);
        }
        self.flush(&mut work).await?;
        if day(before) != day(self.newest) {
            self.prune(&mut work).await?;
        }
        if let (Some(event), Some(last)) = (event, batch.last()) {
            sqlx::query("UPDATE place SET seq = $1, event = $2, newest = $3")
                .bind(last.seq)
                .bind(event)
                .bind(self.newest)
                .execute(&mut *work)
                .await?;
        }
        work.commit().await?;
        self.seq = batch.last().map_or(self.seq, |last| last.seq.max(self.seq));
        self.trim();
        Ok(())
    }

    async fn count(
        &mut self,
        work: &mut SqliteConnection,
        reader: &Reader,
        written: &Written,
        body: &Body,
    ) -> Result<()> {
        match &*written.kind {
            "admin" => self.admin(work, body).await,
            "alert" => noticed::alert(work, written.seq, body).await,
            "decision" => self.decision(work, body).await,
            "drift" => noticed::drift(work, written.seq, body).await,
            "exception" => noticed::exception(work, body).await,
            "flood" => self.flood(work, body).await,
            "recall" => noticed::recall(work, body).await,
            "repeat" => self.repeat(work, reader, body).await,
            "transfer" => self.transfer(work, reader, body).await,
            "upstream" => noticed::upstream(work, written.seq, body).await,
            _ => Ok(()),
        }
    }

    async fn decision(&mut self, work: &mut SqliteConnection, body: &Body) -> Result<()> {
        let Some(parent) = parent_of(body) else { return Ok(()) };
        let (time, no_image) = (body.time(), super::event::Image::default());
        self.bucket(time, |gain| gain.met(parent.verdict, 1));
        let no_client = Client::default();
        let client = body.client.as_ref().unwrap_or(&no_client);
        let id = self.see(work, client, (time, time)).await?;
        self.met_client(&parent.client, parent.verdict, 1, time);
        if let Some(key) = &parent.group {
            let image = body.image.as_ref().unwrap_or(&no_image);
            let no_reason = Reason::default();
            let reason = body.reason.as_ref().unwrap_or(&no_reason);
            let kind = if parent.verdict == Verdict::Warn { GroupKind::Warned } else { GroupKind::Refused };
            let fresh = || GroupRow {
                registry: image.registry.clone(),
                repository: image.repository.clone(),
                tag: image.tag.clone(),
                ..group(key, kind, &image.reference, &reason.code, time)
            };
            let row = self.group(work, key, fresh).await?;
            row.meet(1, time, time);
            row.verdict = body.verdict.clone().unwrap_or_default();
            row.digest =
                image.digest.clone().or_else(|| image.digest_requested.clone()).or(row.digest.take());
            row.source = body.policy.as_ref().and_then(|policy| policy.source.clone());
            row.reasons = body.reasons.iter().map(|reason| reason.code.clone()).collect();
            row.reasons.dedup();
            row.latest.clone_from(&body.id);
            row.message.clone_from(&reason.text);
            row.remedy.clone_from(&reason.remedy);
            let group = row.id;
            self.meets(work, key, (group, id), &parent.runtime, 1, (time, time)).await?;
            self.tally(parent.verdict, (group, id), 1, time);
        }
        if let Ok(decision) = body.id.parse() {
            self.remember(decision, parent);
        }
        Ok(())
    }

    async fn repeat(&mut self, work: &mut SqliteConnection, reader: &Reader, body: &Body) -> Result<()> {
        let Some(parent) = self.parent(reader, body).await? else { return Ok(()) };
        let count = number(body.count);
        let (first, last) = (body.first(), body.last());
        self.bucket(last, |gain| gain.met(parent.verdict, count));
        let who = self.where_client(work, &parent.client).await?;
        let id = match self.client(work, who).await? {
            Some(client) => {
                client.first = client.first.min(first);
                client.last = client.last.max(last);
                client.id
            }
            None => return Ok(()),
        };
        self.met_client(who, parent.verdict, count, last);
        let Some(key) = &parent.group else { return Ok(()) };
        let gone = group_key(GroupKind::Others, "", "");
        let key = if self.known_group(work, key).await?.is_some() { key } else { &gone };
        if let Some(row) = self.known_group(work, key).await? {
            row.meet(count, first, last);
            let group = row.id;
            self.meets(work, key, (group, id), &parent.runtime, count, (first, last)).await?;
            self.tally(parent.verdict, (group, id), count, last);
        }
        Ok(())
    }

    async fn transfer(&mut self, work: &mut SqliteConnection, reader: &Reader, body: &Body) -> Result<()> {
        let (time, bytes) = (body.time(), number(Some(body.bytes)));
        let cache = body.cache.as_deref().unwrap_or_default();
        self.bucket(time, |gain| gain.moved(cache, bytes));
        let Some(parent) = self.parent(reader, body).await? else { return Ok(()) };
        let who = self.where_client(work, &parent.client).await?;
        if let Some(client) = self.client(work, who).await? {
            client.bytes = client.bytes.saturating_add(bytes);
            client.last = client.last.max(time);
        }
        Ok(())
    }

    async fn flood(&mut self, work: &mut SqliteConnection, body: &Body) -> Result<()> {
        let no_client = Client::default();
        let client = body.client.as_ref().unwrap_or(&no_client);
        let (count, first, last) = (number(body.count), body.first(), body.last());
        let reason = body.reason.as_ref().map(|reason| &*reason.code).unwrap_or_default();
        let who = client.who();
        let reference = format!("many names asked for by {who}");
        let key = group_key(GroupKind::Flood, &reference, reason);
        self.bucket(last, |gain| gain.met(Verdict::Deny, count));
        let id = self.see(work, client, (first, last)).await?;
        self.met_client(&who, Verdict::Deny, count, last);
        let row = self.group(work, &key, || group(&key, GroupKind::Flood, &reference, reason, first)).await?;
        row.meet(count, first, last);
        "deny".clone_into(&mut row.verdict);
        // A flood's closing row is no page of its own.
        row.latest.clone_from(body.of.as_ref().unwrap_or(&body.id));
        let mut sample: Vec<String> = body.sample.iter().rev().cloned().collect();
        sample.extend(row.sample.drain(..).filter(|known| !body.sample.contains(known)));
        sample.truncate(SAMPLE);
        row.message = format!(
            "more than it may be refused in a minute: {} and others",
            sample.first().map_or("", String::as_str)
        );
        row.sample = sample;
        let group = row.id;
        self.meets(work, &key, (group, id), "", count, (first, last)).await?;
        self.tally(Verdict::Deny, (group, id), count, last);
        Ok(())
    }

    async fn admin(&mut self, work: &mut SqliteConnection, body: &Body) -> Result<()> {
        let (Some(action), Some(subject)) = (body.action.as_deref().and_then(Action::parse), &body.subject)
        else {
            return Ok(());
        };
        let reason = subject.reason.as_deref().unwrap_or_default();
        for kind in [GroupKind::Refused, GroupKind::Flood, GroupKind::Warned] {
            let key = group_key(kind, &subject.reference, reason);
            let Some(row) = self.known_group(work, &key).await? else { continue };
            let state = match action {
                Action::Acknowledge => State::Acknowledged,
                Action::Reopen => State::New,
                Action::Resolve => State::Resolved,
                Action::Patch => continue,
            };
            if row.state != state && state == State::New {
                row.newly = body.time();
            }
            row.state = state;
            row.reopened = false;
            row.since_change = 0;
            row.changed = Some(body.time());
            row.changed_by = body.actor.as_ref().map(|actor| actor.name.clone());
            if body.note.is_some() {
                row.note.clone_from(&body.note);
            }
        }
        Ok(())
    }

    /// The decision a later event belongs to; looked up in the record when it is long ago.
    async fn parent(&mut self, reader: &Reader, body: &Body) -> Result<Option<Parent>> {
        let Some(of) = body.of.as_deref().and_then(|of| of.parse::<Ulid>().ok()) else { return Ok(None) };
        if let Some(parent) = self.parents.get(&of).or_else(|| self.older.get(&of)) {
            return Ok(Some(parent.clone()));
        }
        let Some(entry) = reader.written(&of).await.map_err(Failed::Record)? else { return Ok(None) };
        let body = serde_json::from_value(serde_json::Value::Object(entry.event)).unwrap_or_default();
        let parent = parent_of(&body);
        if let Some(parent) = &parent {
            self.remember(of, parent.clone());
        }
        Ok(parent)
    }

    fn remember(&mut self, decision: Ulid, parent: Parent) {
        if self.parents.len() >= PARENTS {
            self.older = std::mem::take(&mut self.parents);
        }
        self.parents.insert(decision, parent);
    }

    /// The group with this key; `fresh` makes it.
    async fn group(
        &mut self,
        work: &mut SqliteConnection,
        key: &str,
        fresh: impl FnOnce() -> GroupRow,
    ) -> Result<&mut GroupRow> {
        if !self.groups.contains_key(key) {
            let row = match GroupRow::load(work, key).await? {
                Some(row) => row,
                None => {
                    if self.groups_held >= self.bounds.groups {
                        self.forget_groups(work).await?;
                    }
                    self.groups_held += 1;
                    let id = self.next_group;
                    self.next_group += 1;
                    GroupRow { id, ..fresh() }
                }
            };
            self.groups.insert(key.to_owned(), Slot { row, dirty: true });
        }
        Ok(touched(&mut self.groups, key).ok_or(sqlx::Error::RowNotFound)?)
    }

    /// The group with this key.
    async fn known_group(&mut self, work: &mut SqliteConnection, key: &str) -> Result<Option<&mut GroupRow>> {
        if !self.groups.contains_key(key) {
            let Some(row) = GroupRow::load(work, key).await? else { return Ok(None) };
            self.groups.insert(key.to_owned(), Slot { row, dirty: true });
        }
        Ok(touched(&mut self.groups, key))
    }

    /// By what a client is counted now: those that made room are counted together.
    async fn where_client<'a>(&mut self, work: &mut SqliteConnection, who: &'a str) -> Result<&'a str> {
        Ok(if self.client(work, who).await?.is_some() { who } else { OTHERS })
    }

    async fn client(&mut self, work: &mut SqliteConnection, who: &str) -> Result<Option<&mut ClientRow>> {
        if !self.clients.contains_key(who) {
            let Some(row) = ClientRow::load(work, who).await? else { return Ok(None) };
            self.clients.insert(who.to_owned(), Slot { row, dirty: true });
        }
        Ok(touched(&mut self.clients, who))
    }

    /// Notes that a client was seen between these moments; its number.
    async fn see(
        &mut self,
        work: &mut SqliteConnection,
        seen: &Client,
        (first, last): (i64, i64),
    ) -> Result<i64> {
        let who = seen.who();
        if self.client(work, &who).await?.is_none() {
            if self.clients_held >= self.bounds.clients {
                self.forget_clients(work).await?;
            }
            self.clients_held += 1;
            let row = ClientRow { first, last, ..client(self.next_client, &who) };
            self.next_client += 1;
            self.clients.insert(who.clone(), Slot { row, dirty: true });
        }
        let row = touched(&mut self.clients, &who).ok_or(sqlx::Error::RowNotFound)?;
        row.first = row.first.min(first);
        row.last = row.last.max(last);
        if let Some(name) = &seen.name {
            row.name = Some(name.clone());
        }
        if let Some(address) = &seen.address {
            row.address.clone_from(address);
        }
        if let Some(attribution) = &seen.attribution {
            row.attribution.clone_from(attribution);
        }
        if let Some(runtime) = seen.runtime.as_ref().filter(|runtime| !row.runtimes.contains(runtime)) {
            row.runtimes.push(runtime.clone());
            row.runtimes.sort();
        }
        Ok(row.id)
    }

    /// Counts pulls of a client that was just seen.
    fn met_client(&mut self, who: &str, verdict: Verdict, count: i64, last: i64) {
        let Some(row) = touched(&mut self.clients, who) else { return };
        if verdict.refuses() {
            row.refusals = row.refusals.saturating_add(count);
            row.last_refused = row.last_refused.max(Some(last));
        } else {
            row.pulls = row.pulls.saturating_add(count);
        }
    }

    /// Counts who met what.
    async fn meets(
        &mut self,
        work: &mut SqliteConnection,
        key: &str,
        pair: (i64, i64),
        runtime: &str,
        count: i64,
        (first, last): (i64, i64),
    ) -> Result<()> {
        if !self.met.contains_key(&pair) {
            let row = match MetRow::load(work, pair).await? {
                Some(row) => row,
                None => {
                    let Some(group) = touched(&mut self.groups, key) else { return Ok(()) };
                    if group.clients >= i64::try_from(Group::CLIENTS_MAX).unwrap_or(i64::MAX) {
                        return Ok(());
                    }
                    group.clients += 1;
                    MetRow { runtime: runtime.to_owned(), count: 0, first, last }
                }
            };
            self.met.insert(pair, Slot { row, dirty: true });
        }
        let Some(row) = touched(&mut self.met, &pair) else { return Ok(()) };
        row.count = row.count.saturating_add(count);
        row.first = row.first.min(first);
        row.last = row.last.max(last);
        if !runtime.is_empty() && row.runtime != runtime {
            runtime.clone_into(&mut row.runtime);
        }
        Ok(())
    }

    fn bucket(&mut self, at: i64, gain: impl Fn(&mut Gain)) {
        for (step, kept) in [(HOUR, HOURS_KEPT), (DAY, i64::MAX)] {
            if at >= horizon(self.newest, kept) {
                gain(self.buckets.entry((step, at - at.rem_euclid(step))).or_default());
            }
        }
    }

    fn tally(&mut self, verdict: Verdict, (group, client): (i64, i64), count: i64, at: i64) {
        if !verdict.refuses() {
            return;
        }
        for (step, kept) in [(HOUR, HOUR_TALLIES_KEPT), (DAY, DAY_TALLIES_KEPT)] {
            if at >= horizon(self.newest, kept) {
                let at = at - at.rem_euclid(step);
                *self.tallies.entry((0, step, at, group)).or_default() += count;
                *self.tallies.entry((1, step, at, client)).or_default() += count;
            }
        }
    }

    fn trim(&mut self) {
        if self.groups.len() > CACHED {
            self.groups.clear();
        }
        if self.clients.len() > CACHED {
            self.clients.clear();
        }
        if self.met.len() > CACHED {
            self.met.clear();
        }
    }
}

/// What later events of a decision need to know of it.
fn parent_of(body: &Body) -> Option<Parent> {
    let verdict = Verdict::parse(body.verdict.as_deref()?)?;
    let group = (verdict != Verdict::Allow).then(|| {
        let kind = if verdict == Verdict::Warn { GroupKind::Warned } else { GroupKind::Refused };
        let reference = body.image.as_ref().map(|image| &*image.reference).unwrap_or_default();
        group_key(kind, reference, body.reason.as_ref().map(|reason| &*reason.code).unwrap_or_default())
    });
    let no_client = Client::default();
    let client = body.client.as_ref().unwrap_or(&no_client);
    Some(Parent { verdict, group, client: client.who(), runtime: client.runtime.clone().unwrap_or_default() })
}

fn group(key: &str, kind: GroupKind, reference: &str, reason: &str, first: i64) -> GroupRow {
    GroupRow {
        id: 0,
        key: key.to_owned(),
        kind,
        reference: reference.to_owned(),
        reason: reason.to_owned(),
        reasons: Vec::new(),
        verdict: String::new(),
        registry: None,
        repository: None,
        tag: None,
        digest: None,
        source: None,
        count: 0,
        first,
        last: first,
        clients: 0,
        latest: String::new(),
        message: String::new(),
        remedy: None,
        sample: Vec::new(),
        state: State::New,
        note: None,
        changed_by: None,
        changed: None,
        reopened: false,
        since_change: 0,
        newly: first,
    }
}

fn client(id: i64, who: &str) -> ClientRow {
    ClientRow {
        id,
        who: who.to_owned(),
        name: None,
        address: String::new(),
        attribution: String::new(),
        runtimes: Vec::new(),
        pulls: 0,
        refusals: 0,
        bytes: 0,
        first: i64::MAX,
        last: 0,
        last_refused: None,
    }
}

fn touched<'a, K: Eq + Hash + std::borrow::Borrow<Q>, Q: Eq + Hash + ?Sized, T>(
    slots: &'a mut HashMap<K, Slot<T>>,
    key: &Q,
) -> Option<&'a mut T> {
    let slot = slots.get_mut(key)?;
    slot.dirty = true;
    Some(&mut slot.row)
}

impl Gain {
    fn met(&mut self, verdict: Verdict, count: i64) {
        let field = match verdict {
            Verdict::Allow => &mut self.allow,
            Verdict::Deny => &mut self.deny,
            Verdict::Hold => &mut self.hold,
            Verdict::Warn => &mut self.warn,
        };
        *field = field.saturating_add(count);
    }

    fn moved(&mut self, cache: &str, bytes: i64) {
        let (field, moved) = match cache {
            "hit" => (&mut self.hits, &mut self.bytes_cached),
            "miss" => (&mut self.misses, &mut self.bytes_fetched),
            "offline" => (&mut self.offline, &mut self.bytes_cached),
            "stale" => (&mut self.stale, &mut self.bytes_cached),
            _ => return,
        };
        *field += 1;
        *moved = moved.saturating_add(bytes);
    }
}

fn number(value: Option<u64>) -> i64 {
    i64::try_from(value.unwrap_or_default()).unwrap_or(i64::MAX)
}

fn day(at: i64) -> i64 {
    at.div_euclid(DAY)
}

/// The first moment that is kept: whole days, so that when it is looked at makes no difference.
fn horizon(newest: i64, kept: i64) -> i64 {
    (day(newest) * DAY).saturating_sub(kept)
}

/// How far the record is counted, and the event that stands there.
pub(super) async fn place(
    connection: &mut SqliteConnection,
) -> std::result::Result<(i64, String), sqlx::Error> {
    let row = sqlx::query("SELECT seq, event FROM place").fetch_one(connection).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}
