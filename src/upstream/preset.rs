//! Where the well-known registries are.

use url::Url;

use crate::oci::Registry;

/// A registry that needs no `[[upstream]]`, and the hosts it involves: what a site that closes its
/// egress has to open.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    /// The registry as it stands in image names; `*.` covers every name below.
    pub registry: &'static str,
    /// The host that is asked; `None`: the registry's own.
    pub endpoint: Option<&'static str>,
    /// Where its tokens come from, besides that host.
    pub auth_hosts: &'static [&'static str],
    /// Where it is known to redirect. Told, not enforced: these change, and any public host is allowed
    /// until `blob_hosts` is set.
    pub blob_hosts: &'static [&'static str],
}

/// The well-known registries.
pub const PRESETS: [Preset; 8] = [
    Preset {
        registry: "docker.io",
        endpoint: Some("registry-1.docker.io"),
        auth_hosts: &["auth.docker.io"],
        blob_hosts: &["production.cloudflare.docker.com", "*.cloudflarestorage.com"],
    },
    Preset {
        registry: "ghcr.io",
        endpoint: None,
        auth_hosts: &[],
        blob_hosts: &["pkg-containers.githubusercontent.com"],
    },
    Preset { registry: "gcr.io", endpoint: None, auth_hosts: &[], blob_hosts: &["storage.googleapis.com"] },
    Preset {
        registry: "*.pkg.dev",
        endpoint: None,
        auth_hosts: &[],
        blob_hosts: &["storage.googleapis.com"],
    },
    Preset { registry: "quay.io", endpoint: None, auth_hosts: &[], blob_hosts: &["*.quay.io"] },
    Preset {
        registry: "registry.k8s.io",
        endpoint: None,
        auth_hosts: &[],
        blob_hosts: &["*.pkg.dev", "storage.googleapis.com", "*.amazonaws.com"],
    },
    Preset { registry: "public.ecr.aws", endpoint: None, auth_hosts: &[], blob_hosts: &["*.cloudfront.net"] },
    Preset {
        registry: "mcr.microsoft.com",
        endpoint: None,
        auth_hosts: &[],
        blob_hosts: &["*.data.mcr.microsoft.com", "*.blob.core.windows.net"],
    },
];

/// The preset of a registry, if it is a well-known one.
pub fn preset(registry: &Registry) -> Option<&'static Preset> {
    PRESETS.iter().find(|preset| match preset.registry.strip_prefix('*') {
        Some(suffix) => registry.as_str().ends_with(suffix),
        None => registry.as_str() == preset.registry,
    })
}

/// Where a registry is asked when nobody says otherwise: by its preset, else `https://<registry>`.
pub fn default_endpoint(registry: &Registry) -> Option<Url> {
    let host = preset(registry).and_then(|preset| preset.endpoint).unwrap_or(registry.as_str());
    Url::parse(&format!("https://{host}")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_is_asked_at_its_own_name_but_docker_hub() {
        for (registry, url) in [
            ("docker.io", "https://registry-1.docker.io/"),
            ("quay.io", "https://quay.io/"),
            ("europe-docker.pkg.dev", "https://europe-docker.pkg.dev/"),
            ("registry.example:5000", "https://registry.example:5000/"),
        ] {
            assert_eq!(default_endpoint(&registry.parse().unwrap()).unwrap().as_str(), url);
        }
        assert!(preset(&"notpkg.dev".parse().unwrap()).is_none());
    }
}
