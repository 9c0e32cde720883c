//! Each codec through a worker and back: what is decoded and encoded is counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use super::{Finding, PATIENCE, State};
use crate::config::Config;
use crate::job::Preset;
use crate::pool::{Capacity, Pool};
use crate::protocol::{
    AudioChoice, AudioRequest, BinaryHeader, InputContainer, Output, OutputContainer, Receipt, ServerMessage,
    VideoChoice, VideoRequest,
};
use crate::session::{
    self, Caller, Context, Ended, Gone, Incoming, Outgoing, Outlet, Scratch, Settings, Tokens, Wanted,
};
use crate::telemetry::Metrics;
use crate::telemetry::metrics::{Operation, Origin};

/// In each clip of pictures.
const PICTURES: u64 = 4;
/// Samples in each clip of sound, at 48 kHz; what a codec puts before and behind them is up to it.
const SAMPLES: u64 = 9600;
const SAMPLES_MORE_OR_LESS: u64 = 3 * 1152;

macro_rules! clip {
    ($name:literal) => {
        include_bytes!(concat!("clips/", $name))
    };
}

const VIDEO: [(&str, &[u8]); 6] = [
    ("h264", clip!("h264.mp4")),
    ("h265", clip!("h265.mp4")),
    ("vp8", clip!("vp8.webm")),
    ("vp9", clip!("vp9.webm")),
    ("av1", clip!("av1.mp4")),
    ("mpeg2", clip!("mpeg2.ts")),
];
const AUDIO: [(&str, &[u8]); 5] = [
    ("aac", clip!("aac.mp4")),
    ("opus", clip!("opus.webm")),
    ("mp3", clip!("mp3.ts")),
    ("ac3", clip!("ac3.ts")),
    ("eac3", clip!("eac3.ts")),
];
const MADE_VIDEO: [(&str, VideoChoice); 4] =
    [("h264", VideoChoice::H264), ("h265", VideoChoice::H265), ("vp9", VideoChoice::Vp9), ("av1", VideoChoice::Av1)];
const MADE_AUDIO: [(&str, AudioChoice); 2] = [("aac", AudioChoice::Aac), ("opus", AudioChoice::Opus)];

/// What each codec does.
pub(super) async fn all(pool: &Pool, config: &Config) -> Vec<Finding> {
    let bench = match Bench::new(pool, config) {
        Ok(bench) => bench,
        Err(error) => return vec![Finding::new("codecs", "session", State::Fault, error)],
    };
    let inventory = pool.inventory();
    let video =
        |element: &[(crate::media::VideoCodec, String)], name: &str| by_name(element, name, |codec| codec.name());
    let audio =
        |element: &[(crate::media::AudioCodec, String)], name: &str| by_name(element, name, |codec| codec.name());
    let mut findings = Vec::new();
    for (name, clip) in VIDEO {
        let counted = bench.pictures(clip, VideoChoice::H264).await.map(|_| told_pictures());
        findings.push(finding("decode", name, video(&inventory.video_decoders, name), counted));
    }
    for (name, clip) in AUDIO {
        let counted = bench.sound(clip, AudioChoice::Opus).await.map(|(_, samples)| format!("{samples} samples"));
        findings.push(finding("decode", name, audio(&inventory.audio_decoders, name), counted));
    }
    for (name, choice) in MADE_VIDEO {
        let counted = bench.pictures_and_back(choice).await.map(|()| told_pictures());
        findings.push(finding("encode", name, video(&inventory.video_encoders, name), counted));
    }
    for (name, choice) in MADE_AUDIO {
        let counted = bench.sound_and_back(choice).await.map(|samples| format!("{samples} samples"));
        findings.push(finding("encode", name, audio(&inventory.audio_encoders, name), counted));
    }
    findings
}

fn told_pictures() -> String {
    format!("{PICTURES} pictures")
}

fn by_name<C: Copy>(served: &[(C, String)], name: &str, of: impl Fn(C) -> &'static str) -> Option<String> {
    served.iter().find(|(codec, _)| of(*codec) == name).map(|(_, element)| element.clone())
}

fn finding(of: &'static str, name: &str, element: Option<String>, counted: Result<String, String>) -> Finding {
    match (element, counted) {
        (None, _) => Finding::new(of, name, State::Fault, "nothing that is installed does it"),
        (Some(element), Ok(counted)) => Finding::new(of, name, State::Well, format!("by {element}: {counted}")),
        (Some(element), Err(error)) => Finding::new(of, name, State::Fault, format!("by {element}: {error}")),
    }
}

/// Where clips are sent through.
struct Bench {
    context: Arc<Context>,
    capacity: Capacity,
}

impl Bench {
    fn new(pool: &Pool, config: &Config) -> Result<Self, String> {
        let key = Tokens::random_key().map_err(|error| error.to_string())?;
        let context = Context {
            pool: pool.clone(),
            metrics: Metrics::new(config.scratch.bytes),
            settings: Settings::new(config),
            scratch: Scratch::new(config.scratch.dir.clone(), config.scratch.bytes),
            tokens: Tokens::new(vec![key], config.resume.ttl),
        };
        let capacity = Capacity::new(pool.cores(), config.capacity.hold_window, Arc::new(()));
        Ok(Self { context: Arc::new(context), capacity })
    }

    /// What is made of the clip's pictures: all of them.
    async fn pictures(&self, clip: &[u8], codec: VideoChoice) -> Result<Bytes, String> {
        let request = VideoRequest {
            codec,
            width: None,
            height: None,
            crf: None,
            max_kbps: None,
            preset: Some(Preset::Ultrafast),
            fps: None,
            deinterlace: None,
        };
        let taken = self.pass(clip, Some(request), None).await?;
        let (sent, made) = (taken.sum(|receipt| receipt.frames_in), taken.sum(|receipt| first(&receipt.frames_out)));
        if (sent, made) != (PICTURES, PICTURES) {
            return Err(format!("{sent} pictures were read and {made} made of {PICTURES}"));
        }
        Ok(taken.whole())
    }

    /// What is made of the clip's sound, and how many samples of it.
    async fn sound(&self, clip: &[u8], codec: AudioChoice) -> Result<(Bytes, u64), String> {
        let request =
            AudioRequest { codec, kbps: None, channels: None, sample_rate: Some(48_000), track: None, language: None };
        let taken = self.pass(clip, None, Some(request)).await?;
        let (made, lost) =
            (taken.sum(|receipt| first(&receipt.audio_samples)), taken.sum(|receipt| receipt.audio_lost));
        if lost > 0 || made.abs_diff(SAMPLES) > SAMPLES_MORE_OR_LESS {
            return Err(format!("{made} samples were made of {SAMPLES}, and {lost} lost"));
        }
        Ok((taken.whole(), made))
    }

    async fn pictures_and_back(&self, codec: VideoChoice) -> Result<(), String> {
        let made = self.pictures(VIDEO[0].1, codec).await?;
        self.pictures(&made, VideoChoice::H264).await.map_err(|error| format!("what was made, again: {error}"))?;
        Ok(())
    }

    async fn sound_and_back(&self, codec: AudioChoice) -> Result<u64, String> {
        let (made, samples) = self.sound(AUDIO[0].1, codec).await?;
        self.sound(&made, AudioChoice::Opus).await.map_err(|error| format!("what was made, again: {error}"))?;
        Ok(samples)
    }

    /// A session of one segment.
    async fn pass(
        &self,
        clip: &[u8],
        video: Option<VideoRequest>,
        audio: Option<AudioRequest>,
    ) -> Result<Taken, String> {
        let output = Output { name: "made".into(), container: OutputContainer::Cmaf, video, audio };
        let wanted = Wanted::segment(InputContainer::Auto, Some(vec![output]), &self.context.settings)
            .map_err(|fatal| fatal.to_string())?;
        let reservation = self.capacity.hold(Instant::now()).map_err(|full| full.to_string())?;
        let incoming = [Ok(Incoming::Media(Bytes::copy_from_slice(clip))), Ok(Incoming::Finish)];
        let taken = Arc::new(Mutex::new(Taken::default()));
        let caller = Caller { op: Operation::Transcode, origin: Origin::Client };
        let ended = Box::pin(session::run(
            self.context.clone(),
            caller,
            wanted,
            futures_util::stream::iter(incoming),
            Taking(taken.clone()),
            session::stays(),
            &reservation,
        ));
        let ended = timeout(PATIENCE, ended).await.map_err(|_| format!("nothing came within {PATIENCE:?}"))?;
        let taken = std::mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner));
        match (ended, taken.receipts.iter().find_map(|receipt| receipt.error.as_ref())) {
            (_, Some(error)) => Err(format!("{}: {}", error.code, error.message)),
            (Ended::Done(_), None) => Ok(taken),
            (Ended::Fatal(fatal), None) => Err(fatal.to_string()),
            (ended, None) => Err(format!("it ended otherwise: {ended:?}")),
        }
    }
}

/// Of the only output.
fn first(by_output: &BTreeMap<String, u64>) -> u64 {
    by_output.values().next().copied().unwrap_or(0)
}

/// What came of a session.
#[derive(Debug, Default)]
struct Taken {
    receipts: Vec<Receipt>,
    init: Bytes,
    media: Vec<Bytes>,
}

impl Taken {
    fn sum(&self, of: impl Fn(&Receipt) -> u64) -> u64 {
        self.receipts.iter().map(of).sum()
    }

    fn whole(&self) -> Bytes {
        let parts: Vec<&[u8]> = std::iter::once(&self.init).chain(&self.media).map(AsRef::as_ref).collect();
        parts.concat().into()
    }
}

struct Taking(Arc<Mutex<Taken>>);

impl Outlet for Taking {
    async fn send(&mut self, outgoing: Outgoing) -> Result<(), Gone> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match outgoing {
            Outgoing::Message(ServerMessage::Receipt(receipt)) => taken.receipts.push(receipt),
            Outgoing::Binary(BinaryHeader::Init(_), payload) => taken.init = payload,
            Outgoing::Binary(BinaryHeader::Segment(_), payload) => taken.media.push(payload),
            Outgoing::Message(_) => {}
        }
        Ok(())
    }
}
