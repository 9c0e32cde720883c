//! HTTP bodies as a session's two ends: a request body in, messages out through a bounded channel.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::router::App;
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
    let context = Arc::clone(&app.context);
    let session = async move {
        let ended = session::run(context, caller, wanted, incoming, Channel(sender)).await;
        drop(admitted);
        ended
    };
    (receiver, app.tracker.spawn(session))
}

struct Channel(mpsc::Sender<Outgoing>);

impl Outlet for Channel {
    async fn send(&mut self, outgoing: Outgoing) -> Result<(), Gone> {
        self.0.send(outgoing).await.map_err(|_| Gone)
    }
}

/// One chunk as a stream, for bodies that have been read already.
pub(super) fn once(media: Bytes) -> impl Stream<Item = Result<Incoming, Fatal>> + Send + 'static {
    stream::iter([Ok(Incoming::Media(media)), Ok(Incoming::Finish)])
}
