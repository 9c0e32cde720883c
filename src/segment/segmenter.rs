//! From units to numbered segments: which timeline a unit belongs to, and what follows what.

use std::collections::VecDeque;

use super::audio_lane::AudioLane;
use super::epoch::{Epoch, Piece, Stands};
use super::point::{AudioPoint, Entry, Gate, Mark, Point, VideoPoint};
use super::video_lane::{Foreseen, Picture, VideoLane};
use super::{Error, Segment, Settings, Tracks};
use crate::media::{AccessUnit, Sync, Ticks, Timescale, Track, TrackId};

/// Takes access units of the tracks that are used, in any interleaving; gives segments in order.
///
/// A clock that jumps begins a new [`Epoch`], whose segments follow when all of the old one's have been given out. One
/// unit alone whose time is out of line is no jump: it is put behind the one before it.
///
/// Holds at most about one segment of video beyond what waits for a lagging track, and that is bounded by
/// [`Settings`].
#[derive(Debug)]
pub struct Segmenter {
    settings: Settings,
    video: Option<Track>,
    audio: Vec<Track>,
    /// By track, the video's first.
    ways: Vec<Way>,
    /// At least one; the front one's segments are being given out.
    epochs: VecDeque<Epoch>,
    /// The GOP with which the video of the epoch before the front one ended.
    broken_off: Vec<Picture>,
    ready: VecDeque<Segment>,
    next_seq: u64,
    discontinuity: bool,
    finished: bool,
}

/// One track's way to the epochs.
#[derive(Debug)]
struct Way {
    track: TrackId,
    gate: Gate,
    /// A unit whose time does not follow: the next one tells whether the clock has jumped.
    suspect: Option<AccessUnit>,
    /// The last unit before the front epoch.
    before: Option<Mark>,
}

/// Most timelines at once; the oldest ends early then.
const MOST_EPOCHS: usize = 4;

impl Segmenter {
    /// `first_seq`: the number of the first segment. `discontinuity`: whether it follows on another timeline.
    pub fn new(settings: Settings, tracks: &Tracks<'_>, first_seq: u64, discontinuity: bool) -> Self {
        let audio: Vec<Track> = tracks.audio.iter().map(|track| (*track).clone()).collect();
        let used = tracks.video.into_iter().chain(tracks.audio.iter().copied());
        let way = |track: &Track| Way { track: track.id, gate: Gate::open(), suspect: None, before: None };
        Self {
            settings,
            ways: used.map(way).collect(),
            epochs: VecDeque::from([Epoch::empty(settings, tracks.video, &audio)]),
            video: tracks.video.cloned(),
            audio,
            broken_off: Vec::new(),
            ready: VecDeque::new(),
            next_seq: first_seq,
            discontinuity,
            finished: false,
        }
    }

    /// Goes on at `point` of a segmenter with the same settings and tracks: given the units from [`Point::offset`] on
    /// in the same order, it cuts the very same segments that the other would have cut after that point. What comes
    /// before the point is dropped.
    pub fn resume(settings: Settings, tracks: &Tracks<'_>, point: &Point) -> Self {
        let mut segmenter = Self::new(settings, tracks, point.next_seq, point.discontinuity);
        let video = tracks.video.map(|track| match &point.video {
            Some(point) => VideoLane::resume(track, point),
            None => VideoLane::new(track),
        });
        let lane = |(n, track): (usize, &Track)| match point.audio.get(n) {
            Some(point) => AudioLane::resume(track, point),
            None => AudioLane::new(track),
        };
        let audio = segmenter.audio.iter().enumerate().map(lane).collect();
        segmenter.epochs = VecDeque::from([Epoch::new(settings, video, audio)]);
        let video = tracks.video.map(|_| point.video.as_ref().map_or(Entry::Beginning, |video| video.entry));
        let entries = video.into_iter().chain(point.audio.iter().map(|audio| audio.entry));
        for (way, entry) in segmenter.ways.iter_mut().zip(entries) {
            way.gate = Gate::until(entry);
            way.before = entry.after();
        }
        segmenter
    }

    /// Takes the next unit of any track; units of tracks that are not used are dropped.
    pub fn push(&mut self, unit: AccessUnit) -> Result<(), Error> {
        let Some(way) = self.ways.iter_mut().find(|way| way.track == unit.track) else { return Ok(()) };
        if !way.gate.passes(&unit) {
            return Ok(());
        }
        let suspect = way.suspect.take();
        if let Some(suspect) = suspect {
            match (self.epoch_of(&suspect), self.epoch_of(&unit)) {
                // Meanwhile another track has jumped to where it is.
                (Some(index), _) => self.hand_on(index, suspect, false)?,
                (None, Some(index)) if !self.leaves(index, &suspect, &unit) => self.hand_on(index, suspect, true)?,
                (None, _) => {
                    self.epochs.push_back(Epoch::empty(self.settings, self.video.as_ref(), &self.audio));
                    self.hand_on(self.epochs.len() - 1, suspect, false)?;
                }
            }
        }
        match self.epoch_of(&unit) {
            Some(index) => self.hand_on(index, unit, false)?,
            None => {
                if let Some(way) = self.ways.iter_mut().find(|way| way.track == unit.track) {
                    way.suspect = Some(unit);
                }
            }
        }
        self.release();
        Ok(())
    }

    /// No more units will come: what is held becomes the last segments.
    pub fn finish(&mut self) {
        let suspects: Vec<AccessUnit> = self.ways.iter_mut().filter_map(|way| way.suspect.take()).collect();
        for unit in suspects {
            let known = self.epoch_of(&unit);
            let heard = |epoch: &Epoch| epoch.heard(unit.track);
            let index = known.or(self.epochs.iter().rposition(heard)).unwrap_or(self.epochs.len() - 1);
            // What is too much for the caps is too much to be one more unit of the last segment.
            let _ = self.hand_on(index, unit, known.is_none());
        }
        self.finished = true;
        self.release();
    }

    /// Cuts at the first sync sample of the video at or after `at`, however short the segment.
    pub fn cut_at(&mut self, at: Ticks, timescale: Timescale) {
        for lane in self.epochs.iter_mut().filter_map(|epoch| epoch.video.as_mut()) {
            lane.cut_at(at.ceil(timescale, lane.timescale));
        }
    }

    /// The next complete segment.
    pub fn poll(&mut self) -> Option<Segment> {
        self.ready.pop_front()
    }

    /// What has come of the video's next segment, where it is certain to be that segment's and more is to come on the same
    /// timeline.
    pub fn foreseen(&self) -> Option<Foreseen<'_>> {
        let only = self.epochs.front().filter(|_| self.epochs.len() == 1 && !self.finished)?;
        only.video.as_ref()?.foreseen()
    }

    /// The number that the next segment will have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Audio units that came after their segment had gone, on the timelines that are held.
    pub fn late_audio(&self) -> u64 {
        self.epochs.iter().flat_map(|epoch| &epoch.audio).map(|lane| lane.late).sum()
    }

    /// The epoch that a unit belongs to: where it follows what was before it on its track, or, where its track has not
    /// begun, where it is near the others. None where it follows nothing.
    fn epoch_of(&self, unit: &AccessUnit) -> Option<usize> {
        let follows = |epoch: &Epoch| epoch.stands(unit) == Stands::Follows;
        if let Some(index) = self.epochs.iter().rposition(follows) {
            return Some(index);
        }
        let newest = self.epochs.iter().rposition(|epoch| epoch.heard(unit.track));
        let later = (0..self.epochs.len()).filter(|index| newest.is_none_or(|newest| *index > newest));
        let near = later.filter_map(|index| Some((self.epochs.get(index)?.distance(unit)?, index))).min();
        near.map(|(_, index)| index).or(if newest.is_none() { Some(self.epochs.len() - 1) } else { None })
    }

    fn leaves(&self, index: usize, suspect: &AccessUnit, unit: &AccessUnit) -> bool {
        self.epochs.get(index).is_some_and(|epoch| epoch.leaves_with(suspect, unit))
    }

    fn hand_on(&mut self, index: usize, unit: AccessUnit, stray: bool) -> Result<(), Error> {
        let lane = |epoch: &Epoch| epoch.video.as_ref().is_some_and(|lane| lane.track == unit.track && lane.is_new());
        if unit.sync == Sync::No && self.epochs.get(index).is_some_and(lane) {
            let before = index.checked_sub(1).and_then(|before| self.epochs.get(before)?.video.as_ref());
            let gop = before.map_or_else(|| self.broken_off.clone(), VideoLane::gop);
            if let Some(lane) = self.epochs.get_mut(index).and_then(|epoch| epoch.video.as_mut()) {
                lane.seed(gop);
            }
        }
        self.epochs.get_mut(index).map_or(Ok(()), |epoch| epoch.push(unit, stray))
    }

    /// Gives out what is complete, epoch by epoch.
    fn release(&mut self) {
        loop {
            let over = self.finished || self.front_is_over();
            let only = self.epochs.len() == 1;
            let Some(front) = self.epochs.front_mut() else { return };
            if over {
                front.finish(only);
            }
            let mut pieces = Vec::new();
            front.release(&mut pieces);
            let count = pieces.len();
            for (n, piece) in pieces.into_iter().enumerate() {
                self.give(piece, over && n + 1 == count);
            }
            if !over || only {
                return;
            }
            let Some(done) = self.epochs.pop_front() else { return };
            for way in &mut self.ways {
                way.before = done.last(way.track).or(way.before);
            }
            self.broken_off = done.video.as_ref().map(VideoLane::gop).unwrap_or_default();
            self.discontinuity = true;
        }
    }

    /// Whether all tracks have left the front epoch, or those that have not are waited for no longer.
    fn front_is_over(&self) -> bool {
        let later = || self.epochs.iter().skip(1);
        let held = self.epochs.iter().map(Epoch::held_bytes).sum::<usize>();
        later().count() > 0
            && (self.ways.iter().all(|way| later().any(|epoch| epoch.heard(way.track)))
                || later().any(Epoch::outlasts_skew)
                || held > 4 * self.settings.max_bytes
                || self.epochs.len() > MOST_EPOCHS)
    }

    fn give(&mut self, piece: Piece, last: bool) {
        let resume = self.point(&piece, last);
        self.ready.push_back(Segment {
            seq: self.next_seq,
            timescale: piece.timescale,
            start: piece.window.start,
            end: piece.window.end,
            video: piece.video,
            audio: piece.audio,
            discontinuity: std::mem::take(&mut self.discontinuity),
            last,
            repaired: piece.repaired,
            undecodable: piece.undecodable,
            resume,
        });
        self.next_seq += 1;
    }

    /// Where the segment after this piece, which may be its epoch's last, can be taken up.
    fn point(&self, piece: &Piece, last: bool) -> Point {
        let before = |track: TrackId| self.ways.iter().find(|way| way.track == track).and_then(|way| way.before);
        let front = |track: TrackId| self.epochs.front().and_then(|epoch| epoch.last(track));
        let after = |track: TrackId| front(track).or(before(track));
        let video_after = || Some(VideoPoint::after(after(self.video.as_ref()?.id)?));
        let sound = |lane: &AudioLane, point: AudioPoint| match after(lane.track) {
            Some(mark) if point.entry == Entry::Beginning => AudioPoint::after(mark),
            _ => point,
        };
        let (video, audio) = match self.epochs.get(1).filter(|_| last) {
            Some(next) => {
                // Its first picture may be one of which it is not known yet that it is.
                let of_video = |unit: &&AccessUnit| self.video.as_ref().is_some_and(|video| video.id == unit.track);
                let suspect = || self.ways.iter().filter_map(|way| way.suspect.as_ref()).find(of_video);
                let front = || self.epochs.front().and_then(|epoch| epoch.video.as_ref());
                let awaited = || suspect().zip(front()).and_then(|(unit, lane)| lane.point_of_next(unit));
                let video = next.video.as_ref().and_then(VideoLane::point).or_else(awaited).or_else(video_after);
                (video, next.audio.iter().map(|lane| sound(lane, lane.point())).collect())
            }
            None => {
                let lanes = self.epochs.front().map(|epoch| &epoch.audio[..]).unwrap_or_default();
                let points = lanes.iter().zip(&piece.sound_goes_on).map(|(lane, point)| sound(lane, point.clone()));
                (piece.goes_on.clone().or_else(video_after), points.collect::<Vec<_>>())
            }
        };
        let entries = video.iter().map(|video| &video.entry).chain(audio.iter().map(|audio: &AudioPoint| &audio.entry));
        // Behind the entries, but perhaps before all of them: what waits to be believed, and what is of later epochs.
        let waiting = self.ways.iter().filter_map(|way| way.suspect.as_ref()).map(|unit| unit.offset);
        let later = self.epochs.iter().skip(1).filter_map(Epoch::first_offset);
        let offset = entries.filter_map(Entry::offset).chain(waiting).chain(later).min();
        Point { next_seq: self.next_seq + 1, offset, discontinuity: last, video, audio }
    }
}
