//! One audio track on its way into segments: places its units on the absolute sample grid and cuts them by sample.

use std::collections::VecDeque;

use super::Cut;
use super::audio_clock::AudioClock;
use crate::media::{AccessUnit, Format, Ticks, Timescale, Track, TrackId, Window, codec};

/// Decoded before the segment's first sample: 32 AAC frames at 48 kHz for the encoder, and 2 for the decoder.
const PRE_ROLL_MS: i64 = 730;
/// Needed after the segment's last sample: the frame that spans the cut, and the encoder's look-ahead of two and a half.
const POST_ROLL_MS: i64 = 80;

#[derive(Debug)]
pub(super) struct AudioLane {
    pub track: TrackId,
    from: Timescale,
    rate: Timescale,
    format: Format,
    clock: AudioClock,
    /// Where the next segment's window starts.
    cursor: Option<Ticks>,
    held: VecDeque<AccessUnit>,
    held_bytes: usize,
    /// Units that came after their segment had gone.
    pub late: u64,
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
            clock: AudioClock::default(),
            cursor: None,
            held: VecDeque::new(),
            held_bytes: 0,
            late: 0,
        }
    }

    /// The sample rate, in which units and windows are counted.
    pub fn rate(&self) -> Timescale {
        self.rate
    }

    /// Rewrites the unit's times to sample positions, contiguous but for real gaps, and holds it.
    pub fn push(&mut self, mut unit: AccessUnit) {
        let told = unit.pts.nearest(self.from, self.rate);
        let at = self.clock.place(told, self.rate);
        let samples = match &self.format {
            Format::Audio(audio) => codec::samples(audio, &unit.data).map(|n| Ticks(i64::from(n))),
            _ => None,
        };
        let length = samples.or(unit.duration.map(|d| d.nearest(self.from, self.rate))).unwrap_or_default();
        (unit.pts, unit.dts, unit.duration) = (at, at, Some(length));
        let end = at + length;
        self.clock.ended(end);
        if end.0 <= 0 && self.cursor.is_none() {
            // Priming before the presentation starts: kept only as pre-roll.
        } else if self.cursor.is_none() {
            self.cursor = Some(Ticks(at.0.max(0)));
        } else if self.cursor.is_some_and(|cursor| end <= cursor) {
            self.late += 1;
        }
        self.held_bytes += unit.data.len();
        self.held.push_back(unit);
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
        self.clock.end().filter(|_| self.cursor.is_some())
    }

    /// Whether all that a segment needs that ends at `end` (in samples) is here.
    pub fn covers(&self, end: Ticks) -> bool {
        self.clock.end().is_some_and(|next| next >= end + self.ms(POST_ROLL_MS))
    }

    /// Position of the first held unit at or after `at`.
    pub fn first_unit_from(&self, at: Ticks) -> Option<Ticks> {
        self.held.iter().map(|unit| unit.pts).find(|&pts| pts >= at)
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
        for unit in &self.held {
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
        while let Some(unit) = self.held.front() {
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
