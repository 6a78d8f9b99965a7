use super::*;

async fn references(fixture: &Fixture, filter: Filter) -> Vec<String> {
    read(fixture.folder.path(), filter)
        .await
        .iter()
        .map(|entry| entry.text(&["image", "reference"]).unwrap().to_owned())
        .collect()
}

async fn some() -> Fixture {
    let fixture = Fixture::new().await;
    let mut ci = caller("10.0.0.2");
    ci.class = Class::Client("ci".into());
    ci.attribution = Attribution::Token;
    fixture.refuse(&caller("10.0.0.1"), &refusal("docker.io/library/python:3.11")).await;
    fixture.wait(3600);
    drop(fixture.allow(&caller("10.0.0.1"), &tag("docker.io/library/postgres:16.4", "pg"), "GET"));
    fixture.log.flush().await.unwrap();
    fixture.wait(3600);
    let evil = Image::asked(&ask("docker.io/bitnami/redis:7.2.5"));
    fixture.refuse(&ci, &refused_for(evil, Code::SourceUnknown)).await;
    fixture
}

#[tokio::test]
async fn filters_choose_by_verdict_client_reason_image_and_time() {
    let fixture = some().await;
    let all =
        ["docker.io/library/python:3.11", "docker.io/library/postgres:16.4", "docker.io/bitnami/redis:7.2.5"];
    assert_eq!(references(&fixture, Filter::default()).await, all);
    assert_eq!(references(&fixture, Filter { blocked: true, ..Filter::default() }).await, [all[0], all[2]]);
    let verdict = Some(Verdict::Allow);
    assert_eq!(references(&fixture, Filter { verdict, ..Filter::default() }).await, [all[1]]);
    let reason = Some(Code::SourceUnknown);
    assert_eq!(references(&fixture, Filter { reason, ..Filter::default() }).await, [all[2]]);
    for client in ["ci", "10.0.0.2"] {
        let client = Some(Pattern::words(client));
        assert_eq!(references(&fixture, Filter { client, ..Filter::default() }).await, [all[2]]);
    }
    for (image, wanted) in [
        ("docker.io/library/*", &all[..2]),
        ("python", &all[..1]),
        ("python:3.11", &all[..1]),
        ("python:3.12", &[]),
        ("library/python", &all[..1]),
        ("p*", &all[..2]),
        ("*redis*", &all[2..]),
        ("docker.io/bitnami/redis", &all[2..]),
        ("docker_io/*", &[]),
        ("DOCKER.IO/*", &[]),
    ] {
        let image_filter = Some(Pattern::image(image));
        let found = references(&fixture, Filter { image: image_filter, ..Filter::default() }).await;
        assert_eq!(found, wanted, "{image}");
    }
    let since = Some(time("2026-11-01T11:00:00Z"));
    assert_eq!(references(&fixture, Filter { since, ..Filter::default() }).await, &all[1..]);
    let newest = Filter { order: Order::NewestFirst, limit: Some(2), ..Filter::default() };
    assert_eq!(references(&fixture, newest).await, [all[2], all[1]]);
}

#[tokio::test]
async fn a_refusal_that_goes_on_is_shown_by_when_it_last_happened() {
    let fixture = Fixture::new().await;
    let (client, judged) = (caller("10.0.0.1"), refusal("docker.io/library/python:3.11"));
    for _ in 0..10 {
        fixture.refuse(&client, &judged).await;
        fixture.log.tick().await.unwrap();
        fixture.wait(300);
    }
    fixture.log.flush().await.unwrap();
    let since = |text| Filter { since: Some(time(text)), ..Filter::default() };
    assert_eq!(references(&fixture, since("2026-11-01T10:40:00Z")).await.len(), 1);
    assert_eq!(references(&fixture, since("2026-11-01T10:46:00Z")).await.len(), 0);
}

#[tokio::test]
async fn many_pages_are_read_without_gaps_in_both_directions() {
    let fixture = Fixture::with(|settings| Settings { refusals_per_minute: u32::MAX, ..settings }).await;
    let client = caller("10.0.0.1");
    for number in 0..1000 {
        drop(fixture.allow(&client, &tag(&format!("docker.io/library/i{number}:1.2.3"), "index"), "GET"));
    }
    fixture.log.flush().await.unwrap();
    let forward = references(&fixture, Filter::default()).await;
    assert_eq!(forward.len(), 1000);
    assert_eq!(forward[999], "docker.io/library/i999:1.2.3");
    let mut backward = references(&fixture, Filter { order: Order::NewestFirst, ..Filter::default() }).await;
    backward.reverse();
    assert_eq!(forward, backward);
}

#[tokio::test]
async fn a_flood_is_found_by_the_images_in_its_sample() {
    let fixture = Fixture::with(|settings| Settings { refusals_per_minute: 0, ..settings }).await;
    let client = caller("10.0.0.1");
    for number in 0..3 {
        fixture.refuse(&client, &refusal(&format!("docker.io/library/made-up-{number}:1"))).await;
    }
    fixture.log.flush().await.unwrap();
    let image = |text| Filter { blocked: true, image: Some(Pattern::image(text)), ..Filter::default() };
    let found = read(fixture.folder.path(), image("made-up-2")).await;
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].number(&["count"]), Some(3));
    assert!(read(fixture.folder.path(), image("made-up-3")).await.is_empty());
}

#[tokio::test]
async fn hostile_words_are_bounded_and_cannot_break_a_line() {
    let fixture = Fixture::new().await;
    let hostile = format!("\n\r\x1b[2J\0\"\\\u{9b}\u{202e}{}", "x".repeat(64 << 10));
    let mut client = caller("10.0.0.1");
    client.user_agent = Some(hostile.as_str().into());
    client.certificate = Some(hostile.as_str().into());
    client.class = Class::Client(hostile.as_str().into());
    client.attribution = Attribution::Certificate;
    let judged = refused_for(Image::unreadable(&hostile), Code::NameInvalid);
    let http = Http { method: &hostile, path: &hostile, ns: Some(&hostile), status: Some(400) };
    let draft = Draft { caller: &client, judged: &judged, http };
    let refused = fixture.log.refused(draft, words).await.unwrap();
    let entry = fixture.log.reader().find(&refused.id).await.unwrap().unwrap();
    for path in [["client", "user_agent"], ["client", "certificate"], ["http", "ns"], ["client", "name"]] {
        let kept = entry.text(&path).unwrap();
        assert_eq!(kept.chars().count(), 256, "{path:?}");
        assert!(kept.starts_with("\n\r\x1b[2J\0"), "{path:?}");
    }
    assert!(entry.text(&["image", "reference"]).unwrap().chars().count() <= 1024);
    assert!(entry.text(&["http", "path"]).unwrap().chars().count() <= 1024);
    let line = printable_json(serde_json::to_string(&entry.event).unwrap());
    assert!(line.len() < 16 << 10, "{}", line.len());
    assert!(!line.chars().any(char::is_control));
    assert!(!line.contains('\u{202e}'));
}

#[tokio::test]
async fn nothing_of_a_query_string_is_kept() {
    let fixture = Fixture::new().await;
    fixture.refuse(&caller("10.0.0.1"), &refusal("docker.io/library/python:3.11")).await;
    fixture.log.close().await;
    let bytes = std::fs::read(fixture.folder.path().join(FILE)).unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"secret"));
}

#[tokio::test]
async fn events_without_a_request_are_recorded_too() {
    let fixture = Fixture::new().await;
    let name: crate::oci::Name = "docker.io/library/python".parse().unwrap();
    let drift = Event::Drift {
        name: name.clone(),
        tag: "3.11.9".parse().unwrap(),
        locked: digest("old"),
        current: None,
    };
    let id = fixture.log.record(drift).await.unwrap();
    let entry = fixture.log.reader().find(&id).await.unwrap().unwrap();
    assert_eq!(entry.text(&["kind"]), Some("drift"));
    assert_eq!(entry.text(&["image", "previous_digest"]), Some(&*digest("old").to_string()));
    assert!(entry.event["image"]["digest"].is_null());
    let adopted = Event::PolicyAdopted {
        previous: None,
        policy: (*stamp()).clone(),
        changes: vec!["source pgvector: added".to_owned()],
    };
    fixture.log.record(adopted).await.unwrap();
    let fault = crate::oci::Fault::Invalid("sha256 differs".into());
    let upstream = Event::Upstream {
        registry: name.registry().clone(),
        name: Some(name),
        digest: Some(digest("blob")),
        fault: Some(fault),
    };
    fixture.log.record(upstream).await.unwrap();
    let kinds: Vec<_> =
        fixture.entries().await.iter().map(|entry| entry.text(&["kind"]).unwrap().to_owned()).collect();
    assert_eq!(kinds, ["drift", "policy", "upstream"]);
    let blocked = Filter { blocked: true, ..Filter::default() };
    assert!(read(fixture.folder.path(), blocked).await.is_empty());
}
