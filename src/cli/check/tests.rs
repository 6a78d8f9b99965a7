//! What is printed and how it ends, run in process.

mod files;

use serde_json::{Value, json};

use super::*;

/// Arguments as the command line gives them.
#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

fn arguments(words: &[&str]) -> Arguments {
    <Line as clap::Parser>::try_parse_from([&["check"], words].concat()).unwrap().arguments
}

fn run_with(words: &[&str]) -> (String, Exit) {
    let mut out = anstream::StripStream::new(Vec::new());
    let exit = run(&arguments(words), &mut out).unwrap();
    (String::from_utf8(out.into_inner()).unwrap(), exit)
}

fn check(json: bool, images: &[&str]) -> (String, Exit) {
    run_with(&[if json { &["--json"] } else { [].as_slice() }, images].concat())
}

#[test]
fn an_allowed_image_ends_with_0_and_says_what_takes_facts() {
    let (said, exit) = check(false, &["python:3.11.9"]);
    assert_eq!(said, "allow   docker.io/library/python:3.11.9  needs: hold, media, platform, age\n");
    assert_eq!(exit, Exit::Done);
}

#[test]
fn a_refused_image_ends_with_1_and_says_why() {
    let (said, exit) = check(false, &["python:3.11.9", "docker.io/pgvector/pgvector:0.8.0"]);
    assert!(said.contains("deny    docker.io/pgvector/pgvector:0.8.0\n        tag.not_allowed: "), "{said}");
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
        "expected": "a known client or none", "at": null, "exception": null })
    );
    assert_eq!(exit, Exit::Unjudged);
}

#[test]
fn a_bad_file_ends_with_2() {
    let arguments = arguments(&["--policy", "no/such.toml", "x"]);
    assert_eq!(run(&arguments, &mut Vec::new()).unwrap_err().exit, Exit::Unjudged);
}
