//! Unrolls the 33-bit time stamps of MPEG-TS (ISO/IEC 13818-1 2.4.3.7) into one that goes on for ever.
//!
//! All PIDs of a programme share one [`Timeline`]: PTS and DTS pass the wrap at different packets, and each track at
//! another place, but all are read against the same reference, so that none is torn away from the others by 26.5 h.
//! Jumps that are not wraps are passed on as they are.

use super::{Ticks, Timescale};

/// Ticks per second of PTS and DTS.
pub const TIMESCALE: Timescale = match Timescale::new(90_000) {
    Some(timescale) => timescale,
    None => unreachable!(),
};

const WRAP: i64 = 1 << 33;

/// The reference for all time stamps of one programme.
#[derive(Debug, Clone, Default)]
pub struct Timeline {
    reference: Option<i64>,
}

impl Timeline {
    /// Goes on from a time that was unrolled before.
    pub fn from(reference: Option<Ticks>) -> Self {
        Self { reference: reference.map(|time| time.0) }
    }

    /// The time that was unrolled last.
    pub fn reference(&self) -> Option<Ticks> {
        self.reference.map(Ticks)
    }

    /// The time that is congruent to `stamp` modulo 2^33 and nearest to the one unrolled before; the first is taken as
    /// it is. What lies before a first stamp that has just wrapped comes out negative.
    pub fn unroll(&mut self, stamp: u64) -> Ticks {
        let stamp = (stamp % WRAP as u64) as i64;
        let unrolled = match self.reference {
            None => stamp,
            Some(reference) => {
                let ahead = (stamp - reference.rem_euclid(WRAP)).rem_euclid(WRAP);
                let nearest = if ahead >= WRAP / 2 { ahead - WRAP } else { ahead };
                reference.saturating_add(nearest)
            }
        };
        self.reference = Some(unrolled);
        Ticks(unrolled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(stamps: &[u64], expect: &[i64]) {
        let mut timeline = Timeline::default();
        let unrolled: Vec<i64> = stamps.iter().map(|&stamp| timeline.unroll(stamp).0).collect();
        assert_eq!(unrolled, expect);
    }

    const END: u64 = 1 << 33;

    #[test]
    fn goes_on_over_the_wrap() {
        check(&[END - 3000, END - 1, 2999, 5999], &[WRAP - 3000, WRAP - 1, WRAP + 2999, WRAP + 5999]);
    }

    #[test]
    fn tracks_that_wrap_at_different_packets_stay_together() {
        // A picture's PTS is over the wrap, its DTS and the sound are not yet.
        check(&[2000, END - 1600, END - 4000, 5600], &[2000, -1600, -4000, 5600]);
        check(&[END - 100, 3500, END - 50], &[WRAP - 100, WRAP + 3500, WRAP - 50]);
    }

    #[test]
    fn jumps_are_kept() {
        check(&[12_960_000, 277_470], &[12_960_000, 277_470]);
    }

    #[test]
    fn wraps_again_and_again() {
        let mut timeline = Timeline::default();
        let mut time = 0i64;
        for _ in 0..1000 {
            assert_eq!(timeline.unroll(time as u64 % END), Ticks(time));
            time += (1 << 32) - 1;
        }
    }

    #[test]
    fn the_ends_of_the_range_do_not_overflow() {
        let mut timeline = Timeline { reference: Some(i64::MAX - 1) };
        timeline.unroll(0);
        timeline.unroll(u64::MAX);
        let mut timeline = Timeline { reference: Some(i64::MIN) };
        timeline.unroll(5);
    }
}
