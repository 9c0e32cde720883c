//! From a segment to its jobs: what the pool is asked for, and what came of it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::degrade::{self, Level};
use super::live::Decision;
use super::schedule::{Pictures, schedule};
use crate::job::{AudioSpec, Failure, FailureCode, Job, Outcome, Schedule, VideoSpec, Work};
use crate::ladder::{AudioTarget, Plan};
use crate::media::codec::hdr;
use crate::media::{AccessUnit, Format, Hdr, Sync, Ticks, Timescale, Track, Window};
use crate::pool::{Claim, Done, HeadStart, Pool};
use crate::segment::{Cut, Segment};

/// What is pinned for a whole session, so that every segment's encoders make the same set-up.
#[derive(Debug, Default)]
pub(super) struct Planner {
    pinned: PlannerState,
    next_id: u64,
}

/// What another planner has to know to go on.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct PlannerState {
    frame_rate: Option<(u32, u32)>,
    /// By audio track: where the grid starts, once the track has.
    origins: Vec<Option<Origin>>,
    /// The last picture of the segment before, on the same timeline.
    last_picture: Option<Ticks>,
    /// What the video's first segment says, where it is of high dynamic range.
    hdr: Option<Hdr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Origin {
    /// In samples of the source.
    at: Ticks,
    rate: Timescale,
}

/// The jobs of one segment.
#[derive(Debug, Clone)]
pub(super) struct Jobs {
    pub video: Option<Job>,
    /// By video rendition; None where each picture is shown at its own time.
    pub schedules: Arc<[Option<Schedule>]>,
    pub hdr: Hdr,
    /// By audio track of the plan; None where nothing is to be transcoded.
    pub audio: Vec<Option<Job>>,
}

/// What came of a segment's jobs.
#[derive(Debug)]
pub(super) struct Made {
    pub video: Option<Result<Outcome, Failure>>,
    pub schedules: Arc<[Option<Schedule>]>,
    pub hdr: Hdr,
    pub audio: Vec<Option<Result<Outcome, Failure>>>,
    /// What it was made at.
    pub level: Level,
    pub queued: Duration,
    pub transcode: Duration,
    pub cpu: Duration,
    pub attempts: u32,
}

impl Planner {
    /// Goes on where another one was.
    pub fn resume(pinned: PlannerState) -> Self {
        Self { pinned, next_id: 0 }
    }

    pub fn state(&self) -> PlannerState {
        self.pinned.clone()
    }

    pub fn jobs(&mut self, plan: &Plan, segment: &Segment) -> Jobs {
        if segment.discontinuity {
            self.pinned.origins.clear();
        }
        let hdr = self.hdr(plan, segment);
        let schedules: Arc<[Option<Schedule>]> = self.schedules(plan, segment).into();
        let video = plan.video.as_ref().zip(segment.video.as_ref()).filter(|(video, _)| !video.renditions.is_empty());
        let video = video.map(|(video, cut)| {
            let hint = video.source.frame_rate;
            let estimate = || estimate_rate(cut, segment.timescale).or(hint).unwrap_or((30, 1));
            let frame_rate = *self.pinned.frame_rate.get_or_insert_with(estimate);
            let (renditions, schedules) = (video.renditions.clone(), schedules.to_vec());
            let work = Work::Video { frame_rate, renditions, schedules };
            let mut track = video.track.clone();
            if let Format::Video(video) = &mut track.format {
                video.hdr = hdr;
            }
            self.job(segment.seq, track, cut, work)
        });
        let audio = plan.audio.iter().zip(&segment.audio).enumerate().map(|(index, (audio, cut))| {
            if audio.renditions.is_empty() {
                return None;
            }
            let mut track = audio.track.clone();
            track.timescale = Timescale::new(audio.source.sample_rate)?;
            let origins = &mut self.pinned.origins;
            origins.resize(plan.audio.len(), None);
            if origins[index].is_none() && !cut.units.is_empty() {
                origins[index] = Some(Origin { at: cut.window.start, rate: track.timescale });
            }
            let origin = origins[index]?;
            let specs = audio.renditions.iter().map(|target| grid(target, origin, cut, segment.last));
            let renditions: Vec<AudioSpec> = specs.collect();
            if renditions.iter().all(|spec| spec.frames == 0) {
                return None;
            }
            Some(self.job(segment.seq, track, cut, Work::Audio { renditions }))
        });
        let audio = audio.collect();
        Jobs { video, schedules, hdr, audio }
    }

    /// A job of the video's next segment of which as yet only the beginning is known; None where it depends on more.
    pub fn draft(&mut self, plan: &Plan, start: Ticks) -> Option<Job> {
        let video = plan.video.as_ref().filter(|video| !video.renditions.is_empty())?;
        let scheduled = video.renditions.iter().any(|spec| spec.fps.is_some());
        if scheduled || video.source.has_fields() {
            return None;
        }
        let frame_rate = self.pinned.frame_rate?;
        let hdr = if video.source.colour.is_hdr() { self.pinned.hdr? } else { video.source.hdr };
        let mut track = video.track.clone();
        if let Format::Video(video) = &mut track.format {
            video.hdr = hdr;
        }
        let (renditions, schedules) = (video.renditions.clone(), vec![None; video.renditions.len()]);
        let work = Work::Video { frame_rate, renditions, schedules };
        self.next_id += 1;
        let window = Window { start, end: Ticks(i64::MAX) };
        Some(Job { id: self.next_id, seq: 0, track, units: Vec::new(), window, work, threads: 0 })
    }

    /// The container's word, and where it is silent the first unit's.
    fn hdr(&mut self, plan: &Plan, segment: &Segment) -> Hdr {
        if segment.discontinuity {
            self.pinned.hdr = None;
        }
        let (Some(video), Some(cut)) = (&plan.video, &segment.video) else { return Hdr::default() };
        let source = &video.source;
        if !source.colour.is_hdr() {
            return source.hdr;
        }
        *self.pinned.hdr.get_or_insert_with(|| {
            let unit = cut.units.first().map(|unit| &unit.data[..]).unwrap_or_default();
            let told = hdr::of_unit(source.codec, unit);
            Hdr { mastering: source.hdr.mastering.or(told.mastering), light: source.hdr.light.or(told.light) }
        })
    }

    /// By rendition of the plan.
    fn schedules(&mut self, plan: &Plan, segment: &Segment) -> Vec<Option<Schedule>> {
        if segment.discontinuity {
            self.pinned.last_picture = None;
        }
        let (Some(video), Some(cut)) = (&plan.video, &segment.video) else { return Vec::new() };
        let mut pts: Vec<Ticks> = cut.all().map(|unit| unit.pts).filter(|&pts| cut.window.contains(pts)).collect();
        pts.sort_unstable();
        pts.dedup();
        let before = self.pinned.last_picture;
        let (end, timescale, last) = (cut.window.end, video.track.timescale, segment.last);
        self.pinned.last_picture = if last { None } else { pts.last().copied().or(before) };
        let pictures = Pictures { pts: &pts, end, timescale, before, last };
        video.renditions.iter().map(|spec| schedule(spec, &video.source, pictures)).collect()
    }

    fn job(&mut self, seq: u64, track: crate::media::Track, cut: &Cut, work: Work) -> Job {
        self.next_id += 1;
        let units = cut.all().cloned().collect();
        Job { id: self.next_id, seq, track, units, window: cut.window, work, threads: 0 }
    }
}

/// What a second of such media is to cost, as jobs without data: to be asked for, not to be done.
pub(super) fn second(plan: &Plan) -> Vec<Job> {
    const RATE: (u32, u32) = (30, 1);
    let job = |track: Track, frames: u32, work| {
        let ticks = i64::from(track.timescale.get());
        let unit = |n: u32| AccessUnit {
            track: track.id,
            pts: Ticks(ticks * i64::from(n) / i64::from(frames)),
            dts: Ticks(0),
            duration: None,
            sync: Sync::No,
            offset: 0,
            data: Bytes::new(),
        };
        let (units, window) = ((0..frames).map(unit).collect(), Window { start: Ticks(0), end: Ticks(ticks) });
        Job { id: 0, seq: 0, track, units, window, work, threads: 0 }
    };
    let mut jobs = Vec::new();
    if let Some(video) = plan.video.as_ref().filter(|video| !video.renditions.is_empty()) {
        let frame_rate = video.source.frame_rate.unwrap_or(RATE);
        let frames = frame_rate.0.div_ceil(frame_rate.1.max(1)).clamp(1, 300);
        let (renditions, schedules) = (video.renditions.clone(), Vec::new());
        jobs.push(job(video.track.clone(), frames, Work::Video { frame_rate, renditions, schedules }));
    }
    for audio in plan.audio.iter().filter(|audio| !audio.renditions.is_empty()) {
        let spec = |target: &AudioTarget| {
            let mut spec = AudioSpec {
                codec: target.codec,
                bit_rate: target.bit_rate,
                channels: target.channels,
                sample_rate: target.sample_rate,
                origin: 0,
                first_frame: 0,
                frames: 0,
            };
            spec.frames = target.sample_rate.div_ceil(u32::try_from(spec.frame_samples()).unwrap_or(1024));
            spec
        };
        let renditions = audio.renditions.iter().map(spec).collect();
        jobs.push(job(audio.track.clone(), 1, Work::Audio { renditions }));
    }
    jobs
}

impl Jobs {
    /// The video's job at a level; None where none of it is left.
    fn video_at(&self, level: &Level) -> Option<Job> {
        let job = self.video.as_ref()?;
        let Work::Video { frame_rate, renditions, schedules } = &job.work else { return None };
        let of = |index| schedules.get(index).cloned().flatten();
        let made = renditions.iter().enumerate();
        let made = made.filter_map(|(index, asked)| Some((level.spec(index, asked)?, of(index))));
        let (renditions, schedules): (Vec<_>, Vec<_>) = made.unzip();
        let work = Work::Video { frame_rate: *frame_rate, renditions, schedules };
        (work.renditions() > 0).then(|| Job { work, ..job.clone() })
    }

    /// What all of it costs at a level; None where there is nothing to do.
    pub fn cost_at(&self, level: &Level, cost: impl Fn(&Job) -> Duration) -> Option<Duration> {
        let video = self.video_at(level);
        let jobs = video.iter().chain(self.audio.iter().flatten());
        jobs.map(cost).fold(None, |sum, cost| Some(sum.unwrap_or_default() + cost))
    }

    /// The levels that a live session may make its segments at; `cost`: what a job takes.
    pub fn levels(&self, plan: &Plan, cost: impl Fn(&Job) -> Duration) -> Vec<Level> {
        degrade::levels(plan, |spec: &VideoSpec| match &self.video {
            Some(job) => cost(&alone(job, spec)),
            None => Duration::ZERO,
        })
    }

    /// What comes of jobs that are not begun, since they would come too late.
    fn late(self, level: Level) -> Made {
        let failed = |_| Err(Failure::new(FailureCode::Late, "it would not have come by the deadline"));
        Made {
            video: self.video.map(failed),
            audio: self.audio.into_iter().map(|job| job.map(failed)).collect(),
            schedules: self.schedules,
            hdr: self.hdr,
            level,
            queued: Duration::ZERO,
            transcode: Duration::ZERO,
            cpu: Duration::ZERO,
            attempts: 0,
        }
    }

    /// Pixels that are made at a level: of each picture in the window, in each rendition of the video.
    pub fn pixels(&self, level: &Level) -> u64 {
        let Some(Job { units, window, work: Work::Video { renditions, .. }, .. }) = self.video_at(level) else {
            return 0;
        };
        let pictures = units.iter().filter(|unit| window.contains(unit.pts)).count() as u64;
        renditions.iter().map(|spec| u64::from(spec.width) * u64::from(spec.height)).sum::<u64>() * pictures
    }

    /// Runs all jobs side by side, the sound's first: they are short, and never made of less.
    /// `early`: what has been begun of the video.
    pub async fn run(mut self, pool: &Pool, claim: Claim, decision: Decision, early: Option<HeadStart>) -> Made {
        let Decision { mut level, late, instead } = decision;
        self.video = self.video_at(&level);
        if late {
            return self.late(level);
        }
        let begun_by = instead.as_ref().map(|(_, by)| *by).or(claim.deadline);
        let claim = Claim { deadline: begun_by, ..claim };
        let run = |job: Option<Job>| async move {
            match job {
                Some(job) => Some(pool.run(job, claim).await),
                None => None,
            }
        };
        let audio = futures_util::future::join_all(self.audio.into_iter().map(run));
        let early = early.filter(|early| self.video.as_ref().is_some_and(|job| early.is_of(job)));
        let video = async {
            match (early, self.video) {
                (Some(early), Some(job)) => Some(early.finish(job, claim).await),
                (_, job) => run(job).await,
            }
        };
        let (audio, mut video) = tokio::join!(audio, video);
        let waited = video.as_ref().map(|done| done.queued).unwrap_or_default();
        let is_late = |done: &Done| done.result.as_ref().is_err_and(|failure| failure.code == FailureCode::Late);
        if let Some((free, _)) = instead
            && video.as_ref().is_some_and(is_late)
        {
            (level, video) = (free, None);
        }
        let all = || audio.iter().chain([&video]).flatten();
        let cpu = |done: &Done| done.result.as_ref().map_or(0, |outcome| outcome.stats.cpu_us);
        Made {
            schedules: self.schedules,
            hdr: self.hdr,
            level,
            queued: all().map(|done| done.queued).fold(waited, Duration::max),
            transcode: all().map(|done| done.transcode).max().unwrap_or_default(),
            cpu: Duration::from_micros(all().map(cpu).sum()),
            attempts: all().map(|done| done.attempts).max().unwrap_or_default(),
            video: video.map(|done| done.result),
            audio: audio.into_iter().map(|done| done.map(|done| done.result)).collect(),
        }
    }
}

impl Made {
    /// Samples a channel that should have been decoded and were not.
    pub fn audio_lost(&self) -> u64 {
        let stats = self.audio.iter().flatten().flatten().map(|outcome| outcome.stats);
        stats.map(|stats| stats.units_in.saturating_sub(stats.decoded)).fold(0, u64::saturating_add)
    }

    /// Pictures that are shown at another time than they were cut at, because the decoder's order is another.
    pub fn moved(&self) -> u64 {
        self.video.as_ref().and_then(|made| made.as_ref().ok()).map_or(0, |outcome| outcome.stats.moved)
    }
}

/// A job that makes but one rendition.
fn alone(job: &Job, spec: &VideoSpec) -> Job {
    let Work::Video { frame_rate, renditions, schedules } = &job.work else { return job.clone() };
    let index = renditions.iter().position(|other| other == spec);
    let schedule = index.and_then(|index| schedules.get(index).cloned().flatten());
    let work = Work::Video { frame_rate: *frame_rate, renditions: vec![spec.clone()], schedules: vec![schedule] };
    Job { work, ..job.clone() }
}

/// Which frames of a rendition start inside the cut's window. Neighbouring windows share their boundary, and so do
/// their frames: none is made twice, none is left out.
fn grid(target: &AudioTarget, origin: Origin, cut: &Cut, last: bool) -> AudioSpec {
    let mut spec = AudioSpec {
        codec: target.codec,
        bit_rate: target.bit_rate,
        channels: target.channels,
        sample_rate: target.sample_rate,
        origin: 0,
        first_frame: 0,
        frames: 0,
    };
    let rate = Timescale::new(target.sample_rate).unwrap_or(origin.rate);
    spec.origin = origin.at.floor(origin.rate, rate).0;
    let (grid, frame_samples) = (spec.origin, spec.frame_samples());
    let frame = |at: Ticks| {
        let samples = at.ceil(origin.rate, rate).0.saturating_sub(grid).max(0);
        samples / frame_samples + i64::from(samples % frame_samples != 0)
    };
    spec.first_frame = frame(cut.window.start);
    let decoded_end = cut.units.last().map(|unit| unit.pts + unit.duration.unwrap_or_default());
    let end = if last { decoded_end.unwrap_or(cut.window.start).max(cut.window.start) } else { cut.window.end };
    spec.frames = u32::try_from(frame(end) - spec.first_frame).unwrap_or(0);
    spec
}

/// Frames a second of what was cut, as the standard rate nearest to it.
fn estimate_rate(cut: &Cut, timescale: Timescale) -> Option<(u32, u32)> {
    const STANDARD: [(u32, u32); 9] =
        [(24000, 1001), (24, 1), (25, 1), (30000, 1001), (30, 1), (50, 1), (60000, 1001), (60, 1), (120, 1)];
    let mut times: Vec<i64> = cut.units.iter().map(|unit| unit.pts.0).collect();
    times.sort_unstable();
    let (first, last) = (times.first()?, times.last()?);
    let span = last - first;
    if span <= 0 {
        return None;
    }
    let rate = (times.len() as f64 - 1.0) * f64::from(timescale.get()) / span as f64;
    let distance = |&(n, d): &(u32, u32)| (f64::from(n) / f64::from(d) / rate - 1.0).abs();
    let nearest = STANDARD.into_iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
    if distance(&nearest) < 0.004 {
        Some(nearest)
    } else {
        Some(((rate * 1000.0).round().clamp(1.0, 1e6) as u32, 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ladder::PlannedAudio;
    use crate::media::codec::aac;
    use crate::media::{AudioCodec, TrackId};
    use crate::segment::{Segmenter, Settings, Tracks};

    const HOURS: i64 = 10;

    /// The jobs of ten hours of AAC at `rate`, told in ticks of `timescale` by a clock that runs `ppm` parts in a million
    /// too fast, and made into frames at `made` samples a second.
    fn ten_hours(rate: u32, timescale: u32, ppm: i64, made: (AudioCodec, u32)) -> Vec<(Window, AudioSpec)> {
        let audio = aac::audio(&aac::low_complexity(rate, 2).unwrap()).unwrap();
        let ticks = Timescale::new(timescale).unwrap();
        let track = Track { id: TrackId(1), timescale: ticks, language: None, format: Format::Audio(audio.clone()) };
        let target = AudioTarget { codec: made.0, bit_rate: 128_000, channels: 2, sample_rate: made.1 };
        let planned = PlannedAudio { track: track.clone(), source: audio, renditions: vec![target] };
        let plan = Plan { outputs: Vec::new(), video: None, audio: vec![planned], data: Vec::new() };
        let settings =
            Settings { target_ms: 10_000, max_ms: 60_000, max_frames: 1000, max_bytes: 1 << 20, max_skew_ms: 3000 };
        let mut segmenter = Segmenter::new(settings, &Tracks { video: None, audio: vec![&track] }, 1, false);
        let mut planner = Planner::default();
        let mut found = Vec::new();
        let mut take = |segmenter: &mut Segmenter| {
            while let Some(segment) = segmenter.poll() {
                if let Some(Some(Job { window, work: Work::Audio { mut renditions }, .. })) =
                    planner.jobs(&plan, &segment).audio.pop()
                {
                    found.push((window, renditions.remove(0)));
                }
            }
        };
        for unit in 0..HOURS * 3600 * i64::from(rate) / 1024 {
            let at = i128::from(unit * 1024) * i128::from(timescale) * 1_000_000;
            let pts = Ticks((at / (i128::from(rate) * i128::from(1_000_000 + ppm))) as i64);
            let data = Bytes::from_static(b"sound");
            let unit =
                AccessUnit { track: TrackId(1), pts, dts: pts, duration: None, sync: Sync::Idr, offset: 0, data };
            segmenter.push(unit).unwrap();
            take(&mut segmenter);
        }
        segmenter.finish();
        take(&mut segmenter);
        found
    }

    #[test]
    fn ten_hours_of_sound_are_frames_of_one_grid_each_once_and_at_their_time() {
        for (rate, timescale, ppm, made) in [
            (48_000, 1000, 0, (AudioCodec::Opus, 48_000)),
            (44_100, 90_000, 0, (AudioCodec::Aac, 48_000)),
            (44_100, 1000, 0, (AudioCodec::Aac, 44_100)),
            (48_000, 90_000, 100, (AudioCodec::Aac, 44_100)),
            (48_000, 1000, -100, (AudioCodec::Aac, 48_000)),
        ] {
            let jobs = ten_hours(rate, timescale, ppm, made);
            assert!(jobs.len() >= 3590);
            let (source, target) = (Timescale::new(rate).unwrap(), Timescale::new(made.1).unwrap());
            let mut next = (jobs[0].0.start, 0);
            for (window, spec) in &jobs {
                assert_eq!((window.start, spec.first_frame), next, "no frame twice, none left out");
                assert_eq!((spec.origin, spec.frame_samples()), (jobs[0].1.origin, jobs[0].1.frame_samples()));
                let first = spec.origin + spec.first_frame * spec.frame_samples();
                let late = first - window.start.ceil(source, target).0;
                assert!((0..spec.frame_samples()).contains(&late), "{late} samples from where the segment begins");
                next = (window.end, spec.first_frame + i64::from(spec.frames));
            }
            // Where ten hours by the source's own clock end on the timeline that it tells.
            let told = i128::from(HOURS * 3600 * 1_000_000) * i128::from(made.1) / i128::from(1_000_000 + ppm);
            let end = jobs[0].1.origin + next.1 * jobs[0].1.frame_samples();
            let off = end - told as i64;
            assert!(off.abs() < 2 * 1024 + i64::from(made.1) / 500, "{off} samples after ten hours");
        }
    }
}
