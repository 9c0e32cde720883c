//! A client's TCP socket: counts the bytes that come, and gives up a client that doesn't take what is sent to it.
//! What the bytes mean is left to HTTP and WebSocket above.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::config::Connections;
use crate::patience;

/// Most bytes that the system holds unsent for a client: what a client doesn't take stays where it is bounded.
const UNSENT: u32 = 32 << 10;
/// How long a connection is silent before the system asks whether the other side is there, and how often it asks.
const KEEPALIVE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);

/// How many bytes have come, or been taken, so far. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// How fast a client has to take what waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drain {
    pub window: Duration,
    /// Bytes in each window; at least 1.
    pub least: u64,
}

impl Drain {
    pub fn of(connections: &Connections) -> Self {
        Self::new(connections.write_timeout, connections.min_read_rate)
    }

    /// `rate` in bytes a second; 0: any byte at all.
    pub fn new(window: Duration, rate: u64) -> Self {
        let least = u128::from(rate) * window.as_millis() / 1000;
        Self { window, least: u64::try_from(least).unwrap_or(u64::MAX).max(1) }
    }

    /// Waits until something is `done`, as long as enough is `taken` meanwhile; None where it isn't.
    pub async fn watch<T>(self, taken: &Counter, done: impl Future<Output = T>) -> Option<T> {
        let mut done = pin!(done);
        loop {
            let before = taken.bytes();
            match patience::within(self.window, done.as_mut()).await {
                Some(done) => return Some(done),
                None if taken.bytes() - before < self.least => return None,
                None => {}
            }
        }
    }
}

/// The socket. A write fails with [`io::ErrorKind::TimedOut`] when something has waited to be written for a window in
/// which less than [`Drain::least`] was taken; the next write has a window of its own.
pub struct Wire<S> {
    stream: S,
    received: Counter,
    drain: Drain,
    /// While not all is written.
    waiting: Option<Waiting>,
}

struct Waiting {
    window: Pin<Box<dyn Future<Output = ()> + Send>>,
    taken: u64,
}

impl Waiting {
    fn new(window: Duration) -> Self {
        Self { window: Box::pin(patience::sleep(window)), taken: 0 }
    }
}

impl<S> Wire<S> {
    pub fn new(stream: S, drain: Drain) -> Self {
        Self { stream, received: Counter::default(), drain, waiting: None }
    }

    pub fn received(&self) -> &Counter {
        &self.received
    }

    fn watch(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            if let (Some(waiting), Ok(bytes)) = (&mut self.waiting, &written) {
                waiting.taken += *bytes as u64;
            }
            return Poll::Ready(written);
        }
        let Drain { window, least } = self.drain;
        loop {
            let waiting = self.waiting.get_or_insert_with(|| Waiting::new(window));
            ready!(waiting.window.as_mut().poll(cx));
            let taken = waiting.taken;
            self.waiting = None;
            if taken < least {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes too little")));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.received.add(buf.filled().len() - before);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watch(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Comes when all has been written: nothing waits any more.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waiting = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Sets what a client's socket needs. What the system refuses costs only comfort.
pub fn configure(stream: &TcpStream, drain: Drain) {
    let set = || -> io::Result<()> {
        stream.set_nodelay(true)?;
        socket2::SockRef::from(stream).set_tcp_notsent_lowat(UNSENT)?;
        let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL);
        socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive)?;
        // Behind the watch over writes: for what the system holds when nothing is written any more.
        socket2::SockRef::from(stream).set_tcp_user_timeout(Some(KEEPALIVE.max(2 * drain.window)))
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "an option of the socket was refused");
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
    use tokio::time::{Instant, advance, sleep};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const WINDOW: Duration = Duration::from_secs(30);

    /// Writes `bytes` to a client that reads `pace` bytes a second.
    async fn written(bytes: usize, pace: usize, rate: u64) -> io::Result<()> {
        let (client, server) = duplex(1024);
        let mut wire = Wire::new(server, Drain::new(WINDOW, rate));
        let reading = tokio::spawn(async move {
            let mut client = client;
            let mut taken = vec![0; pace];
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if pace > 0 && client.read(&mut taken).await.is_ok_and(|read| read == 0) {
                    return;
                }
            }
        });
        let result = async {
            wire.write_all(&vec![0; bytes]).await?;
            wire.flush().await
        };
        let result = result.await;
        reading.abort();
        result
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_too_little_in_a_window_is_given_up() {
        let begun = Instant::now();
        for pace in [0, 1, 90] {
            let error = written(100_000, pace, 100).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{pace} bytes a second");
        }
        assert_eq!(begun.elapsed(), 3 * WINDOW, "each after one window");
        written(100_000, 110, 100).await.unwrap();
        assert!(begun.elapsed() > 20 * WINDOW, "a slow one may take as long as it takes");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_asked_of_a_client_for_which_nothing_waits() {
        let (mut client, server) = duplex(1024);
        let mut wire = Wire::new(server, Drain::new(WINDOW, 1 << 20));
        for _ in 0..4 {
            // A write that has to wait, and one that is over before the window.
            let (taken, sent) = tokio::join!(async { client.read_exact(&mut [0; 1500]).await }, async {
                wire.write_all(&[0; 1500]).await?;
                wire.flush().await
            });
            taken.unwrap();
            sent.unwrap();
            tokio::time::sleep(2 * WINDOW).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_window_another_is_granted() {
        let (mut client, server) = duplex(1024);
        let mut wire = Wire::new(server, Drain::new(WINDOW, 1));
        let error = wire.write_all(&[0; 1500]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let (last, sent) =
            tokio::join!(async { client.read_exact(&mut [0; 1024]).await }, wire.write_all(b"last word"));
        last.unwrap();
        sent.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_takes_nothing_while_the_service_stands_still_and_is_not_given_up_for_that() {
        let (mut client, server) = duplex(1024);
        let mut wire = Wire::new(server, Drain::new(WINDOW, 100));
        let mut sending = pin!(wire.write_all(&[0; 5000]));
        for _ in 0..4 {
            assert!(poll!(sending.as_mut()).is_pending());
            client.read_exact(&mut [0; 1000]).await.unwrap();
            advance(10 * WINDOW).await;
        }
        sending.await.unwrap();
        // Nor where another task has to hand it on, and comes to it a little later.
        let (drain, taken) = (Drain::new(WINDOW, 100), Counter::default());
        let mut done = pin!(drain.watch(&taken, sleep(10 * WINDOW + SECOND)));
        assert!(poll!(done.as_mut()).is_pending());
        advance(10 * WINDOW).await;
        assert_eq!(done.await, Some(()));
    }

    #[tokio::test]
    async fn what_comes_is_counted() {
        let (mut client, server) = duplex(1024);
        let mut wire = Wire::new(server, Drain::new(WINDOW, 1));
        client.write_all(&[0; 300]).await.unwrap();
        wire.read_exact(&mut [0; 100]).await.unwrap();
        wire.read_exact(&mut [0; 100]).await.unwrap();
        assert_eq!(wire.received().bytes(), 200);
    }
}
