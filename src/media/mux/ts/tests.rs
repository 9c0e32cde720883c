//! Segments made of what ffmpeg coded; the reader is ffprobe.

use std::process::Command;

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{OutTrack, Part, Sample};
use super::{Writer, holds};
use crate::media::demux::{Event, Limits, ts::Demuxer};
use crate::media::timeline::TIMESCALE;
use crate::media::{AccessUnit, Audio, AudioCodec, Error, Format, Sync, Ticks, Timescale, Track};

fn run(program: &str, arguments: &[&str]) -> (Vec<u8>, String) {
    let output = Command::new(program).args(arguments).output().expect("ffmpeg is installed where tests run");
    (output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn ffmpeg(arguments: &str) -> Vec<u8> {
    let mut all: Vec<&str> = vec!["-v", "error", "-nostdin"];
    all.extend(arguments.split_whitespace());
    all.extend(["-f", "mpegts", "-"]);
    run("ffmpeg", &all).0
}

fn demux(bytes: Vec<u8>) -> (Vec<Track>, Vec<AccessUnit>) {
    let mut demuxer = Demuxer::new(Limits::default());
    demuxer.push(bytes.into()).expect("is taken");
    demuxer.finish();
    let (mut tracks, mut units) = (Vec::new(), Vec::new());
    while let Some(event) = demuxer.poll().expect("is read") {
        match event {
            Event::Tracks { tracks: found, .. } => tracks = found,
            Event::Unit(unit) => units.push(unit),
            Event::Data(_) => {}
        }
    }
    (tracks, units)
}

/// Tracks as an output has them, and their samples `shift` ticks later.
fn tracks(tracks: &[Track], units: &[AccessUnit], shift: i64) -> Vec<(OutTrack, Vec<Sample>)> {
    let samples = |track: &Track| {
        let own = units.iter().filter(|unit| unit.track == track.id);
        own.map(|unit| Sample { pts: unit.pts + Ticks(shift), sync: unit.sync != Sync::No, data: unit.data.clone() })
            .collect()
    };
    let out = |(n, track): (usize, &Track)| {
        let (language, format) = (Some("fra".to_owned()), track.format.clone());
        (OutTrack { number: n as u32 + 1, timescale: TIMESCALE, language, format }, samples(track))
    };
    tracks.iter().enumerate().map(out).collect()
}

/// All samples in segments that begin at the first track's sync samples.
fn segments(tracks: &[(OutTrack, Vec<Sample>)]) -> Vec<Bytes> {
    let mut writer = Writer::new(tracks.iter().map(|(track, _)| track.clone()).collect()).expect("can be held");
    let far = Ticks(i64::MAX / 4);
    let video = &tracks[0].1;
    let cuts: Vec<Ticks> = video.iter().filter(|sample| sample.sync).map(|sample| sample.pts).collect();
    let ends = cuts.iter().skip(1).chain([&far]);
    let mut segments = Vec::new();
    let mut done = vec![0; tracks.len()];
    for end in ends {
        let mut parts = Vec::new();
        for ((track, samples), done) in tracks.iter().zip(&mut done) {
            let cut =
                samples.iter().skip(*done).position(|sample| sample.pts >= *end).map_or(samples.len(), |n| *done + n);
            parts.push(Part {
                track,
                samples: &samples[*done..cut],
                end: (*end).min(samples[cut - 1].pts + Ticks(3600)),
            });
            *done = cut;
        }
        segments.push(writer.segment(&parts).expect("is written"));
    }
    segments
}

struct Probe {
    /// PTS and DTS of each stream's packets.
    stamps: Vec<Vec<(i64, i64)>>,
    /// What ffprobe and a decoder complain about.
    warnings: String,
    /// Of every decoded picture and piece of sound.
    hashes: Vec<String>,
}

fn probe(bytes: &[u8]) -> Probe {
    let file = tempfile::Builder::new().suffix(".ts").tempfile().expect("temporary file");
    std::fs::write(file.path(), bytes).expect("temporary file");
    let path = file.path().to_str().expect("a plain name");
    let entries = ["-v", "warning", "-of", "csv=p=0", "-show_entries", "packet=stream_index,pts,dts", path];
    let (text, mut warnings) = run("ffprobe", &entries);
    let mut stamps: Vec<Vec<(i64, i64)>> = Vec::new();
    for line in String::from_utf8(text).expect("csv").lines() {
        let row: Vec<i64> = line.split(',').filter_map(|number| number.parse().ok()).collect();
        if let [stream, pts, dts] = row[..] {
            stamps.resize(stamps.len().max(stream as usize + 1), Vec::new());
            stamps[stream as usize].push((pts, dts));
        }
    }
    // Only told at this level.
    let (_, debug) = run("ffprobe", &["-v", "debug", "-show_packets", path]);
    warnings.extend(debug.lines().filter(|line| line.contains("Continuity check failed")));
    let (text, more) = run("ffmpeg", &["-v", "warning", "-nostdin", "-i", path, "-f", "framehash", "-"]);
    warnings += &more;
    let hash = |line: &str| (!line.starts_with('#')).then(|| line.rsplit(',').next().unwrap_or("").to_owned());
    let hashes = String::from_utf8(text).expect("text").lines().filter_map(hash).collect();
    Probe { stamps, warnings, hashes }
}

fn rising(stamps: &[(i64, i64)]) -> bool {
    stamps.windows(2).all(|pair| pair[0].1 < pair[1].1) && stamps.iter().all(|(pts, dts)| dts <= pts)
}

const SOURCES: [(&str, &str); 4] = [
    ("h264 and aac", "-c:v libx264 -g 25 -bf 3 -b_strategy 0 -c:a aac"),
    ("h265 and ac3", "-c:v libx265 -x265-params keyint=25:open-gop=0:log-level=none -c:a ac3"),
    ("mpeg2 and mp3", "-c:v mpeg2video -g 25 -bf 2 -flags +cgop -sc_threshold 1000000000 -c:a libmp3lame"),
    ("h264 and eac3", "-c:v libx264 -g 30 -bf 0 -c:a eac3"),
];

fn source(codecs: &str) -> Vec<u8> {
    ffmpeg(&format!(
        "-f lavfi -i testsrc2=size=160x120:rate=25 -f lavfi -i sine=sample_rate=48000 -t 4 {codecs} -muxdelay 1"
    ))
}

#[test]
fn joined_segments_are_one_stream() {
    for (name, codecs) in SOURCES {
        let bytes = source(codecs);
        let expect = probe(&bytes);
        let (found, units) = demux(bytes);
        let out = tracks(&found, &units, 0);
        assert!(out.iter().all(|(track, _)| holds(&track.format)), "{name}: {found:?}");
        let segments = segments(&out);
        assert!(segments.len() >= 3, "{name}: {} segments", segments.len());
        let got = probe(&segments.concat());
        assert_eq!(got.warnings, "", "{name}");
        assert!(got.hashes.len() > 150, "{name}: pictures and sound are decoded");
        assert_eq!(got.hashes, expect.hashes, "{name}: decodes to the same");
        assert!(got.stamps.iter().all(|stamps| rising(stamps)), "{name}: {:?}", got.stamps);
        let pts = |probe: &Probe| -> Vec<Vec<i64>> {
            probe.stamps.iter().map(|track| track.iter().map(|(pts, _)| *pts).collect()).collect()
        };
        assert_eq!(pts(&got), pts(&expect), "{name}: time stamps after one second stay");
    }
}

#[test]
fn each_segment_stands_alone() {
    let (found, units) = demux(source(SOURCES[0].1));
    for segment in segments(&tracks(&found, &units, 0)) {
        let got = probe(&segment);
        assert_eq!(got.warnings, "");
        assert_eq!(got.stamps.len(), 2);
        assert_eq!(got.stamps[0].len(), 25);
    }
}

#[test]
fn what_begins_at_zero_is_a_second_later() {
    let (found, units) = demux(source(SOURCES[0].1));
    let first = units.iter().map(|unit| unit.pts.0).min().expect("units");
    let out = tracks(&found, &units, -first);
    let got = probe(&segments(&out).concat());
    let earliest = got.stamps.iter().flatten().map(|(pts, _)| *pts).min();
    assert_eq!(earliest, Some(90_000));
    assert!(got.stamps.iter().all(|stamps| rising(stamps)));
}

#[test]
fn over_the_wrap() {
    let (found, units) = demux(source(SOURCES[0].1));
    let shift = (1 << 33) - 250_000;
    let out = tracks(&found, &units, shift);
    let (_, back) = demux(segments(&out).concat());
    let stamps = |units: &[AccessUnit], shift: i64| -> Vec<(u32, i64)> {
        let mut stamps: Vec<_> = units.iter().map(|unit| (unit.track.0, unit.pts.0 + shift)).collect();
        stamps.sort_by_key(|stamp| stamp.0);
        stamps
    };
    assert_eq!(stamps(&back, 0), stamps(&units, shift));
}

#[test]
fn clocks_come_often_and_always_rise() {
    // Pictures half a second apart, and nothing else.
    let (found, units) = demux(source("-c:v libx264 -bf 0 -r 2 -g 2 -an"));
    let bytes = segments(&tracks(&found, &units, 0)).concat();
    let clock = |packet: &[u8]| {
        let has = packet[3] & 0x20 != 0 && packet[4] > 0 && packet[5] & 0x10 != 0;
        has.then(|| packet[6..11].iter().fold(0u64, |clock, byte| clock << 8 | u64::from(*byte)) >> 7)
    };
    let clocks: Vec<u64> = bytes.chunks(188).filter_map(clock).collect();
    assert!(clocks.len() > 30);
    assert!(clocks.windows(2).all(|pair| (1..=9_000).contains(&(pair[1] - pair[0]))), "{clocks:?}");
}

#[test]
fn time_that_jumps_is_said() {
    let (found, units) = demux(source("-c:v libx264 -bf 2 -g 100 -an"));
    let out = tracks(&found, &units, 0);
    let later = tracks(&found, &units, 900_000);
    let mut writer = Writer::new(vec![out[0].0.clone()]).expect("can be held");
    let mut segment = |(track, samples): &(OutTrack, Vec<Sample>)| {
        let end = samples[samples.len() - 1].pts;
        writer.segment(&[Part { track, samples, end }]).expect("is written")
    };
    let discontinuous = |segment: &[u8]| segment.chunks(188).filter(|p| p[3] & 0x20 != 0 && p[5] & 0x80 != 0).count();
    assert_eq!(discontinuous(&segment(&out[0])), 0);
    assert_eq!(discontinuous(&segment(&later[0])), 1);
    assert_eq!(discontinuous(&segment(&out[0])), 1, "backwards too");
}

#[test]
fn times_in_other_timescales() {
    let (found, units) = demux(source("-c:v libx264 -bf 0 -g 100 -an"));
    let mut out = tracks(&found, &units, 0);
    out[0].0.timescale = Timescale::new(24_000).expect("not 0");
    for (n, sample) in out[0].1.iter_mut().enumerate() {
        sample.pts = Ticks(48_000 + 1001 * n as i64);
    }
    let got = probe(&segments(&out).concat());
    let expect: Vec<i64> =
        (0..got.stamps[0].len() as i64).map(|n| (180_000.0 + 3753.75 * n as f64 + 0.5).floor() as i64).collect();
    assert_eq!(got.stamps[0].iter().map(|(pts, _)| *pts).collect::<Vec<_>>(), expect);
}

proptest! {
    #[test]
    fn any_times_are_written_or_refused(segments: [(Vec<i64>, i64); 3], near in 0_i64..1 << 60) {
        let audio = Audio {
            codec: AudioCodec::Mp3,
            config: Bytes::new(),
            codec_string: "mp4a.6b".into(),
            sample_rate: 48_000,
            channels: 2,
        };
        let track = OutTrack { number: 1, timescale: TIMESCALE, language: None, format: Format::Audio(audio) };
        let mut writer = Writer::new(vec![track.clone()]).expect("can be held");
        for (times, end) in segments {
            let sample = |pts: &i64| Sample { pts: Ticks(pts % near.max(1)), sync: true, data: Bytes::from_static(b"x") };
            let samples: Vec<Sample> = times.iter().map(sample).collect();
            if let Ok(bytes) = writer.segment(&[Part { track: &track, samples: &samples, end: Ticks(end) }]) {
                prop_assert!(bytes.chunks(188).all(|packet| packet.len() == 188 && packet[0] == 0x47));
            }
        }
    }
}

#[test]
fn what_is_refused() {
    let (found, units) = demux(source(SOURCES[0].1));
    let out = tracks(&found, &units, 0);
    let (track, samples) = &out[0];
    let twice = vec![track.clone(), track.clone()];
    assert!(matches!(Writer::new(twice), Err(Error::BadMedia(_))));
    let other = OutTrack { format: Format::Other { kind: "data".into(), codec: "0x06".into() }, ..track.clone() };
    assert!(matches!(Writer::new(vec![other]), Err(Error::UnsupportedCodec(_))));
    let mut writer = Writer::new(vec![track.clone()]).expect("can be held");
    let (sound, frames) = &out[1];
    assert!(writer.segment(&[Part { track: sound, samples: frames, end: Ticks(0) }]).is_err(), "not of this programme");
    let cut: Vec<Sample> = samples
        .iter()
        .take(1)
        .map(|sample| Sample { data: sample.data.slice(..sample.data.len() - 1), ..sample.clone() })
        .collect();
    assert!(writer.segment(&[Part { track, samples: &cut, end: Ticks(0) }]).is_err(), "lengths that do not add up");
    assert!(writer.segment(&[]).is_ok_and(|segment| segment.len() == 2 * 188), "nothing but tables");
}
