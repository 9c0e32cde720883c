//! Container bytes → tracks and access units, incrementally: any chunking of the same bytes gives the same events.
//!
//! [`Demuxer::push`] takes bytes, [`Demuxer::poll`] gives events until it needs more. A file with its index last
//! (MP4, moov after mdat) is written to the [`Spool`] and read back, so that memory stays bounded.

pub mod mp4;
pub mod sniff;
pub mod ts;
pub mod webm;

use bytes::Bytes;

use super::{AccessUnit, Error, Track};

/// What a demuxer finds, in the order of the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The input's set-up is known, or has changed: all tracks, also those that can't be decoded here. Comes before
    /// the first unit, and again where the container announces another set-up.
    Tracks(Vec<Track>),
    /// In decode order within a track.
    Unit(AccessUnit),
}

/// Bounds on what is believed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of set-up (moov, Tracks, PSI) held in memory.
    pub header_bytes: usize,
    /// Bytes of one access unit.
    pub unit_bytes: usize,
    /// Tracks in one input.
    pub tracks: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header_bytes: 64 << 20, unit_bytes: 16 << 20, tracks: 64 }
    }
}

/// Where a file with its index last waits for that index. Offsets count from the first byte appended.
pub trait Spool: Send {
    /// `Error::ScratchFull` when the bytes don't fit, `Error::ScratchFailed` when they could not be written.
    fn append(&mut self, data: &[u8]) -> Result<(), Error>;
    /// Exactly `length` bytes from `offset`.
    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, Error>;
}

/// The containers that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Container {
    Mp4,
    Webm,
    Ts,
}

/// A demuxer for any of the containers; sniffs where none is named.
pub struct Demuxer {}

impl Demuxer {
    /// `container`: None to tell it by the first bytes.
    pub fn new(container: Option<Container>, limits: Limits, spool: Box<dyn Spool>) -> Self {
        let _ = (container, limits, spool);
        Self {}
    }

    /// Takes the next bytes of the input. After an error the demuxer is of no more use.
    pub fn push(&mut self, data: Bytes) -> Result<(), Error> {
        let _ = data;
        Ok(())
    }

    /// No more bytes will come. What is complete is still given by [`Self::poll`], which then tells a truncated input.
    pub fn finish(&mut self) {}

    /// The next event; None when more bytes are needed or, after [`Self::finish`], when all has been given.
    pub fn poll(&mut self) -> Result<Option<Event>, Error> {
        Ok(None)
    }

    /// The container, once it is known.
    pub fn container(&self) -> Option<Container> {
        None
    }
}
