//! `pullgate policy lint`: mistakes, contradictions, and what was probably not meant.

use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use owo_colors::OwoColorize as _;
use serde_json::json;

use super::annotate::{github, line};
use super::{Exit, Failure};
use crate::audit::{printable, printable_json};
use crate::clock::Clock;
use crate::policy::{Finding, Level, Lint, Surroundings};
use crate::settings::diagnostic::{FileError, line_of};
use crate::settings::gateway;
use crate::settings::policy::{self, Unsound};

/// Finds what is wrong in a policy file, and what is allowed but was probably not meant.
///
/// Every kind of finding is explained in docs/policy.md under `lint-` and its word.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate policy lint
  pullgate policy lint --policy policy-next.toml --config config/pullgate.toml --strict
  pullgate policy lint --strict --accept require_loosened --accept multi_tenant_host
  pullgate policy lint --format github     in a GitHub workflow: findings stand beside their line

Exit status: 0 nothing found, or warnings alone; 1 errors, with --strict also warnings; 2 a file cannot
be read.")]
pub(super) struct Arguments {
    /// The policy file
    #[arg(long, value_name = "FILE", default_value = policy::DEFAULT_PATH)]
    policy: PathBuf,

    /// The gateway's configuration: with it clients and credentials are looked at too
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Warnings end with 1 too
    #[arg(long)]
    strict: bool,

    /// Say nothing of this kind of warning; may be given several times
    #[arg(long, value_name = "WORD", value_parser = acceptable)]
    accept: Vec<Lint>,

    /// How findings are printed
    #[arg(long, value_enum, default_value_t = Format::Human)]
    format: Format,

    /// The same as --format json: one JSON object a line and finding
    #[arg(long, conflicts_with = "format")]
    json: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Format {
    /// GitHub's workflow commands, one for each finding
    Github,
    /// For people
    Human,
    /// One object a line and finding
    Json,
}

/// A warning's word: what the gateway would not load cannot be accepted.
fn acceptable(word: &str) -> Result<Lint, String> {
    match Lint::parse(word) {
        Some(lint) if lint.level() == Level::Warning => Ok(lint),
        Some(_) => Err("an error cannot be accepted".to_owned()),
        None => {
            let known = Lint::ALL.into_iter().filter(|lint| lint.level() == Level::Warning);
            let known: Vec<&str> = known.map(Lint::as_str).collect();
            Err(format!("expected one of {}", known.join(", ")))
        }
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    judge(arguments, Clock::system().now(), out)
}

fn judge(arguments: &Arguments, now: Timestamp, out: &mut dyn Write) -> Result<Exit, Failure> {
    let surroundings = arguments.config.as_deref().map(surroundings).transpose()?;
    let (mut findings, text) = match policy::open(&arguments.policy) {
        Ok(work) => (work.policy.findings(&work.rules, surroundings.as_ref(), now), work.text),
        Err(Unsound::Missing(error)) => return Err(Failure::unjudged(*error)),
        Err(Unsound::Conflict(error, text)) => (broken(Lint::Conflict, &error, &text), text),
        Err(Unsound::Schema(error, text)) => (broken(Lint::Schema, &error, &text), text),
    };
    findings.retain(|finding| !arguments.accept.contains(&finding.lint));
    let format = if arguments.json { Format::Json } else { arguments.format };
    for finding in &findings {
        match format {
            Format::Github => writeln!(out, "{}", annotation(&arguments.policy, finding))?,
            Format::Human => print(finding, &text, out)?,
            Format::Json => writeln!(out, "{}", object(&arguments.policy, finding))?,
        }
    }
    let of = |level| findings.iter().filter(|finding| finding.lint.level() == level).count();
    let (errors, warnings) = (of(Level::Error), of(Level::Warning));
    if format == Format::Human {
        writeln!(out, "{errors} errors, {warnings} warnings")?;
    }
    Ok(if errors > 0 || arguments.strict && warnings > 0 { Exit::No } else { Exit::Done })
}

fn surroundings(config: &Path) -> Result<Surroundings, Failure> {
    Ok(gateway::load(config).map_err(Failure::unjudged)?.surroundings())
}

/// What the reader says, as findings.
fn broken(lint: Lint, error: &FileError, text: &str) -> Vec<Finding> {
    let file = error.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let finding = |problem: &crate::settings::diagnostic::Problem| Finding {
        lint,
        at: match &problem.span {
            Some(span) => format!("{file}:{}", line_of(text, span.start)).into(),
            None => file.as_str().into(),
        },
        what: problem.message.clone(),
        remedy: problem.help.clone().unwrap_or_else(|| "correct the line".to_owned()),
    };
    error.problems().iter().map(finding).collect()
}

fn print(finding: &Finding, text: &str, out: &mut dyn Write) -> std::io::Result<()> {
    let level = match finding.lint.level() {
        Level::Error => "error".red().bold().to_string(),
        Level::Warning => "warning".yellow().to_string(),
    };
    writeln!(out, "{}  {level} {}  {}", finding.at, finding.lint.as_str().bold(), printable(&finding.what))?;
    if let Some(line) = line(&finding.at)
        && let Some(words) = text.lines().nth(line.saturating_sub(1))
    {
        writeln!(out, "        {} {}", format!("{line} │").dimmed(), printable(words.trim_end()))?;
    }
    writeln!(out, "        why: {}", finding.lint.why())?;
    writeln!(out, "        do:  {}", printable(&finding.remedy))
}

fn annotation(file: &Path, finding: &Finding) -> String {
    let message = format!("{}\n{}; {}", finding.what, finding.lint.why(), finding.remedy);
    let title = format!("{} {}", finding.lint.level().as_str(), finding.lint.as_str());
    github(finding.lint.level().as_str(), file, &finding.at, &title, &message)
}

fn object(file: &Path, finding: &Finding) -> String {
    let object = json!({
        "lint": finding.lint.as_str(),
        "level": finding.lint.level().as_str(),
        "file": file.display().to_string(),
        "at": finding.at,
        "line": line(&finding.at),
        "what": finding.what,
        "why": finding.lint.why(),
        "do": finding.remedy,
        "help": format!("docs/policy.md#lint-{}", finding.lint.as_str()),
    });
    printable_json(object.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = \"t\"\nrevision = \"1\"\n";

    fn said(text: &str, config: Option<&str>, change: impl Fn(&mut Arguments)) -> (String, Exit) {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.toml");
        std::fs::write(&policy, text).unwrap();
        let config = config.map(|text| {
            let path = folder.path().join("pullgate.toml");
            std::fs::write(&path, text).unwrap();
            path
        });
        let mut arguments = Arguments {
            policy,
            config,
            strict: false,
            accept: Vec::new(),
            format: Format::Json,
            json: false,
        };
        change(&mut arguments);
        let mut out = anstream::StripStream::new(Vec::new());
        let exit = judge(&arguments, "2026-11-23T00:00:00Z".parse().unwrap(), &mut out).unwrap();
        let said = String::from_utf8(out.into_inner()).unwrap();
        (said.replace(&folder.path().display().to_string(), "FOLDER"), exit)
    }

    /// `word@line` of each finding.
    fn words(said: &str) -> Vec<String> {
        said.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|object| format!("{}@{}", object["lint"].as_str().unwrap(), object["line"]))
            .collect()
    }

    fn found(rules: &str, config: Option<&str>) -> Vec<String> {
        words(&said(&format!("{HEAD}{rules}"), config, |_| {}).0)
    }

    #[test]
    fn the_shipped_policy_has_no_errors_and_says_of_itself_what_it_loosens() {
        let shipped = include_str!("../../../config/policy.toml");
        let (output, exit) = said(shipped, None, |_| {});
        let mut kinds: Vec<String> =
            words(&output).iter().map(|word| word.split('@').next().unwrap().to_owned()).collect();
        kinds.dedup();
        assert!(kinds.contains(&"multi_tenant_host".to_owned()), "{output}");
        assert!(kinds.contains(&"require_loosened".to_owned()), "{output}");
        assert!(!kinds.contains(&"source_without_test".to_owned()), "{output}");
        assert_eq!(exit, Exit::Done);
        let (_, exit) = said(shipped, None, |arguments| arguments.strict = true);
        assert_eq!(exit, Exit::No);
    }

    #[test]
    fn each_kind_of_warning_is_found_at_its_line() {
        let test = "[[test]]\npull = \"ghcr.io/a/b:1\"\nexpect = \"deny\"\n";
        let source = "[[source]]\nid = \"a\"\nmatch = \"ghcr.io/a/*\"\n";
        assert_eq!(found(&format!("{source}{test}"), None), Vec::<String>::new());
        assert_eq!(found(source, None), ["source_without_test@3"]);
        let wide = source.replace("ghcr.io/a/*", "ghcr.io/**");
        assert_eq!(found(&format!("{wide}{test}"), None), ["multi_tenant_host@3"]);
        let dead = format!("{source}tags = {{ allow = [\"latest\"], deny = [\"latest\"] }}\n{test}");
        assert_eq!(found(&dead, None), ["allow_denied@6"]);
        let pin = format!(
            "{source}tags = {{ deny = [\"latest\"] }}\n{test}[[pin]]\nimage = \"ghcr.io/a/b:latest\"\ndigest = \"sha256:{}\"\n",
            "1".repeat(64)
        );
        assert_eq!(found(&pin, None), ["pin_denied@10"]);
        let unversioned = "[[source]]\nid = \"d\"\nmatch = \"gcr.io/distroless/*\"\ntags = { allow = [\"#.#\"] }\n[[test]]\npull = \"gcr.io/distroless/static:1\"\nexpect = \"deny\"\n";
        assert_eq!(found(unversioned, None), ["no_version_tags@6"]);
        assert_eq!(found(&unversioned.replace("\"#.#\"", ""), None), Vec::<String>::new());
    }

    #[test]
    fn content_rules_that_refuse_what_nobody_meant_are_found() {
        let official = "[[source]]\nid = \"a\"\nmatch = \"docker.io/library/*\"\nuser = { min_uid = 10001 }\n[[test]]\npull = \"python:1\"\nexpect = \"deny\"\n";
        assert_eq!(found(official, None), ["user_on_official@6"]);
        let aged = "[[source]]\nid = \"a\"\nmatch = \"gcr.io/distroless/*\"\nage = { max = \"45d\", clock = [\"config\"] }\n[[test]]\npull = \"gcr.io/distroless/a:1\"\nexpect = \"deny\"\n";
        assert_eq!(found(aged, None), ["age_on_1970@6"]);
        let other = aged.replace("\"config\"", "\"config\", \"first_seen\"");
        assert_eq!(found(&other, None), Vec::<String>::new());
        let counted = other.replace("clock =", "ignore_before = \"1970-01-01\", clock =");
        assert_eq!(found(&counted, None), ["age_on_1970@6"]);
    }

    #[test]
    fn an_exception_is_warned_of_fourteen_days_before_it_ends() {
        let rules = "[[source]]\nid = \"a\"\nmatch = \"ghcr.io/a/*\"\n[[test]]\npull = \"ghcr.io/a/b:1\"\nexpect = \"deny\"\n\
            [[exception]]\nid = \"E\"\nimage = \"ghcr.io/a/b:1\"\nwaive = [\"tag\"]\nreason = \"r\"\nticket = \"T\"\n\
            requested_by = \"x\"\napproved_by = \"y\"\napproved = 2026-10-01\nexpires = ";
        // The clock of these tests stands at the first moment of 2026-11-23.
        assert_eq!(found(&format!("{rules}2026-12-07\n"), None), Vec::<String>::new());
        assert_eq!(found(&format!("{rules}2026-12-06\n"), None), ["exception_expiring@9"]);
        let (output, _) = said(&format!("{HEAD}{rules}2026-11-22\n"), None, |_| {});
        assert!(output.contains("expired on 2026-11-22"), "{output}");
    }

    #[test]
    fn a_source_that_demands_less_than_require_is_named_key_by_key() {
        let rules = "[require]\nclients = [\"a\"]\ndigests = \"known\"\ntags = { allow = [\"#.#.#\"], deny = [\"latest\"], moved = \"keep\" }\n\
            [[source]]\nid = \"a\"\nmatch = \"ghcr.io/a/*\"\nclients = [\"a\", \"b\"]\ndigests = \"any\"\nmode = \"warn\"\n\
            tags = { allow = [\"1.#.#\", \"#.#\"], deny = [], moved = \"follow\" }\n\
            [[test]]\npull = \"ghcr.io/a/b:1\"\nexpect = \"warn\"\n";
        let (output, _) = said(&format!("{HEAD}{rules}"), None, |_| {});
        assert_eq!(
            words(&output),
            [
                "require_loosened@7",
                "require_loosened@10",
                "require_loosened@11",
                "require_loosened@13",
                "require_loosened@13",
                "require_loosened@13"
            ]
        );
        assert!(output.contains("tags.allow has #.#, which"), "{output}");
        let same = rules.replace("[\"a\", \"b\"]", "[\"a\"]").replace("\"any\"", "\"listed\"");
        let same = same.replace("mode = \"warn\"\n", "").replace(", \"#.#\"]", "]");
        let same = same.replace("deny = []", "deny = [\"LATEST\", \"dev\"]").replace("follow", "deny");
        assert_eq!(found(&same, None), Vec::<String>::new());
    }

    #[test]
    fn a_narrower_source_that_lacks_a_check_of_the_broader_one_is_named() {
        let rules = "[[source]]\nid = \"a\"\nmatch = \"ghcr.io/a/*\"\nclients = [\"x\"]\ntags = { deny = [\"latest\"] }\n\
            [[source]]\nid = \"b\"\nmatch = \"ghcr.io/a/b\"\n\
            [[test]]\npull = \"ghcr.io/a/b:1\"\nexpect = \"deny\"\n[[test]]\npull = \"ghcr.io/a/c:1\"\nexpect = \"deny\"\n";
        let (output, _) = said(&format!("{HEAD}{rules}"), None, |_| {});
        assert_eq!(words(&output), ["narrower_drops_check@8"]);
        assert!(output.contains("without its clients, tags.deny"), "{output}");
    }

    #[test]
    fn with_the_configuration_open_credentials_and_unknown_clients_are_found() {
        let config = "[[client]]\nname = \"ci\"\nranges = [\"10.0.0.0/8\"]\n[[upstream]]\nregistry = \"ghcr.io\"\nauth = { username = \"x\", password_env = \"PASSWORD\" }\n";
        let rules = "[[source]]\nid = \"a\"\nmatch = \"ghcr.io/a/*\"\n[[source]]\nid = \"b\"\nmatch = \"quay.io/b/*\"\nclients = [\"cl\"]\n\
            [[test]]\npull = \"ghcr.io/a/b:1\"\nexpect = \"deny\"\n[[test]]\npull = \"quay.io/b/b:1\"\nexpect = \"deny\"\nclient = \"ci\"\n";
        assert_eq!(found(rules, Some(config)), ["upstream_credentials_open@3", "client_unknown@9"]);
        let text = format!("{HEAD}{rules}");
        assert_eq!(said(&text, Some(config), |_| {}).1, Exit::No);
        assert_eq!(said(&text, None, |_| {}), (String::new(), Exit::Done));
    }

    #[test]
    fn mistakes_and_contradictions_are_errors_that_show_the_line() {
        let tie = "[[source]]\nid = \"a\"\nmatch = \"ghcr.io/*/b\"\n[[source]]\nid = \"c\"\nmatch = \"ghcr.io/a/*\"\n";
        let (output, exit) =
            said(&format!("{HEAD}{tie}"), None, |arguments| arguments.format = Format::Human);
        assert!(output.starts_with("policy.toml:6  error conflict  "), "{output}");
        assert!(output.contains("        6 │ [[source]]\n"), "{output}");
        assert_eq!(exit, Exit::No);
        let (output, exit) = said("name = 1\n\"\\u001b[2Jcolour\" = 2\n", None, |_| {});
        assert_eq!(words(&output).len(), 3, "{output}");
        assert!(!output.contains('\u{1b}') && exit == Exit::No);
        let human = |arguments: &mut Arguments| arguments.format = Format::Human;
        let (output, _) = said("name = 1\n\"\\u001b[2Jcolour\" = 2\n", None, human);
        assert!(!output.contains('\u{1b}'), "{output:?}");
    }

    #[test]
    fn what_is_accepted_is_not_said_and_an_error_cannot_be() {
        let rules = format!("{HEAD}[[source]]\nid = \"a\"\nmatch = \"ghcr.io/**\"\n");
        let (output, exit) = said(&rules, None, |arguments| {
            arguments.strict = true;
            arguments.accept = vec![Lint::MultiTenantHost, Lint::SourceWithoutTest];
        });
        assert_eq!((output.as_str(), exit), ("", Exit::Done));
        assert_eq!(acceptable("multi_tenant_host"), Ok(Lint::MultiTenantHost));
        assert!(acceptable("schema").is_err() && acceptable("x").unwrap_err().contains("no_version_tags"));
    }

    #[test]
    fn github_gets_one_annotation_for_each_finding() {
        let (output, _) =
            said(&format!("{HEAD}[[source]]\nid = \"a\"\nmatch = \"ghcr.io/a/*\"\n"), None, |arguments| {
                arguments.format = Format::Github;
            });
        assert!(
            output.starts_with("::warning file=FOLDER/policy.toml,line=3,title=warning source_without_test::no [[test]] pulls"),
            "{output}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_ends_with_2() {
        let arguments = Arguments {
            policy: "no/such.toml".into(),
            config: None,
            strict: false,
            accept: Vec::new(),
            format: Format::Human,
            json: false,
        };
        assert_eq!(run(&arguments, &mut Vec::new()).unwrap_err().exit, Exit::Unjudged);
    }

    #[test]
    fn every_kind_is_explained_in_the_docs_under_its_anchor() {
        let page = include_str!("../../../docs/policy.md");
        for lint in Lint::ALL {
            let heading = format!("<a id=\"lint-{}\"></a>", lint.as_str());
            assert!(page.contains(&heading), "docs/policy.md lacks {heading}");
        }
    }
}
