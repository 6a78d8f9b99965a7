//! `/clients`, `/upstreams`, `/drift`: who pulls, from where, and what moved there.

use maud::html;
use serde_json::{Map, Value};

use super::answer::{Answer, Trouble};
use super::filters::{self, Filters};
use super::frame::{Visitor, page};
use super::listing::{Cell, Column, Listing};
use super::query::{Format, Query, link};
use super::{Console, Upstream};
use crate::review::{Client, ClientFilter, ClientOrder, Cursor, Drift, UpstreamChange};

/// Rows of one page.
const PAGE: u32 = 50;
/// Rows of one page for programs.
const PAGE_VALUES: u32 = 1000;
/// So many changes of upstreams beside their state; the log has the rest.
const CHANGES: u32 = 25;

const CLIENTS: &[Column] = &[
    ("client", "Client"),
    ("address", "Address"),
    ("attribution", "Known by"),
    ("runtimes", "Runtimes"),
    ("pulls", "Pulls"),
    ("refusals", "Refusals"),
    ("bytes", "Bytes"),
    ("first", "First seen"),
    ("last", "Last seen"),
    ("last_refused", "Last refused"),
];
const UPSTREAMS: &[Column] = &[
    ("registry", "Registry"),
    ("endpoint", "Endpoint"),
    ("state", "State"),
    ("failure", "What fails"),
    ("last_success", "Last answered"),
    ("last_failure", "Last failed"),
    ("held_until", "Left alone until"),
    ("remaining", "Manifests left of its limit"),
    ("requests", "Requests"),
    ("denied", "Denied"),
];
const CHANGE_COLUMNS: &[Column] = &[
    ("time", "Time"),
    ("id", "Event"),
    ("registry", "Registry"),
    ("state", "State"),
    ("repository", "Repository"),
    ("digest", "Digest"),
    ("text", "What happened"),
];
const DRIFTS: &[Column] = &[
    ("reference", "Tag"),
    ("time", "Seen"),
    ("locked", "Locked here to"),
    ("current", "Leads upstream to"),
    ("id", "Event"),
];

fn size(format: Format) -> u32 {
    if format == Format::Html { PAGE } else { PAGE_VALUES }
}

impl Console {
    pub(super) async fn clients(&self, visitor: &Visitor, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, &["order", "since", "text"])?;
        let format = query.format()?;
        let filter = ClientFilter {
            text: query.owned("text"),
            since: query.time("since", self.clock.now())?,
            order: query.word("order", ClientOrder::parse)?.unwrap_or_default(),
        };
        let after = query.of("after").map(str::parse::<Cursor>).transpose()?;
        let clients = self.review()?.clients(&filter, after.as_ref(), size(format)).await?;
        let listing = Listing {
            caption: "Clients".to_owned(),
            file: "clients",
            columns: CLIENTS,
            rows: clients.items.into_iter().map(client).collect(),
            empty: "No client was seen.",
            next: clients.next.map(|next| next.to_string()),
        };
        if format != Format::Html {
            return listing.answer(format, &query, "/clients", Map::new());
        }
        let filters = Filters { query: &query, path: "/clients", shown: &["text", "since", "order"] };
        let body = html! {
            h1 { "Clients" }
            p.soft { "Behind NAT one address may be many machines; a name is proven by a certificate or a token, or follows from the address." }
            (filters.form(&html! {
                (filters.text("text", "Name or address"))
                (filters.choice("since", "Seen within", "any time", filters::TIMES))
                (filters.choice("order", "Order", "last seen first", &[("pulls", "most pulls first"), ("refusals", "most refusals first")]))
            }))
            (listing.markup("/clients", &query))
        };
        Ok(page(visitor, "/clients", "Clients", &body))
    }

    pub(super) async fn upstreams(&self, visitor: &Visitor, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, &[])?;
        let format = query.format()?;
        let listing = Listing {
            caption: "Endpoints since the start of the gateway".to_owned(),
            file: "upstreams",
            columns: UPSTREAMS,
            rows: (self.upstreams)().into_iter().map(upstream).collect(),
            empty: "No upstream was asked yet.",
            next: None,
        };
        // How upstreams are is known without the record of how they were.
        let changes = match &self.review {
            Ok(review) => review.upstreams(None, CHANGES).await.map_err(Trouble::from),
            Err(error) => Err(Trouble::from(error.clone())),
        };
        let changes = changes.map(|page| Listing {
            caption: "What happened to upstreams, the latest first".to_owned(),
            file: "changes",
            columns: CHANGE_COLUMNS,
            rows: page.items.into_iter().map(change).collect(),
            empty: "Nothing is on record.",
            next: None,
        });
        if format != Format::Html {
            let mut more = Map::new();
            let values = changes.as_ref().map_or(Value::Null, Listing::values);
            more.insert("changes".to_owned(), values);
            return listing.answer(format, &query, "/upstreams", more);
        }
        let body = html! {
            h1 { "Upstreams" }
            (listing.markup("/upstreams", &query))
            h2 { "What happened" }
            @match &changes {
                Ok(changes) if changes.rows.is_empty() => p.empty { (changes.empty) },
                Ok(changes) => { (changes.table()) p { a href="/log?kind=upstream" { "All events of upstreams" } } }
                Err(trouble) => p.notice { (super::shown(&trouble.to_string())) },
            }
        };
        Ok(page(visitor, "/upstreams", "Upstreams", &body))
    }

    pub(super) async fn drift(&self, visitor: &Visitor, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, &[])?;
        let format = query.format()?;
        let after = query.of("after").map(str::parse::<Cursor>).transpose()?;
        let drifts = self.review()?.drifts(after.as_ref(), size(format)).await?;
        let listing = Listing {
            caption: "Tags that moved upstream, the latest first".to_owned(),
            file: "drift",
            columns: DRIFTS,
            rows: drifts.items.into_iter().map(drift).collect(),
            empty: "No locked tag moved upstream.",
            next: drifts.next.map(|next| next.to_string()),
        };
        if format != Format::Html {
            return listing.answer(format, &query, "/drift", Map::new());
        }
        let body = html! {
            h1 { "Drift" }
            p.soft { "These tags lead elsewhere upstream than where they are locked here. What is served follows the policy (" code { "tags.moved" } "); see what the tag was on the event's page." }
            (listing.markup("/drift", &query))
        };
        Ok(page(visitor, "/drift", "Drift", &body))
    }
}

fn client(client: Client) -> Vec<Cell> {
    vec![
        Cell::Link(client.who.clone(), link("/inbox", [("client", client.who.as_str()), ("state", "all")])),
        Cell::Link(client.address.clone(), link("/log", [("client", client.address.as_str())])),
        Cell::Text(client.attribution),
        Cell::List(client.runtimes),
        Cell::Count(client.pulls),
        Cell::Count(client.refusals),
        Cell::Count(client.bytes),
        Cell::Time(client.first),
        Cell::Time(client.last),
        Cell::time(client.last_refused),
    ]
}

fn upstream(upstream: Upstream) -> Vec<Cell> {
    let state = match (&upstream.failure, upstream.last_success) {
        (Some(_), _) => "failing",
        (None, Some(_)) => "ok",
        (None, None) => "not asked yet",
    };
    let registry = upstream.registry.clone();
    vec![
        Cell::Link(registry.clone(), link("/log", [("registry", registry.as_str())])),
        Cell::Code(upstream.endpoint),
        Cell::Word(state.to_owned()),
        Cell::text(upstream.failure),
        Cell::time(upstream.last_success),
        Cell::time(upstream.last_failure),
        Cell::time(upstream.resting_until.max(upstream.throttled_until)),
        match (upstream.remaining, upstream.limit) {
            (Some(remaining), Some(limit)) => Cell::Text(format!("{remaining} of {limit}")),
            (Some(remaining), None) => Cell::Text(remaining.to_string()),
            _ => Cell::Empty,
        },
        Cell::Count(upstream.requests),
        Cell::Count(upstream.denied),
    ]
}

fn change(change: UpstreamChange) -> Vec<Cell> {
    vec![
        Cell::Time(change.time),
        Cell::Link(change.id.clone(), format!("/d/{}", change.id)),
        Cell::Text(change.registry),
        Cell::Word(change.state),
        Cell::code(change.repository),
        Cell::code(change.digest),
        Cell::text(change.text),
    ]
}

fn drift(drift: Drift) -> Vec<Cell> {
    let reference = format!("{}/{}:{}", drift.registry, drift.repository, drift.tag);
    vec![
        Cell::Link(reference.clone(), link("/log", [("image", reference.as_str())])),
        Cell::Time(drift.time),
        Cell::code(drift.locked),
        drift.current.map_or_else(|| Cell::Text("gone".to_owned()), Cell::Code),
        Cell::Link(drift.id.clone(), format!("/d/{}", drift.id)),
    ]
}
