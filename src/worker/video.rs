//! A video job: decode, keep the window, scale down rung by rung, encode.
//!
//! ```text
//! appsrc ! decoder ! [fields taken apart] ! tee                              one branch by depth:
//!   videoconvert ! [turned] ! [tone-mapped] ! scaler ! caps ! tee ! queue ! [shown as scheduled] ! encoder ! appsink
//!                                                             tee ! queue ! scaler ! caps ! tee ! …
//! ```
//!
//! What the pictures are taken for is in [`super::look`], a rung in [`super::rung`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::look::{self, Look};
use super::order::{Order, Place};
use super::pipeline::{self, Fault, pipeline_failed};
use super::rung::{self, Rendition, Showing};
use super::sink::Sink;
use super::times::Times;
use super::{elements, fields};
use crate::job::{Failure, FailureCode, Job, Schedule, Stats, VideoSpec};
use crate::media::{Ticks, Video, VideoCodec};

/// Makes all renditions of the job; checks that each has the pictures it is to have, all of them, once.
pub fn transcode(
    job: &Job,
    video: &Video,
    frame_rate: (u32, u32),
    renditions: &[VideoSpec],
    schedules: &[Option<Schedule>],
    sink: &Arc<dyn Sink>,
) -> Result<Stats, Failure> {
    if frame_rate.0 == 0 || frame_rate.1 == 0 {
        return Err(pipeline_failed("the job has no frame rate"));
    }
    let times = Arc::new(Times::new(job.units.iter().map(|unit| unit.pts), frame_rate));
    let inside: Vec<Ticks> = times.ticks().iter().copied().filter(|&pts| job.window.contains(pts)).collect();
    let expected = inside.len() as u64;
    if inside.is_empty() {
        return Err(Failure::new(FailureCode::BadMedia, "no unit is presented inside the window"));
    }
    let fault = Fault::default();
    let order = Order::new(times.ticks(), job.window);
    let kept = Arc::new(Mutex::new(Kept { order, spoke: false }));
    let pipeline = gst::Pipeline::new();

    let source = pipeline::source(&source_caps(video, frame_rate)?);
    let decoder = decoder(video, job)?;
    let decoded = source_pad(&decoder)?;
    keep_window(&decoded, &times, &kept, &fault);
    let by_field = renditions.iter().any(|spec| spec.by_field(video));
    if video.has_fields() {
        fields::take_apart(&decoded, by_field.then(|| times.frame() / 2), &fault);
    }
    let look = Look::new(video, frame_rate);
    let spoke = kept.clone();
    look.pin(&decoded, by_field, move || lock(&spoke).spoke = true);
    pipeline::chain(&pipeline, &[source.upcast_ref(), &decoder])?;
    let renditions: Vec<Rendition> = renditions
        .iter()
        .enumerate()
        .map(|(index, spec)| {
            let schedule = schedules.get(index).and_then(Option::as_ref);
            let all = (inside.as_slice(), &times);
            let showing = Showing::new(spec, video, frame_rate, schedule, by_field, all);
            Rendition { index, spec, showing, sink: sink.clone(), count: Arc::default() }
        })
        .collect();
    let counts: Vec<(u64, Arc<AtomicU64>)> =
        renditions.iter().map(|made| (made.showing.len(), made.count.clone())).collect();
    branches(&pipeline, decoder, &look, renditions, job.threads.max(1), &fault)?;

    let buffers = job.units.iter().map(|unit| {
        let pts = times.of(unit.pts).unwrap_or_default();
        let mut buffer = pipeline::buffer(unit.data.clone(), pts, Some(times.frame()));
        pipeline::stamp(&mut buffer, pts);
        buffer
    });
    let spoke = kept.clone();
    pipeline::run(pipeline, &source, buffers, &fault, move || lock(&spoke).spoke)?;

    let (decoded, moved) = {
        let kept = lock(&kept);
        (kept.order.count(), kept.order.moved())
    };
    check_counts(expected, decoded, counts.iter().map(|(wanted, count)| (*wanted, count.load(Ordering::Relaxed))))?;
    Ok(Stats { units_in: expected, decoded, moved, ..Stats::default() })
}

/// One branch for each depth that is made, and in each the rungs from the largest to the smallest.
fn branches(
    pipeline: &gst::Pipeline,
    decoder: gst::Element,
    look: &Look,
    renditions: Vec<Rendition>,
    threads: u32,
    fault: &Fault,
) -> Result<(), Failure> {
    let (deep, plain): (Vec<_>, Vec<_>) = renditions.into_iter().partition(|made| made.spec.depth > 8);
    let tee = elements::make("tee")?;
    let both = !deep.is_empty() && !plain.is_empty();
    if both {
        pipeline::chain(pipeline, &[&decoder, &tee])?;
    }
    for branch in [deep, plain] {
        let Some(depth) = branch.first().map(|made| made.spec.depth) else { continue };
        let convert = elements::make("videoconvert")?;
        elements::set(&convert, "n-threads", threads);
        elements::set(&convert, "qos", false);
        let mut line = if both { vec![tee.clone(), rung::queue()?, convert] } else { vec![decoder.clone(), convert] };
        line.extend(look.turn()?);
        line.extend(look.tone(depth)?);
        pipeline::chain(pipeline, &line.iter().collect::<Vec<_>>())?;
        let mut upstream = line.pop().unwrap_or_else(|| tee.clone());
        for (place, made) in branch.into_iter().enumerate() {
            let caps = (look.rung(made.spec)?, look.colour(made.spec), look.hdr(made.spec));
            upstream = rung::build(pipeline, (&upstream, place > 0), caps, made, threads, fault)?;
        }
    }
    Ok(())
}

fn check_counts(expected: u64, decoded: u64, encoded: impl Iterator<Item = (u64, u64)>) -> Result<(), Failure> {
    if decoded == 0 {
        return Err(Failure::new(FailureCode::BadMedia, "no picture was decoded"));
    }
    if decoded != expected {
        return Err(mismatch(format!("{expected} pictures went in, {decoded} were decoded")));
    }
    for (rendition, (wanted, encoded)) in encoded.enumerate() {
        if encoded != wanted {
            return Err(mismatch(format!("rendition {rendition}: {encoded} of {wanted} pictures were encoded")));
        }
    }
    Ok(())
}

fn source_caps(video: &Video, frame_rate: (u32, u32)) -> Result<gst::Caps, Failure> {
    let caps = match video.codec {
        VideoCodec::H264 => gst::Caps::builder("video/x-h264").field("stream-format", "avc").field("alignment", "au"),
        VideoCodec::H265 => gst::Caps::builder("video/x-h265").field("stream-format", "hvc1").field("alignment", "au"),
        VideoCodec::Vp8 => gst::Caps::builder("video/x-vp8"),
        VideoCodec::Vp9 => gst::Caps::builder("video/x-vp9").field("alignment", "super-frame"),
        VideoCodec::Av1 => {
            gst::Caps::builder("video/x-av1").field("stream-format", "obu-stream").field("alignment", "tu")
        }
        VideoCodec::Mpeg2 => {
            gst::Caps::builder("video/mpeg").field("mpegversion", 2).field("systemstream", false).field("parsed", true)
        }
    };
    let with_config =
        !video.config.is_empty() && matches!(video.codec, VideoCodec::H264 | VideoCodec::H265 | VideoCodec::Mpeg2);
    let size = |n: u32| i32::try_from(n).map_err(|_| pipeline_failed("a picture size beyond all bounds"));
    Ok(caps
        .field("width", size(video.width)?)
        .field("height", size(video.height)?)
        .field("framerate", look::fraction(frame_rate))
        .field_if("codec_data", gst::Buffer::from_slice(video.config.clone()), with_config)
        .build())
}

fn decoder(video: &Video, job: &Job) -> Result<gst::Element, Failure> {
    let name = elements::choose(elements::video_decoders(video.codec), &format!("{:?} decoder", video.codec))?;
    let decoder = elements::make(name)?;
    decoder.set_property("name", "decoder");
    // With one thread, and with slice threads, libav loses every picture of an open GOP that H.264 enters at a
    // recovery point.
    let threads = if video.codec == VideoCodec::H264 { job.threads.max(2) } else { job.threads.max(1) };
    elements::set(&decoder, "max-threads", threads);
    elements::set(&decoder, "threads", threads.min(16));
    elements::set(&decoder, "thread-type", if video.codec == VideoCodec::H264 { "frame" } else { "auto" });
    elements::set(&decoder, "qos", false);
    // Pre-roll may refer to what was never there, so it may fail; nothing else may.
    let outside = job.units.iter().filter(|unit| !job.window.contains(unit.pts)).count();
    elements::set(&decoder, "max-errors", i32::try_from(outside).unwrap_or(i32::MAX));
    Ok(decoder)
}

/// What has come out of the decoder.
struct Kept {
    order: Order,
    /// Whether the decoder has given a format.
    spoke: bool,
}

/// Drops what is presented outside the window, and shows the rest in the order in which it comes.
fn keep_window(decoded: &gst::Pad, times: &Arc<Times>, kept: &Arc<Mutex<Kept>>, fault: &Fault) {
    let (times, kept, fault) = (times.clone(), kept.clone(), fault.clone());
    decoded.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(time) = info.buffer().and_then(|buffer| pipeline::stamped(buffer)) else {
            fault.set(mismatch("a decoded picture has no time"));
            return gst::PadProbeReturn::Drop;
        };
        let Some(pts) = times.find(time) else {
            fault.set(mismatch(format!("a decoded picture has the time {time}, which no unit has")));
            return gst::PadProbeReturn::Drop;
        };
        match lock(&kept).order.place(pts) {
            Place::Dropped => return gst::PadProbeReturn::Drop,
            Place::Unknown => {
                fault.set(mismatch(format!("the picture of tick {} was decoded twice", pts.0)));
                return gst::PadProbeReturn::Drop;
            }
            Place::Shown(at) => {
                let at = times.of(at);
                if let Some(gst::PadProbeData::Buffer(picture)) = &mut info.data
                    && picture.pts() != at
                {
                    picture.make_mut().set_pts(at);
                }
            }
        }
        gst::PadProbeReturn::Ok
    });
}

pub fn source_pad(element: &gst::Element) -> Result<gst::Pad, Failure> {
    element.static_pad("src").ok_or_else(|| pipeline_failed("a decoder without an output"))
}

pub fn mismatch(message: impl Into<String>) -> Failure {
    Failure::new(FailureCode::FrameMismatch, message)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
