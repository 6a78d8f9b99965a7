//! The server certificate: loaded, made and renewed where it is our own, and swapped while serving.

mod exact;
mod issue;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::clock::Clock;

pub use exact::trusting_exactly;

/// The largest PEM file that is read.
const FILE_MAX: u64 = 1 << 20;

/// Where the certificate is, and what it is to say when we make it.
#[derive(Clone, Debug)]
pub struct CertificateSettings {
    /// The server certificate and its chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// The CA that clients trust, PEM; the key of our own CA is `ca.key` beside it.
    pub ca: PathBuf,
    /// DNS names and IP addresses of a certificate that we make.
    pub hosts: Vec<String>,
}

impl CertificateSettings {
    /// The key of our own CA: beside the CA, with the extension `key`.
    pub fn ca_key(&self) -> PathBuf {
        self.ca.with_extension("key")
    }
}

/// Why there is no certificate to serve with. Each says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Some of the files are there and the rest cannot be made from them.
    #[error("{missing} is missing while {present} is there; {remedy}", missing = missing.display(), present = present.display())]
    Incomplete {
        /// What is not there.
        missing: PathBuf,
        /// What is.
        present: PathBuf,
        /// What to do.
        remedy: &'static str,
    },
    /// The library that makes certificates failed.
    #[error("cannot make {path}: {error}", path = path.display())]
    Issue {
        /// What was to be made.
        path: PathBuf,
        /// Why not.
        error: rcgen::Error,
    },
    /// A file holds something else than it should.
    #[error("{path} is no {wanted}: {reason}", path = path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What it should hold: `certificate in PEM form`.
        wanted: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is another certificate's.
    #[error(
        "{certificate} does not belong to {key}: the key is another certificate's; put the matching pair there, or remove both to have them made anew",
        certificate = certificate.display(), key = key.display()
    )]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {error}{hint}", path = path.display(), hint = read_hint(error))]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// The TLS library does not accept what was loaded.
    #[error("cannot set up TLS: {0}")]
    Tls(String),
    /// A file cannot be written.
    #[error(
        "cannot write {path}: {error}; make the folder writable for the gateway's user, or bring certificates of yours",
        path = path.display()
    )]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

fn read_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; let the gateway's user read it (chown, then chmod 600 for a key)"
        }
        _ => "",
    }
}

/// What is being served with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Served {
    /// Whether our own CA made it; then it is renewed in time.
    pub own: bool,
    /// Whether it was made just now.
    pub created: bool,
    /// When it ends.
    pub not_after: Timestamp,
    /// Its DNS names and IP addresses, sorted, lower-case.
    pub hosts: Vec<String>,
    /// The CA to be trusted by clients, where there is one in the settings' place.
    pub ca: Option<PathBuf>,
}

/// The certificate in use. Handshakes take the newest; connections keep the one they began with.
pub struct Certificates {
    settings: CertificateSettings,
    clock: Clock,
    current: ArcSwap<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    served: Served,
}

impl Certificates {
    /// Loads the certificate, or makes one.
    ///
    /// When certificate, key and CA are all absent, an own CA (EC P-256, ten years) and a server
    /// certificate (ECDSA P-256, a year) are made, private keys readable by their owner alone. A
    /// certificate that our own CA made is renewed after two thirds of its life and when `hosts`
    /// changed. Any other is never written to.
    ///
    /// # Errors
    /// Files are partly missing, unreadable, malformed or do not belong together, or cannot be written.
    pub fn load_or_create(
        settings: CertificateSettings,
        clock: &Clock,
    ) -> Result<Arc<Self>, CertificateError> {
        let created = issue::create_missing(&settings, clock.now())?;
        let mut current = load(&settings, clock.now())?;
        current.served.created = created;
        let this = Self { settings, clock: clock.clone(), current: ArcSwap::from_pointee(current) };
        if let Err(error) = this.renew() {
            // What there is still serves; the next look tries again.
            tracing::warn!(%error, "the server certificate is due and could not be renewed");
        }
        let served = this.served();
        if !served.own && served.not_after <= this.clock.now() {
            tracing::warn!(
                certificate = %this.settings.certificate.display(), ended = %served.not_after,
                "the server certificate has expired and is not ours to renew; clients will refuse it"
            );
        }
        Ok(Arc::new(this))
    }

    /// Loads a certificate that is none of ours to make or renew.
    ///
    /// # Errors
    /// A file is missing, unreadable or malformed, or the two do not belong together.
    pub fn load(certificate: PathBuf, key: PathBuf, clock: &Clock) -> Result<Arc<Self>, CertificateError> {
        // Without a place for a CA there is none of ours.
        let settings = CertificateSettings { certificate, key, ca: PathBuf::new(), hosts: Vec::new() };
        let current = load(&settings, clock.now())?;
        Ok(Arc::new(Self { settings, clock: clock.clone(), current: ArcSwap::from_pointee(current) }))
    }

    /// What is being served with.
    pub fn served(&self) -> Served {
        self.current.load().served.clone()
    }

    /// The files whose change means [`Certificates::reload`].
    pub fn files(&self) -> Vec<PathBuf> {
        vec![self.settings.certificate.clone(), self.settings.key.clone()]
    }

    /// Reads the files again. Open connections go on; new ones get what was read.
    ///
    /// # Errors
    /// As [`Certificates::load_or_create`]; the old certificate stays in use.
    pub fn reload(&self) -> Result<Served, CertificateError> {
        let current = load(&self.settings, self.clock.now())?;
        let served = current.served.clone();
        self.current.store(Arc::new(current));
        Ok(served)
    }

    /// Renews a certificate of our own that is due; to be called now and then. `true`: it was.
    ///
    /// # Errors
    /// It was due and could not be made or written; the old one stays in use.
    pub fn renew(&self) -> Result<bool, CertificateError> {
        let created = self.served().created;
        if !issue::renew_due(&self.settings, self.clock.now())? {
            return Ok(false);
        }
        let mut current = load(&self.settings, self.clock.now())?;
        current.served.created = created;
        self.current.store(Arc::new(current));
        Ok(true)
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("served", &self.current.load().served).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    /// One certificate for whatever name: clients that dial by address send none.
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load().key.clone())
    }
}

/// The CAs that client certificates are verified by. Equal ones verify alike.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ClientCa(Vec<CertificateDer<'static>>);

impl ClientCa {
    /// Reads the CA certificates of a PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else than CA certificates, or none.
    pub fn load(path: &Path) -> Result<Self, CertificateError> {
        let this = Self(read_chain(path)?);
        this.roots().map_err(|error| CertificateError::Malformed {
            path: path.to_owned(),
            wanted: "CA certificate",
            reason: error.to_string(),
        })?;
        Ok(this)
    }

    fn roots(&self) -> Result<RootCertStore, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for ca in &self.0 {
            roots.add(ca.clone())?;
        }
        Ok(roots)
    }
}

/// TLS 1.2 and 1.3 on aws-lc-rs, `h2` before `http/1.1`, session tickets under keys of its own.
///
/// With `client_ca`, clients may show a certificate, which is then verified; one that does not verify
/// ends the handshake, none at all is fine.
///
/// # Errors
/// The TLS library does not accept what was loaded.
pub fn server_config(
    certificates: Arc<Certificates>,
    client_ca: Option<&ClientCa>,
) -> Result<ServerConfig, CertificateError> {
    let tls = |error: &dyn fmt::Display| CertificateError::Tls(error.to_string());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| tls(&error))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let roots = Arc::new(ca.roots().map_err(|error| tls(&error))?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| tls(&error))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| tls(&error))?;
    Ok(config)
}

/// What a verified client certificate shows.
pub(super) struct Shown {
    /// The names it proves: DNS names, IP addresses, URIs and mail addresses of its SAN extension, as
    /// written there. A common name proves nothing.
    pub(super) names: Vec<Arc<str>>,
    /// When it ends.
    pub(super) not_after: Timestamp,
}

impl Shown {
    /// One that cannot be read shows no names.
    pub(super) fn of(certificate: &CertificateDer<'_>) -> Self {
        match X509Certificate::from_der(certificate) {
            Ok((_, parsed)) => {
                Self { names: names(&parsed).into_iter().map(Into::into).collect(), not_after: end(&parsed) }
            }
            Err(_) => Self { names: Vec::new(), not_after: Timestamp::MAX },
        }
    }
}

/// When a certificate ends. The last second of 9999, which means "never" (RFC 5280, 4.1.2.5), is beyond
/// what a [`Timestamp`] can say.
fn end(certificate: &X509Certificate<'_>) -> Timestamp {
    Timestamp::from_second(certificate.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX)
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
            Some((*text).to_owned())
        }
        GeneralName::IPAddress(bytes) => {
            let four = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let six = <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from);
            four.or(six).ok().map(|address| address.to_string())
        }
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn load(settings: &CertificateSettings, now: Timestamp) -> Result<Current, CertificateError> {
    let chain = read_chain(&settings.certificate)?;
    let key = read_key(&settings.key)?;
    let malformed = |reason: String| CertificateError::Malformed {
        path: settings.certificate.clone(),
        wanted: "server certificate",
        reason,
    };
    let leaf = chain.first().cloned().ok_or_else(|| malformed("it is empty".into()))?;
    let (_, parsed) = X509Certificate::from_der(&leaf).map_err(|error| malformed(error.to_string()))?;
    let not_after = end(&parsed);
    let mut hosts: Vec<String> = names(&parsed).iter().map(|name| name.to_ascii_lowercase()).collect();
    hosts.sort();
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = CertifiedKey::from_der(chain, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => CertificateError::Mismatch {
            certificate: settings.certificate.clone(),
            key: settings.key.clone(),
        },
        error => malformed(error.to_string()),
    })?;
    let own = issue::Authority::own(settings)?.is_some_and(|authority| authority.made(&leaf));
    let ca = std::fs::exists(&settings.ca).unwrap_or(false).then(|| settings.ca.clone());
    let begin = parsed.validity().not_before.timestamp();
    if begin > now.as_second() {
        tracing::warn!(
            certificate = %settings.certificate.display(),
            "the server certificate is not valid yet; is this machine's clock right?"
        );
    }
    Ok(Current { key: Arc::new(key), served: Served { own, created: false, not_after, hosts, ca } })
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(FILE_MAX).read_to_end(&mut bytes))
        .map_err(|error| CertificateError::Read { path: path.to_owned(), error })?;
    Ok(bytes)
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let malformed = |reason: String| CertificateError::Malformed {
        path: path.to_owned(),
        wanted: "certificate in PEM form",
        reason,
    };
    let chain = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| malformed(error.to_string()))?;
    if chain.is_empty() {
        return Err(malformed("it holds no -----BEGIN CERTIFICATE-----".into()));
    }
    Ok(chain)
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|error| CertificateError::Malformed {
        path: path.to_owned(),
        wanted: "private key in PEM form",
        reason: match error {
            rustls_pki_types::pem::Error::NoItemsFound => "it holds no unencrypted private key".into(),
            error => error.to_string(),
        },
    })
}

#[cfg(test)]
mod tests;
