//! Where an upstream may lead us.

use super::server::{Reply, Server, offline, reply, settings};
use super::{blob_path, clock, digest, name, tag, upstreams, with};
use crate::oci::{Digest, Fault};
use crate::upstream::{Auth, BlobStream, Secret, Upstreams};

fn to(location: &str) -> Reply {
    reply(307, &[("location", location)], b"")
}

/// A registry with Basic authentication whose blobs are elsewhere.
async fn redirecting(location: impl Fn(u16) -> String + Send + Sync + 'static) -> Server {
    Server::start(move |seen| match (seen.path.as_str(), seen.authorization()) {
        ("/cdn", _) => reply(200, &[], b"content"),
        (_, None) => reply(401, &[("www-authenticate", "Basic")], b""),
        _ => to(&location(seen.port)),
    })
    .await
}

async fn blob(upstreams: &Upstreams) -> Result<Vec<u8>, Fault> {
    collect(upstreams.blob(&name(), &digest(), 0).await?).await
}

pub(super) async fn collect(mut stream: BlobStream) -> Result<Vec<u8>, Fault> {
    use futures_util::StreamExt as _;
    let mut all = Vec::new();
    while let Some(piece) = stream.body.next().await {
        all.extend_from_slice(&piece?);
    }
    Ok(all)
}

fn password() -> Option<Auth> {
    Some(Auth::Basic { username: "ci".to_owned(), password: Secret::Value("secret".to_owned().into()) })
}

#[tokio::test]
async fn a_redirect_is_followed_without_credentials() {
    let server = redirecting(|port| format!("https://cdn.test:{port}/cdn?signature=x#y")).await;
    let mut endpoint = server.endpoint();
    endpoint.auth = password();
    endpoint.blob_hosts = vec!["*.test".to_owned()];
    assert_eq!(blob(&upstreams(endpoint)).await, Ok(b"content".to_vec()));
    let seen = server.seen().into_iter().find(|seen| seen.path == "/cdn").unwrap();
    assert_eq!((seen.host.as_str(), seen.query.as_str()), ("cdn.test", "signature=x"));
    assert_eq!(seen.authorization(), None);
}

#[tokio::test]
async fn credentials_stay_on_the_same_host_and_port_only() {
    let second = Server::start(|_| reply(200, &[], b"content")).await;
    let port = second.address.port();
    let server = redirecting(move |_| format!("https://registry.test:{port}/elsewhere")).await;
    let mut endpoint = server.endpoint();
    endpoint.auth = password();
    // Another certificate authority: what matters is who is asked, not what is answered.
    endpoint.ca = Some(crate::upstream::Ca::Pem(format!("{}\n{}", server.ca, second.ca).into_bytes()));
    assert_eq!(blob(&upstreams(endpoint)).await, Ok(b"content".to_vec()));
    assert_eq!(second.seen()[0].authorization(), None, "another port is another origin");

    let server = Server::start(|seen| match (seen.path.as_str(), seen.authorization()) {
        (_, None) => reply(401, &[("www-authenticate", "Basic")], b""),
        ("/moved", Some(_)) => reply(200, &[], b"content"),
        _ => to("/moved"),
    })
    .await;
    let mut endpoint = server.endpoint();
    endpoint.auth = password();
    assert_eq!(blob(&upstreams(endpoint)).await, Ok(b"content".to_vec()));
}

#[tokio::test]
async fn a_redirect_to_a_private_address_is_refused_unless_its_host_is_declared() {
    let hosts = [
        "cdn.test",
        "localhost",
        "127.0.0.1",
        "2130706433",
        "[::ffff:127.0.0.1]",
        "[::1]",
        "169.254.169.254",
    ];
    for host in hosts {
        let server = redirecting(move |port| format!("https://{host}:{port}/cdn")).await;
        let mut endpoint = server.endpoint();
        endpoint.auth = password();
        let outcome = blob(&upstreams(endpoint)).await;
        assert!(
            matches!(&outcome, Err(Fault::Denied(text)) if text.contains("blob_hosts")),
            "{host}: {outcome:?}"
        );
        assert_eq!(server.count("/cdn"), 0, "{host}");
    }
    for host in ["localhost", "127.0.0.1"] {
        let server = redirecting(move |port| format!("https://{host}:{port}/cdn")).await;
        let mut endpoint = server.endpoint();
        endpoint.auth = password();
        endpoint.blob_hosts = vec![host.to_owned()];
        assert_eq!(blob(&upstreams(endpoint)).await, Ok(b"content".to_vec()), "{host}");
    }
}

#[tokio::test]
async fn declared_blob_hosts_are_the_only_targets_and_others_are_not_even_looked_up() {
    let server = redirecting(|port| format!("https://token.test:{port}/cdn")).await;
    let mut endpoint = server.endpoint();
    endpoint.auth = password();
    endpoint.blob_hosts = vec!["cdn.test".to_owned()];
    endpoint.auth_hosts = vec!["token.test".to_owned()];
    let settings = settings(endpoint);
    let resolver = settings.resolver.clone();
    let outcome = blob(&with(settings)).await;
    assert!(matches!(&outcome, Err(Fault::Denied(text)) if text.contains("token.test")), "{outcome:?}");
    assert_eq!(resolver.queries(), 1);
}

#[tokio::test]
async fn a_redirect_that_is_not_plain_https_is_refused() {
    for location in [
        "http://registry.test/cdn",
        "https://u:p@registry.test/cdn",
        "ftp://registry.test/",
        "https://",
        "file:///etc/passwd",
    ] {
        let server = Server::start(move |_| to(location)).await;
        let outcome = blob(&upstreams(server.endpoint())).await;
        assert!(matches!(outcome, Err(Fault::Invalid(_))), "{location}: {outcome:?}");
        assert_eq!(server.seen().len(), 1, "{location}");
    }
}

#[tokio::test]
async fn a_redirect_loop_ends() {
    let server = Server::start(|seen| to(&seen.path)).await;
    assert!(matches!(blob(&upstreams(server.endpoint())).await, Err(Fault::Invalid(_))));
    assert_eq!(server.count(&blob_path()), 6);
}

#[tokio::test]
async fn a_challenge_from_another_host_is_not_answered() {
    let server = Server::start(|seen| match seen.host.as_str() {
        "registry.test" => to(&format!("https://cdn.test:{}/cdn", seen.port)),
        _ => reply(401, &[("www-authenticate", "Basic")], b""),
    })
    .await;
    let mut endpoint = server.endpoint();
    endpoint.auth = password();
    endpoint.blob_hosts = vec!["cdn.test".to_owned()];
    assert!(matches!(blob(&upstreams(endpoint)).await, Err(Fault::Denied(_))));
    assert!(server.seen().iter().all(|seen| seen.authorization().is_none()));
}

#[tokio::test]
async fn an_undeclared_registry_must_be_public() {
    let settings = offline();
    let resolver = settings.resolver.clone();
    let upstreams = with(settings);
    let outcome = upstreams.resolve(&name(), &tag()).await;
    assert!(matches!(&outcome, Err(Fault::Denied(text)) if text.contains("[[upstream]]")), "{outcome:?}");
    assert_eq!(resolver.queries(), 1);
    let literal = "127.0.0.1:1/x/y".parse().unwrap();
    assert!(matches!(upstreams.resolve(&literal, &tag()).await, Err(Fault::Denied(_))));
    assert_eq!(resolver.queries(), 1, "an address needs no looking up to be refused");
}

#[tokio::test]
async fn a_sealed_gateway_contacts_nobody() {
    let server = Server::start(|_| reply(200, &[], b"")).await;
    let mut settings = settings(server.endpoint());
    settings.sealed = true;
    let resolver = settings.resolver.clone();
    let upstreams = Upstreams::new(settings, clock()).unwrap();
    assert!(upstreams.is_sealed());
    for name in [name(), "docker.io/library/x".parse().unwrap()] {
        let digest = Digest::sha256(b"");
        assert!(matches!(upstreams.resolve(&name, &tag()).await, Err(Fault::Unreachable(_))));
        assert!(matches!(upstreams.blob(&name, &digest, 0).await, Err(Fault::Unreachable(_))));
        assert!(matches!(upstreams.has_blob(&name, &digest).await, Err(Fault::Unreachable(_))));
    }
    assert_eq!((resolver.queries(), server.seen().len()), (0, 0));
}
