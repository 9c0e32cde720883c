//! Access units → container bytes, to the tick.
//!
//! `cmaf` and `ts` take the same input: [`OutTrack`]s once, then for each segment a [`Part`] a track.

pub mod cmaf;
pub mod ts;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Format, Ticks, Timescale};

/// A track of an output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutTrack {
    /// track_ID in CMAF; the order of PIDs in TS. From 1.
    pub number: u32,
    pub timescale: Timescale,
    pub language: Option<String>,
    /// Never `Format::Other`.
    pub format: Format,
}

/// One track's samples of one segment, in decode order.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    pub track: &'a OutTrack,
    pub samples: &'a [Sample],
    /// Where the segment ends on this track: the last sample in presentation order lasts until here.
    pub end: Ticks,
}

/// A coded picture or audio frame to be written. Decode times are the muxer's to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub pts: Ticks,
    pub sync: bool,
    /// In the form of [`super::AccessUnit::data`].
    pub data: Bytes,
}
