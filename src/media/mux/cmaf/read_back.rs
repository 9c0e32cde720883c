//! The output as ffmpeg reads it: every codec is encoded by ffmpeg, taken apart, written anew, and decoded again.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;

use super::tests::{Read, audio, fragments, payload, track, video};
use super::*;
use crate::media::mux::{Part, Sample};
use crate::media::{AudioCodec, Ticks, VideoCodec};

#[test]
fn h264() {
    let source = encode("libx264 -preset veryfast -bf 3 -g 12", "mp4");
    check("h264", &Format::Video(video(VideoCodec::H264, &payload(&source, b"avcC"))), 12_800, &source);
}

#[test]
fn h265() {
    let source = encode("libx265 -preset ultrafast -bf 3 -g 12 -x265-params log-level=0:open-gop=0 -tag:v hvc1", "mp4");
    check("hevc", &Format::Video(video(VideoCodec::H265, &payload(&source, b"hvcC"))), 12_800, &source);
}

#[test]
fn vp9() {
    let source = encode("libvpx-vp9 -deadline realtime -cpu-used 8 -g 12", "mp4");
    check("vp9", &Format::Video(video(VideoCodec::Vp9, &payload(&source, b"vpcC"))), 12_800, &source);
}

#[test]
fn av1() {
    let source = encode("libaom-av1 -usage realtime -cpu-used 8 -g 12", "mp4");
    check("av1", &Format::Video(video(VideoCodec::Av1, &payload(&source, b"av1C"))), 12_800, &source);
}

#[test]
fn mpeg2() {
    let source = encode("mpeg2video -bf 2 -g 12 -flags +cgop -sc_threshold 1000000000", "mp4");
    let units = read(&source);
    let group = units[0].data.windows(4).position(|w| w == [0, 0, 1, 0xb8]).unwrap();
    let headers = &units[0].data[..group];
    check("mpeg2video", &Format::Video(video(VideoCodec::Mpeg2, headers)), 12_800, &source);
}

#[test]
fn vp8() {
    let ivf = encode("libvpx -deadline realtime -cpu-used 8 -g 12", "ivf");
    let mut frames = Vec::new();
    let mut rest = &ivf[32..];
    while !rest.is_empty() {
        let size = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        let data = Bytes::copy_from_slice(&rest[12..12 + size]);
        let pts = frames.len() as i64 * 512;
        frames.push(Read { pts, dts: pts, duration: 512, sync: data[0] & 1 == 0, data });
        rest = &rest[12 + size..];
    }
    let original = with_file(&ivf, "ivf", decoded);
    check_samples("vp8", &Format::Video(video(VideoCodec::Vp8, &[])), 12_800, &frames, &original);
}

#[test]
fn aac() {
    let source = encode("aac -b:a 96k", "mp4");
    check("aac", &Format::Audio(audio(AudioCodec::Aac, &set_up(&source))), 48_000, &source);
}

#[test]
fn opus() {
    let source = encode("libopus", "mp4");
    check("opus", &Format::Audio(audio(AudioCodec::Opus, &payload(&source, b"dOps"))), 48_000, &source);
}

#[test]
fn mp3() {
    let source = encode("libmp3lame", "mp4");
    check("mp3", &Format::Audio(audio(AudioCodec::Mp3, &[])), 48_000, &source);
}

#[test]
fn ac3() {
    let source = encode("ac3", "mp4");
    check("ac3", &Format::Audio(audio(AudioCodec::Ac3, &payload(&source, b"dac3"))), 48_000, &source);
}

#[test]
fn eac3() {
    let source = encode("eac3", "mp4");
    check("eac3", &Format::Audio(audio(AudioCodec::Eac3, &payload(&source, b"dec3"))), 48_000, &source);
}

#[test]
fn pictures_and_sound_together_with_shape_colour_and_rotation() {
    let (pictures, sound) = (encode("libx264 -preset veryfast -bf 3 -g 12", "mp4"), encode("aac -b:a 96k", "mp4"));
    let mut format = video(VideoCodec::H264, &payload(&pictures, b"avcC"));
    format.sample_aspect = (4, 3);
    format.rotation = 90;
    format.colour.primaries = 9;
    format.colour.transfer = 16;
    format.colour.matrix = 9;
    let first = OutTrack { language: Some("deu".into()), ..track(1, 12_800, Format::Video(format)) };
    let second = track(2, 48_000, Format::Audio(audio(AudioCodec::Aac, &set_up(&sound))));
    let (pictures, pictures_end) = samples(&read(&pictures));
    let (sound, sound_end) = samples(&read(&sound));
    let parts = [
        Part { track: &first, samples: &pictures, end: pictures_end },
        Part { track: &second, samples: &sound, end: sound_end },
    ];
    let file = [init(&[first.clone(), second.clone()]).unwrap(), segment(1, &parts).unwrap()].concat();
    with_file(&file, "mp4", |path| {
        let entries = "stream=codec_name,sample_aspect_ratio,color_primaries,color_transfer:\
                       stream_tags=language:stream_side_data=rotation";
        let found =
            run(Command::new("ffprobe").args(["-v", "warning", "-of", "flat", "-show_entries", entries]).arg(path));
        for line in [
            "stream.0.codec_name=\"h264\"",
            "stream.1.codec_name=\"aac\"",
            "stream.0.sample_aspect_ratio=\"4:3\"",
            "stream.0.color_primaries=\"bt2020\"",
            "stream.0.color_transfer=\"smpte2084\"",
            "rotation=-90",
            "stream.0.tags.language=\"deu\"",
        ] {
            assert!(found.contains(line), "{line} is not in:\n{found}");
        }
        assert_eq!(decoded(path).len(), pictures.len() + sound.len());
    });
}

/// `source` taken apart and written anew in several segments is the same media for ffmpeg.
fn check(codec: &str, format: &Format, timescale: u32, source: &[u8]) {
    check_samples(codec, format, timescale, &read(source), &with_file(source, "mp4", decoded));
}

fn check_samples(codec: &str, format: &Format, timescale: u32, read: &[Read], original: &[String]) {
    let track = track(1, timescale, format.clone());
    let (samples, end) = samples(read);
    let mut file = init(std::slice::from_ref(&track)).unwrap().to_vec();
    let mut cuts: Vec<usize> = match format {
        Format::Video(_) => samples.iter().enumerate().filter(|(_, s)| s.sync).map(|(i, _)| i).collect(),
        _ => (0..samples.len()).step_by(17).collect(),
    };
    cuts.push(samples.len());
    assert!(cuts.len() > 2, "{codec}: one segment proves no join");
    for (i, cut) in cuts.windows(2).enumerate() {
        let end = samples.get(cut[1]).map_or(end, |next| next.pts);
        let part = Part { track: &track, samples: &samples[cut[0]..cut[1]], end };
        file.extend(segment(i as u32 + 1, &[part]).unwrap());
    }
    with_file(&file, "mp4", |path| {
        let packets = run(Command::new("ffprobe")
            .args(["-v", "warning", "-of", "compact=p=0", "-show_entries", "packet=pts,size"])
            .arg(path));
        let found: Vec<_> = packets
            .lines()
            .map(|line| {
                let value = |key: &str| {
                    let found = line.split('|').find_map(|field| field.strip_prefix(key));
                    found.and_then(|v| v.parse::<i64>().ok()).unwrap_or_else(|| panic!("no {key} in {line}"))
                };
                (value("pts="), value("size="))
            })
            .collect();
        assert_eq!(found, samples.iter().map(|s| (s.pts.0, s.data.len() as i64)).collect::<Vec<_>>());
        let name = run(Command::new("ffprobe")
            .args(["-v", "warning", "-of", "csv=p=0", "-show_entries", "stream=codec_name:stream_side_data="])
            .arg(path));
        assert_eq!(name.trim().trim_end_matches(','), codec);
        if let Format::Video(_) = format {
            let rate = run(Command::new("ffprobe")
                .args(["-v", "warning", "-of", "csv=p=0", "-show_entries", "stream=avg_frame_rate:stream_side_data="])
                .arg(path));
            assert_eq!(rate.trim().trim_end_matches(','), "25/1");
        }
        let again = decoded(path);
        assert!(!again.is_empty());
        assert_eq!(again, original);
    });
}

fn samples(read: &[Read]) -> (Vec<Sample>, Ticks) {
    let samples = read.iter().map(|s| Sample { pts: Ticks(s.pts), sync: s.sync, data: s.data.clone() }).collect();
    let end = read.iter().map(|s| s.pts + i64::from(s.duration)).max().unwrap();
    (samples, Ticks(end))
}

fn read(source: &[u8]) -> Vec<Read> {
    fragments(source).into_iter().flat_map(|(_, _, samples)| samples).collect()
}

/// The DecoderSpecificInfo of ffmpeg's esds.
fn set_up(source: &[u8]) -> Vec<u8> {
    let esds = payload(source, b"esds");
    let at = esds.windows(4).position(|w| w == [5, 0x80, 0x80, 0x80]).unwrap();
    esds[at + 5..at + 5 + usize::from(esds[at + 4])].to_vec()
}

/// The md5 of every decoded frame, in order; no warning may be said.
fn decoded(path: &Path) -> Vec<String> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "warning"]);
    if path.extension().is_some_and(|suffix| suffix == "mp4") {
        command.args(["-ignore_editlist", "1"]);
    }
    let listing = run(command.arg("-i").arg(path).args(["-fps_mode", "passthrough", "-f", "framemd5", "-"]));
    let frames = listing.lines().filter(|l| !l.starts_with('#'));
    frames.map(|l| l.rsplit(',').next().unwrap_or_default().trim().to_owned()).collect()
}

/// One second of a test picture, or of a tone, by ffmpeg's encoder.
fn encode(encoder: &str, container: &str) -> Vec<u8> {
    let mut arguments = encoder.split(' ');
    let name = arguments.next().unwrap();
    let sound = ["aac", "libopus", "libmp3lame", "ac3", "eac3"].contains(&name);
    let input = if sound {
        "sine=frequency=440:sample_rate=48000:duration=1"
    } else {
        "testsrc2=size=160x90:rate=25:duration=1.2"
    };
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(format!("source.{container}"));
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-f", "lavfi", "-i", input]);
    if sound {
        command.args(["-ac", "2", "-c:a"]);
    } else {
        command.args(["-pix_fmt", "yuv420p", "-threads", "1", "-c:v"]);
    }
    command.arg(name).args(arguments);
    if container == "mp4" {
        command.args(["-video_track_timescale", "12800"]);
        command.args(["-movflags", "frag_keyframe+delay_moov+default_base_moof", "-frag_duration", "400000"]);
    }
    run(command.arg(&path));
    std::fs::read(path).unwrap()
}

fn with_file<T>(bytes: &[u8], suffix: &str, f: impl FnOnce(&Path) -> T) -> T {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(format!("media.{suffix}"));
    std::fs::write(&path, bytes).unwrap();
    f(&path)
}

/// What the command prints; it must succeed without a word on stderr.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{command:?}\n{said}");
    String::from_utf8(output.stdout).unwrap()
}
