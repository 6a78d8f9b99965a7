//! Which test at this door meets which code of the code table, and which known way round a policy: a code
//! without a test, and a test that is renamed or no longer names its code, fail here.

use std::path::Path;

use pullgate::policy::Code;

/// A code, the file of its test, and the test; in table order.
const CODES: [(&str, &str, &str); 27] = [
    ("name.invalid", "record", "malformed_names_are_on_record"),
    ("name.conflict", "record", "names_in_conflict_are_on_record"),
    ("method.unsupported", "protocol", "whatever_writes_is_405_unsupported"),
    ("client.unknown", "callers", "a_source_serves_its_clients_alone_and_a_token_of_nobody_gets_nothing"),
    ("client.not_allowed", "callers", "a_source_serves_its_clients_alone_and_a_token_of_nobody_gets_nothing"),
    (
        "client.rate",
        "callers",
        "a_client_that_asks_too_often_is_told_when_to_come_again_and_folds_in_the_record",
    ),
    (
        "source.unknown",
        "table",
        "what_the_table_refuses_by_name_is_refused_in_every_form_and_no_upstream_hears_of_it",
    ),
    ("recall", "rules", "a_recall_refuses_at_once_what_is_cached_under_every_name"),
    (
        "tag.denied",
        "table",
        "what_the_table_refuses_by_name_is_refused_in_every_form_and_no_upstream_hears_of_it",
    ),
    (
        "tag.not_allowed",
        "table",
        "what_the_table_refuses_by_name_is_refused_in_every_form_and_no_upstream_hears_of_it",
    ),
    ("digest.unknown", "table", "the_digest_of_a_refused_tag_is_refused_on_a_cold_gateway"),
    ("digest.not_listed", "refusal", "listed_digests_are_those_of_pins_alone"),
    ("closure.outside", "table", "a_blob_that_only_a_refused_tag_contains_is_refused_everywhere"),
    ("possession.missing", "table", "a_cached_layer_that_a_hostile_repository_names_is_refused_there"),
    ("tag.moved", "cache", "with_moved_deny_a_moved_tag_is_refused"),
    ("hold", "rules", "a_tag_is_held_until_its_digest_is_known_long_enough"),
    ("media.refused", "refusal", "schema_1_and_layers_that_live_elsewhere_are_refused"),
    (
        "index.too_large",
        "refusal",
        "an_index_of_indexes_can_be_pulled_and_a_deeper_one_is_refused_at_its_tag",
    ),
    (
        "platform.not_allowed",
        "rules",
        "every_platform_that_is_judged_must_pass_and_others_are_refused_by_digest",
    ),
    ("size", "rules", "labels_sizes_and_artifacts_are_refused_under_their_codes"),
    ("label", "rules", "labels_sizes_and_artifacts_are_refused_under_their_codes"),
    ("age", "rules", "an_image_that_grows_too_old_is_refused_without_a_reload"),
    ("user.min_uid", "table", "the_user_of_an_application_image_decides_in_every_form"),
    ("user.named", "table", "the_user_of_an_application_image_decides_in_every_form"),
    ("artifact.not_allowed", "rules", "labels_sizes_and_artifacts_are_refused_under_their_codes"),
    ("base.not_allowed", "rules", "an_image_built_on_something_else_is_refused"),
    (
        "facts.unavailable",
        "rules",
        "facts_that_an_upstream_cannot_give_now_are_503_and_say_when_to_come_again",
    ),
];

/// A way round a policy, the file of its test, and the test.
const BYPASSES: [(&str, &str, &str); 19] = [
    ("digest of a refused tag", "table", "the_digest_of_a_refused_tag_is_refused_on_a_cold_gateway"),
    ("its digest by another hash", "bypass", "another_hash_of_a_refused_digest_is_refused_too"),
    ("blob of a refused image", "table", "a_blob_that_only_a_refused_tag_contains_is_refused_everywhere"),
    ("recalled layer, another name", "rules", "a_recall_refuses_at_once_what_is_cached_under_every_name"),
    (
        "recalled digest, another hash",
        "bypass",
        "a_recalled_digest_is_refused_by_its_other_hash_cached_and_cold",
    ),
    ("malformed names", "input", "malformed_names_are_400_and_reach_nobody"),
    ("normalisation", "bypass", "no_spelling_of_a_refused_tag_is_served_and_no_upstream_hears_of_any"),
    ("conflict of ns and prefix", "record", "names_in_conflict_are_on_record"),
    (
        "expired exception, cached content",
        "rules",
        "an_expired_exception_admits_neither_the_cached_tag_nor_its_blobs_also_after_a_restart",
    ),
    ("expired exception", "rules", "an_exception_is_bound_to_its_first_digest_recorded_and_over_in_time"),
    (
        "child of a refused index",
        "bypass",
        "the_children_of_a_refused_index_are_refused_by_digest_but_for_those_of_an_admitted_one",
    ),
    (
        "child of an index refused for it",
        "bypass",
        "the_child_for_which_an_index_is_refused_is_refused_by_itself_with_its_blobs",
    ),
    (
        "child of a recalled index",
        "rules",
        "a_recalled_child_takes_its_index_with_it_and_a_recalled_index_its_children",
    ),
    ("referrer of a refused image", "bypass", "what_refers_to_a_refused_image_is_refused_with_it"),
    (
        "cached content after a rule change",
        "refusal",
        "what_was_cached_while_it_was_allowed_is_refused_from_the_moment_it_is_not",
    ),
    (
        "cached content after a stricter check",
        "rules",
        "facts_are_gathered_once_and_a_stricter_policy_judges_what_is_cached",
    ),
    ("another's cached layer", "table", "a_cached_layer_that_a_hostile_repository_names_is_refused_there"),
    ("replaced while on hold", "rules", "a_digest_that_is_replaced_while_it_is_held_is_never_served"),
    ("bad file on reload", "rules", "a_policy_that_cannot_be_read_weakens_nothing"),
];

/// The text of a test from its attribute to its end.
fn body(file: &str, test: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/door").join(file).with_extension("rs");
    let text = std::fs::read_to_string(path).unwrap();
    let (_, rest) = text.split_once(&format!("#[tokio::test]\nasync fn {test}() {{\n"))?;
    rest.split_once("\n}\n").map(|(body, _)| body.to_owned())
}

#[test]
fn every_code_is_met_at_the_door_by_the_test_that_is_named_here() {
    let listed: Vec<&str> = CODES.iter().map(|(code, ..)| *code).collect();
    let all: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(listed, all);
    for (code, file, test) in CODES {
        let body = body(file, test).unwrap_or_else(|| panic!("{code}: no test {test} in {file}.rs"));
        assert!(body.contains(&format!("\"{code}\"")), "{file}.rs: {test} does not expect {code}");
    }
}

#[test]
fn every_known_way_round_a_policy_is_tried_at_the_door() {
    for (bypass, file, test) in BYPASSES {
        assert!(body(file, test).is_some(), "{bypass}: no test {test} in {file}.rs");
    }
}
