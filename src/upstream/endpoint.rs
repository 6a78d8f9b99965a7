//! A registry over HTTPS: one request with its authentication, retries and verdict.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::Instant;
use url::Url;

use super::address::{Guard, Hosts, Resolver};
use super::challenge;
use super::health::{Class, Health, Record, retry_after};
use super::settings::{Auth, Ca, EndpointSettings, Error};
use super::tokens::Tokens;
use super::transport::{self, Failure, Outgoing, Reply, Transport, read_error};
use crate::clock::Clock;
use crate::oci::{Fault, Name, Registry};

/// From the first byte sent to the header of the answer, tokens, retries and pauses included: clients
/// are owed an answer within 25 s.
const CALL_TIMEOUT: Duration = Duration::from_secs(22);
/// A body that is read whole has so long.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(60);
const RETRIES: u32 = 2;
const BACKOFF: Duration = Duration::from_millis(100);
/// A `Retry-After` up to this is waited for; a longer one goes to the client.
const PATIENCE: Duration = Duration::from_secs(5);

/// One endpoint of a registry.
pub(super) struct Endpoint {
    registry: Registry,
    /// Ends before `/v2`'s repository: `https://host/v2/` or `https://host/v2/prefix/`.
    base: Url,
    /// What the base adds in front of a repository in token scopes: empty, or `prefix/`.
    prefix: String,
    declared: bool,
    transport: Transport,
    tokens: Tokens,
    pub(super) record: Arc<Record>,
    clock: Clock,
}

/// What all endpoints are built from.
pub(super) struct Parts<'a> {
    pub(super) roots: &'a rustls::RootCertStore,
    pub(super) resolver: &'a Resolver,
    pub(super) proxied: bool,
    pub(super) clock: &'a Clock,
}

/// What is asked of an endpoint.
pub(super) struct Call {
    pub(super) class: Class,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// What it is about, for messages.
    pub(super) what: String,
    /// As token scopes name it.
    pub(super) repository: String,
    /// Statuses that are answers to this call although they are no success.
    pub(super) also: &'static [u16],
}

impl Endpoint {
    /// An endpoint that stands in the settings: its hosts may have private addresses.
    pub(super) fn declared(
        registry: &Registry,
        settings: &EndpointSettings,
        parts: &Parts<'_>,
    ) -> Result<Self, Error> {
        let wrong_host = |host: String| Error::Host { registry: registry.clone(), host };
        let blob_hosts = Hosts::parse(&settings.blob_hosts).map_err(wrong_host)?;
        let auth_hosts = Hosts::parse(&settings.auth_hosts).map_err(wrong_host)?;
        if let Some(Auth::Basic { username, .. }) = &settings.auth
            && username.contains(':')
        {
            return Err(Error::Username { registry: registry.clone() });
        }
        let mut all = Vec::new();
        all.extend(settings.blob_hosts.iter().chain(&settings.auth_hosts).cloned());
        let mut declared = Hosts::parse(&all).map_err(wrong_host)?;
        declared.push(settings.url.host_str().unwrap_or_default());
        Self::build(registry, settings, declared, auth_hosts, blob_hosts, true, parts)
    }

    /// An endpoint nobody declared: everything it involves must be public.
    pub(super) fn undeclared(registry: &Registry, url: Url, parts: &Parts<'_>) -> Result<Self, Error> {
        let none = Hosts::default;
        Self::build(registry, &EndpointSettings::new(url), none(), none(), none(), false, parts)
    }

    fn build(
        registry: &Registry,
        settings: &EndpointSettings,
        declared_hosts: Hosts,
        auth_hosts: Hosts,
        blob_hosts: Hosts,
        declared: bool,
        parts: &Parts<'_>,
    ) -> Result<Self, Error> {
        let (base, prefix) = base(registry, &settings.url)?;
        let mut roots = parts.roots.clone();
        if let Some(ca) = &settings.ca {
            add_ca(registry, ca, &mut roots)?;
        }
        let mut proxies = Hosts::default();
        if parts.proxied {
            proxy_hosts().iter().for_each(|host| proxies.push(host));
        }
        let guard = Guard::new(declared_hosts, proxies, parts.resolver.clone());
        let client = transport::client(Arc::new(roots), guard.clone(), parts.proxied)?;
        let record = Arc::new(Record::new(parts.clock.clone()));
        let host = base.host_str().unwrap_or_default().to_owned();
        let transport = Transport::new(client, guard, host, blob_hosts, Arc::clone(&record));
        let auth = settings.auth.clone();
        let tokens = Tokens::new(
            registry.clone(),
            base.clone(),
            auth,
            auth_hosts,
            parts.clock.clone(),
            Arc::clone(&record),
        );
        let clock = parts.clock.clone();
        Ok(Self { registry: registry.clone(), base, prefix, declared, transport, tokens, record, clock })
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The repository as this endpoint's token scopes name it.
    pub(super) fn scope(&self, name: &Name) -> String {
        format!("{}{}", self.prefix, name.repository())
    }

    /// `/v2/<repository>/<rest>` here.
    pub(super) fn url(&self, name: &Name, rest: &str) -> Url {
        let mut url = self.base.clone();
        url.set_path(&format!("{}{}/{rest}", self.base.path(), name.repository()));
        url
    }

    pub(super) fn health(&self) -> Health {
        let host = self.base.host_str().unwrap_or_default();
        let endpoint = self.base.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        self.record.report(&self.registry, endpoint, self.declared)
    }

    /// Sends it, again where that may help, and judges the answer. The body is still on the way.
    pub(super) async fn call(&self, call: &Call) -> Result<Reply, Fault> {
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut retries = 0;
        let outcome = loop {
            let failure = match self.attempt(call, deadline).await {
                Ok(reply) => break Ok(reply),
                Err(failure) => failure,
            };
            let pause = failure.pause.unwrap_or_else(|| backoff(retries));
            if !failure.retry || retries == RETRIES || Instant::now() + pause >= deadline {
                break Err(failure.fault);
            }
            tracing::debug!(registry = %self.registry, what = %call.what, fault = %failure.fault, "asking again");
            retries += 1;
            tokio::time::sleep(pause).await;
        };
        self.record.outcome(&outcome);
        outcome
    }

    async fn attempt(&self, call: &Call, deadline: Instant) -> Result<Reply, Failure> {
        let host = self.base.host_str().unwrap_or_default();
        self.record.admit(call.class, host).map_err(Failure::last)?;
        let authorization = self.tokens.expected(&self.transport, &call.repository, deadline).await?;
        let reply = self.transport.send(call.outgoing(authorization.clone()), deadline).await?;
        if reply.response.status() != StatusCode::UNAUTHORIZED || !reply.at_origin {
            return self.judge(call, reply).await;
        }
        let Some(challenge) = challenge::read(reply.response.headers()) else {
            return self.judge(call, reply).await;
        };
        let refused = authorization.as_ref();
        let answer =
            self.tokens.answer(&self.transport, challenge, &call.repository, refused, deadline).await?;
        let reply = self.transport.send(call.outgoing(Some(answer)), deadline).await?;
        self.judge(call, reply).await
    }

    async fn judge(&self, call: &Call, reply: Reply) -> Result<Reply, Failure> {
        let status = reply.response.status();
        self.record.limits(reply.response.headers());
        if matches!(status.as_u16(), 200 | 206) || call.also.contains(&status.as_u16()) {
            return Ok(reply);
        }
        let now = self.clock.now();
        let until = retry_after(reply.response.headers(), now);
        let challenged = reply.response.headers().contains_key(WWW_AUTHENTICATE);
        let host = reply.host.clone();
        let said = read_error(reply).await;
        let colon = if said.is_empty() { "" } else { ": " };
        let text = format!("{host} answered {} to {}{colon}{said}", status.as_u16(), call.what);
        let pause = until.map(|until| Duration::try_from(until.duration_since(now)).unwrap_or_default());
        let short = pause.is_none_or(|pause| pause <= PATIENCE);
        Err(match status.as_u16() {
            404 | 410 => Failure::last(Fault::Absent(text.into())),
            401 | 403 => {
                let hint = match (status.as_u16(), challenged) {
                    (401, false) => "; it does not say how to log in",
                    _ => {
                        "; Docker Hub and GHCR say so of repositories that do not exist, too; else check the auth of its [[upstream]]"
                    }
                };
                Failure::last(Fault::Denied(format!("{text}{hint}").into()))
            }
            429 => {
                let retry = pause.is_some() && short;
                if !retry {
                    self.record.throttled(call.class, until);
                }
                Failure { fault: Fault::Throttled { until, detail: text.into() }, retry, pause }
            }
            408 | 500 | 502 | 503 | 504 => {
                Failure { fault: Fault::Unreachable(text.into()), retry: short, pause }
            }
            501 | 505..=599 => Failure::last(Fault::Unreachable(text.into())),
            _ => Failure::last(Fault::Invalid(text.into())),
        })
    }
}

impl Call {
    fn outgoing(&self, authorization: Option<HeaderValue>) -> Outgoing {
        Outgoing {
            method: self.method.clone(),
            url: self.url.clone(),
            headers: self.headers.clone(),
            authorization,
            form: None,
        }
    }
}

/// Twice as long each time, and never the same for two gateways.
fn backoff(retries: u32) -> Duration {
    BACKOFF * 2u32.pow(retries) + BACKOFF.mul_f64(fastrand::f64())
}

fn base(registry: &Registry, url: &Url) -> Result<(Url, String), Error> {
    let mut shown = url.clone();
    // An address that cannot hold a password has none to hide.
    let _ = shown.set_password(None);
    let wrong = |problem| Error::Endpoint { registry: registry.clone(), url: shown.to_string(), problem };
    if url.scheme() != "https" {
        return Err(wrong("is not https; there is no insecure switch"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("holds a user name or password; put them into auth"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("has a query or fragment"));
    }
    if url.host().is_none() {
        return Err(wrong("has no host"));
    }
    let path = url.path().trim_end_matches('/');
    let mut segments = path.split('/');
    let found = segments.by_ref().any(|segment| segment == "v2");
    let below: Vec<&str> = segments.collect();
    let prefix = if below.is_empty() { String::new() } else { format!("{}/", below.join("/")) };
    let mut base = url.clone();
    base.set_path(&if found { format!("{path}/") } else { format!("{path}/v2/") });
    Ok((base, prefix))
}

fn add_ca(registry: &Registry, ca: &Ca, roots: &mut rustls::RootCertStore) -> Result<(), Error> {
    let (origin, read) = match ca {
        Ca::File(path) => {
            (path.display().to_string(), CertificateDer::pem_file_iter(path).map(Iterator::collect))
        }
        Ca::Pem(text) => ("given in place".to_owned(), Ok(CertificateDer::pem_slice_iter(text).collect())),
    };
    let wrong = |cause: String| Error::Ca { registry: registry.clone(), origin: origin.clone(), cause };
    let certificates: Result<Vec<_>, _> = read.map_err(|error| wrong(error.to_string()))?;
    let certificates = certificates.map_err(|error| wrong(error.to_string()))?;
    if certificates.is_empty() {
        return Err(wrong("there is no certificate in it".to_owned()));
    }
    for certificate in certificates {
        roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(())
}

fn proxy_hosts() -> Vec<String> {
    let names = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let values = names.iter().filter_map(|name| std::env::var(name).ok());
    let urls = values.filter_map(|text| {
        let text = if text.contains("://") { text } else { format!("http://{text}") };
        Url::parse(&text).ok()
    });
    urls.filter_map(|url| url.host_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base_of(text: &str) -> Result<(String, String), Error> {
        base(&"r.test".parse().unwrap(), &text.parse().unwrap())
            .map(|(url, prefix)| (url.to_string(), prefix))
    }

    #[test]
    fn a_path_stands_before_v2_unless_it_holds_one() {
        for (text, url, prefix) in [
            ("https://r.test", "https://r.test/v2/", ""),
            ("https://r.test:5000/", "https://r.test:5000/v2/", ""),
            ("https://r.test/api/docker/hub/", "https://r.test/api/docker/hub/v2/", ""),
            ("https://r.test/v2/", "https://r.test/v2/", ""),
            ("https://r.test/v2/hub-proxy", "https://r.test/v2/hub-proxy/", "hub-proxy/"),
        ] {
            assert_eq!(base_of(text).unwrap(), (url.to_owned(), prefix.to_owned()), "{text}");
        }
    }

    #[test]
    fn an_endpoint_that_is_not_plain_https_is_an_error_that_hides_its_password() {
        for text in [
            "http://r.test",
            "https://u:geheim@r.test",
            "https://r.test?x=1",
            "https://r.test#x",
            "ftp://r.test",
        ] {
            let error = base_of(text).unwrap_err().to_string();
            assert!(error.contains("r.test") && !error.contains("geheim"), "{error}");
        }
    }
}
