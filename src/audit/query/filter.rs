//! What a reader asks for.

use jiff::Timestamp;
use ulid::Ulid;

use crate::audit::row::Kind;
use crate::oci::Reference;
use crate::policy::{Code, Verdict};

/// Which entries are wanted; everything given must hold.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only what stands after this place (`seq`); with [`Order::OldestFirst`] the way to the next page.
    pub after: Option<i64>,
    /// Only what stands before this place; with [`Order::NewestFirst`] the way to the next page.
    pub before: Option<i64>,
    /// Only refused pulls.
    pub blocked: bool,
    /// Look at about so many events, no more: a page that takes a longer search is
    /// [`super::Error::Broad`] instead of a database that is busy for everybody. `None`: search all.
    pub budget: Option<u64>,
    /// A client's name or address; `*` stands for any run of characters.
    pub client: Option<Pattern>,
    /// What the image resolved to: a digest or its beginning, with or without `sha256:`.
    pub digest: Option<String>,
    /// The event of this id.
    pub id: Option<Ulid>,
    /// Reference, `registry/repository` or repository.
    pub image: Option<Pattern>,
    /// Only these kinds; empty: all but [`Kind::Checkpoint`]. What belongs to another event (`repeat`,
    /// `transfer`) is joined to it and never an entry of its own.
    pub kinds: Vec<Kind>,
    /// At most so many entries.
    pub limit: Option<usize>,
    /// Which come first.
    pub order: Order,
    /// *The* reason.
    pub reason: Option<Code>,
    /// The registry, as `docker.io`.
    pub registry: Option<String>,
    /// The repository without its registry, as `library/python`.
    pub repository: Option<String>,
    /// Only what happened, or happened again, at or after this.
    pub since: Option<Timestamp>,
    /// The tag.
    pub tag: Option<String>,
    /// Only what happened at or before this.
    pub until: Option<Timestamp>,
    /// What policy said.
    pub verdict: Option<Verdict>,
}

/// In which order entries come.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Order {
    /// From the latest back.
    NewestFirst,
    /// As they happened.
    #[default]
    OldestFirst,
}

/// Words in which `*` stands for any run of characters.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern(Vec<String>);

impl Pattern {
    /// Words as they are.
    pub fn words(text: &str) -> Self {
        Self(vec![text.to_owned()])
    }

    /// An image as people write it: `python`, `python:3.*`, `docker.io/library/*`, `*nginx*`. Short
    /// names mean Docker Hub; without tag or digest, all of them.
    pub fn image(text: &str) -> Self {
        let mut forms = vec![text.to_owned()];
        if !text.contains('*')
            && let Ok(reference) = text.parse::<Reference>()
        {
            let last = text.rsplit('/').next().unwrap_or_default();
            let written = last.contains(':') || last.contains('@');
            forms.push(if written { reference.to_string() } else { reference.name.to_string() });
        } else if !text.starts_with('*') {
            forms.push(format!("docker.io/{text}"));
            if !text.contains('/') {
                forms.push(format!("docker.io/library/{text}"));
            }
        }
        Self(forms)
    }

    /// Whether the whole text fits.
    pub fn matches(&self, text: &str) -> bool {
        self.0.iter().any(|form| fits(form, text))
    }

    /// Its forms, when none of them leaves anything open.
    pub(super) fn exact(&self) -> Option<&[String]> {
        (!self.0.iter().any(|form| form.contains('*'))).then_some(&self.0)
    }

    /// The same for SQL's LIKE, which is less strict about case.
    pub(super) fn likes(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|form| {
            form.chars()
                .flat_map(|character| match character {
                    '*' => vec!['%'],
                    '%' | '_' | '\\' => vec!['\\', character],
                    other => vec![other],
                })
                .collect()
        })
    }
}

/// Glob matching with `*` alone, in linear space and without recursion.
fn fits(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut pieces: Vec<&str> = pieces.collect();
    let Some(last) = pieces.pop() else { return rest.is_empty() };
    for piece in pieces {
        match rest.split_once(piece) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}
