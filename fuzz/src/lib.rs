//! What the fuzz targets share: a demuxer run to its end in any chunks, and what must hold of it.

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use peak_alloc::PeakAlloc;
use segmill::media::demux::{Container, Demuxer, Event, Limits, Spool};
use segmill::media::{AccessUnit, Error, Track};

#[global_allocator]
static MEMORY: PeakAlloc = PeakAlloc;

/// Small enough that an input of a few kilobytes reaches them.
pub const LIMITS: Limits = Limits { header_bytes: 64 << 10, unit_bytes: 64 << 10, tracks: 16 };

/// What one call of the code under test may hold: for each byte of its input, and beyond that.
const HELD_PER_BYTE: usize = 512;
const HELD_ANYWAY: usize = 4 << 20;
/// Most events of an input: a sample may be empty, but what says so is not.
const EVENTS_PER_BYTE: usize = 1;
const EVENTS_ANYWAY: usize = 64;

/// An input's first byte, which chooses the chunks, and the rest.
pub fn split(data: &[u8]) -> Option<(u8, &[u8])> {
    data.split_first().map(|(&choice, rest)| (choice, rest))
}

/// `work`, held to a bound on memory for an input of `bytes`.
pub fn bounded<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let before = MEMORY.current_usage();
    MEMORY.reset_peak_usage();
    let result = work();
    let held = MEMORY.peak_usage().saturating_sub(before);
    assert!(held <= HELD_ANYWAY + bytes * HELD_PER_BYTE, "{held} bytes held for an input of {bytes}");
    result
}

/// Everything that comes out of `input`, and how it ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub events: Vec<Event>,
    pub error: Option<Error>,
}

/// Demuxes `input` in chunks of the sizes that `choice` stands for.
pub fn demux(container: Option<Container>, input: &[u8], choice: u8) -> Found {
    let mut found = Found { events: Vec::new(), error: None };
    let result = each_event(container, input, choice, |event| {
        found.events.push(event);
        assert!(found.events.len() <= EVENTS_ANYWAY + input.len() * EVENTS_PER_BYTE, "more events than bytes");
        true
    });
    found.error = result.err();
    found
}

/// Gives each event to `take`, until it says no.
pub fn each_event(
    container: Option<Container>,
    input: &[u8],
    choice: u8,
    mut take: impl FnMut(Event) -> bool,
) -> Result<(), Error> {
    let mut demuxer = Demuxer::new(container, LIMITS, Box::new(Memory::default()));
    let mut sizes = chunk_sizes(choice);
    let mut rest = input;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(sizes.next().unwrap_or(rest.len()).clamp(1, rest.len()));
        rest = after;
        demuxer.push(Bytes::copy_from_slice(chunk))?;
        while let Some(event) = demuxer.poll()? {
            if !take(event) {
                return Ok(());
            }
        }
    }
    demuxer.finish();
    while let Some(event) = demuxer.poll()? {
        if !take(event) {
            return Ok(());
        }
    }
    Ok(())
}

/// Any chunks of the same bytes give the same events, and no chunks make more be held than the bytes are worth.
pub fn check_demuxer(container: Container, data: &[u8]) {
    let Some((choice, input)) = split(data) else { return };
    let whole = bounded(input.len(), || demux(Some(container), input, 0));
    let cut = bounded(input.len(), || demux(Some(container), input, choice | 1));
    assert_eq!(whole, cut, "the chunks have left a trace");
}

/// 0 is one chunk; others are small primes, a byte at a time among them, or sizes that go up and down.
fn chunk_sizes(choice: u8) -> Box<dyn Iterator<Item = usize>> {
    let n = usize::from(choice);
    match choice {
        0 => Box::new(std::iter::empty()),
        1 => Box::new(std::iter::repeat(1)),
        2..=127 => Box::new(std::iter::repeat(n)),
        128.. => Box::new((0..).map(move |at: usize| 1 + at.wrapping_mul(n).wrapping_mul(2_654_435_761) % (n * 4))),
    }
}

/// A spool in memory, as small as the inputs.
#[derive(Default)]
struct Memory(Arc<Mutex<BytesMut>>);

impl Spool for Memory {
    fn append(&mut self, data: &[u8]) -> Result<(), Error> {
        let mut spool = self.0.lock().expect("one thread");
        if spool.len() + data.len() > 1 << 20 {
            return Err(Error::ScratchFull("a megabyte".into()));
        }
        spool.extend_from_slice(data);
        Ok(())
    }

    fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, Error> {
        let spool = self.0.lock().expect("one thread");
        let from = usize::try_from(offset).ok();
        let range = from.and_then(|from| Some(from..from.checked_add(length)?));
        let data = range.and_then(|range| spool.get(range));
        data.map(Bytes::copy_from_slice).ok_or_else(|| Error::Truncated(format!("no bytes at {offset}")))
    }
}

/// The tracks and the units, apart.
pub fn units(events: &[Event]) -> (Vec<&[Track]>, Vec<&AccessUnit>) {
    let (mut tracks, mut units) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Tracks(all) => tracks.push(all.as_slice()),
            Event::Unit(unit) => units.push(unit),
        }
    }
    (tracks, units)
}
