//! MP4, fragmented and progressive (ISO/IEC 14496-12, -14, -15).
//!
//! The top level of boxes is walked as the bytes come; only moov and moof are held. Samples are given
//! - in the order of their bytes, each as soon as it is complete, where the index (moov, moof) comes before the data;
//! - in the order of their decode times, read back from the [`Spool`], where the data comes first or the index
//!   jumps about in it.

mod boxes;
mod description;
mod edits;
mod event;
mod fragment;
mod input;
mod movie;
mod output;
mod sample_table;
mod spooled;
#[cfg(test)]
mod tests;
mod unit;

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::boxes::FourCc;
use self::event::Events;
use self::input::Input;
use self::movie::{Movie, TrackState};
use self::output::Output;
use self::sample_table::Sample;
use self::spooled::Spooled;
use super::{Event, Limits, SetUp, Spool};
use crate::media::data::MOST_BYTES;
use crate::media::{Error, Track, TrackId};

/// Bytes that are gathered before they go to the spool, so that small pieces don't cost a write each.
const SPOOL_AT_ONCE: u64 = 64 << 10;

/// See [`super::Demuxer`], which this serves.
pub struct Demuxer {
    limits: Limits,
    input: Input,
    finished: bool,
    state: State,
    /// Where the box starts, or the one after it, that is read next.
    position: u64,
    /// Where the file starts in the input: a recorder that starts anew counts its offsets from there.
    origin: u64,
    /// A file type box has come after a moov; what follows may be another file.
    restarted: bool,
    movie: Option<Movie>,
    spooled: Spooled,
    /// Where the samples of the sample table end, while they wait on the spool for the last of them.
    wait_until: Option<u64>,
    output: Output,
    events: Events,
    /// What is to be said after the last event.
    verdict: Option<Error>,
    /// Bytes before the first media, once that has come.
    set_up_bytes: Option<u64>,
    /// The moov in force where it is not the input's first; empty where it is too large to be carried about.
    later_moov: Option<Bytes>,
    /// There are samples in the sample tables.
    has_table: bool,
    /// The boxes with media that were passed last: where their bodies start, and where they end.
    passed: VecDeque<(u64, Option<u64>)>,
    resume: Option<Resume>,
}

/// Boxes of media of which it is known where they end.
const PASSED: usize = 32;

/// What has to be known, besides the tracks, to go on in the middle of an MP4. See [`super::State`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    origin: u64,
    /// The sample description in force, by track.
    in_force: Vec<(TrackId, u32)>,
    /// Within the media of a progressive file: where its box ends.
    within: Option<Option<u64>>,
}

/// The place where one goes on, until it is reached.
struct Resume {
    offset: u64,
    tracks: Vec<Track>,
    state: Remembered,
    /// The set-up in force is known already.
    carried: bool,
}

enum State {
    /// At a box header.
    Header,
    /// In a moov or moof of which all bytes are wanted at once; its body starts and ends there.
    Collect { kind: FourCc, body: u64, end: u64 },
    /// In a box of which only the samples are wanted. None: it goes on to the end.
    Pass { end: Option<u64> },
    /// The samples of the sample table are being read from the spool.
    ReadBack { at_end: bool },
    /// No sample is left.
    End,
}

/// What a step came to.
enum Step {
    Done,
    NeedMore,
}

impl Demuxer {
    pub fn new(limits: Limits, spool: Box<dyn Spool>) -> Self {
        Self {
            limits,
            input: Input::default(),
            finished: false,
            state: State::Header,
            position: 0,
            origin: 0,
            restarted: false,
            movie: None,
            spooled: Spooled::new(spool),
            wait_until: None,
            output: Output::default(),
            events: Events::default(),
            verdict: None,
            set_up_bytes: None,
            later_moov: None,
            has_table: false,
            passed: VecDeque::new(),
            resume: None,
        }
    }

    /// Goes on at `offset` as if all before it had been read. `tracks`: as they were told last.
    pub fn resume(
        limits: Limits,
        spool: Box<dyn Spool>,
        (offset, set_up): (u64, &SetUp),
        tracks: &[Track],
        state: &Remembered,
    ) -> Result<Self, Error> {
        let mut demuxer = Self::new(limits, spool);
        if let SetUp::Again = set_up {
            demuxer.input.move_to(0, offset).ok_or_else(out_of_place)?;
            (demuxer.position, demuxer.origin) = (offset, offset);
            demuxer.set_up_bytes = Some(0);
            return Ok(demuxer);
        }
        let carried = matches!(set_up, SetUp::Carried(_));
        demuxer.resume = Some(Resume { offset, tracks: tracks.to_vec(), state: state.clone(), carried });
        if let SetUp::Carried(moov) = set_up {
            demuxer.origin = state.origin;
            demuxer.later_moov = Some(moov.clone());
            demuxer.index(moov, 0)?;
        }
        Ok(demuxer)
    }

    /// How to go on at `offset`, which is a unit's or that of tracks.
    pub fn state(&self, offset: u64) -> Option<(u64, SetUp, Remembered)> {
        let movie = self.movie.as_ref()?;
        let offset =
            movie.tracks.iter().filter_map(TrackState::waits_for).min().map_or(offset, |moof| moof.min(offset));
        let in_force = movie.tracks.iter().map(|track| (track.track.id, track.in_force)).collect();
        let mut state = Remembered { origin: self.origin, in_force, within: None };
        let again = |state| Some((self.origin, SetUp::Again, state));
        if offset <= self.origin || movie.untimed {
            return again(state);
        }
        if self.has_table {
            let Some(&(_, end)) =
                self.passed.iter().find(|(start, end)| *start <= offset && end.is_none_or(|end| offset < end))
            else {
                return again(state);
            };
            state.within = Some(end);
        }
        match &self.later_moov {
            None => Some((offset, SetUp::First, state)),
            Some(moov) if moov.is_empty() || state.within.is_some() => again(state),
            Some(moov) => Some((offset, SetUp::Carried(moov.clone()), state)),
        }
    }

    /// How many bytes of the input are set-up: those before the first fragment, or before the media itself.
    pub fn set_up_bytes(&self) -> u64 {
        self.set_up_bytes.unwrap_or(0)
    }

    pub fn push(&mut self, data: Bytes) -> Result<(), Error> {
        self.input.push(data);
        Ok(())
    }

    pub fn finish(&mut self) {
        self.finished = true;
    }

    pub fn poll(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.output.pop() {
                return Ok(Some(event));
            }
            let step = match self.state {
                State::Header => self.header()?,
                State::Collect { kind, body, end } => self.collect(kind, body, end)?,
                State::Pass { end } => self.pass(end)?,
                State::ReadBack { at_end } => self.read_back(at_end)?,
                State::End => return self.verdict.clone().map_or(Ok(None), Err),
            };
            if let Step::NeedMore = step {
                if !self.finished {
                    return Ok(None);
                }
                self.end()?;
            }
        }
    }

    fn header(&mut self) -> Result<Step, Error> {
        if self.wait_until.is_some_and(|end| self.spooled.filled_to().is_some_and(|filled| filled >= end)) {
            self.wait_until = None;
            self.state = State::ReadBack { at_end: false };
            return Ok(Step::Done);
        }
        let mut head = [0; 16];
        let filled = self.input.peek(self.position, &mut head);
        let Some(header) = boxes::Header::parse(&head[..filled]) else { return Ok(Step::NeedMore) };
        if header.size.is_some_and(|size| size < header.length as u64) {
            return Err(Error::bad(format!("box {} is smaller than its header", boxes::name(header.kind))));
        }
        let end = match header.size {
            Some(size) => Some(self.position.checked_add(size).ok_or_else(|| Error::bad("a box has no end"))?),
            None => None,
        };
        let body = self.position + header.length as u64;
        match &header.kind {
            b"moov" if self.resume.as_ref().is_some_and(|resume| resume.carried) => {}
            b"moof" => {
                self.media_begins(self.position);
                let end = self.go_on_at(self.position, end)?;
                return self.start_collecting(header, end);
            }
            b"moov" => return self.start_collecting(header, end),
            b"emsg" if end.is_some_and(|end| end - self.position <= MOST_BYTES as u64) => {
                return self.start_collecting(header, end);
            }
            b"emsg" => self.events.damaged += 1,
            b"ftyp" if self.movie.is_some() && self.wait_until.is_none() => {
                self.origin = self.position;
                self.restarted = true;
            }
            b"mdat" if self.spooled.filled_to().is_none() && self.index_is_to_come()? => {
                if end.is_none() {
                    return Err(Error::bad("mdat goes on to the end of the file, and no moov came before it"));
                }
                self.spooled.begin(self.position);
                self.media_begins(0);
            }
            b"mdat" if self.movie.is_some() => {
                self.media_begins(body);
                if self.enter(body)? {
                    return Ok(Step::Done);
                }
                self.passed.truncate(PASSED - 1);
                self.passed.push_front((body, end));
            }
            _ => {}
        }
        self.state = State::Pass { end };
        self.position = end.unwrap_or(u64::MAX);
        Ok(Step::Done)
    }

    /// Takes note of where the set-up ends.
    fn media_begins(&mut self, at: u64) {
        self.set_up_bytes.get_or_insert(at);
    }

    /// A moof at `at` that ends at `end`: where a resumed stream goes on. Returns its end by the place it had.
    fn go_on_at(&mut self, at: u64, end: Option<u64>) -> Result<Option<u64>, Error> {
        let Some(resume) = self.resume.take() else { return Ok(end) };
        self.input.move_to(at, resume.offset).ok_or_else(out_of_place)?;
        self.position = resume.offset;
        Ok(end.map(|end| resume.offset.saturating_add(end - at)))
    }

    /// The media of a progressive file begins at `body`: whether a resumed stream goes on in it.
    fn enter(&mut self, body: u64) -> Result<bool, Error> {
        let Some(end) = self.resume.as_ref().and_then(|resume| resume.state.within) else { return Ok(false) };
        let (Some(resume), Some(movie)) = (self.resume.take(), &mut self.movie) else { return Ok(false) };
        self.input.release(body);
        self.input.move_to(body, resume.offset).ok_or_else(out_of_place)?;
        movie.skip_to(resume.offset)?;
        self.passed.push_front((resume.offset, end));
        self.state = State::Pass { end };
        self.position = end.unwrap_or(u64::MAX);
        Ok(true)
    }

    /// Whether the data that comes now is that of a moov after it.
    fn index_is_to_come(&mut self) -> Result<bool, Error> {
        match &mut self.movie {
            None => Ok(true),
            Some(movie) => Ok(self.restarted && !movie.has_more()?),
        }
    }

    fn start_collecting(&mut self, header: boxes::Header, end: Option<u64>) -> Result<Step, Error> {
        let kind = || boxes::name(header.kind);
        let end = end.ok_or_else(|| Error::bad(format!("{} goes on to the end of the file", kind())))?;
        if end - self.position > self.limits.header_bytes as u64 {
            return Err(Error::OverLimit(format!("{} is larger than {} bytes", kind(), self.limits.header_bytes)));
        }
        let body = self.position + header.length as u64;
        self.state = State::Collect { kind: header.kind, body, end };
        Ok(Step::Done)
    }

    fn collect(&mut self, kind: FourCc, body: u64, end: u64) -> Result<Step, Error> {
        if self.input.end() < end {
            return Ok(Step::NeedMore);
        }
        let Some(bytes) = self.input.slice(body, (end - body) as usize) else { return Ok(Step::NeedMore) };
        let start = std::mem::replace(&mut self.position, end);
        self.state = State::Header;
        match &kind {
            b"moof" => self.fragment(&bytes, start, end)?,
            b"emsg" => self.events.take(&bytes, start),
            _ => self.index(&bytes, end)?,
        }
        // The box itself, so that what follows it on the spool keeps its place.
        self.spool_until(end)?;
        self.input.release(end);
        Ok(Step::Done)
    }

    fn fragment(&mut self, moof: &Bytes, start: u64, end: u64) -> Result<(), Error> {
        let movie = self.movie.as_mut().ok_or_else(|| Error::bad("moof before moov"))?;
        if self.wait_until.is_some() {
            return Err(Error::bad("moof amid the data of a progressive file"));
        }
        self.restarted = false;
        // A range without an index turns out to be left over.
        self.spooled.end();
        let place = fragment::Place { start, end, origin: self.origin };
        if self.events.is_empty() {
            return fragment::read(moof, place, movie, self.limits.header_bytes);
        }
        let before = event::runs(movie);
        fragment::read(moof, place, movie, self.limits.header_bytes)?;
        let units = self.events.give(event::earliest(movie, &before));
        self.events.damaged += self.output.data(units);
        Ok(())
    }

    /// See [`super::Demuxer::damaged_data`].
    pub fn damaged_data(&self) -> u64 {
        self.events.damaged
    }

    /// Takes over a moov that ends at `end`, and decides how its samples will be read.
    fn index(&mut self, moov: &Bytes, end: u64) -> Result<(), Error> {
        let mut movie = Movie::parse(moov, self.origin, &self.limits)?;
        let layout = movie.layout(self.origin)?;
        if let Some(mut old) = self.movie.take() {
            if old.has_more()? {
                return Err(Error::bad("another moov comes before the samples of the last one"));
            }
            self.output.finish(&mut old);
            self.later_moov = Some(Bytes::new());
        }
        if self.origin > 0 || self.later_moov.is_some() {
            let carried = moov.len() <= super::CARRIED;
            self.later_moov = Some(if carried { Bytes::copy_from_slice(moov) } else { Bytes::new() });
        }
        self.has_table = layout.is_some();
        if let Some(resume) = &self.resume {
            movie.know(&resume.tracks, &resume.state.in_force);
        }
        self.output.announce(&movie, self.origin);
        self.movie = Some(movie);
        self.restarted = false;
        self.wait_until = None;
        match layout {
            Some(layout) if layout.first < end || !layout.ordered => {
                if self.spooled.filled_to().is_none() {
                    self.spooled.begin(self.input.start());
                }
                self.wait_until = Some(layout.end);
            }
            _ => self.spooled.end(),
        }
        Ok(())
    }

    /// Goes on to the next sample in the box, or to the box's end.
    fn pass(&mut self, end: Option<u64>) -> Result<Step, Error> {
        let stop = end.unwrap_or(u64::MAX);
        if self.spooled.filled_to().is_some() {
            self.spool_until(stop)?;
            return Ok(self.passed(stop));
        }
        let next = match &mut self.movie {
            Some(movie) => movie.first_by_offset()?,
            None => None,
        };
        let Some((track, sample)) = next.filter(|(_, sample)| sample.offset < stop) else {
            self.input.release(stop);
            return Ok(self.passed(stop));
        };
        if sample.offset < self.input.start() || sample.offset.saturating_add(sample.size.into()) > stop {
            return Err(Error::bad("a sample does not lie inside the media data"));
        }
        self.input.release(sample.offset);
        if !self.reads(track, &sample)? {
            return self.give(track, &sample, Bytes::new());
        }
        match self.input.slice(sample.offset, sample.size as usize) {
            Some(data) => self.give(track, &sample, data),
            None => Ok(Step::NeedMore),
        }
    }

    /// Writes what has come from before `end` to the spool, if a range of it is open.
    fn spool_until(&mut self, end: u64) -> Result<(), Error> {
        let come = self.input.end() >= end || self.finished;
        let worth_writing = come || self.input.end() - self.input.start() >= SPOOL_AT_ONCE;
        if self.spooled.filled_to().is_some() && worth_writing {
            while let Some(piece) = self.input.take_until(end) {
                self.spooled.append(&piece)?;
            }
        }
        Ok(())
    }

    fn passed(&mut self, stop: u64) -> Step {
        if self.input.start() < stop {
            return Step::NeedMore;
        }
        self.state = State::Header;
        Step::Done
    }

    fn read_back(&mut self, at_end: bool) -> Result<Step, Error> {
        let Some(movie) = &mut self.movie else { return Ok(Step::NeedMore) };
        let Some((index, sample)) = movie.first_by_time()? else {
            self.spooled.end();
            if at_end {
                self.conclude();
            } else {
                self.state = State::Header;
            }
            return Ok(Step::Done);
        };
        let Some(track) = movie.tracks.get_mut(index) else { return Ok(Step::NeedMore) };
        if !self.spooled.holds(sample.offset, sample.size)? {
            track.abandon();
            self.verdict = Some(Error::Truncated("samples lie past the end of the input".into()));
            return Ok(Step::Done);
        }
        // Or a small file could claim that its bytes are an endless number of samples.
        track.given = track.given.saturating_add(sample.size.into());
        if track.given > self.spooled.length() {
            return Err(Error::bad("the samples of a track lie one over the other"));
        }
        if !self.reads(index, &sample)? {
            return self.give(index, &sample, Bytes::new());
        }
        let data = match self.spooled.cached(index, sample.offset, sample.size) {
            Some(data) => data,
            None => self.read_stretch(index, &sample)?,
        };
        self.give(index, &sample, data)
    }

    fn read_stretch(&mut self, index: usize, sample: &Sample) -> Result<Bytes, Error> {
        let track = self.movie.as_mut().and_then(|movie| movie.tracks.get_mut(index));
        let stretch = track.map_or(Ok(0), |track| track.stretch(spooled::STRETCH))?;
        self.spooled.read(index, sample.offset, stretch)?;
        let data = self.spooled.cached(index, sample.offset, sample.size);
        data.ok_or_else(|| Error::ScratchFailed("fewer bytes were read than asked for".into()))
    }

    /// Whether the sample's bytes are wanted at all; an error where they are too many.
    fn reads(&self, track: usize, sample: &Sample) -> Result<bool, Error> {
        let track = self.movie.as_ref().and_then(|movie| movie.tracks.get(track));
        let wanted = track.is_some_and(|track| track.reads(sample.description));
        if wanted && sample.size as usize > self.limits.unit_bytes {
            return Err(Error::OverLimit(format!("an access unit of {} bytes", sample.size)));
        }
        Ok(wanted)
    }

    fn give(&mut self, track: usize, sample: &Sample, data: Bytes) -> Result<Step, Error> {
        let Some(movie) = &mut self.movie else { return Ok(Step::NeedMore) };
        let mut offset = self.origin;
        if let Some(track) = movie.tracks.get_mut(track) {
            let in_place = !movie.fragmented && self.spooled.filled_to().is_none();
            offset = track.moof().unwrap_or(if in_place { sample.offset } else { self.origin });
            track.advance();
        }
        self.output.sample(movie, track, (sample, offset), data, self.limits.header_bytes)?;
        Ok(Step::Done)
    }

    /// All bytes have come and none is of use any more.
    fn end(&mut self) -> Result<(), Error> {
        let cut = match self.state {
            State::Header => self.input.end() > self.position,
            State::Collect { .. } => true,
            State::Pass { end } => end.is_some(),
            State::ReadBack { .. } | State::End => false,
        };
        let waits = self.wait_until.take().is_some();
        let missing = match &mut self.movie {
            Some(movie) => !waits && movie.has_more()?,
            None => false,
        };
        let what = if self.movie.is_none() {
            Some("there is no moov in it")
        } else if cut {
            Some("it ends inside a box")
        } else if missing {
            Some("samples lie past the end of the input")
        } else {
            None
        };
        self.verdict = what.map(|what| Error::Truncated(what.into()));
        if waits {
            self.state = State::ReadBack { at_end: true };
        } else {
            self.conclude();
        }
        Ok(())
    }

    fn conclude(&mut self) {
        let units = self.events.give(None);
        self.events.damaged += self.output.data(units);
        if let Some(movie) = &mut self.movie {
            self.output.finish(movie);
        }
        self.state = State::End;
    }
}

fn out_of_place() -> Error {
    Error::bad("the stream does not go on where it was left")
}
