//! Live sessions that can't be served in time: what is made of less says so, and what there is of it is exact.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::client::{self, Session};
use crate::support::media::{self, Clip, Picture, Shape};
use crate::support::service::{self, Service};
use crate::support::verify;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

/// The top rung, in two containers; one below; the sound as it is, alone and with pictures.
const OUTPUTS: [&str; 5] = ["h264@180", "ts:h264@180", "h264@90", "-+copy", "ts:h264@90+copy"];
const SEGMENTS: u64 = 6;
/// What no worker can keep, and what any can.
const NO_TIME: u32 = 1;
const ALL_THE_TIME: u32 = 600_000;

fn clip() -> Clip {
    Clip { frames: 90, gop: 15, b_frames: 2, ..Clip::default() }
}

fn start(deadline_ms: u32, outputs: &[&str]) -> Value {
    json!({"mode": "live", "deadline_ms": deadline_ms, "segment_ms": 500, "outputs": verify::outputs(outputs)})
}

/// `what` of each output, by its name. That it came late besides is said wherever it did, and nowhere else.
fn degraded<'a>(receipt: &'a Value) -> BTreeMap<&'a str, &'a str> {
    let entries = receipt["degraded"].as_array().expect("a list");
    assert!(entries.iter().all(|entry| entry["why"] == "late"), "{receipt}");
    let of = |entry: &'a Value| (entry["output"].as_str().unwrap(), entry["what"].as_str().unwrap());
    entries.iter().map(of).filter(|(_, what)| *what != "delivered_late").collect()
}

/// The numbers of the pictures of these segments, read with the init in front of them.
fn numbers(init: &[u8], segments: &[(Value, Vec<u8>)]) -> Vec<u16> {
    let media = segments.iter().flat_map(|(_, media)| media);
    let whole: Vec<u8> = init.iter().chain(media).copied().collect();
    media::decode_barcodes(&whole).into_iter().map(|(_, number)| number).collect()
}

/// Each segment ends where the next one starts.
fn joined(output: &client::Output) {
    let integer = |header: &Value, key: &str| header[key].as_i64().expect("a number");
    for pair in output.segments.windows(2) {
        let [first, second] = [&pair[0].0, &pair[1].0];
        assert_eq!(integer(first, "start") + integer(first, "duration"), integer(second, "start"), "{first} {second}");
        assert_eq!(first["timescale"], second["timescale"]);
    }
}

/// No packet of MPEG-TS with a payload is missing or there twice, by its PID's counter (ISO/IEC 13818-1 2.4.3.3).
fn counters_go_on(ts: &[u8]) {
    let mut last = BTreeMap::new();
    for packet in ts.chunks_exact(188).filter(|packet| packet[3] & 0x10 != 0) {
        let (pid, counter) = (u16::from_be_bytes([packet[1] & 0x1f, packet[2]]), packet[3] & 0x0f);
        if let Some(before) = last.insert(pid, counter) {
            assert_eq!(counter, (before + 1) & 0x0f, "PID {pid}");
        }
    }
}

/// One connection: the client sends `bytes` and the end.
async fn connection(to: &Service, start: &Value, bytes: &[u8], session: &mut Session) {
    let mut start = start.clone();
    start["type"] = json!("start");
    let (mut sink, mut stream) = client::connect(to.listen).await.split();
    session.begin_connection();
    sink.send(Message::text(start.to_string())).await.expect("the service listens");
    sink.send(Message::binary([&[0], bytes].concat())).await.expect("the service listens");
    let finish = json!({"type": "finish", "channel": 0});
    sink.send(Message::text(finish.to_string())).await.expect("the service listens");
    while let Some(Ok(message)) = stream.next().await {
        session.take(message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_time_the_source_comes_in_place_of_the_top_rung_and_every_receipt_says_what_it_lacks() {
    let service = Service::start(&["--workers", "1"]);
    let clip = clip();
    let session = client::stream(service.listen, start(NO_TIME, &OUTPUTS), clip.bytes(), 20_000).await;
    assert_eq!((session.close_code(), &session.errors), (1000, &Vec::new()));
    assert_eq!(session.receipts.len() as u64, SEGMENTS);
    let expect = BTreeMap::from([
        ("o0", "source_copied"),
        ("o1", "source_copied"),
        ("o2", "rung_left_out"),
        ("o4", "rung_left_out"),
    ]);
    for receipt in &session.receipts {
        assert_eq!((&receipt["outcome"], degraded(receipt)), (&json!("degraded"), expect.clone()));
        assert_eq!((&receipt["frames_out"], &receipt["frames_in"]), (&json!({"o0": 15, "o1": 15}), &json!(15)));
    }
    let done = session.done.as_ref().expect("it is done");
    assert_eq!(
        (&done["segments"], &done["degraded"], &done["failed"]),
        (&json!(SEGMENTS), &json!(SEGMENTS), &json!(0))
    );
    assert_eq!(done["frames_out"], json!({"o0": 90, "o1": 90, "o2": 0, "o4": 0}));
    let there: Vec<&String> = session.outputs.keys().collect();
    assert_eq!(there, ["o0", "o1", "o3"], "nothing of what was left out");
    for name in ["o0", "o1"] {
        let output = &session.outputs[name];
        joined(output);
        let init = output.inits.first().map(|(_, init)| init.as_slice()).unwrap_or_default();
        assert_eq!(numbers(init, &output.segments), (0..90).collect::<Vec<_>>(), "{name}");
    }
    joined(&session.outputs["o3"]);
    let metric = |series: &str| service.metric(series);
    assert_eq!(metric("segmill_degraded_total{what=\"source_copied\"}"), Some(2.0 * SEGMENTS as f64));
    assert_eq!(metric("segmill_degraded_total{what=\"rung_left_out\"}"), Some(2.0 * SEGMENTS as f64));
    let degraded = "segmill_segments_total{op=\"stream\",origin=\"client\",outcome=\"degraded\"}";
    assert_eq!(metric(degraded), Some(SEGMENTS as f64));

    // Nothing of it depends on the mode but that.
    let mut file = start(NO_TIME, &OUTPUTS);
    file["mode"] = json!("file");
    verify::session(&clip, &OUTPUTS, &client::stream(service.listen, file, clip.bytes(), 20_000).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_again_joins_what_was_copied_to_the_tick() {
    let service = Service::start(&["--workers", "1"]);
    let clip = clip();
    let input = clip.bytes();
    let mut session = Session::default();
    connection(&service, &start(NO_TIME, &OUTPUTS), &input, &mut session).await;
    // Taken up again after the third segment, by a client that has time.
    let resume = session.receipts[2]["resume"].clone();
    let number = |name: &str| resume[name].as_u64().expect("a number") as usize;
    let rest = [&input[..number("set_up_bytes")], &input[number("offset")..]].concat();
    session.go_back_to(3);
    let mut start = start(ALL_THE_TIME, &OUTPUTS);
    start["resume"] = json!({"token": resume["token"]});
    connection(&service, &start, &rest, &mut session).await;
    assert_eq!((session.close_code(), &session.errors), (1000, &Vec::new()));
    let outcomes: Vec<&str> = session.receipts.iter().map(|it| it["outcome"].as_str().expect("a word")).collect();
    assert_eq!(outcomes, ["degraded", "degraded", "degraded", "ok", "ok", "ok"]);
    let done = session.done.as_ref().expect("it is done");
    assert_eq!((&done["segments"], &done["degraded"]), (&json!(SEGMENTS), &json!(3)));
    assert_eq!(done["frames_out"], json!({"o0": 90, "o1": 90, "o2": 45, "o4": 45}));

    let top = &session.outputs["o0"];
    joined(top);
    let inits: Vec<u64> = top.segments.iter().map(|(header, _)| header["init"].as_u64().expect("an id")).collect();
    assert_eq!(inits, [1, 1, 1, 2, 2, 2]);
    let broken: Vec<bool> = top.segments.iter().map(|(header, _)| header["discontinuity"] == true).collect();
    assert_eq!(broken, [false, false, false, true, false, false]);
    let [(copied, _), (made, _)] = [(&top.inits[0].1, 0), (&top.inits[1].1, 0)];
    assert_eq!(numbers(copied, &top.segments[..3]), (0..45).collect::<Vec<_>>());
    assert_eq!(numbers(made, &top.segments[3..]), (45..90).collect::<Vec<_>>());

    let ts = &session.outputs["o1"];
    joined(ts);
    let broken: Vec<bool> = ts.segments.iter().map(|(header, _)| header["discontinuity"] == true).collect();
    assert_eq!(broken, [false, false, false, true, false, false]);
    let whole = ts.whole();
    counters_go_on(&whole);
    let read = media::decode_barcodes(&whole);
    assert_eq!(read.iter().map(|(_, number)| *number).collect::<Vec<_>>(), (0..90).collect::<Vec<_>>());
    let at: Vec<i64> = read.iter().map(|(time, _)| time.ticks(90_000)).collect();
    assert!(at.windows(2).all(|pair| pair[1] - pair[0] == 3000), "a picture every 1/30 s: {at:?}");

    // A rung that was left out begins where it is back.
    let rung = &session.outputs["o2"];
    assert_eq!(rung.segments[0].0["seq"], 4);
    assert_eq!(rung.segments[0].0["start"], top.segments[3].0["start"]);
    assert_eq!(numbers(&rung.inits[0].1, &rung.segments), (45..90).collect::<Vec<_>>());
    joined(&session.outputs["o3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_all_the_time_nothing_is_degraded() {
    let service = Service::start(&["--workers", "2"]);
    let session = client::stream(service.listen, start(ALL_THE_TIME, &OUTPUTS), clip().bytes(), 20_000).await;
    verify::session(&clip(), &OUTPUTS, &session);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_begun_in_time_fails_as_late_and_the_rest_is_there() {
    let service = Service::start(&["--workers", "1", "--capacity-cores", "8"]);
    // The only worker has this for seconds.
    let long = Clip { frames: 300, gop: 300, audio: None, ..Clip::default() };
    let outputs = json!([{"name": "v", "video": {"codec": "h265", "preset": "slow"}}]);
    let start_long = json!({"segment_ms": 30_000, "outputs": outputs});
    let (to, bytes) = (service.listen, long.bytes());
    let occupied = tokio::spawn(async move { client::stream(to, start_long, bytes, 100_000).await });
    while service.metric("segmill_workers{state=\"busy\"}") != Some(1.0) {
        tokio::task::yield_now().await;
    }
    let clip = clip();
    let outputs = ["copy", "h264@90", "-+aac"];
    let session = client::stream(service.listen, start(NO_TIME, &outputs), clip.bytes(), 20_000).await;
    assert_eq!(service.metric("segmill_workers{state=\"busy\"}"), Some(1.0), "the worker is at it still");
    assert_eq!(session.close_code(), 1000);
    for receipt in &session.receipts {
        assert_eq!((&receipt["outcome"], &receipt["error"]["code"]), (&json!("failed"), &json!("late")));
        assert_eq!(degraded(receipt), BTreeMap::from([("o1", "rung_left_out")]));
        assert_eq!((&receipt["frames_out"], &receipt["attempts"]), (&json!({"o0": 15}), &json!(0)));
    }
    assert_eq!(session.error_codes(), vec!["late"; SEGMENTS as usize]);
    let done = session.done.as_ref().expect("it is done");
    assert_eq!((&done["failed"], &done["degraded"]), (&json!(SEGMENTS), &json!(0)));
    let copy = &session.outputs["o0"];
    joined(copy);
    assert_eq!(numbers(&copy.inits[0].1, &copy.segments), (0..90).collect::<Vec<_>>());
    let other = occupied.await.expect("the other session is served");
    assert_eq!((other.close_code(), &other.done.expect("it is done")["frames_out"]), (1000, &json!({"v": 300})));
}

/// A worker that stands still has begun what it has, and begins nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_begun_in_time_and_done_late_says_so_and_what_no_worker_has_begun_comes_as_a_copy() {
    const DEADLINE_MS: u32 = 2000;
    let service = Service::start(&["--workers", "1", "--capacity-cores", "8"]);
    let workers = |state: &str| service.metric(&format!("segmill_workers{{state=\"{state}\"}}"));
    while workers("idle") != Some(1.0) {}
    let worker = service.workers()[0];
    service::signal(worker, "STOP");
    let clip = Clip { frames: 15, audio: None, ..clip() };
    let stream = || client::stream(service.listen, start(DEADLINE_MS, &["h264@90"]), clip.bytes(), 20_000);
    let begun = tokio::spawn(stream());
    while workers("busy") != Some(1.0) {
        tokio::task::yield_now().await;
    }
    let since = Instant::now();
    let waiting = stream().await;
    assert_eq!(workers("busy"), Some(1.0), "the worker is at the other still");
    let receipt = &waiting.receipts[0];
    assert_eq!(
        (&receipt["outcome"], degraded(receipt)),
        (&json!("degraded"), BTreeMap::from([("o0", "source_copied")]))
    );
    assert!(receipt["queued_ms"].as_u64() > Some(0) && receipt["attempts"] == 0, "{receipt}");
    assert_eq!(
        numbers(&waiting.outputs["o0"].inits[0].1, &waiting.outputs["o0"].segments),
        (0..15).collect::<Vec<_>>()
    );
    let rest = Duration::from_millis(u64::from(DEADLINE_MS)).saturating_sub(since.elapsed());
    tokio::time::sleep(rest).await;
    service::signal(worker, "CONT");
    let late = begun.await.expect("streaming does not panic");
    let receipt = &late.receipts[0];
    assert_eq!(receipt["degraded"], json!([{"output": "o0", "what": "delivered_late", "why": "late"}]));
    assert_eq!((&receipt["outcome"], &receipt["frames_out"]), (&json!("degraded"), &json!({"o0": 15})));
    assert!(receipt["latency_ms"].as_u64() >= Some(u64::from(DEADLINE_MS)), "{receipt}");
    assert_eq!(numbers(&late.outputs["o0"].inits[0].1, &late.outputs["o0"].segments), (0..15).collect::<Vec<_>>());
    assert!(service.metric("segmill_degraded_total{what=\"delivered_late\"}") >= Some(1.0));
}

/// Nothing that players take can stand in for what is made of this.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_copied_is_made_as_fast_as_can_be() {
    let service = Service::start(&["--workers", "1"]);
    let clip = Clip { video: Some(Picture::H265), shape: Shape::Ts, audio: None, ..clip() };
    // A second is time enough to begin with a picture; what any of these takes is more than a millisecond.
    let session = client::stream(service.listen, start(NO_TIME, &["h264@90", "h264@60"]), clip.bytes(), 20_000).await;
    assert_eq!(session.close_code(), 1000);
    for receipt in &session.receipts {
        let expect = BTreeMap::from([("o0", "rung_left_out"), ("o1", "preset")]);
        assert_eq!(degraded(receipt), expect);
        let preset = receipt["degraded"].as_array().unwrap().iter().find(|it| it["what"] == "preset");
        assert_eq!(preset.expect("it is there")["detail"], "ultrafast");
        // Whether it was begun in its millisecond is the machine's to say; that it came late is no fault.
        match receipt["outcome"].as_str() {
            Some("degraded") => assert_eq!(receipt["frames_out"], json!({"o1": 15})),
            Some("failed") => assert_eq!(receipt["error"]["code"], "late"),
            other => panic!("{other:?}"),
        }
    }
}

/// What a worker takes for a job of the service's own is what the cost of others is told by.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_measures_the_machine_once_and_clients_notice_nothing() {
    let service = Service::start(&["--workers", "1", "--calibrate", "true"]);
    while service.metric("segmill_calibration_ratio") == Some(0.0) {
        tokio::task::yield_now().await;
        assert!(!service.log().contains("not calibrated"), "{}", service.log());
    }
    let ratio = service.metric("segmill_calibration_ratio").expect("a gauge");
    println!("this machine takes {ratio:.2} of what is expected");
    assert!((0.25..=4.0).contains(&ratio), "{ratio}");
    assert_eq!(service.metric("segmill_frames_total{direction=\"out\"}"), Some(0.0), "nothing of it is a client's");
    let session = client::stream(service.listen, start(ALL_THE_TIME, &OUTPUTS), clip().bytes(), 20_000).await;
    verify::session(&clip(), &OUTPUTS, &session);
    assert_eq!(service.workers().len(), 1);
    let (_, metrics) = service.get_ops("/metrics");
    let mut restarts = metrics.lines().filter(|line| line.starts_with("segmill_worker_restarts_total{"));
    assert!(restarts.all(|line| line.ends_with(" 0")), "no worker was lost for it");
}

#[test]
fn push_says_what_was_degraded_and_leaves_hls_that_ffmpeg_reads_without_a_word() {
    let folder = TempDir::new().expect("a temporary folder");
    let (path, out) = (clip().path(), folder.path().to_str().expect("a plain path").to_owned());
    let outputs = verify::outputs(&["h264@180", "ts:h264@180", "h264@90", "-+copy"]).to_string();
    let push = |json: bool| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_segmill"));
        command.args(["push", path.to_str().expect("a plain path"), "--live", "--deadline-ms", "1"]);
        command.args(["--segment-ms", "500", "--out", &out, "--outputs", &outputs]).args(json.then_some("--json"));
        let output = command.output().expect("the binary starts");
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let table = push(false);
    assert!(table.contains("degraded: o0 source_copied, o1 source_copied, o2 rung_left_out"), "{table}");
    assert!(table.contains("rung_left_out 6, source_copied 12), 0 failed"), "{table}");
    let lines = push(true);
    let summary: Value = serde_json::from_str(lines.lines().last().expect("a summary")).expect("JSON");
    let by = &summary["degraded_by"];
    assert_eq!((&by["rung_left_out"], &by["source_copied"]), (&json!(6), &json!(12)));
    let master = std::fs::read_to_string(folder.path().join("master.m3u8")).expect("a playlist");
    assert!(!master.contains("o2/"), "a rung that is one gap is none to choose: {master}");
    let gaps = std::fs::read_to_string(folder.path().join("o2/media.m3u8")).expect("a playlist");
    assert_eq!(gaps.matches("#EXT-X-GAP\n#EXTINF:0.500000,\n").count(), 6, "{gaps}");
    for playlist in ["master.m3u8", "o0/media.m3u8", "o1/media.m3u8", "o3/media.m3u8"] {
        let arguments = ["-v", "warning", "-nostdin", "-i"];
        let mut ffmpeg = Command::new("ffmpeg");
        let output = ffmpeg.args(arguments).arg(folder.path().join(playlist)).args(["-map", "0", "-f", "null", "-"]);
        let output = output.output().expect("ffmpeg is installed");
        assert!(output.status.success() && output.stderr.is_empty(), "{playlist}: {output:?}");
    }
    for name in ["o0", "o1"] {
        let pictures = media::decode_barcodes_of(&folder.path().join(name).join("media.m3u8"));
        let numbers: Vec<u16> = pictures.into_iter().map(|(_, number)| number).collect();
        assert_eq!(numbers, (0..90).collect::<Vec<_>>(), "{name}");
    }
}
