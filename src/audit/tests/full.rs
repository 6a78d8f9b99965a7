use std::process::Command;

use super::*;
use sqlx::Connection as _;

/// Refuses made-up names, one client each, until the database takes no more.
async fn fill(fixture: &Fixture) -> usize {
    for number in 0..100_000_u32 {
        let client = caller(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string());
        fixture.refuse(&client, &refusal("docker.io/library/python:3.11")).await;
        if fixture.log.status().spilling {
            return number as usize;
        }
    }
    panic!("never full");
}

#[tokio::test]
async fn when_the_quota_is_used_up_refusals_stay_refusals_and_are_counted() {
    let fixture = Fixture::with(|settings| Settings { max_size: 1 << 20, ..settings }).await;
    let keeps = fixture.log.keep_all().await;
    assert!(fixture.folder.path().join("audit.reserve").exists());
    let image = tag("docker.io/library/python:3.11.9", "index");
    let written = fill(&fixture).await;
    assert!(written > 100);
    assert!(!fixture.folder.path().join("audit.reserve").exists(), "the reserve was let go");
    let status = fixture.log.status();
    assert!(status.full && status.used <= 1 << 20, "{status:?}");
    assert!(matches!(status.last_error, Some(Error::Full { .. })));

    drop(fixture.allow(&caller("10.9.9.9"), &image, "GET"));
    assert_eq!(fixture.log.status().unrecorded, 1, "served, and counted");

    let client = caller("10.8.8.8");
    let first = fixture.refuse(&client, &refusal("docker.io/library/a:1")).await;
    let second = fixture.refuse(&client, &refusal("docker.io/library/b:1")).await;
    assert_eq!(first.id, second.id, "one counter for a client and a reason");
    let file = std::fs::read_to_string(fixture.folder.path().join("audit.counters")).unwrap();
    let line = file.lines().find(|line| line.contains("10.8.8.8")).unwrap();
    let slot: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!((slot["count"].as_u64(), slot["id"].as_str()), (Some(2), Some(&*first.id.to_string())));

    // The next start, with a larger quota, finds them.
    drop(keeps);
    let Fixture { folder, clock, log } = fixture;
    log.close().await;
    let log = Log::open(settings(folder.path()), clock).await.unwrap();
    let entry = log.reader().find(&first.id).await.unwrap().expect("the counter became a row");
    assert_eq!(entry.text(&["kind"]), Some("flood"));
    assert_eq!(entry.number(&["count"]), Some(2));
    assert!(!log.status().full && !log.status().spilling);
    let file = std::fs::read_to_string(folder.path().join("audit.counters")).unwrap();
    assert!(file.trim().is_empty());
}

#[tokio::test]
async fn when_even_the_counters_are_used_up_the_caller_is_told() {
    let fixture = Fixture::with(|settings| Settings { max_size: 1 << 20, ..settings }).await;
    let _keeps = fixture.log.keep_all().await;
    fill(&fixture).await;
    let judged = refusal("docker.io/library/python:3.11");
    let mut full = 0;
    for number in 0..400_u32 {
        let client = caller(&std::net::Ipv4Addr::from_bits(0x0b00_0000 + number).to_string());
        match fixture.log.refused(draft(&client, &judged, "GET"), words).await {
            Ok(_) => assert_eq!(full, 0, "slots do not come back by themselves"),
            Err(Error::Full { .. }) => full += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!((140..=150).contains(&full), "{full}");
}

#[tokio::test]
async fn on_full_refuse_turns_allowed_pulls_away_before_refusals_are_lost() {
    let fixture =
        Fixture::with(|settings| Settings { max_size: 1 << 20, on_full: OnFull::Refuse, ..settings }).await;
    let image = tag("docker.io/library/python:3.11.9", "index");
    let _keeps = fixture.log.keep_all().await;
    assert!(fixture.log.allowed(draft(&caller("10.9.9.9"), &image, "GET")).is_ok());
    for number in 0..100_000_u32 {
        let client = caller(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string());
        fixture.refuse(&client, &refusal("docker.io/library/python:3.11")).await;
        if fixture.log.status().full {
            break;
        }
    }
    assert!(!fixture.log.status().spilling, "the reserve is for refusals");
    let turned = fixture.log.allowed(draft(&caller("10.9.9.9"), &image, "GET"));
    assert!(matches!(turned, Err(Error::Full { .. })));
}

#[tokio::test]
async fn a_database_somebody_else_locked_costs_detail_but_no_refusal_and_the_writer_survives() {
    let fixture = Fixture::new().await;
    let file = fixture.folder.path().join(FILE);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let client = caller("10.0.0.1");
    let refused = fixture.refuse(&client, &refusal("docker.io/library/python:3.11")).await;
    assert!(fixture.log.status().spilling);
    let error = fixture.log.status().last_error.unwrap().to_string();
    assert!(error.contains("audit.db") && error.contains("locked"), "{error}");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    fixture.log.tick().await.unwrap();
    assert!(!fixture.log.status().spilling);
    let entry = fixture.log.reader().find(&refused.id).await.unwrap().expect("brought home");
    assert_eq!(entry.number(&["count"]), Some(1));
    let next = fixture.refuse(&client, &refusal("docker.io/library/python:3.11")).await;
    let entry = fixture.log.reader().find(&next.id).await.unwrap().unwrap();
    assert_eq!(entry.text(&["kind"]), Some("decision"));
}

#[tokio::test]
async fn a_record_removed_under_the_gateway_takes_no_refusal_with_it() {
    let fixture = Fixture::new().await;
    let client = caller("10.0.0.1");
    fixture.refuse(&client, &refusal("docker.io/library/python:3.11")).await;
    let away = tempfile::tempdir().unwrap();
    let names = ["audit.db", "audit.db-wal", "audit.db-shm"];
    for name in names {
        std::fs::rename(fixture.folder.path().join(name), away.path().join(name)).unwrap();
    }
    for tag in ["3.12", "3.13"] {
        fixture.refuse(&client, &refusal(&format!("docker.io/library/python:{tag}"))).await;
    }
    let status = fixture.log.status();
    assert!(status.spilling);
    assert!(!fixture.folder.path().join("audit.db").exists(), "not begun anew unseen");
    let file = std::fs::read_to_string(fixture.folder.path().join("audit.counters")).unwrap();
    assert!(file.contains("10.0.0.1"), "{file}");

    for name in names {
        std::fs::rename(away.path().join(name), fixture.folder.path().join(name)).unwrap();
    }
    fixture.log.tick().await.unwrap();
    assert!(!fixture.log.status().spilling, "{:?}", fixture.log.status());
    let count = |entry: &Entry| (entry.text(&["kind"]) == Some("flood")).then(|| entry.number(&["count"]));
    let entries = read(fixture.folder.path(), Filter::default()).await;
    assert_eq!(entries.iter().find_map(count), Some(Some(2)), "brought home");
}

#[tokio::test]
async fn a_counter_file_cut_or_scribbled_over_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("audit.counters"), b"\xff{\"id\":1}\n{\"id\":\"x\",\"count\":-1}")
        .unwrap();
    let log = Log::open(settings(folder.path()), Clock::system()).await.unwrap();
    assert!(log.status().last_error.is_none());
    assert_eq!(log.status().rows, 0);
}

#[tokio::test]
async fn a_folder_that_is_not_there_and_a_quota_that_cannot_work_are_said_clearly() {
    let folder = tempfile::tempdir().unwrap();
    let missing = Log::open(settings(&folder.path().join("no")), Clock::system()).await.unwrap_err();
    assert!(missing.to_string().contains("no/audit.db"), "{missing}");
    let small = Settings { max_size: 1000, ..settings(folder.path()) };
    let small = Log::open(small, Clock::system()).await.unwrap_err().to_string();
    assert!(small.contains("max_size") && small.contains("1 MiB"), "{small}");
    let nothing = query(folder.path(), Filter::default()).await.unwrap_err().to_string();
    assert!(nothing.contains("no audit log") && nothing.contains("serve"), "{nothing}");
}

/// A file system of a few MiB; it goes with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `Err`: what stands in the way, as for everybody but root.
    fn mount() -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
            .arg(folder.path())
            .output()
            .map_err(|error| error.to_string())?;
        if mounted.status.success() {
            Ok(Self(folder))
        } else {
            Err(String::from_utf8_lossy(&mounted.stderr).trim().to_owned())
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_disk_that_is_really_full_is_survived_like_a_quota() {
    let disk = match SmallDisk::mount() {
        Ok(disk) => disk,
        Err(reason) => {
            println!("skipped: a small file system cannot be mounted here: {reason}");
            return;
        }
    };
    let folder = tempfile::tempdir_in(disk.0.path()).unwrap();
    let clock = Clock::manual("2026-11-01T10:00:00Z".parse().unwrap());
    let log = Log::open(settings(folder.path()), clock.clone()).await.unwrap();
    let fixture = Fixture { folder, clock, log };
    let written = fill(&fixture).await;
    assert!(
        matches!(fixture.log.status().last_error, Some(Error::Full { .. })),
        "{:?}",
        fixture.log.status()
    );
    let counted = fixture.refuse(&caller("10.8.8.8"), &refusal("docker.io/library/a:1")).await;
    let Fixture { folder, clock, log } = fixture;
    log.close().await;
    drop(log);
    let roomy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, roomy.path().join(file.file_name().unwrap())).unwrap();
    }
    let log = Log::open(settings(roomy.path()), clock).await.unwrap();
    assert!(log.reader().find(&counted.id).await.unwrap().is_some());
    log.close().await;
    assert!(read(roomy.path(), Filter::default()).await.len() >= written);
}

#[tokio::test]
async fn what_could_not_be_written_while_the_database_was_locked_is_written_after() {
    let fixture = Fixture::new().await;
    let file = fixture.folder.path().join(FILE);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let image = tag("docker.io/library/python:3.11.9", "index");
    let mut receipt = fixture.allow(&caller("10.0.0.1"), &image, "GET");
    receipt.served(9);
    drop(receipt);
    assert!(matches!(fixture.log.flush().await, Err(Error::Write { .. })));
    let drift = Event::Drift {
        name: "docker.io/library/python".parse().unwrap(),
        tag: "3.11.9".parse().unwrap(),
        locked: digest("old"),
        current: None,
    };
    assert!(matches!(fixture.log.record(drift).await, Err(Error::Write { .. })), "the caller keeps it");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    fixture.log.tick().await.unwrap();
    let entries = fixture.entries().await;
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].number(&["bytes"]), Some(9));
    assert_eq!(fixture.log.status().unrecorded, 0);
}
