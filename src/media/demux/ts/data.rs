//! Streams of data that is handed on: splice sections (SCTE 35), ID3 tags and KLV in PES.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::pes;
use super::psi::{Carried, Sections};
use crate::media::data::{MOST_BYTES, scte35};

/// A unit that was found, and what it says of its time, 33 bits in ticks of 90 kHz.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub stamp: Option<u64>,
    pub data: Bytes,
    /// The byte of the input where it begins.
    pub offset: u64,
}

/// A packet's payload, of a unit that is not whole: whoever goes on behind it has to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    starts: bool,
    offset: u64,
    payload: Bytes,
}

/// Bytes of pieces that one stream keeps: more than any splice section has.
const PIECES_BYTES: usize = 8 << 10;

/// One stream of data.
#[derive(Debug)]
pub struct Data {
    carried: Carried,
    sections: Sections,
    pes: pes::Reader,
    /// The PES in progress: its PTS, its payload so far, where it began. None where none is, or where it was too large.
    open: Option<Found>,
    payload: Vec<u8>,
    /// Where the packet with the newest start of a section or PES lies.
    begun: u64,
    /// That packet and those after it, as far as a [`Piece`] may be carried.
    pieces: Vec<Piece>,
    damaged: u64,
}

impl Data {
    pub fn new(carried: Carried) -> Self {
        Self {
            carried,
            sections: Sections::new(scte35::SECTION_MAX),
            pes: pes::Reader::default(),
            open: None,
            payload: Vec::new(),
            begun: 0,
            pieces: Vec::new(),
            damaged: 0,
        }
    }

    /// Units that were damaged or too large.
    pub fn damaged(&self) -> u64 {
        self.damaged + self.sections.damaged()
    }

    /// Takes a packet's payload; the packet lies at `offset`.
    pub fn push(&mut self, starts: bool, payload: &[u8], offset: u64, found: &mut Vec<Found>) {
        self.remember(starts, payload, offset);
        if self.carried == Carried::Scte35Sections {
            self.splice(starts, payload, offset, found);
            return;
        }
        if starts {
            self.flush(found);
            self.begun = offset;
        }
        let step = self.pes.push(starts, payload);
        if let Some(stamps) = step.began {
            self.open = Some(Found { stamp: stamps.map(|stamps| stamps.pts), data: Bytes::new(), offset: self.begun });
        }
        if self.open.is_some() {
            self.payload.extend_from_slice(step.data);
            if self.payload.len() > MOST_BYTES {
                self.drop_open();
            }
        }
        if step.complete {
            self.end(found);
        }
    }

    /// What lies before `offset` of the unit that was begun last.
    pub fn pieces(&self, offset: u64) -> Vec<Piece> {
        self.pieces.iter().filter(|piece| piece.offset < offset).cloned().collect()
    }

    /// Goes on behind these. What they complete has been given.
    pub fn resume(&mut self, pieces: &[Piece]) {
        for piece in pieces {
            self.push(piece.starts, &piece.payload, piece.offset, &mut Vec::new());
        }
    }

    fn remember(&mut self, starts: bool, payload: &[u8], offset: u64) {
        if starts {
            self.pieces.clear();
        }
        let held = self.pieces.iter().map(|piece| piece.payload.len()).sum::<usize>();
        if held + payload.len() > PIECES_BYTES {
            self.pieces.clear();
        } else if starts || !self.pieces.is_empty() {
            self.pieces.push(Piece { starts, offset, payload: Bytes::copy_from_slice(payload) });
        }
    }

    /// A packet is lost: what was begun is of no use.
    pub fn reset(&mut self) {
        self.sections.reset();
        self.pes.reset();
        self.pieces.clear();
        self.drop_open();
    }

    /// No more packets of the PES in progress will come.
    pub fn flush(&mut self, found: &mut Vec<Found>) {
        if self.pes.finish() {
            self.end(found);
        } else {
            self.drop_open();
        }
    }

    fn splice(&mut self, starts: bool, payload: &[u8], offset: u64, found: &mut Vec<Found>) {
        let mut sections = Vec::new();
        let mut take = |section: &[u8], begun| sections.push((Bytes::copy_from_slice(section), begun));
        match payload.split_first().and_then(|(&pointer, rest)| rest.split_at_checked(usize::from(pointer))) {
            Some((before, after)) if starts => {
                // What the pointer leads over ends a section that began earlier.
                self.sections.push(false, before, |section| take(section, self.begun));
                self.begun = offset;
                self.sections.push(true, &[&[0], after].concat(), |section| take(section, offset));
            }
            _ => self.sections.push(starts, payload, |section| take(section, self.begun)),
        }
        for (data, offset) in sections {
            match scte35::Splice::parse(&data) {
                Some(splice) => found.push(Found { stamp: splice.pts, data, offset }),
                None => self.damaged += 1,
            }
        }
    }

    fn end(&mut self, found: &mut Vec<Found>) {
        let payload = std::mem::take(&mut self.payload);
        let Some(open) = self.open.take() else { return };
        let data = match self.carried {
            Carried::KlvCells => cells(&payload),
            _ => Some(Bytes::from(payload)),
        };
        match data.filter(|data| !data.is_empty()) {
            Some(data) => found.push(Found { data, ..open }),
            None => self.damaged += 1,
        }
    }

    fn drop_open(&mut self) {
        self.damaged += u64::from(self.open.take().is_some());
        self.payload.clear();
    }
}

/// What the metadata access unit cells of a PES hold together; None where one runs over the end or the last access unit
/// goes on in another PES.
fn cells(mut payload: &[u8]) -> Option<Bytes> {
    const HEAD: usize = 5;
    /// cell_fragment_indication: the cell ends its access unit.
    const LAST: u8 = 0x40;
    let mut data = Vec::with_capacity(payload.len());
    let mut complete = false;
    while let Some((&[_service, _sequence, flags, high, low], rest)) = payload.split_first_chunk::<HEAD>() {
        let (cell, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([high, low])))?;
        payload = rest;
        data.extend_from_slice(cell);
        complete = flags & LAST != 0;
    }
    complete.then(|| data.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::data::scte35::tests::{section, time};

    fn pes(stamp: bool, payload: &[u8]) -> Vec<u8> {
        // PTS 90 000: 0x15f90.
        let fields: &[u8] = if stamp { &[0x21, 0x00, 0x05, 0xbf, 0x21] } else { &[] };
        let mut bytes = vec![0, 0, 1, 0xbd];
        bytes.extend(((3 + fields.len() + payload.len()) as u16).to_be_bytes());
        bytes.extend([0x84, if stamp { 0x80 } else { 0 }, fields.len() as u8]);
        bytes.extend(fields);
        bytes.extend(payload);
        bytes
    }

    fn push(data: &mut Data, packets: &[(bool, &[u8])]) -> Vec<Found> {
        let mut found = Vec::new();
        for (n, (starts, payload)) in packets.iter().enumerate() {
            data.push(*starts, payload, n as u64 * 188, &mut found);
        }
        found
    }

    #[test]
    fn tags_and_packets_over_several_transport_packets() {
        let tag = pes(true, &[7; 300]);
        let mut data = Data::new(Carried::Id3);
        let found = push(&mut data, &[(false, &[1, 2]), (true, &tag[..180]), (false, &tag[180..])]);
        assert_eq!(found, [Found { stamp: Some(90_000), data: Bytes::from_static(&[7; 300]), offset: 188 }]);
        let without_stamp = push(&mut Data::new(Carried::Klv), &[(true, &pes(false, b"klv"))]);
        assert_eq!((without_stamp[0].stamp, &without_stamp[0].data[..]), (None, &b"klv"[..]));
    }

    #[test]
    fn metadata_cells_are_taken_apart() {
        let cells = b"\0\0\xdf\0\x02ab\0\x01\xdf\0\x01c";
        let found = push(&mut Data::new(Carried::KlvCells), &[(true, &pes(true, cells))]);
        assert_eq!(&found[0].data[..], b"abc");
        let mut data = Data::new(Carried::KlvCells);
        assert!(
            push(&mut data, &[(true, &pes(true, b"\0\0\xdf\0\x09ab")), (true, &pes(true, b"\0\0\x9f\0\x01a"))])
                .is_empty()
        );
        assert_eq!(data.damaged(), 2, "one runs over its end, one is a first fragment");
    }

    #[test]
    fn splice_sections_with_their_times_and_places() {
        let (one, two) = (section(0, 6, &time(5000), &[]), section(10, 6, &time(5000), &[]));
        let first = [&[0], &one[..10]].concat();
        let second = [&[(one.len() - 10) as u8], &one[10..], &two[..]].concat();
        let mut data = Data::new(Carried::Scte35Sections);
        let found = push(&mut data, &[(true, &first), (true, &second)]);
        let told: Vec<_> = found.iter().map(|found| (found.stamp, found.offset, &found.data[..])).collect();
        assert_eq!(told, [(Some(5000), 0, &one[..]), (Some(5010), 188, &two[..])]);
    }

    #[test]
    fn damage_is_counted_and_costs_no_more_than_what_it_hits() {
        let good = section(0, 6, &time(5000), &[]);
        let mut bad = good.clone();
        bad[9] ^= 1;
        let mut other = good.clone();
        other[0] = 0xc0;
        let length = other.len();
        let checksum = crate::media::demux::ts::crc32(&other[..length - 4]);
        other[length - 4..].copy_from_slice(&checksum.to_be_bytes());
        let mut data = Data::new(Carried::Scte35Sections);
        let payload = [&[0], &bad[..], &other[..], &good[..]].concat();
        assert_eq!(push(&mut data, &[(true, &payload)]).len(), 1);
        assert_eq!(data.damaged(), 2);
        let mut data = Data::new(Carried::Klv);
        let mut endless = pes(false, &[1; 100]);
        endless[4..6].fill(0);
        let packets: Vec<(bool, &[u8])> = (0..800).map(|n| (n == 0, &endless[..])).collect();
        assert!(push(&mut data, &packets).is_empty() && data.damaged() == 1 && data.payload.len() <= MOST_BYTES);
    }
}
