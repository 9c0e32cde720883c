//! One CMAF segment: styp, moof, mdat. The boxes; the times are made in `times`.

use bytes::Bytes;

use super::boxes::{Boxes, HEADER};
use super::events;
use super::times::decode_times;
use crate::media::mux::{Part, Sample};
use crate::media::{DataUnit, Error};

/// A sample that others depend on and that depends on none (ISO/IEC 14496-12 8.8.3.1).
const SYNC: u32 = 0x0200_0000;
/// A sample that depends on others and is no sync sample.
const NO_SYNC: u32 = 0x0101_0000;

// Optional fields of tfhd and trun (ISO/IEC 14496-12 8.8.7, 8.8.8).
const DEFAULT_DURATION: u32 = 0x8;
const DEFAULT_SIZE: u32 = 0x10;
const DEFAULT_FLAGS: u32 = 0x20;
const DEFAULT_BASE_IS_MOOF: u32 = 0x2_0000;
const DATA_OFFSET: u32 = 0x1;
const FIRST_SAMPLE_FLAGS: u32 = 0x4;
const SAMPLE_DURATION: u32 = 0x100;
const SAMPLE_SIZE: u32 = 0x200;
const SAMPLE_FLAGS: u32 = 0x400;
const SAMPLE_OFFSET: u32 = 0x800;

/// One CMAF segment (styp, moof, mdat). `sequence` goes to mfhd; parts without samples are left out.
///
/// `tfdt` is the earliest PTS, and the durations sum up to `Part::end` less that: where each part ends at the start of
/// the next, their `tfdt`s join exactly.
///
/// `Error::BadMedia` where two samples have one PTS, a PTS is negative, or a part does not end after its last sample;
/// `Error::OverLimit` where a duration, an offset or a size does not fit its 32 bits.
pub fn segment(sequence: u32, parts: &[Part<'_>]) -> Result<Bytes, Error> {
    segment_with(sequence, parts, &[])
}

/// A segment with event message boxes between its styp and its moof, in the timescale of its first track.
pub fn segment_with(sequence: u32, parts: &[Part<'_>], data: &[DataUnit]) -> Result<Bytes, Error> {
    let runs = parts.iter().filter(|part| !part.samples.is_empty()).map(Run::new).collect::<Result<Vec<_>, Error>>()?;
    let moof: u64 = HEADER + MFHD + runs.iter().map(Run::traf_bytes).sum::<u64>();
    let media: u64 = runs.iter().map(|run| run.bytes).sum();
    let total = STYP + moof + HEADER + media;
    // `trun` reaches its data by a signed 32-bit offset.
    if i32::try_from(total).is_err() {
        return Err(Error::OverLimit(format!("a segment of {total} bytes")));
    }
    let mut out = Boxes::with_capacity(usize::try_from(total).unwrap_or(0));
    out.atom(b"styp", |b| {
        b.bytes(b"msdh");
        b.u32(0);
        b.bytes(b"msdh");
        b.bytes(b"cmfs");
    });
    if let Some(first) = parts.first() {
        data.iter().for_each(|unit| events::write(unit, first.track.timescale, &mut out));
    }
    out.atom(b"moof", |b| {
        b.full(b"mfhd", 0, 0, |b| b.u32(sequence));
        let mut offset = moof + HEADER;
        for run in &runs {
            run.traf(b, offset);
            offset += run.bytes;
        }
    });
    out.atom(b"mdat", |b| {
        for sample in runs.iter().flat_map(|run| run.samples) {
            b.bytes(&sample.data);
        }
    });
    out.finish().map(Bytes::from)
}

const STYP: u64 = HEADER + 16;
const MFHD: u64 = HEADER + 8;

/// One part with its times worked out, and which of its columns need a value for each sample.
struct Run<'a> {
    track: u32,
    samples: &'a [Sample],
    count: u32,
    decode_time: u64,
    rows: Vec<Row>,
    bytes: u64,
    duration: Column,
    size: Column,
    flags: Flags,
    offsets: bool,
}

/// What `trun` says of a sample.
struct Row {
    duration: u32,
    size: u32,
    flags: u32,
    offset: i32,
}

/// Whether a value is said once in tfhd or for each sample.
enum Column {
    Same(u32),
    Each,
}

impl Column {
    fn of(values: impl Iterator<Item = u32> + Clone) -> Self {
        let first = values.clone().next().unwrap_or(0);
        if values.clone().all(|v| v == first) { Self::Same(first) } else { Self::Each }
    }
}

enum Flags {
    Same(u32),
    /// The first sample's, then those of all others: the ordinary closed GOP.
    FirstDiffers(u32, u32),
    Each,
}

impl Flags {
    fn of(rows: &[Row]) -> Self {
        let first = rows.first().map_or(SYNC, |row| row.flags);
        match Column::of(rows.iter().skip(1).map(|row| row.flags)) {
            Column::Same(rest) if rest != first && rows.len() > 1 => Self::FirstDiffers(first, rest),
            Column::Same(_) => Self::Same(first),
            Column::Each => Self::Each,
        }
    }
}

impl<'a> Run<'a> {
    fn new(part: &Part<'a>) -> Result<Self, Error> {
        let count = u32::try_from(part.samples.len())
            .map_err(|_| Error::OverLimit(format!("{} samples", part.samples.len())))?;
        let pts: Vec<i64> = part.samples.iter().map(|s| s.pts.0).collect();
        let decode = decode_times(&pts, part.end)?;
        let next = decode.iter().copied().skip(1).chain([part.end.0]);
        let mut rows = Vec::with_capacity(part.samples.len());
        for ((sample, &decode), next) in part.samples.iter().zip(&decode).zip(next) {
            rows.push(Row {
                duration: u32::try_from(next - decode)
                    .map_err(|_| Error::OverLimit(format!("{} ticks between two pictures", next - decode)))?,
                size: u32::try_from(sample.data.len())
                    .map_err(|_| Error::OverLimit(format!("a sample of {} bytes", sample.data.len())))?,
                flags: if sample.sync { SYNC } else { NO_SYNC },
                offset: i32::try_from(sample.pts.0 - decode)
                    .map_err(|_| Error::OverLimit(format!("{} ticks of reordering", sample.pts.0 - decode)))?,
            });
        }
        Ok(Self {
            track: part.track.number,
            samples: part.samples,
            count,
            decode_time: decode.first().map_or(0, |time| time.unsigned_abs()),
            bytes: rows.iter().map(|row| u64::from(row.size)).sum(),
            duration: Column::of(rows.iter().map(|row| row.duration)),
            size: Column::of(rows.iter().map(|row| row.size)),
            flags: Flags::of(&rows),
            offsets: rows.iter().any(|row| row.offset != 0),
            rows,
        })
    }

    /// The flags of tfhd and of trun: which fields are there.
    fn fields(&self) -> (u32, u32) {
        let (mut tfhd, mut trun) = (DEFAULT_BASE_IS_MOOF, DATA_OFFSET);
        match self.duration {
            Column::Same(_) => tfhd |= DEFAULT_DURATION,
            Column::Each => trun |= SAMPLE_DURATION,
        }
        match self.size {
            Column::Same(_) => tfhd |= DEFAULT_SIZE,
            Column::Each => trun |= SAMPLE_SIZE,
        }
        match self.flags {
            Flags::Same(_) => tfhd |= DEFAULT_FLAGS,
            Flags::FirstDiffers(..) => {
                tfhd |= DEFAULT_FLAGS;
                trun |= FIRST_SAMPLE_FLAGS;
            }
            Flags::Each => trun |= SAMPLE_FLAGS,
        }
        if self.offsets {
            trun |= SAMPLE_OFFSET;
        }
        (tfhd, trun)
    }

    fn traf_bytes(&self) -> u64 {
        let (tfhd, trun) = self.fields();
        let defaults = (tfhd & (DEFAULT_DURATION | DEFAULT_SIZE | DEFAULT_FLAGS)).count_ones();
        let columns = (trun & (SAMPLE_DURATION | SAMPLE_SIZE | SAMPLE_FLAGS | SAMPLE_OFFSET)).count_ones();
        let once = (trun & (DATA_OFFSET | FIRST_SAMPLE_FLAGS)).count_ones();
        let tfhd = HEADER + 8 + 4 * u64::from(defaults);
        let tfdt = HEADER + 12;
        let trun = HEADER + 8 + 4 * u64::from(once) + 4 * u64::from(columns) * u64::from(self.count);
        HEADER + tfhd + tfdt + trun
    }

    /// `data_offset` counts from the start of moof.
    fn traf(&self, out: &mut Boxes, data_offset: u64) {
        let (tfhd, trun) = self.fields();
        out.atom(b"traf", |b| {
            b.full(b"tfhd", 0, tfhd, |b| {
                b.u32(self.track);
                for column in [&self.duration, &self.size] {
                    if let Column::Same(value) = column {
                        b.u32(*value);
                    }
                }
                match self.flags {
                    Flags::Same(flags) | Flags::FirstDiffers(_, flags) => b.u32(flags),
                    Flags::Each => {}
                }
            });
            b.full(b"tfdt", 1, 0, |b| b.u64(self.decode_time));
            b.full(b"trun", 1, trun, |b| {
                b.u32(self.count);
                // Fits: `segment` refuses what is over i32::MAX bytes in all.
                b.u32(data_offset as u32);
                if let Flags::FirstDiffers(first, _) = self.flags {
                    b.u32(first);
                }
                for row in &self.rows {
                    self.row(b, row);
                }
            });
        });
    }

    fn row(&self, out: &mut Boxes, row: &Row) {
        if let Column::Each = self.duration {
            out.u32(row.duration);
        }
        if let Column::Each = self.size {
            out.u32(row.size);
        }
        if let Flags::Each = self.flags {
            out.u32(row.flags);
        }
        if self.offsets {
            out.i32(row.offset);
        }
    }
}
