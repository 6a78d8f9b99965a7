//! pullgate itself, as a process, with a configuration written for the test.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::process::{Daemon, Scratch, free_port, run};
use super::registry::{PASSWORD, Registry, USER};

const POLICY: &str = r##"
name     = "real-clients"
revision = "1"
mode     = "enforce"

[help]
contact = "#platform-security"
url     = "https://pullgate.example/d/{id}"

[require.tags]
allow = ["#.#.#", "#.#-*-bookworm"]
deny  = ["latest", "stable", "edge"]
moved = "keep"

[[source]]
id    = "docker-official"
match = "docker.io/library/*"

[[source]]
id    = "pgvector"
match = "docker.io/pgvector/pgvector"
tags  = { allow = ["0.8.0-pg16"] }
"##;

/// A running gateway; it ends with the value.
pub(crate) struct Gateway {
    _daemon: Daemon,
    /// `<host>:<port>` of the pull listener.
    pub(crate) authority: String,
    /// The CA that the gateway made for itself.
    pub(crate) ca: PathBuf,
    config: PathBuf,
}

impl Gateway {
    /// Starts it on `host`, a name or address of this machine, in front of `upstream` as docker.io, and
    /// waits until it says that it is ready. `more` is appended to the configuration.
    pub(crate) fn start(scratch: &Scratch, host: &str, upstream: &Registry, more: &str) -> Self {
        let folder = scratch.folder("gateway");
        let policy = folder.join("policy.toml");
        fs::write(&policy, POLICY).unwrap();
        let password = folder.join("password");
        fs::write(&password, PASSWORD).unwrap();
        let (port, admin) = (free_port(), free_port());
        let address = if host == "localhost" { "127.0.0.1" } else { host };
        let text = format!(
            r#"
default_registry = "docker.io"

[listen]
address = "{address}:{port}"
hosts   = ["localhost", "127.0.0.1", "{address}"]
tls     = {{ certificate = "{folder}/certs/server.crt", key = "{folder}/certs/server.key", ca = "{folder}/certs/ca.crt" }}

[admin]
address = "127.0.0.1:{admin}"

[storage]
path     = "{folder}/data"
max_size = "2GiB"

[policy]
file = "{policy}"

[[upstream]]
registry = "docker.io"
endpoint = "https://{upstream}"
ca       = "{ca}"
auth     = {{ username = "{USER}", password_file = "{password}" }}

{more}
"#,
            folder = folder.display(),
            policy = policy.display(),
            upstream = upstream.authority,
            ca = upstream.ca.display(),
            password = password.display(),
        );
        let config = folder.join("pullgate.toml");
        fs::write(&config, text).unwrap();
        let mut command = Command::new(program());
        command.current_dir(&folder).args(["serve", "--config"]).arg(&config);
        let mut daemon = Daemon::start("pullgate", &command, folder.join("log"));
        daemon.until(|_| ready(admin).then_some(()));
        Self { _daemon: daemon, authority: format!("{host}:{port}"), ca: folder.join("certs/ca.crt"), config }
    }

    /// What `pullgate log --json --blocked` prints, one event a line.
    pub(crate) fn blocked(&self) -> Vec<Value> {
        let mut command = Command::new(program());
        command.args(["log", "--json", "--blocked", "--config"]).arg(&self.config);
        let output = run(&mut command, Duration::from_secs(30)).or_fail("pullgate log");
        output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|fault| panic!("no JSON: {fault}: {line}")))
            .collect()
    }
}

/// The gateway that Cargo built for these tests, or another build of it: the static one, say.
fn program() -> PathBuf {
    std::env::var_os("PULLGATE_TEST_PROGRAM")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_pullgate")), PathBuf::from)
}

fn ready(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let second = Some(Duration::from_secs(1));
    _ = stream.set_read_timeout(second);
    let mut reply = Vec::new();
    let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    _ = stream.read_to_end(&mut reply);
    asked.is_ok() && reply.starts_with(b"HTTP/1.1 200")
}
