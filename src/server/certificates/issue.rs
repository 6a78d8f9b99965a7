//! Our own CA: making it, and making and renewing what it signs.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData,
};
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{CertificateError, CertificateSettings, names, read_chain, read_key};

const CA_LIFE: SignedDuration = SignedDuration::from_hours(24 * 3652);
/// Below the 398 days that Apple's and other strict verifiers accept.
const SERVER_LIFE: SignedDuration = SignedDuration::from_hours(24 * 365);
/// Clients whose clock is a little slow must not find a new certificate "not yet valid".
const SKEW: SignedDuration = SignedDuration::from_hours(1);
/// The organisation in the subject of a CA that we made: only such a one do we sign with.
const OWNER: &str = "pullgate";

/// Our own CA: its certificate and its key.
pub(super) struct Authority {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// The CA in its place, if we made it and have its key.
    ///
    /// # Errors
    /// Its key is there and cannot be read.
    pub(super) fn own(settings: &CertificateSettings) -> Result<Option<Self>, CertificateError> {
        let path = settings.ca_key();
        if path == settings.key || !present(&path)? || !present(&settings.ca)? {
            return Ok(None);
        }
        let Some(certificate) = read_chain(&settings.ca)?.into_iter().next() else { return Ok(None) };
        let Ok((_, parsed)) = X509Certificate::from_der(&certificate) else { return Ok(None) };
        let ours = parsed.subject().iter_organization().any(|name| name.as_str() == Ok(OWNER));
        if !ours || !parsed.is_ca() {
            return Ok(None);
        }
        let key = key_pair(&path)?;
        let belongs = parsed.public_key().subject_public_key.data.as_ref() == key.der_bytes();
        drop(parsed);
        Ok(belongs.then_some(Self { certificate, key }))
    }

    /// Whether this CA signed that certificate.
    pub(super) fn made(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { return false };
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, self.key.der_bytes())
            .verify(parsed.tbs_certificate.as_ref(), &parsed.signature_value.data)
            .is_ok()
    }

    /// A server certificate for this key and these hosts, as PEM.
    fn issue(&self, key: &KeyPair, hosts: &[String], now: Timestamp) -> Result<String, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key)?;
        let mut params = CertificateParams::new(hosts.to_vec())?;
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::OrganizationName, OWNER);
        params.distinguished_name.push(DnType::CommonName, "pullgate server");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let life = self.end().map_or(SERVER_LIFE, |end| SERVER_LIFE.min(now.duration_until(end)));
        set_life(&mut params, now, life);
        Ok(params.signed_by(key, &issuer)?.pem())
    }

    fn end(&self) -> Option<Timestamp> {
        let (_, parsed) = X509Certificate::from_der(&self.certificate).ok()?;
        Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
    }
}

/// Makes what is missing. `true`: a server certificate was made. Nothing that is there is replaced,
/// and what a crash left half done is taken up where it was left.
pub(super) fn create_missing(
    settings: &CertificateSettings,
    now: Timestamp,
) -> Result<bool, CertificateError> {
    let CertificateSettings { certificate, key, ca, hosts } = settings;
    let ca_key = settings.ca_key();
    let incomplete = |missing: &Path, present: &Path, remedy| {
        Err(CertificateError::Incomplete { missing: missing.into(), present: present.into(), remedy })
    };
    match (present(certificate)?, present(key)?, present(ca)?) {
        (true, true, true) => return Ok(false),
        (true, true, false) if !present(&ca_key)? || ca_key == *key => return Ok(false),
        (true, true, false) => {
            return incomplete(
                ca,
                &ca_key,
                "put it back from a client that trusts it, or remove the whole set to have it made anew",
            );
        }
        (true, false, _) => {
            return incomplete(
                key,
                certificate,
                "put the key there, or remove the certificate to have both made anew",
            );
        }
        (false, true, false) => {
            return incomplete(
                certificate,
                key,
                "put the certificate there, or remove the key to have both made anew",
            );
        }
        (false, false, false) => create_authority(settings, now)?,
        (false, _, true) => {}
    }
    let Some(authority) = Authority::own(settings)? else {
        return incomplete(
            certificate,
            ca,
            "this CA was not made by pullgate or its key is not beside it, so nothing can be signed with it: put certificate and key there, or remove the CA to have all made anew",
        );
    };
    let server_key = if present(key)? {
        key_pair(key)?
    } else {
        let pair = generate(key)?;
        write_new(key, pair.serialize_pem().as_bytes(), 0o600)?;
        pair
    };
    let pem = authority
        .issue(&server_key, hosts, now)
        .map_err(|error| CertificateError::Issue { path: certificate.clone(), error })?;
    write_new(certificate, pem.as_bytes(), 0o644)?;
    Ok(true)
}

/// Renews the certificate when it is ours and due; its key stays, so that one rename does it all.
pub(super) fn renew_due(settings: &CertificateSettings, now: Timestamp) -> Result<bool, CertificateError> {
    let Some(authority) = Authority::own(settings)? else { return Ok(false) };
    let chain = read_chain(&settings.certificate)?;
    let Some(leaf) = chain.first().filter(|leaf| authority.made(leaf)) else { return Ok(false) };
    let Ok((_, parsed)) = X509Certificate::from_der(leaf) else { return Ok(false) };
    let (begin, end) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
    let old = now.as_second() >= begin + (end - begin) / 3 * 2;
    let sorted = |names: Vec<String>| {
        let mut names: Vec<String> = names
            .into_iter()
            .map(|name| {
                name.parse::<IpAddr>().map_or(name.to_ascii_lowercase(), |address| address.to_string())
            })
            .collect();
        names.sort();
        names.dedup();
        names
    };
    let moved = sorted(names(&parsed)) != sorted(settings.hosts.clone());
    // Near its own end the CA cannot give more time: a new certificate would be due at once, again and again.
    let gains = authority.end().is_none_or(|ca| ca.as_second() > end);
    if !(moved || old && gains) {
        if old && !gains {
            tracing::warn!(
                ca = %settings.ca.display(),
                "the gateway's CA is about to end; remove it, its key and the server certificate to have new ones made, and give clients the new CA"
            );
        }
        return Ok(false);
    }
    let key = key_pair(&settings.key)?;
    if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
        return Err(CertificateError::Mismatch {
            certificate: settings.certificate.clone(),
            key: settings.key.clone(),
        });
    }
    let pem = authority
        .issue(&key, &settings.hosts, now)
        .map_err(|error| CertificateError::Issue { path: settings.certificate.clone(), error })?;
    replace(&settings.certificate, pem.as_bytes(), 0o644)?;
    tracing::info!(certificate = %settings.certificate.display(), "renewed the server certificate");
    Ok(true)
}

fn create_authority(settings: &CertificateSettings, now: Timestamp) -> Result<(), CertificateError> {
    let path = settings.ca_key();
    let failed = |error| CertificateError::Issue { path: settings.ca.clone(), error };
    let key = if present(&path)? {
        key_pair(&path)?
    } else {
        let key = generate(&path)?;
        write_new(&path, key.serialize_pem().as_bytes(), 0o600)?;
        key
    };
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::OrganizationName, OWNER);
    // The day tells two CAs apart in a trust store's list.
    params.distinguished_name.push(DnType::CommonName, format!("pullgate CA {}", now.strftime("%Y-%m-%d")));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_life(&mut params, now, CA_LIFE);
    let certificate = params.self_signed(&key).map_err(failed)?;
    write_new(&settings.ca, certificate.pem().as_bytes(), 0o644)
}

fn generate(path: &Path) -> Result<KeyPair, CertificateError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
        .map_err(|error| CertificateError::Issue { path: path.to_owned(), error })
}

fn key_pair(path: &Path) -> Result<KeyPair, CertificateError> {
    let der = read_key(path)?;
    KeyPair::try_from(&der).map_err(|error| CertificateError::Malformed {
        path: path.to_owned(),
        wanted: "private key we can sign with",
        reason: error.to_string(),
    })
}

/// From a little before now, for this long.
fn set_life(params: &mut CertificateParams, now: Timestamp, life: SignedDuration) {
    let seconds = |shift| {
        let at = now.checked_add(shift).unwrap_or(now).as_second();
        Duration::from_secs(u64::try_from(at).unwrap_or(0))
    };
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + seconds(-SKEW);
    params.not_after = epoch + seconds(life);
}

fn present(path: &Path) -> Result<bool, CertificateError> {
    std::fs::exists(path).map_err(|error| CertificateError::Read { path: path.to_owned(), error })
}

/// Writes a file that was not there, whole or not at all.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CertificateError> {
    write(path, bytes, mode, |file| file.persist_noclobber(path))
}

/// Puts a file in the place of another, whole or not at all.
fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), CertificateError> {
    write(path, bytes, mode, |file| file.persist(path))
}

fn write(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    publish: impl FnOnce(tempfile::NamedTempFile) -> Result<std::fs::File, tempfile::PersistError>,
) -> Result<(), CertificateError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let written = || -> io::Result<()> {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // A temporary file is its owner's alone from its first moment on.
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(bytes)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.as_file().sync_all()?;
        publish(file).map_err(|error| error.error)?;
        std::fs::File::open(folder)?.sync_all()
    };
    written().map_err(|error| CertificateError::Write { path: path.to_owned(), error })
}
