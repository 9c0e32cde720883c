//! The part of the input that was written to the [`Spool`], read back a stretch of a track at a time.

use std::collections::HashMap;

use bytes::Bytes;

use crate::media::Error;
use crate::media::demux::Spool;

/// Bytes read at once, unless a single sample is larger.
pub const STRETCH: u64 = 512 << 10;

/// A contiguous range of the input on the spool.
pub struct Spooled {
    spool: Box<dyn Spool>,
    /// Bytes appended in all; earlier ranges are left behind.
    written: u64,
    range: Option<Range>,
    /// The last stretch read for each track: its offset in the input, its bytes.
    stretches: HashMap<usize, (u64, Bytes)>,
}

#[derive(Clone, Copy)]
struct Range {
    start: u64,
    end: u64,
    /// Where on the spool it starts.
    at: u64,
}

impl Spooled {
    pub fn new(spool: Box<dyn Spool>) -> Self {
        Self { spool, written: 0, range: None, stretches: HashMap::new() }
    }

    /// Starts a range at a place of the input.
    pub fn begin(&mut self, offset: u64) {
        self.range = Some(Range { start: offset, end: offset, at: self.written });
        self.stretches.clear();
    }

    /// Ends the range; nothing is read from it any more.
    pub fn end(&mut self) {
        self.range = None;
        self.stretches.clear();
    }

    /// Where the range ends in the input, while there is one.
    pub fn filled_to(&self) -> Option<u64> {
        self.range.map(|range| range.end)
    }

    /// Bytes in the range.
    pub fn length(&self) -> u64 {
        self.range.map_or(0, |range| range.end - range.start)
    }

    /// Makes the range longer; nothing while there is none.
    pub fn append(&mut self, data: &[u8]) -> Result<(), Error> {
        if let Some(range) = &mut self.range {
            self.spool.append(data)?;
            range.end += data.len() as u64;
            self.written += data.len() as u64;
        }
        Ok(())
    }

    /// Whether all of a sample is in the range; an error where it starts before it.
    pub fn holds(&self, offset: u64, length: u32) -> Result<bool, Error> {
        match self.range {
            Some(range) if offset >= range.start => Ok(offset.saturating_add(length.into()) <= range.end),
            _ => Err(Error::bad("a sample lies before the media data")),
        }
    }

    /// A sample's bytes if the track's last stretch has them.
    pub fn cached(&self, track: usize, offset: u64, length: u32) -> Option<Bytes> {
        let (start, bytes) = self.stretches.get(&track)?;
        let from = usize::try_from(offset.checked_sub(*start)?).ok()?;
        let to = from.checked_add(length as usize)?;
        (to <= bytes.len()).then(|| bytes.slice(from..to))
    }

    /// Reads the next stretch of a track: at most `length` bytes, fewer where the range ends.
    pub fn read(&mut self, track: usize, offset: u64, length: u64) -> Result<(), Error> {
        let Some(range) = self.range else { return Ok(()) };
        let from = offset.saturating_sub(range.start);
        let length = length.min(range.end.saturating_sub(offset));
        self.stretches.remove(&track);
        let bytes = self.spool.read(range.at + from, usize::try_from(length).unwrap_or(usize::MAX))?;
        self.stretches.insert(track, (offset, bytes));
        Ok(())
    }
}
