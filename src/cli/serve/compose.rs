//! From settings to a running gateway: every room gets its own settings and its neighbours, and
//! nothing else happens here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::control::Control;
use super::judge::FileJudge;
use super::reload::{Reloading, Served, Status, Watched, Watches, try_out, warn_of_exceptions};
use crate::alert::{self, Alerts};
use crate::audit::{self, Keeping, Log};
use crate::catalog::{self, Catalog};
use crate::cli::Failure;
use crate::clock::Clock;
use crate::console::{self, Console};
use crate::content::{self, Store};
use crate::gate::{self, Gate, Rules};
use crate::identity::{ClientSettings, Identity, IdentitySettings};
use crate::pull::{self, Puller};
use crate::review::{Judge, Review};
use crate::server::certificates::{CertificateSettings, Certificates, ClientCa, server_config};
use crate::server::{self, Admin, Condition, Connections, Door, Manner, Manners, Terms, Tls};
use crate::settings::diagnostic::FileError;
use crate::settings::gateway::{self as file, Gateway, Lifetime};
use crate::settings::policy;
use crate::settings::watch;
use crate::sink::{self, Sinks};
use crate::telemetry::Metrics;
use crate::upstream::{self, Resolver, Upstreams};

/// What a test or the demo chooses that no file says.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where time comes from.
    pub clock: Clock,
    /// Where names become addresses.
    pub resolver: Resolver,
    /// Whether the environment's proxies count.
    pub proxy_from_environment: bool,
    /// How often watched files are looked at.
    pub poll: Duration,
    /// Within what time the first header of a reply is on its way.
    pub first_header: Duration,
    /// How long sinks wait, and for what.
    pub sinks: sink::Timing,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            resolver: Resolver::system(),
            proxy_from_environment: true,
            poll: crate::settings::watch::INTERVAL,
            first_header: server::FIRST_HEADER,
            sinks: sink::Timing::default(),
        }
    }
}

/// Why a gateway does not start.
#[derive(Debug, miette::Diagnostic, thiserror::Error)]
pub enum StartError {
    /// The policy file cannot be used.
    #[error(transparent)]
    #[diagnostic(transparent)]
    File(#[from] FileError),
    /// The machine failed, or something stored cannot be opened.
    #[error("the gateway cannot start: {0}")]
    Internal(Box<dyn std::error::Error + Send + Sync>),
    /// An address is taken or not ours.
    #[error("{address} cannot be listened on ({error}); choose another {key}, or stop what listens there")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// The key that names it.
        key: &'static str,
        /// What the system said.
        error: std::io::Error,
    },
    /// A setting cannot be used as it is.
    #[error("the gateway cannot start: {0}")]
    Usage(Box<dyn std::error::Error + Send + Sync>),
}

impl StartError {
    fn internal(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Internal(error.into())
    }

    fn usage(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Usage(error.into())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::File(_) => Self::unjudged(error),
            StartError::Usage(_) => Self::usage(error),
            StartError::Internal(_) | StartError::Listen { .. } => Self::internal(error),
        }
    }
}

/// A gateway that serves.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    admin_address: SocketAddr,
    gate: Gate,
    log: Log,
    catalog: Catalog,
    store: Store,
    puller: Puller,
    drain: Duration,
    admin: Admin,
    console: Console,
    reloading: Reloading,
    stop: CancellationToken,
    end: CancellationToken,
    pulls: JoinHandle<()>,
    health: JoinHandle<()>,
    keeper: JoinHandle<()>,
    expiries: JoinHandle<()>,
    control: Control,
    reviewing: Option<Reviewing>,
    judge: Arc<dyn Judge>,
    sinks: Sinks,
    alerts: Alerts,
}

/// The projection for the review pages, and what keeps it up to date.
#[derive(Debug)]
struct Reviewing {
    review: Review,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Reviewing {
    fn start(review: Review, log: Log) -> Self {
        let stop = CancellationToken::new();
        let (follower, stopped) = (review.clone(), stop.clone());
        let task = tokio::spawn(async move { follower.run(log, stopped).await });
        Self { review, stop, task }
    }

    /// On return it reads the record no more.
    async fn end(self) {
        self.stop.cancel();
        let _ = self.task.await;
        self.review.close().await;
    }
}

impl Running {
    /// Opens what is stored, makes certificates where there are none, and serves. No upstream is
    /// asked for anything.
    pub async fn start(settings: &Gateway, options: Options) -> Result<Self, StartError> {
        let Options { clock, resolver, proxy_from_environment, poll, first_header, sinks: timing } = options;
        let mut metrics = Metrics::new();
        let clients = settings.client_names();
        let watching = |file: &PathBuf| watch::watch(vec![file.clone()], poll);
        let watch_policy = watching(&settings.policy.file);
        let watch_shadow = settings.policy.shadow.as_ref().map(watching);
        let policy = policy::load_for(&settings.policy.file, &clients)?;
        warn_of_exceptions(&policy, clock.now());
        let tls = &settings.listen.tls;
        let certificates = Certificates::load_or_create(
            CertificateSettings {
                certificate: tls.certificate.clone(),
                key: tls.key.clone(),
                ca: tls.ca.clone(),
                hosts: settings.listen.hosts.clone(),
            },
            &clock,
        )
        .map_err(StartError::usage)?;
        // Together with those that may have been made just now, and before the client CA is read.
        let files = certificates.files().into_iter().chain(settings.listen.client_ca.clone());
        let watches = Watches {
            policy: watch_policy,
            shadow: watch_shadow,
            certificates: watch::watch(files.collect(), poll),
            admin: settings.admin.tls.as_ref().map(|tls| {
                let files = [&tls.certificate, &tls.key].into_iter().chain(&tls.client_ca);
                watch::watch(files.cloned().collect(), poll)
            }),
        };
        let listener = served(certificates, settings.listen.client_ca.as_ref())?;
        let admin_listener = match &settings.admin.tls {
            None => None,
            Some(tls) => {
                let certificates = Certificates::load(tls.certificate.clone(), tls.key.clone(), &clock);
                Some(served(certificates.map_err(StartError::usage)?, tls.client_ca.as_ref())?)
            }
        };
        let tls = listener.tls.clone();
        let admin_tls = admin_listener.as_ref().map(|listener| listener.tls.clone());

        let folder = &settings.storage.path;
        let storage = content::Settings { path: folder.join("content"), max_size: settings.storage.max_size };
        let store = Store::open(storage).map_err(StartError::internal)?;
        let quota = catalog::quota(settings.storage.max_size);
        let catalog = Catalog::open(folder, quota, clock.clone()).await.map_err(StartError::internal)?;
        let keeping = Keeping { checkpoint: settings.audit.checkpoint, max_age: settings.audit.max_age };
        let log = Log::open_keeping(audit_settings(settings), keeping, clock.clone())
            .await
            .map_err(StartError::internal)?;
        tracing::info!(key = %log.key(), "the record is signed: keep this key where the log is not");
        // Pulls and the record go on without it.
        let review = Review::open(folder, clock.clone()).await;
        if let Err(error) = &review {
            tracing::error!(%error, "the review pages stay empty");
        }
        let judge: Arc<dyn Judge> = Arc::new(FileJudge::new(settings, catalog.clone()));
        let upstreams =
            Upstreams::new(upstream_settings(settings, resolver, proxy_from_environment), clock.clone())
                .map_err(StartError::usage)?;
        let upstreams = Arc::new(upstreams);
        let (puller, sightings) = Puller::new(
            pull::Settings {
                tag_ttl: limited(settings.cache.tag_ttl).unwrap_or(Duration::MAX),
                stale_if_error: limited(settings.cache.stale_if_error),
            },
            catalog.clone(),
            store.clone(),
            upstreams.clone(),
            clock.clone(),
        );
        let identity = Arc::new(Identity::new(identity_settings(settings)));
        let make_rules = {
            let (registry, declared) = (settings.default_registry.clone(), upstreams.registries());
            move |policy| Rules::new(policy, identity.clone(), registry.clone(), declared.clone())
        };
        let gate = Gate::new(
            make_rules(policy),
            rate_settings(settings),
            puller.clone(),
            catalog.clone(),
            log.clone(),
            clock.clone(),
            &mut metrics,
        );
        store.register(&mut metrics);
        log.register(&mut metrics);
        upstreams.register(&mut metrics);
        let sinks = sink_settings(settings, proxy_from_environment);
        let sinks = Sinks::start(sinks, folder, &log, &clock, &timing).await.map_err(StartError::usage)?;
        let alerts =
            Alerts::start(alert_settings(settings), folder, &log).await.map_err(StartError::usage)?;
        alerts.register(&mut metrics);
        let called = alerts.watcher();
        let has_alerts = !settings.alerts.is_empty();
        let carried = sinks.watcher();
        carried.register(&mut metrics);
        let connections = Connections::register(&mut metrics);
        let status = Status::register(&mut metrics);

        let socket = bind(settings.listen.address, "[listen] address").await?;
        let admin_socket = bind(settings.admin.address, "[admin] address").await?;
        let address = socket.local_addr().map_err(StartError::internal)?;
        let admin_address = admin_socket.local_addr().map_err(StartError::internal)?;
        // Whoever has the store's lock may replace what a former gateway left there.
        let control = Control::bind(folder).map_err(StartError::usage)?;
        record_policy(&gate, &log).await?;
        let control = control.serve(catalog.clone(), log.clone());

        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let shadow = settings.policy.shadow.clone();
        if let Some(file) = &shadow {
            try_out(file, &clients, &gate);
        }
        let watched = Watched {
            shadow,
            policy_file: settings.policy.file.clone(),
            clients,
            listener,
            admin: admin_listener,
            clock: clock.clone(),
        };
        let reloading =
            Reloading::start(watched, gate.clone(), Box::new(make_rules), &status, watches, &stop);
        let probe = Arc::new({
            let (log, store, upstreams, review) =
                (log.clone(), store.clone(), upstreams.clone(), review.clone());
            move || {
                let mut conditions = conditions(&status, &log, &store, &upstreams);
                conditions.push(review_condition(&review));
                conditions.extend(carried.status().into_iter().map(sink_condition));
                conditions.extend(has_alerts.then(|| alert_condition(called())));
                conditions
            }
        });
        let console = Console::new(console::Sources {
            gate: gate.clone(),
            log: log.clone(),
            reader: audit::Reader::open(folder).await.map_err(StartError::internal)?,
            catalog: catalog.clone(),
            review: review.clone(),
            judge: judge.clone(),
            conditions: Arc::new({
                let probe = probe.clone();
                let shown = |Condition { name, ok, detail, .. }| console::Condition { name, ok, detail };
                move || probe().into_iter().map(shown).collect()
            }),
            upstreams: Arc::new(move || upstreams.health().into_iter().map(console_upstream).collect()),
            clock: clock.clone(),
        });
        let access = access_settings(settings, admin_address);
        let desk = (console.clone(), access, log.clone(), clock.clone());
        let admin = Admin::new(Arc::new(metrics), gate.clone(), move || probe(), desk)
            .map_err(StartError::internal)?;
        let terms = Terms {
            limits: limits(settings),
            trusted_proxies: settings.listen.trusted_proxies.clone(),
            connections,
            clock: clock.clone(),
        };
        // Its own counts are nobody's business, and nobody speaks for others there.
        let admin_terms =
            Terms { trusted_proxies: Vec::new(), connections: Connections::default(), ..terms.clone() };
        let drain = terms.limits.drain;
        let door = Door::new(gate.clone(), puller.clone(), manners(settings), first_header, clock);
        let pulls = tokio::spawn(server::serve_pulls(socket, tls, door, terms, stop.clone()));
        // Load balancers must be able to ask while the pulls are drained.
        let health = tokio::spawn(server::serve_admin(
            admin_socket,
            admin_tls,
            admin.clone(),
            admin_terms,
            end.clone(),
        ));
        let expiries = tokio::spawn(gate.clone().record_expiries(poll, end.clone()));
        let keeper =
            tokio::spawn(gate::record_sightings(sightings, catalog.clone(), log.clone(), end.clone()));
        let reviewing = review.ok().map(|review| Reviewing::start(review, log.clone()));
        Ok(Self {
            address,
            admin_address,
            gate,
            log,
            catalog,
            store,
            puller,
            drain,
            admin,
            console,
            reloading,
            stop,
            end,
            pulls,
            health,
            keeper,
            expiries,
            control,
            reviewing,
            judge,
            sinks,
            alerts,
        })
    }

    /// Where pulls are served.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `/readyz` and `/metrics` are served.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// The policy in force, as `name revision`.
    pub fn policy(&self) -> String {
        let rules = self.gate.rules();
        format!("{} {}", rules.policy().name(), rules.policy().revision())
    }

    /// Reads the policy and the certificates again, changed or not.
    pub fn reload(&self) {
        self.reloading.force();
    }

    /// What the review pages show; none when its database could not be opened.
    pub fn review(&self) -> Option<&Review> {
        self.reviewing.as_ref().map(|reviewing| &reviewing.review)
    }

    /// What reads the policy file for the review pages.
    pub fn judge(&self) -> &Arc<dyn Judge> {
        &self.judge
    }

    /// Writes what the record still holds in memory.
    pub async fn flush_log(&self) -> Result<(), audit::Error> {
        self.log.flush().await
    }

    /// Says no to load balancers, finishes replies and blobs under way as long as the drain lasts, ends
    /// what nobody waits for, closes the record. On return nothing of this gateway writes to its data
    /// folder any more, and another may start on it.
    pub async fn stop(self) {
        let deadline = Instant::now() + self.drain;
        self.admin.drain();
        self.control.close().await;
        self.stop.cancel();
        let _ = self.pulls.await;
        self.store.close(deadline).await;
        self.puller.close().await;
        self.reloading.ended().await;
        // What was noticed until now is still put on record.
        self.end.cancel();
        let _ = self.health.await;
        self.console.close().await;
        let _ = self.keeper.await;
        if let Some(reviewing) = self.reviewing {
            reviewing.end().await;
        }
        let _ = self.expiries.await;
        self.catalog.close().await;
        // They read from the log: what they have not delivered is on record for the next start.
        self.alerts.stop().await;
        self.sinks.stop().await;
        self.log.close().await;
    }
}

/// What a listener serves with: this certificate, and the CA of its clients.
fn served(certificates: Arc<Certificates>, client_ca: Option<&PathBuf>) -> Result<Served, StartError> {
    let client_ca = match client_ca {
        None => None,
        Some(file) => Some((file.clone(), ClientCa::load(file).map_err(StartError::usage)?)),
    };
    let config = server_config(certificates.clone(), client_ca.as_ref().map(|(_, ca)| ca));
    let tls = Arc::new(Tls::new(config.map_err(StartError::usage)?));
    Ok(Served { certificates, client_ca, tls })
}

fn access_settings(settings: &Gateway, address: SocketAddr) -> server::AccessSettings {
    let user = |user: &file::AdminUser| server::UserSettings {
        name: user.name.as_str().into(),
        role: match user.role {
            file::Role::Reviewer => console::Role::Reviewer,
            file::Role::Viewer => console::Role::Viewer,
        },
        tokens: user.tokens.clone(),
        certificates: user.certificates.clone(),
    };
    server::AccessSettings {
        address,
        hosts: settings.admin.hosts.clone(),
        tls: settings.admin.tls.is_some(),
        users: settings.admin.users.iter().map(user).collect(),
    }
}

fn console_upstream(health: upstream::Health) -> console::Upstream {
    let failure = health.failure().map(ToString::to_string);
    console::Upstream {
        registry: health.registry.to_string(),
        endpoint: health.endpoint,
        declared: health.declared,
        failure,
        last_success: health.last_success,
        last_failure: health.last_failure.map(|(at, _)| at),
        resting_until: health.resting_until,
        throttled_until: health.throttled_until,
        remaining: health.rate_limit.and_then(|limit| limit.remaining),
        limit: health.rate_limit.and_then(|limit| limit.limit),
        requests: health.requests,
        denied: health.denied,
    }
}

async fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Listen { address, key, error })
}

fn limited(lifetime: Lifetime) -> Option<Duration> {
    match lifetime {
        Lifetime::Forever => None,
        Lifetime::Limited(duration) => Some(duration),
    }
}

pub(in crate::cli) fn audit_settings(settings: &Gateway) -> audit::Settings {
    let rate = settings.limits.refusals;
    let per_minute = u64::from(rate.count) * 60 / rate.per.as_secs().max(1);
    audit::Settings {
        path: settings.storage.path.clone(),
        max_size: settings.audit.max_size,
        on_full: match settings.audit.on_full {
            file::OnFull::Refuse => audit::OnFull::Refuse,
            file::OnFull::Serve => audit::OnFull::Serve,
        },
        refusals_per_minute: u32::try_from(per_minute).unwrap_or(u32::MAX),
    }
}

fn sink_settings(settings: &Gateway, proxied: bool) -> Vec<sink::Settings> {
    let target = |target: &file::SinkTarget| match target.clone() {
        file::SinkTarget::File { path, max_size, keep } => sink::Target::File { path, max_size, keep },
        file::SinkTarget::Syslog { host, port, tls, ca } => sink::Target::Syslog { host, port, tls, ca },
        file::SinkTarget::Webhook { url, secret_file, ca, batch } => sink::Target::Webhook {
            url,
            secret_file,
            ca,
            batch: usize::try_from(batch).unwrap_or(usize::MAX),
            proxied,
        },
    };
    let wanted = |wanted: &file::SinkEvents| match wanted {
        file::SinkEvents::All => sink::Wanted::All,
        file::SinkEvents::Blocked => sink::Wanted::Blocked,
        file::SinkEvents::Kind(kind) => sink::Wanted::Kind(*kind),
    };
    let sink = |one: &file::Sink| sink::Settings {
        name: one.name.clone(),
        target: target(&one.target),
        format: match one.format {
            file::SinkFormat::Ecs => sink::Format::Ecs,
            file::SinkFormat::Native => sink::Format::Native,
            file::SinkFormat::Ocsf => sink::Format::Ocsf,
            file::SinkFormat::Slack => sink::Format::Slack,
        },
        events: one.events.iter().map(wanted).collect(),
        from: match one.from {
            file::SinkFrom::Now => sink::Start::Now,
            file::SinkFrom::Start => sink::Start::Beginning,
        },
    };
    settings.sinks.iter().map(sink).collect()
}

fn alert_settings(settings: &Gateway) -> Vec<alert::Settings> {
    let when = |when: &file::AlertWhen| match when.clone() {
        file::AlertWhen::Drift => alert::When::Drift,
        file::AlertWhen::FirstRegistry => alert::When::FirstRegistry,
        file::AlertWhen::Recalled => alert::When::Recalled,
        file::AlertWhen::Refusals { reason, client, registry, more_than, within } => alert::When::Refusals {
            reason,
            client,
            registry: registry.map(|registry| registry.to_string()),
            more_than: more_than.into(),
            within,
        },
        file::AlertWhen::Upstream => alert::When::Upstream,
    };
    let alert = |one: &file::Alert| alert::Settings {
        name: one.name.clone(),
        when: when(&one.when),
        quiet: one.quiet,
    };
    settings.alerts.iter().map(alert).collect()
}

fn alert_condition(trouble: Option<String>) -> Condition {
    Condition {
        name: "alerts".to_owned(),
        ok: trouble.is_none(),
        required: false,
        detail: trouble.unwrap_or_else(|| "the record is watched".to_owned()),
    }
}

fn sink_condition(status: sink::Status) -> Condition {
    Condition {
        name: format!("sink {}", status.name),
        ok: status.trouble.is_none(),
        required: false,
        detail: match status.trouble {
            Some(trouble) => format!("{} events behind: {trouble}", status.behind),
            None => format!("{} events delivered, {} behind", status.delivered, status.behind),
        },
    }
}

fn rate_settings(settings: &Gateway) -> gate::RateSettings {
    let rate = |rate: file::Rate| gate::Rate { count: rate.count, per: rate.per };
    // Of several tables of one name the first that says so: later ones are entered before.
    let named = settings.clients.iter().rev().filter_map(|client| {
        let name: Arc<str> = client.name.as_str().into();
        Some((name, rate(client.rate?)))
    });
    gate::RateSettings { each: settings.limits.requests.map(rate), named: named.collect() }
}

fn identity_settings(settings: &Gateway) -> IdentitySettings {
    let client = |client: &file::Client| ClientSettings {
        name: client.name.as_str().into(),
        ranges: client.ranges.clone(),
        certificates: client.certificates.clone(),
        tokens: client.tokens.clone(),
    };
    IdentitySettings {
        clients: settings.clients.iter().map(client).collect(),
        trusted_proxies: settings.listen.trusted_proxies.clone(),
    }
}

fn upstream_settings(
    settings: &Gateway,
    resolver: Resolver,
    proxy_from_environment: bool,
) -> upstream::Settings {
    upstream::Settings {
        upstreams: settings.upstreams.iter().filter_map(upstream_of).collect(),
        sealed: settings.sealed,
        resolver,
        proxy_from_environment,
    }
}

fn upstream_of(upstream: &file::Upstream) -> Option<upstream::UpstreamSettings> {
    let url = match &upstream.origin {
        file::Origin::Layout(folder) => {
            let source = upstream::SourceSettings::Layout(folder.clone());
            return Some(upstream::UpstreamSettings { registry: upstream.registry.clone(), source });
        }
        file::Origin::Endpoint(url) => url.clone(),
        file::Origin::Registry => upstream::default_endpoint(&upstream.registry)?,
    };
    let secret = |from: &file::SecretFrom| match from {
        file::SecretFrom::Env(name) => upstream::Secret::Env(name.clone()),
        file::SecretFrom::File(path) => upstream::Secret::File(path.clone()),
    };
    let auth = upstream.auth.as_ref().map(|auth| match auth {
        file::Auth::DockerConfig(path) => upstream::Auth::DockerConfig(path.clone()),
        file::Auth::IdentityTokenFile(path) => upstream::Auth::Token(upstream::Secret::File(path.clone())),
        file::Auth::Password { username, password } => {
            upstream::Auth::Basic { username: username.clone(), password: secret(password) }
        }
    });
    let endpoint = upstream::EndpointSettings {
        url,
        ca: upstream.ca.clone().map(upstream::Ca::File),
        auth,
        auth_hosts: upstream.auth_hosts.clone(),
        blob_hosts: upstream.blob_hosts.clone().unwrap_or_default(),
    };
    let source = upstream::SourceSettings::Endpoint(endpoint);
    Some(upstream::UpstreamSettings { registry: upstream.registry.clone(), source })
}

fn manners(settings: &Gateway) -> Manners {
    let manner = |firmness| match firmness {
        file::Firmness::Firm => Manner::Firm,
        file::Firmness::Plain => Manner::Plain,
    };
    let deny = &settings.deny;
    Manners { bare: manner(deny.bare), ns: manner(deny.ns), prefix: manner(deny.prefix) }
}

fn limits(settings: &Gateway) -> server::Limits {
    let limits = &settings.limits;
    server::Limits {
        connections: usize::try_from(limits.connections).unwrap_or(usize::MAX),
        connections_per_address: usize::try_from(limits.connections_per_address).unwrap_or(usize::MAX),
        drain: limits.drain,
        handshake: limits.handshake,
        header_bytes: usize::try_from(limits.header_bytes).unwrap_or(usize::MAX),
        header_timeout: limits.header_timeout,
        idle_timeout: limits.idle_timeout,
    }
}

fn conditions(status: &Status, log: &Log, store: &Store, upstreams: &Upstreams) -> Vec<Condition> {
    let mut conditions = status.conditions();
    let audit = log.status();
    conditions.push(Condition {
        name: "audit".to_owned(),
        ok: !audit.full && audit.last_error.is_none(),
        required: false,
        detail: audit
            .last_error
            .map_or_else(|| format!("{} of {} bytes used", audit.used, audit.max), |error| error.to_string()),
    });
    let stats = store.stats();
    conditions.push(Condition {
        name: "storage".to_owned(),
        ok: true,
        required: false,
        detail: format!("{} blobs, {} bytes", stats.blobs, stats.bytes),
    });
    conditions.extend(upstreams.health().into_iter().map(|health| {
        let failure = health.failure();
        Condition {
            name: format!("upstream {}", health.registry),
            ok: failure.is_none(),
            required: false,
            detail: failure.map_or_else(|| health.endpoint.clone(), ToString::to_string),
        }
    }));
    conditions
}

fn review_condition(review: &Result<Review, crate::review::Error>) -> Condition {
    let (ok, detail) = match review {
        Err(error) => (false, error.to_string()),
        Ok(review) => match review.status() {
            crate::review::Status { last_error: Some(error), .. } => (false, error.to_string()),
            status if status.behind => (true, format!("being made anew, at event {}", status.seq)),
            status => (true, format!("up to date with event {}", status.seq)),
        },
    };
    Condition { name: "review".to_owned(), ok, required: false, detail }
}

/// Puts the policy in force on record. A log that is full makes room first; one that cannot is no reason to
/// turn every pull away: `/readyz` and the metrics say that it is full.
async fn record_policy(gate: &Gate, log: &Log) -> Result<(), StartError> {
    let outcome = match gate.record_policy(None, Vec::new()).await {
        Err(audit::Error::Full { .. }) => {
            let _ = log.tick().await;
            gate.record_policy(None, Vec::new()).await
        }
        other => other,
    };
    match outcome {
        Err(error @ audit::Error::Full { .. }) => {
            tracing::error!(%error, "the policy in force could not be recorded; raise [audit] max_size");
            Ok(())
        }
        other => other.map_err(StartError::internal),
    }
}
