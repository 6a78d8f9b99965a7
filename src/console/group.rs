//! `/inbox/<key>`: one group of blocked pulls, who met it, and what a reviewer says to it.

use jiff::Timestamp;
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::answer::{Answer, Trouble};
use super::decision::met_listing;
use super::frame::{Role, Visitor, form_token, page};
use super::listing::{badge, moment, stamp};
use super::query::{Fields, Format, Query, link};
use super::{Console, shown};
use crate::audit::{Action, Actor, Entry, Event, Filter, Kind, Order, Pattern};
use crate::review::{Cursor, Group, OutcomeKind, PatchError, State, outcomes};

/// Clients of one page.
const PAGE: u32 = 50;
const PAGE_VALUES: u32 = 1000;
/// So many actions of reviewers are shown.
const ACTIONS: usize = 20;
/// The longest note, in characters; the record keeps no longer one.
const NOTE: usize = 1000;
/// Events looked at for what reviewers did.
const BUDGET: u64 = 200_000;

impl Console {
    pub(super) async fn group(&self, visitor: &Visitor, key: &str, query: &str) -> Result<Answer, Trouble> {
        let query = Query::read(query, &["done"])?;
        let format = query.format()?;
        let after = query.of("after").map(str::parse::<Cursor>).transpose()?;
        let group = self.find_group(key).await?;
        let size = if format == Format::Html { PAGE } else { PAGE_VALUES };
        let met = self.review()?.clients_of(&group.key, after.as_ref(), size).await?;
        let listing = met_listing(met.items, met.next.map(|next| next.to_string()));
        let path = format!("/inbox/{}", group.key);
        if format != Format::Html {
            let mut more = Map::new();
            more.insert("group".to_owned(), value(&group));
            return listing.answer(format, &query, &path, more);
        }
        let actions = self.actions_of(&group).await;
        let done = query.of("done").and_then(Action::parse);
        let body = html! {
            h1 { (shown(&group.subject.reference)) }
            @if let Some(action) = done { p.notice role="status" { "Done and put on record: " (action.as_str()) "." } }
            (facts(&group))
            @if !group.latest_message.is_empty() {
                p { "The client was told at last:" }
                blockquote { (shown(&group.latest_message)) }
            }
            @if let Some(remedy) = &group.remedy { p { strong { "What to do: " } (shown(remedy)) } }
            @if !group.sample.is_empty() {
                h2 { "Some of the names" }
                ul { @for name in &group.sample { li { code { (shown(name)) } } } }
            }
            h2 { "Review" }
            (review_of(&group))
            @if visitor.role == Role::Reviewer { (action_form(visitor, &group, &path)) }
            @if !actions.is_empty() {
                h3 { "What reviewers did" }
                ul { @for action in &actions { li { (action_line(action)) } } }
            }
            h2 { "Outcomes" }
            (outcome_links(&group, &path))
            h2 { "Who met it" }
            (listing.markup(&path, &query.without("done")))
        };
        Ok(page(visitor, "/inbox", &group.subject.reference, &body))
    }

    pub(super) async fn find_group(&self, key: &str) -> Result<Group, Trouble> {
        let missing = || {
            Trouble::Missing(
                "No group of blocked pulls has this key. It may be older than what the record keeps."
                    .to_owned(),
            )
        };
        if key.is_empty() || key.len() > 64 || !key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(missing());
        }
        self.review()?.group_by_key(key).await?.ok_or_else(missing)
    }

    /// What reviewers did to this group, the latest first; nothing where that cannot be read.
    async fn actions_of(&self, group: &Group) -> Vec<Entry> {
        let filter = Filter {
            kinds: vec![Kind::Admin],
            image: Some(Pattern::words(&group.subject.reference)),
            order: Order::NewestFirst,
            limit: Some(ACTIONS * 4),
            budget: Some(BUDGET),
            ..Filter::default()
        };
        let mut entries = self.reader.entries(filter);
        let mut actions = Vec::new();
        while let Ok(Some(entry)) = entries.next().await {
            let same = entry.text(&["subject", "reference"]) == Some(&*group.subject.reference)
                && entry.text(&["subject", "reason"]) == group.subject.reason.map(|code| code.as_str());
            if same && actions.len() < ACTIONS {
                actions.push(entry);
            }
        }
        actions
    }

    /// Puts on record what a reviewer says to a group, and leads to the page that shows it.
    pub(super) async fn act(&self, visitor: &Visitor, key: &str, fields: &Fields) -> Result<Answer, Trouble> {
        if visitor.role != Role::Reviewer {
            return Err(Trouble::Forbidden);
        }
        let action = fields.of("action").and_then(Action::parse).filter(|action| *action != Action::Patch);
        let action = action.ok_or_else(|| {
            Trouble::Invalid(
                "This form says nothing to do. There are Acknowledge, Resolve and Reopen.".to_owned(),
            )
        })?;
        let group = self.find_group(key).await?;
        let note = fields.of("note").map(|note| note.replace("\r\n", "\n"));
        if note.as_ref().is_some_and(|note| note.chars().count() > NOTE) {
            return Err(Trouble::Invalid(format!("The note is too long: it may have {NOTE} characters.")));
        }
        self.record(visitor, action, &group, note).await?;
        Ok(Answer::see(link(&format!("/inbox/{}", group.key), [("done", action.as_str())])))
    }

    /// Durable on return, and counted by the pages that follow.
    pub(super) async fn record(
        &self,
        visitor: &Visitor,
        action: Action,
        group: &Group,
        note: Option<String>,
    ) -> Result<(), Trouble> {
        let event = Event::Admin {
            action,
            actor: Actor { name: visitor.name.to_string(), via: "console".to_owned() },
            subject: Some(group.subject.clone()),
            note,
        };
        let id = self.log.record(event).await.map_err(|error| {
            tracing::warn!(%error, "a reviewer's action could not be recorded");
            Trouble::Unavailable(format!(
                "This was not done, for it could not be put on record: {error}. Pulls are judged as before. Make \
                 room for the record and repeat it."
            ))
        })?;
        let seq = self.reader.written(&id).await?.map_or(0, |entry| entry.seq);
        // The page that follows may be a moment behind; what was done is on record.
        let caught_up = self.review()?.caught_up(seq);
        if tokio::time::timeout(std::time::Duration::from_secs(5), caught_up).await.is_err() {
            tracing::warn!("the review pages are behind the record");
        }
        Ok(())
    }
}

fn facts(group: &Group) -> Markup {
    html! {
        dl.facts {
            dt { "Reason" } dd { a href=(link("/inbox", [("reason", group.reason.as_str()), ("state", "all")])) { (shown(&group.reason)) } }
            dt { "Verdict" } dd { (badge(&group.verdict)) }
            dt { "Pulls" } dd { (group.count) " by " (group.clients) @if group.clients == 1 { " client" } @else { " clients" } }
            dt { "First" } dd { (moment(group.first)) }
            dt { "Last" } dd { (moment(group.last)) }
            @if let Some(source) = &group.source { dt { "Source of the policy" } dd { code { (shown(source)) } } }
            @if let Some(digest) = &group.digest { dt { "Digest" } dd { code { (shown(digest)) } } }
            dt { "Latest decision" } dd { a href={ "/d/" (group.latest) } { (shown(&group.latest)) } }
            @if let Some(name) = name_of(group) {
                dt { "Repository" } dd { a href=(link("/log", [("image", name.as_str())])) { "All events of " (shown(&name)) } }
            }
        }
    }
}

fn name_of(group: &Group) -> Option<String> {
    Some(format!("{}/{}", group.registry.as_ref()?, group.repository.as_ref()?))
}

fn review_of(group: &Group) -> Markup {
    html! {
        p {
            (badge(group.state.as_str()))
            @if let Some(by) = &group.by {
                @if group.resolved_before { ": it was resolved by " } @else { " by " }
                (shown(by))
                @if let Some(changed) = group.changed { ", " (moment(changed)) }
                @if group.resolved_before { ", and met again since" }
            }
            @if group.changed.is_some() && group.since_change > 0 { " (" (group.since_change) " pulls since)" }
        }
        @if let Some(note) = &group.note {
            blockquote { @for line in note.lines() { p { (shown(line)) } } }
        }
    }
}

fn action_form(visitor: &Visitor, group: &Group, path: &str) -> Markup {
    let offers = [
        ("acknowledge", "Acknowledge", group.state != State::Acknowledged),
        ("resolve", "Resolve", group.state != State::Resolved),
        ("reopen", "Reopen", group.state != State::New),
    ];
    html! {
        form.card action=(path) method="post" {
            (form_token(visitor))
            label.wide { "Note" textarea name="note" rows="3" maxlength=(NOTE) {} }
            div.buttons {
                @for (place, (word, title, _)) in offers.iter().filter(|(_, _, offered)| *offered).enumerate() {
                    button.first[place == 0] name="action" value=(word) { (title) }
                }
            }
        }
    }
}

fn action_line(entry: &Entry) -> Markup {
    let time: Option<Timestamp> = entry.text(&["time"]).and_then(|time| time.parse().ok());
    html! {
        @if let Some(time) = time { (moment(time)) " " }
        a href={ "/d/" (entry.text(&["id"]).unwrap_or_default()) } { (shown(entry.text(&["action"]).unwrap_or("action"))) }
        " by " (shown(entry.text(&["actor", "name"]).unwrap_or("unknown")))
        @if let Some(note) = entry.text(&["note"]) { ": " (shown(&note.replace('\n', " "))) }
    }
}

/// What an outcome is called.
pub(super) fn outcome_title(kind: OutcomeKind) -> (&'static str, &'static str) {
    match kind {
        OutcomeKind::Allow => ("Allow", "The reference is allowed from now on."),
        OutcomeKind::Except => {
            ("Except until a date", "Checks that it fails are waived for a while, by two people.")
        }
        OutcomeKind::Pin => ("Pin", "A person vouches for one digest."),
        OutcomeKind::Recall => ("Recall", "It is withdrawn, whatever else is written."),
    }
}

fn outcome_links(group: &Group, path: &str) -> Markup {
    let outcomes = outcomes(group);
    html! {
        p.soft { "Each makes a patch for the policy file, to be reviewed and applied where that file is kept. Nothing is changed here." }
        @if outcomes.is_empty() { p { "No patch is offered for what many names have in common." } }
        ul {
            @for (kind, available) in &outcomes {
                li {
                    @match available {
                        Ok(()) => { a href={ (path) "/" (kind.as_str()) } { (outcome_title(*kind).0) } ": " (outcome_title(*kind).1) }
                        Err(why) => { (outcome_title(*kind).0) ": " (shown(&refusal(why))) }
                    }
                }
            }
        }
    }
}

pub(super) fn refusal(error: &PatchError) -> String {
    let text = error.to_string();
    if text.ends_with('.') { text } else { format!("{text}.") }
}

fn value(group: &Group) -> Value {
    json!({
        "key": group.key, "kind": group.kind.as_str(), "reference": group.subject.reference, "reason": group.reason,
        "verdict": group.verdict, "registry": group.registry, "repository": group.repository, "tag": group.tag,
        "digest": group.digest, "source": group.source, "count": group.count, "first": stamp(group.first),
        "last": stamp(group.last), "clients": group.clients, "latest": group.latest,
        "latest_message": group.latest_message, "remedy": group.remedy, "sample": group.sample,
        "state": group.state.as_str(), "note": group.note, "by": group.by, "changed": group.changed.map(stamp),
        "resolved_before": group.resolved_before, "since_change": group.since_change,
    })
}
