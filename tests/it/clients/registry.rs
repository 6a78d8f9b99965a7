//! The upstream: Debian's docker-registry over TLS with a password, and the requests it saw.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::process::{Daemon, Scratch, run};
use super::stock::Tls;

/// The one account of the upstream.
pub(crate) const USER: &str = "pull";
/// Its password.
pub(crate) const PASSWORD: &str = "correct horse";
/// `htpasswd -nbB -C 4 pull 'correct horse'`
const HTPASSWD: &str = "pull:$2y$04$mdAMFYNSvbKMekHGos/ycO2DRWDrZHZBUWHykO4jt/S7Fl6TRzjM.";

/// A running docker-registry; it ends with the value.
pub(crate) struct Registry {
    daemon: Daemon,
    /// `localhost:<port>`
    pub(crate) authority: String,
    pub(crate) ca: PathBuf,
    log: PathBuf,
}

impl Registry {
    /// Serves `storage` on a port of the kernel's choice.
    pub(crate) fn start(scratch: &Scratch, storage: &Path, tls: &Tls) -> Self {
        let folder = scratch.folder("upstream");
        let htpasswd = folder.join("htpasswd");
        fs::write(&htpasswd, HTPASSWD).unwrap();
        let config = folder.join("config.yml");
        let text = format!(
            "version: 0.1\n\
             log: {{ level: info }}\n\
             storage:\n  filesystem: {{ rootdirectory: {} }}\n  maintenance: {{ uploadpurging: {{ enabled: false }} }}\n\
             http:\n  addr: 127.0.0.1:0\n  secret: test\n  tls: {{ certificate: {}, key: {} }}\n\
             auth:\n  htpasswd: {{ realm: upstream, path: {} }}\n",
            storage.display(),
            tls.certificate.display(),
            tls.key.display(),
            htpasswd.display()
        );
        fs::write(&config, text).unwrap();
        let log = folder.join("log");
        let mut daemon = Daemon::start(
            "docker-registry",
            Command::new("docker-registry").arg("serve").arg(config),
            log.clone(),
        );
        let port = daemon.until(|daemon| {
            let log = daemon.log();
            let (_, rest) = log.split_once("listening on 127.0.0.1:")?;
            rest.split_once(',').map(|(port, _)| port.to_owned())
        });
        Self { daemon, authority: format!("localhost:{port}"), ca: tls.ca.clone(), log }
    }

    /// Copies one image of a layout to it, `docker.io/` standing for itself.
    pub(crate) fn push(&self, layout: &Path, name: &str, image: &str) {
        let image = image.strip_prefix("docker.io/").unwrap();
        let mut skopeo = Command::new("skopeo");
        skopeo
            .args(["copy", "--all", "--preserve-digests", "--dest-creds"])
            .arg(format!("{USER}:{PASSWORD}"))
            .arg("--dest-cert-dir")
            .arg(self.ca.parent().unwrap())
            .arg(format!("oci:{}:{name}", layout.display()))
            .arg(format!("docker://{}/{image}", self.authority));
        run(&mut skopeo, Duration::from_secs(120)).or_fail("skopeo copy into the upstream");
    }

    /// The requests it has answered so far, oldest first.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let log = String::from_utf8_lossy(&fs::read(&self.log).unwrap()).into_owned();
        log.lines().filter(|line| !line.starts_with("time=")).filter_map(Request::parse).collect()
    }

    /// Ends it; what it saw stays readable.
    pub(crate) fn stop(&mut self) {
        self.daemon.stop();
    }
}

/// One line of the access log.
#[derive(Debug)]
pub(crate) struct Request {
    /// Path and query.
    pub(crate) target: String,
    pub(crate) status: u16,
    /// The `User-Agent`.
    pub(crate) agent: String,
}

impl Request {
    /// `127.0.0.1 - - [date] "GET /v2/ HTTP/1.1" 401 87 "" "agent"`
    fn parse(line: &str) -> Option<Self> {
        let mut quoted = line.split('"').skip(1);
        let target = quoted.next()?.split(' ').nth(1)?.to_owned();
        let status = quoted.next()?.split_whitespace().next()?.parse().ok()?;
        let agent = quoted.nth(2)?.to_owned();
        Some(Self { target, status, agent })
    }

    /// Whether it asks for the manifest of this image, which is named in full.
    pub(crate) fn manifest_of(&self, image: &str) -> bool {
        let image = image.strip_prefix("docker.io/").unwrap();
        let (repository, reference) = image.split_once('@').or_else(|| image.split_once(':')).unwrap();
        self.path() == format!("/v2/{repository}/manifests/{reference}")
    }

    /// Whether it asks for the manifest of this image, or for its digest as anything.
    pub(crate) fn names(&self, image: &str) -> bool {
        self.manifest_of(image)
            || image.split_once('@').is_some_and(|(_, digest)| self.path().contains(digest))
    }

    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }
}
