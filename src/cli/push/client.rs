//! One session seen from the client: connects, sends, takes what comes, keeps it, acknowledges it; and goes on over
//! another connection where one ends early.
//!
//! Sending and receiving go side by side, so that a service that stops reading can still be heard. What the service may
//! send in which order is `order`'s to check.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::order::{Checked, Order, Violation};
use super::output::Output;
use super::source::{From, Pace, Source};
use super::token::Token;
use crate::protocol::{
    ClientMessage, Done, ErrorMessage, MoveReason, Resume, ResumeFrom, SUBPROTOCOL, ServerMessage, Start, decode_binary,
};
use crate::server::problem::Problem;

/// Largest message from the service: a segment of several seconds at a very high rate.
const MAX_MESSAGE: usize = 512 << 20;

/// How long nothing may go either way.
const SILENCE: Duration = Duration::from_secs(300);

/// How long the closing handshake may take.
const CLOSE: Duration = Duration::from_secs(1);

/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(20);

/// Why a session did not end with `done`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no connection to {url}: {reason}")]
    Connect { url: String, reason: String },
    #[error("the connection was lost: {0}")]
    Lost(String),
    #[error("the service does not let this client in: {reason}")]
    Denied { reason: String },
    #[error("the service has no room: {reason}")]
    Full { reason: String, retry_after: Duration },
    #[error("the service moves the session: {}", told(*.0))]
    Moved(MoveReason),
    #[error("{code}: {message}")]
    Refused { close: u16, code: String, message: String },
    #[error("the service broke the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("the input can't be read: {0}")]
    Input(io::Error),
    #[error("the output can't be written: {0}")]
    Output(io::Error),
}

fn told(reason: MoveReason) -> &'static str {
    match reason {
        MoveReason::Drain => "it is shutting down",
        MoveReason::SessionLimit => "it has lasted as long as one may",
        MoveReason::TokenExpired => "its token has expired",
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How often a lost connection is made anew.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Connections in a row that may fail without a receipt.
    pub tries: u32,
    /// The wait after the first of them; it doubles with each.
    pub first: Duration,
}

/// The longest wait between two connections, unless the service asks for more.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// The longest wait that a service may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(120);

/// Where sessions may go on, by turns, and what opens the door there.
#[derive(Debug, Clone, Copy)]
pub struct Services<'a> {
    pub urls: &'a [String],
    pub token: Option<&'a Token>,
}

/// What outlasts a connection.
struct Going<'a> {
    token: Option<&'a Token>,
    start: Start,
    order: Order,
    output: &'a mut Output,
    /// Where to begin on the next connection.
    from: From,
    next: watch::Sender<From>,
    delivered: watch::Sender<Duration>,
}

/// A whole session, over as many connections as it takes.
pub async fn run(
    Services { urls, token }: Services<'_>,
    start: Start,
    mut source: Source,
    real_time: bool,
    patience: Patience,
    output: &mut Output,
) -> Result<Done, Error> {
    let (delivered, played) = watch::channel(Duration::ZERO);
    let pace = if real_time { source.real_time(played) } else { Pace::Free };
    let next = watch::channel(From::default()).0;
    let mut going = Going { token, start, order: Order::default(), output, from: From::default(), next, delivered };
    let (mut failed, mut ever) = (0, false);
    for url in urls.iter().cycle() {
        let receipts = going.order.receipts();
        let error = match going.connection(url, &mut source, pace.clone()).await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        ever |= !matches!(error, Error::Connect { .. });
        failed = if going.order.receipts() > receipts { 1 } else { failed + 1 };
        let others = !ever && (failed as usize) < urls.len();
        let Some(again) = going.again(&error, ever || others).filter(|_| failed <= patience.tries) else {
            return Err(error);
        };
        let wait = if again.at_once && failed == 1 || others { Duration::ZERO } else { again.wait(failed, patience) };
        let line = format!("{error}; connecting again in {:.1} s", wait.as_secs_f64());
        going.output.reconnect(going.order.receipts(), again.why, &line);
        going.order.reconnect();
        tokio::time::sleep(wait).await;
    }
    Err(Error::Lost("there is no service to go to".to_owned()))
}

/// That a session goes on over another connection.
struct Again {
    why: &'static str,
    at_once: bool,
    asked: Duration,
}

impl Again {
    /// How long to wait after so many failures in a row: half of it at random, so that many clients don't come at once.
    fn wait(&self, failed: u32, patience: Patience) -> Duration {
        let longest = patience.first.saturating_mul(1 << (failed - 1).min(16)).min(LONGEST_WAIT);
        let mut random = [0; 4];
        // Without randomness all wait the longest.
        let share = if getrandom::fill(&mut random).is_ok() { u32::from_le_bytes(random) } else { u32::MAX };
        let jitter = longest.mul_f64(f64::from(share) / f64::from(u32::MAX) / 2.0);
        (longest / 2 + jitter).max(self.asked.min(LONGEST_ASKED))
    }
}

impl Going<'_> {
    /// Whether another connection may do better. `ever`: there has been one.
    fn again(&self, error: &Error, ever: bool) -> Option<Again> {
        let again = |why, at_once, asked| Some(Again { why, at_once, asked });
        // Without a token only the beginning can be asked for.
        let can = self.order.receipts() == 0 || self.start.resume.is_some();
        match error {
            _ if !can => None,
            Error::Moved(MoveReason::Drain) => again("drain", true, Duration::ZERO),
            Error::Moved(MoveReason::SessionLimit) => again("session_limit", true, Duration::ZERO),
            Error::Moved(MoveReason::TokenExpired) => again("token_expired", true, Duration::ZERO),
            Error::Lost(_) => again("lost", false, Duration::ZERO),
            Error::Full { retry_after, .. } => again("full", false, *retry_after),
            Error::Connect { .. } if ever => again("no_connection", false, Duration::ZERO),
            _ => None,
        }
    }

    async fn connection(&mut self, url: &str, source: &mut Source, pace: Pace) -> Result<Done, Error> {
        let socket = connect(url, self.token).await?;
        let (sink, stream) = socket.split();
        let (acks, acked) = watch::channel(0);
        let (messages, queue) = mpsc::channel(4);
        let reading = source.send(self.from, pace, messages, self.next.subscribe());
        let activity = Cell::new(Instant::now());
        let progress = self.output.sent();
        let sent = |bytes| {
            activity.set(Instant::now());
            progress(bytes);
        };
        let writing = write(sink, self.start.clone(), queue, acked, sent);
        let sending = async {
            let (read, written) = tokio::join!(reading, writing);
            match (read, written) {
                (Err(error), _) => Err(Error::Input(error)),
                (Ok(()), Err(error)) => {
                    // The service closes when it refuses: why is still to be read.
                    tracing::debug!(%error, "sending ended early");
                    Ok(())
                }
                (Ok(()), Ok(())) => Ok(()),
            }
        };
        let receiving = self.receive(stream, acks, &activity);
        let silence = silence(&activity);
        tokio::pin!(sending, receiving, silence);
        let mut all_sent = false;
        loop {
            tokio::select! {
                done = &mut receiving => return done,
                sent = &mut sending, if !all_sent => {
                    sent?;
                    all_sent = true;
                }
                () = &mut silence => {
                    return Err(Error::Lost(format!("nothing went either way for {} s", SILENCE.as_secs())));
                }
            }
        }
    }

    fn go_on(&mut self, resume: Resume) {
        self.from = From { set_up_bytes: resume.set_up_bytes, offset: resume.offset };
        self.start.resume = Some(ResumeFrom { token: resume.token });
        self.next.send_replace(self.from);
    }
}

/// Ends when nothing has happened for [`SILENCE`].
async fn silence(activity: &Cell<Instant>) {
    while activity.get().elapsed() < SILENCE {
        tokio::time::sleep_until(activity.get() + SILENCE).await;
    }
}

async fn connect(url: &str, token: Option<&Token>) -> Result<Socket, Error> {
    let failed = |reason: String| Error::Connect { url: url.to_owned(), reason };
    let mut request = url.into_client_request().map_err(|error| failed(error.to_string()))?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
    if let Some(token) = token {
        request.headers_mut().insert("authorization", token.header().map_err(|reason| Error::Denied { reason })?);
    }
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let opening = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
    match tokio::time::timeout(CONNECT, opening).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(tungstenite::Error::Http(response))) => {
            let body = response.body().as_deref().unwrap_or_default();
            let reason = match serde_json::from_slice::<Problem>(body) {
                Ok(problem) => format!("{}: {}", problem.code, problem.detail),
                Err(_) => format!("{} {}", response.status(), String::from_utf8_lossy(body).trim()),
            };
            match response.status().as_u16() {
                401 | 403 => return Err(Error::Denied { reason }),
                429 | 503 => {}
                _ => return Err(failed(reason)),
            }
            let asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            Err(Error::Full { reason, retry_after: Duration::from_secs(asked.unwrap_or(0)) })
        }
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("timed out".to_owned())),
    }
}

/// `start`, the media, `finish`, and in between and after it the acknowledgements.
async fn write(
    mut sink: SplitSink<Socket, Message>,
    start: Start,
    mut queue: mpsc::Receiver<Bytes>,
    mut acked: watch::Receiver<u64>,
    sent: impl Fn(u64),
) -> Result<(), tungstenite::Error> {
    sink.send(text(&ClientMessage::Start(start))).await?;
    let mut finished = false;
    loop {
        tokio::select! {
            biased;
            changed = acked.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let seq = *acked.borrow_and_update();
                sink.send(text(&ClientMessage::Ack { seq })).await?;
            }
            message = queue.recv(), if !finished => match message {
                Some(message) => {
                    let length = message.len() as u64 - 1;
                    sink.send(Message::Binary(message)).await?;
                    sent(length);
                }
                None => {
                    finished = true;
                    sink.send(text(&ClientMessage::Finish { channel: 0 })).await?;
                }
            },
        }
    }
}

impl Going<'_> {
    /// Everything up to the close. Each receipt is acknowledged when what it is for is on disk.
    async fn receive(
        &mut self,
        mut stream: SplitStream<Socket>,
        acks: watch::Sender<u64>,
        activity: &Cell<Instant>,
    ) -> Result<Done, Error> {
        let mut refusal: Option<ErrorMessage> = None;
        let mut moved = None;
        let mut done = None;
        loop {
            let message = match stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return ended(None, done, refusal, moved, &error.to_string()),
                None => return ended(None, done, refusal, moved, "it was closed without a reason"),
            };
            activity.set(Instant::now());
            match message {
                Message::Text(text) => {
                    let value: serde_json::Value = serde_json::from_str(&text).map_err(|_| Violation::NotJson)?;
                    self.output.text(&value);
                    let Some(message) = self.order.text(value)? else { continue };
                    match message {
                        ServerMessage::Tracks(tracks) => self.output.tracks(&tracks),
                        ServerMessage::Receipt(receipt) => {
                            self.output.receipt(&receipt).await.map_err(Error::Output)?;
                            let end = receipt.start_ms.saturating_add(receipt.duration_ms);
                            let played = end.saturating_sub(self.order.first_start_ms()).max(0).cast_unsigned();
                            self.delivered.send_replace(Duration::from_millis(played));
                            acks.send_replace(receipt.seq);
                            if let Some(resume) = receipt.resume {
                                self.go_on(resume);
                            }
                        }
                        ServerMessage::Error(error) => {
                            self.output.error(&error);
                            if error.fatal {
                                refusal = Some(error);
                            }
                        }
                        ServerMessage::Done(end) => done = Some(end),
                        ServerMessage::Moved(told) => {
                            moved = Some(told.reason);
                            self.go_on(told.resume);
                        }
                        ServerMessage::Ready(_) | ServerMessage::Pressure(_) | ServerMessage::Event(_) => {}
                    }
                }
                Message::Binary(message) => {
                    let (header, payload) = decode_binary(message).ok_or(Violation::MalformedBinary)?;
                    self.output.header(&header);
                    match self.order.binary(&header, &payload)? {
                        Checked::Init(init) => self.output.init(init, &payload).await.map_err(Error::Output)?,
                        Checked::Segment(segment) => {
                            self.output.segment(segment, &payload).await.map_err(Error::Output)?
                        }
                    }
                }
                Message::Close(frame) => {
                    // Reading on sends the answer to the close; how that ends changes nothing.
                    let _ = tokio::time::timeout(CLOSE, stream.next()).await;
                    return ended(frame, done, refusal, moved, "it was closed without a code");
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }
}

/// What a close means, with what was said before it.
fn ended(
    frame: Option<CloseFrame>,
    done: Option<Done>,
    refusal: Option<ErrorMessage>,
    moved: Option<MoveReason>,
    otherwise: &str,
) -> Result<Done, Error> {
    let close = frame.as_ref().map(|frame| u16::from(frame.code));
    if let (None, Some(reason)) = (&done, moved) {
        return Err(Error::Moved(reason));
    }
    match (done, refusal, frame) {
        (Some(done), _, _) => Ok(done),
        (None, _, Some(frame)) if close == Some(1013) => {
            Err(Error::Full { reason: frame.reason.to_string(), retry_after: Duration::ZERO })
        }
        (None, Some(error), _) => {
            let close = close.unwrap_or_else(|| crate::protocol::close_code(&error.code));
            Err(Error::Refused { close, code: error.code, message: error.message })
        }
        (None, None, Some(frame)) if close.is_some_and(|close| close >= 4000) => Err(Error::Refused {
            close: close.unwrap_or_default(),
            code: frame.reason.to_string(),
            message: "the service closed the session".to_owned(),
        }),
        (None, None, Some(frame)) => {
            Err(Error::Lost(format!("closed with {} {}", u16::from(frame.code), frame.reason)))
        }
        (None, None, None) => Err(Error::Lost(otherwise.to_owned())),
    }
}

fn text(message: &ClientMessage) -> Message {
    Message::text(serde_json::to_string(message).expect("client messages hold only strings and numbers"))
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};
    use tokio::net::TcpListener;
    use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    use super::super::store::Store;
    use super::*;
    use crate::protocol::{BinaryHeader, InitHeader, SegmentHeader, encode_binary};

    /// What a scripted service does after `start`.
    enum Act {
        /// Reads until `finish`; the media must be this.
        TakeAll(&'static [u8]),
        Say(Message),
        /// Reads until this is acknowledged.
        AwaitAck(u64),
        Close(u16, &'static str),
    }

    async fn service(listener: TcpListener, script: Vec<Act>) {
        let (stream, _) = listener.accept().await.unwrap();
        #[allow(clippy::result_large_err)] // The callback's type is tungstenite's.
        let select = |request: &Request, mut response: Response| {
            assert_eq!(request.uri().path(), "/v1/stream");
            let protocol = request.headers()["sec-websocket-protocol"].clone();
            response.headers_mut().insert("sec-websocket-protocol", protocol);
            Ok(response)
        };
        let mut socket = tokio_tungstenite::accept_hdr_async(stream, select).await.unwrap();
        let first = socket.next().await.unwrap().unwrap();
        assert!(matches!(serde_json::from_str(first.to_text().unwrap()).unwrap(), ClientMessage::Start(_)));
        for act in script {
            match act {
                Act::Say(message) => socket.send(message).await.unwrap(),
                Act::Close(code, reason) => {
                    let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
                    socket.close(Some(frame)).await.unwrap();
                    while let Some(Ok(_)) = socket.next().await {}
                }
                Act::AwaitAck(seq) => loop {
                    let message = socket.next().await.unwrap().unwrap();
                    let Message::Text(text) = message else { continue };
                    if serde_json::from_str::<ClientMessage>(&text).unwrap() == (ClientMessage::Ack { seq }) {
                        break;
                    }
                },
                Act::TakeAll(media) => {
                    let mut taken = Vec::new();
                    while let Message::Binary(message) = socket.next().await.unwrap().unwrap() {
                        assert_eq!(message[0], 0);
                        taken.extend_from_slice(&message[1..]);
                    }
                    assert_eq!(taken, media);
                }
            }
        }
    }

    fn segment(seq: u64, payload: &[u8]) -> SegmentHeader {
        SegmentHeader {
            seq,
            output: "v".into(),
            init: Some(1),
            start: 0,
            duration: 90_000,
            timescale: 90_000,
            frames: 25,
            bytes: payload.len() as u64,
            sha256: Sha256::digest(payload).iter().map(|byte| format!("{byte:02x}")).collect(),
            independent: true,
            discontinuity: false,
        }
    }

    fn binary(header: BinaryHeader, payload: &[u8]) -> Act {
        Act::Say(Message::Binary(encode_binary(&header, payload)))
    }

    fn say(json: serde_json::Value) -> Act {
        Act::Say(Message::text(json.to_string()))
    }

    fn init() -> Act {
        let mime = "video/mp4; codecs=\"avc1.64001f\"".to_owned();
        binary(BinaryHeader::Init(InitHeader { output: "v".into(), id: 1, mime, timescale: 90_000 }), b"init")
    }

    /// Pushes the file `media` to a service that does this.
    async fn pushed(script: Vec<Act>, out: Option<&std::path::Path>) -> Result<Done, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/v1/stream", listener.local_addr().unwrap());
        let service = tokio::spawn(service(listener, script));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"media").unwrap();
        let source = Source::open(file.path()).await.unwrap();
        let store = match out {
            Some(out) => Some(Store::new(out.to_owned()).await.unwrap()),
            None => None,
        };
        let mut output = Output::new(store, Some(5), false);
        let patience = Patience { tries: 0, first: Duration::ZERO };
        let done =
            run(Services { urls: &[url], token: None }, Start::default(), source, false, patience, &mut output).await;
        output.finish(done.as_ref().ok()).await.unwrap();
        if done.is_ok() {
            service.await.unwrap();
        }
        done
    }

    #[tokio::test]
    async fn a_session_ends_up_on_disk_and_is_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let receipt = serde_json::json!({"type": "receipt", "seq": 1, "start_ms": 0, "duration_ms": 1000,
            "frames_in": 25, "frames_out": {"v": 25}, "audio_samples": {}, "queued_ms": 0, "transcode_ms": 1,
            "latency_ms": 1, "cpu_ms": 1, "attempts": 1, "outcome": "ok", "degraded": []});
        let done = serde_json::json!({"type": "done", "segments": 1, "frames_in": 25, "frames_out": {"v": 25},
            "failed": 0, "degraded": 0});
        let script = vec![
            Act::TakeAll(b"media"),
            init(),
            binary(BinaryHeader::Segment(segment(1, b"one")), b"one"),
            say(receipt),
            Act::AwaitAck(1),
            say(done),
            Act::Close(1000, ""),
        ];
        assert_eq!(pushed(script, Some(dir.path())).await.unwrap().segments, 1);
        let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((read("v/init-1.mp4"), read("v/000001.m4s")), ("init".to_owned(), "one".to_owned()));
        assert!(read("v/media.m3u8").ends_with("#EXTINF:1.000000,\n000001.m4s\n#EXT-X-ENDLIST\n"));
        assert!(read("master.m3u8").ends_with("\nv/media.m3u8\n"));
    }

    #[tokio::test]
    async fn a_refusal_is_told_with_its_code_and_sentence() {
        let error = serde_json::json!({"type": "error", "code": "unsupported_container", "message": "not media",
            "fatal": true, "retryable": false, "seq": null, "output": null});
        let script = vec![say(error), Act::Close(4415, "unsupported_container")];
        let refused = pushed(script, None).await.unwrap_err();
        assert!(matches!(refused, Error::Refused { close: 4415, .. }));
        assert_eq!(refused.to_string(), "unsupported_container: not media");
        let bare = pushed(vec![Act::Close(4408, "idle_timeout")], None).await.unwrap_err();
        assert!(matches!(bare, Error::Refused { close: 4408, code, .. } if code == "idle_timeout"));
    }

    #[tokio::test]
    async fn an_end_without_done_is_a_loss() {
        assert!(matches!(pushed(vec![Act::Close(1000, "")], None).await, Err(Error::Lost(_))));
        assert!(matches!(pushed(vec![], None).await, Err(Error::Lost(_))));
    }

    #[tokio::test]
    async fn damaged_media_ends_the_session_and_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let script = vec![init(), binary(BinaryHeader::Segment(segment(1, b"one")), b"two")];
        assert!(matches!(pushed(script, Some(dir.path())).await, Err(Error::Violation(_))));
        assert!(!dir.path().join("v/000001.m4s").exists());
    }

    #[tokio::test]
    async fn no_service_is_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/v1/stream", listener.local_addr().unwrap());
        drop(listener);
        assert!(matches!(connect(&url, None).await, Err(Error::Connect { .. })));
    }
}
