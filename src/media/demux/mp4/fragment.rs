//! Movie fragments (ISO/IEC 14496-12 8.8): moof → [`Run`]s, one a trun, each read sample by sample.

use bytes::Bytes;

use super::boxes::{self, Reader, word};
use super::movie::Movie;
use super::sample_table::Sample;
use crate::media::Error;

/// Runs that may wait for their bytes, over all tracks.
const PENDING_RUNS: usize = 1 << 16;

const BASE_DATA_OFFSET: u32 = 0x1;
const DESCRIPTION: u32 = 0x2;
const DEFAULT_DURATION: u32 = 0x8;
const DEFAULT_SIZE: u32 = 0x10;
const DEFAULT_FLAGS: u32 = 0x20;
const DURATION_IS_EMPTY: u32 = 0x1_0000;
const DEFAULT_BASE_IS_MOOF: u32 = 0x2_0000;

const DATA_OFFSET: u32 = 0x1;
const FIRST_FLAGS: u32 = 0x4;
const DURATION: u32 = 0x100;
const SIZE: u32 = 0x200;
const FLAGS: u32 = 0x400;
const COMPOSITION: u32 = 0x800;

const DEPENDS_ON_MASK: u32 = 0x0300_0000;
const DEPENDS_ON_OTHERS: u32 = 0x0100_0000;
const IS_NON_SYNC: u32 = 0x1_0000;

/// What holds for a sample where neither tfhd nor trun says otherwise: trex, then tfhd over it.
#[derive(Debug, Clone, Copy)]
pub struct Defaults {
    pub description: u32,
    pub duration: u32,
    pub size: u32,
    pub flags: u32,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { description: 1, duration: 0, size: 0, flags: 0 }
    }
}

/// The samples of one trun that have not been read yet.
#[derive(Debug, Clone)]
pub struct Run {
    table: Bytes,
    fields: u32,
    /// Bytes of an entry of `table`.
    width: usize,
    count: u32,
    index: u32,
    first_flags: Option<u32>,
    defaults: Defaults,
    offset: u64,
    dts: i64,
    /// Where its moof starts.
    moof: u64,
}

impl Run {
    /// Where its moof starts in the input.
    pub fn moof(&self) -> u64 {
        self.moof
    }

    /// The next sample that has bytes.
    pub fn next(&mut self) -> Option<Sample> {
        while self.index < self.count {
            let entry = self.entry(self.index);
            let flags = if self.index == 0 { self.first_flags.unwrap_or(entry.flags) } else { entry.flags };
            let sample = Sample {
                offset: self.offset,
                size: entry.size,
                dts: self.dts,
                composition: entry.composition,
                duration: entry.duration,
                sync: flags & IS_NON_SYNC == 0 && flags & DEPENDS_ON_MASK != DEPENDS_ON_OTHERS,
                description: self.defaults.description,
            };
            self.offset = self.offset.saturating_add(entry.size.into());
            self.dts = self.dts.saturating_add(entry.duration.into());
            self.index += 1;
            if entry.size > 0 {
                return Some(sample);
            }
        }
        None
    }

    /// The earliest presentation time of its samples, before any edit list; None where it has none.
    pub fn earliest(&self) -> Option<i64> {
        if self.fields & COMPOSITION == 0 {
            return (self.count > 0).then_some(self.dts);
        }
        let mut dts = self.dts;
        let times = (0..self.count).map(|index| {
            let entry = self.entry(index);
            let time = dts.saturating_add(entry.composition.into());
            dts = dts.saturating_add(entry.duration.into());
            time
        });
        times.min()
    }

    fn entry(&self, index: u32) -> Entry {
        let mut at = index as usize * self.width;
        let mut field = |flag, default| {
            if self.fields & flag == 0 {
                return default;
            }
            at += 4;
            word(&self.table, at - 4).unwrap_or(default)
        };
        Entry {
            duration: field(DURATION, self.defaults.duration),
            size: field(SIZE, self.defaults.size),
            flags: field(FLAGS, self.defaults.flags),
            composition: field(COMPOSITION, 0) as i32,
        }
    }

    /// All bytes and all ticks of the run. Does not walk entries that the table does not hold: a trun may claim
    /// four thousand million of them in 20 bytes.
    fn totals(&self) -> (u64, u64) {
        if self.width == 0 {
            let count = u64::from(self.count);
            return (count * u64::from(self.defaults.size), count * u64::from(self.defaults.duration));
        }
        (0..self.count)
            .map(|i| self.entry(i))
            .fold((0, 0), |(bytes, ticks), entry| (bytes + u64::from(entry.size), ticks + u64::from(entry.duration)))
    }
}

struct Entry {
    duration: u32,
    size: u32,
    flags: u32,
    composition: i32,
}

/// Where a moof lies, from the first byte of the input.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub start: u64,
    pub end: u64,
    /// Where the file starts.
    pub origin: u64,
}

/// Appends the runs of a moof to their tracks. Fragments of tracks that the moov doesn't list are passed over.
/// `limit`: bytes of runs that may wait.
pub fn read(moof: &Bytes, place: Place, movie: &mut Movie, limit: usize) -> Result<(), Error> {
    let mut budget = Budget { runs: PENDING_RUNS, bytes: limit };
    for run in movie.tracks.iter().flat_map(|t| &t.runs) {
        budget.take(run)?;
    }
    let mut implicit = place.start;
    for child in boxes::children(moof) {
        let child = child?;
        if &child.kind == b"traf" {
            implicit = read_track(&child.body, place, implicit, movie, &mut budget)?;
        }
    }
    Ok(())
}

/// What is left of the room for runs that wait.
struct Budget {
    runs: usize,
    bytes: usize,
}

impl Budget {
    fn take(&mut self, run: &Run) -> Result<(), Error> {
        let left = self.runs.checked_sub(1).zip(self.bytes.checked_sub(run.table.len()));
        (self.runs, self.bytes) = left.ok_or_else(|| Error::OverLimit("fragments that wait for their data".into()))?;
        Ok(())
    }
}

/// Returns where the data of the track fragment ends.
fn read_track(traf: &Bytes, place: Place, implicit: u64, movie: &mut Movie, budget: &mut Budget) -> Result<u64, Error> {
    let tfhd = boxes::child(traf, *b"tfhd").ok_or_else(|| Error::bad("traf without tfhd"))?;
    let (_, flags, body) = boxes::full(&tfhd)?;
    let mut reader = Reader::new(&body);
    let id = reader.u32()?;
    let mut track = movie.tracks.iter_mut().find(|t| t.track.id.0 == id);
    let base = match flags & BASE_DATA_OFFSET {
        0 if flags & DEFAULT_BASE_IS_MOOF != 0 => place.start,
        0 => implicit,
        _ => place.origin.checked_add(reader.u64()?).ok_or_else(|| Error::bad("base data offset out of range"))?,
    };
    let mut defaults = track.as_ref().map_or_else(Defaults::default, |t| t.defaults);
    for (flag, value) in [
        (DESCRIPTION, &mut defaults.description),
        (DEFAULT_DURATION, &mut defaults.duration),
        (DEFAULT_SIZE, &mut defaults.size),
        (DEFAULT_FLAGS, &mut defaults.flags),
    ] {
        if flags & flag != 0 {
            *value = reader.u32()?;
        }
    }
    let mut dts = track.as_ref().map_or(0, |t| t.next_dts);
    if let Some(tfdt) = boxes::child(traf, *b"tfdt") {
        let (version, _, body) = boxes::full(&tfdt)?;
        let time = Reader::new(&body).wide(version)?;
        dts = i64::try_from(time).map_err(|_| Error::bad("tfdt out of range"))?;
    } else {
        movie.untimed = true;
    }
    let mut end = base;
    if flags & DURATION_IS_EMPTY == 0 {
        for child in boxes::children(traf) {
            let child = child?;
            if &child.kind != b"trun" {
                continue;
            }
            // Without any offset at all the data can only be that of the next mdat.
            let next = if end == place.start { place.end.saturating_add(8) } else { end };
            let mut run = read_run(&child.body, base, next, dts, defaults)?;
            run.moof = place.start;
            let (bytes, ticks) = run.totals();
            end = run.offset.checked_add(bytes).ok_or_else(|| Error::bad("trun past the end of any file"))?;
            dts = i64::try_from(ticks).map_or(i64::MAX, |ticks| dts.saturating_add(ticks));
            if let Some(track) = track.as_mut().filter(|track| bytes > 0 && track.wanted()) {
                budget.take(&run)?;
                track.runs.push_back(run);
            }
        }
    }
    if let Some(track) = track {
        track.next_dts = dts;
    }
    Ok(end)
}

fn read_run(trun: &Bytes, base: u64, next: u64, dts: i64, defaults: Defaults) -> Result<Run, Error> {
    let (_, flags, body) = boxes::full(trun)?;
    let mut reader = Reader::new(&body);
    let count = reader.u32()?;
    let mut header = 4;
    let mut offset = next;
    if flags & DATA_OFFSET != 0 {
        let data_offset = reader.i32()?;
        offset = base.checked_add_signed(data_offset.into()).ok_or_else(|| Error::bad("trun data offset"))?;
        header += 4;
    }
    let mut first_flags = None;
    if flags & FIRST_FLAGS != 0 {
        first_flags = Some(reader.u32()?);
        header += 4;
    }
    let fields = flags & (DURATION | SIZE | FLAGS | COMPOSITION);
    let width = fields.count_ones() as usize * 4;
    let table = boxes::entries(&body.slice(header..), count, width, "trun")?;
    // A copy, so that a waiting run does not hold on to the whole moof.
    let table = Bytes::copy_from_slice(&table);
    Ok(Run { table, fields, width, count, index: 0, first_flags, defaults, offset, dts, moof: 0 })
}
