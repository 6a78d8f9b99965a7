//! Proving who we are: Basic, and Bearer tokens fetched once and shared.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue};
use secrecy::ExposeSecret;
use tokio::time::Instant;
use url::Url;

use super::address::Hosts;
use super::challenge::{Bearer, Challenge};
use super::credentials::{self, Credentials};
use super::health::{Class, Record, retry_after};
use super::settings::Auth;
use super::transport::{Failure, Outgoing, Transport, quote, read_body, read_error};
use crate::clock::Clock;
use crate::oci::{Fault, Registry};

/// A token reply is no longer than this.
const REPLY_MAX: usize = 256 << 10;
/// How long a token lives when the service does not say (distribution-spec's token documentation).
const LIFETIME: i64 = 60;
/// However long it says it lives, it is asked for again after a day.
const LIFETIME_MAX: i64 = 86_400;
/// Repositories whose tokens are kept.
const SLOTS_MAX: usize = 1024;

/// The credentials of one endpoint and the tokens they brought.
pub(super) struct Tokens {
    registry: Registry,
    /// The endpoint, whose credentials these are.
    home: Url,
    auth: Option<Auth>,
    auth_hosts: Hosts,
    clock: Clock,
    record: Arc<Record>,
    /// What the endpoint last asked for: sent unasked from then on.
    known: Mutex<Option<Known>>,
    slots: Mutex<HashMap<String, Arc<Slot>>>,
}

#[derive(Clone)]
enum Known {
    Basic(HeaderValue),
    Bearer(Bearer),
}

/// The token of one repository. The lock is held while it is fetched: the others wait, and share what
/// the fetch brought, be it a token or a failure.
#[derive(Default)]
struct Slot {
    fetches: AtomicU64,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    failure: Option<Failure>,
}

struct Token {
    header: HeaderValue,
    until: Timestamp,
}

impl Tokens {
    pub(super) fn new(
        registry: Registry,
        home: Url,
        auth: Option<Auth>,
        auth_hosts: Hosts,
        clock: Clock,
        record: Arc<Record>,
    ) -> Self {
        let (known, slots) = (Mutex::default(), Mutex::default());
        Self { registry, home, auth, auth_hosts, clock, record, known, slots }
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The `Authorization` to send before the endpoint asks for one: what it asked for last time.
    pub(super) async fn expected(
        &self,
        transport: &Transport,
        repository: &str,
        deadline: Instant,
    ) -> Result<Option<HeaderValue>, Failure> {
        let known = self.known().clone();
        match known {
            None => Ok(None),
            Some(Known::Basic(header)) => Ok(Some(header)),
            Some(Known::Bearer(bearer)) => {
                let token = self.token(transport, &bearer, repository, None, deadline).await;
                if token.is_err() {
                    // The service may have moved: the next request lets the endpoint name it anew.
                    self.known().take();
                }
                token.map(Some)
            }
        }
    }

    /// The `Authorization` that answers a challenge, never the one that was just `refused`.
    pub(super) async fn answer(
        &self,
        transport: &Transport,
        challenge: Challenge,
        repository: &str,
        refused: Option<&HeaderValue>,
        deadline: Instant,
    ) -> Result<HeaderValue, Failure> {
        match challenge {
            Challenge::Basic => {
                let header = self.basic().await?;
                if refused == Some(&header) {
                    self.known().take();
                    return Err(self.denied("it refuses our user name and password; check them"));
                }
                *self.known() = Some(Known::Basic(header.clone()));
                Ok(header)
            }
            Challenge::Bearer(bearer) => {
                let token = self.token(transport, &bearer, repository, refused, deadline).await?;
                // The scope belongs to this request, realm and service to all.
                *self.known() = Some(Known::Bearer(bearer));
                Ok(token)
            }
        }
    }

    fn denied(&self, text: &str) -> Failure {
        Failure::last(Fault::Denied(format!("{}: {text}", self.registry).into()))
    }

    async fn basic(&self) -> Result<HeaderValue, Failure> {
        let credentials = self.credentials().await?;
        let credentials = credentials.ok_or_else(|| {
            self.denied("it asks for a user name and password; give this registry an [[upstream]] with auth")
        })?;
        credentials.basic().ok_or_else(|| {
            self.denied("it asks for a user name and password, which an identity token cannot replace; configure those")
        })
    }

    async fn credentials(&self) -> Result<Option<Credentials>, Failure> {
        let Some(auth) = &self.auth else { return Ok(None) };
        let (host, port) = (self.home.host_str().unwrap_or_default(), self.home.port());
        let endpoint = port.map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        credentials::load(auth, &self.registry, &endpoint).await.map(Some).map_err(Failure::last)
    }

    async fn token(
        &self,
        transport: &Transport,
        bearer: &Bearer,
        repository: &str,
        refused: Option<&HeaderValue>,
        deadline: Instant,
    ) -> Result<HeaderValue, Failure> {
        let slot = self.slot(repository);
        let before = slot.fetches.load(Ordering::SeqCst);
        let mut state = slot.state.lock().await;
        if let Some(token) = &state.token
            && self.clock.now() < token.until
            && refused != Some(&token.header)
        {
            return Ok(token.header.clone());
        }
        if slot.fetches.load(Ordering::SeqCst) != before
            && let Some(failure) = &state.failure
        {
            return Err(failure.clone());
        }
        let fetched = self.fetch(transport, bearer, repository, deadline).await;
        slot.fetches.fetch_add(1, Ordering::SeqCst);
        match fetched {
            Ok(token) => {
                let header = token.header.clone();
                *state = State { token: Some(token), failure: None };
                Ok(header)
            }
            Err(failure) => {
                *state = State { token: None, failure: Some(failure.clone()) };
                Err(failure)
            }
        }
    }

    fn slot(&self, repository: &str) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(slot) = slots.get(repository) {
            return Arc::clone(slot);
        }
        if slots.len() >= SLOTS_MAX {
            let now = self.clock.now();
            let alive = |slot: &Arc<Slot>| {
                slot.state
                    .try_lock()
                    .map_or(true, |state| state.token.as_ref().is_some_and(|token| now < token.until))
            };
            slots.retain(|_, slot| alive(slot));
            if slots.len() >= SLOTS_MAX {
                slots.clear();
            }
        }
        Arc::clone(slots.entry(repository.to_owned()).or_default())
    }

    async fn fetch(
        &self,
        transport: &Transport,
        bearer: &Bearer,
        repository: &str,
        deadline: Instant,
    ) -> Result<Token, Failure> {
        let realm = self.realm(bearer)?;
        let host = realm.host_str().unwrap_or_default().to_owned();
        self.record.admit(Class::Token, &host).map_err(Failure::last)?;
        let outgoing = self.outgoing(realm, bearer, repository).await?;
        let reply = transport.send(outgoing, deadline).await?;
        let status = reply.response.status();
        if !status.is_success() {
            let now = self.clock.now();
            let until = retry_after(reply.response.headers(), now);
            let said = read_error(reply).await;
            let text = format!("the token service {host} answered {status} for {repository}: {said}");
            return Err(match status.as_u16() {
                429 => {
                    self.record.throttled(Class::Token, until);
                    Failure::last(Fault::Throttled { until, detail: text.into() })
                }
                408 | 500..=599 => Failure::passing(Fault::Unreachable(text.into())),
                _ => {
                    let hint = "; the repository may not exist, or need (other) credentials";
                    Failure::last(Fault::Denied(format!("{text}{hint}").into()))
                }
            });
        }
        let body = read_body(reply, REPLY_MAX, deadline).await?;
        self.read(&body, &host)
    }

    /// The realm comes from the upstream and is judged before anything is sent to it.
    fn realm(&self, bearer: &Bearer) -> Result<Url, Failure> {
        let shown = quote(&bearer.realm);
        let realm = Url::parse(&bearer.realm).ok().filter(|realm| {
            realm.scheme() == "https" && realm.username().is_empty() && realm.password().is_none()
        });
        let realm = realm.ok_or_else(|| {
            self.denied(&format!(
                "its token realm {shown:?} is no https address; tokens are fetched over https only"
            ))
        })?;
        let host = realm.host_str().unwrap_or_default();
        if self.auth.is_some() && !self.trusts(host) {
            return Err(self.denied(&format!(
                "it wants our credentials sent to {host}, which is not of its own domain; if that is right, add {host} to auth_hosts of this [[upstream]]"
            )));
        }
        Ok(realm)
    }

    fn trusts(&self, host: &str) -> bool {
        let home = self.home.host_str().unwrap_or_default();
        host == home
            || self.auth_hosts.contains(host)
            || registrable(host).is_some_and(|domain| Some(domain) == registrable(home))
    }

    async fn outgoing(&self, mut realm: Url, bearer: &Bearer, repository: &str) -> Result<Outgoing, Failure> {
        let own = format!("repository:{repository}:pull");
        // A registry may want a scope that is no repository's (ECR Public: `aws`); never another's.
        let others = bearer.scope.iter().flat_map(|text| text.split(' '));
        let others = others.filter(|scope| !scope.is_empty() && !scope.starts_with("repository:"));
        let scopes: Vec<&str> = std::iter::once(own.as_str()).chain(others.take(4)).collect();
        let credentials = self.credentials().await?;
        if let Some(Credentials::IdentityToken(token)) = &credentials {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token");
            form.append_pair("client_id", "pullgate");
            form.append_pair("service", bearer.service.as_deref().unwrap_or_default());
            form.append_pair("scope", &scopes.join(" "));
            form.append_pair("refresh_token", token.expose_secret());
            return Ok(Outgoing {
                method: Method::POST,
                url: realm,
                headers: HeaderMap::new(),
                authorization: None,
                form: Some(form.finish()),
            });
        }
        {
            let mut query = realm.query_pairs_mut();
            if let Some(service) = &bearer.service {
                query.append_pair("service", service);
            }
            for scope in scopes {
                query.append_pair("scope", scope);
            }
            if let Some(Credentials::Basic { username, .. }) = &credentials {
                query.append_pair("account", username);
            }
        }
        let authorization = match &credentials {
            Some(credentials) => Some(credentials.basic().ok_or_else(|| {
                self.denied(
                    "the user name or password cannot be sent as a header; check them for odd characters",
                )
            })?),
            None => None,
        };
        Ok(Outgoing { method: Method::GET, url: realm, headers: HeaderMap::new(), authorization, form: None })
    }

    fn read(&self, body: &[u8], host: &str) -> Result<Token, Failure> {
        #[derive(serde::Deserialize)]
        struct Reply {
            #[serde(default)]
            token: Option<String>,
            #[serde(default)]
            access_token: Option<String>,
            #[serde(default)]
            expires_in: Option<f64>,
        }
        let invalid = |what: &str| {
            Failure::last(Fault::Invalid(format!("the token service {host} sent {what}").into()))
        };
        let reply: Reply = serde_json::from_slice(body).map_err(|_| invalid("no readable token reply"))?;
        let text = reply.token.filter(|text| !text.is_empty()).or(reply.access_token);
        let text = text.filter(|text| !text.is_empty()).ok_or_else(|| invalid("a reply without a token"))?;
        let mut header = HeaderValue::try_from(format!("Bearer {text}"))
            .map_err(|_| invalid("a token that no header can carry"))?;
        header.set_sensitive(true);
        #[expect(clippy::cast_possible_truncation, reason = "a float becomes the nearest integer in range")]
        let lifetime = reply.expires_in.map_or(LIFETIME, |seconds| seconds as i64);
        let lifetime = if lifetime < 1 { LIFETIME } else { lifetime.min(LIFETIME_MAX) };
        // Asked for anew a bit early, so that none expires on its way.
        let early = (lifetime / 5).min(10);
        let until =
            self.clock.now() + Duration::from_secs(u64::try_from(lifetime - early).unwrap_or_default());
        Ok(Token { header, until })
    }
}

/// The domain somebody registered (`docker.io` of `auth.docker.io`), by the public suffix list; an
/// address, or a name without dots, has none.
fn registrable(host: &str) -> Option<&str> {
    let is_name = matches!(url::Host::parse(host), Ok(url::Host::Domain(_)));
    if is_name { psl::domain_str(host) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_below_one_registered_domain_belong_together() {
        assert_eq!(registrable("auth.docker.io"), Some("docker.io"));
        assert_eq!(registrable("registry-1.docker.io"), Some("docker.io"));
        assert_eq!(registrable("a.b.example.co.uk"), Some("example.co.uk"));
        for host in ["10.0.0.1", "[::1]", "localhost", "co.uk", "github.io"] {
            assert_eq!(registrable(host), None, "{host}");
        }
        assert_ne!(registrable("a.github.io"), registrable("b.github.io"));
    }
}
