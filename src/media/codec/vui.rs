//! Video usability information: the part of it that H.264 (E.1.1) and H.265 (E.2.1) have in common.

use super::bits::Bits;
use crate::media::{Colour, Error};

/// What it says, or what is inferred where it is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vui {
    pub sample_aspect: (u32, u32),
    pub colour: Colour,
    /// num_units_in_tick and time_scale.
    pub timing: Option<(u32, u32)>,
    /// H.265 only: each picture is a field.
    pub field_seq: bool,
}

impl Default for Vui {
    fn default() -> Self {
        Self { sample_aspect: (1, 1), colour: Colour::default(), timing: None, field_seq: false }
    }
}

impl Vui {
    /// The fields up to and with the chroma sample location.
    pub fn read_common(&mut self, bits: &mut Bits<'_>) -> Result<(), Error> {
        if bits.flag()? {
            self.sample_aspect = match bits.byte::<8>()? {
                EXTENDED_SAR => match (bits.read(16)?, bits.read(16)?) {
                    (0, _) | (_, 0) => (1, 1),
                    ratio => ratio,
                },
                index => SAMPLE_ASPECTS.get(usize::from(index)).copied().unwrap_or((1, 1)),
            };
        }
        if bits.flag()? {
            bits.skip(1)?; // overscan_appropriate_flag
        }
        if bits.flag()? {
            bits.skip(3)?; // video_format
            self.colour.full_range = bits.flag()?;
            if bits.flag()? {
                self.colour.primaries = bits.byte::<8>()?;
                self.colour.transfer = bits.byte::<8>()?;
                self.colour.matrix = bits.byte::<8>()?;
            }
        }
        if bits.flag()? {
            bits.unsigned()?; // chroma_sample_loc_type_top_field
            bits.unsigned()?; // chroma_sample_loc_type_bottom_field
        }
        Ok(())
    }

    /// The timing, after its presence flag: num_units_in_tick and time_scale.
    pub fn read_timing(&mut self, bits: &mut Bits<'_>) -> Result<(), Error> {
        self.timing = Some((bits.read(32)?, bits.read(32)?));
        Ok(())
    }
}

const EXTENDED_SAR: u8 = 255;

/// ISO/IEC 14496-10 table E-1.
const SAMPLE_ASPECTS: [(u32, u32); 17] = [
    (1, 1),
    (1, 1),
    (12, 11),
    (10, 11),
    (16, 11),
    (40, 33),
    (24, 11),
    (20, 11),
    (32, 11),
    (80, 33),
    (18, 11),
    (15, 11),
    (64, 33),
    (160, 99),
    (4, 3),
    (3, 2),
    (2, 1),
];

/// Frames per second in lowest terms; None where it is not a rate that any level allows (ISO/IEC 23008-2 A.4.2: at
/// most 300), as with streams whose tick is the container's timescale.
pub fn frame_rate(frames: u64, seconds: u64) -> Option<(u32, u32)> {
    if frames == 0 || seconds == 0 || frames.div_ceil(300) > seconds {
        return None;
    }
    let divisor = greatest_common_divisor(frames, seconds);
    Some((u32::try_from(frames / divisor).ok()?, u32::try_from(seconds / divisor).ok()?))
}

pub fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_rates_are_reduced_and_sane() {
        assert_eq!(frame_rate(60_000, 2002), Some((30_000, 1001)));
        assert_eq!(frame_rate(300, 1), Some((300, 1)));
        assert_eq!(frame_rate(301, 1), None);
        assert_eq!(frame_rate(90_000, 1), None);
        assert_eq!(frame_rate(0, 1), None);
        assert_eq!(frame_rate(1, 0), None);
        assert_eq!(frame_rate(u64::from(u32::MAX), 2 * u64::from(u32::MAX)), Some((1, 2)));
    }
}
