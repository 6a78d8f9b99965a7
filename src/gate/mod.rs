//! The use case: decide, gather, decide again, put on record, let pass.
//!
//! It knows no HTTP. A caller that is let in holds a [`Pass`]; whoever is not gets a [`Turned`] that
//! says why, and a refusal among them is on disk before anybody hears of it.

mod announced;
mod history;
mod pins;
mod rates;
mod recalled;
mod refused;
mod remedy;
mod rules;
mod seen;
mod shadow;
mod sightings;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use moka::sync::Cache;

use crate::audit::{self, Draft, Event, Http, Judged, Judgement, Log, PolicyStamp, Receipt, Sentence};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::identity::{Caller, Class};
use crate::oci::{Ask, Digest, Fault, Name, RequestError, What};
use crate::policy::{
    Code, Decision, Facts, Known, Outcome, Permit, Policy, Reason, Refusal, Target, Trace, Verdict,
};
use crate::pull::Puller;
use crate::telemetry::Metrics;

pub use crate::catalog::Error as CatalogError;
pub use history::Release;
pub use pins::{PinError, change_locks};
pub use rates::{Rate, RateSettings};
pub use recalled::{Pulls, RecallReport, ReportError, recall_report};
pub use refused::Refused;
pub use rules::Rules;
pub use sightings::record_sightings;

use rates::Rates;
use rules::Decisions;

/// Turns of decide and gather before an ask is given up: each fills in one more fact, and there are
/// fewer facts than turns.
const TURNS: usize = 14;
/// Bytes of decisions kept, about; one for each thing that callers of one class ask for.
const MEMO: u64 = 256 << 20;
/// So many uses of exceptions are known to be on record.
const USES: u64 = 100_000;
/// How long a decision about a tag is kept while the upstream does not answer for it.
const MEMO_UNASKED: Duration = Duration::from_secs(30);

/// The gate. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Gate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: ArcSwap<Rules>,
    rates: Rates,
    shadow: ArcSwapOption<Policy>,
    puller: Puller,
    catalog: Catalog,
    log: Log,
    clock: Clock,
    decisions: Decisions,
    /// Held while the record is told of exceptions and recalls.
    announcing: tokio::sync::Mutex<()>,
    /// Uses of exceptions that are on record.
    uses: Cache<announced::Use, ()>,
    memo: Cache<(Ask, Class), Arc<Memo>, foldhash::quality::RandomState>,
}

/// A permit that was given before, and under which circumstances it holds.
#[derive(Debug)]
struct Memo {
    permit: Arc<Permit>,
    judged: Arc<Judged>,
    counter: prometheus_client::metrics::counter::Counter,
    /// The rules' generation.
    generation: u64,
    /// The repository's facts, and their version before they were gathered.
    version: Arc<AtomicU64>,
    seen: u64,
    until: Option<Timestamp>,
}

impl Memo {
    /// About what it holds in memory: a manifest that was read is several times its bytes.
    fn weight(&self) -> u32 {
        let manifest = match self.permit.target() {
            Target::Manifest(manifest) => manifest.size.saturating_mul(4),
            Target::Blob { .. } | Target::Referrers(_) | Target::Tags => 0,
        };
        u32::try_from(manifest.saturating_add(1024)).unwrap_or(u32::MAX)
    }

    fn holds(&self, generation: u64, now: Timestamp) -> bool {
        self.generation == generation
            && self.version.load(Ordering::Acquire) == self.seen
            && self.until.is_none_or(|until| now < until)
    }
}

/// Leave to serve, and the receipt that settles the record of it.
#[derive(Debug)]
pub struct Pass {
    permit: Arc<Permit>,
    receipt: Receipt,
}

impl Pass {
    /// What may be served.
    pub fn permit(&self) -> &Permit {
        &self.permit
    }

    /// Where what was served is noted.
    pub fn receipt(&mut self) -> &mut Receipt {
        &mut self.receipt
    }

    /// The receipt, to ride along with the body; dropping it settles the record.
    pub fn into_receipt(self) -> Receipt {
        self.receipt
    }
}

/// Why a caller is not let in.
#[derive(Debug)]
pub enum Turned {
    /// No rule was broken: the content cannot be had.
    Failed(Fault),
    /// The policy refuses, and that is on record.
    Refused(Arc<Refused>),
    /// The record cannot be written: a refusal stays one, and an allowed pull is refused too where
    /// `[audit] on_full` says so. 503.
    Unrecorded(audit::Error),
}

impl Gate {
    /// A gate under these rules, which clients may knock at so often.
    pub fn new(
        rules: Rules,
        rates: RateSettings,
        puller: Puller,
        catalog: Catalog,
        log: Log,
        clock: Clock,
        metrics: &mut Metrics,
    ) -> Self {
        Self(Arc::new(Inner {
            rules: ArcSwap::from_pointee(rules),
            rates: Rates::new(rates),
            shadow: ArcSwapOption::empty(),
            puller,
            catalog,
            log,
            clock,
            decisions: Decisions::register(metrics),
            announcing: tokio::sync::Mutex::default(),
            uses: Cache::new(USES),
            memo: Cache::builder()
                .max_capacity(MEMO)
                .weigher(|_, memo: &Arc<Memo>| memo.weight())
                // Only what was permitted is a key: nobody can fill it with names made to collide.
                .build_with_hasher(foldhash::quality::RandomState::default()),
        }))
    }

    /// The rules in force.
    pub fn rules(&self) -> Arc<Rules> {
        self.0.rules.load_full()
    }

    /// Looks into the rules in force without taking a share of them, for what runs once a request.
    pub fn with_rules<T>(&self, look: impl FnOnce(&Rules) -> T) -> T {
        look(&self.0.rules.load())
    }

    /// Puts new rules in force from the next turn of any decision on.
    pub fn adopt(&self, rules: Rules) {
        let generation = self.0.rules.load().generation() + 1;
        self.0.rules.store(Arc::new(rules.with_generation(generation)));
        self.0.puller.forget_unseen();
        self.0.memo.invalidate_all();
    }

    /// Counts a request of this client. The answer is how long it has to wait, where it is one too many:
    /// then [`Gate::slow_down`] says so.
    pub fn wait(&self, caller: &Caller) -> Option<Duration> {
        let rates = &self.0.rates;
        // The clock is read once less on the path of every pull where nothing is limited.
        rates.are_set().then(|| rates.wait(caller, self.0.clock.now())).flatten()
    }

    /// The permit given before under the same rules and facts, renewed without waiting for anything;
    /// `None` when there is none and the ask has to be decided ([`Gate::admit`]).
    pub fn renew(&self, caller: &Caller, ask: &Ask, http: Http<'_>) -> Option<Result<Pass, Turned>> {
        let inner = &self.0;
        let memo = inner.memo.get(&(ask.clone(), caller.class.clone()))?;
        if !memo.holds(inner.rules.load().generation(), inner.clock.now()) {
            return None;
        }
        memo.counter.inc();
        let receipt = inner.log.allowed(Draft { caller, judged: &memo.judged, http });
        Some(match receipt {
            Ok(receipt) => Ok(Pass { permit: memo.permit.clone(), receipt }),
            Err(error) => Err(Turned::Unrecorded(error)),
        })
    }

    /// May this caller have this? Facts are gathered as decisions ask for them; what was permitted
    /// before under the same rules and facts is permitted at once.
    pub async fn admit(&self, caller: &Caller, ask: &Ask, http: Http<'_>) -> Result<Pass, Turned> {
        if let Some(renewed) = self.renew(caller, ask, http) {
            return renewed;
        }
        let inner = &self.0;
        let key = (ask.clone(), caller.class.clone());
        let version = inner.catalog.version(&ask.name);
        let mut seen = version.load(Ordering::Acquire);
        let mut facts = Facts::default();
        for _ in 0..TURNS {
            let rules = inner.rules.load_full();
            let Decision { outcome, verdict, softened, trace, until } =
                rules.policy().decide(caller, ask, &facts, inner.clock.now());
            match outcome {
                Outcome::Fail(fault) => return Err(Turned::Failed(fault)),
                Outcome::Need(need) => inner.puller.gather(ask, &need, &mut facts).await,
                Outcome::Permit(permit) => {
                    if !(self.bind(ask, &permit).await? && self.lock(&permit, &facts).await?) {
                        // Somebody else's first pull led the tag elsewhere meanwhile.
                        facts = Facts::default();
                        seen = version.load(Ordering::Acquire);
                        continue;
                    }
                    let mut judgement = judgement(&rules, ask, (verdict, softened), trace, &permit, &facts);
                    judgement.shadow = self.shadow(caller, ask, &facts, true).await;
                    if let What::Digest(digest) = &ask.what {
                        judgement.image.roots.extend(self.ancestors(&ask.name, digest).await);
                    }
                    if inner.rules.load().generation() != rules.generation() {
                        // A recall that came meanwhile is in force already.
                        facts = Facts::default();
                        continue;
                    }
                    let judged = Judged::new(judgement);
                    let counter = inner.decisions.counter(judged.judgement());
                    counter.inc();
                    let receipt = inner
                        .log
                        .allowed(Draft { caller, judged: &judged, http })
                        .map_err(Turned::Unrecorded)?;
                    self.record_uses(ask, judged.judgement(), rules.policy(), receipt.id()).await;
                    let until = match announced::meets_exceptions(&judged.judgement().trace) {
                        true => until.into_iter().chain(announced::tomorrow(inner.clock.now())).min(),
                        false => until,
                    };
                    let permit = Arc::new(permit);
                    let memo = Memo {
                        permit: permit.clone(),
                        judged,
                        counter,
                        generation: rules.generation(),
                        version,
                        seen,
                        until: self.until(ask, until).await,
                    };
                    inner.memo.insert(key, Arc::new(memo));
                    return Ok(Pass { permit, receipt });
                }
                Outcome::Refuse(refusal) => {
                    return Err(self
                        .refuse(caller, Some((ask, &facts)), &refusal, verdict, trace, http, &rules)
                        .await);
                }
            }
        }
        Err(Turned::Failed(Fault::Storage(
            format!("{}: no decision after {TURNS} turns; this is a defect of pullgate", ask.reference())
                .into(),
        )))
    }

    /// Puts on record that a request could not even be read, and says what the client is told.
    pub async fn turn_away(&self, caller: &Caller, error: &RequestError, http: Http<'_>) -> Turned {
        let code = match error {
            RequestError::Conflict(_) => Code::NameConflict,
            RequestError::Method(_) => Code::MethodUnsupported,
            RequestError::Digest(_)
            | RequestError::Name(_)
            | RequestError::Tag(_)
            | RequestError::Unknown(_) => Code::NameInvalid,
        };
        let reason = Reason { code, text: error.to_string(), remedy: None };
        let refusal = Refusal { code, reasons: vec![reason], fault: None, until: None };
        let rules = self.rules();
        let trace = Arc::new(Trace::default());
        self.refuse(caller, None, &refusal, Verdict::Deny, trace, http, &rules).await
    }

    /// Puts on record that a client asks too often, and says when it may come again.
    pub async fn slow_down(&self, caller: &Caller, ask: &Ask, http: Http<'_>, wait: Duration) -> Turned {
        let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1);
        let reason = Reason {
            code: Code::ClientRate,
            text: "you ask more often than this gateway allows".to_owned(),
            // The same words each time, so that the refusals of one reference fold.
            remedy: Some("wait as long as Retry-After says".to_owned()),
        };
        let refusal = Refusal { code: Code::ClientRate, reasons: vec![reason], fault: None, until: None };
        let rules = self.rules();
        let trace = Arc::new(Trace::default());
        let facts = Facts::default();
        let asked = Some((ask, &facts));
        match self.refuse(caller, asked, &refusal, Verdict::Deny, trace, http, &rules).await {
            Turned::Refused(refused) => Turned::Refused(Arc::new(refused.again_in(seconds))),
            turned => turned,
        }
    }

    /// Reads the record, beside its writer.
    pub fn record(&self) -> &audit::Reader {
        self.0.log.reader()
    }

    /// Puts on record that a policy file was refused, and why; the former policy goes on.
    pub async fn record_refused_policy(&self, error: &str) -> Result<(), audit::Error> {
        let policy = PolicyStamp::clone(self.rules().stamp());
        self.0.log.record(Event::PolicyRefused { policy, error: error.to_owned() }).await.map(|_| ())
    }

    /// What leads to a digest as far as is known here: where any digest is allowed nobody asked, yet
    /// the children of an index are on record with it, as one pull.
    async fn ancestors(&self, name: &Name, digest: &Digest) -> Vec<Digest> {
        let ancestors = self.0.catalog.lineage(name, digest).await.unwrap_or_default();
        ancestors.into_iter().map(|ancestor| ancestor.digest).filter(|ancestor| ancestor != digest).collect()
    }

    /// Whether the exceptions that a permit uses are for what is about to be served, now that they are
    /// bound to it.
    async fn bind(&self, ask: &Ask, permit: &Permit) -> Result<bool, Turned> {
        match &ask.what {
            What::Tag(tag) if !permit.binds().is_empty() => {
                self.0.puller.bind(permit, tag).await.map_err(Turned::Failed)
            }
            _ => Ok(true),
        }
    }

    /// Whether the tag of a permit leads to what is about to be served, now that it is locked.
    async fn lock(&self, permit: &Permit, facts: &Facts) -> Result<bool, Turned> {
        let (Some(tag), Target::Manifest(manifest)) = (permit.lock(), permit.target()) else {
            return Ok(true);
        };
        let follows = matches!(&facts.tag, Known::Is(fact) if fact.lock.is_some());
        let locked = self.0.puller.lock(permit, tag, follows).await.map_err(Turned::Failed)?;
        Ok(locked == manifest.digest)
    }

    #[expect(clippy::too_many_arguments, reason = "what is put on record together")]
    async fn refuse(
        &self,
        caller: &Caller,
        asked: Option<(&Ask, &Facts)>,
        refusal: &Refusal,
        verdict: Verdict,
        trace: Arc<Trace>,
        http: Http<'_>,
        rules: &Rules,
    ) -> Turned {
        let inner = &self.0;
        let status = refused::status(refusal);
        let http = Http { status: Some(status), ..http };
        let image = asked.map_or_else(
            || audit::Image::unreadable(http.path),
            |(ask, facts)| seen::image(ask, facts, rules),
        );
        let reference = image.reference.clone();
        // Who asks too often is not answered by judging, nor by another image.
        let remedy = match refusal.code {
            Code::ClientRate => None,
            _ => self.remedy(caller, asked, refusal, rules).await,
        };
        let shadow = match asked {
            Some((ask, facts)) if refusal.code != Code::ClientRate => {
                self.shadow(caller, ask, facts, false).await
            }
            _ => None,
        };
        let judged = Judged::new(Judgement {
            verdict,
            enforced: true,
            reasons: refusal.reasons.clone(),
            policy: rules.stamp().clone(),
            trace,
            image,
            shadow,
        });
        inner.decisions.counter(judged.judgement()).inc();
        let draft = Draft { caller, judged: &judged, http };
        let help = rules.policy().help();
        let sentence = |id: &ulid::Ulid| {
            let id = id.to_string();
            Sentence {
                message: refusal.sentence(&id, &reference, remedy.as_deref(), help),
                phrase: refusal.phrase(&id, &reference),
            }
        };
        let recorded = inner.log.refused(draft, sentence).await;
        if let (Ok(recorded), Some((ask, _))) = (&recorded, asked) {
            self.record_uses(ask, judged.judgement(), rules.policy(), recorded.id).await;
        }
        match recorded {
            Ok(recorded) => Turned::Refused(Arc::new(Refused::new(recorded, refusal, status))),
            Err(error) => Turned::Unrecorded(error),
        }
    }

    /// Until when a permit may be renewed without asking again: a tag's, as long as the upstream's
    /// word on it is fresh.
    async fn until(&self, ask: &Ask, until: Option<Timestamp>) -> Option<Timestamp> {
        let What::Tag(tag) = &ask.what else { return until };
        let now = self.0.clock.now();
        let fresh = match self.0.puller.fresh_until(&ask.name, tag).await {
            Some(fresh) if fresh > now => fresh,
            _ => now.checked_add(MEMO_UNASKED.min(self.0.puller.tag_ttl())).unwrap_or(now),
        };
        Some(until.map_or(fresh, |until| until.min(fresh)))
    }
}

fn judgement(
    rules: &Rules,
    ask: &Ask,
    (verdict, reasons): (Verdict, Vec<Reason>),
    trace: Arc<Trace>,
    permit: &Permit,
    facts: &Facts,
) -> Judgement {
    let mut image = seen::image(ask, facts, rules);
    match permit.target() {
        Target::Blob { digest, size } => {
            image.digest = Some(*digest);
            image.size = Some(*size);
        }
        Target::Manifest(manifest) => {
            image.digest = Some(manifest.digest);
            image.size = Some(manifest.size);
            image.media_type = Some(manifest.media_type.as_str().into());
            if !image.roots.contains(&manifest.digest) {
                image.roots.insert(0, manifest.digest);
            }
        }
        Target::Referrers(digest) => image.digest = Some(*digest),
        Target::Tags => {}
    }
    seen::describe(&mut image, facts);
    Judgement {
        verdict,
        enforced: verdict != Verdict::Warn,
        reasons,
        policy: rules.stamp().clone(),
        trace,
        image,
        shadow: None,
    }
}
