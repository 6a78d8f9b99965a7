//! Upstreams that fail, limit, lie or are set up wrongly.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;

use super::redirect::collect;
use super::server::{Reply, Server, offline, reply, settings};
use super::{TAG, clock, digest, name, tag, upstreams, with};
use crate::oci::{Fault, Registry};
use crate::upstream::{
    Ca, EndpointSettings, Error, RateLimit, Settings, SourceSettings, UpstreamSettings, Upstreams,
};

fn found() -> Reply {
    reply(200, &[("docker-content-digest", &digest().to_string())], b"content")
}

/// Fails so many times, then answers.
async fn failing(times: usize, failure: impl Fn() -> Reply + Send + Sync + 'static) -> Server {
    let asked = AtomicUsize::new(0);
    Server::start(move |_| if asked.fetch_add(1, Ordering::SeqCst) < times { failure() } else { found() })
        .await
}

#[tokio::test]
async fn a_passing_failure_is_asked_again_and_a_lasting_one_told() {
    for status in [500, 502, 503, 504, 408] {
        let server = failing(2, move || reply(status, &[], b"")).await;
        assert_eq!(upstreams(server.endpoint()).resolve(&name(), &tag()).await, Ok(digest()), "{status}");
        let server = failing(3, move || reply(status, &[], b"oops")).await;
        let outcome = upstreams(server.endpoint()).resolve(&name(), &tag()).await;
        assert!(matches!(outcome, Err(Fault::Unreachable(_))), "{status}: {outcome:?}");
        assert_eq!(server.count(TAG), 3, "{status}");
    }
}

#[tokio::test]
async fn what_will_not_change_is_not_asked_again() {
    for (status, word) in [
        (404, "absent"),
        (410, "absent"),
        (401, "denied"),
        (403, "denied"),
        (418, "invalid"),
        (505, "unreachable"),
        (204, "invalid"),
    ] {
        let server = failing(9, move || reply(status, &[], b"")).await;
        let fault = upstreams(server.endpoint()).resolve(&name(), &tag()).await.unwrap_err();
        assert_eq!(fault.word(), word, "{status}: {fault}");
        assert_eq!(server.count(TAG), 1, "{status}");
    }
}

#[tokio::test]
async fn a_short_retry_after_is_waited_for() {
    let server = failing(1, || reply(429, &[("retry-after", "1")], b"")).await;
    let begin = std::time::Instant::now();
    // The pause is counted from the gateway's own clock, which stands still here.
    assert_eq!(upstreams(server.endpoint()).resolve(&name(), &tag()).await, Ok(digest()));
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_long_retry_after_is_told_and_obeyed_for_that_kind_of_request_only() {
    let server = Server::start(|seen| match seen.method.as_str() {
        "HEAD" => reply(
            429,
            &[("retry-after", "60")],
            br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#,
        ),
        _ => reply(200, &[], b"content"),
    })
    .await;
    let clock = clock();
    let upstreams = Upstreams::new(settings(server.endpoint()), clock.clone()).unwrap();
    let then = clock.now() + Duration::from_secs(60);
    for _ in 0..3 {
        let outcome = upstreams.resolve(&name(), &tag()).await;
        assert!(
            matches!(&outcome, Err(Fault::Throttled { until: Some(until), .. }) if *until == then),
            "{outcome:?}"
        );
    }
    assert_eq!(server.count(TAG), 1, "asked once, then remembered");
    assert_eq!(upstreams.health()[0].throttled_until, Some(then));
    assert!(upstreams.manifest(&name(), &digest()).await.is_ok());
    clock.advance(Duration::from_secs(60));
    assert!(upstreams.resolve(&name(), &tag()).await.is_err());
    assert_eq!(server.count(TAG), 2);
}

#[tokio::test]
async fn what_a_registry_says_about_its_limit_is_in_its_health() {
    let headers = [("ratelimit-limit", "100;w=21600"), ("ratelimit-remaining", "7;w=21600")];
    let server = Server::start(move |_| reply(404, &headers, b"")).await;
    let upstreams = upstreams(server.endpoint());
    assert!(upstreams.resolve(&name(), &tag()).await.is_err());
    let health = &upstreams.health()[0];
    assert_eq!(health.rate_limit, Some(RateLimit { limit: Some(100), remaining: Some(7) }));
    assert_eq!(health.registry.as_str(), "registry.test");
    assert!(health.declared && health.last_success.is_some() && health.last_failure.is_none());
    assert_eq!(health.requests, 1);
}

#[tokio::test]
async fn words_of_an_upstream_are_quoted_without_control_characters_and_shortened() {
    let message = format!("bad \\u001b[31m\\n\\u202e{}", "x".repeat(5000));
    let body = format!(r#"{{"errors":[{{"code":"NAME_UNKNOWN","message":"{message}"}}]}}"#);
    let server = Server::start(move |_| reply(404, &[], body.as_bytes())).await;
    let text = upstreams(server.endpoint()).manifest(&name(), &digest()).await.unwrap_err().to_string();
    assert!(
        text.contains("NAME_UNKNOWN bad [31m xxx") && text.contains("registry.test answered 404"),
        "{text}"
    );
    assert!(text.chars().count() < 400 && !text.chars().any(char::is_control), "{text}");
    assert!(!text.contains('\u{202e}'), "{text}");
}

#[tokio::test]
async fn an_endless_error_body_is_not_read_to_its_end() {
    let server =
        Server::start(|_| super::server::pieces(403, &[], vec![vec![b'x'; 1 << 20]; 64], false)).await;
    assert!(matches!(upstreams(server.endpoint()).resolve(&name(), &tag()).await, Err(Fault::Denied(_))));
    assert!(matches!(upstreams(server.endpoint()).manifest(&name(), &digest()).await, Err(Fault::Denied(_))));
}

#[tokio::test]
async fn after_failed_connections_an_endpoint_rests_and_is_tried_again() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let settings = settings(EndpointSettings::new(format!("https://registry.test:{port}").parse().unwrap()));
    let resolver = settings.resolver.clone();
    let clock = clock();
    let upstreams = Upstreams::new(settings, clock.clone()).unwrap();
    let outcome = upstreams.resolve(&name(), &tag()).await;
    assert!(matches!(&outcome, Err(Fault::Unreachable(text)) if text.contains("refused")), "{outcome:?}");
    assert_eq!(resolver.queries(), 3);
    let outcome = upstreams.resolve(&name(), &tag()).await;
    assert!(matches!(&outcome, Err(Fault::Unreachable(text)) if text.contains("tried again")), "{outcome:?}");
    assert_eq!(resolver.queries(), 3, "not asked while it rests");
    assert!(upstreams.health()[0].resting_until.is_some());
    clock.advance(Duration::from_secs(5));
    assert!(upstreams.resolve(&name(), &tag()).await.is_err());
    assert!(resolver.queries() > 3);
}

#[tokio::test]
async fn an_unknown_certificate_authority_is_refused_and_the_words_say_what_to_do() {
    let server = Server::start(|_| found()).await;
    let mut endpoint = server.endpoint();
    endpoint.ca = None;
    let outcome = upstreams(endpoint).resolve(&name(), &tag()).await;
    assert!(
        matches!(&outcome, Err(Fault::Unreachable(text)) if text.contains("name it as ca")),
        "{outcome:?}"
    );
    assert!(server.seen().is_empty());
}

fn several(endpoints: impl IntoIterator<Item = EndpointSettings>) -> Upstreams {
    let registry: Registry = "registry.test".parse().unwrap();
    let one = |endpoint| UpstreamSettings {
        registry: registry.clone(),
        source: SourceSettings::Endpoint(endpoint),
    };
    with(Settings { upstreams: endpoints.into_iter().map(one).collect(), ..offline() })
}

#[tokio::test]
async fn endpoints_are_tried_in_their_order_and_absence_is_believed_from_all_only() {
    let absent = Server::start(|_| reply(404, &[], b"")).await;
    let broken = Server::start(|_| reply(505, &[], b"")).await;
    let sound = Server::start(|_| found()).await;
    let [absent, broken, sound] = [&absent, &broken, &sound].map(Server::endpoint);
    let upstreams = several([absent.clone(), broken.clone(), sound]);
    assert_eq!(upstreams.resolve(&name(), &tag()).await, Ok(digest()));
    let stream = upstreams.blob(&name(), &digest(), 0).await.unwrap();
    assert_eq!(collect(stream).await, Ok(b"content".to_vec()));

    let upstreams = several([absent.clone(), broken]);
    assert!(matches!(upstreams.resolve(&name(), &tag()).await, Err(Fault::Unreachable(_))));
    assert!(matches!(upstreams.has_blob(&name(), &digest()).await, Err(Fault::Unreachable(_))));
    let upstreams = several([absent.clone(), absent]);
    assert!(matches!(upstreams.resolve(&name(), &tag()).await, Err(Fault::Absent(_))));
    assert_eq!(upstreams.registries().len(), 1);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_before_anything_is_asked() {
    let refused = |change: &dyn Fn(&mut EndpointSettings)| {
        let mut endpoint = EndpointSettings::new("https://registry.test".parse().unwrap());
        change(&mut endpoint);
        Upstreams::new(settings(endpoint), clock()).expect_err("it cannot work")
    };
    let error = refused(&|endpoint| endpoint.url = "http://registry.test".parse().unwrap());
    assert!(matches!(&error, Error::Endpoint { .. }) && error.to_string().contains("https"), "{error}");
    let error = refused(&|endpoint| endpoint.ca = Some(Ca::File("/nonexistent/ca.pem".into())));
    assert!(
        matches!(&error, Error::Ca { .. }) && error.to_string().contains("/nonexistent/ca.pem"),
        "{error}"
    );
    let error = refused(&|endpoint| endpoint.ca = Some(Ca::Pem(b"no certificate".to_vec())));
    assert!(matches!(&error, Error::Ca { .. }), "{error}");
    let error = refused(&|endpoint| endpoint.blob_hosts = vec!["https://cdn.test/".to_owned()]);
    assert!(
        matches!(&error, Error::Host { .. }) && error.to_string().contains("https://cdn.test/"),
        "{error}"
    );
}

#[tokio::test]
async fn the_futures_can_be_spawned() {
    let upstreams = Arc::new(with(Settings { sealed: true, ..offline() }));
    let task = tokio::spawn(async move {
        let fault = upstreams.blob(&name(), &digest(), 1).await.map(|stream| stream.start).unwrap_err();
        let other = upstreams.referrers(&name(), &digest()).await.unwrap_err();
        (fault, other)
    });
    assert!(matches!(task.await.unwrap(), (Fault::Unreachable(_), Fault::Unreachable(_))));
}
