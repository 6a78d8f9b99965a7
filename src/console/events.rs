//! `/log`: the record itself.

use maud::html;
use serde_json::Map;

use super::Console;
use super::answer::{Answer, Trouble};
use super::filters::{self, Filters};
use super::frame::{Visitor, page};
use super::listing::{Cell, Column, Listing};
use super::query::{Format, Query};
use crate::audit::{Entry, Filter, Kind, Order, Pattern};
use crate::policy::{Code, Verdict};

/// Events of one page.
const PAGE: usize = 50;
/// Events of one page for programs.
const PAGE_VALUES: usize = 1000;
/// So many events are looked at for one page; a filter that leaves more is to be narrowed.
pub(super) const BUDGET: u64 = 2_000_000;

const KEYS: &[&str] = &[
    "client",
    "digest",
    "image",
    "kind",
    "reason",
    "registry",
    "repository",
    "since",
    "tag",
    "until",
    "verdict",
];

pub(super) const COLUMNS: &[Column] = &[
    ("time", "Time"),
    ("id", "Event"),
    ("kind", "Kind"),
    ("verdict", "Verdict"),
    ("reason", "Reason"),
    ("reference", "Reference"),
    ("client", "Client"),
    ("count", "Count"),
    ("text", "Text"),
];

/// Every kind that is an entry of its own.
const KINDS: [Kind; 12] = [
    Kind::Admin,
    Kind::Alert,
    Kind::Auth,
    Kind::Checkpoint,
    Kind::Decision,
    Kind::Drift,
    Kind::Exception,
    Kind::Flood,
    Kind::Pin,
    Kind::Policy,
    Kind::Recall,
    Kind::Upstream,
];
const VERDICTS: [Verdict; 4] = [Verdict::Allow, Verdict::Deny, Verdict::Hold, Verdict::Warn];

impl Console {
    pub(super) async fn events(&self, visitor: &Visitor, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, KEYS)?;
        let (now, format) = (self.clock.now(), query.format()?);
        let kind = query.word("kind", |word| KINDS.into_iter().find(|kind| kind.as_str() == word))?;
        let place = |text: &str| {
            text.parse::<i64>().map_err(|_| {
                Trouble::Invalid(format!("{text:?} is no place in the record. Begin at the first page."))
            })
        };
        let size = if format == Format::Html { PAGE } else { PAGE_VALUES };
        let filter = Filter {
            before: query.of("after").map(place).transpose()?,
            budget: Some(BUDGET),
            client: query.of("client").map(Pattern::words),
            digest: query.owned("digest"),
            image: query.of("image").map(Pattern::image),
            kinds: kind.into_iter().collect(),
            limit: Some(size + 1),
            order: Order::NewestFirst,
            reason: query.word("reason", Code::parse)?,
            registry: query.owned("registry"),
            repository: query.owned("repository"),
            since: query.time("since", now)?,
            tag: query.owned("tag"),
            until: query.time("until", now)?,
            verdict: query
                .word("verdict", |word| VERDICTS.into_iter().find(|known| known.as_str() == word))?,
            ..Filter::default()
        };
        let mut entries = self.reader.entries(filter);
        let mut found = Vec::new();
        while let Some(entry) = entries.next().await? {
            found.push(entry);
        }
        let next =
            (found.len() > size).then(|| found.get(size - 1).map(|entry| entry.seq.to_string())).flatten();
        found.truncate(size);
        let listing = Listing {
            caption: "Events, the latest first".to_owned(),
            file: "log",
            columns: COLUMNS,
            rows: found.iter().map(row).collect(),
            empty: "No event on record passes this filter.",
            next,
        };
        if format != Format::Html {
            return listing.answer(format, &query, "/log", Map::new());
        }
        let shown = &["image", "client", "digest", "kind", "verdict", "reason", "since"];
        let filters = Filters { query: &query, path: "/log", shown };
        let words = |words: Vec<&'static str>| words.into_iter().map(|word| (word, word)).collect::<Vec<_>>();
        let kinds = words(KINDS.iter().map(|kind| kind.as_str()).collect());
        let verdicts = words(VERDICTS.iter().map(|verdict| verdict.as_str()).collect());
        let codes = words(Code::ALL.iter().map(|code| code.as_str()).collect());
        let form = filters.form(&html! {
            (filters.text("image", "Image"))
            (filters.text("client", "Client"))
            (filters.text("digest", "Digest"))
            (filters.choice("kind", "Kind", "any kind", &kinds))
            (filters.choice("verdict", "Verdict", "any verdict", &verdicts))
            (filters.choice("reason", "Reason", "any reason", &codes))
            (filters.choice("since", "Within", "any time", filters::TIMES))
        });
        let body = html! {
            h1 { "Log" }
            p.soft { "Everything on record; pulls with their repeats. " code { "*" } " stands for any run of characters in image and client." }
            (form)
            (listing.markup("/log", &query))
        };
        Ok(page(visitor, "/log", "Log", &body))
    }
}

pub(super) fn row(entry: &Entry) -> Vec<Cell> {
    let text = |paths: &[&[&str]]| paths.iter().find_map(|path| entry.text(path)).map(ToOwned::to_owned);
    let id = text(&[&["id"]]).unwrap_or_default();
    let words: &[&[&str]] = &[
        &["reason", "text"],
        &["alert", "text"],
        &["auth", "text"],
        &["upstream", "text"],
        &["recall", "reason"],
        &["error"],
        &["note"],
    ];
    let result: &[&[&str]] = &[
        &["verdict"],
        &["action"],
        &["auth", "result"],
        &["exception", "result"],
        &["recall", "result"],
        &["result"],
        &["upstream", "state"],
    ];
    let time = text(&[&["time"]]).and_then(|time| time.parse().ok());
    let count =
        [&["count"][..], &["auth", "count"], &["alert", "count"]].iter().find_map(|path| entry.number(path));
    vec![
        Cell::time(time),
        Cell::Link(id.clone(), format!("/d/{id}")),
        Cell::text(text(&[&["kind"]])),
        text(result).map_or(Cell::Empty, Cell::Word),
        Cell::text(text(&[&["reason", "code"], &["subject", "reason"]])),
        Cell::code(text(&[
            &["image", "reference"],
            &["subject", "reference"],
            &["exception", "id"],
            &["recall", "id"],
        ])),
        Cell::text(text(&[&["client", "name"], &["actor", "name"], &["client", "address"]])),
        Cell::Count(count.unwrap_or(1)),
        Cell::text(text(words)),
    ]
}
