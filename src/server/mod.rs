//! HTTP and WebSocket: the accept loop, its limits, and its end. What is served comes in as a router.
//!
//! The loop is built on hyper-util because `axum::serve` sets no timer: a client that sends half a header would hold
//! its connection for ever. hyper's graceful shutdown does not know upgraded sockets: whoever upgrades one spawns its
//! session on the same [`TaskTracker`] and watches the same [`CancellationToken`].

pub mod admission;
pub mod app;
mod body;
mod contract;
pub mod ops;
pub mod problem;
pub mod router;
mod segments;
pub mod service;
mod stream;
mod transcode;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

/// Most connections at once; past it they wait in the kernel's backlog.
const MAX_CONNECTIONS: usize = 4096;

/// How long a client may take for a request's header, and how long a connection may lie idle between two.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after the system had no descriptor or memory for a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Serves `router` on `listener` until `shutdown`; then takes no connection any more, and lets each finish the request
/// that it is at. Each connection is a task of `tracker`, which tells when all are over.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken, tracker: TaskTracker) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(HEADER_TIMEOUT)
        .max_concurrent_streams(64);
    let builder = Arc::new(builder);
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = shutdown.cancelled() => return,
            next = next => next,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (builder, router, shutdown) = (Arc::clone(&builder), router.clone(), shutdown.clone());
                tracker.spawn(async move {
                    connection(&builder, stream, peer, router, shutdown).await;
                    drop(place);
                });
            }
            Err(error) if of_the_client(&error) => {}
            Err(error) => {
                tracing::error!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    builder: &Builder<TokioExecutor>,
    stream: TcpStream,
    peer: SocketAddr,
    router: Router,
    shutdown: CancellationToken,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY was refused");
    }
    let requested = Arc::new(AtomicBool::new(false));
    let service = service_fn({
        let requested = Arc::clone(&requested);
        move |mut request: Request<Incoming>| {
            requested.store(true, Ordering::Relaxed);
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().oneshot(request)
        }
    });
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    // hyper's own timeout starts only after the first bytes have told HTTP/1 from HTTP/2.
    let mut first_header = pin!(tokio::time::sleep(HEADER_TIMEOUT));
    let (mut waiting, mut serving) = (true, true);
    let result = loop {
        tokio::select! {
            result = connection.as_mut() => break result,
            () = first_header.as_mut(), if waiting => {
                if !requested.load(Ordering::Relaxed) {
                    return;
                }
                waiting = false;
            }
            () = shutdown.cancelled(), if serving => {
                connection.as_mut().graceful_shutdown();
                serving = false;
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, %error, "connection ended early");
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

    struct Running {
        address: SocketAddr,
        shutdown: CancellationToken,
        tracker: TaskTracker,
    }

    async fn running(router: Router) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, tracker) = (CancellationToken::new(), TaskTracker::new());
        tracker.spawn(serve(listener, router, shutdown.clone(), tracker.clone()));
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
