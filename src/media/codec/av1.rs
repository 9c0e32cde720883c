//! AV1 (the bitstream specification, and "AV1 Codec ISO Media File Format Binding" for av1C).

use crate::media::{Error, Video};
use bytes::Bytes;

/// Whether a temporal unit is a random access point: a sequence header and a shown key frame.
pub fn is_key_frame(unit: &[u8]) -> bool {
    let _ = unit;
    false
}

/// From an av1C payload; its sequence header OBU tells the rest.
pub fn video_from_av1c(av1c: &[u8]) -> Result<Video, Error> {
    let _ = av1c;
    Err(Error::UnsupportedCodec("not read yet".into()))
}

/// From a temporal unit that holds a sequence header; `Video::config` is av1C made from it.
pub fn video(unit: &[u8]) -> Result<Video, Error> {
    let _ = unit;
    Err(Error::UnsupportedCodec("not read yet".into()))
}

/// The unit as MP4 and Matroska hold it: without temporal delimiters, tile lists and padding.
pub fn strip(unit: Bytes) -> Bytes {
    unit
}
