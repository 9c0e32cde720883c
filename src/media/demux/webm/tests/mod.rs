//! Hand-built streams; what ffmpeg writes is in [`libav`].

mod libav;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Demuxer, Event, Limits, id};
use crate::media::{AccessUnit, Error, Format, Sync, Ticks, Track, TrackId, VideoCodec};

pub fn element(id: u32, content: &[u8]) -> Vec<u8> {
    let size = 1u64 << 56 | content.len() as u64;
    [&id_bytes(id)[..], &size.to_be_bytes(), content].concat()
}

pub fn uint(id: u32, value: u64) -> Vec<u8> {
    element(id, &value.to_be_bytes())
}

pub fn float(id: u32, value: f64) -> Vec<u8> {
    element(id, &value.to_be_bytes())
}

fn id_bytes(id: u32) -> Vec<u8> {
    id.to_be_bytes().into_iter().skip_while(|&b| b == 0).collect()
}

/// A header of unknown size.
fn open(id: u32) -> Vec<u8> {
    [&id_bytes(id)[..], &[0xFF]].concat()
}

fn ebml(doc_type: &str) -> Vec<u8> {
    let parts = [uint(id::EBML_READ_VERSION, 1), element(id::DOC_TYPE, doc_type.as_bytes())];
    element(id::EBML, &parts.concat())
}

fn info(scale: u64) -> Vec<u8> {
    element(id::INFO, &uint(id::TIMESTAMP_SCALE, scale))
}

fn track(number: u64, kind: u64, codec: &str, more: &[Vec<u8>]) -> Vec<u8> {
    let parts = [uint(id::TRACK_NUMBER, number), uint(id::TRACK_TYPE, kind), element(id::CODEC_ID, codec.as_bytes())];
    element(id::TRACK_ENTRY, &[&parts, more].concat().concat())
}

fn opus(number: u64, more: &[Vec<u8>]) -> Vec<u8> {
    let head = element(id::CODEC_PRIVATE, b"OpusHead\x01\x02\x38\x01\x80\xbb\0\0\0\0\0");
    track(number, 2, "A_OPUS", &[&[head], more].concat())
}

fn tracks(entries: &[Vec<u8>]) -> Vec<u8> {
    element(id::TRACKS, &entries.concat())
}

fn cluster(timestamp: u64) -> Vec<u8> {
    [open(id::CLUSTER), uint(id::TIMESTAMP, timestamp)].concat()
}

fn block(track: u8, relative: i16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let [high, low] = relative.to_be_bytes();
    [&[0x80 | track, high, low, flags], payload].concat()
}

fn simple(track: u8, relative: i16, payload: &[u8]) -> Vec<u8> {
    element(id::SIMPLE_BLOCK, &block(track, relative, 0x80, payload))
}

/// 20 ms, stereo.
const OPUS: &[u8] = &[0xFC, 0xFF, 0xFE];

fn vp8_key(width: u16, height: u16) -> Vec<u8> {
    let mut frame = vec![0x10, 0x02, 0x00, 0x9D, 0x01, 0x2A];
    frame.extend_from_slice(&width.to_le_bytes());
    frame.extend_from_slice(&height.to_le_bytes());
    frame.extend_from_slice(&[0; 40]);
    frame
}

/// Not a key frame.
const VP8: &[u8] = &[0x11, 0x02, 0x00, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20];

/// An EBML header and an open Segment with these tracks.
fn head(entries: &[Vec<u8>]) -> Vec<u8> {
    [ebml("webm"), open(id::SEGMENT), info(1_000_000), tracks(entries)].concat()
}

/// All events of `stream`, which comes in pieces of `sizes`, and how it ends.
fn demux(stream: &[u8], sizes: &[usize], limits: Limits) -> (Vec<Event>, Result<(), Error>) {
    let mut demuxer = Demuxer::new(limits);
    let mut events = Vec::new();
    let mut sizes = sizes.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at((*sizes.next().unwrap()).clamp(1, rest.len()));
        rest = after;
        if let Err(error) = demuxer.push(Bytes::copy_from_slice(chunk)).and_then(|()| drain(&mut demuxer, &mut events))
        {
            return (events, Err(error));
        }
    }
    demuxer.finish();
    let end = drain(&mut demuxer, &mut events);
    (events, end)
}

fn drain(demuxer: &mut Demuxer, events: &mut Vec<Event>) -> Result<(), Error> {
    while let Some(event) = demuxer.poll()? {
        events.push(event);
    }
    Ok(())
}

fn whole(stream: &[u8]) -> Vec<Event> {
    let (events, end) = demux(stream, &[usize::MAX], Limits::default());
    end.unwrap();
    events
}

fn error(stream: &[u8]) -> Error {
    demux(stream, &[usize::MAX], Limits::default()).1.unwrap_err()
}

fn told(events: &[Event]) -> Vec<&Vec<Track>> {
    events
        .iter()
        .filter_map(|event| if let Event::Tracks { tracks, .. } = event { Some(tracks) } else { None })
        .collect()
}

fn units(events: &[Event]) -> Vec<&AccessUnit> {
    events.iter().filter_map(|event| if let Event::Unit(unit) = event { Some(unit) } else { None }).collect()
}

/// Track, PTS and duration of every unit.
fn times(events: &[Event]) -> Vec<(u32, i64, Option<i64>)> {
    units(events).iter().map(|unit| (unit.track.0, unit.pts.0, unit.duration.map(|d| d.0))).collect()
}

/// `T` for tracks, the track's number for a unit.
fn order(events: &[Event]) -> String {
    let letter = |event: &Event| match event {
        Event::Tracks { .. } => "T".to_string(),
        Event::Unit(unit) => unit.track.0.to_string(),
        Event::Data(_) => "D".to_string(),
    };
    events.iter().map(letter).collect()
}

fn kind(track: &Track) -> &'static str {
    match track.format {
        Format::Video(_) => "video",
        Format::Audio(_) => "audio",
        Format::Other { .. } => "other",
    }
}

/// Two tracks, open sizes, a second Segment: what MediaRecorder sends when it is stopped and started.
fn restarted() -> Vec<u8> {
    let once = [
        head(&[track(1, 1, "V_VP8", &[]), opus(2, &[])]),
        cluster(0),
        simple(2, 0, OPUS),
        simple(1, 3, &vp8_key(64, 48)),
        simple(2, 20, OPUS),
        element(0xEC, &[0; 300]),
        simple(1, 36, VP8),
        cluster(40),
        simple(2, 0, OPUS),
        simple(1, 30, VP8),
    ];
    [once.concat(), once.concat()].concat()
}

#[test]
fn a_live_stream_with_a_restart() {
    let events = whole(&restarted());
    assert_eq!(order(&events), "T212121T212121");
    let once = [(2, 0, None), (1, 3, None), (2, 20, None), (1, 36, None), (2, 40, None), (1, 70, None)];
    assert_eq!(times(&events), [once, once].concat());
    let syncs: Vec<Sync> = units(&events).iter().filter(|unit| unit.track.0 == 1).map(|unit| unit.sync).collect();
    assert_eq!(syncs, [Sync::Idr, Sync::No, Sync::No].repeat(2));
    let Format::Video(video) = &told(&events)[0][0].format else { panic!("{events:?}") };
    assert_eq!((video.codec, video.width, video.height), (VideoCodec::Vp8, 64, 48));
    assert_eq!(told(&events)[0][1].timescale.get(), 1000);
}

#[test]
fn blocks_come_out_with_their_last_byte() {
    let start = [head(&[opus(1, &[])]), cluster(0)].concat();
    let mut demuxer = Demuxer::new(Limits::default());
    demuxer.push(start.into()).unwrap();
    assert!(matches!(demuxer.poll(), Ok(Some(Event::Tracks { .. }))));
    let block = simple(1, 7, OPUS);
    let (all_but_one, last) = block.split_at(block.len() - 1);
    demuxer.push(Bytes::copy_from_slice(all_but_one)).unwrap();
    assert_eq!(demuxer.poll(), Ok(None));
    demuxer.push(Bytes::copy_from_slice(last)).unwrap();
    assert!(matches!(demuxer.poll(), Ok(Some(Event::Unit(_)))));
}

#[test]
fn known_sizes_may_be_wrong() {
    let blocks = [uint(id::TIMESTAMP, 5), simple(1, 0, OPUS)].concat();
    let parts = [info(1_000_000), tracks(&[opus(1, &[])]), element(id::CLUSTER, &blocks)].concat();
    let too_short = [ebml("matroska"), element(id::SEGMENT, &parts), element(id::CLUSTER, &blocks)].concat();
    assert_eq!(order(&whole(&too_short)), "T11");
    let mut too_long = [ebml("matroska"), element(id::SEGMENT, &[&parts[..], &[0; 1000]].concat())].concat();
    too_long.truncate(too_long.len() - 1000);
    assert_eq!(order(&whole(&too_long)), "T1");
    assert_eq!(order(&whole(&[too_long, restarted()].concat())), "T1T212121T212121");
}

#[test]
fn tracks_wait_for_a_codec_that_speaks_in_its_frames() {
    let entries = [track(1, 1, "V_VP8", &[]), opus(2, &[])];
    let early = [simple(2, 0, OPUS), simple(1, 1, VP8), simple(2, 20, OPUS)].concat();
    let late = [simple(1, 30, &vp8_key(64, 48)), simple(2, 40, OPUS)].concat();
    let stream = [head(&entries), cluster(0), early.clone(), late.clone()].concat();
    let events = whole(&stream);
    assert_eq!(order(&events), "T21212");
    assert_eq!(kind(&told(&events)[0][0]), "video");

    let limits = Limits { header_bytes: 300, ..Limits::default() };
    let (events, end) = demux(&stream, &[usize::MAX], limits);
    end.unwrap();
    assert_eq!(order(&events), "T22T12");
    assert_eq!(told(&events).iter().map(|tracks| kind(&tracks[0])).collect::<Vec<_>>(), ["other", "video"]);

    let stream = [head(&entries), cluster(0), early.clone(), cluster(10_001), simple(2, 0, OPUS), late].concat();
    assert_eq!(order(&whole(&stream)), "T222T12");

    let never = [head(&entries), cluster(0), early].concat();
    assert_eq!(order(&whole(&never)), "T22");
}

#[test]
fn a_change_of_size_is_told_before_its_key_frame() {
    let keys = [(0, 64), (10, 64), (20, 32)].map(|(at, width)| simple(1, at, &vp8_key(width, 48)));
    let events = whole(&[head(&[track(1, 1, "V_VP8", &[])]), cluster(0), keys.concat()].concat());
    assert_eq!(order(&events), "T11T1");
    let widths = told(&events).into_iter().map(|tracks| match &tracks[0].format {
        Format::Video(video) => video.width,
        other => panic!("{other:?}"),
    });
    assert_eq!(widths.collect::<Vec<_>>(), [64, 32]);
}

#[test]
fn a_repeated_set_up_is_told_once_and_another_again() {
    let same = tracks(&[opus(1, &[])]);
    let other = tracks(&[opus(1, &[]), opus(2, &[])]);
    let start = head(&[opus(1, &[])]);
    let stream = [start, cluster(0), simple(1, 0, OPUS), same, cluster(20), simple(1, 0, OPUS), other, cluster(40)];
    let events = whole(&[stream.concat(), simple(2, 0, OPUS)].concat());
    assert_eq!(order(&events), "T11T2");
}

#[test]
fn codec_delay_is_taken_off_rounded() {
    let delay = uint(id::CODEC_DELAY, 6_500_000);
    let stream = [head(&[opus(1, &[delay])]), cluster(0), simple(1, 0, OPUS), simple(1, 21, OPUS)].concat();
    assert_eq!(times(&whole(&stream)), [(1, -7, None), (1, 14, None)]);
}

#[test]
fn times_within_a_lace() {
    let lace = |entry: Vec<u8>, duration: Option<u64>| {
        let block = block(1, 3, 0x04, &[&[2][..], &OPUS.repeat(3)].concat());
        let duration = duration.map(|duration| uint(id::BLOCK_DURATION, duration)).unwrap_or_default();
        let group = element(id::BLOCK_GROUP, &[element(id::BLOCK, &block), duration].concat());
        times(&whole(&[head(&[entry]), cluster(100), group].concat()))
    };
    let even = [(1, 103, Some(20)), (1, 123, Some(20)), (1, 143, Some(20))];
    assert_eq!(lace(opus(1, &[]), None), even);
    let each = uint(id::DEFAULT_DURATION, 21_333_333);
    assert_eq!(lace(opus(1, &[each]), None), [(1, 103, Some(21)), (1, 124, Some(22)), (1, 146, Some(21))]);
}

#[test]
fn groups_tell_their_duration() {
    let group = |parts: &[Vec<u8>]| element(id::BLOCK_GROUP, &parts.concat());
    let opus_block = element(id::BLOCK, &block(1, 0, 0, OPUS));
    let stream = [
        head(&[opus(1, &[])]),
        cluster(0),
        group(&[opus_block.clone(), uint(id::BLOCK_DURATION, 20)]),
        group(&[uint(id::BLOCK_DURATION, 20)]),
        group(&[opus_block]),
    ];
    assert_eq!(times(&whole(&stream.concat())), [(1, 0, Some(20)), (1, 0, None)]);
}

#[test]
fn timescales() {
    let scaled = |scale: u64, at: u64| {
        let stream = [ebml("webm"), open(id::SEGMENT), tracks(&[opus(1, &[])]), info(scale), cluster(at)].concat();
        demux(&[stream, simple(1, 1, OPUS)].concat(), &[usize::MAX], Limits::default())
    };
    let clock = |scale: u64| {
        let (events, end) = scaled(scale, 10);
        end.unwrap();
        (told(&events)[0][0].timescale.get(), times(&events)[0].1)
    };
    assert_eq!(clock(1_000_000), (1000, 11));
    assert_eq!(clock(1), (1_000_000_000, 11));
    assert_eq!(clock(1_000_000_000), (1, 11));
    assert_eq!(clock(20_833), (1_000_000_000, 11 * 20_833));
    assert_eq!(clock(2_000_000_000), (1_000_000_000, 22_000_000_000));
    assert!(matches!(scaled(0, 0).1, Err(Error::BadMedia(_))));
    assert!(matches!(scaled(20_833, u64::MAX / 2).1, Err(Error::BadMedia(_))));
    let without = [ebml("webm"), open(id::SEGMENT), tracks(&[opus(1, &[])]), cluster(9), simple(1, 0, OPUS)].concat();
    assert_eq!(times(&whole(&without)), [(1, 9, None)]);
}

#[test]
fn stripped_headers_come_back() {
    let settings = element(id::CONTENT_COMP_SETTINGS, &OPUS[..1]);
    let compression = element(id::CONTENT_COMPRESSION, &[uint(id::CONTENT_COMP_ALGO, 3), settings].concat());
    let encodings = element(id::CONTENT_ENCODINGS, &element(id::CONTENT_ENCODING, &compression));
    let stream = [head(&[opus(1, &[encodings])]), cluster(0), simple(1, 0, &OPUS[1..])].concat();
    assert_eq!(units(&whole(&stream))[0].data, OPUS);
}

#[test]
fn tracks_that_are_not_read_are_listed_and_give_no_units() {
    let zlib = element(id::CONTENT_ENCODINGS, &element(id::CONTENT_ENCODING, &[]));
    let entries = [opus(1, &[zlib]), track(2, 17, "S_TEXT/UTF8", &[]), opus(3, &[])];
    let blocks = [1, 2, 3, 9].map(|number| simple(number, 0, OPUS)).concat();
    let events = whole(&[head(&entries), cluster(0), blocks].concat());
    assert_eq!(order(&events), "T3");
    let other = |kind: &str, codec: &str| Format::Other { kind: kind.into(), codec: codec.into() };
    assert_eq!(told(&events)[0][0].format, other("audio", "A_OPUS (compressed)"));
    assert_eq!(told(&events)[0][1].format, other("text", "S_TEXT/UTF8"));
    assert_eq!(told(&events)[0][2].id, TrackId(3));
}

#[test]
fn a_block_without_bytes_gives_no_unit() {
    let stream = [head(&[opus(1, &[])]), cluster(0), simple(1, 0, &[]), simple(1, 20, OPUS)].concat();
    assert_eq!(times(&whole(&stream)), [(1, 20, None)]);
}

#[test]
fn what_is_skipped_is_not_held() {
    let mut demuxer = Demuxer::new(Limits::default());
    let attachment = [&id_bytes(0x1941_A469)[..], &(1u64 << 56 | 1 << 40).to_be_bytes()].concat();
    demuxer.push([head(&[opus(1, &[])]), attachment].concat().into()).unwrap();
    let mut events = Vec::new();
    for _ in 0..100 {
        demuxer.push(vec![0x55; 1 << 16].into()).unwrap();
        drain(&mut demuxer, &mut events).unwrap();
        assert_eq!(demuxer.input.len(), 0);
    }
    demuxer.finish();
    drain(&mut demuxer, &mut events).unwrap();
    assert_eq!(order(&events), "T");
}

#[test]
fn sizes_are_refused_before_they_are_held() {
    let announced = |id: u32, size: u64| {
        let start = [head(&[opus(1, &[])]), cluster(0), id_bytes(id), (1u64 << 56 | size).to_be_bytes().into()];
        demux(&start.concat(), &[usize::MAX], Limits { header_bytes: 1000, unit_bytes: 100, tracks: 4 }).1
    };
    for (id, most) in [(id::SIMPLE_BLOCK, 100), (id::BLOCK_GROUP, 100), (id::TRACKS, 1000), (id::INFO, 1000)] {
        assert!(matches!(announced(id, most), Err(Error::Truncated(_))), "{id:X}");
        assert!(matches!(announced(id, most + 1), Err(Error::OverLimit(_))), "{id:X}");
    }
}

#[test]
fn malformed_streams_end_with_a_code() {
    let start = head(&[opus(1, &[])]);
    assert_eq!(error(&ebml("html")), Error::UnsupportedContainer);
    assert_eq!(error(&element(id::SEGMENT, &[])), Error::UnsupportedContainer);
    assert_eq!(error(b"\0\0\0\x18ftypisom"), Error::UnsupportedContainer);
    let newer = [uint(id::EBML_READ_VERSION, 2), element(id::DOC_TYPE, b"webm")].concat();
    assert_eq!(error(&element(id::EBML, &newer)), Error::UnsupportedContainer);
    let malformed = [
        [start.clone(), simple(1, 0, OPUS)],
        [start.clone(), [open(id::CLUSTER), simple(1, 0, OPUS)].concat()],
        [start.clone(), [cluster(0), open(id::CLUSTER), simple(1, 0, OPUS)].concat()],
        [start.clone(), open(id::TRACKS)],
        [start.clone(), open(id::SIMPLE_BLOCK)],
        [start.clone(), open(0xEC)],
        [start.clone(), vec![0; 4]],
        [start.clone(), [open(id::SEGMENT), cluster(0), simple(1, 0, OPUS)].concat()],
        [start.clone(), tracks(&[])],
        [start.clone(), [cluster(0), element(id::SIMPLE_BLOCK, &[0x81])].concat()],
        [ebml("webm"), tracks(&[track(1, 2, "A_OPUS", &[element(id::CODEC_PRIVATE, b"OpusHea")])])],
    ];
    for stream in malformed {
        assert_eq!(error(&stream.concat()).code(), "bad_media", "{stream:02x?}");
    }
}

#[test]
fn an_end_between_blocks_is_clean_and_one_within_is_not() {
    let start = [head(&[opus(1, &[])]), cluster(0), simple(1, 0, OPUS)].concat();
    let all = [start.clone(), simple(1, 20, OPUS)].concat();
    for length in start.len()..=all.len() {
        let (events, end) = demux(&all[..length], &[usize::MAX], Limits::default());
        match end {
            Ok(()) => assert!(length == start.len() || length == all.len(), "{length}"),
            Err(error) => assert_eq!(error.code(), "truncated_input"),
        }
        assert_eq!(units(&events).len(), 1 + usize::from(length == all.len()));
    }
    assert_eq!(error(&[ebml("webm"), open(id::SEGMENT)].concat()).code(), "truncated_input");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_chunking_gives_the_same_events(sizes in prop::collection::vec(1usize..400, 1..8)) {
        let stream = restarted();
        prop_assert_eq!(demux(&stream, &sizes, Limits::default()), (whole(&stream), Ok(())));
    }

    #[test]
    fn a_cut_stream_gives_a_prefix(length in 0usize..1500) {
        let all = restarted();
        let cut = &all[..length.min(all.len())];
        let (events, end) = demux(cut, &[usize::MAX], Limits::default());
        prop_assert!(matches!(end, Ok(()) | Err(Error::Truncated(_))));
        prop_assert!(units(&whole(&all)).starts_with(&units(&events)));
    }

    #[test]
    fn changed_bytes_end_in_events_or_an_error(
        flips in prop::collection::vec((0usize..1500, any::<u8>()), 1..6),
        sizes in prop::collection::vec(1usize..400, 1..4),
    ) {
        let mut stream = restarted();
        let length = stream.len();
        for (at, with) in flips {
            stream[at % length] ^= with;
        }
        let at_once = demux(&stream, &[usize::MAX], Limits::default());
        prop_assert_eq!(demux(&stream, &sizes, Limits::default()), at_once);
    }

    #[test]
    fn any_bytes_after_a_header_are_safe(tail in prop::collection::vec(any::<u8>(), 0..300)) {
        let start = [head(&[track(1, 1, "V_MPEG4/ISO/AVC", &[]), opus(2, &[])]), cluster(0)].concat();
        let blocks = [0x80, 0x06, 0x02, 0x04].map(|flags| element(id::SIMPLE_BLOCK, &block(1, 0, flags, &tail)));
        for rest in [blocks.concat(), tail] {
            let stream = [&start[..], &rest].concat();
            prop_assert_eq!(demux(&stream, &[7], Limits::default()), demux(&stream, &[stream.len()], Limits::default()));
        }
    }
}

#[test]
fn times_never_leave_their_range() {
    let each = uint(id::DEFAULT_DURATION, u64::MAX);
    let delay = uint(id::CODEC_DELAY, u64::MAX);
    let start = head(&[opus(1, &[each, delay])]);
    let lace = element(id::SIMPLE_BLOCK, &block(1, 0, 0x04, &[&[2][..], &OPUS.repeat(3)].concat()));
    let stream = [start, cluster(i64::MAX as u64), lace].concat();
    assert!(units(&whole(&stream)).iter().all(|unit| unit.pts <= Ticks(i64::MAX)));
}
