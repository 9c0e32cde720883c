//! Who may come in: one layer in front of every route, for HTTP and the WebSocket's upgrade alike, before any work is done
//! and any place is taken. The ops port has none.
//!
//! First the page that asks ([`origin`]), then its token: where it is ([`bearer`]), whether it holds ([`jwt`]), by keys
//! of the configuration or those that the issuer publishes ([`jwks`]). Last, for what takes a place, how much its owner has
//! taken already ([`quotas`]). Tokens and what is in them are in no log.

pub mod bearer;
mod jwks;
mod jwt;
mod origin;
mod quotas;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tokio::time::Instant;
use tower_http::cors::{AllowOrigin, CorsLayer};

pub use self::jwks::Fetcher;
use self::jwks::Published;
pub use self::jwt::Bearer;
use self::jwt::{Limits, Refused, Rules};
use self::origin::Origins;
use self::quotas::Quotas;
pub use self::quotas::Share;
use super::app::App;
use super::problem::Problem;
use crate::config::{self, VerifyingKeys};
use crate::telemetry::Metrics;

/// For how long a browser may remember what another origin's page may do.
const PREFLIGHT: Duration = Duration::from_secs(600);

/// Decides who comes in.
pub struct Auth {
    origins: Arc<Origins>,
    /// None where no token is asked for.
    tokens: Option<(Rules, Keys)>,
    quotas: Quotas,
    metrics: Metrics,
}

enum Keys {
    Fixed(VerifyingKeys),
    Published(Published),
}

/// Who came in; an extension of the request.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// When the token ends, leeway included; None where there is none, or never.
    pub until: Option<Instant>,
    bearer: Option<Bearer>,
}

impl Access {
    /// Of a request that came through [`tokens`].
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_default()
    }

    /// The address of the token's owner, where the issuer has verified it.
    pub fn email(&self) -> Option<&str> {
        self.bearer.as_ref()?.email.as_deref()
    }

    /// Takes one of the sessions that the token's owner may have.
    ///
    /// # Errors
    /// 429 with Retry-After.
    pub fn open(&self, app: &App) -> Result<Share, Problem> {
        let Some(bearer) = &self.bearer else { return Ok(Share::default()) };
        app.auth.quotas.open(bearer).ok_or_else(|| {
            app.auth.metrics.session_rejected("quota_exceeded");
            Problem::new("quota_exceeded", "this token's owner has as many sessions as it may")
        })
    }
}

impl Auth {
    /// With the one who fetches the keys, where they are published.
    ///
    /// # Errors
    /// The system's roots can't be read.
    pub fn new(config: &config::Auth, metrics: Metrics) -> io::Result<(Self, Option<Fetcher>)> {
        let (keys, fetcher) = match &config.jwks_url {
            Some(url) => {
                let url = url.parse().map_err(io::Error::other)?;
                let (published, fetcher) = Published::new(url, config.jwks_refresh, metrics.clone())?;
                (Keys::Published(published), Some(fetcher))
            }
            None => (Keys::Fixed(config.keys.get()), None),
        };
        let tokens = config.required().then(|| (Rules::new(config), keys));
        let origins = Arc::new(Origins::new(&config.allow_origin, tokens.is_some()));
        let quota = &config.quotas;
        let limits = Limits { sessions: quota.sessions, bytes_per_s: quota.bytes, pixels_per_s: quota.pixels };
        let quotas = Quotas::new(limits, quota.burst);
        Ok((Self { origins, tokens, quotas, metrics }, fetcher))
    }

    /// Waits until tokens can be verified.
    pub async fn keys(&self) {
        if let Some((_, Keys::Published(published))) = &self.tokens {
            published.first().await;
        }
    }

    /// What browsers are told of other origins' pages (CORS): the same list.
    pub fn cors(&self) -> CorsLayer {
        let origins = Arc::clone(&self.origins);
        CorsLayer::new()
            .allow_origin(AllowOrigin::predicate(move |origin, _| origins.allow(origin)))
            .allow_methods([Method::GET, Method::POST, Method::PUT])
            .allow_headers(
                ["authorization", "content-type", "segmill-origin", "traceparent"].map(header::HeaderName::from_static),
            )
            .expose_headers([header::RETRY_AFTER, header::WWW_AUTHENTICATE])
            .max_age(PREFLIGHT)
    }

    async fn access(&self, headers: &HeaderMap) -> Result<Access, Refusal> {
        let Some((rules, keys)) = &self.tokens else { return Ok(Access::default()) };
        let token = bearer::token(headers).map_err(Refusal::Unreadable)?.ok_or(Refusal::Missing)?;
        let bearer = match keys {
            Keys::Fixed(keys) => rules.verify(token, keys)?,
            Keys::Published(published) => {
                let keys = published.keys().ok_or(Refusal::NoKeys)?;
                match rules.verify(token, &keys) {
                    Err(Refused::UnknownKey) => {
                        let keys = published.again().await.ok_or(Refused::UnknownKey)?;
                        rules.verify(token, &keys)?
                    }
                    verified => verified?,
                }
            }
        };
        Ok(Access { until: Instant::now().checked_add(bearer.holds), bearer: Some(bearer) })
    }
}

/// The pages that are let in; also for what asks for no token, preflights among them.
pub async fn origins(State(auth): State<Arc<Auth>>, request: Request, next: Next) -> Response {
    if auth.origins.admit(request.headers()) {
        return next.run(request).await;
    }
    auth.metrics.session_rejected("forbidden_origin");
    Problem::new("forbidden_origin", "pages of this origin may not use the service (--allow-origin)").into_response()
}

/// Lets a request with a good token through, with its [`Access`].
pub async fn tokens(State(auth): State<Arc<Auth>>, mut request: Request, next: Next) -> Response {
    let checked = match bearer::in_url(request.uri()) {
        Some(name) => Err(Refusal::InUrl(name)),
        None => auth.access(request.headers()).await,
    };
    match checked {
        Ok(access) => {
            request.extensions_mut().insert(access);
            next.run(request).await
        }
        Err(refusal) => {
            auth.metrics.session_rejected(refusal.code());
            refusal.into_response()
        }
    }
}

/// Why a request is not let in.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("a token is needed: Authorization: Bearer, or the subprotocol bearer.TOKEN")]
    Missing,
    #[error("{0}")]
    Unreadable(&'static str),
    #[error("the query has {0}: a token belongs in the header Authorization, not in a URL")]
    InUrl(&'static str),
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("the keys of tokens are not known yet")]
    NoKeys,
}

impl Refusal {
    /// The stable code.
    fn code(&self) -> &'static str {
        match self {
            Self::Missing => "unauthorized",
            Self::Unreadable(_) | Self::InUrl(_) => "bad_request",
            Self::Refused(Refused::Expired) => "token_expired",
            Self::Refused(_) => "unauthorized",
            Self::NoKeys => "keys_unavailable",
        }
    }

    /// RFC 6750 3.
    fn challenge(&self) -> Option<String> {
        match self {
            Self::Missing => Some("Bearer realm=\"segmill\"".to_owned()),
            Self::Unreadable(_) | Self::InUrl(_) => {
                Some("Bearer realm=\"segmill\", error=\"invalid_request\"".to_owned())
            }
            Self::Refused(why) => {
                Some(format!("Bearer realm=\"segmill\", error=\"invalid_token\", error_description=\"{why}\""))
            }
            Self::NoKeys => None,
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Problem::new(self.code(), self.to_string()).into_response();
        if let Some(value) = self.challenge().and_then(|challenge| HeaderValue::from_str(&challenge).ok()) {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        if response.status() == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        response
    }
}
