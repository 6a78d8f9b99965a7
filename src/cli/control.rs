//! Changing what a gateway keeps: through its control socket while it runs, else with its folder's lock.
//!
//! `<storage.path>/control.sock` belongs to whoever runs the gateway (0600): its permissions are the
//! login. One connection carries one request and one reply, each a line of JSON.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::UnixStream;

use super::Failure;
use super::serve::audit_settings;
use crate::audit::{Actor, Log};
use crate::catalog::{self, Catalog, LockChange, LockChanged, Whence};
use crate::clock::Clock;
use crate::content::{self, FolderLock};
use crate::gate::{PinError, change_locks};
use crate::oci::{Digest, Name, Tag};
use crate::settings::gateway::Gateway;

/// The socket's name within the data folder.
pub(super) const SOCKET: &str = "control.sock";
/// The most bytes of a request or a reply: some ten thousand locks.
pub(super) const LINE_MAX: u64 = 8 << 20;
/// Changes in one request at most.
pub(super) const CHANGES_MAX: usize = 10_000;
/// Within what time a gateway answers.
const ANSWER: Duration = Duration::from_secs(60);
/// How often, and how long apart, a gateway that starts or stops is knocked at.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// A wish.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    /// Who wishes it, by their own account; the socket tells whose process it is.
    pub(super) actor: String,
    pub(super) changes: Vec<Change>,
}

/// A change of one lock.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", tag = "do", deny_unknown_fields)]
pub(super) enum Change {
    Accept { name: String, tag: Option<String>, digest: Option<String> },
    Import { name: String, tag: String, digest: String },
    Remove { name: String, tag: String },
    Set { name: String, tag: String, digest: String },
}

/// What became of it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply {
    Done(Vec<Changed>),
    /// The gateway failed.
    Failed(String),
    /// The request was not understood.
    Malformed(String),
    /// The answer is no.
    Refused(String),
}

/// A lock as it was and as it is.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Changed {
    pub(super) image: String,
    pub(super) previous: Option<String>,
    pub(super) digest: Option<String>,
}

impl From<LockChanged> for Changed {
    fn from(changed: LockChanged) -> Self {
        Self {
            image: format!("{}:{}", changed.name, changed.tag),
            previous: changed.previous.map(|digest| digest.to_string()),
            digest: changed.digest.map(|digest| digest.to_string()),
        }
    }
}

impl From<LockChange> for Change {
    fn from(change: LockChange) -> Self {
        match change {
            LockChange::Accept { name, tag, digest } => Self::Accept {
                name: name.to_string(),
                tag: tag.map(|tag| tag.to_string()),
                digest: digest.map(|digest| digest.to_string()),
            },
            LockChange::Remove { name, tag } => Self::Remove { name: name.to_string(), tag: tag.to_string() },
            LockChange::Set { name, tag, digest, whence } => {
                let (name, tag, digest) = (name.to_string(), tag.to_string(), digest.to_string());
                match whence {
                    Whence::Import => Self::Import { name, tag, digest },
                    _ => Self::Set { name, tag, digest },
                }
            }
        }
    }
}

impl Change {
    /// The change, or what is wrong with its words.
    pub(super) fn read(self) -> Result<LockChange, String> {
        fn word<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
            text.parse().map_err(|error: T::Err| format!("{text:?}: {error}"))
        }
        let set = |name: &str, tag: &str, digest: &str, whence| {
            Ok(LockChange::Set { name: word(name)?, tag: word(tag)?, digest: word(digest)?, whence })
        };
        match self {
            Self::Accept { name, tag, digest } => Ok(LockChange::Accept {
                name: word::<Name>(&name)?,
                tag: tag.as_deref().map(word::<Tag>).transpose()?,
                digest: digest.as_deref().map(word::<Digest>).transpose()?,
            }),
            Self::Import { name, tag, digest } => set(&name, &tag, &digest, Whence::Import),
            Self::Remove { name, tag } => Ok(LockChange::Remove { name: word(&name)?, tag: word(&tag)? }),
            Self::Set { name, tag, digest } => set(&name, &tag, &digest, Whence::Pin),
        }
    }
}

/// One line of at most [`LINE_MAX`] bytes.
pub(super) async fn read_line(stream: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(LINE_MAX + 1)).read_until(b'\n', &mut line).await?;
    if line.len() as u64 > LINE_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {LINE_MAX} bytes")));
    }
    if line.pop() != Some(b'\n') {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off"));
    }
    Ok(line)
}

/// One line of JSON.
pub(super) async fn write_line(
    mut stream: impl AsyncWrite + Unpin,
    value: &impl Serialize,
) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}

/// Why a change is not made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    /// The folder is taken and nobody answers at the socket.
    #[error(
        "a gateway has the folder {}, but its control socket cannot be reached ({error}); \
         run this as the user the gateway runs as, and in its container if it has one", folder.display()
    )]
    Unreachable { folder: PathBuf, error: io::Error },
    /// The gateway did not answer as it should.
    #[error(
        "the gateway's control socket {}: {error}; whether anything was changed shows `pullgate pin list`",
        path.display()
    )]
    Broken { path: PathBuf, error: io::Error },
    /// It is refused.
    #[error("{0}")]
    Refused(String),
    /// The gateway failed.
    #[error("{0}")]
    Failed(String),
    /// The folder cannot be taken.
    #[error(transparent)]
    Folder(#[from] content::Error),
    /// No gateway ran here.
    #[error(transparent)]
    Catalog(#[from] catalog::Error),
    /// The record cannot be opened.
    #[error(transparent)]
    Record(#[from] crate::audit::Error),
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        match error {
            ControlError::Refused(_) => Self::no(error),
            ControlError::Catalog(catalog::Error::Absent(_)) => Self::usage(error),
            _ => Self::internal(error),
        }
    }
}

impl From<PinError> for ControlError {
    fn from(error: PinError) -> Self {
        if error.is_refusal() { Self::Refused(error.to_string()) } else { Self::Failed(error.to_string()) }
    }
}

/// Changes locks of the gateway with these settings, whether it runs or not.
pub(super) async fn change(
    settings: &Gateway,
    changes: Vec<LockChange>,
) -> Result<Vec<Changed>, ControlError> {
    let folder = &settings.storage.path;
    let path = folder.join(SOCKET);
    let mut tries = 0;
    loop {
        let error = match dial(&path).await {
            Ok(stream) => return ask(stream, &path, changes).await,
            Err(error) => error,
        };
        // Only where a gateway ran: a mistyped path must not become a folder.
        drop(Catalog::open_read_only(folder, Clock::system()).await?);
        match FolderLock::take(&folder.join("content")) {
            Ok(lock) => {
                let changed = change_offline(settings, &changes).await;
                drop(lock);
                return changed;
            }
            // One that starts has its lock before its socket; one that stops the other way round.
            Err(content::Error::Locked { .. })
                if tries < TRIES && error.kind() != io::ErrorKind::PermissionDenied =>
            {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(content::Error::Locked { .. }) => {
                return Err(ControlError::Unreachable { folder: folder.clone(), error });
            }
            Err(error) => return Err(error.into()),
        }
    }
}

async fn dial(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

async fn ask(
    stream: UnixStream,
    path: &Path,
    changes: Vec<LockChange>,
) -> Result<Vec<Changed>, ControlError> {
    let broken = |error| ControlError::Broken { path: path.to_owned(), error };
    let request = Request { actor: user(), changes: changes.into_iter().map(Change::from).collect() };
    let answer = async {
        let (read, write) = stream.into_split();
        write_line(write, &request).await?;
        read_line(read).await
    };
    let line = tokio::time::timeout(ANSWER, answer)
        .await
        .map_err(|_| broken(io::Error::new(io::ErrorKind::TimedOut, "no answer within a minute")))?
        .map_err(broken)?;
    match serde_json::from_slice(&line).map_err(|error| broken(error.into()))? {
        Reply::Done(changed) => Ok(changed),
        Reply::Failed(text) => Err(ControlError::Failed(text)),
        Reply::Malformed(text) => {
            Err(ControlError::Failed(format!("the gateway did not understand: {text}")))
        }
        Reply::Refused(text) => Err(ControlError::Refused(text)),
    }
}

async fn change_offline(settings: &Gateway, changes: &[LockChange]) -> Result<Vec<Changed>, ControlError> {
    let clock = Clock::system();
    let quota = catalog::quota(settings.storage.max_size);
    let catalog = Catalog::open(&settings.storage.path, quota, clock.clone()).await?;
    let log = Log::open(audit_settings(settings), clock).await?;
    let actor = actor(&user(), rustix::process::getuid().as_raw());
    let changed = change_locks(&catalog, &log, changes, &actor).await;
    catalog.close().await;
    log.close().await;
    Ok(changed?.into_iter().map(Changed::from).collect())
}

/// How whoever changes something is named on record: by their own account, and by their process.
pub(super) fn actor(name: &str, uid: u32) -> Actor {
    let name: String = name.chars().filter(|character| !character.is_control()).take(64).collect();
    let name = if name.is_empty() { format!("uid {uid}") } else { format!("{name} (uid {uid})") };
    Actor { name, via: "cli".to_owned() }
}

/// Who runs this command, as the environment says; whoever uses sudo is named, not root.
fn user() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .into_iter()
        .find_map(|key| std::env::var(key).ok().filter(|name| !name.is_empty()))
        .unwrap_or_default()
}
