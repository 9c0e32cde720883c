//! One output: what was made or copied of a segment → its media, and a new init where the set-up has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::degrade::{Fate, Level};
use super::intake::Pending;
use super::work::Made;
use crate::job::{Encoded, EncodedSample, Failure, FailureCode, Schedule, Shown, VideoSpec};
use crate::ladder::{AudioTarget, Plan, PlannedOutput, Source};
use crate::media::mux::{OutTrack, Part, Sample, cmaf, ts};
use crate::media::{self, AudioCodec, Colour, Format, Sync, Ticks, Timescale, Video, VideoCodec, Window, codec};
use crate::protocol::{BinaryHeader, Degraded, DegradedWhat, DegradedWhy, InitHeader, OutputContainer, SegmentHeader};
use crate::segment::{Cut, Segment};

/// An output's state from segment to segment.
pub(super) struct Output {
    plan: Arc<Plan>,
    index: usize,
    state: OutputState,
}

/// What an output has come to: another one of the same plan goes on with it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct OutputState {
    name: String,
    init: u32,
    tracks: Vec<OutTrack>,
    writer: Option<ts::Writer>,
    /// How far before the presentation the copied pictures begin: by as much the media time of CMAF runs ahead.
    lead: Ticks,
    /// It has been said that its codec carries no captions.
    captions_refused: bool,
}

impl OutputState {
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// What an output sends for a segment.
pub(super) struct Rendered {
    pub init: Option<(BinaryHeader, Bytes)>,
    pub header: BinaryHeader,
    pub media: Bytes,
    /// Pictures, where there is video.
    pub frames: Option<u64>,
    /// Where the output has a rate of its own.
    pub dropped_and_repeated: Option<(u64, u64)>,
    /// Samples a channel, where there is audio.
    pub audio_samples: Option<u64>,
    pub degraded: Option<Degraded>,
}

/// One track of the segment, ready to be muxed.
struct Lane {
    format: Format,
    timescale: Timescale,
    language: Option<String>,
    samples: Vec<Sample>,
    start: Ticks,
    end: Ticks,
    /// Whether decoding can start with the first sample, and all of it is right from there on.
    independent: bool,
}

impl Output {
    pub fn new(plan: Arc<Plan>, index: usize) -> Self {
        Self::resume(OutputState::default(), plan, index)
    }

    /// Goes on, also under another set-up: the next segment brings a new init where it differs.
    pub fn resume(state: OutputState, plan: Arc<Plan>, index: usize) -> Self {
        let name = plan.outputs.get(index).map(|planned| planned.name.clone()).unwrap_or_default();
        Self { plan, index, state: OutputState { name, ..state } }
    }

    pub fn state(&self) -> &OutputState {
        &self.state
    }

    pub fn into_state(self) -> OutputState {
        self.state
    }

    pub fn name(&self) -> Option<&str> {
        self.plan.outputs.get(self.index).map(|planned| planned.name.as_str())
    }

    /// What is made of it in this segment that was not asked for, for want of time.
    pub fn degraded(&self, level: &Level) -> Option<Degraded> {
        let planned = self.plan.outputs.get(self.index)?;
        let fate = level.fate(rendition(planned.video)?);
        let detail = if let Fate::Preset(preset) = fate { Some(preset.name().to_owned()) } else { None };
        Some(Degraded { output: planned.name.clone(), what: fate.what()?, why: DegradedWhy::Late, detail })
    }

    /// None where the output has no media in this segment.
    pub fn render(&mut self, pending: &Pending, made: &Made) -> Result<Option<Rendered>, Failure> {
        let plan = self.plan.clone();
        let Some(planned) = plan.outputs.get(self.index) else { return Ok(None) };
        let segment = &pending.segment;
        let fate = rendition(planned.video).map_or(Fate::AsAsked, |index| made.level.fate(index));
        if fate == Fate::LeftOut {
            return Ok(None);
        }
        let source = if fate == Fate::Copied { Some(Source::Copy) } else { planned.video };
        let video = source.map(|source| video_lane(&plan, source, pending, made)).transpose()?.flatten();
        let audio = planned.audio.map(|(track, source)| audio_lane(&plan, track, source, segment, made));
        let audio = audio.transpose()?.flatten();
        let own_rate = rendition(source).and_then(|index| scheduled(&plan, made, index));
        let dropped_and_repeated = own_rate.map(Schedule::dropped_and_repeated);
        let presented = |lane: &Lane| lane.samples.iter().filter(|sample| sample.pts >= lane.start).count() as u64;
        let video_frames = video.as_ref().map(presented);
        let audio_samples = audio.as_ref().map(|lane| (lane.end - lane.start).0.max(0) as u64);
        let mut lanes: Vec<Lane> = video.into_iter().chain(audio).filter(|lane| !lane.samples.is_empty()).collect();
        let lead = if planned.container == OutputContainer::Cmaf { self.lead(&mut lanes, segment) } else { Ticks(0) };
        let Some(first) = lanes.first() else { return Ok(None) };

        let tracks = self.out_tracks(planned, &lanes, segment)?;
        let new_set_up = tracks != self.state.tracks || lead != self.state.lead;
        let begun = !self.state.tracks.is_empty();
        self.state.lead = lead;
        if new_set_up {
            self.state.tracks = tracks;
        }
        // On another timeline the same set-up is sent again, under the next id.
        let new_init = new_set_up || segment.discontinuity;
        let mut init = None;
        let riding = if planned.is_copy() { &pending.events.units[..] } else { &[] };
        let media = match planned.container {
            OutputContainer::Cmaf => {
                if new_init {
                    self.state.init += 1;
                    let header = InitHeader {
                        output: planned.name.clone(),
                        id: self.state.init,
                        mime: cmaf::mime(&self.state.tracks),
                        timescale: self.state.tracks.first().map_or(first.timescale, |track| track.timescale).get(),
                    };
                    init = Some((
                        BinaryHeader::Init(header),
                        cmaf::init_led(&self.state.tracks, lead).map_err(unmuxable)?,
                    ));
                }
                cmaf::segment_with(segment.seq as u32, &parts(&self.state.tracks, &lanes), riding).map_err(unmuxable)?
            }
            OutputContainer::Ts => {
                match &mut self.state.writer {
                    // The timeline goes on, and so do the counters and the clock.
                    Some(writer) if new_set_up && !segment.discontinuity => {
                        writer.change(self.state.tracks.clone()).map_err(unmuxable)?;
                    }
                    Some(_) if !new_set_up => {}
                    _ => self.state.writer = Some(self.ts_writer(planned)?),
                }
                let parts = parts(&self.state.tracks, &lanes);
                match &mut self.state.writer {
                    Some(writer) => writer.segment_with(&parts, riding).map_err(unmuxable)?,
                    None => return Ok(None),
                }
            }
        };
        let end = if matches!(first.format, Format::Video(_)) { first.end - lead } else { first.end };
        let header = SegmentHeader {
            seq: segment.seq,
            output: planned.name.clone(),
            init: (planned.container == OutputContainer::Cmaf).then_some(self.state.init),
            start: first.start.0,
            duration: (end - first.start).0,
            timescale: first.timescale.get(),
            frames: first.samples.len() as u64,
            bytes: media.len() as u64,
            sha256: hex(&Sha256::digest(&media)),
            independent: first.independent,
            discontinuity: segment.discontinuity || (new_set_up && begun),
        };
        let header = BinaryHeader::Segment(header);
        let degraded = if fate.is_made() { self.captions(planned, pending) } else { None };
        Ok(Some(Rendered { init, header, media, frames: video_frames, dropped_and_repeated, audio_samples, degraded }))
    }

    fn ts_writer(&self, planned: &PlannedOutput) -> Result<ts::Writer, Failure> {
        let mut writer = ts::Writer::new(self.state.tracks.clone()).map_err(unmuxable)?;
        if planned.is_copy() {
            self.plan.data.iter().for_each(|&(kind, track)| writer.announce(kind, Some(track)));
        }
        Ok(writer)
    }

    /// Said once: the source has captions, and this output's codec carries none.
    fn captions(&mut self, planned: &PlannedOutput, pending: &Pending) -> Option<Degraded> {
        let Some(Source::Rendition(index)) = planned.video else { return None };
        let codec = self.plan.video.as_ref()?.renditions.get(index)?.codec;
        if self.state.captions_refused || pending.captions.is_empty() || codec::captions::holds(codec) {
            return None;
        }
        self.state.captions_refused = true;
        let detail = Some(format!("{} carries no closed captions", codec.name()));
        let (what, why) = (DegradedWhat::Captions, DegradedWhy::Codec);
        Some(Degraded { output: planned.name.clone(), what, why, detail })
    }

    /// Moves the times of the pictures so that none is negative, as CMAF needs it; by how much.
    fn lead(&self, lanes: &mut [Lane], segment: &Segment) -> Ticks {
        let Some(lane) = lanes.iter_mut().find(|lane| matches!(lane.format, Format::Video(_))) else {
            return self.state.lead;
        };
        let earliest = lane.samples.iter().map(|sample| sample.pts).min().unwrap_or_default();
        let before = if segment.discontinuity { Ticks(0) } else { self.state.lead };
        let lead = before.max(Ticks(0) - earliest);
        lane.samples.iter_mut().for_each(|sample| sample.pts = sample.pts + lead);
        lane.end = lane.end + lead;
        lead
    }

    /// The tracks of the output: those in the segment, and those of its plan that are silent in it.
    fn out_tracks(&self, planned: &PlannedOutput, lanes: &[Lane], segment: &Segment) -> Result<Vec<OutTrack>, Failure> {
        let mut tracks = Vec::new();
        let mut number = 0;
        for is_video in [true, false] {
            let wanted = if is_video { planned.video.is_some() } else { planned.audio.is_some() };
            if !wanted {
                continue;
            }
            number += 1;
            let of_kind = |format: &Format| matches!(format, Format::Video(_)) == is_video;
            let lane = lanes.iter().find(|lane| of_kind(&lane.format));
            let known =
                self.state.tracks.iter().find(|track| of_kind(&track.format)).filter(|_| !segment.discontinuity);
            let track = match (lane, known) {
                (Some(lane), _) => OutTrack {
                    number,
                    timescale: lane.timescale,
                    language: lane.language.clone(),
                    format: lane.format.clone(),
                },
                (None, Some(known)) => known.clone(),
                // A track that has not begun: sound can be described before it comes, pictures can't.
                (None, None) => match planned.audio.filter(|_| !is_video) {
                    Some((index, source)) => {
                        let (format, timescale, language) = audio_format(&self.plan, index, source)?;
                        OutTrack { number, timescale, language, format }
                    }
                    None => continue,
                },
            };
            tracks.push(track);
        }
        Ok(tracks)
    }
}

fn parts<'a>(tracks: &'a [OutTrack], lanes: &'a [Lane]) -> Vec<Part<'a>> {
    let part = |track: &'a OutTrack| {
        let lane = lanes.iter().find(|lane| lane.format == track.format)?;
        Some(Part { track, samples: &lane.samples, end: lane.end })
    };
    tracks.iter().filter_map(part).collect()
}

/// By the time of each showing, that of the source's picture which it shows.
fn source_times(schedule: &Schedule, cut: &Cut) -> BTreeMap<Ticks, Ticks> {
    let units = cut.units.iter().chain(&cut.post_roll).map(|unit| unit.pts).filter(|&pts| cut.window.contains(pts));
    let pictures: Vec<Ticks> = units.collect::<BTreeSet<_>>().into_iter().collect();
    let fields = (schedule.pictures as usize / pictures.len().max(1)).max(1);
    let source = |shown: &Shown| Some((shown.pts, *pictures.get(shown.picture as usize / fields)?));
    schedule.shown.iter().filter_map(source).collect()
}

fn video_lane(plan: &Plan, source: Source, pending: &Pending, made: &Made) -> Result<Option<Lane>, Failure> {
    let (Some(planned), Some(cut)) = (&plan.video, &pending.segment.video) else { return Ok(None) };
    let independent = |samples: &[Sample]| samples.first().is_some_and(|sample| sample.sync);
    let (format, samples, (timescale, Window { start, end }), independent) = match source {
        // Its own units, from sync sample to sync sample: pictures that lead the next one go with that.
        Source::Copy => {
            let closed = cut.units.first().is_some_and(|unit| unit.sync == Sync::Idr);
            (planned.source.clone(), copied(cut), (planned.track.timescale, cut.span), closed)
        }
        Source::Rendition(index) => {
            let encoded = encoded(made.video.as_ref(), made.level.place(index).unwrap_or(index))?;
            let Some(spec) = planned.renditions.get(index) else { return Ok(None) };
            let schedule = made.schedules.get(index).and_then(Option::as_ref);
            let times = match schedule {
                Some(Schedule { timescale, shown, end, .. }) => {
                    let Some(first) = shown.first() else { return Ok(None) };
                    (*timescale, Window { start: first.pts, end: *end })
                }
                None => (planned.track.timescale, cut.window),
            };
            let mut pictures = encoded.samples.clone();
            let of_source = schedule.map(|schedule| source_times(schedule, cut));
            let source_time = |at: Ticks| of_source.as_ref().and_then(|times| times.get(&at).copied()).unwrap_or(at);
            pending.captions.carry(spec.codec, &mut pictures, source_time);
            let source = Video { hdr: made.hdr, ..planned.source.clone() };
            let samples = samples(&pictures);
            let independent = independent(&samples);
            (video_format(spec, &source, encoded)?, samples, times, independent)
        }
    };
    let (timescale, factor) = fine_timescale(timescale);
    let scaled = |at: Ticks| Ticks(at.0.saturating_mul(factor));
    let samples = samples.into_iter().map(|sample| Sample { pts: scaled(sample.pts), ..sample }).collect();
    Ok(Some(Lane {
        format: Format::Video(format),
        timescale,
        language: planned.track.language.clone(),
        samples,
        start: scaled(start),
        end: scaled(end),
        independent,
    }))
}

fn rendition(source: Option<Source>) -> Option<usize> {
    match source? {
        Source::Rendition(index) => Some(index),
        Source::Copy => None,
    }
}

/// The schedule of a rendition with a rate of its own.
fn scheduled<'a>(plan: &Plan, made: &'a Made, index: usize) -> Option<&'a Schedule> {
    let spec = plan.video.as_ref()?.renditions.get(index)?;
    spec.fps.and(made.schedules.get(index)?.as_ref())
}

/// The source's timescale, or a multiple of it (and which) where its ticks are so coarse that decode times would not
/// fit between presentation times. A multiple keeps every time exact.
fn fine_timescale(source: Timescale) -> (Timescale, i64) {
    const COARSE: u32 = 1000;
    const FINE: u32 = 90_000;
    if source.get() >= COARSE {
        return (source, 1);
    }
    let factor = FINE.div_ceil(source.get());
    Timescale::new(source.get() * factor).map_or((source, 1), |fine| (fine, i64::from(factor)))
}

fn audio_lane(
    plan: &Plan,
    track: usize,
    source: Source,
    segment: &Segment,
    made: &Made,
) -> Result<Option<Lane>, Failure> {
    let Some(cut) = segment.audio.get(track) else { return Ok(None) };
    let samples = match source {
        Source::Copy => copied(cut),
        Source::Rendition(index) => match made.audio.get(track) {
            Some(None) | None => return Ok(None),
            Some(outcome) => samples(&encoded(outcome.as_ref(), index)?.samples),
        },
    };
    let (format, timescale, language) = audio_format(plan, track, source)?;
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else { return Ok(None) };
    let start = first.pts;
    let end = match source {
        Source::Copy => cut.units.last().map_or(start, |unit| unit.pts + unit.duration.unwrap_or_default()),
        Source::Rendition(_) => last.pts + Ticks(frame_samples(&format)),
    };
    Ok(Some(Lane { format, timescale, language, samples, start, end, independent: true }))
}

/// What an audio rendition is, known before its first frame has been made.
fn audio_format(plan: &Plan, track: usize, source: Source) -> Result<(Format, Timescale, Option<String>), Failure> {
    let unknown = || Failure::new(FailureCode::PipelineFailed, "no such audio track in the plan");
    let planned = plan.audio.get(track).ok_or_else(unknown)?;
    let audio = match source {
        Source::Copy => planned.source.clone(),
        Source::Rendition(index) => match planned.renditions.get(index).ok_or_else(unknown)? {
            AudioTarget { codec: AudioCodec::Opus, channels, sample_rate, .. } => {
                codec::opus::audio_from_dops(&codec::opus::dops(*channels, 0, *sample_rate)).map_err(unmuxable)?
            }
            AudioTarget { channels, sample_rate, .. } => {
                let config = codec::aac::low_complexity(*sample_rate, *channels).map_err(unmuxable)?;
                codec::aac::audio(&config).map_err(unmuxable)?
            }
        },
    };
    let timescale = Timescale::new(audio.sample_rate).unwrap_or(planned.track.timescale);
    Ok((Format::Audio(audio), timescale, planned.track.language.clone()))
}

fn frame_samples(format: &Format) -> i64 {
    match format {
        Format::Audio(audio) if audio.codec == AudioCodec::Opus => 960,
        _ => 1024,
    }
}

/// Read from the coded set-up itself, never from what the worker says of it; what no set-up can say is the source's.
fn video_format(spec: &VideoSpec, source: &Video, encoded: &Encoded) -> Result<Video, Failure> {
    let coding = spec.codec;
    let first = encoded.samples.first().map(|sample| &sample.data[..]).unwrap_or_default();
    let video = match coding {
        VideoCodec::H264 => codec::h264::ParameterSets::from_avcc(&encoded.config).and_then(|(sets, _)| sets.video()),
        VideoCodec::H265 => codec::h265::ParameterSets::from_hvcc(&encoded.config).and_then(|(sets, _)| sets.video()),
        VideoCodec::Vp9 => codec::vp9::video(first),
        VideoCodec::Av1 => codec::av1::video(first),
        VideoCodec::Vp8 | VideoCodec::Mpeg2 => Err(media::Error::UnsupportedCodec("not an output codec".into())),
    };
    let mut video =
        video.map_err(|error| Failure::new(FailureCode::WorkerProtocol, format!("encoded set-up: {error}")))?;
    let colour = if spec.tone_mapped(source.colour) { Colour::BT709 } else { source.colour };
    if coding == VideoCodec::Vp9 {
        video = codec::vp9::with_colour(&video, colour);
    }
    if colour.is_hdr() {
        video.hdr = source.hdr;
    }
    Ok(video)
}

fn encoded(outcome: Option<&Result<crate::job::Outcome, Failure>>, index: usize) -> Result<&Encoded, Failure> {
    match outcome {
        Some(Ok(outcome)) => outcome
            .renditions
            .get(index)
            .ok_or_else(|| Failure::new(FailureCode::WorkerProtocol, "a rendition is missing")),
        Some(Err(failure)) => Err(failure.clone()),
        None => Err(Failure::new(FailureCode::PipelineFailed, "nothing was made")),
    }
}

fn samples(encoded: &[EncodedSample]) -> Vec<Sample> {
    let sample = |sample: &EncodedSample| Sample { pts: sample.pts, sync: sample.sync, data: sample.data.clone() };
    encoded.iter().map(sample).collect()
}

fn copied(cut: &Cut) -> Vec<Sample> {
    let sample =
        |unit: &media::AccessUnit| Sample { pts: unit.pts, sync: unit.sync != Sync::No, data: unit.data.clone() };
    cut.units.iter().map(sample).collect()
}

fn unmuxable(error: media::Error) -> Failure {
    let code = match error {
        media::Error::BadMedia(_) | media::Error::OverLimit(_) => FailureCode::BadMedia,
        media::Error::UnsupportedCodec(_) => FailureCode::UnsupportedCodec,
        _ => FailureCode::PipelineFailed,
    };
    Failure::new(code, error.to_string())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coarse_timescale_is_multiplied_and_another_is_left_alone() {
        let of = |source| {
            let (fine, factor) = fine_timescale(Timescale::new(source).unwrap());
            (fine.get(), factor)
        };
        assert_eq!((of(30), of(24), of(29)), ((90_000, 3000), (90_000, 3750), (90_016, 3104)));
        assert_eq!((of(1000), of(12_800), of(90_000)), ((1000, 1), (12_800, 1), (90_000, 1)));
    }
}
