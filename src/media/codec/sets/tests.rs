use super::*;
use crate::media::codec::bits::tests::hex;

/// x264, High, 160x120 and 320x240, each with id 0.
const SMALL: &str = "6764000bacd942847e5c0440000003004000000c83c50a6580";
const LARGE: &str = "6764000dacd94141fb011000000300100000030320f1429960";
/// PPS of id 0 that refer to SPS 0 and differ in chroma_qp_index_offset.
const PPS: &str = "68ef8f348d";
const OTHER_PPS: &str = "68ef8f2c8b";
/// I and P slices that refer to PPS 0.
const IDR: &str = "6588840047dae398";
const SLICE: &str = "419a23188affb7d3";

const HEVC_SETS: [&str; 3] = [
    "40010c01ffff01600000030090000003000003001e959809",
    "42010101600000030090000003000003001ea014207965959a4932bc05a02000000300200000030321",
    "4401c172b46240",
];
const HEVC_IDR: &str = "2801af1d42ed6cbc";

fn unit(nals: &[&str]) -> Bytes {
    let nals: Vec<Vec<u8>> = nals.iter().map(|nal| hex(nal)).collect();
    annexb::to_length_prefixed(nals.iter().map(Vec::as_slice))
}

/// The sizes told by the units, and the units as they travel.
fn pass(sets: &mut InForce, units: &[&[&str]]) -> (Vec<u32>, Vec<Bytes>) {
    let (mut told, mut dressed) = (Vec::new(), Vec::new());
    for nals in units {
        let unit = unit(nals);
        told.extend(sets.take(&unit).unwrap().map(|video| video.width));
        dressed.push(sets.dress(unit, nals.contains(&IDR)));
    }
    (told, dressed)
}

fn check(units: &[&[&str]], told: &[u32], dressed: &[&[&str]]) {
    let found = pass(&mut InForce::new(VideoCodec::H264), units);
    let dressed = dressed.iter().map(|nals| unit(nals)).collect();
    assert_eq!(found, (told.to_vec(), dressed));
}

#[test]
fn repeated_sets_are_told_once_and_do_not_travel() {
    check(
        &[&["09f0", SMALL, PPS, IDR], &[SLICE], &[SMALL, PPS, IDR], &["0cff", SLICE]],
        &[160],
        &[&[IDR], &[SLICE], &[IDR], &[SLICE]],
    );
}

#[test]
fn a_set_that_says_nothing_new_of_the_video_travels_with_every_entry_point_from_there_on() {
    check(
        &[&[SMALL, PPS, IDR], &[OTHER_PPS, IDR], &[SLICE], &[IDR], &[PPS, SLICE], &[IDR]],
        &[160],
        &[&[IDR], &[SMALL, OTHER_PPS, IDR], &[SLICE], &[SMALL, OTHER_PPS, IDR], &[PPS, SLICE], &[SMALL, PPS, IDR]],
    );
}

#[test]
fn another_picture_size_is_another_set_up_that_holds_its_sets() {
    let mut sets = InForce::new(VideoCodec::H264);
    let (told, dressed) = pass(&mut sets, &[&[SMALL, PPS, IDR], &[OTHER_PPS, IDR], &[LARGE, PPS, IDR], &[SLICE]]);
    assert_eq!(told, [160, 320]);
    assert_eq!(dressed[2..], [unit(&[IDR]), unit(&[SLICE])]);
    assert_eq!(sets.active_sps(), Some(&hex(LARGE)[..]));
}

/// A NAL unit with the ue(v) 0 at a bit of its payload made 1.
fn with_one_at(nal: &str, bit: usize) -> Vec<u8> {
    let nal = hex(nal);
    let mut bits: Vec<u8> = unescape(&nal).iter().flat_map(|byte| (0..8).rev().map(move |n| byte >> n & 1)).collect();
    assert_eq!(bits.splice(bit..=bit, [0, 1, 0]).collect::<Vec<_>>(), [1]);
    bits.resize(bits.len().next_multiple_of(8), 0);
    let plain: Vec<u8> = bits.chunks(8).map(|byte| byte.iter().fold(0, |n, bit| n << 1 | bit)).collect();
    let mut escaped: Vec<u8> = Vec::new();
    for byte in plain {
        if byte < 4 && escaped.ends_with(&[0, 0]) {
            escaped.push(3);
        }
        escaped.push(byte);
    }
    escaped
}

#[test]
fn the_sps_in_force_is_the_one_that_the_slice_refers_to() {
    let other_sps = with_one_at(LARGE, 32);
    // pic_parameter_set_id 1, and behind its three bits seq_parameter_set_id 1.
    let other_pps = [&[0x68][..], &with_one_at("68ffaa", 8)[1..]].concat();
    let other_pps = with_one_at(&other_pps.iter().map(|b| format!("{b:02x}")).collect::<String>(), 11);
    let slice_of_other = with_one_at(IDR, 16);
    let mut sets = InForce::new(VideoCodec::H264);
    assert_eq!(pass(&mut sets, &[&[SMALL, PPS, IDR]]).0, [160]);
    let brought = annexb::to_length_prefixed([&other_sps[..], &other_pps, &hex(IDR)].into_iter());
    assert_eq!(sets.take(&brought).unwrap(), None, "sets that no slice refers to change nothing");
    let switch = annexb::to_length_prefixed(std::iter::once(&slice_of_other[..]));
    assert_eq!(sets.take(&switch).unwrap().map(|video| video.width), Some(320));
    assert_eq!(sets.active_sps(), Some(&other_sps[..]));
    assert_eq!(sets.take(&unit(&[IDR])).unwrap().map(|video| video.width), Some(160), "and back");
}

#[test]
fn sets_of_a_record_are_known_from_the_start() {
    let mut first = InForce::new(VideoCodec::H264);
    let video = first.take(&unit(&[SMALL, PPS, IDR])).unwrap().unwrap();
    let mut sets = InForce::of(VideoCodec::H264, &video.config).unwrap();
    assert_eq!(pass(&mut sets, &[&[IDR], &[SMALL, PPS, IDR]]), (vec![], vec![unit(&[IDR]), unit(&[IDR])]));
    let mut sets = InForce::of(VideoCodec::H264, &video.config).unwrap();
    assert_eq!(pass(&mut sets, &[&[LARGE, PPS, IDR]]).0, [320]);
}

#[test]
fn sets_may_come_one_by_one() {
    check(&[&[SMALL], &[PPS], &[IDR]], &[160], &[&[SMALL], &[], &[IDR]]);
}

#[test]
fn malformed_sets_change_nothing() {
    check(&[&[SMALL, PPS, IDR], &["67", "68", "6764", IDR], &[IDR]], &[160], &[&[IDR], &[IDR], &[IDR]]);
}

#[test]
fn what_a_unit_needs_no_change_for_is_not_copied() {
    let mut sets = InForce::new(VideoCodec::H264);
    pass(&mut sets, &[&[SMALL, PPS, IDR]]);
    let plain = unit(&[IDR]);
    assert_eq!(sets.dress(plain.clone(), true).as_ptr(), plain.as_ptr());
}

#[test]
fn sets_without_end_are_bounded() {
    let mut sets = InForce::new(VideoCodec::H264);
    let long = "68ef".to_owned() + &"11".repeat(60_000);
    pass(&mut sets, &[&[SMALL, PPS, IDR], &[&long, IDR]]);
    // ids 1 to 31: 010, 011, 00100, …
    for id in 1..40u8 {
        let pps = hex(&format!("68{:02x}{}", 0x80 | id, "22".repeat(3_000)));
        sets.take(&annexb::to_length_prefixed(std::iter::once(&pps[..]))).unwrap();
    }
    assert!(sets.sets.iter().map(|set| set.nal.len()).sum::<usize>() <= MOST_BYTES);
}

#[test]
fn h265_sets_are_known_by_their_ids() {
    let mut sets = InForce::new(VideoCodec::H265);
    let [vps, sps, pps] = HEVC_SETS;
    let found = sets.take(&unit(&[vps, sps, pps, HEVC_IDR])).unwrap();
    assert_eq!(found.map(|video| (video.width, video.height)), Some((160, 120)));
    let ids: Vec<_> = sets.sets.iter().map(|set| (set.kind, set.id, set.sps)).collect();
    assert_eq!(ids, [(Kind::Vps, 0, None), (Kind::Sps, 0, None), (Kind::Pps, 0, Some(0))]);
    let mut other = hex(pps);
    other[4] ^= 1;
    let changed = annexb::to_length_prefixed([&other[..], &hex(HEVC_IDR)].into_iter());
    assert_eq!(sets.take(&changed).unwrap(), None);
    let dressed = sets.dress(unit(&[HEVC_IDR]), true);
    let kinds: Vec<_> = annexb::length_prefixed(&dressed).filter_map(h265::nal_type).collect();
    assert_eq!(kinds, [32, 33, 34, 20]);
}
