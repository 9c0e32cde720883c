//! An audio job: decode to absolute sample positions, mix, resample, encode frames of the absolute grid.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_audio as gst_audio;

use super::pcm::{self, Pcm, Resampler};
use super::pipeline::{self, Fault, Taken, pipeline_failed};
use super::sink::Sink;
use super::{elements, sound};
use crate::job::{AudioSpec, EncodedSample, Failure, FailureCode, Job, MOST_SAMPLES, Stats};
use crate::media::codec::{aac, opus};
use crate::media::{Audio, AudioCodec, Ticks};

/// Most milliseconds that the encoder is fed before the first frame wanted: the segmenter sends no more sound than that.
const PRE_FRAMES_MS: i64 = 1370;
/// Below this, bits a second and channel, AAC's slower coder is the better one.
const LOW_BIT_RATE: u32 = 32_000;
/// Frames that the encoder is fed after the last one wanted: it looks for attacks two frames ahead, and takes an end of
/// the sound for one.
const POST_FRAMES: i64 = 3;

/// The media's times ask for what no media is.
fn beyond_bounds(what: &str) -> Failure {
    Failure::new(FailureCode::BadMedia, what)
}

/// Makes all renditions of the job.
pub fn transcode(job: &Job, audio: &Audio, renditions: &[AudioSpec], sink: &Arc<dyn Sink>) -> Result<Stats, Failure> {
    let plans = renditions.iter().map(Plan::new).collect::<Result<Vec<_>, _>>()?;
    let needed = plans.clone();
    let mut decoded = sound::decode(job, audio, move |rate| source_range(&needed, rate))?;
    for (rendition, plan) in plans.iter().enumerate() {
        let is_last = rendition + 1 == plans.len();
        let pcm = if is_last { std::mem::take(&mut decoded.pcm) } else { decoded.pcm.clone() };
        encode(rendition, plan, plan.prepare(pcm, &decoded)?, sink)?;
    }
    Ok(Stats { units_in: decoded.expected, decoded: decoded.covered, ..Stats::default() })
}

/// The positions at the decoder's rate that any of the renditions is made of.
fn source_range(plans: &[Plan], rate: u32) -> Result<Range<i64>, Failure> {
    let mut range: Option<Range<i64>> = None;
    for plan in plans {
        let part = match plan.resampler(rate)? {
            Some(resampler) => resampler.source(plan.feed.clone()),
            None => plan.feed.clone(),
        };
        range = Some(match range {
            Some(all) => all.start.min(part.start)..all.end.max(part.end),
            None => part,
        });
    }
    let range = range.unwrap_or(0..0);
    if range.end.saturating_sub(range.start) > MOST_SAMPLES {
        return Err(beyond_bounds("the renditions lie too far apart"));
    }
    Ok(range)
}

/// What to feed an encoder, and which of its packets to keep.
#[derive(Clone)]
struct Plan {
    spec: AudioSpec,
    /// Positions at the rendition's rate.
    feed: Range<i64>,
    /// Packets before the first one that is kept.
    skip: usize,
}

/// Whether AAC is made by libavcodec's `twoloop` coder.
fn slow_coder(spec: &AudioSpec) -> bool {
    spec.codec == AudioCodec::Aac && spec.bit_rate / u32::from(spec.channels.max(1)) < LOW_BIT_RATE
}

/// Frames that the encoder is fed before the first one wanted, so that it codes that one as if it had gone on from the
/// segment before.
fn pre_frames(spec: &AudioSpec) -> i64 {
    let settled = match spec.codec {
        AudioCodec::Aac if slow_coder(spec) => 64,
        // It begins near where its rate control settles.
        AudioCodec::Aac => 16,
        _ => 32,
    };
    settled.min(PRE_FRAMES_MS * i64::from(spec.sample_rate) / (1000 * spec.frame_samples()))
}

/// Where the rate control of libavcodec's AAC encoder (its lambda) begins: near where it settles in most sound at this
/// rate. From where it begins by itself, 120, it is seconds on the way, and in some sound comes to a worse place.
fn first_lambda(spec: &AudioSpec) -> i32 {
    let bits = f64::from(spec.bit_rate) / f64::from(spec.channels.max(1)) / f64::from(spec.sample_rate.max(1));
    // 480 at 64 kb/s a channel of 48 kHz.
    (480.0 * (bits / (64.0 / 48.0)).powi(2)).clamp(120.0, 4000.0) as i32
}

impl Plan {
    fn new(spec: &AudioSpec) -> Result<Self, Failure> {
        let n = spec.frame_samples();
        let settled = pre_frames(spec);
        // What comes out of the encoder before the sound that went in first: a frame of priming for AAC, and for
        // Opus its look-ahead, which is no whole frame, so the feed is moved by it.
        let (pre_frames, primed, lookahead) = match spec.codec {
            AudioCodec::Aac => (settled, 1, 0),
            // A decoder begins with what an encoder begins with: packets before the first would leave them apart.
            AudioCodec::Opus if spec.first_frame == 0 => (0, 0, 312),
            AudioCodec::Opus => (settled, 0, 312),
            other => return Err(Failure::new(FailureCode::UnsupportedCodec, format!("{other:?} is not encoded"))),
        };
        if spec.codec == AudioCodec::Opus && (spec.sample_rate != 48_000 || !matches!(spec.channels, 1 | 2)) {
            return Err(Failure::new(FailureCode::UnsupportedCodec, "Opus is made at 48 kHz with 1 or 2 channels"));
        }
        let position = |frame: i64| frame.checked_mul(n).and_then(|at| at.checked_add(spec.origin));
        let start = spec.first_frame.checked_sub(pre_frames).and_then(position);
        let end = spec.first_frame.checked_add(i64::from(spec.frames) + POST_FRAMES).and_then(position);
        let feed = match (start, end) {
            (Some(start), Some(end)) if start > i64::MIN / 2 && end < i64::MAX / 2 => {
                start + lookahead..end + lookahead
            }
            _ => return Err(beyond_bounds("a place on the grid beyond all bounds")),
        };
        if feed.end - feed.start > MOST_SAMPLES {
            return Err(beyond_bounds("too much sound for one segment"));
        }
        Ok(Self { spec: spec.clone(), feed, skip: pre_frames as usize + primed })
    }

    /// None where the rates are the same.
    fn resampler(&self, rate: u32) -> Result<Option<Resampler>, Failure> {
        if rate == self.spec.sample_rate {
            return Ok(None);
        }
        let refused = || {
            let message = format!("{rate} Hz is not resampled to {} Hz", self.spec.sample_rate);
            Failure::new(FailureCode::UnsupportedCodec, message)
        };
        Resampler::new(rate, self.spec.sample_rate).map(Some).ok_or_else(refused)
    }

    /// What the encoder is fed, out of what was decoded.
    fn prepare(&self, pcm: Pcm, decoded: &sound::Decoded) -> Result<Pcm, Failure> {
        let channels = self.spec.channels;
        let matrix = pcm::matrix(&decoded.positions, channels).ok_or_else(|| {
            Failure::new(FailureCode::UnsupportedCodec, format!("sound with {channels} channels is not made"))
        })?;
        Ok(match self.resampler(decoded.rate)? {
            Some(resampler) => pcm.mix(&matrix).resample(&resampler, self.feed.clone()),
            None => pcm.into_slice(self.feed.clone()).mix(&matrix),
        })
    }
}

fn encode(rendition: usize, plan: &Plan, pcm: Pcm, sink: &Arc<dyn Sink>) -> Result<(), Failure> {
    let spec = &plan.spec;
    let config = match spec.codec {
        AudioCodec::Opus => opus::dops(spec.channels, 0, 48_000),
        _ => aac::low_complexity(spec.sample_rate, spec.channels)
            .map_err(|e| Failure::new(FailureCode::UnsupportedCodec, e.to_string()))?,
    };
    let packets = packets(spec, pcm)?;
    let wanted = plan.skip..plan.skip.saturating_add(spec.frames as usize);
    let kept = packets.get(wanted).ok_or_else(|| {
        let message = format!("rendition {rendition}: only {} packets for {} frames", packets.len(), spec.frames);
        Failure::new(FailureCode::FrameMismatch, message)
    })?;
    sink.set_up(rendition, config);
    for (frame, data) in (spec.first_frame..).zip(kept) {
        let pts = Ticks(spec.origin + frame * spec.frame_samples());
        sink.sample(rendition, EncodedSample { pts, sync: true, data: data.clone() });
    }
    Ok(())
}

/// All that the encoder makes of the sound.
fn packets(spec: &AudioSpec, pcm: Pcm) -> Result<Vec<Bytes>, Failure> {
    let name = elements::choose(elements::audio_encoders(spec.codec), &format!("{:?} encoder", spec.codec))?;
    let encoder = elements::make(name)?;
    let caps = match spec.codec {
        AudioCodec::Opus => {
            elements::set(&encoder, "frame-size", 20);
            elements::set(&encoder, "audio-type", "generic");
            elements::set(&encoder, "bitrate-type", "vbr");
            elements::set(&encoder, "bitrate", spec.bit_rate.clamp(4_000, 650_000));
            gst::Caps::builder("audio/x-opus").build()
        }
        _ => {
            elements::set(&encoder, "bitrate", i32::try_from(spec.bit_rate).unwrap_or(i32::MAX));
            // The element turns libavcodec's "as it fits" into "always": 17 dB lost where the channels differ.
            elements::set(&encoder, "aac-ms", false);
            // The other coder's choices hang on all that it has coded before: up to 9 dB lost at a join. libavcodec
            // recommends that one only for low rates.
            elements::set(&encoder, "aac-coder", if slow_coder(spec) { "twoloop" } else { "fast" });
            if !slow_coder(spec) {
                elements::set(&encoder, "global-quality", first_lambda(spec));
            }
            gst::Caps::builder("audio/mpeg").field("mpegversion", 4).field("stream-format", "raw").build()
        }
    };
    let fault = Fault::default();
    let packets = Arc::new(Mutex::new(Vec::new()));
    let taken = packets.clone();
    let pipeline = gst::Pipeline::new();
    let source = pipeline::source(&raw_caps(spec)?);
    let convert = elements::make("audioconvert")?;
    elements::set(&convert, "dithering", "none");
    let sink = pipeline::sink(&caps, &fault, move |sample| {
        let data = pipeline::bytes(sample)?;
        taken.lock().unwrap_or_else(|e| e.into_inner()).push(data);
        Ok(Taken::More)
    });
    pipeline::chain(&pipeline, &[source.upcast_ref(), &convert, &encoder, sink.upcast_ref()])?;
    let frames = (pcm.samples().len() / pcm.channels()) as u64;
    let duration = gst::ClockTime::SECOND.mul_div_floor(frames, u64::from(spec.sample_rate));
    let buffer = pipeline::buffer(Bytes::from_owner(pcm), gst::ClockTime::ZERO, duration);
    pipeline::run(pipeline, &source, std::iter::once(buffer), &fault, || true)?;
    let mut packets = packets.lock().unwrap_or_else(|e| e.into_inner());
    Ok(std::mem::take(&mut *packets))
}

fn raw_caps(spec: &AudioSpec) -> Result<gst::Caps, Failure> {
    let out_of_range = |_| pipeline_failed("a sample rate beyond all bounds");
    let mask: u64 = if spec.channels == 6 { 0x3f } else { 0x3 };
    Ok(gst::Caps::builder("audio/x-raw")
        .field("format", gst_audio::AUDIO_FORMAT_F32.to_str())
        .field("layout", "interleaved")
        .field("rate", i32::try_from(spec.sample_rate).map_err(out_of_range)?)
        .field("channels", i32::from(spec.channels))
        .field_if("channel-mask", gst::Bitmask::new(mask), spec.channels > 1)
        .build())
}
