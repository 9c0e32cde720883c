//! AC-3 and E-AC-3 (ETSI TS 102 366): syncframes, dac3, dec3.

use crate::media::{Audio, Error};

/// A syncframe's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub enhanced: bool,
    pub sample_rate: u32,
    pub channels: u16,
    pub samples: u32,
    /// Bytes, header included.
    pub frame_length: usize,
}

impl Header {
    /// None where `data` does not start with a well-formed syncframe header (needs 8 bytes).
    pub fn parse(data: &[u8]) -> Option<Self> {
        let _ = data;
        None
    }
}

/// From a syncframe of either kind; `Audio::config` is dac3 or dec3 made from it.
pub fn audio(frame: &[u8]) -> Result<Audio, Error> {
    let _ = frame;
    Err(Error::UnsupportedCodec("not read yet".into()))
}

/// From a dac3 payload.
pub fn audio_from_dac3(dac3: &[u8]) -> Result<Audio, Error> {
    let _ = dac3;
    Err(Error::UnsupportedCodec("not read yet".into()))
}

/// From a dec3 payload.
pub fn audio_from_dec3(dec3: &[u8]) -> Result<Audio, Error> {
    let _ = dec3;
    Err(Error::UnsupportedCodec("not read yet".into()))
}
