//! Payload → 188-byte packets (ISO/IEC 13818-1 2.4.3): headers, adaptation fields, PES headers, PSI sections.

use serde::{Deserialize, Serialize};

use crate::media::demux::ts::crc32;

const PACKET: usize = 188;
const ROOM: usize = PACKET - 4;

/// One PID's packets.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pid {
    pid: u16,
    counter: u8,
}

/// What the adaptation field of a PES's first packet says.
#[derive(Debug, Default, Clone, Copy)]
pub struct Adaptation {
    pub discontinuity: bool,
    pub random_access: bool,
    /// Ticks of 90 kHz, before the wrap.
    pub clock: Option<i64>,
}

/// How many bytes of packets a payload takes at most.
pub fn size(payload: usize) -> usize {
    // The adaptation field of the first packet and the header of the PES take room, and the last is filled up.
    ((payload + 40) / ROOM + 1) * PACKET
}

impl Pid {
    pub fn new(pid: u16) -> Self {
        Self { pid, counter: 0 }
    }

    pub fn pid(&self) -> u16 {
        self.pid
    }

    /// A whole PES, header included.
    pub fn pes(&mut self, pes: &[u8], first: Adaptation, out: &mut Vec<u8>) {
        let mut rest = pes;
        let mut adaptation = first;
        let mut starts = true;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(ROOM - adaptation.size()));
            let field = ROOM - now.len();
            let counter = self.next();
            self.header(starts, field > 0, true, counter, out);
            adaptation.write(field, out);
            out.extend_from_slice(now);
            rest = later;
            adaptation = Adaptation::default();
            starts = false;
        }
    }

    /// A packet with nothing but the clock; it does not count.
    pub fn clock(&mut self, adaptation: Adaptation, out: &mut Vec<u8>) {
        self.header(false, true, false, self.counter.wrapping_sub(1) & 0x0f, out);
        adaptation.write(ROOM, out);
    }

    /// A section of PSI; `body` is what lies between the section's head and its checksum.
    pub fn section(&mut self, (table, version): (u8, u8), id: u16, body: &[u8], out: &mut Vec<u8>) {
        let mut section = vec![table];
        section.extend((0xb000 | (body.len() + 9) as u16).to_be_bytes());
        section.extend(id.to_be_bytes());
        section.extend([0xc1 | (version & 0x1f) << 1, 0, 0]);
        section.extend_from_slice(body);
        let checksum = crc32(&section);
        section.extend(checksum.to_be_bytes());
        self.whole_section(&section, out);
    }

    /// A section that is complete.
    pub fn whole_section(&mut self, section: &[u8], out: &mut Vec<u8>) {
        for (n, part) in [&[0], section].concat().chunks(ROOM).enumerate() {
            let counter = self.next();
            self.header(n == 0, false, true, counter, out);
            out.extend_from_slice(part);
            out.resize(out.len() + ROOM - part.len(), 0xff);
        }
    }

    fn next(&mut self) -> u8 {
        let counter = self.counter;
        self.counter = (counter + 1) & 0x0f;
        counter
    }

    fn header(&self, starts: bool, adaptation: bool, payload: bool, counter: u8, out: &mut Vec<u8>) {
        let [high, low] = self.pid.to_be_bytes();
        let flags = u8::from(adaptation) << 5 | u8::from(payload) << 4 | counter;
        out.extend([0x47, u8::from(starts) << 6 | high, low, flags]);
    }
}

impl Adaptation {
    fn flags(self) -> u8 {
        u8::from(self.discontinuity) << 7 | u8::from(self.random_access) << 6 | u8::from(self.clock.is_some()) << 4
    }

    /// Bytes of the adaptation field with its length; 0 where it has nothing to say.
    fn size(self) -> usize {
        match (self.flags(), self.clock) {
            (0, _) => 0,
            (_, None) => 2,
            (_, Some(_)) => 8,
        }
    }

    /// Writes a field of `size` bytes, with its length and with stuffing after what it says.
    fn write(self, size: usize, out: &mut Vec<u8>) {
        let end = out.len() + size;
        if size > 0 {
            out.push(size as u8 - 1);
        }
        if size > 1 {
            out.push(self.flags());
        }
        if let Some(clock) = self.clock {
            let base = wrap(clock) << 15 | 0x7e00;
            out.extend_from_slice(base.to_be_bytes().get(2..).unwrap_or_default());
        }
        out.resize(end, 0xff);
    }
}

/// The header of a PES (2.4.3.6) without its length; stamps in ticks before the wrap.
pub fn pes_header(stream_id: u8, pts: i64, dts: i64, out: &mut Vec<u8>) {
    let stamps: &[(u8, i64)] = if dts == pts { &[(2, pts)] } else { &[(3, pts), (1, dts)] };
    let fields = stamps.len() * 5;
    out.extend([0, 0, 1, stream_id, 0, 0]);
    // data_alignment_indicator: an access unit begins here.
    out.extend([0x84, if stamps.len() == 1 { 0x80 } else { 0xc0 }, fields as u8]);
    for &(prefix, stamp) in stamps {
        let stamp = wrap(stamp);
        out.extend([
            prefix << 4 | ((stamp >> 29) as u8 & 0x0e) | 1,
            (stamp >> 22) as u8,
            (stamp >> 14) as u8 | 1,
            (stamp >> 7) as u8,
            (stamp << 1) as u8 | 1,
        ]);
    }
}

/// Tells a whole PES its length; it stays open where that does not fit, which only pictures come to.
pub fn set_pes_length(pes: &mut [u8]) {
    let length = u16::try_from(pes.len().saturating_sub(6)).unwrap_or(0);
    if let Some(field) = pes.get_mut(4..6) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// 33 bits.
fn wrap(ticks: i64) -> u64 {
    ticks.rem_euclid(1 << 33) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_payload_fills_whole_packets() {
        for adaptation in [
            Adaptation::default(),
            Adaptation { random_access: true, ..Adaptation::default() },
            Adaptation { clock: Some(5), discontinuity: true, random_access: true },
        ] {
            for length in 1..600 {
                let pes: Vec<u8> = (0..length).map(|n| n as u8 | 1).collect();
                let (mut pid, mut out) = (Pid::new(0x100), Vec::new());
                pid.pes(&pes, adaptation, &mut out);
                assert!(out.len() <= size(length), "size is an upper bound");
                let mut back = Vec::new();
                for (n, packet) in out.chunks(PACKET).enumerate() {
                    assert_eq!(packet.len(), PACKET);
                    assert_eq!(packet[3] & 0x0f, n as u8 & 0x0f);
                    let skip = if packet[3] & 0x20 != 0 { 1 + usize::from(packet[4]) } else { 0 };
                    back.extend_from_slice(&packet[4 + skip..]);
                }
                assert_eq!(back, pes);
            }
        }
    }

    #[test]
    fn a_clock_packet_repeats_the_counter() {
        let (mut pid, mut out) = (Pid::new(0x100), Vec::new());
        pid.pes(&[1; 300], Adaptation::default(), &mut out);
        pid.clock(Adaptation { clock: Some(90_000), ..Adaptation::default() }, &mut out);
        pid.pes(&[1; 10], Adaptation::default(), &mut out);
        let counters: Vec<u8> = out.chunks(PACKET).map(|packet| packet[3]).collect();
        assert_eq!(counters, [0x10, 0x31, 0x21, 0x32]);
    }
}
