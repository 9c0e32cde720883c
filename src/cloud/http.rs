//! A client of HTTP: each exchange within its time, each answer within its size. Redirects are not followed; of TLS the
//! system's roots vouch for the server.

use std::time::Duration;

use axum::http::{Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it took too long")]
    Late,
    #[error("the answer is longer than {0} bytes")]
    TooLong(usize),
    #[error("{0}")]
    Broken(String),
}

/// Connections to servers of one scheme. Cheap to clone.
#[derive(Clone)]
pub enum Client {
    Plain(Legacy<HttpConnector>),
    Tls(Legacy<HttpsConnector<HttpConnector>>),
}

type Legacy<C> = hyper_util::client::legacy::Client<C, Full<Bytes>>;

impl Client {
    /// For URLs of the scheme of this one.
    ///
    /// # Errors
    /// The system's roots can't be read.
    pub fn new(url: &Uri) -> std::io::Result<Self> {
        let builder = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        if url.scheme_str() == Some("http") {
            return Ok(Self::Plain(builder.build_http()));
        }
        let connector = HttpsConnectorBuilder::new().with_native_roots()?.https_only().enable_http1().build();
        Ok(Self::Tls(builder.build(connector)))
    }

    /// Status and body, within `patience` and of no more than `most` bytes.
    pub async fn ask(
        &self,
        request: Request<Full<Bytes>>,
        most: usize,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), Error> {
        let exchange = async {
            let response = match self {
                Self::Plain(client) => client.request(request).await,
                Self::Tls(client) => client.request(request).await,
            };
            let (head, body) = response.map_err(|error| Error::Broken(innermost(&error)))?.into_parts();
            let body = Limited::new(body, most).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() { Error::TooLong(most) } else { Error::Broken(innermost(&*error)) }
            })?;
            Ok((head.status, body.to_bytes()))
        };
        timeout(patience, exchange).await.unwrap_or(Err(Error::Late))
    }
}

fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
