//! One elementary stream: PES payload in, access units and set-up out. `video` and `audio` do the work.

use std::collections::VecDeque;

use bytes::Bytes;

use super::audio::Audio;
use super::psi::Content;
use super::video::Video;
use crate::media::codec::latm;
use crate::media::{Error, Format, Sync, Ticks};

/// What is found in an elementary stream, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// The set-up of all units that follow, and the offset of the first of them. `Format::Other` where it is none that
    /// is read here: then no units follow.
    Format(Format, u64),
    Unit(Unit),
}

/// An access unit that does not know its track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub pts: Ticks,
    pub dts: Ticks,
    pub sync: Sync,
    /// Where in the input the PES begins whose stamps it goes by.
    pub offset: u64,
    pub data: Bytes,
}

/// An elementary stream that is read.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each stream")]
pub enum Elementary {
    Video(Box<Video>),
    Audio(Audio),
}

impl Elementary {
    /// None where the content is not read. `name` is what `Format::Other` calls it; `limit` bounds an access unit.
    pub fn new(content: &Content, name: &str, limit: usize) -> Option<Self> {
        match *content {
            Content::Video(codec) => Some(Self::Video(Box::new(Video::new(codec, name, limit)))),
            Content::Audio(codec) => Some(Self::Audio(Audio::new(codec, name))),
            Content::Latm => Some(Self::Audio(Audio::latm(name))),
            Content::Data(_) | Content::Other { .. } => None,
        }
    }

    /// A PES begins at `offset` of the input; `stamps` are its PTS and DTS.
    pub fn begin(&mut self, stamps: Option<(Ticks, Ticks)>, offset: u64, found: &mut Vec<Found>) {
        match self {
            Self::Video(video) => video.begin(stamps, offset, found),
            Self::Audio(audio) => audio.begin(stamps.map(|(pts, _)| pts), offset),
        }
    }

    /// The set-up in force, where it is known from elsewhere than the stream.
    pub fn set_up(&mut self, format: &Format) {
        if let (Self::Video(video), Format::Video(known)) = (self, format) {
            video.know(known);
        }
    }

    /// See [`Audio::multiplex`].
    pub fn multiplex(&self, offset: u64) -> Option<latm::Multiplex> {
        match self {
            Self::Video(_) => None,
            Self::Audio(audio) => audio.multiplex(offset),
        }
    }

    /// See [`Audio::know`].
    pub fn know_multiplex(&mut self, multiplex: &latm::Multiplex) {
        if let Self::Audio(audio) = self {
            audio.know(multiplex);
        }
    }

    /// The offset of the first unit that what is in memory can belong to.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Self::Video(video) => video.offset(),
            Self::Audio(audio) => audio.offset(),
        }
    }

    /// Payload of the PES that was begun last. Only `Error::OverLimit`: other damage is passed over.
    pub fn data(&mut self, data: &[u8], found: &mut Vec<Found>) -> Result<(), Error> {
        match self {
            Self::Video(video) => video.data(data, found),
            Self::Audio(audio) => {
                audio.data(data, found);
                Ok(())
            }
        }
    }

    /// The PES is whole.
    pub fn end(&mut self, found: &mut Vec<Found>) {
        if let Self::Audio(audio) = self {
            audio.end(found);
        }
    }

    /// The PES in progress is damaged: what has not been given yet is dropped.
    pub fn reset(&mut self) {
        match self {
            Self::Video(video) => video.reset(),
            Self::Audio(audio) => audio.reset(),
        }
    }

    /// No more bytes will come: gives what is left.
    pub fn flush(&mut self, found: &mut Vec<Found>) {
        match self {
            Self::Video(video) => video.flush(found),
            Self::Audio(audio) => audio.end(found),
        }
    }

    /// Bytes in memory.
    pub fn buffered(&self) -> usize {
        match self {
            Self::Video(video) => video.buffered(),
            Self::Audio(audio) => audio.buffered(),
        }
    }

    /// Whether the end of the buffer is `payload`, or there is nothing to compare it with.
    pub fn ends_with(&self, payload: &[u8]) -> bool {
        let buffer = match self {
            Self::Video(video) => video.buffer(),
            Self::Audio(audio) => audio.buffer(),
        };
        let common = buffer.len().min(payload.len());
        buffer[buffer.len() - common..] == payload[payload.len() - common..]
    }
}

/// Time stamps and the places in a buffer from which they hold: a PES's stamps belong to the first access unit that
/// begins in it (ISO/IEC 13818-1 2.4.3.7).
#[derive(Debug)]
pub struct Marks<T>(VecDeque<(usize, T)>);

impl<T> Default for Marks<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Marks<T> {
    /// Never more marks than bytes: one at the same place replaces the one before.
    pub fn put(&mut self, at: usize, stamps: T) {
        self.0.pop_back_if(|mark| mark.0 == at);
        self.0.push_back((at, stamps));
    }

    /// The stamps for a unit that begins at `at`.
    pub fn take(&mut self, at: usize) -> Option<T> {
        let mut taken = None;
        while let Some((_, stamps)) = self.0.pop_front_if(|mark| mark.0 <= at) {
            taken = Some(stamps);
        }
        taken
    }

    /// The first stamps.
    pub fn first(&self) -> Option<&T> {
        self.0.front().map(|mark| &mark.1)
    }

    /// Whether a PES begins right at `at`.
    pub fn is_at(&self, at: usize) -> bool {
        self.0.iter().any(|mark| mark.0 == at)
    }

    /// The first `count` bytes of the buffer are gone.
    pub fn shift(&mut self, count: usize) {
        for mark in &mut self.0 {
            mark.0 = mark.0.saturating_sub(count);
        }
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
