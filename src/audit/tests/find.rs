//! Filters on indexed fields, paging by place, and the bound of a search.

use super::*;

async fn references(fixture: &Fixture, filter: Filter) -> Vec<String> {
    let text = |entry: &Entry| entry.text(&["image", "reference"]).unwrap_or_default().to_owned();
    read(fixture.folder.path(), filter).await.iter().map(text).collect()
}

const ALL: [&str; 4] = [
    "docker.io/library/python:3.11",
    "docker.io/library/postgres:16.4",
    "quay.io/bitnami/redis:7.2.5",
    "docker.io/library/redis:7.2.5",
];

/// Four pulls, an hour apart each.
async fn four() -> Fixture {
    let fixture = Fixture::new().await;
    let mut ci = caller("10.0.0.2");
    ci.class = Class::Client("ci".into());
    fixture.refuse(&caller("10.0.0.1"), &refusal(ALL[0])).await;
    fixture.wait(3600);
    drop(fixture.allow(&caller("10.0.0.1"), &tag(ALL[1], "pg"), "GET"));
    fixture.log.flush().await.unwrap();
    fixture.wait(3600);
    fixture.refuse(&ci, &refused_for(Image::asked(&ask(ALL[2])), Code::SourceUnknown)).await;
    fixture.wait(3600);
    drop(fixture.allow(&ci, &tag(ALL[3], "redis"), "GET"));
    fixture.log.flush().await.unwrap();
    fixture
}

#[tokio::test]
async fn each_indexed_field_finds_its_events_in_both_orders_and_with_all_others() {
    let fixture = four().await;
    let id = fixture.entries().await[2].text(&["id"]).unwrap().parse().unwrap();
    let digest = digest("pg").to_string();
    let text = |text: &str| Some(text.to_owned());
    let any = Filter::default;
    let cases = [
        (Filter { registry: text("docker.io"), ..any() }, vec![0, 1, 3]),
        (Filter { registry: text("ghcr.io"), ..any() }, vec![]),
        (Filter { repository: text("library/redis"), ..any() }, vec![3]),
        (Filter { tag: text("7.2.5"), ..any() }, vec![2, 3]),
        (Filter { tag: text("7.2.5"), registry: text("quay.io"), blocked: true, ..any() }, vec![2]),
        (Filter { digest: Some(digest.clone()), ..any() }, vec![1]),
        (Filter { digest: digest.get(..15).map(str::to_owned), ..any() }, vec![1]),
        (Filter { digest: digest.get(7..15).map(str::to_uppercase), ..any() }, vec![1]),
        (Filter { digest: text("sha256:"), ..any() }, vec![1, 3]),
        (Filter { digest: text("0123456789"), ..any() }, vec![]),
        (Filter { id: Some(id), ..any() }, vec![2]),
        (Filter { id: Some(id), verdict: Some(Verdict::Allow), ..any() }, vec![]),
        (Filter { kinds: vec![Kind::Decision], ..any() }, vec![0, 1, 2, 3]),
        (Filter { kinds: vec![Kind::Drift, Kind::Flood], ..any() }, vec![]),
        (Filter { client: Some(Pattern::words("ci")), tag: text("7.2.5"), ..any() }, vec![2, 3]),
        (Filter { client: Some(Pattern::words("10.0.0.*")), blocked: true, ..any() }, vec![0, 2]),
        (Filter { until: Some(time("2026-11-01T11:59:59Z")), ..any() }, vec![0, 1]),
        (
            Filter {
                since: Some(time("2026-11-01T11:00:00Z")),
                until: Some(time("2026-11-01T12:00:00Z")),
                ..any()
            },
            vec![1, 2],
        ),
        (Filter { until: Some(time("2026-10-01T00:00:00Z")), ..any() }, vec![]),
        (Filter { image: Some(Pattern::image("redis:7.2.5")), ..any() }, vec![3]),
        (Filter { image: Some(Pattern::image("quay.io/bitnami/redis")), ..any() }, vec![2]),
        (Filter { verdict: Some(Verdict::Allow), repository: text("library/redis"), ..any() }, vec![3]),
        (Filter { reason: Some(Code::SourceUnknown), blocked: true, ..any() }, vec![2]),
        (Filter { verdict: Some(Verdict::Warn), ..any() }, vec![]),
    ];
    for (filter, wanted) in cases {
        let mut wanted: Vec<&str> = wanted.into_iter().map(|place: usize| ALL[place]).collect();
        assert_eq!(references(&fixture, filter.clone()).await, wanted, "{filter:?}");
        wanted.reverse();
        let filter = Filter { order: Order::NewestFirst, budget: Some(100_000), ..filter };
        assert_eq!(references(&fixture, filter.clone()).await, wanted, "{filter:?}");
    }
}

#[tokio::test]
async fn pages_follow_one_another_by_place_in_both_directions() {
    let fixture = Fixture::with(|settings| Settings { refusals_per_minute: u32::MAX, ..settings }).await;
    for number in 0..25 {
        fixture.refuse(&caller("10.0.0.1"), &refusal(&format!("docker.io/library/i{number}:1"))).await;
    }
    let page = |after, before, order| {
        let filter = Filter { after, before, order, blocked: true, limit: Some(10), ..Filter::default() };
        async { read(fixture.folder.path(), filter).await.iter().map(|entry| entry.seq).collect::<Vec<_>>() }
    };
    let (mut forward, mut backward) = (Vec::new(), Vec::new());
    loop {
        let next = page(forward.last().copied(), None, Order::OldestFirst).await;
        if next.is_empty() {
            break;
        }
        assert!(next.len() <= 10);
        forward.extend(next);
    }
    assert_eq!(forward, (1..=25).collect::<Vec<_>>());
    loop {
        let next = page(None, backward.last().copied(), Order::NewestFirst).await;
        if next.is_empty() {
            break;
        }
        backward.extend(next);
    }
    backward.reverse();
    assert_eq!(backward, forward);
}

#[tokio::test]
async fn what_an_unreadable_name_asked_for_is_found_by_its_words() {
    let fixture = Fixture::new().await;
    let judged = refused_for(Image::unreadable("Not A Name"), Code::NameInvalid);
    fixture.refuse(&caller("10.0.0.1"), &judged).await;
    let image = |words| Filter { image: Some(Pattern::image(words)), ..Filter::default() };
    assert_eq!(references(&fixture, image("Not A Name")).await, ["Not A Name"]);
    assert_eq!(references(&fixture, image("Not*")).await, ["Not A Name"]);
    assert!(references(&fixture, image("Another Name")).await.is_empty());
}

#[tokio::test]
async fn a_search_that_would_look_at_everything_ends_with_a_clear_word_and_hurts_no_other() {
    let fixture = Fixture::with(|settings| Settings { refusals_per_minute: u32::MAX, ..settings }).await;
    for number in 0..2_000 {
        let judged = tag(&format!("docker.io/library/i{}:1.{number}", number % 50), "index");
        drop(fixture.allow(&caller("10.0.0.1"), &judged, "GET"));
    }
    fixture.log.flush().await.unwrap();
    let image = Some(Pattern::image("*nothing-like-it*"));
    let broad = Filter { image: image.clone(), budget: Some(500), ..Filter::default() };
    let failed = fixture.log.reader().entries(broad).next().await.unwrap_err();
    assert!(matches!(failed, Error::Broad { looked: 500 }));
    assert!(failed.to_string().contains("narrow it by time"), "{failed}");
    // Its connection serves the next one, with a budget of its own.
    for budget in [None, Some(100_000)] {
        let filter = Filter { image: image.clone(), budget, ..Filter::default() };
        assert!(fixture.log.reader().entries(filter).next().await.unwrap().is_none());
    }
    // What an index leads to costs little, however long the log is.
    let narrow =
        Filter { repository: Some("library/i7".to_owned()), image, budget: Some(500), ..Filter::default() };
    assert!(fixture.log.reader().entries(narrow).next().await.unwrap().is_none());
}
