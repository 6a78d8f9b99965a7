//! containerd by `ctr`, with hosts.toml files as `docs/clients.md` writes them.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::process::{Daemon, Said, Scratch, free_port, note, root, run};
use super::registry::{PASSWORD, Registry, USER};
use super::stock::{DEBIAN, DEBIAN_LATEST, PGVECTOR};
use super::{Client, Door, Scene, assert_recorded, assert_refused, write};

const LIMIT: Duration = Duration::from_secs(180);

struct Containerd {
    _daemon: Daemon,
    socket: PathBuf,
    hosts: PathBuf,
    login: Option<(&'static str, &'static str)>,
    mount: PathBuf,
}

impl Containerd {
    /// Starts one of its own, whose every image goes by `hosts` (a `_default/hosts.toml`).
    fn start(scratch: &Scratch, hosts: &str, login: Option<(&'static str, &'static str)>) -> Self {
        let folder = scratch.folder("containerd");
        write(&scratch.folder("containerd/hosts/_default").join("hosts.toml"), hosts);
        let config = folder.join("config.toml");
        let text = format!(
            "version = 2\n\
             root = \"{0}/root\"\n\
             state = \"{0}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\n\
             address = \"{0}/socket\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\n\
             path = \"{0}/opt\"\n",
            folder.display()
        );
        write(&config, &text);
        let mut command = Command::new("containerd");
        let mut daemon =
            Daemon::start("containerd", command.arg("--config").arg(&config), folder.join("log"));
        let socket = folder.join("socket");
        let mount = scratch.folder("mount");
        daemon.until(|daemon| daemon.log().contains("containerd successfully booted").then_some(()));
        Self { _daemon: daemon, socket, hosts: folder.join("hosts"), login, mount }
    }

    fn ctr(&self, arguments: &[&str]) -> Said {
        run(Command::new("ctr").arg("--address").arg(&self.socket).args(arguments), LIMIT)
    }

    fn list(&self, what: &str) -> Vec<String> {
        let output = self.ctr(&[what, "ls", "-q"]).or_fail("ctr ls");
        output.lines().map(str::to_owned).collect()
    }
}

impl Client for Containerd {
    fn pull(&self, image: &str) -> Said {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(&self.socket).args(["images", "pull", "--hosts-dir"]).arg(&self.hosts);
        if let Some((user, password)) = self.login {
            command.args(["--user", &format!("{user}:{password}")]);
        }
        if image.contains("/pgvector/") {
            command.arg("--all-platforms");
        }
        run(command.arg(image), LIMIT)
    }

    fn read(&self, image: &str, path: &str) -> String {
        let said = self.ctr(&["run", "--rm", image, "reader", "cat", path]);
        if said.succeeded {
            return said.output;
        }
        note(&format!("containerd cannot run a container here, unpacking instead: {}", said.words.trim()));
        let mount = self.mount.to_str().unwrap();
        self.ctr(&["images", "mount", image, mount]).or_fail("ctr images mount");
        let text = std::fs::read_to_string(self.mount.join(path.trim_start_matches('/'))).unwrap();
        self.ctr(&["images", "unmount", "--rm", mount]).or_fail("ctr images unmount");
        text
    }

    fn wipe(&self) {
        for image in self.list("images") {
            self.ctr(&["images", "rm", "--sync", &image]).or_fail("ctr images rm");
        }
        assert_eq!(self.list("content"), Vec::<String>::new(), "containerd kept content");
    }
}

/// The gateway for every registry, in the form that cannot be gone round: it is `server` as well.
fn closed(door: &Door) -> String {
    let (address, ca) = (format!("https://{}", door.authority), door.ca.display());
    format!(
        "server = \"{address}\"\nca = \"{ca}\"\n\
         [host.\"{address}\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = \"{ca}\"\n"
    )
}

/// The form that most people write: the gateway as a mirror, the upstream itself as `server`.
fn bypassable(mirror: &str, ca: &str, upstream: &Registry) -> String {
    format!(
        "server = \"https://{}\"\nca = \"{}\"\n\
         [host.\"https://{mirror}\"]\ncapabilities = [\"pull\", \"resolve\"]\nca = \"{ca}\"\n",
        upstream.authority,
        upstream.ca.display()
    )
}

#[test]
fn containerd_pulls_runs_and_is_told_why_not() {
    if !root("containerd") {
        return;
    }
    let Some(mut scene) = Scene::open("localhost", &["containerd", "ctr"], "") else { return };
    let door = scene.door();
    let containerd = Containerd::start(&scene.scratch, &closed(&door), door.login);
    scene.play(&containerd);
}

#[test]
fn containerd_with_the_upstream_as_server_goes_round_a_dead_mirror() {
    // The control of the test below: with these hosts, this login and this image, the way past is open.
    if !root("containerd") {
        return;
    }
    let Some(scene) = Scene::without_gateway(&["containerd", "ctr"]) else { return };
    let nobody = format!("localhost:{}", free_port());
    let hosts = bypassable(&nobody, scene.upstream.ca.to_str().unwrap(), &scene.upstream);
    let containerd = Containerd::start(&scene.scratch, &hosts, Some((USER, PASSWORD)));
    containerd.pull(DEBIAN_LATEST).or_fail("a pull from the upstream itself");
    containerd.pull(&scene.pgvector_latest_by_digest()).or_fail("a pull from the upstream itself");
}

#[test]
fn containerd_with_the_upstream_as_server_stops_at_a_refusal() {
    if !root("containerd") {
        return;
    }
    let Some(mut scene) = Scene::open("localhost", &["containerd", "ctr"], "") else { return };
    let Some(gateway) = &scene.gateway else { return };
    let hosts = bypassable(&gateway.authority, gateway.ca.to_str().unwrap(), &scene.upstream);
    let containerd = Containerd::start(&scene.scratch, &hosts, Some((USER, PASSWORD)));
    containerd.pull(DEBIAN).or_fail("the allowed tag");
    containerd.pull(PGVECTOR).or_fail("the multi-platform tag");

    let asked = scene.upstream.requests().len();
    let digest = scene.pgvector_latest_by_digest();
    for (image, code) in [(DEBIAN_LATEST, "tag.denied"), (&digest, "digest.unknown")] {
        assert_refused(&containerd.pull(image), image);
        assert_recorded(gateway, image, code);
    }
    scene.upstream.stop();
    // containerd < 2.3 takes the refusal for the manifest and asks every host for that text as a *blob*
    // (by digest: for the refused digest as a blob). A registry has no such blob, and containerd could do
    // nothing with one: what counts is that no manifest was asked for and that it was given nothing.
    for request in scene.upstream.requests().iter().skip(asked) {
        assert!(!request.manifest_of(DEBIAN_LATEST), "the upstream was asked: {request:?}");
        assert!(!request.manifest_of(&digest), "the upstream was asked: {request:?}");
        let given = request.agent.starts_with("containerd/") && request.status < 400;
        assert!(!given, "the upstream gave something away: {request:?}");
    }
}
