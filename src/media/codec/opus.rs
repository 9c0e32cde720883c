//! Opus (RFC 6716, RFC 7845; "Encapsulation of Opus in ISO Base Media File Format" for dOps).
//!
//! dOps and OpusHead hold the same fields, dOps in big-endian and OpusHead in little-endian order.

use bytes::{BufMut, Bytes, BytesMut};

use crate::media::{Audio, AudioCodec, Error};

/// From a dOps payload.
pub fn audio_from_dops(dops: &[u8]) -> Result<Audio, Error> {
    let [0, channels, _, _, _, _, _, _, _, _, family, mapping @ ..] = dops else {
        return Err(Error::bad("dOps is short or not of version 0"));
    };
    audio(*channels, *family, mapping, |config| config.put_slice(dops.get(2..10).unwrap_or_default()))
}

/// From OpusHead (RFC 7845 5.1), as Matroska's CodecPrivate holds it; `Audio::config` is dOps.
pub fn audio_from_opus_head(head: &[u8]) -> Result<Audio, Error> {
    let [b'O', b'p', b'u', b's', b'H', b'e', b'a', b'd', version, channels, fields @ ..] = head else {
        return Err(Error::bad("OpusHead is short or misnamed"));
    };
    // RFC 7845 5.1: the upper half of the version tells incompatible changes.
    let [skip0, skip1, rate0, rate1, rate2, rate3, gain0, gain1, family, mapping @ ..] = fields else {
        return Err(Error::bad("OpusHead is short"));
    };
    if *version >= 16 {
        return Err(Error::UnsupportedCodec(format!("OpusHead of version {version}")));
    }
    let swapped = [*skip1, *skip0, *rate3, *rate2, *rate1, *rate0, *gain1, *gain0];
    audio(*channels, *family, mapping, |config| config.put_slice(&swapped))
}

/// A dOps payload for one or two channels.
pub fn dops(channels: u16, pre_skip: u16, input_sample_rate: u32) -> Bytes {
    let mut dops = BytesMut::with_capacity(11);
    dops.put_slice(&[0, channels.clamp(1, 2) as u8]);
    dops.put_u16(pre_skip);
    dops.put_u32(input_sample_rate);
    dops.put_slice(&[0, 0, 0]); // output gain, mapping family
    dops.freeze()
}

/// Samples at 48 kHz in a packet (RFC 6716 3.1); None where it is malformed.
pub fn samples(packet: &[u8]) -> Option<u32> {
    let toc = *packet.first()?;
    let frame = match toc >> 3 {
        silk @ 0..12 => [480, 960, 1920, 2880][usize::from(silk & 3)],
        hybrid @ 12..16 => [480, 960][usize::from(hybrid & 1)],
        celt => 120 << (celt & 3),
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 0x3f),
    };
    // 120 ms at most (RFC 6716 3.2.5).
    Some(frame * frames).filter(|samples| (1..=5760).contains(samples))
}

/// Checks the channel mapping (RFC 7845 5.1.1) and makes dOps; `fields` puts pre-skip, rate and gain.
fn audio(channels: u8, family: u8, mapping: &[u8], fields: impl FnOnce(&mut BytesMut)) -> Result<Audio, Error> {
    let mut config = BytesMut::with_capacity(21);
    config.put_slice(&[0, channels]);
    fields(&mut config);
    config.put_u8(family);
    match (family, channels) {
        (0, 1 | 2) => {}
        (1, 1..=8) => config.put_slice(checked_mapping(channels, mapping)?),
        (0 | 1, _) => return Err(Error::bad(format!("Opus with {channels} channels"))),
        _ => return Err(Error::UnsupportedCodec(format!("Opus with channel mapping family {family}"))),
    }
    Ok(Audio {
        codec: AudioCodec::Opus,
        config: config.freeze(),
        codec_string: "opus".into(),
        sample_rate: 48_000,
        channels: channels.into(),
    })
}

/// Stream count, coupled count and one byte a channel.
fn checked_mapping(channels: u8, table: &[u8]) -> Result<&[u8], Error> {
    let table = table.get(..2 + usize::from(channels)).ok_or_else(|| Error::bad("an Opus channel mapping is short"))?;
    if let [streams, coupled, mapping @ ..] = table
        && (1..=255 - coupled).contains(streams)
        && coupled <= streams
        && mapping.iter().all(|index| *index == 255 || *index < streams + coupled)
    {
        return Ok(table);
    }
    Err(Error::bad("an Opus channel mapping contradicts itself"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::codec::bits::tests::hex;

    /// From ffmpeg: 1 channel, pre-skip 312, 12 kHz before encoding.
    const HEAD: &str = "4f70757348656164 01 01 3801 e02e0000 0000 00";
    const HEAD_5_1: &str = "4f70757348656164 01 06 3801 80bb0000 0000 01 04 02 000401020305";

    #[test]
    fn turns_the_byte_order_around() {
        let audio = audio_from_opus_head(&hex(HEAD)).unwrap();
        assert_eq!(audio.config, hex("00 01 0138 00002ee0 0000 00"));
        assert_eq!((audio.codec_string.as_str(), audio.sample_rate, audio.channels), ("opus", 48_000, 1));
        assert_eq!(audio_from_dops(&audio.config), Ok(audio));
    }

    #[test]
    fn keeps_the_mapping_of_more_channels() {
        let audio = audio_from_opus_head(&hex(HEAD_5_1)).unwrap();
        assert_eq!(audio.config, hex("00 06 0138 0000bb80 0000 01 04 02 000401020305"));
        assert_eq!(audio.channels, 6);
        assert_eq!(audio_from_dops(&audio.config), Ok(audio));
    }

    #[test]
    fn what_is_written_is_read() {
        let audio = audio_from_dops(&dops(2, 312, 48_000)).unwrap();
        assert_eq!((audio.channels, audio.config), (2, hex("00 02 0138 0000bb80 0000 00").into()));
    }

    #[test]
    fn refuses_contradictions() {
        for bad in [
            "00 03 0138 0000bb80 0000 00",                    // three channels without a mapping
            "00 00 0138 0000bb80 0000 00",                    // none
            "00 06 0138 0000bb80 0000 01 04 02 0004010203",   // a short mapping
            "00 06 0138 0000bb80 0000 01 04 02 000401020306", // a channel that is not there
            "00 06 0138 0000bb80 0000 01 02 04 000401020305", // more coupled streams than streams
            "00 02 0138 0000bb80 0000 01 ff ff 0001",         // more than 255 channels
            "01 02 0138 0000bb80 0000 00",                    // another version
            "00 02 0138 0000bb80 0000",
            "",
        ] {
            assert_eq!(audio_from_dops(&hex(bad)).unwrap_err().code(), "bad_media", "{bad}");
        }
        assert_eq!(
            audio_from_dops(&hex("00 02 0138 0000bb80 0000 ff 02 00 0001")).unwrap_err().code(),
            "unsupported_codec"
        );
    }

    #[test]
    fn counts_samples() {
        let cases = [
            (&[0xfc, 0][..], Some(960)), // CELT, 20 ms, one frame
            (&[0xe0], Some(120)),        // CELT, 2.5 ms
            (&[0x18], Some(2880)),       // SILK, 60 ms
            (&[0x68, 1], Some(960)),     // hybrid, 20 ms
            (&[0xfd, 0], Some(1920)),    // two frames
            (&[0xff, 0x83], Some(2880)), // three frames
            (&[0x1b, 0x02], Some(5760)), // 120 ms, the most
            (&[0x1b, 0x03], None),       // more than that
            (&[0xff, 0x80], None),       // no frames
            (&[0xff], None),
            (&[], None),
        ];
        for (packet, samples) in cases {
            assert_eq!(super::samples(packet), samples, "{packet:x?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = (audio_from_dops(&bytes), samples(&bytes));
            let _ = audio_from_opus_head(&[b"OpusHead", &bytes[..]].concat());
        }
    }
}
