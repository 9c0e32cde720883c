//! The ops port: is the process alive, may it get new work, and its metrics. Kept apart from the public port.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::time::Instant;

use crate::pool::Capacity;
use crate::telemetry::Metrics;

/// Whether new work is welcome. Shared by all who know a reason why not; cheap to clone.
#[derive(Clone, Default)]
pub struct Readiness(Arc<Reasons>);

#[derive(Default)]
struct Reasons {
    started: AtomicBool,
    without_keys: AtomicBool,
    full: AtomicBool,
    draining: AtomicBool,
    capacity: OnceLock<Capacity>,
}

/// Why new work is not welcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotReady {
    /// No worker is ready yet.
    Starting,
    /// No token can be verified yet.
    Keys,
    /// All places for sessions are taken, or another session would be more than can be met.
    Full,
    /// The process is going to end; it won't be ready again.
    Draining,
}

impl NotReady {
    /// The stable name.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Keys => "keys",
            Self::Full => "full",
            Self::Draining => "draining",
        }
    }
}

impl Readiness {
    /// At first it is [`NotReady::Starting`], until [`Self::started`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Work can be done from now on.
    pub fn started(&self) {
        self.0.started.store(true, Ordering::Release);
    }

    /// Whether tokens can be verified, where any is asked for.
    pub fn set_keys(&self, known: bool) {
        self.0.without_keys.store(!known, Ordering::Release);
    }

    /// Whether all places are taken.
    pub fn set_full(&self, full: bool) {
        self.0.full.store(full, Ordering::Release);
    }

    /// What tells whether another session would fit; asked at each check.
    pub fn watch(&self, capacity: Capacity) {
        // It is told once, as the service starts.
        let _ = self.0.capacity.set(capacity);
    }

    /// No new work any more, for good.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Release);
    }

    pub fn check(&self) -> Result<(), NotReady> {
        if self.0.draining.load(Ordering::Acquire) {
            Err(NotReady::Draining)
        } else if !self.0.started.load(Ordering::Acquire) {
            Err(NotReady::Starting)
        } else if self.0.without_keys.load(Ordering::Acquire) {
            Err(NotReady::Keys)
        } else if self.0.full.load(Ordering::Acquire)
            || self.0.capacity.get().is_some_and(|capacity| capacity.is_full(Instant::now()))
        {
            Err(NotReady::Full)
        } else {
            Ok(())
        }
    }
}

#[derive(Clone)]
struct Ops {
    readiness: Readiness,
    metrics: Metrics,
}

/// The routes of the ops port.
pub fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/health/live", get(async || Json(json!({"live": true}))))
        .route("/health/ready", get(ready))
        .route("/metrics", get(scrape))
        .with_state(Ops { readiness, metrics })
}

async fn ready(State(ops): State<Ops>) -> Response {
    match ops.readiness.check() {
        Ok(()) => Json(json!({"ready": true})).into_response(),
        Err(not_ready) => {
            let body = Json(json!({"ready": false, "reason": not_ready.reason()}));
            (StatusCode::SERVICE_UNAVAILABLE, body).into_response()
        }
    }
}

async fn scrape(State(ops): State<Ops>) -> Response {
    match ops.metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics can't be encoded");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;
    use crate::server::{Bounds, serve};

    /// Status and body as a client gets them over a real socket.
    async fn fetched(router: Router, path: &str) -> (u16, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let shutdown = CancellationToken::new();
        let server = serve(listener, router, Bounds::lax(), shutdown.clone(), TaskTracker::new());
        let client = async {
            let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            shutdown.cancel();
            text
        };
        let (text, ()) = tokio::join!(client, server);
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    #[tokio::test]
    async fn ready_says_why_not() {
        let readiness = Readiness::new();
        let ops = router(readiness.clone(), Metrics::new(0));
        let ready = || fetched(ops.clone(), "/health/ready");
        assert_eq!(ready().await, (503, r#"{"ready":false,"reason":"starting"}"#.to_owned()));
        readiness.started();
        assert_eq!(ready().await, (200, r#"{"ready":true}"#.to_owned()));
        readiness.set_keys(false);
        assert_eq!(ready().await, (503, r#"{"ready":false,"reason":"keys"}"#.to_owned()));
        readiness.set_keys(true);
        readiness.set_full(true);
        assert_eq!(ready().await, (503, r#"{"ready":false,"reason":"full"}"#.to_owned()));
        readiness.set_full(false);
        assert_eq!(ready().await.0, 200);
        readiness.drain();
        assert_eq!(ready().await, (503, r#"{"ready":false,"reason":"draining"}"#.to_owned()));
        assert_eq!(fetched(ops, "/health/live").await.0, 200, "a draining process is alive");
    }

    #[tokio::test]
    async fn metrics_are_served_as_text() {
        let metrics = Metrics::new(0);
        let _session = metrics.session();
        let (status, body) = fetched(router(Readiness::new(), metrics), "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("\nsegmill_sessions 1\n"), "{body}");
    }
}
