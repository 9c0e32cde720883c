//! Container bytes → tracks and access units, incrementally: any chunking of the same bytes gives the same events.
//!
//! [`Demuxer::push`] takes bytes, [`Demuxer::poll`] gives events until it needs more. A file with its index last
//! (MP4, moov after mdat) is written to the [`Spool`] and read back, so that memory stays bounded.

mod implicit;
pub mod mp4;
mod resume;
pub mod sniff;
pub mod ts;
pub mod webm;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use self::implicit::Implicit;
use self::resume::CARRIED;
pub use self::resume::{SetUp, State};
use self::sniff::Sniff;
use super::{AccessUnit, DataUnit, Error, Track};

/// What a demuxer finds, in the order of the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The input's set-up is known, or has changed: all tracks, also those that can't be decoded here. Comes before
    /// the first unit, and again where the container announces another set-up. `offset`: the byte of the input from
    /// which they would be told again, and all units that follow them.
    Tracks { tracks: Vec<Track>, offset: u64 },
    /// In decode order within a track.
    Unit(AccessUnit),
    /// Where it stands among the bytes, which may be long before its time.
    Data(DataUnit),
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Container {
    Mp4,
    Webm,
    Ts,
}

/// A demuxer for any of the containers; sniffs where none is named.
pub struct Demuxer {
    limits: Limits,
    stage: Stage,
    implicit: Implicit,
    finished: bool,
}

enum Stage {
    /// The bytes so far, until they tell the container.
    Head {
        bytes: BytesMut,
        /// Where sniffing has failed so far; it is tried again when the head is an eighth longer.
        tried: usize,
        spool: Box<dyn Spool>,
    },
    Known(Inner),
    /// The bytes are none of the containers.
    Unknown,
}

enum Inner {
    Mp4(Box<mp4::Demuxer>),
    Webm(Box<webm::Demuxer>),
    Ts(Box<ts::Demuxer>),
}

impl Demuxer {
    /// `container`: None to tell it by the first bytes.
    pub fn new(container: Option<Container>, limits: Limits, spool: Box<dyn Spool>) -> Self {
        let stage = match container {
            Some(container) => Stage::Known(Inner::new(container, limits, spool)),
            None => Stage::Head { bytes: BytesMut::new(), tried: 0, spool },
        };
        Self { limits, stage, implicit: Implicit::default(), finished: false }
    }

    /// Takes the next bytes of the input. After an error the demuxer is of no more use.
    pub fn push(&mut self, data: Bytes) -> Result<(), Error> {
        match &mut self.stage {
            Stage::Known(inner) => inner.push(data),
            Stage::Unknown => Err(Error::UnsupportedContainer),
            Stage::Head { bytes, .. } if bytes.is_empty() => match sniff::sniff(&data) {
                Sniff::Is(container) => self.settle(container, data),
                _ => self.gather(&data),
            },
            Stage::Head { .. } => self.gather(&data),
        }
    }

    /// No more bytes will come. What is complete is still given by [`Self::poll`], which then tells a truncated input.
    pub fn finish(&mut self) {
        self.finished = true;
        if let Stage::Known(inner) = &mut self.stage {
            inner.finish();
        }
    }

    /// The next event; None when more bytes are needed or, after [`Self::finish`], when all has been given.
    pub fn poll(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.implicit.next()? {
                return Ok(Some(event));
            }
            match self.found().transpose() {
                Some(found) => self.implicit.push(found),
                None if !self.finished || self.implicit.is_empty() => return Ok(None),
                None => self.implicit.settle(),
            }
        }
    }

    /// What the container's demuxer finds.
    fn found(&mut self) -> Result<Option<Event>, Error> {
        match &mut self.stage {
            Stage::Known(inner) => inner.poll(),
            Stage::Unknown => Err(Error::UnsupportedContainer),
            Stage::Head { .. } if !self.finished => Ok(None),
            Stage::Head { bytes, .. } => {
                let data = bytes.split().freeze();
                if data.is_empty() {
                    return Err(Error::Truncated("there is nothing in it".into()));
                }
                let Some(container) = whole(&data) else {
                    self.stage = Stage::Unknown;
                    return Err(Error::UnsupportedContainer);
                };
                self.settle(container, data)?;
                self.finish();
                self.found()
            }
        }
    }

    /// Data units that were damaged or too large, and passed over.
    pub fn damaged_data(&self) -> u64 {
        match &self.stage {
            Stage::Known(inner) => inner.damaged_data(),
            Stage::Head { .. } | Stage::Unknown => 0,
        }
    }

    /// The container, once it is known.
    pub fn container(&self) -> Option<Container> {
        match &self.stage {
            Stage::Known(inner) => Some(inner.container()),
            Stage::Head { .. } | Stage::Unknown => None,
        }
    }

    fn gather(&mut self, data: &[u8]) -> Result<(), Error> {
        let Stage::Head { bytes, tried, .. } = &mut self.stage else { return Ok(()) };
        bytes.extend_from_slice(data);
        // Each byte is looked at a bounded number of times, however small the pieces.
        if bytes.len() >= 16 && bytes.len() < sniff::ENOUGH && bytes.len() < *tried + *tried / 8 {
            return Ok(());
        }
        *tried = bytes.len();
        match sniff::sniff(bytes) {
            Sniff::Is(container) => {
                let data = bytes.split().freeze();
                self.settle(container, data)
            }
            Sniff::NeedMore => Ok(()),
            Sniff::Unknown => {
                self.stage = Stage::Unknown;
                Err(Error::UnsupportedContainer)
            }
        }
    }

    fn settle(&mut self, container: Container, head: Bytes) -> Result<(), Error> {
        if let Stage::Head { spool, .. } = std::mem::replace(&mut self.stage, Stage::Unknown) {
            let mut inner = Inner::new(container, self.limits, spool);
            inner.push(head)?;
            self.stage = Stage::Known(inner);
        }
        Ok(())
    }
}

/// The container of an input that has ended before it was told.
fn whole(input: &[u8]) -> Option<Container> {
    match sniff::sniff(input) {
        Sniff::Is(container) => Some(container),
        _ => sniff::sniff_whole(input),
    }
}

impl Inner {
    fn new(container: Container, limits: Limits, spool: Box<dyn Spool>) -> Self {
        match container {
            Container::Mp4 => Self::Mp4(Box::new(mp4::Demuxer::new(limits, spool))),
            Container::Webm => Self::Webm(Box::new(webm::Demuxer::new(limits))),
            Container::Ts => Self::Ts(Box::new(ts::Demuxer::new(limits))),
        }
    }

    fn push(&mut self, data: Bytes) -> Result<(), Error> {
        match self {
            Self::Mp4(inner) => inner.push(data),
            Self::Webm(inner) => inner.push(data),
            Self::Ts(inner) => inner.push(data),
        }
    }

    fn finish(&mut self) {
        match self {
            Self::Mp4(inner) => inner.finish(),
            Self::Webm(inner) => inner.finish(),
            Self::Ts(inner) => inner.finish(),
        }
    }

    fn poll(&mut self) -> Result<Option<Event>, Error> {
        match self {
            Self::Mp4(inner) => inner.poll(),
            Self::Webm(inner) => inner.poll(),
            Self::Ts(inner) => inner.poll(),
        }
    }

    fn damaged_data(&self) -> u64 {
        match self {
            Self::Mp4(inner) => inner.damaged_data(),
            Self::Ts(inner) => inner.damaged_data(),
            Self::Webm(_) => 0,
        }
    }

    fn container(&self) -> Container {
        match self {
            Self::Mp4(_) => Container::Mp4,
            Self::Webm(_) => Container::Webm,
            Self::Ts(_) => Container::Ts,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoSpool;

    impl Spool for NoSpool {
        fn append(&mut self, _: &[u8]) -> Result<(), Error> {
            Err(Error::ScratchFull("none".into()))
        }

        fn read(&mut self, _: u64, _: usize) -> Result<Bytes, Error> {
            Err(Error::ScratchFailed("none".into()))
        }
    }

    fn demuxer() -> Demuxer {
        Demuxer::new(None, Limits::default(), Box::new(NoSpool))
    }

    #[test]
    fn the_container_is_told_by_the_first_bytes_in_any_pieces() {
        let mut demuxer = demuxer();
        for byte in b"\0\0\0\x10ftyp" {
            assert_eq!(demuxer.container(), None);
            demuxer.push(Bytes::copy_from_slice(&[*byte])).unwrap();
        }
        assert_eq!(demuxer.container(), Some(Container::Mp4));
        assert_eq!(demuxer.poll(), Ok(None));
    }

    #[test]
    fn bytes_of_no_container_are_refused_before_they_fill_the_memory() {
        let mut demuxer = demuxer();
        let refused = (0..100).find_map(|_| demuxer.push(Bytes::from_static(&[b'x'; 1000])).err());
        assert_eq!(refused, Some(Error::UnsupportedContainer));
        assert_eq!(demuxer.poll(), Err(Error::UnsupportedContainer));
    }

    #[test]
    fn short_inputs_are_told_at_their_end() {
        let end = |input: &'static [u8]| {
            let mut demuxer = demuxer();
            demuxer.push(Bytes::from_static(input)).unwrap();
            demuxer.finish();
            demuxer.poll()
        };
        assert_eq!(end(b"xxxx"), Err(Error::UnsupportedContainer));
        assert!(matches!(end(b""), Err(Error::Truncated(_))));
    }

    #[test]
    fn data_before_its_index_goes_to_the_spool() {
        let mut demuxer = demuxer();
        demuxer.push(Bytes::from_static(b"\0\0\0\x10mdatxxxxxxxx")).unwrap();
        assert!(matches!(demuxer.poll(), Err(Error::ScratchFull(_))));
    }
}
