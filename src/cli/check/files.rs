//! `pullgate check --files PATH…`: references where people write them.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::super::{Exit, Failure};
use super::judge::{Judge, Judged};
use super::{Arguments, Format, fix, report, sarif, tree, worse};
use crate::files::{self, Image, Kind, Obstacle, Place, Unjudged, Why};
use crate::oci::{NameError, Reference};
use crate::policy::Verdict;

/// Everything that was found in all files.
#[derive(Default)]
pub(super) struct Findings {
    /// In the order of files and places.
    pub(super) found: Vec<Found>,
    /// What could not be read.
    pub(super) faults: Vec<Fault>,
    /// How many files name an image at all.
    pub(super) files: usize,
}

/// What names an image.
pub(super) struct Found {
    /// The file's name.
    pub(super) file: String,
    pub(super) kind: Kind,
    pub(super) place: Place,
    /// What stands there, with variables filled in.
    pub(super) asked: String,
    pub(super) outcome: Outcome,
    pub(super) pin: Result<usize, Obstacle>,
    /// What `--fix` did about it.
    pub(super) fixed: Option<fix::Fixed>,
}

/// What came out of judging it.
pub(super) enum Outcome {
    /// It is no well-formed name.
    Invalid(NameError),
    /// It has a verdict.
    Judged(Box<Judged>),
    /// The file does not say which image it is.
    Open(Why),
}

/// A file, or the rest of one, that cannot be read.
pub(super) struct Fault {
    pub(super) file: String,
    pub(super) place: Option<Place>,
    pub(super) text: String,
}

impl Found {
    /// Whether it would be served, and no check was softened.
    pub(super) fn is_allowed(&self) -> bool {
        matches!(&self.outcome, Outcome::Judged(judged) if judged.offline.verdict == Verdict::Allow)
    }

    /// What it means for the exit status.
    pub(super) fn exit(&self) -> Exit {
        match &self.outcome {
            Outcome::Invalid(_) => Exit::Unjudged,
            Outcome::Judged(judged) if judged.is_refused() => Exit::No,
            Outcome::Judged(_) | Outcome::Open(_) => Exit::Done,
        }
    }
}

/// A file that `--fix` may write.
pub(super) struct Writable {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Finds, judges, pins and reports.
pub(super) fn run(
    arguments: &Arguments,
    format: Format,
    mut judge: Judge,
    folder: Option<&Path>,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    let (read, writable) = read(&arguments.files, arguments.fix);
    if let Some(folder) = folder {
        let texts: Vec<&str> = read.images.iter().map(|(_, image)| image.text.as_str()).collect();
        judge.ask(folder, &texts)?;
    }
    let mut findings = read.judge(&judge);
    let mut exit = findings.found.iter().map(Found::exit).fold(Exit::Done, worse);
    let open = findings.found.iter().any(|found| matches!(found.outcome, Outcome::Open(_)));
    if !findings.faults.is_empty() || (open && arguments.strict) {
        exit = Exit::Unjudged;
    }
    let changes = match arguments.fix {
        true => fix::fix(&mut findings, &writable, &judge, arguments.dry_run)?,
        false => Vec::new(),
    };
    match format {
        Format::Github => report::github(out, &findings, &judge)?,
        Format::Human => {
            report::human(out, &findings, arguments.quiet, &judge)?;
            report::changes(out, &findings, &changes, arguments.dry_run)?;
        }
        Format::Json => report::json(out, &findings, arguments.quiet, &judge)?,
        Format::Sarif => sarif::write(out, &findings, &judge)?,
    }
    Ok(exit)
}

/// What was read, before it is judged.
#[derive(Default)]
struct Reading {
    images: Vec<(String, Image)>,
    open: Vec<(String, Unjudged)>,
    faults: Vec<Fault>,
    files: usize,
}

fn read(paths: &[PathBuf], keep: bool) -> (Reading, Vec<Writable>) {
    let mut all = Reading::default();
    let mut writable = Vec::new();
    tree::sources(paths, &mut |source| {
        let source = match source {
            Ok(source) => source,
            Err(tree::Unread { name, text }) => {
                all.faults.push(Fault { file: name, place: None, text });
                return;
            }
        };
        let reading = files::read(source.format, &source.name, &source.text);
        let name = || source.name.clone();
        all.files += usize::from(!(reading.images.is_empty() && reading.unjudged.is_empty()));
        all.faults.extend(reading.fault.map(|fault| Fault {
            file: name(),
            place: Some(fault.place),
            text: fault.text,
        }));
        let pins = reading.images.iter().any(|image| image.pin.is_ok());
        all.images.extend(reading.images.into_iter().map(|image| (name(), image)));
        all.open.extend(reading.unjudged.into_iter().map(|unjudged| (name(), unjudged)));
        if let (true, true, Some(path)) = (keep, pins, source.path) {
            writable.push(Writable { name: source.name, path, text: source.text });
        }
    });
    (all, writable)
}

impl Reading {
    fn judge(self, judge: &Judge) -> Findings {
        let images = self.images.into_iter().map(|(file, Image { kind, place, text, pin })| {
            let outcome = match judge.judge(&text) {
                Ok(judged) => Outcome::Judged(Box::new(judged)),
                Err(error) => Outcome::Invalid(error),
            };
            Found { file, kind, place, asked: text, outcome, pin, fixed: None }
        });
        let open = self.open.into_iter().map(|(file, Unjudged { kind, place, text, why })| Found {
            file,
            kind,
            place,
            asked: text,
            outcome: Outcome::Open(why),
            pin: Err(Obstacle::Variables),
            fixed: None,
        });
        let mut found: Vec<Found> = images.chain(open).collect();
        found.sort_by(|a, b| (&a.file, &a.place, &a.asked).cmp(&(&b.file, &b.place, &b.asked)));
        Findings { found, faults: self.faults, files: self.files }
    }
}

/// What a person may want to know about a reference besides its verdict.
pub(super) fn remark(found: &Found, judge: &Judge) -> Option<String> {
    match &found.outcome {
        Outcome::Invalid(_) => {
            let lower = found.asked.trim().to_lowercase();
            // A tag's case means something; a repository's is wrong.
            let fixed = match (found.asked.trim().rsplit_once(':'), lower.rsplit_once(':')) {
                (Some((_, tag)), Some((name, _))) if !tag.contains(['/', '@']) => format!("{name}:{tag}"),
                _ => lower,
            };
            (fixed != found.asked && fixed.parse::<Reference>().is_ok())
                .then(|| format!("did you mean {fixed}?"))
        }
        Outcome::Judged(judged) => {
            let Reference { name, tag, digest } = &judged.reference;
            match (tag, digest) {
                (Some(tag), None) if judged.is_refused() && !found.asked.ends_with(&format!(":{tag}")) => {
                    Some(format!("no tag is written, which means {tag}"))
                }
                (Some(tag), Some(_)) => {
                    let alone = Reference { name: name.clone(), tag: Some(tag.clone()), digest: None };
                    let offline = judge.offline(&alone, None);
                    let reason =
                        offline.reasons.first().filter(|_| offline.verdict > judged.offline.verdict)?;
                    Some(format!(
                        "only the digest is judged; its tag alone would be refused: {}",
                        reason.code
                    ))
                }
                _ => None,
            }
        }
        Outcome::Open(_) => None,
    }
}

/// The nearest allowed form, spelled as the file spells it.
pub(super) fn nearest(found: &Found, judged: &Judged) -> Option<String> {
    let nearest = judged.nearest.as_ref()?;
    let written = match &judged.reference.tag {
        Some(tag) => found.asked.strip_suffix(&format!(":{tag}")).unwrap_or(&found.asked),
        None => &found.asked,
    };
    Some(format!("{written}:{nearest}"))
}

/// What is wrong and what to do, in one sentence; nothing where there is nothing to say.
pub(super) fn sentence(found: &Found, judge: &Judge) -> Option<String> {
    let said = match &found.outcome {
        Outcome::Invalid(error) => Some(error.to_string()),
        Outcome::Open(why) => Some(why.to_string()),
        Outcome::Judged(judged) => judged.offline.reasons.first().map(|reason| {
            let remedy = nearest(found, judged).map(|nearest| format!("try {nearest}"));
            match remedy.or_else(|| reason.remedy.clone()) {
                Some(remedy) => format!("{}; {remedy}", reason.text),
                None => reason.text.clone(),
            }
        }),
    };
    let said = match (said, remark(found, judge)) {
        (Some(said), Some(remark)) => format!("{said} ({remark})"),
        (said, remark) => said.or(remark)?,
    };
    Some(said.chars().map(|character| if character.is_control() { ' ' } else { character }).collect())
}
