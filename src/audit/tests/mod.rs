//! Behaviour of the record.

mod durable;
mod find;
mod fold;
mod full;
mod kept;
mod proof;
mod read;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;
use ulid::Ulid;

use super::*;
use crate::clock::Clock;
use crate::identity::{Attribution, Caller, Class};
use crate::oci::{Ask, Digest, Reference, What};
use crate::policy::{Check, Code, Reason, Trace, Verdict};

/// A log in a folder of its own, under a clock that stands still.
struct Fixture {
    folder: TempDir,
    clock: Clock,
    log: Log,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|settings| settings).await
    }

    async fn with(change: impl FnOnce(Settings) -> Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
        let log = Log::open(change(settings(folder.path())), clock.clone()).await.unwrap();
        Self { folder, clock, log }
    }

    fn wait(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    async fn entries(&self) -> Vec<Entry> {
        read(self.folder.path(), Filter::default()).await
    }

    async fn refuse(&self, caller: &Caller, judged: &Arc<Judged>) -> Refused {
        self.log.refused(draft(caller, judged, "GET"), words).await.unwrap()
    }

    fn allow(&self, caller: &Caller, judged: &Arc<Judged>, method: &'static str) -> Receipt {
        self.log.allowed(draft(caller, judged, method)).unwrap()
    }
}

fn settings(folder: &Path) -> Settings {
    Settings { path: folder.to_owned(), max_size: 64 << 20, on_full: OnFull::Serve, refusals_per_minute: 60 }
}

async fn read(folder: &Path, filter: Filter) -> Vec<Entry> {
    let mut entries = query(folder, filter).await.unwrap();
    let mut all = Vec::new();
    while let Some(entry) = entries.next().await.unwrap() {
        all.push(entry);
    }
    all
}

fn words(id: &Ulid) -> Sentence {
    Sentence { message: format!("blocked by policy {id}: not pinned"), phrase: "blocked".to_owned() }
}

fn draft<'a>(caller: &'a Caller, judged: &'a Arc<Judged>, method: &'a str) -> Draft<'a> {
    let http = Http {
        method,
        path: "/v2/library/python/manifests/3.11?ns=docker.io&token=secret",
        ns: Some("docker.io"),
        status: None,
    };
    Draft { caller, judged, http }
}

fn caller(address: &str) -> Caller {
    Caller {
        class: Class::Anonymous,
        attribution: Attribution::None,
        address: address.parse().unwrap(),
        proxy: None,
        certificate: None,
        user_agent: Some("containerd/1.7.2".into()),
    }
}

fn digest(of: &str) -> Digest {
    Digest::sha256(of.as_bytes())
}

fn ask(reference: &str) -> Ask {
    let reference: Reference = reference.parse().unwrap();
    let what = match (reference.tag, reference.digest) {
        (_, Some(digest)) => What::Digest(digest),
        (Some(tag), None) => What::Tag(tag),
        (None, None) => What::Tags,
    };
    Ask { name: reference.name, what }
}

fn stamp() -> Arc<PolicyStamp> {
    Arc::new(PolicyStamp {
        name: "container-security-policy".to_owned(),
        revision: "2026.11".to_owned(),
        sha256: digest("policy").hex(),
    })
}

fn judgement(image: Image) -> Judgement {
    Judgement {
        verdict: Verdict::Allow,
        enforced: true,
        reasons: Vec::new(),
        policy: stamp(),
        trace: Arc::new(Trace {
            source: Some("docker-official".into()),
            mode: "enforce",
            checks: Vec::new(),
        }),
        image,
        shadow: None,
    }
}

fn refused_for(image: Image, code: Code) -> Arc<Judged> {
    let reasons = vec![Reason {
        code,
        text: "tag \"3.11\" is not pinned".to_owned(),
        remedy: Some("try 3.11-slim-bookworm".to_owned()),
    }];
    let checks = vec![Check {
        id: "tag",
        pass: false,
        observed: "3.11".to_owned(),
        expected: "#.#.#".to_owned(),
        at: Some("policy.toml:41".into()),
        exception: None,
    }];
    let trace = Arc::new(Trace { source: Some("docker-official".into()), mode: "enforce", checks });
    Judged::new(Judgement { verdict: Verdict::Deny, reasons, trace, ..judgement(image) })
}

/// A refused reference.
fn refusal(reference: &str) -> Arc<Judged> {
    refused_for(Image::asked(&ask(reference)), Code::TagNotAllowed)
}

/// An allowed tag that leads to the digest of `content`.
fn tag(reference: &str, content: &str) -> Arc<Judged> {
    let digest = digest(content);
    let image = Image { digest: Some(digest), roots: vec![digest], ..Image::asked(&ask(reference)) };
    Judged::new(judgement(image))
}

/// The digest of `content`, led to by `roots`.
fn by_digest(name: &str, content: &str, roots: &[&str]) -> Arc<Judged> {
    let ask = Ask { name: name.parse().unwrap(), what: What::Digest(digest(content)) };
    let roots = roots.iter().map(|root| digest(root)).collect();
    Judged::new(judgement(Image { roots, ..Image::asked(&ask) }))
}

fn blob(name: &str, content: &str, roots: &[&str]) -> Arc<Judged> {
    let ask = Ask { name: name.parse().unwrap(), what: What::Blob(digest(content)) };
    let roots = roots.iter().map(|root| digest(root)).collect();
    Judged::new(judgement(Image { roots, ..Image::asked(&ask) }))
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}
