//! What clients and operators see when workers die, when many come at once, and when the service is told to stop.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::support::client::{self, Session};
use crate::support::media::{self, Clip, Picture, Shape, Sound};
use crate::support::overload;
use crate::support::service::{self, Service};
use crate::support::verify;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const STATES: [&str; 3] = ["starting", "idle", "busy"];

fn start(outputs: &[&str]) -> Value {
    json!({"segment_ms": 500, "outputs": verify::outputs(outputs)})
}

fn workers(service: &Service, state: &str) -> f64 {
    service.metric(&format!("segmill_workers{{state=\"{state}\"}}")).expect("a gauge for each state")
}

fn restarts(service: &Service) -> f64 {
    let (_, metrics) = service.get_ops("/metrics");
    let series = metrics.lines().filter(|line| line.starts_with("segmill_worker_restarts_total{"));
    series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_costs_nothing_but_time() {
    let service = Service::start(&["--workers", "2"]);
    let clip = Clip { gop: 15, frames: 120, ..Clip::default() };
    let outputs = ["h264@90+aac", "ts:h264+copy"];
    let before = restarts(&service);
    while workers(&service, "idle") < 2.0 {}
    // Workers that stand still have their jobs for sure when they are killed.
    let workers_at_first = service.workers();
    assert_eq!(workers_at_first.len(), 2);
    workers_at_first.iter().for_each(|&pid| service::signal(pid, "STOP"));
    let streaming = tokio::spawn(client::stream(service.listen, start(&outputs), clip.bytes(), 20_000));
    while workers(&service, "busy") < 2.0 {
        assert!(!streaming.is_finished(), "no segment is made without a worker");
    }
    service::signal(workers_at_first[0], "KILL");
    service::signal(workers_at_first[1], "CONT");
    let session = streaming.await.expect("streaming does not panic");
    verify::session(&clip, &outputs, &session);
    let attempts: Vec<u64> = session.receipts.iter().filter_map(|receipt| receipt["attempts"].as_u64()).collect();
    assert!(attempts.contains(&2), "{attempts:?}");
    assert!(attempts.iter().all(|&attempts| attempts <= 2), "{attempts:?}");
    assert!(restarts(&service) > before);
    assert!(!service.workers().contains(&workers_at_first[0]));
}

#[test]
fn workers_that_cannot_start_are_counted_in_a_row_until_one_can() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = folder.path().join("segmill");
    // By a process of its own: no child of this one may have the file open for writing when it is run.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_segmill")).arg(&program).status().expect("cp runs");
    assert!(copied.success());
    let service = Service::of(&program, &["--workers", "1"]);
    let failures = || service.metric("segmill_health_consecutive_failures").expect("a gauge");
    assert_eq!(failures(), 0.0);
    let may_run = |mode| std::fs::set_permissions(&program, Permissions::from_mode(mode)).expect("it is ours");
    may_run(0o600);
    let before = restarts(&service);
    service.workers().into_iter().for_each(|pid| service::signal(pid, "KILL"));
    while failures() < 4.0 {}
    assert!(restarts(&service) >= before + 5.0);
    may_run(0o700);
    while workers(&service, "idle") < 1.0 {}
    assert_eq!(failures(), 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn four_sessions_at_once_share_the_workers() {
    const WORKERS: f64 = 2.0;
    let service = Service::start(&["--workers", "2"]);
    let clips = [
        Clip { gop: 15, first: 100, ..Clip::default() },
        Clip { gop: 15, first: 200, shape: Shape::Ts, b_frames: 2, ..Clip::default() },
        Clip {
            gop: 15,
            first: 300,
            shape: Shape::Webm,
            video: Some(Picture::Vp8),
            audio: Some(Sound::Opus),
            ..Clip::default()
        },
        Clip { gop: 15, first: 400, shape: Shape::Mp4, video: Some(Picture::H265), ..Clip::default() },
    ];
    let outputs = ["h264@90+aac", "h264"];
    let media: Vec<Vec<u8>> = clips.iter().map(Clip::bytes).collect();
    let streaming: Vec<_> = media
        .into_iter()
        .map(|media| tokio::spawn(client::stream(service.listen, start(&outputs), media, 20_000)))
        .collect();
    let mut most_sessions = 0.0f64;
    while !streaming.iter().all(|session| session.is_finished()) {
        // The states are read one after the other: only each for itself is bounded, and the processes together.
        assert!(STATES.iter().all(|state| workers(&service, state) <= WORKERS));
        assert!(service.workers().len() as f64 <= WORKERS);
        most_sessions = most_sessions.max(service.metric("segmill_sessions").expect("a gauge"));
    }
    assert!(most_sessions > 1.0, "they were there at once");
    for (clip, streaming) in clips.iter().zip(streaming) {
        verify::session(clip, &outputs, &streaming.await.expect("streaming does not panic"));
    }
    // The service learns a moment later that a client has gone.
    let empty = || service.metric("segmill_sessions") == Some(0.0);
    assert!((0..10_000).any(|_| empty()), "all sessions are over");
    assert_eq!(service.metric("segmill_segments_in_flight"), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_there_is_capacity_for_costs_the_excess_and_no_one_else() {
    overload::run(&overload::Run {
        flags: &["--workers", "2", "--capacity-cores", "0.3"],
        size: "320x180",
        seconds: 5,
        segment_ms: 1000,
        deadline_ms: 60_000,
        sessions: 20,
        apart: false,
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_what_is_whole_and_says_goodbye() {
    let service = Service::start(&["--workers", "2"]);
    let clip = Clip { gop: 15, ..Clip::default() };
    let media = clip.bytes();
    let mut socket = client::connect(service.listen).await;
    let mut first = start(&["h264@90+aac"]);
    first["type"] = json!("start");
    socket.send(Message::text(first.to_string())).await.expect("the service listens");
    let most = [&[0], &media[..media.len() - 1000]].concat();
    socket.send(Message::binary(most)).await.expect("the service listens");
    let mut session = Session::default();
    // One segment is back: the session is in the middle of its stream.
    while session.receipts.is_empty() {
        session.take(socket.next().await.expect("the session goes on").expect("the session goes on"));
    }
    let terminating = tokio::task::spawn_blocking(move || service.terminate());
    while let Some(Ok(message)) = socket.next().await {
        session.take(message);
    }
    assert_eq!(session.error_codes(), Vec::<&str>::new());
    assert_eq!((session.moved.len(), session.close.clone()), (1, Some((1012, "moved".into()))));
    assert_eq!(session.done, None);
    // What was whole when the signal came is delivered, in order, or not at all.
    assert!(session.receipts.iter().all(|receipt| receipt["outcome"] == "ok"), "{:?}", session.receipts);
    assert_eq!(terminating.await.expect("waiting does not panic"), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_with_workers_that_stand_still_ends_all_the_same_and_leaves_none() {
    let service = Service::start(&["--workers", "2", "--drain", "2s"]);
    // One that is stopped while it starts would be replaced by one that works.
    while workers(&service, "idle") < 2.0 {}
    let workers_at_first = service.workers();
    workers_at_first.iter().for_each(|&pid| service::signal(pid, "STOP"));
    let clip = Clip { gop: 15, ..Clip::default() };
    let mut socket = client::connect(service.listen).await;
    let mut first = start(&["h264@90"]);
    first["type"] = json!("start");
    socket.send(Message::text(first.to_string())).await.expect("the service listens");
    socket.send(Message::binary([&[0], &clip.bytes()[..]].concat())).await.expect("the service listens");
    while workers(&service, "busy") < 2.0 {}
    let terminating = tokio::task::spawn_blocking(move || service.terminate());
    let mut session = Session::default();
    while let Some(Ok(message)) = socket.next().await {
        session.take(message);
    }
    // Nothing came of it here, and it is told to go on elsewhere.
    assert_eq!((session.close_code(), session.moved.len(), session.receipts.len()), (1012, 1, 0));
    assert_eq!(terminating.await.expect("waiting does not panic"), Some(0));
    let left = |pid: &u32| std::path::Path::new(&format!("/proc/{pid}")).exists();
    assert!(!workers_at_first.iter().any(left), "every worker is killed and waited for");
}

/// What it has sent and nobody has read yet is for the next instance.
#[tokio::test(flavor = "multi_thread")]
async fn sigterm_reaches_a_session_that_is_held_back() {
    let service = Service::start(&["--workers", "1", "--drain", "2s"]);
    while workers(&service, "idle") < 1.0 {}
    service.workers().iter().for_each(|&pid| service::signal(pid, "STOP"));
    let media = Clip { gop: 15, frames: 900, ..Clip::default() }.bytes();
    let (mut sending, mut coming) = client::connect(service.listen).await.split();
    let mut first = start(&["h264@90"]);
    first["type"] = json!("start");
    let messages = media.chunks(512).map(|part| Message::binary([&[0], part].concat()));
    let messages: Vec<Message> = std::iter::once(Message::text(first.to_string())).chain(messages).collect();
    let sent = messages.len() as f64;
    let sender = tokio::spawn(async move {
        for message in messages {
            if sending.send(message).await.is_err() {
                return;
            }
        }
    });
    // It reads no more, and there is more.
    let read = || service.metric("segmill_websocket_message_bytes_count{direction=\"in\"}").unwrap_or_default();
    let mut before = 0.0;
    while workers(&service, "busy") < 1.0 || read() > before {
        before = read();
    }
    assert!(before < sent, "it has read all {sent}");
    let terminating = tokio::task::spawn_blocking(move || service.terminate());
    let mut session = Session::default();
    while let Some(Ok(message)) = coming.next().await {
        session.take(message);
    }
    sender.abort();
    assert_eq!(session.error_codes(), Vec::<&str>::new());
    assert_eq!((session.close_code(), session.moved.len(), session.receipts.len()), (1012, 1, 0));
    assert_eq!(terminating.await.expect("waiting does not panic"), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_set_up_in_mid_stream_brings_a_new_init_and_loses_nothing() {
    let service = Service::start(&["--workers", "2"]);
    let before = Clip { gop: 15, ..Clip::default() };
    let after = Clip { gop: 15, first: 100, width: 480, height: 270, ..Clip::default() };
    // A recorder that starts again: another header, another size, and the clock at 0.
    let media = [before.bytes(), after.bytes()].concat();
    let session = client::stream(service.listen, start(&["h264@90", "copy", "-+aac"]), media, 20_000).await;
    assert_eq!((session.close_code(), session.error_codes()), (1000, vec![]));
    assert_eq!(session.tracks.len(), 2);
    // Of the same shape, the rung is set up as before: its init is the same again. The copy's is not.
    for (n, same) in [(0, true), (1, false)] {
        let output = &session.outputs[&verify::name(n)];
        assert_eq!(output.inits.len(), 2, "output {n}");
        assert_eq!(output.inits[0].1 == output.inits[1].1, same, "output {n}");
        let breaks: Vec<usize> =
            (0..output.segments.len()).filter(|&at| output.segments[at].0["discontinuity"] == true).collect();
        let [at] = breaks[..] else { panic!("output {n} breaks at {breaks:?}") };
        let halves = output.segments.split_at(at);
        for (segments, init, first) in [(halves.0, 0, before.first), (halves.1, 1, after.first)] {
            let init = output.inits[init].1.iter();
            let whole: Vec<u8> = init.chain(segments.iter().flat_map(|(_, media)| media)).copied().collect();
            let numbers: Vec<u16> = media::decode_barcodes(&whole).into_iter().map(|(_, number)| number).collect();
            assert_eq!(numbers, (first..first + 60).collect::<Vec<_>>(), "output {n} from {first}");
        }
    }
    let sound = &session.outputs[&verify::name(2)].inits;
    assert!(sound.len() == 2 && sound[0].1 == sound[1].1, "the sound is set up as before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_is_closed_and_costs_others_nothing() {
    let service = Service::start(&["--workers", "1", "--write-timeout", "1s"]);
    let clip = Clip { gop: 15, frames: 240, width: 640, height: 360, ..Clip::default() };
    // Each byte comes back sixteen times: more than all buffers on the way hold.
    let outputs: Vec<Value> = (0..16).map(|n| json!({"name": format!("c{n}"), "video": {"codec": "copy"}})).collect();
    let start = json!({"type": "start", "segment_ms": 500, "outputs": outputs});
    let (mut sink, unread) = client::connect(service.listen).await.split();
    sink.send(Message::text(start.to_string())).await.expect("the service reads");
    let media = clip.bytes();
    let sending = tokio::spawn(async move {
        // The same recording again and again, until the service has had enough.
        for piece in media.chunks(100_000).cycle().take(4_000) {
            let message = [&[0], piece].concat();
            if sink.send(Message::binary(message)).await.is_err() {
                break;
            }
        }
    });
    let slow = "segmill_segment_errors_total{code=\"slow_client\"}";
    while service.metric(slow) != Some(1.0) {
        assert!(!sending.is_finished() || service.metric(slow) == Some(1.0), "all was taken, though none was read");
    }
    let healthy = Clip { gop: 15, ..Clip::default() };
    let session = client::stream(service.listen, self::start(&["copy", "h264@90"]), healthy.bytes(), 20_000).await;
    verify::session(&healthy, &["copy", "h264@90"], &session);
    drop(unread);
    sending.await.expect("sending does not panic");
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_closed() {
    let service = Service::start(&["--workers", "1", "--idle-timeout", "1s"]);
    let (mut sink, mut stream) = client::connect(service.listen).await.split();
    let start = json!({"type": "start"});
    sink.send(Message::text(start.to_string())).await.expect("the service reads");
    let mut session = Session::default();
    while let Some(Ok(message)) = stream.next().await {
        session.take(message);
    }
    assert_eq!((session.close_code(), session.error_codes()), (4408, vec!["idle_timeout"]));
}
