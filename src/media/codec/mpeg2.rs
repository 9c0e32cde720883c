//! MPEG-2 video (ISO/IEC 13818-2).

use super::annexb::{start_coded, trim_zeros};
use super::bits::Bits;
use super::vui::{frame_rate, greatest_common_divisor};
use crate::media::{Chroma, Colour, Error, Hdr, Sync, Video, VideoCodec};

/// From the sequence header and its extensions, start codes included (more may follow).
pub fn video(headers: &[u8]) -> Result<Video, Error> {
    let mut config = Vec::new();
    let (mut sequence, mut extension, mut colour) = (None, None, Colour::default());
    for unit in start_coded(headers) {
        match unit.split_first() {
            Some((&SEQUENCE_HEADER, body)) if sequence.is_none() => sequence = Some(SequenceHeader::parse(body)?),
            Some((&EXTENSION, body)) if sequence.is_some() => match body.first().map(|byte| byte >> 4) {
                Some(SEQUENCE_EXTENSION) => extension = Some(SequenceExtension::parse(body)?),
                Some(SEQUENCE_DISPLAY_EXTENSION) => colour = display_colour(body)?,
                _ => {}
            },
            Some((&USER_DATA, _)) => continue,
            _ if sequence.is_some() => break,
            _ => continue,
        }
        let unit = without_stuffing(unit);
        if config.len() + unit.len() > MOST_CONFIG {
            return Err(Error::OverLimit("the MPEG-2 sequence header and its extensions".into()));
        }
        config.extend_from_slice(&[0, 0, 1]);
        config.extend_from_slice(unit);
    }
    let sequence = sequence.ok_or_else(|| Error::bad("no MPEG-2 sequence header"))?;
    let extension = extension.ok_or_else(|| Error::UnsupportedCodec("MPEG-1 video".into()))?;
    let width = sequence.width | extension.width_high << 12;
    let height = sequence.height | extension.height_high << 12;
    if width == 0 || height == 0 {
        return Err(Error::bad(format!("an MPEG-2 picture of {width}x{height}")));
    }
    let rate = FRAME_RATES.get(usize::from(sequence.frame_rate_code)).and_then(|(frames, seconds)| {
        frame_rate(frames * u64::from(extension.rate_numerator), seconds * u64::from(extension.rate_denominator))
    });
    Ok(Video {
        codec: VideoCodec::Mpeg2,
        config: config.into(),
        codec_string: format!("mp4v.{:02X}", extension.object_type()),
        width,
        height,
        sample_aspect: sample_aspect(sequence.aspect_ratio_code, width, height),
        rotation: 0,
        bit_depth: 8,
        chroma: extension.chroma,
        colour,
        hdr: Hdr::default(),
        interlaced: !extension.progressive,
        frame_rate: rate,
    })
}

/// A header without the zeros that may be stuffed before the next start code, but with those of its own.
fn without_stuffing(unit: &[u8]) -> &[u8] {
    let own = match unit {
        [SEQUENCE_HEADER, ..] => 9,
        [EXTENSION, first, ..] if first >> 4 == SEQUENCE_EXTENSION => 7,
        [EXTENSION, first, ..] if first >> 4 == SEQUENCE_DISPLAY_EXTENSION => 6 + 3 * usize::from(first & 1),
        _ => 2,
    };
    unit.get(..trim_zeros(unit).len().max(own)).unwrap_or(unit)
}

/// What kind of entry point a coded picture, start codes included, is: an I picture after a closed GOP header, one after an open GOP header, or none.
///
/// A sequence header without a GOP header counts as an open one.
pub fn sync(unit: &[u8]) -> Sync {
    let mut entry = Sync::No;
    for part in start_coded(unit) {
        match part {
            [SEQUENCE_HEADER, ..] if entry == Sync::No => entry = Sync::OpenGop,
            // After 25 bits of time code: closed_gop.
            [GROUP_OF_PICTURES, _, _, _, last, ..] => {
                entry = if last & 0x40 != 0 { Sync::Idr } else { Sync::OpenGop };
            }
            // After 10 bits of temporal_reference: picture_coding_type.
            [PICTURE, _, second, ..] => return if second >> 3 & 7 == 1 { entry } else { Sync::No },
            [SLICE_FIRST..=SLICE_LAST, ..] => return Sync::No,
            _ => {}
        }
    }
    Sync::No
}

// Start codes (ISO/IEC 13818-2 table 6-1).
const PICTURE: u8 = 0x00;
const SLICE_FIRST: u8 = 0x01;
const SLICE_LAST: u8 = 0xaf;
const USER_DATA: u8 = 0xb2;
const SEQUENCE_HEADER: u8 = 0xb3;
const EXTENSION: u8 = 0xb5;
const GROUP_OF_PICTURES: u8 = 0xb8;

const SEQUENCE_EXTENSION: u8 = 1;
const SEQUENCE_DISPLAY_EXTENSION: u8 = 2;

/// A sequence header with both matrices and its extensions has some 200 bytes.
const MOST_CONFIG: usize = 4096;

/// By frame_rate_code (table 6-4).
const FRAME_RATES: [(u64, u64); 9] =
    [(0, 1), (24_000, 1001), (24, 1), (25, 1), (30_000, 1001), (30, 1), (50, 1), (60_000, 1001), (60, 1)];

/// 6.2.2.1.
struct SequenceHeader {
    width: u32,
    height: u32,
    aspect_ratio_code: u8,
    frame_rate_code: u8,
}

impl SequenceHeader {
    fn parse(body: &[u8]) -> Result<Self, Error> {
        let mut bits = Bits::new(body);
        let (width, height) = (bits.read(12)?, bits.read(12)?);
        Ok(Self { width, height, aspect_ratio_code: bits.byte::<4>()?, frame_rate_code: bits.byte::<4>()? })
    }
}

/// 6.2.2.3.
struct SequenceExtension {
    profile_and_level: u8,
    progressive: bool,
    chroma: Chroma,
    width_high: u32,
    height_high: u32,
    rate_numerator: u8,
    rate_denominator: u8,
}

impl SequenceExtension {
    fn parse(body: &[u8]) -> Result<Self, Error> {
        let mut bits = Bits::new(body);
        bits.skip(4)?; // extension_start_code_identifier
        let (profile_and_level, progressive) = (bits.byte::<8>()?, bits.flag()?);
        let chroma = match bits.read(2)? {
            1 => Chroma::C420,
            2 => Chroma::C422,
            3 => Chroma::C444,
            _ => return Err(Error::bad("MPEG-2 with a reserved chroma_format")),
        };
        let (width_high, height_high) = (bits.read(2)?, bits.read(2)?);
        bits.skip(12 + 1 + 8 + 1)?; // bit rate, marker, VBV buffer size, low_delay
        let (rate_numerator, rate_denominator) = (bits.byte::<2>()? + 1, bits.byte::<5>()? + 1);
        Ok(Self { profile_and_level, progressive, chroma, width_high, height_high, rate_numerator, rate_denominator })
    }

    /// The profile as an objectTypeIndication (ISO/IEC 14496-1 table 5).
    fn object_type(&self) -> u8 {
        match self.profile_and_level >> 4 {
            1 => 0x64,
            2 => 0x63,
            3 => 0x62,
            5 => 0x60,
            escape if escape & 8 != 0 => 0x65,
            _ => 0x61,
        }
    }
}

/// sequence_display_extension (6.2.2.4).
fn display_colour(body: &[u8]) -> Result<Colour, Error> {
    let mut bits = Bits::new(body);
    bits.skip(4 + 3)?; // extension_start_code_identifier, video_format
    if !bits.flag()? {
        return Ok(Colour::default());
    }
    let (primaries, transfer, matrix) = (bits.byte::<8>()?, bits.byte::<8>()?, bits.byte::<8>()?);
    Ok(Colour { primaries, transfer, matrix, full_range: false })
}

/// From the display aspect ratio (table 6-3), which is taken to be that of the coded picture, as decoders do.
fn sample_aspect(code: u8, width: u32, height: u32) -> (u32, u32) {
    let (x, y) = match code {
        2 => (4, 3),
        3 => (16, 9),
        4 => (221, 100),
        _ => return (1, 1),
    };
    // At most 14 bits each way, so the products fit.
    let (x, y) = (x * height, y * width);
    let divisor = greatest_common_divisor(x.into(), y.into()) as u32;
    (x / divisor, y / divisor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::codec::bits::tests::hex;

    /// ffmpeg, 4:2:2, 720x576 interlaced, 16:9, 25 frames a second, BT.709; then a GOP header and an I picture.
    const INTERLACED: &str = "000001b32d024033ffffe018 000001b5185400010000 0000 01b52b0101010b421200 \
        000001b80008004000 000100000ffff8 000001b58ffff30000 000001012b7ce118";
    /// ffmpeg, 4:2:0, 640x426, 29.97 frames a second.
    const PROGRESSIVE: &str =
        "000001b32801aa14ffffe018 000001b5148a00010000 000001b52102020 20a020d50 000001b8000800000000 0100000ffff8";

    #[test]
    fn reads_interlaced() {
        let video = video(&hex(INTERLACED)).unwrap();
        assert_eq!((video.width, video.height), (720, 576));
        assert_eq!((video.interlaced, video.chroma), (true, Chroma::C422));
        assert_eq!((video.sample_aspect, video.frame_rate), ((64, 45), Some((25, 1))));
        assert_eq!(video.colour, Colour { primaries: 1, transfer: 1, matrix: 1, full_range: false });
        assert_eq!(video.codec_string, "mp4v.65");
    }

    #[test]
    fn reads_progressive_and_keeps_the_headers_only() {
        let whole = hex(PROGRESSIVE);
        let video = video(&whole).unwrap();
        assert_eq!((video.width, video.height), (640, 426));
        assert_eq!((video.interlaced, video.chroma, video.sample_aspect), (false, Chroma::C420, (1, 1)));
        assert_eq!(video.frame_rate, Some((30_000, 1001)));
        assert_eq!(video.codec_string, "mp4v.61");
        assert_eq!(video.config, hex("000001b32801aa14ffffe018 000001b5148a00010000 000001b5210202020a020d50"));
        assert_eq!(super::video(&video.config).as_ref(), Ok(&video));
    }

    #[test]
    fn refuses_mpeg_1_and_nonsense() {
        assert_eq!(video(&hex("000001b32801aa14ffffe018")).unwrap_err().code(), "unsupported_codec");
        assert_eq!(video(&hex("000001b30001aa14ffffe018 000001b5148a00010000")).unwrap_err().code(), "bad_media");
        assert_eq!(video(&hex("000001b32801")).unwrap_err().code(), "bad_media");
        assert_eq!(video(&[]).unwrap_err().code(), "bad_media");
        let endless = [hex("000001b32801aa14ffffe018"), hex("000001b5f00100").repeat(1000)].concat();
        assert_eq!(video(&endless).unwrap_err().code(), "media_limit");
    }

    #[test]
    fn tells_entry_points() {
        let (sequence, open, closed) = ("000001b32801aa14ffffe018", "000001b800080000", "000001b800080040");
        let (intra, predicted, slice) = ("00000100000ffff8", "00000100005ffff8", "000001012b7c");
        let cases = [
            ([sequence, closed, intra], Sync::Idr),
            ([sequence, open, intra], Sync::OpenGop),
            (["", open, intra], Sync::OpenGop),
            ([sequence, "", intra], Sync::OpenGop),
            (["", "", intra], Sync::No),
            ([sequence, closed, predicted], Sync::No),
            ([sequence, closed, slice], Sync::No),
            ([sequence, closed, ""], Sync::No),
            // The second field of a pair doesn't undo the first.
            ([closed, intra, predicted], Sync::Idr),
        ];
        for (parts, expected) in cases {
            assert_eq!(sync(&hex(&parts.concat())), expected, "{parts:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(tail in prop::collection::vec(any::<u8>(), 0..40), at in 0usize..40) {
            let mut headers = hex(INTERLACED);
            headers.truncate(at);
            headers.extend(&tail);
            sync(&headers);
            if let Ok(video) = video(&headers) {
                prop_assert!(video.width > 0 && video.height > 0);
            }
        }
    }
}
