//! `pullgate init`: a folder to start from.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Exit, Failure};
use crate::clock::Clock;
use crate::server::certificates::{CertificateError, CertificateSettings, Certificates};
use crate::settings::{files, gateway};

const GATEWAY: &str = include_str!("../../config/pullgate.toml");
const POLICY: &str = include_str!("../../config/policy.toml");
const HOSTS: &str = r#"hosts    = ["localhost", "127.0.0.1"]"#;

/// Write commented settings, a policy and certificates into a folder; what is there is left alone
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pullgate init
  pullgate init gateway --host gateway.example.com --host 10.0.0.5")]
pub(super) struct Arguments {
    /// The folder; made if it is not there
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// A name or an IP address that clients dial, for the certificate; may be given several times
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
}

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let folder = &arguments.folder;
    let settings_path = folder.join(gateway::DEFAULT_PATH);
    let settings = with_hosts(&arguments.hosts);
    // A host that is none is told before anything is written.
    let parsed = gateway::parse(&settings_path, &settings).map_err(Failure::unjudged)?;

    let new = write(&settings_path, &settings, out)?;
    let parsed = if new { parsed } else { gateway::load(&settings_path).map_err(Failure::unjudged)? };
    if !new && !arguments.hosts.is_empty() {
        writeln!(out, "      --host has no effect on it: add the names to [listen] hosts there")?;
    }
    write(&folder.join(&parsed.policy.file), POLICY, out)?;

    let tls = &parsed.listen.tls;
    let place = CertificateSettings {
        certificate: folder.join(&tls.certificate),
        key: folder.join(&tls.key),
        ca: folder.join(&tls.ca),
        hosts: parsed.listen.hosts.clone(),
    };
    let certificates =
        Certificates::load_or_create(place.clone(), &Clock::system()).map_err(|error| match error {
            CertificateError::Issue { .. } | CertificateError::Tls(_) | CertificateError::Write { .. } => {
                Failure::internal(error)
            }
            error => Failure::usage(error),
        })?;
    let served = certificates.served();
    let word = if served.created { "made " } else { "kept " };
    writeln!(
        out,
        "{word} {} (for {}), until {}",
        place.certificate.display(),
        served.hosts.join(", "),
        served.not_after.strftime("%Y-%m-%d")
    )?;
    if let Some(ca) = &served.ca {
        writeln!(out, "      clients trust it by {}", ca.display())?;
    }

    let host = parsed.listen.hosts.first().map_or("localhost", String::as_str);
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let port = parsed.listen.address.port();
    writeln!(out, "\nNext:")?;
    if folder != Path::new(".") {
        writeln!(out, "  cd {}", folder.display())?;
    }
    writeln!(
        out,
        "  pullgate check --policy {} docker.io/library/python:3.11",
        parsed.policy.file.display()
    )?;
    writeln!(out, "  pullgate serve")?;
    writeln!(out, "and, while it runs:")?;
    writeln!(out, "  curl --cacert {} https://{host}:{port}/v2/", tls.ca.display())?;
    writeln!(out, "Read config/pullgate.toml and {} before others use it.", parsed.policy.file.display())?;
    Ok(Exit::Done)
}

/// The shipped settings with these hosts besides the usual ones, the most public first.
fn with_hosts(hosts: &[String]) -> String {
    let quoted = |host: &str| toml::Value::String(host.to_owned()).to_string();
    let list: Vec<String> =
        hosts.iter().map(String::as_str).chain(["localhost", "127.0.0.1"]).map(quoted).collect();
    match hosts {
        [] => GATEWAY.to_owned(),
        _ => GATEWAY.replacen(HOSTS, &format!("hosts    = [{}]", list.join(", ")), 1),
    }
}

/// Whether it was written; else it was there.
fn write(path: &Path, text: &str, out: &mut dyn Write) -> Result<bool, Failure> {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot write {path}: {error}")]
    struct Unwritable {
        path: String,
        error: std::io::Error,
    }
    let new = files::write_new(path, text)
        .map_err(|error| Failure::internal(Unwritable { path: path.display().to_string(), error }))?;
    writeln!(out, "{} {}", if new { "wrote" } else { "kept " }, path.display())?;
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn init(folder: &Path, hosts: &[&str]) -> (Result<Exit, Failure>, String) {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut out = Vec::new();
        let exit = run(&Arguments { folder: folder.to_owned(), hosts }, &mut out);
        (exit, String::from_utf8(out).unwrap())
    }

    #[test]
    fn a_new_folder_holds_settings_policy_and_certificates_and_says_what_to_do_next() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("gateway");
        let (exit, printed) = init(&folder, &["gw.example.com", "10.0.0.5"]);
        assert_eq!(exit.unwrap(), Exit::Done);
        for name in ["config/pullgate.toml", "config/policy.toml", "certs/ca.crt", "certs/server.key"] {
            assert!(folder.join(name).is_file(), "{name}");
        }
        let gateway = gateway::load(&folder.join("config/pullgate.toml")).unwrap();
        assert_eq!(gateway.listen.hosts, ["gw.example.com", "10.0.0.5", "localhost", "127.0.0.1"]);
        assert!(printed.contains("  cd ") && printed.contains("  pullgate serve\n"), "{printed}");
        assert!(printed.contains("https://gw.example.com:8443/v2/"), "{printed}");
    }

    #[test]
    fn what_is_there_is_never_overwritten() {
        let place = tempfile::tempdir().unwrap();
        init(place.path(), &[]).0.unwrap();
        let config = place.path().join("config/pullgate.toml");
        std::fs::write(&config, "[listen]\nhosts = [\"mine.example.com\"]\ntls = { certificate = \"tls/a.crt\", key = \"tls/a.key\", ca = \"tls/ca.crt\" }\n").unwrap();
        std::fs::write(place.path().join("config/policy.toml"), "mine").unwrap();
        let old = std::fs::read(place.path().join("certs/server.crt")).unwrap();
        let (exit, printed) = init(place.path(), &["new.example.com"]);
        exit.unwrap();
        assert!(printed.contains("--host has no effect"), "{printed}");
        assert_eq!(std::fs::read_to_string(place.path().join("config/policy.toml")).unwrap(), "mine");
        assert_eq!(std::fs::read(place.path().join("certs/server.crt")).unwrap(), old);
        assert!(place.path().join("tls/a.crt").is_file(), "certificates go where the kept settings say");
    }

    #[test]
    fn a_host_that_is_none_is_refused_before_anything_is_written() {
        let place = tempfile::tempdir().unwrap();
        let (exit, _) = init(place.path(), &["https://gw.example.com\"\n"]);
        assert_eq!(exit.unwrap_err().exit, Exit::Unjudged);
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    }
}
