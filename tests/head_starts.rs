//! A live segment is at work before all of it has come: seen by a worker that is busy while no segment is whole.

use std::time::{Duration, Instant};

use crate::support::client::{self, Session};
use crate::support::media::{Clip, Picture, Shape, Sound};
use crate::support::service::Service;
use crate::support::verify;
use futures_util::{Sink, SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::tungstenite::{Error, Message};

const BUSY: &str = "segmill_workers{state=\"busy\"}";
const IN_FLIGHT: &str = "segmill_segments_in_flight";
const DONE: &str = "segmill_head_starts_total{outcome=\"done\"}";
const FAILED: &str = "segmill_head_starts_total{outcome=\"failed\"}";

/// A service that doesn't come to it is a fault of its own.
const STUCK: Duration = Duration::from_secs(120);

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < STUCK, "never: {what}");
        std::thread::yield_now();
    }
}

/// Sends on until a worker is at work while no segment that is whole is; gives what it has not sent.
async fn send_until_at_work<'a>(
    service: &Service,
    sink: &mut (impl Sink<Message, Error = Error> + Unpin),
    mut media: &'a [u8],
) -> Option<&'a [u8]> {
    while !media.is_empty() {
        let (piece, rest) = media.split_at(media.len().min(1000));
        sink.send(Message::binary([&[0], piece].concat())).await.expect("the service reads");
        media = rest;
        tokio::task::block_in_place(|| until("what is whole is delivered", || service.metric(IN_FLIGHT) == Some(0.0)));
        // A worker that has just handed in what it has made is busy for a moment longer.
        if (0..20).all(|_| service.metric(BUSY) == Some(1.0) && service.metric(IN_FLIGHT) == Some(0.0)) {
            return Some(media);
        }
    }
    None
}

/// Streams all of `clip`; whether a worker was at work on what was not whole.
async fn stream(service: &Service, mode: &str, clip: &Clip, outputs: &[&str]) -> (Session, bool) {
    let media = clip.bytes();
    let (mut sink, mut stream) = client::connect(service.listen).await.split();
    sink.send(start(mode, outputs)).await.expect("the service reads");
    let reading = tokio::spawn(async move {
        let mut session = Session::default();
        while let Some(Ok(message)) = stream.next().await {
            session.take(message);
        }
        session
    });
    let rest = send_until_at_work(service, &mut sink, &media).await;
    sink.send(Message::binary([&[0], rest.unwrap_or_default()].concat())).await.expect("the service reads");
    sink.send(Message::text(json!({"type": "finish", "channel": 0}).to_string())).await.expect("the service reads");
    (reading.await.expect("what comes is in order"), rest.is_some())
}

fn start(mode: &str, outputs: &[&str]) -> Message {
    let (deadline_ms, outputs) = (60_000, verify::outputs(outputs));
    let start =
        json!({"type": "start", "mode": mode, "deadline_ms": deadline_ms, "segment_ms": 500, "outputs": outputs});
    Message::text(start.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_segment_is_at_work_before_it_is_whole_and_comes_out_exact() {
    let service = Service::start(&["--workers", "2"]);
    let codecs = [
        (Shape::Ts, Picture::H264, &["h264@90+aac", "copy+copy"]),
        (Shape::Ts, Picture::H265, &["h265@90+aac", "copy+copy"]),
        (Shape::MatroskaLive, Picture::Vp9, &["vp9@90+aac", "h264@144"]),
        (Shape::MatroskaLive, Picture::Av1, &["h264@90+aac", "av1@144"]),
    ];
    for (shape, video, outputs) in codecs {
        let b_frames = if shape == Shape::Ts { 2 } else { 0 };
        let clip = Clip { shape, video: Some(video), audio: Some(Sound::Aac), gop: 15, b_frames, ..Clip::default() };
        let before = service.metric(DONE);
        let (session, ahead) = stream(&service, "live", &clip, outputs).await;
        assert!(ahead, "{video:?}");
        verify::session(&clip, outputs, &session);
        assert!(session.receipts.iter().all(|receipt| receipt["attempts"] == 1), "{:?}", session.receipts);
        assert!(service.metric(DONE) > before, "{video:?}");
    }
    assert_eq!(service.metric(FAILED), Some(0.0));
}

/// A client that leaves in the middle of a segment costs no worker.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_begun_of_a_segment_that_never_gets_whole_costs_no_worker() {
    let service = Service::start(&["--workers", "2"]);
    let workers = service.workers();
    let clip = Clip { shape: Shape::Ts, video: Some(Picture::H264), gop: 15, ..Clip::default() };
    let mut socket = client::connect(service.listen).await;
    socket.send(start("live", &["h264@90"])).await.expect("the service reads");
    assert!(send_until_at_work(&service, &mut socket, &clip.bytes()).await.is_some());
    drop(socket);
    until("the worker has nothing to do", || service.metric(BUSY) == Some(0.0));
    assert_eq!(service.metric("segmill_head_starts_total{outcome=\"given_up\"}"), Some(1.0));
    assert_eq!(service.workers(), workers, "they are the same");
}

/// Who is in no hurry leaves the workers to those who are.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_worked_on_when_its_segments_are_whole() {
    let service = Service::start(&["--workers", "2"]);
    let clip = Clip { shape: Shape::Ts, video: Some(Picture::H264), gop: 15, ..Clip::default() };
    let (session, ahead) = stream(&service, "file", &clip, &["h264@90+aac"]).await;
    assert!(!ahead);
    verify::session(&clip, &["h264@90+aac"], &session);
    assert_eq!(service.metric(DONE), Some(0.0));
}
