//! One rendition's part of the pipeline: scaled, shown as it is scheduled, encoded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gstreamer as gst;
use gstreamer::prelude::*;

use super::encoder::{self, Packer};
use super::pipeline::{self, Fault, Taken, pipeline_failed};
use super::showing::Showing;
use super::sink::Sink;
use super::times::Times;
use super::video::{mismatch, source_pad};
use super::{elements, scaler};
use crate::job::{EncodedSample, Failure, VideoSpec};
use crate::media::{Colour, Hdr, Ticks};

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
    let all = showing.feed(&source_pad(&queue)?, &encoder)?;
    let (packer, times) = (Packer::new(spec.codec, colour), showing.times);
    let mut output = Output { rendition: index, packer, times, first, sink, count, all };
    let sink = pipeline::sink(&caps, fault, move |sample| output.take(sample));
    pipeline::chain(pipeline, &[&tee, &queue, &encoder, sink.upcast_ref()])?;
    Ok(tee)
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
