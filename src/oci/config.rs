//! Image configs: what an image says of itself, read once and without belief.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::DeserializeSeed as _;
use serde::{Deserialize, Serialize};

use super::spelling::{CONFIG, Level};
use super::{Digest, Platform};

/// The largest image config that is read, in bytes. Real ones have some kilobytes.
pub const CONFIG_MAX: u64 = 4 << 20;
/// The most layers and labels that one is believed to have.
const ITEMS_MAX: usize = 2000;

/// What an image config says, as far as rules ask (image-spec, config.md).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ImageConfig {
    /// Where it runs; an empty `os` for what is no image, as signatures have it.
    pub platform: Platform,
    /// When it was made; none where it does not say so in a time that can be read.
    pub created: Option<Timestamp>,
    /// `User` as written; empty is root.
    pub user: String,
    /// `Labels`.
    pub labels: BTreeMap<String, String>,
    /// The digests of its uncompressed layers, in order.
    pub diff_ids: Vec<Digest>,
}

/// Why bytes are no image config.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the image config cannot be read: {0}")]
pub struct ConfigError(String);

#[derive(Deserialize)]
struct Wire {
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    created: Option<serde_json::Value>,
    config: Option<Runtime>,
    rootfs: Option<Root>,
}

#[derive(Default, Deserialize)]
struct Runtime {
    #[serde(rename = "User")]
    user: Option<String>,
    #[serde(rename = "Labels")]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct Root {
    diff_ids: Option<Vec<Digest>>,
}

impl ImageConfig {
    /// Reads a config. A key that another reader would take for one of these (`"user"` for `"User"`)
    /// is an error: what is judged must be what is run.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        let malformed = |error: &dyn std::fmt::Display| {
            // A parser quotes what it read, and that may be megabytes.
            ConfigError(error.to_string().chars().take(300).collect())
        };
        if bytes.len() as u64 > CONFIG_MAX {
            return Err(malformed(&format!(
                "it has {} bytes; at most {CONFIG_MAX} are accepted",
                bytes.len()
            )));
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(|error| malformed(&error))?;
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        Level::deserialize(CONFIG, &mut reader).map_err(|error| malformed(&error))?;
        let runtime = wire.config.unwrap_or_default();
        let labels = runtime.labels.unwrap_or_default();
        let diff_ids = wire.rootfs.and_then(|root| root.diff_ids).unwrap_or_default();
        if labels.len() > ITEMS_MAX || diff_ids.len() > ITEMS_MAX {
            return Err(malformed(&format!("it has more than {ITEMS_MAX} layers or labels")));
        }
        // Other words than a time are as good as none: no rule may be passed by them.
        let created = wire.created.as_ref().and_then(serde_json::Value::as_str);
        Ok(Self {
            platform: Platform {
                architecture: wire.architecture.unwrap_or_default(),
                os: wire.os.unwrap_or_default(),
                variant: wire.variant.filter(|variant| !variant.is_empty()),
                os_version: wire.os_version.filter(|version| !version.is_empty()),
            },
            created: created.and_then(|text| text.parse().ok()),
            user: runtime.user.unwrap_or_default(),
            labels,
            diff_ids,
        })
    }
}

/// Whether this media type is one that docker takes for an image's config; podman and containerd take
/// fewer.
pub fn is_config_type(media_type: &str) -> bool {
    const TYPES: [&str; 6] = [
        "",
        "application/octet-stream",
        "application/vnd.docker.container.image.v1+json",
        "application/vnd.oci.image.config.v1+json",
        "text/html",
        "text/plain",
    ];
    let bare = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    TYPES.contains(&bare.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rules_ask_for_is_read() {
        let text = r#"{"architecture":"arm64","os":"linux","variant":"v8","created":"2026-11-01T00:00:00Z",
            "config":{"User":"10001:10001","Labels":{"a":"b"},"Cmd":["x"]},"history":[{"created_by":"y"}],
            "rootfs":{"type":"layers","diff_ids":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]}}"#;
        let config = ImageConfig::parse(text.as_bytes()).expect("a config");
        assert_eq!(
            (config.platform.to_string().as_str(), config.user.as_str()),
            ("linux/arm64/v8", "10001:10001")
        );
        assert_eq!((config.labels["a"].as_str(), config.diff_ids.len()), ("b", 1));
        assert_eq!(config.created, "2026-11-01T00:00:00Z".parse().ok());
        let back: ImageConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
        assert_eq!(back, config, "it is kept as it was read");
    }

    #[test]
    fn what_is_missing_is_empty_and_a_time_that_is_none_is_unknown() {
        let config = ImageConfig::parse(br#"{"config":null,"rootfs":null,"created":17}"#).expect("a config");
        assert_eq!((config.user.as_str(), config.created, config.platform.os.as_str()), ("", None, ""));
        assert_eq!(ImageConfig::parse(br#"{"created":"soon"}"#).expect("a config").created, None);
    }

    #[test]
    fn a_config_that_another_reader_would_read_differently_is_refused() {
        for text in [
            r#"{"config":{"User":"10001"},"Config":{"User":"0"}}"#,
            r#"{"config":{"User":"10001","user":"0"}}"#,
            r#"{"config":{"User":"10001","u\u017fer":"0"}}"#,
            r#"{"config":{"User":"10001","User":"0"}}"#,
            r#"{"config":{"User":"10001"},"OS":"linux"}"#,
            r#"{"rootfs":{"Diff_IDs":[]}}"#,
            r#"{"rootfs":{"diff_ids":["sha256:00"]}}"#,
            r#"{"config":{"User":10001}}"#,
            "[]",
            "",
        ] {
            assert!(ImageConfig::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(ImageConfig::parse(&[b'['].repeat(200_000)).is_err());
        let free = r#"{"config":{"Labels":{"user":"x","Config":"y"}}}"#;
        assert!(ImageConfig::parse(free.as_bytes()).is_ok(), "labels may be called like keys");
    }
}
