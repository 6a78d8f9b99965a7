//! The reading half of the distribution spec, as the gateway speaks it.

use bytes::Bytes;
use http::{Method, Version};
use oci_distribution::secrets::RegistryAuth;
use pullgate::oci::{Algorithm, Digest};
use serde_json::{Value, json};

use super::{POLICY, Pair, SPEC_CODES, image};
use crate::support::dial::Dialer;
use crate::support::gateway::{Answer, Form, Site};
use crate::support::image::{Artifact, Fixture, Image, Index, random_bytes};
use crate::support::registry::{Registry, RegistryOptions};

const APP: &str = "acme/app";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn tags(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    serde_json::from_value(answer.json()["tags"].clone()).unwrap()
}

#[tokio::test]
async fn the_ping_answers_without_asking_any_upstream_and_never_challenges() {
    let pair = Pair::start().await;
    for path in ["/v2/", "/v2"] {
        for answer in [pair.gateway.get(path).await, pair.gateway.get2(path).await] {
            answer.expect_bytes(&Bytes::from_static(b"{}"));
            assert_eq!(answer.header("content-type"), "application/json");
            assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
            assert!(!answer.has("www-authenticate"));
        }
        assert_eq!(pair.gateway.head(path).await.status, 200);
    }
    assert_eq!(pair.hub.connections() + pair.ghcr.connections(), 0);
    assert_eq!(pair.gateway.site.names.asked(), [""; 0]);
}

#[tokio::test]
async fn a_manifest_carries_the_headers_clients_rely_on() {
    let pair = Pair::start().await;
    let image = image(1, 2000);
    image.push(&pair.hub, APP, "1.0.0");
    for reference in ["1.0.0".to_owned(), image.digest().to_string()] {
        for form in [Form::Ns, Form::Prefix, Form::Bare] {
            let path = form.path("docker.io", APP, &format!("manifests/{reference}"));
            let get = pair.gateway.get(&path).await;
            get.expect_bytes(&image.manifest);
            let head = pair.gateway.head(&path).await;
            assert_eq!(head.status, 200);
            assert!(head.body.is_empty());
            for answer in [get, head] {
                assert_eq!(answer.header("content-type"), image.media_type);
                assert_eq!(answer.header("content-length"), image.manifest.len().to_string());
                assert_eq!(answer.header("docker-content-digest"), image.digest().to_string());
                assert_eq!(answer.header("etag"), format!("\"{}\"", image.digest()));
                assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
                assert_eq!(answer.has("oci-namespace"), form == Form::Ns);
                if form == Form::Ns {
                    assert_eq!(answer.header("oci-namespace"), "docker.io");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_blob_carries_the_headers_clients_rely_on() {
    let pair = Pair::start().await;
    let image = image(2, 300_000);
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(&Form::Ns.path("docker.io", APP, "manifests/1.0.0")).await.expect_bytes(&image.manifest);
    let layer = image.layer(1);
    let digest = Digest::sha256(layer);
    let path = Form::Ns.path("docker.io", APP, &format!("blobs/{digest}"));
    let cold_head = pair.gateway.head(&path).await;
    assert_eq!(cold_head.status, 200);
    let get = pair.gateway.get(&path).await;
    get.expect_bytes(layer);
    for answer in [cold_head, get, pair.gateway.head(&path).await, pair.gateway.get2(&path).await] {
        assert_eq!(answer.header("content-length"), layer.len().to_string());
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.header("oci-namespace"), "docker.io");
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
    }
}

#[tokio::test]
async fn whoever_has_the_content_is_told_so_with_304() {
    let pair = Pair::start().await;
    let image = image(3, 3000);
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.pull(Form::Prefix, "docker.io", APP, "1.0.0", &image).await;
    let layer = Digest::sha256(image.layer(1));
    let rows = [
        ("manifests/1.0.0".to_owned(), image.digest()),
        (format!("manifests/{}", image.digest()), image.digest()),
        (format!("blobs/{layer}"), layer),
    ];
    for (rest, digest) in rows {
        let path = Form::Prefix.path("docker.io", APP, &rest);
        let (strong, weak) = (format!("\"{digest}\""), format!("W/\"{digest}\""));
        let listed = format!("\"sha256:0\", {strong}");
        for known in [strong.as_str(), &weak, &listed, "*"] {
            for method in ["GET", "HEAD"] {
                let answer = pair.gateway.send(method, &path, &[("if-none-match", known)]).await;
                assert_eq!(answer.status, 304, "{method} {rest} with {known}");
                assert!(answer.body.is_empty());
                assert_eq!(answer.header("etag"), strong);
            }
        }
        let other = [("if-none-match", "\"sha256:0\"")];
        assert_eq!(pair.gateway.send("GET", &path, &other).await.status, 200);
    }
}

#[tokio::test]
async fn ranges_of_a_blob_are_exact_cold_and_cached() {
    let pair = Pair::start().await;
    let size = 200_000;
    for cached in [false, true] {
        let rows: [(&str, usize, usize); 8] = [
            ("bytes=0-99", 0, 100),
            ("bytes=0-0", 0, 1),
            ("bytes=100-", 100, size),
            ("bytes=0-", 0, size),
            ("bytes=-50", size - 50, size),
            ("bytes=-999999", 0, size),
            ("bytes=199999-", size - 1, size),
            ("bytes=150000-999999", 150_000, size),
        ];
        for (seed, (range, from, to)) in (100..).zip(rows) {
            let image = image(seed, size);
            let tag = format!("1.0.{seed}");
            image.push(&pair.hub, APP, tag.as_str());
            let path = Form::Prefix.path("docker.io", APP, &format!("manifests/{tag}"));
            pair.gateway.get(&path).await.expect_bytes(&image.manifest);
            let layer = image.layer(1);
            let digest = Digest::sha256(layer);
            let path = Form::Prefix.path("docker.io", APP, &format!("blobs/{digest}"));
            if cached {
                pair.gateway.get(&path).await.expect_bytes(layer);
            }
            let answer = pair.gateway.send("GET", &path, &[("range", range)]).await;
            assert_eq!(answer.status, 206, "{range}");
            assert!(answer.complete);
            assert_eq!(answer.header("content-range"), format!("bytes {from}-{}/{size}", to - 1));
            assert_eq!(answer.header("content-length"), (to - from).to_string());
            assert!(answer.body == layer.slice(from..to), "{range}");
            assert_eq!(pair.hub.hits("GET", &digest.to_string()), 1, "fetched once, whole");
            let whole = pair.hub.last("GET", &digest.to_string());
            assert_eq!(whole.header("range"), None);
        }
    }
}

#[tokio::test]
async fn a_range_past_the_end_is_416_and_several_ranges_are_answered_whole() {
    let pair = Pair::start().await;
    let image = image(4, 100_000);
    image.push(&pair.hub, APP, "1.0.0");
    pair.gateway.get(&Form::Prefix.path("docker.io", APP, "manifests/1.0.0")).await;
    let layer = image.layer(1);
    let path = Form::Prefix.path("docker.io", APP, &format!("blobs/{}", Digest::sha256(layer)));
    for _ in ["cold", "cached"] {
        for range in ["bytes=100000-", "bytes=100000-100001", "bytes=99999999999999999999999-", "bytes=-0"] {
            let answer = pair.gateway.send("GET", &path, &[("range", range)]).await;
            assert_eq!(answer.status, 416, "{range}");
            assert_eq!(answer.header("content-range"), "bytes */100000");
            let code = answer.json()["errors"][0]["code"].clone();
            assert!(SPEC_CODES.contains(&code.as_str().unwrap()), "{code}");
        }
        for range in ["bytes=0-1,5-9", "chunks=0-5"] {
            pair.gateway.send("GET", &path, &[("range", range)]).await.expect_bytes(layer);
        }
    }
    // RFC 9110, 13.1.5: a range of another version is a request for the whole.
    let headers = [("range", "bytes=0-9"), ("if-range", "\"sha256:other\"")];
    pair.gateway.send("GET", &path, &headers).await.expect_bytes(layer);
}

#[tokio::test]
async fn a_range_of_a_manifest_never_garbles_it() {
    let pair = Pair::start().await;
    let image = image(5, 100);
    image.push(&pair.hub, APP, "1.0.0");
    // containerd sends this with manifests.
    let path = Form::Ns.path("docker.io", APP, &format!("manifests/{}", image.digest()));
    let answer = pair.gateway.send("GET", &path, &[("range", "bytes=0-")]).await;
    assert!([200, 206].contains(&answer.status.as_u16()), "{}", answer.status);
    assert_eq!(answer.body, image.manifest);
}

#[tokio::test]
async fn manifests_pass_byte_for_byte_however_they_are_written() {
    let pair = Pair::start().await;
    let image = image(6, 900);
    let compact: Value = serde_json::from_slice(&image.manifest).unwrap();
    let mut odd = format!("\n\t {:#}  \r\n\n", compact).replace(": ", " :\t");
    odd = odd.replace("\"schemaVersion\"", "\"x-unknown\" : [1e0, \"\\u00e9\"],\r\n \"schemaVersion\"");
    image.push(&pair.hub, APP, "1.0.0");
    let digest = pair.hub.push_manifest(APP, Some("1.0.1"), MANIFEST, odd.clone());
    for rest in ["manifests/1.0.1".to_owned(), format!("manifests/{digest}")] {
        for form in [Form::Ns, Form::Prefix] {
            let path = form.path("docker.io", APP, &rest);
            let answer = pair.gateway.get(&path).await;
            answer.expect_bytes(&Bytes::from(odd.clone()));
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            pair.gateway.get2(&path).await.expect_bytes(&Bytes::from(odd.clone()));
        }
    }
}

#[tokio::test]
async fn what_a_client_accepts_never_changes_what_is_served_or_asked_upstream() {
    let pair = Pair::start().await;
    let image = Image::new("linux/amd64").docker().layer(random_bytes(7, 700)).build();
    image.push(&pair.hub, APP, "1.0.0");
    let path = Form::Prefix.path("docker.io", APP, "manifests/1.0.0");
    let lines = [
        ("accept", "application/vnd.oci.image.index.v1+json"),
        ("accept", "application/vnd.oci.image.manifest.v1+json"),
        ("accept", "application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1"),
        ("accept-encoding", "zstd, gzip, deflate"),
    ];
    let narrow = [("accept", "application/vnd.docker.distribution.manifest.v1+prettyjws")];
    for headers in [&lines[..], &narrow[..], &[]] {
        let answer = pair.gateway.send("GET", &path, headers).await;
        answer.expect_bytes(&image.manifest);
        assert_eq!(answer.header("content-type"), image.media_type);
        assert!(!answer.has("content-encoding"));
    }
    let asked = pair.hub.requests();
    let mut lists = std::collections::BTreeSet::new();
    for request in asked {
        let accept = request.values("accept").join(", ");
        for media_type in
            [INDEX, MANIFEST, "application/vnd.docker.distribution.manifest.list.v2+json", image.media_type]
        {
            assert!(accept.contains(media_type), "{accept}");
        }
        lists.insert(accept);
        let encoding = request.header("accept-encoding");
        assert!(encoding.is_none_or(|encoding| encoding == "identity"), "{encoding:?}");
    }
    assert_eq!(lists.len(), 1, "one fixed list: {lists:?}");
}

#[tokio::test]
async fn an_index_leads_to_its_platforms_and_is_not_rewritten() {
    let pair = Pair::start().await;
    let index = Index::platforms(&["linux/amd64", "linux/arm64", "linux/arm/v7"], 8);
    index.push(&pair.hub, APP, "1.0.0");
    let list = Index::list_of([Image::new("linux/amd64").docker().layer(random_bytes(9, 10)).build()]);
    list.push(&pair.hub, APP, "1.0.1");
    for form in [Form::Ns, Form::Bare, Form::Prefix] {
        pair.gateway.pull(form, "docker.io", APP, "1.0.0", &index).await;
        pair.gateway.pull(form, "docker.io", APP, "1.0.1", &list).await;
    }
    assert_eq!(pair.hub.hits("GET", "/manifests/"), 6, "each manifest is fetched once");
}

#[tokio::test]
async fn names_of_any_depth_may_contain_the_words_of_the_api() {
    let pair = Pair::start().await;
    for repository in ["deep/a", "deep/a/b/c/d/e/f", "deep/manifests/blobs/tags", "deep/tags/list/referrers"]
    {
        let image = image(10, 300);
        image.push(&pair.ghcr, repository, "1.0.0");
        for form in [Form::Ns, Form::Prefix] {
            pair.gateway.pull(form, "ghcr.io", repository, "1.0.0", &image).await;
        }
    }
}

#[tokio::test]
async fn content_is_found_by_sha512_as_well() {
    let pair = Pair::start().await;
    let layer = random_bytes(11, 5000);
    let config = Bytes::from_static(b"{\"os\":\"linux\",\"architecture\":\"amd64\"}");
    let of = |bytes: &Bytes| Digest::of(Algorithm::Sha512, bytes);
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": of(&config), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": of(&layer), "size": layer.len()}],
    });
    let manifest = Bytes::from(manifest.to_string());
    pair.hub.push_blob(APP, layer.clone());
    pair.hub.push_blob(APP, config.clone());
    pair.hub.push_manifest(APP, None, MANIFEST, manifest.clone());
    let digest = of(&manifest);
    for _ in ["cold", "cached"] {
        let path = Form::Prefix.path("docker.io", APP, &format!("manifests/{digest}"));
        let answer = pair.gateway.get(&path).await;
        answer.expect_bytes(&manifest);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        for blob in [&layer, &config] {
            let path = Form::Prefix.path("docker.io", APP, &format!("blobs/{}", of(blob)));
            let answer = pair.gateway.get(&path).await;
            answer.expect_bytes(blob);
            assert_eq!(answer.header("docker-content-digest"), of(blob).to_string());
        }
    }
}

#[tokio::test]
async fn a_digest_may_be_written_with_an_escaped_colon() {
    let pair = Pair::start().await;
    let image = image(12, 100);
    image.push(&pair.hub, APP, "1.0.0");
    for escape in ["%3A", "%3a"] {
        let reference = image.digest().to_string().replace(':', escape);
        let path = Form::Prefix.path("docker.io", APP, &format!("manifests/{reference}"));
        pair.gateway.get(&path).await.expect_bytes(&image.manifest);
    }
}

async fn with_tags() -> Pair {
    let pair = Pair::start().await;
    let image = image(13, 100);
    let companion = format!("sha256-{}.sig", image.digest().hex());
    for tag in ["1.0.0", "1.0.1", "1.0.10", "1.0.2", "2.0.0", "latest", "main", "1.0", companion.as_str()] {
        image.push(&pair.hub, APP, tag);
    }
    pair
}

#[tokio::test]
async fn the_tag_list_shows_what_policy_allows_in_lexical_order() {
    let pair = with_tags().await;
    for form in [Form::Ns, Form::Prefix, Form::Bare] {
        let answer = pair.gateway.get(&form.path("docker.io", APP, "tags/list")).await;
        assert_eq!(tags(&answer), ["1.0.0", "1.0.1", "1.0.10", "1.0.2", "2.0.0"]);
        assert_eq!(answer.json()["name"], APP);
        assert_eq!(answer.header("content-type"), "application/json");
        assert!(!answer.has("link"));
        let head = pair.gateway.head(&form.path("docker.io", APP, "tags/list")).await;
        assert_eq!(head.header("content-length"), answer.body.len().to_string());
    }
}

#[tokio::test]
async fn pages_of_the_tag_list_lead_from_one_to_the_next_in_every_form() {
    let pair = with_tags().await;
    for form in [Form::Ns, Form::Prefix, Form::Bare] {
        for n in 1..=6 {
            let mut path = form.path("docker.io", APP, &format!("tags/list?n={n}"));
            let mut seen = Vec::new();
            loop {
                let answer = pair.gateway.get(&path).await;
                let page = tags(&answer);
                assert!(page.len() <= n);
                seen.extend(page);
                let Some(link) = answer.headers.get("link") else { break };
                let link = link.to_str().unwrap();
                let (url, rel) = link.split_once('>').unwrap();
                assert_eq!(rel.trim_start_matches(';').trim(), "rel=\"next\"");
                path = url.strip_prefix('<').unwrap().to_owned();
                assert!(path.starts_with("/v2/"), "{path}");
            }
            assert_eq!(seen, ["1.0.0", "1.0.1", "1.0.10", "1.0.2", "2.0.0"], "{form:?} in pages of {n}");
        }
        let answer = pair.gateway.get(&form.path("docker.io", APP, "tags/list?last=1.0.1")).await;
        assert_eq!(tags(&answer), ["1.0.10", "1.0.2", "2.0.0"]);
        let answer = pair.gateway.get(&form.path("docker.io", APP, "tags/list?n=2&last=1.0.05")).await;
        assert_eq!(tags(&answer), ["1.0.1", "1.0.10"], "last need not exist");
        let answer = pair.gateway.get(&form.path("docker.io", APP, "tags/list?n=0")).await;
        assert_eq!(tags(&answer), [""; 0]);
    }
}

#[tokio::test]
async fn an_upstream_that_lists_its_tags_in_pages_is_read_to_the_end() {
    let hub = Registry::start(RegistryOptions { page: Some(2), ..RegistryOptions::default() });
    let gateway = Site::new(POLICY).with_upstream("docker.io", &hub).start().await;
    for tag in ["1.0.0", "1.0.1", "1.0.2", "1.0.3", "1.0.4", "latest"] {
        image(14, 10).push(&hub, APP, tag);
    }
    let answer = gateway.get("/v2/docker.io/acme/app/tags/list").await;
    assert_eq!(tags(&answer), ["1.0.0", "1.0.1", "1.0.2", "1.0.3", "1.0.4"]);
    assert_eq!(hub.hits("GET", "/tags/list"), 3);
}

fn referrers() -> (Fixture, Fixture, Fixture) {
    let image = image(15, 800);
    let signature = Artifact::new("application/vnd.dev.cosign.artifact.sig.v1+json")
        .blob("application/vnd.dev.cosign.simplesigning.v1+json", "{\"signed\":true}")
        .subject(&image)
        .build();
    let sbom =
        Artifact::new("application/spdx+json").blob("application/spdx+json", "{}").subject(&image).build();
    (image, signature, sbom)
}

fn digests(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.header("content-type"), INDEX);
    let json = answer.json();
    assert_eq!((&json["schemaVersion"], &json["mediaType"]), (&json!(2), &json!(INDEX)));
    let manifests = json["manifests"].as_array().unwrap();
    let mut digests: Vec<_> =
        manifests.iter().map(|manifest| manifest["digest"].as_str().unwrap().to_owned()).collect();
    digests.sort();
    digests
}

#[tokio::test]
async fn referrers_are_listed_filtered_and_pulled_with_and_without_the_api_upstream() {
    for referrers_api in [true, false] {
        let hub = Registry::start(RegistryOptions { referrers_api, ..RegistryOptions::default() });
        let gateway = Site::new(POLICY).with_upstream("docker.io", &hub).start().await;
        let (image, signature, sbom) = referrers();
        image.push(&hub, APP, "1.0.0");
        hub.push_referrer(APP, &signature);
        hub.push_referrer(APP, &sbom);
        let mut both = [signature.digest().to_string(), sbom.digest().to_string()];
        both.sort();
        for form in [Form::Ns, Form::Prefix, Form::Bare] {
            let rest = format!("referrers/{}", image.digest());
            let answer = gateway.get(&form.path("docker.io", APP, &rest)).await;
            assert_eq!(digests(&answer), both, "API upstream: {referrers_api}");
            assert!(!answer.has("oci-filters-applied"));
            let filtered = format!("{rest}?artifactType=application/spdx%2Bjson");
            let answer = gateway.get(&form.path("docker.io", APP, &filtered)).await;
            assert_eq!(digests(&answer), [sbom.digest().to_string()]);
            assert_eq!(answer.header("oci-filters-applied"), "artifactType");
            let none = format!("{rest}?artifactType=application/none");
            assert_eq!(digests(&gateway.get(&form.path("docker.io", APP, &none)).await), [""; 0]);
            gateway.pull_digest(form, "docker.io", APP, &signature).await;
        }
        let empty = format!("referrers/{}", sbom.digest());
        assert_eq!(digests(&gateway.get(&Form::Prefix.path("docker.io", APP, &empty)).await), [""; 0]);
    }
}

#[tokio::test]
async fn referrers_of_a_refused_subject_are_refused() {
    let pair = Pair::start().await;
    let (image, signature, _) = referrers();
    image.push(&pair.hub, "acme/literal", "latest");
    pair.hub.push_referrer("acme/literal", &signature);
    let path = Form::Prefix.path("docker.io", "acme/literal", &format!("referrers/{}", image.digest()));
    pair.gateway.get(&path).await.expect_denied("digest.unknown");
}

#[tokio::test]
async fn companions_of_an_admitted_digest_are_served_and_a_missing_one_is_a_plain_404() {
    let pair = Pair::start().await;
    let (image, signature, sbom) = referrers();
    let tag = |suffix: &str| format!("sha256-{}{suffix}", image.digest().hex());
    image.push(&pair.hub, "acme/literal", "1.0.0");
    signature.push(&pair.hub, "acme/literal", tag(".sig").as_str());
    pair.hub.push_referrer("acme/literal", &sbom);
    let path = |rest: String| Form::Prefix.path("docker.io", "acme/literal", &rest);
    for missing in [".att", ".sbom"] {
        let answer = pair.gateway.get(&path(format!("manifests/{}", tag(missing)))).await;
        answer.expect_error(404, "MANIFEST_UNKNOWN");
    }
    let answer = pair.gateway.get(&path(format!("manifests/{}", tag(".sig")))).await;
    answer.expect_bytes(&signature.manifest);
    pair.gateway.pull_digest(Form::Prefix, "docker.io", "acme/literal", &signature).await;
    let listed = pair.gateway.get(&path(format!("referrers/{}", image.digest()))).await;
    assert!(digests(&listed).contains(&sbom.digest().to_string()));
    pair.gateway.pull_digest(Form::Prefix, "docker.io", "acme/literal", &sbom).await;
    assert_eq!(pair.gateway.blocked().await, [Value::Null; 0]);
}

#[tokio::test]
async fn a_whole_image_posing_as_a_companion_is_refused() {
    let pair = Pair::start().await;
    let (honest, hidden) = (image(16, 100), image(17, 200));
    honest.push(&pair.hub, "acme/literal", "1.0.0");
    let tag = format!("sha256-{}.sig", honest.digest().hex());
    hidden.push(&pair.hub, "acme/literal", tag.as_str());
    let path = |rest: String| Form::Prefix.path("docker.io", "acme/literal", &rest);
    let answer = pair.gateway.get(&path(format!("manifests/{tag}"))).await;
    assert_eq!(answer.status, 403, "{}", String::from_utf8_lossy(&answer.body));
    let answer = pair.gateway.get(&path(format!("manifests/{}", hidden.digest()))).await;
    assert_eq!(answer.status, 403);
    let answer = pair.gateway.get(&path(format!("blobs/{}", Digest::sha256(hidden.layer(1))))).await;
    assert_eq!(answer.status, 403);
}

#[tokio::test]
async fn an_archive_that_calls_itself_text_is_no_part_of_a_companion() {
    let pair = Pair::start().await;
    let honest = image(18, 100);
    honest.push(&pair.hub, "acme/literal", "1.0.0");
    let gzip = [&[0x1f, 0x8b, 8, 0][..], &random_bytes(19, 100_000)].concat();
    let layers = [(gzip.clone(), ".sig"), (b"{\"signed\":true}".to_vec(), ".att")];
    for (bytes, suffix) in layers {
        let mut companion = Image::new("linux/amd64").layer(bytes.clone()).build();
        let text = String::from_utf8(companion.manifest.to_vec()).unwrap();
        let layer = text.replace("application/vnd.oci.image.layer.v1.tar", "application/vnd.in-toto+json");
        assert_ne!(layer, text);
        companion.manifest = layer.into();
        let tag = format!("sha256-{}{suffix}", honest.digest().hex());
        companion.push(&pair.hub, "acme/literal", tag.as_str());
        let path = |rest: String| Form::Prefix.path("docker.io", "acme/literal", &rest);
        pair.gateway.get(&path(format!("manifests/{tag}"))).await.expect_bytes(&companion.manifest);
        let blob = path(format!("blobs/{}", Digest::sha256(&bytes)));
        for _ in 0..2 {
            let answer = pair.gateway.get(&blob).await;
            match suffix {
                ".sig" => {
                    let text = answer.expect_denied("closure.outside")["message"].take();
                    assert!(text.as_str().unwrap().contains("is a gzip archive"), "{text}");
                }
                _ => answer.expect_bytes(&bytes.clone().into()),
            }
        }
        pair.gateway
            .get(&path(format!("blobs/{}", companion.config())))
            .await
            .expect_bytes(&companion.blobs[0]);
    }
    let fetched = format!("/v2/acme/literal/blobs/{}", Digest::sha256(&gzip));
    assert_eq!(pair.hub.hits("GET", &fetched), 1);
}

#[tokio::test]
async fn whatever_writes_is_405_unsupported() {
    let pair = Pair::start().await;
    let digest = Digest::sha256(b"any");
    let rows = [
        ("POST", "/v2/docker.io/acme/app/blobs/uploads/".to_owned()),
        ("POST", format!("/v2/docker.io/acme/app/blobs/uploads/?mount={digest}&from=acme/other")),
        ("PATCH", "/v2/docker.io/acme/app/blobs/uploads/1234".to_owned()),
        ("PUT", format!("/v2/docker.io/acme/app/blobs/uploads/1234?digest={digest}")),
        ("GET", "/v2/docker.io/acme/app/blobs/uploads/1234".to_owned()),
        ("PUT", "/v2/docker.io/acme/app/manifests/1.0.0".to_owned()),
        ("PUT", "/v2/acme/app/manifests/1.0.0?ns=docker.io".to_owned()),
        ("DELETE", format!("/v2/docker.io/acme/app/manifests/{digest}")),
        ("DELETE", format!("/v2/docker.io/acme/app/blobs/{digest}")),
        ("DELETE", "/v2/docker.io/acme/app/manifests/1.0.0".to_owned()),
    ];
    for (method, path) in rows {
        let body = vec![0; 100_000];
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        for client in [&pair.gateway.h1, &pair.gateway.h2] {
            let request = client.request(method.clone(), pair.gateway.url(&path)).body(body.clone());
            let answer = Answer::read(request.send().await.unwrap()).await;
            let error = answer.expect_error(405, "UNSUPPORTED");
            assert_eq!(error["detail"]["reason"], "method.unsupported");
        }
    }
    assert_eq!(pair.hub.connections(), 0);
    assert_eq!(pair.gateway.get("/v2/").await.status, 200);
}

#[tokio::test]
async fn what_does_not_exist_is_404_with_the_code_of_the_spec() {
    let pair = Pair::start().await;
    let image = image(18, 100);
    image.push(&pair.hub, APP, "1.0.0");
    let any = Digest::sha256(b"any");
    let rows = [
        ("/v2/docker.io/acme/app/manifests/9.9.9".to_owned(), "MANIFEST_UNKNOWN"),
        (format!("/v2/docker.io/acme/app/manifests/{any}"), "MANIFEST_UNKNOWN"),
        ("/v2/docker.io/acme/nothing/manifests/1.0.0".to_owned(), "MANIFEST_UNKNOWN"),
        ("/v2/docker.io/acme/nothing/tags/list".to_owned(), "NAME_UNKNOWN"),
    ];
    for (path, code) in rows {
        pair.gateway.get(&path).await.expect_error(404, code);
        assert_eq!(pair.gateway.head(&path).await.status, 404);
    }
    assert_eq!(pair.gateway.blocked().await, [Value::Null; 0], "nothing of it is a blocked pull");
}

#[tokio::test]
async fn every_error_is_the_envelope_with_a_code_of_the_spec() {
    let pair = Pair::start().await;
    for path in [
        "/",
        "/v1/",
        "/v2/_catalog",
        "/v2/docker.io/acme/app/unknown/1.0.0",
        "/v2/docker.io/acme/app",
        "/v2/docker.io/acme/app/tags",
        "/v2/docker.io/acme/app/manifests/",
        "/v2/docker.io/acme/app/blobs/1.0.0",
        "/v2/docker.io/acme/app/tags/list?n=many",
        "/v2/manifests/1.0.0",
        "/favicon.ico",
    ] {
        for answer in [pair.gateway.get(path).await, pair.gateway.get2(path).await] {
            assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
            assert_eq!(answer.header("content-type"), "application/json", "{path}");
            let code = answer.json()["errors"][0]["code"].clone();
            assert!(SPEC_CODES.contains(&code.as_str().unwrap()), "{path}: {code}");
        }
    }
    assert_eq!(pair.hub.connections(), 0);
}

#[tokio::test]
async fn http2_serves_the_same_bytes_and_the_same_refusals() {
    let pair = Pair::start().await;
    let image = image(19, 1_000_000);
    image.push(&pair.hub, APP, "1.0.0");
    let path = |rest: String| Form::Ns.path("docker.io", APP, &rest);
    let manifest = pair.gateway.get2(&path("manifests/1.0.0".to_owned())).await;
    manifest.expect_bytes(&image.manifest);
    assert_eq!(manifest.version, Version::HTTP_2);
    for blob in &image.blobs {
        let answer = pair.gateway.get2(&path(format!("blobs/{}", Digest::sha256(blob)))).await;
        answer.expect_bytes(blob);
        assert_eq!(answer.version, Version::HTTP_2);
    }
    let refused = pair.gateway.get2(&path("manifests/latest".to_owned())).await;
    refused.expect_denied("tag.denied");
    assert_eq!(refused.version, Version::HTTP_2);
    assert_eq!(pair.gateway.get("/v2/").await.version, Version::HTTP_11);
}

#[tokio::test]
async fn head_is_get_without_the_bytes_also_over_http2() {
    let pair = Pair::start().await;
    let image = image(40, 1000);
    image.push(&pair.hub, APP, "1.0.0");
    let layer = format!("blobs/{}", Digest::sha256(image.layer(0)));
    for (rest, status) in [
        ("manifests/1.0.0", 200),
        (&*layer, 200),
        ("tags/list", 200),
        ("manifests/9.9.9", 404),
        ("manifests/latest", 403),
        ("manifests/-", 400),
    ] {
        for dialer in [Dialer::new(&pair.gateway), Dialer::new(&pair.gateway).http2()] {
            let path = Form::Prefix.path("docker.io", APP, rest);
            let mut line = dialer.open().await.unwrap();
            let get = line.get(&path).await.unwrap();
            let head = line.send("HEAD", &path, &[]).await.unwrap();
            assert_eq!((get.status.as_u16(), head.status.as_u16()), (status, status), "{path}");
            assert!(!get.body.is_empty() && head.body.is_empty(), "{path}");
            assert_eq!(get.headers["content-length"], get.body.len().to_string(), "{path}");
            let apart_from_time = |mut headers: http::HeaderMap| {
                headers.remove("date");
                headers
            };
            assert_eq!(apart_from_time(head.headers), apart_from_time(get.headers), "{path}");
            // The connection goes on: a body that HEAD must not have would have broken it.
            assert_eq!(line.get("/v2/").await.unwrap().body, "{}");
        }
    }
}

#[tokio::test]
async fn the_oci_client_library_pulls_an_image_byte_for_byte_and_meets_the_refusal() {
    let pair = Pair::start().await;
    let image = image(20, 500_000);
    image.push(&pair.hub, APP, "1.0.0");
    let client = pair.gateway.oci_client();
    let reference = |tag: &str| pair.gateway.reference(APP, tag);
    let types = vec!["application/vnd.oci.image.layer.v1.tar"];
    let pulled = client.pull(&reference("1.0.0"), &RegistryAuth::Anonymous, types.clone()).await.unwrap();
    assert_eq!(pulled.digest.unwrap(), image.digest().to_string());
    assert_eq!(pulled.config.data, image.blobs[0]);
    // It pulls the layers at once, and returns them as they finish.
    let mut layers: Vec<Bytes> = pulled.layers.into_iter().map(|layer| layer.data).collect();
    layers.sort_by_key(Bytes::len);
    assert!(layers == image.blobs[1..]);
    let refused = client.pull(&reference("latest"), &RegistryAuth::Anonymous, types).await;
    let error = refused.err().expect("a refused tag is no image").to_string();
    assert!(error.contains("blocked by policy"), "{error}");
}
