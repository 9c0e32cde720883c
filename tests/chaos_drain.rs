//! The end of a service under full load and with workers that are stuck, by SIGTERM and by SIGKILL. Not part of
//! `cargo test`: `make chaos`.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::client::{self, Session};
use crate::support::media::{self, Clip, Shape};
use crate::support::service::Service;
use crate::support::verify;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// From SIGTERM to the exit.
const DRAINED: Duration = Duration::from_secs(9);
/// How long a worker may outlive its service.
const GONE: Duration = Duration::from_secs(10);
const PUSHES: usize = 6;
/// The width by which the workers of `examples/chaos_service.rs` know a session that may fail.
const MARKED: usize = 208;

#[test]
fn sigterm_under_full_load_ends_in_time_and_every_push_goes_on_elsewhere() {
    let flags = ["--workers", "2", "--resume-key", KEY, "--worker-start-timeout", "60s"];
    let (first, second) = (Service::start(&flags), Service::start(&flags));
    let to = format!("ws://{},ws://{}", first.listen, second.listen);
    let folder = tempfile::tempdir().expect("a folder");
    let clip = |n: usize| {
        let shape = [Shape::Ts, Shape::FragmentedMp4, Shape::FaststartMp4][n % 3];
        Clip { shape, first: 1000 * n as u16, gop: 15, frames: 600, b_frames: 2, ..Clip::default() }
    };
    // All are made before the first is sent: it would be over before the last is there.
    let clips: Vec<Clip> = (0..PUSHES).map(clip).inspect(|clip| drop(clip.path())).collect();
    let pushes: Vec<(Clip, Child)> = clips
        .into_iter()
        .enumerate()
        .map(|(n, clip)| {
            let push = push(&clip, &to, &folder.path().join(n.to_string()));
            (clip, push)
        })
        .collect();
    let metric = |name: &str| first.metric(name).expect("a gauge");
    let begun = Instant::now();
    // Jobs wait, every worker is at work, and every session has something in flight.
    while metric("segmill_queue_depth") < 2.0
        || metric("segmill_workers{state=\"busy\"}") < 2.0
        || metric("segmill_sessions") < PUSHES as f64
    {
        assert!(begun.elapsed() < Duration::from_secs(120), "the service is never under load");
    }
    let signalled = Instant::now();
    assert_eq!(first.terminate(), Some(0));
    let took = signalled.elapsed();
    println!("drained in {took:?}");
    assert!(took < DRAINED, "{took:?}");
    for (n, (clip, push)) in pushes.into_iter().enumerate() {
        let output = push.wait_with_output().expect("it ends");
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "push {n}: {told}");
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let said: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let summary = said.iter().find(|message| message["type"] == "summary").expect("a summary");
        assert_eq!((&summary["complete"], &summary["frames_in"]), (&json!(true), &json!(600)), "{summary}");
        let moved = summary["reconnects"]["drain"].as_u64().unwrap_or_default();
        println!("push {n}: {}", summary["reconnects"]);
        assert_eq!(moved, 1, "push {n}: {summary}");
        for output in ["a", "b"] {
            let playlist = folder.path().join(n.to_string()).join(output).join("media.m3u8");
            let text = std::fs::read_to_string(&playlist).expect("a playlist");
            assert!(!text.contains("DISCONTINUITY"), "{text}");
            let numbers: Vec<u16> =
                media::decode_barcodes_of(&playlist).into_iter().map(|(_, number)| number).collect();
            assert_eq!(numbers, (clip.first..clip.first + clip.frames).collect::<Vec<_>>(), "push {n}, {output}");
        }
    }
}

fn push(clip: &Clip, to: &str, out: &Path) -> Child {
    let outputs = r#"[{"name":"a","video":{"codec":"h264"},"audio":{"codec":"aac"}},
                      {"name":"b","video":{"codec":"h264","height":90}}]"#;
    Command::new(env!("CARGO_BIN_EXE_segmill"))
        .arg("push")
        .arg(clip.path())
        .args(["--json", "--segment-ms", "500", "--outputs", outputs, "--to", to, "--out"])
        .arg(out)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

/// A service whose two workers hang in a job for good, and the socket of the session that they hang for.
async fn stuck(folder: &Path, fault: &str) -> (Service, client::Socket) {
    std::fs::write(folder.join("fault"), format!("always {fault}")).expect("the folder can be written");
    let clock = "600s";
    let flags =
        ["--workers", "2", "--resume-key", KEY, "--worker-progress-timeout", clock, "--worker-wall-timeout", clock];
    let service = Service::chaos(folder, &flags);
    let clip = Clip { width: MARKED, height: 118, audio: None, gop: 15, ..Clip::default() };
    let mut socket = client::connect(service.listen).await;
    let start = json!({"type": "start", "segment_ms": 500, "outputs": verify::outputs(&["h264@90"])});
    socket.send(Message::text(start.to_string())).await.expect("the service reads");
    socket.send(Message::binary([&[0], &clip.bytes()[..]].concat())).await.expect("the service reads");
    while service.metric("segmill_workers{state=\"busy\"}") != Some(2.0) {
        tokio::task::yield_now().await;
    }
    (service, socket)
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_with_workers_that_are_stuck_ends_in_time() {
    let folder = tempfile::tempdir().expect("a folder");
    for fault in ["sleep", "spin", "teardown"] {
        let (service, mut socket) = stuck(folder.path(), fault).await;
        let workers = service.workers();
        let signalled = Instant::now();
        let terminating = tokio::task::spawn_blocking(move || service.terminate());
        let mut session = Session::default();
        while let Some(Ok(message)) = socket.next().await {
            session.take(message);
        }
        // It was told to go on elsewhere, from where it began: nothing came of it here.
        assert_eq!((session.close_code(), session.moved.len(), session.receipts.len()), (1012, 1, 0), "{fault}");
        assert_eq!(terminating.await.expect("waiting does not panic"), Some(0), "{fault}");
        let took = signalled.elapsed();
        println!("{fault}: drained in {took:?}");
        assert!(took < DRAINED, "{fault}: {took:?}");
        assert!(workers.iter().all(|&pid| !runs(pid)), "{fault}: no worker is left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_leaves_no_worker_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    for fault in ["sleep", "spin", "teardown"] {
        let (service, _socket) = stuck(folder.path(), fault).await;
        let workers = service.workers();
        assert_eq!(workers.len(), 2);
        service.kill();
        let begun = Instant::now();
        while workers.iter().any(|&pid| runs(pid)) {
            assert!(begun.elapsed() < GONE, "{fault}: orphans among {workers:?}");
            tokio::task::yield_now().await;
        }
        println!("{fault}: gone in {:?}", begun.elapsed());
    }
}

/// Whether a process is there and is more than an entry that its parent has not read yet.
fn runs(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}
