//! What must never complete, and what must recover.

use futures_util::FutureExt;

use super::*;

const SIZE: u64 = MIB;

fn unreachable_fault() -> Fault {
    Fault::Unreachable("connection reset".into())
}

#[tokio::test]
async fn forged_bytes_never_complete_and_the_next_claim_starts_anew() {
    let (store, folder) = store(8 * MIB);
    let (digest, bytes) = content(1, SIZE);
    let (_, forged) = content(2, SIZE);
    let coming = vacant(&store, &digest, SIZE).fill(honest(forged).0);
    let blob = coming.clone().opened().await.unwrap();
    let (got, end) = drain(blob.body(None)).await;
    assert!(matches!(&end, Err(Fault::Invalid(text)) if text.contains("asked for sha256:")), "{end:?}");
    assert!(got.len() as u64 <= SIZE - 64 * KIB);
    assert!(matches!(coming.verified().await, Err(Fault::Invalid(_))));
    assert_eq!(store.stats().verification_failures, 1);
    assert_eq!(std::fs::read_dir(folder.path().join("tmp")).unwrap().count(), 0);
    assert!(!store.has(&digest));

    let (source, asked) = honest(bytes.clone());
    let coming = vacant(&store, &digest, SIZE).fill(source);
    assert_eq!(read(coming.opened().await.unwrap().body(None)).await.unwrap(), bytes);
    assert_eq!(*asked.lock().unwrap(), [0]);
}

#[tokio::test]
async fn a_forged_range_never_completes_wherever_it_lies() {
    let (store, _folder) = store(8 * MIB);
    let (digest, _) = content(3, SIZE);
    let (_, forged) = content(4, SIZE);
    let (feed, body) = piped(SIZE);
    let coming = vacant(&store, &digest, SIZE).fill(once(body).0);
    let mut readers = Vec::new();
    for range in [0..1, 0..70 * KIB, 100 * KIB..200 * KIB, SIZE - 1..SIZE, 0..SIZE] {
        readers.push((coming.clone().opened().await.unwrap().body(Some(range.clone())), range));
    }
    feed.send(Ok(slice(&forged, 0..SIZE - 1))).await.unwrap();
    while store.stats().filled_bytes < SIZE - 1 {
        tokio::task::yield_now().await;
    }
    // All but one byte is there to be read, and still each reply stops short of its tail.
    for (body, range) in &mut readers {
        let open = (range.end - range.start).saturating_sub(64 * KIB);
        assert_eq!(read_up_to(body, open).await.unwrap().len() as u64, open, "{range:?}");
        assert!(body.frame().now_or_never().is_none(), "{range:?}");
    }
    feed.send(Ok(slice(&forged, SIZE - 1..SIZE))).await.unwrap();
    for (body, range) in readers {
        let (got, end) = drain(body).await;
        assert!(got.is_empty(), "{range:?}");
        assert!(matches!(end, Err(Fault::Invalid(_))), "{range:?}: {end:?}");
    }
}

#[tokio::test]
async fn a_small_forged_blob_is_refused_before_it_is_opened() {
    let (store, _folder) = store(MIB);
    let (digest, _) = content(5, 10 * KIB);
    let (_, forged) = content(6, 10 * KIB);
    let opened = vacant(&store, &digest, 10 * KIB).fill(honest(forged).0).opened().await;
    assert!(matches!(opened, Err(Fault::Invalid(_))), "{opened:?}");
    drop(vacant(&store, &digest, 10 * KIB));
}

#[tokio::test]
async fn a_length_other_than_the_descriptors_is_refused() {
    let (store, _folder) = store(8 * MIB);
    let (digest, bytes) = content(7, SIZE);
    for stated in [SIZE - 1, SIZE + 1] {
        let opened = vacant(&store, &digest, stated).fill(honest(bytes.clone()).0).opened().await;
        assert!(matches!(opened, Err(Fault::Invalid(_))), "{opened:?}");
    }
    // The source hides the length, or lies about it: what comes decides.
    for total in [None, Some(SIZE - 1)] {
        let body = SourceBody { start: 0, total, bytes: chunks(&bytes, None) };
        let verified = vacant(&store, &digest, SIZE - 1).fill(once(body).0).verified().await;
        assert!(matches!(verified, Err(Fault::Invalid(_))), "{verified:?}");
    }
    idle(&store).await;
    assert_eq!(store.stats().bytes, 0);
}

#[tokio::test]
async fn a_descriptor_with_a_wrong_size_is_refused_and_costs_the_kept_blob_nothing() {
    let (store, _folder) = store(8 * MIB);
    let (digest, bytes) = content(8, SIZE);
    bring(&store, &digest, &bytes).await;
    let opened = coming(&store, &digest, SIZE + 1).opened().await;
    assert!(matches!(opened, Err(Fault::Invalid(_))), "{opened:?}");
    assert_eq!(read(here(&store, &digest, SIZE).body(None)).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_source_that_answers_with_an_error_fails_the_opening() {
    let (store, _folder) = store(MIB);
    let (digest, _) = content(9, SIZE);
    let fault = Fault::Absent("404".into());
    let (source, _) = {
        let fault = fault.clone();
        Script::new(move |_| Err(fault.clone()))
    };
    let first = vacant(&store, &digest, SIZE).fill(source);
    let second = first.clone();
    assert_eq!(first.opened().await.unwrap_err(), fault);
    assert_eq!(second.opened().await.unwrap_err(), fault);
    drop(vacant(&store, &digest, SIZE));
}

#[tokio::test]
async fn a_cut_stream_is_taken_up_at_the_exact_byte() {
    for end in [Some(unreachable_fault()), None] {
        let (store, _folder) = store(8 * MIB);
        let (digest, bytes) = content(10, SIZE);
        let cuts = [0, 300 * KIB, 900 * KIB];
        let (source, asked) = {
            let bytes = bytes.clone();
            Script::new(move |offset| {
                let stop = cuts.into_iter().find(|cut| *cut > offset);
                let part = slice(&bytes, offset..stop.unwrap_or(SIZE));
                let end = stop.and(end.clone());
                Ok(SourceBody { start: offset, total: Some(SIZE), bytes: chunks(&part, end) })
            })
        };
        let blob = vacant(&store, &digest, SIZE).fill(source).opened().await.unwrap();
        assert_eq!(read(blob.body(None)).await.unwrap(), bytes);
        assert_eq!(*asked.lock().unwrap(), cuts);
        assert_eq!(store.stats().filled_bytes, SIZE);
    }
}

#[tokio::test]
async fn a_cut_stream_is_never_glued_to_an_answer_that_is_not_its_exact_rest() {
    let (digest, bytes) = content(11, SIZE);
    let cut = 300 * KIB;
    for (start, total) in [(0, Some(SIZE)), (cut - 1, Some(SIZE)), (cut, None), (cut, Some(SIZE + 1))] {
        let (store, _folder) = store(8 * MIB);
        let (source, asked) = {
            let bytes = bytes.clone();
            Script::new(move |offset| {
                if offset == 0 {
                    let part = chunks(&slice(&bytes, 0..cut), Some(unreachable_fault()));
                    return Ok(SourceBody { start: 0, total: Some(SIZE), bytes: part });
                }
                Ok(SourceBody { start, total, bytes: chunks(&slice(&bytes, start..SIZE), None) })
            })
        };
        let blob = vacant(&store, &digest, SIZE).fill(source).opened().await.unwrap();
        let (got, end) = drain(blob.body(None)).await;
        assert_eq!(end, Err(unreachable_fault()), "{start} {total:?}");
        assert!(got.len() as u64 <= cut);
        assert_eq!(*asked.lock().unwrap(), [0, cut]);
    }
}

#[tokio::test]
async fn a_source_that_keeps_breaking_is_given_up() {
    let (store, _folder) = store(8 * MIB);
    let (digest, bytes) = content(12, SIZE);
    let (source, asked) = Script::new(move |offset| {
        let part = slice(&bytes, offset..offset + KIB);
        Ok(SourceBody { start: offset, total: Some(SIZE), bytes: chunks(&part, Some(unreachable_fault())) })
    });
    let verified = vacant(&store, &digest, SIZE).fill(source).verified().await;
    assert_eq!(verified, Err(unreachable_fault()));
    assert_eq!(*asked.lock().unwrap(), [0, KIB, 2 * KIB, 3 * KIB]);
}

#[tokio::test]
async fn a_filler_that_vanishes_breaks_its_readers_and_is_no_end_of_file() {
    let (store, _folder) = store(8 * MIB);
    let (digest, bytes) = content(13, SIZE);
    let (feed, body) = piped(SIZE);
    let other = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = {
        let _guard = other.enter();
        vacant(&store, &digest, SIZE).fill(once(body).0)
    };
    let mut body = first.clone().opened().await.unwrap().body(None);
    feed.send(Ok(slice(&bytes, 0..KIB))).await.unwrap();
    assert_eq!(read_up_to(&mut body, KIB).await.unwrap(), slice(&bytes, 0..KIB));
    other.shutdown_background();
    let (got, end) = drain(body).await;
    assert!(got.is_empty());
    assert!(matches!(end, Err(Fault::Storage(_))), "{end:?}");
    assert!(matches!(first.verified().await, Err(Fault::Storage(_))));
    drop(vacant(&store, &digest, SIZE));
}

#[tokio::test]
async fn a_slot_dropped_unfilled_breaks_who_waits_and_frees_the_place() {
    let (store, _folder) = store(MIB);
    let (digest, _) = content(14, SIZE);
    let slot = vacant(&store, &digest, SIZE);
    let waiting = coming(&store, &digest, SIZE);
    drop(slot);
    assert!(matches!(waiting.opened().await, Err(Fault::Storage(_))));
    drop(vacant(&store, &digest, SIZE));
}

#[tokio::test]
async fn a_file_changed_on_disk_is_read_again_and_not_served() {
    let (store, folder) = store(8 * MIB);
    let (digest, bytes) = content(15, SIZE);
    bring(&store, &digest, &bytes).await;
    tamper(&path(folder.path(), &digest), |path| {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(b"not what was verified", 5000).unwrap();
    });
    let (source, asked) = honest(bytes.clone());
    let coming = vacant(&store, &digest, SIZE).fill(source);
    assert_eq!(read(coming.opened().await.unwrap().body(None)).await.unwrap(), bytes);
    assert_eq!(*asked.lock().unwrap(), [0]);
    assert_eq!(store.stats().rehashes, 1);
    idle(&store).await;
    assert_eq!(read(here(&store, &digest, SIZE).body(None)).await.unwrap(), bytes);
    assert_eq!(store.stats().bytes, SIZE);
}

#[tokio::test]
async fn a_file_cut_short_on_disk_is_fetched_anew() {
    let (store, folder) = store(8 * MIB);
    let (digest, bytes) = content(16, SIZE);
    bring(&store, &digest, &bytes).await;
    std::fs::OpenOptions::new().write(true).open(path(folder.path(), &digest)).unwrap().set_len(7).unwrap();
    bring(&store, &digest, &bytes).await;
    assert_eq!(read(here(&store, &digest, SIZE).body(None)).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_file_merely_touched_is_read_again_and_served_without_a_fetch() {
    let (store, folder) = store(8 * MIB);
    let (digest, bytes) = content(17, SIZE);
    bring(&store, &digest, &bytes).await;
    tamper(&path(folder.path(), &digest), |path| {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    });
    let (source, asked) = honest(Bytes::new());
    let coming = vacant(&store, &digest, SIZE).fill(source);
    assert_eq!(read(coming.opened().await.unwrap().body(None)).await.unwrap(), bytes);
    assert!(asked.lock().unwrap().is_empty());
    idle(&store).await;
    drop(here(&store, &digest, SIZE));
}

#[tokio::test]
async fn a_file_deleted_by_hand_is_fetched_anew() {
    let (store, folder) = store(8 * MIB);
    let (digest, bytes) = content(18, SIZE);
    bring(&store, &digest, &bytes).await;
    std::fs::remove_file(path(folder.path(), &digest)).unwrap();
    bring(&store, &digest, &bytes).await;
    assert_eq!(store.stats().bytes, SIZE);
}

pub(super) fn path(folder: &Path, digest: &Digest) -> std::path::PathBuf {
    let hex = digest.hex();
    folder.join("blobs").join(digest.algorithm().as_str()).join(hex.get(..2).unwrap()).join(&hex)
}

/// Does something to a file, again until the clock of the file system has moved on.
fn tamper(path: &Path, change: impl Fn(&Path)) {
    use std::os::unix::fs::MetadataExt;
    let changed = |meta: std::fs::Metadata| (meta.ctime(), meta.ctime_nsec());
    let before = changed(path.metadata().unwrap());
    while changed(path.metadata().unwrap()) == before {
        change(path);
    }
}
