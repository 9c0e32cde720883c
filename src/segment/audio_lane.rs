//! One audio track on its way into segments: places its units on the absolute sample grid and cuts them by sample.

use std::collections::VecDeque;

use super::Cut;
use super::point::{AudioPoint, Entry, Gate, Mark};
use crate::media::{AccessUnit, Format, Ticks, Timescale, Track, TrackId, Window, codec};

/// Decoded before the segment's first sample: 8 AAC frames at 48 kHz for the encoder, and 2 for the decoder.
const PRE_ROLL_MS: i64 = 214;
/// Needed after the segment's last sample: the frame that spans the cut, and the encoder's look-ahead.
const POST_ROLL_MS: i64 = 45;
/// Container timestamps are rounded (WebM: to 1 ms) or jitter: what is nearer than this to where the last unit ended
/// follows it without a gap.
const JITTER_MS: i64 = 15;

#[derive(Debug)]
pub(super) struct AudioLane {
    pub track: TrackId,
    from: Timescale,
    rate: Timescale,
    format: Format,
    /// Where the next unit belongs if it follows without a gap.
    next: Option<Ticks>,
    /// Where the next segment's window starts.
    cursor: Option<Ticks>,
    held: VecDeque<Held>,
    held_bytes: usize,
    /// The newest unit.
    last: Option<Mark>,
    gate: Gate,
    /// Before a [`AudioPoint`] at which this lane goes on, nothing is late.
    heard: Option<Ticks>,
    /// Units that came after their segment had gone.
    pub late: u64,
}

#[derive(Debug)]
struct Held {
    unit: AccessUnit,
    mark: Mark,
    /// Where it would have followed without a gap.
    before: Option<Ticks>,
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
            next: None,
            cursor: None,
            held: VecDeque::new(),
            held_bytes: 0,
            last: None,
            gate: Gate::open(),
            heard: None,
            late: 0,
        }
    }

    /// Goes on at `point`.
    pub fn resume(track: &Track, point: &AudioPoint) -> Self {
        Self {
            next: point.next,
            cursor: point.cursor,
            heard: point.heard,
            gate: Gate::until(point.entry),
            last: match point.entry {
                Entry::After(mark) => Some(mark),
                Entry::At(_) | Entry::Beginning => None,
            },
            ..Self::new(track)
        }
    }

    /// Where this lane is to be taken up again for what comes after the last cut.
    pub fn point(&self) -> AudioPoint {
        let (entry, next) = match (self.held.front(), self.last) {
            (Some(held), _) => (Entry::At(held.mark), held.before),
            (None, Some(last)) => (Entry::After(last), self.next),
            (None, None) => (Entry::Beginning, None),
        };
        AudioPoint { entry, next, cursor: self.cursor, heard: self.next.max(self.heard) }
    }

    /// The sample rate, in which units and windows are counted.
    pub fn rate(&self) -> Timescale {
        self.rate
    }

    /// Rewrites the unit's times to sample positions, contiguous but for real gaps, and holds it.
    pub fn push(&mut self, mut unit: AccessUnit) {
        if !self.gate.passes(&unit) {
            return;
        }
        let (mark, before) = (Mark::of(&unit), self.next);
        self.last = Some(mark);
        let told = unit.pts.nearest(self.from, self.rate);
        let jitter = Ticks(JITTER_MS * i64::from(self.rate.get()) / 1000);
        let at = match self.next {
            Some(next) if (told - next).0.abs() <= jitter.0 => next,
            _ => told,
        };
        let samples = match &self.format {
            Format::Audio(audio) => codec::samples(audio, &unit.data).map(|n| Ticks(i64::from(n))),
            _ => None,
        };
        let length = samples.or(unit.duration.map(|d| d.nearest(self.from, self.rate))).unwrap_or_default();
        (unit.pts, unit.dts, unit.duration) = (at, at, Some(length));
        let end = at + length;
        self.next = Some(end);
        if end.0 <= 0 && self.cursor.is_none() {
            // Priming before the presentation starts: kept only as pre-roll.
        } else if self.cursor.is_none() {
            self.cursor = Some(Ticks(at.0.max(0)));
        } else if self.cursor.is_some_and(|cursor| end <= cursor) && self.heard.is_none_or(|heard| end > heard) {
            self.late += 1;
        }
        self.held_bytes += unit.data.len();
        self.held.push_back(Held { unit, mark, before });
    }

    /// How many samples lie between what has come so far, of this track or up to `video`, and the unit.
    pub fn skips(&self, unit: &AccessUnit, video: Option<Ticks>) -> Ticks {
        let newest = self.end().map(|end| video.map_or(end, |video| end.max(video)));
        newest.map_or(Ticks(0), |newest| unit.pts.nearest(self.from, self.rate) - newest)
    }

    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Where the first sample lies that is presented.
    pub fn start(&self) -> Option<Ticks> {
        self.cursor
    }

    /// Where the last unit that came ends.
    pub fn end(&self) -> Option<Ticks> {
        self.next.filter(|_| self.cursor.is_some())
    }

    /// Whether all that a segment needs that ends at `end` (in samples) is here.
    pub fn covers(&self, end: Ticks) -> bool {
        self.next.is_some_and(|next| next >= end + self.ms(POST_ROLL_MS))
    }

    /// Position of the first held unit at or after `at`.
    pub fn first_unit_from(&self, at: Ticks) -> Option<Ticks> {
        self.held.iter().map(|held| held.unit.pts).find(|&pts| pts >= at)
    }

    /// Cuts [cursor, end); what later segments need as pre-roll stays.
    pub fn cut(&mut self, end: Ticks) -> Cut {
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
        };
        let (pre, post) = (start - self.ms(PRE_ROLL_MS), end + self.ms(POST_ROLL_MS));
        for Held { unit, .. } in &self.held {
            let unit_end = unit.pts + unit.duration.unwrap_or_default();
            if unit.pts < start {
                // The unit that spans the cut was the segment's before; at the very start it is ours.
                if unit_end > pre {
                    cut.pre_roll.push(unit.clone());
                }
            } else if unit.pts < end {
                cut.units.push(unit.clone());
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
        cut
    }

    fn ms(&self, ms: i64) -> Ticks {
        Ticks((ms * i64::from(self.rate.get())).div_euclid(1000) + 1)
    }
}
