//! MPEG-1/2 audio, layers I to III (ISO/IEC 11172-3, 13818-3).

use crate::media::{Audio, Error};

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub sample_rate: u32,
    pub channels: u16,
    /// Samples a channel in the frame.
    pub samples: u32,
    /// Bytes, header included.
    pub frame_length: usize,
}

impl Header {
    /// None where `data` does not start with a well-formed header (needs 4 bytes; free format is not read).
    pub fn parse(data: &[u8]) -> Option<Self> {
        let _ = data;
        None
    }
}

/// All that a frame says of its stream.
pub fn audio(frame: &[u8]) -> Result<Audio, Error> {
    let _ = frame;
    Err(Error::UnsupportedCodec("not read yet".into()))
}
