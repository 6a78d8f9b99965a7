use super::*;

const PYTHON: &str = "docker.io/library/python:3.11";
const CODE: Code = Code::TagNotAllowed;

#[tokio::test]
async fn what_was_resolved_and_is_met_again_is_new_again_and_what_is_acknowledged_stays() {
    let fixture = Fixture::new().await;
    let client = caller("10.0.0.1");
    let subject = subject(PYTHON, CODE);
    fixture.refuse(&client, PYTHON, CODE).await;
    fixture.settle().await;
    let first = fixture.group(PYTHON, CODE).await;
    assert_eq!((first.state, first.by, first.changed), (State::New, None, None));

    fixture.wait(60);
    fixture.act(Action::Acknowledge, &subject, "ada", Some("asking the team")).await;
    let acknowledged = fixture.group(PYTHON, CODE).await;
    assert_eq!(acknowledged.state, State::Acknowledged);
    assert_eq!(
        (acknowledged.by.as_deref(), acknowledged.note.as_deref()),
        (Some("ada"), Some("asking the team"))
    );
    fixture.wait(60);
    fixture.refuse(&client, PYTHON, CODE).await;
    fixture.settle().await;
    let met = fixture.group(PYTHON, CODE).await;
    assert_eq!((met.state, met.count, met.since_change), (State::Acknowledged, 2, 1));

    fixture.wait(60);
    fixture.act(Action::Resolve, &subject, "bob", None).await;
    let resolved = fixture.group(PYTHON, CODE).await;
    assert_eq!((resolved.state, resolved.since_change), (State::Resolved, 0));
    assert_eq!((resolved.by.as_deref(), resolved.note.as_deref()), (Some("bob"), Some("asking the team")));
    let newly = fixture.clock.now();
    fixture.wait(60);
    fixture.refuse(&client, PYTHON, CODE).await;
    fixture.refuse(&client, PYTHON, CODE).await;
    fixture.settle().await;
    let again = fixture.group(PYTHON, CODE).await;
    assert_eq!((again.state, again.resolved_before, again.since_change), (State::New, true, 2));
    assert_eq!(again.by.as_deref(), Some("bob"), "who resolved it before");
    let filter = InboxFilter { new_since: Some(newly), ..InboxFilter::default() };
    assert_eq!(all(&fixture.review, &filter).await.len(), 1);

    fixture.act(Action::Acknowledge, &subject, "ada", None).await;
    fixture.act(Action::Reopen, &subject, "ada", Some("not done")).await;
    let reopened = fixture.group(PYTHON, CODE).await;
    assert_eq!((reopened.state, reopened.resolved_before), (State::New, false));
    assert_eq!(reopened.note.as_deref(), Some("not done"));
    fixture.end().await;
}

#[tokio::test]
async fn counts_of_before_that_come_late_do_not_open_what_was_resolved() {
    let fixture = Fixture::new().await;
    let client = caller("10.0.0.1");
    fixture.refuse(&client, PYTHON, CODE).await;
    fixture.wait(1);
    fixture.refuse(&client, PYTHON, CODE).await;
    fixture.wait(1);
    let actor = Actor { name: "ada".to_owned(), via: "console".to_owned() };
    let subject = Some(subject(PYTHON, CODE));
    fixture.log.record(Event::Admin { action: Action::Resolve, actor, subject, note: None }).await.unwrap();
    fixture.wait(60);
    fixture.settle().await;
    let group = fixture.group(PYTHON, CODE).await;
    assert_eq!((group.count, group.state, group.since_change), (2, State::Resolved, 0));
    fixture.end().await;
}

#[tokio::test]
async fn an_action_concerns_one_reason_of_one_reference_and_nothing_that_is_not_there() {
    let fixture = Fixture::new().await;
    let client = caller("10.0.0.1");
    fixture.refuse(&client, PYTHON, CODE).await;
    fixture.refuse(&client, PYTHON, Code::Recall).await;
    fixture.settle().await;
    fixture.act(Action::Resolve, &subject(PYTHON, Code::Recall), "ada", None).await;
    fixture.act(Action::Resolve, &subject("docker.io/library/never:1.0", CODE), "ada", None).await;
    assert_eq!(fixture.group(PYTHON, CODE).await.state, State::New);
    assert_eq!(fixture.group(PYTHON, Code::Recall).await.state, State::Resolved);
    let totals = fixture.review.totals(&InboxFilter::default()).await.unwrap();
    assert_eq!(totals, Totals { acknowledged: 0, new: 1, resolved: 1 });
    let state = |state| InboxFilter { state: Some(state), ..InboxFilter::default() };
    assert_eq!(all(&fixture.review, &state(State::Resolved)).await.len(), 1);
    assert_eq!(all(&fixture.review, &state(State::Acknowledged)).await.len(), 0);
    fixture.end().await;
}
