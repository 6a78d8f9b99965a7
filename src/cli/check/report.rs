//! What was found, for people, for programs and for a workflow's annotations.

use std::io::{self, Write};

use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use super::files::{Fault, Findings, Found, Outcome, nearest, remark, sentence};
use super::fix::{Change, Fixed};
use super::images::{colour, object};
use super::judge::Judge;
use crate::cli::annotation::{property, value};
use crate::policy::{Code, Verdict};

/// `file:line:column: reference: verdict code: sentence`, and a count.
pub(super) fn human(out: &mut dyn Write, findings: &Findings, quiet: bool, judge: &Judge) -> io::Result<()> {
    let (mut allowed, mut refused, mut warned, mut wrong, mut open) = (0, 0, 0, 0, 0);
    for found in &findings.found {
        let word = match &found.outcome {
            Outcome::Invalid(_) => {
                wrong += 1;
                format!("{} {}", "invalid".red().bold(), Code::NameInvalid)
            }
            Outcome::Open(why) => {
                open += 1;
                format!("{} {}", "not judged".yellow(), why.word())
            }
            Outcome::Judged(judged) => {
                match judged.offline.verdict {
                    Verdict::Allow => allowed += 1,
                    Verdict::Deny | Verdict::Hold => refused += 1,
                    Verdict::Warn => warned += 1,
                }
                let reason = judged.offline.reasons.first().map(|reason| format!(" {}", reason.code));
                format!("{}{}", colour(judged.offline.verdict, 0), reason.unwrap_or_default())
            }
        };
        let sentence = sentence(found, judge);
        if quiet && found.is_allowed() {
            continue;
        }
        write!(out, "{}: {}: {word}", place(found), printable(&found.asked))?;
        match sentence {
            Some(sentence) => writeln!(out, ": {sentence}")?,
            None => writeln!(out)?,
        }
    }
    for Fault { file, place, text } in &findings.faults {
        let place =
            place.as_ref().map(|place| format!(":{}:{}", place.line, place.column)).unwrap_or_default();
        let file = printable(file);
        writeln!(out, "{file}{place}: {}: {}", "cannot be read".red().bold(), printable(text))?;
    }
    let mut parts = vec![format!("{allowed} allowed")];
    for (count, word) in
        [(warned, "warned of"), (refused, "refused"), (wrong, "malformed"), (open, "not judged")]
    {
        if count > 0 {
            parts.push(format!("{count} {word}"));
        }
    }
    let images = plural(findings.found.len(), "reference");
    write!(out, "{images} in {}: {}", plural(findings.files, "file"), parts.join(", "))?;
    match findings.faults.len() {
        0 => writeln!(out),
        faults => writeln!(out, "; {} cannot be read", plural(faults, "file")),
    }
}

/// A diff of what `--fix` writes, and what it could not.
pub(super) fn changes(
    out: &mut dyn Write,
    findings: &Findings,
    changes: &[Change],
    dry: bool,
) -> io::Result<()> {
    for change in changes {
        writeln!(out)?;
        out.write_all(change.diff().as_bytes())?;
    }
    let fixed = findings.found.iter().filter_map(|found| found.fixed.as_ref().map(|fixed| (found, fixed)));
    let mut written = 0;
    for (found, fixed) in fixed {
        match fixed {
            Fixed::Pinned(_) => written += 1,
            Fixed::Not(why) => {
                writeln!(out, "{}: {}: not pinned: {why}", place(found), printable(&found.asked))?;
            }
        }
    }
    if written > 0 {
        let word = if dry { "would be pinned" } else { "pinned" };
        writeln!(out, "{} {word} in {}", plural(written, "reference"), plural(changes.len(), "file"))?;
    }
    Ok(())
}

/// One object a line: what `check --json` says of an image, and where it stands.
pub(super) fn json(out: &mut dyn Write, findings: &Findings, quiet: bool, judge: &Judge) -> io::Result<()> {
    for found in findings.found.iter().filter(|found| !(quiet && found.is_allowed())) {
        let mut value = match &found.outcome {
            Outcome::Invalid(error) => json!({
                "asked": found.asked, "error": error.to_string(), "code": Code::NameInvalid.as_str(),
            }),
            Outcome::Open(why) => json!({
                "asked": found.asked, "unjudged": why.word(), "error": why.to_string(),
            }),
            Outcome::Judged(judged) => {
                let mut value = object(&judge.policy, &found.asked, &judged.reference, &judged.offline);
                insert(&mut value, "nearest", nearest(found, judged).into());
                value
            }
        };
        insert(&mut value, "file", found.file.clone().into());
        insert(&mut value, "kind", found.kind.as_str().into());
        for (key, number) in [
            ("line", found.place.line),
            ("column", found.place.column),
            ("end_line", found.place.end_line),
            ("end_column", found.place.end_column),
        ] {
            insert(&mut value, key, number.into());
        }
        insert(&mut value, "remark", remark(found, judge).into());
        match &found.fixed {
            Some(Fixed::Pinned(digest)) => insert(&mut value, "pinned", digest.to_string().into()),
            Some(Fixed::Not(why)) => insert(&mut value, "not_pinned", why.clone().into()),
            None => {}
        }
        writeln!(out, "{value}")?;
    }
    for Fault { file, place, text } in &findings.faults {
        let mut value = json!({ "file": file, "error": text });
        if let Some(place) = place {
            insert(&mut value, "line", place.line.into());
            insert(&mut value, "column", place.column.into());
        }
        writeln!(out, "{value}")?;
    }
    Ok(())
}

fn insert(value: &mut Value, key: &str, what: Value) {
    if let Value::Object(members) = value {
        members.insert(key.to_owned(), what);
    }
}

/// Workflow commands, which GitHub shows beside the lines of a change.
pub(super) fn github(out: &mut dyn Write, findings: &Findings, judge: &Judge) -> io::Result<()> {
    for found in &findings.found {
        let (level, title) = match &found.outcome {
            Outcome::Invalid(_) => ("error", Code::NameInvalid.as_str()),
            Outcome::Open(why) => ("notice", why.word()),
            Outcome::Judged(judged) => {
                let Some(reason) = judged.offline.reasons.first() else { continue };
                (if judged.is_refused() { "error" } else { "warning" }, reason.code.as_str())
            }
        };
        let text = format!("{}: {}", found.asked, sentence(found, judge).unwrap_or_default());
        let place = &found.place;
        let end = match place.end_line == place.line {
            // The last column counts here.
            true => format!(",endColumn={}", place.end_column.saturating_sub(1).max(place.column)),
            false => String::new(),
        };
        writeln!(
            out,
            "::{level} file={},line={},endLine={},col={}{end},title=pullgate {title}::{}",
            property(&found.file),
            place.line,
            place.end_line,
            place.column,
            value(&text)
        )?;
    }
    for Fault { file, place, text } in &findings.faults {
        let line = place.as_ref().map(|place| format!(",line={}", place.line)).unwrap_or_default();
        let file = property(file);
        writeln!(out, "::error file={file}{line},title=pullgate cannot read this::{}", value(text))?;
    }
    Ok(())
}

fn place(found: &Found) -> String {
    format!("{}:{}:{}", printable(&found.file), found.place.line, found.place.column)
}

/// A text on one line, without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

fn plural(count: usize, word: &str) -> String {
    format!("{count} {word}{}", if count == 1 { "" } else { "s" })
}
