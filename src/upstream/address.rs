//! Addresses: which of them an upstream may send us to.
//!
//! A registry answers with redirects and token realms of its own choosing. Without this guard a hostile
//! one could have the gateway call the machines that only the gateway can reach. Names are judged by the
//! addresses that are then connected to, so no second resolution can slip in between.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

type Found = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Turns host names into addresses, and counts how often it was asked. Clones share the count.
#[derive(Clone)]
pub struct Resolver {
    lookup: Arc<dyn Fn(String) -> Found + Send + Sync>,
    queries: Arc<AtomicU64>,
}

impl Resolver {
    /// The system's resolver.
    pub fn system() -> Self {
        Self::new(|host| async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }

    /// A resolver of one's own: given a host name, its addresses.
    pub fn new<F, T>(lookup: F) -> Self
    where
        F: Fn(String) -> T + Send + Sync + 'static,
        T: Future<Output = io::Result<Vec<IpAddr>>> + Send + 'static,
    {
        Self { lookup: Arc::new(move |host| Box::pin(lookup(host))), queries: Arc::default() }
    }

    /// How many names were asked for since it was made.
    pub fn queries(&self) -> u64 {
        self.queries.load(Ordering::Relaxed)
    }

    fn find(&self, host: String) -> Found {
        self.queries.fetch_add(1, Ordering::Relaxed);
        (self.lookup)(host)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").field("queries", &self.queries()).finish_non_exhaustive()
    }
}

/// Hosts, exact or by `*.suffix`; lower-case.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts(Vec<String>);

impl Hosts {
    /// Reads them; the first that is no host comes back as the error.
    pub(super) fn parse(texts: &[String]) -> Result<Self, String> {
        let parsed = texts.iter().map(|text| {
            let lower = text.trim_end_matches('.').to_ascii_lowercase();
            let bare = lower.strip_prefix("*.").unwrap_or(&lower);
            let sound =
                url::Host::parse(bare).is_ok_and(|host| host.to_string() == bare) && !bare.contains('*');
            if sound { Ok(lower) } else { Err(text.clone()) }
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn contains(&self, host: &str) -> bool {
        self.0.iter().any(|entry| match entry.strip_prefix('*') {
            Some(suffix) => host.len() > suffix.len() && host.ends_with(suffix),
            None => entry == host,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn push(&mut self, host: &str) {
        self.0.push(host.to_ascii_lowercase());
    }
}

/// Lets connections through to public addresses, and to any address of a declared host.
#[derive(Clone)]
pub(super) struct Guard {
    declared: Arc<Hosts>,
    /// The operator's proxies: connected to wherever they are, and never a target.
    proxies: Arc<Hosts>,
    resolver: Resolver,
}

impl Guard {
    pub(super) fn new(declared: Hosts, proxies: Hosts, resolver: Resolver) -> Self {
        Self { declared: Arc::new(declared), proxies: Arc::new(proxies), resolver }
    }

    /// What can be said of a target before it is connected to; of a target written as an address,
    /// which is never resolved, that is all.
    pub(super) fn check(&self, host: &url::Host<&str>) -> Result<(), Private> {
        let address = match host {
            url::Host::Domain(name) if self.proxies.contains(name) && !self.declared.contains(name) => {
                return Err(Private { host: (*name).to_owned() });
            }
            url::Host::Domain(_) => return Ok(()),
            url::Host::Ipv4(address) => IpAddr::V4(*address),
            url::Host::Ipv6(address) => IpAddr::V6(*address),
        };
        if is_public(address) || self.declared.contains(&host.to_string()) {
            Ok(())
        } else {
            Err(Private { host: host.to_string() })
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let host = name.as_str().to_ascii_lowercase();
        let declared = self.declared.contains(&host) || self.proxies.contains(&host);
        let found = self.resolver.find(host.clone());
        Box::pin(async move {
            let found = found.await?;
            if found.is_empty() {
                return Err(format!("{host} has no address").into());
            }
            let mut allowed: Vec<IpAddr> = found;
            allowed.retain(|address| declared || is_public(*address));
            if allowed.is_empty() {
                return Err(Box::new(Private { host }) as Box<dyn StdError + Send + Sync>);
            }
            Ok(Box::new(allowed.into_iter().map(|address| SocketAddr::new(address, 0))) as Addrs)
        })
    }
}

/// A target that was not declared and has no public address.
#[derive(Clone, Debug)]
pub(super) struct Private {
    pub(super) host: String,
}

impl fmt::Display for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} has no public address and is not declared", self.host)
    }
}

impl StdError for Private {}

/// Whether the address is one of the public internet: none that leads to this machine, its network or
/// nowhere, also when an IPv4 address is wrapped in an IPv6 one.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// The special-purpose blocks of IANA's registry (RFC 6890 and successors) are not public.
fn is_public_v4(address: Ipv4Addr) -> bool {
    const SPECIAL: [(Ipv4Addr, u32); 16] = [
        (Ipv4Addr::new(0, 0, 0, 0), 8),
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
        (Ipv4Addr::new(127, 0, 0, 0), 8),
        (Ipv4Addr::new(169, 254, 0, 0), 16),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 0, 0, 0), 24),
        (Ipv4Addr::new(192, 0, 2, 0), 24),
        (Ipv4Addr::new(192, 88, 99, 0), 24),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(198, 18, 0, 0), 15),
        (Ipv4Addr::new(198, 51, 100, 0), 24),
        (Ipv4Addr::new(203, 0, 113, 0), 24),
        (Ipv4Addr::new(224, 0, 0, 0), 4),
        (Ipv4Addr::new(240, 0, 0, 0), 4),
        (Ipv4Addr::new(168, 63, 129, 16), 32),
    ];
    let bits = address.to_bits();
    !SPECIAL.iter().any(|(net, prefix)| (bits ^ net.to_bits()) >> (32 - prefix) == 0)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match parts {
        // ::ffff:a.b.c.d, and the well-known NAT64 prefix: what counts is the address inside.
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            is_public_v4(v4(high, low))
        }
        // 6to4 carries its IPv4 address behind the prefix.
        [0x2002, high, low, ..] => is_public_v4(v4(high, low)),
        // Protocol assignments (Teredo, ORCHID, benchmarking) and documentation.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // Only 2000::/3 is global unicast; the rest is local, link-local, multicast or unassigned.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_that_leads_inside_is_public() {
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.168.0.1",
            "198.19.0.1",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn addresses_of_the_internet_are_public_also_through_nat64() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.255.255",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:4860::8888",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn a_suffix_covers_what_is_below_it_and_nothing_that_only_ends_alike() {
        let texts = ["*.Example.com".to_owned(), "auth.test".to_owned(), "10.0.0.1".to_owned()];
        let hosts = Hosts::parse(&texts).unwrap();
        for host in ["a.example.com", "a.b.example.com", "auth.test", "10.0.0.1"] {
            assert!(hosts.contains(host), "{host}");
        }
        for host in
            ["example.com", "evilexample.com", "x.auth.test", "auth.test.evil", ".example.com", "10.0.0.2"]
        {
            assert!(!hosts.contains(host), "{host}");
        }
    }

    #[tokio::test]
    async fn a_proxy_may_be_private_and_is_still_no_target() {
        let resolver = Resolver::new(|_| async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) });
        let mut proxies = Hosts::default();
        proxies.push("Proxy.test");
        let guard = Guard::new(Hosts::default(), proxies, resolver);
        assert!(guard.resolve("proxy.test".parse().unwrap()).await.is_ok());
        assert!(guard.resolve("other.test".parse().unwrap()).await.is_err());
        assert!(guard.check(&url::Host::Domain("proxy.test")).is_err());
        assert!(guard.check(&url::Host::Domain("other.test")).is_ok());
    }

    #[tokio::test]
    async fn of_several_addresses_only_the_public_ones_are_connected_to() {
        let both = ["10.0.0.1", "8.8.8.8"].map(|text| text.parse::<IpAddr>().unwrap());
        let resolver = Resolver::new(move |_| async move { Ok(both.to_vec()) });
        let mut declared = Hosts::default();
        declared.push("declared.test");
        let guard = Guard::new(declared, Hosts::default(), resolver.clone());
        for (host, count) in [("declared.test", 2), ("other.test", 1)] {
            let Ok(found) = guard.resolve(host.parse().unwrap()).await else { panic!("{host}") };
            assert_eq!(found.count(), count, "{host}");
        }
        assert_eq!(resolver.queries(), 2);
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in ["", "*", "*.", "https://x", "x/y", "x:443", "a*b", "*.*.x", "x y", "0x7f.1"] {
            assert_eq!(Hosts::parse(&[text.to_owned()]).err().as_deref(), Some(text));
        }
    }
}
