//! A folder in the OCI image layout as an upstream.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::redirect::collect;
use super::server::offline;
use super::{tag, with};
use crate::oci::{Digest, Fault, Manifest, Name, Tag};
use crate::upstream::{Presence, Settings, SourceSettings, UpstreamSettings, Upstreams};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const IMAGE_NAME: &str = "io.containerd.image.name";

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir_all(folder.path().join("blobs/sha256")).unwrap();
        std::fs::write(folder.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        folder.index(&[]);
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn blob_path(&self, digest: &Digest) -> std::path::PathBuf {
        self.path().join("blobs/sha256").join(digest.hex())
    }

    fn blob(&self, bytes: &[u8]) -> Digest {
        let digest = Digest::sha256(bytes);
        std::fs::write(self.blob_path(&digest), bytes).unwrap();
        digest
    }

    fn json(&self, media_type: &str, value: &Value) -> Value {
        let bytes = value.to_string().into_bytes();
        json!({ "mediaType": media_type, "digest": self.blob(&bytes), "size": bytes.len() })
    }

    /// An image of one layer; its descriptor.
    fn image(&self, layer: &[u8]) -> Value {
        let layer = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": self.blob(layer), "size": layer.len() });
        let config = self.json("application/vnd.oci.image.config.v1+json", &json!({ "of": layer }));
        let image = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        self.json(MANIFEST, &image)
    }

    fn index(&self, entries: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        std::fs::write(self.path().join("index.json"), index.to_string()).unwrap();
    }

    fn upstreams(&self) -> Upstreams {
        let registry = "docker.io".parse().unwrap();
        let source = SourceSettings::Layout(self.path().to_owned());
        with(Settings { upstreams: vec![UpstreamSettings { registry, source }], sealed: true, ..offline() })
    }
}

fn named(mut entry: Value, annotations: &[(&str, &str)]) -> Value {
    entry["annotations"] = annotations.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    entry
}

fn digest_of(entry: &Value) -> Digest {
    entry["digest"].as_str().unwrap().parse().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

#[tokio::test]
async fn an_image_is_pulled_from_a_folder_even_in_a_sealed_gateway() {
    let folder = Folder::new();
    let layer = vec![7; (600 << 10) + 1];
    let image = folder.image(&layer);
    let index = folder.json(INDEX, &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [image] }));
    folder.index(&[named(index.clone(), &[(IMAGE_NAME, "docker.io/library/app:1.0"), (REF_NAME, "1.0")])]);
    let (upstreams, app) = (folder.upstreams(), name("docker.io/library/app"));

    let digest = upstreams.resolve(&app, &tag()).await.unwrap();
    assert_eq!(digest, digest_of(&index));
    let fetched = upstreams.manifest(&app, &digest).await.unwrap();
    assert_eq!(fetched.media_type.as_deref(), Some(INDEX));
    Manifest::parse(&fetched.bytes, fetched.media_type.as_deref(), Some(&digest)).unwrap();
    assert_eq!(upstreams.has_manifest(&app, &digest_of(&image)).await, Ok(true));
    let child = upstreams.manifest(&app, &digest_of(&image)).await.unwrap();
    assert_eq!(child.media_type.as_deref(), Some(MANIFEST));

    let digest = Digest::sha256(&layer);
    let size = layer.len() as u64;
    assert_eq!(upstreams.has_blob(&app, &digest).await, Ok(Presence::Present { size: Some(size) }));
    let stream = upstreams.blob(&app, &digest, 0).await.unwrap();
    assert_eq!((stream.start, stream.total), (0, Some(size)));
    assert!(collect(stream).await.unwrap() == layer);
    let stream = upstreams.blob(&app, &digest, size - 2).await.unwrap();
    assert_eq!((stream.start, stream.total), (size - 2, Some(size)));
    assert_eq!(collect(stream).await, Ok(vec![7, 7]));
    assert_eq!(upstreams.blob(&app, &digest, size).await.unwrap().start, 0);
    assert_eq!(upstreams.tags(&app).await, Ok(vec![tag()]));
}

#[tokio::test]
async fn the_name_of_an_entry_is_read_from_either_annotation() {
    let folder = Folder::new();
    let image = folder.image(b"x");
    for (annotations, found) in [
        (vec![(IMAGE_NAME, "docker.io/library/app:1.0")], true),
        (vec![(IMAGE_NAME, "docker.io/library/app"), (REF_NAME, "1.0")], true),
        (vec![(REF_NAME, "docker.io/library/app:1.0")], true),
        (vec![(REF_NAME, "app:1.0")], true),
        (vec![(IMAGE_NAME, "docker.io/library/app:2.0"), (REF_NAME, "1.0")], false),
        (vec![(IMAGE_NAME, "docker.io/library/app"), (REF_NAME, "latest")], false),
        (vec![(IMAGE_NAME, "ghcr.io/library/app:1.0"), (REF_NAME, "1.0")], false),
        (vec![(IMAGE_NAME, "docker.io/library/other:1.0")], false),
        (vec![(IMAGE_NAME, "not a name"), (REF_NAME, "1.0")], false),
    ] {
        folder.index(&[named(image.clone(), &annotations)]);
        let outcome = folder.upstreams().resolve(&name("app"), &tag()).await;
        match found {
            true => assert_eq!(outcome, Ok(digest_of(&image)), "{annotations:?}"),
            false => assert!(matches!(outcome, Err(Fault::Absent(_))), "{annotations:?}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_bare_tag_serves_every_repository_but_not_beside_a_named_entry() {
    let folder = Folder::new();
    let (bare, other) = (folder.image(b"bare"), folder.image(b"other"));
    let bare = named(bare, &[(REF_NAME, "1.0")]);
    folder.index(std::slice::from_ref(&bare));
    let upstreams = folder.upstreams();
    for text in ["docker.io/library/app", "docker.io/team/app"] {
        assert_eq!(upstreams.resolve(&name(text), &tag()).await, Ok(digest_of(&bare)));
        assert_eq!(
            upstreams.has_blob(&name(text), &Digest::sha256(b"bare")).await.unwrap(),
            Presence::Present { size: Some(4) }
        );
    }
    for elsewhere in ["docker.io/library/other:1.0", "ghcr.io/team/other:1.0"] {
        folder.index(&[bare.clone(), named(other.clone(), &[(IMAGE_NAME, elsewhere)])]);
        let upstreams = folder.upstreams();
        let app = name("docker.io/library/app");
        assert!(matches!(upstreams.resolve(&app, &tag()).await, Err(Fault::Absent(_))), "{elsewhere}");
        assert_eq!(upstreams.has_blob(&app, &Digest::sha256(b"bare")).await, Ok(Presence::Absent));
    }
}

#[tokio::test]
async fn a_digest_belongs_only_to_the_repositories_that_lead_to_it() {
    let folder = Folder::new();
    let (mine, other) = (folder.image(b"mine"), folder.image(b"other"));
    let loose = folder.blob(b"loose");
    folder.index(&[
        named(mine.clone(), &[(IMAGE_NAME, "docker.io/team/mine:1.0")]),
        named(other.clone(), &[(IMAGE_NAME, "docker.io/team/other:1.0")]),
    ]);
    let (upstreams, mine_name) = (folder.upstreams(), name("docker.io/team/mine"));
    assert!(upstreams.blob(&mine_name, &Digest::sha256(b"mine"), 0).await.is_ok());
    for digest in [Digest::sha256(b"other"), digest_of(&other), loose] {
        assert!(matches!(upstreams.manifest(&mine_name, &digest).await, Err(Fault::Absent(_))));
        assert!(matches!(upstreams.blob(&mine_name, &digest, 0).await, Err(Fault::Absent(_))));
        assert_eq!(upstreams.has_blob(&mine_name, &digest).await, Ok(Presence::Absent));
        assert_eq!(upstreams.has_manifest(&mine_name, &digest).await, Ok(false));
    }
    let layer = Digest::sha256(b"mine");
    assert!(
        matches!(upstreams.manifest(&mine_name, &layer).await, Err(Fault::Absent(_))),
        "a layer is no manifest"
    );
    assert!(matches!(upstreams.tags(&name("docker.io/team/none")).await, Err(Fault::Absent(_))));
}

#[tokio::test]
async fn a_sparse_index_is_served_and_what_it_lacks_is_absent() {
    let folder = Folder::new();
    let (here, gone) = (folder.image(b"here"), folder.image(b"gone"));
    let index = folder.json(INDEX, &json!({ "schemaVersion": 2, "manifests": [here, gone] }));
    std::fs::remove_file(folder.blob_path(&digest_of(&gone))).unwrap();
    folder.index(&[named(index.clone(), &[(IMAGE_NAME, "docker.io/team/app:1.0")])]);
    let (upstreams, app) = (folder.upstreams(), name("docker.io/team/app"));
    assert!(upstreams.manifest(&app, &digest_of(&index)).await.is_ok());
    assert!(upstreams.blob(&app, &Digest::sha256(b"here"), 0).await.is_ok());
    assert!(matches!(upstreams.manifest(&app, &digest_of(&gone)).await, Err(Fault::Absent(_))));
}

#[tokio::test]
async fn nameless_referrers_belong_to_the_repository_of_their_subject() {
    let folder = Folder::new();
    let image = folder.image(b"x");
    let sbom = json!({ "mediaType": "application/spdx+json", "digest": folder.blob(b"sbom"), "size": 4 });
    let referrer = folder.json(
        MANIFEST,
        &json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/spdx+json",
            "config": sbom, "layers": [], "subject": image, "annotations": { "a": "b" } }),
    );
    folder.index(&[named(image.clone(), &[(IMAGE_NAME, "docker.io/team/app:1.0")]), referrer.clone()]);
    let (upstreams, app) = (folder.upstreams(), name("docker.io/team/app"));
    let found = upstreams.referrers(&app, &digest_of(&image)).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].digest, digest_of(&referrer));
    assert_eq!(found[0].artifact_type.as_deref(), Some("application/spdx+json"));
    assert_eq!(found[0].annotations.as_ref().unwrap()["a"], "b");
    assert!(upstreams.blob(&app, &Digest::sha256(b"sbom"), 0).await.is_ok());
    let other = name("docker.io/team/other");
    assert_eq!(upstreams.referrers(&other, &digest_of(&image)).await, Ok(Vec::new()));
    assert_eq!(upstreams.has_manifest(&other, &digest_of(&referrer)).await, Ok(false));
}

#[tokio::test]
async fn a_changed_index_is_read_again() {
    let folder = Folder::new();
    let upstreams = folder.upstreams();
    let app = name("docker.io/team/app");
    assert!(upstreams.resolve(&app, &tag()).await.is_err());
    let image = folder.image(b"x");
    folder.index(&[named(image.clone(), &[(IMAGE_NAME, "docker.io/team/app:1.0")])]);
    assert_eq!(upstreams.resolve(&app, &tag()).await, Ok(digest_of(&image)));
    assert!(upstreams.blob(&app, &Digest::sha256(b"x"), 0).await.is_ok());
    folder.index(&[]);
    assert_eq!(upstreams.has_blob(&app, &Digest::sha256(b"x")).await, Ok(Presence::Absent));
}

#[tokio::test]
async fn a_link_that_leads_out_of_the_folder_is_not_followed() {
    let folder = Folder::new();
    let image = named(folder.image(b"secret"), &[(IMAGE_NAME, "docker.io/team/app:1.0")]);
    folder.index(std::slice::from_ref(&image));
    let outside = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(outside.path(), b"secret").unwrap();
    let blob = folder.blob_path(&Digest::sha256(b"secret"));
    std::fs::remove_file(&blob).unwrap();
    std::os::unix::fs::symlink(outside.path(), &blob).unwrap();
    let (upstreams, app) = (folder.upstreams(), name("docker.io/team/app"));
    let outcome = upstreams.blob(&app, &Digest::sha256(b"secret"), 0).await;
    assert!(
        matches!(&outcome, Err(Fault::Unreachable(text)) if text.contains("out of the folder")),
        "{outcome:?}"
    );
    std::fs::remove_file(&blob).unwrap();
    std::fs::create_dir(&blob).unwrap();
    assert!(matches!(upstreams.blob(&app, &Digest::sha256(b"secret"), 0).await, Err(Fault::Unreachable(_))));
}

#[tokio::test]
async fn a_folder_that_is_no_layout_is_unreachable_until_it_is_one() {
    let folder = Folder::new();
    let image = folder.image(b"x");
    folder.index(&[named(image.clone(), &[(REF_NAME, "1.0")])]);
    let app = name("docker.io/team/app");
    let layout = folder.path().join("oci-layout");
    for text in ["", "{}", r#"{"imageLayoutVersion":"2.0.0"}"#] {
        std::fs::write(&layout, text).unwrap();
        let outcome = folder.upstreams().resolve(&app, &tag()).await;
        assert!(matches!(&outcome, Err(Fault::Unreachable(_))), "{text}: {outcome:?}");
    }
    std::fs::remove_file(&layout).unwrap();
    let upstreams = folder.upstreams();
    assert!(matches!(upstreams.resolve(&app, &tag()).await, Err(Fault::Unreachable(_))));
    assert!(upstreams.health()[0].last_failure.is_some());
    std::fs::write(&layout, r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    assert_eq!(upstreams.resolve(&app, &tag()).await, Ok(digest_of(&image)));
    std::fs::write(folder.path().join("index.json"), "{").unwrap();
    assert!(matches!(upstreams.resolve(&app, &tag()).await, Err(Fault::Unreachable(_))));
}

#[tokio::test]
async fn entries_that_cannot_be_read_do_not_hide_the_others() {
    let folder = Folder::new();
    let image = folder.image(b"x");
    let broken = json!({ "mediaType": MANIFEST, "digest": Digest::sha256(b"none"), "size": 4 });
    folder.index(&[
        json!(null),
        json!({ "digest": "x" }),
        broken,
        named(image.clone(), &[(REF_NAME, "docker.io/team/app:1.0")]),
    ]);
    let tags: Vec<Tag> = folder.upstreams().tags(&name("docker.io/team/app")).await.unwrap();
    assert_eq!(tags, [tag()]);
}
