use super::*;

#[tokio::test]
async fn made_up_names_and_clients_neither_grow_it_without_end_nor_lose_a_count() {
    let fixture = Fixture::bounded(Bounds { groups: 100, clients: 50 }).await;
    let evidence = "docker.io/library/python:3.11";
    fixture.refuse(&caller("10.1.0.1"), evidence, Code::TagNotAllowed).await;
    fixture.wait(1);
    fixture.refuse(&caller("10.1.0.1"), evidence, Code::TagNotAllowed).await;
    fixture.refuse(&caller("10.1.0.1"), "quay.io/reviewed/once:1", Code::SourceUnknown).await;
    fixture.settle().await;
    let reviewed = subject("quay.io/reviewed/once:1", Code::SourceUnknown);
    fixture.act(Action::Acknowledge, &reviewed, "ada", None).await;
    for number in 0..500_u32 {
        fixture.wait(1);
        let client = caller(&format!("10.0.{}.{}", number / 200, number % 200));
        fixture.refuse(&client, &format!("quay.io/made/up-{number}:1"), Code::SourceUnknown).await;
    }
    fixture.settle().await;
    let groups = fixture.groups().await;
    assert!(groups.len() <= 101, "{}", groups.len());
    assert_eq!(groups.iter().map(|group| group.count).sum::<u64>(), 503);
    assert_eq!(fixture.group(evidence, Code::TagNotAllowed).await.count, 2, "met twice");
    assert_eq!(fixture.group(&reviewed.reference, Code::SourceUnknown).await.count, 1, "reviewed");
    let others = groups.iter().find(|group| group.kind == GroupKind::Others).unwrap();
    assert!(others.count >= 400, "{others:?}");
    let clients = fixture.review.clients(&ClientFilter::default(), None, 1000).await.unwrap().items;
    assert!(clients.len() <= 51, "{}", clients.len());
    assert_eq!(clients.iter().map(|client| client.refusals).sum::<u64>(), 503);
    // What is met again after it made room is a group again, and a late count of it is not lost.
    fixture.wait(1);
    fixture.refuse(&caller("10.0.0.0"), "quay.io/made/up-0:1", Code::SourceUnknown).await;
    fixture.settle().await;
    let total: u64 = fixture.groups().await.iter().map(|group| group.count).sum();
    assert_eq!(total, 504);
    fixture.end().await;
}

#[tokio::test]
async fn hostile_names_are_shown_as_they_are_and_break_nothing() {
    let fixture = Fixture::new().await;
    let hostile = "'; DROP TABLE refused; -- \n\r\x1b[2J\0\"\\<script>\u{202e}=cmd()";
    let mut client = caller("10.0.0.1");
    client.class = Class::Client(hostile.into());
    client.attribution = Attribution::Certificate;
    client.user_agent = Some(hostile.into());
    let long = format!("{hostile}{}", "x".repeat(64 << 10));
    let unreadable = judged(Verdict::Deny, Some(Code::NameInvalid), Image::unreadable(&long));
    refuse(&fixture.log, &client, &unreadable).await;
    fixture.settle().await;
    let group = fixture.groups().await.pop().unwrap();
    assert!(group.subject.reference.starts_with(hostile));
    assert!(group.subject.reference.chars().count() <= 1024);
    let subject = group.subject.clone();
    fixture.act(Action::Acknowledge, &subject, hostile, Some(hostile)).await;
    let group = fixture.review.group(&subject).await.unwrap().unwrap();
    assert_eq!((group.by.as_deref(), group.note.as_deref()), (Some(hostile), Some(hostile)));
    let filter = InboxFilter {
        text: Some(hostile.to_owned()),
        client: Some(hostile.to_owned()),
        ..InboxFilter::default()
    };
    assert_eq!(all(&fixture.review, &filter).await.len(), 1);
    assert!(group.key.len() == 32 && group.key.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(fixture.review.group_by_key(hostile).await.unwrap(), None);
    fixture.review.mark_visit(hostile, fixture.clock.now()).await.unwrap();
    assert_eq!(fixture.review.visit(hostile).await.unwrap(), Some(fixture.clock.now()));
    fixture.end().await;
}

#[tokio::test]
async fn hours_are_kept_for_ninety_days_and_days_for_good() {
    let fixture = Fixture::new().await;
    for _ in 0..100 {
        fixture.refuse(&caller("10.0.0.1"), "quay.io/a/b:1", Code::SourceUnknown).await;
        fixture.wait(24 * 3600);
        fixture.log.tick().await.unwrap();
    }
    fixture.settle().await;
    let range = START.parse().unwrap()..fixture.clock.now();
    let days = fixture.review.overview(range.clone(), Step::Day).await.unwrap();
    assert_eq!((days.total.deny, days.references[0].count), (100, 100));
    let hours = fixture.review.overview(range, Step::Hour).await.unwrap();
    // The latest event is the checkpoint of a day without refusals.
    assert_eq!(hours.total.deny, 90);
    fixture.end().await;
}
