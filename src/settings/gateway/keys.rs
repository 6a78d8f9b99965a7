//! The list of every key: what the strict check, `docs/configuration.md` and its test go by.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::settings::diagnostic::{Problem, nearest};

/// One key of `pullgate.toml`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Key {
    /// Its place: `listen.tls.key`; `upstream` and `client` are arrays of tables.
    pub path: &'static str,
    /// What kind of value.
    pub kind: &'static str,
    /// Its default as TOML; `None`: absent.
    pub default: Option<&'static str>,
    /// The first version that knows it.
    pub since: &'static str,
}

const fn key(path: &'static str, kind: &'static str, default: Option<&'static str>) -> Key {
    Key { path, kind, default, since: "0.1" }
}

/// Every key of `pullgate.toml`, in the order of the shipped file.
pub const KEYS: &[Key] = &[
    key("default_registry", "registry", Some("\"docker.io\"")),
    key("sealed", "boolean", Some("false")),
    key("listen.address", "address:port", Some("\"0.0.0.0:8443\"")),
    key("listen.hosts", "list of names", Some("[\"localhost\", \"127.0.0.1\"]")),
    key("listen.tls.certificate", "path", Some("\"certs/server.crt\"")),
    key("listen.tls.key", "path", Some("\"certs/server.key\"")),
    key("listen.tls.ca", "path", Some("\"certs/ca.crt\"")),
    key("listen.trusted_proxies", "list of ranges", Some("[]")),
    key("listen.client_ca", "path", None),
    key("admin.address", "address:port", Some("\"127.0.0.1:9443\"")),
    key("storage.path", "path", Some("\"data\"")),
    key("storage.max_size", "size", Some("\"50GiB\"")),
    key("audit.max_size", "size", Some("\"5GiB\"")),
    key("audit.on_full", "serve, refuse", Some("\"serve\"")),
    key("policy.file", "path", Some("\"config/policy.toml\"")),
    key("policy.shadow", "path", None),
    key("cache.tag_ttl", "lifetime", Some("\"15m\"")),
    key("cache.stale_if_error", "lifetime", Some("\"forever\"")),
    key("deny.ns", "firm, plain", Some("\"firm\"")),
    key("deny.bare", "firm, plain", Some("\"firm\"")),
    key("deny.prefix", "firm, plain", Some("\"plain\"")),
    key("limits.refusals", "rate", Some("\"60/min\"")),
    key("limits.requests", "rate", None),
    key("limits.connections", "number", Some("4096")),
    key("limits.connections_per_address", "number", Some("512")),
    key("limits.header_bytes", "size", Some("65536")),
    key("limits.handshake", "duration", Some("\"10s\"")),
    key("limits.header_timeout", "duration", Some("\"15s\"")),
    key("limits.idle_timeout", "duration", Some("\"60s\"")),
    key("limits.drain", "duration", Some("\"30s\"")),
    key("upstream.registry", "registry", None),
    key("upstream.endpoint", "https address", None),
    key("upstream.layout", "path", None),
    key("upstream.ca", "path", None),
    key("upstream.auth.username", "text", None),
    key("upstream.auth.password_file", "path", None),
    key("upstream.auth.password_env", "text", None),
    key("upstream.auth.docker_config", "path", None),
    key("upstream.auth.identity_token_file", "path", None),
    key("upstream.auth_hosts", "list of hosts", Some("[]")),
    key("upstream.blob_hosts", "list of hosts", None),
    key("client.name", "text", None),
    key("client.ranges", "list of ranges", None),
    key("client.certificate", "list of names", None),
    key("client.token_sha256", "list of hashes", None),
    key("client.rate", "rate", None),
    key("sink.name", "text", None),
    key("sink.kind", "file, syslog, webhook", None),
    key("sink.format", "native, ocsf, ecs, slack", Some("\"native\"")),
    key("sink.events", "list of words", Some("[\"all\"]")),
    key("sink.from", "start, now", Some("\"start\"")),
    key("sink.path", "path", None),
    key("sink.max_size", "size", Some("\"100MiB\"")),
    key("sink.keep", "number", Some("10")),
    key("sink.address", "tls:// or tcp:// address", None),
    key("sink.url", "https address", None),
    key("sink.secret_file", "path", None),
    key("sink.ca", "path", None),
    key("sink.batch", "number", Some("100")),
];

/// Keys and tables whose names are taken and whose meaning this version does not carry out yet.
const RESERVED: &[&str] = &["admin.tls", "admin.user", "alert", "canary", "connect", "prefetch", "shadow"];

/// The tables that may be written several times.
const ARRAYS: &[&str] = &["client", "sink", "upstream"];

/// Keys under which people would write a secret itself, were they allowed to.
const SECRETS: &[&str] = &["password", "identity_token", "token", "secret"];

/// Every key that is unknown, or known and not supported, with what was probably meant.
pub(super) fn problems(table: &DeTable<'_>) -> Vec<Problem> {
    let mut found = Vec::new();
    walk(table, "", &mut |path, key, value| {
        let span = key.span();
        if RESERVED.contains(&path) || (path == "sealed" && value.get_ref().as_bool() == Some(true)) {
            let what = if path == "sealed" { "sealed = true" } else { path };
            let message = format!("{what} is not supported by this version; remove it");
            found.push(Problem::new(span, message));
            return false;
        }
        if KEYS.iter().any(|key| key.path == path) {
            return false;
        }
        let inside = format!("{path}.");
        if KEYS.iter().any(|key| key.path.starts_with(&inside)) {
            // serde would take a list for a table, its values in the order of the fields.
            let (fits, wanted) = match (ARRAYS.contains(&path), value.get_ref()) {
                (true, DeValue::Array(items)) => {
                    (items.iter().all(|item| item.get_ref().is_table()), format!("[[{path}]]"))
                }
                (true, _) => (false, format!("[[{path}]]")),
                (false, value) => (value.is_table(), format!("[{path}]")),
            };
            if !fits {
                found.push(Problem::new(value.span(), format!("`{path}` is a table; write it as {wanted}")));
            }
            return fits;
        }
        found.push(unknown(path, span));
        false
    });
    found
}

fn unknown(path: &str, span: Range<usize>) -> Problem {
    let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
    let problem = Problem::new(span, format!("unknown key `{path}`"));
    if SECRETS.contains(&name) {
        return problem.help("a secret is never written here; name where it is: `password_file`, `password_env`, `docker_config`, `identity_token_file` or `secret_file`");
    }
    let mut siblings = siblings(parent);
    siblings.dedup();
    if let Some(near) = nearest(name, siblings.iter().copied()) {
        return problem.help(format!("did you mean `{near}`?"));
    }
    let elsewhere = KEYS.iter().find(|key| key.path.rsplit('.').next() == Some(name));
    match (elsewhere, parent) {
        (Some(Key { path, .. }), _) => problem.help(format!("did you mean `{path}`?")),
        (None, "") => problem.help(format!("known here: {}", siblings.join(", "))),
        (None, parent) => problem.help(format!("known in `{parent}`: {}", siblings.join(", "))),
    }
}

/// The names that may stand in this table.
fn siblings(parent: &str) -> Vec<&'static str> {
    let inside = |path: &'static str| match parent {
        "" => Some(path),
        parent => path.strip_prefix(parent)?.strip_prefix('.'),
    };
    KEYS.iter().filter_map(|key| inside(key.path)?.split('.').next()).collect()
}

type Name<'a> = toml::Spanned<toml::de::DeString<'a>>;
type Value<'a> = toml::Spanned<DeValue<'a>>;

/// Visits every key with its dotted path, and goes into its tables where `visit` says so.
fn walk<'a>(table: &DeTable<'a>, prefix: &str, visit: &mut impl FnMut(&str, &Name<'a>, &Value<'a>) -> bool) {
    for (key, value) in table {
        let name = key.get_ref();
        let path = if prefix.is_empty() { name.to_string() } else { format!("{prefix}.{name}") };
        if !visit(&path, key, value) {
            continue;
        }
        match value.get_ref() {
            DeValue::Table(inner) => walk(inner, &path, visit),
            DeValue::Array(items) => {
                for item in items {
                    if let DeValue::Table(inner) = item.get_ref() {
                        walk(inner, &path, visit);
                    }
                }
            }
            _ => {}
        }
    }
}

/// The innermost key whose value holds this place.
pub(super) fn key_at(table: &DeTable<'_>, place: &Range<usize>) -> Option<String> {
    let mut best: Option<(usize, String)> = None;
    walk(table, "", &mut |path, _, value| {
        let span = value.span();
        let holds = span.start <= place.start && place.end <= span.end;
        if holds && best.as_ref().is_none_or(|(length, _)| span.len() <= *length) {
            best = Some((span.len(), path.to_owned()));
        }
        true
    });
    best.map(|(_, path)| path)
}

/// Where the value of this key is.
pub(super) fn span_of(table: &DeTable<'_>, wanted: &str) -> Option<Range<usize>> {
    let mut found = None;
    walk(table, "", &mut |path, _, value| {
        if path == wanted {
            found = Some(value.span());
        }
        true
    });
    found
}

/// The text with the values of would-be secrets starred out, byte for byte: errors quote the file.
pub(super) fn mask_secrets(text: &str) -> String {
    let (table, _) = DeTable::parse_recoverable(text);
    let mut masked = text.to_owned();
    walk(table.get_ref(), "", &mut |path, _, value| {
        let span = value.span();
        let name = path.rsplit('.').next().unwrap_or(path);
        if let Some(secret) = text.get(span.clone()).filter(|_| SECRETS.contains(&name)) {
            // Line breaks stay, so that the other lines keep their numbers.
            let stars: String = secret.bytes().map(|byte| if byte == b'\n' { '\n' } else { '*' }).collect();
            masked.replace_range(span, &stars);
        }
        true
    });
    masked
}
