//! Opening, closing and crashing.

use super::faults::path;
use super::*;
use crate::content::Error;
use crate::content::index::Note;

const SIZE: u64 = 300 * KIB;

#[tokio::test]
async fn a_second_store_on_the_same_folder_is_refused_and_told_which() {
    let (store, folder) = store(MIB);
    let settings = Settings { path: folder.path().to_owned(), max_size: MIB };
    let error = Store::open(settings.clone()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }));
    assert!(error.to_string().contains(&folder.path().display().to_string()));
    let clone = store.clone();
    drop(store);
    assert!(matches!(Store::open(settings.clone()), Err(Error::Locked { .. })));
    drop(clone);
    Store::open(settings).unwrap();
}

#[tokio::test]
async fn blobs_and_their_sum_survive_a_restart_without_being_read() {
    let (store, folder) = store(8 * MIB);
    let (digest, bytes) = content(1, SIZE);
    bring(&store, &digest, &bytes).await;
    drop(store);
    let store = open(folder.path(), 8 * MIB);
    assert_eq!((store.stats().blobs, store.stats().bytes), (1, SIZE));
    assert_eq!(read(here(&store, &digest, SIZE).body(None)).await.unwrap(), bytes);
    assert_eq!(store.stats().rehashes, 0);
}

#[tokio::test]
async fn the_order_of_use_survives_a_restart() {
    let (store, folder) = store(4 * SIZE);
    let blobs: Vec<_> = (0..5).map(|seed| content(seed, SIZE)).collect();
    for (digest, bytes) in &blobs[..4] {
        bring(&store, digest, bytes).await;
    }
    drop(here(&store, &blobs[0].0, SIZE));
    drop(store);
    let store = open(folder.path(), 4 * SIZE);
    bring(&store, &blobs[4].0, &blobs[4].1).await;
    let kept: Vec<_> = blobs.iter().map(|(digest, _)| store.has(digest)).collect();
    assert_eq!(kept, [true, false, true, true, true]);
}

#[tokio::test]
async fn a_crash_in_the_middle_of_a_fill_leaves_nothing_that_could_be_served() {
    let (store, folder) = store(8 * MIB);
    let (digest, bytes) = content(2, SIZE);
    let (kept, kept_bytes) = content(3, SIZE);
    bring(&store, &kept, &kept_bytes).await;
    let (feed, body) = piped(SIZE);
    let coming = vacant(&store, &digest, SIZE).fill(once(body).0);
    let mut body = coming.opened().await.unwrap().body(None);
    feed.send(Ok(slice(&bytes, 0..200 * KIB))).await.unwrap();
    read_up_to(&mut body, 200 * KIB).await.unwrap();

    // What the disk holds at this moment is what a killed process leaves.
    let crashed = TempDir::new().unwrap();
    copy(folder.path(), crashed.path());
    assert_eq!(std::fs::read_dir(crashed.path().join("tmp")).unwrap().count(), 1);
    let after = open(crashed.path(), 8 * MIB);
    assert_eq!(std::fs::read_dir(crashed.path().join("tmp")).unwrap().count(), 0);
    assert!(!after.has(&digest));
    bring(&after, &digest, &bytes).await;
    assert_eq!(read(here(&after, &digest, SIZE).body(None)).await.unwrap(), bytes);
    // A copy bears other stamps: the finished blob is read once more, and not fetched.
    let (source, asked) = honest(Bytes::new());
    let coming = vacant(&after, &kept, SIZE).fill(source);
    assert_eq!(read(coming.opened().await.unwrap().body(None)).await.unwrap(), kept_bytes);
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn wrong_bytes_under_a_right_name_are_not_believed_after_a_restart() {
    let (store, folder) = store(8 * MIB);
    let (digest, bytes) = content(4, SIZE);
    drop(store);
    let file = path(folder.path(), &digest);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, content(5, SIZE).1).unwrap();
    let store = open(folder.path(), 8 * MIB);
    let (source, asked) = honest(bytes.clone());
    let coming = vacant(&store, &digest, SIZE).fill(source);
    assert_eq!(read(coming.opened().await.unwrap().body(None)).await.unwrap(), bytes);
    assert_eq!(*asked.lock().unwrap(), [0]);
}

#[tokio::test]
async fn a_lost_or_damaged_index_costs_a_reading_and_nothing_else() {
    for damage in [None, Some(&b"+ sha256:00 1\n\xff\xfe\n+ garbage u - +"[..])] {
        let (store, folder) = store(8 * MIB);
        let (digest, bytes) = content(6, SIZE);
        bring(&store, &digest, &bytes).await;
        drop(store);
        match damage {
            None => std::fs::remove_file(folder.path().join("index")).unwrap(),
            Some(garbage) => std::fs::write(folder.path().join("index"), garbage).unwrap(),
        }
        let store = open(folder.path(), 8 * MIB);
        while !store.stats().counted {
            tokio::task::yield_now().await;
        }
        assert_eq!((store.stats().blobs, store.stats().bytes), (1, SIZE));
        let (source, asked) = honest(Bytes::new());
        let coming = vacant(&store, &digest, SIZE).fill(source);
        assert_eq!(read(coming.opened().await.unwrap().body(None)).await.unwrap(), bytes);
        assert!(asked.lock().unwrap().is_empty());
        assert_eq!(store.stats().rehashes, 1);
    }
}

#[tokio::test]
async fn files_that_went_while_the_store_was_closed_are_no_longer_counted() {
    let (store, folder) = store(8 * MIB);
    let (digest, bytes) = content(7, SIZE);
    bring(&store, &digest, &bytes).await;
    drop(store);
    std::fs::remove_file(path(folder.path(), &digest)).unwrap();
    let store = open(folder.path(), 8 * MIB);
    while !store.stats().counted {
        tokio::task::yield_now().await;
    }
    assert_eq!((store.stats().blobs, store.stats().bytes), (0, 0));
}

#[tokio::test]
async fn the_index_does_not_grow_with_every_change() {
    let (store, folder) = store(8 * MIB);
    let (digest, bytes) = content(8, SIZE);
    bring(&store, &digest, &bytes).await;
    for seed in 0..5000 {
        store.0.keeper.note(Note::Gone(Digest::sha256(&u32::to_le_bytes(seed))));
    }
    drop(store);
    let index = std::fs::read_to_string(folder.path().join("index")).unwrap();
    assert!(index.lines().count() < 4200, "{}", index.lines().count());
    drop(here(&open(folder.path(), 8 * MIB), &digest, SIZE));
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&target).unwrap();
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
