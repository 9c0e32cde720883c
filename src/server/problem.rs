//! Refusals over HTTP: `application/problem+json` (RFC 9457), by the protocol's codes.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::protocol;
use crate::session::Fatal;

/// Seconds after which a refused client may try again, where nothing better is known: about a segment's time.
const RETRY_AFTER_S: u64 = 2;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The stable code.
    pub code: String,
    /// The status in words.
    pub title: String,
    /// A sentence for a person.
    pub detail: String,
    /// Of a 503, seconds in `Retry-After`.
    #[serde(skip)]
    retry_after_s: Option<u64>,
}

impl Problem {
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Self::with_status(protocol::http_status(code), code, detail)
    }

    pub fn with_status(status: u16, code: &str, detail: impl Into<String>) -> Self {
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
        Self { status, code: code.to_owned(), title: title.to_owned(), detail: detail.into(), retry_after_s: None }
    }

    /// When the same may succeed.
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after_s: Some(wait.as_secs().max(1)), ..self }
    }
}

impl From<&Fatal> for Problem {
    fn from(fatal: &Fatal) -> Self {
        Self::new(fatal.code, fatal.message.clone())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after_s = self.retry_after_s.unwrap_or(RETRY_AFTER_S);
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(retry_after_s));
        }
        response
    }
}
