//! `config/policy.toml`: the rules people write, read strictly.
//!
//! The parsed document is walked rather than deserialised: every value keeps its place, so that each
//! rule knows its line (`policy.toml:41`), and every wrong line is shown at once.

mod keys;
mod leaves;
mod reader;
mod schema;
mod tables;
#[cfg(test)]
mod tests;
mod work;

use std::fmt::Display;
use std::ops::Range;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use self::keys::{EXCEPTION, HELP, PIN, RECALL, REQUIRE, SOURCE, TEST, TOP};
use self::reader::{Fields, Reader};
use super::diagnostic::{FileError, Problem, nearest};
use crate::oci::{Digest, Name, Reference, Tag};
use crate::policy::{
    Code, Help, Item, Match, Mode, Pin, Policy, PolicyTest, Rules, SourceRule, Verdict, Written,
};

pub use schema::schema;
pub use work::{Unsound, Work, compile, load_tests, open, text_of};

/// The file that commands read unless told otherwise.
pub const DEFAULT_PATH: &str = "config/policy.toml";

/// The most characters of `help.contact`: the message it stands in has 300.
const CONTACT_MAX: usize = 60;
/// The most characters of `help.url`.
const URL_MAX: usize = 120;
/// The most characters of a name, revision or id.
const WORD_MAX: usize = 64;

/// Reads and checks a policy file, whatever clients there may be.
pub fn load(path: &Path) -> Result<Policy, FileError> {
    read(path, None)
}

/// Reads and checks a policy file for a gateway with these clients: another name in `clients` of a
/// source or of `[require]` is an error, for nobody could ever be it.
pub fn load_for(path: &Path, clients: &[String]) -> Result<Policy, FileError> {
    read(path, Some(clients))
}

fn read(path: &Path, clients: Option<&[String]>) -> Result<Policy, FileError> {
    let bytes = std::fs::read(path).map_err(|error| FileError::unreadable(path, error))?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse_for(path, text, clients),
        Err(error) => {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, error);
            Err(FileError::unreadable(path, error))
        }
    }
}

/// Reads and checks a policy; `path` is what errors and traces call it.
pub fn parse(path: &Path, text: &str) -> Result<Policy, FileError> {
    parse_for(path, text, None)
}

fn parse_for(path: &Path, text: &str, clients: Option<&[String]>) -> Result<Policy, FileError> {
    let file = path.file_name().map_or_else(|| "policy.toml".into(), |name| name.to_string_lossy());
    let mut reader = Reader::new(&file, text, clients);
    let document = DeTable::parse(text)
        .map_err(|error| FileError::invalid(path, text, vec![Problem::from_toml(&error)]))?;
    let read = reader.rules(document.get_ref(), Digest::sha256(text.as_bytes()));
    let problems = std::mem::take(&mut reader.problems);
    let read = match read {
        Some(read) if problems.is_empty() => read,
        _ => return Err(FileError::invalid(path, text, problems)),
    };
    let Places { exceptions, pins, recalls, sources } = read.places;
    Policy::new(read.rules).map_err(|invalid| {
        let span = match invalid.item {
            Item::Exception(at) => exceptions.get(at),
            Item::Pin(at) => pins.get(at),
            Item::Recall(at) => recalls.get(at),
            Item::Source(at) => sources.get(at),
        };
        FileError::invalid(path, text, vec![Problem::new(span.cloned(), invalid.message).help(invalid.help)])
    })
}

/// Where the items of the file are, for what only the whole can tell.
#[derive(Default)]
struct Places {
    exceptions: Vec<Range<usize>>,
    pins: Vec<Range<usize>>,
    recalls: Vec<Range<usize>>,
    sources: Vec<Range<usize>>,
}

struct Read {
    rules: Rules,
    places: Places,
}

/// Any value that is read from text, its error in words.
fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

/// An image as a pin names it; without a written tag the pin admits the digest alone.
fn pinned(text: &str) -> Result<(Name, Option<Tag>), String> {
    let reference: Reference = parsed(text)?;
    if reference.digest.is_some() {
        return Err("the image of a pin is named without its digest; that is the key `digest`".to_owned());
    }
    let written = text.rsplit('/').next().unwrap_or(text).contains(':');
    Ok((reference.name, reference.tag.filter(|_| written)))
}

fn word(text: &str) -> Result<Arc<str>, String> {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if (1..=WORD_MAX).contains(&text.len()) && text.bytes().all(sound) {
        Ok(text.into())
    } else {
        Err(format!("{text:?} does not fit: 1 to {WORD_MAX} letters, digits, . _ or -"))
    }
}

fn printable(text: &str, max: usize) -> Result<String, String> {
    if text.trim().is_empty() || text.chars().any(char::is_control) {
        return Err("expected printable text".to_owned());
    }
    match text.chars().count() {
        length if length > max => {
            Err(format!("{length} characters are too many; at most {max} fit a refusal"))
        }
        _ => Ok(text.to_owned()),
    }
}

fn label(text: &str) -> Result<Arc<str>, String> {
    printable(text, WORD_MAX).map(Into::into)
}

/// The name of a client, if it can be anybody's.
fn known(name: Arc<str>, clients: Option<&[String]>) -> Result<Arc<str>, String> {
    let Some(clients) = clients.filter(|clients| !clients.iter().any(|client| **client == *name)) else {
        return Ok(name);
    };
    let meant = match nearest(&name, clients.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {near:?}?"),
        None => "declare it there, or take it out here".to_owned(),
    };
    Err(format!("no [[client]] of the gateway's configuration is named {name:?}; {meant}"))
}

fn link(text: &str) -> Result<String, String> {
    let url = printable(text, URL_MAX)?;
    let web = url.starts_with("https://") || url.starts_with("http://");
    if web && !url.contains(char::is_whitespace) {
        Ok(url)
    } else {
        Err(format!("{text:?} is no web address; expected https://…, {{id}} stands for the decision's id"))
    }
}

/// A code.
fn code(text: &str) -> Result<Code, String> {
    if let Some(code) = Code::parse(text) {
        return Ok(code);
    }
    let near = super::diagnostic::nearest(text, Code::ALL.iter().map(|code| code.as_str()));
    Err(near.map_or_else(
        || format!("{text:?} is no reason code"),
        |near| format!("{text:?} is no reason code; did you mean {near:?}?"),
    ))
}

impl Reader<'_> {
    fn rules(&mut self, document: &DeTable<'_>, sha256: Digest) -> Option<Read> {
        let top = self.fields(document, 0..0, &TOP);
        let name = self.required(&top, "name", label);
        let revision = self.required(&top, "revision", label);
        let mode = self.choice(&top, "mode", &Mode::ALL, Mode::as_str).unwrap_or_default();
        let unlisted = self.list(&top, "unlisted", parsed).unwrap_or_default();
        let help = self.table(&top, "help", &HELP).map(|fields| Help {
            contact: self.text(&fields, "contact", |text| printable(text, CONTACT_MAX)),
            url: self.text(&fields, "url", link),
        });
        let require = self.table(&top, "require", &REQUIRE).map(|fields| self.leaves(&fields));
        let mut places = Places::default();
        let mut sources = Vec::new();
        for (fields, span) in self.tables(&top, "source", &SOURCE) {
            sources.extend(self.source(&fields, &span));
            places.sources.push(span);
        }
        let mut pins = Vec::new();
        for (fields, span) in self.tables(&top, "pin", &PIN) {
            pins.extend(self.pin(&fields, &span));
            places.pins.push(span);
        }
        let mut recalls = Vec::new();
        for (fields, span) in self.tables(&top, "recall", &RECALL) {
            recalls.extend(self.recall(&fields, &span));
            places.recalls.push(span);
        }
        let mut exceptions = Vec::new();
        for (fields, span) in self.tables(&top, "exception", &EXCEPTION) {
            exceptions.extend(self.exception(&fields, &span));
            places.exceptions.push(span);
        }
        let mut tests = Vec::new();
        for (fields, span) in self.tables(&top, "test", &TEST) {
            tests.extend(self.test(&fields, &span));
        }
        let rules = Rules {
            name: name?,
            revision: revision?,
            sha256,
            mode,
            unlisted,
            help: help.unwrap_or_default(),
            require: require.unwrap_or_default(),
            sources,
            pins,
            recalls,
            exceptions,
            tests,
        };
        Some(Read { rules, places })
    }

    fn source(&mut self, fields: &Fields<'_>, span: &Range<usize>) -> Option<SourceRule> {
        let id = self.required(fields, "id", word);
        let pattern = self.required(fields, "match", Match::parse);
        let leaves = self.leaves(fields);
        Some(SourceRule { id: id?, pattern: pattern?, leaves, at: self.at(span) })
    }

    fn pin(&mut self, fields: &Fields<'_>, span: &Range<usize>) -> Option<Pin> {
        let image = self.required(fields, "image", pinned);
        let digest = self.required(fields, "digest", parsed);
        let (name, tag) = image?;
        Some(Pin { name, tag, digest: digest?, at: self.at(span) })
    }

    fn test(&mut self, fields: &Fields<'_>, span: &Range<usize>) -> Option<PolicyTest> {
        const VERDICTS: [Verdict; 4] = [Verdict::Allow, Verdict::Deny, Verdict::Hold, Verdict::Warn];
        let pull = self.required(fields, "pull", parsed);
        let expect = self.choice(fields, "expect", &VERDICTS, Verdict::as_str);
        if fields.value("expect").is_none() {
            self.missing(fields, "expect");
        }
        let because = self.list(fields, "because", code).unwrap_or_default();
        let facts = self.given(fields);
        let client = self.text(fields, "client", label);
        let time = self.time(fields, "at");
        Some(PolicyTest { pull: pull?, expect: expect?, because, facts, client, time, at: self.at(span) })
    }

    pub(super) fn written_list<T>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Written<Vec<T>>> {
        let value = self.list(fields, key, read)?;
        Some(Written { value, at: self.at_of(fields, key) })
    }

    pub(super) fn written_choice<T: Copy>(
        &mut self,
        fields: &Fields<'_>,
        key: &str,
        choices: &[T],
        word: impl Fn(T) -> &'static str,
    ) -> Option<Written<T>> {
        let value = self.choice(fields, key, choices, word)?;
        Some(Written { value, at: self.at_of(fields, key) })
    }
}

/// A value with its place.
type Value<'t> = Spanned<DeValue<'t>>;
