//! Access tokens: those that the platform's metadata server gives this machine's account, kept until shortly before they
//! end; or a file's, read each time. Never shown.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderValue, Request, Uri};
use http_body_util::Full;
use serde::Deserialize;
use tokio::time::Instant;

use super::http::Client;
use crate::config::Source;

/// How long the metadata server, which is on this very machine, may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most bytes of an answer, and of a file.
const MOST: usize = 16 << 10;
/// A token is replaced this long before its end, as the platform's own libraries do.
const BEFORE_END: Duration = Duration::from_secs(225);
const PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";

/// Gives tokens, for as long as they hold.
pub struct Tokens {
    source: Source,
    /// Of the metadata server, and its URL without a path.
    metadata: Option<(Client, Uri)>,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    header: HeaderValue,
    until: Instant,
}

#[derive(Deserialize)]
struct Given {
    access_token: String,
    #[serde(default)]
    expires_in: u64,
}

impl Tokens {
    /// `metadata`: the URL of the metadata server, without a path.
    ///
    /// # Errors
    /// The system's roots can't be read.
    pub fn new(source: Source, metadata: &Uri) -> std::io::Result<Self> {
        let metadata = match source {
            Source::Metadata => Some((Client::new(metadata)?, metadata.clone())),
            Source::None | Source::File(_) => None,
        };
        Ok(Self { source, metadata, kept: Mutex::default() })
    }

    /// The value of `Authorization`; None where the APIs ask for none.
    ///
    /// # Errors
    /// A sentence without the token.
    pub async fn header(&self) -> Result<Option<HeaderValue>, String> {
        match (&self.source, &self.metadata) {
            (Source::File(path), _) => {
                let text = tokio::fs::read_to_string(path).await;
                let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
                bearer(&text).map(Some).ok_or_else(|| format!("{} holds no token", path.display()))
            }
            (Source::Metadata, Some((client, url))) => {
                let kept =
                    self.lock().as_ref().filter(|kept| Instant::now() < kept.until).map(|kept| kept.header.clone());
                match kept {
                    Some(header) => Ok(Some(header)),
                    None => self.fetch(url, client).await.map(Some),
                }
            }
            _ => Ok(None),
        }
    }

    /// The one that is kept is not taken any more.
    pub fn forget(&self) {
        self.lock().take();
    }

    async fn fetch(&self, url: &Uri, client: &Client) -> Result<HeaderValue, String> {
        let url = format!("{}{PATH}", url.to_string().trim_end_matches('/'));
        let request = Request::get(url).header("metadata-flavor", "Google").body(Full::default());
        let request = request.map_err(|error| error.to_string())?;
        let (status, body) = client.ask(request, MOST, PATIENCE).await.map_err(|error| error.to_string())?;
        if status != 200 {
            return Err(format!("the metadata server answers {}", status.as_u16()));
        }
        let unreadable = "the metadata server's answer holds no token";
        let given: Given = serde_json::from_slice(&body).map_err(|_| unreadable)?;
        let header = bearer(&given.access_token).ok_or(unreadable)?;
        let lasts = Duration::from_secs(given.expires_in);
        let until = Instant::now() + lasts.saturating_sub(BEFORE_END).max(lasts / 2).min(Duration::from_secs(86_400));
        *self.lock() = Some(Kept { header: header.clone(), until });
        Ok(header)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None where it can't be a token.
fn bearer(token: &str) -> Option<HeaderValue> {
    let token = token.trim();
    let plain = !token.is_empty() && token.len() <= MOST && token.bytes().all(|byte| byte.is_ascii_graphic());
    let mut header = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| plain)?;
    header.set_sensitive(true);
    Some(header)
}
