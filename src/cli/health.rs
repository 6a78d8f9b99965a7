//! `pullgate health`: asks a running gateway whether it serves.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use rustls_pki_types::ServerName;

use super::{Exit, Failure};
use crate::server::certificates::trusting_exactly;
use crate::settings::{gateway, value};

/// The most of an answer that is read.
const ANSWER_MAX: usize = 64 << 10;

/// Ask the running gateway whether it serves: 0 it does, 1 it does not
#[derive(Debug, Args)]
#[command(after_help = "\
It asks /readyz on the admin listener of the configuration, over the loopback interface when that
listens on all addresses.

Examples:
  pullgate health
  pullgate health --config /etc/pullgate/pullgate.toml --timeout 1s
  HEALTHCHECK CMD [\"/pullgate\", \"health\", \"--config\", \"/config/pullgate.toml\"]")]
pub(super) struct Arguments {
    /// The gateway's configuration
    #[arg(long, value_name = "FILE", default_value = gateway::DEFAULT_PATH)]
    config: PathBuf,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = value::duration)]
    timeout: Duration,
}

#[derive(Debug, thiserror::Error)]
#[error("the admin listener of {0} takes a free port at each start; give [admin] address a fixed one")]
struct NoPort(String);

pub(super) fn run(arguments: &Arguments, out: &mut dyn Write) -> Result<Exit, Failure> {
    let gateway = gateway::load(&arguments.config).map_err(Failure::unjudged)?;
    let address = reachable(gateway.admin.address);
    if address.port() == 0 {
        return Err(Failure::usage(NoPort(arguments.config.display().to_string())));
    }
    let tls = gateway.admin.tls.as_ref().map(|tls| trusting_exactly(&tls.certificate));
    let tls = tls.transpose().map_err(Failure::usage)?.map(Arc::new);
    match ask(address, tls, arguments.timeout) {
        Ok((200, _)) => {
            writeln!(out, "ready")?;
            Ok(Exit::Done)
        }
        Ok((status, body)) => {
            writeln!(out, "not ready: {address} answers {status}: {}", printable(&body))?;
            Ok(Exit::No)
        }
        Err(error) => {
            writeln!(out, "not ready: {address} does not answer: {error}")?;
            Ok(Exit::No)
        }
    }
}

/// A connection, with TLS or without.
trait Stream: Read + Write {}

impl<T: Read + Write> Stream for T {}

/// Where a listener on this address is reached from its own machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    address
}

/// The status and the body of `/readyz`, all within the time limit.
fn ask(address: SocketAddr, tls: Option<Arc<ClientConfig>>, timeout: Duration) -> io::Result<(u16, String)> {
    let begun = Instant::now();
    let left = || match timeout.checked_sub(begun.elapsed()) {
        None | Some(Duration::ZERO) => Err(io::Error::from(io::ErrorKind::TimedOut)),
        Some(left) => Ok(left),
    };
    let socket = TcpStream::connect_timeout(&address, left()?)?;
    socket.set_write_timeout(Some(left()?))?;
    socket.set_read_timeout(Some(left()?))?;
    let mut stream: Box<dyn Stream> = match tls {
        None => Box::new(socket.try_clone()?),
        Some(tls) => {
            let name = ServerName::IpAddress(address.ip().into());
            let connection = ClientConnection::new(tls, name).map_err(io::Error::other)?;
            Box::new(StreamOwned::new(connection, socket.try_clone()?))
        }
    };
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        socket.set_read_timeout(Some(left()?))?;
        let read = match stream.read(&mut buffer) {
            // What a read past its time limit is called differs between systems.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::TimedOut.into()),
            // A farewell of TLS is not waited for.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read,
        }?;
        answer.extend_from_slice(&buffer[..read]);
        if read == 0 || answer.len() >= ANSWER_MAX {
            break;
        }
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.trim_end().get(..3)?.parse().ok())
        .ok_or_else(|| io::Error::other("the answer is no HTTP; does another program listen there?"))?;
    Ok((status, body.to_owned()))
}

/// One line of an answer that may be anybody's.
fn printable(body: &str) -> String {
    let line = body.split_whitespace().collect::<Vec<_>>().join(" ");
    line.chars().filter(|character| !character.is_control()).take(300).collect()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Asks a listener that gives one answer; what it asked, what it printed, how it ended.
    fn against(answer: &'static str) -> (String, String, Exit) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = vec![0; 1024];
            let read = stream.read(&mut asked).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(asked[..read].to_vec()).unwrap()
        });
        let (printed, exit) = asked_at(address, "20s");
        (server.join().unwrap(), printed, exit)
    }

    fn asked_at(address: SocketAddr, timeout: &str) -> (String, Exit) {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("pullgate.toml");
        std::fs::write(&config, format!("[admin]\naddress = \"{address}\"\n")).unwrap();
        let mut out = Vec::new();
        let exit = run(&Arguments { config, timeout: value::duration(timeout).unwrap() }, &mut out).unwrap();
        (String::from_utf8(out).unwrap(), exit)
    }

    #[test]
    fn a_gateway_that_says_yes_is_ready() {
        let (asked, printed, exit) = against("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert!(asked.starts_with("GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:"), "{asked}");
        assert_eq!((printed.as_str(), exit), ("ready\n", Exit::Done));
    }

    #[test]
    fn a_gateway_that_says_no_is_not_ready_and_its_words_are_passed_on_without_control_characters() {
        let (_, printed, exit) = against("HTTP/1.1 503 \r\n\r\npolicy:\x1b[31m not\n loaded");
        assert!(printed.ends_with(" answers 503: policy:[31m not loaded\n"), "{printed:?}");
        assert_eq!(exit, Exit::No);
    }

    #[test]
    fn nobody_there_or_somebody_else_there_is_not_ready() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (printed, exit) = asked_at(free, "20s");
        assert!(printed.contains("does not answer"), "{printed}");
        assert_eq!(exit, Exit::No);
        let (_, printed, exit) = against("SSH-2.0-OpenSSH_9.2\r\n");
        assert!(printed.contains("is no HTTP"), "{printed}");
        assert_eq!(exit, Exit::No);
    }

    #[test]
    fn silence_ends_at_the_time_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (printed, exit) = asked_at(listener.local_addr().unwrap(), "50ms");
        assert!(printed.contains("does not answer"), "{printed}");
        assert_eq!(exit, Exit::No);
    }

    #[test]
    fn a_bad_configuration_cannot_be_judged() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("pullgate.toml");
        let arguments = Arguments { config: config.clone(), timeout: Duration::from_secs(1) };
        assert_eq!(run(&arguments, &mut Vec::new()).unwrap_err().exit, Exit::Unjudged);
        std::fs::write(&config, "[admin]\naddress = \"127.0.0.1:0\"\n").unwrap();
        assert_eq!(run(&arguments, &mut Vec::new()).unwrap_err().exit, Exit::Unjudged);
    }

    #[test]
    fn a_listener_on_all_addresses_is_asked_on_loopback() {
        assert_eq!(reachable("0.0.0.0:9".parse().unwrap()), "127.0.0.1:9".parse().unwrap());
        assert_eq!(reachable("[::]:9".parse().unwrap()), "[::1]:9".parse().unwrap());
        assert_eq!(reachable("10.0.0.1:9".parse().unwrap()), "10.0.0.1:9".parse().unwrap());
    }
}
