//! What rides along, made by hand: splice sections, ID3 tags and KLV in transport streams, event message boxes in
//! fragmented MP4, captions in pictures. It shares no code with the service.

use std::collections::BTreeMap;

const PACKET: usize = 188;
const MAP_PID: u16 = 0x1000;
const VIDEO_PID: u16 = 0x100;

/// A stream that is added to a transport stream.
pub struct Stream {
    pub pid: u16,
    pub stream_type: u8,
    pub descriptors: &'static [u8],
    /// A section, or a PES; and the number of the picture before which it stands.
    pub units: Vec<(usize, Vec<u8>)>,
}

/// A transport stream of ffmpeg's with further streams in it. `programme`: descriptors of the programme.
pub fn with_streams(ts: &[u8], programme: &[u8], streams: &[Stream]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut counters: BTreeMap<u16, u8> = BTreeMap::new();
    let mut picture = 0;
    for packet in ts.chunks_exact(PACKET) {
        let (pid, starts) = (u16::from_be_bytes([packet[1] & 0x1f, packet[2]]), packet[1] & 0x40 != 0);
        if pid == MAP_PID && starts {
            out.extend(map_with(packet, programme, streams));
            continue;
        }
        if pid == VIDEO_PID && starts {
            for stream in streams {
                for (_, unit) in stream.units.iter().filter(|(at, _)| *at == picture) {
                    put(stream.pid, unit, counters.entry(stream.pid).or_default(), &mut out);
                }
            }
            picture += 1;
        }
        out.extend(packet);
    }
    out
}

/// ffmpeg's map, which fits a packet, with more in it.
fn map_with(packet: &[u8], programme: &[u8], streams: &[Stream]) -> Vec<u8> {
    let section = &packet[5..];
    let length = usize::from(u16::from_be_bytes([section[1] & 0x0f, section[2]]));
    let info = usize::from(u16::from_be_bytes([section[10] & 0x0f, section[11]]));
    let mut made = section[..10].to_vec();
    made.extend((0xf000 | (info + programme.len()) as u16).to_be_bytes());
    made.extend(&section[12..12 + info]);
    made.extend(programme);
    made.extend(&section[12 + info..3 + length - 4]);
    for stream in streams {
        made.push(stream.stream_type);
        made.extend((0xe000 | stream.pid).to_be_bytes());
        made.extend((0xf000 | stream.descriptors.len() as u16).to_be_bytes());
        made.extend(stream.descriptors);
    }
    let length = made.len() - 3 + 4;
    made[1..3].copy_from_slice(&(0xb000 | length as u16).to_be_bytes());
    made.extend(crc32(&made).to_be_bytes());
    let mut packet = packet[..5].to_vec();
    packet.extend(made);
    assert!(packet.len() <= PACKET, "the map fits a packet");
    packet.resize(PACKET, 0xff);
    packet
}

/// A unit in packets: a section behind a pointer, with stuffing behind it; a PES with an adaptation field in its last.
fn put(pid: u16, unit: &[u8], counter: &mut u8, out: &mut Vec<u8>) {
    let is_pes = unit.starts_with(&[0, 0, 1]);
    let payload = if is_pes { unit.to_vec() } else { [&[0], unit].concat() };
    for (n, part) in payload.chunks(184).enumerate() {
        let [high, low] = pid.to_be_bytes();
        let missing = 184 - part.len();
        let adaptation = is_pes && missing > 0;
        out.extend([0x47, u8::from(n == 0) << 6 | high, low, u8::from(adaptation) << 5 | 0x10 | *counter]);
        *counter = (*counter + 1) & 0x0f;
        if adaptation {
            out.push(missing as u8 - 1);
            let field = std::iter::once(0).chain(std::iter::repeat(0xff));
            out.extend(field.take(missing - 1));
        }
        out.extend(part);
        if !is_pes {
            out.extend(std::iter::repeat_n(0xff, missing));
        }
    }
}

/// The payloads of the PES on a PID.
pub fn pes_payloads(ts: &[u8], pid: u16) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> = Vec::new();
    for packet in ts.chunks_exact(PACKET).filter(|it| u16::from_be_bytes([it[1] & 0x1f, it[2]]) == pid) {
        let payload = &packet[if packet[3] & 0x20 != 0 { 5 + usize::from(packet[4]) } else { 4 }..];
        match found.last_mut().filter(|_| packet[1] & 0x40 == 0) {
            Some(pes) => pes.extend(payload),
            None => found.push(payload.to_vec()),
        }
    }
    found.iter().map(|pes| pes[9 + usize::from(pes[8])..].to_vec()).collect()
}

/// A PES of private_stream_1.
pub fn pes(pts: u64, payload: &[u8]) -> Vec<u8> {
    let mut pes = vec![0, 0, 1, 0xbd];
    pes.extend((8 + payload.len() as u16).to_be_bytes());
    pes.extend([0x84, 0x80, 5]);
    pes.extend([
        0x21 | (pts >> 29) as u8 & 0x0e,
        (pts >> 22) as u8,
        (pts >> 14) as u8 | 1,
        (pts >> 7) as u8,
        (pts << 1) as u8 | 1,
    ]);
    pes.extend(payload);
    pes
}

/// A splice_insert: out of the network at this time for so long.
pub fn splice_insert(event_id: u32, pts: u64, length: u64) -> Vec<u8> {
    splice_insert_of(event_id, pts, length, 0)
}

/// The same with a private descriptor, so that the section is longer by so many bytes and two for each 250.
pub fn splice_insert_of(event_id: u32, pts: u64, length: u64, padding: usize) -> Vec<u8> {
    let mut descriptors = Vec::new();
    for part in vec![0x55; padding].chunks(250) {
        descriptors.extend([0xf0, part.len() as u8]);
        descriptors.extend(part);
    }
    let mut command = event_id.to_be_bytes().to_vec();
    // Not called off; out of the network, the programme, with a duration, at a time.
    command.extend([0x7f, 0xef]);
    command.extend(&(0xfe_0000_0000 | pts).to_be_bytes()[3..]);
    command.extend(&(0xfe_0000_0000 | length).to_be_bytes()[3..]);
    command.extend([0, 1, 0, 0]);
    let mut section = vec![0xfc];
    section.extend((0x3000 | (11 + command.len() + 2 + descriptors.len() + 4) as u16).to_be_bytes());
    section.extend([0, 0, 0, 0, 0, 0, 0, 0xff, 0xf0, command.len() as u8, 5]);
    section.extend(command);
    section.extend((descriptors.len() as u16).to_be_bytes());
    section.extend(descriptors);
    section.extend(crc32(&section).to_be_bytes());
    section
}

/// The splice time of a splice_insert as made above, pts_adjustment added.
pub fn splice_time(section: &[u8]) -> u64 {
    assert_eq!(crc32(section), 0, "a right checksum");
    let five = |at: usize| section[at..at + 5].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    ((five(4) & 0x1_ffff_ffff) + (five(20) & 0x1_ffff_ffff)) % (1 << 33)
}

/// An ID3 tag with one text frame.
pub fn id3(text: &str) -> Vec<u8> {
    let mut frame = b"TIT2".to_vec();
    frame.extend((text.len() as u32 + 1).to_be_bytes());
    frame.extend([0, 0, 3]);
    frame.extend(text.as_bytes());
    let mut tag = b"ID3\x04\0\0\0\0\0".to_vec();
    tag.push(frame.len() as u8);
    tag.extend(frame);
    tag
}

/// CRC-32 of PSI, by the book.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        for bit in (0..8).rev() {
            let carry = crc >> 31 ^ u32::from(byte >> bit) & 1;
            crc <<= 1;
            if carry == 1 {
                crc ^= 0x04c1_1db7;
            }
        }
    }
    crc
}

/// An event message box: of version 0 where the time counts from the segment, of version 1 where it is a time.
pub fn emsg(version: u8, scheme: &str, (timescale, time): (u32, u32), id: u32, message: &[u8]) -> Vec<u8> {
    let texts = [scheme.as_bytes(), b"\0v\0"].concat();
    let mut body = vec![version, 0, 0, 0];
    if version == 0 {
        body.extend(&texts);
    }
    body.extend(timescale.to_be_bytes());
    if version == 1 {
        body.extend([0; 4]);
    }
    for number in [time, 90, id] {
        body.extend(number.to_be_bytes());
    }
    if version == 1 {
        body.extend(&texts);
    }
    body.extend(message);
    [&(8 + body.len() as u32).to_be_bytes()[..], b"emsg", &body].concat()
}

/// The top-level boxes of a file: type and body.
pub fn boxes(file: &[u8]) -> Vec<([u8; 4], &[u8])> {
    let (mut found, mut rest) = (Vec::new(), file);
    while rest.len() >= 8 {
        let size = u32::from_be_bytes(rest[..4].try_into().expect("four bytes")) as usize;
        found.push((rest[4..8].try_into().expect("four bytes"), &rest[8..size]));
        rest = &rest[size..];
    }
    found
}

/// A fragmented MP4 with these boxes before its `n`th fragment.
pub fn before_fragment(file: &[u8], n: usize, events: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut fragment = 0;
    for (kind, body) in boxes(file) {
        if &kind == b"moof" {
            if fragment == n {
                out.extend(events.concat());
            }
            fragment += 1;
        }
        out.extend((8 + body.len() as u32).to_be_bytes());
        out.extend(kind);
        out.extend(body);
    }
    out
}

/// A text as CEA-608 pop-on captions of the first channel, one byte pair for each picture, over and over: loaded,
/// shown, taken away.
pub fn captions(lines: &[&str]) -> Vec<[u8; 2]> {
    let mut pairs = Vec::new();
    for line in lines {
        // Resume caption loading, erase non-displayed memory, row 15.
        pairs.extend([[0x14, 0x20], [0x14, 0x20], [0x14, 0x2e], [0x14, 0x2e], [0x14, 0x70], [0x14, 0x70]]);
        let padded = if line.len() % 2 == 0 { (*line).to_owned() } else { format!("{line} ") };
        pairs.extend(padded.as_bytes().chunks(2).map(|pair| [pair[0], pair[1]]));
        // End of caption: what is loaded is shown.
        pairs.extend([[0x14, 0x2f], [0x14, 0x2f]]);
    }
    pairs.extend([[0x14, 0x2c], [0x14, 0x2c]]);
    pairs.iter().map(|pair| pair.map(|byte| byte | u8::from(byte.count_ones() % 2 == 0) << 7)).collect()
}

/// The `cc_data()` of ATSC A/53 with one pair of the first field, from `user_identifier` on.
pub fn cc_data(pair: [u8; 2]) -> Vec<u8> {
    let mut data = b"GA94\x03\xc1\xff\xfc".to_vec();
    data.extend(pair);
    data.push(0xff);
    data
}
