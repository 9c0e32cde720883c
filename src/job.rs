//! What both sides of the pool share. A job is a pure function: all that its result depends on travels in it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::media::{AccessUnit, AudioCodec, Colour, Ticks, Timescale, Track, Video, VideoCodec, Window};

/// One track of one segment, and what to make of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// Unique in the process; for logs.
    pub id: u64,
    /// The segment's number in its session; for logs.
    pub seq: u64,
    /// How to decode: codec, set-up bytes, timescale.
    pub track: Track,
    /// Pre-roll, the segment's own units, post-roll, in decode order. Only what is presented inside `window` is kept.
    pub units: Vec<AccessUnit>,
    pub window: Window,
    pub work: Work,
    /// Threads for the decoder and for each encoder; at least 1.
    pub threads: u32,
}

/// What to make of the track.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Work {
    Video {
        /// Pinned for the whole session, so that every segment's encoder makes the same set-up. Frames a second.
        frame_rate: (u32, u32),
        /// Largest first; each is scaled from the one before it of the same depth.
        renditions: Vec<VideoSpec>,
        /// By rendition; what has none shows each picture at its own time.
        schedules: Vec<Option<Schedule>>,
    },
    Audio {
        renditions: Vec<AudioSpec>,
    },
}

impl Work {
    /// How many renditions come back.
    pub fn renditions(&self) -> usize {
        match self {
            Self::Video { renditions, .. } => renditions.len(),
            Self::Audio { renditions } => renditions.len(),
        }
    }
}

/// One video rendition.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct VideoSpec {
    /// H264, H265, Vp9 or Av1.
    pub codec: VideoCodec,
    /// Even; of the upright picture.
    pub width: u32,
    /// Even; of the upright picture.
    pub height: u32,
    /// The codec's own constant-quality number.
    pub crf: u8,
    /// Cap on the rate, kilobits a second.
    pub max_kbps: Option<u32>,
    pub preset: Preset,
    /// Bits of a sample, 8 or 10.
    pub depth: u8,
    /// What is made of interlaced pictures.
    pub deinterlace: Deinterlace,
    /// Frames a second as a fraction; None: the source's pictures, each once.
    pub fps: Option<(u32, u32)>,
}

impl VideoSpec {
    /// Whether high dynamic range is brought down to the range and the colours of BT.709: where there are 8 bits for it.
    pub fn tone_mapped(&self, source: Colour) -> bool {
        self.depth == 8 && source.is_hdr()
    }

    /// Whether each field of the source is a picture.
    pub fn by_field(&self, source: &Video) -> bool {
        source.has_fields() && self.deinterlace == Deinterlace::Field
    }
}

/// How many pictures are made of an interlaced one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Deinterlace {
    /// One, at its time.
    #[default]
    Frame,
    /// One of each field, the second half-way to the next picture.
    Field,
}

/// Which pictures a rendition shows, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Of the times in it.
    pub timescale: Timescale,
    /// The source's pictures in the window, each field counted where each is a picture.
    pub pictures: u32,
    /// In rising order of both.
    pub shown: Vec<Shown>,
    /// Where the last one ends.
    pub end: Ticks,
}

/// One picture of a [`Schedule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Which picture of the window, in presentation order, from 0.
    pub picture: u32,
    pub pts: Ticks,
}

impl Schedule {
    /// Pictures of the source that are not shown, and showings of a picture after its first.
    pub fn dropped_and_repeated(&self) -> (u64, u64) {
        let repeated = self.shown.windows(2).filter(|pair| pair[0].picture == pair[1].picture).count() as u64;
        let distinct = self.shown.len() as u64 - repeated;
        (u64::from(self.pictures).saturating_sub(distinct), repeated)
    }
}

/// How much work the encoder may put in; named after x264's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    Ultrafast,
    Superfast,
    Veryfast,
    Faster,
    Fast,
    Medium,
    Slow,
}

impl Preset {
    /// x264's name of it, which is the protocol's too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ultrafast => "ultrafast",
            Self::Superfast => "superfast",
            Self::Veryfast => "veryfast",
            Self::Faster => "faster",
            Self::Fast => "fast",
            Self::Medium => "medium",
            Self::Slow => "slow",
        }
    }
}

/// One audio rendition, and which of its frames on the absolute sample grid this job makes.
///
/// Frame `i` of a rendition holds the samples `[origin + i·n, origin + (i+1)·n)` of the absolute timeline, counted at
/// `sample_rate` (sample 0 is presentation time 0), where n is [`AudioSpec::frame_samples`]. Its PTS is `origin + i·n`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AudioSpec {
    /// Aac or Opus.
    pub codec: AudioCodec,
    /// Bits a second.
    pub bit_rate: u32,
    pub channels: u16,
    /// Hertz; 48000 for Opus.
    pub sample_rate: u32,
    pub origin: i64,
    pub first_frame: i64,
    pub frames: u32,
}

impl AudioSpec {
    /// Samples a channel in each frame: AAC-LC 1024, Opus 960 (20 ms).
    pub fn frame_samples(&self) -> i64 {
        if self.codec == AudioCodec::Opus { 960 } else { 1024 }
    }
}

/// Longest range of samples that a job of sound may ask for: two minutes at the highest rate. What asks for more is
/// refused before any work is done.
pub const MOST_SAMPLES: i64 = 192_000 * 120;

/// What came of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// In the order of the job's renditions.
    pub renditions: Vec<Encoded>,
    pub stats: Stats,
}

/// One rendition's part of the segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    /// In the form of `Video::config` or `Audio::config`.
    pub config: Bytes,
    /// In decode order. PTS: video in the source track's ticks or its schedule's, audio in samples at the rendition's rate.
    pub samples: Vec<EncodedSample>,
}

/// One coded picture or audio frame, in the form of [`AccessUnit::data`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EncodedSample {
    pub pts: Ticks,
    pub sync: bool,
    pub data: Bytes,
}

/// What a job took, as the worker reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time of the worker process for this job, all threads.
    pub cpu_us: u64,
    pub wall_us: u64,
    /// Units inside the window that were sent (video), or samples a channel decoded inside it (audio).
    pub units_in: u64,
    /// Pictures kept after decoding, or samples.
    pub decoded: u64,
    /// Pictures of these that are shown at another time than they are stamped with.
    pub moved: u64,
}

/// What a worker's registry of elements can do, reported as it starts. Each codec with the element that serves it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Inventory {
    /// Of GStreamer.
    pub version: String,
    /// Those of its plugins that are used, with their versions.
    pub plugins: Vec<(String, String)>,
    pub video_decoders: Vec<(VideoCodec, String)>,
    pub video_encoders: Vec<(VideoCodec, String)>,
    pub audio_decoders: Vec<(AudioCodec, String)>,
    pub audio_encoders: Vec<(AudioCodec, String)>,
    /// What is made with 10 bits a sample.
    pub deep_encoders: Vec<VideoCodec>,
    /// Elements that were looked for and are not there.
    pub missing: Vec<String>,
    pub confinement: Confinement,
}

/// Which layers a worker has put on itself, and why not the others.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Confinement {
    pub on: Vec<Layer>,
    pub lacking: Vec<(Layer, String)>,
}

/// A layer of what confines a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Layer {
    /// Nothing is open but standard input, output and error.
    Descriptors,
    /// A network namespace without a network.
    Network,
    /// Not root, and no capability.
    User,
    /// No file, port or other process in reach.
    Landlock,
    NoNewPrivileges,
    /// Of memory, files, CPU time.
    Limits,
    /// Few system calls.
    Seccomp,
}

impl Layer {
    pub const ALL: [Self; 7] = [
        Self::Descriptors,
        Self::Network,
        Self::User,
        Self::Landlock,
        Self::NoNewPrivileges,
        Self::Limits,
        Self::Seccomp,
    ];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Descriptors => "descriptors",
            Self::Network => "network",
            Self::User => "user",
            Self::Landlock => "landlock",
            Self::NoNewPrivileges => "no_new_privileges",
            Self::Limits => "limits",
            Self::Seccomp => "seccomp",
        }
    }
}

/// Why a job did not end well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Failure {
    pub code: FailureCode,
    pub message: String,
}

/// Stable reasons of [`Failure`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureCode {
    /// The decoder can't make sense of the units: the client's fault.
    BadMedia,
    /// No decoder or encoder is there for it.
    UnsupportedCodec,
    /// Fewer or more pictures or samples came out than went in, and so they did on another worker: the media is at
    /// fault, in a way that its decoder doesn't tell.
    FrameMismatch,
    /// An element of the pipeline failed for another reason.
    PipelineFailed,
    /// The worker process ended in mid-job, by its own doing.
    WorkerDied,
    /// The worker process was killed in mid-job by somebody else, too often.
    WorkerKilled,
    /// A clock ran out and the worker was killed.
    WorkerTimeout,
    /// The worker's answer broke the rules of the ipc.
    WorkerProtocol,
    /// Two workers died of this job.
    Poison,
    /// Its deadline passed before it came to a worker.
    Late,
    /// The pool is closing.
    Closed,
}

impl FailureCode {
    /// The stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::BadMedia => "bad_media",
            Self::UnsupportedCodec => "unsupported_codec",
            Self::FrameMismatch => "frame_mismatch",
            Self::PipelineFailed => "pipeline_failed",
            Self::WorkerDied => "worker_died",
            Self::WorkerKilled => "worker_killed",
            Self::WorkerTimeout => "worker_timeout",
            Self::WorkerProtocol => "worker_protocol",
            Self::Poison => "poison_segment",
            Self::Late => "late",
            Self::Closed => "closed",
        }
    }

    /// Whether a fresh worker may do better.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Self::PipelineFailed
                | Self::WorkerDied
                | Self::WorkerKilled
                | Self::WorkerTimeout
                | Self::WorkerProtocol
                | Self::FrameMismatch
        )
    }
}

impl Failure {
    pub fn new(code: FailureCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}
