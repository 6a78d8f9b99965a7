//! Processes of other people: started, waited for within a limit, ended by their id.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};

const STEP: Duration = Duration::from_millis(20);

/// What a finished program left behind.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) succeeded: bool,
    /// Standard output alone.
    pub(crate) output: String,
    /// Standard output, then standard error: everything the person in front of it saw.
    pub(crate) words: String,
}

impl Said {
    /// Its standard output, when it ended well; else the test fails with all it said.
    pub(crate) fn or_fail(self, what: &str) -> String {
        assert!(self.succeeded, "{what} failed:\n{}", self.words);
        self.output
    }
}

/// Runs a program to its end; one that takes longer than `limit` is killed and counts as failed.
pub(crate) fn run(command: &mut Command, limit: Duration) -> Said {
    let mut output = tempfile::tempfile().unwrap();
    let mut error = tempfile::tempfile().unwrap();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(error.try_clone().unwrap())
        .spawn()
        .unwrap_or_else(|fault| panic!("{command:?} did not start: {fault}"));
    let status = wait(&mut child, limit);
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
        writeln!(error, "[killed by the test after {limit:?}]").unwrap();
    }
    let output = text(&mut output);
    let words = format!("{output}{}", text(&mut error));
    Said { succeeded: status.is_some_and(|status| status.success()), output, words }
}

fn text(file: &mut File) -> String {
    use std::io::{Read as _, Seek as _};
    let mut bytes = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(STEP);
    }
}

/// A server in the background; dropped, it is asked to end and, after ten seconds, made to.
pub(crate) struct Daemon {
    child: Child,
    name: &'static str,
    log: PathBuf,
}

impl Daemon {
    /// Starts it with both outputs in `log`.
    pub(crate) fn start(name: &'static str, command: &Command, log: PathBuf) -> Self {
        let file = File::create(&log).unwrap();
        let child = mortal(command)
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|fault| panic!("{name} did not start: {fault}"));
        Self { child, name, log }
    }

    /// Everything it has printed so far.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Asks until there is an answer; a daemon that ends, or stays silent for a minute, fails the test.
    pub(crate) fn until<T>(&mut self, mut ask: impl FnMut(&Self) -> Option<T>) -> T {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("{} ended before it was ready ({status}):\n{}", self.name, self.log());
            }
            assert!(Instant::now() < end, "{} was not ready within a minute:\n{}", self.name, self.log());
            thread::sleep(STEP);
        }
    }

    /// Ends it in good order: SIGTERM, a wait of ten seconds, then SIGKILL. Its last log stays readable.
    pub(crate) fn stop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_some()) {
            return;
        }
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let asked = id.is_some_and(|id| kill_process(id, Signal::TERM).is_ok());
        if !asked || wait(&mut self.child, Duration::from_secs(10)).is_none() {
            _ = self.child.kill();
            _ = self.child.wait();
        }
    }
}

/// The same command, but so that the kernel ends it with the thread that starts it: a test run that is
/// killed leaves no daemon behind.
fn mortal(command: &Command) -> Command {
    let mut mortal = Command::new("setpriv");
    mortal.args(["--pdeathsig", "TERM"]).arg(command.get_program()).args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        mortal.current_dir(folder);
    }
    mortal
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
        if thread::panicking() {
            let log = self.log();
            let from = log.char_indices().nth_back(6000).map_or(0, |(at, _)| at);
            let tail = log.get(from..).unwrap_or_default();
            _ = writeln!(std::io::stderr(), "--- the last of {}'s log\n{tail}---", self.name);
        }
    }
}

/// A folder of one test, emptied at its end with whatever a runtime mounted in it.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn new() -> Self {
        // Short: a socket's path has room for 108 bytes.
        Self(tempfile::Builder::new().prefix("pullgate-").tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// A new folder in it.
    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(&path).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Ok(table) = fs::read_to_string("/proc/self/mountinfo") else { return };
        let mounts: Vec<_> = table.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new).collect();
        for mount in mounts.into_iter().rev().filter(|mount| mount.starts_with(self.path())) {
            _ = Command::new("umount").arg("--lazy").arg(mount).status();
        }
    }
}

/// Whether every one of these programs can be found; the first that cannot is told on standard error.
pub(crate) fn installed(programs: &[&str]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = programs
        .iter()
        .find(|program| !std::env::split_paths(&path).any(|folder| folder.join(program).is_file()));
    missing.inspect(|program| skip(&format!("{program} not installed"))).is_none()
}

/// Whether the test runs as root, as container runtimes want it; else that is told.
pub(crate) fn root(what: &str) -> bool {
    let root = geteuid().is_root();
    if !root {
        skip(&format!("{what} needs root"));
    }
    root
}

/// Tells why a test did nothing, past the test runner's capture, so that nobody takes it for a pass.
pub(crate) fn skip(why: &str) {
    note(&format!("skipped: {why}"));
}

/// One line for the person who watches the run.
pub(crate) fn note(text: &str) {
    _ = writeln!(std::io::stderr(), "{text}");
}

/// A port nobody listens on, below the range from which the kernel takes ports for outgoing connections.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(37);
    loop {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + u16::try_from(first.wrapping_add(turn) % 10_000).unwrap();
        if TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok() {
            return port;
        }
        assert!(turn < 10_000, "no free port");
    }
}
