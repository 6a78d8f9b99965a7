//! Retention: what goes first, what stays, and that the rest remains provable.

use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::*;

const ROOM: u64 = 3 << 20;

async fn small(keeping: Keeping) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
    let settings =
        Settings { max_size: ROOM + (1 << 20), refusals_per_minute: u32::MAX, ..settings(folder.path()) };
    let log = Log::open_keeping(settings, keeping, clock.clone()).await.unwrap();
    Fixture { folder, clock, log }
}

async fn proof(fixture: &Fixture) -> Proof {
    let proof = verify(fixture.folder.path(), &Evidence::default()).await.unwrap();
    assert_eq!(proof.finding, None, "{proof:?}");
    proof
}

async fn names(fixture: &Fixture, start: &str) -> usize {
    let entries = read(fixture.folder.path(), Filter { blocked: true, ..Filter::default() }).await;
    let of =
        |entry: &&Entry| entry.text(&["image", "repository"]).is_some_and(|name| name.starts_with(start));
    entries.iter().filter(of).count()
}

async fn allowed(fixture: &Fixture) -> usize {
    read(fixture.folder.path(), Filter { verdict: Some(Verdict::Allow), ..Filter::default() }).await.len()
}

async fn refuse(fixture: &Fixture, name: &str) {
    fixture.refuse(&caller("10.0.0.1"), &refusal(&format!("docker.io/{name}:1"))).await;
}

async fn review(fixture: &Fixture, name: &str) {
    let subject = Subject { reference: format!("docker.io/{name}:1"), reason: Some(Code::TagNotAllowed) };
    let actor = Actor { name: "ann".to_owned(), via: "console".to_owned() };
    let event = Event::Admin { action: Action::Resolve, actor, subject: Some(subject), note: None };
    fixture.log.record(event).await.unwrap();
}

/// Fills the log up to where room must be made; everything is signed. Room is made once what it answers
/// is gone.
async fn fill(fixture: &Fixture, mut one: impl AsyncFnMut(usize)) -> tokio::sync::MutexGuard<'_, ()> {
    let keeps = fixture.log.keep_all().await;
    for number in 0.. {
        one(number).await;
        if number % 50 == 49 {
            fixture.log.flush().await.unwrap();
            if fixture.log.status().used >= ROOM / 10 * 9 {
                break;
            }
        }
    }
    assert!(!fixture.log.status().full, "room is made before the log is full");
    fixture.log.checkpoint().await;
    keeps
}

#[tokio::test]
async fn allowed_pulls_go_first_then_what_was_reviewed_and_unreviewed_refusals_last() {
    let fixture = small(Keeping::default()).await;
    for number in 0..240 {
        if number % 4 == 0 {
            refuse(&fixture, &format!("old/i{number}")).await;
        }
        refuse(&fixture, &format!("seen/i{number}")).await;
    }
    for number in 0..240 {
        review(&fixture, &format!("seen/i{number}")).await;
    }
    let keeps = fill(&fixture, async |number| {
        let image = tag(&format!("docker.io/library/a{number}:1.2.3"), &format!("{number}"));
        let mut receipt = fixture.allow(&caller("10.0.0.3"), &image, "GET");
        receipt.served(100);
        receipt.status(200);
    })
    .await;
    let before = allowed(&fixture).await;
    drop(keeps);
    fixture.log.tick().await.unwrap();
    let status = fixture.log.status();
    assert!(status.removed > 100 && status.used < ROOM / 10 * 9, "{status:?}");
    assert!(allowed(&fixture).await < before);
    assert_eq!((names(&fixture, "old/").await, names(&fixture, "seen/").await), (60, 240));
    let first = proof(&fixture).await;
    assert!(first.removed > 100, "{first:?}");

    // More and more refusals, none of them reviewed, until something else has to go.
    let more = async |round: usize| {
        drop(fill(&fixture, async |number| refuse(&fixture, &format!("new/r{round}i{number}")).await).await);
        fixture.log.tick().await.unwrap();
        (names(&fixture, "old/").await, names(&fixture, "seen/").await)
    };
    let mut round = 0;
    let (mut old, mut seen) = (60, 240);
    while seen == 240 && round < 40 {
        assert_eq!(old, 60, "allowed pulls first");
        (old, seen) = more(round).await;
        round += 1;
    }
    assert!(old == 60 && seen < 240, "nobody has seen the old ones yet: {old} {seen}");
    let unsigned = 256;
    assert!(allowed(&fixture).await < unsigned, "all that could go went before");
    let second = proof(&fixture).await;
    assert!(second.removed > first.removed);
    while old == 60 && round < 40 {
        (old, seen) = more(round).await;
        round += 1;
    }
    assert!(old < 60 && seen == 0, "the oldest of what is left: {old} {seen}");
    assert!(names(&fixture, &format!("new/r{}", round - 1)).await > 0);
    proof(&fixture).await;

    // Again and again, over restarts: it never fills up and stays whole.
    let Fixture { folder, clock, log } = fixture;
    log.close().await;
    let again =
        Settings { max_size: ROOM + (1 << 20), refusals_per_minute: u32::MAX, ..settings(folder.path()) };
    let log = Log::open(again, clock.clone()).await.unwrap();
    let fixture = Fixture { folder, clock, log };
    for round in 0..2 {
        drop(fill(&fixture, async |number| refuse(&fixture, &format!("more/r{round}i{number}")).await).await);
        fixture.log.tick().await.unwrap();
        assert!(fixture.log.status().used < ROOM / 10 * 9);
    }
    fixture.log.close().await;
    proof(&fixture).await;
}

#[tokio::test]
async fn what_is_older_than_max_age_goes_whatever_it_is_and_nothing_younger() {
    let day = Duration::from_secs(86_400);
    let fixture = small(Keeping { max_age: Some(day), ..Keeping::default() }).await;
    for number in 0..300 {
        refuse(&fixture, &format!("old/i{number}")).await;
    }
    fixture.wait(86_000);
    for number in 0..250 {
        refuse(&fixture, &format!("young/i{number}")).await;
    }
    fixture.log.checkpoint().await;
    fixture.log.tick().await.unwrap();
    assert_eq!(fixture.log.status().removed, 0, "not yet");
    fixture.wait(500);
    fixture.log.tick().await.unwrap();
    // Whole segments of 256: one holds nothing young.
    assert_eq!(names(&fixture, "old/").await, 300 - 256);
    assert_eq!(names(&fixture, "young/").await, 250);
    assert_eq!(proof(&fixture).await.removed, 256);
    fixture.wait(86_400);
    fixture.log.tick().await.unwrap();
    assert_eq!(names(&fixture, "").await, 550 - 512);
    assert_eq!(proof(&fixture).await.removed, 512);
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_does_not_make_the_whole_log_too_old_at_once() {
    let day = 86_400;
    let fixture = small(Keeping { max_age: Some(Duration::from_secs(30 * day)), ..Keeping::default() }).await;
    for _ in 0..3 {
        for number in 0..255 {
            refuse(&fixture, &format!("old/i{number}")).await;
        }
        assert!(fixture.log.checkpoint().await);
        fixture.wait(2 * 86_400);
    }
    refuse(&fixture, "old/last").await;
    fixture.log.checkpoint().await;
    fixture.wait(10 * 365 * 86_400);
    for _ in 0..3 {
        fixture.log.tick().await.unwrap();
        assert_eq!(fixture.log.status().removed, 256, "the oldest segment, and no more for now");
    }
    proof(&fixture).await;
}

#[tokio::test]
async fn only_what_is_signed_is_ever_removed() {
    let day = Duration::from_secs(86_400);
    let fixture = small(Keeping { max_age: Some(day), checkpoint: day * 1000 }).await;
    for number in 0..300 {
        refuse(&fixture, &format!("old/i{number}")).await;
    }
    fixture.wait(200_000);
    fixture.log.tick().await.unwrap();
    assert_eq!(fixture.log.status().removed, 0);
    fixture.log.checkpoint().await;
    fixture.log.tick().await.unwrap();
    assert_eq!(fixture.log.status().removed, 256);
}

#[tokio::test]
async fn a_removal_that_retention_did_not_put_on_record_is_found() {
    let day = Duration::from_secs(86_400);
    let fixture = small(Keeping { max_age: Some(day), ..Keeping::default() }).await;
    for number in 0..400 {
        refuse(&fixture, &format!("old/i{number}")).await;
    }
    fixture.log.checkpoint().await;
    fixture.wait(90_000);
    fixture.log.tick().await.unwrap();
    let whole = proof(&fixture).await;
    assert_eq!(whole.removed, 256);
    let edit = async |sql: &[&str]| {
        let copy = tempfile::tempdir().unwrap();
        for name in [FILE, "audit.db-wal", "audit.pub"] {
            std::fs::copy(fixture.folder.path().join(name), copy.path().join(name)).unwrap();
        }
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(copy.path().join(FILE));
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        for sql in sql {
            let done = sqlx::query(AssertSqlSafe((*sql).to_owned())).execute(&mut connection).await.unwrap();
            assert!(done.rows_affected() > 0, "{sql}");
        }
        connection.close().await.unwrap();
        let finding = verify(copy.path(), &Evidence::default()).await.unwrap().finding.unwrap();
        (finding.seq, finding.fault)
    };
    let hash = |seq| format!("(SELECT body ->> '$.integrity.hash' FROM event WHERE seq = {seq})");
    let longer = format!("UPDATE removed SET last = 260, hash = {}", hash(260));
    assert_eq!(edit(&[&longer, "DELETE FROM event WHERE seq <= 260"]).await, (1, Fault::Removed));
    let another = format!("INSERT INTO removed VALUES (300, 300, {}, {})", hash(299), hash(300));
    assert_eq!(edit(&[&another, "DELETE FROM event WHERE seq = 300"]).await, (300, Fault::Removed));
    assert_eq!(edit(&["DELETE FROM event WHERE seq = 300"]).await, (300, Fault::Missing));
    assert_eq!(edit(&["DELETE FROM removed"]).await, (1, Fault::Missing));
    assert_eq!(edit(&["UPDATE removed SET hash = previous"]).await.1, Fault::Missing);
}

#[tokio::test]
async fn counts_that_come_home_after_the_log_was_full_are_in_the_chain() {
    let fixture = Fixture::with(|settings| Settings { max_size: 1 << 20, ..settings }).await;
    let keeps = fixture.log.keep_all().await;
    spill(&fixture, 0).await;
    let counted = fixture.refuse(&caller("10.8.8.8"), &refusal("docker.io/library/a:1")).await;
    let full = verify(fixture.folder.path(), &Evidence::default()).await.unwrap();
    assert_eq!(full.finding, None);
    drop(keeps);
    let Fixture { folder, clock, log } = fixture;
    log.close().await;
    let log = Log::open(settings(folder.path()), clock).await.unwrap();
    assert!(log.reader().find(&counted.id).await.unwrap().is_some());
    log.close().await;
    let home = verify(folder.path(), &Evidence::default()).await.unwrap();
    assert_eq!((home.finding, home.unproven), (None, 1));
    assert!(home.events > full.events);
}

/// Deletes events and writes what retention would: all that can be done without the key.
async fn forge_removal(folder: &Path, run: (i64, i64, &str, &str), note: Option<&str>) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join(FILE));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let (first, last, previous, hash) = run;
    let (end, body): (i64, String) = sqlx::query_as("SELECT seq, body FROM event ORDER BY seq DESC LIMIT 1")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    let end_of_chain = canonical::Integrity::of(&serde_json::from_str(&body).unwrap()).unwrap().hash;
    let whole = last == end;
    let (seq, head) = if whole { (last + 1, hash) } else { (end + 1, &*end_of_chain) };
    let list = Digest::sha256(format!("{first} {last} {previous} {hash}\n").as_bytes()).hex();
    let mut event = serde_json::json!({
        "schema": "pullgate.event/1", "id": "01M84MBAQHK10JWT5B7PB37ZZZ", "time": "2026-11-01T10:00:00.000Z",
        "kind": "admin", "action": "remove", "actor": {"name": "pullgate", "via": "retention"},
        "removed": {"what": "all", "first": first, "last": last, "events": 8, "runs": 1, "sha256": list},
    });
    if let Some(note) = note {
        event["removed"]["note"] = note.into();
    }
    let (body, _) = canonical::Unplaced::new(event.as_object_mut().unwrap()).place(seq, head);
    let time = "2026-11-01T10:00:00Z".parse::<Timestamp>().unwrap().as_millisecond();
    sqlx::query("DELETE FROM event WHERE seq BETWEEN $1 AND $2")
        .bind(first)
        .bind(last)
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::query("INSERT INTO removed VALUES ($1, $2, $3, $4)")
        .bind(first)
        .bind(last)
        .bind(previous)
        .bind(hash)
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::query("INSERT INTO event (seq, id, time, kind, body) VALUES ($1, $2, $3, 'admin', $4)")
        .bind(seq)
        .bind("01M84MBAQHK10JWT5B7PB37ZZZ")
        .bind(time)
        .bind(body)
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
}

#[tokio::test]
async fn a_removal_that_the_key_did_not_sign_is_found_before_and_after_the_gateway_signs_over_it() {
    for signed in [false, true] {
        let fixture = Fixture::with(|settings| Settings { refusals_per_minute: u32::MAX, ..settings }).await;
        for number in 0..40 {
            refuse(&fixture, &format!("old/i{number}")).await;
        }
        let entries = fixture.entries().await;
        let hash = |name: &str| {
            let of = |entry: &&Entry| entry.text(&["image", "repository"]) == Some(name);
            let entry = entries.iter().find(of).unwrap();
            entry.text(&["integrity", "hash"]).unwrap().to_owned()
        };
        let (previous, last) = (hash("old/i1"), hash("old/i9"));
        let Fixture { folder, clock, log } = fixture;
        log.close().await;
        assert_eq!(verify(folder.path(), &Evidence::default()).await.unwrap().finding, None);
        // A note that the key did sign, but not for this.
        let other = note::Signer::open(folder.path()).unwrap().note(41, &last);
        forge_removal(folder.path(), (3, 10, &previous, &last), signed.then_some(&*other)).await;
        let found = async || {
            let finding = verify(folder.path(), &Evidence::default()).await.unwrap().finding.unwrap();
            (finding.seq, finding.fault)
        };
        assert_eq!(found().await, (42, Fault::Removed));
        let log = Log::open(settings(folder.path()), clock).await.unwrap();
        log.close().await;
        assert_eq!(found().await, (42, Fault::Removed), "signing over it makes it no better");
    }
}

#[tokio::test]
async fn a_whole_history_that_retention_is_said_to_have_removed_is_found() {
    let fixture = Fixture::with(|settings| Settings { refusals_per_minute: u32::MAX, ..settings }).await;
    for number in 0..40 {
        refuse(&fixture, &format!("old/i{number}")).await;
    }
    fixture.log.checkpoint().await;
    let Fixture { folder, log, .. } = fixture;
    let events = log.reader().after(0, 100).await.unwrap();
    let checkpoint: serde_json::Value = serde_json::from_str(&events[40].body).unwrap();
    let notes = vec![checkpoint["checkpoint"]["note"].as_str().unwrap().to_owned()];
    log.close().await;
    let end = i64::try_from(events.len()).unwrap();
    forge_removal(folder.path(), (1, end, canonical::GENESIS, &"ab".repeat(32)), None).await;
    for notes in [Vec::new(), notes] {
        let evidence = Evidence { notes, ..Evidence::default() };
        let finding = verify(folder.path(), &evidence).await.unwrap().finding.unwrap();
        assert_eq!((finding.seq, finding.fault), (end + 1, Fault::Removed), "{finding:?}");
    }
}

/// Refuses one client after another until the database takes no more.
async fn spill(fixture: &Fixture, mut number: u32) -> u32 {
    while !fixture.log.status().spilling {
        let client = caller(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string());
        fixture.refuse(&client, &refusal("docker.io/library/python:3.11")).await;
        number += 1;
    }
    number
}

#[tokio::test]
async fn a_log_that_is_full_before_its_first_signature_signs_makes_room_and_goes_on_again_and_again() {
    let never = Keeping { checkpoint: Duration::from_secs(1 << 32), max_age: None };
    let fixture = small(never).await;
    let mut number = 0;
    for round in 0..6 {
        let keeps = fixture.log.keep_all().await;
        number = spill(&fixture, number).await;
        let before = fixture.log.status();
        assert!(before.full && before.used <= before.max + (1 << 20), "{round}: {before:?}");
        let counted =
            fixture.refuse(&caller("10.200.0.1"), &refusal(&format!("docker.io/c/i{round}:1"))).await;
        drop(keeps);
        fixture.log.tick().await.unwrap();
        let after = fixture.log.status();
        assert!(after.removed > before.removed, "{round}: {after:?}");
        assert!(!after.full && !after.spilling && after.used < ROOM / 10 * 9, "{round}: {after:?}");
        assert!(fixture.log.reader().find(&counted.id).await.unwrap().is_some(), "what was counted is home");
        number += 1;
    }
    proof(&fixture).await;
    let pages = std::fs::metadata(fixture.folder.path().join(FILE)).unwrap().len();
    assert!(pages <= ROOM + (2 << 20), "what is spare is not used up: {pages}");
}

#[tokio::test]
async fn a_log_that_fills_makes_room_without_waiting_for_the_next_look() {
    let fixture = small(Keeping::default()).await;
    fixture.log.tick().await.unwrap();
    let mut number = 0;
    while fixture.log.status().removed == 0 {
        refuse(&fixture, &format!("new/i{number}")).await;
        number += 1;
        assert!(number < 20_000, "{:?}", fixture.log.status());
    }
    let status = fixture.log.status();
    assert_eq!((status.spilling, status.counted), (false, 0), "{status:?}");
}

#[tokio::test]
async fn a_full_log_is_opened_and_takes_events_as_soon_as_it_has_made_room() {
    let fixture = small(Keeping::default()).await;
    let keeps = fixture.log.keep_all().await;
    spill(&fixture, 0).await;
    drop(keeps);
    // What a kill leaves.
    let killed = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(fixture.folder.path()).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, killed.path().join(file.file_name().unwrap())).unwrap();
    }
    let again =
        Settings { max_size: ROOM + (1 << 20), refusals_per_minute: u32::MAX, ..settings(killed.path()) };
    let log = Log::open(again, fixture.clock.clone()).await.unwrap();
    log.tick().await.unwrap();
    let fixture = Fixture { folder: killed, clock: fixture.clock.clone(), log };
    review(&fixture, "a").await;
    assert!(!fixture.log.status().full, "{:?}", fixture.log.status());
    proof(&fixture).await;
}
