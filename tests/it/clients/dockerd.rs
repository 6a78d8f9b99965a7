//! dockerd with its classic image store, naming images `gateway/docker.io/…`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::process::{Daemon, Said, note, root, run};
use super::stock::{DEBIAN, DEBIAN_LATEST};
use super::{Client, Door, Scene, assert_recorded, own_address, write};

const LIMIT: Duration = Duration::from_secs(180);

struct Dockerd {
    _daemon: Daemon,
    _trust: Trust,
    door: Door,
    socket: String,
    config: PathBuf,
}

/// The CA where dockerd looks for it; it has no option to look elsewhere.
struct Trust(PathBuf);

impl Trust {
    fn place(door: &Door) -> Self {
        let folder = PathBuf::from("/etc/docker/certs.d").join(&door.authority);
        fs::create_dir_all(&folder).unwrap();
        fs::copy(&door.ca, folder.join("ca.crt")).unwrap();
        Self(folder)
    }
}

impl Drop for Trust {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

impl Dockerd {
    /// Starts one with `options` in its daemon.json.
    fn start(scene: &Scene, mut options: Value) -> Self {
        let folder = scene.scratch.folder("docker");
        let door = scene.door();
        let trust = Trust::place(&door);
        let socket = format!("unix://{}/socket", folder.display());
        let config = scene.scratch.folder("docker/config");
        if let Some((user, password)) = door.login {
            let auth = STANDARD.encode(format!("{user}:{password}"));
            let auths = json!({ "auths": { door.authority.as_str(): { "auth": auth } } });
            write(&config.join("config.json"), &auths.to_string());
        }
        let mut command = Command::new("dockerd");
        command.args(["--iptables=false", "--bridge=none", "--host", &socket]);
        command.arg("--data-root").arg(folder.join("data")).arg("--exec-root").arg(folder.join("exec"));
        options["deprecated-key-path"] = json!(folder.join("key.json"));
        write(&folder.join("daemon.json"), &options.to_string());
        command.arg("--pidfile").arg(folder.join("pid")).arg("--config-file").arg(folder.join("daemon.json"));
        let mut daemon = Daemon::start("dockerd", &command, folder.join("log"));
        daemon.until(|daemon| daemon.log().contains("API listen on").then_some(()));
        Self { _daemon: daemon, _trust: trust, door, socket, config }
    }

    fn docker(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new("docker");
        run(command.arg("--config").arg(&self.config).args(["--host", &self.socket]).args(arguments), LIMIT)
    }
}

impl Client for Dockerd {
    fn pull(&self, image: &str) -> Said {
        self.docker(&["pull", &self.door.name(image)])
    }

    fn read(&self, image: &str, path: &str) -> String {
        let name = self.door.name(image);
        let said = self.docker(&["run", "--rm", "--network=none", &name, "cat", path]);
        if said.succeeded {
            return said.output;
        }
        note(&format!("dockerd cannot run a container here, unpacking instead: {}", said.words.trim()));
        let container = self.docker(&["create", &name]).or_fail("docker create");
        let copy = self.config.join("copy");
        let from = format!("{}:{path}", container.trim());
        self.docker(&["cp", &from, copy.to_str().unwrap()]).or_fail("docker cp");
        self.docker(&["rm", container.trim()]).or_fail("docker rm");
        fs::read_to_string(copy).unwrap()
    }

    fn wipe(&self) {
        let images = self.docker(&["images", "--quiet", "--no-trunc"]).or_fail("docker images");
        for image in images.lines() {
            self.docker(&["rmi", "--force", image]).or_fail("docker rmi");
        }
        assert_eq!(self.docker(&["images", "--quiet"]).or_fail("docker images"), "", "dockerd kept images");
    }
}

#[test]
fn dockerd_pulls_runs_and_is_told_why_not() {
    if !root("dockerd") {
        return;
    }
    // dockerd trusts any certificate on loopback, so the gateway listens on another address for it.
    let Some(mut scene) = Scene::open(&own_address(), &["dockerd", "docker", "containerd"], "") else {
        return;
    };
    let dockerd = Dockerd::start(&scene, json!({}));
    scene.play(&dockerd);
}

#[test]
fn dockerd_with_a_registry_mirror_stops_at_a_refusal_manifest() {
    // dockerd appends Docker Hub to its mirrors and goes there on any failure; a manifest of a kind that it
    // does not know is none.
    if !root("dockerd") {
        return;
    }
    let Some(scene) = Scene::open(&own_address(), &["dockerd", "docker", "containerd"], "") else { return };
    let Some(gateway) = &scene.gateway else { return };
    let mirrors = [format!("https://{}", gateway.authority)];
    let dockerd = Dockerd::start(&scene, json!({ "registry-mirrors": mirrors }));
    dockerd.docker(&["pull", DEBIAN]).or_fail("the allowed tag");
    let said = dockerd.docker(&["pull", DEBIAN_LATEST]);
    assert!(!said.succeeded, "dockerd went round the gateway:\n{}", said.words);
    assert!(said.words.contains("vnd.blocked-by-policy"), "the reason was lost:\n{}", said.words);
    assert_recorded(gateway, DEBIAN_LATEST, "tag.denied");
}
