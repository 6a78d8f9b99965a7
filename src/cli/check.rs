//! `pullgate check`: what the policy says of images, without a gateway.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use owo_colors::OwoColorize as _;
use serde_json::{Value, json};

use super::{Exit, Failure};
use crate::clock::Clock;
use crate::oci::{NameError, Reference};
use crate::policy::{Given, Offline, Policy, Reason, Verdict};
use crate::settings::policy;

/// Judges image references by a policy file, offline: no registry and no gateway is asked.
///
/// What takes facts (a manifest's content, whether a tag moved) is listed under "needs" and counts as
/// passed. A digest counts as one that no tag leads to.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate check --policy config/policy.toml docker.io/library/python:3.11
  pullgate check python:3.11-slim-bookworm ghcr.io/acme/app:v1.2.3
  pullgate check --client ci --json ghcr.io/acme/app:v1.2.3 | jq -r .verdict

Exit status: 0 all allowed, 1 some refused, 2 some cannot be judged (a bad file, a malformed name).")]
pub(super) struct Arguments {
    /// The policy file
    #[arg(long, value_name = "FILE", default_value = policy::DEFAULT_PATH)]
    policy: PathBuf,

    /// One JSON object a line and image, with every check
    #[arg(long)]
    json: bool,

    /// Judge as this [[client]]; without it as a client that no table names
    #[arg(long, value_name = "NAME")]
    client: Option<String>,

    /// Images: [registry/]repository[:tag][@digest]
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let policy = policy::load(&arguments.policy).map_err(Failure::unjudged)?;
    let client: Option<Arc<str>> = arguments.client.as_deref().map(Into::into);
    let now = Clock::system().now();
    let mut exit = Exit::Done;
    for image in &arguments.images {
        let judged = read(&policy, image).map(|reference| {
            let offline = policy.offline(client.as_ref(), &reference, &Given::default(), now);
            (reference, offline)
        });
        exit = worse(
            exit,
            match &judged {
                Err(_) => Exit::Unjudged,
                Ok((_, offline)) if offline.verdict >= Verdict::Hold => Exit::No,
                Ok(_) => Exit::Done,
            },
        );
        match (&judged, arguments.json) {
            (Err(error), true) => writeln!(out, "{}", json!({ "asked": image, "error": error.to_string() }))?,
            (Err(error), false) => writeln!(out, "{} {image:?}\n        {error}", "invalid".red().bold())?,
            (Ok((reference, offline)), true) => {
                writeln!(out, "{}", object(&policy, image, reference, offline))?;
            }
            (Ok((reference, offline)), false) => print(out, reference, offline)?,
        }
    }
    Ok(exit)
}

/// One of several images that cannot be judged outweighs one that is refused.
fn worse(one: Exit, other: Exit) -> Exit {
    if other.code() > one.code() { other } else { one }
}

fn read(policy: &Policy, image: &str) -> Result<Reference, NameError> {
    let reference: Reference = image.parse()?;
    let registry = reference.name.registry();
    if registry.is_ip() && !policy.registries().contains(registry) {
        return Err(NameError::IpLiteral(registry.to_string()));
    }
    Ok(reference)
}

fn print(out: &mut dyn Write, reference: &Reference, offline: &Offline) -> std::io::Result<()> {
    write!(out, "{:7} {reference}", colour(offline.verdict))?;
    if !offline.needs.is_empty() && offline.verdict < Verdict::Hold {
        write!(out, "  needs: {}", offline.needs.join(", "))?;
    }
    writeln!(out)?;
    for reason in &offline.reasons {
        write!(out, "        {}: {}", reason.code, reason.text)?;
        match &reason.remedy {
            Some(remedy) => writeln!(out, "; {remedy}")?,
            None => writeln!(out)?,
        }
    }
    Ok(())
}

/// A verdict in its colour, which only a terminal shows; padded to one width.
pub(super) fn colour(verdict: Verdict) -> String {
    let word = format!("{:7}", verdict.as_str());
    match verdict {
        Verdict::Allow => word.green().to_string(),
        Verdict::Deny => word.red().bold().to_string(),
        Verdict::Hold | Verdict::Warn => word.yellow().to_string(),
    }
}

/// The fields of the audit log, as far as they exist without a pull.
fn object(policy: &Policy, asked: &str, reference: &Reference, offline: &Offline) -> Value {
    let trace = &offline.decision.trace;
    let checks: Vec<Value> = trace
        .checks
        .iter()
        .map(|check| {
            json!({
                "id": check.id,
                "result": if check.pass { "pass" } else { "fail" },
                "observed": check.observed,
                "expected": check.expected,
                "at": check.at,
            })
        })
        .collect();
    json!({
        "asked": asked,
        "reference": reference.to_string(),
        "verdict": offline.verdict.as_str(),
        "reason": offline.reasons.first().map(reason),
        "reasons": offline.reasons.iter().map(reason).collect::<Vec<_>>(),
        "needs": offline.needs,
        "checks": checks,
        "policy": {
            "name": policy.name(),
            "revision": policy.revision(),
            "sha256": policy.sha256().hex(),
            "source": trace.source,
            "mode": trace.mode,
        },
    })
}

/// A reason as in the audit log.
pub(super) fn reason(reason: &Reason) -> Value {
    json!({ "code": reason.code.as_str(), "text": reason.text, "remedy": reason.remedy })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: bool, images: &[&str]) -> (String, Exit) {
        let arguments = Arguments {
            policy: "config/policy.toml".into(),
            json,
            client: None,
            images: images.iter().map(|image| (*image).to_owned()).collect(),
        };
        let mut out = anstream::StripStream::new(Vec::new());
        let exit = run(&arguments, &mut out).unwrap();
        (String::from_utf8(out.into_inner()).unwrap(), exit)
    }

    #[test]
    fn an_allowed_image_ends_with_0_and_says_what_takes_facts() {
        let (said, exit) = check(false, &["python:3.11.9"]);
        assert_eq!(said, "allow   docker.io/library/python:3.11.9  needs: media\n");
        assert_eq!(exit, Exit::Done);
    }

    #[test]
    fn a_refused_image_ends_with_1_and_says_why() {
        let (said, exit) = check(false, &["python:3.11.9", "docker.io/pgvector/pgvector:0.8.0"]);
        assert!(
            said.contains("deny    docker.io/pgvector/pgvector:0.8.0\n        tag.not_allowed: "),
            "{said}"
        );
        assert!(said.contains("; try 0.8.0-pg16\n"), "{said}");
        assert_eq!(exit, Exit::No);
    }

    #[test]
    fn a_malformed_name_ends_with_2_and_the_others_are_judged_all_the_same() {
        for name in ["Python:1", "127.0.0.1/x:1", "docker.io/../x", "python:", "\u{1b}[31m"] {
            let (said, exit) = check(false, &[name, "python"]);
            assert!(said.contains("invalid") && said.contains("tag.denied"), "{said}");
            assert_eq!(exit, Exit::Unjudged, "{name}");
        }
    }

    #[test]
    fn json_is_one_object_a_line_with_reasons_and_checks() {
        let (said, exit) = check(true, &["python:latest", "no image", "ghcr.io/acme/app:v1.0.0"]);
        let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["reason"]["code"], "tag.denied");
        assert_eq!(lines[0]["reasons"][1]["code"], "tag.not_allowed");
        assert_eq!(lines[0]["policy"]["source"], "docker-official");
        assert!(lines[1]["error"].is_string());
        assert_eq!((&lines[2]["verdict"], &lines[2]["needs"][0]), (&json!("allow"), &json!("media")));
        assert_eq!(
            lines[2]["checks"][0],
            json!({ "id": "client", "result": "pass", "observed": "anonymous",
            "expected": "a known client or none", "at": null })
        );
        assert_eq!(exit, Exit::Unjudged);
    }

    #[test]
    fn a_bad_file_ends_with_2() {
        let arguments = Arguments {
            policy: "no/such.toml".into(),
            json: false,
            client: None,
            images: vec!["x".to_owned()],
        };
        assert_eq!(run(&arguments, &mut Vec::new()).unwrap_err().exit, Exit::Unjudged);
    }
}
