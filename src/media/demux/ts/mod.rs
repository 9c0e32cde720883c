//! MPEG-TS (ISO/IEC 13818-1): one programme's streams → tracks and access units.
//!
//! `packet` finds the packets, `psi` tells the programme, `pes` and `elementary` read each stream; here it is decided
//! which programme is read, when its set-up is known, and in which order all of it is told. A transport is lossy by
//! nature: damage costs what it hits and no more. What time stamps mean is left to [`crate::media::timeline`].

mod audio;
mod elementary;
mod hold;
mod packet;
mod pes;
mod picture;
mod psi;
#[cfg(test)]
mod tests;
mod video;

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Event, Limits};
use crate::media::timeline::{TIMESCALE, Timeline};
use crate::media::{AccessUnit, Error, Format, Track, TrackId};
use elementary::{Elementary, Found};
use hold::{Held, Hold, Patience};
use packet::{Continuity, Counter, Framer, Packet};
use pes::Stamps;
pub(crate) use psi::crc32;
use psi::{Association, Content, Map, Programme, Sections};

const PAT_PID: u16 = 0;
/// Bytes without a packet, or without a programme, after which the input is given up.
const SEARCH_MAX: usize = 8 << 20;

/// See [`super::Demuxer`], which this serves.
pub struct Demuxer {
    limits: Limits,
    framer: Framer,
    finished: bool,
    events: VecDeque<Event>,
    timeline: Timeline,
    association: Association,
    association_counter: Counter,
    association_sections: Sections,
    /// In the order of the PAT.
    candidates: Vec<Candidate>,
    /// program_number of the one that is read.
    programme: Option<u16>,
    streams: Vec<Stream>,
    hold: Hold,
    told: Vec<Track>,
    /// Bytes of packets until a programme was found.
    searched: usize,
    /// Bytes in all elementary streams.
    buffered: usize,
}

/// A programme of the PAT that may be read.
struct Candidate {
    programme: Programme,
    counter: Counter,
    sections: Sections,
    map: Option<Map>,
    /// Its map has come this often.
    seen: usize,
}

/// A stream of the programme that is read.
struct Stream {
    announced: psi::Stream,
    counter: Counter,
    /// Files were joined since its last packet: a jump of the counter is no loss where a PES begins.
    joined: bool,
    repeated: bool,
    pes: pes::Reader,
    /// None where it is not read.
    elementary: Option<Elementary>,
    /// The set-up that was found and told, or is about to be told.
    format: Option<Format>,
    /// Payload has come.
    heard: bool,
    /// Its set-up is waited for no longer; it is told if it comes after all.
    given_up: bool,
}

impl Demuxer {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            framer: Framer::default(),
            finished: false,
            events: VecDeque::new(),
            timeline: Timeline::default(),
            association: Association::default(),
            association_counter: Counter::default(),
            association_sections: Sections::default(),
            candidates: Vec::new(),
            programme: None,
            streams: Vec::new(),
            hold: Hold::default(),
            told: Vec::new(),
            searched: 0,
            buffered: 0,
        }
    }

    pub fn push(&mut self, data: Bytes) -> Result<(), Error> {
        self.framer.push(data);
        Ok(())
    }

    pub fn finish(&mut self) {
        self.framer.finish();
        self.finished = true;
    }

    pub fn poll(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.framer.packet() {
                Some(packet) => self.packet(&packet)?,
                None if self.framer.lost() > SEARCH_MAX => return Err(Error::bad("no transport packets")),
                None if self.finished => {
                    self.end()?;
                    return Ok(self.events.pop_front());
                }
                None => return Ok(None),
            }
        }
    }

    fn packet(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.programme.is_none() {
            self.searched += bytes.len();
            if self.searched > SEARCH_MAX {
                return Err(Error::bad("no programme in the transport stream"));
            }
        }
        if self.hold.active() {
            self.hold.transport(bytes.len());
            self.lose_patience();
        }
        let Some(packet) = Packet::parse(bytes) else { return Ok(()) };
        if packet.scrambled {
            return Ok(());
        }
        if packet.pid == PAT_PID {
            return self.association(&packet);
        }
        if let Some(index) = self.streams.iter().position(|stream| stream.announced.pid == packet.pid) {
            return self.stream(index, &packet);
        }
        if let Some(index) = self.candidates.iter().position(|candidate| candidate.programme.map == packet.pid) {
            return self.map(index, &packet);
        }
        Ok(())
    }

    fn association(&mut self, packet: &Packet) -> Result<(), Error> {
        let Some(payload) = packet.payload else { return Ok(()) };
        match self.association_counter.check(packet) {
            Continuity::Next => {}
            Continuity::Repeated if !packet.starts => return Ok(()),
            Continuity::Repeated => {}
            Continuity::Gap => {
                self.association_sections.reset();
                self.streams.iter_mut().for_each(|stream| stream.joined = true);
                self.candidates.iter_mut().for_each(|candidate| candidate.counter = Counter::default());
            }
        }
        let mut changed = false;
        let association = &mut self.association;
        self.association_sections.push(packet.starts, payload, |section| changed |= association.update(section));
        if changed {
            let mut before = std::mem::take(&mut self.candidates);
            for &programme in &self.association.programmes {
                let known = before.iter().position(|candidate| candidate.programme == programme);
                self.candidates.push(known.map_or_else(|| Candidate::new(programme), |at| before.swap_remove(at)));
            }
            if !self.candidates.iter().any(|candidate| Some(candidate.programme.number) == self.programme) {
                self.programme = None;
                self.searched = 0;
            }
            self.choose()?;
        }
        Ok(())
    }

    /// A packet on a PID that carries programme maps; several programmes may share it.
    fn map(&mut self, index: usize, packet: &Packet) -> Result<(), Error> {
        let Some(payload) = packet.payload else { return Ok(()) };
        let Some(candidate) = self.candidates.get_mut(index) else { return Ok(()) };
        match candidate.counter.check(packet) {
            Continuity::Next => {}
            Continuity::Repeated if !packet.starts => return Ok(()),
            Continuity::Repeated => {}
            Continuity::Gap => candidate.sections.reset(),
        }
        let pid = candidate.programme.map;
        let mut maps = Vec::new();
        candidate.sections.push(packet.starts, payload, |section| maps.extend(Map::parse(section)));
        for map in maps {
            let of = |candidate: &&mut Candidate| candidate.programme == Programme { number: map.number, map: pid };
            if let Some(candidate) = self.candidates.iter_mut().find(of) {
                candidate.seen += 1;
                candidate.map = Some(map);
                self.choose()?;
            }
        }
        Ok(())
    }

    /// The first programme with anything that can be decoded; one is waited for until a later one's map has come twice.
    fn choose(&mut self) -> Result<(), Error> {
        if self.programme.is_none() {
            let mut all_before_known = true;
            for candidate in &self.candidates {
                match &candidate.map {
                    Some(map) if map.decodable() && (all_before_known || candidate.seen > 1) => {
                        self.programme = Some(map.number);
                        break;
                    }
                    Some(_) => {}
                    None => all_before_known = false,
                }
            }
            // None has anything: then the first is listed, so that the client learns what there is.
            if self.programme.is_none() && all_before_known {
                self.programme = self.candidates.first().map(|candidate| candidate.programme.number);
            }
        }
        self.read_programme()
    }

    /// Takes over the streams of the chosen programme's map, where they are not those that are read already.
    fn read_programme(&mut self) -> Result<(), Error> {
        let chosen = self.candidates.iter().find(|candidate| Some(candidate.programme.number) == self.programme);
        let Some(map) = chosen.and_then(|candidate| candidate.map.as_ref()) else { return Ok(()) };
        if map.streams.iter().eq(self.streams.iter().map(|stream| &stream.announced)) {
            return Ok(());
        }
        if map.streams.len() > self.limits.tracks {
            return Err(Error::OverLimit(format!("more than {} tracks", self.limits.tracks)));
        }
        let announced = map.streams.clone();
        self.replace_streams(announced)
    }

    fn replace_streams(&mut self, announced: Vec<psi::Stream>) -> Result<(), Error> {
        let same = |new: &psi::Stream, stream: &Stream| {
            (new.pid, &new.content) == (stream.announced.pid, &stream.announced.content)
        };
        for index in 0..self.streams.len() {
            let stays = |stream: &Stream| announced.iter().any(|new| same(new, stream));
            if !self.streams.get(index).is_some_and(stays) {
                self.flush(index);
            }
        }
        if self.hold.active() && !self.told.is_empty() {
            self.release();
        }
        let mut before = std::mem::take(&mut self.streams);
        for new in announced {
            let known = before.iter().position(|stream| same(&new, stream));
            self.streams.push(match known {
                Some(at) => Stream { announced: new, ..before.swap_remove(at) },
                None => Stream::new(new, self.limits.unit_bytes),
            });
        }
        self.buffered = self.streams.iter().map(Stream::buffered).sum();
        let streams = &self.streams;
        self.hold.keep(|track| streams.iter().any(|stream| stream.track() == track));
        self.hold.start();
        self.settle();
        Ok(())
    }

    fn stream(&mut self, index: usize, packet: &Packet) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(index) else { return Ok(()) };
        let Some(elementary) = &mut stream.elementary else { return Ok(()) };
        let Some(payload) = packet.payload else {
            if packet.discontinuity {
                stream.counter = Counter::default();
            }
            return Ok(());
        };
        let before = elementary.buffered();
        let joined = std::mem::take(&mut stream.joined);
        let repeated = std::mem::take(&mut stream.repeated);
        match stream.counter.check(packet) {
            Continuity::Next => {}
            Continuity::Repeated if !repeated && elementary.ends_with(payload) => {
                stream.repeated = true;
                return Ok(());
            }
            Continuity::Repeated | Continuity::Gap if joined && packet.starts => {}
            Continuity::Repeated | Continuity::Gap => {
                stream.pes.reset();
                elementary.reset();
            }
        }
        stream.heard = true;
        let step = stream.pes.push(packet.starts, payload);
        let mut found = Vec::new();
        if step.closed {
            elementary.end(&mut found);
        }
        if let Some(stamps) = step.began {
            let unroll = |Stamps { pts, dts }| {
                let dts = self.timeline.unroll(dts);
                (self.timeline.unroll(pts), dts)
            };
            elementary.begin(stamps.map(unroll), &mut found);
        }
        elementary.data(step.data, &mut found)?;
        if step.complete {
            elementary.end(&mut found);
        }
        self.buffered = self.buffered + elementary.buffered() - before;
        if self.buffered > self.limits.unit_bytes.saturating_mul(2) {
            return Err(Error::OverLimit("unfinished access units of all tracks".into()));
        }
        self.found(index, found);
        Ok(())
    }

    fn found(&mut self, index: usize, found: Vec<Found>) {
        let Some(stream) = self.streams.get(index) else { return };
        let track = TrackId(u32::from(stream.announced.pid));
        for found in found {
            match found {
                Found::Format(format) => self.format(track, format),
                Found::Unit(unit) => self.unit(AccessUnit {
                    track,
                    pts: unit.pts,
                    dts: unit.dts,
                    duration: None,
                    sync: unit.sync,
                    offset: 0,
                    data: unit.data,
                }),
            }
        }
    }

    fn format(&mut self, track: TrackId, format: Format) {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.track() == track) else { return };
        if self.hold.active() && stream.format.is_some() {
            self.hold.format(track, format);
            return;
        }
        stream.format = Some(format);
        if self.hold.active() {
            self.settle();
        } else {
            self.tell();
        }
    }

    fn unit(&mut self, unit: AccessUnit) {
        if !self.hold.active() {
            let of = |stream: &&Stream| stream.track() == unit.track;
            if self.streams.iter().find(of).is_some_and(Stream::readable) {
                self.events.push_back(Event::Unit(unit));
            }
            return;
        }
        self.hold.unit(unit);
        self.lose_patience();
    }

    fn lose_patience(&mut self) {
        let streams = &mut self.streams;
        let mut patience = self.hold.patience();
        if patience == Patience::Full {
            let known = |stream: &Stream| stream.format.is_some();
            self.hold.keep(|track| streams.iter().any(|stream| stream.track() == track && known(stream)));
            patience = match self.hold.patience() {
                Patience::Full => Patience::Ended,
                other => other,
            };
        }
        let given_up = |stream: &Stream| match patience {
            Patience::Waits | Patience::Full => false,
            Patience::OnlyForHeard => !stream.heard,
            Patience::Ended => true,
        };
        streams.iter_mut().for_each(|stream| stream.given_up |= given_up(stream));
        self.settle();
    }

    /// Tells the tracks and what was held, once no stream is waited for.
    fn settle(&mut self) {
        if self.hold.active() && !self.streams.iter().any(Stream::pending) {
            self.release();
        }
    }

    fn release(&mut self) {
        let held = self.hold.take();
        self.tell();
        for held in held {
            match held {
                Held::Format(track, format) => self.format(track, format),
                Held::Unit(unit) => self.unit(unit),
            }
        }
    }

    /// Says all tracks, where they are not as they were said before.
    fn tell(&mut self) {
        let tracks: Vec<Track> = self.streams.iter().map(Stream::describe).collect();
        if tracks != self.told {
            self.told.clone_from(&tracks);
            self.events.push_back(Event::Tracks(tracks));
        }
    }

    /// Gives what is left of a stream that has ended.
    fn flush(&mut self, index: usize) {
        let Some(stream) = self.streams.get_mut(index) else { return };
        let whole = stream.pes.finish();
        let mut found = Vec::new();
        if let Some(elementary) = stream.elementary.as_mut().filter(|_| whole) {
            elementary.flush(&mut found);
        }
        self.found(index, found);
    }

    fn end(&mut self) -> Result<(), Error> {
        if self.programme.is_none() {
            let maps = || self.candidates.iter().filter_map(|candidate| candidate.map.as_ref());
            self.programme = maps().find(|map| map.decodable()).or(maps().next()).map(|map| map.number);
            self.read_programme()?;
        }
        for index in 0..self.streams.len() {
            self.flush(index);
        }
        if self.hold.active() {
            self.release();
        }
        if self.told.is_empty() {
            return Err(Error::Truncated("the transport stream ends before its programme map".into()));
        }
        Ok(())
    }
}

impl Candidate {
    fn new(programme: Programme) -> Self {
        Self { programme, counter: Counter::default(), sections: Sections::default(), map: None, seen: 0 }
    }
}

impl Stream {
    fn new(announced: psi::Stream, unit_bytes: usize) -> Self {
        let elementary = Elementary::new(&announced.content, &announced.name, unit_bytes);
        Self {
            announced,
            counter: Counter::default(),
            joined: false,
            repeated: false,
            pes: pes::Reader::default(),
            elementary,
            format: None,
            heard: false,
            given_up: false,
        }
    }

    fn track(&self) -> TrackId {
        TrackId(u32::from(self.announced.pid))
    }

    fn buffered(&self) -> usize {
        self.elementary.as_ref().map_or(0, Elementary::buffered)
    }

    /// Its set-up may still come, and is waited for.
    fn pending(&self) -> bool {
        self.elementary.is_some() && self.format.is_none() && !self.given_up
    }

    fn readable(&self) -> bool {
        matches!(self.format, Some(Format::Video(_) | Format::Audio(_)))
    }

    fn describe(&self) -> Track {
        let kind = match self.announced.content {
            Content::Video(_) => "video",
            Content::Audio(_) | Content::Latm => "audio",
            Content::Other { kind } => kind,
        };
        let other = || Format::Other { kind: kind.into(), codec: self.announced.name.clone() };
        Track {
            id: self.track(),
            timescale: TIMESCALE,
            language: self.announced.language.clone(),
            format: self.format.clone().unwrap_or_else(other),
        }
    }
}
