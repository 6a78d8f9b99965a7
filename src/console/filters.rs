//! Forms by which a page is narrowed: plain GET, so that what they make is a link to keep.

use maud::{Markup, html};

use super::query::Query;
use super::{entered, shown};

/// Times to choose from.
pub(super) const TIMES: &[(&str, &str)] = &[
    ("1h", "the last hour"),
    ("24h", "the last 24 hours"),
    ("7d", "the last 7 days"),
    ("30d", "the last 30 days"),
];

/// The form of a page.
#[derive(Debug)]
pub(super) struct Filters<'a> {
    pub(super) query: &'a Query,
    pub(super) path: &'a str,
    /// The keys that have a field.
    pub(super) shown: &'a [&'a str],
}

impl Filters<'_> {
    /// The form around its fields. What has no field is kept.
    pub(super) fn form(&self, fields: &Markup) -> Markup {
        let first = self.query.first();
        let kept = first.pairs().filter(|(key, _)| !self.shown.contains(key));
        html! {
            form.filters action=(self.path) method="get" aria-label="Filters" {
                @for (key, value) in kept { input type="hidden" name=(key) value=(entered(value)); }
                (fields)
                button { "Filter" }
                @if self.query.is_filtered() { a href=(self.path) { "Clear filters" } }
            }
        }
    }

    pub(super) fn text(&self, key: &str, label: &str) -> Markup {
        html! {
            label { (label) input type="text" name=(key) value=(entered(self.query.of(key).unwrap_or_default())) maxlength="300" autocomplete="off"; }
        }
    }

    /// One of these words, or none, which is called `none`.
    pub(super) fn choice(&self, key: &str, label: &str, none: &str, words: &[(&str, &str)]) -> Markup {
        let chosen = self.query.of(key).unwrap_or_default();
        let other = !chosen.is_empty() && !words.iter().any(|(word, _)| *word == chosen);
        html! {
            label {
                (label)
                select name=(key) {
                    option value="" { (none) }
                    @for (word, title) in words { option value=(word) selected[*word == chosen] { (title) } }
                    // What a link asked for and no choice offers.
                    @if other { option value=(entered(chosen)) selected { (shown(chosen)) } }
                }
            }
        }
    }
}
