//! Samples → elementary stream bytes: start codes, delimiters and parameter sets for video, ADTS for AAC.

use bytes::Bytes;

use super::Sample;
use crate::media::codec::{self, aac, annexb, h264, h265};
use crate::media::{Audio, Error, Format, Video, VideoCodec};

/// Audio frames are packed until a PES fills sixteen packets.
const AUDIO_PES: usize = 2_900;
const START_CODE: [u8; 4] = [0, 0, 0, 1];
const MPEG2_SEQUENCE: [u8; 4] = [0, 0, 1, 0xb3];

/// What comes before a picture (ISO/IEC 13818-1 2.14.1, 2.17.1: every access unit begins with a delimiter).
#[derive(Debug, Default)]
pub struct Lead {
    /// At a sync sample: the delimiter and the parameter sets.
    pub sync: Bytes,
    pub other: Bytes,
}

impl Lead {
    /// From avcC or hvcC; nothing for codecs that need nothing.
    pub fn of(format: &Format) -> Result<Self, Error> {
        let Format::Video(video) = format else { return Ok(Self::default()) };
        let (delimiter, sets): (&[u8], _) = match video.codec {
            // "Any slice type".
            VideoCodec::H264 => {
                let (sets, _) = h264::ParameterSets::from_avcc(&video.config)?;
                (&[0x09, 0xf0], [sets.sps, sets.pps].concat())
            }
            VideoCodec::H265 => {
                let (sets, _) = h265::ParameterSets::from_hvcc(&video.config)?;
                (&[0x46, 0x01, 0x50], [sets.vps, sets.sps, sets.pps].concat())
            }
            _ => return Ok(Self::default()),
        };
        let other = [&START_CODE, delimiter].concat();
        let mut sync = other.clone();
        for set in sets {
            sync.extend_from_slice(&START_CODE);
            sync.extend_from_slice(&set);
        }
        Ok(Self { sync: sync.into(), other: other.into() })
    }
}

/// Appends a sample in the form that the stream carries it.
pub fn write(format: &Format, sample: &Sample, out: &mut Vec<u8>) -> Result<(), Error> {
    match format {
        Format::Video(video) => write_picture(video, sample, out),
        Format::Audio(audio) if audio.codec == crate::media::AudioCodec::Aac => {
            out.extend(aac::adts_header(&audio.config, sample.data.len())?);
            out.extend_from_slice(&sample.data);
            Ok(())
        }
        _ => {
            out.extend_from_slice(&sample.data);
            Ok(())
        }
    }
}

fn write_picture(video: &Video, sample: &Sample, out: &mut Vec<u8>) -> Result<(), Error> {
    if video.codec == VideoCodec::Mpeg2 {
        if sample.sync && !sample.data.starts_with(&MPEG2_SEQUENCE) {
            out.extend_from_slice(&video.config);
        }
        out.extend_from_slice(&sample.data);
        return Ok(());
    }
    let before = out.len();
    for nal in annexb::length_prefixed(&sample.data) {
        out.extend_from_slice(&START_CODE);
        out.extend_from_slice(nal);
    }
    // A length and a start code take the same room.
    if out.len() - before != sample.data.len() {
        return Err(Error::bad("the NAL unit lengths of a picture do not add up"));
    }
    Ok(())
}

/// An upper bound on what [`write`] appends.
pub fn size(format: &Format, sample: &Sample) -> usize {
    let config = if let Format::Video(video) = format { video.config.len() } else { 7 };
    sample.data.len() + config
}

/// As many audio frames as go into one PES: those of which each begins, to the tick, where the one before ends.
/// `pts` are theirs in ticks of 90 kHz. Never empty where `samples` is not.
pub fn pack<'a>(audio: &Audio, samples: &'a [Sample], pts: &[i64]) -> &'a [Sample] {
    let mut bytes = 0;
    let mut passed = 0;
    for (n, (sample, time)) in samples.iter().zip(pts).enumerate() {
        let expected = pts.first().unwrap_or(time) + passed * 90_000 / i64::from(audio.sample_rate.max(1));
        bytes += sample.data.len();
        if n > 0 && (bytes > AUDIO_PES || (time - expected).abs() > 1) {
            return samples.get(..n).unwrap_or(samples);
        }
        passed += codec::samples(audio, &sample.data).map_or(0, i64::from);
    }
    samples
}
