//! Clips of barcoded pictures and marked sound, made with ffmpeg in any shape that is read, and read back with ffmpeg:
//! never with our own demuxers.

use std::cmp::Ordering;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

use super::{barcode, sound};

/// Seconds as an exact fraction in lowest terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fraction {
    pub num: i64,
    pub den: i64,
}

impl Fraction {
    pub fn new(num: i64, den: i64) -> Self {
        let (mut a, mut b) = (num.abs(), den.abs());
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let sign = den.signum();
        Self { num: sign * num / a, den: sign * den / a }
    }

    /// Rounded down to ticks of `timescale`.
    pub fn ticks(self, timescale: i64) -> i64 {
        (i128::from(self.num) * i128::from(timescale)).div_euclid(i128::from(self.den)) as i64
    }

    pub fn seconds(self) -> f64 {
        self.num as f64 / self.den as f64
    }
}

impl Ord for Fraction {
    fn cmp(&self, other: &Self) -> Ordering {
        (i128::from(self.num) * i128::from(other.den)).cmp(&(i128::from(other.num) * i128::from(self.den)))
    }
}

impl PartialOrd for Fraction {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for Fraction {
    type Err = std::num::ParseIntError;

    /// As ffprobe writes a time base.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (num, den) = text.split_once('/').unwrap_or((text, "1"));
        Ok(Self::new(num.parse()?, den.parse()?))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picture {
    H264,
    H265,
    Vp8,
    Vp9,
    Av1,
    Mpeg2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sound {
    Aac,
    Opus,
    Mp3,
    Ac3,
    Eac3,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    FragmentedMp4,
    /// moov before mdat.
    FaststartMp4,
    /// moov after mdat.
    Mp4,
    /// Written to a pipe: a Segment of unknown size.
    Webm,
    /// `-live 1`: Clusters of unknown size too.
    MatroskaLive,
    Ts,
}

/// What a clip is to be. Equal clips are made once.
#[derive(Debug, Clone)]
pub struct Clip {
    pub shape: Shape,
    pub video: Option<Picture>,
    pub audio: Option<Sound>,
    /// The pictures carry the numbers from `first` to before `first + frames`.
    pub frames: u16,
    pub first: u16,
    /// Frames per second. The sound is as long as the pictures.
    pub rate: (u32, u32),
    pub width: usize,
    pub height: usize,
    /// Frames from one key frame to the next, exactly.
    pub gop: u32,
    /// Where the codec has them.
    pub b_frames: u32,
    /// H.264 and H.265, with B-frames.
    pub open_gop: bool,
    pub sample_rate: u32,
    pub channels: u16,
    /// Further arguments to ffmpeg for its output, separated by spaces.
    pub more: &'static str,
}

impl Default for Clip {
    fn default() -> Self {
        Self {
            shape: Shape::FragmentedMp4,
            video: Some(Picture::H264),
            audio: Some(Sound::Aac),
            frames: 60,
            first: 0,
            rate: (30, 1),
            width: 320,
            height: 180,
            gop: 30,
            b_frames: 0,
            open_gop: false,
            sample_rate: 48_000,
            channels: 2,
            more: "",
        }
    }
}

impl Clip {
    /// When the `n`th picture is shown, before any container rounds it.
    pub fn time(&self, n: u16) -> Fraction {
        Fraction::new(i64::from(n) * i64::from(self.rate.1), i64::from(self.rate.0))
    }

    /// The clip's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(self.path()).expect("a clip that was just made")
    }

    /// The clip as a file, which stays for the next run of the tests.
    pub fn path(&self) -> PathBuf {
        let sources = [include_str!("media.rs"), include_str!("barcode.rs"), include_str!("sound.rs")];
        let mut key = Sha256::new();
        sources.iter().for_each(|source| key.update(source));
        key.update(format!("{self:?}"));
        let name: String = key.finalize().iter().take(12).map(|byte| format!("{byte:02x}")).collect();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clips");
        fs::create_dir_all(&folder).expect("the target folder can be written");
        let path = folder.join(format!("{name}.{}", self.extension()));
        if !path.exists() {
            // Made under another name, so that tests side by side never see half a clip.
            let made = tempfile::Builder::new().suffix(&format!(".{}", self.extension())).tempfile_in(&folder);
            let made = made.expect("the target folder can be written");
            self.make(made.path());
            made.persist(&path).expect("the clip can be renamed");
        }
        path
    }

    fn make(&self, path: &Path) {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-y", "-bitexact"]);
        if self.video.is_some() {
            let (size, rate) = (format!("{}x{}", self.width, self.height), format!("{}/{}", self.rate.0, self.rate.1));
            ffmpeg.args(["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", &size, "-r", &rate, "-i", "pipe:0"]);
        }
        let wav = NamedTempFile::new().expect("a temporary file");
        if self.audio.is_some() {
            let samples = self.time(self.frames).ticks(i64::from(self.sample_rate)) as usize;
            fs::write(wav.path(), sound::wav(samples, self.sample_rate, self.channels)).expect("a temporary file");
            ffmpeg.arg("-i").arg(wav.path());
        }
        ffmpeg.args(self.video_arguments()).args(self.audio_arguments()).args(self.more.split_whitespace());
        ffmpeg.args(["-flags", "+bitexact", "-f"]).args(self.format());
        // What is live can't seek back.
        let live = matches!(self.shape, Shape::Webm | Shape::MatroskaLive | Shape::Ts | Shape::FragmentedMp4);
        if live {
            ffmpeg.arg("pipe:1").stdout(fs::File::create(path).expect("the target folder can be written"));
        } else {
            ffmpeg.arg(path);
        }
        let mut child = ffmpeg.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("ffmpeg is installed");
        let mut stdin = child.stdin.take().expect("it was asked for");
        if self.video.is_some() {
            for n in 0..self.frames {
                if stdin.write_all(&barcode::picture(self.first + n, self.width, self.height)).is_err() {
                    break;
                }
            }
        }
        drop(stdin);
        let output = child.wait_with_output().expect("ffmpeg runs");
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn video_arguments(&self) -> Vec<String> {
        let Some(codec) = self.video else { return vec!["-vn".into()] };
        let (gop, b, open) = (self.gop, self.b_frames, u8::from(self.open_gop));
        let arguments = match codec {
            Picture::H264 => format!(
                "libx264 -preset ultrafast -crf 23 -g {gop} -keyint_min {gop} -sc_threshold 0 -bf {b} \
                 -x264-params open-gop={open}:b-adapt=0"
            ),
            Picture::H265 => format!(
                "libx265 -preset ultrafast -crf 26 -tag:v hvc1 -x265-params \
                 log-level=none:keyint={gop}:min-keyint={gop}:scenecut=0:bframes={b}:b-adapt=0:open-gop={open}"
            ),
            Picture::Vp8 => format!("libvpx -deadline realtime -cpu-used 8 -b:v 1M -g {gop} -keyint_min {gop}"),
            Picture::Vp9 => format!("libvpx-vp9 -deadline realtime -cpu-used 5 -b:v 1M -g {gop} -keyint_min {gop}"),
            Picture::Av1 => format!("libsvtav1 -preset 12 -crf 40 -g {gop}"),
            Picture::Mpeg2 => format!("mpeg2video -b:v 3M -g {gop} -bf {b} -sc_threshold 1000000000"),
        };
        let threads = "-threads 2 -fps_mode passthrough";
        format!("-c:v {arguments} {threads}").split_whitespace().map(String::from).collect()
    }

    fn audio_arguments(&self) -> Vec<String> {
        let arguments = match self.audio {
            None => "-an",
            Some(Sound::Aac) => "-c:a aac -b:a 128k",
            Some(Sound::Opus) => "-c:a libopus -b:a 128k",
            Some(Sound::Mp3) => "-c:a libmp3lame -b:a 160k",
            Some(Sound::Ac3) => "-c:a ac3 -b:a 192k",
            Some(Sound::Eac3) => "-c:a eac3 -b:a 192k",
        };
        arguments.split_whitespace().map(String::from).collect()
    }

    fn format(&self) -> &'static [&'static str] {
        match self.shape {
            Shape::FragmentedMp4 => &["mp4", "-movflags", "frag_keyframe+empty_moov+default_base_moof"],
            Shape::FaststartMp4 => &["mp4", "-movflags", "faststart"],
            Shape::Mp4 => &["mp4"],
            Shape::Webm => &["webm"],
            Shape::MatroskaLive => &["matroska", "-live", "1"],
            Shape::Ts => &["mpegts"],
        }
    }

    fn extension(&self) -> &'static str {
        match self.shape {
            Shape::FragmentedMp4 | Shape::FaststartMp4 | Shape::Mp4 => "mp4",
            Shape::Webm => "webm",
            Shape::MatroskaLive => "mkv",
            Shape::Ts => "ts",
        }
    }
}

/// The time and the number of every picture, in the order in which they are shown. Panics where one can't be read.
pub fn decode_barcodes(media: &[u8]) -> Vec<(Fraction, u16)> {
    decode_barcodes_of(kept(media).path())
}

/// [`decode_barcodes`] of a file.
pub fn decode_barcodes_of(path: &Path) -> Vec<(Fraction, u16)> {
    let stream = probe(path, &["-select_streams", "v:0", "-show_entries", "stream=width,height,time_base"]);
    let [width, height, base] = stream[0].as_slice() else { panic!("no pictures in {stream:?}") };
    let (width, height): (usize, usize) = (width.parse().expect("a width"), height.parse().expect("a height"));
    let base: Fraction = base.parse().expect("a time base");
    let times = probe(path, &["-select_streams", "v:0", "-show_entries", "frame=best_effort_timestamp"]);
    let arguments = "-noautorotate -i IN -map 0:v:0 -fps_mode passthrough -pix_fmt gray -f rawvideo pipe:1";
    let luma = ffmpeg(path, arguments);
    let pictures = luma.chunks_exact(width * height);
    assert_eq!(pictures.len(), times.len(), "ffmpeg and ffprobe decode as many");
    let read = |(n, (time, luma)): (usize, (&Vec<String>, &[u8]))| {
        let ticks: i64 = time[0].parse().expect("a timestamp");
        let number = barcode::read(luma, width, height).unwrap_or_else(|| panic!("picture {n} has no number"));
        (Fraction::new(ticks * base.num, base.den), number)
    };
    times.iter().zip(pictures).enumerate().map(read).collect()
}

/// The first channel of the sound: when its first sample is heard, its rate, and its samples, silent where there is a
/// gap between the frames.
pub fn decode_audio(media: &[u8]) -> (Fraction, u32, Vec<f32>) {
    decode_audio_of(kept(media).path())
}

/// [`decode_audio`] of a file.
pub fn decode_audio_of(path: &Path) -> (Fraction, u32, Vec<f32>) {
    let stream = probe(path, &["-select_streams", "a:0", "-show_entries", "stream=sample_rate,time_base"]);
    let [rate, base] = stream[0].as_slice() else { panic!("no sound in {stream:?}") };
    let base: Fraction = base.parse().expect("a time base");
    let rate: u32 = rate.parse().expect("a rate");
    let frames = probe(path, &["-select_streams", "a:0", "-show_entries", "frame=best_effort_timestamp,nb_samples"]);
    let number = |text: &String| text.parse::<i64>().expect("a number");
    let first = number(&frames[0][0]);
    let raw = ffmpeg(path, "-i IN -map 0:a:0 -af pan=mono|c0=c0 -f f32le pipe:1");
    let mut decoded = raw.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));
    let mut samples = Vec::new();
    for frame in &frames {
        let at = Fraction::new((number(&frame[0]) - first) * base.num, base.den).ticks(i64::from(rate)) as usize;
        // Less than that is rounding.
        if at > samples.len() + rate as usize / 100 {
            samples.resize(at, 0.0);
        }
        samples.extend(decoded.by_ref().take(number(&frame[1]) as usize));
    }
    samples.extend(decoded);
    (Fraction::new(first * base.num, base.den), rate, samples)
}

/// What ffprobe says, a line a row, a field a column.
pub fn probe(path: &Path, arguments: &[&str]) -> Vec<Vec<String>> {
    let output =
        Command::new("ffprobe").args(["-v", "error"]).args(arguments).args(["-of", "csv=p=0"]).arg(path).output();
    let output = output.expect("ffprobe is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("ffprobe writes text");
    // Side data leaves empty fields and lines behind.
    let fields = |line: &str| line.split(',').filter(|field| !field.is_empty()).map(String::from).collect::<Vec<_>>();
    text.lines().map(fields).filter(|fields| !fields.is_empty()).collect()
}

/// What ffmpeg writes to its standard output; `IN` in the arguments is the file.
pub fn ffmpeg(path: &Path, arguments: &str) -> Vec<u8> {
    let path = path.to_str().expect("a plain path");
    let arguments = arguments.split_whitespace().map(|argument| if argument == "IN" { path } else { argument });
    let output = Command::new("ffmpeg").args(["-v", "error", "-nostdin"]).args(arguments).output();
    let output = output.expect("ffmpeg is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

fn kept(media: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().expect("a temporary file");
    file.write_all(media).expect("a temporary file");
    file
}
