//! A sample's bytes → an access unit's bytes, and what kind of entry point it is.

use bytes::{BufMut, Bytes, BytesMut};

use crate::media::codec::{annexb, av1, h264, h265, mpeg2, vp8, vp9};
use crate::media::{Sync, VideoCodec};

/// The sample in the form of [`crate::media::AccessUnit::data`]. `nal_length`: bytes of its NAL unit lengths. Without
/// a copy unless something in it is to be left out or made longer.
pub fn normalise(sample: Bytes, codec: VideoCodec, nal_length: usize) -> Bytes {
    match codec {
        VideoCodec::Av1 => av1::strip(sample),
        VideoCodec::H264 | VideoCodec::H265 if nal_length == 4 => without_leading_delimiter(sample, codec),
        VideoCodec::H264 | VideoCodec::H265 => lengthen(&sample, codec, nal_length),
        VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Mpeg2 => sample,
    }
}

/// The sample with 4-byte lengths, as far as its own ones make sense, and without delimiters.
fn lengthen(sample: &[u8], codec: VideoCodec, nal_length: usize) -> Bytes {
    let mut unit = BytesMut::with_capacity(sample.len() + sample.len() / 8 + 16);
    let mut rest = sample;
    while let Some((length, after)) = rest.split_at_checked(nal_length) {
        let length = length.iter().fold(0, |n, &byte| n << 8 | usize::from(byte));
        let Some((nal, after)) = after.split_at_checked(length) else { break };
        rest = after;
        if !nal.is_empty() && !is_delimiter(nal, codec) {
            unit.put_u32(nal.len() as u32);
            unit.put_slice(nal);
        }
    }
    unit.freeze()
}

/// A delimiter can only come first (ISO/IEC 14496-10 7.4.1.2.3, 23008-2 7.4.2.4.4).
fn without_leading_delimiter(sample: Bytes, codec: VideoCodec) -> Bytes {
    match first_nal(&sample) {
        Some(nal) if is_delimiter(nal, codec) => sample.slice(4 + nal.len()..),
        _ => sample,
    }
}

fn first_nal(sample: &[u8]) -> Option<&[u8]> {
    let (length, rest) = sample.split_first_chunk::<4>()?;
    rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

fn is_delimiter(nal: &[u8], codec: VideoCodec) -> bool {
    nal.first().is_some_and(|&first| match codec {
        VideoCodec::H264 => first & 31 == 9,
        _ => first >> 1 & 63 == 35,
    })
}

/// What kind of entry point a unit is. The bytes decide; the container's mark is only believed where they agree.
pub fn sync(unit: &[u8], codec: VideoCodec, marked: bool) -> Sync {
    let key = |is_key| if is_key { Sync::Idr } else { Sync::No };
    match codec {
        VideoCodec::H264 => match h264::sync(unit) {
            // An I picture alone does not say that nothing after it refers to what came before.
            Sync::OpenGop if !marked && !has_recovery_point(unit) => Sync::No,
            told => told,
        },
        VideoCodec::H265 => h265::sync(unit),
        VideoCodec::Vp8 => key(vp8::is_key_frame(unit)),
        VideoCodec::Vp9 => key(vp9::is_key_frame(unit)),
        VideoCodec::Av1 => key(av1::is_key_frame(unit)),
        VideoCodec::Mpeg2 => mpeg2::sync(unit),
    }
}

/// Whether an H.264 unit holds a recovery point SEI message (ISO/IEC 14496-10 D.2.8).
fn has_recovery_point(unit: &[u8]) -> bool {
    const SEI: u8 = 6;
    const RECOVERY_POINT: usize = 6;
    let mut messages = annexb::length_prefixed(unit).filter_map(|nal| match nal.split_first() {
        Some((first, payload)) if first & 31 == SEI => Some(payload),
        _ => None,
    });
    messages.any(|mut rest| {
        while let Some(kind) = sei_number(&mut rest) {
            if kind == RECOVERY_POINT {
                return true;
            }
            let Some(after) = sei_number(&mut rest).and_then(|size| rest.get(size..)) else { return false };
            rest = after;
        }
        false
    })
}

/// A payload's type or size: bytes of 255 and a last one, added up (7.3.2.3.1).
fn sei_number(rest: &mut &[u8]) -> Option<usize> {
    let mut sum = 0;
    loop {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        sum += usize::from(byte);
        if byte != 0xff {
            return Some(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_nal_lengths_become_four_bytes_without_delimiters() {
        let sample = Bytes::from_static(&[0, 2, 9, 0xf0, 0, 3, 0x65, 1, 2, 0, 9, 0x65]);
        let unit = normalise(sample, VideoCodec::H264, 2);
        assert_eq!(unit.as_ref(), [0, 0, 0, 3, 0x65, 1, 2], "the last NAL unit does not fit and is left out");
    }

    #[test]
    fn a_leading_delimiter_is_cut_off_in_place() {
        let sample = Bytes::from_static(&[0, 0, 0, 3, 35 << 1, 1, 0x50, 0, 0, 0, 2, 19 << 1, 1]);
        let unit = normalise(sample.clone(), VideoCodec::H265, 4);
        assert_eq!(unit.as_ref(), [0, 0, 0, 2, 19 << 1, 1]);
        assert_eq!(unit.as_ptr(), sample[7..].as_ptr());
    }

    #[test]
    fn sei_numbers() {
        let mut rest = &[0xff, 0xff, 1, 6][..];
        assert_eq!((sei_number(&mut rest), sei_number(&mut rest), sei_number(&mut rest)), (Some(511), Some(6), None));
    }
}
