//! Measurements, run by hand: `cargo test --release --lib audit::tests::speed -- --ignored --nocapture`.

use std::time::Instant;

use super::*;

#[tokio::test]
#[ignore = "a measurement"]
async fn folds_of_one_core() {
    let fixture = Fixture::new().await;
    let log = Log::open(settings(tempfile::tempdir().unwrap().path()), Clock::system()).await.unwrap();
    let (client, image) = (caller("10.0.0.1"), tag("docker.io/library/python:3.11.9", "index"));
    let rounds = 3_000_000_u32;
    let start = Instant::now();
    for _ in 0..rounds {
        let mut receipt = log.allowed(draft(&client, &image, "GET")).unwrap();
        receipt.served(512);
        receipt.status(200);
        receipt.cache(Cache::Hit);
    }
    println!("{:.2} M folds/s", f64::from(rounds) / start.elapsed().as_secs_f64() / 1e6);
    drop(fixture);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn refusals_a_second() {
    for waiters in [1, 64] {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let settings =
            Settings { refusals_per_minute: u32::MAX, max_size: 1 << 30, ..settings(folder.path()) };
        let log = Log::open(settings, Clock::system()).await.unwrap();
        let each = if waiters == 1 { 2000 } else { 600 };
        let start = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for waiter in 0..waiters {
            let log = log.clone();
            tasks.spawn(async move {
                let mut times = Vec::new();
                for number in 0..each {
                    let judged = refusal(&format!("docker.io/library/w{waiter}:n{number}"));
                    let start = Instant::now();
                    log.refused(draft(&caller("10.0.0.1"), &judged, "GET"), words).await.unwrap();
                    times.push(start.elapsed());
                }
                times
            });
        }
        let mut times: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
        times.sort();
        let total = times.len();
        println!(
            "{waiters} waiters: {:.0} refusals/s, p50 {:?}, p99 {:?}, {} commits, {} bytes a row",
            total as f64 / start.elapsed().as_secs_f64(),
            times[total / 2],
            times[total * 99 / 100],
            log.status().commits,
            log.status().used / total as u64,
        );
        log.close().await;
    }
}
