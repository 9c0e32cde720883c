//! `segmill serve`: binds both ports, starts what answers there, and ends it on SIGTERM or SIGINT.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::config::{Config, LogFormat};
use crate::server::service::{Service, StartError};
use crate::telemetry;

/// How long a collector may take to take the last traces.
const LAST_TRACES: Duration = Duration::from_millis(500);

/// Fewest connections that are made do with.
const LEAST_CONNECTIONS: u64 = 16;

/// Runs the service until SIGTERM or SIGINT, drains it, and exits with 0; 1 where it could not start. A second signal
/// ends it at once.
pub async fn serve(config: Config, environment: Vec<(OsString, OsString)>) -> ExitCode {
    let telemetry =
        match telemetry::init(log_json(config.log.format), &config.log.filter, config.log.otlp_endpoint.as_deref()) {
            Ok(telemetry) => telemetry,
            Err(error) => {
                eprintln!("segmill: {error}");
                return ExitCode::FAILURE;
            }
        };
    let code = match run(config, environment).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "start failed");
            ExitCode::FAILURE
        }
    };
    // A collector that does not answer must not hold up the exit.
    match timeout(LAST_TRACES, tokio::task::spawn_blocking(|| telemetry.shutdown())).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => tracing::warn!("the exporter of traces panicked at shutdown"),
        Err(_) => tracing::warn!("the last traces were not taken in time"),
    }
    code
}

async fn run(mut config: Config, environment: Vec<(OsString, OsString)>) -> Result<(), StartError> {
    raise_descriptors(&mut config);
    let mut signals = Signals::new().map_err(StartError::Signals)?;
    let service = tokio::select! {
        service = Service::start(config, environment) => service?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped before the start was over");
            return Ok(());
        }
    };
    tokio::select! {
        signal = signals.next() => tracing::info!(signal, "draining"),
        () = service.wanted_again() => tracing::info!("this revision has traffic again; a fresh process serves it better"),
    }
    tokio::select! {
        () = service.stop() => {}
        signal = signals.next() => tracing::warn!(signal, "stopped before the drain was over"),
    }
    Ok(())
}

/// As many descriptors as may be had: each connection and session is one, and the soft limit is for programs that use
/// select(2). Where that is too few, fewer sessions and connections: workers and the ops port need theirs.
fn raise_descriptors(config: &mut Config) {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let (sessions, connections) = (config.max_sessions as u64, u64::from(config.connections.max_connections));
    // Two for each worker, and some for all else.
    let clients = allowed.saturating_sub(2 * config.workers as u64 + 64);
    if clients < sessions + connections {
        let sessions = sessions.min(clients.saturating_sub(LEAST_CONNECTIONS)).max(1);
        let connections = connections.min(clients.saturating_sub(sessions)).max(LEAST_CONNECTIONS);
        tracing::warn!(allowed, sessions, connections, "few files may be open: fewer sessions and connections");
        config.max_sessions = sessions as usize;
        config.connections.max_connections = connections as u32;
    }
}

/// The signals that end the service.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// A service inside this process, for a client in the same process: see [`Config::embedded`]. It has the address of
/// its API. To be ended with [`Service::stop`].
pub async fn serve_embedded(
    config: Config,
    environment: Vec<(OsString, OsString)>,
) -> Result<(SocketAddr, Service), StartError> {
    let service = Service::start(config, environment).await?;
    Ok((service.address, service))
}

pub(super) fn log_json(format: LogFormat) -> bool {
    match format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    }
}
