//! As much of JSON Schema 2020-12 as the schemas here use; a keyword it does not know is an error.

use serde_json::Value;

/// Everything about the value that the schema does not say, or says otherwise. Also fields that it does
/// not name are told: what leaves is to be documented.
pub(super) fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check(schema, schema, value, "", &mut faults);
    unnamed(schema, schema, value, "", &mut faults);
    faults
}

fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(place) => root.pointer(place.trim_start_matches('#')).expect("a place in the schema"),
        None => schema,
    }
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let schema = resolve(root, schema);
    for (keyword, wanted) in schema.as_object().expect("a schema is an object") {
        let holds = match &**keyword {
            "$defs" | "$schema" | "additionalProperties" | "description" | "else" | "then" | "title" => true,
            "allOf" => {
                for one in wanted.as_array().unwrap() {
                    check(root, one, value, at, faults);
                }
                true
            }
            "const" => value == wanted,
            "enum" => wanted.as_array().unwrap().contains(value),
            "format" => match wanted.as_str().unwrap() {
                "date-time" => value.as_str().is_some_and(|text| text.parse::<jiff::Timestamp>().is_ok()),
                other => panic!("format {other}"),
            },
            "if" => {
                let mut unmet = Vec::new();
                check(root, wanted, value, at, &mut unmet);
                if unmet.is_empty()
                    && let Some(then) = schema.get("then")
                {
                    check(root, then, value, at, faults);
                }
                true
            }
            "items" => {
                for (place, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, wanted, item, &format!("{at}/{place}"), faults);
                }
                true
            }
            "minItems" => value.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap()),
            "minProperties" => {
                value.as_object().is_none_or(|map| map.len() as u64 >= wanted.as_u64().unwrap())
            }
            "minimum" => value.as_i64().is_none_or(|number| number >= wanted.as_i64().unwrap()),
            "oneOf" => {
                let all: Vec<Vec<String>> = wanted
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|one| {
                        let mut unmet = Vec::new();
                        check(root, one, value, at, &mut unmet);
                        unmet
                    })
                    .collect();
                if all.iter().filter(|unmet| unmet.is_empty()).count() != 1 {
                    faults.push(format!("{at}: not one of them: {all:?}"));
                }
                true
            }
            "pattern" => value.as_str().is_none_or(|text| match wanted.as_str().unwrap() {
                "^[0-9A-HJKMNP-TV-Z]{26}$" => text.parse::<ulid::Ulid>().is_ok(),
                "^[0-9a-fA-F:.]+$" => text.parse::<std::net::IpAddr>().is_ok(),
                other => panic!("pattern {other}"),
            }),
            "properties" => {
                for (name, inner) in wanted.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        check(root, inner, value, &format!("{at}/{name}"), faults);
                    }
                }
                true
            }
            "required" => {
                wanted.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            "type" => match wanted {
                Value::Array(types) => types.iter().any(|one| is_of(one, value)),
                one => is_of(one, value),
            },
            other => panic!("keyword {other}"),
        };
        if !holds {
            faults.push(format!("{at}: {keyword} {wanted}, but it is {value}"));
        }
    }
}

fn is_of(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "array" => value.is_array(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "null" => value.is_null(),
        "object" => value.is_object(),
        "string" => value.is_string(),
        other => panic!("type {other}"),
    }
}

/// Fields that no `properties` name, where there are any.
fn unnamed(root: &Value, schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    let mut schema = resolve(root, schema);
    if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
        let fits = |one: &&Value| {
            let mut unmet = Vec::new();
            check(root, one, value, at, &mut unmet);
            unmet.is_empty()
        };
        let Some(chosen) = choices.iter().find(fits) else { return };
        schema = chosen;
    }
    match value {
        Value::Array(items) => {
            for item in items {
                if let Some(inner) = schema.get("items") {
                    unnamed(root, inner, item, at, faults);
                }
            }
        }
        Value::Object(map) => {
            let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
            for (name, value) in map {
                match properties.get(name) {
                    Some(inner) => unnamed(root, inner, value, &format!("{at}/{name}"), faults),
                    None => faults.push(format!("{at}/{name} is not in the schema")),
                }
            }
        }
        _ => {}
    }
}
