//! Static metadata of high dynamic range in the units themselves: SEI messages, AV1's metadata OBUs.

use super::bits::unescape;
use super::{annexb, av1, h264, h265};
use crate::media::{Hdr, Mastering, VideoCodec};

/// What a unit in the form of `AccessUnit::data` says; nothing where it is silent or malformed.
pub fn of_unit(codec: VideoCodec, unit: &[u8]) -> Hdr {
    const H264_SEI: u8 = 6;
    const H265_PREFIX_SEI: u8 = 39;
    match codec {
        VideoCodec::H264 => of_nals(unit, 1, |nal| h264::nal_type(nal) == Some(H264_SEI)),
        VideoCodec::H265 => of_nals(unit, 2, |nal| h265::nal_type(nal) == Some(H265_PREFIX_SEI)),
        VideoCodec::Av1 => av1::hdr(unit),
        VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Mpeg2 => Hdr::default(),
    }
}

impl Mastering {
    /// As in the box `mdcv` (ISO/IEC 14496-12 12.1.6) and in the SEI message (ISO/IEC 23008-2 D.2.28).
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 24] = bytes.first_chunk()?;
        let short = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let long = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let point = |at: usize| (short(at), short(at + 2));
        let primaries = [point(0), point(4), point(8)];
        Some(Self { primaries, white: point(12), brightest: long(16), darkest: long(20) })
    }

    /// [`Self::from_bytes`] backwards.
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        let points = self.primaries.into_iter().chain([self.white]).flat_map(|(x, y)| [x, y]);
        let shorts = points.flat_map(u16::to_be_bytes);
        let longs = [self.brightest, self.darkest].into_iter().flat_map(u32::to_be_bytes);
        for (byte, value) in bytes.iter_mut().zip(shorts.chain(longs)) {
            *byte = value;
        }
        bytes
    }

    /// From points in fractions of one and candelas a square metre; red, green, blue. None where one is no such number.
    pub fn from_fractions(
        [red, green, blue]: [(f64, f64); 3],
        white: (f64, f64),
        brightest: f64,
        darkest: f64,
    ) -> Option<Self> {
        let part = |n: f64| (0.0..=1.0).contains(&n).then(|| (n * 50_000.0).round() as u16);
        let point = |(x, y): (f64, f64)| Some((part(x)?, part(y)?));
        let light = |n: f64| (0.0..=100_000.0).contains(&n).then(|| (n * 10_000.0).round() as u32);
        Some(Self {
            primaries: [point(green)?, point(blue)?, point(red)?],
            white: point(white)?,
            brightest: light(brightest)?,
            darkest: light(darkest)?,
        })
    }
}

/// MaxCLL and MaxFALL as in the box `clli` and in the SEI message; none where both are 0, which is "unknown".
pub fn light(bytes: &[u8]) -> Option<(u16, u16)> {
    let [a, b, c, d, ..] = *bytes else { return None };
    Some((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))).filter(|light| *light != (0, 0))
}

fn of_nals(unit: &[u8], header: usize, is_sei: impl Fn(&[u8]) -> bool) -> Hdr {
    let mut hdr = Hdr::default();
    for nal in annexb::length_prefixed(unit).filter(|nal| is_sei(nal)) {
        let plain = unescape(nal.get(header..).unwrap_or_default());
        messages(&plain, &mut hdr);
    }
    hdr
}

/// sei_rbsp (ISO/IEC 23008-2 7.3.5, ISO/IEC 14496-10 7.3.2.3.1), as far as it is whole.
fn messages(mut rest: &[u8], hdr: &mut Hdr) {
    const MASTERING: usize = 137;
    const LIGHT: usize = 144;
    // What follows the last message is a byte of 0x80.
    while rest.len() > 2 {
        let (Some(kind), Some(size)) = (number(&mut rest), number(&mut rest)) else { return };
        let Some((payload, more)) = rest.split_at_checked(size) else { return };
        match kind {
            MASTERING => hdr.mastering = Mastering::from_bytes(payload).or(hdr.mastering),
            LIGHT => hdr.light = light(payload).or(hdr.light),
            _ => {}
        }
        rest = more;
    }
}

/// Bytes of 255, and one that is less, added up.
fn number(rest: &mut &[u8]) -> Option<usize> {
    let mut sum = 0usize;
    loop {
        let (&byte, more) = rest.split_first()?;
        *rest = more;
        sum += usize::from(byte);
        if byte != 255 {
            return Some(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::media::codec::bits::tests::hex;

    /// As x265 writes it for `master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)L(10000000,50)`.
    const MASTERING: &str = "33c2 86c4 1d4c 0bb8 84d0 3e80 3d13 4042 00989680 00000032";

    fn bt2020() -> Mastering {
        Mastering {
            primaries: [(13_250, 34_500), (7_500, 3_000), (34_000, 16_000)],
            white: (15_635, 16_450),
            brightest: 10_000_000,
            darkest: 50,
        }
    }

    fn prefixed(nal: &[u8]) -> Vec<u8> {
        [&(nal.len() as u32).to_be_bytes()[..], nal].concat()
    }

    #[test]
    fn metadata_is_found_among_other_messages() {
        let mastering = hex(MASTERING);
        assert_eq!(Mastering::from_bytes(&mastering), Some(bt2020()));
        assert_eq!(bt2020().to_bytes()[..], mastering);
        // 0 0 0 0x32 at the end needs an emulation prevention byte.
        let escaped = hex("33c2 86c4 1d4c 0bb8 84d0 3e80 3d13 4042 00989680 00000332 ");
        let escaped = [&escaped[..22], &[3, 0, 0x32]].concat();
        let messages = [hex("05 02 aabb 89 18"), escaped, hex("90 04 03e8 0190 80")].concat();
        let expected = Hdr { mastering: Some(bt2020()), light: Some((1000, 400)) };
        assert_eq!(of_unit(VideoCodec::H265, &prefixed(&[hex("4e01"), messages.clone()].concat())), expected);
        assert_eq!(of_unit(VideoCodec::H264, &prefixed(&[hex("06"), messages.clone()].concat())), expected);
        assert_eq!(of_unit(VideoCodec::H264, &prefixed(&[hex("05"), messages].concat())), Hdr::default());
    }

    #[test]
    fn metadata_obus_are_read_in_their_own_units() {
        // OBU 5 with a size: metadata_type 1 is light; 2 is mastering, red first, 0.16, 24.8 and 18.14 fixed point.
        let light = hex("2a 06 01 03e8 0190 80");
        let red_first = "ae14 51ec  43d7 b0a4  2666 0f5c  500e 5439";
        let mastering = [hex("2a 1a 02"), hex(red_first), hex("0003e800 00000052 80")].concat();
        let read = of_unit(VideoCodec::Av1, &[light, mastering].concat());
        assert_eq!(read.light, Some((1000, 400)));
        let mastering = read.mastering.unwrap();
        let near = |a: (u16, u16), b: (u16, u16)| a.0.abs_diff(b.0) <= 1 && a.1.abs_diff(b.1) <= 1;
        assert!(mastering.primaries.iter().zip(bt2020().primaries).all(|(a, b)| near(*a, b)), "{mastering:?}");
        assert!(near(mastering.white, bt2020().white), "{mastering:?}");
        assert_eq!((mastering.brightest, mastering.darkest), (10_000_000, 50));
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            for codec in [VideoCodec::H264, VideoCodec::H265, VideoCodec::Av1] {
                let sei = [hex("4e01").as_slice(), &bytes].concat();
                let _ = (of_unit(codec, &bytes), of_unit(codec, &prefixed(&sei)));
            }
        }
    }
}
