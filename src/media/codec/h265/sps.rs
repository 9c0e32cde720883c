//! The sequence parameter set (ISO/IEC 23008-2 7.3.2.2), as far as it is of use here.

use super::{NAL_SPS, nal_type};
use crate::media::Error;
use crate::media::codec::bits::{Bits, unescape};
use crate::media::codec::h264::cropped;
use crate::media::codec::vui::Vui;

pub struct Sps {
    pub profile_space: u8,
    pub high_tier: bool,
    pub profile: u8,
    /// general_profile_compatibility_flag 0 in the most significant bit.
    pub compatibility: u32,
    /// The six bytes that start with general_progressive_source_flag.
    pub constraints: [u8; 6],
    pub level: u8,
    pub temporal_layers: u8,
    pub temporal_id_nested: bool,
    pub chroma_format_idc: u8,
    pub bit_depth: u8,
    pub bit_depth_chroma: u8,
    pub width: u32,
    pub height: u32,
    pub interlaced_source: bool,
    pub vui: Vui,
}

impl Sps {
    pub fn parse(nal: &[u8]) -> Result<Self, Error> {
        if nal_type(nal) != Some(NAL_SPS) {
            return Err(Error::bad("not an SPS"));
        }
        let plain = unescape(nal.get(2..).unwrap_or_default());
        let mut bits = Bits::new(&plain);
        bits.skip(4)?; // sps_video_parameter_set_id
        let sub_layers_minus1 = bits.byte::<3>()?;
        if sub_layers_minus1 > 6 {
            return Err(Error::bad("sps_max_sub_layers_minus1 is over 6"));
        }
        let temporal_id_nested = bits.flag()?;
        let (profile_space, high_tier, profile) = (bits.byte::<2>()?, bits.flag()?, bits.byte::<5>()?);
        let compatibility = bits.read(32)?;
        let mut constraints = [0; 6];
        for byte in &mut constraints {
            *byte = bits.byte::<8>()?;
        }
        let level = bits.byte::<8>()?;
        skip_sub_layer_levels(&mut bits, sub_layers_minus1)?;
        bits.unsigned_up_to(15, "sps_seq_parameter_set_id")?;
        let chroma_format_idc = bits.unsigned_up_to(3, "chroma_format_idc")? as u8;
        let separate_planes = chroma_format_idc == 3 && bits.flag()?;
        let [coded_width, coded_height] = [bits.unsigned()?, bits.unsigned()?];
        let [left, right, top, bottom] = match bits.flag()? {
            true => [bits.unsigned()?, bits.unsigned()?, bits.unsigned()?, bits.unsigned()?],
            false => [0; 4],
        };
        let [unit_x, unit_y] = match chroma_format_idc {
            _ if separate_planes => [1, 1],
            1 => [2, 2],
            2 => [2, 1],
            _ => [1, 1],
        };
        let bit_depth = 8 + bits.unsigned_up_to(8, "bit_depth_luma_minus8")? as u8;
        let bit_depth_chroma = 8 + bits.unsigned_up_to(8, "bit_depth_chroma_minus8")? as u8;
        // Progressive and interlaced source flags (7.4.4): both may be set, for "told picture by picture".
        let interlaced_source = constraints[0] & 0xc0 == 0x40;
        let mut sps = Self {
            profile_space,
            high_tier,
            profile,
            compatibility,
            constraints,
            level,
            temporal_layers: sub_layers_minus1 + 1,
            temporal_id_nested,
            chroma_format_idc,
            bit_depth,
            bit_depth_chroma,
            width: cropped(coded_width.into(), [left, right], unit_x)?,
            height: cropped(coded_height.into(), [top, bottom], unit_y)?,
            interlaced_source,
            vui: Vui::default(),
        };
        skip_to_vui(&mut bits, sub_layers_minus1)?;
        // A VUI that ends too early is common enough; what it said before counts.
        let _ = read_vui(&mut bits, &mut sps.vui);
        Ok(sps)
    }
}

/// sps_seq_parameter_set_id; None where the SPS ends before it.
pub fn id(nal: &[u8]) -> Option<u32> {
    let plain = unescape(nal.get(2..)?);
    let mut bits = Bits::new(&plain);
    bits.skip(4).ok()?;
    let sub_layers_minus1 = bits.byte::<3>().ok().filter(|&n| n <= 6)?;
    bits.skip(1 + 96).ok()?; // temporal nesting; the general part of profile_tier_level
    skip_sub_layer_levels(&mut bits, sub_layers_minus1).ok()?;
    bits.unsigned_up_to(15, "sps_seq_parameter_set_id").ok()
}

/// The sub-layers' part of profile_tier_level (7.3.3).
fn skip_sub_layer_levels(bits: &mut Bits<'_>, sub_layers_minus1: u8) -> Result<(), Error> {
    if sub_layers_minus1 == 0 {
        return Ok(());
    }
    let present = bits.read(16)?;
    for layer in 0..u32::from(sub_layers_minus1) {
        let flags = present >> (14 - 2 * layer);
        let profile = if flags & 2 != 0 { 88 } else { 0 };
        let level = if flags & 1 != 0 { 8 } else { 0 };
        bits.skip(profile + level)?;
    }
    Ok(())
}

/// From log2_max_pic_order_cnt_lsb_minus4 up to vui_parameters_present_flag.
fn skip_to_vui(bits: &mut Bits<'_>, sub_layers_minus1: u8) -> Result<(), Error> {
    let order_count_bits = 4 + bits.unsigned_up_to(12, "log2_max_pic_order_cnt_lsb_minus4")?;
    let all_sub_layers = bits.flag()?;
    for _ in 0..if all_sub_layers { sub_layers_minus1 + 1 } else { 1 } {
        for _ in 0..3 {
            bits.unsigned()?; // sps_max_dec_pic_buffering_minus1, num_reorder_pics, latency_increase_plus1
        }
    }
    for _ in 0..6 {
        bits.unsigned()?; // sizes of coding and transform blocks, depths of the transform hierarchy
    }
    if bits.flag()? && bits.flag()? {
        skip_scaling_lists(bits)?;
    }
    bits.skip(2)?; // amp_enabled_flag, sample_adaptive_offset_enabled_flag
    if bits.flag()? {
        bits.skip(8)?; // bit depths of PCM
        bits.unsigned()?; // log2_min_pcm_luma_coding_block_size_minus3
        bits.unsigned()?; // log2_diff_max_min_pcm_luma_coding_block_size
        bits.skip(1)?; // pcm_loop_filter_disabled_flag
    }
    let mut pictures = 0;
    for index in 0..bits.unsigned_up_to(64, "num_short_term_ref_pic_sets")? {
        pictures = skip_reference_picture_set(bits, index, pictures)?;
    }
    if bits.flag()? {
        for _ in 0..bits.unsigned_up_to(32, "num_long_term_ref_pics_sps")? {
            bits.skip(order_count_bits as usize + 1)?;
        }
    }
    bits.skip(2) // sps_temporal_mvp_enabled_flag, strong_intra_smoothing_enabled_flag
}

/// scaling_list_data (7.3.4).
fn skip_scaling_lists(bits: &mut Bits<'_>) -> Result<(), Error> {
    for size in 0..4 {
        for _ in 0..if size == 3 { 2 } else { 6 } {
            if !bits.flag()? {
                bits.unsigned()?; // scaling_list_pred_matrix_id_delta
                continue;
            }
            let direct = if size > 1 { 1 } else { 0 };
            for _ in 0..direct + 64.min(16 << (2 * size)) {
                bits.signed()?;
            }
        }
    }
    Ok(())
}

/// st_ref_pic_set (7.3.7). Takes and gives the number of pictures in a set (NumDeltaPocs), which the next may refer to.
fn skip_reference_picture_set(bits: &mut Bits<'_>, index: u32, before: u32) -> Result<u32, Error> {
    if index > 0 && bits.flag()? {
        bits.skip(1)?; // delta_rps_sign
        bits.unsigned()?; // abs_delta_rps_minus1
        let mut pictures = 0;
        for _ in 0..=before {
            let used = bits.flag()?;
            if used || bits.flag()? {
                pictures += 1;
            }
        }
        return Ok(pictures);
    }
    let negative = bits.unsigned_up_to(16, "num_negative_pics")?;
    let positive = bits.unsigned_up_to(16, "num_positive_pics")?;
    for _ in 0..negative + positive {
        bits.unsigned()?; // delta_poc_minus1
        bits.skip(1)?; // used_by_curr_pic_flag
    }
    Ok(negative + positive)
}

/// From vui_parameters_present_flag to the timing (E.2.1).
fn read_vui(bits: &mut Bits<'_>, vui: &mut Vui) -> Result<(), Error> {
    if !bits.flag()? {
        return Ok(());
    }
    vui.read_common(bits)?;
    bits.skip(1)?; // neutral_chroma_indication_flag
    vui.field_seq = bits.flag()?;
    bits.skip(1)?; // frame_field_info_present_flag
    if bits.flag()? {
        for _ in 0..4 {
            bits.unsigned()?; // default display window
        }
    }
    if bits.flag()? {
        vui.read_timing(bits)?;
    }
    Ok(())
}
