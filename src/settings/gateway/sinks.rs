//! `[[sink]]`: where the record goes besides its own database.

use std::path::PathBuf;

use serde::Deserialize;
use url::{Host, Url};

use super::super::value;
use crate::audit::Kind;

/// One `[[sink]]`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "RawSink")]
pub struct Sink {
    /// Its name; no two sinks share one.
    pub name: String,
    /// Where events go.
    pub target: SinkTarget,
    /// In which form.
    pub format: SinkFormat,
    /// Which events; never empty.
    pub events: Vec<SinkEvents>,
    /// Where it begins when it has never run.
    pub from: SinkFrom,
}

/// Where events go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum SinkTarget {
    /// To a file of lines.
    File {
        /// The file.
        path: PathBuf,
        /// Bytes at which it is set aside.
        max_size: u64,
        /// How many that were set aside are kept; at least 1.
        keep: u32,
    },
    /// To a syslog receiver.
    Syslog {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// `tls://`.
        tls: bool,
        /// A CA trusted besides the system's.
        ca: Option<PathBuf>,
    },
    /// To an HTTPS address.
    Webhook {
        /// Where to.
        url: Url,
        /// Where the key of the signature is.
        secret_file: Option<PathBuf>,
        /// A CA trusted besides the system's.
        ca: Option<PathBuf>,
        /// Events in one request at most; 1 to 1000.
        batch: u32,
    },
}

/// In which form events leave.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum SinkFormat {
    /// Elastic Common Schema.
    Ecs,
    /// As on record.
    Native,
    /// Open Cybersecurity Schema Framework.
    Ocsf,
    /// A sentence for a chat room.
    Slack,
}

/// Which events go out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SinkEvents {
    /// Every one.
    All,
    /// Pulls denied or held, and floods.
    Blocked,
    /// Those of a kind.
    Kind(Kind),
}

/// Where a new sink begins.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum SinkFrom {
    /// With what is recorded from now on.
    Now,
    /// With the first event on record.
    Start,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawKind {
    File,
    Syslog,
    Webhook,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSink {
    name: String,
    kind: RawKind,
    format: Option<SinkFormat>,
    events: Option<Vec<String>>,
    from: Option<SinkFrom>,
    #[serde(default, deserialize_with = "value::some_path")]
    path: Option<PathBuf>,
    #[serde(default, deserialize_with = "value::some_size")]
    max_size: Option<u64>,
    keep: Option<u32>,
    address: Option<String>,
    url: Option<String>,
    #[serde(default, deserialize_with = "value::some_path")]
    secret_file: Option<PathBuf>,
    #[serde(default, deserialize_with = "value::some_path")]
    ca: Option<PathBuf>,
    batch: Option<u32>,
}

impl TryFrom<RawSink> for Sink {
    type Error = String;

    fn try_from(raw: RawSink) -> Result<Self, String> {
        let RawSink { name, kind, format, events, from, path, max_size, keep, address, url, .. } = raw;
        check_name("sink", &name)?;
        let (secret_file, ca, batch) = (raw.secret_file, raw.ca, raw.batch);
        let format = format.unwrap_or(SinkFormat::Native);
        let (word, wanted, given) = match kind {
            RawKind::File => ("file", "path", [address.is_some(), url.is_some()]),
            RawKind::Syslog => ("syslog", "address", [path.is_some(), url.is_some()]),
            RawKind::Webhook => ("webhook", "url", [path.is_some(), address.is_some()]),
        };
        let strange = given.contains(&true)
            || !matches!(kind, RawKind::File) && (max_size.is_some() || keep.is_some())
            || !matches!(kind, RawKind::Webhook) && (secret_file.is_some() || batch.is_some())
            || matches!(kind, RawKind::File) && ca.is_some();
        if strange {
            return Err(format!(
                "sink {name:?} is of kind {word}, whose own keys are {}; remove the others",
                match kind {
                    RawKind::File => "`path`, `max_size`, `keep`",
                    RawKind::Syslog => "`address`, `ca`",
                    RawKind::Webhook => "`url`, `secret_file`, `ca`, `batch`",
                }
            ));
        }
        if format == SinkFormat::Slack && !matches!(kind, RawKind::Webhook) {
            return Err(format!("sink {name:?}: the format slack is one of webhooks"));
        }
        let missing = || format!("sink {name:?} is of kind {word} and needs `{wanted}`");
        let target = match kind {
            RawKind::File => {
                let keep = keep.unwrap_or(10);
                let max_size = max_size.unwrap_or(100 << 20);
                if keep == 0 || max_size < 64 << 10 {
                    return Err(format!("sink {name:?}: `keep` is at least 1 and `max_size` at least 64KiB"));
                }
                SinkTarget::File { path: path.ok_or_else(missing)?, max_size, keep }
            }
            RawKind::Syslog => {
                let (host, port, tls) = syslog(&address.ok_or_else(missing)?)?;
                if ca.is_some() && !tls {
                    return Err(format!("sink {name:?}: `ca` belongs to a tls:// address"));
                }
                SinkTarget::Syslog { host, port, tls, ca }
            }
            RawKind::Webhook => {
                let url = webhook(&url.ok_or_else(missing)?)?;
                let batch = batch.unwrap_or(100);
                if !(1..=1000).contains(&batch) {
                    return Err(format!("sink {name:?}: `batch` is 1 to 1000"));
                }
                SinkTarget::Webhook { url, secret_file, ca, batch }
            }
        };
        let events = match events {
            None => vec![SinkEvents::All],
            Some(words) if words.is_empty() => {
                return Err(format!("sink {name:?} would carry nothing; fill `events` or remove it"));
            }
            Some(words) => words.iter().map(|word| wanted_events(word)).collect::<Result<_, _>>()?,
        };
        Ok(Self { name, target, format, events, from: from.unwrap_or(SinkFrom::Start) })
    }
}

/// Names become file names and stand in log lines.
pub(super) fn check_name(table: &str, name: &str) -> Result<(), String> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && !name.starts_with('-');
    if fits {
        return Ok(());
    }
    Err(format!("the `name` of a [[{table}]] is 1 to 64 lower-case letters, digits and hyphens"))
}

fn wanted_events(word: &str) -> Result<SinkEvents, String> {
    match word {
        "all" => Ok(SinkEvents::All),
        "blocked" => Ok(SinkEvents::Blocked),
        word => Kind::parse(word).map(SinkEvents::Kind).ok_or_else(|| {
            let kinds: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
            format!("{word:?} is no word of `events`; expected all, blocked, or kinds: {}", kinds.join(", "))
        }),
    }
}

fn syslog(text: &str) -> Result<(String, u16, bool), String> {
    let malformed =
        || format!("{text:?} is no syslog address; expected \"tls://host:6514\" or \"tcp://host:601\"");
    let url = Url::parse(text).map_err(|_| malformed())?;
    let tls = match url.scheme() {
        "tcp" => false,
        "tls" => true,
        _ => return Err(malformed()),
    };
    let bare = matches!(url.path(), "" | "/")
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    // For a scheme it does not know, the host is not looked at more closely.
    let host = url.host_str().filter(|host| !host.is_empty() && bare).ok_or_else(malformed)?;
    let host = Host::parse(host).map_err(|_| malformed())?;
    let host = match host {
        Host::Domain(name) => name,
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    Ok((host, url.port().unwrap_or(if tls { 6514 } else { 601 }), tls))
}

fn webhook(text: &str) -> Result<Url, String> {
    let url = Url::parse(text)
        .map_err(|error| format!("malformed `url` ({error}); expected https://host[:port]/path"))?;
    if url.scheme() != "https" {
        return Err("a webhook is https:// only; for a private CA give `ca`".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials do not belong into a `url`".to_owned());
    }
    Ok(url)
}
