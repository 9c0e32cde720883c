//! Where a stream can be taken up again.

use serde::{Deserialize, Serialize};

use super::audio_clock::AudioClock;
use crate::media::{AccessUnit, Ticks};

/// Where a stream can be taken up again after a segment, and what has to be known to go on exactly as if it had never
/// been left: see [`super::Segmenter::resume`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// The number of the next segment.
    pub next_seq: u64,
    /// The least [`AccessUnit::offset`] of all units that the next segment needs, pre-roll included. None where nothing
    /// of it has been seen: it begins with what comes next.
    pub offset: Option<u64>,
    /// Whether the next segment does not go on from the one before it.
    pub discontinuity: bool,
    /// None where there is no video, or none has come.
    pub video: Option<VideoPoint>,
    /// In the order of the tracks.
    pub audio: Vec<AudioPoint>,
}

/// How the video goes on. Times are in the track's ticks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VideoPoint {
    /// The first unit that is needed: where the pre-roll begins, or else the one that opens the next segment.
    pub entry: Entry,
    /// The unit that opens the next segment. None where none has come that could.
    pub opens: Option<Mark>,
    /// The pre-roll is of another timeline, which was broken off in the middle of a GOP.
    pub seeded: bool,
    /// The latest presentation time before the entry.
    pub newest: Option<Ticks>,
    /// The decode time before the entry, where such are told.
    pub dts: Option<Ticks>,
    /// Where the next segment's window starts; the PTS of the sync sample that opens it.
    pub start: Option<Ticks>,
    /// Where its own units start.
    pub span: Option<Ticks>,
    /// Where cuts are asked for.
    pub forced: Vec<Ticks>,
}

/// How one audio track goes on. Positions are in samples.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AudioPoint {
    /// The first unit that is needed.
    pub entry: Entry,
    /// By which that unit is placed.
    pub clock: AudioClock,
    /// Where the unit before it begins.
    pub last: Option<Ticks>,
    /// Where the next segment's window starts.
    pub cursor: Option<Ticks>,
    /// How far the sound had come: what ends before this is not late when it comes again.
    pub heard: Option<Ticks>,
}

impl VideoPoint {
    /// Goes on, on a new timeline, after `mark`.
    pub(super) fn after(mark: Mark) -> Self {
        Self {
            entry: Entry::After(mark),
            opens: None,
            seeded: false,
            newest: None,
            dts: None,
            start: None,
            span: None,
            forced: Vec::new(),
        }
    }
}

impl AudioPoint {
    /// Goes on, on a new timeline, after `mark`.
    pub(super) fn after(mark: Mark) -> Self {
        Self { entry: Entry::After(mark), clock: AudioClock::default(), last: None, cursor: None, heard: None }
    }
}

/// The first unit of a track that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// The first that comes: none has been used.
    Beginning,
    At(Mark),
    /// The one that follows this.
    After(Mark),
}

/// By what a unit is known again: what its demuxer said of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub offset: u64,
    pub pts: Ticks,
    pub dts: Ticks,
}

impl Entry {
    /// Where in the input the unit is, if it has been seen.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::At(mark) => Some(mark.offset),
            Self::Beginning | Self::After(_) => None,
        }
    }

    /// The unit before it, where that is what is known.
    pub(super) fn after(&self) -> Option<Mark> {
        match self {
            Self::After(mark) => Some(*mark),
            Self::Beginning | Self::At(_) => None,
        }
    }
}

impl Mark {
    pub(super) fn of(unit: &AccessUnit) -> Self {
        Self { offset: unit.offset, pts: unit.pts, dts: unit.dts }
    }
}

/// Drops what comes before an [`Entry`].
#[derive(Debug)]
pub(super) struct Gate(Entry);

impl Gate {
    pub fn open() -> Self {
        Self(Entry::Beginning)
    }

    pub fn until(entry: Entry) -> Self {
        Self(entry)
    }

    /// Whether the unit is at or behind the entry. What lies further on in the input than the entry's mark is behind it.
    pub fn passes(&mut self, unit: &AccessUnit) -> bool {
        let (mark, itself) = match self.0 {
            Entry::Beginning => return true,
            Entry::At(mark) => (mark, true),
            Entry::After(mark) => (mark, false),
        };
        let found = Mark::of(unit) == mark;
        let behind = unit.offset > mark.offset;
        if found || behind {
            self.0 = Entry::Beginning;
        }
        behind || found && itself
    }
}
