//! Who gets in: a session holds a place, and its part of the capacity, for its whole life.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::ops::Readiness;
use super::problem::Problem;
use crate::pool::{Capacity, Reservation};
use crate::protocol::ErrorMessage;
use crate::telemetry::metrics::{Held, Metrics};

/// Counts sessions in and out.
#[derive(Clone)]
pub struct Admission {
    places: Arc<Semaphore>,
    most: usize,
    capacity: Capacity,
    draining: CancellationToken,
    metrics: Metrics,
    readiness: Arc<Mutex<Readiness>>,
}

/// A session's place; given back when dropped.
pub struct Admitted {
    place: Option<OwnedSemaphorePermit>,
    _counted: Held,
    pub reservation: Reservation,
    /// Locked while a place changes hands, so that what is told last is what is so.
    readiness: Arc<Mutex<Readiness>>,
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let readiness = self.readiness.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.place.take());
        readiness.set_full(false);
    }
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
        let readiness = self.readiness.lock().unwrap_or_else(PoisonError::into_inner);
        match self.places.clone().try_acquire_owned() {
            Ok(place) => {
                let reservation = self.capacity.hold(Instant::now()).map_err(|full| {
                    self.metrics.session_rejected("capacity");
                    Problem::new("full", full.to_string()).retry_after(full.retry_after)
                })?;
                readiness.set_full(self.places.available_permits() == 0);
                let (_counted, readiness) = (self.metrics.session(), self.readiness.clone());
                Ok(Admitted { place: Some(place), _counted, reservation, readiness })
            }
            Err(_) => {
                self.metrics.session_rejected("full");
                let problem = Problem::new("full", format!("all {} sessions are taken", self.most));
                Err(problem.retry_after(self.capacity.retry_after(Instant::now())))
            }
        }
    }

    /// What a session ended with, as a refusal.
    pub fn problem(&self, error: &ErrorMessage) -> Problem {
        let problem = Problem::new(&error.code, error.message.clone());
        if error.code == "full" { problem.retry_after(self.capacity.retry_after(Instant::now())) } else { problem }
    }
}
