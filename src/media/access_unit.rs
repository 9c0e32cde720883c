//! Tracks, their timescales, and the access units that they carry.

use std::num::NonZeroU32;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A point or a length in time, counted in a track's [`Timescale`]. Integers from end to end: no frame's place is
/// ever decided by floating point or by nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Ticks(pub i64);

/// Ticks per second (ISO/IEC 14496-12 8.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timescale(NonZeroU32);

impl Timescale {
    /// None where `per_second` is 0.
    pub const fn new(per_second: u32) -> Option<Self> {
        match NonZeroU32::new(per_second) {
            Some(n) => Some(Self(n)),
            None => None,
        }
    }

    /// Ticks per second.
    pub const fn get(self) -> u32 {
        self.0.get()
    }
}

impl Ticks {
    /// This time in another timescale, rounded towards minus infinity. Saturates at the ends of `i64`.
    pub fn floor(self, from: Timescale, to: Timescale) -> Ticks {
        let scaled = i128::from(self.0) * i128::from(to.get());
        Ticks(saturate(scaled.div_euclid(i128::from(from.get()))))
    }

    /// This time in another timescale, rounded towards plus infinity. Saturates at the ends of `i64`.
    pub fn ceil(self, from: Timescale, to: Timescale) -> Ticks {
        let scaled = i128::from(self.0) * i128::from(to.get());
        Ticks(saturate(-(-scaled).div_euclid(i128::from(from.get()))))
    }

    /// This time in another timescale, rounded to the nearest tick, halves up. Saturates at the ends of `i64`.
    pub fn nearest(self, from: Timescale, to: Timescale) -> Ticks {
        let scaled = i128::from(self.0) * i128::from(to.get());
        let from = i128::from(from.get());
        Ticks(saturate((2 * scaled + from).div_euclid(2 * from)))
    }

    /// This time in another timescale, where that is exact.
    pub fn exact(self, from: Timescale, to: Timescale) -> Option<Ticks> {
        let scaled = i128::from(self.0) * i128::from(to.get());
        let from = i128::from(from.get());
        if scaled % from != 0 {
            return None;
        }
        i64::try_from(scaled / from).ok().map(Ticks)
    }
}

fn saturate(n: i128) -> i64 {
    n.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl std::ops::Add for Ticks {
    type Output = Ticks;
    fn add(self, other: Ticks) -> Ticks {
        Ticks(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Ticks {
    type Output = Ticks;
    fn sub(self, other: Ticks) -> Ticks {
        Ticks(self.0.saturating_sub(other.0))
    }
}

/// A half-open range of presentation time, `start <= t < end`, in a track's timescale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub start: Ticks,
    pub end: Ticks,
}

impl Window {
    pub fn contains(self, t: Ticks) -> bool {
        self.start <= t && t < self.end
    }
}

/// A track's number within one input, as the container gives it (track_ID, TrackNumber, PID).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TrackId(pub u32);

/// One elementary stream of the input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Track {
    pub id: TrackId,
    /// The timescale of this track's access units.
    pub timescale: Timescale,
    /// ISO 639-2 or BCP 47, where the container says it.
    pub language: Option<String>,
    pub format: Format,
}

/// What a track holds and how to decode it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    Video(Video),
    Audio(Audio),
    /// Listed, never decoded: `kind` is `video`, `audio`, `text` or `data`; `codec` is the container's own name for it.
    Other {
        kind: String,
        codec: String,
    },
}

impl Format {
    /// Behind the name of a codec of which no set-up has come, so that nothing can be made of its track.
    pub const UNDESCRIBED: &str = " (without a set-up)";
}

/// Video codecs that are read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum VideoCodec {
    H264,
    H265,
    Vp8,
    Vp9,
    Av1,
    Mpeg2,
}

impl VideoCodec {
    /// The protocol's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::H264 => "h264",
            Self::H265 => "h265",
            Self::Vp8 => "vp8",
            Self::Vp9 => "vp9",
            Self::Av1 => "av1",
            Self::Mpeg2 => "mpeg2",
        }
    }
}

/// Audio codecs that are read here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AudioCodec {
    Aac,
    Opus,
    Mp3,
    Ac3,
    Eac3,
}

impl AudioCodec {
    /// The protocol's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Aac => "aac",
            Self::Opus => "opus",
            Self::Mp3 => "mp3",
            Self::Ac3 => "ac3",
            Self::Eac3 => "eac3",
        }
    }
}

/// Chroma subsampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Chroma {
    Monochrome,
    C420,
    C422,
    C444,
}

/// Code points of ISO/IEC 23091-2 (CICP); 2 is "unspecified".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Colour {
    pub primaries: u8,
    pub transfer: u8,
    pub matrix: u8,
    pub full_range: bool,
}

impl Default for Colour {
    fn default() -> Self {
        Self { primaries: 2, transfer: 2, matrix: 2, full_range: false }
    }
}

impl Colour {
    /// SMPTE ST 2084, "PQ".
    pub const PQ: u8 = 16;
    /// ARIB STD-B67, "HLG".
    pub const HLG: u8 = 18;
    /// BT.709 throughout.
    pub const BT709: Self = Self { primaries: 1, transfer: 1, matrix: 1, full_range: false };

    /// Whether the transfer is one of BT.2100's.
    pub fn is_hdr(self) -> bool {
        matches!(self.transfer, Self::PQ | Self::HLG)
    }
}

/// What static metadata of high dynamic range says; nothing by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Hdr {
    pub mastering: Option<Mastering>,
    /// Greatest light of a sample, and of a picture on average (MaxCLL, MaxFALL), candelas a square metre.
    pub light: Option<(u16, u16)>,
}

/// The display that the picture was graded on (SMPTE ST 2086), in the units of ISO/IEC 14496-12 12.1.6 `mdcv` and of
/// the SEI message (ISO/IEC 23008-2 D.3.28).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mastering {
    /// Green, blue, red: x and y in 0.00002.
    pub primaries: [(u16, u16); 3],
    pub white: (u16, u16),
    /// In 0.0001 candelas a square metre.
    pub brightest: u32,
    pub darkest: u32,
}

/// How a video track is coded, as its set-up bytes say (containers are believed only where the codec is silent).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Video {
    pub codec: VideoCodec,
    /// The payload of the sample entry's configuration box, without the box header: avcC, hvcC, vpcC (with its
    /// version and flags), av1C. For MPEG-2 the sequence header and its extensions. Empty for VP8.
    pub config: Bytes,
    /// RFC 6381.
    pub codec_string: String,
    /// Decoded size in samples, after cropping.
    pub width: u32,
    pub height: u32,
    /// Sample aspect ratio, width to height; (1, 1) where unknown.
    pub sample_aspect: (u32, u32),
    /// Degrees clockwise by which the picture is to be turned for display: 0, 90, 180, 270.
    pub rotation: u16,
    pub bit_depth: u8,
    pub chroma: Chroma,
    pub colour: Colour,
    pub hdr: Hdr,
    pub interlaced: bool,
    /// Frames per second as a fraction, where the set-up tells it. A hint: no frame's place depends on it.
    pub frame_rate: Option<(u32, u32)>,
}

impl Video {
    /// Whether pictures may be two fields in one frame. Where H.265 is interlaced, each of its pictures is a field.
    pub fn has_fields(&self) -> bool {
        self.interlaced && self.codec != VideoCodec::H265
    }

    /// Width and height of the picture once it has been turned.
    pub fn upright(&self) -> (u32, u32) {
        if self.rotation % 180 == 90 { (self.height, self.width) } else { (self.width, self.height) }
    }
}

/// How an audio track is coded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audio {
    pub codec: AudioCodec,
    /// AAC: the AudioSpecificConfig. Opus: the payload of dOps. AC-3: of dac3. E-AC-3: of dec3. Empty for MP3.
    pub config: Bytes,
    /// RFC 6381.
    pub codec_string: String,
    /// Hertz of the decoded sound.
    pub sample_rate: u32,
    /// Channels of the decoded sound.
    pub channels: u16,
}

/// Whether decoding can start at an access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sync {
    /// Decoding starts here, and nothing after it in decode order refers to, or is presented, before it: IDR, closed GOP, key frame.
    Idr,
    /// Decoding can start here, but leading pictures that follow refer to what came before (HEVC CRA, H.264 recovery point).
    OpenGop,
    No,
}

/// One coded picture or audio frame (ISO/IEC 14496-12 "sample"; 13818-1 "access unit").
///
/// H.264 and H.265 units hold NAL units with 4-byte lengths and no access unit delimiters; AAC is raw, without
/// ADTS; AV1 is a temporal unit without temporal delimiters; the others are as the codec defines them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessUnit {
    pub track: TrackId,
    /// On the presentation timeline: edit lists applied, wraps unrolled. May be negative (priming, trimmed starts).
    pub pts: Ticks,
    pub dts: Ticks,
    /// As the container says it; None where it doesn't.
    pub duration: Option<Ticks>,
    pub sync: Sync,
    /// The byte of the input from which a demuxer that knows the set-up finds this unit again, and all that follow it.
    /// Of no meaning to a worker.
    #[serde(skip)]
    pub offset: u64,
    pub data: Bytes,
}
