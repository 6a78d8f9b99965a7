//! What a page is asked for: the words behind the `?` of its address, and forms.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::answer::Trouble;

/// The longest query that is read, in bytes. Links of the console are far shorter, but for the way
/// back through hundreds of pages.
const QUERY: usize = 16 << 10;
/// The longest value, in characters, but for that way back.
const VALUE: usize = 512;
/// So many pages back are remembered.
const BACK: usize = 400;

/// In which form a page is wanted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    Csv,
    Html,
    Json,
    Patch,
}

/// The parameters of a page; one that is empty is none.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    /// Reads a query in which nothing but these keys may be, and those that every page knows.
    pub(super) fn read(text: &str, known: &[&str]) -> Result<Self, Trouble> {
        if text.len() > QUERY {
            return Err(Trouble::Invalid(format!(
                "This filter is too long: an address may have {QUERY} bytes behind its question mark. Shorten it."
            )));
        }
        let mut query = BTreeMap::new();
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
            if value.is_empty() {
                continue;
            }
            if !known.contains(&&*key) && !["after", "back", "format"].contains(&&*key) {
                let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                return Err(Trouble::Invalid(format!(
                    "This page knows no filter {:?}. It knows: {known}.",
                    key.chars().take(64).collect::<String>()
                )));
            }
            if key != "back" && value.chars().nth(VALUE).is_some() {
                return Err(Trouble::Invalid(format!(
                    "The filter {key} is too long: it may have {VALUE} characters. Shorten it."
                )));
            }
            query.insert(key.into_owned(), value.into_owned());
        }
        Ok(Self(query))
    }

    /// The value of a key.
    pub(super) fn of(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    pub(super) fn owned(&self, key: &str) -> Option<String> {
        self.0.get(key).cloned()
    }

    /// The value of a key in a closed set of words.
    pub(super) fn word<T>(&self, key: &str, parse: impl Fn(&str) -> Option<T>) -> Result<Option<T>, Trouble> {
        let Some(word) = self.of(key) else { return Ok(None) };
        parse(word)
            .map(Some)
            .ok_or_else(|| Trouble::Invalid(format!("{word:?} is nothing that the filter {key} can be.")))
    }

    /// The value of a key that is a time: a moment, a day, or so long ago (`24h`, `7d`).
    pub(super) fn time(&self, key: &str, now: Timestamp) -> Result<Option<Timestamp>, Trouble> {
        self.of(key).map(|text| time(key, text, now)).transpose()
    }

    pub(super) fn format(&self) -> Result<Format, Trouble> {
        Ok(match self.of("format") {
            None | Some("html") => Format::Html,
            Some("csv") => Format::Csv,
            Some("json") => Format::Json,
            Some("patch") => Format::Patch,
            Some(other) => {
                return Err(Trouble::Invalid(format!(
                    "{other:?} is no format. There are html, json and csv."
                )));
            }
        })
    }

    /// Whether a page of these parameters shows less than everything.
    pub(super) fn is_filtered(&self) -> bool {
        self.0.keys().any(|key| !["after", "back", "format"].contains(&key.as_str()))
    }

    /// The same with another value of one key, from its first page on.
    pub(super) fn with(&self, key: &str, value: &str) -> Self {
        let mut query = self.first();
        query.0.insert(key.to_owned(), value.to_owned());
        query
    }

    pub(super) fn without(&self, key: &str) -> Self {
        let mut query = self.first();
        query.0.remove(key);
        query
    }

    /// The same in another form, and of the same page.
    pub(super) fn in_format(&self, format: &str) -> Self {
        let mut query = self.clone();
        query.0.remove("back");
        query.0.insert("format".to_owned(), format.to_owned());
        query
    }

    /// Its first page.
    pub(super) fn first(&self) -> Self {
        let mut query = self.clone();
        for key in ["after", "back", "format"] {
            query.0.remove(key);
        }
        query
    }

    /// The page behind this one.
    pub(super) fn next(&self, cursor: &str) -> Self {
        let mut query = self.first();
        if let Some(after) = self.of("after") {
            let mut back: Vec<&str> = self.back();
            back.push(after);
            let skipped = back.len().saturating_sub(BACK);
            query.0.insert("back".to_owned(), back.split_off(skipped).join("~"));
        }
        query.0.insert("after".to_owned(), cursor.to_owned());
        query
    }

    /// The page before this one; `None`: this is the first.
    pub(super) fn previous(&self) -> Option<Self> {
        self.of("after")?;
        let mut query = self.first();
        let mut back = self.back();
        if let Some(after) = back.pop() {
            query.0.insert("after".to_owned(), after.to_owned());
            if !back.is_empty() {
                query.0.insert("back".to_owned(), back.join("~"));
            }
        }
        Some(query)
    }

    fn back(&self) -> Vec<&str> {
        self.of("back")
            .map(|back| back.split('~').filter(|one| one.len() <= 64).collect())
            .unwrap_or_default()
    }

    /// As a link of this path.
    pub(super) fn link(&self, path: &str) -> String {
        link(path, self.0.iter().map(|(key, value)| (key.as_str(), value.as_str())))
    }

    /// What a form of this page must repeat for this key to be kept.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }
}

/// A link with these parameters.
pub(super) fn link<'a>(path: &str, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (key, value) in pairs {
        query.append_pair(key, value);
    }
    let query = query.finish();
    let mut link = path.to_owned();
    if !query.is_empty() {
        let _ = write!(link, "?{query}");
    }
    link
}

fn time(key: &str, text: &str, now: Timestamp) -> Result<Timestamp, Trouble> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(date) = text.parse::<Date>()
        && let Ok(zoned) = date.to_zoned(TimeZone::UTC)
    {
        return Ok(zoned.timestamp());
    }
    let ago = || {
        let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let hours = match unit {
            "h" => 1,
            "d" => 24,
            _ => return None,
        };
        let count: i64 = count.parse().ok().filter(|count| (1..=100_000).contains(count))?;
        now.checked_sub(SignedDuration::from_hours(count * hours)).ok()
    };
    ago().ok_or_else(|| {
        Trouble::Invalid(format!(
            "{text:?} is no time for the filter {key}. Write 24h, 7d, 2026-11-23 or 2026-11-23T08:00:00Z."
        ))
    })
}

/// The fields of a form that was sent.
#[derive(Clone, Debug, Default)]
pub struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Reads the body of a form; of several fields of one name the last counts.
    pub fn read(body: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(body).into_owned().collect())
    }

    /// A field; one that is empty is none. Line ends are as people mean them.
    pub fn of(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_lead_on_and_back_again() {
        let first = Query::read("state=new&reason=", &["reason", "state"]).unwrap();
        assert_eq!((first.link("/inbox"), first.previous()), ("/inbox?state=new".to_owned(), None));
        let second = first.next("9.1");
        assert_eq!(second.link("/inbox"), "/inbox?after=9.1&state=new");
        assert_eq!(second.previous().as_ref(), Some(&first));
        let third = second.next("5.2");
        let again = third.link("/inbox");
        let again = Query::read(again.split_once('?').unwrap().1, &["state"]).unwrap();
        assert_eq!(again, third);
        assert_eq!(again.previous().unwrap().link("/inbox"), second.link("/inbox"));
        assert_eq!(third.with("reason", "a&b").link("/inbox"), "/inbox?reason=a%26b&state=new");
        let mut page = first;
        for number in 0..BACK {
            page = page.next(&format!("{number}.123456789"));
        }
        assert!(page.link("/inbox").len() < QUERY);
    }

    #[test]
    fn times_are_moments_days_and_so_long_ago() {
        let now: Timestamp = "2026-11-23T08:00:00Z".parse().unwrap();
        let at = |text| time("since", text, now).map(|time| time.to_string()).ok();
        assert_eq!(at("24h").as_deref(), Some("2026-11-22T08:00:00Z"));
        assert_eq!(at("7d").as_deref(), Some("2026-11-16T08:00:00Z"));
        assert_eq!(at("2026-11-01").as_deref(), Some("2026-11-01T00:00:00Z"));
        assert_eq!(at("2026-11-01T10:00:00Z").as_deref(), Some("2026-11-01T10:00:00Z"));
        for wrong in ["", "h", "0h", "-1d", "9999999999999d", "soon", "1é", "٣d"] {
            assert_eq!(at(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_unknown_or_too_long_is_told() {
        assert!(
            matches!(Query::read("nonsense=1", &["state"]), Err(Trouble::Invalid(text)) if text.contains("state"))
        );
        assert!(Query::read(&format!("text={}", "x".repeat(600)), &["text"]).is_err());
        assert!(Query::read(&"x".repeat(20_000), &["text"]).is_err());
    }
}
