//! What the record costs: allowed pulls folded in memory, refusals committed to disk.
//!
//! `cargo bench --bench record` prints one line each; figures of one run on one machine.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be set up has failed")]
#![expect(clippy::print_stdout, reason = "the figures are the result")]

use std::sync::Arc;
use std::time::Instant;

use pullgate::audit::{
    Cache, Draft, Http, Image, Judged, Judgement, Log, OnFull, PolicyStamp, Sentence, Settings,
};
use pullgate::clock::Clock;
use pullgate::identity::{Attribution, Caller, Class};
use pullgate::oci::{Ask, What};
use pullgate::policy::{Code, Reason, Trace, Verdict};

const FOLDS: u32 = 3_000_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(folds());
    for (waiters, each) in [(1, 2000), (64, 300)] {
        runtime.block_on(refusals(waiters, each));
    }
}

async fn folds() {
    let folder = tempfile::tempdir().unwrap();
    let log = open(&folder).await;
    let (caller, judged) = (caller(), judged("docker.io/library/python", "3.11.9", Verdict::Allow));
    let start = Instant::now();
    for _ in 0..FOLDS {
        let mut receipt = log.allowed(draft(&caller, &judged)).unwrap();
        receipt.served(512);
        receipt.status(200);
        receipt.cache(Cache::Hit);
    }
    println!(
        "{:.2} M allowed pulls/s folded on one core",
        f64::from(FOLDS) / start.elapsed().as_secs_f64() / 1e6
    );
    log.close().await;
}

async fn refusals(waiters: usize, each: usize) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let log = open(&folder).await;
    let start = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for waiter in 0..waiters {
        let log = log.clone();
        tasks.spawn(async move {
            let mut times = Vec::with_capacity(each);
            for number in 0..each {
                let tag = format!("n{number}");
                let judged = judged(&format!("docker.io/library/w{waiter}"), &tag, Verdict::Deny);
                let start = Instant::now();
                let say = |id: &ulid::Ulid| Sentence {
                    message: format!("blocked by policy {id}"),
                    phrase: String::new(),
                };
                log.refused(draft(&caller(), &judged), say).await.unwrap();
                times.push(start.elapsed());
            }
            times
        });
    }
    let mut times: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    let elapsed = start.elapsed().as_secs_f64();
    times.sort();
    println!(
        "{waiters} waiting clients: {:.0} refusals/s on disk, p50 {:?}, p99 {:?}",
        (waiters * each) as f64 / elapsed,
        times[times.len() / 2],
        times[times.len() * 99 / 100],
    );
    log.close().await;
}

async fn open(folder: &tempfile::TempDir) -> Log {
    let settings = Settings {
        path: folder.path().to_owned(),
        max_size: 1 << 30,
        on_full: OnFull::Serve,
        refusals_per_minute: u32::MAX,
    };
    Log::open(settings, Clock::system()).await.unwrap()
}

fn caller() -> Caller {
    Caller {
        class: Class::Anonymous,
        attribution: Attribution::None,
        address: [10, 0, 0, 1].into(),
        proxy: None,
        certificate: None,
        user_agent: Some("containerd/2.1".into()),
    }
}

fn judged(name: &str, tag: &str, verdict: Verdict) -> Arc<Judged> {
    let ask = Ask { name: name.parse().unwrap(), what: What::Tag(tag.parse().unwrap()) };
    let refusal = Reason { code: Code::TagNotAllowed, text: "not pinned".to_owned(), remedy: None };
    Judged::new(Judgement {
        verdict,
        enforced: true,
        reasons: if verdict == Verdict::Deny { vec![refusal] } else { Vec::new() },
        policy: Arc::new(PolicyStamp::default()),
        trace: Arc::new(Trace::default()),
        image: Image::asked(&ask),
        shadow: None,
    })
}

fn draft<'a>(caller: &'a Caller, judged: &'a Arc<Judged>) -> Draft<'a> {
    Draft { caller, judged, http: Http { method: "GET", path: "/v2/", ns: None, status: None } }
}
