//! HTTP bodies as a session's two ends: a request body in, messages out through a bounded channel.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;

use super::admission::{self, Admitted, Seat};
use super::app::App;
use super::auth::Share;
use super::pace::Pace;
use super::wire::{Counter, Drain};
use crate::session::{self, Caller, Ended, Fatal, Gone, Incoming, Outgoing, Outlet, Wanted};

/// Messages between a session and an HTTP response.
const QUEUE: usize = 2;
/// Most bytes of a response that are handed on at once: what is taken of it is counted in these.
const PIECE: usize = 16 << 10;

/// A request body as a session reads it. Ends with the body, or with what is wrong.
pub(super) fn incoming(app: &App, body: Body) -> impl Stream<Item = Result<Incoming, Fatal>> + Send + 'static {
    watched(app, body)
        .map(|next| next.map(Incoming::Media))
        .chain(stream::once(std::future::ready(Ok(Incoming::Finish))))
        .scan(false, |failed, next| {
            let last = std::mem::replace(failed, next.is_err());
            std::future::ready((!last).then_some(next))
        })
}

/// The bytes of a request body, as long as they come fast enough and the service goes on. An error is the last.
pub(super) fn watched(app: &App, body: Body) -> impl Stream<Item = Result<Bytes, Fatal>> + Send + 'static {
    let draining = app.draining.clone();
    let reading = Some((body.into_data_stream(), Pace::new(&app.config.sessions), Counter::default()));
    stream::unfold(reading, move |reading| {
        let draining = draining.clone();
        async move {
            let (mut body, mut pace, came) = reading?;
            let next = tokio::select! {
                next = pace.wait(|| came.bytes(), body.next()) => next,
                () = draining.cancelled() => {
                    return Some((Err(Fatal::new("closing", "the service is shutting down")), None));
                }
            };
            match next {
                Ok(Some(Ok(bytes))) => {
                    came.add(bytes.len());
                    Some((Ok(bytes), Some((body, pace, came))))
                }
                Ok(None) => None,
                Ok(Some(Err(_))) => Some((Err(Fatal::new("client_gone", "the request body broke off")), None)),
                Err(slow) => Some((Err(slow.fatal()), None)),
            }
        }
    })
}

/// A session that runs on its own, and its messages. Dropping the answer ends it.
pub(super) fn start(
    app: &App,
    caller: Caller,
    wanted: Wanted,
    incoming: impl Stream<Item = Result<Incoming, Fatal>> + Send + 'static,
    (admitted, share): (Admitted, Share),
) -> (Answer, tokio::task::JoinHandle<Ended>) {
    let (outlet, answer) = channel(Drain::of(&app.config.connections));
    let context = Arc::clone(&app.context);
    let incoming = while_seated(incoming, admitted.seat.clone());
    let session = async move {
        let reservation = admitted.reservation();
        let running = session::run(context, caller, wanted, incoming, outlet, session::stays(), reservation);
        let ended = Box::pin(running).await;
        drop((admitted, share));
        ended
    };
    (answer, app.tracker.spawn(session))
}

/// The same until another has the session's place.
fn while_seated(
    incoming: impl Stream<Item = Result<Incoming, Fatal>> + Send + 'static,
    seat: Arc<Seat>,
) -> impl Stream<Item = Result<Incoming, Fatal>> + Send + 'static {
    stream::unfold(Some((Box::pin(incoming), seat)), |reading| async {
        let (mut incoming, seat) = reading?;
        tokio::select! {
            biased;
            () = seat.crowded_out() => Some((Err(admission::crowded_out()), None)),
            next = incoming.next() => {
                if let Some(Ok(Incoming::Media(media))) = &next {
                    seat.came(media.len());
                }
                Some((next?, Some((incoming, seat))))
            }
        }
    })
}

fn channel(drain: Drain) -> (Channel, Answer) {
    let (sender, messages) = mpsc::channel(QUEUE);
    let taken = Counter::default();
    (Channel { sender, taken: taken.clone(), drain }, Answer { messages, taken })
}

/// What a session has to say.
pub(super) struct Answer {
    messages: mpsc::Receiver<Outgoing>,
    taken: Counter,
}

impl Answer {
    pub async fn next(&mut self) -> Option<Outgoing> {
        self.messages.recv().await
    }

    /// The first bytes of `payload`, as many as are handed to the client at once; there must be some.
    pub fn piece(&self, payload: &mut Bytes) -> Bytes {
        let piece = payload.split_to(payload.len().min(PIECE));
        self.taken.add(piece.len());
        piece
    }
}

struct Channel {
    sender: mpsc::Sender<Outgoing>,
    taken: Counter,
    drain: Drain,
}

impl Outlet for Channel {
    async fn send(&mut self, outgoing: Outgoing) -> Result<(), Gone> {
        let sent = self.drain.watch(&self.taken, self.sender.send(outgoing)).await;
        sent.ok_or(Gone::Slow)?.map_err(|_| Gone::Left)
    }
}

/// The same up to `most` bytes of media; past it, `media_limit`.
pub(super) fn bounded(
    incoming: impl Stream<Item = Result<Incoming, Fatal>> + Send + 'static,
    most: u64,
) -> impl Stream<Item = Result<Incoming, Fatal>> + Send + 'static {
    incoming.scan(0, move |sum: &mut u64, next| {
        if let Ok(Incoming::Media(bytes)) = &next {
            *sum += bytes.len() as u64;
        }
        let next =
            if *sum > most { Err(Fatal::new("media_limit", format!("the body is over {most} bytes"))) } else { next };
        std::future::ready(Some(next))
    })
}

/// One chunk as a stream, for bodies that have been read already.
pub(super) fn once(media: Bytes) -> impl Stream<Item = Result<Incoming, Fatal>> + Send + 'static {
    stream::iter([Ok(Incoming::Media(media)), Ok(Incoming::Finish)])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::{Pressure, PressureLevel, ServerMessage};

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_its_answer_is_gone_after_a_while() {
        let message =
            || Outgoing::Message(ServerMessage::Pressure(Pressure { level: PressureLevel::None, queued_ms: 0 }));
        let (mut outlet, answer) = channel(Drain::new(Duration::from_secs(30), 1024));
        for _ in 0..QUEUE {
            assert_eq!(outlet.send(message()).await, Ok(()));
        }
        // Slow, but it goes on: a large message is taken a piece at a time.
        let mut large = Bytes::from(vec![0; 100 * PIECE]);
        let taking = async {
            while !large.is_empty() {
                tokio::time::sleep(Duration::from_secs(10)).await;
                answer.piece(&mut large);
            }
            std::future::pending::<()>().await
        };
        let begun = tokio::time::Instant::now();
        let sent = tokio::select! {
            sent = outlet.send(message()) => sent,
            () = taking => unreachable!("it never ends"),
        };
        assert_eq!(sent, Err(Gone::Slow));
        assert!((1000..1100).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn a_body_over_its_bound_is_refused_by_name() {
        let chunk = |_| Ok(Incoming::Media(Bytes::from_static(b"0123")));
        let codes = bounded(stream::iter(0..3).map(chunk), 8).map(|next| next.map(drop).map_err(|fatal| fatal.code));
        assert_eq!(codes.collect::<Vec<_>>().await, [Ok(()), Ok(()), Err("media_limit")]);
    }
}
