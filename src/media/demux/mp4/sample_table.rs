//! The sample table of a progressive file (ISO/IEC 14496-12 8.6 and 8.7), walked in place: the boxes stay as they
//! came, and a [`Cursor`] is all that reading them takes.

use bytes::Bytes;

use super::boxes::{self, word};
use crate::media::Error;

/// Where a sample lies and when it is due, in the track's own timescale, before edit lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// From the first byte of the input.
    pub offset: u64,
    /// Never 0.
    pub size: u32,
    pub dts: i64,
    /// Composition offset: PTS - DTS.
    pub composition: i32,
    /// 0 where it is not known.
    pub duration: u32,
    /// Whether the container marks a sync sample.
    pub sync: bool,
    /// Index into the sample descriptions, from 1.
    pub description: u32,
}

impl Sample {
    /// The composition time, before edit lists.
    pub fn pts(&self) -> i64 {
        self.dts.saturating_add(self.composition.into())
    }
}

/// The boxes of stbl that place samples.
#[derive(Debug, Default)]
pub struct SampleTable {
    /// stts: count, delta.
    times: Bytes,
    /// ctts: count, offset. Read as signed in version 0 too, as it is written in practice.
    compositions: Bytes,
    /// stsc: first chunk, samples in each, description.
    chunks: Bytes,
    sizes: Sizes,
    offsets: Bytes,
    /// 4 for stco, 8 for co64.
    offset_width: usize,
    /// stss. None: all samples are sync samples.
    syncs: Option<Bytes>,
}

#[derive(Debug)]
enum Sizes {
    Same {
        size: u32,
        count: u32,
    },
    Words(Bytes),
    /// stz2, of 4, 8 or 16 bits.
    Compact {
        bits: u8,
        count: u32,
        table: Bytes,
    },
}

impl Default for Sizes {
    fn default() -> Self {
        Self::Words(Bytes::new())
    }
}

impl Sizes {
    fn count(&self) -> u32 {
        match self {
            Self::Same { count, .. } | Self::Compact { count, .. } => *count,
            Self::Words(table) => (table.len() / 4) as u32,
        }
    }

    fn get(&self, sample: u32) -> Option<u32> {
        let at = sample as usize;
        match self {
            Self::Same { size, count } => (sample < *count).then_some(*size),
            Self::Words(table) => word(table, at.checked_mul(4)?),
            Self::Compact { bits: 4, table, .. } => {
                let byte = *table.get(at / 2)?;
                Some(u32::from(if at.is_multiple_of(2) { byte >> 4 } else { byte & 15 }))
            }
            Self::Compact { bits: 8, table, .. } => table.get(at).map(|&b| b.into()),
            Self::Compact { table, .. } => {
                let pair = table.get(at.checked_mul(2)?..)?;
                Some(u32::from(*pair.first()?) << 8 | u32::from(*pair.get(1)?))
            }
        }
    }

    /// Bytes of the samples from `first` on; `count` is within the table.
    fn sum(&self, first: u32, count: u32) -> u64 {
        match self {
            Self::Same { size, .. } => u64::from(*size) * u64::from(count),
            _ => (first..first.saturating_add(count)).filter_map(|i| self.get(i)).map(u64::from).sum(),
        }
    }
}

/// Where all the samples of a track lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    pub first: u64,
    pub end: u64,
    /// Decode order is the order of the bytes, without overlap.
    pub ordered: bool,
}

impl SampleTable {
    /// Reads stbl. Boxes that a fragmented file leaves out are empty.
    pub fn parse(stbl: &Bytes) -> Result<Self, Error> {
        let mut table = Self { offset_width: 4, ..Self::default() };
        for child in boxes::children(stbl) {
            let child = child?;
            match &child.kind {
                b"stts" => table.times = boxes::counted(&boxes::full(&child.body)?.2, 8, "stts")?,
                b"ctts" => table.compositions = boxes::counted(&boxes::full(&child.body)?.2, 8, "ctts")?,
                b"stsc" => table.chunks = boxes::counted(&boxes::full(&child.body)?.2, 12, "stsc")?,
                b"stss" => table.syncs = Some(boxes::counted(&boxes::full(&child.body)?.2, 4, "stss")?),
                b"stco" | b"co64" => {
                    table.offset_width = if &child.kind == b"stco" { 4 } else { 8 };
                    table.offsets = boxes::counted(&boxes::full(&child.body)?.2, table.offset_width, "stco")?;
                }
                b"stsz" => table.sizes = sizes(&boxes::full(&child.body)?.2)?,
                b"stz2" => table.sizes = compact_sizes(&boxes::full(&child.body)?.2)?,
                _ => {}
            }
        }
        Ok(table)
    }

    /// None where there are no bytes to read. `origin` is where the file starts in the input.
    pub fn layout(&self, origin: u64) -> Result<Option<Layout>, Error> {
        let mut layout: Option<Layout> = None;
        let mut cursor = Cursor::new(origin);
        while cursor.next_chunk(self)? {
            let bytes = self.sizes.sum(cursor.sample, cursor.left_in_chunk);
            let end = cursor.offset.checked_add(bytes).ok_or_else(past_the_end)?;
            if bytes > 0 {
                let so_far = layout.get_or_insert(Layout { first: cursor.offset, end: 0, ordered: true });
                so_far.ordered &= cursor.offset >= so_far.end;
                so_far.first = so_far.first.min(cursor.offset);
                so_far.end = so_far.end.max(end);
            }
            cursor.sample = cursor.sample.saturating_add(cursor.left_in_chunk);
            cursor.left_in_chunk = 0;
        }
        Ok(layout)
    }

    fn offset(&self, chunk: usize) -> Option<u64> {
        let at = chunk.checked_mul(self.offset_width)?;
        let high = u64::from(word(&self.offsets, at)?);
        if self.offset_width == 4 { Some(high) } else { Some(high << 32 | u64::from(word(&self.offsets, at + 4)?)) }
    }

    /// First chunk (from 1), samples in each chunk, description.
    fn chunk_entry(&self, index: usize) -> Option<(u32, u32, u32)> {
        let at = index.checked_mul(12)?;
        Some((word(&self.chunks, at)?, word(&self.chunks, at + 4)?, word(&self.chunks, at + 8)?))
    }
}

fn sizes(data: &Bytes) -> Result<Sizes, Error> {
    let mut reader = boxes::Reader::new(data);
    let size = reader.u32()?;
    if size == 0 {
        return boxes::counted(&data.slice(4..), 4, "stsz").map(Sizes::Words);
    }
    Ok(Sizes::Same { size, count: reader.u32()? })
}

fn compact_sizes(data: &Bytes) -> Result<Sizes, Error> {
    let mut reader = boxes::Reader::new(data);
    let bits = (reader.u32()? & 0xff) as u8;
    let count = reader.u32()?;
    if !matches!(bits, 4 | 8 | 16) {
        return Err(Error::bad("stz2 has a field size other than 4, 8 and 16"));
    }
    let length = (u64::from(count) * u64::from(bits)).div_ceil(8);
    let table = data.slice(8..);
    if length > table.len() as u64 {
        return Err(Error::bad("stz2 counts more entries than it holds"));
    }
    Ok(Sizes::Compact { bits, count, table })
}

fn past_the_end() -> Error {
    Error::bad("a chunk offset is past the end of any file")
}

/// A place in a [`SampleTable`]. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cursor {
    origin: u64,
    sample: u32,
    dts: i64,
    /// The next chunk, from 0.
    chunk: usize,
    left_in_chunk: u32,
    offset: u64,
    chunk_entry: usize,
    description: u32,
    time: RunLength,
    composition: RunLength,
    sync: usize,
}

impl Cursor {
    /// At the first sample. `origin` is where the file starts in the input.
    pub fn new(origin: u64) -> Self {
        Self {
            origin,
            sample: 0,
            dts: 0,
            chunk: 0,
            left_in_chunk: 0,
            offset: 0,
            chunk_entry: 0,
            description: 1,
            time: RunLength::default(),
            composition: RunLength::default(),
            sync: 0,
        }
    }

    /// How many samples have been passed.
    pub fn passed(&self) -> u32 {
        self.sample
    }

    /// Where the samples read so far end in time.
    pub fn dts(&self) -> i64 {
        self.dts
    }

    /// The next sample that has bytes.
    pub fn next(&mut self, table: &SampleTable) -> Result<Option<Sample>, Error> {
        while self.next_chunk(table)? {
            let Some(size) = table.sizes.get(self.sample) else { return Ok(None) };
            let sample = Sample {
                offset: self.offset,
                size,
                dts: self.dts,
                composition: self.composition.next(&table.compositions).unwrap_or(0) as i32,
                duration: self.time.next(&table.times).unwrap_or(self.time.value),
                sync: self.is_sync(table),
                description: self.description,
            };
            self.offset = self.offset.checked_add(size.into()).ok_or_else(past_the_end)?;
            self.dts = self.dts.saturating_add(sample.duration.into());
            self.sample += 1;
            self.left_in_chunk -= 1;
            if size > 0 {
                return Ok(Some(sample));
            }
        }
        Ok(None)
    }

    /// Goes to a chunk that has samples left; false at the end of the table.
    fn next_chunk(&mut self, table: &SampleTable) -> Result<bool, Error> {
        let left = table.sizes.count().saturating_sub(self.sample);
        if left == 0 {
            return Ok(false);
        }
        while self.left_in_chunk == 0 {
            let Some(offset) = table.offset(self.chunk) else { return Ok(false) };
            self.chunk += 1;
            while let Some((first, _, _)) = table.chunk_entry(self.chunk_entry + 1)
                && first as usize <= self.chunk
            {
                self.chunk_entry += 1;
            }
            let Some((_, samples, description)) = table.chunk_entry(self.chunk_entry) else { return Ok(false) };
            self.left_in_chunk = samples.min(left);
            self.description = description;
            self.offset = self.origin.checked_add(offset).ok_or_else(past_the_end)?;
        }
        Ok(true)
    }

    fn is_sync(&mut self, table: &SampleTable) -> bool {
        let Some(syncs) = &table.syncs else { return true };
        let number = self.sample.saturating_add(1);
        while let Some(next) = word(syncs, self.sync * 4) {
            if next >= number {
                return next == number;
            }
            self.sync += 1;
        }
        false
    }
}

/// A place in a table of (count, value).
#[derive(Debug, Clone, Default)]
struct RunLength {
    entry: usize,
    left: u32,
    value: u32,
}

impl RunLength {
    /// None past the end of the table.
    fn next(&mut self, table: &[u8]) -> Option<u32> {
        while self.left == 0 {
            let at = self.entry.checked_mul(8)?;
            self.left = word(table, at)?;
            self.value = word(table, at + 4)?;
            self.entry += 1;
        }
        self.left -= 1;
        Some(self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[u32]) -> Bytes {
        words.iter().flat_map(|w| w.to_be_bytes()).collect()
    }

    fn table() -> SampleTable {
        SampleTable {
            times: words(&[2, 10, 3, 20]),
            compositions: words(&[1, 5, 4, -5i32 as u32]),
            chunks: words(&[1, 2, 1, 2, 1, 2]),
            sizes: Sizes::Words(words(&[3, 4, 5, 0, 7])),
            offsets: words(&[100, 200, 300, 50]),
            offset_width: 4,
            syncs: Some(words(&[1, 3])),
        }
    }

    #[test]
    fn samples_follow_the_five_tables() {
        let (table, mut cursor) = (table(), Cursor::new(1000));
        let mut found = Vec::new();
        while let Some(s) = cursor.next(&table).unwrap() {
            found.push((s.offset, s.size, s.dts, s.composition, s.duration, s.sync, s.description));
        }
        let expected = vec![
            (1100, 3, 0, 5, 10, true, 1),
            (1103, 4, 10, -5, 10, false, 1),
            (1200, 5, 20, -5, 20, true, 2),
            (1050, 7, 60, -5, 20, false, 2),
        ];
        assert_eq!(found, expected);
        assert_eq!(cursor.dts(), 80);
        assert_eq!(table.layout(0).unwrap(), Some(Layout { first: 50, end: 205, ordered: false }));
    }

    #[test]
    fn half_byte_sizes() {
        let sizes = compact_sizes(&Bytes::from_static(&[0, 0, 0, 4, 0, 0, 0, 3, 0x12, 0x30])).unwrap();
        assert_eq!((0..4).map(|i| sizes.get(i)).collect::<Vec<_>>(), [Some(1), Some(2), Some(3), Some(0)]);
        assert_eq!(sizes.count(), 3);
    }

    #[test]
    fn four_thousand_million_equal_samples_cost_nothing_to_lay_out() {
        let table = SampleTable {
            chunks: words(&[1, u32::MAX, 1]),
            sizes: Sizes::Same { size: 2, count: u32::MAX },
            offsets: words(&[8]),
            offset_width: 4,
            ..SampleTable::default()
        };
        let end = 8 + 2 * u64::from(u32::MAX);
        assert_eq!(table.layout(0).unwrap(), Some(Layout { first: 8, end, ordered: true }));
    }
}
