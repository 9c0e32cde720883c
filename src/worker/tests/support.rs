//! Makes clips, reads their units by ffprobe's word on where they lie, runs jobs and keeps what comes back.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;

use crate::ipc::worker_end::Part;
use crate::job::{Encoded, EncodedSample, Failure, Job, Stats, Work};
use crate::media::{
    AccessUnit, Audio, AudioCodec, Chroma, Colour, Format, Hdr, Sync, Ticks, Timescale, Track, TrackId, Video,
    VideoCodec, Window,
};
use crate::worker::sink::Sink;
use crate::worker::transcode::{Assignment, transcode};

pub struct Clip {
    pub track: Track,
    pub units: Vec<AccessUnit>,
}

/// Runs ffmpeg, which must succeed; gives its standard output.
pub fn ffmpeg(arguments: &str) -> Vec<u8> {
    run("ffmpeg", &format!("-v error -y -nostdin {arguments}"))
}

fn run(program: &str, arguments: &str) -> Vec<u8> {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A file in a directory of its own, which goes with the guard.
pub fn scratch(name: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    (directory, path)
}

/// One video track: `input` and `output` are ffmpeg's options for either side.
pub fn video_clip(codec: VideoCodec, input: &str, output: &str) -> Clip {
    let extension = match codec {
        VideoCodec::Vp8 => "ivf",
        VideoCodec::Mpeg2 => "m2v",
        _ => "mp4",
    };
    let (_guard, path) = scratch(&format!("clip.{extension}"));
    ffmpeg(&format!("{input} -an {output} {}", path.display()));
    let (timescale, units, config) = match codec {
        VideoCodec::Vp8 => ivf(&path),
        VideoCodec::Mpeg2 => m2v(&path),
        VideoCodec::H264 => mp4(&path, b"avcC"),
        VideoCodec::H265 => mp4(&path, b"hvcC"),
        VideoCodec::Vp9 => mp4(&path, b"vpcC"),
        VideoCodec::Av1 => mp4(&path, b"av1C"),
    };
    let size = String::from_utf8(run(
        "ffprobe",
        &format!("-v error -select_streams v -show_entries stream=width,height -of csv=p=0 {}", path.display()),
    ))
    .unwrap();
    let (width, height) = size.trim().trim_end_matches(',').split_once(',').unwrap();
    let video = Video {
        codec,
        config,
        codec_string: String::new(),
        width: width.parse().unwrap(),
        height: height.parse().unwrap(),
        sample_aspect: (1, 1),
        rotation: 0,
        bit_depth: 8,
        chroma: Chroma::C420,
        colour: Colour::default(),
        hdr: Hdr::default(),
        interlaced: false,
        frame_rate: None,
    };
    clip(timescale, Format::Video(video), units)
}

/// One audio track, its timescale the sample rate.
pub fn audio_clip(codec: AudioCodec, input: &str, output: &str, sample_rate: u32, channels: u16) -> Clip {
    let (_guard, path) = scratch("clip.mp4");
    ffmpeg(&format!("{input} -vn {output} -ar {sample_rate} -ac {channels} {}", path.display()));
    audio_file(codec, &path, sample_rate, channels)
}

pub fn audio_file(codec: AudioCodec, path: &Path, sample_rate: u32, channels: u16) -> Clip {
    let (timescale, units, config) = match codec {
        AudioCodec::Aac => mp4(path, b"esds"),
        AudioCodec::Opus => mp4(path, b"dOps"),
        AudioCodec::Ac3 => mp4(path, b"dac3"),
        AudioCodec::Eac3 => mp4(path, b"dec3"),
        AudioCodec::Mp3 => mp4(path, b"mdat"),
    };
    let config = match codec {
        AudioCodec::Mp3 => Bytes::new(),
        AudioCodec::Aac => specific_config(&config),
        _ => config,
    };
    let audio = Audio { codec, config, codec_string: String::new(), sample_rate, channels };
    clip(timescale, Format::Audio(audio), units)
}

fn clip(timescale: u32, format: Format, units: Vec<AccessUnit>) -> Clip {
    let timescale = Timescale::new(timescale).unwrap();
    Clip { track: Track { id: TrackId(1), timescale, language: None, format }, units }
}

/// The DecoderSpecificInfo in an esds payload as ffmpeg writes it.
fn specific_config(esds: &Bytes) -> Bytes {
    let tag = esds.windows(4).position(|bytes| bytes == [5, 0x80, 0x80, 0x80]).unwrap();
    let length = usize::from(esds[tag + 4]);
    esds.slice(tag + 5..tag + 5 + length)
}

fn mp4(path: &Path, config_box: &[u8; 4]) -> (u32, Vec<AccessUnit>, Bytes) {
    let file = Bytes::from(std::fs::read(path).unwrap());
    let at = file.windows(4).position(|name| name == config_box).unwrap();
    let length = u32::from_be_bytes(file[at - 4..at].try_into().unwrap()) as usize;
    let config = file.slice(at + 4..at - 4 + length);
    let select = if matches!(config_box, b"esds" | b"dOps" | b"dac3" | b"dec3" | b"mdat") { "a" } else { "v" };
    let listed = String::from_utf8(run(
        "ffprobe",
        &format!(
            "-v error -select_streams {select} -show_entries packet=pts,dts,size,pos,flags:stream=time_base \
             -of compact=p=0 {}",
            path.display()
        ),
    ))
    .unwrap();
    let mut units = Vec::new();
    let mut timescale = 0;
    for line in listed.lines() {
        let field = |name: &str| line.split('|').find_map(|field| field.strip_prefix(name)).map(str::trim);
        let number = |name: &str| field(name).and_then(|value| value.parse::<i64>().ok());
        if let Some(base) = field("time_base=1/") {
            timescale = base.parse().unwrap();
        } else if let (Some(pts), Some(pos), Some(size)) = (number("pts="), number("pos="), number("size=")) {
            let sync = field("flags=").is_some_and(|flags| flags.starts_with('K'));
            let data = file.slice(pos as usize..(pos + size) as usize);
            units.push(unit(pts, number("dts=").unwrap_or(pts), sync, data));
        }
    }
    (timescale, units, config)
}

fn ivf(path: &Path) -> (u32, Vec<AccessUnit>, Bytes) {
    let file = Bytes::from(std::fs::read(path).unwrap());
    let mut units = Vec::new();
    let mut at = 32;
    while at < file.len() {
        let size = u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        let data = file.slice(at + 12..at + 12 + size);
        units.push(unit(units.len() as i64 * 3600, units.len() as i64 * 3600, data[0] & 1 == 0, data));
        at += 12 + size;
    }
    (90_000, units, Bytes::new())
}

/// Without B pictures: decode order is presentation order.
fn m2v(path: &Path) -> (u32, Vec<AccessUnit>, Bytes) {
    let file = Bytes::from(std::fs::read(path).unwrap());
    let codes = |wanted: u8| {
        let codes = file.windows(4).enumerate().filter(move |(_, code)| code[..3] == [0, 0, 1] && code[3] == wanted);
        codes.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (pictures, sequences) = (codes(0), codes(0xb3));
    let starts: Vec<usize> = (0..pictures.len())
        .map(|n| {
            let after = if n == 0 { 0 } else { pictures[n - 1] };
            sequences.iter().copied().find(|at| (after..pictures[n]).contains(at)).unwrap_or(pictures[n])
        })
        .collect();
    let ends = starts[1..].iter().copied().chain([file.len()]);
    let units = starts.iter().zip(ends).enumerate().map(|(n, (&start, end))| {
        unit(n as i64 * 3600, n as i64 * 3600, sequences.contains(&start), file.slice(start..end))
    });
    (90_000, units.collect(), Bytes::new())
}

pub fn unit(pts: i64, dts: i64, sync: bool, data: Bytes) -> AccessUnit {
    let sync = if sync { Sync::Idr } else { Sync::No };
    AccessUnit { track: TrackId(1), pts: Ticks(pts), dts: Ticks(dts), duration: None, sync, offset: 0, data }
}

impl Clip {
    /// All units, all of them wanted.
    pub fn job(&self, work: Work) -> Job {
        self.job_of(0..self.units.len(), Window { start: Ticks(i64::MIN), end: Ticks(i64::MAX) }, work)
    }

    pub fn job_of(&self, units: std::ops::Range<usize>, window: Window, work: Work) -> Job {
        Job { id: 1, seq: 0, track: self.track.clone(), units: self.units[units].to_vec(), window, work, threads: 2 }
    }

    /// Presentation times inside the window, in order.
    pub fn pts(&self, window: Window) -> Vec<Ticks> {
        let mut pts: Vec<Ticks> = self.units.iter().map(|unit| unit.pts).filter(|pts| window.contains(*pts)).collect();
        pts.sort();
        pts
    }
}

#[derive(Default)]
struct Collector(Mutex<Vec<Encoded>>);

impl Sink for Collector {
    fn set_up(&self, rendition: usize, config: Bytes) {
        let mut all = self.0.lock().unwrap();
        assert!(all[rendition].config.is_empty() && all[rendition].samples.is_empty(), "set-up comes once, and first");
        all[rendition].config = config;
    }

    fn sample(&self, rendition: usize, sample: EncodedSample) {
        let mut all = self.0.lock().unwrap();
        assert!(!all[rendition].config.is_empty(), "set-up comes first");
        all[rendition].samples.push(sample);
    }
}

/// The same while its units come, in which a worker doesn't know more of it than is told.
pub fn run_as_it_comes(job: &Job) -> Result<(Vec<Encoded>, Stats), Failure> {
    let collector = Arc::new(Collector(Mutex::new(vec![Encoded::default(); job.work.renditions()])));
    let draft = Job { units: Vec::new(), window: Window { end: Ticks(i64::MAX), ..job.window }, ..job.clone() };
    let mut parts = job.units.iter().cloned().map(Part::Unit).chain([Part::End(job.window.end)]);
    let mut next = || Ok(parts.next().expect("nothing is asked for after the end"));
    let stats = Assignment::Open(draft, &mut next).transcode(collector.clone())?;
    let encoded = std::mem::take(&mut *collector.0.lock().unwrap());
    Ok((encoded, stats))
}

pub fn run_job(job: &Job) -> Result<(Vec<Encoded>, Stats), Failure> {
    let collector = Arc::new(Collector(Mutex::new(vec![Encoded::default(); job.work.renditions()])));
    let stats = transcode(job, collector.clone())?;
    let encoded = std::mem::take(&mut *collector.0.lock().unwrap());
    Ok((encoded, stats))
}
