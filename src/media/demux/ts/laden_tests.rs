//! Streams of ffmpeg's with data in them that was made by hand.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::super::Event;
use super::packet::PACKET;
use super::tests::{events, ffmpeg};
use crate::media::{DataKind, DataUnit};

#[allow(dead_code)]
#[path = "../../../../tests/support/data.rs"]
mod data;

/// First PTS of a programme whose clock wraps after a second or so.
const WRAP: u64 = 1 << 33;

/// Pictures around the wrap of the clock; a splice message and a tag before the first of them, metadata without a time
/// of its own behind the fifth, and a section over two packets.
fn laden() -> &'static [u8] {
    static CLIP: OnceLock<Vec<u8>> = OnceLock::new();
    CLIP.get_or_init(|| {
        let clip = ffmpeg(
            "-f lavfi -i testsrc2=size=160x120:rate=25 -t 2 -c:v libx264 -g 25 -bf 0 -preset veryfast \
             -output_ts_offset 95441",
        );
        let mut long = data::splice_insert(3, 9000, 1);
        long.truncate(long.len() - 6);
        let descriptor = [&[0x00, 200][..], b"CUEI", &[0; 196]].concat();
        long.extend((descriptor.len() as u16).to_be_bytes());
        long.extend(descriptor);
        let length = long.len() as u16 - 3 + 4;
        long[1..3].copy_from_slice(&(0x3000 | length).to_be_bytes());
        long.extend(super::crc32(&long).to_be_bytes());
        let mut without_time = data::pes(0, b"klv");
        without_time[7] = 0;
        let streams = [
            data::Stream {
                pid: 0x500,
                stream_type: 0x86,
                descriptors: b"",
                units: vec![(0, data::splice_insert(1, 100, 1)), (20, long)],
            },
            data::Stream {
                pid: 0x501,
                stream_type: 0x15,
                descriptors: b"\x26\x0d\xff\xffID3 \xffID3 \x00\x0f",
                units: vec![(0, data::pes(WRAP - 1000, &data::id3("tag")))],
            },
            data::Stream {
                pid: 0x502,
                stream_type: 0x06,
                descriptors: b"\x05\x04KLVA",
                units: vec![(0, without_time.clone()), (5, without_time)],
            },
        ];
        data::with_streams(&clip, b"\x05\x04CUEI", &streams)
    })
}

fn units(events: &[Event]) -> Vec<&DataUnit> {
    events.iter().filter_map(|event| if let Event::Data(unit) = event { Some(unit) } else { None }).collect()
}

#[test]
fn data_is_told_with_its_time_over_the_wrap_and_its_place() {
    let events = events(laden(), 1000).expect("is read");
    assert!(matches!(events[0], Event::Tracks { .. }), "the set-up comes first");
    let pictures: Vec<i64> =
        events.iter().filter_map(|event| if let Event::Unit(unit) = event { Some(unit.pts.0) } else { None }).collect();
    let units = units(&events);
    let told: Vec<(DataKind, i64)> = units.iter().map(|unit| (unit.kind, unit.pts.0)).collect();
    let wrap = WRAP as i64;
    // What came before any time stamp is placed by the first.
    let expect = [
        (DataKind::Scte35, wrap + 100),
        (DataKind::Id3, wrap - 1000),
        (DataKind::Klv, pictures[0]),
        (DataKind::Klv, pictures[4]),
        (DataKind::Scte35, wrap + 9000),
    ];
    assert_eq!(told, expect);
    for unit in units {
        let packet = &laden()[unit.offset as usize..][..PACKET];
        let pid = unit.track.map(|track| track.0 as u16).expect("it has a track");
        assert_eq!(packet[..3], [0x47, 0x40 | (pid >> 8) as u8, pid as u8], "a unit begins at its offset");
    }
}

#[test]
fn damage_to_data_costs_no_picture() {
    let mut bytes = laden().to_vec();
    let mut hit = 0;
    for packet in bytes.chunks_exact_mut(PACKET).filter(|packet| packet[1] & 0x1f == 5) {
        packet[40] ^= 0xff;
        hit += 1;
    }
    assert_eq!(hit, 6);
    let count = |events: &[Event]| events.iter().filter(|event| matches!(event, Event::Unit(_))).count();
    let (whole, damaged) = (events(laden(), 1000).expect("is read"), events(&bytes, 1000).expect("is read"));
    assert_eq!((count(&whole), count(&damaged)), (50, 50));
    assert!(units(&damaged).iter().all(|unit| unit.kind != DataKind::Scte35), "their checksums are wrong");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_gives_the_same_data(chunk in 1usize..5000) {
        prop_assert_eq!(events(laden(), chunk), events(laden(), usize::MAX));
    }

    #[test]
    fn flipped_bytes_in_data_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200)) {
        let mut bytes = laden().to_vec();
        let data: Vec<usize> = (0..bytes.len()).filter(|at| bytes[at - at % PACKET + 1] & 0x1f == 5).collect();
        for (at, byte) in flips {
            bytes[*at.get(&data)] = byte;
        }
        let _ = events(&bytes, 1000);
    }
}
