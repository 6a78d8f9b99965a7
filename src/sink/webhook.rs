//! Events posted to an HTTPS address, signed as Standard Webhooks 1.0 describes it.

use std::error::Error as _;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, StatusCode};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use serde_json::json;
use url::Url;

use super::courier::{Batch, Failure};
use super::format::Format;
use super::tls;
use crate::clock::Clock;

/// A file of keys is no larger.
const SECRET_MAX: u64 = 64 << 10;
/// A key is no shorter (Standard Webhooks 1.0).
const KEY_MIN: usize = 24;

/// Where to, and who we are there.
pub(super) struct Webhook {
    client: Client,
    url: Url,
    secret_file: Option<PathBuf>,
    format: Format,
    clock: Clock,
}

impl fmt::Debug for Webhook {
    /// The path of an address is often its password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// What is said of it before it is tried. The error is for people.
pub(super) struct Address<'a> {
    pub(super) url: &'a Url,
    pub(super) ca: Option<&'a Path>,
    pub(super) secret_file: Option<&'a Path>,
    pub(super) proxied: bool,
}

impl Webhook {
    pub(super) fn new(
        address: &Address<'_>,
        format: Format,
        timeout: Duration,
        clock: Clock,
    ) -> Result<Self, (PathBuf, String)> {
        let of_ca = |text| (address.ca.unwrap_or(Path::new("system roots")).to_owned(), text);
        let mut tls = tls::client_config(address.ca).map_err(of_ca)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut builder = Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(true)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .user_agent(concat!("pullgate/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(timeout)
            .timeout(timeout);
        if !address.proxied {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|error| of_ca(error.to_string()))?;
        if let Some(file) = address.secret_file {
            keys(file).map_err(|error| (file.to_owned(), error))?;
        }
        Ok(Self {
            client,
            url: address.url.clone(),
            secret_file: address.secret_file.map(ToOwned::to_owned),
            format,
            clock,
        })
    }

    /// Returns when the receiver has said that it has the events.
    pub(super) async fn deliver(&self, batch: &Batch) -> Result<(), Failure> {
        let body = self.body(batch);
        let headers = self.headers(batch, &body).await?;
        let request = self.client.post(self.url.clone()).headers(headers).body(body);
        let response = request.send().await.map_err(|error| {
            // reqwest's own words name the address, whose path may be secret.
            let mut text = format!("{} cannot be reached", self.host());
            let error = error.without_url();
            let mut cause = error.source();
            while let Some(inner) = cause {
                text = format!("{text}: {inner}");
                cause = inner.source();
            }
            Failure::network(text)
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let retried = status.is_server_error()
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        Err(Failure {
            text: format!("{} answered {status}", self.host()),
            rejected: !retried,
            after: after.filter(|_| retried).and_then(|text| retry_after(text, self.clock.now())),
        })
    }

    fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    fn body(&self, batch: &Batch) -> String {
        let lines: Vec<&str> = batch.lines().collect();
        match self.format {
            Format::Slack => json!({
                "text": lines.join("\n"), "mrkdwn": false, "unfurl_links": false, "unfurl_media": false,
            })
            .to_string(),
            Format::Ecs | Format::Native | Format::Ocsf => format!("[{}]", lines.join(",\n")),
        }
    }

    async fn headers(&self, batch: &Batch, body: &str) -> Result<HeaderMap, Failure> {
        let (first, last) = (batch.items().first(), batch.items().last());
        let ends = [first, last].map(|item| item.map_or("", |item| &*item.id));
        let id = format!("{}-{}", ends[0], ends[1]);
        let timestamp = self.clock.now().as_second().to_string();
        let mut headers = HeaderMap::new();
        let mut set = |name: &'static str, value: &str| {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        };
        set(CONTENT_TYPE.as_str(), "application/json");
        set("webhook-id", &id);
        set("webhook-timestamp", &timestamp);
        if let Some(file) = self.secret_file.clone() {
            let read = tokio::task::spawn_blocking(move || keys(&file).map_err(|text| (file, text)));
            let keys = match read.await {
                Ok(Ok(keys)) => keys,
                Ok(Err((file, text))) => {
                    return Err(Failure::network(format!("{} cannot be used: {text}", file.display())));
                }
                Err(error) => return Err(Failure::network(error.to_string())),
            };
            let signed = format!("{id}.{timestamp}.{body}");
            let signatures: Vec<String> = keys.iter().map(|key| signature(key, &signed)).collect();
            set("webhook-signature", &signatures.join(" "));
        }
        Ok(headers)
    }
}

/// The keys of a file, one a line: `whsec_` and base64, or the bytes as they are. The error is for
/// people and tells no key.
fn keys(file: &Path) -> Result<Vec<SecretSlice<u8>>, String> {
    use std::io::Read as _;
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(|error| error.to_string())?;
    opened.take(SECRET_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    let text = SecretString::from(text);
    let lines = text.expose_secret().lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    let keys = lines.map(|(at, line)| key(line).map_err(|why| format!("line {}: {why}", at + 1)));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    if keys.is_empty() { Err("there is no key in it".to_owned()) } else { Ok(keys) }
}

fn key(line: &str) -> Result<SecretSlice<u8>, String> {
    let bytes = match line.strip_prefix("whsec_") {
        // The decoder's own words would name a byte of the key.
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| {
            "what follows whsec_ is not base64 with its padding; copy the key whole, or leave out whsec_ for a key that is plain text".to_owned()
        })?,
        None => line.as_bytes().to_vec(),
    };
    if bytes.len() < KEY_MIN {
        return Err(format!("the key has {} bytes, and {KEY_MIN} are the least", bytes.len()));
    }
    Ok(bytes.into())
}

fn signature(key: &SecretSlice<u8>, signed: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose_secret());
    format!("v1,{}", STANDARD.encode(hmac::sign(&key, signed.as_bytes())))
}

/// Seconds, or a date of HTTP (RFC 9110, 10.2.3).
fn retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
    Some(Duration::from_secs(u64::try_from(date.as_second().saturating_sub(now.as_second())).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // The example of the Standard Webhooks libraries.
        let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed = "msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        assert_eq!(signature(&key, signed), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_key_that_would_sign_as_something_else_or_is_short_is_an_error_that_tells_no_key() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("hook.key");
        let good = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            keys(&file).map(|keys| keys.len())
        };
        assert_eq!(read(&format!("{good}\n\n  plain text of 24 bytes..\n")), Ok(2));
        for (bad, why) in [
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "not base64"),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2La-aSw", "not base64"),
            ("whsec_", "has 0 bytes"),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLQ==", "has 22 bytes"),
            ("plain text of 23 bytes.", "has 23 bytes"),
        ] {
            let told = read(&format!("{good}\n\n{bad}\n")).unwrap_err();
            assert!(told.starts_with("line 3: ") && told.contains(why), "{bad}: {told}");
            assert!(!told.contains("MfKQ") && !told.contains("plain text of 23"), "{told}");
        }
        assert!(read(" \n").is_err());
    }

    #[test]
    fn a_receiver_may_say_when_in_seconds_or_as_a_date() {
        let now: Timestamp = "2026-11-23T08:00:00Z".parse().unwrap();
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Mon, 23 Nov 2026 08:01:00 GMT", now), Some(Duration::from_secs(60)));
        assert_eq!(retry_after("Mon, 23 Nov 2026 07:00:00 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }
}
