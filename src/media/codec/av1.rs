//! AV1 (the bitstream specification, and "AV1 Codec ISO Media File Format Binding" for av1C).

mod sequence;

use std::ops::Range;

use bytes::{BufMut, Bytes, BytesMut};

use self::sequence::Sequence;
use super::hdr as codec_hdr;
use crate::media::{Chroma, Colour, Error, Hdr, Mastering, Video, VideoCodec};

/// Whether a temporal unit is a random access point: a sequence header and a shown key frame.
pub fn is_key_frame(unit: &[u8]) -> bool {
    let mut reduced = None;
    for obu in obus(unit) {
        match obu.kind {
            // Its third field (5.5.1) is reduced_still_picture_header, under which each frame is a shown key frame.
            OBU_SEQUENCE_HEADER => reduced = obu.payload.first().map(|byte| byte & 0x08 != 0),
            OBU_FRAME_HEADER | OBU_FRAME => {
                // show_existing_frame 0, frame_type KEY_FRAME (two bits), show_frame (5.9.2).
                let shown_key = obu.payload.first().is_some_and(|byte| byte & 0xf0 == 0x10);
                return reduced.is_some_and(|reduced| reduced || shown_key);
            }
            _ => {}
        }
    }
    false
}

/// From an av1C payload; its sequence header OBU tells the rest.
pub fn video_from_av1c(av1c: &[u8]) -> Result<Video, Error> {
    match av1c {
        [0x81, _, _, _, obus @ ..] => video(obus),
        _ => Err(Error::bad("av1C is short or not of version 1")),
    }
}

/// From a temporal unit that holds a sequence header; `Video::config` is av1C made from it.
pub fn video(unit: &[u8]) -> Result<Video, Error> {
    let header = obus(unit).find(|obu| obu.kind == OBU_SEQUENCE_HEADER);
    let header = header.ok_or_else(|| Error::bad("no AV1 sequence header"))?.payload;
    let sequence = Sequence::parse(header)?;
    Ok(Video {
        codec: VideoCodec::Av1,
        config: av1c(&sequence, header)?,
        codec_string: codec_string(&sequence),
        width: sequence.width,
        height: sequence.height,
        sample_aspect: (1, 1),
        rotation: 0,
        bit_depth: sequence.bit_depth,
        chroma: sequence.chroma,
        colour: sequence.colour,
        hdr: Hdr::default(),
        interlaced: false,
        frame_rate: sequence.frame_rate,
    })
}

/// What the metadata OBUs of a temporal unit say of high dynamic range (5.8.3, 5.8.4).
pub fn hdr(unit: &[u8]) -> Hdr {
    let mut hdr = Hdr::default();
    for obu in obus(unit).filter(|obu| obu.kind == OBU_METADATA) {
        match *obu.payload {
            [1, ref light @ ..] => hdr.light = codec_hdr::light(light).or(hdr.light),
            [2, ref mastering @ ..] => hdr.mastering = mastering_of(mastering).or(hdr.mastering),
            _ => {}
        }
    }
    hdr
}

/// Red first; points in 1/65536, the brightest light in 1/256, the darkest in 1/16384.
fn mastering_of(bytes: &[u8]) -> Option<Mastering> {
    let raw = Mastering::from_bytes(bytes)?;
    let point = |(x, y): (u16, u16)| (f64::from(x) / 65_536.0, f64::from(y) / 65_536.0);
    let (brightest, darkest) = (f64::from(raw.brightest) / 256.0, f64::from(raw.darkest) / 16_384.0);
    Mastering::from_fractions(raw.primaries.map(point), point(raw.white), brightest, darkest)
}

/// The temporal unit with another colour description in its sequence header, where it has one.
pub fn with_colour(unit: &Bytes, colour: Colour) -> Result<Bytes, Error> {
    if !obus(unit).any(|obu| obu.kind == OBU_SEQUENCE_HEADER) {
        return Ok(unit.clone());
    }
    let mut made = BytesMut::with_capacity(unit.len() + 8);
    let mut rest = &unit[..];
    while let Some(obu) = Obu::parse(rest) {
        let (whole, more) = rest.split_at(obu.length);
        rest = more;
        if obu.kind != OBU_SEQUENCE_HEADER {
            made.put_slice(whole);
            continue;
        }
        let payload = Sequence::parse(obu.payload)?.recoloured(obu.payload, colour)?;
        const HAS_SIZE: u8 = 0x02;
        made.put_u8(OBU_SEQUENCE_HEADER << 3 | HAS_SIZE);
        put_leb128(&mut made, payload.len());
        made.put_slice(&payload);
    }
    made.put_slice(rest);
    Ok(made.freeze())
}

fn put_leb128(out: &mut BytesMut, mut value: usize) {
    while value > 0x7f {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The unit as MP4 and Matroska hold it: without temporal delimiters, tile lists and padding.
///
/// Copies only where one of these stands between other OBUs; what follows a malformed one is left as it is.
pub fn strip(unit: Bytes) -> Bytes {
    let mut run: Option<Range<usize>> = None;
    let (mut total, mut in_one_run) = (0, true);
    for kept in kept(&unit) {
        total += kept.len();
        run = match run {
            Some(run) if run.end == kept.start => Some(run.start..kept.end),
            Some(run) => {
                in_one_run = false;
                Some(run)
            }
            None => Some(kept),
        };
    }
    match run {
        None => Bytes::new(),
        Some(run) if in_one_run => unit.slice(run),
        Some(_) => {
            let mut stripped = BytesMut::with_capacity(total);
            kept(&unit).for_each(|kept| stripped.put_slice(unit.get(kept).unwrap_or_default()));
            stripped.freeze()
        }
    }
}

// obu_type (bitstream specification 6.2.2).
const OBU_SEQUENCE_HEADER: u8 = 1;
const OBU_TEMPORAL_DELIMITER: u8 = 2;
const OBU_FRAME_HEADER: u8 = 3;
pub(super) const OBU_METADATA: u8 = 5;
const OBU_FRAME: u8 = 6;
const OBU_TILE_LIST: u8 = 8;
const OBU_PADDING: u8 = 15;

pub(super) struct Obu<'a> {
    pub kind: u8,
    pub payload: &'a [u8],
    /// Bytes, header included.
    pub length: usize,
}

impl<'a> Obu<'a> {
    /// The OBU that `data` starts with (5.3); one without a size takes all. None where it is malformed.
    fn parse(data: &'a [u8]) -> Option<Self> {
        let (header, mut rest) = data.split_first()?;
        if header & 0x80 != 0 {
            return None;
        }
        if header & 0x04 != 0 {
            rest = rest.get(1..)?;
        }
        let payload = match header & 0x02 != 0 {
            true => {
                let (size, rest) = leb128(rest)?;
                rest.get(..size)?
            }
            false => rest,
        };
        let length = payload.as_ptr_range().end as usize - data.as_ptr() as usize;
        Some(Self { kind: header >> 3 & 0xf, payload, length })
    }

    /// Whether it begins a frame that is shown (5.9.2).
    pub fn shows_a_frame(&self) -> bool {
        let first = self.payload.first().copied().unwrap_or(0);
        let (show_existing_frame, show_frame) = (first & 0x80 != 0, first & 0x10 != 0);
        matches!(self.kind, OBU_FRAME_HEADER | OBU_FRAME) && (show_existing_frame || show_frame)
    }
}

/// The OBUs up to the first malformed one.
pub(super) fn obus(unit: &[u8]) -> impl Iterator<Item = Obu<'_>> {
    let mut rest = unit;
    std::iter::from_fn(move || {
        let obu = Obu::parse(rest)?;
        rest = rest.get(obu.length..)?;
        Some(obu)
    })
}

/// Where the OBUs are that [`strip`] keeps, and all that follows the first malformed one.
fn kept(unit: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut position = 0;
    std::iter::from_fn(move || {
        while position < unit.len() {
            let start = position;
            let obu = Obu::parse(unit.get(start..)?);
            position = obu.as_ref().map_or(unit.len(), |obu| start + obu.length);
            let dropped =
                obu.is_some_and(|obu| matches!(obu.kind, OBU_TEMPORAL_DELIMITER | OBU_TILE_LIST | OBU_PADDING));
            if !dropped {
                return Some(start..position);
            }
        }
        None
    })
}

/// A number in at most 8 bytes of 7 bits, lowest first (4.10.5), and what follows it. None over 32 bits.
fn leb128(data: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (index, byte) in data.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            let value = u32::try_from(value).ok()?;
            return Some((value as usize, data.get(index + 1..)?));
        }
    }
    None
}

/// Binding 2.3.3, with the sequence header as its only OBU.
fn av1c(sequence: &Sequence, header: &[u8]) -> Result<Bytes, Error> {
    /// A sequence header has some 20 bytes; with all 32 operating points, under 400.
    const MOST: usize = 1024;
    if header.len() > MOST {
        return Err(Error::bad("an AV1 sequence header of over 1024 bytes"));
    }
    let mut av1c = BytesMut::with_capacity(header.len() + 8);
    av1c.put_u8(0x81);
    av1c.put_u8(sequence.profile << 5 | sequence.level);
    let flags = [
        sequence.tier,
        sequence.bit_depth > 8,
        sequence.bit_depth == 12,
        sequence.chroma == Chroma::Monochrome,
        sequence.subsampling.0,
        sequence.subsampling.1,
    ];
    let flags = flags.iter().fold(0, |flags, flag| flags << 1 | u8::from(*flag));
    av1c.put_u8(flags << 2 | sequence.chroma_sample_position);
    av1c.put_u8(0); // initial presentation delay unknown
    av1c.put_u8(OBU_SEQUENCE_HEADER << 3 | 0x02);
    if header.len() < 0x80 {
        av1c.put_u8(header.len() as u8);
    } else {
        av1c.put_slice(&[header.len() as u8 | 0x80, (header.len() >> 7) as u8]);
    }
    av1c.put_slice(header);
    Ok(av1c.freeze())
}

/// Binding 5: the short form where the rest is as a reader would infer, or not told.
fn codec_string(sequence: &Sequence) -> String {
    let tier = if sequence.tier { 'H' } else { 'M' };
    let (level, depth) = (sequence.level, sequence.bit_depth);
    let short = format!("av01.{}.{level:02}{tier}.{depth:02}", sequence.profile);
    let Colour { primaries, transfer, matrix, full_range } = sequence.colour;
    let inferred = matches!((primaries, transfer, matrix), (1, 1, 1) | (2, 2, 2));
    if inferred && !full_range && sequence.chroma == Chroma::C420 && sequence.chroma_sample_position == 0 {
        return short;
    }
    let monochrome = u8::from(sequence.chroma == Chroma::Monochrome);
    let (x, y) = (u8::from(sequence.subsampling.0), u8::from(sequence.subsampling.1));
    let position = sequence.chroma_sample_position;
    let range = u8::from(full_range);
    format!("{short}.{monochrome}.{x}{y}{position}.{primaries:02}.{transfer:02}.{matrix:02}.{range}")
}

#[cfg(test)]
mod tests;
