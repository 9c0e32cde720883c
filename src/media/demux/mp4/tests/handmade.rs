use super::*;
use crate::media::{Format, Sync};

/// A box.
fn bx(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    [&(body.len() as u32 + 8).to_be_bytes()[..], kind, &body].concat()
}

/// A full box of 32-bit words.
fn full(kind: &[u8; 4], version_flags: u32, words: &[u32]) -> Vec<u8> {
    bx(kind, &[&be(&[version_flags]), &be(words)])
}

fn be(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_be_bytes()).collect()
}

fn aac_entry(config: [u8; 2]) -> Vec<u8> {
    let esds = [&[0, 0, 0, 0, 3, 22, 0, 0, 0, 4, 17, 0x40, 0x15][..], &[0; 11], &[5, 2], &config].concat();
    bx(b"mp4a", &[&[0; 7], &[1], &[0; 8], &[0, 2, 0, 16, 0, 0, 0, 0], &be(&[44_100 << 16]), &bx(b"esds", &[&esds])])
}

const STEREO: [u8; 2] = [0x12, 0x10];
const MONO: [u8; 2] = [0x12, 0x08];

struct Trak {
    id: u32,
    scale: u32,
    handler: [u8; 4],
    entries: Vec<Vec<u8>>,
    tables: Vec<u8>,
    elst: Option<Vec<u8>>,
}

impl Trak {
    fn audio(id: u32) -> Self {
        Self { id, scale: 1000, handler: *b"soun", entries: vec![aac_entry(STEREO)], tables: Vec::new(), elst: None }
    }

    fn bytes(&self) -> Vec<u8> {
        let tkhd = full(b"tkhd", 7, &[&[0, 0, self.id][..], &[0; 17]].concat());
        let mdhd = full(b"mdhd", 0, &[0, 0, self.scale, 0, 0x55c4_0000]);
        let hdlr = full(b"hdlr", 0, &[0, u32::from_be_bytes(self.handler), 0, 0, 0]);
        let stsd = bx(b"stsd", &[&be(&[0, self.entries.len() as u32]), &self.entries.concat()]);
        let minf = bx(b"minf", &[&bx(b"stbl", &[&stsd, &self.tables])]);
        let edts = self.elst.as_ref().map_or_else(Vec::new, |elst| bx(b"edts", &[elst]));
        bx(b"trak", &[&tkhd, &edts, &bx(b"mdia", &[&mdhd, &hdlr, &minf])])
    }
}

fn moov(traks: &[Trak], rest: &[u8]) -> Vec<u8> {
    let mvhd = full(b"mvhd", 0, &[0, 0, 600, 0]);
    bx(b"moov", &[&mvhd, &traks.iter().flat_map(Trak::bytes).collect::<Vec<_>>(), rest])
}

/// A moov of one AAC track with trex: duration 10, size 3.
fn fragmented_moov() -> Vec<u8> {
    moov(&[Trak::audio(1)], &bx(b"mvex", &[&full(b"trex", 0, &[1, 1, 10, 3, 0])]))
}

/// Sample bytes that tell where they lie.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|i| i as u8).collect()
}

fn check(input: &[u8], expected: &[(u32, i64, i64, &[u8])]) {
    let (events, result) = demux(input);
    assert_eq!(result, Ok(()));
    assert_eq!((events, result), demux_pieces(input.chunks(1)));
    let (events, _) = demux(input);
    let found: Vec<_> = units(&events).iter().map(|u| (u.track.0, u.dts.0, u.pts.0, &u.data[..])).collect();
    assert_eq!(found, expected);
}

fn refused(input: &[u8]) -> &'static str {
    demux(input).1.unwrap_err().code()
}

const BASE_IS_MOOF: u32 = 0x2_0000;

/// A moof of one traf, and its mdat. The data offset, counted from the moof, is patched into the first trun where it
/// is `u32::MAX`.
fn fragment(traf: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
    let mut moof = bx(b"moof", &[&bx(b"traf", &[&traf.concat()])]);
    let offset = moof.len() as u32 + 8;
    if let Some(at) = moof.windows(4).position(|w| w == [0xff; 4]) {
        moof[at..at + 4].copy_from_slice(&offset.to_be_bytes());
    }
    [moof, bx(b"mdat", &[data])].concat()
}

#[test]
fn truns_one_after_the_other_and_no_tfdt_go_on_where_the_last_ended() {
    let tfhd = full(b"tfhd", BASE_IS_MOOF, &[1]);
    let tfdt = full(b"tfdt", 0x0100_0000, &[1, 0]);
    let first = fragment(
        &[tfhd.clone(), tfdt, full(b"trun", 1, &[2, u32::MAX]), full(b"trun", 0x0300, &[1, 7, 2])],
        &payload(8),
    );
    let second = fragment(&[tfhd, full(b"trun", 0x0100_0a01, &[1, u32::MAX, 1, -4i32 as u32])], &payload(1));
    let input = [fragmented_moov(), bx(b"styp", &[]), first, bx(b"free", &[&[0; 99]]), second].concat();
    let start = 1 << 32;
    let expected: [(u32, i64, i64, &[u8]); 4] = [
        (1, start, start, &[0, 1, 2]),
        (1, start + 10, start + 10, &[3, 4, 5]),
        (1, start + 20, start + 20, &[6, 7]),
        (1, start + 27, start + 23, &[0]),
    ];
    check(&input, &expected);
}

#[test]
fn data_is_found_without_any_offset_and_behind_other_fragments() {
    let bare = fragment(&[full(b"tfhd", BASE_IS_MOOF, &[1]), full(b"trun", 0, &[1])], &payload(3));
    check(&[fragmented_moov(), bare].concat(), &[(1, 0, 0, &[0, 1, 2])]);

    let moof = |offset| {
        let traf = [full(b"tfhd", BASE_IS_MOOF, &[1]), full(b"trun", 1, &[1, offset])].concat();
        bx(b"moof", &[&bx(b"traf", &[&traf])])
    };
    let length = moof(0).len() as u32;
    let far = [moof(2 * length + 8), moof(length + 8 + 3), bx(b"mdat", &[&payload(6)])].concat();
    check(&[fragmented_moov(), far].concat(), &[(1, 0, 0, &[0, 1, 2]), (1, 10, 10, &[3, 4, 5])]);
}

#[test]
fn tracks_in_one_mdat_come_in_the_order_of_their_bytes() {
    let moov = moov(&[Trak::audio(1), Trak::audio(2)], &[]);
    let traf = |id, runs: &[u32]| {
        let truns = runs.iter().flat_map(|&offset| full(b"trun", 0x1, &[1, offset]));
        bx(b"traf", &[&full(b"tfhd", BASE_IS_MOOF | 0x18, &[id, 5, 2]), &truns.collect::<Vec<_>>()])
    };
    let moof = |at: u32| bx(b"moof", &[&traf(2, &[at + 2, at + 6]), &traf(1, &[at, at + 4])]);
    let at = moof(0).len() as u32 + 8;
    let input = [moov, moof(at), bx(b"mdat", &[&payload(8)])].concat();
    check(&input, &[(1, 0, 0, &[0, 1]), (2, 0, 0, &[2, 3]), (1, 5, 5, &[4, 5]), (2, 5, 5, &[6, 7])]);
}

#[test]
fn empty_fragments_take_their_time_and_nothing_else() {
    let empty = fragment(&[full(b"tfhd", BASE_IS_MOOF | 0x10, &[1, 0]), full(b"trun", 1, &[u32::MAX / 2, 0])], &[]);
    let full = fragment(&[full(b"tfhd", BASE_IS_MOOF, &[1]), full(b"trun", 1, &[1, u32::MAX])], &payload(3));
    let dts = 10 * i64::from(u32::MAX / 2);
    check(&[fragmented_moov(), empty, full].concat(), &[(1, dts, dts, &[0, 1, 2])]);
}

fn tables(sizes: &[u32], offsets: &[u32], description: &[u32]) -> Vec<u8> {
    let count = sizes.len() as u32;
    let stsc = description.iter().enumerate().flat_map(|(i, &d)| [i as u32 + 1, 1, d]).collect::<Vec<_>>();
    [
        full(b"stts", 0, &[1, count, 10]),
        full(b"stsc", 0, &[&[description.len() as u32][..], &stsc].concat()),
        full(b"stsz", 0, &[&[0, count][..], sizes].concat()),
        full(b"stco", 0, &[&[offsets.len() as u32][..], offsets].concat()),
    ]
    .concat()
}

#[test]
fn data_before_its_index_comes_in_the_order_of_decoding() {
    let mut one = Trak::audio(1);
    one.tables = tables(&[2, 2], &[8, 10], &[1]);
    one.elst = Some(full(b"elst", 0, &[2, 60, u32::MAX, 0x1_0000, 600, 0, 0x1_0000]));
    let mut two = Trak::audio(2);
    two.tables = tables(&[1, 1], &[13, 12], &[1]);
    let input = [bx(b"mdat", &[&payload(6)]), moov(&[one, two], &[])].concat();
    check(&input, &[(2, 0, 0, &[5]), (2, 10, 10, &[4]), (1, 100, 100, &[0, 1]), (1, 110, 110, &[2, 3])]);
}

#[test]
fn an_index_that_jumps_about_is_followed_through_the_spool() {
    let mut track = Trak::audio(1);
    let moov_length = |track: Trak| moov(&[track], &[]).len() as u32;
    track.tables = tables(&[2, 2], &[0, 0], &[1]);
    let at = moov_length(track) + 8;
    let mut track = Trak::audio(1);
    track.tables = tables(&[2, 2], &[at + 2, at], &[1]);
    let input = [moov(&[track], &[]), bx(b"mdat", &[&payload(4)]), bx(b"free", &[&[0; 9]])].concat();
    check(&input, &[(1, 0, 0, &[2, 3]), (1, 10, 10, &[0, 1])]);
}

#[test]
fn another_sample_description_is_told_before_its_first_sample() {
    let mut track = Trak::audio(1);
    track.entries.push(aac_entry(MONO));
    track.tables = tables(&[2, 2], &[8, 10], &[1, 2]);
    let (events, result) = demux(&[bx(b"mdat", &[&payload(4)]), moov(&[track], &[])].concat());
    assert_eq!(result, Ok(()));
    let channels = |event: &Event| match event {
        Event::Tracks { tracks, .. } => match &tracks[0].format {
            Format::Audio(audio) => Some(audio.channels),
            _ => None,
        },
        Event::Unit(_) => None,
    };
    assert_eq!(events.iter().map(channels).collect::<Vec<_>>(), [Some(2), None, Some(1), None]);
}

#[test]
fn tracks_that_are_not_read_are_listed_without_units() {
    let text = Trak { handler: *b"text", entries: vec![bx(b"tx3g", &[])], ..Trak::audio(2) };
    let locked = Trak { entries: vec![bx(b"enca", &[&[0; 28]])], ..Trak::audio(3) };
    let (events, result) = demux(&moov(&[Trak::audio(1), text, locked], &[]));
    assert_eq!(result, Ok(()));
    let other = |kind: &str, codec: &str| Format::Other { kind: kind.into(), codec: codec.into() };
    assert_eq!(tracks(&events)[0][1].format, other("text", "tx3g"));
    assert_eq!(tracks(&events)[0][2].format, other("audio", "enca"));
    assert_eq!(tracks(&events)[0][1].language, None);
}

/// A VP8 key frame of 16 x 16 (RFC 6386 9.1).
const VP8_KEY: [u8; 10] = [0x10, 0, 0, 0x9d, 0x01, 0x2a, 16, 0, 16, 0];

fn vp8(id: u32) -> Trak {
    let entry = bx(b"vp08", &[&[0; 7], &[1], &[0; 16], &[0, 16, 0, 16], &[0; 50]]);
    Trak { handler: *b"vide", entries: vec![entry], ..Trak::audio(id) }
}

#[test]
fn units_wait_for_a_set_up_that_is_in_band() {
    let moov = moov(&[Trak::audio(1), vp8(2)], &[]);
    let moof = |at: u32| {
        let audio = [full(b"tfhd", BASE_IS_MOOF | 0x18, &[1, 5, 3]), full(b"trun", 1, &[1, at])].concat();
        let video = [full(b"tfhd", BASE_IS_MOOF | 0x18, &[2, 5, 10]), full(b"trun", 1, &[1, at + 3])].concat();
        bx(b"moof", &[&bx(b"traf", &[&audio]), &bx(b"traf", &[&video])])
    };
    let at = moof(0).len() as u32 + 8;
    let input = [&moov[..], &moof(at), &bx(b"mdat", &[&payload(3), &VP8_KEY])].concat();
    let (events, result) = demux(&input);
    assert_eq!(result, Ok(()));
    let Format::Video(video) = &tracks(&events)[0][1].format else { panic!("{events:?}") };
    assert_eq!((video.width, video.height), (16, 16));
    assert_eq!(
        units(&events).iter().map(|u| (u.track.0, u.sync)).collect::<Vec<_>>(),
        [(1, Sync::Idr), (2, Sync::Idr)]
    );

    let (events, _) = demux(&input[..input.len() - 1]);
    assert!(matches!(tracks(&events)[0][1].format, Format::Other { .. }), "listed even when it never comes");
    assert_eq!(units(&events).len(), 1);
}

#[test]
fn malformed_files_are_refused_by_name() {
    let no_entry = Trak { entries: vec![], ..Trak::audio(1) };
    assert_eq!(refused(&moov(&[no_entry], &[])), "bad_media");
    assert_eq!(refused(&moov(&[Trak::audio(1), Trak::audio(1)], &[])), "bad_media");
    assert_eq!(refused(&moov(&[Trak { scale: 0, ..Trak::audio(1) }], &[])), "bad_media");
    assert_eq!(refused(&bx(b"moof", &[])), "bad_media");
    assert_eq!(refused(b"\0\0\0\0mdatxxxx"), "bad_media");
    assert_eq!(refused(b"\0\0\0\x04ftyp"), "bad_media");
    assert_eq!(refused(b"\xff\xff\xff\xffmoov"), "media_limit");
    assert_eq!(refused(&bx(b"mdat", &[&payload(9)])), "truncated_input");
    assert_eq!(refused(&fragmented_moov()[..100]), "truncated_input");
    assert_eq!(refused(&[&fragmented_moov()[..], b"\0\0"].concat()), "truncated_input");
}

#[test]
fn claims_are_checked_against_the_bytes() {
    let fragment_of = |traf: &[Vec<u8>]| [fragmented_moov(), fragment(traf, &payload(8))].concat();
    let tfhd = full(b"tfhd", BASE_IS_MOOF, &[1]);
    let too_many = full(b"trun", 0x201, &[u32::MAX / 2, 0, 1]);
    assert_eq!(refused(&fragment_of(&[tfhd.clone(), too_many])), "bad_media");
    let before_the_file = full(b"trun", 0x1, &[1, i32::MIN as u32]);
    assert_eq!(refused(&fragment_of(&[tfhd.clone(), before_the_file])), "bad_media");
    let behind = full(b"trun", 0x1, &[1, -3i32 as u32]);
    assert_eq!(refused(&fragment_of(&[tfhd.clone(), behind])), "bad_media");
    let too_large = full(b"trun", 0x201, &[1, u32::MAX, u32::MAX - 1]);
    assert_eq!(refused(&fragment_of(&[tfhd, too_large])), "bad_media", "it does not fit its mdat");

    let mut endless = Trak::audio(1);
    endless.tables = [
        full(b"stsc", 0, &[1, 1, u32::MAX, 1]),
        full(b"stsz", 0, &[1, u32::MAX]),
        full(b"stco", 0, &[&[200][..], &[8; 200]].concat()),
    ]
    .concat();
    assert_eq!(refused(&[bx(b"mdat", &[&payload(64)]), moov(&[endless], &[])].concat()), "truncated_input");
    let mut overlapping = Trak::audio(1);
    overlapping.tables = [
        full(b"stsc", 0, &[1, 1, 60, 1]),
        full(b"stsz", 0, &[1, u32::MAX]),
        full(b"stco", 0, &[&[200][..], &[8; 200]].concat()),
    ]
    .concat();
    assert_eq!(refused(&[bx(b"mdat", &[&payload(64)]), moov(&[overlapping], &[])].concat()), "bad_media");
}

#[test]
fn a_unit_over_the_limit_is_refused() {
    let limits = Limits { unit_bytes: 2, ..Limits::default() };
    let traf = [full(b"tfhd", BASE_IS_MOOF, &[1]), full(b"trun", 1, &[1, u32::MAX])];
    let input = [fragmented_moov(), fragment(&traf, &payload(3))].concat();
    assert_eq!(demux_limited(input.chunks(10), limits).1.unwrap_err().code(), "media_limit");
}
