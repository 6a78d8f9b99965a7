use std::collections::BTreeMap;

use super::*;
use crate::audit::{Cache, Filter, query};

/// Pulls of every kind by several clients over three hours.
async fn traffic(fixture: &Fixture) {
    let clients = [caller("10.0.0.1"), caller("10.0.0.2"), known("ci"), caller("2001:db8::7")];
    let warned = judged(Verdict::Warn, Some(Code::Age), Image::asked(&ask("docker.io/library/old:1.2.3")));
    for round in 0..36_u64 {
        for (at, client) in clients.iter().enumerate() {
            fixture.refuse(client, "docker.io/library/python:3.11", Code::TagNotAllowed).await;
            if round % 5 == at as u64 {
                fixture.refuse(client, &format!("quay.io/a/b:{round}"), Code::SourceUnknown).await;
            }
            if round % 7 == 0 {
                fixture.refuse(client, "ghcr.io/a/b:v1.0.0", Code::Hold).await;
                fixture.refuse(client, "ghcr.io/a/b:v1.0.0", Code::Age).await;
            }
            let mut receipt =
                fixture.log.allowed(draft(client, &allowed("docker.io/library/postgres:16.4"))).unwrap();
            receipt.served(1000 + round);
            receipt.status(200);
            receipt.cache(if round == 0 { Cache::Miss } else { Cache::Hit });
            drop(receipt);
            drop(fixture.log.allowed(draft(client, &warned)).unwrap());
        }
        fixture.log.tick().await.unwrap();
        fixture.wait(300);
    }
    fixture.settle().await;
}

/// What the record says, joined: pulls by reference and reason, and by client.
async fn joined(folder: &Path) -> (BTreeMap<(String, String), u64>, BTreeMap<String, u64>, u64) {
    let mut entries = query(folder, Filter::default()).await.unwrap();
    let (mut groups, mut verdicts, mut bytes) = (BTreeMap::new(), BTreeMap::new(), 0);
    while let Some(entry) = entries.next().await.unwrap() {
        let text = |path: &[&str]| entry.text(path).unwrap_or_default().to_owned();
        let count = entry.number(&["count"]).unwrap();
        bytes += entry.number(&["bytes"]).unwrap_or(0);
        *verdicts.entry(text(&["verdict"])).or_default() += count;
        if text(&["verdict"]) != "allow" {
            *groups.entry((text(&["image", "reference"]), text(&["reason", "code"]))).or_default() += count;
        }
    }
    (groups, verdicts, bytes)
}

async fn shown(review: &Review) -> BTreeMap<(String, String), u64> {
    let mut groups = all(review, &InboxFilter::default()).await;
    groups
        .extend(all(review, &InboxFilter { kind: Some(GroupKind::Warned), ..InboxFilter::default() }).await);
    groups.into_iter().map(|group| ((group.subject.reference, group.reason), group.count)).collect()
}

#[tokio::test]
async fn what_is_counted_is_what_the_record_joins() {
    let fixture = Fixture::new().await;
    traffic(&fixture).await;
    let (groups, verdicts, bytes) = joined(fixture.folder.path()).await;
    assert_eq!(shown(&fixture.review).await, groups);
    assert!(groups.len() > 30, "{groups:#?}");
    fixture.wait(1);
    let range = START.parse().unwrap()..fixture.clock.now();
    for step in [Step::Hour, Step::Day] {
        let overview = fixture.review.overview(range.clone(), step).await.unwrap();
        let total = overview.total;
        let counted = BTreeMap::from([
            ("allow".to_owned(), total.allow),
            ("deny".to_owned(), total.deny),
            ("hold".to_owned(), total.hold),
            ("warn".to_owned(), total.warn),
        ]);
        assert_eq!(counted, verdicts, "{step:?}");
        assert_eq!(total.bytes_cached + total.bytes_fetched, bytes);
        assert!(total.bytes_fetched >= 4000 && total.hits > 0 && total.misses == 4);
        assert_eq!(overview.references[0].name, "docker.io/library/python:3.11");
        assert_eq!(overview.references[0].count, 36 * 4);
        assert_eq!(overview.registries[0].name, "docker.io");
        let refused: u64 = overview.clients.iter().map(|client| client.count).sum();
        assert_eq!(refused, total.deny + total.hold);
        assert_eq!(overview.buckets.len(), if step == Step::Hour { 4 } else { 1 });
    }
    let python = fixture.group("docker.io/library/python:3.11", Code::TagNotAllowed).await;
    assert_eq!((python.clients, python.count), (4, 144));
    assert_eq!(
        (python.registry.as_deref(), python.repository.as_deref()),
        (Some("docker.io"), Some("library/python"))
    );
    assert_eq!((python.tag.as_deref(), python.source.as_deref()), (Some("3.11"), Some("hub")));
    assert_eq!(python.remedy.as_deref(), Some("try another"));
    assert!(python.latest_message.contains(&python.latest));
    assert_eq!(fixture.review.group_by_key(&python.key).await.unwrap(), Some(python.clone()));
    let met = fixture.review.clients_of(&python.key, None, 10).await.unwrap().items;
    let mut who: Vec<(&str, u64, &str)> =
        met.iter().map(|met| (&*met.who, met.count, &*met.runtime)).collect();
    who.sort();
    let containerd = |who| (who, 36, "containerd");
    let expected = ["10.0.0.1", "10.0.0.2", "2001:db8::/64", "ci"].map(containerd);
    assert_eq!(who, expected);
    let clients = fixture.review.clients(&ClientFilter::default(), None, 10).await.unwrap().items;
    let pulls: u64 = clients.iter().map(|client| client.pulls).sum();
    assert_eq!(pulls, verdicts["allow"] + verdicts["warn"]);
    assert_eq!(clients.iter().map(|client| client.bytes).sum::<u64>(), bytes);
}

/// All that pages show.
async fn everything(review: &Review, end: jiff::Timestamp) -> String {
    let mut text = String::new();
    for kind in GroupKind::ALL {
        let filter = InboxFilter { kind: Some(kind), order: InboxOrder::FirstSeen, ..InboxFilter::default() };
        for group in all(review, &filter).await {
            text.push_str(&format!("{group:?}\n"));
            let met = review.clients_of(&group.key, None, 1000).await.unwrap();
            text.push_str(&format!("{met:?}\n"));
        }
    }
    let clients = review.clients(&ClientFilter::default(), None, 1000).await.unwrap();
    text.push_str(&format!("{clients:?}\n"));
    for step in [Step::Hour, Step::Day] {
        let overview = review.overview(START.parse().unwrap()..end, step).await.unwrap();
        text.push_str(&format!("{overview:?}\n"));
    }
    text
}

#[tokio::test]
async fn stopping_anywhere_and_beginning_anew_both_end_in_the_same_counts() {
    let fixture = Fixture::new().await;
    traffic(&fixture).await;
    let incremental = everything(&fixture.review, fixture.clock.now()).await;
    fixture.stop.cancel();
    fixture.task.await.unwrap();
    fixture.review.close().await;
    let path = fixture.folder.path().join(FILE);
    std::fs::remove_file(&path).unwrap();

    // Cut off after ever so many turns of the scheduler: within a transaction, between two, or in the
    // middle of waiting. The first four have 0, 1, 2 and 4 turns, too few for any machine to end in.
    let last = fixture.log.reader().last().await.unwrap();
    let (mut turns, mut cuts) = (0, 0);
    loop {
        let review = Review::open(fixture.folder.path(), fixture.clock.clone()).await.unwrap();
        let readers = review.readers();
        let place = sqlx::query_scalar("SELECT seq FROM place").fetch_one(&*readers);
        let reached: i64 = place.await.unwrap();
        if reached >= last {
            assert_eq!(everything(&review, fixture.clock.now()).await, incremental);
            assert!(cuts > 3, "{cuts}");
            review.close().await;
            break;
        }
        let (_stop, task) = follow(&review, &fixture.log);
        let until = if cuts % 2 == 0 { reached + 1 } else { last + 1 };
        tokio::select! {
            _ = review.caught_up(until) => {}
            () = async {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            } => {}
        }
        task.abort();
        let _ = task.await;
        (turns, cuts) = (turns + turns / 2 + 1, cuts + 1);
        // Killed: nobody closes anything.
        std::mem::forget(review);
    }
    fixture.log.close().await;
}

#[tokio::test]
async fn a_database_that_is_damaged_or_of_another_version_or_another_record_is_made_anew() {
    let fixture = Fixture::new().await;
    traffic(&fixture).await;
    let (clock, now) = (fixture.clock.clone(), fixture.clock.now());
    let right = everything(&fixture.review, now).await;
    fixture.review.mark_visit("ada", now).await.unwrap();
    let folder = fixture.end().await;
    let path = folder.path().join(FILE);
    let log = record(folder.path(), &clock, 60).await;
    let again = async |what: &str| {
        let review = Review::open(folder.path(), clock.clone()).await.unwrap();
        let (stop, task) = follow(&review, &log);
        review.settled(&log).await.unwrap();
        assert_eq!(everything(&review, now).await, right, "{what}");
        let visit = review.visit("ada").await.unwrap();
        stop.cancel();
        task.await.unwrap();
        review.close().await;
        visit
    };
    assert_eq!(again("as it was").await, Some(now));
    let execute = async |sql: &'static str| {
        let mut connection = super::schema::open(&path).await.unwrap();
        sqlx::query(sql).execute(&mut connection).await.unwrap();
        sqlx::Connection::close(connection).await.unwrap();
    };
    execute("PRAGMA user_version = 9999").await;
    assert_eq!(again("another version").await, Some(now), "visits are kept");
    execute("UPDATE place SET event = 'another', seq = seq - 1").await;
    assert_eq!(again("another record").await, Some(now));
    execute("UPDATE place SET seq = seq + 1000").await;
    assert_eq!(again("a record that is shorter").await, Some(now));
    std::fs::write(&path, "no database at all, and long enough to be taken for one".repeat(100)).unwrap();
    assert_eq!(again("damaged").await, None);
    // Damaged where only reading finds it.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096..].fill(0xff);
    std::fs::write(&path, bytes).unwrap();
    again("damaged inside").await;
    log.close().await;
}
