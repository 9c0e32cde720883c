//! Streams of data in the programme: splice sections (SCTE 35), ID3 tags and KLV in PES.

use std::collections::VecDeque;

use bytes::Bytes;

use super::packets::{Adaptation, Pid, pes_header, set_pes_length};
use crate::media::data::scte35;
use crate::media::timeline::TIMESCALE;
use serde::{Deserialize, Serialize};

use crate::media::{DataKind, DataUnit, TrackId};

/// The first PID of data; those of pictures and sound are below.
const FIRST_PID: u16 = 0x1f0;
/// Streams of data that a programme announces.
const MOST: usize = 16;
const PRIVATE_STREAM_1: u8 = 0xbd;

/// The streams, and the version of the map that lists them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct DataStreams {
    streams: Vec<DataStream>,
    version: u8,
    /// The map has been written with all of them.
    written: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct DataStream {
    kind: DataKind,
    track: Option<TrackId>,
    pid: Pid,
}

/// A unit on its way: the stream, its time in ticks of 90 kHz before the wrap, None for as soon as possible.
#[derive(Debug)]
pub struct Carried {
    stream: usize,
    pts: Option<i64>,
    data: Bytes,
}

impl DataStreams {
    /// The index of the stream for such data; None where it can't be carried.
    pub fn announce(&mut self, kind: DataKind, track: Option<TrackId>) -> Option<usize> {
        if kind == DataKind::Emsg {
            return None;
        }
        let known = self.streams.iter().position(|stream| (stream.kind, stream.track) == (kind, track));
        if known.is_some() || self.streams.len() == MOST {
            return known;
        }
        self.map_changes();
        let index = self.streams.len();
        self.streams.push(DataStream { kind, track, pid: Pid::new(FIRST_PID + index as u16) });
        Some(index)
    }

    /// The units in the order in which they are to be written; `offset` is added to all times of the programme.
    pub fn arrange(&mut self, units: &[DataUnit], offset: i64) -> VecDeque<Carried> {
        let carried = units.iter().filter_map(|unit| {
            let stream = self.announce(unit.kind, unit.track)?;
            let pts = unit.pts.nearest(unit.timescale, TIMESCALE).0.saturating_add(offset);
            Some(match unit.kind {
                DataKind::Scte35 => Carried { stream, pts: None, data: scte35::retimed(&unit.data, pts) },
                _ => Carried { stream, pts: Some(pts), data: unit.data.clone() },
            })
        });
        let mut carried: Vec<Carried> = carried.collect();
        carried.sort_by_key(|unit| unit.pts);
        carried.into()
    }

    /// Writes what is due by `time`; None: what has no time.
    pub fn write_until(&mut self, carried: &mut VecDeque<Carried>, time: Option<i64>, out: &mut Vec<u8>) {
        while let Some(unit) = carried.pop_front_if(|unit| unit.pts <= time) {
            let Some(stream) = self.streams.get_mut(unit.stream) else { continue };
            match unit.pts {
                None => stream.pid.whole_section(&unit.data, out),
                Some(pts) => {
                    let mut pes = Vec::with_capacity(unit.data.len() + 14);
                    pes_header(PRIVATE_STREAM_1, pts, pts, &mut pes);
                    pes.extend_from_slice(&unit.data);
                    set_pes_length(&mut pes);
                    stream.pid.pes(&pes, Adaptation::default(), out);
                }
            }
        }
    }

    /// The map that is written next is another one than before.
    pub fn map_changes(&mut self) {
        if std::mem::take(&mut self.written) {
            self.version = (self.version + 1) & 0x1f;
        }
    }

    /// version_number of the map that is about to be written.
    pub fn version(&mut self) -> u8 {
        self.written = true;
        self.version
    }

    /// The registration of SCTE 35 (8.1), and where ID3 tags are found (ISO/IEC 13818-1 2.6.58).
    pub fn programme_descriptors(&self) -> Vec<u8> {
        let mut descriptors = Vec::new();
        let has = |kind| self.streams.iter().any(|stream| stream.kind == kind);
        if has(DataKind::Scte35) {
            descriptors.extend(b"\x05\x04CUEI");
        }
        if has(DataKind::Id3) {
            descriptors.extend(b"\x25\x0f\xff\xffID3 \xffID3 \x00\x1f\x00\x01");
        }
        descriptors
    }

    /// Appends the streams to the map.
    pub fn map_entries(&self, map: &mut Vec<u8>) {
        for stream in &self.streams {
            let (stream_type, descriptors): (u8, &[u8]) = match stream.kind {
                DataKind::Scte35 => (0x86, b""),
                // The metadata descriptor (2.6.60).
                DataKind::Id3 => (0x15, b"\x26\x0d\xff\xffID3 \xffID3 \x00\x0f"),
                DataKind::Klv => (0x06, b"\x05\x04KLVA"),
                DataKind::Emsg => continue,
            };
            let [high, low] = stream.pid.pid().to_be_bytes();
            map.extend([stream_type, 0xe0 | high, low, 0xf0, descriptors.len() as u8]);
            map.extend(descriptors);
        }
    }
}
