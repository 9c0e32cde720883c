//! Splice messages (SCTE 35): what of a `splice_info_section` a client wants to know at once.

use bytes::{BufMut, Bytes, BytesMut};

use crate::media::Ticks;
use crate::media::demux::ts::crc32;

/// table_id of a splice_info_section (9.6.1).
pub const TABLE: u8 = 0xfc;
/// Bytes of a section after its length field: section_length is at most 4093.
pub const SECTION_MAX: usize = 4093;

/// The essentials of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    pub command: Command,
    /// The time of the splice point, pts_adjustment added, 33 bits in ticks of 90 kHz; None where the section has none.
    pub pts: Option<u64>,
    /// At once, wherever the section stands (splice_immediate_flag, or a time_signal without a time).
    pub immediate: bool,
    /// splice_event_id of a splice_insert.
    pub event_id: Option<u32>,
    /// The event of this id is called off.
    pub cancel: bool,
    /// splice_insert: out of the network feed (true) or back to it.
    pub out_of_network: Option<bool>,
    /// break_duration of a splice_insert, ticks of 90 kHz.
    pub duration: Option<u64>,
    pub segmentations: Vec<Segmentation>,
}

/// A segmentation_descriptor (10.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    pub event_id: u32,
    pub cancel: bool,
    /// segmentation_type_id (table 23); None where the event is called off.
    pub type_id: Option<u8>,
    /// Ticks of 90 kHz.
    pub duration: Option<u64>,
}

/// splice_command_type (table 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Null,
    Schedule,
    Insert,
    TimeSignal,
    BandwidthReservation,
    Private,
    Other(u8),
    /// The section is encrypted: the command is not told.
    Encrypted,
}

impl Command {
    fn of(kind: u8) -> Self {
        match kind {
            0x00 => Self::Null,
            0x04 => Self::Schedule,
            0x05 => Self::Insert,
            0x06 => Self::TimeSignal,
            0x07 => Self::BandwidthReservation,
            0xff => Self::Private,
            other => Self::Other(other),
        }
    }

    /// The standard's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Null => "splice_null",
            Self::Schedule => "splice_schedule",
            Self::Insert => "splice_insert",
            Self::TimeSignal => "time_signal",
            Self::BandwidthReservation => "bandwidth_reservation",
            Self::Private => "private_command",
            Self::Other(_) => "reserved",
            Self::Encrypted => "encrypted",
        }
    }
}

/// Bytes up to and with splice_command_type.
const HEAD: usize = 14;
const PTS_MASK: u64 = (1 << 33) - 1;

impl Splice {
    /// None for another table, a wrong checksum, and a section that runs over its end.
    pub fn parse(section: &[u8]) -> Option<Self> {
        let section = whole(section)?;
        let adjustment = pts_adjustment(section)?;
        let mut splice = Self {
            command: Command::of(*section.get(HEAD - 1)?),
            pts: None,
            immediate: false,
            event_id: None,
            cancel: false,
            out_of_network: None,
            duration: None,
            segmentations: Vec::new(),
        };
        if section.get(4)? & 0x80 != 0 {
            splice.command = Command::Encrypted;
            return Some(splice);
        }
        let (body, _) = section.get(HEAD..)?.split_last_chunk::<4>()?;
        let (command, descriptors) = split(section, body, splice.command)?;
        let mut fields = Fields(command);
        match splice.command {
            Command::Insert => splice.insert(&mut fields)?,
            Command::TimeSignal => splice.time(fields.time()?),
            _ => {}
        }
        splice.pts = splice.pts.map(|pts| pts.wrapping_add(adjustment) & PTS_MASK);
        splice.segmentations = descriptors.map(segmentations).unwrap_or_default();
        Some(splice)
    }

    /// How long the break or the segment is to last, ticks of 90 kHz.
    pub fn length(&self) -> Option<Ticks> {
        let of_segmentation = || self.segmentations.iter().find_map(|segmentation| segmentation.duration);
        self.duration.or_else(of_segmentation).and_then(|length| i64::try_from(length).ok()).map(Ticks)
    }

    /// splice_insert() (9.7.3).
    fn insert(&mut self, fields: &mut Fields<'_>) -> Option<()> {
        self.event_id = Some(fields.u32()?);
        self.cancel = fields.u8()? & 0x80 != 0;
        if self.cancel {
            return Some(());
        }
        let flags = fields.u8()?;
        let (out, programme, has_duration, immediate) =
            (flags & 0x80 != 0, flags & 0x40 != 0, flags & 0x20 != 0, flags & 0x10 != 0);
        self.out_of_network = Some(out);
        match (programme, immediate) {
            (true, false) => self.time(fields.time()?),
            (true, true) => self.immediate = true,
            (false, _) => {
                self.immediate = immediate;
                for _ in 0..fields.u8()? {
                    fields.u8()?;
                    if !immediate {
                        let time = fields.time()?;
                        // Of several components, the first to be spliced.
                        self.pts = self.pts.or(time);
                    }
                }
            }
        }
        if has_duration {
            self.duration = Some(fields.five()? & PTS_MASK);
        }
        Some(())
    }

    fn time(&mut self, time: Option<u64>) {
        self.pts = time;
        self.immediate = time.is_none();
    }
}

/// The section so adjusted that its splice time is `pts`, 33 bits in ticks of 90 kHz; as it is where it has none.
pub fn retimed(section: &Bytes, pts: i64) -> Bytes {
    let splice = Splice::parse(section);
    let (Some(now), Some(before)) = (splice.and_then(|splice| splice.pts), pts_adjustment(section)) else {
        return section.clone();
    };
    let wanted = pts.rem_euclid(1 << 33) as u64;
    let adjustment = before.wrapping_add(wanted).wrapping_sub(now) & PTS_MASK;
    if adjustment == before {
        return section.clone();
    }
    let Some(section) = whole(section) else { return Bytes::copy_from_slice(section) };
    let mut out = BytesMut::from(section);
    let encryption = section.get(4).copied().unwrap_or(0) & 0xfe;
    let [_, _, _, high, low @ ..] = adjustment.to_be_bytes();
    out[4] = encryption | high;
    out[5..9].copy_from_slice(&low);
    out.truncate(section.len() - 4);
    let checksum = crc32(&out);
    out.put_u32(checksum);
    out.freeze()
}

/// The section by its own length, with a right checksum.
fn whole(section: &[u8]) -> Option<&[u8]> {
    let &[TABLE, high, low] = section.first_chunk()? else { return None };
    let length = usize::from(u16::from_be_bytes([high & 0x0f, low]));
    let section = section.get(..3 + length)?;
    // The checksum over a section with its checksum is 0.
    (length <= SECTION_MAX && section.len() >= HEAD + 4 && crc32(section) == 0).then_some(section)
}

fn pts_adjustment(section: &[u8]) -> Option<u64> {
    let mut fields = Fields(section.get(4..)?);
    fields.five().map(|five| five & PTS_MASK)
}

/// The command, and the descriptor loop behind it. A length of 0xfff is not told: old encoders leave it to the command.
fn split<'a>(section: &[u8], body: &'a [u8], command: Command) -> Option<(&'a [u8], Option<&'a [u8]>)> {
    let &[high, low] = section.get(11..13)?.first_chunk()?;
    let length = usize::from(u16::from_be_bytes([high & 0x0f, low]));
    let length = match (length, command) {
        (0xfff, Command::TimeSignal) => Some(if body.first()? & 0x80 != 0 { 5 } else { 1 }),
        (0xfff, Command::Null | Command::BandwidthReservation) => Some(0),
        (0xfff, _) => None,
        (length, _) => Some(length),
    };
    let Some(length) = length else { return Some((body, None)) };
    let (command, rest) = body.split_at_checked(length)?;
    let (&[high, low], rest) = rest.split_first_chunk()?;
    Some((command, rest.get(..usize::from(u16::from_be_bytes([high, low])))))
}

/// The segmentation descriptors of a loop (10.1), up to the first thing that does not fit.
fn segmentations(mut rest: &[u8]) -> Vec<Segmentation> {
    let mut found = Vec::new();
    while let Some((&[tag, length], after)) = rest.split_first_chunk() {
        let Some((body, after)) = after.split_at_checked(usize::from(length)) else { break };
        rest = after;
        if tag == 0x02
            && let Some(body) = body.strip_prefix(b"CUEI")
        {
            found.extend(segmentation(&mut Fields(body)));
        }
    }
    found
}

fn segmentation(fields: &mut Fields<'_>) -> Option<Segmentation> {
    let event_id = fields.u32()?;
    if fields.u8()? & 0x80 != 0 {
        return Some(Segmentation { event_id, cancel: true, type_id: None, duration: None });
    }
    let flags = fields.u8()?;
    if flags & 0x80 == 0 {
        let components = fields.u8()?;
        fields.take(usize::from(components) * 6)?;
    }
    let duration = if flags & 0x40 != 0 { Some(fields.five()?) } else { None };
    let (_upid_type, upid_length) = (fields.u8()?, fields.u8()?);
    fields.take(usize::from(upid_length))?;
    Some(Segmentation { event_id, cancel: false, type_id: Some(fields.u8()?), duration })
}

/// Fields from the front of bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn u32(&mut self) -> Option<u32> {
        self.take(4)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// 40 bits.
    fn five(&mut self) -> Option<u64> {
        Some(u64::from(self.u8()?) << 32 | u64::from(self.u32()?))
    }

    /// splice_time() (9.8.1): the field is there, and maybe a time in it.
    fn time(&mut self) -> Option<Option<u64>> {
        if self.0.first()? & 0x80 == 0 {
            self.u8()?;
            return Some(None);
        }
        Some(Some(self.five()? & PTS_MASK))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A section of this command and these descriptors.
    pub(crate) fn section(adjustment: u64, kind: u8, command: &[u8], descriptors: &[u8]) -> Vec<u8> {
        let mut section = vec![TABLE];
        let length = 11 + command.len() + 2 + descriptors.len() + 4;
        section.extend((0x3000 | length as u16).to_be_bytes());
        section.extend([0, (adjustment >> 32) as u8 & 1]);
        section.extend((adjustment as u32).to_be_bytes());
        section.push(0);
        section.extend([0xff, 0xf0 | (command.len() >> 8) as u8, command.len() as u8, kind]);
        section.extend(command);
        section.extend((descriptors.len() as u16).to_be_bytes());
        section.extend(descriptors);
        section.extend(crc32(&section).to_be_bytes());
        section
    }

    /// splice_time() with a time.
    pub(crate) fn time(pts: u64) -> [u8; 5] {
        let mut bytes = [0; 5];
        bytes.copy_from_slice(&(0xfe_0000_0000 | pts).to_be_bytes()[3..]);
        bytes
    }

    fn bytes(base64: &[u8]) -> Vec<u8> {
        let value = |byte: &u8| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let kept: Vec<u8> = base64.iter().filter(|byte| **byte != b'=').map(value).collect();
        let mut bytes = Vec::new();
        for four in kept.chunks(4) {
            let word = four.iter().fold(0u32, |word, six| word << 6 | u32::from(*six)) << (6 * (4 - four.len()));
            bytes.extend_from_slice(&word.to_be_bytes()[1..four.len()]);
        }
        bytes
    }

    #[test]
    fn the_standard_s_own_examples_are_read() {
        // SCTE 35 2020, 14.1 and 14.2.
        let signal = bytes(b"/DA0AAAAAAAA///wBQb+cr0AUAAeAhxDVUVJSAAAjn/PAAGlmbAICAAAAAAsoKGKNAIAmsnRfg==");
        let splice = Splice::parse(&signal).expect("well-formed");
        assert_eq!((splice.command, splice.pts), (Command::TimeSignal, Some(0x0_72bd_0050)));
        let provider_placement =
            Segmentation { event_id: 0x4800_008e, cancel: false, type_id: Some(0x34), duration: Some(27_630_000) };
        assert_eq!(splice.segmentations, [provider_placement]);
        let insert = bytes(b"/DAvAAAAAAAA///wFAVIAACPf+/+c2nALv4AUsz1AAAAAAAKAAhDVUVJAAABNWLbowo=");
        let splice = Splice::parse(&insert).expect("well-formed");
        assert_eq!((splice.command.name(), splice.pts), ("splice_insert", Some(0x0_7369_c02e)));
        assert_eq!((splice.event_id, splice.out_of_network), (Some(0x4800_008f), Some(true)));
        assert_eq!((splice.duration, splice.immediate, splice.cancel), (Some(0x52_ccf5), false, false));
    }

    #[test]
    fn the_adjustment_wraps_with_the_clock() {
        let insert = section(3000, 6, &time(PTS_MASK - 999), &[]);
        assert_eq!(Splice::parse(&insert).and_then(|splice| splice.pts), Some(2000));
    }

    #[test]
    fn what_is_at_once_and_what_is_called_off() {
        let at_once = Splice::parse(&section(0, 5, &[0, 0, 0, 7, 0x7f, 0xdf, 0, 1, 0, 0], &[])).expect("well-formed");
        assert_eq!((at_once.immediate, at_once.pts, at_once.event_id), (true, None, Some(7)));
        let no_time = Splice::parse(&section(0, 6, &[0x7f], &[])).expect("well-formed");
        assert!(no_time.immediate);
        let cancelled = Splice::parse(&section(0, 5, &[0, 0, 0, 7, 0xff], &[])).expect("well-formed");
        assert!(cancelled.cancel && !cancelled.immediate && cancelled.pts.is_none());
    }

    #[test]
    fn damage_is_refused() {
        let good = section(0, 6, &time(5), &[]);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            assert_eq!(Splice::parse(&bad), None, "byte {at}");
            assert_eq!(Splice::parse(&good[..at]), None, "{at} bytes");
        }
    }

    proptest! {
        #[test]
        fn a_section_is_moved_to_any_time(pts in 0u64..1 << 33, adjustment in 0u64..1 << 33, to in -(1i64 << 40)..1 << 40) {
            let moved = retimed(&Bytes::from(section(adjustment, 6, &time(pts), &[])), to);
            let splice = Splice::parse(&moved).expect("it has a right checksum");
            prop_assert_eq!(splice.pts, Some(to.rem_euclid(1 << 33) as u64));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(body in prop::collection::vec(any::<u8>(), 0..80), kind in 4u8..7) {
            let split = body.len() / 2;
            let (command, descriptors) = body.split_at(split);
            Splice::parse(&section(0, kind, command, descriptors));
            Splice::parse(&body);
        }
    }
}
