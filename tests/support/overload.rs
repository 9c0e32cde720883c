//! Three times as many live clients as there is capacity for, each at the pace of its media, and what becomes of them.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::client::Session;
use super::service::Service;

pub struct Run<'a> {
    pub flags: &'a [&'a str],
    /// Of the pictures, as ffmpeg says it.
    pub size: &'a str,
    /// Of media, and so of time, of each client.
    pub seconds: u32,
    pub segment_ms: u32,
    /// How long after its end a segment is wanted.
    pub deadline_ms: u32,
    pub sessions: usize,
    /// The service has one processor to itself, as far as the clients go; they have the others.
    pub apart: bool,
}

/// What became of a client.
#[derive(Debug)]
pub enum End {
    /// Before the upgrade: 503, with seconds in `Retry-After`.
    Refused(u64),
    /// Once it had said what it wants.
    TurnedAway,
    Served(Box<Session>),
}

/// MPEG-TS with a sync sample each second.
pub fn media(size: &str, seconds: u32) -> Vec<u8> {
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", &format!("testsrc2=size={size}:rate=25:duration={seconds}")])
        .args("-c:v libx264 -preset ultrafast -crf 30 -g 25 -bf 0 -pix_fmt yuv420p -f mpegts pipe:1".split(' '))
        .output()
        .expect("ffmpeg is installed");
    assert!(made.status.success());
    made.stdout
}

fn start(run: &Run<'_>) -> Value {
    json!({"type": "start", "mode": "live", "segment_ms": run.segment_ms, "deadline_ms": run.deadline_ms, "outputs": [
        {"name": "v", "container": "ts", "video": {"codec": "h264"}}]})
}

/// Sends the media at its pace, an eighth of a second at a time, and reads until the close.
pub async fn client(service: std::net::SocketAddr, start: Value, media: Vec<u8>, seconds: u32) -> End {
    let mut request = format!("ws://{service}/v1/stream").into_client_request().expect("a URL");
    request.headers_mut().insert("sec-websocket-protocol", "segmill.v1".parse().expect("a header"));
    let socket = match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => socket,
        Err(Error::Http(response)) => {
            assert_eq!(response.status(), 503);
            let wait = response.headers().get("retry-after").and_then(|wait| wait.to_str().ok()?.parse().ok());
            return End::Refused(wait.expect("a 503 says when to come back"));
        }
        Err(error) => panic!("{error}"),
    };
    let (mut sink, mut stream) = socket.split();
    let pieces = (seconds * 8) as usize;
    let sending = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(125));
        sink.send(Message::text(start.to_string())).await?;
        for piece in media.chunks(media.len().div_ceil(pieces)) {
            pace.tick().await;
            sink.send(Message::binary([&[0], piece].concat())).await?;
        }
        sink.send(Message::text(json!({"type": "finish", "channel": 0}).to_string())).await?;
        Ok::<_, Error>(sink)
    });
    let mut session = Session::default();
    while let Some(Ok(message)) = stream.next().await {
        session.take(message);
    }
    // A client that was turned away could not send all.
    let sent = sending.await.expect("sending does not panic");
    match session.close_code() {
        1013 => {
            assert_eq!(session.error_codes(), ["full"]);
            assert_eq!((&session.errors[0]["fatal"], &session.errors[0]["retryable"]), (&json!(true), &json!(true)));
            assert!(session.receipts.is_empty(), "a session that was let in is not turned away later");
            End::TurnedAway
        }
        code => {
            assert_eq!(code, 1000, "{:?}", session.errors);
            let _ = sent.expect("a client that is served sends all");
            End::Served(Box::new(session))
        }
    }
}

fn outcomes(session: &Session) -> (usize, usize, usize) {
    let count = |outcome: &str| session.receipts.iter().filter(|receipt| receipt["outcome"] == outcome).count();
    (count("ok"), count("degraded"), count("failed"))
}

/// By what became of it: how many of these segments. None is late without a word.
pub fn said<'a>(receipts: impl IntoIterator<Item = &'a Value>, deadline_ms: u32) -> BTreeMap<String, usize> {
    let mut said = BTreeMap::new();
    for receipt in receipts {
        let is_late = receipt["latency_ms"].as_u64().expect("a number") > u64::from(deadline_ms);
        let lacks = receipt["degraded"].as_array().expect("a list");
        assert!(lacks.iter().all(|lack| lack["why"] == "late"), "{receipt}");
        let mut whats: Vec<&str> = lacks.iter().filter_map(|lack| lack["what"].as_str()).collect();
        match receipt["outcome"].as_str() {
            Some("failed") => {
                assert_eq!(receipt["error"]["code"], "late", "{receipt}");
                whats.push("failed");
            }
            Some("degraded") => {
                assert!(!lacks.is_empty() && (!is_late || whats.contains(&"delivered_late")), "{receipt}")
            }
            _ => {
                assert!(lacks.is_empty() && !is_late, "{receipt}");
                whats.push("ok");
            }
        }
        whats.sort_unstable();
        whats.dedup();
        *said.entry(whats.join("+")).or_default() += 1;
    }
    said
}

/// What the machine has to do besides, as the kernel tells it.
pub fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").expect("Linux");
    load.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// A service on the first processor alone; this process, and what it starts from now on, on the others.
pub fn apart(flags: &[&str]) -> Service {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let service = Service::on_processor(0, flags);
    if processors > 1 {
        let (others, own) = (format!("1-{}", processors - 1), std::process::id().to_string());
        let moved = Command::new("taskset").args(["-a", "-p", "-c", &others, &own]).output().expect("util-linux");
        assert!(moved.status.success());
    }
    service
}

/// Lets the clients come, half a segment apart in all, and holds the service to what it promises.
pub async fn run(run: &Run<'_>) {
    let before = load();
    let service = if run.apart { apart(run.flags) } else { Service::start(run.flags) };
    let clip = media(run.size, run.seconds);
    let capacity = service.metric("segmill_capacity_cores").expect("a gauge");
    let mut clients = Vec::new();
    for _ in 0..run.sessions {
        clients.push(tokio::spawn(client(service.listen, start(run), clip.clone(), run.seconds)));
    }
    let (mut most, mut was_full, begun) = (0.0_f64, false, Instant::now());
    while !clients.iter().all(|client| client.is_finished()) {
        most = most.max(service.metric("segmill_demand_cores").expect("a gauge"));
        let (status, body) = service.get_ops("/health/ready");
        was_full |= status == 503 && body.contains("\"full\"");
        // Where what is held for all who come is too much, and what they need is not, it is full for some milliseconds.
        let pause = if begun.elapsed() < Duration::from_secs(2) { 1 } else { 50 };
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    let over = Instant::now();
    let (mut refused, mut turned_away, mut served) = (Vec::new(), 0, Vec::new());
    for client in clients {
        match client.await.expect("a client does not panic") {
            End::Refused(wait) => refused.push(wait),
            End::TurnedAway => turned_away += 1,
            End::Served(session) => served.push(session),
        }
    }
    println!(
        "load {before}, then {}; capacity {capacity} cores, most demand {most:.2}; {} served, {turned_away} closed with 1013, 503 after {refused:?} s",
        load(),
        served.len()
    );
    assert!(was_full, "readiness says so");
    assert!(!served.is_empty() && refused.len() + turned_away > 0, "some, not all");
    assert!(refused.iter().all(|wait| (1..=60).contains(wait)));
    let rejected = ["full", "capacity"].map(|reason| {
        service.metric(&format!("segmill_sessions_rejected_total{{reason=\"{reason}\"}}")).unwrap_or(0.0)
    });
    assert_eq!(rejected.iter().sum::<f64>() as usize, refused.len() + turned_away, "each is counted once");
    for session in &served {
        let latencies = session.receipts.iter().filter_map(|receipt| receipt["latency_ms"].as_u64());
        println!("  {:?}; latency at most {:?} ms", said(&session.receipts, run.deadline_ms), latencies.max());
        let done = session.done.as_ref().expect("it came to its end");
        assert_eq!(done["segments"], session.receipts.len());
        assert_eq!(done["frames_in"], run.seconds * 25, "each picture is in one segment");
        assert_eq!(done["failed"], 0, "a source that can stand in does so in time");
    }
    // Back to normal.
    let recovered = || {
        service.get_ops("/health/ready").0 == 200
            && service.metric("segmill_queue_depth") == Some(0.0)
            && service.metric("segmill_segments_in_flight") == Some(0.0)
    };
    while !recovered() {
        assert!(over.elapsed() < Duration::from_secs(10), "it has not recovered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("recovered {:?} after the last client", over.elapsed());
    assert_eq!(service.metric("segmill_sessions"), Some(0.0));
    assert_eq!(service.metric("segmill_demand_cores"), Some(0.0));
    let normal = client(service.listen, start(run), media(run.size, 4), 4).await;
    let End::Served(session) = normal else { panic!("it is let in: {normal:?}") };
    println!("then, at a load of {}: {:?}", load(), said(&session.receipts, run.deadline_ms));
    if !run.apart {
        assert_eq!(outcomes(&session), (session.receipts.len(), 0, 0), "with all the time nothing is degraded");
    }
}
