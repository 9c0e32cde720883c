//! loadtest/ by a real k6 against a real service: a run that passes, and what a run fails by.
//!
//! Where there is no k6, nor a Go that can build it, these tests say so and pass; with `LOADTEST_K6=required` they fail.

use std::path::Path;

use crate::support;
use crate::support::k6::Run;
use crate::support::media::Clip;
use crate::support::service::Service;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};

/// Five segments of a second, in fragments of a fifth of it.
const CLIP: Clip = Clip {
    shape: support::media::Shape::FragmentedMp4,
    video: Some(support::media::Picture::H264),
    audio: Some(support::media::Sound::Aac),
    frames: 150,
    first: 0,
    rate: (30, 1),
    width: 160,
    height: 90,
    gop: 30,
    b_frames: 2,
    open_gop: false,
    sample_rate: 48_000,
    channels: 2,
    more: "-frag_duration 200000",
};
const OUTPUTS: &str =
    r#"[{"name":"made","video":{"codec":"h264"},"audio":{"codec":"aac"}},{"name":"copied","video":{"codec":"copy"}}]"#;
const USERS: f64 = 2.0;
const SEGMENTS: f64 = 5.0;

#[tokio::test(flavor = "multi_thread")]
async fn users_stream_are_handed_over_and_get_every_segment_once() {
    // No session lasts as long as the clip.
    let service = service(&["--session-limit", "3s"]);
    let Some(run) = tiny(&stream_url(&service), &CLIP.path(), &[]).await else { return };
    assert_eq!(run.exit, 0, "{}", run.told);
    assert!(run.failed().is_empty(), "{:?}", run.failed());
    assert_eq!(run.value("segments{outcome:ok}", "count"), USERS * SEGMENTS);
    assert!(run.value("reconnects", "count") >= USERS, "{}", run.told);
    for times in ["segment_latency", "segment_turnaround", "segment_server_latency", "segment_delivery"] {
        assert_eq!(run.value(times, "count"), USERS * SEGMENTS, "{times}");
    }
    assert_eq!(run.value("first_segment", "count"), USERS);
    // The service is of the same mind, and keeps load tests apart.
    assert_eq!(counted(&service, "loadtest", "ok"), USERS * SEGMENTS);
    assert_eq!(counted(&service, "client", "ok"), 0.0);

    let junit = run.report("junit.xml");
    assert!(junit.contains(r#"failures="0""#) && junit.contains(r#"name="segments_lost count==0""#), "{junit}");
    let page = run.report("index.html");
    assert!(page.contains("Load test passed") && !page.contains("src=") && !page.contains("href="), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_who_are_turned_away_come_again_and_the_run_fails_by_that_alone() {
    let service = service(&["--max-sessions", "1"]);
    let Some(run) = tiny(&stream_url(&service), &CLIP.path(), &[]).await else { return };
    assert_eq!((run.exit, run.failed()), (99, vec!["sessions_rejected".to_owned()]), "{}", run.told);
    assert_eq!(run.value("segments{outcome:ok}", "count"), USERS * SEGMENTS);
    assert!(service.metric("segmill_sessions_rejected_total{reason=\"full\"}") >= Some(1.0));
    let junit = run.report("junit.xml");
    assert!(junit.contains(r#"failures="1""#) && junit.contains("<failure message=\"sessions_rejected"), "{junit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_that_fails_fails_the_run() {
    let service = service(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let clip = folder.path().join("damaged.mp4");
    std::fs::write(&clip, with_damage(CLIP.bytes(), |segment| segment == 1)).expect("the folder can be written");
    let Some(run) = tiny(&stream_url(&service), &clip, &[]).await else { return };
    assert_eq!((run.exit, run.failed()), (99, vec!["segment_errors".to_owned()]), "{}", run.told);
    assert_eq!(run.value("segment_errors", "passes"), USERS);
    assert_eq!(run.value("segments{outcome:ok}", "count"), USERS * (SEGMENTS - 1.0));
    assert_eq!(counted(&service, "loadtest", "failed"), USERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_given_up_as_nothing_of_it_goes_well_has_lost_nothing() {
    let service = service(&[]);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let clip = folder.path().join("damaged.mp4");
    std::fs::write(&clip, with_damage(CLIP.bytes(), |_| true)).expect("the folder can be written");
    // Of whom the alerts are to hear.
    let Some(run) = tiny(&stream_url(&service), &clip, &[("ORIGIN", "client")]).await else { return };
    let failed = ["segment_errors", "segments{outcome:ok}", "session_errors"].map(str::to_owned);
    assert_eq!((run.exit, run.failed()), (99, failed.to_vec()), "{}", run.told);
    assert_eq!((run.value("segment_errors", "passes"), run.count("segments")), (USERS, USERS), "{}", run.told);
    assert_eq!((counted(&service, "client", "failed"), counted(&service, "loadtest", "failed")), (USERS, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_breaks_its_promises_is_found_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}/v1/stream", listener.local_addr().expect("it is bound"));
    let liar = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(lie(stream));
        }
    });
    let run = tiny(&url, &CLIP.path(), &[]).await;
    liar.abort();
    let Some(run) = run else { return };
    assert_eq!(run.exit, 99, "{}", run.told);
    for (metric, each) in [
        // A segment and its receipt once more.
        ("segments_duplicated", 2.0),
        // The third before the second, the second after the third.
        ("segments_out_of_order", 2.0),
        // Of the fourth the receipt alone; of the fifth nothing.
        ("segments_lost", 2.0),
        // The hash of the first; the starts of the second and the third; what `done` says there was of pictures.
        ("violations", 4.0),
    ] {
        assert_eq!(run.value(metric, "count"), USERS * each, "{metric}: {}", run.told);
        assert!(run.failed().contains(&metric.to_owned()), "{metric}: {:?}", run.failed());
    }
    assert!(run.failed().contains(&"segment_errors".to_owned()), "{:?}", run.failed());
}

/// With room for all of them.
fn service(flags: &[&str]) -> Service {
    Service::start(&[&["--workers", "1", "--capacity-cores", "256"], flags].concat())
}

fn stream_url(service: &Service) -> String {
    format!("ws://{}/v1/stream", service.listen)
}

fn counted(service: &Service, origin: &str, outcome: &str) -> f64 {
    let series = format!("segmill_segments_total{{op=\"stream\",origin=\"{origin}\",outcome=\"{outcome}\"}}");
    service.metric(&series).expect("it is there from the start")
}

/// Zeros in the place of the second half of the fragments of some segments, which are counted from 0.
fn with_damage(mut clip: Vec<u8>, is_damaged: impl Fn(usize) -> bool) -> Vec<u8> {
    let (mut at, mut fragment) = (0, 0);
    while at < clip.len() {
        let size = u32::from_be_bytes(clip[at..at + 4].try_into().expect("four bytes")) as usize;
        if &clip[at + 4..at + 8] == b"mdat" {
            // Five to a segment.
            if fragment % 5 >= 2 && is_damaged(fragment / 5) {
                clip[at + 8..at + size].fill(0);
            }
            fragment += 1;
        }
        at += size;
    }
    clip
}

/// A service that takes all of a stream, and then tells of it what isn't so.
#[expect(clippy::result_large_err, reason = "what the handshake's callback has to give")]
async fn lie(stream: TcpStream) {
    let accept = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", "segmill.v1".parse().expect("a header"));
        Ok(response)
    };
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, accept).await.expect("k6 comes as a WebSocket");
    say(&mut socket, json!({"type": "ready", "session": "", "server": "", "limits": {"message_bytes": 1 << 20}})).await;
    let is_last = |message: &Message| message.to_text().is_ok_and(|text| text.contains("finish"));
    while !is_last(&socket.next().await.expect("there is more").expect("a message")) {}
    say(&mut socket, json!({"type": "tracks", "outputs": [{"name": "v", "video": {}}]})).await;
    show(&mut socket, json!({"type": "init", "output": "v", "id": 1})).await;
    let right: String = Sha256::digest(PAYLOAD).iter().map(|byte| format!("{byte:02x}")).collect();
    for (seq, sha256) in [(1, "of something else"), (1, &right), (3, &right), (2, &right)] {
        show(
            &mut socket,
            json!({"type": "segment", "seq": seq, "output": "v", "init": 1, "start": 30 * (seq - 1), "duration": 30,
                "frames": 30, "bytes": PAYLOAD.len(), "sha256": sha256, "discontinuity": false}),
        )
        .await;
        say(&mut socket, receipt(seq)).await;
    }
    say(&mut socket, receipt(4)).await;
    say(&mut socket, json!({"type": "done", "segments": 4, "frames_in": 150, "failed": 0, "degraded": 0})).await;
    let _ = socket.close(None).await;
}

const PAYLOAD: &[u8] = b"pictures";

fn receipt(seq: i32) -> Value {
    json!({"type": "receipt", "seq": seq, "start_ms": 1000 * (seq - 1), "duration_ms": 1000, "frames_in": 30,
        "frames_out": {"v": 30}, "audio_samples": {}, "queued_ms": 0, "transcode_ms": 0, "latency_ms": 0, "cpu_ms": 0,
        "attempts": 0, "outcome": "ok", "degraded": [], "resume": {"token": "t", "offset": 0, "set_up_bytes": 0}})
}

async fn say(socket: &mut WebSocketStream<TcpStream>, message: Value) {
    socket.send(Message::text(message.to_string())).await.expect("k6 reads");
}

async fn show(socket: &mut WebSocketStream<TcpStream>, header: Value) {
    let header = header.to_string();
    let message = [&(header.len() as u32).to_be_bytes()[..], header.as_bytes(), PAYLOAD].concat();
    socket.send(Message::binary(message)).await.expect("k6 reads");
}

/// The profile `tiny`, of which no time is asked; None where there is no k6.
async fn tiny(url: &str, clip: &Path, more: &[(&str, &str)]) -> Option<Run> {
    let clip = clip.display().to_string();
    let variables = [
        ("PROFILE", "tiny"),
        ("URL", url),
        ("CLIP", &clip),
        ("TARGET", OUTPUTS),
        ("SEGMENT_MS", "1000"),
        ("DEADLINE_MS", "600000"),
        ("LATENCY_MS", "60000"),
        ("DELIVERY_MS", "60000"),
    ];
    Run::of(&[&variables[..], more].concat()).await
}
