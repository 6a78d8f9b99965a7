//! `pullgate policy …`: work on the policy file.

mod annotate;
mod coverage;
mod diff;
mod explain;
mod given;
mod lint;
mod replay;
mod schema;
mod test;

use std::io::Write;

use super::{Exit, Failure};

/// Works on the policy file before it is rolled out: lint, test, explain, compare, replay.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate policy lint --strict                                what was probably not meant
  pullgate policy test --format junit > policy-tests.xml       its [[test]] tables, for CI
  pullgate policy explain docker.io/library/python:3.11        why, check by check
  pullgate policy diff config/policy.toml policy-next.toml     what becomes allowed, what refused
  pullgate policy replay --since 30d --policy policy-next.toml whose pulls would have changed
  pullgate policy coverage --since 90d                         what nobody needed
  pullgate policy schema > policy.schema.json                  for editors")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Coverage(coverage::Arguments),
    Diff(diff::Arguments),
    Explain(explain::Arguments),
    Lint(lint::Arguments),
    Replay(replay::Arguments),
    Schema(schema::Arguments),
    Test(test::Arguments),
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::Coverage(arguments) => coverage::run(arguments, out),
        Command::Diff(arguments) => diff::run(arguments, out),
        Command::Explain(arguments) => explain::run(arguments, out),
        Command::Lint(arguments) => lint::run(arguments, out),
        Command::Replay(arguments) => replay::run(arguments, out),
        Command::Schema(arguments) => schema::run(arguments, out),
        Command::Test(arguments) => test::run(arguments, out),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: super::Arguments,
    }

    #[test]
    fn every_command_on_the_policy_shows_an_example() {
        let mut command = Cli::command();
        command.build();
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let help = sub.clone().render_long_help().to_string();
            assert!(help.contains("Example"), "{help}");
            assert!(help.contains("Exit status"), "{help}");
        }
    }
}
