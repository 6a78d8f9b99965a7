//! A folder in the OCI image layout as an upstream (image-spec, image-layout.md).
//!
//! An entry of `index.json` belongs to the repository that its `io.containerd.image.name` names, or its
//! `org.opencontainers.image.ref.name` where that is a full name. A bare tag without a name belongs to
//! every repository, but only in a folder in which no entry is named: a single image, as skopeo writes
//! it. A digest belongs to a repository when its entries lead to it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};

use super::health::{Health, Record};
use super::{BlobStream, Fetched};
use crate::clock::Clock;
use crate::oci::{
    Descriptor, Digest, Fault, MANIFEST_MAX, Manifest, Name, Reference, Registry, Repository, Role, Tag,
    is_manifest_type,
};

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";
/// `index.json` of a mirror of everything is larger than a manifest may be.
const INDEX_MAX: u64 = 64 << 20;
/// What one repository may lead to.
const CLOSURE_MAX: usize = 1_000_000;
const PIECE: usize = 256 << 10;

/// One folder, answering for one registry.
pub(super) struct Layout {
    registry: Registry,
    root: PathBuf,
    record: Record,
    /// What was last read of it, until its `index.json` changes.
    snapshot: Mutex<Option<Arc<Snapshot>>>,
}

/// `index.json` as it stood at one time.
struct Snapshot {
    stamp: Stamp,
    /// The folder without symbolic links: nothing outside of it is read.
    root: PathBuf,
    named: HashMap<Repository, Entries>,
    /// Entries that carry no name.
    bare: Entries,
    /// Whether any entry carries a name, be it of another registry.
    has_names: bool,
    closures: Mutex<HashMap<Option<Repository>, Arc<Closure>>>,
}

#[derive(Clone, Default)]
struct Entries {
    tags: BTreeMap<Tag, Digest>,
    all: Vec<Descriptor>,
}

#[derive(Clone, Copy, Eq, PartialEq)]
struct Stamp {
    inode: u64,
    modified: SystemTime,
    size: u64,
}

/// Everything a repository's entries lead to.
#[derive(Default)]
struct Closure {
    /// Media types of the manifests; `None` for blobs.
    members: HashMap<Digest, Option<String>>,
    referrers: HashMap<Digest, Vec<Descriptor>>,
}

impl Layout {
    /// Nothing is read yet: a folder that is not there now may be mounted later. That is logged.
    pub(super) fn new(registry: Registry, root: PathBuf, clock: Clock) -> Self {
        let layout = Self { registry, root, record: Record::new(clock), snapshot: Mutex::default() };
        if let Err(fault) = layout.read() {
            tracing::warn!(registry = %layout.registry, %fault, "a layout folder cannot be used yet");
        }
        layout
    }

    pub(super) fn health(&self) -> Health {
        self.record.report(&self.registry, self.root.display().to_string(), true)
    }

    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        ask: impl FnOnce(&Self, &Snapshot) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let layout = Arc::clone(self);
        let task = tokio::task::spawn_blocking(move || {
            layout.record.count_request();
            let outcome = layout.read().and_then(|snapshot| ask(&layout, &snapshot));
            layout.record.outcome(&outcome);
            outcome
        });
        let failed = |error| Fault::Unreachable(format!("reading the layout folder failed: {error}").into());
        task.await.unwrap_or_else(|error| Err(failed(error)))
    }

    pub(super) async fn resolve(self: &Arc<Self>, name: &Name, tag: &Tag) -> Result<Digest, Fault> {
        let (name, tag) = (name.clone(), tag.clone());
        self.ask(move |_, snapshot| {
            let found =
                snapshot.entries(name.repository()).and_then(|entries| entries.tags.get(&tag).copied());
            found.ok_or_else(|| Fault::Absent(format!("{name}:{tag} is not in the layout folder").into()))
        })
        .await
    }

    pub(super) async fn tags(self: &Arc<Self>, name: &Name) -> Result<Vec<Tag>, Fault> {
        let name = name.clone();
        self.ask(move |_, snapshot| {
            let found = snapshot.entries(name.repository());
            let found =
                found.ok_or_else(|| Fault::Absent(format!("{name} is not in the layout folder").into()))?;
            Ok(found.tags.keys().cloned().collect())
        })
        .await
    }

    pub(super) async fn manifest(self: &Arc<Self>, name: &Name, digest: &Digest) -> Result<Fetched, Fault> {
        let (name, digest) = (name.clone(), *digest);
        self.ask(move |layout, snapshot| {
            let media_type = match snapshot.closure(layout, name.repository()).members.get(&digest) {
                Some(Some(media_type)) => media_type.clone(),
                _ => return Err(absent(&name, &digest)),
            };
            let bytes = layout.read_manifest(snapshot, &digest)?;
            Ok(Fetched { bytes, media_type: Some(media_type) })
        })
        .await
    }

    pub(super) async fn size(self: &Arc<Self>, name: &Name, digest: &Digest) -> Result<Option<u64>, Fault> {
        let (name, digest) = (name.clone(), *digest);
        self.ask(move |layout, snapshot| {
            let (_, size) = layout.open_member(snapshot, &name, &digest)?;
            Ok(Some(size))
        })
        .await
    }

    pub(super) async fn blob(
        self: &Arc<Self>,
        name: &Name,
        digest: &Digest,
        offset: u64,
    ) -> Result<BlobStream, Fault> {
        let (name, digest) = (name.clone(), *digest);
        self.ask(move |layout, snapshot| {
            let (mut file, total) = layout.open_member(snapshot, &name, &digest)?;
            // Past the end there is nothing to resume: whole, then, as registries do.
            let start = if offset < total { offset } else { 0 };
            file.seek(SeekFrom::Start(start)).map_err(|error| layout.broken(&digest, &error))?;
            let body = Box::pin(pieces(file, total - start, digest));
            Ok(BlobStream { start, total: Some(total), body })
        })
        .await
    }

    pub(super) async fn referrers(
        self: &Arc<Self>,
        name: &Name,
        digest: &Digest,
    ) -> Result<Vec<Descriptor>, Fault> {
        let (name, digest) = (name.clone(), *digest);
        self.ask(move |layout, snapshot| {
            let closure = snapshot.closure(layout, name.repository());
            closure.referrers.get(&digest).cloned().ok_or_else(|| absent(&name, &digest))
        })
        .await
    }

    fn unusable(&self, what: &str, error: &dyn std::fmt::Display) -> Fault {
        Fault::Unreachable(format!("layout folder {}: {what}: {error}", self.root.display()).into())
    }

    fn broken(&self, digest: &Digest, error: &dyn std::fmt::Display) -> Fault {
        self.unusable(&format!("{digest} cannot be read"), error)
    }

    /// The folder as it is now; read anew when `index.json` is another file or has another time or size.
    fn read(&self) -> Result<Arc<Snapshot>, Fault> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            image_layout_version: String,
        }
        #[derive(serde::Deserialize)]
        struct Index {
            manifests: Vec<serde_json::Value>,
        }
        let path = self.root.join("index.json");
        let metadata = std::fs::metadata(&path).map_err(|error| self.unusable("no index.json", &error))?;
        let modified =
            metadata.modified().map_err(|error| self.unusable("index.json has no time", &error))?;
        let stamp = Stamp { inode: metadata.ino(), modified, size: metadata.len() };
        let mut current = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = current.as_ref().filter(|snapshot| snapshot.stamp == stamp) {
            return Ok(Arc::clone(snapshot));
        }
        let root = self.root.canonicalize().map_err(|error| self.unusable("it cannot be found", &error))?;
        let text = self.read_file(&root, Path::new("oci-layout"), MANIFEST_MAX as u64)?;
        let version: Version = serde_json::from_slice(&text)
            .map_err(|error| self.unusable("oci-layout is malformed", &error))?;
        if !version.image_layout_version.starts_with("1.") {
            return Err(
                self.unusable("unknown imageLayoutVersion", &version.image_layout_version.escape_debug())
            );
        }
        let text = self.read_file(&root, Path::new("index.json"), INDEX_MAX)?;
        let index: Index = serde_json::from_slice(&text)
            .map_err(|error| self.unusable("index.json is malformed", &error))?;
        let snapshot = Arc::new(self.sort(stamp, root, index.manifests));
        *current = Some(Arc::clone(&snapshot));
        Ok(snapshot)
    }

    fn sort(&self, stamp: Stamp, root: PathBuf, entries: Vec<serde_json::Value>) -> Snapshot {
        let mut named: HashMap<Repository, Entries> = HashMap::new();
        let mut bare = Entries::default();
        let mut has_names = false;
        for entry in entries {
            let Ok(entry) = serde_json::from_value::<Descriptor>(entry) else { continue };
            let belonging = belonging(&entry);
            has_names |= !matches!(belonging, Belonging::Nobody(_));
            let (home, tag) = match belonging {
                Belonging::Elsewhere => continue,
                Belonging::Nobody(tag) => (&mut bare, tag),
                Belonging::Repository(name, _) if *name.registry() != self.registry => continue,
                Belonging::Repository(name, tag) => {
                    (named.entry(name.repository().clone()).or_default(), tag)
                }
            };
            if let Some(tag) = tag {
                home.tags.insert(tag, entry.digest);
            }
            home.all.push(entry);
        }
        Snapshot { stamp, root, named, bare, has_names, closures: Mutex::default() }
    }

    fn open(&self, root: &Path, relative: &Path) -> Result<Option<File>, Fault> {
        let fail = |error: std::io::Error| self.unusable(&relative.display().to_string(), &error);
        let path = match root.join(relative).canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(error)),
        };
        if !path.starts_with(root) {
            return Err(
                self.unusable(&relative.display().to_string(), &"a link that leads out of the folder")
            );
        }
        let file = File::open(&path).map_err(fail)?;
        if !file.metadata().map_err(fail)?.is_file() {
            return Err(self.unusable(&relative.display().to_string(), &"no file"));
        }
        Ok(Some(file))
    }

    fn read_file(&self, root: &Path, relative: &Path, max: u64) -> Result<Vec<u8>, Fault> {
        let file = self.open(root, relative)?;
        let file = file.ok_or_else(|| self.unusable(&relative.display().to_string(), &"missing"))?;
        let mut bytes = Vec::new();
        let read = file.take(max + 1).read_to_end(&mut bytes);
        read.map_err(|error| self.unusable(&relative.display().to_string(), &error))?;
        if bytes.len() as u64 > max {
            return Err(Fault::Invalid(format!("{} is larger than {max} bytes", relative.display()).into()));
        }
        Ok(bytes)
    }

    fn read_manifest(&self, snapshot: &Snapshot, digest: &Digest) -> Result<Bytes, Fault> {
        let relative = blob_path(digest);
        if self.open(&snapshot.root, &relative)?.is_none() {
            return Err(Fault::Absent(format!("{digest} is not in the layout folder").into()));
        }
        self.read_file(&snapshot.root, &relative, MANIFEST_MAX as u64).map(Bytes::from)
    }

    fn open_member(&self, snapshot: &Snapshot, name: &Name, digest: &Digest) -> Result<(File, u64), Fault> {
        if !snapshot.closure(self, name.repository()).members.contains_key(digest) {
            return Err(absent(name, digest));
        }
        let file = self.open(&snapshot.root, &blob_path(digest))?.ok_or_else(|| absent(name, digest))?;
        let size = file.metadata().map_err(|error| self.broken(digest, &error))?.len();
        Ok((file, size))
    }
}

impl Snapshot {
    fn entries(&self, repository: &Repository) -> Option<&Entries> {
        match self.named.get(repository) {
            Some(entries) => Some(entries),
            None if !self.has_names => Some(&self.bare),
            None => None,
        }
    }

    fn closure(&self, layout: &Layout, repository: &Repository) -> Arc<Closure> {
        let Some(entries) = self.entries(repository) else { return Arc::default() };
        let key = self.named.contains_key(repository).then(|| repository.clone());
        let mut closures = self.closures.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(closures.entry(key).or_insert_with(|| Arc::new(self.walk(layout, entries))))
    }

    /// Follows the entries down, then takes in nameless entries that refer to what was found, until
    /// nothing is new. What is missing or malformed leads nowhere.
    fn walk(&self, layout: &Layout, entries: &Entries) -> Closure {
        let mut closure = Closure::default();
        let mut todo: Vec<Descriptor> = entries.all.clone();
        let mut loose: Vec<(Digest, Descriptor)> = Vec::new();
        for entry in &self.bare.all {
            if let Some((subject, referrer)) = self.subject(layout, entry) {
                loose.push((subject, referrer));
            }
        }
        let mut listed: HashSet<Digest> = HashSet::new();
        loop {
            while let Some(entry) = todo.pop() {
                if closure.members.len() >= CLOSURE_MAX {
                    return closure;
                }
                self.follow(layout, &entry, &mut closure, &mut todo, &mut listed);
            }
            let (found, rest): (Vec<_>, Vec<_>) =
                loose.into_iter().partition(|(subject, _)| closure.members.contains_key(subject));
            loose = rest;
            if found.is_empty() {
                return closure;
            }
            for (subject, referrer) in found {
                if listed.insert(referrer.digest) {
                    closure.referrers.entry(subject).or_default().push(referrer.clone());
                }
                todo.push(referrer);
            }
        }
    }

    fn follow(
        &self,
        layout: &Layout,
        entry: &Descriptor,
        closure: &mut Closure,
        todo: &mut Vec<Descriptor>,
        listed: &mut HashSet<Digest>,
    ) {
        if matches!(closure.members.get(&entry.digest), Some(Some(_))) {
            return;
        }
        closure.members.insert(entry.digest, Some(entry.media_type.clone()));
        let Some(manifest) = self.parse(layout, entry) else { return };
        if let Some(subject) = &manifest.subject
            && listed.insert(entry.digest)
        {
            closure.referrers.entry(subject.digest).or_default().push(referrer(&manifest));
        }
        for (role, edge) in manifest.edges {
            if role == Role::Child || is_manifest_type(&edge.media_type) {
                todo.push(edge);
            } else {
                closure.members.entry(edge.digest).or_insert(None);
            }
        }
    }

    fn subject(&self, layout: &Layout, entry: &Descriptor) -> Option<(Digest, Descriptor)> {
        let manifest = self.parse(layout, entry)?;
        let subject = manifest.subject.as_ref()?.digest;
        Some((subject, referrer(&manifest)))
    }

    fn parse(&self, layout: &Layout, entry: &Descriptor) -> Option<Manifest> {
        let bytes = layout.read_manifest(self, &entry.digest).ok()?;
        Manifest::parse(&bytes, Some(&entry.media_type), Some(&entry.digest)).ok()
    }
}

/// The descriptor the referrers API gives: with the artifact type and annotations of the manifest
/// (distribution-spec, "Listing Referrers").
fn referrer(manifest: &Manifest) -> Descriptor {
    let mut descriptor = manifest.descriptor();
    if descriptor.artifact_type.is_none() {
        let config = manifest.edges.iter().find(|(role, _)| *role == Role::Config);
        descriptor.artifact_type = config.map(|(_, config)| config.media_type.clone());
    }
    let annotations = &manifest.annotations;
    descriptor.annotations = (!annotations.is_empty()).then(|| annotations.clone());
    descriptor
}

/// Whose an entry of `index.json` is.
enum Belonging {
    /// It has a name that cannot be read.
    Elsewhere,
    /// It has no name, perhaps a bare tag.
    Nobody(Option<Tag>),
    Repository(Name, Option<Tag>),
}

fn belonging(entry: &Descriptor) -> Belonging {
    let annotation = |key: &str| entry.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str);
    let bare: Option<Tag> = annotation(REF_NAME).and_then(|text| text.parse().ok());
    let full =
        annotation(IMAGE_NAME).or_else(|| annotation(REF_NAME).filter(|text| text.contains(['/', ':'])));
    let Some(text) = full else { return Belonging::Nobody(bare) };
    let Ok(Reference { name, tag, digest }) = text.parse() else { return Belonging::Elsewhere };
    // A reference without tag and digest reads as `latest`, which the folder may not have said.
    let said = digest.is_none() && text.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let tag = if digest.is_some() || said { tag } else { None };
    Belonging::Repository(name, tag.or(bare))
}

fn blob_path(digest: &Digest) -> PathBuf {
    Path::new("blobs").join(digest.algorithm().as_str()).join(digest.hex())
}

fn absent(name: &Name, digest: &Digest) -> Fault {
    Fault::Absent(format!("{name}@{digest} is not in the layout folder").into())
}

/// Reads `left` bytes piece by piece, each off the async threads.
fn pieces(
    file: File,
    left: u64,
    digest: Digest,
) -> impl futures_util::Stream<Item = Result<Bytes, Fault>> + Send {
    futures_util::stream::try_unfold((file, left), move |(mut file, left)| async move {
        if left == 0 {
            return Ok(None);
        }
        let read = tokio::task::spawn_blocking(move || {
            let size = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let mut piece = BytesMut::zeroed(size);
            file.read_exact(&mut piece)?;
            Ok::<_, std::io::Error>((file, piece.freeze()))
        });
        let read = read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        let (file, piece) = read
            .map_err(|error| Fault::Unreachable(format!("{digest} in the layout folder: {error}").into()))?;
        let left = left - piece.len() as u64;
        Ok(Some((piece, (file, left))))
    })
}
