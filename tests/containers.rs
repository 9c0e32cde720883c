//! The same elementary streams in every container are the same access units, and what plays of an edited file is the
//! same for libav. ffmpeg makes the files and is the second reader.

use std::path::{Path, PathBuf};
use std::process::Command;

use bytes::Bytes;
use segmill::media::codec::annexb;
use segmill::media::demux::{Demuxer, Event, Limits, Spool};
use segmill::media::mux::{OutTrack, Part, Sample, cmaf, ts};
use segmill::media::{AccessUnit, AudioCodec, Error, Format, Sync, Ticks, Timescale, Track, VideoCodec};

#[derive(Default)]
struct Memory(Vec<u8>);

impl Spool for Memory {
    fn append(&mut self, data: &[u8]) -> Result<(), Error> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, Error> {
        let at = offset as usize;
        self.0.get(at..at + length).map(Bytes::copy_from_slice).ok_or(Error::ScratchFailed("past the end".into()))
    }
}

/// What a file holds: the tracks as told last, how often they were told, the units.
struct Read {
    tracks: Vec<Track>,
    told: usize,
    units: Vec<AccessUnit>,
}

fn read(file: &Path) -> Read {
    let bytes = Bytes::from(std::fs::read(file).unwrap());
    let mut demuxer = Demuxer::new(None, Limits::default(), Box::new(Memory::default()));
    let mut read = Read { tracks: Vec::new(), told: 0, units: Vec::new() };
    demuxer.push(bytes).unwrap();
    demuxer.finish();
    while let Some(event) = demuxer.poll().unwrap_or_else(|error| panic!("{}: {error}", file.display())) {
        match event {
            Event::Tracks { tracks, .. } => (read.tracks, read.told) = (tracks, read.told + 1),
            Event::Unit(unit) => read.units.push(unit),
            Event::Data(_) => {}
        }
    }
    read
}

impl Read {
    fn track(&self, video: bool) -> &Track {
        let of_kind = |track: &&Track| match &track.format {
            Format::Video(_) => video,
            Format::Audio(_) => !video,
            Format::Other { .. } => false,
        };
        self.tracks.iter().find(of_kind).expect("it has such a track")
    }

    fn of(&self, video: bool) -> Vec<&AccessUnit> {
        let id = self.track(video).id;
        self.units.iter().filter(|unit| unit.track == id).collect()
    }

    /// In decode order: the data, the PTS after the first unit's in nanoseconds, whether decoding can start.
    fn content(&self, video: bool) -> Vec<(Bytes, i64, bool)> {
        let timescale = self.track(video).timescale;
        let units = self.of(video);
        let first = units.first().map_or(Ticks(0), |unit| unit.pts);
        let nanoseconds = |pts: Ticks| (pts - first).nearest(timescale, Timescale::new(1_000_000_000).unwrap()).0;
        units.iter().map(|unit| (unit.data.clone(), nanoseconds(unit.pts), unit.sync != Sync::No)).collect()
    }
}

fn ffmpeg(folder: &Path, arguments: &str) {
    let arguments = arguments.split_whitespace().map(|argument| argument.replace('~', folder.to_str().unwrap()));
    let output = Command::new("ffmpeg").args(["-v", "error", "-nostdin", "-y"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

const CONTAINERS: [(&str, &str); 5] = [
    ("progressive.mp4", ""),
    ("index-first.mp4", "-movflags faststart"),
    ("fragmented.mp4", "-movflags frag_keyframe+delay_moov+default_base_moof"),
    ("matroska.mkv", ""),
    ("transport.ts", "-muxpreload 0 -muxdelay 0"),
];

/// Encodes once and puts the same streams into every container.
fn in_every_container(codecs: &str) -> (tempfile::TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let sources = "-f lavfi -i testsrc2=size=128x96:rate=25 -f lavfi -i sine=sample_rate=48000 -t 4";
    // SEI and filler differ in where muxers leave them; they are no part of what is compared.
    ffmpeg(folder.path(), &format!("{sources} {codecs} ~/source.mkv"));
    let files = CONTAINERS.map(|(name, options)| {
        ffmpeg(folder.path(), &format!("-i ~/source.mkv -c copy {options} ~/{name}"));
        folder.path().join(name)
    });
    (folder, files.to_vec())
}

/// Timestamps of Matroska are whole milliseconds, those of the source from which all are made.
const MILLISECOND: i64 = 1_000_000;

#[test]
fn the_same_streams_in_every_container_are_the_same_access_units() {
    let no_sei = "-bsf:v filter_units=remove_types=6";
    for codecs in [
        format!("-c:v libx264 -preset veryfast -g 25 -bf 0 {no_sei} -c:a aac"),
        format!("-c:v libx264 -preset veryfast -g 30 -bf 3 -b_strategy 0 -refs 4 {no_sei} -c:a ac3"),
        format!("-c:v libx264 -preset veryfast -g 12 -bf 2 -x264-params slices=3:aud=1 {no_sei} -c:a libmp3lame"),
        "-c:v libx265 -preset ultrafast -bf 3 -x265-params log-level=none:keyint=20:open-gop=0:info=0 -bsf:v \
         filter_units=remove_types=39 -c:a eac3"
            .to_owned(),
    ] {
        let (_folder, files) = in_every_container(&codecs);
        let first = read(&files[0]);
        for file in &files[1..] {
            let other = read(file);
            for video in [true, false] {
                let (expect, found) = (first.content(video), other.content(video));
                assert_eq!(found.len(), expect.len(), "{codecs}: {}", file.display());
                for (n, (found, expect)) in found.iter().zip(&expect).enumerate() {
                    let place = format!("{codecs}: {}, unit {n}, video {video}", file.display());
                    assert!(found.0 == expect.0, "{place}: other bytes, {} and {}", found.0.len(), expect.0.len());
                    assert_eq!(found.2, expect.2, "{place}: entry point");
                    assert!((found.1 - expect.1).abs() <= MILLISECOND, "{place}: {} and {}", found.1, expect.1);
                }
            }
        }
    }
}

/// What libav decodes of a file's pictures: the PTS of each, in the stream's ticks.
fn frames(file: &Path) -> Vec<i64> {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v", "-show_entries", "frame=pts", "-of", "csv=p=0"])
        .arg(file)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(',').next()?.parse().ok()).collect()
}

#[test]
fn of_an_edited_file_the_pictures_are_presented_that_libav_presents() {
    let folder = tempfile::tempdir().unwrap();
    let source = "-f lavfi -i testsrc2=size=128x96:rate=25 -f lavfi -i sine=sample_rate=48000 -t 6 -c:v libx264";
    ffmpeg(folder.path(), &format!("{source} -preset veryfast -g 50 -bf 2 -c:a aac ~/whole.mp4"));
    // From the middle of a group of pictures; the third also from its second group on.
    for (name, cut) in
        [("a.mp4", "-ss 1.3"), ("b.mp4", "-ss 0.5 -t 3"), ("c.mp4", "-ss 2.7"), ("d.mp4", "-itsoffset 1")]
    {
        ffmpeg(folder.path(), &format!("{cut} -i ~/whole.mp4 -c copy ~/{name}"));
        let file = folder.path().join(name);
        let read = read(&file);
        let mut presented: Vec<i64> = read.of(true).iter().map(|unit| unit.pts.0).filter(|pts| *pts >= 0).collect();
        presented.sort_unstable();
        // Where an edit starts between two pictures, libav moves all that the first is at 0.
        let frames = frames(&file);
        let from_first = |times: &[i64]| times.iter().map(|time| time - times[0]).collect::<Vec<_>>();
        assert_eq!(from_first(&presented), from_first(&frames), "{name}");
        assert!((presented[0] - frames[0]).abs() < 512, "{name}: by less than a picture");
        let before = read.of(true).iter().filter(|unit| unit.pts.0 < 0).count();
        assert!(before < 50, "{name}: no more than the last group before the start is given: {before}");
    }
}

#[test]
fn the_end_of_an_edit_is_the_end_of_the_presentation() {
    let folder = tempfile::tempdir().unwrap();
    let source = "-f lavfi -i testsrc2=size=128x96:rate=25 -t 4 -c:v libx264 -preset veryfast -g 25 -bf 2";
    ffmpeg(folder.path(), &format!("{source} ~/whole.mp4"));
    let mut bytes = std::fs::read(folder.path().join("whole.mp4")).unwrap();
    let elst = bytes.windows(4).position(|kind| kind == b"elst").unwrap() + 12;
    // Of four seconds, two and a half: the movie's ticks are milliseconds.
    bytes[elst..elst + 4].copy_from_slice(&2500u32.to_be_bytes());
    let file = folder.path().join("cut.mp4");
    std::fs::write(&file, bytes).unwrap();
    let read = read(&file);
    let mut presented: Vec<i64> = read.of(true).iter().map(|unit| unit.pts.0).collect();
    presented.sort_unstable();
    // Pictures that others refer to are given though they are past the end.
    let past = presented.len() - frames(&file).len();
    assert!(past <= 1, "{past} pictures past the end");
    assert!(presented.starts_with(&frames(&file)));
}

#[test]
fn a_segment_decodes_alone_where_parameter_sets_vary() {
    let folder = tempfile::tempdir().unwrap();
    for (name, offset) in [("a", 3), ("b", -2)] {
        let source = "-f lavfi -i testsrc2=size=128x96:rate=25 -t 1 -c:v libx264 -preset veryfast -g 25 -threads 1";
        ffmpeg(folder.path(), &format!("{source} -x264-params chroma-qp-offset={offset} -f mpegts ~/{name}.ts"));
    }
    let part = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let file = folder.path().join("varying.ts");
    std::fs::write(&file, [part("a.ts"), part("b.ts"), part("a.ts"), part("b.ts")].concat()).unwrap();
    let read = read(&file);
    assert_eq!(read.told, 1, "one set-up for all");
    let Format::Video(video) = &read.track(true).format else { panic!("no video") };
    let units = read.of(true);
    let entries: Vec<usize> = (0..units.len()).filter(|&n| units[n].sync == Sync::Idr).collect();
    assert_eq!(entries, [0, 25, 50, 75]);
    let (sets, _) = segmill::media::codec::h264::ParameterSets::from_avcc(&video.config).unwrap();
    let alone = |n: usize| {
        let group = units[n..n + 25].iter().flat_map(|unit| annexb::length_prefixed(&unit.data));
        let nals = sets.sps.iter().chain(&sets.pps).map(|set| &set[..]).chain(group);
        let stream: Vec<u8> = nals.flat_map(|nal| [&[0, 0, 0, 1], nal].concat()).collect();
        std::fs::write(folder.path().join("alone.h264"), stream).unwrap();
        md5s(&folder.path().join("alone.h264"))
    };
    for (n, name) in entries.into_iter().zip(["a.ts", "b.ts", "a.ts", "b.ts"]) {
        assert_eq!(alone(n), md5s(&folder.path().join(name)), "the group at {n}");
    }
}

/// The md5 of every picture that ffmpeg decodes.
fn md5s(file: &Path) -> Vec<String> {
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-i"])
        .arg(file)
        .args(["-an", "-fps_mode", "passthrough", "-f", "framemd5", "-"])
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let frames = text.lines().filter(|line| !line.starts_with('#'));
    frames.filter_map(|line| Some(line.rsplit(',').next()?.trim().to_owned())).collect()
}

#[test]
fn a_copy_that_begins_before_its_presentation_is_read_with_its_own_times() {
    let folder = tempfile::tempdir().unwrap();
    let source = "-f lavfi -i testsrc2=size=128x96:rate=25 -t 4 -c:v libx264 -preset veryfast -g 50 -bf 2";
    ffmpeg(folder.path(), &format!("{source} ~/whole.mp4"));
    ffmpeg(folder.path(), "-ss 1.3 -i ~/whole.mp4 -c copy ~/cut.mp4");
    let read = read(&folder.path().join("cut.mp4"));
    let units = read.of(true);
    let earliest = units.iter().map(|unit| unit.pts.0).min().unwrap();
    assert!(earliest < 0, "there are pictures before the start");
    let Track { timescale, format, .. } = read.track(true).clone();
    let track = OutTrack { number: 1, timescale, language: None, format };
    let lead = Ticks(-earliest);
    let samples: Vec<Sample> = units
        .iter()
        .map(|unit| Sample { pts: unit.pts + lead, sync: unit.sync != Sync::No, data: unit.data.clone() })
        .collect();
    let end = units.iter().map(|unit| unit.pts).max().unwrap() + lead + Ticks(512);
    let init = cmaf::init_led(std::slice::from_ref(&track), lead).unwrap();
    let segment = cmaf::segment(1, &[Part { track: &track, samples: &samples, end }]).unwrap();
    let file = folder.path().join("copy.mp4");
    std::fs::write(&file, [init, segment].concat()).unwrap();
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-show_entries", "packet=pts", "-of", "csv=p=0"])
        .arg(&file)
        .output()
        .unwrap();
    let pts: Vec<i64> = String::from_utf8(output.stdout).unwrap().lines().map(|pts| pts.parse().unwrap()).collect();
    assert_eq!(pts, units.iter().map(|unit| unit.pts.0).collect::<Vec<_>>());
    assert_eq!(read_again(&file), pts, "and our own demuxer agrees");
}

/// `segmill push` of a file, copied, with a service inside the process: its exit code, what it printed.
fn push(file: &Path, out: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_segmill"))
        .arg("push")
        .arg(file)
        .args(["--json", "--segment-ms", "1000", "--outputs", r#"[{"name":"v","video":{"codec":"copy"}}]"#, "--out"])
        .arg(out)
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_trimmed_clip_is_copied_whole_and_counted_by_what_is_presented() {
    let folder = tempfile::tempdir().unwrap();
    let source = "-f lavfi -i testsrc2=size=128x96:rate=25 -t 6 -c:v libx264 -preset veryfast -g 50 -bf 2";
    ffmpeg(folder.path(), &format!("{source} ~/whole.mp4"));
    ffmpeg(folder.path(), "-ss 2.6 -i ~/whole.mp4 -c copy ~/cut.mp4");
    let (file, out) = (folder.path().join("cut.mp4"), folder.path().join("out"));
    let (code, said) = push(&file, &out);
    assert_eq!(code, Some(0), "{said}");
    let source = read(&file);
    let times: Vec<i64> = source.of(true).iter().map(|unit| unit.pts.0).collect();
    let presented = times.iter().filter(|pts| **pts >= 0).count();
    assert!(presented < times.len(), "there are pictures before the start");
    let done = said.lines().find(|line| line.contains(r#""type":"done""#)).unwrap();
    assert!(done.contains(&format!(r#""frames_in":{presented},"frames_out":{{"v":{presented}}}"#)), "{done}");
    let mut parts: Vec<PathBuf> =
        std::fs::read_dir(out.join("v")).unwrap().map(|entry| entry.unwrap().path()).collect();
    parts.retain(|path| path.extension().is_some_and(|suffix| suffix == "mp4" || suffix == "m4s"));
    // The init comes first.
    parts.sort_by_key(|path| (path.extension() != Some("mp4".as_ref()), path.clone()));
    assert!(parts.len() > 2, "{parts:?}");
    let bytes: Vec<u8> = parts.iter().flat_map(|path| std::fs::read(path).unwrap()).collect();
    let joined = folder.path().join("joined.mp4");
    std::fs::write(&joined, bytes).unwrap();
    assert_eq!(read_again(&joined), times);
}

#[test]
fn an_edit_list_that_changes_the_speed_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    ffmpeg(folder.path(), "-f lavfi -i testsrc2=size=128x96:rate=25 -t 1 -c:v libx264 ~/whole.mp4");
    let mut bytes = std::fs::read(folder.path().join("whole.mp4")).unwrap();
    let rate = bytes.windows(4).position(|kind| kind == b"elst").unwrap() + 4 + 8 + 8;
    assert_eq!(bytes[rate..rate + 4], [0, 1, 0, 0]);
    bytes[rate..rate + 4].copy_from_slice(&[0, 0, 0x80, 0]);
    let file = folder.path().join("slow.mp4");
    std::fs::write(&file, bytes).unwrap();
    let (code, said) = push(&file, &folder.path().join("out"));
    assert_eq!(code, Some(3));
    assert!(said.contains("unsupported_edit_list"), "{said}");
}

fn read_again(file: &Path) -> Vec<i64> {
    read(file).of(true).iter().map(|unit| unit.pts.0).collect()
}

mod muxers {
    use proptest::prelude::*;

    use super::*;

    /// Presentation times in decode order: groups of an anchor and the pictures that are presented before it.
    fn pictures() -> impl Strategy<Value = Vec<i64>> {
        let group = (0usize..5, prop::collection::vec(1i64..200_000, 5));
        prop::collection::vec(group, 1..40).prop_map(|groups| {
            let (mut time, mut pts) = (0, Vec::new());
            for (before, steps) in groups {
                let times: Vec<i64> = steps[..=before]
                    .iter()
                    .map(|step| {
                        time += step;
                        time
                    })
                    .collect();
                pts.extend(times.last().copied().into_iter().chain(times[..before].iter().rev().copied()));
            }
            pts
        })
    }

    fn video(codec: VideoCodec) -> Format {
        use segmill::media::{Chroma, Colour, Hdr, Video};
        // The sets of a stream of 160x120 by x264.
        let sets = segmill::media::codec::h264::ParameterSets {
            sps: vec![Bytes::from_static(&[
                0x67, 0x64, 0, 0x0b, 0xac, 0xd9, 0x42, 0x84, 0x7e, 0x5c, 4, 0x40, 0, 0, 3, 0, 0x40, 0, 0, 0x0c, 0x83,
                0xc5, 0x0a, 0x65, 0x80,
            ])],
            pps: vec![Bytes::from_static(&[0x68, 0xef, 0x8f, 0x34, 0x8d])],
        };
        match codec {
            VideoCodec::H264 => Format::Video(sets.video().unwrap()),
            codec => Format::Video(Video {
                codec,
                config: Bytes::new(),
                codec_string: "vp8".into(),
                width: 160,
                height: 120,
                sample_aspect: (1, 1),
                rotation: 0,
                bit_depth: 8,
                chroma: Chroma::C420,
                colour: Colour::default(),
                hdr: Hdr::default(),
                interlaced: false,
                frame_rate: None,
            }),
        }
    }

    fn track(timescale: u32) -> OutTrack {
        let format = video(VideoCodec::H264);
        OutTrack { number: 1, timescale: Timescale::new(timescale).unwrap(), language: None, format }
    }

    /// Slices that differ, so that a mix-up shows: the first IDR, the others not.
    fn samples(pts: &[i64], from: i64) -> Vec<Sample> {
        let slice = |n: usize| {
            let nal = [if n == 0 { 0x65 } else { 0x41 }, 0x88, 0x80 | (n as u8 & 0x7f), (n >> 7) as u8 | 0x80];
            Bytes::from([&4u32.to_be_bytes()[..], &nal].concat())
        };
        let sample = |(n, pts): (usize, &i64)| Sample { pts: Ticks(from + pts), sync: n == 0, data: slice(n) };
        pts.iter().enumerate().map(sample).collect()
    }

    fn units(bytes: &[Bytes]) -> Vec<(i64, Bytes)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes.concat()).unwrap();
        read(file.path()).units.into_iter().map(|unit| (unit.pts.0, unit.data)).collect()
    }

    fn given(samples: &[Sample]) -> Vec<(i64, Bytes)> {
        samples.iter().map(|sample| (sample.pts.0, sample.data.clone())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_as_cmaf_is_read_back_to_the_tick(
            one in pictures(), two in pictures(), timescale in 1000u32..10_000_000, from in 0i64..1 << 62,
        ) {
            let track = track(timescale);
            let first = samples(&one, from);
            let join = first.iter().map(|sample| sample.pts).max().unwrap() + Ticks(1000);
            let second = samples(&two, join.0);
            let end = second.iter().map(|sample| sample.pts).max().unwrap() + Ticks(1000);
            let start = second.iter().map(|sample| sample.pts).min().unwrap();
            let bytes = [
                cmaf::init(std::slice::from_ref(&track)).unwrap(),
                cmaf::segment(1, &[Part { track: &track, samples: &first, end: start }]).unwrap(),
                cmaf::segment(2, &[Part { track: &track, samples: &second, end }]).unwrap(),
            ];
            prop_assert_eq!(units(&bytes), [given(&first), given(&second)].concat());
        }

        #[test]
        fn what_is_written_as_a_transport_stream_is_read_back_to_the_tick(
            one in pictures(), two in pictures(), hours in 0i64..100,
        ) {
            let track = track(90_000);
            let first = samples(&one, 90_000 + hours * 3600 * 90_000);
            let join = first.iter().map(|sample| sample.pts).max().unwrap() + Ticks(1000);
            let second = samples(&two, join.0);
            let end = second.iter().map(|sample| sample.pts).max().unwrap() + Ticks(1000);
            let mut writer = ts::Writer::new(vec![track.clone()]).unwrap();
            let bytes = [
                writer.segment(&[Part { track: &track, samples: &first, end: join }]).unwrap(),
                writer.segment(&[Part { track: &track, samples: &second, end }]).unwrap(),
            ];
            let (written, found) = ([given(&first), given(&second)].concat(), units(&bytes));
            // A programme that begins before its clock could is later by whole seconds, all of it.
            let later = (found[0].0 - written[0].0).rem_euclid(1 << 33);
            prop_assert_eq!(later % 90_000, 0);
            prop_assert!(later <= 180 * 90_000);
            let expect: Vec<_> = written.into_iter().map(|(pts, data)| ((pts + later).rem_euclid(1 << 33), data)).collect();
            let found: Vec<_> = found.into_iter().map(|(pts, data)| (pts.rem_euclid(1 << 33), data)).collect();
            prop_assert_eq!(found, expect);
        }
    }

    #[test]
    fn a_hundred_thousand_pictures_in_a_segment_are_read_back() {
        let track = track(90_000);
        let samples = samples(&(0..100_000).map(|n| n * 3).collect::<Vec<_>>(), 0);
        let part = Part { track: &track, samples: &samples, end: Ticks(300_000) };
        let bytes = [cmaf::init(std::slice::from_ref(&track)).unwrap(), cmaf::segment(1, &[part]).unwrap()];
        assert_eq!(units(&bytes), given(&samples));
    }

    #[test]
    fn a_gap_that_no_duration_can_hold_is_refused_by_name() {
        let track = track(10_000_000);
        let samples = samples(&[0, 1 << 33], 0);
        let part = Part { track: &track, samples: &samples, end: Ticks((1 << 33) + 1) };
        assert_eq!(cmaf::segment(1, &[part]).unwrap_err().code(), "media_limit");
    }
}

#[test]
fn sound_is_named_by_its_codec_in_every_container() {
    let (_folder, files) = in_every_container("-c:v libx264 -preset ultrafast -c:a aac");
    for file in files {
        let read = read(&file);
        let Format::Audio(audio) = &read.track(false).format else { panic!("no sound") };
        assert_eq!((audio.codec, audio.sample_rate), (AudioCodec::Aac, 48_000), "{}", file.display());
    }
}
