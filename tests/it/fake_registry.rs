//! The fake registry itself: what the other tests rely on.

use std::collections::BTreeMap;

use pullgate::oci::{Algorithm, Digest};
use reqwest::{Client, Response};
use serde_json::Value;

use crate::support::auth::{Auth, Bearer, Realm, basic};
use crate::support::client::{client, client_http1, send};
use crate::support::fault::{Fault, Gate};
use crate::support::image::{Artifact, Image, Index, random_bytes};
use crate::support::layout::Layout;
use crate::support::registry::{Redirect, Registry, RegistryOptions};

const REPOSITORY: &str = "library/python";

async fn fetch(client: &Client, registry: &Registry, path: &str) -> Response {
    send(client, "GET", format!("{}{path}", registry.endpoint()), &[]).await
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

async fn json(response: Response) -> Value {
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

/// Reads the body to its end or failure.
async fn drain(mut response: Response) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return (bytes, true),
            Err(_) => return (bytes, false),
        }
    }
}

#[tokio::test]
async fn a_multi_platform_image_is_served_byte_for_byte_in_both_protocols() {
    let registry = Registry::plain();
    let image = Index::platforms(&["linux/amd64", "linux/arm64/v8"], 1);
    let digest = image.push(&registry, REPOSITORY, "3.11-slim-bookworm");
    assert_eq!(digest, image.digest());

    for client in [client(registry.ca_pem()), client_http1(registry.ca_pem())] {
        for reference in ["3.11-slim-bookworm".to_owned(), digest.to_string()] {
            for method in ["HEAD", "GET"] {
                let url = format!("{}/v2/{REPOSITORY}/manifests/{reference}", registry.endpoint());
                let reply = send(&client, method, url, &[("accept", image.media_type)]).await;
                assert_eq!(reply.status(), 200);
                assert_eq!(header(&reply, "content-type"), image.media_type);
                assert_eq!(header(&reply, "docker-content-digest"), digest.to_string());
                assert_eq!(header(&reply, "content-length"), image.manifest.len().to_string());
                let body = reply.bytes().await.unwrap();
                assert_eq!(body, if method == "GET" { image.manifest.clone() } else { "".into() });
            }
        }
        let child = &image.children[1];
        let blob = fetch(&client, &registry, &format!("/v2/{REPOSITORY}/blobs/{}", child.config())).await;
        assert_eq!(blob.bytes().await.unwrap(), child.blobs[0]);
        let index =
            json(fetch(&client, &registry, &format!("/v2/{REPOSITORY}/manifests/{digest}")).await).await;
        assert_eq!(index["manifests"][1]["platform"]["variant"], "v8");
        assert_eq!(index["manifests"][1]["digest"], child.digest().to_string());
    }
    assert_eq!(registry.hits("HEAD", "/manifests/"), 4);
    assert_eq!(registry.hits("GET", "/blobs/"), 2);
    assert_eq!(registry.bytes_sent("/blobs/"), 2 * image.children[1].blobs[0].len() as u64);
    let last = registry.last("HEAD", "/manifests/");
    assert_eq!(last.values("accept"), [image.media_type]);
    assert_eq!(last.version, http::Version::HTTP_11);
    assert_eq!(registry.requests()[0].version, http::Version::HTTP_2);
    assert_eq!(registry.connections(), 2);
}

#[tokio::test]
async fn what_is_absent_says_so_in_the_words_of_the_spec() {
    let registry = Registry::plain();
    let image = Image::new("linux/amd64").docker().build();
    image.push(&registry, REPOSITORY, "1.0.0");
    let client = client(registry.ca_pem());
    let absent = Digest::sha256(b"absent");
    for (path, code) in [
        ("/v2/no/such/tags/list".to_owned(), "NAME_UNKNOWN"),
        ("/v2/no/such/manifests/1.0.0".to_owned(), "NAME_UNKNOWN"),
        ("/v2/nonsense".to_owned(), "NAME_UNKNOWN"),
        (format!("/v2/{REPOSITORY}/manifests/2.0.0"), "MANIFEST_UNKNOWN"),
        (format!("/v2/{REPOSITORY}/manifests/{absent}"), "MANIFEST_UNKNOWN"),
        (format!("/v2/{REPOSITORY}/blobs/{absent}"), "BLOB_UNKNOWN"),
        (format!("/v2/other/blobs/{}", image.config()), "BLOB_UNKNOWN"),
    ] {
        let reply = fetch(&client, &registry, &path).await;
        assert_eq!(reply.status(), 404, "{path}");
        assert_eq!(json(reply).await["errors"][0]["code"], code, "{path}");
    }
    assert_eq!(fetch(&client, &registry, "/v2/").await.status(), 200);

    registry.delete_tag(REPOSITORY, "1.0.0");
    let by_tag = format!("/v2/{REPOSITORY}/manifests/1.0.0");
    assert_eq!(fetch(&client, &registry, &by_tag).await.status(), 404);
    registry.move_tag(REPOSITORY, "1.0.0", image.digest());
    assert_eq!(fetch(&client, &registry, &by_tag).await.status(), 200);
    let sha512 = Digest::of(Algorithm::Sha512, &image.manifest);
    let by_sha512 = fetch(&client, &registry, &format!("/v2/{REPOSITORY}/manifests/{sha512}")).await;
    assert_eq!(header(&by_sha512, "docker-content-digest"), sha512.to_string());
    registry.clear();
    assert_eq!(fetch(&client, &registry, &by_tag).await.status(), 404);
}

#[tokio::test]
async fn tags_come_in_pages_and_ranges_in_part() {
    let registry = Registry::start(RegistryOptions { page: Some(2), ..RegistryOptions::default() });
    let image = Image::new("linux/amd64").layer(random_bytes(7, 1000)).build();
    for tag in ["c", "a", "b", "e", "d"] {
        image.push(&registry, REPOSITORY, tag);
    }
    let client = client(registry.ca_pem());
    let (mut path, mut pages) = (format!("/v2/{REPOSITORY}/tags/list?n=3"), Vec::new());
    while !path.is_empty() {
        let reply = fetch(&client, &registry, &path).await;
        let link = header(&reply, "link").to_owned();
        path = link.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        pages.push(json(reply).await["tags"].to_string());
    }
    assert_eq!(pages, [r#"["a","b"]"#, r#"["c","d"]"#, r#"["e"]"#]);

    let layer = image.layer(0);
    let url = format!("{}/v2/{REPOSITORY}/blobs/{}", registry.endpoint(), Digest::sha256(layer));
    for (range, status, content, body) in [
        ("bytes=10-19", 206, "bytes 10-19/1000", &layer[10..20]),
        ("bytes=990-", 206, "bytes 990-999/1000", &layer[990..]),
        ("bytes=990-5000", 206, "bytes 990-999/1000", &layer[990..]),
        ("bytes=-10", 206, "bytes 990-999/1000", &layer[990..]),
        ("bytes=0-1,5-6", 200, "", &layer[..]),
        ("bytes=9-3", 200, "", &layer[..]),
    ] {
        let reply = send(&client, "GET", url.clone(), &[("range", range)]).await;
        assert_eq!(reply.status(), status, "{range}");
        assert_eq!(header(&reply, "content-range"), content, "{range}");
        assert_eq!(reply.bytes().await.unwrap(), body, "{range}");
    }
    let beyond = send(&client, "GET", url.clone(), &[("range", "bytes=1000-")]).await;
    assert_eq!((beyond.status().as_u16(), header(&beyond, "content-range")), (416, "bytes */1000"));

    registry.on("GET", "/blobs/").once(Fault::IgnoreRange);
    registry.on("GET", "/blobs/").once(Fault::WrongContentRange("bytes 11-20/1000"));
    let range = [("range", "bytes=10-19")];
    let ignored = send(&client, "GET", url.clone(), &range).await;
    assert_eq!((ignored.status().as_u16(), ignored.content_length()), (200, Some(1000)));
    let wrong = send(&client, "GET", url, &range).await;
    assert_eq!((wrong.status().as_u16(), header(&wrong, "content-range")), (206, "bytes 11-20/1000"));
}

#[tokio::test]
async fn referrers_are_listed_by_the_api_or_by_the_fallback_tag() {
    let image = Image::new("linux/amd64").annotation("a", "b").label("c", "d").created("2020-01-01").build();
    let signature = Artifact::new("application/vnd.test.signature").blob("text/plain", "s").subject(&image);
    let signature = signature.build();
    let sbom = Artifact::new("application/vnd.test.sbom").subject(&image).build();
    for referrers_api in [true, false] {
        let registry = Registry::start(RegistryOptions { referrers_api, ..RegistryOptions::default() });
        image.push(&registry, REPOSITORY, "1.0.0");
        registry.push_referrer(REPOSITORY, &signature);
        registry.push_referrer(REPOSITORY, &sbom);
        let client = client(registry.ca_pem());
        let api = format!("/v2/{REPOSITORY}/referrers/{}", image.digest());
        let reply = fetch(&client, &registry, &api).await;
        let index = if referrers_api {
            let only_sboms = format!("{api}?artifactType=application/vnd.test.sbom");
            let filtered = fetch(&client, &registry, &only_sboms).await;
            assert_eq!(header(&filtered, "oci-filters-applied"), "artifactType");
            let filtered = json(filtered).await;
            assert_eq!(filtered["manifests"].as_array().unwrap().len(), 1);
            assert_eq!(filtered["manifests"][0]["digest"], sbom.digest().to_string());
            reply
        } else {
            assert_eq!(reply.status(), 404);
            let tag = format!("sha256-{}", image.digest().hex());
            fetch(&client, &registry, &format!("/v2/{REPOSITORY}/manifests/{tag}")).await
        };
        assert_eq!(header(&index, "content-type"), "application/vnd.oci.image.index.v1+json");
        let index = json(index).await;
        let types = index["manifests"].as_array().unwrap().iter().map(|one| one["artifactType"].to_string());
        let types: Vec<_> = types.collect();
        assert_eq!(types.len(), 2);
        assert!(types.contains(&r#""application/vnd.test.signature""#.to_owned()), "{types:?}");
    }
}

#[tokio::test]
async fn tokens_are_scoped_counted_and_revocable() {
    let bearer = Bearer {
        expires_in: Some(60),
        identity: Some("refresh".into()),
        realm: Realm::Separate("127.0.0.1".into()),
        ..Bearer::login("ci", "secret")
    };
    let registry =
        Registry::start(RegistryOptions { auth: Auth::Bearer(bearer), ..RegistryOptions::default() });
    Image::new("linux/amd64").build().push(&registry, REPOSITORY, "1.0.0");
    let client = client(registry.ca_pem());
    let url = format!("{}/v2/{REPOSITORY}/manifests/1.0.0", registry.endpoint());

    let refused = send(&client, "GET", url.clone(), &[]).await;
    assert_eq!(refused.status(), 401);
    let realm = format!("{}/token", registry.token_server().url("127.0.0.1"));
    let scope = format!("repository:{REPOSITORY}:pull");
    assert_eq!(
        header(&refused, "www-authenticate"),
        format!(r#"Bearer realm="{realm}",service="fake registry",scope="{scope}""#)
    );

    let token_url = format!("{realm}?service=fake+registry&scope={scope}");
    assert_eq!(send(&client, "GET", token_url.clone(), &[]).await.status(), 401);
    let login = basic("ci", "secret");
    let granted = json(send(&client, "GET", token_url, &[("authorization", &login)]).await).await;
    assert_eq!(granted["expires_in"], 60);
    let token = format!("Bearer {}", granted["token"].as_str().unwrap());
    assert_eq!(send(&client, "GET", url.clone(), &[("authorization", &token)]).await.status(), 200);
    let other = format!("{}/v2/other/tags/list", registry.endpoint());
    assert_eq!(send(&client, "GET", other, &[("authorization", &token)]).await.status(), 401);

    let form = format!("grant_type=refresh_token&refresh_token=refresh&access_type=offline&scope={scope}");
    let granted = json(client.post(&realm).body(form).send().await.unwrap()).await;
    assert_eq!(granted["refresh_token"], "refresh");
    let token = format!("Bearer {}", granted["access_token"].as_str().unwrap());
    assert_eq!(send(&client, "GET", url.clone(), &[("authorization", &token)]).await.status(), 200);
    registry.revoke_tokens();
    assert_eq!(send(&client, "GET", url, &[("authorization", &token)]).await.status(), 401);
    assert_eq!(registry.token_requests(), 3);
    assert_eq!(registry.last("GET", "/manifests/").authorization(), Some(token.as_str()));
}

#[tokio::test]
async fn each_kind_of_credentials_opens_its_own_door_only() {
    let hostile = Realm::At("https://elsewhere.test/token".into());
    for (auth, credentials, challenge) in [
        (Auth::basic("ci", "secret"), basic("ci", "secret"), r#"Basic realm="fake registry""#),
        (
            Auth::Bearer(Bearer { realm: hostile, ..Bearer::identity("refresh") }),
            String::new(),
            r#"Bearer realm="https://elsewhere.test/token",service="fake registry""#,
        ),
    ] {
        let registry = Registry::start(RegistryOptions { auth, ..RegistryOptions::default() });
        let client = client(registry.ca_pem());
        let url = format!("{}/v2/", registry.endpoint());
        let refused = send(&client, "GET", url.clone(), &[]).await;
        assert_eq!(header(&refused, "www-authenticate"), challenge);
        let status = send(&client, "GET", url, &[("authorization", &credentials)]).await.status();
        assert_eq!(status == 200, !credentials.is_empty());
    }
    let auth = Auth::Bearer(Bearer::anonymous());
    let registry = Registry::start(RegistryOptions { auth, ..RegistryOptions::default() });
    let client = client(registry.ca_pem());
    let granted = json(fetch(&client, &registry, "/token?scope=repository:x:pull").await).await;
    assert_eq!(granted["token"], "token-1");
    assert_eq!(granted.get("expires_in"), None);
}

#[tokio::test]
async fn redirects_lead_to_the_cdn_round_in_a_circle_or_anywhere() {
    let blob = random_bytes(3, 5000);
    let to = "https://169.254.169.254/latest".to_owned();
    for redirect in [Redirect::Cdn("127.0.0.1".into()), Redirect::Loop, Redirect::To(to.clone())] {
        let registry =
            Registry::start(RegistryOptions { redirect: redirect.clone(), ..RegistryOptions::default() });
        let digest = registry.push_blob(REPOSITORY, blob.clone());
        let client = client(registry.ca_pem());
        let path = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let reply = fetch(&client, &registry, &path).await;
        assert_eq!(reply.status(), 307);
        let location = header(&reply, "location").to_owned();
        match redirect {
            Redirect::Cdn(_) => {
                let direct = send(&client, "GET", location.clone(), &[("range", "bytes=1-2")]).await;
                assert_eq!(direct.bytes().await.unwrap(), &blob[1..3]);
                let leaked = send(&client, "GET", location, &[("authorization", "Bearer x")]).await;
                assert_eq!(leaked.status(), 400);
                assert_eq!(registry.cdn().last("GET", "/cdn/").authorization(), Some("Bearer x"));
                assert_eq!(registry.cdn().hits("GET", &digest.hex()), 2);
            }
            Redirect::Loop => assert_eq!(location, format!("{}{path}", registry.endpoint())),
            Redirect::To(_) | Redirect::None => assert_eq!(location, to),
        }
        assert_eq!(registry.hits("GET", "/blobs/"), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_comes_after_exactly_the_bytes_it_names() {
    let registry = Registry::plain();
    let blob = random_bytes(5, 300_000);
    let path = format!("/v2/{REPOSITORY}/blobs/{}", registry.push_blob(REPOSITORY, blob.clone()));
    let clients =
        BTreeMap::from([("h1", client_http1(registry.ca_pem())), ("h2", client(registry.ca_pem()))]);
    for (protocol, client) in &clients {
        for cut in [0, 1, 100, 16_384, 65_536, 65_537, 200_000, 299_999] {
            registry.on("GET", "/blobs/").once(Fault::CutAfter(cut));
            let (bytes, complete) = drain(fetch(client, &registry, &path).await).await;
            assert_eq!((bytes.len() as u64, complete), (cut, false), "{protocol}");
            assert_eq!(bytes, blob[..bytes.len()]);
        }
        registry.on("GET", "/blobs/").once(Fault::CutAfter(300_000));
        let (bytes, complete) = drain(fetch(client, &registry, &path).await).await;
        assert_eq!((bytes.len(), complete), (300_000, true), "{protocol}");
    }
    registry.wait_for(|log| log.requests.iter().all(|request| request.ended)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_can_be_wrong_huge_or_of_unknown_length() {
    let registry = Registry::plain();
    let blob = random_bytes(6, 1000);
    let path = format!("/v2/{REPOSITORY}/blobs/{}", registry.push_blob(REPOSITORY, blob.clone()));
    for client in [client(registry.ca_pem()), client_http1(registry.ca_pem())] {
        let next = |fault: Fault| {
            registry.on("GET", "/blobs/").once(fault);
            fetch(&client, &registry, &path)
        };
        let (bytes, complete) = drain(next(Fault::WrongBytes).await).await;
        assert_eq!((bytes.len(), complete), (1000, true));
        assert_ne!(bytes, blob);

        let unknown = next(Fault::NoContentLength).await;
        assert_eq!(unknown.content_length(), None);
        assert_eq!(drain(unknown).await, (blob.to_vec(), true));

        let longer = next(Fault::WrongContentLength(1001)).await;
        assert_eq!(longer.content_length(), Some(1001));
        assert_eq!(drain(longer).await, (blob.to_vec(), false));

        for declared in [true, false] {
            let huge = next(Fault::HugeBody { length: 1 << 24, declared }).await;
            assert_eq!(huge.content_length(), declared.then_some(1 << 24));
            assert_eq!(drain(huge).await.0.len(), 1 << 24);
        }
        let relabelled = next(Fault::ContentType("text/html")).await;
        assert_eq!(header(&relabelled, "content-type"), "text/html");
        let renamed = next(Fault::WrongDigestHeader).await;
        assert_ne!(header(&renamed, "docker-content-digest"), Digest::sha256(&blob).to_string());
    }
}

#[tokio::test]
async fn faults_follow_one_another_and_then_it_heals() {
    let registry = Registry::plain();
    Index::list_of([Image::new("linux/amd64").docker().build()]).push(&registry, REPOSITORY, "1.0.0");
    let client = client(registry.ca_pem());
    registry.on("GET", "/manifests/").once(Fault::throttled("7"));
    registry.on("*", "/manifests/").times(2, Fault::status(503));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let reply = fetch(&client, &registry, &format!("/v2/{REPOSITORY}/manifests/1.0.0")).await;
        statuses.push((reply.status().as_u16(), header(&reply, "retry-after").to_owned()));
    }
    let expected = [(429, "7"), (503, ""), (503, ""), (200, "")];
    assert_eq!(statuses, expected.map(|(status, after)| (status, after.to_owned())));

    registry.on("GET", "/").always(Fault::status(500));
    assert_eq!(fetch(&client, &registry, "/v2/").await.status(), 500);
    registry.clear_faults();
    assert_eq!(fetch(&client, &registry, "/v2/").await.status(), 200);
}

#[tokio::test]
async fn a_test_decides_when_answers_start_and_how_fast_they_flow() {
    let registry = Registry::plain();
    let blob = random_bytes(8, 100);
    let path = format!("/v2/{REPOSITORY}/blobs/{}", registry.push_blob(REPOSITORY, blob.clone()));
    let client = client(registry.ca_pem());
    let (start, flow) = (Gate::new(), Gate::new());
    registry.on("GET", "/blobs/").once([Fault::Delay(start.clone()), Fault::SlowGate(40, flow.clone())]);

    let request = tokio::spawn({
        let (client, url) = (client.clone(), format!("{}{path}", registry.endpoint()));
        async move { send(&client, "GET", url, &[]).await }
    });
    registry.wait_for(|log| log.hits("GET", "/blobs/") == 1).await;
    assert_eq!(registry.last("GET", "/blobs/").status, None);
    start.release(1);
    let mut reply = request.await.unwrap();
    flow.release(1);
    assert_eq!(reply.chunk().await.unwrap().unwrap(), &blob[..40]);
    assert_eq!(registry.bytes_sent("/blobs/"), 40);
    flow.open();
    assert_eq!(drain(reply).await, (blob[40..].to_vec(), true));

    registry.reset_log();
    assert_eq!(registry.hits("*", "/"), 0);
    registry.on("GET", "/blobs/").once(Fault::Hang);
    let url = format!("{}{path}", registry.endpoint());
    let hung = tokio::spawn({
        let client = client.clone();
        async move { send(&client, "GET", url, &[]).await }
    });
    registry.wait_for(|log| log.hits("GET", "/blobs/") == 1).await;
    hung.abort();
    registry.wait_for(|log| log.requests[0].ended).await;
}

#[tokio::test]
async fn a_stopped_registry_refuses_connections_until_it_is_restarted() {
    let registry = Registry::start(RegistryOptions {
        http1_only: true,
        names: vec!["registry.test".into()],
        ..RegistryOptions::default()
    });
    let client = client(registry.ca_pem());
    let url = format!("{}/v2/", registry.endpoint());
    assert_eq!(send(&client, "GET", url.clone(), &[]).await.version(), http::Version::HTTP_11);
    for _ in 0..3 {
        registry.stop().await;
        assert!(client.get(&url).send().await.unwrap_err().is_connect());
        registry.restart();
        assert_eq!(send(&client, "GET", url.clone(), &[]).await.status(), 200);
    }
    assert_eq!(registry.requests().len(), 4);
    assert!(registry.address().ip().is_loopback());
}

#[test]
fn a_layout_holds_every_byte_under_its_digest_and_its_name_in_the_index() {
    let mut layout = Layout::new();
    let old = Image::new("linux/amd64").build();
    let image = Index::list_of([Image::new("linux/amd64").docker().layer("x").build()]);
    let signature = Artifact::new("application/vnd.test.signature").subject(&image).build();
    layout.add(Some("docker.io/library/python:3.11.9"), &old);
    layout.add(Some("docker.io/library/python:3.11.9"), &image);
    layout.add(None, &signature);
    let read =
        |path: &str| serde_json::from_slice::<Value>(&std::fs::read(layout.path().join(path)).unwrap());
    assert_eq!(read("oci-layout").unwrap()["imageLayoutVersion"], "1.0.0");
    let index = read("index.json").unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    assert_eq!(index["manifests"][0]["digest"], image.digest().to_string());
    let annotations = &index["manifests"][0]["annotations"];
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "docker.io/library/python:3.11.9");
    for (digest, bytes) in [
        (image.digest(), &image.manifest),
        (image.children[0].digest(), &image.children[0].manifest),
        (image.children[0].config(), &image.children[0].blobs[0]),
        (Digest::sha256(b"x"), image.children[0].layer(0)),
        (signature.config(), &signature.blobs[0]),
    ] {
        assert_eq!(std::fs::read(layout.blob(&digest)).unwrap(), *bytes);
    }
}
