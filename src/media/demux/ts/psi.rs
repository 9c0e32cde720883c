//! Programme Specific Information (ISO/IEC 13818-1 2.4.4): sections, PAT, PMT, and what a stream type holds.

use smallvec::SmallVec;

use crate::media::{AudioCodec, DataKind, VideoCodec};

/// Bytes of a PAT or PMT section after its length field (2.4.4.4, 2.4.4.9).
const SECTION_MAX: usize = 1021;
/// Programmes of one multiplex that are looked at.
const PROGRAMMES_MAX: usize = 64;

pub const PAT: u8 = 0;
pub const PMT: u8 = 2;

/// Puts the sections of one PID together.
#[derive(Debug)]
pub struct Sections {
    /// Bytes of a section after its length field.
    most: usize,
    damaged: u64,
    buffer: Vec<u8>,
    /// In a section, or right behind one.
    started: bool,
}

impl Default for Sections {
    fn default() -> Self {
        Self::new(SECTION_MAX)
    }
}

impl Sections {
    /// `most`: bytes of a section after its length field, of which no longer ones are taken.
    pub fn new(most: usize) -> Self {
        Self { most, damaged: 0, buffer: Vec::new(), started: false }
    }

    /// Sections with a wrong checksum or length.
    pub fn damaged(&self) -> u64 {
        self.damaged
    }

    /// Takes a packet's payload; gives whole sections with a right checksum to `found`.
    pub fn push(&mut self, starts: bool, payload: &[u8], mut found: impl FnMut(&[u8])) {
        if !starts {
            if self.started {
                self.buffer.extend_from_slice(payload);
                self.take(&mut found);
            }
            return;
        }
        let Some((&pointer, payload)) = payload.split_first() else { return };
        let Some((before, after)) = payload.split_at_checked(usize::from(pointer)) else { return self.reset() };
        if self.started {
            self.buffer.extend_from_slice(before);
            self.take(&mut found);
        }
        self.buffer.clear();
        self.buffer.extend_from_slice(after);
        self.started = true;
        self.take(&mut found);
    }

    /// A packet is lost: what was begun is of no use.
    pub fn reset(&mut self) {
        self.buffer.clear();
        self.started = false;
    }

    fn take(&mut self, found: &mut impl FnMut(&[u8])) {
        while let Some(&[table, high, low]) = self.buffer.first_chunk() {
            let length = usize::from(u16::from_be_bytes([high & 0x0f, low]));
            if table == 0xff || length > self.most {
                self.damaged += u64::from(table != 0xff);
                return self.reset();
            }
            let Some(section) = self.buffer.get(..3 + length) else { return };
            // The checksum over a section with its checksum is 0.
            if crc32(section) == 0 {
                found(section);
            } else {
                self.damaged += 1;
            }
            self.buffer.drain(..3 + length);
        }
    }
}

/// CRC-32 of PSI (Annex A): polynomial 0x04C11DB7, from all ones, most significant bit first.
pub fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, &byte| {
        (0..8)
            .fold(crc ^ u32::from(byte) << 24, |crc, _| if crc >> 31 == 1 { crc << 1 ^ 0x04c1_1db7 } else { crc << 1 })
    })
}

/// The head that PAT and PMT sections share, and what is between it and the checksum.
struct Table<'a> {
    /// transport_stream_id or program_number.
    id: u16,
    version: u8,
    last_section: u8,
    body: &'a [u8],
}

impl<'a> Table<'a> {
    /// None for another table, and for one that is not in force yet.
    fn parse(section: &'a [u8], table: u8) -> Option<Self> {
        let (&[found, syntax, _, id_high, id_low, version, _, last_section], rest) = section.split_first_chunk()?;
        if found != table || syntax & 0x80 == 0 || version & 1 == 0 {
            return None;
        }
        let (body, _) = rest.split_last_chunk::<4>()?;
        Some(Self { id: u16::from_be_bytes([id_high, id_low]), version: version >> 1 & 0x1f, last_section, body })
    }
}

/// A programme of the multiplex, and the PID of its map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Programme {
    pub number: u16,
    pub map: u16,
}

/// The programmes of a multiplex, from one PAT section or several.
#[derive(Debug, Default)]
pub struct Association {
    version: Option<u8>,
    pub programmes: Vec<Programme>,
}

impl Association {
    /// Takes a section; false where it says nothing new.
    ///
    /// A PAT of one section is compared by content: joined files all have version 0.
    pub fn update(&mut self, section: &[u8]) -> bool {
        let Some(table) = Table::parse(section, PAT) else { return false };
        let mut programmes = SmallVec::<[Programme; 8]>::new();
        if table.last_section > 0 && self.version == Some(table.version) {
            programmes.extend_from_slice(&self.programmes);
        }
        for entry in table.body.as_chunks::<4>().0 {
            let number = u16::from_be_bytes([entry[0], entry[1]]);
            let map = pid(entry[2], entry[3]);
            let known = programmes.iter().any(|programme: &Programme| programme.number == number);
            if number != 0 && !known && programmes.len() < PROGRAMMES_MAX {
                programmes.push(Programme { number, map });
            }
        }
        self.version = Some(table.version);
        if programmes.is_empty() || programmes[..] == self.programmes[..] {
            return false;
        }
        self.programmes = programmes.into_vec();
        true
    }
}

/// One programme's elementary streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    pub number: u16,
    pub streams: Vec<Stream>,
}

/// An elementary stream as the PMT announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    pub pid: u16,
    pub language: Option<String>,
    pub content: Content,
    /// What the container calls it: its registration where it has one, else its type.
    pub name: String,
}

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Video(VideoCodec),
    Audio(AudioCodec),
    Data(Carried),
    /// AAC in LATM.
    Latm,
    /// Not read here.
    Other {
        kind: &'static str,
    },
}

/// Data that is handed on, and how its stream carries it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    Scte35Sections,
    Id3,
    /// Each PES is KLV.
    Klv,
    /// KLV in metadata access unit cells (ISO/IEC 13818-1 2.12.4).
    KlvCells,
}

impl Carried {
    pub fn kind(self) -> DataKind {
        match self {
            Self::Scte35Sections => DataKind::Scte35,
            Self::Id3 => DataKind::Id3,
            Self::Klv | Self::KlvCells => DataKind::Klv,
        }
    }
}

impl Map {
    /// None where the section is not a PMT in force or runs over its end.
    pub fn parse(section: &[u8]) -> Option<Self> {
        let table = Table::parse(section, PMT)?;
        let (&[_, _, high, low], rest) = table.body.split_first_chunk()?;
        let (programme, mut rest) = rest.split_at_checked(length(high, low))?;
        let programme = Descriptors::parse(programme);
        let mut streams: Vec<Stream> = Vec::new();
        while let Some((&[kind, pid_high, pid_low, high, low], after)) = rest.split_first_chunk() {
            let (descriptors, after) = after.split_at_checked(length(high, low))?;
            rest = after;
            let pid = pid(pid_high, pid_low);
            if streams.iter().any(|stream| stream.pid == pid) {
                continue;
            }
            let descriptors = Descriptors::parse(descriptors);
            let content = content(kind, &descriptors, &programme);
            let name = name(kind, &content, &descriptors);
            streams.push(Stream { pid, language: descriptors.language, content, name });
        }
        Some(Self { number: table.id, streams })
    }

    /// Whether there is anything in it that can be decoded.
    pub fn decodable(&self) -> bool {
        self.streams.iter().any(|stream| matches!(stream.content, Content::Video(_) | Content::Audio(_)))
    }
}

fn pid(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high & 0x1f, low])
}

fn length(high: u8, low: u8) -> usize {
    usize::from(u16::from_be_bytes([high & 0x0f, low]))
}

/// What of a descriptor loop (2.6) matters here.
#[derive(Debug, Default)]
struct Descriptors {
    registration: Option<[u8; 4]>,
    language: Option<String>,
    /// metadata_format_identifier of the metadata descriptor (2.6.60).
    metadata: Option<[u8; 4]>,
    /// Tags seen; the extension descriptor of DVB counts as 0x100 and its own tag.
    tags: Vec<u16>,
}

impl Descriptors {
    fn parse(mut bytes: &[u8]) -> Self {
        let mut found = Self::default();
        while let Some((&[tag, length], after)) = bytes.split_first_chunk() {
            let Some((data, after)) = after.split_at_checked(usize::from(length)) else { break };
            bytes = after;
            match (tag, data) {
                (0x05, [a, b, c, d, ..]) => found.registration = Some([*a, *b, *c, *d]),
                (0x0a, [a, b, c, ..]) if [a, b, c].iter().all(|letter| letter.is_ascii_alphabetic()) => {
                    found.language =
                        Some([a, b, c].map(|&letter| char::from(letter.to_ascii_lowercase())).iter().collect());
                }
                // metadata_application_format and metadata_format, each maybe with an identifier behind it.
                (0x26, [0xff, 0xff, _, _, _, _, 0xff, a, b, c, d, ..] | [_, _, 0xff, a, b, c, d, ..]) => {
                    found.metadata = Some([*a, *b, *c, *d]);
                }
                (0x7f, [extension, ..]) => found.tags.push(0x100 + u16::from(*extension)),
                _ => {}
            }
            found.tags.push(u16::from(tag));
        }
        found
    }

    fn has(&self, tag: u16) -> bool {
        self.tags.contains(&tag)
    }
}

/// Stream types of 2.4.4.10, of ATSC A/53, and what DVB (ETSI EN 300 468) and registrations make of private data.
fn content(stream_type: u8, own: &Descriptors, programme: &Descriptors) -> Content {
    let video = |codec| Content::Video(codec);
    let audio = |codec| Content::Audio(codec);
    let other = |kind| Content::Other { kind };
    match stream_type {
        0x02 => video(VideoCodec::Mpeg2),
        0x1b => video(VideoCodec::H264),
        0x24 => video(VideoCodec::H265),
        0x03 | 0x04 => audio(AudioCodec::Mp3),
        0x0f => audio(AudioCodec::Aac),
        0x11 => Content::Latm,
        0x81 => audio(AudioCodec::Ac3),
        0x87 => audio(AudioCodec::Eac3),
        0x06 => match own.registration.as_ref() {
            Some(b"HEVC") => video(VideoCodec::H265),
            Some(b"AC-3") => audio(AudioCodec::Ac3),
            Some(b"EAC3") => audio(AudioCodec::Eac3),
            Some(b"KLVA") => Content::Data(Carried::Klv),
            Some(b"ID3 ") => Content::Data(Carried::Id3),
            Some(b"AV01" | b"VP09" | b"VC-1" | b"drac") => other("video"),
            Some(b"Opus" | b"BSSD" | b"DTS1" | b"DTS2" | b"DTS3") => other("audio"),
            _ if own.has(0x6a) => audio(AudioCodec::Ac3),
            _ if own.has(0x7a) => audio(AudioCodec::Eac3),
            // Subtitles, teletext, VBI data; TTML.
            _ if own.has(0x59) || own.has(0x56) || own.has(0x46) || own.has(0x120) => other("text"),
            // DTS, AAC, AC-4.
            _ if own.has(0x7b) || own.has(0x7c) || own.has(0x115) => other("audio"),
            _ => other("data"),
        },
        0x15 => match own.metadata.as_ref().or(own.registration.as_ref()) {
            Some(b"ID3 ") => Content::Data(Carried::Id3),
            Some(b"KLVA") => Content::Data(Carried::KlvCells),
            _ => other("data"),
        },
        // Blu-ray: E-AC-3; LPCM, DTS, TrueHD; graphics.
        0x84 | 0xa1 if programme.registration == Some(*b"HDMV") => audio(AudioCodec::Eac3),
        0x80 | 0x82 | 0x83 | 0x85 | 0x86 | 0xa2 if programme.registration == Some(*b"HDMV") => other("audio"),
        0x90..=0x92 if programme.registration == Some(*b"HDMV") => other("text"),
        0x01 | 0x10 | 0x1e..=0x21 | 0x25..=0x29 | 0x32 | 0x33 | 0x42 | 0xd1 | 0xd2 | 0xd4 | 0xdb | 0xea => {
            other("video")
        }
        0x86 => Content::Data(Carried::Scte35Sections),
        0x1c | 0x2d | 0x2e | 0x82 | 0x8a | 0xc1 | 0xc2 | 0xcf => other("audio"),
        0x80 => other("video"),
        _ => other("data"),
    }
}

fn name(stream_type: u8, content: &Content, own: &Descriptors) -> String {
    match own.registration {
        _ if let Content::Data(carried) = content => carried.kind().name().to_owned(),
        Some(id) if id.iter().all(u8::is_ascii_graphic) => id.map(char::from).iter().collect(),
        _ => format!("0x{stream_type:02x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A section with its length and checksum.
    fn section(table: u8, id: u16, version: u8, body: &[u8]) -> Vec<u8> {
        let length = (body.len() + 9) as u16;
        let mut bytes = vec![table];
        bytes.extend((0xb000 | length).to_be_bytes());
        bytes.extend(id.to_be_bytes());
        bytes.extend([0xc1 | version << 1, 0, 0]);
        bytes.extend(body);
        bytes.extend(crc32(&bytes).to_be_bytes());
        bytes
    }

    fn streams(body: &[u8]) -> Option<Vec<Stream>> {
        Map::parse(&section(PMT, 1, 0, body)).map(|map| map.streams)
    }

    #[test]
    fn checksum_is_that_of_the_standard() {
        // CRC-32/MPEG-2, the check value of its catalogue entry.
        assert_eq!(crc32(b"123456789"), 0x0376_e6e7);
    }

    #[test]
    fn sections_over_several_packets() {
        let one = section(PAT, 1, 0, &[0, 1, 0xe1, 0x00].repeat(60));
        let two = section(PAT, 1, 1, &[0, 2, 0xe1, 0x00]);
        let mut found = Vec::new();
        let mut sections = Sections::default();
        let mut push = |starts, payload: &[u8]| sections.push(starts, payload, |section| found.push(section.to_vec()));
        push(false, &one[100..]);
        push(true, &[&[0], &one[..180]].concat());
        push(true, &[&[(one.len() - 180) as u8], &one[180..], &two, &[0xff; 20]].concat());
        push(false, &[0xff; 184]);
        assert_eq!(found, [one, two]);
    }

    #[test]
    fn damaged_sections_are_passed_over() {
        let good = section(PAT, 1, 0, &[0, 1, 0xe1, 0x00]);
        let mut bad = good.clone();
        bad[9] ^= 1;
        let mut count = 0;
        let mut sections = Sections::default();
        sections.push(true, &[&[0], &bad[..], &good[..]].concat(), |_| count += 1);
        sections.push(true, &[200, 1, 2, 3], |_| count += 1);
        sections.push(true, &[0, 0, 0xff, 0xff, 3], |_| count += 1);
        sections.push(true, &[], |_| count += 1);
        assert_eq!(count, 1);
    }

    #[test]
    fn programmes() {
        let mut association = Association::default();
        let network_and_two = [0, 0, 0xe0, 0x10, 0, 7, 0xf0, 0x00, 0, 8, 0xe1, 0x01];
        assert!(association.update(&section(PAT, 1, 0, &network_and_two)));
        assert_eq!(
            association.programmes,
            [Programme { number: 7, map: 0x1000 }, Programme { number: 8, map: 0x101 }],
            "programme 0 is the network's"
        );
        assert!(!association.update(&section(PAT, 1, 1, &network_and_two)), "the same again");
        assert!(association.update(&section(PAT, 1, 1, &[0, 9, 0xe1, 0x00])), "other content, same version");
    }

    #[test]
    fn streams_and_their_descriptors() {
        let body = [
            &[0xe1, 0x00, 0xf0, 0x00][..],
            &[0x1b, 0xe1, 0x00, 0xf0, 0x00],
            &[0x0f, 0xe1, 0x01, 0xf0, 0x06, 0x0a, 4, b'F', b'r', b'a', 0],
            &[0x06, 0xe1, 0x02, 0xf0, 0x06, 0x05, 4, b'E', b'A', b'C', b'3'],
            &[0x06, 0xe1, 0x03, 0xf0, 0x03, 0x6a, 1, 0],
            &[0x06, 0xe1, 0x04, 0xf0, 0x06, 0x05, 4, b'O', b'p', b'u', b's'],
            &[0x86, 0xe1, 0x05, 0xf0, 0x00],
            &[0x06, 0xe1, 0x06, 0xf0, 0x06, 0x05, 4, b'K', b'L', b'V', b'A'],
            &[
                0x15, 0xe1, 0x07, 0xf0, 0x0f, 0x26, 13, 0xff, 0xff, b'I', b'D', b'3', b' ', 0xff, b'I', b'D', b'3',
                b' ', 0, 0x0f,
            ],
            &[0x15, 0xe1, 0x08, 0xf0, 0x0b, 0x26, 9, 0x01, 0x00, 0xff, b'K', b'L', b'V', b'A', 0, 0x0f],
            &[0x0f, 0xe1, 0x00, 0xf0, 0x00],
        ]
        .concat();
        let found: Vec<_> = streams(&body)
            .expect("well-formed")
            .into_iter()
            .map(|stream| (stream.pid, stream.content, stream.name, stream.language))
            .collect();
        let expect = [
            (0x100, Content::Video(VideoCodec::H264), "0x1b".to_owned(), None),
            (0x101, Content::Audio(AudioCodec::Aac), "0x0f".to_owned(), Some("fra".to_owned())),
            (0x102, Content::Audio(AudioCodec::Eac3), "EAC3".to_owned(), None),
            (0x103, Content::Audio(AudioCodec::Ac3), "0x06".to_owned(), None),
            (0x104, Content::Other { kind: "audio" }, "Opus".to_owned(), None),
            (0x105, Content::Data(Carried::Scte35Sections), "scte35".to_owned(), None),
            (0x106, Content::Data(Carried::Klv), "klv".to_owned(), None),
            (0x107, Content::Data(Carried::Id3), "id3".to_owned(), None),
            (0x108, Content::Data(Carried::KlvCells), "klv".to_owned(), None),
        ];
        assert_eq!(found, expect, "a PID announced twice counts once");
    }

    #[test]
    fn maps_that_run_over_their_end() {
        assert_eq!(streams(&[0xe1, 0x00, 0xf0, 0x05]), None);
        assert_eq!(streams(&[0xe1, 0x00, 0xf0, 0x00, 0x1b, 0xe1, 0x00, 0xf0, 0x09]), None);
        assert_eq!(streams(&[]), None);
    }
}
