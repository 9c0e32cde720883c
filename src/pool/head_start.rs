//! Jobs that are begun before they are whole: a live segment's first pictures are made while the last ones are still on
//! their way to the service. It costs nobody else a worker that they want: it is only begun where one has nothing to do and
//! nobody waits, and given up when others do. What comes of it is what would have come of the whole job.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::child::Child;
use super::projection::Running;
use super::supervisor::{Lesson, Tried};
use super::{Claim, Done, Pool, Shared, Snapshot, closed};
use crate::job::{Failure, FailureCode, Job};
use crate::media::{AccessUnit, Ticks};

/// Others wait for a worker for as long as this before one is left to them.
const CROWDED: Duration = Duration::from_millis(100);
/// Of what is still to be made, as little as is believed.
const LEAST_LEFT: f64 = 0.05;

/// A job that is at work before it is whole. To drop it is to give it up; the worker goes on to the next one.
pub struct HeadStart {
    pool: Pool,
    draft: Job,
    told: mpsc::UnboundedSender<Told>,
    /// What tells the units apart that were told.
    units: Vec<(Ticks, u64, usize)>,
    made: Arc<AtomicUsize>,
    ended: oneshot::Receiver<Ended>,
    vain: Arc<AtomicBool>,
}

/// What became of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadStartEvent {
    Done,
    /// Nobody wanted it any more, or others waited for a worker.
    GivenUp,
    Failed,
}

enum Told {
    Unit(AccessUnit),
    Whole(Box<Job>),
}

/// What came of it on its worker; nothing where it was given up there.
enum Ended {
    Done(Done),
    Failed(Tried, Failure),
}

/// The worker's side of it.
pub(super) struct Open {
    draft: Job,
    told: mpsc::UnboundedReceiver<Told>,
    made: Arc<AtomicUsize>,
    ended: oneshot::Sender<Ended>,
    /// Until the job is whole.
    seat: OwnedSemaphorePermit,
}

/// Those that have no worker yet.
pub(super) struct Early {
    jobs: Mutex<VecDeque<Open>>,
    came: Notify,
    /// One worker less than there are.
    seats: Arc<Semaphore>,
}

impl Early {
    pub(super) fn new(workers: usize) -> Self {
        let seats = Arc::new(Semaphore::new(workers.saturating_sub(1)));
        Self { jobs: Mutex::default(), came: Notify::new(), seats }
    }

    fn push(&self, open: Open) {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner).push_back(open);
        self.came.notify_one();
    }

    /// Nothing is lost when the future is dropped.
    pub(super) async fn pop(&self) -> Open {
        loop {
            let came = self.came.notified();
            if let Some(open) = self.jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front() {
                return open;
            }
            came.await;
        }
    }
}

impl Pool {
    /// Whether a job may be begun early.
    pub fn has_idle_workers(&self) -> bool {
        let shared = &self.0.shared;
        let Snapshot { workers, queued, .. } = self.snapshot();
        let seat = shared.early.seats.available_permits() > 0;
        // Who knows whether it is one that kills, before all of it is there?
        seat && queued == 0 && workers.idle > 0 && shared.quarantine().is_empty(Instant::now())
    }

    /// Begins a job of which no unit and no end of the window is known yet, where that keeps no worker from anybody. It is a
    /// job of video whose window starts with a closed sync sample; each picture is shown at its own time.
    ///
    /// `vain`: set where such a job turns out to be one that has to be whole.
    pub fn begin(&self, draft: Job, vain: &Arc<AtomicBool>) -> Option<HeadStart> {
        let shared = &self.0.shared;
        if !self.has_idle_workers() {
            return None;
        }
        let seat = shared.early.seats.clone().try_acquire_owned().ok()?;
        let (told, to_worker) = mpsc::unbounded_channel();
        let (ended, ends) = oneshot::channel();
        let made = Arc::new(AtomicUsize::new(0));
        shared.early.push(Open { draft: draft.clone(), told: to_worker, made: made.clone(), ended, seat });
        Some(HeadStart { pool: self.clone(), draft, told, units: Vec::new(), made, ended: ends, vain: vain.clone() })
    }
}

impl HeadStart {
    /// Units that it knows of.
    pub fn known(&self) -> usize {
        self.units.len()
    }

    /// The next unit, in decode order.
    pub fn push(&mut self, unit: AccessUnit) {
        self.units.push(outline(&unit));
        // Where it is given up nobody listens any more.
        let _ = self.told.send(Told::Unit(unit));
    }

    /// Whether it is given up already.
    pub fn is_given_up(&self) -> bool {
        self.told.is_closed()
    }

    /// Whether that is the job that was begun.
    pub fn is_of(&self, job: &Job) -> bool {
        let same_work = self.draft.track == job.track && self.draft.work == job.work;
        let begins = self.units.len() <= job.units.len()
            && self.units.iter().copied().eq(job.units.iter().take(self.units.len()).map(outline));
        same_work && begins && self.draft.window.start == job.window.start
    }

    /// What part of that job is still to be done.
    pub fn left(&self, job: &Job) -> f64 {
        let (made, all) = (self.made.load(Ordering::Relaxed) as f64, job.units.len().max(1) as f64);
        (1.0 - made / all).clamp(LEAST_LEFT, 1.0)
    }

    /// Has the job done, now that it is whole: as [`Pool::run`], with a part of it done already.
    pub async fn finish(self, job: Job, claim: Claim) -> Done {
        let Self { pool, told, units, ended, vain, .. } = self;
        let rest = job.units.iter().skip(units.len()).cloned().map(Told::Unit);
        for part in rest.chain([Told::Whole(Box::new(job.clone()))]) {
            let _ = told.send(part);
        }
        let ended = tokio::select! {
            biased;
            ended = ended => ended,
            () = pool.0.shared.stop.cancelled() => return Done::unstarted(closed()),
        };
        match ended {
            Ok(Ended::Done(done)) => done,
            Ok(Ended::Failed(tried, failure)) => {
                vain.fetch_or(failure.code == FailureCode::FrameMismatch, Ordering::Relaxed);
                if tried.has_another_try(failure.code) {
                    return pool.have_done(job, claim, Lesson::Learn, tried).await;
                }
                let Tried { attempts, transcode, .. } = tried;
                Done { result: Err(failure), attempts, queued: Duration::ZERO, transcode }
            }
            Err(_) => pool.run(job, claim).await,
        }
    }
}

fn outline(unit: &AccessUnit) -> (Ticks, u64, usize) {
    (unit.pts, unit.offset, unit.data.len())
}

/// Has the worker do such a job. Some(cause) where the worker is of no further use.
pub(super) async fn work(shared: &Shared, slot: usize, child: &mut Child, open: Open) -> Option<&'static str> {
    let Open { mut draft, mut told, made, ended, seat } = open;
    let begun = Instant::now();
    let (id, seq) = (draft.id, draft.seq);
    let failed = |failure: Failure, ended: oneshot::Sender<Ended>, transcode: Duration| {
        shared.observer.head_start(HeadStartEvent::Failed);
        let mut tried = Tried::once(transcode);
        tried.fail(failure.code, true);
        let cause = failure.code.code();
        let message = failure.message.escape_debug().to_string();
        tracing::warn!(slot, job = id, seq, cause, message, "job failed that was begun early");
        let _ = ended.send(Ended::Failed(tried, failure));
        Some(cause)
    };
    let mut job = match Child::begin(&draft, shared.threads()) {
        Ok(job) => job,
        Err(failure) => return failed(failure, ended, Duration::ZERO),
    };
    let mut units = Vec::new();
    let mut crowded = std::pin::pin!(crowded(shared));
    let whole = loop {
        tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Some("closed"),
            next = told.recv() => match next {
                Some(Told::Unit(unit)) => {
                    if let Err(failure) = job.push(&unit) {
                        return failed(failure, ended, Duration::ZERO);
                    }
                    units.push(unit);
                }
                Some(Told::Whole(job)) => break Some(*job),
                None => break None,
            },
            step = child.go_on(&mut job) => {
                if let Err(failure) = step {
                    return failed(failure, ended, Duration::ZERO);
                }
                made.store(job.made(), Ordering::Relaxed);
            }
            () = &mut crowded => break None,
        }
    };
    drop((seat, told));
    // What nobody wants ends where it is, which takes less than another worker.
    let (whole, mut ended) = match whole {
        Some(whole) => (whole, Some(ended)),
        None => {
            draft.units = units;
            draft.window.end = Ticks(i64::MAX);
            (draft, None)
        }
    };
    let (done, all) = (made.load(Ordering::Relaxed) as f64, whole.units.len().max(1) as f64);
    let cost = shared.costs.of(&whole).mul_f64((1.0 - done / all).clamp(LEAST_LEFT, 1.0));
    let since = Instant::now();
    let _running = shared.run(slot, Running { cost, since, threads: shared.threads() });
    let left = async {
        match &mut ended {
            Some(ended) => ended.closed().await,
            None => std::future::pending().await,
        }
    };
    let result = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return Some("closed"),
        () = left => return Some("cancelled"),
        result = child.finish(job, &whole, &shared.config) => result,
    };
    let transcode = since.elapsed();
    match (result, ended) {
        (Ok(outcome), Some(ended)) => {
            shared.costs.learn(&whole, &outcome.stats, begun.elapsed(), shared.config.cpus);
            shared.observer.head_start(HeadStartEvent::Done);
            let done = Done { result: Ok(outcome), attempts: 1, queued: Duration::ZERO, transcode };
            let _ = ended.send(Ended::Done(done));
            None
        }
        (Ok(_), None) => {
            shared.observer.head_start(HeadStartEvent::GivenUp);
            None
        }
        (Err(failure), Some(ended)) => failed(failure, ended, transcode),
        (Err(failure), None) => {
            shared.observer.head_start(HeadStartEvent::GivenUp);
            Some(failure.code.code())
        }
    }
}

/// Comes when others have waited for a worker for too long.
async fn crowded(shared: &Shared) {
    let mut before = false;
    loop {
        sleep(CROWDED / 2).await;
        let waits = shared.queue.depth().items > 0;
        if waits && before {
            return;
        }
        before = waits;
    }
}
