//! Behaviour of the projection, against a real record.

mod bounds;
mod counts;
mod lists;
mod paging;
mod states;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::project::Bounds;
use super::*;
use crate::audit::{
    Action, Actor, Draft, Event, Http, Image, Judged, Judgement, Log, OnFull, PolicyStamp, Refused, Sentence,
    Settings, Subject,
};
use crate::clock::Clock;
use crate::identity::{Attribution, Caller, Class};
use crate::oci::{Ask, Digest, Reference, What};
use crate::policy::{Code, Reason, Trace, Verdict};

const START: &str = "2026-11-01T10:00:00Z";

/// A record under a clock that stands still, and what is made of it.
struct Fixture {
    folder: TempDir,
    clock: Clock,
    log: Log,
    review: Review,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Fixture {
    async fn new() -> Self {
        Self::bounded(Bounds::default()).await
    }

    async fn bounded(bounds: Bounds) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::manual(START.parse().unwrap());
        let log = record(folder.path(), &clock, u32::MAX).await;
        let review = Review::open_bounded(folder.path(), clock.clone(), bounds).await.unwrap();
        let (stop, task) = follow(&review, &log);
        Self { folder, clock, log, review, stop, task }
    }

    fn wait(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    async fn refuse(&self, who: &Caller, reference: &str, code: Code) -> Refused {
        refuse(&self.log, who, &refusal(reference, code)).await
    }

    /// Everything that happened until now is written and counted.
    async fn settle(&self) {
        self.log.flush().await.unwrap();
        self.review.settled(&self.log).await.unwrap();
    }

    async fn act(&self, action: Action, subject: &Subject, by: &str, note: Option<&str>) {
        let actor = Actor { name: by.to_owned(), via: "console".to_owned() };
        let event =
            Event::Admin { action, actor, subject: Some(subject.clone()), note: note.map(ToOwned::to_owned) };
        self.log.record(event).await.unwrap();
        self.settle().await;
    }

    async fn groups(&self) -> Vec<Group> {
        all(&self.review, &InboxFilter::default()).await
    }

    async fn group(&self, reference: &str, code: Code) -> Group {
        self.review.group(&subject(reference, code)).await.unwrap().unwrap()
    }

    async fn end(self) -> TempDir {
        self.stop.cancel();
        self.task.await.unwrap();
        self.review.close().await;
        self.log.close().await;
        self.folder
    }
}

async fn record(folder: &Path, clock: &Clock, refusals_per_minute: u32) -> Log {
    let settings = Settings {
        path: folder.to_owned(),
        max_size: 512 << 20,
        on_full: OnFull::Serve,
        refusals_per_minute,
    };
    Log::open(settings, clock.clone()).await.unwrap()
}

fn follow(review: &Review, log: &Log) -> (CancellationToken, JoinHandle<()>) {
    let stop = CancellationToken::new();
    let (review, log, stopped) = (review.clone(), log.clone(), stop.clone());
    let task = tokio::spawn(async move { review.run(log, stopped).await });
    (stop, task)
}

async fn all(review: &Review, filter: &InboxFilter) -> Vec<Group> {
    let (mut groups, mut after) = (Vec::new(), None);
    loop {
        let page = review.inbox(filter, after.as_ref(), 100).await.unwrap();
        groups.extend(page.items);
        match page.next {
            Some(next) => after = Some(next),
            None => return groups,
        }
    }
}

fn subject(reference: &str, code: Code) -> Subject {
    Subject { reference: reference.to_owned(), reason: Some(code) }
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

fn known(name: &str) -> Caller {
    Caller { class: Class::Client(name.into()), attribution: Attribution::Token, ..caller("10.9.9.9") }
}

fn draft<'a>(caller: &'a Caller, judged: &'a Arc<Judged>) -> Draft<'a> {
    let http = Http { method: "GET", path: "/v2/x/manifests/y", ns: None, status: None };
    Draft { caller, judged, http }
}

async fn refuse(log: &Log, caller: &Caller, judged: &Arc<Judged>) -> Refused {
    let words = |id: &ulid::Ulid| Sentence {
        message: format!("blocked by policy {id}: no"),
        phrase: "blocked".to_owned(),
    };
    log.refused(draft(caller, judged), words).await.unwrap()
}

fn ask(reference: &str) -> Ask {
    let reference: Reference = reference.parse().unwrap();
    let what = match (reference.tag, reference.digest) {
        (_, Some(digest)) => What::Digest(digest),
        (tag, None) => What::Tag(tag.unwrap()),
    };
    Ask { name: reference.name, what }
}

fn judged(verdict: Verdict, code: Option<Code>, image: Image) -> Arc<Judged> {
    let reason =
        |code| Reason { code, text: "not allowed".to_owned(), remedy: Some("try another".to_owned()) };
    Judged::new(Judgement {
        verdict,
        enforced: verdict != Verdict::Warn,
        reasons: code.map(reason).into_iter().collect(),
        policy: Arc::new(PolicyStamp::default()),
        trace: Arc::new(Trace { source: Some("hub".into()), ..Trace::default() }),
        image,
        shadow: None,
    })
}

fn refusal(reference: &str, code: Code) -> Arc<Judged> {
    judged(code.verdict(), Some(code), Image::asked(&ask(reference)))
}

fn allowed(reference: &str) -> Arc<Judged> {
    let digest = Digest::sha256(reference.as_bytes());
    let image = Image { digest: Some(digest), roots: vec![digest], ..Image::asked(&ask(reference)) };
    judged(Verdict::Allow, None, image)
}
