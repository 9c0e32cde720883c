//! What the handlers share.

use std::sync::Arc;

use axum::http::HeaderMap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Admission;
use super::auth::Auth;
use crate::config::Config;
use crate::session::Context;
use crate::telemetry::metrics::Origin;

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    pub context: Arc<Context>,
    pub config: Arc<Config>,
    pub admission: Admission,
    pub auth: Arc<Auth>,
    /// Cancelled when no more input is to be read.
    pub draining: CancellationToken,
    /// Every session's task.
    pub tracker: TaskTracker,
}

/// Load tests say so in the header `segmill-origin`, and are counted apart.
pub fn origin(headers: &HeaderMap) -> Origin {
    match headers.get("segmill-origin").map(|value| value.as_bytes()) {
        Some(b"loadtest") => Origin::Loadtest,
        _ => Origin::Client,
    }
}
