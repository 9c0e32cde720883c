//! The worker's end of the socket: blocking, reads jobs whole or as they come, writes frames as they are made.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::{Error, FromWorker, MAX_FRAME, PREFIX, ToWorker, length};
use crate::job::Job;
use crate::media::{AccessUnit, Ticks};

/// Frames are held back until there are this many bytes of them…
const FLUSH_BYTES: usize = 64 << 10;
/// …or for this long, so that the pool sees that the job goes on.
const FLUSH_AFTER: Duration = Duration::from_millis(250);
/// Most space that is made ahead of the bytes that fill it.
const RESERVE: usize = 1 << 20;
/// Room that frames share: a job's units come together and go together. What of it is left over is less than the frame
/// that found no room, so that a job takes twice its bytes at most.
const SHARED: usize = 256 << 10;

/// A part of a job that is open.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    Unit(AccessUnit),
    /// That was the last unit; here the window ends.
    End(Ticks),
}

/// Reads the pool's jobs.
pub struct Reader<R> {
    io: BufReader<R>,
    room: BytesMut,
}

impl<R: Read> Reader<R> {
    pub fn new(io: R) -> Self {
        Self { io: BufReader::with_capacity(FLUSH_BYTES, io), room: BytesMut::new() }
    }

    /// The next job, whole; None where the socket is closed between jobs.
    pub fn read_job(&mut self) -> Result<Option<Job>, Error> {
        let Some((mut job, open)) = self.begin_job()? else { return Ok(None) };
        if !open {
            return Ok(Some(job));
        }
        loop {
            match self.read_part()? {
                Part::Unit(unit) => job.units.push(unit),
                Part::End(end) => {
                    job.window.end = end;
                    return Ok(Some(job));
                }
            }
        }
    }

    /// The next job, and whether it is open: then its units and the end of its window are still to come, by
    /// [`Self::read_part`]. None where the socket is closed between jobs.
    pub fn begin_job(&mut self) -> Result<Option<(Job, bool)>, Error> {
        if self.io.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let ToWorker::Job { mut job, units } = self.read()? else {
            return Err(Error::Malformed("not the header of a job"));
        };
        let Some(units) = units else { return Ok(Some((*job, true))) };
        job.units.reserve((units as usize).min(RESERVE / size_of::<AccessUnit>()));
        for _ in 0..units {
            match self.read_part()? {
                Part::Unit(unit) => job.units.push(unit),
                Part::End(_) => return Err(Error::Malformed("fewer units than announced")),
            }
        }
        match self.read_part()? {
            Part::End(end) if end == job.window.end => Ok(Some((*job, false))),
            _ => Err(Error::Malformed("more units than announced")),
        }
    }

    /// The next part of an open job.
    pub fn read_part(&mut self) -> Result<Part, Error> {
        match self.read()? {
            ToWorker::Unit(unit) => Ok(Part::Unit(unit)),
            ToWorker::End { window_end } => Ok(Part::End(window_end)),
            ToWorker::Job { .. } => Err(Error::Malformed("a job within another")),
        }
    }

    fn read(&mut self) -> Result<ToWorker, Error> {
        let mut word = [0; PREFIX];
        self.io.read_exact(&mut word)?;
        let length = length(word, MAX_FRAME)?;
        if self.room.capacity() < length.min(RESERVE) {
            self.room.reserve(length.clamp(SHARED, RESERVE));
        }
        while self.room.len() < length {
            let from = self.room.len();
            self.room.resize(length.min(from + RESERVE), 0);
            self.io.read_exact(&mut self.room[from..]).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => Error::Truncated,
                _ => error.into(),
            })?;
        }
        ToWorker::decode(self.room.split().freeze())
    }
}

/// Writes the worker's frames, several at a time.
pub struct Writer<W> {
    io: W,
    buffer: BytesMut,
    flushed: Instant,
}

impl<W: Write> Writer<W> {
    pub fn new(io: W) -> Self {
        Self { io, buffer: BytesMut::with_capacity(2 * FLUSH_BYTES), flushed: Instant::now() }
    }

    /// Takes one frame. It is on its way at the latest when a job's last word is written.
    pub fn write(&mut self, frame: &FromWorker) -> Result<(), Error> {
        frame.encode(&mut self.buffer)?;
        let last_word = !matches!(frame, FromWorker::SetUp { .. } | FromWorker::Sample { .. });
        if last_word || self.buffer.len() > FLUSH_BYTES || self.flushed.elapsed() > FLUSH_AFTER {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        self.io.write_all(&self.buffer)?;
        self.io.flush()?;
        self.buffer.clear();
        self.flushed = Instant::now();
        Ok(())
    }
}
