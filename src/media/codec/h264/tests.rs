use proptest::prelude::*;

use super::*;
use crate::media::Colour;
use crate::media::codec::bits::tests::hex;

/// x264, High, 640x360, sample aspect ratio 2:1, 30 frames a second.
const HIGH: &str = "0164001effe1001a6764001eacd940a02ff9710100000300010000030 03c0f162d960100 0668ebe3cb22c0fdf8f800";
/// The same stream's configuration as writers make it that leave the tail bytes out.
const HIGH_WITHOUT_TAIL: &str =
    "0164001effe1001a6764001eacd940a02ff9710100000300010000030 03c0f162d960100 0668ebe3cb22c0";

fn video(avcc: &str) -> Video {
    ParameterSets::from_avcc(&hex(avcc)).unwrap().0.video().unwrap()
}

#[test]
fn reads_size_shape_and_rate() {
    let video = video(HIGH);
    assert_eq!((video.width, video.height), (640, 360));
    assert_eq!(video.sample_aspect, (2, 1));
    assert_eq!(video.frame_rate, Some((30, 1)));
    assert_eq!(video.codec_string, "avc1.64001E");
    assert_eq!((video.bit_depth, video.chroma, video.interlaced), (8, Chroma::C420, false));
    assert_eq!(video.colour, Colour::default());
}

#[test]
fn reads_cropping_at_1080_lines() {
    let video = video("0164002affe1001b6764002aacd940780227e5c044000003000400000301e03c60c658010006 68ebe3cb22c0");
    assert_eq!((video.width, video.height), (1920, 1080));
    assert_eq!(video.frame_rate, Some((60, 1)));
}

#[test]
fn reads_colour_and_drops_a_rate_that_is_a_timescale() {
    let video = video("01640032ffe1001627640032ac1314700be02bf88926a0202020f080427801000428ee3cb0fdf8f800");
    assert_eq!((video.width, video.height), (3026, 1386));
    assert_eq!(video.colour, Colour { primaries: 1, transfer: 1, matrix: 1, full_range: false });
    assert_eq!(video.frame_rate, None);
}

#[test]
fn reads_baseline_from_a_browser() {
    let nals = [hex("6742402895b81e0089f970110000030001000003003c8da1c32e"), hex("68ce3c80")];
    let sets = ParameterSets::from_nals(nals.iter().chain(&nals).map(Vec::as_slice));
    assert_eq!((sets.sps.len(), sets.pps.len()), (1, 1));
    let video = sets.video().unwrap();
    assert_eq!((video.width, video.height), (1920, 1080));
    assert_eq!(video.codec_string, "avc1.424028");
    assert_eq!(video.config.len(), 7 + 2 + 26 + 2 + 4, "no tail bytes for this profile");
}

#[test]
fn writes_the_tail_bytes_that_others_leave_out() {
    assert_eq!(video(HIGH_WITHOUT_TAIL).config, hex(HIGH));
    assert_eq!(video(HIGH).config, hex(HIGH));
}

#[test]
fn a_vui_that_ends_early_is_no_reason_to_refuse() {
    let mut avcc = hex(HIGH);
    let sps = avcc[8..34].to_vec();
    let truncated = ParameterSets { sps: vec![sps[..14].to_vec().into()], pps: vec![avcc.split_off(37).into()] };
    let video = truncated.video().unwrap();
    assert_eq!((video.width, video.height, video.frame_rate), (640, 360, None));
}

#[test]
fn lengths_are_of_1_2_or_4_bytes() {
    let size = |byte| {
        let mut avcc = hex(HIGH);
        avcc[4] = byte;
        ParameterSets::from_avcc(&avcc).map(|(_, size)| size)
    };
    assert_eq!((size(0xfc), size(0xfd), size(0xff)), (Ok(1), Ok(2), Ok(4)));
    assert!(size(0xfe).is_err());
}

#[test]
fn sets_that_are_missing_or_cut_are_refused() {
    let (empty, _) = ParameterSets::from_avcc(&hex("0164001effe0 00")).unwrap();
    assert_eq!(empty.video().unwrap_err().code(), "bad_media");
    assert_eq!(empty.avcc().unwrap_err().code(), "bad_media");
    let (no_pps, _) =
        ParameterSets::from_avcc(&hex("0164001effe1001a6764001eacd940a02ff971010000030001000003003c0f162d9600"))
            .unwrap();
    assert_eq!(no_pps.video().unwrap_err().code(), "bad_media");
    let whole = hex(HIGH_WITHOUT_TAIL);
    for length in 0..whole.len() {
        assert_eq!(ParameterSets::from_avcc(&whole[..length]).unwrap_err().code(), "bad_media");
    }
}

#[test]
fn empty_units_are_dropped() {
    let (sets, _) = ParameterSets::from_avcc(&hex("01640028ffe20000000267640200000001 68")).unwrap();
    assert_eq!((sets.sps.len(), sets.pps.len()), (1, 1));
}

const SPS: &[u8] = &[0x67, 0x64, 0, 0x1e];
const PPS: &[u8] = &[0x68, 0xeb];
/// recovery_frame_cnt 0, exact_match_flag.
const RECOVERY_POINT: &[u8] = &[6, 6, 1, 0xc4, 0x80];
/// recovery_frame_cnt 1, behind a buffering period.
const GRADUAL_RECOVERY: &[u8] = &[6, 0, 2, 0x80, 0x80, 6, 1, 0x54, 0x80];
const USER_DATA: &[u8] = &[6, 5, 4, 1, 2, 3, 4, 0x80];
const I_SLICE: &[u8] = &[0x41, 0x88, 0x84];
const P_SLICE: &[u8] = &[0x41, 0x9a, 0x24];
const SECOND_I_SLICE: &[u8] = &[0x41, 0x05, 0x02, 0x20];
const IDR_SLICE: &[u8] = &[0x65, 0x88, 0x84];

fn sync_of(nals: &[&[u8]]) -> Sync {
    sync(&annexb::to_length_prefixed(nals.iter().copied()))
}

#[test]
fn tells_entry_points() {
    let cases: &[(&[&[u8]], Sync)] = &[
        (&[SPS, PPS, USER_DATA, IDR_SLICE, IDR_SLICE], Sync::Idr),
        (&[IDR_SLICE], Sync::Idr),
        (&[SPS, PPS, RECOVERY_POINT, I_SLICE], Sync::OpenGop),
        (&[RECOVERY_POINT, I_SLICE, P_SLICE], Sync::OpenGop),
        (&[SPS, PPS, I_SLICE, SECOND_I_SLICE], Sync::OpenGop),
        (&[GRADUAL_RECOVERY, I_SLICE], Sync::OpenGop),
        (&[GRADUAL_RECOVERY, P_SLICE], Sync::OpenGop),
        (&[SPS, PPS, I_SLICE, P_SLICE], Sync::No),
        (&[SPS, PPS, P_SLICE], Sync::No),
        (&[I_SLICE], Sync::No),
        (&[USER_DATA, P_SLICE], Sync::No),
        (&[SPS, PPS, RECOVERY_POINT], Sync::No),
        (&[], Sync::No),
    ];
    for (nals, expected) in cases {
        assert_eq!(sync_of(nals), *expected, "{nals:x?}");
    }
}

#[test]
fn tells_when_pictures_are_right_after_a_recovery_point() {
    let frames = |nals: &[&[u8]]| recovery_frames(&annexb::to_length_prefixed(nals.iter().copied()));
    assert_eq!(frames(&[SPS, PPS, GRADUAL_RECOVERY, P_SLICE]), 1);
    assert_eq!(frames(&[GRADUAL_RECOVERY, I_SLICE, P_SLICE]), 1);
    assert_eq!(frames(&[GRADUAL_RECOVERY, I_SLICE, SECOND_I_SLICE]), 0, "all of it is new");
    assert_eq!(frames(&[RECOVERY_POINT, P_SLICE]), 0);
    assert_eq!(frames(&[GRADUAL_RECOVERY, IDR_SLICE]), 0);
    let refers = |slice: &[u8]| is_reference(&annexb::to_length_prefixed([USER_DATA, slice].into_iter()));
    assert!(refers(P_SLICE) && refers(IDR_SLICE) && !refers(&[0x01, 0x9a, 0x24]));
}

#[test]
fn finds_a_recovery_point_behind_emulation_prevention() {
    let sei = [6, 5, 5, 0, 0, 3, 1, 9, 9, 6, 1, 0xc4, 0x80];
    assert_eq!(sync_of(&[&sei, I_SLICE]), Sync::OpenGop);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..100), nal in 0u8..32) {
        sync(&bytes);
        let _ = ParameterSets::from_avcc(&bytes).map(|(sets, _)| sets.video());
        if let Some(first) = bytes.first_mut() {
            *first = nal;
        }
        sync_of(&[&bytes, I_SLICE]);
        let sets = ParameterSets { sps: vec![bytes.clone().into()], pps: vec![bytes.into()] };
        let _ = sets.video();
    }

    #[test]
    fn any_sps_is_read_or_refused(tail in prop::collection::vec(any::<u8>(), 0..60), profile in prop::sample::select(vec![66u8, 77, 100, 110, 244])) {
        let sps = [&[0x67, profile, 0, 30][..], &tail].concat();
        let sets = ParameterSets { sps: vec![sps.into()], pps: vec![Bytes::from_static(PPS)] };
        if let Ok(video) = sets.video() {
            prop_assert!((1..=0xffff).contains(&video.width) && (1..=0xffff).contains(&video.height));
            let (again, size) = ParameterSets::from_avcc(&video.config).unwrap();
            prop_assert_eq!(size, 4);
            prop_assert_eq!(&again, &sets);
            prop_assert_eq!(again.avcc().unwrap(), video.config);
        }
    }
}
