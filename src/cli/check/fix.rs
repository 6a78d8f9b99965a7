//! `--fix`: a tag gets the digest behind it that the gateway serves it as.

use std::fmt::Write as _;

use super::super::Failure;
use super::files::{Findings, Found, Outcome, Writable};
use super::judge::Judge;
use crate::oci::{Digest, Reference};
use crate::policy::Verdict;
use crate::settings::files;

/// Unchanged lines shown around a change.
const CONTEXT: usize = 3;

/// What was done about one reference.
pub(super) enum Fixed {
    /// It is not pinned, and why.
    Not(String),
    /// It leads to this digest now.
    Pinned(Digest),
}

/// One changed file.
pub(super) struct Change {
    name: String,
    old: String,
    new: String,
}

/// A file could not be written; those before it were.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {path}: {error}")]
struct Unwritten {
    path: String,
    error: std::io::Error,
}

/// Pins what is allowed, literal, and known to the gateway; all else stays as it is, byte by byte.
pub(super) fn fix(
    findings: &mut Findings,
    files: &[Writable],
    judge: &Judge,
    dry: bool,
) -> Result<Vec<Change>, Failure> {
    let mut changes = Vec::new();
    for found in &mut findings.found {
        let Outcome::Judged(judged) = &found.outcome else { continue };
        if judged.is_refused() || judged.reference.digest.is_some() {
            continue;
        }
        let file = files.iter().any(|file| file.name == found.file);
        found.fixed = Some(pin(found, &judged.reference, file, judge));
    }
    for file in files {
        let edits = findings.found.iter().filter(|found| found.file == file.name).filter_map(edit);
        let mut edits: Vec<(usize, String)> = edits.collect();
        edits.sort();
        let mut new = file.text.clone();
        for (at, text) in edits.iter().rev() {
            if new.is_char_boundary(*at) {
                new.insert_str(*at, text);
            }
        }
        if new == file.text {
            continue;
        }
        if !dry {
            files::replace(&file.path, file.text.as_bytes(), new.as_bytes())
                .map_err(|error| Failure::internal(Unwritten { path: file.name.clone(), error }))?;
        }
        changes.push(Change { name: file.name.clone(), old: file.text.clone(), new });
    }
    Ok(changes)
}

/// What goes where.
fn edit(found: &Found) -> Option<(usize, String)> {
    let (Some(Fixed::Pinned(digest)), Ok(at), Outcome::Judged(judged)) =
        (&found.fixed, found.pin, &found.outcome)
    else {
        return None;
    };
    // The tag stays readable beside the digest, also where it was not written.
    let tag = judged.reference.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
    let tag = if found.asked.ends_with(&tag) { "" } else { &tag };
    Some((at, format!("{tag}@{digest}")))
}

fn pin(found: &Found, reference: &Reference, file: bool, judge: &Judge) -> Fixed {
    if let Err(obstacle) = found.pin {
        return Fixed::Not(format!("{obstacle}; write the digest by hand"));
    }
    if !file {
        return Fixed::Not("it came by standard input".to_owned());
    }
    let Some(digest) = judge.lock(reference) else {
        let why = "the gateway does not know this tag; pull it once through the gateway, then run this again";
        return Fixed::Not(why.to_owned());
    };
    let pinned = Reference { digest: Some(digest), ..reference.clone() };
    let offline = judge.offline(&pinned, reference.tag.as_ref());
    match offline.reasons.first() {
        Some(reason) if offline.verdict >= Verdict::Hold => {
            Fixed::Not(format!("its digest would be refused: {}: {}", reason.code, reason.text))
        }
        _ => Fixed::Pinned(digest),
    }
}

impl Change {
    /// A unified diff; lines change in their place, none comes or goes.
    pub(super) fn diff(&self) -> String {
        let old: Vec<&str> = self.old.split_inclusive('\n').collect();
        let new: Vec<&str> = self.new.split_inclusive('\n').collect();
        let changed: Vec<usize> =
            old.iter().zip(&new).enumerate().filter(|(_, (a, b))| a != b).map(|(line, _)| line).collect();
        let mut diff = format!("--- a/{0}\n+++ b/{0}\n", self.name.trim_start_matches('/'));
        for hunk in changed.chunk_by(|a, b| b - a <= 2 * CONTEXT) {
            let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
            let start = first.saturating_sub(CONTEXT);
            let end = (last + CONTEXT + 1).min(old.len());
            let count = end - start;
            let _ = writeln!(diff, "@@ -{0},{count} +{0},{count} @@", start + 1);
            let mut line = start;
            while line < end {
                let run = (line..end).take_while(|line| hunk.contains(line)).count();
                if run == 0 {
                    push(&mut diff, ' ', old.get(line));
                }
                for at in line..line + run {
                    push(&mut diff, '-', old.get(at));
                }
                for at in line..line + run {
                    push(&mut diff, '+', new.get(at));
                }
                line += run.max(1);
            }
        }
        diff
    }
}

fn push(diff: &mut String, sign: char, line: Option<&&str>) {
    let line = line.copied().unwrap_or_default();
    diff.push(sign);
    diff.push_str(line);
    if !line.ends_with('\n') {
        diff.push_str("\n\\ No newline at end of file\n");
    }
}
