//! What must hold of any session that went well, read from its output by ffmpeg and from its headers.

use std::ops::Range;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Output, Session};
use super::media::{self, Clip, Fraction};
use super::sound;

/// How far sound may be from where it was against the pictures, seconds.
const SYNC: f64 = 0.002;
/// Samples that are looked at together, how far around their place they are looked for, and from where to where.
const STRETCH: usize = 2400;
const REACH: i64 = 3000;
const EVERY: usize = 12_000;

/// Outputs in short: `[ts:]video[@height][+audio]`, the video `-` where there is none. They are named by their place.
pub fn outputs(short: &[&str]) -> Value {
    let output = |(n, text): (usize, &&str)| {
        let (container, tracks) = text.split_once(':').unwrap_or(("cmaf", text));
        let (video, audio) = tracks.split_once('+').unwrap_or((tracks, ""));
        let mut output = json!({"name": name(n), "container": container});
        if video != "-" {
            let (codec, height) = video.split_once('@').unwrap_or((video, ""));
            output["video"] = json!({"codec": codec});
            if let Ok(height) = height.parse::<u32>() {
                output["video"]["height"] = json!(height);
            }
        }
        if !audio.is_empty() {
            output["audio"] = json!({"codec": audio});
        }
        output
    };
    short.iter().enumerate().map(output).collect()
}

pub fn name(n: usize) -> String {
    format!("o{n}")
}

/// Where the pictures and the sound of a file lie.
struct Reading {
    /// Times and numbers, in the order in which they are shown.
    pictures: Vec<(Fraction, u16)>,
    /// By how much each stretch of the sound is later than what it says, seconds.
    late: Vec<f64>,
    /// Seconds of sound.
    heard: f64,
}

impl Reading {
    /// `origin` is when the first picture is shown, where the file has none.
    fn new(label: &str, media: &[u8], video: bool, audio: bool, origin: f64) -> Self {
        let pictures = if video { media::decode_barcodes(media) } else { Vec::new() };
        let origin = pictures.first().map_or(origin, |(time, _)| time.seconds());
        let (late, heard) = if audio { lateness(label, media, origin) } else { (Vec::new(), 0.0) };
        Self { pictures, late, heard }
    }

    fn origin(&self) -> f64 {
        self.pictures.first().map_or(0.0, |(time, _)| time.seconds())
    }
}

/// Where each stretch of the sound is, against what it says, and how long the sound is.
fn lateness(label: &str, media: &[u8], origin: f64) -> (Vec<f64>, f64) {
    let (start, rate, heard) = media::decode_audio(media);
    let hertz = f64::from(rate);
    // The first and the last frames fade in and out, and some sources have a gap after the first.
    let places = (3 * STRETCH..heard.len().saturating_sub(2 * STRETCH)).step_by(EVERY);
    let late = |from: usize| {
        let time = start.seconds() + from as f64 / hertz;
        let expected = ((time - origin) * hertz).round() as i64;
        let (at, fit) = sound::locate(&heard[from..from + STRETCH], rate, expected, REACH);
        assert!(fit > 0.9, "{label}: the sound at {time} s is not what was sent: {fit}");
        time - at as f64 / hertz
    };
    (places.map(late).collect(), heard.len() as f64 / hertz)
}

/// All that a client may rely on, of a session that streamed all of `clip` with these outputs.
pub fn session(clip: &Clip, short: &[&str], session: &Session) {
    assert_eq!(session.errors, Vec::<Value>::new());
    assert_eq!(session.close_code(), 1000, "{:?}", session.close);
    receipts(clip, short, session);
    let file = clip.path();
    let source = Reading::new("the source", &clip.bytes(), clip.video.is_some(), clip.audio.is_some(), 0.0);
    let base = media::probe(&file, &["-select_streams", "v:0", "-show_entries", "stream=time_base"]);
    let timescale = base.first().map(|row| row[0].parse::<Fraction>().expect("a time base").den);
    // When the first picture is shown on the timeline that the outputs share.
    let origin = short.iter().position(|text| !text.contains('-')).map_or(source.origin(), |n| {
        let header = &session.outputs[&name(n)].segments[0].0;
        Fraction::new(integer(header, "start"), integer(header, "timescale")).seconds()
    });
    for (n, text) in short.iter().enumerate() {
        let output = session.outputs.get(&name(n)).unwrap_or_else(|| panic!("{text} gave nothing"));
        let (video, audio) = (!text.contains('-'), text.contains('+'));
        let ts = text.starts_with("ts:");
        headers(output, ts);
        packets(output, video, ts);
        if !ts {
            codecs(output);
        }
        let whole = output.whole();
        let reading = Reading::new(text, &whole, video, audio, origin);
        if video {
            pictures(clip, &source, timescale.expect("it has pictures"), output, ts, &reading);
            by_itself(clip, output);
        }
        if audio {
            let shift = if video { reading.origin() } else { origin };
            for late in &reading.late {
                let moved = (late - shift) - (source.late[0] - source.origin());
                assert!(
                    moved.abs() < SYNC,
                    "{text}: sound moved by {moved} s: {:?} from {:?}",
                    reading.late,
                    source.late
                );
            }
            let length = source.heard;
            assert!((reading.heard - length).abs() < 0.08, "{text}: {} s of sound, not {length}", reading.heard);
        }
    }
}

/// The receipts add up to the source, and `done` to the receipts.
fn receipts(clip: &Clip, short: &[&str], session: &Session) {
    let done = session.done.as_ref().expect("done");
    let frames = if clip.video.is_some() { u64::from(clip.frames) } else { 0 };
    let sum = |read: &dyn Fn(&Value) -> &Value| -> u64 {
        session.receipts.iter().map(|receipt| read(receipt).as_u64().unwrap_or_default()).sum()
    };
    for pair in session.receipts.windows(2) {
        let end = pair[0]["start_ms"].as_i64().zip(pair[0]["duration_ms"].as_i64()).map(|(start, long)| start + long);
        assert_eq!(end, pair[1]["start_ms"].as_i64());
    }
    for receipt in &session.receipts {
        assert_eq!(receipt["outcome"], "ok", "{receipt}");
        assert_eq!(receipt["degraded"], json!([]));
    }
    assert_eq!(sum(&|receipt| &receipt["frames_in"]), frames);
    assert_eq!(done["frames_in"], frames);
    for (n, text) in short.iter().enumerate() {
        let name = name(n);
        if !text.contains('-') {
            assert_eq!(sum(&|receipt| &receipt["frames_out"][&name]), frames, "{text}");
            assert_eq!(done["frames_out"][&name], frames, "{text}");
        } else {
            let samples = sum(&|receipt| &receipt["audio_samples"][&name]);
            let durations = session.outputs[&name].segments.iter().map(|(header, _)| header["duration"].as_u64());
            assert_eq!(Some(samples), durations.sum(), "{text}");
        }
    }
    assert_eq!(done["segments"], session.receipts.len());
    assert_eq!((&done["failed"], &done["degraded"]), (&json!(0), &json!(0)));
}

/// The segments of an output follow each other without a gap, under one init.
fn headers(output: &Output, ts: bool) {
    assert_eq!(output.inits.len(), usize::from(!ts));
    for pair in output.segments.windows(2) {
        let [first, second] = [&pair[0].0, &pair[1].0];
        assert_eq!(integer(first, "start") + integer(first, "duration"), integer(second, "start"), "{first} {second}");
        assert_eq!(first["timescale"], second["timescale"]);
    }
    for (header, _) in &output.segments {
        assert_eq!((&header["independent"], &header["discontinuity"]), (&json!(true), &json!(false)), "{header}");
    }
}

/// Each segment holds as many packets as its header says, from a key frame on, the earliest at its start.
fn packets(output: &Output, video: bool, ts: bool) {
    let folder = TempDir::new().expect("a temporary folder");
    let path = output.save(folder.path(), "whole");
    let stream = if video { "v:0" } else { "a:0" };
    let rows = media::probe(&path, &["-select_streams", stream, "-show_entries", "packet=pts,pos,flags"]);
    let number = |text: &str| text.parse::<i64>().unwrap_or_else(|_| panic!("{text} is no number"));
    // What shares a PES packet with the one before it has no place of its own.
    let mut last = 0;
    let packet = |row: &Vec<String>| {
        last = if row[1] == "N/A" { last } else { number(&row[1]) };
        (number(&row[0]), last, row[2].starts_with('K'))
    };
    let packets: Vec<_> = rows.iter().map(packet).collect();
    for ((header, _), place) in output.segments.iter().zip(places(output)) {
        let mine: Vec<_> = packets.iter().filter(|packet| place.contains(&packet.1)).collect();
        assert_eq!(mine.first().map(|packet| packet.2), Some(true), "{header}: starts with a key frame");
        assert_eq!(mine.len() as i64, integer(header, "frames"), "{header}");
        if !ts {
            assert_eq!(mine.iter().map(|packet| packet.0).min(), Some(integer(header, "start")), "{header}");
        }
    }
}

/// From where to where each segment lies in the whole file.
fn places(output: &Output) -> Vec<Range<i64>> {
    let mut at = output.inits.first().map_or(0, |(_, init)| init.len() as i64);
    let place = |(_, media): &(Value, Vec<u8>)| {
        at += media.len() as i64;
        at - media.len() as i64..at
    };
    output.segments.iter().map(place).collect()
}

/// Every picture of the source, once, in order, at the source's own time.
fn pictures(clip: &Clip, source: &Reading, timescale: i64, output: &Output, ts: bool, reading: &Reading) {
    let numbers = |reading: &Reading| reading.pictures.iter().map(|picture| picture.1).collect::<Vec<_>>();
    assert_eq!(numbers(source), (clip.first..clip.first + clip.frames).collect::<Vec<_>>(), "the clip is whole");
    assert_eq!(numbers(reading), numbers(source));
    let header = &output.segments[0].0;
    assert_eq!(integer(header, "timescale"), timescale, "the timescale is the source's");
    let start = integer(header, "start");
    let first = source.pictures[0].0.ticks(timescale);
    let expected = source.pictures.iter().map(|picture| start + picture.0.ticks(timescale) - first);
    if ts {
        let nearest = |ticks: i64| (ticks * 90_000 * 2 + timescale).div_euclid(timescale * 2);
        let shift: Vec<i64> =
            reading.pictures.iter().zip(expected).map(|(picture, at)| picture.0.ticks(90_000) - nearest(at)).collect();
        assert!(shift.iter().all(|this| *this == shift[0]), "all are moved alike: {shift:?}");
    } else {
        let times: Vec<Fraction> = expected.map(|ticks| Fraction::new(ticks, timescale)).collect();
        assert_eq!(reading.pictures.iter().map(|picture| picture.0).collect::<Vec<_>>(), times);
    }
    let last = &output.segments[output.segments.len() - 1].0;
    let end = integer(last, "start") + integer(last, "duration");
    let shown = source.pictures[source.pictures.len() - 1].0.ticks(timescale) - first;
    let length = shown + clip.time(1).ticks(timescale);
    // A container's tick is all that the last picture's length may be off.
    assert!((end - start - length).abs() <= 1, "{} ticks, not {length}", end - start);
}

/// The second segment is played without the first.
fn by_itself(clip: &Clip, output: &Output) {
    let [(first, _), (header, media), ..] = output.segments.as_slice() else { return };
    let before = integer(first, "frames");
    let init = output.inits.first().map(|(_, init)| init.as_slice()).unwrap_or_default();
    let read: Vec<u16> = media::decode_barcodes(&[init, media].concat()).iter().map(|picture| picture.1).collect();
    let first = clip.first + before as u16;
    assert_eq!(read, (first..first + integer(header, "frames") as u16).collect::<Vec<_>>());
}

/// The codecs of the init's MIME type are what its boxes and ffprobe say.
fn codecs(output: &Output) {
    let (header, init) = &output.inits[0];
    let folder = TempDir::new().expect("a temporary folder");
    let path = output.save(folder.path(), "whole.mp4");
    let rows = media::probe(&path, &["-show_entries", "stream=codec_name,level"]);
    let mime = header["mime"].as_str().expect("a MIME type");
    let named = mime.split('"').nth(1).expect("codecs in the MIME type");
    assert_eq!(named.split(',').count(), rows.len(), "{mime}: {rows:?}");
    for (named, row) in named.split(',').zip(&rows) {
        let level: i64 = row.get(1).and_then(|level| level.parse().ok()).unwrap_or_default();
        let matches = match row[0].as_str() {
            "h264" => named == box_of(init, b"avcC", |avcc| format!("avc1.{}", hex(&avcc[1..4]))),
            // ISO/IEC 14496-15 Annex E: profile, compatibility reversed, tier and level.
            "hevc" => {
                let profile = box_of(init, b"hvcC", |hvcc| format!("hvc1.{}.", hvcc[1] & 31));
                named.starts_with(&profile) && named.contains(&format!(".L{level}"))
            }
            "vp8" => named.starts_with("vp08.00."),
            "vp9" => named.starts_with("vp09.00.") && named.split('.').nth(3) == Some("08"),
            "av1" => named.starts_with(&format!("av01.0.{level:02}")) && named.split('.').nth(3) == Some("08"),
            "mpeg2video" => named.starts_with("mp4v.6"),
            "aac" => named == "mp4a.40.2",
            "opus" => named == "opus" || named == "Opus",
            "mp3" => named == "mp4a.6b" || named == "mp4a.6B",
            "ac3" => named == "ac-3",
            "eac3" => named == "ec-3",
            other => panic!("{other} was not asked for"),
        };
        assert!(matches, "{named} is not {row:?}");
    }
}

/// What `read` makes of a box's payload, found by its type.
fn box_of<T>(init: &[u8], name: &[u8; 4], read: impl Fn(&[u8]) -> T) -> T {
    let at = init.windows(4).position(|window| window == name).expect("the init has the box");
    read(&init[at + 4..])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn integer(header: &Value, key: &str) -> i64 {
    header[key].as_i64().unwrap_or_else(|| panic!("{key} in {header}"))
}
