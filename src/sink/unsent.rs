//! What of a connection's bytes the other side's system has not acknowledged yet, as Linux tells it.

use std::io::{self, BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};

/// So many bytes written to this connection are not acknowledged; `None`: the system does not list it.
///
/// # Errors
/// The system's list of connections cannot be read.
pub(super) fn unsent(local: SocketAddr, peer: SocketAddr) -> io::Result<Option<u64>> {
    let file = if local.is_ipv4() { "/proc/self/net/tcp" } else { "/proc/self/net/tcp6" };
    let (local, peer) = (place(local), place(peer));
    for line in BufReader::new(std::fs::File::open(file)?).lines() {
        if let Some(bytes) = queued(&line?, &local, &peer) {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// `SL: LOCAL PEER STATE TX:RX …`
fn queued(line: &str, local: &str, peer: &str) -> Option<u64> {
    let mut words = line.split_ascii_whitespace().skip(1);
    if words.next()? != local || words.next()? != peer {
        return None;
    }
    let (queued, _) = words.nth(1)?.split_once(':')?;
    u64::from_str_radix(queued, 16).ok()
}

/// An address as the list writes it: words of 32 bits in the order of this machine, and the port.
fn place(address: SocketAddr) -> String {
    let words: String = match address.ip() {
        IpAddr::V4(ip) => word(ip.octets()),
        IpAddr::V6(ip) => ip.octets().as_chunks::<4>().0.iter().map(|octets| word(*octets)).collect(),
    };
    format!("{words}:{:04X}", address.port())
}

fn word(octets: [u8; 4]) -> String {
    format!("{:08X}", u32::from_ne_bytes(octets))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_nobody_takes_is_seen_over_either_protocol() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            assert_eq!(unsent(local, peer).unwrap(), Some(0), "{address}");
            stream.set_nonblocking(true).unwrap();
            while stream.write(&[0; 64 << 10]).is_ok() {}
            assert!(unsent(local, peer).unwrap().is_some_and(|bytes| bytes > 0), "{address}");
            drop((stream, listener));
        }
    }
}
