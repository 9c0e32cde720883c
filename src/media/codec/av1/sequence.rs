//! The sequence header (bitstream specification 5.5), as far as it is of use here.

use crate::media::codec::bits::Bits;
use crate::media::codec::vui::frame_rate;
use crate::media::{Chroma, Colour, Error};

pub struct Sequence {
    pub profile: u8,
    /// seq_level_idx and seq_tier of the first operating point.
    pub level: u8,
    pub tier: bool,
    pub width: u32,
    pub height: u32,
    pub frame_rate: Option<(u32, u32)>,
    pub bit_depth: u8,
    pub chroma: Chroma,
    /// subsampling_x, subsampling_y.
    pub subsampling: (bool, bool),
    pub chroma_sample_position: u8,
    pub colour: Colour,
    /// Bits before color_config.
    colour_at: usize,
}

impl Sequence {
    pub fn parse(header: &[u8]) -> Result<Self, Error> {
        let bits = &mut Bits::new(header);
        let profile = bits.byte::<3>()?;
        if profile > 2 {
            return Err(Error::bad(format!("AV1 profile {profile}")));
        }
        bits.skip(1)?; // still_picture
        let reduced = bits.flag()?;
        let OperatingPoint { level, tier, frame_rate } = match reduced {
            true => OperatingPoint { level: bits.byte::<5>()?, tier: false, frame_rate: None },
            false => operating_points(bits)?,
        };
        let (width_bits, height_bits) = (bits.read(4)? + 1, bits.read(4)? + 1);
        let (width, height) = (bits.read(width_bits)? + 1, bits.read(height_bits)? + 1);
        if !reduced && bits.flag()? {
            bits.skip(4 + 3)?; // lengths of frame ids
        }
        bits.skip(3)?; // use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
        if !reduced {
            skip_tools(bits)?;
        }
        bits.skip(3)?; // enable_superres, enable_cdef, enable_restoration
        let colour_at = bits.position();
        let color = ColorConfig::parse(bits, profile)?;
        Ok(Self {
            profile,
            level,
            tier,
            width,
            height,
            frame_rate,
            bit_depth: color.bit_depth,
            chroma: color.chroma,
            subsampling: color.subsampling,
            chroma_sample_position: color.chroma_sample_position,
            colour: color.colour,
            colour_at,
        })
    }

    /// The header with another colour description. Of 4:2:0 and with a matrix of its own: others are left as they are.
    pub fn recoloured(&self, header: &[u8], colour: Colour) -> Result<Vec<u8>, Error> {
        if self.chroma != Chroma::C420 || colour.matrix == 0 {
            return Ok(header.to_vec());
        }
        let mut bits = Bits::new(header);
        let deep = if self.profile == 2 && self.bit_depth > 8 { 1 } else { 0 };
        // high_bitdepth, twelve_bit, mono_chrome.
        bits.skip(self.colour_at + 1 + deep + usize::from(self.profile != 1))?;
        let before = bits.position();
        if bits.flag()? {
            bits.skip(24)?;
        }
        bits.skip(1)?; // color_range
        let after = bits.position();
        let bit = |n: usize| header.get(n / 8).is_some_and(|byte| byte >> (7 - n % 8) & 1 == 1);
        // What follows the trailing one bit is padding (5.3.4).
        let end = (after..8 * header.len()).rfind(|&n| bit(n)).ok_or_else(|| Error::bad("no AV1 trailing bit"))?;
        let points = [colour.primaries, colour.transfer, colour.matrix];
        let points = points.into_iter().flat_map(|point| (0..8).map(move |n| point >> (7 - n) & 1 == 1));
        let described = std::iter::once(true).chain(points).chain([colour.full_range]);
        let made = (0..before).map(bit).chain(described).chain((after..=end).map(bit));
        let mut bytes = Vec::with_capacity(header.len() + 4);
        for (n, bit) in made.enumerate() {
            if n % 8 == 0 {
                bytes.push(0);
            }
            if let Some(last) = bytes.last_mut() {
                *last |= u8::from(bit) << (7 - n % 8);
            }
        }
        Ok(bytes)
    }
}

struct OperatingPoint {
    level: u8,
    tier: bool,
    frame_rate: Option<(u32, u32)>,
}

/// From timing_info_present_flag to the last operating point; gives the first one.
fn operating_points(bits: &mut Bits<'_>) -> Result<OperatingPoint, Error> {
    let mut rate = None;
    let mut delay_bits = None;
    if bits.flag()? {
        let (units, scale) = (bits.read(32)?, bits.read(32)?);
        if bits.flag()? {
            // num_ticks_per_picture_minus_1 is uvlc(): ue(v) but for a length that no rate has.
            let ticks = u64::from(bits.unsigned()?) + 1;
            rate = frame_rate(scale.into(), u64::from(units).saturating_mul(ticks));
        }
        if bits.flag()? {
            delay_bits = Some(bits.read(5)? as usize + 1);
            bits.skip(32 + 5 + 5)?; // num_units_in_decoding_tick, two lengths
        }
    }
    let initial_delay = bits.flag()?;
    let mut first = None;
    for _ in 0..=bits.read(5)? {
        bits.skip(12)?; // operating_point_idc
        let level = bits.byte::<5>()?;
        let tier = level > 7 && bits.flag()?;
        first.get_or_insert((level, tier));
        if let Some(delay_bits) = delay_bits
            && bits.flag()?
        {
            bits.skip(2 * delay_bits + 1)?; // operating_parameters_info
        }
        if initial_delay && bits.flag()? {
            bits.skip(4)?; // initial_display_delay_minus_1
        }
    }
    let (level, tier) = first.unwrap_or_default();
    Ok(OperatingPoint { level, tier, frame_rate: rate })
}

/// From enable_interintra_compound to order_hint_bits_minus_1.
fn skip_tools(bits: &mut Bits<'_>) -> Result<(), Error> {
    bits.skip(4)?; // interintra and masked compound, warped motion, dual filter
    let order_hint = bits.flag()?;
    if order_hint {
        bits.skip(2)?; // enable_jnt_comp, enable_ref_frame_mvs
    }
    // seq_choose_screen_content_tools, or seq_force_screen_content_tools.
    let screen_content = bits.flag()? || bits.flag()?;
    if screen_content && !bits.flag()? {
        bits.skip(1)?; // seq_force_integer_mv
    }
    if order_hint {
        bits.skip(3)?;
    }
    Ok(())
}

/// color_config (5.5.2).
struct ColorConfig {
    bit_depth: u8,
    chroma: Chroma,
    subsampling: (bool, bool),
    chroma_sample_position: u8,
    colour: Colour,
}

impl ColorConfig {
    fn parse(bits: &mut Bits<'_>, profile: u8) -> Result<Self, Error> {
        const SRGB: (u8, u8, u8) = (1, 13, 0);
        let high = bits.flag()?;
        let bit_depth = match (high, profile) {
            (true, 2) if bits.flag()? => 12,
            (true, _) => 10,
            (false, _) => 8,
        };
        let monochrome = profile != 1 && bits.flag()?;
        let (primaries, transfer, matrix) = match bits.flag()? {
            true => (bits.byte::<8>()?, bits.byte::<8>()?, bits.byte::<8>()?),
            false => (2, 2, 2),
        };
        let mut colour = Colour { primaries, transfer, matrix, full_range: true };
        let mut chroma_sample_position = 0;
        let (chroma, subsampling) = if monochrome {
            colour.full_range = bits.flag()?;
            (Chroma::Monochrome, (true, true))
        } else if (primaries, transfer, matrix) == SRGB {
            (Chroma::C444, (false, false))
        } else {
            colour.full_range = bits.flag()?;
            let subsampling = match (profile, bit_depth) {
                (0, _) => (true, true),
                (1, _) => (false, false),
                (_, 12) => {
                    let x = bits.flag()?;
                    (x, x && bits.flag()?)
                }
                _ => (true, false),
            };
            match subsampling {
                (true, true) => {
                    chroma_sample_position = bits.byte::<2>()?;
                    (Chroma::C420, subsampling)
                }
                (true, false) => (Chroma::C422, subsampling),
                _ => (Chroma::C444, subsampling),
            }
        };
        Ok(Self { bit_depth, chroma, subsampling, chroma_sample_position, colour })
    }
}
