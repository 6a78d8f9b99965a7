//! skopeo, copying to an OCI layout.

use std::cell::Cell;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::process::{Said, Scratch, run};
use super::stock::PGVECTOR;
use super::{Client, Door, Scene};

const LIMIT: Duration = Duration::from_secs(180);

struct Skopeo {
    layout: PathBuf,
    unpacked: PathBuf,
    door: Door,
    certificates: PathBuf,
    pulls: Cell<u32>,
}

impl Skopeo {
    fn new(scratch: &Scratch, door: Door) -> Self {
        let certificates = door.certificates(scratch);
        let folder = scratch.folder("skopeo");
        let (layout, unpacked) = (folder.join("layout"), folder.join("unpacked"));
        Self { layout, unpacked, door, certificates, pulls: Cell::new(0) }
    }
}

impl Client for Skopeo {
    fn pull(&self, image: &str) -> Said {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--all", "--preserve-digests", "--src-cert-dir"]).arg(&self.certificates);
        if let Some((user, password)) = self.door.login {
            command.args(["--src-creds", &format!("{user}:{password}")]);
        }
        self.pulls.set(self.pulls.get() + 1);
        command.arg(format!("docker://{}", self.door.name(image)));
        run(command.arg(format!("oci:{}:pull-{}", self.layout.display(), self.pulls.get())), LIMIT)
    }

    /// The file out of the image pulled last.
    fn read(&self, _image: &str, path: &str) -> String {
        _ = fs::remove_dir_all(&self.unpacked);
        let mut command = Command::new("umoci");
        command.args(["raw", "unpack", "--image"]);
        command.arg(format!("{}:pull-{}", self.layout.display(), self.pulls.get()));
        run(command.arg(&self.unpacked), LIMIT).or_fail("umoci raw unpack");
        fs::read_to_string(self.unpacked.join(path.trim_start_matches('/'))).unwrap()
    }

    fn wipe(&self) {
        _ = fs::remove_dir_all(&self.layout);
    }
}

#[test]
fn skopeo_copies_unpacks_and_is_told_why_not() {
    let Some(mut scene) = Scene::open("localhost", &["skopeo", "umoci"], "") else { return };
    let skopeo = Skopeo::new(&scene.scratch, scene.door());
    scene.play(&skopeo);
}

#[test]
fn skopeo_copies_every_platform_byte_for_byte() {
    let Some(scene) = Scene::open("localhost", &["skopeo"], "") else { return };
    let skopeo = Skopeo::new(&scene.scratch, scene.door());
    skopeo.pull(PGVECTOR).or_fail("the multi-platform tag");
    for digest in scene.stock.facts.pgvector_blobs.iter().chain([&scene.stock.facts.pgvector]) {
        let bytes = fs::read(skopeo.layout.join("blobs/sha256").join(digest.hex())).unwrap();
        assert_eq!(pullgate::oci::Digest::sha256(&bytes), *digest);
    }
}
