//! H.264 (ISO/IEC 14496-10): parameter sets, avcC, sync samples.

use crate::media::{Error, Sync, Video};
use bytes::Bytes;

/// What a decoder needs before the first slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSets {
    pub sps: Vec<Bytes>,
    pub pps: Vec<Bytes>,
}

impl ParameterSets {
    /// From the payload of avcC (ISO/IEC 14496-15 5.3.3.1); also gives the size of NAL lengths in the samples: 1, 2 or 4.
    pub fn from_avcc(avcc: &[u8]) -> Result<(Self, usize), Error> {
        let _ = avcc;
        Err(Error::UnsupportedCodec("not read yet".into()))
    }

    /// The payload of avcC with 4-byte lengths, the High profiles' tail bytes included.
    pub fn avcc(&self) -> Result<Bytes, Error> {
        Err(Error::UnsupportedCodec("not read yet".into()))
    }

    /// All that the set-up says; `Video::config` is [`Self::avcc`].
    pub fn video(&self) -> Result<Video, Error> {
        Err(Error::UnsupportedCodec("not read yet".into()))
    }
}

/// What kind of entry point a unit with 4-byte NAL lengths is: IDR, recovery point SEI or I slices only, or none.
pub fn sync(unit: &[u8]) -> Sync {
    let _ = unit;
    Sync::No
}
