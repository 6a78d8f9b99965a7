//! Policy and certificates are read again when their files change. What cannot be read changes
//! nothing: the old one goes on, and `/readyz`, the log and the record say so.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::gate::{Gate, Rules};
use crate::policy::Policy;
use crate::server::Condition;
use crate::server::certificates::{CertificateError, Certificates, server_config};
use crate::settings::policy;
use crate::settings::watch::{self, Force};

/// How the last readings went. Cloning shares it.
#[derive(Clone, Debug, Default)]
pub(super) struct Status(Arc<Mutex<Outcomes>>);

#[derive(Debug, Default)]
struct Outcomes {
    policy: Option<String>,
    certificates: Option<String>,
}

impl Status {
    fn set(&self, change: impl FnOnce(&mut Outcomes)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn conditions(&self) -> Vec<Condition> {
        let outcomes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let condition = |name: &str, error: &Option<String>| Condition {
            name: name.to_owned(),
            ok: error.is_none(),
            required: false,
            detail: error.clone().unwrap_or_else(|| "as in the file".to_owned()),
        };
        vec![condition("policy", &outcomes.policy), condition("certificates", &outcomes.certificates)]
    }
}

/// What is watched, and what it turns into.
pub(super) struct Watched {
    pub(super) policy_file: PathBuf,
    pub(super) certificates: Arc<Certificates>,
    pub(super) client_ca: Option<PathBuf>,
    pub(super) tls: Arc<ArcSwap<ServerConfig>>,
}

/// How often certificates are looked at for renewal.
const RENEWAL: Duration = Duration::from_secs(3600);

type MakeRules = Box<dyn Fn(Policy) -> Rules + Send + Sync>;

/// Reads again what changes.
#[derive(Debug)]
pub(super) struct Reloading {
    policy: Force,
    certificates: Force,
    tasks: TaskTracker,
}

impl Reloading {
    pub(super) fn start(
        watched: Watched,
        gate: Gate,
        make_rules: MakeRules,
        status: Status,
        poll: Duration,
        stop: CancellationToken,
    ) -> Self {
        let Watched { policy_file, certificates, client_ca, tls } = watched;
        let (mut policies, policy) = watch::watch(vec![policy_file.clone()], poll);
        let files = certificates.files().into_iter().chain(client_ca.clone()).collect();
        let (mut pairs, force_certificates) = watch::watch(files, poll);
        let (status_of_policy, until) = (status.clone(), stop.clone());
        let tasks = TaskTracker::new();
        tasks.spawn(async move {
            while let Some(Some(_)) = until.run_until_cancelled(policies.recv()).await {
                let outcome = adopt(&policy_file, &gate, &make_rules).await;
                status_of_policy.set(|outcomes| outcomes.policy = outcome);
            }
        });
        tasks.spawn(async move {
            let mut renewal = tokio::time::interval(RENEWAL);
            loop {
                let outcome = tokio::select! {
                    () = stop.cancelled() => return,
                    change = pairs.recv() => match change {
                        None => return,
                        Some(_) => read_again(&certificates, client_ca.as_deref(), &tls),
                    },
                    _ = renewal.tick() => certificates.renew().map(|_| ()),
                };
                let outcome = match outcome {
                    Ok(()) => None,
                    Err(error) => {
                        tracing::error!(%error, "the certificates cannot be used; the former ones go on");
                        Some(error.to_string())
                    }
                };
                status.set(|outcomes| outcomes.certificates = outcome);
            }
        });
        tasks.close();
        Self { policy, certificates: force_certificates, tasks }
    }

    /// Waits until what was being adopted when the stop was called is in force and on record.
    pub(super) async fn ended(&self) {
        self.tasks.wait().await;
    }

    pub(super) fn force(&self) {
        self.policy.now();
        self.certificates.now();
    }
}

fn read_again(
    certificates: &Arc<Certificates>,
    client_ca: Option<&Path>,
    tls: &ArcSwap<ServerConfig>,
) -> Result<(), CertificateError> {
    certificates.reload()?;
    tls.store(Arc::new(server_config(certificates.clone(), client_ca)?));
    tracing::info!("the certificates were read again");
    Ok(())
}

/// Puts the policy of this file in force, on record first. The answer is what is wrong with it.
async fn adopt(file: &Path, gate: &Gate, make_rules: &MakeRules) -> Option<String> {
    let policy = match policy::load(file) {
        Ok(policy) => policy,
        Err(error) => {
            let text = error.to_string();
            tracing::error!(error = %text, "the policy file cannot be used; the former policy goes on");
            if let Err(error) = gate.record_refused_policy(&text).await {
                tracing::error!(%error, "that a policy file was refused could not be recorded");
            }
            return Some(text);
        }
    };
    if policy.sha256() == gate.rules().policy().sha256() {
        return None;
    }
    let rules = make_rules(policy);
    tracing::info!(
        policy = rules.policy().name(),
        revision = rules.policy().revision(),
        "a new policy is in force"
    );
    let former = gate.rules();
    let changes = former.policy().changes(rules.policy());
    gate.adopt(rules);
    match gate.record_policy(Some(former.stamp()), changes).await {
        Ok(()) => None,
        Err(error) => {
            tracing::error!(%error, "the change of policy could not be recorded");
            Some(format!("in force, but not on record: {error}"))
        }
    }
}
