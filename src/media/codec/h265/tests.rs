use proptest::prelude::*;

use super::*;
use crate::media::codec::bits::tests::hex;
use crate::media::{Chroma, Colour};

/// x265, Main 10, 200x200, 30 frames a second.
const VPS_10: &str = "40010c01ffff022000000300900000030000 03003c959809";
const SPS_10: &str = "420101022000000300900000030000 03003ca01920324d9656692 4caf016808000000300800000 0f04";
const PPS: &str = "4401c172b46240";
/// x265, Main, 1920x1080 cropped from 1088 lines, full range, BT.601 matrix, 30 frames a second.
const SPS_1080: &str =
    "420101016000000300900000030000030078a003c08010e5965669 24caf016e04040b48200000300020000 03003c10";
/// A hardware encoder's, Main, 7680x4320, BT.709, 59.94 frames a second by its container only.
const HVCC_8K: &str = "\
    010160000000000000000000b7f000fcfdf8f800000303a00001002140010c01 \
    ffff016000000300000300000300000300b72c0c05f5e1008f0d180140a10001 \
    002d420101016000000300000300000300000300b7a000f008004385a2d2bb04 \
    bb9a8080808202faf08047868c0010a20001000a4401c06670c8640cc640";

fn sets(sps: &str) -> ParameterSets {
    let nals = [hex(VPS_10), hex(sps), hex(PPS)];
    ParameterSets::from_nals(nals.iter().chain(&nals).map(Vec::as_slice))
}

#[test]
fn reads_ten_bits() {
    let video = sets(SPS_10).video().unwrap();
    assert_eq!((video.width, video.height), (200, 200));
    assert_eq!((video.bit_depth, video.chroma), (10, Chroma::C420));
    assert_eq!(video.codec_string, "hvc1.2.4.L60.90");
    assert_eq!((video.frame_rate, video.interlaced), (Some((30, 1)), false));
    assert_eq!(video.sample_aspect, (1, 1));
}

#[test]
fn reads_cropping_and_colour() {
    let video = sets(SPS_1080).video().unwrap();
    assert_eq!((video.width, video.height), (1920, 1080));
    assert_eq!(video.colour, Colour { primaries: 2, transfer: 2, matrix: 5, full_range: true });
    assert_eq!(video.codec_string, "hvc1.1.6.L120.90");
    assert_eq!(video.frame_rate, Some((30, 1)));
}

#[test]
fn reads_what_others_write() {
    let (sets, length_size) = ParameterSets::from_hvcc(&hex(HVCC_8K)).unwrap();
    assert_eq!((sets.vps.len(), sets.sps.len(), sets.pps.len(), length_size), (1, 1, 1, 4));
    let video = sets.video().unwrap();
    assert_eq!((video.width, video.height), (7680, 4320));
    assert_eq!((video.codec_string.as_str(), video.colour.matrix), ("hvc1.1.6.L183", 1));
}

#[test]
fn writes_what_it_reads() {
    // The record's head as ffmpeg writes it for this stream, with each array marked complete.
    let hvcc = sets(SPS_10).hvcc().unwrap();
    assert_eq!(hvcc[..22], hex("01022000000090000000 00003cf000fcfdfafa00000f"));
    assert_eq!(hvcc[22], 3);
    assert_eq!(hvcc[23..28], hex("a000010018"));
    let (again, length_size) = ParameterSets::from_hvcc(&hvcc).unwrap();
    assert_eq!((&again, length_size), (&sets(SPS_10), 4));
    assert_eq!(again.hvcc().unwrap(), hvcc);
}

#[test]
fn a_record_may_leave_the_sets_to_the_samples() {
    let (sets, length_size) = ParameterSets::from_hvcc(&hex("0101600000009000000000003ff000fcfdf8f800000f00")).unwrap();
    assert_eq!(length_size, 4);
    assert!(sets.sps.is_empty());
    assert_eq!(sets.video().unwrap_err().code(), "bad_media");
}

#[test]
fn cut_records_are_refused() {
    let whole = hex(HVCC_8K);
    for length in 0..whole.len() {
        assert_eq!(ParameterSets::from_hvcc(&whole[..length]).unwrap_err().code(), "bad_media");
    }
    let mut three_bytes = whole;
    three_bytes[21] = 2;
    assert!(ParameterSets::from_hvcc(&three_bytes).is_err());
}

#[test]
fn sets_of_other_layers_are_not_taken() {
    let mut second_layer = hex(SPS_10);
    second_layer[1] = 0x09;
    let nals = [&second_layer[..], &[0x42]];
    assert!(ParameterSets::from_nals(nals.into_iter()).sps.is_empty());
}

#[test]
fn tells_entry_points() {
    let unit = |kinds: &[u8]| {
        let nals: Vec<[u8; 3]> = kinds.iter().map(|kind| [kind << 1, 1, 0x80]).collect();
        annexb::to_length_prefixed(nals.iter().map(|nal| &nal[..]))
    };
    let cases: &[(&[u8], Sync)] = &[
        (&[32, 33, 34, 39, 19], Sync::Idr),
        (&[20], Sync::Idr),
        (&[16], Sync::Idr),
        (&[18, 18], Sync::Idr),
        (&[39, 21], Sync::OpenGop),
        (&[1], Sync::No),
        (&[9], Sync::No),
        (&[22], Sync::No),
        (&[32, 33, 34], Sync::No),
        (&[], Sync::No),
    ];
    for (kinds, expected) in cases {
        assert_eq!(sync(&unit(kinds)), *expected, "{kinds:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        sync(&bytes);
        let record = [&[1][..], &bytes].concat();
        let _ = ParameterSets::from_hvcc(&record).map(|(sets, _)| sets.video());
    }

    #[test]
    fn any_sps_is_read_or_refused(at in 2usize..60, tail in prop::collection::vec(any::<u8>(), 0..60)) {
        let mut sps = hex(SPS_1080);
        sps.truncate(at);
        sps.extend(tail);
        let sets = ParameterSets { vps: vec![], sps: vec![sps.into()], pps: vec![hex(PPS).into()] };
        if let Ok(video) = sets.video() {
            prop_assert!((1..=0xffff).contains(&video.width) && (1..=0xffff).contains(&video.height));
            let (again, _) = ParameterSets::from_hvcc(&video.config).unwrap();
            prop_assert_eq!(&again, &sets);
            prop_assert_eq!(again.hvcc().unwrap(), video.config);
        }
    }
}
