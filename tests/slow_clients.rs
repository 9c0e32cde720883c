//! Clients that are slow, silent or too many, one kind at a time, against the real binary: what each is told, and what it
//! costs. Thousands at once are in `tests/chaos_clients.rs`.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::support::client::{self, Session};
use crate::support::media::{self, Clip, Shape};
use crate::support::raw::{BINARY, CLOSE, Frame, PING, PONG, Raw, TEXT, UPGRADE};
use crate::support::service::{self, Service};
use crate::support::verify;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

/// A service that doesn't come to it is a fault of its own.
const STUCK: Duration = Duration::from_secs(120);

fn until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < STUCK, "never: {what}");
        std::thread::yield_now();
    }
}

fn errors(service: &Service, code: &str) -> f64 {
    service.metric(&format!("segmill_segment_errors_total{{code=\"{code}\"}}")).unwrap_or(0.0)
}

fn rejected(service: &Service, reason: &str) -> f64 {
    service.metric(&format!("segmill_sessions_rejected_total{{reason=\"{reason}\"}}")).unwrap_or(0.0)
}

fn start(outputs: &Value) -> Frame {
    Frame::new(TEXT, json!({"type": "start", "segment_ms": 500, "outputs": outputs}).to_string())
}

fn programme(bytes: &[u8]) -> Frame {
    Frame::new(BINARY, [&[0], bytes].concat())
}

fn finish() -> Frame {
    Frame::new(TEXT, br#"{"type":"finish","channel":0}"#)
}

#[test]
fn a_client_that_does_not_read_finds_why_it_was_closed_when_it_does() {
    let service = Service::start(&["--workers", "1", "--write-timeout", "1s", "--close-timeout", "60s"]);
    let clip = Clip { gop: 15, frames: 240, width: 640, height: 360, ..Clip::default() }.bytes();
    let outputs: Vec<Value> = (0..16).map(|n| json!({"name": format!("c{n}"), "video": {"codec": "copy"}})).collect();
    let mut raw = Raw::upgraded(service.listen);
    raw.send(&start(&json!(outputs)));
    let mut writing = raw.both();
    // The same recording again and again, for as long as it is taken.
    let sending = std::thread::spawn(move || {
        clip.chunks(100_000).cycle().take(4_000).take_while(|piece| writing.send(&programme(piece))).count()
    });
    until("it is given up", || errors(&service, "slow_client") == 1.0);
    let (session, _) = raw.session();
    assert_eq!(session.close, Some((4408, "slow_client".to_owned())));
    assert!(session.errors.is_empty() && !session.outputs.is_empty());
    drop(raw);
    sending.join().expect("sending does not panic");
    until("its place is free", || service.metric("segmill_sessions") == Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_too_little_is_told_so() {
    let service = Service::start(&["--workers", "1", "--rate-window", "1s", "--min-rate", "1KiB"]);
    let (mut sink, mut stream) = client::connect(service.listen).await.split();
    let trickling = tokio::spawn(async move {
        let mut message = Message::text(json!({"type": "start"}).to_string());
        let mut tick = tokio::time::interval(Duration::from_millis(50));
        while sink.send(message).await.is_ok() {
            tick.tick().await;
            message = Message::binary(vec![0, 0]);
        }
    });
    let mut session = Session::default();
    while let Some(Ok(message)) = stream.next().await {
        session.take(message);
    }
    assert_eq!((session.close.clone(), session.error_codes()), (Some((4408, "too_slow".into())), vec!["too_slow"]));
    assert_eq!(errors(&service, "too_slow"), 1.0);
    drop(stream);
    trickling.await.expect("sending does not panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_answers_no_ping_is_closed_and_who_does_goes_on() {
    let service = Service::start(&["--workers", "1", "--ping-interval", "500ms", "--pong-timeout", "1s"]);
    let (mut sink, mut stream) = client::connect(service.listen).await.split();
    sink.send(Message::text(json!({"type": "start"}).to_string())).await.expect("the service reads");
    let answering = tokio::spawn(async move {
        let mut session = Session::default();
        while let Some(Ok(message)) = stream.next().await {
            session.take(message);
        }
        session
    });
    let to = service.listen;
    let silent = tokio::task::spawn_blocking(move || {
        let mut raw = Raw::upgraded(to);
        raw.send(&Frame::new(TEXT, br#"{"type":"start"}"#));
        let mut frames = Vec::new();
        while let Some((opcode, payload)) = raw.frame() {
            frames.push(opcode);
            if opcode == CLOSE {
                assert_eq!(payload, [&4408u16.to_be_bytes()[..], b"ping_timeout"].concat());
                raw.send(&Frame::close(4408, b""));
            }
        }
        frames
    });
    let frames = silent.await.expect("reading does not panic");
    let (close, pings) = frames.split_last().expect("frames");
    assert!(*close == CLOSE && !pings.is_empty() && pings.iter().all(|opcode| *opcode == PING), "{frames:?}");
    assert_eq!(errors(&service, "ping_timeout"), 1.0);
    assert!(!answering.is_finished(), "it answered as many");
    sink.send(Message::text(json!({"type": "finish", "channel": 0}).to_string())).await.expect("the service reads");
    let session = answering.await.expect("reading does not panic");
    assert_eq!((session.close_code(), session.error_codes()), (4422, vec!["truncated_input"]));
}

#[test]
fn a_session_that_waits_for_a_worker_answers_pings() {
    let flags = ["--workers", "1", "--segments-in-flight", "2", "--worker-progress-timeout", "10m"];
    let service = Service::start(&flags);
    until("the worker is there", || service.metric("segmill_workers{state=\"idle\"}") == Some(1.0));
    let workers = service.workers();
    workers.iter().for_each(|&pid| service::signal(pid, "STOP"));
    let (clip, outputs) = (Clip { gop: 15, frames: 120, ..Clip::default() }, ["h264@90"]);
    let bytes = clip.bytes();
    let mut raw = Raw::upgraded(service.listen);
    raw.send(&start(&verify::outputs(&outputs)));
    let pieces: Vec<&[u8]> = bytes.chunks(bytes.len() / 30).collect();
    pieces.iter().for_each(|piece| assert!(raw.send(&programme(piece))));
    // No more than that is taken of the stream: the session is held back.
    until("all places are taken", || service.metric("segmill_segments_in_flight") == Some(2.0));
    for n in 0..150 {
        let payload = format!("ping {n}");
        raw.send(&Frame::new(PING, payload.as_bytes()));
        loop {
            let (opcode, answer) = raw.frame().expect("the session is open");
            if opcode == PONG {
                assert_eq!(answer, payload.as_bytes());
                break;
            }
        }
    }
    assert_eq!(service.metric("segmill_segments_in_flight"), Some(2.0), "it still waits");
    workers.iter().for_each(|&pid| service::signal(pid, "CONT"));
    raw.send(&finish());
    let (session, _) = raw.session();
    verify::session(&clip, &outputs, &session);
}

/// What comes back until the end of the stream.
fn answer(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn bodies_that_come_too_slowly_or_stop_are_answered_408_and_headers_are_cut_off() {
    let service = Service::start(&[
        "--workers",
        "1",
        "--header-timeout",
        "500ms",
        "--idle-timeout",
        "3s",
        "--rate-window",
        "1s",
        "--min-rate",
        "1KiB",
    ]);
    let connected = || {
        let stream = TcpStream::connect(service.listen).expect("the port is open");
        stream.set_read_timeout(Some(STUCK)).expect("an option");
        stream
    };
    let request =
        |path: &str| format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999\r\n");
    for path in ["/v1/transcode", "/v1/segments"] {
        let mut stream = connected();
        stream.write_all(format!("{}\r\n", request(path)).as_bytes()).expect("it is read");
        let mut trickling = stream.try_clone().expect("a socket can be cloned");
        let (over, is_over) = mpsc::channel::<()>();
        let sending = std::thread::spawn(move || {
            let pause = || is_over.recv_timeout(Duration::from_millis(50)) == Err(mpsc::RecvTimeoutError::Timeout);
            while trickling.write_all(b"x").is_ok() && pause() {}
        });
        let told = answer(&mut stream);
        assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("\"too_slow\""), "{path}: {told}");
        drop(over);
        sending.join().expect("sending does not panic");
    }
    let mut stream = connected();
    stream.write_all(request("/v1/transcode").as_bytes()).expect("it is read");
    assert_eq!(answer(&mut stream), "", "a header that is not whole has no answer");
    assert_eq!(service.metric("segmill_connections_cut_total{reason=\"header_timeout\"}"), Some(1.0));
    until("all places are free", || service.metric("segmill_sessions") == Some(0.0));

    let service = Service::start(&["--workers", "1", "--idle-timeout", "1s"]);
    for path in ["/v1/transcode", "/v1/segments"] {
        let mut stream = TcpStream::connect(service.listen).expect("the port is open");
        stream.write_all(format!("{}\r\nbegun", request(path)).as_bytes()).expect("it is read");
        let told = answer(&mut stream);
        assert!(told.starts_with("HTTP/1.1 408 ") && told.contains("\"idle_timeout\""), "{path}: {told}");
    }
}

#[test]
fn an_upgrade_behind_answers_that_nobody_reads_never_begins() {
    let service = Service::start(&["--workers", "1", "--write-timeout", "1s"]);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    // The least that there is: what is not read waits at the service.
    socket.set_recv_buffer_size(4096).expect("an option");
    socket.connect(&service.listen.into()).expect("the port is open");
    let mut stream = TcpStream::from(socket);
    let answers = "GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(8);
    stream.write_all(format!("{answers}{UPGRADE}\r\n").as_bytes()).expect("it is read");
    let cut = "segmill_connections_cut_total{reason=\"slow_client\"}";
    until("it is cut off", || service.metric(cut) == Some(1.0));
    assert_eq!(service.metric("segmill_sessions"), Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_places_are_taken_a_session_that_has_not_said_what_it_wants_makes_room() {
    let service = Service::start(&["--workers", "1", "--max-sessions", "2"]);
    let clip = Clip { gop: 15, audio: None, ..Clip::default() };
    let served = async || {
        let start = json!({"segment_ms": 500, "outputs": verify::outputs(&["h264@90"])});
        let session = client::stream(service.listen, start, clip.bytes(), 20_000).await;
        assert_eq!((session.close_code(), session.error_codes()), (1000, vec![]));
        let pictures = media::decode_barcodes(&session.outputs[&verify::name(0)].whole());
        assert!(pictures.iter().map(|(_, number)| *number).eq(0..clip.frames));
    };
    let ended = async |mut socket: client::Socket| {
        let mut session = Session::default();
        while let Some(Ok(message)) = socket.next().await {
            session.take(message);
        }
        assert_eq!((session.close, session.errors.len()), (Some((1013, "full".to_owned())), 1));
        assert_eq!((&session.errors[0]["code"], &session.errors[0]["retryable"]), (&json!("full"), &json!(true)));
    };
    // Nothing said; and a start without media.
    let silent = client::connect(service.listen).await;
    let mut started = client::connect(service.listen).await;
    started.send(Message::text(json!({"type": "start"}).to_string())).await.expect("the service reads");
    served().await;
    ended(silent).await;
    assert_eq!((rejected(&service, "crowded_out"), service.get_ops("/health/ready").0), (1.0, 200));
    // Over HTTP it is the same: the body of this one doesn't come.
    let mut upload = TcpStream::connect(service.listen).expect("the port is open");
    let request = "POST /v1/transcode HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 99999\r\n\r\n";
    upload.write_all(request.as_bytes()).expect("it is read");
    until("both places are taken", || service.metric("segmill_sessions") == Some(2.0));
    served().await;
    ended(started).await;
    let held = client::connect(service.listen).await;
    until("both places are taken", || service.metric("segmill_sessions") == Some(2.0));
    served().await;
    let told = tokio::task::spawn_blocking(move || answer(&mut upload)).await.expect("reading does not panic");
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("\"full\"") && told.contains("retry-after"), "{told}");
    drop(held);
    until("all places are free", || service.metric("segmill_sessions") == Some(0.0));
    assert_eq!(rejected(&service, "crowded_out"), 3.0);
    // One that sends much keeps its place, though what it wants is known only at its end.
    let last = Clip { shape: Shape::Mp4, frames: 240, width: 640, height: 360, ..Clip::default() }.bytes();
    let most = last.len() * 3 / 4;
    assert!(most > 100_000, "{most}");
    for _ in 0..2 {
        let mut upload = TcpStream::connect(service.listen).expect("the port is open");
        let head = request.replace("99999", &last.len().to_string());
        upload.write_all(&[head.as_bytes(), &last[..most]].concat()).expect("it is read");
        std::mem::drop(std::thread::spawn(move || answer(&mut upload)));
    }
    until("most of it has come", || {
        service.metric("segmill_scratch_bytes").is_some_and(|bytes| bytes >= 2.0 * (most as f64 - 65_536.0))
    });
    let (status, _, _) = service.http("POST", "/v1/transcode", &[], b"");
    assert_eq!((status, rejected(&service, "full"), rejected(&service, "crowded_out")), (503, 1.0, 3.0));
}

/// The number that the next file would have that the service opens.
fn next_descriptor(service: &Service) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", service.pid())).expect("the service is running");
    let open: Vec<String> = open.flatten().filter_map(|file| file.file_name().into_string().ok()).collect();
    (0..).find(|number| !open.contains(&number.to_string())).expect("there is always one")
}

/// From now on only files below this number can be opened.
fn limit_descriptors(service: &Service, most: usize) {
    let set = std::process::Command::new("prlimit")
        .args(["--pid", &service.pid().to_string(), &format!("--nofile={most}:")])
        .status();
    assert!(set.expect("prlimit is installed").success());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_it_waits_counts_and_goes_on_when_there_are_some() {
    let service = Service::start(&["--workers", "1", "--start-timeout", "60s", "--capacity-cores", "64"]);
    // The ops port is not asked: its connections would still be about to end.
    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(client::connect(service.listen).await);
    }
    let next = next_descriptor(&service);
    let request = b"GET /v1/capabilities HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    // The last is taken: whoever has it is not sent off while nobody else comes.
    limit_descriptors(&service, next + 1);
    let mut last = TcpStream::connect(service.listen).expect("the port is open");
    until("it has the last", || next_descriptor(&service) > next);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        tokio::task::yield_now().await;
    }
    last.write_all(request).expect("it is read");
    assert!(answer(&mut last).starts_with("HTTP/1.1 200"));
    drop(last);
    until("it is free", || next_descriptor(&service) == next);
    limit_descriptors(&service, next);
    let (begun, busy) = (Instant::now(), service.processor_time());
    let clip = Clip { gop: 15, ..Clip::default() };
    let outputs = ["copy", "h264@90+aac"];
    let start = json!({"segment_ms": 500, "outputs": verify::outputs(&outputs)});
    let waiting = tokio::spawn(client::stream(service.listen, start, clip.bytes(), 20_000));
    until("it says so", || service.log().contains("accept failed"));
    // For a while, so that spinning would show.
    while begun.elapsed() < Duration::from_secs(2) {
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished() && Path::new(&format!("/proc/{}", service.pid())).exists());
    }
    let (busy, wall) = (service.processor_time() - busy, begun.elapsed());
    assert!(busy < wall / 4, "{busy:?} of {wall:?}");
    // Sessions that go leave their descriptors to those that come.
    drop(open);
    verify::session(&clip, &outputs, &waiting.await.expect("streaming does not panic"));
    let failures = service.metric("segmill_accept_failures_total").expect("a counter");
    let most = begun.elapsed().as_secs_f64() / 0.2 + 1.0;
    assert!(failures >= 1.0 && failures <= most, "{failures} in {:?}", begun.elapsed());
    assert_eq!(service.log().matches("accept failed").count(), 1, "once in ten seconds is enough");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_few_files_may_be_open_clients_share_what_there_is_and_the_rest_goes_on() {
    let service =
        Service::with_descriptors(120, &["--workers", "1", "--start-timeout", "60s", "--capacity-cores", "64"]);
    assert!(service.log().contains("few files may be open"));
    let to = service.listen;
    // Connections without a request, and sessions without a word: more of both than there are descriptors.
    let idle: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(to).expect("the port is open")).collect();
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(client::connect(to).await);
        assert!(service.descriptors() <= 120);
    }
    assert_eq!(service.get_ops("/health/live").0, 200);
    let clip = Clip { gop: 15, audio: None, ..Clip::default() };
    let start = json!({"segment_ms": 500, "outputs": verify::outputs(&["h264@90"])});
    let session = client::stream(to, start, clip.bytes(), 20_000).await;
    verify::session(&clip, &["h264@90"], &session);
    assert_eq!(service.metric("segmill_accept_failures_total"), Some(0.0), "it never came to that");
    assert!(rejected(&service, "crowded_out") > 0.0);
    drop((idle, silent));
}

/// Pages and bytes that the kernel has for sockets and other small things, of all processes.
fn kernel_memory() -> u64 {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let number = |text: &str, before: &str| {
        let rest = text.split_once(before).map(|(_, rest)| rest).unwrap_or_default();
        rest.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default()
    };
    let sockets =
        read("/proc/net/sockstat").lines().find(|line| line.starts_with("TCP:")).map(|line| number(line, " mem "));
    (number(&read("/proc/meminfo"), "Slab:") << 10) + (sockets.unwrap_or_default() << 12)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_sessions_take_less_than_64_kib_each() {
    const MANY: usize = 1000;
    let flags = ["--workers", "1", "--max-sessions", "2000", "--capacity-cores", "256", "--hold-window", "100ms"];
    let service = Service::start(&flags);
    let idle = async |count: usize| {
        let mut sockets = Vec::new();
        for _ in 0..count {
            let mut socket = client::connect(service.listen).await;
            let ready = socket.next().await.expect("an open socket").expect("an open socket");
            assert!(ready.is_text());
            socket.send(Message::text(json!({"type": "start"}).to_string())).await.expect("the service reads");
            sockets.push(socket);
        }
        until("all are there", || service.metric("segmill_sessions") == Some(count as f64));
        sockets
    };
    // All code has run once.
    drop(idle(20).await);
    until("all have gone", || service.metric("segmill_sessions") == Some(0.0));
    let (before, kernel) = (service.memory(), kernel_memory());
    let sockets = idle(MANY).await;
    let each = service.memory().saturating_sub(before) / MANY as u64;
    let kernel = kernel_memory().saturating_sub(kernel) / MANY as u64;
    println!("an idle session: {each} bytes of the process; {kernel} of the kernel, both ends together");
    assert!(each < 64 << 10, "{each}");
    drop(sockets);
}
