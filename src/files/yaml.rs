//! YAML with places: an arena of nodes that know which bytes they come from.
//!
//! Aliases are links, never copies: what is read grows with the text and not with what it stands for.

use std::cell::Cell;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle};

use super::template::Mask;

/// Deeper nesting is nobody's manifest.
const DEPTH_MAX: usize = 128;
/// So many nodes a file may have.
const NODES_MAX: usize = 1_000_000;
/// So many entries are looked at in all, however often aliases and merges lead to them.
const LOOKS_MAX: usize = 8_000_000;
/// Every so many characters the byte offset is kept.
const STRIDE: usize = 256;

/// The documents of a file, as far as it could be parsed.
#[derive(Debug)]
pub(super) struct Yaml<'a> {
    text: &'a str,
    masked: &'a str,
    mask: Option<&'a Mask>,
    nodes: Vec<Node>,
    documents: Vec<usize>,
    fault: Option<(usize, String)>,
    spent: Cell<usize>,
}

#[derive(Debug)]
struct Node {
    anchored: bool,
    value: Value,
    range: Range<usize>,
}

#[derive(Debug)]
enum Value {
    Alias(usize),
    Mapping(Vec<(usize, usize)>),
    Scalar(String, ScalarStyle),
    Sequence(Vec<usize>),
}

impl<'a> Yaml<'a> {
    /// Parses `masked`, which is as long as `text` and stands for it.
    pub(super) fn parse(text: &'a str, masked: &'a str, mask: Option<&'a Mask>) -> Self {
        let mut yaml = Self {
            text,
            masked,
            mask,
            nodes: Vec::new(),
            documents: Vec::new(),
            fault: None,
            spent: Cell::new(0),
        };
        yaml.build(masked);
        yaml
    }

    /// The root of each document.
    pub(super) fn documents(&self) -> impl Iterator<Item = View<'_>> {
        self.documents.iter().map(|id| View { yaml: self, id: *id, aliased: false })
    }

    /// Where it cannot be read further, and why.
    pub(super) fn fault(&self) -> Option<(usize, &str)> {
        if self.spent.get() >= LOOKS_MAX {
            return Some((0, "aliases and merges stand for too much"));
        }
        self.fault.as_ref().map(|(at, what)| (*at, what.as_str()))
    }

    fn build(&mut self, masked: &str) {
        let offsets = Offsets::new(masked);
        let mut anchors: HashMap<usize, usize> = HashMap::new();
        // Open collections, each with the key that waits for its value.
        let mut open: Vec<(usize, Option<usize>)> = Vec::new();
        for item in Parser::new_from_str(masked) {
            let (event, span) = match item {
                Ok(item) => item,
                Err(error) => {
                    self.fault = Some((offsets.byte(error.marker().index()), error.info().to_owned()));
                    return;
                }
            };
            let range = offsets.byte(span.start.index())..offsets.byte(span.end.index());
            let (value, anchor) = match event {
                Event::Alias(anchor) => match anchors.get(&anchor) {
                    Some(id) => (Value::Alias(*id), 0),
                    None => continue,
                },
                Event::MappingStart(anchor, _) => (Value::Mapping(Vec::new()), anchor),
                Event::Scalar(text, style, anchor, _) => (Value::Scalar(text.into_owned(), style), anchor),
                Event::SequenceStart(anchor, _) => (Value::Sequence(Vec::new()), anchor),
                Event::MappingEnd | Event::SequenceEnd => {
                    open.pop();
                    continue;
                }
                _ => continue,
            };
            if open.len() >= DEPTH_MAX || self.nodes.len() >= NODES_MAX {
                let what = if open.len() >= DEPTH_MAX { "nested too deeply" } else { "too many values" };
                self.fault = Some((range.start, what.to_owned()));
                return;
            }
            let collection = !matches!(value, Value::Alias(_) | Value::Scalar(..));
            let id = self.nodes.len();
            self.nodes.push(Node { anchored: anchor != 0, value, range });
            if anchor != 0 {
                anchors.insert(anchor, id);
            }
            match open.last_mut() {
                None => self.documents.push(id),
                Some((parent, key)) => match self.nodes.get_mut(*parent).map(|node| &mut node.value) {
                    Some(Value::Sequence(items)) => items.push(id),
                    Some(Value::Mapping(entries)) => match key.take() {
                        None => *key = Some(id),
                        Some(key) => entries.push((key, id)),
                    },
                    _ => {}
                },
            }
            if collection {
                open.push((id, None));
            }
        }
    }
}

/// From characters, which the parser counts, to bytes.
struct Offsets<'a> {
    text: &'a str,
    marks: Vec<usize>,
}

impl<'a> Offsets<'a> {
    fn new(text: &'a str) -> Self {
        let marks = match text.is_ascii() {
            true => Vec::new(),
            false => text.char_indices().step_by(STRIDE).map(|(at, _)| at).collect(),
        };
        Self { text, marks }
    }

    fn byte(&self, index: usize) -> usize {
        if self.marks.is_empty() {
            return index.min(self.text.len());
        }
        let Some(mark) = self.marks.get(index / STRIDE) else { return self.text.len() };
        let mut after = self.text.get(*mark..).unwrap_or_default().char_indices();
        after.nth(index % STRIDE).map_or(self.text.len(), |(at, _)| mark + at)
    }
}

/// A node, seen through any alias.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    yaml: &'a Yaml<'a>,
    id: usize,
    aliased: bool,
}

impl<'a> View<'a> {
    fn node(self) -> Option<&'a Node> {
        self.yaml.nodes.get(self.id)
    }

    fn to(self, id: usize) -> Self {
        match self.yaml.nodes.get(id).map(|node| &node.value) {
            Some(Value::Alias(target)) => Self { yaml: self.yaml, id: *target, aliased: true },
            _ => Self { yaml: self.yaml, id, aliased: false },
        }
    }

    /// What tells nodes apart.
    pub(super) fn id(self) -> usize {
        self.id
    }

    /// Whether an alias leads straight to it, or may.
    pub(super) fn is_aliased(self) -> bool {
        self.aliased || self.node().is_some_and(|node| node.anchored)
    }

    /// Whether any of the file is a template.
    pub(super) fn in_template(self) -> bool {
        self.yaml.mask.is_some()
    }

    /// Whether part of this scalar is filled in by a template.
    pub(super) fn is_template(self) -> bool {
        let range = self.node().map(|node| node.range.clone()).unwrap_or_default();
        self.yaml.mask.is_some_and(|mask| mask.touches(&range))
    }

    /// A scalar's text; nothing for collections and `null`.
    pub(super) fn text(self) -> Option<&'a str> {
        match &self.node()?.value {
            Value::Scalar(text, ScalarStyle::Plain)
                if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") =>
            {
                None
            }
            Value::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// The bytes in which a scalar's text stands, without quotes, anchor and tag, and whether they are the
    /// very text; otherwise the bytes of the whole scalar.
    pub(super) fn content(self) -> (Range<usize>, bool) {
        let Some(Node { value: Value::Scalar(text, style), range, .. }) = self.node() else {
            return (0..0, false);
        };
        let start = self.properties_end(range);
        let inner = match style {
            ScalarStyle::DoubleQuoted | ScalarStyle::SingleQuoted => start + 1..range.end.saturating_sub(1),
            ScalarStyle::Folded | ScalarStyle::Literal | ScalarStyle::Plain => {
                start..start + self.source(start..range.end).trim_end().len()
            }
        };
        if !text.is_empty() && self.yaml.masked.get(inner.clone()) == Some(text) {
            (inner, true)
        } else {
            (start..range.end, false)
        }
    }

    /// Where the scalar itself begins, after `&anchor` and `!tag`.
    fn properties_end(self, range: &Range<usize>) -> usize {
        let mut start = range.start;
        loop {
            let rest = self.source(start..range.end);
            if rest.starts_with(['&', '!']) {
                start += rest.find(char::is_whitespace).unwrap_or(rest.len());
            } else if rest.starts_with(char::is_whitespace) {
                start += rest.len() - rest.trim_start().len();
            } else if rest.starts_with('#') && start > range.start {
                start += rest.find('\n').unwrap_or(rest.len());
            } else {
                return start;
            }
        }
    }

    /// The file's own bytes.
    pub(super) fn source(self, range: Range<usize>) -> &'a str {
        self.yaml.text.get(range).unwrap_or_default()
    }

    /// A block scalar written with `|`: the text inside, and the offset in the file of each of its lines.
    pub(super) fn literal_lines(self) -> Option<Vec<usize>> {
        let Node { value: Value::Scalar(text, ScalarStyle::Literal), range, .. } = self.node()? else {
            return None;
        };
        let file = self.yaml.text;
        let line_start = |at: usize| Some(file.get(..at)?.rfind('\n').map_or(0, |at| at + 1));
        // The range begins at the first line that is not blank.
        let mut at = line_start(range.start)?;
        for _ in 0..text.len() - text.trim_start_matches('\n').len() {
            at = line_start(at.checked_sub(1)?)?;
        }
        let mut starts = Vec::new();
        for wanted in text.split_terminator('\n') {
            let line = file.get(at..)?.split('\n').next()?;
            let shown = line.strip_suffix('\r').unwrap_or(line);
            let same = if wanted.is_empty() { shown.trim().is_empty() } else { shown.ends_with(wanted) };
            if !same {
                return None;
            }
            starts.push(at + shown.len().checked_sub(wanted.len())?);
            at += line.len() + 1;
        }
        Some(starts)
    }

    /// Whether it is a mapping.
    pub(super) fn is_mapping(self) -> bool {
        self.node().is_some_and(|node| matches!(node.value, Value::Mapping(_)))
    }

    /// The members of a sequence; nothing for anything else.
    pub(super) fn items(self) -> impl Iterator<Item = View<'a>> {
        let items: &[usize] = match self.node().map(|node| &node.value) {
            Some(Value::Sequence(items)) => items,
            _ => &[],
        };
        items.iter().map(move |id| self.to(*id))
    }

    /// The entries that a mapping itself writes, `<<` included; nothing for anything else.
    pub(super) fn entries(self) -> impl Iterator<Item = (View<'a>, View<'a>)> {
        let entries: &[(usize, usize)] = match self.node().map(|node| &node.value) {
            Some(Value::Mapping(entries)) => entries,
            _ => &[],
        };
        entries.iter().map(move |(key, value)| (self.to(*key), self.to(*value)))
    }

    /// The entries of a mapping with those it merges in by `<<` and does not itself write.
    pub(super) fn merged(self) -> Vec<(View<'a>, View<'a>)> {
        let mut found = Vec::new();
        let mut keys: HashSet<&str> = HashSet::new();
        let mut seen: HashSet<usize> = HashSet::new();
        // Nearest first: what is merged in later never replaces what is there.
        let mut waiting = vec![self];
        while let Some(mapping) = waiting.pop() {
            if !seen.insert(mapping.id) {
                continue;
            }
            if !mapping.spend() {
                break;
            }
            let (merges, own): (Vec<_>, Vec<_>) =
                mapping.entries().partition(|(key, _)| key.text() == Some("<<"));
            let fresh: Vec<_> =
                own.into_iter().filter(|(key, _)| key.text().is_none_or(|key| !keys.contains(key))).collect();
            keys.extend(fresh.iter().filter_map(|(key, _)| key.text()));
            found.extend(fresh);
            for (_, merge) in merges.into_iter().rev() {
                if merge.is_mapping() {
                    waiting.push(merge);
                } else {
                    let mut list: Vec<_> = merge.items().collect();
                    list.reverse();
                    waiting.append(&mut list);
                }
            }
        }
        found
    }

    /// Every value of a key: readers differ on which of equal keys counts, so all of them do. A key
    /// that the mapping itself writes hides those it merges in.
    pub(super) fn all(self, key: &str) -> Vec<View<'a>> {
        let mut merges = false;
        let mut own = Vec::new();
        if !self.spend() {
            return own;
        }
        for (name, value) in self.entries() {
            match name.text() {
                Some(name) if name == key => own.push(value),
                Some("<<") => merges = true,
                _ => {}
            }
        }
        if !own.is_empty() || !merges {
            return own;
        }
        self.merged()
            .into_iter()
            .filter(|(name, _)| name.text() == Some(key))
            .map(|(_, value)| value)
            .collect()
    }

    /// Whether its entries may still be looked at: hostile files have them looked at for ever.
    fn spend(self) -> bool {
        let entries = match self.node().map(|node| &node.value) {
            Some(Value::Mapping(entries)) => entries.len(),
            _ => 0,
        };
        let spent = self.yaml.spent.get().saturating_add(entries + 1);
        self.yaml.spent.set(spent);
        spent < LOOKS_MAX
    }

    /// The value of a key.
    pub(super) fn get(self, key: &str) -> Option<View<'a>> {
        self.all(key).pop()
    }

    /// The text of a key's value.
    pub(super) fn word(self, key: &str) -> Option<&'a str> {
        self.get(key)?.text()
    }
}
