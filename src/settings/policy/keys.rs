//! The keys of the policy file: those in force, and those whose rules come later.

/// The keys of one kind of table.
pub(super) struct Keys {
    /// How messages call the table.
    pub(super) table: &'static str,
    /// What may stand in it.
    pub(super) known: &'static [&'static str],
    /// What the file's contract names, and this version does not enforce.
    pub(super) later: &'static [&'static str],
}

const LATER_RULES: [&str; 7] = ["age", "artifacts", "index", "labels", "platforms", "size", "user"];

pub(super) const TOP: Keys = Keys {
    table: "the policy",
    known: &["help", "mode", "name", "pin", "require", "revision", "source", "test", "unlisted"],
    later: &["exception", "recall"],
};
pub(super) const HELP: Keys = Keys { table: "[help]", known: &["contact", "url"], later: &[] };
pub(super) const REQUIRE: Keys =
    Keys { table: "[require]", known: &["clients", "digests", "mode", "modes", "tags"], later: &LATER_RULES };
pub(super) const SOURCE: Keys = Keys {
    table: "[[source]]",
    known: &["clients", "digests", "id", "match", "mode", "modes", "tags"],
    later: &LATER_RULES,
};
pub(super) const TAGS: Keys =
    Keys { table: "tags", known: &["allow", "deny", "moved"], later: &["hold", "hold_first"] };
pub(super) const MODES: Keys = Keys {
    table: "modes",
    known: &["digest", "media", "tag", "tag.moved"],
    later: &[
        "age",
        "artifact",
        "artifacts",
        "hold",
        "label",
        "labels",
        "platform",
        "platforms",
        "size",
        "user",
    ],
};
pub(super) const PIN: Keys = Keys { table: "[[pin]]", known: &["digest", "image"], later: &[] };
pub(super) const TEST: Keys =
    Keys { table: "[[test]]", known: &["at", "because", "client", "expect", "facts", "pull"], later: &[] };
pub(super) const FACTS: Keys = Keys {
    table: "facts",
    known: &["digest", "locked", "tags"],
    later: &["created", "first_seen", "layers", "user"],
};

/// Reason codes of rules that come later.
pub(super) const LATER_CODES: [&str; 10] = [
    "age",
    "artifact.not_allowed",
    "client.rate",
    "hold",
    "label",
    "platform.not_allowed",
    "recall",
    "size",
    "user.min_uid",
    "user.named",
];

pub(super) fn not_enforced(key: &str) -> String {
    format!("`{key}` is not enforced by this version; remove it")
}
