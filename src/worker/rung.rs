//! One rendition's part of the pipeline: scaled, shown as it is scheduled, encoded.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

use super::encoder::{self, Packer};
use super::pipeline::{self, Fault, Taken, pipeline_failed};
use super::sink::Sink;
use super::times::Times;
use super::video::{mismatch, source_pad};
use super::{elements, look, scaler};
use crate::job::{EncodedSample, Failure, Schedule, VideoSpec};
use crate::media::{Colour, Hdr, Ticks, Video, VideoCodec};

pub struct Rendition<'a> {
    pub index: usize,
    pub spec: &'a VideoSpec,
    pub showing: Showing,
    /// Threads of its encoder.
    pub threads: u32,
    pub sink: Arc<dyn Sink>,
    /// Pictures that have been encoded.
    pub count: Arc<AtomicU64>,
}

/// Which of the pictures that come down the pipeline are shown, and when.
pub struct Showing {
    /// Frames a second.
    rate: (u32, u32),
    times: Arc<Times>,
    /// The PTS of the first.
    first: Option<Ticks>,
    /// How many, where that is known.
    count: Option<u64>,
    /// The number of each picture in the pipeline and its PTS, in order; None: each as it comes.
    chosen: Option<Vec<(u64, Ticks)>>,
}

impl Showing {
    /// `by_field`: two pictures come for each of the source. `each`: the source's pictures and the pipeline's times.
    pub fn new(
        spec: &VideoSpec,
        video: &Video,
        rate: (u32, u32),
        schedule: Option<&Schedule>,
        by_field: bool,
        (each, times): (&[Ticks], &Arc<Times>),
    ) -> Self {
        let own_fields = spec.by_field(video);
        let step = if by_field && !own_fields { 2 } else { 1 };
        let Some(schedule) = schedule else {
            let chosen = by_field.then(|| (0..).step_by(step).zip(each.iter().copied()).collect());
            return Self {
                rate,
                times: times.clone(),
                first: each.first().copied(),
                count: Some(each.len() as u64),
                chosen,
            };
        };
        let rate = spec.fps.unwrap_or((rate.0.saturating_mul(if own_fields { 2 } else { 1 }), rate.1));
        let shown = schedule.shown.iter();
        let chosen: Vec<_> = shown.map(|shown| (u64::from(shown.picture) * step as u64, shown.pts)).collect();
        Self {
            rate,
            times: Arc::new(Times::new(chosen.iter().map(|&(_, pts)| pts), rate)),
            first: chosen.first().map(|&(_, pts)| pts),
            count: Some(chosen.len() as u64),
            chosen: Some(chosen),
        }
    }

    /// Each as it comes, the first at `first`; how many is not known.
    pub fn as_they_come(rate: (u32, u32), times: &Arc<Times>, first: Ticks) -> Self {
        Self { rate, times: times.clone(), first: Some(first), count: None, chosen: None }
    }

    /// Pictures that are to be encoded, where that is known.
    pub fn len(&self) -> Option<u64> {
        self.count
    }

    /// Drops what leaves `pad` and is not shown, and sends again what is shown again.
    fn choose(&self, pad: &gst::Pad) {
        let Some(chosen) = &self.chosen else { return };
        let frame_rate = look::fraction(self.rate);
        pad.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |_, info| {
            if let Some(gst::EventView::Caps(event)) = info.event().map(|event| event.view()) {
                let mut caps = event.caps_owned();
                caps.make_mut().set("framerate", frame_rate);
                info.data = Some(gst::PadProbeData::Event(gst::event::Caps::new(&caps)));
            }
            gst::PadProbeReturn::Ok
        });
        let (times, chosen) = (self.times.clone(), chosen.clone());
        let (came, next) = (AtomicU64::new(0), AtomicU64::new(0));
        pad.add_probe(gst::PadProbeType::BUFFER, move |pad, info| {
            let (Some(gst::PadProbeData::Buffer(picture)), Some(peer)) = (info.data.take(), pad.peer()) else {
                info.flow_res = Err(gst::FlowError::NotLinked);
                return gst::PadProbeReturn::Handled;
            };
            let number = came.fetch_add(1, Ordering::Relaxed);
            let from = next.load(Ordering::Relaxed) as usize;
            let now = chosen.iter().skip(from).take_while(|&&(shown, _)| shown == number);
            info.flow_res = now.clone().try_fold(gst::FlowSuccess::Ok, |_, &(_, pts)| {
                let mut again = picture.copy();
                let fields = again.make_mut();
                fields.set_pts(times.of(pts));
                fields.set_duration(times.frame());
                peer.chain(again)
            });
            next.fetch_add(now.count() as u64, Ordering::Relaxed);
            gst::PadProbeReturn::Handled
        });
    }
}

/// Hangs the rung on `upstream`; gives the tee that the next one hangs on. All rungs are scaled by the thread that they come from,
/// and each is encoded by one of its own.
pub fn build(
    pipeline: &gst::Pipeline,
    upstream: &gst::Element,
    (caps, colour, hdr): (gst::Caps, Colour, Hdr),
    rendition: Rendition<'_>,
    fault: &Fault,
) -> Result<gst::Element, Failure> {
    let scale = scaler::make()?;
    let filter = elements::make("capsfilter")?;
    filter.set_property("caps", caps);
    let tee = elements::make("tee")?;
    pipeline::chain(pipeline, &[upstream, &scale, &filter, &tee])?;
    let Rendition { index, spec, showing, threads, sink, count } = rendition;
    let Some(first) = showing.first else {
        // Nothing of it is shown in this segment; the rungs below may be.
        elements::set(&tee, "allow-not-linked", true);
        return Ok(tee);
    };
    let (encoder, caps) = encoder::build(spec, hdr, threads)?;
    let queue = queue()?;
    showing.choose(&source_pad(&queue)?);
    let all = Arc::new(AtomicU64::new(u64::MAX));
    if spec.codec == VideoCodec::H264 {
        let input = encoder.static_pad("sink").ok_or_else(|| pipeline_failed("an encoder without an input"))?;
        show_the_last_again(&input, &showing.times, &all);
    }
    let (packer, times) = (Packer::new(spec.codec, colour), showing.times);
    let mut output = Output { rendition: index, packer, times, first, sink, count, all };
    let sink = pipeline::sink(&caps, fault, move |sample| output.take(sample));
    pipeline::chain(pipeline, &[&tee, &queue, &encoder, sink.upcast_ref()])?;
    Ok(tee)
}

/// How often x264 is shown the last picture once more.
const AGAIN: usize = 3;

/// x264 spends on a picture what those behind it that refer to it gain by that, and at its end thinks that there are none: the
/// last pictures of each segment would be the worst. (In one long encode it looks across key frames, for that very reason.)
/// It is shown the last one again, first as a key frame so that none that is kept refers to it; when all that is wanted has
/// come, nothing more is made. `all`: where it is told how many are wanted.
fn show_the_last_again(input: &gst::Pad, times: &Arc<Times>, all: &Arc<AtomicU64>) {
    let (came, last) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None::<gst::Buffer>)));
    let (counted, kept) = (came.clone(), last.clone());
    input.add_probe(gst::PadProbeType::BUFFER, move |_, info| {
        if let Some(picture) = info.buffer().cloned() {
            counted.fetch_add(1, Ordering::Relaxed);
            *kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(picture);
        }
        gst::PadProbeReturn::Ok
    });
    let (times, all) = (times.clone(), all.clone());
    input.add_probe(gst::PadProbeType::EVENT_DOWNSTREAM, move |pad, info| {
        let ends = info.event().is_some_and(|event| event.type_() == gst::EventType::Eos);
        let picture = if ends { last.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
        let Some(picture) = picture else { return gst::PadProbeReturn::Ok };
        all.store(came.load(Ordering::Relaxed), Ordering::Relaxed);
        pad.send_event(gst_video::DownstreamForceKeyUnitEvent::builder().all_headers(false).build());
        for n in 0..AGAIN {
            let mut again = picture.copy();
            again.make_mut().set_pts(times.behind(n));
            // What comes of it is nobody's concern.
            if pad.chain(again).is_err() {
                break;
            }
        }
        gst::PadProbeReturn::Ok
    });
}

/// Two pictures, whatever their size: the default bound in bytes holds three of 1080p.
pub fn queue() -> Result<gst::Element, Failure> {
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
    /// How many are wanted, once that is known.
    all: Arc<AtomicU64>,
}

impl Output {
    fn take(&mut self, sample: &gst::Sample) -> Result<Taken, Failure> {
        let buffer = sample.buffer().ok_or_else(|| pipeline_failed("a sample without a buffer"))?;
        let all = self.all.load(Ordering::Relaxed);
        if all != u64::MAX && buffer.pts().is_some_and(|time| self.times.is_behind(time, self.first)) {
            return Ok(Taken::Enough);
        }
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
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        self.sink.sample(self.rendition, EncodedSample { pts, sync, data });
        Ok(if count >= all { Taken::Enough } else { Taken::More })
    }
}
