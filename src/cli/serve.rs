//! `segmill serve`: binds both ports, starts what answers there, and ends it on SIGTERM or SIGINT.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Config, LogFormat};
use crate::server::{self, ops};
use crate::telemetry::{self, Metrics};

/// Runs the service until SIGTERM or SIGINT, drains it, and exits with 0; 1 where it could not start. A second signal
/// ends it at once.
pub async fn serve(config: Config) -> ExitCode {
    let telemetry =
        match telemetry::init(log_json(config.log.format), &config.log.filter, config.log.otlp_endpoint.as_deref()) {
            Ok(telemetry) => telemetry,
            Err(error) => {
                eprintln!("segmill: {error}");
                return ExitCode::FAILURE;
            }
        };
    let code = match run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "start failed");
            ExitCode::FAILURE
        }
    };
    if tokio::task::spawn_blocking(|| telemetry.shutdown()).await.is_err() {
        tracing::warn!("the exporter of traces panicked at shutdown");
    }
    code
}

async fn run(config: Config) -> Result<(), StartError> {
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let drain = config.sessions.drain;
    let service = tokio::select! {
        service = Service::start(config) => service?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the start was over");
            return Ok(());
        }
    };
    tracing::info!(listen = %service.address, ops_listen = %service.ops_address, "listening");
    let signal = signals.next().await;
    tracing::info!(signal, "draining");
    tokio::select! {
        () = service.stop(drain) => {}
        signal = signals.next() => tracing::warn!(signal, "stopped before the drain was over"),
    }
    Ok(())
}

/// The signals that end the service.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// A service inside this process, for a client in the same process: see [`Config::embedded`]. It has the address of
/// its API. To be ended with [`Service::stop`].
pub async fn serve_embedded(config: Config) -> Result<(SocketAddr, Service), StartError> {
    let service = Service::start(config).await?;
    Ok((service.address, service))
}

/// Why the service could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("can't listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("signals can't be watched: {0}")]
    Signals(io::Error),
}

/// A running service.
pub struct Service {
    address: SocketAddr,
    ops_address: SocketAddr,
    readiness: ops::Readiness,
    /// Tells sessions to move on, and the public port to close.
    shutdown: CancellationToken,
    /// The public port's connections and sessions.
    tracker: TaskTracker,
    /// The ops port answers until all else is over.
    ops_shutdown: CancellationToken,
    ops_tracker: TaskTracker,
}

impl Service {
    async fn start(config: Config) -> Result<Self, StartError> {
        let (listener, address) = bind(config.listen).await?;
        let (ops_listener, ops_address) = bind(config.ops_listen).await?;
        let metrics = Metrics::new(config.scratch.bytes);
        let service = Self {
            address,
            ops_address,
            readiness: ops::Readiness::new(),
            shutdown: CancellationToken::new(),
            tracker: TaskTracker::new(),
            ops_shutdown: CancellationToken::new(),
            ops_tracker: TaskTracker::new(),
        };
        let ops_router = ops::router(service.readiness.clone(), metrics);
        let (stop, tracker) = (service.ops_shutdown.clone(), service.ops_tracker.clone());
        service.ops_tracker.spawn(server::serve(ops_listener, ops_router, stop, tracker));

        let (stop, tracker) = (service.shutdown.clone(), service.tracker.clone());
        service.tracker.spawn(server::serve(listener, Router::new(), stop, tracker));
        service.readiness.started();
        Ok(service)
    }

    /// Takes no new work, lets what runs come to its end for up to `drain`, and closes both ports.
    pub async fn stop(self, drain: Duration) {
        self.readiness.drain();
        self.shutdown.cancel();
        self.tracker.close();
        if tokio::time::timeout(drain, self.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.tracker.len(), "drain timed out");
        }
        self.ops_shutdown.cancel();
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound.await.map_err(|source| StartError::Listen { address, source })
}

fn log_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    }
}
