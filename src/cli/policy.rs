//! `pullgate policy …`: work on the policy file.

use std::io::Write;
use std::path::PathBuf;

use owo_colors::OwoColorize as _;
use serde_json::json;

use super::{Exit, Failure, check};
use crate::clock::Clock;
use crate::settings::policy;

/// Works on the policy file, offline.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate policy test --policy config/policy.toml")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Test(Test),
}

/// Runs the [[test]] tables of a policy file, offline.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate policy test
  pullgate policy test --policy policy-next.toml --json | jq -r 'select(.result == \"failed\") | .at'

Exit status: 0 all passed, 1 some failed, 2 the file is bad.")]
struct Test {
    /// The policy file
    #[arg(long, value_name = "FILE", default_value = policy::DEFAULT_PATH)]
    policy: PathBuf,

    /// One JSON object a line and test
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::Test(arguments) => test(arguments, out),
    }
}

fn test(arguments: &Test, out: &mut dyn Write) -> Result<Exit, Failure> {
    let policy = policy::load(&arguments.policy).map_err(Failure::unjudged)?;
    let now = Clock::system().now();
    let mut failed = 0;
    for test in policy.tests() {
        let result = policy.run(test, now);
        let passed = result.differences.is_empty();
        failed += usize::from(!passed);
        if arguments.json {
            let object = json!({
                "at": test.at,
                "pull": test.pull.to_string(),
                "expect": test.expect.as_str(),
                "verdict": result.offline.verdict.as_str(),
                "result": if passed { "ok" } else { "failed" },
                "differences": result.differences,
                "reasons": result.offline.reasons.iter().map(check::reason).collect::<Vec<_>>(),
            });
            writeln!(out, "{object}")?;
            continue;
        }
        let word = if passed { "ok     ".green().to_string() } else { "FAILED ".red().bold().to_string() };
        writeln!(out, "{word} {}  {}  {}", test.at, test.expect.as_str(), test.pull)?;
        for difference in &result.differences {
            writeln!(out, "        {difference}")?;
        }
        if !passed {
            for reason in &result.offline.reasons {
                writeln!(out, "        {}: {}", reason.code, reason.text)?;
            }
        }
    }
    if !arguments.json {
        let all = policy.tests().len();
        writeln!(out, "{all} tests, {} passed, {failed} failed", all - failed)?;
    }
    Ok(if failed == 0 { Exit::Done } else { Exit::No })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tests_of(text: &str, json: bool) -> (String, Exit) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("policy.toml");
        std::fs::write(&file, text).unwrap();
        let mut out = anstream::StripStream::new(Vec::new());
        let exit = test(&Test { policy: file, json }, &mut out).unwrap();
        (String::from_utf8(out.into_inner()).unwrap(), exit)
    }

    const RULES: &str = "name = \"t\"\nrevision = \"1\"\n[[source]]\nid = \"a\"\nmatch = \"ghcr.io/a/*\"\ntags = { allow = [\"#.#\"], moved = \"deny\" }\n";

    #[test]
    fn the_shipped_policy_passes_its_own_tests() {
        let (said, exit) = tests_of(include_str!("../../config/policy.toml"), false);
        assert!(said.ends_with(" passed, 0 failed\n") && !said.starts_with('0'), "{said}");
        assert_eq!(exit, Exit::Done);
    }

    #[test]
    fn every_rule_and_every_known_way_round_it_has_a_test_in_the_example() {
        let text = include_str!("../../config/policy-example.toml");
        let (said, exit) = tests_of(text, false);
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
        let text = format!(
            "{RULES}[[test]]\npull = \"ghcr.io/a/b:x\"\nexpect = \"allow\"\nbecause = [\"tag.denied\"]\n"
        );
        let (said, exit) = tests_of(&text, false);
        assert!(said.starts_with("FAILED  policy.toml:7  allow  ghcr.io/a/b:x\n        expected allow, got deny\n        expected tag.denied among the reasons, got tag.not_allowed\n"), "{said}");
        assert_eq!(exit, Exit::No);
        let (said, exit) = tests_of(&text, true);
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
        let (said, exit) = tests_of(&text, false);
        assert_eq!((said.lines().last(), exit), (Some("2 tests, 2 passed, 0 failed"), Exit::Done));
    }
}
