//! SARIF 2.1.0 (OASIS), as code scanning reads it.

use std::collections::HashMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::files::{Fault, Findings, Outcome, sentence};
use super::judge::Judge;
use crate::files::Place;
use crate::oci::Digest;
use crate::policy::Code;

const SCHEMA: &str = "https://json.schemastore.org/sarif-2.1.0.json";
/// Where each code is explained.
const HELP: &str = "docs/policy.md";

/// One run: a result for each reference that is not allowed; what could not be judged or read is told
/// as a notification, because nothing is known to be wrong with it.
pub(super) fn write(out: &mut dyn Write, findings: &Findings, judge: &Judge) -> io::Result<()> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut results = Vec::new();
    let mut notifications = Vec::new();
    for found in &findings.found {
        let (code, level) = match &found.outcome {
            Outcome::Invalid(_) => (Code::NameInvalid, "error"),
            Outcome::Judged(judged) => match judged.offline.reasons.first() {
                Some(reason) if judged.is_refused() => (reason.code, "error"),
                Some(reason) => (reason.code, "warning"),
                None => continue,
            },
            Outcome::Open(why) => {
                notifications.push(json!({
                    "descriptor": { "id": why.word() },
                    "level": "note",
                    "message": { "text": format!("{}: not judged: {why}", found.asked) },
                    "locations": [location(&found.file, Some(&found.place))],
                }));
                continue;
            }
        };
        // Equal references in one file are told apart by their order, so that lines may move.
        let mark = format!("{code}\0{}\0{}", found.file, found.asked);
        let count = seen.entry(mark.clone()).or_default();
        let fingerprint = Digest::sha256(format!("{mark}\0{count}").as_bytes());
        *count += 1;
        let text = format!("{}: {}", found.asked, sentence(found, judge).unwrap_or_default());
        results.push(json!({
            "ruleId": code.as_str(),
            "ruleIndex": Code::ALL.iter().position(|other| *other == code),
            "level": level,
            "message": { "text": text },
            "locations": [location(&found.file, Some(&found.place))],
            "partialFingerprints": { "pullgateReference/v1": fingerprint.hex() },
        }));
    }
    for Fault { file, place, text } in &findings.faults {
        notifications.push(json!({
            "descriptor": { "id": "unreadable" },
            "level": "error",
            "message": { "text": format!("cannot be read: {text}") },
            "locations": [location(file, place.as_ref())],
        }));
    }
    let rules: Vec<Value> = Code::ALL
        .iter()
        .map(|code| {
            let anchor: String = code.as_str().chars().filter(|character| *character != '.').collect();
            json!({
                "id": code.as_str(),
                "shortDescription": { "text": format!("pullgate: {code}") },
                "help": { "text": format!("{HELP}#{anchor} says why and what to do") },
                "defaultConfiguration": { "level": "error" },
            })
        })
        .collect();
    let log = json!({
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "pullgate",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "automationDetails": { "id": format!("pullgate/{}/", judge.policy.name()) },
            "columnKind": "unicodeCodePoints",
            "invocations": [{
                "executionSuccessful": findings.faults.is_empty(),
                "toolExecutionNotifications": notifications,
            }],
            "results": results,
        }],
    });
    serde_json::to_writer_pretty(&mut *out, &log)?;
    writeln!(out)
}

fn location(file: &str, place: Option<&Place>) -> Value {
    let mut physical = json!({ "artifactLocation": artifact(file) });
    if let (Some(place), Value::Object(members)) = (place, &mut physical) {
        let region = json!({
            "startLine": place.line,
            "startColumn": place.column,
            "endLine": place.end_line,
            "endColumn": place.end_column,
        });
        members.insert("region".to_owned(), region);
    }
    json!({ "physicalLocation": physical })
}

/// Relative to the root of the sources; what lies elsewhere has its own address.
fn artifact(file: &str) -> Value {
    let mut uri = String::new();
    for byte in file.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    match file.starts_with('/') {
        true => json!({ "uri": format!("file://{uri}") }),
        false => json!({ "uri": uri, "uriBaseId": "%SRCROOT%" }),
    }
}
