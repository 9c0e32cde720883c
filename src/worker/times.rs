//! Presentation times as the pipeline sees them, and the way back to ticks.
//!
//! The n-th of a job's presentation times, sorted, is n frame durations to GStreamer: always positive, never equal, at
//! a constant rate, whatever the source's own times are. Nothing is rounded on the way back: a time that was not given
//! is not found.

use std::sync::{PoisonError, RwLock};

use gstreamer as gst;

use crate::media::Ticks;

/// Where encoders that would otherwise give negative decode times put their first picture (x264enc, x265enc).
const ENCODER_START: gst::ClockTime = gst::ClockTime::from_seconds(1000 * 3600);

/// The distinct presentation times of a job: known from the beginning, or added as pictures come, in order.
pub struct Times {
    sorted: RwLock<Vec<Ticks>>,
    /// Frames a second.
    rate: (u32, u32),
}

impl Times {
    /// `rate`: both parts at least 1.
    pub fn new(times: impl Iterator<Item = Ticks>, rate: (u32, u32)) -> Self {
        let mut sorted: Vec<Ticks> = times.collect();
        sorted.sort_unstable();
        sorted.dedup();
        Self { sorted: RwLock::new(sorted), rate }
    }

    /// All of them, in order.
    pub fn ticks(&self) -> Vec<Ticks> {
        self.sorted.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The next one, which is later than all there are.
    pub fn push(&self, pts: Ticks) {
        self.sorted.write().unwrap_or_else(PoisonError::into_inner).push(pts);
    }

    /// What GStreamer is told for `pts`.
    pub fn of(&self, pts: Ticks) -> Option<gst::ClockTime> {
        let rank = self.sorted.read().unwrap_or_else(PoisonError::into_inner).binary_search(&pts).ok();
        rank.map(|rank| self.at(rank))
    }

    /// How long each frame lasts to GStreamer.
    pub fn frame(&self) -> gst::ClockTime {
        self.at(1)
    }

    /// The presentation time that was given to GStreamer as `time`.
    pub fn find(&self, time: gst::ClockTime) -> Option<Ticks> {
        let per_frame = u128::from(self.rate.1) * 1_000_000_000;
        // `at` rounds down, so the time lies less than 1 ns below its exact place.
        let rank = usize::try_from((u128::from(time.nseconds()) + 1) * u128::from(self.rate.0) / per_frame).ok()?;
        [rank.checked_sub(1), Some(rank)]
            .into_iter()
            .flatten()
            .find(|&rank| self.at(rank) == time)
            .and_then(|rank| self.sorted.read().unwrap_or_else(PoisonError::into_inner).get(rank).copied())
    }

    /// [`Self::find`] for a time that comes from an encoder whose first picture was `first`.
    pub fn find_encoded(&self, time: gst::ClockTime, first: Ticks) -> Option<Ticks> {
        self.find(time).or_else(|| self.find(time.checked_sub(ENCODER_START)? + self.of(first)?))
    }

    /// What GStreamer is told for the `n`th picture behind all there are.
    pub fn behind(&self, n: usize) -> gst::ClockTime {
        let count = self.sorted.read().unwrap_or_else(PoisonError::into_inner).len();
        self.at(count + n)
    }

    /// Whether a time that comes from an encoder whose first picture was `first` is such a picture's.
    pub fn is_behind(&self, time: gst::ClockTime, first: Ticks) -> bool {
        let time = match (time.checked_sub(ENCODER_START), self.of(first)) {
            (Some(since), Some(first)) => since + first,
            _ => time,
        };
        time >= self.behind(0)
    }

    fn at(&self, rank: usize) -> gst::ClockTime {
        let exact = rank as u128 * u128::from(self.rate.1) * 1_000_000_000 / u128::from(self.rate.0);
        gst::ClockTime::from_nseconds(u64::try_from(exact).unwrap_or(u64::MAX - 1).min(u64::MAX - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_comes_back_and_no_other_does() {
        for rate in [(30, 1), (30_000, 1001), (24_000, 1001), (60, 1), (1, 1), (7, 3), (1_000_000, 1)] {
            let pts: Vec<i64> = (0..500).map(|n| n * n - 1000).collect();
            let times = Times::new(pts.iter().copied().map(Ticks), rate);
            for &pts in &pts {
                let time = times.of(Ticks(pts)).unwrap();
                assert_eq!(times.find(time), Some(Ticks(pts)), "{rate:?}");
                assert_eq!(times.find_encoded(time, Ticks(pts)), Some(Ticks(pts)), "{rate:?}");
                assert_eq!(times.find_encoded(ENCODER_START, Ticks(pts)), Some(Ticks(pts)), "{rate:?}");
                assert_eq!(times.find(time + gst::ClockTime::from_nseconds(2)), None, "{rate:?}");
            }
        }
    }

    #[test]
    fn times_are_given_in_presentation_order_without_repeats() {
        let times = Times::new([0, 4, 2, 2, 1, 3].into_iter().map(Ticks), (25, 1));
        assert_eq!(times.ticks().len(), 5);
        assert_eq!(times.of(Ticks(3)), Some(gst::ClockTime::from_mseconds(120)));
        assert_eq!(times.of(Ticks(5)), None);
    }
}
