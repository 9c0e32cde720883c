//! The whole service, put together: ports, pool, sessions; and taken apart again.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::app::App;
use super::auth::Auth;
use super::ops;
use super::retire::Watcher;
use super::router::router;
use crate::config::{Config, Resume, SandboxMode};
use crate::job::{Confinement, Layer};
use crate::pool::{self, Capacity, HeadStartEvent, Observer, PoisonDir, Pool, QuarantineEvent, Workers};
use crate::session::{Context, Scratch, Settings, Tokens};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{HeadStarted, Quarantined, WorkerState};

/// Of the processors, how much sessions may need: the rest is for the service itself, and for jobs that take longer than
/// foreseen.
const PLANNED: f64 = 0.9;

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("can't listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("signals can't be watched: {0}")]
    Signals(io::Error),
    #[error("the path of this program is not known: {0}")]
    Program(io::Error),
    #[error("the keys of tokens can't be fetched: {0}")]
    Keys(io::Error),
    #[error("Cloud Run can't be asked: {0}")]
    Run(io::Error),
    #[error("there is no randomness for a key: {0}")]
    Randomness(#[from] getrandom::Error),
    #[error(transparent)]
    Pool(#[from] pool::StartError),
}

/// A running service.
pub struct Service {
    /// Of the API.
    pub address: SocketAddr,
    /// Of health and metrics.
    pub ops_address: SocketAddr,
    readiness: ops::Readiness,
    pool: Pool,
    drain: Duration,
    /// Tells sessions to come to an end, and the public port to close.
    shutdown: CancellationToken,
    /// The public port's connections and sessions.
    tracker: TaskTracker,
    /// The ops port answers until all else is over.
    ops_shutdown: CancellationToken,
    /// Cancelled where a revision that was taken back has traffic again.
    wanted_again: CancellationToken,
}

impl Service {
    /// Binds both ports, then starts the workers; the ops port answers meanwhile. The workers see of `environment` what
    /// [`pool::worker_env`] lets through.
    pub async fn start(config: Config, environment: Vec<(OsString, OsString)>) -> Result<Self, StartError> {
        let workers = workers(&config, environment)?;
        let calibrate = config.capacity.calibrate;
        let service = Self::start_with(config, workers).await?;
        if calibrate {
            let pool = service.pool.clone();
            let measured = async move {
                match pool.calibrate().await {
                    Some(ratio) => tracing::info!(ratio, "calibrated"),
                    None => tracing::info!("not calibrated: there is other work, or no H.264"),
                }
            };
            service.tracker.spawn(service.shutdown.clone().run_until_cancelled_owned(measured));
        }
        Ok(service)
    }

    /// As [`Self::start`], with workers of another kind, which are not measured.
    pub async fn start_with(config: Config, workers: pool::Config) -> Result<Self, StartError> {
        let (listener, address) = bind(config.listen).await?;
        let (ops_listener, ops_address) = bind(config.ops_listen).await?;
        let metrics = Metrics::new(config.scratch.bytes);
        let readiness = ops::Readiness::new();
        let ops_shutdown = CancellationToken::new();
        // Its tasks end with the token; nothing of theirs is worth waiting for.
        let ops_tracker = TaskTracker::new();
        let bounds = super::Bounds::new(&config.connections, metrics.clone());
        let ops_router = ops::router(readiness.clone(), metrics.clone());
        ops_tracker.spawn(super::serve(
            ops_listener,
            ops_router,
            bounds.clone(),
            ops_shutdown.clone(),
            ops_tracker.clone(),
        ));

        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        // Sessions come to an end when the service does, or before.
        let draining = shutdown.child_token();
        let (auth, fetcher) = Auth::new(&config.auth, metrics.clone()).map_err(StartError::Keys)?;
        let auth = Arc::new(auth);
        if let Some(fetcher) = fetcher {
            readiness.set_keys(false);
            tracker.spawn(shutdown.clone().run_until_cancelled_owned(fetcher.run()));
            let (auth, readiness) = (auth.clone(), readiness.clone());
            tracker.spawn(shutdown.clone().run_until_cancelled_owned(async move {
                auth.keys().await;
                readiness.set_keys(true);
            }));
        }

        let pool = Pool::start(workers, Arc::new(Gauges::new(metrics.clone()))).await?;
        let missing = &pool.inventory().missing;
        if !missing.is_empty() {
            tracing::warn!(elements = ?missing, "elements are missing");
        }
        let capacity = Capacity::new(
            config.capacity.cores.unwrap_or(pool.cores() * PLANNED),
            config.capacity.hold_window,
            Arc::new(Gauges::new(metrics.clone())),
        );
        readiness.watch(capacity.clone());
        let app = App {
            context: Arc::new(Context {
                pool: pool.clone(),
                metrics: metrics.clone(),
                settings: Settings::new(&config),
                scratch: Scratch::new(config.scratch.dir.clone(), config.scratch.bytes),
                tokens: tokens(&config.resume)?,
            }),
            admission: Admission::new(
                config.max_sessions,
                capacity,
                draining.clone(),
                metrics.clone(),
                readiness.clone(),
            ),
            auth,
            draining: draining.clone(),
            tracker: tracker.clone(),
            config: Arc::new(config),
        };
        let wanted_again = CancellationToken::new();
        if let Some(watcher) = Watcher::new(&app.config.retirement, metrics.clone()).map_err(StartError::Run)? {
            let (readiness, wanted_again) = (readiness.clone(), wanted_again.clone());
            let watching = async move {
                watcher.retired().await;
                tracing::warn!("this revision was taken back: its sessions are handed over");
                // The process goes on, so that its metrics can be read, until the platform ends it.
                metrics.retired();
                readiness.drain();
                draining.cancel();
                watcher.wanted_again().await;
                wanted_again.cancel();
            };
            tracker.spawn(shutdown.clone().run_until_cancelled_owned(watching));
        }
        let drain = app.config.sessions.drain;
        tracker.spawn(super::serve(listener, router(app), bounds, shutdown.clone(), tracker.clone()));
        readiness.started();
        tracing::info!(listen = %address, ops_listen = %ops_address, "ready");
        Ok(Self { address, ops_address, readiness, pool, drain, shutdown, tracker, ops_shutdown, wanted_again })
    }

    /// Waits until the revision, which was taken back, has traffic again: this process refuses it, another would not.
    pub async fn wanted_again(&self) {
        self.wanted_again.cancelled().await;
    }

    /// Takes no new work, lets what is in flight come to its end, and closes: all within the time that the configuration
    /// gives, whatever is in flight. What is not over by then is cut off, and the workers are killed.
    pub async fn stop(self) {
        let begun = Instant::now();
        self.readiness.drain();
        self.shutdown.cancel();
        self.tracker.close();
        if timeout_at(begun + self.drain.saturating_sub(last_part(self.drain)), self.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.tracker.len(), "drain timed out");
        }
        if timeout_at(begun + self.drain, self.pool.close()).await.is_err() {
            tracing::error!("workers that were killed do not go");
        }
        self.ops_shutdown.cancel();
        tracing::info!(took = ?begun.elapsed(), "drained");
    }
}

/// Of the time for draining, what is kept for the end of the workers and of the process.
fn last_part(drain: Duration) -> Duration {
    (drain / 9).min(Duration::from_secs(1))
}

/// Without a key one is made up: then no other process takes this one's sessions over.
fn tokens(resume: &Resume) -> Result<Tokens, StartError> {
    let mut keys = resume.keys.bytes().to_vec();
    if keys.is_empty() {
        tracing::warn!("no resume key is set: sessions can't be taken over by another process");
        keys.push(Tokens::random_key()?);
    }
    Ok(Tokens::new(keys, resume.ttl))
}

/// The workers that a service of this configuration has: this very program's.
pub fn workers(config: &Config, environment: Vec<(OsString, OsString)>) -> Result<pool::Config, StartError> {
    // The running program even where its file has been replaced meanwhile.
    let program = PathBuf::from("/proc/self/exe");
    let program = if program.exists() { program } else { std::env::current_exe().map_err(StartError::Program)? };
    let required: &[Layer] = match config.sandbox.mode {
        SandboxMode::Require => &[Layer::NoNewPrivileges, Layer::Limits, Layer::Seccomp],
        SandboxMode::BestEffort | SandboxMode::Off => &[],
    };
    Ok(pool::Config {
        workers: config.workers,
        queue_jobs: config.queue_jobs,
        args: worker_args(config),
        required: required.to_vec(),
        env: pool::worker_env(environment),
        start_timeout: config.clocks.start,
        progress_timeout: config.clocks.progress,
        wall_timeout: config.clocks.wall,
        wall_per_media_second: config.clocks.wall_per_media_second,
        poison: config.poison.dir.clone().map(|dir| PoisonDir { dir, bytes: config.poison.bytes }),
        ..pool::Config::new(program, config.cpus)
    })
}

fn worker_args(config: &Config) -> Vec<OsString> {
    let mut args = vec!["worker".to_owned()];
    if config.sandbox.mode != SandboxMode::Off {
        // All CPUs for as long as the wall clock lets the longest segment go on.
        let media = u32::try_from(config.segments.max_gop.as_secs()).unwrap_or(u32::MAX).saturating_mul(2);
        let wall = config.clocks.wall.saturating_add(config.clocks.wall_per_media_second.saturating_mul(media));
        let cpu = wall.as_secs().saturating_mul(config.cpus as u64);
        args.extend(["--memory".to_owned(), config.sandbox.memory.to_string(), "--cpu".to_owned(), cpu.to_string()]);
    }
    args.into_iter().map(OsString::from).collect()
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|source| StartError::Listen { address, source })
}

/// What the pool tells, as metrics; and in the log, where the workers' sandbox is another than before.
struct Gauges {
    metrics: Metrics,
    confinement: Mutex<Option<Confinement>>,
}

impl Gauges {
    fn new(metrics: Metrics) -> Self {
        metrics.expect_restarts(&pool::CAUSES);
        Self { metrics, confinement: Mutex::default() }
    }
}

impl Observer for Gauges {
    fn workers(&self, workers: Workers) {
        self.metrics.set_workers(WorkerState::Starting, workers.starting);
        self.metrics.set_workers(WorkerState::Idle, workers.idle);
        self.metrics.set_workers(WorkerState::Busy, workers.busy);
    }

    fn worker_confined(&self, confinement: &Confinement) {
        self.metrics.health_checked(true);
        let mut known = self.confinement.lock().unwrap_or_else(PoisonError::into_inner);
        if known.replace(confinement.clone()).as_ref() == Some(confinement) {
            return;
        }
        for layer in Layer::ALL {
            self.metrics.set_sandbox_layer(layer.name(), confinement.on.contains(&layer));
        }
        let on: Vec<_> = confinement.on.iter().map(|layer| layer.name()).collect();
        tracing::info!(?on, "sandbox of the workers");
        for (layer, reason) in &confinement.lacking {
            tracing::warn!(layer = layer.name(), reason = %reason.escape_debug(), "the sandbox lacks a layer");
        }
        if on.is_empty() && confinement.lacking.is_empty() {
            tracing::warn!("the workers have no sandbox");
        }
    }

    fn worker_restarted(&self, cause: &'static str) {
        self.metrics.worker_restarted(cause);
        // A worker that can't start is a fault of this instance; one that dies of a job is not.
        if cause.starts_with("start_") {
            self.metrics.health_checked(false);
        }
    }

    fn quarantine(&self, event: QuarantineEvent) {
        self.metrics.quarantined(match event {
            QuarantineEvent::Added => Quarantined::Added,
            QuarantineEvent::Answered => Quarantined::Answered,
        });
    }

    fn head_start(&self, event: HeadStartEvent) {
        self.metrics.head_started(match event {
            HeadStartEvent::Done => HeadStarted::Done,
            HeadStartEvent::GivenUp => HeadStarted::GivenUp,
            HeadStartEvent::Failed => HeadStarted::Failed,
        });
    }

    fn queue(&self, jobs: usize, media: Duration) {
        self.metrics.set_queue(jobs, media);
    }

    fn calibrated(&self, ratio: f64) {
        self.metrics.set_calibration(ratio);
    }

    fn capacity(&self, cores: f64, demand: f64) {
        self.metrics.set_capacity(cores, demand);
    }
}
