//! The places of connections: a bounded number. Where all are taken, whoever comes gets the place of the connection that
//! has waited longest without a request: a client that is served keeps its own.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// All places of one port. Cheap to clone.
#[derive(Clone)]
pub struct Places(Arc<Inner>);

struct Inner {
    free: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// Somebody waits for a request from now on.
    more_waiting: Notify,
    given_back: Notify,
}

/// Connections without a request, by when their waiting began.
#[derive(Default)]
struct Waiting {
    next: u64,
    by_age: BTreeMap<u64, CancellationToken>,
}

impl Places {
    pub fn new(most: usize) -> Self {
        let free = Arc::new(Semaphore::new(most));
        Self(Arc::new(Inner {
            free,
            waiting: Mutex::default(),
            more_waiting: Notify::new(),
            given_back: Notify::new(),
        }))
    }

    /// A place for a connection that is there. Waits only where every other is at a request.
    pub async fn take(&self) -> Place {
        let free = &self.0.free;
        let permit = loop {
            if let Ok(permit) = free.clone().try_acquire_owned() {
                break Some(permit);
            }
            let more = self.0.more_waiting.notified();
            if self.make_room() {
                let permit = free.clone().acquire_owned().await;
                // Whoever has just come is heard before the next is taken: its request may be there already.
                tokio::task::yield_now().await;
                break permit.ok();
            }
            tokio::select! {
                biased;
                permit = free.clone().acquire_owned() => break permit.ok(),
                () = more => {}
            }
        };
        let crowded_out = CancellationToken::new();
        let requests = Arc::new(Requests { places: self.clone(), crowded_out, state: Mutex::default() });
        requests.wait();
        Place { requests, _permit: permit }
    }

    /// Sends off the connection that has waited longest for a request; false where there is none.
    pub fn make_room(&self) -> bool {
        let oldest = self.waiting().by_age.pop_first();
        oldest.map(|(_, connection)| connection.cancel()).is_some()
    }

    /// Comes when a connection is over, from now on.
    pub fn given_back(&self) -> impl Future<Output = ()> {
        self.0.given_back.notified()
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place; free again when dropped.
pub struct Place {
    requests: Arc<Requests>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Place {
    /// Another has to have the place.
    pub async fn crowded_out(&self) {
        self.requests.crowded_out.cancelled().await;
    }

    /// What the connection's requests are counted with.
    pub fn requests(&self) -> Arc<Requests> {
        self.requests.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.requests.forget();
        self.requests.places.0.given_back.notify_waiters();
    }
}

/// Of one connection.
pub struct Requests {
    places: Places,
    crowded_out: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    at_work: usize,
    /// Since when it has been waiting.
    since: Option<u64>,
    over: bool,
}

impl Requests {
    /// A request is at work for as long as the value lives.
    pub fn begin(self: Arc<Self>) -> AtWork {
        self.state().at_work += 1;
        self.stop_waiting();
        AtWork(self)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self) {
        let mut state = self.state();
        if state.over || state.at_work > 0 {
            return;
        }
        let mut waiting = self.places.waiting();
        let since = waiting.next;
        waiting.next += 1;
        waiting.by_age.insert(since, self.crowded_out.clone());
        state.since = Some(since);
        drop(waiting);
        self.places.0.more_waiting.notify_waiters();
    }

    fn stop_waiting(&self) {
        let since = self.state().since.take();
        if let Some(since) = since {
            self.places.waiting().by_age.remove(&since);
        }
    }

    fn forget(&self) {
        self.state().over = true;
        self.stop_waiting();
    }
}

/// A request, from its header to the end of its answer.
pub struct AtWork(Arc<Requests>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.state().at_work -= 1;
        self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_off(place: &Place) -> bool {
        place.requests.crowded_out.is_cancelled()
    }

    #[tokio::test]
    async fn the_connection_that_has_waited_longest_gives_up_its_place() {
        let places = Places::new(3);
        let (first, second, third) = (places.take().await, places.take().await, places.take().await);
        // The first is at work, and the second waits again after a request: now the third has waited longest.
        let work = first.requests().begin();
        drop(second.requests().begin());
        let fourth = tokio::spawn({
            let places = places.clone();
            async move { places.take().await }
        });
        third.crowded_out().await;
        assert!(!sent_off(&first) && !sent_off(&second) && !fourth.is_finished());
        drop(third);
        let fourth = fourth.await.unwrap();
        // The next in turn; one at work is never sent off, and one that has gone is not there to be.
        assert!(places.make_room() && sent_off(&second));
        drop(fourth);
        assert!(!places.make_room() && !sent_off(&first));
        drop(work);
        assert!(places.make_room() && sent_off(&first));
    }

    #[tokio::test]
    async fn whoever_comes_waits_only_until_one_is_done() {
        let places = Places::new(1);
        let only = places.take().await;
        let (one, two) = (only.requests().begin(), only.requests().begin());
        let next = tokio::spawn({
            let places = places.clone();
            async move { places.take().await }
        });
        drop(one);
        tokio::task::yield_now().await;
        assert!(!sent_off(&only), "the other request goes on");
        drop(two);
        only.crowded_out().await;
        drop(only);
        next.await.unwrap();
    }
}
