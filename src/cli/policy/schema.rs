//! `pullgate policy schema`: the policy file's keys, for editors.

use std::io::{self, Write};

use super::{Exit, Failure};
use crate::settings::policy;

/// Prints the JSON Schema (2020-12) of the policy file, for editors that complete and check TOML.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pullgate policy schema > policy.schema.json
  then, as the first line of policy.toml:  #:schema ./policy.schema.json

Exit status: 0 printed.")]
pub(super) struct Arguments {}

/// Runs the command.
pub(super) fn run(_: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let schema = serde_json::to_string_pretty(&policy::schema()).map_err(io::Error::other)?;
    writeln!(out, "{schema}")?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_a_schema_with_every_table() {
        let mut out = Vec::new();
        assert_eq!(run(&Arguments {}, &mut out).unwrap(), Exit::Done);
        let schema: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["properties"]["source"]["items"]["required"][0], "id");
    }
}
