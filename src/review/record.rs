//! Recorded pulls, read from the log for a policy to judge them again.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::audit::{Entry, Error, Filter, Order, Reader};
use crate::oci::{Digest, Name};
use crate::policy::{Asked, Code, Count, Recorded, Verdict};

/// What was read.
#[derive(Debug, Default)]
pub struct Read {
    /// When the record begins; none when it is empty.
    pub begins: Option<Timestamp>,
    /// Entries that say too little to be judged again, by why.
    pub unread: BTreeMap<&'static str, Count>,
    /// Whether there were more than `most`.
    pub cut: bool,
}

/// Hands every recorded pull since a moment to `take`, page by page; of more than `most` the latest.
///
/// # Errors
/// `Read` when the record cannot be read.
pub async fn read_pulls(
    reader: &Reader,
    since: Timestamp,
    most: Option<usize>,
    mut take: impl FnMut(Recorded),
) -> Result<Read, Error> {
    let mut read = Read::default();
    let oldest = Filter { limit: Some(1), order: Order::OldestFirst, ..Filter::default() };
    if let Some(entry) = reader.entries(oldest).next().await? {
        read.begins = time(&entry, "time");
    }
    let order = if most.is_some() { Order::NewestFirst } else { Order::OldestFirst };
    let mut entries = reader.entries(Filter { since: Some(since), order, ..Filter::default() });
    let mut taken = 0;
    while let Some(entry) = entries.next().await? {
        if most.is_some_and(|most| taken >= most) {
            read.cut = true;
            break;
        }
        taken += 1;
        match recorded(&entry) {
            Ok(pull) => take(pull),
            Err(None) => {}
            Err(Some(why)) => {
                let count = read.unread.entry(why).or_default();
                count.references += 1;
                count.pulls = count.pulls.saturating_add(entry.number(&["count"]).unwrap_or(1));
            }
        }
    }
    Ok(read)
}

/// One entry as a pull; `None` for what is none, or why it cannot be one.
fn recorded(entry: &Entry) -> Result<Recorded, Option<&'static str>> {
    match entry.text(&["kind"]) {
        Some("decision") => {}
        Some("flood") => return Err(Some("refusals counted in floods, whose references were not kept")),
        _ => return Err(None),
    }
    let unreadable = Some("names that could not be read");
    let (registry, repository) = (entry.text(&["image", "registry"]), entry.text(&["image", "repository"]));
    let (Some(registry), Some(repository)) = (registry, repository) else { return Err(unreadable) };
    let name: Name = format!("{registry}/{repository}").parse().map_err(|_| unreadable)?;
    let digest = |key| entry.text(&["image", key]).and_then(|text| text.parse::<Digest>().ok());
    let path = entry.text(&["http", "path"]).unwrap_or_default();
    let asked = match (entry.text(&["image", "tag"]), digest("digest_requested")) {
        (Some(tag), _) => Asked::Tag(tag.parse().map_err(|_| unreadable)?),
        (None, Some(_)) if path.contains("/referrers/") => return Err(None),
        (None, Some(digest)) if path.contains("/blobs/") => Asked::Blob(digest),
        (None, Some(digest)) => Asked::Digest(digest),
        // A listing of tags pulls nothing.
        (None, None) => return Err(None),
    };
    let verdict = [Verdict::Allow, Verdict::Deny, Verdict::Hold, Verdict::Warn]
        .into_iter()
        .find(|verdict| entry.text(&["verdict"]) == Some(verdict.as_str()))
        .ok_or(Some("verdicts of another version"))?;
    let client: Option<Arc<str>> = match entry.text(&["client", "attribution"]) {
        Some("none") | None => None,
        Some(_) => entry.text(&["client", "name"]).map(Into::into),
    };
    let address = entry.text(&["client", "address"]).unwrap_or("unknown");
    let started = time(entry, "time").unwrap_or(Timestamp::UNIX_EPOCH);
    let (first, last) = (time(entry, "first").unwrap_or(started), time(entry, "last").unwrap_or(started));
    Ok(Recorded {
        who: client.clone().unwrap_or_else(|| address.into()),
        code: entry.text(&["reason", "code"]).and_then(Code::parse),
        digest: digest("digest"),
        root: digest("root_digest"),
        exceptions: exceptions(entry),
        pulls: entry.number(&["count"]).unwrap_or(1),
        asked,
        name,
        client,
        verdict,
        first,
        last,
    })
}

/// The exceptions that the recorded checks name.
fn exceptions(entry: &Entry) -> Vec<Arc<str>> {
    let checks = entry.event.get("checks").and_then(serde_json::Value::as_array);
    let ids = checks.into_iter().flatten().filter_map(|check| check.get("exception")?.as_str());
    ids.map(Into::into).collect()
}

fn time(entry: &Entry, key: &str) -> Option<Timestamp> {
    entry.text(&[key])?.parse().ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::audit::{Draft, Http, Image, Judged, Judgement, Log, OnFull, PolicyStamp, Sentence, Settings};
    use crate::clock::Clock;
    use crate::identity::{Attribution, Caller, Class};
    use crate::oci::{Ask, What};
    use crate::policy::{Reason, Trace};

    pub(crate) const NOW: &str = "2026-11-20T10:00:00Z";

    /// A data folder and its configuration, with these pulls on record: reference, client, the code of
    /// a refusal or nothing, how often.
    pub(crate) async fn folder(pulls: &[(&str, Option<&str>, Option<Code>, usize)]) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = format!("[storage]\npath = \"{}\"\n", folder.path().display());
        std::fs::write(folder.path().join("pullgate.toml"), config).unwrap();
        let settings = Settings {
            path: folder.path().to_owned(),
            max_size: 64 << 20,
            on_full: OnFull::Serve,
            refusals_per_minute: 60,
        };
        let log = Log::open(settings, Clock::manual(NOW.parse().unwrap())).await.unwrap();
        for (reference, client, code, times) in pulls {
            let reference: crate::oci::Reference = reference.parse().unwrap();
            let what = match (&reference.digest, &reference.tag) {
                (Some(digest), _) => What::Digest(*digest),
                (None, tag) => What::Tag(tag.clone().unwrap()),
            };
            let ask = Ask { name: reference.name, what };
            let caller = Caller {
                class: client.map_or(Class::Anonymous, |name| Class::Client(name.into())),
                attribution: if client.is_some() { Attribution::Token } else { Attribution::None },
                address: "10.0.0.1".parse().unwrap(),
                proxy: None,
                certificate: None,
                user_agent: None,
            };
            let mut image = Image::asked(&ask);
            if code.is_none() {
                image.digest = Some(image.digest.unwrap_or(Digest::sha256(ask.reference().as_bytes())));
            }
            let reason = |code| Reason { code, text: "no".to_owned(), remedy: None };
            let judged = Judged::new(Judgement {
                verdict: if code.is_some() { Verdict::Deny } else { Verdict::Allow },
                enforced: true,
                reasons: code.map(reason).into_iter().collect(),
                policy: Arc::new(PolicyStamp::default()),
                trace: Arc::new(Trace::default()),
                image,
                shadow: None,
            });
            for _ in 0..*times {
                let path = "/v2/x/manifests/y";
                let status = if code.is_some() { 403 } else { 200 };
                let http = Http { method: "GET", path, ns: None, status: Some(status) };
                let draft = Draft { caller: &caller, judged: &judged, http };
                if code.is_some() {
                    let say = |_: &ulid::Ulid| Sentence { message: "no".to_owned(), phrase: String::new() };
                    log.refused(draft, say).await.unwrap();
                } else {
                    drop(log.allowed(draft).unwrap());
                }
            }
        }
        log.close().await;
        folder
    }
}
