//! Who the gateway is at an upstream, read when it is asked for, so that secrets can be rotated.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use reqwest::header::HeaderValue;
use secrecy::{ExposeSecret, SecretString};

use super::settings::{Auth, Secret};
use crate::oci::{DOCKER_HUB, Fault, Registry};

/// Credential helpers are programs of others: they may hang.
const HELPER_TIMEOUT: Duration = Duration::from_secs(10);
/// A password or token file is no larger.
const SECRET_MAX: u64 = 64 << 10;

/// Credentials as they are presented.
#[derive(Clone, Debug)]
pub(super) enum Credentials {
    Basic { username: String, password: SecretString },
    IdentityToken(SecretString),
}

impl Credentials {
    /// `Basic …`; nothing for an identity token, which only a token service understands.
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let Self::Basic { username, password } = self else { return None };
        let pair = format!("{username}:{}", password.expose_secret());
        let text = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let mut value = HeaderValue::try_from(text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Reads the credentials for a registry whose endpoint has this `host[:port]`. Never falls back to
/// anonymous: what was configured and cannot be had is [`Fault::Denied`] with what to do.
pub(super) async fn load(auth: &Auth, registry: &Registry, endpoint: &str) -> Result<Credentials, Fault> {
    let denied = |text: String| Fault::Denied(format!("credentials for {registry}: {text}").into());
    match auth {
        Auth::Basic { username, password } => {
            let password = read(password).await.map_err(denied)?;
            Ok(Credentials::Basic { username: username.clone(), password })
        }
        Auth::Token(token) => Ok(Credentials::IdentityToken(read(token).await.map_err(denied)?)),
        Auth::DockerConfig(path) => {
            let servers = match registry.as_str() {
                DOCKER_HUB => vec!["https://index.docker.io/v1/".to_owned()],
                other => vec![other.to_owned(), endpoint.to_owned()],
            };
            let origin = path.clone();
            let lookup = tokio::task::spawn_blocking(move || docker_config(&origin, &servers));
            match tokio::time::timeout(HELPER_TIMEOUT, lookup).await {
                Ok(Ok(found)) => found.map_err(denied),
                Ok(Err(_)) => Err(denied(format!("reading {} failed", path.display()))),
                Err(_) => Err(denied(format!(
                    "the credential helper of {} did not answer within {} s",
                    path.display(),
                    HELPER_TIMEOUT.as_secs()
                ))),
            }
        }
    }
}

async fn read(secret: &Secret) -> Result<SecretString, String> {
    let text = match secret {
        Secret::Value(value) => value.expose_secret().to_owned(),
        Secret::Env(name) => {
            std::env::var(name).map_err(|_| format!("environment variable {name} is not set; set it"))?
        }
        Secret::File(path) => {
            let origin: PathBuf = path.clone();
            let read = tokio::task::spawn_blocking(move || read_file(&origin));
            let text = read.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            text.map_err(|error| format!("{} cannot be read: {error}", path.display()))?
        }
    };
    let text = text.trim_end();
    if text.is_empty() { Err("the secret is empty".to_owned()) } else { Ok(text.into()) }
}

fn read_file(path: &Path) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(SECRET_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// What a helper prints is never repeated: it may hold the secret.
fn docker_config(path: &Path, servers: &[String]) -> Result<Credentials, String> {
    let shown = path.display();
    let mut missing = format!("{shown} has none for {}; log in to it with that file", servers.join(" or "));
    for server in servers {
        let file = std::fs::File::open(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
        match docker_credential::get_credential_from_reader(std::io::BufReader::new(file), server) {
            Ok(DockerCredential::IdentityToken(token)) => {
                return Ok(Credentials::IdentityToken(token.into()));
            }
            Ok(DockerCredential::UsernamePassword(username, password)) => {
                return Ok(Credentials::Basic { username, password: password.into() });
            }
            Err(CredentialRetrievalError::NoCredentialConfigured) => {}
            Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
                missing =
                    format!("{helper} has none for {}, or failed; try it by hand", servers.join(" or "));
            }
            Err(CredentialRetrievalError::HelperCommunicationError) => {
                return Err(format!("the credential helper that {shown} names cannot be started"));
            }
            Err(error) => return Err(format!("{shown}: {error}")),
        }
    }
    Err(missing)
}
