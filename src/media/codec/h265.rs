//! H.265 (ISO/IEC 23008-2): parameter sets, hvcC, sync samples.

use crate::media::{Error, Sync, Video};
use bytes::Bytes;

/// What a decoder needs before the first slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSets {
    pub vps: Vec<Bytes>,
    pub sps: Vec<Bytes>,
    pub pps: Vec<Bytes>,
}

impl ParameterSets {
    /// From the payload of hvcC (ISO/IEC 14496-15 8.3.3.1); also gives the size of NAL lengths in the samples: 1, 2 or 4.
    pub fn from_hvcc(hvcc: &[u8]) -> Result<(Self, usize), Error> {
        let _ = hvcc;
        Err(Error::UnsupportedCodec("not read yet".into()))
    }

    /// The payload of hvcC with 4-byte lengths.
    pub fn hvcc(&self) -> Result<Bytes, Error> {
        Err(Error::UnsupportedCodec("not read yet".into()))
    }

    /// All that the set-up says; `Video::config` is [`Self::hvcc`].
    pub fn video(&self) -> Result<Video, Error> {
        Err(Error::UnsupportedCodec("not read yet".into()))
    }
}

/// What kind of entry point a unit with 4-byte NAL lengths is: IDR or BLA, CRA, or none.
pub fn sync(unit: &[u8]) -> Sync {
    let _ = unit;
    Sync::No
}
