//! From evidence to a caller: policy.md 17.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Attribution, Caller, Class};
use crate::oci::Digest;

/// The longest `User-Agent` and certificate name that is kept, in characters.
const TEXT_MAX: usize = 256;
/// How many addresses of `X-Forwarded-For` are looked at, from the right.
const HOPS_MAX: usize = 32;

/// Who is known, and whose word counts.
#[derive(Clone, Debug, Default)]
pub struct IdentitySettings {
    /// The `[[client]]` tables, in file order.
    pub clients: Vec<ClientSettings>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
}

/// One `[[client]]`: every key given must match. One without any key matches nobody.
#[derive(Clone, Debug)]
pub struct ClientSettings {
    /// Its name; several tables may share it.
    pub name: Arc<str>,
    /// Its address is in one of these.
    pub ranges: Option<Vec<IpNet>>,
    /// Its verified certificate has one of these SANs; DNS names compare without regard to case.
    pub certificates: Option<Vec<String>>,
    /// It shows a Bearer token with one of these sha256 hashes.
    pub tokens: Option<Vec<[u8; 32]>>,
}

/// What is known about a request's sender before anyone decides.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The other end of the connection, or whom the PROXY header of a trusted proxy put in its place.
    pub peer: IpAddr,
    /// The proxy whose PROXY header told the peer.
    pub proxy: Option<IpAddr>,
    /// All `X-Forwarded-For` lines, joined by commas in the order they came.
    pub forwarded_for: Option<&'a str>,
    /// The `Authorization` header, as sent.
    pub authorization: Option<&'a [u8]>,
    /// The SANs of the client certificate, after it was verified.
    pub certificate_sans: &'a [Arc<str>],
    /// The `User-Agent` header.
    pub user_agent: Option<&'a str>,
}

/// Knows the clients. Built once for a configuration; [`Identity::identify`] runs once for a request.
#[derive(Debug, Default)]
pub struct Identity {
    clients: Vec<ClientSettings>,
    trusted_proxies: Vec<IpNet>,
}

/// How well a table matches: a certificate before a token before the longest range.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
struct Rank {
    certificate: bool,
    token: bool,
    prefix: Option<u8>,
}

impl Identity {
    /// Takes the tables as they are; `settings` has checked them.
    pub fn new(settings: IdentitySettings) -> Self {
        let IdentitySettings { clients, trusted_proxies } = settings;
        let trusted_proxies = trusted_proxies.into_iter().map(|net| net.trunc()).collect();
        Self { clients, trusted_proxies }
    }

    /// Who sent this.
    ///
    /// Among the tables that match, one by certificate goes before one by token before the one with
    /// the longest range; among equals the first in the file. A Bearer token that no
    /// matching table has makes the caller [`Class::Unknown`], whatever else matches; Basic credentials are passed over.
    pub fn identify(&self, evidence: &Evidence<'_>) -> Caller {
        let (address, proxy) = self.address(evidence);
        let bearer = evidence.authorization.and_then(bearer);
        let shown = bearer.map(Shown::of);
        let caller = |class, attribution, certificate| Caller {
            class,
            attribution,
            address,
            proxy,
            certificate,
            user_agent: evidence.user_agent.map(keep),
        };
        let certificate = || evidence.certificate_sans.first().cloned();

        let mut best: Option<(Rank, &ClientSettings, Option<&Arc<str>>)> = None;
        let mut accepted = shown.is_none();
        for client in &self.clients {
            let Some((rank, san)) = client.matches(address, evidence.certificate_sans, shown.as_ref()) else {
                continue;
            };
            accepted |= rank.token;
            if best.as_ref().is_none_or(|(before, ..)| rank > *before) {
                best = Some((rank, client, san));
            }
        }
        match best {
            // Also a token that is some client's, shown from where that client may not be.
            _ if !accepted => caller(Class::Unknown, Attribution::None, certificate()),
            None => caller(Class::Anonymous, Attribution::None, certificate()),
            Some((rank, client, san)) => {
                let attribution = match rank {
                    Rank { certificate: true, .. } => Attribution::Certificate,
                    Rank { token: true, .. } => Attribution::Token,
                    _ => Attribution::Address,
                };
                caller(Class::Client(client.name.clone()), attribution, san.cloned().or_else(certificate))
            }
        }
    }

    /// The client's address: the peer's, unless the peer is a trusted proxy; then the rightmost
    /// address of `X-Forwarded-For` that is no trusted proxy. Anything left of it the client may have
    /// made up. What cannot be read ends the walk at the last address that could.
    ///
    /// The second address is the proxy that told the first: the peer itself, or whoever sent the PROXY
    /// header that named the peer.
    fn address(&self, evidence: &Evidence<'_>) -> (IpAddr, Option<IpAddr>) {
        let peer = evidence.peer.to_canonical();
        let Some(forwarded_for) = evidence.forwarded_for.filter(|_| self.trusts(peer)) else {
            return (peer, evidence.proxy);
        };
        let mut address = peer;
        for hop in forwarded_for.rsplit(',').take(HOPS_MAX) {
            let Some(hop) = hop_address(hop) else { break };
            address = hop;
            if !self.trusts(hop) {
                break;
            }
        }
        (address, if address == peer { evidence.proxy } else { Some(peer) })
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&address))
    }
}

impl ClientSettings {
    /// How well, and by which SAN; `None`: a key that is given does not match.
    fn matches<'a>(
        &self,
        address: IpAddr,
        sans: &'a [Arc<str>],
        shown: Option<&Shown>,
    ) -> Option<(Rank, Option<&'a Arc<str>>)> {
        let mut rank = Rank { certificate: false, token: false, prefix: None };
        let mut by = None;
        if let Some(ranges) = &self.ranges {
            let longest =
                ranges.iter().filter(|net| net.contains(&address)).map(|net| net.prefix_len()).max()?;
            // Four and six count from the same end: a /24 is as narrow as a /120.
            rank.prefix = Some(if address.is_ipv4() { longest + 96 } else { longest });
        }
        if let Some(names) = &self.certificates {
            by = Some(sans.iter().find(|san| names.iter().any(|name| name.eq_ignore_ascii_case(san)))?);
            rank.certificate = true;
        }
        if let Some(tokens) = &self.tokens {
            let shown = shown?;
            tokens.iter().any(|hash| shown.is(hash)).then_some(())?;
            rank.token = true;
        }
        (rank.certificate || rank.token || rank.prefix.is_some()).then_some((rank, by))
    }
}

/// The sha256 of a token that was shown. The token itself is not kept.
struct Shown(Digest);

impl Shown {
    fn of(token: &[u8]) -> Self {
        Self(Digest::sha256(token))
    }

    /// In constant time: how long it takes tells nothing about how much of a hash was guessed.
    fn is(&self, hash: &[u8; 32]) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.bytes(), hash).is_ok()
    }
}

/// The token of `Authorization: Bearer …`; an empty one counts as shown. Any other scheme, and none, is none.
pub(crate) fn bearer(header: &[u8]) -> Option<&[u8]> {
    let header = header.trim_ascii();
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return None;
    }
    match rest.first() {
        None => Some(rest),
        Some(b' ' | b'\t') => Some(rest.trim_ascii()),
        Some(_) => None,
    }
}

/// One hop of `X-Forwarded-For`: an address, `address:port` or `[address]:port`.
fn hop_address(hop: &str) -> Option<IpAddr> {
    let hop = hop.trim();
    hop.parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(|| hop.strip_prefix('[')?.strip_suffix(']')?.parse().ok())
        .map(|address| address.to_canonical())
}

/// A header's text, shortened where it is hostile.
fn keep(text: &str) -> Arc<str> {
    match text.char_indices().nth(TEXT_MAX) {
        None => text.into(),
        Some((end, _)) => text.get(..end).unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn client(name: &str) -> ClientSettings {
        ClientSettings { name: name.into(), ranges: None, certificates: None, tokens: None }
    }

    fn hash(token: &str) -> [u8; 32] {
        Digest::sha256(token.as_bytes()).bytes().try_into().unwrap()
    }

    fn from(peer: &str) -> Evidence<'static> {
        Evidence {
            peer: peer.parse().unwrap(),
            proxy: None,
            forwarded_for: None,
            authorization: None,
            certificate_sans: &[],
            user_agent: None,
        }
    }

    fn identity() -> Identity {
        let ranges = |name, ranges: &[&str]| ClientSettings { ranges: Some(nets(ranges)), ..client(name) };
        Identity::new(IdentitySettings {
            clients: vec![
                ranges("site", &["10.0.0.0/8", "fd00::/8"]),
                ranges("floor", &["10.20.0.0/16"]),
                ClientSettings { tokens: Some(vec![hash("t-ci"), hash("t-ci-next")]), ..client("ci") },
                ClientSettings { certificates: Some(vec!["node.example.com".into()]), ..client("node") },
                ClientSettings {
                    ranges: Some(nets(&["10.20.30.0/24"])),
                    tokens: Some(vec![hash("t-build")]),
                    ..client("build")
                },
                ClientSettings { tokens: Some(vec![hash("t-old")]), ..client("build") },
            ],
            trusted_proxies: nets(&["192.0.2.0/24", "2001:db8::/32"]),
        })
    }

    fn who(evidence: &Evidence<'_>) -> (String, Attribution) {
        let caller = identity().identify(evidence);
        let class = match caller.class {
            Class::Anonymous => "anonymous".to_owned(),
            Class::Client(name) => name.to_string(),
            Class::Unknown => "unknown".to_owned(),
        };
        (class, caller.attribution)
    }

    #[test]
    fn the_longest_range_names_the_client() {
        assert_eq!(who(&from("10.1.1.1")), ("site".into(), Attribution::Address));
        assert_eq!(who(&from("10.20.1.1")), ("floor".into(), Attribution::Address));
        assert_eq!(who(&from("fd00::1")), ("site".into(), Attribution::Address));
        assert_eq!(who(&from("::ffff:10.20.1.1")), ("floor".into(), Attribution::Address));
        assert_eq!(who(&from("203.0.113.1")), ("anonymous".into(), Attribution::None));
    }

    #[test]
    fn a_certificate_goes_before_a_token_before_a_range() {
        let sans: [Arc<str>; 2] = ["spiffe://x/y".into(), "NODE.example.com".into()];
        let token = Evidence { authorization: Some(b"Bearer t-ci"), ..from("10.20.1.1") };
        assert_eq!(who(&token), ("ci".into(), Attribution::Token));
        let both = Evidence { certificate_sans: &sans, ..token };
        assert_eq!(who(&both), ("node".into(), Attribution::Certificate));
        assert_eq!(identity().identify(&both).certificate.as_deref(), Some("NODE.example.com"));
        let other: [Arc<str>; 1] = ["other.example.com".into()];
        let caller = identity().identify(&Evidence { certificate_sans: &other, ..from("203.0.113.1") });
        assert_eq!(caller.class, Class::Anonymous);
        assert_eq!(caller.certificate.as_deref(), Some("other.example.com"), "kept for the record");
    }

    #[test]
    fn every_key_given_must_match() {
        let token = |peer, token| Evidence { authorization: Some(token), ..from(peer) };
        assert_eq!(who(&token("10.20.30.4", b"Bearer t-build")), ("build".into(), Attribution::Token));
        // The token alone, or the range alone, is not enough; a misplaced token is nobody's.
        assert_eq!(who(&token("203.0.113.1", b"Bearer t-build")), ("unknown".into(), Attribution::None));
        assert_eq!(who(&token("10.20.1.1", b"Bearer t-build")), ("unknown".into(), Attribution::None));
        assert_eq!(who(&from("10.20.30.4")), ("floor".into(), Attribution::Address));
    }

    #[test]
    fn several_tables_may_share_a_name() {
        let old = Evidence { authorization: Some(b"Bearer t-old"), ..from("203.0.113.1") };
        assert_eq!(who(&old), ("build".into(), Attribution::Token));
    }

    #[test]
    fn a_table_without_a_key_is_nobody() {
        let identity =
            Identity::new(IdentitySettings { clients: vec![client("x")], trusted_proxies: Vec::new() });
        assert_eq!(identity.identify(&from("10.0.0.1")).class, Class::Anonymous);
    }

    #[test]
    fn a_bearer_token_of_nobody_makes_the_caller_unknown_even_from_a_known_range() {
        for header in ["Bearer wrong", "bearer wrong", "Bearer ", "Bearer", "BEARER\twrong"] {
            let evidence = Evidence { authorization: Some(header.as_bytes()), ..from("10.20.1.1") };
            assert_eq!(who(&evidence), ("unknown".into(), Attribution::None), "{header}");
        }
        let bare = Identity::default();
        let evidence = Evidence { authorization: Some(b"Bearer x"), ..from("10.0.0.1") };
        assert_eq!(bare.identify(&evidence).class, Class::Unknown);
    }

    #[test]
    fn credentials_of_other_schemes_are_passed_over() {
        for header in ["Basic dXNlcjpwYXNz", "Bearerx y", "Digest x", "", "Negotiate"] {
            let evidence = Evidence { authorization: Some(header.as_bytes()), ..from("10.20.1.1") };
            assert_eq!(who(&evidence), ("floor".into(), Attribution::Address), "{header}");
        }
    }

    #[test]
    fn the_peer_that_a_proxy_header_named_is_believed_about_others_only_if_it_is_trusted_itself() {
        let said = |peer, forwarded_for| {
            let proxy = Some("192.0.2.1".parse().unwrap());
            let caller = identity().identify(&Evidence { proxy, forwarded_for, ..from(peer) });
            (caller.address.to_string(), caller.proxy.map(|proxy| proxy.to_string()))
        };
        assert_eq!(said("203.0.113.1", None), ("203.0.113.1".into(), Some("192.0.2.1".into())));
        assert_eq!(said("203.0.113.1", Some("10.20.1.1")), ("203.0.113.1".into(), Some("192.0.2.1".into())));
        assert_eq!(said("192.0.2.9", Some("10.20.1.1")), ("10.20.1.1".into(), Some("192.0.2.9".into())));
        assert_eq!(said("192.0.2.9", Some("garbage")), ("192.0.2.9".into(), Some("192.0.2.1".into())));
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_about_the_address() {
        let said = |peer, forwarded_for| {
            let caller = identity().identify(&Evidence { forwarded_for: Some(forwarded_for), ..from(peer) });
            (caller.address.to_string(), caller.proxy.map(|proxy| proxy.to_string()))
        };
        assert_eq!(said("203.0.113.1", "10.20.1.1"), ("203.0.113.1".into(), None));
        assert_eq!(said("192.0.2.1", "10.20.1.1"), ("10.20.1.1".into(), Some("192.0.2.1".into())));
        // Walked from the right: what stands left of the first stranger is hearsay.
        let chain = "10.0.0.1, 203.0.113.9, 192.0.2.7,192.0.2.8";
        assert_eq!(said("192.0.2.1", chain), ("203.0.113.9".into(), Some("192.0.2.1".into())));
        // All of them proxies: the leftmost is the nearest to a client that is known.
        assert_eq!(said("192.0.2.1", "192.0.2.5, 192.0.2.6"), ("192.0.2.5".into(), Some("192.0.2.1".into())));
        for garbage in ["", "unknown", "10.0.0.1, ", "10.0.0.1, _hidden"] {
            assert_eq!(said("192.0.2.1", garbage), ("192.0.2.1".into(), None), "{garbage}");
        }
        assert_eq!(said("192.0.2.1", "junk, 192.0.2.9").0, "192.0.2.9");
        assert_eq!(said("192.0.2.1", "[fd00::7]:4711").0, "fd00::7");
        assert_eq!(said("::ffff:192.0.2.1", "10.20.1.1:5000").0, "10.20.1.1");
        let long = vec!["192.0.2.9"; 100_000].join(",");
        assert_eq!(said("192.0.2.1", &long).0, "192.0.2.9");
    }

    #[test]
    fn a_long_user_agent_is_cut_at_a_character() {
        let agent = "é".repeat(1000);
        let caller = identity().identify(&Evidence { user_agent: Some(&agent), ..from("10.0.0.1") });
        assert_eq!(caller.user_agent.unwrap().chars().count(), 256);
    }
}
