//! Events as RFC 5424 messages over TCP or TLS (RFC 6587 and RFC 5425: octet counting).
//!
//! Nothing on such a connection says that a message was taken. What was written counts as received when
//! the receiver's system has acknowledged every byte of it and the connection stayed whole for a while;
//! when it broke before, it is written again.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::courier::{Batch, Failure, Item};
use super::tls;
use super::unsent::unsent;
use crate::audit::printable;

/// Of RFC 5424's facilities the one for audits.
const LOG_AUDIT: u8 = 13;
/// The id of the structured data. 32473 is the enterprise number that RFC 5612 keeps for documentation.
const DATA_ID: &str = "pullgate@32473";
/// So often it is looked whether the rest of what was written was acknowledged.
const LOOK: Duration = Duration::from_millis(100);

trait Wire: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin> Wire for T {}

pub(super) struct Syslog {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    timeout: Duration,
    settle: Duration,
    hostname: String,
    connection: Option<Connection>,
}

struct Connection {
    wire: Box<dyn Wire>,
    local: SocketAddr,
    peer: SocketAddr,
    /// What was written until then was acknowledged.
    acknowledged: Option<Instant>,
    /// A look under way, and since when: whoever stops waiting for it does not lose it.
    look: Option<(Instant, JoinHandle<std::io::Result<Option<u64>>>)>,
    /// Not before then another look is worth it.
    again: Instant,
}

impl Connection {
    fn new(wire: Box<dyn Wire>, (local, peer): (SocketAddr, SocketAddr)) -> Self {
        Self { wire, local, peer, acknowledged: None, look: None, again: Instant::now() }
    }

    /// Takes one more look at what is unacknowledged; cancelling it loses nothing.
    async fn look(&mut self) {
        let (since, look) = match &mut self.look {
            Some((since, look)) => (*since, look),
            None => {
                tokio::time::sleep_until(self.again).await;
                let (local, peer) = (self.local, self.peer);
                let look = tokio::task::spawn_blocking(move || unsent(local, peer));
                let (since, look) = self.look.insert((Instant::now(), look));
                (*since, look)
            }
        };
        let found = look.await;
        self.look = None;
        self.again = Instant::now() + LOOK;
        // Where the system does not tell, that the connection is whole has to do.
        if let Ok(Ok(Some(0)) | Err(_)) = found {
            self.acknowledged = Some(since);
        }
    }
}

impl fmt::Debug for Syslog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Syslog").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Syslog {
    /// Sets it up and contacts nobody.
    pub(super) fn new(
        host: &str,
        port: u16,
        tls: bool,
        ca: Option<&Path>,
        (timeout, settle): (Duration, Duration),
    ) -> Result<Self, (PathBuf, String)> {
        let tls = if tls {
            let of_ca = |text| (ca.unwrap_or(Path::new("system roots")).to_owned(), text);
            let config = tls::client_config(ca).map_err(of_ca)?;
            let name = ServerName::try_from(host.to_owned()).map_err(|error| of_ca(error.to_string()))?;
            Some((TlsConnector::from(Arc::new(config)), name))
        } else {
            None
        };
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let hostname = header(hostname.trim(), 255);
        Ok(Self { host: host.to_owned(), port, tls, timeout, settle, hostname, connection: None })
    }

    /// Writes the messages; the moment from which on they count as received, if nothing breaks before.
    pub(super) async fn deliver(&mut self, batch: &Batch) -> Result<Instant, Failure> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut frames = Vec::new();
        for item in batch.items() {
            let message = message(item, &self.hostname);
            frames.extend_from_slice(format!("{} ", message.len()).as_bytes());
            frames.extend_from_slice(message.as_bytes());
        }
        let written = timeout(self.timeout, async {
            connection.wire.write_all(&frames).await?;
            connection.wire.flush().await
        });
        match written.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(self.broken(&error.to_string())),
            Err(_) => return Err(self.broken("nothing more is taken")),
        }
        self.connection = Some(connection);
        Ok(Instant::now() + self.settle)
    }

    async fn connect(&self) -> Result<Connection, Failure> {
        let connecting = async {
            let stream = TcpStream::connect((&*self.host, self.port)).await?;
            let _ = stream.set_nodelay(true);
            let ends = (stream.local_addr()?, stream.peer_addr()?);
            let wire: Box<dyn Wire> = match &self.tls {
                None => Box::new(stream),
                Some((connector, name)) => Box::new(connector.connect(name.clone(), stream).await?),
            };
            Ok::<_, std::io::Error>(Connection::new(wire, ends))
        };
        match timeout(self.timeout, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => {
                Err(Failure::network(format!("{}:{} cannot be reached: {error}", self.host, self.port)))
            }
            Err(_) => Err(Failure::network(format!(
                "{}:{} did not answer within {} s",
                self.host,
                self.port,
                self.timeout.as_secs()
            ))),
        }
    }

    fn broken(&self, what: &str) -> Failure {
        Failure::network(format!("the connection to {}:{} broke: {what}", self.host, self.port))
    }

    /// Returns once what is settled at that moment was acknowledged, not before the moment, and when the
    /// connection breaks before or stays silent. Without a moment it waits for ever: a receiver may leave
    /// when nothing is on its way to it.
    pub(super) async fn watch(&mut self, settled: Option<Instant>) -> Result<(), Failure> {
        let mut said = [0; 512];
        loop {
            let (settle, patience) = (self.settle, self.timeout);
            let Some(connection) = &mut self.connection else {
                return match settled {
                    Some(_) => Err(self.broken("it was closed")),
                    None => std::future::pending().await,
                };
            };
            // What settles then was written no later than this.
            let has = |until: Instant| settled.is_some_and(|at| at <= until + settle);
            let is_acknowledged = connection.acknowledged.is_some_and(has);
            let Connection { wire, .. } = connection;
            let read = tokio::select! {
                biased;
                read = wire.read(&mut said) => Some(read),
                () = due(settled) => None,
            };
            match read {
                // What a receiver says is nothing that this protocol knows.
                Some(Ok(1..)) => {}
                Some(Ok(0)) => self.connection = None,
                Some(Err(error)) => {
                    self.connection = None;
                    if settled.is_some() {
                        return Err(self.broken(&error.to_string()));
                    }
                }
                None if is_acknowledged => return Ok(()),
                None if settled.is_some_and(|at| at + patience < Instant::now()) => {
                    self.connection = None;
                    return Err(self.broken("what was written was not acknowledged"));
                }
                None => connection.look().await,
            }
        }
    }

    /// Forgets the connection: what was on it is written again.
    pub(super) fn reset(&mut self) {
        self.connection = None;
    }
}

async fn due(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// `<PRI>1 TIME HOST APP PROCID MSGID [DATA] MSG`. All of it is ASCII, the JSON by its own escapes: so
/// no byte order mark is called for, and no parser of JSON trips over one.
fn message(item: &Item, hostname: &str) -> String {
    let text = |path: &[&str]| {
        let found = path.iter().try_fold(&item.value, |value, key| value.get(*key));
        found.and_then(Value::as_str).unwrap_or_default()
    };
    let kind = text(&["kind"]);
    let priority = u32::from(LOG_AUDIT) * 8 + u32::from(severity(kind, &item.value));
    let time = match text(&["time"]) {
        "" => "-",
        time => time,
    };
    let process = std::process::id();
    let mut message =
        format!("<{priority}>1 {time} {hostname} pullgate {process} {} [{DATA_ID}", header(kind, 32));
    let seq = item.value.get("seq").map(Value::to_string).unwrap_or_default();
    for (name, value) in [
        ("id", &*item.id),
        ("seq", &*seq),
        ("kind", kind),
        ("verdict", text(&["verdict"])),
        ("reason", text(&["reason", "code"])),
        ("client", text(&["client", "name"])),
        ("address", text(&["client", "address"])),
        ("reference", text(&["image", "reference"])),
        ("rule", text(&["alert", "rule"])),
    ] {
        if !value.is_empty() {
            let _ = write!(message, " {name}=\"{}\"", parameter(value));
        }
    }
    message.push_str("] ");
    message.push_str(&ascii(&item.line));
    message
}

/// RFC 5424, table 2.
fn severity(kind: &str, event: &Value) -> u8 {
    const ALERT: u8 = 1;
    const ERROR: u8 = 3;
    const WARNING: u8 = 4;
    const NOTICE: u8 = 5;
    const INFORMATIONAL: u8 = 6;
    let word = |path: &[&str]| {
        path.iter().try_fold(event, |value, key| value.get(*key)).and_then(Value::as_str).unwrap_or_default()
    };
    match kind {
        "alert" => ALERT,
        "auth" if word(&["auth", "result"]) == "refused" => WARNING,
        "decision" => match word(&["verdict"]) {
            "deny" => WARNING,
            "hold" | "warn" => NOTICE,
            _ => INFORMATIONAL,
        },
        "drift" | "flood" => WARNING,
        "admin" | "exception" | "pin" | "recall" => NOTICE,
        "policy" if word(&["result"]) == "refused" => ERROR,
        "policy" => NOTICE,
        "upstream" if word(&["upstream", "state"]) != "healthy" => WARNING,
        _ => INFORMATIONAL,
    }
}

/// A field of the header: visible ASCII, or `-`.
fn header(text: &str, most: usize) -> String {
    let kept: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if kept.is_empty() { "-".to_owned() } else { kept }
}

/// RFC 5424, 6.3.3: what would end the value is escaped; what moves a cursor is made visible first.
fn parameter(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in printable(text).chars() {
        match character {
            '"' | '\\' | ']' => {
                escaped.push('\\');
                escaped.push(character);
            }
            ' '..='~' => escaped.push(character),
            other => {
                let _ = write!(escaped, "\\\\u{{{:x}}}", u32::from(other));
            }
        }
    }
    escaped
}

/// JSON in ASCII: within its strings, where alone it can have other characters, by its own escapes.
fn ascii(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for character in json.chars() {
        if character.is_ascii() {
            text.push(character);
        } else {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(text, "\\u{unit:04x}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_a_client_chose_ends_a_field_a_value_or_a_message() {
        let value = json!({
            "kind": "decision", "time": "2026-11-23T08:00:00.000Z", "verdict": "deny", "seq": 7,
            "image": {"reference": "a\"] x\n<0>1 forged ü\u{202e}"},
        });
        let line = value.to_string();
        let item = Item { id: "01A".to_owned(), value, line };
        let message = message(&item, "gate way");
        assert!(message.is_ascii() && !message.chars().any(char::is_control), "{message:?}");
        assert!(message.starts_with("<108>1 2026-11-23T08:00:00.000Z gate way pullgate "), "{message}");
        let data = r#"reference="a\"\] x\\x0a<0>1 forged \\u{fc}\\u{202e}"] {"#;
        assert!(message.contains(data), "{message}");
        let json: Value = serde_json::from_str(
            message.split_once("] {").map(|(_, rest)| format!("{{{rest}")).as_deref().unwrap(),
        )
        .unwrap();
        assert_eq!(json, item.value);
    }

    /// A receiver that takes one connection, and a sink that wrote it more than its system takes.
    async fn written(window: u32, patience: Duration) -> (Syslog, Instant, tokio::net::TcpStream) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(window).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(1).unwrap();
        let port = listener.local_addr().unwrap().port();
        let times = (patience, Duration::from_millis(20));
        let mut syslog = Syslog::new("127.0.0.1", port, false, None, times).unwrap();
        let line = json!("x".repeat(512 << 10)).to_string();
        let item = Item { id: "01A".to_owned(), value: json!({"kind": "admin"}), line };
        let settled = syslog.deliver(&Batch::of(vec![item])).await.unwrap();
        (syslog, settled, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn what_the_receivers_system_did_not_acknowledge_never_counts_as_received() {
        let (mut syslog, settled, _unread) = written(4096, Duration::from_secs(1)).await;
        let error = syslog.watch(Some(settled)).await.unwrap_err();
        assert!(error.text.ends_with("what was written was not acknowledged"), "{}", error.text);
        assert!(Instant::now() >= settled + Duration::from_secs(1));
        assert!(syslog.connection.is_none(), "it is written again over another");
    }

    #[tokio::test]
    async fn what_was_read_late_counts_as_received_then() {
        let (mut syslog, settled, mut stream) = written(128 << 10, Duration::from_secs(20)).await;
        let reading = tokio::spawn(async move {
            let mut left = 512 << 10;
            let mut piece = vec![0; 8 << 10];
            while left > 0_usize {
                left = left.saturating_sub(stream.read(&mut piece).await.unwrap());
            }
            stream
        });
        syslog.watch(Some(settled)).await.unwrap();
        assert!(Instant::now() >= settled);
        drop(reading.await.unwrap());
    }
}
