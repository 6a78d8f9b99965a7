//! policy.md, "What must come out of config/policy.toml", through HTTP.

use pullgate::clock::Clock;
use pullgate::oci::Digest;

use crate::support::gateway::{Answer, Form, Gateway, Site, morning, shipped_policy};
use crate::support::image::{Fixture, Image, random_bytes};
use crate::support::registry::Registry;

pub(crate) const PYTHON: &str = "library/python";
pub(crate) const VECTOR: &str = "pgvector/pgvector";

/// The registries of the shipped policy, each a fake of its own, and the gateway before them.
pub(crate) struct Fleet {
    pub(crate) gateway: Gateway,
    pub(crate) hub: Registry,
    pub(crate) gcr: Registry,
    pub(crate) ghcr: Registry,
}

impl Fleet {
    pub(crate) async fn start() -> Self {
        let (hub, gcr, ghcr) = (Registry::plain(), Registry::plain(), Registry::plain());
        let site = Site::new(&shipped_policy())
            .with_upstream("docker.io", &hub)
            .with_upstream("gcr.io", &gcr)
            .with_upstream("ghcr.io", &ghcr)
            .with_clock(&Clock::manual(morning()));
        Self { gateway: site.start().await, hub, gcr, ghcr }
    }

    /// What any upstream or any resolver was asked so far.
    pub(crate) fn traces(&self) -> Vec<String> {
        let fakes = [&self.hub, &self.gcr, &self.ghcr];
        let requests = fakes.iter().flat_map(|fake| fake.requests());
        let paths = requests.map(|request| format!("{} {}", request.method, request.path));
        paths.chain(self.gateway.site.names.asked().into_iter().map(|name| format!("DNS {name}"))).collect()
    }
}

/// An image that every rule of the shipped policy lets pass.
pub(crate) fn image(seed: u64) -> Fixture {
    Image::new("linux/amd64").layer(random_bytes(seed, 3000)).user("10001:10001").build()
}

/// A refusal in the form that `?ns=` gets: the tag exists, and what it leads to is refused.
fn expect_firm(head: &Answer, get: &Answer, reason: &str) {
    assert_eq!(head.status, 200);
    assert!(head.header("content-type").ends_with("manifest.v1+json"), "{head:?}");
    assert!(!head.has("docker-content-digest"), "{head:?}");
    assert!(!head.has("content-length"), "{head:?}");
    let error = get.expect_denied(reason);
    expect_phrase(get, &error);
}

/// A refusal as the spec has it, the same to HEAD and GET.
fn expect_plain(head: &Answer, get: &Answer, reason: &str) {
    let error = get.expect_denied(reason);
    expect_phrase(get, &error);
    assert_eq!(head.status, 403);
    assert_eq!(head.phrase, get.phrase);
    assert_eq!(head.header("content-length"), get.header("content-length"));
    assert!(head.body.is_empty());
}

fn expect_phrase(answer: &Answer, error: &serde_json::Value) {
    let phrase = answer.phrase.as_deref().unwrap_or_else(|| panic!("no reason phrase in {answer:?}"));
    assert!(phrase.is_ascii() && phrase.len() <= 120, "{phrase:?}");
    assert!(phrase.contains(error["detail"]["id"].as_str().unwrap()), "{phrase:?}");
}

/// Asks in all the forms that can name this registry, by HEAD and GET, and expects the refusal.
async fn expect_refused(fleet: &Fleet, registry: &str, repository: &str, rest: &str, reason: &str) {
    for form in [Form::Ns, Form::Prefix, Form::Bare] {
        if form == Form::Bare && registry != "docker.io" {
            continue;
        }
        let path = form.path(registry, repository, rest);
        let head = fleet.gateway.head(&path).await;
        let get = fleet.gateway.get(&path).await;
        match form {
            Form::Ns if rest.starts_with("manifests/") => expect_firm(&head, &get, reason),
            _ => expect_plain(&head, &get, reason),
        }
        let namespace = (form == Form::Ns).then_some(registry);
        assert_eq!(get.headers.get("oci-namespace").map(|value| value.to_str().unwrap()), namespace);
    }
}

async fn expect_served(fleet: &Fleet, registry: &str, repository: &str, reference: &str, image: &Fixture) {
    for form in [Form::Ns, Form::Prefix, Form::Bare] {
        if form == Form::Bare && !registry.ends_with("docker.io") {
            continue;
        }
        let path = form.path(registry, repository, &format!("manifests/{reference}"));
        let get = fleet.gateway.get(&path).await;
        get.expect_bytes(&image.manifest);
        let head = fleet.gateway.head(&path).await;
        assert_eq!(head.status, 200);
        assert_eq!(head.header("docker-content-digest"), image.digest().to_string());
        assert_eq!(head.header("content-length"), image.manifest.len().to_string());
    }
}

#[tokio::test]
async fn what_the_table_refuses_by_name_is_refused_in_every_form_and_no_upstream_hears_of_it() {
    let fleet = Fleet::start().await;
    let any = Digest::sha256(b"any");
    for tag in ["3.11", "3.11.9", "latest", "1.2.3-latest", "1.2.3-Latest", "3.14-rc-trixie", "1.2.3-rc1"] {
        image(1).push(&fleet.hub, PYTHON, tag);
    }
    let by_digest = format!("manifests/{any}");
    let rows = [
        ("docker.io", PYTHON, "manifests/3.11", "tag.not_allowed"),
        ("docker.io", PYTHON, "manifests/latest", "tag.denied"),
        ("docker.io", PYTHON, "manifests/1.2.3-latest", "tag.denied"),
        ("docker.io", PYTHON, "manifests/1.2.3-Latest", "tag.denied"),
        ("docker.io", PYTHON, "manifests/3.14-rc-trixie", "tag.denied"),
        ("docker.io", PYTHON, "manifests/1.2.3-rc1", "tag.denied"),
        ("docker.io", "bitnami/redis", "manifests/7.2.5", "source.unknown"),
        ("docker.io", "library/evil/x", "manifests/1.2.3", "source.unknown"),
        ("docker.io.evil.com", PYTHON, "manifests/3.11.9", "source.unknown"),
        ("gcr.io", "distroless-evil/static", &by_digest, "source.unknown"),
        ("gcr.io", "distroless/static-debian12", "manifests/nonroot", "tag.not_allowed"),
        ("docker.io", VECTOR, "manifests/latest", "tag.denied"),
        ("quay.io", "prometheus/node-exporter", "manifests/v1.9.0", "source.unknown"),
    ];
    for (registry, repository, rest, reason) in rows {
        expect_refused(&fleet, registry, repository, rest, reason).await;
    }
    assert_eq!(fleet.traces(), [""; 0], "refused names must reach nobody");
}

#[tokio::test]
async fn every_other_endpoint_of_an_unknown_registry_is_refused_before_dns() {
    let fleet = Fleet::start().await;
    let any = Digest::sha256(b"any");
    for rest in [format!("blobs/{any}"), format!("referrers/{any}"), "tags/list".to_owned()] {
        for form in [Form::Ns, Form::Prefix] {
            let path = form.path("registry.evil.example", "library/python", &rest);
            fleet.gateway.get(&path).await.expect_denied("source.unknown");
            assert_eq!(fleet.gateway.head(&path).await.status, 403);
        }
    }
    assert_eq!(fleet.traces(), [""; 0], "refused names must reach nobody");
}

#[tokio::test]
async fn the_refusal_of_an_unknown_source_does_not_print_the_allow_list() {
    let fleet = Fleet::start().await;
    let answer = fleet.gateway.get("/v2/quay.io/prometheus/node-exporter/manifests/v1.9.0").await;
    answer.expect_denied("source.unknown");
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    for secret in ["distroless", "pgvector", "ghcr.io", "library/"] {
        assert!(!body.contains(secret), "{body}");
    }
}

#[tokio::test]
async fn what_the_table_allows_by_tag_is_served_in_every_form() {
    let fleet = Fleet::start().await;
    let image = image(2);
    for tag in ["3.11-slim-bookworm", "3.11.9"] {
        image.push(&fleet.hub, PYTHON, tag);
        expect_served(&fleet, "docker.io", PYTHON, tag, &image).await;
    }
    for tag in ["16.4", "16.4-bookworm"] {
        image.push(&fleet.hub, "library/postgres", tag);
        expect_served(&fleet, "docker.io", "library/postgres", tag, &image).await;
    }
    image.push(&fleet.hub, VECTOR, "0.8.0-pg16");
    expect_served(&fleet, "docker.io", VECTOR, "0.8.0-pg16", &image).await;
    image.push(&fleet.ghcr, "makercorn/nbedr", "v1.0.0");
    expect_served(&fleet, "ghcr.io", "makercorn/nbedr", "v1.0.0", &image).await;
}

#[tokio::test]
async fn other_spellings_of_docker_hub_are_the_same_image() {
    let fleet = Fleet::start().await;
    let image = image(3);
    image.push(&fleet.hub, PYTHON, "3.11.9");
    for path in [
        "/v2/index.docker.io/library/python/manifests/3.11.9",
        "/v2/registry-1.docker.io/library/python/manifests/3.11.9",
        "/v2/docker.io/python/manifests/3.11.9",
        "/v2/DOCKER.io:443/library/python/manifests/3.11.9",
        "/v2/python/manifests/3.11.9",
        "/v2/library/python/manifests/3.11.9?ns=index.docker.io",
        "/v2/library/python/manifests/3.11.9?ns=registry-1.docker.io",
        "/v2/docker.io/library/python/manifests/3.11.9?ns=docker.io",
        "/v2/index.docker.io/library/python/manifests/3.11.9?ns=docker.io",
    ] {
        fleet.gateway.get(path).await.expect_bytes(&image.manifest);
    }
    assert_eq!(fleet.hub.hits("GET", "/manifests/"), 1, "one image, fetched once");
}

#[tokio::test]
async fn distroless_is_served_by_digest_alone() {
    let fleet = Fleet::start().await;
    let image = image(4);
    image.push(&fleet.gcr, "distroless/static-debian12", "nonroot");
    let reference = image.digest().to_string();
    expect_served(&fleet, "gcr.io", "distroless/static-debian12", &reference, &image).await;
}

#[tokio::test]
async fn pgvector_by_digest_is_served_if_an_allowed_tag_leads_there_also_on_a_cold_gateway() {
    let fleet = Fleet::start().await;
    let (allowed, latest) = (image(5), image(6));
    allowed.push(&fleet.hub, VECTOR, "0.8.0-pg16");
    latest.push(&fleet.hub, VECTOR, "latest");
    let reference = allowed.digest().to_string();
    expect_served(&fleet, "docker.io", VECTOR, &reference, &allowed).await;
    let rest = format!("manifests/{}", latest.digest());
    expect_refused(&fleet, "docker.io", VECTOR, &rest, "digest.unknown").await;
}

#[tokio::test]
async fn the_digest_of_a_refused_tag_is_refused_on_a_cold_gateway() {
    let fleet = Fleet::start().await;
    let (allowed, latest) = (image(5), image(6));
    allowed.push(&fleet.hub, VECTOR, "0.8.0-pg16");
    latest.push(&fleet.hub, VECTOR, "latest");
    let rest = format!("manifests/{}", latest.digest());
    expect_refused(&fleet, "docker.io", VECTOR, &rest, "digest.unknown").await;
    assert_eq!(fleet.hub.hits("GET", &latest.digest().to_string()), 0, "what is refused is not fetched");
}

#[tokio::test]
async fn a_blob_that_only_a_refused_tag_contains_is_refused_everywhere() {
    let fleet = Fleet::start().await;
    let (allowed, latest) = (image(7), image(8));
    allowed.push(&fleet.hub, VECTOR, "0.8.0-pg16");
    latest.push(&fleet.hub, VECTOR, "latest");
    allowed.push(&fleet.hub, PYTHON, "3.11.9");
    let rest = format!("blobs/{}", Digest::sha256(latest.layer(0)));
    for pulled_before in [false, true] {
        expect_refused(&fleet, "docker.io", VECTOR, &rest, "closure.outside").await;
        expect_refused(&fleet, "docker.io", PYTHON, &rest, "closure.outside").await;
        if !pulled_before {
            fleet.gateway.pull(Form::Ns, "docker.io", VECTOR, "0.8.0-pg16", &allowed).await;
            fleet.gateway.pull(Form::Ns, "docker.io", PYTHON, "3.11.9", &allowed).await;
        }
    }
    assert_eq!(fleet.hub.hits("*", &Digest::sha256(latest.layer(0)).to_string()), 0);
}

#[tokio::test]
async fn a_cached_layer_that_a_hostile_repository_names_is_refused_there() {
    let fleet = Fleet::start().await;
    let private = image(9);
    private.push(&fleet.hub, PYTHON, "3.11.9");
    fleet.gateway.pull(Form::Ns, "docker.io", PYTHON, "3.11.9", &private).await;

    // The hostile repository serves a manifest that names the layer, and does not have the layer.
    let hostile = "evil/thief";
    fleet.ghcr.push_blob(hostile, private.blobs[0].clone());
    fleet.ghcr.push_manifest(hostile, Some("v1.0.0"), private.media_type, private.manifest.clone());
    let manifest = Form::Prefix.path("ghcr.io", hostile, "manifests/v1.0.0");
    fleet.gateway.get(&manifest).await.expect_bytes(&private.manifest);

    let layer = Digest::sha256(private.layer(0)).to_string();
    let path = Form::Prefix.path("ghcr.io", hostile, &format!("blobs/{layer}"));
    fleet.gateway.get(&path).await.expect_denied("possession.missing");
    assert_eq!(fleet.ghcr.hits("HEAD", &layer), 1, "its upstream is asked whether it has the layer");
    assert_eq!(fleet.ghcr.hits("GET", &layer), 0);
    let config = Form::Prefix.path("ghcr.io", hostile, &format!("blobs/{}", private.config()));
    fleet.gateway.get(&config).await.expect_bytes(&private.blobs[0]);
    assert_eq!(
        fleet.ghcr.hits("GET", &private.config().to_string()),
        0,
        "vouched for by HEAD, served from the store"
    );
}

#[tokio::test]
async fn the_words_of_a_refusal_say_what_and_where_to_ask() {
    let fleet = Fleet::start().await;
    image(10).push(&fleet.hub, PYTHON, "3.11.9");
    let error = fleet
        .gateway
        .get("/v2/docker.io/library/python/manifests/3.11")
        .await
        .expect_denied("tag.not_allowed");
    let (message, id) = (error["message"].as_str().unwrap(), error["detail"]["id"].as_str().unwrap());
    assert!(message.contains("docker.io/library/python:3.11"), "{message}");
    assert!(message.contains(r#"tag "3.11" is not pinned"#), "{message}");
    assert!(message.contains(&format!("https://pullgate.example/d/{id}")), "{message}");
    assert!(message.ends_with("#platform-security"), "{message}");
}

#[tokio::test]
async fn the_user_of_an_application_image_decides_in_every_form() {
    let fleet = Fleet::start().await;
    let app = |seed, user: Option<&str>| {
        let image = Image::new("linux/amd64").layer(random_bytes(seed, 3000));
        match user {
            Some(user) => image.user(user).build(),
            None => image.build(),
        }
    };
    let allowed = app(20, Some("10001:10001"));
    allowed.push(&fleet.ghcr, "makercorn/nbedr", "v1.0.0");
    expect_served(&fleet, "ghcr.io", "makercorn/nbedr", "v1.0.0", &allowed).await;
    for (seed, user, reason) in [
        (21, Some("10000"), "user.min_uid"),
        (22, Some("0"), "user.min_uid"),
        (23, None, "user.min_uid"),
        (24, Some("root"), "user.named"),
        (25, Some("app"), "user.named"),
        (26, Some("4294967296"), "user.named"),
    ] {
        let image = app(seed, user);
        let tag = format!("v1.0.{seed}");
        let digest = image.push(&fleet.ghcr, "makercorn/nbedr", tag.as_str());
        expect_refused(&fleet, "ghcr.io", "makercorn/nbedr", &format!("manifests/{tag}"), reason).await;
        expect_refused(&fleet, "ghcr.io", "makercorn/nbedr", &format!("manifests/{digest}"), reason).await;
        let layer = Digest::sha256(image.layer(0));
        let blob = Form::Prefix.path("ghcr.io", "makercorn/nbedr", &format!("blobs/{layer}"));
        fleet.gateway.get(&blob).await.expect_denied(reason);
        assert_eq!(fleet.ghcr.hits("GET", &layer.to_string()), 0, "a refused image's layer is not fetched");
    }
}
