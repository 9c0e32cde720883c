//! Makes a job's outcome of a worker's frames, and believes none of them: what is over a bound ends the job as
//! `worker_protocol`, what is not exactly the frames that were asked for as `frame_mismatch`. No I/O.

use std::sync::Arc;
use std::time::Duration;

use crate::ipc::FromWorker;
use crate::job::{AudioSpec, Encoded, EncodedSample, Failure, FailureCode, Job, Outcome, Stats, VideoSpec, Work};

/// Most bytes of one outcome, set-ups and samples together.
const MAX_OUTCOME: usize = 256 << 20;
/// Samples over the expected that are still counted, so that the mismatch can be told by name.
const SLACK: usize = 16;
/// What a coded frame may have over its raw samples: headers, parameter sets, messages.
const SAMPLE_HEADROOM: usize = 64 << 10;
/// Over what a processor can have worked, in time, until it is a lie: clocks are read at different moments, and a quota
/// is kept only on average.
const CLOCK_SLACK: Duration = Duration::from_secs(1);
/// Most bytes of a worker's own words that go on into logs and messages.
const MAX_MESSAGE: usize = 1 << 10;

/// One job's answer as it comes in.
pub(super) struct Collector {
    renditions: Vec<Rendition>,
    bytes: usize,
}

struct Rendition {
    expected: Expected,
    /// Samples that are taken.
    most: usize,
    /// Most bytes of one sample: hardly more than what was coded.
    sample_limit: usize,
    set_up: bool,
    encoded: Encoded,
}

/// The presentation times that a rendition has to have.
enum Expected {
    /// One picture for each, in rising order.
    Video(Arc<[i64]>),
    /// `frames` times, `step` apart, in this order.
    Audio { first: i64, step: i64, frames: usize },
}

impl Expected {
    /// By rendition of the job.
    fn of(job: &Job) -> Vec<Self> {
        match &job.work {
            Work::Video { renditions, schedules, .. } => {
                let kept = job.units.iter().map(|unit| unit.pts).filter(|pts| job.window.contains(*pts));
                let mut pts: Vec<i64> = kept.map(|pts| pts.0).collect();
                pts.sort_unstable();
                let pts: Arc<[i64]> = pts.into();
                let scheduled = |index: usize| schedules.get(index).and_then(Option::as_ref);
                let of = |index| match scheduled(index) {
                    Some(schedule) => schedule.shown.iter().map(|shown| shown.pts.0).collect(),
                    None => pts.clone(),
                };
                (0..renditions.len()).map(of).map(Expected::Video).collect()
            }
            Work::Audio { renditions } => renditions
                .iter()
                .map(|spec| {
                    let step = spec.frame_samples();
                    let first = spec.origin.saturating_add(spec.first_frame.saturating_mul(step));
                    Expected::Audio { first, step, frames: spec.frames as usize }
                })
                .collect(),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Video(pts) => pts.len(),
            Self::Audio { frames, .. } => *frames,
        }
    }

    fn is_met_by(&self, samples: &[EncodedSample]) -> bool {
        let given = samples.iter().map(|sample| sample.pts.0);
        match self {
            Self::Video(pts) => {
                let mut given: Vec<i64> = given.collect();
                given.sort_unstable();
                given == **pts
            }
            Self::Audio { first, step, .. } => {
                let grid = std::iter::successors(Some(*first), |pts| Some(pts.saturating_add(*step)));
                given.zip(grid).all(|(given, wanted)| given == wanted)
            }
        }
    }
}

impl Collector {
    pub(super) fn new(job: &Job) -> Self {
        let limits: Vec<usize> = match &job.work {
            Work::Video { renditions, .. } => renditions.iter().map(picture_limit).collect(),
            Work::Audio { renditions } => renditions.iter().map(frame_limit).collect(),
        };
        let renditions = std::iter::zip(Expected::of(job), limits).map(|(expected, sample_limit)| Rendition {
            most: expected.len() + SLACK,
            expected,
            sample_limit,
            set_up: false,
            encoded: Encoded::default(),
        });
        Self { renditions: renditions.collect(), bytes: 0 }
    }

    /// Of a job that was not whole before, one more unit has been sent.
    pub(super) fn sent_another(&mut self) {
        self.renditions.iter_mut().for_each(|rendition| rendition.most += 1);
    }

    /// That job is whole.
    pub(super) fn whole(&mut self, job: &Job) {
        for (rendition, expected) in self.renditions.iter_mut().zip(Expected::of(job)) {
            (rendition.most, rendition.expected) = (expected.len() + SLACK, expected);
        }
    }

    /// How many samples of each rendition there are at least.
    pub(super) fn least(&self) -> usize {
        self.renditions.iter().map(|rendition| rendition.encoded.samples.len()).min().unwrap_or_default()
    }

    /// Takes the next frame; Some(stats) when it is the last and the outcome is whole.
    pub(super) fn push(&mut self, frame: FromWorker) -> Result<Option<Stats>, Failure> {
        match frame {
            FromWorker::Hello(_) => Err(violation("a second hello")),
            FromWorker::SetUp { rendition, config } => {
                self.count(config.len())?;
                let rendition = self.rendition(rendition)?;
                if std::mem::replace(&mut rendition.set_up, true) {
                    return Err(violation("a rendition was set up twice"));
                }
                rendition.encoded.config = config;
                Ok(None)
            }
            FromWorker::Sample { rendition, sample } => {
                self.count(sample.data.len())?;
                let rendition = self.rendition(rendition)?;
                if !rendition.set_up {
                    return Err(violation("a sample before its rendition's set-up"));
                }
                if sample.data.len() > rendition.sample_limit {
                    return Err(violation("a sample that is larger than what was coded"));
                }
                if rendition.encoded.samples.len() >= rendition.most {
                    return Err(violation("far more samples than were asked for"));
                }
                rendition.encoded.samples.push(sample);
                Ok(None)
            }
            FromWorker::Finished(stats) => self.check().map(|()| Some(stats)),
            FromWorker::Failed(failure) => Err(reported(failure)),
        }
    }

    pub(super) fn into_outcome(self, stats: Stats) -> Outcome {
        Outcome { renditions: self.renditions.into_iter().map(|rendition| rendition.encoded).collect(), stats }
    }

    fn rendition(&mut self, index: u32) -> Result<&mut Rendition, Failure> {
        self.renditions.get_mut(index as usize).ok_or_else(|| violation("a rendition that was not asked for"))
    }

    fn count(&mut self, bytes: usize) -> Result<(), Failure> {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes > MAX_OUTCOME { Err(violation("the outcome is over the limit of bytes")) } else { Ok(()) }
    }

    /// Every frame that was asked for, each exactly once, and a start that can be decoded.
    fn check(&self) -> Result<(), Failure> {
        for (index, Rendition { expected, encoded, .. }) in self.renditions.iter().enumerate() {
            let (got, wanted) = (encoded.samples.len(), expected.len());
            if got != wanted {
                return Err(mismatch(format!("rendition {index} has {got} samples in place of {wanted}")));
            }
            if !expected.is_met_by(&encoded.samples) {
                return Err(mismatch(format!("rendition {index} has other presentation times than the source")));
            }
            if matches!(expected, Expected::Video(_)) && encoded.samples.first().is_some_and(|first| !first.sync) {
                return Err(mismatch(format!("rendition {index} does not start with a sync sample")));
            }
        }
        Ok(())
    }
}

/// Bytes of a picture of three full planes, and something over it.
fn picture_limit(spec: &VideoSpec) -> usize {
    let depth = if spec.depth > 8 { 2 } else { 1 };
    (spec.width as usize).saturating_mul(spec.height as usize).saturating_mul(3 * depth).saturating_add(SAMPLE_HEADROOM)
}

/// Bytes of a frame of 16-bit samples, and something over it.
fn frame_limit(spec: &AudioSpec) -> usize {
    2 * spec.frame_samples() as usize * usize::from(spec.channels) + SAMPLE_HEADROOM
}

/// Whether what the worker says of its work can be: it goes on into receipts, metrics and what the pool learns of its
/// own speed. The attempt has taken `elapsed`, on no more than `cpus` processors.
pub(super) fn check_stats(stats: &Stats, job: &Job, elapsed: Duration, cpus: usize) -> Result<(), Failure> {
    let most = |time: Duration| u64::try_from(time.saturating_add(CLOCK_SLACK).as_micros()).unwrap_or(u64::MAX);
    let cpus = u32::try_from(cpus).unwrap_or(u32::MAX).saturating_mul(2);
    if stats.wall_us > most(elapsed) || stats.cpu_us > most(elapsed.saturating_mul(cpus)) {
        return Err(violation("a job that took longer than it did"));
    }
    let units = match &job.work {
        // Each unit is a picture, or two fields.
        Work::Video { .. } => 2 * job.units.len() as u64,
        // Samples at the source's rate, of which a decoder may make a multiple.
        Work::Audio { .. } => job.window.start.0.abs_diff(job.window.end.0).saturating_mul(8),
    };
    let most = units.saturating_add(SLACK as u64);
    if stats.units_in.max(stats.decoded).max(stats.moved) > most {
        return Err(violation("more units than were sent"));
    }
    Ok(())
}

/// A failure in the worker's own words, as far as it may have them.
pub(super) fn reported(mut failure: Failure) -> Failure {
    match failure.code {
        FailureCode::BadMedia
        | FailureCode::UnsupportedCodec
        | FailureCode::FrameMismatch
        | FailureCode::PipelineFailed => {
            let end = failure.message.floor_char_boundary(MAX_MESSAGE);
            failure.message.truncate(end);
            failure
        }
        _ => violation("a failure that is the pool's to tell"),
    }
}

fn violation(what: &str) -> Failure {
    Failure::new(FailureCode::WorkerProtocol, what)
}

fn mismatch(what: String) -> Failure {
    Failure::new(FailureCode::FrameMismatch, what)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ipc::fixtures::video_job;
    use crate::job::{Schedule, Shown};
    use crate::media::{AudioCodec, Ticks, Timescale};

    fn set_up(rendition: u32) -> FromWorker {
        FromWorker::SetUp { rendition, config: Bytes::from_static(b"config") }
    }

    fn sample(rendition: u32, pts: i64, sync: bool) -> FromWorker {
        FromWorker::Sample { rendition, sample: EncodedSample { pts: Ticks(pts), sync, data: Bytes::new() } }
    }

    /// What becomes of `frames`, the finish added: the number of samples by rendition, or the failure's code.
    fn check(job: &Job, frames: Vec<FromWorker>) -> Result<Vec<usize>, FailureCode> {
        let mut collector = Collector::new(job);
        for frame in frames.into_iter().chain([FromWorker::Finished(Stats::default())]) {
            if let Some(stats) = collector.push(frame).map_err(|failure| failure.code)? {
                return Ok(collector.into_outcome(stats).renditions.iter().map(|r| r.samples.len()).collect());
            }
        }
        unreachable!("the last frame is a finish")
    }

    #[test]
    fn exact_answers_in_any_interleaving_are_whole() {
        let job = video_job(&[0, 2, 1], 2);
        let frames = vec![
            set_up(1),
            sample(1, 0, true),
            set_up(0),
            sample(0, 0, true),
            sample(0, 1, false),
            sample(1, 2, false),
            sample(0, 2, false),
            sample(1, 1, false),
        ];
        assert_eq!(check(&job, frames), Ok(vec![3, 3]));
    }

    #[test]
    fn frames_that_are_not_those_asked_for_are_a_mismatch() {
        let job = video_job(&[0, 1], 1);
        let answers = [
            vec![set_up(0), sample(0, 0, true)],
            vec![set_up(0), sample(0, 0, true), sample(0, 0, false)],
            vec![set_up(0), sample(0, 0, true), sample(0, 2, false)],
            vec![set_up(0), sample(0, 0, true), sample(0, 1, false), sample(0, 2, false)],
            vec![set_up(0), sample(0, 0, false), sample(0, 1, true)],
            vec![],
        ];
        for frames in answers {
            assert_eq!(check(&job, frames.clone()), Err(FailureCode::FrameMismatch), "{frames:?}");
        }
    }

    #[test]
    fn frames_outside_the_rules_are_violations() {
        let job = video_job(&[0, 1], 1);
        let own_code = FromWorker::Failed(Failure::new(FailureCode::Poison, ""));
        let answers = [
            vec![set_up(1)],
            vec![sample(0, 0, true)],
            vec![set_up(0), set_up(0)],
            vec![set_up(0), sample(u32::MAX, 0, true)],
            vec![FromWorker::Hello(Default::default())],
            vec![own_code],
            std::iter::once(set_up(0)).chain((0..100).map(|i| sample(0, i, true))).collect(),
        ];
        for frames in answers {
            assert_eq!(check(&job, frames.clone()), Err(FailureCode::WorkerProtocol), "{frames:?}");
        }
    }

    #[test]
    fn a_rendition_with_a_schedule_has_the_times_in_it_and_no_others() {
        let mut job = video_job(&[0, 40], 2);
        let shown = |picture, pts| Shown { picture, pts: Ticks(pts) };
        let schedule = Schedule {
            timescale: Timescale::new(1000).unwrap(),
            pictures: 2,
            shown: vec![shown(0, 0), shown(0, 20), shown(1, 40)],
            end: Ticks(60),
        };
        if let Work::Video { schedules, .. } = &mut job.work {
            *schedules = vec![Some(schedule)];
        }
        let other = [set_up(1), sample(1, 0, true), sample(1, 40, false)];
        let with = |times: &[i64]| {
            let samples = times.iter().map(|&pts| sample(0, pts, pts == times[0]));
            check(&job, [set_up(0)].into_iter().chain(samples).chain(other.clone()).collect())
        };
        assert_eq!(with(&[0, 20, 40]), Ok(vec![3, 2]));
        assert_eq!(with(&[0, 40]), Err(FailureCode::FrameMismatch));
        assert_eq!(with(&[0, 40, 40]), Err(FailureCode::FrameMismatch));
    }

    #[test]
    fn bytes_are_bounded_over_all_renditions() {
        let mut job = video_job(&(0..10).collect::<Vec<_>>(), 1);
        if let Work::Video { renditions, .. } = &mut job.work {
            (renditions[0].width, renditions[0].height) = (8192, 8192);
        }
        let mut collector = Collector::new(&job);
        assert_eq!(collector.push(set_up(0)), Ok(None));
        let data = Bytes::from(vec![0; MAX_OUTCOME / 4]);
        let mut push = || {
            let sample = EncodedSample { pts: Ticks(0), sync: true, data: data.clone() };
            collector.push(FromWorker::Sample { rendition: 0, sample })
        };
        for _ in 0..3 {
            assert_eq!(push(), Ok(None));
        }
        assert_eq!(push().map_err(|failure| failure.code), Err(FailureCode::WorkerProtocol));
    }

    #[test]
    fn a_sample_is_not_larger_than_what_was_coded() {
        let job = video_job(&[0], 1);
        let answer = |bytes: usize| {
            let sample = EncodedSample { pts: Ticks(0), sync: true, data: Bytes::from(vec![0; bytes]) };
            check(&job, vec![set_up(0), FromWorker::Sample { rendition: 0, sample }])
        };
        let most = 640 * 360 * 3 + SAMPLE_HEADROOM;
        assert_eq!(answer(most), Ok(vec![1]));
        assert_eq!(answer(most + 1), Err(FailureCode::WorkerProtocol));
    }

    #[test]
    fn what_a_worker_says_of_its_work_has_to_be_possible() {
        let elapsed = Duration::from_secs(2);
        let check =
            |stats: Stats| check_stats(&stats, &video_job(&[0, 1], 1), elapsed, 4).map_err(|failure| failure.code);
        let possible = Stats { cpu_us: 8_000_000, wall_us: 2_000_000, units_in: 2, decoded: 4, moved: 2 };
        assert_eq!(check(possible), Ok(()));
        for impossible in [
            Stats { cpu_us: u64::MAX, ..possible },
            Stats { cpu_us: 18_000_000, ..possible },
            Stats { wall_us: 4_000_000, ..possible },
            Stats { units_in: 1000, ..possible },
            Stats { decoded: u64::MAX, ..possible },
            Stats { moved: 1000, ..possible },
        ] {
            assert_eq!(check(impossible), Err(FailureCode::WorkerProtocol), "{impossible:?}");
        }
    }

    #[test]
    fn audio_lies_on_its_grid() {
        let spec = AudioSpec {
            codec: AudioCodec::Opus,
            bit_rate: 96_000,
            channels: 2,
            sample_rate: 48_000,
            origin: -312,
            first_frame: 100,
            frames: 2,
        };
        let job = Job { work: Work::Audio { renditions: vec![spec] }, ..video_job(&[0], 1) };
        let first = -312 + 100 * 960;
        assert_eq!(check(&job, vec![set_up(0), sample(0, first, true), sample(0, first + 960, true)]), Ok(vec![2]));
        let late = vec![set_up(0), sample(0, first + 1, true), sample(0, first + 961, true)];
        assert_eq!(check(&job, late), Err(FailureCode::FrameMismatch));
    }

    #[test]
    fn a_workers_words_are_cut_short() {
        let failure = reported(Failure::new(FailureCode::BadMedia, "ä".repeat(MAX_MESSAGE)));
        assert!(failure.message.len() <= MAX_MESSAGE);
        assert_eq!(failure.code, FailureCode::BadMedia);
    }
}
