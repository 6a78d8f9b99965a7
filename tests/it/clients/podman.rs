//! podman with a storage of its own, naming images `gateway/docker.io/…`; and set up with a mirror.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::process::{Said, Scratch, note, root, run};
use super::registry::{PASSWORD, USER};
use super::stock::{DEBIAN, DEBIAN_LATEST};
use super::{Client, Door, Scene, assert_recorded, assert_unasked, write};

const LIMIT: Duration = Duration::from_secs(180);

struct Podman {
    folder: PathBuf,
    registries: PathBuf,
    door: Door,
    certificates: PathBuf,
    driver: &'static str,
}

impl Podman {
    fn new(scratch: &Scratch, door: Door) -> Self {
        let folder = scratch.folder("podman");
        let registries = folder.join("registries.conf");
        write(&registries, "unqualified-search-registries = []\n");
        let certificates = door.certificates(scratch);
        let mut podman = Self { folder, registries, door, certificates, driver: "overlay" };
        let said = podman.podman(&["info"]);
        if !said.succeeded {
            note(&format!("podman cannot use overlay here, using vfs: {}", said.words.trim()));
            podman.driver = "vfs";
            _ = fs::remove_dir_all(podman.folder.join("root"));
        }
        podman
    }

    fn podman(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_REGISTRIES_CONF", &self.registries);
        command.arg("--root").arg(self.folder.join("root")).arg("--runroot").arg(self.folder.join("run"));
        command.arg("--tmpdir").arg(self.folder.join("tmp")).args(["--storage-driver", self.driver]);
        command.args(["--cgroup-manager=cgroupfs", "--events-backend=none"]);
        run(command.args(arguments), LIMIT)
    }

    fn pull_from(&self, name: &str, certificates: &[&str]) -> Said {
        let login = self.door.login.map(|(user, password)| format!("{user}:{password}"));
        let mut arguments = vec!["pull"];
        arguments.extend(login.iter().flat_map(|login| ["--creds", login.as_str()]));
        arguments.extend(certificates);
        arguments.push(name);
        self.podman(&arguments)
    }
}

impl Client for Podman {
    fn pull(&self, image: &str) -> Said {
        let certificates = self.certificates.to_str().unwrap();
        self.pull_from(&self.door.name(image), &["--cert-dir", certificates])
    }

    fn read(&self, image: &str, path: &str) -> String {
        let name = self.door.name(image);
        let mut why = String::new();
        // crun refuses the mixed cgroup hierarchies that runc still runs on.
        for runtime in ["crun", "runc"] {
            let runtime = format!("--runtime={runtime}");
            // Small limits: podman's own are more than some machines let root set.
            let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
            let run = [&[&runtime, "run", "--rm", "--network=none"], &limits[..], &[&name, "cat", path]];
            let said = self.podman(&run.concat());
            if said.succeeded {
                return said.output;
            }
            why.push_str(&said.words);
        }
        note(&format!("podman cannot run a container here, unpacking instead: {}", why.trim()));
        let container = self.podman(&["create", &name]).or_fail("podman create");
        let copy = self.folder.join("copy");
        let from = format!("{}:{path}", container.trim());
        self.podman(&["cp", &from, copy.to_str().unwrap()]).or_fail("podman cp");
        self.podman(&["rm", container.trim()]).or_fail("podman rm");
        fs::read_to_string(copy).unwrap()
    }

    fn wipe(&self) {
        self.podman(&["rmi", "--all", "--force"]).or_fail("podman rmi");
        assert_eq!(self.podman(&["images", "--quiet"]).or_fail("podman images"), "", "podman kept images");
    }
}

#[test]
fn podman_pulls_runs_and_is_told_why_not() {
    if !root("podman") {
        return;
    }
    let Some(mut scene) = Scene::open("localhost", &["podman"], "") else { return };
    let podman = Podman::new(&scene.scratch, scene.door());
    scene.play(&podman);
}

#[test]
fn podman_with_a_mirror_stops_at_a_refusal_manifest() {
    // `[[registry.mirror]]` falls through to its location on any failure; only a refusal that looks like
    // a success, of a kind podman cannot use, keeps it there.
    if !root("podman") {
        return;
    }
    let more = "[deny]\nprefix = \"firm\"\n";
    let Some(mut scene) = Scene::open("localhost", &["podman"], more) else { return };
    let Some(gateway) = &scene.gateway else { return };
    let mut podman = Podman::new(&scene.scratch, scene.door());
    podman.door.login = Some((USER, PASSWORD));
    let mirrored = format!(
        "unqualified-search-registries = []\n\
         [[registry]]\nprefix = \"docker.io\"\nlocation = \"{}\"\n\
         [[registry.mirror]]\nlocation = \"{}/docker.io\"\n",
        scene.upstream.authority, gateway.authority
    );
    write(&podman.registries, &mirrored);
    // Two servers, two authorities: podman takes every certificate in the folder.
    fs::copy(&scene.upstream.ca, podman.certificates.join("upstream.crt")).unwrap();
    let trust = ["--cert-dir", podman.certificates.to_str().unwrap()];
    podman.pull_from(DEBIAN, &trust).or_fail("the allowed tag");

    let asked = scene.upstream.requests().len();
    let said = podman.pull_from(DEBIAN_LATEST, &trust);
    assert!(!said.succeeded, "podman went round the gateway:\n{}", said.words);
    assert!(said.words.contains("vnd.blocked-by-policy"), "the reason was lost:\n{}", said.words);
    assert_recorded(gateway, DEBIAN_LATEST, "tag.denied");
    scene.upstream.stop();
    assert_unasked(&scene.upstream, asked, &[DEBIAN_LATEST]);
}
