//! One run of a pipeline: feed it, wait for its end on the bus, tell whose fault an error was.
//!
//! What the elements are is decided by [`super::video`] and [`super::audio`].

use std::mem::ManuallyDrop;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;

use crate::job::{Failure, FailureCode};

/// Where the pipeline's threads leave the first thing that went wrong.
#[derive(Clone, Default)]
pub struct Fault(Arc<Mutex<Option<Failure>>>);

impl Fault {
    /// Keeps the first failure.
    pub fn set(&self, failure: Failure) {
        let mut slot = lock(&self.0);
        slot.get_or_insert(failure);
    }

    fn check(&self) -> Result<(), Failure> {
        match lock(&self.0).take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

/// An unbounded source of buffers in time format: a job is whole in memory before it starts.
pub fn source(caps: &gst::Caps) -> gst_app::AppSrc {
    gst_app::AppSrc::builder()
        .name("source")
        .caps(caps)
        .format(gst::Format::Time)
        .is_live(false)
        .block(false)
        .max_bytes(0)
        .build()
}

/// Whether a sink wants more.
pub enum Taken {
    More,
    /// What comes now is not wanted, and need not be made.
    Enough,
}

/// A sink that takes buffers as fast as they come and keeps none; `take` runs on the pipeline's threads.
pub fn sink(
    caps: &gst::Caps,
    fault: &Fault,
    mut take: impl FnMut(&gst::Sample) -> Result<Taken, Failure> + Send + 'static,
) -> gst_app::AppSink {
    let fault = fault.clone();
    let callbacks = gst_app::AppSinkCallbacks::builder()
        .new_sample(move |sink| {
            let sample = sink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
            match take(&sample) {
                Ok(Taken::More) => Ok(gst::FlowSuccess::Ok),
                Ok(Taken::Enough) => Err(gst::FlowError::Eos),
                Err(failure) => {
                    fault.set(failure);
                    Err(gst::FlowError::Error)
                }
            }
        })
        .build();
    gst_app::AppSink::builder()
        .caps(caps)
        .sync(false)
        .async_(false)
        .enable_last_sample(false)
        .callbacks(callbacks)
        .build()
}

/// Plays `pipeline` on `buffers` until its end or its first error.
///
/// `decoder_spoke` tells whether the decoder has given a format: until then, a stream that can't be negotiated is the
/// media's fault. After a failure the pipeline is left as it is, because stopping it can block for ever; the process
/// is about to be ended by its parent.
pub fn run(
    pipeline: gst::Pipeline,
    source: &gst_app::AppSrc,
    buffers: impl Iterator<Item = gst::Buffer>,
    fault: &Fault,
    decoder_spoke: impl Fn() -> bool,
) -> Result<(), Failure> {
    // A failed pipeline is never taken down: that can block for ever, and the process ends after a failure anyway.
    let pipeline = ManuallyDrop::new(pipeline);
    play(&pipeline, source, buffers, fault, decoder_spoke)?;
    let pipeline = ManuallyDrop::into_inner(pipeline);
    // After the end of the stream there is nothing left that could refuse to stop.
    let _ = pipeline.set_state(gst::State::Null);
    Ok(())
}

fn play(
    pipeline: &gst::Pipeline,
    source: &gst_app::AppSrc,
    buffers: impl Iterator<Item = gst::Buffer>,
    fault: &Fault,
    decoder_spoke: impl Fn() -> bool,
) -> Result<(), Failure> {
    let bus = pipeline.bus().ok_or_else(|| pipeline_failed("the pipeline has no bus"))?;
    pipeline.set_state(gst::State::Playing).map_err(|_| pipeline_failed("the pipeline does not start"))?;
    for buffer in buffers {
        // A refused buffer means that the pipeline has failed: the bus says why.
        if source.push_buffer(buffer).is_err() {
            break;
        }
    }
    let _ = source.end_of_stream();
    let message = bus
        .timed_pop_filtered(gst::ClockTime::NONE, &[gst::MessageType::Error, gst::MessageType::Eos])
        .ok_or_else(|| pipeline_failed("the bus is flushing"))?;
    fault.check()?;
    match message.view() {
        gst::MessageView::Error(error) => Err(blame(error, decoder_spoke())),
        _ => Ok(()),
    }
}

/// An error of the element called "decoder" is the media's fault, and so is a stream that no decoder took.
fn blame(error: &gst::message::Error, decoder_spoke: bool) -> Failure {
    let from = error.src().map(|src| src.name().to_string()).unwrap_or_default();
    let detail = error.debug().map(|debug| debug.to_string()).unwrap_or_default();
    let detail: String = detail.chars().take(300).collect();
    let code = match from.as_str() {
        "decoder" => FailureCode::BadMedia,
        "source" if !decoder_spoke => FailureCode::BadMedia,
        _ => FailureCode::PipelineFailed,
    };
    Failure::new(code, format!("{from}: {} ({detail})", error.error()))
}

/// Adds the elements to the pipeline and links each to the next.
pub fn chain(pipeline: &gst::Pipeline, elements: &[&gst::Element]) -> Result<(), Failure> {
    for element in elements {
        if element.parent().is_none() {
            pipeline.add(*element).map_err(|_| pipeline_failed("an element is in two pipelines"))?;
        }
    }
    elements.windows(2).try_for_each(|pair| match pair {
        [from, to] => link(from, to),
        _ => Ok(()),
    })
}

/// Caps are agreed upon when they are there: to compare here what either end could take asks all that is linked behind it.
fn link(from: &gst::Element, to: &gst::Element) -> Result<(), Failure> {
    let out = from.static_pad("src").or_else(|| from.request_pad_simple("src_%u"));
    let (Some(out), Some(input)) = (out, to.static_pad("sink")) else {
        return Err(pipeline_failed(format!("{} and {} have no pads to link", from.name(), to.name())));
    };
    out.link_full(&input, gst::PadLinkCheck::empty())
        .map_err(|_| pipeline_failed(format!("{} does not link to {}", from.name(), to.name())))?;
    Ok(())
}

/// A buffer that borrows `data`, without a copy.
pub fn buffer(data: Bytes, pts: gst::ClockTime, duration: Option<gst::ClockTime>) -> gst::Buffer {
    let mut buffer = gst::Buffer::from_slice(data);
    let fields = buffer.get_mut().expect("a buffer just made has one owner");
    fields.set_pts(pts);
    fields.set_duration(duration);
    buffer
}

/// Writes `time` on `buffer` once more, where a decoder leaves it alone: their base class writes over a PTS that is
/// before that of the picture before.
pub fn stamp(buffer: &mut gst::Buffer, time: gst::ClockTime) {
    gst::ReferenceTimestampMeta::add(buffer.make_mut(), &stamp_caps(), time, gst::ClockTime::NONE);
}

/// The time by [`stamp`], or, where a decoder does not hand it on, the PTS.
pub fn stamped(buffer: &gst::BufferRef) -> Option<gst::ClockTime> {
    let caps = stamp_caps();
    let mut stamps = buffer.iter_meta::<gst::ReferenceTimestampMeta>();
    stamps.find(|stamp| stamp.reference() == &*caps).map(|stamp| stamp.timestamp()).or(buffer.pts())
}

fn stamp_caps() -> gst::Caps {
    gst::Caps::new_empty_simple("timestamp/x-segmill-unit")
}

/// The bytes of a sample's buffer.
pub fn bytes(sample: &gst::Sample) -> Result<Bytes, Failure> {
    let buffer = sample.buffer().ok_or_else(|| pipeline_failed("a sample without a buffer"))?;
    let map = buffer.map_readable().map_err(|_| pipeline_failed("a buffer can't be read"))?;
    Ok(Bytes::copy_from_slice(&map))
}

/// Also where a thread has panicked with it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub fn pipeline_failed(message: impl Into<String>) -> Failure {
    Failure::new(FailureCode::PipelineFailed, message)
}
