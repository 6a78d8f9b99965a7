//! What the distribution spec's questions bring.

use futures_util::StreamExt as _;

use super::redirect::collect;
use super::server::{Reply, Server, pieces, reply};
use super::{TAG, blob_path, digest, name, tag, upstreams};
use crate::oci::{Algorithm, Digest, Fault, MANIFEST_ACCEPT, MANIFEST_MAX};
use crate::upstream::{Fetched, Presence, Upstreams};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

#[tokio::test]
async fn a_tag_is_resolved_by_head_alone_with_our_own_headers() {
    let server =
        Server::start(|_| reply(200, &[("docker-content-digest", &digest().to_string())], b"")).await;
    assert_eq!(upstreams(server.endpoint()).resolve(&name(), &tag()).await, Ok(digest()));
    let seen = &server.seen()[0];
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("HEAD", TAG));
    assert_eq!(seen.header("accept"), Some(MANIFEST_ACCEPT));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    assert_eq!(seen.header("user-agent"), Some(concat!("pullgate/", env!("CARGO_PKG_VERSION"))));
    let mut names: Vec<&str> = seen.headers.keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["accept", "accept-encoding", "user-agent"], "and nothing else");
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn where_head_names_no_digest_the_manifest_is_fetched_and_hashed() {
    for (status, header) in [(200, None), (200, Some("md5:x")), (405, None), (400, None), (501, None)] {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "HEAD" => reply(
                status,
                &header.map(|value| ("docker-content-digest", value)).into_iter().collect::<Vec<_>>(),
                b"",
            ),
            _ => reply(200, &[], b"content"),
        })
        .await;
        assert_eq!(upstreams(server.endpoint()).resolve(&name(), &tag()).await, Ok(digest()), "{status}");
        assert_eq!(server.seen().len(), 2, "{status}");
    }
}

#[tokio::test]
async fn a_digest_named_beside_other_bytes_is_invalid_and_another_algorithm_is_kept() {
    let sha512 = Digest::of(Algorithm::Sha512, b"content");
    for (claimed, expected) in
        [(Digest::sha256(b"other"), None), (sha512, Some(sha512)), (digest(), Some(digest()))]
    {
        let server = Server::start(move |seen| match seen.method.as_str() {
            "HEAD" => reply(200, &[], b""),
            _ => reply(200, &[("docker-content-digest", &claimed.to_string())], b"content"),
        })
        .await;
        let outcome = upstreams(server.endpoint()).resolve(&name(), &tag()).await;
        match expected {
            Some(expected) => assert_eq!(outcome, Ok(expected)),
            None => assert!(matches!(outcome, Err(Fault::Invalid(_))), "{outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_manifest_comes_with_its_bytes_and_its_media_type_untouched() {
    let server = Server::start(|_| reply(200, &[("content-type", "application/x; a=b")], b"\0bytes")).await;
    let Fetched { bytes, media_type } =
        upstreams(server.endpoint()).manifest(&name(), &digest()).await.unwrap();
    assert_eq!((bytes.as_ref(), media_type.as_deref()), (b"\0bytes".as_slice(), Some("application/x; a=b")));
    assert_eq!(server.seen()[0].path, format!("/v2/team/app/manifests/{}", digest()));
    assert_eq!(server.seen()[0].header("accept"), Some(MANIFEST_ACCEPT));
}

#[tokio::test]
async fn a_manifest_over_the_limit_is_invalid_announced_or_not() {
    let exact = Server::start(|_| reply(200, &[], &vec![b' '; MANIFEST_MAX])).await;
    let fetched = upstreams(exact.endpoint()).manifest(&name(), &digest()).await.unwrap();
    assert_eq!(fetched.bytes.len(), MANIFEST_MAX);
    let announced = Server::start(|_| reply(200, &[], &vec![b' '; MANIFEST_MAX + 1])).await;
    let unannounced =
        Server::start(|_| pieces(200, &[], vec![vec![b' '; MANIFEST_MAX], vec![b' '; 16 << 20]], false))
            .await;
    for server in [announced, unannounced] {
        let outcome = upstreams(server.endpoint()).manifest(&name(), &digest()).await;
        assert!(matches!(outcome, Err(Fault::Invalid(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_compressed_answer_is_not_opened() {
    let server = Server::start(|_| reply(200, &[("content-encoding", "gzip")], b"\x1f\x8b raw")).await;
    let fetched = upstreams(server.endpoint()).manifest(&name(), &digest()).await.unwrap();
    assert_eq!(fetched.bytes.as_ref(), b"\x1f\x8b raw");
}

#[tokio::test]
async fn presence_is_asked_by_head_and_absence_is_an_answer() {
    let server = Server::start(|seen| match (seen.path.contains("app"), seen.method.as_str()) {
        (true, "HEAD") => reply(200, &[("content-length", "7")], b""),
        _ => reply(404, &[], b""),
    })
    .await;
    let upstreams = upstreams(server.endpoint());
    let other = "registry.test/team/none".parse().unwrap();
    assert_eq!(upstreams.has_blob(&name(), &digest()).await, Ok(Presence::Present { size: Some(7) }));
    assert_eq!(upstreams.has_blob(&other, &digest()).await, Ok(Presence::Absent));
    assert_eq!(upstreams.has_manifest(&name(), &digest()).await, Ok(true));
    assert_eq!(upstreams.has_manifest(&other, &digest()).await, Ok(false));
    assert!(server.seen().iter().all(|seen| seen.method == "HEAD"));
}

#[tokio::test]
async fn presence_is_asked_by_get_where_head_is_not_supported() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => reply(405, &[], b""),
        _ => reply(200, &[], b"content"),
    })
    .await;
    let outcome = upstreams(server.endpoint()).has_blob(&name(), &digest()).await;
    assert_eq!(outcome, Ok(Presence::Present { size: Some(7) }));
}

#[tokio::test]
async fn presence_is_asked_by_get_where_a_blob_store_denies_the_head() {
    let server = Server::start(|seen| match (seen.path == "/store", seen.method.as_str()) {
        (false, _) => reply(307, &[("location", "/store")], b""),
        (true, "HEAD") => reply(403, &[], b""),
        (true, _) => reply(200, &[], b"content"),
    })
    .await;
    let outcome = upstreams(server.endpoint()).has_blob(&name(), &digest()).await;
    assert_eq!(outcome, Ok(Presence::Present { size: Some(7) }));
}

#[tokio::test]
async fn a_blob_that_announces_no_length_ends_where_it_ends() {
    let body = || vec![b"con".to_vec(), b"tent".to_vec()];
    let answer = move |_: &_| pieces(200, &[], body(), false);
    for server in [Server::start(answer).await, Server::http1(answer).await] {
        let stream = upstreams(server.endpoint()).blob(&name(), &digest(), 0).await.unwrap();
        assert_eq!((stream.start, stream.total), (0, None));
        assert_eq!(collect(stream).await, Ok(b"content".to_vec()));
    }
}

#[tokio::test]
async fn a_blob_streams_whole_with_its_length() {
    let server = Server::http1(|_| reply(200, &[], b"content")).await;
    let stream = upstreams(server.endpoint()).blob(&name(), &digest(), 0).await.unwrap();
    assert_eq!((stream.start, stream.total), (0, Some(7)));
    assert_eq!(collect(stream).await, Ok(b"content".to_vec()));
    assert_eq!(server.seen()[0].header("range"), None);
}

#[tokio::test]
async fn a_resumed_blob_begins_where_the_upstream_really_began() {
    let part = |range: &'static str| move || reply(206, &[("content-range", range)], b"tent");
    let whole = || reply(200, &[], b"content");
    type Ranged = Box<dyn Fn() -> Reply + Send + Sync>;
    let cases: [(&str, Ranged, u64, usize); 7] = [
        ("206 as asked", Box::new(part("bytes 3-6/7")), 3, 1),
        ("range ignored", Box::new(whole), 0, 1),
        ("another start", Box::new(part("bytes 2-5/7")), 0, 2),
        ("short of the end", Box::new(part("bytes 3-6/9")), 0, 2),
        ("unknown total", Box::new(part("bytes 3-6/*")), 0, 2),
        ("nonsense", Box::new(part("bytes x")), 0, 2),
        ("416", Box::new(|| reply(416, &[("content-range", "bytes */7")], b"")), 0, 2),
    ];
    for (case, ranged, start, requests) in cases {
        let server = Server::start(move |seen| match seen.header("range") {
            Some("bytes=3-") => ranged(),
            None => whole(),
            Some(other) => panic!("{other}"),
        })
        .await;
        let stream = upstreams(server.endpoint()).blob(&name(), &digest(), 3).await.unwrap();
        assert_eq!((stream.start, stream.total), (start, Some(7)), "{case}");
        let expected = if start == 3 { b"tent".to_vec() } else { b"content".to_vec() };
        assert_eq!(collect(stream).await, Ok(expected), "{case}");
        assert_eq!(server.count(&blob_path()), requests, "{case}");
    }
}

#[tokio::test]
async fn a_part_where_all_was_asked_for_is_invalid() {
    let server = Server::start(|_| reply(206, &[("content-range", "bytes 0-3/7")], b"cont")).await;
    let outcome = upstreams(server.endpoint()).blob(&name(), &digest(), 0).await;
    assert!(matches!(outcome, Err(Fault::Invalid(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_cut_blob_ends_with_an_error_after_the_bytes_that_came() {
    let cut = |_: &_| pieces(200, &[("content-length", "7")], vec![b"con".to_vec()], true);
    for server in [Server::start(cut).await, Server::http1(cut).await] {
        is_cut(&upstreams(server.endpoint())).await;
    }
}

async fn is_cut(upstreams: &Upstreams) {
    let mut stream = upstreams.blob(&name(), &digest(), 0).await.unwrap();
    assert_eq!(stream.total, Some(7));
    let mut bytes = Vec::new();
    let fault = loop {
        match stream.body.next().await {
            Some(Ok(piece)) => bytes.extend_from_slice(&piece),
            Some(Err(fault)) => break fault,
            None => panic!("it ended as if it were whole"),
        }
    };
    assert!(b"con".starts_with(&bytes), "{bytes:?}");
    assert!(matches!(fault, Fault::Unreachable(_)), "{fault}");
    assert!(stream.body.next().await.is_none());
    assert!(matches!(upstreams.health()[0].last_failure, Some((_, Fault::Unreachable(_)))));
}

#[tokio::test]
async fn tags_are_gathered_over_all_pages() {
    let server = Server::start(|seen| {
        assert_eq!(seen.path, "/v2/team/app/tags/list");
        match seen.query.as_str() {
            "n=1000" => reply(
                200,
                &[("link", "</v2/team/app/tags/list?last=b&n=2>; rel=\"next\"")],
                br#"{"name":"team/app","tags":["a","b"]}"#,
            ),
            "last=b&n=2" => reply(
                200,
                &[("link", "<x>; rel=\"prev\", <?last=c>;rel=next")],
                br#"{"tags":["c","no tag","\u0000"]}"#,
            ),
            "last=c" => reply(200, &[], br#"{"name":"team/app","tags":null}"#),
            other => panic!("{other}"),
        }
    })
    .await;
    let tags = upstreams(server.endpoint()).tags(&name()).await.unwrap();
    assert_eq!(tags.iter().map(|tag| tag.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
}

#[tokio::test]
async fn paging_that_leaves_the_registry_or_never_ends_is_invalid() {
    for link in [
        "<https://cdn.test/v2/team/app/tags/list>; rel=next",
        "<http://registry.test/v2/team/app/tags/list>; rel=next",
        "<?n=1000>; rel=next",
    ] {
        let server = Server::start(move |_| reply(200, &[("link", link)], br#"{"tags":["a"]}"#)).await;
        let outcome = upstreams(server.endpoint()).tags(&name()).await;
        assert!(matches!(outcome, Err(Fault::Invalid(_))), "{link}: {outcome:?}");
        assert_eq!(server.seen().len(), 1, "{link}");
    }
}

#[tokio::test]
async fn more_tags_than_the_gateway_reads_are_invalid() {
    let server = Server::start(|seen| {
        let page: usize = seen.query.strip_prefix("p=").map_or(0, |page| page.parse().unwrap());
        let tags: Vec<String> = (0..30_000).map(|tag| format!("t{page}-{tag}")).collect();
        let body = serde_json::json!({ "tags": tags }).to_string();
        reply(200, &[("link", &format!("<?p={}>; rel=\"next\"", page + 1))], body.as_bytes())
    })
    .await;
    let outcome = upstreams(server.endpoint()).tags(&name()).await;
    assert!(matches!(outcome, Err(Fault::Invalid(_))), "{outcome:?}");
    assert_eq!(server.seen().len(), 4);
}

#[tokio::test]
async fn a_list_of_more_bytes_than_the_gateway_reads_is_invalid_however_it_is_cut() {
    // Each page is within its own limit and brings next to nothing that counts.
    let junk = format!("[{}0]", "0,".repeat(3 << 20));
    let page_of_junk = format!(r#"{{"tags":{junk}}}"#);
    let server = Server::start(move |seen| {
        let page: usize = seen.query.strip_prefix("p=").map_or(0, |page| page.parse().unwrap());
        reply(200, &[("link", &format!("<?p={}>; rel=\"next\"", page + 1))], page_of_junk.as_bytes())
    })
    .await;
    let outcome = upstreams(server.endpoint()).tags(&name()).await;
    assert!(matches!(&outcome, Err(Fault::Invalid(text)) if text.contains("longer")), "{outcome:?}");
    assert_eq!(server.seen().len(), 6, "6 MiB each, 32 MiB in all");
}

#[tokio::test]
async fn entries_that_cannot_be_read_are_left_out_of_a_list() {
    let good = serde_json::json!({ "mediaType": MANIFEST, "digest": digest(), "size": 3 });
    let body = serde_json::json!({
        "tags": ["a", 7, null, "not a tag", "b"],
        "manifests": [null, 1, [], {}, good, { "mediaType": 1 }],
    });
    let server = Server::start(move |_| reply(200, &[], body.to_string().as_bytes())).await;
    let upstreams = upstreams(server.endpoint());
    let tags: Vec<String> = upstreams.tags(&name()).await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(tags, ["a", "b"]);
    assert_eq!(upstreams.referrers(&name(), &digest()).await.unwrap().len(), 1);
}

fn index(entries: &[&str]) -> Vec<u8> {
    let entry = |text: &&str| serde_json::json!({ "mediaType": MANIFEST, "digest": Digest::sha256(text.as_bytes()), "size": 3, "artifactType": text });
    let entries: Vec<_> = entries.iter().map(entry).collect();
    serde_json::json!({ "schemaVersion": 2, "manifests": entries }).to_string().into_bytes()
}

#[tokio::test]
async fn referrers_come_from_the_api_page_by_page() {
    let server = Server::start(|seen| {
        assert_eq!(seen.path, format!("/v2/team/app/referrers/{}", digest()));
        match seen.query.as_str() {
            "" => reply(200, &[("link", "<?next=1>; rel=\"next\"")], &index(&["a"])),
            _ => reply(200, &[], &index(&["b"])),
        }
    })
    .await;
    let found = upstreams(server.endpoint()).referrers(&name(), &digest()).await.unwrap();
    assert_eq!(
        found.iter().filter_map(|entry| entry.artifact_type.as_deref()).collect::<Vec<_>>(),
        ["a", "b"]
    );
}

#[tokio::test]
async fn without_the_api_referrers_come_from_the_tag_schema_and_may_be_none() {
    for (status, body) in [(404, ""), (405, ""), (400, r#"{"errors":[]}"#), (501, ""), (200, "<html>")] {
        let server = Server::start(move |seen| match seen.path.contains("/referrers/") {
            true => reply(status, &[], body.as_bytes()),
            false => match seen.path == format!("/v2/team/app/manifests/sha256-{}", digest().hex()) {
                true => reply(200, &[], &index(&["a"])),
                false => reply(404, &[], b""),
            },
        })
        .await;
        let upstreams = upstreams(server.endpoint());
        let found = upstreams.referrers(&name(), &digest()).await.unwrap();
        assert_eq!(found.len(), 1, "{status}");
        assert_eq!(upstreams.referrers(&name(), &Digest::sha256(b"x")).await, Ok(Vec::new()), "{status}");
    }
}

#[tokio::test]
async fn the_tag_schema_cuts_a_sha512_to_64_characters() {
    let long = Digest::of(Algorithm::Sha512, b"content");
    let expected = format!("/v2/team/app/manifests/sha512-{}", long.hex().get(..64).unwrap());
    let server = Server::start(move |seen| match seen.path == expected {
        true => reply(200, &[], &index(&["a"])),
        false => reply(404, &[], b""),
    })
    .await;
    assert_eq!(upstreams(server.endpoint()).referrers(&name(), &long).await.unwrap().len(), 1);
}
