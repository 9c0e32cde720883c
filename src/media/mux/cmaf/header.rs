//! The CMAF header: ftyp and moov. The same tracks give the same bytes: no dates, no names of the writer.

use bytes::Bytes;

use super::boxes::Boxes;
use crate::media::mux::OutTrack;
use crate::media::{Audio, AudioCodec, Chroma, Colour, Error, Format, Ticks, Video, VideoCodec};

/// Set-up bytes of one track; parameter sets and the like are a few hundred.
const CONFIG_BYTES: usize = 1 << 20;
/// 1.0 in 16.16 fixed point.
const ONE: i32 = 0x1_0000;

/// The CMAF header (ftyp, moov): the same bytes for the same tracks.
///
/// `Error::BadMedia` where a track number is 0 or there twice, or set-up bytes are missing; `Error::OverLimit` where a
/// picture's size does not fit its field; `Error::UnsupportedCodec` for `Format::Other`.
pub fn init(tracks: &[OutTrack]) -> Result<Bytes, Error> {
    init_led(tracks, Ticks(0))
}

/// A header like [`init`]'s for a video track whose first pictures come before its presentation begins: the media time
/// at which that is. All times of its samples are to be written later by as much, and its edit list (ISO/IEC 14496-12
/// 8.6.6) takes it off again. With 0 there is no edit list.
pub fn init_led(tracks: &[OutTrack], lead: Ticks) -> Result<Bytes, Error> {
    for (i, track) in tracks.iter().enumerate() {
        if track.number == 0 || tracks.iter().take(i).any(|t| t.number == track.number) {
            return Err(Error::bad(format!("track number {} is 0 or taken", track.number)));
        }
    }
    let entries = tracks.iter().map(Entry::new).collect::<Result<Vec<_>, _>>()?;
    let config: usize = entries.iter().map(|e| e.config().len()).sum();
    let mut out = Boxes::with_capacity(256 + entries.len() * 768 + config);
    file_type(&mut out, lead);
    out.atom(b"moov", |b| {
        movie_header(b, tracks);
        for entry in &entries {
            entry.trak(b, lead);
        }
        b.atom(b"mvex", |b| {
            for track in tracks {
                b.full(b"trex", 0, 0, |b| {
                    b.u32(track.number);
                    b.u32(1); // default_sample_description_index
                    b.zeros(12);
                });
            }
        });
    });
    out.finish().map(Bytes::from)
}

/// `cmf2` besides `cmfc`: signed composition offsets, where there is no edit list (ISO/IEC 23000-19 7.7).
fn file_type(out: &mut Boxes, lead: Ticks) {
    out.atom(b"ftyp", |b| {
        b.bytes(b"iso6");
        b.u32(0);
        for brand in [b"iso6", b"cmfc", b"cmf2", b"dash", b"mp41"] {
            if brand != b"cmf2" || lead == Ticks(0) {
                b.bytes(brand);
            }
        }
    });
}

/// ISO/IEC 14496-12 8.2.2. Lengths are 0 all through: they are in the fragments.
fn movie_header(out: &mut Boxes, tracks: &[OutTrack]) {
    let next = tracks.iter().map(|t| t.number).max().unwrap_or(0).saturating_add(1);
    out.full(b"mvhd", 0, 0, |b| {
        b.zeros(8);
        b.u32(1000); // timescale
        b.u32(0);
        b.i32(ONE); // rate
        b.u16(0x0100); // volume
        b.zeros(10);
        matrix(b, [ONE, 0, 0, ONE, 0, 0]);
        b.zeros(24);
        b.u32(next);
    });
}

/// A track that has been checked, with all that its boxes need.
enum Entry<'a> {
    Video { track: &'a OutTrack, video: &'a Video, coded: (u16, u16), display: (u32, u32) },
    Audio { track: &'a OutTrack, audio: &'a Audio },
}

impl<'a> Entry<'a> {
    fn new(track: &'a OutTrack) -> Result<Self, Error> {
        let entry = match &track.format {
            Format::Video(video) => {
                Self::Video { track, video, coded: coded_size(video)?, display: display_size(video)? }
            }
            Format::Audio(audio) => Self::Audio { track, audio },
            Format::Other { codec, .. } => return Err(Error::UnsupportedCodec(codec.clone())),
        };
        if entry.config().len() > CONFIG_BYTES {
            return Err(Error::OverLimit(format!("set-up of {} bytes", entry.config().len())));
        }
        let needs_config = match &entry {
            Self::Video { video, .. } => video.codec != VideoCodec::Vp8,
            Self::Audio { audio, .. } => audio.codec != AudioCodec::Mp3,
        };
        if needs_config && entry.config().is_empty() {
            return Err(Error::bad(format!("track {} has no set-up", track.number)));
        }
        Ok(entry)
    }

    fn config(&self) -> &'a [u8] {
        match self {
            Self::Video { video, .. } => &video.config,
            Self::Audio { audio, .. } => &audio.config,
        }
    }

    fn track(&self) -> &'a OutTrack {
        match self {
            Self::Video { track, .. } | Self::Audio { track, .. } => track,
        }
    }

    fn trak(&self, out: &mut Boxes, lead: Ticks) {
        out.atom(b"trak", |b| {
            self.track_header(b);
            if let (Self::Video { .. }, 1..) = (self, lead.0) {
                b.atom(b"edts", |b| edit_list(b, lead));
            }
            b.atom(b"mdia", |b| {
                media_header(b, self.track());
                let (handler, name): (_, &[u8]) = match self {
                    Self::Video { .. } => (b"vide", b"Video\0"),
                    Self::Audio { .. } => (b"soun", b"Sound\0"),
                };
                b.full(b"hdlr", 0, 0, |b| {
                    b.u32(0);
                    b.bytes(handler);
                    b.zeros(12);
                    b.bytes(name);
                });
                b.atom(b"minf", |b| self.media_information(b));
            });
        });
    }

    /// ISO/IEC 14496-12 8.3.2.
    fn track_header(&self, out: &mut Boxes) {
        const ENABLED_IN_MOVIE: u32 = 3;
        out.full(b"tkhd", 0, ENABLED_IN_MOVIE, |b| {
            b.zeros(8);
            b.u32(self.track().number);
            b.zeros(4 + 4 + 8 + 2 + 2);
            match self {
                Self::Video { video, display: (width, height), .. } => {
                    b.zeros(4);
                    matrix(b, rotation(video.rotation, *width, *height));
                    b.u32(*width);
                    b.u32(*height);
                }
                Self::Audio { .. } => {
                    b.u16(0x0100); // volume
                    b.zeros(2);
                    matrix(b, [ONE, 0, 0, ONE, 0, 0]);
                    b.zeros(8);
                }
            }
        });
    }

    fn media_information(&self, out: &mut Boxes) {
        match self {
            Self::Video { .. } => out.full(b"vmhd", 0, 1, |b| b.zeros(8)),
            Self::Audio { .. } => out.full(b"smhd", 0, 0, |b| b.zeros(4)),
        }
        out.atom(b"dinf", |b| {
            b.full(b"dref", 0, 0, |b| {
                b.u32(1);
                b.full(b"url ", 0, 1, |_| ()); // flag 1: the media is in this file
            });
        });
        out.atom(b"stbl", |b| {
            b.full(b"stsd", 0, 0, |b| {
                b.u32(1);
                match self {
                    Self::Video { video, coded, .. } => visual_sample_entry(b, video, *coded),
                    Self::Audio { audio, .. } => audio_sample_entry(b, audio),
                }
            });
            b.full(b"stts", 0, 0, |b| b.u32(0));
            b.full(b"stsc", 0, 0, |b| b.u32(0));
            b.full(b"stsz", 0, 0, |b| b.zeros(8));
            b.full(b"stco", 0, 0, |b| b.u32(0));
        });
    }
}

fn coded_size(video: &Video) -> Result<(u16, u16), Error> {
    match (u16::try_from(video.width), u16::try_from(video.height)) {
        (Ok(width), Ok(height)) => Ok((width, height)),
        _ => Err(Error::OverLimit(format!("a picture of {}x{}", video.width, video.height))),
    }
}

/// The size for display before rotation, in 16.16: the width stretched by the sample aspect ratio.
fn display_size(video: &Video) -> Result<(u32, u32), Error> {
    let (across, down) = match video.sample_aspect {
        (0, _) | (_, 0) => (1, 1),
        aspect => aspect,
    };
    let width = (u128::from(video.width) << 16) * u128::from(across) / u128::from(down);
    let height = u64::from(video.height) << 16;
    match (u32::try_from(width), u32::try_from(height)) {
        (Ok(width), Ok(height)) => Ok((width, height)),
        _ => Err(Error::OverLimit(format!("{}x{} at {across}:{down}", video.width, video.height))),
    }
}

/// `a, b, c, d, tx, ty` that turn the picture clockwise and bring its corner back to the origin
/// (ISO/IEC 14496-12 6.2.2: x' = ax + cy + tx, y' = bx + dy + ty, y down).
fn rotation(degrees: u16, width: u32, height: u32) -> [i32; 6] {
    // Sizes over 32767 would not fit the signed field; players look at the turn alone.
    let (width, height) = (i32::try_from(width).unwrap_or(0), i32::try_from(height).unwrap_or(0));
    match degrees {
        90 => [0, ONE, -ONE, 0, height, 0],
        180 => [-ONE, 0, 0, -ONE, width, height],
        270 => [0, -ONE, ONE, 0, 0, width],
        _ => [ONE, 0, 0, ONE, 0, 0],
    }
}

/// One edit: from `lead` on, to the end (8.6.6).
fn edit_list(out: &mut Boxes, lead: Ticks) {
    out.full(b"elst", 1, 0, |b| {
        b.u32(1);
        b.u64(0); // segment_duration
        b.u64(lead.0.unsigned_abs());
        b.i32(ONE); // media_rate
    });
}

fn matrix(out: &mut Boxes, [a, b, c, d, tx, ty]: [i32; 6]) {
    for n in [a, b, 0, c, d, 0, tx, ty, 0x4000_0000] {
        out.i32(n);
    }
}

/// ISO/IEC 14496-12 8.4.2, and 8.4.6 where the language has no three-letter code.
fn media_header(out: &mut Boxes, track: &OutTrack) {
    let language = track.language.as_deref().filter(|l| l.len() <= 64 && l.bytes().all(|b| b.is_ascii_graphic()));
    let code = language.and_then(three_letters);
    out.full(b"mdhd", 0, 0, |b| {
        b.zeros(8);
        b.u32(track.timescale.get());
        b.u32(0);
        let packed = code.unwrap_or(*b"und").iter().fold(0u16, |n, l| n << 5 | u16::from(l & 0x1f));
        b.u16(packed);
        b.u16(0);
    });
    if let Some(tag) = language.filter(|tag| tag.len() != 3 || code.is_none()) {
        out.full(b"elng", 0, 0, |b| {
            b.bytes(tag.as_bytes());
            b.u8(0);
        });
    }
}

/// The ISO 639-2 code that a language tag starts with.
fn three_letters(tag: &str) -> Option<[u8; 3]> {
    let primary: [u8; 3] = tag.split('-').next()?.as_bytes().try_into().ok()?;
    primary.iter().all(u8::is_ascii_lowercase).then_some(primary)
}

/// ISO/IEC 14496-12 12.1.3, with the configuration box of the codec's own binding.
fn visual_sample_entry(out: &mut Boxes, video: &Video, (width, height): (u16, u16)) {
    let kind = match video.codec {
        VideoCodec::H264 => b"avc1",
        VideoCodec::H265 => b"hvc1",
        VideoCodec::Vp8 => b"vp08",
        VideoCodec::Vp9 => b"vp09",
        VideoCodec::Av1 => b"av01",
        VideoCodec::Mpeg2 => b"mp4v",
    };
    out.atom(kind, |b| {
        b.zeros(6);
        b.u16(1); // data_reference_index
        b.zeros(16);
        b.u16(width);
        b.u16(height);
        b.u32(0x0048_0000); // 72 dpi
        b.u32(0x0048_0000);
        b.u32(0);
        b.u16(1); // frames a sample
        b.zeros(32); // compressorname
        b.u16(0x0018); // depth
        b.u16(0xffff);
        match video.codec {
            VideoCodec::H264 => b.atom(b"avcC", |b| b.bytes(&video.config)),
            VideoCodec::H265 => b.atom(b"hvcC", |b| b.bytes(&video.config)),
            VideoCodec::Vp9 => b.atom(b"vpcC", |b| b.bytes(&video.config)),
            VideoCodec::Av1 => b.atom(b"av1C", |b| b.bytes(&video.config)),
            VideoCodec::Vp8 => vp8_configuration(b, video),
            VideoCodec::Mpeg2 => {
                const MPEG2_MAIN: u8 = 0x61;
                const VISUAL_STREAM: u8 = 4;
                elementary_stream(b, MPEG2_MAIN, VISUAL_STREAM, &video.config);
            }
        }
        let (across, down) = video.sample_aspect;
        if across != down && across != 0 && down != 0 {
            b.atom(b"pasp", |b| {
                b.u32(across);
                b.u32(down);
            });
        }
        if video.colour != Colour::default() {
            b.atom(b"colr", |b| {
                b.bytes(b"nclx");
                b.u16(video.colour.primaries.into());
                b.u16(video.colour.transfer.into());
                b.u16(video.colour.matrix.into());
                b.u8(u8::from(video.colour.full_range) << 7);
            });
        }
        if let Some(mastering) = video.hdr.mastering {
            b.atom(b"mdcv", |b| b.bytes(&mastering.to_bytes()));
        }
        if let Some((most, average)) = video.hdr.light {
            b.atom(b"clli", |b| {
                b.u16(most);
                b.u16(average);
            });
        }
    });
}

/// "VP Codec ISO Media File Format Binding", 2.2: profile 0; level 1, since VP8 has none of its own.
fn vp8_configuration(out: &mut Boxes, video: &Video) {
    let chroma = match video.chroma {
        Chroma::Monochrome | Chroma::C420 => 1,
        Chroma::C422 => 2,
        Chroma::C444 => 3,
    };
    out.full(b"vpcC", 1, 0, |b| {
        b.u8(0);
        b.u8(10);
        b.u8(8 << 4 | chroma << 1 | u8::from(video.colour.full_range));
        b.u8(video.colour.primaries);
        b.u8(video.colour.transfer);
        b.u8(video.colour.matrix);
        b.u16(0);
    });
}

/// ISO/IEC 14496-12 12.2.3.
fn audio_sample_entry(out: &mut Boxes, audio: &Audio) {
    let kind = match audio.codec {
        AudioCodec::Aac | AudioCodec::Mp3 => b"mp4a",
        AudioCodec::Opus => b"Opus",
        AudioCodec::Ac3 => b"ac-3",
        AudioCodec::Eac3 => b"ec-3",
    };
    out.atom(kind, |b| {
        b.zeros(6);
        b.u16(1); // data_reference_index
        b.zeros(8);
        b.u16(audio.channels);
        b.u16(16); // samplesize
        b.zeros(4);
        // 16.16; a rate that does not fit is in the codec's set-up alone.
        b.u32(u16::try_from(audio.sample_rate).map_or(0, |rate| u32::from(rate) << 16));
        match audio.codec {
            AudioCodec::Aac => elementary_stream(b, 0x40, AUDIO_STREAM, &audio.config),
            AudioCodec::Mp3 => elementary_stream(b, mp3_object_type(audio), AUDIO_STREAM, &audio.config),
            AudioCodec::Opus => b.atom(b"dOps", |b| b.bytes(&audio.config)),
            AudioCodec::Ac3 => b.atom(b"dac3", |b| b.bytes(&audio.config)),
            AudioCodec::Eac3 => b.atom(b"dec3", |b| b.bytes(&audio.config)),
        }
    });
}

const AUDIO_STREAM: u8 = 5;

/// ISO/IEC 14496-1 table 5: 11172-3 from 32 kHz up, 13818-3 with its halved rates below.
fn mp3_object_type(audio: &Audio) -> u8 {
    if audio.sample_rate < 32_000 { 0x69 } else { 0x6b }
}

/// esds: ISO/IEC 14496-1 7.2.6.5, 14496-14 6.7.2. The decoder's set-up is left out where it is empty.
fn elementary_stream(out: &mut Boxes, object_type: u8, stream_type: u8, set_up: &[u8]) {
    const ES: u8 = 3;
    const DECODER_CONFIG: u8 = 4;
    const DECODER_SPECIFIC: u8 = 5;
    const SL_CONFIG: u8 = 6;

    let mut config = vec![object_type, stream_type << 2 | 1];
    config.extend([0; 11]); // buffer size, maximum and average rate: unknown
    if !set_up.is_empty() {
        config.extend(descriptor(DECODER_SPECIFIC, set_up));
    }
    let mut stream = vec![0; 3]; // ES_ID 0: the track says it; no flags
    stream.extend(descriptor(DECODER_CONFIG, &config));
    stream.extend(descriptor(SL_CONFIG, &[2])); // 2: as MP4 files have it
    out.full(b"esds", 0, 0, |b| b.bytes(&descriptor(ES, &stream)));
}

/// A tag, a length in groups of 7 bits (always four, as is the custom), the body.
fn descriptor(tag: u8, body: &[u8]) -> Vec<u8> {
    let group = |shift: u32| (body.len() >> shift & 0x7f) as u8;
    let mut out = Vec::with_capacity(5 + body.len());
    out.extend([tag, group(21) | 0x80, group(14) | 0x80, group(7) | 0x80, group(0)]);
    out.extend_from_slice(body);
    out
}
