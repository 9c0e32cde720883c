//! MPEG-1/2 audio, layers I to III (ISO/IEC 11172-3, 13818-3).

use bytes::Bytes;

use crate::media::{Audio, AudioCodec, Error};

/// A frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub sample_rate: u32,
    pub channels: u16,
    /// Samples a channel in the frame.
    pub samples: u32,
    /// Bytes, header included.
    pub frame_length: usize,
}

impl Header {
    /// None where `data` does not start with a well-formed header (needs 4 bytes; free format is not read).
    pub fn parse(data: &[u8]) -> Option<Self> {
        let [0xff, b1, b2, b3, ..] = *data else { return None };
        // MPEG 2.5 has one sync bit less and halves the rates of MPEG-2.
        let (mpeg_1, divisor) = match b1 >> 3 & 0x1f {
            0b11100 => (false, 4),
            0b11110 => (false, 2),
            0b11111 => (true, 1),
            _ => return None,
        };
        let layer = 4 - (b1 >> 1 & 3);
        let (rates, samples) = match (layer, mpeg_1) {
            (1, true) => (&RATES_1_1, 384),
            (2, true) => (&RATES_1_2, 1152),
            (3, true) => (&RATES_1_3, 1152),
            (1, false) => (&RATES_2_1, 384),
            (2, false) => (&RATES_2_23, 1152),
            (3, false) => (&RATES_2_23, 576),
            _ => return None,
        };
        // Index 0 is free format; 15, past the table's end, is forbidden.
        let bit_rate = 1000 * rates.get(usize::from(b2 >> 4)).copied().filter(|rate| *rate > 0)?;
        let sample_rate = [44_100, 48_000, 32_000].get(usize::from(b2 >> 2 & 3)).copied()? / divisor;
        let padding = u32::from(b2 >> 1 & 1);
        let frame_length = match layer {
            1 => 4 * (12 * bit_rate / sample_rate + padding),
            _ => samples / 8 * bit_rate / sample_rate + padding,
        };
        let channels = if b3 >> 6 == 3 { 1 } else { 2 };
        Some(Self { sample_rate, channels, samples, frame_length: frame_length as usize })
    }
}

/// All that a frame says of its stream.
pub fn audio(frame: &[u8]) -> Result<Audio, Error> {
    let header = Header::parse(frame).ok_or_else(|| Error::bad("not an MPEG audio frame"))?;
    // The object type says which standard (ISO/IEC 14496-1 table 5); only MPEG-1 has rates of 32 kHz and more.
    let object_type = if header.sample_rate >= 32_000 { "6B" } else { "69" };
    Ok(Audio {
        codec: AudioCodec::Mp3,
        config: Bytes::new(),
        codec_string: format!("mp4a.{object_type}"),
        sample_rate: header.sample_rate,
        channels: header.channels,
    })
}

// Kilobits a second (ISO/IEC 11172-3 2.4.2.3, 13818-3 2.4.2.3): MPEG-1 or -2, layer.
const RATES_1_1: [u32; 15] = [0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448];
const RATES_1_2: [u32; 15] = [0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384];
const RATES_1_3: [u32; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
const RATES_2_1: [u32; 15] = [0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256];
const RATES_2_23: [u32; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::codec::bits::tests::hex;

    #[test]
    fn reads_headers() {
        // From LAME and ffmpeg; sizes by hand from the standard's formula.
        let cases = [
            ("fffb9064", (44_100, 2, 1152, 417)),  // MPEG-1 layer III, 128 kb/s
            ("fffb9264", (44_100, 2, 1152, 418)),  // with padding
            ("fff340c4", (22_050, 1, 576, 104)),   // MPEG-2 layer III, 32 kb/s
            ("fffde404", (48_000, 2, 1152, 1152)), // MPEG-1 layer II, 384 kb/s
            ("ffe340c4", (11_025, 1, 576, 208)),   // MPEG 2.5 layer III, 32 kb/s
            ("ffff1204", (44_100, 2, 384, 36)),    // MPEG-1 layer I, 32 kb/s, with padding
        ];
        for (header, (sample_rate, channels, samples, frame_length)) in cases {
            let expected = Header { sample_rate, channels, samples, frame_length };
            assert_eq!(Header::parse(&hex(header)), Some(expected), "{header}");
        }
        assert_eq!(audio(&hex("fffb9064")).unwrap().codec_string, "mp4a.6B");
        assert_eq!(audio(&hex("fff340c4")).unwrap().codec_string, "mp4a.69");
    }

    #[test]
    fn refuses_reserved_values() {
        // Sync, version, layer, free format, bit rate 15, sampling rate 3, short.
        for header in ["fefb9064", "ffeb9064", "fff99064", "fffb0064", "fffbf064", "fffb9c64", "fffb90", ""] {
            assert_eq!(Header::parse(&hex(header)), None, "{header}");
            assert_eq!(audio(&hex(header)).unwrap_err().code(), "bad_media");
        }
    }

    proptest! {
        #[test]
        fn a_frame_is_never_shorter_than_its_header(bytes in any::<[u8; 3]>()) {
            let frame = [0xff, bytes[0], bytes[1], bytes[2]];
            if let Some(header) = Header::parse(&frame) {
                prop_assert!(header.frame_length >= 24);
            }
        }
    }
}
