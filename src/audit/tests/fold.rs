use super::*;

#[tokio::test]
async fn equal_refusals_are_one_decision_and_a_count() {
    let fixture = Fixture::new().await;
    let (client, judged) = (caller("10.0.0.1"), refusal("docker.io/library/python:3.11"));
    let first = fixture.refuse(&client, &judged).await;
    for _ in 0..4 {
        fixture.wait(1);
        let again = fixture.refuse(&client, &judged).await;
        assert_eq!(again.id, first.id);
        assert_eq!(again.sentence, first.sentence);
    }
    let before = fixture.entries().await;
    assert_eq!(before[0].number(&["count"]), Some(1), "counts lag");
    fixture.log.flush().await.unwrap();
    let entries = fixture.entries().await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].number(&["count"]), Some(5));
    assert_eq!(entries[0].text(&["first"]), Some("2026-11-01T10:00:00.000Z"));
    assert_eq!(entries[0].text(&["last"]), Some("2026-11-01T10:00:04.000Z"));
}

#[tokio::test]
async fn refusals_that_differ_in_client_agent_reference_or_policy_are_apart() {
    let fixture = Fixture::new().await;
    let judged = refusal("docker.io/library/python:3.11");
    let mut agent = caller("10.0.0.1");
    agent.user_agent = Some("docker/27".into());
    let newer = Judged::new(Judgement {
        policy: Arc::new(PolicyStamp { revision: "2026.12".to_owned(), ..(*stamp()).clone() }),
        ..judged.judgement().clone()
    });
    let mut ids = Vec::new();
    ids.push(fixture.refuse(&caller("10.0.0.1"), &judged).await.id);
    ids.push(fixture.refuse(&caller("10.0.0.2"), &judged).await.id);
    ids.push(fixture.refuse(&agent, &judged).await.id);
    ids.push(fixture.refuse(&caller("10.0.0.1"), &refusal("docker.io/library/python:3.12")).await.id);
    ids.push(fixture.refuse(&caller("10.0.0.1"), &newer).await.id);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 5);
}

#[tokio::test]
async fn a_repeat_lags_at_most_a_minute() {
    let fixture = Fixture::new().await;
    let (client, judged) = (caller("10.0.0.1"), refusal("docker.io/library/python:3.11"));
    fixture.refuse(&client, &judged).await;
    fixture.refuse(&client, &judged).await;
    fixture.wait(44);
    fixture.log.tick().await.unwrap();
    assert_eq!(fixture.entries().await[0].number(&["count"]), Some(1), "not due yet");
    // Ticks come every 15 s: whatever is 45 s old is written within the minute.
    fixture.wait(1);
    fixture.log.tick().await.unwrap();
    assert_eq!(fixture.entries().await[0].number(&["count"]), Some(2));
    fixture.wait(60);
    fixture.log.tick().await.unwrap();
    assert_eq!(fixture.entries().await[0].number(&["count"]), Some(2), "nothing is counted twice");
}

#[tokio::test]
async fn a_kubelet_that_never_gives_up_writes_one_decision_an_hour() {
    let fixture = Fixture::new().await;
    let (client, judged) = (caller("10.0.0.1"), refusal("docker.io/library/python:3.11"));
    for _ in 0..36 {
        fixture.refuse(&client, &judged).await;
        fixture.log.tick().await.unwrap();
        fixture.wait(300);
    }
    fixture.log.flush().await.unwrap();
    let counts: Vec<_> =
        fixture.entries().await.iter().map(|entry| entry.number(&["count"]).unwrap()).collect();
    assert_eq!(counts.iter().sum::<u64>(), 36);
    assert_eq!(counts, [13, 13, 10]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_first_refusals_at_once_wait_for_one_commit() {
    let fixture = Fixture::new().await;
    let judged = refusal("docker.io/library/python:3.11");
    let commits = fixture.log.status().commits;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let (log, judged) = (fixture.log.clone(), Arc::clone(&judged));
        tasks.spawn(async move {
            log.refused(draft(&caller("10.0.0.1"), &judged, "GET"), words).await.unwrap().id
        });
    }
    let mut ids = tasks.join_all().await;
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(fixture.log.status().commits - commits, 1);
    fixture.log.flush().await.unwrap();
    assert_eq!(fixture.entries().await[0].number(&["count"]), Some(64));
}

#[tokio::test]
async fn a_client_that_hangs_up_does_not_spoil_the_refusal_for_the_next() {
    let fixture = Fixture::new().await;
    let (client, judged) = (caller("10.0.0.1"), refusal("docker.io/library/python:3.11"));
    {
        let mut gone = Box::pin(fixture.log.refused(draft(&client, &judged, "GET"), words));
        assert!(futures_util::poll!(&mut gone).is_pending());
    }
    let next = fixture.refuse(&client, &judged).await;
    let entries = fixture.entries().await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].text(&["id"]), Some(&*next.id.to_string()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_made_up_names_writes_little_and_pushes_nobody_out() {
    let fixture = Fixture::new().await;
    let other = caller("10.0.0.9");
    let judged = refusal("docker.io/library/python:3.11");
    let evidence = fixture.refuse(&other, &judged).await;
    let flooder = caller("10.0.0.1");
    let mut flood_ids = std::collections::HashSet::new();
    for number in 0..100_000 {
        let made_up = refusal(&format!("docker.io/library/made-up-{number}:1"));
        let refused = fixture.refuse(&flooder, &made_up).await;
        assert!(refused.sentence.message.contains(&refused.id.to_string()));
        if number >= 60 {
            flood_ids.insert(refused.id);
        }
    }
    assert_eq!(flood_ids.len(), 1, "one row for all beyond the limit");
    assert_eq!(fixture.refuse(&other, &judged).await.id, evidence.id, "the other's fold is still there");
    let newcomer = fixture.refuse(&caller("10.0.0.8"), &judged).await;
    assert!(fixture.log.status().folds < 100);
    fixture.wait(60);
    fixture.log.tick().await.unwrap();
    let entries = fixture.entries().await;
    assert_eq!(entries.len(), 1 + 60 + 1 + 1);
    assert!(entries.iter().any(|entry| entry.text(&["id"]) == Some(&*newcomer.id.to_string())));
    let flood = entries.iter().find(|entry| entry.text(&["kind"]) == Some("flood")).unwrap();
    assert_eq!(flood.number(&["count"]), Some(100_000 - 60));
    assert_eq!(flood.text(&["client", "address"]), Some("10.0.0.1"));
    assert_eq!(flood.text(&["reason", "code"]), Some("tag.not_allowed"));
    assert_eq!(flood.event["sample"].as_array().unwrap().len(), 32);
    assert_eq!(flood.event["sample"][0], "docker.io/library/made-up-60:1");
    let status = fixture.log.status();
    assert!(status.used < 2 << 20, "{} bytes", status.used);
    // The minute is over: its next refusals are decisions again.
    let after = fixture.refuse(&flooder, &refusal("docker.io/library/after:1")).await;
    assert!(!flood_ids.contains(&after.id));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_floods_for_many_minutes_fills_nothing_and_loses_nobody_elses_evidence() {
    let fixture = Fixture::new().await;
    let (other, judged) = (caller("10.0.0.9"), refusal("docker.io/library/python:3.11"));
    let evidence = fixture.refuse(&other, &judged).await;
    drop(fixture.allow(&other, &tag("docker.io/library/postgres:16.4", "pg"), "GET"));
    fixture.log.flush().await.unwrap();
    let before = fixture.entries().await.len();
    let flooder = caller("10.0.0.1");
    // benches/record.rs does the same with a million names.
    for number in 0..20_000 {
        fixture.refuse(&flooder, &refusal(&format!("docker.io/library/made-up-{number}:1"))).await;
        if number % 2_000 == 1_999 {
            assert_eq!(fixture.refuse(&other, &judged).await.id, evidence.id, "its fold goes on");
            fixture.wait(60);
            fixture.log.tick().await.unwrap();
        }
    }
    fixture.log.flush().await.unwrap();
    let status = fixture.log.status();
    assert!(status.used < 5 << 20, "{} bytes", status.used);
    assert_eq!((status.removed, status.unrecorded), (0, 0), "nothing had to make room");
    let entries = fixture.entries().await;
    assert_eq!(entries.len(), before + 10 * 61, "sixty and a flood a minute");
    assert_eq!(entries[0].number(&["count"]), Some(11));
    let flooded: u64 = entries
        .iter()
        .filter(|entry| entry.text(&["client", "address"]) == Some("10.0.0.1"))
        .map(|entry| entry.number(&["count"]).unwrap())
        .sum();
    assert_eq!(flooded, 20_000, "each refusal is counted");
    let allowed = Filter { verdict: Some(Verdict::Allow), ..Filter::default() };
    assert_eq!(read(fixture.folder.path(), allowed).await.len(), 1);
}

#[tokio::test]
async fn an_ipv6_network_is_one_flooder_whatever_addresses_it_takes() {
    let fixture = Fixture::new().await;
    for number in 0..500 {
        let client = caller(&format!("2001:db8:0:1::{number:x}"));
        fixture.refuse(&client, &refusal(&format!("docker.io/library/made-up-{number}:1"))).await;
    }
    fixture.log.flush().await.unwrap();
    let entries = fixture.entries().await;
    assert_eq!(entries.len(), 61);
    let flood = entries.last().unwrap();
    assert_eq!(flood.text(&["client", "address"]), Some("2001:db8:0:1::/64"));
    assert_eq!(flood.number(&["count"]), Some(440));
}

#[test]
fn folds_are_bounded_whoever_asks_and_the_counts_of_those_that_go_are_written() {
    let (folds, judged) = (refusals::Refusals::new(), refusal("docker.io/library/python:3.11"));
    let new_id = || Ulid::from_parts(0, 1);
    let (done, settled) = tokio::sync::watch::channel(Some(Ok(())));
    let mut written = 0;
    for number in 0..20_000_u32 {
        let client = caller(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string());
        let key = refusals::Key::of(&draft(&client, &judged, "GET"));
        let now = i64::from(number);
        let admit = || Ok::<_, ()>(refusals::Fold::new(new_id(), new_id(), now, settled.clone()));
        match folds.open(key.clone(), now, &new_id, admit) {
            refusals::Opened::New(_, rows) => written += rows.len(),
            _ => panic!("every client is new"),
        }
        assert!(folds.meet(&key, now).is_some());
    }
    assert!(folds.len() <= 16 * 512, "{}", folds.len());
    written += folds.tick(20_000, true, &new_id).len();
    assert_eq!(written, 20_000, "each was met once more, and each count was written");
    drop(done);
}

#[tokio::test]
async fn a_pull_is_one_decision_whatever_requests_it_takes() {
    let fixture = Fixture::new().await;
    let client = caller("10.0.0.1");
    let name = "docker.io/library/python";
    let image = tag("docker.io/library/python:3.11.9", "index");
    let mut head = fixture.allow(&client, &image, "HEAD");
    head.status(200);
    let pull = head.pull_id();
    drop(head);
    for (judged, bytes) in [
        (by_digest(name, "index", &["index"]), 100),
        (by_digest(name, "manifest", &["manifest", "index"]), 200),
        (blob(name, "config", &["manifest", "index"]), 300),
        (blob(name, "layer", &["manifest"]), 4000),
    ] {
        let mut receipt = fixture.allow(&client, &judged, "GET");
        assert_eq!(receipt.pull_id(), pull);
        fixture.wait(1);
        receipt.served(bytes);
        receipt.status(200);
        receipt.cache(if bytes == 300 { Cache::Miss } else { Cache::Hit });
    }
    fixture.wait(10);
    fixture.log.tick().await.unwrap();
    let entries = fixture.entries().await;
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    assert_eq!(entry.text(&["verdict"]), Some("allow"));
    assert_eq!(entry.text(&["image", "tag"]), Some("3.11.9"));
    assert_eq!(entry.text(&["image", "digest"]), Some(&*digest("index").to_string()));
    assert_eq!(entry.number(&["count"]), Some(1));
    assert_eq!(entry.number(&["bytes"]), Some(4600));
    assert_eq!(entry.number(&["duration_ms"]), Some(4000));
    assert_eq!(entry.text(&["cache"]), Some("miss"));
    assert_eq!(entry.number(&["http", "status"]), Some(200));
    assert_eq!(entry.text(&["client", "join"]), Some("guessed"));
}

#[tokio::test]
async fn the_same_pull_again_is_counted_within_the_minute_and_written_anew_in_the_next() {
    let fixture = Fixture::new().await;
    let (client, image) = (caller("10.0.0.1"), tag("docker.io/library/python:3.11.9", "index"));
    for _ in 0..3 {
        drop(fixture.allow(&client, &image, "HEAD"));
        drop(fixture.allow(&client, &image, "GET"));
        fixture.wait(10);
    }
    fixture.wait(60);
    drop(fixture.allow(&client, &image, "HEAD"));
    drop(fixture.allow(&client, &image, "GET"));
    fixture.log.flush().await.unwrap();
    let counts: Vec<_> = fixture.entries().await.iter().map(|entry| entry.number(&["count"])).collect();
    assert_eq!(counts, [Some(3), Some(1)]);
}

#[tokio::test]
async fn a_digest_that_two_tags_led_to_is_joined_as_ambiguous() {
    let fixture = Fixture::new().await;
    let client = caller("10.0.0.1");
    drop(fixture.allow(&client, &tag("docker.io/library/python:3.11.9", "index"), "HEAD"));
    drop(fixture.allow(&client, &tag("docker.io/library/python:3.11.9-bookworm", "index"), "HEAD"));
    let mut receipt =
        fixture.allow(&client, &by_digest("docker.io/library/python", "index", &["index"]), "GET");
    receipt.served(10);
    drop(receipt);
    fixture.log.flush().await.unwrap();
    let entries = fixture.entries().await;
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].text(&["client", "join"]), Some("guessed"));
    assert_eq!(entries[1].text(&["client", "join"]), Some("ambiguous"));
    assert_eq!(entries[1].event["client"]["candidates"], serde_json::json!(["3.11.9", "3.11.9-bookworm"]));
}

#[tokio::test]
async fn a_pull_is_joined_by_its_own_client_within_five_minutes_only() {
    let fixture = Fixture::new().await;
    let image = tag("docker.io/library/python:3.11.9", "index");
    let pull = fixture.allow(&caller("10.0.0.1"), &image, "HEAD").pull_id();
    let later = by_digest("docker.io/library/python", "index", &["index"]);
    assert_ne!(fixture.allow(&caller("10.0.0.2"), &later, "GET").pull_id(), pull, "another address");
    let elsewhere = by_digest("docker.io/library/other", "index", &["index"]);
    assert_ne!(fixture.allow(&caller("10.0.0.1"), &elsewhere, "GET").pull_id(), pull, "another repository");
    fixture.wait(299);
    assert_eq!(fixture.allow(&caller("10.0.0.1"), &later, "GET").pull_id(), pull);
    fixture.wait(299);
    assert_eq!(fixture.allow(&caller("10.0.0.1"), &later, "GET").pull_id(), pull, "the window slides");
    fixture.wait(301);
    assert_ne!(fixture.allow(&caller("10.0.0.1"), &later, "GET").pull_id(), pull);
}

#[tokio::test]
async fn a_refused_part_of_a_pull_names_the_pull() {
    let fixture = Fixture::new().await;
    let client = caller("10.0.0.1");
    let image = tag("docker.io/library/python:3.11.9", "index");
    let pull = fixture.allow(&client, &image, "HEAD").pull_id();
    let part = by_digest("docker.io/library/python", "arm", &["index"]);
    let part = refused_for(part.judgement().image.clone(), Code::MediaRefused);
    let refused = fixture.refuse(&client, &part).await;
    let entry = fixture.log.reader().find(&refused.id).await.unwrap().unwrap();
    assert_eq!(entry.text(&["pull_id"]), Some(&*pull.to_string()));
    assert_eq!(entry.text(&["image", "root_digest"]), Some(&*digest("index").to_string()));
}

#[tokio::test]
async fn a_reply_under_way_is_never_forgotten() {
    let fixture = Fixture::new().await;
    let client = caller("10.0.0.1");
    let mut slow = fixture.allow(&client, &tag("docker.io/library/python:3.11.9", "index"), "GET");
    for _ in 0..90 {
        fixture.wait(60);
        fixture.log.tick().await.unwrap();
    }
    slow.served(7);
    drop(slow);
    fixture.log.flush().await.unwrap();
    assert_eq!(fixture.entries().await[0].number(&["bytes"]), Some(7));
}

#[tokio::test]
async fn closing_writes_what_is_still_in_memory() {
    let fixture = Fixture::new().await;
    let client = caller("10.0.0.1");
    let judged = refusal("docker.io/library/python:3.11");
    fixture.refuse(&client, &judged).await;
    fixture.refuse(&client, &judged).await;
    let mut receipt = fixture.allow(&client, &tag("docker.io/library/python:3.11.9", "index"), "GET");
    receipt.served(5);
    drop(receipt);
    fixture.log.close().await;
    let entries = fixture.entries().await;
    assert_eq!(entries[0].number(&["count"]), Some(2));
    assert_eq!(entries[1].number(&["bytes"]), Some(5));
}

#[tokio::test]
async fn a_part_that_was_judged_otherwise_is_a_decision_of_its_own_within_the_pull() {
    let fixture = Fixture::new().await;
    let client = caller("10.0.0.1");
    let pull = fixture.allow(&client, &tag("docker.io/library/python:3.11.9", "index"), "HEAD").pull_id();
    let part = by_digest("docker.io/library/python", "manifest", &["index"]);
    let reasons =
        vec![Reason { code: Code::MediaRefused, text: "schema 1 is not accepted".to_owned(), remedy: None }];
    let softened = Judgement { verdict: Verdict::Warn, enforced: false, reasons, ..part.judgement().clone() };
    let receipt = fixture.allow(&client, &Judged::new(softened), "GET");
    assert_eq!(receipt.pull_id(), pull);
    assert_ne!(receipt.id(), pull);
    drop(receipt);
    fixture.log.flush().await.unwrap();
    let entries = fixture.entries().await;
    let verdicts: Vec<_> = entries.iter().map(|entry| entry.text(&["verdict"]).unwrap()).collect();
    assert_eq!(verdicts, ["allow", "warn"]);
    assert_eq!(entries[1].event["enforced"], false);
    assert!(entries.iter().all(|entry| entry.text(&["pull_id"]) == Some(&*pull.to_string())));
}

#[test]
fn open_pulls_are_bounded_whoever_asks_and_what_those_that_go_moved_is_written() {
    let (pulls, clock) = (pulls::Pulls::new(), Clock::manual(Timestamp::UNIX_EPOCH));
    let (mut opened, mut written) = (0, 0);
    let mut pull = |client: &Caller, image: &Arc<Judged>| {
        let now = clock.now().as_millisecond();
        let met = pulls.meet(&draft(client, image, "GET"), now, false, &|| Ulid::from_parts(0, 1));
        Receipt::new(met.open, clock.clone()).served(1);
        opened += 1;
        written += met.rows.len();
    };
    let image = tag("docker.io/library/python:3.11.9", "index");
    for number in 0..100_000_u32 {
        pull(&caller(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string()), &image);
    }
    let client = caller("10.255.0.1");
    for number in 0..100 {
        pull(&client, &tag(&format!("docker.io/library/python:3.11.{number}"), &format!("index {number}")));
    }
    assert!(pulls.len() <= 64 * 1024 + 32, "{}", pulls.len());
    assert_eq!(pulls.len() + written, opened, "whatever made room was written");
}
