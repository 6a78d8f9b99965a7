//! What is wrong in a file people write, shown at its line.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use miette::{LabeledSpan, NamedSource, SourceCode};

/// One thing wrong in a file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// What happened and why, in one line.
    pub message: String,
    /// What to do next.
    pub help: Option<String>,
    /// Where, in bytes; the whole file where that is unknown.
    pub span: Option<Range<usize>>,
}

impl Problem {
    /// A problem at this place.
    pub fn new(span: impl Into<Option<Range<usize>>>, message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, span: span.into() }
    }

    /// The same with what to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// What the TOML parser, or a type that is read through it, complains about.
    pub fn from_toml(error: &toml::de::Error) -> Self {
        let mut lines = error.message().lines();
        let message = lines.next().unwrap_or("malformed TOML").to_owned();
        let rest = lines.collect::<Vec<_>>().join("; ");
        Self { message, help: (!rest.is_empty()).then_some(rest), span: error.span() }
    }
}

/// Why a settings file was not accepted. Nothing of it is in force.
///
/// `Display` is one line, `file:line: what (and how many more)`, fit for a log; as a
/// [`miette::Diagnostic`] it shows every wrong line with its remedy.
#[derive(Debug)]
pub struct FileError {
    path: PathBuf,
    cause: Cause,
}

#[derive(Debug)]
enum Cause {
    Invalid { source: NamedSource<String>, problems: Vec<Problem> },
    Unreadable(std::io::Error),
}

impl FileError {
    /// The file could not be read at all.
    pub fn unreadable(path: &Path, error: std::io::Error) -> Self {
        Self { path: path.to_owned(), cause: Cause::Unreadable(error) }
    }

    /// The file's text has these problems, shown in file order.
    pub fn invalid(path: &Path, text: &str, mut problems: Vec<Problem>) -> Self {
        problems.sort_by_key(|problem| problem.span.as_ref().map_or(0, |span| span.start));
        let source = NamedSource::new(path.display().to_string(), text.to_owned()).with_language("toml");
        Self { path: path.to_owned(), cause: Cause::Invalid { source, problems } }
    }

    /// Which file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong in it, in file order; empty when it could not be read.
    pub fn problems(&self) -> &[Problem] {
        match &self.cause {
            Cause::Invalid { problems, .. } => problems,
            Cause::Unreadable(_) => &[],
        }
    }

    /// The line of the first problem, from 1.
    pub fn line(&self) -> Option<usize> {
        let Cause::Invalid { source, problems } = &self.cause else { return None };
        let start = problems.first()?.span.as_ref()?.start;
        Some(line_of(source.inner(), start))
    }
}

/// The line, from 1, that holds this byte.
pub fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Unreadable(error) => write!(f, "cannot read {}: {error}", self.path.display()),
            Cause::Invalid { problems, .. } => {
                write!(f, "{}", self.path.display())?;
                if let Some(line) = self.line() {
                    write!(f, ":{line}")?;
                }
                if let Some(first) = problems.first() {
                    write!(f, ": {}", first.message)?;
                }
                match problems.len() {
                    0 | 1 => Ok(()),
                    more => write!(f, " (and {} more)", more - 1),
                }
            }
        }
    }
}

/// Without a source: `Display` says it all, and reports would print it twice.
impl std::error::Error for FileError {}

impl miette::Diagnostic for FileError {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        if let Cause::Unreadable(error) = &self.cause {
            return match error.kind() {
                std::io::ErrorKind::NotFound => {
                    Some(Box::new("`pullgate init` writes a commented one; --config names another"))
                }
                _ => None,
            };
        }
        let mut helps: Vec<&str> = Vec::new();
        for help in self.problems().iter().filter_map(|problem| problem.help.as_deref()) {
            if !helps.contains(&help) {
                helps.push(help);
            }
        }
        (!helps.is_empty()).then(|| Box::new(helps.join("\n")) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        match &self.cause {
            Cause::Invalid { source, .. } => Some(source),
            Cause::Unreadable(_) => None,
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        Some(Box::new(self.problems().iter().filter_map(|problem| {
            let span = problem.span.clone()?;
            Some(LabeledSpan::new_with_span(Some(problem.message.clone()), span))
        })))
    }
}

/// The candidate that was probably meant: within a third of its letters, the closest first.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.chars().count().max(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// How many letters to insert, delete, replace or swap with their neighbour (optimal string alignment).
fn distance(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.chars().take(64).collect();
    let right: Vec<char> = right.chars().take(64).collect();
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=right.len()).collect();
    for (row, from) in left.iter().enumerate() {
        let mut current = vec![row + 1];
        for (column, to) in right.iter().enumerate() {
            let replaced = above[column] + usize::from(from != to);
            let mut cost = replaced.min(above[column + 1] + 1).min(current[column] + 1);
            if row > 0 && column > 0 && *from == right[column - 1] && left[row - 1] == *to {
                cost = cost.min(before[column - 1] + 1);
            }
            current.push(cost);
        }
        before = std::mem::replace(&mut above, current);
    }
    above[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_the_one_that_was_mistyped_and_a_far_one_is_not_offered() {
        let words = ["address", "hosts", "tls", "trusted_proxies"];
        assert_eq!(nearest("adress", words), Some("address"));
        assert_eq!(nearest("trusted-proxies", words), Some("trusted_proxies"));
        assert_eq!(nearest("hsots", words), Some("hosts"));
        assert_eq!(nearest("tsl", words), Some("tls"));
        assert_eq!(nearest("colour", words), None);
    }

    #[test]
    fn one_line_names_the_file_and_the_line_and_counts_the_rest() {
        let text = "a = 1\nb = 2\nc = 3\n";
        let problems = vec![Problem::new(12..13, "third"), Problem::new(6..7, "second")];
        let error = FileError::invalid(Path::new("x.toml"), text, problems);
        assert_eq!(error.to_string(), "x.toml:2: second (and 1 more)");
        assert_eq!(error.line(), Some(2));
    }
}
