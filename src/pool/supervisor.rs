//! One slot of the pool: keeps a worker alive in it, and gives it one job after the other.
//!
//! A failed job, whatever the failure, costs the worker its life: nothing that a bad segment has done to a process
//! reaches the next one. A client that leaves in mid-job costs it its life as well: a start is cheaper than a segment
//! that nobody wants.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};

use super::child::Child;
use super::head_start;
use super::projection::Running;
use super::queue::{Load, Ticket};
use super::{Done, Shared, StartError, State};
use crate::job::{Confinement, Failure, FailureCode, Inventory, Job, Layer, Outcome};

/// How often a job is tried, and how often a worker that has it may be killed by somebody else, at which the job is
/// not at fault and so not held to have been tried.
const MAX_ATTEMPTS: u32 = 2;
const MAX_KILLED: u32 = 8;
/// The pause after a worker that came to no job: the first, doubling with each in a row, up to the last.
const PAUSE: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Whether what a job took teaches what such jobs cost, and how fast they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lesson {
    Learn,
    None,
}

/// A job on its way through the pool.
pub(super) struct Entry {
    job: Job,
    load: Load,
    lesson: Lesson,
    /// Closed when nobody waits for the outcome any more.
    reply: oneshot::Sender<Done>,
    /// Since when it waits.
    since: Instant,
    queued: Duration,
    tried: Tried,
}

/// How often a job was tried, and how that went.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tried {
    pub attempts: u32,
    /// On workers, in all.
    pub transcode: Duration,
    /// How many of the attempts have cost a worker its life, or would have gone on for ever.
    kills: u32,
    /// How many of them were ended by somebody else.
    killed: u32,
    /// How many of them say nothing of the job: those, and what was begun before all of it was known and had to know it.
    excused: u32,
}

impl Tried {
    /// Once, for so long.
    pub(super) fn once(transcode: Duration) -> Self {
        Self { attempts: 1, transcode, ..Self::default() }
    }

    /// An attempt has failed. `early`: it was begun before the job was whole.
    pub(super) fn fail(&mut self, code: FailureCode, early: bool) {
        let killed = code == FailureCode::WorkerKilled;
        self.kills += u32::from(is_kill(code));
        self.killed += u32::from(killed);
        self.excused += u32::from(killed || early && code == FailureCode::FrameMismatch);
    }

    /// Whether it may be tried again after such a failure.
    pub(super) fn has_another_try(&self, code: FailureCode) -> bool {
        match code {
            FailureCode::WorkerKilled => self.killed < MAX_KILLED,
            code => code.retryable() && self.attempts.saturating_sub(self.excused) < MAX_ATTEMPTS,
        }
    }
}

impl Entry {
    pub(super) fn new(job: Job, load: Load, lesson: Lesson, tried: Tried, reply: oneshot::Sender<Done>) -> Self {
        Self { job, load, lesson, reply, since: Instant::now(), queued: Duration::ZERO, tried }
    }

    /// Its deadline has passed before a worker had it.
    pub(super) fn late(mut self) {
        self.queued = self.since.elapsed();
        self.answer(Err(Failure::new(FailureCode::Late, "its deadline passed while it waited for a worker")));
    }

    pub(super) fn answer(self, result: Result<Outcome, Failure>) {
        let Self { queued, tried: Tried { attempts, transcode, .. }, .. } = self;
        // Who has left needs no answer.
        let _ = self.reply.send(Done { result, attempts, queued, transcode });
    }
}

/// How the first start of a slot went.
pub(super) type FirstStart = mpsc::Sender<Result<Inventory, StartError>>;

/// Runs until the pool stops.
pub(super) async fn supervise(shared: Arc<Shared>, slot: usize, first: FirstStart) {
    let mut first = Some(first);
    let mut in_vain: u32 = 0;
    loop {
        let life = live(&shared, slot, &mut first).await;
        if shared.stop.is_cancelled() {
            return;
        }
        debug_assert!(super::CAUSES.contains(&life.cause), "{}", life.cause);
        shared.observer.worker_restarted(life.cause);
        if life.worked {
            in_vain = 0;
            continue;
        }
        let pause = PAUSE.saturating_mul(1 << in_vain.min(16)).min(PAUSE_MAX);
        in_vain = in_vain.saturating_add(1);
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

struct Life {
    /// Why it ended.
    cause: &'static str,
    /// Whether it came to a job.
    worked: bool,
}

/// One worker, from its start to its end.
async fn live(shared: &Shared, slot: usize, first: &mut Option<FirstStart>) -> Life {
    let mut seat = shared.seat();
    let started = start(shared, slot).await;
    let mut child = match started {
        Ok((child, inventory)) => {
            tell(first, Ok(inventory));
            child
        }
        Err(error) => {
            let cause = error.code();
            tell(first, Err(error));
            return Life { cause, worked: false };
        }
    };
    let mut worked = false;
    let cause = loop {
        seat.set(State::Idle);
        let (ticket, entry) = tokio::select! {
            biased;
            () = shared.stop.cancelled() => break "closed",
            cause = child.misbehaved() => break cause,
            next = shared.queue.pop() => next,
            early = shared.early.pop() => {
                worked = true;
                seat.set(State::Busy);
                match head_start::work(shared, slot, &mut child, early).await {
                    Some(cause) => break cause,
                    None => continue,
                }
            }
        };
        shared.queue_changed();
        if entry.reply.is_closed() {
            continue;
        }
        worked = true;
        seat.set(State::Busy);
        if let Some(cause) = work(shared, slot, &mut child, ticket, entry).await {
            break cause;
        }
    };
    tracing::debug!(slot, pid = child.pid(), cause, "worker recycled");
    child.kill().await;
    Life { cause, worked }
}

async fn start(shared: &Shared, slot: usize) -> Result<(Child, Inventory), StartError> {
    let begun = Instant::now();
    let started = match Child::spawn(&shared.config, slot) {
        Err(error) => Err(StartError::Spawn(error)),
        Ok(mut child) => {
            let hello = tokio::select! {
                biased;
                () = shared.stop.cancelled() => Err(StartError::Closed),
                hello = child.hello(shared.config.start_timeout) => hello,
            };
            let confined = hello.and_then(|inventory| {
                confined(&shared.config.required, &inventory.confinement)?;
                shared.observer.worker_confined(&inventory.confinement);
                Ok(inventory)
            });
            match confined {
                Ok(inventory) => Ok((child, inventory)),
                Err(error) => {
                    child.kill().await;
                    Err(error)
                }
            }
        }
    };
    match &started {
        Ok((child, _)) => tracing::debug!(slot, pid = child.pid(), took = ?begun.elapsed(), "worker ready"),
        Err(StartError::Closed) => {}
        Err(error) => tracing::error!(slot, cause = error.code(), %error, "worker did not start"),
    }
    started
}

/// Whether all that is required is on.
fn confined(required: &[Layer], confinement: &Confinement) -> Result<(), StartError> {
    let missing: Vec<_> = required.iter().filter(|layer| !confinement.on.contains(layer)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let reason = |layer: &Layer| confinement.lacking.iter().find(|(lacking, _)| lacking == layer).map(|(_, why)| why);
    let told = |layer: &Layer| match reason(layer) {
        Some(why) => format!("{} ({})", layer.name(), why.escape_debug()),
        None => layer.name().to_owned(),
    };
    Err(StartError::Unconfined(missing.into_iter().map(told).collect::<Vec<_>>().join(", ")))
}

fn tell(first: &mut Option<FirstStart>, result: Result<Inventory, StartError>) {
    if let Some(first) = first.take() {
        // There is room for one word from each slot; nobody listens once one worker has started.
        let _ = first.try_send(result);
    }
}

/// Has the worker do the job, and says what came of it. Some(cause) where the worker is of no further use.
async fn work(
    shared: &Shared,
    slot: usize,
    child: &mut Child,
    ticket: Ticket,
    mut entry: Entry,
) -> Option<&'static str> {
    let started = Instant::now();
    let threads = if entry.job.threads == 0 { shared.threads() } else { entry.job.threads };
    let _running = shared.run(slot, Running { cost: entry.load.cost, since: started, threads });
    entry.tried.attempts += 1;
    entry.queued += started - entry.since;
    let result = tokio::select! {
        biased;
        () = shared.stop.cancelled() => Err(Failure::new(FailureCode::Closed, "the pool is closing")),
        () = entry.reply.closed() => return Some("cancelled"),
        result = child.perform(&entry.job, threads, &shared.config) => result,
    };
    entry.tried.transcode += started.elapsed();
    let failure = match result {
        Ok(outcome) => {
            if entry.lesson == Lesson::Learn {
                let took = started.elapsed();
                shared.costs.learn(&entry.job, &outcome.stats, took, shared.config.cpus);
                shared.went(Duration::from_micros(outcome.stats.cpu_us), took, Instant::now());
            }
            entry.answer(Ok(outcome));
            return None;
        }
        Err(failure) => failure,
    };
    let cause = failure.code.code();
    tracing::warn!(
        slot,
        pid = child.pid(),
        job = entry.job.id,
        seq = entry.job.seq,
        attempt = entry.tried.attempts,
        cause,
        message = %failure.message.escape_debug(),
        "job failed"
    );
    settle(shared, ticket, entry, failure).await;
    Some(cause)
}

/// Tries a failed job again, or answers it.
async fn settle(shared: &Shared, ticket: Ticket, mut entry: Entry, failure: Failure) {
    entry.tried.fail(failure.code, false);
    if entry.tried.has_another_try(failure.code) {
        entry.since = Instant::now();
        let load = entry.load;
        match shared.queue.push_back_in_turn(ticket, entry, load) {
            Ok(()) => shared.queue_changed(),
            Err(entry) => entry.answer(Err(failure)),
        }
    } else if entry.tried.kills >= MAX_ATTEMPTS {
        let message = format!("two workers died of it, the second by {}: {}", failure.code.code(), failure.message);
        // Before the answer: who sends the same again finds it there.
        shared.put_in_quarantine(entry.job.clone()).await;
        entry.answer(Err(Failure::new(FailureCode::Poison, message)));
    } else {
        entry.answer(Err(failure));
    }
}

/// Failures in which the worker did not come to a word of its own.
fn is_kill(code: FailureCode) -> bool {
    matches!(code, FailureCode::WorkerDied | FailureCode::WorkerTimeout | FailureCode::WorkerProtocol)
}
