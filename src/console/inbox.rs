//! `/inbox`: blocked references, not requests, and what a reviewer makes of each.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};
use maud::{Markup, html};
use serde_json::{Map, json};

use super::Console;
use super::answer::{Answer, Trouble};
use super::filters::{self, Filters};
use super::frame::{Visitor, page};
use super::listing::{Cell, Column, Listing, moment, stamp};
use super::query::{Format, Query};
use crate::policy::Code;
use crate::review::{Cursor, Group, GroupKind, InboxFilter, InboxOrder, State, Totals};

/// Groups of one page.
const PAGE: u32 = 100;
/// Groups of one page for programs.
const PAGE_VALUES: u32 = 1000;
/// After so long without a look a visit is over, and the next look begins another.
const VISIT: SignedDuration = SignedDuration::from_mins(30);
/// So many visitors' visits are remembered; there are not so many users.
const VISITORS: usize = 1000;

const KEYS: &[&str] = &[
    "client",
    "kind",
    "new_since",
    "order",
    "reason",
    "registry",
    "repository",
    "since",
    "state",
    "tag",
    "text",
    "until",
];

const COLUMNS: &[Column] = &[
    ("reference", "Reference"),
    ("reason", "Reason"),
    ("verdict", "Verdict"),
    ("state", "State"),
    ("count", "Pulls"),
    ("clients", "Clients"),
    ("first", "First"),
    ("last", "Last"),
    ("note", "Note"),
];

/// When each visitor's visit before this one ended.
#[derive(Debug, Default)]
pub(super) struct Visits(Mutex<HashMap<String, Visit>>);

#[derive(Clone, Copy, Debug)]
struct Visit {
    /// When the one before ended.
    before: Option<Timestamp>,
    /// When it was last looked.
    used: Timestamp,
}

impl Console {
    pub(super) async fn inbox(&self, visitor: &Visitor, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, KEYS)?;
        let now = self.clock.now();
        let state = match query.of("state") {
            None => Some(State::New),
            Some("all") => None,
            Some(_) => query.word("state", State::parse)?,
        };
        let filter = InboxFilter {
            kind: query.word("kind", GroupKind::parse)?,
            state,
            reason: query.owned("reason"),
            registry: query.owned("registry"),
            repository: query.owned("repository"),
            tag: query.owned("tag"),
            client: query.owned("client"),
            text: query.owned("text"),
            since: query.time("since", now)?,
            until: query.time("until", now)?,
            new_since: query.time("new_since", now)?,
            order: query.word("order", InboxOrder::parse)?.unwrap_or_default(),
        };
        let format = query.format()?;
        let after = query.of("after").map(str::parse::<Cursor>).transpose()?;
        let review = self.review()?;
        let size = if format == Format::Html { PAGE } else { PAGE_VALUES };
        let groups = review.inbox(&filter, after.as_ref(), size).await?;
        let listing = Listing {
            caption: "Blocked references".to_owned(),
            file: "inbox",
            columns: COLUMNS,
            rows: groups.items.iter().map(row).collect(),
            empty: "Nothing is here. What is blocked from now on appears by itself.",
            next: groups.next.map(|next| next.to_string()),
        };
        let totals = review.totals(&filter).await?;
        if format != Format::Html {
            let mut more = Map::new();
            let totals = json!({ "new": totals.new, "acknowledged": totals.acknowledged, "resolved": totals.resolved });
            more.insert("totals".to_owned(), totals);
            return listing.answer(format, &query, "/inbox", more);
        }
        let before = self.visited(&visitor.name, now).await;
        let newcomers = match before {
            None => None,
            Some(before) => {
                let filter = InboxFilter { new_since: Some(before), state: None, ..InboxFilter::default() };
                let totals = review.totals(&filter).await?;
                Some((before, totals.new + totals.acknowledged + totals.resolved))
            }
        };
        let body = html! {
            h1 { "Inbox" }
            @if review.status().behind { p.notice { "The record is being counted anew; not everything is shown yet." } }
            @if let Some((before, count)) = newcomers {
                p {
                    @if count == 0 { "Nothing new" } @else { a href=(query.first().without("state").with("state", "all").with("new_since", &stamp(before)).link("/inbox")) { (count) " new" } }
                    " since your last visit (" (moment(before)) ")."
                }
            }
            (tabs(&query, state, totals))
            (form(&query))
            (listing.markup("/inbox", &query))
        };
        Ok(page(visitor, "/inbox", "Inbox", &body))
    }

    /// When this visitor's visit before this one ended; the look counts as part of this one.
    async fn visited(&self, name: &str, now: Timestamp) -> Option<Timestamp> {
        let known = self.0.visits.of(name);
        let before = match known {
            Some(visit) if now.duration_since(visit.used) < VISIT => visit.before,
            Some(visit) => Some(visit.used),
            None => match &self.review {
                Ok(review) => review.visit(name).await.ok().flatten(),
                Err(_) => None,
            },
        };
        self.0.visits.set(name, Visit { before, used: now });
        // Once a minute is often enough for what is only compared with days.
        let stale = known.is_none_or(|visit| now.duration_since(visit.used) >= SignedDuration::from_mins(1));
        if let (true, Ok(review)) = (stale, &self.review)
            && let Err(error) = review.mark_visit(name, now).await
        {
            tracing::debug!(%error, "a visit to the inbox could not be kept");
        }
        before
    }
}

impl Visits {
    fn of(&self, name: &str) -> Option<Visit> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    fn set(&self, name: &str, visit: Visit) {
        let mut visits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if visits.len() < VISITORS || visits.contains_key(name) {
            visits.insert(name.to_owned(), visit);
        }
    }
}

pub(super) fn row(group: &Group) -> Vec<Cell> {
    vec![
        Cell::Link(group.subject.reference.clone(), format!("/inbox/{}", group.key)),
        Cell::Text(group.reason.clone()),
        Cell::Word(group.verdict.clone()),
        Cell::Word(group.state.as_str().to_owned()),
        Cell::Count(group.count),
        Cell::Count(group.clients),
        Cell::Time(group.first),
        Cell::Time(group.last),
        Cell::text(group.note.clone()),
    ]
}

fn tabs(query: &Query, state: Option<State>, totals: Totals) -> Markup {
    let all = totals.new + totals.acknowledged + totals.resolved;
    let tabs = [
        ("New", Some(State::New), totals.new),
        ("Acknowledged", Some(State::Acknowledged), totals.acknowledged),
        ("Resolved", Some(State::Resolved), totals.resolved),
        ("All", None, all),
    ];
    html! {
        nav.tabs aria-label="State" {
            ul {
                @for (title, of, count) in tabs {
                    li {
                        a href=(query.with("state", of.map_or("all", State::as_str)).link("/inbox"))
                            aria-current=[(of == state).then_some("page")] { (title) " (" (count) ")" }
                    }
                }
            }
        }
    }
}

fn form(query: &Query) -> Markup {
    let codes: Vec<(&str, &str)> = Code::ALL.iter().map(|code| (code.as_str(), code.as_str())).collect();
    let filters =
        Filters { query, path: "/inbox", shown: &["text", "reason", "registry", "client", "since", "order"] };
    filters.form(&html! {
        (filters.text("text", "Text"))
        (filters.choice("reason", "Reason", "any reason", &codes))
        (filters.text("registry", "Registry"))
        (filters.text("client", "Client"))
        (filters.choice("since", "Met within", "any time", filters::TIMES))
        (filters.choice("order", "Order", "last met first", &[("first", "newest first"), ("count", "most pulls first")]))
    })
}
