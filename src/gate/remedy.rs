//! What to pull instead: the nearest allowed reference, from the policy and from what is held here,
//! never from the network.

use super::{Gate, Rules};
use crate::identity::Caller;
use crate::oci::{Ask, Digest, Name, Tag, What};
use crate::policy::{Code, Facts, Known, Policy, Refusal};

impl Gate {
    /// The phrase that replaces the policy's own remedy (`try 3.11-slim-bookworm`), where there is a
    /// nearer one.
    pub(super) async fn remedy(
        &self,
        caller: &Caller,
        asked: Option<(&Ask, &Facts)>,
        refusal: &Refusal,
        rules: &Rules,
    ) -> Option<String> {
        let (ask, facts) = asked?;
        let (name, policy) = (&ask.name, rules.policy());
        let tag = match &ask.what {
            What::Tag(tag) => Some(tag),
            What::Digest(_) => None,
            What::Blob(_) | What::Referrers(_) | What::Tags => return None,
        };
        let instead = match (refusal.code, &ask.what) {
            (Code::TagDenied | Code::TagNotAllowed, What::Tag(tag)) => {
                let held = self.0.puller.served_tags(name).await;
                return Some(format!("try {}", policy.suggest(caller, name, tag, held.iter())?));
            }
            // What replaces it is the policy's own word.
            (Code::Recall, _) if replaces(refusal) => None,
            (Code::Hold | Code::TagMoved, What::Tag(_)) => match locked(facts) {
                Some(lock) => Some(format!("@{lock}")),
                None => self.held(caller, name, tag, policy).await,
            },
            (Code::DigestNotListed | Code::DigestUnknown, What::Digest(digest)) => {
                match self.led_by(caller, name, digest, policy).await {
                    Some(tag) => Some(tag.to_string()),
                    None => self.held(caller, name, None, policy).await,
                }
            }
            (
                Code::Age
                | Code::ArtifactNotAllowed
                | Code::BaseNotAllowed
                | Code::DigestNotListed
                | Code::DigestUnknown
                | Code::Hold
                | Code::IndexTooLarge
                | Code::Label
                | Code::MediaRefused
                | Code::PlatformNotAllowed
                | Code::Recall
                | Code::Size
                | Code::TagDenied
                | Code::TagMoved
                | Code::TagNotAllowed
                | Code::UserMinUid
                | Code::UserNamed,
                _,
            ) => self.held(caller, name, tag, policy).await,
            (
                Code::ClientNotAllowed
                | Code::ClientRate
                | Code::ClientUnknown
                | Code::ClosureOutside
                | Code::FactsUnavailable
                | Code::MethodUnsupported
                | Code::NameConflict
                | Code::NameInvalid
                | Code::PossessionMissing
                | Code::SourceUnknown,
                _,
            ) => None,
        };
        instead.map(|instead| format!("try {instead}"))
    }

    /// The nearest tag that passed every check here once and that the tag rules still let pass.
    async fn held(&self, caller: &Caller, name: &Name, tag: Option<&Tag>, policy: &Policy) -> Option<String> {
        let held = self.0.puller.served_tags(name).await;
        policy.suggest_held(caller, name, tag, held.iter()).map(|tag| tag.to_string())
    }

    /// The highest tag that the tag rules let pass and that led to a digest, here or upstream.
    async fn led_by(&self, caller: &Caller, name: &Name, digest: &Digest, policy: &Policy) -> Option<Tag> {
        let seen = self.0.catalog.seen(name, digest).await.ok()?;
        let tags = seen.sights.iter().filter(|sight| sight.current || sight.served).map(|sight| &sight.tag);
        policy.suggest_held(caller, name, None, tags)
    }
}

/// Whether the recall says what to pull instead.
fn replaces(refusal: &Refusal) -> bool {
    let remedy = refusal.reasons.first().and_then(|reason| reason.remedy.as_deref());
    remedy.is_some_and(|remedy| remedy.contains(['/', ':']))
}

fn locked(facts: &Facts) -> Option<Digest> {
    match &facts.tag {
        Known::Is(fact) => fact.lock,
        Known::Failed(_) | Known::Unasked => None,
    }
}
