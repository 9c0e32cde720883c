//! One timeline's part of a stream: its lanes, and the segments that come of them.

use std::collections::VecDeque;

use super::audio_lane::AudioLane;
use super::point::{AudioPoint, Mark, VideoPoint};
use super::video_lane::{Closed, VideoLane};
use super::{Cut, Error, Settings, ticks};
use crate::media::{AccessUnit, Sync, Ticks, Timescale, Track, TrackId, Window};

#[derive(Debug)]
pub(super) struct Epoch {
    settings: Settings,
    pub video: Option<VideoLane>,
    pub audio: Vec<AudioLane>,
    /// Video cuts whose sound is not all here yet.
    closed: VecDeque<Closed>,
    /// Where the video goes on after the newest cut that was given out.
    goes_on: Option<VideoPoint>,
    finished: bool,
    split: bool,
    /// The time of the first unit that came.
    began: Option<(Ticks, Timescale)>,
}

/// A segment but for its number.
#[derive(Debug)]
pub(super) struct Piece {
    pub timescale: Timescale,
    pub window: Window,
    pub video: Option<Cut>,
    pub audio: Vec<Cut>,
    pub repaired: u64,
    pub undecodable: u64,
    pub goes_on: Option<VideoPoint>,
    pub sound_goes_on: Vec<AudioPoint>,
}

/// How a unit stands to what an epoch has had of its track.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stands {
    /// The track has not begun in this epoch.
    Unheard,
    Follows,
    Jumps,
}

impl Epoch {
    pub fn new(settings: Settings, video: Option<VideoLane>, audio: Vec<AudioLane>) -> Self {
        Self {
            settings,
            video,
            audio,
            closed: VecDeque::new(),
            goes_on: None,
            finished: false,
            split: false,
            began: None,
        }
    }

    /// With no lane begun.
    pub fn empty(settings: Settings, video: Option<&Track>, audio: &[Track]) -> Self {
        Self::new(settings, video.map(VideoLane::new), audio.iter().map(AudioLane::new).collect())
    }

    /// A picture follows the pictures; a sound may also follow them, where there was a pause in it.
    pub fn stands(&self, unit: &AccessUnit) -> Stands {
        let most = ticks(self.settings.max_ms, self.timescale(unit.track));
        if let Some(lane) = self.video.as_ref().filter(|lane| lane.track == unit.track) {
            let Some(newest) = lane.newest() else {
                return if lane.is_seeded_again() { Stands::Follows } else { Stands::Unheard };
            };
            let jumps = lane.runs_back(unit) || unit.pts > newest + most;
            return if jumps { Stands::Jumps } else { Stands::Follows };
        }
        let Some(lane) = self.audio.iter().find(|lane| lane.track == unit.track && lane.heard()) else {
            return Stands::Unheard;
        };
        let jumps = lane.runs_back(unit) || self.ahead(unit).is_some_and(|ahead| ahead > most);
        if jumps { Stands::Jumps } else { Stands::Follows }
    }

    /// Whether a picture goes on where `sync`, a sync sample that does not follow, has begun, rather than where the
    /// pictures have been: without decode times, reordering would explain the one as well as the other.
    pub fn leaves_with(&self, sync: &AccessUnit, unit: &AccessUnit) -> bool {
        let lane = self.video.as_ref().filter(|lane| lane.track == unit.track && !lane.has_decode_times());
        let Some(newest) = lane.and_then(VideoLane::newest) else { return false };
        let apart = |a: Ticks, b: Ticks| a.0.abs_diff(b.0);
        let led = sync.sync != Sync::No && unit.sync == Sync::No && sync.track == unit.track;
        led && apart(unit.pts, sync.pts) < apart(unit.pts, newest)
    }

    /// How far from all that has come a unit lies, of a track that has not begun here; None where that is too far.
    pub fn distance(&self, unit: &AccessUnit) -> Option<u64> {
        let most = ticks(self.settings.max_ms, self.timescale(unit.track));
        let distance = self.ahead(unit).map_or(0, |ahead| ahead.0.unsigned_abs());
        (distance <= most.0.unsigned_abs()).then_some(distance)
    }

    pub fn heard(&self, track: TrackId) -> bool {
        self.audio.iter().any(|lane| lane.track == track && lane.heard())
            || self.video.as_ref().is_some_and(|lane| lane.track == track && lane.heard())
    }

    /// The last unit of a track.
    pub fn last(&self, track: TrackId) -> Option<Mark> {
        let video = self.video.as_ref().filter(|lane| lane.track == track).and_then(VideoLane::last);
        video.or_else(|| self.audio.iter().find(|lane| lane.track == track)?.last())
    }

    /// Where in the input the first unit lies that it holds of any track.
    pub fn first_offset(&self) -> Option<u64> {
        let video = self.video.as_ref().and_then(VideoLane::point).map(|point| point.entry);
        let audio = self.audio.iter().map(|lane| lane.point().entry);
        audio.chain(video).filter_map(|entry| entry.offset()).min()
    }

    /// Whether it is longer than a lagging track is waited for.
    pub fn outlasts_skew(&self) -> bool {
        let Some((began, timescale)) = self.began else { return false };
        let newest = self.newest(timescale);
        newest.is_some_and(|newest| newest > began + ticks(self.settings.max_skew_ms, timescale))
    }

    pub fn push(&mut self, unit: AccessUnit, stray: bool) -> Result<(), Error> {
        if self.began.is_none() {
            self.began = Some((unit.pts, self.from(unit.track)));
        }
        if let Some(lane) = self.audio.iter_mut().find(|lane| lane.track == unit.track) {
            lane.push(unit, stray);
        } else if let Some(lane) = self.video.as_mut().filter(|lane| lane.track == unit.track) {
            lane.push(unit, stray, self.settings, &mut self.closed)?;
        }
        if self.audio.iter().any(|lane| lane.held_bytes() > self.settings.max_bytes) {
            return Err(Error::GopTooLong(format!("{} bytes of sound", self.settings.max_bytes)));
        }
        Ok(())
    }

    /// No more units will come: what is held becomes the last pieces.
    /// `split`: sound that goes on for long after the video is given segments of its own.
    pub fn finish(&mut self, split: bool) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.split = split;
        if let Some(lane) = &mut self.video {
            lane.finish(self.settings, &mut self.closed);
        }
    }

    /// What is complete.
    pub fn release(&mut self, pieces: &mut Vec<Piece>) {
        if self.video.is_none() {
            return self.release_sound(pieces);
        }
        while let Some(closed) = self.closed.front() {
            let timescale = self.video.as_ref().map_or(self.sound_timescale(), |lane| lane.timescale);
            let end = closed.cut.window.end;
            let complete = |lane: &AudioLane| lane.covers(end.ceil(timescale, lane.rate()));
            if !self.finished && !self.audio.iter().all(complete) && !self.lagging(end, timescale) {
                return;
            }
            let Some(closed) = self.closed.pop_front() else { return };
            let last = self.finished && self.closed.is_empty();
            let most = ticks(self.settings.target_ms, timescale);
            let cuts = self.audio.iter_mut().map(|lane| {
                let cut_at = end.ceil(timescale, lane.rate());
                let most = cut_at + most.ceil(timescale, lane.rate());
                // A little sound after the last picture is its segment's; more is given segments of its own.
                lane.cut(match lane.end().filter(|_| last) {
                    Some(lane_end) if lane_end <= most || !self.split => lane_end.max(cut_at),
                    _ => cut_at,
                })
            });
            let cuts = cuts.collect();
            self.goes_on = closed.next;
            let (repaired, undecodable) = (closed.repaired, closed.undecodable);
            self.give(timescale, closed.cut.window, Some(closed.cut), cuts, (repaired, undecodable), pieces);
        }
        if self.finished {
            self.release_sound(pieces); // What is left of it, and all where the announced video never came.
        }
    }

    /// Without video, the first audio track's units are the points to cut at.
    fn release_sound(&mut self, pieces: &mut Vec<Piece>) {
        loop {
            let left = |lane: &&AudioLane| lane.start().is_some() && (!self.finished || lane.end() > lane.start());
            let Some(lane) = self.audio.iter().find(left) else { return };
            let (rate, Some(start)) = (lane.rate(), lane.start()) else { return };
            let target = Ticks(ticks(self.settings.target_ms, rate).0.max(1));
            let cut_at = lane.first_unit_from(start + target);
            let end = match cut_at {
                Some(at) if lane.covers(at) || self.finished => at,
                _ if self.finished && lane.end().is_some_and(|end| end > start) => lane.end().unwrap_or(start),
                _ => return,
            };
            let last = self.finished && cut_at.is_none();
            let cuts = self.audio.iter_mut().map(|lane| {
                let at = end.ceil(rate, lane.rate());
                lane.cut(if last { lane.end().map_or(at, |lane_end| lane_end.max(at)) } else { at })
            });
            let cuts = cuts.collect();
            self.give(rate, Window { start, end }, None, cuts, (0, 0), pieces);
        }
    }

    fn give(
        &mut self,
        timescale: Timescale,
        window: Window,
        video: Option<Cut>,
        cuts: Vec<(Cut, u64)>,
        (repaired, undecodable): (u64, u64),
        pieces: &mut Vec<Piece>,
    ) {
        let repaired = repaired + cuts.iter().map(|(_, repaired)| repaired).sum::<u64>();
        let forced = self.video.as_ref().map(|lane| lane.forced().to_vec()).unwrap_or_default();
        if let Some(point) = &mut self.goes_on {
            let new: Vec<Ticks> = forced.into_iter().filter(|at| !point.forced.contains(at)).collect();
            point.forced.extend(new);
        }
        pieces.push(Piece {
            timescale,
            window,
            video,
            audio: cuts.into_iter().map(|(cut, _)| cut).collect(),
            repaired,
            undecodable,
            goes_on: self.goes_on.clone(),
            sound_goes_on: self.audio.iter().map(AudioLane::point).collect(),
        });
    }

    /// Whether the video has run so far ahead of a segment's end that its sound is not waited for any longer.
    fn lagging(&self, end: Ticks, timescale: Timescale) -> bool {
        let Some(newest) = self.video.as_ref().and_then(VideoLane::newest) else { return false };
        newest > end + ticks(self.settings.max_skew_ms, timescale) || self.held_bytes() > 4 * self.settings.max_bytes
    }

    pub fn held_bytes(&self) -> usize {
        let closed = self.closed.iter().flat_map(|closed| &closed.cut.units).map(|unit| unit.data.len()).sum::<usize>();
        let audio = self.audio.iter().map(AudioLane::held_bytes).sum::<usize>();
        closed + audio + self.video.as_ref().map_or(0, VideoLane::bytes)
    }

    /// How far a unit is ahead of all that has come, in its track's ticks; None where nothing has.
    fn ahead(&self, unit: &AccessUnit) -> Option<Ticks> {
        let timescale = self.timescale(unit.track);
        self.newest(timescale).map(|newest| unit.pts.nearest(self.from(unit.track), timescale) - newest)
    }

    /// The latest time that has come, of any track.
    fn newest(&self, timescale: Timescale) -> Option<Ticks> {
        let video = self.video.as_ref().and_then(|lane| Some(lane.newest()?.floor(lane.timescale, timescale)));
        let audio = self.audio.iter().filter_map(|lane| Some(lane.newest()?.floor(lane.rate(), timescale)));
        audio.chain(video).max()
    }

    /// In which a track's times are compared here: samples for sound.
    fn timescale(&self, track: TrackId) -> Timescale {
        let audio = self.audio.iter().find(|lane| lane.track == track).map(AudioLane::rate);
        audio.unwrap_or_else(|| self.from(track))
    }

    /// In which a track's units come.
    fn from(&self, track: TrackId) -> Timescale {
        let audio = self.audio.iter().find(|lane| lane.track == track).map(AudioLane::told_in);
        let video = self.video.as_ref().filter(|lane| lane.track == track).map(|lane| lane.timescale);
        audio.or(video).unwrap_or(self.sound_timescale())
    }

    fn sound_timescale(&self) -> Timescale {
        self.audio.first().map_or(Timescale::new(1000).expect("1000 is not 0"), AudioLane::rate)
    }
}
