//! Behaviour of the store as its callers see it. Sources are fed by hand, so that every test decides
//! what has arrived when; faults happen at the source and in the files.

mod faults;
mod restart;
mod sharing;
mod space;

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::BodyExt;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::{Blob, BlobBody, Claim, Coming, Settings, Slot, Source, SourceBody, Store};
use crate::oci::{Digest, Fault};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn store(max_size: u64) -> (Store, TempDir) {
    let folder = TempDir::new().unwrap();
    (open(folder.path(), max_size), folder)
}

fn open(path: &Path, max_size: u64) -> Store {
    Store::open(Settings { path: path.to_owned(), max_size }).unwrap()
}

/// Bytes that are told apart by their seed, and their digest.
fn content(seed: u64, len: u64) -> (Digest, Bytes) {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; usize::try_from(len).unwrap()];
    random.fill(&mut bytes);
    (Digest::sha256(&bytes), bytes.into())
}

/// A source that answers as a closure says, and remembers the offsets it was asked for.
struct Script<F> {
    asked: Asked,
    answer: F,
}

type Asked = Arc<Mutex<Vec<u64>>>;

impl<F> Script<F>
where
    F: FnMut(u64) -> Result<SourceBody, Fault> + Send + 'static,
{
    fn new(answer: F) -> (Self, Asked) {
        let asked = Asked::default();
        (Self { asked: asked.clone(), answer }, asked)
    }
}

impl<F> Source for Script<F>
where
    F: FnMut(u64) -> Result<SourceBody, Fault> + Send + 'static,
{
    async fn open(&mut self, offset: u64) -> Result<SourceBody, Fault> {
        self.asked.lock().unwrap().push(offset);
        (self.answer)(offset)
    }
}

/// An honest source of these bytes, in chunks as a network brings them.
fn honest(bytes: Bytes) -> (impl Source, Asked) {
    Script::new(move |offset| Ok(whole(&bytes, offset, None)))
}

/// The answer that carries the bytes from `offset` on, and ends with this fault.
fn whole(bytes: &Bytes, offset: u64, end: Option<Fault>) -> SourceBody {
    let rest = bytes.slice(usize::try_from(offset).unwrap()..);
    SourceBody { start: offset, total: Some(bytes.len() as u64), bytes: chunks(&rest, end) }
}

fn chunks(
    bytes: &Bytes,
    end: Option<Fault>,
) -> futures_util::stream::BoxStream<'static, Result<Bytes, Fault>> {
    let parts: Vec<_> =
        bytes.chunks(17_000).map(|part| Ok(bytes.slice_ref(part))).chain(end.map(Err)).collect();
    futures_util::stream::iter(parts).boxed()
}

/// An answer fed by hand; it ends when the sender is dropped.
fn piped(total: u64) -> (mpsc::Sender<Result<Bytes, Fault>>, SourceBody) {
    let (sender, receiver) = mpsc::channel(1);
    let bytes = futures_util::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    (sender, SourceBody { start: 0, total: Some(total), bytes: bytes.boxed() })
}

/// A source that gives this one answer.
fn once(body: SourceBody) -> (impl Source, Asked) {
    let mut body = Some(body);
    Script::new(move |_| body.take().ok_or_else(|| Fault::Unreachable("asked twice".into())))
}

fn vacant(store: &Store, digest: &Digest, size: u64) -> Slot {
    match store.claim(digest, size) {
        Claim::Vacant(slot) => slot,
        other => panic!("expected a vacant slot, found {other:?}"),
    }
}

fn coming(store: &Store, digest: &Digest, size: u64) -> Coming {
    match store.claim(digest, size) {
        Claim::Coming(coming) => coming,
        other => panic!("expected a blob on its way, found {other:?}"),
    }
}

fn here(store: &Store, digest: &Digest, size: u64) -> Blob {
    match store.claim(digest, size) {
        Claim::Here(blob) => blob,
        other => panic!("expected the blob, found {other:?}"),
    }
}

/// Brings a blob to its end and waits until the store has it.
async fn bring(store: &Store, digest: &Digest, bytes: &Bytes) {
    let (source, _) = honest(bytes.clone());
    vacant(store, digest, bytes.len() as u64).fill(source).verified().await.unwrap();
    idle(store).await;
}

/// Waits until no fill is under way: verified blobs are at their place.
async fn idle(store: &Store) {
    while store.stats().fills > 0 {
        tokio::task::yield_now().await;
    }
}

async fn read(body: BlobBody) -> Result<Bytes, Fault> {
    body.collect().await.map(http_body_util::Collected::to_bytes)
}

/// Reads until this many bytes came, or the end.
async fn read_up_to(body: &mut BlobBody, len: u64) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < len
        && let Some(frame) = body.frame().await
    {
        bytes.extend_from_slice(&frame?.into_data().unwrap());
    }
    Ok(bytes)
}

/// Reads until the body ends or fails: what came, and how it ended.
async fn drain(mut body: BlobBody) -> (Vec<u8>, Result<(), Fault>) {
    let mut bytes = Vec::new();
    loop {
        match body.frame().await {
            None => return (bytes, Ok(())),
            Some(Ok(frame)) => bytes.extend_from_slice(&frame.into_data().unwrap()),
            Some(Err(fault)) => return (bytes, Err(fault)),
        }
    }
}

fn slice(bytes: &Bytes, range: std::ops::Range<u64>) -> Bytes {
    bytes.slice(usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap())
}
