//! What was written later of an event, folded into it.

use serde_json::{Map, Value, json};

use super::filter::Pattern;
use crate::audit::draft::{Cache, Join};
use crate::audit::floods::SAMPLE;
use crate::oci::Reference;

/// Whether a flood's sample shows the image. Its tag or digest may be left out of the pattern.
pub(super) fn sampled(event: &Map<String, Value>, pattern: &Pattern) -> bool {
    let samples = event.get("sample").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    samples.iter().filter_map(Value::as_str).any(|reference| {
        pattern.matches(reference)
            || reference.parse::<Reference>().is_ok_and(|parsed| {
                pattern.matches(&parsed.name.to_string())
                    || pattern.matches(parsed.name.repository().as_str())
            })
    })
}

/// Folds repeats, transfers and a flood's closing rows into the event they belong to.
pub(super) fn merge(event: &mut Map<String, Value>, later: &[Map<String, Value>]) {
    let number = |event: &Map<String, Value>, key: &str| event.get(key).and_then(Value::as_u64);
    let time = |event: &Map<String, Value>, key: &str| event.get(key).cloned();
    let mut count = number(event, "count").unwrap_or(1);
    let first = time(event, "first").or_else(|| time(event, "time")).unwrap_or_default();
    let mut last = time(event, "last").unwrap_or_else(|| first.clone());
    let (mut bytes, mut duration, mut status) = (None, 0, None);
    let mut cache = 0;
    let mut join = None;
    let mut candidates: Vec<Value> = Vec::new();
    for one in later {
        let kind = one.get("kind").and_then(Value::as_str).unwrap_or_default();
        match kind {
            "repeat" | "flood" => {
                count += number(one, "count").unwrap_or(0);
                if let Some(Value::String(moment)) = one.get("last")
                    && last.as_str().is_none_or(|known| known < moment.as_str())
                {
                    last = Value::String(moment.clone());
                }
                if let (Some(Value::Array(sample)), Some(Value::Array(all))) =
                    (one.get("sample"), event.get_mut("sample"))
                {
                    for reference in sample {
                        if all.len() < SAMPLE && !all.contains(reference) {
                            all.push(reference.clone());
                        }
                    }
                }
            }
            "transfer" => {
                bytes = Some(bytes.unwrap_or(0) + number(one, "bytes").unwrap_or(0));
                duration += number(one, "duration_ms").unwrap_or(0);
                status = status.max(number(one, "status"));
                cache |=
                    one.get("cache").and_then(Value::as_str).and_then(Cache::parse).map_or(0, Cache::bit);
                join = join.max(one.get("join").and_then(Value::as_str).and_then(Join::parse));
                if let Some(Value::Array(tags)) = one.get("candidates") {
                    candidates.extend(
                        tags.iter().filter(|tag| !candidates.contains(tag)).cloned().collect::<Vec<_>>(),
                    );
                }
            }
            _ => {}
        }
    }
    event.insert("count".to_owned(), json!(count));
    event.insert("first".to_owned(), first);
    event.insert("last".to_owned(), last);
    if let Some(bytes) = bytes {
        event.insert("bytes".to_owned(), json!(bytes));
        event.insert("duration_ms".to_owned(), json!(duration));
        if let Some(Value::Object(http)) = event.get_mut("http") {
            http.insert("bytes".to_owned(), json!(bytes));
            http.insert("duration_ms".to_owned(), json!(duration));
            if let Some(status) = status {
                http.insert("status".to_owned(), json!(status));
            }
        }
    }
    if let Some(cache) = Cache::farthest(cache) {
        event.insert("cache".to_owned(), json!(cache.as_str()));
    }
    if let (Some(join), Some(Value::Object(client))) = (join, event.get_mut("client")) {
        client.insert("join".to_owned(), json!(join.as_str()));
        if !candidates.is_empty() {
            client.insert("candidates".to_owned(), Value::Array(candidates));
        }
    }
}
