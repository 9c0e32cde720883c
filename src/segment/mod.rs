//! Cuts access units into segments at sync samples. Sans-IO: units in, segments out.
//!
//! A segment's presentation range is [S_k, S_k+1), S being the PTS of its sync sample. Video is cut in decode order;
//! what of it is kept is said by the window, in PTS. Audio is cut on the sample grid of its own track, with pre-roll
//! and post-roll so that its renditions join without a click. What is made of a segment is not known here.

mod audio_clock;
mod audio_lane;
mod epoch;
mod point;
mod repair;
mod segmenter;
#[cfg(test)]
mod tests;
mod video_lane;

pub use audio_clock::AudioClock;
pub use point::{AudioPoint, Entry, Mark, Point, VideoPoint};
pub use segmenter::Segmenter;
pub use video_lane::Foreseen;

use crate::media::{AccessUnit, Ticks, Timescale, Track, TrackId, Window};

/// A cut piece of the source, complete in itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// From 1, without holes.
    pub seq: u64,
    /// Of `start` and `end`: the video track's, or the sample rate of the first sound where no video is in it.
    pub timescale: Timescale,
    /// PTS of the first picture (or sound) presented.
    pub start: Ticks,
    /// Where the next segment starts, or where the last sample ends. Where the next one is of sound alone, it starts at the
    /// first sample from here on.
    pub end: Ticks,
    pub video: Option<Cut>,
    /// One for each audio track that is used, in the order given; its `units` may be empty.
    pub audio: Vec<Cut>,
    /// The set-up or the timeline does not go on from the segment before.
    pub discontinuity: bool,
    /// No segment follows on this timeline.
    pub last: bool,
    /// How many units have another time than they were told to have, or were left out because theirs was taken.
    pub repaired: u64,
    /// Video units that no decoder can use: before the first sync sample, and what leads it.
    pub undecodable: u64,
    /// Where the stream can be taken up again after this segment.
    pub resume: Point,
}

impl Segment {
    /// Bytes of coded media of the segment's own units.
    pub fn bytes(&self) -> usize {
        let cuts = self.video.iter().chain(&self.audio);
        cuts.flat_map(|cut| &cut.units).map(|unit| unit.data.len()).sum()
    }
}

/// One track's part of a segment, in decode order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    pub track: TrackId,
    /// Decoded for what follows, never kept.
    pub pre_roll: Vec<AccessUnit>,
    pub units: Vec<AccessUnit>,
    /// Decoded because what is kept depends on it.
    pub post_roll: Vec<AccessUnit>,
    /// What is presented in the segment, in the timescale of the cut: the track's for video, the sample rate for audio.
    pub window: Window,
    /// What `units` alone present, from sync sample to sync sample. Another than `window` only where video is cut at
    /// sync samples with leading pictures.
    pub span: Window,
}

impl Cut {
    /// Video frames, or audio access units, that are presented in the segment.
    pub fn presented(&self) -> u64 {
        let all = self.units.iter().chain(&self.post_roll);
        all.filter(|unit| self.window.contains(unit.pts)).count() as u64
    }

    /// All units in decode order.
    pub fn all(&self) -> impl Iterator<Item = &AccessUnit> {
        self.pre_roll.iter().chain(&self.units).chain(&self.post_roll)
    }
}

/// Where to cut, and how much to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The target length, milliseconds: the cut is at the first sync sample at or after it.
    pub target_ms: u32,
    /// Most milliseconds of video without a sync sample to cut at.
    pub max_ms: u32,
    /// Most pictures in a segment.
    pub max_frames: usize,
    /// Most bytes in a segment.
    pub max_bytes: usize,
    /// How far one track may lag behind another before the segment goes on without it, milliseconds.
    pub max_skew_ms: u32,
}

/// Why no more can be cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The source has no sync sample within the caps.
    #[error("no sync sample to cut at within {0}")]
    GopTooLong(String),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::GopTooLong(_) => "gop_too_long",
        }
    }
}

/// What a segmenter is for: the tracks that are used.
#[derive(Debug, Clone)]
pub struct Tracks<'a> {
    pub video: Option<&'a Track>,
    pub audio: Vec<&'a Track>,
}

/// Exact for all there can be: below 2^32 ms in a timescale below 2^32 is below 2^63 ticks.
fn ticks(ms: u32, timescale: Timescale) -> Ticks {
    Ticks((u64::from(ms) * u64::from(timescale.get()) / 1000) as i64)
}
