//! `pullgate recall …` beside a gateway that runs: what contains it, who pulled it, who was refused.

use pullgate::oci::Digest;
use serde_json::Value;

use super::pins::pullgate;
use super::{POLICY, Pair};
use crate::support::gateway::{Form, until};
use crate::support::image::{Image, Index, random_bytes};

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
