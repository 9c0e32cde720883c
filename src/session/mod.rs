//! One client's stream: the flow from its bytes to its receipts, in one visible place.
//!
//! [`run`] joins the two halves. [`intake`] reads, demuxes, cuts, and reserves a place for each segment: when all
//! places are taken it stops reading, and that is the only backpressure. [`delivery`] waits for the segments in
//! order, muxes and sends them. Sockets and HTTP bodies stay outside, behind [`Incoming`] and [`Outlet`].

mod ahead;
mod allowance;
mod captions;
mod degrade;
mod delivery;
mod events;
mod intake;
mod live;
mod output;
mod resume;
mod schedule;
mod scratch;
mod tracks;
mod wanted;
mod work;

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{Semaphore, mpsc};

pub use allowance::{Allowance, Meter, Rate};
pub use resume::{Leave, Leaving, Tokens, stays};
pub use scratch::Scratch;
pub use wanted::Wanted;

use crate::config::Config;
use crate::ladder;
use crate::media::demux;
use crate::pool::{Pool, Reservation};
use crate::protocol::{BinaryHeader, Done, MoveReason, ServerMessage};
use crate::segment;
use crate::telemetry::metrics::{Metrics, Operation, Origin};

/// Most outputs in a session.
const MAX_OUTPUTS: usize = 16;

/// What all sessions share.
pub struct Context {
    pub pool: Pool,
    pub metrics: Metrics,
    pub settings: Settings,
    pub scratch: Arc<Scratch>,
    pub tokens: Tokens,
}

/// Bounds of a session.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// `target_ms` is the default, which a client may change; `max_skew_ms` follows from its mode.
    pub segment: segment::Settings,
    pub ladder: ladder::Limits,
    pub demux: demux::Limits,
    /// Most segments between the cut and their delivery.
    pub in_flight: usize,
}

impl Settings {
    pub fn new(config: &Config) -> Self {
        let segments = &config.segments;
        let max_bytes = usize::try_from(segments.max_bytes).unwrap_or(usize::MAX);
        Self {
            segment: segment::Settings {
                target_ms: segments.segment_ms,
                max_ms: u32::try_from(segments.max_gop.as_millis()).unwrap_or(u32::MAX),
                max_frames: segments.max_frames as usize,
                max_bytes,
                max_skew_ms: 0,
            },
            ladder: ladder::Limits { max_pixels: u64::from(segments.max_pixels), max_outputs: MAX_OUTPUTS },
            demux: demux::Limits {
                unit_bytes: max_bytes.min(demux::Limits::default().unit_bytes),
                ..demux::Limits::default()
            },
            in_flight: config.segments_in_flight,
        }
    }
}

/// What comes from a client.
#[derive(Debug)]
pub enum Incoming {
    /// The next bytes of the programme.
    Media(Bytes),
    /// No more bytes will come.
    Finish,
}

/// What goes to a client.
#[derive(Debug, Clone)]
pub enum Outgoing {
    Message(ServerMessage),
    Binary(BinaryHeader, Bytes),
}

/// The client's end: takes messages, and answers when the last byte has been handed on.
pub trait Outlet: Send {
    fn send(&mut self, outgoing: Outgoing) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// Why nothing more can be sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// It is not there any more.
    Left,
    /// It did not take in time what was sent to it.
    Slow,
    /// It didn't answer a ping.
    Silent,
}

impl Gone {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Left => "client_gone",
            Self::Slow => "slow_client",
            Self::Silent => "ping_timeout",
        }
    }
}

impl From<Gone> for Ended {
    fn from(gone: Gone) -> Self {
        Self::Gone(gone)
    }
}

/// Why a session ended before its stream did.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Fatal {
    /// The stable code.
    pub code: &'static str,
    /// A sentence for a person.
    pub message: String,
    /// The output that it is about.
    pub output: Option<String>,
}

impl Fatal {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), output: None }
    }

    /// Whether the same may go well at another time, or elsewhere.
    pub fn retryable(&self) -> bool {
        matches!(self.code, "internal" | "full" | "closing" | "scratch_failed")
    }
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ended {
    Done(Done),
    Fatal(Fatal),
    /// It goes on elsewhere.
    Moved(MoveReason),
    /// The client went away, or is as good as gone.
    Gone(Gone),
}

/// Who asks, and through what.
#[derive(Debug, Clone, Copy)]
pub struct Caller {
    pub op: Operation,
    pub origin: Origin,
}

/// Runs a session to its end. All messages but `ready` are sent from here; `done`, `moved` or a fatal `error` is the
/// last. What it needs is taken note of in its reservation.
pub async fn run(
    context: Arc<Context>,
    caller: Caller,
    wanted: Wanted,
    incoming: impl Stream<Item = Result<Incoming, Fatal>> + Send,
    outlet: impl Outlet,
    leaving: Leaving,
    reservation: &Reservation,
) -> Ended {
    let places = Arc::new(Semaphore::new(context.settings.in_flight));
    // Bounded by the places: a slot is sent only with a permit in it; the rest are a few messages of the set-up.
    let (queue, slots) = mpsc::channel(context.settings.in_flight + 4);
    let (notices, notified) = mpsc::channel(4);
    let survival = wanted.survival.clone();
    let ways = intake::Ways { queue, notices, leaving: leaving.clone(), reservation };
    let intake = intake::run(context.clone(), caller, wanted, incoming, places, ways);
    let delivery = delivery::run(context, (caller, survival), slots, (notified, leaving), outlet);
    tokio::pin!(intake, delivery);
    tokio::select! {
        // Delivery ends first where the client has gone or nothing can be made of its media: no more is read then.
        ended = &mut delivery => return ended,
        () = &mut intake => {}
    }
    delivery.await
}
