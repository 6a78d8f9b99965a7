//! Lists: one content in three forms, so that what is kept of a page is what was shown.

use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Media, Trouble};
use super::query::{Format, Query};
use super::shown;
use crate::audit::{csv, printable_json};

/// A column: its name for programs, and its title for people.
pub(super) type Column = (&'static str, &'static str);

/// What stands in a row's column.
#[derive(Clone, Debug)]
pub(super) enum Cell {
    /// Text in fixed width: names, digests.
    Code(String),
    Count(u64),
    Empty,
    /// Text that leads somewhere.
    Link(String, String),
    /// A list of texts.
    List(Vec<String>),
    Text(String),
    Time(Timestamp),
    /// A state in a word and a sign.
    Word(String),
}

impl Cell {
    pub(super) fn text(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::Empty, |text| Self::Text(text.into()))
    }

    pub(super) fn code(text: Option<impl Into<String>>) -> Self {
        text.map_or(Self::Empty, |text| Self::Code(text.into()))
    }

    pub(super) fn time(time: Option<Timestamp>) -> Self {
        time.map_or(Self::Empty, Self::Time)
    }

    fn value(&self) -> Value {
        match self {
            Self::Code(text) | Self::Link(text, _) | Self::Text(text) | Self::Word(text) => json!(text),
            Self::Count(count) => json!(count),
            Self::Empty => Value::Null,
            Self::List(texts) => json!(texts),
            Self::Time(time) => json!(stamp(*time)),
        }
    }

    fn plain(&self) -> String {
        match self {
            Self::Code(text) | Self::Link(text, _) | Self::Text(text) | Self::Word(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::Empty => String::new(),
            Self::List(texts) => texts.join(" "),
            Self::Time(time) => stamp(*time),
        }
    }

    fn markup(&self) -> Markup {
        match self {
            Self::Code(text) => html! { code { (shown(text)) } },
            Self::Count(count) => html! { (count) },
            Self::Empty => html! { span.none { "–" } },
            Self::Link(text, href) => html! { a href=(href) { (shown(text)) } },
            Self::List(texts) => html! {
                @if texts.is_empty() { span.none { "–" } }
                @for text in texts { span.item { (shown(text)) } " " }
            },
            Self::Text(text) => html! { (shown(text)) },
            Self::Time(time) => moment(*time),
            Self::Word(word) => badge(word),
        }
    }
}

/// A moment as in the record: UTC, with milliseconds.
pub(super) fn stamp(time: Timestamp) -> String {
    format!("{time:.3}")
}

/// A moment for people.
pub(super) fn moment(time: Timestamp) -> Markup {
    let text = stamp(time);
    let short = text.get(..19).unwrap_or(&text).replace('T', " ");
    html! { time datetime=(text) { (short) } }
}

/// A state: a sign beside the word, for those who see no colours; the word, for those who see nothing.
pub(super) fn badge(word: &str) -> Markup {
    let (class, sign) = match word {
        "deny" | "fail" | "refused" | "failing" | "expired" | "no" => ("bad", "✕"),
        "hold" | "warn" | "acknowledged" | "soon" | "unknown" | "flood" | "warned" => ("mid", "◐"),
        "allow" | "pass" | "resolved" | "ok" | "granted" | "healthy" | "active" | "yes" => ("good", "✓"),
        _ => ("plain", "●"),
    };
    html! { span class={ "badge " (class) } { span aria-hidden="true" { (sign) } " " (shown(word)) } }
}

/// A list.
#[derive(Debug)]
pub(super) struct Listing {
    /// What it is, for those who cannot see the page around it.
    pub(super) caption: String,
    /// Its name as a file.
    pub(super) file: &'static str,
    pub(super) columns: &'static [Column],
    pub(super) rows: Vec<Vec<Cell>>,
    /// What is said when there are no rows.
    pub(super) empty: &'static str,
    /// Where the next page begins.
    pub(super) next: Option<String>,
}

impl Listing {
    /// The list as a page's part, with the ways to other pages of it and other forms.
    pub(super) fn markup(&self, path: &str, query: &Query) -> Markup {
        html! {
            @if self.rows.is_empty() {
                p.empty { (self.empty) }
            } @else {
                (self.table())
            }
            (self.ways(path, query))
        }
    }

    /// The table alone.
    pub(super) fn table(&self) -> Markup {
        html! {
            // What is wider than the screen scrolls, by keyboard too.
            div.scroll tabindex="0" role="region" aria-label=(self.caption) {
                table {
                    caption { (self.caption) }
                    thead { tr {
                        @for (place, (_, title)) in self.columns.iter().enumerate() {
                            th scope="col" class=[self.is_number(place).then_some("number")] { (title) }
                        }
                    } }
                    tbody {
                        @for row in &self.rows {
                            tr {
                                @for (place, cell) in row.iter().enumerate() {
                                    @if place == 0 { th scope="row" { (cell.markup()) } }
                                    @else { td class=[matches!(cell, Cell::Count(_)).then_some("number")] { (cell.markup()) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }

    fn is_number(&self, place: usize) -> bool {
        self.rows.first().and_then(|row| row.get(place)).is_some_and(|cell| matches!(cell, Cell::Count(_)))
    }

    fn ways(&self, path: &str, query: &Query) -> Markup {
        let previous = query.previous();
        html! {
            @if previous.is_some() || self.next.is_some() {
                nav.pages aria-label={ "Pages of " (self.caption) } {
                    @if let Some(previous) = &previous {
                        a href=(query.first().link(path)) { "First page" } " "
                        a rel="prev" href=(previous.link(path)) { "Previous page" } " "
                    }
                    @if let Some(next) = &self.next {
                        a rel="next" href=(query.next(next).link(path)) { "Next page" }
                    }
                }
            }
            p.forms {
                "This list as "
                a href=(query.in_format("json").link(path)) { "JSON" } " or "
                a href=(query.in_format("csv").link(path)) { "CSV" }
            }
        }
    }

    /// The rows as objects.
    pub(super) fn values(&self) -> Value {
        let object = |row: &Vec<Cell>| {
            let pairs =
                self.columns.iter().zip(row).map(|((key, _), cell)| ((*key).to_owned(), cell.value()));
            Value::Object(pairs.collect::<Map<String, Value>>())
        };
        Value::Array(self.rows.iter().map(object).collect())
    }

    /// The list in the form that is wanted, where that is no page; `more` stands beside the rows in JSON.
    pub(super) fn answer(
        &self,
        format: Format,
        query: &Query,
        path: &str,
        more: Map<String, Value>,
    ) -> Result<Answer, Trouble> {
        match format {
            Format::Csv => {
                let mut text = csv(self.columns.iter().map(|(key, _)| *key));
                for row in &self.rows {
                    text.push_str(&csv(row.iter().map(Cell::plain)));
                }
                Ok(Answer::of(Media::Csv, text).kept_as(format!("{}.csv", self.file)))
            }
            Format::Json => {
                let mut object = more;
                object.insert("items".to_owned(), self.values());
                let next =
                    self.next.as_ref().map(|next| query.with("after", next).in_format("json").link(path));
                object.insert("next".to_owned(), json!(next));
                Ok(answer_json(&Value::Object(object)))
            }
            Format::Html | Format::Patch => {
                Err(Trouble::Invalid("This page has the formats html, json and csv.".to_owned()))
            }
        }
    }
}

/// Values for programs.
pub(super) fn answer_json(value: &Value) -> Answer {
    let mut text = String::new();
    // The line ends are ours: those of values are escaped already.
    for line in format!("{value:#}").lines() {
        text.push_str(&printable_json(line.to_owned()));
        text.push('\n');
    }
    Answer::of(Media::Json, text)
}
