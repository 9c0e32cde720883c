//! Sessions that outlive their connection: cut anywhere, handed over, and taken up by another instance.

use crate::support::client::{self, Session};
use crate::support::media::{self, Clip, Picture, Shape, Sound};
use crate::support::service::Service;
use crate::support::{data, verify};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const OTHER_KEY: &str = "ff0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1eff";
const CHUNK: usize = 4_000;

fn keyed() -> Service {
    Service::start(&["--workers", "2", "--resume-key", KEY])
}

/// How one connection ended.
#[derive(Debug, PartialEq)]
enum End {
    Done,
    Cut,
    Moved,
}

/// All that came over several connections, and how to go on.
#[derive(Default)]
struct Whole {
    session: Session,
    resume: Option<Value>,
}

impl Whole {
    /// What to send on the next connection: where it begins in the input, and the bytes.
    fn rest<'a>(&self, input: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        let number = |name: &str| self.resume.as_ref().map_or(0, |resume| resume[name].as_u64().expect("a number"));
        (&input[..number("set_up_bytes") as usize], &input[number("offset") as usize..])
    }

    fn receipts(&self) -> usize {
        self.session.receipts.len()
    }

    /// One connection to the end of the input, or until the service has had enough.
    async fn finish(&mut self, to: &Service, start: &Value, input: &[u8]) -> End {
        let (set_up, rest) = self.rest(input);
        let bytes = [set_up, rest].concat();
        self.connection(to, start, bytes, None).await
    }

    /// One connection on which all of the input is sent, and its end, that is dropped at so many receipts.
    async fn until(&mut self, to: &Service, start: &Value, input: &[u8], receipts: usize) {
        let (set_up, rest) = self.rest(input);
        let bytes = [set_up, rest].concat();
        assert_eq!(self.session_on(to, start, bytes, true, receipts).await, End::Cut);
    }

    /// One connection that is dropped, without a close, when the input has been sent as far as `cut` and there are so
    /// many receipts.
    async fn cut(&mut self, to: &Service, start: &Value, input: &[u8], cut: usize, receipts: usize) {
        let (set_up, rest) = self.rest(&input[..cut]);
        let bytes = [set_up, rest].concat();
        assert_eq!(self.connection(to, start, bytes, Some(receipts)).await, End::Cut);
    }

    /// Tells the end of the input, unless the connection is dropped at so many receipts.
    async fn connection(&mut self, to: &Service, start: &Value, bytes: Vec<u8>, receipts: Option<usize>) -> End {
        self.session_on(to, start, bytes, receipts.is_none(), receipts.unwrap_or(usize::MAX)).await
    }

    async fn session_on(&mut self, to: &Service, start: &Value, bytes: Vec<u8>, whole: bool, receipts: usize) -> End {
        let mut start = start.clone();
        start["type"] = json!("start");
        if let Some(resume) = &self.resume {
            start["resume"] = json!({"token": resume["token"]});
        }
        let (mut sink, mut stream) = client::connect(to.listen).await.split();
        let sending = tokio::spawn(async move {
            sink.send(Message::text(start.to_string())).await?;
            for piece in bytes.chunks(CHUNK) {
                sink.send(Message::binary([&[0], piece].concat())).await?;
            }
            if whole {
                sink.send(Message::text(json!({"type": "finish", "channel": 0}).to_string())).await?;
            }
            Ok::<_, tokio_tungstenite::tungstenite::Error>(sink)
        });
        self.session.begin_connection();
        while self.receipts() < receipts {
            let Some(Ok(message)) = stream.next().await else { break };
            self.take(message);
        }
        let _sink = sending.await.expect("sending does not panic").expect("the service reads");
        if self.receipts() == receipts {
            return End::Cut;
        }
        match self.session.close_code() {
            1000 => End::Done,
            1012 => End::Moved,
            other => panic!("closed with {other}: {:?}", self.session.errors),
        }
    }

    fn take(&mut self, message: Message) {
        if let Message::Text(text) = &message {
            let value: Value = serde_json::from_str(text).expect("JSON");
            if matches!(value["type"].as_str(), Some("receipt" | "moved")) {
                self.resume = Some(value["resume"].clone());
            }
        }
        self.session.take(message);
    }
}

/// Segments by whose beginning what comes before them is whole: as long as sound is looked back and ahead.
const BEHIND: usize = 5;

/// How many receipts are sure to come when the input has been sent as far as `cut`.
fn sure(uncut: &Session, cut: usize) -> usize {
    let offset = |receipt: &Value| receipt["resume"]["offset"].as_u64().expect("an offset");
    uncut.receipts.iter().filter(|receipt| offset(receipt) <= cut as u64).count().saturating_sub(BEHIND)
}

/// Of every packet of an output: stream, PTS, DTS, duration; and the decode time of every fragment.
fn timing(output: &client::Output) -> Vec<Vec<String>> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), output.whole()).expect("a temporary file");
    media::probe(file.path(), &["-show_entries", "packet=stream_index,pts,dts,duration"])
}

fn headers(output: &client::Output) -> Vec<Value> {
    let bare = |(header, _): &(Value, Vec<u8>)| {
        let mut header = header.clone();
        for of_the_bytes in ["bytes", "sha256"] {
            header.as_object_mut().expect("an object").remove(of_the_bytes);
        }
        header
    };
    output.segments.iter().map(bare).collect()
}

fn random(state: &mut u64) -> usize {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

struct Case {
    clip: Clip,
    outputs: &'static [&'static str],
    cuts: usize,
}

/// The cut session must be the uncut one, but for the bytes that an encoder makes.
fn same(label: &str, cut: &Session, uncut: &Session, copies: &[usize]) {
    assert_eq!(cut.receipts.len(), uncut.receipts.len(), "{label}: receipts");
    for (a, b) in cut.receipts.iter().zip(&uncut.receipts) {
        for field in ["seq", "start_ms", "duration_ms", "frames_in", "frames_out", "audio_samples", "outcome"] {
            assert_eq!(a[field], b[field], "{label}: {field} of {}", a["seq"]);
        }
    }
    for (n, (name, a)) in cut.outputs.iter().enumerate() {
        let b = &uncut.outputs[name];
        assert_eq!(headers(a), headers(b), "{label}: {name}");
        assert_eq!(a.inits, b.inits, "{label}: {name}");
        assert_eq!(timing(a), timing(b), "{label}: {name}");
        if copies.contains(&n) {
            assert!(a.segments == b.segments, "{label}: {name} is the same to the bit");
        }
    }
    assert!(cut.done.is_some(), "{label}");
    assert_eq!(cut.done, uncut.done, "{label}");
}

fn copies(outputs: &[&str]) -> Vec<usize> {
    (0..outputs.len()).filter(|&n| !outputs[n].contains("h264") && !outputs[n].contains("aac")).collect()
}

/// Splices and tags in every second segment, each read by the session that was left, or by the one that goes on.
#[tokio::test(flavor = "multi_thread")]
async fn what_rides_along_is_told_once_however_a_session_is_cut() {
    const ID3: &[u8] = b"\x26\x0d\xff\xffID3 \xffID3 \x00\x0f";
    let services = [keyed(), keyed()];
    let clip = Clip { shape: Shape::Ts, frames: 150, gop: 15, b_frames: 2, width: 160, height: 96, ..Clip::default() };
    let at = |picture: usize| 135_000 + picture as u64 * 3000;
    let splice = |n: usize| (n, data::splice_insert(n as u32, at(n + 20), 900_000));
    let splices = [3, 4, 31, 62, 63, 64, 97, 120].map(splice).to_vec();
    // Several packets long.
    let tag = |n: usize| (n, data::pes(at(n), &data::id3(&"long ".repeat(120))));
    let tags = [1, 29, 30, 45, 46, 91, 130].map(tag).to_vec();
    let expected = splices.len() + tags.len();
    let streams = [
        data::Stream { pid: 0x500, stream_type: 0x86, descriptors: b"", units: splices },
        data::Stream { pid: 0x501, stream_type: 0x15, descriptors: ID3, units: tags },
    ];
    let input = data::with_streams(&clip.bytes(), b"\x05\x04CUEI", &streams);
    let start = json!({"segment_ms": 500, "cut_on": ["scte35"], "outputs": verify::outputs(&["copy+copy"])});
    let uncut = client::stream(services[0].listen, start.clone(), input.clone(), CHUNK).await;
    assert_eq!((uncut.close_code(), uncut.events.len()), (1000, expected), "{:?}", uncut.errors);
    for receipts in 1..uncut.receipts.len() {
        let mut whole = Whole::default();
        whole.until(&services[0], &start, &input, receipts).await;
        assert_eq!(whole.finish(&services[1], &start, &input).await, End::Done);
        assert_eq!(whole.session.events, uncut.events, "left after {receipts}");
        same(&format!("left after {receipts}"), &whole.session, &uncut, &[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_cut_anywhere_goes_on_elsewhere_without_a_trace() {
    use {Picture::*, Shape::*, Sound::*};
    let services = [keyed(), keyed()];
    let clip = |shape, video, audio| Clip {
        shape,
        video: Some(video),
        audio: Some(audio),
        gop: 15,
        frames: 210,
        width: 192,
        height: 108,
        ..Clip::default()
    };
    let outputs = &["copy+copy", "h264@90+aac", "ts:copy+copy", "ts:h264@90+aac"];
    let cases = [
        Case { clip: Clip { b_frames: 2, ..clip(Ts, H264, Aac) }, outputs, cuts: 50 },
        Case { clip: Clip { b_frames: 2, ..clip(FragmentedMp4, H264, Aac) }, outputs, cuts: 50 },
        Case { clip: Clip { b_frames: 2, ..clip(FaststartMp4, H264, Aac) }, outputs, cuts: 50 },
        Case { clip: clip(Webm, Vp8, Opus), outputs: &["copy+copy", "ts:h264@90+aac", "h264@90+aac"], cuts: 50 },
    ];
    let mut seed = 7;
    for Case { clip, outputs, cuts } in &cases {
        let (input, start) = (clip.bytes(), json!({"segment_ms": 500, "outputs": verify::outputs(outputs)}));
        let uncut = client::stream(services[0].listen, start.clone(), input.clone(), CHUNK).await;
        let (mut left, mut resumed, mut last) = (*cuts, 0, Session::default());
        while left > 0 {
            let label = format!("{:?}, {left} cuts to go", clip.shape);
            let mut whole = Whole::default();
            for n in 0.. {
                let (service, offset) = (&services[n % 2], input.len() - whole.rest(&input).1.len());
                if left == 0 || n == 10 || offset == input.len() {
                    assert_eq!(whole.finish(service, &start, &input).await, End::Done, "{label}");
                    break;
                }
                // Anywhere, most of them not far from where it begins.
                let span = (input.len() - offset) / (1 + random(&mut seed) % 4) + 1;
                let cut = offset + random(&mut seed) % span;
                let more = sure(&uncut, cut).saturating_sub(whole.receipts());
                let receipts = whole.receipts() + random(&mut seed) % (more + 1);
                resumed += usize::from(whole.resume.is_some());
                whole.cut(service, &start, &input, cut, receipts).await;
                left -= 1;
            }
            same(&label, &whole.session, &uncut, &copies(outputs));
            last = whole.session;
        }
        assert!(resumed > cuts / 4, "{:?}: only {resumed} of the connections went on in the middle", clip.shape);
        verify::session(clip, outputs, &last);
    }
}

fn small(shape: Shape) -> Clip {
    Clip { shape, gop: 15, frames: 120, width: 192, height: 108, b_frames: 2, ..Clip::default() }
}

const OUTPUTS: [&str; 2] = ["copy+copy", "ts:h264@90+aac"];

fn start() -> Value {
    json!({"segment_ms": 500, "outputs": verify::outputs(&OUTPUTS)})
}

/// The codes and the close of a session that begins with this token.
async fn refusal(service: &Service, start: &Value, token: &str) -> (Vec<String>, u16) {
    let mut start = start.clone();
    start["resume"] = json!({"token": token});
    let session = client::stream(service.listen, start, Vec::new(), CHUNK).await;
    (session.error_codes().into_iter().map(str::to_owned).collect(), session.close_code())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_do_not_hold_are_refused_by_name() {
    let service = keyed();
    let input = small(Shape::Ts).bytes();
    let session = client::stream(service.listen, start(), input.clone(), CHUNK).await;
    let token = session.receipts[1]["resume"]["token"].as_str().expect("a token").to_owned();
    let forged = (vec!["resume_forged".to_owned()], 1008);
    for token in ["", "not a token", &token[..token.len() / 2], &token.replace('A', "B"), &"A".repeat(900_000)] {
        assert_eq!(refusal(&service, &start(), token).await, forged);
    }
    let mut other = start();
    other["segment_ms"] = json!(600);
    assert_eq!(refusal(&service, &other, &token).await, (vec!["resume_mismatch".to_owned()], 4400));
    for flags in [&["--workers", "1"][..], &["--workers", "1", "--resume-key", OTHER_KEY]] {
        assert_eq!(refusal(&Service::start(flags), &start(), &token).await, forged, "{flags:?}");
    }
    // A key that is no longer the first still verifies: a rolling change of keys.
    let keys = format!("{OTHER_KEY},{KEY}");
    let renewed = Service::start(&["--workers", "1", "--resume-key", &keys]);
    let mut whole = Whole { resume: Some(session.receipts[1]["resume"].clone()), ..Whole::default() };
    whole.session = session;
    whole.session.go_back_to(2);
    assert_eq!(whole.finish(&renewed, &start(), &input).await, End::Done);
    assert_eq!(whole.session.done.as_ref().expect("done")["frames_in"], 120);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_lasted_long_enough_is_handed_over_again_and_again() {
    let flags = ["--workers", "1", "--resume-key", KEY, "--session-limit", "1s"];
    let services = [Service::start(&flags), Service::start(&flags)];
    let clip = small(Shape::FragmentedMp4);
    let input = clip.bytes();
    let uncut = client::stream(keyed().listen, start(), input.clone(), CHUNK).await;
    let mut whole = Whole::default();
    for (n, part) in [1, 2, 3].into_iter().enumerate() {
        // The input stays open: the service has to end each of these by itself.
        let (set_up, rest) = whole.rest(&input[..input.len() * part / 4]);
        let bytes = [set_up, rest].concat();
        let end = whole.connection(&services[n % 2], &start(), bytes, Some(usize::MAX)).await;
        assert_eq!(end, End::Moved);
        let moved = whole.session.moved.last().expect("it was said");
        assert_eq!((whole.session.moved.len(), &moved["reason"]), (n + 1, &json!("session_limit")));
        assert_eq!(whole.session.error_codes(), Vec::<&str>::new());
    }
    assert_eq!(whole.finish(&keyed(), &start(), &input).await, End::Done);
    same("handed over", &whole.session, &uncut, &[0]);
    verify::session(&clip, &OUTPUTS, &whole.session);
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_in_mid_stream_moves_the_session_to_another_process() {
    let (first, second) = (keyed(), keyed());
    let clip = small(Shape::Ts);
    let input = clip.bytes();
    let uncut = client::stream(second.listen, start(), input.clone(), CHUNK).await;
    let mut whole = Whole::default();
    let mut socket = client::connect(first.listen).await;
    let mut begin = start();
    begin["type"] = json!("start");
    socket.send(Message::text(begin.to_string())).await.expect("the service listens");
    socket.send(Message::binary([&[0], &input[..input.len() - 1000]].concat())).await.expect("the service listens");
    while whole.receipts() == 0 {
        whole.take(socket.next().await.expect("the session goes on").expect("the session goes on"));
    }
    let terminating = tokio::task::spawn_blocking(move || first.terminate());
    while let Some(Ok(message)) = socket.next().await {
        whole.take(message);
    }
    assert_eq!((whole.session.close_code(), &whole.session.moved[0]["reason"]), (1012, &json!("drain")));
    assert_eq!(terminating.await.expect("waiting does not panic"), Some(0));
    assert_eq!(whole.finish(&second, &start(), &input).await, End::Done);
    same("moved", &whole.session, &uncut, &[0]);
    verify::session(&clip, &OUTPUTS, &whole.session);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_can_be_taken_up_before_its_first_receipt_after_its_last_and_at_another_set_up() {
    let service = keyed();
    let before = small(Shape::FragmentedMp4);
    let after = Clip { first: 200, width: 256, height: 144, ..small(Shape::FragmentedMp4) };
    let input = [before.bytes(), after.bytes()].concat();
    let uncut = client::stream(service.listen, start(), input.clone(), CHUNK).await;
    assert_eq!((uncut.close_code(), uncut.tracks.len()), (1000, 2));
    for at in 0..=uncut.receipts.len() {
        let mut whole = Whole::default();
        whole.cut(&service, &start(), &input, input.len(), sure(&uncut, input.len()).min(at)).await;
        while whole.receipts() < at {
            // What comes last is not whole before the end of the input is told.
            whole.until(&service, &start(), &input, at).await;
        }
        assert_eq!(whole.finish(&service, &start(), &input).await, End::Done, "after {at}");
        assert_eq!(whole.receipts(), uncut.receipts.len(), "after {at}");
        for (name, output) in &whole.session.outputs {
            assert_eq!(headers(output), headers(&uncut.outputs[name]), "{name} after {at}");
            assert_eq!(output.inits, uncut.outputs[name].inits, "{name} after {at}");
        }
        assert_eq!(whole.session.done, uncut.done, "after {at}");
    }
}

/// What `segmill push` says, a JSON object a line.
fn said(stdout: std::process::ChildStdout) -> std::sync::mpsc::Receiver<Value> {
    use std::io::BufRead;
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::BufReader::new(stdout).lines().map_while(Result::ok) {
            // The test may have seen enough.
            let _ = sender.send(serde_json::from_str(&line).expect("a JSON object a line"));
        }
    });
    receiver
}

#[test]
fn push_goes_on_at_the_next_service_when_one_hands_over_and_when_one_dies() {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let limited = ["--workers", "1", "--resume-key", KEY, "--session-limit", "1s"];
    let services = [Service::start(&limited), Service::start(&limited), keyed()];
    let urls = services.iter().map(|service| format!("ws://{}", service.listen)).collect::<Vec<_>>().join(",");
    let clip = small(Shape::Ts);
    let input = clip.bytes();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let outputs = r#"[{"name":"v","video":{"codec":"h264","height":90},"audio":{"codec":"aac"}}]"#;
    let mut push = Command::new(env!("CARGO_BIN_EXE_segmill"))
        .args(["push", "-", "--json", "--segment-ms", "500", "--outputs", outputs, "--to", &urls, "--out"])
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let (mut stdin, said) = (push.stdin.take().expect("piped"), said(push.stdout.take().expect("piped")));
    let wait = |kind: &str| said.iter().find(|message| message["type"] == kind).expect("it is said");
    // The input stays open while the services hand over, one after the other.
    stdin.write_all(&input[..input.len() / 4]).expect("it is read");
    assert_eq!(wait("moved")["reason"], "session_limit");
    stdin.write_all(&input[input.len() / 4..input.len() / 2]).expect("it is read");
    assert_eq!(wait("moved")["reason"], "session_limit");
    stdin.write_all(&input[input.len() / 2..input.len() * 15 / 16]).expect("it is read");
    wait("receipt");
    let [first, second, third] = services;
    drop(third);
    drop(stdin.write_all(&input[input.len() * 15 / 16..]));
    drop(stdin);
    let summary = wait("summary");
    let output = push.wait_with_output().expect("it ends");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!((&summary["complete"], &summary["frames_in"]), (&json!(true), &json!(120)), "{summary}");
    let times = |why: &str| summary["reconnects"][why].as_u64().unwrap_or_default();
    assert!(times("session_limit") >= 2 && times("lost") == 1, "{summary}");
    assert!(told.contains("connecting again"), "{told}");
    drop((first, second));
    let playlist = std::fs::read_to_string(folder.path().join("v/media.m3u8")).expect("a playlist");
    assert!(!playlist.contains("DISCONTINUITY"), "{playlist}");
    let pictures = media::decode_barcodes_of(&folder.path().join("v/media.m3u8"));
    let numbers: Vec<u16> = pictures.into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers, (0..clip.frames).collect::<Vec<_>>());
}
