//! `pullgate completions`: the shell completes commands and options.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Exit, Failure};

/// Print a script with which a shell completes pullgate's commands
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  source <(pullgate completions bash)
  pullgate completions zsh > ~/.zfunc/_pullgate
  pullgate completions fish > ~/.config/fish/completions/pullgate.fish")]
pub(super) struct Arguments {
    /// Which shell
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    // clap_complete panics when its writer fails; a Vec does not.
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "pullgate", &mut script);
    out.write_all(&script)?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shells_script_knows_the_commands() {
        for shell in [Shell::Bash, Shell::Elvish, Shell::Fish, Shell::PowerShell, Shell::Zsh] {
            let mut out = Vec::new();
            run(&Arguments { shell }, &mut out).unwrap();
            assert!(String::from_utf8(out).unwrap().contains("health"), "{shell}");
        }
    }
}
