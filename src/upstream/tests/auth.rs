//! Tokens and credentials.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::server::{Reply, Server, reply, settings};
use super::{TAG, clock, digest, name, tag, upstreams};
use crate::oci::{Fault, Name};
use crate::upstream::{Auth, Secret, Upstreams};

const SERVICE: &str = "the registry";

fn password(text: &str) -> Auth {
    Auth::Basic { username: "ci".to_owned(), password: Secret::Value(text.to_owned().into()) }
}

/// A registry that wants `Bearer token-<n>` for the n-th token its service gave, `/token` at this host.
async fn bearer(realm_host: &'static str, expires_in: &'static str) -> Server {
    let given = AtomicUsize::new(0);
    Server::start(move |seen| {
        if seen.path == "/token" {
            let n = given.fetch_add(1, Ordering::SeqCst) + 1;
            return reply(200, &[], format!(r#"{{"token":"token-{n}"{expires_in}}}"#).as_bytes());
        }
        let current = format!("Bearer token-{}", given.load(Ordering::SeqCst));
        if seen.authorization() == Some(&current) {
            return found();
        }
        unauthorized(&format!(
            r#"Bearer realm="https://{realm_host}:{}/token",service="{SERVICE}",scope="repository:other/one:pull,push aws""#,
            seen.port
        ))
    })
    .await
}

fn found() -> Reply {
    reply(200, &[("docker-content-digest", &digest().to_string())], b"")
}

fn unauthorized(challenge: &str) -> Reply {
    reply(401, &[("www-authenticate", challenge)], br#"{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}"#)
}

#[tokio::test]
async fn an_anonymous_token_is_fetched_for_our_own_scope_and_used_again() {
    let server = bearer("auth.registry.test", "").await;
    let mut endpoint = server.endpoint();
    endpoint.auth_hosts = vec!["auth.registry.test".to_owned()];
    let upstreams = upstreams(endpoint);
    assert_eq!(upstreams.resolve(&name(), &tag()).await, Ok(digest()));
    assert_eq!(upstreams.resolve(&name(), &tag()).await, Ok(digest()));
    let seen = server.seen();
    assert_eq!(seen.iter().filter(|seen| seen.path == TAG).count(), 3, "one challenge, two answers");
    let token = seen.iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!(token.query, "service=the+registry&scope=repository%3Ateam%2Fapp%3Apull&scope=aws");
    assert_eq!(token.authorization(), None);
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn another_repository_needs_no_second_challenge_but_a_token_of_its_own() {
    let server = bearer("registry.test", "").await;
    let upstreams = upstreams(server.endpoint());
    assert_eq!(upstreams.resolve(&name(), &tag()).await, Ok(digest()));
    let other: Name = "registry.test/team/other".parse().unwrap();
    assert_eq!(upstreams.resolve(&other, &tag()).await, Ok(digest()));
    assert_eq!(server.count("/v2/team/other/manifests/1.0"), 1);
    assert!(server.seen().iter().any(|seen| seen.path == "/token" && seen.query.contains("team%2Fother")));
}

#[tokio::test]
async fn a_password_goes_to_the_token_service_of_the_same_domain_and_nowhere_else() {
    let server = bearer("auth.registry.test", "").await;
    let mut endpoint = server.endpoint();
    endpoint.auth = Some(password("secret"));
    // The same domain is trusted with credentials; that it is on loopback must be declared all the same.
    let refused = upstreams(endpoint.clone()).resolve(&name(), &tag()).await;
    assert!(
        matches!(&refused, Err(Fault::Denied(text)) if text.contains("auth.registry.test")),
        "{refused:?}"
    );
    endpoint.blob_hosts = vec!["auth.registry.test".to_owned()];
    assert_eq!(upstreams(endpoint).resolve(&name(), &tag()).await, Ok(digest()));
    for seen in server.seen() {
        match seen.path.as_str() {
            "/token" => {
                assert_eq!(seen.authorization(), Some("Basic Y2k6c2VjcmV0"));
                assert!(seen.query.contains("account=ci"), "{}", seen.query);
            }
            _ => assert!(!seen.authorization().is_some_and(|value| value.starts_with("Basic")), "{seen:?}"),
        }
    }
}

#[tokio::test]
async fn a_realm_on_a_foreign_host_gets_no_credentials_and_no_request() {
    let server = bearer("token.test", "").await;
    let mut endpoint = server.endpoint();
    endpoint.auth = Some(password("secret"));
    let mut settings = settings(endpoint.clone());
    let resolver = settings.resolver.clone();
    let upstreams = Upstreams::new(settings.clone(), clock()).unwrap();
    let outcome = upstreams.resolve(&name(), &tag()).await;
    assert!(
        matches!(&outcome, Err(Fault::Denied(text)) if text.contains("add token.test to auth_hosts")),
        "{outcome:?}"
    );
    assert_eq!(resolver.queries(), 1, "token.test is not even looked up");
    assert_eq!(server.count("/token"), 0);

    endpoint.auth_hosts = vec!["token.test".to_owned()];
    settings = super::server::settings(endpoint);
    let upstreams = Upstreams::new(settings, clock()).unwrap();
    assert_eq!(upstreams.resolve(&name(), &tag()).await, Ok(digest()));
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn a_private_realm_of_an_anonymous_upstream_is_not_contacted() {
    let server = bearer("token.test", "").await;
    let outcome = upstreams(server.endpoint()).resolve(&name(), &tag()).await;
    assert!(matches!(&outcome, Err(Fault::Denied(text)) if text.contains("token.test")), "{outcome:?}");
    assert_eq!(server.count("/token"), 0);
}

#[tokio::test]
async fn a_realm_without_https_is_refused() {
    for realm in ["http://registry.test/token", "https://u:p@registry.test/token", "ftp://x", "token", ""] {
        let challenge = format!(r#"Bearer realm="{realm}",service="s""#);
        let server = Server::start(move |_| unauthorized(&challenge)).await;
        let outcome = upstreams(server.endpoint()).resolve(&name(), &tag()).await;
        assert!(matches!(outcome, Err(Fault::Denied(_))), "{realm}: {outcome:?}");
        assert_eq!(server.seen().len(), 1, "{realm}");
    }
}

#[tokio::test]
async fn an_identity_token_is_exchanged_by_post() {
    let server = bearer("registry.test", "").await;
    let mut endpoint = server.endpoint();
    endpoint.auth = Some(Auth::Token(Secret::Value("refresh".to_owned().into())));
    assert_eq!(upstreams(endpoint).resolve(&name(), &tag()).await, Ok(digest()));
    let token = server.seen().into_iter().find(|seen| seen.path == "/token").unwrap();
    assert_eq!(token.method, "POST");
    assert_eq!(token.query, "");
    assert_eq!(
        token.body,
        "grant_type=refresh_token&client_id=pullgate&service=the+registry&scope=repository%3Ateam%2Fapp%3Apull+aws&refresh_token=refresh"
    );
    assert_eq!(token.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(token.authorization(), None);
}

#[tokio::test]
async fn a_token_is_renewed_shortly_before_it_expires() {
    for (expires_in, early, late) in
        [(r#","expires_in":300"#, 285, 6), ("", 45, 6), (r#","expires_in":0"#, 45, 6)]
    {
        let server = bearer("registry.test", expires_in).await;
        let clock = clock();
        let upstreams = Upstreams::new(settings(server.endpoint()), clock.clone()).unwrap();
        upstreams.resolve(&name(), &tag()).await.unwrap();
        clock.advance(Duration::from_secs(early));
        upstreams.resolve(&name(), &tag()).await.unwrap();
        assert_eq!(server.count("/token"), 1, "{expires_in}");
        clock.advance(Duration::from_secs(late));
        upstreams.resolve(&name(), &tag()).await.unwrap();
        assert_eq!(server.count("/token"), 2, "{expires_in}");
        assert_eq!(server.count(TAG), 4, "renewed without another challenge");
    }
}

#[tokio::test]
async fn many_who_need_one_token_cause_one_request_for_it() {
    let server = bearer("registry.test", "").await;
    let upstreams = Arc::new(upstreams(server.endpoint()));
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let upstreams = Arc::clone(&upstreams);
        tasks.spawn(async move { upstreams.resolve(&name(), &tag()).await });
    }
    while let Some(outcome) = tasks.join_next().await {
        assert_eq!(outcome.unwrap(), Ok(digest()));
    }
    assert_eq!(server.count("/token"), 1);
}

#[tokio::test]
async fn an_access_token_is_as_good_and_a_reply_without_one_is_invalid() {
    for (body, good) in [
        (r#"{"access_token":"opaque/x+y==","token":""}"#, true),
        (r#"{"access_token":"opaque/x+y==","expires_in":3600,"refresh_token":"z"}"#, true),
        (r#"{"token":"","access_token":""}"#, false),
        (r#"{"token":"a\nb"}"#, false),
        ("{}", false),
        ("token", false),
    ] {
        let server = Server::start(move |seen| match (seen.path.as_str(), seen.authorization()) {
            ("/token", _) => reply(200, &[], body.as_bytes()),
            (_, Some("Bearer opaque/x+y==")) => found(),
            _ => unauthorized(&format!(r#"Bearer realm="https://registry.test:{}/token""#, seen.port)),
        })
        .await;
        let outcome = upstreams(server.endpoint()).resolve(&name(), &tag()).await;
        match good {
            true => assert_eq!(outcome, Ok(digest()), "{body}"),
            false => assert!(matches!(outcome, Err(Fault::Invalid(_))), "{body}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_huge_token_reply_is_not_read() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/token" => reply(200, &[], &vec![b' '; 1 << 20]),
        _ => unauthorized(&format!(r#"Bearer realm="https://registry.test:{}/token""#, seen.port)),
    })
    .await;
    let outcome = upstreams(server.endpoint()).resolve(&name(), &tag()).await;
    assert!(matches!(outcome, Err(Fault::Invalid(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced_once_and_then_the_upstream_has_denied() {
    let server = Server::start(|seen| match seen.path.as_str() {
        "/token" => reply(200, &[], br#"{"token":"worthless"}"#),
        _ => unauthorized(&format!(r#"Bearer realm="https://registry.test:{}/token""#, seen.port)),
    })
    .await;
    let upstreams = upstreams(server.endpoint());
    let outcome = upstreams.resolve(&name(), &tag()).await;
    assert!(matches!(&outcome, Err(Fault::Denied(text)) if text.contains("do not exist")), "{outcome:?}");
    assert_eq!((server.count(TAG), server.count("/token")), (2, 1));
    assert!(upstreams.resolve(&name(), &tag()).await.is_err());
    assert_eq!((server.count(TAG), server.count("/token")), (4, 2));
}

#[tokio::test]
async fn a_token_service_that_refuses_or_fails_is_not_mistaken_for_absence() {
    for (status, word, requests) in [
        (401, "denied", 1),
        (403, "denied", 1),
        (404, "denied", 1),
        (503, "unreachable", 3),
        (429, "throttled", 1),
    ] {
        let server = Server::start(move |seen| match seen.path.as_str() {
            "/token" => reply(status, &[], br#"{"details":"incorrect username or password"}"#),
            _ => unauthorized(&format!(r#"Bearer realm="https://registry.test:{}/token""#, seen.port)),
        })
        .await;
        let fault = upstreams(server.endpoint()).resolve(&name(), &tag()).await.unwrap_err();
        assert_eq!(fault.word(), word, "{fault}");
        assert!(fault.to_string().contains("incorrect username or password"), "{fault}");
        assert_eq!(server.count("/token"), requests, "{status}");
    }
}

#[tokio::test]
async fn basic_is_sent_once_asked_for_and_a_rotated_password_file_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "one\n").unwrap();
    let wanted = Arc::new(std::sync::Mutex::new("Basic Y2k6b25l"));
    let now = Arc::clone(&wanted);
    let server = Server::start(move |seen| match seen.authorization() {
        given if given == Some(*now.lock().unwrap()) => found(),
        _ => unauthorized(r#"Basic realm="x""#),
    })
    .await;
    let mut endpoint = server.endpoint();
    endpoint.auth = Some(Auth::Basic { username: "ci".to_owned(), password: Secret::File(file.clone()) });
    let upstreams = upstreams(endpoint);
    assert_eq!(upstreams.resolve(&name(), &tag()).await, Ok(digest()));
    assert_eq!(upstreams.resolve(&name(), &tag()).await, Ok(digest()));
    assert_eq!(server.count(TAG), 3);

    *wanted.lock().unwrap() = "Basic Y2k6dHdv";
    let outcome = upstreams.resolve(&name(), &tag()).await;
    assert!(matches!(&outcome, Err(Fault::Denied(text)) if text.contains("check them")), "{outcome:?}");
    std::fs::write(&file, "two").unwrap();
    assert_eq!(upstreams.resolve(&name(), &tag()).await, Ok(digest()));
}

#[tokio::test]
async fn credentials_that_cannot_be_had_deny_and_never_become_anonymous() {
    let server = bearer("registry.test", "").await;
    let missing = std::path::PathBuf::from("/nonexistent/secret");
    let environment = Secret::Env("PULLGATE_TEST_UNSET".to_owned());
    for (auth, word) in [
        (Auth::Token(Secret::File(missing.clone())), "/nonexistent/secret"),
        (Auth::Token(environment), "PULLGATE_TEST_UNSET"),
        (Auth::DockerConfig(missing), "/nonexistent/secret"),
        (password(" \n"), "empty"),
    ] {
        let mut endpoint = server.endpoint();
        endpoint.auth = Some(auth);
        let outcome = upstreams(endpoint).resolve(&name(), &tag()).await;
        assert!(matches!(&outcome, Err(Fault::Denied(text)) if text.contains(word)), "{outcome:?}");
    }
    assert_eq!(server.count("/token"), 0);
}

#[tokio::test]
async fn a_docker_config_gives_password_or_identity_token_of_its_registry_only() {
    let server = bearer("registry.test", "").await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let mut endpoint = server.endpoint();
    endpoint.auth = Some(Auth::DockerConfig(file.clone()));

    std::fs::write(&file, r#"{"auths":{"registry.test":{"auth":"Y2k6c2VjcmV0"}}}"#).unwrap();
    assert_eq!(upstreams(endpoint.clone()).resolve(&name(), &tag()).await, Ok(digest()));
    let token = server.seen().into_iter().rfind(|seen| seen.path == "/token").unwrap();
    assert_eq!(token.authorization(), Some("Basic Y2k6c2VjcmV0"));

    std::fs::write(&file, r#"{"auths":{"registry.test":{"auth":"","identitytoken":"refresh"}}}"#).unwrap();
    assert_eq!(upstreams(endpoint.clone()).resolve(&name(), &tag()).await, Ok(digest()));
    let token = server.seen().into_iter().rfind(|seen| seen.path == "/token").unwrap();
    assert_eq!(token.method, "POST");

    let count = server.count("/token");
    for text in [r#"{"auths":{"other.test":{"auth":"Y2k6c2VjcmV0"}}}"#, "{}", "not json", ""] {
        std::fs::write(&file, text).unwrap();
        let outcome = upstreams(endpoint.clone()).resolve(&name(), &tag()).await;
        assert!(matches!(&outcome, Err(Fault::Denied(_))), "{text}: {outcome:?}");
    }
    assert_eq!(server.count("/token"), count);
}

#[tokio::test]
async fn nothing_of_the_settings_that_is_secret_can_be_printed() {
    let server = bearer("registry.test", "").await;
    let mut endpoint = server.endpoint();
    endpoint.auth = Some(password("geheim"));
    let settings = settings(endpoint);
    let upstreams = Upstreams::new(settings.clone(), clock()).unwrap();
    upstreams.resolve(&name(), &tag()).await.unwrap();
    let text = format!("{settings:?} {upstreams:?} {:?}", upstreams.health());
    assert!(!text.contains("geheim") && !text.contains("token-1"), "{text}");
}
