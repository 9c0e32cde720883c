//! Takes alerts that are pushed here (Pub/Sub, of Cloud Monitoring), looks at the canary, and takes it back if it is bad.
//!
//! Who pushes has to show a token of the account that may. What the message says is believed in so far as it is worth a
//! look: whether the canary is bad is asked of Prometheus. An answer of 2xx means that nothing is left to do; with any
//! other the message comes again.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::auth::{self, Access, Auth};
use super::problem::Problem;
use super::{Bounds, wire};
use crate::cloud::jittered;
use crate::config;
use crate::rollout::decide::Refusal;
use crate::rollout::steward::{Asked, Error, Steward};
use crate::rollout::watch::Look;
use crate::telemetry::Metrics;

/// Most bytes of a message. Pub/Sub's own limit is higher; an alert is never so long.
const MOST: usize = 1 << 20;
/// Most connections; Pub/Sub needs a few.
const CONNECTIONS: usize = 256;
/// How long a client may take for its header, or to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long what has begun may go on after a signal: Cloud Run kills at 10 s.
const DRAIN: Duration = Duration::from_millis(8500);

/// Whose alerts are taken, and what is done without any.
pub struct Terms {
    /// The e-mail address of the account that pushes.
    pub account: String,
    /// How often the canary is looked at all the same; zero: never.
    pub every: Duration,
    /// Whether a canary that does well gets more traffic when its step is over.
    pub advance: bool,
}

/// The running service.
pub struct Alerts {
    pub address: SocketAddr,
    shutdown: CancellationToken,
    tracker: TaskTracker,
}

#[derive(Clone)]
struct Desk {
    steward: Arc<Steward>,
    account: Arc<str>,
    /// One looks at a time: who comes meanwhile finds it done.
    one: Arc<Semaphore>,
    tracker: TaskTracker,
}

impl Alerts {
    pub async fn start(listen: SocketAddr, steward: Steward, auth: &config::Auth, terms: Terms) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        let metrics = Metrics::new(0);
        let (auth, fetcher) = Auth::new(auth, metrics.clone())?;
        if let Some(fetcher) = fetcher {
            tracker.spawn(shutdown.clone().run_until_cancelled_owned(fetcher.run()));
        }
        let desk = Desk {
            steward: Arc::new(steward),
            account: terms.account.into(),
            one: Arc::new(Semaphore::new(1)),
            tracker: tracker.clone(),
        };
        if !terms.every.is_zero() {
            let ticks = desk.clone().tick(terms.every, terms.advance, shutdown.clone());
            tracker.spawn(ticks);
        }
        let router = Router::new()
            .route("/", post(pushed))
            .route_layer(middleware::from_fn_with_state(Arc::new(auth), auth::tokens))
            .route("/health/live", get(async || Json(json!({"live": true}))))
            .layer(DefaultBodyLimit::max(MOST))
            .with_state(desk);
        let drain = wire::Drain::new(PATIENCE, 1);
        let bounds = Bounds { most: CONNECTIONS, header_timeout: PATIENCE, drain, metrics };
        tracker.spawn(super::serve(listener, router, bounds, shutdown.clone(), tracker.clone()));
        Ok(Self { address, shutdown, tracker })
    }

    /// Takes no more, and finishes what has begun.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tracker.close();
        if timeout(DRAIN, self.tracker.wait()).await.is_err() {
            tracing::warn!(tasks = self.tracker.len(), "drain timed out");
        }
    }
}

impl Desk {
    /// Looks at the release, one at a time.
    async fn look(&self) -> Result<Look, Error> {
        let _turn = self.one.acquire().await;
        let view = self.steward.view(None).await?;
        self.steward.look(view).await
    }

    async fn tick(self, every: Duration, advance: bool, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(sleep(jittered(every))).await.is_some() {
            // What has begun is finished: a token in the middle of a change leaves it to nobody.
            match self.look().await {
                Ok(Look::Goes(canary, verdict)) if advance && canary.percent < 100 && verdict.pending.is_empty() => {
                    let asked = Asked { revision: Some(canary.revision), ..Asked::default() };
                    match self.steward.promote(&asked).await {
                        Ok(done) => tracing::info!(changed = done.changed, shares = ?done.shares, "the canary goes on"),
                        Err(Error::Refused(Refusal::TooEarly { .. })) => {}
                        Err(error) => tracing::warn!(%error, "the canary does not go on"),
                    }
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the canary is not seen"),
            }
        }
    }
}

/// What Pub/Sub pushes.
#[derive(Deserialize)]
struct Envelope {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    data: String,
    #[serde(default, rename = "messageId")]
    id: String,
}

/// What Cloud Monitoring says.
#[derive(Deserialize)]
struct Notification {
    incident: Incident,
}

#[derive(Deserialize)]
struct Incident {
    #[serde(default)]
    state: String,
    #[serde(default)]
    policy_name: String,
}

/// None where it is no alert.
fn incident(body: &[u8]) -> Option<(String, Incident)> {
    let envelope: Envelope = serde_json::from_slice(body).ok()?;
    let data = STANDARD.decode(&envelope.message.data).ok()?;
    let notification: Notification = serde_json::from_slice(&data).ok()?;
    Some((envelope.message.id, notification.incident))
}

async fn pushed(State(desk): State<Desk>, request: Request) -> Response {
    if Access::of(request.extensions()).email() != Some(&*desk.account) {
        tracing::warn!("an alert was pushed by another account");
        return Problem::with_status(403, "unauthorized", "this account may not push").into_response();
    }
    let Ok(body) = axum::body::to_bytes(request.into_body(), MOST).await else {
        return Problem::with_status(413, "media_limit", "the message is too long").into_response();
    };
    // It would be no better the next time.
    let Some((id, incident)) = incident(&body) else {
        tracing::warn!(bytes = body.len(), "what was pushed is no alert");
        return StatusCode::NO_CONTENT.into_response();
    };
    let (policy, state) = (incident.policy_name.escape_debug().to_string(), incident.state);
    tracing::info!(id = %id.escape_debug(), policy, open = state == "open", "an alert");
    if state == "closed" {
        return StatusCode::NO_CONTENT.into_response();
    }
    // Who pushes may go away in the middle of it.
    let looking = desk.tracker.clone().spawn(async move { desk.look().await });
    match looking.await {
        Ok(Ok(Look::Goes(_, verdict))) if !verdict.pending.is_empty() || !verdict.as_bad.is_empty() => {
            again("the canary may be bad: look again later")
        }
        Ok(Ok(_)) => StatusCode::NO_CONTENT.into_response(),
        Ok(Err(error)) => {
            tracing::error!(%error, "an alert, and the canary is not seen");
            again("the canary is not seen: look again later")
        }
        Err(_) => again("it broke off: look again later"),
    }
}

fn again(why: &str) -> Response {
    Problem::with_status(503, "full", why).into_response()
}
