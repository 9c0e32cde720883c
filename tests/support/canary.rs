//! Healthy sessions beside whatever is done to the service, and what the service holds before and after.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::client::{self, Session};
use super::media::{self, Clip, Picture, Shape, Sound};
use super::service::Service;
use super::verify;

const OUTPUTS: [&str; 1] = ["h264@90+aac"];
/// How much the service's memory may be above what it was.
const MEMORY_SLACK: u64 = 32 << 20;
/// Of what is left of a clip, a part each second while the strike lasts, however long that is, and never less than twice
/// what a healthy client has to send (`--min-rate`): by the clock, so that it is as much where ticks come late.
const PART: f64 = 1.0 / 60.0;
const LEAST: f64 = 256.0;
const TICK: Duration = Duration::from_millis(100);

/// Four healthy sessions, in the middle of which something strikes, until `struck`; how many segments they had. Each is
/// exact.
pub async fn canaries(service: &Service, struck: Option<watch::Receiver<bool>>) -> f64 {
    let mut segments = 0;
    for (clip, session) in sessions(service, struck).await {
        verify::session(&clip, &OUTPUTS, &session);
        segments += session.receipts.len();
    }
    segments as f64
}

/// The same, of whose sound nothing is looked at: for where there is little time.
pub async fn seen_canaries(service: &Service, struck: Option<watch::Receiver<bool>>) -> f64 {
    let mut segments = 0;
    for (clip, session) in sessions(service, struck).await {
        assert_eq!((session.close_code(), session.error_codes()), (1000, vec![]));
        assert!(session.receipts.iter().all(|receipt| receipt["outcome"] == "ok"), "{:?}", session.receipts);
        let pictures = media::decode_barcodes(&session.outputs[&verify::name(0)].whole());
        assert!(pictures.iter().map(|(_, number)| *number).eq(clip.first..clip.first + clip.frames));
        segments += session.receipts.len();
    }
    segments as f64
}

/// Waits until the four are in their middle, as the counters tell that were read before they began.
pub async fn in_their_middle(service: &Service, before: &BTreeMap<String, f64>) {
    let series = "segmill_segments_total{op=\"stream\",origin=\"client\",outcome=\"ok\"}";
    let begun = Instant::now();
    // Of one the index comes last: it is held until then.
    while service.metric(series) < before.get(series).map(|made| made + 3.0)
        || service.metric("segmill_scratch_bytes") == Some(0.0)
        || service.metric("segmill_sessions") < Some(4.0)
    {
        assert!(begun.elapsed() < Duration::from_secs(120), "they don't begin");
        tokio::task::yield_now().await;
    }
}

/// What came of the four, unchecked.
pub async fn sessions(service: &Service, struck: Option<watch::Receiver<bool>>) -> Vec<(Clip, Session)> {
    let clip = Clip { gop: 15, frames: 240, width: 192, height: 108, ..Clip::default() };
    let clips = [
        Clip { first: 1000, ..clip.clone() },
        Clip { first: 2000, shape: Shape::Ts, b_frames: 2, ..clip.clone() },
        Clip { first: 3000, shape: Shape::Webm, video: Some(Picture::Vp8), audio: Some(Sound::Opus), ..clip.clone() },
        Clip { first: 4000, shape: Shape::Mp4, video: Some(Picture::H265), ..clip },
    ];
    let sessions = join_all(clips.iter().map(|clip| canary(service, clip.bytes(), struck.clone()))).await;
    clips.into_iter().zip(sessions).collect()
}

/// A session of which the second half comes little by little until the strike is over. What ends it early is told with
/// what the service has logged of it.
async fn canary(service: &Service, media: Vec<u8>, struck: Option<watch::Receiver<bool>>) -> Session {
    let start = json!({"type": "start", "segment_ms": 500, "outputs": verify::outputs(&OUTPUTS)});
    let (mut sink, mut stream) = client::connect(service.listen).await.split();
    let begun = Instant::now();
    let (left, to_go) = watch::channel(media.len());
    let sending = tokio::spawn(async move {
        sink.send(Message::text(start.to_string())).await?;
        let (first, mut rest) = media.split_at(media.len() / 2);
        sink.send(Message::binary([&[0], first].concat())).await?;
        left.send_replace(rest.len());
        if let Some(mut struck) = struck {
            let mut last = Instant::now();
            while tokio::time::timeout(TICK, struck.wait_for(|struck| *struck)).await.is_err() {
                let part = (rest.len() as f64 * PART).max(LEAST) * last.elapsed().as_secs_f64();
                last = Instant::now();
                // With nothing left to send it would be a slow client itself.
                assert!(rest.len() > part as usize, "the strike outlasts the media of a canary");
                let (piece, after) = rest.split_at(part as usize);
                sink.send(Message::binary([&[0], piece].concat())).await?;
                rest = after;
                left.send_replace(rest.len());
            }
        }
        sink.send(Message::binary([&[0], rest].concat())).await?;
        sink.send(Message::text(json!({"type": "finish", "channel": 0}).to_string())).await?;
        left.send_replace(0);
        Ok::<_, Error>(sink)
    });
    let mut session = Session::default();
    while let Some(Ok(message)) = stream.next().await {
        session.take(message);
    }
    let sent = sending.await.expect("sending does not panic");
    let whole = sent.is_ok() && session.close_code() == 1000;
    let told = |receipt: &Value| ["seq", "outcome", "latency_ms", "attempts"].map(|field| receipt[field].to_string());
    assert!(
        whole && session.receipts.iter().all(|receipt| receipt["outcome"] == "ok"),
        "a canary ended after {:.1?} with {:?}, {} bytes before its end ({:?}); {:?}; receipts {:?}; of it, or amiss:\n{}",
        begun.elapsed(),
        session.close,
        *to_go.borrow(),
        sent.err(),
        session.errors,
        session.receipts.iter().map(told).collect::<Vec<_>>(),
        account(&service.log(), &session.id),
    );
    session
}

/// What a log says of a session, and of what else is amiss.
fn account(log: &str, session: &str) -> String {
    log.lines().filter(|line| line.contains(session) || !line.contains("\"INFO\"")).collect::<Vec<_>>().join("\n")
}

/// Counters by series.
pub fn counters(service: &Service) -> BTreeMap<String, f64> {
    let (_, text) = service.get_ops("/metrics");
    let series = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
    series
        .filter(|(name, _)| name.contains("_total"))
        .map(|(name, n)| (name.to_owned(), n.parse().expect("a number")))
        .collect()
}

/// What the service holds.
#[derive(Debug)]
pub struct Held {
    pub descriptors: usize,
    pub memory: u64,
}

/// Waits until nothing is in flight and no more is held than was; fails past `within`.
pub async fn at_rest(service: &Service, before: Option<&Held>, within: Duration) -> Held {
    let begun = Instant::now();
    loop {
        let idle = [
            "segmill_sessions",
            "segmill_segments_in_flight",
            "segmill_queue_depth",
            "segmill_workers{state=\"busy\"}",
        ]
        .map(|series| service.metric(series))
            == [Some(0.0); 4]
            && service.metric("segmill_workers{state=\"idle\"}") == Some(2.0);
        let held = Held { descriptors: service.descriptors(), memory: service.memory() };
        let back = before
            .is_none_or(|before| held.descriptors <= before.descriptors && held.memory <= before.memory + MEMORY_SLACK);
        if idle && back && service.workers().len() == 2 {
            return held;
        }
        assert!(begun.elapsed() < within, "{held:?} is not {before:?} again; idle: {idle}, {:?}", service.workers());
        tokio::task::yield_now().await;
    }
}
