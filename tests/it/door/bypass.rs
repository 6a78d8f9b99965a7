//! Ways round a policy that other gateways are known for: other names for what is refused, and parts of it.

use pullgate::oci::{Algorithm, Digest};

use super::table::{Fleet, PYTHON, VECTOR, image};
use crate::support::gateway::{Form, shipped_policy, until};
use crate::support::image::{Artifact, Fixture, Image, Index, random_bytes};

const NBEDR: &str = "makercorn/nbedr";
const STATIC: &str = "distroless/static-debian12";

fn platform(target: &str, seed: u64, user: &str) -> Fixture {
    Image::new(target).layer(random_bytes(seed, 2000)).user(user).build()
}

/// Refused to HEAD and GET by way of the path, and for containerd.
async fn expect_refused(fleet: &Fleet, registry: &str, repository: &str, rest: &str, code: &str) {
    for form in [Form::Prefix, Form::Ns] {
        fleet.gateway.get(&form.path(registry, repository, rest)).await.expect_denied(code);
    }
    assert_eq!(fleet.gateway.head(&Form::Prefix.path(registry, repository, rest)).await.status, 403);
}

#[tokio::test]
async fn no_spelling_of_a_refused_tag_is_served_and_no_upstream_hears_of_any() {
    let fleet = Fleet::start().await;
    image(1).push(&fleet.hub, PYTHON, "latest");
    for path in [
        "/v2/index.docker.io/library/python/manifests/latest",
        "/v2/registry-1.docker.io/library/python/manifests/latest",
        "/v2/docker.io/python/manifests/latest",
        "/v2/DOCKER.io:443/library/python/manifests/latest",
        "/v2/DOCKER.io:443/library/python/manifests/LATEST",
        "/v2/python/manifests/latest",
        "/v2/library/python/manifests/latest?ns=index.docker.io",
        "/v2/library/python/manifests/latest?ns=DOCKER.IO",
        "/v2/python/manifests/latest?ns=docker.io:443",
        "/v2/docker.io/library/python/manifests/latest?ns=docker.io",
        "/v2/index.docker.io/library/python/manifests/latest?ns=docker.io",
    ] {
        fleet.gateway.get(path).await.expect_denied("tag.denied");
    }
    for path in [
        "/v2/docker.io/library/python/manifests/l%61test",
        "/v2/docker.io./library/python/manifests/latest",
        "/v2/docker.io/library/Python/manifests/latest",
        "/v2/docker.io/library//python/manifests/latest",
        "/v2/docker.io/library/python/manifests/latest?ns=docker.io&ns=docker.io",
        "/v2/docker.io/library/python/manifests/latest?ns=gcr.io",
    ] {
        let answer = fleet.gateway.get(path).await;
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
    }
    assert_eq!(fleet.traces(), [""; 0]);
}

#[tokio::test]
async fn the_children_of_a_refused_index_are_refused_by_digest_but_for_those_of_an_admitted_one() {
    let fleet = Fleet::start().await;
    let [amd, arm] = [platform("linux/amd64", 1, "1"), platform("linux/arm64", 2, "1")];
    let latest = Index::of([amd.clone(), arm.clone()]);
    latest.push(&fleet.hub, VECTOR, "latest");
    for manifest in [&latest, &amd, &arm] {
        let rest = format!("manifests/{}", manifest.digest());
        expect_refused(&fleet, "docker.io", VECTOR, &rest, "digest.unknown").await;
    }
    for blob in amd.blobs.iter().chain(&arm.blobs) {
        let rest = format!("blobs/{}", Digest::sha256(blob));
        expect_refused(&fleet, "docker.io", VECTOR, &rest, "closure.outside").await;
    }
    // An admitted tag leads to one of the two.
    let fleet = Fleet::start().await;
    latest.push(&fleet.hub, VECTOR, "latest");
    Index::of([amd.clone()]).push(&fleet.hub, VECTOR, "0.8.0-pg16");
    fleet.gateway.pull_digest(Form::Prefix, "docker.io", VECTOR, &amd).await;
    let rest = format!("manifests/{}", arm.digest());
    expect_refused(&fleet, "docker.io", VECTOR, &rest, "digest.unknown").await;
    assert_eq!(fleet.hub.hits("GET", &arm.digest().to_string()), 0, "what is refused is not fetched");
}

#[tokio::test]
async fn the_child_for_which_an_index_is_refused_is_refused_by_itself_with_its_blobs() {
    let fleet = Fleet::start().await;
    let root = platform("linux/arm64", 4, "0");
    let index = Index::of([platform("linux/amd64", 3, "10001"), root.clone()]);
    index.push(&fleet.ghcr, NBEDR, "v1.0.0");
    for reference in ["v1.0.0".to_owned(), index.digest().to_string(), root.digest().to_string()] {
        let rest = format!("manifests/{reference}");
        expect_refused(&fleet, "ghcr.io", NBEDR, &rest, "user.min_uid").await;
    }
    for blob in &root.blobs {
        let rest = format!("blobs/{}", Digest::sha256(blob));
        expect_refused(&fleet, "ghcr.io", NBEDR, &rest, "user.min_uid").await;
    }
}

#[tokio::test]
async fn what_refers_to_a_refused_image_is_refused_with_it() {
    let fleet = Fleet::start().await;
    let latest = image(5);
    let signature = Artifact::new("application/vnd.dev.cosign.artifact.sig.v1+json")
        .blob("application/vnd.dev.cosign.simplesigning.v1+json", "{\"signed\":true}")
        .subject(&latest)
        .build();
    latest.push(&fleet.hub, VECTOR, "latest");
    fleet.hub.push_referrer(VECTOR, &signature);
    let tag = format!("sha256-{}.sig", latest.digest().hex());
    signature.push(&fleet.hub, VECTOR, tag.as_str());
    let list = format!("referrers/{}", latest.digest());
    expect_refused(&fleet, "docker.io", VECTOR, &list, "digest.unknown").await;
    let by_digest = format!("manifests/{}", signature.digest());
    expect_refused(&fleet, "docker.io", VECTOR, &by_digest, "digest.unknown").await;
    expect_refused(&fleet, "docker.io", VECTOR, &format!("manifests/{tag}"), "tag.not_allowed").await;
    let blob = format!("blobs/{}", Digest::sha256(signature.layer(0)));
    expect_refused(&fleet, "docker.io", VECTOR, &blob, "closure.outside").await;
}

#[tokio::test]
async fn another_hash_of_a_refused_digest_is_refused_too() {
    let fleet = Fleet::start().await;
    let latest = image(6);
    latest.push(&fleet.hub, VECTOR, "latest");
    image(7).push(&fleet.hub, VECTOR, "0.8.0-pg16");
    let other = Digest::of(Algorithm::Sha512, &latest.manifest);
    let rest = format!("manifests/{other}");
    expect_refused(&fleet, "docker.io", VECTOR, &rest, "digest.unknown").await;
    let layer = Digest::of(Algorithm::Sha512, latest.layer(0));
    expect_refused(&fleet, "docker.io", VECTOR, &format!("blobs/{layer}"), "closure.outside").await;
}

#[tokio::test]
async fn a_recalled_digest_is_refused_by_its_other_hash_cached_and_cold() {
    let (cached, cold) = (image(8), image(9));
    let fleet = Fleet::start().await;
    for image in [&cached, &cold] {
        image.push(&fleet.gcr, STATIC, None);
    }
    let other = |image: &Fixture| format!("manifests/{}", Digest::of(Algorithm::Sha512, &image.manifest));
    let path = Form::Prefix.path("gcr.io", STATIC, &other(&cached));
    fleet.gateway.get(&path).await.expect_bytes(&cached.manifest);
    let recall = format!(
        "[[recall]]\nid = \"RC-1\"\nreason = \"bad\"\ndigests = [\"{}\", \"{}\"]\n",
        cached.digest(),
        cold.digest()
    );
    let policy = format!("{}\n{recall}", shipped_policy().replace("\"2026.11\"", "\"2026.12\""));
    fleet.gateway.site.write_policy(&policy);
    until("the recall is in force", async || {
        let events = fleet.gateway.events().await;
        events.iter().any(|event| event["kind"] == "policy" && event["policy"]["revision"] == "2026.12")
    })
    .await;
    for image in [&cached, &cold] {
        expect_refused(&fleet, "gcr.io", STATIC, &other(image), "recall").await;
    }
}
