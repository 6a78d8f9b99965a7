//! `/`: a range at a glance.

use jiff::SignedDuration;
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Trouble};
use super::chart::Chart;
use super::frame::{Visitor, page};
use super::listing::{Cell, Column, Listing, badge, moment};
use super::query::{Format, Query, link};
use super::{Console, shown};
use crate::review::{Alert, Bucket, InboxFilter, Overview, State, Step, Tally};

/// So many of each ranking.
const TOP: usize = 10;
/// So many alerts.
const ALERTS: u32 = 5;

/// The ranges to choose from: their word, their name, their hours, their step.
const RANGES: [(&str, &str, i64, Step); 4] = [
    ("24h", "24 hours", 24, Step::Hour),
    ("7d", "7 days", 168, Step::Hour),
    ("30d", "30 days", 720, Step::Day),
    ("90d", "90 days", 2160, Step::Day),
];

const COLUMNS: &[Column] = &[
    ("at", "From"),
    ("allow", "Allowed"),
    ("warn", "Warned"),
    ("hold", "Held"),
    ("deny", "Denied"),
    ("hits", "Cache hits"),
    ("misses", "Cache misses"),
    ("stale", "Stale"),
    ("offline", "Offline"),
    ("bytes_cached", "Bytes from cache"),
    ("bytes_fetched", "Bytes fetched"),
];

impl Console {
    pub(super) async fn overview(&self, visitor: &Visitor, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, &["range"])?;
        let format = query.format()?;
        let range = query.of("range").unwrap_or("7d");
        let Some((range, name, hours, step)) = RANGES.into_iter().find(|(word, ..)| *word == range) else {
            return Err(Trouble::Invalid("There are the ranges 24h, 7d, 30d and 90d.".to_owned()));
        };
        let now = self.clock.now();
        let since = now.checked_sub(SignedDuration::from_hours(hours)).unwrap_or(now);
        let review = self.review()?;
        let overview = review.overview(since..now, step).await?;
        let listing = Listing {
            caption: format!(
                "Pulls of the last {name}, by {}",
                if step == Step::Day { "day" } else { "hour" }
            ),
            file: "overview",
            columns: COLUMNS,
            rows: overview.buckets.iter().map(row).collect(),
            empty: "Nothing is counted yet.",
            next: None,
        };
        if format != Format::Html {
            return listing.answer(format, &query, "/", values(&overview));
        }
        let inbox = InboxFilter { state: Some(State::New), ..InboxFilter::default() };
        let fresh = review.totals(&inbox).await?.new;
        let alerts = review.alerts(None, ALERTS).await?.items;
        let blocked: Vec<_> =
            overview.buckets.iter().map(|bucket| (bucket.at, bucket.deny + bucket.hold)).collect();
        let pulls: Vec<_> =
            overview.buckets.iter().map(|bucket| (bucket.at, bucket.allow + bucket.warn)).collect();
        let days = step == Step::Day;
        let body = html! {
            h1 { "Overview" }
            @if review.status().behind { p.notice { "The record is being counted anew; not everything is shown yet." } }
            nav.tabs aria-label="Range" {
                ul { @for (word, name, ..) in RANGES { li {
                    a href=(query.with("range", word).link("/")) aria-current=[(word == range).then_some("page")] { (name) }
                } } }
            }
            (figures(&overview.total, fresh))
            div.half {
                section {
                    h2 { span class="key deny" {} "Refused and held pulls" }
                    (Chart { id: "refused", title: "Refused and held pulls", class: "deny", bars: &blocked, days }.markup())
                }
                section {
                    h2 { span class="key allow" {} "Served pulls" }
                    (Chart { id: "served", title: "Served pulls", class: "allow", bars: &pulls, days }.markup())
                }
            }
            details { summary { "The same as a table" } (listing.markup("/", &query)) }
            div.half {
                section { h2 { "Refused most" } (ranking("No pull was refused in this range.", &overview.references, |tally| {
                    tally.key.as_ref().map_or_else(|| link("/inbox", [("state", "all"), ("text", tally.name.as_str())]), |key| format!("/inbox/{key}"))
                })) }
                section { h2 { "Clients refused most" } (ranking("No client was refused in this range.", &overview.clients, |tally| {
                    link("/inbox", [("client", tally.name.as_str()), ("state", "all")])
                })) }
                section { h2 { "Registries refused most" } (ranking("No registry was refused in this range.", &overview.registries, |tally| {
                    link("/inbox", [("registry", tally.name.as_str()), ("state", "all")])
                })) }
                section { h2 { "Alerts" } (alerts_of(&alerts)) }
                section { h2 { "Exceptions that end soon" } (self.ending()) }
                section { h2 { "State" } (self.state()) }
            }
        };
        Ok(page(visitor, "/", "Overview", &body))
    }

    fn ending(&self) -> Markup {
        let (rules, now) = (self.gate.rules(), self.clock.now());
        let ending: Vec<_> =
            rules.policy().exceptions().iter().filter(|exception| exception.ends_soon(now)).collect();
        html! {
            @if ending.is_empty() { p.empty { "No exception ends within 14 days." } }
            ul { @for exception in ending { li {
                a href="/exceptions" { (shown(&exception.id)) } ": " code { (shown(&exception.image.to_string())) } ", until " (exception.expires)
            } } }
        }
    }

    fn state(&self) -> Markup {
        let policy = self.gate.rules();
        html! {
            p { "Policy " strong { (shown(policy.policy().name())) } ", revision " (shown(policy.policy().revision())) }
            ul { @for condition in (self.conditions)() { li {
                (badge(if condition.ok { "ok" } else { "failing" })) " " (shown(&condition.name)) ": " (shown(&condition.detail))
            } } }
            p { a href="/upstreams" { "Upstreams in detail" } }
        }
    }
}

fn row(bucket: &Bucket) -> Vec<Cell> {
    let counts = [
        bucket.allow,
        bucket.warn,
        bucket.hold,
        bucket.deny,
        bucket.hits,
        bucket.misses,
        bucket.stale,
        bucket.offline,
        bucket.bytes_cached,
        bucket.bytes_fetched,
    ];
    [Cell::Time(bucket.at)].into_iter().chain(counts.map(Cell::Count)).collect()
}

/// Out of a hundred, how many transfers came out of the cache.
fn hit_ratio(total: &Bucket) -> Option<u64> {
    let cached = total.hits + total.stale + total.offline;
    (cached * 100).checked_div(cached + total.misses)
}

fn figures(total: &Bucket, fresh: u64) -> Markup {
    let size = |bytes: u64| bytesize::ByteSize::b(bytes).to_string();
    let figures = [
        ("Refused and held", html! { (total.deny + total.hold) }),
        ("Served", html! { (total.allow + total.warn) }),
        ("Served with a warning", html! { (total.warn) }),
        ("New in the inbox", html! { a href="/inbox" { (fresh) } }),
        ("Out of the cache", html! { @if let Some(ratio) = hit_ratio(total) { (ratio) " %" } @else { "–" } }),
        ("From cache / fetched", html! { (size(total.bytes_cached)) " / " (size(total.bytes_fetched)) }),
    ];
    html! {
        div.row { @for (title, figure) in figures { dl.figure { dt { (title) } dd { (figure) } } } }
    }
}

fn ranking(none: &str, tallies: &[Tally], href: impl Fn(&Tally) -> String) -> Markup {
    html! {
        @if tallies.is_empty() { p.empty { (none) } }
        ol { @for tally in tallies.iter().take(TOP) { li {
            a href=(href(tally)) { (shown(&tally.name)) }
            @if let Some(reason) = &tally.reason { " (" (shown(reason)) ")" }
            ": " (tally.count)
        } } }
    }
}

fn alerts_of(alerts: &[Alert]) -> Markup {
    html! {
        @if alerts.is_empty() { p.empty { "No alert went off." } }
        ul { @for alert in alerts { li {
            (moment(alert.time)) " " a href={ "/d/" (alert.id) } { (shown(&alert.rule)) } ": " (shown(&alert.text))
        } } }
        @if !alerts.is_empty() { p { a href="/log?kind=alert" { "All alerts" } } }
    }
}

fn values(overview: &Overview) -> Map<String, Value> {
    let tallies = |tallies: &[Tally]| {
        Value::Array(
            tallies
                .iter()
                .take(TOP)
                .map(|tally| json!({ "name": tally.name, "reason": tally.reason, "count": tally.count, "key": tally.key }))
                .collect(),
        )
    };
    let total = &overview.total;
    let mut map = Map::new();
    map.insert("references".to_owned(), tallies(&overview.references));
    map.insert("clients".to_owned(), tallies(&overview.clients));
    map.insert("registries".to_owned(), tallies(&overview.registries));
    map.insert(
        "total".to_owned(),
        json!({
            "allow": total.allow, "warn": total.warn, "hold": total.hold, "deny": total.deny,
            "hit_ratio_percent": hit_ratio(total),
            "bytes_cached": total.bytes_cached, "bytes_fetched": total.bytes_fetched,
        }),
    );
    map
}
