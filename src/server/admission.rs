//! Who gets in: a session holds a place, and its part of the capacity, for its whole life. Where all places are taken,
//! whoever comes gets the place of the session that has waited longest without media that say what it wants: who is
//! served keeps its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ops::Readiness;
use super::problem::Problem;
use crate::pool::{Capacity, Reservation};
use crate::protocol::ErrorMessage;
use crate::session::Fatal;
use crate::telemetry::metrics::{Held, Metrics};

/// Bytes of media by which a session has shown that it means it.
const EARNEST: u64 = 4 << 10;

/// Counts sessions in and out.
#[derive(Clone)]
pub struct Admission {
    places: Arc<Semaphore>,
    most: usize,
    waiting: Arc<Mutex<Waiting>>,
    capacity: Capacity,
    draining: CancellationToken,
    metrics: Metrics,
    readiness: Arc<Mutex<Readiness>>,
}

/// Sessions that may not have said what they want, by when they came in. Those that have are found out when looked at.
#[derive(Default)]
struct Waiting {
    next: u64,
    by_age: BTreeMap<u64, Weak<Seat>>,
}

/// Where a session is, until another has its place.
pub struct Seat {
    /// None once another has it.
    place: Mutex<Option<OwnedSemaphorePermit>>,
    reservation: Reservation,
    crowded_out: CancellationToken,
    came: AtomicU64,
    since: u64,
    waiting: Arc<Mutex<Waiting>>,
}

impl Seat {
    /// So much media has come. A session that sends is one that is served, also where its index comes last.
    pub fn came(&self, bytes: usize) {
        let before = self.came.fetch_add(bytes as u64, Ordering::Relaxed);
        if before < EARNEST && before + bytes as u64 >= EARNEST {
            self.stop_waiting();
        }
    }

    /// Comes when another has the place: never, once the session has settled its reservation.
    pub async fn crowded_out(&self) {
        self.crowded_out.cancelled().await;
    }

    fn stop_waiting(&self) {
        lock(&self.waiting).by_age.remove(&self.since);
    }
}

/// A session's place; given back when dropped.
pub struct Admitted {
    pub seat: Arc<Seat>,
    _counted: Held,
    /// Locked while a place changes hands, so that what is told last is what is so.
    readiness: Arc<Mutex<Readiness>>,
}

impl Admitted {
    pub fn reservation(&self) -> &Reservation {
        &self.seat.reservation
    }

    pub fn is_crowded_out(&self) -> bool {
        self.seat.crowded_out.is_cancelled()
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.seat.stop_waiting();
        let readiness = lock(&self.readiness);
        if lock(&self.seat.place).take().is_some() {
            readiness.set_full(false);
        }
    }
}

/// What is told to a session whose place another has.
pub fn crowded_out() -> Fatal {
    Fatal::new("full", "the place was wanted before the session had said what it wants; try again")
}

/// Nothing that holds one of the locks can panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Admission {
    /// `draining`: cancelled when no new session may come in.
    pub fn new(
        most: usize,
        capacity: Capacity,
        draining: CancellationToken,
        metrics: Metrics,
        readiness: Readiness,
    ) -> Self {
        Self {
            capacity,
            places: Arc::new(Semaphore::new(most)),
            most,
            waiting: Arc::default(),
            draining,
            metrics,
            readiness: Arc::new(Mutex::new(readiness)),
        }
    }

    /// `Problem` is 503 with Retry-After while the service is full or closing.
    pub fn admit(&self) -> Result<Admitted, Problem> {
        if self.draining.is_cancelled() {
            self.metrics.session_rejected("closing");
            return Err(Problem::new("closing", "the service is shutting down; connect again"));
        }
        let readiness = lock(&self.readiness);
        let free = self.places.clone().try_acquire_owned().ok();
        let Some(place) = free.or_else(|| self.make_room()) else {
            self.metrics.session_rejected("full");
            let problem = Problem::new("full", format!("all {} sessions are taken", self.most));
            return Err(problem.retry_after(self.capacity.retry_after(Instant::now())));
        };
        let reservation = match self.capacity.hold(Instant::now()) {
            Ok(reservation) => reservation,
            Err(full) => {
                drop(place);
                readiness.set_full(false);
                self.metrics.session_rejected("capacity");
                return Err(Problem::new("full", full.to_string()).retry_after(full.retry_after));
            }
        };
        readiness.set_full(self.places.available_permits() == 0);
        let mut waiting = lock(&self.waiting);
        let since = waiting.next;
        waiting.next += 1;
        let seat = Arc::new(Seat {
            place: Mutex::new(Some(place)),
            reservation,
            crowded_out: CancellationToken::new(),
            came: AtomicU64::new(0),
            since,
            waiting: self.waiting.clone(),
        });
        waiting.by_age.insert(since, Arc::downgrade(&seat));
        Ok(Admitted { seat, _counted: self.metrics.session(), readiness: self.readiness.clone() })
    }

    /// Sends off the session that has waited longest without a word of what it wants; None where there is none.
    fn make_room(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let (_, oldest) = lock(&self.waiting).by_age.pop_first()?;
            let Some(seat) = oldest.upgrade() else { continue };
            if seat.reservation.withdraw(Instant::now()) {
                self.metrics.session_rejected("crowded_out");
                seat.crowded_out.cancel();
                if let Some(place) = lock(&seat.place).take() {
                    return Some(place);
                }
            }
        }
    }

    /// What a session ended with, as a refusal.
    pub fn problem(&self, error: &ErrorMessage) -> Problem {
        let problem = Problem::new(&error.code, error.message.clone());
        if error.code == "full" { problem.retry_after(self.capacity.retry_after(Instant::now())) } else { problem }
    }
}
