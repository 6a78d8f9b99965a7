//! `pullgate check IMAGE…`: references as people give them.

use std::io::Write;
use std::path::Path;

use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use super::super::{Exit, Failure};
use super::judge::{Judge, Judged};
use super::worse;
use crate::oci::Reference;
use crate::policy::{Check, Code, Offline, Policy, Reason, Trace, Verdict};

/// Judges each.
pub(super) fn run(
    images: &[String],
    mut judge: Judge,
    folder: Option<&Path>,
    json: bool,
    out: &mut dyn Write,
) -> Result<Exit, Failure> {
    if let Some(folder) = folder {
        let texts: Vec<&str> = images.iter().map(String::as_str).collect();
        judge.ask(folder, &texts)?;
    }
    let mut exit = Exit::Done;
    for image in images {
        let judged = judge.judge(image);
        exit = worse(
            exit,
            match &judged {
                Err(_) => Exit::Unjudged,
                Ok(judged) if judged.is_refused() => Exit::No,
                Ok(_) => Exit::Done,
            },
        );
        match (&judged, json) {
            (Err(error), true) => writeln!(out, "{}", json!({ "asked": image, "error": error.to_string() }))?,
            (Err(error), false) => writeln!(out, "{} {image:?}\n        {error}", "invalid".red().bold())?,
            (Ok(Judged { reference, offline, .. }), true) => {
                writeln!(out, "{}", object(&judge.policy, image, reference, offline))?;
            }
            (Ok(judged), false) => print(out, judged)?,
        }
    }
    Ok(exit)
}

fn print(out: &mut dyn Write, judged: &Judged) -> std::io::Result<()> {
    let Judged { reference, offline, nearest } = judged;
    write!(out, "{} {reference}", colour(offline.verdict, 7))?;
    if !offline.needs.is_empty() && offline.verdict < Verdict::Hold {
        write!(out, "  needs: {}", offline.needs.join(", "))?;
    }
    writeln!(out)?;
    for reason in &offline.reasons {
        write!(out, "        {}: {}", reason.code, reason.text)?;
        match (nearest, &reason.remedy) {
            (Some(tag), _) if reason.code == Code::TagNotAllowed => writeln!(out, "; try {tag}")?,
            (_, Some(remedy)) => writeln!(out, "; {remedy}")?,
            (_, None) => writeln!(out)?,
        }
    }
    Ok(())
}

/// A verdict in its colour, which only a terminal shows; padded to a width.
pub(in crate::cli) fn colour(verdict: Verdict, width: usize) -> String {
    let word = format!("{:width$}", verdict.as_str());
    match verdict {
        Verdict::Allow => word.green().to_string(),
        Verdict::Deny => word.red().bold().to_string(),
        Verdict::Hold | Verdict::Warn => word.yellow().to_string(),
    }
}

/// The fields of the audit log, as far as they exist without a pull.
pub(super) fn object(policy: &Policy, asked: &str, reference: &Reference, offline: &Offline) -> Value {
    let trace = &offline.decision.trace;
    json!({
        "asked": asked,
        "reference": reference.to_string(),
        "verdict": offline.verdict.as_str(),
        "reason": offline.reasons.first().map(reason),
        "reasons": offline.reasons.iter().map(reason).collect::<Vec<_>>(),
        "needs": offline.needs,
        "checks": checks(trace),
        "policy": {
            "name": policy.name(),
            "revision": policy.revision(),
            "sha256": policy.sha256().hex(),
            "source": trace.source,
            "mode": trace.mode,
        },
    })
}

/// The checks of a judgement as in the audit log.
pub(in crate::cli) fn checks(trace: &Trace) -> Vec<Value> {
    let check = |check: &Check| {
        json!({
            "id": check.id,
            "result": if check.pass { "pass" } else { "fail" },
            "observed": check.observed,
            "expected": check.expected,
            "at": check.at,
            "exception": check.exception,
        })
    };
    trace.checks.iter().map(check).collect()
}

/// A reason as in the audit log.
pub(in crate::cli) fn reason(reason: &Reason) -> Value {
    json!({ "code": reason.code.as_str(), "text": reason.text, "remedy": reason.remedy })
}
