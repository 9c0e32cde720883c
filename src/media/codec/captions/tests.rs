use proptest::prelude::*;

use super::*;
use crate::media::codec::annexb;

const AUD: &[u8] = &[0x09, 0xf0];
const SPS: &[u8] = &[0x67, 1, 2];
/// Two messages: a buffering period, and user data that is not registered.
const SEI: &[u8] = &[0x06, 0, 1, 0xc0, 5, 2, 7, 7, 0x80];
const IDR: &[u8] = &[0x65, 0x88, 4];
const SLICE: &[u8] = &[0x65, 0x48, 4];

fn unit(nals: &[&[u8]]) -> Bytes {
    annexb::to_length_prefixed(nals.iter().copied())
}

fn nals(unit: &[u8]) -> Vec<&[u8]> {
    annexb::length_prefixed(unit).collect()
}

/// 608 pairs of the first field.
fn pairs(text: &[u8]) -> Vec<Construct> {
    text.as_chunks::<2>().0.iter().map(|&[a, b]| [0xfc, a, b]).collect()
}

#[test]
fn captions_stand_behind_sets_and_other_sei_and_before_the_first_slice() {
    let picture = unit(&[AUD, SPS, SEI, IDR, SLICE]);
    let with = replace(VideoCodec::H264, &picture, &pairs(b"HI"));
    let found = nals(&with);
    assert_eq!((&found[..3], &found[4..]), (&[AUD, SPS, SEI][..], &[IDR, SLICE][..]));
    let expect = b"\x06\x04\x0e\xb5\0\x31GA94\x03\xc1\xff\xfcHI\xff\x80";
    assert_eq!(found[3], expect, "as ATSC A/53 part 4 and SCTE 128 lay it out");
    assert_eq!(read(VideoCodec::H264, &with), pairs(b"HI"));
}

#[test]
fn the_prefix_sei_of_h265_is_of_its_slice_s_temporal_layer() {
    let (vps, slice) = (&[0x40, 1, 9][..], &[0x02, 3, 0x80][..]);
    let with = replace(VideoCodec::H265, &unit(&[vps, slice]), &pairs(b"HI"));
    let found = nals(&with);
    assert_eq!((found[0], &found[1][..2], found[2]), (vps, &[0x4e, 3][..], slice));
    assert_eq!(read(VideoCodec::H265, &with), pairs(b"HI"));
}

#[test]
fn captions_that_were_there_give_way_and_other_messages_stay() {
    let mut both = SEI[..SEI.len() - 1].to_vec();
    both.extend([4, 14]);
    both.extend(user_data(&pairs(b"NO")));
    both.push(0x80);
    let picture = unit(&[AUD, &both, IDR]);
    assert_eq!(read(VideoCodec::H264, &picture), pairs(b"NO"));
    let with = replace(VideoCodec::H264, &picture, &pairs(b"OK"));
    assert_eq!(read(VideoCodec::H264, &with), pairs(b"OK"));
    assert_eq!(nals(&with)[1], SEI);
    let without = replace(VideoCodec::H264, &with, &[]);
    assert_eq!(nals(&without), [AUD, SEI, IDR], "a unit with nothing else in it is gone");
}

#[test]
fn av1_captions_stand_before_the_frame_that_is_shown() {
    // A sequence header, a hidden frame, a shown one; each with its size.
    let (sequence, hidden, shown) = (&[0x0a, 1, 0][..], &[0x32, 2, 0x20, 1][..], &[0x32, 2, 0x30, 1][..]);
    let picture = Bytes::from([sequence, hidden, shown].concat());
    let with = replace(VideoCodec::Av1, &picture, &pairs(b"HI"));
    let metadata = b"\x2a\x10\x04\xb5\0\x31GA94\x03\xc1\xff\xfcHI\xff\x80";
    assert_eq!(with, [sequence, hidden, metadata, shown].concat());
    assert_eq!(read(VideoCodec::Av1, &with), pairs(b"HI"));
    assert_eq!(replace(VideoCodec::Av1, &with, &[]), picture);
}

#[test]
fn mpeg2_user_data_is_read() {
    let mut picture = b"\0\0\x01\0\0\x0f\0\0\x01\xb2GA94\x03\xc1\xff\xfcHI\xff\0\0\x01\xb2DTG1\0\0\x01\x01".to_vec();
    assert_eq!(read(VideoCodec::Mpeg2, &picture), pairs(b"HI"));
    picture[15] = 0x81;
    assert_eq!(read(VideoCodec::Mpeg2, &picture), [] as [Construct; 0], "process_cc_data_flag is not set");
}

#[test]
fn more_than_one_message_holds_go_into_several_without_padding() {
    let mut many: Vec<Construct> = (0..40).map(|n| [0xfc, n, n]).collect();
    many.extend([[0xfa, 0, 0]; 10]);
    let with = replace(VideoCodec::H264, &unit(&[IDR]), &many);
    assert_eq!(nals(&with).len(), 3);
    assert_eq!(read(VideoCodec::H264, &with), many[..40]);
}

#[test]
fn a_codec_that_holds_none_is_left_alone() {
    let frame = Bytes::from_static(b"frame");
    assert!(!holds(VideoCodec::Vp9));
    assert_eq!(replace(VideoCodec::Vp9, &frame, &pairs(b"HI")), frame);
}

proptest! {
    #[test]
    fn what_is_put_in_is_read_back_and_makes_no_start_code(
        constructs in prop::collection::vec([0u8..4, 0u8..4, 0u8..4], 0..=31),
        codec in prop::sample::select(vec![VideoCodec::H264, VideoCodec::H265, VideoCodec::Av1]),
    ) {
        let picture = match codec {
            VideoCodec::H264 => unit(&[SEI, IDR]),
            VideoCodec::H265 => unit(&[&[0x02, 1, 0x80]]),
            _ => Bytes::from_static(&[0x32, 2, 0x30, 1]),
        };
        let with = replace(codec, &picture, &constructs);
        prop_assert_eq!(read(codec, &with), constructs);
        if codec != VideoCodec::Av1 {
            for nal in nals(&with) {
                prop_assert!(!nal.windows(3).any(|three| matches!(three, [0, 0, 0..=2])));
                prop_assert!(nal.last() != Some(&0));
            }
        }
        prop_assert_eq!(replace(codec, &with, &[]), picture);
    }

    #[test]
    fn any_bytes_are_read_and_replaced_without_a_panic(
        bytes in prop::collection::vec(0u8..8, 0..300),
        codec in prop::sample::select(vec![VideoCodec::H264, VideoCodec::H265, VideoCodec::Av1, VideoCodec::Mpeg2]),
    ) {
        prop_assert!(read(codec, &bytes).len() <= MOST_IN_A_UNIT);
        replace(codec, &Bytes::from(bytes), &[[0xfc, 1, 2]]);
    }
}
