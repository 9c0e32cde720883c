//! A video job: decode, keep the window, scale down rung by rung, encode.
//!
//! ```text
//! appsrc ! decoder ! [deinterlace] ! videoconvert ! scaler ! caps ! tee ! queue ! encoder ! appsink
//!                                                                  tee ! queue ! scaler ! caps ! tee ! …
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::encoder::{self, Packer};
use super::pipeline::{self, Fault, pipeline_failed};
use super::sink::Sink;
use super::times::Times;
use super::{colour, elements, scaler};
use crate::job::{EncodedSample, Failure, FailureCode, Job, Stats, VideoSpec};
use crate::media::{Ticks, Video, VideoCodec, Window};

/// Makes all renditions of the job; checks that each has the window's pictures, all of them, once.
pub fn transcode(
    job: &Job,
    video: &Video,
    frame_rate: (u32, u32),
    renditions: &[VideoSpec],
    sink: &Arc<dyn Sink>,
) -> Result<Stats, Failure> {
    if frame_rate.0 == 0 || frame_rate.1 == 0 {
        return Err(pipeline_failed("the job has no frame rate"));
    }
    let times = Arc::new(Times::new(&job.units, frame_rate));
    let inside = || times.ticks().iter().copied().filter(|&pts| job.window.contains(pts));
    let expected = inside().count() as u64;
    let first =
        inside().next().ok_or_else(|| Failure::new(FailureCode::BadMedia, "no unit is presented inside the window"))?;
    let fault = Fault::default();
    let kept = Arc::new(Mutex::new(Kept::default()));
    let pipeline = gst::Pipeline::new();

    let source = pipeline::source(&source_caps(video, frame_rate)?);
    let decoder = decoder(video, job)?;
    keep_window(&decoder, job.window, &times, &kept, &fault)?;
    let pinned = Pinned::new(video, frame_rate);
    pinned.pin(&decoder, &kept)?;
    pipeline::chain(&pipeline, &[source.upcast_ref(), &decoder])?;
    let mut upstream = decoder;
    if video.interlaced {
        let deinterlace = deinterlace()?;
        pipeline::chain(&pipeline, &[&upstream, &deinterlace])?;
        upstream = deinterlace;
    }
    let convert = elements::make("videoconvert")?;
    elements::set(&convert, "n-threads", job.threads.max(1));
    elements::set(&convert, "qos", false);
    pipeline::chain(&pipeline, &[&upstream, &convert])?;
    upstream = convert;
    let mut counts = Vec::with_capacity(renditions.len());
    for (rendition, spec) in renditions.iter().enumerate() {
        let rung = Rung { rendition, spec, pinned: &pinned, threads: job.threads.max(1) };
        let output = Output {
            rendition,
            packer: Packer::new(spec.codec),
            times: times.clone(),
            first,
            sink: sink.clone(),
            count: Arc::default(),
        };
        counts.push(output.count.clone());
        upstream = rung.build(&pipeline, &upstream, output, &fault)?;
    }

    let buffers = job.units.iter().map(|unit| {
        let pts = times.of(unit.pts).unwrap_or_default();
        pipeline::buffer(unit.data.clone(), pts, Some(times.frame()))
    });
    let spoke = kept.clone();
    pipeline::run(pipeline, &source, buffers, &fault, move || lock(&spoke).spoke)?;

    let decoded = lock(&kept).count;
    check_counts(expected, decoded, counts.iter().map(|count| count.load(Ordering::Relaxed)))?;
    Ok(Stats { units_in: expected, decoded, ..Stats::default() })
}

fn check_counts(expected: u64, decoded: u64, encoded: impl Iterator<Item = u64>) -> Result<(), Failure> {
    if decoded == 0 {
        return Err(Failure::new(FailureCode::BadMedia, "no picture was decoded"));
    }
    if decoded != expected {
        return Err(mismatch(format!("{expected} pictures went in, {decoded} were decoded")));
    }
    for (rendition, encoded) in encoded.enumerate() {
        if encoded != decoded {
            return Err(mismatch(format!("rendition {rendition}: {encoded} of {decoded} pictures were encoded")));
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
        .field("framerate", fraction(frame_rate))
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

/// One picture out for each one in.
fn deinterlace() -> Result<gst::Element, Failure> {
    let deinterlace = elements::make("deinterlace")?;
    elements::set(&deinterlace, "method", "linear");
    elements::set(&deinterlace, "fields", "top");
    elements::set(&deinterlace, "mode", "interlaced");
    elements::set(&deinterlace, "locking", "none");
    Ok(deinterlace)
}

/// What has come out of the decoder.
#[derive(Default)]
struct Kept {
    /// Pictures inside the window.
    count: u64,
    last: Option<Ticks>,
    /// Whether the decoder has given a format.
    spoke: bool,
}

/// Drops what is presented outside the window; each picture's time must be one that was sent, later than the last.
fn keep_window(
    decoder: &gst::Element,
    window: Window,
    times: &Arc<Times>,
    kept: &Arc<Mutex<Kept>>,
    fault: &Fault,
) -> Result<(), Failure> {
    let (times, kept, fault) = (times.clone(), kept.clone(), fault.clone());
    source_pad(decoder)?.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        let Some(time) = info.buffer().and_then(|buffer| buffer.pts()) else {
            fault.set(mismatch("a decoded picture has no time"));
            return gst::PadProbeReturn::Drop;
        };
        let Some(pts) = times.find(time) else {
            fault.set(mismatch(format!("a decoded picture has the time {time}, which no unit has")));
            return gst::PadProbeReturn::Drop;
        };
        if !window.contains(pts) {
            return gst::PadProbeReturn::Drop;
        }
        let mut kept = lock(&kept);
        if kept.last.is_some_and(|last| last >= pts) {
            fault.set(mismatch(format!("pictures came out of order at tick {}", pts.0)));
            return gst::PadProbeReturn::Drop;
        }
        kept.last = Some(pts);
        kept.count += 1;
        gst::PadProbeReturn::Ok
    });
    Ok(())
}

/// What the decoder's format says on top of what the pictures are: the same for every segment of a session, so that
/// every encoder makes the same set-up.
struct Pinned {
    frame_rate: gst::Fraction,
    /// Of the source.
    width: u32,
    height: u32,
    sample_aspect: (u32, u32),
    interlaced: bool,
    colorimetry: String,
}

impl Pinned {
    fn new(video: &Video, frame_rate: (u32, u32)) -> Self {
        Self {
            frame_rate: fraction(frame_rate),
            width: video.width.max(1),
            height: video.height.max(1),
            sample_aspect: (video.sample_aspect.0.max(1), video.sample_aspect.1.max(1)),
            interlaced: video.interlaced,
            colorimetry: colour::colorimetry(video.colour, video.height),
        }
    }

    /// Writes it over what the decoder says.
    fn pin(&self, decoder: &gst::Element, kept: &Arc<Mutex<Kept>>) -> Result<(), Failure> {
        let frame_rate = self.frame_rate;
        let aspect = fraction(self.sample_aspect);
        let colorimetry = self.colorimetry.clone();
        let progressive = !self.interlaced;
        let kept = kept.clone();
        source_pad(decoder)?.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            let Some(gst::EventView::Caps(event)) = info.event().map(|event| event.view()) else {
                return gst::PadProbeReturn::Ok;
            };
            lock(&kept).spoke = true;
            let mut caps = event.caps_owned();
            for structure in caps.make_mut().iter_mut() {
                structure.set("framerate", frame_rate);
                structure.set("pixel-aspect-ratio", aspect);
                if progressive {
                    structure.set("interlace-mode", "progressive");
                }
                if !colour::is_rgb(structure) {
                    structure.set("colorimetry", &colorimetry);
                }
            }
            info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
            gst::PadProbeReturn::Ok
        });
        Ok(())
    }

    /// The caps of a rung: its samples are as wide as they must be for the picture to keep the source's shape.
    fn rung(&self, spec: &VideoSpec) -> Result<gst::Caps, Failure> {
        let size = |n: u32| i32::try_from(n).map_err(|_| pipeline_failed("a picture size beyond all bounds"));
        let wide = u128::from(self.width) * u128::from(self.sample_aspect.0) * u128::from(spec.height);
        let high = u128::from(self.height) * u128::from(self.sample_aspect.1) * u128::from(spec.width.max(1));
        Ok(gst::Caps::builder("video/x-raw")
            .field("format", "I420")
            .field("width", size(spec.width)?)
            .field("height", size(spec.height)?)
            .field("pixel-aspect-ratio", reduced(wide, high))
            .field("framerate", self.frame_rate)
            .field("interlace-mode", "progressive")
            .field("colorimetry", &self.colorimetry)
            .build())
    }
}

/// One rendition's part of the pipeline.
struct Rung<'a> {
    rendition: usize,
    spec: &'a VideoSpec,
    pinned: &'a Pinned,
    threads: u32,
}

impl Rung<'_> {
    /// Hangs the rung on `upstream`; gives the tee that the next one hangs on.
    fn build(
        &self,
        pipeline: &gst::Pipeline,
        upstream: &gst::Element,
        output: Output,
        fault: &Fault,
    ) -> Result<gst::Element, Failure> {
        let scale = scaler::make()?;
        let filter = elements::make("capsfilter")?;
        filter.set_property("caps", self.pinned.rung(self.spec)?);
        let tee = elements::make("tee")?;
        if self.rendition == 0 {
            pipeline::chain(pipeline, &[upstream, &scale, &filter, &tee])?;
        } else {
            pipeline::chain(pipeline, &[upstream, &queue()?, &scale, &filter, &tee])?;
        }
        let (encoder, caps) = encoder::build(self.spec, self.threads)?;
        let mut output = output;
        let sink = pipeline::sink(&caps, fault, move |sample| output.take(sample));
        pipeline::chain(pipeline, &[&tee, &queue()?, &encoder, sink.upcast_ref()])?;
        Ok(tee)
    }
}

/// Two pictures, whatever their size: the default bound in bytes holds three of 1080p.
fn queue() -> Result<gst::Element, Failure> {
    let queue = elements::make("queue")?;
    elements::set(&queue, "max-size-buffers", 2);
    elements::set(&queue, "max-size-bytes", 0);
    elements::set(&queue, "max-size-time", 0);
    Ok(queue)
}

/// Where one rendition's samples go.
struct Output {
    rendition: usize,
    packer: Packer,
    times: Arc<Times>,
    /// The first picture in presentation order.
    first: Ticks,
    sink: Arc<dyn Sink>,
    count: Arc<AtomicU64>,
}

impl Output {
    fn take(&mut self, sample: &gst::Sample) -> Result<(), Failure> {
        let buffer = sample.buffer().ok_or_else(|| pipeline_failed("a sample without a buffer"))?;
        let pts = buffer.pts().and_then(|time| self.times.find_encoded(time, self.first)).ok_or_else(|| {
            mismatch(format!("rendition {}: a sample with the time {:?}", self.rendition, buffer.pts()))
        })?;
        let sync = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let (config, data) = self.packer.pack(sample)?;
        if let Some(config) = config {
            if !sync {
                return Err(mismatch(format!("rendition {}: the first sample is no sync sample", self.rendition)));
            }
            self.sink.set_up(self.rendition, config);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sink.sample(self.rendition, EncodedSample { pts, sync, data });
        Ok(())
    }
}

fn source_pad(element: &gst::Element) -> Result<gst::Pad, Failure> {
    element.static_pad("src").ok_or_else(|| pipeline_failed("a decoder without an output"))
}

fn fraction((numerator, denominator): (u32, u32)) -> gst::Fraction {
    reduced(u128::from(numerator), u128::from(denominator))
}

/// The fraction in its lowest terms; where those are over 16 bits (what H.264 and H.265 can say), the nearest below.
fn reduced(numerator: u128, denominator: u128) -> gst::Fraction {
    let (mut a, mut b) = (numerator.max(1), denominator.max(1));
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let (mut n, mut d) = (numerator.max(1) / a, denominator.max(1) / a);
    let bits = 128 - n.max(d).leading_zeros();
    let shift = bits.saturating_sub(16);
    n = (n >> shift).max(1);
    d = (d >> shift).max(1);
    gst::Fraction::new(n as i32, d as i32)
}

fn mismatch(message: impl Into<String>) -> Failure {
    Failure::new(FailureCode::FrameMismatch, message)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
