//! The policy file as lines: what is put in, and the difference that makes.

use std::fmt::Write as _;

/// Lines around a change.
const CONTEXT: usize = 3;

/// A text and the changes to it. Lines that no change names stay as they are, byte for byte.
#[derive(Clone, Debug)]
pub(super) struct Sheet<'t> {
    lines: Vec<&'t str>,
    edits: Vec<Edit>,
    /// What a line ends in before its line feed.
    ending: &'static str,
    /// Whether the last line has no line feed.
    open: bool,
}

/// From line `at` on (from 0) so many lines make room for others.
#[derive(Clone, Debug)]
struct Edit {
    at: usize,
    removed: usize,
    added: Vec<String>,
}

impl<'t> Sheet<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        let open = !text.is_empty() && !text.ends_with('\n');
        let mut lines: Vec<&str> = text.split('\n').collect();
        if !open {
            lines.pop();
        }
        let ending = if text.contains("\r\n") { "\r" } else { "" };
        Self { lines, edits: Vec::new(), ending, open }
    }

    pub(super) fn line(&self, at: usize) -> Option<&'t str> {
        self.lines.get(at).copied()
    }

    /// The first line of every table written as `[[kind]]`.
    fn headers(&self, kind: &str) -> Vec<usize> {
        let is = |line: &str| {
            line.trim_start()
                .strip_prefix("[[")
                .and_then(|rest| rest.split_once("]]"))
                .is_some_and(|(found, _)| found.trim() == kind)
        };
        self.lines.iter().enumerate().filter(|(_, line)| is(line)).map(|(at, _)| at).collect()
    }

    /// Behind the last line of the table that begins here; comments above the next one are that one's.
    pub(super) fn end(&self, kind: &str, header: usize) -> usize {
        let own = format!("[{kind}.");
        let behind = self.lines.iter().enumerate().skip(header + 1);
        let next = behind.clone().find(|(_, line)| {
            let line = line.trim_start();
            line.starts_with('[') && !line.starts_with(&own)
        });
        let next = next.map_or(self.lines.len(), |(at, _)| at);
        let written = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        behind
            .take_while(|(at, _)| *at < next)
            .filter(|(_, line)| written(line))
            .last()
            .map_or(header + 1, |(at, _)| at + 1)
    }

    /// Puts a table behind the last of its kind, else behind the last source, else at the end; tests at
    /// the end where there are none. The line its header comes to.
    pub(super) fn add_table(&mut self, kind: &str, fields: &[(&str, String)]) {
        let behind = |kind: &str| self.headers(kind).last().map(|header| self.end(kind, *header));
        let place = match kind {
            "test" => behind(kind),
            _ => behind(kind).or_else(|| behind("source")),
        };
        let place = place.unwrap_or(self.lines.len());
        let mut added = vec![String::new(), format!("[[{kind}]]")];
        added.extend(written(fields));
        self.insert(place, added);
    }

    /// Writes other fields into a table, below its header.
    pub(super) fn rewrite_table(&mut self, kind: &str, header: usize, fields: &[(&str, String)]) {
        let end = self.end(kind, header);
        self.edits.push(Edit {
            at: header + 1,
            removed: end.saturating_sub(header + 1),
            added: written(fields),
        });
    }

    pub(super) fn insert(&mut self, at: usize, added: Vec<String>) {
        self.edits.push(Edit { at, removed: 0, added });
    }

    /// Puts words into a line, at this byte of the text.
    pub(super) fn insert_at(&mut self, byte: usize, words: &str) -> Option<()> {
        let mut begin = 0;
        for (at, line) in self.lines.iter().enumerate() {
            if byte <= begin + line.len() {
                let (before, after) = line.split_at_checked(byte.checked_sub(begin)?)?;
                let line = format!("{before}{words}{after}");
                let line = line.strip_suffix('\r').unwrap_or(&line).to_owned();
                self.edits.push(Edit { at, removed: 1, added: vec![line] });
                return Some(());
            }
            begin += line.len() + 1;
        }
        None
    }

    /// The changes in their order; a last line without its line feed gets one.
    fn sorted(&self) -> Vec<Edit> {
        let mut edits = self.edits.clone();
        let last = self.lines.len().saturating_sub(1);
        if let (true, Some(line)) = (self.open, self.lines.last())
            && !edits.iter().any(|edit| edit.removed > 0 && edit.at + edit.removed > last)
        {
            edits.insert(0, Edit { at: last, removed: 1, added: vec![(*line).to_owned()] });
        }
        // What is put in before a line stands before what replaces it.
        edits.sort_by_key(|edit| (edit.at, edit.removed));
        edits
    }

    /// The text with its changes.
    pub(super) fn text(&self) -> String {
        let (mut text, mut at) = (String::new(), 0);
        let copy = |text: &mut String, from: usize, to: usize| {
            for line in self.lines.iter().take(to).skip(from) {
                text.push_str(line);
                text.push('\n');
            }
        };
        for edit in self.sorted() {
            copy(&mut text, at, edit.at);
            for line in &edit.added {
                let _ = writeln!(text, "{line}{}", self.ending);
            }
            at = edit.at + edit.removed;
        }
        copy(&mut text, at, self.lines.len());
        text
    }

    /// The unified difference, as `git apply` and `patch -p1` take it.
    pub(super) fn diff(&self, path: &str) -> String {
        let path = path.trim_start_matches('/');
        let mut diff = format!("--- a/{path}\n+++ b/{path}\n");
        let edits = self.sorted();
        let mut rest = edits.as_slice();
        let mut grown = 0_usize;
        let mut shrunk = 0_usize;
        while !rest.is_empty() {
            // Changes whose surroundings touch are told together.
            let together = rest
                .windows(2)
                .take_while(|pair| match pair {
                    [one, next] => next.at <= one.at + one.removed + 2 * CONTEXT,
                    _ => false,
                })
                .count()
                + 1;
            let (hunk, behind) = rest.split_at(together.min(rest.len()));
            rest = behind;
            let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { break };
            let begin = first.at.saturating_sub(CONTEXT);
            let end = (last.at + last.removed + CONTEXT).min(self.lines.len());
            let removed: usize = hunk.iter().map(|edit| edit.removed).sum();
            let added: usize = hunk.iter().map(|edit| edit.added.len()).sum();
            let (old, new) = (end - begin, end - begin - removed + added);
            let start = |at: usize, count: usize| if count == 0 { at } else { at + 1 };
            let _ = writeln!(
                diff,
                "@@ -{},{old} +{},{new} @@",
                start(begin, old),
                start(begin + grown - shrunk, new)
            );
            let mut at = begin;
            let context = |diff: &mut String, from: usize, to: usize, sign: char| {
                for (at, line) in self.lines.iter().enumerate().take(to).skip(from) {
                    let _ = writeln!(diff, "{sign}{line}");
                    if self.open && at + 1 == self.lines.len() {
                        diff.push_str("\\ No newline at end of file\n");
                    }
                }
            };
            for edit in hunk {
                context(&mut diff, at, edit.at, ' ');
                context(&mut diff, edit.at, edit.at + edit.removed, '-');
                for line in &edit.added {
                    let _ = writeln!(diff, "+{line}{}", self.ending);
                }
                at = edit.at + edit.removed;
            }
            context(&mut diff, at, end, ' ');
            grown += added;
            shrunk += removed;
        }
        diff
    }
}

/// The lines of fields, their equal signs below each other.
pub(super) fn written(fields: &[(&str, String)]) -> Vec<String> {
    let width = fields.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    fields.iter().map(|(key, value)| format!("{key:width$} = {value}")).collect()
}

/// A text as TOML writes it.
pub(super) fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// A list of texts as TOML writes it.
pub(super) fn list<S: AsRef<str>>(texts: impl IntoIterator<Item = S>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| quoted(text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}
