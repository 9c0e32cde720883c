//! HTTP and WebSocket: the accept loop, its limits, and its end. What is served comes in as a router.
//!
//! The loop is built on hyper-util because `axum::serve` sets no timer: a client that sends half a header would hold
//! its connection for ever. hyper's graceful shutdown does not know upgraded sockets: whoever upgrades one spawns its
//! session on the same [`TaskTracker`] and watches the same [`CancellationToken`].

pub mod admission;
pub mod alerts;
pub mod app;
pub mod auth;
mod body;
mod contract;
pub mod ops;
mod pace;
mod places;
pub mod problem;
mod retire;
pub mod router;
mod segments;
pub mod service;
mod stream;
mod transcode;
mod websocket;
mod wire;

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::rt::{Sleep, Timer};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use self::places::{Place, Places};
use self::wire::{Drain, Wire};
use crate::config::Connections;
use crate::patience;
use crate::telemetry::Metrics;

/// Longest pause after the system had no descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// How often that is said in the log.
const SAID_AGAIN: Duration = Duration::from_secs(10);

/// What a connection may take, and where its end is counted.
#[derive(Clone)]
pub struct Bounds {
    most: usize,
    header_timeout: Duration,
    drain: Drain,
    metrics: Metrics,
}

impl Bounds {
    pub fn new(connections: &Connections, metrics: Metrics) -> Self {
        Self {
            most: connections.max_connections as usize,
            header_timeout: connections.header_timeout,
            drain: Drain::of(connections),
            metrics,
        }
    }
}

/// Serves `router` on `listener` until `shutdown`; then takes no connection any more, and lets each finish the request
/// that it is at. Each connection is a task of `tracker`, which tells when all are over.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    bounds: Bounds,
    shutdown: CancellationToken,
    tracker: TaskTracker,
) {
    let places = Places::new(bounds.most);
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(Clock).header_read_timeout(bounds.header_timeout);
    builder
        .http2()
        .timer(Clock)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(bounds.header_timeout)
        .max_concurrent_streams(64);
    let builder = Arc::new(builder);
    let mut said: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = tokio::select! {
                    () = shutdown.cancelled() => return,
                    place = places.take() => place,
                };
                let (builder, router, shutdown) = (Arc::clone(&builder), router.clone(), shutdown.clone());
                let bounds = bounds.clone();
                tracker.spawn(async move {
                    let metrics = bounds.metrics.clone();
                    if let Some(reason) = connection(&builder, stream, peer, router, bounds, &place, shutdown).await {
                        metrics.connection_cut(reason.reason());
                    }
                });
            }
            Err(error) if of_the_client(&error) => {}
            Err(error) => {
                let given_back = places.given_back();
                // Without a free descriptor it fails also where nobody has come.
                if somebody_waits(&listener) {
                    bounds.metrics.accept_failed();
                    if said.is_none_or(|said| said.elapsed() > SAID_AGAIN) {
                        said = Some(Instant::now());
                        tracing::error!(%error, "accept failed");
                    }
                    // One that waits for nothing but a request is worth less than one that comes.
                    places.make_room();
                }
                // Over at the first connection that goes.
                let _ = tokio::time::timeout(ACCEPT_PAUSE, given_back).await;
            }
        }
    }
}

/// Whether a connection has come that is not accepted yet.
fn somebody_waits(listener: &TcpListener) -> bool {
    let mut ready = [PollFd::new(listener, PollFlags::IN)];
    poll(&mut ready, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
}

/// Serves a connection to its end; why, where it was cut off.
async fn connection(
    builder: &Builder<TokioExecutor>,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    bounds: Bounds,
    place: &Place,
    shutdown: CancellationToken,
) -> Option<Cut> {
    wire::configure(&stream, bounds.drain);
    let wire = Wire::new(stream, bounds.drain);
    let received = wire.received().clone();
    let requested = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let requested = Arc::clone(&requested);
        let requests = place.requests();
        move |mut request: Request<Incoming>| {
            requested.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(ConnectInfo(peer));
            request.extensions_mut().insert(received.clone());
            let (router, at_work) = (router.clone(), requests.clone().begin());
            async move {
                let response = router.oneshot(request).await?;
                // At work until the answer is over, or nobody wants it any more.
                Ok::<_, Infallible>(response.map(|body| {
                    body.map_err(move |error| {
                        let _ = &at_work;
                        error
                    })
                }))
            }
        }
    });
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(wire), service));
    // hyper's own timeout starts only after the first bytes have told HTTP/1 from HTTP/2.
    let mut first_header = pin!(patience::sleep(bounds.header_timeout));
    let (mut waiting, mut serving) = (true, true);
    let result = loop {
        tokio::select! {
            biased;
            result = connection.as_mut() => break result,
            () = place.crowded_out() => return Some(Cut::CrowdedOut),
            () = first_header.as_mut(), if waiting => {
                if !requested.load(Ordering::Relaxed) {
                    return Some(Cut::HeaderTimeout);
                }
                waiting = false;
            }
            () = shutdown.cancelled(), if serving => {
                connection.as_mut().graceful_shutdown();
                serving = false;
            }
        }
    };
    let error = result.err()?;
    tracing::debug!(%peer, %error, "connection ended early");
    Cut::by(error.as_ref())
}

/// hyper's clock.
#[derive(Debug)]
struct Clock;

impl Timer for Clock {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(Sleeping(Box::pin(patience::sleep(duration))))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into_std()
    }
}

struct Sleeping(Pin<Box<dyn Future<Output = ()> + Send + Sync>>);

impl Sleep for Sleeping {}

impl Future for Sleeping {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// Why a connection was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// No header came in time, or not all of it.
    HeaderTimeout,
    /// Its place was wanted while it had no request.
    CrowdedOut,
    /// It took too little of its answer.
    SlowClient,
}

impl Cut {
    fn by(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout) {
                return Some(Self::HeaderTimeout);
            }
            if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut) {
                return Some(Self::SlowClient);
            }
            cause = error.source();
        }
        None
    }

    /// The reason in the metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::HeaderTimeout => "header_timeout",
            Self::CrowdedOut => "crowded_out",
            Self::SlowClient => "slow_client",
        }
    }
}

/// Whether a connection was gone before it was accepted (accept(2)): no reason to pause.
fn of_the_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

    impl Bounds {
        pub fn lax() -> Self {
            let drain = Drain::new(Duration::from_secs(30), 1024);
            Self { most: 16, header_timeout: HEADER_TIMEOUT, drain, metrics: Metrics::new(0) }
        }
    }

    struct Running {
        address: SocketAddr,
        shutdown: CancellationToken,
        tracker: TaskTracker,
    }

    async fn running(router: Router) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        tracker.spawn(serve(listener, router, Bounds::lax(), shutdown.clone(), tracker.clone()));
        tracker.close();
        Running { address, shutdown, tracker }
    }

    /// What comes back on a connection on which `bytes` are sent, until the server closes it.
    async fn answer(address: SocketAddr, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_finishes_its_header_is_cut_off() {
        let server = running(Router::new()).await;
        for stub in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nHost:"] {
            let begun = tokio::time::Instant::now();
            let answer = answer(server.address, stub.as_bytes()).await;
            assert!(!answer.contains("200 OK"), "{stub:?}: {answer}");
            assert!(begun.elapsed() <= 2 * HEADER_TIMEOUT, "{stub:?}");
        }
    }

    #[tokio::test]
    async fn a_header_that_came_while_the_service_stood_still_is_in_time() {
        let server = running(Router::new().route("/", get(|| async { "hi" }))).await;
        let mut clients = Vec::new();
        for _ in 0..12 {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nConnection: close\r\n").await.unwrap();
            clients.push(stream);
        }
        let whole = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        assert!(answer(server.address, whole).await.ends_with("hi"), "the others before it are waited for");
        for stream in &clients {
            // At once: nothing else has a turn.
            assert_eq!(stream.try_write(b"Host: x\r\n\r\n").unwrap(), 11);
        }
        tokio::time::pause();
        tokio::time::advance(2 * HEADER_TIMEOUT).await;
        tokio::time::resume();
        for mut stream in clients {
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(text.ends_with("hi"), "{text}");
        }
    }

    #[tokio::test]
    async fn shutdown_lets_a_request_finish_and_takes_no_more() {
        let entered = Arc::new(tokio::sync::Notify::new());
        let release = Arc::new(tokio::sync::Notify::new());
        let slow = {
            let (entered, release) = (Arc::clone(&entered), Arc::clone(&release));
            move |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move {
                entered.notify_one();
                release.notified().await;
                peer.ip().to_string()
            }
        };
        let server = running(Router::new().route("/slow", get(slow))).await;
        let request = b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n";
        let answer = tokio::spawn(answer(server.address, request));
        entered.notified().await;
        server.shutdown.cancel();
        release.notify_one();
        let answer = answer.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("127.0.0.1"), "{answer}");
        server.tracker.wait().await;
        assert!(TcpStream::connect(server.address).await.is_err(), "the listener is closed");
    }

    #[tokio::test]
    async fn http_2_is_spoken_without_tls() {
        let server = running(Router::new().route("/", get(|| async { "hi" }))).await;
        let stream = TcpStream::connect(server.address).await.unwrap();
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.unwrap();
        let connection = tokio::spawn(connection);
        let request = Request::builder().uri("http://x/").body(String::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, axum::http::Version::HTTP_2));
        drop(sender);
        connection.await.unwrap().unwrap();
    }
}
