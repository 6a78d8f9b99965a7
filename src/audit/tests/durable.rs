use super::*;

#[tokio::test]
async fn a_refusal_is_on_disk_when_the_call_returns() {
    let fixture = Fixture::new().await;
    let refused = fixture.refuse(&caller("10.0.0.1"), &refusal("docker.io/library/python:3.11")).await;
    // Another connection sees it while the log is still open and nothing was flushed.
    let entries = fixture.entries().await;
    assert_eq!(entries.len(), 1);
    let entry = &entries[0];
    let id = refused.id.to_string();
    assert_eq!(entry.text(&["id"]), Some(&*id));
    assert_eq!(entry.text(&["pull_id"]), Some(&*id));
    assert_eq!(entry.text(&["schema"]), Some("pullgate.event/1"));
    assert_eq!(entry.text(&["kind"]), Some("decision"));
    assert_eq!(entry.text(&["time"]), Some("2026-11-01T10:00:00.000Z"));
    assert_eq!(entry.text(&["verdict"]), Some("deny"));
    assert_eq!(entry.text(&["reason", "code"]), Some("tag.not_allowed"));
    assert_eq!(entry.text(&["reason", "text"]), Some(&*refused.sentence.message));
    assert_eq!(entry.text(&["reason", "remedy"]), Some("try 3.11-slim-bookworm"));
    assert_eq!(entry.text(&["policy", "revision"]), Some("2026.11"));
    assert_eq!(entry.text(&["policy", "source"]), Some("docker-official"));
    assert_eq!(entry.text(&["policy", "mode"]), Some("enforce"));
    assert_eq!(entry.event["checks"][0]["result"], "fail");
    assert_eq!(entry.event["checks"][0]["at"], "policy.toml:41");
    assert_eq!(entry.text(&["image", "reference"]), Some("docker.io/library/python:3.11"));
    assert_eq!(entry.text(&["image", "repository"]), Some("library/python"));
    assert_eq!(entry.text(&["image", "tag"]), Some("3.11"));
    assert_eq!(entry.text(&["client", "address"]), Some("10.0.0.1"));
    assert_eq!(entry.text(&["client", "runtime"]), Some("containerd"));
    assert_eq!(entry.text(&["client", "attribution"]), Some("none"));
    assert_eq!(entry.text(&["client", "join"]), Some("guessed"));
    assert_eq!(entry.text(&["http", "path"]), Some("/v2/library/python/manifests/3.11"), "no query string");
    assert_eq!(entry.number(&["count"]), Some(1));
    assert_eq!(fixture.log.reader().find(&refused.id).await.unwrap().unwrap().seq, entry.seq);
}

#[tokio::test]
async fn a_log_that_was_never_closed_is_whole_and_goes_on() {
    let fixture = Fixture::new().await;
    let judged = refusal("docker.io/library/python:3.11");
    let first = fixture.refuse(&caller("10.0.0.1"), &judged).await;
    let Fixture { folder, clock, log } = fixture;
    drop(log);
    let log = Log::open(settings(folder.path()), clock.clone()).await.unwrap();
    let second = log.refused(draft(&caller("10.0.0.1"), &judged, "GET"), words).await.unwrap();
    assert_ne!(first.id, second.id, "folds are not carried over a restart");
    log.close().await;
    let entries = read(folder.path(), Filter::default()).await;
    assert_eq!(entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn the_folder_may_be_read_only_after_the_log_was_closed() {
    let fixture = Fixture::new().await;
    fixture.refuse(&caller("10.0.0.1"), &refusal("docker.io/library/python:3.11")).await;
    fixture.log.close().await;
    let left: Vec<_> = std::fs::read_dir(fixture.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with("-wal") || name.ends_with("-shm"))
        .collect();
    assert!(left.is_empty(), "one tidy file: {left:?}");
    assert_eq!(fixture.entries().await.len(), 1);
    let closed = fixture
        .log
        .refused(draft(&caller("10.0.0.2"), &refusal("docker.io/library/python:3.11"), "GET"), words)
        .await;
    assert!(matches!(closed, Err(Error::Closed)));
}

/// The child of the next test: writes refusals and prints each id once it may be answered.
#[tokio::test]
async fn write_refusals_until_killed() {
    let Some(folder) = std::env::var_os("PULLGATE_TEST_AUDIT_FOLDER") else { return };
    let settings = Settings { refusals_per_minute: u32::MAX, ..settings(Path::new(&folder)) };
    let log = Log::open(settings, Clock::system()).await.unwrap();
    let writers = (0..8).map(|writer| {
        let log = log.clone();
        tokio::spawn(async move {
            for number in 0.. {
                let judged = refusal(&format!("docker.io/library/w{writer}:n{number}"));
                let refused = log.refused(draft(&caller("10.0.0.1"), &judged, "GET"), words).await.unwrap();
                use std::io::Write as _;
                let mut out = std::io::stderr().lock();
                writeln!(out, "ID {}", refused.id).unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn every_refusal_answered_before_a_kill_is_in_the_log() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let folder = tempfile::tempdir().unwrap();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "audit::tests::durable::write_refusals_until_killed", "--nocapture"])
        .env("PULLGATE_TEST_AUDIT_FOLDER", folder.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut answered = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(id) = line.strip_prefix("ID ")
            && let Ok(id) = Ulid::from_string(id)
        {
            answered.push(id);
        }
        if answered.len() == 300 {
            child.start_kill().unwrap();
        }
    }
    child.wait().await.unwrap();
    assert!(answered.len() >= 300);
    let log = Log::open(settings(folder.path()), Clock::system()).await.unwrap();
    for id in &answered {
        assert!(log.reader().find(id).await.unwrap().is_some(), "{id} was answered and is gone");
    }
}
