//! The policy file.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;

use super::diagnostic::{FileError, Problem};
use crate::oci::{Digest, Reference};
use crate::policy::{
    Code, Digests, Given, Help, Leaves, Match, Mode, Modes, Moved, Pattern, Pin, Policy, PolicyTest, Rules,
    SourceRule, Verdict, Written,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    revision: String,
    #[serde(default)]
    mode: Option<String>,
    #[serde(default)]
    unlisted: Vec<String>,
    #[serde(default)]
    help: RawHelp,
    #[serde(default)]
    require: RawLeaves,
    #[serde(default)]
    source: Vec<RawSource>,
    #[serde(default)]
    pin: Vec<RawPin>,
    #[serde(default)]
    test: Vec<RawTest>,
}

#[derive(Default, Deserialize)]
struct RawHelp {
    contact: Option<String>,
    url: Option<String>,
}

#[derive(Default, Deserialize)]
struct RawTags {
    allow: Option<Vec<String>>,
    deny: Option<Vec<String>>,
    moved: Option<String>,
}

#[derive(Default, Deserialize)]
struct RawLeaves {
    #[serde(default)]
    tags: RawTags,
    digests: Option<String>,
    mode: Option<String>,
    clients: Option<Vec<String>>,
    #[serde(default)]
    modes: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawSource {
    id: String,
    #[serde(rename = "match")]
    pattern: String,
    #[serde(default)]
    tags: RawTags,
    digests: Option<String>,
    mode: Option<String>,
    clients: Option<Vec<String>>,
    #[serde(default)]
    modes: std::collections::BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct RawPin {
    image: String,
    digest: Digest,
}

#[derive(Deserialize)]
struct RawTest {
    pull: String,
    expect: String,
    #[serde(default)]
    because: Vec<String>,
}

/// Reads a policy file.
pub fn load(path: &Path) -> Result<Policy, FileError> {
    let text = std::fs::read_to_string(path).map_err(|error| FileError::unreadable(path, error))?;
    parse(&text).map_err(|message| FileError::invalid(path, &text, vec![Problem::new(None, message)]))
}

fn written<T>(value: T) -> Written<T> {
    Written { value, at: "policy.toml".into() }
}

fn mode(word: &str) -> Result<Mode, String> {
    Mode::ALL.into_iter().find(|mode| mode.as_str() == word).ok_or_else(|| format!("no mode {word}"))
}

fn leaves(raw: RawLeaves) -> Result<Leaves, String> {
    let patterns = |list: Option<Vec<String>>| -> Result<Option<Written<Vec<Pattern>>>, String> {
        let Some(list) = list else { return Ok(None) };
        Ok(Some(written(list.iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>()?)))
    };
    let mut modes = Modes::default();
    for (key, word) in &raw.modes {
        let mode = Some(mode(word)?);
        match key.as_str() {
            "digest" => modes.digest = mode,
            "media" => modes.media = mode,
            "tag" => modes.tag = mode,
            "tag.moved" => modes.tag_moved = mode,
            _ => return Err(format!("no check {key}")),
        }
    }
    Ok(Leaves {
        allow: patterns(raw.tags.allow)?,
        deny: patterns(raw.tags.deny)?,
        clients: raw.clients.map(|list| written(list.into_iter().map(Arc::from).collect())),
        digests: raw
            .digests
            .map(|word| Digests::ALL.into_iter().find(|d| d.as_str() == word).ok_or("digests"))
            .transpose()?
            .map(written),
        mode: raw.mode.as_deref().map(mode).transpose()?,
        modes,
        moved: raw
            .tags
            .moved
            .map(|word| Moved::ALL.into_iter().find(|d| d.as_str() == word).ok_or("moved"))
            .transpose()?
            .map(written),
    })
}

fn parse(text: &str) -> Result<Policy, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    let source = |raw: RawSource| -> Result<SourceRule, String> {
        let RawSource { id, pattern, tags, digests, mode, clients, modes } = raw;
        Ok(SourceRule {
            id: id.into(),
            pattern: Match::parse(&pattern)?,
            leaves: leaves(RawLeaves { tags, digests, mode, clients, modes })?,
            at: "policy.toml".into(),
        })
    };
    let pin = |raw: RawPin| -> Result<Pin, String> {
        let reference: Reference = raw.image.parse().map_err(|e: crate::oci::NameError| e.to_string())?;
        Ok(Pin { name: reference.name, tag: reference.tag, digest: raw.digest, at: "policy.toml".into() })
    };
    let test = |raw: RawTest| -> Result<PolicyTest, String> {
        Ok(PolicyTest {
            pull: raw.pull.parse().map_err(|e: crate::oci::NameError| e.to_string())?,
            expect: if raw.expect == "deny" { Verdict::Deny } else { Verdict::Allow },
            because: raw.because.iter().filter_map(|word| Code::parse(word)).collect(),
            facts: Given::default(),
            client: None,
            time: None,
            at: "policy.toml".into(),
        })
    };
    let rules = Rules {
        name: file.name.into(),
        revision: file.revision.into(),
        sha256: Digest::sha256(text.as_bytes()),
        mode: file.mode.as_deref().map(mode).transpose()?.unwrap_or_default(),
        unlisted: file
            .unlisted
            .iter()
            .map(|r| r.parse().map_err(|e: crate::oci::NameError| e.to_string()))
            .collect::<Result<_, _>>()?,
        help: Help { contact: file.help.contact, url: file.help.url },
        require: leaves(file.require)?,
        sources: file.source.into_iter().map(source).collect::<Result<_, _>>()?,
        pins: file.pin.into_iter().map(pin).collect::<Result<_, _>>()?,
        tests: file.test.into_iter().map(test).collect::<Result<_, _>>()?,
    };
    Policy::new(rules).map_err(|invalid| invalid.to_string())
}
