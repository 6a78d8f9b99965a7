//! Why a reference gets its verdict, and what would change it.

use std::sync::Arc;

use jiff::Timestamp;

use super::compiled::Owner;
use super::{Code, Given, Offline, Policy, Source};
use crate::identity::{Attribution, Caller, Class};
use crate::oci::Reference;

/// Everything there is to say about one pull, offline.
#[derive(Debug)]
pub struct Explanation<'a> {
    /// The judgement with every check.
    pub offline: Offline,
    /// Whose rules applied.
    pub owner: Owned<'a>,
    /// Further sources whose `match` fits, most specific first: each would own the repository if those
    /// before it did not exist.
    pub others: Vec<&'a Source>,
    /// What whoever pulls can do instead.
    pub instead: Vec<String>,
    /// What would have to be written in the policy.
    pub changes: Vec<String>,
}

/// Whose rules applied.
#[derive(Clone, Copy, Debug)]
pub enum Owned<'a> {
    /// Nobody's.
    Nobody,
    /// Those of this source.
    Source(&'a Source),
    /// Those of `[require]`, because the registry is in `unlisted` and the mode is soft.
    Unlisted,
}

impl Policy {
    /// Judges as [`Policy::offline`] does, and says why.
    pub fn explain(
        &self,
        client: Option<&Arc<str>>,
        reference: &Reference,
        given: &Given,
        now: Timestamp,
    ) -> Explanation<'_> {
        let offline = self.offline(client, reference, given, now);
        let owner = match self.owner(&reference.name) {
            Owner::None => Owned::Nobody,
            Owner::Source(source) => Owned::Source(source),
            Owner::Unlisted(_) => Owned::Unlisted,
        };
        let fits = |source: &&Source| {
            let owned = matches!(owner, Owned::Source(owner) if owner.id() == source.id());
            !owned && source.pattern().is_some_and(|pattern| pattern.matches(&reference.name))
        };
        let others = self.sources().filter(fits).collect();
        let mut instead: Vec<String> = Vec::new();
        if reference.digest.is_none()
            && let Some(tag) = &reference.tag
            && !offline.reasons.is_empty()
        {
            let caller = Caller {
                class: client.map_or(Class::Anonymous, |name| Class::Client(name.clone())),
                attribution: Attribution::None,
                address: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
                proxy: None,
                certificate: None,
                user_agent: None,
            };
            let near = self.suggest(&caller, &reference.name, tag, std::iter::empty());
            instead.extend(near.map(|tag| format!("try {}:{tag}", reference.name)));
        }
        let remedies = offline.reasons.iter().filter_map(|reason| reason.remedy.clone());
        instead.extend(remedies.filter(|remedy| !remedy.starts_with("try ")));
        instead.dedup();
        let source = match owner {
            Owned::Source(source) => Some(source),
            Owned::Nobody | Owned::Unlisted => None,
        };
        let mut changes: Vec<String> = offline
            .reasons
            .iter()
            .filter_map(|reason| change(reason.code, reference, client, source))
            .collect();
        changes.dedup();
        Explanation { offline, owner, others, instead, changes }
    }
}

/// What in the policy stands against it, or would have to stand there.
fn change(
    code: Code,
    reference: &Reference,
    client: Option<&Arc<str>>,
    source: Option<&Source>,
) -> Option<String> {
    let name = &reference.name;
    let at = |at: Option<&Arc<str>>| at.map(|at| format!(" ({at})")).unwrap_or_default();
    match code {
        Code::SourceUnknown => Some(format!("a [[source]] with match = \"{name}\", or broader")),
        Code::ClientNotAllowed => {
            let clients = source.and_then(|source| source.clients.as_ref());
            let client = client.map_or("a [[client]] that covers this caller", |name| &**name);
            Some(format!("{client} in `clients`{}", at(clients.map(|clients| &clients.at))))
        }
        Code::TagDenied => Some(format!(
            "a tags.deny of its own for this source, without the pattern{}: no pin and no allow entry beats deny",
            at(source.map(|source| &source.deny.at))
        )),
        Code::TagNotAllowed => {
            let tag = reference.tag.as_ref()?;
            Some(format!(
                "\"{tag}\" in tags.allow{}, or a [[pin]] with image = \"{name}:{tag}\" and its digest",
                at(source.map(|source| &source.allow.at))
            ))
        }
        Code::DigestNotListed | Code::DigestUnknown => {
            let digest = reference.digest.as_ref()?;
            Some(format!("a [[pin]] with image = \"{name}\" and digest = \"{digest}\""))
        }
        Code::TagMoved => {
            let tag = reference.tag.as_ref()?;
            Some(format!("a [[pin]] with image = \"{name}:{tag}\" and the digest that was reviewed"))
        }
        _ => None,
    }
}
