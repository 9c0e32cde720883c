//! Refusals over HTTP: `application/problem+json` (RFC 9457), by the protocol's codes.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::protocol;
use crate::session::Fatal;

/// Seconds after which a refused client may try again: about a segment's time.
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
}

impl Problem {
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        Self::with_status(protocol::http_status(code), code, detail)
    }

    pub fn with_status(status: u16, code: &str, detail: impl Into<String>) -> Self {
        let title = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Error");
        Self { status, code: code.to_owned(), title: title.to_owned(), detail: detail.into() }
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
        let mut response = (status, Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        response
    }
}
