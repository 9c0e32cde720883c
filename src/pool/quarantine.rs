//! The jobs that have cost two workers their lives: remembered for a while, so that the same one costs no more of them.
//!
//! A job is known by the hash of all that its result depends on. That is worth counting only for a job that looks like
//! one that is remembered; the others are told apart by their [`Outline`], which costs nothing.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::job::{Job, Work};
use crate::media::{Format, Timescale, Window};

/// Most jobs that are remembered; past it the one that was not met for longest is forgotten.
const MAX_JOBS: usize = 256;
/// How long a job is remembered. A verdict may be wrong (a machine that stood still), and must not last for ever.
const MEMORY: Duration = Duration::from_secs(600);

/// Remembers jobs; of this process alone.
#[derive(Debug, Default)]
pub(super) struct Quarantine {
    /// The one that was met last is the last.
    jobs: VecDeque<(Outline, Identity, Instant)>,
}

impl Quarantine {
    pub(super) fn add(&mut self, outline: Outline, identity: Identity, now: Instant) {
        self.jobs.retain(|(_, known, _)| *known != identity);
        if self.jobs.len() >= MAX_JOBS {
            self.jobs.pop_front();
        }
        self.jobs.push_back((outline, identity, now + MEMORY));
    }

    /// Whether any job is remembered.
    pub(super) fn is_empty(&mut self, now: Instant) -> bool {
        self.jobs.retain(|(_, _, until)| now < *until);
        self.jobs.is_empty()
    }

    /// Whether a job of this outline may be one that is remembered.
    pub(super) fn may_hold(&mut self, outline: Outline, now: Instant) -> bool {
        self.jobs.retain(|(_, _, until)| now < *until);
        self.jobs.iter().any(|(known, _, _)| *known == outline)
    }

    pub(super) fn holds(&mut self, identity: &Identity, now: Instant) -> bool {
        self.jobs.retain(|(_, _, until)| now < *until);
        let Some(at) = self.jobs.iter().position(|(_, known, _)| known == identity) else { return false };
        let met = self.jobs.remove(at);
        self.jobs.extend(met);
        true
    }
}

/// What tells most jobs apart at a glance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outline {
    units: usize,
    bytes: usize,
    window: Window,
}

impl Outline {
    pub(super) fn of(job: &Job) -> Self {
        let bytes = job.units.iter().fold(0, |sum: usize, unit| sum.saturating_add(unit.data.len()));
        Self { units: job.units.len(), bytes, window: job.window }
    }
}

/// SHA-256 of all that a job's result depends on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity([u8; 32]);

impl Identity {
    /// Takes its time with a large job.
    pub(super) fn of(job: &Job) -> Self {
        let set_up: (Timescale, &Format, Window, &Work) =
            (job.track.timescale, &job.track.format, job.window, &job.work);
        let mut hash = Sha256::new();
        // What can't be written has no place in the hash; the units have.
        hash.update(postcard::to_stdvec(&set_up).unwrap_or_default());
        for unit in &job.units {
            let head = (unit.pts, unit.dts, unit.duration, unit.sync, unit.data.len());
            hash.update(postcard::to_stdvec(&head).unwrap_or_default());
            hash.update(&unit.data);
        }
        Self(hash.finalize().into())
    }
}

/// Hexadecimal.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ipc::fixtures::video_job;
    use crate::media::Ticks;

    #[test]
    fn a_job_is_known_by_all_that_its_result_depends_on_and_by_nothing_else() {
        let job = video_job(&[0, 40], 2);
        let same = Job { id: 9, seq: 9, threads: 9, ..job.clone() };
        assert_eq!((Identity::of(&job), Outline::of(&job)), (Identity::of(&same), Outline::of(&same)));
        let mut others = vec![job.clone(); 4];
        others[0].units[1].data = Bytes::from(vec![7; job.units[1].data.len()]);
        others[1].units[1].dts = Ticks(41);
        others[2].window.end = Ticks(999);
        others[3].work = video_job(&[0, 40], 1).work;
        for other in others {
            assert_ne!(Identity::of(&job), Identity::of(&other));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_remembered_for_its_time_and_among_so_many() {
        let job = |n: usize| video_job(&[n as i64], 1);
        let mut quarantine = Quarantine::default();
        let (outline, identity) = (Outline::of(&job(0)), Identity::of(&job(0)));
        let begun = Instant::now();
        quarantine.add(outline, identity, begun);
        for n in 1..MAX_JOBS {
            quarantine.add(Outline::of(&job(n)), Identity::of(&job(n)), begun);
        }
        // It is met, so it is not the first that is forgotten.
        assert!(quarantine.may_hold(outline, begun) && quarantine.holds(&identity, begun));
        quarantine.add(outline_of_another(), Identity::of(&job(MAX_JOBS)), begun);
        assert!(quarantine.holds(&identity, begun));
        assert!(!quarantine.holds(&Identity::of(&job(1)), begun));
        assert!(quarantine.holds(&Identity::of(&job(2)), begun + MEMORY - Duration::from_millis(1)));
        assert!(!quarantine.may_hold(outline, begun + MEMORY));
        assert!(!quarantine.holds(&identity, begun + MEMORY));
    }

    fn outline_of_another() -> Outline {
        Outline::of(&video_job(&[1, 2, 3], 1))
    }
}
