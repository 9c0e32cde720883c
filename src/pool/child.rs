//! One worker process: its start, its jobs, its end. What can hang lives there; every wait for it has a clock, and
//! the only way to stop it is SIGKILL (see [`super::hold`]).

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::Either;
use rustix::process::Signal;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child as Process, Command};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::collect::{Collector, reported};
use super::hold::Hold;
use super::{Config, StartError, collect, media, stderr};
use crate::ipc::pool_end::{self, Reader, write_job};
use crate::ipc::{self, FromWorker, MAX_FRAME, MAX_HELLO};
use crate::job::{Failure, FailureCode, Inventory, Job, Outcome};
use crate::media::AccessUnit;
use crate::patience::{Patience, within};

/// How long a killed process may take to go, and its last words to come.
const REAP: Duration = Duration::from_secs(5);
const LAST_WORDS: Duration = Duration::from_millis(200);
/// How long a process whose socket has closed may take to say how it ended.
const EPITAPH: Duration = Duration::from_secs(1);

/// A worker that has been started. It is killed when this is dropped, too; [`Child::kill`] also waits for its end.
pub(super) struct Child {
    process: Process,
    hold: Hold,
    reader: Reader<OwnedReadHalf>,
    writer: OwnedWriteHalf,
    stderr: JoinSet<()>,
}

impl Child {
    pub(super) fn spawn(config: &Config, slot: usize) -> io::Result<Self> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        // What this process was started with, or what a library has opened, is not the worker's either.
        close_fds::set_fds_cloexec_threadsafe(3, &[]);
        let mut process = Command::new(&config.command)
            .args(&config.args)
            .env_clear()
            .envs(config.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A terminal's interrupt is for the server, which still has jobs to finish.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (reader, writer) = UnixStream::from_std(ours)?.into_split();
        let mut lines = JoinSet::new();
        if let (Some(stderr), Some(pid)) = (process.stderr.take(), process.id()) {
            lines.spawn(stderr::log(stderr, slot, pid));
        }
        let hold = Hold::on(&process);
        Ok(Self { process, hold, reader: Reader::new(reader), writer, stderr: lines })
    }

    /// None once it has ended.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Waits until it says that it is ready, and what it can do.
    pub(super) async fn hello(&mut self, limit: Duration) -> Result<Inventory, StartError> {
        match within(limit, self.reader.read(MAX_HELLO)).await {
            None => Err(StartError::Timeout(limit)),
            Some(Ok(Some(FromWorker::Hello(inventory)))) => Ok(inventory),
            Some(Ok(Some(FromWorker::Failed(failure)))) => Err(StartError::Refused(reported(failure))),
            Some(Ok(Some(_))) => Err(StartError::Protocol("not a hello".into())),
            Some(Ok(None) | Err(ipc::Error::Io(_) | ipc::Error::Truncated)) => {
                Err(StartError::Died(self.epitaph().await.1))
            }
            Some(Err(error)) => Err(StartError::Protocol(error.to_string())),
        }
    }

    /// Ends when the worker does something that it must not do without a job, and says what: dying, or speaking. Nothing
    /// is lost when the future is dropped.
    pub(super) async fn misbehaved(&mut self) -> &'static str {
        // Whatever it says is out of place: its first word is too long.
        match self.reader.read(0).await {
            Ok(None) | Err(ipc::Error::Io(_)) => "idle_exit",
            Ok(Some(_)) | Err(_) => FailureCode::WorkerProtocol.code(),
        }
    }

    /// Has it do one job. After a failure it is of no further use.
    pub(super) async fn perform(&mut self, job: &Job, threads: u32, config: &Config) -> Result<Outcome, Failure> {
        let sending = write_job(&mut self.writer, job, threads);
        match converse(&mut self.reader, sending, Collector::new(job), (job, Instant::now()), config).await {
            Ok(outcome) => Ok(outcome),
            Err(end) => Err(self.told(end).await),
        }
    }

    /// Begins with a job that has no units yet.
    pub(super) fn begin(draft: &Job, threads: u32) -> Result<OpenJob, Failure> {
        let open = pool_end::Open::new(draft, threads).map_err(too_large)?;
        Ok(OpenJob { open, collector: Collector::new(draft), begun: Instant::now() })
    }

    /// Goes on with it by one step. Nothing is lost when the future is dropped. After a failure the worker is of no further
    /// use.
    pub(super) async fn go_on(&mut self, job: &mut OpenJob) -> Result<(), Failure> {
        let Self { reader, writer, .. } = self;
        let waits = !job.open.is_written();
        let end = tokio::select! {
            biased;
            written = job.open.write(writer), if waits => match written {
                // Reading tells why it does not listen any more.
                Ok(()) | Err(ipc::Error::Io(_)) => return Ok(()),
                Err(error) => End::Failed(too_large(error)),
            },
            frame = reader.read(MAX_FRAME) => match frame {
                Ok(Some(FromWorker::Finished(_))) => failed(FailureCode::WorkerProtocol, "it finished too soon".into()),
                Ok(Some(frame)) => match job.collector.push(frame) {
                    Ok(_) => return Ok(()),
                    Err(failure) => End::Failed(failure),
                },
                Ok(None) | Err(ipc::Error::Io(_) | ipc::Error::Truncated) => End::Closed,
                Err(error) => failed(FailureCode::WorkerProtocol, error.to_string()),
            },
        };
        Err(self.told(end).await)
    }

    /// Has it finish that job, which is whole now.
    pub(super) async fn finish(&mut self, open: OpenJob, job: &Job, config: &Config) -> Result<Outcome, Failure> {
        let OpenJob { mut open, mut collector, begun } = open;
        open.end(job.window.end).map_err(too_large)?;
        collector.whole(job);
        let sending = open.write(&mut self.writer);
        match converse(&mut self.reader, sending, collector, (job, begun), config).await {
            Ok(outcome) => Ok(outcome),
            Err(end) => Err(self.told(end).await),
        }
    }

    async fn told(&mut self, end: End) -> Failure {
        match end {
            End::Failed(failure) => failure,
            End::Closed => {
                let (code, message) = self.epitaph().await;
                Failure::new(code, message)
            }
        }
    }

    /// How it ended, by itself or by others, and for a person.
    async fn epitaph(&mut self) -> (FailureCode, String) {
        match timeout(EPITAPH, self.process.wait()).await {
            Ok(Ok(status)) if was_killed(status) => {
                (FailureCode::WorkerKilled, format!("the worker was killed from outside, {status}"))
            }
            Ok(Ok(status)) => (FailureCode::WorkerDied, format!("the worker ended, {status}")),
            Ok(Err(error)) => (FailureCode::WorkerDied, format!("the worker ended, {error}")),
            Err(_) => (FailureCode::WorkerDied, "the worker closed its socket".into()),
        }
    }

    /// Kills it and waits for its end and its last words.
    pub(super) async fn kill(mut self) {
        self.hold.kill(&mut self.process);
        if timeout(REAP, self.process.wait()).await.is_err() {
            tracing::error!(pid = self.process.id(), "a killed worker does not go");
        }
        let _ = timeout(LAST_WORDS, self.stderr.join_next()).await;
    }
}

/// A job on a worker that is not whole yet.
pub(super) struct OpenJob {
    open: pool_end::Open,
    collector: Collector,
    begun: Instant,
}

impl OpenJob {
    /// One more unit of it is known.
    pub(super) fn push(&mut self, unit: &AccessUnit) -> Result<(), Failure> {
        self.open.unit(unit).map_err(too_large)?;
        self.collector.sent_another();
        Ok(())
    }

    /// How many pictures are made, in all renditions.
    pub(super) fn made(&self) -> usize {
        self.collector.least()
    }
}

/// What is left of a job once all of it is known; `begun`: since when it has been at work.
async fn converse(
    reader: &mut Reader<OwnedReadHalf>,
    sending: impl Future<Output = Result<(), ipc::Error>>,
    mut collector: Collector,
    (job, begun): (&Job, Instant),
    config: &Config,
) -> Result<Outcome, End> {
    let wall = config.wall_timeout.saturating_add(config.wall_per_media_second.saturating_mul(seconds(job)));
    let (mut wall_clock, mut progress_clock) = (Patience::new(wall), Patience::new(config.progress_timeout));
    let (mut sent, mut looked) = (false, Instant::now());
    let mut sending = std::pin::pin!(sending);
    loop {
        let over = [(progress_clock, "no progress", config.progress_timeout), (wall_clock, "not done", wall)];
        if let Some((_, what, limit)) = over.into_iter().find(|(clock, ..)| clock.is_over()) {
            return Err(failed(FailureCode::WorkerTimeout, format!("{what} in {limit:?}")));
        }
        let next = timeout(wall_clock.piece().min(progress_clock.piece()), async {
            tokio::select! {
                biased;
                result = &mut sending, if !sent => Either::Left(result),
                frame = reader.read(MAX_FRAME) => Either::Right(frame),
            }
        });
        let next = next.await;
        let waited = looked.elapsed();
        looked += waited;
        wall_clock.spend(waited);
        progress_clock.spend(waited);
        let Ok(next) = next else { continue };
        progress_clock = Patience::new(config.progress_timeout);
        match next {
            // It has taken the job.
            Either::Left(result) => {
                sent = true;
                match result {
                    // Reading tells why it does not listen any more.
                    Ok(()) | Err(ipc::Error::Io(_)) => {}
                    Err(error) => return Err(failed(FailureCode::BadMedia, error.to_string())),
                }
            }
            Either::Right(Ok(Some(frame))) => {
                let Some(stats) = collector.push(frame)? else { continue };
                if !sent || !reader.is_empty() {
                    return Err(failed(FailureCode::WorkerProtocol, "it finished at the wrong time".into()));
                }
                collect::check_stats(&stats, job, begun.elapsed(), config.cpus)?;
                return Ok(collector.into_outcome(stats));
            }
            Either::Right(Ok(None) | Err(ipc::Error::Io(_) | ipc::Error::Truncated)) => return Err(End::Closed),
            Either::Right(Err(error)) => return Err(failed(FailureCode::WorkerProtocol, error.to_string())),
        }
    }
}

enum End {
    Failed(Failure),
    /// The socket has closed.
    Closed,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What can't be sent is the media's fault.
fn too_large(error: ipc::Error) -> Failure {
    Failure::new(FailureCode::BadMedia, error.to_string())
}

fn failed(code: FailureCode, message: String) -> End {
    End::Failed(Failure::new(code, message))
}

/// Whether it ended by a signal that no fault of its own raises: the system's, where memory is short, or a person's. (The
/// pool's own SIGKILL comes after its word on why.)
fn was_killed(status: ExitStatus) -> bool {
    const OUTSIDE: [Signal; 5] = [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT];
    status.signal().is_some_and(|signal| OUTSIDE.iter().any(|outside| outside.as_raw() == signal))
}

/// Media seconds of the job, begun ones counted.
fn seconds(job: &Job) -> u32 {
    u32::try_from(media(job).as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}
