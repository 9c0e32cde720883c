//! The cutting itself.

use std::collections::VecDeque;

use super::audio_lane::AudioLane;
use super::point::{Entry, Gate, Mark, Point, VideoPoint};
use super::{Cut, Error, Segment, Settings, Tracks};
use crate::media::{AccessUnit, Format, Sync, Ticks, Timescale, TrackId, VideoCodec, Window};

/// Takes access units of the tracks that are used, in any interleaving; gives segments in order.
///
/// Holds at most about one segment of video beyond what waits for a lagging audio track, and that is bounded by
/// [`Settings`].
#[derive(Debug)]
pub struct Segmenter {
    settings: Settings,
    video: Option<VideoLane>,
    audio: Vec<AudioLane>,
    /// Video cuts whose sound is not all here yet.
    closed: VecDeque<Cut>,
    ready: VecDeque<Segment>,
    next_seq: u64,
    discontinuity: bool,
    finished: bool,
    emitted: bool,
}

/// Cuts that may have been asked for at a time.
const MOST_FORCED: usize = 64;

#[derive(Debug)]
struct VideoLane {
    track: TrackId,
    timescale: Timescale,
    /// Whether pictures after a sync sample may be presented before it.
    leading: bool,
    /// The open segment, in decode order; starts with a sync sample.
    units: Vec<AccessUnit>,
    bytes: usize,
    /// The sync sample at which to cut, and its leading pictures so far.
    next: Vec<AccessUnit>,
    /// Where the open segment's window starts.
    start: Option<Ticks>,
    /// Units before the first sync sample.
    undecodable: u64,
    /// Where a cut was asked for and has not been made yet.
    forced: Vec<Ticks>,
    gate: Gate,
}

impl Segmenter {
    /// `first_seq`: the number of the first segment. `discontinuity`: whether it follows on another timeline.
    pub fn new(settings: Settings, tracks: &Tracks<'_>, first_seq: u64, discontinuity: bool) -> Self {
        let video = tracks.video.map(|track| VideoLane {
            track: track.id,
            timescale: track.timescale,
            leading: matches!(
                &track.format,
                Format::Video(video) if matches!(video.codec, VideoCodec::H265 | VideoCodec::Mpeg2)
            ),
            units: Vec::new(),
            bytes: 0,
            next: Vec::new(),
            start: None,
            undecodable: 0,
            forced: Vec::new(),
            gate: Gate::open(),
        });
        Self {
            settings,
            video,
            audio: tracks.audio.iter().map(|track| AudioLane::new(track)).collect(),
            closed: VecDeque::new(),
            ready: VecDeque::new(),
            next_seq: first_seq,
            discontinuity,
            finished: false,
            emitted: false,
        }
    }

    /// Goes on at `point` of a segmenter with the same settings and tracks: given the units from [`Point::offset`] on
    /// in the same order, it cuts the very same segments that the other would have cut after that point. What comes
    /// before the point is dropped.
    pub fn resume(settings: Settings, tracks: &Tracks<'_>, point: &Point) -> Self {
        let mut segmenter = Self::new(settings, tracks, point.next_seq, point.discontinuity);
        if let Some((lane, point)) = segmenter.video.as_mut().zip(point.video.as_ref()) {
            lane.gate = Gate::until(point.entry);
            lane.start = point.start;
        }
        let lanes = tracks.audio.iter().zip(&point.audio).map(|(track, point)| AudioLane::resume(track, point));
        for (lane, resumed) in segmenter.audio.iter_mut().zip(lanes) {
            *lane = resumed;
        }
        segmenter
    }

    /// Takes the next unit of any track; units of tracks that are not used are dropped.
    pub fn push(&mut self, unit: AccessUnit) -> Result<(), Error> {
        if let Some(lane) = self.audio.iter_mut().find(|lane| lane.track == unit.track) {
            let video = self.video.as_ref().and_then(|video| Some((video.units.last()?.pts, video.timescale)));
            let video = video.map(|(pts, timescale)| pts.floor(timescale, lane.rate()));
            if lane.skips(&unit, video) > ticks(self.settings.max_ms, lane.rate()) {
                return Err(Error::GopTooLong(format!("{} ms without a sound", self.settings.max_ms)));
            }
            lane.push(unit);
        } else if self.video.as_ref().is_some_and(|lane| lane.track == unit.track) {
            self.push_video(unit)?;
        } else {
            return Ok(());
        }
        self.release();
        self.check_held()
    }

    /// No more units will come: what is held becomes the last segments.
    pub fn finish(&mut self) {
        self.finished = true;
        if let Some(lane) = &mut self.video {
            let next = std::mem::take(&mut lane.next);
            lane.units.extend(next);
            if let Some(start) = lane.start.take() {
                let units = std::mem::take(&mut lane.units);
                let end = presentation_end(&units, start);
                let (track, window) = (lane.track, Window { start, end });
                self.closed.push_back(Cut { track, pre_roll: vec![], units, post_roll: vec![], window });
            }
        }
        self.release();
        if let Some(last) = self.ready.back_mut() {
            last.last = true;
        }
    }

    /// Cuts at the first sync sample of the video at or after `at`, however short the segment.
    pub fn cut_at(&mut self, at: Ticks, timescale: Timescale) {
        let Some(lane) = &mut self.video else { return };
        let at = at.ceil(timescale, lane.timescale);
        if lane.forced.len() < MOST_FORCED && !lane.forced.contains(&at) {
            lane.forced.push(at);
        }
    }

    /// The next complete segment.
    pub fn poll(&mut self) -> Option<Segment> {
        self.ready.pop_front()
    }

    /// The number that the next segment will have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Video units before the first sync sample, which no decoder can use.
    pub fn undecodable(&self) -> u64 {
        self.video.as_ref().map_or(0, |lane| lane.undecodable)
    }

    /// Audio units that came after their segment had gone.
    pub fn late_audio(&self) -> u64 {
        self.audio.iter().map(|lane| lane.late).sum()
    }

    fn push_video(&mut self, unit: AccessUnit) -> Result<(), Error> {
        let settings = self.settings;
        let Some(lane) = &mut self.video else { return Ok(()) };
        if !lane.gate.passes(&unit) {
            return Ok(());
        }
        let target = lane.ticks(settings.target_ms);
        if lane.units.is_empty() {
            if unit.sync == Sync::No {
                lane.undecodable += 1;
                return Ok(());
            }
            lane.bytes = unit.data.len();
            lane.start = lane.start.or((unit.pts.0 >= 0).then_some(unit.pts));
            lane.units.push(unit);
            return Ok(());
        }
        lane.bytes += unit.data.len();
        if let Some(sync) = lane.next.first() {
            if unit.pts < sync.pts {
                lane.next.push(unit);
                return lane.check(settings);
            }
            self.closed.push_back(lane.close());
        }
        let Some(lane) = &mut self.video else { return Ok(()) };
        let due = |start: Ticks| unit.pts >= start + target || lane.is_forced(start, unit.pts);
        let may_cut = unit.sync == Sync::Idr && lane.start.is_some_and(due);
        if may_cut {
            lane.check_window(unit.pts, settings)?;
            lane.next.push(unit);
            if !lane.leading {
                self.closed.push_back(lane.close());
            }
            return Ok(());
        }
        // A trimmed start: the window begins with the first picture that is presented.
        if unit.pts.0 >= 0 && lane.start.is_none_or(|start| lane.is_first_gop() && unit.pts < start) {
            lane.start = Some(unit.pts);
        }
        lane.units.push(unit);
        lane.check(settings)
    }

    /// Gives out what is complete.
    fn release(&mut self) {
        if self.video.is_none() {
            return self.release_sound();
        }
        while let Some(cut) = self.closed.front() {
            let timescale = self.video.as_ref().map_or(cut_timescale(&self.audio), |lane| lane.timescale);
            let end = cut.window.end;
            let complete = |lane: &AudioLane| lane.covers(end.ceil(timescale, lane.rate()));
            if !self.finished && !self.audio.iter().all(complete) && !self.lagging(end, timescale) {
                return;
            }
            let Some(cut) = self.closed.pop_front() else { return };
            let last = self.finished && self.closed.is_empty();
            let audio = self.audio.iter_mut().map(|lane| {
                let cut_at = end.ceil(timescale, lane.rate());
                lane.cut(if last { lane.end().map_or(cut_at, |lane_end| lane_end.max(cut_at)) } else { cut_at })
            });
            let audio = audio.collect();
            self.emit(timescale, cut.window, Some(cut), audio);
        }
        if self.finished && !self.emitted {
            self.release_sound(); // The video track was announced and never came.
        }
    }

    /// Without video, the first audio track's units are the points to cut at.
    fn release_sound(&mut self) {
        loop {
            let Some(lane) = self.audio.iter().find(|lane| lane.start().is_some()) else { return };
            let (rate, Some(start)) = (lane.rate(), lane.start()) else { return };
            let target = Ticks(ticks(self.settings.target_ms, rate).0.max(1));
            let cut_at = lane.first_unit_from(start + target);
            let end = match cut_at {
                Some(at) if lane.covers(at) || self.finished => at,
                _ if self.finished && lane.end().is_some_and(|end| end > start) => lane.end().unwrap_or(start),
                _ => return,
            };
            let last = self.finished && cut_at.is_none();
            let audio = self.audio.iter_mut().map(|lane| {
                let at = end.ceil(rate, lane.rate());
                lane.cut(if last { lane.end().map_or(at, |lane_end| lane_end.max(at)) } else { at })
            });
            let audio = audio.collect();
            self.emit(rate, Window { start, end }, None, audio);
        }
    }

    fn emit(&mut self, timescale: Timescale, window: Window, video: Option<Cut>, audio: Vec<Cut>) {
        let resume = self.point();
        self.ready.push_back(Segment {
            seq: self.next_seq,
            timescale,
            start: window.start,
            end: window.end,
            video,
            audio,
            discontinuity: std::mem::take(&mut self.discontinuity),
            last: false,
            resume,
        });
        self.next_seq += 1;
        self.emitted = true;
    }

    /// Where the segment after the one that is given out now can be taken up.
    fn point(&self) -> Point {
        let video = self.video.as_ref().and_then(|lane| {
            let next = self.closed.front().map(|cut| (&cut.units, Some(cut.window.start)));
            let (units, start) = next.unwrap_or((&lane.units, lane.start));
            units.first().map(|unit| VideoPoint { entry: Entry::At(Mark::of(unit)), start })
        });
        let audio: Vec<_> = self.audio.iter().map(AudioLane::point).collect();
        let entries = video.iter().map(|video| &video.entry).chain(audio.iter().map(|audio| &audio.entry));
        let offset = entries.filter_map(Entry::offset).min();
        Point { next_seq: self.next_seq + 1, offset, discontinuity: false, video, audio }
    }

    /// Whether the video has run so far ahead of a segment's end that its sound is not waited for any longer.
    fn lagging(&self, end: Ticks, timescale: Timescale) -> bool {
        let Some(newest) = self.video.as_ref().and_then(|lane| lane.units.last()) else { return false };
        let skew = Ticks(i64::from(self.settings.max_skew_ms) * i64::from(timescale.get()) / 1000);
        newest.pts > end + skew || self.held_bytes() > 4 * self.settings.max_bytes
    }

    fn held_bytes(&self) -> usize {
        let closed = self.closed.iter().flat_map(|cut| &cut.units).map(|unit| unit.data.len()).sum::<usize>();
        let audio = self.audio.iter().map(AudioLane::held_bytes).sum::<usize>();
        closed + audio + self.video.as_ref().map_or(0, |lane| lane.bytes)
    }

    fn check_held(&self) -> Result<(), Error> {
        if self.audio.iter().any(|lane| lane.held_bytes() > self.settings.max_bytes) {
            return Err(Error::GopTooLong(format!("{} bytes of sound", self.settings.max_bytes)));
        }
        Ok(())
    }
}

impl VideoLane {
    /// Closes the open segment at the sync sample in `next`, which opens the next one.
    fn close(&mut self) -> Cut {
        let next = std::mem::take(&mut self.next);
        let end = next.first().map_or_else(Ticks::default, |sync| sync.pts);
        let leading = next.len() > 1;
        let units = std::mem::replace(&mut self.units, next);
        let start = self.start.replace(end).unwrap_or(end);
        self.forced.retain(|at| *at > end);
        self.bytes = self.units.iter().map(|unit| unit.data.len()).sum();
        let post_roll = if leading { self.units.clone() } else { Vec::new() };
        Cut { track: self.track, pre_roll: Vec::new(), units, post_roll, window: Window { start, end } }
    }

    /// Whether a cut was asked for after the segment's start, up to `pts`.
    fn is_forced(&self, start: Ticks, pts: Ticks) -> bool {
        pts > start && self.forced.iter().any(|at| start < *at && *at <= pts)
    }

    /// Whether the open segment still holds only pictures of its first GOP, of which some may be trimmed away.
    fn is_first_gop(&self) -> bool {
        self.units.first().is_some_and(|first| first.pts.0 < 0)
    }

    fn check(&self, settings: Settings) -> Result<(), Error> {
        let frames = self.units.len() + self.next.len();
        if frames > settings.max_frames {
            return Err(Error::GopTooLong(format!("{} pictures", settings.max_frames)));
        }
        if self.bytes > settings.max_bytes {
            return Err(Error::GopTooLong(format!("{} bytes", settings.max_bytes)));
        }
        self.units.last().map_or(Ok(()), |unit| self.check_window(unit.pts, settings))
    }

    /// Whether the open segment may reach to `end`.
    fn check_window(&self, end: Ticks, settings: Settings) -> Result<(), Error> {
        if self.start.is_some_and(|start| end > start + self.ticks(settings.max_ms)) {
            return Err(Error::GopTooLong(format!("{} ms", settings.max_ms)));
        }
        Ok(())
    }

    fn ticks(&self, ms: u32) -> Ticks {
        ticks(ms, self.timescale)
    }
}

/// Exact for all there can be: below 2^32 ms in a timescale below 2^32 is below 2^63 ticks.
fn ticks(ms: u32, timescale: Timescale) -> Ticks {
    Ticks((u64::from(ms) * u64::from(timescale.get()) / 1000) as i64)
}

fn cut_timescale(audio: &[AudioLane]) -> Timescale {
    audio.first().map_or(Timescale::new(1000).expect("1000 is not 0"), AudioLane::rate)
}

/// Where the last picture ends: by its own duration, or else lasting as long as the one before it.
fn presentation_end(units: &[AccessUnit], start: Ticks) -> Ticks {
    let mut times: Vec<(Ticks, Option<Ticks>)> = units.iter().map(|unit| (unit.pts, unit.duration)).collect();
    times.sort_unstable();
    let Some(&(last, duration)) = times.last() else { return start };
    let before = times.iter().rev().map(|&(pts, _)| pts).find(|&pts| pts < last);
    let length = duration.filter(|d| d.0 > 0).or(before.map(|pts| last - pts)).unwrap_or(Ticks(1));
    (last + length).max(start + Ticks(1))
}
