//! Sessions that outlive their connection: cut anywhere, handed over, and taken up by another instance.

mod support;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::client::{self, Session};
use support::media::{self, Clip, Picture, Shape, Sound};
use support::service::Service;
use support::verify;
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
    async fn to_the_end(&mut self, to: &Service, start: &Value, input: &[u8]) -> End {
        let (set_up, rest) = self.rest(input);
        let bytes = [set_up, rest].concat();
        self.connection(to, start, bytes, None).await
    }

    /// One connection that is dropped, without a close, when the input has been sent as far as `cut` and there are so
    /// many receipts.
    async fn cut(&mut self, to: &Service, start: &Value, input: &[u8], cut: usize, receipts: usize) {
        let (set_up, rest) = self.rest(&input[..cut]);
        let bytes = [set_up, rest].concat();
        assert_eq!(self.connection(to, start, bytes, Some(receipts)).await, End::Cut);
    }

    async fn connection(&mut self, to: &Service, start: &Value, bytes: Vec<u8>, receipts: Option<usize>) -> End {
        let mut start = start.clone();
        start["type"] = json!("start");
        if let Some(resume) = &self.resume {
            start["resume"] = json!({"token": resume["token"]});
        }
        let (mut sink, mut stream) = client::connect(to.listen).await.split();
        let whole = receipts.is_none();
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
        while receipts.is_none_or(|receipts| self.receipts() < receipts) {
            let Some(Ok(message)) = stream.next().await else { break };
            self.take(message);
        }
        let sent = sending.await.expect("sending does not panic");
        if let Some(receipts) = receipts {
            assert_eq!(self.receipts(), receipts, "{:?}", self.session.errors);
            sent.expect("the service reads");
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

/// How many receipts are sure to come when the input has been sent as far as `cut`: a segment is whole when a later
/// one than the next is there, whose beginning lies behind that of the next.
fn sure(uncut: &Session, cut: usize) -> usize {
    let offset = |receipt: &Value| receipt["resume"]["offset"].as_u64().expect("an offset");
    let reached = uncut.receipts.iter().map(offset).filter(|&offset| offset <= cut as u64).max();
    let Some(reached) = reached else { return 0 };
    uncut.receipts.iter().skip(1).filter(|receipt| offset(receipt) < reached).count()
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
    let mut done = (cut.done.clone(), uncut.done.clone());
    assert!(done.0.take().is_some() && cut.done == uncut.done, "{label}: {:?} {:?}", cut.done, uncut.done);
}

fn copies(outputs: &[&str]) -> Vec<usize> {
    (0..outputs.len()).filter(|&n| !outputs[n].contains("h264") && !outputs[n].contains("aac")).collect()
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
        frames: 150,
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
        let (mut left, mut last) = (*cuts, Session::default());
        while left > 0 {
            let label = format!("{:?}, {left} cuts to go", clip.shape);
            let mut whole = Whole::default();
            for n in 0.. {
                let (service, offset) = (&services[n % 2], input.len() - whole.rest(&input).1.len());
                if left == 0 || n == 10 || offset == input.len() {
                    assert_eq!(whole.to_the_end(service, &start, &input).await, End::Done, "{label}");
                    break;
                }
                // Anywhere, most of them not far from where it begins.
                let span = (input.len() - offset) / (1 + random(&mut seed) % 4) + 1;
                let cut = offset + random(&mut seed) % span;
                let more = sure(&uncut, cut).saturating_sub(whole.receipts());
                let receipts = whole.receipts() + random(&mut seed) % (more + 1);
                whole.cut(service, &start, &input, cut, receipts).await;
                left -= 1;
            }
            same(&label, &whole.session, &uncut, &copies(outputs));
            last = whole.session;
        }
        verify::session(clip, outputs, &last);
    }
}
