//! `pullgate check`: what the policy says of images, without a gateway.

mod files;
mod fix;
mod images;
mod judge;
mod report;
mod sarif;
mod tree;

use std::io::Write;
use std::path::PathBuf;

use super::{Exit, Failure};
use crate::settings::{gateway, policy};

pub(super) use images::{checks, colour, reason};

/// Judges image references by a policy file, offline: no registry and no gateway is asked.
///
/// IMAGE… judges references themselves. --files PATH… finds them in Dockerfiles, compose files,
/// Kubernetes manifests, kustomizations, Helm values and charts, and workflow files; folders are walked
/// as git sees them.
///
/// What takes facts (a manifest's content, whether a tag moved) is listed under "needs" and counts as
/// passed. A digest counts as one that no tag leads to, unless --config names a gateway that knows better.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate check --policy config/policy.toml docker.io/library/python:3.11
  pullgate check --client ci --json ghcr.io/acme/app:v1.2.3 | jq -r .verdict
  pullgate check --files .                      every reference in this folder, with file, line and column
  pullgate check --files Dockerfile deploy/     some files and folders
  helm template chart | pullgate check --files -
  pullgate check --files . --format sarif > pullgate.sarif    for code scanning
  pullgate check --files . --format github      annotations in a GitHub workflow
  pullgate check --config config/pullgate.toml --files . --fix --dry-run
                                                pin tags to the digests that gateway serves; shows only

Exit status: 0 all allowed, 1 some refused, 2 some cannot be judged (a bad file, a malformed name).
References that a file leaves open (templates, variables without a default) are listed and leave the exit
status, unless --strict is given.")]
pub(super) struct Arguments {
    /// The policy file; without it the one that --config names, or config/policy.toml
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,

    /// A gateway's configuration: what its data folder knows of tags and digests is used, read-only
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How results are written
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "human")]
    format: Format,

    /// The same as --format json: one JSON object a line and image, with every check
    #[arg(long, conflicts_with = "format")]
    json: bool,

    /// Judge as this [[client]]; without it as a client that no table names
    #[arg(long, value_name = "NAME")]
    client: Option<String>,

    /// Files and folders to find references in; - is standard input
    #[arg(long, value_name = "PATH", num_args = 1.., conflicts_with = "images")]
    files: Vec<PathBuf>,

    /// Only what is not allowed
    #[arg(long, short)]
    quiet: bool,

    /// What a file leaves open (templates, variables without a default) cannot be judged: exit status 2
    #[arg(long)]
    strict: bool,

    /// Write the digests that the gateway of --config serves behind the tags that lead to them
    #[arg(long, requires = "config")]
    fix: bool,

    /// Only show what --fix would write
    #[arg(long, requires = "fix")]
    dry_run: bool,

    /// Images: [registry/]repository[:tag][@digest]
    #[arg(required_unless_present = "files", value_name = "IMAGE")]
    images: Vec<String>,
}

/// How results are written.
#[derive(Clone, Copy, Debug, Eq, PartialEq, clap::ValueEnum)]
enum Format {
    /// Annotations of a GitHub workflow (files only)
    Github,
    /// A line each, for people
    Human,
    /// One JSON object a line
    Json,
    /// SARIF 2.1.0 (files only)
    Sarif,
}

/// Why these arguments do not go together.
#[derive(Debug, thiserror::Error)]
enum Usage {
    #[error("{0} is for references in files: name some with --files")]
    FilesOnly(&'static str),
    #[error(
        "--fix speaks to people or programs: use it with --format human or json, then run the check again"
    )]
    Fix,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let format = if arguments.json { Format::Json } else { arguments.format };
    let for_files = [
        (format == Format::Github, "--format github"),
        (format == Format::Sarif, "--format sarif"),
        (arguments.fix, "--fix"),
        (arguments.quiet, "--quiet"),
        (arguments.strict, "--strict"),
    ];
    if let Some((_, option)) = for_files.iter().find(|(given, _)| *given && arguments.files.is_empty()) {
        return Err(Failure::usage(Usage::FilesOnly(option)));
    }
    if arguments.fix && matches!(format, Format::Github | Format::Sarif) {
        return Err(Failure::usage(Usage::Fix));
    }
    let settings = arguments.config.as_deref().map(gateway::load).transpose().map_err(Failure::unjudged)?;
    let path = match (&arguments.policy, &settings) {
        (Some(path), _) => path.clone(),
        (None, Some(settings)) => settings.policy.file.clone(),
        (None, None) => policy::DEFAULT_PATH.into(),
    };
    let policy = match &settings {
        Some(settings) => {
            let clients = settings.client_names();
            policy::load_for(&path, &clients)
        }
        None => policy::load(&path),
    };
    let policy = policy.map_err(Failure::unjudged)?;
    let judge = judge::Judge::new(policy, arguments.client.as_deref());
    let folder = settings.as_ref().map(|settings| settings.storage.path.as_path());
    if arguments.files.is_empty() {
        images::run(&arguments.images, judge, folder, format == Format::Json, out)
    } else {
        files::run(arguments, format, judge, folder, out)
    }
}

/// One that cannot be judged outweighs one that is refused.
fn worse(one: Exit, other: Exit) -> Exit {
    if other.code() > one.code() { other } else { one }
}

#[cfg(test)]
mod tests;
