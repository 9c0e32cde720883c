//! The parameter sets in force in an H.264 or H.265 stream, wherever they come: in the container's record, in the units.
//!
//! A set replaces the one of its kind and id (ISO/IEC 14496-10 7.4.1.2.1, 23008-2 7.4.2.4.2). Encoders send other sets
//! than before that say nothing new of the video: another PPS each GOP, another VUI. Only sets that describe another video
//! are another set-up. All others travel with the units: from the first such set on, every entry point holds all that are
//! in force, so that a segment decodes alone.

use bytes::Bytes;

use super::bits::{Bits, unescape};
use super::{annexb, h264, h265};
use crate::media::{Error, Video, VideoCodec};

/// Bytes of all sets; what is more is not believed.
const MOST_BYTES: usize = 64 << 10;
/// More is no use: there are 32 SPS and 256 PPS at most.
const MOST_IN_A_UNIT: usize = 512;
/// Enough of a slice or a PPS for the ids in it.
const IDS: usize = 32;

/// The sets of one stream.
#[derive(Debug, Clone)]
pub struct InForce {
    codec: VideoCodec,
    sets: Vec<Set>,
    /// seq_parameter_set_id of the last picture.
    active: u32,
    /// The set-up that units are made for.
    told: Option<Video>,
    /// `told` does not hold all the sets that are in force.
    carried: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Vps,
    Sps,
    Pps,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Set {
    kind: Kind,
    id: u32,
    /// Of the SPS that a PPS refers to.
    sps: Option<u32>,
    nal: Bytes,
}

/// What a NAL unit is to the sets.
enum Role {
    Set(Kind),
    Slice,
    /// Delimiters and filler, which no unit is to hold.
    Dropped,
    Rest,
}

impl InForce {
    /// For H.264 or H.265, before any set has come.
    pub fn new(codec: VideoCodec) -> Self {
        Self { codec, sets: Vec::new(), active: 0, told: None, carried: false }
    }

    /// With the sets of a record (the payload of avcC or hvcC), which have been told.
    pub fn of(codec: VideoCodec, record: &[u8]) -> Result<Self, Error> {
        let (nals, video) = match codec {
            VideoCodec::H264 => {
                let (sets, _) = h264::ParameterSets::from_avcc(record)?;
                (sets.sps.iter().chain(&sets.pps).cloned().collect::<Vec<_>>(), sets.video()?)
            }
            _ => {
                let (sets, _) = h265::ParameterSets::from_hvcc(record)?;
                (sets.vps.iter().chain(&sets.sps).chain(&sets.pps).cloned().collect(), sets.video()?)
            }
        };
        let mut sets = Self::new(codec);
        for set in nals.iter().filter_map(|nal| sets.read(nal)).collect::<Vec<_>>() {
            put(&mut sets.sets, set);
        }
        sets.active = sets.sets.iter().find(|set| set.kind == Kind::Sps).map_or(0, |set| set.id);
        sets.told = Some(video);
        Ok(sets)
    }

    /// The SPS of the last picture.
    pub fn active_sps(&self) -> Option<&[u8]> {
        self.sets.iter().find(|set| set.kind == Kind::Sps && set.id == self.active).map(|set| &set.nal[..])
    }

    /// Takes over the sets of a unit with 4-byte lengths. Gives the set-up where it is another than before.
    ///
    /// Sets that are malformed are passed over; an error says that the video is of a kind that is not read here.
    pub fn take(&mut self, unit: &[u8]) -> Result<Option<Video>, Error> {
        let (mut brought, mut pps) = (Vec::new(), None);
        for nal in annexb::length_prefixed(unit) {
            match self.role(nal) {
                Role::Set(_) if brought.len() < MOST_IN_A_UNIT => brought.extend(self.read(nal)),
                Role::Slice if pps.is_none() => pps = self.picture_set(nal),
                _ => {}
            }
        }
        let is_new = brought.iter().any(|set| !self.sets.contains(set));
        if !is_new && self.told.is_some() && sps_of(&self.sets, pps).is_none_or(|id| id == self.active) {
            return Ok(None);
        }
        let mut sets = self.sets.clone();
        brought.iter().for_each(|set| put(&mut sets, set.clone()));
        if sets.iter().map(|set| set.nal.len()).sum::<usize>() > MOST_BYTES {
            return Ok(None);
        }
        let first_sps = || brought.iter().find(|set| set.kind == Kind::Sps).map(|set| set.id);
        let active = sps_of(&sets, pps).or_else(first_sps).unwrap_or(self.active);
        let video = match describe(self.codec, &sets, active) {
            Some(Err(Error::BadMedia(_) | Error::Truncated(_))) => return Ok(None),
            Some(Err(error)) => {
                (self.sets, self.told) = (sets, None);
                return Err(error);
            }
            described => described.transpose()?,
        };
        self.active = active;
        match video {
            Some(video) if !self.told.as_ref().is_some_and(|told| says_the_same(told, &video)) => {
                // Of another sequence, what is left of the one before is of no use.
                let alone = describe(self.codec, &brought, active).and_then(Result::ok);
                let alone = alone.filter(|_| sps_of(&brought, pps).is_some());
                let video = alone.inspect(|_| sets = brought).unwrap_or(video);
                (self.sets, self.told, self.carried) = (sets, Some(video.clone()), false);
                Ok(Some(video))
            }
            _ => {
                self.sets = sets;
                self.carried |= is_new && self.told.is_some();
                Ok(None)
            }
        }
    }

    /// The unit as it is to travel: without sets that the set-up holds, and with all that are in force where decoding can
    /// start at it and the set-up does not hold them. Without a copy where nothing is to be changed.
    pub fn dress(&self, unit: Bytes, entry: bool) -> Bytes {
        let leaves = |nal: &[u8]| match self.role(nal) {
            Role::Set(_) => self.told.is_some() && (entry || !self.carried),
            Role::Dropped => true,
            Role::Slice | Role::Rest => false,
        };
        let all = entry && self.carried;
        if !all && !annexb::length_prefixed(&unit).any(leaves) {
            return unit;
        }
        let mut sets: Vec<&Set> = if all { self.sets.iter().collect() } else { Vec::new() };
        sets.sort_by_key(|set| set.kind);
        let rest = annexb::length_prefixed(&unit).filter(|nal| !leaves(nal));
        annexb::to_length_prefixed(sets.into_iter().map(|set| &set.nal[..]).chain(rest))
    }

    /// Whether no unit is to hold this NAL unit.
    pub fn drops(&self, nal: &[u8]) -> bool {
        matches!(self.role(nal), Role::Dropped)
    }

    fn role(&self, nal: &[u8]) -> Role {
        match (self.codec, h264::nal_type(nal), h265::nal_type(nal)) {
            (VideoCodec::H264, Some(kind), _) => match kind {
                7 => Role::Set(Kind::Sps),
                8 => Role::Set(Kind::Pps),
                1 | 2 | 5 => Role::Slice,
                9 | 12 => Role::Dropped,
                _ => Role::Rest,
            },
            (VideoCodec::H265, _, Some(kind)) => match kind {
                32 => Role::Set(Kind::Vps),
                33 => Role::Set(Kind::Sps),
                34 => Role::Set(Kind::Pps),
                0..=31 => Role::Slice,
                35 | 38 => Role::Dropped,
                _ => Role::Rest,
            },
            _ => Role::Rest,
        }
    }

    /// None where it is no set, or its ids can't be read.
    fn read(&self, nal: &[u8]) -> Option<Set> {
        let Role::Set(kind) = self.role(nal) else { return None };
        let (id, sps) = match (self.codec, kind) {
            (VideoCodec::H264, Kind::Sps) => (h264::sps_id(nal)?, None),
            (_, Kind::Sps) => (h265::sps_id(nal)?, None),
            (_, Kind::Vps) => (u32::from(nal.get(2)? >> 4), None),
            (_, Kind::Pps) => {
                let body = nal.get(self.header()..)?;
                let plain = unescape(body.get(..IDS).unwrap_or(body));
                let mut bits = Bits::new(&plain);
                let id = bits.unsigned_up_to(255, "pic_parameter_set_id").ok()?;
                (id, Some(bits.unsigned_up_to(31, "seq_parameter_set_id").ok()?))
            }
        };
        Some(Set { kind, id, sps, nal: Bytes::copy_from_slice(nal) })
    }

    /// slice_pic_parameter_set_id (7.3.3; 23008-2 7.3.6.1).
    fn picture_set(&self, slice: &[u8]) -> Option<u32> {
        let body = slice.get(self.header()..)?;
        let plain = unescape(body.get(..IDS).unwrap_or(body));
        let mut bits = Bits::new(&plain);
        if self.codec == VideoCodec::H264 {
            bits.unsigned().ok()?; // first_mb_in_slice
            bits.unsigned().ok()?; // slice_type
        } else {
            bits.skip(1).ok()?; // first_slice_segment_in_pic_flag
            if matches!(h265::nal_type(slice)?, 16..=23) {
                bits.skip(1).ok()?; // no_output_of_prior_pics_flag
            }
        }
        bits.unsigned().ok()
    }

    fn header(&self) -> usize {
        if self.codec == VideoCodec::H264 { 1 } else { 2 }
    }
}

/// The SPS that the PPS of this id refers to.
fn sps_of(sets: &[Set], pps: Option<u32>) -> Option<u32> {
    sets.iter().find(|set| set.kind == Kind::Pps && Some(set.id) == pps)?.sps
}

/// What the sets say, the active SPS first; None where a kind is missing.
fn describe(codec: VideoCodec, sets: &[Set], active: u32) -> Option<Result<Video, Error>> {
    let of = |kind| sets.iter().filter(move |set| set.kind == kind).map(|set| set.nal.clone()).collect::<Vec<_>>();
    let (vps, mut sps, pps) = (of(Kind::Vps), of(Kind::Sps), of(Kind::Pps));
    let first = sets.iter().filter(|set| set.kind == Kind::Sps).position(|set| set.id == active)?;
    sps.swap(0, first);
    match codec {
        _ if pps.is_empty() => None,
        VideoCodec::H264 => Some(h264::ParameterSets { sps, pps }.video()),
        _ if vps.is_empty() => None,
        _ => Some(h265::ParameterSets { vps, sps, pps }.video()),
    }
}

/// Whether both describe the same video, whatever the bytes of their sets.
fn says_the_same(one: &Video, other: &Video) -> bool {
    let Video { config, .. } = one;
    *one == Video { config: config.clone(), ..other.clone() }
}

fn put(sets: &mut Vec<Set>, set: Set) {
    match sets.iter_mut().find(|known| (known.kind, known.id) == (set.kind, set.id)) {
        Some(known) => *known = set,
        None => sets.push(set),
    }
}

#[cfg(test)]
mod tests;
