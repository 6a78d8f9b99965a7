//! One fetch, many readers.

use futures_util::FutureExt;
use http_body::Body;
use proptest::prelude::*;

use super::*;

const SIZE: u64 = 3 * MIB + 7;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_readers_of_one_cold_blob_cause_one_fetch() {
    let (store, _folder) = store(64 * MIB);
    let (digest, bytes) = content(1, SIZE);
    let (feed, body) = piped(SIZE);
    let (source, asked) = once(body);
    let first = vacant(&store, &digest, SIZE).fill(source);
    let mut readers = tokio::task::JoinSet::new();
    let mut join = |coming: Coming, range: Option<std::ops::Range<u64>>| {
        let expected = range.clone().map_or_else(|| bytes.clone(), |range| slice(&bytes, range));
        readers.spawn(async move {
            let body = coming.opened().await.unwrap().body(range);
            assert_eq!(read(body).await.unwrap(), expected);
        });
    };
    for _ in 0..8 {
        join(coming(&store, &digest, SIZE), None);
    }
    let mut probe = first.clone().opened().await.unwrap().body(None);
    let mut hung_up = first.clone().opened().await.unwrap().body(None);
    join(first, None);

    feed.send(Ok(slice(&bytes, 0..MIB))).await.unwrap();
    let start = read_up_to(&mut probe, MIB).await.unwrap();
    assert_eq!(start, slice(&bytes, 0..start.len() as u64));
    assert!(!read_up_to(&mut hung_up, 1).await.unwrap().is_empty());
    drop(hung_up);

    for _ in 0..7 {
        join(coming(&store, &digest, SIZE), None);
    }
    join(coming(&store, &digest, SIZE), Some(10..20));
    join(coming(&store, &digest, SIZE), Some(MIB..SIZE));
    feed.send(Ok(slice(&bytes, MIB..SIZE))).await.unwrap();
    drop(feed);
    readers.join_all().await;
    let rest = read(probe).await.unwrap();
    assert_eq!(rest, slice(&bytes, start.len() as u64..SIZE));

    idle(&store).await;
    assert_eq!(read(here(&store, &digest, SIZE).body(None)).await.unwrap(), bytes);
    assert_eq!(*asked.lock().unwrap(), [0]);
    assert_eq!(store.stats().filled_bytes, SIZE);
    assert_eq!(store.stats().readers, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_who_claim_at_once_exactly_one_gets_the_slot() {
    let (store, _folder) = store(8 * MIB);
    let (digest, _) = content(2, KIB);
    let barrier = Arc::new(std::sync::Barrier::new(16));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (store, barrier) = (store.clone(), barrier.clone());
            std::thread::spawn(move || {
                barrier.wait();
                store.claim(&digest, KIB)
            })
        })
        .collect();
    let claims: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert_eq!(claims.iter().filter(|claim| matches!(claim, Claim::Vacant(_))).count(), 1);
    assert_eq!(claims.iter().filter(|claim| matches!(claim, Claim::Coming(_))).count(), 15);
}

#[tokio::test]
async fn a_fill_goes_on_when_everybody_has_hung_up() {
    let (store, _folder) = store(8 * MIB);
    let (digest, bytes) = content(3, 200 * KIB);
    let (feed, body) = piped(200 * KIB);
    drop(vacant(&store, &digest, 200 * KIB).fill(once(body).0));
    feed.send(Ok(bytes.clone())).await.unwrap();
    drop(feed);
    idle(&store).await;
    assert_eq!(read(here(&store, &digest, 200 * KIB).body(None)).await.unwrap(), bytes);
}

#[tokio::test]
async fn bytes_are_readable_long_before_the_blob_is_whole() {
    let (store, _folder) = store(8 * MIB);
    let (digest, bytes) = content(4, SIZE);
    let (feed, body) = piped(SIZE);
    let mut body = vacant(&store, &digest, SIZE).fill(once(body).0).opened().await.unwrap().body(None);
    feed.send(Ok(slice(&bytes, 0..1000))).await.unwrap();
    assert_eq!(read_up_to(&mut body, 1000).await.unwrap(), slice(&bytes, 0..1000));
    assert!(body.frame().now_or_never().is_none());
}

#[tokio::test]
async fn a_small_blob_is_opened_only_once_it_is_verified() {
    let (store, _folder) = store(8 * MIB);
    let (digest, bytes) = content(5, 64 * KIB);
    let (feed, body) = piped(64 * KIB);
    let coming = vacant(&store, &digest, 64 * KIB).fill(once(body).0);
    feed.send(Ok(slice(&bytes, 0..60 * KIB))).await.unwrap();
    // The channel holds one chunk: when there is room for the next, the fill has the first.
    drop(feed.reserve().await.unwrap());
    while store.stats().filled_bytes == 0 {
        tokio::task::yield_now().await;
    }
    assert!(coming.clone().opened().now_or_never().is_none());
    feed.send(Ok(slice(&bytes, 60 * KIB..64 * KIB))).await.unwrap();
    assert_eq!(read(coming.opened().await.unwrap().body(None)).await.unwrap(), bytes);
}

#[tokio::test]
async fn the_empty_blob_comes_and_is_kept_like_any_other() {
    let (store, _folder) = store(8 * MIB);
    let (digest, bytes) = content(6, 0);
    bring(&store, &digest, &bytes).await;
    let body = here(&store, &digest, 0).body(None);
    assert!(body.is_end_stream());
    assert_eq!(read(body).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_blob_asked_for_by_sha512_is_verified_by_sha512() {
    let (store, _folder) = store(8 * MIB);
    let (_, bytes) = content(7, 100 * KIB);
    let digest = Digest::of(crate::oci::Algorithm::Sha512, &bytes);
    bring(&store, &digest, &bytes).await;
    assert_eq!(read(here(&store, &digest, 100 * KIB).body(None)).await.unwrap(), bytes);
}

#[tokio::test]
async fn a_source_that_states_no_length_is_read_to_its_end() {
    let (store, _folder) = store(8 * MIB);
    let (digest, bytes) = content(8, 100 * KIB);
    let body = SourceBody { start: 0, total: None, bytes: chunks(&bytes, None) };
    let coming = vacant(&store, &digest, 100 * KIB).fill(once(body).0);
    assert_eq!(read(coming.opened().await.unwrap().body(None)).await.unwrap(), bytes);
}

#[tokio::test]
async fn five_hundred_stalled_readers_hold_less_than_fifty_mib() {
    let (store, _folder) = store(64 * MIB);
    let (digest, bytes) = content(9, 4 * MIB);
    bring(&store, &digest, &bytes).await;
    let mut stalled = Vec::new();
    let mut held = 0;
    for _ in 0..500 {
        let mut body = here(&store, &digest, 4 * MIB).body(None);
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        held += piece.len() as u64;
        stalled.push((body, piece));
    }
    assert_eq!(store.stats().readers, 500);
    assert!(held <= 50 * MIB, "{held}");
    drop(stalled);
    assert_eq!(store.stats().readers, 0);
}

#[tokio::test]
async fn a_reader_uses_one_buffer_again_and_again() {
    let (store, _folder) = store(64 * MIB);
    let (digest, bytes) = content(10, 4 * MIB);
    bring(&store, &digest, &bytes).await;
    let mut body = here(&store, &digest, 4 * MIB).body(None);
    let mut buffers = std::collections::HashSet::new();
    let mut pieces = 0;
    while let Some(frame) = body.frame().await {
        buffers.insert(frame.unwrap().into_data().unwrap().as_ptr() as usize);
        pieces += 1;
    }
    assert!(pieces >= 16, "{pieces}");
    assert_eq!(buffers.len(), 1);
}

#[tokio::test]
async fn bytes_that_are_not_in_memory_are_read_from_disk() {
    let (store, folder) = store(64 * MIB);
    let (digest, bytes) = content(11, 4 * MIB);
    bring(&store, &digest, &bytes).await;
    let file = std::fs::File::open(super::faults::path(folder.path(), &digest)).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert_eq!(read(here(&store, &digest, 4 * MIB).body(None)).await.unwrap(), bytes);
    // A file system that cannot say what is in memory.
    store.counters().uncachable.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(read(here(&store, &digest, 4 * MIB).body(Some(5..MIB))).await.unwrap(), slice(&bytes, 5..MIB));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// Kept, arriving and passed through alike.
    #[test]
    fn any_sequence_of_ranges_returns_the_exact_bytes(
        seed in any::<u64>(),
        size in prop_oneof![0..=130 * KIB, 600 * KIB..700 * KIB],
        ranges in proptest::collection::vec((0..800 * KIB, 0..800 * KIB), 1..6),
        max_size in prop_oneof![Just(0), Just(8 * MIB)],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (store, _folder) = store(max_size);
            let (digest, bytes) = content(seed, size);
            let (source, asked) = honest(bytes.clone());
            let coming = vacant(&store, &digest, size).fill(source);
            for (start, end) in &ranges {
                check(coming.clone().opened().await.unwrap(), *start..*end, &bytes).await?;
            }
            drop(coming);
            idle(&store).await;
            if max_size > 0 {
                prop_assert_eq!(asked.lock().unwrap().len(), 1);
                for (start, end) in &ranges {
                    check(here(&store, &digest, size), *start..*end, &bytes).await?;
                }
            }
            Ok(())
        })?;
    }
}

async fn check(blob: Blob, range: std::ops::Range<u64>, bytes: &Bytes) -> Result<(), TestCaseError> {
    let size = bytes.len() as u64;
    let end = range.end.min(size);
    let expected = slice(bytes, range.start.min(end)..end);
    let body = blob.body(Some(range));
    prop_assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
    prop_assert_eq!(read(body).await.unwrap(), expected);
    Ok(())
}
