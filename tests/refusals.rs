//! What is refused, and how: each bad input has its code, none costs a worker where the front end can tell, and the
//! next session is served as if nothing had been.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::client::{self, Session};
use crate::support::damage::{self, Codes};
use crate::support::media::{self, Clip, Picture, Shape, Sound};
use crate::support::service::Service;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{Frame, FrameHeader};

const CHUNK: usize = 16 << 10;

/// One worker and small limits, so that each is met.
const SMALL: &[&str] = &[
    "--workers",
    "1",
    "--start-timeout",
    "200ms",
    "--max-pixels",
    "60000",
    "--segment-ms",
    "1000",
    "--max-gop",
    "1s",
    "--message-bytes",
    "64KiB",
    "--scratch-bytes",
    "8KiB",
];

/// Sends the messages as they are, and reads until the close.
async fn talk(service: &Service, messages: Vec<Message>) -> Session {
    let (mut sink, mut stream) = client::connect(service.listen).await.split();
    let sending = tokio::spawn(async move {
        for message in messages {
            // The service may have closed already.
            if sink.send(message).await.is_err() {
                break;
            }
        }
        sink
    });
    let mut session = Session::default();
    while let Some(Ok(message)) = stream.next().await {
        session.take(message);
    }
    drop(sending.await.expect("sending does not panic"));
    session
}

fn text(message: Value) -> Message {
    Message::text(message.to_string())
}

fn start() -> Message {
    text(json!({"type": "start", "outputs": outputs(json!({"codec": "h264", "height": 144}))}))
}

/// One output, `v`, of video alone.
fn outputs(video: Value) -> Value {
    json!([{"name": "v", "video": video}])
}

fn transcodes(service: &Service) -> f64 {
    service.metric("segmill_segment_transcode_seconds_count{op=\"stream\"}").unwrap_or_default()
}

/// The last word was this error, and the close says it too.
#[track_caller]
fn assert_refused(session: &Session, case: &str, code: &str, close: u16) {
    let last = session.errors.last().unwrap_or_else(|| panic!("{case}: no error, {:?}", session.close));
    assert_eq!((last["code"].as_str(), &last["fatal"]), (Some(code), &json!(true)), "{case}: {last}");
    assert_eq!(session.close, Some((close, code.to_owned())), "{case}: {last}");
    assert!(session.done.is_none(), "{case}");
}

/// A session like any other is served exactly.
async fn assert_healthy(service: &Service) {
    let clip = Clip { audio: None, ..Clip::default() };
    let start = json!({"outputs": outputs(json!({"codec": "h264", "height": 144}))});
    let session = client::stream(service.listen, start, clip.bytes(), CHUNK).await;
    assert_eq!(session.close_code(), 1000, "{:?}", session.errors);
    let numbers: Vec<u16> = media::decode_barcodes(&session.outputs["v"].whole()).iter().map(|&(_, n)| n).collect();
    assert_eq!(numbers, (0..60).collect::<Vec<u16>>());
    assert_eq!(service.get_ops("/health/live").0, 200);
    assert_eq!(service.get_ops("/health/ready").0, 200);
}

#[tokio::test]
async fn what_breaks_the_protocol_is_refused_before_any_work() {
    let service = Service::start(SMALL);
    let media = |bytes: &[u8]| Message::binary(bytes.to_vec());
    // Frames as the library itself would not send them.
    let raw = |opcode: Data, payload: &[u8]| {
        let header = FrameHeader { opcode: OpCode::Data(opcode), ..FrameHeader::default() };
        Message::Frame(Frame::from_payload(header, payload.to_vec().into()))
    };
    let many: Vec<Value> = (0..17).map(|n| json!({"name": format!("o{n}"), "video": {"codec": "copy"}})).collect();
    let named = |name: &str| json!([{"name": name, "video": {"codec": "copy"}}]);
    let asked = |outputs: Value| vec![text(json!({"type": "start", "outputs": outputs}))];
    let (bad, cannot) = (("bad_message", 4400), ("container_cannot_hold", 4422));
    let in_ts = |video: &str| json!([{"name": "v", "container": "ts", "video": {"codec": video}}]);
    let cases: Vec<(&str, Vec<Message>, (&str, u16))> = vec![
        ("no start in time", vec![], ("start_timeout", 4408)),
        ("binary before start", vec![media(&[0, 1, 2])], bad),
        ("finish before start", vec![text(json!({"type": "finish", "channel": 0}))], bad),
        ("an unknown type", vec![text(json!({"type": "begin"}))], bad),
        ("no type", vec![text(json!({"outputs": []}))], bad),
        ("an unknown field in start", vec![text(json!({"type": "start", "colour": "red"}))], bad),
        ("an unknown field further down", asked(json!([{"name": "v", "video": {"codec": "h264", "hight": 1}}])), bad),
        ("no JSON", vec![Message::text("start")], bad),
        ("JSON that is no object", vec![Message::text("[[[[]]]]")], bad),
        ("JSON nested deeply", vec![Message::text("[".repeat(50_000))], bad),
        ("no UTF-8", vec![raw(Data::Text, b"\xff\xfe")], bad),
        ("a frame of a reserved kind", vec![raw(Data::Reserved(5), b"")], bad),
        ("a second start", vec![start(), start()], bad),
        ("an unknown type after start", vec![start(), text(json!({"type": "stop"}))], bad),
        ("a reserved channel", vec![start(), media(&[1, 0, 0])], bad),
        ("an unknown channel", vec![start(), media(&[9, 0, 0])], bad),
        ("a message without a channel", vec![start(), media(&[])], bad),
        ("finish of a reserved channel", vec![start(), text(json!({"type": "finish", "channel": 1}))], bad),
        ("a start over the limit", vec![Message::text(" ".repeat(70_000))], ("message_too_big", 1009)),
        ("media over the limit", vec![start(), media(&[0; 70_000])], ("message_too_big", 1009)),
        ("no outputs", asked(json!([])), bad),
        ("too many outputs", asked(json!(many)), bad),
        ("two of a name", asked(json!([named("v")[0], named("v")[0]])), bad),
        ("an empty name", asked(named("")), bad),
        ("a name that is a path", asked(named("../v")), bad),
        ("a hidden name", asked(named(".v")), bad),
        ("a name with a line break", asked(named("a\r\nb")), bad),
        ("a long name", asked(named(&"n".repeat(33))), bad),
        ("an output of nothing", asked(json!([{"name": "v"}])), bad),
        ("an unknown codec", asked(outputs(json!({"codec": "h266"}))), bad),
        ("a segment length below the least", vec![text(json!({"type": "start", "segment_ms": 1}))], bad),
        ("a height below 0", asked(outputs(json!({"codec": "h264", "height": -2}))), bad),
        ("VP9 in TS", asked(in_ts("vp9")), cannot),
        ("AV1 in TS", asked(in_ts("av1")), cannot),
        ("Opus in TS", asked(json!([{"name": "a", "container": "ts", "audio": {"codec": "opus"}}])), cannot),
    ];
    for (case, messages, (code, close)) in cases {
        assert_refused(&talk(&service, messages).await, case, code, close);
    }
    assert_eq!(transcodes(&service), 0.0);
    assert_healthy(&service).await;
}

/// The bytes with those after each `name` box's type set.
fn spoilt(mut bytes: Vec<u8>, name: &[u8; 4], with: &[u8]) -> Vec<u8> {
    let at = bytes.windows(4).position(|window| window == name).expect("the box is there") + 4;
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

fn renamed(mut bytes: Vec<u8>, name: &[u8; 4]) -> Vec<u8> {
    let at = bytes.windows(4).position(|window| window == name).expect("the box is there");
    bytes[at..at + 4].copy_from_slice(b"free");
    bytes
}

fn until(bytes: &[u8], name: &[u8; 4]) -> Vec<u8> {
    let at = bytes.windows(4).position(|window| window == name).expect("the box is there");
    bytes[..at - 4].to_vec()
}

#[tokio::test]
async fn what_can_not_be_read_or_made_is_refused_by_name_without_a_worker() {
    let service = Service::start(SMALL);
    let plain = Clip { audio: None, ..Clip::default() };
    let good = plain.bytes();
    let video = |video: Value| outputs(video);
    let h264 = || video(json!({"codec": "h264", "height": 144}));
    let sound = || json!([{"name": "a", "audio": {"codec": "aac"}}]);
    let coded = |shape, audio, more| Clip { shape, video: Some(Picture::Mpeg2), audio, more, ..Clip::default() };
    let large = Clip { width: 640, height: 360, frames: 2, ..plain.clone() };
    let last = Clip { shape: Shape::Mp4, ..Clip::default() };
    let vorbis = Clip {
        shape: Shape::Webm,
        video: Some(Picture::Vp8),
        audio: Some(Sound::Opus),
        more: "-c:a libvorbis",
        ..Clip::default()
    };
    // The sound's packets are missing: PID 0x101 of ffmpeg's.
    let announced = Clip { shape: Shape::Ts, ..Clip::default() }.bytes();
    let without = |packet: &&[u8]| packet[1] & 0x1f != 1 || packet[2] != 1;
    let announced = announced.chunks(188).filter(without).collect::<Vec<_>>().concat();
    let six = json!([{"name": "a", "audio": {"codec": "opus", "channels": 6}}]);
    let (bad, codec) = (("bad_media", 4422), ("unsupported_codec", 4415));
    let container = ("unsupported_container", 4415);
    /// A name, the start, the media; the code and close that it must end with.
    type Case = (&'static str, Value, Vec<u8>, (&'static str, u16));
    let cases: Vec<Case> = vec![
        ("garbage", h264(), (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect(), container),
        ("zeros", h264(), vec![0; 100_000], container),
        ("text", h264(), b"GET / HTTP/1.1\r\nHost: example\r\n\r\n".repeat(100), container),
        ("nothing", h264(), vec![], ("truncated_input", 4422)),
        ("a set-up without media", h264(), until(&good, b"moof"), ("no_media", 4422)),
        ("a broken avcC", h264(), spoilt(good.clone(), b"avcC", &[0xff; 12]), bad),
        ("no stsd", h264(), renamed(good.clone(), b"stsd"), bad),
        ("no tkhd", h264(), renamed(good.clone(), b"tkhd"), bad),
        ("a picture over the limit", h264(), large.bytes(), ("resolution_limit", 4413)),
        ("above the source", video(json!({"codec": "h264", "height": 360})), good.clone(), ("rung_above_source", 4422)),
        (
            "wider than the source",
            video(json!({"codec": "h264", "width": 322})),
            good.clone(),
            ("rung_above_source", 4422),
        ),
        ("an odd height", video(json!({"codec": "h264", "height": 99})), good.clone(), ("bad_message", 4400)),
        ("a crf out of range", video(json!({"codec": "h264", "crf": 52})), good.clone(), ("bad_message", 4400)),
        ("a copy with a crf", video(json!({"codec": "copy", "crf": 20})), good.clone(), ("bad_message", 4400)),
        ("a copy with a size", video(json!({"codec": "copy", "height": 180})), good.clone(), ("bad_message", 4400)),
        ("sound that is not there", sound(), good.clone(), ("no_such_track", 4422)),
        ("video that is not there", h264(), Clip { video: None, ..Clip::default() }.bytes(), ("no_such_track", 4422)),
        ("sound that is announced and never comes", sound(), announced, ("no_media", 4422)),
        ("5.1 in Opus", six, Clip::default().bytes(), ("bad_message", 4400)),
        ("Vorbis", sound(), vorbis.bytes(), codec),
        ("PCM", sound(), coded(Shape::MatroskaLive, Some(Sound::Aac), "-c:a pcm_s16le").bytes(), codec),
        ("Motion JPEG", h264(), coded(Shape::MatroskaLive, None, "-c:v mjpeg -pix_fmt yuvj420p").bytes(), codec),
        ("ProRes", h264(), coded(Shape::MatroskaLive, None, "-c:v prores -pix_fmt yuv422p10le").bytes(), codec),
        ("MPEG-1", h264(), coded(Shape::Ts, None, "-c:v mpeg1video").bytes(), codec),
        ("an index last, and no room for it", h264(), last.bytes(), ("scratch_full", 4413)),
        ("a GOP over the cap", h264(), Clip { gop: 60, ..plain.clone() }.bytes(), ("gop_too_long", 4413)),
    ];
    for (case, outputs, bytes, (code, close)) in cases {
        let session = client::stream(service.listen, json!({"outputs": outputs}), bytes, CHUNK).await;
        assert_refused(&session, case, code, close);
        assert!(session.receipts.is_empty(), "{case}");
    }
    assert_eq!(transcodes(&service), 0.0);
    assert_eq!(service.metric("segmill_scratch_bytes"), Some(0.0));
    assert_healthy(&service).await;
}

#[tokio::test]
async fn what_was_complete_before_the_fault_is_delivered_and_plays() {
    let service = Service::start(SMALL);
    let long_after_a_second =
        Clip { audio: None, frames: 90, gop: 90, more: "-force_key_frames 0,1", ..Clip::default() };
    let whole = Clip { audio: None, frames: 90, ..Clip::default() }.bytes();
    let transport = Clip { shape: Shape::Ts, audio: None, frames: 90, ..Clip::default() }.bytes();
    let cut = |bytes: &[u8]| bytes[..bytes.len() * 4 / 5].to_vec();
    let cases = [
        ("a GOP over the cap", long_after_a_second.bytes(), Some(("gop_too_long", 4413))),
        ("half a fragment", cut(&whole), Some(("truncated_input", 4422))),
        // A transport stream has no end that could be missing.
        ("half a packet", cut(&transport), None),
    ];
    for (case, bytes, refused) in cases {
        let start = json!({"outputs": outputs(json!({"codec": "h264", "height": 144}))});
        let session = client::stream(service.listen, start, bytes, CHUNK).await;
        match refused {
            Some((code, close)) => assert_refused(&session, case, code, close),
            None => assert_eq!(session.close_code(), 1000, "{case}: {:?}", session.errors),
        }
        let numbers: Vec<u16> = media::decode_barcodes(&session.outputs["v"].whole()).iter().map(|&(_, n)| n).collect();
        assert!(numbers.len() >= 30, "{case}: {}", numbers.len());
        assert_eq!(numbers, (0..numbers.len() as u16).collect::<Vec<_>>(), "{case}");
        let promised: u64 = session.receipts.iter().filter_map(|receipt| receipt["frames_out"]["v"].as_u64()).sum();
        assert_eq!(promised, numbers.len() as u64, "{case}");
    }
    assert_healthy(&service).await;
}

/// Every NAL unit of the file's mdat boxes keeps its length and its header; of the rest, one byte in `step` is turned.
fn spoil_slices(mut bytes: Vec<u8>, step: usize) -> Vec<u8> {
    let boxes: Vec<usize> = (0..bytes.len() - 4).filter(|&at| &bytes[at..at + 4] == b"mdat").collect();
    for at in boxes {
        let end = at - 4 + u32::from_be_bytes(bytes[at - 4..at].try_into().unwrap()) as usize;
        let mut unit = at + 4;
        while unit + 4 < end {
            let next = unit + 4 + u32::from_be_bytes(bytes[unit..unit + 4].try_into().unwrap()) as usize;
            for byte in bytes[unit + 5..next].iter_mut().step_by(step) {
                *byte ^= 0x55;
            }
            unit = next;
        }
    }
    bytes
}

#[tokio::test]
async fn broken_slices_fail_by_name_and_are_counted_once() {
    let service = Service::start(&["--workers", "1", "--segment-ms", "1000"]);
    let good = Clip { audio: None, ..Clip::default() }.bytes();
    let failed = || {
        let series = "segmill_segments_total{op=\"stream\",origin=\"client\",outcome=\"failed\"}";
        service.metric(series).unwrap_or_else(|| panic!("no {series}: {}", service.get_ops("/metrics").1))
    };
    for step in [1, 7, 101, 997] {
        let before = failed();
        let start = json!({"outputs": outputs(json!({"codec": "h264", "height": 144}))});
        let session = client::stream(service.listen, start, spoil_slices(good.clone(), step), CHUNK).await;
        let (close, codes) = (session.close_code(), session.error_codes());
        assert!(matches!(close, 1000 | 4422), "every {step}th byte: {close} {codes:?}");
        let known = ["bad_media", "frame_mismatch", "poison_segment"];
        assert!(codes.iter().all(|code| known.contains(code)), "every {step}th byte: {codes:?}");
        let receipts = session.receipts.iter().filter(|receipt| receipt["outcome"] == "failed").count();
        assert_eq!(receipts, codes.len(), "every {step}th byte: each failed segment has its receipt");
        assert_eq!(failed() - before, receipts as f64, "every {step}th byte");
    }
    assert_healthy(&service).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bits_turned_over_and_streams_cut_off_are_no_fault_of_the_service() {
    let service = Service::start(&["--workers", "2"]);
    let (service, codes) = (&service, &Codes::read());
    let damaged = damage::clips().into_iter().flat_map(|clip| {
        let media = clip.bytes();
        // The last: a duration that makes a segment of minutes of sound.
        let flips =
            (0..25).chain([482]).map(|seed| (format!("{:?}, seed {seed}", clip.shape), damage::flipped(&media, seed)));
        let cut =
            |tenth: usize| (format!("{:?}, {tenth} tenths", clip.shape), media[..media.len() * tenth / 10].to_vec());
        flips.chain((0..10).map(cut)).collect::<Vec<_>>()
    });
    let sessions = futures_util::stream::iter(damaged).map(|(label, media)| async move {
        let session = damage::session(service, &label, media).await;
        codes.check(&label, &session);
    });
    assert_eq!(sessions.buffer_unordered(4).count().await, 4 * 36);
}

#[tokio::test]
async fn tracks_that_are_not_read_are_listed_and_left_out() {
    let service = Service::start(&["--workers", "1"]);
    let clip = Clip { frames: 30, ..Clip::default() };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let words = folder.path().join("words.srt");
    std::fs::write(&words, "1\n00:00:00,100 --> 00:00:00,800\nHello\n").expect("a temporary file");
    for (format, codec, more) in
        [("matroska", "srt", ""), ("mp4", "mov_text", "frag_keyframe+empty_moov"), ("mp4", "mov_text", "faststart")]
    {
        let path = folder.path().join("clip");
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-y", "-i"]).arg(clip.path()).arg("-i").arg(&words);
        ffmpeg.args(["-map", "0", "-map", "1", "-c", "copy", "-c:s", codec, "-f", format]);
        if !more.is_empty() {
            ffmpeg.args(["-movflags", more]);
        }
        assert!(ffmpeg.arg(&path).status().expect("ffmpeg is installed").success());
        let bytes = std::fs::read(&path).expect("a temporary file");
        let start = json!({"outputs": outputs(json!({"codec": "h264", "height": 144}))});
        let session = client::stream(service.listen, start, bytes, CHUNK).await;
        assert_eq!(session.close_code(), 1000, "{format} {more}: {:?}", session.errors);
        assert_eq!(session.done.as_ref().expect("done")["frames_out"], json!({"v": 30}), "{format} {more}");
        let tracks = session.tracks[0]["tracks"].as_array().expect("a list").clone();
        let kinds: Vec<_> = tracks.iter().map(|track| (track["kind"].clone(), track["used"].clone())).collect();
        assert_eq!(
            kinds,
            [(json!("video"), json!(true)), (json!("audio"), json!(false)), (json!("text"), json!(false))],
            "{format} {more}"
        );
    }
}

/// Waits until the service says so of itself.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::yield_now(); // Each question is an exchange over a socket.
    }
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_behind() {
    let service = Service::start(&["--workers", "1", "--segment-ms", "1000"]);
    let clip = Clip { frames: 90, ..Clip::default() };
    let mut socket = client::connect(service.listen).await;
    socket.send(start()).await.expect("an open socket");
    for piece in clip.bytes().chunks(CHUNK) {
        let message = [&[0], piece].concat();
        socket.send(Message::binary(message)).await.expect("an open socket");
    }
    // In mid-stream: something has come back, and more is to come.
    loop {
        match socket.next().await.expect("an open socket").expect("a message") {
            Message::Text(text) if text.contains("\"receipt\"") => break,
            _ => {}
        }
    }
    assert_eq!(service.metric("segmill_sessions"), Some(1.0));
    drop(socket);
    for (series, value) in [
        ("segmill_sessions", 0.0),
        ("segmill_segments_in_flight", 0.0),
        ("segmill_queue_depth", 0.0),
        ("segmill_workers{state=\"busy\"}", 0.0),
        ("segmill_workers{state=\"idle\"}", 1.0),
        ("segmill_segment_errors_total{code=\"client_gone\"}", 1.0),
    ] {
        eventually(series, || service.metric(series) == Some(value));
    }
    assert_healthy(&service).await;
}

const UPGRADE: [(&str, &str); 3] =
    [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")];

#[tokio::test]
async fn what_needs_more_than_is_left_is_turned_away_and_copies_are_not() {
    let service = Service::start(&["--workers", "1", "--capacity-cores", "0.05"]);
    let clip = Clip { gop: 15, ..Clip::default() };
    let heavy: Vec<Value> = (20..36)
        .map(|crf| json!({"name": format!("q{crf}"), "video": {"codec": "h264", "crf": crf, "preset": "slow"}}))
        .collect();
    let heavy = json!({"type": "start", "mode": "live", "segment_ms": 500, "deadline_ms": 600_000, "outputs": heavy});
    // With nothing else to do it is let in, however much it needs.
    let mut first = client::connect(service.listen).await;
    first.send(text(heavy.clone())).await.expect("the service listens");
    let media = clip.bytes();
    first.send(Message::binary([&[0], &media[..media.len() / 2]].concat())).await.expect("the service listens");
    let mut session = Session::default();
    while session.tracks.is_empty() {
        session.take(first.next().await.expect("it goes on").expect("it goes on"));
    }
    let (status, body) = service.get_ops("/health/ready");
    assert!(status == 503 && body.contains("\"full\""), "{body}");
    let copies = json!({"mode": "live", "outputs": [{"name": "copy", "video": {"codec": "copy"}}]});
    let copied = client::stream(service.listen, copies, clip.bytes(), CHUNK).await;
    assert_eq!(copied.close_code(), 1000, "{:?}", copied.errors);
    let turned_away = client::stream(service.listen, heavy, clip.bytes(), CHUNK).await;
    assert_eq!((turned_away.close_code(), turned_away.error_codes()), (1013, vec!["full"]));
    assert_eq!(turned_away.errors[0]["retryable"], true);
    assert!(turned_away.receipts.is_empty() && turned_away.tracks.is_empty(), "before any work");
    let says_when = |head: &str| {
        let head = head.to_ascii_lowercase();
        let wait =
            head.split("\r\nretry-after: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse::<u64>().ok());
        assert!(wait.is_some_and(|wait| (1..=60).contains(&wait)), "{head}");
    };
    let (status, head, _) = service.http("POST", "/v1/transcode", &[], &clip.bytes());
    assert_eq!(status, 503);
    says_when(&head);
    eventually("only the first is left", || service.metric("segmill_sessions") == Some(1.0));
    let mut looking_in = Vec::new();
    for _ in 0..4 {
        looking_in.push(client::connect(service.listen).await);
    }
    let (status, head, body) = service.http("POST", "/v1/transcode", &[], b"");
    assert_eq!(status, 503, "{body:?}");
    says_when(&head);
    assert_eq!(service.metric("segmill_sessions_rejected_total{reason=\"capacity\"}"), Some(3.0));
    drop((first, looking_in));
    eventually("ready again", || service.get_ops("/health/ready").0 == 200);
    assert_eq!(service.metric("segmill_demand_cores"), Some(0.0));
}

#[tokio::test]
async fn when_all_places_are_taken_the_next_is_told_to_come_back() {
    let service = Service::start(&["--workers", "1", "--max-sessions", "1"]);
    let mut first = client::connect(service.listen).await;
    let clip = Clip { audio: None, ..Clip::default() }.bytes();
    first.send(start()).await.expect("the service listens");
    first.send(Message::binary([&[0], &clip[..clip.len() / 2]].concat())).await.expect("the service listens");
    // Who has said what it wants keeps its place.
    let tracks = |message: &Message| message.to_text().is_ok_and(|text| text.starts_with("{\"type\":\"tracks\""));
    while !tracks(&first.next().await.expect("the session goes on").expect("the session goes on")) {}
    let ready = service.get_ops("/health/ready");
    assert_eq!((ready.0, serde_json::from_str(&ready.1).ok()), (503, Some(json!({"ready": false, "reason": "full"}))));
    for path in ["/v1/transcode", "/v1/segments"] {
        let (status, head, body) = service.http("POST", path, &[], b"");
        let problem: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((status, problem["code"].as_str()), (503, Some("full")), "{path}");
        assert!(head.to_ascii_lowercase().contains("\r\nretry-after: "), "{path}: {head}");
    }
    let refused = tokio_tungstenite::connect_async({
        use tokio_tungstenite::tungstenite::client::IntoClientRequest;
        let mut request = format!("ws://{}/v1/stream", service.listen).into_client_request().expect("a URL");
        request.headers_mut().insert("sec-websocket-protocol", "segmill.v1".parse().expect("a header"));
        request
    });
    match refused.await {
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => {
            assert_eq!(response.status(), 503);
            assert!(response.headers().contains_key("retry-after"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(service.metric("segmill_sessions_rejected_total{reason=\"full\"}"), Some(3.0));
    drop(first);
    eventually("ready again", || service.get_ops("/health/ready").0 == 200);
    assert_healthy(&service).await;
}

#[test]
fn an_upgrade_that_is_none_is_refused_as_a_problem() {
    let service = Service::start(&["--workers", "1"]);
    let other = [&UPGRADE[..], &[("Sec-WebSocket-Protocol", "chat, segmill.v2")]].concat();
    for (case, headers) in [("no subprotocol", &UPGRADE[..]), ("another subprotocol", &other), ("no upgrade", &[])] {
        // `Connection: upgrade` is sent besides the `close` that this client always sends.
        let headers = [headers, &[("Connection", "upgrade")]].concat();
        let (status, head, body) = service.http("GET", "/v1/stream", &headers, b"");
        let problem: Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((status, problem["code"].as_str()), (400, Some("bad_request")), "{case}: {problem}");
        assert!(head.to_ascii_lowercase().contains("content-type: application/problem+json"), "{case}: {head}");
    }
    assert_eq!(service.metric("segmill_sessions"), Some(0.0));
}
