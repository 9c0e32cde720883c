//! Opus (RFC 6716, RFC 7845; "Encapsulation of Opus in ISO Base Media File Format" for dOps).

use crate::media::{Audio, Error};
use bytes::Bytes;

/// From a dOps payload.
pub fn audio_from_dops(dops: &[u8]) -> Result<Audio, Error> {
    let _ = dops;
    Err(Error::UnsupportedCodec("not read yet".into()))
}

/// From OpusHead (RFC 7845 5.1), as Matroska's CodecPrivate holds it; `Audio::config` is dOps.
pub fn audio_from_opus_head(head: &[u8]) -> Result<Audio, Error> {
    let _ = head;
    Err(Error::UnsupportedCodec("not read yet".into()))
}

/// A dOps payload for one or two channels without pre-skip.
pub fn dops(channels: u16, pre_skip: u16, input_sample_rate: u32) -> Bytes {
    let _ = (channels, pre_skip, input_sample_rate);
    Bytes::new()
}

/// Samples at 48 kHz in a packet (RFC 6716 3.1); None where it is malformed.
pub fn samples(packet: &[u8]) -> Option<u32> {
    let _ = packet;
    None
}
