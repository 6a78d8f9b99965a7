//! Policy and certificates are read again when their files change. What cannot be read changes
//! nothing: the old one goes on, and `/readyz`, the log and the record say so.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::gate::{Gate, Rules};
use crate::policy::Policy;
use crate::server::certificates::{CertificateError, Certificates, ClientCa, server_config};
use crate::server::{Condition, Tls};
use crate::settings::policy;
use crate::settings::watch::{Change, Force};
use crate::telemetry::Metrics;

/// What is read again.
#[derive(Clone, Copy, Debug)]
enum What {
    AdminCertificates,
    Certificates,
    Policy,
}

impl What {
    const ALL: [Self; 3] = [Self::AdminCertificates, Self::Certificates, Self::Policy];

    fn as_str(self) -> &'static str {
        match self {
            Self::AdminCertificates => "admin_certificates",
            Self::Certificates => "certificates",
            Self::Policy => "policy",
        }
    }
}

/// How a reading went.
#[derive(Debug)]
enum Outcome {
    /// What was read is in force.
    Adopted,
    /// It cannot be used, and why; the former goes on.
    Refused(String),
    /// It is in force already.
    Unchanged,
    /// It is in force, but that could not be recorded.
    Unrecorded(String),
}

impl Outcome {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Adopted => "adopted",
            Self::Refused(_) => "refused",
            Self::Unchanged => "unchanged",
            Self::Unrecorded(_) => "unrecorded",
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct OkLabels {
    what: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ReloadLabels {
    what: &'static str,
    result: &'static str,
}

/// How the last readings went. Cloning shares it.
#[derive(Clone, Debug)]
pub(super) struct Status {
    errors: Arc<Mutex<[Option<String>; What::ALL.len()]>>,
    ok: Family<OkLabels, Gauge>,
    reloads: Family<ReloadLabels, Counter>,
}

impl Status {
    /// Adds `pullgate_reload_ok` and `pullgate_reloads_total`. What was read at the start is well.
    pub(super) fn register(metrics: &mut Metrics) -> Self {
        let this = Self { errors: Arc::default(), ok: Family::default(), reloads: Family::default() };
        for what in What::ALL {
            this.ok.get_or_create(&OkLabels { what: what.as_str() }).set(1);
        }
        let registry = metrics.registry();
        registry.register("reload_ok", "1 when what was last read is in force", this.ok.clone());
        registry.register("reloads", "Files read again, by what and result", this.reloads.clone());
        this
    }

    fn settle(&self, what: What, outcome: Outcome) {
        let (label, result) = (what.as_str(), outcome.as_str());
        let error = match outcome {
            Outcome::Adopted | Outcome::Unchanged => None,
            Outcome::Refused(text) => Some(text),
            Outcome::Unrecorded(text) => Some(format!("in force, but not on record: {text}")),
        };
        self.reloads.get_or_create(&ReloadLabels { what: label, result }).inc();
        self.ok.get_or_create(&OkLabels { what: label }).set(i64::from(error.is_none()));
        if let Some(place) = self.errors.lock().unwrap_or_else(PoisonError::into_inner).get_mut(what as usize)
        {
            *place = error;
        }
    }

    pub(super) fn conditions(&self) -> Vec<Condition> {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let condition = |what: What| {
            let error = errors.get(what as usize).cloned().flatten();
            Condition {
                name: what.as_str().to_owned(),
                ok: error.is_none(),
                required: false,
                detail: error.unwrap_or_else(|| "as in the file".to_owned()),
            }
        };
        let mut conditions = vec![condition(What::Policy), condition(What::Certificates)];
        // Without TLS of its own the admin listener has none that could fail.
        conditions.extend(Some(condition(What::AdminCertificates)).filter(|condition| !condition.ok));
        conditions
    }
}

/// A watch over files, and the way to ask it to read them.
pub(super) type Watch = (mpsc::Receiver<Change>, Force);

/// The watches. Each begins before what it watches is first read: a change in between, while the
/// catalog, the record and the upstreams are opened, would be lost until the next.
pub(super) struct Watches {
    pub(super) policy: Watch,
    pub(super) shadow: Option<Watch>,
    pub(super) certificates: Watch,
    /// Those of the admin listener.
    pub(super) admin: Option<Watch>,
}

/// What is watched, and what it turns into.
pub(super) struct Watched {
    pub(super) policy_file: PathBuf,
    /// A policy that is only tried.
    pub(super) shadow: Option<PathBuf>,
    /// The names that the policy may call clients.
    pub(super) clients: Vec<String>,
    pub(super) listener: Served,
    /// What the admin listener serves with, where it speaks TLS.
    pub(super) admin: Option<Served>,
    pub(super) clock: Clock,
}

/// What a listener serves with.
pub(super) struct Served {
    pub(super) certificates: Arc<Certificates>,
    /// The client CA's file, and what is in force of it.
    pub(super) client_ca: Option<(PathBuf, ClientCa)>,
    pub(super) tls: Arc<Tls>,
}

/// How often certificates are looked at for renewal.
const RENEWAL: Duration = Duration::from_secs(3600);

type MakeRules = Box<dyn Fn(Policy) -> Rules + Send + Sync>;

/// Reads again what changes.
#[derive(Debug)]
pub(super) struct Reloading {
    policy: Force,
    certificates: Vec<Force>,
    tasks: TaskTracker,
}

impl Reloading {
    pub(super) fn start(
        watched: Watched,
        gate: Gate,
        make_rules: MakeRules,
        status: &Status,
        watches: Watches,
        stop: &CancellationToken,
    ) -> Self {
        let Watched { policy_file, shadow, clients, listener, admin, clock } = watched;
        let (mut policies, policy) = watches.policy;
        let (status_of_policy, until) = (status.clone(), stop.clone());
        let tasks = TaskTracker::new();
        if let (Some(file), Some((mut shadows, _))) = (shadow, watches.shadow) {
            let (gate, clients, until) = (gate.clone(), clients.clone(), stop.clone());
            tasks.spawn(async move {
                while let Some(Some(_)) = until.run_until_cancelled(shadows.recv()).await {
                    try_out(&file, &clients, &gate);
                }
            });
        }
        tasks.spawn(async move {
            while let Some(Some(_)) = until.run_until_cancelled(policies.recv()).await {
                let outcome = adopt(&policy_file, &clients, &gate, &make_rules, &clock).await;
                status_of_policy.settle(What::Policy, outcome);
            }
        });
        let mut certificates = Vec::new();
        let listeners = [
            (What::Certificates, Some(listener), Some(watches.certificates)),
            (What::AdminCertificates, admin, watches.admin),
        ];
        for (what, served, watch) in listeners {
            if let (Some(served), Some((changes, force))) = (served, watch) {
                certificates.push(force);
                tasks.spawn(keep_certificates(what, served, changes, status.clone(), stop.clone()));
            }
        }
        tasks.close();
        Self { policy, certificates, tasks }
    }

    /// Waits until what was being adopted when the stop was called is in force and on record.
    pub(super) async fn ended(&self) {
        self.tasks.wait().await;
    }

    pub(super) fn force(&self) {
        self.policy.now();
        for certificates in &self.certificates {
            certificates.now();
        }
    }
}

/// Reads a listener's certificates again when they change, and renews what is ours.
async fn keep_certificates(
    what: What,
    mut served: Served,
    mut changes: mpsc::Receiver<Change>,
    status: Status,
    stop: CancellationToken,
) {
    let mut renewal = tokio::time::interval(RENEWAL);
    loop {
        let outcome = tokio::select! {
            () = stop.cancelled() => return,
            change = changes.recv() => match change {
                None => return,
                Some(_) => read_again(&mut served),
            },
            _ = renewal.tick() => match served.certificates.renew() {
                // That nothing was due heals nothing.
                Ok(false) => continue,
                Ok(true) => Ok(()),
                Err(error) => Err(error),
            },
        };
        let outcome = match outcome {
            Ok(()) => Outcome::Adopted,
            Err(error) => {
                tracing::error!(%error, "the certificates cannot be used; the former ones go on");
                Outcome::Refused(error.to_string())
            }
        };
        status.settle(what, outcome);
    }
}

fn read_again(served: &mut Served) -> Result<(), CertificateError> {
    let Served { certificates, client_ca, tls } = served;
    // Both or neither: what cannot be used of the one must not leave the other in force by half.
    let read = match client_ca {
        Some((file, in_force)) => {
            let read = ClientCa::load(file)?;
            // Only who verifies clients has to do with who is on the other end of open connections.
            let config = server_config(certificates.clone(), Some(&read))?;
            (read != *in_force).then_some((in_force, read, config))
        }
        None => None,
    };
    certificates.reload()?;
    if let Some((in_force, read, config)) = read {
        tls.replace(config);
        *in_force = read;
        tracing::info!("a new client CA is in force; connections of before finish and are closed");
    }
    tracing::info!("the certificates were read again");
    Ok(())
}

/// The former policy goes on, and that is on record.
async fn refuse(gate: &Gate, text: String) -> Outcome {
    tracing::error!(error = %text, "the policy file cannot be used; the former policy goes on");
    if let Err(error) = gate.record_refused_policy(&text).await {
        tracing::error!(%error, "that a policy file was refused could not be recorded");
    }
    Outcome::Refused(text)
}

/// Tries the policy of this file beside the one in force. One that cannot be read is not tried any
/// more: what stood there before is not what its writer wants to know about.
pub(super) fn try_out(file: &Path, clients: &[String], gate: &Gate) {
    match policy::load_for(file, clients) {
        Ok(policy) => {
            tracing::info!(revision = policy.revision(), "a shadow policy is tried; it decides nothing");
            gate.try_out(Some(policy));
        }
        Err(error) => {
            tracing::error!(error = %error.to_string(), "the shadow policy cannot be read and is not tried");
            gate.try_out(None);
        }
    }
}

/// Says which exceptions end soon, so that somebody renews them or mends the image in time.
pub(super) fn warn_of_exceptions(policy: &Policy, now: jiff::Timestamp) {
    for exception in policy.exceptions().iter().filter(|exception| exception.ends_soon(now)) {
        tracing::warn!(
            exception = %exception.id,
            image = %exception.image,
            expires = %exception.expires,
            ticket = %exception.ticket,
            "an exception ends within 14 days"
        );
    }
}

/// Puts the policy of this file in force.
async fn adopt(
    file: &Path,
    clients: &[String],
    gate: &Gate,
    make_rules: &MakeRules,
    clock: &Clock,
) -> Outcome {
    let policy = match policy::load_for(file, clients) {
        Ok(policy) => policy,
        Err(error) => return refuse(gate, error.to_string()).await,
    };
    let former = gate.rules();
    if policy.sha256() == former.policy().sha256() {
        return Outcome::Unchanged;
    }
    let dropped = former.policy().recalls_dropped(&policy);
    if let (Some(first), true) = (dropped.first(), former.policy().revision() == policy.revision()) {
        let more = match dropped.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        return refuse(
            gate,
            format!(
                "{}: it no longer recalls {first}{more}, and its revision is still {:?}; give it a new revision if that is meant",
                file.display(),
                policy.revision()
            ),
        )
        .await;
    }
    warn_of_exceptions(&policy, clock.now());
    let rules = make_rules(policy);
    tracing::info!(
        policy = rules.policy().name(),
        revision = rules.policy().revision(),
        "a new policy is in force"
    );
    let changes = former.policy().changes(rules.policy());
    gate.adopt(rules);
    match gate.record_policy(Some(former.stamp()), changes).await {
        Ok(()) => Outcome::Adopted,
        Err(error) => {
            tracing::error!(%error, "the change of policy could not be recorded");
            Outcome::Unrecorded(error.to_string())
        }
    }
}
