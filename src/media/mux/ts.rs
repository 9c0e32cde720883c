//! MPEG-TS (ISO/IEC 13818-1): PAT and PMT in each segment, counters and clocks that go on across segments.

use bytes::Bytes;

use super::{OutTrack, Part};
use crate::media::{Error, Format};

/// Whether a track can be held.
pub fn holds(format: &Format) -> bool {
    let _ = format;
    false
}

/// Goes on from segment to segment: continuity counters, decode times, PCR.
pub struct Writer {}

impl Writer {
    pub fn new(tracks: Vec<OutTrack>) -> Result<Self, Error> {
        let _ = tracks;
        Ok(Self {})
    }

    /// One segment; `parts` in the order of the tracks, a track without media in it left out.
    pub fn segment(&mut self, parts: &[Part<'_>]) -> Result<Bytes, Error> {
        let _ = parts;
        Ok(Bytes::new())
    }
}
