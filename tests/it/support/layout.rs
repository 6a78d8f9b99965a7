//! OCI image layouts on disk (image-spec, image-layout.md).

use std::fs;
use std::path::{Path, PathBuf};

use pullgate::oci::Digest;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::content::Repository;
use super::image::Fixture;

/// A layout in a temporary folder; gone when dropped.
pub(crate) struct Layout {
    folder: TempDir,
    manifests: Vec<Value>,
}

impl Layout {
    /// One that holds nothing.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        let layout = Self { folder, manifests: Vec::new() };
        layout.write_index();
        layout
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Where a blob lies, or would lie.
    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// Adds it with all it names, under this `org.opencontainers.image.ref.name` when there is one. A
    /// name that is there already moves.
    pub(crate) fn add(&mut self, name: Option<&str>, fixture: &Fixture) {
        self.write(fixture);
        let mut entry = fixture.descriptor();
        if let Some(name) = name {
            let annotations = json!({"org.opencontainers.image.ref.name": name});
            self.manifests.retain(|other| other["annotations"] != annotations);
            entry["annotations"] = annotations;
        }
        self.manifests.push(entry);
        self.write_index();
    }

    fn write(&self, fixture: &Fixture) {
        for child in &fixture.children {
            self.write(child);
        }
        for bytes in fixture.blobs.iter().chain([&fixture.manifest]) {
            fs::write(self.blob(&Digest::sha256(bytes)), bytes).unwrap();
        }
    }

    fn write_index(&self) {
        let index = json!({"schemaVersion": 2, "mediaType": Repository::INDEX, "manifests": self.manifests});
        fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }
}
