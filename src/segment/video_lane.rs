//! The video track of one epoch: where it is cut, and what each segment takes along.

use std::collections::VecDeque;

use super::point::{Entry, Mark, VideoPoint};
use super::repair::{self, Stamps};
use super::{Cut, Error, Settings, ticks};
use crate::media::codec::{h264, h265};
use crate::media::{AccessUnit, Format, Sync, Ticks, Timescale, Track, TrackId, VideoCodec, Window};

#[derive(Debug)]
pub(super) struct VideoLane {
    pub track: TrackId,
    pub timescale: Timescale,
    /// Whether pictures after a closed sync sample may be presented before it.
    leads: bool,
    /// Whether some that lead an open sync sample can be decoded from it.
    has_radl: bool,
    /// Whether pictures after an open sync sample need the GOP before it to be decoded right.
    looks_back: bool,
    stamps: Stamps,
    /// The newest decode time, where there are such apart from presentation times.
    dts: Option<Ticks>,
    /// In decode order: pre-roll, the open segment, and what has come after a point to cut at.
    units: VecDeque<Picture>,
    /// How many of `units` are pre-roll.
    own: usize,
    bytes: usize,
    /// Where the open segment's window starts.
    start: Option<Ticks>,
    /// Where its own units start.
    span: Option<Ticks>,
    cut: Option<Point>,
    /// Which of `units` is to be looked at next.
    next: usize,
    /// Cut at the first sync sample at or after each of these.
    forced: Vec<Ticks>,
    /// The first unit that came, and the last.
    first: Option<Mark>,
    last: Option<Mark>,
    /// Where the pre-roll begins that is of another epoch.
    seed: Option<(Mark, Before)>,
    /// An open sync sample with nothing before it: what leads it refers to what is not there.
    bare: Option<Ticks>,
    /// The lane has begun with intra refresh: after so many reference frames pictures are right.
    recovering: Option<u32>,
    beginning: Beginning,
    undecodable: u64,
}

/// Whether and how the lane's first segment has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// Nothing decodable has come.
    Awaited,
    /// Pre-roll comes again, up to this unit.
    Prelude {
        opens: Mark,
        seeded: bool,
    },
    /// Its earliest picture may still come.
    First,
    Past,
}

#[derive(Debug, Clone)]
pub(super) struct Picture {
    unit: AccessUnit,
    mark: Mark,
    /// The newest times before it.
    before: Before,
    /// What a segment can begin with: never one whose time was nonsense.
    opens: Sync,
    /// After how many reference frames pictures are right where decoding starts here.
    recovers_in: u32,
    /// Whether it counts as one of them.
    is_reference: bool,
    repaired: bool,
}

#[derive(Debug, Clone, Copy)]
struct Before {
    pts: Option<Ticks>,
    dts: Option<Ticks>,
}

/// The part of a segment that has come before the rest of it.
pub struct Foreseen<'a> {
    pub start: Ticks,
    units: &'a VecDeque<Picture>,
    certain: usize,
}

impl Foreseen<'_> {
    /// The units from that one on, in decode order.
    pub fn units(&self, from: usize) -> impl Iterator<Item = &AccessUnit> {
        self.units.range(from.min(self.certain)..self.certain).map(|picture| &picture.unit)
    }
}

/// A sync sample at which to cut.
#[derive(Debug, Clone, Copy)]
struct Point {
    at: usize,
    pts: Ticks,
    /// Up to here a closed sync sample is waited for that would be better.
    until: Option<Ticks>,
}

/// A closed segment of video, and where the next one is taken up.
#[derive(Debug)]
pub(super) struct Closed {
    pub cut: Cut,
    pub next: Option<VideoPoint>,
    pub repaired: u64,
    pub undecodable: u64,
}

/// No jump backward: a closed sync sample's jitter, milliseconds.
const BACK_AT_SYNC_MS: u32 = 500;
/// No jump backward: reordering, where there are no decode times to tell it from, milliseconds.
const BACK_MS: u32 = 5_000;
/// Most cuts that are waiting for their time.
const MOST_FORCED: usize = 64;

impl VideoLane {
    pub fn new(track: &Track) -> Self {
        let is = |codecs: &[VideoCodec]| matches!(&track.format, Format::Video(video) if codecs.contains(&video.codec));
        Self {
            track: track.id,
            timescale: track.timescale,
            leads: is(&[VideoCodec::H265, VideoCodec::Mpeg2]),
            has_radl: is(&[VideoCodec::H265]),
            looks_back: is(&[VideoCodec::H264]),
            stamps: Stamps::default(),
            dts: None,
            units: VecDeque::new(),
            own: 0,
            bytes: 0,
            start: None,
            span: None,
            cut: None,
            next: 0,
            forced: Vec::new(),
            first: None,
            last: None,
            seed: None,
            bare: None,
            recovering: None,
            beginning: Beginning::Awaited,
            undecodable: 0,
        }
    }

    /// Goes on at `point`; its entry is looked for elsewhere.
    pub fn resume(track: &Track, point: &VideoPoint) -> Self {
        let beginning = point.opens.map(|opens| Beginning::Prelude { opens, seeded: point.seeded });
        Self {
            stamps: Stamps::after(point.newest),
            dts: point.dts,
            start: point.start,
            span: point.span,
            forced: point.forced.clone(),
            beginning: beginning.unwrap_or(Beginning::Awaited),
            ..Self::new(track)
        }
    }

    /// Whether anything has come.
    pub fn heard(&self) -> bool {
        self.newest().is_some()
    }

    /// The unit that came last.
    pub fn last(&self) -> Option<Mark> {
        self.last
    }

    /// Whether nothing of it has come.
    pub fn is_new(&self) -> bool {
        self.beginning == Beginning::Awaited && self.units.is_empty() && self.first.is_none()
    }

    /// Whether what comes is pre-roll that has come before.
    fn comes_again(&self) -> bool {
        matches!(self.beginning, Beginning::Prelude { .. })
    }

    /// Whether what comes is pre-roll of another timeline.
    pub fn is_seeded_again(&self) -> bool {
        matches!(self.beginning, Beginning::Prelude { seeded: true, .. })
    }

    /// The latest presentation time so far.
    pub fn newest(&self) -> Option<Ticks> {
        self.stamps.newest().filter(|_| !self.is_seeded_again())
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether units tell when they are decoded.
    pub fn has_decode_times(&self) -> bool {
        self.dts.is_some()
    }

    /// Whether the unit is presented so long before what has come that reordering does not explain it.
    pub fn runs_back(&self, unit: &AccessUnit) -> bool {
        let Some(newest) = self.newest() else { return false };
        let back = newest - unit.pts;
        match (unit.sync, self.dts) {
            (Sync::Idr, _) => back > self.ticks(BACK_AT_SYNC_MS),
            (_, Some(dts)) => back > self.ticks(BACK_AT_SYNC_MS) && dts - unit.dts > self.ticks(BACK_AT_SYNC_MS),
            (_, None) => back > self.ticks(BACK_MS),
        }
    }

    /// Begins with pictures that go on decoding the GOP that was broken off before.
    pub fn seed(&mut self, gop: Vec<Picture>) {
        self.own = gop.len();
        self.seed = gop.first().map(|picture| (picture.mark, picture.before));
        self.units = gop.into();
        self.next = self.own;
    }

    /// What is certain to be the next segment's, in decode order, and where its window starts: where that begins with a closed
    /// sync sample and follows another on this timeline. At least one unit.
    pub fn foreseen(&self) -> Option<Foreseen<'_>> {
        let first = self.units.front().filter(|_| self.own == 0 && self.beginning == Beginning::Past)?;
        let start = self.start.filter(|start| first.opens == Sync::Idr && first.unit.pts == *start)?;
        let certain = self.cut.map_or(self.units.len(), |point| point.at);
        Some(Foreseen { start, units: &self.units, certain })
    }

    /// The pictures since the last sync sample, it included.
    pub fn gop(&self) -> Vec<Picture> {
        let from = self.units.iter().rposition(|picture| picture.opens != Sync::No).unwrap_or(0);
        self.units.range(from..).cloned().collect()
    }

    /// Where a lane of the next epoch is to be taken up that will begin with this unit, in the middle of the GOP that is
    /// broken off here. None where nothing is.
    pub fn point_of_next(&self, opens: &AccessUnit) -> Option<VideoPoint> {
        let gop = self.gop();
        let first = gop.first().filter(|_| opens.sync == Sync::No)?;
        Some(VideoPoint {
            entry: Entry::At(first.mark),
            opens: Some(Mark::of(opens)),
            seeded: true,
            newest: first.before.pts,
            dts: first.before.dts,
            ..VideoPoint::after(first.mark)
        })
    }

    /// Cuts at the first sync sample at or after `at`.
    pub fn cut_at(&mut self, at: Ticks) {
        if self.forced.len() < MOST_FORCED && !self.forced.contains(&at) && self.start.is_none_or(|start| at > start) {
            self.forced.push(at);
            // Such a point may have come already.
            self.next = if self.cut.is_none() { self.next.min(self.own + 1) } else { self.next };
        }
    }

    /// Takes the next unit in decode order. `stray`: its time is nonsense; it follows what was before it.
    pub fn push(
        &mut self,
        unit: AccessUnit,
        stray: bool,
        settings: Settings,
        closed: &mut VecDeque<Closed>,
    ) -> Result<(), Error> {
        let mark = Mark::of(&unit);
        self.last = Some(mark);
        match self.beginning {
            Beginning::Prelude { opens, seeded } if opens == mark || mark.offset > opens.offset => {
                if seeded {
                    (self.stamps, self.dts, self.bare, self.recovering) = (Stamps::default(), None, None, None);
                }
                (self.own, self.bytes) = (self.units.len(), 0);
                self.next = self.own + usize::from(!seeded);
                self.beginning = if seeded { Beginning::First } else { Beginning::Past };
            }
            Beginning::Awaited => {
                self.first.get_or_insert(mark);
                if self.units.is_empty() && unit.sync == Sync::No {
                    self.undecodable += 1;
                    return Ok(());
                }
                self.beginning = Beginning::First;
            }
            _ => {}
        }
        let picture = self.place(unit, mark, stray);
        let (pts, sync) = (picture.unit.pts, picture.unit.sync);
        if self.units.is_empty() && sync == Sync::OpenGop && picture.before.pts.is_none() {
            self.bare = Some(pts);
            self.recovering = Some(picture.recovers_in).filter(|frames| *frames > 0);
        } else if self.bare.is_some_and(|bare| pts < bare) {
            if self.has_radl && h265::leads_decodable(&picture.unit.data) {
                return self.keep(picture, settings, closed);
            }
            self.undecodable += u64::from(!self.comes_again());
            return Ok(());
        } else {
            self.bare = None;
        }
        let leads = |earlier: &Picture| pts < earlier.unit.pts;
        match self.recovering.filter(|_| sync != Sync::Idr && self.beginning == Beginning::First) {
            Some(0) if !self.units.iter().any(leads) => (self.recovering, self.bare) = (None, Some(pts)),
            Some(frames) => return self.keep_to_recover(picture, frames, settings),
            None => self.recovering = None,
        }
        self.keep(picture, settings, closed)
    }

    /// Pictures come out of this one, but it is not whole itself.
    fn keep_to_recover(&mut self, picture: Picture, frames: u32, settings: Settings) -> Result<(), Error> {
        self.recovering = Some(frames.saturating_sub(u32::from(picture.is_reference)));
        self.bytes += picture.unit.data.len();
        self.units.push_back(picture);
        self.undecodable += 1;
        (self.own, self.next) = (self.units.len(), self.units.len());
        self.check(settings)
    }

    fn keep(&mut self, picture: Picture, settings: Settings, closed: &mut VecDeque<Closed>) -> Result<(), Error> {
        let pts = picture.unit.pts;
        self.bytes += picture.unit.data.len();
        self.units.push_back(picture);
        if self.comes_again() {
            return Ok(());
        }
        if self.beginning == Beginning::First && pts.0 >= 0 && self.start.is_none_or(|start| pts < start) {
            (self.start, self.span) = (Some(pts), Some(pts));
        }
        self.consider(settings, closed);
        self.check(settings)
    }

    /// No more units will come.
    pub fn finish(&mut self, settings: Settings, closed: &mut VecDeque<Closed>) {
        while let Some(point) = self.cut {
            closed.push_back(self.close(point));
            self.consider(settings, closed);
        }
        let Some(start) = self.start.filter(|_| self.units.len() > self.own) else { return };
        let own: Vec<AccessUnit> = self.units.range(self.own..).map(|picture| picture.unit.clone()).collect();
        let end = presentation_end(&own, start);
        let closing = self.take(own, Vec::new(), Window { start, end }, end);
        closed.push_back(closing);
    }

    /// The cuts that are still waiting for their time.
    pub fn forced(&self) -> &[Ticks] {
        &self.forced
    }

    /// Where the lane is to be taken up again from its beginning.
    pub fn point(&self) -> Option<VideoPoint> {
        let first = self.first?;
        Some(VideoPoint {
            entry: Entry::At(self.seed.map_or(first, |(mark, _)| mark)),
            opens: self.seed.map(|_| first),
            seeded: self.seed.is_some(),
            newest: self.seed.and_then(|(_, before)| before.pts),
            dts: self.seed.and_then(|(_, before)| before.dts),
            start: None,
            span: None,
            forced: self.forced.clone(),
        })
    }

    fn place(&mut self, mut unit: AccessUnit, mark: Mark, stray: bool) -> Picture {
        let before = Before { pts: self.stamps.newest(), dts: self.dts };
        let entry = match unit.sync {
            Sync::Idr if !self.leads => repair::Entry::Closed,
            Sync::Idr | Sync::OpenGop => repair::Entry::Open,
            Sync::No => repair::Entry::None,
        };
        let told = unit.pts;
        let wanted = before.pts.filter(|_| stray).unwrap_or(told);
        unit.pts = self.stamps.place(wanted, entry);
        if !stray && (unit.dts != told || self.dts.is_some()) {
            self.dts = Some(unit.dts);
        }
        let opens = if stray { Sync::No } else { unit.sync };
        let refreshes = self.looks_back && opens == Sync::OpenGop;
        let recovers_in = if refreshes { h264::recovery_frames(&unit.data) } else { 0 };
        let is_reference = self.looks_back && h264::is_reference(&unit.data);
        Picture { repaired: unit.pts != told, opens, recovers_in, is_reference, unit, mark, before }
    }

    /// Looks at what has not been looked at for points to cut at, and closes the open segment where one is settled.
    fn consider(&mut self, settings: Settings, closed: &mut VecDeque<Closed>) {
        while let Some(picture) = self.units.get(self.next) {
            let (pts, sync, at) = (picture.unit.pts, picture.opens, self.next);
            self.next += 1;
            let Some(point) = self.cut else {
                self.cut = self.point_at(at, pts, sync, settings);
                self.close_at_once(closed);
                continue;
            };
            match point.until {
                Some(until) if sync == Sync::Idr && pts <= until => {
                    self.cut = Some(Point { at, pts, until: None });
                    self.close_at_once(closed);
                }
                Some(until) if pts > until => closed.push_back(self.close(point)),
                None if pts >= point.pts => closed.push_back(self.close(point)),
                _ => {}
            }
        }
    }

    fn point_at(&mut self, at: usize, pts: Ticks, sync: Sync, settings: Settings) -> Option<Point> {
        let start = self.start.filter(|start| sync != Sync::No && at > self.own && pts > *start)?;
        if sync == Sync::OpenGop && self.looks_back && self.entry_before(at).is_none() {
            return None; // What it needs as pre-roll begins on another timeline.
        }
        self.forced.retain(|forced| *forced > start);
        let before = self.forced.len();
        self.forced.retain(|forced| *forced > pts);
        let forced = self.forced.len() < before;
        let due = pts >= start + self.ticks(settings.target_ms);
        let wait = (sync == Sync::OpenGop && !forced).then(|| pts + self.ticks(settings.target_ms / 2));
        (forced || due).then_some(Point { at, pts, until: wait })
    }

    /// The sync sample from which the picture `at` and what follows it are decoded right, if this timeline has one.
    fn entry_before(&self, at: usize) -> Option<usize> {
        let first = if self.beginning == Beginning::Past { 0 } else { self.own };
        let mut references = 0;
        (first..at).rev().find(|n| {
            let Some(picture) = self.units.get(*n) else { return false };
            references += u32::from(picture.is_reference);
            picture.opens != Sync::No && picture.recovers_in <= references
        })
    }

    /// A closed point that nothing leads needs no look at what follows.
    fn close_at_once(&mut self, closed: &mut VecDeque<Closed>) {
        let alone = |point: &Point| {
            let sync = self.units.get(point.at).map(|picture| picture.opens);
            point.until.is_none() && sync == Some(Sync::Idr) && !self.leads
        };
        if let Some(point) = self.cut.filter(alone) {
            closed.push_back(self.close(point));
        }
    }

    /// Closes the open segment at the point, which opens the next one.
    fn close(&mut self, point: Point) -> Closed {
        let leading = self.units.range(point.at + 1..).take_while(|picture| picture.unit.pts < point.pts).count();
        let units = |range: std::ops::Range<usize>| -> Vec<AccessUnit> {
            self.units.range(range).map(|picture| picture.unit.clone()).collect()
        };
        let post_roll = if leading > 0 { units(point.at..point.at + 1 + leading) } else { Vec::new() };
        let span_end = post_roll.iter().map(|unit| unit.pts).min().unwrap_or(point.pts);
        let own = units(self.own..point.at);
        let start = self.start.unwrap_or(point.pts);
        let mut closing = self.take(own, post_roll, Window { start, end: point.pts }, span_end);
        let back = self.looks_back && self.units.get(point.at).is_some_and(|picture| picture.opens == Sync::OpenGop);
        let from = if back { self.entry_before(point.at).unwrap_or(0) } else { point.at };
        self.units.drain(..from);
        self.own = point.at - from;
        self.next = self.own + 1;
        self.cut = None;
        self.bytes = self.units.range(self.own..).map(|picture| picture.unit.data.len()).sum();
        (self.start, self.span) = (Some(point.pts), Some(span_end));
        self.beginning = Beginning::Past;
        closing.next = self.reentry();
        closing
    }

    /// Where what is held now is taken up again.
    fn reentry(&self) -> Option<VideoPoint> {
        let (first, opens) = (self.units.front()?, self.units.get(self.own)?);
        Some(VideoPoint {
            entry: Entry::At(first.mark),
            opens: Some(opens.mark),
            seeded: false,
            newest: first.before.pts,
            dts: first.before.dts,
            start: self.start,
            span: self.span,
            forced: self.forced.clone(),
        })
    }

    fn take(&mut self, own: Vec<AccessUnit>, post_roll: Vec<AccessUnit>, window: Window, span_end: Ticks) -> Closed {
        let repaired = self.units.range(self.own..self.own + own.len()).filter(|picture| picture.repaired).count();
        let mut pre_roll: Vec<AccessUnit> = self.units.range(..self.own).map(|picture| picture.unit.clone()).collect();
        if self.beginning != Beginning::Past {
            // Its times are of another epoch.
            let times = (1..).map(|n| Ticks(window.start.0.saturating_sub(n)));
            pre_roll.iter_mut().rev().zip(times).for_each(|(unit, at)| (unit.pts, unit.dts) = (at, at));
        }
        let least = own.iter().map(|unit| unit.pts).max().map_or(window.start, |pts| pts + Ticks(1));
        let span = Window { start: self.span.unwrap_or(window.start), end: span_end.max(least) };
        Closed {
            cut: Cut { track: self.track, pre_roll, units: own, post_roll, window, span },
            next: None,
            repaired: repaired as u64,
            undecodable: std::mem::take(&mut self.undecodable),
        }
    }

    fn check(&self, settings: Settings) -> Result<(), Error> {
        let frames = self.units.len().saturating_sub(self.own);
        if frames > settings.max_frames {
            return Err(Error::GopTooLong(format!("{} pictures", settings.max_frames)));
        }
        if self.bytes > settings.max_bytes {
            return Err(Error::GopTooLong(format!("{} bytes", settings.max_bytes)));
        }
        let newest = self.units.back().filter(|_| self.cut.is_none()).map(|picture| picture.unit.pts);
        let most = self.start.map(|start| start + self.ticks(settings.max_ms));
        if newest.zip(most).is_some_and(|(newest, most)| newest > most) {
            return Err(Error::GopTooLong(format!("{} ms", settings.max_ms)));
        }
        Ok(())
    }

    fn ticks(&self, ms: u32) -> Ticks {
        ticks(ms, self.timescale)
    }
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
