//! What one client may do to the others: nothing.

use pullgate::oci::Digest;

use super::{Pair, image};
use crate::support::gateway::Form;
use crate::support::image::Index;

const APP: &str = "acme/app";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[tokio::test]
async fn a_refusal_of_one_client_is_never_the_answer_to_another() {
    let pair = Pair::with(|site| site.with("listen.trusted_proxies", vec!["127.0.0.0/8"])).await;
    let image = image(30, 1000);
    image.push(&pair.hub, APP, "1.0.0");
    let layer = Digest::sha256(image.layer(0));
    let blob = path(Form::Ns, APP, format!("blobs/{layer}"));
    let as_manifest = path(Form::Ns, APP, format!("manifests/{layer}"));
    let attacker = [("x-forwarded-for", "10.1.1.1"), ("authorization", "Bearer nobody's")];
    pair.gateway.send("GET", &path(Form::Ns, APP, "manifests/1.0.0"), &[]).await;
    pair.gateway.send("GET", &as_manifest, &attacker).await.expect_denied("client.unknown");
    for address in ["10.1.1.1", "10.2.2.2"] {
        let answer = pair.gateway.send("GET", &blob, &[("x-forwarded-for", address)]).await;
        assert_eq!(answer.status, 200, "{address}");
    }
}

#[tokio::test]
async fn a_header_does_not_make_a_manifest_another_thing_for_other_repositories() {
    let pair = Pair::start().await;
    let image = image(31, 1000);
    image.push(&pair.hub, "acme/first", "1.0.0");
    image.push(&pair.hub, APP, "1.0.0");
    let lie = crate::support::fault::Fault::ContentType(
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    );
    pair.hub.on("*", "/acme/first/manifests/").always(lie);
    pair.gateway.get(&path(Form::Prefix, "acme/first", "manifests/1.0.0")).await;
    let answer = pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["content-type"], OCI_MANIFEST);
}

#[tokio::test]
async fn a_child_of_an_index_is_not_to_be_had_as_a_blob() {
    let pair = Pair::start().await;
    let index = Index::platforms(&["linux/amd64", "linux/arm64"], 32);
    index.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(&path(Form::Prefix, APP, "manifests/1.0.0")).await;
    let child: Digest = index.children[0].digest();
    pair.gateway
        .get(&path(Form::Prefix, APP, format!("blobs/{child}")))
        .await
        .expect_denied("closure.outside");
    assert_eq!(pair.hub.hits("GET", &format!("/blobs/{child}")), 0);
}

fn path(form: Form, repository: &str, rest: impl AsRef<str>) -> String {
    form.path("docker.io", repository, rest.as_ref())
}
