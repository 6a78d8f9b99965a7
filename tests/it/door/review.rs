//! What reviewers are shown of a gateway at work, and pulls that go on without it.

use pullgate::audit::Reader;
use pullgate::policy::{Given, Verdict};
use pullgate::review::{FILE, InboxFilter, Outcome, Review, State, forecast, propose};
use serde_json::Value;

use super::{POLICY, Pair, image};
use crate::support::gateway::Site;

const APP: &str = "acme/app";
const REFUSED: &str = "/v2/docker.io/acme/app/manifests/1.0";

async fn shown(review: &Review, data: &std::path::Path) -> Vec<pullgate::review::Group> {
    let last = Reader::open(data).await.unwrap().last().await.unwrap();
    review.caught_up(last).await.unwrap();
    review.inbox(&InboxFilter::default(), None, 100).await.unwrap().items
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blocked_pull_is_shown_with_a_patch_that_lets_it_pass_when_it_is_applied() {
    let pair = Pair::start().await;
    image(3, 100).push(&pair.hub, APP, "1.0");
    let denied = pair.gateway.get(REFUSED).await.expect_denied("tag.not_allowed");
    let data = pair.gateway.site.data();
    let review = pair.gateway.running.review().unwrap().clone();
    let groups = shown(&review, &data).await;
    let [group] = &groups[..] else { panic!("{groups:#?}") };
    assert_eq!((group.count, group.state), (1, State::New));
    assert_eq!(group.latest, denied["detail"]["id"].as_str().unwrap());
    assert_eq!(group.latest_message, denied["message"].as_str().unwrap());

    let judge = pair.gateway.running.judge().clone();
    let now = pair.gateway.site.options.clock.now();
    let patch = propose(&*judge, group, &Outcome::Allow { pattern: None }, now).unwrap();
    let compiled = judge.compile(&patch.text).unwrap();
    let reference = group.subject.reference.parse().unwrap();
    let offline = compiled.policy.offline(None, &reference, &Given::default(), now);
    assert_eq!(offline.verdict, Verdict::Allow);
    pair.gateway.running.flush_log().await.unwrap();
    let reader = Reader::open(&data).await.unwrap();
    let told = forecast(judge, reader, patch.text.clone(), now).await.unwrap();
    assert_eq!((told.allowed.count.pulls, told.refused.count.pulls), (1, 0), "{told:#?}");

    // Somebody else applies it.
    assert_eq!(pair.gateway.get(REFUSED).await.status, 403);
    pair.gateway.site.write_policy(&patch.text);
    pair.gateway.event(|event| event["kind"] == "policy" && event["changes"].is_array()).await;
    assert_eq!(pair.gateway.get(REFUSED).await.status, 200);
    pair.gateway.stop().await;
}

#[tokio::test]
async fn what_was_shown_is_shown_after_a_restart_and_after_the_database_is_deleted() {
    let pair = Pair::start().await;
    pair.gateway.get(REFUSED).await.expect_denied("tag.not_allowed");
    let review = pair.gateway.running.review().unwrap().clone();
    let data = pair.gateway.site.data();
    let before = shown(&review, &data).await;
    let hub = pair.hub;
    let site = pair.gateway.stop().await;
    assert!(!data.join(format!("{FILE}-wal")).exists(), "one tidy file is left");
    let gateway = site.start().await;
    assert_eq!(shown(gateway.running.review().unwrap(), &data).await, before);
    let site = gateway.stop().await;
    std::fs::remove_file(data.join(FILE)).unwrap();
    let gateway = site.start().await;
    assert_eq!(shown(gateway.running.review().unwrap(), &data).await, before);
    gateway.stop().await;
    drop(hub);
}

#[tokio::test]
async fn without_its_database_pulls_and_the_record_go_on_and_readyz_says_so() {
    let site = Site::new(POLICY);
    std::fs::create_dir_all(site.data().join(FILE)).unwrap();
    let gateway = site.start().await;
    assert!(gateway.running.review().is_none());
    gateway.get(REFUSED).await.expect_denied("tag.not_allowed");
    let (status, text) = gateway.admin("/readyz").await;
    assert_eq!(status, 200);
    let ready: Value = serde_json::from_str(&text).unwrap();
    let conditions = ready["conditions"].as_array().unwrap();
    let review = conditions.iter().find(|condition| condition["name"] == "review").unwrap();
    assert_eq!((&review["ok"], &review["required"]), (&false.into(), &false.into()));
    assert!(review["detail"].as_str().unwrap().contains(FILE), "{review}");
    assert_eq!(gateway.blocked().await.len(), 1);
    gateway.stop().await;
}
