//! One job through GStreamer: the way in, for both kinds of work.
//!
//! Pictures are in [`super::video`], sound in [`super::audio`].

use std::sync::Arc;
use std::time::Instant;

use super::pipeline::pipeline_failed;
use super::sink::Sink;
use super::{audio, elements, video};
use crate::ipc;
use crate::ipc::worker_end::Part;
use crate::job::{Failure, FailureCode, Inventory, Job, Stats, Work};
use crate::media::Format;

/// The way in for the parts of a job that is open.
pub type Parts<'a> = &'a mut dyn FnMut() -> Result<Part, ipc::Error>;

/// What a worker is to do.
pub enum Assignment<'a> {
    Whole(Job),
    /// Its units come while it is worked on.
    Open(Job, Parts<'a>),
}

impl Assignment<'_> {
    /// The job, as far as it is known.
    pub fn job(&self) -> &Job {
        let (Self::Whole(job) | Self::Open(job, _)) = self;
        job
    }

    /// The job, once all of it has come.
    ///
    /// # Errors
    /// The pool is gone.
    pub fn whole(self) -> Result<Job, Failure> {
        let (mut job, next) = match self {
            Self::Whole(job) => return Ok(job),
            Self::Open(job, next) => (job, next),
        };
        loop {
            match next().map_err(broken_off)? {
                Part::Unit(unit) => job.units.push(unit),
                Part::End(end) => {
                    job.window.end = end;
                    return Ok(job);
                }
            }
        }
    }

    /// As [`transcode`], of an open job as its units come.
    pub fn transcode(self, sink: Arc<dyn Sink>) -> Result<Stats, Failure> {
        match self {
            Self::Open(job, next) if matches!(job.work, Work::Video { .. }) => {
                let (begun, cpu_begun) = (Instant::now(), cpu_us());
                elements::init()?;
                let stats = video::transcode_as_it_comes(&job, next, &sink)?;
                Ok(timed(stats, begun, cpu_begun))
            }
            assignment => transcode(&assignment.whole()?, sink),
        }
    }
}

/// The parts of an open job come no more.
pub(super) fn broken_off(error: ipc::Error) -> Failure {
    pipeline_failed(format!("the job broke off: {error}"))
}

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
    Ok(timed(stats, start, cpu_start))
}

fn timed(stats: Stats, begun: Instant, cpu_begun: u64) -> Stats {
    let wall_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    Stats { cpu_us: cpu_us().saturating_sub(cpu_begun), wall_us, ..stats }
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
