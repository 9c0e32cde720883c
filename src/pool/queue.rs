//! The jobs that wait for a worker: bounded, first come first served. Who comes waits while it is full.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Items in the order of their tickets. An item holds its place until it is popped.
pub(super) struct Queue<T> {
    places: Arc<Semaphore>,
    state: Mutex<State<T>>,
    filled: Notify,
}

struct State<T> {
    next_ticket: u64,
    closed: bool,
    waiting: BTreeMap<u64, Waiting<T>>,
}

struct Waiting<T> {
    item: T,
    media: Duration,
    /// None for one that has come back.
    _place: Option<OwnedSemaphorePermit>,
}

/// When an item came; it keeps its turn with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

/// What waits now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Depth {
    pub items: usize,
    pub media: Duration,
}

impl<T> Queue<T> {
    pub(super) fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS))),
            state: Mutex::new(State { next_ticket: 0, closed: false, waiting: BTreeMap::new() }),
            filled: Notify::new(),
        }
    }

    /// Takes a ticket: who takes one first is popped first.
    pub(super) fn ticket(&self) -> Ticket {
        let mut state = self.lock();
        state.next_ticket += 1;
        Ticket(state.next_ticket)
    }

    /// Puts in an item of so much media, once there is a place. Gives it back when the queue is closed.
    pub(super) async fn push(&self, ticket: Ticket, item: T, media: Duration) -> Result<(), T> {
        match self.places.clone().acquire_owned().await {
            Ok(place) => self.insert(ticket, item, media, Some(place)),
            Err(_) => Err(item),
        }
    }

    /// Puts an item back in its old turn; it needs no place. Gives it back when the queue is closed.
    pub(super) fn push_back_in_turn(&self, ticket: Ticket, item: T, media: Duration) -> Result<(), T> {
        self.insert(ticket, item, media, None)
    }

    fn insert(&self, ticket: Ticket, item: T, media: Duration, place: Option<OwnedSemaphorePermit>) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed {
            return Err(item);
        }
        state.waiting.insert(ticket.0, Waiting { item, media, _place: place });
        drop(state);
        self.filled.notify_one();
        Ok(())
    }

    /// The item whose turn it is, when there is one. Nothing is lost when the future is dropped.
    pub(super) async fn pop(&self) -> (Ticket, T) {
        loop {
            let filled = self.filled.notified();
            if let Some((ticket, waiting)) = self.lock().waiting.pop_first() {
                return (Ticket(ticket), waiting.item);
            }
            filled.await;
        }
    }

    /// Takes an item out of turn, where it still waits.
    pub(super) fn remove(&self, ticket: Ticket) -> Option<T> {
        self.lock().waiting.remove(&ticket.0).map(|waiting| waiting.item)
    }

    /// Lets nothing in any more, and hands out what waits.
    pub(super) fn close(&self) -> Vec<T> {
        self.places.close();
        let mut state = self.lock();
        state.closed = true;
        std::mem::take(&mut state.waiting).into_values().map(|waiting| waiting.item).collect()
    }

    pub(super) fn depth(&self) -> Depth {
        let state = self.lock();
        let media = state.waiting.values().fold(Duration::ZERO, |sum, waiting| sum.saturating_add(waiting.media));
        Depth { items: state.waiting.len(), media }
    }

    /// No code that holds the lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn push(queue: &Queue<u32>, item: u32) -> Ticket {
        let ticket = queue.ticket();
        assert_eq!(queue.push(ticket, item, SECOND).now_or_never(), Some(Ok(())));
        ticket
    }

    fn pop(queue: &Queue<u32>) -> Option<u32> {
        queue.pop().now_or_never().map(|(_, item)| item)
    }

    #[test]
    fn first_come_first_served() {
        let queue = Queue::new(3);
        for item in 1..=3 {
            push(&queue, item);
        }
        assert_eq!(queue.depth(), Depth { items: 3, media: 3 * SECOND });
        assert_eq!([pop(&queue), pop(&queue), pop(&queue), pop(&queue)], [Some(1), Some(2), Some(3), None]);
        assert_eq!(queue.depth(), Depth::default());
    }

    #[tokio::test]
    async fn when_full_who_comes_waits_in_turn() {
        let queue = Queue::new(1);
        push(&queue, 1);
        let (second, third) = (queue.ticket(), queue.ticket());
        let mut waiting = Box::pin(queue.push(second, 2, SECOND));
        let mut behind = Box::pin(queue.push(third, 3, SECOND));
        assert_eq!((&mut waiting).now_or_never(), None);
        assert_eq!((&mut behind).now_or_never(), None);
        assert_eq!(pop(&queue), Some(1));
        assert_eq!((&mut behind).now_or_never(), None);
        assert_eq!((&mut waiting).now_or_never(), Some(Ok(())));
        assert_eq!(pop(&queue), Some(2));
        assert_eq!(behind.await, Ok(()));
        assert_eq!(pop(&queue), Some(3));
    }

    #[test]
    fn who_comes_back_keeps_its_turn_and_needs_no_place() {
        let queue = Queue::new(1);
        let first = push(&queue, 1);
        assert_eq!(pop(&queue), Some(1));
        push(&queue, 2);
        assert_eq!(queue.push_back_in_turn(first, 1, SECOND), Ok(()));
        assert_eq!([pop(&queue), pop(&queue)], [Some(1), Some(2)]);
    }

    #[test]
    fn who_leaves_gives_its_place_back() {
        let queue = Queue::new(1);
        let gone = push(&queue, 1);
        assert_eq!(queue.remove(gone), Some(1));
        assert_eq!(queue.remove(gone), None);
        push(&queue, 2);
        assert_eq!(pop(&queue), Some(2));
    }

    #[tokio::test]
    async fn closing_turns_away_who_waits_and_who_comes() {
        let queue = Queue::new(1);
        push(&queue, 1);
        let ticket = queue.ticket();
        let mut waiting = Box::pin(queue.push(ticket, 2, SECOND));
        assert_eq!((&mut waiting).now_or_never(), None);
        assert_eq!(queue.close(), [1]);
        assert_eq!(waiting.await, Err(2));
        assert_eq!(queue.push(queue.ticket(), 3, SECOND).await, Err(3));
        assert_eq!(queue.push_back_in_turn(queue.ticket(), 4, SECOND), Err(4));
    }
}
