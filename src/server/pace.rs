//! How fast a client has to send: a watch that runs only while the service waits for it, and is there to hear it.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::config::Sessions;
use crate::patience::Patience;
use crate::session::Fatal;

/// The watch over one client.
pub struct Pace {
    idle: Duration,
    window: Duration,
    /// Bytes in each window.
    least: u64,
    /// Of the window, how long the client is waited for yet.
    left: Patience,
    /// What had come when the window began.
    before: u64,
}

/// How a client was too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slow {
    /// It sent nothing.
    Idle,
    /// It sent less than it has to.
    Trickle,
}

impl Slow {
    /// The error that the client is told.
    pub fn fatal(self) -> Fatal {
        match self {
            Self::Idle => Fatal::new("idle_timeout", "the client sent nothing for too long"),
            Self::Trickle => Fatal::new("too_slow", "the client sent less than the least rate"),
        }
    }
}

impl Pace {
    pub fn new(sessions: &Sessions) -> Self {
        let window = sessions.rate_window;
        let least = u128::from(sessions.min_rate) * window.as_millis() / 1000;
        Self {
            idle: sessions.idle_timeout,
            window,
            least: u64::try_from(least).unwrap_or(u64::MAX),
            left: Patience::new(window),
            before: 0,
        }
    }

    /// Waits for `next`, a client's next piece of data, for as long as the client may take. `came` tells how many bytes of
    /// data there have been, pieces that are not whole included. Time between two calls is not the client's.
    pub async fn wait<T>(&mut self, came: impl Fn() -> u64, next: impl Future<Output = T>) -> Result<T, Slow> {
        let mut next = pin!(next);
        let (mut silence, mut known) = (Patience::new(self.idle), came());
        loop {
            let now_known = came();
            if silence.is_over() {
                if now_known == known {
                    return Err(Slow::Idle);
                }
                // Part of a piece has come: how slow it may be, the rate says.
                (silence, known) = (Patience::new(self.idle), now_known);
            }
            if self.left.is_over() {
                // What has come may turn out to be a ping, which is taken off again.
                if now_known.saturating_sub(self.before) < self.least {
                    return Err(Slow::Trickle);
                }
                (self.left, self.before) = (Patience::new(self.window), now_known);
            }
            let begun = Instant::now();
            let result = timeout(self.left.piece().min(silence.piece()), next.as_mut()).await;
            self.left.spend(begun.elapsed());
            silence.spend(begun.elapsed());
            if let Ok(next) = result {
                return Ok(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::poll;
    use tokio::time::{advance, sleep};

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    fn pace(least: u64) -> Pace {
        Pace { idle: Duration::from_secs(60), window: WINDOW, least, left: Patience::new(WINDOW), before: 0 }
    }

    /// Pieces of `bytes` bytes, of which one byte comes every `each`; how many are whole before the client is given up.
    async fn pieces(mut pace: Pace, bytes: u64, each: Duration, most: usize) -> (usize, Option<Slow>) {
        let came = Cell::new(0);
        for whole in 0..most {
            let piece = async {
                for _ in 0..bytes {
                    sleep(each).await;
                    came.set(came.get() + 1);
                }
            };
            if let Err(slow) = pace.wait(|| came.get(), piece).await {
                return (whole, Some(slow));
            }
        }
        (most, None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_given_up_after_a_window_in_pieces_of_any_size() {
        for bytes in [1, 7, 10_000] {
            let begun = Instant::now();
            let (_, slow) = pieces(pace(61), bytes, Duration::from_secs(1), usize::MAX).await;
            assert_eq!((slow, begun.elapsed()), (Some(Slow::Trickle), WINDOW), "{bytes}");
        }
        // Just fast enough.
        let second = Duration::from_millis(999);
        assert_eq!(pieces(pace(60), 1, second, 1000).await, (1000, None));
        assert_eq!(pieces(pace(60), 1000, second, 1).await, (1, None));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_at_all_is_idle() {
        let begun = Instant::now();
        let slow = pace(1).wait(|| 0, std::future::pending::<()>()).await;
        assert_eq!((slow, begun.elapsed()), (Err(Slow::Idle), Duration::from_secs(60)));
        // Without a least rate it is the only thing that is asked for.
        let each = Duration::from_secs(59);
        assert_eq!(pieces(pace(0), 10, each, 10).await, (10, None));
    }

    #[tokio::test(start_paused = true)]
    async fn time_for_which_the_client_is_held_back_is_not_its_own() {
        let mut pace = pace(61);
        let came = Cell::new(0);
        for _ in 0..1000 {
            let piece = async {
                sleep(Duration::from_millis(50)).await;
                came.set(came.get() + 100);
            };
            pace.wait(|| came.get(), piece).await.unwrap();
            // The service is busy with it: 100 bytes in ten minutes are fast enough then.
            sleep(Duration::from_secs(600)).await;
        }
    }
    #[tokio::test(start_paused = true)]
    async fn time_for_which_the_service_stands_still_is_not_the_clients() {
        let (mut pace, came) = (pace(61), Cell::new(0));
        for _ in 0..20 {
            let stood_still = 10 * WINDOW;
            // What was sent meanwhile is read a little after the service has noticed how late it is.
            let mut next = Box::pin(pace.wait(|| came.get(), sleep(stood_still + Duration::from_secs(1))));
            assert!(poll!(next.as_mut()).is_pending());
            advance(stood_still).await;
            assert_eq!(next.await, Ok(()));
            came.set(came.get() + 5);
        }
        let nothing = std::future::pending::<()>();
        assert_eq!(pace.wait(|| came.get(), nothing).await, Err(Slow::Trickle), "as always");
    }

    #[tokio::test(start_paused = true)]
    async fn what_turns_out_to_be_a_ping_is_taken_off_again() {
        let (mut pace, came) = (pace(61), Cell::new(100));
        pace.wait(|| came.get(), sleep(WINDOW)).await.unwrap();
        pace.wait(|| came.get(), sleep(Duration::from_secs(1))).await.unwrap();
        came.set(90);
        assert_eq!(pace.wait(|| came.get(), std::future::pending::<()>()).await, Err(Slow::Trickle));
    }
}
