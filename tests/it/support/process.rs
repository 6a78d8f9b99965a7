//! `pullgate serve` as a process of its own.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use reqwest::Client;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::Child;

use super::PATIENCE;
use super::gateway::Site;

/// A gateway that can be killed and signalled.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) client: Client,
    address: SocketAddr,
    admin: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    pub(crate) async fn start(site: &Site) -> Self {
        let config = site.write();
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_pullgate"))
            .args(["serve", "--config"])
            .arg(config)
            .env_remove("PULLGATE_LOG")
            .env_remove("RUST_LOG")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        // Nobody may stop it by not reading what it prints.
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut errors = BufReader::new(child.stderr.take().unwrap()).lines();
        tokio::spawn({
            let log = log.clone();
            async move {
                while let Ok(Some(line)) = errors.next_line().await {
                    log.lock().unwrap().push(line);
                }
            }
        });
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = async {
            let address = told(&mut lines, "listens on https://").await.parse().unwrap();
            let console = told(&mut lines, "  console ").await;
            (address, console.split_once("/ (").unwrap().0.to_owned())
        };
        let (address, admin) = tokio::time::timeout(PATIENCE, told).await.expect("it starts");
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let ca = std::fs::read_to_string(site.path("certs/ca.crt")).unwrap();
        Self { child, client: super::client::client_http1(&ca), address, admin, log }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// What the admin listener says.
    pub(crate) async fn admin(&self, path: &str) -> String {
        let url = format!("{}{path}", self.admin);
        let client = Client::builder().no_proxy().build().unwrap();
        client.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// Whether a line of its log holds all of these.
    pub(crate) fn logged(&self, words: &[&str]) -> bool {
        self.log.lock().unwrap().iter().any(|line| words.iter().all(|word| line.contains(word)))
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let id = rustix::process::Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        rustix::process::kill_process(id, signal).unwrap();
    }

    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// What follows these words on the first line that has them.
async fn told(lines: &mut Lines<impl AsyncBufRead + Unpin>, words: &str) -> String {
    loop {
        let line = lines.next_line().await.unwrap().expect("it says where it listens");
        if let Some((_, rest)) = line.split_once(words) {
            return rest.to_owned();
        }
    }
}
