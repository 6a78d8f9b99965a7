//! The control socket of a gateway that runs: where commands change what it keeps.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::Log;
use crate::catalog::{Catalog, LockChange};
use crate::cli::control::{
    self, CHANGES_MAX, Change, Changed, Reply, Request, SOCKET, read_line, write_line,
};
use crate::gate::change_locks;

/// The longest path of a socket that Linux takes, its closing zero byte left out.
const PATH_MAX: usize = 107;
/// Within what time a request is there, and within what time its reply is taken.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests at once; further ones wait in the backlog.
const AT_ONCE: usize = 4;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub(super) enum ControlError {
    #[error(
        "[storage] path is too long for the control socket in it: {} has {} bytes, and a socket's path \
         at most {PATH_MAX}; choose a shorter path, or one relative to the working directory",
        .0.display(), .0.as_os_str().len()
    )]
    Long(PathBuf),
    #[error("the control socket {} cannot be made: {error}; check who owns the folder", path.display())]
    Socket { path: PathBuf, error: io::Error },
}

/// A socket that listens and is not served yet.
pub(super) struct Bound {
    path: PathBuf,
    listener: UnixListener,
}

/// A socket that is served. It goes with [`Control::close`].
#[derive(Debug)]
pub(super) struct Control {
    path: PathBuf,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Control {
    /// Listens in this folder, for its owner alone, in the place of what a gateway left that was killed.
    /// Only for who has the folder's lock.
    pub(super) fn bind(folder: &Path) -> Result<Bound, ControlError> {
        let path = folder.join(SOCKET);
        if path.as_os_str().len() > PATH_MAX {
            return Err(ControlError::Long(path));
        }
        let listen = || {
            match rustix::fs::unlink(&path) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
            let socket = UnixSocket::new_stream()?;
            // A socket's file gets the mode of the socket: it is never open to others, not even between
            // two calls.
            rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
            socket.bind(&path)?;
            rustix::fs::chmod(&path, Mode::RUSR | Mode::WUSR)?;
            socket.listen(64)
        };
        match listen() {
            Ok(listener) => Ok(Bound { path, listener }),
            Err(error) => Err(ControlError::Socket { path, error }),
        }
    }

    /// Takes no further request, finishes those that were read, and removes the socket.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Err(error) = rustix::fs::unlink(&self.path) {
            tracing::warn!(%error, "the control socket could not be removed");
        }
    }
}

impl Bound {
    pub(super) fn serve(self, catalog: Catalog, log: Log) -> Control {
        let Self { path, listener } = self;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (end, running) = (stop.clone(), tasks.clone());
        tasks.spawn(async move {
            let slots = Arc::new(Semaphore::new(AT_ONCE));
            loop {
                let Some(Ok(slot)) = end.run_until_cancelled(slots.clone().acquire_owned()).await else {
                    return;
                };
                let stream = match end.run_until_cancelled(listener.accept()).await {
                    None => return,
                    Some(Ok((stream, _))) => stream,
                    Some(Err(error)) => {
                        tracing::warn!(%error, "a control connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                };
                let (catalog, log, end) = (catalog.clone(), log.clone(), end.clone());
                running.spawn(async move {
                    if let Err(error) = converse(stream, &catalog, &log, &end).await {
                        tracing::warn!(%error, "a control connection ended early");
                    }
                    drop(slot);
                });
            }
        });
        Control { path, stop, tasks }
    }
}

async fn converse(
    mut stream: UnixStream,
    catalog: &Catalog,
    log: &Log,
    end: &CancellationToken,
) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let read = tokio::time::timeout(PATIENCE, read_line(&mut stream));
    let Some(read) = end.run_until_cancelled(read).await else { return Ok(()) };
    let reply = match read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))? {
        Ok(line) => answer(&line, uid, catalog, log).await,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Reply::Malformed(error.to_string()),
        Err(error) => return Err(error),
    };
    tokio::time::timeout(PATIENCE, write_line(&mut stream, &reply))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

async fn answer(line: &[u8], uid: u32, catalog: &Catalog, log: &Log) -> Reply {
    let Request { actor, changes } = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return Reply::Malformed(error.to_string()),
    };
    if changes.is_empty() || changes.len() > CHANGES_MAX {
        return Reply::Malformed(format!("{} changes; 1 to {CHANGES_MAX} are made at once", changes.len()));
    }
    let changes: Vec<LockChange> = match changes.into_iter().map(Change::read).collect() {
        Ok(changes) => changes,
        Err(text) => return Reply::Malformed(text),
    };
    let actor = control::actor(&actor, uid);
    match change_locks(catalog, log, &changes, &actor).await {
        Ok(changed) => {
            tracing::info!(actor = %actor.name, locks = changed.len(), "locks were changed by hand");
            Reply::Done(changed.into_iter().map(Changed::from).collect())
        }
        Err(error) if error.is_refusal() => Reply::Refused(error.to_string()),
        Err(error) => {
            tracing::error!(%error, "locks could not be changed");
            Reply::Failed(error.to_string())
        }
    }
}
