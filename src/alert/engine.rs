//! The task: follow the record, ask each rule, record what they say.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use ulid::Ulid;

use super::event::{Met, repeated, text};
use super::rule::State;
use super::{Counts, Error, Labels, Settings, Trouble};
use crate::audit::{Event, Log, Written};
use crate::sink::{Place, checked, last, replace};

/// The state is saved at least once in so many events.
const UNSAVED: i64 = 1024;
/// So many decisions are remembered for the repeats of them.
const DECISIONS: usize = 1024;
/// Before it is tried again.
const WAIT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
struct Kept {
    place: Place,
    rules: BTreeMap<String, State>,
}

#[derive(Debug)]
pub(super) struct Engine {
    settings: Vec<Settings>,
    path: PathBuf,
    log: Log,
    counts: Counts,
    trouble: Trouble,
    kept: Kept,
    saved: Kept,
    /// Rule and event of the alerts on record behind the place that was saved: a crash came between
    /// recording them and saving.
    recorded: HashSet<(String, String, String)>,
    decisions: HashMap<String, Met>,
}

impl Engine {
    pub(super) async fn open(
        settings: Vec<Settings>,
        path: PathBuf,
        log: Log,
        counts: Counts,
        trouble: Trouble,
    ) -> Result<Self, Error> {
        let mut kept = match std::fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Kept>(&bytes) {
                Ok(kept) => Kept { place: checked(kept.place, "alerts", &log).await?, ..kept },
                Err(error) => {
                    tracing::warn!("{} cannot be read ({error}); alerts begin anew", path.display());
                    Kept { place: last(&log).await?, ..Kept::default() }
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Kept { place: last(&log).await?, ..Kept::default() }
            }
            Err(error) => return Err(Error::File(error)),
        };
        kept.rules.retain(|name, _| settings.iter().any(|rule| rule.name == *name));
        let recorded = recorded(&log, kept.place.seq).await?;
        let saved = kept.clone();
        let decisions = HashMap::new();
        let engine = Self { settings, path, log, counts, trouble, kept, saved, recorded, decisions };
        replace(&engine.path, &engine.text()).map_err(Error::File)?;
        Ok(engine)
    }

    fn text(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec(&self.kept).unwrap_or_default();
        text.push(b'\n');
        text
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        loop {
            let Err(error) = self.follow(&stop).await else { break };
            tracing::warn!("alerts: {error}; tried again in {} s, nothing is left out", WAIT.as_secs());
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
            // What was counted since is seen again.
            self.kept = self.saved.clone();
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(WAIT) => {}
            }
        }
    }

    /// Until the end, which comes between two events.
    async fn follow(&mut self, stop: &CancellationToken) -> Result<(), crate::audit::Error> {
        let mut follow = self.log.follow(self.kept.place.seq);
        loop {
            let events = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                events = follow.next() => events?,
            };
            let Some(events) = events else { break };
            for event in events {
                self.meet(event).await?;
                if stop.is_cancelled() {
                    break;
                }
            }
            if self.kept.place.seq.saturating_sub(self.saved.place.seq) >= UNSAVED {
                self.save().await;
            }
            self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take();
        }
        self.save().await;
        Ok(())
    }

    async fn meet(&mut self, written: Written) -> Result<(), crate::audit::Error> {
        let event: Value = serde_json::from_str(&written.body).unwrap_or_default();
        let met = self.met(&event).await?;
        let place = Place { seq: written.seq, id: text(&event, &["id"]).unwrap_or_default() };
        let mut called = false;
        for rule in &self.settings {
            let state = self.kept.rules.entry(rule.name.clone()).or_default();
            for call in state.meet(rule, &met) {
                let subject = call.subject.as_ref().map_or("", |subject| &*subject.reference).to_owned();
                let key = (rule.name.clone(), met.id.clone(), subject);
                called = true;
                if self.recorded.contains(&key) {
                    continue;
                }
                let alert = Event::Alert {
                    rule: rule.name.clone(),
                    text: call.text,
                    count: call.count,
                    of: met.id.parse::<Ulid>().ok(),
                    subject: call.subject,
                };
                self.log.record(alert).await?;
                // Where the same event is met again before this is saved, it is known.
                self.recorded.insert(key);
                self.counts.get_or_create(&Labels { when: rule.when.as_str() }).inc();
            }
        }
        self.kept.place = place;
        if called {
            self.save().await;
        }
        Ok(())
    }

    /// What the rules look at: for a repeat, the decision that it repeats.
    async fn met(&mut self, event: &Value) -> Result<Met, crate::audit::Error> {
        let met = Met::of(event);
        let Some(of) = repeated(event) else {
            if event.get("kind").and_then(Value::as_str) == Some("decision") {
                self.remember(met.clone());
            }
            return Ok(met);
        };
        if !self.decisions.contains_key(&of) {
            let Ok(id) = of.parse::<Ulid>() else { return Ok(met) };
            // Retention may have removed it.
            let Some(found) = self.log.reader().written(&id).await? else { return Ok(met) };
            self.remember(Met::of(&Value::Object(found.event)));
        }
        Ok(self.decisions.get(&of).map(|decision| decision.again(met.clone())).unwrap_or(met))
    }

    fn remember(&mut self, decision: Met) {
        if self.decisions.len() >= DECISIONS {
            self.decisions.clear();
        }
        self.decisions.insert(decision.id.clone(), decision);
    }

    /// Where it cannot be saved, a restart counts again what it counted, and knows what it told.
    async fn save(&mut self) {
        let (path, text) = (self.path.clone(), self.text());
        let written = tokio::task::spawn_blocking(move || replace(&path, &text)).await;
        self.saved = self.kept.clone();
        match written.map_err(io::Error::other).and_then(|written| written) {
            Ok(()) => self.recorded.clear(),
            Err(error) => tracing::warn!("alerts: {} cannot be saved: {error}", self.path.display()),
        }
    }
}

/// The alerts on record after this place.
async fn recorded(log: &Log, after: i64) -> Result<HashSet<(String, String, String)>, crate::audit::Error> {
    let (mut recorded, mut after) = (HashSet::new(), after);
    loop {
        let events = log.reader().after(after, 1024).await?;
        let Some(last) = events.last() else { return Ok(recorded) };
        after = last.seq;
        for event in events.iter().filter(|event| event.kind == "alert") {
            let event: Value = serde_json::from_str(&event.body).unwrap_or_default();
            let part = |path: &[&str]| text(&event, path).unwrap_or_default();
            let subject = part(&["subject", "reference"]);
            recorded.insert((part(&["alert", "rule"]), part(&["alert", "of"]), subject));
        }
    }
}
