use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

const DAY: Duration = Duration::from_secs(86_400);

struct Place {
    folder: tempfile::TempDir,
    clock: Clock,
}

impl Place {
    fn new() -> Self {
        // Handshakes in these tests are judged by the client's real clock.
        Self { folder: tempfile::tempdir().unwrap(), clock: Clock::manual(Clock::system().now()) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("certs").join(name)
    }

    fn settings(&self, hosts: &[&str]) -> CertificateSettings {
        CertificateSettings {
            certificate: self.path("server.crt"),
            key: self.path("server.key"),
            ca: self.path("ca.crt"),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        }
    }

    fn open(&self, hosts: &[&str]) -> Result<Arc<Certificates>, CertificateError> {
        Certificates::load_or_create(self.settings(hosts), &self.clock)
    }

    fn refused(&self) -> String {
        self.open(HOSTS).expect_err("refused").to_string()
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    fn put(&self, name: &str, text: &str) {
        std::fs::create_dir_all(self.folder.path().join("certs")).unwrap();
        std::fs::write(self.path(name), text).unwrap();
    }

    /// A pair somebody else made.
    fn put_foreign(&self) {
        let other = rcgen::generate_simple_self_signed(vec!["registry.example.com".into()]).unwrap();
        self.put("server.crt", &other.cert.pem());
        self.put("server.key", &other.signing_key.serialize_pem());
    }
}

const HOSTS: &[&str] = &["localhost", "127.0.0.1", "::1", "gw.example.com"];

/// One connection: what the server saw of the client's certificate, and the protocol agreed on.
async fn connect(
    config: ServerConfig,
    ca: &Path,
    name: &str,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
) -> Result<(Vec<Arc<str>>, Vec<u8>), String> {
    let mut roots = RootCertStore::empty();
    for ca in read_chain(ca).unwrap() {
        roots.add(ca).unwrap();
    }
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
    let mut client = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
    };
    client.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = tokio::spawn(async move {
        let mut stream =
            TlsAcceptor::from(Arc::new(config)).accept(far).await.map_err(|error| error.to_string())?;
        stream.write_all(b"x").await.map_err(|error| error.to_string())?;
        stream.flush().await.map_err(|error| error.to_string())?;
        let (_, connection) = stream.get_ref();
        let names =
            connection.peer_certificates().and_then(|chain| chain.first().map(|leaf| Shown::of(leaf).names));
        Ok::<_, String>((names.unwrap_or_default(), connection.alpn_protocol().unwrap_or_default().to_vec()))
    });
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut stream =
        TlsConnector::from(Arc::new(client)).connect(name, near).await.map_err(|error| error.to_string())?;
    stream.read_u8().await.map_err(|error| error.to_string())?;
    server.await.unwrap()
}

#[tokio::test]
async fn an_empty_folder_gets_a_ca_and_a_certificate_that_clients_of_that_ca_accept() {
    let place = Place::new();
    let certificates = place.open(HOSTS).unwrap();
    let served = certificates.served();
    assert!(served.created && served.own);
    assert_eq!(served.hosts, ["127.0.0.1", "::1", "gw.example.com", "localhost"]);
    assert_eq!(served.ca, Some(place.path("ca.crt")));
    let life = place.clock.now().duration_until(served.not_after);
    assert!(life.as_hours() <= 397 * 24 && life.as_hours() >= 360 * 24, "{life:?}");
    for name in HOSTS {
        let config = server_config(certificates.clone(), None).unwrap();
        let (_, protocol) = connect(config, &place.path("ca.crt"), name, None).await.unwrap();
        assert_eq!(protocol, b"http/1.1");
    }
    let config = server_config(certificates, None).unwrap();
    assert!(connect(config, &place.path("ca.crt"), "other.example.com", None).await.is_err());
}

#[test]
fn private_keys_are_their_owners_alone_and_nothing_else_is_left_behind() {
    let place = Place::new();
    place.open(HOSTS).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.path("ca.key")), 0o600);
    assert_eq!(mode(&place.path("server.key")), 0o600);
    assert_eq!(mode(&place.path("ca.crt")), 0o644);
    assert_eq!(mode(&place.folder.path().join("certs")), 0o700);
    let mut names: Vec<_> = std::fs::read_dir(place.folder.path().join("certs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["ca.crt", "ca.key", "server.crt", "server.key"]);
}

#[test]
fn the_second_start_makes_nothing() {
    let place = Place::new();
    place.open(HOSTS).unwrap();
    let before = place.text("server.crt");
    let served = place.open(HOSTS).unwrap().served();
    assert!(served.own && !served.created);
    assert_eq!(place.text("server.crt"), before);
}

#[test]
fn our_own_certificate_is_renewed_after_two_thirds_of_its_life_and_not_before() {
    let place = Place::new();
    let certificates = place.open(HOSTS).unwrap();
    let (ca, first) = (place.text("ca.crt"), certificates.served());
    place.clock.advance(DAY * 242);
    assert!(!certificates.renew().unwrap());
    place.clock.advance(DAY * 2);
    assert!(certificates.renew().unwrap());
    assert!(certificates.served().not_after > first.not_after, "the new one is in use at once");
    assert!(!certificates.renew().unwrap());
    assert_eq!(place.text("ca.crt"), ca, "clients go on trusting the same CA");
    // A gateway that was off for years finds its certificate expired, and renews it at the start.
    place.clock.advance(DAY * 1000);
    let served = place.open(HOSTS).unwrap().served();
    assert!(served.not_after > place.clock.now());
}

#[test]
fn nothing_is_signed_beyond_the_cas_own_end() {
    let place = Place::new();
    let certificates = place.open(HOSTS).unwrap();
    place.clock.advance(DAY * 3600);
    assert!(certificates.renew().unwrap());
    let left = place.clock.now().duration_until(certificates.served().not_after).as_hours() / 24;
    assert!((50..=53).contains(&left), "{left}");
    place.clock.advance(DAY * 45);
    assert!(!certificates.renew().unwrap(), "it would end no later");
}

#[test]
fn our_own_certificate_follows_the_hosts() {
    let place = Place::new();
    place.open(HOSTS).unwrap();
    let served = place.open(&["GW2.example.com", "::1"]).unwrap().served();
    assert_eq!(served.hosts, ["::1", "gw2.example.com"]);
    let again = place.text("server.crt");
    place.open(&["::1", "gw2.example.com"]).unwrap();
    assert_eq!(place.text("server.crt"), again);
}

#[test]
fn a_certificate_of_yours_is_never_touched() {
    let place = Place::new();
    place.put_foreign();
    let before = (place.text("server.crt"), place.text("server.key"));
    let certificates = place.open(&["other.example.com"]).unwrap();
    let served = certificates.served();
    assert!(!served.own && !served.created);
    assert_eq!(served.ca, None);
    assert!(!certificates.renew().unwrap());
    assert_eq!((place.text("server.crt"), place.text("server.key")), before);
    assert!(!place.path("ca.crt").exists());

    // Nor where a CA of ours is beside it that did not make it.
    let mixed = Place::new();
    mixed.open(HOSTS).unwrap();
    mixed.put_foreign();
    let before = mixed.text("server.crt");
    let certificates = mixed.open(&["other.example.com"]).unwrap();
    assert!(!certificates.served().own);
    mixed.clock.advance(DAY * 3650);
    assert!(!certificates.renew().unwrap());
    assert_eq!(mixed.text("server.crt"), before);
}

#[test]
fn a_private_ca_of_yours_with_its_key_beside_it_is_not_signed_with() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    place.put("ca.crt", &params.self_signed(&key).unwrap().pem());
    place.put("ca.key", &key.serialize_pem());
    let error = place.refused();
    assert!(
        error.contains("server.crt is missing while") && error.contains("was not made by pullgate"),
        "{error}"
    );
    assert!(!place.path("server.crt").exists());
}

#[test]
fn partly_missing_files_are_an_error_that_names_them() {
    for (removed, wanted) in [
        (&["server.key"][..], "server.key is missing while"),
        (&["ca.crt"], "ca.crt is missing while"),
        (&["server.crt", "ca.crt"], "server.crt is missing while"),
        (&["server.crt", "server.key", "ca.key"], "its key is not beside it"),
    ] {
        let place = Place::new();
        place.open(HOSTS).unwrap();
        for name in removed {
            std::fs::remove_file(place.path(name)).unwrap();
        }
        let error = place.refused();
        assert!(error.contains(wanted), "{removed:?}: {error}");
        for name in removed {
            assert!(!place.path(name).exists(), "{name} was made although the set was refused");
        }
    }
}

#[test]
fn a_first_start_that_was_killed_is_taken_up_where_it_stopped() {
    for left in [&["ca.key"][..], &["ca.key", "ca.crt"], &["ca.key", "ca.crt", "server.key"]] {
        let place = Place::new();
        place.open(HOSTS).unwrap();
        let before: Vec<_> = left.iter().map(|name| place.text(name)).collect();
        for name in ["ca.key", "ca.crt", "server.key", "server.crt"] {
            if !left.contains(&name) {
                std::fs::remove_file(place.path(name)).unwrap();
            }
        }
        let served = place.open(HOSTS).unwrap().served();
        assert!(served.created && served.own, "{left:?}");
        let after: Vec<_> = left.iter().map(|name| place.text(name)).collect();
        assert_eq!(before, after, "{left:?}");
    }
}

#[test]
fn a_certificate_that_does_not_match_its_key_is_refused_and_kept_out_on_reload() {
    let place = Place::new();
    let certificates = place.open(HOSTS).unwrap();
    let before = certificates.served();
    let key = rcgen::KeyPair::generate().unwrap();
    place.put("server.key", &key.serialize_pem());
    let error = place.refused();
    assert!(error.contains("server.crt does not belong to") && error.contains("matching pair"), "{error}");
    assert!(matches!(certificates.reload(), Err(CertificateError::Mismatch { .. })));
    assert_eq!(certificates.served(), before);
}

#[test]
fn files_that_hold_something_else_are_refused_by_name() {
    for (name, text, wanted) in [
        (
            "server.crt",
            "",
            "server.crt is no certificate in PEM form: it holds no -----BEGIN CERTIFICATE-----",
        ),
        (
            "server.crt",
            "-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
            "server.crt is no certificate",
        ),
        (
            "server.crt",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "server.crt is no server certificate",
        ),
        ("server.key", "hello", "server.key is no private key in PEM form: it holds no unencrypted"),
        ("ca.key", "hello", "ca.key is no private key"),
        ("ca.crt", "hello", "ca.crt is no certificate"),
    ] {
        let place = Place::new();
        place.open(HOSTS).unwrap();
        place.put(name, text);
        let error = place.refused();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn a_key_that_may_not_be_read_says_whose_it_should_be() {
    let place = Place::new();
    place.open(HOSTS).unwrap();
    std::fs::set_permissions(place.path("server.key"), std::fs::Permissions::from_mode(0o000)).unwrap();
    if std::fs::metadata(place.path("server.key")).unwrap().uid() == 0 {
        // root reads everything: look at the words alone.
        let error = CertificateError::Read {
            path: place.path("server.key"),
            error: io::ErrorKind::PermissionDenied.into(),
        };
        assert!(error.to_string().contains("chown"), "{error}");
        return;
    }
    assert!(place.refused().contains("chown"));
}

#[test]
fn a_folder_that_cannot_be_written_says_what_to_do() {
    let place = Place::new();
    std::fs::write(place.folder.path().join("certs"), "a file in the way").unwrap();
    let mut settings = place.settings(HOSTS);
    settings.ca = place.folder.path().join("certs/ca.crt");
    let error = Certificates::load_or_create(settings, &place.clock).expect_err("no folder").to_string();
    assert!(error.contains("certs"), "{error}");
}

#[tokio::test]
async fn a_reload_serves_the_new_certificate_to_new_handshakes() {
    let place = Place::new();
    let certificates = place.open(HOSTS).unwrap();
    let config = server_config(certificates.clone(), None).unwrap();
    let ca = place.folder.path().join("old-ca.crt");
    std::fs::copy(place.path("ca.crt"), &ca).unwrap();
    place.put_foreign();
    assert!(connect(config.clone(), &ca, "localhost", None).await.is_ok(), "not read yet");
    certificates.reload().unwrap();
    assert!(connect(config.clone(), &ca, "localhost", None).await.is_err());
    let new = place.path("server.crt");
    assert!(connect(config, &new, "registry.example.com", None).await.is_ok());
}

#[tokio::test]
async fn client_certificates_are_optional_and_verified_when_shown() {
    let place = Place::new();
    let certificates = place.open(HOSTS).unwrap();
    let make = |ca_key: &rcgen::KeyPair, ca: &rcgen::CertificateParams| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params =
            rcgen::CertificateParams::new(vec!["ci.example.com".into(), "10.0.0.7".into()]).unwrap();
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &rcgen::Issuer::from_params(ca, ca_key)).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    };
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    place.put("clients-ca.crt", &ca.self_signed(&ca_key).unwrap().pem());
    let config =
        server_config(certificates, Some(&ClientCa::load(&place.path("clients-ca.crt")).unwrap())).unwrap();
    let trust = place.path("ca.crt");

    let (names, _) = connect(config.clone(), &trust, "localhost", None).await.unwrap();
    assert!(names.is_empty());
    let (names, _) = connect(config.clone(), &trust, "localhost", Some(make(&ca_key, &ca))).await.unwrap();
    assert_eq!(names, ["ci.example.com".into(), "10.0.0.7".into()]);
    let stranger = rcgen::KeyPair::generate().unwrap();
    assert!(connect(config, &trust, "localhost", Some(make(&stranger, &ca))).await.is_err());

    let missing = ClientCa::load(&place.path("nothing.crt")).expect_err("no file");
    assert!(missing.to_string().contains("nothing.crt"), "{missing}");
}
