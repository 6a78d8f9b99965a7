//! The canonical form of an event (RFC 8785), and the hash that links each event to the one before.
//!
//! Keys are sorted, nothing is spaced, text is escaped as ECMAScript does it, and every number is an
//! integer that ECMAScript can hold. Whoever has an event as JSON, however it was laid out on its way,
//! can make the canonical form again, take `integrity.hash` out, and hash what is left.

use serde_json::{Map, Value};

use crate::oci::{Algorithm, Hasher};

/// What the first event of a chain names as the hash before it.
pub(crate) const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The greatest integer that every reader of JSON takes for itself.
const MOST: u64 = (1 << 53) - 1;
const INTEGRITY: &str = "integrity";
const SEQ: &str = "seq";

/// An event in canonical form, but for what only the writer knows: its place and the hash before it.
#[derive(Clone, Debug)]
pub(crate) struct Unplaced {
    /// Its members before `integrity`, between that and `seq`, and after.
    parts: [String; 3],
}

impl Unplaced {
    /// Numbers that not every reader could hold are brought down to the greatest that all can.
    pub(crate) fn new(event: &mut Map<String, Value>) -> Self {
        let mut parts: [String; 3] = Default::default();
        for (key, value) in event {
            bound(value);
            let part = match &**key {
                INTEGRITY | SEQ => continue,
                key if key < INTEGRITY => &mut parts[0],
                key if key < SEQ => &mut parts[1],
                _ => &mut parts[2],
            };
            part.push_str(&Value::from(key.as_str()).to_string());
            part.push(':');
            part.push_str(&value.to_string());
            part.push(',');
        }
        Self { parts }
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(String::len).sum()
    }

    /// The event at this place in the chain, and its hash.
    pub(crate) fn place(&self, seq: i64, previous: &str) -> (String, String) {
        let [before, between, after] = &self.parts;
        let after = after.trim_end_matches(',');
        let comma = if after.is_empty() { "" } else { "," };
        let seq = seq.to_string();
        let mut hasher = Hasher::new(Algorithm::Sha256);
        for piece in [
            "{",
            before,
            "\"integrity\":{\"previous\":\"",
            previous,
            "\"},",
            between,
            "\"seq\":",
            &seq,
            comma,
            after,
            "}",
        ] {
            hasher.update(piece.as_bytes());
        }
        let hash = hasher.finish().hex();
        let body = [
            "{",
            before,
            "\"integrity\":{\"hash\":\"",
            &hash,
            "\",\"previous\":\"",
            previous,
            "\"},",
            between,
            "\"seq\":",
            &seq,
            comma,
            after,
            "}",
        ]
        .concat();
        (body, hash)
    }
}

fn bound(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if number.as_u64().is_some_and(|number| number > MOST) {
                *value = MOST.into();
            }
        }
        Value::Array(values) => values.iter_mut().for_each(bound),
        Value::Object(map) => map.values_mut().for_each(bound),
        Value::Bool(_) | Value::Null | Value::String(_) => {}
    }
}

/// What an event says of its place in the chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Integrity {
    pub(crate) previous: String,
    pub(crate) hash: String,
}

impl Integrity {
    /// `None`: the event was written before there was a chain.
    pub(crate) fn of(event: &Map<String, Value>) -> Option<Self> {
        let integrity = event.get(INTEGRITY)?;
        let part = |key: &str| integrity.get(key).and_then(Value::as_str).map(ToOwned::to_owned);
        Some(Self { previous: part("previous")?, hash: part("hash")? })
    }
}

/// The hash an event must have by what it says.
pub(crate) fn hash(event: &Map<String, Value>) -> String {
    let mut event = event.clone();
    if let Some(Value::Object(integrity)) = event.get_mut(INTEGRITY) {
        integrity.remove("hash");
    }
    crate::oci::Digest::sha256(Value::Object(event).to_string().as_bytes()).hex()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> Map<String, Value> {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn the_body_is_the_canonical_form_of_the_event_and_its_hash_can_be_computed_from_any_layout() {
        let mut draft = event(
            r#"{"zeta": "\u20ac\u0000\u001f\u007f\"\\/\n", "kind": "decision", "id": "x", "seal": 1,
                "checks": [{"b": null, "a": 18446744073709551615}], "schema": "s", "secret": true}"#,
        );
        let (body, hash_of_it) = Unplaced::new(&mut draft).place(7, GENESIS);
        assert_eq!(
            body,
            format!(
                "{{\"checks\":[{{\"a\":9007199254740991,\"b\":null}}],\"id\":\"x\",\"integrity\":{{\"hash\":\"{hash_of_it}\",\
                 \"previous\":\"{GENESIS}\"}},\"kind\":\"decision\",\"schema\":\"s\",\"seal\":1,\"secret\":true,\
                 \"seq\":7,\"zeta\":\"\u{20ac}\\u0000\\u001f\u{7f}\\\"\\\\/\\n\"}}"
            )
        );
        let again = event(&body);
        assert_eq!(Value::Object(again.clone()).to_string(), body, "the parser keeps keys sorted");
        assert_eq!(hash(&again), hash_of_it);
        let pretty = serde_json::to_string_pretty(&again).unwrap();
        assert_eq!(hash(&event(&pretty)), hash_of_it);
        assert_eq!(Integrity::of(&again).unwrap().hash, hash_of_it);
    }

    #[test]
    fn the_hash_is_the_sha256_of_the_text_without_itself() {
        let (body, hash_of_it) = Unplaced::new(&mut event(r#"{"id":"x"}"#)).place(1, GENESIS);
        let preimage = format!("{{\"id\":\"x\",\"integrity\":{{\"previous\":\"{GENESIS}\"}},\"seq\":1}}");
        assert_eq!(crate::oci::Digest::sha256(preimage.as_bytes()).hex(), hash_of_it);
        assert!(body.ends_with("\"seq\":1}"));
    }
}
