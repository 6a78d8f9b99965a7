//! `/inbox/<key>/<outcome>`: the patch for the policy file that brings an outcome about.

use http::StatusCode;
use jiff::ToSpan as _;
use jiff::tz::TimeZone;
use maud::{Markup, html};
use serde_json::json;

use super::answer::{Answer, Media, Trouble};
use super::frame::{Role, Visitor, form_token, page};
use super::group::{outcome_title, refusal};
use super::listing::{answer_json, moment, stamp};
use super::query::{Fields, Format, Query, link};
use super::{Console, shown};
use crate::audit::Action;
use crate::review::{Changed, Forecast, Group, Outcome, OutcomeKind, Patch, PatchError, forecast, propose};

const KEYS: &[&str] = &[
    "approved_by",
    "digest",
    "id",
    "made",
    "pattern",
    "reason",
    "replace",
    "requested_by",
    "ticket",
    "until",
];

/// A field of an outcome's form.
struct Field {
    key: &'static str,
    label: &'static str,
    kind: &'static str,
    required: bool,
}

const fn field(key: &'static str, label: &'static str, required: bool) -> Field {
    Field { key, label, kind: "text", required }
}

const ALLOW: &[Field] = &[field("pattern", "Tag pattern (empty: this tag alone)", false)];
const EXCEPT: &[Field] = &[
    Field { key: "until", label: "Last day", kind: "date", required: true },
    field("ticket", "Ticket", true),
    field("requested_by", "Requested by", true),
    field("approved_by", "Approved by (somebody else)", true),
    field("reason", "Reason", true),
];
const PIN: &[Field] = &[field("digest", "Digest (empty: the one it resolved to)", false)];
const RECALL: &[Field] = &[
    field("reason", "Reason", true),
    field("replace", "What to pull instead (may be empty)", false),
    field("id", "Id of the recall (empty: made from the date)", false),
];

fn fields_of(kind: OutcomeKind) -> &'static [Field] {
    match kind {
        OutcomeKind::Allow => ALLOW,
        OutcomeKind::Except => EXCEPT,
        OutcomeKind::Pin => PIN,
        OutcomeKind::Recall => RECALL,
    }
}

/// What was entered, by key.
type Entered<'a> = dyn Fn(&str) -> Option<&'a str> + Sync + 'a;

fn outcome(kind: OutcomeKind, entered: &Entered<'_>) -> Result<Outcome, PatchError> {
    let need = |key: &str, label: &str| {
        entered(key).map(ToOwned::to_owned).ok_or_else(|| PatchError::Input(format!("{label} is missing")))
    };
    let owned = |key: &str| entered(key).map(ToOwned::to_owned);
    Ok(match kind {
        OutcomeKind::Allow => Outcome::Allow { pattern: owned("pattern") },
        OutcomeKind::Except => Outcome::Except {
            until: need("until", "the last day")?
                .parse()
                .map_err(|_| PatchError::Input("the last day is written 2026-11-23".to_owned()))?,
            ticket: need("ticket", "the ticket")?,
            requested_by: need("requested_by", "who asked")?,
            approved_by: need("approved_by", "who agreed")?,
            reason: need("reason", "the reason")?,
        },
        OutcomeKind::Pin => Outcome::Pin {
            digest: entered("digest")
                .map(str::parse)
                .transpose()
                .map_err(|error| PatchError::Input(format!("the digest cannot be read: {error}")))?,
        },
        OutcomeKind::Recall => Outcome::Recall {
            id: owned("id"),
            reason: need("reason", "the reason")?,
            replace: owned("replace"),
        },
    })
}

fn kind_of(word: &str) -> Result<OutcomeKind, Trouble> {
    OutcomeKind::parse(word).ok_or_else(|| {
        Trouble::Missing("There is no such outcome. There are allow, except, pin and recall.".to_owned())
    })
}

impl Console {
    pub(super) async fn outcome(
        &self,
        visitor: &Visitor,
        key: &str,
        word: &str,
        query: &str,
    ) -> Result<Answer, Trouble> {
        let kind = kind_of(word)?;
        let query = Query::read(query, KEYS)?;
        let format = query.format()?;
        let group = self.find_group(key).await?;
        if query.of("made").is_none() && format == Format::Html {
            return Ok(self.form_page(visitor, &group, kind, &|key| query.of(key), None));
        }
        if visitor.role != Role::Reviewer {
            return Err(Trouble::Forbidden);
        }
        let patch = match self.propose(&group, kind, &|key| query.of(key)).await? {
            Ok(patch) => patch,
            Err(error) if format == Format::Html => {
                return Ok(self.form_page(visitor, &group, kind, &|key| query.of(key), Some(&error)));
            }
            Err(error) => return Err(Trouble::Invalid(refusal(&error))),
        };
        let path = format!("/inbox/{}/{}", group.key, kind.as_str());
        match format {
            Format::Patch => {
                let name = format!("{}-{}.patch", kind.as_str(), group.key);
                return Ok(Answer::of(Media::Patch, patch.diff).kept_as(name));
            }
            Format::Csv => {
                return Err(Trouble::Invalid("A patch has the formats html, json and patch.".to_owned()));
            }
            Format::Html | Format::Json => {}
        }
        let forecast = self.forecast(&patch).await;
        if format == Format::Json {
            return Ok(answer_json(&json!({
                "file": patch.file, "diff": patch.diff, "test": patch.test, "warnings": patch.warnings,
                "forecast": forecast.as_ref().map(|forecast| json!({
                    "since": stamp(forecast.since), "cut": forecast.cut,
                    "allowed": changed(&forecast.allowed), "refused": changed(&forecast.refused),
                    "unchanged": { "references": forecast.unchanged.references, "pulls": forecast.unchanged.pulls },
                    "unjudged": { "references": forecast.unjudged.references, "pulls": forecast.unjudged.pulls },
                })).map_err(|error| json!({ "error": error })).unwrap_or_else(|error| error),
            })));
        }
        let body = html! {
            h1 { (outcome_title(kind).0) ": " (shown(&group.subject.reference)) }
            p { a href={ "/inbox/" (group.key) } { "Back to the group" } }
            p { "Apply this to " code { (shown(&patch.file)) } " where it is kept, review it there, and let the gateway read it. Nothing was changed here." }
            @for warning in &patch.warnings { p.notice { strong { "Mind: " } (shown(warning)) } }
            h2 { "Patch" }
            // Line ends are what a patch is made of; everything else that does not show is escaped.
            pre tabindex="0" aria-label="Patch" { @for line in patch.diff.lines() { (written(line)) "\n" } }
            p {
                a.button href=(query.in_format("patch").link(&path)) { "Download the patch" } " "
                a href=(query.in_format("json").link(&path)) { "JSON" }
            }
            h2 { "What it would have changed" }
            (forecast_of(&forecast))
        };
        Ok(page(visitor, "/inbox", &format!("{}: {}", outcome_title(kind).0, group.subject.reference), &body))
    }

    /// Makes a patch and puts on record that a reviewer did.
    pub(super) async fn make_patch(
        &self,
        visitor: &Visitor,
        key: &str,
        word: &str,
        fields: &Fields,
    ) -> Result<Answer, Trouble> {
        if visitor.role != Role::Reviewer {
            return Err(Trouble::Forbidden);
        }
        let kind = kind_of(word)?;
        let group = self.find_group(key).await?;
        if let Err(error) = self.propose(&group, kind, &|key| fields.of(key)).await? {
            let page = self.form_page(visitor, &group, kind, &|key| fields.of(key), Some(&error));
            return Ok(page.with_status(StatusCode::BAD_REQUEST));
        }
        let entered = fields_of(kind).iter().filter_map(|field| Some((field.key, fields.of(field.key)?)));
        let entered: Vec<(&str, &str)> = entered.collect();
        let words: Vec<String> = entered.iter().map(|(key, value)| format!("{key}: {value}")).collect();
        let note = match words.is_empty() {
            true => kind.as_str().to_owned(),
            false => format!("{}: {}", kind.as_str(), words.join("; ")),
        };
        self.record(visitor, Action::Patch, &group, Some(note)).await?;
        let path = format!("/inbox/{}/{}", group.key, kind.as_str());
        Ok(Answer::see(link(&path, entered.into_iter().chain([("made", "1")]))))
    }

    async fn propose(
        &self,
        group: &Group,
        kind: OutcomeKind,
        entered: &Entered<'_>,
    ) -> Result<Result<Patch, PatchError>, Trouble> {
        let outcome = match outcome(kind, entered) {
            Ok(outcome) => outcome,
            Err(error) => return Ok(Err(error)),
        };
        let (judge, group, now) = (self.judge.clone(), group.clone(), self.clock.now());
        let proposed = tokio::task::spawn_blocking(move || propose(&*judge, &group, &outcome, now)).await;
        proposed.map_err(|error| {
            tracing::error!(%error, "a patch could not be made");
            Trouble::Unavailable("This patch cannot be made; the gateway's log says why.".to_owned())
        })
    }

    async fn forecast(&self, patch: &Patch) -> Result<Forecast, String> {
        forecast(self.judge.clone(), self.reader.clone(), patch.text.clone(), self.clock.now()).await
    }

    fn form_page(
        &self,
        visitor: &Visitor,
        group: &Group,
        kind: OutcomeKind,
        entered: &Entered<'_>,
        error: Option<&PatchError>,
    ) -> Answer {
        let (title, meaning) = outcome_title(kind);
        let today = self.clock.now().to_zoned(TimeZone::UTC).date();
        let latest = today.checked_add(90.days()).unwrap_or(today);
        let body = html! {
            h1 { (title) ": " (shown(&group.subject.reference)) }
            p { a href={ "/inbox/" (group.key) } { "Back to the group" } }
            p { (meaning) " The result is a patch for the policy file, with a test and what it would have changed. Nothing is changed here." }
            @if let Some(error) = error { p.notice role="alert" { (shown(&refusal(error))) } }
            @if visitor.role == Role::Reviewer {
                form.card action={ "/inbox/" (group.key) "/" (kind.as_str()) } method="post" {
                    (form_token(visitor))
                    @for field in fields_of(kind) {
                        label.wide {
                            (field.label)
                            input type=(field.kind) name=(field.key) value=(super::entered(entered(field.key).unwrap_or_default()))
                                required[field.required] maxlength="300" autocomplete="off"
                                min=[(field.kind == "date").then_some(today)] max=[(field.kind == "date").then_some(latest)];
                        }
                    }
                    div.buttons { button.first { "Make the patch" } }
                }
            } @else {
                p { "Your role is viewer: a reviewer makes patches." }
            }
        };
        page(visitor, "/inbox", &format!("{title}: {}", group.subject.reference), &body)
    }
}

/// A line of a patch as it stands, so that it can be copied: only what does not show is escaped.
fn written(line: &str) -> String {
    line.split('\\').map(shown).collect::<Vec<_>>().join("\\")
}

fn changed(changed: &Changed) -> serde_json::Value {
    json!({
        "references": changed.count.references, "pulls": changed.count.pulls, "clients": changed.clients,
        "examples": changed.examples.iter().map(|(reference, pulls)| json!({ "reference": reference, "pulls": pulls })).collect::<Vec<_>>(),
    })
}

fn forecast_of(forecast: &Result<Forecast, String>) -> Markup {
    let some = |title: &str, changed: &Changed| {
        html! {
            li {
                (title) " " (changed.count.pulls) " pulls of " (changed.clients) " clients (" (changed.count.references) " references)"
                @if !changed.examples.is_empty() {
                    ul { @for (reference, pulls) in &changed.examples { li { code { (shown(reference)) } ": " (pulls) " pulls" } } }
                }
            }
        }
    };
    html! {
        @match forecast {
            Err(error) => p.notice { "This cannot be said: " (shown(error)) },
            Ok(forecast) => {
                p { "Of the pulls since " (moment(forecast.since)) ", the patched policy" }
                ul {
                    (some("would have allowed", &forecast.allowed))
                    (some("would have refused", &forecast.refused))
                    li { "judges " (forecast.unchanged.pulls) " pulls as before" }
                    @if forecast.unjudged.pulls > 0 { li { "cannot be tried on " (forecast.unjudged.pulls) " pulls, whose facts are no longer held" } }
                }
                @if forecast.cut { p.soft { "There were more pulls than are judged again; these are the latest." } }
            }
        }
    }
}
