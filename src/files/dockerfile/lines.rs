//! The lines of a Dockerfile as the builder joins them: continuations, comments, here-documents.

use std::ops::Range;

/// So many here-documents without an end are looked for: each takes reading to the end of the file.
const UNENDED_MAX: usize = 64;

/// The directives at the very top of a file.
#[derive(Debug)]
pub(super) struct Directives {
    /// What continues a line and takes the meaning off the next character.
    pub(super) escape: char,
    /// Where the frontend's reference stands.
    pub(super) syntax: Option<Range<usize>>,
}

impl Directives {
    /// They end at the first line that is none.
    pub(super) fn of(text: &str) -> Self {
        let mut found = Self { escape: '\\', syntax: None };
        for (number, (start, line)) in physical(text, 0).enumerate() {
            if number == 0 && line.starts_with("#!") {
                continue;
            }
            let Some((name, value)) =
                line.trim_start().strip_prefix('#').and_then(|rest| rest.split_once('='))
            else {
                break;
            };
            let name = name.trim();
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
                break;
            }
            if name.eq_ignore_ascii_case("escape") {
                found.escape = if value.trim() == "`" { '`' } else { '\\' };
            } else if name.eq_ignore_ascii_case("syntax") && found.syntax.is_none() {
                let word = value.split_whitespace().next().unwrap_or_default();
                let blank = value.len() - value.trim_start().len();
                let at = start + line.len() - value.len() + blank;
                found.syntax = (!word.is_empty()).then_some(at..at + word.len());
            }
        }
        found
    }
}

/// Lines as they stand in the file from an offset on, with their offsets and without their ends.
fn physical(text: &str, from: usize) -> impl Iterator<Item = (usize, &str)> {
    let mut at = from;
    text.get(from..).unwrap_or_default().split_inclusive('\n').map(move |line| {
        let start = at;
        at += line.len();
        let line = line.strip_suffix('\n').unwrap_or(line);
        (start, line.strip_suffix('\r').unwrap_or(line))
    })
}

/// One instruction, joined from the lines it is written on.
#[derive(Debug, Default)]
pub(super) struct Line {
    text: String,
    /// Where in `text` each piece begins, and where in the file.
    pieces: Vec<(usize, usize)>,
}

impl Line {
    fn push(&mut self, text: &str, at: usize) {
        self.pieces.push((self.text.len(), at));
        self.text.push_str(text);
    }

    /// A part of it.
    pub(super) fn get(&self, range: &Range<usize>) -> &str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    /// Whether a part is this word, in any case.
    pub(super) fn is(&self, range: &Range<usize>, word: &str) -> bool {
        self.get(range).eq_ignore_ascii_case(word)
    }

    /// The bytes of the file a part comes from, and whether it stands there in one piece.
    pub(super) fn place(&self, range: &Range<usize>) -> (Range<usize>, bool) {
        let at = |offset: usize| {
            let piece = self.pieces.partition_point(|(start, _)| *start <= offset).saturating_sub(1);
            let (start, file) = self.pieces.get(piece).copied().unwrap_or_default();
            (piece, file + (offset - start))
        };
        let (first, start) = at(range.start);
        // The end belongs to the piece of the last character.
        let (last, end) = at(range.end.saturating_sub(1).max(range.start));
        (start..end + usize::from(!range.is_empty()), first == last)
    }

    /// What lies between blanks; quotes and escapes keep blanks inside a word.
    pub(super) fn words(&self, escape: char) -> Vec<Range<usize>> {
        let mut words = Vec::new();
        let mut start = None;
        let mut quote = None;
        let mut escaped = false;
        for (at, character) in self.text.char_indices() {
            if quote.is_none() && !escaped && character.is_whitespace() {
                words.extend(start.take().map(|start| start..at));
                continue;
            }
            start = start.or(Some(at));
            if escaped {
                escaped = false;
            } else if character == escape && quote != Some('\'') {
                escaped = true;
            } else if quote == Some(character) {
                quote = None;
            } else if quote.is_none() && matches!(character, '"' | '\'') {
                quote = Some(character);
            }
        }
        words.extend(start.map(|start| start..self.text.len()));
        words
    }
}

/// The instructions of a file.
pub(super) struct Lines<'a> {
    text: &'a str,
    at: usize,
    escape: char,
    unended: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str, escape: char) -> Self {
        Self { text, at: 0, escape, unended: 0 }
    }

    /// The part of a line before the character that continues it, if one does.
    fn continued<'b>(&self, line: &'b str) -> Option<&'b str> {
        let before = line.trim_end_matches([' ', '\t']).strip_suffix(self.escape)?;
        (!before.ends_with(self.escape)).then_some(before)
    }

    /// Goes past the bodies of the here-documents that an instruction begins. One that does not end is
    /// none: the builder would refuse the file, and nothing is hidden by it here.
    fn skip_bodies(&mut self, line: &Line) {
        if self.unended >= UNENDED_MAX {
            return;
        }
        let words = line.words(self.escape);
        let keyword = words.iter().find(|word| !line.is(word, "ONBUILD"));
        if !keyword.is_some_and(|word| ["ADD", "COPY", "RUN"].iter().any(|known| line.is(word, known))) {
            return;
        }
        for word in &words {
            let Some((name, tabs)) = here_document(line.get(word)) else { continue };
            let end = physical(self.text, self.at).find(|(_, body)| {
                let body = if tabs { body.trim_start_matches('\t') } else { body };
                body == name
            });
            match end {
                Some((start, line)) => self.at = next_line(self.text, start + line.len()),
                None => {
                    self.unended += 1;
                    return;
                }
            }
        }
    }
}

/// The offset after the end of the line that this one is on.
fn next_line(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |end| at + end + 1)
}

/// `<<EOF`, `3<<-"EOF"`: the word that ends it, and whether tabs before that are ignored.
fn here_document(word: &str) -> Option<(String, bool)> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (rest, tabs) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let name: String = rest.chars().filter(|character| !matches!(character, '"' | '\'')).collect();
    (!name.is_empty() && !rest.contains('<')).then_some((name, tabs))
}

impl Iterator for Lines<'_> {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        loop {
            let mut line = Line::default();
            let mut open = false;
            while self.at < self.text.len() {
                let (start, text) = physical(self.text, self.at).next()?;
                self.at = next_line(self.text, start + text.len());
                let shown = text.trim_start();
                // Comments and blank lines do not end an instruction.
                if shown.starts_with('#') || (open && shown.is_empty()) {
                    if open {
                        continue;
                    }
                    break;
                }
                let start = if open { start } else { start + text.len() - shown.len() };
                let text = if open { text } else { shown };
                match self.continued(text) {
                    Some(before) => {
                        line.push(before, start);
                        open = true;
                    }
                    None => {
                        line.push(text, start);
                        break;
                    }
                }
            }
            if !line.text.trim().is_empty() {
                self.skip_bodies(&line);
                return Some(line);
            }
            if self.at >= self.text.len() {
                return None;
            }
        }
    }
}
