//! GET /v1/stream: a session over a WebSocket.
//!
//! [`read_ahead`] is the one reader of the socket. It takes a bounded number of bytes ahead of the session, so that
//! pings and a client's going are noticed while the session waits; when that is full, TCP holds the client.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite;

use super::admission::Admitted;
use super::app::{App, origin};
use super::problem::Problem;
use crate::protocol::{
    self, ClientMessage, ErrorMessage, MoveReason, Ready, SUBPROTOCOL, ServerMessage, SessionLimits, Start,
};
use crate::session::{self, Caller, Ended, Fatal, Gone, Incoming, Leave, Outgoing, Outlet, Wanted};
use crate::telemetry::metrics::{Direction, Operation, Origin};

/// Messages that are read ahead of the session.
const AHEAD_MESSAGES: usize = 64;
/// How long a client may take to answer a close before the connection is cut.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// The close code of a session that goes on elsewhere.
const MOVED: u16 = 1012;

/// Upgrades, where there is room.
pub async fn upgrade(
    State(app): State<App>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return Problem::new("bad_request", rejection.body_text()).into_response(),
    };
    if !offers_subprotocol(&headers) {
        return Problem::new("bad_request", format!("offer the subprotocol {SUBPROTOCOL}")).into_response();
    }
    let admitted = match app.admission.admit() {
        Ok(admitted) => admitted,
        Err(problem) => return problem.into_response(),
    };
    let origin = origin(&headers);
    let most = app.config.sessions.message_bytes as usize;
    let upgrade = upgrade.protocols([SUBPROTOCOL]).max_message_size(most).max_frame_size(most);
    // Taken now: the connection's own task may be over before the session's begins.
    let tracked = app.tracker.token();
    upgrade.on_upgrade(move |socket| async move {
        run(app, socket, origin, admitted).await;
        drop(tracked);
    })
}

fn offers_subprotocol(headers: &HeaderMap) -> bool {
    let offered = headers.get_all("sec-websocket-protocol").iter().filter_map(|value| value.to_str().ok());
    offered.flat_map(|list| list.split(',')).any(|name| name.trim() == SUBPROTOCOL)
}

async fn run(app: App, socket: WebSocket, origin: Origin, admitted: Admitted) {
    let (sink, mut stream) = socket.split();
    let id = uuid::Uuid::now_v7();
    let span = tracing::info_span!("session", session = %id);
    let mut socket = Socket { sink, app: app.clone() };
    let ended =
        tracing::Instrument::instrument(converse(&app, &mut socket, &mut stream, id, origin, &admitted), span).await;
    let (code, reason) = match &ended {
        Ended::Done(_) => (1000, "done"),
        Ended::Fatal(fatal) => (protocol::close_code(fatal.code), fatal.code),
        Ended::Moved(_) => (MOVED, "moved"),
        Ended::Gone(gone) => (protocol::close_code(gone.code()), gone.code()),
    };
    tracing::info!(session = %id, code, reason, "session ended");
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    let closing = async {
        // What the client still sends is read and dropped: a reset would take what it has not read yet.
        if socket.sink.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
            if reason == "message_too_big" {
                std::future::pending::<()>().await // What is left of the message can't be read.
            }
        }
    };
    // Past the time-out the connection is simply dropped.
    let _ = timeout(CLOSE_TIMEOUT, closing).await;
}

/// From `start` to the last message.
async fn converse(
    app: &App,
    socket: &mut Socket,
    stream: &mut SplitStream<WebSocket>,
    id: uuid::Uuid,
    origin: Origin,
    admitted: &Admitted,
) -> Ended {
    let config = &app.config;
    let limit = config.sessions.session_limit;
    let until = (!limit.is_zero()).then(|| Instant::now() + limit);
    let limits = SessionLimits {
        message_bytes: config.sessions.message_bytes,
        segment_bytes: config.segments.max_bytes,
        max_session_s: limit.as_secs(),
    };
    let server = concat!("segmill/", env!("CARGO_PKG_VERSION")).to_owned();
    let ready = ServerMessage::Ready(Ready { session: id.to_string(), server, limits });
    if socket.send(Outgoing::Message(ready)).await.is_err() {
        return Ended::Gone(Gone::Left);
    }
    let wanted = match timeout(config.sessions.start_timeout, first_message(stream)).await {
        Ok(Ok(start)) => Wanted::stream(start, &id.to_string(), &app.context.settings, &app.context.tokens),
        Ok(Err(First::Gone)) => return Ended::Gone(Gone::Left),
        Ok(Err(First::Bad(fatal))) => Err(fatal),
        Err(_) => Err(Fatal::new("start_timeout", "no start message came in time")),
    };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(fatal) => return socket.refuse(fatal).await,
    };
    let (ahead, session_end) = mpsc::channel(AHEAD_MESSAGES);
    let bytes = Arc::new(Semaphore::new(read_ahead_bytes(config.sessions.message_bytes)));
    let incoming = stream::unfold(session_end, |mut ahead: mpsc::Receiver<Ahead>| async move {
        let (next, _bytes) = ahead.recv().await?;
        Some((next, ahead))
    });
    let caller = Caller { op: Operation::Stream, origin };
    let (leave, leaving) = watch::channel(None);
    let session =
        Box::pin(session::run(app.context.clone(), caller, wanted, incoming, socket, leaving, &admitted.reservation));
    tokio::select! {
        biased;
        ended = session => ended,
        () = read_ahead(app, stream, ahead, bytes, Farewell { leave, until }) => {
            app.context.metrics.error(Gone::Left.code());
            Ended::Gone(Gone::Left)
        }
    }
}

/// A message for the session, and its share of the bytes that may be read ahead.
type Ahead = (Result<Incoming, Fatal>, Option<OwnedSemaphorePermit>);

fn read_ahead_bytes(message_bytes: u64) -> usize {
    4 * message_bytes as usize
}

/// Tells a session when it has to leave.
struct Farewell {
    leave: watch::Sender<Option<Leave>>,
    /// When it has lasted as long as one may.
    until: Option<Instant>,
}

impl Farewell {
    /// Waits until there is a reason to leave that was not told yet.
    async fn reason(&self, app: &App) -> MoveReason {
        let told = self.leave.borrow().map(|leave| leave.reason);
        let limit = async {
            match self.until {
                Some(until) if told.is_none() => sleep_until(until).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = app.draining.cancelled(), if told != Some(MoveReason::Drain) => MoveReason::Drain,
            () = limit => MoveReason::SessionLimit,
        }
    }

    /// `finished`: all of the input has come.
    fn tell(&self, app: &App, reason: MoveReason, finished: bool) {
        // A quarter is for the goodbye.
        let grace = app.config.sessions.drain * 3 / 4;
        self.leave.send_modify(|leave| {
            let stop_reading = leave.map_or(!finished, |leave| leave.stop_reading);
            *leave = Some(Leave { reason, stop_reading, by: Instant::now() + grace });
        });
    }
}

/// Reads the socket until the client has gone. After an error or the end of the input it reads on, and drops.
async fn read_ahead(
    app: &App,
    stream: &mut SplitStream<WebSocket>,
    ahead: mpsc::Sender<Ahead>,
    bytes: Arc<Semaphore>,
    farewell: Farewell,
) {
    let mut ahead = Some(ahead);
    loop {
        let next = tokio::select! {
            next = timeout(app.config.sessions.idle_timeout, stream.next()) => next,
            reason = farewell.reason(app) => {
                farewell.tell(app, reason, ahead.is_none());
                ahead = None;
                continue;
            }
        };
        let message = match next {
            Ok(Some(Ok(Message::Close(_))) | None) => return,
            Ok(Some(message)) => message,
            Err(_) if ahead.is_none() => continue,
            Err(_) => {
                hand_over(&mut ahead, Err(Fatal::new("idle_timeout", "the client sent nothing for too long")), None)
                    .await;
                continue;
            }
        };
        let message = match message {
            Ok(message) => message,
            Err(error) => match broken(&error) {
                Some(fatal) if ahead.is_some() => {
                    hand_over(&mut ahead, Err(fatal), None).await;
                    std::future::pending().await
                }
                _ => return,
            },
        };
        if ahead.is_none() {
            continue;
        }
        match incoming(message) {
            Ok(Some(Incoming::Media(media))) => {
                app.context.metrics.message(Direction::In, media.len());
                let share = bytes.clone().acquire_many_owned(media.len() as u32).await.ok();
                hand_over(&mut ahead, Ok(Incoming::Media(media)), share).await;
            }
            Ok(Some(Incoming::Finish)) => {
                hand_over(&mut ahead, Ok(Incoming::Finish), None).await;
                ahead = None;
            }
            Ok(None) => {}
            Err(fatal) => hand_over(&mut ahead, Err(fatal), None).await,
        }
    }
}

/// An error is the last thing that the session hears.
async fn hand_over(
    ahead: &mut Option<mpsc::Sender<Ahead>>,
    next: Result<Incoming, Fatal>,
    share: Option<OwnedSemaphorePermit>,
) {
    let last = next.is_err();
    if let Some(sender) = ahead {
        // The session may have ended: then there is nothing left to hand over to.
        let _ = sender.send((next, share)).await;
    }
    if last {
        *ahead = None;
    }
}

/// What a message means to the session; None where nothing.
fn incoming(message: Message) -> Result<Option<Incoming>, Fatal> {
    match message {
        Message::Binary(mut data) => match data.first() {
            Some(0) => Ok(Some(Incoming::Media(data.split_off(1)))),
            Some(channel) => Err(Fatal::new("bad_message", format!("channel {channel} is not in use"))),
            None => Err(Fatal::new("bad_message", "a binary message starts with its channel")),
        },
        Message::Text(text) => match parse(&text)? {
            ClientMessage::Finish { channel: 0 } => Ok(Some(Incoming::Finish)),
            ClientMessage::Finish { channel } => {
                Err(Fatal::new("bad_message", format!("channel {channel} is not in use")))
            }
            ClientMessage::Ack { .. } => Ok(None),
            ClientMessage::Start(_) => Err(Fatal::new("bad_message", "the session has started already")),
        },
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(None),
    }
}

enum First {
    Gone,
    Bad(Fatal),
}

async fn first_message(stream: &mut SplitStream<WebSocket>) -> Result<Start, First> {
    loop {
        match stream.next().await {
            Some(Ok(Message::Text(text))) => match parse(&text).map_err(First::Bad)? {
                ClientMessage::Start(start) => return Ok(start),
                _ => return Err(First::Bad(Fatal::new("bad_message", "the first message must be start"))),
            },
            Some(Ok(Message::Binary(_))) => {
                return Err(First::Bad(Fatal::new("bad_message", "the first message must be start")));
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
            Some(Err(error)) => return Err(broken(&error).map_or(First::Gone, First::Bad)),
            Some(Ok(Message::Close(_))) | None => return Err(First::Gone),
        }
    }
}

fn parse(text: &str) -> Result<ClientMessage, Fatal> {
    serde_json::from_str(text).map_err(|error| Fatal::new("bad_message", format!("the message can't be read: {error}")))
}

/// What the client did wrong, after which its socket can't be read any more; None where it has gone.
fn broken(error: &axum::Error) -> Option<Fatal> {
    use tungstenite::Error::{Capacity, Protocol, Utf8};
    use tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
    // The errors of axum wrap those of tungstenite.
    let source = std::error::Error::source(error)?.downcast_ref::<tungstenite::Error>()?;
    match source {
        Capacity(error) => Some(Fatal::new("message_too_big", error.to_string())),
        Protocol(ResetWithoutClosingHandshake) => None,
        Protocol(_) | Utf8(_) => Some(Fatal::new("bad_message", source.to_string())),
        _ => None,
    }
}

/// The socket's writing half.
struct Socket {
    sink: SplitSink<WebSocket, Message>,
    app: App,
}

impl Socket {
    async fn refuse(&mut self, fatal: Fatal) -> Ended {
        self.app.context.metrics.error(fatal.code);
        let error = ErrorMessage {
            code: fatal.code.to_owned(),
            message: fatal.message.clone(),
            fatal: true,
            retryable: false,
            seq: None,
            output: fatal.output.clone(),
        };
        // The close that follows says the code again.
        let _ = self.send(Outgoing::Message(ServerMessage::Error(error))).await;
        Ended::Fatal(fatal)
    }
}

impl Outlet for &mut Socket {
    async fn send(&mut self, outgoing: Outgoing) -> Result<(), Gone> {
        Socket::send(self, outgoing).await
    }
}

impl Socket {
    /// Returns when the last byte has been handed to the operating system.
    async fn send(&mut self, outgoing: Outgoing) -> Result<(), Gone> {
        let message = match outgoing {
            Outgoing::Message(message) => {
                let text = serde_json::to_string(&message).expect("messages hold only strings and numbers");
                Message::Text(text.into())
            }
            Outgoing::Binary(header, payload) => {
                let message = protocol::encode_binary(&header, &payload);
                self.app.context.metrics.message(Direction::Out, message.len());
                Message::Binary(message)
            }
        };
        match timeout(self.app.config.sessions.write_timeout, self.sink.send(message)).await {
            Ok(sent) => sent.map_err(|_| Gone::Left),
            Err(_) => Err(Gone::Slow),
        }
    }
}
