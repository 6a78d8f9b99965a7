//! A gateway of the test's own: its files in a temporary folder, its doors on free ports.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, Version, header};
use jiff::Timestamp;
use oci_distribution::client::{Certificate, CertificateEncoding, ClientConfig, ClientProtocol};
use pullgate::audit::{self, Filter};
use pullgate::cli::serve::{Options, Running};
use pullgate::clock::Clock;
use pullgate::oci::Digest;
use pullgate::upstream::Resolver;
use reqwest::{Client, Method, Response};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::PATIENCE;
use super::image::Fixture;
use super::registry::Registry;

/// The policy that is shipped.
pub(crate) fn shipped_policy() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/policy.toml")).unwrap()
}

/// The moment at which a manual clock starts.
pub(crate) fn morning() -> Timestamp {
    "2026-11-23T08:00:00Z".parse().unwrap()
}

/// How a client names the registry (clients.md, "Requests to accept").
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Form {
    Bare,
    Ns,
    Prefix,
}

impl Form {
    /// The path and query of a request; `rest` is `manifests/1.0`, say.
    pub(crate) fn path(self, registry: &str, repository: &str, rest: &str) -> String {
        match self {
            Self::Bare => format!("/v2/{repository}/{rest}"),
            Self::Ns => {
                let sign = if rest.contains('?') { '&' } else { '?' };
                format!("/v2/{repository}/{rest}{sign}ns={registry}")
            }
            Self::Prefix => format!("/v2/{registry}/{repository}/{rest}"),
        }
    }
}

/// A resolver that knows nothing but this machine, and remembers whom it was asked for.
#[derive(Clone, Default)]
pub(crate) struct Names(Arc<Mutex<Vec<String>>>);

impl Names {
    fn resolver(&self) -> Resolver {
        let asked = self.0.clone();
        Resolver::new(move |host: String| {
            asked.lock().unwrap().push(host.clone());
            async move {
                match host.as_str() {
                    "localhost" => Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]),
                    _ => Err(io::Error::new(io::ErrorKind::NotFound, format!("no such host: {host}"))),
                }
            }
        })
    }

    /// Every name asked for, in order.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// The files of a gateway that is not running.
pub(crate) struct Site {
    folder: TempDir,
    config: toml::Table,
    pub(crate) names: Names,
    pub(crate) options: Options,
}

impl Site {
    /// A configuration on free loopback ports, with this policy.
    pub(crate) fn new(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = Names::default();
        let options = Options {
            resolver: names.resolver(),
            proxy_from_environment: false,
            poll: Duration::from_millis(10),
            ..Options::default()
        };
        let mut site = Self { folder, config: toml::Table::new(), names, options };
        let place = |name: &str| site.path(name).display().to_string();
        let (policy_file, data) = (place("policy.toml"), place("data"));
        let (certificate, key, ca) =
            (place("certs/server.crt"), place("certs/server.key"), place("certs/ca.crt"));
        site.set("listen.address", "127.0.0.1:0");
        site.set("listen.hosts", vec!["localhost", "127.0.0.1"]);
        site.set("listen.tls.certificate", certificate);
        site.set("listen.tls.key", key);
        site.set("listen.tls.ca", ca);
        site.set("admin.address", "127.0.0.1:0");
        site.set("storage.path", data);
        site.set("storage.max_size", "1GiB");
        site.set("policy.file", policy_file);
        site.write_policy(policy);
        site
    }

    /// A clock that the test moves.
    pub(crate) fn with_clock(mut self, clock: &Clock) -> Self {
        self.options.clock = clock.clone();
        self
    }

    /// Lets the fake stand for this registry.
    pub(crate) fn with_upstream(mut self, registry: &str, fake: &Registry) -> Self {
        let ca = self.path(&format!("{registry}.pem"));
        std::fs::write(&ca, fake.ca_pem()).unwrap();
        let table = toml::Table::from_iter([
            ("registry".to_owned(), registry.into()),
            ("endpoint".to_owned(), fake.endpoint().into()),
            ("ca".to_owned(), ca.display().to_string().into()),
        ]);
        self.push("upstream", table);
        self
    }

    /// One more key: `cache.tag_ttl`.
    pub(crate) fn with(mut self, key: &str, value: impl Into<toml::Value>) -> Self {
        self.set(key, value);
        self
    }

    /// One more `[[client]]`.
    pub(crate) fn with_client(mut self, table: &str) -> Self {
        self.push("client", table.parse().unwrap());
        self
    }

    /// One more `[[sink]]`.
    pub(crate) fn with_sink(mut self, table: toml::Table) -> Self {
        self.push("sink", table);
        self
    }

    pub(crate) fn set(&mut self, key: &str, value: impl Into<toml::Value>) {
        let mut parts: Vec<&str> = key.split('.').collect();
        let last = parts.pop().unwrap();
        let mut table = &mut self.config;
        for part in parts {
            let entry = table.entry(part).or_insert_with(|| toml::Table::new().into());
            table = entry.as_table_mut().unwrap();
        }
        table.insert(last.to_owned(), value.into());
    }

    fn push(&mut self, key: &str, table: toml::Table) {
        let entry = self.config.entry(key).or_insert_with(|| toml::Value::Array(Vec::new()));
        entry.as_array_mut().unwrap().push(table.into());
    }

    /// A file of the site.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.config["storage"]["path"].as_str().unwrap().into()
    }

    pub(crate) fn write_policy(&self, text: &str) {
        replace(&self.path("policy.toml"), text);
    }

    /// Writes the configuration; the answer is its path.
    pub(crate) fn write(&self) -> PathBuf {
        let path = self.path("pullgate.toml");
        std::fs::write(&path, toml::to_string(&self.config).unwrap()).unwrap();
        path
    }

    /// Starts the gateway, or says why it will not start.
    pub(crate) async fn try_start(self) -> Result<Gateway, String> {
        let (running, ca) = self.launch().await?;
        Ok(self.gateway(running, ca))
    }

    fn gateway(self, running: Running, ca: String) -> Gateway {
        let (h1, h2) = (super::client::client_http1(&ca), super::client::client(&ca));
        Gateway { site: self, running, ca, h1, h2 }
    }

    async fn launch(&self) -> Result<(Running, String), String> {
        // Whoever comes first installs it; there is one provider only.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let settings = pullgate::settings::gateway::load(&self.write()).map_err(|error| error.to_string())?;
        let running = Running::start(&settings, self.options.clone()).await;
        let running = running.map_err(|error| error.to_string())?;
        let ca = std::fs::read_to_string(self.path("certs/ca.crt")).unwrap();
        Ok((running, ca))
    }

    /// Starts the gateway.
    pub(crate) async fn start(self) -> Gateway {
        match self.launch().await {
            Ok((running, ca)) => self.gateway(running, ca),
            Err(error) => panic!("the gateway does not start: {error}"),
        }
    }

    /// Everything on record, repeats and transfers joined, in order.
    pub(crate) async fn events(&self) -> Vec<Value> {
        events(&self.data(), Filter::default()).await
    }
}

/// A TLS connection to `localhost` at this address, trusting this CA alone.
pub(crate) async fn dial(address: SocketAddr, ca: &str) -> io::Result<TlsStream<TcpStream>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Replaces a file in one step, as editors and Kubernetes do.
pub(crate) fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// What is on record in a data folder.
pub(crate) async fn events(data: &Path, filter: Filter) -> Vec<Value> {
    let mut entries = audit::query(data, filter).await.unwrap();
    let mut events = Vec::new();
    while let Some(entry) = entries.next().await.unwrap() {
        events.push(Value::Object(entry.event));
    }
    events
}

/// A gateway that serves; it ends when it is dropped, and in order with [`Gateway::stop`].
pub(crate) struct Gateway {
    pub(crate) site: Site,
    pub(crate) running: Running,
    /// The CA it made for itself.
    pub(crate) ca: String,
    /// A client of HTTP/1.1.
    pub(crate) h1: Client,
    /// A client of HTTP/2.
    pub(crate) h2: Client,
}

impl Gateway {
    /// The URL of this path at the pull listener.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.authority())
    }

    /// `localhost:PORT`.
    pub(crate) fn authority(&self) -> String {
        format!("localhost:{}", self.running.address().port())
    }

    /// Sends a bodiless request over HTTP/1.1 and returns the answer's head.
    pub(crate) async fn open(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Response {
        super::client::send(&self.h1, method, self.url(path), headers).await
    }

    /// The same with the whole body read.
    pub(crate) async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Answer {
        Answer::read(self.open(method, path, headers).await).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[]).await
    }

    pub(crate) async fn head(&self, path: &str) -> Answer {
        self.send("HEAD", path, &[]).await
    }

    /// GET over HTTP/2.
    pub(crate) async fn get2(&self, path: &str) -> Answer {
        let url = self.url(path);
        Answer::read(self.h2.request(Method::GET, url).send().await.unwrap()).await
    }

    /// The OCI client library, trusting this gateway.
    pub(crate) fn oci_client(&self) -> oci_distribution::Client {
        let data = self.ca.clone().into_bytes();
        let config = ClientConfig {
            protocol: ClientProtocol::Https,
            extra_root_certificates: vec![Certificate { encoding: CertificateEncoding::Pem, data }],
            ..ClientConfig::default()
        };
        config.try_into().unwrap()
    }

    /// How that client names an image of docker.io behind this gateway.
    pub(crate) fn reference(&self, repository: &str, tag: &str) -> oci_distribution::Reference {
        let repository = format!("docker.io/{repository}");
        oci_distribution::Reference::with_tag(self.authority(), repository, tag.to_owned())
    }

    /// A TLS connection to the pull listener on which anything can be written.
    pub(crate) async fn dial(&self) -> TlsStream<TcpStream> {
        dial(self.running.address(), &self.ca).await.unwrap()
    }

    /// GET at the admin listener.
    pub(crate) async fn admin(&self, path: &str) -> (StatusCode, String) {
        let url = format!("http://{}{path}", self.running.admin_address());
        let client = Client::builder().no_proxy().build().unwrap();
        let response = client.get(url).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    /// Pulls as containerd does: HEAD by tag, then manifests, configs and layers by digest. Every byte
    /// is compared.
    pub(crate) async fn pull(
        &self,
        form: Form,
        registry: &str,
        repository: &str,
        tag: &str,
        image: &Fixture,
    ) {
        let head = self.head(&form.path(registry, repository, &format!("manifests/{tag}"))).await;
        assert_eq!(head.status, 200, "HEAD {repository}:{tag} by {form:?}");
        assert_eq!(head.header("docker-content-digest"), image.digest().to_string());
        self.pull_digest(form, registry, repository, image).await;
    }

    /// The same by digest.
    pub(crate) async fn pull_digest(&self, form: Form, registry: &str, repository: &str, image: &Fixture) {
        for manifest in [image].into_iter().chain(&image.children) {
            let path = form.path(registry, repository, &format!("manifests/{}", manifest.digest()));
            let answer = self.get(&path).await;
            answer.expect_bytes(&manifest.manifest);
            assert_eq!(answer.header("content-type"), manifest.media_type);
            for blob in &manifest.blobs {
                let path = form.path(registry, repository, &format!("blobs/{}", Digest::sha256(blob)));
                self.get(&path).await.expect_bytes(blob);
            }
        }
    }

    /// Everything on record so far, repeats and transfers joined, in order.
    pub(crate) async fn events(&self) -> Vec<Value> {
        self.site.events().await
    }

    /// Refusals on record so far.
    pub(crate) async fn blocked(&self) -> Vec<Value> {
        events(&self.site.data(), Filter { blocked: true, ..Filter::default() }).await
    }

    /// The first event of which this holds, once there is one.
    pub(crate) async fn event(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let found = self.events().await.into_iter().find(&wanted);
                if let Some(found) = found {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("no such event; on record are {:#?}", self.events().await),
        }
    }

    /// Drains and ends it; its files stay, and it can be started again.
    pub(crate) async fn stop(self) -> Site {
        let Self { site, running, h1, h2, .. } = self;
        drop((h1, h2));
        running.stop().await;
        site
    }
}

/// Waits until this holds; for what shows itself neither in the log nor at a gate.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain: {what}");
}

/// A reply, read to its end or to where it broke.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    /// The reason phrase of HTTP/1.1, when it is not the status's own.
    pub(crate) phrase: Option<String>,
    pub(crate) body: Bytes,
    /// Whether the body ended as it should.
    pub(crate) complete: bool,
}

impl Answer {
    pub(crate) async fn read(mut response: Response) -> Self {
        let phrase = response.extensions().get::<hyper::ext::ReasonPhrase>();
        let phrase = phrase.map(|phrase| String::from_utf8_lossy(phrase.as_bytes()).into_owned());
        let (status, version, headers) = (response.status(), response.version(), response.headers().clone());
        let mut body = BytesMut::new();
        let complete = loop {
            match response.chunk().await {
                Ok(Some(piece)) => body.extend_from_slice(&piece),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        Self { status, version, headers, phrase, body: body.freeze(), complete }
    }

    /// A header that must be there.
    pub(crate) fn header(&self, name: &str) -> &str {
        match self.headers.get(name) {
            Some(value) => value.to_str().unwrap(),
            None => panic!("no {name} in {self:?}"),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.headers.contains_key(name)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON in {self:?}"))
    }

    /// A complete 200 with these bytes.
    #[track_caller]
    pub(crate) fn expect_bytes(&self, bytes: &Bytes) {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        assert!(self.complete, "broke off after {} of {} bytes", self.body.len(), bytes.len());
        assert_eq!(self.header("content-length"), bytes.len().to_string());
        assert!(self.body == *bytes, "other bytes than the upstream's");
    }

    /// An error in the spec's envelope, of this status and code; its first entry.
    #[track_caller]
    pub(crate) fn expect_error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        assert_eq!(self.header(header::CONTENT_TYPE.as_str()), "application/json");
        assert_eq!(self.header("content-length"), self.body.len().to_string());
        let errors = self.json()["errors"].take();
        assert_eq!(errors[0]["code"], code, "{errors}");
        assert!(!errors[0]["message"].as_str().unwrap().is_empty());
        errors[0].clone()
    }

    /// A refusal by policy for this reason, in words that stand alone; the envelope's entry.
    #[track_caller]
    pub(crate) fn expect_denied(&self, reason: &str) -> Value {
        let error = self.expect_error(403, "DENIED");
        let message = error["message"].as_str().unwrap();
        let id = error["detail"]["id"].as_str().unwrap();
        assert_eq!(error["detail"]["reason"], reason, "{message}");
        assert!(message.starts_with(&format!("blocked by policy {id}")), "{message}");
        assert!(message.chars().count() <= 300, "{message}");
        error
    }
}
