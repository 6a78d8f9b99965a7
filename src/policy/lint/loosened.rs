//! Sources that demand less than `[require]`, or than the broader source they replace.

use std::sync::Arc;

use super::{Finding, Lint};
use crate::policy::{Digests, Leaves, Mode, Moved, Pattern, Rules, Source, SourceRule, samples};

/// What a source writes more loosely than `[require]` does.
pub(super) fn of_require(rules: &Rules, rule: &SourceRule, source: &Source, findings: &mut Vec<Finding>) {
    let (own, require) = (&rule.leaves, &rules.require);
    let mut loosened = |at: &Arc<str>, what: String| {
        findings.push(Finding {
            lint: Lint::RequireLoosened,
            at: at.clone(),
            what: format!("the source {}: {what}", rule.id),
            remedy: "if that is meant, say why in a comment; else remove the key".to_owned(),
        });
    };
    if let (Some(own), Some(require)) = (&own.allow, &require.allow) {
        let beyond: Vec<&str> = own
            .value
            .iter()
            .filter(|pattern| !covered(pattern, &require.value))
            .map(Pattern::as_str)
            .collect();
        if !beyond.is_empty() {
            let beyond = beyond.join(", ");
            loosened(
                &own.at,
                format!("tags.allow has {beyond}, which that of [require] ({}) does not", require.at),
            );
        }
    }
    if let (Some(own), Some(require)) = (&own.deny, &require.deny) {
        let same = |one: &Pattern, other: &Pattern| one.as_str().eq_ignore_ascii_case(other.as_str());
        let missing: Vec<&str> = require
            .value
            .iter()
            .filter(|pattern| !own.value.iter().any(|other| same(pattern, other)))
            .map(Pattern::as_str)
            .collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            loosened(&own.at, format!("tags.deny lacks {missing} of [require] ({})", require.at));
        }
    }
    if let (Some(own), Some(require)) = (&own.moved, &require.moved)
        && own.value == Moved::Follow
        && require.value != Moved::Follow
    {
        let (own_word, word) = (own.value.as_str(), require.value.as_str());
        loosened(&own.at, format!("tags.moved is {own_word}; [require] ({}) says {word}", require.at));
    }
    if let (Some(own), Some(require)) = (&own.digests, &require.digests)
        && width(own.value) > width(require.value)
    {
        let (own_word, word) = (own.value.as_str(), require.value.as_str());
        loosened(&own.at, format!("digests is {own_word}; [require] ({}) says {word}", require.at));
    }
    if let (Some(own), Some(require)) = (&own.clients, &require.clients) {
        let more: Vec<&str> =
            own.value.iter().filter(|name| !require.value.contains(name)).map(|name| &**name).collect();
        if !more.is_empty() {
            loosened(&own.at, format!("clients has {}, which those of [require] do not", more.join(", ")));
        }
    }
    if let (Some(own), Some(require)) = (&own.user, &require.user)
        && own.value.min_uid < require.value.min_uid
    {
        let (low, high) = (own.value.min_uid, require.value.min_uid);
        loosened(&own.at, format!("user.min_uid is {low}; [require] ({}) says {high}", require.at));
    }
    if let (Some(own), Some(require)) = (&own.age, &require.age)
        && own.value.max > require.value.max
    {
        loosened(&own.at, format!("age.max is longer than that of [require] ({})", require.at));
    }
    if let (Some(own), Some(require)) = (&own.hold, &require.hold)
        && own.value < require.value
    {
        loosened(&own.at, format!("tags.hold is shorter than that of [require] ({})", require.at));
    }
    let general = require.mode.unwrap_or(rules.mode);
    if own.mode.is_some() && softness(source.mode()) > softness(general) {
        let (own_word, word) = (source.mode().as_str(), general.as_str());
        loosened(&rule.at, format!("mode is {own_word} where the policy's is {word}"));
    }
}

/// Checks that the broader sources write and this one does not.
pub(super) fn of_broader(rules: &Rules, rule: &SourceRule, findings: &mut Vec<Finding>) {
    for broader in &rules.sources {
        let narrower = rule.pattern.specificity() > broader.pattern.specificity();
        if !narrower || !rule.pattern.overlaps(&broader.pattern) {
            continue;
        }
        let (own, theirs) = (checks(&rule.leaves), checks(&broader.leaves));
        let dropped: Vec<&str> = theirs.into_iter().filter(|key| !own.contains(key)).collect();
        if !dropped.is_empty() {
            findings.push(Finding {
                lint: Lint::NarrowerDropsCheck,
                at: rule.at.clone(),
                what: format!(
                    "the source {} owns what {} ({}) would, without its {}",
                    rule.id,
                    broader.id,
                    broader.at,
                    dropped.join(", ")
                ),
                remedy: format!("repeat {} here, or move it to [require]", dropped.join(", ")),
            });
        }
    }
}

/// The keys that refuse something, of those that are written.
fn checks(leaves: &Leaves) -> Vec<&'static str> {
    let strict_digests = leaves.digests.as_ref().is_some_and(|digests| digests.value != Digests::Any);
    let strict_moved = leaves.moved.as_ref().is_some_and(|moved| moved.value != Moved::Follow);
    let keys = [
        ("age", leaves.age.is_some()),
        ("artifacts", leaves.artifacts.is_some()),
        ("base", leaves.base.is_some()),
        ("clients", leaves.clients.is_some()),
        ("digests", strict_digests),
        ("labels", leaves.labels.is_some()),
        ("platforms", leaves.platforms.is_some()),
        ("size", leaves.size.is_some()),
        ("tags.allow", leaves.allow.is_some()),
        ("tags.deny", leaves.deny.is_some()),
        ("tags.hold", leaves.hold.is_some()),
        ("tags.moved", strict_moved),
        ("user", leaves.user.is_some()),
    ];
    keys.into_iter().filter(|(_, written)| *written).map(|(key, _)| key).collect()
}

/// Whether every example of a pattern is admitted by one of these.
fn covered(pattern: &Pattern, by: &[Pattern]) -> bool {
    samples::tags(pattern).iter().all(|tag| by.iter().any(|other| other.admits(tag)))
}

fn width(digests: Digests) -> u8 {
    match digests {
        Digests::Any => 2,
        Digests::Known => 1,
        Digests::Listed => 0,
    }
}

fn softness(mode: Mode) -> u8 {
    match mode {
        Mode::Enforce => 0,
        Mode::Observe => 2,
        Mode::Warn => 1,
    }
}
