//! What the record costs: allowed pulls folded in memory, refusals committed to disk.
//!
//! `cargo bench --bench record` prints one line each; figures of one run on one machine.
//!
//! `cargo bench --bench record -- queries [EVENTS]` fills a log with so many plausible events (1,000,000) and
//! prints how long each filter takes to its first page; it fails when one on an indexed field takes longer
//! than 200 ms. `… -- flood` asks for a million refused names and prints what they cost. `… -- verify
//! [EVENTS]` says how long it takes to prove a log.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot be set up has failed")]
#![expect(clippy::print_stdout, reason = "the figures are the result")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use pullgate::audit::{
    Cache, Draft, Evidence, Filter, Http, Image, Judged, Judgement, Kind, Log, OnFull, Order, Pattern,
    PolicyStamp, Sentence, Settings, verify,
};
use pullgate::clock::Clock;
use pullgate::identity::{Attribution, Caller, Class};
use pullgate::oci::{Ask, Digest, What};
use pullgate::policy::{Code, Reason, Trace, Verdict};

const FOLDS: u32 = 3_000_000;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    // Cargo adds --bench itself.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let events = words.get(1).map_or(1_000_000, |number| number.parse().unwrap());
    match words.first().map(String::as_str) {
        Some("flood") => return runtime.block_on(flood()),
        Some("queries") => return runtime.block_on(queries(events)),
        Some("verify") => return runtime.block_on(prove(events)),
        _ => {}
    }
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
    open_with(folder, u32::MAX, Clock::system()).await
}

async fn open_with(folder: &tempfile::TempDir, refusals_per_minute: u32, clock: Clock) -> Log {
    let settings = Settings {
        path: folder.path().to_owned(),
        max_size: 64 << 30,
        on_full: OnFull::Serve,
        refusals_per_minute,
    };
    Log::open(settings, clock).await.unwrap()
}

fn say(id: &ulid::Ulid) -> Sentence {
    Sentence { message: format!("blocked by policy {id}: not pinned"), phrase: String::new() }
}

/// A month of pulls by 400 clients: 2,000 repositories of which some are asked for far more often than
/// others, a refusal among six decisions.
async fn fill(log: &Log, clock: &Clock, events: u64) {
    let step = Duration::from_secs(30 * 86_400) / u32::try_from(events).unwrap();
    let mut refusals = tokio::task::JoinSet::new();
    let mut random = fastrand::Rng::with_seed(19);
    let mut written = 0_u64;
    for number in 0_u64.. {
        let skewed = |random: &mut fastrand::Rng, most: u32| {
            let share = random.f64();
            (share * share * share * f64::from(most)) as u32
        };
        let place = skewed(&mut random, 2_000);
        let registry = if place % 50 == 7 { "quay.io" } else { "docker.io" };
        let name = format!("{registry}/team{}/app{place}", place % 40);
        let tag = format!("1.{}.{}", skewed(&mut random, 30), random.u32(..20));
        let mut caller = caller();
        let client = skewed(&mut random, 400);
        caller.address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + client).into();
        if client % 4 == 0 {
            caller.class = Class::Client(format!("client{client}").into());
        }
        if number % 6 == 5 {
            let code = if number % 600 == 5 { Code::SourceUnknown } else { Code::TagNotAllowed };
            let judged = judged_for(&name, &tag, Verdict::Deny, code);
            let log = log.clone();
            refusals.spawn(async move { log.refused(draft(&caller, &judged), say).await.map(drop) });
            written += 1;
        } else {
            let judged = judged(&name, &tag, Verdict::Allow);
            let mut receipt = log.allowed(draft(&caller, &judged)).unwrap();
            receipt.served(1 << 20);
            receipt.status(200);
            receipt.cache(Cache::Hit);
            // And its transfer.
            written += 2;
        }
        clock.advance(step * 2);
        if number % 2_000 == 1_999 {
            while let Some(done) = refusals.join_next().await {
                done.unwrap().unwrap();
            }
            log.flush().await.unwrap();
            if log.status().rows >= events {
                break;
            }
        }
        assert!(written < events * 4, "equal pulls are folded, but not so many");
    }
    assert_eq!(log.status().unrecorded, 0);
    log.checkpoint().await;
}

async fn filled(events: u64) -> (tempfile::TempDir, Log, Clock) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let clock = Clock::manual("2026-10-01T00:00:00Z".parse().unwrap());
    let log = open_with(&folder, u32::MAX, clock.clone()).await;
    let start = Instant::now();
    fill(&log, &clock, events).await;
    let status = log.status();
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} events, {} MiB, written in {seconds:.0} s ({:.0} events/s)",
        status.rows,
        status.used >> 20,
        status.rows as f64 / seconds,
    );
    (folder, log, clock)
}

async fn queries(events: u64) {
    let (_folder, log, _clock) = filled(events).await;
    let reader = log.reader();
    let text = |text: &str| Some(text.to_owned());
    let words = |text: &str| Some(Pattern::words(text));
    let any = || Filter { limit: Some(50), ..Filter::default() };
    let moment = |text: &str| Some(text.parse().unwrap());
    let one = reader.entries(Filter { tag: text("1.3.7"), ..any() }).next().await.unwrap().unwrap();
    let digest = one.text(&["image", "digest"]).unwrap();
    let id = one.text(&["id"]).unwrap().parse().ok();
    let filters = [
        ("nothing", any()),
        ("registry, most", Filter { registry: text("docker.io"), ..any() }),
        ("registry, few", Filter { registry: text("quay.io"), ..any() }),
        ("registry, none", Filter { registry: text("ghcr.io"), ..any() }),
        ("repository, many", Filter { repository: text("team0/app0"), ..any() }),
        ("repository, few", Filter { repository: text("team39/app1999"), ..any() }),
        ("repository, none", Filter { repository: text("team0/app9999"), ..any() }),
        ("tag, many", Filter { tag: text("1.0.1"), ..any() }),
        ("tag, none", Filter { tag: text("9.9.9"), ..any() }),
        ("digest", Filter { digest: text(digest), ..any() }),
        ("digest, 12 characters", Filter { digest: digest.get(7..19).map(str::to_owned), ..any() }),
        ("digest, none", Filter { digest: text("sha256:000000000000"), ..any() }),
        ("client by name", Filter { client: words("client4"), ..any() }),
        ("client by address", Filter { client: words("10.0.0.1"), ..any() }),
        ("client, none", Filter { client: words("10.9.9.9"), ..any() }),
        ("reason, many", Filter { reason: Some(Code::TagNotAllowed), ..any() }),
        ("reason, few", Filter { reason: Some(Code::SourceUnknown), ..any() }),
        ("reason, none", Filter { reason: Some(Code::Recall), ..any() }),
        ("verdict allow", Filter { verdict: Some(Verdict::Allow), ..any() }),
        ("verdict deny", Filter { verdict: Some(Verdict::Deny), ..any() }),
        ("verdict warn, none", Filter { verdict: Some(Verdict::Warn), ..any() }),
        ("blocked", Filter { blocked: true, ..any() }),
        ("kind, few", Filter { kinds: vec![Kind::Checkpoint], ..any() }),
        ("kind, none", Filter { kinds: vec![Kind::Drift, Kind::Recall], ..any() }),
        ("since", Filter { since: moment("2026-10-15T12:00:00Z"), ..any() }),
        ("since, none", Filter { since: moment("2027-01-01T00:00:00Z"), ..any() }),
        ("until", Filter { until: moment("2026-10-15T12:00:00Z"), ..any() }),
        ("until, none", Filter { until: moment("2026-01-01T00:00:00Z"), ..any() }),
        (
            "an hour, blocked",
            Filter {
                since: moment("2026-10-15T12:00:00Z"),
                until: moment("2026-10-15T13:00:00Z"),
                blocked: true,
                ..any()
            },
        ),
        ("id", Filter { id, ..any() }),
        ("image in full", Filter { image: Some(Pattern::image("docker.io/team0/app0:1.0.1")), ..any() }),
        (
            "repository, tag, client",
            Filter { repository: text("team0/app0"), tag: text("1.0.1"), client: words("10.0.0.1"), ..any() },
        ),
        ("registry few, reason few", {
            Filter { registry: text("quay.io"), reason: Some(Code::SourceUnknown), ..any() }
        }),
    ];
    let mut slow = Vec::new();
    for (name, filter) in filters {
        for order in [Order::NewestFirst, Order::OldestFirst] {
            let (median, found) = timed(&log, &Filter { order, ..filter.clone() }).await;
            println!("{name:26} {order:12?} {median:>10.1?}  {found}");
            if median > Duration::from_millis(200) {
                slow.push((name, order, median));
            }
        }
    }
    for pattern in ["docker.io/team7/*", "*app1999*", "*nothing*"] {
        let image = Some(Pattern::image(pattern));
        let (median, found) = timed(&log, &Filter { image, budget: Some(200_000), ..any() }).await;
        println!("{pattern:26} {:12} {median:>10.1?}  {found}", "a scan");
    }
    assert!(slow.is_empty(), "slower than 200 ms: {slow:?}");
    log.close().await;
}

/// The median of nine times to the first page, and what was found.
async fn timed(log: &Log, filter: &Filter) -> (Duration, String) {
    let (mut times, mut found) = (Vec::new(), String::new());
    for _ in 0..9 {
        let start = Instant::now();
        let mut entries = log.reader().entries(filter.clone());
        let mut count = 0;
        found = loop {
            match entries.next().await {
                Ok(Some(_)) => count += 1,
                Ok(None) => break format!("{count} found"),
                Err(error) => break error.to_string(),
            }
        };
        times.push(start.elapsed());
    }
    times.sort();
    (times[4], found)
}

async fn prove(events: u64) {
    let (folder, log, _clock) = filled(events).await;
    log.close().await;
    let start = Instant::now();
    let proof = verify(folder.path(), &Evidence::default()).await.unwrap();
    assert!(proof.finding.is_none(), "{proof:?}");
    println!(
        "{} events proven in {:.1} s, up to {} of {}",
        proof.events,
        start.elapsed().as_secs_f64(),
        proof.proven,
        proof.last
    );
}

/// One client, a million refused names within ten minutes.
async fn flood() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let clock = Clock::manual("2026-10-01T00:00:00Z".parse().unwrap());
    let log = open_with(&folder, 60, clock.clone()).await;
    let other = Caller { address: [10, 0, 0, 9].into(), ..caller() };
    let evidence = judged("docker.io/library/python", "3.11", Verdict::Deny);
    let first = log.refused(draft(&other, &evidence), say).await.unwrap().id;
    let start = Instant::now();
    for number in 0..1_000_000 {
        let made_up = judged(&format!("docker.io/made-up/{number}"), "1", Verdict::Deny);
        log.refused(draft(&caller(), &made_up), say).await.unwrap();
        if number % 100_000 == 99_999 {
            assert_eq!(log.refused(draft(&other, &evidence), say).await.unwrap().id, first);
            clock.advance(Duration::from_secs(60));
            log.tick().await.unwrap();
        }
    }
    log.flush().await.unwrap();
    let status = log.status();
    println!(
        "1,000,000 refused names: {} rows, {} KiB, {:.0} names/s",
        status.rows,
        status.used >> 10,
        1e6 / start.elapsed().as_secs_f64()
    );
    assert!(status.used < 5 << 20 && status.unrecorded == 0 && status.removed == 0, "{status:?}");
    log.close().await;
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
    judged_for(name, tag, verdict, Code::TagNotAllowed)
}

fn judged_for(name: &str, tag: &str, verdict: Verdict, code: Code) -> Arc<Judged> {
    let ask = Ask { name: name.parse().unwrap(), what: What::Tag(tag.parse().unwrap()) };
    let refusal = Reason { code, text: "not pinned".to_owned(), remedy: None };
    let digest = Digest::sha256(format!("{name}:{tag}").as_bytes());
    let mut image = Image::asked(&ask);
    if verdict == Verdict::Allow {
        image.digest = Some(digest);
        image.roots = vec![digest];
    }
    Judged::new(Judgement {
        verdict,
        enforced: true,
        reasons: if verdict == Verdict::Deny { vec![refusal] } else { Vec::new() },
        policy: Arc::new(PolicyStamp::default()),
        trace: Arc::new(Trace::default()),
        image,
        shadow: None,
    })
}

fn draft<'a>(caller: &'a Caller, judged: &'a Arc<Judged>) -> Draft<'a> {
    Draft { caller, judged, http: Http { method: "GET", path: "/v2/", ns: None, status: None } }
}
