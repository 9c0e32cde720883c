//! MPEG-TS (ISO/IEC 13818-1): one programme's streams → tracks and access units.
//!
//! `packet` finds the packets, `psi` tells the programme, `pes` and `elementary` read each stream; here it is decided
//! which programme is read, when its set-up is known, and in which order all of it is told. A transport is lossy by
//! nature: damage costs what it hits and no more. What time stamps mean is left to [`crate::media::timeline`].

mod audio;
mod data;
mod elementary;
mod hold;
#[cfg(test)]
mod laden_tests;
mod packet;
mod pes;
mod picture;
mod psi;
#[cfg(test)]
mod tests;
mod video;

use std::collections::VecDeque;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Event, Limits};
use crate::media::codec::latm;
use crate::media::data::scte35;
use crate::media::timeline::{TIMESCALE, Timeline};
use crate::media::{AccessUnit, DataKind, DataUnit, Error, Format, Ticks, Track, TrackId};
use data::Data;
use elementary::{Elementary, Found};
use hold::{Held, Hold, Patience};
use packet::{Continuity, Counter, Framer, PACKET, Packet};
use pes::Stamps;
pub(crate) use psi::crc32;
use psi::{Association, Content, Map, Programme, Sections};

const PAT_PID: u16 = 0;
/// Bytes without a packet, or without a programme, after which the input is given up.
const SEARCH_MAX: usize = 8 << 20;
/// Units of data that wait for the first time stamp.
const EARLY_MAX: usize = 256;
/// Streams of data whose unfinished units a [`State`] carries.
const PIECED_MAX: usize = 4;

/// Scrambled packets after which a stream is taken to be scrambled.
const SCRAMBLED_MAX: usize = 200;

/// Packets of the PAT that are remembered.
const ASSOCIATIONS: usize = 1024;

/// See [`super::Demuxer`], which this serves.
pub struct Demuxer {
    limits: Limits,
    framer: Framer,
    finished: bool,
    events: VecDeque<Event>,
    /// What a packet brought, while it is read.
    found: Vec<Found>,
    timeline: Timeline,
    association: Association,
    association_counter: Counter,
    association_sections: Sections,
    /// Where the last packets of the PAT lie, and their counters: a jump tells that files were joined.
    associations: VecDeque<(u64, u8)>,
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
    /// Where the first PES begins: what is before it is set-up.
    first_pes: Option<u64>,
    /// The first PES of the programme that comes lies here, and nothing before it matters.
    resume_at: Option<u64>,
    /// Units of data before the first time stamp, and what they say of their time.
    early: Vec<(DataUnit, Option<u64>)>,
    /// Units of data that were passed over, less those of streams that are still read.
    damaged_data: u64,
}

/// What has to be known, besides the tracks, to go on in the middle of a transport stream. See [`super::State`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    reference: Option<Ticks>,
    /// The counter of the last packet of the PAT.
    counter: Option<u8>,
    /// The PID of the programme's map, and the section itself.
    map: u16,
    section: Vec<u8>,
    /// Those of the streams of LATM, by PID: a stream may tell its own only once.
    multiplexes: Vec<(u16, latm::Multiplex)>,
    /// Of units of data that are not whole, by PID.
    pieces: Vec<(u16, Vec<data::Piece>)>,
}

/// A programme of the PAT that may be read.
struct Candidate {
    programme: Programme,
    counter: Counter,
    sections: Sections,
    map: Option<Map>,
    /// The section that `map` was read from.
    section: Vec<u8>,
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
    /// Where it is data that is handed on.
    data: Option<Data>,
    /// The payload of its last packet, where it is data.
    last: Vec<u8>,
    /// The set-up that was found and told, or is about to be told.
    format: Option<Format>,
    /// Where in the input its last PES begins.
    begins: u64,
    /// Payload has come.
    heard: bool,
    /// Packets that came scrambled before that.
    scrambled: usize,
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
            found: Vec::new(),
            timeline: Timeline::default(),
            association: Association::default(),
            association_counter: Counter::default(),
            association_sections: Sections::default(),
            associations: VecDeque::new(),
            candidates: Vec::new(),
            programme: None,
            streams: Vec::new(),
            hold: Hold::default(),
            told: Vec::new(),
            searched: 0,
            buffered: 0,
            early: Vec::new(),
            damaged_data: 0,
            first_pes: None,
            resume_at: None,
        }
    }

    /// Goes on at `offset` as if all before it had been read. `tracks`: as they were told last.
    pub fn resume(limits: Limits, (offset, set_up_bytes): (u64, u64), tracks: &[Track], state: &State) -> Self {
        let mut demuxer = Self::new(limits);
        let Some(map) = Map::parse(&state.section).filter(|map| map.streams.len() <= limits.tracks) else {
            return demuxer;
        };
        let programme = Programme { number: map.number, map: state.map };
        demuxer.timeline = Timeline::from(state.reference);
        demuxer.association.programmes = vec![programme];
        demuxer.association_counter = Counter::after(state.counter);
        demuxer.programme = Some(map.number);
        for announced in map.streams.clone() {
            let mut stream = Stream::new(announced, limits.unit_bytes);
            if let Some(known) = tracks.iter().find(|track| track.id == stream.track()) {
                stream.know(&known.format);
            }
            let of = |(pid, _): &&(u16, _)| *pid == stream.announced.pid;
            if let (Some(elementary), Some((_, known))) = (&mut stream.elementary, state.multiplexes.iter().find(of)) {
                elementary.know_multiplex(known);
            }
            let of = |(pid, _): &&(u16, _)| *pid == stream.announced.pid;
            if let (Some(data), Some((_, pieces))) = (&mut stream.data, state.pieces.iter().find(of)) {
                data.resume(pieces);
            }
            demuxer.streams.push(stream);
        }
        let section = state.section.clone();
        demuxer.candidates.push(Candidate { map: Some(map), section, seen: 1, ..Candidate::new(programme) });
        demuxer.told = tracks.to_vec();
        demuxer.first_pes = Some(set_up_bytes);
        demuxer.resume_at = Some(offset);
        demuxer
    }

    /// How to go on at `offset`, or before it where units that have not been given begin there. None while no programme
    /// is read.
    pub fn state(&self, offset: u64) -> Option<(u64, State)> {
        let given = self.events.iter().filter_map(|event| match event {
            Event::Tracks { offset, .. } => Some(*offset),
            Event::Unit(unit) => Some(unit.offset),
            // One goes on at pictures or sound only.
            Event::Data(_) => None,
        });
        let offset = given.chain([self.unfinished(), offset]).min().unwrap_or(offset);
        let chosen = self.candidates.iter().find(|candidate| Some(candidate.programme.number) == self.programme)?;
        let section = chosen.section.clone();
        let counter = self.associations.iter().find(|(at, _)| *at < offset).map(|(_, counter)| *counter);
        let multiplexes = self.streams.iter().filter_map(|stream| {
            let multiplex = stream.elementary.as_ref()?.multiplex(offset)?;
            Some((stream.announced.pid, multiplex))
        });
        let pieces = self.streams.iter().filter_map(|stream| {
            let pieces = stream.data.as_ref()?.pieces(offset);
            (!pieces.is_empty()).then_some((stream.announced.pid, pieces))
        });
        let state = State {
            pieces: pieces.take(PIECED_MAX).collect(),
            reference: self.timeline.reference(),
            counter,
            map: chosen.programme.map,
            section,
            multiplexes: multiplexes.collect(),
        };
        Some((offset, state))
    }

    /// How many bytes of the input are set-up: those before the first PES.
    pub fn set_up_bytes(&self) -> u64 {
        self.first_pes.unwrap_or(0)
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
        let mut packet = [0; PACKET];
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            if self.framer.packet(&mut packet) {
                self.packet(&packet)?;
            } else if self.framer.lost() > SEARCH_MAX {
                return Err(Error::bad("no transport packets"));
            } else if self.finished {
                self.end()?;
                return Ok(self.events.pop_front());
            } else {
                return Ok(None);
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
            return self.scrambled(packet.pid);
        }
        if begins_pes(&packet) && !self.is_where_to_go_on(&packet) {
            return Ok(());
        }
        if self.resume_at.is_some() {
            return Ok(());
        }
        if packet.pid == PAT_PID {
            return self.association(&packet);
        }
        if let Some(index) = self.streams.iter().position(|stream| stream.announced.pid == packet.pid) {
            if self.streams.get(index).is_some_and(|stream| stream.data.is_some()) {
                self.data(index, &packet);
                return Ok(());
            }
            return self.stream(index, &packet);
        }
        if let Some(index) = self.candidates.iter().position(|candidate| candidate.programme.map == packet.pid) {
            return self.map(index, &packet);
        }
        Ok(())
    }

    /// A stream of which nothing else has come is not waited for.
    fn scrambled(&mut self, pid: u16) -> Result<(), Error> {
        let of = |stream: &&mut Stream| stream.announced.pid == pid && stream.elementary.is_some() && !stream.heard;
        if let Some(stream) = self.streams.iter_mut().find(of) {
            stream.scrambled = stream.scrambled.saturating_add(1);
            stream.given_up |= stream.scrambled > SCRAMBLED_MAX;
            self.settle();
        }
        Ok(())
    }

    /// Takes note of where media begins; false for a PES before the one at which a resumed stream goes on.
    fn is_where_to_go_on(&mut self, packet: &Packet) -> bool {
        self.first_pes.get_or_insert(self.framer.at());
        if self.resume_at.is_none() {
            return true;
        }
        let read = |stream: &Stream| stream.announced.pid == packet.pid && stream.elementary.is_some();
        if !self.streams.iter().any(read) {
            return false;
        }
        if let Some(offset) = self.resume_at.take() {
            self.framer.move_to(offset);
        }
        true
    }

    fn association(&mut self, packet: &Packet) -> Result<(), Error> {
        let Some(payload) = packet.payload else { return Ok(()) };
        self.associations.truncate(ASSOCIATIONS - 1);
        self.associations.push_front((self.framer.at(), packet.counter));
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
        let mut sections = std::mem::take(&mut candidate.sections);
        let mut done = Ok(());
        sections.push(packet.starts, payload, |section| {
            if done.is_ok() {
                done = self.section_of_map(pid, section);
            }
        });
        if let Some(candidate) = self.candidates.get_mut(index) {
            candidate.sections = sections;
        }
        done
    }

    fn section_of_map(&mut self, pid: u16, section: &[u8]) -> Result<(), Error> {
        // Ten times a second a map says again what is known.
        let same = |candidate: &&mut Candidate| candidate.programme.map == pid && candidate.section == section;
        if let Some(candidate) = self.candidates.iter_mut().find(same) {
            candidate.seen += 1;
            return self.choose();
        }
        let Some(map) = Map::parse(section) else { return Ok(()) };
        let of = |candidate: &&mut Candidate| candidate.programme == Programme { number: map.number, map: pid };
        if let Some(candidate) = self.candidates.iter_mut().find(of) {
            candidate.seen += 1;
            candidate.map = Some(map);
            candidate.section = section.to_vec();
            self.choose()?;
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
        self.damaged_data += before.iter().map(Stream::damaged).sum::<u64>();
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
        if packet.starts {
            stream.begins = self.framer.at();
        }
        let step = stream.pes.push(packet.starts, payload);
        let found = &mut self.found;
        if step.closed {
            elementary.end(found);
        }
        if let Some(stamps) = step.began {
            let unroll = |Stamps { pts, dts }| {
                let dts = self.timeline.unroll(dts);
                (self.timeline.unroll(pts), dts)
            };
            elementary.begin(stamps.map(unroll), stream.begins, found);
        }
        elementary.data(step.data, found)?;
        if step.complete {
            elementary.end(found);
        }
        self.buffered = self.buffered + elementary.buffered() - before;
        if self.buffered > self.limits.unit_bytes.saturating_mul(2) {
            return Err(Error::OverLimit("unfinished access units of all tracks".into()));
        }
        self.found(index);
        if !self.early.is_empty() && self.timeline.reference().is_some() {
            self.tell_early();
        }
        Ok(())
    }

    /// A packet of a stream of data.
    fn data(&mut self, index: usize, packet: &Packet) {
        let Some(stream) = self.streams.get_mut(index) else { return };
        let (Some(data), Some(payload)) = (&mut stream.data, packet.payload) else { return };
        match stream.counter.check(packet) {
            Continuity::Next => {}
            Continuity::Repeated if stream.last == payload => return,
            Continuity::Repeated | Continuity::Gap => data.reset(),
        }
        stream.last.clear();
        stream.last.extend_from_slice(payload);
        let mut found = Vec::new();
        data.push(packet.starts, payload, self.framer.at(), &mut found);
        self.found_data(index, found);
    }

    fn found_data(&mut self, index: usize, found: Vec<data::Found>) {
        let Some(stream) = self.streams.get(index) else { return };
        let Content::Data(carried) = stream.announced.content else { return };
        let track = Some(stream.track());
        for data::Found { stamp, data, offset } in found {
            let unit = DataUnit {
                track,
                kind: carried.kind(),
                pts: Ticks::default(),
                timescale: TIMESCALE,
                duration: None,
                emsg: None,
                offset,
                data,
            };
            if self.timeline.reference().is_some() {
                self.tell_data(unit, stamp);
            } else if self.early.len() < EARLY_MAX {
                self.early.push((unit, stamp));
            } else {
                self.damaged_data += 1;
            }
        }
    }

    fn tell_early(&mut self) {
        for (unit, stamp) in std::mem::take(&mut self.early) {
            self.tell_data(unit, stamp);
        }
    }

    /// Gives a unit its place on the timeline: what it says of it, or else now.
    fn tell_data(&mut self, mut unit: DataUnit, stamp: Option<u64>) {
        let latest = self.timeline.reference().unwrap_or_default();
        unit.pts = match stamp {
            Some(stamp) => self.timeline.near(stamp).unwrap_or(Ticks(stamp as i64)),
            None => latest,
        };
        if unit.kind == DataKind::Scte35 {
            unit.duration = scte35::Splice::parse(&unit.data).and_then(|splice| splice.length());
        }
        if self.hold.active() {
            self.hold.data(unit);
        } else {
            self.events.push_back(Event::Data(unit));
        }
    }

    /// See [`super::Demuxer::damaged_data`].
    pub fn damaged_data(&self) -> u64 {
        self.damaged_data + self.streams.iter().map(Stream::damaged).sum::<u64>()
    }

    /// Hands on what was found in a stream.
    fn found(&mut self, index: usize) {
        let Some(track) = self.streams.get(index).map(Stream::track) else { return };
        let mut found = std::mem::take(&mut self.found);
        for found in found.drain(..) {
            match found {
                Found::Format(format, offset) => self.format(track, format, offset),
                Found::Unit(unit) => self.unit(AccessUnit {
                    track,
                    pts: unit.pts,
                    dts: unit.dts,
                    duration: None,
                    sync: unit.sync,
                    offset: unit.offset,
                    data: unit.data,
                }),
            }
        }
        self.found = found;
    }

    fn format(&mut self, track: TrackId, format: Format, offset: u64) {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.track() == track) else { return };
        if self.hold.active() && stream.format.is_some() {
            self.hold.format(track, format, offset);
            return;
        }
        stream.format = Some(format);
        if self.hold.active() {
            self.settle();
        } else {
            self.tell(offset);
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
            let known = |stream: &Stream| stream.format.is_some() || stream.data.is_some();
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
        let offset = |held: &Held| match held {
            Held::Format(_, _, offset) => *offset,
            Held::Unit(unit) => unit.offset,
            Held::Data(unit) => unit.offset,
        };
        self.tell(held.iter().map(offset).min().unwrap_or(u64::MAX));
        for held in held {
            match held {
                Held::Format(track, format, offset) => self.format(track, format, offset),
                Held::Unit(unit) => self.unit(unit),
                Held::Data(unit) => self.events.push_back(Event::Data(unit)),
            }
        }
    }

    /// Says all tracks, where they are not as they were said before. `next`: the least offset of the units that are
    /// going to be given right after it.
    fn tell(&mut self, next: u64) {
        let tracks: Vec<Track> = self.streams.iter().map(Stream::describe).collect();
        if tracks != self.told {
            self.told.clone_from(&tracks);
            let offset = self.unfinished().min(next);
            self.events.push_back(Event::Tracks { tracks, offset });
        }
    }

    /// Where the first PES begins of which units are still to come.
    fn unfinished(&self) -> u64 {
        let open = self.streams.iter().filter_map(|stream| {
            let unit = stream.elementary.as_ref()?.offset();
            unit.into_iter().chain(stream.pes.is_open().then_some(stream.begins)).min()
        });
        open.chain([self.framer.at()]).min().unwrap_or_default()
    }

    /// Gives what is left of a stream that has ended.
    fn flush(&mut self, index: usize) {
        let Some(stream) = self.streams.get_mut(index) else { return };
        if let Some(data) = &mut stream.data {
            let mut found = Vec::new();
            data.flush(&mut found);
            return self.found_data(index, found);
        }
        let whole = stream.pes.finish();
        if let Some(elementary) = stream.elementary.as_mut().filter(|_| whole) {
            elementary.flush(&mut self.found);
        }
        self.found(index);
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
        let silent = |stream: &Stream| !stream.heard && stream.scrambled == 0;
        let read = self.streams.iter().filter(|stream| stream.elementary.is_some());
        if self.told.is_empty() && read.clone().count() > 0 && read.clone().all(silent) {
            return Err(Error::Truncated("the transport stream ends before any of its streams has begun".into()));
        }
        self.tell_early();
        if self.hold.active() {
            self.release();
        }
        if self.told.is_empty() {
            return Err(Error::Truncated("the transport stream ends before its programme map".into()));
        }
        Ok(())
    }
}

/// Whether a packet begins a PES, whatever stream it is of.
fn begins_pes(packet: &Packet) -> bool {
    packet.starts && packet.payload.is_some_and(|payload| payload.starts_with(&[0, 0, 1]))
}

impl Candidate {
    fn new(programme: Programme) -> Self {
        Self {
            programme,
            counter: Counter::default(),
            sections: Sections::default(),
            map: None,
            section: Vec::new(),
            seen: 0,
        }
    }
}

impl Stream {
    fn new(announced: psi::Stream, unit_bytes: usize) -> Self {
        let elementary = Elementary::new(&announced.content, &announced.name, unit_bytes);
        let data = if let Content::Data(carried) = announced.content { Some(Data::new(carried)) } else { None };
        Self {
            announced,
            counter: Counter::default(),
            joined: false,
            repeated: false,
            pes: pes::Reader::default(),
            elementary,
            data,
            last: Vec::new(),
            format: None,
            begins: 0,
            heard: false,
            scrambled: 0,
            given_up: false,
        }
    }

    /// Takes over what is known of a stream in whose middle one goes on.
    fn know(&mut self, format: &Format) {
        self.heard = true;
        self.given_up = true;
        if let Format::Video(_) | Format::Audio(_) = format {
            self.format = Some(format.clone());
            if let Some(elementary) = &mut self.elementary {
                elementary.set_up(format);
            }
        }
    }

    fn track(&self) -> TrackId {
        TrackId(u32::from(self.announced.pid))
    }

    fn buffered(&self) -> usize {
        self.elementary.as_ref().map_or(0, Elementary::buffered)
    }

    fn damaged(&self) -> u64 {
        self.data.as_ref().map_or(0, Data::damaged)
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
            Content::Data(_) => "data",
            Content::Other { kind } => kind,
        };
        let name = &self.announced.name;
        let scrambled = !self.heard && self.scrambled > 0;
        let codec = || match self.elementary {
            _ if scrambled => format!("{name} (scrambled)"),
            Some(_) => format!("{name}{}", Format::UNDESCRIBED),
            None => name.clone(),
        };
        let other = || Format::Other { kind: kind.into(), codec: codec() };
        Track {
            id: self.track(),
            timescale: TIMESCALE,
            language: self.announced.language.clone(),
            format: self.format.clone().unwrap_or_else(other),
        }
    }
}
