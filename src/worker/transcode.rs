//! One job through GStreamer: the way in, for both kinds of work.
//!
//! Pictures are in [`super::video`], sound in [`super::audio`].

use std::sync::Arc;
use std::time::Instant;

use super::sink::Sink;
use super::{audio, elements, video};
use crate::job::{Failure, FailureCode, Inventory, Job, Stats, Work};
use crate::media::Format;

/// Makes all renditions of `job`. Frame counts are checked: fewer or more than the window holds is a failure.
///
/// After a failure the process is of no more use: its pipeline is left standing, since stopping one that is stuck can
/// block for ever, and its threads may still call the sink.
pub fn transcode(job: &Job, sink: Arc<dyn Sink>) -> Result<Stats, Failure> {
    let start = Instant::now();
    let cpu_start = cpu_us();
    elements::init()?;
    let stats = match (&job.track.format, &job.work) {
        (Format::Video(video), Work::Video { frame_rate, renditions, schedules }) => {
            video::transcode(job, video, *frame_rate, renditions, schedules, &sink)
        }
        (Format::Audio(audio), Work::Audio { renditions }) => audio::transcode(job, audio, renditions, &sink),
        _ => Err(Failure::new(FailureCode::UnsupportedCodec, "the work does not fit the track")),
    }?;
    let wall_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(Stats { cpu_us: cpu_us().saturating_sub(cpu_start), wall_us, ..stats })
}

/// What this process can decode and encode. Initialises GStreamer on the first call.
pub fn inventory() -> Result<Inventory, Failure> {
    elements::inventory()
}

/// CPU time of this process so far, all threads, those that have ended included.
fn cpu_us() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1000
}
