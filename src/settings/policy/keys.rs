//! The keys of the policy file.

/// The keys of one kind of table.
pub(super) struct Keys {
    /// How messages call the table.
    pub(super) table: &'static str,
    /// What may stand in it.
    pub(super) known: &'static [&'static str],
}

const fn keys(table: &'static str, known: &'static [&'static str]) -> Keys {
    Keys { table, known }
}

pub(super) const TOP: Keys = keys(
    "the policy",
    &[
        "exception",
        "help",
        "mode",
        "name",
        "pin",
        "recall",
        "require",
        "revision",
        "source",
        "test",
        "unlisted",
    ],
);
pub(super) const HELP: Keys = keys("[help]", &["contact", "url"]);
pub(super) const REQUIRE: Keys = keys(
    "[require]",
    &[
        "age",
        "artifacts",
        "base",
        "clients",
        "digests",
        "index",
        "labels",
        "mode",
        "modes",
        "platforms",
        "size",
        "tags",
        "user",
    ],
);
pub(super) const SOURCE: Keys = keys(
    "[[source]]",
    &[
        "age",
        "artifacts",
        "base",
        "clients",
        "digests",
        "id",
        "index",
        "labels",
        "match",
        "mode",
        "modes",
        "platforms",
        "size",
        "tags",
        "user",
    ],
);
pub(super) const TAGS: Keys = keys("tags", &["allow", "deny", "hold", "hold_first", "moved"]);
pub(super) const AGE: Keys = keys("age", &["clock", "ignore_before", "max"]);
pub(super) const BASE: Keys = keys("base", &["digests", "names"]);
pub(super) const SIZE: Keys = keys("size", &["layer", "layers", "max"]);
pub(super) const USER: Keys = keys("user", &["min_uid", "names"]);
pub(super) const PIN: Keys = keys("[[pin]]", &["digest", "image"]);
pub(super) const RECALL: Keys =
    keys("[[recall]]", &["diff_ids", "digests", "id", "images", "layers", "reason", "replace"]);
pub(super) const EXCEPTION: Keys = keys(
    "[[exception]]",
    &["approved", "approved_by", "expires", "id", "image", "reason", "requested_by", "ticket", "waive"],
);
pub(super) const TEST: Keys = keys("[[test]]", &["at", "because", "client", "expect", "facts", "pull"]);
pub(super) const FACTS: Keys = keys(
    "facts",
    &[
        "annotations",
        "artifact",
        "created",
        "diff_ids",
        "digest",
        "first_seen",
        "labels",
        "layers",
        "locked",
        "platform",
        "size",
        "tags",
        "user",
    ],
);
