//! The JSON Schema of the policy file, for editors.

use serde_json::{Map, Value, json};

use crate::policy::{AgeClock, Code, Digests, HoldFirst, IndexRule, Mode, Moved, Softenable, Verdict};

/// Where editors find what a key means.
const DOCS: &str = "docs/policy.md";
const DIGEST: &str = "^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$";
const PATTERN: &str = "^[A-Za-z0-9._#*-]+$";
const WORD: &str = "^[A-Za-z0-9._-]{1,64}$";

/// The policy file as JSON Schema (2020-12): its keys are those the reader takes, no more and no less.
/// What a schema cannot say (two sources that tie, a pin without an owner) is left to the reader.
pub fn schema() -> Value {
    let verdicts = [Verdict::Allow, Verdict::Deny, Verdict::Hold, Verdict::Warn];
    let modes: Map<String, Value> = Softenable::ALL
        .into_iter()
        .flat_map(|check| {
            let codes: Vec<&str> = check.codes().iter().map(|code| code.as_str()).collect();
            let value = mode(&codes.join(", "));
            words(check).into_iter().map(move |word| (word.to_owned(), value.clone()))
        })
        .collect();
    let tags = json!({
        "allow": patterns("A tag passes when one of these matches it whole: # is a run of digits, * anything"),
        "deny": patterns("A tag is refused when one of these matches it or one of its words"),
        "hold": text("How long a digest must have been known to this gateway: 72h"),
        "hold_first": choice(HoldFirst::ALL.map(HoldFirst::as_str), "What becomes of a tag's very first digest"),
        "moved": choice(Moved::ALL.map(Moved::as_str), "What happens when a tag leads elsewhere than before"),
    });
    let size = json!({
        "layer": text("The most bytes of one layer: 500MiB"),
        "layers": { "type": "integer", "description": "The most layers" },
        "max": text("The most bytes of all layers together: 2GiB"),
    });
    let age = json!({
        "clock": {
            "type": "array",
            "items": { "enum": AgeClock::ALL.map(AgeClock::as_str) },
            "description": "By which clocks, first to last: the first that knows decides",
        },
        "ignore_before": time("A date before this is none: builders write 1970"),
        "max": text("The oldest an image may be: 45d"),
    });
    let base = json!({
        "digests": texts("The digests it may have been built on"),
        "names": texts("The repositories it may have been built on"),
    });
    let user = json!({
        "min_uid": { "type": "integer", "description": "The lowest uid an image may run as" },
        "names": texts("User names that are accepted although a name says nothing about its number"),
    });
    let content = json!({
        "age": table(&age, &["max"], "How old an image may be"),
        "artifacts": {
            "anyOf": [{ "enum": ["allow", "deny"] }, texts("Media types")],
            "description": "What is done with what is no image",
        },
        "base": table(&base, &[], "What an image must say it was built on"),
        "index": choice(IndexRule::ALL.map(IndexRule::as_str), "How many platform images of an index must pass"),
        "labels": {
            "anyOf": [texts("Labels that must be there"), { "type": "object" }],
            "description": "Labels an image must carry; as a table with what they hold, * is anything",
        },
        "platforms": texts("The platforms that may be pulled: linux/amd64"),
        "size": {
            "anyOf": [{ "type": "string" }, table(&size, &[], "Limits")],
            "description": "How large one platform's image may be",
        },
        "user": table(&user, &[], "Whom an image may run as"),
    });
    let rules = with(
        &content,
        &json!({
            "clients": texts("Names of [[client]] tables: only these are served"),
            "digests": choice(Digests::ALL.map(Digests::as_str), "Which digests may be pulled by themselves"),
            "mode": mode("What becomes of a pull that a rule refuses"),
            "modes": table(&Value::Object(modes), &[], "The modes of single checks"),
            "tags": table(&tags, &[], "Rules about tags"),
        }),
    );
    let source = with(
        &rules,
        &json!({
            "id": { "type": "string", "pattern": WORD, "description": "Its name in records" },
            "match": {
                "type": "string",
                "pattern": "^[^*]+/.+$",
                "description": "Which repositories it owns: registry/segment/…; * is one segment, ** one or more and last",
            },
        }),
    );
    let facts = json!({
        "annotations": { "type": "object", "description": "Annotations of the manifest" },
        "artifact": { "type": "string", "description": "What kind of artifact it is" },
        "created": time("When the image config says it was built"),
        "diff_ids": texts("The uncompressed digests of its layers"),
        "digest": digest("Where the tag leads upstream"),
        "first_seen": time("When this gateway first met the digest"),
        "labels": { "type": "object", "description": "The labels of the image" },
        "layers": texts("The digests of its layers"),
        "locked": digest("What the tag is locked to here"),
        "platform": text("The platform it runs on: linux/amd64"),
        "size": text("The bytes of all its layers together: 80MiB"),
        "tags": texts("The tags that lead to the digest that is pulled"),
        "user": { "type": "string", "description": "Whom the image config says it runs as" },
    });
    let exception = json!({
        "approved": time("The day it was approved"),
        "approved_by": text("Who agreed; somebody else than requested_by"),
        "expires": time("Its last day, at most 90 days after approval"),
        "id": { "type": "string", "pattern": WORD, "description": "Its name in records" },
        "image": text("Exactly one tag or digest"),
        "reason": text("Why"),
        "requested_by": text("Who asked"),
        "ticket": text("Where it was decided"),
        "waive": texts("The checks that are waived"),
    });
    let signed =
        ["id", "image", "waive", "reason", "ticket", "requested_by", "approved_by", "approved", "expires"];
    let recall = json!({
        "diff_ids": texts("Layers, by the digest of what is in them uncompressed"),
        "digests": texts("Manifests, by digest"),
        "id": { "type": "string", "pattern": WORD, "description": "Its name in records" },
        "images": texts("Tags, with every digest they ever had; without a tag the repository"),
        "layers": texts("Layers, by digest"),
        "reason": text("Why"),
        "replace": text("What to pull instead"),
    });
    let top = json!({
        "exception": tables(&exception, &signed, "Checks waived for one image, by two people, until a date"),
        "help": table(&json!({
            "contact": { "type": "string", "maxLength": 60, "description": "Printed in refusals" },
            "url": {
                "type": "string",
                "maxLength": 120,
                "pattern": "^https?://",
                "description": "Printed in refusals; {id} becomes the refusal's id",
            },
        }), &[], "Whom to ask"),
        "mode": mode("What becomes of a pull that a rule refuses"),
        "name": label("The policy's name, in every record"),
        "pin": tables(&json!({
            "digest": digest("The digest that is vouched for"),
            "image": text("registry/repository:tag, or without a tag for the digest alone"),
        }), &["image", "digest"], "A digest that a person vouches for"),
        "recall": tables(&recall, &["id", "reason"], "Images and layers withdrawn, whatever else is written"),
        "require": table(&rules, &[], "What every source meets unless it says otherwise"),
        "revision": label("Its revision, in every record"),
        "source": tables(&source, &["id", "match"], "Repositories that may be pulled from, and by which rules"),
        "test": tables(&json!({
            "at": time("The time of judging"),
            "because": {
                "type": "array",
                "items": { "enum": Code::ALL.map(Code::as_str) },
                "description": "These codes are among the reasons",
            },
            "client": label("Who asks"),
            "expect": choice(verdicts.map(Verdict::as_str), "The verdict"),
            "facts": table(&facts, &[], "What is supposed about the world"),
            "pull": text("What is pulled"),
        }), &["pull", "expect"], "A pull and what must come of it: pullgate policy test"),
        "unlisted": texts("Registries served without a source while mode is warn or observe"),
    });
    with(
        &table(&top, &["name", "revision"], "Which images may be pulled"),
        &json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "pullgate policy",
            "$comment": format!("every key: {DOCS}"),
        }),
    )
}

/// The words of a check; the key of its rule is one too.
fn words(check: Softenable) -> Vec<&'static str> {
    let further = ["artifact", "artifacts", "base", "labels", "platform", "platforms"];
    let further = further.into_iter().filter(|word| Softenable::parse(word) == Some(check));
    std::iter::once(check.as_str()).chain(further.filter(|word| *word != check.as_str())).collect()
}

fn with(object: &Value, more: &Value) -> Value {
    let entries = |value: &Value| value.as_object().cloned().unwrap_or_default();
    Value::Object(entries(object).into_iter().chain(entries(more)).collect())
}

fn table(properties: &Value, required: &[&str], description: &str) -> Value {
    json!({
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
        "description": description,
    })
}

fn tables(properties: &Value, required: &[&str], description: &str) -> Value {
    json!({ "type": "array", "items": table(properties, required, description) })
}

fn choice(words: impl IntoIterator<Item = &'static str>, description: &str) -> Value {
    let words: Vec<&str> = words.into_iter().collect();
    json!({ "enum": words, "description": description })
}

fn mode(description: &str) -> Value {
    choice(Mode::ALL.map(Mode::as_str), description)
}

fn text(description: &str) -> Value {
    json!({ "type": "string", "minLength": 1, "description": description })
}

fn label(description: &str) -> Value {
    json!({ "type": "string", "minLength": 1, "maxLength": 64, "description": description })
}

fn digest(description: &str) -> Value {
    json!({ "type": "string", "pattern": DIGEST, "description": description })
}

/// A TOML date, or the same as text: editors show either as a text.
fn time(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

fn texts(description: &str) -> Value {
    json!({ "type": "array", "items": { "type": "string" }, "description": description })
}

fn patterns(description: &str) -> Value {
    let items = json!({ "type": "string", "pattern": PATTERN });
    json!({ "type": "array", "items": items, "description": description })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::settings::policy::{keys, parse};

    /// The schema at a path of keys, through `properties` and `items`.
    fn at<'s>(schema: &'s Value, path: &[&str]) -> &'s Value {
        path.iter().fold(schema, |schema, key| {
            let schema = schema.get("items").unwrap_or(schema);
            &schema["properties"][*key]
        })
    }

    fn keys_of(schema: &Value, path: &[&str]) -> BTreeSet<String> {
        let found = at(schema, path);
        let found = found.get("items").unwrap_or(found);
        assert_eq!(found["additionalProperties"], false, "{path:?}");
        found["properties"].as_object().expect("a table").keys().cloned().collect()
    }

    #[test]
    fn every_key_the_reader_takes_is_in_the_schema_and_no_other() {
        let schema = schema();
        for (path, known) in [
            (&[][..], &keys::TOP),
            (&["help"], &keys::HELP),
            (&["require"], &keys::REQUIRE),
            (&["require", "tags"], &keys::TAGS),
            (&["source"], &keys::SOURCE),
            (&["source", "tags"], &keys::TAGS),
            (&["source", "age"], &keys::AGE),
            (&["source", "base"], &keys::BASE),
            (&["source", "user"], &keys::USER),
            (&["exception"], &keys::EXCEPTION),
            (&["pin"], &keys::PIN),
            (&["recall"], &keys::RECALL),
            (&["test"], &keys::TEST),
            (&["test", "facts"], &keys::FACTS),
        ] {
            let known: BTreeSet<String> = known.known.iter().map(|key| (*key).to_owned()).collect();
            assert_eq!(keys_of(&schema, path), known, "{path:?}");
        }
        let size: BTreeSet<String> = keys::SIZE.known.iter().map(|key| (*key).to_owned()).collect();
        assert_eq!(keys_of(&at(&schema, &["source"])["items"]["properties"]["size"]["anyOf"][1], &[]), size);
        let modes = keys_of(&schema, &["source", "modes"]);
        assert!(modes.iter().all(|word| Softenable::parse(word).is_some()), "{modes:?}");
        let lacking = Softenable::ALL.into_iter().find(|check| !modes.contains(check.as_str()));
        assert_eq!(lacking, None);
    }

    /// As much of JSON Schema as this schema uses, `pattern` apart.
    fn faults(schema: &Value, value: &toml::Value, path: &str, found: &mut Vec<String>) {
        const KNOWN: [&str; 14] = [
            "anyOf",
            "$comment",
            "$schema",
            "additionalProperties",
            "description",
            "enum",
            "items",
            "maxLength",
            "minLength",
            "pattern",
            "properties",
            "required",
            "title",
            "type",
        ];
        let words = schema.as_object().unwrap();
        assert!(words.keys().all(|word| KNOWN.contains(&word.as_str())), "{path}: {words:?}");
        if let Some(choices) = schema.get("enum").and_then(Value::as_array)
            && !value.as_str().is_some_and(|text| choices.contains(&json!(text)))
        {
            found.push(format!("{path}: {value} is none of {choices:?}"));
        }
        if let Some(choices) = schema.get("anyOf").and_then(Value::as_array) {
            let fits = |schema: &Value| {
                let mut found = Vec::new();
                faults(schema, value, path, &mut found);
                found.is_empty()
            };
            if !choices.iter().any(fits) {
                found.push(format!("{path}: {value} fits no choice"));
            }
        }
        match (schema.get("type").and_then(Value::as_str), value) {
            (None, _) | (Some("integer"), toml::Value::Integer(_)) => {}
            (Some("object"), toml::Value::Table(_)) if schema.get("properties").is_none() => {}
            (Some("object"), toml::Value::Table(table)) => {
                for (key, value) in table {
                    match schema["properties"].get(key) {
                        Some(schema) => faults(schema, value, &format!("{path}.{key}"), found),
                        None => found.push(format!("{path}.{key} is unknown")),
                    }
                }
                for key in schema["required"].as_array().unwrap() {
                    if !table.contains_key(key.as_str().unwrap()) {
                        found.push(format!("{path} lacks {key}"));
                    }
                }
            }
            (Some("array"), toml::Value::Array(items)) => {
                for item in items {
                    faults(&schema["items"], item, &format!("{path}[]"), found);
                }
            }
            (Some("string"), toml::Value::String(text)) => {
                let long = schema["maxLength"].as_u64().is_some_and(|max| text.chars().count() as u64 > max);
                let short =
                    schema["minLength"].as_u64().is_some_and(|min| (text.chars().count() as u64) < min);
                if long || short {
                    found.push(format!("{path}: {text:?} has the wrong length"));
                }
            }
            (Some("string"), toml::Value::Datetime(_)) => {}
            (Some(kind), other) => found.push(format!("{path}: {other} is no {kind}")),
        }
    }

    fn judge(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        match text.parse::<toml::Table>() {
            Ok(table) => faults(&schema(), &toml::Value::Table(table), "", &mut found),
            Err(error) => found.push(error.to_string()),
        }
        found
    }

    #[test]
    fn every_policy_the_reader_takes_fits_the_schema() {
        let shipped = include_str!("../../../config/policy.toml");
        assert_eq!(judge(shipped), Vec::<String>::new());
        let example = include_str!("../../../config/policy-example.toml");
        assert_eq!(judge(example), Vec::<String>::new());
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/policy");
        let mut taken = 0;
        for entry in std::fs::read_dir(corpus).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            if parse(&path, &text).is_ok() {
                taken += 1;
                assert_eq!(judge(&text), Vec::<String>::new(), "{}", path.display());
            }
        }
        assert!(taken > 3, "{taken}");
    }

    #[test]
    fn a_mistyped_key_or_word_does_not_fit_the_schema() {
        let head = "name = \"t\"\nrevision = \"1\"\n";
        assert_eq!(judge(head), Vec::<String>::new());
        for (wrong, said) in [
            ("colour = 1\n", ".colour is unknown"),
            ("mode = \"off\"\n", ".mode: \"off\" is none of"),
            ("[[source]]\nid = \"a\"\n", ".source[] lacks \"match\""),
            ("[require.tags]\nallow = \"x\"\n", ".require.tags.allow: \"x\" is no array"),
        ] {
            let found = judge(&format!("{head}{wrong}"));
            assert!(found.iter().any(|fault| fault.contains(said)), "{wrong}: {found:?}");
        }
    }
}
