//! `/recalls` and `/exceptions`: what the policy withdrew and what it lets pass for a while, and what
//! became of that.

use std::collections::HashMap;

use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::{Map, json};

use super::answer::{Answer, Trouble};
use super::frame::{Visitor, page};
use super::listing::{Cell, Column, Listing, stamp};
use super::query::{Format, Query, link};
use super::{Console, shown};
use crate::gate::{Pulls, RecallReport, recall_report};
use crate::policy::{Exception, Recall};
use crate::review::{self, ExceptionUse};

const EXCEPTIONS: &[Column] = &[
    ("id", "Exception"),
    ("state", "State"),
    ("image", "Image"),
    ("waives", "Waives"),
    ("expires", "Last day"),
    ("requested_by", "Requested by"),
    ("approved_by", "Approved by"),
    ("ticket", "Ticket"),
    ("used", "Uses"),
    ("needed", "Needed"),
    ("unneeded", "Not needed"),
    ("last_used", "Last used"),
];
const RECALLS: &[Column] = &[
    ("id", "Recall"),
    ("state", "State"),
    ("reason", "Reason"),
    ("names", "Names"),
    ("replace", "Replacement"),
    ("first", "On record since"),
];
const PULLS: &[Column] = &[
    ("client", "Client"),
    ("reference", "Reference"),
    ("count", "Pulls"),
    ("first", "First"),
    ("last", "Last"),
];
const HOLDERS: &[Column] = &[("digest", "Digest"), ("repository", "Repository"), ("tags", "Tags")];

/// So many rows of each list of a recall's page; the JSON has them all.
const ROWS: usize = 200;
/// What a recall cannot know.
const UNSEEN: &str = "Running containers are not seen here: whoever pulled it may still run it.";

impl Console {
    pub(super) async fn exceptions(&self, visitor: &Visitor, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, &[])?;
        let format = query.format()?;
        let now = self.clock.now();
        let rules = self.gate.rules();
        let used = self.review()?.exceptions().await?;
        let by_id: HashMap<&str, &ExceptionUse> = used.iter().map(|used| (used.id.as_str(), used)).collect();
        let in_force = rules.policy().exceptions();
        let mut rows: Vec<Vec<Cell>> = in_force
            .iter()
            .map(|exception| exception_row(exception, by_id.get(&*exception.id).copied(), now))
            .collect();
        rows.extend(used.iter().filter(|used| !in_force.iter().any(|one| *one.id == *used.id)).map(past_row));
        let listing = Listing {
            caption: "Exceptions of the policy in force, then those of before".to_owned(),
            file: "exceptions",
            columns: EXCEPTIONS,
            rows,
            empty: "The policy has no exception, and none is on record.",
            next: None,
        };
        if format != Format::Html {
            return listing.answer(format, &query, "/exceptions", Map::new());
        }
        let body = html! {
            h1 { "Exceptions" }
            p.soft { "An exception that was used and never needed can be removed: what it waives was not what would have refused the pulls." }
            (listing.markup("/exceptions", &query))
        };
        Ok(page(visitor, "/exceptions", "Exceptions", &body))
    }

    pub(super) async fn recalls(&self, visitor: &Visitor, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, &[])?;
        let format = query.format()?;
        let rules = self.gate.rules();
        let recorded = self.review()?.recalls().await?;
        let first: HashMap<&str, Timestamp> =
            recorded.iter().map(|recall| (recall.id.as_str(), recall.first)).collect();
        let in_force = rules.policy().recalls();
        let mut rows: Vec<Vec<Cell>> =
            in_force.iter().map(|recall| recall_row(recall, first.get(&*recall.id).copied())).collect();
        rows.extend(
            recorded.iter().filter(|old| !in_force.iter().any(|one| *one.id == *old.id)).map(withdrawn_row),
        );
        let listing = Listing {
            caption: "Recalls of the policy in force, then those of before".to_owned(),
            file: "recalls",
            columns: RECALLS,
            rows,
            empty: "The policy recalls nothing.",
            next: None,
        };
        if format != Format::Html {
            return listing.answer(format, &query, "/recalls", Map::new());
        }
        let body = html! {
            h1 { "Recalls" }
            p.soft { "A recall's page shows who pulled what it covers. " (UNSEEN) }
            (listing.markup("/recalls", &query))
        };
        Ok(page(visitor, "/recalls", "Recalls", &body))
    }

    pub(super) async fn recall(&self, visitor: &Visitor, id: &str, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, &[])?;
        let format = query.format()?;
        let rules = self.gate.rules();
        let recall =
            rules.policy().recalls().iter().find(|recall| *recall.id == *id).ok_or_else(|| {
                Trouble::Missing("The policy in force has no recall of this id.".to_owned())
            })?;
        let report = recall_report(recall, &self.catalog, &self.reader).await.map_err(|error| {
            tracing::warn!(%error, "a recall's reach could not be read");
            Trouble::Unavailable(format!("The reach of this recall cannot be read at this moment: {error}."))
        })?;
        let pulled = pulls("Who pulled what it covers, the latest first", "pulled", &report.pulled);
        let path = link_to(&recall.id);
        if format != Format::Html {
            let mut more = Map::new();
            more.insert("id".to_owned(), json!(&*recall.id));
            more.insert("reason".to_owned(), json!(&*recall.reason));
            more.insert("covers".to_owned(), holders(&report).values());
            more.insert("refused".to_owned(), pulls("", "refused", &report.refused).values());
            let replaced = report.replaced.as_ref().map(|replaced| pulls("", "replaced", replaced).values());
            more.insert("replaced".to_owned(), json!(replaced));
            more.insert("note".to_owned(), json!(UNSEEN));
            return pulled.answer(format, &query, &path, more);
        }
        let body = html! {
            h1 { "Recall " (shown(&recall.id)) }
            p { (shown(&recall.reason)) }
            p.notice { (UNSEEN) }
            (facts(recall))
            h2 { "Who pulled it" }
            (short(pulled).markup(&path, &query))
            h2 { "Who asked for it since, and was refused" }
            (part(&short(pulls("Refused since the recall", "refused", &report.refused)), "Nobody asked for it since."))
            h2 { "Who pulled the replacement" }
            @match &report.replaced {
                None => p.empty { "The recall names no replacement." },
                Some(replaced) => (uptake(&report, replaced)),
            }
            h2 { "What it covers here" }
            (part(&short(holders(&report)), "Nothing that it covers was ever held here."))
        };
        Ok(page(visitor, "/recalls", &format!("Recall {}", recall.id), &body))
    }
}

fn link_to(id: &str) -> String {
    let encoded: String = url::form_urlencoded::byte_serialize(id.as_bytes()).collect();
    format!("/recalls/{}", encoded.replace('+', "%20"))
}

fn part(listing: &Listing, none: &'static str) -> Markup {
    html! { @if listing.rows.is_empty() { p.empty { (none) } } @else { (listing.table()) } }
}

/// A list's beginning, which says so.
fn short(mut listing: Listing) -> Listing {
    let all = listing.rows.len();
    if all > ROWS {
        listing.rows.truncate(ROWS);
        listing.caption = format!("{} (the first {ROWS} of {all}; JSON has them all)", listing.caption);
    }
    listing
}

fn uptake(report: &RecallReport, replaced: &[Pulls]) -> Markup {
    let clients = |pulls: &[Pulls]| {
        pulls.iter().map(|pulls| pulls.client.clone()).collect::<std::collections::BTreeSet<String>>()
    };
    let (hit, moved) = (clients(&report.pulled), clients(replaced));
    let both = hit.intersection(&moved).count();
    html! {
        p { (both) " of " (hit.len()) " clients that pulled what is recalled have pulled the replacement." }
        (part(&short(pulls("Who pulled the replacement, the latest first", "replaced", replaced)), "Nobody pulled it yet."))
    }
}

fn pulls(caption: &str, file: &'static str, pulls: &[Pulls]) -> Listing {
    let row = |pulls: &Pulls| {
        vec![
            Cell::Link(pulls.client.clone(), link("/log", [("client", pulls.client.as_str())])),
            Cell::Code(pulls.reference.clone()),
            Cell::Count(pulls.count),
            pulls.first.parse().map_or(Cell::Empty, Cell::Time),
            pulls.last.parse().map_or(Cell::Empty, Cell::Time),
        ]
    };
    Listing {
        caption: caption.to_owned(),
        file,
        columns: PULLS,
        rows: pulls.iter().map(row).collect(),
        empty: "Nobody, as far as the record goes back.",
        next: None,
    }
}

fn holders(report: &RecallReport) -> Listing {
    let row = |holder: &crate::catalog::Holder| {
        vec![
            Cell::Code(holder.digest.to_string()),
            Cell::Code(holder.name.to_string()),
            Cell::List(holder.tags.iter().map(ToString::to_string).collect()),
        ]
    };
    Listing {
        caption: "Manifests and indexes that it covers".to_owned(),
        file: "covers",
        columns: HOLDERS,
        rows: report.holders.iter().map(row).collect(),
        empty: "",
        next: None,
    }
}

fn facts(recall: &Recall) -> Markup {
    html! {
        dl.facts {
            dt { "Rule" } dd { code { (shown(&recall.at)) } }
            dt { "Names" } dd { @for name in names(recall) { div { code { (shown(&name)) } } } }
            @if let Some(replace) = &recall.replace { dt { "Replacement" } dd { code { (shown(&replace.to_string())) } } }
        }
    }
}

fn names(recall: &Recall) -> Vec<String> {
    let contents = [("digest", &recall.digests), ("layer", &recall.layers), ("diff_id", &recall.diff_ids)];
    let contents = contents
        .into_iter()
        .flat_map(|(kind, digests)| digests.iter().map(move |digest| format!("{kind} {digest}")));
    let images = recall.images.iter().map(|(name, tag)| match tag {
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_string(),
    });
    contents.chain(images).collect()
}

fn recall_row(recall: &Recall, first: Option<Timestamp>) -> Vec<Cell> {
    vec![
        Cell::Link(recall.id.to_string(), link_to(&recall.id)),
        Cell::Word("active".to_owned()),
        Cell::Text(recall.reason.to_string()),
        Cell::List(names(recall)),
        Cell::code(recall.replace.as_ref().map(ToString::to_string)),
        Cell::time(first),
    ]
}

fn withdrawn_row(recall: &review::Recall) -> Vec<Cell> {
    vec![
        Cell::Text(recall.id.clone()),
        Cell::Word("removed".to_owned()),
        Cell::Text(recall.reason.clone()),
        Cell::List(recall.names.clone()),
        Cell::code(recall.replace.clone()),
        Cell::Time(recall.first),
    ]
}

fn exception_row(exception: &Exception, used: Option<&ExceptionUse>, now: Timestamp) -> Vec<Cell> {
    let state = match (exception.is_active(now), exception.ends_soon(now)) {
        (true, true) => "soon",
        (true, false) => "active",
        (false, _) if exception.ends().is_some_and(|end| end <= now) => "expired",
        (false, _) => "not yet",
    };
    vec![
        Cell::Text(exception.id.to_string()),
        Cell::Word(state.to_owned()),
        Cell::Code(exception.image.to_string()),
        Cell::List(exception.waive.iter().map(|check| check.as_str().to_owned()).collect()),
        Cell::Text(exception.expires.to_string()),
        Cell::Text(exception.requested_by.to_string()),
        Cell::Text(exception.approved_by.to_string()),
        Cell::Text(exception.ticket.to_string()),
        Cell::Count(used.map_or(0, |used| used.used)),
        Cell::Count(used.map_or(0, |used| used.needed)),
        Cell::Count(used.map_or(0, |used| used.unneeded)),
        last_used(used),
    ]
}

fn past_row(used: &ExceptionUse) -> Vec<Cell> {
    vec![
        Cell::Text(used.id.clone()),
        Cell::Word(used.result.clone().unwrap_or_else(|| "removed".to_owned())),
        Cell::Code(used.image.clone()),
        Cell::List(used.waive.clone()),
        Cell::text(used.expires.clone()),
        Cell::Empty,
        Cell::Empty,
        Cell::Empty,
        Cell::Count(used.used),
        Cell::Count(used.needed),
        Cell::Count(used.unneeded),
        last_used(Some(used)),
    ]
}

fn last_used(used: Option<&ExceptionUse>) -> Cell {
    match used.map(|used| (used.last_used, &used.last_decision)) {
        Some((Some(at), Some(decision))) => Cell::Link(stamp(at), format!("/d/{decision}")),
        Some((Some(at), None)) => Cell::Time(at),
        _ => Cell::Empty,
    }
}
