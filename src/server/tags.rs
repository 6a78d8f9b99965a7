//! `/api/v1/tags/<registry>/<repository>` of the admin listener: the tags that are known here, in a form
//! that tools such as Renovate read.

use std::sync::Arc;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, LINK};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::reply::{self, Body, Reply};
use crate::gate::{Gate, Release};
use crate::oci::{Name, Tag};

/// Where these pages begin.
pub(super) const PREFIX: &str = "/api/v1/tags/";
/// Tags of one page, unless fewer are asked for.
const PAGE: u16 = 1000;

/// Answers what is known of tags, one question at a time: pulls read the same catalog.
#[derive(Clone, Debug)]
pub(super) struct Tags {
    gate: Gate,
    turn: Arc<Semaphore>,
}

/// What is asked, beside the repository.
#[derive(Debug, Default)]
struct Query {
    tag: Option<Tag>,
    after: Option<Tag>,
    limit: Option<u16>,
}

impl Tags {
    pub(super) fn new(gate: Gate) -> Self {
        Self { gate, turn: Arc::new(Semaphore::new(1)) }
    }

    /// The reply to a path behind [`PREFIX`].
    pub(super) async fn answer(&self, path: &str, query: &str) -> Reply {
        let name: Name = match path.parse() {
            Ok(name) => name,
            Err(error) => return problem(StatusCode::BAD_REQUEST, &format!("{path:?}: {error}")),
        };
        let query = match Query::read(query) {
            Ok(query) => query,
            Err(text) => return problem(StatusCode::BAD_REQUEST, &text),
        };
        let Ok(_turn) = self.turn.acquire().await else {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "the gateway is shutting down");
        };
        let found = match &query.tag {
            Some(tag) => self.history(&name, tag).await,
            None => self.releases(&name, &query).await,
        };
        found.unwrap_or_else(|error| {
            tracing::error!(%error, "tags could not be looked up");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "the catalog cannot be read; the log says why")
        })
    }

    async fn releases(&self, name: &Name, query: &Query) -> Result<Reply, crate::gate::CatalogError> {
        let limit = query.limit.unwrap_or(PAGE);
        let releases = self.gate.releases(name, query.after.as_ref(), limit).await?;
        if releases.is_empty() && query.after.is_none() {
            return Ok(problem(StatusCode::NOT_FOUND, &format!("no tag of {name} is known here")));
        }
        let next = releases.last().filter(|_| releases.len() == usize::from(limit)).map(|last| &last.tag);
        let mut reply = answer(
            StatusCode::OK,
            &json!({
                "registry": name.registry().to_string(),
                "repository": name.repository().to_string(),
                "releases": releases.iter().map(object).collect::<Vec<Value>>(),
                "next": next.map(Tag::as_str),
            }),
        );
        let link = next.map(|next| format!("<{PREFIX}{name}?limit={limit}&after={next}>; rel=\"next\""));
        if let Some(link) = link.and_then(|link| HeaderValue::from_str(&link).ok()) {
            reply.headers_mut().insert(LINK, link);
        }
        Ok(reply)
    }

    async fn history(&self, name: &Name, tag: &Tag) -> Result<Reply, crate::gate::CatalogError> {
        let history = self.gate.history(name, tag).await?;
        if history.is_empty() {
            return Ok(problem(StatusCode::NOT_FOUND, &format!("{name}:{tag} is not known here")));
        }
        let rows: Vec<Value> = history
            .iter()
            .map(|row| {
                json!({
                    "digest": row.digest.map(|digest| digest.to_string()),
                    "firstSeen": row.first.to_string(),
                    "lastSeen": row.last.to_string(),
                    "whence": row.whence.as_str(),
                    "served": row.served,
                    "locked": row.locked,
                    "current": row.current,
                })
            })
            .collect();
        let object = json!({
            "registry": name.registry().to_string(),
            "repository": name.repository().to_string(),
            "version": tag.as_str(),
            "history": rows,
        });
        Ok(answer(StatusCode::OK, &object))
    }
}

impl Query {
    fn read(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for (key, value) in url::form_urlencoded::parse(text.as_bytes()) {
            let tag = || value.parse::<Tag>().map(Some).map_err(|error| format!("{key}={value:?}: {error}"));
            match &*key {
                "tag" => query.tag = tag()?,
                "after" => query.after = tag()?,
                "limit" => {
                    let limit = value.parse().ok().filter(|limit| (1..=PAGE).contains(limit));
                    query.limit =
                        Some(limit.ok_or_else(|| format!("limit={value:?} is no number from 1 to {PAGE}"))?);
                }
                _ => return Err(format!("{key:?} is no parameter here; there are tag, after and limit")),
            }
        }
        Ok(query)
    }
}

/// The keys that Renovate's `customDatasources` read, and ours beside them.
fn object(release: &Release) -> Value {
    json!({
        "version": release.tag.as_str(),
        "digest": release.digest.to_string(),
        "releaseTimestamp": release.first_seen.map(|time| time.to_string()),
        "isStable": release.stable,
        "locked": release.locked,
        "heldUntil": release.held_until.map(|time| time.to_string()),
        "movedTo": release.moved_to.map(|digest| digest.to_string()),
    })
}

fn problem(status: StatusCode, text: &str) -> Reply {
    answer(status, &json!({ "error": text }))
}

fn answer(status: StatusCode, object: &Value) -> Reply {
    let mut reply = reply::reply(status, Body::whole(format!("{object:#}\n")));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}
