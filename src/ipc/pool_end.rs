//! The pool's end of the socket: asynchronous, reads hostile frames, writes whole jobs in few system calls.

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{Error, FromWorker, JobHeader, PREFIX, ToWorkerHeader, length, put_head};
use crate::chunks::Chunks;
use crate::job::Job;
use crate::media::{AccessUnit, Ticks};

/// Payloads shorter than this are copied behind their heads; longer ones are written from where they lie.
const COPY_BELOW: usize = 4 << 10;
/// Least and most space that is made before a read.
const READ_MIN: usize = 64 << 10;
const READ_MAX: usize = 1 << 20;

/// Reads a worker's frames. Holds no more than has come in, whatever a frame claims to be.
pub struct Reader<R> {
    io: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub fn new(io: R) -> Self {
        Self { io, buffer: BytesMut::new() }
    }

    /// The next frame, of at most `limit` bytes; None where the socket is closed between frames. Nothing is lost when
    /// the future is dropped.
    pub async fn read(&mut self, limit: usize) -> Result<Option<FromWorker>, Error> {
        loop {
            let missing = match self.take(limit)? {
                Ok(body) => return FromWorker::decode(body).map(Some),
                Err(missing) => missing,
            };
            self.buffer.reserve(missing.clamp(READ_MIN, READ_MAX));
            if self.io.read_buf(&mut self.buffer).await? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(Error::Truncated) };
            }
        }
    }

    /// Whether nothing has come in beyond the frames already read.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next frame's body where it is whole, else how many bytes are missing at least.
    fn take(&mut self, limit: usize) -> Result<Result<Bytes, usize>, Error> {
        let Some(word) = self.buffer.first_chunk::<PREFIX>() else { return Ok(Err(PREFIX)) };
        let whole = PREFIX + length(*word, limit)?;
        if self.buffer.len() < whole {
            return Ok(Err(whole - self.buffer.len()));
        }
        let mut body = self.buffer.split_to(whole).freeze();
        body.advance(PREFIX);
        Ok(Ok(body))
    }
}

/// Writes the whole of `job`, to be worked on with `threads` threads.
///
/// # Errors
/// [`Error::TooLong`] where a unit is over the bound of a frame (nothing is written then), or the socket's.
pub async fn write_job(io: &mut (impl AsyncWrite + Unpin), job: &Job, threads: u32) -> Result<(), Error> {
    let mut chunks = encode_job(job, threads)?;
    io.write_all_buf(&mut chunks).await?;
    io.flush().await?;
    Ok(())
}

/// Writes the whole of `job` as [`write_job`] does, to where writing blocks.
///
/// # Errors
/// As [`write_job`]'s.
pub fn write_job_to(io: &mut impl std::io::Write, job: &Job) -> Result<(), Error> {
    let mut chunks = encode_job(job, job.threads)?;
    while chunks.has_remaining() {
        let length = chunks.chunk().len();
        io.write_all(chunks.chunk())?;
        chunks.advance(length);
    }
    io.flush()?;
    Ok(())
}

pub(super) fn encode_job(job: &Job, threads: u32) -> Result<Chunks, Error> {
    let units = u32::try_from(job.units.len()).map_err(|_| Error::Malformed("more units than can be counted"))?;
    let mut chunks = Chunks::default();
    let mut heads = BytesMut::with_capacity(16 << 10);
    put_job(&mut heads, job, Some(units), threads)?;
    for unit in &job.units {
        put_unit(&mut chunks, &mut heads, unit)?;
    }
    put_head(&mut heads, &ToWorkerHeader::End { window_end: job.window.end }, 0)?;
    chunks.push(heads.freeze());
    Ok(chunks)
}

fn put_job(heads: &mut BytesMut, job: &Job, units: Option<u32>, threads: u32) -> Result<(), Error> {
    let (track, work) = (job.track.clone(), job.work.clone());
    let header = JobHeader { id: job.id, seq: job.seq, track, units, window: job.window, work, threads };
    put_head(heads, &ToWorkerHeader::Job(header), 0)
}

fn put_unit(chunks: &mut Chunks, heads: &mut BytesMut, unit: &AccessUnit) -> Result<(), Error> {
    let header = ToWorkerHeader::Unit {
        track: unit.track,
        pts: unit.pts,
        dts: unit.dts,
        duration: unit.duration,
        sync: unit.sync,
    };
    put_head(heads, &header, unit.data.len())?;
    if unit.data.len() < COPY_BELOW {
        heads.extend_from_slice(&unit.data);
    } else {
        chunks.push(heads.split().freeze());
        chunks.push(unit.data.clone());
    }
    Ok(())
}

/// What is still to be written of a job that is open: its units are told as they come to be known.
pub struct Open(Chunks);

impl Open {
    /// A job without its units, whose window ends later.
    pub fn new(job: &Job, threads: u32) -> Result<Self, Error> {
        let (mut chunks, mut heads) = (Chunks::default(), BytesMut::new());
        put_job(&mut heads, job, None, threads)?;
        chunks.push(heads.freeze());
        Ok(Self(chunks))
    }

    pub fn unit(&mut self, unit: &AccessUnit) -> Result<(), Error> {
        let mut heads = BytesMut::new();
        put_unit(&mut self.0, &mut heads, unit)?;
        if !heads.is_empty() {
            self.0.push(heads.freeze());
        }
        Ok(())
    }

    /// That was all of it.
    pub fn end(&mut self, window_end: Ticks) -> Result<(), Error> {
        let mut heads = BytesMut::new();
        put_head(&mut heads, &ToWorkerHeader::End { window_end }, 0)?;
        self.0.push(heads.freeze());
        Ok(())
    }

    pub fn is_written(&self) -> bool {
        !self.0.has_remaining()
    }

    /// Writes what there is. Nothing is lost when the future is dropped.
    pub async fn write(&mut self, io: &mut (impl AsyncWrite + Unpin)) -> Result<(), Error> {
        io.write_all_buf(&mut self.0).await?;
        Ok(())
    }
}
