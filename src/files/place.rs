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

/// Every so many bytes the characters before are counted.
const STRIDE: usize = 1024;

/// Where the lines of a text begin, and how many characters come before a byte.
pub(super) struct Lines<'a> {
    bytes: &'a [u8],
    starts: Vec<usize>,
    marks: Vec<usize>,
    bom: usize,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let bytes = text.as_bytes();
        let after = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
        let mut before = 0;
        let marks = bytes.chunks(STRIDE).map(|chunk| {
            let mark = before;
            before += count(chunk);
            mark
        });
        Self {
            bytes,
            starts: std::iter::once(0).chain(after).collect(),
            marks: marks.collect(),
            bom: usize::from(text.starts_with('\u{feff}')),
        }
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
        let bom = if line == 1 { self.bom } else { 0 };
        let before = self.characters(at).saturating_sub(self.characters(start) + bom);
        (line, before + 1)
    }

    /// How many characters begin before this byte.
    fn characters(&self, at: usize) -> usize {
        let at = at.min(self.bytes.len());
        let mark = self.marks.get(at / STRIDE).copied();
        let from = at / STRIDE * STRIDE;
        match mark {
            Some(mark) => mark + count(self.bytes.get(from..at).unwrap_or_default()),
            // The end of a text that fills its last stride.
            None => {
                let from = from.saturating_sub(STRIDE);
                let rest = count(self.bytes.get(from..at).unwrap_or_default());
                self.marks.last().copied().unwrap_or_default() + rest
            }
        }
    }
}

/// The characters that begin in these bytes of UTF-8.
fn count(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xC0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_however_long_the_line() {
        let text = format!("\u{feff}é\n{}", "ü".repeat(STRIDE));
        let lines = Lines::new(&text);
        let end = lines.place(0..text.len());
        assert_eq!((end.line, end.end_line, end.end_column), (1, 2, STRIDE + 1));
        assert_eq!(lines.place(3..5), Place { line: 1, column: 1, end_line: 1, end_column: 2 });
        for (number, (at, character)) in text.char_indices().skip(3).enumerate() {
            assert_eq!(lines.place(at..at + character.len_utf8()).column, number + 1, "{at}");
        }
        for length in [0, 1, STRIDE - 1, STRIDE, STRIDE + 1, 2 * STRIDE] {
            assert_eq!(Lines::new(&"x".repeat(length)).place(length..length).column, length + 1);
        }
    }
}
