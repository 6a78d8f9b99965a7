use std::collections::HashSet;

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_groups_are_paged_through_without_gap_or_double_while_new_ones_come() {
    const MANY: usize = 10_000;
    let fixture = Fixture::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for lane in 0..50 {
        let log = fixture.log.clone();
        tasks.spawn(async move {
            let client = caller("10.0.0.1");
            for number in (lane..MANY).step_by(50) {
                let reference = format!("docker.io/library/i{number}:1.0");
                refuse(&log, &client, &refusal(&reference, Code::TagNotAllowed)).await;
            }
        });
    }
    tasks.join_all().await;
    fixture.settle().await;
    for order in InboxOrder::ALL {
        let filter = InboxFilter { order, until: Some(START.parse().unwrap()), ..InboxFilter::default() };
        assert!(all(&fixture.review, &filter).await.is_empty(), "nothing was met before now");
        let filter = InboxFilter { order, ..InboxFilter::default() };
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = fixture.review.inbox(&filter, after.as_ref(), 250).await.unwrap();
            seen.extend(page.items.into_iter().map(|group| group.subject.reference));
            let Some(next) = page.next else { break };
            // As an address carries it.
            after = Some(next.to_string().parse::<Cursor>().unwrap());
            pages += 1;
            if pages % 10 == 0 {
                fixture.wait(1);
                let reference = format!("quay.io/new/{}:{pages}", order.as_str());
                fixture.refuse(&caller("10.0.0.2"), &reference, Code::SourceUnknown).await;
                fixture.settle().await;
            }
        }
        let distinct: HashSet<&String> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len(), "{order:?}: doubles");
        let old = seen.iter().filter(|reference| reference.starts_with("docker.io/")).count();
        assert_eq!(old, MANY, "{order:?}: gaps");
    }
    assert!("1.2.3".parse::<Cursor>().is_err() && "x".parse::<Cursor>().is_err());
    fixture.end().await;
}

#[tokio::test]
async fn filters_choose_and_combine() {
    let fixture = Fixture::new().await;
    let (one, ci) = (caller("10.0.0.1"), known("ci"));
    let digest = Digest::sha256(b"x");
    fixture.refuse(&one, "docker.io/library/python:3.11", Code::TagNotAllowed).await;
    fixture.wait(3600);
    let second = fixture.clock.now();
    let id = fixture.refuse(&ci, &format!("quay.io/a_b/c@{digest}"), Code::DigestUnknown).await.id;
    fixture.refuse(&ci, "quay.io/a_b/c:9", Code::NameInvalid).await;
    fixture.settle().await;
    let found = async |filter: InboxFilter| -> Vec<String> {
        let groups = all(&fixture.review, &filter).await;
        groups.into_iter().map(|group| group.reason).collect()
    };
    let text = |text: &str| Some(text.to_owned());
    let none = InboxFilter::default;
    assert_eq!(found(none()).await.len(), 3);
    assert_eq!(found(InboxFilter { reason: text("digest.unknown"), ..none() }).await.len(), 1);
    assert_eq!(found(InboxFilter { registry: text("docker.io"), ..none() }).await, ["tag.not_allowed"]);
    for repository in ["library/python", "docker.io/library/python"] {
        assert_eq!(found(InboxFilter { repository: text(repository), ..none() }).await, ["tag.not_allowed"]);
    }
    assert_eq!(found(InboxFilter { tag: text("3.11"), ..none() }).await, ["tag.not_allowed"]);
    assert_eq!(found(InboxFilter { client: text("ci"), ..none() }).await.len(), 2);
    assert_eq!(found(InboxFilter { client: text("10.0.0.1"), ..none() }).await, ["tag.not_allowed"]);
    assert_eq!(found(InboxFilter { client: text("10.0.0.2"), ..none() }).await.len(), 0);
    let words =
        [("PYTHON", 1), ("a_b", 2), ("a%b", 0), (&*id.to_string(), 1), ("sha256:", 1), ("' OR 1=1", 0)];
    for (words, count) in words {
        assert_eq!(found(InboxFilter { text: text(words), ..none() }).await.len(), count, "{words}");
    }
    let prefix: String = digest.to_string().chars().take(20).collect();
    assert_eq!(found(InboxFilter { text: Some(prefix), ..none() }).await, ["digest.unknown"]);
    assert_eq!(found(InboxFilter { since: Some(second), ..none() }).await.len(), 2);
    assert_eq!(found(InboxFilter { until: Some(second), ..none() }).await.len(), 1);
    let both = InboxFilter { client: text("ci"), reason: text("tag.not_allowed"), ..none() };
    assert_eq!(found(both).await.len(), 0);
    fixture.end().await;
}
