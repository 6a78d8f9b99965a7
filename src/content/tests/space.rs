//! Space: reserved, freed, lacking.

use std::process::Command;
use std::sync::atomic::Ordering;

use super::*;

const SIZE: u64 = MIB;

#[tokio::test]
async fn the_least_recently_used_blob_makes_space_and_the_sum_stays_within_bounds() {
    let (store, _folder) = store(4 * SIZE);
    let blobs: Vec<_> = (0..9).map(|seed| content(seed, SIZE)).collect();
    for (digest, bytes) in &blobs[..4] {
        bring(&store, digest, bytes).await;
    }
    drop(here(&store, &blobs[0].0, SIZE));
    bring(&store, &blobs[4].0, &blobs[4].1).await;
    let kept: Vec<_> = blobs.iter().take(5).map(|(digest, _)| store.has(digest)).collect();
    assert_eq!(kept, [true, false, true, true, true]);
    for (digest, bytes) in &blobs[5..] {
        bring(&store, digest, bytes).await;
        assert!(store.stats().bytes <= 4 * SIZE);
    }
    assert_eq!(store.stats().evictions, 5);
}

#[tokio::test]
async fn a_blob_that_is_being_read_is_not_evicted() {
    let (store, _folder) = store(4 * SIZE);
    let blobs: Vec<_> = (0..5).map(|seed| content(seed, SIZE)).collect();
    for (digest, bytes) in &blobs[..4] {
        bring(&store, digest, bytes).await;
    }
    let body = here(&store, &blobs[0].0, SIZE).body(None);
    for (digest, _) in &blobs[1..4] {
        drop(here(&store, digest, SIZE));
    }
    bring(&store, &blobs[4].0, &blobs[4].1).await;
    assert!(store.has(&blobs[0].0));
    assert!(!store.has(&blobs[1].0));
    assert_eq!(read(body).await.unwrap(), blobs[0].1);
}

#[tokio::test]
async fn a_reader_finishes_a_removed_blob_which_counts_until_then() {
    let (store, folder) = store(4 * SIZE);
    let (digest, bytes) = content(10, SIZE);
    bring(&store, &digest, &bytes).await;
    let body = here(&store, &digest, SIZE).body(None);
    assert_eq!(store.remove(&digest), Ok(true));
    assert_eq!(store.remove(&digest), Ok(false));
    assert!(!store.has(&digest));
    assert!(!super::faults::path(folder.path(), &digest).exists());
    assert_eq!((store.stats().blobs, store.stats().bytes), (0, SIZE));
    assert_eq!(read(body).await.unwrap(), bytes);
    assert_eq!(store.stats().bytes, 0);
}

#[tokio::test]
async fn a_fill_reserves_its_space_before_it_flows() {
    let (store, _folder) = store(8 * SIZE);
    let (digest, _) = content(11, SIZE);
    let (feed, body) = piped(SIZE);
    let coming = vacant(&store, &digest, SIZE).fill(once(body).0);
    let blob = coming.clone().opened().await.unwrap();
    assert_eq!((store.stats().blobs, store.stats().bytes, store.stats().fills), (0, SIZE, 1));
    feed.send(Err(Fault::Denied("401".into()))).await.unwrap();
    assert!(matches!(coming.verified().await, Err(Fault::Denied(_))));
    drop(blob);
    idle(&store).await;
    assert_eq!(store.stats().bytes, 0);
}

#[tokio::test]
async fn a_blob_of_more_than_a_quarter_of_the_store_is_passed_through_and_drives_nothing_out() {
    let (store, folder) = store(4 * SIZE);
    let (digest, bytes) = content(40, SIZE);
    bring(&store, &digest, &bytes).await;
    let (large, large_bytes) = content(41, SIZE + 1);
    let blob = vacant(&store, &large, SIZE + 1).fill(honest(large_bytes.clone()).0).opened().await.unwrap();
    assert_eq!(read(blob.body(None)).await.unwrap(), large_bytes);
    assert!(store.has(&digest) && !store.has(&large));
    assert_eq!((store.stats().passes, store.stats().evictions, store.stats().bytes), (1, 0, SIZE));
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_source_that_drips_is_given_up_and_what_was_reserved_for_it_is_free() {
    let (store, folder) = store(64 * SIZE);
    store.counters().window.set(std::time::Duration::from_millis(20)).unwrap();
    let (digest, bytes) = content(42, 16 * SIZE);
    let (feed, body) = piped(16 * SIZE);
    let coming = vacant(&store, &digest, 16 * SIZE).fill(once(body).0);
    let reader = coming.clone().opened().await.unwrap().body(None);
    assert_eq!(store.stats().bytes, 16 * SIZE);
    // A byte now and then never lets the connection look idle.
    let drip = async {
        for at in 0.. {
            if feed.send(Ok(slice(&bytes, at..at + 1))).await.is_err() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    let (verified, ()) = tokio::join!(coming.verified(), drip);
    assert!(matches!(verified, Err(Fault::Unreachable(_))), "{verified:?}");
    let (_, end) = drain(reader).await;
    assert!(end.is_err());
    idle(&store).await;
    assert_eq!(store.stats().bytes, 0);
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_source_that_brings_enough_may_take_as_long_as_it_takes() {
    let (store, _folder) = store(64 * SIZE);
    // No time at all, and still each piece that is there at once is enough.
    store.counters().window.set(std::time::Duration::ZERO).unwrap();
    let (digest, bytes) = content(43, 4 * SIZE);
    bring(&store, &digest, &bytes).await;
    assert!(store.has(&digest));
}

#[tokio::test]
async fn a_wrong_length_evicts_nothing() {
    let (store, _folder) = store(8 * SIZE);
    let (digest, bytes) = content(12, SIZE);
    bring(&store, &digest, &bytes).await;
    let (other, _) = content(13, SIZE);
    let opened = vacant(&store, &other, 2 * SIZE).fill(honest(content(13, SIZE).1).0).opened().await;
    assert!(matches!(opened, Err(Fault::Invalid(_))));
    assert!(store.has(&digest));
}

#[tokio::test]
async fn without_space_each_reader_streams_for_himself_and_nothing_is_kept() {
    let (store, folder) = store(SIZE - 1);
    let (digest, bytes) = content(14, SIZE);
    let (source, asked) = honest(bytes.clone());
    let coming = vacant(&store, &digest, SIZE).fill(source);
    let late = coming.clone();
    let range = 100 * KIB..300 * KIB;
    assert_eq!(read(coming.clone().opened().await.unwrap().body(None)).await.unwrap(), bytes);
    let ranged = late.opened().await.unwrap().body(Some(range.clone()));
    assert_eq!(read(ranged).await.unwrap(), slice(&bytes, range));
    assert_eq!(*asked.lock().unwrap(), [0, 0]);
    assert!(matches!(coming.verified().await, Err(Fault::Storage(_))));
    assert_eq!((store.stats().passes, store.stats().blobs, store.stats().bytes), (2, 0, 0));
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    drop(vacant(&store, &digest, SIZE));
}

#[tokio::test]
async fn what_is_passed_through_is_verified_all_the_same() {
    let (store, _folder) = store(0);
    let (digest, _) = content(15, SIZE);
    let (_, forged) = content(16, SIZE);
    for range in [None, Some(0..1), Some(100 * KIB..SIZE - 1)] {
        let len = range.clone().map_or(SIZE, |range| range.end - range.start);
        let coming = vacant(&store, &digest, SIZE).fill(honest(forged.clone()).0);
        let (got, end) = drain(coming.opened().await.unwrap().body(range)).await;
        assert_eq!(got.len() as u64, len.saturating_sub(64 * KIB));
        assert!(matches!(end, Err(Fault::Invalid(_))), "{end:?}");
    }
    let (small, bytes) = content(17, KIB);
    let opened = vacant(&store, &small, KIB).fill(honest(slice(&forged, 0..KIB)).0).opened().await;
    assert!(matches!(opened, Err(Fault::Invalid(_))), "{opened:?}");
    let blob = vacant(&store, &small, KIB).fill(honest(bytes.clone()).0).opened().await.unwrap();
    assert_eq!(read(blob.body(None)).await.unwrap(), bytes);
    assert_eq!(store.stats().verification_failures, 4);
}

#[tokio::test]
async fn a_failed_pass_stays_failed_when_it_is_asked_again() {
    let (store, _folder) = store(0);
    let (digest, bytes) = content(18, SIZE);
    let cut = whole(&slice(&bytes, 0..SIZE - KIB), 0, None);
    let body = SourceBody { total: Some(SIZE), ..cut };
    let mut body = vacant(&store, &digest, SIZE).fill(once(body).0).opened().await.unwrap().body(None);
    read_up_to(&mut body, SIZE - 64 * KIB).await.unwrap();
    for _ in 0..2 {
        assert!(matches!(body.frame().await, Some(Err(Fault::Unreachable(_)))));
    }
}

#[tokio::test]
async fn space_held_by_readers_is_not_to_be_had_and_blobs_pass_until_they_go() {
    let (store, _folder) = store(4 * SIZE);
    let (held, held_bytes) = content(19, SIZE);
    let (digest, bytes) = content(20, SIZE);
    bring(&store, &held, &held_bytes).await;
    let reader = here(&store, &held, SIZE);
    let mut others = Vec::new();
    for seed in 30..33 {
        let (other, bytes) = content(seed, SIZE);
        bring(&store, &other, &bytes).await;
        others.push(here(&store, &other, SIZE));
    }
    let blob = vacant(&store, &digest, SIZE).fill(honest(bytes.clone()).0).opened().await.unwrap();
    assert_eq!(read(blob.body(None)).await.unwrap(), bytes);
    assert_eq!(store.stats().passes, 1);
    drop(reader);
    idle(&store).await;
    bring(&store, &digest, &bytes).await;
    assert!(store.has(&digest) && !store.has(&held));
}

#[tokio::test]
async fn a_write_that_fails_breaks_the_fill_and_the_store_goes_on() {
    let (store, folder) = store(8 * MIB);
    let (digest, bytes) = content(21, SIZE);
    store.counters().disk_ends_at.store(500 * KIB, Ordering::Relaxed);
    let coming = vacant(&store, &digest, SIZE).fill(honest(bytes.clone()).0);
    let verified = coming.verified().await;
    assert!(
        matches!(&verified, Err(Fault::Storage(text)) if text.contains("no storage space")),
        "{verified:?}"
    );
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    idle(&store).await;
    assert_eq!(store.stats().bytes, 0);
    store.counters().disk_ends_at.store(u64::MAX, Ordering::Relaxed);
    bring(&store, &digest, &bytes).await;
}

/// Honest, forging and breaking sources, readers that hang up, removals and far too little space, all at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn in_any_turmoil_complete_replies_are_right_and_the_sum_is_what_the_disk_holds() {
    let (store, folder) = store(SIZE);
    let blobs: Arc<Vec<_>> = Arc::new(
        [0, 1, 60, 64, 65, 90, 200, 240, 250, 255, 256, 500].map(|size| content(size, size * KIB)).into(),
    );
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 0..8 {
        let (store, blobs) = (store.clone(), blobs.clone());
        tasks.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut complete = 0;
            for _ in 0..60 {
                let (digest, bytes) = random.choice(blobs.iter()).unwrap();
                let size = bytes.len() as u64;
                let opened = match store.claim(digest, size) {
                    Claim::Coming(coming) => coming.opened().await,
                    Claim::Here(blob) => Ok(blob),
                    Claim::Vacant(slot) => match random.u8(..8) {
                        0 => slot.fill(honest(content(99, size).1).0).opened().await,
                        1 => {
                            let end = Fault::Denied("401".into());
                            let part = slice(bytes, 0..size / 2);
                            let body = SourceBody { total: Some(size), ..whole(&part, 0, Some(end)) };
                            slot.fill(once(body).0).opened().await
                        }
                        2 => {
                            drop(slot);
                            continue;
                        }
                        _ => slot.fill(honest(bytes.clone()).0).opened().await,
                    },
                };
                let Ok(blob) = opened else { continue };
                let (start, end) = (random.u64(0..=size), random.u64(0..=size));
                let range = start.min(end)..start.max(end);
                let mut body = blob.body(Some(range.clone()));
                match random.u8(..8) {
                    0 => drop(body.frame().await),
                    1 => drop(store.remove(digest).unwrap()),
                    _ => {
                        let (got, end) = drain(body).await;
                        let expected = slice(bytes, range.clone());
                        if end.is_ok() {
                            assert_eq!(got, expected);
                            complete += 1;
                        } else {
                            assert!(got.len() < expected.len());
                        }
                    }
                }
                assert!(store.stats().bytes <= 2 * SIZE);
            }
            complete
        });
    }
    assert!(tasks.join_all().await.into_iter().sum::<u32>() > 100);
    idle(&store).await;
    let files =
        blobs.iter().filter_map(|(digest, _)| super::faults::path(folder.path(), digest).metadata().ok());
    let on_disk = files.map(|meta| meta.len()).sum::<u64>();
    // Reads that hung-up readers left on other threads hold their file a moment longer.
    let settled = async {
        while store.stats().bytes != on_disk {
            tokio::task::yield_now().await;
        }
    };
    let settled = tokio::time::timeout(std::time::Duration::from_secs(20), settled).await;
    assert!(settled.is_ok(), "{:?}, on disk {on_disk}", store.stats());
    assert!(store.stats().bytes <= SIZE);
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    assert_eq!(store.stats().readers, 0);
}

#[tokio::test]
async fn a_disk_smaller_than_the_limit_evicts_and_then_passes_through() {
    let mount = TempDir::new().unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(mount.path()).output();
    if !mounted.as_ref().is_ok_and(|output| output.status.success()) {
        println!("skipped: a tmpfs cannot be mounted here: {mounted:?}");
        return;
    }
    let _unmount = Unmount(mount.path());
    let store = open(&mount.path().join("store"), 1 << 40);
    let (digest, bytes) = content(22, 8 * MIB);
    let blob = vacant(&store, &digest, 8 * MIB).fill(honest(bytes.clone()).0).opened().await.unwrap();
    assert_eq!(read(blob.body(None)).await.unwrap(), bytes);
    assert_eq!(store.stats().passes, 1);

    let (first, first_bytes) = content(23, 3 * MIB);
    let (second, second_bytes) = content(24, 3 * MIB);
    bring(&store, &first, &first_bytes).await;
    bring(&store, &second, &second_bytes).await;
    assert!(store.has(&second) && !store.has(&first));
    assert_eq!(read(here(&store, &second, 3 * MIB).body(None)).await.unwrap(), second_bytes);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}
