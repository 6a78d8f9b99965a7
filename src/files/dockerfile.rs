//! Dockerfiles, read as BuildKit's own frontend reads them.

mod lines;

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use super::finding::Findings;
use super::variables::{self, Dialect};
use super::{Kind, Obstacle, Why};

use lines::{Line, Lines};

/// The base image that is none.
const SCRATCH: &str = "scratch";
/// Variables beyond so many count as unknown.
const ARGUMENTS_MAX: usize = 10_000;

/// Every image that a build pulls: the frontend, base images, and what is copied and mounted from.
pub(super) fn read(text: &str, findings: &mut Findings) {
    let directives = lines::Directives::of(text);
    if let Some(range) = directives.syntax {
        let reference = text.get(range.clone()).unwrap_or_default().to_owned();
        findings.image(Kind::Dockerfile, range.clone(), reference, Ok(range.end));
    }
    let mut stages = Stages::default();
    for line in Lines::new(text, directives.escape) {
        stages.instruction(&line, directives.escape, findings);
    }
}

#[derive(Default)]
struct Stages {
    /// How many there are.
    count: usize,
    /// Their names, lower-case.
    names: HashSet<String>,
    /// The variables that are known before the first of them.
    arguments: HashMap<String, Option<String>>,
}

impl Stages {
    fn instruction(&mut self, line: &Line, escape: char, findings: &mut Findings) {
        let words = line.words(escape);
        let Some(first) = words.first() else { return };
        let onbuild = line.is(first, "ONBUILD");
        let Some((keyword, rest)) = words.get(usize::from(onbuild)..).and_then(<[_]>::split_first) else {
            return;
        };
        if line.is(keyword, "ARG") && self.count == 0 && !onbuild {
            self.argument(line, rest, escape);
        } else if line.is(keyword, "FROM") && !onbuild {
            self.from(line, rest, escape, findings);
        } else if line.is(keyword, "COPY") {
            for flag in flags(line, rest) {
                self.reference(line, flag, "--from=", escape, findings);
            }
        } else if line.is(keyword, "RUN") {
            for flag in flags(line, rest).filter(|flag| line.get(flag).starts_with("--mount=")) {
                for part in fields(line, flag) {
                    self.reference(line, &part, "from=", escape, findings);
                }
            }
        }
    }

    /// `ARG NAME[=value] …` before the first stage.
    fn argument(&mut self, line: &Line, words: &[Range<usize>], escape: char) {
        for word in words {
            let (name, value) = match line.get(word).split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (line.get(word), None),
            };
            let value = value.and_then(|value| self.fill(value, escape).ok());
            if self.arguments.len() < ARGUMENTS_MAX || self.arguments.contains_key(name) {
                self.arguments.insert(name.to_owned(), value);
            }
        }
    }

    fn fill(&self, text: &str, escape: char) -> Result<String, Why> {
        let known = |name: &str| self.arguments.get(name).cloned().flatten();
        variables::fill(text, Dialect::Dockerfile(escape), &known)
    }

    /// `FROM [--platform=…] reference [AS name]`.
    fn from(&mut self, line: &Line, words: &[Range<usize>], escape: char, findings: &mut Findings) {
        let flags = flags(line, words).count();
        let mut words = words.iter().skip(flags);
        if let Some(word) = words.next() {
            self.judge(line, word.clone(), true, escape, findings);
        }
        if let (Some(word), Some(name)) = (words.next(), words.next())
            && line.is(word, "AS")
        {
            self.names.insert(line.get(name).to_ascii_lowercase());
        }
        self.count += 1;
    }

    /// What stands after `key`, where it is an image and no stage.
    fn reference(&self, line: &Line, word: &Range<usize>, key: &str, escape: char, findings: &mut Findings) {
        let Some(value) = line.get(word).strip_prefix(key) else { return };
        let mut range = word.start + key.len()..word.end;
        if value.len() > 1
            && ['"', '\''].iter().any(|quote| value.starts_with(*quote) && value.ends_with(*quote))
        {
            range = range.start + 1..range.end - 1;
        }
        // A number is a stage; one that does not exist is an image's name to the builder as well.
        if line.get(&range).parse::<usize>().is_ok_and(|number| number < self.count) {
            return;
        }
        self.judge(line, range, false, escape, findings);
    }

    /// A reference with variables, or a stage.
    fn judge(&self, line: &Line, range: Range<usize>, global: bool, escape: char, findings: &mut Findings) {
        let text = line.get(&range);
        let (place, literal) = line.place(&range);
        let filled = match global {
            true => self.fill(text, escape),
            // What a stage has declared is not followed.
            false => variables::fill(text, Dialect::Dockerfile(escape), &|_| None),
        };
        match filled {
            Err(why) => findings.unjudged(Kind::Dockerfile, place, text, why),
            Ok(filled) if filled.is_empty() && text.contains('$') => {
                let name = text.chars().filter(|c| c.is_alphanumeric() || *c == '_').collect();
                findings.unjudged(Kind::Dockerfile, place, text, Why::Variable(name));
            }
            Ok(filled) if filled == SCRATCH || filled.is_empty() => {}
            Ok(filled) if self.names.contains(&filled.to_ascii_lowercase()) => {}
            Ok(filled) => {
                let pin = if text.contains('$') {
                    Err(Obstacle::Variables)
                } else if literal && filled == text {
                    Ok(place.end)
                } else {
                    Err(Obstacle::Pieces)
                };
                findings.image(Kind::Dockerfile, place, filled, pin);
            }
        }
    }
}

/// The words before the first that is no flag.
fn flags<'a>(line: &'a Line, words: &'a [Range<usize>]) -> impl Iterator<Item = &'a Range<usize>> {
    words.iter().take_while(|word| line.get(word).starts_with("--") && line.get(word) != "--")
}

/// The fields of `--mount=a=b,c=d`.
fn fields(line: &Line, flag: &Range<usize>) -> Vec<Range<usize>> {
    let text = line.get(flag);
    let skip = "--mount=".len();
    let mut start = flag.start + skip;
    let mut found = Vec::new();
    for field in text.get(skip..).unwrap_or_default().split(',') {
        let quoted = field.len() > 1 && field.starts_with('"') && field.ends_with('"');
        let trim = usize::from(quoted);
        found.push(start + trim..start + field.len() - trim);
        start += field.len() + 1;
    }
    found
}
