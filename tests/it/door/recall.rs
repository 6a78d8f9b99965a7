//! `pullgate recall …` beside a gateway that runs: what contains it, who pulled it, who was refused.

use pullgate::oci::Digest;
use serde_json::Value;

use super::pins::pullgate;
use super::{POLICY, Pair};
use crate::support::fault::Fault;
use crate::support::gateway::{Form, until};
use crate::support::image::{Fixture, Image, Index, random_bytes};

#[tokio::test]
async fn a_recall_shows_what_contains_it_who_pulled_it_and_who_pulls_the_replacement() {
    let pair = Pair::start().await;
    let shared = random_bytes(1, 4000);
    let one = Image::new("linux/amd64").layer(shared.clone()).user("1").build();
    let index = Index::of([one.clone()]);
    let other = Image::new("linux/amd64").layer(random_bytes(2, 10)).layer(shared.clone()).build();
    let clean = Image::new("linux/amd64").layer(random_bytes(3, 10)).build();
    index.push(&pair.hub, "acme/app", "1.0.0");
    other.push(&pair.ghcr, "other/tool", "2.0.0");
    clean.push(&pair.hub, "acme/app", "1.0.1");
    let gateway = &pair.gateway;
    gateway.pull(Form::Prefix, "docker.io", "acme/app", "1.0.0", &index).await;
    gateway.pull(Form::Prefix, "ghcr.io", "other/tool", "2.0.0", &other).await;
    let layer = Digest::sha256(&shared);
    let recall = format!(
        "[[recall]]\nid = \"RC-1\"\nreason = \"CVE-2026-12345\"\nlayers = [\"{layer}\"]\nreplace = \"docker.io/acme/app:1.0.1\"\n"
    );
    gateway.site.write_policy(&format!("{POLICY}{recall}"));
    let path = "/v2/docker.io/acme/app/manifests/1.0.0";
    until("the recall is in force", async || gateway.get(path).await.status == 403).await;
    gateway.get(path).await.expect_denied("recall");
    gateway.running.flush_log().await.unwrap();
    let config = gateway.site.path("pullgate.toml");
    let show = async || {
        let said = pullgate(&config, &["recall", "show", "RC-1", "--json"]).await.ended(0);
        said.json().remove(0)
    };
    let shown = show().await;
    let mut images: Vec<&str> = shown["contained_in"]
        .as_array()
        .unwrap()
        .iter()
        .map(|holder| holder["image"].as_str().unwrap())
        .collect();
    images.sort_unstable();
    let mut expected = vec![
        format!("docker.io/acme/app@{}", index.digest()),
        format!("docker.io/acme/app@{}", one.digest()),
        format!("ghcr.io/other/tool@{}", other.digest()),
    ];
    expected.sort_unstable();
    assert_eq!(images, expected);
    let pulled: Vec<&str> = shown["pulled"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pulls| pulls["reference"].as_str().unwrap())
        .collect();
    assert!(pulled.contains(&"docker.io/acme/app:1.0.0") && pulled.contains(&"ghcr.io/other/tool:2.0.0"));
    assert!(!pulled.contains(&"docker.io/acme/app:1.0.1"));
    assert_eq!(shown["pulled"][0]["client"], "127.0.0.1");
    assert_eq!(shown["refused"][0]["reference"], "docker.io/acme/app:1.0.0");
    assert_eq!(shown["replaced"], Value::Array(Vec::new()));

    gateway.pull(Form::Prefix, "docker.io", "acme/app", "1.0.1", &clean).await;
    gateway.running.flush_log().await.unwrap();
    assert_eq!(show().await["replaced"][0]["reference"], "docker.io/acme/app:1.0.1");
    let said = pullgate(&config, &["recall", "show", "RC-1"]).await.ended(0);
    for words in ["Running containers are not seen here", "Replacement pulled by:", &layer.to_string()] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
    let said = pullgate(&config, &["recall", "list"]).await.ended(0);
    assert!(said.out.starts_with("RC-1  CVE-2026-12345"), "{}", said.out);
    assert!(pullgate(&config, &["recall", "show", "RC-9"]).await.ended(2).err.contains("no recall \"RC-9\""));
}

/// Recalls these manifests and nothing else.
fn recalling(digests: &[Digest]) -> String {
    let digests: Vec<String> = digests.iter().map(|digest| format!("\"{digest}\"")).collect();
    format!("{POLICY}[[recall]]\nid = \"RC-1\"\nreason = \"bad\"\ndigests = [{}]\n", digests.join(", "))
}

fn one(seed: u64) -> Fixture {
    Image::new("linux/amd64").layer(random_bytes(seed, 100)).build()
}

/// The path of a manifest at the gateway, and at the upstream.
fn manifest(registry: &str, repository: &str, digest: Digest) -> (String, String) {
    let rest = format!("manifests/{digest}");
    (Form::Prefix.path(registry, repository, &rest), format!("/v2/{repository}/{rest}"))
}

#[tokio::test]
async fn a_recalled_index_that_nobody_saw_here_covers_its_children_and_is_asked_for_once() {
    let (child, nested, other, deep) = (one(1), one(2), one(3), one(4));
    let index = Index::of([child.clone(), Index::of([nested.clone()])]);
    let recalled = index.digest();
    let policy = recalling(&[recalled, Digest::sha256(b"nobody has this")]);
    let pair = Pair::with(|site| {
        site.write_policy(&policy);
        site
    })
    .await;
    let (gateway, hub, ghcr) = (&pair.gateway, &pair.hub, &pair.ghcr);
    index.push(hub, "acme/app", "2.0.0");
    other.push(hub, "acme/app", "2.0.1");
    // What is not there makes nobody ask for more.
    let (made_up, _) = manifest("docker.io", "acme/app", Digest::sha256(b"made up"));
    gateway.get(&made_up).await.expect_error(404, "MANIFEST_UNKNOWN");
    let (_, asked) = manifest("docker.io", "acme/app", recalled);
    assert_eq!(hub.hits("GET", &asked), 0);
    for covered in [&child, &nested, &child] {
        let (path, _) = manifest("docker.io", "acme/app", covered.digest());
        gateway.get(&path).await.expect_denied("recall");
    }
    gateway.pull(Form::Prefix, "docker.io", "acme/app", "2.0.1", &other).await;
    assert_eq!(hub.hits("GET", &asked), 1);
    // Known by now, it covers them in every repository.
    child.push(ghcr, "other/tool", "2.0.0");
    deep.push(ghcr, "other/tool", "2.0.1");
    other.push(ghcr, "other/tool", "2.0.2");
    let (path, _) = manifest("ghcr.io", "other/tool", child.digest());
    gateway.get(&path).await.expect_denied("recall");
    // That one registry does not have the other one is remembered.
    for image in [&deep, &other, &deep] {
        gateway.pull_digest(Form::Prefix, "ghcr.io", "other/tool", image).await;
    }
    let (_, absent) = manifest("ghcr.io", "other/tool", Digest::sha256(b"nobody has this"));
    assert_eq!(ghcr.hits("GET", &absent), 1);
}

#[tokio::test]
async fn an_upstream_that_cannot_be_asked_about_a_recall_holds_up_what_is_new_and_nothing_that_is_here() {
    let pair = Pair::start().await;
    let (gateway, hub) = (&pair.gateway, &pair.hub);
    let (cached, cold, listed) = (one(1), one(2), one(3));
    for (image, tag) in [(&cached, "1.0.0"), (&cold, "1.0.1"), (&listed, "1.0.2")] {
        image.push(hub, "acme/app", tag);
    }
    gateway.pull(Form::Prefix, "docker.io", "acme/app", "1.0.0", &cached).await;
    let unseen = Index::of([listed.clone()]);
    unseen.push(hub, "acme/app", "9.9.9");
    let (path, _) = manifest("docker.io", "acme/app", cold.digest());
    let (_, asked) = manifest("docker.io", "acme/app", unseen.digest());
    hub.on("GET", &asked).always(Fault::status(500));
    gateway.site.write_policy(&recalling(&[unseen.digest()]));
    gateway.event(|event| event["kind"] == "policy" && event["previous"].is_object()).await;
    let refused = gateway.get(&path).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.json()["errors"][0]["detail"]["reason"], "facts.unavailable");
    gateway.pull(Form::Prefix, "docker.io", "acme/app", "1.0.0", &cached).await;
    hub.clear_faults();
    gateway.pull_digest(Form::Prefix, "docker.io", "acme/app", &cold).await;
    let (path, _) = manifest("docker.io", "acme/app", listed.digest());
    gateway.get(&path).await.expect_denied("recall");
    hub.stop().await;
    gateway.pull(Form::Prefix, "docker.io", "acme/app", "1.0.0", &cached).await;
}
