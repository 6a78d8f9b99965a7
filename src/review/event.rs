//! What the projection reads of an event. Whatever it does not know it does not look at.

use jiff::Timestamp;
use serde::Deserialize;

/// An event, as far as it is counted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Body {
    pub(super) id: String,
    time: Option<Timestamp>,
    pub(super) of: Option<String>,
    pub(super) count: Option<u64>,
    pub(super) first: Option<Timestamp>,
    last: Option<Timestamp>,
    pub(super) verdict: Option<String>,
    pub(super) reason: Option<Reason>,
    pub(super) reasons: Vec<Reason>,
    pub(super) policy: Option<Policy>,
    pub(super) image: Option<Image>,
    pub(super) client: Option<Client>,
    pub(super) bytes: u64,
    pub(super) cache: Option<String>,
    pub(super) sample: Vec<String>,
    pub(super) action: Option<String>,
    pub(super) actor: Option<Actor>,
    pub(super) subject: Option<Subject>,
    pub(super) note: Option<String>,
    pub(super) upstream: Option<Upstream>,
    pub(super) exception: Option<Exception>,
    pub(super) recall: Option<Recall>,
    pub(super) alert: Option<Alert>,
}

impl Body {
    /// When it was written.
    pub(super) fn time(&self) -> i64 {
        self.time.unwrap_or_default().as_millisecond()
    }

    /// When what it tells of began.
    pub(super) fn first(&self) -> i64 {
        self.first.map_or_else(|| self.time(), Timestamp::as_millisecond)
    }

    /// When what it tells of happened last.
    pub(super) fn last(&self) -> i64 {
        self.last.map_or_else(|| self.time(), Timestamp::as_millisecond)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Reason {
    pub(super) code: String,
    pub(super) text: String,
    pub(super) remedy: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Policy {
    pub(super) source: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Image {
    pub(super) reference: String,
    pub(super) registry: Option<String>,
    pub(super) repository: Option<String>,
    pub(super) tag: Option<String>,
    pub(super) digest: Option<String>,
    pub(super) digest_requested: Option<String>,
    pub(super) previous_digest: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Client {
    pub(super) name: Option<String>,
    pub(super) address: Option<String>,
    pub(super) runtime: Option<String>,
    pub(super) attribution: Option<String>,
}

impl Client {
    /// By what it is told apart: the name that a certificate or a token proves, or where it asks from;
    /// whoever has an IPv6 network takes addresses as they like.
    pub(super) fn who(&self) -> String {
        let proven = match self.attribution.as_deref() {
            Some("certificate" | "token") => true,
            Some(_) => false,
            // A flood tells the address only of those who proved nothing.
            None => self.address.is_none(),
        };
        match (&self.name, &self.address) {
            (Some(name), _) if proven => name.clone(),
            (_, Some(address)) => network(address),
            (Some(name), None) => name.clone(),
            (None, None) => super::rows::OTHERS.to_owned(),
        }
    }
}

/// An IPv6 address as its network of 64 bits; anything else as it is.
pub(super) fn network(address: &str) -> String {
    match address.parse::<std::net::Ipv6Addr>() {
        Ok(v6) if v6.to_ipv4_mapped().is_none() => {
            let network = std::net::Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX));
            format!("{network}/64")
        }
        _ => address.to_owned(),
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Actor {
    pub(super) name: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Subject {
    pub(super) reference: String,
    pub(super) reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Upstream {
    pub(super) registry: String,
    pub(super) state: String,
    pub(super) text: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Exception {
    pub(super) id: String,
    pub(super) result: String,
    pub(super) waive: Vec<String>,
    pub(super) expires: Option<String>,
    pub(super) needed: Option<bool>,
    pub(super) of: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Recall {
    pub(super) id: String,
    pub(super) result: String,
    pub(super) reason: String,
    pub(super) names: Vec<String>,
    pub(super) replace: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Alert {
    pub(super) rule: String,
    pub(super) text: String,
    pub(super) count: u64,
    pub(super) of: Option<String>,
}
