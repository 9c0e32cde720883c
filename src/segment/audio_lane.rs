//! One audio track on its way into segments: places its units on the absolute sample grid and cuts them by sample.

use std::collections::VecDeque;

use super::Cut;
use super::audio_clock::AudioClock;
use super::point::{AudioPoint, Entry, Mark};
use crate::media::{AccessUnit, Format, Ticks, Timescale, Track, TrackId, Window, codec};

/// Decoded before the segment's first sample: 64 AAC frames at 48 kHz for the encoder, and 2 for the decoder.
const PRE_ROLL_MS: i64 = 1415;
/// Needed after the segment's last sample: the frame that spans the cut, and the encoder's look-ahead of two and a half.
const POST_ROLL_MS: i64 = 80;

/// No jump backward: what is told twice, milliseconds.
const BACK_MS: i64 = 500;

#[derive(Debug)]
pub(super) struct AudioLane {
    pub track: TrackId,
    from: Timescale,
    rate: Timescale,
    format: Format,
    ends: Ends,
    /// Where the next segment's window starts.
    cursor: Option<Ticks>,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// The newest unit.
    last: Option<Mark>,
    /// Before a [`AudioPoint`] at which this lane goes on, nothing is late.
    heard: Option<Ticks>,
    /// What has been left out since the last unit that was held.
    left_out: Option<LeftOut>,
    /// Units that came after their segment had gone.
    pub late: u64,
}

/// The sound so far.
#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    /// By which the next unit is placed.
    clock: AudioClock,
    /// Where the last unit begins.
    last: Option<Ticks>,
}

#[derive(Debug)]
struct Held {
    unit: AccessUnit,
    mark: Mark,
    before: Ends,
    /// Times that were repaired: its own, and units before it that were left out.
    repaired: u64,
}

#[derive(Debug, Clone, Copy)]
struct LeftOut {
    first: Mark,
    before: Ends,
    count: u64,
}

impl AudioLane {
    pub fn new(track: &Track) -> Self {
        let rate = match &track.format {
            Format::Audio(audio) => Timescale::new(audio.sample_rate).unwrap_or(track.timescale),
            _ => track.timescale,
        };
        Self {
            track: track.id,
            from: track.timescale,
            rate,
            format: track.format.clone(),
            ends: Ends::default(),
            cursor: None,
            held: VecDeque::new(),
            held_bytes: 0,
            last: None,
            heard: None,
            left_out: None,
            late: 0,
        }
    }

    /// Goes on at `point`; its entry is looked for elsewhere.
    pub fn resume(track: &Track, point: &AudioPoint) -> Self {
        // What has been heard of before ends there; a track that begins on this timeline has no such place.
        let last = point.entry.after().filter(|_| point.clock.end().is_some());
        let ends = Ends { clock: point.clock, last: point.last };
        Self { ends, last, cursor: point.cursor, heard: point.heard, ..Self::new(track) }
    }

    /// Where this lane is to be taken up again for what comes after the last cut.
    pub fn point(&self) -> AudioPoint {
        let (entry, ends) = match (self.held.front(), self.left_out, self.last) {
            (Some(held), ..) => (Entry::At(held.mark), held.before),
            (None, Some(left_out), _) => (Entry::At(left_out.first), left_out.before),
            (None, None, Some(last)) => (Entry::After(last), self.ends),
            (None, None, None) => (Entry::Beginning, Ends::default()),
        };
        let heard = self.ends.clock.end().max(self.heard);
        AudioPoint { entry, clock: ends.clock, last: ends.last, cursor: self.cursor, heard }
    }

    /// The sample rate, in which units and windows are counted.
    pub fn rate(&self) -> Timescale {
        self.rate
    }

    /// In which the units' times are told.
    pub fn told_in(&self) -> Timescale {
        self.from
    }

    /// The unit that came last.
    pub fn last(&self) -> Option<Mark> {
        self.last
    }

    /// Whether anything has come.
    pub fn heard(&self) -> bool {
        self.ends.clock.end().is_some()
    }

    /// Whether the unit is presented so long before what has come that it is of another timeline.
    pub fn runs_back(&self, unit: &AccessUnit) -> bool {
        self.ends.clock.end().is_some_and(|next| self.told(unit) < next - self.ms(BACK_MS))
    }

    /// Rewrites the unit's times to sample positions, contiguous but for real gaps, and holds it. `stray`: its time is
    /// nonsense; it follows what was before it.
    ///
    /// What is told to begin where something has begun already is left out; what overlaps cuts short what was before
    /// it. Both are repairs.
    pub fn push(&mut self, mut unit: AccessUnit, stray: bool) {
        let (mark, before, told) = (Mark::of(&unit), self.ends, self.told(&unit));
        self.last = Some(mark);
        let length = self.length(&unit);
        let mut clock = before.clock;
        let at = match clock.end() {
            Some(next) if stray || self.overlaps_little(told, next, length, clock) => next,
            Some(_) if !clock.goes_on(told, self.rate) && before.last.is_some_and(|last| told <= last) => {
                let left_out = self.left_out.get_or_insert(LeftOut { first: mark, before, count: 0 });
                left_out.count += 1;
                return;
            }
            _ => clock.place(told, self.rate),
        };
        // A step of the clock is no repair.
        let overlaps = before.clock.end().is_some_and(|next| at + Ticks(1) < next);
        (unit.pts, unit.dts, unit.duration) = (at, at, Some(length));
        let end = at + length;
        clock.ended(end);
        self.ends = Ends { clock, last: Some(at) };
        if end.0 <= 0 && self.cursor.is_none() {
            // Priming before the presentation starts: kept only as pre-roll.
        } else if self.cursor.is_none() {
            self.cursor = Some(Ticks(at.0.max(0)));
        } else if self.cursor.is_some_and(|cursor| end <= cursor) && self.heard.is_none_or(|heard| end > heard) {
            self.late += 1;
        }
        self.held_bytes += unit.data.len();
        let left_out = self.left_out.take();
        let (mark, before) = left_out.map_or((mark, before), |left_out| (left_out.first, left_out.before));
        let repaired = left_out.map_or(0, |left_out| left_out.count) + u64::from(stray || overlaps);
        self.held.push_back(Held { unit, mark, before, repaired });
    }

    /// Whether a unit of `length` is told to begin in the second half of the one before it, and no clock explains it.
    fn overlaps_little(&self, told: Ticks, next: Ticks, length: Ticks, clock: AudioClock) -> bool {
        !clock.goes_on(told, self.rate) && told < next && told >= next - Ticks(length.0 / 2)
    }

    fn told(&self, unit: &AccessUnit) -> Ticks {
        unit.pts.nearest(self.from, self.rate)
    }

    /// In samples.
    fn length(&self, unit: &AccessUnit) -> Ticks {
        let samples = match &self.format {
            Format::Audio(audio) => codec::samples(audio, &unit.data).map(|n| Ticks(i64::from(n))),
            _ => None,
        };
        samples.or(unit.duration.map(|d| d.nearest(self.from, self.rate))).unwrap_or_default()
    }

    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Where the first sample lies that is presented.
    pub fn start(&self) -> Option<Ticks> {
        self.cursor
    }

    /// Where the last unit ends, also one that is not presented.
    pub fn newest(&self) -> Option<Ticks> {
        self.ends.clock.end()
    }

    /// Where the last unit that came ends, once any is presented.
    pub fn end(&self) -> Option<Ticks> {
        self.ends.clock.end().filter(|_| self.cursor.is_some())
    }

    /// Whether all that a segment needs that ends at `end` (in samples) is here.
    pub fn covers(&self, end: Ticks) -> bool {
        self.ends.clock.end().is_some_and(|next| next >= end + self.ms(POST_ROLL_MS))
    }

    /// Position of the first held unit at or after `at`.
    pub fn first_unit_from(&self, at: Ticks) -> Option<Ticks> {
        self.held.iter().map(|held| held.unit.pts).find(|&pts| pts >= at)
    }

    /// Cuts [cursor, end); what later segments need as pre-roll stays. Also tells how many times were repaired.
    pub fn cut(&mut self, end: Ticks) -> (Cut, u64) {
        let start = self.cursor.unwrap_or(end).min(end);
        if self.cursor.is_some() {
            self.cursor = Some(end.max(start));
        }
        let mut cut = Cut {
            track: self.track,
            pre_roll: Vec::new(),
            units: Vec::new(),
            post_roll: Vec::new(),
            window: Window { start, end },
            span: Window { start, end },
        };
        let mut repaired = 0;
        let (pre, post) = (start - self.ms(PRE_ROLL_MS), end + self.ms(POST_ROLL_MS));
        for Held { unit, repaired: times, .. } in &self.held {
            let unit_end = unit.pts + unit.duration.unwrap_or_default();
            if unit.pts < start {
                // The unit that spans the cut was the segment's before; at the very start it is ours.
                if unit_end > pre {
                    cut.pre_roll.push(unit.clone());
                }
            } else if unit.pts < end {
                cut.units.push(unit.clone());
                repaired += times;
            } else if unit.pts < post {
                cut.post_roll.push(unit.clone());
            } else {
                break;
            }
        }
        let keep_from = end - self.ms(PRE_ROLL_MS);
        while let Some(Held { unit, .. }) = self.held.front() {
            if unit.pts + unit.duration.unwrap_or_default() > keep_from {
                break;
            }
            self.held_bytes -= unit.data.len();
            self.held.pop_front();
        }
        (cut, repaired)
    }

    fn ms(&self, ms: i64) -> Ticks {
        Ticks((ms * i64::from(self.rate.get())).div_euclid(1000) + 1)
    }
}
