//! Every metric, in one list: [`Instruments::new`] and [`observe`].
//!
//! Names are written as they are exported, in base units; labels are bounded: what a client sends is never one. What
//! goes up and down is a [`Held`] value that lives as long as what it counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Registry, TextEncoder};

use super::probe::Probe;
use crate::protocol::{DegradedWhat, EventKind, SegmentOutcome};

/// The process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    /// Instruments fall silent when their provider is dropped.
    _provider: SdkMeterProvider,
    instruments: Instruments,
    gauges: Arc<Gauges>,
}

/// Where a session waits for room, or for its owner's quota: label `stage`.
pub const STAGES: [&str; 2] = ["places", "quota"];

/// Why connections are cut off: label `reason`.
pub const CUTS: [&str; 3] = ["crowded_out", "header_timeout", "slow_client"];

/// Why sessions are refused before they begin: label `reason`.
pub const REJECTIONS: [&str; 10] = [
    "bad_request",
    "capacity",
    "closing",
    "crowded_out",
    "forbidden_origin",
    "full",
    "keys_unavailable",
    "quota_exceeded",
    "token_expired",
    "unauthorized",
];

/// Which way in: label `op`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `GET /v1/stream`.
    Stream,
    /// `POST /v1/segments`.
    Segments,
    /// `POST /v1/transcode`.
    Transcode,
}

/// Who asked: label `origin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Client,
    /// A load test that says so of itself; kept apart, so that it doesn't count in service levels.
    Loadtest,
}

/// Seen from the service: label `direction`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    In,
    Out,
}

/// What happened to a job of which workers died: label `event`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quarantined {
    /// Put in quarantine.
    Added,
    /// Come again, and answered at once.
    Answered,
}

/// What came of a job that was begun before it was whole: label `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadStarted {
    /// It was finished.
    Done,
    /// Nobody wanted it any more, or others waited for a worker.
    GivenUp,
    Failed,
}

/// What a worker process does: label `state`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    Starting,
    Idle,
    Busy,
}

impl Metrics {
    /// `scratch_capacity`: bytes of scratch space that the configuration allows.
    pub fn new(scratch_capacity: u64) -> Self {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_units()
            .without_counter_suffixes()
            .without_target_info()
            .scope_info_enabled(false)
            .build()
            .expect("a fresh registry takes any collector");
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("segmill");
        let gauges = Arc::new(Gauges::default());
        observe(&meter, &gauges, scratch_capacity);
        let instruments = Instruments::new(&meter);
        let metrics = Self(Arc::new(Inner { registry, _provider: provider, instruments, gauges }));
        metrics.begin_at_zero();
        metrics
    }

    /// The text exposition that Prometheus reads (version 0.0.4).
    pub fn encode(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.0.registry.gather())
    }

    /// One segment is over. `duration`: from its completion in the server to its last byte handed to the socket.
    pub fn segment_done(&self, op: Operation, outcome: SegmentOutcome, origin: Origin, duration: Duration) {
        let labels = [op.label(), outcome_label(outcome), origin.label()];
        self.0.instruments.segment_duration.record(duration.as_secs_f64(), &labels);
        self.0.instruments.segments.add(1, &labels);
    }

    /// How long one job of a segment waited for a worker.
    pub fn segment_queued(&self, op: Operation, duration: Duration) {
        self.0.instruments.segment_queue.record(duration.as_secs_f64(), &[op.label()]);
    }

    /// How long a worker had a segment's job.
    pub fn segment_transcoded(&self, op: Operation, duration: Duration) {
        self.0.instruments.segment_transcode.record(duration.as_secs_f64(), &[op.label()]);
    }

    /// How long a finished segment took to be handed to the client.
    pub fn segment_delivered(&self, op: Operation, duration: Duration) {
        self.0.instruments.delivery.record(duration.as_secs_f64(), &[op.label()]);
    }

    /// A segment failed, or a session did, with this stable code.
    pub fn error(&self, code: &'static str) {
        self.0.instruments.segment_errors.add(1, &[KeyValue::new("code", code)]);
    }

    /// A session was refused before it began, for one of [`REJECTIONS`].
    pub fn session_rejected(&self, reason: &'static str) {
        debug_assert!(REJECTIONS.contains(&reason), "{reason}");
        self.0.instruments.sessions_rejected.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// A connection was cut off before its client was done with it, for one of [`CUTS`].
    pub fn connection_cut(&self, reason: &'static str) {
        debug_assert!(CUTS.contains(&reason), "{reason}");
        self.0.instruments.connections_cut.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// The system had no descriptor or memory for a connection that came.
    pub fn accept_failed(&self) {
        self.0.instruments.accept_failures.add(1, &[]);
    }

    /// The published keys of tokens were fetched, or could not be.
    pub fn keys_fetched(&self, ok: bool) {
        let outcome = if ok { "ok" } else { "failed" };
        self.0.instruments.key_fetches.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// Cloud Run was asked whether this revision was taken back, or could not be.
    pub fn release_asked(&self, ok: bool) {
        let outcome = if ok { "ok" } else { "failed" };
        self.0.instruments.release_polls.add(1, &[KeyValue::new("outcome", outcome)]);
    }

    /// This revision was taken back.
    pub fn retired(&self) {
        self.0.gauges.retired.store(1, Ordering::Relaxed);
    }

    /// One whole WebSocket message.
    pub fn message(&self, direction: Direction, bytes: usize) {
        self.0.instruments.websocket_message.record(bytes as u64, &[direction.label()]);
    }

    /// Time for which `stage`, one of [`STAGES`], did nothing because what comes after it had no room.
    pub fn blocked(&self, stage: &'static str, duration: Duration) {
        debug_assert!(STAGES.contains(&stage), "{stage}");
        self.0.instruments.backpressure.add(duration.as_secs_f64(), &[KeyValue::new("stage", stage)]);
    }

    /// Causes that [`Self::worker_restarted`] may be told; none has happened yet.
    pub fn expect_restarts(&self, causes: &[&'static str]) {
        causes.iter().for_each(|&cause| self.0.instruments.worker_restarts.add(0, &[KeyValue::new("cause", cause)]));
    }

    /// A worker process was replaced.
    pub fn worker_restarted(&self, cause: &'static str) {
        self.0.instruments.worker_restarts.add(1, &[KeyValue::new("cause", cause)]);
    }

    /// A job is in quarantine, or has come again.
    pub fn quarantined(&self, event: Quarantined) {
        self.0.instruments.quarantined_jobs.add(1, &[event.label()]);
    }

    /// A job that was begun early has ended.
    pub fn head_started(&self, outcome: HeadStarted) {
        self.0.instruments.head_starts.add(1, &[outcome.label()]);
    }

    /// Pictures that came in inside a segment, or went out in one rendition.
    pub fn frames(&self, direction: Direction, count: u64) {
        self.0.instruments.frames.add(count, &[direction.label()]);
    }

    /// One thing that rides along was told to a client.
    pub fn event(&self, kind: EventKind) {
        self.0.instruments.events.add(1, &[KeyValue::new("kind", kind.name())]);
    }

    /// Things that ride along were damaged or too many, and have been left out.
    pub fn events_dropped(&self, count: u64) {
        self.0.instruments.events_dropped.add(count, &[]);
    }

    /// An output's segment was not made as asked.
    pub fn degraded(&self, what: DegradedWhat) {
        self.0.instruments.degraded.add(1, &[KeyValue::new("what", what.name())]);
    }

    /// Units of a segment that were not what they should be: times that were repaired, pictures that no decoder can use.
    pub fn odd_units(&self, repaired: u64, undecodable: u64) {
        self.0.instruments.odd_units.add(repaired, &[KeyValue::new("kind", "repaired")]);
        self.0.instruments.odd_units.add(undecodable, &[KeyValue::new("kind", "undecodable")]);
    }

    /// The outcome of a check of the service's own health, such as the start of a worker; failures in a row are a gauge.
    pub fn health_checked(&self, ok: bool) {
        if ok {
            self.0.gauges.health_failures.store(0, Ordering::Relaxed);
        } else {
            self.0.gauges.health_failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts one session for as long as the value lives.
    pub fn session(&self) -> Held {
        self.hold(|gauges| &gauges.sessions, 1)
    }

    /// Counts one segment between cut and delivery for as long as the value lives.
    pub fn segment_in_flight(&self) -> Held {
        self.hold(|gauges| &gauges.segments_in_flight, 1)
    }

    /// How many jobs wait for a worker, and how much media is in them.
    pub fn set_queue(&self, jobs: usize, media: Duration) {
        let micros = u64::try_from(media.as_micros()).unwrap_or(u64::MAX);
        self.0.gauges.queue_depth.store(jobs as u64, Ordering::Relaxed);
        self.0.gauges.queue_media_us.store(micros, Ordering::Relaxed);
    }

    /// Processors that sessions may need in all, and do need.
    pub fn set_capacity(&self, cores: f64, demand: f64) {
        self.0.gauges.capacity_cores.store(cores.to_bits(), Ordering::Relaxed);
        self.0.gauges.demand_cores.store(demand.to_bits(), Ordering::Relaxed);
    }

    /// What work takes on this machine, over what the cost model's table says.
    pub fn set_calibration(&self, ratio: f64) {
        self.0.gauges.calibration.store(ratio.to_bits(), Ordering::Relaxed);
    }

    /// How many worker processes are in a state.
    pub fn set_workers(&self, state: WorkerState, count: usize) {
        state.gauge()(&self.0.gauges).store(count as u64, Ordering::Relaxed);
    }

    /// Whether a layer of the workers' sandbox is on.
    pub fn set_sandbox_layer(&self, layer: &'static str, on: bool) {
        self.0.gauges.sandbox().insert(layer, on);
    }

    /// Counts one scratch file's bytes, 0 at first, for as long as the value lives: see [`Held::set`].
    pub fn scratch(&self) -> Held {
        self.hold(|gauges| &gauges.scratch_bytes, 0)
    }

    fn hold(&self, gauge: fn(&Gauges) -> &AtomicU64, amount: u64) -> Held {
        gauge(&self.0.gauges).fetch_add(amount, Ordering::Relaxed);
        Held { gauges: Arc::clone(&self.0.gauges), gauge, amount }
    }

    /// A rate over a series that appears with its first event misses that event.
    fn begin_at_zero(&self) {
        for op in [Operation::Stream, Operation::Segments, Operation::Transcode] {
            for outcome in [SegmentOutcome::Ok, SegmentOutcome::Degraded, SegmentOutcome::Failed] {
                for origin in [Origin::Client, Origin::Loadtest] {
                    self.0.instruments.segments.add(0, &[op.label(), outcome_label(outcome), origin.label()]);
                }
            }
        }
        for stage in STAGES {
            self.0.instruments.backpressure.add(0.0, &[KeyValue::new("stage", stage)]);
        }
        for reason in CUTS {
            self.0.instruments.connections_cut.add(0, &[KeyValue::new("reason", reason)]);
        }
        for reason in REJECTIONS {
            self.0.instruments.sessions_rejected.add(0, &[KeyValue::new("reason", reason)]);
        }
        self.odd_units(0, 0);
        self.0.instruments.accept_failures.add(0, &[]);
        for event in [Quarantined::Added, Quarantined::Answered] {
            self.0.instruments.quarantined_jobs.add(0, &[event.label()]);
        }
        for outcome in [HeadStarted::Done, HeadStarted::GivenUp, HeadStarted::Failed] {
            self.0.instruments.head_starts.add(0, &[outcome.label()]);
        }
        for what in DegradedWhat::ALL {
            self.0.instruments.degraded.add(0, &[KeyValue::new("what", what.name())]);
        }
        for direction in [Direction::In, Direction::Out] {
            self.0.instruments.frames.add(0, &[direction.label()]);
        }
    }
}

/// A share of a gauge; given back on drop.
#[must_use = "the gauge counts only while this lives"]
pub struct Held {
    gauges: Arc<Gauges>,
    gauge: fn(&Gauges) -> &AtomicU64,
    amount: u64,
}

impl Held {
    /// Makes the share this large.
    pub fn set(&mut self, amount: u64) {
        let gauge = (self.gauge)(&self.gauges);
        if amount >= self.amount {
            gauge.fetch_add(amount - self.amount, Ordering::Relaxed);
        } else {
            gauge.fetch_sub(self.amount - amount, Ordering::Relaxed);
        }
        self.amount = amount;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// What goes up and down. [`Held`] values write here, and those methods of [`Metrics`] that tell a whole state.
#[derive(Default)]
struct Gauges {
    sessions: AtomicU64,
    segments_in_flight: AtomicU64,
    queue_depth: AtomicU64,
    queue_media_us: AtomicU64,
    /// Bits of floating-point numbers.
    capacity_cores: AtomicU64,
    demand_cores: AtomicU64,
    calibration: AtomicU64,
    scratch_bytes: AtomicU64,
    workers_starting: AtomicU64,
    workers_idle: AtomicU64,
    workers_busy: AtomicU64,
    health_failures: AtomicU64,
    retired: AtomicU64,
    sandbox: Mutex<BTreeMap<&'static str, bool>>,
}

impl Gauges {
    fn sandbox(&self) -> MutexGuard<'_, BTreeMap<&'static str, bool>> {
        self.sandbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bounds of the latency histograms, seconds. 1.5 and 3.0 are among them: service levels are promised there.
const SECONDS: [f64; 17] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 10.0, 20.0, 30.0, 60.0];

/// Bounds of the size histograms, bytes.
const BYTES: [f64; 9] = [256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 4_194_304.0, 16_777_216.0];

/// Counters and histograms.
struct Instruments {
    segment_duration: Histogram<f64>,
    segment_queue: Histogram<f64>,
    segment_transcode: Histogram<f64>,
    delivery: Histogram<f64>,
    segments: Counter<u64>,
    segment_errors: Counter<u64>,
    sessions_rejected: Counter<u64>,
    connections_cut: Counter<u64>,
    accept_failures: Counter<u64>,
    key_fetches: Counter<u64>,
    release_polls: Counter<u64>,
    websocket_message: Histogram<u64>,
    backpressure: Counter<f64>,
    worker_restarts: Counter<u64>,
    quarantined_jobs: Counter<u64>,
    head_starts: Counter<u64>,
    frames: Counter<u64>,
    events: Counter<u64>,
    events_dropped: Counter<u64>,
    odd_units: Counter<u64>,
    degraded: Counter<u64>,
}

impl Instruments {
    fn new(meter: &Meter) -> Self {
        let seconds = |name: &'static str, help: &'static str| {
            meter.f64_histogram(name).with_description(help).with_unit("s").with_boundaries(SECONDS.to_vec()).build()
        };
        let count = |name: &'static str, help: &'static str| meter.u64_counter(name).with_description(help).build();
        Self {
            segment_duration: seconds(
                "segmill_segment_duration_seconds",
                "From a segment's completion in the server to its last byte handed to the socket.",
            ),
            segment_queue: seconds("segmill_segment_queue_seconds", "Wait of a segment's job for a worker."),
            segment_transcode: seconds("segmill_segment_transcode_seconds", "Time a worker had a segment's job."),
            delivery: seconds("segmill_delivery_seconds", "From a segment's last job done to its hand-over."),
            segments: count("segmill_segments_total", "Segments that are over."),
            segment_errors: count("segmill_segment_errors_total", "Failures of segments and sessions by code."),
            sessions_rejected: count("segmill_sessions_rejected_total", "Sessions refused before they began."),
            connections_cut: count("segmill_connections_cut_total", "Connections that were cut off."),
            accept_failures: count(
                "segmill_accept_failures_total",
                "Times that the system had no descriptor or memory for a connection.",
            ),
            key_fetches: count("segmill_auth_key_fetches_total", "Fetches of the published keys of tokens."),
            release_polls: count(
                "segmill_release_polls_total",
                "Questions to Cloud Run whether this revision was taken back.",
            ),
            websocket_message: meter
                .u64_histogram("segmill_websocket_message_bytes")
                .with_description("Sizes of whole WebSocket messages.")
                .with_unit("By")
                .with_boundaries(BYTES.to_vec())
                .build(),
            backpressure: meter
                .f64_counter("segmill_backpressure_seconds_total")
                .with_description("Time for which a stage waited for room after it.")
                .with_unit("s")
                .build(),
            worker_restarts: count("segmill_worker_restarts_total", "Worker processes that were replaced."),
            quarantined_jobs: count(
                "segmill_quarantined_jobs_total",
                "Jobs of which two workers died, and such jobs that came again.",
            ),
            head_starts: count("segmill_head_starts_total", "Jobs that were begun before their segment was whole."),
            frames: count("segmill_frames_total", "Pictures in, and pictures out over all renditions."),
            events: count("segmill_events_total", "Events that were told to clients."),
            events_dropped: count(
                "segmill_events_dropped_total",
                "Events that were damaged or too many, and left out.",
            ),
            odd_units: count(
                "segmill_odd_units_total",
                "Units with a repaired time, and pictures that can't be decoded.",
            ),
            degraded: count("segmill_degraded_total", "Outputs' segments that were not made as asked."),
        }
    }
}

/// Gauges, read at each scrape.
fn observe(meter: &Meter, gauges: &Arc<Gauges>, scratch_capacity: u64) {
    let held = |name: &'static str, help: &'static str, gauge: fn(&Gauges) -> &AtomicU64| {
        let gauges = Arc::clone(gauges);
        let read = move || gauge(&gauges).load(Ordering::Relaxed);
        meter.u64_observable_gauge(name).with_description(help).with_callback(move |o| o.observe(read(), &[])).build();
    };
    held("segmill_segments_in_flight", "Segments between cut and delivery.", |gauges| &gauges.segments_in_flight);
    held("segmill_queue_depth", "Jobs that wait for a worker.", |gauges| &gauges.queue_depth);
    held("segmill_sessions", "Open sessions.", |gauges| &gauges.sessions);
    held("segmill_retired", "1 where this revision was taken back.", |gauges| &gauges.retired);
    held("segmill_scratch_bytes", "Scratch space in use.", |gauges| &gauges.scratch_bytes);
    held("segmill_health_consecutive_failures", "Failed checks of the service's own health in a row.", |gauges| {
        &gauges.health_failures
    });

    let real = |name: &'static str, help: &'static str, gauge: fn(&Gauges) -> &AtomicU64| {
        let gauges = Arc::clone(gauges);
        let read = move || f64::from_bits(gauge(&gauges).load(Ordering::Relaxed));
        meter.f64_observable_gauge(name).with_description(help).with_callback(move |o| o.observe(read(), &[])).build();
    };
    real("segmill_capacity_cores", "Processors that sessions may need in all.", |gauges| &gauges.capacity_cores);
    real("segmill_demand_cores", "Processors that sessions need.", |gauges| &gauges.demand_cores);
    real(
        "segmill_calibration_ratio",
        "What work takes on this machine, over what was expected; 0 while that is not measured.",
        |gauges| &gauges.calibration,
    );

    let queue = Arc::clone(gauges);
    meter
        .f64_observable_gauge("segmill_queue_media_seconds")
        .with_description("Media time of the jobs that wait for a worker.")
        .with_unit("s")
        .with_callback(move |o| o.observe(queue.queue_media_us.load(Ordering::Relaxed) as f64 / 1e6, &[]))
        .build();

    let workers = Arc::clone(gauges);
    meter
        .u64_observable_gauge("segmill_workers")
        .with_description("Worker processes by state.")
        .with_callback(move |o| {
            for state in [WorkerState::Starting, WorkerState::Idle, WorkerState::Busy] {
                o.observe(state.gauge()(&workers).load(Ordering::Relaxed), &[state.label()]);
            }
        })
        .build();

    let sandbox = Arc::clone(gauges);
    meter
        .u64_observable_gauge("segmill_sandbox_layer")
        .with_description("Layers of the workers' sandbox: 1 on, 0 lacking.")
        .with_callback(move |o| {
            for (&layer, &on) in sandbox.sandbox().iter() {
                o.observe(u64::from(on), &[KeyValue::new("layer", layer)]);
            }
        })
        .build();

    meter
        .u64_observable_gauge("segmill_scratch_capacity_bytes")
        .with_description("Scratch space that may be used.")
        .with_unit("By")
        .with_callback(move |o| o.observe(scratch_capacity, &[]))
        .build();

    let probe = Arc::new(Probe::new());
    let cpu = Arc::clone(&probe);
    meter
        .f64_observable_gauge("segmill_cpu_utilization_ratio")
        .with_description("Share of the CPUs allowed that was used since the last scrape, workers included.")
        .with_callback(move |o| cpu.cpu_utilization(Instant::now()).into_iter().for_each(|ratio| o.observe(ratio, &[])))
        .build();
    let memory = Arc::clone(&probe);
    meter
        .u64_observable_gauge("segmill_memory_bytes")
        .with_description("Memory in use, workers included.")
        .with_unit("By")
        .with_callback(move |o| memory.memory().into_iter().for_each(|bytes| o.observe(bytes, &[])))
        .build();
    meter
        .u64_observable_gauge("segmill_memory_limit_bytes")
        .with_description("Memory that may be used.")
        .with_unit("By")
        .with_callback(move |o| probe.memory_limit().into_iter().for_each(|bytes| o.observe(bytes, &[])))
        .build();

    let start = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    meter
        .f64_observable_gauge("process_start_time_seconds")
        .with_description("Start of the process, seconds since 1970.")
        .with_unit("s")
        .with_callback(move |o| o.observe(start, &[]))
        .build();
}

impl Operation {
    fn label(self) -> KeyValue {
        let name = match self {
            Self::Stream => "stream",
            Self::Segments => "segments",
            Self::Transcode => "transcode",
        };
        KeyValue::new("op", name)
    }
}

impl Origin {
    fn label(self) -> KeyValue {
        KeyValue::new("origin", if self == Self::Loadtest { "loadtest" } else { "client" })
    }
}

impl Direction {
    fn label(self) -> KeyValue {
        KeyValue::new("direction", if self == Self::In { "in" } else { "out" })
    }
}

impl Quarantined {
    fn label(self) -> KeyValue {
        KeyValue::new("event", if self == Self::Added { "added" } else { "answered" })
    }
}

impl HeadStarted {
    fn label(self) -> KeyValue {
        let outcome = match self {
            Self::Done => "done",
            Self::GivenUp => "given_up",
            Self::Failed => "failed",
        };
        KeyValue::new("outcome", outcome)
    }
}

impl WorkerState {
    fn gauge(self) -> fn(&Gauges) -> &AtomicU64 {
        match self {
            Self::Starting => |gauges| &gauges.workers_starting,
            Self::Idle => |gauges| &gauges.workers_idle,
            Self::Busy => |gauges| &gauges.workers_busy,
        }
    }

    fn label(self) -> KeyValue {
        let name = match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Busy => "busy",
        };
        KeyValue::new("state", name)
    }
}

fn outcome_label(outcome: SegmentOutcome) -> KeyValue {
    let name = match outcome {
        SegmentOutcome::Ok => "ok",
        SegmentOutcome::Degraded => "degraded",
        SegmentOutcome::Failed => "failed",
    };
    KeyValue::new("outcome", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every series name with its label names, as exposed.
    fn exposed(metrics: &Metrics) -> BTreeMap<String, String> {
        let text = metrics.encode().unwrap();
        let series = text.lines().filter(|line| !line.starts_with('#'));
        series
            .map(|line| {
                let (name, rest) = line.split_once(['{', ' ']).unwrap();
                let labels = if line.contains('{') { rest.split_once('}').unwrap().0 } else { "" };
                let labels: Vec<_> = labels.split(',').map(|pair| pair.split('=').next().unwrap()).collect();
                (name.to_owned(), labels.join(","))
            })
            .collect()
    }

    fn value(metrics: &Metrics, series: &str) -> f64 {
        let text = metrics.encode().unwrap();
        let line = text.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("{series} is not in {text}")).rsplit_once(' ').unwrap().1.parse().unwrap()
    }

    fn used() -> Metrics {
        let metrics = Metrics::new(1 << 30);
        let second = Duration::from_secs(1);
        metrics.segment_done(Operation::Stream, SegmentOutcome::Ok, Origin::Client, Duration::from_millis(1500));
        metrics.segment_queued(Operation::Stream, second);
        metrics.segment_transcoded(Operation::Stream, second);
        metrics.segment_delivered(Operation::Stream, second);
        metrics.error("bad_media");
        metrics.session_rejected("full");
        metrics.connection_cut("header_timeout");
        metrics.keys_fetched(true);
        metrics.release_asked(true);
        metrics.message(Direction::In, 70_000);
        metrics.blocked("places", Duration::from_millis(2500));
        metrics.worker_restarted("timeout");
        metrics.set_sandbox_layer("seccomp", true);
        metrics.frames(Direction::In, 50);
        metrics.event(EventKind::Scte35);
        metrics.events_dropped(1);
        metrics
    }

    #[test]
    fn the_exposed_names_and_labels_are_exactly_these() {
        let histogram = |name: &str, labels: &str| {
            let bucket = if labels.is_empty() { "le".to_owned() } else { format!("{labels},le") };
            [
                (format!("{name}_bucket"), bucket),
                (format!("{name}_sum"), labels.into()),
                (format!("{name}_count"), labels.into()),
            ]
        };
        let plain = |name: &str, labels: &str| [(name.to_owned(), labels.to_owned())];
        let expected: BTreeMap<String, String> = [
            histogram("segmill_segment_duration_seconds", "op,origin,outcome").to_vec(),
            histogram("segmill_segment_queue_seconds", "op").to_vec(),
            histogram("segmill_segment_transcode_seconds", "op").to_vec(),
            histogram("segmill_delivery_seconds", "op").to_vec(),
            histogram("segmill_websocket_message_bytes", "direction").to_vec(),
            plain("segmill_segments_total", "op,origin,outcome").to_vec(),
            plain("segmill_segment_errors_total", "code").to_vec(),
            plain("segmill_segments_in_flight", "").to_vec(),
            plain("segmill_queue_depth", "").to_vec(),
            plain("segmill_queue_media_seconds", "").to_vec(),
            plain("segmill_sessions", "").to_vec(),
            plain("segmill_sessions_rejected_total", "reason").to_vec(),
            plain("segmill_connections_cut_total", "reason").to_vec(),
            plain("segmill_accept_failures_total", "").to_vec(),
            plain("segmill_auth_key_fetches_total", "outcome").to_vec(),
            plain("segmill_release_polls_total", "outcome").to_vec(),
            plain("segmill_retired", "").to_vec(),
            plain("segmill_backpressure_seconds_total", "stage").to_vec(),
            plain("segmill_worker_restarts_total", "cause").to_vec(),
            plain("segmill_quarantined_jobs_total", "event").to_vec(),
            plain("segmill_head_starts_total", "outcome").to_vec(),
            plain("segmill_workers", "state").to_vec(),
            plain("segmill_sandbox_layer", "layer").to_vec(),
            plain("segmill_capacity_cores", "").to_vec(),
            plain("segmill_demand_cores", "").to_vec(),
            plain("segmill_calibration_ratio", "").to_vec(),
            plain("segmill_scratch_bytes", "").to_vec(),
            plain("segmill_scratch_capacity_bytes", "").to_vec(),
            plain("segmill_cpu_utilization_ratio", "").to_vec(),
            plain("segmill_memory_bytes", "").to_vec(),
            plain("segmill_memory_limit_bytes", "").to_vec(),
            plain("segmill_health_consecutive_failures", "").to_vec(),
            plain("segmill_frames_total", "direction").to_vec(),
            plain("segmill_events_total", "kind").to_vec(),
            plain("segmill_events_dropped_total", "").to_vec(),
            plain("segmill_odd_units_total", "kind").to_vec(),
            plain("segmill_degraded_total", "what").to_vec(),
            plain("process_start_time_seconds", "").to_vec(),
        ]
        .concat()
        .into_iter()
        .collect();
        assert_eq!(exposed(&used()), expected);
    }

    #[test]
    fn values_land_in_seconds_and_bytes_and_in_the_bounds_set_by_hand() {
        let metrics = used();
        let duration = |le: &str| {
            let labels = format!("op=\"stream\",origin=\"client\",outcome=\"ok\",le=\"{le}\"");
            format!("segmill_segment_duration_seconds_bucket{{{labels}}}")
        };
        assert_eq!(value(&metrics, &duration("1")), 0.0);
        assert_eq!(value(&metrics, &duration("1.5")), 1.0);
        assert_eq!(value(&metrics, &duration("3")), 1.0);
        assert_eq!(value(&metrics, "segmill_websocket_message_bytes_bucket{direction=\"in\",le=\"65536\"}"), 0.0);
        assert_eq!(value(&metrics, "segmill_websocket_message_bytes_bucket{direction=\"in\",le=\"262144\"}"), 1.0);
        assert_eq!(value(&metrics, "segmill_backpressure_seconds_total{stage=\"places\"}"), 2.5);
        let segments = |outcome: &str, origin: &str| {
            format!("segmill_segments_total{{op=\"stream\",origin=\"{origin}\",outcome=\"{outcome}\"}}")
        };
        assert_eq!(value(&metrics, &segments("ok", "client")), 1.0);
        assert_eq!(value(&metrics, &segments("failed", "loadtest")), 0.0, "there before the first failure");
    }

    #[test]
    fn gauges_follow_the_values_that_hold_them() {
        let metrics = Metrics::new(4096);
        let workers = |state: &str| format!("segmill_workers{{state=\"{state}\"}}");
        {
            let _session = metrics.session();
            metrics.set_queue(1, Duration::from_millis(2500));
            let mut scratch = metrics.scratch();
            metrics.set_workers(WorkerState::Busy, 1);
            scratch.set(4000);
            scratch.set(1000);
            assert_eq!(value(&metrics, "segmill_sessions"), 1.0);
            assert_eq!(value(&metrics, "segmill_queue_depth"), 1.0);
            assert_eq!(value(&metrics, "segmill_queue_media_seconds"), 2.5);
            assert_eq!(value(&metrics, &workers("starting")), 0.0);
            assert_eq!(value(&metrics, &workers("busy")), 1.0);
            assert_eq!(value(&metrics, "segmill_scratch_bytes"), 1000.0);
        }
        for series in ["segmill_sessions", "segmill_scratch_bytes"] {
            assert_eq!(value(&metrics, series), 0.0, "{series}");
        }
        metrics.set_capacity(1.8, 0.25);
        assert_eq!(value(&metrics, "segmill_capacity_cores"), 1.8);
        assert_eq!(value(&metrics, "segmill_demand_cores"), 0.25);
        metrics.set_queue(0, Duration::ZERO);
        assert_eq!(value(&metrics, "segmill_queue_depth"), 0.0);
        assert_eq!(value(&metrics, "segmill_scratch_capacity_bytes"), 4096.0);
        metrics.health_checked(false);
        metrics.health_checked(false);
        assert_eq!(value(&metrics, "segmill_health_consecutive_failures"), 2.0);
        metrics.health_checked(true);
        assert_eq!(value(&metrics, "segmill_health_consecutive_failures"), 0.0);
    }
}
