//! What a caller may take a second: bytes of input, and pixels made of them. Over it the session waits, and while it waits
//! it reads no further: one more reason for the one backpressure.
//!
//! Sessions of one caller share its rates. Whose they are is for others to say.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::{Instant, sleep};

/// Cells a second at the most: an interval of a cell is whole nanoseconds, so that many small ones would be inexact.
const CELLS: u64 = 1000;
/// Cells that are taken at once, so that sessions that share a rate take turns.
const PIECE: u64 = 50;

/// So many units a second, and at once as many as come in `burst`.
#[derive(Debug)]
pub struct Rate {
    limiter: RateLimiter<NotKeyed, InMemoryState, Ticking, NoOpMiddleware<Nanos>>,
    clock: Ticking,
    /// Units.
    cell: u64,
    /// Cells.
    most: NonZeroU32,
}

impl Rate {
    pub fn new(per_second: NonZeroU64, burst: Duration) -> Self {
        let per_second = per_second.get();
        let cell = per_second.div_ceil(CELLS);
        let period =
            u64::try_from(u128::from(cell) * 1_000_000_000 / u128::from(per_second)).unwrap_or(u64::MAX).max(1);
        let most = u32::try_from(burst.as_nanos() / u128::from(period)).unwrap_or(u32::MAX);
        let most = NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::with_period(Duration::from_nanos(period)).map(|quota| quota.allow_burst(most));
        let clock = Ticking(Instant::now());
        let limiter = RateLimiter::direct_with_clock(quota.expect("a period is at least 1 ns"), clock.clone());
        Self { limiter, clock, cell, most }
    }

    async fn take(&self, cells: NonZeroU32) {
        while let Ok(Err(early)) = self.limiter.check_n(cells) {
            sleep(early.wait_time_from(self.clock.now())).await;
        }
    }
}

/// The runtime's clock, which tests can move.
#[derive(Debug, Clone)]
struct Ticking(Instant);

impl Clock for Ticking {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.elapsed().into()
    }
}

/// Rates that all hold for a session.
#[derive(Debug, Clone, Default)]
pub struct Allowance {
    pub bytes: Meter,
    pub pixels: Meter,
}

impl Allowance {
    /// Whether nothing ever waits.
    pub fn is_unlimited(&self) -> bool {
        self.bytes.0.is_empty() && self.pixels.0.is_empty()
    }
}

/// One session's share of some rates; what it took that is not a whole cell yet is taken with the next.
#[derive(Debug, Clone, Default)]
pub struct Meter(Vec<(Arc<Rate>, u64)>);

impl Meter {
    pub fn new(rates: impl IntoIterator<Item = Arc<Rate>>) -> Self {
        Self(rates.into_iter().map(|rate| (rate, 0)).collect())
    }

    /// Waits until so many units may have been taken. To drop the future is to take the rest with the next.
    pub async fn take(&mut self, units: u64) {
        for (_, owed) in &mut self.0 {
            *owed = owed.saturating_add(units);
        }
        for (rate, owed) in &mut self.0 {
            while *owed >= rate.cell {
                let cells = u32::try_from((*owed / rate.cell).min(PIECE)).unwrap_or(u32::MAX).min(rate.most.get());
                let Some(cells) = NonZeroU32::new(cells) else { break };
                rate.take(cells).await;
                *owed -= u64::from(cells.get()) * rate.cell;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u64, burst_ms: u64) -> Arc<Rate> {
        Arc::new(Rate::new(NonZeroU64::new(per_second).unwrap(), Duration::from_millis(burst_ms)))
    }

    /// Seconds that it takes to take `units` in pieces of `piece`.
    async fn seconds(meter: &mut Meter, units: u64, piece: u64) -> f64 {
        let begun = Instant::now();
        for _ in 0..units / piece {
            meter.take(piece).await;
        }
        begun.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_to_at_any_size_of_what_is_taken() {
        for per_second in [1, 999, 1000, 1001, 125_000, 1_500_000_000, 40_000_000_000] {
            for pieces in [1, 7, 1000] {
                let units = 5 * per_second;
                let mut meter = Meter::new([rate(per_second, 1000)]);
                let took = seconds(&mut meter, units, (units / pieces).max(1)).await;
                // The burst is free: 4 s for the rest, at cells of a millisecond or a unit.
                assert!((2.9..4.4).contains(&took), "{per_second} in {pieces}: {took}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_taken_for_a_while_is_a_burst_and_no_more() {
        let mut meter = Meter::new([rate(1000, 2000)]);
        assert!(seconds(&mut meter, 2000, 10).await < 0.01);
        assert!((0.9..1.1).contains(&seconds(&mut meter, 1000, 10).await));
        sleep(Duration::from_secs(3600)).await;
        let took = seconds(&mut meter, 4000, 10).await;
        assert!((1.9..2.1).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_of_one_caller_share_its_rate_and_the_lowest_holds() {
        let (shared, low) = (rate(1_000_000, 1), rate(10_000, 1));
        let (mut one, mut other) = (Meter::new([shared.clone()]), Meter::new([shared.clone()]));
        let (one, other) = tokio::join!(seconds(&mut one, 5_000_000, 1000), seconds(&mut other, 5_000_000, 1000));
        assert!((9.5..10.5).contains(&one) && (9.5..10.5).contains(&other), "{one} {other}");
        let took = seconds(&mut Meter::new([shared, low]), 100_000, 1000).await;
        assert!((9.5..10.5).contains(&took), "{took}");
        assert!(seconds(&mut Meter::default(), 1 << 40, 1 << 30).await < 0.001, "without a rate nothing waits");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_paid_is_paid_with_the_next() {
        let mut meter = Meter::new([rate(1000, 1)]);
        assert!(tokio::time::timeout(Duration::from_secs(1), meter.take(10_000)).await.is_err());
        let begun = Instant::now();
        meter.take(0).await;
        assert!((8.9..9.2).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
    }
}
