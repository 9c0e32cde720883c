//! AAC (ISO/IEC 14496-3): AudioSpecificConfig, ADTS.

use crate::media::{Audio, Error};
use bytes::Bytes;

/// One ADTS frame's header (ISO/IEC 14496-3 1.A.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adts {
    /// 7, or 9 with a CRC.
    pub header_length: usize,
    /// Header included.
    pub frame_length: usize,
    /// The AudioSpecificConfig that says the same.
    pub config: Bytes,
}

impl Adts {
    /// None where `data` does not start with a well-formed ADTS header (needs 7 bytes).
    pub fn parse(data: &[u8]) -> Option<Self> {
        let _ = data;
        None
    }
}

/// All that an AudioSpecificConfig says (ISO/IEC 14496-3 1.6.2.1).
pub fn audio(config: &[u8]) -> Result<Audio, Error> {
    let _ = config;
    Err(Error::UnsupportedCodec("not read yet".into()))
}

/// The ADTS header for a raw frame of `payload` bytes.
pub fn adts_header(config: &[u8], payload: usize) -> Result<[u8; 7], Error> {
    let _ = (config, payload);
    Err(Error::UnsupportedCodec("not read yet".into()))
}

/// Samples in each access unit as coded (without SBR): 1024 or 960.
pub fn frame_samples(config: &[u8]) -> u32 {
    let _ = config;
    1024
}

/// AudioSpecificConfig of AAC-LC.
pub fn low_complexity(sample_rate: u32, channels: u16) -> Result<Bytes, Error> {
    let _ = (sample_rate, channels);
    Err(Error::UnsupportedCodec("not read yet".into()))
}
