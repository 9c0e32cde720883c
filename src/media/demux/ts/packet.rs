//! Bytes → transport packets (ISO/IEC 13818-1 2.4.3.2): finds and keeps packet lock, reads packet headers.

use bytes::{Buf, Bytes};

/// Bytes of a transport packet.
pub const PACKET: usize = 188;
const SYNC_BYTE: u8 = 0x47;
/// Plain packets, packets after 4 bytes of time code (M2TS), packets before 16 bytes of error correction.
const STRIDES: [usize; 3] = [188, 192, 204];
/// Sync bytes that must lie at the same distance before a lock is believed.
const CONFIRM: usize = 3;

/// Cuts bytes into packets; loses lock and finds it again.
#[derive(Debug, Default)]
pub struct Framer {
    /// The start of a packet whose end has not come yet. Empty without lock.
    partial: Vec<u8>,
    input: Bytes,
    stride: Option<usize>,
    /// Bytes to pass over before the next packet: what a stride is longer than a packet.
    gap: usize,
    finished: bool,
    /// Bytes passed over in search of a lock since the last packet.
    lost: usize,
    /// Where in the input the last packet ended.
    end: u64,
    /// Bytes taken from the input.
    taken: u64,
}

impl Framer {
    pub fn push(&mut self, data: Bytes) {
        if self.input.is_empty() {
            self.input = data;
        } else {
            self.input = [&self.input[..], &data].concat().into();
        }
    }

    /// No more bytes will come: a lock is believed with less confirmation.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Bytes passed over since the last packet.
    pub fn lost(&self) -> usize {
        self.lost
    }

    /// The byte of the input at which the last packet begins.
    pub fn at(&self) -> u64 {
        self.end.saturating_sub(PACKET as u64)
    }

    /// Says where in the input the last packet begins: the input goes on elsewhere than where it was left.
    pub fn move_to(&mut self, at: u64) {
        let ahead = self.taken.saturating_sub(self.end);
        self.end = at.saturating_add(PACKET as u64);
        self.taken = self.end.saturating_add(ahead);
    }

    /// Copies the next whole packet into `packet`; false until more bytes come.
    pub fn packet(&mut self, packet: &mut [u8; PACKET]) -> bool {
        loop {
            let Some(stride) = self.stride else {
                if !self.lock() {
                    return false;
                }
                continue;
            };
            let gap = self.gap.min(self.input.len());
            self.take(gap);
            self.gap -= gap;
            let Some(&first) = self.partial.first().or(self.input.first()) else { return false };
            if first != SYNC_BYTE {
                self.stride = None;
                continue;
            }
            if !self.assemble(packet) {
                return false;
            }
            self.end = self.taken;
            self.gap = stride - PACKET;
            self.lost = 0;
            return true;
        }
    }

    fn assemble(&mut self, packet: &mut [u8; PACKET]) -> bool {
        let missing = PACKET - self.partial.len();
        let Some(rest) = self.input.get(..missing) else {
            self.partial.extend_from_slice(&self.input);
            self.take(self.input.len());
            return false;
        };
        let (start, end) = packet.split_at_mut(self.partial.len());
        start.copy_from_slice(&self.partial);
        end.copy_from_slice(rest);
        self.partial.clear();
        self.take(missing);
        true
    }

    fn take(&mut self, bytes: usize) {
        self.taken += bytes as u64;
        self.input.advance(bytes);
        if self.input.is_empty() {
            // An empty slice would keep all of the piece that it is of.
            self.input = Bytes::new();
        }
    }

    /// Looks for sync bytes at one of the strides; false when more bytes are needed.
    fn lock(&mut self) -> bool {
        let mut from = 0;
        while let Some(at) = self.input[from..].iter().position(|&byte| byte == SYNC_BYTE).map(|at| from + at) {
            let mut undecided = false;
            for stride in STRIDES {
                match self.confirmed(at, stride) {
                    Some(true) => {
                        self.skip(at);
                        self.stride = Some(stride);
                        self.gap = 0;
                        return true;
                    }
                    Some(false) => {}
                    None => undecided = true,
                }
            }
            if undecided {
                self.skip(at);
                return false;
            }
            from = at + 1;
        }
        self.skip(self.input.len());
        false
    }

    fn confirmed(&self, at: usize, stride: usize) -> Option<bool> {
        for n in 1..CONFIRM {
            match self.input.get(at + n * stride) {
                Some(&SYNC_BYTE) => {}
                Some(_) => return Some(false),
                None if self.finished => return Some(self.input.len() >= at + PACKET),
                None => return None,
            }
        }
        Some(true)
    }

    fn skip(&mut self, bytes: usize) {
        self.take(bytes);
        self.lost = self.lost.saturating_add(bytes);
    }
}

/// What a packet's header and adaptation field say.
#[derive(Debug)]
pub struct Packet<'a> {
    pub pid: u16,
    /// payload_unit_start_indicator.
    pub starts: bool,
    pub scrambled: bool,
    pub counter: u8,
    /// discontinuity_indicator: the counter may jump here without loss.
    pub discontinuity: bool,
    /// None for a packet with an adaptation field only.
    pub payload: Option<&'a [u8]>,
}

impl<'a> Packet<'a> {
    /// None for a packet that is damaged: transport_error_indicator set, a reserved or impossible header.
    pub fn parse(packet: &'a [u8]) -> Option<Self> {
        let (&[sync, high, low, flags], rest) = packet.split_first_chunk()?;
        if sync != SYNC_BYTE || high & 0x80 != 0 {
            return None;
        }
        let mut payload = rest;
        let mut discontinuity = false;
        if flags & 0x20 != 0 {
            let (&length, field) = rest.split_first()?;
            let (field, after) = field.split_at_checked(usize::from(length))?;
            discontinuity = field.first().is_some_and(|flags| flags & 0x80 != 0);
            payload = after;
        }
        Some(Self {
            pid: u16::from(high & 0x1f) << 8 | u16::from(low),
            starts: high & 0x40 != 0,
            scrambled: flags & 0xc0 != 0,
            counter: flags & 0x0f,
            discontinuity,
            payload: (flags & 0x10 != 0).then_some(payload),
        })
    }
}

/// What a PID's continuity_counter tells of a packet with payload (2.4.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Continuity {
    Next,
    /// The counter of the packet before: the same packet again, or exactly sixteen are gone.
    Repeated,
    Gap,
}

/// Follows one PID's continuity_counter.
#[derive(Debug, Default)]
pub struct Counter(Option<u8>);

impl Counter {
    /// Goes on after a packet with this counter.
    pub fn after(counter: Option<u8>) -> Self {
        Self(counter)
    }

    pub fn check(&mut self, packet: &Packet) -> Continuity {
        let before = self.0.replace(packet.counter);
        match before {
            Some(before) if packet.discontinuity || packet.counter == (before + 1) & 0x0f => Continuity::Next,
            Some(before) if packet.counter == before => Continuity::Repeated,
            Some(_) => Continuity::Gap,
            None => Continuity::Next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(count: usize, stride: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for n in 0..count {
            bytes.extend_from_slice(&[SYNC_BYTE, 0x01, n as u8, 0x10]);
            bytes.resize(n * stride + PACKET, 0xff);
            bytes.resize((n + 1) * stride, 0x00);
        }
        bytes
    }

    fn read(bytes: &[u8], chunk: usize) -> Vec<u16> {
        let (mut framer, mut packet) = (Framer::default(), [0; PACKET]);
        let mut pids = Vec::new();
        for chunk in bytes.chunks(chunk) {
            framer.push(Bytes::copy_from_slice(chunk));
            while framer.packet(&mut packet) {
                pids.push(Packet::parse(&packet).expect("made well-formed").pid);
            }
        }
        framer.finish();
        while framer.packet(&mut packet) {
            pids.push(Packet::parse(&packet).expect("made well-formed").pid);
        }
        pids
    }

    #[test]
    fn every_stride_in_any_chunking() {
        let expect: Vec<u16> = (0..6).map(|n| 0x100 + n).collect();
        for stride in STRIDES {
            for chunk in [1, 7, 187, 188, 189, 500, 5000] {
                assert_eq!(read(&packets(6, stride), chunk), expect, "stride {stride}, chunks of {chunk}");
            }
        }
    }

    #[test]
    fn one_packet_is_enough_at_the_end() {
        assert_eq!(read(&packets(1, 188), 50), [0x100]);
        assert_eq!(read(&packets(3, 188), 50), [0x100, 0x101, 0x102]);
        assert!(read(&packets(1, 188)[..187], 50).is_empty());
    }

    #[test]
    fn garbage_before_between_and_after() {
        let good = packets(8, 188);
        for garbage in [&b"\x00"[..], b"\x00\x47\x47", &[0x12; 1000]] {
            let bytes = [garbage, &good[..4 * 188], garbage, &good[4 * 188..], garbage].concat();
            let pids = read(&bytes, 100);
            for n in 0..8 {
                assert!(pids.contains(&(0x100 + n)), "packet {n} lost among {} bytes of garbage", garbage.len());
            }
        }
    }

    #[test]
    fn damaged_headers() {
        let mut packet = packets(1, 188);
        packet[1] |= 0x80;
        assert!(Packet::parse(&packet).is_none(), "transport_error_indicator");
        let mut packet = packets(1, 188);
        packet[3] = 0x30;
        packet[4] = 184;
        assert!(Packet::parse(&packet).is_none(), "adaptation field longer than the packet");
        packet[4] = 183;
        assert_eq!(Packet::parse(&packet).expect("fits").payload, Some(&[][..]));
    }

    #[test]
    fn counter() {
        let mut counter = Counter::default();
        let mut check = |n: u8, discontinuity| {
            let packet =
                Packet { pid: 1, starts: false, scrambled: false, counter: n, discontinuity, payload: Some(&[]) };
            counter.check(&packet)
        };
        assert_eq!(check(15, false), Continuity::Next);
        assert_eq!(check(0, false), Continuity::Next);
        assert_eq!(check(0, false), Continuity::Repeated);
        assert_eq!(check(2, false), Continuity::Gap);
        assert_eq!(check(9, true), Continuity::Next);
    }
}
