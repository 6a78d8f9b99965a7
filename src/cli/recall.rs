//! `pullgate recall …`: how far a recall of the policy reaches.

use std::io::{self, Write};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Exit, Failure};
use crate::audit::{Reader, printable};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::gate::{Pulls, RecallReport, ReportError, recall_report};
use crate::policy::{Policy, Recall};
use crate::settings::{gateway, policy};

/// What a gateway cannot know.
const LIMIT: &str = "Running containers are not seen here: whoever pulled it may still run it.";

/// Shows the [[recall]] tables of the policy and how far each reaches.
///
/// What contains the recalled content, who pulled it, whether its replacement is pulled. It reads the
/// catalog and the record, also while the gateway runs, and asks no registry.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate recall list
  pullgate recall show RC-2026-004
  pullgate recall show RC-2026-004 --json | jq -r '.pulled[].client' | sort -u

Exit status: 0 shown, 2 there is no such recall, or a file cannot be read.")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    List(List),
    Show(Show),
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The gateway's configuration, which names the policy and the data folder
    #[arg(long, value_name = "FILE", default_value = gateway::DEFAULT_PATH)]
    config: PathBuf,

    /// JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// Lists the recalls of the policy.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate recall list

Exit status: 0 shown, 2 the policy cannot be read.")]
struct List {
    #[command(flatten)]
    common: Common,
}

/// Shows what contains a recalled content, who pulled it and who pulls the replacement.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate recall show RC-2026-004

Exit status: 0 shown, 2 there is no such recall, or a file cannot be read.")]
struct Show {
    #[command(flatten)]
    common: Common,

    /// The recall's id
    id: String,
}

#[derive(Debug, thiserror::Error)]
#[error("the policy has no recall {0:?}; `pullgate recall list` shows those it has")]
struct Unknown(String);

/// Runs the command.
pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    match &arguments.command {
        Command::List(arguments) => list(arguments, out),
        Command::Show(arguments) => show(arguments, out),
    }
}

fn load(common: &Common) -> Result<(gateway::Gateway, Policy), Failure> {
    let settings = gateway::load(&common.config).map_err(Failure::unjudged)?;
    let clients = settings.client_names();
    let policy = policy::load_for(&settings.policy.file, &clients).map_err(Failure::unjudged)?;
    Ok((settings, policy))
}

fn list(arguments: &List, out: &mut dyn Write) -> Result<Exit, Failure> {
    let (_, policy) = load(&arguments.common)?;
    for recall in policy.recalls() {
        if arguments.common.json {
            writeln!(out, "{}", object(recall))?;
        } else {
            head(recall, out)?;
        }
    }
    if policy.recalls().is_empty() && !arguments.common.json {
        writeln!(out, "the policy recalls nothing")?;
    }
    Ok(Exit::Done)
}

fn show(arguments: &Show, out: &mut dyn Write) -> Result<Exit, Failure> {
    let (settings, policy) = load(&arguments.common)?;
    let recall = policy.recalls().iter().find(|recall| *recall.id == *arguments.id);
    let recall = recall.ok_or_else(|| Failure::usage(Unknown(arguments.id.clone())))?;
    let folder = &settings.storage.path;
    let report = super::block_on(async {
        let catalog = Catalog::open_read_only(folder, Clock::system()).await?;
        let reader = Reader::open(folder).await?;
        let report = recall_report(recall, &catalog, &reader).await;
        catalog.close().await;
        report
    });
    let report: Result<RecallReport, ReportError> = report?;
    let report = report.map_err(Failure::usage)?;
    if arguments.common.json {
        let mut shown = object(recall);
        if let Value::Object(shown) = &mut shown {
            shown.extend(details(&report));
        }
        writeln!(out, "{shown}")?;
    } else {
        print(recall, &report, out)?;
    }
    Ok(Exit::Done)
}

fn object(recall: &Recall) -> Value {
    let texts = |digests: &[crate::oci::Digest]| digests.iter().map(ToString::to_string).collect::<Vec<_>>();
    json!({
        "id": &*recall.id,
        "reason": &*recall.reason,
        "at": &*recall.at,
        "digests": texts(&recall.digests),
        "layers": texts(&recall.layers),
        "diff_ids": texts(&recall.diff_ids),
        "images": images(recall),
        "replace": recall.replace.as_ref().map(ToString::to_string),
    })
}

fn images(recall: &Recall) -> Vec<String> {
    let text = |(name, tag): &(crate::oci::Name, Option<crate::oci::Tag>)| match tag {
        Some(tag) => format!("{name}:{tag}"),
        None => name.to_string(),
    };
    recall.images.iter().map(text).collect()
}

fn details(report: &RecallReport) -> serde_json::Map<String, Value> {
    let pulls = |pulls: &[Pulls]| -> Value {
        let object = |pulls: &Pulls| {
            json!({
                "client": pulls.client, "reference": pulls.reference, "count": pulls.count,
                "first": pulls.first, "last": pulls.last,
            })
        };
        pulls.iter().map(object).collect()
    };
    let holders: Value = report
        .holders
        .iter()
        .map(|holder| {
            json!({
                "image": format!("{}@{}", holder.name, holder.digest),
                "media_type": holder.media_type,
                "tags": holder.tags.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        })
        .collect();
    serde_json::Map::from_iter([
        ("contained_in".to_owned(), holders),
        ("pulled".to_owned(), pulls(&report.pulled)),
        ("refused".to_owned(), pulls(&report.refused)),
        ("replaced".to_owned(), report.replaced.as_deref().map_or(Value::Null, pulls)),
        ("limit".to_owned(), LIMIT.into()),
    ])
}

fn head(recall: &Recall, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}  {}  ({})", recall.id, recall.reason, recall.at)?;
    for (what, digests) in
        [("manifest", &recall.digests), ("layer", &recall.layers), ("diff_id", &recall.diff_ids)]
    {
        for digest in digests {
            writeln!(out, "  recalls {what} {digest}")?;
        }
    }
    for image in images(recall) {
        writeln!(out, "  recalls image {image}")?;
    }
    match &recall.replace {
        Some(replace) => writeln!(out, "  replaced by {replace}"),
        None => Ok(()),
    }
}

fn print(recall: &Recall, report: &RecallReport, out: &mut dyn Write) -> io::Result<()> {
    head(recall, out)?;
    writeln!(out, "\nContained in:")?;
    for holder in &report.holders {
        let tags: Vec<String> = holder.tags.iter().map(ToString::to_string).collect();
        let tags = if tags.is_empty() { String::new() } else { format!("  ({})", tags.join(", ")) };
        writeln!(out, "  {}@{}{tags}", holder.name, holder.digest)?;
    }
    if report.holders.is_empty() {
        writeln!(out, "  nothing that came through this gateway")?;
    }
    print_pulls("Pulled before by:", "nobody, as far as the record goes back", &report.pulled, out)?;
    print_pulls("Asked for and refused:", "nobody", &report.refused, out)?;
    if let Some(replaced) = &report.replaced {
        print_pulls("Replacement pulled by:", "nobody yet", replaced, out)?;
    }
    writeln!(out, "\n{LIMIT}")
}

fn print_pulls(title: &str, none: &str, pulls: &[Pulls], out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\n{title}")?;
    for Pulls { client, reference, count, first, last } in pulls {
        let (client, reference) = (printable(client), printable(reference));
        writeln!(out, "  {client}  {reference}  ×{count}  first {first}  last {last}")?;
    }
    if pulls.is_empty() {
        writeln!(out, "  {none}")?;
    }
    Ok(())
}
