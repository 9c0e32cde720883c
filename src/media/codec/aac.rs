//! AAC (ISO/IEC 14496-3): AudioSpecificConfig, ADTS.
//!
//! Read are the object types that hold plain AAC frames (Main, LC, LTP), with or without SBR and PS on top; the
//! low-delay, scalable and error-resilient ones are refused by name.
//!
//! SBR may be there without a word in the set-up ("implicit signalling", 1.6.5): then a frame itself tells it.

mod block;
mod codewords;

use bytes::Bytes;

use super::bits::Bits;
use crate::media::{Audio, AudioCodec, Error};

/// One ADTS frame's header (ISO/IEC 14496-3 1.A.2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adts {
    /// 7, or 9 with a CRC.
    pub header_length: usize,
    /// Header included.
    pub frame_length: usize,
    /// The AudioSpecificConfig that says the same.
    pub config: [u8; 2],
}

impl Adts {
    /// None where `data` does not start with a well-formed ADTS header (needs 7 bytes). Frames of several raw data
    /// blocks, which nobody makes, count as malformed.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let [0xff, sync, b2, b3, b4, b5, b6, ..] = *data else { return None };
        // Sync word and layer 0.
        if sync & 0xf6 != 0xf0 {
            return None;
        }
        let header_length = if sync & 1 == 1 { 7 } else { 9 };
        let (object_type, frequency_index) = ((b2 >> 6) + 1, b2 >> 2 & 0xf);
        let channels = (b2 & 1) << 2 | b3 >> 6;
        let frame_length = usize::from(b3 & 3) << 11 | usize::from(b4) << 3 | usize::from(b5 >> 5);
        let more_blocks = b6 & 3;
        let known = usize::from(frequency_index) < FREQUENCIES.len();
        if !known || frame_length <= header_length || more_blocks != 0 {
            return None;
        }
        let config = u16::from(object_type) << 11 | u16::from(frequency_index) << 7 | u16::from(channels) << 3;
        Some(Self { header_length, frame_length, config: config.to_be_bytes() })
    }
}

/// All that an AudioSpecificConfig says (ISO/IEC 14496-3 1.6.2.1). With SBR and PS told in it, rate and channels are
/// those that come out.
pub fn audio(config: &[u8]) -> Result<Audio, Error> {
    let parsed = Config::parse(config)?;
    let object_type = match (parsed.parametric_stereo, parsed.output_rate) {
        (true, _) => OBJECT_PS,
        (false, Some(_)) => OBJECT_SBR,
        (false, None) => parsed.object_type,
    };
    Ok(Audio {
        codec: AudioCodec::Aac,
        config: Bytes::copy_from_slice(config),
        codec_string: format!("mp4a.40.{object_type}"),
        sample_rate: parsed.output_rate.unwrap_or(parsed.core_rate),
        channels: if parsed.parametric_stereo { 2 } else { parsed.channels },
    })
}

/// The ADTS header for a raw frame of `payload` bytes. Refused is what ADTS can't say: channels described in the
/// stream, rates off the table, frames of 8 KiB.
pub fn adts_header(config: &[u8], payload: usize) -> Result<[u8; 7], Error> {
    let parsed = Config::parse(config)?;
    let unsaid = |what: &str| Error::UnsupportedCodec(format!("AAC in ADTS with {what}"));
    let frequency = FREQUENCIES.iter().position(|rate| *rate == parsed.core_rate);
    let frequency = frequency.ok_or_else(|| unsaid("a sampling frequency off the table"))? as u32;
    let channels = match parsed.channel_configuration {
        channels @ 1..=7 => u32::from(channels),
        _ => return Err(unsaid("this channel configuration")),
    };
    if parsed.frame_samples != 1024 {
        return Err(unsaid("frames of 960 samples"));
    }
    let length = u32::try_from(payload).ok().and_then(|payload| payload.checked_add(7)).filter(|n| *n < 1 << 13);
    let length = length.ok_or_else(|| Error::bad(format!("an AAC frame of {payload} bytes")))?;
    // Sync word, MPEG-4, layer 0, no CRC; then 28 bits that change; then the fullness of a variable rate.
    let fixed = (u32::from(parsed.object_type) - 1) << 14 | frequency << 10 | channels << 6;
    let [_, _, profile, channels] = fixed.to_be_bytes();
    let [_, high, middle, low] = (length << 5).to_be_bytes();
    Ok([0xff, 0xf1, profile, channels | high, middle, low | 0x1f, 0xfc])
}

/// Samples in each access unit as coded (without SBR): 1024 or 960; 1024 where the configuration can't be read.
pub fn frame_samples(config: &[u8]) -> u32 {
    Config::parse(config).map_or(1024, |config| config.frame_samples)
}

/// Samples that come out for each access unit, at the rate that comes out: SBR doubles them.
pub fn decoded_samples(config: &[u8]) -> u32 {
    Config::parse(config).map_or(1024, |config| match config.output_rate {
        Some(rate) if rate == config.core_rate.saturating_mul(2) => 2 * config.frame_samples,
        _ => config.frame_samples,
    })
}

/// Whether frames may hold SBR of which `config` says nothing: AAC-LC at a rate that SBR doubles, and no word that there
/// is none.
pub fn may_hold_sbr(config: &[u8]) -> bool {
    let mut bits = Bits::new(config);
    let Ok(core) = Config::core(&mut bits) else { return false };
    let plain = core.object_type == OBJECT_LC && core.output_rate.is_none() && core.frame_samples == 1024;
    plain && block::is_read(core.core_rate) && bits.read(11) != Ok(SYNC_SBR)
}

/// Whether a frame of a stream that [`may_hold_sbr`] holds it; None where the frame can't be read.
pub fn holds_sbr(config: &[u8], frame: &[u8]) -> Option<bool> {
    let core = Config::parse(config).ok()?;
    block::holds_sbr(core.core_rate, frame).ok()
}

/// `config` with the SBR told that it says nothing of, behind it (1.6.6.2), so that also old decoders read it. Of one
/// channel PS is told too: only SBR data tells whether it is there, and where it isn't, both channels are alike.
pub fn with_sbr(config: &[u8]) -> Result<Bytes, Error> {
    let mut bits = Bits::new(config);
    let core = Config::core(&mut bits)?;
    let mut written = Vec::new();
    let mut own = Bits::new(config);
    for _ in 0..bits.position() {
        written.push(own.flag()?);
    }
    let mut write = |value: u32, width: u32| written.extend((0..width).rev().map(|n| value >> n & 1 == 1));
    write(SYNC_SBR, 11);
    write(OBJECT_SBR.into(), 5);
    write(1, 1);
    let rate = 2 * core.core_rate;
    match FREQUENCIES.iter().position(|known| *known == rate) {
        Some(index) => write(index as u32, 4),
        None => [(0xf, 4), (rate, 24)].into_iter().for_each(|(value, width)| write(value, width)),
    }
    if core.channels == 1 {
        write(SYNC_PS, 11);
        write(1, 1);
    }
    let byte = |bits: &[bool]| bits.iter().enumerate().fold(0, |sum, (n, bit)| sum | u8::from(*bit) << (7 - n));
    Ok(written.chunks(8).map(byte).collect())
}

/// Bits of the AudioSpecificConfig that begins at `bits` and is not told its length: nothing can be told behind it.
/// Refused where the channels are described in it, which hangs on how its bytes lie.
pub(super) fn in_place(mut bits: Bits<'_>) -> Result<usize, Error> {
    let before = bits.remaining();
    let mut head = bits.clone();
    object_type(&mut head)?;
    frequency(&mut head)?;
    if head.byte::<4>()? == 0 {
        return Err(Error::UnsupportedCodec("AAC in LATM with its channels described in the stream".into()));
    }
    Config::core(&mut bits)?;
    Ok(before - bits.remaining())
}

/// AudioSpecificConfig of AAC-LC.
pub fn low_complexity(sample_rate: u32, channels: u16) -> Result<Bytes, Error> {
    let unsaid = || Error::UnsupportedCodec(format!("AAC with {channels} channels at {sample_rate} Hz"));
    let configuration = CHANNELS.iter().position(|n| *n == channels && channels > 0).ok_or_else(unsaid)? as u64;
    if !(1..1 << 24).contains(&sample_rate) {
        return Err(unsaid());
    }
    Ok(match FREQUENCIES.iter().position(|rate| *rate == sample_rate) {
        Some(index) => {
            let config = (u64::from(OBJECT_LC) << 11) | (index as u64) << 7 | configuration << 3;
            Bytes::copy_from_slice(&(config as u16).to_be_bytes())
        }
        None => {
            let config = u64::from(OBJECT_LC) << 35 | 0xf << 31 | u64::from(sample_rate) << 7 | configuration << 3;
            Bytes::copy_from_slice(config.to_be_bytes().get(3..).unwrap_or_default())
        }
    })
}

/// ISO/IEC 14496-3 table 1.18.
const FREQUENCIES: [u32; 13] =
    [96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000, 7_350];

/// ISO/IEC 14496-3 table 1.19; 0 where reserved or told elsewhere.
const CHANNELS: [u16; 16] = [0, 1, 2, 3, 4, 5, 6, 8, 0, 0, 0, 7, 8, 24, 8, 0];

// Audio object types, ISO/IEC 14496-3 table 1.17.
const OBJECT_MAIN: u8 = 1;
const OBJECT_LC: u8 = 2;
const OBJECT_LTP: u8 = 4;
const OBJECT_SBR: u8 = 5;
const OBJECT_PS: u8 = 29;

// Before what is told behind a configuration (1.6.2.1).
const SYNC_SBR: u32 = 0x2b7;
const SYNC_PS: u32 = 0x548;

/// An AudioSpecificConfig, read.
#[derive(Debug, PartialEq, Eq)]
struct Config {
    /// Of the core, below SBR and PS.
    object_type: u8,
    core_rate: u32,
    /// With SBR.
    output_rate: Option<u32>,
    parametric_stereo: bool,
    channel_configuration: u8,
    /// Of the core.
    channels: u16,
    frame_samples: u32,
}

impl Config {
    fn parse(config: &[u8]) -> Result<Self, Error> {
        let mut bits = Bits::new(config);
        let mut parsed = Self::core(&mut bits)?;
        if parsed.output_rate.is_none()
            && let Ok((rate, stereo)) = extension(&mut bits)
        {
            (parsed.output_rate, parsed.parametric_stereo) = (rate, stereo);
        }
        // PS makes two channels of one; with any other number it is not there, whatever the configuration says.
        parsed.parametric_stereo &= parsed.channels == 1;
        Ok(parsed)
    }

    /// Without what may be told behind it.
    fn core(bits: &mut Bits<'_>) -> Result<Self, Error> {
        let mut object_type = object_type(bits)?;
        let core_rate = frequency(bits)?;
        let channel_configuration = bits.byte::<4>()?;
        let parametric_stereo = object_type == OBJECT_PS;
        let mut output_rate = None;
        if matches!(object_type, OBJECT_SBR | OBJECT_PS) {
            output_rate = Some(frequency(bits)?);
            object_type = self::object_type(bits)?;
        }
        if !matches!(object_type, OBJECT_MAIN | OBJECT_LC | OBJECT_LTP) {
            return Err(Error::UnsupportedCodec(format!("AAC object type {object_type}")));
        }
        // GASpecificConfig (4.4.1).
        let frame_samples = if bits.flag()? { 960 } else { 1024 };
        if bits.flag()? {
            bits.skip(14)?; // coreCoderDelay
        }
        bits.skip(1)?; // extensionFlag
        let channels = match channel_configuration {
            0 => program_channels(bits)?,
            index => CHANNELS.get(usize::from(index)).copied().unwrap_or(0),
        };
        if channels == 0 {
            return Err(Error::bad(format!("AAC channel configuration {channel_configuration}")));
        }
        Ok(Self {
            object_type,
            core_rate,
            output_rate,
            parametric_stereo,
            channel_configuration,
            channels,
            frame_samples,
        })
    }
}

/// audioObjectType (1.6.2.1, GetAudioObjectType).
fn object_type(bits: &mut Bits<'_>) -> Result<u8, Error> {
    match bits.byte::<5>()? {
        31 => Ok(32 + bits.byte::<6>()?),
        kind => Ok(kind),
    }
}

/// samplingFrequencyIndex, and samplingFrequency where that escapes to it.
fn frequency(bits: &mut Bits<'_>) -> Result<u32, Error> {
    let rate = match bits.byte::<4>()? {
        0xf => bits.read(24)?,
        index => FREQUENCIES.get(usize::from(index)).copied().unwrap_or(0),
    };
    if rate == 0 {
        return Err(Error::bad("AAC with a reserved sampling frequency"));
    }
    Ok(rate)
}

/// SBR and PS told behind the configuration, where old decoders don't look (1.6.6.2): the rate that comes out, and
/// whether there is PS. An error where nothing is told.
fn extension(bits: &mut Bits<'_>) -> Result<(Option<u32>, bool), Error> {
    // Nearly always there is nothing, and no error is worth its text.
    if bits.remaining() < 11 || bits.read(11)? != SYNC_SBR || object_type(bits)? != OBJECT_SBR || !bits.flag()? {
        return Ok((None, false));
    }
    let rate = frequency(bits)?;
    let stereo = bits.remaining() >= 12 && bits.read(11)? == SYNC_PS && bits.flag()?;
    Ok((Some(rate), stereo))
}

/// The channels of a program_config_element (4.4.1.1), which is read to its end.
fn program_channels(bits: &mut Bits<'_>) -> Result<u16, Error> {
    if bits.remaining() < 8 {
        return Err(Error::UnsupportedCodec("AAC with its channels described in the stream".into()));
    }
    bits.skip(4 + 2 + 4)?; // element_instance_tag, object_type, sampling_frequency_index
    let [front, side, back] = [bits.read(4)?, bits.read(4)?, bits.read(4)?];
    let [low_frequency, data, coupling] = [bits.read(2)?, bits.read(3)?, bits.read(4)?];
    for width in [4, 4, 3] {
        // mono, stereo and matrix mixdown
        if bits.flag()? {
            bits.skip(width)?;
        }
    }
    let mut channels = low_frequency as u16;
    for _ in 0..front + side + back {
        channels += if bits.flag()? { 2 } else { 1 };
        bits.skip(4)?; // element_tag_select
    }
    bits.skip((4 * low_frequency + 4 * data + 5 * coupling) as usize)?;
    bits.align();
    let comment = bits.read(8)?;
    bits.skip(8 * comment as usize)?;
    Ok(channels)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::codec::bits::tests::hex;

    #[test]
    fn reads_configurations() {
        // config, string, rate, channels, samples coded, samples decoded
        let cases = [
            ("1190", "mp4a.40.2", 48_000, 2, 1024, 1024),
            ("11b0", "mp4a.40.2", 48_000, 6, 1024, 1024),
            ("121056e500", "mp4a.40.2", 44_100, 2, 1024, 1024),
            ("1194", "mp4a.40.2", 48_000, 2, 960, 960),
            // An explicit frequency of 50 kHz.
            ("17806 1a810", "mp4a.40.2", 50_000, 2, 1024, 1024),
            // HE-AAC, hierarchical: 24 kHz core, 48 kHz out.
            ("2b118800", "mp4a.40.5", 48_000, 2, 1024, 2048),
            // HE-AAC, told behind: LC 24 kHz stereo, 48 kHz out.
            ("131056e598", "mp4a.40.5", 48_000, 2, 1024, 2048),
            // The same with PS: LC 24 kHz mono.
            ("130856e59d4880", "mp4a.40.29", 48_000, 2, 1024, 2048),
            // HE-AAC v2, hierarchical: 22.05 kHz mono core.
            ("eb8a0800", "mp4a.40.29", 44_100, 2, 1024, 2048),
            // 7.1 of configuration 7.
            ("11b8", "mp4a.40.2", 48_000, 8, 1024, 1024),
        ];
        for (config, codec_string, rate, channels, coded, decoded) in cases {
            let config = hex(config);
            let audio = audio(&config).unwrap_or_else(|e| panic!("{config:x?}: {e}"));
            assert_eq!(
                (audio.codec_string.as_str(), audio.sample_rate, audio.channels),
                (codec_string, rate, channels),
                "{config:x?}"
            );
            assert_eq!(audio.config, config);
            assert_eq!((frame_samples(&config), decoded_samples(&config)), (coded, decoded), "{config:x?}");
        }
    }

    /// As libfdk-aac writes it at 32 and 24 kb/s, in ADTS.
    const STEREO: &[u8] = include_bytes!("../../../tests/clips/he-aac.aac");
    const PARAMETRIC: &[u8] = include_bytes!("../../../tests/clips/he-aac-v2.aac");

    fn frames(mut stream: &[u8]) -> Vec<([u8; 2], &[u8])> {
        let mut frames = Vec::new();
        while let Some(adts) = Adts::parse(stream) {
            let (frame, rest) = stream.split_at(adts.frame_length);
            frames.push((adts.config, &frame[adts.header_length..]));
            stream = rest;
        }
        frames
    }

    #[test]
    fn sbr_that_is_not_told_is_found_in_each_frame() {
        for (stream, told, rate) in [(STEREO, "mp4a.40.5", 48_000), (PARAMETRIC, "mp4a.40.29", 44_100)] {
            let frames = frames(stream);
            assert!(frames.len() > 60);
            for (config, frame) in frames {
                assert!(may_hold_sbr(&config));
                assert_eq!(audio(&config).unwrap().codec_string, "mp4a.40.2");
                assert_eq!(holds_sbr(&config, frame), Some(true));
                let explicit = with_sbr(&config).unwrap();
                let audio = audio(&explicit).unwrap();
                assert_eq!((audio.codec_string.as_str(), audio.sample_rate, audio.channels), (told, rate, 2));
                assert_eq!(decoded_samples(&explicit), 2048);
                assert!(!may_hold_sbr(&explicit));
            }
        }
    }

    #[test]
    fn what_is_told_is_not_asked_again() {
        let ambiguous = ["1310", "1388", "1590", "1308"];
        let told = ["131056e500", "131056e598", "2b118800", "1210", "1190", "1314", "1390 56e5 98", "0b10"];
        assert!(ambiguous.iter().all(|config| may_hold_sbr(&hex(config))));
        assert!(told.iter().all(|config| !may_hold_sbr(&hex(config))), "also other rates, lengths and objects");
        // 7350 Hz doubled is off the table.
        assert_eq!(audio(&with_sbr(&hex("1610")).unwrap()).unwrap().sample_rate, 14_700);
    }

    #[test]
    fn counts_the_channels_of_a_program() {
        // As ffmpeg writes it for 4 channels in the layout "quad" (front pair, back pair), 48 kHz.
        let audio = audio(&hex("118004c4040021100d4c61766335392e33372e31303056e500")).unwrap();
        assert_eq!((audio.sample_rate, audio.channels), (48_000, 4));
    }

    #[test]
    fn refuses_what_is_not_read_here() {
        let code = |config: &str| audio(&hex(config)).unwrap_err().code();
        assert_eq!(code(""), "bad_media");
        assert_eq!(code("11"), "bad_media");
        assert_eq!(code("1690"), "bad_media", "a reserved frequency");
        assert_eq!(code("1740"), "bad_media", "a reserved frequency");
        assert_eq!(code("11c0"), "bad_media", "a reserved channel configuration");
        assert_eq!(code("1180"), "unsupported_codec", "channels described in the stream");
        assert_eq!(code("f8e85000"), "unsupported_codec", "ELD");
    }

    #[test]
    fn adts_headers_there_and_back() {
        for (config, rate) in [("1210", 44_100), ("11b0", 48_000), ("2b118800", 24_000)] {
            let header = adts_header(&hex(config), 371).unwrap();
            let adts = Adts::parse(&header).unwrap();
            assert_eq!((adts.header_length, adts.frame_length), (7, 378));
            assert_eq!(audio(&adts.config).unwrap().sample_rate, rate);
            assert_eq!(audio(&adts.config).unwrap().channels, audio(&hex(config)).unwrap().channels);
        }
        assert!(adts_header(&hex("1210"), 8191 - 7).is_ok());
        assert!(adts_header(&hex("1210"), 8192 - 7).is_err());
        assert!(adts_header(&hex("1210"), usize::MAX).is_err());
    }

    #[test]
    fn reads_adts_of_a_real_stream() {
        // hevc-1080p24.ts: 48 kHz 5.1.
        let adts = Adts::parse(&hex("fff14d80039ffc")).unwrap();
        assert_eq!((adts.header_length, adts.frame_length), (7, 28));
        assert_eq!(adts.config[..], hex("11b0"));
        let with_crc = Adts::parse(&hex("fff04d8033bffc")).unwrap();
        assert_eq!(with_crc.header_length, 9);
    }

    #[test]
    fn refuses_malformed_adts() {
        for malformed in
            ["fff14d8033bf", "fef14d8033bffc", "fff34d8033bffc", "fff1758033bffc", "fff14d8000fffc", "fff14d8033bffd"]
        {
            assert_eq!(Adts::parse(&hex(malformed)), None, "{malformed}");
        }
    }

    #[test]
    fn makes_low_complexity_configurations() {
        assert_eq!(low_complexity(48_000, 2).unwrap(), hex("1190"));
        assert_eq!(low_complexity(44_100, 6).unwrap(), hex("1230"));
        let odd = audio(&low_complexity(50_000, 8).unwrap()).unwrap();
        assert_eq!((odd.sample_rate, odd.channels), (50_000, 8));
        for (rate, channels) in [(48_000, 0), (48_000, 9), (0, 2), (1 << 24, 2)] {
            assert!(low_complexity(rate, channels).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (audio(&bytes), decoded_samples(&bytes), adts_header(&bytes, bytes.len()), Adts::parse(&bytes));
            let _ = (may_hold_sbr(&bytes), with_sbr(&bytes));
        }

        #[test]
        fn damaged_frames_are_read_or_refused(
            at in 0usize..60,
            damage in prop::collection::vec((0usize..200, any::<u8>()), 0..8),
            length in 0usize..300,
        ) {
            let (config, frame) = frames(STEREO)[at];
            let mut frame = frame[..length.min(frame.len())].to_vec();
            for (place, byte) in damage {
                if let Some(old) = frame.get_mut(place) {
                    *old = byte;
                }
            }
            let _ = holds_sbr(&config, &frame);
        }

        #[test]
        fn low_complexity_says_what_it_was_told(rate in 1u32..1 << 24, channels in 1u16..7) {
            let audio = audio(&low_complexity(rate, channels).unwrap()).unwrap();
            prop_assert_eq!((audio.sample_rate, audio.channels), (rate, channels));
        }
    }
}
