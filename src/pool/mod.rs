//! Bounded worker processes, their queue, and their supervision.
//!
//! [`Pool::run`] takes a job and answers with its outcome or a named failure, whatever the worker does: hang, die,
//! lie. A job that fails for a reason that need not be its own is tried once more, in its old turn, on a worker that
//! has not seen it; a job that costs two workers their lives is poison, and remembered for a while. What a job means is
//! the worker's business.

mod calibration;
mod capacity;
mod child;
mod collect;
mod cost;
mod head_start;
mod hold;
mod poison;
mod projection;
mod quarantine;
mod queue;
mod stderr;
mod supervisor;

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

pub use self::capacity::{Capacity, Full, Reservation};
pub use self::cost::Costs;
use self::head_start::Early;
pub use self::head_start::{HeadStart, HeadStartEvent};
pub use self::poison::PoisonDir;
use self::projection::{Pace, Running};
use self::quarantine::{Identity, Outline, Quarantine};
use self::queue::{Load, Queue, Ticket};
use self::supervisor::{Entry, Lesson, Tried, supervise};
use crate::job::{Confinement, Failure, FailureCode, Inventory, Job, Layer, Outcome};
use crate::media::VideoCodec;

/// Poison jobs that may wait to be kept.
const POISON_WAITING: usize = 4;
/// With such a share of a processor a thread has it to itself, for all that matters.
const TO_ITSELF: f64 = 0.8;

/// How many workers, what they are, and how long they may take.
#[derive(Debug, Clone)]
pub struct Config {
    /// Worker processes, and so jobs at a time; at least 1.
    pub workers: usize,
    /// Jobs that may wait; at least 1. [`Pool::run`] waits for a place when there are more.
    pub queue_jobs: usize,
    /// Processors to share out as threads among the running jobs.
    pub cpus: usize,
    /// The worker's program; it finds its end of the socket as standard input.
    pub command: PathBuf,
    pub args: Vec<OsString>,
    /// The whole of the worker's environment; see [`worker_env`].
    pub env: Vec<(OsString, OsString)>,
    /// A worker that has not put these on itself gets no job.
    pub required: Vec<Layer>,
    /// From the start of the process to its hello.
    pub start_timeout: Duration,
    /// Between two frames of a running job.
    pub progress_timeout: Duration,
    /// For one attempt at a job…
    pub wall_timeout: Duration,
    /// …and this much more for each second of its media.
    pub wall_per_media_second: Duration,
    /// Where poison jobs are kept, if they are.
    pub poison: Option<PoisonDir>,
}

impl Config {
    /// A worker for each of `cpus`, with the usual clocks.
    pub fn new(command: impl Into<PathBuf>, cpus: usize) -> Self {
        Self {
            workers: cpus.max(1),
            queue_jobs: 4 * cpus.max(1),
            cpus: cpus.max(1),
            command: command.into(),
            args: Vec::new(),
            env: Vec::new(),
            required: Vec::new(),
            start_timeout: Duration::from_secs(10),
            progress_timeout: Duration::from_secs(10),
            wall_timeout: Duration::from_secs(30),
            wall_per_media_second: Duration::from_secs(15),
            poison: None,
        }
    }
}

/// A worker's environment out of the server's: where programs, libraries and GStreamer's registry are, and nothing
/// else (no secrets); with the allocator's settings that keep its memory mapped between jobs (a quarter of the page
/// faults) and in huge pages (an encoder goes through far more than the processor has translations for; a fifteenth of its
/// time), and what it keeps of addresses small against `--worker-memory`.
pub fn worker_env(server: impl IntoIterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    const PASSED: [&str; 4] = ["PATH", "HOME", "LD_LIBRARY_PATH", "XDG_CACHE_HOME"];
    const SET: [(&str, &str); 5] = [
        // The largest that glibc does not ignore.
        ("MALLOC_MMAP_THRESHOLD_", "33554432"),
        ("MALLOC_TRIM_THRESHOLD_", "2000000000"),
        ("MALLOC_ARENA_MAX", "1"),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
        // KiB.
        ("MIMALLOC_ARENA_RESERVE", "65536"),
    ];
    let passed = |name: &OsStr| name.to_str().is_some_and(|name| PASSED.contains(&name) || name.starts_with("GST_"));
    let set = SET.map(|(name, value)| (name.into(), value.into()));
    server.into_iter().filter(|(name, _)| passed(name)).chain(set).collect()
}

/// Why workers are replaced: a [`FailureCode`] of their job's or a [`StartError`], by its code; `cancelled` where nobody
/// waits for the job any more; `idle_exit` of one that had none.
pub const CAUSES: [&str; 18] = [
    "bad_media",
    "cancelled",
    "closed",
    "frame_mismatch",
    "idle_exit",
    "pipeline_failed",
    "start_closed",
    "start_died",
    "start_protocol",
    "start_refused",
    "start_spawn",
    "start_timeout",
    "start_unconfined",
    "unsupported_codec",
    "worker_died",
    "worker_killed",
    "worker_protocol",
    "worker_timeout",
];

/// Told of every change; for metrics. Called by the pool as it changes: must not block, nor ask the pool.
pub trait Observer: Send + Sync {
    /// How many workers there are in each state.
    fn workers(&self, workers: Workers) {
        let _ = workers;
    }
    /// A worker has started, so confined.
    fn worker_confined(&self, confinement: &Confinement) {
        let _ = confinement;
    }
    /// A worker was replaced, for one of [`CAUSES`].
    fn worker_restarted(&self, cause: &'static str) {
        let _ = cause;
    }
    /// A job was put in quarantine, or one that is there has come again.
    fn quarantine(&self, event: QuarantineEvent) {
        let _ = event;
    }
    /// A job that was begun early has come to an end.
    fn head_start(&self, event: HeadStartEvent) {
        let _ = event;
    }
    /// How many jobs wait, and how much media is in them.
    fn queue(&self, jobs: usize, media: Duration) {
        let _ = (jobs, media);
    }
    /// How fast the machine is was measured: the time that work takes here, over what the table says.
    fn calibrated(&self, ratio: f64) {
        let _ = ratio;
    }
    /// Of a [`Capacity`]: how many processors' work it can meet, and how many sessions need.
    fn capacity(&self, cores: f64, demand: f64) {
        let _ = (cores, demand);
    }
}

/// Observes nothing.
impl Observer for () {}

/// What happens to poison jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuarantineEvent {
    /// Two workers died of it.
    Added,
    /// The same again: answered at once, at no cost.
    Answered,
}

/// Workers by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Workers {
    pub starting: usize,
    pub idle: usize,
    pub busy: usize,
}

/// The pool at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Snapshot {
    pub workers: Workers,
    /// Jobs that have a place in the queue.
    pub queued: usize,
    pub queued_media: Duration,
}

/// Whose jobs wait for each other, and no one else's: one of a session's, by [`Pool::session`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Who wants a job done, and by when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    pub session: SessionId,
    /// A job that has come to no worker by then is [`FailureCode::Late`]. None: whenever there is time for it.
    pub deadline: Option<Instant>,
}

/// What came of a job, and what it took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    pub result: Result<Outcome, Failure>,
    /// 0 where it did not come to a worker.
    pub attempts: u32,
    /// In all, for a place and for a worker.
    pub queued: Duration,
    /// On workers since the job was whole, all attempts together.
    pub transcode: Duration,
}

impl Done {
    /// Of a job that came to no worker.
    fn unstarted(failure: Failure) -> Self {
        Self { result: Err(failure), attempts: 0, queued: Duration::ZERO, transcode: Duration::ZERO }
    }
}

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the worker can't be started: {0}")]
    Spawn(io::Error),
    #[error("the worker was not ready within {0:?}")]
    Timeout(Duration),
    #[error("{0} before it was ready")]
    Died(String),
    #[error("the worker did not say hello: {0}")]
    Protocol(String),
    #[error("the worker's sandbox lacks what is required: {0}")]
    Unconfined(String),
    #[error("the worker can't work: {0}")]
    Refused(Failure),
    #[error("the pool was closed")]
    Closed,
}

impl StartError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Spawn(_) => "start_spawn",
            Self::Timeout(_) => "start_timeout",
            Self::Died(_) => "start_died",
            Self::Protocol(_) => "start_protocol",
            Self::Unconfined(_) => "start_unconfined",
            Self::Refused(_) => "start_refused",
            Self::Closed => "start_closed",
        }
    }
}

/// The workers. Clones are the same pool; when the last one goes, the workers are killed.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    supervisors: tokio::sync::Mutex<JoinSet<()>>,
    inventory: Inventory,
}

/// What the slots have in common.
struct Shared {
    config: Config,
    observer: Arc<dyn Observer>,
    queue: Queue<Entry>,
    early: Early,
    costs: Costs,
    next_session: AtomicU64,
    workers: Mutex<Workers>,
    quarantine: Mutex<Quarantine>,
    /// To who keeps them.
    poison: mpsc::Sender<(Job, Identity)>,
    /// By slot: what the job on it will have cost, and since when it runs on how many threads.
    running: Mutex<Vec<Option<Running>>>,
    pace: Mutex<Pace>,
    stop: CancellationToken,
}

impl Pool {
    /// Starts all workers side by side, and is there as soon as one is.
    ///
    /// # Errors
    /// The last reason, where no worker starts at its first attempt.
    pub async fn start(config: Config, observer: Arc<dyn Observer>) -> Result<Self, StartError> {
        let slots = config.workers.max(1);
        let (poison, to_keep) = mpsc::channel(POISON_WAITING);
        let poison_dir = config.poison.clone();
        let shared = Arc::new(Shared {
            queue: Queue::new(config.queue_jobs),
            early: Early::new(slots),
            costs: Costs::default(),
            next_session: AtomicU64::new(1),
            workers: Mutex::default(),
            quarantine: Mutex::default(),
            poison,
            running: Mutex::new(vec![None; slots]),
            pace: Mutex::new(Pace::new(Instant::now())),
            stop: CancellationToken::new(),
            config,
            observer,
        });
        let (first, mut starts) = mpsc::channel(slots);
        let mut supervisors = JoinSet::new();
        for slot in 0..slots {
            supervisors.spawn(supervise(shared.clone(), slot, first.clone()));
        }
        drop(first);
        supervisors.spawn(keep_poison(poison_dir, to_keep, shared.stop.clone()));
        let mut last_error = StartError::Closed;
        while let Some(start) = starts.recv().await {
            match start {
                Ok(inventory) => {
                    let supervisors = tokio::sync::Mutex::new(supervisors);
                    return Ok(Self(Arc::new(Inner { shared, supervisors, inventory })));
                }
                Err(error) => last_error = error,
            }
        }
        shared.stop.cancel();
        while supervisors.join_next().await.is_some() {}
        Err(last_error)
    }

    /// What the workers can do.
    pub fn inventory(&self) -> &Inventory {
        &self.0.inventory
    }

    /// A session's place in the queue, for its [`Claim`]s.
    pub fn session(&self) -> SessionId {
        SessionId(self.0.shared.next_session.fetch_add(1, Ordering::Relaxed))
    }

    /// What jobs cost here.
    pub fn costs(&self) -> &Costs {
        &self.0.shared.costs
    }

    /// Processors that jobs can have at a time.
    pub fn cores(&self) -> f64 {
        f64::from(self.0.shared.cores())
    }

    /// How many processors jobs of that cost keep from others for as long as they run, if their media lasts so long. One
    /// of which others on this machine take half is kept for twice the time.
    pub fn demand(&self, cost: Duration, media: Duration) -> f64 {
        let share = (self.0.shared.share(Instant::now()) / TO_ITSELF).min(1.0);
        let demand = cost.as_secs_f64() / media.as_secs_f64() / share;
        if demand.is_finite() { demand } else { 0.0 }
    }

    /// How long from now until a job of that cost that is put in now would be done: behind what runs and what the fair
    /// queue would serve before it, on the threads that it would get.
    pub fn projected(&self, claim: Claim, cost: Duration) -> Duration {
        self.0.shared.projected(claim, cost, Instant::now())
    }

    /// How long a job of that cost takes that has a worker for itself.
    pub fn takes(&self, cost: Duration) -> Duration {
        self.0.shared.takes(cost, Instant::now())
    }

    /// Has the job done: waits for its turn in the queue, for a worker, and for the outcome. Sessions take turns by what
    /// their jobs cost; of one session the earliest deadline comes first. A job with `threads` 0 gets its share of the
    /// processors as it starts. One that has come to no worker by its deadline is [`FailureCode::Late`].
    ///
    /// To drop the future is to cancel the job.
    pub async fn run(&self, job: Job, claim: Claim) -> Done {
        self.have_done(job, claim, Lesson::Learn, Tried::default()).await
    }

    /// Measures once how fast this machine is, against the one of the cost model's table, while no worker has anything
    /// else to do. None where there is other work, which teaches as well; or where it can't be measured.
    pub async fn calibrate(&self) -> Option<f64> {
        let shared = &*self.0.shared;
        let Inventory { video_decoders, video_encoders, .. } = self.inventory();
        if ![video_decoders, video_encoders].iter().all(|codecs| codecs.iter().any(|(it, _)| *it == VideoCodec::H264)) {
            return None;
        }
        let first = tokio::task::spawn_blocking(calibration::first).await.ok()?;
        let (made, _) = self.measured(first).await?;
        let second = calibration::second(&made)?;
        let (outcome, took) = self.measured(second.clone()).await?;
        let ratio = shared.costs.calibrate(&second, &outcome.stats, took, shared.config.cpus)?;
        shared.observer.calibrated(ratio);
        Some(ratio)
    }

    /// A job of our own, if it costs nobody any time, and how long it was on its worker.
    async fn measured(&self, job: Job) -> Option<(Outcome, Duration)> {
        let Snapshot { workers, queued, .. } = self.snapshot();
        if queued > 0 || workers.busy > 0 {
            return None;
        }
        let claim = Claim { session: self.session(), deadline: None };
        let done = self.have_done(job, claim, Lesson::None, Tried::default()).await;
        Some((done.result.ok()?, done.transcode))
    }

    async fn have_done(&self, job: Job, claim: Claim, lesson: Lesson, tried: Tried) -> Done {
        let shared = &*self.0.shared;
        let (job, known) = shared.in_quarantine(job).await;
        if known {
            return Done::unstarted(Failure::new(FailureCode::Poison, "workers died of this segment a while ago"));
        }
        let (reply, mut done) = oneshot::channel();
        let leave = Leave { shared, ticket: shared.queue.ticket(claim) };
        let load = Load { cost: shared.costs.of(&job), media: media(&job) };
        match shared.queue.push(leave.ticket, Entry::new(job, load, lesson, tried, reply), load) {
            Ok(()) => shared.queue_changed(),
            Err(entry) => entry.answer(Err(closed())),
        }
        let late = async {
            match claim.deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let done = tokio::select! {
            biased;
            done = &mut done => done,
            () = late => {
                if let Some(entry) = shared.queue.remove_fresh(leave.ticket) {
                    shared.queue_changed();
                    entry.late();
                }
                done.await
            }
        };
        done.unwrap_or_else(|_| Done::unstarted(closed()))
    }

    pub fn snapshot(&self) -> Snapshot {
        let depth = self.0.shared.queue.depth();
        Snapshot { workers: *self.0.shared.workers(), queued: depth.items, queued_media: depth.media }
    }

    /// Takes no more jobs, answers all that are not done with [`FailureCode::Closed`], kills the workers and waits
    /// for their end. To let jobs finish first, wait for their [`Pool::run`].
    pub async fn close(&self) {
        let shared = &self.0.shared;
        shared.stop.cancel();
        for entry in shared.queue.close() {
            entry.answer(Err(closed()));
        }
        shared.queue_changed();
        let mut supervisors = self.0.supervisors.lock().await;
        while supervisors.join_next().await.is_some() {}
    }
}

/// Gives up a job's place in the queue, where it still has one.
struct Leave<'a> {
    shared: &'a Shared,
    ticket: Ticket,
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if self.shared.queue.remove(self.ticket).is_some() {
            self.shared.queue_changed();
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Starting,
    Idle,
    Busy,
}

/// A worker's part in the counts, for as long as it is there.
struct Seat<'a> {
    shared: &'a Shared,
    state: State,
}

impl Seat<'_> {
    fn set(&mut self, state: State) {
        let old = std::mem::replace(&mut self.state, state);
        self.shared.count(|workers| {
            *workers.of(old) -= 1;
            *workers.of(state) += 1;
        });
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.shared.count(|workers| *workers.of(self.state) -= 1);
    }
}

impl Workers {
    fn of(&mut self, state: State) -> &mut usize {
        match state {
            State::Starting => &mut self.starting,
            State::Idle => &mut self.idle,
            State::Busy => &mut self.busy,
        }
    }
}

impl Shared {
    fn seat(&self) -> Seat<'_> {
        self.count(|workers| workers.starting += 1);
        Seat { shared: self, state: State::Starting }
    }

    /// The observer is told under the lock, so that it hears of changes in their order.
    fn count(&self, change: impl FnOnce(&mut Workers)) {
        let mut workers = self.workers();
        change(&mut workers);
        self.observer.workers(*workers);
    }

    fn queue_changed(&self) {
        let depth = self.queue.depth();
        self.observer.queue(depth.items, depth.media);
    }

    /// Whether workers have died of this very job; gives it back.
    async fn in_quarantine(&self, job: Job) -> (Job, bool) {
        if !self.quarantine().may_hold(Outline::of(&job), Instant::now()) {
            return (job, false);
        }
        let (job, identity) = identify(job).await;
        let known = identity.is_some_and(|identity| self.quarantine().holds(&identity, Instant::now()));
        if known {
            self.observer.quarantine(QuarantineEvent::Answered);
        }
        (job, known)
    }

    /// Remembers a job of which workers have died, and has it kept.
    async fn put_in_quarantine(&self, job: Job) {
        let outline = Outline::of(&job);
        let (job, Some(identity)) = identify(job).await else { return };
        self.quarantine().add(outline, identity, Instant::now());
        self.observer.quarantine(QuarantineEvent::Added);
        tracing::warn!(job = job.id, seq = job.seq, hash = %identity, "job in quarantine");
        if self.config.poison.is_some() && self.poison.try_send((job, identity)).is_err() {
            tracing::warn!(hash = %identity, "too many poison jobs at once: one is not kept");
        }
    }

    fn quarantine(&self) -> MutexGuard<'_, Quarantine> {
        self.quarantine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn workers(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The job's hash, counted where that holds up nobody.
async fn identify(job: Job) -> (Job, Option<Identity>) {
    let job = Arc::new(job);
    let counted = Arc::clone(&job);
    let identity = tokio::task::spawn_blocking(move || Identity::of(&counted)).await.ok();
    (Arc::unwrap_or_clone(job), identity)
}

/// Keeps poison jobs as files, one after the other, until the pool stops.
async fn keep_poison(dir: Option<PoisonDir>, mut jobs: mpsc::Receiver<(Job, Identity)>, stop: CancellationToken) {
    let Some(dir) = dir else { return };
    loop {
        let next = tokio::select! {
            biased;
            next = jobs.recv() => next,
            () = stop.cancelled() => return,
        };
        let Some((job, identity)) = next else { return };
        let dir = dir.clone();
        let kept = tokio::task::spawn_blocking(move || dir.keep(&job, &identity)).await;
        match kept.map_err(io::Error::other).flatten() {
            Ok(true) => tracing::info!(hash = %identity, "poison job kept"),
            Ok(false) => tracing::warn!(hash = %identity, "a poison job is larger than all that may be kept"),
            Err(error) => tracing::error!(hash = %identity, %error, "a poison job can't be kept"),
        }
    }
}

fn closed() -> Failure {
    Failure::new(FailureCode::Closed, "the pool is closing")
}

/// How long the media of the job's window is; the window is the client's doing, and may be absurd: an hour at most is
/// believed.
fn media(job: &Job) -> Duration {
    const MOST: Duration = Duration::from_secs(3600);
    let ticks = i128::from(job.window.end.0) - i128::from(job.window.start.0);
    let micros = ticks.max(0) * 1_000_000 / i128::from(job.track.timescale.get());
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)).min(MOST)
}

#[cfg(test)]
mod tests;
