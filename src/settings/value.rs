//! The values people write: durations, sizes, rates, ranges.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use serde::de::{self, Deserialize, Deserializer, Visitor};
use url::Url;

use crate::oci::Registry;

/// How long something is good for: `"15m"`, `"72h"`, or `"forever"`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lifetime {
    /// It does not go stale.
    Forever,
    /// It goes stale after this long; zero is at once.
    Limited(Duration),
}

/// So many in a period: `"60/min"`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// How many; at least one.
    pub count: u32,
    /// In which period.
    pub per: Duration,
}

const UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

/// Reads `"90s"`, `"15m"`, `"72h"`, `"45d"`, `"2w"`, and sums of these such as `"1h30m"`.
/// The error says what is expected.
pub fn duration(text: &str) -> Result<Duration, String> {
    let malformed = || {
        format!("{text:?} is no duration; expected a whole number and ms, s, m, h, d or w, such as \"15m\"")
    };
    let mut rest = text;
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at_checked(digits).ok_or_else(malformed)?;
        let letters = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at_checked(letters).ok_or_else(malformed)?;
        let (_, scale) = UNITS.iter().find(|(word, _)| *word == unit).ok_or_else(malformed)?;
        let number: u64 = number.parse().map_err(|_| malformed())?;
        let part = number.checked_mul(*scale).ok_or_else(malformed)?;
        millis = millis.checked_add(part).ok_or_else(malformed)?;
        rest = after;
    }
    // A century is more than anyone means, and keeps sums with a timestamp in range.
    match millis {
        _ if text.is_empty() => Err(malformed()),
        0..=3_155_760_000_000 => Ok(Duration::from_millis(millis)),
        _ => Err(format!("{text:?} is more than a century")),
    }
}

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "forever" => Ok(Self::Forever),
            text => duration(text).map(Self::Limited).map_err(|error| format!("{error} or \"forever\"")),
        }
    }
}

impl FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let malformed =
            || format!("{text:?} is no rate; expected a number per s, min or h, such as \"60/min\"");
        let (count, unit) = text.split_once('/').ok_or_else(malformed)?;
        let count = count.trim().parse().ok().filter(|count| *count > 0).ok_or_else(malformed)?;
        let seconds = match unit.trim() {
            "s" | "sec" | "second" => 1,
            "m" | "min" | "minute" => 60,
            "h" | "hour" => 3600,
            _ => return Err(malformed()),
        };
        Ok(Self { count, per: Duration::from_secs(seconds) })
    }
}

/// Reads a text through a function whose error says what is expected.
fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    struct Text<F>(&'static str, F);
    impl<T, F: FnOnce(&str) -> Result<T, String>> Visitor<'_> for Text<F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text).map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Text(expected, read))
}

impl<'de> Deserialize<'de> for Lifetime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a duration such as \"15m\", or \"forever\"", str::parse)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a rate such as \"60/min\"", str::parse)
    }
}

/// `deserialize_with`: a duration above zero.
pub(super) fn timeout<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    text(deserializer, "a duration such as \"15s\"", |text| match duration(text)? {
        Duration::ZERO => Err("a time limit of zero lets nothing happen; give at least \"1ms\"".to_owned()),
        limit => Ok(limit),
    })
}

/// `deserialize_with`: `address:port`.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    text(deserializer, "an address such as \"0.0.0.0:8443\"", |text| {
        text.parse().map_err(|_| {
            format!("{text:?} is no listening address; expected an IP address and a port, such as \"0.0.0.0:8443\" or \"[::]:8443\"")
        })
    })
}

/// `deserialize_with`: a path, relative ones to the working directory.
pub(super) fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    text(deserializer, "a path", |text| match text {
        "" => Err("an empty path names no file".to_owned()),
        text => Ok(PathBuf::from(text)),
    })
}

/// `deserialize_with`: a path, as an optional key.
pub(super) fn some_path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    path(deserializer).map(Some)
}

/// `deserialize_with`: a registry in its normal form.
pub(super) fn registry<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Registry, D::Error> {
    text(deserializer, "a registry such as \"docker.io\"", |text| {
        text.parse().map_err(|error: crate::oci::NameError| error.to_string())
    })
}

/// Reads `"50GiB"`, `"500MB"`, `"1024"`. The error says what is expected.
pub fn bytes(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| format!("{text:?} is no size; expected a number with a unit, such as \"1GiB\""))
}

/// `deserialize_with`: a number of bytes, `"50GiB"` or a bare number.
pub(super) fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Size;
    impl Visitor<'_> for Size {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size such as \"50GiB\"")
        }

        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<u64, E> {
            u64::try_from(bytes).map_err(|_| E::custom("a size cannot be negative"))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            text.parse::<bytesize::ByteSize>().map(|size| size.as_u64()).map_err(|_| {
                E::custom(format_args!(
                    "{text:?} is no size; expected a number and B, KiB, MiB, GiB or TiB, such as \"50GiB\""
                ))
            })
        }
    }
    deserializer.deserialize_any(Size)
}

/// `deserialize_with`: the same, as an optional key.
pub(super) fn some_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    size(deserializer).map(Some)
}

/// `deserialize_with`: `https` only; there is no insecure switch.
pub(super) fn endpoint<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    text(deserializer, "an address such as \"https://registry.example.com\"", |text| {
        let url = Url::parse(text)
            .map_err(|error| format!("malformed endpoint ({error}); expected https://host[:port]"))?;
        if url.scheme() != "https" {
            return Err(
                "an endpoint is https:// only; there is no insecure switch: for a private CA give `ca`"
                    .to_owned(),
            );
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials do not belong into an endpoint; use `auth`".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("an endpoint has no query and no fragment; expected https://host[:port]".to_owned());
        }
        Ok(Some(url))
    })
}

/// An address range; a bare address is a range of one.
struct Range(IpNet);

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "an address range such as \"10.20.0.0/16\"", |text| {
            text.parse::<IpNet>()
                .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
                .map(|net| Self(net.trunc()))
                .map_err(|_| {
                    format!("{text:?} is no address range; expected an IP address, with /bits for a range")
                })
        })
    }
}

/// `deserialize_with`: address ranges.
pub(super) fn ranges<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    Ok(Vec::<Range>::deserialize(deserializer)?.into_iter().map(|range| range.0).collect())
}

/// `deserialize_with`: address ranges, as an optional key.
pub(super) fn some_ranges<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<IpNet>>, D::Error> {
    ranges(deserializer).map(Some)
}

/// Whether this is a plain DNS name, lower-case or not.
pub(super) fn is_dns_name(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        })
}

struct Host(String);

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a host name or an IP address", |text| {
            if text.parse::<IpAddr>().is_ok() || is_dns_name(text) {
                Ok(Self(text.to_ascii_lowercase()))
            } else {
                Err(format!("{text:?} is neither a host name nor an IP address (no port, no scheme)"))
            }
        })
    }
}

/// `deserialize_with`: host names or addresses, lower-case.
pub(super) fn hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Host>::deserialize(deserializer)?.into_iter().map(|host| host.0).collect())
}

struct Pattern(String);

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a host such as \"auth.docker.io\" or \"*.example.com\"", |text| {
            let host = text.strip_prefix("*.").unwrap_or(text);
            let (name, port) = match host.rsplit_once(':') {
                Some((name, port)) if !name.contains(':') => (name, Some(port)),
                _ => (host, None),
            };
            let port_ok = port.is_none_or(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
            let wild = host.len() < text.len();
            // `*.com` would be everyone's: a wildcard needs two labels below it.
            if wild && (!name.contains('.') || name.parse::<IpAddr>().is_ok()) {
                return Err(format!(
                    "{text:?} is too wide; a wildcard stands before a whole domain: \"*.example.com\""
                ));
            }
            if port_ok && (is_dns_name(name) || name.parse::<IpAddr>().is_ok()) {
                Ok(Self(text.to_ascii_lowercase()))
            } else {
                Err(format!(
                    "{text:?} is no host; expected \"auth.example.com\", with :port where it is not 443, or \"*.example.com\""
                ))
            }
        })
    }
}

/// `deserialize_with`: `host[:port]`, `*.domain`, lower-case.
pub(super) fn patterns<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    Ok(Vec::<Pattern>::deserialize(deserializer)?.into_iter().map(|pattern| pattern.0).collect())
}

/// `deserialize_with`: the same, as an optional key.
pub(super) fn some_patterns<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<String>>, D::Error> {
    patterns(deserializer).map(Some)
}

struct Sha256([u8; 32]);

impl<'de> Deserialize<'de> for Sha256 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "the sha256 of a token, 64 hex digits", |text| {
            let mut hash = [0; 32];
            let malformed = || {
                "token_sha256 holds sha256 hashes, 64 hex digits each: printf %s \"$TOKEN\" | sha256sum"
                    .to_owned()
            };
            if text.len() != 64 {
                return Err(malformed());
            }
            for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                let pair = std::str::from_utf8(pair).map_err(|_| malformed())?;
                if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                    return Err(malformed());
                }
                *byte = u8::from_str_radix(pair, 16).map_err(|_| malformed())?;
            }
            Ok(Self(hash))
        })
    }
}

/// `deserialize_with`: sha256 hashes of tokens, as an optional key.
pub(super) fn some_hashes<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<[u8; 32]>>, D::Error> {
    Ok(Some(Vec::<Sha256>::deserialize(deserializer)?.into_iter().map(|hash| hash.0).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_whole_numbers_with_units_and_add_up() {
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("45d"), Ok(Duration::from_secs(45 * 86_400)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        for text in
            ["", "15", "m", "1.5h", "-1s", "1 h", "15min", "99999999999999999999s", "200000000w", "١s"]
        {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn forever_is_a_lifetime_and_not_a_duration() {
        assert_eq!("forever".parse(), Ok(Lifetime::Forever));
        assert_eq!("0s".parse(), Ok(Lifetime::Limited(Duration::ZERO)));
        assert!(duration("forever").is_err());
    }

    #[test]
    fn a_rate_needs_a_count_above_zero_and_a_known_period() {
        assert_eq!("60/min".parse(), Ok(Rate { count: 60, per: Duration::from_secs(60) }));
        assert_eq!("5/s".parse::<Rate>().unwrap().per, Duration::from_secs(1));
        for text in ["60", "0/min", "60/day", "x/min", "/min", "60/"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
    }
}
