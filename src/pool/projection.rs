//! What runs, and when a job would be done that is put in now; and how many threads each job gets.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Claim, Shared};

/// What of several threads a job makes use of.
const EFFICIENCY: f64 = 0.8;

/// A job on a worker.
#[derive(Debug, Clone, Copy)]
pub(super) struct Running {
    /// Processor time, as foreseen.
    pub cost: Duration,
    pub since: Instant,
    pub threads: u32,
}

/// A job's entry among what runs, for as long as it lives.
pub(super) struct OnSlot<'a> {
    shared: &'a Shared,
    slot: usize,
}

impl Drop for OnSlot<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.shared.running().get_mut(self.slot) {
            *place = None;
        }
    }
}

impl Running {
    /// Processor time that is still to be spent, as far as was foreseen.
    fn rest(&self, now: Instant) -> Duration {
        let spent = now.saturating_duration_since(self.since).mul_f64(f64::from(self.threads) * EFFICIENCY);
        self.cost.saturating_sub(spent)
    }
}

impl Shared {
    /// Many for one job when no other wants a worker, one for each when all workers are wanted.
    pub(super) fn threads(&self) -> u32 {
        let wanted = self.workers().busy.max(1) + self.queue.depth().items;
        self.threads_among(wanted)
    }

    fn threads_among(&self, jobs: usize) -> u32 {
        let jobs = jobs.clamp(1, self.config.workers.max(1));
        u32::try_from(self.config.cpus / jobs).unwrap_or(u32::MAX).max(1)
    }

    /// Processors that jobs can have at a time.
    pub(super) fn cores(&self) -> u32 {
        u32::try_from(self.config.cpus.min(self.config.workers)).unwrap_or(u32::MAX).max(1)
    }

    /// See [`super::Pool::projected`].
    pub(super) fn projected(&self, claim: Claim, cost: Duration, now: Instant) -> Duration {
        let running = self.running();
        let rest: Duration = running.iter().flatten().map(|running| running.rest(now)).sum();
        let busy = running.iter().flatten().count();
        drop(running);
        let depth = self.queue.depth();
        let threads = self.threads_among(busy + depth.items + 1);
        let alone = cost.div_f64(f64::from(threads.min(self.cores())) * EFFICIENCY);
        if busy < self.config.workers && depth.items == 0 {
            return alone;
        }
        // A worker comes free before all that runs is done: on average, half of it.
        (self.queue.ahead_of(claim, cost) + rest / 2) / self.cores() + alone
    }

    /// Takes note of what runs in a slot, for as long as the value lives.
    pub(super) fn run(&self, slot: usize, running: Running) -> OnSlot<'_> {
        if let Some(place) = self.running().get_mut(slot) {
            *place = Some(running);
        }
        OnSlot { shared: self, slot }
    }

    fn running(&self) -> MutexGuard<'_, Vec<Option<Running>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
