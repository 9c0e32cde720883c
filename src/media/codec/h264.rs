//! H.264 (ISO/IEC 14496-10): parameter sets, avcC, sync samples.
//!
//! The SPS is read here rather than by a crate because streams from the field break its rules where decoders don't
//! care: what VUI says is taken as far as it goes, and never a reason to refuse.

use bytes::{BufMut, Bytes, BytesMut};

use super::annexb;
use super::bits::{Bits, unescape};
use super::vui::{Vui, frame_rate};
use crate::media::{Chroma, Error, Hdr, Sync, Video, VideoCodec};

/// What a decoder needs before the first slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSets {
    pub sps: Vec<Bytes>,
    pub pps: Vec<Bytes>,
}

impl ParameterSets {
    /// From the payload of avcC (ISO/IEC 14496-15 5.3.3.1); also gives the size of NAL lengths in the samples: 1, 2 or 4.
    ///
    /// There may be no parameter sets (avc3 carries them in the samples): then the other methods refuse. What follows
    /// them is not looked at: some writers leave the High profiles' tail bytes out.
    pub fn from_avcc(avcc: &[u8]) -> Result<(Self, usize), Error> {
        let short = || Error::bad("avcC ends too early");
        let [1, _, _, _, lengths, sps_count, rest @ ..] = avcc else {
            return Err(Error::bad("avcC is not of version 1"));
        };
        let mut rest = rest;
        let sps = take_sets(&mut rest, sps_count & 0x1f, NAL_SPS)?;
        let (pps_count, mut rest) = rest.split_first().ok_or_else(short)?;
        let pps = take_sets(&mut rest, *pps_count, NAL_PPS)?;
        Ok((Self { sps, pps }, nal_length_size(*lengths)?))
    }

    /// The parameter sets among the NAL units of an access unit, each once.
    pub fn from_nals<'a>(nals: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut found = Self { sps: Vec::new(), pps: Vec::new() };
        for nal in nals.take(MOST_NALS) {
            match nal_type(nal) {
                Some(NAL_SPS) => add_set(&mut found.sps, nal),
                Some(NAL_PPS) => add_set(&mut found.pps, nal),
                _ => {}
            }
        }
        found
    }

    /// The payload of avcC with 4-byte lengths, the High profiles' tail bytes included.
    pub fn avcc(&self) -> Result<Bytes, Error> {
        let sps = Sps::parse(self.first_sps()?)?;
        if self.pps.is_empty() {
            return Err(Error::bad("there is no PPS"));
        }
        let mut avcc = BytesMut::new();
        avcc.put_slice(&[1, sps.profile, sps.constraints, sps.level, 0xff]);
        let sps_count = u8::try_from(self.sps.len()).ok().filter(|n| *n < 32);
        avcc.put_u8(0xe0 | sps_count.ok_or_else(|| Error::bad("avcC can't hold so many SPS"))?);
        put_sets(&mut avcc, &self.sps)?;
        avcc.put_u8(u8::try_from(self.pps.len()).map_err(|_| Error::bad("avcC can't hold so many PPS"))?);
        put_sets(&mut avcc, &self.pps)?;
        if !matches!(sps.profile, 66 | 77 | 88) {
            avcc.put_slice(&[
                0xfc | sps.chroma_format_idc,
                0xf8 | (sps.bit_depth - 8),
                0xf8 | (sps.bit_depth_chroma - 8),
                0, // sequence parameter set extensions
            ]);
        }
        Ok(avcc.freeze())
    }

    /// All that the set-up says; `Video::config` is [`Self::avcc`].
    pub fn video(&self) -> Result<Video, Error> {
        let sps = Sps::parse(self.first_sps()?)?;
        // A frame lasts two ticks (ISO/IEC 14496-10 E.2.1, num_units_in_tick).
        let rate = sps.vui.timing.and_then(|(units, scale)| frame_rate(scale.into(), 2 * u64::from(units)));
        Ok(Video {
            codec: VideoCodec::H264,
            config: self.avcc()?,
            codec_string: format!("avc1.{:02X}{:02X}{:02X}", sps.profile, sps.constraints, sps.level),
            width: sps.width,
            height: sps.height,
            sample_aspect: sps.vui.sample_aspect,
            rotation: 0,
            bit_depth: sps.bit_depth,
            chroma: chroma(sps.chroma_format_idc),
            colour: sps.vui.colour,
            hdr: Hdr::default(),
            interlaced: sps.interlaced,
            frame_rate: rate,
        })
    }

    fn first_sps(&self) -> Result<&[u8], Error> {
        self.sps.first().map(Bytes::as_ref).ok_or_else(|| Error::bad("there is no SPS"))
    }
}

/// What kind of entry point a unit with 4-byte NAL lengths is: IDR, recovery point SEI or I slices only, or none.
///
/// After a recovery point, pictures may be right only some frames later: [`recovery_frames`]. Without it, I slices count
/// only together with an SPS: an I picture alone doesn't keep later pictures from referring to earlier ones.
pub fn sync(unit: &[u8]) -> Sync {
    let (mut has_sps, mut recovery_point, mut intra) = (false, None, None);
    for nal in annexb::length_prefixed(unit) {
        match nal_type(nal) {
            Some(NAL_IDR) => return Sync::Idr,
            Some(NAL_SPS) => has_sps = true,
            Some(NAL_SEI) => recovery_point = recovery_point.or_else(|| recovery_frame_count(nal)),
            Some(NAL_SLICE | NAL_SLICE_PARTITION_A) => {
                intra = Some(is_intra(nal));
                if recovery_point.is_some() || intra == Some(false) {
                    break;
                }
            }
            _ => {}
        }
    }
    let entry = recovery_point.is_some() || intra == Some(true) && has_sps;
    if entry && intra.is_some() { Sync::OpenGop } else { Sync::No }
}

/// After how many reference frames pictures are right where decoding starts at this unit (recovery_frame_cnt,
/// ISO/IEC 14496-10 D.2.8): 0 but for intra refresh, which renews a picture piece by piece.
pub fn recovery_frames(unit: &[u8]) -> u32 {
    let mut intra = false;
    let mut count = None;
    for nal in annexb::length_prefixed(unit) {
        match nal_type(nal) {
            Some(NAL_IDR) => return 0,
            Some(NAL_SEI) => count = count.or_else(|| recovery_frame_count(nal)),
            Some(NAL_SLICE | NAL_SLICE_PARTITION_A) => {
                intra = is_intra(nal);
                if !intra {
                    break;
                }
            }
            _ => {}
        }
    }
    count.filter(|_| !intra).unwrap_or(0)
}

/// Whether other pictures may refer to this one (nal_ref_idc of its first slice, ISO/IEC 14496-10 7.4.1).
pub fn is_reference(unit: &[u8]) -> bool {
    let slice = |nal: &&[u8]| matches!(nal_type(nal), Some(NAL_SLICE | NAL_SLICE_PARTITION_A | NAL_IDR));
    annexb::length_prefixed(unit).find(slice).and_then(|nal| nal.first()).is_some_and(|header| header & 0x60 != 0)
}

const NAL_SLICE: u8 = 1;
const NAL_SLICE_PARTITION_A: u8 = 2;
const NAL_IDR: u8 = 5;
const NAL_SEI: u8 = 6;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;

/// nal_unit_type (ISO/IEC 14496-10 table 7-1); None for an empty unit.
pub fn nal_type(nal: &[u8]) -> Option<u8> {
    nal.first().map(|header| header & 0x1f)
}

/// seq_parameter_set_id; None where the SPS ends before it.
pub(super) fn sps_id(nal: &[u8]) -> Option<u32> {
    let plain = unescape(nal.get(..SLICE_HEADER_START.min(nal.len()))?);
    let mut bits = Bits::new(&plain);
    bits.skip(32).ok()?;
    bits.unsigned_up_to(31, "seq_parameter_set_id").ok()
}

/// The size of NAL lengths from the byte of avcC or hvcC that holds lengthSizeMinusOne in its last two bits.
pub(super) fn nal_length_size(byte: u8) -> Result<usize, Error> {
    match byte & 3 {
        2 => Err(Error::bad("NAL lengths of 3 bytes")),
        minus_one => Ok(usize::from(minus_one) + 1),
    }
}

/// Two-byte length, NAL unit.
pub(super) fn take_nal<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Error> {
    let short = || Error::bad("a parameter set is longer than its record");
    let (length, after) = rest.split_first_chunk().ok_or_else(short)?;
    let (nal, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(short)?;
    *rest = after;
    Ok(nal)
}

/// Two-byte lengths, NAL units.
pub(super) fn put_sets(record: &mut BytesMut, sets: &[Bytes]) -> Result<(), Error> {
    for set in sets {
        record.put_u16(u16::try_from(set.len()).map_err(|_| Error::bad("a parameter set of 64 KiB or more"))?);
        record.put_slice(set);
    }
    Ok(())
}

/// Chroma subsampling from chroma_format_idc, at most 3.
pub(super) fn chroma(chroma_format_idc: u8) -> Chroma {
    match chroma_format_idc {
        0 => Chroma::Monochrome,
        1 => Chroma::C420,
        2 => Chroma::C422,
        _ => Chroma::C444,
    }
}

/// Picture size less cropping, checked: at least 1, at most 65535 (what a sample entry can hold) each way.
pub(super) fn cropped(coded: u64, crop_units: [u32; 2], unit: u64) -> Result<u32, Error> {
    let crop = (u64::from(crop_units[0]) + u64::from(crop_units[1])) * unit;
    match coded.checked_sub(crop) {
        Some(size @ 1..=0xffff) => Ok(size as u32),
        _ => Err(Error::bad(format!("a picture {coded} wide or high less {crop}"))),
    }
}

/// How many NAL units are looked through for parameter sets.
pub(super) const MOST_NALS: usize = 1024;

/// Adds a parameter set that is not there yet. More than the standard's ids allow (PPS: 256) are not kept.
pub(super) fn add_set(sets: &mut Vec<Bytes>, nal: &[u8]) {
    if sets.len() < 256 && !sets.iter().any(|set| set == nal) {
        sets.push(Bytes::copy_from_slice(nal));
    }
}

fn take_sets(rest: &mut &[u8], count: u8, nal_unit_type: u8) -> Result<Vec<Bytes>, Error> {
    let mut sets = Vec::new();
    for _ in 0..count {
        let nal = take_nal(rest)?;
        if nal_type(nal) == Some(nal_unit_type) {
            sets.push(Bytes::copy_from_slice(nal));
        }
    }
    Ok(sets)
}

/// Whether a slice is I or SI (ISO/IEC 14496-10 table 7-6).
fn is_intra(slice: &[u8]) -> bool {
    let start = unescape(slice.get(..SLICE_HEADER_START.min(slice.len())).unwrap_or_default());
    let mut bits = Bits::new(&start);
    let slice_type = bits.skip(8).and_then(|()| bits.unsigned()).and_then(|_first_mb| bits.unsigned());
    matches!(slice_type, Ok(2 | 4 | 7 | 9))
}

/// Enough for first_mb_in_slice and slice_type, 63 bits at most for the former.
const SLICE_HEADER_START: usize = 16;

/// recovery_frame_cnt of the recovery point in an SEI NAL unit, if there is one (ISO/IEC 14496-10 D.1.8).
fn recovery_frame_count(sei: &[u8]) -> Option<u32> {
    const RECOVERY_POINT: u32 = 6;
    let plain = unescape(sei.get(1..SEI_SEARCHED.min(sei.len()))?);
    let mut rest = plain.as_ref();
    loop {
        let kind = sei_number(&mut rest)?;
        let size = sei_number(&mut rest)?;
        let payload = rest.get(..size as usize)?;
        if kind == RECOVERY_POINT {
            return Bits::new(payload).unsigned().ok();
        }
        rest = rest.get(size as usize..)?;
    }
}

/// How much of an SEI NAL unit is looked through for a recovery point.
const SEI_SEARCHED: usize = 4096;

/// payloadType or payloadSize (ISO/IEC 14496-10 7.3.2.3.1).
pub(super) fn sei_number(rest: &mut &[u8]) -> Option<u32> {
    let mut number = 0u32;
    loop {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        number = number.checked_add(u32::from(*byte))?;
        if *byte != 0xff {
            return Some(number);
        }
    }
}

/// A sequence parameter set (ISO/IEC 14496-10 7.3.2.1.1), as far as it is of use here.
struct Sps {
    profile: u8,
    constraints: u8,
    level: u8,
    chroma_format_idc: u8,
    bit_depth: u8,
    bit_depth_chroma: u8,
    width: u32,
    height: u32,
    interlaced: bool,
    vui: Vui,
}

impl Sps {
    fn parse(nal: &[u8]) -> Result<Self, Error> {
        if nal_type(nal) != Some(NAL_SPS) {
            return Err(Error::bad("not an SPS"));
        }
        let plain = unescape(nal.get(1..).unwrap_or_default());
        let mut bits = Bits::new(&plain);
        let (profile, constraints, level) = (bits.byte::<8>()?, bits.byte::<8>()?, bits.byte::<8>()?);
        bits.unsigned_up_to(31, "seq_parameter_set_id")?;
        let (mut chroma_format_idc, mut bit_depth, mut bit_depth_chroma, mut separate_planes) = (1, 8, 8, false);
        if matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135) {
            chroma_format_idc = bits.unsigned_up_to(3, "chroma_format_idc")? as u8;
            separate_planes = chroma_format_idc == 3 && bits.flag()?;
            bit_depth = 8 + bits.unsigned_up_to(6, "bit_depth_luma_minus8")? as u8;
            bit_depth_chroma = 8 + bits.unsigned_up_to(6, "bit_depth_chroma_minus8")? as u8;
            bits.skip(1)?; // qpprime_y_zero_transform_bypass_flag
            if bits.flag()? {
                for list in 0..if chroma_format_idc == 3 { 12 } else { 8 } {
                    if bits.flag()? {
                        skip_scaling_list(&mut bits, if list < 6 { 16 } else { 64 })?;
                    }
                }
            }
        }
        bits.unsigned_up_to(12, "log2_max_frame_num_minus4")?;
        skip_picture_order_count(&mut bits)?;
        bits.unsigned()?; // max_num_ref_frames
        bits.skip(1)?; // gaps_in_frame_num_value_allowed_flag
        let width_in_mbs = u64::from(bits.unsigned()?) + 1;
        let height_in_map_units = u64::from(bits.unsigned()?) + 1;
        let frame_mbs_only = bits.flag()?;
        if !frame_mbs_only {
            bits.skip(1)?; // mb_adaptive_frame_field_flag
        }
        bits.skip(1)?; // direct_8x8_inference_flag
        let [left, right, top, bottom] = match bits.flag()? {
            true => [bits.unsigned()?, bits.unsigned()?, bits.unsigned()?, bits.unsigned()?],
            false => [0; 4],
        };
        let fields = if frame_mbs_only { 1 } else { 2 };
        let [unit_x, unit_y] = match chroma_format_idc {
            _ if separate_planes => [1, 1],
            1 => [2, 2],
            2 => [2, 1],
            _ => [1, 1],
        };
        let width = cropped(16 * width_in_mbs, [left, right], unit_x)?;
        let height = cropped(16 * fields * height_in_map_units, [top, bottom], unit_y * fields)?;
        let mut vui = Vui::default();
        // A VUI that ends too early is common enough; what it said before counts.
        let _ = read_vui(&mut bits, &mut vui);
        Ok(Self {
            profile,
            constraints,
            level,
            chroma_format_idc,
            bit_depth,
            bit_depth_chroma,
            width,
            height,
            interlaced: !frame_mbs_only,
            vui,
        })
    }
}

fn read_vui(bits: &mut Bits<'_>, vui: &mut Vui) -> Result<(), Error> {
    if bits.flag()? {
        vui.read_common(bits)?;
        if bits.flag()? {
            vui.read_timing(bits)?;
        }
    }
    Ok(())
}

fn skip_scaling_list(bits: &mut Bits<'_>, size: u32) -> Result<(), Error> {
    let mut scale = 8;
    for _ in 0..size {
        let delta = bits.signed()?;
        if !(-128..=127).contains(&delta) {
            return Err(Error::bad("delta_scale is out of range"));
        }
        scale = (scale + delta).rem_euclid(256);
        if scale == 0 {
            break;
        }
    }
    Ok(())
}

fn skip_picture_order_count(bits: &mut Bits<'_>) -> Result<(), Error> {
    match bits.unsigned_up_to(2, "pic_order_cnt_type")? {
        0 => {
            bits.unsigned_up_to(12, "log2_max_pic_order_cnt_lsb_minus4")?;
        }
        1 => {
            bits.skip(1)?; // delta_pic_order_always_zero_flag
            bits.signed()?; // offset_for_non_ref_pic
            bits.signed()?; // offset_for_top_to_bottom_field
            for _ in 0..bits.unsigned_up_to(255, "num_ref_frames_in_pic_order_cnt_cycle")? {
                bits.signed()?;
            }
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests;
