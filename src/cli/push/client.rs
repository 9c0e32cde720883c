//! One session seen from the client: connects, sends, takes what comes, keeps it, acknowledges it.
//!
//! Sending and receiving go side by side, so that a service that stops reading can still be heard. What the service may
//! send in which order is `order`'s to check.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::order::{Checked, Order, Violation};
use super::output::Output;
use super::source::{Pace, Source};
use crate::protocol::{ClientMessage, Done, ErrorMessage, SUBPROTOCOL, ServerMessage, Start, decode_binary};

/// Largest message from the service: a segment of several seconds at a very high rate.
const MAX_MESSAGE: usize = 512 << 20;

/// After all is sent, or sending failed, how long the service may stay silent.
const SILENCE: Duration = Duration::from_secs(300);

/// How long a connection may take to open.
const CONNECT: Duration = Duration::from_secs(20);

/// Why a session did not end with `done`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no connection to {url}: {reason}")]
    Connect { url: String, reason: String },
    #[error("the connection was lost: {0}")]
    Lost(String),
    #[error("{code}: {message}")]
    Refused { close: u16, code: String, message: String },
    #[error("the service broke the protocol: {0}")]
    Violation(#[from] Violation),
    #[error("the input can't be read: {0}")]
    Input(io::Error),
    #[error("the output can't be written: {0}")]
    Output(io::Error),
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A whole session with the service at `url`.
pub async fn run(url: &str, start: Start, source: Source, real_time: bool, output: &mut Output) -> Result<Done, Error> {
    let socket = connect(url).await?;
    let (sink, stream) = socket.split();
    let (acks, acked) = watch::channel(0);
    let (delivered, played) = watch::channel(Duration::ZERO);
    let pace = if real_time { source.real_time(played) } else { Pace::Free };
    let (messages, queue) = mpsc::channel(4);
    let reading = source.send(pace, messages);
    let writing = write(sink, start, queue, acked, output.sent());
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
    let receiving = receive(stream, acks, delivered, output);
    tokio::pin!(sending, receiving);
    tokio::select! {
        done = &mut receiving => return done,
        sent = &mut sending => sent?,
    }
    receiving.await
}

async fn connect(url: &str) -> Result<Socket, Error> {
    let failed = |reason: String| Error::Connect { url: url.to_owned(), reason };
    let mut request = url.into_client_request().map_err(|error| failed(error.to_string()))?;
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    let opening = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
    match tokio::time::timeout(CONNECT, opening).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(tungstenite::Error::Http(response))) => {
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            Err(failed(format!("{} {}", response.status(), body.trim())))
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

/// Everything up to the close. Each receipt is acknowledged when what it is for is on disk.
async fn receive(
    mut stream: SplitStream<Socket>,
    acks: watch::Sender<u64>,
    delivered: watch::Sender<Duration>,
    output: &mut Output,
) -> Result<Done, Error> {
    let mut order = Order::default();
    let mut refusal: Option<ErrorMessage> = None;
    let mut done = None;
    loop {
        let message = match tokio::time::timeout(SILENCE, stream.next()).await {
            Ok(Some(Ok(message))) => message,
            Ok(Some(Err(error))) => return ended(None, done, refusal, &error.to_string()),
            Ok(None) => return ended(None, done, refusal, "it was closed without a reason"),
            Err(_) => return Err(Error::Lost(format!("nothing came for {} s", SILENCE.as_secs()))),
        };
        match message {
            Message::Text(text) => {
                let value: serde_json::Value = serde_json::from_str(&text).map_err(|_| Violation::NotJson)?;
                output.text(&value);
                let Some(message) = order.text(value)? else { continue };
                match message {
                    ServerMessage::Tracks(tracks) => output.tracks(&tracks),
                    ServerMessage::Receipt(receipt) => {
                        output.receipt(&receipt).await.map_err(Error::Output)?;
                        let end = receipt.start_ms.saturating_add(receipt.duration_ms);
                        let played = end.saturating_sub(order.first_start_ms()).max(0).cast_unsigned();
                        delivered.send_replace(Duration::from_millis(played));
                        acks.send_replace(receipt.seq);
                    }
                    ServerMessage::Error(error) => {
                        output.error(&error);
                        if error.fatal {
                            refusal = Some(error);
                        }
                    }
                    ServerMessage::Done(end) => done = Some(end),
                    ServerMessage::Ready(_) | ServerMessage::Pressure(_) => {}
                }
            }
            Message::Binary(message) => {
                let (header, payload) = decode_binary(message).ok_or(Violation::MalformedBinary)?;
                output.header(&header);
                match order.binary(&header, &payload)? {
                    Checked::Init(init) => output.init(init, &payload).await.map_err(Error::Output)?,
                    Checked::Segment(segment) => output.segment(segment, &payload).await.map_err(Error::Output)?,
                }
            }
            Message::Close(frame) => return ended(frame, done, refusal, "it was closed without a code"),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
        }
    }
}

/// What a close means, with what was said before it.
fn ended(
    frame: Option<CloseFrame>,
    done: Option<Done>,
    refusal: Option<ErrorMessage>,
    otherwise: &str,
) -> Result<Done, Error> {
    let close = frame.as_ref().map(|frame| u16::from(frame.code));
    match (done, refusal, frame) {
        (Some(done), _, _) => Ok(done),
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
