//! What the commands that work on a policy read besides the policy itself: the words it was made of,
//! and files that hold tests alone.

use std::path::Path;

use toml::de::DeTable;

use super::keys::TEST;
use super::reader::Reader;
use super::{parse, parse_for};
use crate::oci::Digest;
use crate::policy::{Policy, PolicyTest, Rules};
use crate::settings::diagnostic::{FileError, Problem};

/// A policy and what it was read from.
#[derive(Debug)]
pub struct Work {
    /// The policy.
    pub policy: Policy,
    /// What the file says, before `[require]` was merged into the sources.
    pub rules: Rules,
    /// The file.
    pub text: String,
}

/// Why a policy file is none; with the file's text, where there is one.
#[derive(Debug)]
pub enum Unsound {
    /// Every rule is well-formed, and they contradict each other.
    Conflict(Box<FileError>, String),
    /// It cannot be read.
    Missing(Box<FileError>),
    /// It is no TOML, or a key or value is not what it may be.
    Schema(Box<FileError>, String),
}

/// Reads a policy file with the words it was made of.
///
/// # Errors
/// What [`super::load`] says, sorted by kind.
pub fn open(path: &Path) -> Result<Work, Unsound> {
    let text = text_of(path).map_err(|error| Unsound::Missing(Box::new(error)))?;
    match (rules(path, &text), parse(path, &text)) {
        (Some(rules), Ok(policy)) => Ok(Work { policy, rules, text }),
        (Some(_), Err(error)) => Err(Unsound::Conflict(Box::new(error), text)),
        (None, Err(error)) => Err(Unsound::Schema(Box::new(error), text)),
        // The same reader does not find the rules once and miss them once.
        (None, Ok(_)) => {
            let error = FileError::invalid(path, &text, Vec::new());
            Err(Unsound::Schema(Box::new(error), text))
        }
    }
}

/// The policy that a text is, for a gateway with these clients; `path` is what errors call it.
///
/// # Errors
/// It is no policy: every wrong line.
pub fn compile(path: &Path, text: &str, clients: &[String]) -> Result<Work, FileError> {
    let policy = parse_for(path, text, Some(clients))?;
    // The same reader does not find a policy once and miss its rules once.
    let rules = rules(path, text).ok_or_else(|| FileError::invalid(path, text, Vec::new()))?;
    Ok(Work { policy, rules, text: text.to_owned() })
}

/// What a policy file says, whatever that is.
///
/// # Errors
/// It cannot be read.
pub fn text_of(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path).map_err(|error| FileError::unreadable(path, error))
}

/// Reads a file that holds `[[test]]` tables and nothing else.
///
/// # Errors
/// It cannot be read, or holds something else.
pub fn load_tests(path: &Path) -> Result<Vec<PolicyTest>, FileError> {
    let text = text_of(path)?;
    let file = file_name(path);
    let mut reader = Reader::new(&file, &text, None);
    let document = DeTable::parse(&text)
        .map_err(|error| FileError::invalid(path, &text, vec![Problem::from_toml(&error)]))?;
    let mut keys = TEST;
    keys.table = "a file of tests";
    keys.known = &["test"];
    let top = reader.fields(document.get_ref(), 0..0, &keys);
    let mut tests = Vec::new();
    for (fields, span) in reader.tables(&top, "test", &TEST) {
        tests.extend(reader.test(&fields, &span));
    }
    let problems = std::mem::take(&mut reader.problems);
    if problems.is_empty() { Ok(tests) } else { Err(FileError::invalid(path, &text, problems)) }
}

fn rules(path: &Path, text: &str) -> Option<Rules> {
    let file = file_name(path);
    let document = DeTable::parse(text).ok()?;
    let mut reader = Reader::new(&file, text, None);
    let read = reader.rules(document.get_ref(), Digest::sha256(text.as_bytes()))?;
    reader.problems.is_empty().then_some(read.rules)
}

fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| "policy.toml".to_owned(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.toml");
        std::fs::write(&file, text).unwrap();
        (folder, file)
    }

    #[test]
    fn a_contradiction_is_told_from_a_mistake_and_from_a_missing_file() {
        let head = "name = \"t\"\nrevision = \"1\"\n";
        let tie = format!(
            "{head}[[source]]\nid = \"a\"\nmatch = \"ghcr.io/*/b\"\n[[source]]\nid = \"c\"\nmatch = \"ghcr.io/a/*\"\n"
        );
        let (_folder, file) = written(&tie);
        assert!(matches!(open(&file), Err(Unsound::Conflict(..))));
        let (_folder, file) = written(&format!("{head}colour = 1\n"));
        assert!(matches!(open(&file), Err(Unsound::Schema(..))));
        assert!(matches!(open(Path::new("no/such.toml")), Err(Unsound::Missing(_))));
        let (_folder, file) = written(head);
        assert_eq!(open(&file).unwrap().text, head);
    }

    #[test]
    fn a_file_of_tests_holds_tests_and_nothing_else() {
        let test = "[[test]]\npull = \"python:3.11\"\nexpect = \"deny\"\n";
        let (_folder, file) = written(test);
        let tests = load_tests(&file).unwrap();
        assert_eq!((tests.len(), &*tests[0].at), (1, "rules.toml:1"));
        let (_folder, file) = written(&format!("name = \"x\"\n{test}"));
        assert!(load_tests(&file).unwrap_err().to_string().contains("rules.toml:1: unknown key `name`"));
    }
}
