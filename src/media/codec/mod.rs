//! Reads and writes the set-up bytes of codecs: parameter sets, configuration records, RFC 6381 strings.

pub mod aac;
pub mod ac3;
pub mod annexb;
pub mod av1;
mod bits;
pub mod captions;
pub mod h264;
pub mod h265;
pub mod hdr;
pub mod mp3;
pub mod mpeg2;
pub mod opus;
pub mod sets;
pub mod vp8;
pub mod vp9;
mod vui;

use super::{Audio, AudioCodec};

/// Samples a channel that an audio access unit decodes to, at `Audio::sample_rate`; None where it is malformed.
pub fn samples(audio: &Audio, unit: &[u8]) -> Option<u32> {
    match audio.codec {
        AudioCodec::Aac => Some(aac::decoded_samples(&audio.config)),
        AudioCodec::Opus => opus::samples(unit),
        AudioCodec::Mp3 => mp3::Header::parse(unit).map(|h| h.samples),
        AudioCodec::Ac3 | AudioCodec::Eac3 => ac3::samples(unit),
    }
}
