//! Byte offsets as lines and columns.

use std::ops::Range;

/// Where something stands in a file. Lines and columns count from 1, columns in characters (Unicode
/// code points; a byte order mark is none); the end is exclusive.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Place {
    /// The first line.
    pub line: usize,
    /// The column of the first character.
    pub column: usize,
    /// The last line.
    pub end_line: usize,
    /// The column after the last character.
    pub end_column: usize,
}

/// Where the lines of a text begin.
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let after = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after).collect() }
    }

    /// The place of a range of bytes.
    pub(super) fn place(&self, range: Range<usize>) -> Place {
        let (line, column) = self.point(range.start);
        let (end_line, end_column) = self.point(range.end.max(range.start));
        Place { line, column, end_line, end_column }
    }

    fn point(&self, at: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= at).max(1);
        let start = self.starts.get(line - 1).copied().unwrap_or_default();
        let before = self.text.get(start..at.min(self.text.len())).unwrap_or_default();
        (line, before.chars().filter(|character| *character != '\u{feff}').count() + 1)
    }
}
