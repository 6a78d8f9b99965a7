//! A syslog receiver (RFC 6587 octet counting over TCP or TLS) that can be down in several ways.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::PATIENCE;

/// What it does with connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    /// It closes them unread.
    Close,
    /// It neither reads nor speaks.
    Hang,
    /// It takes messages.
    Take,
}

/// A message in its parts.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) priority: u8,
    pub(crate) kind: String,
    pub(crate) data: String,
    pub(crate) json: Value,
    pub(crate) raw: String,
}

impl Message {
    fn parse(bytes: &[u8]) -> Self {
        let raw = String::from_utf8(bytes.to_vec()).expect("a message is UTF-8");
        let (priority, rest) =
            raw.strip_prefix('<').unwrap().split_once(">1 ").expect("a priority and version 1");
        // TIMESTAMP HOSTNAME APP-NAME PROCID MSGID
        let fields: Vec<&str> = rest.splitn(6, ' ').collect();
        assert!(fields[0].ends_with('Z') && fields[0].contains('T'), "{raw}");
        assert_eq!(fields[2], "pullgate", "{raw}");
        let data = fields[5].strip_prefix('[').expect("structured data");
        let mut escaped = false;
        let end = data.char_indices().find(|(_, character)| {
            let ends = *character == ']' && !escaped;
            escaped = *character == '\\' && !escaped;
            ends
        });
        let (data, text) = data.split_at(end.expect("its end").0);
        let json = serde_json::from_str(text.strip_prefix("] ").unwrap()).expect("the rest is JSON");
        Self {
            priority: priority.parse().unwrap(),
            kind: fields[4].to_owned(),
            data: data.to_owned(),
            json,
            raw: raw.clone(),
        }
    }
}

/// It ends when it is dropped.
pub(crate) struct Syslog {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    mode: Arc<Mutex<Mode>>,
    messages: watch::Sender<Vec<Message>>,
    running: Mutex<Option<(CancellationToken, TaskTracker)>>,
    held: Mutex<Option<TcpSocket>>,
}

impl Syslog {
    /// Has a port of its own and refuses connections.
    pub(crate) fn down(tls: Option<TlsAcceptor>) -> Self {
        let socket = bind((Ipv4Addr::LOCALHOST, 0).into());
        Self {
            address: socket.local_addr().unwrap(),
            tls,
            mode: Arc::new(Mutex::new(Mode::Take)),
            messages: watch::Sender::new(Vec::new()),
            running: Mutex::new(None),
            held: Mutex::new(Some(socket)),
        }
    }

    /// `tls://localhost:PORT` or `tcp://…`.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "tls" } else { "tcp" };
        format!("{scheme}://localhost:{}", self.address.port())
    }

    /// Listens, and does this with connections; those it had are broken.
    pub(crate) async fn up(&self, mode: Mode) {
        let running = self.running.lock().unwrap().take();
        if let Some((cancel, tasks)) = running {
            cancel.cancel();
            tasks.close();
            tasks.wait().await;
            *self.held.lock().unwrap() = Some(bind(self.address));
        }
        *self.mode.lock().unwrap() = mode;
        let listener = self.held.lock().unwrap().take().unwrap().listen(64).unwrap();
        let (cancel, tasks) = (CancellationToken::new(), TaskTracker::new());
        let accepting =
            accept(listener, self.tls.clone(), mode, self.messages.clone(), cancel.clone(), tasks.clone());
        tasks.spawn(cancel.clone().run_until_cancelled_owned(accepting));
        *self.running.lock().unwrap() = Some((cancel, tasks));
    }

    pub(crate) fn messages(&self) -> Vec<Message> {
        self.messages.borrow().clone()
    }

    /// Returns when a message with this in it has come.
    pub(crate) async fn wait_for(&self, words: &str) {
        let mut messages = self.messages.subscribe();
        let came = messages.wait_for(|all| all.iter().any(|message| message.raw.contains(words)));
        let came = tokio::time::timeout(PATIENCE, came).await.is_ok();
        assert!(came, "no message with {words}: {:#?}", self.messages());
    }
}

impl Drop for Syslog {
    fn drop(&mut self) {
        if let Some((cancel, _)) = self.running.get_mut().unwrap() {
            cancel.cancel();
        }
    }
}

fn bind(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    mode: Mode,
    messages: watch::Sender<Vec<Message>>,
    cancel: CancellationToken,
    tasks: TaskTracker,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, messages) = (tls.clone(), messages.clone());
        tasks.spawn(cancel.clone().run_until_cancelled_owned(async move {
            match mode {
                Mode::Close => drop(stream),
                Mode::Hang => {
                    let _stream = stream;
                    std::future::pending::<()>().await;
                }
                Mode::Take => match tls {
                    None => take(stream, messages).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            take(stream, messages).await;
                        }
                    }
                },
            }
        }));
    }
}

async fn take(stream: impl AsyncRead + Unpin, messages: watch::Sender<Vec<Message>>) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut length = Vec::new();
        match stream.read_until(b' ', &mut length).await {
            Ok(1..) if length.ends_with(b" ") => {}
            _ => return,
        }
        let length: usize = std::str::from_utf8(&length).unwrap().trim_end().parse().expect("a length");
        let mut message = vec![0; length];
        if stream.read_exact(&mut message).await.is_err() {
            return;
        }
        messages.send_modify(|all| all.push(Message::parse(&message)));
    }
}
