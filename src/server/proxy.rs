//! The PROXY protocol, versions 1 and 2: what a proxy says, before anything else, about whom it
//! speaks for. Only whoever may be believed is asked; from all others these bytes are no TLS, and end
//! the connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::TcpStream;

/// The longest line of version 1, its CRLF included.
const LINE_MAX: usize = 107;
/// The 12 bytes that version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The most that may follow the fixed part of version 2: addresses and the values after them, which
/// are skipped. Proxies send some hundred bytes.
const REST_MAX: usize = 4096;

/// Why a connection with a PROXY header goes no further.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProxyError {
    /// What was sent is no header.
    #[error("malformed PROXY header: {0}")]
    Malformed(&'static str),
    /// The proxy went away in the middle of it.
    #[error("the PROXY header broke off: {0}")]
    Read(#[from] io::Error),
}

/// The source address that the header at the beginning of this stream tells.
///
/// `None`: there is no header (TLS begins with 0x16, a header with `P` or a carriage return), or it
/// names nobody: the proxy's own health checks, clients without an IP address. Of a connection without
/// header no byte is taken.
pub(super) async fn receive(stream: &mut TcpStream) -> Result<Option<SocketAddr>, ProxyError> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    match first {
        [b'P'] => line(stream).await,
        [b'\r'] => binary(stream).await,
        _ => Ok(None),
    }
}

/// Version 1. Byte by byte: what follows the line is TLS's.
async fn line(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    let mut line = Vec::with_capacity(LINE_MAX);
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_MAX {
            return Err(ProxyError::Malformed("the line is longer than 107 bytes"));
        }
        line.push(stream.read_u8().await?);
    }
    parse_line(&line)
}

/// Version 2.
async fn binary(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<SocketAddr>, ProxyError> {
    let mut fixed = [0; 16];
    stream.read_exact(&mut fixed).await?;
    let [signature @ .., command, family, high, low] = fixed;
    if signature != SIGNATURE {
        return Err(ProxyError::Malformed("the signature of version 2 is not there"));
    }
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > REST_MAX {
        return Err(ProxyError::Malformed("more than 4096 bytes follow the fixed part"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    parse_binary(command, family, &rest)
}

fn parse_line(line: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    let malformed = ProxyError::Malformed;
    let text = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
    let text = text.ok_or(malformed("it is no line of text"))?;
    let mut words = text.split(' ');
    if words.next() != Some("PROXY") {
        return Err(malformed("it does not begin with PROXY"));
    }
    let family = words.next();
    if family == Some("UNKNOWN") {
        return Ok(None);
    }
    let mut address = |wanted: &str| {
        let address: IpAddr = words.next()?.parse().ok()?;
        (address.is_ipv4() == (wanted == "TCP4")).then_some(address)
    };
    let (source, _) = match family {
        Some(family @ ("TCP4" | "TCP6")) => address(family).zip(address(family)),
        _ => return Err(malformed("the family is none of TCP4, TCP6, UNKNOWN")),
    }
    .ok_or(malformed("its addresses are not of its family"))?;
    let mut port = || words.next().and_then(port);
    let (source_port, _) = port().zip(port()).ok_or(malformed("its ports are no ports"))?;
    match words.next() {
        None => Ok(Some(SocketAddr::new(source.to_canonical(), source_port))),
        Some(_) => Err(malformed("something follows the ports")),
    }
}

/// A decimal number as the specification writes it: without sign and leading zeros.
fn port(text: &str) -> Option<u16> {
    let plain = text == "0" || text.starts_with(|first: char| matches!(first, '1'..='9'));
    text.parse().ok().filter(|_| plain)
}

fn parse_binary(command: u8, family: u8, rest: &[u8]) -> Result<Option<SocketAddr>, ProxyError> {
    match command {
        // LOCAL: the proxy speaks for itself, and whatever follows is to be passed over.
        0x20 => return Ok(None),
        0x21 => {}
        _ => return Err(ProxyError::Malformed("version and command are none of version 2")),
    }
    let short = || ProxyError::Malformed("it is too short for its addresses");
    match family {
        // Unspecified, and unix sockets: whoever it is has no address.
        0x00 | 0x31 => Ok(None),
        0x11 => {
            let (source, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            let (_, rest) = rest.split_first_chunk::<4>().ok_or_else(short)?;
            Ok(Some(SocketAddr::new(Ipv4Addr::from(*source).into(), source_port(rest)?)))
        }
        0x21 => {
            let (source, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            let (_, rest) = rest.split_first_chunk::<16>().ok_or_else(short)?;
            let source = IpAddr::from(Ipv6Addr::from(*source)).to_canonical();
            Ok(Some(SocketAddr::new(source, source_port(rest)?)))
        }
        _ => Err(ProxyError::Malformed("the family is no stream's")),
    }
}

/// The first of the two ports; the second must be there as well.
fn source_port(ports: &[u8]) -> Result<u16, ProxyError> {
    match ports {
        [high, low, _, _, ..] => Ok(u16::from_be_bytes([*high, *low])),
        _ => Err(ProxyError::Malformed("it is too short for its ports")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn composed(source: SocketAddr, tail: &[u8]) -> Vec<u8> {
        let (family, mut block) = match source.ip() {
            IpAddr::V4(address) => (0x11, [address.octets(), [192, 0, 2, 1]].concat()),
            IpAddr::V6(address) => (0x21, [address.octets(), [7; 16]].concat()),
        };
        block.extend_from_slice(&source.port().to_be_bytes());
        block.extend_from_slice(&8443_u16.to_be_bytes());
        block.extend_from_slice(tail);
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[0x21, family], &length, &block].concat()
    }

    fn now<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn read_binary(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, usize) {
        let outcome = now(binary(&mut bytes));
        (outcome, bytes.len())
    }

    fn read_line(mut bytes: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, usize) {
        let outcome = now(line(&mut bytes));
        (outcome, bytes.len())
    }

    #[test]
    fn a_line_of_version_1_tells_the_source() {
        for (text, source) in [
            ("PROXY TCP4 203.0.113.7 192.0.2.1 51000 8443\r\n", Some("203.0.113.7:51000")),
            ("PROXY TCP6 2001:db8::7 2001:db8::1 51000 8443\r\n", Some("[2001:db8::7]:51000")),
            ("PROXY TCP6 ::ffff:203.0.113.7 ::1 0 65535\r\n", Some("203.0.113.7:0")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN ffff::1 ffff::2 1 2 and more\r\n", None),
        ] {
            let found = parse_line(text.as_bytes()).expect(text);
            assert_eq!(found, source.map(|source| source.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn what_is_no_line_of_version_1_is_malformed() {
        for text in [
            "PROXY\r\n",
            "PROXY \r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 51000\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 51000 8443 \r\n",
            "PROXY TCP4  203.0.113.7 192.0.2.1 51000 8443\r\n",
            "PROXY TCP4 203.0.113.07 192.0.2.1 51000 8443\r\n",
            "PROXY TCP4 2001:db8::7 2001:db8::1 51000 8443\r\n",
            "PROXY TCP6 203.0.113.7 192.0.2.1 51000 8443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 65536 8443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 +1 8443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 01 8443\r\n",
            "PROXY UDP4 203.0.113.7 192.0.2.1 51000 8443\r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 51000 8443\n",
            "proxy TCP4 203.0.113.7 192.0.2.1 51000 8443\r\n",
            "POST /v2/ HTTP/1.1\r\n",
            "",
        ] {
            assert!(parse_line(text.as_bytes()).is_err(), "{text:?}");
        }
        let endless = [b'P'; 200];
        let (outcome, left) = read_line(&endless);
        assert!(matches!(outcome, Err(ProxyError::Malformed(_))));
        assert_eq!(left, 200 - LINE_MAX, "no more is read than a line may hold");
    }

    #[test]
    fn version_2_knows_its_own_connections_and_clients_without_an_address() {
        assert_eq!(parse_binary(0x20, 0x11, b"anything").unwrap(), None);
        assert_eq!(parse_binary(0x21, 0x00, b"").unwrap(), None);
        assert_eq!(parse_binary(0x21, 0x31, &[0; 216]).unwrap(), None);
        for (command, family) in [(0x22, 0x11), (0x11, 0x11), (0x21, 0x12), (0x21, 0x22), (0x21, 0x41)] {
            assert!(parse_binary(command, family, &[0; 216]).is_err(), "{command:#x} {family:#x}");
        }
    }

    #[test]
    fn version_2_is_read_to_its_bound_and_no_further() {
        let source: SocketAddr = "203.0.113.7:51000".parse().unwrap();
        let fits = composed(source, &vec![1; REST_MAX - 12]);
        assert_eq!(read_binary(&fits).0.unwrap(), Some(source));
        let (outcome, left) = read_binary(&composed(source, &vec![1; REST_MAX - 11]));
        assert!(matches!(outcome, Err(ProxyError::Malformed(_))));
        assert_eq!(left, REST_MAX + 1, "nothing beyond the fixed part was read");
        let (outcome, left) = read_binary(b"\r\n\r\n\0\r\nQUIX\n\x21\x11\x00\x00rest");
        assert!(matches!(outcome, Err(ProxyError::Malformed(_))));
        assert_eq!(left, 4);
    }

    fn any_source() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>()).prop_map(|(address, port)| SocketAddr::new(address, port))
    }

    proptest! {
        #[test]
        fn what_a_proxy_says_is_what_is_understood_and_what_follows_is_left(
            source in any_source(),
            skipped in prop::collection::vec(any::<u8>(), 0..300),
            after in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let meant = SocketAddr::new(source.ip().to_canonical(), source.port());
            let (outcome, left) = read_binary(&[&composed(source, &skipped)[..], &after].concat());
            prop_assert_eq!(outcome.unwrap(), Some(meant));
            prop_assert_eq!(left, after.len());
            let (family, other) = if source.is_ipv4() { ("TCP4", "192.0.2.1") } else { ("TCP6", "::1") };
            let text = format!("PROXY {family} {} {other} {} 8443\r\n", source.ip(), source.port());
            let (outcome, left) = read_line(&[text.as_bytes(), &after].concat());
            prop_assert_eq!(outcome.unwrap(), Some(meant));
            prop_assert_eq!(left, after.len());
        }

        #[test]
        fn a_header_cut_anywhere_is_none(source in any_source(), cut in any::<prop::sample::Index>()) {
            let whole = composed(source, &[]);
            let cut = cut.index(whole.len());
            prop_assert!(read_binary(&whole[..cut]).0.is_err());
        }

        #[test]
        fn no_bytes_make_it_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            command in any::<u8>(),
            family in any::<u8>(),
        ) {
            let _ = parse_line(&bytes);
            let _ = parse_line(&[b"PROXY TCP4 ", &bytes[..], b"\r\n"].concat());
            let _ = parse_binary(command, family, &bytes);
            let _ = parse_binary(0x21, family, &bytes);
            let _ = read_binary(&[&SIGNATURE[..], &bytes].concat());
            let _ = read_line(&bytes);
        }
    }
}
