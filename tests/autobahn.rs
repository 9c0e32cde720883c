//! The cases of the Autobahn fuzzing client (1 to 7, 9 and 10), as frames over TCP against the real binary. They are made for
//! a server that echoes; `/v1/stream` doesn't, so each case says what has to be seen instead: that the session goes on and
//! answers a ping, that a message was read as the text that it is, or the code of the close.
//!
//! Text that is to be taken is an `ack` (after `start`), filled up with spaces; where it has to hold a string of its own it is
//! a `start` with that for a token: `resume_forged` says that it was read, `bad_message` that it was not.

use crate::support;
use crate::support::media::Clip;
use crate::support::raw::{BINARY, CLOSE, CONTINUATION, Ending, Frame, PING, PONG, Raw, TEXT};
use crate::support::service::Service;

/// Most bytes in a message.
const MIB: usize = 1 << 20;

/// What has to be seen.
#[derive(Debug, Clone)]
enum Seen {
    /// These pongs; the session goes on, and closes as it is told.
    Goes(Vec<Vec<u8>>),
    /// An error with this code, and a close with this one.
    Refused(&'static str, u16),
    /// The client's close, answered with this code, and no pong.
    Answered(Option<u16>),
}

struct Case {
    id: String,
    frames: Vec<Frame>,
    /// Bytes that are written at once.
    chop: usize,
    started: bool,
    seen: Seen,
}

fn case(id: impl Into<String>, frames: impl Into<Vec<Frame>>, seen: Seen) -> Case {
    Case { id: id.into(), frames: frames.into(), chop: usize::MAX, started: true, seen }
}

impl Case {
    fn chopped(self, chop: usize) -> Self {
        Self { id: format!("{} in pieces of {chop}", self.id), chop, ..self }
    }

    fn before_start(self) -> Self {
        Self { started: false, ..self }
    }

    fn check(&self, service: &Service) {
        let mut raw = Raw::upgraded(service.listen);
        if self.started {
            raw.send(&Frame::new(TEXT, br#"{"type":"start"}"#));
        }
        let bytes: Vec<u8> = self.frames.iter().flat_map(Frame::bytes).collect();
        // Whatever is refused may be refused before it is all sent.
        let whole = bytes.chunks(self.chop.min(bytes.len().max(1))).all(|piece| raw.write(piece));
        let Ending { pongs, error, closed, close } = match &self.seen {
            Seen::Goes(_) => {
                assert!(whole, "{}", self.id);
                raw.send(&Frame::new(PING, b"still there"));
                raw.send(&Frame::close(1000, b""));
                raw.rest()
            }
            _ => raw.rest(),
        };
        assert!(closed, "{}: no close, {error:?}", self.id);
        match &self.seen {
            Seen::Goes(before) => {
                let expected: Vec<Vec<u8>> = before.iter().cloned().chain([b"still there".to_vec()]).collect();
                assert_eq!((error, pongs, close), (None, expected, Some(1000)), "{}", self.id);
            }
            Seen::Refused(code, number) => {
                assert_eq!((error.as_deref(), close), (Some(*code), Some(*number)), "{}", self.id);
            }
            Seen::Answered(number) => assert_eq!((error, pongs.len(), close), (None, 0, *number), "{}", self.id),
        }
    }
}

fn goes() -> Seen {
    Seen::Goes(Vec::new())
}

fn pongs(payloads: &[&[u8]]) -> Seen {
    Seen::Goes(payloads.iter().map(|payload| payload.to_vec()).collect())
}

const BAD: Seen = Seen::Refused("bad_message", 4400);
const TOO_BIG: Seen = Seen::Refused("message_too_big", 1009);

/// A message that may always come, of `length` bytes.
fn ack(length: usize) -> Vec<u8> {
    let mut text = br#"{"type":"ack","seq":1}"#.to_vec();
    assert!(length >= text.len());
    text.resize(length, b' ');
    text
}

/// A message in frames of at most `size` bytes, with others in between.
fn in_parts(opcode: u8, payload: &[u8], size: usize, between: &[Frame]) -> Vec<Frame> {
    let count = payload.chunks(size).count();
    let mut frames = Vec::new();
    for (n, part) in payload.chunks(size).enumerate() {
        let frame = Frame::new(if n == 0 { opcode } else { CONTINUATION }, part);
        frames.push(if n + 1 < count { frame.part() } else { frame });
        if n + 1 < count {
            frames.extend_from_slice(between);
        }
    }
    frames
}

fn check(cases: Vec<Case>) {
    let service = Service::start(&["--workers", "1"]);
    for case in &cases {
        case.check(&service);
    }
    assert_eq!(service.get_ops("/health/ready").0, 200);
}

#[test]
fn cases_1_framing() {
    let media = Clip { frames: 120, gop: 120, ..Clip::default() }.bytes();
    let media = [&[0], &media[..]].concat();
    let mut cases = vec![case("1.1.1", [Frame::new(TEXT, b"")], BAD), case("1.2.1", [Frame::new(BINARY, b"")], BAD)];
    for (n, length) in [125, 126, 127, 128, 65_535, 65_536].into_iter().enumerate() {
        cases.push(case(format!("1.1.{}", n + 2), [Frame::new(TEXT, ack(length))], goes()));
        let piece = &media[..length.min(media.len())];
        cases.push(case(format!("1.2.{}", n + 2), [Frame::new(BINARY, piece)], goes()));
    }
    cases.push(case("1.1.8", [Frame::new(TEXT, ack(65_536))], goes()).chopped(997));
    cases.push(case("1.2.8", [Frame::new(BINARY, &media[..media.len().min(65_536)])], goes()).chopped(997));
    check(cases);
}

#[test]
fn cases_2_pings_and_pongs() {
    let ping = |payload: &[u8]| Frame::new(PING, payload);
    let odd = [0x00, 0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0x00, 0xff];
    let full = [0xfe; 125];
    let ten: Vec<Vec<u8>> = (0..10).map(|n| format!("payload-{n}").into_bytes()).collect();
    let ten_pings: Vec<Frame> = ten.iter().map(|payload| ping(payload)).collect();
    check(vec![
        case("2.1", [ping(b"")], pongs(&[b""])),
        case("2.2", [ping(b"Hello, world!")], pongs(&[b"Hello, world!"])),
        case("2.3", [ping(&odd)], pongs(&[&odd])),
        case("2.4", [ping(&full)], pongs(&[&full])),
        case("2.5", [ping(&[0xfe; 126])], BAD),
        case("2.6", [ping(&full)], pongs(&[&full])).chopped(1),
        case("2.7", [Frame::new(PONG, b"")], goes()),
        case("2.8", [Frame::new(PONG, b"unsolicited")], goes()),
        case("2.9", [Frame::new(PONG, b"unsolicited"), ping(b"ping")], pongs(&[b"ping"])),
        case("2.10", ten_pings.clone(), Seen::Goes(ten.clone())),
        case("2.11", ten_pings, Seen::Goes(ten)).chopped(1),
    ]);
}

#[test]
fn cases_3_and_4_reserved_bits_and_opcodes() {
    let text = || Frame::new(TEXT, ack(30));
    let mut cases = vec![
        case("3.1", [text().reserved(1)], BAD),
        case("3.2", [text(), text().reserved(2), Frame::new(PING, b"")], BAD),
        case("3.3", [text(), text().reserved(3), Frame::new(PING, b"")], BAD),
        case("3.4", [text(), text().reserved(4), Frame::new(PING, b"")], BAD).chopped(1),
        case("3.5", [Frame::new(BINARY, b"\0media").reserved(5)], BAD),
        case("3.6", [Frame::new(PING, b"ping").reserved(6)], BAD),
        case("3.7", [Frame::new(CLOSE, b"").reserved(7)], BAD),
    ];
    for (group, opcodes) in [(1, 3..=7), (2, 11..=15)] {
        for (n, opcode) in opcodes.enumerate() {
            let payload: &[u8] = if n % 2 == 0 { b"" } else { b"reserved opcode payload" };
            let before = if n < 2 { vec![] } else { vec![text()] };
            let frames = [before, vec![Frame::new(opcode, payload), Frame::new(PING, b"")]].concat();
            cases.push(case(format!("4.{group}.{}", n + 1), frames, BAD));
        }
    }
    // Not of the suite, and said by RFC 6455 5.1.
    cases.push(case("unmasked text", [text().unmasked()], BAD));
    cases.push(case("an unmasked ping", [Frame::new(PING, b"ping").unmasked()], BAD));
    cases.push(case("an unmasked close", [Frame::close(1000, b"").unmasked()], BAD));
    check(cases);
}

#[test]
fn cases_5_fragments() {
    let whole = ack(40);
    let ping = || Frame::new(PING, b"pongme");
    let part = |opcode: u8| Frame::new(opcode, b"fragment").part();
    let text = || Frame::new(TEXT, &whole);
    let last = || Frame::new(CONTINUATION, b"fragment");
    let two = |between: &[Frame]| in_parts(TEXT, &whole, 20, between);
    let five = |between: &[Frame]| in_parts(TEXT, &whole, 8, between);
    let mut cases = vec![
        case("5.1", [part(PING), last()], BAD),
        case("5.2", [part(PONG), last()], BAD),
        case("5.19", five(&[ping()]), pongs(&[b"pongme".as_slice(); 4])),
        case("5.20", five(&[ping()]), pongs(&[b"pongme".as_slice(); 4])).chopped(1),
    ];
    for (n, chop) in [usize::MAX, 7, 1].into_iter().enumerate() {
        let id = |first: usize| format!("5.{}", first + n);
        cases.push(case(id(3), two(&[]), goes()).chopped(chop));
        cases.push(case(id(6), two(&[ping()]), pongs(&[b"pongme"])).chopped(chop));
        cases.push(case(id(9), [last(), text()], BAD).chopped(chop));
        cases.push(case(id(12), [last().part(), text()], BAD).chopped(chop));
        cases.push(case(id(16), [last().part(), part(TEXT), last()], BAD).chopped(chop));
    }
    cases.push(case("5.15", [two(&[]), vec![last().part(), text()]].concat(), BAD));
    cases.push(case("5.18", [part(TEXT), text()], BAD));
    cases.push(case("5.18, binary", [part(BINARY), Frame::new(BINARY, b"\0")], BAD));
    check(cases);
}

/// A `start` whose token is this string.
fn with_token(token: &[u8]) -> Vec<u8> {
    [br#"{"type":"start","resume":{"token":""#, token, br#""}}"#].concat()
}

#[test]
fn cases_6_utf_8() {
    const READ: Seen = Seen::Refused("resume_forged", 1008);
    const KOSME: &[u8] = "κόσμε".as_bytes();
    let mixed = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    let valid: &[(&str, &[&[u8]])] = &[
        ("6.2", &[mixed]),
        ("6.5", &[KOSME]),
        ("6.7", &[b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"]),
        ("6.9", &[b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"]),
        ("6.11", &[b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf"]),
        (
            "6.22",
            &[b"\xef\xbf\xbe", b"\xf0\x9f\xbf\xbe", b"\xf0\x9f\xbf\xbf", b"\xf3\xbf\xbf\xbe", b"\xf4\x8f\xbf\xbe"],
        ),
        ("6.23", &[b"\xef\xbf\xb9", b"\xef\xbf\xba", b"\xef\xbf\xbb", b"\xef\xbf\xbc", b"\xef\xbf\xbd"]),
    ];
    let invalid: &[(&str, &[&[u8]])] = &[
        ("6.3", &[b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited"]),
        ("6.8", &[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]),
        ("6.10", &[b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]),
        ("6.11.5", &[b"\xf4\x90\x80\x80"]),
        ("6.12", &[b"\x80", b"\xbf", b"\x80\xbf", b"\x80\xbf\x80\xbf\x80\xbf"]),
        ("6.13", &[b"\xc0 \xc1 \xdf ", b"\xe0 \xef ", b"\xf0 \xf7 ", b"\xf8 \xfb ", b"\xfc \xfd "]),
        ("6.14", &[b"\xc0", b"\xe0\x80", b"\xf0\x80\x80", b"\xf8\x80\x80\x80", b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf"]),
        ("6.15", &[b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf"]),
        ("6.16", &[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]),
        ("6.17", &[b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf"]),
        ("6.18", &[b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf", b"\xf8\x87\xbf\xbf\xbf"]),
        ("6.19", &[b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xf8\x80\x80\x80\x80"]),
        (
            "6.20",
            &[b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf", b"\xed\xb0\x80", b"\xed\xbf\xbf"],
        ),
        ("6.21", &[b"\xed\xa0\x80\xed\xb0\x80", b"\xed\xad\xbf\xed\xb0\x80", b"\xed\xaf\xbf\xed\xbf\xbf"]),
    ];
    let mut cases = vec![
        case("6.1.1", [Frame::new(TEXT, b"")], BAD),
        case(
            "6.1.2",
            [Frame::new(TEXT, b"").part(), Frame::new(CONTINUATION, b"").part(), Frame::new(CONTINUATION, b"")],
            BAD,
        ),
        case(
            "6.1.3",
            [Frame::new(TEXT, b"").part(), Frame::new(CONTINUATION, ack(30)).part(), Frame::new(CONTINUATION, b"")],
            goes(),
        ),
        // The rest of the message never comes: what is wrong so far is enough. Inside a frame it is found at the frame's end.
        case("6.4.1", [Frame::new(TEXT, KOSME).part(), Frame::new(CONTINUATION, b"\xf4\x90\x80\x80").part()], BAD),
        case(
            "6.4.2",
            [Frame::new(TEXT, [KOSME, b"\xf4"].concat()).part(), Frame::new(CONTINUATION, b"\x90").part()],
            BAD,
        ),
        case("6.4.3", [Frame::new(TEXT, [KOSME, b"\xf4\x90\x80\x80"].concat()).part()], BAD).chopped(3),
    ];
    for length in 1..KOSME.len() {
        let seen = if std::str::from_utf8(&KOSME[..length]).is_ok() { READ } else { BAD };
        cases
            .push(case(format!("6.6.{length}"), [Frame::new(TEXT, with_token(&KOSME[..length]))], seen).before_start());
    }
    for (strings, seen) in [(valid, READ), (invalid, BAD)] {
        for (group, strings) in strings {
            for (n, string) in strings.iter().enumerate() {
                let text = with_token(string);
                for size in [usize::MAX, 1, 3] {
                    let id = format!("{group}, string {n}, frames of {size}");
                    cases.push(case(id, in_parts(TEXT, &text, size.min(text.len()), &[]), seen.clone()).before_start());
                }
            }
        }
    }
    check(cases);
}

#[test]
fn cases_7_closing() {
    let closed = |id: &str, before: Vec<Frame>, after: Vec<Frame>| {
        case(id, [before, vec![Frame::close(1000, b"")], after].concat(), Seen::Answered(Some(1000)))
    };
    let text = || Frame::new(TEXT, ack(40));
    let mut cases = vec![
        closed("7.1.1", vec![text()], vec![]),
        closed("7.1.2", vec![], vec![Frame::close(1000, b"")]),
        closed("7.1.3", vec![], vec![Frame::new(PING, b"late")]),
        closed("7.1.4", vec![], vec![text()]),
        closed("7.1.5", vec![text().part()], vec![Frame::new(CONTINUATION, b"late")]),
        closed("7.1.6", vec![Frame::new(TEXT, ack(256 << 10))], vec![Frame::new(PING, b"late")]),
        case("7.3.1", [Frame::new(CLOSE, b"")], Seen::Answered(None)),
        case("7.3.2", [Frame::new(CLOSE, b"a")], BAD),
        case("7.3.3", [Frame::close(1000, b"")], Seen::Answered(Some(1000))),
        case("7.3.4", [Frame::close(1000, b"Hello World!")], Seen::Answered(Some(1000))),
        case("7.3.5", [Frame::close(1000, [b'*'; 123])], Seen::Answered(Some(1000))),
        case("7.3.6", [Frame::close(1000, [b'*'; 124])], BAD),
        case("7.5.1", [Frame::close(1000, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited")], BAD),
    ];
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        cases.push(case(format!("7.7, {code}"), [Frame::close(code, b"")], Seen::Answered(Some(code))));
    }
    // A code that must not be sent is answered as the standard says: a protocol error.
    for code in [0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65_535] {
        cases.push(case(format!("7.9 and 7.13, {code}"), [Frame::close(code, b"")], Seen::Answered(Some(1002))));
    }
    check(cases);
}

#[test]
fn cases_9_and_10_large_messages_and_many() {
    let seen = |length: usize| if length > MIB { TOO_BIG } else { goes() };
    let mut cases = Vec::new();
    for (n, length) in [64 << 10, 256 << 10, MIB, MIB + 1, 4 * MIB, 8 * MIB, 16 * MIB].into_iter().enumerate() {
        cases.push(case(format!("9.1.{}, {length}", n + 1), [Frame::new(TEXT, ack(length))], seen(length)));
    }
    cases.push(case("9.2, 1 MiB and a byte", [Frame::new(BINARY, vec![0; MIB + 1])], TOO_BIG));
    for size in [64, 256, 4096, 65_536] {
        cases.push(case(format!("9.3, frames of {size}"), in_parts(TEXT, &ack(MIB), size, &[]), goes()));
        cases.push(case(format!("9.3, 4 MiB in frames of {size}"), in_parts(TEXT, &ack(4 * MIB), size, &[]), TOO_BIG));
        cases.push(case(format!("9.4, frames of {size}"), in_parts(BINARY, &vec![0; MIB + 1], size, &[]), TOO_BIG));
        cases.push(case(format!("9.5, {size}"), [Frame::new(TEXT, ack(MIB))], goes()).chopped(size));
    }
    for length in [22, 64, 256, 1024, 4096, 16_384] {
        cases.push(case(format!("9.7, a thousand of {length}"), vec![Frame::new(TEXT, ack(length)); 1000], goes()));
    }
    cases.push(case("9.7.1", vec![Frame::new(TEXT, b""); 1000], BAD));
    cases.push(case("10.1.1", in_parts(TEXT, &ack(65_536), 1300, &[]), goes()));
    check(cases);
}

/// What came before in any case shows in nothing: a stream in fragments of any size, pings among them, is exact.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_in_fragments_with_pings_among_them_is_exact() {
    let service = Service::start(&["--workers", "2"]);
    let (clip, outputs) = (Clip { gop: 15, ..Clip::default() }, ["h264@90+aac", "copy"]);
    let media = clip.bytes();
    let to = service.listen;
    let session = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::upgraded(to);
        let start =
            serde_json::json!({"type": "start", "segment_ms": 500, "outputs": support::verify::outputs(&outputs)});
        raw.send(&Frame::new(TEXT, start.to_string()));
        let mut writing = raw.both();
        let sending = std::thread::spawn(move || {
            for piece in media.chunks(20_000) {
                let message = [&[0], piece].concat();
                for frame in in_parts(BINARY, &message, 1999, &[Frame::new(PING, b"among")]) {
                    assert!(writing.send(&frame), "all is taken");
                }
            }
            assert!(writing.send(&Frame::new(TEXT, br#"{"type":"finish","channel":0}"#)), "all is taken");
        });
        let session = raw.session();
        sending.join().expect("sending does not panic");
        session
    });
    let (session, pongs) = session.await.expect("reading does not panic");
    assert!(pongs > 0);
    support::verify::session(&clip, &outputs, &session);
}
