//! H.264, H.265 and MPEG-2 video: PES payload → one access unit for each picture, and the set-up.

use bytes::Bytes;

use super::elementary::{Found, Marks, Unit};
use super::picture::{Bits, FieldCoding, Picture, begins, pictures};
use crate::media::codec::{annexb, h264, h265, mpeg2};
use crate::media::{self, Error, Format, Sync, Ticks, VideoCodec};

/// Bytes of a PES's payload that tell whether a picture begins with it.
const HEAD: usize = 8;
/// Bytes of all parameter sets; what is more is not believed.
const SET_UP_MAX: usize = 64 << 10;
/// The length of a frame where nothing tells it: 25 frames a second.
const FRAME: i64 = 3600;
/// A buffer that has grown beyond this is given back when it is empty again.
const KEEP: usize = 4 << 20;

/// One video stream.
#[derive(Debug)]
pub struct Video {
    codec: VideoCodec,
    limit: usize,
    buffer: Vec<u8>,
    marks: Marks<Stamped>,
    /// Since the last loss, a PES with stamps has begun.
    live: bool,
    /// Where the newest PES with stamps begins, until it is known whether it begins with a picture.
    undecided: Option<usize>,
    /// Pictures are not looked for again in a shorter buffer than this.
    look_again: usize,
    last: Option<Stamped>,
    set_up: SetUp,
}

/// A PES's stamps, and where it begins in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamped {
    pts: Ticks,
    dts: Ticks,
    offset: u64,
}

impl Video {
    pub fn new(codec: VideoCodec, name: &str, limit: usize) -> Self {
        Self {
            codec,
            limit,
            buffer: Vec::new(),
            marks: Marks::default(),
            live: false,
            undecided: None,
            look_again: 0,
            last: None,
            set_up: SetUp::new(name),
        }
    }

    /// A PES without stamps goes on with the picture before.
    pub fn begin(&mut self, stamps: Option<(Ticks, Ticks)>, offset: u64, found: &mut Vec<Found>) {
        self.decide(found);
        if let Some((pts, dts)) = stamps {
            self.live = true;
            self.marks.put(self.buffer.len(), Stamped { pts, dts, offset });
            self.undecided = Some(self.buffer.len());
        }
    }

    pub fn data(&mut self, data: &[u8], found: &mut Vec<Found>) -> Result<(), Error> {
        if !self.live {
            return Ok(());
        }
        if self.buffer.len() + data.len() > self.limit {
            return Err(Error::OverLimit(format!("an access unit of more than {} bytes", self.limit)));
        }
        self.buffer.extend_from_slice(data);
        if self.undecided.is_some_and(|at| self.buffer.len() >= at + HEAD) {
            self.decide(found);
        }
        Ok(())
    }

    pub fn reset(&mut self) {
        self.buffer.clear();
        self.marks.clear();
        self.undecided = None;
        self.look_again = 0;
        self.live = false;
    }

    pub fn flush(&mut self, found: &mut Vec<Found>) {
        self.give(self.buffer.len(), false, found);
        self.reset();
    }

    /// Takes over a set-up that is known from elsewhere.
    pub fn know(&mut self, video: &media::Video) {
        self.set_up.know(self.codec, video);
    }

    pub fn offset(&self) -> Option<u64> {
        let in_force = self.last.map(|last| last.offset).filter(|_| !self.buffer.is_empty());
        in_force.or(self.marks.first().map(|mark| mark.offset))
    }

    pub fn buffered(&self) -> usize {
        self.buffer.len()
    }

    pub fn buffer(&self) -> &[u8] {
        &self.buffer
    }

    /// Gives what is whole now that the head of a new PES is here: all pictures before it where it begins with one,
    /// else all but the last, which goes on in it.
    fn decide(&mut self, found: &mut Vec<Found>) {
        let Some(at) = self.undecided.take() else { return };
        let aligned = self.buffer.get(at..).is_some_and(|head| begins(self.codec, head));
        if aligned {
            self.give(at, false, found);
        } else if self.buffer.len() >= self.look_again {
            let before = self.buffer.len();
            self.give(at, true, found);
            self.look_again = if self.buffer.len() == before { before * 2 } else { 0 };
        }
    }

    fn give(&mut self, end: usize, keep_last: bool, found: &mut Vec<Found>) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut done = pictures(self.codec, &buffer[..end], self.set_up.fields);
        let kept = if keep_last { done.pop() } else { None };
        for picture in &done {
            self.picture(&buffer, picture, found);
        }
        let gone = kept.map_or(end, |picture| picture.bytes.start);
        self.buffer = buffer;
        self.buffer.drain(..gone);
        self.marks.shift(gone);
        if self.buffer.capacity() > KEEP && self.buffer.len() < KEEP {
            self.buffer.shrink_to(KEEP);
        }
    }

    fn picture(&mut self, buffer: &[u8], picture: &Picture, found: &mut Vec<Found>) {
        let parts = || picture.parts.iter().filter_map(|part| buffer.get(part.clone())).filter(|part| !part.is_empty());
        let changed = match self.codec {
            VideoCodec::Mpeg2 => self.set_up.mpeg2(parts()),
            codec => self.set_up.parameter_sets(codec, parts()),
        };
        let mark = self.marks.take(picture.bytes.start);
        let stamped = mark.or_else(|| self.last.map(|last| self.after(last)));
        if let Some(format) = changed {
            found.push(Found::Format(format, stamped.map_or(u64::MAX, |stamped| stamped.offset)));
        }
        if !picture.coded {
            return;
        }
        let Some(stamped) = stamped else { return };
        self.last = Some(stamped);
        let Stamped { pts, dts, offset } = stamped;
        let data = match self.codec {
            VideoCodec::Mpeg2 => Bytes::copy_from_slice(&buffer[picture.bytes.clone()]),
            codec => annexb::to_length_prefixed(parts().filter(move |nal| kind(codec, nal) == Kind::Kept)),
        };
        let sync = match self.codec {
            VideoCodec::H264 => h264::sync(&data),
            VideoCodec::H265 => h265::sync(&data),
            VideoCodec::Mpeg2 => mpeg2::sync(&data),
            _ => Sync::No,
        };
        if self.set_up.readable && !data.is_empty() {
            found.push(Found::Unit(Unit { pts, dts, sync, offset, data }));
        }
    }

    /// The stamps of a picture that has none of its own: one frame later than the one before.
    fn after(&self, last: Stamped) -> Stamped {
        let frame = match self.set_up.frame_rate {
            Some((number, per)) if number > 0 && per > 0 => Ticks(i64::from(per) * 90_000 / i64::from(number)),
            _ => Ticks(FRAME),
        };
        Stamped { pts: last.pts + frame, dts: last.dts + frame, offset: last.offset }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Vps,
    Sps,
    Pps,
    /// Delimiters and filler: nothing that a unit is to hold.
    Dropped,
    Kept,
}

fn kind(codec: VideoCodec, nal: &[u8]) -> Kind {
    let head = nal.first().copied().unwrap_or(0);
    match (codec, if codec == VideoCodec::H264 { head & 0x1f } else { head >> 1 & 0x3f }) {
        (VideoCodec::H264, 7) | (VideoCodec::H265, 33) => Kind::Sps,
        (VideoCodec::H264, 8) | (VideoCodec::H265, 34) => Kind::Pps,
        (VideoCodec::H265, 32) => Kind::Vps,
        (VideoCodec::H264, 9 | 12) | (VideoCodec::H265, 35 | 38) => Kind::Dropped,
        _ => Kind::Kept,
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sets {
    vps: Vec<Bytes>,
    sps: Vec<Bytes>,
    pps: Vec<Bytes>,
}

/// The stream's set-up as far as it has been seen.
#[derive(Debug)]
struct SetUp {
    name: String,
    sets: Sets,
    /// MPEG-2: the sequence header and its extensions.
    sequence: Bytes,
    format: Option<Format>,
    /// Not found to be of a kind that is not read here.
    readable: bool,
    fields: Option<FieldCoding>,
    frame_rate: Option<(u32, u32)>,
}

impl SetUp {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            sets: Sets::default(),
            sequence: Bytes::new(),
            format: None,
            readable: true,
            fields: None,
            frame_rate: None,
        }
    }

    fn know(&mut self, codec: VideoCodec, video: &media::Video) {
        match codec {
            VideoCodec::H264 => {
                let Ok((sets, _)) = h264::ParameterSets::from_avcc(&video.config) else { return };
                self.fields = sets.sps.first().and_then(|sps| FieldCoding::of(sps));
                self.sets = Sets { vps: Vec::new(), sps: sets.sps, pps: sets.pps };
            }
            VideoCodec::H265 => {
                let Ok((sets, _)) = h265::ParameterSets::from_hvcc(&video.config) else { return };
                self.sets = Sets { vps: sets.vps, sps: sets.sps, pps: sets.pps };
            }
            _ => self.sequence = video.config.clone(),
        }
        self.frame_rate = video.frame_rate;
        self.format = Some(Format::Video(video.clone()));
    }

    /// The new format, where an access unit's parameter sets change it.
    fn parameter_sets<'a>(&mut self, codec: VideoCodec, nals: impl Iterator<Item = &'a [u8]>) -> Option<Format> {
        let mut sets = Sets::default();
        for nal in nals {
            let list = match kind(codec, nal) {
                Kind::Vps => &mut sets.vps,
                Kind::Sps => &mut sets.sps,
                Kind::Pps => &mut sets.pps,
                Kind::Dropped | Kind::Kept => continue,
            };
            if !list.iter().any(|known| known == nal) {
                list.push(Bytes::copy_from_slice(nal));
            }
        }
        let next = self.with(codec, sets)?;
        let Sets { vps, sps, pps } = next.clone();
        let whole = !sps.is_empty() && !pps.is_empty() && (codec == VideoCodec::H264 || !vps.is_empty());
        if !whole {
            self.sets = next;
            return None;
        }
        let fields = if codec == VideoCodec::H264 { sps.first().and_then(|sps| FieldCoding::of(sps)) } else { None };
        let video = match codec {
            VideoCodec::H264 => h264::ParameterSets { sps, pps }.video(),
            _ => h265::ParameterSets { vps, sps, pps }.video(),
        };
        let changed = self.believe(video)?;
        self.sets = next;
        self.fields = fields;
        changed
    }

    /// What is known with `sets` added; None where they say nothing new or too much.
    fn with(&self, codec: VideoCodec, sets: Sets) -> Option<Sets> {
        let mut next = self.sets.clone();
        if !sets.vps.is_empty() {
            next.vps = sets.vps;
        }
        if sets.sps.iter().any(|sps| !self.sets.sps.contains(sps)) {
            next.sps = sets.sps;
            if !sets.pps.is_empty() {
                next.pps.clear();
            }
        }
        for pps in sets.pps {
            match next.pps.iter_mut().find(|known| pps_id(codec, known) == pps_id(codec, &pps)) {
                Some(known) => *known = pps,
                None => next.pps.push(pps),
            }
        }
        let bytes: usize = [&next.vps, &next.sps, &next.pps].into_iter().flatten().map(Bytes::len).sum();
        (next != self.sets && bytes <= SET_UP_MAX).then_some(next)
    }

    fn mpeg2<'a>(&mut self, parts: impl Iterator<Item = &'a [u8]>) -> Option<Format> {
        // The extensions of a sequence: sequence, sequence display, sequence scalable.
        let header = parts
            .skip_while(|part| part.first() != Some(&0xb3))
            .take_while(|part| matches!(part.first_chunk(), Some([0xb3, _] | [0xb5, 0x10..=0x2f | 0x50..=0x5f])));
        let mut sequence = Vec::new();
        for part in header {
            if sequence.len() + part.len() > SET_UP_MAX {
                break;
            }
            sequence.extend_from_slice(&[0, 0, 1]);
            sequence.extend_from_slice(part);
        }
        if sequence.is_empty() || sequence == self.sequence {
            return None;
        }
        let changed = self.believe(mpeg2::video(&sequence))?;
        self.sequence = sequence.into();
        changed
    }

    /// None where the set-up is malformed: the one before stays. Else the new format, where it is another.
    fn believe(&mut self, video: Result<media::Video, Error>) -> Option<Option<Format>> {
        let format = match video {
            Ok(video) => {
                self.frame_rate = video.frame_rate;
                Format::Video(video)
            }
            Err(Error::BadMedia(_) | Error::Truncated(_)) => return None,
            Err(_) => Format::Other { kind: "video".into(), codec: self.name.clone() },
        };
        self.readable = matches!(format, Format::Video(_));
        if self.format.as_ref() == Some(&format) {
            return Some(None);
        }
        self.format = Some(format.clone());
        Some(Some(format))
    }
}

/// pic_parameter_set_id, the first thing behind the NAL header.
fn pps_id(codec: VideoCodec, nal: &[u8]) -> Option<u32> {
    let header = if codec == VideoCodec::H264 { 1 } else { 2 };
    Bits { data: nal.get(header..)?, at: 0 }.exp_golomb()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUD: &[u8] = &[0, 0, 0, 1, 9, 0xf0];

    /// Pictures of two slices each; the lengths differ, so that no two are alike.
    fn pictures(count: usize) -> Vec<Vec<u8>> {
        let slice = |first: bool, n: usize| {
            let mut nal = vec![0, 0, 1, 0x41, if first { 0x9a } else { 0x1a }];
            nal.extend(std::iter::repeat_n(n as u8 | 1, 20 + n));
            nal
        };
        (0..count).map(|n| [AUD, &slice(true, n), &slice(false, n)].concat()).collect()
    }

    /// What comes of PES packets that begin at these places of the stream, with these stamps.
    fn read(stream: &[u8], cuts: &[usize], stamps: &[Option<i64>]) -> Vec<(i64, usize)> {
        let mut video = Video::new(VideoCodec::H264, "0x1b", 1 << 20);
        let mut found = Vec::new();
        for (n, (from, stamp)) in cuts.iter().zip(stamps).enumerate() {
            video.begin(stamp.map(|stamp| (Ticks(stamp), Ticks(stamp))), 0, &mut found);
            let to = cuts.get(n + 1).copied().unwrap_or(stream.len());
            for packet in stream[*from..to].chunks(17) {
                video.data(packet, &mut found).expect("is in bounds");
            }
        }
        video.flush(&mut found);
        let unit = |found| if let Found::Unit(unit) = found { Some((unit.pts.0, unit.data.len())) } else { None };
        found.into_iter().filter_map(unit).collect()
    }

    fn check(cuts: impl Fn(&[usize]) -> Vec<usize>, stamps: &[Option<i64>], expect: &[i64]) {
        let pictures = pictures(expect.len());
        // A unit has no delimiter, and a length of four bytes before each slice in place of three of a start code.
        let lengths = pictures.iter().map(|picture| picture.len() - AUD.len() + 2);
        let expect: Vec<(i64, usize)> = expect.iter().copied().zip(lengths).collect();
        let starts: Vec<usize> = (0..pictures.len()).map(|n| pictures[..n].iter().map(Vec::len).sum()).collect();
        assert_eq!(read(&pictures.concat(), &cuts(&starts), stamps), expect);
    }

    #[test]
    fn a_picture_in_each_pes() {
        check(<[usize]>::to_vec, &[Some(1), Some(2), Some(3)], &[1, 2, 3]);
    }

    #[test]
    fn a_pes_without_stamps_goes_on_with_the_picture() {
        let cuts = |starts: &[usize]| vec![0, 30, starts[1], starts[1] + 40];
        check(cuts, &[Some(1), None, Some(2), None], &[1, 2]);
    }

    #[test]
    fn several_pictures_in_a_pes_follow_by_a_frame_each() {
        check(|starts| vec![0, starts[3]], &[Some(0), Some(50_000)], &[0, 3600, 7200, 50_000]);
    }

    #[test]
    fn pes_that_begin_inside_a_picture() {
        for inside in 1..40 {
            let cuts = |starts: &[usize]| vec![0, starts[1] - inside, starts[2] - inside];
            check(cuts, &[Some(1), Some(2), Some(3)], &[1, 2, 3]);
        }
    }

    #[test]
    fn after_a_loss_until_the_next_stamps() {
        let stream = pictures(2).concat();
        let (mut video, mut found) = (Video::new(VideoCodec::H264, "0x1b", 1 << 20), Vec::new());
        video.begin(Some((Ticks(1), Ticks(1))), 0, &mut found);
        video.data(&stream[..20], &mut found).expect("is in bounds");
        video.reset();
        video.data(&stream[20..], &mut found).expect("is in bounds");
        video.begin(None, 0, &mut found);
        video.data(&stream, &mut found).expect("is in bounds");
        video.flush(&mut found);
        assert_eq!(found, []);
    }

    #[test]
    fn parameter_sets() {
        let mut set_up = SetUp::new("0x1b");
        let sets = |sps: &[&'static [u8]], pps: &[&'static [u8]]| {
            let bytes = |list: &[&'static [u8]]| list.iter().map(|nal| Bytes::from_static(nal)).collect();
            Sets { vps: Vec::new(), sps: bytes(sps), pps: bytes(pps) }
        };
        let with = |set_up: &SetUp, new| set_up.with(VideoCodec::H264, new);
        set_up.sets = sets(&[&[0x67, 1]], &[&[0x68, 0x80, 1], &[0x68, 0x40, 1]]);
        assert_eq!(with(&set_up, sets(&[&[0x67, 1]], &[&[0x68, 0x80, 1]])), None, "the same again");
        let changed = sets(&[&[0x67, 1]], &[&[0x68, 0x80, 2], &[0x68, 0x40, 1]]);
        assert_eq!(with(&set_up, sets(&[], &[&[0x68, 0x80, 2]])), Some(changed), "one PPS changes, by its id");
        let new = sets(&[&[0x67, 2]], &[&[0x68, 0x80, 1]]);
        assert_eq!(with(&set_up, new.clone()), Some(new), "another sequence begins anew");
    }
}
