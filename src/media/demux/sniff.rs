//! Tells the container by its first bytes.

use super::Container;

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniff {
    Is(Container),
    /// Could still become one of them.
    NeedMore,
    Unknown,
}

/// Bytes after which there is nothing more to be learned.
pub const ENOUGH: usize = GARBAGE + RUN * 204 + 8;

/// How far into the input an MPEG-TS may start.
const GARBAGE: usize = 64 << 10;
/// Sync bytes in a row that make a transport stream.
const RUN: usize = 5;
/// Packet sizes (ISO/IEC 13818-1 2.4.3.2; with a 4-byte time stamp before, as in M2TS; with 16 bytes of parity after)
/// and where in them the sync byte is.
const PACKETS: [(usize, usize); 3] = [(188, 0), (192, 4), (204, 0)];

const EBML: [u8; 4] = [0x1a, 0x45, 0xdf, 0xa3];
/// Boxes that a file or a segment starts with (ISO/IEC 14496-12 4.3, 8.16, and QuickTime's).
const BOXES: [&[u8; 4]; 11] =
    [b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"sidx", b"emsg", b"pdin"];

/// Looks at the bytes so far, from the very first.
pub fn sniff(head: &[u8]) -> Sniff {
    let start = head.get(..4).unwrap_or(head);
    if EBML.starts_with(start) {
        return if start.len() == 4 { Sniff::Is(Container::Webm) } else { Sniff::NeedMore };
    }
    if is_box(head) {
        return Sniff::Is(Container::Mp4);
    }
    if is_transport_stream(head) {
        return Sniff::Is(Container::Ts);
    }
    if head.len() < ENOUGH { Sniff::NeedMore } else { Sniff::Unknown }
}

/// Looks at an input that has ended before [`sniff`] could tell: all of it.
pub fn sniff_whole(input: &[u8]) -> Option<Container> {
    let all_sync = |size: usize, at: usize| {
        let packets = input.len() / size;
        packets > 0 && (0..packets).all(|i| input.get(i * size + at) == Some(&0x47))
    };
    PACKETS.iter().any(|&(size, at)| all_sync(size, at)).then_some(Container::Ts)
}

fn is_box(head: &[u8]) -> bool {
    let Some((size, rest)) = head.split_first_chunk::<4>() else { return false };
    let size = u32::from_be_bytes(*size);
    let sized = size >= 8 || size <= 1;
    sized && rest.first_chunk::<4>().is_some_and(|kind| BOXES.contains(&kind))
}

fn is_transport_stream(head: &[u8]) -> bool {
    let run_at = |start: usize, size: usize| (0..RUN).all(|i| head.get(start + i * size) == Some(&0x47));
    let starts = 0..head.len().min(GARBAGE);
    starts.into_iter().filter(|&i| head.get(i) == Some(&0x47)).any(|start| match start {
        0 | 4 => PACKETS.iter().any(|&(size, _)| run_at(start, size)),
        _ => run_at(start, 188),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packets(size: usize, at: usize, count: usize) -> Vec<u8> {
        let mut packet = vec![0xff; size];
        packet[at] = 0x47;
        packet.repeat(count)
    }

    #[test]
    fn first_bytes() {
        assert_eq!(sniff(b"\0\0\0\x20ftypisom"), Sniff::Is(Container::Mp4));
        assert_eq!(sniff(b"\0\0\0\x01mdat"), Sniff::Is(Container::Mp4));
        assert_eq!(sniff(b"\0\0\0\x20fty"), Sniff::NeedMore);
        assert_eq!(sniff(&EBML), Sniff::Is(Container::Webm));
        assert_eq!(sniff(&EBML[..3]), Sniff::NeedMore);
        assert_eq!(sniff(b""), Sniff::NeedMore);
        assert_eq!(sniff(&vec![b'x'; ENOUGH]), Sniff::Unknown);
    }

    #[test]
    fn transport_streams() {
        for (size, at) in PACKETS {
            let stream = packets(size, at, RUN);
            assert_eq!(sniff(&stream), Sniff::Is(Container::Ts), "{size}");
            assert_eq!(sniff(&stream[..size * (RUN - 1)]), Sniff::NeedMore, "{size}");
        }
        let late = [vec![0x47; 3], vec![0; 1000], packets(188, 0, RUN)].concat();
        assert_eq!(sniff(&late), Sniff::Is(Container::Ts));
        let too_late = [vec![0; GARBAGE], packets(188, 0, 30)].concat();
        assert_eq!(sniff(&too_late), Sniff::Unknown);
    }

    #[test]
    fn short_transport_streams_are_told_at_their_end() {
        assert_eq!(sniff_whole(&packets(188, 0, 3)), Some(Container::Ts));
        assert_eq!(sniff_whole(&packets(192, 4, 2)), Some(Container::Ts));
        assert_eq!(sniff_whole(b""), None);
        assert_eq!(sniff_whole(&[0; 564]), None);
    }
}
