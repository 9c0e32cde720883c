//! Which pictures a rendition shows at which times: one of each field, or on the grid of a frame rate. Integers only.
//!
//! Picture `i` of a rate of n/d frames a second lies at i·d/n s of the absolute timeline, and shows the picture of the
//! source whose time is nearest, of two the earlier. It belongs to the segment of that picture, so no segment needs
//! another's pictures: only their times.

use crate::job::{Schedule, Shown, VideoSpec};
use crate::media::{Ticks, Timescale, Video};

/// A picture is shown no longer than this before or after its own time, seconds: a gap in the source stays a gap.
const HOLD: i128 = 10;

/// The pictures of one segment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pictures<'a> {
    /// Rising.
    pub pts: &'a [Ticks],
    /// Where the next segment's first picture is, or where the last one ends.
    pub end: Ticks,
    pub timescale: Timescale,
    /// The last picture of the segment before, on the same timeline.
    pub before: Option<Ticks>,
    /// No segment follows on this timeline.
    pub last: bool,
}

/// None where each picture is shown at its own time.
pub(super) fn schedule(spec: &VideoSpec, source: &Video, pictures: Pictures<'_>) -> Option<Schedule> {
    let by_field = spec.by_field(source);
    if pictures.pts.is_empty() || (!by_field && spec.fps.is_none()) {
        return None;
    }
    let times = Times::new(pictures, by_field);
    match spec.fps {
        Some(rate) => times.on_grid(rate),
        None => times.each(),
    }
}

/// Pictures in units of which none is ever halved.
struct Times {
    times: Vec<i128>,
    end: i128,
    before: Option<i128>,
    last: bool,
    /// Units a second.
    scale: i128,
}

impl Times {
    /// Of fields, in half ticks: the second is half-way to the next picture.
    fn new(pictures: Pictures<'_>, by_field: bool) -> Self {
        let Pictures { pts, end, timescale, before, last } = pictures;
        let tick = |at: Ticks| i128::from(at.0);
        let (end, scale) = (tick(end), i128::from(timescale.get()));
        if !by_field {
            let times = pts.iter().map(|&at| tick(at)).collect();
            return Self { times, end, before: before.map(tick), last, scale };
        }
        let next = pts.iter().skip(1).map(|&at| tick(at)).chain([end]);
        let times: Vec<i128> = pts.iter().zip(next).flat_map(|(&at, next)| [2 * tick(at), tick(at) + next]).collect();
        let before = before.zip(pts.first()).map(|(before, &first)| tick(before) + tick(first));
        Self { times, end: 2 * end, before, last, scale: 2 * scale }
    }

    /// Each picture once, at its own time.
    fn each(&self) -> Option<Schedule> {
        // Half ticks can't be said of a timescale over 2^31: the time is cut off to a whole one.
        let (timescale, unit) = match scale_of(self.scale) {
            Some(timescale) => (timescale, 1),
            None => (scale_of(self.scale / 2)?, 2),
        };
        let ticks = |at: i128| saturate(at.div_euclid(unit));
        let shown = (0..).zip(&self.times).map(|(picture, &at)| Shown { picture, pts: ticks(at) });
        let pictures = u32::try_from(self.times.len()).ok()?;
        Some(Schedule { timescale, pictures, shown: shown.collect(), end: ticks(self.end) })
    }

    fn on_grid(&self, (frames, seconds): (u32, u32)) -> Option<Schedule> {
        let (frames, seconds) = (i128::from(frames), i128::from(seconds));
        // The place on the grid of `at` / `parts` units is this over that.
        let place = |at: i128, parts: i128| (at * frames, parts * self.scale * seconds);
        let from = |at: i128| ceil(place(at, 1));
        let after_middle = |a: i128, b: i128| floor(place(a + b, 2)) + 1;
        let hold = HOLD * self.scale;
        let mut shown = Vec::new();
        let mut start = match (self.before, self.times.first()) {
            (Some(before), Some(&first)) => after_middle(before, first),
            (None, Some(&first)) => from(first),
            _ => return None,
        };
        let mut end = start;
        for (index, &at) in self.times.iter().enumerate() {
            let next = match self.times.get(index + 1) {
                Some(&next) => after_middle(at, next),
                None if self.last => from(self.end),
                None => after_middle(at, self.end),
            };
            let (first, past) = (start.max(from(at - hold)), next.min(from(at + hold)));
            let picture = u32::try_from(index).ok()?;
            shown.extend((first..past).map(|n| Shown { picture, pts: saturate(n * seconds) }));
            (start, end) = (next, past);
        }
        let pictures = u32::try_from(self.times.len()).ok()?;
        Some(Schedule { timescale: scale_of(frames)?, pictures, shown, end: saturate(end * seconds) })
    }
}

fn scale_of(units: i128) -> Option<Timescale> {
    u32::try_from(units).ok().and_then(Timescale::new)
}

fn floor((numerator, denominator): (i128, i128)) -> i128 {
    numerator.div_euclid(denominator)
}

fn ceil((numerator, denominator): (i128, i128)) -> i128 {
    -(-numerator).div_euclid(denominator)
}

fn saturate(n: i128) -> Ticks {
    Ticks(n.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
}

#[cfg(test)]
#[path = "schedule_tests.rs"]
mod tests;
