//! Workers killed by somebody else, two hundred times under load: no segment is lost, none comes twice, each is exact.
//! Not part of `cargo test`: `make chaos`. CHAOS_KILLS sets another number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::{self, Session};
use crate::support::media::{self, Clip, Shape};
use crate::support::service::{self, Service};
use crate::support::verify;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const SESSIONS: usize = 4;
/// Segments of a session between cut and delivery.
const IN_FLIGHT: u64 = 2;
/// Pictures of a clip, and of a segment.
const FRAMES: u16 = 300;
const GOP: u16 = 6;
/// A pool that does not go on is a fault of its own.
const STUCK: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn workers_killed_two_hundred_times_under_load_lose_and_double_nothing() {
    let kills: u64 = std::env::var("CHAOS_KILLS").map_or(200, |text| text.parse().expect("a number"));
    let flags = ["--workers", "2", "--segments-in-flight", "2", "--worker-start-timeout", "60s"];
    let service = Arc::new(Service::start(&flags));
    let over = Arc::new(AtomicBool::new(false));
    let slots: Vec<_> = (0..SESSIONS)
        .map(|n| {
            let done = Arc::new(AtomicU64::new(0));
            let running = tokio::spawn(sessions(service.listen, clip(n), done.clone(), over.clone()));
            (done, running)
        })
        .collect();
    let receipts = || slots.iter().map(|(done, _)| done.load(Ordering::Relaxed)).collect::<Vec<_>>();
    let mut seed = 7u64;
    for kill in 1..=kills {
        let workers = service.workers();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let victim = workers[(seed >> 33) as usize % workers.len()];
        service::signal(victim, "KILL");
        // All that was in flight is done before the next: no segment's worker is killed twice.
        let at = receipts();
        let passed = || receipts().iter().zip(&at).all(|(now, then)| *now > then + IN_FLIGHT);
        let begun = Instant::now();
        while !(passed() && restarts(&service) == kill as f64 && service.workers().len() == 2) {
            assert!(
                begun.elapsed() < STUCK,
                "kill {kill}: {at:?} has come to {:?}, {}",
                receipts(),
                restarts(&service)
            );
            tokio::task::yield_now().await;
        }
    }
    over.store(true, Ordering::Relaxed);
    let (mut segments, mut again) = (0, 0);
    for (n, (_, running)) in slots.into_iter().enumerate() {
        for session in running.await.expect("streaming does not panic") {
            check(&clip(n), &session);
            segments += session.receipts.len();
            again += session.receipts.iter().filter(|receipt| receipt["attempts"].as_u64() > Some(1)).count();
        }
    }
    assert_eq!(restarts(&service), kills as f64);
    let counted = service.metric("segmill_segments_total{op=\"stream\",origin=\"client\",outcome=\"ok\"}");
    assert_eq!(counted, Some(segments as f64), "each segment has one outcome");
    assert!(again > 0, "some of the workers were at work");
    println!("{kills} kills, {segments} segments, {again} of them made again");
}

fn clip(n: usize) -> Clip {
    let shape = [Shape::Ts, Shape::FragmentedMp4][n % 2];
    let first = 1000 * n as u16;
    Clip { shape, audio: None, frames: FRAMES, first, gop: GOP.into(), width: 160, height: 90, ..Clip::default() }
}

/// Sessions one after the other, until it is over.
async fn sessions(to: std::net::SocketAddr, clip: Clip, done: Arc<AtomicU64>, over: Arc<AtomicBool>) -> Vec<Session> {
    let media = clip.bytes();
    let mut sessions = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let start = json!({"type": "start", "segment_ms": 200, "outputs": verify::outputs(&["h264", "ts:h264@72"])});
        let (mut sink, mut stream) = client::connect(to).await.split();
        let media = media.clone();
        let sending = tokio::spawn(async move {
            sink.send(Message::text(start.to_string())).await?;
            for piece in media.chunks(20_000) {
                sink.send(Message::binary([&[0], piece].concat())).await?;
            }
            sink.send(Message::text(json!({"type": "finish", "channel": 0}).to_string())).await?;
            Ok::<_, tokio_tungstenite::tungstenite::Error>(sink)
        });
        let mut session = Session::default();
        while let Some(Ok(message)) = stream.next().await {
            let before = session.receipts.len();
            session.take(message);
            done.fetch_add((session.receipts.len() - before) as u64, Ordering::Relaxed);
        }
        drop(sending.await.expect("sending does not panic").expect("the service reads"));
        sessions.push(session);
    }
    sessions
}

fn check(clip: &Clip, session: &Session) {
    assert_eq!((session.close_code(), &session.errors), (1000, &Vec::<Value>::new()));
    assert!(session.receipts.iter().all(|receipt| receipt["outcome"] == "ok"));
    for output in session.outputs.values() {
        assert_eq!(output.segments.len(), session.receipts.len());
        let numbers: Vec<u16> = media::decode_barcodes(&output.whole()).into_iter().map(|(_, number)| number).collect();
        assert_eq!(numbers, (clip.first..clip.first + clip.frames).collect::<Vec<_>>());
    }
}

fn restarts(service: &Service) -> f64 {
    let (_, metrics) = service.get_ops("/metrics");
    let series = metrics.lines().filter(|line| line.starts_with("segmill_worker_restarts_total{"));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}
