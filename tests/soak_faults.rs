//! An hour at four fifths of the capacity while workers die and hang, clients vanish and streams are damaged: healthy
//! sessions lose nothing, and no process grows. Not part of `cargo test`: `make soak`. SOAK_S sets another length in
//! seconds, SOAK_LOAD_PERCENT another load, SOAK_CORES how many processors that is of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{self, Session};
use crate::support::damage;
use crate::support::media::{self, Clip, Picture, Shape, Sound};
use crate::support::service::{self, Service};
use crate::support::verify;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{Error, Message};

/// The width by which the workers of `examples/chaos_service.rs` know a session that may fail.
const MARKED: usize = 208;
const FAULTS: [&str; 10] =
    ["spin", "sleep", "teardown", "memory", "segfault", "abort", "exit", "garbage", "claim", "flood"];
const OUTPUTS: [&str; 2] = ["h264@180+aac", "ts:copy+copy"];
/// Messages of a session a second.
const PIECES: u32 = 8;
/// What is live counts as demand; a segment may wait for two workers that hang all the same.
const DEADLINE_MS: u64 = 30_000;
const MOST_SESSIONS: usize = 64;
const SAMPLED: Duration = Duration::from_secs(5);
/// By how much the service may seem to have grown at the end, bytes: what its allocator keeps goes up and down by that.
const GROWTH: f64 = 16e6;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Numbers that are the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_faults_under_load_costs_healthy_sessions_nothing_and_no_process_grows() {
    let (length, load) = (Duration::from_secs(setting("SOAK_S", 3600)), setting("SOAK_LOAD_PERCENT", 80));
    let folder = tempfile::tempdir().expect("a folder");
    let mut flags = vec!["--workers", "2", "--worker-progress-timeout", "10s", "--worker-start-timeout", "60s"];
    let cores = std::env::var("SOAK_CORES");
    flags.extend(cores.iter().flat_map(|cores| ["--capacity-cores", cores.as_str()]));
    let service = Arc::new(Service::chaos(folder.path(), &flags));
    let over = Arc::new(AtomicBool::new(false));
    let striking = tokio::spawn(strikes(service.clone(), folder.path().to_owned(), over.clone()));
    let capacity = service.metric("segmill_capacity_cores").expect("a gauge");
    let most = capacity * load as f64 / 100.0;
    let (mut sessions, mut begun_sessions, mut done) = (JoinSet::new(), 0, Healthy::default());
    let (mut samples, mut demands) = (Vec::new(), Vec::new());
    let (begun, mut sampled, mut told) = (Instant::now(), Duration::ZERO, Duration::ZERO);
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    while begun.elapsed() < length {
        pace.tick().await;
        let demand = service.metric("segmill_demand_cores").expect("a gauge");
        if demand < most && sessions.len() < MOST_SESSIONS {
            sessions.spawn(healthy(service.listen, begun_sessions));
            begun_sessions += 1;
        }
        while let Some(session) = sessions.try_join_next() {
            done.add(session.expect("a healthy session is exact"));
        }
        if begun.elapsed() >= sampled + SAMPLED {
            sampled = begun.elapsed();
            samples.push(Sample::take(&service, sampled));
            demands.push(demand / capacity);
        }
        if begun.elapsed() >= told + Duration::from_secs(60) {
            told = begun.elapsed();
            println!("{:5.0} s: {:?}, {begun_sessions} sessions", told.as_secs_f64(), samples.last());
        }
    }
    over.store(true, Ordering::Relaxed);
    let struck = striking.await.expect("what strikes does not panic");
    while let Some(session) = sessions.join_next().await {
        done.add(session.expect("a healthy session is exact"));
    }
    println!("{struck:?}");
    println!("{done:?} in {length:?}; mean demand {:.2} of the capacity", mean(&demands));
    let (_, metrics) = service.get_ops("/metrics");
    for line in metrics.lines().filter(|line| {
        ["segmill_worker_restarts_total{", "segmill_segments_total{op=\"stream\",origin=\"client\""]
            .iter()
            .any(|name| line.starts_with(name))
    }) {
        println!("{line}");
    }
    // What has been built up at first, caches and arenas, is no growth.
    let settled: Vec<&Sample> = samples.iter().skip(samples.len() / 4).collect();
    for (name, of) in [
        ("service, bytes", (|sample: &Sample| sample.service as f64) as fn(&Sample) -> f64),
        ("workers, bytes", |sample| sample.workers as f64),
        ("descriptors", |sample| sample.descriptors as f64),
    ] {
        let points: Vec<(f64, f64)> = settled.iter().map(|sample| (sample.at.as_secs_f64(), of(sample))).collect();
        let (slope, error) = slope(&by_minute(&points));
        println!("{name}: mean {:.0}, slope {:.0} ± {:.0} an hour", mean_of(&points), slope * 3600.0, error * 3600.0);
        let grown = (slope - 2.0 * error) * length.as_secs_f64();
        assert!(!name.starts_with("service") || grown < GROWTH, "the service grows");
    }
    assert!(done.sessions > 0 && done.segments > done.sessions);
}

/// What the processes hold.
#[derive(Debug)]
struct Sample {
    at: Duration,
    service: u64,
    workers: u64,
    descriptors: usize,
}

impl Sample {
    fn take(service: &Service, at: Duration) -> Self {
        let workers = service.workers();
        let of = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        // What is its own: the libraries are shared.
        let private = |text: String| -> u64 {
            let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"));
            line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
        };
        let workers = workers.iter().map(|pid| private(of(pid))).sum();
        Self { at, service: service.memory(), workers, descriptors: service.descriptors() }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn mean_of(points: &[(f64, f64)]) -> f64 {
    mean(&points.iter().map(|point| point.1).collect::<Vec<_>>())
}

/// The mean of each minute. One sample is much like the one before, as long as the same workers live; minutes are not.
fn by_minute(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let minutes = points.chunk_by(|a, b| (a.0 / 60.0).floor() == (b.0 / 60.0).floor());
    minutes.map(|minute| (mean(&minute.iter().map(|point| point.0).collect::<Vec<_>>()), mean_of(minute))).collect()
}

/// Of the straight line that is nearest, with its standard error, as far as the points have nothing to do with each other.
fn slope(points: &[(f64, f64)]) -> (f64, f64) {
    let (x, y) = (mean(&points.iter().map(|point| point.0).collect::<Vec<_>>()), mean_of(points));
    let xx: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let xy: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let slope = xy / xx;
    let left: f64 = points.iter().map(|point| (point.1 - y - slope * (point.0 - x)).powi(2)).sum();
    (slope, (left / (points.len().max(3) - 2) as f64 / xx).sqrt())
}

/// What healthy sessions had.
#[derive(Debug, Default)]
struct Healthy {
    sessions: u64,
    segments: u64,
    pictures: u64,
    /// Segments that more than one worker was tried for.
    again: u64,
    /// Sessions that were told at their start that there is no room.
    turned_away: u64,
}

impl Healthy {
    fn add(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.segments += other.segments;
        self.pictures += other.pictures;
        self.again += other.again;
        self.turned_away += other.turned_away;
    }
}

/// A session at the pace of its media; each picture comes back once.
async fn healthy(to: SocketAddr, n: usize) -> Healthy {
    let shapes = [
        (Shape::Ts, Picture::H264, Sound::Aac),
        (Shape::FragmentedMp4, Picture::H264, Sound::Aac),
        (Shape::FragmentedMp4, Picture::H265, Sound::Aac),
    ];
    let (shape, picture, sound) = shapes[n % 3];
    let clip = Clip {
        shape,
        video: Some(picture),
        audio: Some(sound),
        frames: [240, 480, 720][n / 3 % 3],
        first: 1000 * (n % 3) as u16,
        width: 480,
        height: 270,
        gop: 30,
        ..Clip::default()
    };
    let made = clip.clone();
    let media = tokio::task::spawn_blocking(move || made.bytes()).await.expect("a clip");
    let session = paced(to, media, u32::from(clip.frames) / 30).await;
    if session.error_codes() == ["full"] && session.receipts.is_empty() {
        return Healthy { turned_away: 1, ..Healthy::default() };
    }
    tokio::task::spawn_blocking(move || check(&clip, &session)).await.expect("a healthy session is exact")
}

fn check(clip: &Clip, session: &Session) -> Healthy {
    assert_eq!((session.close_code(), &session.errors), (1000, &Vec::<Value>::new()));
    assert!(session.receipts.iter().all(|receipt| receipt["outcome"] == "ok"), "{:?}", session.receipts);
    for output in session.outputs.values() {
        assert_eq!(output.segments.len(), session.receipts.len());
        for pair in output.segments.windows(2) {
            let at = |key: &str, n: usize| pair[n].0[key].as_i64().expect("a number");
            assert_eq!(at("start", 0) + at("duration", 0), at("start", 1));
        }
    }
    let made = session.outputs[&verify::name(0)].whole();
    let numbers: Vec<u16> = media::decode_barcodes(&made).into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, (clip.first..clip.first + clip.frames).collect::<Vec<_>>());
    let again = session.receipts.iter().filter(|receipt| receipt["attempts"].as_u64() > Some(1)).count() as u64;
    Healthy {
        sessions: 1,
        segments: session.receipts.len() as u64,
        pictures: u64::from(clip.frames),
        again,
        turned_away: 0,
    }
}

async fn paced(to: SocketAddr, media: Vec<u8>, seconds: u32) -> Session {
    let outputs = verify::outputs(&OUTPUTS);
    let start =
        json!({"type": "start", "mode": "live", "segment_ms": 1000, "deadline_ms": DEADLINE_MS, "outputs": outputs});
    let (mut sink, mut stream) = client::connect(to).await.split();
    let sending = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_secs(1) / PIECES);
        sink.send(Message::text(start.to_string())).await?;
        for piece in media.chunks(media.len().div_ceil((seconds * PIECES) as usize)) {
            pace.tick().await;
            sink.send(Message::binary([&[0], piece].concat())).await?;
        }
        sink.send(Message::text(json!({"type": "finish", "channel": 0}).to_string())).await?;
        Ok::<_, Error>(sink)
    });
    let mut session = Session::default();
    while let Some(Ok(message)) = stream.next().await {
        session.take(message);
    }
    let _ = sending.await.expect("sending does not panic");
    session
}

/// Until it is over, something goes wrong every few seconds. How often what did.
async fn strikes(service: Arc<Service>, folder: std::path::PathBuf, over: Arc<AtomicBool>) -> BTreeMap<String, u32> {
    let (mut random, mut struck) = (Random(11), BTreeMap::new());
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(2000 + random.below(8000))).await;
        let name = match random.below(5) {
            0 => {
                let workers = service.workers();
                if let Some(victim) = workers.get(random.below(workers.len().max(1) as u64) as usize) {
                    service::signal(*victim, "KILL");
                }
                "killed".to_owned()
            }
            once @ (1 | 2) => {
                let fault = FAULTS[random.below(FAULTS.len() as u64) as usize];
                fail(&service, &folder, if once == 1 { "once" } else { "always" }, fault, random.below(40)).await;
                fault.to_owned()
            }
            3 => {
                vanish(service.listen).await;
                "vanished".to_owned()
            }
            _ => {
                let clips = damage::clips();
                let clip = &clips[random.below(clips.len() as u64) as usize];
                let damaged = damage::flipped(&clip.bytes(), random.below(1 << 30));
                let session = damage::session(&service, "damaged", damaged).await;
                damage::Codes::read().check("damaged", &session);
                "damaged".to_owned()
            }
        };
        *struck.entry(name).or_insert(0) += 1;
    }
    struck
}

/// A session whose jobs end badly, once or each time.
async fn fail(service: &Service, folder: &Path, times: &str, fault: &str, number: u64) {
    std::fs::write(folder.join("told"), format!("{times} {fault}")).expect("the folder can be written");
    std::fs::rename(folder.join("told"), folder.join("fault")).expect("the folder can be written");
    let first = 100 * number as u16;
    let clip = Clip { width: MARKED, height: 118, audio: None, frames: 15, gop: 15, first, ..Clip::default() };
    let start = json!({"segment_ms": 500, "outputs": verify::outputs(&["h264@90"])});
    let session = client::stream(service.listen, start, clip.bytes(), 20_000).await;
    if session.error_codes() != ["full"] {
        assert_eq!(session.receipts.len(), 1, "{fault}: one outcome: {:?} {:?}", session.errors, session.close);
        let outcome = session.receipts[0]["outcome"].as_str().expect("text");
        assert!(["ok", "failed"].contains(&outcome), "{fault}: {outcome}");
    }
    // Nobody took it where the session was turned away, or its job was known and answered at once.
    let _ = std::fs::remove_file(folder.join("fault"));
}

/// A client that is gone in the middle of a segment.
async fn vanish(to: SocketAddr) {
    let clip = Clip { first: 5000, width: 480, height: 270, ..Clip::default() };
    let media = clip.bytes();
    let start = json!({"type": "start", "segment_ms": 500, "outputs": verify::outputs(&OUTPUTS)});
    let mut socket = client::connect(to).await;
    socket.send(Message::text(start.to_string())).await.expect("the service reads");
    socket.send(Message::binary([&[0], &media[..media.len() / 3]].concat())).await.expect("the service reads");
}
