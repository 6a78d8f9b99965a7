//! Taking values out of a parsed document, each with its place, collecting what is wrong.

use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use toml::de::{DeTable, DeValue};

use super::Value;
use super::keys::Keys;
use crate::settings::diagnostic::{Problem, line_of, nearest};

pub(super) struct Reader<'t> {
    file: &'t str,
    text: &'t str,
    /// The names that clients may have, where that is known.
    pub(super) clients: Option<&'t [String]>,
    pub(super) problems: Vec<Problem>,
}

/// The known keys of one table.
pub(super) struct Fields<'t> {
    table: &'static str,
    span: Range<usize>,
    values: Vec<(&'t str, &'t Value<'t>)>,
}

impl<'t> Fields<'t> {
    pub(super) fn value(&self, key: &str) -> Option<&'t Value<'t>> {
        self.values.iter().find(|(found, _)| *found == key).map(|(_, value)| *value)
    }
}

impl<'t> Reader<'t> {
    pub(super) fn new(file: &'t str, text: &'t str, clients: Option<&'t [String]>) -> Self {
        Self { file, text, clients, problems: Vec::new() }
    }

    /// `policy.toml:41`.
    pub(super) fn at(&self, span: &Range<usize>) -> Arc<str> {
        format!("{}:{}", self.file, line_of(self.text, span.start)).into()
    }

    /// Where a key's value stands, or its table.
    pub(super) fn at_of(&self, fields: &Fields<'_>, key: &str) -> Arc<str> {
        match fields.value(key) {
            Some(value) => self.at(&value.span()),
            None => self.at(&fields.span),
        }
    }

    pub(super) fn problem(&mut self, span: Range<usize>, message: impl Into<String>) {
        self.problems.push(Problem::new(span, message));
    }

    /// Sorts a table's keys into known ones and problems.
    pub(super) fn fields<'v>(
        &mut self,
        table: &'v DeTable<'v>,
        span: Range<usize>,
        keys: &Keys,
    ) -> Fields<'v> {
        let mut values = Vec::new();
        for (key, value) in table {
            let word: &str = key.get_ref();
            if keys.known.contains(&word) {
                values.push((word, value));
            } else {
                let problem = Problem::new(key.span(), format!("unknown key `{word}` in {}", keys.table));
                self.problems.push(match nearest(word, keys.known.iter().copied()) {
                    Some(near) => problem.help(format!("did you mean `{near}`?")),
                    None => problem.help(format!("{} takes {}", keys.table, keys.known.join(", "))),
                });
            }
        }
        Fields { table: keys.table, span, values }
    }

    pub(super) fn missing(&mut self, fields: &Fields<'_>, key: &str) {
        self.problem(fields.span.clone(), format!("{} lacks `{key}`", fields.table));
    }

    pub(super) fn wrong_type(&mut self, value: &Value<'_>, key: &str, expected: &str) {
        let found = value.get_ref().type_str();
        self.problem(value.span(), format!("`{key}` is {expected}, not a value of type {found}"));
    }

    /// A table within a table, if it is there.
    pub(super) fn table<'v>(&mut self, fields: &Fields<'v>, key: &str, keys: &Keys) -> Option<Fields<'v>> {
        let value = fields.value(key)?;
        match value.get_ref() {
            DeValue::Table(table) => Some(self.fields(table, value.span(), keys)),
            _ => {
                self.wrong_type(value, key, "a table");
                None
            }
        }
    }

    /// `[[key]]`, in file order.
    pub(super) fn tables<'v>(
        &mut self,
        fields: &Fields<'v>,
        key: &str,
        keys: &Keys,
    ) -> Vec<(Fields<'v>, Range<usize>)> {
        let Some(value) = fields.value(key) else { return Vec::new() };
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(value, key, &format!("written as [[{key}]]"));
            return Vec::new();
        };
        let mut tables = Vec::with_capacity(items.len());
        for item in items.iter() {
            match item.get_ref() {
                DeValue::Table(table) => {
                    tables.push((self.fields(table, item.span(), keys), item.span()));
                }
                _ => self.wrong_type(item, key, &format!("written as [[{key}]]")),
            }
        }
        tables
    }

    /// A text, read by a function whose error says what is wrong.
    pub(super) fn text<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = fields.value(key)?;
        match value.get_ref() {
            DeValue::String(text) => match read(text) {
                Ok(read) => return Some(read),
                Err(error) => self.problem(value.span(), error),
            },
            _ => self.wrong_type(value, key, "a text in quotes"),
        }
        None
    }

    pub(super) fn required<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        if fields.value(key).is_none() {
            self.missing(fields, key);
        }
        self.text(fields, key, read)
    }

    /// A list of texts; all wrong ones are reported.
    pub(super) fn list<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let value = fields.value(key)?;
        let DeValue::Array(items) = value.get_ref() else {
            self.wrong_type(value, key, "a list of texts: [\"…\", \"…\"]");
            return None;
        };
        let mut list = Vec::with_capacity(items.len());
        for item in items.iter() {
            match item.get_ref() {
                DeValue::String(text) => match read(text) {
                    Ok(read) => list.push(read),
                    Err(error) => self.problem(item.span(), error),
                },
                _ => self.wrong_type(item, key, "a list of texts: [\"…\", \"…\"]"),
            }
        }
        Some(list)
    }

    /// One of a closed set of words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        choices: &[T],
        word: impl Fn(T) -> &'static str,
    ) -> Option<T> {
        let value = fields.value(key)?;
        let words: Vec<&str> = choices.iter().map(|choice| word(*choice)).collect();
        let DeValue::String(text) = value.get_ref() else {
            let hint = if key == "tag" && value.get_ref().is_table() {
                "one word; write \"tag.moved\" in quotes to mean that check".to_owned()
            } else {
                format!("one of {}", words.join(", "))
            };
            self.wrong_type(value, key, &hint);
            return None;
        };
        let found = choices.iter().copied().find(|choice| word(*choice) == text.as_ref());
        if found.is_none() {
            let problem =
                Problem::new(value.span(), format!("`{key}` is one of {}, not {text:?}", words.join(", ")));
            self.problems.push(match nearest(text, words) {
                Some(near) => problem.help(format!("did you mean \"{near}\"?")),
                None => problem,
            });
        }
        found
    }

    /// A whole number that is not negative.
    pub(super) fn number(&mut self, fields: &Fields<'_>, key: &str) -> Option<u64> {
        let value = fields.value(key)?;
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_type(value, key, "a number");
            return None;
        };
        let read = u64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
        if read.is_err() {
            self.problem(value.span(), format!("`{key}` is a number from 0 on"));
        }
        read.ok()
    }

    /// A day: a TOML date, or the same as text.
    pub(super) fn date(&mut self, fields: &Fields<'_>, key: &str) -> Option<Date> {
        let value = fields.value(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            _ => {
                self.wrong_type(value, key, "a date such as 2026-11-20");
                return None;
            }
        };
        let date = (text.len() == 10).then(|| text.parse().ok()).flatten();
        if date.is_none() {
            self.problem(value.span(), format!("{text:?} is no date; expected 2026-11-20"));
        }
        date
    }

    /// A table of texts, each read by a function whose error says what is wrong.
    pub(super) fn texts(&mut self, fields: &Fields<'_>, key: &str) -> Option<Vec<(String, String)>> {
        let value = fields.value(key)?;
        let DeValue::Table(table) = value.get_ref() else {
            self.wrong_type(value, key, "a table of texts: { name = \"…\" }");
            return None;
        };
        let mut texts = Vec::new();
        for (name, value) in table {
            match value.get_ref() {
                DeValue::String(text) => texts.push((name.get_ref().to_string(), text.to_string())),
                _ => self.wrong_type(value, name.get_ref(), "a text in quotes"),
            }
        }
        Some(texts)
    }

    /// A time: a TOML date or date-time, or the same as text; a date means its first moment in UTC.
    pub(super) fn time(&mut self, fields: &Fields<'_>, key: &str) -> Option<Timestamp> {
        let value = fields.value(key)?;
        let text = match value.get_ref() {
            DeValue::String(text) => text.to_string(),
            DeValue::Datetime(time) => time.to_string(),
            _ => {
                self.wrong_type(value, key, "a time such as 2026-11-20T12:00:00Z");
                return None;
            }
        };
        let midnight =
            || text.parse::<Date>().ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp());
        let time = text.parse().ok().or_else(midnight);
        if time.is_none() {
            self.problem(
                value.span(),
                format!("{text:?} is no time; expected 2026-11-20 or 2026-11-20T12:00:00Z"),
            );
        }
        time
    }
}
