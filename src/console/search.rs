//! `/search`: one field for whatever a reviewer has at hand.

use maud::html;
use serde_json::Map;
use ulid::Ulid;

use super::answer::{Answer, Trouble};
use super::events::BUDGET;
use super::frame::{Visitor, page};
use super::listing::{Cell, Column, Listing};
use super::query::{Format, Query, link};
use super::{Console, entered, shown};
use crate::audit::{Filter, Order, Pattern};
use crate::review::{ClientFilter, InboxFilter};

/// So many of each are found; the lists they are of have the rest.
const EACH: u32 = 20;

const COLUMNS: &[Column] =
    &[("name", "Found"), ("what", "What"), ("detail", "Detail"), ("last", "Last"), ("address", "Page")];

impl Console {
    pub(super) async fn search(&self, visitor: &Visitor, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, &["q"])?;
        let format = query.format()?;
        let words = query.of("q").map(str::trim).unwrap_or_default();
        if words.len() == ulid::ULID_LEN
            && let Ok(id) = Ulid::from_string(words)
            && self.reader.written(&id).await?.is_some()
            && format == Format::Html
        {
            return Ok(Answer::see(format!("/d/{id}")));
        }
        let rows = if words.is_empty() { Vec::new() } else { self.find(words).await? };
        let listing = Listing {
            caption: format!("Found for {}", shown(words)),
            file: "search",
            columns: COLUMNS,
            rows,
            empty: "Nothing was found. Search by the id of a refusal, the beginning of a digest, a tag, a part of a reference, or a client.",
            next: None,
        };
        if format != Format::Html {
            return listing.answer(format, &query, "/search", Map::new());
        }
        let more = [
            ("All blocked references with these words", link("/inbox", [("state", "all"), ("text", words)])),
            ("All events of this image", link("/log", [("image", words)])),
            ("All clients with these words", link("/clients", [("text", words)])),
        ];
        let body = html! {
            h1 { "Search" }
            form.filters action="/search" method="get" role="search" aria-label="Search everything" {
                label { "Search for" input type="search" name="q" value=(entered(words)) maxlength="300"; }
                button { "Find" }
            }
            (listing.markup("/search", &query))
            @if !words.is_empty() { ul { @for (title, href) in &more { li { a href=(href) { (title) } } } } }
        };
        let title = if words.is_empty() { "Search".to_owned() } else { format!("Search: {words}") };
        Ok(page(visitor, "", &title, &body))
    }

    async fn find(&self, words: &str) -> Result<Vec<Vec<Cell>>, Trouble> {
        let mut rows = Vec::new();
        let row = |name: &str, href: String, what: &str, detail: String, last| {
            vec![
                Cell::Link(name.to_owned(), href.clone()),
                Cell::Text(what.to_owned()),
                Cell::Text(detail),
                last,
                Cell::Text(href),
            ]
        };
        let filter = InboxFilter { text: Some(words.to_owned()), ..InboxFilter::default() };
        let review = self.review()?;
        for group in review.inbox(&filter, None, EACH).await?.items {
            let detail = format!("{}, {} pulls, {}", group.reason, group.count, group.state.as_str());
            let href = format!("/inbox/{}", group.key);
            rows.push(row(
                &group.subject.reference,
                href,
                "blocked reference",
                detail,
                Cell::Time(group.last),
            ));
        }
        let filter = ClientFilter { text: Some(words.to_owned()), ..ClientFilter::default() };
        for client in review.clients(&filter, None, EACH).await?.items {
            let detail = format!("{}, {} pulls, {} refusals", client.address, client.pulls, client.refusals);
            let href = link("/inbox", [("client", client.who.as_str()), ("state", "all")]);
            rows.push(row(&client.who, href, "client", detail, Cell::Time(client.last)));
        }
        let hex = words.strip_prefix("sha256:").or_else(|| words.strip_prefix("sha512:")).unwrap_or(words);
        let is_digest = hex.len() >= 6 && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        let is_tag = words.parse::<crate::oci::Tag>().is_ok();
        let mut filters = Vec::new();
        let base = || Filter {
            budget: Some(BUDGET),
            limit: Some(usize::try_from(EACH).unwrap_or(20)),
            order: Order::NewestFirst,
            ..Filter::default()
        };
        if is_digest {
            filters.push(Filter { digest: Some(words.to_owned()), ..base() });
        }
        if is_tag {
            filters.push(Filter { tag: Some(words.to_owned()), ..base() });
        }
        if words.contains(['/', ':', '*']) && !is_digest {
            filters.push(Filter { image: Some(Pattern::image(words)), ..base() });
        }
        let mut seen = std::collections::HashSet::new();
        for filter in filters {
            let mut entries = self.reader.entries(filter);
            while let Some(entry) = entries.next().await? {
                if !seen.insert(entry.seq) {
                    continue;
                }
                let id = entry.text(&["id"]).unwrap_or_default();
                let name = entry.text(&["image", "reference"]).unwrap_or(id);
                let parts = [&["kind"][..], &["verdict"], &["reason", "code"], &["image", "digest"]];
                let detail: Vec<&str> = parts.iter().filter_map(|path| entry.text(path)).collect();
                let time = entry.text(&["time"]).and_then(|time| time.parse().ok());
                rows.push(row(name, format!("/d/{id}"), "event", detail.join(", "), Cell::time(time)));
            }
        }
        Ok(rows)
    }
}
