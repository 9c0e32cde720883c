//! Slow and malicious clients, many at once and of one kind at a time, with four healthy sessions beside them: these lose
//! nothing, whoever comes is let in, each attacker is counted once, and nothing is left behind. Forty of each,
//! if CHAOS_CLIENTS does not say how many: then the service has its own limits, and is held to times.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::canary::{at_rest, canaries, counters, in_their_middle, seen_canaries, sessions};
use crate::support::client::{self, Socket};
use crate::support::media::Clip;
use crate::support::raw::{BINARY, CLOSE, CONTINUATION, Frame, PING, Raw, TEXT, UPGRADE};
use crate::support::service::Service;
use crate::support::verify;
use futures_util::StreamExt;
use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How long all that was taken may take to be given back; for few clients on a busy machine only a hang counts.
const BACK: Duration = Duration::from_secs(10);
const STUCK: Duration = Duration::from_secs(120);
/// How long whoever comes may wait for its session.
const WELCOME: Duration = Duration::from_millis(100);
/// Between two who come.
const COMERS: Duration = Duration::from_millis(25);
/// Between two bytes of a client that sends them one at a time.
const BYTE: Duration = Duration::from_millis(200);
/// Connections that broken frames are sent on at a time.
const ABREAST: usize = 16;

/// How many attackers there are, and whether the service is held to times.
fn attackers() -> (usize, bool) {
    let many = std::env::var("CHAOS_CLIENTS").ok().map(|text| text.parse().expect("a number"));
    (many.unwrap_or(40), many.is_some())
}

/// What an attack is watched with.
struct Watch {
    service: Service,
    /// How many came meanwhile, and left without a word.
    comers: usize,
    before: BTreeMap<String, f64>,
    after: BTreeMap<String, f64>,
}

impl Watch {
    /// By how much a series has risen.
    fn rise(&self, series: &str) -> usize {
        (self.after.get(series).unwrap_or(&0.0) - self.before.get(series).unwrap_or(&0.0)) as usize
    }

    /// The same of all series of a name, by the value of their one label, those left out that have not risen.
    fn rises(&self, name: &str) -> BTreeMap<String, usize> {
        let label = |series: &String| {
            let value = series.strip_prefix(name)?.split('"').nth(1)?.to_owned();
            Some((value, self.rise(series))).filter(|(_, rise)| *rise > 0)
        };
        self.after.keys().filter_map(label).collect()
    }

    /// Of sessions, by code.
    fn errors(&self) -> BTreeMap<String, usize> {
        self.rises("segmill_segment_errors_total")
    }
}

fn of<const N: usize>(expected: [(&str, usize); N]) -> BTreeMap<String, usize> {
    expected.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| (name.to_owned(), n)).collect()
}

/// Runs an attack beside four healthy sessions, and tells how long those wait who come meanwhile. `attack` ends when the
/// last attacker has.
async fn beside<T>(name: &str, flags: &[&str], attack: impl AsyncFnOnce(SocketAddr) -> T) -> (Watch, T) {
    let (_, held_to_times) = attackers();
    let back = if held_to_times { BACK } else { STUCK };
    let close: &[&str] = if held_to_times { &[] } else { &["--close-timeout", "1s"] };
    let service = Service::start(&[&["--workers", "2"], close, flags].concat());
    // All code has run once, and all that is kept for ever is there.
    sessions(&service, None).await;
    drop(welcome(service.listen).await);
    let rest = at_rest(&service, None, STUCK).await;
    let before = counters(&service);
    let (struck, strikes) = watch::channel(false);
    let most = AtomicUsize::new(0);
    let attacked = async {
        in_their_middle(&service, &before).await;
        let (begun, over) = (Instant::now(), AtomicBool::new(false));
        let attack = async {
            let seen = attack(service.listen).await;
            over.store(true, Ordering::Relaxed);
            seen
        };
        let newcomers = async {
            let mut comers = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let (took, socket) = welcome(service.listen).await;
                drop(socket);
                comers.push(took);
                most.fetch_max(service.memory() as usize, Ordering::Relaxed);
                tokio::time::sleep(COMERS).await;
            }
            comers
        };
        let (seen, comers) = tokio::join!(attack, newcomers);
        struck.send_replace(true);
        (seen, comers, begun.elapsed())
    };
    let healthy = async {
        match held_to_times {
            true => canaries(&service, Some(strikes)).await,
            false => seen_canaries(&service, Some(strikes)).await,
        }
    };
    let ((seen, mut comers, lasted), receipts) = tokio::join!(attacked, healthy);
    let begun = Instant::now();
    let held = at_rest(&service, Some(&rest), back).await;
    let took = begun.elapsed();
    comers.sort();
    let (middle, last) = (comers[comers.len() / 2], comers[comers.len() - 1]);
    println!(
        "{name}: {lasted:.1?}, {receipts} segments of canaries exact; {} came meanwhile, median {middle:.1?}, last {last:.1?}; \
         memory {} to {} MB, then {} MB; back after {took:.1?}",
        comers.len(),
        rest.memory >> 20,
        most.load(Ordering::Relaxed) >> 20,
        held.memory >> 20,
    );
    assert!(!held_to_times || middle < WELCOME, "{middle:?}");
    let after = counters(&service);
    let watch = Watch { service, comers: comers.len(), before, after };
    let outcome = |outcome: &str| {
        watch.rise(&format!("segmill_segments_total{{op=\"stream\",origin=\"client\",outcome=\"{outcome}\"}}"))
    };
    assert_eq!([outcome("degraded"), outcome("failed")], [0, 0]);
    assert_eq!(watch.service.get_ops("/health/ready").0, 200);
    assert!(watch.rises("segmill_worker_restarts_total").is_empty());
    (watch, seen)
}

/// Whoever comes gets a session: how long until `ready`.
async fn welcome(to: SocketAddr) -> (Duration, Socket) {
    let begun = Instant::now();
    let mut socket = client::connect(to).await;
    let ready = socket.next().await.expect("it is let in").expect("it is let in");
    assert!(ready.to_text().is_ok_and(|text| text.starts_with("{\"type\":\"ready\"")), "{ready:?}");
    (begun.elapsed(), socket)
}

/// All attackers at once, of which a few at a time connect: until they drop what they are given.
async fn all<T>(count: usize, attacker: impl AsyncFn(usize, OwnedSemaphorePermit) -> T) -> Vec<T> {
    let abreast = Arc::new(Semaphore::new((count / 60).max(4)));
    let one = async |n| attacker(n, abreast.clone().acquire_owned().await.expect("it is never closed")).await;
    join_all((0..count).map(one)).await
}

/// Sends bytes one at a time until the service ends the connection; what it said until then.
async fn byte_by_byte(mut stream: TcpStream, bytes: impl Iterator<Item = u8>) -> Vec<u8> {
    let (mut reading, mut writing) = stream.split();
    let sending = async {
        for byte in bytes {
            if writing.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(BYTE).await;
        }
        std::future::pending::<()>().await
    };
    let mut said = Vec::new();
    tokio::select! {
        // The end of the stream, or a reset.
        _ = reading.read_to_end(&mut said) => {}
        () = sending => unreachable!("it never ends"),
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_never_end() {
    let (count, long) = attackers();
    let flags: &[&str] = if long { &[] } else { &["--header-timeout", "1s"] };
    let attack = async |to| {
        all(count, async |_, connecting| {
            let stream = TcpStream::connect(to).await.expect("the port is open");
            drop(connecting);
            byte_by_byte(stream, b"GET /v1/capabilities HTTP/1.1\r\nX: ".iter().copied().chain(std::iter::repeat(b'x')))
                .await
        })
        .await
    };
    let (watch, said) = beside("headers that never end", flags, attack).await;
    assert!(said.iter().all(Vec::is_empty));
    assert_eq!(watch.rises("segmill_connections_cut_total"), of([("header_timeout", count)]));
    assert_eq!(watch.errors(), of([("client_gone", watch.comers)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_headers_that_never_end_than_there_are_places() {
    let (count, long) = attackers();
    let places = (count / 2).to_string();
    let mut flags = vec!["--max-connections", &places];
    flags.extend(if long { &[][..] } else { &["--header-timeout", "1s"] });
    let attack = async |to| {
        all(count, async |_, connecting| {
            let stream = TcpStream::connect(to).await.expect("the port is open");
            drop(connecting);
            byte_by_byte(stream, std::iter::repeat(b'G')).await
        })
        .await
    };
    let (watch, _) = beside("more of them than places", &flags, attack).await;
    let cut = watch.rises("segmill_connections_cut_total");
    println!("  {cut:?}");
    assert!(cut["crowded_out"] >= count / 2);
    assert_eq!(cut.values().sum::<usize>(), count, "each once");
}

/// Upgraded, with the answer read up to its end, and no byte more.
async fn upgraded(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    // The least that there is: what is not read waits at the service.
    socket.set_recv_buffer_size(4096).expect("an option");
    let mut stream = socket.connect(to).await.expect("the port is open");
    stream.write_all(format!("{UPGRADE}\r\n").as_bytes()).await.expect("it is read");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("an answer"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

/// Whether the service has closed with this code, after an error that says the same, by what it sent.
fn closed_with(said: &[u8], code: u16, reason: &str) -> bool {
    let close = [&[0x80 | CLOSE, 2 + reason.len() as u8][..], &code.to_be_bytes(), reason.as_bytes()].concat();
    said.ends_with(&close)
}

/// No session's place and no part of the capacity is short but where the attack is about that.
const ROOM: [&str; 4] = ["--capacity-cores", "256", "--hold-window", "100ms"];

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_that_never_end() {
    let (count, long) = attackers();
    let sessions = (count + 64).to_string();
    let mut flags = [&ROOM[..], &["--max-sessions", &sessions]].concat();
    flags.extend(if long { &[][..] } else { &["--header-timeout", "1s", "--start-timeout", "1s"] });
    let attack = async |to| {
        all(count, async |n, connecting| {
            if n % 2 == 0 {
                // The last line never comes.
                let mut stream = TcpStream::connect(to).await.expect("the port is open");
                stream.write_all(UPGRADE.as_bytes()).await.expect("it is read");
                drop(connecting);
                let mut said = Vec::new();
                let _ = stream.read_to_end(&mut said).await;
                return said.is_empty();
            }
            // The upgrade is granted, and `start` never comes.
            let mut stream = upgraded(to).await;
            drop(connecting);
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said).await;
            closed_with(&said, 4408, "start_timeout")
        })
        .await
    };
    let (watch, right) = beside("upgrades that never end", &flags, attack).await;
    assert!(right.iter().all(|right| *right));
    let (even, odd) = (count.div_ceil(2), count / 2);
    assert_eq!(watch.rises("segmill_connections_cut_total"), of([("header_timeout", even)]));
    assert_eq!(watch.errors(), of([("start_timeout", odd), ("client_gone", watch.comers)]));
    assert_eq!(watch.rises("segmill_sessions_rejected_total"), of([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn more_sessions_without_a_word_than_there_are_places() {
    let (count, long) = attackers();
    let places = (count / 2).to_string();
    let mut flags = [&ROOM[..], &["--max-sessions", &places]].concat();
    flags.extend(if long { &[][..] } else { &["--start-timeout", "1s"] });
    let attack = async |to| {
        all(count, async |_, connecting| {
            let mut stream = upgraded(to).await;
            drop(connecting);
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said).await;
            [closed_with(&said, 4408, "start_timeout"), closed_with(&said, 1013, "full")]
        })
        .await
    };
    let (watch, ends) = beside("more sessions than places", &flags, attack).await;
    let ended = |how: usize| ends.iter().filter(|end| end[how]).count();
    let (late, crowded_out) = (ended(0), ended(1));
    println!("  {late} had no start in time, {crowded_out} made room");
    assert_eq!(late + crowded_out, count, "each is told");
    assert!(crowded_out >= count / 2);
    let errors = watch.errors();
    assert_eq!(errors["start_timeout"], late);
    // Of those who came and left one may have been crowded out before that was seen.
    let others = errors["full"] - crowded_out + errors.get("client_gone").copied().unwrap_or(0);
    assert_eq!(others, watch.comers, "{errors:?}");
    assert_eq!(watch.rises("segmill_sessions_rejected_total"), of([("crowded_out", errors["full"])]));
}

#[tokio::test(flavor = "multi_thread")]
async fn senders_of_a_byte_now_and_then() {
    let (count, long) = attackers();
    let sessions = (count + 64).to_string();
    let mut flags = [&ROOM[..], &["--max-sessions", &sessions]].concat();
    flags.extend(if long { &["--rate-window", "10s"] } else { &["--rate-window", "2s"] });
    let attack = async |to| {
        all(count, async |n, connecting| {
            let mut stream = upgraded(to).await;
            stream.write_all(&Frame::new(TEXT, br#"{"type":"start"}"#).bytes()).await.expect("it is read");
            drop(connecting);
            let trickle: Vec<u8> = match n % 2 {
                // Of one message, of which most never comes; or message by message.
                0 => Frame::new(BINARY, vec![0; 1 << 19]).bytes(),
                _ => Frame::new(BINARY, [0, 0]).bytes().repeat(1000),
            };
            closed_with(&byte_by_byte(stream, trickle.into_iter()).await, 4408, "too_slow")
        })
        .await
    };
    let (watch, right) = beside("senders of a byte now and then", &flags, attack).await;
    assert!(right.iter().all(|right| *right), "{}", right.iter().filter(|right| **right).count());
    assert_eq!(watch.errors(), of([("too_slow", count), ("client_gone", watch.comers)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_never_read() {
    let (count, long) = attackers();
    let sessions = (count + 64).to_string();
    let mut flags = [&ROOM[..], &["--max-sessions", &sessions]].concat();
    flags.extend(if long { &["--write-timeout", "10s"] } else { &["--write-timeout", "1s"] });
    if long {
        flags.extend(["--close-timeout", "1s"]);
    }
    let clip = Clip { gop: 15, audio: None, ..Clip::default() }.bytes();
    let outputs: Vec<_> = (0..8).map(|n| json!({"name": format!("c{n}"), "video": {"codec": "copy"}})).collect();
    let start = json!({"type": "start", "segment_ms": 500, "outputs": outputs}).to_string();
    // Eight copies of two clips: more than what the system holds of it.
    let sent = [
        Frame::new(TEXT, start).bytes(),
        Frame::new(BINARY, [&[0], &clip[..]].concat()).bytes(),
        Frame::new(BINARY, [&[0], &clip[..]].concat()).bytes(),
    ]
    .concat();
    let attack = async |to| {
        all(count, async |_, connecting| {
            let mut stream = upgraded(to).await;
            let _ = stream.write_all(&sent).await;
            drop(connecting);
            // Not a byte is read until the service has closed the connection: then writing fails.
            let ping = Frame::new(PING, b"").bytes();
            loop {
                tokio::time::sleep(BYTE).await;
                if stream.write_all(&ping).await.is_err() {
                    break;
                }
            }
        })
        .await
    };
    let (watch, _) = beside("readers that never read", &flags, attack).await;
    assert_eq!(watch.errors(), of([("slow_client", count), ("client_gone", watch.comers)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_by_the_thousand() {
    // Each takes its pongs in turn; a hundred in a second are answered.
    let (count, _) = attackers();
    let (floods, pings) = ((count / 20).max(4), if count < 1000 { 300 } else { 1000 });
    let clip = Clip { gop: 15, frames: 120, ..Clip::default() };
    let bytes = clip.bytes();
    let attack = async |to| {
        let flood = |n: usize| {
            let bytes = bytes.clone();
            tokio::task::spawn_blocking(move || {
                let mut raw = Raw::upgraded(to);
                let start = json!({"type": "start", "segment_ms": 500, "outputs": verify::outputs(&["h264@90"])});
                raw.send(&Frame::new(TEXT, start.to_string()));
                let mut writing = raw.both();
                let sending = std::thread::spawn(move || {
                    // Two of them stream meanwhile, more than is made at once.
                    let pieces: Vec<&[u8]> = if n < 2 { bytes.chunks(bytes.len() / 50).collect() } else { vec![] };
                    let mut pieces = pieces.into_iter();
                    for ping in 0..pings {
                        assert!(writing.send(&Frame::new(PING, format!("{ping}"))), "all is taken");
                        if let Some(piece) = pieces.next() {
                            writing.send(&Frame::new(BINARY, [&[0], piece].concat()));
                        }
                    }
                    for piece in pieces {
                        writing.send(&Frame::new(BINARY, [&[0], piece].concat()));
                    }
                    writing.send(&Frame::new(TEXT, br#"{"type":"finish","channel":0}"#));
                });
                let ended = raw.session();
                sending.join().expect("sending does not panic");
                ended
            })
        };
        join_all((0..floods).map(flood)).await
    };
    let room = (floods + 64).to_string();
    let flags = [&ROOM[..], &["--max-sessions", &room]].concat();
    let (watch, ends) = beside("pings by the thousand", &flags, attack).await;
    let mut all = 0;
    for (n, end) in ends.into_iter().enumerate() {
        let (session, pongs) = end.expect("reading does not panic");
        assert_eq!(pongs, pings, "each has its pong");
        all += pongs;
        match n {
            0 | 1 => verify::session(&clip, &["h264@90"], &session),
            _ => assert_eq!(session.close, Some((4422, "truncated_input".to_owned()))),
        }
    }
    println!("  {all} pings");
    assert_eq!(watch.errors(), of([("truncated_input", floods - 2), ("client_gone", watch.comers)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_break_the_rules() {
    let (count, _) = attackers();
    let (bad, big) = (("bad_message", 4400), ("message_too_big", 1009));
    let text = || Frame::new(TEXT, br#"{"type":"ack","seq":1}"#);
    let two_mib = || Frame::new(BINARY, vec![0; 2 << 20]);
    let part = |frame: Frame| frame.part().bytes();
    let half = || vec![0; 600 << 10];
    let kinds: Vec<(Vec<u8>, (&str, u16))> = vec![
        // Of a frame that is too large only the header is needed.
        (two_mib().bytes()[..14].to_vec(), big),
        ([part(Frame::new(BINARY, half())), part(Frame::new(CONTINUATION, half()))].concat(), big),
        (text().unmasked().bytes(), bad),
        (Frame::new(PING, b"").unmasked().bytes(), bad),
        (Frame::new(TEXT, b"\xff\xfe").bytes(), bad),
        (Frame::new(TEXT, b"\xf0\x9f").bytes(), bad),
        (Frame::new(3, b"").bytes(), bad),
        (Frame::new(11, b"").bytes(), bad),
        (text().reserved(4).bytes(), bad),
        (part(Frame::new(PING, b"")), bad),
        (Frame::new(PING, [0; 126]).bytes(), bad),
        (Frame::new(CONTINUATION, b"").bytes(), bad),
        ([part(text()), text().bytes()].concat(), bad),
        (Frame::new(CLOSE, b"x").bytes(), bad),
    ];
    let kinds = Arc::new(kinds);
    let next = Arc::new(AtomicUsize::new(0));
    let attack = async |to| {
        let one = |_| {
            let (kinds, next) = (kinds.clone(), next.clone());
            tokio::task::spawn_blocking(move || {
                while let Some(n) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < count) {
                    let (bytes, (code, close)) = &kinds[n % kinds.len()];
                    let mut raw = Raw::upgraded(to);
                    raw.send(&Frame::new(TEXT, br#"{"type":"start"}"#));
                    raw.write(bytes);
                    let ending = raw.rest();
                    assert_eq!(
                        (ending.error.as_deref(), ending.close),
                        (Some(*code), Some(*close)),
                        "kind {}",
                        n % kinds.len()
                    );
                }
            })
        };
        join_all((0..ABREAST).map(one)).await
    };
    let room = (ABREAST + 64).to_string();
    let flags = [&ROOM[..], &["--max-sessions", &room]].concat();
    let (watch, ends) = beside("frames that break the rules", &flags, attack).await;
    ends.into_iter().for_each(|end| end.expect("each is told what it did"));
    let expected = |code: &str| (0..count).filter(|n| kinds[n % kinds.len()].1.0 == code).count();
    let told = ["bad_message", "message_too_big"].map(|code| (code, expected(code)));
    assert_eq!(watch.errors(), of([told[0], told[1], ("client_gone", watch.comers)]));
}
