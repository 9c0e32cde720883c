//! Packetised elementary streams (ISO/IEC 13818-1 2.4.3.6): where each begins and ends, its time stamps.

/// The stamps of a PES header, 33 bits each, unrolled by nobody yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamps {
    pub pts: u64,
    pub dts: u64,
}

/// What one transport packet's payload means for its PES, in this order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Step<'a> {
    /// The PES of unbounded length that was open is whole.
    pub closed: bool,
    /// A PES begins, with these stamps.
    pub began: Option<Option<Stamps>>,
    /// Payload of the open PES.
    pub data: &'a [u8],
    /// With it, the PES has all its announced length.
    pub complete: bool,
}

#[derive(Debug, Default)]
enum State {
    /// Waiting for a packet that begins a PES.
    #[default]
    Idle,
    /// In a header that goes on in the next packet.
    Header,
    /// In the payload; how much of it is still to come, where the length is announced.
    Payload(Option<usize>),
}

/// Reads one PID's PES packets.
#[derive(Debug, Default)]
pub struct Reader {
    state: State,
    /// As much of a header as has come.
    header: Vec<u8>,
}

impl Reader {
    pub fn push<'a>(&mut self, starts: bool, payload: &'a [u8]) -> Step<'a> {
        let mut step = Step::default();
        if starts {
            step.closed = matches!(self.state, State::Payload(_));
            self.state = State::Header;
            self.header.clear();
        }
        match &mut self.state {
            State::Idle => {}
            State::Header => {
                let before = self.header.len();
                self.header.extend_from_slice(payload);
                match Header::parse(&self.header) {
                    Parsed::NeedMore => {}
                    Parsed::Not => self.state = State::Idle,
                    Parsed::Is(header) => {
                        step.began = Some(header.stamps);
                        self.state = State::Payload(header.remaining);
                        let data = payload.get(header.length.saturating_sub(before)..).unwrap_or_default();
                        self.payload(data, &mut step);
                    }
                }
            }
            State::Payload(_) => self.payload(payload, &mut step),
        }
        step
    }

    /// Whether a PES has begun and not ended.
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Idle)
    }

    /// A packet is lost: the PES in progress is damaged.
    pub fn reset(&mut self) {
        self.state = State::Idle;
    }

    /// No more packets will come; false where the open PES lacks some of its announced length.
    pub fn finish(&mut self) -> bool {
        !matches!(std::mem::take(&mut self.state), State::Payload(Some(_)))
    }

    fn payload<'a>(&mut self, data: &'a [u8], step: &mut Step<'a>) {
        let State::Payload(remaining) = &mut self.state else { return };
        step.data = data;
        if let Some(remaining) = remaining {
            step.data = data.get(..*remaining).unwrap_or(data);
            *remaining -= step.data.len();
            if *remaining == 0 {
                step.complete = true;
                self.state = State::Idle;
            }
        }
    }
}

struct Header {
    /// Bytes until the payload.
    length: usize,
    stamps: Option<Stamps>,
    remaining: Option<usize>,
}

enum Parsed {
    NeedMore,
    /// Not a PES, not one of an elementary stream, or a scrambled one.
    Not,
    Is(Header),
}

impl Header {
    fn parse(bytes: &[u8]) -> Parsed {
        let Some((&[0, 0, 1, stream, length_high, length_low], rest)) = bytes.split_first_chunk() else {
            return if bytes.len() < 6 { Parsed::NeedMore } else { Parsed::Not };
        };
        // Table 2-22: these have no optional header, and none of them is an elementary stream that is read here.
        if matches!(stream, 0..=0xbc | 0xbe | 0xbf | 0xf0..=0xf2 | 0xf8 | 0xff) {
            return Parsed::Not;
        }
        let Some((&[flags, present, header_length], fields)) = rest.split_first_chunk() else {
            return Parsed::NeedMore;
        };
        if flags & 0xc0 != 0x80 || flags & 0x30 != 0 {
            return Parsed::Not;
        }
        let Some(fields) = fields.get(..usize::from(header_length)) else { return Parsed::NeedMore };
        let pts = if present & 0x80 != 0 { fields.first_chunk().and_then(stamp) } else { None };
        let dts =
            if present & 0xc0 == 0xc0 { fields.get(5..).and_then(|f| f.first_chunk()).and_then(stamp) } else { None };
        let stamps = pts.map(|pts| Stamps { pts, dts: dts.unwrap_or(pts) });
        let announced = usize::from(u16::from_be_bytes([length_high, length_low]));
        let remaining = match announced {
            0 => None,
            announced => match announced.checked_sub(3 + fields.len()) {
                Some(remaining) => Some(remaining),
                None => return Parsed::Not,
            },
        };
        Parsed::Is(Self { length: 9 + fields.len(), stamps, remaining })
    }
}

/// 33 bits in five bytes, each part followed by a marker bit; None where a marker is missing.
fn stamp(bytes: &[u8; 5]) -> Option<u64> {
    let [a, b, c, d, e] = bytes.map(u64::from);
    if a & c & e & 1 == 0 {
        return None;
    }
    Some((a >> 1 & 7) << 30 | b << 22 | (c >> 1) << 15 | d << 7 | e >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMPS: Stamps = Stamps { pts: 0x1_2345_6789, dts: 0x1_2345_0000 };

    fn encode(prefix: u8, stamp: u64) -> [u8; 5] {
        [
            prefix << 4 | ((stamp >> 29) as u8 & 0x0e) | 1,
            (stamp >> 22) as u8,
            (stamp >> 14) as u8 | 1,
            (stamp >> 7) as u8,
            (stamp << 1) as u8 | 1,
        ]
    }

    fn pes(length: u16, data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 1, 0xe0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([0x80, 0xc0, 12]);
        bytes.extend(encode(3, STAMPS.pts));
        bytes.extend(encode(1, STAMPS.dts));
        bytes.extend([0xff, 0xff]);
        bytes.extend(data);
        bytes
    }

    #[test]
    fn unbounded_ends_where_the_next_begins() {
        let bytes = pes(0, b"abc");
        let mut reader = Reader::default();
        let step = reader.push(true, &bytes);
        assert_eq!(step, Step { closed: false, began: Some(Some(STAMPS)), data: b"abc", complete: false });
        assert_eq!(reader.push(false, b"def").data, b"def");
        assert!(reader.push(true, &bytes).closed);
        assert!(reader.finish());
    }

    #[test]
    fn bounded_ends_by_its_length() {
        let bytes = pes(15 + 5, b"abc");
        let mut reader = Reader::default();
        assert!(!reader.push(true, &bytes).complete);
        assert_eq!(reader.push(false, b"defgh"), Step { data: b"de", complete: true, ..Step::default() });
        assert_eq!(reader.push(false, b"more"), Step::default());
        reader.push(true, &bytes);
        assert!(!reader.finish(), "cut short");
    }

    #[test]
    fn header_over_several_packets() {
        let bytes = pes(0, b"abc");
        for cut in 1..bytes.len() - 3 {
            let mut reader = Reader::default();
            assert_eq!(reader.push(true, &bytes[..cut]), Step::default());
            let step = reader.push(false, &bytes[cut..]);
            assert_eq!((step.began, step.data), (Some(Some(STAMPS)), &b"abc"[..]), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_read() {
        let mut scrambled = pes(0, b"abc");
        scrambled[6] |= 0x20;
        let mut padding = pes(0, b"abc");
        padding[3] = 0xbe;
        let mut no_start_code = pes(0, b"abc");
        no_start_code[2] = 2;
        let too_short = pes(4, b"abc");
        for bytes in [scrambled, padding, no_start_code, too_short] {
            let mut reader = Reader::default();
            assert_eq!(reader.push(true, &bytes), Step::default());
            assert_eq!(reader.push(false, b"def"), Step::default());
        }
    }
}
