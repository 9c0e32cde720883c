//! A service that stands still for longer than any of its limits, as one does that gets no processor: what came meanwhile is
//! read, and no client is blamed for the time. Of its workers that is in `tests/pool.rs`.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::client::{self, Session};
use crate::support::media::Clip;
use crate::support::raw::{BINARY, Frame, PING, PONG, Raw, TEXT};
use crate::support::service::{self, Service};
use crate::support::verify;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

/// Of the service below, and for how much longer it stands still.
const LIMIT: &str = "2s";
const STILL: Duration = Duration::from_secs(5);

/// Stops the service; `meanwhile` its clients do something.
#[expect(clippy::disallowed_methods, reason = "nothing is waited for: the service stands still for so long")]
fn stand_still<T>(service: &Service, meanwhile: impl FnOnce() -> T) -> T {
    service::signal(service.pid(), "STOP");
    let done = meanwhile();
    std::thread::sleep(STILL);
    service::signal(service.pid(), "CONT");
    done
}

/// A pong comes when all that was sent before has been read.
fn heard(raw: &mut Raw) {
    raw.send(&Frame::new(PING, b"heard"));
    while raw.frame().expect("the session is open").0 != PONG {}
}

#[test]
fn what_was_sent_meanwhile_is_not_too_little() {
    let limits = ["--rate-window", LIMIT, "--min-rate", "16KiB", "--idle-timeout", LIMIT];
    let service = Service::start(&[&["--workers", "1"], &limits[..]].concat());
    let clip = Clip { gop: 15, ..Clip::default() };
    let mut raw = Raw::upgraded(service.listen);
    let start = json!({"type": "start", "segment_ms": 500, "outputs": verify::outputs(&["h264@90"])});
    raw.send(&Frame::new(TEXT, start.to_string()));
    heard(&mut raw);
    let mut writing = raw.both();
    let sending = stand_still(&service, || {
        std::thread::spawn(move || {
            for piece in clip.bytes().chunks(500) {
                writing.send(&Frame::new(BINARY, [&[0], piece].concat()));
            }
            writing.send(&Frame::new(TEXT, br#"{"type":"finish","channel":0}"#));
            clip
        })
    });
    let (session, _) = raw.session();
    let clip = sending.join().expect("sending does not panic");
    verify::session(&clip, &["h264@90"], &session);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_sent_no_ping_is_not_blamed_for_its_silence() {
    let limits = ["--min-rate", "0", "--ping-interval", "1s", "--pong-timeout", "1s"];
    let service = Service::start(&[&["--workers", "1"], &limits[..]].concat());
    let (mut sink, mut stream) = client::connect(service.listen).await.split();
    sink.send(Message::text(json!({"type": "start"}).to_string())).await.expect("the service reads");
    let (said, mut says) = mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        let mut session = Session::default();
        while let Some(Ok(message)) = stream.next().await {
            let _ = said.send(message.clone());
            session.take(message);
        }
        session
    });
    while !says.recv().await.expect("the session is open").is_ping() {}
    // All that was sent before has been read when a pong comes.
    sink.send(Message::Ping("heard".into())).await.expect("the service reads");
    while !says.recv().await.expect("the session is open").is_pong() {}
    tokio::task::block_in_place(|| stand_still(&service, || ()));
    // Whatever is said from now on: one that came late is as good as any.
    while says.try_recv().is_ok() {}
    let next = says.recv().await;
    assert!(next.as_ref().is_some_and(Message::is_ping), "{next:?}");
    sink.send(Message::text(json!({"type": "finish", "channel": 0}).to_string())).await.expect("the service reads");
    let session = reading.await.expect("reading does not panic");
    assert_eq!((session.close_code(), session.error_codes()), (4422, vec!["truncated_input"]));
}

#[test]
fn headers_and_starts_that_came_meanwhile_are_in_time() {
    let limits = ["--header-timeout", LIMIT, "--start-timeout", LIMIT];
    let service = Service::start(&[&["--workers", "1"], &limits[..]].concat());
    let mut asking: Vec<_> = (0..16).map(|_| TcpStream::connect(service.listen).expect("the port is open")).collect();
    let head = b"GET /v1/capabilities HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    asking.iter_mut().for_each(|stream| stream.write_all(head).expect("it is read"));
    let mut starting = Raw::upgraded(service.listen);
    stand_still(&service, || {
        asking.iter_mut().for_each(|stream| stream.write_all(b"\r\n").expect("it waits to be read"));
        starting.send(&Frame::new(TEXT, br#"{"type":"start"}"#));
    });
    for stream in &mut asking {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    heard(&mut starting);
}
