//! What a patched policy would have said of the pulls on record.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::judge::Judge;
use super::record::read_pulls;
use crate::audit::Reader;
use crate::policy::{Count, Facts, Need, Replay};

/// So far back pulls are judged again.
const BACK: SignedDuration = SignedDuration::from_hours(30 * 24);
/// So many entries of the record at most.
const MOST: usize = 100_000;
/// Told to nobody.
const LEFT: &str = "nobody waits for the forecast any more";
/// So many references are named of each kind.
const EXAMPLES: usize = 20;

/// So many forecasts are made at once in the process: each keeps a thread busy of those that serve blobs.
static TURNS: Semaphore = Semaphore::const_new(2);

/// What a patch would have changed.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Forecast {
    /// Since when pulls were judged again.
    pub since: Timestamp,
    /// Whether there were more pulls than are judged: only the latest were.
    pub cut: bool,
    /// References that would have been allowed.
    pub allowed: Changed,
    /// References that would have been refused.
    pub refused: Changed,
    /// References whose verdict stays.
    pub unchanged: Count,
    /// References that cannot be judged again: the record or the catalog holds too little of them.
    pub unjudged: Count,
}

/// References whose verdict changes.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Changed {
    /// How much.
    pub count: Count,
    /// By how many clients.
    pub clients: usize,
    /// The references pulled most, with how often; at most 20.
    pub examples: Vec<(String, u64)>,
}

/// What a patch would have changed about the pulls of the last 30 days, the latest 100,000 entries of
/// the record at most: they are judged by the policy that `text` is and by the file as it is, so that
/// what has changed anyway since they were recorded is not put down to the patch. It runs off the
/// threads that serve, and two at once at most; further ones wait. Dropping it ends the work, soon.
///
/// # Errors
/// A text is no policy, or record or catalog cannot be read: why.
pub async fn forecast(
    judge: Arc<dyn Judge>,
    reader: Reader,
    text: String,
    now: Timestamp,
) -> Result<Forecast, String> {
    // Nobody closes it.
    let turn = TURNS.acquire().await.map_err(|error| error.to_string())?;
    let handle = tokio::runtime::Handle::current();
    let left = CancellationToken::new();
    let _guard = left.clone().drop_guard();
    let work = move || {
        // The turn is that of the work: whoever stops waiting for it does not make room for more.
        let _turn = turn;
        let work = left.run_until_cancelled(judged(&*judge, &reader, &text, now, &left));
        handle.block_on(work).unwrap_or_else(|| Err(LEFT.to_owned()))
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())?
}

async fn judged(
    judge: &dyn Judge,
    reader: &Reader,
    text: &str,
    now: Timestamp,
    left: &CancellationToken,
) -> Result<Forecast, String> {
    let (before, after) = (judge.compile(&judge.read()?.text)?, judge.compile(text)?);
    let since = now.checked_sub(BACK).unwrap_or(Timestamp::UNIX_EPOCH);
    let mut replay = Replay::default();
    let read = read_pulls(reader, since, Some(MOST), |pull| replay.add(pull));
    let read = read.await.map_err(|error| error.to_string())?;
    let gather = async |need: &Need, facts: &mut Facts| {
        // What never has to wait is not cut off from outside.
        if left.is_cancelled() { Err(LEFT.to_owned()) } else { judge.gather(need, facts).await }
    };
    let before = replay.judge(&before.policy, now, gather).await?;
    let after = replay.judge(&after.policy, now, gather).await?;
    let unread: u64 = read.unread.values().map(|count| count.pulls).sum();
    let mut unjudged = Count { references: 0, pulls: unread };
    for open in after.unjudged.values() {
        unjudged.references += open.count.references;
        unjudged.pulls = unjudged.pulls.saturating_add(open.count.pulls);
    }
    let allowed = changed(&after.allowed, &before.allowed);
    let refused = changed(&after.refused, &before.refused);
    let mut unchanged = after.all;
    for other in [unjudged_of(&after.unjudged), allowed.count, refused.count] {
        unchanged.references = unchanged.references.saturating_sub(other.references);
        unchanged.pulls = unchanged.pulls.saturating_sub(other.pulls);
    }
    Ok(Forecast { since, cut: read.cut, allowed, refused, unchanged, unjudged })
}

fn unjudged_of(open: &std::collections::BTreeMap<&'static str, crate::policy::Unjudged>) -> Count {
    open.values().fold(Count::default(), |total, one| Count {
        references: total.references + one.count.references,
        pulls: total.pulls.saturating_add(one.count.pulls),
    })
}

/// What changes under the one policy and did not under the other.
fn changed(after: &[crate::policy::Changed], before: &[crate::policy::Changed]) -> Changed {
    let key = |one: &crate::policy::Changed| (one.reference.clone(), one.span.clients.clone(), one.old.0);
    let already: BTreeSet<_> = before.iter().map(key).collect();
    let fresh: Vec<_> = after.iter().filter(|one| !already.contains(&key(one))).collect();
    let mut pulls: std::collections::BTreeMap<&str, u64> = std::collections::BTreeMap::new();
    for one in &fresh {
        *pulls.entry(&*one.reference).or_default() += one.span.pulls;
    }
    let clients: BTreeSet<&Arc<str>> = fresh.iter().flat_map(|one| &one.span.clients).collect();
    let count = Count { references: pulls.len(), pulls: pulls.values().sum() };
    let mut examples: Vec<(String, u64)> =
        pulls.into_iter().map(|(reference, pulls)| (reference.to_owned(), pulls)).collect();
    examples.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
    examples.truncate(EXAMPLES);
    Changed { count, clients: clients.len(), examples }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};

    use super::super::judge::{Compiled, Gathered, PolicyFile};
    use super::*;
    use crate::policy::Surroundings;

    /// A file on a disk that does not answer before it is told to.
    #[derive(Debug, Default)]
    struct Slow {
        begun: AtomicUsize,
        answers: Mutex<bool>,
        told: Condvar,
    }

    impl Judge for Slow {
        fn read(&self) -> Result<PolicyFile, String> {
            self.begun.fetch_add(1, Ordering::SeqCst);
            let answers = self.answers.lock().unwrap();
            drop(self.told.wait_while(answers, |answers| !*answers).unwrap());
            Err("read".to_owned())
        }

        fn compile(&self, _: &str) -> Result<Compiled, String> {
            Err("compiled".to_owned())
        }

        fn surroundings(&self) -> Surroundings {
            Surroundings::default()
        }

        fn gather<'a>(&'a self, _: &'a Need, _: &'a mut Facts) -> Gathered<'a> {
            Box::pin(async { Ok(false) })
        }
    }

    #[tokio::test]
    async fn forecasts_that_nobody_waits_for_keep_their_turns_until_they_end() {
        let folder = super::super::record::tests::folder(&[]).await;
        let reader = Reader::open(folder.path()).await.unwrap();
        let slow = Arc::new(Slow::default());
        let ask = || {
            let judge: Arc<dyn Judge> = slow.clone();
            tokio::spawn(forecast(judge, reader.clone(), String::new(), Timestamp::UNIX_EPOCH))
        };
        let first = [ask(), ask()];
        while slow.begun.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        for task in first {
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
        // The disk still holds the two threads, and no third is given to it.
        assert_eq!(TURNS.available_permits(), 0);
        let third = ask();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(slow.begun.load(Ordering::SeqCst), 2);
        *slow.answers.lock().unwrap() = true;
        slow.told.notify_all();
        assert_eq!(third.await.unwrap(), Err("read".to_owned()));
        assert_eq!(slow.begun.load(Ordering::SeqCst), 3);
    }
}
