//! GET /v1/stream: a session over a WebSocket.
//!
//! [`read_ahead`] is the one reader of the socket. It takes a bounded number of bytes ahead of the session, so that
//! pings and a client's going are noticed while the session waits; when that is full, TCP holds the client.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::admission::{self, Admitted, Seat};
use super::app::{App, origin};
use super::auth::{Access, Share};
use super::pace::Pace;
use super::problem::Problem;
use super::websocket::{self, Lost, Received, Upgrade};
use crate::patience;
use crate::protocol::{
    self, ClientMessage, ErrorMessage, MoveReason, Ready, SUBPROTOCOL, ServerMessage, SessionLimits, Start,
};
use crate::session::{self, Caller, Ended, Fatal, Gone, Incoming, Leave, Outgoing, Outlet, Wanted};
use crate::telemetry::metrics::{Direction, Operation, Origin};

type Reader = websocket::Reader<TokioIo<Upgraded>>;
type Writer = websocket::Writer<TokioIo<Upgraded>>;

/// Messages that are read ahead of the session.
const AHEAD_MESSAGES: usize = 64;
/// The close code of a session that goes on elsewhere.
const MOVED: u16 = 1012;

/// Upgrades, where there is room.
pub async fn upgrade(
    State(app): State<App>,
    Extension(access): Extension<Access>,
    headers: HeaderMap,
    upgrade: Result<Upgrade, Problem>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(problem) => return problem.into_response(),
    };
    if !offers_subprotocol(&headers) {
        return Problem::new("bad_request", format!("offer the subprotocol {SUBPROTOCOL}")).into_response();
    }
    let admitted = access.open(&app).and_then(|share| Ok((app.admission.admit()?, share)));
    let admitted = match admitted {
        Ok(admitted) => admitted,
        Err(problem) => return problem.into_response(),
    };
    let origin = origin(&headers);
    let (response, socket) = upgrade.grant(SUBPROTOCOL, limits(&app));
    // Of the tracker from now on: the connection's own task may be over before the session's begins.
    app.tracker.clone().spawn(async move {
        if let Some((reader, writer)) = socket.await {
            run(app, reader, writer, (origin, access), admitted).await;
        }
    });
    response
}

fn limits(app: &App) -> websocket::Limits {
    let sessions = &app.config.sessions;
    websocket::Limits {
        upgrade: app.config.connections.upgrade_timeout,
        message: sessions.message_bytes as usize,
        ping: sessions.ping_interval,
        pong: sessions.pong_timeout,
    }
}

fn offers_subprotocol(headers: &HeaderMap) -> bool {
    let offered = headers.get_all("sec-websocket-protocol").iter().filter_map(|value| value.to_str().ok());
    offered.flat_map(|list| list.split(',')).any(|name| name.trim() == SUBPROTOCOL)
}

async fn run(app: App, mut reader: Reader, writer: Writer, who: (Origin, Access), admitted: (Admitted, Share)) {
    let id = uuid::Uuid::now_v7();
    let span = tracing::info_span!("session", session = %id);
    let mut socket = Socket { writer, app: app.clone() };
    let ended =
        tracing::Instrument::instrument(converse(&app, &mut socket, &mut reader, id, who, &admitted), span).await;
    let (code, reason) = match &ended {
        Ended::Done(_) => (1000, "done"),
        Ended::Fatal(fatal) => (protocol::close_code(fatal.code), fatal.code),
        Ended::Moved(_) => (MOVED, "moved"),
        Ended::Gone(gone) => (protocol::close_code(gone.code()), gone.code()),
    };
    tracing::info!(session = %id, code, reason, "session ended");
    // Who was crowded out is not waited for: its place is another's already.
    let patience = if admitted.0.is_crowded_out() { Duration::ZERO } else { app.config.sessions.close_timeout };
    websocket::close(reader, socket.writer, code, reason, patience).await;
}

/// From `start` to the last message.
async fn converse(
    app: &App,
    socket: &mut Socket,
    reader: &mut Reader,
    id: uuid::Uuid,
    (origin, access): (Origin, Access),
    (admitted, share): &(Admitted, Share),
) -> Ended {
    let config = &app.config;
    let limit = config.sessions.session_limit;
    let lasts = (!limit.is_zero()).then(|| (Instant::now() + limit, MoveReason::SessionLimit));
    let holds = access.until.map(|until| (until, MoveReason::TokenExpired));
    let until = lasts.into_iter().chain(holds).min_by_key(|(until, _)| *until);
    let limits = SessionLimits {
        message_bytes: config.sessions.message_bytes,
        segment_bytes: config.segments.max_bytes,
        max_session_s: limit.as_secs(),
    };
    let server = concat!("segmill/", env!("CARGO_PKG_VERSION")).to_owned();
    let ready = ServerMessage::Ready(Ready { session: id.to_string(), server, limits });
    if let Err(gone) = socket.send(Outgoing::Message(ready)).await {
        app.context.metrics.error(gone.code());
        return Ended::Gone(gone);
    }
    let seat = &admitted.seat;
    let first = tokio::select! {
        first = patience::within(config.sessions.start_timeout, first_message(reader)) => first,
        () = seat.crowded_out() => Some(Err(First::Bad(admission::crowded_out()))),
    };
    let wanted = match first {
        Some(Ok(start)) => Wanted::stream(start, &id.to_string(), &app.context.settings, &app.context.tokens),
        Some(Err(First::Gone(gone))) => {
            app.context.metrics.error(gone.code());
            return Ended::Gone(gone);
        }
        Some(Err(First::Bad(fatal))) => Err(fatal),
        None => Err(Fatal::new("start_timeout", "no start message came in time")),
    };
    let wanted = match wanted {
        Ok(wanted) => wanted.within(share.allowance()),
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
        Box::pin(session::run(app.context.clone(), caller, wanted, incoming, socket, leaving, admitted.reservation()));
    let pings = reader.pings(config.sessions.ping_interval);
    tokio::select! {
        biased;
        ended = session => ended,
        gone = read_ahead(app, reader, ahead, bytes, Farewell { leave, until, seat }) => {
            app.context.metrics.error(gone.code());
            Ended::Gone(gone)
        }
        never = pings => match never {},
    }
}

/// A message for the session, and its share of the bytes that may be read ahead.
type Ahead = (Result<Incoming, Fatal>, Option<OwnedSemaphorePermit>);

fn read_ahead_bytes(message_bytes: u64) -> usize {
    4 * message_bytes as usize
}

/// Tells a session when it has to leave.
struct Farewell<'a> {
    seat: &'a Seat,
    leave: watch::Sender<Option<Leave>>,
    /// When it has lasted as long as it may, and why so.
    until: Option<(Instant, MoveReason)>,
}

impl Farewell<'_> {
    /// Waits until there is a reason to leave that was not told yet.
    async fn reason(&self, app: &App) -> MoveReason {
        let told = self.leave.borrow().map(|leave| leave.reason);
        let limit = async {
            match self.until {
                Some((until, reason)) if told.is_none() => {
                    sleep_until(until).await;
                    reason
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = app.draining.cancelled(), if told != Some(MoveReason::Drain) => MoveReason::Drain,
            reason = limit => reason,
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
    reader: &mut Reader,
    ahead: mpsc::Sender<Ahead>,
    bytes: Arc<Semaphore>,
    farewell: Farewell<'_>,
) -> Gone {
    let mut ahead = Some(ahead);
    let mut pace = Pace::new(&app.config.sessions);
    let progress = reader.progress();
    loop {
        let next = async {
            match ahead {
                Some(_) => pace.wait(|| progress.bytes(), reader.next()).await,
                None => Ok(reader.next().await),
            }
        };
        let next = tokio::select! {
            next = next => next,
            reason = farewell.reason(app) => {
                farewell.tell(app, reason, ahead.is_none());
                ahead = None;
                continue;
            }
            () = farewell.seat.crowded_out(), if ahead.is_some() => {
                hand_over(&mut ahead, Err(admission::crowded_out()), None).await;
                continue;
            }
        };
        let message = match next {
            Ok(Ok(message)) => message,
            Ok(Err(lost)) => match meaning(lost) {
                First::Bad(fatal) if ahead.is_some() => {
                    hand_over(&mut ahead, Err(fatal), None).await;
                    std::future::pending().await
                }
                First::Bad(_) => return Gone::Left,
                First::Gone(gone) => return gone,
            },
            Err(slow) => {
                hand_over(&mut ahead, Err(slow.fatal()), None).await;
                continue;
            }
        };
        if ahead.is_none() {
            continue;
        }
        let handed = async {
            match incoming(message) {
                Ok(Some(Incoming::Media(media))) => {
                    app.context.metrics.message(Direction::In, media.len());
                    farewell.seat.came(media.len());
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
        };
        tokio::select! {
            () = handed => {}
            // A session that is held back has to hear of it as well; what it does not get any more comes again elsewhere.
            reason = farewell.reason(app) => {
                farewell.tell(app, reason, false);
                ahead = None;
            }
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
fn incoming(message: Received) -> Result<Option<Incoming>, Fatal> {
    match message {
        Received::Binary(mut data) => match data.first() {
            Some(0) => Ok(Some(Incoming::Media(data.split_off(1)))),
            Some(channel) => Err(Fatal::new("bad_message", format!("channel {channel} is not in use"))),
            None => Err(Fatal::new("bad_message", "a binary message starts with its channel")),
        },
        Received::Text(text) => match parse(&text)? {
            ClientMessage::Finish { channel: 0 } => Ok(Some(Incoming::Finish)),
            ClientMessage::Finish { channel } => {
                Err(Fatal::new("bad_message", format!("channel {channel} is not in use")))
            }
            ClientMessage::Ack { .. } => Ok(None),
            ClientMessage::Start(_) => Err(Fatal::new("bad_message", "the session has started already")),
        },
    }
}

/// Why there is no message.
enum First {
    Gone(Gone),
    Bad(Fatal),
}

async fn first_message(reader: &mut Reader) -> Result<Start, First> {
    match reader.next().await.map_err(meaning)? {
        Received::Text(text) => match parse(&text).map_err(First::Bad)? {
            ClientMessage::Start(start) => Ok(start),
            _ => Err(First::Bad(Fatal::new("bad_message", "the first message must be start"))),
        },
        Received::Binary(_) => Err(First::Bad(Fatal::new("bad_message", "the first message must be start"))),
    }
}

fn parse(text: &str) -> Result<ClientMessage, Fatal> {
    serde_json::from_str(text).map_err(|error| Fatal::new("bad_message", format!("the message can't be read: {error}")))
}

/// After what the client did wrong its socket can't be read any more.
fn meaning(lost: Lost) -> First {
    match lost {
        Lost::Left => First::Gone(Gone::Left),
        Lost::Slow => First::Gone(Gone::Slow),
        Lost::Silent => First::Gone(Gone::Silent),
        Lost::Broken(how) => First::Bad(Fatal::new("bad_message", how)),
        Lost::TooBig(how) => First::Bad(Fatal::new("message_too_big", how)),
    }
}

/// The socket's writing half.
struct Socket {
    writer: Writer,
    app: App,
}

impl Socket {
    async fn refuse(&mut self, fatal: Fatal) -> Ended {
        self.app.context.metrics.error(fatal.code);
        let error = ErrorMessage {
            code: fatal.code.to_owned(),
            message: fatal.message.clone(),
            fatal: true,
            retryable: fatal.retryable(),
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
        let sent = match outgoing {
            Outgoing::Message(message) => {
                let text = serde_json::to_string(&message).expect("messages hold only strings and numbers");
                self.writer.send_text(text).await
            }
            Outgoing::Binary(header, payload) => {
                let head = protocol::binary_head(&header);
                self.app.context.metrics.message(Direction::Out, head.len() + payload.len());
                self.writer.send_binary(head, payload).await
            }
        };
        sent.map_err(|lost| match lost {
            Lost::Slow => Gone::Slow,
            _ => Gone::Left,
        })
    }
}
