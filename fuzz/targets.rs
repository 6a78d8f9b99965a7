//! What must hold for any input of the parsers: one function a target, each panics where it does not.
//!
//! libFuzzer calls them through `fuzz_targets/`; `tests/it/corpora.rs` includes this file and calls
//! them with the stored corpora and a bounded run of mutations.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use jiff::Timestamp;
use pullgate::files::Format;
use pullgate::identity::{Attribution, Caller, Class};
use pullgate::oci::{
    Ask, Digest, Form, Kind, Manifest, Name, Naming, Pull, Reference, Registry, Repository, Request, What,
};
use pullgate::policy::{Facts, Given, Outcome};
use pullgate::settings::diagnostic::FileError;
use pullgate::settings::gateway::Origin;
use serde_json::Value;

/// `pullgate.toml`: read or refused, and the refusal can be shown.
pub fn gateway(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let path = Path::new("pullgate.toml");
    let gateway = match pullgate::settings::gateway::parse(path, text) {
        Ok(gateway) => gateway,
        Err(error) => return show(text, &error),
    };
    let again = pullgate::settings::gateway::parse(path, text);
    assert_eq!(again.ok().as_ref(), Some(&gateway), "the same text is read the same");
    assert!(!gateway.sealed, "sealed is not in force yet");
    assert!(!gateway.listen.hosts.is_empty(), "a certificate has a name");
    assert_ne!(gateway.limits.connections, 0, "somebody can connect");
    for upstream in &gateway.upstreams {
        if let Origin::Endpoint(url) = &upstream.origin {
            assert_eq!(url.scheme(), "https", "{url}");
            assert!(url.username().is_empty() && url.password().is_none(), "{url}");
        }
        check_registry(&upstream.registry);
    }
    check_registry(&gateway.default_registry);
}

/// A file that names images, after a first line with its name: every place is one of the file, and
/// what is pinned there is read again as the same references with their digests.
pub fn files(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (path, text) = text.split_once('\n').unwrap_or(("", text));
    let Some(format) = Format::of_name(path).or_else(|| Format::of_text(text)) else { return };
    let reading = pullgate::files::read(format, path, text);
    assert_eq!(pullgate::files::read(format, path, text), reading, "the same text is read the same");
    let places = reading.images.iter().map(|image| &image.place);
    let places = places.chain(reading.unjudged.iter().map(|unjudged| &unjudged.place));
    for place in places.chain(reading.fault.iter().map(|fault| &fault.place)) {
        assert!((place.line, place.column) <= (place.end_line, place.end_column), "{reading:#?}");
        let line = text.split('\n').nth(place.line - 1).expect("a line of the file");
        assert!(place.column <= line.chars().count() + 1, "{place:?} is no place of {line:?} in {text:?}");
    }
    // A shorter name could have been no reference at all.
    if reading.fault.is_some() || reading.images.iter().any(|image| image.text.len() > 512) {
        return;
    }
    let digest = format!("@sha256:{}", "0".repeat(64));
    let mut pinned = text.to_owned();
    let mut expected = Vec::new();
    for image in reading.images.iter().rev() {
        let mut name = image.text.clone();
        let plain = name.parse::<Reference>().is_ok_and(|reference| reference.digest.is_none());
        if let (Ok(at), true) = (image.pin, plain) {
            let before = text.get(..at).expect("a place between characters");
            assert!(before.ends_with(&image.text), "{:?} does not stand before {at}", image.text);
            pinned.insert_str(at, &digest);
            name.push_str(&digest);
        }
        expected.push((image.place.line, name));
    }
    expected.reverse();
    let again = pullgate::files::read(format, path, &pinned);
    let found: Vec<_> = again.images.into_iter().map(|image| (image.place.line, image.text)).collect();
    assert_eq!(found, expected, "{pinned}");
}

/// A manifest, after an optional first line `Content-Type: …`.
pub fn manifest(input: &[u8]) {
    let (content_type, bytes) = content_type(input);
    let Ok(manifest) = Manifest::parse(bytes, content_type, None) else { return };
    assert_eq!(manifest.digest, Digest::sha256(bytes));
    assert_eq!(manifest.size, bytes.len() as u64);
    let named = Manifest::parse(bytes, content_type, Some(&manifest.digest)).expect("its own digest");
    assert_eq!(named.edges, manifest.edges);
    let longer = [bytes, b" "].concat();
    assert!(Manifest::parse(&longer, content_type, Some(&manifest.digest)).is_err(), "other bytes");
    assert!(manifest.media_type.bytes().all(|byte| byte.is_ascii_graphic()), "it can be a header");

    let mut sizes = BTreeMap::new();
    for (_, edge) in &manifest.edges {
        let size = *sizes.entry(edge.digest).or_insert(edge.size);
        assert_eq!(size, edge.size, "{} has two sizes", edge.digest);
    }
    let (children, blobs) = (manifest.children().count(), manifest.blobs().count());
    match manifest.kind {
        Kind::Image => assert_eq!(children, 0, "an image has no manifests"),
        Kind::Index => assert_eq!(blobs, 0, "an index has no blobs"),
        Kind::Schema1 => {
            assert!(manifest.edges.is_empty(), "nothing of schema 1 is believed");
            return;
        }
    }

    // The clients' own reader takes keys in any spelling; it must not see another manifest than we do.
    // (Beyond the depth at which this reader gives up there is nothing but keys that nobody knows.)
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    let top = |key| spelled(&value, key);
    let indexed = top("manifests").iter().any(|list| !list.is_null());
    let layered = ["blobs", "config", "layers"].iter().any(|key| top(key).iter().any(|it| !it.is_null()));
    assert!(!(indexed && layered), "both an index and an image");
    for key in ["blobs", "config", "layers", "manifests"] {
        for written in top(key) {
            let descriptors: Vec<&Value> = match written {
                Value::Array(items) => items.iter().collect(),
                Value::Null => Vec::new(),
                one => vec![one],
            };
            for descriptor in descriptors {
                let urls = spelled(descriptor, "urls").into_iter().any(|urls| urls != &Value::Array(vec![]));
                for digest in spelled(descriptor, "digest") {
                    let digest: Digest = digest.as_str().expect("a text").parse().expect("a digest");
                    let edge = manifest.edges.iter().find(|(_, edge)| edge.digest == digest);
                    let (_, edge) = edge.unwrap_or_else(|| panic!("a client sees {digest}, we do not"));
                    assert_eq!(
                        urls,
                        !edge.urls.is_empty(),
                        "what a client sees of the addresses of {digest}"
                    );
                    for size in spelled(descriptor, "size") {
                        assert_eq!(size.as_u64(), Some(edge.size), "a client sees another size of {digest}");
                    }
                }
            }
        }
    }
}

/// `policy.toml`: read or refused; whatever was read, no decision is made by luck.
pub fn policy(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let path = Path::new("policy.toml");
    let policy = match pullgate::settings::policy::parse(path, text) {
        Ok(policy) => policy,
        Err(error) => return show(text, &error),
    };
    // Another copy hashes its maps otherwise: no answer may hang on their order.
    let twin = pullgate::settings::policy::parse(path, text).expect("the same text is read the same");
    let now = Timestamp::UNIX_EPOCH;
    let registries = policy.registries();
    registries.iter().for_each(check_registry);
    let mut references: Vec<Reference> = PULLS.iter().map(|text| text.parse().expect(text)).collect();
    references.extend(policy.tests().iter().take(16).map(|test| test.pull.clone()));
    references.extend(policy.pins().take(16).map(|pin| Reference {
        name: pin.name.clone(),
        tag: pin.tag.clone(),
        digest: Some(pin.digest),
    }));
    for reference in &references {
        for what in whats(reference) {
            let ask = Ask { name: reference.name.clone(), what };
            for class in [Class::Anonymous, Class::Client("ci".into()), Class::Unknown] {
                let caller = caller(class);
                let decision = policy.decide(&caller, &ask, &Facts::default(), now);
                let other = twin.decide(&caller, &ask, &Facts::default(), now);
                assert_eq!(format!("{decision:?}"), format!("{other:?}"), "{}", ask.reference());
                let known = registries.contains(ask.name.registry());
                match &decision.outcome {
                    Outcome::Refuse(refusal) => {
                        let first = refusal.reasons.first().expect("a refusal has a reason");
                        assert_eq!(refusal.code, first.code);
                    }
                    _ => {
                        assert!(known, "{} of a registry nobody named", ask.reference());
                        assert_ne!(caller.class, Class::Unknown, "a token of nobody");
                    }
                }
                if let What::Tag(tag) = &ask.what {
                    let suggested = policy.suggest(&caller, &ask.name, tag, std::iter::empty());
                    if let Some(suggested) = suggested {
                        assert!(policy.admits_tag(&caller, &ask.name, &suggested), "{tag} -> {suggested}");
                    }
                }
            }
        }
        let offline = policy.offline(None, reference, &Given::default(), now);
        let other = twin.offline(None, reference, &Given::default(), now);
        assert_eq!(format!("{offline:?}"), format!("{other:?}"), "{reference}");
    }
    for test in policy.tests().iter().take(16) {
        let (one, other) = (policy.run(test, now), twin.run(test, now));
        assert_eq!(format!("{one:?}"), format!("{other:?}"), "{}", test.pull);
    }
}

/// `[registry/]repository[:tag][@digest]`: one normal form, which means itself.
pub fn reference(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(reference) = text.parse::<Reference>() else { return };
    let normal = reference.to_string();
    assert_eq!(normal.parse().as_ref(), Ok(&reference), "{normal}");
    assert!(reference.tag.is_some() || reference.digest.is_some(), "no tag means latest");
    check_name(&reference.name);
    let caller_wrote_ip = looks_like_ip(reference.name.registry());
    assert_eq!(reference.name.registry().is_ip(), caller_wrote_ip, "{normal}");

    // What a person writes and what a client asks for in the long form is one image.
    let naming = naming("docker.io", &[]);
    let last = match (&reference.digest, &reference.tag) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    let path = format!("/v2/{}/manifests/{last}", reference.name);
    match Request::parse("GET", &path, None, &naming) {
        Ok(Request::Pull(pull)) => {
            assert_eq!(pull.ask.name, reference.name);
            assert!(!caller_wrote_ip, "{path}");
        }
        outcome => assert!(caller_wrote_ip, "{path}: {outcome:?}"),
    }
}

/// `METHOD path[?query]`, one line.
pub fn request(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let (method, target) = text.trim_end_matches('\n').split_once(' ').unwrap_or(("GET", text));
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    for naming in [naming("docker.io", &["docker.io", "ghcr.io", "127.0.0.1:5000"]), naming("quay.io", &[])] {
        match Request::parse(method, path, query, &naming) {
            Ok(Request::Pull(pull)) => check_pull(&pull, &naming),
            Ok(Request::Ping) => assert!(path == "/v2" || path == "/v2/", "{path}"),
            Err(error) => assert!(error.to_string().len() < 2048, "{error}"),
        }
    }
}

/// References every policy is asked about; the last three are other people's registries.
const PULLS: [&str; 9] = [
    "python",
    "python:3.11.9",
    "docker.io/library/postgres:16.4-bookworm",
    "docker.io/pgvector/pgvector@sha256:1111111111111111111111111111111111111111111111111111111111111111",
    "ghcr.io/makercorn/nbedr:sha256-1111111111111111111111111111111111111111111111111111111111111111.sig",
    "gcr.io/distroless/static-debian12:nonroot",
    "docker.io.evil.com/library/python:1.2.3",
    "gcr.io.evil.com/distroless/static:1.2.3",
    "localhost:5000/ghcr.io/app:1.2.3",
];

fn whats(reference: &Reference) -> Vec<What> {
    let digest = reference.digest.unwrap_or_else(|| Digest::sha256(b""));
    let mut whats = vec![What::Blob(digest), What::Digest(digest), What::Referrers(digest), What::Tags];
    whats.extend(reference.tag.clone().map(What::Tag));
    whats
}

fn caller(class: Class) -> Caller {
    Caller {
        class,
        attribution: Attribution::None,
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        proxy: None,
        certificate: None,
        user_agent: None,
    }
}

fn naming(default: &str, known: &[&str]) -> Naming {
    let registry = |text: &str| -> Registry { text.parse().expect(text) };
    Naming { default_registry: registry(default), known: known.iter().copied().map(registry).collect() }
}

fn check_pull(pull: &Pull, naming: &Naming) {
    let name = &pull.ask.name;
    check_name(name);
    let registry = name.registry();
    assert!(!looks_like_ip(registry) || naming.known.contains(registry), "{name}");
    if let Some(ns) = &pull.ns {
        assert_eq!((ns, pull.form), (registry, Form::Ns), "ns decides");
    }

    // Whatever the form it came in, the long forms of the same image ask the same.
    let repository = name.repository();
    let again = |path: &str, query: Option<&str>| match Request::parse("GET", path, query, naming) {
        Ok(Request::Pull(again)) => again,
        outcome => panic!("{path}?{query:?}: {outcome:?}"),
    };
    let rest = match &pull.ask.what {
        What::Blob(digest) => format!("blobs/{digest}"),
        What::Digest(digest) => format!("manifests/{digest}"),
        What::Referrers(digest) => format!("referrers/{digest}"),
        What::Tag(tag) => format!("manifests/{tag}"),
        What::Tags => "tags/list".to_owned(),
    };
    let ns = format!("ns={registry}");
    let prefixed = format!("/v2/{name}/{rest}");
    assert_eq!(again(&prefixed, None).ask, pull.ask, "{prefixed}");
    assert_eq!(again(&prefixed, Some(&ns)).ask, pull.ask, "{prefixed}?{ns}");
    // Without the prefix, ns alone: unless the repository itself begins like a registry.
    let first = repository.as_str().split('/').next().unwrap_or_default();
    if !Registry::looks_like_one(first) {
        let bare = format!("/v2/{repository}/{rest}");
        assert_eq!(again(&bare, Some(&ns)).ask, pull.ask, "{bare}?{ns}");
    }
}

/// The normal form of a name is a name, and the same one.
fn check_name(name: &Name) {
    let normal = name.to_string();
    assert_eq!(normal.parse().as_ref(), Ok(name), "{normal}");
    let repository = name.repository();
    assert_eq!(repository.as_str().parse::<Repository>().as_ref(), Ok(repository));
    assert!(repository.as_str().len() <= 255, "{normal}");
    let odd = |c: char| c.is_ascii_uppercase() || !c.is_ascii_graphic() || "%\\@?#&".contains(c);
    assert!(!normal.contains(odd), "{normal:?}");
    assert!(!normal.split('/').any(|part| part.is_empty() || part.starts_with('.') || part.contains("..")));
    check_registry(name.registry());
}

fn check_registry(registry: &Registry) {
    assert_eq!(registry.as_str().parse::<Registry>().as_ref(), Ok(registry));
    assert!(Registry::looks_like_one(registry.as_str()), "{registry} reads as a repository");
    assert!(!registry.as_str().ends_with('.') && !registry.host().ends_with('.'), "{registry}");
    assert!(!looks_like_ip(registry) || registry.is_ip(), "{registry}");
}

/// Whether what fetches from it would take its host for an address.
fn looks_like_ip(registry: &Registry) -> bool {
    match url::Host::parse(registry.host()) {
        Ok(url::Host::Domain(_)) => false,
        Ok(url::Host::Ipv4(_) | url::Host::Ipv6(_)) => true,
        // No host at all: nothing can be fetched from it, whatever it is called.
        Err(_) => registry.is_ip(),
    }
}

fn content_type(input: &[u8]) -> (Option<&str>, &[u8]) {
    let split = || {
        let rest = input.strip_prefix(b"Content-Type: ")?;
        let end = rest.iter().position(|byte| *byte == b'\n')?;
        Some((std::str::from_utf8(&rest[..end]).ok()?, &rest[end + 1..]))
    };
    split().map_or((None, input), |(content_type, bytes)| (Some(content_type), bytes))
}

/// The values under a key in any spelling that Go's decoder takes for it.
fn spelled<'v>(value: &'v Value, key: &str) -> Vec<&'v Value> {
    let fold = |text: &str| text.replace('\u{17f}', "s").replace('\u{212a}', "k").to_ascii_lowercase();
    let Value::Object(members) = value else { return Vec::new() };
    members.iter().filter(|(name, _)| fold(name) == key).map(|(_, value)| value).collect()
}

/// A refused file says so in one line, at a place that exists, and can be drawn.
fn show(text: &str, error: &FileError) {
    assert!(!error.problems().is_empty(), "refused without a word");
    for problem in error.problems() {
        assert!(!problem.message.is_empty());
        if let Some(span) = &problem.span {
            assert!(text.get(span.clone()).is_some(), "{span:?} is no part of the file");
        }
    }
    assert!(!error.to_string().contains('\n'), "{error}");
    let mut drawn = String::new();
    let theme = miette::GraphicalTheme::unicode_nocolor();
    let drawing = miette::GraphicalReportHandler::new_themed(theme).render_report(&mut drawn, error);
    assert!(drawing.is_ok() && !drawn.is_empty());
}
