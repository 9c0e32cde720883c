//! VP9 (the bitstream specification, and "VP Codec ISO Media File Format Binding" for vpcC).

use bytes::Bytes;

use super::bits::Bits;
use crate::media::{Chroma, Colour, Error, Hdr, Video, VideoCodec};

/// Whether a frame or superframe starts with a key frame. The frames of a superframe come before its index, so both
/// are looked at alike.
pub fn is_key_frame(frame: &[u8]) -> bool {
    KeyFrame::parse(frame).is_ok()
}

/// All that a key frame says of the stream; `Video::config` is vpcC made from it.
pub fn video(key_frame: &[u8]) -> Result<Video, Error> {
    let frame = KeyFrame::parse(key_frame)?;
    let level = level(frame.width, frame.height);
    Ok(video_of(&frame, level))
}

/// The unit with its colour space said, where it is a key frame of 4:2:0 that leaves it open and there is a word for it
/// (bitstream specification 7.2.2).
pub fn with_color_space(unit: &Bytes, colour: Colour) -> Bytes {
    let color_space = match colour.matrix {
        1 => 2,
        5 | 6 => 1,
        7 => 4,
        9 => 5,
        _ => return unit.clone(),
    };
    let open = |frame: &KeyFrame| frame.profile & 1 == 0 && frame.colour.matrix == 2;
    let Some(frame) = KeyFrame::parse(unit).ok().filter(open) else { return unit.clone() };
    // After the marker, the profile, four flags and the sync code; profile 2 tells its depth first.
    let at = if frame.profile == 2 { 33 } else { 32 };
    let mut bytes = unit.to_vec();
    for n in 0..3 {
        let (mask, bit) = (0x80 >> ((at + n) % 8), color_space >> (2 - n) & 1 == 1);
        if let Some(byte) = bytes.get_mut((at + n) / 8) {
            *byte = if bit { *byte | mask } else { *byte & !mask };
        }
    }
    bytes.into()
}

/// With the code points that the bitstream left open filled in, in vpcC and the codec string too.
pub fn with_colour(video: &Video, colour: Colour) -> Video {
    let filled = |told: u8, given: u8| if told == 2 { given } else { told };
    let colour = Colour {
        primaries: filled(video.colour.primaries, colour.primaries),
        transfer: filled(video.colour.transfer, colour.transfer),
        matrix: filled(video.colour.matrix, colour.matrix),
        full_range: video.colour.full_range,
    };
    let [_, _, _, _, profile, level, ..] = video.config[..] else { return video.clone() };
    let (bit_depth, chroma) = (video.bit_depth, video.chroma);
    video_of(&KeyFrame { profile, bit_depth, chroma, colour, width: video.width, height: video.height }, level)
}

/// From a vpcC payload (with version and flags) and the size that the sample entry tells.
pub fn video_from_vpcc(vpcc: &[u8], width: u32, height: u32) -> Result<Video, Error> {
    let [1, _, _, _, profile, level, format, primaries, transfer, matrix, _, _, ..] = *vpcc else {
        return Err(Error::bad("vpcC is short or not of version 1"));
    };
    let chroma = match format >> 1 & 7 {
        0 | 1 => Chroma::C420,
        2 => Chroma::C422,
        3 => Chroma::C444,
        other => return Err(Error::UnsupportedCodec(format!("VP9 with chroma subsampling {other}"))),
    };
    let bit_depth = format >> 4;
    if profile > 3 || !matches!(bit_depth, 8 | 10 | 12) || width == 0 || height == 0 {
        return Err(Error::bad("vpcC contradicts itself"));
    }
    let colour = Colour { primaries, transfer, matrix, full_range: format & 1 == 1 };
    Ok(video_of(&KeyFrame { profile, bit_depth, chroma, colour, width, height }, level))
}

/// The uncompressed header of a key frame (bitstream specification 6.2), as far as it describes the stream.
struct KeyFrame {
    profile: u8,
    bit_depth: u8,
    chroma: Chroma,
    colour: Colour,
    width: u32,
    height: u32,
}

impl KeyFrame {
    fn parse(frame: &[u8]) -> Result<Self, Error> {
        const SYNC_CODE: u32 = 0x49_83_42;
        let mut bits = Bits::new(frame);
        if bits.read(2)? != 2 {
            return Err(Error::bad("not a VP9 frame"));
        }
        let profile = bits.byte::<1>()? | bits.byte::<1>()? << 1;
        if profile == 3 {
            bits.skip(1)?;
        }
        let (show_existing_frame, inter) = (bits.flag()?, bits.flag()?);
        bits.skip(2)?; // show_frame, error_resilient_mode
        if show_existing_frame || inter || bits.read(24)? != SYNC_CODE {
            return Err(Error::bad("not a VP9 key frame"));
        }
        let bit_depth = match profile {
            0 | 1 => 8,
            _ if bits.flag()? => 12,
            _ => 10,
        };
        let color_space = bits.read(3)?;
        let mut colour = colour(color_space);
        let chroma = if color_space == COLOR_SPACE_RGB {
            // Profiles 0 and 2 can't hold it, and have no bit for it.
            if profile & 1 == 0 {
                return Err(Error::bad("VP9 RGB in a profile without 4:4:4"));
            }
            bits.skip(1)?;
            Chroma::C444
        } else {
            colour.full_range = bits.flag()?;
            match profile & 1 == 1 {
                true => subsampling(&mut bits)?,
                false => Chroma::C420,
            }
        };
        let (width, height) = (bits.read(16)? + 1, bits.read(16)? + 1);
        Ok(Self { profile, bit_depth, chroma, colour, width, height })
    }
}

fn subsampling(bits: &mut Bits<'_>) -> Result<Chroma, Error> {
    let (x, y) = (bits.flag()?, bits.flag()?);
    bits.skip(1)?;
    match (x, y) {
        (false, false) => Ok(Chroma::C444),
        (true, false) => Ok(Chroma::C422),
        (false, true) => Err(Error::UnsupportedCodec("VP9 4:4:0".into())),
        (true, true) => Err(Error::bad("VP9 4:2:0 in a profile that excludes it")),
    }
}

const COLOR_SPACE_RGB: u32 = 7;

/// Code points for color_space (bitstream specification 7.2.2). BT.2020 leaves the transfer open: it may be PQ or HLG.
fn colour(color_space: u32) -> Colour {
    let (primaries, transfer, matrix) = match color_space {
        1 | 3 => (6, 6, 6),
        2 => (1, 1, 1),
        4 => (7, 7, 7),
        5 => (9, 2, 9),
        COLOR_SPACE_RGB => (1, 13, 0),
        _ => (2, 2, 2),
    };
    Colour { primaries, transfer, matrix, full_range: color_space == COLOR_SPACE_RGB }
}

/// The lowest level that allows the size at 60 frames a second; 62, the highest, where none does.
fn level(width: u32, height: u32) -> u8 {
    /// Level, samples a second, samples a picture, samples a side (bitstream specification annex A).
    const LEVELS: [(u8, u64, u64, u32); 13] = [
        (10, 829_440, 36_864, 512),
        (11, 2_764_800, 73_728, 768),
        (20, 4_608_000, 122_880, 960),
        (21, 9_216_000, 245_760, 1344),
        (30, 20_736_000, 552_960, 2048),
        (31, 36_864_000, 983_040, 2752),
        (40, 83_558_400, 2_228_224, 4160),
        (41, 160_432_128, 2_228_224, 4160),
        (50, 311_951_360, 8_912_896, 8384),
        (51, 588_251_136, 8_912_896, 8384),
        (52, 1_176_502_272, 8_912_896, 8384),
        (60, 1_176_502_272, 35_651_584, 16_832),
        (61, 2_353_004_544, 35_651_584, 16_832),
    ];
    let size = u64::from(width) * u64::from(height);
    let fits = |(_, rate, most, side): &&(u8, u64, u64, u32)| {
        size * 60 <= *rate && size <= *most && width.max(height) <= *side
    };
    LEVELS.iter().find(fits).map_or(62, |(level, ..)| *level)
}

fn video_of(frame: &KeyFrame, level: u8) -> Video {
    // 1 is 4:2:0 with chroma samples at the luma samples' places: what VP9 means where it doesn't say.
    let chroma = match frame.chroma {
        Chroma::C422 => 2,
        Chroma::C444 => 3,
        Chroma::C420 | Chroma::Monochrome => 1,
    };
    let Colour { primaries, transfer, matrix, full_range } = frame.colour;
    let range = u8::from(full_range);
    let format = frame.bit_depth << 4 | chroma << 1 | range;
    let config = [1, 0, 0, 0, frame.profile, level, format, primaries, transfer, matrix, 0, 0];
    Video {
        codec: VideoCodec::Vp9,
        config: Bytes::copy_from_slice(&config),
        codec_string: format!(
            "vp09.{:02}.{level:02}.{:02}.{chroma:02}.{primaries:02}.{transfer:02}.{matrix:02}.{range:02}",
            frame.profile, frame.bit_depth
        ),
        width: frame.width,
        height: frame.height,
        sample_aspect: (1, 1),
        rotation: 0,
        bit_depth: frame.bit_depth,
        chroma: frame.chroma,
        colour: frame.colour,
        hdr: Hdr::default(),
        interlaced: false,
        frame_rate: None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::codec::bits::tests::hex;

    #[test]
    fn reads_key_frames_of_libvpx() {
        // frame, string, size, chroma, colour
        let cases = [
            ("824983420028102816", "vp09.00.31.08.01.02.02.02.00", (642, 642), Chroma::C420),
            ("92498342000af808fb03", "vp09.02.21.10.01.02.02.02.00", (352, 288), Chroma::C420),
            ("a24983420002be023ec0", "vp09.01.21.08.03.02.02.02.00", (352, 288), Chroma::C444),
            ("b124c1a14200af808fb0", "vp09.03.21.12.02.02.02.02.00", (352, 288), Chroma::C422),
            ("a2498342e015f011f606", "vp09.01.21.08.03.01.13.00.01", (352, 288), Chroma::C444),
        ];
        for (frame, codec_string, size, chroma) in cases {
            let video = video(&hex(frame)).unwrap_or_else(|e| panic!("{frame}: {e}"));
            assert!(is_key_frame(&hex(frame)));
            assert_eq!((video.width, video.height), size, "{frame}");
            assert_eq!(video.codec_string, codec_string);
            assert_eq!(video.chroma, chroma);
            assert_eq!(video_from_vpcc(&video.config, size.0, size.1), Ok(video), "{frame}");
        }
    }

    #[test]
    fn what_the_bitstream_left_open_is_filled_in_everywhere() {
        let pq = Colour { primaries: 9, transfer: 16, matrix: 9, full_range: true };
        let open = with_colour(&video(&hex("92498342000af808fb03")).unwrap(), pq);
        assert_eq!(open.codec_string, "vp09.02.21.10.01.09.16.09.00", "the range is never open");
        assert_eq!(video_from_vpcc(&open.config, 352, 288), Ok(open));
        let rgb = video(&hex("a2498342e015f011f606")).unwrap();
        assert_eq!(with_colour(&rgb, pq), rgb);
    }

    #[test]
    fn a_color_space_is_said_where_it_was_open() {
        let colour = |matrix| Colour { primaries: 9, transfer: 16, matrix, full_range: false };
        let cases = [("824983420028102816", 9), ("92498342000af808fb03", 9), ("824983420028102816", 6)];
        for (frame, matrix) in cases {
            let (before, made) = (hex(frame), with_color_space(&hex(frame).into(), colour(matrix)));
            assert_eq!(video(&made).unwrap().colour.matrix, matrix, "{frame}");
            let (before, after) = (video(&before).unwrap(), video(&made).unwrap());
            assert_eq!((before.width, before.height, before.bit_depth), (after.width, after.height, after.bit_depth));
        }
        // 4:4:4, no key frame.
        for left in ["a24983420002be023ec0", "864983420028102816"] {
            assert_eq!(with_color_space(&hex(left).into(), colour(9))[..], hex(left)[..], "{left}");
        }
    }

    #[test]
    fn refuses_what_the_rest_can_not_hold() {
        assert_eq!(video(&hex("a24983420402be023ec0")).unwrap_err().code(), "unsupported_codec", "4:4:0");
        assert_eq!(video(&hex("82498342e0281028 16")).unwrap_err().code(), "bad_media", "RGB in profile 0");
    }

    #[test]
    fn other_frames_are_none() {
        // Inter, show-existing, another marker, no sync code, short.
        for frame in [
            "864983420028102816",
            "884983420028102816",
            "424983420028102816",
            "824983430028102816",
            "82498342002810",
            "",
        ] {
            assert!(!is_key_frame(&hex(frame)), "{frame}");
            assert_eq!(video(&hex(frame)).unwrap_err().code(), "bad_media");
        }
    }

    #[test]
    fn reads_the_record_that_ffmpeg_writes() {
        let video = video_from_vpcc(&hex("01000000 00 14 82 02 02 02 0000"), 352, 288).unwrap();
        assert_eq!(video.codec_string, "vp09.00.20.08.01.02.02.02.00");
        assert_eq!(video.colour, Colour::default());
        assert!(video_from_vpcc(&hex("00000000 00 14 82 02 02 02 0000"), 352, 288).is_err(), "version 0");
        assert!(video_from_vpcc(&hex("01000000 00 14 72 02 02 02 0000"), 352, 288).is_err(), "7 bits");
        assert!(video_from_vpcc(&hex("01000000 00 14 82 02 02 02"), 352, 288).is_err(), "short");
    }

    #[test]
    fn levels_hold_sixty_frames_a_second() {
        let cases = [
            ((256, 54), 10),
            ((640, 360), 30),
            ((1280, 720), 40),
            ((1920, 1080), 41),
            ((3840, 2160), 51),
            ((7680, 4320), 61),
            ((65_536, 65_536), 62),
        ];
        for ((width, height), expected) in cases {
            assert_eq!(level(width, height), expected, "{width}x{height}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..20), at in 0usize..9) {
            let _ = (video(&bytes), video_from_vpcc(&bytes, 1, 1));
            let mut frame = hex("824983420028102816");
            frame.truncate(at);
            frame.extend(&bytes);
            if let Ok(video) = video(&frame) {
                prop_assert_eq!(video_from_vpcc(&video.config, video.width, video.height), Ok(video));
            }
        }
    }
}
