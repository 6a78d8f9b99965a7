//! Single flight: of all who want the same thing, one asks, and all get its answer.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::tasks::Tasks;
use crate::oci::Fault;

/// Fetches under way, by key. The work runs on its own task: it outlives whoever asked first, and a
/// caller that gives up neither ends nor repeats it.
#[derive(Debug)]
pub(super) struct Flights<K, V> {
    landings: Landings<K, V>,
    tasks: Tasks,
}

type Landings<K, V> = Arc<Mutex<HashMap<K, Landing<V>>>>;

type Landing<V> = watch::Receiver<Option<Result<V, Fault>>>;

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self::on(&Tasks::default())
    }
}

impl<K, V> Flights<K, V> {
    /// Flights that end with these tasks.
    pub(super) fn on(tasks: &Tasks) -> Self {
        Self { landings: Arc::default(), tasks: tasks.clone() }
    }
}

impl<K, V> Flights<K, V>
where
    K: Clone + Eq + Hash + Send + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// The answer of the flight under way for this key, or of a new one that runs `work`.
    pub(super) async fn join<F>(&self, key: K, work: F) -> Result<V, Fault>
    where
        F: Future<Output = Result<V, Fault>> + Send + 'static,
    {
        let mut landing = self.board(key, work);
        match landing.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or_else(|| Err(lost())),
            Err(_) => Err(lost()),
        }
    }

    /// Starts the work unless it is under way, and does not wait.
    pub(super) fn start<F>(&self, key: K, work: F)
    where
        F: Future<Output = Result<V, Fault>> + Send + 'static,
    {
        drop(self.board(key, work));
    }

    fn board<F>(&self, key: K, work: F) -> Landing<V>
    where
        F: Future<Output = Result<V, Fault>> + Send + 'static,
    {
        let mut flights = self.landings.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(landing) = flights.get(&key) {
            return landing.clone();
        }
        let (sender, landing) = watch::channel(None);
        flights.insert(key.clone(), landing.clone());
        drop(flights);
        // Leaves the table even when the work panics, so that nobody waits for a flight that fell.
        let seat = Seat { flights: self.landings.clone(), key };
        self.tasks.spawn(async move {
            let answer = work.await;
            drop(seat);
            sender.send_replace(Some(answer));
        });
        landing
    }
}

struct Seat<K: Eq + Hash, V> {
    flights: Landings<K, V>,
    key: K,
}

impl<K: Eq + Hash, V> Drop for Seat<K, V> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

fn lost() -> Fault {
    Fault::Storage("the fetch was abandoned before it finished; ask again".into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn all_who_ask_meanwhile_get_the_one_answer_even_if_the_first_gave_up() {
        let flights: Arc<Flights<&str, usize>> = Arc::default();
        let (runs, gate) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let work = |runs: Arc<AtomicUsize>, gate: Arc<Semaphore>| async move {
            runs.fetch_add(1, Ordering::SeqCst);
            gate.acquire().await.expect("open").forget();
            Ok(7)
        };
        let first = {
            let (flights, work) = (flights.clone(), work(runs.clone(), gate.clone()));
            tokio::spawn(async move { flights.join("x", work).await })
        };
        while runs.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        let others: Vec<_> = (0..20)
            .map(|_| {
                let (flights, work) = (flights.clone(), work(runs.clone(), gate.clone()));
                tokio::spawn(async move { flights.join("x", work).await })
            })
            .collect();
        first.abort();
        tokio::task::yield_now().await;
        gate.add_permits(1);
        for other in others {
            assert_eq!(other.await.expect("joined"), Ok(7));
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_flight_that_is_ended_fails_its_passengers_and_none_starts_afterwards() {
        let tasks = Tasks::default();
        let flights: Flights<&str, usize> = Flights::on(&tasks);
        let mut landing = Box::pin(flights.join("x", std::future::pending()));
        assert!(futures_util::FutureExt::now_or_never(landing.as_mut()).is_none());
        tasks.end().await;
        assert!(matches!(landing.await, Err(Fault::Storage(_))));
        assert!(matches!(flights.join("y", async { Ok(1) }).await, Err(Fault::Storage(_))));
    }

    #[tokio::test]
    async fn a_flight_that_panics_fails_its_passengers_and_leaves_the_place_free() {
        let flights: Flights<&str, usize> = Flights::default();
        let fallen = flights.join("x", async { panic!("on purpose") }).await;
        assert!(matches!(fallen, Err(Fault::Storage(_))));
        assert_eq!(flights.join("x", async { Ok(1) }).await, Ok(1));
    }
}
