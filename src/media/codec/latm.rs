//! AAC in LATM (ISO/IEC 14496-3 1.7): one programme of one layer, which is all that broadcasts hold.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::aac;
use super::bits::Bits;
use crate::media::Error;

/// Bytes of AudioSyncStream before the element (1.7.2.1).
pub const SYNC_LENGTH: usize = 3;

/// Bytes of the AudioMuxElement behind the sync word at the start of `data`; None where there is none (1.7.2.1).
pub fn element_length(data: &[u8]) -> Option<usize> {
    let [0x56, b1, b2, ..] = *data else { return None };
    let length = usize::from(b1 & 0x1f) << 8 | usize::from(b2);
    (b1 & 0xe0 == 0xe0 && length > 0).then_some(length)
}

/// What a stream of AudioMuxElements holds, as its last StreamMuxConfig told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Multiplex {
    set_up: Option<SetUp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SetUp {
    /// The AudioSpecificConfig, from its first bit on.
    config: Bytes,
    /// Access units in an element.
    frames: usize,
    /// Bits behind them.
    other: usize,
}

impl Multiplex {
    /// The access units of an AudioMuxElement, and the AudioSpecificConfig that they go by (table 1.41, with the
    /// configuration in the stream). An element before the first configuration is malformed.
    pub fn read(&mut self, element: &[u8]) -> Result<(Bytes, Vec<Bytes>), Error> {
        let mut bits = Bits::new(element);
        if !bits.flag()? {
            self.set_up = None;
            self.set_up = Some(SetUp::read(&mut bits)?);
        }
        let set_up = self.set_up.as_ref().ok_or_else(|| Error::bad("LATM before its configuration"))?;
        let mut units = Vec::with_capacity(set_up.frames);
        for _ in 0..set_up.frames {
            let length = payload_length(&mut bits)?;
            units.push(take(&mut bits, 8 * length)?);
        }
        bits.skip(set_up.other)?;
        Ok((set_up.config.clone(), units))
    }
}

impl SetUp {
    /// StreamMuxConfig (table 1.42).
    fn read(bits: &mut Bits<'_>) -> Result<Self, Error> {
        let unsaid = |what: &str| Error::UnsupportedCodec(format!("AAC in LATM {what}"));
        let version = bits.flag()?;
        if version && bits.flag()? {
            return Err(unsaid("of a version to come"));
        }
        if version {
            value(bits)?; // taraBufferFullness
        }
        let same_time = bits.flag()?;
        let frames = bits.read(6)? as usize + 1;
        if bits.read(4)? != 0 || bits.read(3)? != 0 || !same_time {
            return Err(unsaid("with several layers"));
        }
        let length = if version { value(bits)? as usize } else { aac::in_place(bits.clone())? };
        let config = take(bits, length)?;
        if bits.read(3)? != 0 {
            return Err(unsaid("with frames of a fixed length"));
        }
        bits.skip(8)?; // latmBufferFullness
        let mut other = 0usize;
        if bits.flag()? {
            other = if version { value(bits)? as usize } else { other_length(bits)? };
        }
        if bits.flag()? {
            bits.skip(8)?; // crcCheckSum
        }
        Ok(Self { config, frames, other })
    }
}

/// LatmGetValue (table 1.43).
fn value(bits: &mut Bits<'_>) -> Result<u32, Error> {
    let bytes = bits.read(2)? + 1;
    bits.read(8 * bytes)
}

/// otherDataLenBits of version 0.
fn other_length(bits: &mut Bits<'_>) -> Result<usize, Error> {
    let mut length = 0usize;
    loop {
        let more = bits.flag()?;
        length = length << 8 | bits.read(8)? as usize;
        if !more {
            return Ok(length);
        }
        if length > 0xffff {
            return Err(Error::bad("LATM with more other data than an element holds"));
        }
    }
}

/// PayloadLengthInfo of one layer (table 1.44), bytes.
fn payload_length(bits: &mut Bits<'_>) -> Result<usize, Error> {
    let mut length = 0;
    loop {
        let part = bits.read(8)? as usize;
        length += part;
        if part != 255 {
            return Ok(length);
        }
    }
}

/// The next `count` bits as bytes, the last filled up with zeros.
fn take(bits: &mut Bits<'_>, count: usize) -> Result<Bytes, Error> {
    if count > bits.remaining() {
        return Err(Error::bad("LATM runs over its element"));
    }
    let mut bytes = Vec::with_capacity(count.div_ceil(8));
    let mut left = count;
    while left > 0 {
        let width = left.min(8) as u32;
        bytes.push((bits.read(width)? << (8 - width)) as u8);
        left -= width as usize;
    }
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bits, most significant first, from (value, width).
    fn written(fields: &[(u64, u32)]) -> Vec<u8> {
        let bits: Vec<u8> =
            fields.iter().flat_map(|&(value, width)| (0..width).rev().map(move |n| (value >> n & 1) as u8)).collect();
        bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |sum, (n, bit)| sum | bit << (7 - n))).collect()
    }

    /// LC, 48 kHz, stereo.
    const CONFIG: (u64, u32) = (0x1190, 16);

    #[test]
    fn units_are_found_with_the_configuration_before_them_and_without() {
        let first = written(&[
            (0, 1),     // a configuration follows
            (0, 1),     // version
            (1, 1),     // allStreamsSameTimeFraming
            (1, 6),     // two frames
            (0, 4 + 3), // one programme, one layer
            CONFIG,
            (0, 3), // frames tell their lengths
            (0xff, 8),
            (1, 1),
            (0, 1),
            (9, 8), // nine other bits
            (1, 1),
            (0x55, 8), // checksum
            (2, 8),
            (0xabcd, 16),
            (1, 8),
            (0xef, 8),
            (0x1ff, 9),
        ]);
        let mut multiplex = Multiplex::default();
        let (config, units) = multiplex.read(&first).unwrap();
        assert_eq!(config, [0x11, 0x90][..]);
        assert_eq!(units, [&[0xab, 0xcd][..], &[0xef]]);
        let middle = [(0, 64); 32];
        let second = written(&[&[(1, 1), (1, 8), (7, 8), (255, 8), (2, 8)], &middle[..], &[(9, 8), (0, 9)]].concat());
        let (_, units) = multiplex.read(&second).unwrap();
        assert_eq!((units[0].len(), units[1].len(), units[1][256]), (1, 257, 9));
    }

    #[test]
    fn the_second_version_tells_the_length_of_the_configuration() {
        // HE-AAC told behind the configuration, which version 0 can't say.
        let config = 0x13_10_56_e5_98u64;
        let element = written(&[
            (0, 1),
            (1, 1),
            (0, 1),
            (0, 2),
            (0, 8), // version 1, taraBufferFullness
            (1, 1),
            (0, 6 + 4 + 3),
            (0, 2),
            (40, 8),
            (config, 40),
            (0, 3),
            (0xff, 8),
            (0, 1),
            (0, 1),
            (1, 8),
            (0x42, 8),
        ]);
        let (config, units) = Multiplex::default().read(&element).unwrap();
        assert_eq!(aac::audio(&config).unwrap().sample_rate, 48_000);
        assert_eq!(units, [&[0x42][..]]);
    }

    #[test]
    fn what_is_not_read_is_refused_and_no_old_configuration_is_kept() {
        let code = |fields: &[(u64, u32)]| Multiplex::default().read(&written(fields)).unwrap_err().code();
        assert_eq!(code(&[(1, 1), (0, 30)]), "bad_media", "no configuration yet");
        assert_eq!(code(&[(0, 1), (3, 2), (0, 64)]), "unsupported_codec", "version A");
        assert_eq!(code(&[(0, 2), (1, 1), (0, 6), (1, 4), (0, 64)]), "unsupported_codec", "two programmes");
        assert_eq!(code(&[(0, 2), (1, 1), (0, 13), CONFIG, (1, 3), (0, 64)]), "unsupported_codec", "fixed lengths");
        assert_eq!(
            code(&[(0, 2), (1, 1), (0, 13), (0x1180, 16), (0, 64)]),
            "unsupported_codec",
            "channels in the stream"
        );
    }

    #[test]
    fn the_sync_word_tells_the_length() {
        assert_eq!(element_length(&[0x56, 0xe1, 0x02, 0]), Some(0x102));
        assert_eq!(element_length(&[0x56, 0xe0, 0x00]), None);
        assert_eq!(element_length(&[0x56, 0xc1, 0x02]), None);
        assert_eq!(element_length(&[0x56, 0xe1]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(elements in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..80), 0..4)) {
            let mut multiplex = Multiplex::default();
            for element in elements {
                let held = element.len();
                if let Ok((_, units)) = multiplex.read(&element) {
                    prop_assert!(units.iter().map(Bytes::len).sum::<usize>() <= held);
                }
            }
        }
    }
}
