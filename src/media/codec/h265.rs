//! H.265 (ISO/IEC 23008-2): parameter sets, hvcC, sync samples.
//!
//! Only the base layer (nuh_layer_id 0) is looked at. As in H.264, what VUI says is taken as far as it goes.

mod sps;

use bytes::{BufMut, Bytes, BytesMut};

use self::sps::Sps;
use super::annexb;
use super::h264::{MOST_NALS, add_set, chroma, nal_length_size, put_sets, take_nal};
use super::vui::frame_rate;
use crate::media::{Error, Hdr, Sync, Video, VideoCodec};

/// What a decoder needs before the first slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterSets {
    pub vps: Vec<Bytes>,
    pub sps: Vec<Bytes>,
    pub pps: Vec<Bytes>,
}

impl ParameterSets {
    /// From the payload of hvcC (ISO/IEC 14496-15 8.3.3.1); also gives the size of NAL lengths in the samples: 1, 2 or 4.
    ///
    /// There may be no parameter sets (hev1 may carry them in the samples): then the other methods refuse.
    pub fn from_hvcc(hvcc: &[u8]) -> Result<(Self, usize), Error> {
        let short = || Error::bad("hvcC ends too early");
        if hvcc.first() != Some(&1) {
            return Err(Error::bad("hvcC is not of version 1"));
        }
        let length_size = nal_length_size(*hvcc.get(21).ok_or_else(short)?)?;
        let (array_count, mut rest) = hvcc.get(22..).and_then(<[u8]>::split_first).ok_or_else(short)?;
        let mut nals = Vec::new();
        for _ in 0..*array_count {
            let ([_, count_high, count_low], arrays) = rest.split_first_chunk().ok_or_else(short)?;
            rest = arrays;
            for _ in 0..u16::from_be_bytes([*count_high, *count_low]) {
                nals.push(take_nal(&mut rest)?);
            }
        }
        Ok((Self::from_nals(nals.into_iter()), length_size))
    }

    /// The parameter sets among the NAL units of an access unit, each once.
    pub fn from_nals<'a>(nals: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut found = Self { vps: Vec::new(), sps: Vec::new(), pps: Vec::new() };
        for nal in nals.take(MOST_NALS) {
            match nal_type(nal) {
                Some(NAL_VPS) => add_set(&mut found.vps, nal),
                Some(NAL_SPS) => add_set(&mut found.sps, nal),
                Some(NAL_PPS) => add_set(&mut found.pps, nal),
                _ => {}
            }
        }
        found
    }

    /// The payload of hvcC with 4-byte lengths.
    pub fn hvcc(&self) -> Result<Bytes, Error> {
        let sps = self.parse_sps()?;
        let mut hvcc = BytesMut::new();
        hvcc.put_u8(1);
        hvcc.put_u8(sps.profile_space << 6 | u8::from(sps.high_tier) << 5 | sps.profile);
        hvcc.put_u32(sps.compatibility);
        hvcc.put_slice(&sps.constraints);
        hvcc.put_u8(sps.level);
        hvcc.put_u16(0xf000); // min_spatial_segmentation_idc unknown
        hvcc.put_u8(0xfc); // parallelismType unknown
        hvcc.put_u8(0xfc | sps.chroma_format_idc);
        hvcc.put_u8(0xf8 | (sps.bit_depth - 8));
        hvcc.put_u8(0xf8 | (sps.bit_depth_chroma - 8));
        hvcc.put_u16(0); // avgFrameRate unknown
        hvcc.put_u8(sps.temporal_layers << 3 | u8::from(sps.temporal_id_nested) << 2 | 3);
        let arrays = [(NAL_VPS, &self.vps), (NAL_SPS, &self.sps), (NAL_PPS, &self.pps)];
        let arrays = arrays.iter().filter(|(_, sets)| !sets.is_empty());
        hvcc.put_u8(arrays.clone().count() as u8);
        for (kind, sets) in arrays {
            hvcc.put_u8(ARRAY_COMPLETENESS | kind);
            hvcc.put_u16(u16::try_from(sets.len()).map_err(|_| Error::bad("hvcC can't hold so many sets"))?);
            put_sets(&mut hvcc, sets)?;
        }
        Ok(hvcc.freeze())
    }

    /// All that the set-up says; `Video::config` is [`Self::hvcc`].
    pub fn video(&self) -> Result<Video, Error> {
        let sps = self.parse_sps()?;
        let pictures_per_frame = if sps.vui.field_seq { 2 } else { 1 };
        let rate =
            sps.vui.timing.and_then(|(units, scale)| frame_rate(scale.into(), pictures_per_frame * u64::from(units)));
        Ok(Video {
            codec: VideoCodec::H265,
            config: self.hvcc()?,
            codec_string: codec_string(&sps),
            width: sps.width,
            height: sps.height,
            sample_aspect: sps.vui.sample_aspect,
            rotation: 0,
            bit_depth: sps.bit_depth,
            chroma: chroma(sps.chroma_format_idc),
            colour: sps.vui.colour,
            hdr: Hdr::default(),
            interlaced: sps.vui.field_seq || sps.interlaced_source,
            frame_rate: rate,
        })
    }

    fn parse_sps(&self) -> Result<Sps, Error> {
        if self.pps.is_empty() {
            return Err(Error::bad("there is no PPS"));
        }
        Sps::parse(self.sps.first().ok_or_else(|| Error::bad("there is no SPS"))?)
    }
}

/// What kind of entry point a unit with 4-byte NAL lengths is: IDR or BLA, CRA, or none.
pub fn sync(unit: &[u8]) -> Sync {
    match annexb::length_prefixed(unit).filter_map(nal_type).find(|kind| *kind < FIRST_NON_VCL) {
        Some(BLA_W_LP..=IDR_N_LP) => Sync::Idr,
        Some(CRA) => Sync::OpenGop,
        _ => Sync::No,
    }
}

/// Whether the access unit is a picture that leads a sync sample and can be decoded from it (RADL_N, RADL_R).
pub fn leads_decodable(unit: &[u8]) -> bool {
    let first = annexb::length_prefixed(unit).filter_map(nal_type).find(|kind| *kind < FIRST_NON_VCL);
    matches!(first, Some(RADL_N | RADL_R))
}

/// sps_seq_parameter_set_id; None where the SPS ends before it.
pub(super) fn sps_id(nal: &[u8]) -> Option<u32> {
    sps::id(nal)
}

/// nal_unit_type (ISO/IEC 23008-2 table 7-1); None for a unit that is short or of another layer than the base.
pub fn nal_type(nal: &[u8]) -> Option<u8> {
    let [first, second, ..] = *nal else { return None };
    let layer = (first & 1) << 5 | second >> 3;
    (layer == 0).then_some(first >> 1 & 0x3f)
}

const RADL_N: u8 = 6;
const RADL_R: u8 = 7;
const BLA_W_LP: u8 = 16;
const IDR_N_LP: u8 = 20;
const CRA: u8 = 21;
const FIRST_NON_VCL: u8 = 32;
const NAL_VPS: u8 = 32;
const NAL_SPS: u8 = 33;
const NAL_PPS: u8 = 34;
/// All sets of this kind are in the record, none in the samples.
const ARRAY_COMPLETENESS: u8 = 0x80;

/// ISO/IEC 14496-15 Annex E.3.
fn codec_string(sps: &Sps) -> String {
    let space = ["", "A", "B", "C"][usize::from(sps.profile_space & 3)];
    let tier = if sps.high_tier { 'H' } else { 'L' };
    let compatibility = sps.compatibility.reverse_bits();
    let mut string = format!("hvc1.{space}{}.{compatibility:X}.{tier}{}", sps.profile, sps.level);
    let used = sps.constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    for byte in sps.constraints.iter().take(used) {
        string.push_str(&format!(".{byte:X}"));
    }
    string
}

#[cfg(test)]
mod tests;
