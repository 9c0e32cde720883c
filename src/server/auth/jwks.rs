//! The keys that an issuer publishes (JWKS): fetched in the background and kept, so that no request waits for another
//! server unless its key is not known, and then once for all who wait.
//!
//! Keys that were fetched once are kept where a later fetch fails: an issuer that is down takes nobody's access. Before
//! the first nobody comes in.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, Uri, header};
use http_body_util::Full;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::cloud::http::Client;
use crate::config::VerifyingKeys;
use crate::telemetry::Metrics;

/// Most bytes of a key document.
const MAX_DOCUMENT: usize = 1 << 20;
/// How long a fetch may take.
const FETCH: Duration = Duration::from_secs(5);
/// For how long unknown keys cause no second fetch.
const WINDOW: Duration = Duration::from_secs(30);
/// The wait after the first fetch that failed; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait after a fetch that failed.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// What is known of the keys. Cheap to clone.
#[derive(Clone)]
pub struct Published {
    state: watch::Receiver<State>,
    ask: mpsc::Sender<()>,
}

/// Changes are told when a fetch is over.
#[derive(Clone, Default)]
struct State {
    keys: Option<Arc<VerifyingKeys>>,
    fetching: bool,
    /// Until then unknown keys cause no fetch.
    closed_until: Option<Instant>,
}

impl Published {
    /// With the one who fetches.
    pub fn new(url: Uri, refresh: Duration, metrics: Metrics) -> std::io::Result<(Self, Fetcher)> {
        let (publish, state) = watch::channel(State::default());
        // One is enough: who finds it full is served by the same fetch.
        let (ask, asked) = mpsc::channel(1);
        Ok((Self { state, ask }, Fetcher { client: Client::new(&url)?, url, refresh, publish, asked, metrics }))
    }

    /// None before the first fetch.
    pub fn keys(&self) -> Option<Arc<VerifyingKeys>> {
        self.state.borrow().keys.clone()
    }

    /// Waits until there are keys.
    pub async fn first(&self) {
        let mut state = self.state.clone();
        // Without its fetcher there will be none.
        if state.wait_for(|state| state.keys.is_some()).await.is_err() {
            std::future::pending().await
        }
    }

    /// The keys as they are after another fetch, because a token names one that is not known. None where the fetch of a
    /// moment ago has to do.
    pub async fn again(&self) -> Option<Arc<VerifyingKeys>> {
        let mut state = self.state.clone();
        {
            let now = state.borrow_and_update();
            let closed = now.closed_until.is_some_and(|until| Instant::now() < until);
            if closed && !now.fetching {
                return None;
            }
        }
        // Full: another one has asked already.
        let _ = self.ask.try_send(());
        timeout(2 * FETCH, state.changed()).await.ok()?.ok()?;
        let now = state.borrow();
        now.keys.clone()
    }
}

/// Fetches the keys, and again.
pub struct Fetcher {
    client: Client,
    url: Uri,
    refresh: Duration,
    publish: watch::Sender<State>,
    asked: mpsc::Receiver<()>,
    metrics: Metrics,
}

impl Fetcher {
    /// Never ends by itself.
    pub async fn run(mut self) {
        let mut failed = 0;
        loop {
            self.quietly(|state| state.fetching = true);
            let fetched = self.fetch().await;
            self.metrics.keys_fetched(fetched.is_ok());
            // Who asked until now is answered by this one.
            let _ = self.asked.try_recv();
            let (keys, wait) = match fetched {
                Ok(keys) => {
                    failed = 0;
                    (Some(Arc::new(keys)), self.refresh)
                }
                Err(error) => {
                    let wait = FIRST_WAIT.saturating_mul(1 << failed).min(LONGEST_WAIT).min(self.refresh);
                    failed = (failed + 1).min(8);
                    tracing::warn!(%error, wait_s = wait.as_secs(), "the keys of tokens can't be fetched");
                    (None, wait)
                }
            };
            self.publish.send_modify(|state| {
                state.fetching = false;
                state.keys = keys.or(state.keys.take());
            });
            self.wait(Instant::now() + wait).await;
        }
    }

    /// Until the time has come, or there is a reason to go before.
    async fn wait(&mut self, until: Instant) {
        loop {
            tokio::select! {
                () = sleep_until(until) => return,
                Some(()) = self.asked.recv() => {
                    let now = Instant::now();
                    let closed = self.publish.borrow().closed_until.is_some_and(|until| now < until);
                    if !closed {
                        self.quietly(|state| (state.closed_until, state.fetching) = (Some(now + WINDOW), true));
                        return;
                    }
                }
            }
        }
    }

    fn quietly(&self, change: impl FnOnce(&mut State)) {
        self.publish.send_if_modified(|state| {
            change(state);
            false
        });
    }

    async fn fetch(&self) -> Result<VerifyingKeys, String> {
        let request =
            Request::get(self.url.clone()).header(header::ACCEPT, "application/jwk-set+json, application/json");
        let request = request.body(Full::default()).map_err(|error| error.to_string())?;
        let asked = self.client.ask(request, MAX_DOCUMENT, FETCH).await;
        let (status, body) = asked.map_err(|error| error.to_string())?;
        if status != 200 {
            return Err(format!("the answer is {status}"));
        }
        let (keys, skipped) = VerifyingKeys::published(&body)?;
        if skipped > 0 {
            tracing::info!(skipped, "published keys that are of no use here");
        }
        Ok(keys)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::routing::get;
    use tokio::net::TcpListener;

    use super::*;

    const JWKS: &str =
        r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

    #[tokio::test]
    async fn unknown_keys_cause_one_fetch_in_a_window() {
        let fetches = Arc::new(AtomicUsize::new(0));
        let handler = {
            let fetches = Arc::clone(&fetches);
            move || async move {
                fetches.fetch_add(1, Ordering::SeqCst);
                JWKS
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap()).parse().unwrap();
        tokio::spawn(async move { axum::serve(listener, Router::new().route("/", get(handler))).await });
        let (published, fetcher) = Published::new(url, Duration::from_secs(3600), Metrics::new(0)).unwrap();
        assert!(published.keys().is_none());
        tokio::spawn(fetcher.run());
        published.first().await;
        let asking: Vec<_> = (0..100).map(|_| published.again()).collect();
        let keys = futures_util::future::join_all(asking).await;
        assert!(keys.iter().all(Option::is_some), "all are served by one fetch");
        assert!(published.again().await.is_none(), "and then the window is closed");
        assert_eq!(fetches.load(Ordering::SeqCst), 2);
        tokio::time::pause();
        tokio::time::advance(WINDOW).await;
        tokio::time::resume();
        assert!(published.again().await.is_some());
        assert_eq!(fetches.load(Ordering::SeqCst), 3);
    }
}
