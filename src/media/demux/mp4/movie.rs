//! moov (ISO/IEC 14496-12 8.2): tracks with their timescales, edit lists, sample descriptions and sample tables.

use std::collections::VecDeque;

use bytes::Bytes;

use super::boxes::{self, FourCc, Reader};
use super::description::{self, Description, Setup};
use super::edits::Edits;
use super::fragment::{Defaults, Run};
use super::sample_table::{Cursor, Layout, Sample, SampleTable};
use crate::media::codec::sets::InForce;
use crate::media::demux::Limits;
use crate::media::{Error, Format, Timescale, Track, TrackId};

/// Samples before the start of the presentation that are looked at for one to begin with.
const LOOKED_AT: usize = 1 << 20;
/// Most pictures that one is decoded ahead of its presentation.
const REORDERED: usize = 32;

/// What a moov says, and how far its samples have been read.
#[derive(Debug)]
pub struct Movie {
    pub tracks: Vec<TrackState>,
    /// A fragment has come that does not say when it begins.
    pub untimed: bool,
    /// Fragments may follow (mvex).
    pub fragmented: bool,
}

/// One trak, and what is still to be read of it.
#[derive(Debug)]
pub struct TrackState {
    /// As told to the caller; its format is that of the description in force, once that is known.
    pub track: Track,
    /// False while the set-up waits for a unit that tells it.
    pub known: bool,
    pub descriptions: Vec<Description>,
    /// Index into the sample descriptions, from 1, of what `track` tells.
    pub in_force: u32,
    /// The parameter sets in force, for H.264 and H.265.
    pub sets: Option<InForce>,
    pub edits: Edits,
    /// Samples of the table before this one, from 0, are of no use: they are not presented, nor needed for others.
    needed_from: u32,
    pub defaults: Defaults,
    table: SampleTable,
    cursor: Cursor,
    pub runs: VecDeque<Run>,
    /// Where the last fragment ended.
    pub next_dts: i64,
    /// Bytes of samples read from the spool.
    pub given: u64,
    peeked: Option<Sample>,
    /// Where the moof of the peeked sample starts; None where the sample table has it.
    moof: Option<u64>,
    finished: bool,
}

impl Movie {
    /// Reads the body of moov. `origin` is where the file starts in the input.
    pub fn parse(moov: &Bytes, origin: u64, limits: &Limits) -> Result<Self, Error> {
        let mvhd = boxes::child(moov, *b"mvhd").ok_or_else(|| Error::bad("moov without mvhd"))?;
        let movie_scale = header_scale(&mvhd)?.0;
        let mut movie = Self { tracks: Vec::new(), untimed: false, fragmented: false };
        let mut defaults = Vec::new();
        for child in boxes::children(moov) {
            let child = child?;
            match &child.kind {
                b"trak" if movie.tracks.len() >= limits.tracks => {
                    return Err(Error::OverLimit(format!("more than {} tracks", limits.tracks)));
                }
                b"trak" => movie.tracks.push(TrackState::parse(&child.body, movie_scale, origin)?),
                b"mvex" => {
                    movie.fragmented = true;
                    defaults.push(child.body);
                }
                _ => {}
            }
        }
        for trex in defaults.iter().flat_map(boxes::children).filter_map(Result::ok).filter(|b| &b.kind == b"trex") {
            movie.read_defaults(&boxes::full(&trex.body)?.2)?;
        }
        for (i, track) in movie.tracks.iter().enumerate() {
            if movie.tracks.iter().take(i).any(|other| other.track.id == track.track.id) {
                return Err(Error::bad(format!("two tracks have the number {}", track.track.id.0)));
            }
        }
        Ok(movie)
    }

    fn read_defaults(&mut self, trex: &Bytes) -> Result<(), Error> {
        let mut reader = Reader::new(trex);
        let id = reader.u32()?;
        if let Some(track) = self.tracks.iter_mut().find(|t| t.track.id.0 == id) {
            track.defaults = Defaults {
                description: reader.u32()?,
                duration: reader.u32()?,
                size: reader.u32()?,
                flags: reader.u32()?,
            };
        }
        Ok(())
    }

    /// Where the samples of all sample tables lie.
    pub fn layout(&self, origin: u64) -> Result<Option<Layout>, Error> {
        let mut all: Option<Layout> = None;
        for track in self.tracks.iter().filter(|t| t.wanted()) {
            if let Some(layout) = track.table.layout(origin)? {
                let so_far = all.get_or_insert(layout);
                so_far.first = so_far.first.min(layout.first);
                so_far.end = so_far.end.max(layout.end);
                so_far.ordered &= layout.ordered;
            }
        }
        Ok(all)
    }

    /// The track whose next sample comes first in the input, and that sample.
    pub fn first_by_offset(&mut self) -> Result<Option<(usize, Sample)>, Error> {
        let mut first: Option<(usize, Sample)> = None;
        for (i, track) in self.tracks.iter_mut().enumerate() {
            if let Some(sample) = track.peek()?
                && first.is_none_or(|(_, other)| sample.offset < other.offset)
            {
                first = Some((i, sample));
            }
        }
        Ok(first)
    }

    /// The track whose next sample is decoded first, and that sample.
    pub fn first_by_time(&mut self) -> Result<Option<(usize, Sample)>, Error> {
        let mut first: Option<(usize, Sample, i128, i128)> = None;
        for (i, track) in self.tracks.iter_mut().enumerate() {
            let Some(sample) = track.peek()? else { continue };
            let dts = i128::from(sample.dts.saturating_add(track.edits.shift));
            let scale = i128::from(track.track.timescale.get());
            // dts / scale < other dts / other scale
            if first.is_none_or(|(_, _, other, other_scale)| dts * other_scale < other * scale) {
                first = Some((i, sample, dts, scale));
            }
        }
        Ok(first.map(|(i, sample, ..)| (i, sample)))
    }

    /// Goes past all samples before `offset`.
    pub fn skip_to(&mut self, offset: u64) -> Result<(), Error> {
        for track in &mut self.tracks {
            while track.peek()?.is_some_and(|sample| sample.offset < offset) {
                track.advance();
            }
        }
        Ok(())
    }

    /// Takes over what was told, and in force, at the place where one goes on.
    pub fn know(&mut self, tracks: &[Track], in_force: &[(TrackId, u32)]) {
        for state in &mut self.tracks {
            let id = state.track.id;
            let index = in_force.iter().find(|(track, _)| *track == id).map_or(state.in_force, |(_, index)| *index);
            if let Some(known) = tracks.iter().find(|track| track.id == id) {
                state.know(&known.format, index);
            }
        }
    }

    /// Whether samples are still to be read.
    pub fn has_more(&mut self) -> Result<bool, Error> {
        Ok(self.first_by_offset()?.is_some())
    }
}

impl TrackState {
    fn parse(trak: &Bytes, movie_scale: u32, origin: u64) -> Result<Self, Error> {
        let missing = |what: &str| Error::bad(format!("track without {what}"));
        let (id, rotation) = track_header(&boxes::child(trak, *b"tkhd").ok_or_else(|| missing("tkhd"))?)?;
        let mdia = boxes::child(trak, *b"mdia").ok_or_else(|| missing("mdia"))?;
        let mdhd = boxes::child(&mdia, *b"mdhd").ok_or_else(|| missing("mdhd"))?;
        let (scale, language) = header_scale(&mdhd)?;
        let handler = boxes::child(&mdia, *b"hdlr").and_then(|hdlr| handler(&hdlr));
        let kind = match handler.as_ref() {
            Some(b"vide") => "video",
            Some(b"soun") => "audio",
            Some(b"text" | b"subt" | b"sbtl" | b"clcp") => "text",
            _ => "data",
        };
        let stbl = boxes::child(&mdia, *b"minf").and_then(|minf| boxes::child(&minf, *b"stbl"));
        let stbl = stbl.ok_or_else(|| missing("stbl"));
        let descriptions = stbl.as_ref().ok().and_then(|stbl| boxes::child(stbl, *b"stsd"));
        let descriptions = match descriptions {
            Some(stsd) => description::parse(&stsd, kind, rotation)?,
            None => Vec::new(),
        };
        let media = matches!(kind, "video" | "audio");
        if descriptions.is_empty() && media {
            return Err(missing("sample description"));
        }
        let timescale = match Timescale::new(scale) {
            Some(timescale) => timescale,
            None if media => return Err(Error::bad("timescale 0")),
            None => Timescale::new(1000).ok_or_else(|| Error::bad("timescale 0"))?,
        };
        let wanted = descriptions.iter().any(Description::wanted);
        let edits = match boxes::child(trak, *b"edts").and_then(|edts| boxes::child(&edts, *b"elst")) {
            Some(elst) if wanted => Edits::parse(&elst, Timescale::new(movie_scale), timescale)?,
            _ => Edits::default(),
        };
        let table = if wanted { SampleTable::parse(&stbl?)? } else { SampleTable::default() };
        let mut state = Self {
            track: Track {
                id: TrackId(id),
                timescale,
                language,
                format: Format::Other { kind: kind.into(), codec: "none".into() },
            },
            known: true,
            descriptions,
            in_force: 0,
            sets: None,
            edits,
            needed_from: 0,
            defaults: Defaults::default(),
            table,
            cursor: Cursor::new(origin),
            runs: VecDeque::new(),
            next_dts: 0,
            given: 0,
            peeked: None,
            moof: None,
            finished: !wanted,
        };
        if !state.descriptions.is_empty() {
            state.switch(1)?;
        }
        state.needed_from = state.first_needed()?;
        Ok(state)
    }

    /// Whether any of its descriptions is read here.
    pub fn wanted(&self) -> bool {
        self.descriptions.iter().any(Description::wanted)
    }

    /// Whether samples of a description are read here.
    pub fn reads(&self, description: u32) -> bool {
        let index = (description.max(1) - 1) as usize;
        self.descriptions.get(index).is_none_or(Description::wanted)
    }

    /// The description in force.
    pub fn description(&self) -> Option<&Description> {
        self.descriptions.get((self.in_force as usize).checked_sub(1)?)
    }

    /// Puts a description in force.
    pub fn switch(&mut self, index: u32) -> Result<(), Error> {
        self.in_force = index;
        let Some(description) = self.description() else {
            return Err(Error::bad(format!("a sample names the sample description {index}, which is not there")));
        };
        let sets = description.sets();
        match &description.setup {
            Setup::Known(format) => {
                self.track.format = format.clone();
                self.known = true;
            }
            Setup::InBand { .. } => self.known = false,
        }
        self.sets = sets;
        Ok(())
    }

    /// Takes over what was in force, and told, at the place where one goes on.
    pub fn know(&mut self, format: &Format, in_force: u32) {
        self.known = true;
        self.track.format = format.clone();
        self.in_force = in_force;
        if let (Some(sets), Format::Video(video)) = (&mut self.sets, format) {
            *sets = InForce::of(video.codec, &video.config).unwrap_or_else(|_| InForce::new(video.codec));
        }
    }

    /// Where the moof of the sample that [`Self::peek`] gave starts; None where it is in the sample table.
    pub fn moof(&self) -> Option<u64> {
        self.moof
    }

    /// The next sample, left where it is.
    pub fn peek(&mut self) -> Result<Option<Sample>, Error> {
        if self.peeked.is_none() && !self.finished {
            self.peeked = self.next_in_table()?;
            if self.peeked.is_none() {
                self.finished = true;
                self.next_dts = self.next_dts.max(self.cursor.dts());
            }
        }
        while self.peeked.is_none()
            && let Some(run) = self.runs.front_mut()
        {
            self.moof = Some(run.moof());
            self.peeked = run.next();
            if self.peeked.is_none() {
                self.runs.pop_front();
            }
        }
        Ok(self.peeked)
    }

    /// The next sample of the table that the edit list has a use for.
    fn next_in_table(&mut self) -> Result<Option<Sample>, Error> {
        loop {
            let Some(sample) = self.cursor.next(&self.table)? else { return Ok(None) };
            if self.cursor.passed() > self.needed_from && !self.is_past_the_end(&sample)? {
                return Ok(Some(sample));
            }
        }
    }

    /// The last sync sample at or before the start of the presentation, by its place in the table.
    fn first_needed(&self) -> Result<u32, Error> {
        let (mut cursor, mut from) = (self.cursor.clone(), 0);
        for _ in 0..LOOKED_AT {
            match cursor.next(&self.table)? {
                Some(sample) if sample.dts.saturating_add(self.edits.shift) <= 0 => {
                    if sample.sync && sample.pts().saturating_add(self.edits.shift) <= 0 {
                        from = cursor.passed() - 1;
                    }
                }
                _ => break,
            }
        }
        // Sound is decoded with what comes before it.
        Ok(if matches!(self.track.format, Format::Audio(_)) { 0 } else { from })
    }

    /// Whether neither this sample of the table, just passed, nor a later one that may refer to it is presented.
    fn is_past_the_end(&self, sample: &Sample) -> Result<bool, Error> {
        let Some(end) = self.edits.end.filter(|end| sample.pts() >= *end) else { return Ok(false) };
        let mut ahead = self.cursor.clone();
        for _ in 0..REORDERED {
            match ahead.next(&self.table)? {
                Some(later) if later.pts() < end => return Ok(false),
                Some(_) => {}
                None => break,
            }
        }
        Ok(true)
    }

    /// Where the first moof starts whose samples have not all been read.
    pub fn waits_for(&self) -> Option<u64> {
        self.moof.filter(|_| self.peeked.is_some()).into_iter().chain(self.runs.front().map(Run::moof)).min()
    }

    /// Goes past the sample that [`Self::peek`] gave.
    pub fn advance(&mut self) {
        self.peeked = None;
    }

    /// Gives up what is left of the sample table.
    pub fn abandon(&mut self) {
        self.peeked = None;
        self.finished = true;
    }

    /// Bytes that lie together from the peeked sample on, at most `limit` or that one sample.
    pub fn stretch(&mut self, limit: u64) -> Result<u64, Error> {
        let Some(first) = self.peek()? else { return Ok(0) };
        let mut end = first.offset.saturating_add(first.size.into());
        let mut ahead = self.cursor.clone();
        while let Some(next) = ahead.next(&self.table)? {
            let next_end = end.saturating_add(next.size.into());
            if next.offset != end || next_end - first.offset > limit {
                break;
            }
            end = next_end;
        }
        Ok(end - first.offset)
    }
}

/// The timescale and the language of mvhd or mdhd, which start alike.
fn header_scale(header: &Bytes) -> Result<(u32, Option<String>), Error> {
    let (version, _, body) = boxes::full(header)?;
    let mut reader = Reader::new(&body);
    reader.wide(version)?;
    reader.wide(version)?;
    let scale = reader.u32()?;
    reader.wide(version)?;
    Ok((scale, reader.u16().ok().and_then(language)))
}

/// Three letters of five bits (8.4.2.3).
fn language(packed: u16) -> Option<String> {
    let letter = |shift: u16| ((packed >> shift & 31) as u8 + 0x60) as char;
    let code: String = [10, 5, 0].map(letter).iter().collect();
    (code.chars().all(|c| c.is_ascii_lowercase()) && code != "und").then_some(code)
}

fn handler(hdlr: &Bytes) -> Option<FourCc> {
    let mut reader = Reader::new(hdlr);
    reader.skip(8).ok()?;
    reader.four_cc().ok()
}

/// track_ID and clockwise rotation.
fn track_header(tkhd: &Bytes) -> Result<(u32, u16), Error> {
    let (version, _, body) = boxes::full(tkhd)?;
    let mut reader = Reader::new(&body);
    reader.wide(version)?;
    reader.wide(version)?;
    let id = reader.u32()?;
    reader.skip(4)?;
    reader.wide(version)?;
    reader.skip(16)?;
    let (a, b) = (reader.i32()?, reader.i32()?);
    let rotation = match (a, b) {
        (a, b) if i64::from(b).abs() > i64::from(a).abs() => {
            if b > 0 {
                90
            } else {
                270
            }
        }
        (a, _) if a < 0 => 180,
        _ => 0,
    };
    Ok((id, rotation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages() {
        assert_eq!(language(0x15c7).as_deref(), Some("eng"));
        assert_eq!(language(0x55c4), None, "und");
        assert_eq!(language(0), None, "a QuickTime code");
    }
}
