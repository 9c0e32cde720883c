//! The frames between pool and worker, over one stream socket, both directions.
//!
//! A frame is its length (u32, big-endian, not counting itself), a postcard header that says what it is, and a
//! payload to the frame's end: media bytes never pass through a serialiser. To the worker go a job's header, its units
//! and an end, the units of an open job as they come to be known; back come, after one hello, the set-ups and samples as they are made, and one last word per job.
//!
//! What a worker sends is hostile, for it has read strangers' media in C: every length is held against a bound before
//! anything is allocated. Whether the frames make sense as an answer is for the pool to say.
//! [`pool_end`] is the asynchronous side, [`worker_end`] the blocking one.

pub mod pool_end;
pub mod worker_end;

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::job::{EncodedSample, Failure, Inventory, Job, Stats, Work};
use crate::media::{AccessUnit, Sync, Ticks, Track, TrackId, Window};

/// Most bytes of a frame, its length word apart.
pub const MAX_FRAME: usize = 64 << 20;
/// Most bytes of a worker's first frame.
pub const MAX_HELLO: usize = 256 << 10;
/// Most bytes of a rendition's set-up.
pub const MAX_CONFIG: usize = 64 << 10;

/// Bytes of the length word.
const PREFIX: usize = 4;

/// What goes wrong on the socket.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the socket failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("a frame of {length} bytes, where {limit} are allowed")]
    TooLong { length: usize, limit: usize },
    #[error("a malformed frame: {0}")]
    Malformed(&'static str),
    #[error("the socket closed in the middle of a frame")]
    Truncated,
}

/// What the pool says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToWorker {
    /// A job without its units; `units` is how many of them follow, None where that is not known yet.
    Job {
        job: Box<Job>,
        units: Option<u32>,
    },
    Unit(AccessUnit),
    /// The job is complete, and so long is its window.
    End {
        window_end: Ticks,
    },
}

/// What the worker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromWorker {
    /// Once, as it starts.
    Hello(Inventory),
    /// A rendition's set-up, before its first sample.
    SetUp { rendition: u32, config: Bytes },
    /// A rendition's next sample, in decode order.
    Sample { rendition: u32, sample: EncodedSample },
    /// All renditions are whole.
    Finished(Stats),
    /// The job, or the start, did not end well; the worker leaves.
    Failed(Failure),
}

#[derive(Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and never kept")]
enum ToWorkerHeader {
    Job(JobHeader),
    Unit { track: TrackId, pts: Ticks, dts: Ticks, duration: Option<Ticks>, sync: Sync },
    End { window_end: Ticks },
}

#[derive(Serialize, Deserialize)]
struct JobHeader {
    id: u64,
    seq: u64,
    track: Track,
    units: Option<u32>,
    window: Window,
    work: Work,
    threads: u32,
}

#[derive(Serialize, Deserialize)]
enum FromWorkerHeader {
    Hello(Inventory),
    SetUp { rendition: u32 },
    Sample { rendition: u32, pts: Ticks, sync: bool },
    Finished(Stats),
    Failed(Failure),
}

impl ToWorker {
    /// Reads a frame's body.
    pub fn decode(body: Bytes) -> Result<Self, Error> {
        let (header, payload) = split::<ToWorkerHeader>(&body)?;
        match header {
            ToWorkerHeader::Unit { track, pts, dts, duration, sync } => {
                Ok(Self::Unit(AccessUnit { track, pts, dts, duration, sync, offset: 0, data: payload }))
            }
            _ if !payload.is_empty() => Err(Error::Malformed("a payload where none belongs")),
            ToWorkerHeader::Job(JobHeader { id, seq, track, units, window, work, threads }) => {
                let job = Box::new(Job { id, seq, track, units: Vec::new(), window, work, threads });
                Ok(Self::Job { job, units })
            }
            ToWorkerHeader::End { window_end } => Ok(Self::End { window_end }),
        }
    }
}

impl FromWorker {
    /// Reads a frame's body.
    pub fn decode(body: Bytes) -> Result<Self, Error> {
        let (header, payload) = split::<FromWorkerHeader>(&body)?;
        match header {
            FromWorkerHeader::SetUp { .. } if payload.len() > MAX_CONFIG => {
                Err(Error::TooLong { length: payload.len(), limit: MAX_CONFIG })
            }
            FromWorkerHeader::SetUp { rendition } => Ok(Self::SetUp { rendition, config: payload }),
            FromWorkerHeader::Sample { rendition, pts, sync } => {
                Ok(Self::Sample { rendition, sample: EncodedSample { pts, sync, data: payload } })
            }
            _ if !payload.is_empty() => Err(Error::Malformed("a payload where none belongs")),
            FromWorkerHeader::Hello(inventory) => Ok(Self::Hello(inventory)),
            FromWorkerHeader::Finished(stats) => Ok(Self::Finished(stats)),
            FromWorkerHeader::Failed(failure) => Ok(Self::Failed(failure)),
        }
    }

    /// Appends the whole frame to `out`.
    pub fn encode(&self, out: &mut BytesMut) -> Result<(), Error> {
        let (header, payload) = match self {
            Self::Hello(inventory) => (FromWorkerHeader::Hello(inventory.clone()), &[][..]),
            Self::SetUp { rendition, config } => (FromWorkerHeader::SetUp { rendition: *rendition }, &config[..]),
            Self::Sample { rendition, sample } => (
                FromWorkerHeader::Sample { rendition: *rendition, pts: sample.pts, sync: sample.sync },
                &sample.data[..],
            ),
            Self::Finished(stats) => (FromWorkerHeader::Finished(*stats), &[][..]),
            Self::Failed(failure) => (FromWorkerHeader::Failed(failure.clone()), &[][..]),
        };
        put_head(out, &header, payload.len())?;
        out.put_slice(payload);
        Ok(())
    }
}

/// Appends a frame's length word and header; `payload` bytes are to follow.
fn put_head(out: &mut BytesMut, header: &impl Serialize, payload: usize) -> Result<(), Error> {
    let start = out.len();
    out.put_u32(0);
    postcard::to_io(header, out.writer()).map_err(|_| Error::Malformed("a header that can't be written"))?;
    let length = (out.len() - start - PREFIX).saturating_add(payload);
    match u32::try_from(length) {
        Ok(word) if length <= MAX_FRAME => {
            out[start..start + PREFIX].copy_from_slice(&word.to_be_bytes());
            Ok(())
        }
        _ => {
            out.truncate(start);
            Err(Error::TooLong { length, limit: MAX_FRAME })
        }
    }
}

/// A length word's value, held against `limit`.
fn length(word: [u8; PREFIX], limit: usize) -> Result<usize, Error> {
    let length = u32::from_be_bytes(word) as usize;
    if length > limit.min(MAX_FRAME) { Err(Error::TooLong { length, limit }) } else { Ok(length) }
}

fn split<H: DeserializeOwned>(body: &Bytes) -> Result<(H, Bytes), Error> {
    let (header, payload) =
        postcard::take_from_bytes(body).map_err(|_| Error::Malformed("a header that can't be read"))?;
    Ok((header, body.slice_ref(payload)))
}

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod tests;
