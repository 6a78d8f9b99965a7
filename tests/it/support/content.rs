//! What a fake registry holds.

use std::collections::BTreeMap;
use std::sync::Mutex;

use bytes::Bytes;
use pullgate::oci::{Algorithm, Digest};
use serde_json::{Value, json};

/// All repositories by name.
#[derive(Default)]
pub(crate) struct Content(Mutex<BTreeMap<String, Repository>>);

impl Content {
    pub(crate) fn change<T>(&self, name: &str, change: impl FnOnce(&mut Repository) -> T) -> T {
        change(self.0.lock().unwrap().entry(name.to_owned()).or_default())
    }

    /// `None` when there is no such repository.
    pub(crate) fn read<T>(&self, name: &str, look: impl FnOnce(&Repository) -> T) -> Option<T> {
        self.0.lock().unwrap().get(name).map(look)
    }

    /// A blob of any repository.
    pub(crate) fn blob(&self, digest: &Digest) -> Option<Bytes> {
        self.0.lock().unwrap().values().find_map(|repository| repository.blob(digest))
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// One repository; keys are sha256.
#[derive(Default)]
pub(crate) struct Repository {
    pub(crate) blobs: BTreeMap<Digest, Bytes>,
    /// Media type and bytes.
    pub(crate) manifests: BTreeMap<Digest, (String, Bytes)>,
    pub(crate) tags: BTreeMap<String, Digest>,
}

impl Repository {
    pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";

    pub(crate) fn blob(&self, digest: &Digest) -> Option<Bytes> {
        let by_sha512 = || self.blobs.values().find(|bytes| is_sha512(digest, bytes));
        self.blobs.get(digest).or_else(by_sha512).cloned()
    }

    /// By tag, or by digest of either algorithm.
    pub(crate) fn manifest(&self, reference: &str) -> Option<(String, Bytes)> {
        let digest = match reference.parse() {
            Ok(digest) => digest,
            Err(_) => *self.tags.get(reference)?,
        };
        let by_sha512 = || self.manifests.values().find(|(_, bytes)| is_sha512(&digest, bytes));
        self.manifests.get(&digest).or_else(by_sha512).cloned()
    }

    /// The index of the manifests whose subject this is (distribution-spec, "Listing Referrers").
    pub(crate) fn referrers(&self, subject: &Digest, artifact_type: Option<&str>) -> String {
        let subject = subject.to_string();
        let mut manifests = Vec::new();
        for (digest, (media_type, bytes)) in &self.manifests {
            let Ok(manifest) = serde_json::from_slice::<Value>(bytes) else { continue };
            let typ = manifest["artifactType"].as_str().or(manifest["config"]["mediaType"].as_str());
            if manifest["subject"]["digest"] == subject.as_str()
                && artifact_type.is_none_or(|wanted| typ == Some(wanted))
            {
                let mut descriptor = json!({
                    "mediaType": media_type,
                    "digest": digest,
                    "size": bytes.len(),
                    "artifactType": typ,
                });
                if manifest["annotations"].is_object() {
                    descriptor["annotations"] = manifest["annotations"].clone();
                }
                manifests.push(descriptor);
            }
        }
        json!({"schemaVersion": 2, "mediaType": Self::INDEX, "manifests": manifests}).to_string()
    }
}

fn is_sha512(digest: &Digest, bytes: &[u8]) -> bool {
    digest.algorithm() == Algorithm::Sha512 && Digest::of(Algorithm::Sha512, bytes) == *digest
}
