//! The command line: one file a command; arguments, printing and exit codes, no logic of its own.

mod annotation;
mod check;
mod completions;
mod control;
mod demo;
mod health;
mod init;
mod log;
mod pin;
mod policy;
mod recall;
pub mod serve;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use miette::{Diagnostic, Report};

/// How a command ends. The numbers are a contract: scripts go by them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Exit {
    /// 0: done; the answer is yes.
    Done,
    /// 1: done; the answer is no: an image is refused, the gateway is not ready, a test failed.
    No,
    /// 2: it cannot be judged: wrong usage, a bad file, a malformed name.
    Unjudged,
    /// 70: the gateway or the machine failed: a port is taken, the disk is full, a bug.
    Internal,
    /// 141: whoever read the output went away, as a shell says of a program that SIGPIPE ended.
    Unread,
}

impl Exit {
    /// The process's exit status.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::No => 1,
            Self::Unjudged => 2,
            Self::Internal => 70,
            Self::Unread => 141,
        }
    }
}

/// Why a command ended early, and what is printed about it.
#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    report: Option<Report>,
}

impl Failure {
    /// What the person gave cannot be judged: exit 2.
    pub(crate) fn unjudged(error: impl Diagnostic + Send + Sync + 'static) -> Self {
        Self { exit: Exit::Unjudged, report: Some(Report::new(error)) }
    }

    /// The same for an error without a place in a file.
    pub(crate) fn usage(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { exit: Exit::Unjudged, report: Some(report(error)) }
    }

    /// The answer is no: exit 1.
    pub(crate) fn no(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { exit: Exit::No, report: Some(report(error)) }
    }

    /// The gateway or the machine failed: exit 70.
    pub(crate) fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self { exit: Exit::Internal, report: Some(report(error)) }
    }
}

/// A plain error with its causes.
fn report(error: impl std::error::Error + Send + Sync + 'static) -> Report {
    use miette::IntoDiagnostic;
    match Err::<(), _>(error).into_diagnostic() {
        Err(report) => report,
        Ok(()) => Report::msg("failed"),
    }
}

/// Printing failed.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self { exit: Exit::Unread, report: None },
            _ => Self::internal(error),
        }
    }
}

/// An OCI pull gateway: only what policy permits is pulled, once, verified and recorded.
///
/// Container runtimes pull through it instead of from registries. It refuses what the policy does not
/// allow and says why, keeps one verified copy of what it does allow, and writes down every refusal.
#[derive(Debug, Parser)]
#[command(name = "pullgate", version, arg_required_else_help = true, after_long_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  See a pull, a refusal and its record in seconds, without a network:
      pullgate demo

  Start the gateway with config/pullgate.toml and config/policy.toml:
      pullgate serve

  What does the policy say of an image?
      pullgate check docker.io/library/python:3.11

  And of the images that the files in this folder name?
      pullgate check --files .

  Read what was blocked in the last hour:
      pullgate log --blocked --since 1h

  Which tags moved since they were locked, and take one over after review:
      pullgate pin list --moved
      pullgate pin accept ghcr.io/acme/app:v1.2.3

  Who pulled what was recalled?
      pullgate recall show RC-2026-004

  Write commented settings, a policy and certificates into a new folder:
      pullgate init gateway --host gateway.example.com

  Ask a running gateway whether it serves (for HEALTHCHECK and load balancers):
      pullgate health --config config/pullgate.toml

  Complete commands in this shell:
      source <(pullgate completions bash)

Exit codes: 0 yes, done · 1 no (refused, not ready) · 2 cannot be judged (usage, a bad file,
a malformed name) · 70 the gateway or the machine failed.

Logs go to standard error; PULLGATE_LOG=debug shows more. Every key: docs/configuration.md";

#[derive(Debug, Subcommand)]
enum Command {
    Check(check::Arguments),
    Completions(completions::Arguments),
    Demo(demo::Arguments),
    Health(health::Arguments),
    Init(init::Arguments),
    Log(log::Arguments),
    Pin(pin::Arguments),
    Policy(policy::Arguments),
    Recall(recall::Arguments),
    Serve(serve::Arguments),
}

/// Runs the command that these arguments name (the first is the program's own) and prints what it
/// has to say.
pub fn run(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    let exit = match Cli::try_parse_from(arguments) {
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Unjudged } else { Exit::Done };
            match error.print() {
                Ok(()) => exit,
                Err(error) => conclude(Err(error.into())),
            }
        }
        Ok(cli) => {
            let mut out = anstream::stdout().lock();
            let result = dispatch(cli.command, &mut out);
            conclude(result.and_then(|exit| Ok(out.flush().map(|()| exit)?)))
        }
    };
    ExitCode::from(exit.code())
}

fn dispatch(command: Command, out: &mut dyn Write) -> Result<Exit, Failure> {
    match command {
        Command::Check(arguments) => check::run(&arguments, out),
        Command::Completions(arguments) => completions::run(&arguments, out),
        Command::Demo(arguments) => demo::run(&arguments, out),
        Command::Health(arguments) => health::run(&arguments, out),
        Command::Init(arguments) => init::run(&arguments, out),
        Command::Log(arguments) => log::run(&arguments, out),
        Command::Pin(arguments) => pin::run(&arguments, out),
        Command::Policy(arguments) => policy::run(&arguments, out),
        Command::Recall(arguments) => recall::run(&arguments, out),
        Command::Serve(arguments) => serve::run(&arguments, out),
    }
}

/// So long the end waits for threads at work on the disk.
const END_MOST: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs a command that waits for something, on a runtime of its own.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(work);
    // A thread whose disk does not answer would hold up the end for ever.
    runtime.shutdown_timeout(END_MOST);
    Ok(done)
}

fn conclude(result: Result<Exit, Failure>) -> Exit {
    match result {
        Ok(exit) => exit,
        Err(Failure { exit, report }) => {
            if let Some(report) = report {
                // Where standard error is gone too, nobody is left to tell.
                let _ = writeln!(anstream::stderr(), "{report:?}");
            }
            exit
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_command_has_an_example() {
        let mut command = Cli::command();
        command.build();
        command.clone().debug_assert();
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            let help = sub.clone().render_long_help().to_string();
            assert!(help.contains("Example"), "{help}");
            assert!(sub.get_about().is_some());
        }
    }

    #[test]
    fn the_documented_exit_codes_are_the_real_ones() {
        let page = include_str!("../../docs/configuration.md").split("## Exit codes").nth(1).unwrap();
        let documented: Vec<u8> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| ")?.split(' ').next()?.parse().ok())
            .collect();
        let all = [Exit::Done, Exit::No, Exit::Unjudged, Exit::Internal, Exit::Unread];
        assert_eq!(documented, all.map(Exit::code));
    }

    #[test]
    fn a_reader_that_went_away_is_no_failure_to_report() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.exit, Exit::Unread);
        assert!(failure.report.is_none());
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::StorageFull)).exit, Exit::Internal);
    }
}
