//! JSON over HTTP with a token, as the platform's APIs speak it. What only asks is asked again where that may help; what
//! changes something is sent once, and the caller decides.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, Request, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::Full;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::http::{self, Client};
use super::token::Tokens;

/// How long one exchange may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Most bytes of an answer.
const MOST: usize = 4 << 20;
/// How often a question is asked before it is given up.
const TRIES: u32 = 4;
/// The wait after the first; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// Most characters of what a server says of an error.
const MAX_MESSAGE: usize = 300;

/// Why an API has not answered as it should. Holds no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("no token: {0}")]
    Token(String),
    #[error("{host} does not answer: {error}")]
    Unreachable { host: String, error: http::Error },
    #[error("{host} answers {status}: {message}")]
    Refused { host: String, status: u16, message: String },
    #[error("{host} answers what can't be read: {message}")]
    Unreadable { host: String, message: String },
    #[error("the change was taken, and has failed: {0}")]
    Failed(String),
    #[error("the change was taken, and is not over after {0:?}")]
    Unfinished(Duration),
}

impl Error {
    /// Whether the same may succeed a little later.
    pub fn passes(&self) -> bool {
        match self {
            Self::Refused { status, .. } => matches!(status, 408 | 429 | 500..),
            Self::Unreachable { error, .. } => !matches!(error, http::Error::TooLong(_)),
            _ => false,
        }
    }

    /// Whether what was asked for may have been done all the same, or can be once others are through.
    pub fn leaves_open(&self) -> bool {
        self.passes()
            || self.is_conflict()
            || matches!(self, Self::Unreachable { .. } | Self::Unreadable { .. } | Self::Unfinished(_))
    }

    /// Whether somebody else has changed the same meanwhile.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409 | 412, .. })
    }
}

/// An error as the platform's APIs word it.
#[derive(Deserialize)]
struct Worded {
    error: Words,
}

#[derive(Deserialize)]
struct Words {
    #[serde(default)]
    message: String,
}

/// One API.
pub struct Api {
    /// Without a slash at its end.
    base: String,
    host: String,
    client: Client,
    tokens: Arc<Tokens>,
}

impl Api {
    /// # Errors
    /// The system's roots can't be read.
    pub fn new(base: &Uri, tokens: Arc<Tokens>) -> std::io::Result<Self> {
        let host = base.host().unwrap_or_default().to_owned();
        let client = Client::new(base)?;
        Ok(Self { base: base.to_string().trim_end_matches('/').to_owned(), host, client, tokens })
    }

    /// Asks, and again while that may help.
    pub async fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Body) -> Result<T, Error> {
        let mut wait = FIRST_WAIT;
        for _ in 1..TRIES {
            match self.send(method.clone(), path, body.clone()).await {
                Err(error) if error.passes() => tracing::debug!(%error, "asked again"),
                answer => return answer,
            }
            tokio::time::sleep(super::jittered(wait)).await;
            wait *= 2;
        }
        self.send(method, path, body).await
    }

    /// Asks once.
    pub async fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: Body) -> Result<T, Error> {
        let unreadable = |message: String| Error::Unreadable { host: self.host.clone(), message };
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(token) = self.tokens.header().await.map_err(Error::Token)? {
            request = request.header(header::AUTHORIZATION, token);
        }
        request = request.header(header::ACCEPT, "application/json");
        let (kind, bytes) = match body {
            Body::None => (None, Bytes::new()),
            Body::Json(bytes) => (Some("application/json"), bytes),
            Body::Form(bytes) => (Some("application/x-www-form-urlencoded"), bytes),
        };
        if let Some(kind) = kind {
            request = request.header(header::CONTENT_TYPE, kind);
        }
        let request = request.body(Full::new(bytes)).map_err(|error| unreadable(error.to_string()))?;
        let unreachable = |error| Error::Unreachable { host: self.host.clone(), error };
        let (status, answer) = self.client.ask(request, MOST, PATIENCE).await.map_err(unreachable)?;
        if !status.is_success() {
            if status == StatusCode::UNAUTHORIZED {
                self.tokens.forget();
            }
            return Err(Error::Refused { host: self.host.clone(), status: status.as_u16(), message: words(&answer) });
        }
        serde_json::from_slice(&answer).map_err(|error| unreadable(error.to_string()))
    }
}

/// What is sent along.
#[derive(Clone)]
pub enum Body {
    None,
    Json(Bytes),
    Form(Bytes),
}

/// What a server says of its refusal, on one line.
fn words(answer: &[u8]) -> String {
    let text = match serde_json::from_slice::<Worded>(answer) {
        Ok(worded) => worded.error.message,
        Err(_) => String::from_utf8_lossy(&answer[..answer.len().min(4 * MAX_MESSAGE)]).into_owned(),
    };
    text.escape_debug().take(MAX_MESSAGE).collect()
}
