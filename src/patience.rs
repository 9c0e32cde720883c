//! How long others are waited for, without blame for what is this process' own: where it stands still for a while (no
//! processor, a machine that is paused), what others sent waits to be read, and that time is not theirs.
//!
//! A wait is made of parts. One that ends far too late tells that this process was not there, and counts for half of what it
//! should have been, however long it was: at least another one follows, in which what has come meanwhile is read.

use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

/// Parts of a wait, and the least one: what the runtime's clock can tell.
const PARTS: u32 = 8;
const LEAST: Duration = Duration::from_millis(1);

/// What is left of a wait. Time is an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    part: Duration,
    left: Duration,
}

impl Patience {
    pub fn new(limit: Duration) -> Self {
        Self { part: (limit / PARTS).max(LEAST), left: limit }
    }

    pub fn is_over(&self) -> bool {
        self.left.is_zero()
    }

    /// How long to wait, at the most, until it is looked at again.
    pub fn piece(&self) -> Duration {
        self.part.min(self.left)
    }

    /// So long has been waited, where it should have been no more than [`Self::piece`].
    pub fn spend(&mut self, waited: Duration) {
        let piece = self.piece();
        // Never the last, whatever is left.
        let late = waited >= piece.saturating_add(self.part) && piece > LEAST;
        self.left = self.left.saturating_sub(if late { piece / 2 } else { waited.min(piece) });
    }
}

/// Waits for `future`, no longer than `limit`; None where it isn't done by then.
pub async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut patience = Patience::new(limit);
    loop {
        let begun = Instant::now();
        if let Ok(done) = timeout(patience.piece(), future.as_mut()).await {
            return Some(done);
        }
        patience.spend(begun.elapsed());
        if patience.is_over() {
            return None;
        }
    }
}

/// Comes when so long has been waited.
pub async fn sleep(limit: Duration) {
    within(limit, std::future::pending::<()>()).await;
}

#[cfg(test)]
mod tests {
    use futures_util::poll;
    use tokio::time::advance;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(40);
    const PART: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn it_takes_as_long_as_it_should() {
        for limit in [Duration::ZERO, Duration::from_millis(1), Duration::from_millis(100), LIMIT] {
            let begun = Instant::now();
            sleep(limit).await;
            assert!(begun.elapsed() >= limit && begun.elapsed() <= limit + Duration::from_millis(8), "{limit:?}");
        }
        let begun = Instant::now();
        assert_eq!(within(LIMIT, tokio::time::sleep(PART)).await, Some(()));
        assert_eq!(begun.elapsed(), PART);
        assert_eq!(within(Duration::ZERO, std::future::ready(1)).await, Some(1), "what is done is done");
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_this_process_stood_still_hardly_counts_and_never_last() {
        for before in 0..8 {
            let begun = Instant::now();
            let mut waiting = pin!(sleep(LIMIT));
            for _ in 0..before {
                assert!(poll!(waiting.as_mut()).is_pending());
                advance(PART).await;
            }
            assert!(poll!(waiting.as_mut()).is_pending());
            let stood_still = 100 * LIMIT;
            advance(stood_still).await;
            waiting.await;
            assert_eq!(begun.elapsed() - stood_still, LIMIT - PART / 2, "after {before} parts");
        }
    }

    #[test]
    fn it_ends_also_where_all_of_it_is_late() {
        let mut patience = Patience::new(LIMIT);
        let late = std::iter::from_fn(|| {
            patience.spend(LIMIT);
            (!patience.is_over()).then_some(())
        });
        assert!((15..30).contains(&late.count()));
    }

    #[test]
    fn a_late_one_is_never_the_last() {
        for spent in 0..40 {
            let mut patience = Patience::new(LIMIT);
            (0..spent).for_each(|_| patience.spend(Duration::from_secs(1)));
            patience.spend(100 * LIMIT);
            assert!(!patience.is_over() && patience.left < LIMIT - Duration::from_secs(spent), "{spent}");
        }
    }

    #[test]
    fn what_is_waited_for_in_pieces_of_any_length_counts_in_full() {
        let mut patience = Patience::new(LIMIT);
        for piece in [0, 1, 3, 5, 7, 9] {
            patience.spend(Duration::from_secs(piece));
        }
        // Up to a part each.
        assert_eq!(patience.left, LIMIT - Duration::from_secs(1 + 3 + 3 * 5));
    }
}
