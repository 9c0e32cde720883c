//! Streams made by ffmpeg, whole and damaged; the independent reader is ffprobe.

use std::process::Command;
use std::sync::OnceLock;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{Event, Limits};
use super::Demuxer;
use super::elementary::Found;
use super::packet::PACKET;
use super::video::Video;
use crate::media::codec::annexb;
use crate::media::{AccessUnit, Error, Format, Sync, Ticks, Track, VideoCodec};

pub(super) fn ffmpeg(arguments: &str) -> Vec<u8> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin"])
        .args(arguments.split_whitespace())
        .args(["-f", "mpegts", "-"])
        .output()
        .expect("ffmpeg is installed where tests run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Two seconds of H.264 with B frames, and AAC.
fn clip() -> &'static [u8] {
    static CLIP: OnceLock<Vec<u8>> = OnceLock::new();
    CLIP.get_or_init(|| {
        ffmpeg(
            "-f lavfi -i testsrc2=size=160x120:rate=25 -f lavfi -i sine=sample_rate=48000 -t 2 -c:v libx264 -g 25 -bf 2 \
             -preset veryfast -c:a aac -b:a 64k",
        )
    })
}

pub(super) fn events(bytes: &[u8], chunk: usize) -> Result<Vec<Event>, Error> {
    let mut demuxer = Demuxer::new(Limits::default());
    let mut events = Vec::new();
    for chunk in bytes.chunks(chunk) {
        demuxer.push(Bytes::copy_from_slice(chunk))?;
        while let Some(event) = demuxer.poll()? {
            events.push(event);
        }
    }
    demuxer.finish();
    while let Some(event) = demuxer.poll()? {
        events.push(event);
    }
    Ok(events)
}

fn split(events: Vec<Event>) -> (Vec<Vec<Track>>, Vec<AccessUnit>) {
    let (mut tracks, mut units) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Tracks { tracks: found, .. } => tracks.push(found),
            // Where they lie differs where bytes are put in or left out.
            Event::Unit(unit) => units.push(AccessUnit { offset: 0, ..unit }),
            Event::Data(_) => {}
        }
    }
    (tracks, units)
}

fn read(bytes: &[u8]) -> (Vec<Vec<Track>>, Vec<AccessUnit>) {
    split(events(bytes, 4096).expect("is read"))
}

/// PID, PTS, DTS of every packet, as ffprobe sees it, each track's in its order.
fn probe(bytes: &[u8]) -> Vec<(u32, i64, i64)> {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    std::fs::write(file.path(), bytes).expect("temporary file");
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-correct_ts_overflow", "0", "-of", "csv"])
        .args(["-show_entries", "packet=stream_index,pts,dts:stream=index,id"])
        .arg(file.path())
        .output()
        .expect("ffprobe is installed where tests run");
    let text = String::from_utf8(output.stdout).expect("csv");
    let rows = |kind: &'static str| {
        text.lines().map(|line| line.split(',').collect::<Vec<_>>()).filter(move |row| row[0] == kind)
    };
    let mut pids = std::collections::BTreeMap::new();
    for row in rows("stream") {
        if let Some(pid) = row.get(2).and_then(|id| id.strip_prefix("0x")) {
            pids.insert(row[1].to_owned(), u32::from_str_radix(pid, 16).expect("hexadecimal"));
        }
    }
    let number = |text: &str| text.parse().expect("a number");
    let mut packets: Vec<_> = rows("packet").map(|row| (pids[row[1]], number(row[2]), number(row[3]))).collect();
    packets.sort_by_key(|packet| packet.0);
    packets
}

fn stamps(units: &[AccessUnit]) -> Vec<(u32, i64, i64)> {
    let mut stamps: Vec<_> = units.iter().map(|unit| (unit.track.0, unit.pts.0, unit.dts.0)).collect();
    stamps.sort_by_key(|stamp| stamp.0);
    stamps
}

fn packets(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.chunks(PACKET)
}

fn pid(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[1] & 0x1f, packet[2]])
}

#[test]
fn every_packet_has_the_stamps_that_ffprobe_reads() {
    let video = "-f lavfi -i testsrc2=size=160x120:rate=25";
    let audio = "-f lavfi -i sine=sample_rate=48000";
    for (name, arguments) in [
        ("h264", format!("{video} {audio} -t 2 -c:v libx264 -bf 3 -b_strategy 0 -c:a aac")),
        ("no B frames", format!("{video} -t 1 -c:v libx264 -bf 0 -preset ultrafast")),
        ("slices", format!("{video} -t 1 -c:v libx264 -x264-params slices=4:bframes=2:interlaced=1")),
        ("h265", format!("{video} {audio} -t 2 -c:v libx265 -x265-params log-level=none -c:a ac3")),
        ("mpeg2", format!("{video} {audio} -t 2 -c:v mpeg2video -bf 2 -c:a mp2")),
        ("mpeg2 fields", format!("{video} -t 1 -c:v mpeg2video -flags +ildct+ilme -bf 2")),
        ("m2ts", format!("{video} {audio} -t 1 -c:v libx264 -c:a eac3 -mpegts_m2ts_mode 1")),
        ("mp3", format!("{audio} -t 1 -c:a libmp3lame -ar 48000")),
    ] {
        let bytes = ffmpeg(&arguments);
        let (tracks, units) = read(&bytes);
        assert_eq!(tracks.len(), 1, "{name}");
        assert!(tracks[0].iter().all(|track| !matches!(track.format, Format::Other { .. })), "{name}: {tracks:?}");
        let (ours, theirs) = (stamps(&units), probe(&bytes));
        assert_eq!(ours.len(), theirs.len(), "{name}");
        let different = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
        assert_eq!(different, None, "{name}");
    }
}

#[test]
fn over_the_wrap() {
    let bytes = ffmpeg(
        "-f lavfi -i testsrc2=size=160x120:rate=25 -f lavfi -i sine=sample_rate=48000 -t 6 -c:v libx264 -bf 2 -c:a aac \
         -output_ts_offset 95440",
    );
    let (_, units) = read(&bytes);
    assert!(units.iter().any(|unit| unit.dts.0 < 1 << 33) && units.iter().any(|unit| unit.dts.0 > 1 << 33));
    for track in [0x100, 0x101] {
        let dts: Vec<i64> = units.iter().filter(|unit| unit.track.0 == track).map(|unit| unit.dts.0).collect();
        assert!(dts.windows(2).all(|pair| (1..=3600).contains(&(pair[1] - pair[0]))), "track {track} has no hole");
    }
    let wrapped = |stamps: Vec<(u32, i64, i64)>| -> Vec<_> {
        let wrap = |time: i64| time.rem_euclid(1 << 33);
        stamps.into_iter().map(|(track, pts, dts)| (track, wrap(pts), wrap(dts))).collect()
    };
    assert!(wrapped(stamps(&units)) == wrapped(probe(&bytes)), "stamps modulo 2^33 are those of ffprobe");
}

#[test]
fn units_hold_neither_delimiters_nor_parameter_sets() {
    let (_, units) = read(clip());
    for unit in units.iter().filter(|unit| unit.track.0 == 0x100) {
        let mut rest = &unit.data[..];
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (nal, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            assert!(!matches!(nal[0] & 0x1f, 7 | 8 | 9 | 12), "a NAL unit of type {}", nal[0] & 0x1f);
            rest = after;
        }
        assert!(rest.is_empty());
    }
}

#[test]
fn garbage_between_packets_costs_nothing() {
    let expect = read(clip());
    let mut noisy = vec![0x47; 100];
    for (n, packet) in packets(clip()).enumerate() {
        if n % 50 == 49 {
            noisy.extend((0..n).map(|byte| (byte * 7) as u8 | 1));
        }
        noisy.extend_from_slice(packet);
    }
    assert_eq!(read(&noisy), expect);
}

#[test]
fn repeated_packets_count_once() {
    let twice: Vec<u8> = packets(clip()).flat_map(|packet| [packet, packet].concat()).collect();
    assert_eq!(read(&twice), read(clip()));
}

#[test]
fn scrambled_and_damaged_packets_are_as_if_lost() {
    let damage = |n: usize, packet: &[u8]| {
        let mut packet = packet.to_vec();
        match n % 40 {
            20 => packet[1] |= 0x80,
            39 => packet[3] |= 0xc0,
            _ => {}
        }
        packet
    };
    let damaged: Vec<u8> = packets(clip()).enumerate().flat_map(|(n, packet)| damage(n, packet)).collect();
    let lossy: Vec<u8> =
        packets(clip()).enumerate().filter(|(n, _)| !matches!(n % 40, 20 | 39)).flat_map(|(_, p)| p.to_vec()).collect();
    assert_eq!(read(&damaged), read(&lossy));
}

#[test]
fn a_lost_packet_costs_the_units_that_it_hits() {
    let (_, expect) = read(clip());
    let video = || packets(clip()).enumerate().filter(|(_, packet)| pid(packet) == 0x100);
    // Behind the last picture's first packet a loss can't be seen.
    let last = video().filter(|(_, packet)| packet[1] & 0x40 != 0).last().map_or(0, |(n, _)| n);
    for lost in video().map(|(n, _)| n).filter(|n| *n < last).skip(40).step_by(17) {
        let lossy: Vec<u8> =
            packets(clip()).enumerate().filter(|(n, _)| *n != lost).flat_map(|(_, packet)| packet.to_vec()).collect();
        let (_, units) = read(&lossy);
        assert!(units.iter().all(|unit| expect.contains(unit)), "packet {lost}: no unit is damaged");
        let gone = expect.len() - units.len();
        assert!((1..=2).contains(&gone), "packet {lost}: {gone} units gone");
    }
}

#[test]
fn joined_streams_lose_nothing() {
    let (tracks, one) = read(clip());
    let joined = [clip(), clip()].concat();
    let (joined_tracks, units) = read(&joined);
    assert_eq!(joined_tracks, tracks, "the same set-up is not told again");
    assert_eq!(units.len(), 2 * one.len());
}

#[test]
fn another_set_up_is_told_before_its_units() {
    let other = ffmpeg(
        "-f lavfi -i testsrc2=size=320x240:rate=25 -f lavfi -i sine=sample_rate=44100 -t 1 -c:v libx264 -c:a aac",
    );
    let events = events(&[clip(), &other[..]].concat(), 1000).expect("is read");
    let told: Vec<usize> =
        events.iter().enumerate().filter(|(_, event)| matches!(event, Event::Tracks { .. })).map(|(n, _)| n).collect();
    let pictures = |events: &[Event]| {
        events.iter().filter(|event| matches!(event, Event::Unit(unit) if unit.track.0 == 0x100)).count()
    };
    let [first, second, third] = told[..] else { panic!("first set-up, another picture, another sound: {told:?}") };
    assert_eq!(pictures(&events[first..second.min(third)]), 50);
    let widths = [first, second, third].map(|n| match &events[n] {
        Event::Tracks { tracks, .. } => match &tracks[0].format {
            Format::Video(video) => video.width,
            _ => 0,
        },
        Event::Unit(_) | Event::Data(_) => 0,
    });
    assert_eq!((widths[0], widths[2]), (160, 320));
    assert_eq!(split(events).1.len(), read(clip()).1.len() + read(&other).1.len());
}

#[test]
fn of_several_programmes_the_first_that_can_be_decoded() {
    let bytes = ffmpeg(
        "-f lavfi -i sine=sample_rate=48000 -f lavfi -i testsrc2=size=64x48:rate=25 -f lavfi -i sine=sample_rate=32000 \
         -t 1 -map 0 -map 1 -map 2 -c:a:0 libopus -c:a:1 aac -c:v libx264 -program st=0 -program st=1:st=2",
    );
    let (tracks, units) = read(&bytes);
    let ids: Vec<u32> = tracks[0].iter().map(|track| track.id.0).collect();
    assert_eq!((tracks.len(), ids), (1, vec![0x101, 0x102]));
    assert!(units.iter().all(|unit| unit.track.0 != 0x100));
}

#[test]
fn a_map_that_changes_in_mid_stream() {
    let both = "-f lavfi -i testsrc2=size=64x48:rate=25 -f lavfi -i sine=sample_rate=48000 -t 1 -c:v libx264 -c:a aac";
    let (without, with) = (ffmpeg(&format!("{both} -an")), ffmpeg(both));
    let (tracks, units) = read(&[&without[..], &with, &without].concat());
    let counts: Vec<usize> = tracks.iter().map(Vec::len).collect();
    assert_eq!(counts, [1, 2, 1]);
    assert_eq!(units.len(), 2 * read(&without).1.len() + read(&with).1.len());
}

#[test]
fn a_silent_stream_is_listed_and_holds_up_nothing() {
    let bytes = ffmpeg(
        "-f lavfi -i testsrc2=size=64x48:rate=25 -f lavfi -i sine=sample_rate=48000 -t 7 -c:v libx264 -preset ultrafast \
         -c:a aac",
    );
    let silent: Vec<u8> = packets(&bytes).filter(|packet| pid(packet) != 0x101).flatten().copied().collect();
    let mut demuxer = Demuxer::new(Limits::default());
    let mut told_at = None;
    for (n, packet) in packets(&silent).enumerate() {
        demuxer.push(Bytes::copy_from_slice(packet)).expect("is taken");
        while let Some(event) = demuxer.poll().expect("is read") {
            if let (Event::Tracks { tracks, .. }, None) = (event, told_at) {
                assert!(matches!(&tracks[1].format, Format::Other { kind, .. } if kind == "audio"));
                told_at = Some(n);
            }
        }
    }
    let whole = silent.len() / PACKET;
    assert!(told_at.is_some_and(|at| at > whole / 2 && at < whole), "told after five of seven seconds: {told_at:?}");
    assert_eq!(read(&silent).1.len(), 175, "no picture is lost by the wait");
}

#[test]
fn what_has_no_programme() {
    assert!(matches!(events(&[], 100), Err(Error::Truncated(_))));
    let no_tables: Vec<u8> = packets(clip()).filter(|packet| pid(packet) >= 0x100).flatten().copied().collect();
    let no_tables = no_tables.repeat(8 * 1024 * 1024 / no_tables.len() + 2);
    assert!(matches!(events(&no_tables, 1 << 20), Err(Error::BadMedia(_))));
    assert!(matches!(events(&vec![0; 9 << 20], 1 << 20), Err(Error::BadMedia(_))));
}

#[test]
fn an_access_unit_without_end_is_refused() {
    let mut demuxer = Demuxer::new(Limits { unit_bytes: 1000, ..Limits::default() });
    demuxer.push(Bytes::from_static(clip())).expect("is taken");
    let result = std::iter::from_fn(|| demuxer.poll().transpose()).find(Result::is_err);
    assert!(matches!(result, Some(Err(Error::OverLimit(_)))));
}

#[test]
fn pictures_of_one_pes_are_stamped_by_their_order() {
    let of = |arguments: &str, format: &str| {
        let source = format!("-f lavfi -i testsrc2=size=160x120:rate=25 -t 3 {arguments} -threads 1 -f {format}");
        let output = Command::new("ffmpeg").args(["-v", "error"]).args(source.split(' ')).arg("-").output();
        output.expect("ffmpeg is installed where tests run").stdout
    };
    for (codec, arguments, format) in [
        (VideoCodec::H264, "-c:v libx264 -preset veryfast -g 25 -bf 3 -b_strategy 0", "h264"),
        (VideoCodec::H264, "-c:v libx264 -preset veryfast -g 25 -bf 0", "h264"),
        (VideoCodec::Mpeg2, "-c:v mpeg2video -g 12 -bf 2", "mpeg2video"),
        (VideoCodec::Mpeg2, "-c:v mpeg2video -g 12 -bf 2 -flags +cgop -sc_threshold 1000000000", "mpeg2video"),
    ] {
        let (_, units) = read(&of(arguments, "mpegts"));
        let expect: Vec<_> = units.iter().map(|unit| (unit.pts, unit.dts, unit.data.clone())).collect();
        let (mut video, mut found) = (Video::new(codec, "", 1 << 24), Vec::new());
        video.begin(Some((expect[0].0, expect[0].1)), 0, &mut found);
        video.data(&of(arguments, format), &mut found).expect("is in bounds");
        video.flush(&mut found);
        let stamped = |found| if let Found::Unit(unit) = found { Some((unit.pts, unit.dts, unit.data)) } else { None };
        let stamped: Vec<_> = found.into_iter().filter_map(stamped).collect();
        assert_eq!(stamped.len(), expect.len(), "{arguments}");
        let times = |list: &[(Ticks, Ticks, Bytes)]| list.iter().map(|unit| (unit.0.0, unit.1.0)).collect::<Vec<_>>();
        assert_eq!(times(&stamped), times(&expect), "{arguments}");
    }
}

#[test]
fn a_stream_of_which_only_scrambled_packets_come_is_named_so_and_holds_up_nothing() {
    let bytes = ffmpeg(
        "-f lavfi -i testsrc2=size=320x240:rate=25 -f lavfi -i sine=sample_rate=48000 -t 2 -c:v libx264 -preset ultrafast \
         -b:v 3M -c:a aac",
    );
    let scramble = |packet: &[u8]| {
        let mut packet = packet.to_vec();
        if pid(&packet) == 0x100 {
            packet[3] |= 0x80;
        }
        packet
    };
    let scrambled: Vec<u8> = packets(&bytes).flat_map(scramble).collect();
    let (tracks, units) = read(&scrambled);
    let Format::Other { codec, .. } = &tracks[0][0].format else { panic!("{tracks:?}") };
    assert_eq!(codec, "0x1b (scrambled)");
    assert!(units.iter().all(|unit| unit.track.0 == 0x101) && units.len() > 90);
}

#[test]
fn streams_that_are_announced_and_never_come_are_a_truncated_input() {
    let tables: Vec<u8> = packets(clip())
        .filter(|packet| pid(packet) < 0x100 || pid(packet) == 0x1000)
        .take(3)
        .flatten()
        .copied()
        .collect();
    assert!(matches!(events(&tables, 188), Err(Error::Truncated(_))));
}

#[test]
fn another_pps_each_group_is_no_other_set_up() {
    let of = |offset: i32| {
        let arguments = format!(
            "-f lavfi -i testsrc2=size=160x120:rate=25 -t 1 -c:v libx264 -g 25 -threads 1 -x264-params chroma-qp-offset={offset}"
        );
        ffmpeg(&arguments)
    };
    let (tracks, units) = read(&[of(3), of(-2), of(3), of(-2)].concat());
    assert_eq!(tracks.len(), 1);
    assert_eq!(units.len(), 100);
    let kinds = |unit: &AccessUnit| annexb::length_prefixed(&unit.data).map(|nal| nal[0] & 31).collect::<Vec<_>>();
    for entry in units.iter().filter(|unit| unit.sync != Sync::No).skip(1) {
        assert!(kinds(entry).starts_with(&[7, 8]), "{:?}", kinds(entry));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_chunking_gives_the_same_events(chunk in 1usize..5000) {
        let start = &clip()[..clip().len().min(60_000)];
        prop_assert_eq!(events(start, chunk), events(start, usize::MAX));
    }

    #[test]
    fn flipped_bytes_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..200)) {
        let mut bytes = clip()[..clip().len().min(60_000)].to_vec();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = events(&bytes, 1000);
    }

    #[test]
    fn shuffled_packets_never_panic(order in prop::collection::vec(any::<prop::sample::Index>(), 1..300)) {
        let all: Vec<&[u8]> = packets(clip()).collect();
        let bytes: Vec<u8> = order.iter().flat_map(|index| index.get(&all).to_vec()).collect();
        let _ = events(&bytes, 1000);
    }
}
