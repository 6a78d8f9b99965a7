//! The house rules that a compiler does not hold: imports run one way, nothing banned comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which rooms each room may import. `clock` and `telemetry` stand alone and may be imported by all.
const TABLE: [(&str, &[&str]); 19] = [
    ("audit", &["identity", "oci", "policy"]),
    ("catalog", &["oci"]),
    (
        "cli",
        &[
            "audit", "catalog", "content", "files", "gate", "identity", "oci", "policy", "pull", "review",
            "server", "settings", "sink", "upstream",
        ],
    ),
    ("clock", &[]),
    ("console", &["audit", "catalog", "policy", "review"]),
    ("content", &["oci"]),
    ("files", &[]),
    ("gate", &["audit", "catalog", "identity", "oci", "policy", "pull"]),
    ("identity", &["oci"]),
    ("lib", &[]),
    ("main", &["cli"]),
    ("oci", &[]),
    ("policy", &["identity", "oci"]),
    ("pull", &["catalog", "content", "oci", "policy", "upstream"]),
    // What the pages show, and nothing of where it comes from but the record.
    ("review", &["audit", "identity", "oci", "policy"]),
    // The door turns settled replies over to the record, streams what content holds, and answers with
    // the console's page of a refusal.
    ("server", &["audit", "console", "content", "gate", "identity", "oci", "policy", "pull", "review"]),
    // Only what it turns files into; no other room but `cli` imports it.
    ("settings", &["audit", "identity", "oci", "policy", "upstream"]),
    ("sink", &["audit", "oci", "policy"]),
    ("upstream", &["oci"]),
];
const FREE: [&str; 2] = ["clock", "telemetry"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The rooms that a source names as `crate::room` or within `crate::{…}`, comments aside.
fn rooms_named(text: &str) -> BTreeSet<String> {
    let code: String =
        text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join(" ");
    let mut rooms = BTreeSet::new();
    for rest in code.split("crate::").skip(1) {
        let names: Vec<&str> = match rest.strip_prefix('{') {
            Some(group) => {
                let mut depth = 0_usize;
                let flat: String = group
                    .chars()
                    .take_while(|c| {
                        match c {
                            '{' => depth += 1,
                            '}' if depth == 0 => return false,
                            '}' => depth -= 1,
                            _ => {}
                        }
                        true
                    })
                    .collect();
                flat.split(',').map(|name| name.trim().to_owned()).map(|name| &*name.leak()).collect()
            }
            None => vec![rest],
        };
        for name in names {
            let room: String = name.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if room.starts_with(|c: char| c.is_ascii_lowercase()) {
                rooms.insert(room);
            }
        }
    }
    rooms
}

#[test]
fn rooms_import_one_way_only() {
    let table: BTreeMap<&str, &[&str]> = TABLE.into();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(found.len() > 40, "the sources were not found: {}", found.len());
    let mut wrong = Vec::new();
    for path in found {
        let inside = path.strip_prefix(&root).unwrap();
        let room = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for named in rooms_named(&text) {
            let is_room = table.contains_key(named.as_str());
            if !is_room || named == room || FREE.contains(&named.as_str()) {
                continue;
            }
            if !table.get(room.as_str()).is_some_and(|allowed| allowed.contains(&named.as_str())) {
                wrong.push(format!("{} imports {named}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_import_scan_sees_every_way_of_writing_an_import() {
    let text = "use crate::oci::Digest; use crate::{audit::Log, pull::{Puller, Cache}}; // crate::server\nlet x = crate::gate::Gate;";
    let rooms = rooms_named(text);
    assert_eq!(rooms.iter().map(String::as_str).collect::<Vec<_>>(), ["audit", "gate", "oci", "pull"]);
}

#[test]
fn no_second_tls_or_crypto_library_is_linked() {
    // The lock file lists optional crates too, so the question is put to the tree that is built.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--edges", "normal,build", "--prefix", "none", "--format", "{p}"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<&str> = tree.lines().filter_map(|line| line.split(' ').next()).collect();
    assert!(names.contains("rustls"), "the tree was not read");
    for banned in ["native-tls", "openssl", "openssl-sys", "ring", "rustls-pemfile"] {
        assert!(!names.contains(banned), "{banned} is linked");
    }
}
