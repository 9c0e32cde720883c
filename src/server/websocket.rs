//! A WebSocket (RFC 6455) with every buffer bounded: the handshake, messages in, messages out, pings, and the close. What
//! messages mean is left to `stream`.
//!
//! A message goes out in fragments, so that pings and pongs have their turn within a message that takes long; they are written
//! from where they lie. Axum's own WebSocket has neither fragments nor the bytes of a message that is not whole.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::{Sink, StreamExt};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{FrameHeader, Utf8Bytes};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_util::io::poll_write_buf;

use super::problem::Problem;
use super::wire::Counter;
use crate::chunks::Chunks;
use crate::patience;

/// Most payload in one frame to a client.
const FRAGMENT: usize = 32 << 10;
/// Read at once. Allocated for each socket, also for an idle one.
const READ_BUFFER: usize = 16 << 10;
/// Fragments that are handed to the operating system at once.
const TOGETHER: usize = 4;
/// Pings and pongs that wait. Past this, a pong takes the place of the one before it (RFC 6455 5.5.3).
const WRITE_BUFFER: usize = 4 << 10;
/// Pings and pongs of a client: so many at once, then one in each period; meanwhile the client is not read.
const CONTROL_BURST: u32 = 200;
const CONTROL_PERIOD: Duration = Duration::from_millis(10);

/// A request to become a WebSocket.
pub struct Upgrade {
    response: Response<()>,
    upgraded: OnUpgrade,
    received: Counter,
}

impl<S: Sync> FromRequestParts<S> for Upgrade {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let bad = |what: &str| Problem::new("bad_request", format!("not an upgrade to a WebSocket: {what}"));
        let request = Request::from_parts(parts.clone(), ());
        let response = create_response(&request).map_err(|error| bad(&error.to_string()))?;
        let upgraded =
            parts.extensions.remove::<OnUpgrade>().ok_or_else(|| bad("this connection can't be upgraded"))?;
        let received = parts.extensions.get::<Counter>().cloned().unwrap_or_default();
        Ok(Self { response, upgraded, received })
    }
}

impl Upgrade {
    /// The answer that grants it, and the socket as it is there once the answer is sent; None where it never is.
    pub fn grant(
        self,
        subprotocol: &'static str,
        limits: Limits,
    ) -> (Response, impl Future<Output = Option<Ends<Wire>>>) {
        let mut response = self.response.map(|()| Body::empty());
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(subprotocol));
        let socket = async move {
            let upgraded = patience::within(limits.upgrade, self.upgraded).await?.ok()?;
            Some(open(TokioIo::new(upgraded), self.received, limits).await)
        };
        (response, socket)
    }
}

type Wire = TokioIo<Upgraded>;

/// Both ends of a socket.
type Ends<S> = (Reader<S>, Writer<S>);

/// The bounds of a socket.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long the upgrade may take.
    pub upgrade: Duration,
    /// Bytes of a message that comes, in however many frames.
    pub message: usize,
    /// How often the client is sent a ping; zero: never.
    pub ping: Duration,
    /// How long after a ping it may be silent while it is read.
    pub pong: Duration,
}

/// A message of the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Text(Utf8Bytes),
    Binary(Bytes),
}

/// Why there is nothing more to read or write.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// The client closed the socket, or its connection is gone.
    Left,
    /// It took too little of what waits for it.
    Slow,
    /// Not a byte came, in answer to a ping neither.
    Silent,
    /// It broke the protocol.
    Broken(String),
    /// A message is over the limit.
    TooBig(String),
}

impl From<Error> for Lost {
    fn from(error: Error) -> Self {
        use tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
        match error {
            Error::Capacity(error) => Self::TooBig(error.to_string()),
            Error::Protocol(ResetWithoutClosingHandshake) => Self::Left,
            Error::Protocol(_) | Error::Utf8(_) => Self::Broken(error.to_string()),
            Error::Io(error) if error.kind() == ErrorKind::TimedOut => Self::Slow,
            _ => Self::Left,
        }
    }
}

/// Locked only within a poll, and both ends are used by one task: there is nobody to wait for.
type Shared<S> = Arc<Mutex<WebSocketStream<Outlet<S>>>>;

fn lock<S>(shared: &Shared<S>) -> MutexGuard<'_, WebSocketStream<Outlet<S>>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What tungstenite writes to. It would copy each frame into its buffer: those of messages are put here instead, when nothing
/// else waits, and what it writes (pings, pongs, the close) goes behind them.
struct Outlet<S> {
    stream: S,
    frames: Chunks,
}

impl<S: AsyncWrite + Unpin> Outlet<S> {
    fn poll_frames(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.frames.has_remaining() {
            if ready!(poll_write_buf(Pin::new(&mut self.stream), cx, &mut self.frames))? == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Outlet<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Outlet<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_frames(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_frames(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The two ends of a socket; one task has to have both. `received` counts the bytes that come through `stream`.
pub async fn open<S>(stream: S, received: Counter, limits: Limits) -> Ends<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(limits.message))
        .max_frame_size(Some(limits.message));
    let outlet = Outlet { stream, frames: Chunks::default() };
    let socket = WebSocketStream::from_raw_socket(outlet, Role::Server, Some(config)).await;
    let shared = Arc::new(Mutex::new(socket));
    let reader = Reader {
        shared: shared.clone(),
        progress: Progress { received: received.clone(), control: Counter::default() },
        silence: (!limits.ping.is_zero()).then(|| limits.ping + limits.pong),
        next_control: unspent(Instant::now()),
        unreadable: false,
    };
    (reader, Writer { shared })
}

/// How much data has come, messages that are not whole included.
#[derive(Debug, Clone)]
pub struct Progress {
    received: Counter,
    control: Counter,
}

impl Progress {
    /// Without what came as pings and pongs: they are no sign that a client goes on.
    pub fn bytes(&self) -> u64 {
        self.received.bytes().saturating_sub(self.control.bytes())
    }
}

/// What comes.
pub struct Reader<S> {
    shared: Shared<S>,
    progress: Progress,
    silence: Option<Duration>,
    /// When a ping or pong is due at the earliest, were they evenly spread.
    next_control: Instant,
    /// What comes makes no messages any more.
    unreadable: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Reader<S> {
    /// The next message; pings are answered meanwhile. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Received, Lost> {
        loop {
            match self.message().await? {
                Message::Text(text) => return Ok(Received::Text(text)),
                Message::Binary(data) => return Ok(Received::Binary(data)),
                Message::Ping(payload) | Message::Pong(payload) => {
                    // The header, with its mask.
                    self.progress.control.add(6 + payload.len());
                    self.ration().await;
                }
                Message::Close(_) => return Err(Lost::Left),
                Message::Frame(_) => return Err(Lost::Broken("a frame of its own".to_owned())),
            }
        }
    }

    /// For [`Progress`] while the reader is at work.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    async fn message(&mut self) -> Result<Message, Lost> {
        loop {
            let heard = self.progress.received.bytes();
            let next = poll_fn(|cx| lock(&self.shared).poll_next_unpin(cx));
            let next = match self.silence {
                Some(silence) => patience::within(silence, next).await,
                None => Some(next.await),
            };
            match next {
                Some(Some(Ok(message))) => return Ok(message),
                Some(Some(Err(error))) => {
                    self.unreadable = true;
                    return Err(error.into());
                }
                Some(None) => return Err(Lost::Left),
                None if self.progress.received.bytes() == heard => return Err(Lost::Silent),
                None => {}
            }
        }
    }

    /// Each ping costs a pong: a flood of them is taken no faster than it costs nobody anything.
    async fn ration(&mut self) {
        let now = Instant::now();
        self.next_control = self.next_control.max(unspent(now)) + CONTROL_PERIOD;
        if self.next_control > now {
            sleep_until(self.next_control).await;
        }
    }

    /// Sends a ping every `interval`, unless that is zero; never ends. Where nothing can be sent, nothing is: then there is a
    /// watch over what waits.
    pub fn pings(&self, interval: Duration) -> impl Future<Output = Infallible> + use<S> {
        let shared = self.shared.clone();
        async move {
            loop {
                if interval.is_zero() {
                    std::future::pending::<()>().await;
                }
                sleep(interval).await;
                let _ = Pin::new(&mut *lock(&shared)).start_send(Message::Ping(Bytes::new()));
            }
        }
    }
}

/// [`Reader::next_control`] of a client that has sent none for long.
fn unspent(now: Instant) -> Instant {
    now.checked_sub(CONTROL_BURST * CONTROL_PERIOD).unwrap_or(now)
}

/// What goes.
pub struct Writer<S> {
    shared: Shared<S>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Writer<S> {
    /// Returns when the last byte has been handed to the operating system. Of a message that this is dropped within, the fragment
    /// that was begun still goes out whole.
    pub async fn send_text(&mut self, text: String) -> Result<(), Lost> {
        self.send(Data::Text, fragments(text.into())).await
    }

    /// As [`Self::send_text`], one message of both parts.
    pub async fn send_binary(&mut self, head: Bytes, payload: Bytes) -> Result<(), Lost> {
        if head.len() + payload.len() <= FRAGMENT {
            return self.send(Data::Binary, [[head, payload]]).await;
        }
        self.send(Data::Binary, fragments(head).chain(fragments(payload))).await
    }

    /// `frames`: the payload of each, in two parts.
    async fn send(&mut self, kind: Data, frames: impl IntoIterator<Item = [Bytes; 2]>) -> Result<(), Lost> {
        let mut frames = frames.into_iter().peekable();
        let mut opcode = OpCode::Data(kind);
        while frames.peek().is_some() {
            let (mut together, mut heads) = (Chunks::default(), BytesMut::new());
            for _ in 0..TOGETHER {
                let Some(payload) = frames.next() else { break };
                let header = FrameHeader { is_final: frames.peek().is_none(), opcode, ..FrameHeader::default() };
                let length = payload.iter().map(Bytes::len).sum::<usize>();
                header.format(length as u64, &mut (&mut heads).writer())?;
                together.push(heads.split().freeze());
                payload.into_iter().filter(|part| !part.is_empty()).for_each(|part| together.push(part));
                opcode = OpCode::Data(Data::Continue);
            }
            self.flush().await?;
            lock(&self.shared).get_mut().frames = together;
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Lost> {
        poll_fn(|cx| Pin::new(&mut *lock(&self.shared)).poll_flush(cx)).await.map_err(Lost::from)
    }
}

fn fragments(mut part: Bytes) -> impl Iterator<Item = [Bytes; 2]> {
    let mut first = true;
    std::iter::from_fn(move || {
        let more = !part.is_empty() || first;
        first = false;
        more.then(|| [part.split_to(part.len().min(FRAGMENT)), Bytes::new()])
    })
}

/// The closing handshake, within `patience`; then the connection is cut.
pub async fn close<S>(mut reader: Reader<S>, mut writer: Writer<S>, code: u16, reason: &'static str, patience: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let closing = async {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        if writer.flush().await.is_err() {
            return;
        }
        let _ = Pin::new(&mut *lock(&writer.shared)).start_send(Message::Close(Some(frame)));
        let flushed = writer.flush().await;
        // What the client still sends is read and dropped: a reset would take what it has not read yet.
        while flushed.is_ok() && matches!(reader.message().await, Ok(message) if !message.is_close()) {}
        if reader.unreadable {
            end_of_stream(&reader.shared).await;
        }
    };
    patience::within(patience, closing).await;
}

/// Says that nothing more will come, and drops all that does come until the other side says so too.
async fn end_of_stream<S: AsyncRead + AsyncWrite + Unpin>(shared: &Shared<S>) {
    let ended = poll_fn(|cx| Pin::new(lock(shared).get_mut()).poll_shutdown(cx)).await;
    let mut dropped = [0; 4096];
    while ended.is_ok() {
        let mut buffer = ReadBuf::new(&mut dropped);
        let read = poll_fn(|cx| Pin::new(lock(shared).get_mut()).poll_read(cx, &mut buffer)).await;
        if read.is_err() || buffer.filled().is_empty() {
            break;
        }
    }
}

#[cfg(test)]
mod tests;
