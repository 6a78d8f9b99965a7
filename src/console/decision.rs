//! `/d/<id>`: one event of the record, whole.

use maud::{Markup, html};
use serde_json::{Map, Value, json};
use ulid::Ulid;

use super::answer::{Answer, Trouble};
use super::frame::{Visitor, page};
use super::listing::{Cell, Column, Listing, answer_json, badge};
use super::query::{Format, Query, link};
use super::{Console, shown};
use crate::audit::{Entry, Subject};
use crate::catalog::HistoryRow;
use crate::oci::{Name, Reference, Tag};
use crate::policy::Code;
use crate::review::{Group, Met};

/// So many rows of the lists on this page; the record has the rest.
const ROWS: u32 = 25;
/// So many checks; an image of a thousand platforms has more.
const CHECKS: usize = 400;

const CHECK_COLUMNS: &[Column] = &[
    ("id", "Check"),
    ("result", "Result"),
    ("observed", "Observed"),
    ("expected", "Expected"),
    ("at", "Rule"),
    ("exception", "Exception"),
];
const HISTORY_COLUMNS: &[Column] = &[
    ("digest", "Digest"),
    ("first", "First seen"),
    ("last", "Last seen"),
    ("whence", "Seen"),
    ("served", "Served here"),
    ("locked", "Locked"),
    ("current", "Upstream now"),
];
pub(super) const MET_COLUMNS: &[Column] = &[
    ("client", "Client"),
    ("address", "Address"),
    ("runtime", "Runtime"),
    ("count", "Pulls"),
    ("first", "First"),
    ("last", "Last"),
];

impl Console {
    pub(super) async fn decision(&self, visitor: &Visitor, id: &str, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, &[])?;
        let missing = || {
            Trouble::Missing(
                "No event with this id is on record here. The id may be cut off, another gateway's, or older than \
                 what the record keeps."
                    .to_owned(),
            )
        };
        let ulid = Ulid::from_string(id).ok().filter(|_| id.len() == ulid::ULID_LEN).ok_or_else(missing)?;
        let entry = self.reader.find(&ulid).await?.ok_or_else(missing)?;
        match query.format()? {
            Format::Json => return Ok(answer_json(&Value::Object(entry.event))),
            Format::Csv => {
                return checks(&entry).answer(Format::Csv, &query, "", Map::new());
            }
            Format::Patch => {
                return Err(Trouble::Invalid("An event has the formats html, json and csv.".to_owned()));
            }
            Format::Html => {}
        }
        let subject = subject_of(&entry);
        // What is beside the event itself is left out where it cannot be read.
        let (group, met) = match (&self.review, subject) {
            (Ok(review), Some(subject)) => match review.group(&subject).await {
                Ok(Some(group)) => {
                    let met = review.clients_of(&group.key, None, ROWS).await;
                    (Some(group), met.map(|page| page.items).unwrap_or_default())
                }
                _ => (None, Vec::new()),
            },
            _ => (None, Vec::new()),
        };
        let history = match place_of(&entry) {
            Some((name, tag)) => self.gate.history(&name, &tag).await.unwrap_or_default(),
            None => Vec::new(),
        };
        let path = format!("/d/{ulid}");
        let body = markup(&entry, &path, group.as_ref(), met, &history);
        Ok(page(visitor, "/log", &title(&entry), &body))
    }
}

/// What a decision is grouped by.
fn subject_of(entry: &Entry) -> Option<Subject> {
    let reference = entry.text(&["image", "reference"])?.to_owned();
    entry.text(&["reason", "code"])?;
    Some(Subject { reference, reason: entry.text(&["reason", "code"]).and_then(Code::parse) })
}

fn place_of(entry: &Entry) -> Option<(Name, Tag)> {
    let (registry, repository) = (entry.text(&["image", "registry"])?, entry.text(&["image", "repository"])?);
    let name = format!("{registry}/{repository}").parse().ok()?;
    Some((name, entry.text(&["image", "tag"])?.parse().ok()?))
}

fn title(entry: &Entry) -> String {
    let what = headline(entry);
    match entry.text(&["image", "reference"]) {
        Some(reference) => format!("{what}: {}", shown(reference)),
        None => what.to_owned(),
    }
}

/// What happened, in a few words.
pub(super) fn headline(entry: &Entry) -> &'static str {
    match (entry.text(&["kind"]).unwrap_or_default(), entry.text(&["verdict"]).unwrap_or_default()) {
        ("flood", _) => "Many refused names",
        ("decision", "deny") => "Blocked pull",
        ("decision", "hold") => "Held pull",
        ("decision", "warn") => "Warned pull",
        ("decision", _) => "Allowed pull",
        ("admin", _) => "Reviewer's action",
        ("alert", _) => "Alert",
        ("auth", _) => "Log-in",
        ("checkpoint", _) => "Checkpoint",
        ("drift", _) => "Drift",
        ("exception", _) => "Exception",
        ("pin", _) => "Lock of a tag",
        ("policy", _) => "Policy",
        ("recall", _) => "Recall",
        ("upstream", _) => "Upstream",
        _ => "Event",
    }
}

fn markup(entry: &Entry, path: &str, group: Option<&Group>, met: Vec<Met>, history: &[HistoryRow]) -> Markup {
    let text = |path: &[&str]| entry.text(path);
    let reasons = entry.event.get("reasons").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let remedies: Vec<&str> = reasons
        .iter()
        .filter_map(|reason| reason.get("remedy")?.as_str())
        .chain(text(&["reason", "remedy"]))
        .fold(Vec::new(), |mut all, remedy| {
            if !all.contains(&remedy) {
                all.push(remedy);
            }
            all
        });
    let checks = checks(entry);
    let objects =
        checks.rows.iter().any(|row| matches!(row.get(1), Some(Cell::Word(word)) if word == "fail"));
    html! {
        h1 { (headline(entry)) }
        @if let Some(reference) = text(&["image", "reference"]) { p { code { (shown(reference)) } } }
        @if let Some(verdict) = text(&["verdict"]) {
            p {
                (badge(verdict))
                @if let Some(code) = text(&["reason", "code"]) {
                    " " a href=(link("/inbox", [("reason", code), ("state", "all")])) { (shown(code)) }
                }
                @if entry.event.get("enforced") == Some(&json!(false)) { " (not enforced: the pull was served)" }
            }
        }
        @if let Some(told) = text(&["reason", "text"]) {
            p { "The client was told:" }
            blockquote { (shown(told)) }
        }
        @if !remedies.is_empty() || objects {
            h2 { "What would make it pass" }
            ul {
                @for remedy in &remedies { li { (shown(remedy)) } }
                @for row in checks.rows.iter().filter(|row| matches!(row.get(1), Some(Cell::Word(word)) if word == "fail")) {
                    @if let [Cell::Code(id), _, _, expected, at, ..] = row.as_slice() {
                        @if let Cell::Code(expected) = expected {
                            li {
                                code { (shown(id)) } " must be " code { (shown(expected)) }
                                @if let Cell::Code(at) = at { " (" (shown(at)) ")" }
                            }
                        }
                    }
                }
            }
        }
        @if let Some(group) = group {
            p {
                "In the inbox: "
                a href={ "/inbox/" (group.key) } { "this reference, refused for this reason" }
                ", " (badge(group.state.as_str()))
            }
        }
        @if !checks.rows.is_empty() {
            h2 { "What was checked" }
            (checks.table())
        }
        (facts(entry))
        @if !met.is_empty() {
            h2 { "Who else met it" }
            (met_listing(met, None).table())
        }
        @if !history.is_empty() {
            h2 { "What this tag was" }
            (history_listing(history).table())
        }
        h2 { "Proof" }
        dl.facts {
            dt { "Id" } dd { code { (shown(text(&["id"]).unwrap_or_default())) } }
            dt { "Place in the record" } dd { (entry.seq) }
            @if let Some(hash) = text(&["integrity", "hash"]) { dt { "Hash" } dd { code { (shown(hash)) } } }
            @if let Some(previous) = text(&["integrity", "previous"]) { dt { "Hash of the event before" } dd { code { (shown(previous)) } } }
        }
        p.forms {
            "This event as " a href={ (path) "?format=json" } { "JSON" }
            @if !checks.rows.is_empty() { ", its checks as " a href={ (path) "?format=csv" } { "CSV" } }
        }
    }
}

/// The check tree.
fn checks(entry: &Entry) -> Listing {
    let checks = entry.event.get("checks").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let row = |check: &Value| {
        let text = |key: &str| check.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        vec![
            Cell::code(text("id")),
            text("result").map_or(Cell::Empty, Cell::Word),
            Cell::code(text("observed")),
            Cell::code(text("expected")),
            Cell::code(text("at")),
            Cell::text(text("exception")),
        ]
    };
    let more = checks.len().saturating_sub(CHECKS);
    let caption = match more {
        0 => "Every check of this decision, those that passed too".to_owned(),
        more => format!("The first {CHECKS} checks of this decision; the JSON has {more} more"),
    };
    Listing {
        caption,
        file: "checks",
        columns: CHECK_COLUMNS,
        rows: checks.iter().take(CHECKS).map(row).collect(),
        empty: "Nothing was checked.",
        next: None,
    }
}

pub(super) fn met_listing(met: Vec<Met>, next: Option<String>) -> Listing {
    let row = |met: Met| {
        let who = met.name.clone().unwrap_or_else(|| met.address.clone());
        vec![
            Cell::Link(who.clone(), link("/inbox", [("client", who.as_str()), ("state", "all")])),
            Cell::Code(met.address),
            Cell::Text(met.runtime),
            Cell::Count(met.count),
            Cell::Time(met.first),
            Cell::Time(met.last),
        ]
    };
    Listing {
        caption: "Clients that met it, the latest first".to_owned(),
        file: "clients",
        columns: MET_COLUMNS,
        rows: met.into_iter().map(row).collect(),
        empty: "No client is counted yet.",
        next,
    }
}

fn history_listing(history: &[HistoryRow]) -> Listing {
    let yes = |yes: bool| Cell::Text(if yes { "yes" } else { "no" }.to_owned());
    let row = |row: &HistoryRow| {
        vec![
            row.digest.map_or_else(|| Cell::Text("gone".to_owned()), |digest| Cell::Code(digest.to_string())),
            Cell::Time(row.first),
            Cell::Time(row.last),
            Cell::Text(row.whence.as_str().to_owned()),
            yes(row.served),
            yes(row.locked),
            yes(row.current),
        ]
    };
    Listing {
        caption: "Every digest that this tag had, the latest first".to_owned(),
        file: "history",
        columns: HISTORY_COLUMNS,
        rows: history.iter().take(100).map(row).collect(),
        empty: "",
        next: None,
    }
}

/// Everything else that the event says, group by group.
fn facts(entry: &Entry) -> Markup {
    /// What has a place of its own on the page.
    const APART: [&str; 10] =
        ["schema", "id", "checks", "reason", "reasons", "integrity", "verdict", "enforced", "kind", "seq"];
    let mut groups: Vec<(String, Vec<(String, String)>)> = vec![("The event".to_owned(), Vec::new())];
    for (key, value) in entry.event.iter().filter(|(key, _)| !APART.contains(&key.as_str())) {
        match value {
            Value::Object(object) => groups.push((words(key), object.iter().filter_map(pair).collect())),
            value => {
                if let (Some(pair), Some((_, pairs))) = (pair((key, value)), groups.first_mut()) {
                    pairs.push(pair);
                }
            }
        }
    }
    let reference = entry.text(&["image", "reference"]).and_then(|text| text.parse::<Reference>().ok());
    html! {
        div.half {
            @for (title, pairs) in groups.iter().filter(|(_, pairs)| !pairs.is_empty()) {
                section {
                    h2 { (title) }
                    dl.facts {
                        @for (key, value) in pairs { dt { (words(key)) } dd { (shown(value)) } }
                    }
                    @if let (true, Some(reference)) = (title == "Image", &reference) {
                        p { a href=(link("/log", [("image", reference.name.to_string().as_str())])) { "All events of this repository" } }
                    }
                }
            }
        }
    }
}

fn pair((key, value): (&String, &Value)) -> Option<(String, String)> {
    let text = match value {
        Value::Null => return None,
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), ToOwned::to_owned))
                .collect();
            items.join("; ")
        }
        value => value.to_string(),
    };
    Some((key.clone(), text))
}

/// A key in words: `user_agent` is "User agent".
fn words(key: &str) -> String {
    if matches!(key, "http" | "id") {
        return key.to_ascii_uppercase();
    }
    let mut words = key.replace('_', " ");
    if let Some(first) = words.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    words
}
