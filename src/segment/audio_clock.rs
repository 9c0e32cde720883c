//! Where an audio unit belongs on the sample grid: by what its container tells, and by where the unit before it ended.
//!
//! Containers round (WebM to 1 ms, MPEG-TS to 1/90 ms) and jitter, so a unit that is told nearly where the last one
//! ended follows it without a gap. What the told times are off by is averaged, though: a source whose sampling clock is
//! not quite the rate that it names (47,999 samples a second in place of 48,000) would otherwise leave its pictures
//! more and more, until a jump. Where the average leaves [`TOLERANCE_MS`], a unit is placed one sample later or earlier
//! than where the last one ended. That is a rate of up to one in a thousand, and it can't be heard.

use serde::{Deserialize, Serialize};

use crate::media::{Ticks, Timescale};

/// What is nearer than this to where the last unit ended follows it.
const JITTER_MS: i64 = 15;
/// Mean distance between told times and the grid that is left alone: more than rounding to 1 ms can make.
const TOLERANCE_MS: i64 = 1;
/// Units that the mean reaches back over, as a power of two.
const MEMORY: u32 = 8;

/// Places the units of one track, in samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AudioClock {
    /// Where the next unit belongs if it follows without a gap.
    next: Option<Ticks>,
    /// Mean of how much later the units were told than placed, in samples times 2^[`MEMORY`].
    lag: i64,
}

impl AudioClock {
    /// Where the last unit ended.
    pub fn end(&self) -> Option<Ticks> {
        self.next
    }

    /// Whether a unit that is told to begin at `told` goes on where the last one ended, as far as anyone can tell.
    pub fn goes_on(&self, told: Ticks, rate: Timescale) -> bool {
        self.next.is_some_and(|next| (told - next).0.saturating_abs() <= JITTER_MS * i64::from(rate.get()) / 1000)
    }

    /// The place of a unit that is told to begin at `told`, in samples at `rate`.
    pub fn place(&mut self, told: Ticks, rate: Timescale) -> Ticks {
        let samples = |ms: i64| ms * i64::from(rate.get()) / 1000;
        let Some(next) = self.next else { return told };
        let late = told - next;
        if !self.goes_on(told, rate) {
            self.lag = 0;
            return told;
        }
        self.lag = self.lag.saturating_add(late.0 - (self.lag >> MEMORY));
        let step = match self.lag >> MEMORY {
            mean if mean > samples(TOLERANCE_MS) => 1,
            mean if mean < -samples(TOLERANCE_MS) => -1,
            _ => 0,
        };
        self.lag -= step << MEMORY;
        next + Ticks(step)
    }

    /// The unit that was placed last ends at `end`.
    pub fn ended(&mut self, end: Ticks) {
        self.next = Some(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURS: i64 = 10;

    /// Ten hours of units of `frame` samples from a source that names `rate` and has `milli_clock` samples in a thousand
    /// seconds. `stamp` gives what is told, in samples at `rate`, of a unit's begin in billionths of a second.
    fn ten_hours(rate: u32, frame: i64, milli_clock: i64, stamp: impl Fn(i128, i64) -> i64) -> Heard {
        let (mut clock, scale) = (AudioClock::default(), Timescale::new(rate).unwrap());
        let units = HOURS * 3600 * i64::from(rate) / frame;
        let (mut worst, mut steps, mut before) = (0, 0, None::<i64>);
        for unit in 0..units {
            // Billionths of a second.
            let at = i128::from(unit * frame) * 1_000_000_000_000 / i128::from(milli_clock);
            let placed = clock.place(Ticks(stamp(at, unit)), scale).0;
            clock.ended(Ticks(placed + frame));
            let real = ((i128::from(unit * frame * i64::from(rate)) * 1000 + i128::from(milli_clock) / 2)
                / i128::from(milli_clock)) as i64;
            worst = worst.max((placed - real).abs());
            if let Some(before) = before {
                assert!(
                    (placed - before - frame).abs() <= 1,
                    "unit {unit} leaves a gap of {}",
                    placed - before - frame
                );
                steps += placed - before - frame;
            }
            before = Some(placed);
        }
        Heard { worst_us: worst * 1_000_000 / i64::from(rate), steps }
    }

    struct Heard {
        /// Most that a unit lies away from its place, microseconds.
        worst_us: i64,
        /// Samples put in, less those left out.
        steps: i64,
    }

    /// Rounded down to ticks of `timescale`, as samples.
    fn floor(timescale: i128, rate: i128) -> impl Fn(i128, i64) -> i64 {
        move |at, _| {
            let tick = at * timescale / 1_000_000_000;
            ((2 * tick * rate + timescale) / (2 * timescale)) as i64
        }
    }

    #[test]
    fn rounded_stamps_never_move_a_sample_in_ten_hours() {
        for (rate, frame, timescale) in [
            (48_000, 960, 1000),
            (48_000, 1024, 1000),
            (44_100, 1024, 1000),
            (44_100, 1024, 90_000),
            (22_050, 576, 90_000),
        ] {
            let heard = ten_hours(rate, frame, i64::from(rate) * 1000, floor(timescale, rate.into()));
            assert_eq!((heard.worst_us, heard.steps), (0, 0), "{rate} Hz told in {timescale}ths of a second");
        }
    }

    #[test]
    fn jittering_stamps_never_move_a_sample_in_ten_hours() {
        let jittered = |at: i128, unit: i64| {
            let noise = (unit.wrapping_mul(0x5851_F42D_4C95_7F2D) >> 40).rem_euclid(6001) - 3000; // ±3 ms
            floor(1000, 48_000)((at + i128::from(noise) * 1000).max(0), unit)
        };
        let heard = ten_hours(48_000, 960, 48_000_000, jittered);
        assert_eq!((heard.worst_us, heard.steps), (0, 0));
    }

    #[test]
    fn a_clock_that_is_off_is_followed_a_sample_at_a_time_and_never_by_more_than_two_milliseconds() {
        for (milli_clock, timescale) in [
            (47_999_000, 48_000),
            (48_001_000, 48_000),
            (47_999_000, 1000),
            (47_995_200, 90_000), // 100 in a million
            (48_004_800, 1000),
        ] {
            let heard = ten_hours(48_000, 1024, milli_clock, floor(timescale, 48_000));
            let drift = (HOURS * 3600 * (48_000_000 - milli_clock)) / 1000;
            assert!(heard.worst_us <= 2_000, "{} us at {milli_clock}", heard.worst_us);
            assert!((heard.steps - drift).abs() < 100, "{} steps at {milli_clock}", heard.steps);
        }
    }

    #[test]
    fn a_jump_is_taken_at_once() {
        let (mut clock, rate) = (AudioClock::default(), Timescale::new(48_000).unwrap());
        clock.ended(Ticks(1000));
        assert_eq!(clock.place(Ticks(1000 + 720), rate), Ticks(1000));
        assert_eq!(clock.place(Ticks(1000 + 721), rate), Ticks(1721));
        assert_eq!(clock.place(Ticks(1000 - 721), rate), Ticks(279));
        assert_eq!(clock.place(Ticks(i64::MIN), rate), Ticks(i64::MIN));
    }
}
