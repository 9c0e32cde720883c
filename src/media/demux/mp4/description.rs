//! Sample entries (ISO/IEC 14496-12 8.5.2 and the codecs' own bindings) → how a track is coded, or where to look for it.

use bytes::Bytes;

use super::boxes::{self, FourCc, Reader};
use crate::media::codec::sets::InForce;
use crate::media::codec::{aac, ac3, av1, h264, h265, hdr, mp3, mpeg2, opus, vp8, vp9};
use crate::media::{AudioCodec, Colour, Error, Format, Hdr, Mastering, Video, VideoCodec};

/// One sample entry.
#[derive(Debug, Clone)]
pub struct Description {
    pub setup: Setup,
    /// Bytes of the NAL unit lengths of H.264 and H.265; 4 for all else.
    pub nal_length: usize,
    look: Look,
}

/// What is known of a description.
#[derive(Debug, Clone)]
pub enum Setup {
    Known(Format),
    /// The first unit that decoding can start at tells the rest.
    InBand {
        entry: FourCc,
        coding: Coding,
    },
}

/// A coding that tells its set-up in the units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    Video(VideoCodec),
    Audio(AudioCodec),
}

/// What the container says of the picture.
#[derive(Debug, Clone, Copy)]
struct Look {
    rotation: u16,
    aspect: Option<(u32, u32)>,
    colour: Option<Colour>,
    hdr: Hdr,
}

impl Description {
    /// Whether it is read here.
    pub fn wanted(&self) -> bool {
        !matches!(self.setup, Setup::Known(Format::Other { .. }))
    }

    /// The codec, where it is video that is read here.
    pub fn video_codec(&self) -> Option<VideoCodec> {
        match &self.setup {
            Setup::Known(Format::Video(video)) => Some(video.codec),
            Setup::InBand { coding: Coding::Video(codec), .. } => Some(*codec),
            _ => None,
        }
    }

    /// The parameter sets of the entry, where it is one of H.264 or H.265.
    pub fn sets(&self) -> Option<InForce> {
        let codec = self.video_codec().filter(|codec| matches!(codec, VideoCodec::H264 | VideoCodec::H265))?;
        let known = match &self.setup {
            Setup::Known(Format::Video(video)) => InForce::of(codec, &video.config).ok(),
            _ => None,
        };
        Some(known.unwrap_or_else(|| InForce::new(codec)))
    }

    /// The format that a unit tells, other than by parameter sets; None where it doesn't.
    pub fn derive(&self, unit: &[u8]) -> Option<Format> {
        let Setup::InBand { coding, .. } = self.setup else { return None };
        let video = match coding {
            Coding::Video(VideoCodec::H264 | VideoCodec::H265) => return None,
            Coding::Video(VideoCodec::Vp8) => vp8::is_key_frame(unit).then(|| vp8::video(unit))?,
            Coding::Video(VideoCodec::Vp9) => vp9::is_key_frame(unit).then(|| vp9::video(unit))?,
            Coding::Video(VideoCodec::Av1) => av1::is_key_frame(unit).then(|| av1::video(unit))?,
            Coding::Video(VideoCodec::Mpeg2) => mpeg2::video(unit),
            Coding::Audio(AudioCodec::Ac3 | AudioCodec::Eac3) => return ac3::audio(unit).ok().map(Format::Audio),
            Coding::Audio(_) => return mp3::audio(unit).ok().map(Format::Audio),
        };
        video.ok().map(|video| self.dress(video))
    }

    /// How a set-up that never came is listed.
    pub fn unknown(&self) -> Format {
        match &self.setup {
            Setup::Known(format) => format.clone(),
            Setup::InBand { entry, coding } => {
                let kind = if matches!(coding, Coding::Video(_)) { "video" } else { "audio" };
                Format::Other { kind: kind.into(), codec: boxes::name(*entry) }
            }
        }
    }

    /// A video format as the codec tells it, with what only the container knows.
    pub fn dress(&self, mut video: Video) -> Format {
        video.rotation = self.look.rotation;
        if let (Some(aspect), (1, 1)) = (self.look.aspect, video.sample_aspect) {
            video.sample_aspect = aspect;
        }
        video.hdr = self.look.hdr;
        if let Some(colour) = self.look.colour {
            let silent = Colour::default();
            let told = video.colour;
            if (told.primaries, told.transfer, told.matrix) == (silent.primaries, silent.transfer, silent.matrix) {
                video.colour.full_range |= colour.full_range;
            }
            for (field, container) in [
                (&mut video.colour.primaries, colour.primaries),
                (&mut video.colour.transfer, colour.transfer),
                (&mut video.colour.matrix, colour.matrix),
            ] {
                if *field == 2 {
                    *field = container;
                }
            }
        }
        Format::Video(video)
    }
}

/// The entries of stsd. `kind` as in [`Format::Other`], `rotation` as in [`Video`].
pub fn parse(stsd: &Bytes, kind: &'static str, rotation: u16) -> Result<Vec<Description>, Error> {
    let (version, _, body) = boxes::full(stsd)?;
    let count = Reader::new(&body).u32()? as usize;
    boxes::children(&body.slice(4..))
        .take(count)
        .map(|entry| {
            let entry = entry?;
            match kind {
                "video" => video_entry(entry.kind, &entry.body, rotation),
                "audio" => audio_entry(entry.kind, &entry.body, version),
                _ => Ok(other(kind, entry.kind)),
            }
        })
        .collect()
}

fn other(kind: &str, codec: FourCc) -> Description {
    known(Format::Other { kind: kind.into(), codec: boxes::name(codec) })
}

fn known(format: Format) -> Description {
    let look = Look { rotation: 0, aspect: None, colour: None, hdr: Hdr::default() };
    Description { setup: Setup::Known(format), nal_length: 4, look }
}

/// Bytes of a VisualSampleEntry before its boxes (12.1.3).
const VISUAL: usize = 78;

fn video_entry(kind: FourCc, entry: &Bytes, rotation: u16) -> Result<Description, Error> {
    let codec = match &kind {
        b"avc1" | b"avc3" => VideoCodec::H264,
        b"hvc1" | b"hev1" => VideoCodec::H265,
        b"vp08" => VideoCodec::Vp8,
        b"vp09" => VideoCodec::Vp9,
        b"av01" => VideoCodec::Av1,
        b"mp4v" => VideoCodec::Mpeg2,
        _ => return Ok(other("video", kind)),
    };
    let mut reader = Reader::new(entry);
    reader.skip(24)?;
    let (width, height) = (reader.u16()?, reader.u16()?);
    if entry.len() < VISUAL {
        return Err(Error::bad("a video sample entry ends too early"));
    }
    let children = entry.slice(VISUAL..);
    let look = Look {
        rotation,
        aspect: boxes::child(&children, *b"pasp").and_then(|pasp| aspect(&pasp)),
        colour: boxes::child(&children, *b"colr").and_then(|colr| colour(&colr)),
        hdr: Hdr {
            mastering: boxes::child(&children, *b"mdcv").and_then(|mdcv| Mastering::from_bytes(&mdcv)),
            light: boxes::child(&children, *b"clli").and_then(|clli| hdr::light(&clli)),
        },
    };
    let mut description =
        Description { setup: Setup::InBand { entry: kind, coding: Coding::Video(codec) }, nal_length: 4, look };
    let told = match codec {
        VideoCodec::H264 => {
            let avcc = boxes::child(&children, *b"avcC").ok_or_else(|| Error::bad("avc1 without avcC"))?;
            let avcc = with_four_byte_lengths(&avcc, 4, &mut description.nal_length)?;
            let sets = h264::ParameterSets::from_avcc(&avcc).map(|(sets, _)| sets);
            sets.and_then(|s| if s.sps.is_empty() || s.pps.is_empty() { Ok(None) } else { s.video().map(Some) })
        }
        VideoCodec::H265 => {
            let hvcc = boxes::child(&children, *b"hvcC").ok_or_else(|| Error::bad("hvc1 without hvcC"))?;
            let hvcc = with_four_byte_lengths(&hvcc, 21, &mut description.nal_length)?;
            let sets = h265::ParameterSets::from_hvcc(&hvcc).map(|(sets, _)| sets);
            sets.and_then(|s| {
                let empty = s.vps.is_empty() || s.sps.is_empty() || s.pps.is_empty();
                if empty { Ok(None) } else { s.video().map(Some) }
            })
        }
        VideoCodec::Vp8 => Ok(None),
        VideoCodec::Vp9 => boxes::child(&children, *b"vpcC")
            .map(|vpcc| vp9::video_from_vpcc(&vpcc, width.into(), height.into()))
            .transpose(),
        // 4 bytes are an av1C without a sequence header.
        VideoCodec::Av1 => boxes::child(&children, *b"av1C")
            .filter(|av1c| av1c.len() > 4)
            .map(|av1c| av1::video_from_av1c(&av1c))
            .transpose(),
        VideoCodec::Mpeg2 => {
            let esds = boxes::child(&children, *b"esds").ok_or_else(|| Error::bad("mp4v without esds"))?;
            let esds = Esds::parse(&esds)?;
            if !(0x60..=0x65).contains(&esds.object_type) {
                return Ok(other("video", kind));
            }
            if esds.config.is_empty() { Ok(None) } else { mpeg2::video(&esds.config).map(Some) }
        }
    };
    match told {
        Ok(Some(video)) => description.setup = Setup::Known(description.dress(video)),
        Ok(None) => {}
        Err(Error::UnsupportedCodec(_)) => return Ok(other("video", kind)),
        Err(error) => return Err(error),
    }
    Ok(description)
}

/// The configuration record with lengthSizeMinusOne, in the low bits of the byte at `at`, set to what the units will
/// have: 4-byte lengths.
fn with_four_byte_lengths(config: &Bytes, at: usize, nal_length: &mut usize) -> Result<Bytes, Error> {
    let mut config = config.to_vec();
    let byte = config.get_mut(at).ok_or_else(|| Error::bad("a decoder configuration record ends too early"))?;
    *nal_length = usize::from(*byte & 3) + 1;
    *byte |= 3;
    Ok(config.into())
}

fn audio_entry(kind: FourCc, entry: &Bytes, stsd_version: u8) -> Result<Description, Error> {
    let mut reader = Reader::new(entry);
    reader.skip(8)?;
    // QuickTime's longer descriptions; in ISO files with stsd version 1 the entry has no more fields.
    let header = match (reader.u16()?, stsd_version) {
        (1, 0) => 28 + 16,
        (2, 0) => 28 + 36,
        _ => 28,
    };
    if entry.len() < header {
        return Err(Error::bad("an audio sample entry ends too early"));
    }
    let children = entry.slice(header..);
    let find = |kind| {
        let wave = || boxes::child(&boxes::child(&children, *b"wave")?, kind);
        boxes::child(&children, kind).or_else(wave)
    };
    let in_band = |codec| Description {
        setup: Setup::InBand { entry: kind, coding: Coding::Audio(codec) },
        ..known(Format::Other { kind: "audio".into(), codec: boxes::name(kind) })
    };
    let audio = match &kind {
        b"mp4a" => {
            let esds = Esds::parse(&find(*b"esds").ok_or_else(|| Error::bad("mp4a without esds"))?)?;
            match esds.object_type {
                0x40 | 0x66..=0x68 => aac::audio(&esds.config),
                0x69 | 0x6b => return Ok(in_band(AudioCodec::Mp3)),
                0xa5 => return Ok(in_band(AudioCodec::Ac3)),
                0xa6 => return Ok(in_band(AudioCodec::Eac3)),
                _ => return Ok(other("audio", kind)),
            }
        }
        b".mp3" => return Ok(in_band(AudioCodec::Mp3)),
        b"Opus" => opus::audio_from_dops(&find(*b"dOps").ok_or_else(|| Error::bad("Opus without dOps"))?),
        b"ac-3" => match find(*b"dac3") {
            Some(dac3) => ac3::audio_from_dac3(&dac3),
            None => return Ok(in_band(AudioCodec::Ac3)),
        },
        b"ec-3" => match find(*b"dec3") {
            Some(dec3) => ac3::audio_from_dec3(&dec3),
            None => return Ok(in_band(AudioCodec::Eac3)),
        },
        _ => return Ok(other("audio", kind)),
    };
    match audio {
        Ok(audio) => Ok(known(Format::Audio(audio))),
        Err(Error::UnsupportedCodec(_)) => Ok(other("audio", kind)),
        Err(error) => Err(error),
    }
}

/// Sample aspect ratio in lowest terms (12.1.4).
fn aspect(pasp: &Bytes) -> Option<(u32, u32)> {
    let mut reader = Reader::new(pasp);
    let (h, v) = (reader.u32().ok()?, reader.u32().ok()?);
    if h == 0 || v == 0 {
        return None;
    }
    let (mut a, mut b) = (h, v);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    Some((h / a, v / a))
}

/// nclx, and QuickTime's nclc (12.1.5).
fn colour(colr: &Bytes) -> Option<Colour> {
    let mut reader = Reader::new(colr);
    let kind = reader.four_cc().ok()?;
    if !matches!(&kind, b"nclx" | b"nclc") {
        return None;
    }
    let mut point = || reader.u16().ok().map(|n| u8::try_from(n).unwrap_or(2));
    let (primaries, transfer, matrix) = (point()?, point()?, point()?);
    let full_range = &kind == b"nclx" && reader.u8().ok()? & 0x80 != 0;
    Some(Colour { primaries, transfer, matrix, full_range })
}

/// What esds says (ISO/IEC 14496-1 7.2.6.5).
#[derive(Debug)]
struct Esds {
    object_type: u8,
    /// DecoderSpecificInfo.
    config: Bytes,
}

impl Esds {
    fn parse(esds: &Bytes) -> Result<Self, Error> {
        let (_, _, body) = boxes::full(esds)?;
        let elementary = descriptor(&body, 3)?.ok_or_else(|| Error::bad("esds without an ES descriptor"))?;
        let mut reader = Reader::new(&elementary);
        reader.skip(2)?;
        let flags = reader.u8()?;
        let mut start = 3 + if flags & 0x80 != 0 { 2 } else { 0 };
        if flags & 0x40 != 0 {
            let length = elementary.get(start).ok_or_else(|| Error::bad("esds ends too early"))?;
            start += 1 + usize::from(*length);
        }
        start += if flags & 0x20 != 0 { 2 } else { 0 };
        let inner = elementary.get(start..).map(|inner| elementary.slice_ref(inner)).unwrap_or_default();
        let decoder = descriptor(&inner, 4)?.ok_or_else(|| Error::bad("esds without a decoder description"))?;
        let object_type = Reader::new(&decoder).u8()?;
        let specific = decoder.get(13..).map(|inner| decoder.slice_ref(inner)).unwrap_or_default();
        Ok(Self { object_type, config: descriptor(&specific, 5)?.unwrap_or_default() })
    }
}

/// The first descriptor of a tag. One that reaches past its parent is cut there: muxers get these lengths wrong.
fn descriptor(data: &Bytes, tag: u8) -> Result<Option<Bytes>, Error> {
    let mut rest = data.clone();
    while !rest.is_empty() {
        let mut reader = Reader::new(&rest);
        let found = reader.u8()?;
        let (mut length, mut header) = (0usize, 1);
        for _ in 0..4 {
            let byte = reader.u8()?;
            header += 1;
            length = length << 7 | usize::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                break;
            }
        }
        let end = (header + length).min(rest.len());
        let body = rest.split_to(end).slice(header..);
        if found == tag {
            return Ok(Some(body));
        }
    }
    Ok(None)
}
