//! A policy that is only tried: judged beside the one in force, on the same pulls, deciding nothing.

use std::time::Duration;

use super::Gate;
use crate::audit::Shadow;
use crate::identity::Caller;
use crate::oci::Ask;
use crate::policy::{Decision, Facts, Outcome, Policy};

/// How long a pull is kept waiting for what the shadow alone asks for.
const PATIENCE: Duration = Duration::from_secs(1);

impl Gate {
    /// Tries this policy on what comes from now on; none tries nothing.
    pub fn try_out(&self, policy: Option<Policy>) {
        self.0.shadow.store(policy.map(std::sync::Arc::new));
        self.0.memo.invalidate_all();
    }

    /// What the shadow says of an ask, with the facts that were gathered for the policy in force. It
    /// asks for further ones only where that one allows the pull, so that no upstream hears of what is
    /// refused; what it cannot tell in time is unknown.
    pub(super) async fn shadow(
        &self,
        caller: &Caller,
        ask: &Ask,
        facts: &Facts,
        allowed: bool,
    ) -> Option<Shadow> {
        let policy = self.0.shadow.load_full()?;
        let revision = policy.revision().to_owned();
        let mut facts = facts.clone();
        let judged = tokio::time::timeout(PATIENCE, async {
            for _ in 0..super::TURNS {
                let Decision { outcome, verdict, softened, .. } =
                    policy.decide(caller, ask, &facts, self.0.clock.now());
                match outcome {
                    Outcome::Need(need) if allowed => self.0.puller.gather(ask, &need, &mut facts).await,
                    Outcome::Fail(_) | Outcome::Need(_) => return None,
                    Outcome::Permit(_) => {
                        return Some((verdict.as_str(), softened.first().map(|reason| reason.code)));
                    }
                    Outcome::Refuse(refusal) => return Some((verdict.as_str(), Some(refusal.code))),
                }
            }
            None
        })
        .await;
        let (verdict, code) = match judged {
            Ok(Some(judged)) => judged,
            Ok(None) => ("unknown", None),
            Err(_) => {
                tracing::debug!(image = %ask.reference(), "the shadow policy took too long to judge");
                ("unknown", None)
            }
        };
        Some(Shadow { revision, verdict, code })
    }
}
