//! Decodes audio units and puts the samples where their units' times say.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_audio as gst_audio;

use super::elements;
use super::pcm::{self, Pcm};
use super::pipeline::{self, Fault, lock, pipeline_failed};
use crate::job::{Failure, FailureCode, Job};
use crate::media::{Audio, AudioCodec, Ticks, Timescale, codec};

/// Decoded sound that one job may hold, bytes: over a minute of eight channels at 96 kHz.
const MAX_DECODED: usize = 256 << 20;
/// Samples by which a unit may be longer or shorter than what is decoded of it: the segmenter follows clocks by one at
/// a time, which a decoder that doubles the rate makes two.
const MAX_SLIP: i64 = 2;

/// A job's units as sound.
pub struct Decoded {
    /// Silent where nothing was decoded.
    pub pcm: Pcm,
    /// Hertz.
    pub rate: u32,
    pub positions: Vec<gst_audio::AudioChannelPosition>,
    /// Samples a channel that the units inside the window should give.
    pub expected: u64,
    /// Samples a channel that were decoded inside the window.
    pub covered: u64,
}

/// Decodes the job's units. `needed` tells which positions are wanted, once the decoded rate is known.
pub fn decode(
    job: &Job,
    audio: &Audio,
    needed: impl Fn(u32) -> Result<Range<i64>, Failure>,
) -> Result<Decoded, Failure> {
    let chunks = if job.units.is_empty() { Vec::new() } else { chunks(job, audio)? };
    let (rate, mut positions) = match chunks.first() {
        Some(chunk) => (chunk.info.rate(), positions(&chunk.info)),
        None if job.units.is_empty() => (audio.sample_rate, pcm::usual_positions(usize::from(audio.channels.max(1)))),
        None => return Err(Failure::new(FailureCode::BadMedia, "no sound was decoded")),
    };
    let timescale = Timescale::new(rate).ok_or_else(|| pipeline_failed("decoded sound without a rate"))?;
    let at = |pts: Ticks| pts.nearest(job.track.timescale, timescale).0;
    let window = at(job.window.start)..at(job.window.end);
    let pieces = pieces(chunks, rate, positions.len())?;
    let start_of = |piece: &Piece| job.units.get(piece.unit).map(|unit| at(unit.pts));
    let mut pcm = Pcm::silence(needed(rate)?, positions.len());
    let (mut covered, mut next) = (0, window.start);
    for (index, piece) in pieces.iter().enumerate() {
        let Some(start) = start_of(piece) else { continue };
        let follows = pieces.get(index + 1).and_then(start_of);
        let stretched = follows.and_then(|follows| stretched(&pieces, index, positions.len(), follows - start));
        let samples = stretched.as_ref().map_or(&piece.samples[..], Pcm::samples);
        pcm.place(start, samples);
        let end = start.saturating_add((samples.len() / positions.len()) as i64).min(window.end);
        covered += end.saturating_sub(start.max(next)).max(0) as u64;
        next = next.max(end);
    }
    let expected = expected(job, audio, rate, &window, at);
    // What may turn out to be stereo (parametric stereo that was not told) is decoded as stereo, and is mono after all.
    if audio.codec == AudioCodec::Aac && audio.channels == 1 && positions.len() == 2 {
        pcm = pcm.mix(&[vec![0.5, 0.5]]);
        positions = pcm::usual_positions(1);
    }
    Ok(Decoded { pcm, rate, positions, expected, covered })
}

/// All that was decoded of one unit.
struct Piece {
    unit: usize,
    /// Interleaved.
    samples: Vec<f32>,
}

fn pieces(chunks: Vec<Chunk>, rate: u32, channels: usize) -> Result<Vec<Piece>, Failure> {
    let mut pieces: Vec<Piece> = Vec::new();
    for chunk in chunks {
        if chunk.info.rate() != rate || chunk.info.channels() as usize != channels {
            return Err(Failure::new(FailureCode::BadMedia, "the sound changes its format inside a segment"));
        }
        match pieces.last_mut().filter(|piece| piece.unit == chunk.unit) {
            Some(piece) => piece.samples.extend_from_slice(&chunk.samples),
            None => pieces.push(Piece { unit: chunk.unit, samples: chunk.samples }),
        }
    }
    Ok(pieces)
}

/// The piece at `index` as `length` samples, where that is nearly what it has: its source's clock is being followed.
fn stretched(pieces: &[Piece], index: usize, channels: usize, length: i64) -> Option<Pcm> {
    let own = pieces.get(index)?.samples.len() / channels;
    let slip = length.checked_sub(own as i64)?;
    if slip == 0 || slip.abs() > MAX_SLIP {
        return None;
    }
    let before = index.checked_sub(1).and_then(|before| pieces.get(before)).map_or(&[][..], |piece| &piece.samples);
    let samples: Vec<f32> = pieces.get(index..)?.iter().take(2).flat_map(|piece| &piece.samples).copied().collect();
    let (lead, tail) = ((before.len() / channels) as i64, (samples.len() / channels) as i64);
    let mut around = Pcm::silence(-lead..tail, channels);
    around.place(-lead, before);
    around.place(0, &samples);
    around.stretched(u32::try_from(own).ok()?, length)
}

/// What the decoder gave at once.
struct Chunk {
    /// Of which unit it is.
    unit: usize,
    info: gst_audio::AudioInfo,
    /// Interleaved.
    samples: Vec<f32>,
}

/// Which unit sound is of is told by what the decoder was taking when it gave it: no decoder here looks ahead, and all
/// of this runs on one thread. The times on its buffers tell less: after a unit without sound they are a unit late.
fn chunks(job: &Job, audio: &Audio) -> Result<Vec<Chunk>, Failure> {
    let name = elements::choose(elements::audio_decoders(audio.codec), &format!("{:?} decoder", audio.codec))?;
    let decoder = elements::make(name)?;
    decoder.set_property("name", "decoder");
    let convert = elements::make("audioconvert")?;
    let fault = Fault::default();
    let chunks = Arc::new(Mutex::new(Vec::new()));
    let taken = chunks.clone();
    let raw = gst::Caps::builder("audio/x-raw")
        .field("format", gst_audio::AUDIO_FORMAT_F32.to_str())
        .field("layout", "interleaved")
        .build();
    let taken_units = Arc::new(AtomicUsize::new(0));
    let current = taken_units.clone();
    let pad = decoder.static_pad("sink").ok_or_else(|| pipeline_failed("a decoder without an input"))?;
    pad.add_probe(gst::PadProbeType::BUFFER, move |_, _| {
        taken_units.fetch_add(1, Ordering::Relaxed);
        gst::PadProbeReturn::Ok
    });
    let mut total = 0;
    let sink = pipeline::sink(&raw, &fault, move |sample| {
        let chunk = chunk(sample, current.load(Ordering::Relaxed).saturating_sub(1))?;
        total += chunk.samples.len() * size_of::<f32>();
        if total > MAX_DECODED {
            return Err(Failure::new(FailureCode::BadMedia, "the units hold too much sound"));
        }
        lock(&taken).push(chunk);
        Ok(pipeline::Taken::More)
    });
    let pipeline = gst::Pipeline::new();
    let source = pipeline::source(&source_caps(audio)?);
    pipeline::chain(&pipeline, &[source.upcast_ref(), &decoder, &convert, sink.upcast_ref()])?;
    let first = job.units.first().map(|unit| unit.pts).unwrap_or_default();
    let buffers = job.units.iter().map(|unit| {
        let time = nanoseconds((unit.pts - first).0, job.track.timescale);
        pipeline::buffer(unit.data.clone(), time, None)
    });
    let spoke = chunks.clone();
    pipeline::run(pipeline, &source, buffers, &fault, move || !lock(&spoke).is_empty())?;
    let mut chunks = lock(&chunks);
    Ok(std::mem::take(&mut *chunks))
}

fn chunk(sample: &gst::Sample, unit: usize) -> Result<Chunk, Failure> {
    let info = sample.caps().and_then(|caps| gst_audio::AudioInfo::from_caps(caps).ok());
    let info = info.ok_or_else(|| pipeline_failed("decoded sound without a format"))?;
    let buffer = sample.buffer().ok_or_else(|| pipeline_failed("decoded sound without a buffer"))?;
    let bytes = buffer.map_readable().map_err(|_| pipeline_failed("decoded sound can't be read"))?;
    let samples = bytemuck::pod_collect_to_vec::<u8, f32>(bytes.as_slice());
    Ok(Chunk { unit, info, samples })
}

fn positions(info: &gst_audio::AudioInfo) -> Vec<gst_audio::AudioChannelPosition> {
    let channels = info.channels() as usize;
    let told = info
        .positions()
        .filter(|told| told.len() == channels && !told.contains(&gst_audio::AudioChannelPosition::None));
    told.map(<[_]>::to_vec).unwrap_or_else(|| pcm::usual_positions(channels))
}

/// Samples a channel that the units should give inside `window`.
fn expected(job: &Job, audio: &Audio, rate: u32, window: &Range<i64>, at: impl Fn(Ticks) -> i64) -> u64 {
    let mut starts: Vec<(i64, i64)> = job
        .units
        .iter()
        .map(|unit| (at(unit.pts), codec::samples(audio, &unit.data).map_or(i64::from(rate / 10), i64::from)))
        .collect();
    starts.sort_unstable();
    let nexts = starts.iter().skip(1).map(|start| Some(start.0)).chain([None]);
    let within = starts.iter().zip(nexts).map(|(&(start, nominal), next)| {
        // Up to the next unit, which SBR puts at twice the samples that the codec's set-up tells; a gap holds none.
        let gap = next.map(|next| next - start).filter(|gap| (1..=2 * nominal).contains(gap));
        let end = start.saturating_add(gap.unwrap_or(nominal));
        end.min(window.end).saturating_sub(start.max(window.start)).max(0) as u64
    });
    within.sum()
}

fn source_caps(audio: &Audio) -> Result<gst::Caps, Failure> {
    let caps = match audio.codec {
        AudioCodec::Aac => gst::Caps::builder("audio/mpeg")
            .field("mpegversion", 4)
            .field("stream-format", "raw")
            .field("framed", true)
            .field("codec_data", gst::Buffer::from_slice(audio.config.clone())),
        AudioCodec::Mp3 => gst::Caps::builder("audio/mpeg")
            .field("mpegversion", 1)
            .field("layer", 3)
            .field("mpegaudioversion", 1)
            .field("parsed", true),
        AudioCodec::Ac3 => gst::Caps::builder("audio/x-ac3").field("framed", true),
        AudioCodec::Eac3 => gst::Caps::builder("audio/x-eac3").field("framed", true),
        AudioCodec::Opus => {
            let head = opus_head(&audio.config)
                .ok_or_else(|| Failure::new(FailureCode::BadMedia, "the Opus set-up is malformed"))?;
            let family = head.get(18).copied().unwrap_or(0);
            let table = head.get(19..).filter(|_| family != 0).map(<[u8]>::to_vec);
            let tags = Bytes::from_static(b"OpusTags\0\0\0\0\0\0\0\0");
            let headers = [head, tags].map(|header| gst::Buffer::from_slice(header).to_send_value());
            let caps = gst::Caps::builder("audio/x-opus")
                .field("channel-mapping-family", i32::from(family))
                .field("streamheader", gst::Array::new(headers));
            match table.as_deref() {
                Some([streams, coupled, mapping @ ..]) => caps
                    .field("stream-count", i32::from(*streams))
                    .field("coupled-count", i32::from(*coupled))
                    .field("channel-mapping", gst::Array::new(mapping.iter().map(|&n| i32::from(n).to_send_value()))),
                _ => caps,
            }
        }
    };
    let rate = i32::try_from(audio.sample_rate).map_err(|_| pipeline_failed("a sample rate beyond all bounds"))?;
    Ok(caps.field("rate", rate).field("channels", i32::from(audio.channels)).build())
}

/// OpusHead (RFC 7845 5.1) of a dOps payload, with no pre-skip: what is skipped is decided by the units' times.
fn opus_head(dops: &[u8]) -> Option<Bytes> {
    let (fixed, table) = dops.split_at_checked(11)?;
    let [_version, channels, _, _, r0, r1, r2, r3, g0, g1, family] = *<&[u8; 11]>::try_from(fixed).ok()?;
    let mut head = b"OpusHead".to_vec();
    head.extend([1, channels, 0, 0, r3, r2, r1, r0, g1, g0, family]);
    if family != 0 {
        head.extend(table.get(..2 + usize::from(channels))?);
    }
    Some(head.into())
}

fn nanoseconds(ticks: i64, timescale: Timescale) -> gst::ClockTime {
    let exact = u128::from(ticks.max(0).unsigned_abs()) * 1_000_000_000 / u128::from(timescale.get());
    gst::ClockTime::from_nseconds(u64::try_from(exact).unwrap_or(u64::MAX / 2).min(u64::MAX / 2))
}
