//! HTTP bodies as a session's two ends: a request body in, messages out through a bounded channel.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::app::App;
use crate::session::{self, Caller, Ended, Fatal, Gone, Incoming, Outgoing, Outlet, Wanted};

/// Messages between a session and an HTTP response.
const QUEUE: usize = 2;

/// A request body as a session reads it. Ends with the body, or with what is wrong.
pub(super) fn incoming(app: &App, body: Body) -> impl Stream<Item = Result<Incoming, Fatal>> + Send + 'static {
    let idle = app.config.sessions.idle_timeout;
    let draining = app.draining.clone();
    let body = Some(body.into_data_stream());
    stream::unfold(body, move |body| {
        let draining = draining.clone();
        async move {
            let mut body = body?;
            let next = tokio::select! {
                next = timeout(idle, body.next()) => next,
                () = draining.cancelled() => {
                    return Some((Err(Fatal::new("closing", "the service is shutting down")), None));
                }
            };
            Some(match next {
                Ok(Some(Ok(bytes))) => (Ok(Incoming::Media(bytes)), Some(body)),
                Ok(None) => (Ok(Incoming::Finish), None),
                Ok(Some(Err(_))) => (Err(Fatal::new("client_gone", "the request body broke off")), None),
                Err(_) => (Err(Fatal::new("idle_timeout", "the client sent nothing for too long")), None),
            })
        }
    })
}

/// A session that runs on its own, and its messages. Dropping the receiver ends it.
pub(super) fn start(
    app: &App,
    caller: Caller,
    wanted: Wanted,
    incoming: impl Stream<Item = Result<Incoming, Fatal>> + Send + 'static,
    admitted: super::admission::Admitted,
) -> (mpsc::Receiver<Outgoing>, tokio::task::JoinHandle<Ended>) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let outlet = Channel { sender, patience: app.config.sessions.write_timeout };
    let context = Arc::clone(&app.context);
    let session = async move {
        let ended =
            session::run(context, caller, wanted, incoming, outlet, session::stays(), &admitted.reservation).await;
        drop(admitted);
        ended
    };
    (receiver, app.tracker.spawn(session))
}

struct Channel {
    sender: mpsc::Sender<Outgoing>,
    /// How long the client may take to make room.
    patience: Duration,
}

impl Outlet for Channel {
    async fn send(&mut self, outgoing: Outgoing) -> Result<(), Gone> {
        let sent = timeout(self.patience, self.sender.send(outgoing)).await;
        sent.map_err(|_| Gone::Slow)?.map_err(|_| Gone::Left)
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
    use super::*;
    use crate::protocol::{Pressure, PressureLevel, ServerMessage};

    #[tokio::test(start_paused = true)]
    async fn a_client_that_stops_reading_its_answer_is_gone_after_a_while() {
        let (sender, _receiver) = mpsc::channel(1);
        let mut outlet = Channel { sender, patience: Duration::from_secs(30) };
        let message =
            || Outgoing::Message(ServerMessage::Pressure(Pressure { level: PressureLevel::None, queued_ms: 0 }));
        assert_eq!(outlet.send(message()).await, Ok(()));
        assert_eq!(outlet.send(message()).await, Err(Gone::Slow));
    }

    #[tokio::test]
    async fn a_body_over_its_bound_is_refused_by_name() {
        let chunk = |_| Ok(Incoming::Media(Bytes::from_static(b"0123")));
        let codes = bounded(stream::iter(0..3).map(chunk), 8).map(|next| next.map(drop).map_err(|fatal| fatal.code));
        assert_eq!(codes.collect::<Vec<_>>().await, [Ok(()), Ok(()), Err("media_limit")]);
    }
}
