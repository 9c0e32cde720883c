//! Every knob: flag, environment variable, default, bounds. Read once, before any port is bound, into checked values.
//!
//! Nothing else reads the environment. A bad value, an unknown flag or an unknown `SEGMILL_*` variable stops the start
//! with exit code [`USAGE`].

mod auth;
mod keys;
mod run;

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, CommandFactory, FromArgMatches, Parser, ValueEnum};
use tracing_subscriber::EnvFilter;

pub use self::auth::{Auth, is_loopback};
pub use self::keys::{VerifyingKey, VerifyingKeys};
pub use self::run::{Retirement, ServiceName, Source, http_url, is_name, revision_name, service_name, source};

/// Exit code of a wrong command line or environment (`EX_USAGE` of sysexits.h).
pub const USAGE: u8 = 64;

/// The service's configuration, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Address of the API.
    pub listen: SocketAddr,
    /// Address of health and metrics.
    pub ops_listen: SocketAddr,
    /// Worker processes; at least 1.
    pub workers: usize,
    /// CPUs that the process may use; at least 1.
    pub cpus: usize,
    /// Most jobs that wait for a worker; at least 1.
    pub queue_jobs: usize,
    /// Most segments of one session between cut and delivery; at least 2.
    pub segments_in_flight: usize,
    /// Most sessions at once; at least 1.
    pub max_sessions: usize,
    pub segments: Segments,
    pub connections: Connections,
    pub sessions: Sessions,
    pub resume: Resume,
    pub auth: Auth,
    pub clocks: WorkerClocks,
    pub poison: Poison,
    pub sandbox: Sandbox,
    pub capacity: Capacity,
    pub scratch: Scratch,
    pub retirement: Retirement,
    pub log: Log,
}

impl Config {
    /// What flags and environment say together.
    pub fn new(args: ServeArgs, environment: &[(OsString, OsString)]) -> Result<Self, ConfigError> {
        check_environment(environment)?;
        let listen = listen(args.listen, environment)?;
        if listen == args.ops_listen && listen.port() != 0 {
            return Err(ConfigError::SamePort(listen));
        }
        args.resume.keys.check()?;
        args.auth.check()?;
        let cpus = available_cpus();
        let workers = args.workers.map_or(cpus, usize::from);
        if args.segments.max_gop < Duration::from_millis(u64::from(args.segments.segment_ms)) {
            return Err(ConfigError::GopBelowSegment);
        }
        Ok(Self {
            listen,
            ops_listen: args.ops_listen,
            workers,
            cpus,
            queue_jobs: usize::from(args.queue_jobs),
            segments_in_flight: args.segments_in_flight.map_or((workers + 2).min(1024), usize::from),
            max_sessions: usize::from(args.max_sessions),
            segments: args.segments,
            connections: args.connections,
            sessions: args.sessions,
            resume: args.resume,
            auth: args.auth,
            clocks: args.clocks,
            poison: args.poison,
            sandbox: args.sandbox,
            capacity: args.capacity,
            scratch: args.scratch,
            retirement: args.retirement.check(environment)?,
            log: args.log,
        })
    }

    /// The configuration of a service inside another process, on free ports of the loopback interface: what the
    /// environment says, else the defaults.
    pub fn embedded(environment: &[(OsString, OsString)]) -> Result<Self, ConfigError> {
        #[derive(Parser)]
        #[command(no_binary_name = true)]
        struct Embedded {
            #[command(flatten)]
            serve: ServeArgs,
        }
        let matches = Embedded::command()
            .try_get_matches_from(std::iter::empty::<OsString>())
            .map_err(|error| ConfigError::Value(error.to_string()))?;
        let args = Embedded::from_arg_matches(&matches).map_err(|error| ConfigError::Value(error.to_string()))?;
        let mut args = args.serve;
        args.listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        args.ops_listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self::new(args, environment)
    }
}

/// `segmill serve`'s flags. Each is also an environment variable; a flag wins over it.
#[derive(Debug, Clone, PartialEq, Args)]
pub struct ServeArgs {
    /// Address of the API [default: 127.0.0.1:8080, or 0.0.0.0:$PORT where PORT is set]
    #[arg(long, env = "SEGMILL_LISTEN", value_name = "ADDRESS")]
    pub listen: Option<SocketAddr>,

    /// Address of health and metrics; keep it off the public network
    #[arg(long, env = "SEGMILL_OPS_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    pub ops_listen: SocketAddr,

    /// Worker processes, each of which transcodes one job at a time, 1 to 256 [default: the CPUs that it may use]
    #[arg(long, env = "SEGMILL_WORKERS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: Option<u16>,

    /// Most jobs that wait for a worker; past it sessions stop reading their sockets
    #[arg(long, env = "SEGMILL_QUEUE_JOBS", value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub queue_jobs: u16,

    /// Most segments of one session between cut and delivery, 2 to 1024; past it the session stops reading its socket
    /// [default: workers + 2]
    #[arg(long, env = "SEGMILL_SEGMENTS_IN_FLIGHT", value_name = "N",
          value_parser = clap::value_parser!(u16).range(2..=1024))]
    pub segments_in_flight: Option<u16>,

    /// Most sessions at once; past it one that has not said yet what it wants makes room for the next, or that gets 503 with
    /// Retry-After
    #[arg(long, env = "SEGMILL_MAX_SESSIONS", value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub max_sessions: u16,

    #[command(flatten)]
    pub segments: Segments,
    #[command(flatten)]
    pub connections: Connections,
    #[command(flatten)]
    pub sessions: Sessions,
    #[command(flatten)]
    pub resume: Resume,
    #[command(flatten)]
    pub auth: Auth,
    #[command(flatten)]
    pub clocks: WorkerClocks,
    #[command(flatten)]
    pub poison: Poison,
    #[command(flatten)]
    pub sandbox: Sandbox,
    #[command(flatten)]
    pub capacity: Capacity,
    #[command(flatten)]
    pub scratch: Scratch,
    #[command(flatten)]
    pub retirement: Retirement,
    #[command(flatten)]
    pub log: Log,
}

/// How streams are cut, and the caps on what is held of one.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Segments")]
pub struct Segments {
    /// Target length of a segment where the client names none, 200 to 30000 ms
    #[arg(long, env = "SEGMILL_SEGMENT_MS", value_name = "MS", default_value_t = 2000,
          value_parser = clap::value_parser!(u32).range(200..=30_000))]
    pub segment_ms: u32,

    /// Most bytes of source media in one segment
    #[arg(long = "max-segment-bytes", env = "SEGMILL_MAX_SEGMENT_BYTES", value_name = "BYTES", default_value = "64MiB",
          value_parser = bytes::<{ 64 * KIB }, { 4 * GIB }>)]
    pub max_bytes: u64,

    /// Most pictures of source video in one segment
    #[arg(long = "max-segment-frames", env = "SEGMILL_MAX_SEGMENT_FRAMES", value_name = "N", default_value_t = 3600,
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_frames: u32,

    /// Longest wait for a sync sample, in media time; past it the session ends with gop_too_long
    #[arg(long, env = "SEGMILL_MAX_GOP", value_name = "DURATION", default_value = "60s",
          value_parser = duration::<200, 600_000>)]
    pub max_gop: Duration,

    /// Most pixels of a picture, width times height [default: 4096 x 2304]
    #[arg(long, env = "SEGMILL_MAX_PIXELS", value_name = "N", default_value_t = 4096 * 2304, hide_default_value = true,
          value_parser = clap::value_parser!(u32).range(4096..=8192 * 8192))]
    pub max_pixels: u32,
}

/// What a connection may take before anything is known of it, and how fast a client has to read.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Connections")]
pub struct Connections {
    /// Most connections at once, sessions not counted; past it one that has no request at work makes room for the next
    #[arg(long, env = "SEGMILL_MAX_CONNECTIONS", value_name = "N", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(16..=100_000))]
    pub max_connections: u32,

    /// How long a client may take for a request's header, and a connection may lie idle between two requests
    #[arg(long, env = "SEGMILL_HEADER_TIMEOUT", value_name = "DURATION", default_value = "10s",
          value_parser = duration::<100, 600_000>)]
    pub header_timeout: Duration,

    /// How long an upgrade to a WebSocket may take once it is granted
    #[arg(long, env = "SEGMILL_UPGRADE_TIMEOUT", value_name = "DURATION", default_value = "10s",
          value_parser = duration::<100, 60_000>)]
    pub upgrade_timeout: Duration,

    /// How long a client may take too little of what waits for it: less than --min-read-rate all the while
    #[arg(long, env = "SEGMILL_WRITE_TIMEOUT", value_name = "DURATION", default_value = "30s",
          value_parser = duration::<1_000, 600_000>)]
    pub write_timeout: Duration,

    /// Fewest bytes a second that a client has to take while something waits for it. 0: any at all
    #[arg(long, env = "SEGMILL_MIN_READ_RATE", value_name = "BYTES", default_value = "1KiB",
          value_parser = bytes::<0, { 16 * MIB }>)]
    pub min_read_rate: u64,
}

/// What one session may take, and how long it may be silent.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Sessions")]
pub struct Sessions {
    /// Most bytes in a WebSocket message from a client
    #[arg(long, env = "SEGMILL_MESSAGE_BYTES", value_name = "BYTES", default_value = "1MiB",
          value_parser = bytes::<{ 4 * KIB }, { 64 * MIB }>)]
    pub message_bytes: u64,

    /// How long a client may take to send its start message
    #[arg(long, env = "SEGMILL_START_TIMEOUT", value_name = "DURATION", default_value = "5s",
          value_parser = duration::<100, 60_000>)]
    pub start_timeout: Duration,

    /// How long a client may send nothing while the service would read
    #[arg(long, env = "SEGMILL_IDLE_TIMEOUT", value_name = "DURATION", default_value = "60s",
          value_parser = duration::<1_000, 3_600_000>)]
    pub idle_timeout: Duration,

    /// Fewest bytes a second that a client has to send while the service would read, over --rate-window. 0: no least
    #[arg(long, env = "SEGMILL_MIN_RATE", value_name = "BYTES", default_value = "128",
          value_parser = bytes::<0, { 16 * MIB }>)]
    pub min_rate: u64,

    /// Over how long --min-rate is counted; only time for which the service would read counts
    #[arg(long, env = "SEGMILL_RATE_WINDOW", value_name = "DURATION", default_value = "60s",
          value_parser = duration::<1_000, 3_600_000>)]
    pub rate_window: Duration,

    /// How often a WebSocket client is sent a ping. 0: never
    #[arg(long, env = "SEGMILL_PING_INTERVAL", value_name = "DURATION", default_value = "20s",
          value_parser = duration::<0, 3_600_000>)]
    pub ping_interval: Duration,

    /// How long after a ping a client may be silent while the service would read
    #[arg(long, env = "SEGMILL_PONG_TIMEOUT", value_name = "DURATION", default_value = "20s",
          value_parser = duration::<100, 600_000>)]
    pub pong_timeout: Duration,

    /// How long a client may take to answer a close before the connection is cut
    #[arg(long, env = "SEGMILL_CLOSE_TIMEOUT", value_name = "DURATION", default_value = "5s",
          value_parser = duration::<100, 60_000>)]
    pub close_timeout: Duration,

    /// From SIGTERM to the exit at the most: what is in flight is finished, and what is not by then is cut off. Cloud Run
    /// kills at 10 s
    #[arg(long, env = "SEGMILL_DRAIN", value_name = "DURATION", default_value = "8500ms",
          value_parser = duration::<0, 3_600_000>)]
    pub drain: Duration,

    /// Longest life of a session; then the client is told to go on over a new connection. 0: no limit
    #[arg(long, env = "SEGMILL_SESSION_LIMIT", value_name = "DURATION", default_value = "0",
          value_parser = duration::<0, 86_400_000>)]
    pub session_limit: Duration,
}

/// Sessions that go on over another connection, also at another instance.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Resume")]
pub struct Resume {
    /// Keys of resume tokens, separated by commas: the first signs, all verify. Each at least 32 bytes, in hexadecimal or
    /// base64; @FILE reads them from there. Without it one is made up, and tokens don't outlive the process
    #[arg(id = "resume_key", long = "resume-key", env = "SEGMILL_RESUME_KEY", value_name = "KEYS|@FILE", default_value = "",
          hide_default_value = true, hide_env_values = true, value_parser = resume_keys)]
    pub keys: Keys,

    /// How long a resume token holds
    #[arg(id = "resume_ttl", long = "resume-ttl", env = "SEGMILL_RESUME_TTL", value_name = "DURATION", default_value = "10m",
          value_parser = duration::<1_000, 86_400_000>)]
    pub ttl: Duration,
}

/// Secret keys: never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys(Result<Vec<Vec<u8>>, String>);

impl Keys {
    /// In the order in which they were given.
    pub fn bytes(&self) -> &[Vec<u8>] {
        self.0.as_deref().unwrap_or_default()
    }

    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |wrong: &String| ConfigError::Value(format!("--resume-key: {wrong}"));
        self.0.as_ref().map(|_| ()).map_err(wrong)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} keys", self.bytes().len())
    }
}

/// The clocks of a worker process; when one runs out, the process is killed and the job retried once.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Workers")]
pub struct WorkerClocks {
    /// From start to ready
    #[arg(long = "worker-start-timeout", env = "SEGMILL_WORKER_START_TIMEOUT", value_name = "DURATION",
          default_value = "10s", value_parser = duration::<100, 120_000>)]
    pub start: Duration,

    /// Between two signs of progress in a job
    #[arg(long = "worker-progress-timeout", env = "SEGMILL_WORKER_PROGRESS_TIMEOUT", value_name = "DURATION",
          default_value = "15s", value_parser = duration::<100, 600_000>)]
    pub progress: Duration,

    /// For a whole job…
    #[arg(long = "worker-wall-timeout", env = "SEGMILL_WORKER_WALL_TIMEOUT", value_name = "DURATION",
          default_value = "120s", value_parser = duration::<1_000, 3_600_000>)]
    pub wall: Duration,

    /// …and this much more for each second of its media
    #[arg(long = "worker-wall-per-media-second", env = "SEGMILL_WORKER_WALL_PER_MEDIA_SECOND", value_name = "DURATION",
          default_value = "15s", value_parser = duration::<0, 600_000>)]
    pub wall_per_media_second: Duration,
}

/// Segments of which two workers have died, kept for whoever wants to find out why: they are clients' media.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Poison segments")]
pub struct Poison {
    /// Keep them there, a file each, which `segmill worker --replay FILE` does again; without it they are not kept
    #[arg(id = "poison_dir", long = "poison-dir", env = "SEGMILL_POISON_DIR", value_name = "DIR", value_parser = directory)]
    pub dir: Option<PathBuf>,

    /// Most bytes there; past it the oldest go
    #[arg(id = "poison_bytes", long = "poison-bytes", env = "SEGMILL_POISON_BYTES", value_name = "BYTES", default_value = "256MiB",
          value_parser = bytes::<MIB, { 1024 * GIB }>)]
    pub bytes: u64,
}

/// What workers are confined by.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Workers")]
pub struct Sandbox {
    /// What the workers' sandbox must be; see docs/security.md
    #[arg(id = "sandbox", long = "sandbox", env = "SEGMILL_SANDBOX", value_name = "MODE", value_enum,
          default_value_t = SandboxMode::Require)]
    pub mode: SandboxMode,

    /// Most address space of one worker; one that wants more ends
    #[arg(long = "worker-memory", env = "SEGMILL_WORKER_MEMORY", value_name = "BYTES", default_value = "8GiB",
          value_parser = bytes::<GIB, { 1024 * GIB }>)]
    pub memory: u64,
}

/// What is done where the kernel lacks layers of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SandboxMode {
    /// No start without system call filter, limits and no-new-privileges; without the others, with a warning
    Require,
    /// Whatever the kernel lacks is gone without, with a warning
    BestEffort,
    /// No sandbox
    Off,
}

/// How much the instance takes on. Sessions are let in by what they need, in processors, as measured.
#[derive(Debug, Clone, PartialEq, Args)]
#[command(next_help_heading = "Capacity")]
pub struct Capacity {
    /// Processors that live sessions may need in all, 0.05 to 256; past it new ones get 503 with Retry-After, or close 1013
    /// [default: nine tenths of what the workers can use]
    #[arg(id = "capacity_cores", long = "capacity-cores", env = "SEGMILL_CAPACITY_CORES", value_name = "N", value_parser = cores)]
    pub cores: Option<f64>,

    /// How long a new session's share is held for it, until it has said what it wants
    #[arg(long, env = "SEGMILL_HOLD_WINDOW", value_name = "DURATION", default_value = "1s",
          value_parser = duration::<100, 60_000>)]
    pub hold_window: Duration,

    /// Whether a worker measures how fast this machine is, once it is ready and has nothing else to do
    #[arg(long, env = "SEGMILL_CALIBRATE", value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub calibrate: bool,
}

/// Space for files whose index comes last. On Cloud Run this is memory.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Scratch space")]
pub struct Scratch {
    /// Directory of the scratch files [default: the system's temporary directory]
    #[arg(long = "scratch-dir", env = "SEGMILL_SCRATCH_DIR", value_name = "DIR", default_value_os_t = std::env::temp_dir(),
          hide_default_value = true)]
    pub dir: PathBuf,

    /// Most bytes there, of all sessions together
    #[arg(long = "scratch-bytes", env = "SEGMILL_SCRATCH_BYTES", value_name = "BYTES", default_value = "2GiB",
          value_parser = bytes::<0, { 1024 * GIB }>)]
    pub bytes: u64,
}

/// Logs and traces.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(next_help_heading = "Logs and traces")]
pub struct Log {
    /// Form of the log on stderr; auto: text on a terminal, else JSON
    #[arg(long = "log-format", env = "SEGMILL_LOG_FORMAT", value_name = "FORMAT", value_enum, default_value_t = LogFormat::Auto)]
    pub format: LogFormat,

    /// What is logged: a level, or directives such as info,segmill::pool=debug
    #[arg(long = "log", env = "SEGMILL_LOG", value_name = "FILTER", default_value = "info", value_parser = filter)]
    pub filter: String,

    /// Traces go there as OTLP over HTTP, e.g. http://localhost:4318/v1/traces; without it none are made
    #[arg(long, env = "SEGMILL_OTLP_ENDPOINT", value_name = "URL", value_parser = otlp_endpoint)]
    pub otlp_endpoint: Option<String>,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    #[default]
    Auto,
    Json,
    Text,
}

/// Why the configuration was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("the environment variable {0} is not known")]
    UnknownVariable(String),
    #[error("the environment variable PORT is {0:?}; it must be a port number from 1 to 65535")]
    Port(String),
    #[error("--listen and --ops-listen are both {0}; they must differ")]
    SamePort(SocketAddr),
    #[error("--max-gop is shorter than --segment-ms")]
    GopBelowSegment,
    #[error("{0}")]
    Value(String),
}

/// Refuses `SEGMILL_*` variables that no flag has: a knob with a typing error must not be silently ignored.
fn check_environment(environment: &[(OsString, OsString)]) -> Result<(), ConfigError> {
    let command = ServeArgs::augment_args(clap::Command::new("segmill"));
    let known: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_env()).collect();
    for (name, value) in environment {
        let text = name.to_string_lossy();
        let ours = text.starts_with("SEGMILL_");
        if ours && !known.contains(&name.as_os_str()) && !is_service_link(&text, &value.to_string_lossy()) {
            return Err(ConfigError::UnknownVariable(text.into_owned()));
        }
    }
    Ok(())
}

/// Whether it is one of the variables that Kubernetes sets in every pod for a Service called `segmill…`
/// (`SEGMILL_SERVICE_HOST`, `SEGMILL_PORT=tcp://…`, `SEGMILL_PORT_80_TCP_ADDR`).
fn is_service_link(name: &str, value: &str) -> bool {
    let link_url = |value: &str| ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let link_part = || {
        let Some((_, part)) = name.rsplit_once("_PORT_") else { return false };
        let mut words = part.split('_');
        words.next().is_some_and(|port| port.parse::<u16>().is_ok())
            && words.next().is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || (name.ends_with("_PORT") && link_url(value))
        || link_part()
}

/// The address that is given, else what Cloud Run says, else port 8080 of this machine alone.
pub fn listen(given: Option<SocketAddr>, environment: &[(OsString, OsString)]) -> Result<SocketAddr, ConfigError> {
    match given {
        Some(listen) => Ok(listen),
        None => Ok(listen_by_port(environment)?.unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)))),
    }
}

/// Cloud Run's contract: listen on $PORT of all interfaces.
fn listen_by_port(environment: &[(OsString, OsString)]) -> Result<Option<SocketAddr>, ConfigError> {
    let Some((_, port)) = environment.iter().find(|(name, _)| name == "PORT") else { return Ok(None) };
    let port = port.to_string_lossy();
    match port.parse::<u16>() {
        Ok(number) if number > 0 => Ok(Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, number)))),
        _ => Err(ConfigError::Port(port.into_owned())),
    }
}

/// The CPUs that this process may use: affinity and the cgroup's quota count.
fn available_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(256)
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Reads a number of processors, as `1.5`.
fn cores(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(cores) if (0.05..=256.0).contains(&cores) => Ok(cores),
        _ => Err("must be a number from 0.05 to 256".to_owned()),
    }
}

/// Reads `1048576`, `64KiB`, `64MiB` or `2GiB`, from `MIN` to `MAX`.
fn bytes<const MIN: u64, const MAX: u64>(text: &str) -> Result<u64, String> {
    let units = [("GiB", GIB), ("MiB", MIB), ("KiB", KIB), ("", 1)];
    let (digits, unit) = with_unit(text, &units);
    let bytes = digits
        .and_then(|n| n.checked_mul(unit))
        .ok_or("not a number of bytes: write it as 1048576, 64KiB, 64MiB or 2GiB")?;
    if (MIN..=MAX).contains(&bytes) { Ok(bytes) } else { Err(format!("must be from {MIN} to {MAX} bytes")) }
}

/// Reads `500ms`, `5s`, `2m`, `1h` or `0`, from `MIN` to `MAX` milliseconds.
pub fn duration<const MIN: u64, const MAX: u64>(text: &str) -> Result<Duration, String> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];
    let (number, unit) = if text == "0" { (Some(0), 1) } else { with_unit(text, &units) };
    let ms = number.and_then(|n| n.checked_mul(unit)).ok_or("not a duration: write it as 500ms, 5s, 2m or 1h")?;
    if (MIN..=MAX).contains(&ms) {
        Ok(Duration::from_millis(ms))
    } else {
        Err(format!("must be from {MIN} ms to {MAX} ms"))
    }
}

/// The number before the first of `units` that ends `text`, and that unit's factor.
fn with_unit(text: &str, units: &[(&str, u64)]) -> (Option<u64>, u64) {
    let found = units.iter().find_map(|(name, factor)| text.strip_suffix(name).map(|digits| (digits, *factor)));
    let (digits, factor) = found.unwrap_or((text, 0));
    let plain = factor > 0 && digits.bytes().all(|byte| byte.is_ascii_digit());
    (if plain { digits.parse().ok() } else { None }, factor)
}

/// Never fails: what is wrong is said by [`Config::new`], and without showing the keys.
fn resume_keys(text: &str) -> Result<Keys, String> {
    let text = match text.strip_prefix('@') {
        Some(path) => match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) => return Ok(Keys(Err(format!("{path}: {error}")))),
        },
        None => text.to_owned(),
    };
    let words = text.split([',', '\n', '\r', ' ', '\t']).filter(|word| !word.is_empty());
    let keys = words.enumerate().map(|(n, word)| resume_key(word).map_err(|wrong| format!("key {} {wrong}", n + 1)));
    Ok(Keys(keys.collect()))
}

fn resume_key(text: &str) -> Result<Vec<u8>, &'static str> {
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    const LEAST: usize = 32;
    let digit = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let hexadecimal = || {
        let plain = text.len().is_multiple_of(2) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        plain.then(|| text.as_bytes().chunks_exact(2).map(digit).collect::<Option<Vec<u8>>>())?
    };
    let text = text.trim_end_matches('=');
    let base64 = || STANDARD_NO_PAD.decode(text).or_else(|_| URL_SAFE_NO_PAD.decode(text)).ok();
    let key = hexadecimal().or_else(base64).ok_or("is neither hexadecimal nor base64")?;
    if key.len() < LEAST { Err("is shorter than 32 bytes") } else { Ok(key) }
}

fn directory(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_dir() { Ok(path) } else { Err("is not a directory".to_owned()) }
}

fn filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn otlp_endpoint(text: &str) -> Result<String, String> {
    match text.parse::<axum::http::Uri>() {
        Ok(uri) if uri.scheme_str() == Some("http") && uri.host().is_some() => Ok(text.to_owned()),
        Ok(uri) if uri.scheme_str() == Some("https") => {
            Err("https is not built in: send traces to a collector next to the service".to_owned())
        }
        _ => Err("must be an http:// URL".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    fn configured(flags: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let line = std::iter::once("segmill").chain(flags.split_whitespace());
        let args = Line::try_parse_from(line).map_err(|error| error.to_string())?.serve;
        let environment: Vec<_> = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Config::new(args, &environment).map_err(|error| error.to_string())
    }

    fn refused(flags: &str, environment: &[(&str, &str)], says: &str) {
        let error = configured(flags, environment).expect_err("must be refused");
        assert!(error.contains(says), "{flags} {environment:?}: {error}");
    }

    #[test]
    fn the_defaults_are_the_documented_ones() {
        let config = configured("--workers 3", &[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.ops_listen.to_string(), "127.0.0.1:9090");
        assert_eq!((config.workers, config.segments_in_flight), (3, 5));
        assert_eq!(config.segments.segment_ms, 2000);
        assert_eq!(config.segments.max_bytes, 64 << 20);
        assert_eq!(config.segments.max_pixels, 4096 * 2304);
        assert!(config.segments.max_gop >= Duration::from_secs(30));
        assert_eq!(config.sessions.message_bytes, 1 << 20);
        assert_eq!(config.sessions.drain, Duration::from_millis(8500));
        assert_eq!(config.scratch.bytes, 2 << 30);
        assert!(configured("", &[]).unwrap().workers >= 1);
    }

    #[test]
    fn the_port_variable_is_taken_where_no_address_is_given() {
        let cloud_run = [("PORT", "8081")];
        assert_eq!(configured("", &cloud_run).unwrap().listen.to_string(), "0.0.0.0:8081");
        assert_eq!(configured("--listen [::1]:7000", &cloud_run).unwrap().listen.to_string(), "[::1]:7000");
        for port in ["", "0", "65536", "http", "-1"] {
            refused("", &[("PORT", port)], "PORT");
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        for (flags, says) in [
            ("--workers 0", "--workers"),
            ("--workers 257", "--workers"),
            ("--segments-in-flight 1", "--segments-in-flight"),
            ("--segment-ms 199", "--segment-ms"),
            ("--segment-ms 30001", "--segment-ms"),
            ("--worker-wall-per-media-second 11m", "--worker-wall-per-media-second"),
            ("--poison-dir /there/is/none", "is not a directory"),
            ("--poison-bytes 1KiB", "--poison-bytes"),
            ("--max-segment-bytes 1GB", "write it as"),
            ("--max-segment-bytes 18446744073709551615GiB", "write it as"),
            ("--max-segment-bytes 0", "must be from 65536 to"),
            ("--idle-timeout 60", "write it as"),
            ("--idle-timeout=-1s", "write it as"),
            ("--idle-timeout +1s", "write it as"),
            ("--idle-timeout 2h", "must be from 1000 ms"),
            ("--header-timeout 99ms", "must be from 100 ms"),
            ("--max-connections 15", "--max-connections"),
            ("--min-rate 17MiB", "must be from 0 to"),
            ("--min-read-rate 1kB", "write it as"),
            ("--rate-window 0", "must be from 1000 ms"),
            ("--ping-interval 2h", "must be from 0 ms"),
            ("--max-pixels 100000000", "--max-pixels"),
            ("--listen localhost", "--listen"),
            ("--listen 127.0.0.1:9090", "must differ"),
            ("--max-gop 1s", "--max-gop is shorter"),
            ("--capacity-cores 0", "must be a number from"),
            ("--capacity-cores nan", "must be a number from"),
            ("--hold-window 0", "must be from 100 ms"),
            ("--log segmill=loud", "--log"),
            ("--log-format xml", "--log-format"),
            ("--otlp-endpoint localhost:4318", "--otlp-endpoint"),
            ("--otlp-endpoint https://example.com", "https is not built in"),
            ("--run-service segmill", "must be projects/"),
            ("--run-service projects/p/locations/l/services/s", "--run-revision"),
            (
                "--run-service projects/p/locations/l/services/s --run-revision r --run-url http://a.example",
                "https only",
            ),
            ("--run-credentials secret", "--run-credentials"),
            ("--worker-count 3", "--worker-count"),
        ] {
            refused(flags, &[], says);
        }
    }

    #[test]
    fn resume_keys_are_read_and_never_shown() {
        let hexadecimal = "0f".repeat(32);
        let base64 = "/".repeat(42) + "8=";
        let config = configured(&format!("--resume-key {hexadecimal},{base64}"), &[]).unwrap();
        let keys = config.resume.keys.bytes();
        assert_eq!((keys[0].clone(), keys[1].len()), (vec![15; 32], 32));
        assert!(!format!("{config:?}").contains("15, 15"), "{config:?}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{base64}\n{hexadecimal}\n")).unwrap();
        let from_file = configured("", &[]).unwrap().resume.keys;
        assert!(from_file.bytes().is_empty());
        let from_file = configured(&format!("--resume-key @{}", file.path().display()), &[]).unwrap().resume.keys;
        assert_eq!(from_file.bytes(), [keys[1].clone(), keys[0].clone()]);
        for (keys, says) in [("c2VjcmV0", "key 1 is shorter"), ("s\u{e4}cret", "key 1 is neither"), ("@/none", "/none")]
        {
            refused(&format!("--resume-key {keys}"), &[], says);
            let error = configured(&format!("--resume-key {keys}"), &[]).unwrap_err();
            assert!(keys.starts_with('@') || !error.contains(keys), "{error}");
        }
    }

    #[test]
    fn an_unknown_variable_is_refused_by_name() {
        refused("", &[("SEGMILL_WORKER", "3")], "SEGMILL_WORKER is not known");
        refused("", &[("SEGMILL_PORT", "8080")], "SEGMILL_PORT is not known");
        assert!(configured("", &[("SEGMILL_WORKERS", "3"), ("OTHER", "x")]).is_ok());
    }

    #[test]
    fn what_kubernetes_sets_for_a_service_of_our_name_is_no_knob() {
        let links = [
            ("SEGMILL_SERVICE_HOST", "10.0.0.1"),
            ("SEGMILL_SERVICE_PORT", "80"),
            ("SEGMILL_SERVICE_PORT_HTTP", "80"),
            ("SEGMILL_PORT", "tcp://10.0.0.1:80"),
            ("SEGMILL_PORT_80_TCP", "tcp://10.0.0.1:80"),
            ("SEGMILL_PORT_80_TCP_ADDR", "10.0.0.1"),
            ("SEGMILL_OPS_SERVICE_HOST", "10.0.0.1"),
        ];
        assert!(configured("", &links).is_ok());
    }

    #[test]
    fn every_flag_has_its_variable() {
        for arg in ServeArgs::augment_args(clap::Command::new("segmill")).get_arguments() {
            let env = arg.get_env().and_then(|name| name.to_str()).unwrap_or_default();
            assert!(env.starts_with("SEGMILL_"), "{}", arg.get_id());
            assert!(arg.get_help().is_some(), "{}", arg.get_id());
        }
    }
}
