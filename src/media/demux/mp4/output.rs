//! Samples → events: puts sample descriptions in force, finds set-ups that only the units tell, and holds units back
//! until all tracks are known.

use std::collections::VecDeque;

use bytes::Bytes;

use super::description::Description;
use super::movie::Movie;
use super::sample_table::Sample;
use super::unit;
use crate::media::demux::Event;
use crate::media::{AccessUnit, DataUnit, Error, Sync, Ticks};

/// What an access unit takes beside its data, about.
const UNIT_OVERHEAD: usize = 128;

/// Data units that are held back with the access units.
const HELD_DATA: usize = 256;

/// Events on their way out.
#[derive(Debug, Default)]
pub struct Output {
    ready: VecDeque<Event>,
    /// The tracks are to be told before any further unit.
    announce: bool,
    /// Where in the input they would be told again.
    announced_at: u64,
    held: Vec<AccessUnit>,
    held_bytes: usize,
    held_data: Vec<DataUnit>,
}

impl Output {
    pub fn pop(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// A moov has been read, of a file that begins at `origin` of the input.
    pub fn announce(&mut self, movie: &Movie, origin: u64) {
        self.held.clear();
        self.held_bytes = 0;
        self.announce_from(origin);
        self.release(movie);
    }

    /// Event messages have been read; returns how many of them could not be held.
    pub fn data(&mut self, mut units: Vec<DataUnit>) -> u64 {
        if !self.announce {
            self.ready.extend(units.into_iter().map(Event::Data));
            return 0;
        }
        let room = HELD_DATA.saturating_sub(self.held_data.len());
        let over = units.len().saturating_sub(room);
        units.truncate(room);
        self.held_data.extend(units);
        over as u64
    }

    /// The tracks are to be told; a unit of `offset` is the first that needs it.
    fn announce_from(&mut self, offset: u64) {
        self.announced_at = if self.announce { self.announced_at.min(offset) } else { offset };
        self.announce = true;
    }

    /// A sample has been read, with its unit's offset. `limit`: bytes of units that may be held back.
    pub fn sample(
        &mut self,
        movie: &mut Movie,
        index: usize,
        (sample, offset): (&Sample, u64),
        data: Bytes,
        limit: usize,
    ) -> Result<(), Error> {
        let Some(track) = movie.tracks.get_mut(index) else { return Ok(()) };
        // Some muxers write 0 for the only description.
        let in_force = sample.description.max(1);
        if track.in_force != in_force {
            track.switch(in_force)?;
            self.announce_from(offset);
        }
        let Some(description) = track.description().filter(|d| d.wanted()) else {
            self.release(movie);
            return Ok(());
        };
        let codec = description.video_codec();
        let data = match codec {
            Some(codec) => unit::normalise(data, codec, description.nal_length),
            None => data,
        };
        if data.is_empty() {
            // Delimiters and padding make no picture.
            self.release(movie);
            return Ok(());
        }
        let told = match &mut track.sets {
            // Of a kind that is not read here: the decoder is left to say so.
            Some(sets) => {
                let video = sets.take(&data).ok().flatten();
                video.and_then(|video| Some(track.description()?.dress(video)))
            }
            None if !track.known => track.description().and_then(|description| description.derive(&data)),
            None => None,
        };
        if let Some(format) = told {
            track.track.format = format;
            if std::mem::replace(&mut track.known, true) {
                self.announce_from(offset);
            }
        }
        let dts = Ticks(sample.dts) + Ticks(track.edits.shift);
        let sync = match codec {
            Some(codec) => unit::sync(&data, codec, sample.sync),
            None => Sync::Idr,
        };
        let data = match &track.sets {
            Some(sets) => sets.dress(data, sync != Sync::No),
            None => data,
        };
        if data.is_empty() {
            self.release(movie);
            return Ok(());
        }
        let unit = AccessUnit {
            track: track.track.id,
            pts: dts + Ticks(sample.composition.into()),
            dts,
            duration: (sample.duration > 0).then_some(Ticks(sample.duration.into())),
            sync,
            offset,
            data,
        };
        self.held_bytes += unit.data.len() + UNIT_OVERHEAD;
        self.held.push(unit);
        self.release(movie);
        if let Some(unit) = self.held.last_mut() {
            // What waits is counted by its own length, so it must not hold on to the larger piece that it came in.
            unit.data = Bytes::copy_from_slice(&unit.data);
        }
        if self.held_bytes > limit {
            return Err(Error::bad("a track's set-up is neither in its sample description nor in its first samples"));
        }
        Ok(())
    }

    /// No more samples will come: tracks whose set-up never came are listed as such.
    pub fn finish(&mut self, movie: &mut Movie) {
        for track in movie.tracks.iter_mut().filter(|t| !t.known) {
            if let Some(format) = track.description().map(Description::unknown) {
                track.track.format = format;
            }
            track.known = true;
            self.held.retain(|unit| unit.track != track.track.id);
        }
        self.release(movie);
    }

    fn release(&mut self, movie: &Movie) {
        if self.announce {
            if movie.tracks.iter().any(|t| !t.known) {
                return;
            }
            self.announce = false;
            let tracks = movie.tracks.iter().map(|t| t.track.clone()).collect();
            self.ready.push_back(Event::Tracks { tracks, offset: self.announced_at });
        }
        self.held_bytes = 0;
        self.ready.extend(self.held_data.drain(..).map(Event::Data));
        self.ready.extend(self.held.drain(..).map(Event::Unit));
    }
}
