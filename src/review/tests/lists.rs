use super::*;
use crate::audit::{ExceptionResult, RecallResult};
use crate::oci::{Fault, Name};

#[tokio::test]
async fn floods_are_a_group_for_each_client_with_a_sample_of_the_names() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Clock::manual(START.parse().unwrap());
    let log = record(folder.path(), &clock, 2).await;
    let review = Review::open(folder.path(), clock.clone()).await.unwrap();
    let (stop, task) = follow(&review, &log);
    for round in 0..2 {
        for number in 0..40 {
            let judged = refusal(&format!("quay.io/made/up-{round}-{number}:1"), Code::SourceUnknown);
            refuse(&log, &caller("10.0.0.1"), &judged).await;
        }
        clock.advance(Duration::from_secs(60));
        log.tick().await.unwrap();
    }
    review.settled(&log).await.unwrap();
    let filter = InboxFilter { kind: Some(GroupKind::Flood), ..InboxFilter::default() };
    let floods = all(&review, &filter).await;
    assert_eq!(floods.len(), 1, "{floods:#?}");
    assert_eq!((floods[0].count, floods[0].clients, floods[0].sample.len()), (76, 1, 32));
    assert!(floods[0].subject.reference.contains("10.0.0.1"));
    assert_eq!(all(&review, &InboxFilter::default()).await.iter().map(|group| group.count).sum::<u64>(), 80);
    let by_sample = InboxFilter { text: Some("made/up-1-10".to_owned()), ..InboxFilter::default() };
    assert_eq!(all(&review, &by_sample).await.len(), 1);
    let clients = review.clients(&ClientFilter::default(), None, 10).await.unwrap().items;
    assert_eq!((clients.len(), clients[0].refusals), (1, 80));
    stop.cancel();
    task.await.unwrap();
    log.close().await;
}

#[tokio::test]
async fn what_no_request_caused_is_listed_the_latest_first() {
    let fixture = Fixture::new().await;
    let name: Name = "docker.io/library/python".parse().unwrap();
    let (old, new) = (Digest::sha256(b"old"), Digest::sha256(b"new"));
    let drift =
        |current| Event::Drift { name: name.clone(), tag: "3.11.9".parse().unwrap(), locked: old, current };
    let upstream = |fault| Event::Upstream {
        registry: name.registry().clone(),
        name: Some(name.clone()),
        digest: Some(new),
        fault,
    };
    let exception = |result, needed| Event::Exception {
        exception: "EX-1".to_owned(),
        result,
        image: "ghcr.io/a/b:v1.0.0".to_owned(),
        waive: vec!["user.min_uid".to_owned()],
        expires: Some("2027-01-31".to_owned()),
        needed,
        of: None,
    };
    let recall = |result| Event::Recall {
        recall: "RC-1".to_owned(),
        result,
        reason: "CVE".to_owned(),
        names: vec!["ghcr.io/a/b:v1.0.0".to_owned()],
        replace: Some("ghcr.io/a/b:v1.0.1".to_owned()),
    };
    let alert = Event::Alert {
        rule: "many".to_owned(),
        text: "10 refusals in a minute".to_owned(),
        count: 10,
        of: None,
        subject: Some(subject("quay.io/a/b:1", Code::SourceUnknown)),
    };
    for event in [
        drift(Some(new)),
        drift(None),
        upstream(Some(Fault::Invalid("sha256 differs".into()))),
        upstream(None),
        exception(ExceptionResult::Created, None),
        exception(ExceptionResult::Used, Some(true)),
        exception(ExceptionResult::Used, Some(false)),
        recall(RecallResult::Created),
        recall(RecallResult::Removed),
        alert,
    ] {
        fixture.log.record(event).await.unwrap();
        fixture.wait(60);
    }
    fixture.settle().await;
    let review = &fixture.review;
    let first = review.drifts(None, 1).await.unwrap();
    assert_eq!((first.items.len(), first.items[0].current.as_deref()), (1, None));
    let rest = review.drifts(first.next.as_ref(), 1).await.unwrap();
    assert_eq!(rest.items[0].current, Some(new.to_string()));
    assert_eq!(
        (rest.items[0].locked.clone(), &*rest.items[0].repository),
        (Some(old.to_string()), "library/python")
    );
    assert_eq!(rest.next, None);
    let upstreams = review.upstreams(None, 10).await.unwrap().items;
    let states: Vec<&str> = upstreams.iter().map(|change| &*change.state).collect();
    assert_eq!(states, ["healthy", "invalid"]);
    assert_eq!(upstreams[1].digest, Some(new.to_string()));
    let exceptions = review.exceptions().await.unwrap();
    let used = &exceptions[0];
    assert_eq!((exceptions.len(), used.used, used.needed, used.unneeded), (1, 2, 1, 1));
    assert_eq!((used.result.as_deref(), &*used.waive[0]), (Some("created"), "user.min_uid"));
    assert_eq!(used.last_used.map(|at| at.to_string()).as_deref(), Some("2026-11-01T10:06:00Z"));
    let recalls = review.recalls().await.unwrap();
    assert_eq!(
        (recalls.len(), &*recalls[0].result, &*recalls[0].names[0]),
        (1, "removed", "ghcr.io/a/b:v1.0.0")
    );
    assert!(recalls[0].first < recalls[0].changed);
    let alerts = review.alerts(None, 10).await.unwrap().items;
    assert_eq!((alerts[0].count, alerts[0].reference.as_deref()), (10, Some("quay.io/a/b:1")));
    let status = review.status();
    assert!(!status.behind && status.last_error.is_none(), "{status:?}");
    assert_eq!(review.visit("ada").await.unwrap(), None);
    let review = fixture.review.clone();
    fixture.end().await;
    assert!(matches!(review.caught_up(i64::MAX).await, Err(Error::Closed)));
}
