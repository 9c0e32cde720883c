//! What runs, how fast, and when a job would be done that is put in now; and how many threads each job gets.
//!
//! Processors are shared with whoever else runs on them. What jobs get of them is told by how long they really took, and
//! by those that should be done by now and aren't.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{Claim, Shared};

/// What of several threads a job makes use of.
const EFFICIENCY: f64 = 0.8;
/// Of a job that should be done by now, this part is still to come.
const OVERDUE: u32 = 8;
/// The least that is believed of a thread's share of a processor.
const LEAST: f64 = 0.125;
/// Time on a worker by which one job's share counts as much as all before it.
const WEIGHT: Duration = Duration::from_secs(2);
/// How long what is known of the share counts while nothing new is learned: then it is a third of it.
const FORGOTTEN: Duration = Duration::from_secs(5);

/// What of a processor a thread of a job gets, 1 where it has one for itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    share: f64,
    at: Instant,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { share: 1.0, at: now }
    }

    /// What is known of it now: with time it is taken to be whole again.
    fn share(self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64() / FORGOTTEN.as_secs_f64();
        1.0 - (1.0 - self.share) * (-age).exp()
    }

    /// A job had so much processor time while it was on its worker. With several threads it may have had more than one
    /// could use, which says nothing of the share.
    fn learn(&mut self, cpu: Duration, wall: Duration, now: Instant) {
        let got = cpu.as_secs_f64() / wall.as_secs_f64();
        if !got.is_finite() {
            return;
        }
        let weight = wall.as_secs_f64() / (wall + WEIGHT).as_secs_f64();
        let before = self.share(now);
        *self = Self { share: before + weight * (got.clamp(LEAST, 1.0) - before), at: now };
    }
}

/// How long until a worker begins with what is put in now: `running`, how long each job on a worker has still to go;
/// `ahead`, how long one worker would have with all that is served before.
fn begins_in(running: &[Duration], ahead: Duration, workers: usize) -> Duration {
    if ahead.is_zero() {
        // With the first worker that comes free.
        let first = running.iter().min().copied().unwrap_or_default();
        return if running.len() < workers { Duration::ZERO } else { first };
    }
    let all = running.iter().sum::<Duration>() + ahead;
    all / u32::try_from(workers).unwrap_or(u32::MAX).max(1)
}

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
    /// Processor time that it has had, where each thread gets that share of a processor.
    fn spent(&self, share: f64, now: Instant) -> Duration {
        now.saturating_duration_since(self.since).mul_f64(f64::from(self.threads) * EFFICIENCY * share)
    }

    /// Processor time that is still to be spent, as far as was foreseen.
    fn rest(&self, share: f64, now: Instant) -> Duration {
        self.cost.saturating_sub(self.spent(share, now)).max(self.cost / OVERDUE)
    }

    /// The share at which it would be done now: it isn't, so it gets less.
    fn at_most(&self, now: Instant) -> f64 {
        let whole = self.spent(1.0, now).as_secs_f64();
        if whole > 0.0 { (self.cost.as_secs_f64() / whole).clamp(LEAST, 1.0) } else { 1.0 }
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
        let share = self.share(now);
        let takes = |cost: Duration, threads: u32| {
            cost.div_f64(f64::from(threads.min(self.cores()).max(1)) * EFFICIENCY * share)
        };
        let running: Vec<Duration> = {
            let running = self.running();
            running.iter().flatten().map(|running| takes(running.rest(share, now), running.threads)).collect()
        };
        let items = self.queue.depth().items;
        let ahead = if items == 0 { Duration::ZERO } else { takes(self.queue.ahead_of(claim, cost), 1) };
        let workers = usize::try_from(self.cores()).unwrap_or(usize::MAX);
        begins_in(&running, ahead, workers) + takes(cost, self.threads_among(running.len() + items + 1))
    }

    /// See [`super::Pool::takes`].
    pub(super) fn takes(&self, cost: Duration, now: Instant) -> Duration {
        let threads = self.threads_among(self.running().iter().flatten().count() + 1);
        cost.div_f64(f64::from(threads.min(self.cores()).max(1)) * EFFICIENCY * self.share(now))
    }

    /// What of a processor a thread gets: by the jobs that are done, and by those that are overdue.
    pub(super) fn share(&self, now: Instant) -> f64 {
        let overdue = self.running().iter().flatten().map(|running| running.at_most(now)).fold(1.0, f64::min);
        self.pace().share(now).min(overdue)
    }

    /// Takes note of a job that is done: the processor time that its worker tells of, in the time that it had.
    pub(super) fn went(&self, cpu: Duration, wall: Duration, now: Instant) {
        self.pace().learn(cpu, wall, now);
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;

    const S: fn(f64) -> Duration = Duration::from_secs_f64;

    #[tokio::test(start_paused = true)]
    async fn what_others_take_of_the_processors_is_learned_from_how_long_jobs_take_and_forgotten_with_time() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for _ in 0..20 {
            pace.learn(S(1.0), S(4.0), now);
        }
        assert!((pace.share(now) - 0.25).abs() < 0.01, "a quarter of the time is theirs");
        // What takes next to no time says next to nothing.
        pace.learn(S(0.001), S(0.001), now);
        assert!(pace.share(now) < 0.26);
        assert!(pace.share(now + S(5.0)) > 0.7 && pace.share(now + S(60.0)) > 0.99);
        for _ in 0..20 {
            pace.learn(S(8.0), S(4.0), now);
        }
        assert!((pace.share(now) - 1.0).abs() < 0.01, "two threads tell of one processor and no more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lie_about_the_time_that_a_job_had_moves_the_share_no_further_than_its_bounds() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        for cpu in [0.0, 1e9] {
            for _ in 0..100 {
                pace.learn(S(cpu), S(1.0), now);
            }
            assert!((LEAST..=1.0).contains(&pace.share(now)));
        }
        pace.learn(S(0.0), Duration::ZERO, now);
        assert!((LEAST..=1.0).contains(&pace.share(now)));
    }

    #[test]
    fn it_begins_when_a_worker_is_free_and_all_before_it_has_been_served() {
        let check = |running: &[f64], ahead: f64, workers: usize, expect: f64| {
            let running: Vec<Duration> = running.iter().copied().map(S).collect();
            assert_eq!(begins_in(&running, S(ahead), workers), S(expect), "{running:?} {ahead} {workers}");
        };
        check(&[], 0.0, 1, 0.0);
        check(&[3.0], 0.0, 2, 0.0);
        check(&[2.0], 0.0, 1, 2.0);
        check(&[1.0, 3.0], 0.0, 2, 1.0);
        check(&[1.0, 3.0], 2.0, 2, 3.0);
        check(&[2.0], 4.0, 1, 6.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_should_be_done_by_now_says_how_slow_it_is_before_it_is_done() {
        let now = Instant::now();
        let running = Running { cost: S(0.8), since: now, threads: 1 };
        let close = |duration: Duration, seconds: f64| (duration.as_secs_f64() - seconds).abs() < 1e-6;
        assert!(close(running.rest(1.0, now), 0.8) && close(running.rest(1.0, now + S(0.5)), 0.4));
        assert!(close(running.rest(0.5, now + S(0.5)), 0.6), "at half the share it has had half of it");
        assert!(close(running.rest(1.0, now + S(9.0)), 0.1), "it is not done");
        assert_eq!(running.at_most(now + S(0.9)), 1.0);
        assert!((running.at_most(now + S(4.0)) - 0.25).abs() < 1e-6);
        assert_eq!(running.at_most(now + S(1000.0)), LEAST);
    }
}
