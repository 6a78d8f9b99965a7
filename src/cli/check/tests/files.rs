//! References in files: what is printed, what is written, and how it ends.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use crate::catalog::{self, Catalog};
use crate::clock::Clock;
use crate::oci::{Digest, Manifest, Name};
use crate::policy::Code;

const SHOP: &str = "tests/it/files/shop";
const INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (path, text) in files {
        write(folder.path(), path, text);
    }
    folder
}

fn write(folder: &Path, path: &str, text: &str) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn shown(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The lines about references, without the folder.
fn lines(folder: &TempDir, said: &str) -> Vec<String> {
    let prefix = format!("{}/", folder.path().display());
    said.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
}

#[test]
fn a_realistic_folder_is_judged_as_on_record() {
    let (said, exit) = run_with(&["--files", SHOP]);
    let record = format!("{SHOP}.txt");
    if std::env::var_os("PULLGATE_RECORD").is_some() {
        std::fs::write(&record, &said).unwrap();
    }
    assert_eq!(said, std::fs::read_to_string(&record).unwrap(), "PULLGATE_RECORD=1 writes a new record");
    assert_eq!(exit, Exit::Unjudged, "one name is malformed");
}

#[test]
fn the_exit_status_says_whether_all_are_allowed_some_refused_or_some_not_judged() {
    let folder = folder(&[
        ("good/Dockerfile", "FROM python:3.11.9\nFROM scratch\n"),
        ("bad/Dockerfile", "FROM python\n"),
        ("worse/Dockerfile", "FROM python\nFROM Python:1\n"),
        ("open/compose.yaml", "services: {a: {image: '$IMAGE'}}\n"),
        ("broken/compose.yaml", "services: {a: {image: [\n"),
        ("bytes/k.yaml", ""),
        ("none/notes.md", "FROM python\n"),
    ]);
    std::fs::write(folder.path().join("bytes/k.yaml"), b"image: \xff").unwrap();
    let check = |path: &str, more: &[&str]| {
        let path = folder.path().join(path);
        run_with(&[&["--files", shown(&path)], more].concat()).1
    };
    assert_eq!(check("good", &[]), Exit::Done);
    assert_eq!(check("bad", &[]), Exit::No);
    assert_eq!(check("worse", &[]), Exit::Unjudged);
    assert_eq!(check("open", &[]), Exit::Done);
    assert_eq!(check("open", &["--strict"]), Exit::Unjudged);
    assert_eq!(check("broken", &[]), Exit::Unjudged);
    assert_eq!(check("bytes", &[]), Exit::Unjudged);
    assert_eq!(check("none", &[]), Exit::Done);
    assert_eq!(check("none/notes.md", &[]), Exit::No, "a file that is named is known by its text");
    assert_eq!(check("missing", &[]), Exit::Unjudged);
    assert_eq!(check("", &[]), Exit::Unjudged);
}

#[test]
fn folders_are_walked_as_git_sees_them() {
    let folder = folder(&[
        (".gitignore", "/ignored\n*.gen.yaml\n"),
        ("Dockerfile", "FROM a:1.0.0"),
        ("deep/er/Dockerfile.dev", "FROM b:1.0.0"),
        (".github/workflows/x.yml", "jobs: {a: {container: c:1.0.0}}"),
        (".hidden/Dockerfile", "FROM d:1.0.0"),
        ("node_modules/x/Dockerfile", "FROM d:1.0.0"),
        ("target/Dockerfile", "FROM d:1.0.0"),
        ("ignored/Dockerfile", "FROM d:1.0.0"),
        ("compose.gen.yaml", "services: {a: {image: d:1.0.0}}"),
    ]);
    let (said, exit) = run_with(&["--files", shown(folder.path())]);
    assert_eq!(
        lines(&folder, &said),
        [
            ".github/workflows/x.yml:1:23: c:1.0.0: allow",
            "Dockerfile:1:6: a:1.0.0: allow",
            "deep/er/Dockerfile.dev:1:6: b:1.0.0: allow"
        ]
    );
    assert_eq!(exit, Exit::Done);
    let named = folder.path().join("target/Dockerfile");
    let (said, _) = run_with(&["--files", shown(&named), shown(&named)]);
    assert_eq!(lines(&folder, &said).len(), 1, "what is named is read, once: {said}");
    assert!(said.ends_with("1 reference in 1 file: 1 allowed\n"), "{said}");
    assert!(!run_with(&["--quiet", "--files", shown(&named)]).0.contains("Dockerfile"));
}

#[test]
fn what_is_wrong_with_a_line_is_said() {
    let digest = Digest::sha256(b"x");
    let folder = folder(&[(
        "Dockerfile",
        &format!(
            "FROM Python:1.2.3\nFROM python\nFROM python:latest@{digest}\nFROM python@sha256:12\nFROM ../x\n"
        ),
    )]);
    let (said, _) = run_with(&["--files", shown(folder.path())]);
    let lines = lines(&folder, &said);
    for (line, part) in lines.iter().zip([
        "invalid name.invalid: malformed repository \"Python\"; expected lower-case letters",
        "deny tag.denied: ",
        "allow: only the digest is judged; its tag alone would be refused: tag.denied",
        "invalid name.invalid: ",
        "invalid name.invalid: ",
    ]) {
        assert!(line.contains(part), "{line}");
    }
    assert!(lines[0].ends_with("(did you mean python:1.2.3?)"), "{lines:?}");
    assert!(lines[1].ends_with("(no tag is written, which means latest)"), "{lines:?}");
}

#[test]
fn json_says_where_and_what_is_nearest() {
    let (said, _) = run_with(&["--json", "--files", SHOP]);
    let objects: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let vector = objects.iter().find(|it| it["asked"] == "docker.io/pgvector/pgvector:0.8.0").unwrap();
    assert_eq!(vector["file"], format!("{SHOP}/deploy/base/all.yaml"));
    assert_eq!(
        (&vector["line"], &vector["column"], &vector["end_column"]),
        (&json!(10), &json!(18), &json!(51))
    );
    assert_eq!(vector["nearest"], "docker.io/pgvector/pgvector:0.8.0-pg16");
    assert_eq!((&vector["verdict"], &vector["kind"]), (&json!("deny"), &json!("kubernetes")));
    let open: Vec<&str> = objects.iter().filter_map(|it| it["unjudged"].as_str()).collect();
    assert_eq!(open, ["expression", "variable", "variable", "template", "tag"]);
    assert!(objects.iter().any(|it| it["code"] == "name.invalid" && it["error"].is_string()));
}

/// A log, checked against what SARIF 2.1.0 requires and code scanning reads.
fn sarif(files: &str) -> Value {
    let (said, _) = run_with(&["--format", "sarif", "--files", files]);
    let log: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(log["version"], "2.1.0");
    assert!(log["$schema"].as_str().unwrap().contains("sarif-2.1.0"));
    let run = &log["runs"][0];
    let driver = &run["tool"]["driver"];
    assert_eq!(driver["name"], "pullgate");
    let rules: Vec<&str> =
        driver["rules"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(rules, Code::ALL.map(Code::as_str), "the rules are the codes");
    let invocation = &run["invocations"][0];
    assert!(invocation["executionSuccessful"].is_boolean());
    let mut prints = HashSet::new();
    for result in run["results"].as_array().unwrap() {
        let rule = result["ruleId"].as_str().unwrap();
        assert_eq!(rules[usize::try_from(result["ruleIndex"].as_u64().unwrap()).unwrap()], rule);
        assert!(["error", "warning"].contains(&result["level"].as_str().unwrap()));
        assert!(!result["message"]["text"].as_str().unwrap().is_empty());
        let print = result["partialFingerprints"]["pullgateReference/v1"].as_str().unwrap();
        assert!(prints.insert(print.to_owned()), "a fingerprint is of one result: {result}");
        let physical = &result["locations"][0]["physicalLocation"];
        let region = |key: &str| physical["region"][key].as_u64().unwrap();
        assert!(region("startLine") >= 1 && region("startColumn") >= 1);
        let (start, end) =
            ((region("startLine"), region("startColumn")), (region("endLine"), region("endColumn")));
        assert!(end > start, "{result}");
    }
    for told in invocation["toolExecutionNotifications"].as_array().unwrap() {
        assert!(["error", "note"].contains(&told["level"].as_str().unwrap()));
        assert!(told["message"]["text"].is_string() && told["descriptor"]["id"].is_string());
    }
    log
}

#[test]
fn sarif_has_what_code_scanning_needs() {
    let log = sarif(SHOP);
    let results = log["runs"][0]["results"].as_array().unwrap();
    assert_eq!(results.len(), 12, "eleven refused, one malformed");
    let uris: Vec<&str> = results
        .iter()
        .map(|it| {
            let artifact = &it["locations"][0]["physicalLocation"]["artifactLocation"];
            assert_eq!(artifact["uriBaseId"], "%SRCROOT%");
            artifact["uri"].as_str().unwrap()
        })
        .collect();
    assert!(uris.iter().all(|uri| uri.starts_with(SHOP)), "relative: {uris:?}");
    assert_eq!(results[0]["ruleId"], "tag.not_allowed");
    assert_eq!(results[0]["locations"][0]["physicalLocation"]["region"]["startLine"], 9);
    assert_eq!(log["runs"][0]["invocations"][0]["executionSuccessful"], true);
    let told = log["runs"][0]["invocations"][0]["toolExecutionNotifications"].as_array().unwrap();
    assert_eq!(told.len(), 5, "what is not judged is told, and is no result");
}

#[test]
fn fingerprints_stay_when_lines_move_and_odd_names_are_addresses() {
    let folder = folder(&[("a b/Dockerfile", "FROM python\nFROM python\n")]);
    let prints = || {
        let log = sarif(shown(folder.path()));
        let results = log["runs"][0]["results"].as_array().unwrap().clone();
        let uri = results[0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"].as_str().unwrap();
        assert!(uri.starts_with("file:///") && uri.ends_with("/a%20b/Dockerfile"), "{uri}");
        results.iter().map(|it| it["partialFingerprints"].to_string()).collect::<Vec<_>>()
    };
    let before = prints();
    write(folder.path(), "a b/Dockerfile", "# moved\n\nFROM python\n\nFROM python AS x\n");
    assert_eq!(prints(), before);
    write(folder.path(), "broken.yaml", "image: [");
    let log = sarif(shown(folder.path()));
    assert_eq!(log["runs"][0]["invocations"][0]["executionSuccessful"], false);
}

#[test]
fn annotations_are_one_line_each_with_nothing_left_to_obey() {
    let folder = folder(&[(
        "a,b:c/compose.yaml",
        "services:\n  a: {image: \"x\\n::error::y%\"}\n  b: {image: '$X'}\n",
    )]);
    let (said, exit) = run_with(&["--format", "github", "--files", shown(folder.path())]);
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(
        lines[0].starts_with("::error file=")
            && lines[0].contains("/a%2Cb%3Ac/compose.yaml,line=2,endLine=2,col=14,")
    );
    assert!(lines[0].contains("title=pullgate name.invalid::x%0A::error::y%25: malformed"), "{said}");
    assert!(
        lines[1].starts_with("::notice ") && lines[1].contains("title=pullgate variable::$X: "),
        "{said}"
    );
    assert_eq!(exit, Exit::Unjudged);
}

#[test]
fn options_that_do_not_go_together_are_told() {
    for words in [
        &["--format", "sarif", "python"][..],
        &["--format", "github", "python"],
        &["--strict", "python"],
        &["--fix", "--config", "config/pullgate.toml", "python"],
        &["--fix", "--config", "config/pullgate.toml", "--format", "sarif", "--files", "x"],
    ] {
        assert_eq!(run(&arguments(words), &mut Vec::new()).unwrap_err().exit, Exit::Unjudged, "{words:?}");
    }
    for words in [
        &["--fix", "python"][..],
        &["--files", "x", "--fix"],
        &["--files", "x", "--config", "y", "--dry-run"],
        &["--json", "--format", "sarif", "--files", "x"],
        &["--files", "x", "--", "python"],
        &[],
    ] {
        assert!(<Line as clap::Parser>::try_parse_from([&["check"], words].concat()).is_err(), "{words:?}");
    }
}

/// A data folder whose gateway served these tags, and the settings that name it.
fn gateway(folder: &Path, served: &[&str]) -> BTreeMap<String, Digest> {
    let data = folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let settings =
        format!("[storage]\npath = \"{}\"\n[policy]\nfile = \"{}\"\n", data.display(), "config/policy.toml");
    std::fs::write(folder.join("pullgate.toml"), settings).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let catalog = Catalog::open(&data, catalog::quota(0), Clock::system()).await.unwrap();
        let mut locks = BTreeMap::new();
        for reference in served {
            let (name, tag) = reference.rsplit_once(':').unwrap();
            let (name, tag) = (name.parse::<Name>().unwrap(), tag.parse().unwrap());
            let bytes = format!("{INDEX}{}", " ".repeat(locks.len()));
            let manifest = Manifest::parse(bytes.as_bytes(), None, None).unwrap();
            let digest = manifest.digest;
            catalog.keep_manifest(&name, manifest, bytes.into()).await.unwrap();
            catalog.lock_tag(&name, &tag, &digest, false).await.unwrap();
            locks.insert((*reference).to_owned(), digest);
        }
        catalog.close().await;
        locks
    })
}

#[test]
fn tags_are_pinned_to_what_the_gateway_serves_and_nothing_else_changes() {
    let folder = folder(&[]);
    let locks = gateway(folder.path(), &["python:3.11.9", "pgvector/pgvector:0.8.0-pg16", "python:3.11"]);
    let (python, vector) = (locks["python:3.11.9"], locks["pgvector/pgvector:0.8.0-pg16"]);
    let docker = "\u{feff}# ünï\r\nARG V=3.11.9\r\nFROM python:3.11.9 AS a\r\nFROM python:3.11\r\nFROM redis:7.2.4\r\nFROM python:$V";
    let compose = "\
services:
  a: {image: 'pgvector/pgvector:0.8.0-pg16'} # kept
  b: {image: &i python:3.11.9}
  c: {image: *i}
";
    write(folder.path(), "src/Dockerfile", docker);
    write(folder.path(), "src/compose.yaml", compose);
    let path = folder.path().join("src/Dockerfile");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o751)).unwrap();
    let (config, files) = (folder.path().join("pullgate.toml"), folder.path().join("src"));
    let words = ["--config", shown(&config), "--files", shown(&files), "--fix"];

    let (dry, exit) = run_with(&[&words[..], &["--dry-run"]].concat());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), docker, "nothing is written");
    assert!(dry.ends_with("2 references would be pinned in 2 files\n"), "{dry}");
    assert_eq!(exit, Exit::No, "python:3.11 stays refused");

    let (said, _) = run_with(&words);
    let pinned = docker.replace("python:3.11.9 AS", &format!("python:3.11.9@{python} AS"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), pinned);
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o751);
    assert_eq!(
        std::fs::read_to_string(folder.path().join("src/compose.yaml")).unwrap(),
        compose.replace("0.8.0-pg16'", &format!("0.8.0-pg16@{vector}'"))
    );
    assert!(said.contains(&format!("+FROM python:3.11.9@{python} AS a\r\n")), "{said}");
    assert!(said.contains("-  a: {image: 'pgvector/pgvector:0.8.0-pg16'} # kept\n"), "{said}");
    for part in [
        "redis:7.2.4: not pinned: the gateway does not know this tag; pull it once",
        "python:3.11.9: not pinned: variables are part of it",
        "python:3.11.9: not pinned: an alias leads to it",
        "2 references pinned in 2 files\n",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("python:3.11: not pinned"), "a refused one is no candidate: {said}");

    // The source of pgvector takes digests that a tag leads to: the gateway knows that it does.
    let (again, _) = run_with(&words);
    assert!(again.contains(&format!("pgvector/pgvector:0.8.0-pg16@{vector}: allow")), "{again}");
    assert!(!again.contains("pinned in"), "pinned ones are left alone: {again}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), pinned);
    let (blind, _) = run_with(&["--files", shown(&files)]);
    assert!(blind.contains("deny digest.unknown"), "without the gateway nobody knows: {blind}");
}

#[test]
fn without_a_catalog_nothing_is_pinned_and_nothing_created() {
    let folder = folder(&[("src/Dockerfile", "FROM python:3.11.9\n")]);
    gateway(folder.path(), &[]);
    std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    let (config, files) = (folder.path().join("pullgate.toml"), folder.path().join("src"));
    let words = arguments(&["--config", shown(&config), "--files", shown(&files), "--fix"]);
    assert_eq!(run(&words, &mut Vec::new()).unwrap_err().exit, Exit::Unjudged);
    assert!(!folder.path().join("data").exists());
}

#[test]
fn the_nearest_tag_is_one_that_the_gateway_served() {
    let folder = folder(&[("src/Dockerfile", "FROM index.docker.io/python:3.11\n")]);
    gateway(folder.path(), &["python:3.11.9", "python:3.12.1"]);
    let (config, files) = (folder.path().join("pullgate.toml"), folder.path().join("src"));
    let (said, _) = run_with(&["--config", shown(&config), "--files", shown(&files)]);
    assert!(said.contains("; try index.docker.io/python:3.11.9\n"), "{said}");
}
