//! `pullgate policy test`: the `[[test]]` tables, and files of them.

use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde_json::json;

use super::annotate::{github, line, xml};
use super::{Exit, Failure};
use crate::audit::{printable, printable_json};
use crate::cli::check;
use crate::clock::Clock;
use crate::policy::{Policy, PolicyTest, TestResult};
use crate::settings::policy;

/// Runs the [[test]] tables of a policy file, offline.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate policy test
  pullgate policy test --policy policy-next.toml --json | jq -r 'select(.result == \"failed\") | .at'
  pullgate policy test --file tests/official.toml --file tests/own.toml
  pullgate policy test --format junit > policy-tests.xml
  pullgate policy test --format github     in a GitHub workflow: failures stand beside their line

Exit status: 0 all passed, 1 some failed, 2 a file is bad.")]
pub(super) struct Arguments {
    /// The policy file
    #[arg(long, value_name = "FILE", default_value = policy::DEFAULT_PATH)]
    policy: PathBuf,

    /// A further file of [[test]] tables, and nothing else; may be given several times
    #[arg(long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,

    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,

    /// The same as --format json: one JSON object a line and test
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Format {
    /// GitHub's workflow commands, one for each failure
    Github,
    /// For people
    Human,
    /// One object a line and test
    Json,
    /// JUnit's XML
    Junit,
}

/// A test that ran.
struct Ran<'a> {
    file: &'a Path,
    test: &'a PolicyTest,
    result: TestResult,
}

impl Ran<'_> {
    fn passed(&self) -> bool {
        self.result.differences.is_empty()
    }

    /// What differs, and what was decided instead.
    fn words(&self) -> Vec<String> {
        let reasons = &self.result.offline.reasons;
        let reasons = reasons.iter().map(|reason| format!("{}: {}", reason.code, reason.text));
        self.result.differences.iter().cloned().chain(reasons).collect()
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let policy = policy::load(&arguments.policy).map_err(Failure::unjudged)?;
    let mut tests: Vec<(&Path, PolicyTest)> =
        policy.tests().iter().map(|test| (arguments.policy.as_path(), test.clone())).collect();
    for file in &arguments.files {
        let more = policy::load_tests(file).map_err(Failure::unjudged)?;
        tests.extend(more.into_iter().map(|test| (file.as_path(), test)));
    }
    let now = Clock::system().now();
    let ran: Vec<Ran<'_>> = tests.iter().map(|(file, test)| judge(&policy, file, test, now)).collect();
    let failed = ran.iter().filter(|ran| !ran.passed()).count();
    match if arguments.json { Format::Json } else { arguments.format } {
        Format::Github => print_github(&ran, failed, out)?,
        Format::Human => print(&ran, failed, out)?,
        Format::Json => print_json(&ran, out)?,
        Format::Junit => print_junit(&policy, &ran, failed, out)?,
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::No })
}

fn judge<'a>(policy: &Policy, file: &'a Path, test: &'a PolicyTest, now: Timestamp) -> Ran<'a> {
    Ran { file, test, result: policy.run(test, now) }
}

fn print(ran: &[Ran<'_>], failed: usize, out: &mut dyn Write) -> std::io::Result<()> {
    for one in ran {
        let passed = one.passed();
        let word = if passed { "ok     ".green().to_string() } else { "FAILED ".red().bold().to_string() };
        writeln!(out, "{word} {}  {}  {}", one.test.at, one.test.expect.as_str(), one.test.pull)?;
        if !passed {
            for words in one.words() {
                writeln!(out, "        {}", printable(&words))?;
            }
        }
    }
    writeln!(out, "{} tests, {} passed, {failed} failed", ran.len(), ran.len() - failed)
}

fn print_json(ran: &[Ran<'_>], out: &mut dyn Write) -> std::io::Result<()> {
    for one in ran {
        let offline = &one.result.offline;
        let object = json!({
            "at": one.test.at,
            "file": one.file.display().to_string(),
            "pull": one.test.pull.to_string(),
            "expect": one.test.expect.as_str(),
            "verdict": offline.verdict.as_str(),
            "result": if one.passed() { "ok" } else { "failed" },
            "differences": one.result.differences,
            "reasons": offline.reasons.iter().map(check::reason).collect::<Vec<_>>(),
        });
        writeln!(out, "{}", printable_json(object.to_string()))?;
    }
    Ok(())
}

fn print_github(ran: &[Ran<'_>], failed: usize, out: &mut dyn Write) -> std::io::Result<()> {
    for one in ran.iter().filter(|one| !one.passed()) {
        let title = format!("{} {}", one.test.expect.as_str(), one.test.pull);
        writeln!(out, "{}", github("error", one.file, &one.test.at, &title, &one.words().join("\n")))?;
    }
    writeln!(out, "{} tests, {} passed, {failed} failed", ran.len(), ran.len() - failed)
}

fn print_junit(policy: &Policy, ran: &[Ran<'_>], failed: usize, out: &mut dyn Write) -> std::io::Result<()> {
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    let all = ran.len();
    writeln!(out, "<testsuites tests=\"{all}\" failures=\"{failed}\" errors=\"0\">")?;
    let name = xml(&format!("{} {}", policy.name(), policy.revision()));
    writeln!(
        out,
        "  <testsuite name=\"{name}\" tests=\"{all}\" failures=\"{failed}\" errors=\"0\" skipped=\"0\">"
    )?;
    for one in ran {
        let file = xml(&one.file.display().to_string());
        // The line tells two tests of one pull apart.
        let case = xml(&format!("{} {} ({})", one.test.expect.as_str(), one.test.pull, one.test.at));
        write!(out, "    <testcase classname=\"{file}\" name=\"{case}\" file=\"{file}\"")?;
        if let Some(line) = line(&one.test.at) {
            write!(out, " line=\"{line}\"")?;
        }
        if one.passed() {
            writeln!(out, "/>")?;
            continue;
        }
        let message = xml(&one.result.differences.join("; "));
        writeln!(out, ">")?;
        let words = xml(&one.words().join("\n"));
        writeln!(out, "      <failure message=\"{message}\" type=\"policy\">{words}</failure>")?;
        writeln!(out, "    </testcase>")?;
    }
    writeln!(out, "  </testsuite>\n</testsuites>")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(text: &str, format: Format, more: &[(&str, &str)]) -> (String, Exit) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        std::fs::write(&file, text).unwrap();
        let mut files = Vec::new();
        for (name, text) in more {
            files.push(folder.path().join(name));
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let mut out = anstream::StripStream::new(Vec::new());
        let arguments = Arguments { policy: file, files, format, json: false };
        let exit = run(&arguments, &mut out).unwrap();
        let said = String::from_utf8(out.into_inner()).unwrap();
        (said.replace(&folder.path().display().to_string(), "FOLDER"), exit)
    }

    const RULES: &str = "name = \"t\"\nrevision = \"1\"\n[[source]]\nid = \"a\"\nmatch = \"ghcr.io/a/*\"\ntags = { allow = [\"#.#\"], moved = \"deny\" }\n";

    fn failing() -> String {
        format!("{RULES}[[test]]\npull = \"ghcr.io/a/b:x\"\nexpect = \"allow\"\nbecause = [\"tag.denied\"]\n")
    }

    #[test]
    fn the_shipped_policy_passes_its_own_tests() {
        let (said, exit) = ran(include_str!("../../../config/policy.toml"), Format::Human, &[]);
        assert!(said.ends_with(" passed, 0 failed\n") && !said.starts_with('0'), "{said}");
        assert_eq!(exit, Exit::Done);
    }

    #[test]
    fn every_rule_and_every_known_way_round_it_has_a_test_in_the_example() {
        let text = include_str!("../../../config/policy-example.toml");
        let (said, exit) = ran(text, Format::Human, &[]);
        let failed: Vec<&str> = said.lines().filter(|line| !line.starts_with("ok ")).collect();
        assert_eq!(exit, Exit::Done, "{failed:#?}");
        let policy = policy::parse(std::path::Path::new("policy-example.toml"), text).unwrap();
        assert!(policy.tests().len() >= 40, "{}", policy.tests().len());
        let met = |code: &crate::policy::Code| policy.tests().iter().any(|test| test.because.contains(code));
        let unmet: Vec<&str> =
            crate::policy::Code::ALL.iter().filter(|code| !met(code)).map(|code| code.as_str()).collect();
        // What takes a request, a manifest's shape or a gateway's state is tested at the door.
        let elsewhere = [
            "name.invalid",
            "name.conflict",
            "method.unsupported",
            "client.unknown",
            "client.rate",
            "digest.not_listed",
            "closure.outside",
            "possession.missing",
            "media.refused",
            "index.too_large",
            "facts.unavailable",
        ];
        assert_eq!(unmet, elsewhere);
    }

    #[test]
    fn a_failed_test_says_what_differs_and_ends_with_1() {
        let (said, exit) = ran(&failing(), Format::Human, &[]);
        assert!(said.starts_with("FAILED  policy.toml:7  allow  ghcr.io/a/b:x\n        expected allow, got deny\n        expected tag.denied among the reasons, got tag.not_allowed\n"), "{said}");
        assert_eq!(exit, Exit::No);
        let (said, exit) = ran(&failing(), Format::Json, &[]);
        let object: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            (object["result"].as_str(), object["at"].as_str()),
            (Some("failed"), Some("policy.toml:7"))
        );
        assert_eq!(exit, Exit::No);
    }

    #[test]
    fn a_test_may_suppose_what_a_tag_is_locked_to_and_where_it_leads() {
        let (a, b) = ("1".repeat(64), "2".repeat(64));
        let text = format!(
            "{RULES}[[test]]\npull = \"ghcr.io/a/b:1.0\"\nfacts = {{ locked = \"sha256:{a}\", digest = \"sha256:{b}\" }}\nexpect = \"deny\"\nbecause = [\"tag.moved\"]\n[[test]]\npull = \"ghcr.io/a/b:1.0\"\nfacts = {{ locked = \"sha256:{a}\" }}\nexpect = \"allow\"\n"
        );
        let (said, exit) = ran(&text, Format::Human, &[]);
        assert_eq!((said.lines().last(), exit), (Some("2 tests, 2 passed, 0 failed"), Exit::Done));
    }

    #[test]
    fn tests_may_lie_in_files_of_their_own() {
        let more = "[[test]]\npull = \"ghcr.io/a/b:1.0\"\nexpect = \"allow\"\n";
        let (said, exit) = ran(RULES, Format::Human, &[("more.toml", more)]);
        assert_eq!(said, "ok      more.toml:1  allow  ghcr.io/a/b:1.0\n1 tests, 1 passed, 0 failed\n");
        assert_eq!(exit, Exit::Done);
    }

    #[test]
    fn a_bad_file_of_tests_ends_with_2() {
        let folder = tempfile::tempdir().unwrap();
        let (policy, tests) = (folder.path().join("policy.toml"), folder.path().join("tests.toml"));
        std::fs::write(&policy, RULES).unwrap();
        std::fs::write(&tests, "[[source]]\nid = \"x\"\n").unwrap();
        let arguments = Arguments { policy, files: vec![tests], format: Format::Human, json: false };
        assert_eq!(run(&arguments, &mut Vec::new()).unwrap_err().exit, Exit::Unjudged);
    }

    #[test]
    fn junit_shows_each_test_and_escapes_what_the_file_says() {
        let text = failing().replace("name = \"t\"", "name = \"<t> & \\\"u\\\"\"");
        let (said, exit) = ran(&text, Format::Junit, &[]);
        assert_eq!(exit, Exit::No);
        let expected = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<testsuites tests=\"1\" failures=\"1\" errors=\"0\">
  <testsuite name=\"&lt;t&gt; &amp; &quot;u&quot; 1\" tests=\"1\" failures=\"1\" errors=\"0\" skipped=\"0\">
    <testcase classname=\"FOLDER/policy.toml\" name=\"allow ghcr.io/a/b:x (policy.toml:7)\" file=\"FOLDER/policy.toml\" line=\"7\">
      <failure message=\"expected allow, got deny; expected tag.denied among the reasons, got tag.not_allowed\" type=\"policy\">expected allow, got deny&#10;expected tag.denied among the reasons, got tag.not_allowed&#10;tag.not_allowed: tag &quot;x&quot; is not pinned (allowed: #.#)</failure>
    </testcase>
  </testsuite>
</testsuites>
";
        assert_eq!(said, expected);
    }

    #[test]
    fn github_gets_one_annotation_for_each_failure() {
        let (said, exit) = ran(&failing(), Format::Github, &[]);
        assert_eq!(exit, Exit::No);
        assert!(
            said.starts_with("::error file=FOLDER/policy.toml,line=7,title=allow ghcr.io/a/b%3Ax::expected allow, got deny%0Aexpected tag.denied"),
            "{said}"
        );
        assert_eq!(said.lines().count(), 2);
    }
}
