//! A video job: decode, keep the window, scale down rung by rung, encode.
//!
//! ```text
//! appsrc ! decoder ! [fields taken apart] ! tee                              one branch by depth:
//!   videoconvert ! [turned] ! [tone-mapped] ! scaler ! caps ! tee ! queue ! [shown as scheduled] ! encoder ! appsink
//!                                                             tee ! scaler ! caps ! tee ! …
//! ```
//!
//! What the pictures are taken for is in [`super::look`], a rung in [`super::rung`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use super::look::{self, Look};
use super::order::{Order, Place, Rising};
use super::pipeline::{self, Fault, lock, pipeline_failed};
use super::rung::{self, Rendition};
use super::showing::Showing;
use super::sink::Sink;
use super::times::Times;
use super::transcode::{Parts, broken_off};
use super::{elements, fields};
use crate::ipc::worker_end::Part;
use crate::job::{Failure, FailureCode, Job, Schedule, Stats, VideoSpec, Work};
use crate::media::{Format, Ticks, Video, VideoCodec};

/// Makes all renditions of the job; checks that each has the pictures it is to have, all of them, once.
pub fn transcode(
    job: &Job,
    video: &Video,
    frame_rate: (u32, u32),
    renditions: &[VideoSpec],
    schedules: &[Option<Schedule>],
    sink: &Arc<dyn Sink>,
) -> Result<Stats, Failure> {
    check_rate(frame_rate)?;
    let times = Arc::new(Times::new(job.units.iter().map(|unit| unit.pts), frame_rate));
    let inside: Vec<Ticks> = times.ticks().into_iter().filter(|&pts| job.window.contains(pts)).collect();
    let expected = inside.len() as u64;
    if inside.is_empty() {
        return Err(Failure::new(FailureCode::BadMedia, "no unit is presented inside the window"));
    }
    let by_field = renditions.iter().any(|spec| spec.by_field(video));
    let showing = |index: usize, spec: &VideoSpec| {
        let schedule = schedules.get(index).and_then(Option::as_ref);
        Showing::new(spec, video, frame_rate, schedule, by_field, (&inside, &times))
    };
    let sequence = Sequence::Known(times.clone(), Order::new(&times.ticks(), job.window));
    let line = Line::build((job, video), (frame_rate, by_field), (renditions, &showing), sequence, sink)?;
    let units = job.units.iter().map(|unit| (unit.data.clone(), times.of(unit.pts).unwrap_or_default()));
    let made = line.run(times.frame(), units)?;
    made.check(expected)?;
    Ok(Stats { units_in: expected, decoded: made.decoded, moved: made.moved, ..Stats::default() })
}

/// The same as the units come, of a job whose window starts with a closed sync sample, that shows each picture at its own
/// time, and whose decoder gives them in that order. Where it does not, that is a [`FailureCode::FrameMismatch`]: the job can
/// be done when all of it is known.
pub fn transcode_as_it_comes(job: &Job, next: Parts<'_>, sink: &Arc<dyn Sink>) -> Result<Stats, Failure> {
    let (Format::Video(video), Work::Video { frame_rate, renditions, schedules }) = (&job.track.format, &job.work)
    else {
        return Err(Failure::new(FailureCode::UnsupportedCodec, "the work does not fit the track"));
    };
    if schedules.iter().any(Option::is_some) || video.has_fields() {
        return Err(pipeline_failed("not all of the job is known, and it depends on that"));
    }
    check_rate(*frame_rate)?;
    let start = job.window.start;
    let times = Arc::new(Times::new(std::iter::empty(), *frame_rate));
    let showing = |_: usize, _: &VideoSpec| Showing::as_they_come(*frame_rate, &times, start);
    let sequence = Sequence::Coming(times.clone(), start, Rising::new(start));
    let line = Line::build((job, video), (*frame_rate, false), (renditions, &showing), sequence, sink)?;
    let (mut came, mut ended) = (0, Err(pipeline_failed("the job was not read to its end")));
    let units = std::iter::from_fn(|| match next() {
        Ok(Part::Unit(unit)) => {
            came += u64::from(unit.pts >= start);
            Some((unit.data, ticks_as_time(unit.pts - start)))
        }
        Ok(Part::End(end)) => {
            ended = Ok(end);
            None
        }
        Err(error) => {
            ended = Err(broken_off(error));
            None
        }
    });
    let made = line.run(times.frame(), units)?;
    let end = ended?;
    made.check(came)?;
    if made.last.is_some_and(|last| last >= end) {
        return Err(mismatch("a picture is presented after the window"));
    }
    Ok(Stats { units_in: came, decoded: made.decoded, ..Stats::default() })
}

fn check_rate(frame_rate: (u32, u32)) -> Result<(), Failure> {
    if frame_rate.0 == 0 || frame_rate.1 == 0 {
        return Err(pipeline_failed("the job has no frame rate"));
    }
    Ok(())
}

/// What lies before the window comes after this, so that its time is not negative.
const BEGINNING: i64 = 1 << 40;

/// Ticks in the guise of nanoseconds, so that they come back as they are. Until a picture is decoded, only the order of such
/// times counts.
fn ticks_as_time(since: Ticks) -> gst::ClockTime {
    gst::ClockTime::from_nseconds(u64::try_from(since.0.saturating_add(BEGINNING)).unwrap_or_default())
}

fn time_as_ticks(time: gst::ClockTime) -> Option<Ticks> {
    i64::try_from(time.nseconds()).ok()?.checked_sub(BEGINNING).map(Ticks)
}

/// What each rendition shows.
type Shows<'a> = &'a dyn Fn(usize, &VideoSpec) -> Showing;

/// All of a pipeline, and what is told of it while it runs.
struct Line {
    pipeline: gst::Pipeline,
    source: gst_app::AppSrc,
    kept: Arc<Mutex<Kept>>,
    fault: Fault,
    /// By rendition: how many pictures it is to have, where that is known, and how many it has.
    counts: Vec<(Option<u64>, Arc<AtomicU64>)>,
}

/// What came of it.
struct Made {
    decoded: u64,
    moved: u64,
    last: Option<Ticks>,
    counts: Vec<(Option<u64>, u64)>,
}

impl Line {
    fn build(
        (job, video): (&Job, &Video),
        (frame_rate, by_field): ((u32, u32), bool),
        (renditions, showing): (&[VideoSpec], Shows<'_>),
        sequence: Sequence,
        sink: &Arc<dyn Sink>,
    ) -> Result<Self, Failure> {
        let fault = Fault::default();
        let frame = sequence.times().frame();
        let kept = Arc::new(Mutex::new(Kept { sequence, spoke: false }));
        let pipeline = gst::Pipeline::new();
        let source = pipeline::source(&source_caps(video, frame_rate)?);
        let decoder = decoder(video, job)?;
        let decoded = source_pad(&decoder)?;
        keep_window(&decoded, &kept, &fault);
        if video.has_fields() {
            fields::take_apart(&decoded, by_field.then(|| frame / 2), &fault);
        }
        let look = Look::new(video, frame_rate);
        let spoke = kept.clone();
        look.pin(&decoded, by_field, move || lock(&spoke).spoke = true);
        pipeline::chain(&pipeline, &[source.upcast_ref(), &decoder])?;
        let all = renditions.iter().map(pixels).sum();
        let made = renditions.iter().enumerate().map(|(index, spec)| {
            let (showing, threads) = (showing(index, spec), share(job.threads, pixels(spec), all));
            Rendition { index, spec, showing, threads, sink: sink.clone(), count: Arc::default() }
        });
        let renditions: Vec<Rendition> = made.collect();
        let counts = renditions.iter().map(|made| (made.showing.len(), made.count.clone())).collect();
        branches(&pipeline, decoder, &look, renditions, job.threads.max(1), &fault)?;
        Ok(Self { pipeline, source, kept, fault, counts })
    }

    /// Runs it on units, each with the time by which it is known again.
    fn run(self, frame: gst::ClockTime, units: impl Iterator<Item = (Bytes, gst::ClockTime)>) -> Result<Made, Failure> {
        let Self { pipeline, source, kept, fault, counts } = self;
        let buffers = units.map(|(data, time)| {
            let mut buffer = pipeline::buffer(data, time, Some(frame));
            pipeline::stamp(&mut buffer, time);
            buffer
        });
        let spoke = kept.clone();
        pipeline::run(pipeline, &source, buffers, &fault, move || lock(&spoke).spoke)?;
        let counts = counts.into_iter().map(|(wanted, count)| (wanted, count.load(Ordering::Relaxed))).collect();
        let (decoded, moved, last) = match &lock(&kept).sequence {
            Sequence::Known(_, order) => (order.count(), order.moved(), None),
            Sequence::Coming(.., rising) => (rising.count(), 0, rising.last()),
        };
        Ok(Made { decoded, moved, last, counts })
    }
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
        for made in branch {
            let caps = (look.rung(made.spec)?, look.colour(made.spec), look.hdr(made.spec));
            upstream = rung::build(pipeline, &upstream, caps, made, fault)?;
        }
    }
    Ok(())
}

fn pixels(spec: &VideoSpec) -> u64 {
    u64::from(spec.width) * u64::from(spec.height)
}

/// Of a job's threads, those of the encoder that has `part` of all pixels: encoders run side by side, and each thread of x264
/// holds pictures of its own.
fn share(threads: u32, part: u64, all: u64) -> u32 {
    let share = (2 * u64::from(threads) * part + all) / (2 * all.max(1));
    u32::try_from(share).unwrap_or(threads).clamp(1, threads.max(1))
}

impl Made {
    /// `expected`: how many pictures are inside the window; a rendition of which no more is known is to have as many.
    fn check(&self, expected: u64) -> Result<(), Failure> {
        if self.decoded == 0 {
            return Err(Failure::new(FailureCode::BadMedia, "no picture was decoded"));
        }
        if self.decoded != expected {
            return Err(mismatch(format!("{expected} pictures went in, {} were decoded", self.decoded)));
        }
        for (rendition, &(known, encoded)) in self.counts.iter().enumerate() {
            let wanted = known.unwrap_or(expected);
            if encoded != wanted {
                return Err(mismatch(format!("rendition {rendition}: {encoded} of {wanted} pictures were encoded")));
            }
        }
        Ok(())
    }
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
    sequence: Sequence,
    /// Whether the decoder has given a format.
    spoke: bool,
}

/// In which order pictures are shown, and at which times.
enum Sequence {
    /// Of a job that is whole; its stamps are its times.
    Known(Arc<Times>, Order),
    /// Of one that is coming, from there on; its stamps are the ticks since then.
    Coming(Arc<Times>, Ticks, Rising),
}

impl Sequence {
    fn times(&self) -> &Times {
        let (Self::Known(times, _) | Self::Coming(times, ..)) = self;
        times
    }

    /// Whose stamp it is.
    fn pts(&self, stamp: gst::ClockTime) -> Option<Ticks> {
        match self {
            Self::Known(times, _) => times.find(stamp),
            Self::Coming(_, start, _) => Some(*start + time_as_ticks(stamp)?),
        }
    }

    fn place(&mut self, pts: Ticks) -> Place {
        match self {
            Self::Known(_, order) => order.place(pts),
            Self::Coming(times, _, rising) => {
                let place = rising.place(pts);
                if let Place::Shown(at) = place {
                    times.push(at);
                }
                place
            }
        }
    }
}

/// Drops what is presented outside the window, and shows the rest in the order in which it comes.
fn keep_window(decoded: &gst::Pad, kept: &Arc<Mutex<Kept>>, fault: &Fault) {
    let (kept, fault) = (kept.clone(), fault.clone());
    decoded.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(stamp) = info.buffer().and_then(|buffer| pipeline::stamped(buffer)) else {
            fault.set(mismatch("a decoded picture has no time"));
            return gst::PadProbeReturn::Drop;
        };
        let sequence = &mut lock(&kept).sequence;
        let Some(pts) = sequence.pts(stamp) else {
            fault.set(mismatch(format!("a decoded picture has the time {stamp}, which no unit has")));
            return gst::PadProbeReturn::Drop;
        };
        match sequence.place(pts) {
            Place::Dropped => return gst::PadProbeReturn::Drop,
            Place::Unknown => {
                fault.set(mismatch(format!("the picture of tick {} was decoded twice, or out of order", pts.0)));
                return gst::PadProbeReturn::Drop;
            }
            Place::Shown(at) => {
                let at = sequence.times().of(at);
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
