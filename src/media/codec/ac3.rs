//! AC-3 and E-AC-3 (ETSI TS 102 366): syncframes, dac3, dec3.

use bytes::Bytes;

use super::bits::Bits;
use crate::media::{Audio, AudioCodec, Error};

/// A syncframe's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub enhanced: bool,
    pub sample_rate: u32,
    pub channels: u16,
    pub samples: u32,
    /// Bytes, header included.
    pub frame_length: usize,
}

impl Header {
    /// None where `data` does not start with a well-formed syncframe header (needs 8 bytes).
    pub fn parse(data: &[u8]) -> Option<Self> {
        Syncframe::parse(data).map(|frame| frame.header)
    }
}

/// From a syncframe of either kind; `Audio::config` is dac3 or dec3 made from it.
///
/// dec3 tells of one independent substream: what dependent ones add (7.1) a player may leave out.
pub fn audio(frame: &[u8]) -> Result<Audio, Error> {
    let frame = Syncframe::parse(frame).ok_or_else(|| Error::bad("not an AC-3 syncframe"))?;
    if frame.substream != Substream::Independent(0) {
        return Err(Error::bad("E-AC-3 that starts with another substream than the first independent one"));
    }
    let header = frame.header;
    let coding = u32::from(frame.coding_mode);
    let (fscod, low_frequency) = (u32::from(frame.rate_code), u32::from(frame.low_frequency));
    let id = u32::from(frame.stream_id);
    if !header.enhanced {
        // fscod, bsid, bsmod, acmod, lfeon, bit_rate_code (annex F.4).
        let bits = fscod << 22
            | id << 17
            | u32::from(frame.stream_mode) << 14
            | coding << 11
            | low_frequency << 10
            | u32::from(frame.bit_rate_code) << 5;
        return audio_from_dac3(bits.to_be_bytes().get(1..).unwrap_or_default());
    }
    let bit_rate = header.frame_length as u64 * 8 * u64::from(header.sample_rate) / u64::from(header.samples) / 1000;
    // data_rate, num_ind_sub; fscod, bsid, asvc, bsmod, acmod, lfeon, num_dep_sub (annex F.6).
    let [rate_high, rate_low] = ((bit_rate.min(0x1fff) as u16) << 3).to_be_bytes();
    let [_, substream @ ..] = (fscod << 22 | id << 17 | coding << 9 | low_frequency << 8).to_be_bytes();
    audio_from_dec3(&[&[rate_high, rate_low], &substream[..]].concat())
}

/// From a dac3 payload.
pub fn audio_from_dac3(dac3: &[u8]) -> Result<Audio, Error> {
    let mut bits = Bits::new(dac3);
    let sample_rate = rate(bits.byte::<2>()?).ok_or_else(|| Error::bad("AC-3 with a reserved sampling rate"))?;
    let stream_id = bits.byte::<5>()?;
    bits.skip(3)?; // bsmod
    let channels = channels(bits.byte::<3>()?, bits.flag()?);
    bits.skip(10)?; // bit_rate_code, reserved
    let sample_rate = sample_rate >> stream_id.clamp(8, 10).saturating_sub(8);
    let config = Bytes::copy_from_slice(dac3.get(..3).unwrap_or(dac3));
    Ok(Audio { codec: AudioCodec::Ac3, config, codec_string: "ac-3".into(), sample_rate, channels })
}

/// From a dec3 payload. The channels are those of the first independent substream with its dependent ones.
pub fn audio_from_dec3(dec3: &[u8]) -> Result<Audio, Error> {
    let mut bits = Bits::new(dec3);
    bits.skip(13 + 3)?; // data_rate, num_ind_sub
    // With fscod 3 the rate is one of the halves, which dec3 can't tell (annex E.1.3.1.4); 24 kHz stands for them.
    let sample_rate = rate(bits.byte::<2>()?).unwrap_or(24_000);
    bits.skip(5 + 1 + 1 + 3)?; // bsid, reserved, asvc, bsmod
    let mut channels = channels(bits.byte::<3>()?, bits.flag()?);
    bits.skip(3)?;
    if bits.read(4)? > 0 {
        // chan_loc (annex F.6.2.12): five of its places are pairs.
        const PAIRS: u32 = 0b0_0111_0011;
        let places = bits.read(9)?;
        channels += (places.count_ones() + (places & PAIRS).count_ones()) as u16;
    }
    Ok(Audio {
        codec: AudioCodec::Eac3,
        config: Bytes::copy_from_slice(dec3),
        codec_string: "ec-3".into(),
        sample_rate,
        channels,
    })
}

/// Samples a channel in an access unit: the frames of its first independent substream, one after the other. None
/// where it does not start with a syncframe.
pub fn samples(unit: &[u8]) -> Option<u32> {
    let (mut rest, mut samples) = (unit, None);
    while let Some(frame) = Syncframe::parse(rest) {
        if frame.substream == Substream::Independent(0) {
            samples = Some(samples.unwrap_or(0u32).saturating_add(frame.header.samples));
        }
        rest = rest.get(frame.header.frame_length..).unwrap_or_default();
    }
    samples
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Substream {
    /// With its substreamid; 0 in AC-3.
    Independent(u8),
    Dependent,
}

struct Syncframe {
    header: Header,
    substream: Substream,
    /// fscod.
    rate_code: u8,
    /// bsid.
    stream_id: u8,
    /// bsmod; 0 where E-AC-3 tells it further on.
    stream_mode: u8,
    /// acmod.
    coding_mode: u8,
    low_frequency: bool,
    /// frmsizecod without its last bit; AC-3 only.
    bit_rate_code: u8,
}

impl Syncframe {
    fn parse(data: &[u8]) -> Option<Self> {
        let [0x0b, 0x77, _, _, _, b5, _, _, ..] = *data else { return None };
        let bits = Bits::new(data);
        match b5 >> 3 {
            0..=10 => Self::parse_ac3(bits),
            11..=16 => Self::parse_enhanced(bits),
            _ => None,
        }
    }

    /// Clauses 5.3.1 and 5.3.2.
    fn parse_ac3(mut bits: Bits<'_>) -> Option<Self> {
        bits.skip(32).ok()?; // syncword, crc1
        let (rate_code, size_code) = (bits.byte::<2>().ok()?, bits.byte::<6>().ok()?);
        let (stream_id, stream_mode) = (bits.byte::<5>().ok()?, bits.byte::<3>().ok()?);
        let coding_mode = bits.byte::<3>().ok()?;
        if coding_mode & 1 == 1 && coding_mode != 1 {
            bits.skip(2).ok()?; // cmixlev
        }
        if coding_mode & 4 != 0 {
            bits.skip(2).ok()?; // surmixlev
        }
        if coding_mode == 2 {
            bits.skip(2).ok()?; // dsurmod
        }
        let low_frequency = bits.flag().ok()?;
        let rate = rate(rate_code)?;
        let kilobits = BIT_RATES.get(usize::from(size_code >> 1)).copied()?;
        // Table 5.18, in 16-bit words: 1536 samples at this rate. Only 44.1 kHz leaves a remainder to spread.
        let words = match rate_code {
            1 => kilobits * 320 / 147 + usize::from(size_code & 1),
            _ => kilobits * 96_000 / rate as usize,
        };
        let header = Header {
            enhanced: false,
            // bsid 9 and 10, which the standard leaves to "similar" streams, halve and quarter the rate.
            sample_rate: rate >> stream_id.saturating_sub(8),
            channels: channels(coding_mode, low_frequency),
            samples: 1536,
            frame_length: 2 * words,
        };
        let substream = Substream::Independent(0);
        let bit_rate_code = size_code >> 1;
        Some(Self { header, substream, rate_code, stream_id, stream_mode, coding_mode, low_frequency, bit_rate_code })
    }

    /// Annex E.1.2.2.
    fn parse_enhanced(mut bits: Bits<'_>) -> Option<Self> {
        bits.skip(16).ok()?; // syncword
        let (kind, substream_id) = (bits.byte::<2>().ok()?, bits.byte::<3>().ok()?);
        let words = bits.read(11).ok()? as usize + 1;
        let rate_code = bits.byte::<2>().ok()?;
        let code = bits.byte::<2>().ok()?;
        let (sample_rate, blocks) = match rate(rate_code) {
            Some(rate) => (rate, [1, 2, 3, 6][usize::from(code & 3)]),
            None => (rate(code)? / 2, 6),
        };
        let (coding_mode, low_frequency) = (bits.byte::<3>().ok()?, bits.flag().ok()?);
        let stream_id = bits.byte::<5>().ok()?;
        let substream = match kind {
            0 | 2 => Substream::Independent(substream_id),
            1 => Substream::Dependent,
            _ => return None,
        };
        if words < 4 {
            return None;
        }
        let header = Header {
            enhanced: true,
            sample_rate,
            channels: channels(coding_mode, low_frequency),
            samples: 256 * blocks,
            frame_length: 2 * words,
        };
        Some(Self {
            header,
            substream,
            rate_code,
            stream_id,
            stream_mode: 0,
            coding_mode,
            low_frequency,
            bit_rate_code: 0,
        })
    }
}

/// From fscod, or fscod2 for twice the rate; None where reserved.
fn rate(code: u8) -> Option<u32> {
    [48_000, 44_100, 32_000].get(usize::from(code)).copied()
}

/// From acmod and lfeon.
fn channels(coding_mode: u8, low_frequency: bool) -> u16 {
    [2, 1, 2, 3, 3, 4, 4, 5][usize::from(coding_mode & 7)] + u16::from(low_frequency)
}

/// Kilobits a second by frmsizecod / 2 (table 5.18).
const BIT_RATES: [usize; 19] = [32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::codec::bits::tests::hex;

    #[test]
    fn reads_headers_of_ffmpeg() {
        let cases = [
            // Stereo, 96 kb/s.
            (
                "0b77ef070c4043e1",
                Header { enhanced: false, sample_rate: 48_000, channels: 2, samples: 1536, frame_length: 384 },
            ),
            // Stereo at 44.1 kHz, 192 kb/s: 417.96 words, so 417 and sometimes 418.
            (
                "0b77b4f6544043e1",
                Header { enhanced: false, sample_rate: 44_100, channels: 2, samples: 1536, frame_length: 834 },
            ),
            (
                "0b77b4f6554043e1",
                Header { enhanced: false, sample_rate: 44_100, channels: 2, samples: 1536, frame_length: 836 },
            ),
            // 5.1, 384 kb/s.
            (
                "0b7702ff3f87c000",
                Header { enhanced: true, sample_rate: 48_000, channels: 6, samples: 1536, frame_length: 1536 },
            ),
        ];
        for (frame, expected) in cases {
            assert_eq!(Header::parse(&hex(frame)), Some(expected), "{frame}");
        }
    }

    #[test]
    fn makes_the_records_that_ffmpeg_makes() {
        let stereo = audio(&hex("0b77ef070c4043e1")).unwrap();
        assert_eq!(stereo.config, hex("1010c0"));
        assert_eq!((stereo.codec_string.as_str(), stereo.sample_rate, stereo.channels), ("ac-3", 48_000, 2));
        let surround = audio(&hex("0b7702ff3f87c000")).unwrap();
        assert_eq!(surround.config, hex("0c00200f00"));
        assert_eq!((surround.codec_string.as_str(), surround.sample_rate, surround.channels), ("ec-3", 48_000, 6));
        assert_eq!(audio_from_dec3(&surround.config), Ok(surround));
    }

    #[test]
    fn counts_the_channels_of_dependent_substreams() {
        // 5.1 and a pair of rear surrounds (chan_loc bit 1).
        assert_eq!(audio_from_dec3(&hex("0c00200f0202")).unwrap().channels, 8);
        // 5.1 and a centre surround (bit 2).
        assert_eq!(audio_from_dec3(&hex("0c00200f0204")).unwrap().channels, 7);
    }

    #[test]
    fn counts_samples_over_frames_and_substreams() {
        let frame = |head: &str| {
            let mut frame = hex(head);
            frame.resize(Header::parse(&frame).unwrap().frame_length, 0);
            frame
        };
        // Two blocks each, of 16 words; then the same as a dependent substream.
        let (independent, dependent) = (frame("0b77000f1f87c000"), frame("0b77400f1f87c000"));
        assert_eq!(samples(&independent), Some(512));
        assert_eq!(samples(&[&independent[..], &dependent, &independent].concat()), Some(1024));
        assert_eq!(samples(&dependent), None);
        assert_eq!(audio(&dependent).unwrap_err().code(), "bad_media");
        assert_eq!(samples(&hex("0b77ef070c4043e1")), Some(1536));
        assert_eq!(samples(&[]), None);
    }

    #[test]
    fn refuses_what_is_malformed() {
        // Sync word, reserved rate, reserved size, bsid 17, reserved substream type, a frame shorter than a header.
        for frame in [
            "0b78ef070c4043e1",
            "0b77ef07cc4043e1",
            "0b77ef07264043e1",
            "0b77ef070c8843e1",
            "0b77c2ff3f87c000",
            "0b7700023f87c000",
            "0b77ef070c4043",
            "",
        ] {
            assert_eq!(Header::parse(&hex(frame)), None, "{frame}");
            assert_eq!(audio(&hex(frame)).unwrap_err().code(), "bad_media");
        }
        for record in ["d010c0", "1010", ""] {
            assert_eq!(audio_from_dac3(&hex(record)).unwrap_err().code(), "bad_media", "{record}");
        }
        for record in ["0c00200f", "0c00200f02", ""] {
            assert_eq!(audio_from_dec3(&hex(record)).unwrap_err().code(), "bad_media", "{record}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let frame = [&[0x0b, 0x77], &bytes[..]].concat();
            if let Some(header) = Header::parse(&frame) {
                prop_assert!(header.frame_length >= 8);
            }
            let _ = (audio(&frame), samples(&frame), samples(&bytes), audio_from_dac3(&bytes), audio_from_dec3(&bytes));
        }
    }
}
