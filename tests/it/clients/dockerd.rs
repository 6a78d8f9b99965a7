//! dockerd with its classic image store, naming images `gateway/docker.io/…`.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::process::{Daemon, Said, note, root, run};
use super::{Client, Door, Scene, own_address, write};

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
        // Goes only when empty: what others keep there stays.
        _ = fs::remove_dir("/etc/docker/certs.d");
    }
}

impl Dockerd {
    fn start(scene: &Scene) -> Self {
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
        let key = json!({ "deprecated-key-path": folder.join("key.json") });
        write(&folder.join("daemon.json"), &key.to_string());
        command.arg("--pidfile").arg(folder.join("pid")).arg("--config-file").arg(folder.join("daemon.json"));
        let mut daemon = Daemon::start("dockerd", &mut command, folder.join("log"));
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
    let dockerd = Dockerd::start(&scene);
    scene.play(&dockerd);
}
