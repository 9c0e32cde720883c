//! Where coded pictures begin and end in a video elementary stream: H.264 (ISO/IEC 14496-10 7.4.1.2.3), H.265
//! (23008-2 7.4.2.4.4), MPEG-2 (13818-2 6.1.1). The two fields of a frame count as one picture.

use std::ops::Range;

use h264_reader::nal::sps::{FrameMbsFlags, PicOrderCntType, SeqParameterSet};
use h264_reader::rbsp::{BitReader, decode_nal};
use memchr::memmem::{self, Finder};

use crate::media::{Ticks, VideoCodec};

const START_CODE: &[u8] = &[0, 0, 1];

/// One access unit's place in a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// From its first start code to the next picture's.
    pub bytes: Range<usize>,
    /// Which of [`Pictures::parts`] are in it.
    pub parts: Range<usize>,
    /// Whether there is a slice in it.
    pub coded: bool,
    /// One field of a frame, whose other field may still come.
    pub unpaired: bool,
    /// Where its second field begins.
    pub second: Option<usize>,
    pub order: Option<Order>,
}

/// A picture's place in the order of presentation: pic_order_cnt_lsb of H.264, temporal_reference of MPEG-2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    count: u32,
    /// It is counted modulo 2 to the power of this.
    bits: u32,
    /// What a frame counts.
    frame: u32,
    /// It is counted anew from here: an IDR picture, a group of pictures.
    anew: bool,
}

impl Order {
    /// By how many ticks this picture is presented after `other`, frames being of this length. None where the two are
    /// not counted together.
    pub fn after(self, other: Self, frame: Ticks) -> Option<Ticks> {
        if self.anew || (self.bits, self.frame) != (other.bits, other.frame) {
            return None;
        }
        let all = 1i64 << self.bits;
        let ahead = (i64::from(self.count) - i64::from(other.count)).rem_euclid(all);
        let signed = if ahead >= all / 2 { ahead - all } else { ahead };
        Some(Ticks(signed * frame.0 / i64::from(self.frame)))
    }

    /// By how many ticks it is presented after the first that is counted with it.
    pub fn since_first(self, frame: Ticks) -> Ticks {
        Ticks(i64::from(self.count) * frame.0 / i64::from(self.frame))
    }
}

/// What H.264 needs to know of its sequence to read a slice header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    frame_num_bits: u32,
    separate_planes: bool,
    /// There may be field pictures.
    fields: bool,
    /// Of pic_order_cnt_lsb; None where there is none.
    order_bits: Option<u32>,
}

/// The RBSP of a NAL unit. One that is hardly more than its header has none; h264-reader can't count that far down.
fn payload(nal: &[u8]) -> Option<std::borrow::Cow<'_, [u8]>> {
    if nal.len() > 2 { decode_nal(nal).ok() } else { None }
}

impl Sequence {
    /// None where the SPS is not readable.
    pub fn of(sps: &[u8]) -> Option<Self> {
        let rbsp = payload(sps)?;
        let sps = SeqParameterSet::from_bits(BitReader::new(&rbsp[..])).ok()?;
        Some(Self {
            frame_num_bits: u32::from(sps.log2_max_frame_num_minus4) + 4,
            separate_planes: sps.chroma_info.separate_colour_plane_flag,
            fields: matches!(sps.frame_mbs_flags, FrameMbsFlags::Fields { .. }),
            order_bits: match sps.pic_order_cnt {
                PicOrderCntType::TypeZero { log2_max_pic_order_cnt_lsb_minus4 } => {
                    Some(u32::from(log2_max_pic_order_cnt_lsb_minus4) + 4)
                }
                _ => None,
            },
        })
    }
}

/// Pictures, one after the other.
#[derive(Debug, Default)]
pub struct Pictures {
    pub list: Vec<Picture>,
    /// Of all of them: their NAL units, or the parts between start codes in MPEG-2, without the start codes.
    pub parts: Vec<Range<usize>>,
}

/// The pictures of a stream from the first that begins in it; what is before belongs to none. They take the place of
/// what is in `found`.
pub fn pictures(codec: VideoCodec, stream: &[u8], mut sequence: Option<Sequence>, found: &mut Pictures) {
    found.list.clear();
    found.parts.clear();
    let mut grouping = Grouping { found, current: None, headers: None, unpaired: None };
    let mut group_began = false;
    let mut parts = parts(codec, stream).peekable();
    while let Some(part) = parts.next() {
        let data = &stream[part.data.clone()];
        match role(codec, data) {
            Role::Leading => {
                if codec == VideoCodec::H264 && data.first().is_some_and(|first| first & 0x1f == 7) {
                    sequence = Sequence::of(data).or(sequence);
                }
                group_began |= codec == VideoCodec::Mpeg2;
                grouping.leading(&part);
            }
            Role::First => {
                let (field, order) = match (codec, sequence) {
                    (VideoCodec::H264, Some(sequence)) => h264_slice(data, sequence).unwrap_or_default(),
                    (VideoCodec::Mpeg2, _) => {
                        let next = parts.peek().and_then(|next| mpeg2_field(&stream[next.data.clone()]));
                        (next, mpeg2_order(data, std::mem::take(&mut group_began)))
                    }
                    _ => (None, None),
                };
                grouping.first(&part, field, order);
            }
            Role::Further => grouping.further(&part),
            Role::Rest => grouping.rest(&part),
        }
    }
    grouping.finish(stream.len());
}

/// Whether a picture begins at the first start code; false also where there is none within `stream`.
pub fn begins(codec: VideoCodec, stream: &[u8]) -> bool {
    let Some(at) = memmem::find(stream, START_CODE) else { return false };
    let leading_zeros = stream.iter().take(at).all(|&byte| byte == 0);
    leading_zeros && stream.get(at + 3..).is_some_and(|data| matches!(role(codec, data), Role::Leading | Role::First))
}

impl Picture {
    /// One of which no slice has come, and whose parts begin with this one.
    fn from(start: usize, part: usize) -> Self {
        Self { bytes: start..0, parts: part..part, coded: false, unpaired: false, second: None, order: None }
    }
}

/// What stands between two start codes.
struct Part {
    start_code: usize,
    data: Range<usize>,
}

fn parts(codec: VideoCodec, stream: &[u8]) -> impl Iterator<Item = Part> {
    let start_code = Finder::new(START_CODE);
    let after = move |from: usize| Some(from + start_code.find(stream.get(from..)?)?);
    let mut next = after(0);
    std::iter::from_fn(move || {
        let at = next?;
        next = after(at + 3);
        let data = &stream[at + 3..next.unwrap_or(stream.len())];
        // A NAL unit never ends in a zero byte; an MPEG-2 header may.
        let zeros = match codec {
            VideoCodec::Mpeg2 => 0,
            _ => data.iter().rev().take_while(|&&byte| byte == 0).count(),
        };
        Some(Part { start_code: at, data: at + 3..at + 3 + data.len() - zeros })
    })
}

enum Role {
    /// Begins a new picture where the one before has slices already.
    Leading,
    /// The first slice of a picture (MPEG-2: the picture header).
    First,
    Further,
    /// Goes with what it stands in.
    Rest,
}

fn role(codec: VideoCodec, data: &[u8]) -> Role {
    let byte = |n: usize| data.get(n).copied().unwrap_or(0);
    match codec {
        VideoCodec::H264 => match byte(0) & 0x1f {
            // first_mb_in_slice is 0 where the first bit of the slice header is set.
            1 | 2 | 5 if byte(1) & 0x80 != 0 => Role::First,
            1 | 2 | 5 => Role::Further,
            6..=9 | 14..=18 => Role::Leading,
            _ => Role::Rest,
        },
        VideoCodec::H265 => match byte(0) >> 1 & 0x3f {
            // first_slice_segment_in_pic_flag; pictures of further layers belong to that of the base layer.
            0..=31 if byte(0) & 1 == 0 && byte(1) & 0xf8 == 0 && byte(2) & 0x80 != 0 => Role::First,
            0..=31 => Role::Further,
            32..=35 | 39 | 41..=44 | 48..=55 => Role::Leading,
            _ => Role::Rest,
        },
        _ => match byte(0) {
            0x00 => Role::First,
            0x01..=0xaf => Role::Further,
            0xb3 | 0xb8 => Role::Leading,
            _ => Role::Rest,
        },
    }
}

/// A picture that is one field of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    bottom: bool,
    frame: u32,
}

struct Grouping<'a> {
    found: &'a mut Pictures,
    current: Option<Picture>,
    /// The part, by its index and start code, from which the next picture's headers may have begun.
    headers: Option<(usize, usize)>,
    /// The current picture's field, while its pair is missing.
    unpaired: Option<Field>,
}

impl Grouping<'_> {
    fn leading(&mut self, part: &Part) {
        let index = self.found.parts.len();
        if self.open(part).coded && self.headers.is_none() {
            self.headers = Some((index, part.start_code));
        }
    }

    fn first(&mut self, part: &Part, field: Option<Field>, order: Option<Order>) {
        let mut second = None;
        if self.current.as_ref().is_some_and(|current| current.coded) {
            let pair = match (self.unpaired.take(), field) {
                (Some(one), Some(two)) => one.frame == two.frame && one.bottom != two.bottom,
                _ => false,
            };
            if pair {
                second = Some(self.headers.map_or(part.start_code, |(_, at)| at));
            } else {
                self.split(part.start_code);
                self.unpaired = field;
            }
        } else {
            self.unpaired = field;
        }
        self.headers = None;
        let unpaired = self.unpaired.is_some();
        let current = self.open(part);
        current.coded = true;
        current.unpaired = unpaired;
        current.order = current.order.or(order);
        current.second = second;
    }

    fn further(&mut self, part: &Part) {
        self.headers = None;
        self.rest(part);
    }

    fn rest(&mut self, part: &Part) {
        if self.current.is_some() {
            self.found.parts.push(part.data.clone());
        }
    }

    /// Puts a part into the current picture, or else into one that begins with it.
    fn open(&mut self, part: &Part) -> &mut Picture {
        let index = self.found.parts.len();
        self.found.parts.push(part.data.clone());
        self.current.get_or_insert_with(|| Picture::from(part.start_code, index))
    }

    /// Ends the current picture where its successor's headers began, or else at `at`.
    fn split(&mut self, at: usize) {
        let all = self.found.parts.len();
        let (index, at) = self.headers.take().unwrap_or((all, at));
        self.end(index, at);
        self.current = (index < all).then(|| Picture::from(at, index));
    }

    /// The current picture has the parts before this one, and the bytes before `at`.
    fn end(&mut self, index: usize, at: usize) {
        if let Some(mut current) = self.current.take() {
            (current.parts.end, current.bytes.end) = (index, at);
            self.found.list.push(current);
        }
    }

    fn finish(mut self, end: usize) {
        if self.headers.is_some() {
            self.split(end);
        }
        self.end(self.found.parts.len(), end);
    }
}

/// Which field a picture is, if it is one, and its order: the slice header as far as pic_order_cnt_lsb (ISO/IEC 14496-10
/// 7.3.3).
fn h264_slice(nal: &[u8], sequence: Sequence) -> Option<(Option<Field>, Option<Order>)> {
    let idr = nal.first()? & 0x1f == 5;
    let rbsp = payload(nal.get(..32).unwrap_or(nal))?;
    let mut bits = Bits { data: &rbsp, at: 0 };
    for _first_mb_slice_type_pps in 0..3 {
        bits.exp_golomb()?;
    }
    if sequence.separate_planes {
        bits.read(2)?;
    }
    let frame = bits.read(sequence.frame_num_bits)?;
    let field = match sequence.fields && bits.read(1)? == 1 {
        true => Some(Field { bottom: bits.read(1)? == 1, frame }),
        false => None,
    };
    if idr {
        bits.exp_golomb()?; // idr_pic_id
    }
    let order = sequence.order_bits.and_then(|width| {
        let count = bits.read(width)?;
        Some(Order { count, bits: width, frame: 2, anew: idr })
    });
    Some((field, order))
}

/// temporal_reference, the first ten bits of a picture header (ISO/IEC 13818-2 6.2.3).
fn mpeg2_order(header: &[u8], group_began: bool) -> Option<Order> {
    let &[_, high, low] = header.first_chunk()?;
    let count = u32::from(high) << 2 | u32::from(low >> 6);
    Some(Order { count, bits: 10, frame: 1, anew: group_began })
}

/// None for a frame. picture_structure in the picture coding extension (ISO/IEC 13818-2 6.2.3.1).
fn mpeg2_field(extension: &[u8]) -> Option<Field> {
    let &[0xb5, id, _, structure] = extension.first_chunk()? else { return None };
    match (id >> 4, structure & 3) {
        (8, structure @ (1 | 2)) => Some(Field { bottom: structure == 2, frame: 0 }),
        _ => None,
    }
}

/// Exp-Golomb codes and plain numbers, for headers that are read no further than this.
pub struct Bits<'a> {
    pub data: &'a [u8],
    pub at: usize,
}

impl Bits<'_> {
    pub fn read(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.data.get(self.at / 8)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// ue(v) (ISO/IEC 14496-10 9.1), up to 2^31.
    pub fn exp_golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while self.read(1)? == 0 {
            zeros += 1;
            if zeros > 30 {
                return None;
            }
        }
        Some((1 << zeros) - 1 + self.read(zeros)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(nals: &[&[u8]]) -> Vec<u8> {
        nals.iter().flat_map(|nal| [&[0, 0, 0, 1], *nal].concat()).collect()
    }

    fn check(codec: VideoCodec, nals: &[&[u8]], sequence: Option<Sequence>, expect: &[usize]) {
        let stream = stream(nals);
        let mut found = Pictures::default();
        pictures(codec, &stream, sequence, &mut found);
        let counts: Vec<usize> = found.list.iter().map(|picture| picture.parts.len()).collect();
        assert_eq!(counts, expect, "parts of each picture");
        for pair in found.list.windows(2) {
            assert_eq!(pair[0].bytes.end, pair[1].bytes.start, "no byte between pictures");
            assert_eq!(pair[0].parts.end, pair[1].parts.start, "nor any part");
        }
    }

    const AUD: &[u8] = &[9, 0xf0];
    const SPS: &[u8] = &[0x67, 1];
    const PPS: &[u8] = &[0x68, 1];
    const SEI: &[u8] = &[6, 1];
    const IDR: &[u8] = &[0x65, 0x88];
    const FIRST: &[u8] = &[0x41, 0x9a];
    const FURTHER: &[u8] = &[0x41, 0x1a];

    #[test]
    fn h264_pictures() {
        let check = |nals: &[&[u8]], expect: &[usize]| check(VideoCodec::H264, nals, None, expect);
        check(&[AUD, SPS, PPS, SEI, IDR, AUD, FIRST, FURTHER, AUD, SEI, FIRST], &[5, 3, 3]);
        check(&[SPS, PPS, IDR, FIRST, FURTHER, SEI, FIRST], &[3, 2, 2]);
        check(&[FURTHER, FURTHER, AUD, FIRST], &[2]);
        check(&[IDR, SPS, PPS], &[1, 2]);
        check(&[], &[]);
    }

    #[test]
    fn h264_fields_of_a_frame_are_one_picture() {
        // first_mb 0, slice_type 5 (P), pps 0, frame_num of 4 bits, field_pic_flag, bottom_field_flag.
        let field = |frame: u32, bottom: u32| {
            let bits = 1 << 31 | 0b00110 << 26 | 1 << 25 | frame << 21 | 1 << 20 | bottom << 19;
            [&[0x41][..], &u32::to_be_bytes(bits)].concat()
        };
        let coding = Some(Sequence { frame_num_bits: 4, separate_planes: false, fields: true, order_bits: None });
        let (top, bottom, next_top) = (field(3, 0), field(3, 1), field(4, 0));
        check(VideoCodec::H264, &[AUD, &top, AUD, &bottom, AUD, &next_top], coding, &[4, 2]);
        check(VideoCodec::H264, &[AUD, &top, AUD, &top], coding, &[2, 2]);
        let waits = |nals: &[&[u8]]| {
            let mut found = Pictures::default();
            pictures(VideoCodec::H264, &stream(nals), coding, &mut found);
            found.list.last().map(|picture| (picture.unpaired, picture.second))
        };
        assert_eq!(waits(&[AUD, &top]), Some((true, None)));
        assert_eq!(
            waits(&[AUD, &top, AUD, &bottom]),
            Some((false, Some(6 + 9 + 1))),
            "the second begins at its delimiter"
        );
    }

    #[test]
    fn the_order_of_presentation() {
        let frame = Ticks(3600);
        let of = |count, anew| Order { count, bits: 4, frame: 2, anew };
        assert_eq!(of(6, false).after(of(2, false), frame), Some(Ticks(7200)));
        assert_eq!(of(2, false).after(of(6, false), frame), Some(Ticks(-7200)));
        assert_eq!(of(0, false).after(of(14, false), frame), Some(frame), "over the end of the count");
        assert_eq!(of(0, true).after(of(14, false), frame), None);
        let picture = [0x00, 0b0000_0000, 0b1100_1000, 0];
        assert_eq!(mpeg2_order(&picture, true).map(|order| order.since_first(frame)), Some(Ticks(3 * 3600)));
        // first_mb 0, slice_type 5, pps 0, frame_num of 4 bits 3, pic_order_cnt_lsb of 6 bits 10.
        let sequence = Sequence { frame_num_bits: 4, separate_planes: false, fields: false, order_bits: Some(6) };
        let slice = [&[0x41][..], &u32::to_be_bytes(1 << 31 | 0b00110 << 26 | 1 << 25 | 3 << 21 | 10 << 15)].concat();
        let expect = Order { count: 10, bits: 6, frame: 2, anew: false };
        assert_eq!(h264_slice(&slice, sequence), Some((None, Some(expect))));
    }

    #[test]
    fn h265_pictures() {
        let (vps, aud, idr, further, suffix) =
            (&[0x40, 1][..], &[0x46, 1], &[0x26, 1, 0x80], &[0x26, 1, 0], &[0x50, 1]);
        check(VideoCodec::H265, &[aud, vps, idr, further, suffix, aud, idr, idr], None, &[5, 2, 1]);
    }

    #[test]
    fn mpeg2_pictures() {
        let (sequence, gop, picture, slice) = (&[0xb3, 1][..], &[0xb8, 1], &[0x00, 1], &[0x01, 1]);
        let structure = |s: u8| [0xb5, 0x8f, 0xff, 0xfc | s, 0x80];
        let (top, bottom, frame) = (structure(1), structure(2), structure(3));
        check(
            VideoCodec::Mpeg2,
            &[
                sequence, gop, picture, &frame, slice, slice, picture, &top, slice, picture, &bottom, slice, gop,
                picture,
            ],
            None,
            &[6, 6, 2],
        );
    }

    #[test]
    fn where_a_picture_begins() {
        assert!(begins(VideoCodec::H264, &stream(&[AUD])));
        assert!(begins(VideoCodec::H264, &stream(&[FIRST])));
        assert!(!begins(VideoCodec::H264, &stream(&[FURTHER])));
        assert!(!begins(VideoCodec::H264, &[&[1], &stream(&[AUD])[..]].concat()));
        assert!(!begins(VideoCodec::H264, &[0, 0, 0]));
    }

    #[test]
    fn a_unit_that_is_hardly_more_than_its_header_tells_nothing() {
        for nal in [&[][..], &[0x67], &[0x67, 0x64], &[0x65, 0x88]] {
            assert!(Sequence::of(nal).is_none() && payload(nal).is_none(), "{nal:?}");
        }
    }
}
