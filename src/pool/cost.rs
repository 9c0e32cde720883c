//! What a job costs: processor time, told from its pictures and samples before it is done.
//!
//! A job is taken apart (decoding, scaling, each encoder …), each part at so many nanoseconds a pixel or sample. The
//! numbers of [`nanoseconds`] are rough, and only what is begun with, times what this machine took for a job of our own at
//! the start. How fast it is part by part is learned from what jobs really took, and so is how much harder or easier than
//! others the content of each stream is. A worker's word on that is bounded before it is believed.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::calibration::USUAL;
use crate::job::{AudioSpec, Job, MOST_SAMPLES, Preset, Stats, Work};
use crate::media::{Audio, AudioCodec, Format, Video, VideoCodec};

/// How much of a difference to the model a job adds to it, shared out among its parts.
const PART_WEIGHT: f64 = 0.15;
/// How much the newest job of a shape counts in what is known of that shape.
const SHAPE_WEIGHT: f64 = 0.4;
/// How far a job may be off the model and still be believed to its full extent, as a factor.
const FURTHEST: f64 = 8.0;
/// How far this machine may be from that of the table and be believed, as a factor.
const MACHINE_BOUND: f64 = 4.0;
/// How far a part may come away from the table, as a factor.
const PART_BOUND: f64 = 32.0;
/// Shapes of jobs that are remembered.
const SHAPES: usize = 512;
/// Most processor time of a job that is told.
const MOST: Duration = Duration::from_secs(3600);

/// The model, shared: clones are one.
#[derive(Debug, Clone, Default)]
pub struct Costs(Arc<Mutex<Model>>);

#[derive(Debug, Default)]
struct Model {
    /// Factor on the whole table, once it is measured.
    machine: Option<f64>,
    /// Factors on the table.
    parts: HashMap<Part, f64>,
    /// Factor on the sum, by shape, and by source for shapes not met before.
    shapes: HashMap<u64, Known>,
    /// Counts lessons, to tell the shape that was not met for longest.
    lessons: u64,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    factor: f64,
    lesson: u64,
}

/// What is paid for. In brackets what it is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    /// A pipeline [1].
    Base,
    /// Pixels of the source, pre-roll and post-roll too.
    Decode(VideoCodec),
    /// Fields taken apart [pixels].
    Fields,
    /// High dynamic range brought down [pixels of the source].
    Tone,
    /// Pixels read and written.
    Scale,
    /// Pixels, by whether there are more than 8 bits of each sample.
    Encode(VideoCodec, Preset, bool),
    /// Samples of all channels.
    DecodeSound(AudioCodec),
    EncodeSound(AudioCodec),
}

impl Costs {
    /// Processor time that the job will take, by what jobs like it have taken so far.
    pub fn of(&self, job: &Job) -> Duration {
        let model = self.lock();
        let nanoseconds = model.told(job) * model.factor(job);
        Duration::from_nanos(nanoseconds.clamp(0.0, MOST.as_nanos() as f64) as u64)
    }

    /// Takes note of what a job took: what its worker says, where that can be, in the time that it had on `cpus`
    /// processors.
    pub(super) fn learn(&self, job: &Job, stats: &Stats, wall: Duration, cpus: usize) {
        let took = believed(stats, wall, cpus);
        let mut model = self.lock();
        let told = model.told(job) / 1e9;
        let ratio = took / told;
        if ratio.is_finite() && ratio > 0.0 {
            model.learn(job, ratio.clamp(1.0 / FURTHEST, FURTHEST));
        }
    }

    /// Takes note of what the job of [`super::calibration`] took here, unless others have taught more. What it took over
    /// what it takes on the machine of the table.
    pub(super) fn calibrate(&self, job: &Job, stats: &Stats, wall: Duration, cpus: usize) -> Option<f64> {
        let mut model = self.lock();
        let table: f64 = parts(job).into_iter().map(|(part, count)| nanoseconds(part) * count).sum();
        let ratio = believed(stats, wall, cpus) * 1e9 / (table * USUAL);
        if model.lessons > 0 || !ratio.is_finite() || ratio <= 0.0 {
            return None;
        }
        let ratio = ratio.clamp(1.0 / MACHINE_BOUND, MACHINE_BOUND);
        model.machine = Some(ratio);
        Some(ratio)
    }

    /// No code that holds the lock can panic half-way through a change.
    fn lock(&self) -> MutexGuard<'_, Model> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Model {
    /// Nanoseconds by the parts alone.
    fn told(&self, job: &Job) -> f64 {
        parts(job).into_iter().map(|(part, count)| self.cost(part, count)).sum()
    }

    fn cost(&self, part: Part, count: f64) -> f64 {
        nanoseconds(part) * self.machine.unwrap_or(1.0) * self.parts.get(&part).copied().unwrap_or(1.0) * count
    }

    fn factor(&self, job: &Job) -> f64 {
        let known = self.shapes.get(&shape(job)).or_else(|| self.shapes.get(&source(job)));
        known.map_or(1.0, |known| known.factor)
    }

    fn learn(&mut self, job: &Job, ratio: f64) {
        self.lessons += 1;
        for key in [shape(job), source(job)] {
            let lesson = self.lessons;
            let known = self.shapes.entry(key).or_insert(Known { factor: ratio, lesson });
            known.factor *= (ratio / known.factor).powf(SHAPE_WEIGHT);
            known.lesson = lesson;
        }
        while self.shapes.len() > SHAPES {
            let Some(oldest) = self.shapes.iter().min_by_key(|(_, known)| known.lesson).map(|(key, _)| *key) else {
                break;
            };
            self.shapes.remove(&oldest);
        }
        let parts = parts(job);
        let sum = self.told(job);
        for (part, count) in parts {
            let share = self.cost(part, count) / sum;
            let factor = self.parts.entry(part).or_insert(1.0);
            *factor = (*factor * ratio.powf(PART_WEIGHT * share)).clamp(1.0 / PART_BOUND, PART_BOUND);
        }
    }
}

/// Seconds of processor time that a worker tells of, where they can be, in the time that it had.
fn believed(stats: &Stats, wall: Duration, cpus: usize) -> f64 {
    Duration::from_micros(stats.cpu_us).as_secs_f64().min(wall.as_secs_f64() * cpus.max(1) as f64)
}

/// What the job is made of, and how much of each.
fn parts(job: &Job) -> Vec<(Part, f64)> {
    match (&job.track.format, &job.work) {
        (Format::Video(video), Work::Video { renditions, schedules, .. }) => {
            let mut parts =
                vec![(Part::Base, 1.0), (Part::Decode(video.codec), pixels(video) * job.units.len() as f64)];
            let kept = job.units.iter().filter(|unit| job.window.contains(unit.pts)).count() as f64;
            if video.has_fields() {
                parts.push((Part::Fields, pixels(video) * kept));
            }
            if renditions.iter().any(|spec| spec.tone_mapped(video.colour)) {
                parts.push((Part::Tone, pixels(video) * kept));
            }
            for (index, spec) in renditions.iter().enumerate() {
                let size = f64::from(spec.width) * f64::from(spec.height);
                let above = renditions.iter().take(index).rev().find(|above| above.depth == spec.depth);
                let from = above.map_or(pixels(video), |above| f64::from(above.width) * f64::from(above.height));
                let schedule = schedules.get(index).and_then(Option::as_ref);
                let shown = schedule.map_or(kept, |schedule| schedule.shown.len() as f64);
                if from != size {
                    parts.push((Part::Scale, (from + size) * shown));
                }
                parts.push((Part::Encode(spec.codec, spec.preset, spec.depth > 8), size * shown));
            }
            parts
        }
        (Format::Audio(audio), Work::Audio { renditions }) => {
            // The times are the client's doing; a job whose times ask for more is refused by its worker.
            let made = |spec: &AudioSpec| spec.frame_samples() * i64::from(spec.frames);
            if renditions.iter().any(|spec| made(spec) > MOST_SAMPLES) {
                return vec![(Part::Base, 1.0)];
            }
            let seconds = super::media(job).as_secs_f64();
            let mut parts = vec![(Part::Base, 1.0), (Part::DecodeSound(audio.codec), samples(audio) * seconds)];
            for spec in renditions {
                parts.push((Part::EncodeSound(spec.codec), made(spec) as f64 * f64::from(spec.channels)));
            }
            parts
        }
        _ => vec![(Part::Base, 1.0)],
    }
}

fn pixels(video: &Video) -> f64 {
    f64::from(video.width) * f64::from(video.height)
}

/// A second, of all channels.
fn samples(audio: &Audio) -> f64 {
    f64::from(audio.sample_rate) * f64::from(audio.channels)
}

/// Jobs alike: of the same kind of source, into the same renditions.
fn shape(job: &Job) -> u64 {
    let mut hasher = DefaultHasher::new();
    source(job).hash(&mut hasher);
    match &job.work {
        Work::Video { renditions, .. } => renditions.hash(&mut hasher),
        Work::Audio { renditions } => {
            for spec in renditions {
                (spec.codec, spec.channels, spec.sample_rate).hash(&mut hasher);
            }
        }
    }
    hasher.finish()
}

fn source(job: &Job) -> u64 {
    let mut hasher = DefaultHasher::new();
    match &job.track.format {
        Format::Video(video) => (video.codec, video.width, video.height, &video.config).hash(&mut hasher),
        Format::Audio(audio) => (audio.codec, audio.sample_rate, audio.channels).hash(&mut hasher),
        Format::Other { codec, .. } => codec.hash(&mut hasher),
    }
    hasher.finish()
}

/// Processor time for one of what the part is counted in (docs/adr/020).
fn nanoseconds(part: Part) -> f64 {
    match part {
        Part::Base => 20e6,
        Part::Decode(VideoCodec::Mpeg2) => 1.5,
        Part::Decode(VideoCodec::H264 | VideoCodec::Vp8 | VideoCodec::Vp9) => 3.0,
        Part::Decode(VideoCodec::H265 | VideoCodec::Av1) => 4.0,
        Part::Fields => 2.0,
        Part::Tone => 10.0,
        Part::Scale => 1.5,
        Part::Encode(codec, preset, deep) => {
            let deeper = if deep { 1.5 } else { 1.0 };
            deeper * encoder(codec) * slower(codec, preset)
        }
        Part::DecodeSound(_) => 20.0,
        Part::EncodeSound(AudioCodec::Opus) => 150.0,
        Part::EncodeSound(_) => 100.0,
    }
}

/// Nanoseconds a pixel at `veryfast`.
fn encoder(codec: VideoCodec) -> f64 {
    match codec {
        VideoCodec::H265 => 60.0,
        VideoCodec::Vp8 | VideoCodec::Vp9 => 20.0,
        VideoCodec::Av1 => 30.0,
        VideoCodec::H264 | VideoCodec::Mpeg2 => 12.0,
    }
}

/// How much more work another preset is than `veryfast`.
fn slower(codec: VideoCodec, preset: Preset) -> f64 {
    let by_preset = match codec {
        VideoCodec::H265 => [0.5, 0.7, 1.0, 1.0, 1.5, 2.2, 6.0],
        VideoCodec::Vp8 | VideoCodec::Vp9 | VideoCodec::Av1 => [0.8, 0.9, 1.0, 1.3, 1.8, 1.8, 1.8],
        VideoCodec::H264 | VideoCodec::Mpeg2 => [0.35, 0.6, 1.0, 1.4, 1.7, 2.0, 3.3],
    };
    by_preset[match preset {
        Preset::Ultrafast => 0,
        Preset::Superfast => 1,
        Preset::Veryfast => 2,
        Preset::Faster => 3,
        Preset::Fast => 4,
        Preset::Medium => 5,
        Preset::Slow => 6,
    }]
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ipc::fixtures::video_job;
    use crate::media::Ticks;

    fn took(job: &Job, costs: &Costs, seconds: f64) {
        let stats = Stats { cpu_us: (seconds * 1e6) as u64, ..Stats::default() };
        costs.learn(job, &stats, Duration::from_secs_f64(seconds.min(1e6)), 1);
    }

    fn second(pictures: i64) -> Job {
        video_job(&(0..pictures).map(|n| n * 1000 / pictures).collect::<Vec<_>>(), 1)
    }

    #[test]
    fn more_pictures_cost_more_and_a_slower_preset_too() {
        let costs = Costs::default();
        let of = |pictures| costs.of(&second(pictures));
        assert!(of(50) > of(25));
        let with = |preset: Preset| {
            let mut job = second(25);
            let Work::Video { renditions, .. } = &mut job.work else { unreachable!() };
            renditions[0].preset = preset;
            costs.of(&job)
        };
        assert!(with(Preset::Ultrafast) < with(Preset::Veryfast) && with(Preset::Veryfast) < with(Preset::Medium));
    }

    #[test]
    fn what_jobs_take_is_told_of_the_next_alike_at_once_and_of_others_in_time() {
        let costs = Costs::default();
        let (job, other) = (second(25), video_job(&[0, 40, 80], 3));
        let others = costs.of(&other);
        let before = costs.of(&job).as_secs_f64();
        took(&job, &costs, 3.0 * before);
        assert!((costs.of(&job).as_secs_f64() / before / 3.0 - 1.0).abs() < 0.3);
        for _ in 0..100 {
            took(&job, &costs, 3.0 * before);
        }
        assert!((costs.of(&job).as_secs_f64() / before / 3.0 - 1.0).abs() < 0.01);
        assert!(costs.of(&other) > others * 2);
    }

    #[test]
    fn a_lie_moves_it_no_further_than_its_bounds() {
        let costs = Costs::default();
        let job = second(25);
        let honest = costs.of(&job);
        // It says an hour, and had a second on two processors.
        let stats = Stats { cpu_us: u64::MAX, ..Stats::default() };
        costs.learn(&job, &stats, honest, 2);
        assert!(costs.of(&job) <= honest * 3);
        for _ in 0..10_000 {
            took(&job, &costs, 1e6);
        }
        assert!(costs.of(&job) <= MOST);
        for _ in 0..10_000 {
            took(&job, &costs, 0.0);
        }
        assert!(costs.of(&job) > Duration::ZERO, "nothing is no measure");
    }

    #[test]
    fn a_slower_machine_costs_more_in_every_part_until_jobs_teach_better() {
        let stats = |seconds: f64| Stats { cpu_us: (seconds * 1e6) as u64, ..Stats::default() };
        let (costs, job, other) = (Costs::default(), second(25), video_job(&[0, 40, 80], 3));
        let before = (costs.of(&job).as_secs_f64(), costs.of(&other).as_secs_f64());
        let hour = Duration::from_secs(3600);
        let ratio = costs.calibrate(&job, &stats(2.0 * before.0 * USUAL), hour, 1).unwrap();
        assert!((ratio - 2.0).abs() < 0.01, "{ratio}");
        assert!((costs.of(&other).as_secs_f64() / before.1 - 2.0).abs() < 0.01);
        for (seconds, bound) in [(1e6, MACHINE_BOUND), (1e-6, 1.0 / MACHINE_BOUND)] {
            assert_eq!(costs.calibrate(&job, &stats(seconds), Duration::from_secs(1_000_000), 1), Some(bound));
        }
        assert_eq!(costs.calibrate(&job, &stats(0.0), hour, 1), None, "nothing is no measure");
        took(&job, &costs, before.0);
        assert_eq!(costs.calibrate(&job, &stats(1.0), hour, 1), None, "a client's job has taught more");
    }

    #[test]
    fn sound_whose_times_ask_for_days_of_it_costs_next_to_nothing_as_it_is_refused() {
        let sound = |seconds: u32| {
            let audio = Audio {
                codec: AudioCodec::Aac,
                config: Bytes::new(),
                codec_string: String::new(),
                sample_rate: 48_000,
                channels: 2,
            };
            let spec = AudioSpec {
                codec: AudioCodec::Aac,
                bit_rate: 128_000,
                channels: 2,
                sample_rate: 48_000,
                origin: 0,
                first_frame: 0,
                frames: seconds * 48_000 / 1024,
            };
            let mut job = second(1);
            job.track.format = Format::Audio(audio);
            job.window.end = Ticks(1000 * i64::from(seconds));
            job.work = Work::Audio { renditions: vec![spec] };
            Costs::default().of(&job)
        };
        assert!(sound(60) > sound(2));
        assert!(sound(60) < Duration::from_secs(2));
        assert!(sound(80_000) < Duration::from_secs(1), "{:?}", sound(80_000));
    }

    #[test]
    fn it_remembers_a_bounded_number_of_shapes() {
        let costs = Costs::default();
        for width in 0..2000 {
            let mut job = second(2);
            let Format::Video(video) = &mut job.track.format else { unreachable!() };
            video.width = width * 2 + 2;
            took(&job, &costs, 1.0);
        }
        assert!(costs.lock().shapes.len() <= SHAPES);
    }
}
