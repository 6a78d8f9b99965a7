//! The chain, its signatures, and what `verify` finds.

use sqlx::{AssertSqlSafe, Connection as _, SqliteConnection};

use super::*;

/// Ten refusals, a checkpoint, ten more, another checkpoint (at 11 and 22), three more.
async fn log() -> Fixture {
    let fixture = Fixture::with(|settings| Settings { refusals_per_minute: u32::MAX, ..settings }).await;
    for number in 0..23 {
        fixture.refuse(&caller("10.0.0.1"), &refusal(&format!("docker.io/library/i{number}:1"))).await;
        if number == 9 || number == 19 {
            assert!(fixture.log.checkpoint().await);
            assert!(!fixture.log.checkpoint().await, "nothing was written since");
        }
    }
    fixture
}

async fn edit(folder: &Path, sql: &'static [&'static str]) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join(FILE));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    for sql in sql {
        let done = sqlx::query(AssertSqlSafe(*sql)).execute(&mut connection).await.unwrap();
        assert!(done.rows_affected() > 0, "{sql}");
    }
    connection.close().await.unwrap();
}

async fn proof(folder: &Path) -> Proof {
    verify(folder, &Evidence::default()).await.unwrap()
}

async fn found(folder: &Path) -> (i64, Fault) {
    let finding = proof(folder).await.finding.expect("something is wrong");
    (finding.seq, finding.fault)
}

/// The notes of all checkpoints in the log.
async fn notes(folder: &Path) -> Vec<String> {
    let filter = Filter { kinds: vec![Kind::Checkpoint], ..Filter::default() };
    let note = |entry: &Entry| entry.text(&["checkpoint", "note"]).unwrap().to_owned();
    read(folder, filter).await.iter().map(note).collect()
}

fn copy(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, to.path().join(file.file_name().unwrap())).unwrap();
    }
    to
}

#[tokio::test]
async fn what_nobody_touched_is_proven_up_to_its_last_checkpoint() {
    let fixture = log().await;
    let whole = proof(fixture.folder.path()).await;
    let expected = Proof {
        events: 25,
        checkpoints: 2,
        proven: 21,
        // The checkpoint itself and three more.
        unproven: 4,
        last: 25,
        ..Proof::default()
    };
    assert_eq!(whole, expected);
    fixture.log.close().await;
    let closed = proof(fixture.folder.path()).await;
    assert_eq!((closed.proven, closed.unproven, closed.checkpoints), (25, 1, 3), "{closed:?}");
    // Whoever has the events of the log can verify them without it.
    let entries = read(fixture.folder.path(), Filter::default()).await;
    assert_eq!(entries.len(), 23, "checkpoints are only shown to those who ask");
}

#[tokio::test]
async fn the_chain_goes_on_after_a_restart_and_after_a_kill() {
    let fixture = log().await;
    let Fixture { folder, clock, log } = fixture;
    log.close().await;
    drop(log);
    let log = Log::open(settings(folder.path()), clock.clone()).await.unwrap();
    log.refused(draft(&caller("10.0.0.1"), &refusal("docker.io/library/x:1"), "GET"), words).await.unwrap();
    // What a kill leaves is what stands on disk at any moment.
    let killed = copy(folder.path());
    let log_of_killed = Log::open(settings(killed.path()), clock.clone()).await.unwrap();
    let (client, judged) = (caller("10.0.0.2"), refusal("docker.io/library/y:1"));
    log_of_killed.refused(draft(&client, &judged, "GET"), words).await.unwrap();
    log_of_killed.close().await;
    let after = proof(killed.path()).await;
    assert_eq!((after.finding, after.unproven), (None, 1), "the checkpoint itself is all that is not signed");
    log.close().await;
    assert_eq!(proof(folder.path()).await.finding, None);
}

#[tokio::test]
async fn a_checkpoint_is_written_when_it_is_due_and_something_was_written() {
    let fixture = Fixture::new().await;
    let checkpoints = async || notes(fixture.folder.path()).await.len();
    fixture.refuse(&caller("10.0.0.1"), &refusal("docker.io/library/python:3.11")).await;
    fixture.wait(599);
    fixture.log.tick().await.unwrap();
    assert_eq!(checkpoints().await, 0);
    fixture.wait(1);
    fixture.log.tick().await.unwrap();
    assert_eq!(checkpoints().await, 1);
    fixture.wait(6000);
    fixture.log.tick().await.unwrap();
    assert_eq!(checkpoints().await, 1, "nothing new");
    let note = notes(fixture.folder.path()).await.remove(0);
    let lines: Vec<&str> = note.lines().collect();
    assert_eq!(lines[0], fixture.log.key().to_string().split('+').next().unwrap());
    assert_eq!(lines[1], "1");
    assert_eq!((lines[3], lines.len()), ("", 5));
    let signed = Checkpoint::open(&note, std::slice::from_ref(fixture.log.key())).unwrap();
    assert_eq!(signed.size, 1);
    assert_eq!(fixture.entries().await[0].text(&["integrity", "hash"]), Some(&*signed.hash));
}

#[tokio::test]
async fn an_edited_body_is_found() {
    let fixture = log().await;
    edit(
        fixture.folder.path(),
        &["UPDATE event SET body = replace(body, 'library/i4', 'library/i5') WHERE seq = 5"],
    )
    .await;
    assert_eq!(found(fixture.folder.path()).await, (5, Fault::Edited));
    let finding = proof(fixture.folder.path()).await.finding.unwrap();
    assert!(finding.id.is_some() && finding.text.contains("hash"), "{finding:?}");
}

#[tokio::test]
async fn a_column_that_says_something_else_is_found() {
    for (sql, name) in [
        (&["UPDATE event SET verdict = 'allow' WHERE seq = 6"], "verdict"),
        (&["UPDATE event SET parent = 'x' WHERE seq = 6"], "parent"),
        (&["UPDATE event SET time = time + 1 WHERE seq = 6"], "time"),
        (&["UPDATE event SET reference = NULL WHERE seq = 6"], "reference"),
    ] {
        let fixture = log().await;
        edit(fixture.folder.path(), sql).await;
        let finding = proof(fixture.folder.path()).await.finding.unwrap();
        assert_eq!((finding.seq, finding.fault), (6, Fault::Column));
        assert!(finding.text.contains(name), "{finding:?}");
    }
}

#[tokio::test]
async fn a_row_that_was_deleted_is_found() {
    let fixture = log().await;
    edit(fixture.folder.path(), &["DELETE FROM event WHERE seq = 7"]).await;
    assert_eq!(found(fixture.folder.path()).await, (7, Fault::Missing));
    let first = log().await;
    edit(first.folder.path(), &["DELETE FROM event WHERE seq <= 3"]).await;
    assert_eq!(found(first.folder.path()).await, (1, Fault::Missing));
    // Closing the gap does not help.
    let moved = log().await;
    edit(moved.folder.path(), &["DELETE FROM event WHERE seq = 7", "UPDATE event SET seq = 7 WHERE seq = 8"])
        .await;
    assert_eq!(found(moved.folder.path()).await, (7, Fault::Moved));
}

#[tokio::test]
async fn rows_that_were_swapped_are_found() {
    let fixture = log().await;
    edit(
        fixture.folder.path(),
        &[
            "UPDATE event SET seq = 100 WHERE seq = 4",
            "UPDATE event SET seq = 4 WHERE seq = 5",
            "UPDATE event SET seq = 5 WHERE seq = 100",
        ],
    )
    .await;
    assert_eq!(found(fixture.folder.path()).await, (4, Fault::Moved));
}

#[tokio::test]
async fn a_cut_tail_is_found_with_a_later_checkpoint_and_told_as_unproven_without() {
    let fixture = log().await;
    let later = notes(fixture.folder.path()).await;
    edit(fixture.folder.path(), &["DELETE FROM event WHERE seq > 15"]).await;
    let without = proof(fixture.folder.path()).await;
    assert_eq!((without.finding, without.proven, without.unproven), (None, 10, 5));
    let evidence = Evidence { notes: later, ..Evidence::default() };
    let with = verify(fixture.folder.path(), &evidence).await.unwrap().finding.unwrap();
    assert_eq!((with.seq, with.fault), (16, Fault::Cut), "{with:?}");
    assert!(with.text.contains("up to 21"), "{with:?}");
}

#[tokio::test]
async fn a_database_put_back_to_an_older_copy_is_found_even_when_it_went_on() {
    let fixture = log().await;
    let Fixture { folder, clock, log } = fixture;
    log.close().await;
    let older = copy(folder.path());
    let log = Log::open(settings(folder.path()), clock.clone()).await.unwrap();
    log.refused(draft(&caller("10.0.0.1"), &refusal("docker.io/library/x:1"), "GET"), words).await.unwrap();
    log.close().await;
    let evidence = Evidence { notes: notes(folder.path()).await, ..Evidence::default() };
    assert_eq!(verify(folder.path(), &evidence).await.unwrap().finding, None);
    let back = verify(older.path(), &evidence).await.unwrap().finding.unwrap();
    assert_eq!(back.fault, Fault::Cut);
    let log = Log::open(settings(older.path()), clock).await.unwrap();
    for name in ["a", "b", "c"] {
        let judged = refusal(&format!("docker.io/library/{name}:1"));
        log.refused(draft(&caller("10.0.0.1"), &judged, "GET"), words).await.unwrap();
    }
    log.close().await;
    assert_eq!(proof(older.path()).await.finding, None, "by itself it is whole");
    let went_on = verify(older.path(), &evidence).await.unwrap().finding.unwrap();
    assert_eq!((went_on.seq, went_on.fault), (27, Fault::Forked), "{went_on:?}");
}

/// Writes the log anew from a place on, with right hashes: what somebody can do who has no key.
async fn forge(folder: &Path, from: i64, change: impl Fn(&mut serde_json::Map<String, serde_json::Value>)) {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join(FILE));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let rows: Vec<(i64, String)> =
        sqlx::query_as("SELECT seq, body FROM event ORDER BY seq").fetch_all(&mut connection).await.unwrap();
    let mut head = canonical::GENESIS.to_owned();
    for (seq, body) in rows {
        let mut event = serde_json::from_str(&body).unwrap();
        if seq < from {
            head = canonical::Integrity::of(&event).unwrap().hash;
            continue;
        }
        if seq == from {
            change(&mut event);
        }
        let (body, hash) = canonical::Unplaced::new(&mut event).place(seq, &head);
        head = hash;
        sqlx::query("UPDATE event SET body = $2 WHERE seq = $1")
            .bind(seq)
            .bind(body)
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn a_forgery_with_right_hashes_from_some_place_on_fails_at_the_next_signature() {
    let fixture = log().await;
    forge(fixture.folder.path(), 15, |event| {
        event["http"]["path"] = "/v2/forged".into();
    })
    .await;
    let finding = proof(fixture.folder.path()).await.finding.unwrap();
    assert_eq!((finding.seq, finding.fault), (22, Fault::Checkpoint), "{finding:?}");
    // A single row with a right hash of its own does not fit the next one.
    let single = log().await;
    let before = copy(single.folder.path());
    forge(single.folder.path(), 15, |event| {
        event["http"]["path"] = "/v2/forged".into();
    })
    .await;
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(single.folder.path().join(FILE));
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("ATTACH '{}' AS old", before.path().join(FILE).display())))
        .execute(&mut connection)
        .await
        .unwrap();
    sqlx::query(
        "UPDATE event SET body = (SELECT body FROM old.event o WHERE o.seq = event.seq) WHERE seq > 15",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    assert_eq!(found(single.folder.path()).await, (15, Fault::Replaced));
}

#[tokio::test]
async fn signatures_count_only_by_keys_that_are_known() {
    let fixture = log().await;
    let other = Fixture::new().await;
    let evidence = Evidence { keys: vec![other.log.key().clone()], ..Evidence::default() };
    let finding = verify(fixture.folder.path(), &evidence).await.unwrap().finding.unwrap();
    assert_eq!((finding.seq, finding.fault), (11, Fault::Checkpoint));
    assert!(finding.text.contains("key that is not known"), "{finding:?}");
    let foreign = Evidence { notes: vec![notes(fixture.folder.path()).await.remove(0)], ..evidence };
    assert!(matches!(verify(fixture.folder.path(), &foreign).await, Err(Error::Note(NoteError::Unknown))));
}

#[tokio::test]
async fn events_from_before_there_was_a_chain_are_told_apart_and_the_chain_begins_after_them() {
    let fixture = Fixture::new().await;
    fixture.refuse(&caller("10.0.0.1"), &refusal("docker.io/library/python:3.11")).await;
    fixture.log.close().await;
    edit(
        fixture.folder.path(),
        &["DELETE FROM event WHERE seq > 1", "UPDATE event SET body = json_remove(body, '$.integrity')"],
    )
    .await;
    let log = Log::open(settings(fixture.folder.path()), fixture.clock.clone()).await.unwrap();
    log.refused(draft(&caller("10.0.0.1"), &refusal("docker.io/library/a:1"), "GET"), words).await.unwrap();
    log.close().await;
    let mixed = proof(fixture.folder.path()).await;
    assert_eq!((mixed.finding, mixed.unchained, mixed.proven, mixed.events), (None, 1, 2, 3));
}

async fn found_with(folder: &Path, notes: &[String]) -> Option<(i64, Fault)> {
    let evidence = Evidence { notes: notes.to_vec(), ..Evidence::default() };
    verify(folder, &evidence).await.unwrap().finding.map(|finding| (finding.seq, finding.fault))
}

#[tokio::test]
async fn a_log_whose_chain_was_taken_out_is_not_the_one_that_a_checkpoint_covers() {
    let fixture = log().await;
    let notes = notes(fixture.folder.path()).await;
    edit(
        fixture.folder.path(),
        &[
            "DELETE FROM event WHERE kind = 'checkpoint'",
            "UPDATE event SET body = json_remove(body, '$.integrity')",
        ],
    )
    .await;
    assert_eq!(found_with(fixture.folder.path(), &notes).await, Some((10, Fault::Forked)));
    edit(fixture.folder.path(), &["DELETE FROM event WHERE seq IN (10, 21)"]).await;
    assert_eq!(found_with(fixture.folder.path(), &notes).await, Some((21, Fault::Forked)));
    // Without any evidence there is only the number of those that nothing proves.
    let without = proof(fixture.folder.path()).await;
    assert_eq!((without.finding, without.unchained, without.proven), (None, without.events, 0));
}

#[tokio::test]
async fn two_checkpoints_of_one_size_that_differ_are_a_fork_whichever_the_log_has_now() {
    let fixture = log().await;
    let Fixture { folder, clock, log } = fixture;
    let older = copy(folder.path());
    log.close().await;
    edit(older.path(), &["DELETE FROM event WHERE seq > 22"]).await;
    let log = Log::open(settings(older.path()), clock).await.unwrap();
    for name in ["a", "b", "c"] {
        let judged = refusal(&format!("docker.io/library/{name}:1"));
        log.refused(draft(&caller("10.0.0.1"), &judged, "GET"), words).await.unwrap();
    }
    log.close().await;
    let (old, new) = (notes(folder.path()).await.pop().unwrap(), notes(older.path()).await.pop().unwrap());
    assert_eq!((old.lines().nth(1), new.lines().nth(1)), (Some("25"), Some("25")));
    assert_eq!(found_with(older.path(), std::slice::from_ref(&new)).await, None);
    for order in [[old.clone(), new.clone()], [new, old]] {
        assert_eq!(found_with(older.path(), &order).await, Some((25, Fault::Forked)));
    }
}
